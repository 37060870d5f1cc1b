"""Exact effects of substitutions, computed from the columns that they can change.

The model's own code runs on the reference sequences once, and every result is kept. It then runs
on `Windowed` tensors, which stand for the activations of mutated sequences but hold only a window
of columns along the sequence; outside that window they equal the reference. A rule for each torch
function turns windows into windows. For a function without a rule, the windows are spliced into the
reference's activations and the model goes on in full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tism.engine.aliases import Memory, leaves
from tism.engine.call import Call
from tism.engine.rules import RULES
from tism.engine.window import Batch, Frame, Reference, Untraceable, Windowed, mapped, whole
from tism.predictor import Predictor
from tism.running import at_least_float32, full_precision, is_out_of_memory, uncompiled

# Metadata queries are not recorded; everything else is, and is replayed in the same order.
_SHAPE = "shape ndim size dim ndimension numel nelement __len__ nbytes itemsize element_size"
_KIND = "dtype device layout requires_grad grad_fn is_leaf is_floating_point is_complex get_device"
_IS = "is_cuda is_cpu is_mps is_meta is_sparse is_nested is_quantized is_contiguous"
_ABOUT = frozenset(f"{_SHAPE} {_KIND} {_IS}".split())
MOST_KEPT_BYTES = 2**32  # of activations of one reference
_SCOUTS = 1024  # positions of a stretch whose windows are followed to find out what they read


class Reached(Exception):
    """Ends a run after the last of the calls whose results were asked for."""


class Calls(TorchFunctionMode):
    """Numbers the torch functions that a model calls, which replays call in the same order.

    asked : numbers of calls in rising order whose results are wanted; the last one ends the run
    at, name : number and name of the current call
    found : the results that were asked for
    """

    def __init__(self, asked: Sequence[int] = ()):
        super().__init__()
        self.asked, self.found = tuple(asked), []
        self.at, self.name = -1, "the input"

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function_name(func)
        if name in _ABOUT:
            return func(*args, **kwargs)
        self.at, self.name = self.at + 1, name
        result = self.called(func, args, kwargs)
        if self.at in self.asked:
            self.found.append(self.made(args, result))
            if self.at == self.asked[-1]:
                raise Reached
        return result

    def called(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """The result of the current call."""
        return func(*args, **kwargs)

    def made(self, args: tuple, result: Any) -> Any:
        """What the current call has made: its result, or the tensor to which it has assigned."""
        return args[0] if self.name == "__setitem__" else result

    def results(self, run: Callable[[], Any]) -> list[Any]:
        """The results that were asked for, or that of the whole run."""
        try:
            with uncompiled(), self:
                return [run()]
        except Exception:  # Reached, or what torch makes of it on the way out
            if not self.asked or len(self.found) < len(self.asked):
                raise
            return self.found


class Recording(Calls):
    """Keeps the result of every torch function while a model runs on plain tensors.

    scout : a recording of the same calls that knows which columns windows read, which alone are
        kept then; None keeps all
    """

    def __init__(self, asked: Sequence[int] = (), scout: Recording | None = None):
        super().__init__(asked)
        self.scout, self.memory = scout, Memory()
        self.calls: list[tuple[str, Any]] = []
        self.nbytes = 0

    def called(self, func: Any, args: tuple, kwargs: dict) -> Any:
        self.memory.before(self.name, args, kwargs)
        result = func(*args, **kwargs)
        self.memory.after(self.at, self.name, args, kwargs, result)
        known = iter(())
        if self.scout is not None:
            name, references = self.scout.calls[self.at]
            if name != self.name:
                raise Untraceable("what the model runs depends on the data")
            known = iter(leaves(references))
        kept = mapped(lambda leaf: self._keep(leaf, next(known, None)), self.made(args, result))
        self.calls.append((self.name, kept))
        return result

    def _keep(self, leaf: Any, scout: Reference | None) -> Any:
        """The result of a function as a reference."""
        if not isinstance(leaf, Tensor):
            return leaf
        if is_functorch_wrapped_tensor(leaf):  # lives no longer than its vmap
            return None
        reference = Reference(leaf, scout)
        self.nbytes += reference.nbytes
        if self.nbytes > MOST_KEPT_BYTES and not isinstance(leaf, FakeTensor):
            raise Untraceable(
                f"its activations take more than {MOST_KEPT_BYTES / 2**30:.0f} GB; a quarter of a "
                "long sequence (start, stop) or less takes only what it reads"
            )
        return reference


class Replay(Calls):
    """Runs the recorded functions in the same order on windows.

    prepared : for each call a dict of what its rule made of weights, kept from batch to batch
    truth : a recording of the mutated sequences themselves, to find the call that goes wrong
    mixed : name and number of the first call that was given whole tensors
    """

    def __init__(self, windows: WindowedModel, batch: Batch, asked: Sequence[int], truth: Any):
        super().__init__(asked)
        self.calls, self.prepared = windows.recording.calls, windows.prepared
        self.batch, self.truth, self.row_bytes = batch, truth, 1
        self.mixed: tuple[str, int] | None = None

    def called(self, func: Any, args: tuple, kwargs: dict) -> Any:
        expected, reference = self.calls[self.at] if self.at < len(self.calls) else ("an end", None)
        if expected != self.name:
            raise Untraceable(f"{expected} was expected: what the model runs depends on the batch")
        given, memory = leaves((args, kwargs)), self.batch.memory
        for place, calls in memory.hidden[self.at].items():
            self.batch.need_shared(given[place], calls)
        itself = given[memory.itself[self.at]] if self.at in memory.itself else None
        if isinstance(itself, Windowed):
            return self.batch.current(itself)
        call = Call(self.batch, func, self.name, reference, self.prepared.setdefault(self.at, {}))
        result = call.answer(RULES.get(call.name), args, kwargs)
        self.batch.written[self.at] = call.written
        if self.batch.mixed and self.mixed is None:
            self.mixed = self.batch.mixed[0], self.at
        if self.truth is not None:
            self._compare(result)
        self.row_bytes = max([self.row_bytes, *map(self._row_bytes, leaves(result))])
        return result

    def _row_bytes(self, leaf: Any) -> int:
        """Bytes of a result for each row."""
        if isinstance(leaf, Windowed):
            return max(data.nbytes for _, data in leaf.held.values()) // len(self.batch.row)
        return leaf[:1].nbytes if isinstance(leaf, Tensor) and leaf.ndim else 0

    def _compare(self, result: Any) -> None:
        """Raise Untraceable unless the mutated sequences themselves give this result."""
        true = leaves(self.truth.calls[self.at][1])
        for got, reference in zip(leaves(result), true, strict=True):
            got = got.whole() if isinstance(got, Windowed) else got
            known = isinstance(got, Tensor) and isinstance(reference, Reference)
            if known and not agree(got, reference.tensor, reference.tensor):
                raise Untraceable("windows and whole activations disagree")


def _first_line(error: Exception) -> str:
    kind = "" if isinstance(error, Untraceable) else f"{type(error).__name__}: "
    return kind + str(error).split("\n")[0]


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
    asked : numbers of the calls whose results are wanted instead of the prediction
    scout : see `Recording`
    """

    def __init__(
        self,
        predict: Predictor,
        sequences: Tensor,
        prepared: dict[int, dict],
        asked: Sequence[int] = (),
        scout: Recording | None = None,
    ):
        self.predict, self.sequences, self.prepared = predict, sequences, prepared
        self.input, self.recording = Reference(sequences), Recording(asked, scout)
        sequences, self.hidden = sequences.clone(), []
        try:
            with full_precision(predict.device):
                (self.output,) = self.recording.results(lambda: predict(sequences))[-1:]
            if not asked:
                self.hidden = self.recording.memory.hidden_from(self.output)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise Untraceable(f"its functions cannot be followed: {_first_line(error)}") from error

    def effects(self, *changed: np.ndarray) -> Tensor:
        """(substitutions, tasks) changes of the output, in float32 or wider.

        changed : (substitutions,) numbers of reference, position and new base
        """
        if len(changed[0]) == 1:  # a batch of one looks like a broadcast constant
            return self.effects(*(numbers.repeat(2) for numbers in changed))[:1]
        return self.changes(*changed)[0]

    def changes(self, *changed: np.ndarray) -> list[Tensor]:
        """Changes, in full, of the output or of what was asked for; two or more substitutions."""
        results = self.run(*changed)
        if self.recording.asked:
            return [self.change(*pair) for pair in zip(results, self.recording.asked, strict=True)]
        output, reference = at_least_float32(whole(results[0])), at_least_float32(self.output)
        return [output - reference[self.replay.batch.at]]

    def run(
        self, *changed: np.ndarray, truth: Recording | None = None, asked: Sequence[int] = ()
    ) -> list[Any]:
        """The output, or the results of the calls asked for, for two or more substitutions."""
        row, position, _ = changed
        batch = Batch(row, self.predict.device, self.recording.memory)
        batch.at, place, base = batch.indices(*changed)
        delta = F.one_hot(base, 4) - self.sequences[batch.at, :, place]
        held = {"delta": (Frame(position, 1), delta.to(self.sequences)[None])}
        span = position, position + 1
        mutants = Windowed(batch, self.input, self.sequences.shape[1:], 2, span, held)
        replay = Replay(self, batch, asked or self.recording.asked, truth)
        self.replay, predict = replay, self.predict.of(row)
        batch.mark(predict.args, False)
        try:
            with full_precision(batch.device):
                results = replay.results(lambda: predict(mutants))
            batch.need_shared(results[0], self.hidden)
            return [batch.current(result) for result in results]
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise Untraceable(f"{replay.name} (call {replay.at}): {_first_line(error)}") from error

    def change(self, result: Any, number: int) -> Tensor:
        """The change, in full, of the result of call `number`, as `run` returned it."""
        if isinstance(result, Windowed):
            return result.whole_delta()
        return result - leaves(self.recording.calls[number][1])[0].tensor[self.replay.batch.at]


def scouted(
    predict: Predictor, sequence: Tensor, window: range, asked: Sequence[int] = ()
) -> Recording | None:
    """A recording that knows which columns the windows of a stretch read, from a run without data.

    sequence : (1, 4, length); the model must have run on such a sequence before, as some models
        build a part at their first call

    Returns None if the model needs data to run.
    """
    scouts = min(max(2, len(window)), _SCOUTS)
    positions = np.linspace(window.start, window.stop - 1, scouts).astype(int)
    found = [(m, dict(vars(m)), dict(m._buffers)) for m in predict.model.modules()]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as without_data:
            windows = WindowedModel(predict, without_data.from_tensor(sequence), {}, asked)
            number = np.zeros_like(positions)
            windows.changes(number, positions, number)
        return windows.recording
    except Exception:
        return None
    finally:
        for module, attributes, buffers in found:  # so that the model keeps no tensor without data
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
