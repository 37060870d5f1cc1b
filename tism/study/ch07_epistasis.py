"""What the chapter beyond first order is made of: its networks, its tables, its double mutants.

An entry of a profile says which networks make up a kind: kind, dataset, variant, seeds (how many),
and changes of the profile's data, model and training. What takes long is kept in the cache, network
by network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tism import versions
from tism.correlations import profile_correlation
from tism.double_mutants import interaction_map, strongest
from tism.sequence import ALPHABET
from tism.study.cache import cached_tensors
from tism.study.ch04_agreement import auroc
from tism.study.ch07_estimators import experiment_of, kept, networks_of  # noqa: F401, for chapter 07
from tism.study.data.dataset import Dataset, evenly
from tism.study.data.simulation import Truth
from tism.study.data.sites import find_sites, read_motifs
from tism.study.profiles import Profile, default_device, digest, load_dataset
from tism.study.scores import Scores, fingerprint, score_regions, scored_rows
from tism.study.statistics import summarise

if TYPE_CHECKING:
    import pandas as pd

    from tism.study.data.simulation import Truth
    from tism.study.scores import Scores

REACHES = (5, 10, 20, 40)  # bp between two positions
_WEAKEST = 0.25  # affinity of a site at the threshold, as in the simulation


def sites_of(
    profile: Profile, entry: Mapping[str, Any], seed: int, n_regions: int, n_maps: int
) -> tuple[Sites, Tensor, np.ndarray]:
    """What is known of interactions in test regions of a network, and their maps.

    Simulated regions have a planted pair and another site, and the task in which the pair does
    most; others the task with the highest prediction. Of n_maps of them, spread evenly, the double
    mutants of that task are run: each position's strongest substitution (`interaction_map`).

    Returns beside the first the maps, (n_maps, length, length), and the rows of their regions.
    """
    experiment = experiment_of(profile, entry, seed)
    data, model = (
        load_dataset(experiment.profile, experiment.dataset),
        experiment.trained(progress=False)[0],
    )
    rows, tasks = _chosen(data, model, n_regions)
    scores = score_regions(model, data, rows, progress=False)
    exact, first = in_tasks(scores, tasks)
    mapped = evenly(np.arange(len(rows)), n_maps)
    maps = kept_maps(model, scores.one_hot[mapped], exact[mapped], tasks[mapped])
    truths = {"double mutants": np.zeros(exact[:, 0].shape, bool)}
    truths["double mutants"][mapped] = interacting(maps)
    controls = {}
    if data.truth is not None:
        truths = {"planted pairs": data.truth.interacting[rows], **truths}
        controls = {"bases of sites": data.truth.important[rows]}
    return (
        Sites(
            kind=entry["kind"],
            loci=data.regions["locus"].to_numpy()[rows],
            level=scores.predicted[torch.arange(len(rows)), torch.as_tensor(tasks)].numpy(),
            scores=position_scores(exact, first, scores.one_hot),
            truths=truths,
            controls=controls,
        ),
        maps,
        rows[mapped],
    )


def _chosen(data: Dataset, model: nn.Module, n: int) -> tuple[np.ndarray, np.ndarray]:
    if data.truth is not None:
        return paired_regions(data.truth, data.indices("test"), n)
    rows = scored_rows(data, n)
    return rows, score_regions(model, data, rows, progress=False).predicted.argmax(1).numpy()


def kept_maps(model: nn.Module, one_hot: Tensor, exact: Tensor, tasks: Sequence[int]) -> Tensor:
    """(n, length, length): `interaction_map` of regions, each in its task, kept in the cache.

    exact : (n, 4, length) ISM, whose strongest substitution each position has
    """
    own, bases, maps = fingerprint(model, one_hot), strongest(exact), []
    for row, task in enumerate(tasks):
        key = digest([own, row, int(task), versions.SCORING, versions.MODEL])
        x, new = one_hot[[row]], bases[[row]]

        def compute(x: Tensor = x, new: Tensor = new, task: int = int(task)) -> dict[str, Tensor]:
            found = interaction_map(model, x, new, task, device=default_device())
            return {"map": found[0, 0].contiguous()}

        maps.append(cached_tensors(f"interactions/{key}", compute)["map"])
    return torch.stack(maps)


def reach_table(maps: Mapping[str, Tensor]) -> pd.DataFrame:
    """How far interactions reach: by network, the share of their sum of squares within so many bp.

    maps : by network (n, length, length). Returns network, reach, share, of_pairs (share of the
    pairs of positions that lie so near).
    """
    rows = []
    for network, found in maps.items():
        number = torch.arange(found.shape[-1])
        distance = (number[:, None] - number).abs()
        square = found.double().square()
        square = square / square.sum((1, 2), keepdim=True)
        for reach in REACHES:
            near = (distance > 0) & (distance <= reach)
            of_pairs = float(near.sum() / (distance > 0).sum())
            share = float(square[:, near].sum(1).mean())
            rows.append({"network": network, "reach": reach, "share": share, "of_pairs": of_pairs})
    return pd.DataFrame(rows)


def pairs_table(
    found: Mapping[tuple[str, int], tuple[Sites, Tensor, np.ndarray]], data: Mapping[str, Dataset]
) -> pd.DataFrame:
    """Do the double mutants of networks find the pairs of sites that were planted to interact?

    found : of `sites_of`, by kind and seed; data : by kind; a kind without a truth is left out

    AUROC, with its 95 % interval over regions, of the root mean square interaction between the
    important bases of two sites: pairs that interact against all other pairs of sites of the same
    regions. Returns the columns of `location_table` that apply, n_pairs, n_other.
    """
    rows = []
    for kind in dict.fromkeys(kind for kind, _ in found):
        if data[kind].truth is None:
            continue
        maps = [(m, r) for (k, _), (_, m, r) in found.items() if k == kind]
        labels = {"network": kind, "truth": "planted pairs", "control": "pairs of sites"}
        labels |= {"score": "double mutants", "n_networks": len(maps)}
        rows.append({**labels, **_pairs_found(maps, data[kind].truth)})
    return pd.DataFrame(rows)


def _pairs_found(maps: Sequence[tuple[Tensor, np.ndarray]], truth: Truth) -> dict[str, Any]:
    each = [
        _pairs_of_sites(m, r, truth) for own, rows in maps for m, r in zip(own, rows, strict=True)
    ]
    table = pd.concat(each, ignore_index=True)
    size, planted = table["size"].to_numpy(), table["planted"].to_numpy(dtype=bool)
    found = summarise(
        np.arange(len(table), dtype=float),
        table["region"],
        lambda drawn: auroc(size[drawn.astype(int)], planted[drawn.astype(int)]),
    )
    counts = {"n_pairs": int(planted.sum()), "n_other": int((~planted).sum())}
    area = {"auroc": found.value, "auroc_low": found.low, "auroc_high": found.high}
    return {**area, "n_regions": found.n_loci, **counts}


def _pairs_of_sites(interactions: Tensor, region: int, truth: Truth) -> pd.DataFrame:
    own = truth.sites[truth.sites["region"] == region]
    pairs = set(map(frozenset, truth.pairs[["first", "second"]].to_numpy().tolist()))
    important = truth.important[region]
    bases = {
        site.Index: [p for p in range(site.start, site.end) if important[p]]
        for site in own.itertuples()
    }
    rows = []
    for i, first in enumerate(bases):
        for second in list(bases)[i + 1 :]:
            block = interactions[bases[first]][:, bases[second]]
            size, planted = float(block.square().mean().sqrt()), {first, second} in pairs
            rows.append({"region": region, "size": size, "planted": planted})
    return pd.DataFrame(rows, columns=["region", "size", "planted"])


def most_discordant(scores: Scores, loci: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n regions, of different loci, where ISM and TISM differ most in some task, and the task.

    By the root mean square of ISM - TISM over the substitutions. Numbers in `scores`.
    """
    size = (scores.ism - scores.tism).square().mean((2, 3)).sqrt()
    most, task = size.max(1)
    order = most.argsort(descending=True).numpy()
    _, first = np.unique(loci[order], return_index=True)
    regions = order[np.sort(first)][:n]
    return regions, task.numpy()[regions]


def known_sites(sequences: np.ndarray, dataset: str) -> pd.DataFrame:
    """Sites of known motifs (yeast or vertebrate) in (n, length) base indices; see `find_sites`."""
    file = "motifs_yeast.csv" if dataset == "yeast" else "motifs.csv"
    return find_sites(sequences, read_motifs(file=file), _WEAKEST)


def describe_maps(
    maps: Tensor, scores: Scores, regions: np.ndarray, tasks: np.ndarray, data: Dataset
) -> pd.DataFrame:
    """One row a region and task: how they disagree, the strongest interaction, and what lies there.

    maps : (n, length, length) of these regions (numbers in `scores`) in their tasks

    Returns region, task, r (of ISM and TISM), discordance (root mean square), first and second
    (positions), sequence (the bases around them), interaction, effect_first and effect_second (of
    the single substitutions), motif_first and motif_second (known motifs with a site there),
    within_10 (share of the sum of squares of all interactions between positions at most 10 bp
    apart).
    """
    r = profile_correlation(scores.ism[regions], scores.tism[regions])
    exact = scores.ism[regions, tasks]
    single = exact.gather(1, strongest(exact)[:, None])[:, 0]
    sequences = scores.one_hot[regions].argmax(1).numpy().astype(np.uint8)
    sites = known_sites(sequences, data.name)
    near = reach_table({str(i): m[None] for i, m in enumerate(maps)}).query("reach == 10")
    rows = []
    for i, (region, task) in enumerate(zip(regions, tasks, strict=True)):
        first, second = sorted(divmod(int(maps[i].abs().argmax()), maps.shape[-1]))
        difference = scores.ism[region, task] - scores.tism[region, task]
        own = sites[sites["region"] == i]
        rows.append(
            {
                "region": data.regions["name"].iloc[scores.rows[region]],
                "task": data.tasks[task],
                "r": r[i, task].item(),
                "discordance": difference.square().mean().sqrt().item(),
                "first": first,
                "second": second,
                "sequence": _bases_around(sequences[i], first, second),
                "interaction": maps[i, first, second].item(),
                "effect_first": single[i, first].item(),
                "effect_second": single[i, second].item(),
                "motif_first": _motifs_at(own, first),
                "motif_second": _motifs_at(own, second),
                "within_10": near["share"].iloc[i],
            }
        )
    return pd.DataFrame(rows)


def _bases_around(sequence: np.ndarray, first: int, second: int, reach: int = 5) -> str:
    """Bases up to `reach` beside two positions; "..." between those that are far apart."""
    letters = "".join(np.array(list(ALPHABET))[sequence])
    around = [letters[max(0, p - reach) : p + reach + 1] for p in (first, second)]
    if second - first > 2 * reach:
        return "...".join(around)
    return letters[max(0, first - reach) : second + reach + 1]


def _motifs_at(sites: pd.DataFrame, position: int) -> str:
    there = sites[(sites["start"] <= position) & (position < sites["end"])]
    return ", ".join(there.sort_values("affinity", ascending=False)["motif"].unique()[:3])


_ALIKE = 4  # positions next to each other by |ISM|
_SHARE_INTERACTING = 0.1  # of the positions, by double mutants
_DISCORDANCE, _EFFECT = "discordance", "|ISM|"


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

    from tism.study.ch04_agreement import auroc

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
    from tism.study.ch04_agreement import auroc

    found: _Judged = {}
    for name, score in sites.scores.items():
        rows = []
        for region, (own, positive, candidate) in enumerate(
            zip(score, sites.truths[truth], candidates, strict=True)
        ):
            own, positive = own[candidate], positive[candidate]
            area = (
                auroc(own, positive)
                if by is None
                else auroc_within(own, positive, by[region][candidate], max(1, len(own) // _ALIKE))
            )
            share = positive.mean() if 0 < positive.sum() < len(positive) else np.nan
            rows.append((area, precision(own, positive) if by is None else np.nan, share))
        found[name] = np.array(rows, dtype=float)
    found[f"{_DISCORDANCE} - {_EFFECT}"] = found[_DISCORDANCE] - found[_EFFECT]
    return found


def _located(each: Sequence[_Judged], loci: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    from tism.study.statistics import nested_interval

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
