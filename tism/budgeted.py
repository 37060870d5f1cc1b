"""Budgeted ISM: a chosen number of exact substitutions, the rest estimated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tism.engine.choice import Plan, by_engine
from tism.exact import by_position, check_windows, exact_scores
from tism.first_order import taylor_scores
from tism.predictor import (
    Job,
    OutputFn,
    Predictor,
    job_of,
    warn_if_not_finite,
    warn_if_unstable,
)
from tism.running import (
    Tasks,
    at_least_float32,
    in_batches,
    on_device,
    select_tasks,
    take_tasks,
    whole_number,
)
from tism.sequence import numeric_tensor, put_bases

_ROUNDS = 6  # in which the substitutions are chosen
_SLOPE_PRIOR = 0.2, 0.5  # a slope of 1 weighs as much as this share of the evidence and this count
_SLOPES = 0.25, 2.0  # lower bound: one opposite effect cannot cancel the rest
_SHIFT_PRIOR = 3.0  # a shift of 0 weighs as much as this many substitutions
_REACH = 5.0  # positions over which the weight of a neighbour falls to 1/e
_ENTRY_WEIGHT = 0.5  # of an entry in the size of its own error; its surroundings have the rest


class Budgeted(NamedTuple):
    """Result of `budgeted_ism`.

    estimate : (n, n_tasks, 4, length) estimate of ISM, in the unit of the model's output
    exact : (n, 4, length) bool, True where the entry is exact for all tasks, as reference bases are
    uncertainty : (n, n_tasks, 4, length) standard deviation of the error; 0 where exact
    """

    estimate: Tensor
    exact: Tensor
    uncertainty: Tensor


def _refuse_budget(function: Callable[..., Budgeted]) -> Callable[..., Budgeted]:
    """Raise a TypeError that names `m` for `budget`, the argument of versions before 0.2."""

    @wraps(function)
    def checked(*arguments: Any, **options: Any) -> Budgeted:
        if "budget" in options:
            raise TypeError("budgeted_ism takes m, exact substitutions, in place of budget")
        return function(*arguments, **options)

    return checked


@_refuse_budget
def budgeted_ism(
    model: nn.Module,
    one_hot: Any,
    tasks: Tasks = None,
    *,
    m: int,
    base: Any = "tism",
    engine: str = "auto",
    start: int = 0,
    stop: int | None = None,
    args: Sequence[Any] = (),
    output_fn: OutputFn | None = None,
    autocast: torch.dtype | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Budgeted:
    """ISM estimated from `m` exact substitutions of each sequence and a first estimate of the rest.

    The largest estimates are run, in rounds that rescale and shift the others; tasks share them.

    m : exact substitutions of a sequence, from 0 (the base itself) to all of them (ISM)
    base : "tism", or any estimate, (n, n_tasks, 4, length), such as that of `layerwise_tism` or,
        where the model has no gradient, of a cheaper model

    Others, warnings and errors as in `tism.ism`. Costs the base and m substitutions a sequence.

    >>> import torch, tism
    >>> model = tism.build_model("baseline", length=8, n_tasks=2, width=4, seed=0)
    >>> int(tism.budgeted_ism(model, tism.one_hot_encode("ACGTACGT"), 0, m=3).exact.sum()) - 8
    3
    """
    lent = {"output_fn": output_fn, "device": device, "args": args, "autocast": autocast}
    with job_of(model, one_hot, tasks, start, stop, batch_size, progress, **lent) as job:
        if _is_everything(m, job.stretch):
            scores = exact_scores(job, engine)
            everything = torch.ones_like(scores[:, 0], dtype=torch.bool)
            return Budgeted(scores, everything, torch.zeros_like(scores))
        if isinstance(base, str) and base == "tism":
            base = taylor_scores(replace(job, progress=False))
        else:
            base = _checked_base(base, job)

        def estimate(plan: Plan | None) -> Budgeted:
            return _estimate_all(ExactEffects(job, plan), base, m)

        result = by_engine(engine, job, len(base) * m, estimate)
        warn_if_not_finite(result.estimate, "budgeted ISM")
        return result


def _is_everything(m: Any, one_hot: Tensor) -> bool:
    """Check `m`; True if it covers all substitutions of every sequence."""
    m, most = whole_number("m", m), int((one_hot == 0).sum((1, 2)).max())
    if not 0 <= m <= most:
        raise ValueError(f"m must be from 0 to {most} exact substitutions of a sequence, got {m}")
    return m == most


def _checked_base(base: Any, job: Job) -> Tensor:
    predict, rows = job.part(0, 1)
    output = predict(rows.clone())
    n_tasks = len(select_tasks(job.tasks, output.shape[1]))
    shape = (len(job.one_hot), n_tasks, 4, len(job.window))
    if isinstance(base, str):
        raise ValueError(f'base must be "tism" or an estimate of shape {shape}, got {base!r}')
    base = numeric_tensor("base", base).cpu()
    if base.shape != shape or not base.is_floating_point() or not base.isfinite().all():
        raise ValueError(
            f"base must be finite floating-point numbers of shape {shape}, got "
            f"{base.dtype} of shape {tuple(base.shape)}"
        )
    return base.to(torch.promote_types(torch.float32, output.dtype))


@dataclass(frozen=True)
class ExactEffects:
    """Exact effects of chosen substitutions within the window of a job.

    plan : of the windowed engine; None runs every substituted sequence in full
    """

    job: Job
    plan: Plan | None

    @property
    def at_once(self) -> int:
        """Number of sequences whose substitutions are chosen and run together."""
        return self.plan.sequences if self.plan else replace(self.job, batch_size=None).at_once()

    def of(self, first: int, last: int, check: bool) -> Callable[[Tensor], Tensor]:
        """A function from chosen substitutions, (last - first, 4, window) bool, to their effects.

        It returns (chosen, n_tasks) on the CPU.

        check : True to warn of an unstable model at the first substitutions
        """
        predict, sequences = self.job.part(first, last)
        if self.plan:
            windows = self.plan.windows(predict, sequences)
            compute, output, size = windows.effects, windows.output, self.plan.batch_size
        else:
            compute, output, size = self._in_full(predict, sequences, check)
        tasks = select_tasks(self.job.tasks, output.shape[1])

        def effects(chosen: Tensor) -> Tensor:
            nonlocal check
            if not chosen.any():
                return torch.empty(0, len(tasks), device="cpu")
            row, base, position = (numbers.numpy() for numbers in chosen.nonzero(as_tuple=True))
            substituted = row, position + self.job.window.start, base
            found = by_position(compute, substituted, size, lambda rows: None)[0]
            found = take_tasks(found, tasks)
            if check and self.plan:
                check_windows(self.job, predict, sequences, output, substituted, found)
            check = False
            return found.cpu()

        return effects

    def _in_full(self, predict: Predictor, sequences: Tensor, check: bool) -> tuple:
        """What runs substituted sequences, predictions of the references, and the batch size."""
        size = self.job.at_once()
        parts = (slice(start, start + size) for start in range(0, len(sequences), size))
        reference = torch.cat([predict.of(part)(sequences[part].clone()) for part in parts])
        reference = at_least_float32(reference)

        def compute(row: np.ndarray, position: np.ndarray, base: np.ndarray) -> Tensor:
            nonlocal check
            at = on_device(row, sequences.device)
            mutants, owner = put_bases(sequences[at], position, base), predict.of(at)
            output = owner(mutants.clone() if check else mutants)
            if check:
                warn_if_unstable(owner, mutants, output)
            check = check and len(mutants) == 1  # alone, which shows nothing of batch-mates
            return output - reference[at]

        return compute, reference, size


def _estimate_all(exact: ExactEffects, base: Tensor, m: int) -> Budgeted:
    """`refine` blocks of sequences whose kept activations fit into memory."""
    n, stretch = len(base), exact.job.stretch
    flags = torch.zeros_like(base[:, 0], dtype=torch.bool)
    result = Budgeted(torch.empty_like(base), flags, torch.empty_like(base))

    def step(first: int, last: int) -> None:
        effects = exact.of(first, last, check=first == 0)
        block = refine(base[first:last], stretch[first:last], effects, m)
        for whole, part in zip(result, block, strict=True):
            whole[first:last] = part

    with exact.job.bar("budgeted ISM") as report:
        in_batches(n, exact.at_once, step, report=report)
    return result


def refine(
    base: Tensor,
    one_hot: Tensor,
    effects: Callable[[Tensor], Tensor],
    m: int,
    rounds: int = _ROUNDS,
) -> Budgeted:
    """Replace m entries of an estimate by exact effects and learn from them for the others.

    base : (n, tasks, 4, length)
    effects : maps chosen substitutions, (n, 4, length) bool, to (chosen, tasks) exact effects
    rounds : in which they are chosen, each by what the rounds before it found
    """
    substituted = one_hot == 0
    exact, base = torch.zeros_like(substituted), base * substituted[:, None]
    found, estimate = torch.zeros_like(base), base
    uncertainty = size = expected_size(estimate)
    for count in np.diff(np.linspace(0, m, rounds + 1).astype(int)):
        chosen = choose(estimate, substituted & ~exact, count)
        if not chosen.any():
            continue
        found.movedim(1, -1)[chosen] = effects(chosen).to(base.dtype)
        exact |= chosen
        error = ((found - estimate) / size * chosen[:, None]).square().sum((2, 3), keepdim=True)
        surprise = error / chosen.sum((1, 2)).clamp(min=1)[:, None, None, None]
        estimate = update(base, found, exact) * substituted[:, None]
        size = expected_size(estimate)
        uncertainty = size * surprise.sqrt()
    exact |= ~substituted
    return Budgeted(estimate, exact, uncertainty * ~exact[:, None])


def choose(estimate: Tensor, allowed: Tensor, count: int) -> Tensor:
    """(n, 4, length) bool: the `allowed` substitutions of each sequence with the largest estimates.

    Each task counts by its share of the sum of squares. Where an estimate is flat, the chosen
    substitutions are spread over the sequence.
    """
    square = estimate.square()
    share = square / square.sum((2, 3), keepdim=True).clamp(min=1e-30)
    share = share.nan_to_num(0).sum(1)  # a task without finite numbers has no say
    number = torch.arange(share[0].numel(), dtype=torch.float64, device=share.device)
    number = number.view(share.shape[1:])
    share = share + 1e-12 * (number * 0.618034 % 1)  # break ties by a low-discrepancy order
    share = share.masked_fill(~allowed, -1).flatten(1)
    top = share.topk(min(count, share.shape[1]), 1).indices
    chosen = torch.zeros_like(share, dtype=torch.bool).scatter_(1, top, True)
    return chosen.view_as(allowed) & allowed


def update(base: Tensor, effects: Tensor, exact: Tensor) -> Tensor:
    """Estimate of all effects from the base and the exact ones.

    The base is multiplied by a slope and moved by the mean of its errors nearby; both are shrunk
    towards no change. Errors are measured in units of the effects expected around them.

    base, effects : (n, tasks, 4, length); effects count where `exact`, (n, 4, length) bool
    """
    exact = exact[:, None]
    line = base * slope(base, effects * exact, exact)
    size = expected_size(torch.where(exact, effects, line), _ENTRY_WEIGHT)
    error = torch.where(exact, (effects - line) / size, 0.0).sum(2)
    count = nearby(exact.to(base.dtype).sum(2)) + _SHIFT_PRIOR
    shift = (nearby(error) / count)[:, :, None]
    return torch.where(exact, effects, line + size * shift)


def slope(base: Tensor, effects: Tensor, exact: Tensor) -> Tensor:
    """(n, tasks, 1, 1) slope of the exact effects on the base through zero, shrunk towards 1."""
    square = (base * exact).square().sum((2, 3), keepdim=True)
    product = (base * effects).sum((2, 3), keepdim=True)
    share, count = _SLOPE_PRIOR
    share = share + count / exact.sum((2, 3), keepdim=True).clamp(min=1).to(base.dtype)
    prior = share * square + torch.finfo(base.dtype).tiny
    return ((product + prior) / (square + prior)).clamp(*_SLOPES)


def expected_size(estimate: Tensor, entry_weight: float = 0) -> Tensor:
    """Root mean square of the effects around each entry; 1 where all of them are zero.

    entry_weight : of the entry itself; positions nearby and the whole profile share the rest
    """
    square = estimate.square()
    position = square.sum(2, keepdim=True) / 3  # (n, tasks, 1, length)
    near = nearby(position[:, :, 0]) / nearby(torch.ones_like(position[:1, :1, 0]))
    around = (near[:, :, None] + position.mean(3, keepdim=True)) / 2
    size = (entry_weight * square + (1 - entry_weight) * around).sqrt()
    return size.masked_fill(size == 0, 1)


def nearby(values: Tensor) -> Tensor:
    """Sums over positions with exponentially falling weights; (n, tasks, length) to the same."""
    far = int(4 * _REACH)
    distance = torch.arange(-far, far + 1, dtype=values.dtype, device=values.device).abs()
    kernel = torch.exp(-distance / _REACH)
    flat = values.flatten(0, 1)[:, None]
    return F.conv1d(flat, kernel[None, None], padding=far)[:, 0].view_as(values)
