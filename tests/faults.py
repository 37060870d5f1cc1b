"""What is broken on purpose and what comes of it; writes data/results/faults.csv.

python tests/faults.py [--share 0.1] [--only FUNCTIONS] [--out FILE]

A work (`fault_works`) is something the package does. It runs in a fork, is broken there in one way
(`fault_kinds`), and runs again as its user would run it; the files in the end are compared with
those of a run that nothing disturbed. All chance comes from `SEED`. Columns of the table:

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
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
from fault_kinds import (
    Reference,
    Row,
    damages,
    full_disks,
    in_fork,
    interruptions,
    kills,
    notebook_interruptions,
    reference,
    shortages,
    small_disks,
    stopped_training,
    two_at_once,
    workflow_kills,
)
from fault_works import KEPT, SEED, WORKS, Work, attributions, inputs, server, warm_up
from test_download import GOOD

from tism.score.files import write_text
from tism.study import compendium

TABLE = Path(__file__).parents[1] / "data" / "results" / "faults.csv"
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

    def wanted(function: Callable) -> bool:
        return only is None or function.__name__ in only

    slow = (workflow_kills, N_WORKFLOW), (notebook_interruptions, N_NOTEBOOK)
    slow = [
        in_fork(function, times, folder / "slow" / function.__name__)
        for function, times in slow
        if share == 1 and wanted(function)
    ]
    warm_up(folder / "warm")
    known = [in_fork(reference, work, folder / work.name / "reference") for work in WORKS]
    begun: list[Callable[[], object]] = []
    for work, wait in zip(WORKS, known, strict=True):
        for function, *arguments in faults_of(work, wait(), share, folder / work.name):
            if len(begun) == AT_ONCE:
                yield begun.pop(0)()
            if wanted(function):
                begun.append(in_fork(function, *arguments))
    if wanted(shortages):
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
    parser.add_argument(
        "--only", nargs="+", help="of the functions of fault_kinds; the table's other rows stay"
    )
    options = parser.parse_args()
    if options.share == 1:
        enter_namespace()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" ignores it
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
