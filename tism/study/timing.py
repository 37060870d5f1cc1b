"""Time and memory of functions that do the same work, measured side by side in one run."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch


class Timing(NamedTuple):
    """Seconds of one side: median, quartiles and each repeat."""

    median: float
    low: float
    high: float
    repeats: tuple[float, ...]


@contextmanager
def threads_kept() -> Iterator[None]:
    """Restore torch's thread count, which numba changes because both use OpenMP's threads."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was sent: its functions return before that."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds(function: Callable[[], Any], device: str | torch.device = "cpu") -> float:
    """Seconds that one call takes: on the wall clock, on CUDA between two events of the device."""
    device = torch.device(device)
    synchronise(device)
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000
    start = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - start


def compare(
    sides: Mapping[Any, Callable[[], Any]],
    *,
    repeats: int = 5,
    warm_up: int = 1,
    limit: float = math.inf,
    device: str | torch.device = "cpu",
) -> dict[Any, Timing]:
    """Time several functions, interleaved: every round calls each of them once, in a random order.

    A machine that slows down then slows all sides alike. `warm_up` rounds go before, untimed.

    sides : name to a function without arguments
    limit : seconds; a side that has taken longer is timed twice and then left out

    Raises ValueError for less than one round.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    rng, names = np.random.default_rng(0), list(sides)
    times: dict[Any, list[float]] = {name: [] for name in names}
    for turn in range(-warm_up, repeats):
        for number in rng.permutation(len(names)):
            taken = times[names[number]]
            if len(taken) > 1 and sum(taken) > limit:
                continue
            elapsed = seconds(sides[names[number]], device)
            if turn >= 0:
                taken.append(elapsed)
    quartiles = {k: np.quantile(v, (0.5, 0.25, 0.75)).tolist() for k, v in times.items()}
    return {name: Timing(*quartiles[name], tuple(values)) for name, values in times.items()}


def peak_memory(function: Callable[[], Any], device: str | torch.device = "cpu") -> float:
    """Most bytes that a call holds at once, its result included, beyond what was held before.

    On CUDA the bytes are the device's, else those of the process, which only Linux reports: NaN
    elsewhere.
    """
    device = torch.device(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return float(torch.cuda.max_memory_allocated(device) - before)
    if not sys.platform.startswith("linux"):
        function()
        return float("nan")
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # glibc gives back what it keeps for later
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, see proc(5)
    function()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    """Bytes of this process in memory now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(field))
