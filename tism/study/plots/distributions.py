"""How many values there are of which size."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter, StrMethodFormatter

from tism.study.plots.style import BLUE, SKY, VERMILLION, as_array, axes_or_new

_FEW = 100


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
    values = as_array(values).ravel()
    ax = axes_or_new(ax, height=3.2)
    low, high = values.min(), values.max()
    bins = 50 if step is None else np.arange(round(low / step), round(high / step) + 2) - 0.5
    ax.hist(values, bins=bins if step is None else bins * step, color=SKY, lw=0)
    median = float(np.median(values))
    ax.axvline(median, color="black", linestyle="--", linewidth=1.2)
    ax.set_title(f"n = {values.size:,}, median {median:.3g}", fontsize=10, fontweight="normal")
    ax.set(xlabel=xlabel, ylabel=label, yscale="log" if log_y else "linear")
    return ax


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
    r = as_array(r).ravel()
    exists = r[np.isfinite(r)]
    ax = axes_or_new(ax)
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
    x, y = as_array(x).ravel(), as_array(y).ravel()
    exists = np.isfinite(x) & np.isfinite(y)
    x, y = x[exists], y[exists]
    ax = axes_or_new(ax, height=4.8)
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
