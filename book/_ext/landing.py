"""Sphinx extension: the directive `landing` draws the picture of the first page from the record.

On the left one region by ISM and by TISM, on the right what each score costs and how near it comes
to ISM. Both are SVG within the page, so that they take the colours of its theme.
"""

from __future__ import annotations

import io
import re
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from docutils import nodes
from docutils.parsers.rst import Directive
from recorded import Record

from tism.sequence import one_hot_encode
from tism.taylor import mean_effect

WINDOW = 40  # bp of the region that are shown
SIZE = (4.6, 3.1)  # inches of each half: on a phone it fills the window at its own size


class Example(NamedTuple):
    """A region and a task of typical agreement, and their maps.

    r : Pearson's correlation of TISM with ISM over the substitutions
    maps : method to (4, length) mean effects
    """

    region: str
    task: str
    r: float
    maps: dict[str, torch.Tensor]


def example(record: Record) -> Example:
    """The map with the largest effect among the fifth of maps whose r is nearest to the mean.

    The maps are the explorer's, of its first data set.
    """
    table = record.table("explorer")
    table = table[table["dataset"] == table["dataset"].iloc[0]]
    r = table[table["method"] == "TISM"].set_index(["region", "task"])["r_ism"]
    near = (r - r.mean()).abs().nsmallest(-(-len(r) // 5)).index
    rows = table.set_index(["method", "region", "task"]).sort_index()
    region, task = rows.loc["ISM", "largest"].loc[near].idxmax()
    sequence = record.table("explorer_regions").set_index("region").loc[region, "sequence"]
    one_hot = one_hot_encode([sequence])
    maps = {}
    for method in ("ISM", "TISM"):
        row = rows.loc[(method, region, task)]
        scores = torch.zeros(1, 1, *one_hot.shape[1:])
        effects = torch.tensor([float(k) for k in row["effects"].split()])
        scores[0, 0][one_hot[0] == 0] = effects * row["largest"] / 1000
        maps[method] = mean_effect(scores, one_hot)[0, 0]
    return Example(region, task, float(r[region, task]), maps)


def prices(record: Record) -> pd.DataFrame:
    """Passes per sequence and mean r with ISM, for one task on yeast; the cheapest score first."""
    table = record.one_task.query("network == 'yeast, baseline'")
    kept = table["estimator"].isin(["TISM", "ISM"])
    kept |= (table["estimator"] == "budgeted") & table["m"].isin([50, 150, 300])
    table = table.loc[kept, ["estimator", "cost", "mean_r"]]
    plain = {"estimator": "plain ISM", "cost": record.costs["ISM"].iloc[0], "mean_r": 1.0}
    return pd.concat([table, pd.DataFrame([plain])], ignore_index=True).sort_values("cost")


def draw_region(found: Example) -> str:
    """SVG of ISM above TISM, over the stretch with the largest effects."""
    from matplotlib import pyplot as plt

    from tism.study.plots import plot_logo

    heights = found.maps["ISM"].sum(0).abs()
    start = int(heights.unfold(0, WINDOW, 1).sum(1).argmax())
    figure, axes = plt.subplots(2, 1, figsize=SIZE, sharex=True)
    for ax, (method, scores) in zip(axes, found.maps.items(), strict=True):
        plot_logo(scores[:, start : start + WINDOW], ax, start=start, ylabel=method)
    axes[0].set_xlabel("")
    axes[0].tick_params(bottom=False)
    figure.align_ylabels(axes)
    return svg(figure, f"{found.region} for {found.task}, as letters: ISM above, TISM below")


def draw_prices(table: pd.DataFrame) -> str:
    """SVG of agreement against cost, with a name at each point."""
    from matplotlib import pyplot as plt

    from tism.study.plots.style import BLUE, GREY, VERMILLION

    figure, ax = plt.subplots(figsize=SIZE)
    budgeted = table[table["estimator"] == "budgeted"]
    ax.plot(budgeted["cost"], budgeted["mean_r"], "o-", color=GREY)
    names = {
        "TISM": ("TISM", VERMILLION, (0, 10), "center"),
        "ISM": ("exact ISM, by windows", BLUE, (-8, -4), "right"),
        "plain ISM": ("plain ISM", BLUE, (0, -16), "center"),
    }
    for row in table[table["estimator"].isin(names)].itertuples():
        label, colour, offset, side = names[row.estimator]
        ax.plot(row.cost, row.mean_r, "o", color=colour)
        at = (row.cost, row.mean_r)
        ax.annotate(label, at, offset, textcoords="offset points", ha=side, color=colour)
    first = budgeted.iloc[0]
    at = (first["cost"], first["mean_r"])
    ax.annotate("budgeted", at, (-6, 6), textcoords="offset points", ha="right")
    ax.set(xscale="log", xlim=(1.5, 1800), ylim=(None, 1.02))
    ax.set(xlabel="cost of a sequence (predictions)", ylabel="mean r with exact ISM")
    ax.set_xticks([2, 10, 100, 1000], ["2", "10", "100", "1,000"])
    ax.minorticks_off()
    points = "; ".join(
        f"{row.estimator} {row.cost:.0f} predictions, r {row.mean_r:.2f}"
        for row in table.itertuples()
    )
    return svg(figure, f"Agreement with exact ISM against cost: {points}")


def svg(figure: Any, title: str) -> str:
    """The <svg> element of a figure, with its black in the colour of the text; closes it."""
    from matplotlib import pyplot as plt

    file = io.StringIO()
    with plt.rc_context({"svg.hashsalt": title}):  # two figures of one page have other ids
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    drawing = file.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r"#(?:000000|262626|333333)\b", "currentColor", drawing)
    drawing = re.sub(r'<g id="[\w.]+">', "<g>", drawing)  # which two figures have in common
    opening = re.search(r"<svg\b[^>]*(viewBox=\"[^\"]*\")[^>]*>", drawing)
    label = escape(title, quote=True)
    return f'<svg role="img" aria-label="{label}" {opening[1]}>' + drawing[opening.end() :]


def landing_numbers(record: Record) -> dict[str, str]:
    """What the first page says of its picture."""
    found, table = example(record), prices(record).set_index("estimator")
    return {
        "landing_region": found.region,
        "landing_task": found.task,
        "landing_r": f"{found.r:.2f}",
        "landing_tism_r": f"{table.loc['TISM', 'mean_r']:.2f}",
        "landing_tism_cost": f"{table.loc['TISM', 'cost']:.0f}",
        "landing_ism_cost": f"{table.loc['ISM', 'cost']:.0f}",
    }


class Landing(Directive):
    """`{landing}`, without options or content."""

    def run(self) -> list[nodes.Node]:
        """The picture, two halves beside each other."""
        from matplotlib import pyplot as plt

        from tism.study.plots import use_book_style

        env = self.state.document.settings.env
        record = Record(Path(env.srcdir) / "data")
        with plt.rc_context():
            use_book_style()
            plt.rcParams["svg.fonttype"] = "none"
            halves = draw_region(example(record)) + draw_prices(prices(record))
        return [nodes.raw("", f'<div class="landing">{halves}</div>', format="html")]


def setup(app: Any) -> dict[str, bool]:
    """Entry point of Sphinx."""
    app.add_directive("landing", Landing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
