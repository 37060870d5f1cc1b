"""One quantity against another: curves, dots and the lines through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from tism.study.plots.style import CYCLE, GREY, WIDE, as_array, legend_outside, new_axes
from tism.study.statistics import means


def plot_curves(
    table: pd.DataFrame,
    x: str,
    columns: Mapping[str, str] | Sequence[str],
    *,
    ylabel: str,
    xlabel: str | None = None,
    marks: Mapping[str, float | Sequence[float]] | None = None,
    log_y: bool = False,
) -> Axes:
    """Lines with their names at their ends.

    columns : columns of `table`, or column to its name in the figure
    marks : name to the positions on the x axis of vertical lines, such as the best epoch
    """
    names = columns if isinstance(columns, Mapping) else {column: column for column in columns}
    ax = new_axes(height=3.4)
    marker = "o" if len(table) < 40 else None
    for (column, _), colour in zip(names.items(), CYCLE, strict=False):
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


def _label_ends(ax: Axes, x: float, ends: Mapping[str, float]) -> None:
    """Write names right of the lines, in their colours, at least a line of text apart."""
    ax.autoscale_view()
    points = 72 / ax.figure.dpi
    last = -np.inf
    order = sorted((name for name in ends if np.isfinite(ends[name])), key=ends.__getitem__)
    colours = dict(zip(ends, CYCLE, strict=False))
    for name in order:
        end = ax.transData.transform((x, ends[name]))[1]
        last = max(end, last + 13 / points)
        ax.annotate(
            name, (x, ends[name]), xytext=(6, (last - end) * points), textcoords="offset points",
            color=colours[name], va="center", fontsize=10, annotation_clip=False,
        )  # fmt: skip


def plot_secant(steps: Any, values: Any, *, labels: Sequence[str], ylabel: str) -> Axes:
    """How the finite difference of a substitution changes from the gradient to ISM.

    steps : (k,) from 0, the gradient along the substitution (TISM), to 1, the substitution (ISM)
    values : (k, m) quotients (f(s + step * delta) - f(s)) / step, its limit at 0
    labels : name of each of the m substitutions
    """
    steps, values = as_array(steps), as_array(values)
    ax = new_axes()
    lines = ax.plot(steps, values)
    for name, end, face in (("TISM", 0, "white"), ("ISM", -1, None)):
        for line, value in zip(lines, values[end], strict=True):
            colour = line.get_color()
            ax.plot(steps[end], value, "o", color=colour, mfc=face or colour, ms=7, zorder=3)
        ax.plot([], [], "o", color="black", mfc=face or "black", ms=7, label=name)
    ax.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    _label_ends(ax, float(steps[-1]), dict(zip(labels, values[-1], strict=True)))
    ax.set(xlabel="step (0: gradient, 1: whole substitution)", ylabel=ylabel)
    legend_outside([ax], "upper right", 2)
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
    """A correlation of networks against a setting: dots, lines through the means with t intervals.

    y : column of correlations, beyond whose range no interval is drawn
    series : column whose values each have a line; lines stand side by side, some points apart
    scale : of the x axis; "symlog" shows zero too
    paper : x to published y, hollow diamonds
    marks : name to x of vertical lines
    """
    ax = ax or new_axes(height=3.4)
    points = 4 * (np.arange(table[series].nunique()) - (table[series].nunique() - 1) / 2)
    groups = table.groupby(series, sort=False)
    for (name, rows), colour, aside in zip(groups, CYCLE, points, strict=False):
        mean = means(rows, y, [x]).sort_values(x)
        reach = np.abs(mean[["low", "high"]].clip(-1, 1).sub(mean["value"], axis=0)).T
        dots = ax.plot(rows[x], rows[y], ".", color=colour, alpha=0.45, markersize=6)
        bars = ax.errorbar(
            mean[x], mean["value"], reach, color=colour, label=name, capsize=2, lw=1.6
        )
        move = ScaledTranslation(aside / 72, 0, ax.figure.dpi_scale_trans)
        for artist in (*dots, *bars.get_children()):
            artist.set_transform(ax.transData + move)
    if paper:
        ax.plot([*paper], [*paper.values()], "D", color="black", mfc="white", ms=7, label="paper")
    ax.set_xscale(scale, **({"linthresh": 1} if scale == "symlog" else {}))
    ticks = sorted(table[x].unique())
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks], rotation=60 if len(ticks) > 8 else 0)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel=xlabel, ylabel=ylabel)
    for row, (name, position) in enumerate((marks or {}).items()):
        _mark(ax, name, np.atleast_1d(position), row)
    return ax


def _mark(ax: Axes, name: str, positions: np.ndarray, row: int) -> None:
    """Draw vertical lines; the name stands above the first, in the given row of names.

    Of several lines the first is number 1, and the others have their numbers above them.
    """
    for number, position in enumerate(positions, 1):
        text = str(number) if number > 1 else f"{name} 1" if len(positions) > 1 else name
        ax.axvline(position, color=GREY, linewidth=1, linestyle=(0, (4, 2 + row)), zorder=0)
        ax.annotate(
            text, (position, 1), xycoords=("data", "axes fraction"), xytext=(0, 2 + 13 * row),
            textcoords="offset points", ha="right" if text != name and number == 1 else "center",
            va="bottom", fontsize=9,
        )  # fmt: skip


def plot_depths(table: pd.DataFrame, dataset: Mapping[str, str]) -> list[Axes]:
    """r with ISM of the expansion behind each part of a network, shaded by what the part adds.

    table : columns network, layer, mean_r, n_networks, from the input to the output
    dataset : network to data set; each data set has a panel, which leaves its name out of labels
    """
    r, rise = _by_part(table)
    n = table.groupby("network")["n_networks"].first()
    sets = r.index.map(dataset)
    names = [name for name in dict.fromkeys(dataset.values()) if name in set(sets)]
    sizes = [(sets == name).sum() for name in names]
    figure, axes = plt.subplots(
        len(names), figsize=(WIDE, 0.36 * sum(sizes) + 1.2 * len(names)), squeeze=False,
        gridspec_kw={"height_ratios": sizes},
    )  # fmt: skip
    for name, ax in zip(names, axes[:, 0], strict=True):
        shown = r[sets == name]
        sns.heatmap(
            rise.loc[shown.index], vmin=0, vmax=rise.max(axis=None), annot=shown, fmt=".2f",
            cmap="Blues", cbar=False, linewidths=1, ax=ax,
        )  # fmt: skip
        labels = [f"{str(kind).removeprefix(f'{name}, ')} ({n[kind]})" for kind in shown.index]
        ax.set_yticklabels(labels, rotation=0)
        ax.set_xticklabels(r.columns, rotation=30, ha="right")
        ax.set_title(name, loc="left")
        ax.set(xlabel="", ylabel="")
        ax.tick_params(length=0)
    shades = ScalarMappable(Normalize(0, rise.max(axis=None)), "Blues")
    figure.colorbar(shades, ax=axes, shrink=0.5, ticks=MaxNLocator(5), label="added by the part")
    return list(axes[:, 0])


def _by_part(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(networks, parts) r behind each part, lowest first, and its rise over the part before."""
    parts = table["layer"].map(_part)
    order = sorted(pd.unique(parts), key=lambda part: part == "dense layers")  # these last
    behind = table.assign(part=parts).groupby(["network", "part"], sort=False)["mean_r"].last()
    r = behind.unstack().reindex(columns=order)
    rise = r.ffill(axis=1).diff(axis=1).mask(r.isna()).fillna({order[0]: 0.0})
    return r.sort_values(order[0]), rise


def _part(layer: str) -> str:
    """The part of an `AITAC` that a layer belongs to."""
    name, *inside = layer.split(".")
    if name == "blocks":
        return f"block {int(inside[0]) + 1}"
    parts = {"conv": "strand maximum", "pool": "pooling"}
    return parts.get(name, name if name in ("input", "activation") else "dense layers")


def plot_scatter_by(
    table: pd.DataFrame, x: str, y: str, by: str, *, xlabel: str, ylabel: str, ax: Axes
) -> Axes:
    """Two columns against each other, with a colour and a marker for each value of a third.

    by : a column, its first value on top; the looks of a categorical one are the same in all panels
    """
    looks = zip(CYCLE, "osD^vP*X", strict=True)
    groups = table.groupby(by, sort=table[by].dtype == "category", observed=False)
    for place, ((name, rows), (colour, marker)) in enumerate(zip(groups, cycle(looks))):
        look = {"color": colour, "ms": 5, "alpha": 0.7, "lw": 0, "zorder": 3 - place / 100}
        ax.plot(rows[x], rows[y], marker, label=str(name), **look)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax


def plot_lines(ax: Axes, lines: pd.DataFrame) -> None:
    """Draw straight lines through the panel, from columns intercept and slope."""
    for line in lines.itertuples():
        ax.axline((0, line.intercept), slope=line.slope, color="black", lw=1, zorder=0)
