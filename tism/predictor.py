"""How a model is lent to a computation, what is checked of it, and what it is warned about."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tism import running
from tism.sequence import numeric_tensor, validate_one_hot

OutputFn = Callable[[Any], Tensor]
MANY_TASKS = 1000  # gradients of more are seldom what a call without tasks= means
_MUCH_MEMORY = 2**30  # bytes of scores
_LOW = (torch.bfloat16, torch.float16)
_ROUNDED = 0.5  # rounding by more than this share of the largest score is warned of
_TOO_LARGE = (
    "tism: memory ran out in the smallest step there is, where no smaller batch_size helps: take "
    "fewer tasks, a narrower window (start, stop), shorter sequences or another device"
)
_ALONE = (
    "tism: raised when one sequence was predicted alone, to check that predictions do not depend "
    "on the other sequences of their batch"
)
_lent: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()  # locks: one thread at a time
_ABOUT_SHAPES = re.compile(r"(?i)shape|size|dimension|length|channels|index|out of (range|bounds)")


class ModelError(ValueError, RuntimeError):
    """A model failed at the sequences it was given."""


class UnstableModelWarning(UserWarning):
    """A model's predictions differ from call to call or depend on the rest of their batch."""


class NotFiniteWarning(UserWarning):
    """Scores that are infinite or not a number."""


class RoundingWarning(UserWarning):
    """Scores of a model in low precision that are not much larger than its rounding."""


class CostWarning(UserWarning):
    """A call takes all of a model's many tasks because it chose none."""


@dataclass(eq=False)
class Predictor:
    """A model in evaluation mode on one device, from (rows, 4, length) to checked (rows, tasks).

    `evaluating` makes it. It holds what every engine needs to know about the model.

    args : what else the model's forward takes; tensors have one row for each sequence
    """

    model: nn.Module
    output_fn: OutputFn | None
    device: torch.device
    autocast: torch.dtype | None
    dtype: torch.dtype | None
    args: tuple[Any, ...] = ()

    def of(self, sequences: Any) -> Predictor:
        """The predictor of rows made from these sequences, a slice or (rows,) of their numbers."""
        if not any(map(_has_rows, self.args)):
            return self
        if isinstance(sequences, np.ndarray):
            sequences = running.on_device(sequences, self.device)
        args = tuple(value[sequences] if _has_rows(value) else value for value in self.args)
        return replace(self, args=args)

    def __call__(self, rows: Tensor) -> Tensor:
        kind, low = self.device.type, self.autocast
        with torch.autocast(kind, dtype=low) if low else nullcontext():
            output = self._run(rows)
            if self.output_fn is not None:
                output = self.output_fn(output)
        _check_output(output, len(rows), self.output_fn)
        return output if self.autocast is None else running.at_least_float32(output)

    def _run(self, rows: Tensor) -> Any:
        # a model may change its arguments in place, which others still need
        args = (value.clone() if isinstance(value, Tensor) else value for value in self.args)
        try:
            return self.model(rows, *args)
        except (RuntimeError, LookupError, AssertionError) as error:
            bare = type(error) in (RuntimeError, IndexError, KeyError, AssertionError)
            if not bare or type(rows) is not Tensor or running.is_out_of_memory(error):
                raise
            hint = (
                "; check the length, and the batch_size, that it takes"
                if _ABOUT_SHAPES.search(str(error))
                else ""
            )
            raise ModelError(
                f"model raised {type(error).__name__} for one_hot of shape (n, "
                f"{', '.join(map(str, rows.shape[1:]))}): {error}{hint}"
            ) from error

    def prepare(self, one_hot: Tensor) -> Tensor:
        """Move sequences to the model's device and dtype."""
        dtype = self.dtype or (one_hot.dtype if one_hot.is_floating_point() else torch.float32)
        return one_hot.to(self.device, dtype, non_blocking=self.device.type != "mps")

    def tolerance(self, output: Tensor, effects: Tensor) -> float:
        """Largest difference of two predictions that rounding explains.

        A prediction near zero may be the sum of large parts, of which the effects give the size.
        """
        lowest = self.autocast or self.dtype or output.dtype
        eps = max(torch.finfo(dtype).eps for dtype in (lowest, output.dtype))
        if output.dtype == torch.float32 and running.rounds_to_tf32(self.device):
            eps = max(eps, 2**-10)
        size, effect = (float(t.detach().abs().nan_to_num(0, 0).max()) for t in (output, effects))
        return min(1000 * eps, eps**0.5) * size + eps**0.5 * effect


@contextmanager
def evaluating(
    model: nn.Module,
    output_fn: OutputFn | None = None,
    device: str | torch.device | None = None,
    *,
    args: Sequence[Any] = (),
    n: int = 1,
    autocast: torch.dtype | None = None,
) -> Iterator[Predictor]:
    """Lend `model` to a computation and restore it afterwards, also when the computation raises.

    Meanwhile every submodule is in evaluation mode and no parameter requires a gradient. Training
    flags, requires_grad flags, device, buffers and random state come back as they were. An error
    raised because memory ran out where no smaller batch helps gets a note saying what to reduce.
    Threads that ask for one model take turns.

    device : where to run; None stays where the model is
    args, autocast : as in `tism.input_gradient`, for n sequences; None for the caller's autocast
    """
    _check_model(model, output_fn, autocast)
    with _lent.setdefault(model, RLock()), torch.inference_mode(False):
        home = [tensor.device for tensor in chain(model.parameters(), model.buffers())]
        target = running.resolve_device(device, home)
        moves = device is not None and any(place != target for place in home)
        callers = torch.is_autocast_enabled(target.type)
        if autocast is None and callers:
            autocast = torch.get_autocast_dtype(target.type)
        # the model alone computes in low precision, not what is made of its predictions
        precise = torch.autocast(target.type, enabled=False) if callers else nullcontext()
        with running.random_state_kept(target), _state_kept(model, moves), precise:
            try:
                if moves:
                    model.to(target)
                _evaluate(model)
                predictor = Predictor(model, output_fn, target, autocast, _floating_dtype(model))
                predictor.args = tuple(_checked_args(args, n, predictor))
                yield predictor
            except (RuntimeError, MemoryError) as error:
                notes = getattr(error, "__notes__", [])
                if running.is_out_of_memory(error) and _TOO_LARGE not in notes:
                    error.add_note(_TOO_LARGE)
                raise


@dataclass(frozen=True)
class Job:
    """What a call asks for: scores of some tasks at the positions in `window` of some sequences.

    predict : the lent model, for these sequences
    one_hot : (n, 4, length), on the CPU
    batch_size : the caller's; None leaves it to the engine
    """

    predict: Predictor
    one_hot: Tensor
    tasks: running.Tasks
    window: range
    batch_size: int | None = None
    progress: bool = False

    @property
    def stretch(self) -> Tensor:
        """(n, 4, window)."""
        return self.one_hot[:, :, self.window.start : self.window.stop]

    def part(self, first: int, last: int) -> tuple[Predictor, Tensor]:
        """The model for some of the sequences, and these sequences where it runs."""
        return self.predict.of(slice(first, last)), self.predict.prepare(self.one_hot[first:last])

    def at_once(self, cost: float = 1) -> int:
        """Sequences in a batch, each of which takes the memory of `cost` forward passes."""
        length = int(cost * self.one_hot.shape[2])
        return running.choose_batch_size(self.batch_size, length, self.predict.device)

    def bar(self, label: str) -> AbstractContextManager[running.Report]:
        """A progress bar over the sequences, if the caller wants one."""
        return running.progress_bar(len(self.one_hot), self.progress, label)

    def chosen(self, n_tasks: int, gradients: bool = False) -> list[int]:
        """Numbers of the tasks; warns of the cost if the caller chose none of many.

        gradients : True if each task takes a backward pass
        """
        positions = len(self.window)
        nbytes = 4 * 4 * len(self.one_hot) * n_tasks * positions
        if self.tasks is None and n_tasks > MANY_TASKS and (gradients or nbytes > _MUCH_MEMORY):
            passes = (
                f"a backward pass for each, in all about {1 + n_tasks:,} forward passes a "
                f"sequence, where exact ISM takes at most {1 + 3 * positions:,} for all tasks; and "
            )
            message = (
                f"tasks=None takes all {n_tasks:,} tasks of the model: "
                f"{passes if gradients else ''}scores of {nbytes / 2**30:.2g} GB in memory; "
                "choose some by tasks=, or combine them by output_fn="
            )
            warnings.warn(message, CostWarning, stacklevel=2)
        return running.select_tasks(self.tasks, n_tasks)


@contextmanager
def job_of(
    model: nn.Module,
    one_hot: Any,
    tasks: running.Tasks,
    start: int,
    stop: int | None,
    batch_size: int | None,
    progress: bool,
    **lent: Any,
) -> Iterator[Job]:
    """Check what a public function was given and lend it the model, without a graph.

    lent : output_fn, device, args and autocast, as in `evaluating`
    """
    one_hot = validate_one_hot(one_hot).cpu()
    window = running.select_positions(start, stop, one_hot.shape[2])
    with evaluating(model, n=len(one_hot), **lent) as predict, torch.no_grad():
        yield Job(predict, one_hot, tasks, window, batch_size, progress)


def _evaluate(model: nn.Module) -> None:
    """Evaluation mode for every submodule, and no parameter that requires a gradient."""
    for module in model.modules():
        if hasattr(module, "training"):
            module.training = False
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def _check_model(model: Any, output_fn: Any, autocast: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}; wrap a function in a "
            "Module whose forward calls it"
        )
    if output_fn is not None and not callable(output_fn):
        raise TypeError(f"output_fn must be callable, got {type(output_fn).__name__}")
    if autocast not in (None, *_LOW):
        raise ValueError(
            f"autocast must be None, torch.bfloat16 or torch.float16, got {autocast!r}"
        )
    if any(map(is_lazy, chain(model.parameters(), model.buffers()))):
        raise ValueError(
            "model has lazy layers, whose weights have no shape yet: run it once on sequences"
        )
    if any(p.is_inference() for p in chain(model.parameters(), model.buffers())):
        raise ValueError(
            "model was made under torch.inference_mode(), where autograd cannot use it: "
            "make or load it outside"
        )


def _checked_args(args: Any, n: int, predictor: Predictor) -> Iterator[Any]:
    """What else forward takes, on the model's device: tensors of n rows, the rest as it is."""
    if not isinstance(args, tuple | list):
        raise TypeError(f"args must be a tuple of arguments of forward, got {type(args).__name__}")
    for number, value in enumerate(args):
        if isinstance(value, np.ndarray):
            value = numeric_tensor(f"args[{number}]", value)
        if not _has_rows(value):
            _refuse_hidden_tensors(number, value)
            yield value.to(predictor.device) if isinstance(value, Tensor) else value
            continue
        if len(value) not in (1, n):
            raise ValueError(
                f"args[{number}] must have one row a sequence ({n}) or one for all, "
                f"got shape {tuple(value.shape)}"
            )
        floating = predictor.dtype if value.is_floating_point() else value.dtype
        value = value.detach().to(device=predictor.device, dtype=floating)
        yield value.expand(n, *value.shape[1:])


def _has_rows(value: Any) -> bool:
    """True for an argument of forward with a row for each sequence: any tensor but a scalar."""
    return isinstance(value, Tensor) and value.ndim > 0


def _refuse_hidden_tensors(number: int, value: Any) -> None:
    """Raise TypeError for a collection of tensors, whose rows would not go with the sequences."""
    parts = value.values() if isinstance(value, dict) else value
    if isinstance(value, tuple | list | dict) and any(
        isinstance(part, Tensor | np.ndarray) for part in parts
    ):
        raise TypeError(
            f"args[{number}] must be a tensor or hold none, got a {type(value).__name__} of "
            "tensors: give each as an argument of its own and collect them in a Module's forward"
        )


@contextmanager
def _state_kept(model: nn.Module, moves: bool) -> Iterator[None]:
    """Restore training and requires_grad flags, buffers and, if the model `moves`, its tensors."""
    training = {m: m.training for m in model.modules() if hasattr(m, "training")}  # or frozen
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parameters = [  # a move gives parameters other data, and copies buffers, which are kept below
        (module._parameters, name, parameter, parameter.data, getattr(parameter.grad, "data", None))
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if moves and parameter is not None
    ]
    buffers = [
        (module._buffers, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for table, name, parameter, data, grad_data in parameters:
            parameter.data = data
            if grad_data is not None:
                parameter.grad.data = grad_data
            table[name] = parameter
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, flag in training.items():
            module.training = flag
        with torch.no_grad():
            for table, name, buffer, before in buffers:
                same = (buffer.shape, buffer.dtype) == (before.shape, before.dtype)
                if not same or before.layout != torch.strided:  # sparse ones cannot be compared
                    buffer.data = before
                elif not torch.equal(buffer, before):
                    buffer.copy_(before)
                if isinstance(table, dict) and table.get(name) is not buffer:
                    table[name] = buffer


def warn_if_unstable(predict: Predictor, rows: Tensor, output: Tensor) -> bool:
    """Warn, and return True, if the first of some rows is predicted otherwise alone or once more.

    Runs with a graph if gradients are enabled.

    predict : of these rows; output : (rows, tasks), what it predicted for them
    """
    row, output, first = rows[:1].detach(), output.detach(), predict.of(slice(0, 1))

    def run(row: Tensor) -> Tensor:
        leaf = row.clone().requires_grad_(torch.is_grad_enabled())
        with running.uncompiled():
            return first(leaf.clone()).detach()

    def is_like(other: Tensor, effects: Tensor) -> bool:
        atol = predict.tolerance(output, effects)
        return torch.allclose(alone, other, rtol=0, atol=atol, equal_nan=True)

    try:
        alone = run(row)
    except Exception as error:
        error.add_note(_ALONE)
        raise
    if is_like(output[:1], 0 * output):
        return False
    effects = run(row.flip(1)) - alone  # of the complement
    if is_like(output[:1], effects):
        return False
    other = run(row)
    if is_like(other, effects):
        _warn_of_batch(float((alone - output[:1]).abs().max()))
        return True
    gap = float((alone - other).abs().max())
    message = (
        f"the model's predictions differ from call to call, here by {gap:.2g} (dropout that stays "
        "on or other randomness?): scores are noise of at least this size"
    )
    warnings.warn(message, UnstableModelWarning, stacklevel=2)
    return True


def warn_if_mixed(predict: Predictor, output: Tensor, again: Tensor, effects: Tensor) -> None:
    """Warn if sequences are predicted otherwise among others.

    output, again : (rows, tasks), predictions of the same sequences
    effects : (substitutions, tasks), against which differences by rounding are small
    """
    gap = float((again - output).abs().nan_to_num(0, 0).max())
    if gap > predict.tolerance(output, effects):
        _warn_of_batch(gap)


def _warn_of_batch(gap: float) -> None:
    message = (
        "the model's predictions depend on the other sequences of their batch, here by "
        f"{gap:.2g} (batch statistics?): every score mixes the effects of several sequences"
    )
    warnings.warn(message, UnstableModelWarning, stacklevel=2)


def warn_if_rounded(predict: Predictor, output: Tensor, effects: Tensor) -> None:
    """Warn if predictions in low precision are rounded by a good part of the largest effect.

    output : (n, tasks), predictions; effects : (substitutions, tasks), differences of such
    """
    dtype = predict.autocast or predict.dtype
    if dtype not in _LOW:
        return
    step = torch.finfo(dtype).eps * output.abs().amax(0)
    share = (step / effects.abs().amax(0)).nan_to_num(0)
    if share.max() > _ROUNDED:
        message = (
            f"{str(dtype).removeprefix('torch.')} rounds predictions of task {int(share.argmax())} "
            f"of the chosen ones by {float(step[share.argmax()]):.2g}, more than {_ROUNDED:.0%} of "
            "their largest ISM score: run the model in float32, without autocast"
        )
        warnings.warn(message, RoundingWarning, stacklevel=2)


def warn_if_not_finite(scores: Tensor, name: str) -> Tensor:
    """The scores, (n, tasks, ...), after a warning if some of them are infinite or no number."""
    if scores.sum(dtype=torch.float64).isfinite() or (finite := scores.isfinite()).all():
        return scores
    sequence, task = (~finite).nonzero()[0, :2].tolist()
    message = (
        f"{int((~finite).sum()):,} of {scores.numel():,} {name} scores are not finite, first those "
        f"of one_hot[{sequence}], task {task} of the chosen ones"
    )
    warnings.warn(message, NotFiniteWarning, stacklevel=2)
    return scores


def _floating_dtype(model: nn.Module) -> torch.dtype | None:
    """The dtype of the first weights, of scalars only if there is nothing else."""
    tensors = [t for t in chain(model.parameters(), model.buffers()) if t.is_floating_point()]
    first = next((t for t in tensors if t.ndim), next(iter(tensors), None))
    return None if first is None else first.dtype


def _check_output(output: Any, rows: int, output_fn: OutputFn | None) -> None:
    source, hint = ("model", "; map it with output_fn") if output_fn is None else ("output_fn", "")
    if not isinstance(output, Tensor):
        raise TypeError(
            f"{source} must return a tensor of shape (n, tasks), got {type(output).__name__}{hint}"
        )
    if not output.is_floating_point():
        raise TypeError(f"{source} must return a floating-point tensor, got {output.dtype}")
    if output.ndim != 2 or output.shape[0] != rows or output.shape[1] == 0:
        raise ValueError(
            f"{source} must return shape (n, tasks), here ({rows}, tasks), "
            f"got {tuple(output.shape)}{hint}"
        )
