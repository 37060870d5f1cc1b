"""What makes TISM differ from ISM, and how much of the difference deletions of bases correct.

Maps are (n, tasks, 4, length), sequences (n, 4, length). A map whose effects are all zero has NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tism.budgeted import refine
from tism.correlations import pearson, profile_correlation
from tism.exact import predict
from tism.study.data.dataset import Dataset, evenly
from tism.study.profiles import default_device
from tism.study.scores import Scores
from tism.study.statistics import summarise
from tism.taylor import tism_from_gradient

PARTS = ("one offset per position", "one slope per profile", "the rest")
TOP = (1, 20, 50)
_EDGES = {  # of the groups of `calibration_table`, as shares of all substitutions
    "predicted": (0, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1),
    "exact": (0, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1),
}


class Anatomy(NamedTuple):
    """The three tables of `take_apart`."""

    measures: pd.DataFrame
    calibration: pd.DataFrame
    passes: pd.DataFrame


def take_apart(model: nn.Module, scores: Scores, dataset: Dataset, n_regions: int) -> Anatomy:
    """`anatomy_table`, `calibration_table` and `equal_passes_table` of some of the scored regions.

    n_regions : spread evenly over those that are scored
    """
    chosen = evenly(np.arange(len(scores.rows)), n_regions)
    exact, gradient, one_hot = (
        maps[chosen] for maps in (scores.ism, scores.gradient, scores.one_hot)
    )
    loci = dataset.regions["locus"].to_numpy()[scores.rows[chosen]]
    deletion = deletion_effects(model, one_hot)
    estimates = estimates_of_equal_passes(exact, gradient, deletion, one_hot)
    label = {"dataset": dataset.name}
    measures = [
        anatomy_table(
            describe_difference(exact, estimates[name][0], one_hot), loci, **label, estimate=name
        )
        for name in ("TISM", "deletion + gradient")
    ]
    calibration = calibration_table(exact, estimates["TISM"][0], one_hot, **label)
    passes = equal_passes_table(exact, estimates, loci, **label)
    return Anatomy(pd.concat(measures, ignore_index=True), calibration, passes)


def parts_of_difference(exact: Tensor, estimate: Tensor, one_hot: Tensor) -> dict[str, Tensor]:
    """Shares of the squared difference of two maps by `PARTS`; (n, tasks) each, their sum is 1.

    The offset is the mean difference of the substitutions of a position. The slope is that which
    brings the estimate nearest to ISM once both are without their mean at every position.
    """
    substituted = (one_hot == 0)[:, None]
    total = _square((estimate - exact) * substituted)
    exact, estimate = (_within_positions(scores, substituted) for scores in (exact, estimate))
    slope = (exact * estimate).sum((2, 3)) / _square(estimate)
    remainder = _square(estimate - exact)
    rest = _square(slope.nan_to_num(0)[..., None, None] * estimate - exact)
    shares = (total - remainder, remainder - rest, rest)
    return {name: share / total for name, share in zip(PARTS, shares, strict=True)}


def _square(scores: Tensor) -> Tensor:
    return scores.double().square().sum((2, 3))


def _within_positions(scores: Tensor, substituted: Tensor) -> Tensor:
    """Effects minus the mean of those of their position; zero where nothing is substituted."""
    scores = scores.double() * substituted
    mean = scores.sum(2, keepdim=True) / substituted.sum(2, keepdim=True)
    return (scores - mean) * substituted


def recall(exact: Tensor, estimate: Tensor, top: int) -> Tensor:
    """(n, tasks): share of the largest magnitudes that are among the largest estimates.

    exact, estimate : (n, tasks, ...), such as (n, tasks, 4, length) or (n, tasks, length)
    """
    true, found = (scores.abs().flatten(2).topk(top).indices for scores in (exact, estimate))
    return (true[..., None] == found[..., None, :]).any(-1).double().mean(-1)


def wrong_signs(exact: Tensor, estimate: Tensor, top: int) -> Tensor:
    """(n, tasks): share of the largest effects to which the estimate gives the other sign."""
    exact, estimate = exact.flatten(2), estimate.flatten(2)
    largest = exact.abs().topk(top).indices
    return (exact.gather(2, largest) * estimate.gather(2, largest) < 0).double().mean(-1)


def describe_difference(exact: Tensor, estimate: Tensor, one_hot: Tensor) -> dict[str, Tensor]:
    """(n, tasks) by name: r, the parts of the squared difference, scale, signs and recalls.

    r within positions is that of the effects without their mean at each position. The slope is that
    of ISM on the estimate through zero; the scale is the root mean square of the estimate over that
    of ISM. Positions rank by the mean effect of their reference base.
    """
    size = _square(exact), _square(estimate)
    product = (exact.double() * estimate).sum((2, 3))
    substituted = (one_hot == 0)[:, None]
    within = [_within_positions(scores, substituted) for scores in (exact, estimate)]
    found = {
        "r": profile_correlation(exact, estimate),
        "r within positions": profile_correlation(*within),
        **parts_of_difference(exact, estimate, one_hot),
        "slope": product / size[1],
        "scale": (size[1] / size[0]).sqrt(),
        "wrong signs of the top 20": wrong_signs(exact, estimate, 20),
    }
    for top in TOP:
        found[f"recall of the top {top} substitutions"] = recall(exact, estimate, top)
    for top in TOP:
        found[f"recall of the top {top} positions"] = recall(exact.sum(2), estimate.sum(2), top)
    constant = (size[0] == 0) | (size[1] == 0)
    return {name: values.masked_fill(constant, float("nan")) for name, values in found.items()}


def anatomy_table(measures: dict[str, Tensor], loci: np.ndarray, **labels: Any) -> pd.DataFrame:
    """One row per measure of `describe_difference`: mean and interval over loci, and `labels`."""
    rows = [{**labels, "measure": m, **vars(summarise(v, loci))} for m, v in measures.items()]
    return pd.DataFrame(rows)


def calibration_table(
    exact: Tensor, estimate: Tensor, one_hot: Tensor, **labels: Any
) -> pd.DataFrame:
    """Predicted and exact effects of groups of substitutions: their means, spread and signs.

    The substitutions are grouped twice: by the predicted effect (`by` is "predicted") and by the
    exact one ("exact"). Groups at the extremes are small. The unit is the root mean square of the
    map by which they are grouped, so that maps of all sizes count alike.

    Columns: those of `labels`, by, share_below (share of the substitutions that lie below the upper
    edge of the group), predicted and exact (means; where `by` is "exact", both effects are
    multiplied by the sign of the exact one, so that groups are of its magnitude), sd (of the effect
    that does not define the groups), wrong_sign (share), n.
    """
    kept = (one_hot == 0)[:, None].expand_as(exact)
    maps = {"predicted": estimate, "exact": exact}
    rows = []
    for by, scores in maps.items():
        size = (scores.square().sum((2, 3), keepdim=True) / 3 / scores.shape[3]).sqrt()
        values = {name: (m / size)[kept].double().numpy() for name, m in maps.items()}
        wrong = values["exact"] * values["predicted"] < 0
        if by == "exact":
            sign = np.sign(values["exact"])
            values = {name: sign * m for name, m in values.items()}
        other = "exact" if by == "predicted" else "predicted"
        edges = np.nanquantile(values[by], _EDGES[by][1:-1])
        group = np.digitize(values[by], edges)
        for number, share in enumerate(_EDGES[by][1:]):
            member = (group == number) & np.isfinite(values[by])
            row = {name: m[member].mean() for name, m in values.items()}
            row |= {"sd": values[other][member].std(), "wrong_sign": wrong[member].mean()}
            rows.append({**labels, "by": by, "share_below": share, **row, "n": member.sum()})
    return pd.DataFrame(rows)


def deletion_effects(model: nn.Module, one_hot: Tensor) -> Tensor:
    """(n, tasks, 1, length): what happens to the output if the column of a position becomes zero.

    One forward pass a position.
    """
    length = one_hot.shape[2]
    deleted = one_hot[:, None] * (1 - torch.eye(length))[:, None]  # (n, length, 4, length)
    device = default_device()
    at = [predict(model, x, device=device) for x in deleted]  # (length, tasks) each
    effects = torch.stack(at) - predict(model, one_hot, device=device)[:, None]
    return effects.transpose(1, 2)[:, :, None]


def estimates_of_equal_passes(
    exact: Tensor, gradient: Tensor, deletion: Tensor, one_hot: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Estimates of ISM from one gradient for each task and one forward pass for each position.

    Deletion alone and "no gradient" are what a black box allows. Budgeted ISM (`tism.budgeted`)
    looks its exact effects up in `exact`; "each task" runs substitutions of its own.

    deletion : of `deletion_effects`

    Returns by name the estimate and its exact entries, (n, tasks, 4, length) and (n, tasks or 1,
    4, length) bool.
    """
    substituted = (one_hot == 0)[:, None]
    taylor = tism_from_gradient(gradient, one_hot)
    found = {
        "TISM": taylor,
        "deletion + gradient": (deletion + gradient) * substituted,
        "deletion alone": deletion.expand_as(exact) * substituted,
    }
    m = one_hot.shape[2]
    return {
        **{name: (estimate, ~substituted) for name, estimate in found.items()},
        "budgeted ISM, each task": budgeted_by_task(exact, taylor, one_hot, m),
        "budgeted ISM, all tasks": budgeted_for_all(exact, taylor, one_hot, m),
        "budgeted ISM, each task, no gradient": budgeted_by_task(exact, 0 * taylor, one_hot, m),
        "budgeted ISM, all tasks, no gradient": budgeted_for_all(exact, 0 * taylor, one_hot, m),
    }


def budgeted_for_all(exact: Tensor, base: Tensor, one_hot: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Budgeted ISM whose m exact substitutions all tasks share: estimate, and what is exact."""
    result = refine(base, one_hot, lambda chosen: exact.movedim(1, -1)[chosen], m)
    return result.estimate, result.exact[:, None]


def budgeted_by_task(exact: Tensor, base: Tensor, one_hot: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """The same with m substitutions for each task."""
    tasks = exact.shape[1]
    alone = [scores.flatten(0, 1)[:, None] for scores in (exact, base)]
    estimate, is_exact = budgeted_for_all(*alone, one_hot.repeat_interleave(tasks, 0), m)
    return estimate.view_as(exact), is_exact.view_as(exact)


def equal_passes_table(
    exact: Tensor, estimates: Mapping[str, tuple[Tensor, Tensor]], loci: np.ndarray, **labels: Any
) -> pd.DataFrame:
    """How near to ISM the estimates of `estimates_of_equal_passes` are, one row each.

    Columns: those of `labels`, estimate, r with its interval over loci (low, high), r_not_exact
    (over the entries that were not run), recall20 (of the 20 largest effects), wrong_signs (among
    them), exact_share (of all substitutions).
    """
    rows = []
    for name, (estimate, is_exact) in estimates.items():
        r = summarise(profile_correlation(exact, estimate), loci)
        left = ~is_exact.expand_as(exact)
        row = {"estimate": name, "r": r.value, "low": r.low, "high": r.high}
        row["r_not_exact"] = correlation_where(exact, estimate, left).nanmean().item()
        row["recall20"] = recall(exact, estimate, 20).mean().item()
        row["wrong_signs"] = wrong_signs(exact, estimate, 20).mean().item()
        row["exact_share"] = 1 - left.double().mean().item() / 0.75
        rows.append({**labels, **row})
    return pd.DataFrame(rows)


def correlation_where(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """(n, tasks): Pearson correlation over the entries of a mask; NaN for fewer than three.

    mask : bool, of the shape of the maps or, if all tasks share it, (n, 1, 4, length)
    """
    nan = torch.tensor(float("nan"), dtype=torch.float64)
    profiles = zip(*(x.flatten(0, 1) for x in (first, second, mask.expand_as(first))), strict=True)
    r = [pearson(a[kept], b[kept]) if kept.sum() > 2 else nan for a, b, kept in profiles]
    return torch.stack(r).view(first.shape[:2])
