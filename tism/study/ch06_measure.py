"""What ISM and TISM cost: the networks, the methods and their peers, timed in one run.

A `Job` is one comparison: sequences of one length through one network. Each method is timed on as
much of it as fits a budget, at its best batch size and at the paper's, all of them interleaved.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tism import versions
from tism.exact import ism
from tism.first_order import tism
from tism.model import build_model
from tism.predictor import evaluating
from tism.running import progress_bar
from tism.study import ch06_peers as peers
from tism.study.cache import cached_table
from tism.study.ch06_timing import Timing, compare, peak_memory, seconds
from tism.study.profiles import default_device, digest

PAPER_BATCH = 20
_BATCH_SIZES = (1, 2, 5, 10, 20, 40, 80, 160, 320, 640)
_MOST_BASES = 2**17  # of one batch: 300 channels of it take 150 MB
_BRIEF, _LIMIT = 0.5, 60  # seconds: of a call, and of a side after which it is timed no more
_CHECKED = 30  # positions
_SLOPE = 3  # sequences from which, and from one, the cost of a further one is taken
_TOLERANCE = 0.05  # of the largest effect; a method further from ISM is not timed


@dataclass(frozen=True)
class Job:
    """One comparison.

    network : "baseline" (the paper's, 5 convolutions), "shallow" or "deep" (its Fig 2: 3
        convolutions and 2 dense layers, 8 and 3, each before the output)
    length, n_sequences : of the input
    pool : positions of every pooling window of the baseline
    width : kernels of a convolution of the baseline; those of the others scale with it
    n_tasks : outputs
    """

    network: str
    length: int
    n_sequences: int
    pool: int = 2
    width: int = 298
    n_tasks: int = 81

    def model(self) -> nn.Module:
        """The untrained network."""
        if self.network == "baseline":
            return build_model(
                "baseline",
                length=self.length,
                n_tasks=self.n_tasks,
                width=self.width,
                pool=self.pool,
                seed=0,
            )
        return build_aitac(self.length, self.n_tasks, deep=self.network == "deep", width=self.width)

    def sequences(self) -> Tensor:
        """(n_sequences, 4, length) random bases."""
        generator = torch.Generator().manual_seed(0)
        bases = torch.randint(4, (self.n_sequences, self.length), generator=generator)
        return nn.functional.one_hot(bases, 4).mT.float().contiguous()


def build_aitac(length: int, n_tasks: int, *, deep: bool, width: int = 298) -> nn.Sequential:
    """The untrained networks of the paper's Fig 2: AI-TAC (Maslova et al. 2020) and a deeper one.

    Three convolutions of 300, 200 and 200 kernels of 19, 11 and 7 bp, pooled by 3, 4 and 4, and two
    dense layers of 1,000; or eight and three, the further convolutions being of 200 kernels of 7.
    At 298, `width` gives these sizes. A plain sequence of layers, as Yuzu needs, with the
    flattening layer that it knows where it is installed.
    """
    try:
        from yuzu.models import Flatten
    except ImportError:
        Flatten = _Flatten
    wide, narrow, dense = (max(1, round(size * width / 298)) for size in (300, 200, 1000))
    shallow = [(wide, 19, 3), (narrow, 11, 4), (narrow, 7, 4)]
    plain = (narrow, 7, 1)
    convolutions = shallow if not deep else [
        shallow[0], shallow[1], plain, plain, shallow[2], plain, plain, plain
    ]  # fmt: skip
    layers: list[nn.Module] = []
    channels, positions = 4, length
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for kernels, kernel, pool in convolutions:
            layers += [nn.Conv1d(channels, kernels, kernel, padding=kernel // 2), nn.ReLU()]
            layers += [nn.BatchNorm1d(kernels)] + [nn.MaxPool1d(pool)] * (pool > 1)
            channels, positions = kernels, positions // pool
        layers.append(Flatten())
        features = channels * positions
        for _ in range(3 if deep else 2):
            layers += [nn.Linear(features, dense), nn.ReLU(), nn.BatchNorm1d(dense)]
            features = dense
        model = nn.Sequential(*layers, nn.Linear(features, n_tasks)).eval()
        for layer in model:
            if isinstance(layer, nn.Conv1d | nn.Linear):  # an effect survives all the layers
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        return model


class _Flatten(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, length) to (n, length * channels)."""
        return x.mT.flatten(1)


class Method(NamedTuple):
    """How one method is run.

    run : run(one_hot, batch_size, start, stop) -> scores
    batch_sizes : to choose from; None is the method's own choice
    unit : the least that it can do: some "positions" of a sequence or a whole "sequence", with a
        batch of substitutions; or a "batch" of sequences
    equals : what it must equal: "ISM", the "norm" of ISM over the tasks, "TISM" of the first task,
        or nothing
    """

    run: Callable[[Tensor, int | None, int, int], Tensor]
    batch_sizes: Sequence[int | None]
    unit: str
    equals: str = ""


def _full(job: Job, model: nn.Module) -> Method:
    def run(x: Tensor, size: int | None, start: int, stop: int) -> Tensor:
        return ism(model, x, start=start, stop=stop, engine="full", batch_size=size)

    return Method(run, _substitutions(job), "positions", "ISM")


def _windowed(job: Job, model: nn.Module) -> Method:
    def run(x: Tensor, size: int | None, *_: int) -> Tensor:
        return ism(model, x, engine="windowed", batch_size=size)

    return Method(run, (None, PAPER_BATCH, 320), "sequence", "ISM")


def _tism_of_one(job: Job, model: nn.Module) -> Method:
    return Method(lambda x, size, *_: tism(model, x, 0, batch_size=size), _rows(job), "batch")


def _tism_of_all(job: Job, model: nn.Module) -> Method:
    sizes = _rows(job)[:3]  # many passes through one graph want it small
    return Method(lambda x, size, *_: tism(model, x, batch_size=size), sizes, "batch")


def _tangermeme(job: Job, model: nn.Module) -> Method:
    def run(x: Tensor, size: int | None, start: int, stop: int) -> Tensor:
        return peers.tangermeme_ism(model, x, batch_size=size, fast=False, start=start, stop=stop)

    return Method(run, _substitutions(job), "positions", "ISM")


def _tangermeme_fast(job: Job, model: nn.Module) -> Method:
    def run(x: Tensor, size: int | None, *_: int) -> Tensor:
        return peers.tangermeme_ism(model, x, batch_size=size)

    return Method(run, (PAPER_BATCH, 80, 320), "sequence", "ISM")


def _captum(job: Job, model: nn.Module) -> Method:
    def run(x: Tensor, size: int | None, *_: int) -> Tensor:
        return peers.captum_tism(model, x, 0, batch_size=size)

    return Method(run, _rows(job), "batch", "TISM")


def _yuzu(job: Job, model: nn.Module) -> Method:
    yuzu = _precomputed(replace(job, n_sequences=1))
    return Method(lambda x, size, *_: yuzu(x, batch_size=size), (1, 2), "sequence", "norm")


@lru_cache(maxsize=1)
def _precomputed(job: Job) -> peers.Yuzu:
    """Of a network, whatever the number of sequences."""
    return peers.Yuzu(job.model(), job.length)


METHODS: dict[str, Callable[[Job, nn.Module], Method]] = {
    "ISM": _full,
    "windowed ISM": _windowed,
    "TISM, one task": _tism_of_one,
    "TISM, all tasks": _tism_of_all,
    "tangermeme, plain": _tangermeme,
    "tangermeme, fast": _tangermeme_fast,
    "captum, one task": _captum,
    "Yuzu": _yuzu,
}


def _substitutions(job: Job) -> list[int]:
    """Batch sizes of substituted sequences, the paper's among them."""
    most = max(PAPER_BATCH, min(_MOST_BASES // job.length, 3 * job.length))
    return [size for size in _BATCH_SIZES if 5 <= size <= most]


def _rows(job: Job) -> list[int]:
    """Batch sizes of whole sequences, of which a job may have few and a graph keeps much."""
    most = min(job.n_sequences, max(1, _MOST_BASES // (2 * job.length)))
    return [size for size in _BATCH_SIZES if most / 16 <= size <= most]


class Portion(NamedTuple):
    """Part of a job that is run: some sequences and positions, and their share of the whole."""

    sequences: int
    positions: int
    share: float


def _portion(job: Job, unit: str, size: int | None, affordable: float) -> Portion:
    """About `affordable` sequences of a job, at least one batch of one unit, at most all."""
    n, positions = int(min(affordable, job.n_sequences)), job.length
    if unit == "batch":
        n = max(n - n % size, min(size, job.n_sequences))
    elif unit == "sequence":
        n = max(n, min(_SLOPE, job.n_sequences))
    elif n == 0:
        positions = min(job.length, max(math.ceil(size / 3), int(affordable * job.length)))
    n = max(n, 1)
    return Portion(n, positions, n * positions / (job.n_sequences * job.length))


def jobs_of(groups: Sequence[Mapping[str, Any]]) -> list[tuple[Job, list[str]]]:
    """The jobs that a profile lists, each with its methods.

    groups : mappings of the fields of `Job`, of which any may be a list, and `methods` or
        `without`: those to run, by default all, or those not to run

    A job that several groups give is run once, with the methods of the first.
    """
    jobs: dict[Job, list[str]] = {}
    for group in groups:
        settings = {key: group[key] for key in group if key not in ("methods", "without")}
        unknown = set(settings) - {field.name for field in fields(Job)}
        named = [*group.get("methods", []), *group.get("without", [])]
        if unknown or set(named) - set(METHODS):
            wrong = sorted(unknown | (set(named) - set(METHODS)))
            raise ValueError(
                f"06_runtime: unknown {', '.join(map(repr, wrong))}; a group has the fields of Job "
                f"and methods or without, of {'; '.join(METHODS)}"
            )
        names = [n for n in group.get("methods", METHODS) if n not in group.get("without", [])]
        choices = [value if isinstance(value, list) else [value] for value in settings.values()]
        for values in product(*choices):
            jobs.setdefault(Job(**dict(zip(settings, values, strict=True))), names)
    return list(jobs.items())


def measure(
    groups: Sequence[Mapping[str, Any]],
    *,
    budget: float = 0.5,
    repeats: int = 5,
    progress: bool = False,
) -> pd.DataFrame:
    """Time the methods of each job; what an earlier call measured on this machine is read.

    groups : as in `jobs_of`
    budget : seconds of one run, more where the least that a method can do takes more
    repeats : timed runs of each side

    Returns the rows of `measure_job` for all jobs.
    """
    jobs = jobs_of(groups)
    tables = []
    with progress_bar(len(jobs), progress, "run times") as report:
        for job, names in jobs:
            tables.append(_cached_times(job, names, budget, repeats))
            report(1)
    return pd.concat(tables, ignore_index=True)


def _cached_times(job: Job, names: Sequence[str], budget: float, repeats: int) -> pd.DataFrame:
    machine = [default_device(), torch.get_num_threads(), torch.__version__]
    settings = [asdict(job), list(names), budget, repeats, versions.SPEED, machine]
    return cached_table(
        f"runtime/{digest(settings)}",
        lambda: measure_job(job, names, budget=budget, repeats=repeats),
    )


def measure_job(
    job: Job, names: Sequence[str], *, budget: float = 0.5, repeats: int = 5
) -> pd.DataFrame:
    """Time methods on one job.

    Returns one row for each method and `setting`: "best", its fastest batch size; "paper", 20
    where that is another; and "sweep", each batch size that was tried, run once. Columns, beside
    those of the job:
    batch_size : NaN for the method's own choice
    seconds, low, high : for the whole job; median and quartiles over `repeats`
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
            rows += _prepare(job, name, model, budget)
        sides = {
            (number, key): row.pop(key)
            for number, row in enumerate(rows)
            for key in ("run", "run one")
            if key in row
        }
        timings = compare(sides, repeats=repeats, warm_up=0, limit=_LIMIT, device=device)
        for number, row in enumerate(rows):
            if (number, "run") in timings:
                whole, one = timings[number, "run"], timings.get((number, "run one"))
                row.update(_extrapolated(whole, one, row["share"], job.n_sequences))
                row["repeats"] = len(whole.repeats)
    about = {"threads": torch.get_num_threads(), "device": device.type}
    return pd.DataFrame([{**asdict(job), **row, **about} for row in rows])


def _extrapolated(part: Timing, one: Timing | None, share: float, n: int) -> dict[str, float]:
    """Seconds of a whole job from those of a part, and of one sequence where a call has a start."""
    times = {"seconds": part.median, "low": part.low, "high": part.high}
    if one is None:
        return {name: time / share for name, time in times.items()}
    ran = round(share * n)
    return {
        name: time + (n - ran) * max(0.0, time - one.median) / (ran - 1)
        for name, time in times.items()
    }


def _prepare(job: Job, name: str, model: nn.Module, budget: float) -> list[dict[str, Any]]:
    """Check a method and try its batch sizes: rows of `measure_job`, those to time with a `run`."""
    one_hot, start = job.sequences(), time.perf_counter()
    method = METHODS[name](job, model)
    about = {"method": name, "preparation": time.perf_counter() - start}
    about["error"] = _error(job, method, model, one_hot)
    if not about["error"] <= _TOLERANCE:
        return [{**about, "setting": "best"}]
    tried = {size: _try(job, method, size, one_hot) for size in method.batch_sizes}
    rows = [
        {**about, "setting": "sweep", "batch_size": size, "seconds": elapsed, "bytes": held}
        for size, (elapsed, held) in tried.items()
    ]
    best = min(tried, key=tried.__getitem__)
    for setting, size in {"best": best, "paper": PAPER_BATCH}.items():
        if size in tried and (setting == "best" or size != best):
            part = _portion(job, method.unit, size, budget * job.n_sequences / tried[size][0])
            side = {"setting": setting, "batch_size": size, "share": part.share}
            side["bytes"] = tried[size][1]
            side["run"] = _runner(job, method, size, one_hot, part)
            if method.unit == "sequence" and part.share < 1:
                single = Portion(1, job.length, 1 / job.n_sequences)
                side["run one"] = _runner(job, method, size, one_hot, single)
            rows.append({**about, **side})
    return rows


def _runner(
    job: Job, method: Method, size: int | None, one_hot: Tensor, part: Portion
) -> Callable[[], Tensor]:
    """Runs a part of a job, its sequences and positions drawn at random each time."""
    rng = np.random.default_rng(0)

    def run() -> Tensor:
        chosen = rng.choice(len(one_hot), part.sequences, replace=False)
        start = int(rng.integers(job.length - part.positions + 1))
        return method.run(one_hot[chosen], size, start, start + part.positions)

    return run


def _try(job: Job, method: Method, size: int | None, one_hot: Tensor) -> tuple[float, float]:
    """Seconds of the whole job at one batch size, and bytes, from the least that can be run."""
    part = Portion(1, job.length, 1 / job.n_sequences)
    if method.unit != "sequence":
        part = _portion(job, method.unit, size, 0)
    run, device = _runner(job, method, size, one_hot, part), default_device()
    times: list[float] = []
    held = peak_memory(lambda: times.append(seconds(run, device)), device)
    if times[0] < _BRIEF:  # the first call may be slower
        times.append(seconds(run, device))
    return times[-1] / part.share, held


def _error(job: Job, method: Method, model: nn.Module, one_hot: Tensor) -> float:
    """Largest difference of one sequence's scores from what they must equal, relative; or 0."""
    if not method.equals:
        return 0.0
    size, one = method.batch_sizes[0], one_hot[:1]
    if method.equals == "TISM":
        got, true = method.run(one, size, 0, job.length), tism(model, one, 0)
    else:
        start = (job.length - min(_CHECKED, job.length)) // 2
        stop = start + min(_CHECKED, job.length)
        whole = method.unit == "sequence"
        got = method.run(one, size, 0, job.length) if whole else method.run(one, size, start, stop)
        got = got[..., start:stop] if whole else got
        true = ism(model, one, start=start, stop=stop, engine="full")
        true = true.square().sum(1).sqrt() if method.equals == "norm" else true
    return float((got - true).abs().max() / true.abs().max())
