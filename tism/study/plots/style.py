"""Colours, sizes and axes that the figures of the book share.

Widths are chosen for a phone: figures are at most 7 inches wide and grow downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

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
# Near the colours above, but of four lightnesses that stay apart in grey: T, C, A, G.
BASE_COLOURS = {"A": "#12A57A", "C": "#0060A8", "G": ORANGE, "T": "#882255"}
CYCLE = [BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY, "#000000"]
WIDTH, WIDE = 5.6, 7.0


def use_book_style() -> None:
    """Set white background, readable fonts and colours, so that every run gives the same bytes."""
    sns.set_theme(context="notebook", style="ticks")
    plt.rcParams.update(
        {
            "axes.edgecolor": "#333333",
            "axes.labelsize": 11,
            "axes.prop_cycle": mpl.cycler(color=CYCLE),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "figure.constrained_layout.use": True,
            "figure.dpi": 130,
            "figure.facecolor": "white",
            "figure.figsize": (WIDTH, 4.2),
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
    """In a notebook, write compressed PNG without version or date, and NumPy numbers as numbers."""
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
    if "inline" in plt.get_backend():
        plt.uninstall_repl_displayhook()  # it draws every figure once more before it is shown


def panels(count: int, *, height: float = 3.3, columns: int = 2) -> list[Axes]:
    """Axes of `count` panels of equal size, row by row, in one figure."""
    rows = -(-count // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(WIDE, height * rows), squeeze=False)
    for unused in grid.flat[count:]:
        figure.delaxes(unused)
    return list(grid.flat[:count])


def legend_below(axes: Sequence[Axes]) -> None:
    """One legend for all panels of a figure, below them."""
    legend_outside(axes, "lower center", 3)


def legend_outside(axes: Sequence[Axes], place: str, columns: int) -> None:
    """One legend for all axes at the edge of the figure, such as "upper right"."""
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        look = {"loc": f"outside {place}", "ncols": columns}
        axes[0].figure.legend(found.values(), found.keys(), **look)


def label_ticks(ax: Axes, values: pd.Series) -> None:
    """One tick on the x axis for each distinct whole number; no minor ticks."""
    ticks = sorted(values.unique())
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()


def new_axes(height: float = 4.2, width: float = WIDTH) -> Axes:
    """The axes of a new figure of this size in inches."""
    return plt.subplots(figsize=(width, height))[1]


def as_array(values: Any) -> np.ndarray:
    """A tensor, list or array as a float64 array."""
    values = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(values, dtype=float)
