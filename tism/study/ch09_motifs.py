"""From a store of scores to motifs: those that TF-MoDISco finds, and the known ones like them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tism.score.modisco import contributions
from tism.score.store import ScoreStore
from tism.study.ch02_data import information
from tism.study.data.dataset import Dataset
from tism.study.data.download import data_root
from tism.study.timing import threads_kept

MATCH_COLUMNS = ["sign", "n_seqlets", "width", "dataset", "matrix_id", "name", "p_value", "offset"]
MATCH_COLUMNS += ["frequencies"]
LEAST_EFFECT = 0.5  # logits
LEAST_SHARE, TRIM_FLANK = 0.3, 4
SIGNIFICANT = 0.05
MOST_LOGOS = 6


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

    one_hot, scores : (n, 4, length), as `contributions` gives them

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
    """The known motif most like each found one, by Tomtom (memelite).

    known : as `known_motifs` gives it; other species' motifs serve as a check against chance

    Returns one row a found motif: sign, n_seqlets, width, dataset, matrix_id, name, p_value, offset
    and frequencies. The p-value is that of the best match times the number of known motifs
    (Bonferroni), at most 1; frequencies is the trimmed matrix on the strand of the known motif, in
    which it begins at column `offset`.
    """
    if not found:
        return pd.DataFrame(columns=MATCH_COLUMNS)
    from memelite import tomtom

    trimmed = [trim(motif) for motif in found]
    p_values, _, offsets, _, strands = map(np.asarray, tomtom(trimmed, list(known["frequencies"])))
    best = p_values.argmin(1)
    each = np.arange(len(found))
    rows = known.iloc[best].reset_index(drop=True)
    turned = strands[each, best] == 1
    width = np.array([motif.shape[1] for motif in trimmed])
    begin = offsets[each, best].astype(int)
    from_end = rows["frequencies"].map(lambda m: m.shape[1]).to_numpy() - begin - width
    return rows.assign(
        sign=[motif.sign for motif in found],
        n_seqlets=[motif.n_seqlets for motif in found],
        width=width,
        p_value=(p_values[each, best] * len(known)).clip(max=1.0),
        offset=np.where(turned, from_end, begin),
        frequencies=[m[::-1, ::-1] if t else m for m, t in zip(trimmed, turned, strict=True)],
    )[MATCH_COLUMNS]


def trim(motif: FoundMotif) -> np.ndarray:
    """(4, width) frequencies between the outermost positions that contribute, and 4 bp beside.

    A position contributes if the magnitudes of its bases sum to 0.3 of the largest such sum. With
    these numbers modisco-lite's report cuts its logos.
    """
    height = np.abs(motif.contributions).sum(0)
    kept = np.flatnonzero(height >= LEAST_SHARE * height.max())
    return motif.frequencies[:, max(0, kept[0] - TRIM_FLANK) : kept[-1] + 1 + TRIM_FLANK]


def motif_report(store: ScoreStore, tasks: Mapping[int, str]) -> pd.DataFrame:
    """What TF-MoDISco finds in the maps of these tasks, with the known motif most like each.

    tasks : the model's number of each task and its name

    Returns the rows of `match_motifs` with a column `task` before them.
    """
    known, reports = known_motifs(), []
    for task, name in tasks.items():
        matches = match_motifs(find_motifs(*contributions(store, task)), known)
        matches.insert(0, "task", name)
        reports.append(matches)
    return pd.concat(reports, ignore_index=True)


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


def recovery_table(reports: Mapping[str, pd.DataFrame], expected: pd.DataFrame) -> pd.DataFrame:
    """One row an expected motif: by method, the sites of its patterns and their best p-value.

    reports : method to `motif_report`; a pattern counts for the known motif that it is most like,
        if its p-value is below 0.05
    """
    table = expected[["matrix_id", "name"]].reset_index(drop=True)
    for method, report in reports.items():
        hits = report[report["p_value"] < SIGNIFICANT].groupby("matrix_id")
        sites = table["matrix_id"].map(hits["n_seqlets"].sum()).fillna(0)
        table[f"{method} sites"] = sites.astype(int)
        table[f"{method} p"] = table["matrix_id"].map(hits["p_value"].min()).astype(float)
    return table


def motif_logos(
    reports: Mapping[str, pd.DataFrame], expected: pd.DataFrame
) -> dict[str, np.ndarray]:
    """Letter heights (bits) of the expected motifs and of the largest pattern like each, by method.

    Of the expected motifs, the six with the most sites; where none is expected, of all known ones
    that patterns are like. A motif and its patterns are aligned. Where a method found none, zeros.
    """
    found = pd.concat(reports.values())
    if expected.empty:
        known = known_motifs()
        expected = known[known["matrix_id"].isin(found["matrix_id"])]
    motifs = expected.set_index("matrix_id")
    sites = found.groupby("matrix_id")["n_seqlets"].sum().reindex(motifs.index).fillna(0)
    logos = {}
    for matrix_id in sites.sort_values(ascending=False, kind="stable").index[:MOST_LOGOS]:
        name = motifs.loc[matrix_id, "name"]
        rows = {f"{name}, JASPAR": (motifs.loc[matrix_id, "frequencies"], 0)}
        for method, report in reports.items():
            like = report[report["matrix_id"] == matrix_id]
            title, drawn = f"{name}, {method}: none", (np.full((4, 1), 0.25), 0)
            if len(like):
                largest = like.loc[like["n_seqlets"].idxmax()]
                title = f"{name}, {method}: {largest['n_seqlets']} sites"
                drawn = largest["frequencies"], largest["offset"]
            rows[title] = drawn
        first = min(offset for _, offset in rows.values())
        for title, (frequencies, offset) in rows.items():
            logos[title] = np.pad(information(frequencies), ((0, 0), (offset - first, 0)))
    return logos
