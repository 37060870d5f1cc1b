"""Double mutants in chapter 07: where positions interact, and what locates such positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from tism import versions
from tism.correlations import profile_correlation
from tism.double_mutants import interaction_map, strongest
from tism.sequence import ALPHABET
from tism.study.cache import cached_tensors
from tism.study.ch04_agreement import auroc, summarise_pairs
from tism.study.ch07_networks import data_and_model
from tism.study.data.dataset import Dataset, evenly
from tism.study.data.simulation import Truth
from tism.study.data.sites import find_sites, read_motifs
from tism.study.profiles import Profile, default_device, digest
from tism.study.scores import Scores, fingerprint, score_regions, scored_rows
from tism.study.statistics import interval

REACHES = (5, 10, 20, 40)  # bp between two positions
_ALIKE = 4  # positions of similar |ISM| in a stratum
_SHARE_INTERACTING = 0.1  # share of the positions that count as interacting by double mutants
_DISCORDANCE, _EFFECT = "discordance", "|ISM|"
_MORE = f"{_DISCORDANCE} - {_EFFECT}"


@dataclass(frozen=True)
class JudgedPositions:
    """Positions of regions, each region in one task, with what is known of their interactions.

    kind, seed : name of the networks that differ from this one by their seed only, and its seed
    loci, level : (n,) locus and prediction of a region
    scores : by name (n, length), expected to be large where positions interact
    truths : by name (n, length) bool, True where they do; a region without any has no verdict
    controls : by name (n, length) bool, positions to which a comparison may be confined
    """

    kind: str
    seed: int
    loci: np.ndarray
    level: np.ndarray
    scores: Mapping[str, np.ndarray]
    truths: Mapping[str, np.ndarray]
    controls: Mapping[str, np.ndarray]


def positions_of(
    profile: Profile, entry: Mapping[str, Any], seed: int, n_regions: int, n_maps: int
) -> tuple[JudgedPositions, Tensor, np.ndarray]:
    """The positions of test regions of one network, and interaction maps of some of these regions.

    Simulated regions have an interacting pair of sites and another site, and the task in which the
    pair does most; others the task with the highest prediction. For n_maps of the regions, spread
    evenly, the double mutants are run. Each position has a substitution drawn at random: its
    strongest one would make interactions large where ISM is.

    Returns the positions, the maps (n_maps, length, length), and the rows of their regions.
    """
    data, model = data_and_model(profile, entry, seed)
    if data.truth is not None:
        rows, tasks = paired_regions(data.truth, data.indices("test"), n_regions)
    else:
        rows = scored_rows(data, n_regions)
    scores = score_regions(model, data, rows, progress=False)
    if data.truth is None:
        tasks = scores.predicted.argmax(1).numpy()
    region = np.arange(len(rows))
    exact, taylor = scores.ism[region, tasks], scores.tism[region, tasks]
    mapped = evenly(region, n_maps)
    one_hot = scores.one_hot[mapped]
    maps = kept_maps(model, one_hot, drawn_bases(one_hot, seed), tasks[mapped])
    by_mutants = np.zeros(exact[:, 0].shape, bool)
    by_mutants[mapped] = interacting(maps)
    truths, controls = {"double mutants": by_mutants}, {}
    if data.truth is not None:
        truths = {"planted pairs": data.truth.interacting[rows], **truths}
        controls = {"bases of sites": data.truth.important[rows]}
    loci, level = data.regions["locus"].to_numpy()[rows], scores.predicted[region, tasks].numpy()
    sizes = position_scores(exact, taylor, scores.one_hot)
    judged = JudgedPositions(entry["kind"], seed, loci, level, sizes, truths, controls)
    return judged, maps, rows[mapped]


def paired_regions(truth: Truth, rows: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to n of these regions that have an interacting pair and a site outside of any, evenly.

    Returns the rows, and for each the task in which the sites of its pairs do most.
    """
    region = truth.sites["region"].to_numpy()
    total = np.zeros((len(truth.noiseless), truth.site_effects.shape[1]))
    np.add.at(total, region, np.abs(truth.site_effects) * truth.paired[:, None])
    has_pair, has_other = (np.isin(rows, region[which]) for which in (truth.paired, ~truth.paired))
    rows = rows[has_pair & has_other]
    if not len(rows):
        raise ValueError("none of these regions has an interacting pair and another site")
    rows = evenly(rows, n)
    return rows, total[rows].argmax(1)


def drawn_bases(one_hot: Tensor, seed: int) -> Tensor:
    """(n, length) base indices: at each position one of the other three bases, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(1, 4, one_hot[:, 0].shape, generator=generator)
    return (one_hot.argmax(1) + shift) % 4


def kept_maps(model: nn.Module, one_hot: Tensor, bases: Tensor, tasks: Sequence[int]) -> Tensor:
    """(n, length, length): `interaction_map` of regions, each in its task; the cache keeps them.

    bases : (n, length), the substitution of each position
    """
    maps = []
    for region, row, task in zip(one_hot.split(1), bases.split(1), map(int, tasks), strict=True):
        content = [fingerprint(model, region), row.tolist(), task]
        key = digest([content, versions.SCORING, versions.MODEL])
        compute = partial(_map_of_region, model, region, row, task)
        maps.append(cached_tensors(f"interactions/{key}", compute)["map"])
    return torch.stack(maps)


def _map_of_region(
    model: nn.Module, one_hot: Tensor, bases: Tensor, task: int
) -> dict[str, Tensor]:
    found = interaction_map(model, one_hot, bases, task, device=default_device())
    return {"map": found[0, 0].contiguous()}


def interacting(maps: Tensor) -> np.ndarray:
    """(n, length) bool: the tenth of each region's positions with the strongest interactions."""
    size = maps.square().sum(-1)
    k = max(1, round(_SHARE_INTERACTING * size.shape[1]))
    found = torch.zeros_like(size, dtype=torch.bool)
    return found.scatter_(1, size.topk(k, 1).indices, True).numpy()


def position_scores(exact: Tensor, taylor: Tensor, one_hot: Tensor) -> dict[str, np.ndarray]:
    """Scores of positions, (n, length) each, by name: root mean squares over the substitutions.

    exact, taylor : ISM and TISM, (n, 4, length)

    Returns that of ISM - TISM ("discordance"), of ISM, of TISM, and the discordance divided by the
    sum of the other two ("relative discordance").
    """
    substitutions = (one_hot == 0).sum(1).clamp(min=1)
    discordance, effect, approximation = (
        (scores.double().square().sum(1) / substitutions).sqrt()
        for scores in (exact - taylor, exact, taylor)
    )
    both = (effect + approximation).clamp(min=torch.finfo(torch.float32).tiny)
    found = {_DISCORDANCE: discordance, _EFFECT: effect, "|TISM|": approximation}
    return {k: v.numpy() for k, v in {**found, "relative discordance": discordance / both}.items()}


def verdicts(networks: Sequence[JudgedPositions]) -> pd.DataFrame:
    """How well each score locates interacting positions, in each region by each truth and control.

    Controls: "all positions"; those of `JudgedPositions.controls`; "alike in |ISM|", which compares
    positions of similar |ISM| only, in groups of four; and three thirds of the regions, by
    prediction. Rows of the score "discordance - |ISM|" hold differences of these two scores' rows.

    Returns kind, seed, locus, truth, control, score, auroc, precision (at the number of positives)
    and chance (share of positives).
    """
    tables = []
    for network in networks:
        labels = {"kind": network.kind, "seed": network.seed, "locus": network.loci}
        for truth, positive in network.truths.items():
            for control, compared in _controls(network).items():
                found = {
                    score: pd.DataFrame(map(_verdict, values, positive, *compared))
                    for score, values in network.scores.items()
                }
                found[_MORE] = found[_DISCORDANCE] - found[_EFFECT]
                found[_MORE]["chance"] = found[_EFFECT]["chance"]
                for score, table in found.items():
                    labels |= {"truth": truth, "control": control, "score": score}
                    tables.append(table.assign(**labels))
    return pd.concat(tables, ignore_index=True)


def location_table(found: pd.DataFrame) -> pd.DataFrame:
    """The means of `verdicts`, one row per kind of network, truth, control and score.

    Returns network (the kind), truth, control, score, auroc and precision, each with its 95 %
    interval <measure>_low and <measure>_high over networks and loci, chance, n_regions (of all
    networks), n_networks.
    """
    rows = []
    for key, group in found.groupby(["kind", "truth", "control", "score"], sort=False):
        row = dict(zip(("network", "truth", "control", "score"), key, strict=True))
        for measure in ("auroc", "precision"):
            low, high = interval(group, measure)
            row |= {measure: group[measure].mean(), f"{measure}_low": low, f"{measure}_high": high}
        row |= {"chance": group["chance"].mean(), "n_regions": int(group["auroc"].notna().sum())}
        rows.append({**row, "n_networks": group["seed"].nunique()})
    return pd.DataFrame(rows)


CLAIMED = {  # truth, control and score of the claims about the hypothesis
    "hypothesis_more": ("double mutants", "all positions", _MORE),
    "hypothesis_planted": ("planted pairs", "all positions", _MORE),
    "hypothesis_sites": ("planted pairs", "bases of sites", _MORE),
    "hypothesis_alike": ("double mutants", f"alike in {_EFFECT}", _DISCORDANCE),
}


def claimed_areas(found: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For each of `CLAIMED` the mean area of each network that has it: kind, seed, value."""
    rows = found.set_index(["truth", "control", "score"]).sort_index(kind="stable")
    by = {claim: rows.loc[what].groupby(["kind", "seed"]) for claim, what in CLAIMED.items()}
    return {claim: g["auroc"].mean().rename("value").reset_index() for claim, g in by.items()}


def _controls(network: JudgedPositions) -> dict[str, tuple[np.ndarray, Sequence]]:
    """By name, for each region the positions that are compared, and the numbers to stratify by.

    Numbers are None where positions are compared whatever their stratum.
    """
    effect = network.scores[_EFFECT]
    everywhere, unstratified = np.ones(effect.shape, bool), [None] * len(effect)
    found = {"all positions": (everywhere, unstratified)}
    found |= {name: (positions, unstratified) for name, positions in network.controls.items()}
    found[f"alike in {_EFFECT}"] = everywhere, effect
    for number, name in enumerate(("low", "middle", "high")):
        low, high = np.quantile(network.level, [number / 3, (number + 1) / 3])
        third = (low <= network.level) & (network.level <= high)
        found[f"{name} prediction"] = everywhere & third[:, None], unstratified
    return found


def _verdict(
    score: np.ndarray, positive: np.ndarray, chosen: np.ndarray, stratify_by: np.ndarray | None
) -> dict[str, float]:
    """AUROC, precision and share of positives among the chosen positions of one region."""
    score, positive = score[chosen], positive[chosen]
    if stratify_by is None:
        found = {"auroc": auroc(score, positive), "precision": precision(score, positive)}
    else:
        n = max(1, len(score) // _ALIKE)
        area = auroc_within(score, positive, stratify_by[chosen], n)
        found = {"auroc": area, "precision": np.nan}
    has_both = 0 < positive.sum() < len(positive)
    return {**found, "chance": positive.mean() if has_both else np.nan}


def auroc_within(score: np.ndarray, positive: np.ndarray, by: np.ndarray, n: int) -> float:
    """AUROC over pairs of positions of one stratum; n strata of equal size, in the order of `by`.

    It shows what a score tells beyond `by`. NaN if no stratum has both a positive and a negative.
    """
    stratum = n * (stats.rankdata(by, method="ordinal") - 1) // len(by)
    return auroc(score, positive, stratum)


def precision(score: np.ndarray, positive: np.ndarray) -> float:
    """Share of positives among the k largest scores, k being their number; NaN if all are alike."""
    k = int(positive.sum())
    if k in (0, len(positive)):
        return float("nan")
    return float(positive[np.argsort(-score, kind="stable")[:k]].mean())


def reach_table(maps: Mapping[str, Tensor]) -> pd.DataFrame:
    """How far interactions reach: by network, the share of their sum of squares within so many bp.

    maps : by network (n, length, length)

    Returns network, reach, share, of_pairs (share of the pairs of positions that lie so near).
    """
    rows = []
    for network, interactions in maps.items():
        number = torch.arange(interactions.shape[-1])
        distance = (number[:, None] - number).abs()
        square = interactions.double().square()
        square = square / square.sum((1, 2), keepdim=True)
        for reach in REACHES:
            near = (distance > 0) & (distance <= reach)
            of_pairs = float(near.sum() / (distance > 0).sum())
            rows.append((network, reach, float(square[:, near].sum(1).mean()), of_pairs))
    return pd.DataFrame(rows, columns=["network", "reach", "share", "of_pairs"])


def pairs_table(
    found: Mapping[tuple[str, int], tuple[JudgedPositions, Tensor, np.ndarray]],
    data: Mapping[str, Dataset],
) -> pd.DataFrame:
    """Do the double mutants of networks find the pairs of sites that were planted to interact?

    found : what `positions_of` returns, by kind and seed
    data : by kind; one without a truth is left out

    AUROC, with its 95 % interval over regions, of the root mean square interaction between the
    important bases of two sites: pairs that interact against all other pairs of sites of the same
    regions. Returns the columns of `location_table` that apply, n_pairs, n_other.
    """
    rows = []
    for kind in dict.fromkeys(kind for kind, _ in found):
        truth = data[kind].truth
        if truth is None:
            continue
        of_kind = [(maps, regions) for (k, _), (_, maps, regions) in found.items() if k == kind]
        pairs = pd.concat(
            [
                _pairs_of_sites(interactions, region, truth)
                for maps, regions in of_kind
                for interactions, region in zip(maps, regions, strict=True)
            ]
        )
        size, planted = pairs["size"].to_numpy(), pairs["planted"].to_numpy(dtype=bool)
        area = summarise_pairs(auroc, size, planted, pairs["region"])
        row = {"network": kind, "truth": "planted pairs", "control": "pairs of sites"}
        row |= {"score": "double mutants", "n_networks": len(of_kind), "auroc": area.value}
        row |= {"auroc_low": area.low, "auroc_high": area.high, "n_regions": area.n_loci}
        rows.append({**row, "n_pairs": planted.sum(), "n_other": (~planted).sum()})
    return pd.DataFrame(rows)


def _pairs_of_sites(interactions: Tensor, region: int, truth: Truth) -> pd.DataFrame:
    """Pairs of sites of a region: size (of the interaction), planted (True if they interact)."""
    sites = truth.sites[truth.sites["region"] == region]
    planted = set(map(frozenset, truth.pairs[["first", "second"]].to_numpy().tolist()))
    important = truth.important[region]
    bases = {
        site.Index: [p for p in range(site.start, site.end) if important[p]]
        for site in sites.itertuples()
    }
    rows = []
    for first, second in combinations(bases, 2):
        block = interactions[bases[first]][:, bases[second]]
        size = float(block.square().mean().sqrt())
        rows.append({"region": region, "size": size, "planted": {first, second} in planted})
    return pd.DataFrame(rows, columns=["region", "size", "planted"])


def most_discordant(scores: Scores, loci: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n regions, of different loci, where ISM and TISM differ most in some task, and the task.

    They differ by the root mean square of ISM - TISM over the substitutions. Both are numbers in
    `scores`.
    """
    size = (scores.ism - scores.tism).square().mean((2, 3)).sqrt()
    most, task = size.max(1)
    order = most.argsort(descending=True).numpy()
    _, first_of_locus = np.unique(loci[order], return_index=True)
    regions = order[np.sort(first_of_locus)][:n]
    return regions, task.numpy()[regions]


def describe_maps(
    maps: Tensor, scores: Scores, regions: np.ndarray, tasks: np.ndarray, data: Dataset
) -> pd.DataFrame:
    """One row per region and task: how ISM and TISM disagree, and the strongest interaction.

    maps : (n, length, length) of these regions (numbers in `scores`) in their tasks

    Returns region, task, r (of ISM and TISM), discordance (root mean square), first and second
    (positions), sequence (the bases around them), interaction, effect_first and effect_second (of
    the single substitutions), motif_first and motif_second (known motifs with a site there),
    within_10 (share of the sum of squares of all interactions between positions at most 10 bp
    apart).
    """
    r = profile_correlation(scores.ism[regions], scores.tism[regions])
    exact, taylor = scores.ism[regions, tasks], scores.tism[regions, tasks]
    single = exact.gather(1, strongest(exact)[:, None])[:, 0]
    sequences = scores.one_hot[regions].argmax(1).numpy().astype(np.uint8)
    known = read_motifs(file="motifs_yeast.csv" if data.name == "yeast" else "motifs.csv")
    sites = find_sites(sequences, known)
    near = reach_table({str(i): m[None] for i, m in enumerate(maps)}).query("reach == 10")
    rows = []
    for i, (region, task) in enumerate(zip(regions, tasks, strict=True)):
        first, second = sorted(divmod(int(maps[i].abs().argmax()), maps.shape[-1]))
        here = sites[sites["region"] == i]
        rows.append(
            {
                "region": data.regions["name"].iloc[scores.rows[region]],
                "task": data.tasks[task],
                "r": r[i, task].item(),
                "discordance": (exact[i] - taylor[i]).square().mean().sqrt().item(),
                "first": first,
                "second": second,
                "sequence": _bases_around(sequences[i], first, second),
                "interaction": maps[i, first, second].item(),
                "effect_first": single[i, first].item(),
                "effect_second": single[i, second].item(),
                "motif_first": _motifs_at(here, first),
                "motif_second": _motifs_at(here, second),
                "within_10": near["share"].iloc[i],
            }
        )
    return pd.DataFrame(rows)


def _bases_around(sequence: np.ndarray, first: int, second: int) -> str:
    """Bases up to 5 bp beside two positions; "..." between those that are far apart."""
    letters = "".join(ALPHABET[base] for base in sequence)
    if second - first > 10:
        return "...".join(letters[max(0, p - 5) : p + 6] for p in (first, second))
    return letters[max(0, first - 5) : second + 6]


def _motifs_at(sites: pd.DataFrame, position: int) -> str:
    there = sites[(sites["start"] <= position) & (position < sites["end"])]
    return ", ".join(there.sort_values("affinity", ascending=False)["motif"].unique()[:3])
