"""How things are broken, and the row of the table that comes of it; see `faults`."""

from __future__ import annotations

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
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import torch
from fault_works import SEED, WORKS, Kept, Work, attributions, inputs

from tism.engine.replay import Windows
from tism.exact import _MOST_TRIED
from tism.running import Predictor
from tism.study import profiles as experiment

COLUMNS = ("fault", "where", "times", "lost", "half_written", "left", "unnamed", "held", "says")


def begin(work: Work, folder: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Fork a process that does the work; what it says goes to <folder>.log."""
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    pid = os.fork()
    if pid:
        os.close(log)
        return pid
    code = 1
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
        text = text.removeprefix("says ").strip(" :").replace(f"{folder}/", "")
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
    row.says = row.says or "nothing: the same call goes on"
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
    row.says = row.says or "a warning that the file is not used; it is fetched again"
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


def stopped_training(folder: Path) -> Path:
    """A training that was killed in its second epoch."""
    folder.mkdir(parents=True)

    def kill(number: int, path: str, _: bool) -> None:
        if "state_2" in path:
            os.kill(os.getpid(), signal.SIGKILL)

    ends(begin(WORKS[0], folder, lambda: at_event(folder, kill)))
    return folder
