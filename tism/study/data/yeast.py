"""Yeast ChIP-exo: 81 proteins on the genome of S. cerevisiae (Rossi et al. 2021, Nature 592:309).

A region is `length` bp around a cluster of summits; the target of a task is log2(x + 2) of the
strongest summit of that protein within the region, x being the peak score (0 to 1000, 0 without
summit). Chromosomes carry the names of the peak files, chr1 to chr16; the genome calls them I to
XVI, and its mitochondrial chromosome has no peaks and is left out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from tism.score.genome import Genome
from tism.score.readers import read_bed
from tism.study.data.dataset import Dataset, build_dataset, check_integer
from tism.study.data.download import data_root, fetch

GENOME = "yeast/Saccharomyces_cerevisiae.R64-1-1.dna.toplevel.fa.gz"
_NUMERALS = "I II III IV V VI VII VIII IX X XI XII XIII XIV XV XVI"
CHROMOSOMES = {f"chr{number}": name for number, name in enumerate(_NUMERALS.split(), 1)}
HELD_OUT = {"chr5": "validation", "chr11": "validation", "chr8": "test", "chr16": "test"}
CLUSTER_SPAN = 150
SHARED_WORD = 31
SHARED_SHARE = 0.1
NO_WORD = np.uint64(2**64 - 1)


def load_yeast(*, length: int = 251, flank: int = 10, n_tasks: int = 81) -> Dataset:
    """Regions of the yeast genome with the ChIP-exo signal of `n_tasks` proteins.

    chr8 and chr16 are the test set, chr5 and chr11 the validation set. Of these two sets, regions
    that share 10 % or more of their 31-mers with training windows (either strand) are dropped;
    `notes` counts the dropped regions.

    length : bases of a region
    flank : bases of genome on either side; regions too near the end of a chromosome are dropped
    n_tasks : number of rows of `data/yeast_tasks.csv`, which has sequence-specific proteins first

    Raises ValueError for a length below 31, a negative flank, or an `n_tasks` beyond the table.
    """
    tasks = task_table()["factor"].tolist()
    check_integer("length", length, SHARED_WORD)
    check_integer("flank", flank, 0)
    check_integer("n_tasks", n_tasks, 1, len(tasks))
    tasks = tasks[:n_tasks]
    with Genome(fetch(GENOME)) as file:
        ends = {name: file.sizes[numeral] for name, numeral in CHROMOSOMES.items()}
        genome = {name: file.codes(CHROMOSOMES[name], 0, end)[0] for name, end in ends.items()}
    summits = load_summits(tasks, ends)
    dataset = make_dataset(genome, summits, tasks, length=length, flank=flank)
    return replace(dataset, genome=fetch(GENOME))


def task_table() -> pd.DataFrame:
    """Tasks in their order: factor, n_peaks, sequence_specific, jaspar_id, jaspar_name."""
    return pd.read_csv(data_root() / "yeast_tasks.csv", keep_default_na=False)


def load_summits(tasks: list[str], sizes: dict[str, int]) -> pd.DataFrame:
    """Summits of all tasks: chrom, start (0-based), score (0 to 1000), task (its number)."""
    peaks = [read_bed(fetch(f"yeast/peaks/{task}_CX.bed"), sizes) for task in tasks]
    summits = pd.concat(peaks, keys=range(len(tasks)), names=["task", None])
    return summits.reset_index("task")[["chrom", "start", "score", "task"]].reset_index(drop=True)


def make_dataset(
    genome: dict[str, np.ndarray],
    summits: pd.DataFrame,
    tasks: list[str],
    *,
    length: int,
    flank: int,
) -> Dataset:
    """The data set of base indices by chromosome and a table of summits, see `load_summits`."""
    summits = summits.sort_values(["chrom", "start", "task"], ignore_index=True)
    regions = _regions(
        summits, [chrom for chrom in genome if chrom in set(summits["chrom"])], length
    )
    sizes = regions["chrom"].map({name: codes.size for name, codes in genome.items()})
    inside = (regions["start"] >= flank) & (regions["end"] + flank <= sizes)
    regions = regions[inside].reset_index(drop=True)
    split = regions["chrom"].map(HELD_OUT).fillna("train")
    regions = regions.assign(locus=number_loci(regions), split=split)
    sequences = cut_windows(genome, regions, flank)
    train = (regions["split"] == "train").to_numpy()
    keep = shared_word_share(sequences, train, flank) < SHARED_SHARE
    notes = {
        "peak summits of all tasks": len(summits),
        "clusters of summits, each the centre of a region": len(inside),
        "regions dropped: too near the end of a chromosome": int((~inside).sum()),
    }
    for split in ("validation", "test"):
        shared = ~keep & (regions["split"] == split)
        notes[f"{split} regions dropped: sequence shared with training"] = int(shared.sum())
    regions, sequences = regions[keep].reset_index(drop=True), sequences[keep]
    targets = strongest_summits(regions, summits, len(tasks))
    return build_dataset(
        "yeast", sequences, targets, regions, tasks=list(tasks), flank=flank, notes=notes
    )


def _regions(summits: pd.DataFrame, chromosomes: list[str], length: int) -> pd.DataFrame:
    """Name, chrom, start and end of `length` bases around every cluster of summits."""
    parts = []
    for chrom in chromosomes:
        positions = summits["start"].to_numpy()[summits["chrom"] == chrom]
        start = cluster_centres(positions) - length // 2
        name = [f"{chrom}:{first}-{first + length}" for first in start]
        columns = {"name": name, "chrom": chrom, "start": start, "end": start + length}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts)


def cluster_centres(positions: np.ndarray) -> np.ndarray:
    """Midpoints of clusters of sorted positions.

    From left to right, a cluster takes every position less than `CLUSTER_SPAN` behind its first.
    Its centre is the midpoint of its first and last position.
    """
    centres, first = [], 0
    while first < positions.size:
        behind = int(np.searchsorted(positions, positions[first] + CLUSTER_SPAN))
        centres.append((positions[first] + positions[behind - 1]) // 2)
        first = behind
    return np.array(centres, np.int64)


def number_loci(regions: pd.DataFrame) -> np.ndarray:
    """(n,) locus numbers: regions that overlap, also by way of others, get the same one.

    regions : chrom, start and end, all of one length
    """
    chrom = pd.factorize(regions["chrom"])[0]
    order = np.lexsort((regions["start"], chrom))
    chrom, start, end = (x[order] for x in (chrom, *regions[["start", "end"]].to_numpy().T))
    opens = np.ones(len(regions), bool)
    opens[1:] = (chrom[1:] != chrom[:-1]) | (start[1:] >= end[:-1])
    loci = np.empty(len(regions), np.int64)
    loci[order] = np.cumsum(opens) - 1
    return loci


def cut_windows(genome: dict[str, np.ndarray], regions: pd.DataFrame, flank: int) -> np.ndarray:
    """(n, length + 2 * flank) uint8 base indices of the regions with their flanks."""
    width = int(regions["end"].iloc[0] - regions["start"].iloc[0]) + 2 * flank
    windows = np.empty((len(regions), width), np.uint8)
    for chrom, rows in regions.groupby("chrom").indices.items():
        start = regions["start"].to_numpy()[rows] - flank
        windows[rows] = genome[chrom][start[:, None] + np.arange(width)]
    return windows


def strongest_summits(regions: pd.DataFrame, summits: pd.DataFrame, n_tasks: int) -> np.ndarray:
    """(n, n_tasks) float32: log2(x + 2), x the highest score of a task's summits in the region.

    summits : chrom, start, score, task; sorted by start within a chromosome
    Every summit within a region counts, whichever cluster it belongs to; x is 0 without one.
    """
    scores = np.zeros((len(regions), n_tasks), np.float32)
    for chrom, rows in regions.groupby("chrom").indices.items():
        here = summits[summits["chrom"] == chrom]
        position = here["start"].to_numpy()
        first = np.searchsorted(position, regions["start"].to_numpy()[rows])
        count = np.searchsorted(position, regions["end"].to_numpy()[rows]) - first
        row = np.repeat(rows, count)
        summit = np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)
        task, score = here["task"].to_numpy()[summit], here["score"].to_numpy()[summit]
        np.maximum.at(scores, (row, task), score.astype(np.float32))
    return np.log2(scores + 2)


def shared_word_share(sequences: np.ndarray, train: np.ndarray, flank: int) -> np.ndarray:
    """(n,) share of a region's distinct words found in any training window; 0 for training rows.

    sequences : (n, width) base indices with flanks; train : (n,) which of them are training rows
    Words are 31-mers, a word and its reverse complement being one; a training window includes its
    flanks, where the random shift leads, while a region held out is read without them.
    """
    known = np.sort(canonical_words(sequences[train]), axis=None)
    share = np.zeros(len(sequences))
    held_out = np.flatnonzero(~train)
    inner = sequences[held_out, flank : sequences.shape[1] - flank]
    words = np.sort(canonical_words(inner), axis=1)
    distinct = words != NO_WORD
    distinct[:, 1:] &= words[:, 1:] != words[:, :-1]
    found = _contains(known, words) & distinct
    share[held_out] = found.sum(1) / np.maximum(distinct.sum(1), 1)
    return share


def _contains(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """True where a value is in the sorted array (here several times faster than numpy.isin)."""
    if not ordered.size:
        return np.zeros(values.shape, bool)
    return ordered[np.searchsorted(ordered, values).clip(max=ordered.size - 1)] == values


def canonical_words(sequences: np.ndarray, size: int = SHARED_WORD) -> np.ndarray:
    """(n, width - size + 1) uint64: each word or its reverse complement, the smaller number.

    sequences : (n, width) base indices; a word with an N is `NO_WORD`. Two bits a base, size <= 31.
    """
    n_words = sequences.shape[1] - size + 1
    forward = np.zeros((len(sequences), n_words), np.uint64)
    reverse, has_n = forward.copy(), np.zeros(forward.shape, bool)
    for offset in range(size):
        base = sequences[:, offset : offset + n_words]
        has_n |= base > 3
        code = (base & 3).astype(np.uint64)
        forward |= code << np.uint64(2 * (size - 1 - offset))
        reverse |= (np.uint64(3) - code) << np.uint64(2 * offset)
    words = np.minimum(forward, reverse)
    words[has_n] = NO_WORD
    return words
