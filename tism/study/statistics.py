"""Statistics over trained networks: the network is the unit, networks of one kind its replicates.

Intervals over the regions that one network scores say how well that network is known. Whether two
kinds of network differ is another question; its unit is the network, trained from another seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import optimize, stats
from torch import Tensor

_CONFIDENCE = 0.95  # of every interval
Groups = Mapping[str, Sequence[float]]  # a measure of the networks of each kind, by kind


class Estimate(NamedTuple):
    """A value with its interval, NaN where there is none; n independent units."""

    value: float
    low: float
    high: float
    n: int


def mean_of(values: Any, confidence: float = _CONFIDENCE) -> Estimate:
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


def holm(p: Any) -> np.ndarray:
    """p of several tests, corrected for their number by the step-down of Holm (1979)."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)
    corrected = np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]).clip(max=1)
    return corrected[np.argsort(order)]


def _pooled(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Variance within groups of networks, pooled over all of them, and its degrees of freedom."""
    arrays = [np.asarray(values, dtype=float) for values in groups]
    freedom = sum(len(values) - 1 for values in arrays)
    if freedom < 1:
        raise ValueError("no group has two networks: the variance between networks is unknown")
    squares = sum(((values - values.mean()) ** 2).sum() for values in arrays)
    return float(squares) / freedom, freedom


def compare_all_with(reference: Sequence[float], groups: Groups) -> pd.DataFrame:
    """Difference of the mean of each group of networks from that of the reference, by Dunnett.

    One variance is pooled over all groups, and the intervals hold together: with a probability of
    95 % all of them have their true difference (Dunnett 1955,
    https://doi.org/10.1080/01621459.1955.10501294; `scipy.stats.dunnett`).

    Columns: name, value, low, high, p (corrected), n. Raises ValueError if no group has two.
    """
    _pooled([reference, *groups.values()])
    test = stats.dunnett(*groups.values(), control=reference, rng=np.random.default_rng(0))
    interval = test.confidence_interval(_CONFIDENCE)
    return pd.DataFrame(
        {
            "name": [*groups],
            "value": [float(np.mean(v) - np.mean(reference)) for v in groups.values()],
            "low": interval.low,
            "high": interval.high,
            "p": test.pvalue,
            "n": [len(values) for values in groups.values()],
        }
    )


def equivalence(reference: Sequence[float], groups: Groups, margin: float = np.inf) -> pd.DataFrame:
    """Whether each group of networks has the mean of the reference, give or take a margin.

    Two one-sided t tests (Schuirmann 1987, https://doi.org/10.1007/BF01068419) with the variance
    pooled over all groups. Each group is a claim of its own, so that p is not corrected.

    Columns: name, value (the difference), low, high (its 90 % interval, which lies within the
    margin exactly where p < 0.05), outer_low, outer_high (its 95 % interval), p (the larger of the
    two), n.
    """
    variance, freedom = _pooled([reference, *groups.values()])
    rows = []
    for name, values in groups.items():
        value = float(np.mean(values) - np.mean(reference))
        error = np.sqrt(variance * (1 / len(values) + 1 / len(reference)))
        reach, outer = (float(stats.t.ppf(q, freedom) * error) for q in (0.95, 0.975))
        p = float(stats.t.sf((margin - abs(value)) / error, freedom))
        row = {"name": name, "value": value, "low": value - reach, "high": value + reach}
        row |= {"outer_low": value - outer, "outer_high": value + outer}
        rows.append(row | {"p": p, "n": len(values)})
    return pd.DataFrame(rows)


def below_all_others(groups: Groups, name: str) -> Estimate:
    """How far the mean of a group of networks lies below that of every other group.

    This is the difference from the group that is nearest in standard errors, with its 90 %
    interval. The interval lies above zero exactly where all one-sided tests reject at 5 %. Since
    the claim is that all differences exist, it needs no correction for their number (Berger 1982,
    https://doi.org/10.1080/00401706.1982.10487790). The variance is pooled over all groups.
    """
    variance, freedom = _pooled([*groups.values()])
    least = groups[name]
    found = [
        (np.mean(values) - np.mean(least), np.sqrt(variance * (1 / len(least) + 1 / len(values))))
        for other, values in groups.items()
        if other != name
    ]
    value, error = min(found, key=lambda pair: pair[0] / pair[1])
    reach = stats.t.ppf(0.95, freedom) * error
    return Estimate(float(value), float(value - reach), float(value + reach), len(least))


def bounds_of_lowest(groups: Groups) -> tuple[float, float]:
    """Bounds for the lowest of the groups' true means, each with an error of at most 5 %.

    Lower: the lowest of the one-sided bounds of the groups. If it lies above a number, every mean
    does. Upper: the lowest of their one-sided bounds, corrected for the number of groups. If it
    lies below a number, one of the means does. The variance is pooled over all groups.
    """
    variance, freedom = _pooled([*groups.values()])
    errors = {name: np.sqrt(variance / len(values)) for name, values in groups.items()}
    plain, corrected = stats.t.ppf([0.95, 1 - 0.05 / len(groups)], freedom)
    low = min(np.mean(values) - plain * errors[name] for name, values in groups.items())
    high = min(np.mean(values) + corrected * errors[name] for name, values in groups.items())
    return float(low), float(high)


def mean_correlation(correlations: Any, confidence: float = _CONFIDENCE) -> Estimate:
    """Mean of the correlations of independent networks with its t interval, by Fisher's z."""
    mean = mean_of(np.arctanh(np.asarray(correlations, dtype=float)), confidence)
    return Estimate(*(float(np.tanh(z)) for z in mean[:3]), n=mean.n)


def at_equal(
    table: pd.DataFrame, measure: str, covariate: str, *, kind: str, network: str
) -> pd.Series:
    """A measure of each network, adjusted by linear regression to the mean of a covariate.

    table : one row per reading
    kind, network : names of columns

    One slope holds for all readings: that within networks, or within kinds where every network has
    a single reading. Returns the mean adjusted reading of each network, indexed by kind and
    network.
    """
    by = network if table[network].duplicated().any() else kind
    both = [measure, covariate]
    centred = table[both] - table.groupby(by)[both].transform("mean")
    slope = (centred[measure] * centred[covariate]).sum() / (centred[covariate] ** 2).sum()
    moved = table[measure] - slope * (table[covariate] - table[covariate].mean())
    return moved.groupby([table[kind], table[network]], sort=False).mean()


class Line(NamedTuple):
    """A line through the readings of networks, each of which lies above or below it as a whole.

    low, high : 95 % interval of the slope
    between, within : standard deviations of the networks about the line, and of readings about
        the line of their network
    """

    intercept: float
    slope: float
    low: float
    high: float
    between: float
    within: float
    n_networks: int
    n: int


def fit_line(x: Any, y: Any, networks: Any) -> Line:
    """The line through readings (n,) with a random intercept for each network, by REML.

    The model is that of Laird and Ware (1982, https://doi.org/10.2307/2529876). The interval of the
    slope is that of t with n - n_networks - 1 degrees of freedom. Raises ValueError for fewer than
    two networks or readings that leave no such degree.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    network, names = pd.factorize(np.asarray(networks))
    freedom = len(x) - len(names) - 1
    if len(names) < 2 or freedom < 1:
        raise ValueError(f"a line wants several readings of two networks, got {len(x)} readings")
    sizes = np.bincount(network)
    columns = np.stack([np.ones_like(x), x, y], axis=1)
    means = np.stack([np.bincount(network, weights=c) / sizes for c in columns.T], axis=1)

    def solve(ratio: float) -> tuple[np.ndarray, np.ndarray, float]:
        """Coefficients, inverse of X'X and sum of squares, for this ratio of the variances."""
        shrunk = columns - ((1 - (1 + sizes * ratio) ** -0.5)[:, None] * means)[network]
        design, target = shrunk[:, :2], shrunk[:, 2]
        inverse = np.linalg.inv(design.T @ design)
        found = inverse @ design.T @ target
        return found, inverse, float(((target - design @ found) ** 2).sum())

    def criterion(log_ratio: float) -> float:
        ratio = np.exp(log_ratio)
        _, inverse, squares = solve(ratio)
        determinants = np.log1p(sizes * ratio).sum() - np.linalg.slogdet(inverse)[1]
        return (len(x) - 2) * np.log(squares) + determinants

    ratio = np.exp(optimize.minimize_scalar(criterion, bounds=(-15, 15), method="bounded").x)
    (intercept, slope), inverse, squares = solve(ratio)
    variance = squares / (len(x) - 2)
    reach = stats.t.ppf((1 + _CONFIDENCE) / 2, freedom) * np.sqrt(variance * inverse[1, 1])
    found = (intercept, slope, slope - reach, slope + reach, (variance * ratio) ** 0.5)
    return Line(*map(float, (*found, variance**0.5)), n_networks=len(names), n=len(x))


def jackknife_pairs(
    values: Mapping[tuple[Any, Any], float], confidence: float = _CONFIDENCE
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


def nested_interval(values: Sequence[Tensor], loci: Sequence[np.ndarray]) -> tuple[float, float]:
    """95 % bootstrap interval of a mean: networks are drawn, then loci within each.

    values, loci : of each network (n, tasks), NaN where there is none, and (n,)
    """
    totals = [_by_locus(v.double().numpy(), labels) for v, labels in zip(values, loci, strict=True)]
    total, count = (_draws(tuple(map(len, totals))) @ np.concatenate(totals)).T
    means = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    if np.isnan(means).all():
        return float("nan"), float("nan")
    return tuple(np.nanquantile(means, [0.025, 0.975]).tolist())


@lru_cache(maxsize=4)
def _draws(sizes: tuple[int, ...]) -> np.ndarray:
    """(resamples, loci of all networks): how often each is drawn, for networks of so many loci."""
    rng = np.random.default_rng(0)
    counts = [np.zeros((_RESAMPLES, size)) for size in sizes]
    for row in range(_RESAMPLES):
        for i in rng.integers(len(sizes), size=len(sizes)):
            drawn = rng.integers(sizes[i], size=sizes[i])
            counts[i][row] += np.bincount(drawn, minlength=sizes[i])
    return np.concatenate(counts, axis=1)


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
    values, loci = np.asarray(values, dtype=float), np.asarray(loci)
    values = values.reshape(len(values), -1)
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
    value, n_profiles = float(statistic(values[exists])), int(exists.sum())
    return Summary(value, low, high, n_profiles, n_constant, len(rows_of_locus))


def _resampled(
    of_loci: Callable[[np.ndarray], float], n_loci: int, n_resamples: int, seed: int
) -> np.ndarray:
    """A statistic of the numbers of the loci, (n_resamples,) times with loci drawn anew."""
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


@dataclass(frozen=True)
class Planned:
    """A design of ablations: networks of the baseline, kinds beside it, degrees of freedom."""

    n_reference: int
    n_groups: int
    freedom: int
    n: tuple[int, ...]


PLANNED = {  # book/design.md
    "yeast": Planned(n_reference=5, n_groups=13, freedom=6 * 4 + 8 * 2, n=(3, 5)),
    "simulated": Planned(n_reference=3, n_groups=6, freedom=7 * 2, n=(3,)),
}


def power_table(models: pd.DataFrame) -> pd.DataFrame:
    """The smallest differences of r that the planned networks can detect, by how they are read.

    models : rows of models.csv. They give the variance between networks of one kind: of the
        ablations as they were trained, of the same at equal gap between training and test
        performance, and of the snapshots after single epochs beyond the warm-up.

    Columns: dataset, reading, n (networks of a kind), sd (between networks of one kind), networks
    (from which sd is estimated), difference (from the baseline that Dunnett's test finds with a
    power of 80 %), margin (of equivalence, shown with the same power if there is no difference).
    """
    rows = []
    for dataset, part in models.groupby("dataset", sort=False):
        plan = PLANNED[dataset]
        for reading, groups in _replicates(part).items():
            variance, _ = _pooled(groups)
            about = {"sd": np.sqrt(variance), "networks": sum(map(len, groups))}
            for n in plan.n:
                difference, margin = detectable(variance, n, plan)
                found = {"difference": difference, "margin": margin}
                rows.append({"dataset": dataset, "reading": reading, "n": n, **about, **found})
    return pd.DataFrame(rows)


def detectable(variance: float, n: int, plan: Planned) -> tuple[float, float]:
    """The difference from the baseline that Dunnett's test finds, and the margin that TOST proves.

    variance : between networks of one kind; n : networks of the kind in question

    Both at 5 % and with a power of 80 %; the margin where the true difference is zero.
    """
    error = np.sqrt(variance * (1 / n + 1 / plan.n_reference))
    critical = _dunnett_quantile(plan.n_groups, plan.freedom)
    difference = critical + stats.t.ppf(0.8, plan.freedom)
    margin = stats.t.ppf(0.95, plan.freedom) + stats.t.ppf(0.9, plan.freedom)
    return float(difference * error), float(margin * error)


@cache
def _dunnett_quantile(n_groups: int, freedom: int) -> float:
    """Two-sided 5 % point of the largest of the t statistics of groups of equal size."""
    correlation = np.full((n_groups, n_groups), 0.5) + 0.5 * np.eye(n_groups)
    distribution = stats.multivariate_t(shape=correlation, df=freedom)

    def excess(q: float) -> float:
        high = np.full(n_groups, q)
        inside = distribution.cdf(high, lower_limit=-high, random_state=np.random.default_rng(0))
        return float(inside) - 0.95

    return float(optimize.brentq(excess, 1.5, 8, xtol=1e-3))


def _replicates(models: pd.DataFrame) -> dict[str, list[np.ndarray]]:
    """r of the networks of each kind, by how they are read."""
    models = models.assign(
        kind=models["variant"] + models["control"], gap=models.train_region_r - models.test_region_r
    )
    snapshot = models["experiment"].str.contains("epoch")
    ablations = models[~snapshot & (models["fraction"] == 1)]
    groups = {"as trained": ablations.groupby("kind")["tism_all"]}
    equal = at_equal(ablations, "tism_all", "gap", kind="kind", network="run")
    groups["at equal gap"] = equal.groupby(level=0)
    for epoch in (11, 14, 20):
        reached = (models["epoch"] == epoch) & (models["warmup_epochs"] < epoch)
        rows = models[snapshot & reached]
        if len(rows):
            groups[f"epoch {epoch}"] = rows.groupby("kind")["tism_all"]
    return {name: [values.to_numpy() for _, values in group] for name, group in groups.items()}
