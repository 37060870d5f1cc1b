"""Functions with derivatives that are cheap to apply again and again.

Gradients of several tasks take one backward pass a task through the same graph. In each of them
PyTorch works out anew which of two tensors was the larger and what the slope of a GELU is. Here the
slopes are kept from the forward pass. Values and conventions (half to each of two equal tensors)
are those of PyTorch. Parameters get no gradient.

A rule takes the arguments of its torch function by the same names. Where it does not apply, it
returns None, and torch's own function runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tism.running import uncompiled

_PRECISE = (torch.float32, torch.float64)
_HOOKED = "tism: cheap gradients are not for models that recompute or move what a graph saves"


@contextmanager
def cheap_graph(repeated: bool) -> Iterator[None]:
    """`CheapBackward` for any model: where it could be wrong, it raises an error.

    Hooks on saved tensors are an error because a checkpoint would recompute with torch's functions
    what a cheap one had saved, and torch notices only if shapes or dtypes differ.
    """
    unhooked = torch.autograd.graph.disable_saved_tensors_hooks(_HOOKED)
    with uncompiled(), unhooked, CheapBackward(repeated):
        yield


class CheapBackward(TorchFunctionMode):
    """While active, builds graphs for one backward pass to the input, or for `repeated` passes."""

    def __init__(self, repeated: bool):
        super().__init__()
        self.rules = _RULES | {Tensor.__getitem__: _Cuts()} | (_SMOOTH if repeated else {})

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, rule, result = kwargs or {}, self.rules.get(func), None
        transformed = torch._C._are_functorch_transforms_active()
        if rule and _PLAIN.issuperset(types) and torch.is_grad_enabled() and not transformed:
            result = rule(*args, **kwargs)
        return func(*args, **kwargs) if result is None else result


class _Cuts:
    """x[..., start::step]; slices that make up a tensor, as in pooling, share a backward step."""

    def __init__(self) -> None:
        self.cut: tuple = (None, 0, 0)  # tensor, its version, step
        self.slices: dict[int, Tensor] = {}

    def __call__(self, x: Tensor, item: Any) -> Tensor | None:
        if not x.requires_grad or not _is_every_nth(x, item):
            return None
        version, step = x._version, item[-1].step
        if self.cut[0] is not x or self.cut[1:] != (version, step):
            self.cut = x, version, step
            self.slices = dict(enumerate(_EveryNth.apply(x, step)))
        return self.slices.pop(item[-1].start or 0, None)  # once: the model may hook its tensor


def _is_every_nth(x: Tensor, item: Any) -> bool:
    """True for an index that is a slice with a step along the last axis only, up to its end."""
    if not isinstance(item, tuple) or not isinstance(item[-1], slice) or len(item) != x.ndim:
        return False
    start, step = item[-1].start or 0, item[-1].step
    whole = all(isinstance(it, slice) and it == slice(None) for it in item[:-1])
    steps = isinstance(step, int) and step > 1 and x.shape[-1] % step == 0
    return whole and steps and item[-1].stop is None and start in range(step)


class _EveryNth(torch.autograd.Function):
    """The `step` slices x[..., k::step] of a tensor; backwards they are interleaved again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: int) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.step = x.shape, step
        return tuple(x[..., k::step] for k in range(step))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, None]:
        total = next(g for g in gradients if g is not None).new_empty(ctx.shape)
        for k, gradient in enumerate(gradients):
            total[..., k :: ctx.step] = 0 if gradient is None else gradient
        return total, None


def _smooth(func: Callable, input: Tensor, *settings: Any, **named: Any) -> Tensor | None:
    in_place = named.get("inplace") or any(setting is True for setting in settings)
    if in_place or not input.requires_grad or input.dtype not in _PRECISE:
        return None
    return _Smooth.apply(input, lambda x: func(x, *settings, **named))


class _Smooth(torch.autograd.Function):
    """A function of single numbers that keeps its slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, func: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = func(x)
            ctx.save_for_backward(*torch.autograd.grad(y.sum(), x))
        return y.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("a slope that was kept cannot be differentiated again")
        return gradient * ctx.saved_tensors[0], None


def _maximum(input: Tensor, other: Tensor) -> Tensor | None:
    alike = input.shape == other.shape and input.dtype == other.dtype
    return _Maximum.apply(input, other) if alike and input.is_floating_point() else None


class _Maximum(torch.autograd.Function):
    """The larger of two numbers; it keeps the share of the first."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward((first - second).sign_().mul_(0.5).add_(0.5))
        return torch.maximum(first, second)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        to_first = gradient * ctx.saved_tensors[0]
        return to_first, gradient - to_first


def _pad(input: Tensor, pad: Any, *_: Any, **__: Any) -> Tensor | None:
    return None if any(pad) else input.clone()


def _batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    """Batch norm with fixed statistics and weights: a factor and a summand for each channel."""
    if training or not _only_input_varies(input, running_mean, running_var, weight, bias):
        return None
    offset, slope = line_of_batch_norm(input.ndim, running_mean, running_var, weight, bias, eps)
    return torch.addcmul(offset, input, slope)


def line_of_batch_norm(
    ndim: int, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Offset and slope of each channel, to go with an input of so many axes."""
    slope = (var + eps).rsqrt()
    slope = slope if weight is None else slope * weight
    offset = (0 if bias is None else bias) - mean * slope
    shape = (-1,) + (1,) * (ndim - 2)
    return offset.view(shape), slope.view(shape)


def _only_input_varies(input: Tensor, *weights: Tensor | None) -> bool:
    """True if the input alone needs a gradient, and nothing is or becomes of low precision."""
    fixed = all(w is None or (w.dtype == input.dtype and not w.requires_grad) for w in weights)
    precise = input.dtype in _PRECISE and not torch.is_autocast_enabled(input.device.type)
    return fixed and precise and input.requires_grad


_PLAIN = frozenset({Tensor, nn.Parameter})
_SMOOTH = {func: partial(_smooth, func) for func in (F.gelu, F.silu, F.mish, F.softplus)}
_RULES = {F.batch_norm: _batch_norm, F.pad: _pad}
_RULES |= dict.fromkeys((torch.maximum, Tensor.maximum), _maximum)
