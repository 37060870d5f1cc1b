"""Cheap backward passes against autograd's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tism import input_gradient
from tism.engine.cheap_gradients import CheapBackward


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
        4, 6, kernel, stride, padding, dilation, groups=groups, bias=kernel == 4, dtype=x.dtype
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
    conv, norm = nn.Conv1d(4, 3, 5, dtype=x.dtype), nn.BatchNorm1d(3, dtype=x.dtype).eval()
    expected = torch.autograd.grad(norm(conv(x)).sin().sum(), [conv.weight, norm.bias])
    with CheapBackward(repeated=True):
        output = norm(conv(x)).sin().sum()
    for got, true in zip(
        torch.autograd.grad(output, [conv.weight, norm.bias]), expected, strict=True
    ):
        torch.testing.assert_close(got, true)


def test_a_model_that_changes_a_slice_in_place(x):
    class InPlace(nn.Module):
        def forward(self, x):
            x = x * 2
            x[:, :, 1::3].sin_()
            return x.flatten(1)[:, :30] ** 2

    one_hot = F.one_hot(x.argmax(1), 4).mT.double()
    jacobian = torch.autograd.functional.jacobian(lambda x: InPlace()(x[None])[0], one_hot[0])
    torch.testing.assert_close(input_gradient(InPlace(), one_hot)[0], jacobian)
