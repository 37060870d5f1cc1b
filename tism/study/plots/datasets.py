"""Figures of a data set: chromosomes, bases, tasks, sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from tism.sequence import ALPHABET
from tism.study.plots.style import (
    BASE_COLOURS,
    BLUE,
    GREEN,
    ORANGE,
    SKY,
    VERMILLION,
    WIDE,
    as_array,
    legend_outside,
    new_axes,
)


def plot_chromosomes(regions: pd.DataFrame) -> Axes:
    """Number of regions of each chromosome, coloured by split; columns chrom and split."""
    counts = regions.groupby(["chrom", "split"], sort=False).size().unstack(fill_value=0)
    counts = counts.loc[regions["chrom"].unique()]
    ax = new_axes(height=0.24 * len(counts) + 1.0)
    rows, left = np.arange(len(counts))[::-1], np.zeros(len(counts))
    colours = {"train": SKY, "validation": ORANGE, "test": "#882255"}
    for split in [split for split in colours if split in counts]:
        total = counts[split].sum()
        ax.barh(rows, counts[split], left=left, color=colours[split], label=f"{split}, {total:,}")
        left += counts[split].to_numpy()
    ax.set_yticks(rows, counts.index)
    ax.set(xlabel="regions", ylim=(-0.6, len(counts) - 0.4))
    ax.tick_params(axis="y", length=0)
    legend_outside([ax], "upper right", 3)
    return ax


def plot_base_frequencies(frequencies: Any) -> Axes:
    """Share of each base along the regions, positions counted from their centre.

    frequencies : (4, length)
    """
    frequencies = as_array(frequencies)
    ax = new_axes(height=3.4)
    positions = np.arange(frequencies.shape[1]) - frequencies.shape[1] // 2
    styles = ("-", "--", "-.", ":")
    for base, share, style in zip(ALPHABET, frequencies, styles, strict=True):
        ax.plot(positions, 100 * share, color=BASE_COLOURS[base], label=base, ls=style, lw=1.6)
    ax.set(xlabel="position from the centre of the region (bp)", ylabel="share of the regions (%)")
    ax.margins(x=0)
    legend_outside([ax], "upper right", 4)
    return ax


def plot_task_clusters(correlation: pd.DataFrame, clusters: pd.DataFrame) -> Axes:
    """Correlations of tasks as a heat map, with the clusters framed and named.

    correlation : (tasks, tasks), ordered by cluster
    clusters : size of each cluster in that order, its name as the index. Of more than 40 tasks,
        only clusters of at least three are named
    """
    few = len(correlation) <= 40
    ax = new_axes(height=max(6.0, 0.112 * len(correlation) + 0.6), width=WIDE)
    image = ax.imshow(
        correlation, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none", aspect="auto"
    )
    ax.figure.colorbar(image, ax=ax, label="Pearson r over training regions", shrink=0.4)
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
    ax.set_yticks(np.arange(len(correlation)), correlation.index, fontsize=9 if few else 7)
    ax.spines[:].set_visible(False)
    return ax


def plot_lineage_effects(lineages: Mapping[str, str], effects: pd.DataFrame) -> Figure:
    """A lineage tree whose leaves are the rows of a heat map of motif effects.

    lineages : task to its path from the root, such as "lymphoid/T/CD4", in the order of the rows
    effects : (tasks, motifs), logits
    """
    height = 0.25 * len(effects) + 1.8
    figure, (tree, heat) = plt.subplots(
        1, 2, figsize=(WIDE, height), width_ratios=(1.2, 1.6), sharey=True
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
    """The truth of one simulated region: its sites and pairs, and the effect of each site.

    sites : motif, start, end, strand, planted; one row per site
    pairs : first, second (row numbers in `sites`), kind
    effects : (sites, tasks), log2 units that the site adds to the target
    """
    height = 0.34 * len(sites) + 1.0
    figure, (track, heat) = plt.subplots(
        2, 1, figsize=(WIDE, 2 * height + 1.2), height_ratios=(1, 1.3)
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
