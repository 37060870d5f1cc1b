"""A data set as tables and frequencies: its splits, tasks, notes, and the words that mark a task.

Targets are read of the training regions only, so that describing the data leaves the test set
unread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tism.sequence import ALPHABET, NOT_A_BASE
from tism.study.data.dataset import SPLITS, Dataset, evenly
from tism.study.data.yeast import NO_WORD, canonical_words, task_table

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from tism.study.data.simulation import Truth

MIDDLE = 24  # bp of a region that a table shows
N_CLUSTERS = 8  # of tasks
WORD = 7  # bp
REACH = 6  # bp on either side of a word in a logo
_MOST_REGIONS = 20_000  # of more training regions, words are counted in an even selection


def describe_splits(dataset: Dataset) -> pd.DataFrame:
    """One row per split: its chromosomes, regions, loci, and regions that overlap another one."""
    regions = dataset.regions
    shared = regions["locus"].duplicated(keep=False)
    table = regions.assign(shared=shared).groupby("split").agg(
        chromosomes=("chrom", "nunique"),
        regions=("name", "size"),
        loci=("locus", "nunique"),
        overlapping=("shared", "sum"),
    )  # fmt: skip
    table = table.reindex(list(SPLITS), fill_value=0).rename_axis("split").reset_index()
    return table.rename(columns={"overlapping": "overlapping regions"})


def describe_regions(dataset: Dataset, rows: np.ndarray) -> pd.DataFrame:
    """One row per region: place, split, middle of the sequence, and task of the largest target."""
    table = dataset.regions.iloc[rows][["name", "locus", "split"]].reset_index(drop=True)
    begin = (dataset.sequences.shape[1] - MIDDLE) // 2
    letters = np.array([*ALPHABET, "N"])[dataset.sequences[rows, begin : begin + MIDDLE]]
    table[f"middle {MIDDLE} bp"] = ["".join(row) for row in letters]
    top = dataset.targets[rows].argmax(1)
    table["strongest task"] = np.array(dataset.tasks)[top]
    table["target"] = dataset.targets[rows, top]
    return table


def describe_notes(dataset: Dataset) -> pd.DataFrame:
    """One row for each count that was noted when the data set was made."""
    return pd.DataFrame({"what": dataset.notes.keys(), "number": dataset.notes.values()})


def active(dataset: Dataset) -> np.ndarray:
    """(n, n_tasks) True where x + 2 is at least twice the task's median over the training regions.

    If most regions have no peak of a task, as in yeast, it is True where the region has one.
    """
    median = np.median(dataset.targets[dataset.indices("train")], axis=0)
    return dataset.targets - median >= 1


def task_groups(dataset: Dataset) -> list[str]:
    """A group for each task: kind of protein (yeast) or branch of the blood lineage tree."""
    if dataset.name == "yeast":
        table = task_table().set_index("factor")["sequence_specific"]
        names = {True: "sequence-specific factor", False: "other protein"}
        return [names[table[task]] for task in dataset.tasks]
    from tism.study.data.simulation import CELL_TYPES

    branches = [CELL_TYPES.get(task, "cell type").split("/")[:2] for task in dataset.tasks]
    return [branch[-1] if branch[0] == "lymphoid" else branch[0] for branch in branches]


def describe_tasks(dataset: Dataset) -> pd.DataFrame:
    """One row per task: group, training regions in which it is active, and their share."""
    train = dataset.indices("train")
    count = active(dataset)[train].sum(0)
    return pd.DataFrame(
        {
            "task": dataset.tasks,
            "group": task_groups(dataset),
            "active regions": count,
            "share": count / len(train),
        }
    )


def gc_content(dataset: Dataset) -> np.ndarray:
    """(n,) share of G and C among the bases of each region, without flanks and N."""
    window = _windows(dataset, np.arange(len(dataset.regions)))
    return ((window == 1) | (window == 2)).sum(1) / (window < NOT_A_BASE).sum(1)


def base_frequencies(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """(4, length) share of each base at every position of these regions, N left out."""
    window = _windows(dataset, rows)
    counts = np.stack([(window == base).sum(0) for base in range(len(ALPHABET))])
    return counts / np.maximum(counts.sum(0), 1)


def _windows(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    return dataset.sequences[rows, dataset.flank : dataset.flank + dataset.length]


def cluster_tasks(dataset: Dataset) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Average-linkage clusters of the tasks by their correlation over the training regions.

    Returns the Pearson correlations of the tasks in the order of the clusters, and one row a
    cluster: tasks (the first eight), size, mean correlation within the cluster.
    """
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    correlation = np.corrcoef(dataset.targets[dataset.indices("train")].T)
    distance = squareform(np.clip(1 - correlation, 0, None), checks=False)
    tree = hierarchy.linkage(distance, "average", optimal_ordering=True)
    order = hierarchy.leaves_list(tree)
    labels = hierarchy.fcluster(tree, min(N_CLUSTERS, len(order)), "maxclust")[order]
    names = np.array(dataset.tasks)[order]
    ordered = pd.DataFrame(correlation[np.ix_(order, order)], names, names)
    rows = []
    for label in pd.unique(labels):
        members = np.flatnonzero(labels == label)
        block = ordered.to_numpy()[np.ix_(members, members)]
        within = block[np.triu_indices(len(members), 1)]
        mean = within.mean() if within.size else np.nan
        listed = ", ".join(names[members][:8]) + (", ..." if len(members) > 8 else "")
        rows.append({"tasks": listed, "size": len(members), "mean r": mean})
    return ordered, pd.DataFrame(rows)


def enriched_words(dataset: Dataset) -> pd.DataFrame:
    """For each task the word of `WORD` bp that best marks the training regions where it is active.

    A word and its reverse complement are one. z is the number of active regions with the word,
    minus its expectation by chance, in hypergeometric standard deviations.

    Returns one row per task, largest z first: task, group, word, share of the active and of the
    other regions that have the word, fold (their ratio, with half a region added to each), z.
    """
    rows = evenly(dataset.indices("train"), _MOST_REGIONS)
    has_task = active(dataset)[rows].astype(np.float64)
    has_word = _word_counts(_windows(dataset, rows), WORD)
    has_word.data[:] = 1
    n_active, n = has_task.sum(0), len(rows)
    both = has_word.T @ has_task  # (words, tasks)
    share = has_word.sum(0)[:, None] / n
    spread = n_active * (n - n_active) / max(n - 1, 1) * share * (1 - share)
    z = (both - n_active * share) / np.sqrt(spread + 1)
    best = z.argmax(0)
    with_both, n_other = both[best, np.arange(len(best))], n - n_active
    with_word_only = has_word.sum(0)[best] - with_both
    table = pd.DataFrame(
        {
            "task": dataset.tasks,
            "group": task_groups(dataset),
            "word": [_letters(code, WORD) for code in best],
            "active": with_both / np.maximum(n_active, 1),
            "others": with_word_only / np.maximum(n_other, 1),
            "fold": (with_both + 0.5) / (n_active + 1) / (with_word_only + 0.5) * (n_other + 1),
            "z": z.max(0),
        }
    )
    return table.sort_values("z", ascending=False, ignore_index=True)


def canonical_word_counts(dataset: Dataset, size: int) -> np.ndarray:
    """(n, words) float32: how often each word occurs in each region, on either strand.

    A word and its reverse complement are one, so that 4**size words leave about half as many.
    """
    every = np.stack(np.unravel_index(np.arange(4**size), (4,) * size), 1).astype(np.uint8)
    known = np.unique(canonical_words(every, size)).astype(np.int64)
    counts = _word_counts(_windows(dataset, np.arange(len(dataset.regions))), size)
    return counts[:, known].toarray().astype(np.float32)


def composition_span(frequencies: np.ndarray, n: int) -> tuple[float, float]:
    """Largest difference of a base's share between two positions, observed and by chance.

    frequencies : (4, length) of n regions; chance draws every position from their mean
    """
    drawn = np.random.default_rng(0).multinomial(n, frequencies.mean(1), frequencies.shape[1]) / n
    return float(np.ptp(frequencies, axis=1).max()), float(np.ptp(drawn, axis=0).max())


def _word_counts(sequences: np.ndarray, size: int) -> csr_array:
    """(n, 4**size) sparse: how often each word occurs in each sequence, on either strand."""
    from scipy import sparse

    words = canonical_words(sequences, size)
    row, code = np.repeat(np.arange(len(words)), words.shape[1]), words.ravel()
    row, code = row[code != NO_WORD], code[code != NO_WORD].astype(np.int64)
    shape = (len(words), len(ALPHABET) ** size)
    counts = sparse.csr_array((np.ones(len(code)), (row, code)), shape=shape)
    counts.sum_duplicates()
    return counts


def _letters(code: int, size: int) -> str:
    return "".join(ALPHABET[(int(code) >> 2 * (size - 1 - k)) & 3] for k in range(size))


def motif_logos(dataset: Dataset, task: str, word: str) -> dict[str, np.ndarray]:
    """Logos around a word in training regions where a task is active, and in the others.

    Each region contributes its best match (see `align`) with `REACH` bp on either side.

    Returns title to (4, len(word) + 2 * `REACH`) letter heights in bits against uniform bases.
    """
    rows = evenly(dataset.indices("train"), _MOST_REGIONS)
    is_active = active(dataset)[rows, dataset.tasks.index(task)]
    logos = {}
    for title, chosen in (("active", rows[is_active]), ("other", rows[~is_active])):
        found = align(_windows(dataset, chosen), word, REACH)
        frequencies = np.stack([(found == base).mean(0) for base in range(len(ALPHABET))])
        logos[f"{len(found):,} of {len(chosen):,} {title} regions"] = information(frequencies)
    return logos


def align(sequences: np.ndarray, word: str, reach: int) -> np.ndarray:
    """(m, len(word) + 2 * reach) base indices around the best match of each sequence that has one.

    A match has at most one mismatch, on either strand, and is turned to the strand of the word. Of
    equally good matches the one nearest the centre is taken.

    sequences : (n, length) base indices
    """
    codes = np.array([ALPHABET.index(letter) for letter in word])
    width = len(codes) + 2 * reach
    turned = np.where(sequences < NOT_A_BASE, 3 - sequences, NOT_A_BASE)[:, ::-1]
    both = np.concatenate([sequences, turned], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(both, width, axis=1)
    n_windows = sequences.shape[1] - width + 1
    starts = np.concatenate([np.arange(n_windows), sequences.shape[1] + np.arange(n_windows)])
    matches = (windows[:, starts, reach : reach + len(codes)] == codes).sum(2)
    off_centre = np.abs(np.arange(n_windows) - (n_windows - 1) / 2)
    best = (matches - np.tile(off_centre, 2) / sequences.shape[1]).argmax(1)
    kept = matches[np.arange(len(best)), best] >= len(codes) - 1
    return windows[np.flatnonzero(kept), starts[best[kept]]]


def information(frequencies: np.ndarray) -> np.ndarray:
    """Letter heights in bits: frequency times the information of the position (at most 2 bits).

    frequencies : (4, length)
    """
    logarithm = np.log2(np.where(frequencies > 0, frequencies, 1))
    return frequencies * (2 + (frequencies * logarithm).sum(0))


def describe_pairs(truth: Truth) -> pd.DataFrame:
    """One row for two motifs that interact: kind, number of pairs, median spacing in bp."""
    motif = truth.sites["motif"].to_numpy()
    first, second = motif[truth.pairs["first"]], motif[truth.pairs["second"]]
    couple = np.where(first < second, first + " + " + second, second + " + " + first)
    grouped = truth.pairs.assign(couple=couple).groupby(["kind", "couple"])["spacing"]
    table = grouped.agg(pairs="size", spacing="median").reset_index()
    return table.rename(columns={"spacing": "median spacing (bp)"})


def instructive_region(truth: Truth) -> int:
    """The region with most kinds of pairs, then fewest sites, then the strongest effect."""
    sites, pairs = truth.sites, truth.pairs
    largest = pd.Series(np.abs(truth.site_effects).max(1)).groupby(sites["region"]).max()
    table = pd.DataFrame({"sites": sites.groupby("region").size(), "effect": largest})
    table["kinds"] = pairs.groupby("region")["kind"].nunique()
    table = table.fillna({"kinds": 0}).sort_values(
        ["kinds", "sites", "effect"], ascending=[False, True, False], kind="stable"
    )
    return int(table.index[0])


def sites_of(truth: Truth, region: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Sites of one region, its pairs by row numbers among them, (sites, tasks) effects."""
    rows = np.flatnonzero((truth.sites["region"] == region).to_numpy())
    pairs = truth.pairs[truth.pairs["region"] == region].reset_index(drop=True)
    pairs[["first", "second"]] = np.searchsorted(rows, pairs[["first", "second"]])
    return truth.sites.iloc[rows], pairs, pd.DataFrame(truth.site_effects[rows])
