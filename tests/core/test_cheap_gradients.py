"""Cheap backward passes against autograd's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tism.engine.cheap_gradients import CheapBackward
from tism.running import uncompiled


def gradients(model, x: Tensor, tasks: int = 2) -> tuple[Tensor, Tensor]:
    """Of several outputs of a model, by autograd alone and by cheap backward passes."""
    both = []
    for mode in (None, CheapBackward(repeated=True)):
        point = x.clone().requires_grad_()
        if mode is None:
            output = model(point)
        else:
            with mode:
                output = model(point)
        output = output.flatten(1)
        both.append(
            torch.stack(
                [
                    torch.autograd.grad(output[:, t].sum(), point, retain_graph=True)[0]
                    for t in range(tasks)
                ]
            )
        )
    return tuple(both)


@pytest.fixture
def x() -> Tensor:
    """(3, 4, 15) normal numbers."""
    return torch.randn(3, 4, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "function",
    [
        F.gelu,
        nn.Softplus(beta=2.0),  # passes its settings by position
        lambda x: F.gelu(x, approximate="tanh"),
        F.silu,
        F.mish,
        lambda x: F.softplus(x, beta=2.0),
        lambda x: F.silu(x * 1, inplace=True),
        lambda x: torch.maximum(x, x.flip(2)),
        lambda x: torch.maximum(2 * x - x.detach(), x),  # equal, with different slopes
        lambda x: torch.maximum(x, x[:, :1]),
        lambda x: F.pad(x, (0, 0)) * x,
        lambda x: x[:, :, 0::3] * x[:, :, 1::3] + 2 * x[:, :, ::3],
        lambda x: x[:, :, ::5] * x[:, 1:2, 1::3].sum(),
        lambda x: x[..., ::2] + x[:, :, 1:10:3].sum(),
        lambda x: x[:, :, 2::5] * (x * x)[:, :, 1::5],
        lambda x: F.pad(x, (1, 2)) ** 2,
    ],
)
def test_functions(x, function):
    plain, cheap = gradients(lambda x: function(x).sin(), x)
    torch.testing.assert_close(cheap, plain, rtol=1e-12, atol=1e-14)
    assert plain.any()


@pytest.mark.parametrize("kernel", [1, 4, 5])
@pytest.mark.parametrize("padding", [0, 1, (2,), "same", "valid"])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (3, 2)])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_convolutions(x, kernel, padding, dilation, stride, groups):
    stride = 1 if padding == "same" else stride
    conv = nn.Conv1d(
        4, 96, kernel, stride, padding, dilation, groups=groups, bias=kernel == 4, dtype=x.dtype
    ).requires_grad_(False)
    plain, cheap = gradients(lambda x: conv(x).square(), x)
    torch.testing.assert_close(cheap, plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(x, affine, training):
    norm = nn.BatchNorm1d(4, affine=affine, dtype=x.dtype).train(training).requires_grad_(False)
    norm.running_mean.copy_(torch.arange(4))
    norm.running_var.copy_(torch.arange(1, 5))
    plain, cheap = gradients(lambda x: norm(x).square(), x)
    torch.testing.assert_close(cheap, plain, rtol=1e-10, atol=1e-12)


def test_parameters_that_are_trained_keep_their_gradients(x):
    conv, norm = nn.Conv1d(4, 64, 5, dtype=x.dtype), nn.BatchNorm1d(64, dtype=x.dtype).eval()
    expected = torch.autograd.grad(norm(conv(x)).sin().sum(), [conv.weight, norm.bias])
    with CheapBackward(repeated=True):
        output = norm(conv(x)).sin().sum()
    for got, true in zip(
        torch.autograd.grad(output, [conv.weight, norm.bias]), expected, strict=True
    ):
        torch.testing.assert_close(got, true)


STATISTICS = torch.ones(4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "node"),
    [
        (lambda x: F.gelu(input=x, approximate="tanh"), "_SmoothBackward"),
        (lambda x: F.silu(input=x), "_SmoothBackward"),
        (lambda x: F.mish(x, inplace=False), "_SmoothBackward"),
        (lambda x: F.softplus(x, 1.0, threshold=9), "_SmoothBackward"),
        (lambda x: torch.maximum(input=x, other=x), "_MaximumBackward"),
        (lambda x: x.maximum(other=x), "_MaximumBackward"),
        (lambda x: F.pad(input=x, pad=(0, 0), mode="replicate"), "CloneBackward0"),
        (lambda x: x[:, :, 2::5], "_EveryNthBackward"),
        (lambda x: F.batch_norm(x, running_var=STATISTICS, running_mean=STATISTICS), "Addcmul"),
    ],
)
def test_cheap_functions_are_used_however_they_are_called(x, function, node):
    with CheapBackward(repeated=True):
        assert function(x.requires_grad_()).grad_fn.name().startswith(node)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.silu(x * 1, True),
        lambda x: F.gelu(x.bfloat16()),
        lambda x: torch.maximum(x, x.float()),
        lambda x: x[:, :, 1:9:2],
        lambda x: F.batch_norm(x, STATISTICS, STATISTICS, nn.Parameter(STATISTICS)),
        lambda x: torch.batch_norm(
            x, STATISTICS, STATISTICS, STATISTICS, STATISTICS, False, 0.1, 1e-5, False
        ),
        lambda x: F.batch_norm(x.float(), STATISTICS.float(), STATISTICS.float()),
    ],
)
def test_where_torch_is_needed_it_is_used(x, function):
    with CheapBackward(repeated=True), torch.autocast("cpu", dtype=torch.bfloat16):
        assert not function(x.requires_grad_()).grad_fn.name().startswith(("_", "Addcmul"))


def test_a_slope_that_was_kept_is_not_differentiated_again(x):
    x.requires_grad_()
    with CheapBackward(repeated=True):
        y = F.gelu(x).sum()
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(y, x, create_graph=True)


def test_functions_of_a_compiled_model_are_seen(x):
    model = torch.compile(nn.GELU(), backend="eager")
    with uncompiled(), CheapBackward(repeated=True):
        assert model(x.requires_grad_()).grad_fn.name() == "_SmoothBackward"
    assert type(model(x).grad_fn).__name__ == "GeluBackward0"
