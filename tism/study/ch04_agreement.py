"""How well TISM and gradients agree with ISM: the tables of chapter 04."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import ndimage, stats
from torch import Tensor

from tism.correlations import (
    mean_effect_correlation,
    pearson,
    profile_correlation,
    substitution_correlation,
    task_difference_correlation,
)
from tism.study.data.dataset import Dataset
from tism.study.networks import Experiment
from tism.study.profiles import load_dataset, load_profile
from tism.study.records import Chapter
from tism.study.scores import Scores, score_regions, scored_rows
from tism.study.statistics import Estimate, Summary, mean_correlation, mean_of, summarise
from tism.taylor import centre, gradient_times_input, mean_effect

CONVENTIONS = {
    "all entries": "Pearson over the 4 x length entries, reference zeros included (the paper's)",
    "substitutions": "Pearson over the 3 x length substitutions",
    "centred": "Pearson over the 4 x length entries of the attribution maps (Eq. 4)",
    "mean effect": "Pearson over the length of the mean effect of each reference base",
    "task differences": "Pearson over 4 x length, map of one task minus map of another",
}


def correlations_with_ism(scores: Scores) -> dict[tuple[str, str], Tensor]:
    """Correlation of every profile with ISM, by method and convention.

    Returns (n, n_tasks) tensors, or (n, pairs of tasks) for "task differences". The centred
    gradient is left out since it equals centred TISM; the mean effect of the gradient is that of
    gradient x input.
    """
    exact, taylor, gradient = scores.ism, scores.tism, scores.gradient
    times_input = pearson(
        mean_effect(exact, scores.one_hot).sum(2),
        gradient_times_input(gradient, scores.one_hot).sum(2),
    )
    return {
        ("TISM", "all entries"): profile_correlation(exact, taylor),
        ("gradient", "all entries"): profile_correlation(exact, gradient),
        ("TISM", "substitutions"): substitution_correlation(exact, taylor, scores.one_hot),
        ("gradient", "substitutions"): substitution_correlation(exact, gradient, scores.one_hot),
        ("TISM", "centred"): profile_correlation(centre(exact), centre(taylor)),
        ("TISM", "mean effect"): mean_effect_correlation(exact, taylor, scores.one_hot),
        ("gradient x input", "mean effect"): times_input,
        ("TISM", "task differences"): task_difference_correlation(exact, taylor),
    }


STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "mean": np.mean,
    "median": np.median,
    "share >= 0.6": lambda values: float((values >= 0.6).mean()),
    "share > 0.58": lambda values: float((values >= 0.58).mean()),
    "share < 0": lambda values: float((values < 0).mean()),
}


def concordance_table(
    correlated: dict[tuple[str, str], Tensor], loci: np.ndarray, dataset: str
) -> pd.DataFrame:
    """One row per method, convention and statistic: value, 95 % interval over loci, counts.

    TISM in the paper's convention has all of `STATISTICS`, other rows are means.

    correlated : of `correlations_with_ism`
    """
    rows = []
    for (method, convention), r in correlated.items():
        headline = (method, convention) == ("TISM", "all entries")
        for name, statistic in STATISTICS.items() if headline else [("mean", np.mean)]:
            summary = summarise(r, loci, statistic)
            row = {"dataset": dataset, "method": method, "convention": convention}
            rows.append({**row, "statistic": name, **vars(summary)})
    return pd.DataFrame(rows)


def region_table(
    scores: Scores, dataset: Dataset, correlated: dict[tuple[str, str], Tensor]
) -> pd.DataFrame:
    """One row per region: correlations with ISM, mean over tasks, and the x axes of Figs 1D and S2.

    These axes are mean_log, the mean over tasks of the measured log2 signal; variation, the
    coefficient of variation over tasks of the predicted signal, 2 ** log2 - 2; and performance,
    the Pearson correlation across tasks of prediction and measurement.
    """
    regions = dataset.regions.iloc[scores.rows]
    table = regions[["name", "chrom", "start", "end", "locus"]].reset_index(drop=True)
    table.insert(0, "dataset", dataset.name)
    for (method, convention), r in correlated.items():
        if convention in ("all entries", "substitutions", "mean effect"):
            table[f"r {method}, {convention}"] = r.nanmean(1).numpy()
    predicted = scores.predicted.numpy() * dataset.scale + dataset.center
    signal = np.clip(2.0**predicted - 2, 0, None)
    with np.errstate(invalid="ignore"):
        table["variation"] = signal.std(1) / signal.mean(1)
    table["mean_log"] = dataset.targets[scores.rows].mean(1)
    standardised = dataset.standardised[scores.rows]
    table["performance"] = pearson(scores.predicted, standardised, 1).numpy()
    return table


def association_table(table: pd.DataFrame, y: str, columns: list[str]) -> pd.DataFrame:
    """Pearson correlation over regions of `y` with each column, with its interval over loci."""
    rows = []
    for column in columns:
        finite = table[np.isfinite(table[[column, y]]).all(axis=1)]
        a, b, loci = (finite[name].to_numpy() for name in (column, y, "locus"))
        summary = summarise_pairs(lambda a, b: pearson(a, b).item(), a, b, loci)
        rows.append({"x": column, "y": y, **vars(summary)})
    return pd.DataFrame(rows)


ASSOCIATED = {
    "mean_log": "mean log2 signal",
    "variation": "coefficient of variation",
    "performance": "performance (Pearson r)",
}


def baselines(chapter: Chapter) -> list[Experiment]:
    """The baseline networks that differ in their seed: those that the chapter's settings name.

    Without settings, the first network of each data set.
    """
    settings = chapter.settings.get("initialisations", {})
    profile = load_profile(settings.get("profile", chapter.profile.name))
    seeds = settings.get("seeds", {})
    return [
        Experiment(profile, name, seed=seed)
        for name in chapter.profile.datasets
        for seed in range(seeds.get(name, 1))
    ]


def figure_1_table(networks: Sequence[Experiment]) -> pd.DataFrame:
    """Figure 1 of several networks, one row per network and measure.

    Columns: dataset, seed, measure (one of `STATISTICS`, or of `ASSOCIATED` for the correlation
    over regions of agreement with it), value, low and high (over loci), n_loci.
    """
    tables = []
    for network in networks:
        data = load_dataset(network.profile, network.dataset)
        rows = scored_rows(data, network.profile.regions_a_model)
        scores = score_regions(network.trained()[0], data, rows)
        r = {("TISM", "all entries"): profile_correlation(scores.ism, scores.tism)}
        statistics = concordance_table(r, data.regions["locus"].to_numpy()[rows], data.name)
        regions = region_table(scores, data, r)
        related = association_table(regions, "r TISM, all entries", list(ASSOCIATED))
        names = {"statistic": "measure", "x": "measure"}
        both = pd.concat([statistics.rename(columns=names), related.rename(columns=names)])
        label = {"dataset": network.dataset, "seed": network.seed}
        tables.append(both.assign(**label)[[*label, "measure", "value", "low", "high", "n_loci"]])
    return pd.concat(tables, ignore_index=True)


def over_networks(table: pd.DataFrame) -> pd.DataFrame:
    """`figure_1_table` with the network as the unit: dataset, measure, value, low, high, n, unit.

    The interval is that of t over networks, by Fisher's z for `ASSOCIATED`. A single network keeps
    its interval over loci, and n is their number.
    """
    rows = []
    for (dataset, measure), group in table.groupby(["dataset", "measure"], sort=False):
        label = {"dataset": dataset, "measure": measure}
        if len(group) == 1:
            value, low, high, n = group[["value", "low", "high", "n_loci"]].iloc[0]
            rows.append(label | Estimate(value, low, high, int(n))._asdict() | {"unit": "loci"})
            continue
        mean = (mean_correlation if measure in ASSOCIATED else mean_of)(group["value"])
        least = 0.0 if measure.startswith("share") else -1.0
        possible = {"low": max(mean.low, least), "high": min(mean.high, 1.0)}
        rows.append(label | mean._replace(**possible)._asdict() | {"unit": "networks"})
    return pd.DataFrame(rows)


def summarise_pairs(
    statistic: Callable[[np.ndarray, np.ndarray], float], a: np.ndarray, b: np.ndarray, loci: Any
) -> Summary:
    """`summarise` of statistic(a, b), where a[i] and b[i] are drawn together."""

    def of_rows(drawn: np.ndarray) -> float:
        rows = drawn.astype(int)
        return statistic(a[rows], b[rows])

    return summarise(np.arange(len(a), dtype=float), loci, of_rows)


def base_importance(scores: Scores) -> dict[str, Tensor]:
    """Importance of each position by each method: (n, length), the mean over tasks of |score|.

    The score is the mean effect of the base for ISM and TISM, the norm over the four bases for the
    gradient, and the value at the reference base for the others.
    """
    one_hot, gradient = scores.one_hot, scores.gradient
    at_reference = {
        "ISM": mean_effect(scores.ism, one_hot),
        "TISM": mean_effect(scores.tism, one_hot),
        "gradient x input": gradient_times_input(gradient, one_hot),
        "corrected gradient": gradient_times_input(centre(gradient), one_hot),
    }
    importance = {name: values.sum(2).abs().mean(1) for name, values in at_reference.items()}
    return {**importance, "gradient": gradient.norm(dim=2).mean(1)}


def auroc(score: np.ndarray, positive: np.ndarray, group: np.ndarray | None = None) -> float:
    """Area under the ROC curve: share of the pairs in which a positive scores above a negative.

    Counted by ranks (Mann-Whitney); NaN without a pair of a positive and a negative.

    group : (n,) labels; only pairs within a group count
    """
    group = np.zeros(len(score)) if group is None else group
    won = pairs = 0.0
    for label in np.unique(group):
        member = group == label
        is_positive = positive[member]
        n_positive = is_positive.sum()
        ranks = stats.rankdata(score[member])[is_positive]
        won += ranks.sum() - n_positive * (n_positive + 1) / 2
        pairs += n_positive * (len(is_positive) - n_positive)
    return won / pairs if pairs else float("nan")


def planted_base_table(scores: Scores, dataset: Dataset) -> pd.DataFrame:
    """How well each method finds the bases of planted motifs: mean AUROC over regions."""
    planted = dataset.truth.important[scores.rows]
    loci = dataset.regions["locus"].to_numpy()[scores.rows]
    rows = []
    for method, importance in base_importance(scores).items():
        areas = [auroc(s, p) for s, p in zip(importance.numpy(), planted, strict=True)]
        rows.append({"dataset": dataset.name, "method": method, **vars(summarise(areas, loci))})
    return pd.DataFrame(rows).sort_values("value", ascending=False, ignore_index=True)


def smooth_profile(effect: Tensor) -> np.ndarray:
    """Running mean over 7 bp of a (length,) profile, as a share of its largest magnitude."""
    smooth = ndimage.uniform_filter1d(effect.double().numpy(), 7, mode="constant")
    return smooth / max(np.abs(smooth).max(), np.finfo(float).tiny)


def call_motifs(height: np.ndarray) -> np.ndarray:
    """Stretches of a smoothed profile that stand out: rows (begin, end, sign), half-open.

    They are at least 5 bp of one sign over which |height| is at least 0.4.
    """
    sign = np.sign(height) * (np.abs(height) >= 0.4)
    edges = np.flatnonzero(np.diff(sign, prepend=0, append=0))
    runs = [(b, e, int(sign[b])) for b, e in pairwise(edges) if sign[b] and e - b >= 5]
    return np.array(runs, dtype=int).reshape(-1, 3)


Motif = tuple[int, int, bool]


def compare_motifs(exact: Tensor, taylor: Tensor) -> tuple[list[Motif], list[Motif]]:
    """Motifs of each of two mean-effect profiles, (length,) each, as (begin, end, shared).

    A motif is shared if over its stretch the other profile has the same sign and a mean height of
    at least 0.2, half of what a call needs: what is just below the mark is no disagreement.
    """
    heights = smooth_profile(exact), smooth_profile(taylor)
    motifs: tuple[list[Motif], list[Motif]] = ([], [])
    for found, height, other in zip(motifs, heights, heights[::-1], strict=True):
        for begin, end, sign in call_motifs(height).tolist():
            found.append((begin, end, bool(sign * other[begin:end].mean() >= 0.2)))
    return motifs


def uncut_window(effects: Tensor, frames: Sequence[tuple[list[Motif], ...]], width: int) -> slice:
    """The `width` positions with the largest effects that cut no motif, or as few as possible.

    effects : (tasks, 4, length)
    frames : of `compare_motifs`, for each task
    """
    strength = effects.abs().sum((0, 1)).unfold(0, width, 1).sum(1).numpy()
    starts = np.arange(len(strength))
    cut = np.zeros(len(starts), int)
    for begin, end, _ in (motif for pair in frames for motifs in pair for motif in motifs):
        for edge in (starts, starts + width):
            cut += (begin < edge) & (edge < end)
    start = int(np.where(cut == cut.min(), strength, -np.inf).argmax())
    return slice(start, start + width)


def example_region(scores: Scores, r: Tensor) -> int:
    """A typical region with a strong motif: among those whose mean r is within 0.05 of the overall
    mean, the one with the largest mean effect of a base in any task."""
    by_region = r.nanmean(1)
    typical = (by_region - by_region.mean()).abs() <= 0.05
    strongest = mean_effect(scores.ism, scores.one_hot).amax((1, 2, 3))
    return int(torch.where(typical, strongest, -torch.inf).argmax())
