"""Budgets in forward passes as exact substitutions, until chapters 07 and 08 are recorded by `m`.

The recorded tables name budgeted ISM by the forward passes that it was to cost. What these passes
bought is worked out here as it was when they were recorded, so that their numbers stay the same.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tism.budgeted import Budgeted, estimate_all
from tism.engine.replay import Plan
from tism.exact import ism, plan_of_engine
from tism.first_order import tism
from tism.predictor import Predictor, evaluating
from tism.running import select_tasks

# Costs in forward passes, measured on a CPU with networks of 64 kernels: a gradient and what it
# adds for each task; a reference sequence, and one whose activations are kept for windows. Then
# the share of the cost predicted for windows that they took, and the trial in batches of windows.
_GRADIENT, _GRADIENT_OF_TASK, _REFERENCE, _KEPT_REFERENCE = 2.5, 2.0, 4.5, 4.0
_WINDOWED, _TRIAL = 0.86, 1.5
_ROUNDS, _SHARE_OF_ROUNDS = 6, 0.25  # at most so many rounds, for this share of the budget


class Bought(NamedTuple):
    """What a budget buys: exact substitutions of each sequence, in so many rounds, on windows or,
    where `plan` is None, in full."""

    m: int
    rounds: int
    plan: Plan | None


def budgeted_by_passes(
    model: nn.Module, one_hot: Tensor, tasks: Any = None, *, budget: float, engine: str = "auto"
) -> Budgeted:
    """`tism.budgeted_ism` with what `budget` forward passes a sequence buy; ISM where that is all.

    engine : as in `tism.ism`; "auto" takes the engine that buys more
    """
    base = tism(model, one_hot, tasks)
    with evaluating(model) as predict, torch.no_grad():
        bought = _buy(predict, one_hot, tasks, budget, engine)
        if bought is not None:
            return estimate_all(
                predict, one_hot, tasks, base, bought.m, bought.plan, None, rounds=bought.rounds
            )
    scores = ism(model, one_hot, tasks, engine=engine)
    return Budgeted(scores, torch.ones_like(one_hot, dtype=torch.bool), torch.zeros_like(scores))


def _buy(
    predict: Predictor, one_hot: Tensor, tasks: Any, budget: float, engine: str
) -> Bought | None:
    """What a budget buys beside the gradients of TISM, or None where it pays for ISM."""
    n = len(one_hot)
    n_tasks = len(select_tasks(tasks, predict(predict.prepare(one_hot[:1]).clone()).shape[1]))
    plan = plan_of_engine(engine, predict, one_hot, n * budget, None)
    most = int((one_hot == 0).sum((1, 2)).max())
    if budget > 3 * one_hot.shape[2] or _affordable(budget, 1, plan, n) >= most:
        return None
    left = budget - (_GRADIENT + _GRADIENT_OF_TASK * n_tasks)
    rounds = _rounds(left, plan, n)
    if engine == "auto" and _affordable(left, rounds, plan, n) < _affordable(left, 0, None, n):
        plan, rounds = None, _ROUNDS
    return Bought(_affordable(left, rounds, plan, n), rounds, plan)


def _affordable(budget: float, rounds: int, plan: Plan | None, n: int) -> int:
    """Substitutions of each of n sequences that a budget buys; without a plan, in full."""
    if plan is None:
        return max(0, math.floor(budget - _REFERENCE))
    batches = (rounds + _TRIAL) * plan.batch_cost / min(n, plan.sequences)
    each = _WINDOWED * (plan.row_cost + plan.batch_cost / plan.batch_size)
    return max(0, math.floor((budget - _KEPT_REFERENCE - batches) / each))


def _rounds(budget: float, plan: Plan | None, n: int) -> int:
    """Rounds in which a budget for each of n sequences is spent, fewer where batches cost much."""
    if plan is None:
        return _ROUNDS
    cost = plan.batch_cost / min(n, plan.sequences)
    return max(1, min(_ROUNDS, int(_SHARE_OF_ROUNDS * (budget - _KEPT_REFERENCE) / cost)))
