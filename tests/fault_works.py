"""What faults befall: works of the package, the files that they leave, and who uses those again."""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import requests
import torch
from test_download import PATH, Server, serving

import tism
from tism.score import store as storage
from tism.score.cli import main as command_line
from tism.study import profiles as experiment
from tism.study import training
from tism.study.data import download
from tism.study.networks import Experiment
from tism.study.profiles import load_dataset, load_profile
from tism.study.records import Chapter

SEED = 0
PROFILE = replace(
    load_profile("smoke"),
    data={"simulated": {"n_regions": 60, "n_tasks": 3, "seed": 0, "length": 64}},
    model={"simulated": {"width": 4}},
)
N_TABLES, N_REGIONS, N_PEAKS = 4, 8, 15
Done = Callable[[int], None]


@dataclass(frozen=True)
class Work:
    """Something that the package does, resumable in units.

    run : does it below a folder, and tells its second argument how many units it did
    finished : units whose results are on disk
    """

    name: str
    unit: str
    run: Callable[[Path, Done], None]
    finished: Callable[[Path], int]


@contextmanager
def counted(owner: object, name: str, done: Done) -> Iterator[None]:
    """Tell of every call of a function."""
    function = getattr(owner, name)

    def wrapper(*arguments, **options):
        done(1)
        return function(*arguments, **options)

    with patch.object(owner, name, wrapper):
        yield


def network() -> Experiment:
    return Experiment(PROFILE, "simulated", changes={"snapshots": (0, 1)})


def train(folder: Path, done: Done) -> None:
    with counted(training._Trainer, "_train_epoch", done):
        network().trained(progress=False)


def finished_epochs(folder: Path) -> int:
    for path in folder.glob("data/checkpoints/*/model.json"):
        return json.loads(path.read_text())["epoch"]
    states = folder.glob("data/checkpoints/*/state_*.json")
    return max((int(path.stem.removeprefix("state_")) for path in states), default=0)


@cache
def inputs() -> Path:
    """A genome, its index, peaks and a model, as files."""
    folder, dice = Path(tempfile.mkdtemp(prefix="tism_faults_")), random.Random(SEED)
    (folder / "genome.fa").write_text(">chr1\n" + "".join(dice.choices("ACGT", k=600)) + "\n")
    (folder / "genome.fa.fai").write_text("chr1\t600\t6\t600\t601\n")
    starts = [dice.randrange(570) for _ in range(N_PEAKS)]
    (folder / "peaks.bed").write_text("".join(f"chr1\t{s}\t{s + 30}\n" for s in starts))
    code = "import tism\ndef load(**k):\n    return tism.build_model('baseline', **k)\n"
    (folder / "my_model.py").write_text(code)
    return folder


def score(folder: Path, done: Done) -> None:
    arguments = '{"length": 30, "n_tasks": 2, "width": 4, "seed": 0}'
    files = {"--bed": "peaks.bed", "--fasta": "genome.fa", "--model": "my_model.py:load"}
    options = [part for key, name in files.items() for part in (key, f"{inputs() / name}")]
    options += ["--model-args", arguments, "--out", f"{folder / 's.zarr'}", "--chunk-size", "3"]
    with counted(storage.ScoreStore, "_write", done):
        command_line(["score", "--quiet", *options])


def finished_chunks(folder: Path) -> int:
    return len(list(folder.glob("s.zarr/scores/c/*/0/0/0")))


@cache
def small_network() -> torch.nn.Module:
    data = load_dataset(PROFILE)
    shape = {"length": data.length, "n_tasks": len(data.tasks)}
    return tism.build_model("baseline", **shape, width=4, seed=0).eval()


def keep_scores(folder: Path, done: Done) -> experiment.Scores:
    data = load_dataset(PROFILE)
    with counted(experiment, "ism", done), patch.object(experiment, "_REGIONS_A_FILE", 2):
        rows = experiment.scored_rows(data, N_REGIONS)
        return experiment.score(small_network(), data, rows, progress=False)


def finished_parts(folder: Path) -> int:
    return len(list(folder.glob("data/cache/scores/[!.]*.json")))


def save_tables(folder: Path, done: Done) -> None:
    chapter = Chapter("04_ism_vs_tism", PROFILE)
    for number in range(N_TABLES):
        chapter.save_table(pd.DataFrame({"x": np.arange(5) / 3, "y": number}), f"table_{number}")
        done(1)


def get_file(folder: Path, done: Done) -> bytes:
    """The file of TISM_FAULTS_SOURCE (checksum and address), chunk by slow chunk."""
    content = requests.Response.iter_content

    def slow(response: requests.Response, _: int) -> Iterator[bytes]:
        for chunk in content(response, 9000):
            time.sleep(0.01)
            done(len(chunk))
            yield chunk

    listed = [download.Source(PATH, "", *os.environ["TISM_FAULTS_SOURCE"].split(), "", "")]
    with (
        patch.object(requests.Response, "iter_content", slow),
        patch.object(download, "sources", lambda prefix: listed),
    ):
        return download.fetch(PATH).read_bytes()


def finished_bytes(folder: Path) -> int:
    target = folder / "data" / PATH
    part = target.with_name(f"{target.name}.part")
    if target.exists():
        return target.stat().st_size
    known = part.exists() and part.with_name(f"{part.name}.validator").exists()
    return part.stat().st_size if known else 0


WORKS = (
    Work("training", "epoch", train, finished_epochs),
    Work("scoring to a store", "chunk", score, finished_chunks),
    Work("cached maps", "part", keep_scores, finished_parts),
    Work("download", "byte", get_file, finished_bytes),
    Work("results tables", "table", save_tables, lambda folder: 0),
)


@dataclass(frozen=True)
class Kept:
    """Files that a work left, and how they are used again.

    use : with the folder; what it returns must be as before the damage, unless it raises
    """

    name: str
    work: str
    pattern: str
    use: Callable[[Path], object]


def use_network(folder: Path) -> object:
    return _plain(network().trained(progress=False)[0].state_dict())


def use_store(folder: Path) -> object:
    store = storage.open_store(folder / "s.zarr")
    arrays = {"scores": store.read(), "bases": store.one_hot()}
    return _plain(arrays), store.regions.to_csv(), json.dumps(store.identity)


def use_maps(folder: Path) -> object:
    return _plain(vars(keep_scores(folder, lambda n: None)))


def _plain(arrays: dict[str, object]) -> dict[str, bytes]:
    return {name: np.asarray(array).tobytes() for name, array in arrays.items()}


KEPT = (
    Kept("network", "training", "data/checkpoints/*/model.*", use_network),
    Kept("state of a training", "training", "data/checkpoints/*/state_*", use_network),
    Kept("store of scores", "scoring to a store", "s.zarr/**/*", use_store),
    Kept("kept maps", "cached maps", "data/cache/scores/*", use_maps),
    Kept("download", "download", f"data/{PATH}", lambda folder: get_file(folder, lambda n: None)),
)


def attributions() -> dict[str, Callable[[], torch.Tensor]]:
    """The functions that run a model in batches, on one network and its sequences."""
    model = tism.build_model("baseline", length=40, n_tasks=2, width=4, seed=0).double()
    index = torch.randint(4, (6, 40), generator=torch.Generator().manual_seed(SEED))
    one_hot = torch.eye(4, dtype=torch.float64)[index].transpose(1, 2)
    of = {"model": model, "one_hot": one_hot, "batch_size": 50}
    return {
        "ism, full": lambda: tism.ism(**of, engine="full"),
        "ism, windowed": lambda: tism.ism(**of, engine="windowed"),
        "tism": lambda: tism.tism(**of | {"batch_size": 3}),
        "budgeted_ism": lambda: tism.budgeted_ism(**of, budget=40, engine="full").estimate,
        "layerwise_tism": lambda: tism.layerwise_tism(model, one_hot, depth=1),
        "tism score": lambda: _scored(Path(tempfile.mkdtemp(dir=inputs()))),
    }


def _scored(folder: Path) -> torch.Tensor:
    score(folder, lambda n: None)
    return storage.open_store(folder / "s.zarr").read()


@contextmanager
def server(sha256: str) -> Iterator[None]:
    """A server of the file in a process of its own, named in TISM_FAULTS_SOURCE."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with serving(Server()) as state:
            os.write(writer, state.url.encode())
            signal.pause()
    with patch.dict(
        os.environ, {"TISM_FAULTS_SOURCE": f"{sha256} {os.read(reader, 200).decode()}"}
    ):
        try:
            yield
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def warm_up(folder: Path) -> None:
    """Import and make here what every fork would otherwise import and make for itself."""
    import pyfaidx  # noqa: F401
    import zarr  # noqa: F401

    torch.set_num_threads(1)
    inputs()
    own = {"TISM_DATA_DIR": f"{folder}/data", "TISM_RESULTS_DIR": f"{folder}/results"}
    with patch.dict(os.environ, own):
        for run in (train, keep_scores, save_tables):
            run(folder, lambda n: None)
