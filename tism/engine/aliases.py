"""Which arguments of a model's functions were changed in place through another tensor.

In a model, a tensor and its views share memory; windows do not. So a run on plain tensors notes
where the model reads memory that it has changed through another view, for a replay to heed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakTensorKeyDictionary

_OPERATORS = (
    *("__setitem__", "__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__"),
    "__set__",  # the setter of x.data
)


def leaves(value: Any) -> list[Any]:
    """The items within nested tuples, lists and dicts."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if not isinstance(value, tuple | list):
        return [value]
    return [leaf for item in value for leaf in leaves(item)]


def targets(name: str, args: tuple, kwargs: dict) -> list[Tensor]:
    """The tensors that a function changes in place."""
    name = name.partition(".")[0]  # of an operator such as torch.ops.aten.add_.Tensor
    method = name.endswith("_") and not name.endswith("__")
    changed = kwargs.get("out")
    if changed is None and (method or name in _OPERATORS or kwargs.get("inplace", False)):
        changed = args[0] if args else next(iter(kwargs.values()))
    return [leaf for leaf in leaves(changed) if isinstance(leaf, Tensor)]


def storage(tensor: Tensor) -> int | None:
    """A number for the memory of a tensor; None if it has none that others can share."""
    if is_functorch_wrapped_tensor(tensor):  # lives no longer than its vmap
        return None
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a sparse tensor
        return None


class Places(NamedTuple):
    """Where in its storage a tensor has its numbers, which take `itemsize` bytes each."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    itemsize: int

    @classmethod
    def of(cls, tensor: Tensor) -> Places:
        """The places of a tensor."""
        offset, itemsize = tensor.storage_offset(), tensor.element_size()
        return cls(tuple(tensor.shape), tensor.stride(), offset, itemsize)

    def within(self, flags: np.ndarray) -> np.ndarray:
        """The flags at these places, as a view."""
        return np.lib.stride_tricks.as_strided(flags[self.offset :], self.shape, self.strides)

    def overlap(self, other: Places) -> bool:
        """True if some place belongs to both."""
        if self.itemsize != other.itemsize:
            return True
        if 0 in self.shape + other.shape:
            return False
        last = (p.offset + np.dot(p.strides, np.subtract(p.shape, 1)) for p in (self, other))
        flags = np.zeros(int(max(last)) + 1, dtype=bool)
        self.within(flags)[...] = True
        return bool(other.within(flags).any())


class Memory:
    """Watches the calls of a run.

    since : for each tensor the number of the call that made it, or of the last one that changed
        this very tensor; -1 if it was there before the run
    writes : for each storage the calls that changed it, as pairs of their number and the places
    hidden : for each call the arguments that other views have changed: the place of an argument
        among the leaves, and the numbers of the calls that changed it
    itself : for each call that returns an argument as it is, the place of that argument
    """

    def __init__(self) -> None:
        self.since = WeakTensorKeyDictionary()
        self.writes: dict[int, list[tuple[int, Places]]] = {}
        self.hidden: list[dict[int, list[int]]] = []
        self.itself: dict[int, int] = {}
        # While these exist, no other storage gets the same number.
        self._written: list[StorageWeakRef] = []

    def was_there(self, leaf: Tensor) -> bool:
        """True for a tensor that the run has met but not made."""
        return self.since.get(leaf) == -1

    def hidden_from(self, leaf: Any) -> list[int]:
        """Numbers of the calls that have changed a tensor through other views of its memory."""
        since = self.since.setdefault(leaf, -1) if isinstance(leaf, Tensor) else math.inf
        if not self.writes or since == math.inf:
            return []
        later = [write for write in self.writes.get(storage(leaf), ()) if write[0] > since]
        return [number for number, places in later if places.overlap(Places.of(leaf))]

    def before(self, name: str, args: tuple, kwargs: dict) -> None:
        """Note which arguments of a call were changed through other views."""
        found = {i: self.hidden_from(leaf) for i, leaf in enumerate(leaves((args, kwargs)))}
        if found.get(0) and name == "__setitem__" and _is_part(*args):  # the end of x[item] += 1
            writes, part = dict(self.writes[storage(args[0])]), Places.of(args[2])
            found[0] = [number for number in found[0] if writes[number] != part]
        self.hidden.append({i: numbers for i, numbers in found.items() if numbers})

    def after(self, number: int, name: str, args: tuple, kwargs: dict, result: Any) -> None:
        """Note which tensors a call has made and changed in place."""
        for leaf in leaves(result):
            if isinstance(leaf, Tensor):
                self.since.setdefault(leaf, number)
        changed = targets(name, args, kwargs)
        for place, leaf in enumerate(leaves((args, kwargs))):
            if isinstance(leaf, Tensor) and leaf is result and not changed:
                self.itself[number] = place
        for leaf in changed:
            self.since[leaf] = number
            self._write(number, leaf, *(args[1:] if name == "__setitem__" else ()))

    def _write(self, number: int, target: Tensor, item: Any = (), value: Any = None) -> None:
        """Note that a call has changed target[item]."""
        memory = storage(target)
        if memory is None or _is_part(target, item, value):
            return
        part = target[item] if _is_view(item) else target
        self.writes.setdefault(memory, []).append((number, Places.of(part)))
        self._written.append(StorageWeakRef(target.untyped_storage()))


def _is_view(item: Any) -> bool:
    """True if an index makes a view."""
    items = item if isinstance(item, tuple) else (item,)
    simple = int | slice | type(Ellipsis) | None
    return all(isinstance(it, simple) and not isinstance(it, bool) for it in items)


def _is_part(target: Tensor, item: Any, value: Any) -> bool:
    """True if a value assigned to target[item] is that part of its memory already."""
    if not isinstance(value, Tensor) or not _is_view(item) or storage(value) is None:
        return False
    return storage(value) == storage(target) and Places.of(value) == Places.of(target[item])
