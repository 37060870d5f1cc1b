"""Profiles are checked; networks and scores are computed once."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import yaml

from tism.study import networks, profiles, scores, training
from tism.study.networks import Experiment
from tism.study.profiles import dataset_checksum, load_dataset, load_profile, profile_names
from tism.study.scores import score_regions, scored_rows


@pytest.fixture
def smoke(tmp_path, monkeypatch):
    monkeypatch.setenv("TISM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TISM_DEVICE", "cpu")
    return load_profile("smoke")


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_reads_and_builds_its_training(name):
    profile = load_profile(name)
    for dataset in profile.datasets:
        assert len(dataset_checksum(profile, dataset)) == 64
        for variant in ("baseline", "adamw"):
            assert Experiment(profile, dataset, variant).training.learning_rate > 0


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(ValueError, match=r"profile must be one of .*demo.*; got 'tiny'"):
        load_profile("tiny")


def test_unknown_key_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "book" / "profiles"
    folder.mkdir(parents=True)
    content = yaml.safe_load((profiles.repository() / "book/profiles/smoke.yml").read_text())
    (folder / "odd.yml").write_text(yaml.safe_dump({**content, "widht": 3}))
    monkeypatch.setattr(profiles, "repository", lambda: tmp_path)
    with pytest.raises(ValueError, match=r"odd.yml: unknown keys widht"):
        load_profile("odd")


def test_missing_section_is_refused():
    with pytest.raises(ValueError, match="training must have the keys simulated"):
        dataclasses.replace(load_profile("smoke"), training={})


def test_data_set_of_another_profile_is_refused(smoke):
    with pytest.raises(ValueError, match="has the data sets simulated; got 'yeast'"):
        load_dataset(smoke, "yeast")


def test_checksum_follows_settings_only_where_results_change(smoke):
    more = dataclasses.replace(smoke, data={"simulated": {**smoke.data["simulated"], "seed": 1}})
    longer = dataclasses.replace(smoke, regions=13)
    assert dataset_checksum(more, "simulated") != dataset_checksum(smoke, "simulated")
    assert dataset_checksum(longer, "simulated") == dataset_checksum(smoke, "simulated")


def test_a_network_is_trained_once(smoke, monkeypatch):
    one = Experiment(smoke, "simulated")
    model, metadata = one.trained(progress=False)
    assert metadata["epoch"] == len(metadata["log"])
    monkeypatch.setattr(training, "_Trainer", lambda *a, **k: pytest.fail("trained again"))
    again, _ = one.trained(progress=False)
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)
    other = Experiment(smoke, "simulated", seed=1)
    assert other.name != one.name


def test_those_that_ask_for_one_network_at_a_time_wait_for_each_other(smoke, monkeypatch):
    def train_alone(model, data, config, folder, **options):
        folder.mkdir(exist_ok=True)
        (folder / "busy").touch(exist_ok=False)
        time.sleep(0.05)
        (folder / "busy").unlink()
        return {"folder": folder}

    monkeypatch.setattr(networks, "train", train_alone)
    asked = [Experiment(smoke, "simulated", seed=7) for _ in range(3)]

    with ThreadPoolExecutor(3) as pool:
        folders = {metadata["folder"] for _, metadata in pool.map(Experiment.trained, asked)}

    assert folders == {profiles.work_folder("checkpoints") / asked[0].name}


def test_scores_are_computed_once_and_belong_to_the_weights(smoke, monkeypatch):
    data = load_dataset(smoke)
    rows = scored_rows(data, 3)
    model = Experiment(smoke, "simulated").untrained().eval()
    first = score_regions(model, data, rows, progress=False)
    assert first.ism.shape == (3, len(data.tasks), 4, data.length)
    assert first.tism.shape == first.ism.shape
    calls = []
    real = scores.ism
    monkeypatch.setattr(scores, "ism", lambda *a, **k: calls.append(1) or real(*a, **k))
    assert torch.equal(score_regions(model, data, rows, progress=False).ism, first.ism)
    assert not calls
    with torch.no_grad():
        model.head.bias += 1
    score_regions(model, data, rows, progress=False)
    assert calls


def test_scored_rows_are_spread_over_the_test_set(smoke):
    data = load_dataset(smoke)
    test = data.indices("test")
    rows = scored_rows(data, 5)
    assert len(set(rows.tolist())) == 5
    assert rows[0] == test[0]
    assert rows[-1] == test[-1]
    assert len(scored_rows(data, 10**6)) == len(test)
