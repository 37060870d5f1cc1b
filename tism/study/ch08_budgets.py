"""A budget in forward passes as exact substitutions, until chapter 08 is recorded by `m`.

Chapter 08 and the explorer give budgeted ISM 50 forward passes a sequence. What these passes buy is
worked out here as it was when they were recorded, so that their numbers stay the same.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tism.budgeted import Budgeted, ExactEffects, estimate_all
from tism.engine.choice import Plan, Work, attempt, plan_windows
from tism.engine.replay import WindowedModel
from tism.exact import ism
from tism.first_order import tism
from tism.predictor import Job, Predictor, evaluating
from tism.running import choose_batch_size, select_tasks
from tism.sequence import put_bases, substitutions

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


class Costs(NamedTuple):
    """Predicted costs of a substitution on windows and of a batch, in forward passes.

    gain : cost of the full engine over that of windows, in batches of equal size
    """

    row: float
    batch: float
    gain: float


def budgeted_by_passes(
    model: nn.Module, one_hot: Tensor, tasks: Any = None, *, budget: float, engine: str = "auto"
) -> Budgeted:
    """`tism.budgeted_ism` with what `budget` forward passes a sequence buy; ISM where that is all.

    engine : as in `tism.ism`; "auto" takes the engine that buys more
    """
    base = tism(model, one_hot, tasks)
    with evaluating(model) as predict, torch.no_grad():
        job = Job(predict, one_hot, tasks, range(one_hot.shape[2]))
        bought = _buy(job, budget, engine)
        if bought is not None:
            return estimate_all(ExactEffects(job, bought.plan), base, bought.m, bought.rounds)
    scores = ism(model, one_hot, tasks, engine=engine)
    return Budgeted(scores, torch.ones_like(one_hot, dtype=torch.bool), torch.zeros_like(scores))


def _buy(job: Job, budget: float, engine: str) -> Bought | None:
    """What a budget buys beside the gradients of TISM, or None where it pays for ISM."""
    predict, one_hot = job.predict, job.one_hot
    n, length = len(one_hot), one_hot.shape[2]
    n_tasks = len(select_tasks(job.tasks, predict(predict.prepare(one_hot[:1]).clone()).shape[1]))
    full_batch_size = choose_batch_size(None, length, predict.device)
    plan = costs = None
    if engine == "windowed" or (engine == "auto" and n * budget > 2 * full_batch_size):
        total = int((one_hot == 0).sum())
        plan = attempt(engine, predict, partial(plan_windows, "windowed", job, total))
        costs = plan and _count(predict, one_hot, full_batch_size)
        if plan and engine == "auto" and costs.gain < 1:
            plan = None
    most = int((one_hot == 0).sum((1, 2)).max())
    if budget > 3 * length or _affordable(budget, 1, plan, costs, n) >= most:
        return None
    left = budget - (_GRADIENT + _GRADIENT_OF_TASK * n_tasks)
    rounds = _rounds(left, plan, costs, n)
    in_full = _affordable(left, 0, None, None, n)
    if engine == "auto" and _affordable(left, rounds, plan, costs, n) < in_full:
        plan, rounds = None, _ROUNDS
    return Bought(_affordable(left, rounds, plan, costs, n), rounds, plan)


def _count(predict: Predictor, one_hot: Tensor, full_batch_size: int) -> Costs:
    """Costs counted in a first batch of windows, which also copies columns of the references."""
    changed = substitutions(one_hot[:1], range(one_hot.shape[2]))
    rows = max(6, len(one_hot) * len(changed[1]) // 10_000)
    rows = min(rows, 24, full_batch_size, len(changed[1]))
    tried = np.linspace(0, len(changed[1]) - 1, rows).astype(int)
    number, position, base = (numbers[tried] for numbers in changed)
    sequence = predict.prepare(one_hot[:1])
    mutants = torch.cat([sequence, put_bases(sequence.repeat(rows, 1, 1), position, base)])
    parts = mutants.split(full_batch_size)
    with Work() as full:
        for part in parts:
            predict(part.clone())
    windows = WindowedModel(predict, sequence, {})
    with Work() as work:
        windows.effects(number, position, base)
    forward = full.cost(1 + rows, len(parts), full_batch_size)
    row = work.cost(rows, 1, math.inf) / forward
    equal = 2 * full_batch_size
    gain = full.cost(1 + rows, len(parts), equal) / work.cost(rows, 1, equal)
    return Costs(row, work.cost(rows, 1, 1) / forward - row, gain)


def _affordable(budget: float, rounds: int, plan: Plan | None, costs: Costs | None, n: int) -> int:
    """Substitutions of each of n sequences that a budget buys; without a plan, in full."""
    if plan is None:
        return max(0, math.floor(budget - _REFERENCE))
    batches = (rounds + _TRIAL) * costs.batch / min(n, plan.sequences)
    each = _WINDOWED * (costs.row + costs.batch / plan.batch_size)
    return max(0, math.floor((budget - _KEPT_REFERENCE - batches) / each))


def _rounds(budget: float, plan: Plan | None, costs: Costs | None, n: int) -> int:
    """Rounds in which a budget for each of n sequences is spent, fewer where batches cost much."""
    if plan is None:
        return _ROUNDS
    cost = costs.batch / min(n, plan.sequences)
    return max(1, min(_ROUNDS, int(_SHARE_OF_ROUNDS * (budget - _KEPT_REFERENCE) / cost)))
