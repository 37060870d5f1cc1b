"""What models predict of every substitution in an element, against what was measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from tism import versions
from tism.correlations import pearson
from tism.exact import ism
from tism.first_order import input_gradient, tism
from tism.layerwise import depths, layerwise_tism
from tism.model import BothStrandsConv, SoftmaxPool
from tism.predictor import evaluating
from tism.running import progress_bar
from tism.sequence import validate_one_hot
from tism.study.cache import cached_tensors
from tism.study.ch04_agreement import call_motifs, smooth_profile
from tism.study.ch07_budgets import budgeted_by_passes
from tism.study.ch08_networks import ExternalModel
from tism.study.data.kircher import Locus
from tism.study.profiles import digest
from tism.study.statistics import summarise, weighted_pearson
from tism.taylor import centre, gradient_times_input, mean_effect, tism_from_gradient

Method = Callable[[nn.Module, Tensor], Tensor]
TILES = 6  # tiles of an element longer than the model's input move by 1 / TILES of that input
BLOCK = 20  # bp; beyond that the measured effects of positions no longer correlate
N_RESAMPLES = 1000
N_SHUFFLES = 20
BUDGET = 50  # forward passes a sequence of budgeted ISM
_TAILS = (0.025, 0.975)


class MeanTask(nn.Module):
    """Mean of some tasks of a model, for an element that may be shorter than the model's input.

    length : of the element; unknown bases (zeros) fill up the model's input on both sides
    """

    def __init__(self, external: ExternalModel, tasks: Sequence[int], length: int) -> None:
        super().__init__()
        missing = max(0, external.length - length)
        self.model, self.tasks = external.model, list(tasks)
        self.padding = (missing - missing // 2, missing // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4, length) to (n, 1)."""
        if any(self.padding):
            x = F.pad(x, self.padding)
        return self.model(x)[:, self.tasks].mean(1, keepdim=True)


def removal_effect(contribution: Tensor, one_hot: Tensor) -> Tensor:
    """What a map of the reference bases says of substitutions: each loses the base's contribution.

    contribution : (n, tasks, 4, length), read at the reference bases; one_hot : (n, 4, length)

    Returns that shape: minus the contribution at the three alternate bases, alike for all of them,
    and zero at the reference and at N.
    """
    reference = one_hot[:, None].to(contribution)
    lost = (contribution * reference).sum(2, keepdim=True)
    return -lost * (1 - reference)


def deep_lift_multipliers(
    model: nn.Module, one_hot: Tensor, *, n_shuffles: int = N_SHUFFLES, seed: int = 0
) -> tuple[Tensor, float]:
    """DeepLIFT/SHAP multipliers of a model with one task (tangermeme), and how well they add up.

    References are dinucleotide shuffles. Softmax pooling has no closed rule and is attributed by
    integrated gradients through that one layer (8 nodes), the larger of two strands by
    `strand_rule`; without them tangermeme takes both for linear.

    Returns (n, 4, length), the mean over references, and the mean over pairs of
    |sum of contributions - difference of predictions|, as a share of the mean |difference|: the
    convergence delta, 0 where the rules account for all of the prediction.
    """
    from tangermeme.deep_lift_shap import deep_lift_shap, integrated_gradients_op
    from tangermeme.ersatz import dinucleotide_shuffle

    one_hot = validate_one_hot(one_hot).float()
    shuffled = dinucleotide_shuffle(one_hot, n=n_shuffles, random_state=seed, allow_N=True)
    with evaluating(model) as predict, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an N, and of deltas, which are returned
        multipliers = deep_lift_shap(
            predict.model,
            one_hot,
            references=shuffled,
            additional_nonlinear_ops={
                SoftmaxPool: integrated_gradients_op(),
                BothStrandsConv: strand_rule,
            },
            raw_outputs=True,
            only_warn=True,
            device="cpu",
        )
        with torch.no_grad():
            before = predict(predict.prepare(shuffled.flatten(0, 1))).view(-1, n_shuffles)
            gain = predict(predict.prepare(one_hot)) - before
    contributed = ((one_hot[:, None] - shuffled) * multipliers).sum((2, 3))
    delta = (contributed - gain).abs().mean() / gain.abs().mean().clamp(min=1e-12)
    return multipliers.mean(1), float(delta)


def strand_rule(
    module: BothStrandsConv, grad_input: tuple[Tensor, ...], grad_output: tuple[Tensor, ...]
) -> tuple[Tensor]:
    """DeepLIFT's rescale rule for the larger of two strands: max(a, b) = b + relu(a - b).

    In the form that tangermeme asks for: `module.input` holds sequences, then their references.
    """
    with torch.enable_grad():
        x = module.input.detach().requires_grad_()
        forward, reverse = module.conv(x), module.conv(x.flip(1, 2)).flip(2)
        ahead, before = (forward - reverse).detach().chunk(2)
        change = ahead - before
        share = (ahead.clamp(min=0) - before.clamp(min=0)) / change
        share = torch.where(change.abs() > 1e-6, share, (ahead > 0).to(share)).repeat(2, 1, 1)
        mixed = share * forward + (1 - share) * reverse
        return torch.autograd.grad(mixed, x, grad_output[0])


def _gradient_times_input(model: nn.Module, one_hot: Tensor) -> Tensor:
    gradient = input_gradient(model, one_hot)
    return removal_effect(gradient_times_input(gradient, one_hot), one_hot)


def _corrected_gradient(model: nn.Module, one_hot: Tensor) -> Tensor:
    return removal_effect(centre(input_gradient(model, one_hot)), one_hot)


def _layerwise(model: nn.Module, one_hot: Tensor) -> Tensor:
    return layerwise_tism(model, one_hot, depth=len(depths(model, one_hot)) // 2)


def _budgeted(model: nn.Module, one_hot: Tensor) -> Tensor:
    return budgeted_by_passes(model, one_hot, budget=BUDGET).estimate


def _deep_lift(model: nn.Module, one_hot: Tensor) -> Tensor:
    return tism_from_gradient(deep_lift_multipliers(model, one_hot)[0][:, None], one_hot)


# Each maps a model with one task and (n, 4, length) to (n, 1, 4, length), the predicted change of
# the output by every substitution. A method added here enters every table and figure.
METHODS: dict[str, Method] = {
    "ISM": ism,
    "TISM": tism,
    "layer-wise TISM": _layerwise,
    "budgeted ISM": _budgeted,
    "gradient x input": _gradient_times_input,
    "corrected gradient": _corrected_gradient,
    "DeepLIFT/SHAP": _deep_lift,
}


def tile_starts(length: int, window: int) -> np.ndarray:
    """Starts of windows over an element: each a sixth of a window on, and one that ends with it."""
    last = max(0, length - window)
    return np.unique(np.append(np.arange(0, last, max(1, window // TILES)), last))


def predicted_effects(
    external: ExternalModel, locus: Locus, methods: Mapping[str, Method] = METHODS
) -> dict[str, Tensor]:
    """(4, length) predicted change by every substitution, for each method.

    An element shorter than the model's input stands in its middle between unknown bases. A longer
    one is cut into tiles; each position is read from the tile whose centre is nearest, so that the
    model sees as much of either side as there is.
    """
    length = len(locus.sequence)
    window = min(length, external.length)
    tasks = external.task_numbers(locus.tasks[external.name])
    model = MeanTask(external, tasks, length)
    starts = tile_starts(length, window)
    tiles = torch.cat([locus.one_hot[:, :, start : start + window] for start in starts])
    positions = np.arange(length)
    nearest = np.abs(starts[:, None] + (window - 1) / 2 - positions).argmin(0)
    effects = {}
    for name, method in methods.items():
        scores = method(model, tiles)[:, 0]  # (tiles, 4, window)
        columns = torch.as_tensor(positions - starts[nearest])
        effects[name] = scores[torch.as_tensor(nearest), :, columns].T.contiguous()
    return effects


def score_loci(
    external: ExternalModel,
    loci: Sequence[Locus],
    methods: Mapping[str, Method] | None = None,
    *,
    progress: bool = True,
) -> dict[str, dict[str, Tensor]]:
    """`predicted_effects` of every locus by its name; kept in the cache, one locus and method each.

    methods : by default all of `METHODS`; a method of another name is computed by itself
    """
    methods = METHODS if methods is None else methods
    scores = {}
    with progress_bar(len(loci), progress, external.name) as report:
        for locus in loci:
            scores[locus.name] = {
                name: _cached_effect(external, locus, name, method)
                for name, method in methods.items()
            }
            report(1)
    return scores


def _cached_effect(external: ExternalModel, locus: Locus, name: str, method: Method) -> Tensor:
    return cached_tensors(
        _place(external, locus, name),
        lambda: {"effect": predicted_effects(external, locus, {name: method})[name]},
    )["effect"]


def _place(external: ExternalModel, locus: Locus, name: str) -> str:
    """Where the cache keeps what is computed of a locus."""
    estimation = {"estimation": versions.ESTIMATION} if name == "budgeted ISM" else {}
    content = {
        "weights": external.checksum,
        "sequence": locus.sequence,
        "tasks": locus.tasks[external.name],
        "method": name,
        "settings": [TILES, N_SHUFFLES],
        "version": versions.SCORING,
        **estimation,
    }
    return f"mutagenesis/{external.name}_{locus.name}_{digest(content)}"


def compare_with_measured(
    predicted: Mapping[str, Tensor], locus: Locus
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How each method agrees with the measured effects, and how far ISM is ahead of it.

    Over all measured substitutions Pearson and Spearman correlation; over the significant ones the
    share whose predicted sign is the measured one. Intervals are of Pearson: 95 % percentile
    bootstrap over blocks of 20 bp, since the three substitutions of a position and the positions of
    a motif are not independent. Differences (ISM minus method) are resampled together.

    predicted : by method, (4, length) each; "ISM" among them

    Returns a table of method, pearson, spearman, sign_agreement, low, high, n_variants, and one of
    method, difference, low, high.
    """
    measured = ~locus.effect.isnan()
    effect = locus.effect[measured].numpy()
    values = {name: scores[measured].double().numpy() for name, scores in predicted.items()}
    blocks = (torch.arange(locus.effect.shape[1]) // BLOCK).expand(4, -1)[measured].numpy()
    significant = locus.significant[measured].numpy()
    own = pearson(np.stack(list(values.values())), np.tile(effect, (len(values), 1)), 1).numpy()
    drawn = resampled_correlations(np.stack(list(values.values())), effect, blocks)
    rows, paired = [], []
    for number, (name, value) in enumerate(values.items()):
        low, high = np.nanquantile(drawn[:, number], _TAILS)
        agree = np.sign(value[significant]) == np.sign(effect[significant])
        rho = stats.spearmanr(value, effect).statistic if np.ptp(value) else float("nan")
        row = {"method": name, "pearson": own[number], "spearman": float(rho)}
        row["sign_agreement"] = float(agree.mean()) if agree.size else float("nan")
        rows.append(row | {"low": low, "high": high, "n_variants": len(effect)})
    exact = list(values).index("ISM")
    for number, name in enumerate(values):
        if number != exact:
            low, high = np.nanquantile(drawn[:, exact] - drawn[:, number], _TAILS)
            difference = own[exact] - own[number]
            paired.append({"method": name, "difference": difference, "low": low, "high": high})
    return pd.DataFrame(rows), pd.DataFrame(paired)


def resampled_correlations(
    values: np.ndarray, effect: np.ndarray, blocks: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """Pearson of each row of `values` with `effect` in bootstrap samples of whole blocks.

    values : (methods, n); effect : (n,); blocks : (n,) labels

    A sample is a weighting of the substitutions, and all methods see the same samples. Returns
    (N_RESAMPLES, methods).
    """
    _, block = np.unique(blocks, return_inverse=True)
    n = block.max() + 1
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), N_RESAMPLES)
    effects = np.broadcast_to(effect[:, None], values.T.shape).copy()
    return weighted_pearson(values.T, effects, drawn[:, block]).numpy()


def measured_tables(
    scores: Mapping[str, Mapping[str, Mapping[str, Tensor]]], loci: Sequence[Locus]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`compare_with_measured` of every model and locus, columns element and model in front.

    scores : by model, locus and method
    """
    agreement, ahead = [], []
    for model, by_locus in scores.items():
        for locus in loci:
            tables = compare_with_measured(by_locus[locus.name], locus)
            for table, rows in zip(tables, (agreement, ahead), strict=True):
                table.insert(0, "element", locus.name)
                table.insert(1, "model", model)
                rows.append(table)
    return pd.concat(agreement, ignore_index=True), pd.concat(ahead, ignore_index=True)


def summarise_loci(
    agreement: pd.DataFrame, loci: pd.DataFrame, *, columns: Sequence[str] = ("pearson",)
) -> pd.DataFrame:
    """Means over elements with 95 % intervals over elements, by model, cell match and method.

    agreement : of `measured_tables`; loci : of `locus_table`. Match "any" takes all elements.
    """
    table = agreement.merge(loci[["element", "match"]], on="element")
    table = pd.concat([table.assign(match="any"), table])
    rows = []
    for (model, match, method), own in table.groupby(["model", "match", "method"], sort=False):
        for column in columns:
            if own[column].notna().any():
                mean = summarise(own[column].to_numpy(), own["element"].to_numpy())
                rows.append(
                    {"model": model, "match": match, "method": method, "statistic": column}
                    | {"mean": mean.value, "low": mean.low, "high": mean.high}
                    | {"n_elements": mean.n_loci}
                )
    return pd.DataFrame(rows)


def locus_table(loci: Sequence[Locus]) -> pd.DataFrame:
    """One row an element: where it is, what was measured and how well the measurement repeats."""
    return pd.DataFrame(
        {
            "element": locus.name,
            "kind": locus.kind,
            "cells": locus.cells,
            "match": locus.match,
            "chrom": locus.chrom,
            "start": locus.start,
            "end": locus.end,
            "strand": locus.strand,
            "length": len(locus.sequence),
            "experiments": len(locus.experiments),
            "n_variants": int((~locus.effect.isnan()).sum()),
            "n_significant": int(locus.significant.sum()),
            "repeatability": locus.repeatability,
        }
        for locus in loci
    )


def method_agreement(
    scores: Mapping[str, Mapping[str, Mapping[str, Tensor]]], loci: Sequence[Locus]
) -> pd.DataFrame:
    """Mean over elements of Pearson between two methods' predicted effects of substitutions.

    Returns columns model, first, second, mean_r, low, high (95 % over elements).
    """
    rows = []
    for model, by_locus in scores.items():
        names = list(by_locus[loci[0].name])
        for first, second in combinations_with_replacement(names, 2):
            r = []
            for locus in loci:
                changed = locus.one_hot[0] == 0
                maps = [by_locus[locus.name][name][changed] for name in (first, second)]
                r.append(float(pearson(*maps)))
            mean = summarise(r, np.arange(len(r)))
            both = {"model": model, "first": first, "second": second}
            rows.append(both | {"mean_r": mean.value, "low": mean.low, "high": mean.high})
    return pd.DataFrame(rows)


def convergence_deltas(externals: Sequence[ExternalModel], loci: Sequence[Locus]) -> pd.DataFrame:
    """The convergence delta of DeepLIFT/SHAP (see `deep_lift_multipliers`) of every element.

    Of its first tile. Returns columns model, element, delta.
    """
    rows = []
    for external in externals:
        for locus in loci:
            found = cached_tensors(
                _place(external, locus, "convergence delta"),
                lambda external=external, locus=locus: {"delta": _first_delta(external, locus)},
            )
            delta = found["delta"].item()
            rows.append({"model": external.name, "element": locus.name, "delta": delta})
    return pd.DataFrame(rows)


def _first_delta(external: ExternalModel, locus: Locus) -> Tensor:
    tasks = external.task_numbers(locus.tasks[external.name])
    model = MeanTask(external, tasks, len(locus.sequence))
    _, delta = deep_lift_multipliers(model, locus.one_hot[:, :, : external.length])
    return torch.tensor(delta)


def effect_autocorrelation(loci: Sequence[Locus], farthest: int = 40) -> pd.DataFrame:
    """How far along an element measured effects are alike, which says how long a block must be.

    Returns columns distance (bp) and r, the mean over elements of the autocorrelation of the mean
    effect of each position's substitutions.
    """
    curves = []
    for locus in loci:
        profile = locus.effect.nanmean(0).numpy()
        profile = (profile - np.nanmean(profile)) / np.nanstd(profile)
        pairs = [profile[d:] * profile[: len(profile) - d] for d in range(farthest + 1)]
        curves.append([np.nanmean(products) for products in pairs])
    return pd.DataFrame({"distance": range(farthest + 1), "r": np.mean(curves, axis=0)})


def motif_recovery(
    scores: Mapping[str, Mapping[str, Mapping[str, Tensor]]], loci: Sequence[Locus]
) -> pd.DataFrame:
    """How many stretches that stand out in the measurement stand out in a map of predictions.

    Stretches are called as in `ch04_agreement.call_motifs`, in the measured mean effect of each
    reference base alone. One is recovered where the predicted profile has its sign over it on
    average and at least half its height, each as a share of its own largest.

    Returns columns model, element, method, measured, recovered (counts).
    """
    rows = []
    for model, by_locus in scores.items():
        for locus in loci:
            tracks = element_tracks(by_locus[locus.name], locus)
            heights = {
                name: smooth_profile(torch.tensor(tracks[name].fillna(0).to_numpy()))
                for name in tracks.columns.drop(["position", "base"])
            }
            measured = heights.pop("measured")
            calls = call_motifs(measured)
            for name, height in heights.items():
                shares = [
                    height[begin:end].mean() / measured[begin:end].mean() for begin, end, _ in calls
                ]
                rows.append(
                    {"model": model, "element": locus.name, "method": name}
                    | {"measured": len(calls), "recovered": sum(share >= 0.5 for share in shares)}
                )
    return pd.DataFrame(rows)


def element_tracks(predicted: Mapping[str, Tensor], locus: Locus) -> pd.DataFrame:
    """Mean effect of each reference base, measured and predicted: columns position, base, and one
    a map.

    Minus the mean over the substitutions (of the measured ones those that there are), so that a
    base whose loss lowers the activity is positive.
    """
    table = pd.DataFrame({"position": np.arange(len(locus.sequence)), "base": list(locus.sequence)})
    table["measured"] = (-locus.effect.nanmean(0)).numpy()
    for name, scores in predicted.items():
        effect = mean_effect(scores[None, None], locus.one_hot)[0, 0].sum(0)
        table[name] = effect.numpy()
    return table
