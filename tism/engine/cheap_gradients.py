"""Functions with derivatives that are cheap to apply again and again.

Gradients of several tasks take one backward pass a task through the same graph. In each of them
PyTorch works out anew which of two tensors was the larger and what the slope of a GELU is, and its
convolution of few channels, such as the one that reads the sequence, is slow backwards. Here the
slopes are kept from the forward pass. Values and conventions (half to each of two equal tensors)
are those of PyTorch. Parameters get no gradient.

A rule takes the arguments of its torch function under the same names. It returns None where it does
not apply, and torch's own function runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_FEW_CHANNELS = 8
_PRECISE = (torch.float32, torch.float64)
_HOOKED = "tism: cheap gradients are not for models that recompute or move what a graph saves"


@contextmanager
def cheap_graph(repeated: bool) -> Iterator[None]:
    """As `CheapBackward`, for any model: raises an error where the gradient could be wrong.

    A checkpoint within the model would recompute with torch's own functions what the cheap ones
    have saved; torch cannot always tell, so hooks on saved tensors are an error from the start.
    """
    unhooked = torch.autograd.graph.disable_saved_tensors_hooks(_HOOKED)
    with uncompiled(), unhooked, CheapBackward(repeated):
        yield


def uncompiled() -> AbstractContextManager:
    """While active, compiled models run as plain Python, so that a mode sees every function."""
    needed = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")  # torch 2.6
    return torch.compiler.set_stance("force_eager") if needed else nullcontext()


class CheapBackward(TorchFunctionMode):
    """While active, builds graphs for one backward pass to the input, or for `repeated` passes."""

    def __init__(self, repeated: bool):
        super().__init__()
        self.rules = _RULES | {Tensor.__getitem__: _Cuts()} | (_SMOOTH if repeated else {})

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, rule = kwargs or {}, self.rules.get(func)
        if rule is not None and _PLAIN.issuperset(types) and _builds_a_plain_graph():
            result = rule(*args, **kwargs)
            if result is not None:
                return result
        return func(*args, **kwargs)


def _builds_a_plain_graph() -> bool:
    return torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()


class _Cuts:
    """x[..., start::step]; slices that make up a tensor, as in pooling, share a backward step."""

    def __init__(self) -> None:
        self.cut: tuple[Tensor, int, int] | None = None
        self.slices: dict[int, Tensor] = {}

    def __call__(self, x: Tensor, item: Any) -> Tensor | None:
        if not x.requires_grad or not _is_every_nth(x, item):
            return None
        step = item[-1].step
        if self.cut is None or self.cut[0] is not x or self.cut[1:] != (x._version, step):
            self.cut = x, x._version, step
            self.slices = dict(enumerate(_EveryNth.apply(x, step)))
        return self.slices.pop(item[-1].start or 0, None)  # two callers may hook theirs differently


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


def _smooth(func: Callable, input: Tensor, *settings: Any, **named: Any) -> Tensor | None:
    in_place = named.get("inplace") or any(setting is True for setting in settings)
    if in_place or not input.requires_grad or input.dtype not in _PRECISE:
        return None
    return _Smooth.apply(input, lambda x: func(x, *settings, **named))[0]


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
        if torch.is_grad_enabled():
            raise RuntimeError("a slope that was kept cannot be differentiated again")
        return gradient * ctx.saved_tensors[0], None


def _maximum(input: Tensor, other: Tensor) -> Tensor | None:
    alike = input.shape == other.shape and input.dtype == other.dtype
    if not alike or not (input.requires_grad or other.requires_grad):
        return None
    return _Maximum.apply(input, other)[0]


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


def _pad(input: Tensor, pad: Any, *_: Any, **__: Any) -> Tensor | None:
    return None if any(pad) else input.clone()


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """Batch norm with fixed statistics and weights: a factor and a summand for each channel."""
    if training or running_mean is None or running_var is None:
        return None
    if not _only_the_input_changes(input, running_mean, running_var, weight, bias):
        return None
    slope = (running_var + eps).rsqrt()
    slope = slope if weight is None else slope * weight
    offset = -running_mean * slope if bias is None else bias - running_mean * slope
    shape = (-1,) + (1,) * (input.ndim - 2)
    return torch.addcmul(offset.view(shape), input, slope.view(shape))


def _only_the_input_changes(input: Tensor, *weights: Tensor | None) -> bool:
    """True if the input alone needs a gradient, and nothing is or becomes of low precision."""
    fixed = all(w is None or (w.dtype == input.dtype and not w.requires_grad) for w in weights)
    precise = input.dtype in _PRECISE and not torch.is_autocast_enabled(input.device.type)
    return fixed and precise and input.requires_grad


def _conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """A convolution of few channels on the CPU, with a faster backward pass."""
    reach = _int(dilation) * (weight.shape[2] - 1)
    uneven = padding == "same" and reach % 2
    few = input.ndim == 3 and weight.shape[1] <= _FEW_CHANNELS and input.device.type == "cpu"
    if not few or groups > 1 or uneven or not _only_the_input_changes(input, weight, bias):
        return None
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


_PLAIN = frozenset({Tensor, nn.Parameter})
_SMOOTH = {func: partial(_smooth, func) for func in (F.gelu, F.silu, F.mish, F.softplus)}
_RULES = {
    F.conv1d: _conv1d,
    F.batch_norm: _batch_norm,
    F.pad: _pad,
    torch.maximum: _maximum,
    Tensor.maximum: _maximum,
}
