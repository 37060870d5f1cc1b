"""Exact in silico saturation mutagenesis."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tism.engine.replay import Plan, WindowedModel, make_plan
from tism.engine.window import Untraceable
from tism.predictor import OutputFn, Predictor, evaluating
from tism.running import (
    Tasks,
    choose_batch_size,
    in_batches,
    in_one_tensor,
    is_out_of_memory,
    progress_bar,
    select_tasks,
    whole_number,
)
from tism.sequence import put_bases, validate_one_hot

ENGINES = ("auto", "full", "windowed")
_BATCHES_PER_BLOCK = 32
_ONE_IN, _FEWEST_TRIED, _MOST_TRIED = 10_000, 6, 24  # one substitution in 10,000 is tried first
Substitutions = tuple[np.ndarray, np.ndarray, np.ndarray]  # sequence number, position, new base
_log = logging.getLogger(__name__)
_logged: set[tuple[type, str]] = set()


def ism(
    model: nn.Module,
    one_hot: Any,
    tasks: Tasks = None,
    *,
    start: int = 0,
    stop: int | None = None,
    engine: str = "auto",
    output_fn: OutputFn | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Tensor:
    """In silico saturation mutagenesis: f(sequence with base b at l) - f(sequence), all l and b.

    model, one_hot, tasks, output_fn, device, progress : as in `input_gradient`
    start, stop : positions to mutate, as in a Python slice
    engine : "full" runs the model on every mutated sequence; "windowed" recomputes only what a
        substitution can change, after a trial against "full"; "auto" takes "windowed" if that
        trial succeeds and promises to be faster, and otherwise logs why not
    batch_size : mutated sequences at once; None chooses; halved if memory runs out

    Returns (n, n_tasks, 4, stop - start) on the CPU in float32, or the model's dtype if wider, in
    the unit of the model's output; exactly zero at reference bases. At an N all four bases are
    substitutions. "full" costs 3 * (stop - start) + 1 forward passes a sequence.
    Raises TypeError or ValueError naming the argument that is wrong, and ValueError naming the
    function at which "windowed" cannot follow the model.

    >>> import torch, tism
    >>> model = tism.build_model("baseline", length=8, n_tasks=2, width=4, seed=0)
    >>> tism.ism(model, tism.one_hot_encode("ACGTACGT"), start=2, stop=5).shape
    torch.Size([1, 2, 4, 3])
    """
    one_hot = validate_one_hot(one_hot)
    window = _positions(start, stop, one_hot.shape[2])
    _check_engine(engine)
    with evaluating(model, output_fn, device) as predict, torch.no_grad():
        return _scores(predict, one_hot, tasks, window, engine, batch_size, progress)


def predict(
    model: nn.Module,
    one_hot: Any,
    tasks: Tasks = None,
    *,
    output_fn: OutputFn | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Tensor:
    """The model's predictions, (n, n_tasks) on the CPU; arguments and errors as in `ism`."""
    one_hot = validate_one_hot(one_hot)
    with evaluating(model, output_fn, device) as predictor, torch.no_grad():

        def predictions(start: int, stop: int) -> Tensor:
            output = predictor(predictor.prepare(one_hot[start:stop]).clone())
            return output[:, select_tasks(tasks, output.shape[1])]

        batch_size = choose_batch_size(batch_size, one_hot.shape[2], predictor.device)
        with progress_bar(len(one_hot), progress, "predictions") as report:
            return in_one_tensor(len(one_hot), batch_size, predictions, report=report)[0]


def _positions(start: int, stop: int | None, length: int) -> range:
    named = {"start": start, "stop": stop}
    ends = (None if v is None else whole_number(name, v) for name, v in named.items())
    window = range(length)[slice(*ends)]
    if not window:
        raise ValueError(
            f"start={start}, stop={stop} selects no position of a sequence of length {length}"
        )
    return window


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

    def by_windows() -> Tensor:
        plan = plan_windows(engine, predict, one_hot, window, batch_size)
        return _windowed_ism(predict, plan, one_hot, tasks, window, progress)

    scores = None
    if _worth_a_trial(engine, one_hot, window, predict.device):
        scores = _try(engine, predict, by_windows)
    if scores is None:
        batch_size = choose_batch_size(batch_size, one_hot.shape[2], predict.device)
        scores = _full_ism(predict, one_hot, tasks, window, batch_size, progress)
    return scores


def _check_engine(engine: str) -> None:
    if not isinstance(engine, str) or engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}")


def _worth_a_trial(engine: str, one_hot: Tensor, window: range, device: torch.device) -> bool:
    """True if windows are worth a trial: the full engine would need more than two batches."""
    two_batches = 2 * choose_batch_size(None, one_hot.shape[2], device)
    rows = 3 * len(one_hot) * len(window)
    return engine == "windowed" or (engine == "auto" and rows > two_batches)


def _try(engine: str, predict: Predictor, run: Callable[[], Any]) -> Any:
    """The result of `run` on windows; if it fails, "windowed" raises and "auto" gets None."""
    try:
        return run()
    except Untraceable as error:
        if engine == "windowed":
            message = f'engine="windowed" cannot follow the model: {error}'
            raise ValueError(message) from error
        reason = str(error)
    except (RuntimeError, MemoryError) as error:
        if engine == "windowed" or not is_out_of_memory(error):
            raise
        reason = "windows run out of memory"
    if (type(predict.model), reason) not in _logged:
        _logged.add((type(predict.model), reason))
        _log.info('engine="auto" runs %s in full: %s', type(predict.model).__name__, reason)
    return None


def plan_of_engine(
    engine: str, predict: Predictor, one_hot: Tensor, passes: float, batch_size: int | None
) -> Plan | None:
    """How to run `passes` substitutions on windows; None if `engine` or the model rules them out.

    passes : number of substitutions; "auto" spends no trial on two batches
    """
    _check_engine(engine)
    two_batches = 2 * choose_batch_size(None, one_hot.shape[2], predict.device)
    if engine == "full" or (engine == "auto" and passes <= two_batches):
        return None
    return _try(
        engine,
        predict,
        lambda: plan_windows(engine, predict, one_hot, range(one_hot.shape[2]), batch_size),
    )


def plan_windows(
    engine: str, predict: Predictor, one_hot: Tensor, window: range, batch_size: int | None
) -> Plan:
    """How to run on windows, found by a trial on substitutions spread over the first sequence."""
    _, position, base = substitutions_on_host(one_hot[:1], window)
    full_batch_size = choose_batch_size(batch_size, one_hot.shape[2], predict.device)
    rows = max(_FEWEST_TRIED, len(one_hot) * len(position) // _ONE_IN)
    rows = min(rows, _MOST_TRIED, full_batch_size, len(position))
    tried = np.linspace(0, len(position) - 1, rows).astype(int)
    sequence = predict.prepare(one_hot[:1])
    plan = make_plan(predict, sequence, position[tried], base[tried], batch_size, full_batch_size)
    if engine == "auto" and plan.gain < 1:
        raise Untraceable(f"windows would take {1 / plan.gain:.1f} times as long")
    return plan


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
        windows = WindowedModel(predict, sequences, plan.prepared)
        substituted = substitutions_on_host(one_hot[first:last], window)
        effects, batch_size = windowed_effects(windows, substituted, tasks, batch_size, report)
        return scores_of_effects(effects, sequences, window)

    with progress_bar(len(one_hot), progress, "ISM") as report:
        return in_one_tensor(len(one_hot), plan.sequences, score)[0]


def windowed_effects(
    windows: WindowedModel,
    substituted: Substitutions,
    tasks: Tasks,
    batch_size: int,
    report: Callable[[float], None],
) -> tuple[Tensor, int]:
    """(substitutions, n_tasks) exact effects, and the batch size that fitted."""
    chosen = select_tasks(tasks, windows.output.shape[1])
    index = torch.tensor(chosen, device=windows.output.device)
    return by_position(
        lambda *batch: windows.effects(*batch).index_select(1, index),
        substituted,
        batch_size,
        report,
    )


def by_position(
    compute: Callable[..., Tensor],
    substituted: Substitutions,
    batch_size: int,
    report: Callable[[float], None],
) -> tuple[Tensor, int]:
    """compute(row, position, base) of all substitutions, batched by position so windows overlap.

    report : is told of finished sequences, as fractions

    Returns (substitutions, tasks) and the batch size that fitted.
    """
    n, order = substituted[0].max() + 1, np.argsort(substituted[1], kind="stable")
    effects = None

    def step(start: int, stop: int) -> None:
        nonlocal effects
        batch = order[start:stop]
        result = compute(*(numbers[batch] for numbers in substituted))
        if effects is None:
            effects = result.new_empty((len(order), result.shape[1]))
        effects[torch.from_numpy(batch).to(result.device)] = result

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
            predicted, batch_size = _predict_mutants(
                predict, sequences, tasks, window, batch_size, report
            )
            part = _scores_of_block(predicted, sequences, window)
            if scores is None:
                scores = torch.empty((len(one_hot), *part.shape[1:]), dtype=part.dtype)
            scores[first : first + block] = part
    return scores


def substitutions(sequences: Tensor, window: range) -> tuple[Tensor, Tensor, Tensor]:
    """Sequence number, position and new base of every substitution in `window`.

    sequences : (n, 4, length)

    Returns three 1-d integer tensors on the device of `sequences`, sorted by sequence and position;
    three entries a position, four where it is an N.
    """
    alternatives = sequences[:, :, window.start : window.stop].transpose(1, 2) == 0
    row, position, base = alternatives.nonzero(as_tuple=True)
    return row, position + window.start, base


def _predict_mutants(
    predict: Predictor,
    sequences: Tensor,
    tasks: Tasks,
    window: range,
    batch_size: int,
    report: Callable[[float], None],
) -> tuple[Tensor, int]:
    """Predictions of the sequences, then of their substitutions, in one stream of batches."""
    n = len(sequences)
    row, position, base = substitutions(sequences, window)
    row = torch.cat([torch.arange(n, device=row.device), row])
    predicted = None

    def step(start: int, stop: int) -> None:
        nonlocal predicted
        batch, mutants = sequences[row[start:stop]], slice(max(start - n, 0), max(stop - n, 0))
        put_bases(batch[max(n - start, 0) :], position[mutants], base[mutants])
        output = predict(batch)
        chosen = select_tasks(tasks, output.shape[1])
        if predicted is None:
            wider = torch.promote_types(torch.float32, output.dtype)
            predicted = output.new_empty((len(row), len(chosen)), dtype=wider)
        predicted[start:stop] = output[:, chosen]

    batch_size = in_batches(
        len(row), batch_size, step, report=lambda rows: report(rows * n / len(row))
    )
    return predicted, batch_size


def _scores_of_block(predicted: Tensor, sequences: Tensor, window: range) -> Tensor:
    """(n, tasks, 4, window) from the predictions of n references and their substitutions."""
    n, row = len(sequences), substitutions(sequences, window)[0]
    return scores_of_effects(predicted[n:] - predicted[row], sequences, window)


def scores_of_effects(effects: Tensor, sequences: Tensor, window: range) -> Tensor:
    """(n, tasks, 4, window) from the effects of all substitutions, (substitutions, tasks)."""
    row, position, base = substitutions(sequences, window)
    scores = effects.new_zeros((len(sequences), 4, len(window), effects.shape[1]))
    scores[row, base, position - window.start] = effects
    return scores.permute(0, 3, 1, 2)
