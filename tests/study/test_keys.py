"""A key holds every setting and version that its result depends on, and nothing else.

What a setting of a profile, a version or the field of a dataclass is to each key stands in the
tables here: one that is new fails until it is listed or held.
"""

import dataclasses
import os
import time
from functools import partial
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tism import versions
from tism.model import AITAC, AITACConfig
from tism.score import files
from tism.score.readers import InputFileError
from tism.study import (
    ch06_measure,
    ch07_epistasis,
    ch07_networks,
    ch08_agreement,
    ch08_elements,
    explorer,
    networks,
    profiles,
    records,
    scores,
)
from tism.study.ch06_methods import Job
from tism.study.ch08_networks import CalderonCNN, ExternalModel
from tism.study.data.kircher import Locus
from tism.study.networks import Experiment, Run, Series, find_run
from tism.study.profiles import Profile, dataset_checksum, load_dataset, load_profile
from tism.study.training import TrainingConfig

NETWORK = {"data", "model", "training", "variants", "machine"}
RUN = {*NETWORK, "regions_a_model"}
CHAPTER = {*NETWORK, "datasets", "regions", "chapters"}
SCORED = {"DATA", "MODEL", "TRAINING", "SCORING"}
ESTIMATED = {*SCORED, "ESTIMATION"}


def of_chapter(name):
    return lambda profile: records.chapter_key(name, profile, tables=None)


PROFILE_KEYS = {  # function of a profile, its settings that are held, versions
    "data set": (lambda p: dataset_checksum(p, "simulated"), {"data"}, {"DATA"}),
    "network": (
        lambda p: profiles.digest(Experiment(p, "simulated").identity()),
        NETWORK,
        {"DATA", "MODEL", "TRAINING"},
    ),
    "run": (lambda p: find_run(p, "simulated_baseline_0").key, RUN, SCORED),
    "tables": (networks.tables_key, {*RUN, "experiments"}, SCORED),
    "explorer": (explorer.explorer_key, CHAPTER - {"chapters"}, ESTIMATED),
    "02": (of_chapter("02_data"), CHAPTER, SCORED),
    "04": (of_chapter("04_ism_vs_tism"), CHAPTER, SCORED),
    "05": (of_chapter("05_robustness"), {*CHAPTER, *RUN, "experiments"}, SCORED),
    "06": (of_chapter("06_runtime"), {"chapters"}, {"MODEL", "SPEED"}),
    "07": (of_chapter("07_beyond_first_order"), CHAPTER, ESTIMATED),
    "08": (of_chapter("08_measured_mutagenesis"), CHAPTER, ESTIMATED),
    "10": (of_chapter("10_scorecard"), {*CHAPTER, *RUN, "experiments"}, SCORED),
}


@pytest.fixture(scope="module")
def profile():
    smoke = load_profile("smoke")
    second = {part: {**getattr(smoke, part), "yeast": {}} for part in ("data", "model", "training")}
    return dataclasses.replace(smoke, datasets=["simulated", "yeast"], **second)


def changed_profiles(profile):
    """The profile with another value of each of its settings, by name."""
    part = {"data": {"seed": 1}, "model": {"width": 9}, "training": {"max_epochs": 3}}
    values = {
        "name": "another",
        "datasets": profile.datasets[::-1],
        "variants": {"baseline": {"patience": 3}},
        "regions": 7,
        "regions_a_model": 5,
        "experiments": profile.experiments[:1],
        "chapters": {name: {"of its own": 1} for name in records.chapters()},
        "machine": {"threads": 1, "kernels": "avx2"},
    }
    for name, change in part.items():
        before = getattr(profile, name)
        values[name] = {**before, "simulated": {**before["simulated"], **change}}
    assert values.keys() == {f.name for f in dataclasses.fields(Profile)}
    return {name: dataclasses.replace(profile, **{name: value}) for name, value in values.items()}


def versions_in(key, monkeypatch):
    """Names of the versions that change what `key()` returns."""
    before, held = key(), set()
    for name in filter(str.isupper, vars(versions)):
        with monkeypatch.context() as patch:
            patch.setattr(versions, name, getattr(versions, name) + 1)
            if key() != before:
                held.add(name)
    return held


@pytest.mark.parametrize("name", PROFILE_KEYS)
def test_keys_of_a_profile(profile, name, monkeypatch):
    key, settings, known = PROFILE_KEYS[name]
    before = key(profile)
    changed = {setting for setting, p in changed_profiles(profile).items() if key(p) != before}
    assert changed == settings
    assert versions_in(lambda: key(profile), monkeypatch) == known


@pytest.mark.parametrize("name", ["N_REGIONS", "N_TASKS", "SHOWN", "N_EXACT", "N_SHUFFLES"])
def test_the_key_of_the_explorer_holds_what_it_shows(profile, name, monkeypatch):
    key = explorer.explorer_key(profile)
    monkeypatch.setattr(explorer, name, ("another",))
    assert explorer.explorer_key(profile) != key


def test_every_chapter_is_like_one_in_the_table():
    like = {"01": "02", "03": "04", "09": "04"}
    numbers = {name[:2] for name in records.chapters()}
    assert numbers == like.keys() | {name for name in PROFILE_KEYS if name.isdigit()}


def _other(read, name, path):
    return f"{read(path)}{path.name == name}"


@pytest.mark.parametrize("name", sorted(records.FILES))
def test_a_chapter_depends_on_the_tables_that_it_reads(name, profile, monkeypatch, tmp_path):
    key = of_chapter(name)(profile)
    read = records._sha256
    for file in records.FILES[name]:
        with monkeypatch.context() as patch:
            patch.setattr(records, "_sha256", partial(_other, read, Path(file).name))
            assert of_chapter(name)(profile) != key


def test_a_chapter_depends_on_the_networks_that_it_takes_from_another_profile(monkeypatch):
    recorded, key = load_profile("yeast"), of_chapter("04_ism_vs_tism")
    before, other = key(recorded), load_profile("evidence")
    for change in ({"regions_a_model": 7}, {"machine": {}}):
        changed = dataclasses.replace(other, **change)
        monkeypatch.setattr(records, "load_profile", lambda name, p=changed: p)
        assert key(recorded) != before


@pytest.fixture
def own_files(tmp_path):
    """A profile with peaks of the user's own, and their file."""
    path = tmp_path / "peaks.txt"
    path.write_text("peak_1")
    data, empty = {"immgen": {"peaks": str(path)}}, {"immgen": {}}
    return Profile("own", ["immgen"], data=data, model=empty, training=empty), path


def replaced_with_its_old_date(path, text):
    other = path.with_name("other")
    other.write_text(text)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    os.replace(other, path)


def edited_with_its_old_date(path, text):
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("settled", [-(10**18), 10**18])  # digests remembered at once, or never
@pytest.mark.parametrize("change", [replaced_with_its_old_date, edited_with_its_old_date])
def test_a_users_files_count_by_their_contents(own_files, settled, change, monkeypatch):
    profile, path = own_files
    monkeypatch.setattr(files, "_SETTLED", settled)
    monkeypatch.setitem(profiles.DATASETS, "immgen", lambda peaks: Path(peaks).read_text())
    before = dataset_checksum(profile, "immgen")
    assert load_dataset(profile) == "peak_1"
    time.sleep(0.02)  # longer than a tick of the clock of files

    change(path, "peak_2")

    assert dataset_checksum(profile, "immgen") != before
    assert load_dataset(profile) == "peak_2"
    moved = path.rename(path.with_name("moved.txt"))
    moved.write_text("peak_1")
    elsewhere = dataclasses.replace(profile, data={"immgen": {"peaks": str(moved)}})
    assert dataset_checksum(elsewhere, "immgen") == before
    with pytest.raises(InputFileError, match=r"peaks.txt: No such file.*as peaks of the data"):
        dataset_checksum(profile, "immgen")


def test_a_users_file_is_read_once(own_files, monkeypatch):
    profile, _ = own_files
    monkeypatch.setattr(files, "_SETTLED", -(10**18))
    before = dataset_checksum(profile, "immgen")
    monkeypatch.setattr(files, "file_sha256", lambda p: pytest.fail(f"{p} is read again"))
    assert dataset_checksum(profile, "immgen") == before


def test_the_settings_that_name_files_are_known():
    arguments = [signature(load).parameters.values() for load in profiles.DATASETS.values()]
    named = {a.name for each in arguments for a in each if "Path" in str(a.annotation)}
    assert named == {*profiles.USER_FILES}


def another(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 or 0.5
    return {"sgd": "adamw", "gelu": "relu", "baseline": "deep", (): (1,)}[value]


def held_fields(key, thing, values=None):
    """Names of the fields of a dataclass that change what `key(thing)` returns."""
    found = set()
    for field in dataclasses.fields(thing):
        value = values[field.name] if values else another(getattr(thing, field.name))
        if key(dataclasses.replace(thing, **{field.name: value})) != key(thing):
            found.add(field.name)
    return found


def fields_of(cls, *irrelevant):
    return {field.name for field in dataclasses.fields(cls)} - {*irrelevant}


def test_keys_of_a_training(profile):
    network = Experiment(profile, "simulated")

    def key(config):
        settings = dataclasses.asdict(config)
        own = dataclasses.replace(network, seed=settings.pop("seed"), changes=settings)
        run = Run("run", (), "", (), True, own)
        return (own.name.split("_")[-1], run.key)

    config = network.training
    for part in (0, 1):
        assert held_fields(lambda c, p=part: key(c)[p], config) == fields_of(TrainingConfig)

    run = Run("run", ("epoch",), "", (1,), False, network)
    values = {"name": "other", "experiments": (), "control": "x", "epochs": (2,), "best": True}
    values["network"] = dataclasses.replace(network, variant="relu")
    labels = ("name", "experiments", "control")  # the name and the experiments are in `tables_key`
    assert held_fields(lambda r: r.key, run, values) == fields_of(Run, *labels)


def test_a_seed_is_that_of_training_and_initial_weights_at_once(profile):
    with pytest.raises(ValueError, match="changes has no setting of a training: seed"):
        Series("initialisation", "simulated", changes={"seed": 3})
    with pytest.raises(TypeError, match="seed"):
        _ = Experiment(profile, "simulated", changes={"seed": 3}).training


class Asked(Exception):
    """Carries the name under which the cache was asked."""


@pytest.fixture
def name_of(monkeypatch):
    """The name under which a call asks the cache first."""

    def ask(name, compute):
        raise Asked(name)

    modules = (ch06_measure, ch07_epistasis, ch07_networks, ch08_agreement, ch08_elements, scores)
    for module in modules:
        for function in {"cached_table", "cached_tensors"} & vars(module).keys():
            monkeypatch.setattr(module, function, ask)

    def name(call, *arguments, **options):
        with pytest.raises(Asked) as asked:
            call(*arguments, **options)
        return str(asked.value)

    return name


@pytest.fixture(scope="module")
def model():
    return AITAC(AITACConfig(length=24, n_tasks=2, width=4, n_blocks=1)).eval()


@pytest.fixture(scope="module")
def one_hot():
    return torch.eye(4)[torch.arange(24) % 4].T[None].contiguous()


def test_keys_of_scores(model, one_hot, name_of, monkeypatch):
    def scored(x=one_hot):
        dataset = SimpleNamespace(one_hot=lambda rows: x)
        return name_of(scores.score_regions, model, dataset, [0], progress=False)

    def key(config):
        monkeypatch.setattr(model, "config", config)
        return scored(one_hot)

    assert held_fields(key, model.config) == fields_of(AITACConfig)
    first, second = torch.zeros(1, 24, dtype=torch.long), torch.ones(1, 24, dtype=torch.long)
    calls = [
        scored,
        lambda x=one_hot, e=first, t=0: name_of(ch07_epistasis.kept_maps, model, x, e, [t]),
    ]
    for call in calls:
        assert versions_in(call, monkeypatch) == {"MODEL", "SCORING"}
        assert call(one_hot.flip(2)) != call()
    assert len({calls[1](), calls[1](t=1), calls[1](e=second)}) == 3
    assert scores.fingerprint(AITAC(model.config), one_hot) != scores.fingerprint(model, one_hot)


def test_keys_of_judged_networks(model, one_hot, name_of, monkeypatch):
    def key(network, name="depths", settings=None):
        return name_of(ch07_networks.kept, name, [network], list, settings)

    network = ch07_networks.JudgedNetwork("gelu", model, one_hot, np.array([3]), [[0]])
    values = {"kind": "relu", "one_hot": one_hot.flip(2), "loci": np.array([4]), "tasks": [[1]]}
    values |= {"seed": 1, "model": AITAC(model.config)}
    assert held_fields(key, network, values) == fields_of(ch07_networks.JudgedNetwork)
    assert len({key(network), key(network, "other"), key(network, settings=[25])}) == 3
    known = {"MODEL", "SCORING", "ESTIMATION"}
    assert versions_in(lambda: key(network), monkeypatch) == known


def test_keys_of_run_times(name_of, monkeypatch):
    def key(job, budget=1.0, repeats=2, methods=("ISM",)):
        group = {**dataclasses.asdict(job), "methods": list(methods)}
        return name_of(ch06_measure.measure, [group], budget=budget, repeats=repeats)

    job = Job("baseline", 60, 2)
    assert held_fields(key, job) == fields_of(Job)
    others = [key(job), key(job, budget=2.0), key(job, repeats=3), key(job, methods=["Yuzu"])]
    monkeypatch.setattr(ch06_measure, "_machine", lambda: ["another"])
    assert len({*others, key(job)}) == 5
    assert versions_in(lambda: key(job), monkeypatch) == {"MODEL", "SPEED"}


@pytest.fixture(scope="module")
def external():
    torch.manual_seed(0)
    return ExternalModel("calderon", CalderonCNN().eval(), 401, ("a", "b"))


def other_externals(external):
    """The published network with another value of each field, and with other settings of layers."""
    values = {"name": "deepstarr", "length": 400, "tasks": ("b", "a"), "model": CalderonCNN()}
    values["args"] = (torch.ones(1, 6),)
    assert values.keys() == fields_of(ExternalModel)
    yield from (dataclasses.replace(external, **{k: v}) for k, v in values.items())
    padded, relu, pooled = CalderonCNN(padding=0.0), CalderonCNN(), CalderonCNN()
    relu.activation, pooled.pool.size = torch.nn.ReLU(), 80
    for model in (padded, relu, pooled):
        model.load_state_dict(external.model.state_dict())
        yield dataclasses.replace(external, model=model)


def test_keys_of_external_networks(external, one_hot, name_of, monkeypatch):
    def compared(sequences, network=external):
        return name_of(ch08_agreement.sequence_correlations, network, sequences)

    def predicted(locus, network=external, method="ISM"):
        return name_of(ch08_elements._cached, network, locus, method, "effect", None)

    sequences = ch08_agreement.PaddedSequences(one_hot, 0, 24, np.array([0]), "here")
    values = {"one_hot": one_hot.flip(2), "start": 1, "stop": 23, "loci": np.array([1])}
    held = fields_of(ch08_agreement.PaddedSequences, "loci", "source")
    assert held_fields(compared, sequences, {**values, "source": "there"}) == held

    names = dict.fromkeys(("calderon", "deepstarr"), "a")
    text = dict.fromkeys(("name", "kind", "cells", "match", "chrom", "strand"), "x")
    rest = dict.fromkeys(("start", "end", "effect", "significant", "experiments"))
    locus = Locus(**text, **rest, sequence="ACGT", tasks=names)
    values = {**dict.fromkeys((*text, *rest), "y"), "sequence": "ACGA"}
    values["tasks"] = {**names, "calderon": "b"}
    assert held_fields(predicted, locus, values) == {"name", "sequence", "tasks"}

    for call in (lambda n=external: compared(sequences, n), lambda n=external: predicted(locus, n)):
        asked = [call(), *map(call, other_externals(external))]
        assert len({*asked}) == len(asked)
        assert versions_in(call, monkeypatch) == {"MODEL", "SCORING"}


def test_keys_of_predicted_effects(external, name_of, monkeypatch):
    locus = Locus(*"abcde", 1, 4, "+", "ACGT", *[None] * 3, tasks={"calderon": "a"})

    def key(method):
        return name_of(ch08_elements._cached, external, locus, method, "effect", None)

    methods = ("ISM", "budgeted ISM")
    before = {method: key(method) for method in methods}
    assert len({*before.values()}) == 2
    known = {"MODEL", "SCORING", "ESTIMATION"}
    assert versions_in(lambda: key("budgeted ISM"), monkeypatch) == known
    for constant in ("TILES", "N_SHUFFLES", "N_EXACT"):
        with monkeypatch.context() as patch:
            patch.setattr(ch08_elements, constant, 7)
            changed = [method for method in methods if key(method) != before[method]]
        assert changed == [*(methods[1:] if constant == "N_EXACT" else methods)]
