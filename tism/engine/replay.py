"""Exact effects of substitutions, computed from the columns that they can change.

The model's own code runs on the reference sequences once, and every result is kept. It then runs
on `Windowed` tensors, which stand for the activations of mutated sequences but hold only a window
of columns along the sequence; outside that window they equal the reference. A rule for each torch
function turns windows into windows. For a function without a rule, the windows are spliced into the
reference's activations and the model goes on in full.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tism.engine.rules import Call
from tism.engine.window import Batch, Frame, Reference, Untraceable, Windowed, leaves, mapped
from tism.predictor import Predictor
from tism.running import is_out_of_memory, uncompiled

# Metadata queries are not recorded; everything else is, and is replayed in the same order.
_SHAPE = "shape ndim size dim ndimension numel nelement __len__ nbytes itemsize element_size"
_KIND = "dtype device layout requires_grad grad_fn is_leaf is_floating_point is_complex get_device"
_IS = "is_cuda is_cpu is_mps is_meta is_sparse is_nested is_quantized is_contiguous"
_ABOUT = frozenset(f"{_SHAPE} {_KIND} {_IS}".split())
MOST_KEPT_BYTES = 2**32  # of activations of one reference


class Recording(TorchFunctionMode):
    """Keeps the result of every torch function while a model runs on plain tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []
        self.nbytes = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if is_recorded(func):
            name, given = function_name(func), leaves((args, kwargs or {}))
            made = args[0] if name == "__setitem__" else result
            self.calls.append((name, mapped(lambda leaf: self._keep(leaf, given), made)))
        return result

    def _keep(self, leaf: Any, given: list[Any]) -> Any:
        """The result of a function as a reference; `given` are the function's arguments."""
        if not isinstance(leaf, Tensor):
            return leaf
        if is_functorch_wrapped_tensor(leaf):  # lives no longer than its vmap
            return None
        self.nbytes += leaf.nbytes
        if self.nbytes > MOST_KEPT_BYTES:
            raise Untraceable(f"its activations take more than {MOST_KEPT_BYTES / 2**30:.0f} GB")
        shared = (torch._C._is_alias_of(leaf, t) for t in given if isinstance(t, Tensor))
        return Reference(leaf, any(shared))


class Reached(Exception):
    """Ends a run after the call whose result was asked for."""

    def __init__(self, result: Any):
        super().__init__()
        self.result = result


class Replay(TorchFunctionMode):
    """Runs the recorded functions in the same order on windows.

    prepared : for each call a dict of what its rule made of weights, kept from batch to batch
    truth : a recording of the mutated sequences themselves, to find the call that goes wrong
    last : number of the call after which `Reached` is raised with its result
    mixed : name and number of the first call that was given whole tensors
    """

    def __init__(
        self,
        recording: Recording,
        batch: Batch,
        prepared: dict[int, dict],
        truth: Recording | None = None,
        last: int | None = None,
    ):
        super().__init__()
        self.calls, self.batch, self.prepared, self.truth = recording.calls, batch, prepared, truth
        self.last = last
        self.at, self.name, self.row_bytes = -1, "the input", 1
        self.mixed: tuple[str, int] | None = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function_name(func)
        if not is_recorded(func):
            return func(*args, **kwargs)
        self.at, self.name = self.at + 1, name
        expected, reference = self.calls[self.at] if self.at < len(self.calls) else ("an end", None)
        if expected != name:
            raise Untraceable(f"{expected} was expected: what the model runs depends on the batch")
        prepared = self.prepared.setdefault(self.at, {})
        result = Call(self.batch, func, name, reference, prepared).answer(args, kwargs)
        if self.batch.mixed and self.mixed is None:
            self.mixed = self.batch.mixed, self.at
        if self.truth is not None:
            self._compare(result)
        self.row_bytes = max([self.row_bytes, *map(self._row_bytes, leaves(result))])
        if self.at == self.last:
            raise Reached(result)
        return result

    def _row_bytes(self, leaf: Any) -> int:
        """Bytes of a result for each row."""
        if isinstance(leaf, Windowed):
            return max(data.nbytes for _, data in leaf.held.values()) // len(self.batch.row)
        return leaf[:1].nbytes if isinstance(leaf, Tensor) and leaf.ndim else 0

    def _compare(self, result: Any) -> None:
        true = leaves(self.truth.calls[self.at][1])
        for got, reference in zip(leaves(result), true, strict=True):
            got = got.whole() if isinstance(got, Windowed) else got
            known = isinstance(got, Tensor) and isinstance(reference, Reference)
            if known and not agree(got, reference.tensor, reference.tensor):
                raise Untraceable("windows and whole activations disagree")


def _first_line(error: Exception) -> str:
    kind = "" if isinstance(error, Untraceable) else f"{type(error).__name__}: "
    return kind + str(error).split("\n")[0]


def is_recorded(func: Any) -> bool:
    """True if a torch function does more than ask for metadata."""
    return function_name(func) not in _ABOUT


def function_name(func: Any) -> str:
    """The bare name of a function or method, or of the property that a getter reads."""
    return func.__self__.__name__ if func.__name__ == "__get__" else func.__name__


def agree(got: Tensor, true: Tensor, scale: Tensor) -> bool:
    """True if two results differ by rounding only; `scale` holds numbers of the rounded size."""
    if not true.is_floating_point() or got.shape != true.shape or not true.numel():
        return True
    eps = torch.finfo(true.dtype).eps
    largest, rounded = (t.abs().nan_to_num(0, 0).max() for t in (true, scale))
    tolerance = eps**0.5 * largest + 100 * eps * rounded
    return torch.allclose(got.to(true.dtype), true, rtol=0, atol=float(tolerance), equal_nan=True)


class WindowedModel:
    """A model that has run on (n, 4, length) references and computes effects of substitutions.

    predict : of these references
    prepared : see `Replay`
    """

    def __init__(self, predict: Predictor, sequences: Tensor, prepared: dict[int, dict]):
        self.predict, self.sequences, self.prepared = predict, sequences, prepared
        self.input, self.recording = Reference(sequences), Recording()
        sequences = sequences.clone()
        try:
            with uncompiled(), self.recording:
                self.output = predict(sequences)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise Untraceable(f"its functions cannot be followed: {_first_line(error)}") from error

    def effects(
        self,
        row: np.ndarray,
        position: np.ndarray,
        base: np.ndarray,
        truth: Recording | None = None,
    ) -> Tensor:
        """(substitutions, tasks) changes of the output, in float32 or wider.

        row, position, base : (substitutions,) numbers of reference, position and new base
        """
        if len(row) == 1:  # a batch of one looks like a broadcast constant
            return self.effects(*(numbers.repeat(2) for numbers in (row, position, base)))[:1]
        output = self.run(row, position, base, truth)
        if isinstance(output, Windowed):
            output = output.whole()
        wider = torch.promote_types(torch.float32, output.dtype)
        at = torch.from_numpy(row).to(output.device)
        return output.to(wider) - self.output.to(wider)[at]

    def run(
        self,
        row: np.ndarray,
        position: np.ndarray,
        base: np.ndarray,
        truth: Recording | None = None,
        last: int | None = None,
    ) -> Any:
        """The result of the model, or of its call `last`, for two or more substitutions."""
        batch = Batch(row, self.predict.device)
        at, place = batch.index(row), batch.index(position)
        delta = F.one_hot(batch.index(base), 4) - self.sequences[at, :, place]
        held = {"delta": (Frame(position, 1), delta.to(self.sequences)[None])}
        span = position, position + 1
        mutants = Windowed(batch, self.input, self.sequences.shape[1:], 2, span, held)
        replay = Replay(self.recording, batch, self.prepared, truth, last)
        self.replay, predict = replay, self.predict.of(row)
        batch.mark(predict.args, False)
        try:
            with uncompiled(), replay:
                return batch.current(predict(mutants))
        except Reached as reached:
            return reached.result
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise Untraceable(f"{replay.name} (call {replay.at}): {_first_line(error)}") from error
