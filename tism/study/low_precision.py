"""What `autocast=` costs in accuracy: scores in low precision against those in single precision.

    python -m tism.study.low_precision          # writes data/results/precision.csv

The trained networks score the regions of the explorer page, the networks of the zoo, whose weights
are random, random sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from tism.correlations import profile_correlation
from tism.exact import ism
from tism.first_order import tism
from tism.sequence import one_hot_encode
from tism.study.bench import random_sequences
from tism.study.data.download import data_root
from tism.study.training import load_model
from tism.study.zoo import ZOO

TRAINED = ("yeast", "simulated")
UNTRAINED = ("DeepSEA", "ChromBPNet", "Basenji2")
PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_TASKS, _SEQUENCES, _POSITIONS = slice(0, 6), 8, 50
Scores = Callable[..., Tensor]  # of one network and its sequences


def scored_networks() -> Iterator[tuple[str, Scores, Scores]]:
    """Name, TISM and exact ISM of each network; ISM of the positions in the middle."""
    regions = pd.read_csv(data_root() / "results" / "yeast" / "explorer_regions.csv")
    for name in TRAINED:
        model, _ = load_model(data_root() / "models" / f"{name}_baseline_0")
        sequences = regions.loc[regions["dataset"] == name, "sequence"][:_SEQUENCES]
        yield name, *_scores(model, one_hot_encode(list(sequences)))
    for name in UNTRAINED:
        entry = ZOO[name]
        one_hot, model = random_sequences(_SEQUENCES, entry.short), entry.build(entry.short)
        yield name, *_scores(model, one_hot, output_fn=entry.output_fn)


def _scores(model: torch.nn.Module, one_hot: Tensor, **options: Any) -> tuple[Scores, Scores]:
    start = (one_hot.shape[2] - _POSITIONS) // 2
    stretch = {"start": start, "stop": start + _POSITIONS, "engine": "full"}
    given = (model, one_hot, _TASKS)
    return partial(tism, *given, **options), partial(ism, *given, **stretch, **options)


def loss(low: Tensor, exact: Tensor) -> dict[str, float]:
    """Largest error as a share of the largest score, and r, of profiles (n, tasks, 4, length).

    error, worst : median and maximum of the share over all profiles
    """
    share = (low - exact).abs().amax((2, 3)) / exact.abs().amax((2, 3))
    r = profile_correlation(low, exact).nanmean()
    return {"error": share.median().item(), "worst": share.max().item(), "mean_r": r.item()}


def precision_table() -> pd.DataFrame:
    """A row for each network, score and precision: the columns of `loss`."""
    rows = []
    for name, *scores in scored_networks():
        for score, compute in zip(("TISM", "ISM"), scores, strict=True):
            exact = compute()
            for precision, dtype in PRECISIONS.items():
                found = loss(compute(autocast=dtype), exact)
                rows.append({"network": name, "score": score, "precision": precision, **found})
    return pd.DataFrame(rows).assign(torch=torch.__version__)


if __name__ == "__main__":
    path = data_root() / "results" / "precision.csv"
    precision_table().to_csv(path, index=False, float_format="%.3g", lineterminator="\n")
    print(path.read_text())
