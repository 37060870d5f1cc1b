"""How well TISM agrees with ISM on one profile, from a few exact substitutions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tism.budgeted import exact_effects, expected_size, refine
from tism.correlations import profile_correlation
from tism.exact import plan_of_engine
from tism.first_order import tism
from tism.running import (
    OutputFn,
    Tasks,
    checked_seed,
    choose_batch_size,
    evaluating,
    in_batches,
    progress_bar,
    whole_number,
)
from tism.sequence import validate_one_hot

_RELIABLE = 0.7  # the paper's mean over regions and cell types
_LARGEST = 0.999  # of an estimated correlation
_OF_LARGEST, _ROUNDS = 5, 3  # one in five exact effects are the largest, chosen in three rounds


class Calibration(NamedTuple):
    """Errors of estimated correlations on the scale of atanh, fitted in chapter 07.

    scale, power, decay : their size is scale * (effective number of substitutions) ** power *
        `chance` ** decay
    bias : atanh of an estimate is divided by 1 + bias * `chance`
    low, high : quantiles of 5 and 95 % of the errors without bias, in units of their size
    """

    scale: float
    power: float
    decay: float
    bias: float
    low: float
    high: float


# fitted by chapter 07 to data/results/yeast/calibration.csv
CALIBRATION = Calibration(0.764, -0.3945, 0.643, 0.343, -1.701, 2.684)
_INFERRED = 0.4  # weight, on the scale of atanh, of the correlation with the estimate of ISM
_DRAWN, _OF = 60, 753  # to which the scale belongs


class Reliability(NamedTuple):
    """Result of `reliability`; every field has a value for each sequence and task.

    r : (n, n_tasks) estimated Pearson correlation of TISM with ISM over all 4 * length entries
    low, high : (n, n_tasks) interval that holds the correlation of 90 % of profiles
    word : n lists of n_tasks words: "reliable" where the interval is above 0.7, "unreliable" where
        it is below, "unclear" between, "undefined" where TISM or ISM is constant
    """

    r: Tensor
    low: Tensor
    high: Tensor
    word: list[list[str]]


def reliability(
    model: nn.Module,
    one_hot: Any,
    tasks: Tasks = None,
    *,
    m: int = 60,
    seed: int = 0,
    engine: str = "auto",
    output_fn: OutputFn | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Reliability:
    """Can TISM be trusted on this sequence? Its correlation with ISM, from m exact substitutions.

    A fifth of the substitutions are those with the largest effects, as in `budgeted_ism`. The rest
    are drawn with probabilities that grow with the effects expected around them, and correct by the
    inverse of these probabilities what the first fifth let one expect: a difference estimator
    (Särndal, Swensson and Wretman 1992, chapter 6) of the moments that make up a correlation. It is
    averaged with the correlation of TISM and the best estimate of ISM, which scatters less. The
    average and its interval are calibrated on other networks and sequences.

    m : exact substitutions of each sequence, for all tasks; with all of them r is exact
    seed : of the draw

    Other arguments as in `tism.ism`. Costs TISM and m exact substitutions a sequence.
    Raises TypeError or ValueError naming the argument that is wrong.

    >>> import torch, tism
    >>> model = tism.build_model("baseline", length=20, n_tasks=2, width=4, seed=0)
    >>> sequence = tism.one_hot_encode("ACGTACGTTTGACCATGACA")
    >>> tism.reliability(model, sequence, m=20).r.shape
    torch.Size([1, 2])
    """
    one_hot = validate_one_hot(one_hot)
    m = _checked_m(m, one_hot)
    first = tism(model, one_hot, tasks, output_fn=output_fn, batch_size=batch_size, device=device)
    parts: list[tuple[Tensor, Tensor]] = []
    generator = torch.Generator().manual_seed(checked_seed(seed))
    with evaluating(model, output_fn, device) as predict, torch.no_grad():
        plan = plan_of_engine(engine, predict, one_hot, len(one_hot) * m, batch_size)

        def step(start: int, stop: int) -> None:
            some = one_hot[start:stop].cpu()
            effects = exact_effects(predict, some, tasks, plan, batch_size)
            r = assess(first[start:stop], some, effects, m, generator)
            number, left = effective_number(first[start:stop]), chance(some == 0, m)
            parts.append((r, number, left.expand_as(number)))

        at_once = choose_batch_size(None, one_hot.shape[2], predict.device)
        with progress_bar(len(one_hot), progress, "reliability") as report:
            in_batches(len(one_hot), plan.sequences if plan else at_once, step, report=report)
    return calibrated(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _checked_m(m: Any, one_hot: Tensor) -> int:
    m = whole_number("m", m)
    most = int((one_hot == 0).sum((1, 2)).min())
    if most < 10:
        raise ValueError(f"one_hot has {most} substitutions in a sequence; at least 10 are needed")
    if not 10 <= m <= most:
        raise ValueError(f"m must be from 10 to {most} substitutions of a sequence, got {m}")
    return m


def assess(
    base: Tensor,
    one_hot: Tensor,
    effects: Callable[[Tensor], Tensor],
    m: int,
    generator: torch.Generator,
) -> Tensor:
    """(n, tasks): correlation of `base` with ISM from m exact effects, not calibrated.

    base : (n, tasks, 4, length)
    effects : from a choice of substitutions, (n, 4, length), to (chosen, tasks) exact effects
    """
    largest = m // _OF_LARGEST
    guess, exact, _ = refine(base, one_hot, effects, largest, _ROUNDS)
    drawn, probability = draw(guess, ~exact, m - largest, generator)
    found = guess.clone()
    found.movedim(1, -1)[drawn] = effects(drawn).to(base.dtype)
    sampled = correlation(base, guess, found, drawn, probability)
    inferred = profile_correlation(base, found).clamp(-_LARGEST, _LARGEST)
    return ((1 - _INFERRED) * sampled.atanh() + _INFERRED * inferred.atanh()).tanh()


def draw(
    base: Tensor, substituted: Tensor, m: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """m substitutions of each sequence, and the probability that each had to be among them.

    base : (n, tasks, 4, length) estimate of the effects
    substituted : (n, 4, length) what may be drawn

    Systematic sampling in random order with probabilities in proportion to the expected size of an
    effect; tasks share the draw. Returns (n, 4, length) bool and float64.
    """
    square = expected_size(base, 0.5).double().square() * substituted[:, None]
    share = (square / square.sum((2, 3), keepdim=True)).nan_to_num(0)  # of tasks without numbers
    size = share.mean(1).sqrt().flatten(1)
    probability = _in_proportion(size, m)
    order = torch.rand(size.shape, generator=generator).argsort(1)
    begin = torch.rand(len(size), 1, generator=generator, dtype=torch.float64)
    passed = (probability.gather(1, order).cumsum(1) + begin).clamp(max=m + begin).floor()
    hit = passed.diff(dim=1, prepend=torch.zeros_like(begin)) > 0
    drawn = torch.zeros_like(hit).scatter_(1, order, hit)
    return drawn.view_as(substituted), probability.view(substituted.shape)


def _in_proportion(size: Tensor, m: int) -> Tensor:
    """Probabilities in proportion to the sizes of a row, at most 1 each, m in all."""
    certain = torch.zeros_like(size, dtype=torch.bool)
    while True:
        rest = size.masked_fill(certain, 0)
        share = (m - certain.sum(1, keepdim=True)) / rest.sum(1, keepdim=True).clamp(min=1e-300)
        probability = torch.where(certain, 1.0, rest * share)
        if not (probability > 1).any():
            return probability
        certain |= probability >= 1


def correlation(
    base: Tensor, guess: Tensor, effects: Tensor, drawn: Tensor, probability: Tensor
) -> Tensor:
    """(n, tasks): correlation of `base` with ISM, over all entries, from `drawn` effects.

    base, guess, effects : (n, tasks, 4, length); effects count where `drawn`, (n, 4, length)

    A sum over ISM is that over the guess, plus the weighted sum of what the drawn effects add.
    """
    weight = torch.where(drawn, 1 / probability, 0.0)[:, None]
    x, y, guess = base.double(), effects.double(), guess.double()

    def mean(of_guess: Tensor, of_effect: Tensor) -> Tensor:
        return (of_guess + weight * (of_effect - of_guess)).mean((2, 3))

    x = x - x.mean((2, 3), keepdim=True)
    variance = mean(guess.square(), y.square()) - mean(guess, y).square()
    r = mean(guess * x, y * x) / (variance * x.square().mean((2, 3))).sqrt()
    return r.clamp(-_LARGEST, _LARGEST).masked_fill(~(variance > 0), float("nan"))


def effective_number(base: Tensor) -> Tensor:
    """(n, tasks): of substitutions that carry the sum of squares; as many where all are alike."""
    square = base.double().square()
    return square.sum((2, 3)).square() / square.square().sum((2, 3))


def chance(substituted: Tensor, m: int) -> Tensor:
    """(n, 1): what m drawn substitutions leave to chance; 1 for 60 of 753, 0 where all are drawn.

    substituted : (n, 4, length) what may be drawn
    """
    left = 1 / m - 1 / substituted.sum((1, 2), keepdim=True)[:, :, 0]
    return (left.clamp(min=0) / (1 / _DRAWN - 1 / _OF)).sqrt()


def calibrated(
    r: Tensor, number: Tensor, left: Tensor, how: Calibration = CALIBRATION
) -> Reliability:
    """The estimate without its bias, and the interval of 90 %.

    r, number, left : (n, tasks) of `assess`, `effective_number` and `chance`
    """
    z = r.atanh() / (1 + how.bias * left)
    size = how.scale * number**how.power * left**how.decay
    low, high = ((z - quantile * size).tanh() for quantile in (how.high, how.low))
    words = [_words(*ends) for ends in zip(low, high, strict=True)]
    return Reliability(z.tanh(), low, high, words)


def _words(low: Tensor, high: Tensor) -> list[str]:
    def word(low: float, high: float) -> str:
        if math.isnan(low):
            return "undefined"
        if low >= _RELIABLE:
            return "reliable"
        return "unreliable" if high < _RELIABLE else "unclear"

    return [word(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True)]
