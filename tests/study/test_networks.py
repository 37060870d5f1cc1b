"""Profiles are checked; networks and scores are computed once."""

import dataclasses
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import yaml

from tism.study import networks, profiles, training
from tism.study.ch05_runs import score_run
from tism.study.machine import check_machine, variables
from tism.study.networks import Experiment, Series, committed_network, find_run
from tism.study.profiles import dataset_checksum, load_dataset, load_profile, profile_names
from tism.study.scores import scored_rows


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


def test_scored_rows_are_spread_over_the_test_set(smoke):
    data = load_dataset(smoke)
    test = data.indices("test")
    rows = scored_rows(data, 5)
    assert len(set(rows.tolist())) == 5
    assert rows[0] == test[0]
    assert rows[-1] == test[-1]
    assert len(scored_rows(data, 10**6)) == len(test)


# --- threads and kernels -----------------------------------------------------------------------

FIXED = {"threads": 1, "kernels": "avx2"}

TRAINING = """
import dataclasses, hashlib, sys
from tism.study.machine import start_as
start_as({"threads": 1, "kernels": "avx2"})
import numpy as np
from tism.study.networks import Experiment
from tism.study.profiles import load_profile
brief = {"simulated": {"max_epochs": 1, "fine_tune_rounds": 0, "warmup_epochs": 1}}
machine = {"threads": 1, "kernels": "avx2"}
profile = dataclasses.replace(load_profile("smoke"), machine=machine, training=brief)
model, _ = Experiment(profile, "simulated").trained(progress=False)
weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
used = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
print(hashlib.sha256(weights).hexdigest(), [name for name in used if "512" in name or "V4" in name])
"""


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="needs AVX2"
)
def test_fixed_kernels_win_over_those_of_the_environment(tmp_path):
    """A process that finds other kernels and more threads has the weights of one that need not."""
    program = tmp_path / "training.py"
    program.write_text(TRAINING)
    plain = {k: v for k, v in os.environ.items() if k not in variables(FIXED)}
    other = {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OMP_NUM_THREADS": "2",
    }
    digests = []
    for number, environment in enumerate([plain | variables(FIXED), plain | other]):
        environment |= {"TISM_DATA_DIR": str(tmp_path / str(number))}
        environment |= {"PYTHONPATH": str(profiles.repository())}
        done = subprocess.run(
            [sys.executable, program], env=environment, capture_output=True, text=True, check=True
        )
        digests.append(done.stdout)

    assert re.fullmatch(r"[0-9a-f]{64} \[\]", digests[0].strip())  # NumPy without AVX-512
    assert digests[0] == digests[1]


def test_another_machine_refuses_to_train_and_to_score(smoke, monkeypatch):
    for name in variables(FIXED):
        monkeypatch.delenv(name, raising=False)
    profile = dataclasses.replace(smoke, machine=FIXED)

    for compute in (
        lambda: Experiment(profile, "simulated").trained(progress=False),
        lambda: score_run(find_run(profile, "simulated_baseline_0")),
    ):
        with pytest.raises(RuntimeError, match=r"start Python with .*ATEN_CPU_CAPABILITY=avx2"):
            compute()


def test_variables_that_came_too_late_are_noticed(monkeypatch):
    other = {"threads": torch.get_num_threads() + 1, "kernels": "avx2"}
    for name, value in variables(other).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(RuntimeError, match="before Python starts"):
        check_machine(other)


@pytest.mark.parametrize("machine", [{"threads": 1}, {"threads": 1, "kernels": "neon"}])
def test_a_machine_that_cannot_be_fixed_is_refused(machine):
    with pytest.raises(ValueError, match=r"machine must have threads and kernels \(one of avx2\)"):
        check_machine(machine)


def test_the_machine_is_part_of_what_it_is_fixed_for_and_of_nothing_else(smoke):
    fixed = dataclasses.replace(smoke, machine=FIXED)
    plain, other = (Experiment(p, "simulated") for p in (smoke, fixed))

    assert "machine" not in plain.identity()
    assert other.identity() == {**plain.identity(), "machine": FIXED}
    keys = {find_run(p, "simulated_baseline_0").key for p in (smoke, fixed)}
    assert len(keys) == 2
    assert committed_network(plain).parent.name == "models"
    assert committed_network(other).parent.name == "smoke"


def test_chapters_load_the_networks_that_are_read_at_fixed_epochs():
    profile = load_profile("evidence")
    for name in ("yeast_baseline_2", "yeast_adamw_0", "simulated_relu_max_1"):
        network = find_run(profile, name).network
        own = Experiment(profile, network.dataset, network.variant, network.seed)
        assert own.training == network.training


def test_best_and_fixed_epochs_are_read_from_one_training(smoke):
    entry = {"experiment": "ablation", "dataset": "simulated", "epochs": [1, 2]}
    (both,) = Series(**entry, best=True).runs(smoke)
    (epochs,) = Series(**entry).runs(smoke)
    (best,) = Series("ablation", "simulated").runs(smoke)

    assert (both.name, epochs.name) == (best.name, f"{best.name}_epochs")
    assert (both.epochs, both.best) == ((1, 2), True)
    assert both.network.training == dataclasses.replace(best.network.training, snapshots=(1, 2))
    assert len({both.key, epochs.key, best.key}) == 3


def test_snapshots_are_trained_although_the_network_is_committed(smoke, tmp_path, monkeypatch):
    entry = {"experiment": "ablation", "dataset": "simulated", "epochs": [1], "best": True}
    (run,) = Series(**entry).runs(smoke)
    folder = profiles.work_folder("checkpoints") / run.network.name
    run.network.trained(progress=False)
    committed = tmp_path / "committed"
    for ending in (".safetensors", ".json"):
        (folder / f"model{ending}").rename(committed.with_suffix(ending))
    (folder / "epoch_1.json").unlink()
    monkeypatch.setattr(networks, "committed_network", lambda _: committed)

    run.network.trained(progress=False)
    assert not (folder / "model.json").exists()
    readings = [(reading, epoch) for reading, epoch, _ in run.networks()]

    assert readings[0] == ("epoch", 1)
    assert readings[1][0] == "best"
