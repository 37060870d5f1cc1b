"""Scores as letters: sequence logos of one region, one task or one motif."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import logomaker
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from tism.sequence import ALPHABET
from tism.study.plots.style import (
    BASE_COLOURS,
    BLUE,
    VERMILLION,
    WIDE,
    as_array,
    legend_outside,
    new_axes,
    panels,
)

Frame = tuple[int, int, bool]


class _Logo(logomaker.Logo):
    """A logo whose letters are made once: those below zero are upside down from the start."""

    def style_glyphs_below(self, **_: Any) -> None:
        """Leave the letters as they are, where logomaker makes each of them anew."""


def plot_logo(
    scores: Any,
    ax: Axes | None = None,
    *,
    start: int = 0,
    ylabel: str | None = None,
    limits: tuple[float, float] | None = None,
) -> Axes:
    """A sequence logo; letters of negative scores stand below zero and upside down.

    scores : (4, length), rows A C G T; a map that is zero except at the reference base shows one
        letter a position
    start : position of the first column in the region, in bp
    limits : of the y axis; by default those of the letters
    """
    scores = as_array(scores)
    ax = ax or new_axes(height=1.6)
    positions = np.arange(start, start + scores.shape[1])
    if scores.any():
        table = pd.DataFrame(scores.T, index=positions, columns=list(ALPHABET))
        _Logo(table, ax=ax, color_scheme=BASE_COLOURS, font_name="DejaVu Sans")
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    ax.axhline(0, color="black", linewidth=0.5)
    ax.set(xlim=(start - 0.5, positions[-1] + 0.5), ylim=limits or _letter_limits(scores))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=3))
    ax.set_xlabel("position in the region (bp)")
    if ylabel is not None:
        ax.set_ylabel(ylabel)
    return ax


def _letter_limits(scores: np.ndarray) -> tuple[float, float]:
    """From the lowest to the highest stack, with a margin; (-1, 1) if there is no letter."""
    low, high = scores.clip(max=0).sum(0).min(), scores.clip(min=0).sum(0).max()
    margin = 0.05 * (high - low)
    return (low - margin, high + margin) if margin else (-1.0, 1.0)


def plot_conventions(maps: Mapping[str, Any], *, start: int) -> Figure:
    """Logos of one region in several conventions, one below the other, each on its own scale.

    maps : title to (4, length) scores
    start : position of the first column in the region, in bp
    """
    figure, axes = plt.subplots(
        len(maps), 1, figsize=(WIDE, 1.45 * len(maps) + 0.4), sharex=True, squeeze=False
    )
    for ax, (title, scores) in zip(axes[:, 0], maps.items(), strict=True):
        plot_logo(scores, ax, start=start)
        ax.set_title(title)
    _label_last(figure, axes[:, 0])
    return figure


def plot_logo_pair_grid(
    exact: Any,
    taylor: Any,
    labels: Sequence[str],
    *,
    start: int,
    frames: Sequence[tuple[Sequence[Frame], Sequence[Frame]]] | None = None,
) -> Figure:
    """Logos of ISM and TISM of every task, one above the other, over 60 to 100 bp.

    exact, taylor : (tasks, 4, length), ISM and TISM
    labels : name of each task
    start : position of the first column in the region, in bp
    frames : for each task the frames of ISM and those of TISM, each (begin, end, shared) with
        half-open positions on the x axis: solid blue if shared, else dashed vermillion
    """
    figure, axes = plt.subplots(
        2 * len(labels), 1, figsize=(WIDE, 1.75 * len(labels) + 0.7), sharex=True, squeeze=False
    )
    frames = [((), ())] * len(labels) if frames is None else frames
    for task, (label, *maps) in enumerate(zip(labels, exact, taylor, strict=True)):
        pair = axes[2 * task : 2 * task + 2, 0]
        for ax, scores, name, framed in zip(pair, maps, ("ISM", "TISM"), frames[task], strict=True):
            plot_logo(scores, ax, start=start, ylabel=name)
            for frame in framed:
                _draw_frame(ax, *frame)
        pair[0].set_title(label)
    _label_last(figure, axes[:, 0])
    legend_outside(axes[:, 0], "upper right", 2)
    return figure


def _label_last(figure: Figure, axes: Sequence[Axes]) -> None:
    """Show ticks and label of the shared x axis at the lowest axes only."""
    for ax in axes[:-1]:
        ax.set_xlabel("")
        ax.tick_params(bottom=False)
    figure.align_ylabels(axes)


def _draw_frame(ax: Axes, begin: int, end: int, shared: bool) -> None:
    left, right = ax.get_xlim()
    if begin - 0.5 < left or right < end - 0.5:
        return
    colour, style = (BLUE, "-") if shared else (VERMILLION, "--")
    look = {"fill": False, "edgecolor": colour, "linestyle": style, "linewidth": 1.6, "zorder": 3}
    place = {"transform": ax.get_xaxis_transform(), "label": "in both" if shared else "in one only"}
    ax.add_patch(Rectangle((begin - 0.5, 0.02), end - begin, 0.96, **look, **place))


def plot_motifs(motifs: Mapping[str, Any], *, columns: int = 2) -> Figure:
    """Sequence logos, some beside each other; without motifs, a panel that says so.

    motifs : title to (4, width) letter heights in bits
    """
    if not motifs:
        (ax,) = panels(1, height=1.0, columns=1)
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no motif found", ha="center", va="center", transform=ax.transAxes)
        return ax.figure
    widest = max(as_array(heights).shape[1] for heights in motifs.values())
    axes = panels(len(motifs), height=1.0, columns=columns)
    for ax, (title, heights) in zip(axes, motifs.items(), strict=True):
        plot_logo(heights, ax, limits=(0, 2), ylabel="bits")
        ax.set(xlim=(-0.5, widest - 0.5), xlabel="", xticks=[], yticks=[0, 2])
        ax.set_title(title, fontsize=10)
    return axes[0].figure
