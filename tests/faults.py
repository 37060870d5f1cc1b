"""What is broken on purpose and what comes of it; writes data/results/faults.csv.

python tests/faults.py [--share 0.1] [--only WORDS] [--out FILE]

A `Work` is something the package does. It runs in a fork, is broken there in one way, and runs
again as its user would run it; the files in the end are compared with those of a run that nothing
disturbed. All chance comes from `SEED`. Columns of the table:

fault, where, times : what was broken, in what, and how often
lost : finished units of work (`Work.unit`) that were done again; results that were not had, or
    were had wrong without a word
half_written : files under their final name that were not whole right after the fault
left : files under a temporary name that were still there after the second run
unnamed : errors that do not name the file and what to do
says : what the user sees, of one case
held : cases that ended with the result of the undisturbed run, or were refused by name
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import requests
import torch
from test_download import GOOD, PATH, Server, serving

import tism
from tism import compendium, experiment, robustness, storage, training
from tism.checkpoint import write_text
from tism.cli import main as command_line
from tism.compendium import Chapter, note_provenance
from tism.data import download
from tism.execution import Predictor
from tism.experiment import Experiment, load_dataset, load_profile
from tism.ism import _MOST_TRIED
from tism.windowed import Windows

SEED = 0
TABLE = Path(__file__).parents[1] / "data" / "results" / "faults.csv"
COLUMNS = ("fault", "where", "times", "lost", "half_written", "left", "unnamed", "held", "says")
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
        return download.fetch(PATH, progress=False).read_bytes()


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


def begin(work: Work, folder: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Fork a process that does the work; what it says goes to <folder>.log."""
    pid = os.fork()
    if pid:
        return pid
    code, log = 1, os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    os.environ["TISM_DATA_DIR"] = str(folder / "data")
    os.environ["TISM_RESULTS_DIR"] = str(folder / "results")
    try:
        prepare()
        work.run(folder, lambda n: os.write(1, f"did {n}\n".encode()))
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException as error:
        traceback.print_exc()
        print("says", message(error))
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def message(error: BaseException) -> str:
    return " ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])


def ends(pid: int) -> int:
    """Wait for a process; minus the signal that ended it, else its code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def words(folder: Path) -> tuple[int, str]:
    """Units that the last process did, and the error it ended with."""
    lines = Path(f"{folder}.log").read_text().splitlines()
    said = [line for line in lines if line.startswith(("says ", "tism: "))]
    return sum(int(line[4:]) for line in lines if line.startswith("did ")), "\n".join(said)


def files(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Checksum of every file but locks by its name; and the names that are temporary."""
    lasting, temporary = {}, []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") and not part.endswith(".sha256") for part in parts)
        if hidden or path.suffix in (".part", ".validator", ".partial"):
            temporary.append("/".join(parts))
        else:
            lasting["/".join(parts)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return lasting, temporary


def is_whole(path: Path) -> bool:
    """Whether a file that the undisturbed run did not leave like this is one on its own."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            from safetensors.torch import load_file

            load_file(path)
        elif path.suffix == ".sha256":
            return re.fullmatch(r"[0-9a-f]{64}\n", path.read_text()) is not None
        elif path.suffix == ".csv":
            text = path.read_text()
            return text.endswith("\n") and len({t.count(",") for t in text.splitlines()}) == 1
        else:
            return False
    except Exception:
        return False
    return True


def writes(event: str, arguments: tuple) -> bool:
    """Whether an audited event (see `sys.addaudithook`) may need space on a disk."""
    if event == "open":
        return bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in ("os.rename", "os.mkdir")


def at_event(folder: Path, act: Callable[[int, str, bool], None]) -> None:
    """From now on call act(number, path, needs space) before each change to files in a folder."""
    number = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal number
        needs_space = writes(event, arguments)
        if (needs_space or event == "os.remove") and str(arguments[0]).startswith(f"{folder}/"):
            number += 1
            act(number, str(arguments[0]), needs_space)

    sys.addaudithook(hook)


@dataclass
class Row:
    """A line of the table, added up case by case."""

    fault: str
    where: str
    times: int = 0
    lost: int = 0
    half_written: int = 0
    left: int = 0
    unnamed: int = 0
    held: int = 0
    says: str = ""
    wrong: list[str] = field(default_factory=list)

    def say(self, text: str, folder: Path) -> None:
        """Keep the longest message, its paths from the folder on."""
        text = text.removeprefix("says ").strip().replace(f"{folder}/", "")
        text = re.sub(r"[0-9a-f]{32,}", "...", text)
        if len(text) > len(self.says):
            self.says = text

    def cells(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in COLUMNS}


@dataclass
class Reference:
    """An undisturbed run: its files, its units, its events and how long it took."""

    files: dict[str, str]
    units: int
    events: int
    seconds: float
    folder: Path


def reference(work: Work, folder: Path) -> Reference:
    """Run a work twice, once timed and once with its events counted, and see that both agree."""
    folder.mkdir(parents=True)
    started = time.monotonic()
    assert ends(begin(work, folder)) == 0, Path(f"{folder}.log").read_text()
    seconds, units = time.monotonic() - started, words(folder)[0]
    twin = folder.with_name(f"{folder.name}_twin")
    twin.mkdir()

    def prepare() -> None:
        at_event(twin, lambda *_: os.write(1, b"event\n"))

    assert ends(begin(work, twin, prepare)) == 0
    assert files(twin) == files(folder), f"{work.name} is not deterministic"
    events = Path(f"{twin}.log").read_text().split("\n").count("event")
    shutil.rmtree(twin)
    return Reference(files(folder)[0], units, events, seconds, folder)


def broken(
    row: Row,
    work: Work,
    known: Reference,
    folder: Path,
    *,
    prepare: Callable[[], None] = lambda: None,
    during: Callable[[int], None] = lambda pid: None,
    repair: Callable[[], None] = lambda: None,
    named: str = "",
) -> None:
    """Do a work, broken; then again, in order; and add to the row what came of it.

    named : what the message of an error must match; where it is empty none is expected
    """
    folder.mkdir(parents=True, exist_ok=True)
    pid = begin(work, folder, prepare)
    during(pid)
    code = ends(pid)
    if code == 0:
        shutil.rmtree(folder, ignore_errors=True)
        return  # it was faster than the fault
    row.times += 1
    said = words(folder)[1]
    row.say(said, folder)
    if named and not re.search(named, said):
        row.unnamed += 1
        row.wrong.append(f"{folder.name}: unnamed: {said or code}")
    finished, (found, _) = work.finished(folder), files(folder)
    half = [n for n, s in found.items() if known.files.get(n) != s and not is_whole(folder / n)]
    repair()
    code = ends(begin(work, folder))
    redone, said = words(folder)
    after, left = files(folder)
    lost = max(0, finished + redone - known.units)
    row.lost, row.half_written, row.left = (
        row.lost + lost, row.half_written + len(half), row.left + len(left)
    )  # fmt: skip
    row.held += code == 0 and after == known.files
    differing = sorted({name for name, _ in after.items() ^ known.files.items()})
    for what, found in (
        ("half", half), ("left", left), ("lost", lost), ("code", code), ("differ", differing)
    ):  # fmt: skip
        if found:
            row.wrong.append(f"{folder.name}: {what} {found} {said}")


def kills(work: Work, known: Reference, times: int, folder: Path) -> Row:
    """kill -9, in turn at a random change to a file and at a random time."""
    row, dice = Row("kill -9", work.name), dice_of(folder)
    while row.times < times:
        chosen, seconds = dice.randint(1, known.events), dice.random() * known.seconds
        place = folder / f"{row.times}_{dice.randrange(10**6)}"
        if row.times % 2:
            broken(row, work, known, place, prepare=lambda p=place, n=chosen: kill_at(p, n))
        else:
            broken(row, work, known, place, during=lambda pid, s=seconds: kill_after(pid, s))
    return row


def kill_at(folder: Path, chosen: int, number: int = signal.SIGKILL) -> None:
    at_event(folder, lambda n, *_: os.kill(os.getpid(), number) if n == chosen else None)


def kill_after(pid: int, seconds: float, number: int = signal.SIGKILL) -> None:
    time.sleep(seconds)
    os.kill(pid, number)


def dice_of(folder: Path) -> random.Random:
    """Chance of its own for what is done in a folder, whatever else is done meanwhile."""
    return random.Random(f"{SEED} {folder.parent.name} {folder.name}")


NO_SPACE = r"(?i)(/.*no space left|no space left.*/)"


def full_disks(work: Work, known: Reference, points: list[int], folder: Path) -> Row:
    """No space from a change to a file on that needs some, at each of these points."""
    row = Row("disk full from a write on", work.name)
    for n in points:
        place = folder / f"{n}"
        broken(row, work, known, place, prepare=lambda p=place, n=n: fill_at(p, n), named=NO_SPACE)
    return row


def fill_at(folder: Path, chosen: int) -> None:
    def act(number: int, path: str, needs_space: bool) -> None:
        if number >= chosen and needs_space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    at_event(folder, act)


def small_disks(work: Work, known: Reference, times: int, folder: Path) -> Row:
    """A real file system of random size, too small for the work; then a larger one."""
    row, dice = Row("small disk", work.name), dice_of(folder)
    pages = sum(-(-p.stat().st_size // 4096) for p in known.folder.rglob("*") if p.is_file())
    while row.times < times:
        place = folder / f"{row.times}_{dice.randrange(10**6)}"
        place.mkdir(parents=True)
        mount(place, f"size={4 * dice.randint(1, 2 * pages)}k")
        repair = lambda p=place: mount(p, "remount,size=64m")  # noqa: E731
        try:
            broken(row, work, known, place, repair=repair, named=NO_SPACE)
        finally:
            subprocess.run(["umount", place], check=True)
    return row


def mount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)


def two_at_once(work: Work, known: Reference, times: int, folder: Path) -> Row:
    """Two processes that do the same in the same folder, the second a moment after the first."""
    row, dice = Row("two processes at once", work.name, times, says="nothing"), dice_of(folder)
    for number in range(times):
        place, log = folder / f"{number}", folder / f"{number}_second"
        place.mkdir(parents=True)
        pids = [begin(work, place)]
        time.sleep(dice.random() * 0.05)
        pids.append(begin(work, place, lambda log=log: os.dup2(os.open(log, 65), 1)))
        codes = [ends(pid) for pid in pids]
        after, left = files(place)
        row.left, row.lost = row.left + len(left), row.lost + sum(code != 0 for code in codes)
        row.held += after == known.files
        if any(codes) or after != known.files:
            row.wrong.append(f"{number}: {codes} {words(place)[1]} {log.read_text()[-300:]}")
    return row


def interruptions(work: Work, known: Reference, times: int, folder: Path) -> Row:
    """SIGINT, as Ctrl-C sends it, before a random change to a file."""
    row, dice = Row("SIGINT", work.name), dice_of(folder)
    while row.times < times:
        place, chosen = folder / f"{row.times}", dice.randint(1, known.events)
        prepare = lambda p=place, n=chosen: kill_at(p, n, signal.SIGINT)  # noqa: E731
        broken(row, work, known, place, prepare=prepare, named="(?i)interrupt")
    return row


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


def use_table(folder: Path) -> object:
    return robustness.read_kept(folder / "results/smoke/table_1.csv").to_csv()


def use_provenance(folder: Path) -> object:
    note_provenance(folder / "results/smoke", "table_1.csv", "04_ism_vs_tism", PROFILE)
    return (folder / "results/smoke/provenance.json").read_text()


def _plain(arrays: dict[str, object]) -> dict[str, bytes]:
    return {name: np.asarray(array).tobytes() for name, array in arrays.items()}


KEPT = (
    Kept("network", "training", "data/checkpoints/*/model.*", use_network),
    Kept("state of a training", "training", "data/checkpoints/*/state_*", use_network),
    Kept("store of scores", "scoring to a store", "s.zarr/**/*", use_store),
    Kept("kept maps", "cached maps", "data/cache/scores/*", use_maps),
    Kept("download", "download", f"data/{PATH}", lambda folder: get_file(folder, lambda n: None)),
    Kept("results table", "results tables", "results/smoke/table_1.csv", use_table),
    Kept("provenance", "results tables", "results/smoke/provenance.json", use_provenance),
)


def damages(kept: Kept, source: Path, times: int, folder: Path) -> Row:
    """Cut a file short or turn one of its bits, and use it: refused, or as it was before."""
    row, dice = Row("damaged file", kept.name), dice_of(folder)
    shutil.copytree(source, folder / "whole")
    before = _used(kept, folder / "whole")
    for number in range(times):
        place = shutil.copytree(source, folder / f"{number}")
        found = (p for p in place.glob(kept.pattern) if p.is_file() and p.suffix != ".lock")
        path = dice.choice(sorted(found))
        how = damage(path, dice)
        row.times += 1
        try:
            same = _used(kept, place) == before
        except Exception as error:
            row.say(message(error), place)
            named = {path.stem.strip("."), path.relative_to(place).parts[0]}
            same = any(name in str(error) for name in named) and REMEDY.search(str(error))
            row.unnamed += not same
            how = f"{how}: {message(error)}"
        else:
            row.lost += not same
        row.held += bool(same)
        if not same:
            row.wrong.append(f"{place.name} {path.name} {how}")
    return row


REMEDY = re.compile("delete|again|replace|fetch|name another")


def _used(kept: Kept, folder: Path) -> object:
    os.environ["TISM_DATA_DIR"] = str(folder / "data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kept.use(folder)


def damage(path: Path, dice: random.Random) -> str:
    content = bytearray(path.read_bytes())
    place = dice.randrange(len(content))
    if dice.random() < 0.5:
        path.write_bytes(content[:place])
        return f"cut at {place} of {len(content)}"
    bit = 1 << dice.randrange(8)
    content[place] ^= bit
    path.write_bytes(content)
    return f"byte {place} of {len(content)} ^ {bit}"


SHORTAGES = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
)


@contextmanager
def short_of_memory(
    calls: list[int], at: int = 0, error: Exception | None = None
) -> Iterator[None]:
    """Raise an error at one of the calls that run a model; `calls` gets the rows of each."""
    with (
        patch.object(Predictor, "__call__", _raising(Predictor.__call__, calls, at, error)),
        patch.object(Windows, "effects", _raising(Windows.effects, calls, at, error)),
    ):
        yield


def _raising(function: Callable, calls: list[int], at: int, error: Exception | None) -> Callable:
    def wrapper(self: object, rows: object, *others: object) -> torch.Tensor:
        calls.append(len(rows))
        if error is not None and len(calls) == at:
            raise type(error)(*error.args)
        return function(self, rows, *others)

    return wrapper


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


def shortages(name: str, times: int) -> Row:
    """Lack of memory in a random batch, as PyTorch reports it of a GPU and of a CPU."""
    row, run = Row("out of memory", name), attributions()[name]
    rows, dice = [], random.Random(f"{SEED} {name}")
    with short_of_memory(rows):
        whole = run()
    for number in range(times):
        at, error = dice.randint(1, len(rows)), SHORTAGES[number % 2]
        row.times += 1
        try:
            with short_of_memory([], at, error):
                same = torch.allclose(run(), whole, rtol=1e-6, atol=1e-6 * whole.abs().max())
            row.lost += not same
        except (Exception, SystemExit) as caught:
            text = message(caught.__context__ if isinstance(caught, SystemExit) else caught)
            row.say(text, inputs())
            same = rows[at - 1] <= _MOST_TRIED and "take fewer tasks" in text
            row.unnamed += not same
        row.held += same
        if not same:
            row.wrong.append(f"call {at} of {rows}: {error}")
    row.says = row.says or "nothing: the batch is halved"
    return row


CHAPTER = "03_train_model"


def run_cells(folder: Path, interrupt: Callable[[], float], times: int) -> int:
    """Run the training chapter in a kernel; interrupt its training, and run that cell again.

    Returns how often the cell was interrupted; the last time it was left alone.
    """
    from jupyter_client.manager import start_new_kernel

    cells = json.loads((experiment.repository() / f"notebooks/{CHAPTER}.ipynb").read_text())[
        "cells"
    ]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    own = {"TISM_DATA_DIR": f"{folder}/data", "TISM_RESULTS_DIR": f"{folder}/results"}
    manager, client = start_new_kernel(env={**os.environ, **own}, cwd=experiment.repository())
    hits = 0
    try:
        for number, cell in enumerate(code):
            if number == 1:
                cell = 'profile = "smoke"\n' + cell
            while hits < times and ".trained(" in cell:
                asked = client.execute(cell, stop_on_error=False)
                while not list(folder.glob("data/checkpoints/*/log.csv")):
                    time.sleep(0.01)
                time.sleep(interrupt())
                manager.interrupt_kernel()
                hits += _status(client, asked) == "error"
            assert _status(client, client.execute(cell)) == "ok", cell
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return hits


def _status(client: object, asked: str) -> str:
    while (reply := client.get_shell_msg(timeout=600))["parent_header"].get("msg_id") != asked:
        pass
    return reply["content"]["status"]


def notebook_interruptions(times: int, folder: Path) -> Row:
    """SIGINT to the kernel of the training chapter while it trains, as "interrupt" sends it."""
    dice = dice_of(folder)
    run_cells(folder / "undisturbed", lambda: 0.0, 0)
    hits = run_cells(folder / "interrupted", lambda: dice.random() / 2, times)
    (before, _), (after, left) = files(folder / "undisturbed"), files(folder / "interrupted")
    same = before == after
    row = Row("SIGINT", "notebook that trains", hits, left=len(left), held=hits * same)
    row.says = "KeyboardInterrupt, or the error of what was interrupted; the same cell goes on"
    if not same:
        row.wrong.append(f"{set(before.items()) ^ set(after.items())}")
    return row


def workflow_kills(times: int, folder: Path) -> Row:
    """kill -9 of Snakemake and all its jobs at random times, one after the other, to the end."""
    from test_workflow import SCORED, SNAKEMAKE, TABLE, TRAINED, copy_repository, environment

    root, dice = copy_repository(folder / "copy"), dice_of(folder)
    command = [*SNAKEMAKE, "--config", "profile=immgen", "--", TABLE]
    own = {k: v for k, v in os.environ.items() if k != "TISM_RESULTS_DIR"} | environment(root)

    def start() -> subprocess.Popen:
        with Path(f"{root}.log").open("a") as log:
            return subprocess.Popen(
                command, cwd=root, env=own, stdout=log, stderr=log, start_new_session=True
            )

    def outputs() -> dict[str, int]:
        return {n: (root / n).stat().st_mtime_ns for n in OUTPUTS if (root / n).exists()}

    def contents() -> dict[str, str]:
        names = {**files(root / "results")[0], **files(root / "data/checkpoints")[0]}
        return {n: s for n, s in names.items() if not re.search("logs/|provenance|sha256", n)}

    OUTPUTS = (TRAINED, SCORED, TABLE)
    started = time.monotonic()
    assert start().wait() == 0, Path(f"{root}.log").read_text()[-3000:]
    seconds, before = time.monotonic() - started, contents()
    row = Row("kill -9", "workflow", says="nothing: the same call goes on")

    def wipe() -> None:
        for name in ("results", "data/checkpoints", "data/cache", ".snakemake"):
            shutil.rmtree(root / name, ignore_errors=True)

    wipe()
    finished = outputs()
    while row.times < times or finished.keys() != set(OUTPUTS):
        run = start()
        if row.times < times:
            with suppress(subprocess.TimeoutExpired):
                run.wait(dice.uniform(0.2, 0.9) * seconds)
        else:
            run.wait()
        if run.poll() is None:
            row.times += 1
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        now = outputs()
        row.lost += sum(now.get(name) != written for name, written in finished.items())
        known = contents()
        half = [n for n in known if before.get(n) != known[n] and not is_whole(_below(root, n))]
        row.half_written += len(half)
        row.wrong += [f"half: {n}" for n in half]
        finished = now
        if finished.keys() == set(OUTPUTS):
            row.held += contents() == before
            if row.times < times:
                wipe()
                finished = {}
    same = contents() == before
    row.held = row.times if same else 0
    if not same:
        row.wrong.append(f"{set(before.items()) ^ set(contents().items())}")
    row.left = len(files(root / "results")[1])
    return row


def _below(root: Path, name: str) -> Path:
    return next(
        p for p in (root / "results" / name, root / "data/checkpoints" / name) if p.exists()
    )


def in_fork(function: Callable, *arguments: object) -> Callable[[], object]:
    """Begin a function in a fork; returns what waits for its result, None where it failed.

    This process itself must not start the threads of zarr, with which a fork stands still.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            content = pickle.dumps(function(*arguments))
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(content)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)

    def wait() -> object:
        with os.fdopen(reader, "rb") as pipe:
            content = pipe.read()
        ends(pid)
        return pickle.loads(content) if content else None

    return wait


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


# How often each work is broken in each way.
KILLS = {
    "training": 14,
    "scoring to a store": 14,
    "cached maps": 8,
    "download": 14,
    "results tables": 6,
}
N_WORKFLOW, N_NOTEBOOK, N_DAMAGED, N_SHORT = 4, 2, 40, 12
N_TOGETHER, N_SMALL, N_INTERRUPTED = 5, 6, 4
AT_ONCE = 16
PLACES = (
    *(work.name for work in WORKS),
    "workflow",
    "notebook that trains",
    *(kept.name for kept in KEPT if kept.name != "download"),
    *("ism, full", "ism, windowed", "tism", "budgeted_ism", "layerwise_tism", "tism score"),
)
FAULTS = (
    "kill -9",
    "disk full from a write on",
    "small disk",
    "two processes at once",
    "SIGINT",
    "damaged file",
    "out of memory",
)


def campaign(share: float, folder: Path, only: list[str] | None = None) -> Iterator[Row | None]:
    """The rows of the table, in parts; share 1 is all, less takes so much of each, at least 1."""
    slow = []
    if share == 1 and (only is None or "notebook" in only):
        slow.append(in_fork(notebook_interruptions, N_NOTEBOOK, folder / "notebook"))
    if share == 1 and (only is None or "workflow" in only):
        slow.append(in_fork(workflow_kills, N_WORKFLOW, folder / "workflow"))
    warm_up(folder / "warm")
    works = [work for work in WORKS if only is None or work.name in only]
    known = [in_fork(reference, work, folder / work.name / "reference") for work in works]
    begun: list[Callable[[], object]] = []
    for work, wait in zip(works, known, strict=True):
        for function, *arguments in faults_of(work, wait(), share, folder / work.name):
            if len(begun) == AT_ONCE:
                yield begun.pop(0)()
            begun.append(in_fork(function, *arguments))
    if only is None or "memory" in only:
        begun += [in_fork(shortages, name, some(N_SHORT, share)) for name in attributions()]
    for wait in begun + slow:
        yield wait()


def some(times: int, share: float) -> int:
    return max(1, round(share * times))


def faults_of(work: Work, known: Reference, share: float, folder: Path) -> Iterator[tuple]:
    """Everything that befalls one work and what it left: functions with their arguments."""
    n_kills, dice = some(KILLS[work.name], share), random.Random(f"{SEED} {work.name}")
    for part in range(0, n_kills, 4):
        yield kills, work, known, min(4, n_kills - part), folder / f"kills_{part}"
    points = range(1, known.events + 1)
    points = sorted(dice.sample(points, some(len(points), share)))
    for part in range(0, len(points), 8):
        yield full_disks, work, known, points[part : part + 8], folder / f"full_{part}"
    if CAN_MOUNT and share == 1:
        yield small_disks, work, known, N_SMALL, folder / "small"
    yield two_at_once, work, known, some(N_TOGETHER, share), folder / "together"
    if work.name in ("training", "scoring to a store"):
        yield interruptions, work, known, some(N_INTERRUPTED, share), folder / "interrupted"
    stopped = stopped_training(folder / "stopped") if work is WORKS[0] else None
    for kept in (kept for kept in KEPT if kept.work == work.name):
        source = stopped if kept.name == "state of a training" else known.folder
        yield damages, kept, source, some(N_DAMAGED, share), folder / kept.name


def merged(rows: list[Row]) -> list[Row]:
    """Rows of the same fault and place as one, in the order of `FAULTS`."""
    whole: dict[tuple[str, str], Row] = {}
    for row in rows:
        known = whole.setdefault((row.fault, row.where), Row(row.fault, row.where))
        for name in ("times", "lost", "half_written", "left", "unnamed", "held", "wrong"):
            setattr(known, name, getattr(known, name) + getattr(row, name))
        known.says = max(known.says, row.says, key=len)
    return sorted(
        whole.values(), key=lambda row: (FAULTS.index(row.fault), PLACES.index(row.where))
    )


def rows_of(path: Path) -> list[Row]:
    """The rows of a table written before."""
    table = pd.read_csv(path, keep_default_na=False)
    return [Row(**row) for row in table.to_dict("records")]


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


def stopped_training(folder: Path) -> Path:
    """A training that was killed in its second epoch."""
    folder.mkdir(parents=True)

    def kill(number: int, path: str, _: bool) -> None:
        if "state_2" in path:
            os.kill(os.getpid(), signal.SIGKILL)

    ends(begin(WORKS[0], folder, lambda: at_event(folder, kill)))
    return folder


CAN_MOUNT = os.environ.get("TISM_FAULTS_NAMESPACE") == "own"


def enter_namespace() -> None:
    """Go on as root of a namespace of one's own, where Linux allows that, to mount small disks."""
    wrapper = ["unshare", "--user", "--map-root-user", "--mount"]
    if CAN_MOUNT or not shutil.which("unshare") or subprocess.call([*wrapper, "true"]):
        return
    os.environ["TISM_FAULTS_NAMESPACE"] = "own"
    os.execvp("unshare", [*wrapper, sys.executable, *sys.argv])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the faults; 1 records them")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--only", nargs="+", help="works, by name; the table's other rows stay")
    options = parser.parse_args()
    if options.share == 1:
        enter_namespace()
    os.environ.update(TISM_DEVICE="cpu", OMP_NUM_THREADS="1", NO_PROXY="127.0.0.1")
    os.environ.pop("TISM_DATA_MIRROR", None)
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as folder, server(GOOD):
        for row in campaign(options.share, Path(folder), options.only):
            if row is None:
                failed = True
                continue
            rows.append(row)
            print(*row.cells().values(), *row.wrong, sep=" | ", flush=True)
    shutil.rmtree(inputs())
    if options.only:
        new = {(row.fault, row.where) for row in rows}
        rows += [row for row in rows_of(options.out) if (row.fault, row.where) not in new]
    table = pd.DataFrame([row.cells() for row in merged(rows)])
    write_text(options.out, table.to_csv(index=False, lineterminator="\n"))
    if options.share == 1:
        about = {"seed": SEED, "share": options.share, **compendium._provenance()}
        write_text(options.out.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    sys.exit(failed or any(row.wrong for row in rows))


if __name__ == "__main__":
    main()
