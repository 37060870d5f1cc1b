"""What ISM and TISM cost in forward passes, from the arithmetic of a network alone.

The unit is the forward-equivalent: the multiply-adds of one forward pass of one sequence. Exact ISM
of a sequence takes 3 * length + 1 of them for all tasks, TISM one forward pass and a backward pass
a task. A substitution changes a window of each layer: windowed ISM takes 1 + 3 * W, where W is the
width of those windows in bases, averaged over the layers by their share of the work.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from tism.model import AITACConfig


def window_table(config: AITACConfig) -> pd.DataFrame:
    """How many positions of each layer's input one substitution changes, and what they cost.

    Returns one row for each layer with weights: layer, positions (of its input), changed (those
    that one substitution can change), full and windowed (multiply-adds of a whole pass, and of the
    changed positions).
    """
    strands, width = 1 + config.both_strands, config.width
    positions, changed = config.length, 1
    taps = strands * 4 * config.kernel * width
    rows = [("first convolution", positions, changed, taps * positions, taps * changed)]
    changed = min(positions, config.kernel)
    for block in range(1, config.n_blocks + 2):
        positions = -(-positions // config.pool)
        changed = min(positions, (changed + config.pool - 2) // config.pool + 1)  # at most
        if block > config.n_blocks:
            break
        taps = config.block_kernel * width**2
        work = taps * positions, taps * changed
        rows.append((f"convolution of block {block}", positions, changed, *work))
        changed = min(positions, changed + config.block_kernel - 1)
    units = width * config.dense_width
    rows.append(
        ("dense layer after flattening", positions, changed, units * positions, units * changed)
    )
    rest = config.n_dense * config.dense_width**2 + config.dense_width * config.n_tasks
    rows.append(("other dense layers", 1, 1, rest, rest))
    return pd.DataFrame(rows, columns=["layer", "positions", "changed", "full", "windowed"])


def effective_window(config: AITACConfig) -> float:
    """W, the number of bases whose forward pass costs as much as one substitution."""
    table = window_table(config)
    return float(config.length * table["windowed"].sum() / table["full"].sum())


def forward_equivalents(config: AITACConfig, n_tasks: int | None = None) -> dict[str, float]:
    """Cost of each method for one sequence; of TISM for `n_tasks`, by default all of them."""
    tasks = config.n_tasks if n_tasks is None else n_tasks
    return {
        "ISM": 3.0 * config.length + 1,
        "windowed ISM": 3 * effective_window(config) + 1,
        "TISM": 1.0 + tasks,
    }


def cost_map(
    config: AITACConfig, lengths: np.ndarray, tasks: np.ndarray, *, windowed: float, backward: float
) -> np.ndarray:
    """How many times TISM is cheaper than windowed ISM, (tasks, lengths); below 1 ISM is cheaper.

    config : the network, built for each length
    windowed, backward : measured over counted cost, of windowed ISM and of a backward pass
    """
    ism = [forward_equivalents(replace(config, length=int(n)))["windowed ISM"] for n in lengths]
    return windowed * np.array(ism)[None] / (1 + backward * np.asarray(tasks, float)[:, None])
