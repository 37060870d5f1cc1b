"""What the scores of 1 kb in the middle of a long sequence cost, for networks with attention.

    python -m tism.study.long_sequences [NAME ...]   # writes data/results/long_sequences.csv

The networks are re-creations of published ones at their real lengths and a reduced width, with
random weights: their costs are those of their architectures, their r says little of trained ones.
Times are seconds of one processor, so that other work on the machine counts less.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from tism.correlations import profile_correlation
from tism.exact import ism
from tism.first_order import tism
from tism.layerwise import layerwise_tism
from tism.score.files import write_text
from tism.study.bench import random_sequences
from tism.study.data.download import data_root
from tism.study.records import provenance
from tism.study.zoo import ZOO

POSITIONS = 1000
_FEW, _SOME, _FULL = 4, 16, 1  # positions that are timed; those of all follow from a line


class Case(NamedTuple):
    """A network of the zoo at a length, with the layers behind which it is taken as linear."""

    network: str
    length: int
    settings: dict[str, int]
    depths: tuple[str, ...]


CASES = (
    Case("Enformer", 196_608, {"width": 192, "layers": 11}, ("20.sum",)),
    Case("Borzoi", 131_072, {"width": 96, "layers": 4}, ("tower.5", "down.1")),
)


def measured(case: Case, method: str, positions: int) -> tuple[Tensor, float, float]:
    """Scores of the positions in the middle, processor seconds and peak memory in GiB."""
    torch.set_num_threads(1)
    entry, one_hot = ZOO[case.network], random_sequences(1, case.length)
    model = entry.build(case.length, **case.settings)
    start = (case.length - positions) // 2
    options: dict[str, Any] = {"start": start, "stop": start + positions}
    options |= {"args": entry.inputs(case.length), "output_fn": entry.output_fn}
    compute: Callable[..., Tensor] = partial(layerwise_tism, depth=method)
    if method in ("full", "windowed"):
        compute = partial(ism, engine=method)
    elif method == "tism":
        compute = tism
    before = time.process_time()
    scores = compute(model, one_hot, 0, **options)
    seconds = time.process_time() - before
    return scores, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def table_of(case: Case) -> pd.DataFrame:
    """A row for each method: seconds for `POSITIONS` positions, memory, r with exact ISM."""
    found: dict[str, dict[str, Any]] = {}
    exact = None
    for method in ("windowed", *case.depths, "tism", "full"):
        sizes = {"tism": (_SOME,), "full": (_FULL,)}.get(method, (_FEW, _SOME))
        seconds = []
        for positions in sizes:  # each in a process of its own, for its peak of memory
            with get_context("spawn").Pool(1) as pool:
                scores, taken, memory = pool.apply(measured, (case, method, positions))
            seconds.append(taken)
            print(case.network, method, positions, f"{taken:.0f} s, {memory:.2f} GiB", flush=True)
        exact = scores if method == "windowed" else exact
        r = float(profile_correlation(scores, exact)) if method != "full" else float("nan")
        found[method] = {"seconds": _for_all(method, seconds), "GiB": memory, "r": r}
    table = pd.DataFrame.from_dict(found, orient="index").rename_axis("method").reset_index()
    table.insert(0, "network", case.network)
    table["times_as_fast_as_full"] = float(table["seconds"].iloc[-1]) / table["seconds"]
    return table


def _for_all(method: str, seconds: list[float]) -> float:
    """Seconds for all positions from those of the timed ones."""
    if method == "tism":
        return seconds[0]
    if method == "full":
        return seconds[0] / (3 * _FULL + 1) * (3 * POSITIONS + 1)
    few, some = seconds
    return some + (some - few) / (_SOME - _FEW) * (POSITIONS - _SOME)


if __name__ == "__main__":
    path = data_root() / "results" / "long_sequences.csv"
    tables = [pd.read_csv(path)] if path.exists() else []
    for case in CASES:
        if case.network in sys.argv[1:] or len(sys.argv) == 1:
            tables = [table[table["network"] != case.network] for table in tables]
            tables.append(table_of(case))
            pd.concat(tables).to_csv(path, index=False, float_format="%.4g", lineterminator="\n")
    write_text(path.with_suffix(".json"), json.dumps(provenance(), indent=1) + "\n")
    print(path.read_text())
