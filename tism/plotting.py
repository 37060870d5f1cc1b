"""The figures and tables of the book. Only this module imports matplotlib, seaborn or logomaker.

Every function draws on the axes it is given, or on a figure of its own, and returns them. Widths
are chosen for a phone: figures are at most 7 inches wide and grow downwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import logomaker
import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)
from pandas.io.formats.style import Styler

from tism.replicates import means
from tism.sequence import ALPHABET

if TYPE_CHECKING:
    from IPython.display import HTML

# Okabe and Ito's colours for colour-blind readers (https://jfly.uni-koeln.de/color/).
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#7F7F7F"
COLOURS = {
    "ISM": BLUE,
    "TISM": VERMILLION,
    "gradient": ORANGE,
    "gradient x input": PURPLE,
    "corrected gradient": GREEN,
    "DeepLIFT/SHAP": SKY,
    "layer-wise TISM": "#882255",
    "budgeted ISM": "#000000",
}
METHOD_STYLES = {
    "ISM": (BLUE, "-"),
    "windowed ISM": (SKY, "-"),
    "TISM, one task": (VERMILLION, "-"),
    "TISM, all tasks": (VERMILLION, "--"),
    "tangermeme, plain": (GREY, "-"),
    "tangermeme, fast": (GREY, "--"),
    "captum, one task": (ORANGE, ":"),
    "Yuzu": (GREEN, "-"),
}
ESTIMATOR_STYLES = {
    "TISM": (VERMILLION, "o"),
    "budgeted": (BLUE, "s"),
    "budgeted, black box": (SKY, "D"),
    "midpoints": (GREY, "X"),
    "ISM": ("#000000", "*"),
}
# Near the colours above, but of four lightnesses that stay apart in grey: T, C, A, G.
BASE_COLOURS = {"A": "#12A57A", "C": "#0060A8", "G": ORANGE, "T": "#882255"}
_CYCLE = [BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY, "#000000"]
_WIDTH, _WIDE = 5.6, 7.0
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
    _set_up_notebook()


def _set_up_notebook() -> None:
    """In a notebook: PNG without version or date, compressed; NumPy numbers print as numbers."""
    try:
        from IPython import get_ipython
        from IPython.core.pylabtools import select_figure_formats
    except ImportError:
        return
    shell = get_ipython()
    if shell is None:
        return
    from matplotlib_inline.config import InlineBackend

    np.set_printoptions(legacy="1.25")  # glue cannot format the text "np.float64(0.5)"
    inline = InlineBackend.instance(parent=shell)
    inline.print_figure_kwargs = {
        "bbox_inches": "tight",
        "metadata": {"Software": None},
        "pil_kwargs": {"optimize": True},
    }
    select_figure_formats(shell, {"png"}, **inline.print_figure_kwargs)


def show_table(table: pd.DataFrame, formats: Mapping[str, str] | None = None) -> HTML:
    """A table as the book shows it: no row numbers, aligned figures, the same HTML at every run.

    formats : column to format, such as "{:.1%}"; other numbers get separators and two decimals
    """
    from IPython.display import HTML

    name = hashlib.sha256(table.to_csv().encode()).hexdigest()[:8]
    style = Styler(table, uuid=name, cell_ids=False).hide(axis="index")
    style = style.format(formats, thousands=",", precision=2, na_rep="", escape="html")
    style = style.format_index(escape="html", axis="columns")
    cells = [{"selector": "td, th", "props": "padding: 0.2em 0.6em; text-align: left;"}]
    numbers = [{"selector": cell, "props": "text-align: right;"} for cell in ("td", "th")]
    columns = dict.fromkeys(table.select_dtypes("number"), numbers)
    return HTML(style.set_table_styles(cells).set_table_styles(columns, overwrite=False).to_html())


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
        len(maps), 1, figsize=(_WIDE, 1.45 * len(maps) + 0.4), sharex=True, squeeze=False
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
        2 * len(labels), 1, figsize=(_WIDE, 1.75 * len(labels) + 0.7), sharex=True, squeeze=False
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
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2, borderaxespad=0)
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
    ax = _axes(ax, height=4.8)
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
    bar.locator, bar.formatter = LogLocator(subs=(1, 2, 5)), StrMethodFormatter("{x:g}")
    bar.minorlocator = NullLocator()
    bar.update_ticks()


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
    marks: Mapping[str, float | Sequence[float]] | None = None,
    log_y: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Lines with their names at their ends.

    columns : columns of `table`, or column to the name to write
    marks : name to position or positions on the x axis: vertical lines such as the best epoch
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
    for row, (name, positions) in enumerate((marks or {}).items()):
        _mark(ax, name, np.atleast_1d(positions), row)
    return ax


def _mark(ax: Axes, name: str, positions: np.ndarray, row: int) -> None:
    """Vertical lines, the first with a name above the axes, in one of several rows of names."""
    for position in positions:
        ax.axvline(position, color=GREY, linewidth=1, linestyle=(0, (4, 2 + row)), zorder=0)
    if positions.size:
        ax.annotate(
            name, (positions[0], 1), xycoords=("data", "axes fraction"), xytext=(0, 2 + 13 * row),
            textcoords="offset points", ha="center", va="bottom", fontsize=9,
        )  # fmt: skip


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


def plot_replicates(
    table: pd.DataFrame,
    x: str,
    y: str,
    series: str,
    *,
    xlabel: str,
    ylabel: str,
    scale: str = "log",
    paper: Mapping[float, float] | None = None,
    marks: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Networks against a setting: a dot each, a line through the means, their t intervals.

    series : column that separates the lines
    scale : of the x axis; "symlog" shows zero too
    paper : x to published y, hollow diamonds
    marks : name to x of vertical lines
    """
    ax = _axes(ax, height=3.4)
    for (name, rows), colour in zip(table.groupby(series, sort=False), _CYCLE, strict=False):
        mean = means(rows, y, [x]).sort_values(x)
        reach = np.abs(mean[["low", "high"]].sub(mean["value"], axis=0)).fillna(0).T
        ax.plot(rows[x], rows[y], ".", color=colour, alpha=0.45, markersize=6)
        ax.errorbar(mean[x], mean["value"], reach, color=colour, label=name, capsize=2, lw=1.6)
    if paper:
        ax.plot([*paper], [*paper.values()], "D", color="black", mfc="white", ms=7, label="paper")
    ax.set_xscale(scale, **({"linthresh": 1} if scale == "symlog" else {}))
    ticks = sorted(table[x].unique())
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel=xlabel, ylabel=ylabel)
    for row, (name, position) in enumerate((marks or {}).items()):
        _mark(ax, name, np.atleast_1d(position), row)
    return ax


def plot_kinds(
    networks: pd.DataFrame,
    summary: pd.DataFrame,
    measure: str = "value",
    *,
    xlabel: str,
    ax: Axes | None = None,
) -> Axes:
    """Kinds of network, the first of `summary` on top: small dots the networks, a dot the mean.

    networks : columns kind and `measure`
    summary : columns kind, value, low, high and, for hollow diamonds, paper
    """
    ax = plot_points_with_intervals(
        summary, "value", "low", "high", "kind", reference="paper", xlabel=xlabel, ax=ax
    )
    rows = dict(zip(summary["kind"], np.arange(len(summary))[::-1], strict=True))
    known = networks[networks["kind"].isin(rows)]
    ax.plot(known[measure], known["kind"].map(rows) - 0.22, ".", color=GREY, markersize=5)
    return ax


def plot_scatter_by(
    table: pd.DataFrame,
    x: str,
    y: str,
    by: str,
    *,
    xlabel: str,
    ylabel: str,
    ax: Axes | None = None,
) -> Axes:
    """Two columns against each other, a colour and a marker for each value of a third."""
    ax = _axes(ax, height=3.6)
    looks = zip(_CYCLE, "osD^vP*X", strict=True)
    for (name, rows), (colour, marker) in zip(table.groupby(by, sort=False), cycle(looks)):
        ax.plot(
            rows[x], rows[y], marker, color=colour, markersize=5, alpha=0.7, lw=0, label=str(name)
        )
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax


def plot_verdicts(counts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Bars of how many claims have which verdict (`tism.scorecard.count_verdicts`)."""
    ax = _axes(ax, height=0.5 * len(counts) + 1.4)
    left, rows = np.zeros(len(counts)), np.arange(len(counts))[::-1]
    looks = {
        "holds": (GREEN, ""),
        "holds not": (VERMILLION, "//"),
        "undecided": (ORANGE, ".."),
        "not measured": ("#dddddd", ""),
    }
    for verdict, (colour, hatch) in looks.items():
        width = counts[verdict].to_numpy()
        ax.barh(rows, width, left=left, color=colour, hatch=hatch, ec="white", lw=0, label=verdict)
        for row, start, n in zip(rows, left, width, strict=True):
            if n:
                ax.text(start + n / 2, row, str(n), ha="center", va="center", fontsize=9)
        left += width
    ax.set_yticks(rows, counts["dataset"])
    ax.set(xlabel="claims", xlim=(0, left.max()))
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return ax


def long_form(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """One row a value of several columns: `measure`, its name, and `value` beside the rest."""
    rest = [name for name in table if name not in columns]
    long = table.melt(rest, list(columns), "measure", "value")
    return long.assign(measure=long["measure"].map(columns))


def panels(count: int, *, height: float = 3.3, columns: int = 2) -> list[Axes]:
    """Axes of `count` panels of equal size, row by row, in one figure."""
    rows = -(-count // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(_WIDE, height * rows), squeeze=False)
    for unused in grid.flat[count:]:
        figure.delaxes(unused)
    return list(grid.flat[:count])


def plot_histogram(
    values: Any,
    *,
    xlabel: str,
    label: str,
    step: float | None = None,
    log_y: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Histogram of anything, with its median and how many values there are.

    label : what is counted, such as "regions"
    step : width of a bar that is centred on a multiple of it, for values on a grid
    """
    values = _array(values).ravel()
    ax = _axes(ax, height=3.2)
    low, high = values.min(), values.max()
    bins = 50 if step is None else np.arange(round(low / step), round(high / step) + 2) - 0.5
    ax.hist(values, bins=bins if step is None else bins * step, color=SKY, lw=0)
    median = float(np.median(values))
    ax.axvline(median, color="black", linestyle="--", linewidth=1.2)
    ax.set_title(f"n = {values.size:,}, median {median:.3g}", fontsize=10, fontweight="normal")
    ax.set(xlabel=xlabel, ylabel=label, yscale="log" if log_y else "linear")
    return ax


def plot_chromosomes(regions: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Regions of each chromosome, coloured by split; columns chrom and split."""
    counts = regions.groupby(["chrom", "split"], sort=False).size().unstack(fill_value=0)
    counts = counts.loc[regions["chrom"].unique()]
    ax = _axes(ax, height=0.24 * len(counts) + 1.0)
    rows, left = np.arange(len(counts))[::-1], np.zeros(len(counts))
    colours = {"train": SKY, "validation": ORANGE, "test": "#882255"}
    for split in [split for split in colours if split in counts]:
        total = counts[split].sum()
        ax.barh(rows, counts[split], left=left, color=colours[split], label=f"{split}, {total:,}")
        left += counts[split].to_numpy()
    ax.set_yticks(rows, counts.index)
    ax.set(xlabel="regions", ylim=(-0.6, len(counts) - 0.4))
    ax.tick_params(axis="y", length=0)
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return ax


def plot_base_frequencies(frequencies: Any, ax: Axes | None = None) -> Axes:
    """Share of each base along the regions, positions counted from their centre.

    frequencies : (4, length)
    """
    frequencies = _score_map(frequencies, "frequencies")
    ax = _axes(ax, height=3.4)
    positions = np.arange(frequencies.shape[1]) - frequencies.shape[1] // 2
    styles = ("-", "--", "-.", ":")
    for base, share, style in zip(ALPHABET, frequencies, styles, strict=True):
        ax.plot(positions, 100 * share, color=BASE_COLOURS[base], label=base, ls=style, lw=1.6)
    ax.set(xlabel="position from the centre of the region (bp)", ylabel="share of the regions (%)")
    ax.margins(x=0)
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=4)
    return ax


def plot_task_clusters(correlation: pd.DataFrame, clusters: pd.DataFrame) -> Axes:
    """Correlations of tasks as a heat map, its clusters framed and lettered as in the table.

    correlation : (tasks, tasks), ordered by cluster
    clusters : size of each cluster, in that order; its index names them. Of more than 40 tasks
        only the clusters of at least three are named, of fewer all clusters and tasks
    """
    few = len(correlation) <= 40
    ax = _axes(None, height=6.0, width=_WIDE)
    image = ax.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none")
    ax.figure.colorbar(image, ax=ax, label="Pearson r over training regions", shrink=0.6)
    ends = np.cumsum(clusters["size"].to_numpy())
    middles = ends - clusters["size"].to_numpy() / 2 - 0.5
    for end, size in zip(ends, clusters["size"], strict=True):
        corner = (end - size - 0.5, end - size - 0.5)
        ax.add_patch(Rectangle(corner, size, size, fill=False, edgecolor="black", lw=1.3))
    named = (clusters["size"] >= (1 if few else 3)).to_numpy()
    letters = clusters.index[named]
    ax.set_xticks(middles[named], letters, fontweight="bold")
    ax.xaxis.tick_top()
    ax.tick_params(axis="both", length=0)
    if few:
        ax.set_yticks(np.arange(len(correlation)), correlation.index, fontsize=9)
    else:
        ax.set_yticks(middles[named], letters, fontweight="bold")
    ax.spines[:].set_visible(False)
    return ax


def plot_ranked(
    table: pd.DataFrame,
    value: str,
    label: str,
    group: str,
    *,
    xlabel: str,
    ax: Axes | None = None,
) -> Axes:
    """One dot a row, the highest on top, coloured and shaped by group, with a line at the median.

    value, label, group : columns; rows without a value are left out and counted
    """
    kept = table[table[value].notna()].sort_values(value)
    ax = _axes(ax, height=0.17 * len(kept) + 1.6)
    rows = np.arange(len(kept))
    markers = cycle("osD^v<>P")
    for (name, chosen), marker, colour in zip(
        kept.assign(row=rows).groupby(group, sort=False), markers, cycle(_CYCLE)
    ):
        ax.plot(chosen[value], chosen["row"], marker, color=colour, ms=5, label=name)
    ax.hlines(rows, min(0, kept[value].min()), kept[value], color="#cccccc", lw=0.8, zorder=0)
    median = kept[value].median()
    ax.axvline(median, color="black", ls="--", lw=1, label=f"median {median:.2f}")
    ax.set_yticks(rows, kept[label], fontsize=9)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labeltop=True)
    missing = len(table) - len(kept)
    without = f", {missing} more without a value" if missing else ""
    ax.set(xlabel=f"{xlabel} (n = {len(kept)}{without})", ylim=(-1, len(kept)))
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return ax


def plot_motifs(motifs: Mapping[str, Any], *, columns: int = 2) -> Figure:
    """Sequence logos, a few in a row.

    motifs : title to (4, width) letter heights in bits
    """
    widest = max(_array(heights).shape[1] for heights in motifs.values())
    axes = panels(len(motifs), height=1.0, columns=columns)
    for ax, (title, heights) in zip(axes, motifs.items(), strict=True):
        plot_logo(heights, ax, limits=(0, 2), ylabel="bits")
        ax.set(xlim=(-0.5, widest - 0.5), xlabel="", xticks=[], yticks=[0, 2])
        ax.set_title(title, fontsize=10)
    return axes[0].figure


def plot_lineage_effects(lineages: Mapping[str, str], effects: pd.DataFrame) -> Figure:
    """A lineage tree whose leaves are the rows of a heat map of motif effects.

    lineages : task to its path from the root, such as "lymphoid/T/CD4", in the order of the rows
    effects : (tasks, motifs), logits
    """
    height = 0.25 * len(effects) + 1.8
    figure, (tree, heat) = plt.subplots(
        1, 2, figsize=(_WIDE, height), width_ratios=(1.2, 1.6), sharey=True
    )
    paths = {task: (*path.split("/"), task) for task, path in lineages.items()}
    _draw_tree(tree, list(paths.values()))
    most = np.abs(effects.to_numpy()).max()
    image = heat.imshow(effects, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    heat.set_xticks(np.arange(effects.shape[1]), effects.columns, rotation=90, fontsize=9)
    heat.set_yticks(np.arange(len(effects)), effects.index, fontsize=9)
    heat.tick_params(length=0, labelleft=True)
    heat.spines[:].set_visible(False)
    figure.colorbar(image, ax=heat, label="effect (logits)", location="top", shrink=0.7)
    return figure


def _draw_tree(ax: Axes, paths: Sequence[tuple[str, ...]]) -> None:
    """Right-angled branches, the leaf of path i at height i; branches carry their names."""
    depth = max(len(path) for path in paths)
    heights: dict[tuple[str, ...], list[int]] = {}
    for row, path in enumerate(paths):
        for level in range(len(path)):
            heights.setdefault(path[:level], []).append(row)
    middle = {node: (min(rows) + max(rows)) / 2 for node, rows in heights.items()}
    middle |= {path: row for row, path in enumerate(paths)}
    for node, y in middle.items():
        if not node:
            continue
        parent, end = len(node) - 1, depth - 0.5 if node in paths else len(node)
        ax.plot([parent, parent, end], [middle[node[:-1]], y, y], color="#555555", lw=1)
        if node not in paths:
            label = ax.text(parent + 0.06, y - 0.12, node[-1], fontsize=9, va="bottom")
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0})
    ax.set(xlim=(-0.1, depth - 0.5), ylim=(len(paths) - 0.5, -0.5))
    ax.set_axis_off()


def plot_sites(
    sites: pd.DataFrame, pairs: pd.DataFrame, effects: pd.DataFrame, *, length: int
) -> Figure:
    """What a simulation knows of one region: its sites and pairs, and what each site does.

    sites : motif, start, end, strand, planted; one row a site
    pairs : first, second (row numbers in `sites`), kind
    effects : (sites, tasks), log2 units that the site adds to the target
    """
    height = 0.34 * len(sites) + 1.0
    figure, (track, heat) = plt.subplots(
        2, 1, figsize=(_WIDE, 2 * height + 1.2), height_ratios=(1, 1.3)
    )
    _draw_sites(track, sites, pairs, length)
    most = np.abs(effects.to_numpy()).max() or 1.0
    image = heat.imshow(effects, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    heat.set_xticks(np.arange(effects.shape[1]), effects.columns, rotation=90, fontsize=9)
    for ax in (track, heat):
        ax.set_yticks(np.arange(len(sites)), sites["motif"])
        ax.tick_params(axis="y", length=0)
    heat.tick_params(length=0)
    heat.spines[:].set_visible(False)
    figure.colorbar(image, ax=heat, label="effect (log2)", shrink=0.8)
    return figure


def _draw_sites(ax: Axes, sites: pd.DataFrame, pairs: pd.DataFrame, length: int) -> None:
    for row, site in enumerate(sites.itertuples()):
        begin, end = (site.start, site.end) if site.strand == "+" else (site.end, site.start)
        ax.axhline(row, color="#dddddd", lw=0.8, zorder=0)
        ax.annotate(
            "", (end, row), (begin, row),
            arrowprops={
                "arrowstyle": "simple,head_length=0.6,head_width=1.1,tail_width=0.6", "lw": 1.2,
                "facecolor": BLUE if site.planted else "white", "edgecolor": BLUE,
                "shrinkA": 0, "shrinkB": 0,
            },
        )  # fmt: skip
    middle = ((sites["start"] + sites["end"]) / 2).to_numpy()
    styles = {"cooperative": (GREEN, "-"), "competing": (VERMILLION, "--")}
    for pair in pairs.itertuples():
        colour, style = styles[pair.kind]
        ends = [pair.first, pair.second]
        ax.plot(middle[ends], ends, color=colour, ls=style, lw=2, zorder=4, label=pair.kind)
    ax.set(xlim=(0, length), ylim=(len(sites) - 0.5, -0.5), xlabel="position in the region (bp)")
    handles = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    handles["planted"] = Patch(facecolor=BLUE, edgecolor=BLUE)
    handles["arisen by chance"] = Patch(facecolor="white", edgecolor=BLUE)
    ax.figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=4)


def plot_times(
    rows: pd.DataFrame, x: str, *, xlabel: str, title: str = "", ax: Axes | None = None
) -> Axes:
    """Seconds of each method on two logarithmic axes; hollow where they are extrapolated.

    rows : of one network, with columns method, seconds, low, high, share and `x`
    """
    ax = _axes(ax)
    for method, row in rows.groupby("method", sort=False):
        colour, style = METHOD_STYLES.get(method, (GREY, "-"))
        ax.plot(row[x], row["seconds"], style, color=colour, linewidth=1.5, label=method)
        ax.vlines(row[x], row["low"], row["high"], color=colour, linewidth=3, alpha=0.5)
        for measured, face in ((row["share"] >= 0.999, colour), (row["share"] < 0.999, "white")):
            some = row[measured]
            ax.plot(some[x], some["seconds"], "o", color=colour, mfc=face, markersize=5)
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="seconds", title=title)
    ticks = sorted(rows[x].unique())
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    return ax


def legend_below(axes: Sequence[Axes]) -> None:
    """One legend for all panels of a figure, below them."""
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    axes[0].figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=3)


def plot_batch_sizes(rows: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Time at each batch size that was tried, relative to the method's best.

    rows : of one job, with columns method, batch_size and seconds
    """
    ax = _axes(ax)
    for method, row in rows.dropna(subset="batch_size").groupby("method", sort=False):
        colour, style = METHOD_STYLES.get(method, (GREY, "-"))
        relative = row["seconds"] / rows.loc[rows["method"] == method, "seconds"].min()
        ax.plot(row["batch_size"], relative, style, marker="o", ms=4, color=colour, label=method)
    ax.set(xscale="log", yscale="log", xlabel="batch size", ylabel="time / best time", title=title)
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.set_yticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    ax.minorticks_off()
    return ax


def plot_counted(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Forward-equivalents measured against counted, with the diagonal.

    table : columns method, counted, measured, low and high
    """
    ax = _axes(ax)
    both = table[["counted", "measured"]]
    limits = both.min().min() / 1.5, both.max().max() * 1.5
    ax.plot(limits, limits, color=GREY, linewidth=1)
    for method, row in table.groupby("method", sort=False):
        colour, line = METHOD_STYLES[method]
        face = colour if line == "-" else "white"
        ax.vlines(row["counted"], row["low"], row["high"], color=colour, linewidth=3, alpha=0.5)
        ax.plot(row["counted"], row["measured"], "o", color=colour, mfc=face, ms=6, label=method)
    ax.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    ax.set(xlabel="counted forward-equivalents a sequence", ylabel="measured")
    ax.legend(fontsize=9)
    return ax


def plot_cost_map(
    lengths: Any, tasks: Any, ratio: Any, *, title: str = "", ax: Axes | None = None
) -> Axes:
    """How many times TISM is cheaper than exact windowed ISM, with contours.

    lengths, tasks : the axes, both logarithmic
    ratio : (tasks, lengths); below 1 exact ISM is the cheaper one
    """
    ax = _axes(ax)
    shown = np.log10(_array(ratio))
    most = np.abs(shown).max()
    mesh = ax.pcolormesh(
        lengths, tasks, shown, cmap="RdBu_r", vmin=-most, vmax=most, shading="gouraud",
        rasterized=True,
    )  # fmt: skip
    levels = {0.1: "1/10", 1: "equal", 10: "10 times", 50: "50 times"}
    ax.contour(lengths, tasks, _array(ratio), list(levels), colors="black", linewidths=1)
    column = -np.log(_array(ratio)[:, -1])  # rises with the tasks
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
    for level, text in levels.items():
        if column[0] < -np.log(level) < column[-1]:
            place = np.exp(np.interp(-np.log(level), column, np.log(_array(tasks))))
            ax.annotate(
                text, (lengths[-1], place), xytext=(-6, 9), textcoords="offset points",
                ha="right", va="center", fontsize=9, bbox=box,
            )  # fmt: skip
    bar = ax.figure.colorbar(mesh, ax=ax, shrink=0.9, label="windowed ISM / TISM")
    bar.locator = MaxNLocator(integer=True)
    bar.formatter = FuncFormatter(lambda power, _: f"{10.0**power:g}")
    bar.update_ticks()
    ax.set(xscale="log", yscale="log", xlabel="length, bp", ylabel="tasks", title=title)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return ax


def plot_speed_ups(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How many times TISM is faster than ISM, by length, with quartiles.

    table : columns comparison ("plain ISM / TISM, one task"), length, ratio, low and high
    """
    ax = _axes(ax)
    for name, row in table.groupby("comparison", sort=False):
        colour = SKY if name.startswith("windowed") else BLUE
        style = "-" if name.endswith("one task") else "--"
        ax.plot(row["length"], row["ratio"], style, marker="o", ms=5, color=colour, label=name)
        ax.fill_between(row["length"], row["low"], row["high"], color=colour, alpha=0.25, lw=0)
    ax.axhline(1, color=GREY, linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="length, bp", ylabel="times faster")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    ticks = sorted(table["length"].unique())
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return ax


def plot_accuracy_cost(table: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Mean r with ISM against measured cost, a line an estimator, 95 % intervals.

    table : columns estimator, cost_measured (forward passes a sequence), mean_r, low, high
    """
    ax = _axes(ax, height=3.6)
    others = cycle(zip((GREEN, ORANGE, PURPLE), "^vP", strict=True))
    for name, rows in table.groupby("estimator", sort=False):
        colour, marker = ESTIMATOR_STYLES.get(name) or next(others)
        rows = rows.sort_values("cost_measured")
        reach = np.abs(rows[["low", "high"]].sub(rows["mean_r"], axis=0)).T
        ax.errorbar(
            rows["cost_measured"], rows["mean_r"], reach, color=colour, marker=marker,
            markersize=5, capsize=2, lw=1.4, label=name,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="cost (forward passes a sequence)", ylabel="mean r with ISM", title=title)
    ax.grid(color="#dddddd", linewidth=0.6)
    return ax


def plot_depths(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """r with ISM by the layer of expansion, from the input to the output, a line a network.

    table : columns network, layer, mean_r; layers that one network lacks are passed over
    """
    layers: list[str] = []
    for _, rows in table.groupby("network", sort=False):
        place = 0
        for layer in rows["layer"]:
            if layer not in layers:
                layers.insert(place, layer)
            place = layers.index(layer) + 1
    ax = _axes(ax, height=4.6, width=_WIDE)
    looks = zip(_CYCLE, "osD^vP*X", strict=True)
    for (name, rows), (colour, marker) in zip(table.groupby("network", sort=False), cycle(looks)):
        place = [layers.index(layer) for layer in rows["layer"]]
        ax.plot(place, rows["mean_r"], color=colour, marker=marker, markersize=5, label=name)
    ax.set_xticks(range(len(layers)), layers, rotation=45, ha="right")
    ax.set(xlabel="layer of expansion", ylabel="mean r with ISM")
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return ax


def plot_interactions(
    interactions: Any, *, title: str = "", start: int = 0, ax: Axes | None = None
) -> Axes:
    """Epistasis of all pairs of positions as a heat map, red where more than the sum of the two.

    interactions : (length, length); start : position of the first
    """
    values = _array(interactions)
    ax = _axes(ax, height=4.4, width=5.2)
    limit = np.abs(values).max() or 1.0
    end = start + len(values)
    image = ax.imshow(
        values, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower", interpolation="nearest",
        extent=(start - 0.5, end - 0.5, start - 0.5, end - 0.5),
    )  # fmt: skip
    ax.figure.colorbar(image, ax=ax, shrink=0.8, label="interaction")
    ax.set(xlabel="position", ylabel="position")
    ax.set_title(title, fontsize=10)
    return ax
