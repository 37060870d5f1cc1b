"""One torch function of a replay, and what its rule works with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _pop_mode_temporarily

from tism.engine.aliases import leaves, storage, targets
from tism.engine.window import (
    Batch,
    Frame,
    Reference,
    Span,
    Untraceable,
    Windowed,
    mapped,
    whole,
    windows_in,
)

_NAMES_OF_NUMPY = {"axis": "dim", "keepdims": "keepdim"}  # which torch takes too
_signature = cache(inspect.signature)


class InFull(Exception):
    """Raised by a rule for a call that it cannot follow."""


def need(condition: Any) -> None:
    """Raise `InFull` unless the condition holds."""
    if not condition:
        raise InFull


class Call:
    """One torch function that is called in a replay.

    given, func : the function, and its form that changes nothing in place
    full_name, name : as called, such as `add_` or `__add__`, and as rules name it, `add`
    reference : its result for the references; of an assignment, the tensor assigned to
    prepared : what its rule made of weights, kept from batch to batch
    changes : True if a substitution can change the result
    written : see `Batch`
    """

    def __init__(self, batch: Batch, func: Callable, name: str, reference: Any, prepared: dict):
        name = name.partition(".")[0]  # of an operator such as torch.ops.aten.add.Tensor
        self.batch, self.given, self.full_name, self.name = batch, func, name, name.strip("_")
        self.reference, self.prepared, self.changes = reference, prepared, True
        method = name.endswith("_") and not name.endswith("__")
        self.func = getattr(Tensor, self.name, getattr(F, self.name, None)) if method else func
        self.written: tuple[int | None, bool] = (None, True)

    def answer(self, rule: Callable | None, args: tuple, kwargs: dict) -> Any:
        """The result by a rule, or without one that applies, of the function on whole tensors."""
        if self.batch.became or self.batch.later:
            args, kwargs = mapped(self.batch.readable, (args, kwargs))
        windows, target = windows_in((args, kwargs)), self._target(args, kwargs)
        self.batch = windows[0].batch if windows else self.batch
        try:
            need(windows and all(w.batch is self.batch for w in windows))
            result = self._by_rule(rule, args, kwargs)
        except InFull:
            result = self._in_full(args, kwargs)
        self.batch.mark(result, self.changes)
        if target is None:
            return result
        self.batch.replace(target, result)
        if result is target:
            self.written = storage(target), self.changes
        return None if self.name == "setitem" else result

    def _target(self, args: tuple, kwargs: dict) -> Any:
        """The argument that is changed in place, if there is one."""
        changed = targets(self.full_name, args, kwargs)
        if len(changed) > 1 and windows_in((args, kwargs)):
            raise Untraceable("it changes several tensors in place")
        return changed[0] if len(changed) == 1 else None

    def _by_rule(self, rule: Callable | None, args: tuple, kwargs: dict) -> Any:
        """What the rule returns for this form of the call; raises `InFull` where it has none."""
        kwargs = {_NAMES_OF_NUMPY.get(name, name): value for name, value in kwargs.items()}
        if "inplace" in kwargs:
            kwargs["inplace"] = False
        need(rule and self.func and kwargs.get("out") is None)
        tensors = (leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor))
        need(not any(map(is_functorch_wrapped_tensor, tensors)))  # these do not outlive vmap
        try:
            given = _signature(rule).bind(self, *args, **kwargs).arguments
        except TypeError as error:
            raise InFull from error
        for name, value in given.items():
            kind = _signature(rule).parameters[name].annotation
            need(kind != "Windowed" or (isinstance(value, Windowed) and not value.flat))
            need(kind != "Tensor" or not isinstance(value, Windowed))
        return rule(self, *args, **kwargs)

    def _in_full(self, args: tuple, kwargs: dict) -> Any:
        """The result of the function on whole tensors."""
        self.changes = any(map(self.batch.can_change, leaves((args, kwargs))))
        mixed = bool(windows_in((args, kwargs)))
        if mixed:
            args, kwargs = mapped(whole, args), mapped(whole, kwargs)
        result, target = self.given(*args, **kwargs), self._target(args, kwargs)
        if mixed and not (isinstance(result, Tensor) and result.ndim == 0):  # as of a check
            self.batch.mixed.append(self.name)
        self.changes = self.changes or self._has_rows_from_python(args, result)
        return result if target is None else target

    def _has_rows_from_python(self, args: tuple, result: Any) -> bool:
        """True if Python may have read numbers or places from sequences and put them into rows."""
        rows = len(self.batch.row)
        if self.name in ("tensor", "as_tensor", "asarray"):
            return any(size % rows == 0 for size in result.shape)
        if self.name != "setitem" or args[0].shape[:1] != (rows,):
            return False
        first = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
        return not (first is None or first is Ellipsis or isinstance(first, slice))

    def once(self, make: Callable[[], Any]) -> Any:
        """The result of `make`, computed once for all batches and not counted as work."""
        if "made" not in self.prepared:
            counted = torch._C._len_torch_dispatch_stack() > 0
            with _pop_mode_temporarily() if counted else nullcontext():
                self.prepared["made"] = make()
        return self.prepared["made"]

    @property
    def shape(self) -> torch.Size:
        """Shape of the result for the references."""
        return self.reference.like.shape

    def rows(self) -> Tensor:
        """The reference's result for every row."""
        return self.reference.tensor.index_select(0, self.batch.at)

    def window(
        self, x: Windowed, kind: str, frame: Frame, data: Tensor, span: Span, axis: int = 0
    ) -> Windowed:
        """The result from its columns; `axis` is that of `x` by default."""
        inner = x.inner if x.flat else self.shape[1:]
        held = {kind: (frame, data)}
        return Windowed(self.batch, self.reference, inner, axis or x.axis, span, held)

    def spliced(self, x: Windowed, frame: Frame, span: Span, axis: int = 0) -> tuple:
        """A result that still equals the reference, and its columns, into which a rule writes."""
        result = self.window(x, "value", frame, None, span, axis)
        columns = result.unchanged(frame).to(result.dtype)
        result.held["value"] = frame, columns
        return result, columns

    def moved(
        self, x: Windowed, change: Callable = lambda data: data, axis: int = 0, inner: Any = ()
    ) -> Windowed:
        """The columns of a window with their features rearranged by `change`."""
        held = {kind: (frame, change(data)) for kind, (frame, data) in x.held.items()}
        inner = inner or (x.inner if x.flat else self.shape[1:])
        return Windowed(self.batch, self.reference, inner, axis or x.axis, x.span, held)


def hull(spans: Sequence[Span]) -> Span:
    """Start and stop of the columns that lie in any of the spans."""
    starts, stops = zip(*spans, strict=True)
    return reduce(np.minimum, starts), reduce(np.maximum, stops)


def moved_by(span: Span, columns: int) -> Span:
    """A span at other columns."""
    return span[0] + columns, span[1] + columns


def by_column(call: Call, args: tuple, kwargs: dict, axis: int = 0, shift: int = 0) -> Any:
    """The function itself, applied to the columns in which any of its arguments changed.

    axis : of the result; that of the windows by default
    shift : by how much the columns of the result move
    """
    windows = windows_in((args, kwargs))
    x, span = windows[0], hull([w.span for w in windows])
    need(len({(w.axis, w.ndim, w.length, w.flat and w.inner) for w in windows}) == 1)
    frame = Frame.over(span, x.length)
    args, kwargs = mapped(lambda leaf: _columns(leaf, x, frame), (args, kwargs))
    axis, at = axis or x.axis, Frame(frame.first + shift, frame.width)

    def window(result: Tensor, reference: Reference) -> Windowed:
        one = Call(call.batch, call.func, call.name, reference, call.prepared)
        return one.window(x, "value", at, result.movedim(axis, 0), moved_by(span, shift), axis)

    result = call.func(*args, **kwargs)
    if isinstance(result, Tensor):
        return window(result, call.reference)
    return type(result)([window(*pair) for pair in zip(result, call.reference, strict=True)])


def _columns(leaf: Any, x: Windowed, frame: Frame) -> Any:
    """The part of an argument in the columns of a frame; of a window (rows, ..., width, ...)."""
    if isinstance(leaf, Windowed):
        return leaf.value(frame).movedim(0, x.axis)
    if not isinstance(leaf, Tensor) or leaf.numel() == 1:
        return leaf
    need(not x.flat and leaf.ndim <= x.ndim)
    constant = leaf.reshape((1,) * (x.ndim - leaf.ndim) + leaf.shape)
    by_row = constant.shape[0] > 1
    need(not by_row or not x.batch.can_change(leaf))
    if constant.shape[x.axis] == 1:
        return leaf
    need(constant.shape[x.axis] == x.length)
    columns = x.batch.index(frame.columns)
    constant = constant.movedim(x.axis, 1)
    if by_row:
        rows = torch.arange(len(constant), device=columns.device).repeat(frame.width)
        constant = constant[rows, columns]
    else:
        constant = constant[0].index_select(0, columns)
    return constant.unflatten(0, frame.columns.shape).movedim(0, x.axis)
