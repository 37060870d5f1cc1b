"""The comparisons of chapter 04 as tables: one row a comparison, a region or a method."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

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
from tism.study.scores import Scores
from tism.study.statistics import summarise
from tism.taylor import centre, gradient_times_input, mean_effect

CONVENTIONS = {
    "all entries": "Pearson over the 4 x length entries, reference zeros included (the paper's)",
    "substitutions": "Pearson over the 3 x length substitutions",
    "centred": "Pearson over the 4 x length entries of the attribution maps (Eq. 4)",
    "mean effect": "Pearson over the length of the mean effect of each reference base",
    "task differences": "Pearson over 4 x length, map of one task minus map of another",
}


def correlations(scores: Scores) -> dict[tuple[str, str], Tensor]:
    """Correlation of every profile with ISM, by method and convention.

    Returns (n, n_tasks) tensors, or (n, pairs of tasks) for "task differences". The gradient itself
    is left out where it equals TISM (centred); its mean effect is that of gradient x input.
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


def share_at_least(threshold: float) -> Callable[[np.ndarray], float]:
    """A statistic for `summarise`: the share of values of at least `threshold`."""
    return lambda values: float((values >= threshold).mean())


STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "mean": np.mean,
    "median": np.median,
    "share >= 0.6": share_at_least(0.6),
    "share > 0.58": share_at_least(0.58),
    "share < 0": lambda values: float((values < 0).mean()),
}


def concordance_table(
    correlated: dict[tuple[str, str], Tensor], loci: np.ndarray, dataset: str
) -> pd.DataFrame:
    """One row a method, convention and statistic: value, 95 % interval over loci, counts.

    All statistics for TISM in the paper's convention, the mean elsewhere.
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
    """One row a region: mean correlations over tasks and what Figs 1D and S2 set against them.

    mean_log : mean over tasks of the measured log2 signal
    variation : coefficient of variation over tasks of the predicted signal, 2 ** log2 - 2
    performance : Pearson across tasks of prediction and measurement
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
        pair = table[[column, y]].to_numpy()
        kept = np.isfinite(pair).all(1)
        rows.append(_association(pair[kept], table["locus"].to_numpy()[kept], column, y))
    return pd.DataFrame(rows)


def _association(pair: np.ndarray, loci: np.ndarray, x: str, y: str) -> dict:
    """`summarise` of the row numbers: its statistic looks the pairs up."""
    summary = summarise(
        np.arange(len(pair), dtype=float),
        loci,
        lambda rows: pearson(*pair[rows.astype(int)].T).item(),
    )
    return {"x": x, "y": y, **vars(summary)}


def base_importance(scores: Scores) -> dict[str, Tensor]:
    """How much each method says a position matters: (n, length), the mean over tasks of |score|.

    ISM and TISM by the mean effect of the base, the gradient by the norm over the four bases, the
    others by their value at the reference base.
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
    """Area under the ROC curve (Mann-Whitney), over pairs of a positive and a negative.

    group : (n,) labels; only pairs within a group count. NaN without such a pair
    """
    won = pairs = 0.0
    for own in [slice(None)] if group is None else [group == label for label in np.unique(group)]:
        found = positive[own]
        n_positive = found.sum()
        won += stats.rankdata(score[own])[found].sum() - n_positive * (n_positive + 1) / 2
        pairs += n_positive * (len(found) - n_positive)
    return won / pairs if pairs else float("nan")


def planted_base_table(scores: Scores, dataset: Dataset) -> pd.DataFrame:
    """How well each method finds the bases that a simulation planted: mean AUROC over regions."""
    planted = dataset.truth.important[scores.rows]
    loci = dataset.regions["locus"].to_numpy()[scores.rows]
    rows = []
    for method, importance in base_importance(scores).items():
        areas = [auroc(s, p) for s, p in zip(importance.numpy(), planted, strict=True)]
        rows.append({"dataset": dataset.name, "method": method, **vars(summarise(areas, loci))})
    return pd.DataFrame(rows).sort_values("value", ascending=False, ignore_index=True)


def smooth_profile(effect: Tensor, width: int = 7) -> np.ndarray:
    """Running mean over `width` bp of a (length,) profile, as a share of its largest magnitude."""
    smooth = ndimage.uniform_filter1d(effect.double().numpy(), width, mode="constant")
    return smooth / max(np.abs(smooth).max(), np.finfo(float).tiny)


def call_motifs(height: np.ndarray, *, least: float = 0.4, length: int = 5) -> np.ndarray:
    """Stretches of a smoothed profile that stand out: rows (begin, end, sign), half-open.

    A position belongs to one where |height| is at least `least`, with one sign; stretches shorter
    than `length` bp are left out.
    """
    sign = np.sign(height) * (np.abs(height) >= least)
    edges = np.flatnonzero(np.diff(sign, prepend=0, append=0))
    runs = [(b, e, int(sign[b])) for b, e in pairwise(edges) if sign[b] and e - b >= length]
    return np.array(runs, dtype=int).reshape(-1, 3)


def compare_motifs(exact: Tensor, taylor: Tensor) -> list[tuple[int, int, bool]]:
    """Motifs called in either mean-effect profile as (begin, end, agree); both (length,).

    Calls of one sign that overlap are one motif. It agrees where both profiles have that sign over
    it on average, and the lower of the two heights is at least half of the higher.
    """
    heights = smooth_profile(exact), smooth_profile(taylor)
    frames = []
    for sign in (1, -1):
        calls = np.concatenate([call_motifs(height) for height in heights])
        called = np.zeros(len(exact), bool)
        for begin, end, own in calls:
            called[begin:end] |= own == sign
        edges = np.flatnonzero(np.diff(called.astype(int), prepend=0, append=0))
        for begin, end in edges.reshape(-1, 2):
            low, high = sorted(sign * height[begin:end].mean() for height in heights)
            frames.append((int(begin), int(end), bool(low >= 0.5 * high)))
    return sorted(frames)


def example_region(scores: Scores, r: Tensor) -> int:
    """A typical region with a strong motif: among those whose mean r is within 0.05 of the overall
    mean, the one with the largest mean effect of a base in any task."""
    by_region = r.nanmean(1)
    typical = (by_region - by_region.mean()).abs() <= 0.05
    strongest = mean_effect(scores.ism, scores.one_hot).amax((1, 2, 3))
    return int(torch.where(typical, strongest, -torch.inf).argmax())
