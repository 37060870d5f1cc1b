"""How well TISM agrees with ISM on one profile, judged from a few exact substitutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tism.budgeted import ExactEffects, expected_size, refine
from tism.correlations import profile_correlation
from tism.engine.choice import Plan, by_engine
from tism.first_order import taylor_scores
from tism.predictor import OutputFn, job_of
from tism.running import Tasks, checked_seed, in_one_tensor, whole_number

_RELIABLE = 0.7  # the paper's mean over regions and cell types
_WORDS = "unreliable", "unclear", "reliable", "undefined"
_HIGHEST = 0.999  # an estimated correlation is not taken beyond this
_ONE_IN, _ROUNDS = 5, 3  # one in five exact effects are the largest, chosen in three rounds


class Calibration(NamedTuple):
    """Errors of estimated correlations on the scale of atanh, fitted in chapter 07.

    scale, power, decay : the size of an error is scale * `effective_number` ** power *
        factor ** decay, larger where the share is below 1; see `sampling_factors`
    bias : atanh of an estimate is divided by 1 + bias * factor * share
    low, high : 5 % and 95 % quantiles of the errors without bias, in units of their size
    """

    scale: float
    power: float
    decay: float
    bias: float
    low: float
    high: float


# of `tism.study.ch07_estimators.fit_calibration` for data/calibration.csv
CALIBRATION = Calibration(0.764, -0.3945, 0.643, 0.343, -1.701, 2.684)
_INFERRED = 0.4  # weight, on the scale of atanh, of the correlation with the estimate of ISM
_DRAWN, _SUBSTITUTIONS = 60, 753  # at which the sampling factor is 1; the latter are 251 bp
_LARGEST = 300  # effective numbers of the calibration do not exceed this


class Reliability(NamedTuple):
    """Result of `reliability`, with a value for each sequence and task.

    r : (n, n_tasks) estimated Pearson correlation of TISM with ISM over all entries
    low, high : (n, n_tasks) interval that holds the true correlation of 90 % of profiles
    word : n lists of n_tasks words: "reliable" if the interval is above 0.7, "unreliable" if it is
        below, "unclear" if it contains 0.7, "undefined" if TISM or ISM is constant
    """

    r: Tensor
    low: Tensor
    high: Tensor
    word: list[list[str]]


Uniform = tuple[Tensor, Tensor]  # numbers between 0 and 1, (n, 4 * length) and (n, 1)


def reliability(
    model: nn.Module,
    one_hot: Any,
    tasks: Tasks = None,
    *,
    m: int = 60,
    seed: int = 0,
    engine: str = "auto",
    start: int = 0,
    stop: int | None = None,
    args: Sequence[Any] = (),
    output_fn: OutputFn | None = None,
    autocast: torch.dtype | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Reliability:
    """Correlation of TISM with ISM, estimated from m exact substitutions.

    A fifth of them are chosen as in `budgeted_ism`. The rest are drawn with probabilities that grow
    with the expected effects, for a difference estimator (Särndal, Swensson and Wretman 1992,
    chapter 6) of the moments of the correlation, which is averaged with that of TISM and the best
    estimate of ISM. Average and interval are calibrated on other networks and sequences.

    m : exact substitutions of a sequence, for all tasks; with all of them r is exact up to 0.999
    seed : seed of the draw

    Other arguments, warnings and errors as in `tism.ism`. Costs TISM and m exact substitutions.

    >>> import torch, tism
    >>> model = tism.build_model("baseline", length=8, n_tasks=2, width=4, seed=0)
    >>> tism.reliability(model, tism.one_hot_encode("ACGTTGCA"), m=20).r.shape
    torch.Size([1, 2])
    """
    lent = {"output_fn": output_fn, "device": device, "args": args, "autocast": autocast}
    with job_of(model, one_hot, tasks, start, stop, batch_size, progress, **lent) as job:
        m, seed = _checked_m(m, job.stretch), checked_seed(seed)
        base = taylor_scores(replace(job, progress=False))

        def correlation(plan: Plan | None) -> Tensor:
            return _assess_all(ExactEffects(job, plan), base, m, seed)

        r = by_engine(engine, job, len(base) * m, correlation)
        return calibrated(r, effective_number(base), *sampling_factors(job.stretch == 0, m))


def _assess_all(exact: ExactEffects, base: Tensor, m: int, seed: int) -> Tensor:
    """`assess` of all sequences, as many at a time as fit into memory."""
    stretch = exact.job.stretch
    order, begin = uniform(len(base), stretch[0].numel(), seed)

    def found(i: int, j: int) -> Tensor:
        effects = exact.of(i, j, check=i == 0)
        return assess(base[i:j], stretch[i:j], effects, m, (order[i:j], begin[i:j]))

    with exact.job.bar("reliability") as report:
        return in_one_tensor(len(base), exact.at_once, found, report)[0]


def _checked_m(m: Any, one_hot: Tensor) -> int:
    m = whole_number("m", m)
    most = int((one_hot == 0).sum((1, 2)).min())
    if most < 10:
        raise ValueError(f"one_hot has {most} substitutions in a sequence; at least 10 are needed")
    if not 10 <= m <= most:
        raise ValueError(f"m must be from 10 to {most} substitutions of a sequence, got {m}")
    return m


def uniform(n: int, entries: int, seed: int) -> Uniform:
    """Random numbers for `draw`; those of a sequence do not depend on the sequences after it."""
    on_cpu = {"generator": torch.Generator().manual_seed(seed), "device": "cpu"}
    rows = [
        (
            torch.rand(entries, dtype=torch.float32, **on_cpu),
            torch.rand(1, dtype=torch.float64, **on_cpu),
        )
        for _ in range(n)
    ]
    order, begin = zip(*rows, strict=True)
    return torch.stack(order), torch.stack(begin)


def assess(
    base: Tensor,
    one_hot: Tensor,
    effects: Callable[[Tensor], Tensor],
    m: int,
    numbers: Uniform,
) -> Tensor:
    """(n, tasks) correlation of `base` with ISM from m exact effects, not calibrated.

    base : (n, tasks, 4, length)
    effects : maps chosen substitutions, (n, 4, length) bool, to (chosen, tasks) exact effects
    numbers : for `draw`
    """
    largest = m // _ONE_IN
    estimate, exact, _ = refine(base, one_hot, effects, largest, _ROUNDS)
    drawn, probability = draw(estimate, ~exact, m - largest, numbers)
    found = estimate.clone()
    found.movedim(1, -1)[drawn] = effects(drawn).to(base.dtype)
    sampled = correlation(base, estimate, found, drawn, probability)
    inferred = profile_correlation(base, found).clamp(-_HIGHEST, _HIGHEST)
    weight = _INFERRED * sampling_factors(one_hot == 0, m)[1]
    return ((1 - weight) * sampled.atanh() + weight * inferred.atanh()).tanh()


def draw(base: Tensor, substituted: Tensor, m: int, numbers: Uniform) -> tuple[Tensor, Tensor]:
    """m drawn substitutions of each sequence, and every substitution's probability of being drawn.

    base : (n, tasks, 4, length) estimate of the effects
    substituted : (n, 4, length) bool, what may be drawn
    numbers : uniform in 0 to 1, (n, 4 * length) and (n, 1) in float64

    Systematic sampling in random order, with probabilities proportional to the expected size of an
    effect. Tasks share the draw. Returns (n, 4, length) bool and float64.
    """
    square = expected_size(base, 0.5).double().square() * substituted[:, None]
    share = (square / square.sum((2, 3), keepdim=True)).nan_to_num(0)  # a constant task has none
    size = share.mean(1).sqrt().flatten(1)
    probability = _in_proportion(size, m)
    order, begin = numbers[0].argsort(1), numbers[1]
    passed = (probability.gather(1, order).cumsum(1) + begin).clamp(max=m + begin).floor()
    hit = passed.diff(dim=1, prepend=torch.zeros_like(begin)) > 0
    drawn = torch.zeros_like(hit).scatter_(1, order, hit)
    return drawn.view_as(substituted), probability.view(substituted.shape)


def _in_proportion(size: Tensor, m: int) -> Tensor:
    """Probabilities proportional to the sizes in a row, each at most 1, that add up to m."""
    certain = torch.zeros_like(size, dtype=torch.bool)
    while True:
        rest = size.masked_fill(certain, 0)
        share = (m - certain.sum(1, keepdim=True)) / rest.sum(1, keepdim=True).clamp(min=1e-300)
        probability = torch.where(certain, 1.0, rest * share)
        if not (probability > 1).any():
            return probability
        certain |= probability >= 1


def correlation(
    base: Tensor, estimate: Tensor, effects: Tensor, drawn: Tensor, probability: Tensor
) -> Tensor:
    """(n, tasks) correlation of `base` with ISM over all entries, from the `drawn` effects.

    base, estimate, effects : (n, tasks, 4, length); effects count where `drawn`, (n, 4, length)

    A sum over ISM is the sum over the estimate plus the weighted corrections of the drawn effects.
    """
    weight = torch.where(drawn, 1 / probability, 0.0)[:, None]
    x, y, estimate = base.double(), effects.double(), estimate.double()

    def mean(estimated: Tensor, exact: Tensor) -> Tensor:
        return (estimated + weight * (exact - estimated)).mean((2, 3))

    x = x - x.mean((2, 3), keepdim=True)
    variance = mean(estimate.square(), y.square()) - mean(estimate, y).square()
    r = mean(estimate * x, y * x) / (variance * x.square().mean((2, 3))).sqrt()
    return r.clamp(-_HIGHEST, _HIGHEST).masked_fill(~(variance > 0), float("nan"))


def effective_number(base: Tensor) -> Tensor:
    """(n, tasks) participation ratio of squared scores; the count of entries if all are alike."""
    square = base.double().square()
    return square.sum((2, 3)).square() / square.square().sum((2, 3))


def sampling_factors(substituted: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Factor of the sampling error, and share of its full weight that the estimate of ISM gets.

    substituted : (n, 4, length) bool, the substitutions among which m are drawn

    Returns (n, 1) each. The factor is 1 for 60 of 753 substitutions and 0 for all of them. The
    share is 1 up to 251 bp and falls in longer sequences, of which m substitutions tell less.
    """
    total = substituted.sum((1, 2))[:, None].double()
    variance = (1 / m - 1 / total).clamp(min=0) / (1 / _DRAWN - 1 / _SUBSTITUTIONS)
    return variance.sqrt(), (_SUBSTITUTIONS / total).clamp(max=1)


def calibrated(
    r: Tensor, number: Tensor, factor: Tensor, share: Tensor, constants: Calibration = CALIBRATION
) -> Reliability:
    """The estimate without its bias, with the 90 % interval.

    r, number, factor, share : (n, tasks) from `assess`, `effective_number`, `sampling_factors`
    """
    z = r.atanh() / (1 + constants.bias * factor * share)
    size = constants.scale * number.clamp(max=_LARGEST) ** constants.power
    size = size * factor**constants.decay * (1 - _INFERRED * share) / (1 - _INFERRED)
    low, high = ((z - q * size).tanh() for q in (constants.high, constants.low))
    level = ((low >= _RELIABLE).int() + (high >= _RELIABLE)).masked_fill(low.isnan(), -1)
    words = [[_WORDS[each] for each in row] for row in level.tolist()]
    return Reliability(z.tanh(), low, high, words)
