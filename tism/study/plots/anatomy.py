"""What the difference of an estimate from ISM is made of."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from tism.study.plots.style import BLUE, GREY, ORANGE, SKY, VERMILLION, legend_outside, panels

_SHADES = (VERMILLION, ORANGE, "#bbbbbb")
_LOOKS = (("o", BLUE), ("s", VERMILLION), ("D", SKY))


def plot_anatomy(table: pd.DataFrame, calibration: pd.DataFrame, parts: tuple[str, ...]) -> Axes:
    """Four panels: parts of the squared difference, recall, calibration and signs, by data set.

    table : columns dataset, estimate, measure, value, low, high, of `ch04_anatomy.anatomy_table`
    calibration : of `ch04_anatomy.calibration_table`
    parts : measures that are shares of the squared difference
    """
    shares, recalled, calibrated, signs = panels(4, height=2.9)
    _plot_parts(shares, table[table["measure"].isin(parts)], parts)
    first = table[table["estimate"] == table["estimate"].iloc[0]]
    for (dataset, rows), (marker, colour) in zip(
        first.groupby("dataset", sort=False), _LOOKS, strict=False
    ):
        look = {"color": colour, "marker": marker, "ms": 5}
        _plot_recall(recalled, rows, dataset, look)
        groups = calibration[calibration["dataset"] == dataset]
        bins = groups[groups["by"] == "predicted"]
        calibrated.errorbar(bins["predicted"], bins["exact"], bins["sd"], capsize=2, lw=1, **look)
        of_size = groups[groups["by"] == "exact"]
        signs.plot(of_size["exact"], of_size["wrong_sign"], **look)
    ends = calibrated.get_xlim()
    calibrated.plot(ends, ends, color="black", ls="--", lw=1, zorder=0)
    calibrated.axhline(0, color=GREY, lw=0.8, zorder=0)
    calibrated.set(xlabel="TISM predicts", ylabel="ISM: mean and sd", title="C  calibration")
    signs.set(xscale="log", ylim=(0, 0.5), title="D  wrong signs")
    signs.set(xlabel="size of the effect by ISM", ylabel="share of the effects")
    legend_outside([recalled], "lower center", 4)
    return shares


def _plot_parts(ax: Axes, table: pd.DataFrame, parts: tuple[str, ...]) -> None:
    wide = table.pivot(index=["dataset", "estimate"], columns="measure", values="value")
    wide = wide.reindex(table[["dataset", "estimate"]].drop_duplicates().apply(tuple, axis=1))
    rows, left = np.arange(len(wide))[::-1], np.zeros(len(wide))
    for part, colour in zip(parts, _SHADES, strict=True):
        width = wide[part].to_numpy()
        ax.barh(rows, width, left=left, height=0.6, color=colour)
        for row, start, share in zip(rows, left, width, strict=True):
            if share > 0.08:
                middle = start + share / 2
                ax.text(middle, row, f"{share:.0%}", ha="center", va="center", fontsize=9)
        left += width
    ax.set_yticks(rows, [f"{dataset},\n{estimate}" for dataset, estimate in wide.index], fontsize=9)
    for part, colour in zip(parts, _SHADES, strict=True):
        ax.plot([], [], "s", color=colour, label=part)
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=1, fontsize=9)
    ax.set(xlim=(0, 1), xlabel="", title="A  parts of the difference")


def _plot_recall(ax: Axes, rows: pd.DataFrame, dataset: str, look: dict) -> None:
    for what, style in (("substitutions", "-"), ("positions", ":")):
        recalls = rows[rows["measure"].str.match(rf"recall of the top \d+ {what}")]
        top = recalls["measure"].str.extract(r"(\d+)", expand=False).astype(int)
        ax.plot(top, recalls["value"], ls=style, label=f"{dataset}, {what}", **look)
        ax.vlines(top, recalls["low"], recalls["high"], color=look["color"], lw=1)
    ax.set(xscale="log", ylim=(0, 1), xlabel="largest effects of a profile", title="B  recall")
    ax.set_xticks(top, [str(number) for number in top])
    ax.set_ylabel("share found by TISM")
    ax.minorticks_off()
