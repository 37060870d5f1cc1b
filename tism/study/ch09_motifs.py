"""Motifs in ISM and TISM: by the calls of the boxes, and by TF-MoDISco against known matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tism.correlations import pearson
from tism.exact import ism, predict
from tism.first_order import tism
from tism.study.ch02_data import information
from tism.study.ch04_agreement import compare_motifs
from tism.study.data.dataset import Dataset, evenly
from tism.study.data.download import data_root
from tism.study.networks import Experiment
from tism.study.profiles import load_dataset, load_profile
from tism.study.timing import threads_kept
from tism.taylor import centre, mean_effect

MATCH_COLUMNS = ["sign", "n_seqlets", "width", "dataset", "matrix_id", "name", "p_value", "same"]
MATCH_COLUMNS += ["found", "offset", "frequencies"]
METHODS = ("TISM", "ISM")
LEAST_EFFECT = 0.5  # logits
LEAST_SHARE, TRIM_FLANK = 0.3, 4
SIGNIFICANT, LEAST_BITS, LEAST_SAME = 0.05, 1.0, 0.8
MOST_LOGOS = 4


@dataclass(frozen=True)
class NetworkMotifs:
    """What two methods say of the motifs of one network, on regions of the test set.

    tasks : names of those that were read
    boxes : counts of `shared_boxes`
    reports : method to the rows of `match_motifs` for each task
    expected : the known motifs that these tasks should show
    """

    dataset: str
    seed: int
    tasks: list[str]
    boxes: dict[str, int]
    reports: dict[str, pd.DataFrame]
    expected: pd.DataFrame


def motifs_of_networks(profile: str, seeds: Mapping[str, int], **scale: int) -> list[NetworkMotifs]:
    """`network_motifs` of the baselines of a profile.

    seeds : data set to how many of its baselines, from seed 0
    scale : n_regions and n_tasks
    """
    settings, motifs = load_profile(profile), []
    for dataset, n in seeds.items():
        data = load_dataset(settings, dataset)
        for seed in range(n):
            model, _ = Experiment(settings, dataset, seed=seed).trained()
            motifs.append(network_motifs(model, data, seed=seed, **scale))
    return motifs


def network_motifs(
    model: nn.Module, data: Dataset, *, seed: int, n_regions: int, n_tasks: int
) -> NetworkMotifs:
    """Score regions of the test set for the tasks that a network has learnt best; find motifs.

    n_regions : spread evenly over the test set
    n_tasks : of those whose motifs are known, the ones with the highest r on the validation set
    """
    one_hot = data.one_hot(evenly(data.indices("test"), n_regions))
    tasks = learnt_tasks(model, data, n_tasks)
    maps = {"TISM": tism(model, one_hot, tasks), "ISM": ism(model, one_hot, tasks)}
    effects = {k: mean_effect(m, one_hot).sum(2).flatten(0, 1) for k, m in maps.items()}
    known, reports = known_motifs(), {}
    for method, scores in maps.items():
        found = [find_motifs(one_hot.numpy(), m.numpy()) for m in centre(scores).unbind(1)]
        matches = [match_motifs(f, known) for f in found]
        reports[method] = pd.concat(
            [m.assign(task=data.tasks[t]) for t, m in zip(tasks, matches, strict=True)],
            ignore_index=True,
        )
    names = [data.tasks[task] for task in tasks]
    boxes = shared_boxes(effects["ISM"], effects["TISM"])
    return NetworkMotifs(data.name, seed, names, boxes, reports, expected_motifs(data, tasks))


def learnt_tasks(model: nn.Module, data: Dataset, n: int) -> list[int]:
    """Numbers of the n tasks with the highest r on the validation set.

    Where motifs of some tasks are known, only those count.
    """
    rows = evenly(data.indices("validation"), 500)
    target = torch.from_numpy(data.standardised[rows])
    r = pearson(predict(model, data.one_hot(rows)), target, 0).nan_to_num(-1)
    every = range(len(data.tasks))
    known = [task for task in every if len(expected_motifs(data, [task]))]
    return sorted(known or every, key=lambda task: -r[task].item())[:n]


def shared_boxes(exact: Tensor, taylor: Tensor) -> dict[str, int]:
    """Count the motifs that each method calls by `compare_motifs`, and those that the other shares.

    exact, taylor : (n, length), mean effects of n maps
    """
    counts = dict.fromkeys(["ISM", "ISM in TISM", "TISM", "TISM in ISM"], 0)
    for pair in zip(exact, taylor, strict=True):
        for method, motifs in zip(("ISM", "TISM"), compare_motifs(*pair), strict=True):
            other = "TISM" if method == "ISM" else "ISM"
            counts[method] += len(motifs)
            counts[f"{method} in {other}"] += sum(shared for *_, shared in motifs)
    return counts


@dataclass(frozen=True)
class FoundMotif:
    """A pattern of TF-MoDISco.

    sign : 1 where its sites raise the prediction, -1 where they lower it
    n_seqlets : sites that it was built from
    frequencies, contributions : (4, width), means over these sites
    """

    sign: int
    n_seqlets: int
    frequencies: np.ndarray
    contributions: np.ndarray


@threads_kept()
def find_motifs(one_hot: np.ndarray, scores: np.ndarray) -> list[FoundMotif]:
    """Motifs by TF-MoDISco (modisco-lite) with the settings of its command line, largest first.

    one_hot, scores : (n, 4, length), sequences and centred maps

    Returns an empty list where there are too few sites for a motif (100 of one sign).
    """
    try:
        from modiscolite.tfmodisco import TFMoDISco
    except ImportError:
        raise ImportError("finding motifs needs modisco-lite: pip install 'tism[score]'") from None
    clusters = TFMoDISco(
        one_hot=np.ascontiguousarray(one_hot.transpose(0, 2, 1), dtype=np.float32),
        hypothetical_contribs=np.ascontiguousarray(scores.transpose(0, 2, 1), dtype=np.float32),
        max_seqlets_per_metacluster=2000,
        sliding_window_size=20,
        flank_size=5,
        target_seqlet_fdr=0.05,
        n_leiden_runs=2,
    )
    return [
        FoundMotif(sign, len(p.seqlets), np.array(p.sequence.T), np.array(p.contrib_scores.T))
        for sign, patterns in zip((1, -1), clusters, strict=True)
        for p in patterns or []
    ]


def known_motifs() -> pd.DataFrame:
    """JASPAR matrices that come with the compendium: dataset, matrix_id, name, frequencies.

    dataset : "simulated" (vertebrate factors, the planted ones) or "yeast" (those of its tasks)
    frequencies : (4, width), with a pseudocount of 0.25 % at each base
    """
    rows = []
    for dataset, file in (("simulated", "motifs.csv"), ("yeast", "motifs_yeast.csv")):
        table = pd.read_csv(data_root() / file)
        for (matrix_id, name), motif in table.groupby(["matrix_id", "name"], sort=False):
            counts = motif[["A", "C", "G", "T"]].to_numpy(float).T
            frequencies = 0.99 * counts / counts.sum(0) + 0.0025
            rows.append((dataset, matrix_id, name, frequencies))
    return pd.DataFrame(rows, columns=["dataset", "matrix_id", "name", "frequencies"])


@threads_kept()
def match_motifs(found: Sequence[FoundMotif], known: pd.DataFrame) -> pd.DataFrame:
    """The known motif most like each found one, by Tomtom (memelite), and if it is that motif.

    known : as `known_motifs` gives it; other species' motifs serve as a check against chance

    Returns one row per found motif: sign, n_seqlets, width, dataset, matrix_id, name, p_value,
    same, found, offset and frequencies. The p-value is that of the best match times the number of
    known motifs (Bonferroni), at most 1; same is the share of the known motif's columns with at
    least one bit in which both have the same most frequent base; found is True where p is below
    0.05 and same at least 0.8, so that a stretch of A is no forkhead motif. frequencies is the
    trimmed matrix on the strand of the known motif, in which it begins at column `offset`.
    """
    if not found:
        return pd.DataFrame(columns=MATCH_COLUMNS).astype({"found": bool, "n_seqlets": int})
    from memelite import tomtom

    trimmed = [trim(motif) for motif in found]
    p_values, _, offsets, _, strands = map(np.asarray, tomtom(trimmed, list(known["frequencies"])))
    rows = []
    for k, (motif, matrix) in enumerate(zip(found, trimmed, strict=True)):
        best = p_values[k].argmin()
        match, offset = known.iloc[best], int(offsets[k, best])
        if strands[k, best] == 1:
            offset = match["frequencies"].shape[1] - offset - matrix.shape[1]
            matrix = matrix[::-1, ::-1]
        p_value = min(p_values[k, best] * len(known), 1.0)
        same = same_bases(match["frequencies"], matrix, offset)
        rows.append(
            match.to_dict()
            | {"sign": motif.sign, "n_seqlets": motif.n_seqlets, "width": matrix.shape[1]}
            | {"p_value": p_value, "same": same, "offset": offset, "frequencies": matrix}
            | {"found": p_value < SIGNIFICANT and same >= LEAST_SAME}
        )
    return pd.DataFrame(rows)[MATCH_COLUMNS]


def same_bases(known: np.ndarray, found: np.ndarray, offset: int) -> float:
    """Share of a known motif's columns of at least one bit that have the same most frequent base.

    offset : column of `known` at which `found` begins; columns beyond its ends count as different
    """
    columns = np.flatnonzero(information(known).sum(0) >= LEAST_BITS)
    inside = columns[(columns >= offset) & (columns < offset + found.shape[1])]
    equal = known[:, inside].argmax(0) == found[:, inside - offset].argmax(0)
    return float(equal.sum() / len(columns))


def trim(motif: FoundMotif) -> np.ndarray:
    """(4, width) frequencies between the outermost positions that contribute, and 4 bp beside.

    A position contributes if the magnitudes of its bases sum to 0.3 of the largest such sum. With
    these numbers modisco-lite's report cuts its logos.
    """
    height = np.abs(motif.contributions).sum(0)
    kept = np.flatnonzero(height >= LEAST_SHARE * height.max())
    return motif.frequencies[:, max(0, kept[0] - TRIM_FLANK) : kept[-1] + 1 + TRIM_FLANK]


def expected_motifs(dataset: Dataset, tasks: Sequence[int]) -> pd.DataFrame:
    """The known motifs that should be found for these tasks: rows of `known_motifs`.

    Simulated: those with an effect of at least half a logit in one of the tasks. Yeast: the
    matrices of the tasks' own proteins. Otherwise none.
    """
    known = known_motifs()
    names: list[str] = []
    if dataset.name == "simulated":
        active = (abs(dataset.truth.effects[:, list(tasks)]) >= LEAST_EFFECT).any(1)
        names = [name for name, acts in zip(dataset.truth.motif_names, active, strict=True) if acts]
    elif dataset.name == "yeast":
        names = [dataset.tasks[task].upper() for task in tasks]
    return known[(known["dataset"] == dataset.name) & known["name"].isin(names)]


def recovery_table(networks: Sequence[NetworkMotifs]) -> pd.DataFrame:
    """One row per expected motif of a network: by method, the sites of the patterns that are it."""
    tables = []
    for network in networks:
        table = network.expected[["dataset", "matrix_id", "name"]].reset_index(drop=True)
        for method, report in network.reports.items():
            sites = report[report["found"]].groupby("matrix_id")["n_seqlets"].sum()
            table[f"{method} sites"] = table["matrix_id"].map(sites).fillna(0).astype(int)
        tables.append(table.assign(seed=network.seed))
    return pd.concat(tables, ignore_index=True)


def sharing_table(networks: Sequence[NetworkMotifs]) -> pd.DataFrame:
    """One row per network: tasks, boxes, confirmed boxes, patterns, motifs expected and found.

    foreign : found motifs of the other organism, which arise by chance or from related factors
    """
    rows = []
    for network in networks:
        row = {"dataset": network.dataset, "seed": network.seed}
        row |= {"tasks": ", ".join(network.tasks), **network.boxes}
        row["expected"] = len(network.expected)
        wanted = set(network.expected["matrix_id"])
        named = {}
        for method, report in network.reports.items():
            known = report[report["found"]]
            named[method] = wanted & set(known["matrix_id"])
            row |= {f"{method} patterns": len(report), f"{method} found": len(named[method])}
            row[f"{method} foreign"] = int((known["dataset"] != network.dataset).sum())
        rows.append(row | {"both found": len(set.intersection(*named.values()))})
    return pd.DataFrame(rows)


def motif_logos(networks: Sequence[NetworkMotifs]) -> dict[str, np.ndarray]:
    """Letter heights (bits) of the four expected motifs with the most sites in each data set.

    They are those of the first network of a data set. Beside the JASPAR matrix stands, aligned, the
    largest pattern that is the motif, by method, with the sites of all; zeros where there is none.
    """
    logos: dict[str, np.ndarray] = {}
    first: dict[str, NetworkMotifs] = {}
    for network in networks:
        first.setdefault(network.dataset, network)
    for network in first.values():
        table = recovery_table([network]).set_index("matrix_id")
        sites = table[[f"{method} sites" for method in METHODS]].sum(axis=1)
        matrices = network.expected.set_index("matrix_id")["frequencies"]
        for motif in sites.sort_values(ascending=False, kind="stable").index[:MOST_LOGOS]:
            logos |= _aligned(table.loc[motif, "name"], motif, matrices[motif], network.reports)
    return logos


def _aligned(
    name: str, matrix_id: str, matrix: np.ndarray, reports: Mapping[str, pd.DataFrame]
) -> dict[str, np.ndarray]:
    """Title to letter heights: a known motif and the largest pattern of each method that is it."""
    rows = {f"{name}, JASPAR": (matrix, 0)}
    for method, report in reports.items():
        found = report[report["found"] & (report["matrix_id"] == matrix_id)]
        title, drawn = f"{name}, {method}: none", (np.full((4, 1), 0.25), 0)
        if len(found):
            largest = found.loc[found["n_seqlets"].idxmax()]
            title = f"{name}, {method}: {found['n_seqlets'].sum()} sites"
            drawn = largest["frequencies"], largest["offset"]
        rows[title] = drawn
    first = min(offset for _, offset in rows.values())
    return {
        title: np.pad(information(frequencies), ((0, 0), (offset - first, 0)))
        for title, (frequencies, offset) in rows.items()
    }
