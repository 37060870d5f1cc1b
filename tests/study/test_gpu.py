"""Training and a chapter on a device that pretends to be a GPU."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from pretend_gpu import DEVICE, PretendGPU

from tism import build_model
from tism.running import full_precision
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
    notebook = json.loads((repository() / "notebooks" / "01_taylor_to_ism.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    names: dict = {}
    with PretendGPU() as gpu:
        for source in cells:
            exec(source.replace('"yeast"', '"smoke"'), names)
    assert gpu.kernels["convolution_backward"] > 50  # it trained there
    assert names["gap"] <= 1e-12 * names["scale"]
