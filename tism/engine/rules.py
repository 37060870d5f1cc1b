"""Rules: how torch functions, alone or in families, turn windows into windows.

A rule gets the `Call` and the function's own arguments, under the names that torch gives them. Its
annotations are conditions: a `Windowed` is a window that is not flat, and a `Tensor` holds no
window. It returns a window, or a plain tensor if the result depends on all columns. A call that
does not meet the conditions, or for which the rule raises `InFull`, runs on whole tensors.

The rules come in this order: functions of single numbers, of the features of a position, over all
positions; linear maps; pooling; columns that move, are chosen or joined; shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter, methodcaller
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from tism.engine.aliases import leaves
from tism.engine.call import Call, InFull, by_column, hull, moved_by, need
from tism.engine.cheap_gradients import line_of_batch_norm
from tism.engine.window import Frame, Reference, Span, Windowed, mapped, windows_in
from tism.running import on_device

RULES: dict[str, Callable] = {}
_DEFAULT_DIMS = {
    **dict.fromkeys(("unbind", "stack"), 0),
    **dict.fromkeys(("glu", "sort", "argsort", "topk"), -1),
    "normalize": 1,
}


def rule(names: str) -> Callable[[Callable], Callable]:
    """Register a rule under the bare names of functions and methods."""

    def register(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(names.split(), function))
        return function

    return register


@rule(
    """abs neg sign exp exp2 expm1 log log1p log2 log10 sqrt rsqrt square reciprocal sin cos tan
    sinh cosh asinh atan atan2 erf erfc logit round floor ceil trunc frac
    fake_quantize_per_tensor_affine relu relu6 leaky_relu elu selu celu gelu silu mish softplus
    softsign sigmoid logsigmoid tanh tanhshrink hardtanh hardswish hardsigmoid hardshrink
    softshrink threshold clamp clip clamp_min clamp_max nan_to_num pow rpow rsub mul multiply div
    divide true_divide rdiv rtruediv floor_divide floordiv remainder fmod maximum minimum fmax fmin
    logaddexp where lerp addcmul addcdiv masked_fill eq ne lt le gt ge isnan isinf isfinite
    logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_not and or xor
    invert float double half bfloat16 long int bool"""
)
def elementwise(call: Call, *args: Any, **kwargs: Any) -> Any:
    """Functions that make each number of the numbers at its own place."""
    return by_column(call, args, kwargs)


@rule("add sub subtract")
def addition(call: Call, *args: Any, **kwargs: Any) -> Any:
    """The differences of two windows add up, if they are exact; else their values do."""
    windows = [arg for arg in args if isinstance(arg, Windowed)]
    alike = len({(w.axis, w.inner, w.flat, w.dtype) for w in windows}) == 1
    values = [w for w in windows if "value" in w.held]
    apart = len(windows) < 2 or len(values) == 2 or kwargs or not alike
    if apart or any(w.is_rounded for w in values):
        return by_column(call, args, kwargs)
    first, second = windows
    span = hull([w.span for w in windows])
    frame, sign = Frame.over(span, first.length), 1 if call.name == "add" else -1
    if second.frame == frame and sign > 0:
        first, second = second, first
    total = second.add_delta(first.delta(frame).clone(), frame, sign)
    return call.window(first, "delta", frame, total, span)


@rule("contiguous clone detach data requires_grad")
def same(call: Call, input: Any, *_: Any, **__: Any) -> Windowed:
    """The tensor as it is."""
    return call.moved(input)


@rule("dropout dropout1d dropout2d alpha_dropout feature_alpha_dropout")
def dropout(call: Call, input: Any, p: float = 0.5, training: bool = True, **_: Any) -> Any:
    """Dropout, which changes nothing in evaluation mode."""
    need(not training)
    return call.moved(input)


@rule(
    """to type type_as cpu expand_as new_zeros new_ones new_full new_empty zeros_like ones_like
    full_like empty_like"""
)
def like(call: Call, input: Any, *args: Any, **kwargs: Any) -> Any:
    """A window of another type, or a constant that has the type and shape of a window."""
    if isinstance(input, Windowed) and call.name == "expand_as":
        return expansion(call, input)
    if isinstance(input, Windowed) and call.name in ("to", "type", "type_as", "cpu"):
        result = call.reference  # type() without an argument returns a name
        need(isinstance(result, Reference) and result.like.device == input.device)
        call.func = methodcaller("to", call.reference.like.dtype)
        return by_column(call, (input,), {})

    def empty(leaf: Any) -> Any:
        if not isinstance(leaf, Windowed):
            return leaf
        return leaf.reference.like.new_empty(()).expand(leaf.shape)

    call.changes = not isinstance(input, Windowed) and call.batch.can_change(input)
    return call.func(*mapped(empty, (input, *args)), **mapped(empty, kwargs))


@rule("batch_norm")
def batch_norm(call: Call, input: Windowed, *args: Any, **kwargs: Any) -> Any:
    """A factor and a summand for each channel, if the statistics are fixed."""
    names = ["running_mean", "running_var", "weight", "bias"]
    order = names if call.given is F.batch_norm else names[2:] + names[:2]  # of torch.batch_norm
    given = zip([*order, "training", "momentum", "eps"], args, strict=False)
    given = {"weight": None, "bias": None, "eps": 1e-5, **dict(given), **kwargs}
    need(not given.get("training") and given["running_mean"] is not None and input.axis > 1)
    statistics = [given[name] for name in (*names, "eps")]
    offset, slope = call.once(lambda: line_of_batch_norm(input.ndim, *statistics))
    call.func = torch.addcmul
    return by_column(call, (offset, input, slope), {})


@rule("layer_norm rms_norm prelu embedding one_hot")
def with_weights(call: Call, input: Windowed, *args: Any, **kwargs: Any) -> Any:
    """Functions of the features of each position with weights that all positions share."""
    mixed = [1] if call.name == "prelu" else []
    if call.name.endswith("norm"):
        shape = args[0] if args else kwargs["normalized_shape"]
        mixed = range(input.ndim - len(shape), input.ndim)
    if call.name == "one_hot":
        args, kwargs = (call.shape[-1],), {}
    need(input.axis not in mixed and not windows_in((args, kwargs)))
    func = call.func
    call.func = lambda columns: func(columns, *args, **kwargs)
    return by_column(call, (input,), {})


@rule(
    """softmax log_softmax logsumexp amax amin max min prod std var std_mean var_mean median argmax
    argmin any all cumsum cumprod sort argsort topk norm linalg_norm linalg_vector_norm normalize
    glu unbind stack"""
)
def along_another_axis(call: Call, *args: Any, **kwargs: Any) -> Any:
    """Functions that mix channels but not positions."""
    x, stack = windows_in((args, kwargs))[0], call.name == "stack"
    place = 2 if call.name in ("normalize", "topk") or call.name.endswith("norm") else 1
    dim = _dim(args, kwargs, place, _DEFAULT_DIMS.get(call.name))
    if isinstance(dim, Tensor) or "other" in kwargs:  # the larger of two tensors
        return by_column(call, args, kwargs)
    dims = _dims(dim, x.ndim + stack)
    if call.name in ("max", "amax", "min", "amin") and dims == [x.axis]:
        return largest(call, x)
    need(not x.flat and 0 not in dims and not isinstance(dim, bool))
    need(stack or x.axis not in dims)
    if call.name == "softmax":
        call.func = _kept_layout(call.func)
    fewer = x.ndim - leaves(call.reference)[0].like.ndim
    axis = x.axis + sum(d <= x.axis for d in dims) * (stack - (fewer > 0))
    return by_column(call, args, kwargs, axis=axis)


def _kept_layout(softmax: Callable) -> Callable:
    """A softmax that keeps the order of the axes in memory."""

    def function(input: Tensor, dim: int, *args: Any, **kwargs: Any) -> Tensor:
        order = sorted(range(input.ndim), key=input.stride, reverse=True)
        result = softmax(input.permute(order), order.index(dim % input.ndim), *args, **kwargs)
        return result.permute([order.index(d) for d in range(input.ndim)])

    return function


def _dim(args: tuple, kwargs: dict, place: int, default: Any) -> Any:
    """The argument `dim`, by name or at its place."""
    return kwargs["dim"] if "dim" in kwargs else args[place] if len(args) > place else default


def _dims(dim: Any, ndim: int) -> list[int]:
    """Axes counted from 0; all of them if none is given."""
    if dim is None or dim == ():
        return list(range(ndim))
    return [d % ndim for d in (dim if isinstance(dim, Sequence) else [dim])]


@rule("sum mean")
def total(call: Call, input: Any, dim: Any = None, keepdim: bool = False, **kw: Any) -> Any:
    """Sum or mean over positions: that of the reference plus the changes of changed columns."""
    dims = _dims(dim, input.ndim)
    if input.axis not in dims and not input.flat:
        return along_another_axis(call, input, dim, keepdim, **kw)
    need(0 not in dims and not kw and not input.is_rounded)
    delta = input.delta(input.frame)
    delta = delta.movedim(1, 0).flatten(1) if input.flat else delta.movedim(0, input.axis)
    delta = delta.sum(dims, keepdim)
    if call.name != "sum":
        delta = delta / math.prod(input.shape[d] for d in dims)
    return call.rows() + delta


def largest(call: Call, x: Windowed) -> Any:
    """The largest or smallest value over all positions: before the window, in it or behind it."""
    need(not x.flat and x.is_floating_point())
    sign, name = (-1, "amin") if "min" in call.name else (1, "amax")
    best = getattr(x.value(x.frame), name)(0).reshape(len(call.batch.row), -1) * sign
    ends = x.frame.first, x.frame.first + x.frame.width
    for table, end in zip(x.reference.maxima(x.inner, x.axis, sign), ends, strict=True):
        slot = call.batch.index(call.batch.row * (x.length + 1) + end)
        best = torch.maximum(best, table.flatten(0, 1).index_select(0, slot))
    best = (best * sign).view(-1, *leaves(call.reference)[0].like.shape[1:])
    if call.name not in ("max", "min"):
        return best
    places, keepdim = torch.empty_like(best, dtype=torch.int64), best.ndim == x.ndim
    find = getattr(torch, call.name)
    call.batch.later[places] = lambda: find(x.whole(), x.axis, keepdim).indices
    return getattr(torch.return_types, call.name)((best, places))


@rule("linear")
def linear(call: Call, input: Any, weight: Tensor, bias: Any = None) -> Any:
    """A linear layer at each position, or of all positions as a sum over the changed columns."""
    need(isinstance(input, Windowed) and weight.ndim <= 2)
    if input.ndim == weight.ndim == 2:
        return _sum_of_columns(call, input, weight)
    need(input.axis < input.ndim - 1)
    kind, columns = _for_linear(input, input.frame)
    result = F.linear(columns, weight, bias if kind == "value" else None)
    return call.window(input, kind, input.frame, result, input.span)


@rule("matmul")
def product(call: Call, input: Any, other: Any) -> Any:
    """A linear layer by its transposed matrix, or a matrix times the features of each position."""
    if isinstance(input, Windowed):
        need(not isinstance(other, Windowed))
        return linear(call, input, other.mT if other.ndim > 1 else other)
    need(input.ndim == 2 < other.ndim and other.axis != other.ndim - 2)
    need(not call.batch.can_change(input))
    call.func = partial(call.func, input)
    return by_column(call, (other,), {})


@rule("einsum")
def einsum(call: Call, equation: Any, *operands: Any) -> Any:
    """Products and sums over features, of windows and of constants without rows and positions."""
    operands = leaves(operands)
    windows = tuple(windows_in(operands))
    need(isinstance(equation, str) and "." not in equation and "->" in equation)
    need(sum(map(call.batch.can_change, operands)) == len(windows))
    need(not any(w.flat for w in windows))
    inputs, result = equation.replace(" ", "").split("->")
    pairs = zip(inputs.split(","), operands, strict=True)
    axes = {(letters[0], letters[w.axis]) for letters, w in pairs if isinstance(w, Windowed)}
    row, along = axes.pop()
    need(not axes and result[:1] == row and along in result)
    need(inputs.count(row) == inputs.count(along) == len(windows))

    def summed(*columns: Tensor) -> Tensor:
        changed = iter(columns)
        given = [next(changed) if isinstance(leaf, Windowed) else leaf for leaf in operands]
        return torch.einsum(equation, *given)

    call.func = summed
    return by_column(call, windows, {}, result.index(along))


def _sum_of_columns(call: Call, x: Windowed, weight: Tensor) -> Tensor:
    """The reference's output plus the changed columns times their slices of the weights.

    Rows whose windows begin at about the same column share one product.
    """

    def slices() -> Tensor:
        columns = weight.reshape(-1, *x.inner).movedim(x.axis, 0).reshape(x.length, len(weight), -1)
        return columns.mT.contiguous()  # (length, features, out)

    need(not x.is_rounded)
    weights, output, width = call.once(slices), call.rows(), x.frame.width
    delta = x.delta(x.frame).reshape(width, len(output), -1).movedim(0, 1)
    order = np.argsort(x.frame.first, kind="stable")
    firsts, start, shared, numbers = x.frame.first[order], 0, [], []
    apart = width // 2 if output.is_cpu else max(width // 2, x.length // 8)  # few kernels on a GPU
    while start < len(order):
        first, stop = firsts[start], np.searchsorted(firsts, firsts[start] + apart, side="right")
        across = int(firsts[stop - 1] - first) + width
        slot = np.arange(stop - start) * across + firsts[start:stop] - first
        numbers += [order[start:stop], slot[:, None] + np.arange(width)]
        shared.append(weights[first : first + across].flatten(0, 1))
        start = stop
    sent = call.batch.indices(*numbers)
    for columns, rows, slot in zip(shared, sent[::2], sent[1::2], strict=True):
        changed = delta.new_zeros(len(rows) * len(columns) // delta.shape[2], delta.shape[2])
        changed.index_copy_(0, slot, delta.index_select(0, rows).flatten(0, 1))
        output.index_add_(0, rows, changed.view(len(rows), -1) @ columns)
    return output


@rule("conv1d conv2d")
def convolution(
    call, input: Windowed, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1
) -> Windowed:
    """The convolution of the differences, if its kernel has size 1 on other axes or spans them."""
    others = [d for d in range(2, input.ndim) if d != input.axis]
    spans = all(weight.shape[d] == input.shape[d] and call.shape[d] == 1 for d in others)
    single = all(weight.shape[d] == _along(stride, d) == 1 for d in others)
    need(spans or (single and all(call.shape[d] == input.shape[d] for d in others)))
    need(input.axis > 1)
    need(isinstance(padding, str) or not any(_along(padding, d) for d in others))
    weight = weight.movedim(input.axis, -1).flatten(1, -2)  # (out, in, kernel)
    stride, dilation = _along(stride, input.axis), _along(dilation, input.axis)
    reach, before = dilation * (weight.shape[2] - 1), 0
    if padding != "valid":
        before = reach // 2 if padding == "same" else _along(padding, input.axis)

    def folded(columns: Tensor) -> Tensor:
        """(width, rows, in), with the other axes in `in` or in `rows`."""
        return columns.flatten(2) if spans else columns.movedim(2, -1).flatten(1, -2)

    if stride == groups == 1 and not input.is_rounded:
        kind, span = "delta", _readers(input, reach, stride, before)
        frame = Frame(input.frame.first + before - reach, input.frame.width + reach)
        result = _products_of_taps(call, folded(input.delta(input.frame)), weight, dilation)
    else:
        length = call.shape[input.axis]
        span, frame, read = _through_kernel(input, reach, stride, before, length)
        kind, columns = _for_linear(input, read)
        columns, bias = folded(columns).movedim(0, 2), bias if kind == "value" else None
        result = F.conv1d(columns, weight, bias, stride, 0, dilation, groups).movedim(2, 0)
    if spans:
        result = result.unflatten(2, (-1, *[1] * len(others)))
    else:
        result = result.unflatten(1, (-1, *(input.shape[d] for d in others))).movedim(-1, 2)
    return call.window(input, kind, frame, result, span)


def _along(setting: Any, axis: int) -> int:
    """A setting such as the stride, an int or one int for each axis, along an axis."""
    if isinstance(setting, int):
        return setting
    return setting[axis - 2] if len(setting) > 1 else setting[0]


def _for_linear(x: Windowed, frame: Frame) -> tuple[str, Tensor]:
    """What a linear function takes of a frame: "delta", or "value" where deltas were rounded."""
    return ("value", _padded(x, frame, 0)) if x.is_rounded else ("delta", x.delta(frame))


def _padded(x: Windowed, frame: Frame, padding: float) -> Tensor:
    """The values in a frame, with padding beyond the ends of the axis."""
    value, beyond = x.value(frame), (frame.columns < 0) | (frame.columns >= x.length)
    if not beyond.any():
        return value
    beyond = x.batch.index(beyond).view(*beyond.shape, *[1] * len(x.features))
    return value.masked_fill(beyond, padding)


def _readers(x: Windowed, reach: int, stride: int, before: int) -> Span:
    """The columns of a result that read a changed column of `x`.

    Result column i reads through a kernel that covers the columns i * stride - before to
    i * stride - before + reach.
    """
    start = -((reach - before - x.span[0]) // stride)  # rounded up
    return start, (x.span[1] - 1 + before) // stride + 1


def _through_kernel(
    x: Windowed, reach: int, stride: int, before: int, length: int
) -> tuple[Span, Frame, Frame]:
    """Span and frame of a result of `length` columns, see `_readers`, and the frame it reads."""
    span = _readers(x, reach, stride, before)
    frame = Frame.over(span, length)
    return span, frame, Frame(frame.first * stride - before, (frame.width - 1) * stride + reach + 1)


def _products_of_taps(call: Call, changed: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Each changed column times each tap, added where it falls; unchanged columns are not read.

    changed, weight : (width, rows, in), (out, in, kernel)

    Returns (width + reach, rows, out).
    """
    taps = call.once(lambda: weight.permute(2, 1, 0).flip(0).contiguous())  # (kernel, in, out)
    (kernel, _, out), (width, rows, _) = taps.shape, changed.shape
    reach, changed = dilation * (kernel - 1), changed.flatten(0, 1)
    if reach == kernel - 1 and width == 1:  # one substitution: its products are looked up
        return changed @ taps
    delta = changed.new_empty(width + reach, rows, out)
    delta[width:] = 0
    torch.mm(changed, taps[0], out=delta[:width].view(-1, out))
    for tap in range(1, kernel):
        falls = delta[dilation * tap : dilation * tap + width]
        falls.view(-1, out).addmm_(changed, taps[tap])
    return delta


@rule("conv_transpose1d")
def transposed(
    call,
    input: Windowed,
    weight: Tensor,
    bias=0,
    stride=1,
    padding=0,
    output_padding=0,
    groups=1,
    dilation=1,
) -> Windowed:
    """The transposed convolution of the differences."""
    stride, before, dilation = (_along(setting, 2) for setting in (stride, padding, dilation))
    need(input.axis == 2 and not input.is_rounded)
    delta = input.delta(input.frame).movedim(0, 2)
    delta = F.conv_transpose1d(delta, weight, None, stride, 0, 0, groups, dilation).movedim(2, 0)
    frame = Frame(input.frame.first * stride - before, len(delta))
    stop = (input.span[1] - 1) * stride + dilation * (weight.shape[2] - 1) + 1 - before
    return call.window(input, "delta", frame, delta, (input.span[0] * stride - before, stop))


@rule("max_pool1d max_pool2d")
def max_pool(
    call, input: Windowed, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=0, **_
) -> Any:
    """The largest of the taps, with padding of minus infinity."""
    span, frame, read, taps = _taps(call, input, kernel_size, stride, padding, dilation)
    if _along(kernel_size, input.axis) == input.length and not _along(padding, input.axis):
        return largest(call, input)
    largest_tap = taps(_padded(input, read, -math.inf)).amax(-1)
    return call.window(input, "value", frame, largest_tap, span)


@rule("avg_pool1d avg_pool2d")
def average_pool(
    call,
    input: Windowed,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=0,
    count_include_pad=1,
    divisor_override=None,
) -> Any:
    """The mean of the taps."""
    need(not ceil_mode and not divisor_override and (count_include_pad or not np.any(padding)))
    pooled = [d for d in range(2, input.ndim) if _along(kernel_size, d) == input.shape[d]]
    single = all(_along(kernel_size, d) == 1 for d in range(2, input.ndim) if d not in pooled)
    if single and input.axis in pooled and not np.any(padding):
        return total(call, input, pooled, True)
    span, frame, read, taps = _taps(call, input, kernel_size, stride, padding, 1)
    kind, columns = _for_linear(input, read)
    return call.window(input, kind, frame, taps(columns).mean(-1), span)


@rule("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d")
def adaptive_pool(call: Call, input: Windowed, output_size: Any, return_indices: Any = 0) -> Any:
    """Pooling, where all bins have the same size."""
    sizes = [divmod(input.shape[d], call.shape[d]) for d in range(2, input.ndim)]
    need(not return_indices and not any(rest for _, rest in sizes))
    pool = average_pool if "avg" in call.name else max_pool
    return pool(call, input, [size for size, _ in sizes])


def _taps(
    call: Call, x: Windowed, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> tuple[Span, Frame, Frame, Callable[[Tensor], Tensor]]:
    """Span and frame of the result, the frame that it reads, what puts taps on a last axis."""
    others = [d for d in range(2, x.ndim) if d != x.axis]
    need(x.axis > 1 and all(call.shape[d] == x.shape[d] for d in others))
    need(all(_along(kernel, d) == 1 for d in others))
    settings = kernel, stride or kernel, padding, dilation
    kernel, stride, before, dilation = (_along(setting, x.axis) for setting in settings)
    reach = dilation * (kernel - 1)
    span, frame, read = _through_kernel(x, reach, stride, before, call.shape[x.axis])
    return span, frame, read, lambda data: data.unfold(0, reach + 1, stride)[..., ::dilation]


@rule("pad")
def padding(
    call: Call, input: Windowed, pad: Sequence[int], mode: str = "constant", value: Any = None
) -> Any:
    """The columns move, and copies of a changed column change with it."""
    pad = [*pad, *[0] * (2 * input.ndim - len(pad))]
    place = 2 * (input.ndim - 1 - input.axis)
    before, after = pad[place : place + 2]
    others = [*pad[:place], 0, 0, *pad[place + 2 :]]
    if any(others):
        need(mode == "constant" and not any(others[-2:]))
        return by_column(call, (input, others, mode, value), {}, shift=before)
    if mode == "constant":
        return _shifted(call, input, before)
    numbers = _numbers(lambda every: F.pad(every[None, None], (before, after), mode), input.length)
    return _showing(call, input, numbers.astype(int))


@rule("repeat tile repeat_interleave interpolate")
def repeated(call: Call, input: Windowed, *args: Any, **kwargs: Any) -> Any:
    """Repeated features, or columns repeated along the sequence or put between them."""
    need(not any(isinstance(leaf, Tensor) for leaf in leaves((args, kwargs))))
    need(len(call.shape) == input.ndim and call.shape[0] == len(input.reference.like))
    if call.name != "interpolate" and call.shape[input.axis] == input.length:
        return by_column(call, (input, *args), kwargs)
    shape = list(input.shape[1:])
    shape[input.axis - 1] = call.shape[input.axis]
    need(shape == list(call.shape[1:]))
    along = [-1 if d == input.axis else 1 for d in range(input.ndim)]
    numbers = _numbers(lambda every: call.func(every.view(along), *args, **kwargs), input.length)
    if kwargs.get("mode") == "linear":
        return _between(call, input, numbers)
    need("nearest" in kwargs.get("mode", "nearest"))
    return _showing(call, input, numbers.astype(int))


def _between(call: Call, x: Windowed, places: np.ndarray) -> Windowed:
    """The result whose columns lie at rising places between the columns of a window."""
    low = places.astype(int)
    high = np.minimum(low + 1, x.length - 1)
    span = np.searchsorted(high, x.span[0]), np.searchsorted(low, x.span[1])
    frame = Frame.over(span, len(places))
    start, stop = low[frame.first], high[frame.first + frame.width - 1] + 1
    kind, read = _for_linear(x, Frame(start, int((stop - start).max())))
    columns, rows = frame.columns, np.arange(len(start))
    slots = [(numbers[columns] - start) * len(rows) + rows for numbers in (low, high)]
    first, second = (read.flatten(0, 1).index_select(0, at) for at in x.batch.indices(*slots))
    share = torch.from_numpy((places - low)[columns]).to(read.dtype)
    share = on_device(share.view(-1, *[1] * len(x.features)), x.device)
    between = first * (1 - share) + second * share
    return call.window(x, kind, frame, between.unflatten(0, columns.shape), span)


@rule("unfold")
def unfolded(call: Call, input: Windowed, dimension: int, size: int, step: int) -> Any:
    """Blocks of the sequence that may overlap, whose columns become a last axis of features."""
    need(call.given is not F.unfold and dimension % input.ndim == input.axis)
    span, frame, read = _through_kernel(input, size - 1, step, 0, call.shape[input.axis])
    return call.window(input, "value", frame, input.value(read).unfold(0, size, step), span)


def _numbers(arranged: Callable[[Tensor], Tensor], length: int) -> np.ndarray:
    """Column numbers, 0 to length - 1, after a function that arranges or interpolates columns."""
    with _disable_current_modes():  # real numbers, also in a run without data
        return arranged(torch.arange(float(length), dtype=torch.float64)).flatten().numpy()


def _showing(call: Call, x: Windowed, numbers: np.ndarray) -> Windowed:
    """The result whose columns are the columns `numbers` of a window."""
    steps, first = np.diff(numbers), int(numbers[0])
    if (steps == 1).all():
        return _shifted(call, x, -first)
    if (steps == steps[0]).all() and steps[0] > 1:
        # Whole blocks of `step` columns are read, so that x[..., 0::2] and x[..., 1::2] share them.
        step, offset = int(steps[0]), first % int(steps[0])
        span, frame, read = _through_kernel(x, step - 1, step, offset - first, len(numbers))
        return call.window(x, "value", frame, x.value(read)[offset::step], span)
    if (steps >= 0).all():
        span = np.searchsorted(numbers, x.span[0]), np.searchsorted(numbers, x.span[1])
    else:
        changed = (x.span[0][:, None] <= numbers) & (numbers < x.span[1][:, None])
        stop = len(numbers) - changed[:, ::-1].argmax(1)
        span = changed.argmax(1), np.where(changed.any(1), stop, 0)
    frame, rows = Frame.over(span, len(numbers)), np.arange(len(span[0]))
    slot = numbers[frame.columns] - x.frame.first
    known = (slot >= 0) & (slot < x.frame.width)
    result, columns = call.spliced(x, frame, span)
    read, to = x.batch.indices((slot * len(rows) + rows)[known], np.flatnonzero(known))
    changed = x.value(x.frame).flatten(0, 1).index_select(0, read)
    columns.flatten(0, 1).index_copy_(0, to, changed)
    return result


def _shifted(call: Call, x: Windowed, by: int) -> Windowed:
    """The same columns at other numbers, cut off beyond the ends."""
    kind = next(iter(x.held))
    data = x.value(x.frame) if kind == "value" else x.delta(x.frame)
    frame = Frame(x.frame.first + by, x.frame.width)
    return call.window(x, kind, frame, data, moved_by(x.span, by))


@rule("flip fliplr")
def flip(call: Call, input: Windowed, *axes: Any, dims: Any = None) -> Any:
    """Columns reversed, features reversed, or both."""
    axes = leaves(axes if dims is None else dims) if call.name == "flip" else [1]
    dims = _dims(axes, input.ndim)
    need(0 not in dims)
    kind, (frame, data) = next(iter(input.held.items()))
    data = data.flip([0 if d == input.axis else d + (d < input.axis) for d in dims])
    if input.axis not in dims:
        return call.window(input, kind, frame, data, input.span)
    frame = Frame(input.length - frame.first - frame.width, frame.width)
    start, stop = input.span
    return call.window(input, kind, frame, data, (input.length - stop, input.length - start))


@rule("select index_select narrow")
def selection(
    call: Call, input: Windowed, dim: int, index: Any = 0, length: Any = None, start: Any = None
) -> Any:
    """A number, an index or a slice on one axis."""
    index = index if start is None else start
    if length is not None:
        index = slice(int(index) % input.shape[dim], int(index) % input.shape[dim] + length)
    items = [slice(None)] * input.ndim
    items[dim] = index
    return indexed(call, input, tuple(items))


@rule("slice")
def part(
    call: Call, input: Windowed, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    """A slice on one axis, as exported models take it."""
    items, rows = [slice(None)] * input.ndim, range(input.shape[0])
    items[dim] = slice(start, end, step)
    if rows[items[0]] == rows:
        items[0] = slice(None)
    return indexed(call, input, tuple(items))


@rule("getitem")
def indexed(call: Call, input: Windowed, item: Any) -> Any:
    """An index along the sequence, on other axes, or a slice along it and an index on others."""
    items = _items(item, input.ndim)
    place = [i for i, it in enumerate(items) if it is not None][input.axis]
    along, items[place] = items[place], slice(None)
    axis, call.func = sum(not isinstance(it, int) for it in items[:place]), itemgetter(tuple(items))
    if isinstance(along, int):
        column = Frame(np.full(len(call.batch.row), along % input.length), 1)
        return call.func(input.value(column).movedim(0, input.axis)).select(axis, 0)
    along = along if isinstance(along, slice) else torch.as_tensor(along).cpu().numpy()
    numbers = np.arange(input.length)[along]
    need(len(numbers))
    if all(isinstance(it, slice) and it == slice(None) for it in items):
        return _showing(call, input, numbers)
    need((np.diff(numbers) == 1).all())
    return by_column(call, (input,), {}, axis, -int(numbers[0]))


def _items(item: Any, ndim: int) -> list[Any]:
    """An index with an item for each axis, if it keeps all rows and has no more than one list."""
    items = list(item) if isinstance(item, tuple) else [item]
    items = [int(it) if isinstance(it, np.integer) else it for it in items]
    dots = next((i for i, it in enumerate(items) if it is Ellipsis), len(items))
    given = sum(it is not None and it is not Ellipsis for it in items)
    items[dots : dots + 1] = [slice(None)] * (ndim - given)
    lists = [it for it in items if not (it is None or isinstance(it, int | slice))]
    need(not any(isinstance(it, bool | Windowed) for it in items) and len(lists) < 2)
    need(all(torch.as_tensor(it).ndim == 1 for it in lists))
    need(isinstance(items[0], slice) and items[0] == slice(None))
    return items


@rule("setitem")
def assignment(call: Call, input: Any, item: Any, value: Any) -> Any:
    """Other values in a slice along the sequence, and at an index on other axes."""
    windows, items = windows_in((input, value)), _items(item, input.ndim)
    need(sum(map(call.batch.can_change, (input, value))) == len(windows))
    need(not any(w.flat for w in windows) and not any(it is None for it in items))
    kept = [d for d, it in enumerate(items) if not isinstance(it, int)]  # axes of the value
    axis = input.axis if isinstance(input, Windowed) else kept[value.axis]
    along, length = items.pop(axis), input.shape[axis]
    numbers = np.arange(length)[along if isinstance(along, int | slice) else []].reshape(-1)
    need(len(numbers) and (np.diff(numbers) == 1).all())
    if isinstance(value, Windowed):
        need(value.ndim == len(kept) and kept[value.axis] == axis and value.length == len(numbers))
    start, stop = numbers[0], numbers[-1] + 1
    span = hull([w.span if w is input else moved_by(w.span, start) for w in windows])
    frame = Frame.over(span, length)
    result, columns = call.spliced(windows[0], frame, span, axis)
    place = (slice(None), slice(None), *items[1:])
    assigned, before = columns[place], columns
    if isinstance(value, Windowed):
        assigned = value.value(Frame(frame.first - start, frame.width)).to(columns.dtype)
    if isinstance(input, Windowed):
        before = input.value(frame)
    inside = (frame.columns >= start) & (frame.columns < stop)
    inside = call.batch.index(inside).view(*inside.shape, *[1] * (columns[place].ndim - 2))
    assigned = torch.where(inside, assigned, before[place])
    columns.copy_(before)
    columns[place] = assigned
    return result


@rule("chunk split split_with_sizes tensor_split")
def pieces(call: Call, *args: Any, **kwargs: Any) -> Any:
    """Pieces of the sequence or of the channels."""
    x, dim = windows_in((args, kwargs))[0], _dim(args, kwargs, 2, 0)
    need(not x.flat and dim % x.ndim)
    if dim % x.ndim != x.axis:
        return by_column(call, args, kwargs)
    stops = np.cumsum([0, *(piece.like.shape[x.axis] for piece in call.reference)])
    calls = (Call(call.batch, call.func, call.name, piece, {}) for piece in call.reference)
    return tuple(_shifted(one, x, -int(stop)) for one, stop in zip(calls, stops, strict=False))


@rule("cat concat concatenate")
def joined(call: Call, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """Windows and constants one after the other, along the sequence or another axis."""
    windows = windows_in(tensors)
    x, dim = windows[0], dim % windows[0].ndim
    if not dim:
        return _one_batch(call, tensors)
    need(not x.flat)
    if dim != x.axis:
        return by_column(call, (tensors, dim), {})
    need(all((w.axis, w.ndim, w.flat) == (x.axis, x.ndim, False) for w in windows))
    need(sum(map(call.batch.can_change, tensors)) == len(windows))
    starts = np.cumsum([0, *(tensor.shape[dim] for tensor in tensors)]).tolist()
    placed = zip(tensors, starts, strict=False)
    placed = [(w, start) for w, start in placed if isinstance(w, Windowed)]
    span = hull([moved_by(w.span, start) for w, start in placed])
    frame = Frame.over(span, call.shape[dim])
    result, columns = call.spliced(x, frame, span)
    for w, start in placed:
        w.put(columns, Frame(frame.first - start, frame.width))
    return result


def _one_batch(call: Call, windows: Sequence[Any]) -> Windowed:
    """Windows joined along the rows, as models do with both strands."""
    x = windows[0]
    need(all(isinstance(w, Windowed) and (w.inner, w.flat) == (x.inner, False) for w in windows))
    need(all(w.axis == x.axis for w in windows))
    span = tuple(map(np.concatenate, zip(*(w.span for w in windows), strict=True)))
    frame = Frame.over(span, x.length)
    parts = [Frame(first, frame.width) for first in np.split(frame.first, len(windows))]
    values = torch.cat([w.value(part) for w, part in zip(windows, parts, strict=True)], 1)
    batch, held = call.batch.repeated(windows), {"value": (frame, values)}
    return Windowed(batch, call.reference, x.inner, x.axis, span, held)


@rule("view reshape flatten unflatten squeeze unsqueeze view_as reshape_as")
def reshape(call: Call, input: Any, *_: Any, **__: Any) -> Any:
    """Reshaped features, a sequence cut into blocks or put together, or everything flattened."""
    need(isinstance(input, Windowed) and call.shape[0] == len(input.reference.like))
    x, inner = input, tuple(call.shape[1:])
    if x.flat:
        need(inner == x.inner or len(inner) == 1)
        return call.moved(x)
    before = math.prod(x.inner[: x.axis - 1])
    axes = [a for a in range(1, 1 + len(inner)) if math.prod(inner[: a - 1]) == before]
    for axis in (a for a in axes if inner[a - 1] == x.length):
        shape = inner[: axis - 1] + inner[axis:]
        return call.moved(x, lambda data, to=shape: data.reshape(*data.shape[:2], *to), axis)
    if len(inner) == 1:
        return call.moved(x, inner=x.inner)
    for axis in axes:
        size = inner[axis - 1]
        if size and x.features == inner[: axis - 1] + inner[axis + 1 :]:
            block = x.length // size
            span, frame, read = _through_kernel(x, block - 1, block, 0, size)
            blocks = x.value(read).unflatten(0, (frame.width, block)).movedim(1, axis + 1)
            return call.window(x, "value", frame, blocks, span, axis)
        parts, rest = divmod(size, x.length)
        if size and not rest:  # the features behind the sequence become columns of it
            kind, (frame, data) = next(iter(x.held.items()))
            data = data.reshape(*data.shape[:2], *inner[: axis - 1], parts, *inner[axis:])
            frame = Frame(frame.first * parts, frame.width * parts)
            span = x.span[0] * parts, x.span[1] * parts
            return call.window(x, kind, frame, data.movedim(1 + axis, 1).flatten(0, 1), span, axis)
    raise InFull


@rule("expand broadcast_to")
def expansion(call: Call, input: Windowed, *_: Any, **__: Any) -> Any:
    """Features that are repeated without being copied."""
    need(len(call.shape) == input.ndim and call.shape[0] == len(input.reference.like))
    need(call.shape[input.axis] == input.length)
    features = call.shape[1 : input.axis] + call.shape[input.axis + 1 :]
    return call.moved(input, lambda data: data.expand(*data.shape[:2], *features))


@rule("permute transpose movedim moveaxis swapaxes swapdims mT T")
def permute(call: Call, input: Windowed, *args: Any, **kwargs: Any) -> Any:
    """Another order of the axes, with the rows still first."""
    x = input
    probe = torch.empty(tuple(range(x.ndim)), device="meta")  # each size is the number of its axis
    order = list(call.func(probe, *args, **kwargs).shape)
    need(order[0] == 0)
    features = [d + (d < x.axis) for d in order if d not in (0, x.axis)]
    axis = order.index(x.axis)
    return call.moved(x, lambda data: data.permute(0, 1, *features), axis)
