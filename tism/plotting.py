"""The figures of the book. The only module that imports matplotlib, seaborn or logomaker.

Every function draws on the axes it is given, or on a figure of its own, and returns them. Widths
are chosen for a phone: figures are at most 7.5 inches wide and grow downwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import logomaker
import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tism.sequence import ALPHABET

# Okabe and Ito's colours for colour-blind readers (https://jfly.uni-koeln.de/color/).
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#7F7F7F"
COLOURS = {
    "ISM": BLUE,
    "TISM": VERMILLION,
    "gradient": ORANGE,
    "gradient x input": PURPLE,
    "corrected gradient": GREEN,
}
# Of four lightnesses, so that they stay apart in grey: T, C, A, G from dark to light.
BASE_COLOURS = {"A": GREEN, "C": BLUE, "G": ORANGE, "T": "#882255"}
_CYCLE = [BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY, "#000000"]
_WIDTH = 6.5
_FEW = 100
_FRAMES = {True: ("agrees", BLUE, "-"), False: ("disagrees", VERMILLION, "--")}


def use_book_style() -> None:
    """White background, readable fonts, colour-blind-safe cycle; the same bytes at every run."""
    sns.set_theme(context="notebook", style="ticks")
    plt.rcParams.update(
        {
            "axes.edgecolor": "#333333",
            "axes.labelsize": 11,
            "axes.prop_cycle": mpl.cycler(color=_CYCLE),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "figure.constrained_layout.use": True,
            "figure.dpi": 130,
            "figure.facecolor": "white",
            "figure.figsize": (_WIDTH, 4.2),
            "font.family": ["DejaVu Sans"],
            "font.size": 11,
            "image.cmap": "viridis",
            "legend.fontsize": 10,
            "legend.frameon": False,
            "savefig.dpi": 130,
            "savefig.facecolor": "white",
            "svg.hashsalt": "tism",
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
        }
    )
    _use_small_png()


def _use_small_png() -> None:
    """In a notebook: PNG without version or date, compressed as far as it goes."""
    try:
        from IPython import get_ipython
        from IPython.core.pylabtools import select_figure_formats
    except ImportError:
        return
    shell = get_ipython()
    if shell is None:
        return
    from matplotlib_inline.config import InlineBackend

    inline = InlineBackend.instance(parent=shell)
    inline.print_figure_kwargs = {
        "bbox_inches": "tight",
        "metadata": {"Software": None},
        "pil_kwargs": {"optimize": True},
    }
    select_figure_formats(shell, {"png"}, **inline.print_figure_kwargs)


def _axes(ax: Axes | None, height: float = 4.2, width: float = _WIDTH) -> Axes:
    return plt.subplots(figsize=(width, height))[1] if ax is None else ax


def _array(values: Any) -> np.ndarray:
    """Tensors, lists and arrays as float64."""
    values = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(values, dtype=float)


def _score_map(scores: Any, name: str) -> np.ndarray:
    scores = _array(scores)
    if scores.ndim != 2 or scores.shape[0] != len(ALPHABET):
        raise ValueError(f"{name} must have shape (4, length), got {scores.shape}")
    return scores


def plot_logo(
    scores: Any,
    ax: Axes | None = None,
    *,
    start: int = 0,
    ylabel: str | None = None,
    limits: tuple[float, float] | None = None,
) -> Axes:
    """Letters as high as their scores, negative ones below zero and upside down.

    scores : (4, length), rows A C G T; a map that is zero but at the reference base shows one
        letter a position
    start : position of the first column in the region, in bp
    limits : of the y axis; by default those of the letters
    """
    scores = _score_map(scores, "scores")
    ax = _axes(ax, height=1.6)
    positions = np.arange(start, start + scores.shape[1])
    if scores.any():
        table = pd.DataFrame(scores.T, index=positions, columns=list(ALPHABET))
        logomaker.Logo(table, ax=ax, color_scheme=BASE_COLOURS, font_name="DejaVu Sans")
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


def plot_conventions(
    maps: Mapping[str, Any],
    *,
    start: int = 0,
    ylabel: str | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Logos of one region in several conventions, one below the other, each on its own scale.

    maps : title to (4, length) scores
    start : position of the first column in the region, in bp
    limits : one y axis for all of them instead
    """
    figure, axes = plt.subplots(
        len(maps), 1, figsize=(7.5, 1.45 * len(maps) + 0.4), sharex=True, squeeze=False
    )
    for ax, (title, scores) in zip(axes[:, 0], maps.items(), strict=True):
        plot_logo(scores, ax, start=start, limits=limits, ylabel=ylabel)
        ax.set_title(title)
    _label_last(figure, axes[:, 0])
    return figure


def plot_logo_pair_grid(
    first: Any,
    second: Any,
    labels: Sequence[str],
    *,
    start: int = 0,
    frames: Sequence[Sequence[tuple[int, int, bool]]] | None = None,
    names: tuple[str, str] = ("ISM", "TISM"),
    share_y: bool = False,
) -> Figure:
    """Two maps of every task, one above the other, over 60 to 100 bp.

    first, second : (tasks, 4, length)
    labels : name of each task
    start : position of the first column in the region, in bp
    frames : for each task (begin, end, agrees), half-open positions on the x axis: a solid blue
        frame where the maps agree, a dashed vermillion one where they do not
    share_y : one y axis for both maps of a task
    """
    first, second = _array(first), _array(second)
    if first.shape != second.shape or len(first) != len(labels):
        raise ValueError(
            f"first and second must have shape ({len(labels)}, 4, length) for {len(labels)} "
            f"labels, got {first.shape} and {second.shape}"
        )
    figure, axes = plt.subplots(
        2 * len(labels), 1, figsize=(7.5, 1.75 * len(labels) + 0.7), sharex=True, squeeze=False
    )
    for task, label in enumerate(labels):
        pair = np.stack([first[task], second[task]])
        shared = _common_limits(pair) if share_y else None
        rows = axes[2 * task : 2 * task + 2, 0]
        for ax, scores, name in zip(rows, pair, names, strict=True):
            plot_logo(scores, ax, start=start, limits=shared, ylabel=name)
            _draw_frames(ax, frames[task] if frames is not None else ())
        rows[0].set_title(label)
    _label_last(figure, axes[:, 0])
    _frame_legend(figure, frames)
    return figure


def _common_limits(pair: np.ndarray) -> tuple[float, float]:
    low, high = zip(*(_letter_limits(scores) for scores in pair), strict=True)
    return min(low), max(high)


def _label_last(figure: Figure, axes: Sequence[Axes]) -> None:
    """Ticks and label of the shared x axis at the lowest axes only."""
    for ax in axes[:-1]:
        ax.set_xlabel("")
        ax.tick_params(bottom=False)
    figure.align_ylabels(axes)


def _draw_frames(ax: Axes, frames: Sequence[tuple[int, int, bool]]) -> None:
    for begin, end, agrees in frames:
        _, colour, style = _FRAMES[bool(agrees)]
        ax.add_patch(
            Rectangle(
                (begin - 0.5, 0.02), end - begin, 0.96, transform=ax.get_xaxis_transform(),
                fill=False, edgecolor=colour, linestyle=style, linewidth=1.6, zorder=3,
            )
        )  # fmt: skip


def _frame_legend(figure: Figure, frames: Sequence[Sequence[tuple[int, int, bool]]] | None) -> None:
    shown = {bool(agrees) for task in frames or () for _, _, agrees in task}
    handles = [
        Patch(fill=False, edgecolor=colour, linestyle=style, linewidth=1.6, label=label)
        for agrees, (label, colour, style) in _FRAMES.items()
        if agrees in shown
    ]
    if handles:
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))


def plot_histogram_with_share(
    r: Any,
    *,
    ax: Axes | None = None,
    reference: Mapping[str, float] | None = None,
    label: str = "profiles",
    bins: int = 80,
) -> Axes:
    """Histogram of correlations and, on the right axis, the share at least so high (Fig 1A).

    r : any shape; NaN is left out and counted in the legend
    reference : label to value: dotted lines for published values
    label : what one r belongs to
    """
    r = _array(r).ravel()
    exists = r[np.isfinite(r)]
    ax = _axes(ax)
    ax.hist(exists, bins=np.linspace(-1, 1, bins + 1), color=SKY, lw=0, label=_counted(r, label))
    ax.set(xlim=(-1, 1), xticks=np.linspace(-1, 1, 9), xlabel="Pearson r", ylabel=label)
    ax.xaxis.set_major_formatter("{x:g}")
    for name, value, style in (
        ("mean", exists.mean(), "-"),
        ("median", float(np.median(exists)), "--"),
    ):
        ax.axvline(value, color="black", linestyle=style, label=f"{name} {value:.2f}")
    for (name, value), style in zip((reference or {}).items(), cycle((":", "-."))):
        ax.axvline(value, color=VERMILLION, linestyle=style, lw=2, label=f"{name} {value:.2f}")
    share = _right_axis(ax, "share with at least this r")
    ordered = np.sort(exists)
    share.step(ordered, 1 - np.arange(len(ordered)) / len(ordered), color=BLUE, where="pre")
    ax.legend(loc="upper left")
    return ax


def _right_axis(ax: Axes, label: str, colour: str = BLUE) -> Axes:
    """A second y axis for shares, from 0 to 100 %."""
    right = ax.twinx()
    right.set(ylim=(0, 1.0))
    right.set_ylabel(label, color=colour)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.tick_params(axis="y", colors=colour)
    right.spines["right"].set(visible=True, color=colour)
    return right


def _counted(values: np.ndarray, label: str) -> str:
    n_missing = int((~np.isfinite(values)).sum())
    text = f"n = {values.size - n_missing:,} {label}"
    return text + (f", {n_missing:,} constant" if n_missing else "")


def plot_density(
    x: Any,
    y: Any,
    *,
    xlabel: str,
    ylabel: str,
    ax: Axes | None = None,
    diagonal: bool = False,
    r: float | None = None,
    limits: tuple[float, float] | None = None,
    label: str = "",
) -> Axes:
    """Many points as a density of hexagons, with their number and, if given, Pearson r.

    x, y : same shape; points with a NaN are left out
    diagonal : draw the line of equality, both axes on one scale
    limits : of both axes, with `diagonal`
    label : what a point is, such as "regions"
    """
    x, y = _array(x).ravel(), _array(y).ravel()
    exists = np.isfinite(x) & np.isfinite(y)
    x, y = x[exists], y[exists]
    ax = _axes(ax, height=5.0, width=5.8)
    if diagonal:
        low, high = limits or _padded(np.concatenate([x, y]))
        extent = (low, high, low, high)
        ax.plot([low, high], [low, high], color="black", linewidth=1, linestyle="--", zorder=3)
        ax.set_aspect("equal")
    else:
        extent = (*_padded(x), *_padded(y))
    _draw_cells(ax, x, y, extent, label or "points")
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=extent[:2], ylim=extent[2:])
    lines = [f"n = {len(x):,} {label}".strip()] + ([] if r is None else [f"Pearson r = {r:.2f}"])
    ax.set_title("\n".join(lines), fontsize=10, fontweight="normal")
    return ax


def _draw_cells(ax: Axes, x: np.ndarray, y: np.ndarray, extent: tuple, label: str) -> None:
    """Hexagons coloured by how many points they hold; dots where there are few points."""
    if len(x) < _FEW:
        ax.plot(x, y, "o", color=BLUE, alpha=0.6, markersize=5)
        return
    cells = ax.hexbin(
        x, y, gridsize=45, extent=extent, mincnt=1, bins="log", linewidths=0.1, rasterized=True
    )
    bar = ax.figure.colorbar(cells, ax=ax, label=f"{label} a hexagon", shrink=0.8)
    bar.ax.yaxis.set_major_formatter("{x:g}")


def _padded(values: np.ndarray) -> tuple[float, float]:
    """Range of the values with a margin; never of zero width."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def plot_curves(
    table: pd.DataFrame,
    x: str,
    columns: Mapping[str, str] | Sequence[str],
    *,
    ylabel: str,
    xlabel: str | None = None,
    marks: Mapping[str, float] | None = None,
    log_y: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Lines with their names at their ends.

    columns : columns of `table`, or column to the name to write
    marks : name to position on the x axis: vertical lines such as the best epoch
    """
    names = columns if isinstance(columns, Mapping) else {column: column for column in columns}
    ax = _axes(ax, height=3.4)
    marker = "o" if len(table) < 40 else None
    for (column, _), colour in zip(names.items(), _CYCLE, strict=False):
        ax.plot(table[x], table[column], color=colour, marker=marker, markersize=4)
    if log_y:
        ax.set_yscale("log")
    ax.set(xlabel=xlabel or x, ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(names) > 1:
        ends = {name: table[column].iloc[-1] for column, name in names.items()}
        _label_ends(ax, float(table[x].iloc[-1]), ends)
    for name, position in (marks or {}).items():
        ax.axvline(position, color=GREY, linewidth=1, linestyle="--", zorder=0)
        ax.annotate(
            name, (position, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
            textcoords="offset points", ha="center", va="bottom", fontsize=9,
        )  # fmt: skip
    return ax


def _label_ends(ax: Axes, x: float, ends: Mapping[str, float]) -> None:
    """Names right of the lines, in their colours, at least a line of text apart."""
    ax.autoscale_view()
    to_points = ax.transData.transform
    height = 13 * ax.figure.dpi / 72
    floor = -np.inf
    order = sorted((name for name in ends if np.isfinite(ends[name])), key=ends.__getitem__)
    colours = dict(zip(ends, _CYCLE, strict=False))
    for name in order:
        own = to_points((x, ends[name]))[1]
        place = max(own, floor + height)
        floor = place
        ax.annotate(
            name, (x, ends[name]), xytext=(6, (place - own) * 72 / ax.figure.dpi),
            textcoords="offset points", color=colours[name], va="center", fontsize=10,
            annotation_clip=False,
        )  # fmt: skip


def plot_secant(
    steps: Any,
    values: Any,
    *,
    labels: Sequence[str],
    ax: Axes | None = None,
    ylabel: str = "change of the prediction / step",
) -> Axes:
    """How the finite difference of substitutions moves from the gradient to ISM.

    steps : (k,) from 0, the gradient along the substitution (TISM), to 1, the substitution (ISM)
    values : (k, m) quotients (f(s + step * delta) - f(s)) / step, its limit at 0
    labels : name of each of the m substitutions
    """
    steps, values = _array(steps), _array(values)
    if values.shape != (len(steps), len(labels)):
        raise ValueError(
            f"values must have shape ({len(steps)}, {len(labels)}) for {len(steps)} steps and "
            f"{len(labels)} labels, got {values.shape}"
        )
    ax = _axes(ax)
    lines = ax.plot(steps, values)
    ends = (("TISM", 0, "white"), ("ISM", -1, None))
    for name, end, face in ends:
        for line, value in zip(lines, values[end], strict=True):
            colour = line.get_color()
            ax.plot(steps[end], value, "o", color=colour, mfc=face or colour, ms=7, zorder=3)
        ax.plot([], [], "o", color="black", mfc=face or "black", ms=7, label=name)
    ax.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    _label_ends(ax, float(steps[-1]), dict(zip(labels, values[-1], strict=True)))
    ax.set(xlabel="step (0: gradient, 1: whole substitution)", ylabel=ylabel)
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return ax


def plot_points_with_intervals(
    table: pd.DataFrame,
    value: str,
    low: str,
    high: str,
    label: str,
    *,
    reference: str | None = None,
    xlabel: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A dot and its interval for each row, the first row on top.

    value, low, high, label : columns; a row named like a method has the colour of `COLOURS`
    reference : column of published values, hollow diamonds; NaN where there is none
    """
    ax = _axes(ax, height=0.42 * len(table) + 1.2)
    rows = np.arange(len(table))[::-1]
    for row, (_, entry) in zip(rows, table.iterrows(), strict=True):
        colour = COLOURS.get(entry[label], BLUE)
        ax.hlines(row, entry[low], entry[high], color=colour, linewidth=2.5, alpha=0.6)
        ax.plot(entry[value], row, "o", color=colour, markersize=8)
    if reference is not None and table[reference].notna().any():
        ax.plot(table[reference], rows, "D", color="black", mfc="white", ms=7, label="paper")
        ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right")
    ax.set_yticks(rows, [str(name) for name in table[label]])
    ax.set(xlabel=xlabel or value, ylim=(-0.6, len(table) - 0.4))
    ax.grid(axis="x", color="#dddddd", linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def panels(count: int, *, height: float = 3.3, columns: int = 2) -> list[Axes]:
    """Axes of `count` panels of equal size, row by row, in one figure."""
    rows = -(-count // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(7.5, height * rows), squeeze=False)
    for unused in grid.flat[count:]:
        figure.delaxes(unused)
    return list(grid.flat[:count])
