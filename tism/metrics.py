"""How alike two score maps are, with intervals that respect overlapping regions.

Maps are (n, tasks, 4, length), sequences (n, 4, length). A correlation that does not exist because
a profile is constant is NaN here, and every summary counts how many there were.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tism.sequence import numeric_tensor
from tism.taylor import mean_effect


def pearson(a: Any, b: Any, dim: int = -1) -> Tensor:
    """Pearson correlation along `dim`, computed in float64; NaN where a or b is constant.

    Differences below 1e-150 have no square in float64 and count as none.
    """
    a, b = numeric_tensor("a", a).double(), numeric_tensor("b", b).double()
    if a.shape != b.shape:
        raise ValueError(f"a and b: shapes must agree, got {tuple(a.shape)} and {tuple(b.shape)}")
    if not -a.ndim <= dim < a.ndim or not a.shape[dim]:
        raise ValueError(f"dim must be an axis with values, got {dim} of shape {tuple(a.shape)}")
    constant = (a.amax(dim) == a.amin(dim)) | (b.amax(dim) == b.amin(dim))
    a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
    r = (a * b).sum(dim) / (a.norm(dim=dim) * b.norm(dim=dim))
    return r.clamp(-1, 1).masked_fill(constant, float("nan"))


def weighted_pearson(x: Any, y: Any, weights: Any) -> Tensor:
    """(k, columns): correlations of the columns of x and y under each of k rows of weights.

    x, y : (n, columns); weights : (k, n). NaN where x or y is constant under the weights.
    """
    x, y, weights = (torch.as_tensor(a).double() for a in (x, y, weights))
    x, y = x - x.mean(0), y - y.mean(0)
    weights = weights / weights.sum(1, keepdim=True)
    covariance = weights @ (x * y) - (weights @ x) * (weights @ y)
    spread = weights @ x.square() - (weights @ x).square()
    spread = spread * (weights @ y.square() - (weights @ y).square())
    exists = spread > 1e-12 * x.var(0, False) * y.var(0, False)
    r = covariance / torch.where(exists, spread, 1).sqrt()
    return r.clamp(-1, 1).masked_fill(~exists, float("nan"))


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
    t, u = torch.triu_indices(len(a), len(a), offset=1)
    both = _difference_product(a, b)[t, u]
    r = torch.full_like(both, float("nan"))
    size_of_a, exists_a = _difference_size(a, t, u)
    size_of_b, exists_b = _difference_size(b, t, u)
    exists = exists_a & exists_b
    r[exists] = (both / (size_of_a * size_of_b))[exists].clamp(-1, 1)
    return r


def _difference_size(a: Tensor, t: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Norm of a[t] - a[u], and whether it is more than rounding."""
    square, own = _difference_product(a, a)[t, u], a.square().sum(1)
    return square.clamp(min=0).sqrt(), square > 1e-12 * (own[t] + own[u])


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

    A locus without any value does not count; with a single locus the interval is NaN.
    Raises ValueError where no value exists.
    """
    values = np.asarray(values, dtype=float)
    values = values.reshape(len(values), -1)
    loci = np.asarray(loci)
    if loci.shape != (len(values),):
        wanted = (len(values),)
        raise ValueError(f"loci has shape {loci.shape}; one label a region is wanted: {wanted}")
    exists = np.isfinite(values)
    n_constant = int((~exists).sum())
    if not exists.any():
        raise ValueError(f"none of the {values.size} values exists: every profile is constant")
    kept = exists.any(1)
    values, exists = values[kept], exists[kept]
    _, locus = np.unique(loci[kept], return_inverse=True)
    rows_of_locus = np.split(np.argsort(locus, kind="stable"), np.cumsum(np.bincount(locus))[:-1])

    def of_loci(drawn: np.ndarray) -> float:
        rows = np.concatenate([rows_of_locus[i] for i in drawn.astype(int)])
        return float(statistic(values[rows][exists[rows]]))

    low = high = float("nan")
    if len(rows_of_locus) > 1:
        drawn = _resampled(of_loci, len(rows_of_locus), n_resamples, seed)
        low, high = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return Summary(
        value=float(statistic(values[exists])),
        low=low,
        high=high,
        n_profiles=int(exists.sum()),
        n_constant=n_constant,
        n_loci=len(rows_of_locus),
    )


def _resampled(
    of_loci: Callable[[np.ndarray], float], n_loci: int, n_resamples: int, seed: int
) -> np.ndarray:
    """A statistic of the numbers of the loci, (n_resamples,) times with loci drawn anew."""
    from scipy import stats

    with warnings.catch_warnings():
        # A statistic may not exist in a resample: a correlation in which all drawn are alike.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        return stats.bootstrap(
            (np.arange(n_loci),),
            of_loci,
            vectorized=False,
            method="percentile",
            n_resamples=n_resamples,
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
