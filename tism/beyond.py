"""What the chapter beyond first order is made of: its networks, its tables, its double mutants.

An entry of a profile says which networks make up a kind: kind, dataset, variant, seeds (how many),
and changes of the profile's data, model and training. What takes long is kept in the cache, network
by network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tism import versions
from tism.data.dataset import Dataset, evenly
from tism.data.simulate import Truth, find_sites, read_motifs
from tism.epistasis import (
    Sites,
    in_tasks,
    interacting,
    interaction_map,
    paired_regions,
    position_scores,
    strongest,
)
from tism.estimation import Trained, trained
from tism.evaluation import auroc
from tism.experiment import (
    Experiment,
    Profile,
    Scores,
    default_device,
    digest,
    fingerprint,
    kept_table,
    load_dataset,
    remembered,
    score,
    scored_rows,
)
from tism.metrics import profile_correlation, summarise
from tism.sequence import ALPHABET

REACHES = (5, 10, 20, 40)  # bp between two positions
_WEAKEST = 0.25  # affinity of a site at the threshold, as in the simulation


def experiment_of(profile: Profile, entry: Mapping[str, Any], seed: int) -> Experiment:
    """A network of an entry; see the top of this module."""
    dataset = entry["dataset"]
    changed = {
        part: {**getattr(profile, part), dataset: {**getattr(profile, part)[dataset], **change}}
        for part in ("data", "model", "training")
        if (change := entry.get(part))
    }
    return Experiment(replace(profile, **changed), dataset, entry.get("variant", "baseline"), seed)


def networks_of(
    profile: Profile, entries: Sequence[Mapping[str, Any]], n_regions: int, **draw: Any
) -> list[Trained]:
    """The networks of entries, each with regions and tasks of its own, as `trained` draws them.

    draw : split, n_tasks and n_groups of `tism.estimation.trained`
    """
    found = []
    for entry in entries:
        for seed in range(entry.get("seeds", 1)):
            experiment = experiment_of(profile, entry, seed)
            data, model = load_dataset(experiment.profile, experiment.dataset), _model(experiment)
            n = min(n_regions, len(data.indices(draw.get("split", "test"))))
            found.append(trained(entry["kind"], model, data, n, seed=seed, **draw))
    return found


def _model(experiment: Experiment) -> nn.Module:
    return experiment.trained(progress=False)[0]


def kept(
    name: str,
    networks: Sequence[Trained],
    compute: Callable[[Trained], pd.DataFrame],
    settings: Any = None,
) -> pd.DataFrame:
    """compute(network) of all networks, one below the other; each is kept in the cache.

    name, settings : what the table depends on beside the network, its regions and tasks
    """
    frames = []
    for network in networks:
        own = [network.kind, network.seed, network.tasks]
        made = [versions.SCORING, versions.MODEL, versions.ESTIMATION]
        key = digest([fingerprint(network.model, network.one_hot), own, made, settings])
        frames.append(kept_table(f"{name}/{key}", lambda own=network: compute(own)))
    return pd.concat(frames, ignore_index=True)


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
    data, model = load_dataset(experiment.profile, experiment.dataset), _model(experiment)
    rows, tasks = _chosen(data, model, n_regions)
    scores = score(model, data, rows, progress=False)
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
    return rows, score(model, data, rows, progress=False).predicted.argmax(1).numpy()


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

        maps.append(remembered(f"interactions/{key}", compute)["map"])
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
    regions. Returns the columns of `tism.epistasis.location_table` that apply, n_pairs, n_other.
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
