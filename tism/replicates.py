"""Statistics over trained networks: the network is the unit, networks of one kind its replicates.

Intervals over the regions that one network scores say how well that network is known. Whether two
kinds of network differ is another question; its unit is the network, trained from another seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats


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
