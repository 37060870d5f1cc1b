"""How alike two score maps are, with intervals that respect overlapping regions.

Maps are (n, tasks, 4, length), sequences (n, 4, length). A correlation that does not exist because
a profile is constant is NaN here, and every summary counts how many there were.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tism.taylor import mean_effect


def pearson(a: Any, b: Any, dim: int = -1) -> Tensor:
    """Pearson correlation along `dim`, computed in float64; NaN where a or b is constant."""
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    if a.shape != b.shape:
        raise ValueError(f"shapes must agree, got {tuple(a.shape)} and {tuple(b.shape)}")
    constant = (a.amax(dim) == a.amin(dim)) | (b.amax(dim) == b.amin(dim))
    a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
    r = (a * b).sum(dim) / (a.norm(dim=dim) * b.norm(dim=dim))
    return r.clamp(-1, 1).masked_fill(constant, float("nan"))


def profile_correlation(first: Tensor, second: Tensor) -> Tensor:
    """(n, tasks): Pearson over all 4 * length entries, reference zeros included, as in the paper.

    With `tism.centre` of both maps it compares attribution maps (Eq. 4).
    """
    return pearson(first.flatten(2), second.flatten(2))


def substitution_correlation(first: Tensor, second: Tensor, one_hot: Tensor) -> Tensor:
    """(n, tasks): Pearson over the substitutions only, 3 * length entries where there is no N."""
    rows = []
    for a, b, sequence in zip(first, second, one_hot, strict=True):
        substituted = sequence == 0
        rows.append(pearson(a[:, substituted], b[:, substituted]))
    return torch.stack(rows)


def mean_effect_correlation(first: Tensor, second: Tensor, one_hot: Tensor) -> Tensor:
    """(n, tasks): Pearson over the length of the mean effect of each reference base (Fig S1)."""
    return pearson(mean_effect(first, one_hot).sum(2), mean_effect(second, one_hot).sum(2))


def task_difference_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Do two kinds of map change alike from one task to another?

    Returns (n, tasks * (tasks - 1) / 2): for each pair of tasks the Pearson correlation, over the
    4 * length entries, of the difference of the first maps with the difference of the second ones.
    """
    return torch.stack([_difference_correlation(a, b) for a, b in zip(first, second, strict=True)])


def _difference_correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1).double(), b.flatten(1).double()  # (tasks, 4 * length)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    products = (_difference_product(a, b), _difference_product(a, a), _difference_product(b, b))
    pairs = torch.triu_indices(len(a), len(a), offset=1)
    both, of_a, of_b = (product[pairs[0], pairs[1]] for product in products)
    smallest = 1e-20 * (a.square().sum(1).max() * b.square().sum(1).max())
    exists = of_a * of_b > smallest
    return (both / (of_a * of_b).sqrt()).clamp(-1, 1).masked_fill(~exists, float("nan"))


def _difference_product(a: Tensor, b: Tensor) -> Tensor:
    """(tasks, tasks): inner product of a[t] - a[u] with b[t] - b[u], without forming them."""
    product = a @ b.T
    own = product.diagonal()
    return own[:, None] + own[None] - product - product.T


@dataclass(frozen=True)
class Summary:
    """A statistic of correlations with its interval, and what it rests on.

    value, low, high : the statistic and its percentile bootstrap interval over loci
    n_profiles : correlations that exist
    n_constant : correlations that do not, because a profile is constant
    n_loci : independent units
    """

    value: float
    low: float
    high: float
    n_profiles: int
    n_constant: int
    n_loci: int


def summarise(
    values: Any,
    loci: Any,
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Summary:
    """A statistic of per-region values with a bootstrap interval over loci (scipy.stats.bootstrap).

    values : (n,) or (n, k), NaN where there is none
    loci : (n,) labels; regions of one locus are drawn together
    statistic : of a 1-d array without NaN

    Raises ValueError where no value exists. With a single locus the interval is NaN.
    """
    from scipy import stats

    values = np.asarray(values, dtype=float)
    values = values.reshape(len(values), -1)
    exists = np.isfinite(values)
    if not exists.any():
        raise ValueError(f"none of the {values.size} values exists: every profile is constant")
    _, locus = np.unique(np.asarray(loci), return_inverse=True)
    rows_of_locus = np.split(np.argsort(locus, kind="stable"), np.cumsum(np.bincount(locus))[:-1])

    def of_loci(drawn: np.ndarray) -> float:
        rows = np.concatenate([rows_of_locus[i] for i in drawn.astype(int)])
        kept = values[rows]
        return float(statistic(kept[exists[rows]]))

    low = high = float("nan")
    if len(rows_of_locus) > 1:
        interval = stats.bootstrap(
            (np.arange(len(rows_of_locus)),),
            of_loci,
            vectorized=False,
            method="percentile",
            confidence_level=confidence,
            n_resamples=n_resamples,
            rng=np.random.default_rng(seed),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return Summary(
        value=float(statistic(values[exists])),
        low=low,
        high=high,
        n_profiles=int(exists.sum()),
        n_constant=int((~exists).sum()),
        n_loci=len(rows_of_locus),
    )
