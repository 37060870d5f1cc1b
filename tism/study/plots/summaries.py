"""Tables, and figures that show one row of a table beside another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from pandas.io.formats.style import Styler

from tism.study.plots.style import (
    BLUE,
    COLOURS,
    CYCLE,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    as_array,
    legend_outside,
    new_axes,
)

if TYPE_CHECKING:
    from IPython.display import HTML

LONG = 15  # rows of a table that is shown whole


def plot_points_with_intervals(
    table: pd.DataFrame,
    value: str,
    low: str,
    high: str,
    label: str,
    *,
    xlabel: str,
    reference: str | None = None,
    group: str | None = None,
    line: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A dot and its interval for each row, the first row on top.

    value, low, high, label : columns; a row named like a method has its colour in `COLOURS`
    reference : column of published values, hollow diamonds; NaN where there is none
    group : column whose values stand above the rows that have them; such rows follow each other
    line : where a vertical line is drawn
    """
    begins = table[group].ne(table[group].shift()) if group else pd.Series(False, table.index)
    places = np.arange(len(table)) + begins.cumsum().to_numpy()
    rows = places.max() - places
    names = dict(zip(rows[begins] + 1, table.loc[begins, group], strict=True)) if group else {}
    ax = ax or new_axes(height=0.42 * len(table) + 0.3 * len(names) + 1.2)
    for row, (_, entry) in zip(rows, table.iterrows(), strict=True):
        colour = COLOURS.get(entry[label], BLUE)
        ax.hlines(row, entry[low], entry[high], color=colour, linewidth=2.5, alpha=0.6)
        ax.plot(entry[value], row, "o", color=colour, markersize=8)
    if reference is not None and table[reference].notna().any():
        ax.plot(table[reference], rows, "D", color="black", mfc="white", ms=7, label="paper")
        legend_outside([ax], "upper right", 1)
    if line is not None:
        ax.axvline(line, color="black", linewidth=1, zorder=0)
    for row, name in names.items():
        ax.text(0.01, row, name, transform=ax.get_yaxis_transform(), weight="bold", va="center")
    ax.set_yticks(rows, table[label].map(str))
    ax.set(xlabel=xlabel, ylim=(-0.6, max([*rows, *names]) + 0.6))
    ax.grid(axis="x", color="#dddddd", linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def plot_kinds(
    networks: pd.DataFrame,
    summary: pd.DataFrame,
    measure: str = "value",
    *,
    xlabel: str,
    ax: Axes | None = None,
) -> Axes:
    """Kinds of network, the first of `summary` on top: a large dot is a mean, small ones networks.

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


def plot_ranked(table: pd.DataFrame, value: str, label: str, group: str, *, xlabel: str) -> Axes:
    """One dot a row, the highest on top, coloured and shaped by group, with a line at the median.

    value, label, group : columns; rows without a value are left out and counted
    """
    kept = table[table[value].notna()].sort_values(value)
    ax = new_axes(height=0.17 * len(kept) + 1.6)
    rows = np.arange(len(kept))
    groups = kept.assign(row=rows).groupby(group, sort=False)
    for (name, chosen), marker, colour in zip(groups, cycle("osD^v<>P"), cycle(CYCLE)):
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
    legend_outside([ax], "upper right", 3)
    return ax


def plot_verdicts(counts: pd.DataFrame) -> Axes:
    """Number of claims by data set and verdict (`tism.study.ch10_scorecard.count_verdicts`)."""
    ax = new_axes(height=0.5 * len(counts) + 1.4)
    left, rows = np.zeros(len(counts)), np.arange(len(counts))[::-1]
    widest = counts.drop(columns="dataset").sum(axis=1).max()
    looks = {
        "holds": (GREEN, ""),
        "does not hold": (VERMILLION, "//"),
        "undecided": (ORANGE, ".."),
        "pending": ("#dddddd", ""),
    }
    for verdict, (colour, hatch) in looks.items():
        width = counts[verdict].to_numpy()
        ax.barh(rows, width, left=left, color=colour, hatch=hatch, ec="white", lw=0, label=verdict)
        for row, start, n in zip(rows, left, width, strict=True):
            if n > 0.02 * widest:  # else the bar is narrower than its number
                ax.text(start + n / 2, row, str(n), ha="center", va="center", fontsize=9)
        left += width
    ax.set_yticks(rows, counts["dataset"])
    ax.set(xlabel="claims", xlim=(0, left.max()))
    legend_outside([ax], "upper center", 4)
    return ax


def plot_interactions(interactions: Any, *, title: str, ax: Axes) -> Axes:
    """Interactions of all pairs of positions as a heat map; red is more than the sum of effects.

    interactions : (length, length), in units of the prediction. One pair in 200 lies beyond the
        ends of the scale, which a few large ones would make faint
    """
    values = as_array(interactions)
    limit = np.quantile(np.abs(values), 0.995, method="higher") or np.abs(values).max() or 1.0
    image = ax.imshow(
        values, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower", interpolation="nearest"
    )
    ax.figure.colorbar(image, ax=ax, shrink=0.8, extend="both", label="interaction (prediction)")
    ax.set(xlabel="position (bp)", ylabel="position (bp)")
    ax.set_title(title, fontsize=10)
    return ax


def show_table(table: pd.DataFrame, formats: Mapping[str, Any] | None = None) -> HTML:
    """A table as HTML without row numbers, its numbers aligned; the same bytes at every run.

    A table of more than `LONG` rows is folded, and opens where it is clicked.

    formats : column to format, such as "{:.1%}", or to a function that formats a number; other
        numbers have separators and two decimals
    """
    from IPython.display import HTML

    name = hashlib.sha256(table.to_csv().encode()).hexdigest()[:8]
    style = Styler(table, uuid=name, cell_ids=False).hide(axis="index")
    formats = dict.fromkeys(table.select_dtypes("float"), "{:z,.2f}") | dict(formats or {})
    style = style.format(formats, thousands=",", na_rep="", escape="html")
    style = style.format_index(escape="html", axis="columns")
    cells = [{"selector": "td, th", "props": "padding: 0.2em 0.6em; text-align: left;"}]
    numbers = [{"selector": cell, "props": "text-align: right;"} for cell in ("td", "th")]
    columns = dict.fromkeys(table.select_dtypes("number"), numbers)
    html = style.set_table_styles(cells).set_table_styles(columns, overwrite=False).to_html()
    if len(table) > LONG:
        html = f"<details><summary>Table of {len(table)} rows</summary>\n{html}</details>"
    return HTML(html)


def decimals(number: float, digits: int = 2) -> str:
    """A number with this many decimals, or with none from 100 on."""
    return f"{number:z,.{0 if abs(number) >= 100 else digits}f}"


def with_intervals(
    table: pd.DataFrame, columns: Mapping[str, Sequence[str]], digits: int = 2
) -> pd.DataFrame:
    """The table with the two columns of each interval as one text, such as "0.61 to 0.79".

    columns : name of the new column to its two bounds; it stands where the lower one stood
    digits : decimals of numbers below 100
    """
    shown = table.copy()
    for name, (low, high) in columns.items():
        both = zip(table[low], table[high], strict=True)
        known = ((np.isfinite(a) and np.isfinite(b), a, b) for a, b in both)
        shown[low] = [
            f"{decimals(a, digits)} to {decimals(b, digits)}" if k else "" for k, a, b in known
        ]
        shown = shown.rename(columns={low: name}).drop(columns=high)
    return shown


def long_form(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The table with one row for each value of several columns: its `measure` and its `value`.

    columns : column to the name of the measure
    """
    rest = [name for name in table if name not in columns]
    long = table.melt(rest, list(columns), "measure", "value")
    return long.assign(measure=long["measure"].map(columns))
