"""Activations of mutated sequences, held as the columns in which they differ from the reference's.

Columns come first in memory, (width, rows, features), so that the taps of a convolution are
contiguous slices and a window is gathered by whole columns. The host knows which columns they are,
in numpy arrays: it sends indices to the device and never waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.weak import WeakTensorKeyDictionary

from tism.engine.aliases import Memory, leaves, storage
from tism.running import on_device

_EXTREME = 1000.0  # ordinary activations are smaller
Span = tuple[np.ndarray, np.ndarray]
_OUT_OF_REACH = "it reads columns that no substitution of the stretch was thought to reach"


class Untraceable(Exception):
    """Raised where windows cannot follow the model."""


class Batch:
    """Substitutions that run together, and what is known of the tensors that a replay meets.

    row, device : number of the reference of each row, (rows,); where they run
    at : `row` on the device
    memory : knows which tensors were there before the model ran
    changes : for plain tensors made in the replay, True if a substitution can change them
    became : for each tensor that was changed in place, the result that stands for it now
    written : for each call that changed a plain tensor in place, its storage, and `changes`
    later : for each placeholder, the function that computes it when something reads it
    mixed : names of the functions that were given whole tensors
    sent : indices that are on the device already, see `columns`
    """

    def __init__(self, row: np.ndarray, device: torch.device, memory: Memory):
        self.row, self.device, self.memory = row, device, memory
        self.changes, self.became = WeakTensorKeyDictionary(), WeakTensorKeyDictionary()
        self.later = WeakTensorKeyDictionary()
        self.written: dict[int, tuple[int | None, bool]] = {}
        self.mixed: list[str] = []
        self.sent: dict[Any, Tensor] = {}

    def repeated(self, windows: Sequence[Windowed]) -> Batch:
        """The longer batch of windows joined along the rows; both share what is known."""
        counts = [len(window.reference.like) for window in windows]
        starts = np.cumsum([0, *counts[:-1]])
        longer = copy(self)
        longer.row = np.concatenate([self.row + start for start in starts])
        longer.at, longer.sent = longer.index(longer.row), {}
        return longer

    def index(self, numbers: np.ndarray) -> Tensor:
        """Numbers as a flat index on the device."""
        return on_device(numbers.reshape(-1), self.device)

    def indices(self, *numbers: np.ndarray) -> Sequence[Tensor]:
        """Numbers as flat indices, which go to the device together."""
        if self.device.type == "cpu":
            return [self.index(each) for each in numbers]
        sizes = [each.size for each in numbers]
        return self.index(np.concatenate([*map(np.ravel, numbers)])).split(sizes)

    def columns(self, frame: Frame, length: int, first: int, kept: int) -> Tensor:
        """An index of a frame's columns, those beyond an end moved to it, into all n * kept.

        first, kept : the first of the columns that are kept of each reference, and their number
        """
        key = length, first, kept, frame.width, frame.first.tobytes()
        if key not in self.sent:
            columns = np.minimum(np.maximum(frame.columns, 0), length - 1) - first
            self.sent[key] = self.index(columns + self.row * kept)
        return self.sent[key]

    def mark(self, value: Any, changes: bool) -> None:
        """Note for each plain tensor in a result whether a substitution can change it."""
        for leaf in leaves(value):
            if isinstance(leaf, Tensor) and not isinstance(leaf, Windowed):
                self.changes[leaf] = changes

    def can_change(self, leaf: Any) -> bool:
        """True if a substitution can change an argument.

        A tensor that no recorded function made is thought to change if a size is that of the rows.
        """
        if isinstance(leaf, Windowed) or not isinstance(leaf, Tensor):
            return isinstance(leaf, Windowed)
        made = not self.memory.was_there(leaf)
        return self.changes.get(leaf, made and len(self.row) in leaf.shape)

    def current(self, leaf: Any) -> Any:
        """The tensor that stands for an argument after its changes in place."""
        while isinstance(leaf, Tensor) and leaf in self.became:
            leaf = self.became[leaf]
        return leaf

    def readable(self, leaf: Any) -> Any:
        """The same, computed now if it is a placeholder."""
        leaf = self.current(leaf)
        return self.later[leaf]() if isinstance(leaf, Tensor) and leaf in self.later else leaf

    def replace(self, target: Tensor, result: Tensor) -> None:
        """Note that a function has changed `target` in place, which is `result` from now on."""
        if result is not target:
            if result.shape != target.shape:
                raise Untraceable("it changes the shape of a tensor in place")
            self.became[target] = result

    def need_shared(self, leaf: Any, calls: Sequence[int]) -> None:
        """Raise Untraceable unless an argument shows what calls changed through other views."""
        for memory, changes in map(self.written.get, calls):
            if isinstance(leaf, Windowed) or memory is None or memory != storage(leaf):
                raise Untraceable(
                    "it reads a tensor after a view of its memory was changed in place"
                )
            self.changes[leaf] = changes or self.can_change(leaf)


def wide(dtype: torch.dtype) -> torch.dtype:
    """A type that holds differences of two numbers: neither booleans nor small integers do."""
    return dtype if dtype.is_floating_point or dtype.is_complex else torch.int64


def windows_in(arguments: Any) -> list[Windowed]:
    """The windows among the arguments of a function."""
    return [leaf for leaf in leaves(arguments) if isinstance(leaf, Windowed)]


def mapped(function: Callable, value: Any) -> Any:
    """`function` applied to the items within nested tuples, lists and dicts."""
    if isinstance(value, dict):
        return {key: mapped(function, item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        make = getattr(value, "_make", type(value))  # of a named tuple
        return make([mapped(function, item) for item in value])
    return function(value)


def clipped(span: Span, length: int) -> Span:
    """The part of a span within an axis; where nothing is left, start is `length` and stop 0."""
    start, stop = span[0].clip(min=0), span[1].clip(max=length)
    empty = start >= stop
    return np.where(empty, length, start), np.where(empty, 0, stop)


class Frame:
    """The columns `first`, (rows,), to `first + width` of every row."""

    def __init__(self, first: np.ndarray, width: int):
        self.first, self.width = first, width

    def __eq__(self, other: object) -> bool:
        return self.width == other.width and np.array_equal(self.first, other.first)

    @classmethod
    def over(cls, span: Span, length: int) -> Frame:
        """The narrowest frame of columns in 0 to length that covers start to stop of every row."""
        start, stop = clipped(span, length)
        width = max(1, int((stop - start).max()))
        return cls(np.minimum(start, length - width), width)

    @property
    def columns(self) -> np.ndarray:
        """(width, rows) column numbers."""
        return self.first + np.arange(self.width)[:, None]

    def within(self, length: int) -> bool:
        """True if no column lies beyond the ends of an axis."""
        return bool(self.first.min() >= 0 and self.first.max() + self.width <= length)


def columns_of(tensor: Tensor, inner: Sequence[int], axis: int) -> Tensor:
    """(n, length, features) of a tensor seen as (n, *inner) with the sequence on `axis`."""
    by_column = tensor.reshape(-1, *inner).movedim(axis, 1)
    return by_column.reshape(*by_column.shape[:2], -1)


class Reference:
    """One result of the model on the n reference sequences, or the part of it that windows read.

    like : of the result's shape, type and device, without memory
    read : first and last + 1 of the columns read until now; None if nothing was
    scout : the same result in a run without data, which knows what will be read
    """

    def __init__(self, tensor: Tensor, scout: Reference | None = None):
        self.like = tensor.new_empty(()).expand(tensor.shape)
        self.first, self.read = 0, None
        self.read_whole = False
        self._tensor: Tensor | None = None
        self._columns: Tensor | None = None
        self._maxima: dict[int, tuple[Tensor, Tensor]] = {}
        if scout is None or scout.read_whole:
            self._tensor = tensor.clone()  # the model may change the original in place
        elif scout.read is not None:
            self.first, stop = scout.read
            columns = columns_of(tensor, scout.inner, scout.axis)[:, self.first : stop]
            self._columns = columns.clone(memory_format=torch.contiguous_format)

    @property
    def tensor(self) -> Tensor:
        """The whole result."""
        self.read_whole = True
        if self._tensor is None:
            raise Untraceable(_OUT_OF_REACH)
        return self._tensor

    @cached_property
    def is_extreme(self) -> bool:
        """True if what is kept has numbers against which others are rounded away."""
        kept = self._columns if self._tensor is None else self._tensor
        if kept is None or isinstance(kept, FakeTensor) or wide(kept.dtype) == torch.int64:
            return False
        return kept.numel() > 0 and not float(kept.abs().max()) < _EXTREME

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        kept = self._columns if self._tensor is None else self._tensor
        return 0 if kept is None else kept.nbytes

    def columns(
        self, inner: Sequence[int], axis: int, first: int = 0, stop: int | None = None
    ) -> Tensor:
        """(n, kept columns, features) of the result as (n, *inner) with the sequence on `axis`.

        first, stop : the columns that will be read; the first one kept is `self.first`
        """
        stop = inner[axis - 1] if stop is None else stop
        self.inner, self.axis, before = inner, axis, self.read or (first, stop)
        self.read = min(before[0], first), max(before[1], stop)
        if self._columns is None and self._tensor is None:
            raise Untraceable(_OUT_OF_REACH)
        if self._columns is None:
            self._columns = columns_of(self._tensor, inner, axis).contiguous()
            if self._tensor.ndim == len(inner) + 1:  # one memory for both
                moved = self._tensor.movedim(axis, 1).shape
                self._tensor = self._columns.view(moved).movedim(1, axis)
        if first < self.first or stop > self.first + self._columns.shape[1]:
            raise Untraceable(_OUT_OF_REACH)
        return self._columns

    def maxima(self, inner: Sequence[int], axis: int, sign: int) -> tuple[Tensor, Tensor]:
        """(n, length + 1, features) each: the largest value before a column, and from it on.

        sign : 1, or -1 for the largest of the negated values
        """
        if sign not in self._maxima:
            columns = self.columns(inner, axis) * sign
            lowest = columns.new_full((len(columns), 1, columns.shape[2]), -math.inf)
            behind = columns.flip(1).cummax(1).values.flip(1)
            before = columns.cummax(1).values
            self._maxima[sign] = torch.cat([lowest, before], 1), torch.cat([behind, lowest], 1)
        return self._maxima[sign]


class Windowed(Tensor):
    """Activations of mutated sequences, known where they differ from the reference's.

    The shape is that of the whole activation: (rows, *inner), or (rows, features) once `flat`.

    inner, axis : the shape without rows, and where the sequence is in (rows, *inner)
    span : start and stop, (rows,) each; columns outside equal the reference's
    held : for "value" or "delta" (value minus reference) a frame that covers the span and its
        columns, (width, rows, *features); columns beyond the ends of the axis have no meaning
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, batch: Batch, reference: Reference, *args: Any) -> Windowed:
        like = reference.like
        shape = (len(batch.row), *like.shape[1:])
        return Tensor._make_wrapper_subclass(cls, shape, dtype=like.dtype, device=like.device)

    def __init__(
        self,
        batch: Batch,
        reference: Reference,
        inner: Sequence[int],
        axis: int,
        span: Span,
        held: dict[str, tuple[Frame, Tensor]],
    ):
        self.batch, self.reference = batch, reference
        self.inner, self.axis, self.held = tuple(inner), axis, held
        self.length = self.inner[axis - 1]
        self.span = clipped(span, self.length)
        self.features = self.inner[: axis - 1] + self.inner[axis:]
        self.flat = self.ndim == 2 and len(self.inner) > 1
        self._asked: dict[str, tuple[Frame, Tensor]] = {}

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """The function on whole tensors, where no rule can see it."""
        if func._schema.is_mutable:
            raise Untraceable(f"{func} changes a tensor where no rule can see it")
        for window in windows_in((args, kwargs)):
            window.batch.mixed.append(func.overloadpacket.__name__)
        with torch._C.DisableTorchFunction():  # nothing of this is part of the replay
            return func(*mapped(whole, args), **mapped(whole, kwargs or {}))

    @property
    def is_rounded(self) -> bool:
        """True if values next to a reference as of -1e9 would be lost in differences from it."""
        return "value" in self.held and self.reference.is_extreme

    @cached_property
    def frame(self) -> Frame:
        """The frame of the columns that may have changed."""
        return Frame.over(self.span, self.length)

    def value(self, frame: Frame) -> Tensor:
        """The columns of a frame; undefined beyond the ends of the axis."""
        return self._once("value", frame, self._value)

    def delta(self, frame: Frame) -> Tensor:
        """Value minus reference in the columns of a frame; zero beyond the ends of the axis."""
        return self._once("delta", frame, self._delta)

    def _once(self, kind: str, frame: Frame, make: Callable[[Frame], Tensor]) -> Tensor:
        if kind in self._asked and self._asked[kind][0] == frame:
            return self._asked[kind][1]
        if kind in self.held and self.held[kind][0] == frame and frame.within(self.length):
            return self.held[kind][1]
        self._asked[kind] = frame, make(frame)
        return self._asked[kind][1]

    def _value(self, frame: Frame) -> Tensor:
        kind = "value" if "value" in self.held else "delta"
        value = self._place(*self.held[kind], self.unchanged(frame), frame, add=kind == "delta")
        return value.to(self.dtype)

    def _delta(self, frame: Frame) -> Tensor:
        if "delta" not in self.held:
            held, value = self.held["value"]
            columns = self.unchanged(held)
            self.held["delta"] = held, torch.sub(value.to(columns.dtype), columns, out=columns)
            return self.delta(frame)
        held, delta = self.held["delta"]
        return self._place(held, delta, delta.new_zeros(frame.width, *delta.shape[1:]), frame)

    def unchanged(self, frame: Frame) -> Tensor:
        """A copy of the reference's columns, in a type that holds differences."""
        first = min(max(int(frame.first.min()), 0), self.length - 1)
        stop = max(min(int(frame.first.max()) + frame.width, self.length), first + 1)
        table = self.reference.columns(self.inner, self.axis, first, stop)
        columns = self.batch.columns(frame, self.length, self.reference.first, table.shape[1])
        chosen = table.flatten(0, 1).index_select(0, columns)
        return chosen.to(wide(chosen.dtype)).view(frame.width, -1, *self.features)

    def add_delta(self, total: Tensor, frame: Frame, sign: int = 1) -> Tensor:
        """Add this window's differences to columns of a frame; returns `total`."""
        self.delta(self.frame)
        held, delta = self.held["delta"]
        return self._place(held, delta if sign > 0 else -delta, total, frame, add=True)

    def put(self, into: Tensor, frame: Frame) -> None:
        """Copy this window's values to their places among the columns of a frame."""
        self._place(self.frame, self.value(self.frame), into, frame)

    def _place(
        self, frame: Frame, data: Tensor, into: Tensor, target: Frame, add: bool = False
    ) -> Tensor:
        """Copy or add the columns of `frame` to their places in `target`; returns `into`."""
        columns, rows = frame.columns, len(frame.first)
        slot = columns - target.first
        valid = (slot >= 0) & (slot < target.width) & (columns >= 0) & (columns < self.length)
        shift = slot[0]
        if valid.all() and (shift == shift[0]).all():
            part = into[shift[0] : shift[0] + frame.width]
            part.add_(data) if add else part.copy_(data)
            return into
        slot, data = (slot * rows + np.arange(rows))[valid], data.flatten(0, 1)
        slot, known = self.batch.indices(slot, np.flatnonzero(valid))
        if not valid.all():
            data = data.index_select(0, known)
        put = into.flatten(0, 1).index_add_ if add else into.flatten(0, 1).index_copy_
        put(0, slot, data.to(into.dtype))
        return into

    def whole_delta(self) -> Tensor:
        """Value minus reference in full, (rows, *inner)."""
        everywhere = Frame(np.zeros_like(self.batch.row), self.length)
        return self.delta(everywhere).movedim(0, self.axis).reshape(self.shape)

    def whole(self) -> Tensor:
        """The activations in full: the window spliced into the reference's."""
        rows = len(self.batch.row)
        columns = self.reference.columns(self.inner, self.axis)
        columns = columns.index_select(0, self.batch.at)
        slot = self.batch.index(self.frame.columns + np.arange(rows) * self.length)
        columns.flatten(0, 1).index_copy_(0, slot, self.value(self.frame).reshape(len(slot), -1))
        columns = columns.view(rows, self.length, *self.features)
        return columns.movedim(1, self.axis).reshape(self.shape).contiguous()


def whole(leaf: Any) -> Any:
    """An argument of a function; of a window, the activations in full."""
    return leaf.whole() if isinstance(leaf, Windowed) else leaf
