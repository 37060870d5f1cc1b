"""Exact in silico saturation mutagenesis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tism.execution import (
    OutputFn,
    Predictor,
    Tasks,
    choose_batch_size,
    evaluating,
    in_batches,
    progress_bar,
    select_tasks,
)
from tism.sequence import validate_one_hot

ENGINES = ("auto", "full", "windowed")
_BATCHES_PER_BLOCK = 32


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

    model : maps (n, 4, length) to (n, tasks), in evaluation mode meanwhile; a prediction must not
        depend on the other sequences of its batch
    one_hot : (n, 4, length), rows A, C, G, T; zeros for N
    tasks : None for all, an int, a sequence of ints or a slice
    start, stop : positions to mutate, as in a Python slice
    engine : "full" runs the model on every mutated sequence; "auto" picks the fastest that applies
    output_fn : maps what the model returns (tuple, dict, profile) to (n, tasks)
    batch_size : mutated sequences at once; None chooses; halved where memory runs out
    device : where to run; None stays where the model is
    progress : show a bar (needs tqdm)

    Returns (n, n_tasks, 4, stop - start) on the CPU in float32, or the model's dtype if wider, in
    the unit of the model's output; exactly zero at reference bases. At an N all four bases are
    substitutions. Costs 3 * (stop - start) + 1 forward passes a sequence.
    Raises TypeError or ValueError naming the argument that is wrong.

    >>> import torch, tism
    >>> model = tism.build_model("baseline", length=8, n_tasks=2, width=4, seed=0)
    >>> tism.ism(model, tism.one_hot_encode("ACGTACGT"), start=2, stop=5).shape
    torch.Size([1, 2, 4, 3])
    """
    one_hot = validate_one_hot(one_hot)
    window = _positions(start, stop, one_hot.shape[2])
    _check_engine(engine)
    with evaluating(model, output_fn, device) as predict, torch.no_grad():
        batch_size = choose_batch_size(batch_size, one_hot.shape[2], predict.device)
        return _full_ism(predict, one_hot, tasks, window, batch_size, progress)


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
    parts: list[Tensor] = []
    with evaluating(model, output_fn, device) as predictor, torch.no_grad():

        def step(first: int, last: int) -> None:
            output = predictor(predictor.prepare(one_hot[first:last]).clone())
            parts.append(output[:, select_tasks(tasks, output.shape[1])].cpu())

        batch_size = choose_batch_size(batch_size, one_hot.shape[2], predictor.device)
        with progress_bar(len(one_hot), progress, "predictions") as report:
            in_batches(len(one_hot), batch_size, step, report=report)
    return torch.cat(parts)


def _positions(start: int, stop: int | None, length: int) -> range:
    for name, value in (("start", start), ("stop", stop)):
        if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__")):
            raise TypeError(f"{name} must be an int, got {value!r}")
    window = range(length)[start:stop]
    if not window:
        raise ValueError(
            f"start={start}, stop={stop} selects no position of a sequence of length {length}"
        )
    return window


def _check_engine(engine: str) -> None:
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}")
    if engine == "windowed":
        raise NotImplementedError('engine="windowed" is not available yet; use "auto" or "full"')


def _full_ism(
    predict: Predictor,
    one_hot: Tensor,
    tasks: Tasks,
    window: range,
    batch_size: int,
    progress: bool,
) -> Tensor:
    """Run every mutated sequence, in blocks of sequences so that working memory stays flat."""
    block = max(1, batch_size * _BATCHES_PER_BLOCK // (3 * len(window)))
    scores = None
    with progress_bar(len(one_hot), progress, "ISM") as report:
        for first in range(0, len(one_hot), block):
            sequences = predict.prepare(one_hot[first : first + block])
            predicted, batch_size = _predict_mutants(
                predict, sequences, tasks, window, batch_size, report
            )
            block_scores = _scores_of_block(predicted, sequences, window)
            if scores is None:
                scores = _allocate(len(one_hot), block_scores)
            scores[first : first + block] = block_scores
    return scores


def _allocate(n: int, block_scores: Tensor) -> Tensor:
    return torch.empty((n, *block_scores.shape[1:]), dtype=block_scores.dtype)


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
        batch = sequences[row[start:stop]]
        mutant = torch.arange(max(start, n), max(stop, n), device=row.device)
        batch[mutant - start, :, position[mutant - n]] = 0
        batch[mutant - start, base[mutant - n], position[mutant - n]] = 1
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
    n = len(sequences)
    row, position, base = substitutions(sequences, window)
    scores = predicted.new_zeros((n, 4, len(window), predicted.shape[1]))
    scores[row, base, position - window.start] = predicted[n:] - predicted[row]
    return scores.permute(0, 3, 1, 2)
