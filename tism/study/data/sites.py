"""Motifs and their sites: where a sequence holds which transcription factor's motif."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from tism.sequence import NOT_A_BASE, one_hot_from_indices
from tism.study.data.download import data_root

P_VALUE = 1e-4  # chance that a window of uniform random bases is a site, for every motif
WEAKEST = 0.25  # affinity of a site at that threshold; the consensus has 1
SCORE_OF_N = -100_000  # no window with an N is a site


@dataclass(frozen=True)
class Motif:
    """A position frequency matrix and the integer score that finds its sites.

    probabilities : (4, width), rows A C G T
    scores : (4, width) int, log2 odds against uniform bases in hundredths of a bit. Integers are
        summed exactly in any order, so that every machine finds the same sites
    threshold : least score of a site
    """

    name: str
    matrix_id: str
    probabilities: np.ndarray
    scores: np.ndarray
    threshold: int

    @property
    def width(self) -> int:
        """Bases of a site."""
        return self.scores.shape[1]

    @property
    def best(self) -> int:
        """Score of the consensus."""
        return int(self.scores.max(0).sum())

    @property
    def information(self) -> np.ndarray:
        """(width,) bits a position."""
        return (self.probabilities * np.log2(4 * self.probabilities)).sum(0)


def read_motifs(file: str = "motifs.csv") -> list[Motif]:
    """The matrices of a table in `data`, with a pseudocount of 0.2 a base."""
    table = pd.read_csv(data_root() / file)
    motifs = []
    for (matrix_id, name), rows in table.groupby(["matrix_id", "name"], sort=False):
        counts = rows.sort_values("position")[list("ACGT")].to_numpy(float).T + 0.2
        probabilities = counts / counts.sum(0)
        scores = np.round(100 * np.log2(4 * probabilities)).astype(np.int64)
        motifs.append(Motif(name, matrix_id, probabilities, scores, _threshold(scores)))
    return motifs


def _threshold(scores: np.ndarray) -> int:
    """Least score that uniform random bases reach with at most `P_VALUE`, or the best score."""
    lowest = scores.min(0)
    chance = np.ones(1)
    for column, low in zip(scores.T, lowest, strict=True):
        wider = np.zeros(len(chance) + column.max() - low)
        for score in column - low:
            wider[score : score + len(chance)] += chance / 4
        chance = wider
    reached = chance[::-1].cumsum()[::-1]
    # A rounding error in a sum of probabilities must not move the threshold.
    first = np.flatnonzero(reached <= P_VALUE * (1 + 1e-9))
    top = len(chance) - 1
    return int(lowest.sum() + min(first[0] if len(first) else top, top))


def find_sites(sequences: np.ndarray, motifs: list[Motif]) -> pd.DataFrame:
    """Sites of every motif on both strands; of overlapping sites of one motif, only the best.

    Of two equally good sites the one nearer to the middle is taken, so that a sequence and its
    reverse complement have the same sites.

    sequences : (n, length) base indices
    Returns region, motif, start, end, strand, score and affinity, sorted by region and start.
    """
    n, length = sequences.shape
    widths = np.array([motif.width for motif in motifs])
    thresholds = np.array([motif.threshold for motif in motifs])
    best = np.array([motif.best for motif in motifs])
    region, motif, strand, start, score = _scan(sequences, motifs)
    inside = start + widths[motif] <= length
    order = np.lexsort((-score, start, region, motif))
    order = order[inside[order]]
    region, motif, strand, start, score = (x[order] for x in (region, motif, strand, start, score))
    first, second = neighbours(motif * n + region, start, (widths - 1)[motif])
    from_middle = np.abs(2 * start + widths[motif] - length)
    strength = score * (length + 1) - from_middle
    worse = np.where(strength[first] >= strength[second], second, first)
    keep = np.setdiff1d(np.arange(len(start)), worse)
    keep = keep[np.lexsort((motif[keep], start[keep], region[keep]))]
    room = np.maximum(best - thresholds, 1)
    affinity = 1 - (1 - WEAKEST) * (best[motif] - score) / room[motif]
    return pd.DataFrame(
        {
            "region": region[keep],
            "motif": np.array([m.name for m in motifs])[motif[keep]],
            "start": start[keep],
            "end": (start + widths[motif])[keep],
            "strand": np.where(strand, "-", "+")[keep],
            "score": score[keep] / 100,
            "affinity": affinity[keep],
        }
    )


@torch.no_grad()
def _scan(sequences: np.ndarray, motifs: list[Motif]) -> tuple[np.ndarray, ...]:
    """Region, motif, strand (1 is reverse), start and score of every window at its threshold.

    A motif's columns beyond its width are zeros, and so is the sequence beyond its end.
    """
    widest = max(motif.width for motif in motifs)
    kernels = torch.zeros(len(motifs), 2, NOT_A_BASE + 1, widest)
    for kernel, motif in zip(kernels, motifs, strict=True):
        scores = torch.from_numpy(motif.scores)
        kernel[0, :NOT_A_BASE, : motif.width] = scores
        kernel[1, :NOT_A_BASE, : motif.width] = scores.flip(0, 1)
        kernel[:, NOT_A_BASE, : motif.width] = SCORE_OF_N
    thresholds = torch.tensor([motif.threshold for motif in motifs]).repeat_interleave(2)
    hits = []
    chunk = max(1, 2**17 // sequences.shape[1])
    for begin in range(0, len(sequences), chunk):
        one_hot = one_hot_from_indices(sequences[begin : begin + chunk])
        n = 1 - one_hot.sum(1, keepdim=True)
        padded = torch.nn.functional.pad(torch.cat([one_hot, n], 1), (0, widest - 1))
        scores = torch.nn.functional.conv1d(padded, kernels.flatten(0, 1))
        region, kernel, start = (scores >= thresholds[:, None]).nonzero(as_tuple=True)
        score = scores[region, kernel, start].round().long()
        hits.append(torch.stack([region + begin, kernel // 2, kernel % 2, start, score]))
    return tuple(torch.cat(hits, 1).numpy())


def neighbours(
    group: np.ndarray, position: np.ndarray, reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Index pairs (i < j) of one group, j at most reach[i] behind i; positions are sorted in it."""
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for step in range(1, len(position)):
        same = group[step:] == group[:-step]
        near = same & (position[step:] - position[:-step] <= reach[:-step])
        if not near.any():
            break
        first.append(np.flatnonzero(near))
        second.append(first[-1] + step)
    return np.concatenate(first), np.concatenate(second)
