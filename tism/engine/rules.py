"""Rules: how torch functions, alone or in families, turn windows into windows.

A rule gets the `Call` and the function's own arguments. It returns a window, or a plain tensor if
the result depends on all columns, or NotImplemented, upon which the function runs in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._mode_utils import no_dispatch

from tism.engine.window import Batch, Frame, Reference, Span, Untraceable, Windowed

RULES: dict[str, Callable] = {}
_SLICES_KEPT = 128  # slices of the weights of a layer that sums over positions


def rule(names: str) -> Callable[[Callable], Callable]:
    """Register a rule under the bare names of functions and methods."""

    def register(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(names.split(), function))
        return function

    return register


class Call:
    """One torch function that is called with windows.

    reference : its result for the references
    prepared : what its rule made of weights, kept from batch to batch
    """

    def __init__(self, batch: Batch, func: Callable, name: str, reference: Any, prepared: dict):
        self.batch, self.func, self.name = batch, func, name
        self.reference, self.prepared = reference, prepared

    def answer(self, args: tuple, kwargs: dict) -> Any:
        """The result of its rule, or of the function in full."""
        method = self.name.endswith("_") and not self.name.endswith("__")
        in_place = method or self.name == "__setitem__" or kwargs.get("inplace", False)
        if method:
            self.func = getattr(Tensor, self.name[:-1])
        if "inplace" in kwargs:
            kwargs = {**kwargs, "inplace": False}
        self.name = self.name.strip("_")
        result = RULES[self.name](self, *args, **kwargs) if self.name in RULES else NotImplemented
        if result is NotImplemented:
            result = self.func(*mapped(_whole, args), **mapped(_whole, kwargs))
        if not in_place:
            return result
        if not (isinstance(args[0], Windowed) and isinstance(result, Windowed)):
            raise Untraceable("it changes a tensor in place")
        args[0].__dict__.clear()
        args[0].__dict__.update(result.__dict__)
        return args[0]

    def once(self, make: Callable[[], Any], key: Any = None) -> Any:
        """The result of `make`, computed once for all batches and not counted as work."""
        if key not in self.prepared:
            with no_dispatch():
                self.prepared[key] = make()
        return self.prepared[key]

    @property
    def shape(self) -> torch.Size:
        """Shape of the result for the references."""
        return self.reference.tensor.shape

    def rows(self) -> Tensor:
        """The reference's result for every row."""
        return self.reference.tensor.index_select(0, self.batch.index(self.batch.row))

    def window(
        self, x: Windowed, kind: str, frame: Frame, data: Tensor, span: Span, axis: int = 0
    ) -> Windowed:
        """The result from its columns; `axis` is that of `x` by default."""
        inner = x.inner if x.flat else self.shape[1:]
        held = {kind: (frame, data)}
        return Windowed(self.batch, self.reference, inner, axis or x.axis, span, held)

    def moved(
        self,
        x: Windowed,
        change: Callable[[Tensor], Tensor] = lambda data: data,
        axis: int = 0,
        inner: Sequence[int] = (),
    ) -> Windowed:
        """The same columns with rearranged features."""
        held = {kind: (frame, change(data)) for kind, (frame, data) in x.held.items()}
        inner = inner or (x.inner if x.flat else self.shape[1:])
        return Windowed(self.batch, self.reference, inner, axis or x.axis, x.span, held)


def leaves(value: Any) -> list[Any]:
    """The items within nested tuples, lists and dicts."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if not isinstance(value, tuple | list):
        return [value]
    return [leaf for item in value for leaf in leaves(item)]


def windows_in(arguments: Any) -> list[Windowed]:
    """The windows among the arguments of a function."""
    return [leaf for leaf in leaves(arguments) if isinstance(leaf, Windowed)]


def mapped(function: Callable, value: Any) -> Any:
    """`function` applied to the items within nested tuples, lists and dicts."""
    if isinstance(value, dict):
        return {key: mapped(function, item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)([mapped(function, item) for item in value])
    return function(value)


def _whole(leaf: Any) -> Any:
    return leaf.whole() if isinstance(leaf, Windowed) else leaf


def alike(windows: Sequence[Windowed]) -> bool:
    """True if all windows have the same shape with the sequence on the same axis."""
    return len({(w.axis, w.inner, w.flat) for w in windows}) == 1


def hull(windows: Sequence[Windowed]) -> Span:
    """Start and stop of the columns in which any of the windows changed."""
    starts, stops = zip(*(w.span for w in windows), strict=True)
    return reduce(np.minimum, starts), reduce(np.maximum, stops)


def by_column(call: Call, args: tuple, kwargs: dict, axis: int = 0) -> Any:
    """The function itself, applied to the columns in which any of its arguments changed."""
    windows = windows_in((args, kwargs))
    x, span = windows[0], hull(windows)
    if len({(w.axis, w.ndim, w.length, w.flat) for w in windows}) > 1:
        return NotImplemented
    frame = Frame.over(span, x.length)
    args, kwargs = mapped(lambda leaf: _columns(leaf, x, frame), (args, kwargs))
    if any(leaf is NotImplemented for leaf in leaves((args, kwargs))):
        return NotImplemented
    axis = axis or x.axis

    def window(result: Tensor, reference: Reference) -> Windowed:
        one = Call(call.batch, call.func, call.name, reference, call.prepared)
        return one.window(x, "value", frame, result.movedim(axis, 0), span, axis)

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
    if x.flat or leaf.ndim > x.ndim:
        return NotImplemented
    constant = leaf.reshape((1,) * (x.ndim - leaf.ndim) + leaf.shape)
    if constant.shape[0] > 1:  # a value for each row: all of its columns may have changed
        return NotImplemented
    if constant.shape[x.axis] == 1:
        return leaf
    constant = constant.movedim(x.axis, 0)[:, 0].index_select(0, x.batch.index(frame.columns))
    return constant.unflatten(0, frame.columns.shape).movedim(0, x.axis)


@rule(
    """abs neg sign exp expm1 log log1p log2 log10 sqrt rsqrt square reciprocal sin cos atan erf
    round floor ceil relu relu6 leaky_relu elu selu celu gelu silu mish softplus softsign sigmoid
    logsigmoid tanh tanhshrink hardtanh hardswish hardsigmoid hardshrink softshrink threshold clamp
    clip clamp_min clamp_max nan_to_num pow rpow rsub mul multiply div divide true_divide rdiv
    rtruediv maximum minimum fmax fmin logaddexp where lerp addcmul eq ne lt le gt ge isnan
    logical_and logical_or logical_not float double half bfloat16 to"""
)
def elementwise(call: Call, *args: Any, **kwargs: Any) -> Any:
    """Any function that treats every place alone."""
    return by_column(call, args, kwargs)


@rule("add sub subtract")
def addition(call: Call, *args: Any, **kwargs: Any) -> Any:
    """The differences of two windows add up; so do their values if both are held."""
    windows = [arg for arg in args if isinstance(arg, Windowed)]
    if len(windows) < 2 or all("value" in w.held for w in windows) or kwargs or not alike(windows):
        return by_column(call, args, kwargs)
    first, second = windows
    span = hull(windows)
    frame, sign = Frame.over(span, first.length), 1 if call.name == "add" else -1
    if second.frame == frame and sign > 0:
        first, second = second, first
    total = second.add_delta(first.delta(frame).clone(), frame, sign)
    return call.window(first, "delta", frame, total, span)


@rule("contiguous clone detach data")
def same(call: Call, x: Windowed, *_: Any, **__: Any) -> Windowed:
    """The tensor as it is."""
    return call.moved(x)


@rule("dropout dropout1d dropout2d alpha_dropout feature_alpha_dropout")
def dropout(call: Call, input: Windowed, p: float = 0.5, training: bool = True, **_: Any) -> Any:
    """Dropout, which changes nothing in evaluation mode."""
    return NotImplemented if training else call.moved(input)


@rule("batch_norm")
def batch_norm(call: Call, input: Windowed, mean: Any, variance: Any, **settings: Any) -> Any:
    """A factor and a summand for each channel, if the statistics are fixed."""
    if settings["training"] or mean is None or input.flat or input.axis == 1:
        return NotImplemented

    def line() -> tuple[Tensor, Tensor]:
        weight, bias = settings.get("weight"), settings.get("bias")
        slope = (variance + settings.get("eps", 1e-5)).rsqrt() * (1 if weight is None else weight)
        offset = (0 if bias is None else bias) - mean * slope
        shape = (1, -1) + (1,) * (input.ndim - 2)
        return offset.view(shape), slope.view(shape)

    offset, slope = call.once(line)
    call.func = torch.addcmul
    return by_column(call, (offset, input, slope), {})


@rule("layer_norm")
def layer_norm(call: Call, input: Windowed, shape: Sequence[int], *args: Any, **kwargs: Any) -> Any:
    """Normalisation within each position."""
    if input.flat or input.axis >= input.ndim - len(shape):
        return NotImplemented
    return by_column(call, (input, shape, *args), kwargs)


@rule(
    """softmax log_softmax logsumexp amax amin max min prod std var argmax chunk split glu unbind
    cat concat concatenate stack"""
)
def along_another_axis(call: Call, *args: Any, **kwargs: Any) -> Any:
    """Functions that mix channels but not positions."""
    x = windows_in(args)[0]
    place = 2 if call.name in ("chunk", "split") else 1
    dim = args[place] if len(args) > place else kwargs.get("dim", -1 if call.name == "glu" else 0)
    if isinstance(dim, Tensor):  # the larger of two tensors
        return by_column(call, args, kwargs)
    stack = call.name == "stack"
    dims = _dims(dim, x.ndim + stack)
    if x.flat or 0 in dims or (x.axis in dims and not stack):
        return NotImplemented
    if call.name == "softmax":
        call.func = _kept_layout(call.func)
    fewer = x.ndim - leaves(call.reference)[0].tensor.ndim
    axis = x.axis + sum(d <= x.axis for d in dims) * (stack - (fewer > 0))
    return by_column(call, args, kwargs, axis=axis)


def _kept_layout(softmax: Callable) -> Callable:
    """A softmax that keeps the order of the axes in memory."""

    def function(x: Tensor, dim: int, *args: Any, **kwargs: Any) -> Tensor:
        order = sorted(range(x.ndim), key=x.stride, reverse=True)
        result = softmax(x.permute(order), order.index(dim % x.ndim), *args, **kwargs)
        return result.permute([order.index(d) for d in range(x.ndim)])

    return function


def _dims(dim: Any, ndim: int) -> list[int]:
    """Axes counted from 0; all of them if none is given."""
    if dim is None:
        return list(range(ndim))
    return [d % ndim for d in (dim if isinstance(dim, Sequence) else [dim])]


@rule("sum mean")
def total(call: Call, input: Windowed, dim: Any = None, keepdim: bool = False, **kw: Any) -> Any:
    """Sum or mean over positions: that of the reference plus the changes of changed columns."""
    dims = _dims(dim, input.ndim)
    if input.axis not in dims:
        return along_another_axis(call, input, dim, keepdim, **kw)
    if input.flat or 0 in dims or kw:
        return NotImplemented
    delta = input.delta(input.frame).movedim(0, input.axis).sum(dims, keepdim)
    count = 1 if call.name == "sum" else math.prod(input.shape[d] for d in dims)
    return call.rows() + delta / count


@rule("adaptive_avg_pool1d adaptive_avg_pool2d")
def adaptive_average(call: Call, input: Windowed, output_size: Any) -> Any:
    """The mean over all positions, if one value is left."""
    dims = [d for d in range(2, input.ndim) if call.shape[d] == 1]
    kept = (call.shape[d] == input.shape[d] for d in range(2, input.ndim) if d not in dims)
    return total(call, input, dims, True) if input.axis in dims and all(kept) else NotImplemented


@rule("linear matmul")
def linear(call: Call, input: Any, weight: Any, bias: Any = None) -> Any:
    """A linear layer at each position, or of all positions as a sum over the changed columns."""
    if not isinstance(input, Windowed) or isinstance(weight, Windowed) or weight.ndim > 2:
        return NotImplemented
    if input.flat and call.name == "linear":
        return _sum_of_columns(call, input, weight)
    if input.flat or input.axis == input.ndim - 1:
        return NotImplemented
    delta = call.func(input.delta(input.frame), weight)
    return call.window(input, "delta", input.frame, delta, input.span)


def _sum_of_columns(call: Call, x: Windowed, weight: Tensor) -> Tensor:
    """The reference's output plus each changed column times its slice of the weights."""
    columns = (
        weight.reshape(-1, *x.inner).movedim(x.axis, 0).flatten(2).mT
    )  # (length, features, out)
    frame, output = x.frame, call.rows()
    delta = x.delta(frame).flatten(0, 1).flatten(1)
    for position in np.unique(frame.columns):
        rows = np.flatnonzero((frame.first <= position) & (position < frame.first + frame.width))
        slot = (position - frame.first[rows]) * len(frame.first) + rows
        changed = delta.index_select(0, call.batch.index(slot))
        weights = call.once(lambda at=position: columns[at].contiguous(), position)
        output.index_add_(0, call.batch.index(rows), changed @ weights)
    while len(call.prepared) > _SLICES_KEPT:
        call.prepared.pop(next(iter(call.prepared)))
    return output


@rule("conv1d conv2d")
def convolution(
    call: Call,
    input: Any,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """The convolution of the differences, if its kernel spans every other axis."""
    if not isinstance(input, Windowed) or isinstance(weight, Windowed) or input.axis < 2:
        return NotImplemented
    others = [d for d in range(2, input.ndim) if d != input.axis]
    if any(weight.shape[d] != input.shape[d] or call.shape[d] != 1 for d in others):
        return NotImplemented
    weight = weight.movedim(input.axis, -1).flatten(1, -2)  # (out, in, kernel)
    dilation, stride = _along(dilation, input), _along(stride, input)
    reach = dilation * (weight.shape[2] - 1)
    named = {"same": reach // 2, "valid": 0}
    before = named[padding] if isinstance(padding, str) else _along(padding, input)
    span = _readers(input, reach, stride, before, call.shape[input.axis])
    if stride == groups == 1:
        frame, delta = _products_of_taps(call, input, weight, dilation, before)
    else:
        frame = Frame.over(span, call.shape[input.axis])
        read = Frame(frame.first * stride - before, (frame.width - 1) * stride + reach + 1)
        delta = input.delta(read).flatten(2).movedim(0, 2)
        delta = F.conv1d(delta, weight, None, stride, 0, dilation, groups).movedim(2, 0)
    return call.window(input, "delta", frame, delta.unflatten(2, (-1, *[1] * len(others))), span)


def _along(setting: Any, x: Windowed) -> int:
    """A setting such as the stride, an int or one int for each axis, along the sequence."""
    if isinstance(setting, int):
        return setting
    return setting[x.axis - 2] if len(setting) > 1 else setting[0]


def _readers(x: Windowed, reach: int, stride: int, before: int, length: int) -> Span:
    """The columns that read a changed one through a kernel of 1 + reach columns."""
    start = -((reach - before - x.span[0]) // stride)  # rounded up
    stop = (x.span[1] - 1 + before) // stride + 1
    return start.clip(min=0), stop.clip(max=length)


def _products_of_taps(
    call: Call, x: Windowed, weight: Tensor, dilation: int, before: int
) -> tuple[Frame, Tensor]:
    """Each changed column times each tap, added where it falls; unchanged columns are not read."""
    taps = call.once(lambda: weight.permute(2, 1, 0).flip(0).contiguous())  # (kernel, in, out)
    (kernel, _, out), width, rows = taps.shape, x.frame.width, len(x.frame.first)
    reach = dilation * (kernel - 1)
    frame = Frame(x.frame.first + before - reach, width + reach)
    changed = x.delta(x.frame).flatten(0, 1).flatten(1)
    if reach == kernel - 1 and width == 1:  # one substitution: its products are looked up
        return frame, changed @ taps
    delta = changed.new_empty(width + reach, rows, out)
    delta[width:] = 0
    torch.mm(changed, taps[0], out=delta[:width].view(-1, out))
    for tap in range(1, kernel):
        falls = delta[dilation * tap : dilation * tap + width]
        falls.view(-1, out).addmm_(changed, taps[tap])
    return frame, delta


@rule("max_pool1d max_pool2d")
def max_pool(
    call: Call,
    input: Windowed,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest of the taps, with padding of minus infinity."""
    pooled = _pooled(call, input, kernel_size, stride, padding, dilation)
    if pooled is NotImplemented or return_indices:
        return NotImplemented
    span, frame, read, taps = pooled
    value = input.value(read)
    beyond = (read.columns < 0) | (read.columns >= input.length)
    if beyond.any():
        beyond = input.batch.index(beyond).view(*beyond.shape, *[1] * len(input.features))
        value = value.masked_fill(beyond, -math.inf)
    value = reduce(torch.maximum, (value[tap] for tap in taps))
    return call.window(input, "value", frame, value, span)


@rule("avg_pool1d avg_pool2d")
def average_pool(
    call: Call,
    input: Windowed,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """The mean of the differences of the taps."""
    pooled = _pooled(call, input, kernel_size, stride, padding, 1)
    padded = not count_include_pad and padding not in (0, (0,), (0, 0))
    if pooled is NotImplemented or ceil_mode or padded or divisor_override:
        return NotImplemented
    span, frame, read, taps = pooled
    delta = input.delta(read)
    delta = sum(delta[tap] for tap in taps) / len(taps)
    return call.window(input, "delta", frame, delta, span)


def _pooled(call: Call, x: Windowed, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    """Span and frame of the result, the frame that it reads, and each tap's slice of that."""
    others = [d for d in range(2, x.ndim) if d != x.axis]
    if x.flat or x.axis < 2 or any(call.shape[d] != x.shape[d] for d in others):
        return NotImplemented
    stride = _along(stride or kernel, x)
    kernel, padding, dilation = (_along(setting, x) for setting in (kernel, padding, dilation))
    reach = dilation * (kernel - 1)
    span = _readers(x, reach, stride, padding, call.shape[x.axis])
    frame = Frame.over(span, call.shape[x.axis])
    across = (frame.width - 1) * stride + 1
    taps = [slice(tap, tap + across, stride) for tap in range(0, reach + 1, dilation)]
    return span, frame, Frame(frame.first * stride - padding, across + reach), taps


@rule("pad")
def padding(
    call: Call, input: Windowed, pad: Sequence[int], mode: str = "constant", value: Any = None
) -> Any:
    """The columns move, and copies of a changed column change with it."""
    place = 2 * (input.ndim - 1 - input.axis)
    before = [*pad, *[0] * (place + 2)][place]
    if input.flat or any(pad[:place]) or any(pad[place + 2 :]):
        return NotImplemented
    length = call.shape[input.axis]
    numbers = np.arange(-before, length - before)  # of the columns of `input` that are shown
    if mode != "constant":
        ends = torch.arange(float(input.length), dtype=torch.float64)[None, None]
        numbers = F.pad(ends, pad[place : place + 2], mode)[0, 0].long().numpy()
    copies = numbers[numbers != np.arange(-before, length - before)]
    if not _covered(input.span, copies).any():
        return _shifted(call, input, before)
    changed = _covered(input.span, numbers)
    span = changed.argmax(1), length - changed[:, ::-1].argmax(1)
    frame, rows = Frame.over(span, length), np.arange(len(changed))
    slot = numbers[frame.columns] - input.frame.first
    known = (slot >= 0) & (slot < input.frame.width)
    delta = input.delta(input.frame).flatten(0, 1)
    delta = delta.index_select(0, input.batch.index(slot * known * len(rows) + rows))
    delta.index_fill_(0, input.batch.index(np.flatnonzero(~known)), 0)
    return call.window(input, "delta", frame, delta.unflatten(0, slot.shape), span)


def _covered(span: Span, numbers: np.ndarray) -> np.ndarray:
    """(rows, numbers) True where a column lies between start and stop."""
    return (span[0][:, None] <= numbers) & (numbers < span[1][:, None])


def _shifted(call: Call, x: Windowed, by: int) -> Windowed:
    """The same columns at other numbers, cut off beyond the ends."""
    length = call.shape[x.axis]
    span = (x.span[0] + by).clip(min=0), (x.span[1] + by).clip(max=length)
    kind = next(iter(x.held))
    data = x.value(x.frame) if kind == "value" else x.delta(x.frame)
    return call.window(x, kind, Frame(x.frame.first + by, x.frame.width), data, span)


@rule("flip")
def flip(call: Call, x: Windowed, *dims: Any) -> Any:
    """Columns reversed, features reversed, or both."""
    dims = _dims(dims[0] if isinstance(dims[0], Sequence) else dims, x.ndim)
    if x.flat or 0 in dims:
        return NotImplemented
    kind, (frame, data) = next(iter(x.held.items()))
    data = data.flip([0 if d == x.axis else d + (d < x.axis) for d in dims])
    if x.axis not in dims:
        return call.window(x, kind, frame, data, x.span)
    frame = Frame(x.length - frame.first - frame.width, frame.width)
    return call.window(x, kind, frame, data, (x.length - x.span[1], x.length - x.span[0]))


@rule("getitem")
def index(call: Call, x: Any, item: Any) -> Any:
    """A slice along the sequence, or any index along the other axes."""
    items = list(item) if isinstance(item, tuple) else [item]
    if not isinstance(x, Windowed) or x.flat:
        return NotImplemented
    dots = next((i for i, it in enumerate(items) if it is Ellipsis), len(items))
    given = sum(it is not None and it is not Ellipsis for it in items)
    items[dots : dots + 1] = [slice(None)] * (x.ndim - given)
    place = [i for i, it in enumerate(items) if it is not None][x.axis]
    along, items[place] = items[place], slice(None)
    elsewhere = any(it != slice(None) if isinstance(it, slice) else True for it in items)
    if items[0] != slice(None) or not isinstance(along, slice):
        return NotImplemented
    if along == slice(None):
        axis = sum(not isinstance(it, int | np.integer) for it in items[:place])
        call.func = itemgetter(tuple(items))
        return by_column(call, (x,), {}, axis)
    first, _, step = along.indices(x.length)
    if elsewhere:
        return NotImplemented
    if step == 1:
        return _shifted(call, x, -first)
    span, frame, blocks = _blocks(x, step, first // step, call.shape[x.axis])
    return call.window(x, "value", frame, blocks[first % step :: step], span)


def _blocks(x: Windowed, size: int, skip: int, length: int) -> tuple[Span, Frame, Tensor]:
    """The blocks of `size` columns that changed, after the first `skip` ones, and their values."""
    start, stop = x.span[0] // size - skip, -(-x.span[1] // size) - skip
    span = start.clip(min=0), stop.clip(max=length)
    frame = Frame.over(span, length)
    return span, frame, x.value(Frame((frame.first + skip) * size, frame.width * size))


@rule("view reshape flatten unflatten squeeze unsqueeze")
def reshape(call: Call, x: Any, *_: Any, **__: Any) -> Any:
    """Reshaped features, a sequence cut into blocks, or everything flattened."""
    inner = tuple(call.shape[1:])
    if not isinstance(x, Windowed) or x.flat or call.shape[0] != x.reference.tensor.shape[0]:
        return NotImplemented
    if len(inner) == 1:
        return call.moved(x, inner=x.inner)
    before = math.prod(x.inner[: x.axis - 1])
    for axis in (a for a in range(1, 1 + len(inner)) if math.prod(inner[: a - 1]) == before):
        size, features = inner[axis - 1], inner[: axis - 1] + inner[axis:]
        if size == x.length:
            return call.moved(x, lambda data, to=features: data.reshape(*data.shape[:2], *to), axis)
        if size and x.features == inner[: axis - 1] + inner[axis + 1 :]:
            span, frame, blocks = _blocks(x, x.length // size, 0, size)
            blocks = blocks.unflatten(0, (frame.width, -1)).movedim(1, axis + 1)
            return call.window(x, "value", frame, blocks, span, axis)
    return NotImplemented


@rule("permute transpose movedim moveaxis swapaxes swapdims mT T")
def permute(call: Call, x: Windowed, *args: Any, **kwargs: Any) -> Any:
    """Another order of the axes, with the rows still first."""
    if x.flat:
        return NotImplemented
    probe = torch.empty(tuple(range(x.ndim)), device="meta")  # each size is the number of its axis
    order = list(call.func(probe, *args, **kwargs).shape)
    if order[0] != 0:
        return NotImplemented
    features = [d + (d < x.axis) for d in order if d not in (0, x.axis)]
    axis = order.index(x.axis)
    return call.moved(x, lambda data: data.permute(0, 1, *features), axis)
