"""Time and cost of the methods."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes

from tism.study.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    as_array,
    label_ticks,
    legend_outside,
    new_axes,
)

METHOD_STYLES = {
    "ISM": (BLUE, "-"),
    "windowed ISM": (SKY, "-"),
    "TISM, one task": (VERMILLION, "-"),
    "TISM, all tasks": (VERMILLION, "--"),
    "tangermeme, plain": (GREY, "--"),
    "tangermeme, fast": (GREY, ":"),
    "captum, one task": (ORANGE, ":"),
    "Yuzu": (GREEN, "-"),
}
_MARKERS = {"ISM": ("o", 8), "TISM, one task": ("o", 8), "tangermeme, plain": ("s", 4)}
_MARKERS |= {"tangermeme, fast": ("D", 4), "captum, one task": ("s", 4)}  # lie on the others
ESTIMATOR_STYLES = {
    "TISM": (VERMILLION, "o"),
    "budgeted": (BLUE, "s"),
    "budgeted, black box": (SKY, "D"),
    "midpoints": (GREY, "X"),
    "ISM": ("#000000", "*"),
}


def plot_times(rows: pd.DataFrame, x: str, *, xlabel: str, title: str, ax: Axes) -> Axes:
    """Seconds of each method on two logarithmic axes; hollow marks are extrapolated.

    rows : of one network, with columns method, seconds, low, high, share and `x`
    """
    for method, row in rows.groupby("method", sort=False):
        colour, style = METHOD_STYLES.get(method, (GREY, "-"))
        marker, size = _MARKERS.get(method, ("o", 5))
        ax.plot(row[x], row["seconds"], style, color=colour, linewidth=1.5)
        ax.vlines(row[x], row["low"], row["high"], color=colour, linewidth=3, alpha=0.5)
        measured = row["share"] >= 0.999
        for dots, face in ((row[measured], colour), (row[~measured], "white")):
            ax.plot(dots[x], dots["seconds"], marker, color=colour, mfc=face, markersize=size)
        ax.plot([], [], style, marker=marker, color=colour, markersize=size, label=method)
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="seconds", title=title)
    label_ticks(ax, rows[x])
    return ax


def plot_batch_sizes(rows: pd.DataFrame, *, title: str, ax: Axes) -> Axes:
    """Time at each batch size that was tried, relative to the method's best.

    rows : of one job, with columns method, batch_size and seconds
    """
    for method, row in rows.dropna(subset="batch_size").groupby("method", sort=False):
        colour, style = METHOD_STYLES.get(method, (GREY, "-"))
        relative = row["seconds"] / rows.loc[rows["method"] == method, "seconds"].min()
        marker, _ = _MARKERS.get(method, ("o", 5))
        ax.plot(row["batch_size"], relative, style, marker=marker, ms=5, color=colour, label=method)
    ax.set(xscale="log", yscale="log", xlabel="batch size", ylabel="time / best time", title=title)
    ax.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    ax.set_yticks([1, 1.5, 2, 3, 4], ["1", "1.5", "2", "3", "4"])
    ax.minorticks_off()
    return ax


def plot_counted(table: pd.DataFrame) -> Axes:
    """Measured against counted forward-equivalents, with the diagonal.

    table : columns method, counted, measured, low and high
    """
    ax = new_axes()
    both = table[["counted", "measured"]]
    limits = both.min().min() / 1.5, both.max().max() * 1.5
    ax.plot(limits, limits, color=GREY, linewidth=1)
    for method, row in table.groupby("method", sort=False):
        colour, line = METHOD_STYLES[method]
        face = colour if line == "-" else "white"
        ax.vlines(row["counted"], row["low"], row["high"], color=colour, linewidth=3, alpha=0.5)
        ax.plot(row["counted"], row["measured"], "o", color=colour, mfc=face, ms=6, label=method)
    ax.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    ax.set(xlabel="counted cost (predictions per sequence)", ylabel="measured")
    ax.legend(fontsize=9)
    return ax


def plot_cost_map(lengths: Any, tasks: Any, ratio: Any) -> Axes:
    """How many times TISM is cheaper than exact windowed ISM, with contours.

    lengths, tasks : the axes, both logarithmic
    ratio : (tasks, lengths); below 1 exact ISM is the cheaper one
    """
    ax = new_axes()
    ratio = as_array(ratio)
    shown = np.log10(ratio)
    most = np.abs(shown).max()
    mesh = ax.pcolormesh(
        lengths, tasks, shown, cmap="RdBu_r", vmin=-most, vmax=most, shading="gouraud",
        rasterized=True,
    )  # fmt: skip
    levels = {0.1: "1/10", 1: "equal", 10: "10 times", 50: "50 times"}
    ax.contour(lengths, tasks, ratio, list(levels), colors="black", linewidths=1)
    column = -np.log(ratio[:, -1])  # rises with the tasks
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
    for level, text in levels.items():
        if column[0] < -np.log(level) < column[-1]:
            place = np.exp(np.interp(-np.log(level), column, np.log(as_array(tasks))))
            ax.annotate(
                text, (lengths[-1], place), xytext=(-6, 9), textcoords="offset points",
                ha="right", va="center", fontsize=9, bbox=box,
            )  # fmt: skip
    bar = ax.figure.colorbar(mesh, ax=ax, shrink=0.9, label="windowed ISM / TISM")
    bar.locator = ticker.MaxNLocator(integer=True)
    bar.formatter = ticker.FuncFormatter(lambda power, _: f"{10.0**power:g}")
    bar.update_ticks()
    ax.set(xscale="log", yscale="log", xlabel="length, bp", ylabel="tasks")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    return ax


def plot_speed_ups(table: pd.DataFrame) -> Axes:
    """How many times TISM is faster than ISM, by length, with quartiles; hollow: extrapolated.

    table : of `ch06_tables.headline`
    """
    ax = new_axes()
    for name, row in reversed([*table.groupby("comparison")]):  # one task before all tasks
        colour = SKY if name.startswith("windowed") else BLUE
        style = "-" if name.endswith("one task") else "--"
        ax.plot(row["length"], row["ratio"], style, marker="o", ms=6, color=colour, label=name)
        guess = row[row["extrapolated"]]
        ax.plot(guess["length"], guess["ratio"], "o", ms=6, color=colour, mfc="white")
        ax.fill_between(row["length"], row["low"], row["high"], color=colour, alpha=0.25, lw=0)
    ax.axhline(1, color=GREY, linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="length, bp", ylabel="times faster")
    ax.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
    label_ticks(ax, table["length"])
    legend_outside([ax], "lower center", 2)
    return ax


def plot_accuracy_cost(
    table: pd.DataFrame, measure: str = "mean_r", *, title: str, ax: Axes
) -> Axes:
    """A measure of agreement with ISM against measured cost, a line per estimator.

    table : columns estimator, m, cost (forward passes a sequence) and `measure`; for mean_r also
        low and high, its 95 % interval
    """
    others = cycle(zip((GREEN, ORANGE, PURPLE), "^vP", strict=True))
    for name, rows in table.groupby("estimator", sort=False):
        colour, marker = ESTIMATOR_STYLES.get(name) or next(others)
        ax.plot(rows["cost"], rows[measure], color=colour, marker=marker, ms=5, lw=1.4, label=name)
        if measure == "mean_r":
            ax.vlines(rows["cost"], rows["low"], rows["high"], color=colour, lw=3, alpha=0.4)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    name = "mean r with ISM" if measure == "mean_r" else "r where not exact"
    ax.set(xlabel="cost (forward passes per sequence)", ylabel=name, title=title)
    ax.grid(color="#dddddd", linewidth=0.6)
    return ax
