"""What is broken on purpose and what comes of it; writes data/results/faults.csv.

python tests/faults.py [--share 0.1] [--out FILE]

A `Work` is something that the package writes. It runs in a fork and is broken there in one way;
then it runs again, as its user would run it, and its files are compared with those of a run that
nothing disturbed. All chance comes from `SEED`. Columns of the table:

fault, where, times : what was broken, in which work, and how often
lost : finished steps (epochs, chunks, parts) that the second run did again; files that were used
    although they were damaged
half_written : files under their final name that were not whole right after the fault
left : files under a temporary name that were still there after the second run
unnamed : errors that do not name the file and what to do
held : cases that ended with the result of the undisturbed run, or with a refusal by name
says : what the user sees, of one case
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from random import Random
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import zarr  # noqa: F401 -- it is then there in every fork
from safetensors.torch import load_file, save_file

import tism
from tism.score import cli, store
from tism.score.files import file_sha256, write_text
from tism.study import records, scores, training
from tism.study.data import download
from tism.study.networks import Experiment
from tism.study.profiles import load_dataset, load_profile

TABLE = Path(__file__).parents[1] / "data" / "results" / "faults.csv"
SEED = 0
FOLDS = ("fold_0.safetensors", "fold_1.safetensors")
PROFILE = replace(
    load_profile("smoke"),
    data={"simulated": {"n_regions": 60, "n_tasks": 3, "seed": 0, "length": 64}},
    model={"simulated": {"width": 4}},
)

# --- works ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """Something that the package writes.

    run : does it below a folder
    use, kept : returns what a user gets from a finished run; pattern of its files that are damaged
    step, finished : owner and name of the function that does a step; counts steps on the disk
    """

    name: str
    run: Callable[[Path], object]
    use: Callable[[Path], object] | None = None
    kept: str = ""
    step: tuple[object, str] | None = None
    finished: Callable[[Path], int] = lambda folder: 0

    def count_steps(self) -> None:
        """Print a line whenever a step is done, in this process."""
        if self.step:
            function = getattr(*self.step)

            def wrapper(*arguments: object, **options: object) -> object:
                print("did a step", flush=True)
                return function(*arguments, **options)

            setattr(*self.step, wrapper)


@cache
def inputs() -> Path:
    """A genome, its index, peaks, a model, its folds and a file to download, in a folder."""
    folder, dice = Path(tempfile.mkdtemp(prefix="tism_faults_")), Random(SEED)
    letters = "".join(dice.choices("ACGT", k=600))
    (folder / "genome.fa").write_text(f">chr1\n{letters}\n")
    (folder / "genome.fa.fai").write_text("chr1\t600\t6\t600\t601\n")
    starts = [dice.randrange(570) for _ in range(15)]
    rows = [f"chr1\t{s}\t{s + 30}\tp\t0\t{dice.choice('+-')}\n" for s in starts]
    (folder / "peaks.bed").write_text("".join(rows))
    alternates = [dice.choice(["A,C", "GT", "TTA", "<DEL>"]) for _ in starts]
    rows = zip(starts, alternates, strict=True)
    rows = [f"chr1\t{s + 1}\t.\t{letters[s]}\t{alts}\n" for s, alts in rows]
    (folder / "variants.vcf").write_text("".join(rows))
    code = "import tism\ndef load(**k):\n    return tism.build_model('baseline', **k)\n"
    (folder / "my_model.py").write_text(code)
    for seed, name in enumerate(FOLDS):
        model = tism.build_model("baseline", length=30, n_tasks=2, width=4, seed=seed)
        save_file(model.state_dict(), folder / name)
    (folder / "file.bin").write_bytes(dice.randbytes(100_000))
    return folder


def train(folder: Path) -> object:
    network = Experiment(PROFILE, "simulated", changes={"snapshots": (0, 1)})
    return plain(network.trained(progress=False)[0].state_dict())


def finished_epochs(folder: Path) -> int:
    for path in folder.glob("data/checkpoints/*/model.json"):
        return json.loads(path.read_text())["epoch"]
    states = folder.glob("data/checkpoints/*/state_*.json")
    return max((int(path.stem.removeprefix("state_")) for path in states), default=0)


def score(folder: Path) -> None:
    """Score peaks on their strands, in part, by folds, and variants of any length, by shifts."""
    options = ["--quiet", "--chunk-size", "3", "--fasta", f"{inputs() / 'genome.fa'}"]
    options += ["--model", f"{inputs() / 'my_model.py'}:load"]
    options += ["--model-args", '{"length": 30, "n_tasks": 2, "width": 4, "seed": 0}']
    peaks = ["--bed", f"{inputs() / 'peaks.bed'}", "--strand", "--mutate", "20"]
    peaks += ["--average", "strand", "--weights", *(f"{inputs() / fold}" for fold in FOLDS)]
    variants = ["--vcf", f"{inputs() / 'variants.vcf'}", "--length", "30", "--pad"]
    variants += ["--max-refused", "90", "--method", "ism", "--average", "shift:1"]
    with patch.object(cli.shlex, "join", "".format):  # of the command that a store keeps
        cli.main(["score", *options, *peaks, "--out", f"{folder / 's.zarr'}"])
        cli.main(["score", *options, *variants, "--out", f"{folder / 'v.zarr'}"])


def read_store(folder: Path) -> object:
    found = []
    for name in ("s.zarr", "v.zarr"):
        opened = store.open_store(folder / name)
        opened.check()
        arrays = {array: opened.read(name=array) for array in opened.arrays}
        found.append((plain(arrays | {"bases": opened.one_hot()}), opened.regions.to_csv()))
    return found


def finished_chunks(folder: Path) -> int:
    return len([*folder.glob("s.zarr/scores/c/*/0/0/0"), *folder.glob("v.zarr/scores/c/*/0")])


def cached_maps(folder: Path) -> object:
    data = load_dataset(PROFILE)
    shape = {"length": data.length, "n_tasks": len(data.tasks)}
    model = tism.build_model("baseline", **shape, width=4, seed=0).eval()
    with patch.object(scores, "_REGIONS_A_FILE", 2):
        rows = scores.scored_rows(data, 8)
        return plain(vars(scores.score_regions(model, data, rows, progress=False)))


def save_tables(folder: Path) -> None:
    chapter = records.Chapter("04_ism_vs_tism", PROFILE)
    for number in range(4):
        chapter.save_table(pd.DataFrame({"x": np.arange(5) / 3, "y": number}), f"table_{number}")


def get_file(folder: Path) -> bytes:
    """Download the file at TISM_FAULTS_URL."""
    sha256 = file_sha256(inputs() / "file.bin")
    listed = [download.Source("file.bin", "", sha256, os.environ["TISM_FAULTS_URL"], "", "")]
    with patch.object(download, "sources", lambda prefix: listed):
        return download.fetch("file.bin").read_bytes()


def plain(arrays: dict[str, object]) -> dict[str, bytes]:
    return {name: np.asarray(array).tobytes() for name, array in arrays.items()}


WORKS = (
    Work(
        "training", train, train, "data/checkpoints/*/model.*",
        (training._Trainer, "_train_epoch"), finished_epochs,
    ),
    Work(
        "scoring to a store", score, read_store, "*.zarr/**/*",
        (store.ScoreStore, "_write"), finished_chunks,
    ),
    Work(
        "cached maps", cached_maps, cached_maps, "data/cache/scores/*",
        (scores, "ism"), lambda folder: len([*folder.glob("data/cache/scores/[!.]*.json")]),
    ),
    Work("download", get_file, get_file, "data/file.bin"),
    Work("results tables", save_tables),
)  # fmt: skip


# --- one run in a fork ------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code or minus a signal, its steps, its result's checksum, its error."""

    code: int
    steps: int
    result: str
    said: str


def begin(function: Callable[[Path], object], folder: Path, *prepare: Callable[[], object]) -> int:
    """Fork a process that calls function(folder); what it prints goes to <folder>.log."""
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    pid = os.fork()
    if pid:
        os.close(log)
        return pid
    code = 1
    try:
        os.dup2(log, 1), os.dup2(log, 2)
        os.environ.update(TISM_DATA_DIR=f"{folder}/data", TISM_RESULTS_DIR=f"{folder}/results")
        for each in prepare:
            each()
        result = function(folder)
        print("result", hashlib.sha256(pickle.dumps(result)).hexdigest())
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException as error:
        notes = getattr(error, "__notes__", [])
        print("says", " ".join([f"{type(error).__name__}: {error}", *notes]).replace("\n", " "))
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def end(pid: int, folder: Path) -> Ended:
    """Wait for a process that `begin` began, and read and delete what it printed."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    log = Path(f"{folder}.log")
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    result = [line for line in lines if line.startswith("result ")]
    said = [line.removeprefix("says ") for line in lines if line.startswith(("says ", "tism: "))]
    return Ended(code, lines.count("did a step"), "".join(result), " ".join(said))


def files(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return the checksum of every file but locks by its name, and the names that are temporary."""
    lasting, temporary = {}, []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"):
        name = str(path.relative_to(folder))
        if (
            name.startswith(".")
            or "/." in name
            or path.suffix in (".part", ".partial", ".validator")
        ):
            temporary.append(name)
        else:
            lasting[name] = file_sha256(path)
    return lasting, temporary


def is_whole(path: Path) -> bool:
    """Return True if a file that is not as in the end is a whole one that an earlier step wrote."""
    read = {".json": lambda path: json.loads(path.read_text()), ".csv": pd.read_csv}
    try:
        read.get(path.suffix, load_file)(path)
        return path.suffix != ".csv" or path.read_bytes().endswith(b"\n")
    except Exception:
        return False


def at_event(folder: Path, act: Callable[[int, str, bool], None]) -> None:
    """From now on call act(number, path, needs_space) before each change to a file in a folder."""
    number = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal number
        writes = event in ("os.rename", "os.mkdir")
        if event == "open":
            writes = bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if (writes or event == "os.remove") and str(arguments[0]).startswith(f"{folder}/"):
            number += 1
            act(number, str(arguments[0]), writes)

    sys.addaudithook(hook)


# --- faults -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """A run without a fault: its work, folder, files, steps, changes to files and seconds."""

    work: Work
    folder: Path
    files: dict[str, str]
    steps: int
    events: int
    seconds: float


def reference(work: Work, folder: Path) -> Reference:
    """Do a work without a fault, and count its steps, its changes to files and its seconds."""
    started, log = time.monotonic(), folder.with_name("events")

    def count(*_: object) -> None:
        with open(log, "ab") as file:
            file.write(b".")

    ended = end(begin(work.run, folder, work.count_steps, lambda: at_event(folder, count)), folder)
    assert ended.code == 0, f"{work.name}: {ended}"
    seconds = time.monotonic() - started
    return Reference(work, folder, files(folder)[0], ended.steps, log.stat().st_size, seconds)


def interrupt(folder: Path, known: Reference, dice: Random) -> None:
    """Send this process SIGINT, as Ctrl-C does, before a random change to a file."""
    chosen = dice.randint(1, known.events)
    at_event(folder, lambda n, *_: n == chosen and os.kill(os.getpid(), signal.SIGINT))


def kill(folder: Path, known: Reference, dice: Random) -> None:
    """End this process at a random time, or in the moment after a random change to a file.

    The alarm ends it as kill -9 does: nothing of it runs any more.
    """
    chosen, moment = dice.randint(1, known.events), dice.uniform(1e-6, 2e-4)
    if dice.random() < 0.5:
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, known.seconds))
    else:
        at_event(folder, lambda n, *_: n == chosen and signal.setitimer(signal.ITIMER_REAL, moment))


def fill_disk(folder: Path, known: Reference, dice: Random) -> None:
    """Let every change to a file that needs space fail, from a random one on."""
    chosen = dice.randint(1, known.events)

    def act(number: int, path: str, needs_space: bool) -> None:
        if number >= chosen and needs_space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    at_event(folder, act)


def stopped(
    known: Reference, folder: Path, dice: Random, stop: Callable[..., None], named: str
) -> Iterator[dict[str, object]]:
    """Yield what comes of runs that were stopped and begun again.

    named : what the message of the first run must match; empty where it can say nothing
    """
    run, count = known.work.run, known.work.count_steps
    for number in itertools.count():
        place = folder / f"{number}"
        first = end(begin(run, place, partial(stop, place, known, Random(dice.random()))), place)
        if first.code == 0:
            continue  # it was faster than the fault
        found, finished = files(place)[0], known.work.finished(place)
        other = [place / name for name, sha256 in found.items() if known.files.get(name) != sha256]
        half_written = sum(not is_whole(path) for path in other)
        second = end(begin(run, place, count), place)
        after, left = files(place)
        yield {
            "lost": max(0, finished + second.steps - known.steps),
            "half_written": half_written,
            "left": len(left),
            "unnamed": bool(named) and not re.search(named, first.said),
            "held": second.code == 0 and after == known.files,
            "says": shown(first.said, place) if named else "nothing: the same call goes on",
            "runs": (first, second),
        }


def shown(said: str, folder: Path) -> str:
    """Return a message with paths relative to a folder, without checksums and progress."""
    said = said.replace(f"{folder}/", "").rpartition("tism: ")
    return re.sub(r"[0-9a-f]{32,}", "...", "".join(said[1:])).strip(" :")


def two_at_once(known: Reference, folder: Path, dice: Random) -> Iterator[dict[str, object]]:
    """Begin the same run in the same folder twice, the second a moment after the first."""
    for number in itertools.count():
        place = folder / f"{number}"
        pids = [begin(known.work.run, place)]
        time.sleep(dice.random() * 0.05)
        pids.append(begin(known.work.run, place))
        ended = [end(pid, place) for pid in pids]
        after, left = files(place)
        held = not any(run.code for run in ended) and after == known.files
        yield {"left": len(left), "held": held, "says": "nothing", "runs": ended}


def damaged(known: Reference, folder: Path, dice: Random) -> Iterator[dict[str, object]]:
    """Use files that were cut short or had a bit turned: as before, or refused by name."""
    use, whole = known.work.use, shutil.copytree(known.folder, folder / "whole")
    before = end(begin(use, whole), whole).result
    for number in itertools.count():
        place = shutil.copytree(known.folder, folder / f"{number}")
        kept = (p for p in place.glob(known.work.kept) if p.is_file() and p.suffix != ".lock")
        path = dice.choice(sorted(kept))
        damage(path, dice)
        ended = end(begin(use, place), place)
        same = ended.code == 0 and ended.result == before
        names = path.stem.strip("."), path.relative_to(place).parts[0]
        remedy = re.search("delete|again|replace|fetch|name another", ended.said)
        named = bool(remedy) and any(name in ended.said for name in names)
        yield {
            "lost": ended.code == 0 and not same,
            "unnamed": ended.code != 0 and not named,
            "held": same or named,
            "says": shown(ended.said, place)
            or "a warning that it is not used; it is fetched again",
            "runs": (path, ended),
        }


def damage(path: Path, dice: Random) -> None:
    content = bytearray(path.read_bytes())
    place = dice.randrange(len(content))
    content[place] ^= 1 << dice.randrange(8)
    path.write_bytes(content if dice.random() < 0.5 else content[:place])


# --- the table --------------------------------------------------------------------------------

NO_SPACE = "(?i)(/.*no space left|no space left.*/)"
FAULTS = {
    "kill -9": (partial(stopped, stop=kill, named=""), 30, WORKS),
    "disk full from a write on": (partial(stopped, stop=fill_disk, named=NO_SPACE), 30, WORKS),
    "two processes at once": (two_at_once, 5, WORKS),
    "SIGINT": (partial(stopped, stop=interrupt, named="(?i)interrupt"), 4, WORKS[:2]),
    "damaged file": (damaged, 40, WORKS[:4]),
}


def campaign(share: float, folder: Path) -> Iterator[dict[str, object]]:
    """Yield the rows of the table; a share below 1 breaks that share of it, each at least once."""
    torch.set_num_threads(1)
    warm = {"TISM_DATA_DIR": f"{folder}/warm/data", "TISM_RESULTS_DIR": f"{folder}/warm/results"}
    with patch.dict(os.environ, warm):  # imports and data are then there in every fork
        for run in (train, cached_maps, save_tables):
            run(folder / "warm")
    known = {work: reference(work, folder / work.name / "reference") for work in WORKS}
    for fault, (broken, times, works) in FAULTS.items():
        for work in works:
            dice = Random(f"{SEED} {fault} {work.name}")
            cases = broken(known[work], folder / work.name / fault, dice)
            yield row(fault, work, list(itertools.islice(cases, max(1, round(share * times)))))


def row(fault: str, work: Work, cases: list[dict[str, object]]) -> dict[str, object]:
    """Return the row of the table that sums cases up; print those that did not hold."""
    for case in cases:
        if not case["held"]:
            print(case)
    columns = ("lost", "half_written", "left", "unnamed", "held")
    sums = {column: sum(int(case.get(column, 0)) for case in cases) for column in columns}
    says = max((case["says"] for case in cases), key=len)
    return {"fault": fault, "where": work.name, "times": len(cases), **sums, "says": says}


def is_harmless(table: pd.DataFrame) -> bool:
    """Return True if nothing was lost; only a run that is stopped at once may leave files."""
    left = table.loc[~table["fault"].isin(["kill -9", "SIGINT"]), "left"]
    harm = table[["lost", "half_written", "unnamed"]].to_numpy().sum() + left.sum()
    return harm == 0 and (table["held"] == table["times"]).all()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the faults; 1 records them")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" ignores it
    os.environ.update(TISM_DEVICE="cpu", OMP_NUM_THREADS="1", NO_PROXY="127.0.0.1")
    os.environ.pop("TISM_DATA_MIRROR", None)
    serve = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"]
    pipes, rows = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}, []
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([*serve, inputs()], **pipes) as server,
    ):
        try:
            port = re.search(r"port (\d+)", server.stdout.readline())[1]
            os.environ["TISM_FAULTS_URL"] = f"http://127.0.0.1:{port}/file.bin"
            for found in campaign(options.share, Path(folder)):
                rows.append(found)
                print(*found.values(), sep=" | ", flush=True)
        finally:
            server.kill()
    shutil.rmtree(inputs())
    table = pd.DataFrame(rows)
    write_text(options.out, table.to_csv(index=False, lineterminator="\n"))
    if options.share == 1:
        about = {"seed": SEED, "share": options.share, **records.provenance()}
        write_text(options.out.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    sys.exit(not is_harmless(table))


if __name__ == "__main__":
    main()
