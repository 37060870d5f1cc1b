"""Exact effects of substitutions from the columns that they can change.

The model's own code runs on the references once, and every result is kept. It then runs on
`Windowed` tensors, which stand for the activations of mutated sequences but hold only the columns
along the sequence that may differ from the reference. A rule for each torch function turns windows
into windows; where there is no rule, the windows are spliced into the reference's activations and
the model runs in full from there on. So anything runs that would run on plain tensors, shape
arithmetic and control flow on shapes included.

Columns are stored first, (width, rows, features): the taps of a convolution are then contiguous
slices, and a window is gathered by whole rows of features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from tism.execution import Predictor

# ---------------------------------------------------------------------------------------------
# What is kept of the references, and the tensors that stand for their substitutions.


class Reference:
    """One result of the model on the reference sequences, by columns when it is first needed."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor.clone()  # the model may change it in place later on
        self._columns: Tensor | None = None

    def columns(self, shape: tuple[int, ...], axis: int) -> Tensor:
        """(n * length, features), of the tensor seen as (n, *shape) with the sequence on `axis`."""
        if self._columns is None:
            by_column = self.tensor.view(-1, *shape).movedim(axis, 1)
            self._columns = by_column.reshape(len(by_column) * shape[axis - 1], -1)
        return self._columns


class Windowed(Tensor):
    """The activations of substitutions, of which only a window of columns is held.

    Its shape is that of the whole activation, (rows, ...); `shape` without rows is `features` with
    the sequence on `axis`, unless `flat`: then all of them are one axis.

    start, stop : (rows,) on the CPU; the columns from start to stop may differ from the reference
    held : "value" and "delta" (value minus reference) on a window (first column of each row, width)
        that covers start to stop; either is made from the other when asked for
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, run: Replay, reference: Reference, like: Tensor, **fields: Any) -> Windowed:
        shape = (len(run.row), *reference.tensor.shape[1:])
        return Tensor._make_wrapper_subclass(cls, shape, dtype=like.dtype, device=like.device)

    def __init__(self, run, reference, like, *, axis, inner, start, stop, flat=False):
        self.run, self.reference = run, reference
        self.axis, self.inner, self.flat = axis, inner, flat
        self.start, self.stop = start, stop
        self.held: dict[str, tuple[Tensor, int, Tensor]] = {}

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError(f"{func} is out of reach of the rules")
