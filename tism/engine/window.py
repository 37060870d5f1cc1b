"""Activations of mutated sequences, held as the columns in which they differ from the reference's.

Columns come first in memory, (width, rows, features), so that the taps of a convolution are
contiguous slices and a window is gathered by whole columns. The host knows which columns they are,
in numpy arrays: it sends indices to the device and never waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Span = tuple[np.ndarray, np.ndarray]


class Untraceable(Exception):
    """Raised where windows cannot follow the model."""


class Batch(NamedTuple):
    """Substitutions that run together: number of the reference of each row, (rows,); the device."""

    row: np.ndarray
    device: torch.device

    def index(self, numbers: np.ndarray) -> Tensor:
        """Numbers as a flat index on the device."""
        return torch.from_numpy(numbers.reshape(-1)).to(self.device, non_blocking=True)


class Frame:
    """The columns `first`, (rows,), to `first + width` of every row."""

    def __init__(self, first: np.ndarray, width: int):
        self.first, self.width = first, width

    def __eq__(self, other: object) -> bool:
        return self.width == other.width and np.array_equal(self.first, other.first)

    @classmethod
    def over(cls, span: Span, length: int) -> Frame:
        """The narrowest frame of columns in 0 to length that covers start to stop of every row."""
        start, stop = span
        width = max(1, int((stop - start).max()))
        return cls(np.minimum(np.maximum(start, 0), length - width), width)

    @property
    def columns(self) -> np.ndarray:
        """(width, rows) column numbers."""
        return self.first + np.arange(self.width)[:, None]

    def within(self, length: int) -> bool:
        """True if no column lies beyond the ends of an axis."""
        return bool(self.first.min() >= 0 and self.first.max() + self.width <= length)


class Reference:
    """One result of the model on the n reference sequences."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor.clone()  # the model may change the original in place
        self._columns: Tensor | None = None

    def columns(self, inner: Sequence[int], axis: int) -> Tensor:
        """(n, length, features) of the tensor seen as (n, *inner) with the sequence on `axis`."""
        if self._columns is None:
            by_column = self.tensor.reshape(-1, *inner).movedim(axis, 1)
            self._columns = by_column.flatten(2).contiguous()
            if self.tensor.ndim == by_column.ndim:  # one memory for both
                self.tensor = self._columns.view(by_column.shape).movedim(1, axis)
        return self._columns


class Windowed(Tensor):
    """Activations of mutated sequences, known where they differ from the reference's.

    The shape is that of the whole activation: (rows, *inner), or (rows, features) once `flat`.

    inner, axis : the shape without rows, and where the sequence is in (rows, *inner)
    span : start and stop, (rows,) each; columns outside equal the reference's
    held : for "value" or "delta" (value minus reference) a frame that covers the span and its
        columns, (width, rows, features); columns beyond the ends of the axis have no meaning
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, batch: Batch, reference: Reference, *args: Any) -> Windowed:
        like = reference.tensor
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
        self.inner, self.axis, self.span, self.held = tuple(inner), axis, span, held
        self.length = self.inner[axis - 1]
        self.features = self.inner[: axis - 1] + self.inner[axis:]
        self.flat = self.ndim == 2 and len(self.inner) > 1
        self._asked: dict[str, tuple[Frame, Tensor]] = {}

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise Untraceable(f"{func} is called where no rule can see it")

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
        columns = self._gather(frame)
        if "value" in self.held:
            return self._place(*self.held["value"], columns, frame)
        return self._place(*self.held["delta"], columns, frame, add=True)

    def _delta(self, frame: Frame) -> Tensor:
        if "delta" not in self.held:
            held, value = self.held["value"]
            columns = self._gather(held)
            self.held["delta"] = held, torch.sub(value, columns, out=columns)
            return self.delta(frame)
        held, delta = self.held["delta"]
        return self._place(held, delta, delta.new_zeros(frame.width, *delta.shape[1:]), frame)

    def _gather(self, frame: Frame) -> Tensor:
        """A copy of the reference's columns."""
        columns = np.minimum(np.maximum(frame.columns, 0), self.length - 1)
        columns += self.batch.row * self.length
        table = self.reference.columns(self.inner, self.axis).flatten(0, 1)
        chosen = table.index_select(0, self.batch.index(columns))
        return chosen.view(*columns.shape, *self.features)

    def add_delta(self, total: Tensor, frame: Frame, sign: int = 1) -> Tensor:
        """Add this window's differences to columns of a frame; returns `total`."""
        self.delta(self.frame)
        held, delta = self.held["delta"]
        return self._place(held, delta if sign > 0 else -delta, total, frame, add=True)

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
        slot = self.batch.index((slot * rows + np.arange(rows))[valid])
        data = data.flatten(0, 1)
        if not valid.all():
            data = data.index_select(0, self.batch.index(np.flatnonzero(valid)))
        put = into.flatten(0, 1).index_add_ if add else into.flatten(0, 1).index_copy_
        put(0, slot, data)
        return into

    def whole(self) -> Tensor:
        """The activations in full: the window spliced into the reference's."""
        rows = len(self.batch.row)
        columns = self.reference.columns(self.inner, self.axis)
        columns = columns.index_select(0, self.batch.index(self.batch.row))
        slot = self.batch.index(self.frame.columns + np.arange(rows) * self.length)
        value = self.value(self.frame).flatten(0, 1).flatten(1)
        columns.flatten(0, 1).index_copy_(0, slot, value)
        columns = columns.view(rows, self.length, *self.features)
        return columns.movedim(1, self.axis).reshape(self.shape).contiguous()
