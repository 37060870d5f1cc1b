"""Between one gradient and exact ISM: estimates whose cost the user chooses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tism.engine.replay import Plan, Windows
from tism.exact import by_position, ism, plan_of_engine
from tism.first_order import tism
from tism.running import (
    OutputFn,
    Predictor,
    Tasks,
    choose_batch_size,
    evaluating,
    in_batches,
    progress_bar,
    select_tasks,
)
from tism.sequence import numeric_tensor, put_bases, validate_one_hot

# Forward passes that things take, measured on a CPU with networks of 64 kernels: a gradient, and
# beside for each task with what is learnt for it; a reference with what chooses substitutions;
# one with its activations kept. Windows, as a share of what the engine predicts for planning,
# where it errs towards whole passes; in batches of windows, the trial before the first.
_GRADIENT, _GRADIENT_OF_TASK, _REFERENCE, _KEPT_REFERENCE = 2.5, 2.0, 4.5, 4.0
_WINDOWED, _TRIAL = 0.86, 1.5
_ROUNDS = 6  # in which substitutions are chosen, at most; fewer where they would cost more than
_OF_ROUNDS = 0.25  # this share of a budget, as batches of windows do for few sequences
_SLOPE_PRIOR = 0.2, 0.5  # this share of the evidence, and this many effects, speak for a slope of 1
_SLOPES = 0.25, 2.0  # least and most: an effect of the other sign does not undo all others
_SHIFT_PRIOR = 3.0  # as many substitutions as this speak for no shift
_REACH = 5.0  # positions over which the weight of a neighbour falls to 1/e
_OWN = 0.5  # weight of an entry itself in the size of its error; its surroundings have the rest


class Budgeted(NamedTuple):
    """Result of `budgeted_ism`.

    estimate : (n, n_tasks, 4, length) estimate of ISM, in the unit of the model's output
    exact : (n, 4, length) bool, the entries that are exact, for all tasks; reference bases are
    uncertainty : (n, n_tasks, 4, length) standard deviation of the error; 0 where exact
    """

    estimate: Tensor
    exact: Tensor
    uncertainty: Tensor


def budgeted_ism(
    model: nn.Module,
    one_hot: Any,
    tasks: Tasks = None,
    *,
    budget: float,
    base: Any = "tism",
    engine: str = "auto",
    output_fn: OutputFn | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Budgeted:
    """ISM estimated at a cost of `budget` forward passes a sequence, all tasks together.

    The largest effects by the base estimate are computed exactly, in a few rounds: what each round
    finds rescales and shifts the estimate of the other substitutions, which chooses the next ones.
    All tasks share the exact substitutions, chosen by their share of each task's sum of squares.

    budget : forward passes a sequence, from 1 + n_tasks (one gradient) to 3 * length + 1 (ISM).
        A substitution is charged what `engine` is predicted to take for it, a fraction of a pass by
        windows, and each sequence its share of what a call takes beside, so that several together
        buy more. Where the budget pays for all substitutions, the result is `ism` itself
    base : "tism", or any first estimate, (n, n_tasks, 4, length), which is not charged: that of
        `layerwise_tism`, or of a cheaper model where this one has no gradient
    engine : as in `tism.ism`; "full" takes any model, "auto" what buys more substitutions

    Other arguments as in `tism.ism`.
    Raises TypeError or ValueError naming the argument that is wrong.

    >>> import torch, tism
    >>> model = tism.build_model("baseline", length=8, n_tasks=2, width=4, seed=0)
    >>> result = tism.budgeted_ism(model, tism.one_hot_encode("ACGTACGT"), 0, budget=10)
    >>> result.estimate.shape, int(result.exact.sum()) - 8
    (torch.Size([1, 1, 4, 8]), 3)
    """
    one_hot = validate_one_hot(one_hot)
    same = {"output_fn": output_fn, "batch_size": batch_size, "device": device}
    with evaluating(model, output_fn, device) as predict, torch.no_grad():
        n_tasks = _number_of_tasks(predict, one_hot, tasks)
        _check_budget(budget, n_tasks, one_hot.shape[2])
        n, shape = len(one_hot), (len(one_hot), n_tasks, *one_hot.shape[1:])
        base = _check_base(base, shape)
        plan = plan_of_engine(engine, predict, one_hot, n * budget, batch_size)
        most = int((one_hot == 0).sum((1, 2)).max())
        pays_for_all = budget > 3 * one_hot.shape[2] or _affordable(budget, 1, plan, n) >= most
        left = budget - (_GRADIENT + _GRADIENT_OF_TASK * n_tasks if base is None else 0)
        rounds = _rounds(left, plan, n)
        if engine == "auto" and _affordable(left, rounds, plan, n) < _affordable(left):
            plan, rounds = None, _ROUNDS
        k = _affordable(left, rounds, plan, n)
    if pays_for_all:
        scores = ism(model, one_hot, tasks, engine=engine, **same, progress=progress)
        everything = torch.ones(one_hot.shape, dtype=torch.bool)
        return Budgeted(scores, everything, torch.zeros_like(scores))
    if base is None:
        base = tism(model, one_hot, tasks, **same)
    with evaluating(model, output_fn, device) as predict, torch.no_grad():
        return _refined(predict, one_hot, tasks, base, k, rounds, plan, batch_size, progress)


def _number_of_tasks(predict: Predictor, one_hot: Tensor, tasks: Tasks) -> int:
    return len(select_tasks(tasks, predict(predict.prepare(one_hot[:1]).clone()).shape[1]))


def _check_budget(budget: float, n_tasks: int, length: int) -> None:
    real = isinstance(budget, int | float | np.integer | np.floating)
    if isinstance(budget, bool) or not real:
        raise TypeError(f"budget must be a number of forward passes a sequence, got {budget!r}")
    least, most = 1 + n_tasks, 3 * length + 1
    if not least <= budget <= max(least, most):
        raise ValueError(
            f"budget must be from {least} (one gradient of {n_tasks} tasks) to {most} (ISM) "
            f"forward passes a sequence, got {budget}"
        )


def _check_base(base: Any, shape: tuple[int, ...]) -> Tensor | None:
    if isinstance(base, str):
        if base != "tism":
            raise ValueError(f'base must be "tism" or an estimate of shape {shape}, got {base!r}')
        return None
    base = numeric_tensor("base", base).cpu()
    if base.shape != shape or not base.is_floating_point() or not base.isfinite().all():
        raise ValueError(
            f"base must be finite floating-point numbers of shape {shape}, got "
            f"{base.dtype} of shape {tuple(base.shape)}"
        )
    return base


def _affordable(budget: float, rounds: int = 0, plan: Plan | None = None, n: int = 1) -> int:
    """Substitutions of each of n sequences that a budget buys; without a plan, in full."""
    if plan is None:
        return max(0, math.floor(budget - _REFERENCE))
    batches = (rounds + _TRIAL) * plan.batch_cost / min(n, plan.sequences)
    each = _WINDOWED * (plan.row_cost + plan.batch_cost / plan.batch_size)
    return max(0, math.floor((budget - _KEPT_REFERENCE - batches) / each))


def _rounds(budget: float, plan: Plan | None, n: int) -> int:
    """In how many rounds a budget for each of n sequences is spent."""
    if plan is None:
        return _ROUNDS
    of_one = plan.batch_cost / min(n, plan.sequences)
    return max(1, min(_ROUNDS, int(_OF_ROUNDS * (budget - _KEPT_REFERENCE) / of_one)))


def _refined(
    predict: Predictor,
    one_hot: Tensor,
    tasks: Tasks,
    base: Tensor,
    k: int,
    rounds: int,
    plan: Plan | None,
    batch_size: int | None,
    progress: bool,
) -> Budgeted:
    """Refine blocks of sequences whose kept activations fit into memory."""
    exact = torch.zeros(one_hot.shape, dtype=torch.bool)
    result = Budgeted(torch.empty_like(base), exact, torch.empty_like(base))
    one_hot = one_hot.cpu()

    def step(first: int, last: int) -> None:
        effects = exact_effects(predict, one_hot[first:last], tasks, plan, batch_size)
        block = refine(base[first:last], one_hot[first:last], effects, k, rounds)
        for whole, part in zip(result, block, strict=True):
            whole[first:last] = part

    at_once = choose_batch_size(None, one_hot.shape[2], predict.device)
    with progress_bar(len(one_hot), progress, "budgeted ISM") as report:
        in_batches(len(one_hot), plan.sequences if plan else at_once, step, report=report)
    return result


def exact_effects(
    predict: Predictor,
    one_hot: Tensor,
    tasks: Tasks,
    plan: Plan | None,
    batch_size: int | None,
) -> Callable[[Tensor], Tensor]:
    """A function from a choice of substitutions, (n, 4, length), to (chosen, n_tasks) effects.

    plan : of the windowed engine; None runs every substituted sequence in full
    """
    sequences = predict.prepare(one_hot)
    if plan:
        windows, size = Windows(predict, sequences, plan.prepared), plan.batch_size
        compute, n_tasks = windows.effects, windows.output.shape[1]
    else:
        size = choose_batch_size(batch_size, one_hot.shape[2], predict.device)
        reference = torch.cat([predict(rows.clone()) for rows in sequences.split(size)])
        n_tasks = reference.shape[1]

        def compute(row: np.ndarray, position: np.ndarray, base: np.ndarray) -> Tensor:
            return predict(put_bases(sequences[row], position, base)) - reference[row]

    index = select_tasks(tasks, n_tasks)

    def effects(chosen: Tensor) -> Tensor:
        if not chosen.any():
            return torch.empty(0, len(index))
        row, base, position = (numbers.numpy() for numbers in chosen.nonzero(as_tuple=True))
        found, _ = by_position(compute, (row, position, base), size, lambda rows: None)
        return found[:, index].cpu()

    return effects


def refine(
    base: Tensor,
    one_hot: Tensor,
    effects: Callable[[Tensor], Tensor],
    k: int,
    rounds: int = _ROUNDS,
) -> Budgeted:
    """Replace k entries of an estimate by exact ones, and learn from them for the others.

    base : (n, tasks, 4, length)
    effects : from a choice of substitutions, (n, 4, length), to (chosen, tasks) exact effects
    rounds : in which they are chosen, each by what those before it found
    """
    substituted = one_hot == 0
    exact = torch.zeros_like(substituted)
    found, estimate = torch.zeros_like(base), base * substituted[:, None]
    uncertainty = size = expected_size(estimate)
    for number in np.diff(np.linspace(0, k, rounds + 1).astype(int)):
        chosen = choose(estimate, substituted & ~exact, number)
        if not chosen.any():
            continue
        found.movedim(1, -1)[chosen] = effects(chosen).to(base.dtype)
        exact |= chosen
        surprise = _mean_square((found - estimate) / size, chosen[:, None])
        estimate = update(base, found, exact) * substituted[:, None]
        size = expected_size(estimate)
        uncertainty = size * surprise.sqrt()
    exact |= ~substituted
    return Budgeted(estimate, exact, uncertainty * ~exact[:, None])


def _mean_square(values: Tensor, of: Tensor) -> Tensor:
    total = (values * of).square().sum((2, 3), keepdim=True)
    return total / of.sum((2, 3), keepdim=True).clamp(min=1)


def choose(estimate: Tensor, open_: Tensor, k: int) -> Tensor:
    """(n, 4, length): the k `open_` substitutions of each sequence with the largest estimates.

    Each task counts by its share of the sum of squares. Where an estimate says nothing, the
    substitutions are spread over the sequence.
    """
    square = estimate.square()
    share = square / square.sum((2, 3), keepdim=True).clamp(min=1e-30)
    share = share.nan_to_num(0).sum(1)  # a task without finite numbers has no say
    number = torch.arange(share[0].numel(), dtype=torch.float64).view(share.shape[1:])
    share = share + 1e-12 * (number * 0.618034 % 1)  # of equal ones, some a golden section apart
    share = share.masked_fill(~open_, -1).flatten(1)
    top = share.topk(min(k, share.shape[1]), 1).indices
    chosen = torch.zeros_like(share, dtype=torch.bool).scatter_(1, top, True)
    return chosen.view_as(open_) & open_


def update(base: Tensor, effects: Tensor, exact: Tensor) -> Tensor:
    """Carry what exact effects tell about the base estimate over to the other substitutions.

    The base is multiplied by a slope, and moved by the mean of its errors nearby, both shrunk
    towards no change. Errors are measured in units of the effects expected around them.

    base, effects : (n, tasks, 4, length); effects count where `exact`, (n, 4, length)
    """
    exact = exact[:, None]
    line = base * slope(base, effects * exact, exact)
    size = expected_size(torch.where(exact, effects, line), _OWN)
    error = torch.where(exact, (effects - line) / size, 0.0).sum(2)
    count = nearby(exact.to(base.dtype).sum(2)) + _SHIFT_PRIOR
    shift = (nearby(error) / count)[:, :, None]
    return torch.where(exact, effects, line + size * shift)


def slope(base: Tensor, effects: Tensor, exact: Tensor) -> Tensor:
    """(n, tasks, 1, 1): of the exact effects on the base, through 0, shrunk towards 1."""
    square = (base * exact).square().sum((2, 3), keepdim=True)
    product = (base * effects).sum((2, 3), keepdim=True)
    share, number = _SLOPE_PRIOR
    share = share + number / exact.sum((2, 3), keepdim=True).clamp(min=1)
    prior = share * square + torch.finfo(base.dtype).tiny
    return ((product + prior) / (square + prior)).clamp(*_SLOPES)


def expected_size(guess: Tensor, own: float = 0) -> Tensor:
    """Root mean square of the effects at an entry, those nearby and all; 1 where all are zero.

    own : weight of the entry itself; those nearby and all of them share the rest
    """
    square = guess.square()
    position = square.sum(2, keepdim=True) / 3  # (n, tasks, 1, length)
    near = nearby(position[:, :, 0]) / nearby(torch.ones_like(position[:1, :1, 0]))
    around = (near[:, :, None] + position.mean(3, keepdim=True)) / 2
    size = (own * square + (1 - own) * around).sqrt()
    return size.masked_fill(size == 0, 1)


def nearby(values: Tensor) -> Tensor:
    """Sums over positions, weights falling off exponentially; (n, tasks, length)."""
    far = int(4 * _REACH)
    kernel = torch.exp(-torch.arange(-far, far + 1).abs() / _REACH).to(values)
    flat = values.flatten(0, 1)[:, None]
    return F.conv1d(flat, kernel[None, None], padding=far)[:, 0].view_as(values)
