"""Averages of predictions over both strands, over shifted windows and over the folds of a model.

A mean over strands and shifts is a model of its own: ISM and TISM are linear in the prediction, so
that its map is the mean of the maps, each turned back to the window as it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tism.predictor import OutputFn


class Averaged(nn.Module):
    """A model whose prediction is the mean over strands and shifts of the prediction of another.

    model, output_fn : a network, (n, 4, length), and from what it returns to (n, tasks)
    average : as `checked_average` takes it
    """

    def __init__(
        self, model: nn.Module, output_fn: OutputFn | None, average: str | Sequence[str]
    ) -> None:
        super().__init__()
        self.model, self.output_fn = model, output_fn or (lambda output: output)
        names = checked_average(average)
        self.strand = "strand" in names
        self.shift = max((int(name.partition(":")[2] or 0) for name in names), default=0)

    @property
    def n_views(self) -> int:
        """Number of predictions in a mean."""
        return (1 + self.strand) * (2 * self.shift + 1)

    def forward(self, one_hot: Tensor, *args: object) -> Tensor:
        """Return the mean, (n, tasks)."""
        total = 0
        for shift in range(-self.shift, self.shift + 1):
            moved = F.pad(one_hot, (shift, -shift)) if shift else one_hot.clone()
            for view in (moved, moved.flip(1, 2)) if self.strand else (moved,):
                kept = (arg.clone() if isinstance(arg, Tensor) else arg for arg in args)
                total = total + self.output_fn(self.model(view, *kept))  # may change both in place
        return total / self.n_views


def checked_average(average: str | Sequence[str], length: int | None = None) -> list[str]:
    """Return what to average over, in one order; ValueError for anything else.

    average : "strand", the window and its reverse complement; "shift:K", the window moved by each
        of -K to K bases, N where nothing is left; or both
    length : bases in a window, of which a shift must leave some
    """
    asked = [average] if isinstance(average, str) else list(average)
    for name in asked:
        shift = re.fullmatch(r"shift:([1-9][0-9]{0,6})", str(name))
        if name != "strand" and not shift:
            raise ValueError(f"average must be 'strand' or 'shift:K' with K from 1, got {name!r}")
        if shift and length is not None and int(shift[1]) >= length:
            raise ValueError(f"average {name!r} moves all {length} bases out of the window")
    if len({str(name)[:5] for name in asked}) < len(asked):
        raise ValueError(f"average must name strand and shift once each, got {asked}")
    return sorted(asked, reverse=True)


def over_folds(found: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean over folds and their standard deviation (n - 1 in the denominator)."""
    folds = torch.stack(found)
    return folds.mean(0), folds.std(0)
