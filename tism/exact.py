"""Exact in silico saturation mutagenesis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tism import predictor
from tism.engine.choice import Plan, by_engine
from tism.engine.window import Untraceable
from tism.running import (
    Report,
    Tasks,
    at_least_float32,
    full_precision,
    in_one_tensor,
    on_device,
    select_tasks,
    take_tasks,
    uncompiled,
)
from tism.sequence import Substitutions, put_bases, substitutions

_BATCHES_PER_BLOCK = 32


def ism(
    model: nn.Module,
    one_hot: Any,
    tasks: Tasks = None,
    *,
    engine: str = "auto",
    start: int = 0,
    stop: int | None = None,
    args: Sequence[Any] = (),
    output_fn: predictor.OutputFn | None = None,
    autocast: torch.dtype | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Tensor:
    """In silico saturation mutagenesis: f(sequence with base b at l) - f(sequence), all l and b.

    engine : "full" runs the model on every mutated sequence; "windowed" recomputes only what a
        substitution can change, after a trial against "full"; "auto" takes "windowed" if that
        trial succeeds and promises to be faster, and otherwise logs why not. Both round: where a
        model compares sums with a threshold that they reach exactly, either may be on either side
    batch_size : mutated sequences at once; None chooses; halved if memory runs out

    Other arguments, warnings and errors as in `input_gradient`; ValueError also names the function
    at which "windowed" cannot follow the model.

    Returns (n, n_tasks, 4, stop - start) on the CPU in float32, or the model's dtype if wider, in
    the unit of the model's output; exactly zero at reference bases. At an N all four bases are
    substitutions. "full" costs 3 * (stop - start) + 1 forward passes a sequence.

    >>> import torch, tism
    >>> model = tism.build_model("baseline", length=8, n_tasks=2, width=4, seed=0)
    >>> tism.ism(model, tism.one_hot_encode("ACGTACGT"), start=2, stop=5).shape
    torch.Size([1, 2, 4, 3])
    """
    lent = {"output_fn": output_fn, "device": device, "args": args, "autocast": autocast}
    with predictor.job_of(model, one_hot, tasks, start, stop, batch_size, progress, **lent) as job:
        return exact_scores(job, engine)


def predict(
    model: nn.Module,
    one_hot: Any,
    tasks: Tasks = None,
    *,
    args: Sequence[Any] = (),
    output_fn: predictor.OutputFn | None = None,
    autocast: torch.dtype | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Tensor:
    """The model's predictions, (n, n_tasks) on the CPU; arguments, dtype and errors as in `ism`."""
    lent = {"output_fn": output_fn, "device": device, "args": args, "autocast": autocast}
    with predictor.job_of(model, one_hot, tasks, 0, None, batch_size, progress, **lent) as job:

        def predictions(first: int, last: int) -> Tensor:
            owner, rows = job.part(first, last)
            output = owner(rows.clone())
            if first == 0:
                predictor.warn_if_unstable(owner, rows, output)
            return at_least_float32(take_tasks(output, select_tasks(tasks, output.shape[1])))

        with job.bar("predictions") as report:
            found, _ = in_one_tensor(len(job.one_hot), job.at_once(), predictions, report=report)
    return predictor.warn_if_not_finite(found, "predicted")


def exact_scores(job: predictor.Job, engine: str) -> Tensor:
    """`ism` of a job, by windows if the engine asks for them and they work out, else in full."""
    total = int((job.stretch == 0).sum())
    scores = by_engine(
        engine, job, total, lambda plan: _windowed_ism(job, plan) if plan else _full_ism(job)
    )
    return predictor.warn_if_not_finite(scores, "ISM")


def in_blocks(
    job: predictor.Job, label: str, size: int, effects_of: Callable[..., Tensor], smallest: int = 1
) -> Tensor:
    """Scores of all sequences, `size` at once, from the effects of their substitutions.

    effects_of : function of a predictor, the sequences where it runs, their substitutions, a
        function that is told of finished sequences, and True for the first block; it returns
        (substitutions, tasks) effects
    smallest : blocks of so many sequences are not halved if memory runs out
    """

    def score(first: int, last: int) -> Tensor:
        changed = substitutions(job.one_hot[first:last], job.window)
        effects = effects_of(*job.part(first, last), changed, report, first == 0)
        return scores_of_effects(effects, changed, job.window)

    with job.bar(label) as report:
        return in_one_tensor(len(job.one_hot), size, score, smallest=smallest)[0]


def _windowed_ism(job: predictor.Job, plan: Plan) -> Tensor:
    """ISM on windows, for as many sequences at once as the kept activations allow."""
    batch_size = plan.batch_size

    def effects_of(predict, sequences, changed, report, check) -> Tensor:
        nonlocal batch_size
        windows = plan.windows(predict, sequences)
        chosen = job.chosen(windows.output.shape[1])
        index = on_device(np.array(chosen), predict.device)

        def run(*batch: np.ndarray) -> Tensor:
            return windows.effects(*batch).index_select(1, index)

        effects, batch_size = by_position(run, changed, batch_size, report)
        if check:
            check_windows(job, predict, sequences, windows.output, changed, effects)
            predictor.warn_if_rounded(predict, windows.output[:, chosen], effects)
        return effects

    return in_blocks(job, "ISM", plan.sequences, effects_of)


def check_windows(
    job: predictor.Job,
    predict: predictor.Predictor,
    sequences: Tensor,
    output: Tensor,
    changed: Substitutions,
    effects: Tensor,
) -> None:
    """Check on the whole model the largest effect, and the first that is not finite.

    output, effects : (n, tasks) of all tasks and (substitutions, chosen tasks)

    Where the whole model gives another effect, it warns if the model is unstable; if it is stable,
    windows are wrong, and it raises Untraceable.
    """
    largest = int(effects.abs().nan_to_num(0, 0).amax(1).argmax())
    strange = (~effects.isfinite().all(1)).nonzero()[:1].flatten().tolist()
    chosen = job.chosen(output.shape[1])
    for number in {largest, *strange}:
        row, position, base = (numbers[number : number + 1] for numbers in changed)
        owner, mutant = predict.of(row), put_bases(sequences[row], position, base)
        with full_precision(predict.device), uncompiled():
            alone = owner(mutant)
            tolerance = predict.tolerance(alone, effects[number])
        alone = take_tasks(alone - output[row], chosen).to(effects)[0]
        if torch.allclose(alone, effects[number], rtol=0, atol=tolerance, equal_nan=True):
            continue
        if not predictor.warn_if_unstable(owner, sequences[row], output[row]):
            raise Untraceable("windows and the whole model disagree")
        return


def by_position(
    compute: Callable[..., Tensor], changed: Substitutions, batch_size: int, report: Report
) -> tuple[Tensor, int]:
    """compute(row, position, base) of all substitutions, batched by position so windows overlap.

    report : is told of finished sequences, as fractions

    Returns (substitutions, tasks) and the batch size that fitted.
    """
    n, order = changed[0].max() + 1, np.argsort(changed[1], kind="stable")

    def computed(start: int, stop: int) -> Tensor:
        return compute(*(numbers[order[start:stop]] for numbers in changed))

    effects, batch_size = in_one_tensor(
        len(order), batch_size, computed, lambda rows: report(rows * n / len(order)), on_cpu=False
    )
    return effects.index_select(0, on_device(np.argsort(order), effects.device)), batch_size


def _full_ism(job: predictor.Job) -> Tensor:
    """ISM by a forward pass for every mutated sequence, in blocks so that memory stays flat."""
    batch_size = job.at_once()

    def effects_of(predict, sequences, changed, report, check) -> Tensor:
        """Sequences and their substitutions run in one stream of batches."""
        nonlocal batch_size
        n, unstable = len(sequences), False
        row = on_device(np.concatenate([np.arange(n), changed[0]]), predict.device)
        position, base = on_device(np.stack(changed[1:]), predict.device)

        def predictions(start: int, stop: int) -> Tensor:
            nonlocal unstable
            batch, mutants = sequences[row[start:stop]], slice(max(start - n, 0), max(stop - n, 0))
            put_bases(batch[max(n - start, 0) :], position[mutants], base[mutants])
            owner, first = predict.of(row[start:stop]), check and start == 0
            output = owner(batch.clone() if first else batch)
            if first:
                unstable = predictor.warn_if_unstable(owner, batch, output)
            return at_least_float32(take_tasks(output, job.chosen(output.shape[1])))

        def done(rows: float) -> None:
            report(rows * n / len(row))

        predicted, batch_size = in_one_tensor(len(row), batch_size, predictions, done, on_cpu=False)
        effects = predicted[n:] - predicted[row[n:]]
        if check:
            if batch_size > 1 and not unstable:
                pair = _in_other_company(
                    job, predict, sequences, changed, predicted[n:], batch_size
                )
                predictor.warn_if_mixed(predict, *pair, effects)
            predictor.warn_if_rounded(predict, predicted[:n], effects)
        return effects

    block = max(1, batch_size * _BATCHES_PER_BLOCK // (3 * len(job.window)))
    return in_blocks(job, "ISM", block, effects_of, smallest=block)


def _in_other_company(
    job: predictor.Job,
    predict: predictor.Predictor,
    sequences: Tensor,
    changed: Substitutions,
    predicted: Tensor,
    batch_size: int,
) -> tuple[Tensor, Tensor]:
    """Predictions of one mutant of every batch: as they were made, and made again in other batches.

    predicted : (substitutions, chosen tasks)
    """
    every = np.arange(0, len(predicted), batch_size)

    def predictions(start: int, stop: int) -> Tensor:
        row, position, base = (numbers[every[start:stop]] for numbers in changed)
        output = predict.of(row)(put_bases(sequences[row], position, base))
        return take_tasks(output, job.chosen(output.shape[1])).to(predicted)

    again, _ = in_one_tensor(len(every), batch_size, predictions, on_cpu=False)
    return predicted[on_device(every, predicted.device)], again


def scores_of_effects(effects: Tensor, changed: Substitutions, window: range) -> Tensor:
    """(n, tasks, 4, window) from the effects of all substitutions, (substitutions, tasks)."""
    row, position, base = changed
    place = on_device((row * 4 + base) * len(window) + position - window.start, effects.device)
    scores = effects.new_zeros(((row.max() + 1) * 4 * len(window), effects.shape[1]))
    scores.index_copy_(0, place, effects)
    return scores.unflatten(0, (-1, 4, len(window))).permute(0, 3, 1, 2)
