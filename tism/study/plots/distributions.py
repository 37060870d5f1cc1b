"""Histograms and densities."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter, StrMethodFormatter

from tism.study.plots.style import BLUE, SKY, VERMILLION, as_array, new_axes, panels

_FEW = 100


def plot_histogram(
    values: Any, *, xlabel: str, label: str, step: float | None = None, log_y: bool = False
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
    r: Any, *, reference: Mapping[str, float] | None = None, label: str = "profiles", bins: int = 50
) -> Axes:
    """Histogram of correlations, with the share at least as high on the right axis (Fig 1A).

    r : any shape; NaN is left out and counted in the legend
    reference : label to published value, drawn as dotted lines
    label : what one r belongs to

    The axis begins at the tenth below which one value in 1,000 lies; these are counted there.
    """
    r = as_array(r).ravel()
    exists = r[np.isfinite(r)]
    ax = new_axes()
    constant = f", {r.size - exists.size:,} constant" if exists.size < r.size else ""
    counted = f"n = {exists.size:,} {label}{constant}"
    begin = float(np.floor(10 * np.quantile(exists, 0.001)) / 10)
    ax.hist(exists, bins=np.linspace(begin, 1, bins + 1), color=SKY, lw=0, label=counted)
    ax.set(xlim=(begin, 1), xlabel="Pearson r", ylabel=label)
    if lower := (exists < begin).sum():
        ax.text(begin, 0, f" {lower:,} lower", rotation=90, va="bottom", ha="left", fontsize=9)
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
    label: str = "",
    limits: tuple[float, float] | None = None,
) -> Axes:
    """Points as a density of hexagons, with their number.

    x, y : same shape; points with a NaN are left out
    diagonal : draw the line of equality, with both axes on one scale
    label : what a point is, such as "regions"
    limits : of both axes with a diagonal; by default those of the points
    """
    x, y = _finite_points(x, y)
    ax = ax or new_axes(height=4.8)
    if diagonal:
        low, high = limits or _padded(np.concatenate([x, y]))
        extent = (low, high, low, high)
        ax.plot([low, high], [low, high], color="black", linewidth=1, linestyle="--", zorder=3)
        ax.set_aspect("equal")
    else:
        extent = (*_padded(x), *_padded(y))
    if (cells := _draw_cells(ax, x, y, extent)) is not None:
        _count_cells(ax.figure, [cells], label or "points", ax=ax)
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=extent[:2], ylim=extent[2:])
    ax.set_title(f"n = {len(x):,} {label}".strip(), fontsize=10, fontweight="normal")
    return ax


def plot_densities(
    pairs: Mapping[str, tuple[Any, Any, str]], *, ylabel: str, diagonal: bool = False
) -> list[Axes]:
    """Densities of regions beside each other, with common limits and one scale of colours.

    pairs : title to x, y and the label of the x axis
    diagonal : draw the line of equality, with one pair of limits for all axes
    """
    axes = panels(len(pairs), height=2.9, columns=3)
    on_y = [values for x, y, _ in pairs.values() for values in ((x, y) if diagonal else (y,))]
    pooled = np.concatenate([as_array(values).ravel() for values in on_y])
    y_limits = _padded(pooled[np.isfinite(pooled)])
    drawn = []
    for ax, (title, (x, y, xlabel)) in zip(axes, pairs.items(), strict=True):
        x, y = _finite_points(x, y)
        x_limits = y_limits if diagonal else _padded(x)
        drawn.append(_draw_cells(ax, x, y, (*x_limits, *y_limits)))
        if diagonal:
            ax.plot(y_limits, y_limits, color="black", linewidth=1, linestyle="--", zorder=3)
        ax.set(xlabel=xlabel, xlim=x_limits, ylim=y_limits)
        ax.set_title(f"{title}\nn = {len(x):,}", fontsize=10, fontweight="normal")
    axes[0].set_ylabel(ylabel)
    for ax in axes[1:]:
        ax.tick_params(labelleft=False)
    if cells := [collection for collection in drawn if collection is not None]:
        _count_cells(axes[0].figure, cells, "regions", ax=axes, location="bottom", aspect=40)
    return axes


def _finite_points(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both coordinates, one-dimensional, of the points that have both."""
    x, y = as_array(x).ravel(), as_array(y).ravel()
    exists = np.isfinite(x) & np.isfinite(y)
    return x[exists], y[exists]


def _draw_cells(ax: Axes, x: np.ndarray, y: np.ndarray, extent: tuple) -> PolyCollection | None:
    """Hexagons coloured by their number of points, or dots and None if there are few points."""
    if len(x) < _FEW:
        ax.plot(x, y, "o", color=BLUE, alpha=0.6, markersize=5)
        return None
    return ax.hexbin(x, y, gridsize=45, extent=extent, mincnt=1, linewidths=0.1, rasterized=True)


def _count_cells(figure: Any, cells: list[PolyCollection], label: str, **place: Any) -> None:
    """One logarithmic scale of colours for all hexagons, and its bar."""
    scale = LogNorm(1, max(2, *(collection.get_array().max() for collection in cells)))
    for collection in cells:
        collection.set_norm(scale)
    bar = figure.colorbar(cells[0], label=f"{label} per hexagon", shrink=0.8, **place)
    long_axis = bar.ax.xaxis if place.get("location") == "bottom" else bar.ax.yaxis
    long_axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    long_axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    long_axis.set_minor_locator(NullLocator())


def _padded(values: np.ndarray) -> tuple[float, float]:
    """Lowest and highest value with a margin, so that the range is not empty."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin
