"""Histograms and densities."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter, StrMethodFormatter

from tism.study.plots.style import BLUE, SKY, VERMILLION, as_array, new_axes

_FEW = 100


def plot_histogram(
    values: Any,
    *,
    xlabel: str,
    label: str,
    step: float | None = None,
    log_y: bool = False,
) -> Axes:
    """Histogram of values of any shape, with their number and median.

    label : what is counted, such as "regions"
    step : width of a bar, for values that are multiples of it; by default there are 50 bars
    """
    values = as_array(values).ravel()
    ax = new_axes(height=3.2)
    low, high = values.min(), values.max()
    bins = 50
    if step is not None:
        bins = (np.arange(round(low / step), round(high / step) + 2) - 0.5) * step
    ax.hist(values, bins=bins, color=SKY, lw=0)
    median = float(np.median(values))
    ax.axvline(median, color="black", linestyle="--", linewidth=1.2)
    ax.set_title(f"n = {values.size:,}, median {median:.3g}", fontsize=10, fontweight="normal")
    ax.set(xlabel=xlabel, ylabel=label, yscale="log" if log_y else "linear")
    return ax


def plot_histogram_with_share(
    r: Any,
    *,
    reference: Mapping[str, float] | None = None,
    label: str = "profiles",
    bins: int = 80,
) -> Axes:
    """Histogram of correlations, with the share at least as high on the right axis (Fig 1A).

    r : any shape; NaN is left out and counted in the legend
    reference : label to published value, drawn as dotted lines
    label : what one r belongs to
    """
    r = as_array(r).ravel()
    exists = r[np.isfinite(r)]
    ax = new_axes()
    constant = f", {r.size - exists.size:,} constant" if exists.size < r.size else ""
    counted = f"n = {exists.size:,} {label}{constant}"
    ax.hist(exists, bins=np.linspace(-1, 1, bins + 1), color=SKY, lw=0, label=counted)
    ax.set(xlim=(-1, 1), xticks=np.linspace(-1, 1, 9), xlabel="Pearson r", ylabel=label)
    ax.xaxis.set_major_formatter("{x:g}")
    for name, value, style in (("mean", exists.mean(), "-"), ("median", np.median(exists), "--")):
        ax.axvline(value, color="black", linestyle=style, label=f"{name} {value:.2f}")
    for (name, value), style in zip((reference or {}).items(), cycle((":", "-."))):
        ax.axvline(value, color=VERMILLION, linestyle=style, lw=2, label=f"{name} {value:.2f}")
    share = ax.twinx()
    share.set(ylim=(0, 1.0))
    share.set_ylabel("share with at least this r", color=BLUE)
    share.yaxis.set_major_formatter(PercentFormatter(1.0))
    share.tick_params(axis="y", colors=BLUE)
    share.spines["right"].set(visible=True, color=BLUE)
    ordered = np.sort(exists)
    share.step(ordered, 1 - np.arange(len(ordered)) / len(ordered), color=BLUE, where="pre")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2, borderaxespad=0)
    return ax


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
    """Points as a density of hexagons, with their number and, if given, Pearson r.

    x, y : same shape; points with a NaN are left out
    diagonal : draw the line of equality, with both axes on one scale
    limits : of both axes, with `diagonal`
    label : what a point is, such as "regions"
    """
    x, y = as_array(x).ravel(), as_array(y).ravel()
    exists = np.isfinite(x) & np.isfinite(y)
    x, y = x[exists], y[exists]
    ax = ax or new_axes(height=4.8)
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
    """Hexagons coloured by their number of points, or dots if there are few points."""
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
    """Lowest and highest value with a margin, so that the range is not empty."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin
