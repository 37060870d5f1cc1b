"""A device that pretends to be a GPU: its tensors say `pgpu:0` and keep their numbers on the CPU.

As CUDA does, it refuses to mix its tensors with those of the CPU. It counts the kernels that a GPU
would run, the copies to it, and what makes the host wait for it. It knows nothing of streams,
memory, cuDNN or the rounding of a GPU. `torch.utils.backend_registration` is experimental: written
against torch 2.13.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pgpu")
# asked for by autocast and checkpoints of the CPU too, once there is such a device
torch.pgpu.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
DEVICE = torch.device("pgpu:0")
_aten, _has = torch.ops.aten, torch._C._dispatch_has_kernel_for_dispatch_key
_COPIES = {"copy_", "_to_copy", "_copy_from", "_copy_from_and_resize"}
_INDEXED = {"index", "index_put_", "_index_put_impl_", "index_put", "_unsafe_index"}
# The host has to know a number, or how many there are, before it can go on.
_READ = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero", "_unique2"}


class PretendGPU(TorchDispatchMode):
    """While active, `pgpu:0` exists and is counted. Convolutions take TF32 where torch allows it.

    waits : for "operation module.function" of the package how often the host waited for the device
    transfers, kernels : copies of tensors to the device, by function; kernels, by operation
    """

    active: PretendGPU | None = None

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.transfers, self.kernels = Counter(), Counter(), Counter()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __enter__(self) -> PretendGPU:
        PretendGPU.active = self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        PretendGPU.active = None
        super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        asked = (kwargs or {}).get("device")
        if asked is not None and torch.device(asked).type == DEVICE.type:
            return _run(func, args, kwargs)
        return func(*args, **(kwargs or {}))


class OnDevice(Tensor):
    """A tensor of the device; `held` has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        options = {"dtype": held.dtype, "device": DEVICE, "strides": held.stride()}
        self = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), storage_offset=held.storage_offset(), **options
        )
        self.held = held.detach()
        return self

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert a device tensor to numpy; copy it to the host first")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def move(model: nn.Module) -> nn.Module:
    """The model with its parameters and buffers on the device."""
    for module in model.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None:
                moved = nn.Parameter(OnDevice(tensor.data), tensor.requires_grad)
                module._parameters[name] = moved
        for name, tensor in module._buffers.items():
            if tensor is not None:
                module._buffers[name] = OnDevice(tensor)
    return model


def _run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An operation with tensors of the device among its arguments or as its result."""
    name, asked, kwargs = func.overloadpacket.__name__, kwargs.get("device"), dict(kwargs)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    device = [t for t in tensors if isinstance(t, OnDevice)]
    host = [t for t in tensors if not isinstance(t, OnDevice)]
    to_device = bool(device) if asked is None else torch.device(asked).type == DEVICE.type
    at_once = kwargs.get("non_blocking", False)
    if name == "copy_":
        to_device, at_once = isinstance(args[0], OnDevice), at_once or True in args[2:]
    if name not in _COPIES and device:
        _refuse_mixture(name, host)
    _count(func, name, device, host, to_device, at_once)
    if asked is not None:
        kwargs["device"] = torch.device("cpu")
    plain_args, plain_kwargs = tree_map(_held, (args, kwargs))
    if name == "convolution" and _convolves_in_tf32():
        plain_args = (*map(_rounded, plain_args[:2]), *plain_args[2:])
    result, same = func(*plain_args, **plain_kwargs), {id(t.held): t for t in device}

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if not to_device:
            return leaf.clone() if device else leaf
        return same.get(id(leaf)) if id(leaf) in same else OnDevice(leaf)

    return args[0] if name == "copy_" else tree_map(placed, result)


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, OnDevice) else leaf


def _convolves_in_tf32() -> bool:
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:  # switched for one operation
        return torch.backends.cudnn.conv.fp32_precision != "ieee"


def _rounded(factor: Tensor) -> Tensor:
    """A float32 factor with the 10 bits behind the point of TF32."""
    if factor.dtype != torch.float32:
        return factor
    bits = factor.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def _refuse_mixture(name: str, host: list[Tensor]) -> None:
    """As CUDA's, operations take numbers of the host, and an index on the host, but no tensors."""
    for tensor in host:
        if tensor.ndim and not (name in _INDEXED and not tensor.is_floating_point()):
            raise RuntimeError(f"{name}: tensors on {DEVICE} and on cpu, at {_place()}")


def _count(func: Any, name: str, device: list, host: list, to_device: bool, at_once: bool) -> None:
    counted = PretendGPU.active or PretendGPU()
    to_host = bool(device) and not to_device and name in _COPIES
    sent = to_device and any(t.ndim for t in host)
    mask = name in _INDEXED and any(t.dtype == torch.bool for t in device[1:])
    if sent:
        counted.transfers[_place()] += 1
    if to_host or mask or (sent and not at_once) or (device and name in _READ):
        counted.waits[f"{name} {_place()}"] += 1
    returns = func._schema.returns
    alias = returns[0].alias_info if returns else None
    if to_device and not sent and (alias is None or alias.is_write):  # no view
        counted.kernels[name] += 1


def _place() -> str:
    """Module and function of the package that is running."""
    frame = sys._getframe(1)
    while frame and not (
        frame.f_globals.get("__name__", "").startswith("tism.")
        and not frame.f_code.co_name.startswith("__torch")
    ):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}" if frame else "?"


# What C++ calls with Python's modes off (lists as indices, constants) arrives at these kernels.
_library = torch.library.Library("aten", "IMPL")
_COMPOSITE = [f"Composite{kind}" for kind in ("ImplicitAutograd", "ExplicitAutograd")]
_COMPOSITE.append("CompositeExplicitAutogradNonFunctional")
_ALSO = {
    *("empty", "copy_", "index_put_", "as_strided", "fill_", "clone", "zero_", "index"),
    *("_copy_from", "_copy_from_and_resize"),
}


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _held(target).copy_(_held(source))
    return target


def _register(full: str) -> None:
    """Have an operation run on the device, if the CPU has a kernel of its own for it."""
    name, _, overload = full.removeprefix("aten::").partition(".")
    own = _has(full, "CPU") and not any(_has(full, key) for key in _COMPOSITE)
    if not own and name not in _ALSO:
        return
    op = getattr(getattr(_aten, name), overload or "default")
    more = {"device": DEVICE} if name.startswith("empty") else {}

    def kernel(*args: Any, **kwargs: Any) -> Any:
        return _run(op, args, {**kwargs, **more})

    _library.impl(op, _copy_from if name.startswith("_copy_from") else kernel, "PrivateUse1")


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for _full in torch._C._dispatch_get_all_op_names():
        if _full.startswith("aten::"):
            with suppress(RuntimeError, AttributeError):  # no operation of Python's
                _register(_full)
