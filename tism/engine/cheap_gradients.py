"""Functions with derivatives that are cheap to apply again and again.

Gradients of several tasks take one backward pass a task through the same graph. In each of them
PyTorch works out anew which of two tensors was the larger and what the slope of a GELU is, and its
convolution of few channels, such as the one that reads the sequence, is slow backwards. Here the
slopes are kept from the forward pass. Values and conventions (half to each of two equal tensors)
are those of PyTorch. Parameters get no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_SMOOTH = frozenset({"gelu", "silu", "mish", "softplus"})
_FEW_CHANNELS = 8


class CheapBackward(TorchFunctionMode):
    """While active, builds graphs for one backward pass to the input, or for `repeated` passes."""

    def __init__(self, repeated: bool):
        super().__init__()
        self.repeated = repeated
        self._cut: tuple[Tensor, int, int, tuple[Tensor, ...]] | None = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.__name__
        if self.repeated and name in _SMOOTH and not kwargs.get("inplace"):
            return _Smooth.apply(args[0], lambda x: func(x, *args[1:], **kwargs))[0]
        if name == "maximum" and args[0].shape == args[1].shape and args[0].dtype == args[1].dtype:
            return _Maximum.apply(*args)[0]
        if name == "pad" and len(args) > 1 and not any(args[1]):
            return args[0].clone()
        if name == "__getitem__" and _is_every_nth(*args):
            return self._every_nth(args[0], args[1][-1])
        if name == "conv1d":
            return _convolution(func, *args, **kwargs)
        if name == "batch_norm":
            return _batch_norm(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _every_nth(self, x: Tensor, item: slice) -> Tensor:
        """x[..., item]; slices that make up a tensor, as in pooling, share one backward step."""
        if self._cut is None or self._cut[0] is not x or self._cut[1:3] != (x._version, item.step):
            self._cut = x, x._version, item.step, _EveryNth.apply(x, item.step)
        return self._cut[3][item.start or 0]


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
    def forward(x: Tensor, step: int) -> tuple[Tensor, ...]:
        return tuple(x[..., k::step] for k in range(step))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.step = inputs[0].shape, inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, None]:
        total = next(g for g in gradients if g is not None).new_empty(ctx.shape)
        for k, gradient in enumerate(gradients):
            total[..., k :: ctx.step] = 0 if gradient is None else gradient
        return total, None


class _Smooth(torch.autograd.Function):
    """A function of single numbers that keeps its slope."""

    @staticmethod
    def forward(x: Tensor, func: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = func(x)
            (slope,) = torch.autograd.grad(y.sum(), x)
        return y.detach(), slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None]:
        return gradient * ctx.saved_tensors[0], None


class _Maximum(torch.autograd.Function):
    """The larger of two numbers; it keeps the share of the first."""

    @staticmethod
    def forward(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        share = (first - second).sign_().mul_(0.5).add_(0.5)
        return torch.maximum(first, second), share

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, Tensor]:
        to_first = gradient * ctx.saved_tensors[0]
        return to_first, gradient - to_first


def _batch_norm(func: Callable, input: Tensor, *statistics: Any, **settings: Any) -> Tensor:
    """Batch norm; with fixed statistics and weights, a factor and a summand for each channel."""
    mean, variance = [*statistics, None, None][:2]
    weight, bias = settings.get("weight"), settings.get("bias")
    trained = any(t is not None and t.requires_grad for t in (weight, bias))
    if settings.get("training", True) or mean is None or trained or len(statistics) != 2:
        return func(input, *statistics, **settings)
    slope = (variance + settings.get("eps", 1e-5)).rsqrt()
    slope = slope if weight is None else slope * weight
    offset = -mean * slope if bias is None else bias - mean * slope
    shape = (-1,) + (1,) * (input.ndim - 2)
    return torch.addcmul(offset.view(shape), input, slope.view(shape))


def _convolution(
    func: Callable,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """A convolution; for few channels on the CPU, one with a faster backward pass."""
    reach = _int(dilation) * (weight.shape[2] - 1)
    uneven = padding == "same" and reach % 2
    trained = any(t is not None and t.requires_grad for t in (weight, bias))
    few = input.ndim == 3 and weight.shape[1] <= _FEW_CHANNELS and input.device.type == "cpu"
    if not few or groups > 1 or uneven or trained:
        return func(input, weight, bias, stride, padding, dilation, groups)
    if isinstance(padding, str):
        padding = reach // 2 if padding == "same" else 0
    return _FewChannels.apply(input, weight, bias, _int(stride), _int(padding), _int(dilation))


def _int(setting: Any) -> int:
    """A setting of a convolution with one axis, as an int."""
    return setting if isinstance(setting, int) else setting[0]


class _FewChannels(torch.autograd.Function):
    """conv1d whose backward pass folds the products of all taps with the gradient."""

    @staticmethod
    def forward(
        input: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int
    ) -> Tensor:
        return F.conv1d(input, weight, bias, stride, padding, dilation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.length = inputs[0].shape[2]
        ctx.save_for_backward(inputs[1])
        ctx.settings = inputs[3:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        (weight,), (stride, padding, dilation) = ctx.saved_tensors, ctx.settings
        folded = F.fold(
            weight.flatten(1).T @ gradient,  # (n, channels * kernel, length)
            (1, ctx.length),
            (1, weight.shape[2]),
            (1, dilation),
            (0, padding),
            (1, stride),
        )
        return folded[:, :, 0], None, None, None, None, None
