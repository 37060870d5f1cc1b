"""Statistics over trained networks: the network is the unit, networks of one kind its replicates.

Intervals over the regions that one network scores say how well that network is known. Whether two
kinds of network differ is another question; its unit is the network, trained from another seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor


class Estimate(NamedTuple):
    """A value with its interval, NaN where there is none; n independent units."""

    value: float
    low: float
    high: float
    n: int


def mean_of(values: Any, *, confidence: float = 0.95) -> Estimate:
    """Mean of independent networks with its t interval, which a single one does not have."""
    values = np.asarray(values, dtype=float)
    if not values.size:
        raise ValueError("values is empty; at least one network is wanted")
    low = high = float("nan")
    if len(values) > 1:
        reach = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values)
        low, high = values.mean() - reach, values.mean() + reach
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def means(table: pd.DataFrame, measure: str, by: Sequence[str]) -> pd.DataFrame:
    """`mean_of` a measure for every group of networks: columns `by`, value, low, high, n."""
    rows = []
    for names, group in table.groupby(list(by), sort=False):
        rows.append(dict(zip(by, names, strict=True)) | mean_of(group[measure])._asdict())
    return pd.DataFrame(rows)


def compare_with(
    reference: Sequence[float], groups: Mapping[str, Sequence[float]], *, confidence: float = 0.95
) -> pd.DataFrame:
    """Difference of the mean of each group of networks from that of the reference.

    Welch's t test, corrected for the number of groups by the step-down of Holm (1979,
    https://www.jstor.org/stable/4615733). Intervals are those of the step that a group reaches, so
    that they leave out zero exactly where the corrected p is below 1 - confidence.

    Columns: name, value, low, high, p (corrected), n. A group or a reference of a single network
    has a value only, and does not count as a comparison.
    """
    tests = {
        name: stats.ttest_ind(values, reference, equal_var=False)
        for name, values in groups.items()
        if min(len(values), len(reference)) > 1
    }
    ranked = sorted(tests, key=lambda name: tests[name].pvalue)
    corrected, p, comparisons, rejecting = {}, 0.0, len(ranked), True
    for rank, name in enumerate(ranked):
        remaining = len(ranked) - rank
        comparisons = remaining if rejecting else comparisons
        p = max(p, min(1.0, remaining * tests[name].pvalue))
        rejecting = rejecting and p < 1 - confidence
        corrected[name] = (p, comparisons)
    rows = []
    for name, values in groups.items():
        row = {"name": name, "value": float(np.mean(values) - np.mean(reference))}
        row |= {"low": float("nan"), "high": float("nan"), "p": float("nan"), "n": len(values)}
        if name in corrected:
            p, comparisons = corrected[name]
            level = 1 - (1 - confidence) / comparisons
            low, high = tests[name].confidence_interval(level)
            row |= {"low": float(low), "high": float(high), "p": float(p)}
        rows.append(row)
    return pd.DataFrame(rows, columns=["name", "value", "low", "high", "p", "n"])


def jackknife_pairs(
    values: Mapping[tuple[Any, Any], float], *, confidence: float = 0.95
) -> Estimate:
    """Mean over pairs of networks, with an interval over the networks.

    values : one number for every pair; a network is in several pairs, so that pairs are not
        independent. Networks are left out one at a time (Arvesen 1969,
        https://doi.org/10.1214/aoms/1177697287), and the interval is that of t with one degree of
        freedom less than there are networks, three at least.
    """
    networks = sorted({network for pair in values for network in pair})
    wanted = set(map(frozenset, combinations(networks, 2)))
    if set(map(frozenset, values)) != wanted or len(values) != len(wanted):
        raise ValueError(f"values must have each pair of the networks {networks} once")
    mean = float(np.mean([*values.values()]))
    n = len(networks)
    if n < 3:
        return Estimate(mean, float("nan"), float("nan"), n)
    without = [np.mean([v for pair, v in values.items() if k not in pair]) for k in networks]
    error = np.sqrt((n - 1) ** 2 / n * np.var(without, ddof=1))
    reach = stats.t.ppf((1 + confidence) / 2, n - 1) * error
    return Estimate(mean, mean - float(reach), mean + float(reach), n)


_RESAMPLES = 1000


def nested_interval(
    values: Sequence[Tensor], loci: Sequence[np.ndarray], seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of a mean: networks are drawn, then loci within each.

    values, loci : of each network (n, tasks), NaN where there is none, and (n,)
    """
    rng = np.random.default_rng(seed)
    totals = [_by_locus(v.double().numpy(), labels) for v, labels in zip(values, loci, strict=True)]
    means = []
    for _ in range(_RESAMPLES):
        drawn = [totals[i] for i in rng.integers(len(totals), size=len(totals))]
        picked = [t[rng.integers(len(t), size=len(t))].sum(0) for t in drawn]
        total, count = np.sum(picked, axis=0)
        means.append(total / count if count else np.nan)
    if np.isnan(means).all():
        return float("nan"), float("nan")
    return tuple(np.nanquantile(means, [0.025, 0.975]).tolist())


def _by_locus(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(loci, 2): sum and number of the values of each locus."""
    _, locus = np.unique(labels, return_inverse=True)
    sums = np.nansum(values, axis=1), np.isfinite(values).sum(1)
    return np.stack([np.bincount(locus, weights=s) for s in sums], axis=1)


def interval(profiles: pd.DataFrame, column: str) -> tuple[float, float]:
    """`nested_interval` of the mean of a column; kind and seed tell networks apart."""
    groups = [group for _, group in profiles.groupby(["kind", "seed"])]
    return nested_interval(
        [torch.tensor(group[column].to_numpy(dtype=float))[:, None] for group in groups],
        [group["locus"].to_numpy() for group in groups],
    )


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
