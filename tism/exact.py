"""Exact in silico saturation mutagenesis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tism.engine.choice import Plan, attempt, plan_of_engine
from tism.engine.replay import WindowedModel
from tism.engine.window import Untraceable
from tism.predictor import (
    OutputFn,
    Predictor,
    evaluating,
    selected_tasks,
    warn_if_not_finite,
    warn_if_rounded,
    warn_if_unstable,
)
from tism.running import (
    Tasks,
    choose_batch_size,
    full_precision,
    in_batches,
    in_one_tensor,
    on_device,
    progress_bar,
    select_positions,
    select_tasks,
    take_tasks,
    uncompiled,
)
from tism.sequence import put_bases, substitutions, validate_one_hot

_BATCHES_PER_BLOCK = 32
Substitutions = tuple[np.ndarray, np.ndarray, np.ndarray]  # sequence number, position, new base


def ism(
    model: nn.Module,
    one_hot: Any,
    tasks: Tasks = None,
    *,
    engine: str = "auto",
    start: int = 0,
    stop: int | None = None,
    args: Sequence[Any] = (),
    output_fn: OutputFn | None = None,
    autocast: torch.dtype | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Tensor:
    """In silico saturation mutagenesis: f(sequence with base b at l) - f(sequence), all l and b.

    engine : "full" runs the model on every mutated sequence; "windowed" recomputes only what a
        substitution can change, after a trial against "full"; "auto" takes "windowed" if that
        trial succeeds and promises to be faster, and otherwise logs why not
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
    one_hot = validate_one_hot(one_hot).cpu()
    window = select_positions(start, stop, one_hot.shape[2])
    lent = {"args": args, "n": len(one_hot), "autocast": autocast}
    with evaluating(model, output_fn, device, **lent) as predict, torch.no_grad():
        scores = _scores(predict, one_hot, tasks, window, engine, batch_size, progress)
    return warn_if_not_finite(scores, "ISM")


def predict(
    model: nn.Module,
    one_hot: Any,
    tasks: Tasks = None,
    *,
    args: Sequence[Any] = (),
    output_fn: OutputFn | None = None,
    autocast: torch.dtype | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Tensor:
    """The model's predictions, (n, n_tasks) on the CPU; arguments and errors as in `ism`."""
    one_hot = validate_one_hot(one_hot)
    lent = {"args": args, "n": len(one_hot), "autocast": autocast}
    with evaluating(model, output_fn, device, **lent) as predictor, torch.no_grad():

        def predictions(first: int, last: int) -> Tensor:
            rows, owner = predictor.prepare(one_hot[first:last]), predictor.of(slice(first, last))
            output = owner(rows.clone())
            if first == 0:
                warn_if_unstable(owner, rows, output)
            return take_tasks(output, select_tasks(tasks, output.shape[1]))

        batch_size = choose_batch_size(batch_size, one_hot.shape[2], predictor.device)
        with progress_bar(len(one_hot), progress, "predictions") as report:
            found, _ = in_one_tensor(len(one_hot), batch_size, predictions, report=report)
    return warn_if_not_finite(found, "predicted")


def _scores(
    predict: Predictor,
    one_hot: Tensor,
    tasks: Tasks,
    window: range,
    engine: str,
    batch_size: int | None,
    progress: bool,
) -> Tensor:
    """ISM by windows if the engine asks for them and they work out, else in full."""
    total = int((one_hot[:, :, window.start : window.stop] == 0).sum())
    plan = plan_of_engine(engine, predict, one_hot, window, total, batch_size)
    if plan is not None:
        scores = attempt(
            engine,
            predict,
            lambda: _windowed_ism(predict, plan, one_hot, tasks, window, progress),
        )
        if scores is not None:
            return scores
    batch_size = choose_batch_size(batch_size, one_hot.shape[2], predict.device)
    return _full_ism(predict, one_hot, tasks, window, batch_size, progress)


def substitutions_on_host(sequences: Tensor, window: range) -> Substitutions:
    """`substitutions` as arrays."""
    return tuple(numbers.numpy() for numbers in substitutions(sequences.cpu(), window))


def _windowed_ism(
    predict: Predictor, plan: Plan, one_hot: Tensor, tasks: Tasks, window: range, progress: bool
) -> Tensor:
    """ISM on windows, for as many sequences at once as the kept activations allow."""
    batch_size = plan.batch_size

    def score(first: int, last: int) -> Tensor:
        nonlocal batch_size
        sequences = predict.prepare(one_hot[first:last])
        windows = plan.windows(predict.of(slice(first, last)), sequences)
        chosen = selected_tasks(predict, tasks, windows.output.shape[1], len(window))
        index = on_device(np.array(chosen), windows.output.device)
        changed = substitutions_on_host(one_hot[first:last], window)
        effects, batch_size = by_position(
            lambda *batch: windows.effects(*batch).index_select(1, index),
            changed,
            batch_size,
            report,
        )
        if first == 0:
            _check_largest(windows, changed, effects, index)
        scores = scores_of_effects(effects, changed, window)
        if first == 0:
            warn_if_rounded(predict, windows.output[:, chosen], scores)
        return scores

    with progress_bar(len(one_hot), progress, "ISM") as report:
        return in_one_tensor(len(one_hot), plan.sequences, score)[0]


def _check_largest(
    windows: WindowedModel, changed: Substitutions, effects: Tensor, tasks: Tensor
) -> None:
    """Compare the largest effect with that of the mutated sequence alone, run in full.

    Warns if the model is unstable; raises Untraceable if windows are wrong.
    """
    number = int(effects.abs().nan_to_num(0, 0).amax(1).argmax())
    row, position, base = (numbers[number : number + 1] for numbers in changed)
    reference, predict = windows.sequences[row], windows.predict.of(row)
    with uncompiled(), full_precision(predict.device):
        alone = predict(put_bases(reference.clone(), position, base)) - windows.output[row]
        tolerance = predict.tolerance(windows.output[row], effects[number])
    if torch.allclose(
        alone[0, tasks].to(effects), effects[number], rtol=0, atol=tolerance, equal_nan=True
    ):
        return
    if not warn_if_unstable(predict, reference, windows.output[row]):
        raise Untraceable("windows and the whole model disagree")


def by_position(
    compute: Callable[..., Tensor],
    changed: Substitutions,
    batch_size: int,
    report: Callable[[float], None],
) -> tuple[Tensor, int]:
    """compute(row, position, base) of all substitutions, batched by position so windows overlap.

    report : is told of finished sequences, as fractions

    Returns (substitutions, tasks) and the batch size that fitted.
    """
    n, order = changed[0].max() + 1, np.argsort(changed[1], kind="stable")
    effects = None

    def step(start: int, stop: int) -> None:
        nonlocal effects
        batch = order[start:stop]
        result = compute(*(numbers[batch] for numbers in changed))
        if effects is None:
            effects = result.new_empty((len(order), result.shape[1]))
        effects.index_copy_(0, on_device(batch, result.device), result)

    batch_size = in_batches(
        len(order), batch_size, step, report=lambda rows: report(rows * n / len(order))
    )
    return effects, batch_size


def _full_ism(
    predict: Predictor,
    one_hot: Tensor,
    tasks: Tasks,
    window: range,
    batch_size: int,
    progress: bool,
) -> Tensor:
    """ISM by a forward pass for every mutated sequence, in blocks so that memory stays flat."""
    block = max(1, batch_size * _BATCHES_PER_BLOCK // (3 * len(window)))
    scores = None
    with progress_bar(len(one_hot), progress, "ISM") as report:
        for first in range(0, len(one_hot), block):
            sequences = predict.prepare(one_hot[first : first + block])
            owner = predict.of(slice(first, first + block))
            changed = substitutions_on_host(one_hot[first : first + block], window)
            effects, references, batch_size = _effects_in_full(
                owner, sequences, changed, tasks, len(window), batch_size, report, check=first == 0
            )
            part = scores_of_effects(effects, changed, window)
            if first == 0:
                warn_if_rounded(predict, references, part)
            if scores is None:
                scores = torch.empty((len(one_hot), *part.shape[1:]), dtype=part.dtype)
            scores[first : first + block] = part
    return scores


def _effects_in_full(
    predict: Predictor,
    sequences: Tensor,
    changed: Substitutions,
    tasks: Tasks,
    positions: int,
    batch_size: int,
    report: Callable[[float], None],
    check: bool,
) -> tuple[Tensor, Tensor, int]:
    """Effects from predictions of the sequences and their substitutions in one stream of batches.

    Returns (substitutions, tasks), predictions (n, tasks) and the batch size that fitted.
    """
    n, predicted = len(sequences), None
    row = on_device(np.concatenate([np.arange(n), changed[0]]), predict.device)
    position, base = on_device(np.stack(changed[1:]), predict.device)

    def step(start: int, stop: int) -> None:
        nonlocal predicted
        batch, mutants = sequences[row[start:stop]], slice(max(start - n, 0), max(stop - n, 0))
        put_bases(batch[max(n - start, 0) :], position[mutants], base[mutants])
        owner = predict.of(row[start:stop])
        output = owner(batch.clone() if check and start == 0 else batch)
        if check and start == 0:
            warn_if_unstable(owner, batch, output)
        output = take_tasks(output, selected_tasks(predict, tasks, output.shape[1], positions))
        if predicted is None:
            wider = torch.promote_types(torch.float32, output.dtype)
            predicted = output.new_empty((len(row), output.shape[1]), dtype=wider)
        predicted[start:stop] = output

    batch_size = in_batches(
        len(row), batch_size, step, report=lambda rows: report(rows * n / len(row))
    )
    return predicted[n:] - predicted[row[n:]], predicted[:n], batch_size


def scores_of_effects(effects: Tensor, changed: Substitutions, window: range) -> Tensor:
    """(n, tasks, 4, window) from the effects of all substitutions, (substitutions, tasks)."""
    row, position, base = changed
    place = on_device((row * 4 + base) * len(window) + position - window.start, effects.device)
    scores = effects.new_zeros(((row.max() + 1) * 4 * len(window), effects.shape[1]))
    scores.index_copy_(0, place, effects)
    return scores.unflatten(0, (-1, 4, len(window))).permute(0, 3, 1, 2)
