"""Epistasis: what two substitutions do together beyond what they do one by one.

e(l, b; m, c) = f(x with l -> b, m -> c) - f(x with l -> b) - f(x with m -> c) + f(x)

The paper proposes that where ISM and TISM disagree, bases interact. Taylor's theorem says something
else. A substitution moves the input along d, from one base to another at one position, and

ISM - TISM = d' H d / 2 + higher derivatives along d,

with H the second derivatives of f. Those between two positions appear in none of these terms. So a
model that is linear in each position, such as f = x[b, l] * x[c, m], has TISM equal to ISM however
much it interacts, and a sum of curved functions of single positions is discordant without any
interaction. Whether the two go together in trained networks is a question for `location_table`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tism.data.dataset import evenly
from tism.estimators import exact_effects
from tism.execution import (
    OutputFn,
    Predictor,
    Tasks,
    choose_batch_size,
    evaluating,
    progress_bar,
)
from tism.ism import ism, plan_of_engine
from tism.sequence import put_bases, validate_one_hot
from tism.windowed import Plan

if TYPE_CHECKING:
    import pandas as pd

    from tism.data.simulate import Truth
    from tism.experiment import Scores

_ALIKE = 4  # positions next to each other by |ISM|
_SHARE_INTERACTING = 0.1  # of the positions, by double mutants
_DISCORDANCE, _EFFECT = "discordance", "|ISM|"


def interactions(
    model: nn.Module,
    one_hot: Any,
    position: int,
    base: Any,
    tasks: Tasks = None,
    **options: Any,
) -> Tensor:
    """Epistasis of one substitution with all others: ISM of the mutant minus ISM of the reference.

    position : that is substituted, of every sequence
    base : 0 to 3, the new base; one for all sequences or (n,)
    options : of `tism.ism`, but start and stop

    Returns (n, n_tasks, 4, length), in the unit of the model's output; zero at reference bases and
    at `position` itself. Costs two ISM.
    Raises TypeError or ValueError naming the argument that is wrong.

    >>> import torch, tism
    >>> model = tism.build_model("baseline", length=8, n_tasks=2, width=4, seed=0)
    >>> interactions(model, tism.one_hot_encode("ACGTACGT"), 2, 0).shape
    torch.Size([1, 2, 4, 8])
    """
    one_hot = validate_one_hot(one_hot)
    n, _, length = one_hot.shape
    if isinstance(position, bool) or not hasattr(position, "__index__"):
        raise TypeError(f"position must be an int, got {position!r}")
    if not -length <= position < length:
        raise ValueError(f"position must be one of {length}, got {position}")
    new = _check_bases(base, (n,), "base")
    mutant = one_hot.clone()
    mutant[:, :, position] = nn.functional.one_hot(new, 4).to(mutant)
    found = ism(model, mutant, tasks, **options) - ism(model, one_hot, tasks, **options)
    found[..., position] = 0
    return found * (one_hot == 0)[:, None]


def interaction_map(
    model: nn.Module,
    one_hot: Any,
    bases: Any,
    tasks: Tasks = None,
    *,
    engine: str = "auto",
    output_fn: OutputFn | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Tensor:
    """Epistasis of all pairs of positions, each with one substitution.

    bases : (n, length), 0 to 3, the new base at each position; see `strongest`

    Other arguments as in `tism.ism`. Returns (n, n_tasks, length, length), symmetric, zero on the
    diagonal and where the new base is the reference. Costs length * (length + 1) / 2 substitutions
    a sequence, on windows where they apply.
    Raises TypeError or ValueError naming the argument that is wrong.

    >>> import torch, tism
    >>> model = tism.build_model("baseline", length=8, n_tasks=2, width=4, seed=0)
    >>> interaction_map(model, tism.one_hot_encode("ACGTACGT"), torch.zeros(1, 8).long()).shape
    torch.Size([1, 2, 8, 8])
    """
    one_hot = validate_one_hot(one_hot)
    n, _, length = one_hot.shape
    new = _check_bases(bases, (n, length), "bases")
    chosen = nn.functional.one_hot(new, 4).transpose(1, 2).bool() & (one_hot == 0)
    maps = []
    with evaluating(model, output_fn, device) as predict, torch.no_grad():
        passes = n * length * (length + 1) / 2
        plan = plan_of_engine(engine, predict, one_hot, passes, batch_size)
        with progress_bar(n, progress, "double mutants") as report:
            for sequence, own in zip(one_hot.cpu(), chosen, strict=True):
                maps.append(_map(predict, sequence, own, tasks, plan, batch_size))
                report(1)
    return torch.stack(maps)


def _check_bases(bases: Any, shape: tuple[int, ...], name: str) -> Tensor:
    bases = torch.as_tensor(bases)
    whole = not bases.is_floating_point() and not bases.is_complex()
    if not whole or bases.dtype == torch.bool or bases.shape not in ((), shape):
        raise ValueError(
            f"{name} must be integers of shape {shape}, got {bases.dtype} of {tuple(bases.shape)}"
        )
    if not ((bases >= 0) & (bases <= 3)).all():
        raise ValueError(f"{name} must be from 0 (A) to 3 (T), got {bases.flatten().tolist()[:5]}")
    return bases.cpu().long().expand(shape)


def _map(
    predict: Predictor,
    sequence: Tensor,
    chosen: Tensor,
    tasks: Tasks,
    plan: Plan | None,
    batch_size: int | None,
) -> Tensor:
    """(n_tasks, length, length) of one sequence, (4, length), and its substitutions, alike."""
    single = exact_effects(predict, sequence[None], tasks, plan, batch_size)(chosen[None])
    base, position = chosen.nonzero(as_tuple=True)
    mutants = put_bases(sequence.repeat(len(position), 1, 1), position, base)
    later = position[:, None] < torch.arange(chosen.shape[1])  # a pair is run once
    alone = single.new_zeros(chosen.shape[1], single.shape[1])
    alone[position] = single
    found = single.new_zeros(chosen.shape[1], chosen.shape[1], single.shape[1])
    at_once = plan.sequences if plan else choose_batch_size(None, chosen.shape[1], predict.device)
    for rows in torch.arange(len(position)).split(at_once):
        pairs = chosen & later[rows, None]
        if pairs.any():
            effects = exact_effects(predict, mutants[rows], tasks, plan, batch_size)(pairs)
            row, _, other = pairs.nonzero(as_tuple=True)
            found[position[rows[row]], other] = effects - alone[other]
    return (found + found.transpose(0, 1)).permute(2, 0, 1)


def strongest(scores: Tensor) -> Tensor:
    """(n, length): the base with the largest score of a position, by magnitude; (n, 4, length)."""
    return scores.abs().argmax(1)


def strength(maps: Tensor) -> Tensor:
    """Root mean square of a position's interactions: (..., length, length) to (..., length)."""
    others = max(1, maps.shape[-1] - 1)
    return (maps.square().sum(-1) / others).sqrt()


@dataclass(frozen=True)
class Sites:
    """Positions of regions of one network, each region in one task, and what is known of them.

    kind : what networks that differ by their seed only have in common
    loci, level : (n,) locus and prediction of a region
    scores : by name (n, length), large where bases should interact
    truths : by name (n, length) bool, where they do; a region without any has no verdict
    controls : by name (n, length) bool, positions to which a comparison may be confined
    """

    kind: str
    loci: np.ndarray
    level: np.ndarray
    scores: Mapping[str, np.ndarray]
    truths: Mapping[str, np.ndarray]
    controls: Mapping[str, np.ndarray]


def position_scores(exact: Tensor, first: Tensor, one_hot: Tensor) -> dict[str, np.ndarray]:
    """Sizes at a position, (n, length), root mean squares over its substitutions.

    exact, first : ISM and TISM, (n, 4, length)

    Of ISM - TISM ("discordance"), ISM, TISM, and discordance over the sum of the other two.
    """
    substitutions = (one_hot == 0).sum(1).clamp(min=1)

    def size(scores: Tensor) -> Tensor:
        return (scores.double().square().sum(1) / substitutions).sqrt()

    discordance, effect, taylor = size(exact - first), size(exact), size(first)
    both = (effect + taylor).clamp(min=torch.finfo(torch.float32).tiny)
    found = {_DISCORDANCE: discordance, _EFFECT: effect, "|TISM|": taylor}
    return {k: v.numpy() for k, v in {**found, "relative discordance": discordance / both}.items()}


def in_tasks(scores: Scores, tasks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """ISM and TISM of regions, each in its task: (n, 4, length) both."""
    rows, own = torch.arange(len(tasks)), torch.as_tensor(tasks)
    return scores.ism[rows, own], scores.tism[rows, own]


def paired_regions(truth: Truth, rows: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to n of these regions that have an interacting pair and a site outside of any, evenly.

    Returns the rows, and of each the task in which the sites of its pairs do most.
    """
    size = np.abs(truth.site_effects) * truth.paired[:, None]
    region = truth.sites["region"].to_numpy()
    total = np.zeros((truth.config.n_regions, size.shape[1]))
    np.add.at(total, region, size)
    has_pair, has_other = (np.isin(rows, region[which]) for which in (truth.paired, ~truth.paired))
    rows = rows[has_pair & has_other]
    if not len(rows):
        raise ValueError("none of these regions has an interacting pair and another site")
    rows = evenly(rows, n)
    return rows, total[rows].argmax(1)


def interacting(maps: Tensor, share: float = _SHARE_INTERACTING) -> np.ndarray:
    """(n, length) bool: the share of each region's positions with the strongest interactions."""
    size = strength(maps)
    k = max(1, round(share * size.shape[1]))
    found = torch.zeros_like(size, dtype=torch.bool)
    return found.scatter_(1, size.topk(k, 1).indices, True).numpy()


def auroc_within(score: np.ndarray, positive: np.ndarray, by: np.ndarray, n: int) -> float:
    """AUROC of pairs of positions in the same of n strata, equal shares of the positions by `by`.

    What is left of it where `by` is the signal that both go with. NaN without such a pair.
    """
    from scipy import stats

    from tism.evaluation import auroc

    stratum = n * (stats.rankdata(by, method="ordinal") - 1) // len(by)
    return auroc(score, positive, stratum)


def precision(score: np.ndarray, positive: np.ndarray) -> float:
    """Share of positives among as many positions with the largest scores; NaN without any."""
    k = int(positive.sum())
    if k in (0, len(positive)):
        return float("nan")
    return float(positive[np.argsort(-score, kind="stable")[:k]].mean())


def location_table(networks: Sequence[Sites]) -> pd.DataFrame:
    """Do scores of positions locate interacting ones? One row a kind, truth, control and score.

    networks : several of one kind make one row

    Controls: "all positions"; those of `Sites.controls`; "alike in |ISM|", pairs of positions in
    the same group of four by |ISM|; a third of the regions each by prediction. A score
    "discordance - |ISM|" is the difference of the two in the same region.

    Returns network, truth, control, score, auroc and precision (at the number of positives), each
    with its 95 % interval <measure>_low and <measure>_high over networks and loci, chance (share of
    positives), n_regions (of all networks), n_networks.
    """
    import pandas as pd

    rows = []
    for kind in dict.fromkeys(network.kind for network in networks):
        alike = [network for network in networks if network.kind == kind]
        for truth in alike[0].truths:
            for control, of in _controls(alike[0]).items():
                each = [of(network, truth) for network in alike]
                labels = {"network": kind, "truth": truth, "control": control}
                loci = [network.loci for network in alike]
                rows += [{**labels, **row} for row in _located(each, loci)]
    return pd.DataFrame(rows)


_Judged = dict[str, np.ndarray]  # by score (n, 3): AUROC, precision and share of positives
_Control = Callable[[Sites, str], _Judged]


def _controls(network: Sites) -> dict[str, _Control]:
    def everywhere(sites: Sites, truth: str) -> _Judged:
        return _judge(sites, truth, np.ones_like(sites.truths[truth]))

    def confined(name: str) -> _Control:
        return lambda sites, truth: _judge(sites, truth, sites.controls[name])

    def third(number: int) -> _Control:
        def judge(sites: Sites, truth: str) -> _Judged:
            edges = np.quantile(sites.level, [number / 3, (number + 1) / 3])
            own = (edges[0] <= sites.level) & (sites.level <= edges[1])
            return _judge(sites, truth, np.ones_like(sites.truths[truth]) & own[:, None])

        return judge

    levels = ("low", "middle", "high")
    return {
        "all positions": everywhere,
        **{name: confined(name) for name in network.controls},
        f"alike in {_EFFECT}": lambda sites, truth: _judge(
            sites, truth, np.ones_like(sites.truths[truth]), sites.scores[_EFFECT]
        ),
        **{f"{name} prediction": third(number) for number, name in enumerate(levels)},
    }


def _judge(
    sites: Sites, truth: str, candidates: np.ndarray, by: np.ndarray | None = None
) -> _Judged:
    from tism.evaluation import auroc

    found: _Judged = {}
    for name, score in sites.scores.items():
        rows = []
        for region, (own, positive, kept) in enumerate(
            zip(score, sites.truths[truth], candidates, strict=True)
        ):
            own, positive = own[kept], positive[kept]
            area = (
                auroc(own, positive)
                if by is None
                else auroc_within(own, positive, by[region][kept], max(1, len(own) // _ALIKE))
            )
            share = positive.mean() if 0 < positive.sum() < len(positive) else np.nan
            rows.append((area, precision(own, positive) if by is None else np.nan, share))
        found[name] = np.array(rows, dtype=float)
    found[f"{_DISCORDANCE} - {_EFFECT}"] = found[_DISCORDANCE] - found[_EFFECT]
    return found


def _located(each: Sequence[_Judged], loci: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    from tism.estimation import nested_interval

    rows = []
    for score in each[0]:
        values = [torch.from_numpy(judged[score]) for judged in each]
        row: dict[str, Any] = {"score": score}
        for column, measure in enumerate(("auroc", "precision")):
            low, high = nested_interval([v[:, [column]] for v in values], loci)
            mean = float(torch.cat(values)[:, column].nanmean())
            row |= {measure: mean, f"{measure}_low": low, f"{measure}_high": high}
        share = torch.cat([torch.from_numpy(judged[_DISCORDANCE][:, 2]) for judged in each])
        counts = {"n_regions": int(torch.cat(values)[:, 0].isfinite().sum())}
        counts["n_networks"] = len(each)
        rows.append({**row, "chance": float(share.nanmean()), **counts})
    return rows
