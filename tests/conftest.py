"""Small models, sequences and data that brute force can check; the built book and a browser."""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import Browser, missing
from torch import Tensor, nn

torch.set_num_threads(1)

LENGTH, N_TASKS = 20, 3
ROOT = Path(__file__).parents[1]
LONGEST = ("test_notebooks", "test_browser", "test_workflow", "test_zoo", "test_engine")
BOOK = ("_config.yml", "_toc.yml", "CITATION.cff", "book", "notebooks", "data", "tism")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options for looking at the book while it is changed."""
    parser.addoption("--site", metavar="FOLDER", help="test this built book and build none")
    parser.addoption("--screenshots", metavar="FOLDER", help="save a picture of every page")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that no worker is left with one of them at the end."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


def pytest_collection_finish() -> None:
    """What imports made stays: the garbage collector need not look at it before every timing."""
    gc.freeze()


class ResidualNet(nn.Module):
    """A residual, dilated network whose batch norm and dropout show if it is in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 6, 5, padding="same")
        self.norm = nn.BatchNorm1d(6)
        self.dilated = nn.Conv1d(6, 6, 3, dilation=3, padding="same")
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(6 * LENGTH, N_TASKS)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4, 20) to (n, 3)."""
        x = nn.functional.gelu(self.stem(x))
        x = x + self.dilated(torch.tanh(self.norm(x)))
        return self.head(self.dropout(x.flatten(1)))


@pytest.fixture
def net() -> ResidualNet:
    """A float64 `ResidualNet` in training mode whose batch norm is far from the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = ResidualNet().double()
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.2, 2)
        for parameter in net.parameters():
            parameter.data *= 2
    return net


def ready(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64; its batch norms are far from the identity, its weights large."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.3, 2, generator=generator)
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            module.weight.data.normal_(0, module.weight[0].numel() ** -0.5, generator=generator)
    return model.double()


def state(model: Any) -> dict[str, Any]:
    """All of a model and of the process that a call must not change; tensors by identity too."""
    found: dict[str, Any] = {
        "random": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "dtype": torch.get_default_dtype(),
    }
    if not isinstance(model, nn.Module):
        return found
    tensors = [*model.named_parameters(), *model.named_buffers()]
    gradients = [parameter.grad for parameter in model.parameters()]
    return found | {
        "training": [module.training for module in model.modules()],
        "tensors": [(name, id(t), t.data_ptr(), t.dtype, t.device.type) for name, t in tensors],
        "values": [t.tolist() for _, t in tensors],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [None if g is None else (id(g), g.dtype, g.tolist()) for g in gradients],
        "hooks": [
            list(hooks)
            for module in model.modules()
            for name, hooks in vars(module).items()
            if name.endswith("hooks")
        ],
    }


@pytest.fixture
def linear() -> nn.Sequential:
    """A float64 model linear in its input: (n, 4, 20) to (n, 3)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return nn.Sequential(nn.Flatten(), nn.Linear(4 * LENGTH, N_TASKS)).double()


@pytest.fixture
def bases() -> Tensor:
    """(5, 4, 20) float64 one-hot sequences without N."""
    generator = torch.Generator().manual_seed(3)
    index = torch.randint(4, (5, LENGTH), generator=generator)
    return nn.functional.one_hot(index, 4).transpose(1, 2).double()


@pytest.fixture
def sequences(bases: Tensor) -> Tensor:
    """`bases` with 4 columns of N: two in the first sequence, two in the fourth, ends included."""
    bases[0, :, [0, 7]] = 0
    bases[3, :, [8, LENGTH - 1]] = 0
    return bases


@pytest.fixture(scope="session")
def tiny_dataset():
    """40 training, 12 validation and 4 test regions of 24 bp with flanks of 6 bp, 4 tasks.

    Task t is the number of bases t in the region, so that there is something to learn. All tests
    share it; a test that changes it takes `dataset`.
    """
    import pandas as pd

    from tism.study.data.dataset import Dataset, standardisation

    n, length, flank = 56, 24, 6
    rng = np.random.default_rng(4)
    sequences = rng.integers(0, 4, (n, length + 2 * flank)).astype(np.uint8)
    inner = sequences[:, flank:-flank]
    targets = np.stack([(inner == base).sum(1) for base in range(4)], axis=1)
    targets = (targets + rng.normal(0, 0.5, targets.shape)).astype(np.float32)
    split = np.repeat(["train", "validation", "test"], [40, 12, 4])
    start = 1000 * np.arange(n)
    regions = pd.DataFrame(
        {
            "name": [f"region_{i}" for i in range(n)],
            "chrom": "chr1",
            "start": start,
            "end": start + length,
            "locus": np.arange(n),
            "split": split,
        }
    )
    center, scale = standardisation(targets, np.arange(40))
    tasks = ["A", "C", "G", "T"]
    return Dataset("tiny", sequences, targets, tasks, regions, flank, center, scale, notes={})


@pytest.fixture
def dataset(tiny_dataset):
    """A copy of `tiny_dataset`."""
    return deepcopy(tiny_dataset)


def pytest_sessionfinish(session, exitstatus):
    """Keep the counts of a nightly run of the fuzz tests in which nothing failed."""
    if os.environ.get("TISM_FUZZ") == "nightly" and exitstatus == 0:
        import fuzzing

        fuzzing.write_counts()


def committed_files() -> list[Path]:
    """The book's sources as a clone has them, and new files that are not committed yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *BOOK]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [Path(name) for name in names.split("\0") if name and (ROOT / name).is_file()]


def build_book(folder: Path) -> None:
    """Build the book of the committed record in a new folder; a warning is an error."""
    source, output = folder / "source", folder / "output"
    for name in committed_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    build = ["build", ".", "--path-output", str(output), "--all", "-W", "-n", "--keep-going"]
    run = subprocess.run(
        [Path(sysconfig.get_path("scripts")) / "jupyter-book", *build],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    complaints = [line for line in run.stderr.splitlines() if re.search("WARNING|ERROR", line)]
    assert run.returncode == 0, "\n".join(complaints or [run.stderr[-3000:]])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The folder of the built book; the first worker that needs it builds it for all."""
    from filelock import FileLock

    if built := request.config.getoption("site"):
        return Path(built).resolve()
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "book"
    with FileLock(shared / "book.lock"):
        if not folder.exists():
            unfinished = tmp_path_factory.mktemp("book")
            build_book(unfinished)
            unfinished.rename(folder)
    return folder / "output" / "_build" / "html"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One headless Chromium for all tests; without Chromium the tests that use it are skipped."""
    if absent := missing():
        pytest.skip(f"no {absent} here (Debian: apt-get install chromium chromium-driver)")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
