"""The form in which every data set reaches training and attribution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tism.sequence import one_hot_from_indices

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """Regions of one length with their flanks, a target for every task, and a split by locus.

    name : "simulated", "yeast" or "immgen"
    sequences : (n, length + 2 * flank) uint8; 0 1 2 3 = A C G T, 4 = N
    targets : (n, n_tasks) float32 in the unit of the assay (log2(x + 2))
    tasks : n_tasks names
    regions : one row per region: name, chrom, start, end (0-based, half-open, without flanks),
        locus (int; regions that overlap share one) and split (one of `SPLITS`)
    flank : bases on either side of a region, into which a random shift may move
    center, scale : (n_tasks,) float32; a model is trained on (targets - center) / scale
    notes : counts by what they count, such as the regions dropped for a reason
    truth : sites and effects behind a simulation; None for real data
    genome : FASTA file that the sequences were cut from; None for a simulation
    """

    name: str
    sequences: np.ndarray
    targets: np.ndarray
    tasks: list[str]
    regions: pd.DataFrame
    flank: int
    center: np.ndarray
    scale: np.ndarray
    notes: dict[str, int]
    truth: Any = None
    genome: Path | None = None

    @property
    def length(self) -> int:
        """Bases a region, without the flanks."""
        return self.sequences.shape[1] - 2 * self.flank

    @property
    def standardised(self) -> np.ndarray:
        """(n, n_tasks) float32: the targets as a model is trained on them."""
        return (self.targets - self.center) / self.scale

    def indices(self, split: str) -> np.ndarray:
        """Row numbers of the regions of one split, in file order."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
        return np.flatnonzero((self.regions["split"] == split).to_numpy())

    def one_hot(self, rows: np.ndarray, shift: int | np.ndarray = 0) -> torch.Tensor:
        """(len(rows), 4, length) float32, each window moved by `shift` bases (at most `flank`)."""
        rows = np.asarray(rows)
        shift = np.broadcast_to(np.asarray(shift), rows.shape)
        if np.abs(shift).max(initial=0) > self.flank:
            raise ValueError(f"shift must be within the flank of {self.flank} bp")
        columns = self.flank + shift[:, None] + np.arange(self.length)
        return one_hot_from_indices(self.sequences[rows[:, None], columns])


def check_integer(name: str, value: Any, least: int, most: float = np.inf) -> None:
    """Raise ValueError naming a setting that is not an integer from `least` to `most`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not (whole and least <= value <= most):
        limit = f" and at most {most}" if most < np.inf else ""
        raise ValueError(f"{name} must be an integer of at least {least}{limit}; got {value!r}")


def build_dataset(
    name: str, sequences: np.ndarray, targets: np.ndarray, regions: pd.DataFrame, **others: Any
) -> Dataset:
    """A `Dataset` whose center and scale are those of its training regions.

    Raises ValueError if there is no training region, or a task is constant over them.
    """
    train = np.flatnonzero(regions["split"] == "train")
    if not len(train):
        raise ValueError(f"the {name} data set has no region on a training chromosome")
    center, scale = standardisation(targets, train)
    return Dataset(name, sequences, targets, regions=regions, center=center, scale=scale, **others)


def evenly(rows: np.ndarray, n: int) -> np.ndarray:
    """n of the rows, spread evenly, or all of them if there are fewer."""
    return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(int)]


def standardisation(targets: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each task over the training rows, as float32 (n_tasks,)."""
    mean, deviation = targets[train].mean(0), targets[train].std(0)
    if (deviation == 0).any():
        constant = np.flatnonzero(deviation == 0)
        raise ValueError(f"tasks {constant[:10].tolist()} are constant over the training regions")
    return mean.astype(np.float32), deviation.astype(np.float32)
