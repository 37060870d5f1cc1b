"""Training, a chapter and all that `make gpu` measures, on a device that pretends to be a GPU."""

from __future__ import annotations

import json
from collections import Counter

import pandas as pd
import pytest
import torch
from pretend_gpu import DEVICE, PretendGPU

from tism import build_model
from tism.running import full_precision
from tism.study.ch06_methods import Job
from tism.study.gpu import FUNCTIONS, main, measure_all
from tism.study.profiles import repository
from tism.study.training import TrainingConfig, train

CONFIG = TrainingConfig(learning_rate=0.1, max_epochs=1, fine_tune_rounds=0, max_shift=6)


def trained(dataset, folder, batch_size, device):
    config = TrainingConfig(**{**vars(CONFIG), "batch_size": batch_size})
    model = build_model("no_dropout", length=24, n_tasks=4, width=4, seed=0)
    train(model, dataset, config, folder, device=device)
    return {name: t.cpu() for name, t in model.state_dict().items()}


def test_training_is_the_cpus_and_waits_once_an_epoch(tiny_dataset, tmp_path):
    waits: list[Counter] = []
    for batch_size in (8, 20):
        expected = trained(tiny_dataset, tmp_path / f"cpu {batch_size}", batch_size, "cpu")
        with PretendGPU() as gpu, full_precision(DEVICE):
            found = trained(tiny_dataset, tmp_path / f"there {batch_size}", batch_size, DEVICE)
        torch.testing.assert_close(found, expected)
        waits.append(gpu.waits)
    assert waits[0] == waits[1]  # 5 steps and 2
    assert waits[0]["_to_copy training._train_epoch"] == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_chapter_runs_there(tmp_path, monkeypatch):
    monkeypatch.setenv("TISM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TISM_RESULTS_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("TISM_DEVICE", str(DEVICE))
    monkeypatch.setattr("tism.study.plots.logos._Logo", lambda *args, **options: None)
    notebook = json.loads((repository() / "notebooks" / "01_taylor_to_ism.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    names: dict = {}
    with PretendGPU() as gpu:
        for source in cells:
            exec(source.replace('"yeast"', '"smoke"'), names)
    assert gpu.kernels["convolution_backward"] > 50  # it trained there
    assert names["gap"] <= 1e-12 * names["scale"]


def test_all_of_make_gpu_runs_there(tmp_path, monkeypatch):
    monkeypatch.setenv("TISM_DEVICE", str(DEVICE))
    monkeypatch.setattr("tism.study.gpu._BUDGET", 0.0)
    monkeypatch.setattr("tism.study.gpu._REPEATS", 1)
    monkeypatch.setattr("tism.study.ch06_methods._on_cuda", lambda: True)  # own batches only
    methods = ["ISM", "windowed ISM", "TISM, one task", "captum, one task", "Yuzu"]
    job = {"network": "shallow", "width": 4, "n_tasks": 2, "length": 48, "n_sequences": 3}
    with PretendGPU():
        measure_all(
            tmp_path,
            [{**job, "methods": methods}],
            Job("baseline", length=30, n_sequences=1, width=4, n_tasks=2),
            {"length": 512, "width": 8, "layers": 1},
        )
    agreement = pd.read_csv(tmp_path / "agreement.csv")
    assert list(agreement["function"]) == [name for name in FUNCTIONS for _ in range(2)]
    assert (agreement["difference"][~agreement["tf32"]] < 1e-4).all()
    assert (agreement["difference"][agreement["tf32"]] < 0.1).all()
    runtime = pd.read_csv(tmp_path / "runtime.csv")
    timed = runtime[runtime["setting"] == "best"]
    assert sorted(timed["method"]) == sorted(2 * methods[:-1])
    assert (timed["seconds"] > 0).all()
    assert (timed["error"] < 0.01).all()
    assert list(pd.read_csv(tmp_path / "gradient.csv")["tf32"]) == [False, True]
    assert json.loads((tmp_path / "provenance.json").read_text())["left_out"] == []


def test_jobs_that_time_leaves_out_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tism.study.gpu.LIMIT", -1.0)
    monkeypatch.setattr("tism.study.gpu.FUNCTIONS", {})
    enformer = {"length": 512, "width": 8, "layers": 1}
    job = {"network": "shallow", "length": 48, "n_sequences": 1}
    measure_all(tmp_path, [job], Job("shallow", 48, 1, width=4), enformer)
    left_out = json.loads((tmp_path / "provenance.json").read_text())["left_out"]
    assert [name.split(", ")[-1] for name in left_out] == ["TF32 off", "TF32 on"]
    assert not (tmp_path / "runtime.csv").exists()


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setenv("TISM_DEVICE", "cpu")
    with pytest.raises(SystemExit):
        main([])
    assert "no CUDA device here, only cpu" in capsys.readouterr().err
