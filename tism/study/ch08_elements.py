"""What models predict of every substitution in an element, against what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations_with_replacement, product

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from tism import versions
from tism.correlations import pearson
from tism.running import progress_bar
from tism.study.cache import cached_tensors
from tism.study.ch04_agreement import call_motifs, smooth_profile
from tism.study.ch08_attribution import (
    EFFECT_PREDICTORS,
    N_EXACT,
    N_SHUFFLES,
    EffectPredictor,
    MeanTask,
    deep_lift_multipliers,
)
from tism.study.ch08_networks import ExternalModel
from tism.study.data.kircher import Locus
from tism.study.profiles import digest
from tism.study.statistics import holm, mean_of, weighted_pearson
from tism.taylor import mean_effect

EffectsOfModels = Mapping[str, Mapping[str, Mapping[str, Tensor]]]  # by model, element, method
MEASURED, UNMEASURED = "measured", "."  # in `element_maps`
TILES = 6  # tiles of an element longer than the model's input move by 1 / TILES of that input
BLOCK = 20  # bp; beyond that the measured effects of positions no longer correlate
N_RESAMPLES = 1000
_FARTHEST = 40  # bp, of the autocorrelation
_TAILS = (0.025, 0.975)
_ROUNDING = 1e-6  # of a correlation; maps that differ by less are no evidence of a difference


def tile_starts(length: int, window: int) -> np.ndarray:
    """Starts of windows over an element: each a sixth of a window on, and one that ends with it."""
    last = max(0, length - window)
    return np.unique(np.append(np.arange(0, last, max(1, window // TILES)), last))


def predicted_effects(external: ExternalModel, locus: Locus, method: EffectPredictor) -> Tensor:
    """(4, length) predicted change by every substitution of an element.

    An element shorter than the model's input stands in its middle between unknown bases. A longer
    one is cut into tiles; each position is read from the tile whose centre is nearest, so that the
    model sees as much of either side as there is.
    """
    length = len(locus.sequence)
    window = min(length, external.length)
    starts = tile_starts(length, window)
    tiles = torch.cat([locus.one_hot[:, :, start : start + window] for start in starts])
    scores = method(_model_of(external, locus), tiles)[:, 0]  # (tiles, 4, window)
    positions = np.arange(length)
    nearest = np.abs(starts[:, None] + (window - 1) / 2 - positions).argmin(0)
    return scores[nearest, :, positions - starts[nearest]].T.contiguous()


def _model_of(external: ExternalModel, locus: Locus) -> MeanTask:
    tasks = external.task_numbers(locus.tasks[external.name])
    return MeanTask(external, tasks, len(locus.sequence))


def score_loci(
    external: ExternalModel, loci: Sequence[Locus], *, progress: bool = True
) -> dict[str, dict[str, Tensor]]:
    """`predicted_effects` by element and method; the cache keeps each."""
    scores: dict[str, dict[str, Tensor]] = {}
    with progress_bar(len(loci), progress, external.name) as report:
        for locus in loci:
            effects = scores[locus.name] = {}
            for name, method in EFFECT_PREDICTORS.items():
                compute = partial(predicted_effects, external, locus, method)
                effects[name] = _cached(external, locus, name, "effect", compute)
            report(1)
    return scores


def _cached(
    external: ExternalModel, locus: Locus, method: str, kind: str, compute: Callable[[], Tensor]
) -> Tensor:
    """What a method finds in an element: from the cache, or computed and kept there."""
    content = {
        "model": external.checksum,
        "sequence": locus.sequence,
        "tasks": locus.tasks[external.name],
        "method": method,
        "settings": [TILES, N_SHUFFLES],
        "versions": [versions.SCORING, versions.MODEL],
        **({"m": [N_EXACT, versions.ESTIMATION]} if method == "budgeted ISM" else {}),
    }
    name = f"mutagenesis/{external.name}_{locus.name}_{digest(content)}"
    return cached_tensors(name, lambda: {kind: compute()})[kind]


def compare_with_measured(
    predicted: Mapping[str, Tensor], locus: Locus
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How each method agrees with the measured effects, and how far ISM is ahead of it.

    Pearson and Spearman correlation are over all measured substitutions; sign_agreement is the
    share of the significant ones whose predicted sign is the measured one. Intervals are of
    Pearson: 95 % percentile bootstrap over blocks of 20 bp, since the three substitutions of a
    position and the positions of a motif are not independent. Differences (ISM minus method) are
    resampled together; their p is that of a normal distribution with the standard error of the
    resampled ones.

    predicted : by method, (4, length) each; "ISM" among them

    Returns a table of method, pearson, spearman, sign_agreement, low, high, n_variants, and one of
    method, difference, low, high, p.
    """
    measured = ~locus.effect.isnan()
    effect = locus.effect[measured].numpy()
    values = np.stack([scores[measured].double().numpy() for scores in predicted.values()])
    blocks = (torch.arange(locus.effect.shape[1]) // BLOCK).expand(4, -1)[measured].numpy()
    significant = locus.significant[measured].numpy()
    r = pearson(values, np.tile(effect, (len(values), 1)), 1).numpy()
    drawn = resampled_correlations(values, effect, blocks)
    exact = list(predicted).index("ISM")
    rows, differences = [], []
    for number, (method, value) in enumerate(zip(predicted, values, strict=True)):
        low, high = np.nanquantile(drawn[:, number], _TAILS)
        agree = np.sign(value[significant]) == np.sign(effect[significant])
        rho = stats.spearmanr(value, effect).statistic if np.ptp(value) else float("nan")
        row = {"method": method, "pearson": r[number], "spearman": float(rho)}
        row["sign_agreement"] = float(agree.mean()) if agree.size else float("nan")
        rows.append(row | {"low": low, "high": high, "n_variants": len(effect)})
        if number != exact:
            resampled, difference = drawn[:, exact] - drawn[:, number], r[exact] - r[number]
            low, high = np.nanquantile(resampled, _TAILS)
            error = max(np.nanstd(resampled), _ROUNDING)
            p = 2 * stats.norm.sf(abs(difference) / error)
            ahead = {"method": method, "difference": difference, "low": low, "high": high}
            differences.append(ahead | {"p": p})
    return pd.DataFrame(rows), pd.DataFrame(differences)


def resampled_correlations(
    values: np.ndarray, effect: np.ndarray, blocks: np.ndarray
) -> np.ndarray:
    """Pearson of each row of `values` with `effect` in bootstrap samples of whole blocks.

    values : (methods, n); effect : (n,); blocks : (n,) labels

    A sample is a weighting of the substitutions, and all methods see the same samples. Returns
    (N_RESAMPLES, methods).
    """
    _, block = np.unique(blocks, return_inverse=True)
    n = block.max() + 1
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), N_RESAMPLES)
    effects = np.broadcast_to(effect[:, None], values.T.shape).copy()
    return weighted_pearson(values.T, effects, drawn[:, block]).numpy()


def measured_tables(
    scores: EffectsOfModels, loci: Sequence[Locus]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`compare_with_measured` of every model and element, columns element and model in front.

    In the second table p is corrected for the models and elements that a method is compared in.
    """
    agreement, ahead = [], []
    for model, by_locus in scores.items():
        for locus in loci:
            tables = compare_with_measured(by_locus[locus.name], locus)
            for table, parts in zip(tables, (agreement, ahead), strict=True):
                table.insert(0, "element", locus.name)
                table.insert(1, "model", model)
                parts.append(table)
    differences = pd.concat(ahead, ignore_index=True)
    differences["p"] = differences.groupby("method")["p"].transform(holm)
    return pd.concat(agreement, ignore_index=True), differences


def summarise_loci(
    agreement: pd.DataFrame, loci: pd.DataFrame, columns: Sequence[str]
) -> pd.DataFrame:
    """Means over elements with 95 % t intervals over them, by model, cell match and method.

    agreement : of `measured_tables`; loci : of `locus_table`; match "any" takes all elements

    Returns columns model, match, method, statistic (one of `columns`), mean, low, high, n_elements.
    """
    table = agreement.merge(loci[["element", "match"]], on="element")
    table = pd.concat([table.assign(match="any"), table])
    rows = []
    for key, group in table.groupby(["model", "match", "method"], sort=False):
        for column in columns:
            if group[column].notna().any():
                rows.append((*key, column, *mean_of(group[column].dropna())))
    names = ["model", "match", "method", "statistic", "mean", "low", "high", "n_elements"]
    return pd.DataFrame(rows, columns=names)


def locus_table(loci: Sequence[Locus]) -> pd.DataFrame:
    """One row per element: where it is, what was measured and how well the measurement repeats."""
    return pd.DataFrame(
        {
            "element": locus.name,
            **{key: getattr(locus, key) for key in ("kind", "cells", "match")},
            **{key: getattr(locus, key) for key in ("chrom", "start", "end", "strand")},
            "length": len(locus.sequence),
            "sequence": locus.sequence,
            "experiments": len(locus.experiments),
            "n_variants": int((~locus.effect.isnan()).sum()),
            "n_significant": int(locus.significant.sum()),
            "repeatability": locus.repeatability,
        }
        for locus in loci
    )


def method_agreement(scores: EffectsOfModels, loci: Sequence[Locus]) -> pd.DataFrame:
    """Mean over elements of Pearson between two methods' predicted effects of substitutions.

    Returns columns model, first, second, mean_r, low, high (95 % over elements).
    """
    rows = []
    for model, by_locus in scores.items():
        for first, second in combinations_with_replacement(by_locus[loci[0].name], 2):
            r = []
            for locus in loci:
                changed = locus.one_hot[0] == 0
                effects = by_locus[locus.name]
                r.append(float(pearson(effects[first][changed], effects[second][changed])))
            exists = pd.Series(r).dropna()
            rows.append((model, first, second, *mean_of(exists)[:3]))
    return pd.DataFrame(rows, columns=["model", "first", "second", "mean_r", "low", "high"])


def convergence_deltas(externals: Sequence[ExternalModel], loci: Sequence[Locus]) -> pd.DataFrame:
    """Convergence delta of `deep_lift_multipliers` in the first tile: model, element, delta."""
    rows = []
    for external, locus in product(externals, loci):
        compute = partial(_delta_of_first_tile, external, locus)
        delta = _cached(external, locus, "convergence delta", "delta", compute)
        rows.append((external.name, locus.name, delta.item()))
    return pd.DataFrame(rows, columns=["model", "element", "delta"])


def _delta_of_first_tile(external: ExternalModel, locus: Locus) -> Tensor:
    tile = locus.one_hot[:, :, : external.length]
    return torch.tensor(deep_lift_multipliers(_model_of(external, locus), tile)[1])


def effect_autocorrelation(loci: Sequence[Locus]) -> pd.DataFrame:
    """How far along an element measured effects are alike, which says how long a block must be.

    Returns columns distance (bp) and r, the mean over elements of the autocorrelation of the mean
    effect of each position's substitutions.
    """
    curves = []
    for locus in loci:
        profile = locus.effect.nanmean(0).numpy()
        profile = (profile - np.nanmean(profile)) / np.nanstd(profile)
        pairs = [profile[d:] * profile[: len(profile) - d] for d in range(_FARTHEST + 1)]
        curves.append([np.nanmean(products) for products in pairs])
    return pd.DataFrame({"distance": range(_FARTHEST + 1), "r": np.mean(curves, axis=0)})


def motif_recovery(scores: EffectsOfModels, loci: Sequence[Locus]) -> pd.DataFrame:
    """How many stretches that stand out in the measurement stand out in a map of predictions.

    Stretches are called by `ch04_agreement.call_motifs` in the measured mean effect of each
    reference base. One is recovered if the mean height over it has the same sign in the predicted
    profile and at least half the size, each as a share of the largest in its profile.

    Returns columns model, element, method, measured, recovered (counts).
    """
    rows = []
    for model, by_locus in scores.items():
        for locus in loci:
            tracks = element_tracks(by_locus[locus.name], locus).drop(columns=["position", "base"])
            filled = tracks.fillna(0).items()
            heights = {name: smooth_profile(torch.tensor(t.to_numpy())) for name, t in filled}
            measured = heights.pop("measured")
            calls = call_motifs(measured)
            for method, height in heights.items():
                shares = [height[b:e].mean() / measured[b:e].mean() for b, e, _ in calls]
                recovered = sum(share >= 0.5 for share in shares)
                rows.append((model, locus.name, method, len(calls), recovered))
    return pd.DataFrame(rows, columns=["model", "element", "method", "measured", "recovered"])


def element_tracks(predicted: Mapping[str, Tensor], locus: Locus) -> pd.DataFrame:
    """Mean effect of each reference base: columns position, base, measured, and one a method.

    It is minus the mean over the substitutions (those that were measured), so that a base whose
    loss lowers the activity is positive.
    """
    table = pd.DataFrame({"position": np.arange(len(locus.sequence)), "base": list(locus.sequence)})
    table["measured"] = (-locus.effect.nanmean(0)).numpy()
    for name, scores in predicted.items():
        table[name] = mean_effect(scores[None, None], locus.one_hot)[0, 0].sum(0).numpy()
    return table


def in_thousandths(effects: Tensor) -> tuple[float, str]:
    """The largest magnitude, and every effect in thousandths of it, `UNMEASURED` for NaN.

    Raises ValueError if an effect is infinite or none is known.
    """
    known = ~effects.isnan()
    if not known.any() or effects.isinf().any():
        raise ValueError("effects must be finite, or NaN where not measured; got infinity or none")
    largest = effects[known].abs().max().item()
    whole = (1000 * effects.double().nan_to_num() / (largest or 1)).round().int().tolist()
    pairs = zip(known.tolist(), whole, strict=True)
    return largest, " ".join(str(k) if there else UNMEASURED for there, k in pairs)


def element_maps(
    scores: EffectsOfModels, loci: Sequence[Locus], methods: Sequence[str]
) -> pd.DataFrame:
    """Measured effects of every substitution, and those that some methods predict.

    Returns columns element, model (none in the row of the measured effects), method, largest,
    effects, which are stored as `tism.study.explorer` describes.
    """
    rows = []
    for locus in loci:
        maps: dict[tuple[str, str], Tensor] = {("", MEASURED): locus.effect}
        for model, by_locus in scores.items():
            maps |= {(model, method): by_locus[locus.name][method] for method in methods}
        substituted = locus.one_hot[0] == 0
        rows += [(locus.name, *key, *in_thousandths(m[substituted])) for key, m in maps.items()]
    return pd.DataFrame(rows, columns=["element", "model", "method", "largest", "effects"])
