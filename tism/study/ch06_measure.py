"""Run times and memory of the methods of chapter 06, measured in one run.

Each method is timed on as much of a job as fits a budget, at its best batch size and at the
paper's, all of them interleaved.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tism import versions
from tism.exact import ism
from tism.first_order import tism
from tism.predictor import evaluating
from tism.running import full_precision, progress_bar
from tism.study.cache import cached_table
from tism.study.ch06_methods import PAPER_BATCH, PEERS, TIMED_METHODS, Job
from tism.study.profiles import default_device, digest
from tism.study.timing import Timing, compare, peak_memory, seconds

_BRIEF, _LIMIT = 0.5, 60  # seconds: a first call below is repeated; a side beyond is timed no more
_CHECKED = 30  # positions
_TO_EXTRAPOLATE = 3  # sequences; against the time of one they give the time of each further one
_TOLERANCE = 0.05  # of the largest effect; a method further from ISM is not timed


def jobs_of(groups: Sequence[Mapping[str, Any]]) -> list[tuple[Job, list[str]]]:
    """The jobs that a profile lists, each with its methods.

    groups : mappings of the fields of `Job`, of which any may be a list, and `methods` or
        `without`: those to run, by default all, or those not to run

    A job in several groups is run once, with the methods of the first.
    """
    jobs: dict[Job, list[str]] = {}
    for group in groups:
        settings = {key: group[key] for key in group if key not in ("methods", "without")}
        named = {*group.get("methods", []), *group.get("without", [])}
        wrong = set(settings) - {field.name for field in fields(Job)} | named - set(TIMED_METHODS)
        if wrong:
            raise ValueError(
                f"06_runtime: unknown {', '.join(map(repr, sorted(wrong)))}; a group has the "
                f"fields of Job and methods or without, of {'; '.join(TIMED_METHODS)}"
            )
        excluded = group.get("without", [])
        names = [n for n in group.get("methods", TIMED_METHODS) if n not in excluded]
        choices = [value if isinstance(value, list) else [value] for value in settings.values()]
        for values in product(*choices):
            jobs.setdefault(Job(**dict(zip(settings, values, strict=True))), names)
    return list(jobs.items())


def measure(
    groups: Sequence[Mapping[str, Any]], *, budget: float, repeats: int, progress: bool = False
) -> pd.DataFrame:
    """Time the methods of each job; what an earlier call measured on this machine is read.

    groups : as in `jobs_of`
    budget : seconds of one run; the smallest part of a job that a method can do may take longer
    repeats : timed runs of each side

    Returns the rows of `measure_job` for all jobs.
    """
    jobs, tables = jobs_of(groups), []
    held = [budget, repeats, versions.SPEED, versions.MODEL, _machine()]
    with progress_bar(len(jobs), progress, "run times") as report:
        for job, names in jobs:
            compute = partial(measure_job, job, names, budget=budget, repeats=repeats)
            tables.append(cached_table(f"runtime/{digest([asdict(job), names, *held])}", compute))
            report(1)
    return pd.concat(tables, ignore_index=True)


def _machine() -> list[Any]:
    """What run times depend on beside the job: processor, threads, torch and the peers."""
    about = Path("/proc/cpuinfo")
    names = re.findall(r"model name.*", about.read_text()) if about.exists() else []
    torch_here = [default_device(), torch.get_num_threads(), torch.__version__]
    return [*torch_here, sorted({*names}), [_installed(peer) for peer in PEERS]]


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def measure_job(job: Job, names: Sequence[str], *, budget: float, repeats: int) -> pd.DataFrame:
    """Time methods on one job.

    Returns one row for each method and `setting`: "best", its fastest batch size; "paper", 20
    where that is another; and "sweep", each batch size that was tried, run once. Columns, beside
    those of the job:
    batch_size : NaN for the method's own choice
    seconds, low, high : for the whole job; median and quartiles over `repeats`
    each : seconds of every repeat, with spaces between; the n-th repeats of a job's methods are of
        the same round
    share : of the job that was run; below 1 the seconds are extrapolated
    bytes : peak of memory beyond what was held before, of one batch or one sequence
    preparation : seconds, once for a network
    error : largest difference from what the method must equal, relative to the largest value; a
        method with more than 5 % has no seconds
    threads, device : of PyTorch
    """
    device, model = torch.device(default_device()), job.model()
    rows: list[dict[str, Any]] = []
    with evaluating(model, device=device), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fast=False because")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="yuzu")
        for name in names:
            rows += Trial(job, name, model, device).rows(budget)
        sides = {
            (number, key): row.pop(key)
            for number, row in enumerate(rows)
            for key in ("run", "run one")
            if key in row
        }
        timings = compare(sides, repeats=repeats, warm_up=0, limit=_LIMIT, device=device)
    for number, row in enumerate(rows):
        if (number, "run") in timings:
            part, one = timings[number, "run"], timings.get((number, "run one"))
            whole = partial(_extrapolated, one=one, share=row["share"], n=job.n_sequences)
            row |= {"seconds": whole(part.median), "low": whole(part.low), "high": whole(part.high)}
            row["each"] = " ".join(f"{whole(repeat):.6g}" for repeat in part.repeats)
            row["repeats"] = len(part.repeats)
    about = {"threads": torch.get_num_threads(), "device": device.type}
    return pd.DataFrame([{**asdict(job), **row, **about} for row in rows])


def check_extrapolation(job: Job, *, budget: float, repeats: int) -> pd.DataFrame:
    """Compare the measured time of plain ISM of a whole job with that extrapolated from parts.

    budget : seconds of a part; one batch may take longer
    repeats : number of parts that are timed before the whole job, and again after it

    Returns one row: the job, batch_size, share (of the job that a part is), extrapolated, low and
    high (median and quartiles of the parts' seconds over their share), whole (seconds).
    """
    held = [asdict(job), budget, repeats, versions.SPEED, _machine()]
    compute = partial(_check_extrapolation, job, budget, repeats)
    return cached_table(f"runtime/whole_{digest(held)}", compute)


def _check_extrapolation(job: Job, budget: float, repeats: int) -> pd.DataFrame:
    device, model = torch.device(default_device()), job.model()
    with evaluating(model, device=device):
        trial = Trial(job, "ISM", model, device)
        elapsed, _ = trial.try_batch(PAPER_BATCH)
        part = trial.portion(PAPER_BATCH, budget * job.n_sequences / elapsed)
        run_part = trial.runner(PAPER_BATCH, part)
        run_whole = trial.runner(PAPER_BATCH, Portion(job.n_sequences, job.length, 1.0))
        before = [seconds(run_part, device) for _ in range(repeats)]
        whole = seconds(run_whole, device)
        after = [seconds(run_part, device) for _ in range(repeats)]
    low, median, high = np.quantile([*before, *after], [0.25, 0.5, 0.75]) / part.share
    times = {"extrapolated": median, "low": low, "high": high, "whole": whole}
    about = {"batch_size": PAPER_BATCH, "share": part.share}
    return pd.DataFrame([{**asdict(job), **about, **times}])


def _extrapolated(part: float, one: Timing | None, share: float, n: int) -> float:
    """Seconds of a whole job from those of a part.

    one : seconds of a single sequence, if a call takes time to begin, whatever it is given
    """
    if one is None:
        return part / share
    ran = round(share * n)
    return part + (n - ran) * max(0.0, part - one.median) / (ran - 1)


class Portion(NamedTuple):
    """Part of a job that is run: some sequences and positions, and their share of the whole."""

    sequences: int
    positions: int
    share: float


class Trial:
    """A method on a job: checked against ISM, tried at each batch size."""

    def __init__(self, job: Job, name: str, model: nn.Module, device: torch.device):
        self.job, self.name, self.method = job, name, TIMED_METHODS[name]
        self.model, self.device, self.one_hot = model, device, job.sequences()
        start = time.perf_counter()
        self.prepared = self.method.prepare(job, model)
        self.preparation = time.perf_counter() - start

    def rows(self, budget: float) -> list[dict[str, Any]]:
        """Rows of `measure_job`; those that are to be timed hold their functions in `run`."""
        with full_precision(self.device):  # TF32 would count as an error of the method
            error = self.error()
        about = {"method": self.name, "preparation": self.preparation, "error": error}
        if not about["error"] <= _TOLERANCE:
            return [{**about, "setting": "best"}]
        tried = {size: self.try_batch(size) for size in self.method.batch_sizes(self.job)}
        rows = [
            {**about, "setting": "sweep", "batch_size": size, "seconds": elapsed, "bytes": held}
            for size, (elapsed, held) in tried.items()
        ]
        best = min(tried, key=tried.__getitem__)
        for setting, size in {"best": best, "paper": PAPER_BATCH}.items():
            if size in tried and (setting == "best" or size != best):
                part = self.portion(size, budget * self.job.n_sequences / tried[size][0])
                row = {**about, "setting": setting, "batch_size": size, "share": part.share}
                row |= {"bytes": tried[size][1], "run": self.runner(size, part)}
                if self.method.unit == "sequence" and part.share < 1:
                    row["run one"] = self.runner(size, self._one_sequence())
                rows.append(row)
        return rows

    def portion(self, size: int | None, affordable: float) -> Portion:
        """About `affordable` sequences of the job, at least one batch of one unit, at most all."""
        n, positions = int(min(affordable, self.job.n_sequences)), self.job.length
        if self.method.unit == "batch":
            n = max(n - n % size, min(size, self.job.n_sequences))
        elif self.method.unit == "sequence":
            n = max(n, min(_TO_EXTRAPOLATE, self.job.n_sequences))
        elif n == 0:
            positions = max(math.ceil(size / 3), int(affordable * self.job.length))
            positions = min(self.job.length, positions)
        n = max(n, 1)
        return Portion(n, positions, n * positions / (self.job.n_sequences * self.job.length))

    def _one_sequence(self) -> Portion:
        return Portion(1, self.job.length, 1 / self.job.n_sequences)

    def runner(self, size: int | None, part: Portion) -> Callable[[], Tensor]:
        """Runs a part of the job, its sequences and positions drawn at random each time."""
        rng = np.random.default_rng(0)

        def run() -> Tensor:
            chosen = rng.choice(len(self.one_hot), part.sequences, replace=False)
            start = int(rng.integers(self.job.length - part.positions + 1))
            return self.scores(self.one_hot[chosen], size, start, start + part.positions)

        return run

    def try_batch(self, size: int | None) -> tuple[float, float]:
        """Seconds of the whole job at one batch size, and bytes, from the least it can run."""
        whole = self.method.unit == "sequence"
        part = self._one_sequence() if whole else self.portion(size, 0)
        run = self.runner(size, part)
        times: list[float] = []
        held = peak_memory(lambda: times.append(seconds(run, self.device)), self.device)
        if times[0] < _BRIEF:  # the first call may be slower
            times.append(seconds(run, self.device))
        return times[-1] / part.share, held

    def scores(self, one_hot: Tensor, size: int | None, start: int, stop: int) -> Tensor:
        """Scores of sequences, of the positions asked for or, in larger units, of all."""
        span = {"start": start, "stop": stop} if self.method.unit == "positions" else {}
        return self.method.run(self.prepared, one_hot, batch_size=size, **span)

    def error(self) -> float:
        """Largest relative difference of one sequence's scores from what they must equal; or 0."""
        if not self.method.equals:
            return 0.0
        size, length, one = self.method.batch_sizes(self.job)[0], self.job.length, self.one_hot[:1]
        start = max(0, length - _CHECKED) // 2
        stop = min(start + _CHECKED, length)
        got = self.scores(one, size, start, stop)
        if self.method.unit == "sequence":
            got = got[..., start:stop]
        if self.method.equals == "TISM":
            true = tism(self.model, one, 0)
        else:
            true = ism(self.model, one, start=start, stop=stop, engine="full")
            true = true.square().sum(1).sqrt() if self.method.equals == "norm" else true
        return float((got - true).abs().max() / true.abs().max())
