"""The input gradient against finite differences and autograd's own Jacobian."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tism import input_gradient, ism, tism
from tism.first_order import _recurrent_layers_differentiable, gradient_anywhere
from tism.predictor import Job, evaluating
from tism.study.scores import along_substitutions


def jacobian(model: nn.Module, points: torch.Tensor) -> torch.Tensor:
    """(n, tasks, 4, length) by autograd, one sequence at a time."""
    model = model.eval()
    return torch.stack(
        [torch.autograd.functional.jacobian(lambda x: model(x[None])[0], point) for point in points]
    )


def test_gradient_is_the_jacobian(net, sequences):
    gradient = input_gradient(net, sequences)

    assert gradient.shape == (5, 3, 4, 20)
    assert gradient.dtype == torch.float64
    torch.testing.assert_close(gradient, jacobian(net, sequences), rtol=1e-10, atol=1e-12)


def test_several_sequences_at_once_and_one_forward_pass_each(net, sequences):
    batches = []
    net.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0])))

    input_gradient(net, sequences, batch_size=3)

    assert batches == [3, 1, 2]  # one sequence of the first batch is run again alone


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
@pytest.mark.parametrize("input_dtype", [torch.uint8, torch.bool, torch.float16, torch.float64])
def test_the_model_decides_the_dtype(linear, sequences, dtype, expected, input_dtype):
    model = linear.to(dtype)

    for function in (input_gradient, tism):
        scores = function(model, sequences.to(input_dtype))
        assert scores.dtype == expected
        assert scores.device.type == "cpu"
    weight = model[1].weight.to(expected).view(3, 4, 20)
    assert torch.equal(input_gradient(model, sequences.to(input_dtype))[0], weight)


def test_a_constant_task_has_no_gradient_beside_one_that_has(net, sequences):
    class OneConstant(nn.Module):
        def forward(self, x):
            return torch.stack([x.square().sum((1, 2)), torch.ones(len(x))], dim=1)

    gradient = input_gradient(OneConstant(), sequences)

    assert torch.equal(gradient[:, 0], 2 * sequences)
    assert (gradient[:, 1] == 0).all()


@pytest.mark.parametrize(
    "forward",
    [
        pytest.param(lambda x: torch.ones(len(x), 2), id="constant"),
        pytest.param(lambda x: x.detach().sum(2), id="detached"),
        pytest.param(lambda x: (x > 0.5).to(x).sum(2), id="thresholded"),
        pytest.param(
            lambda x: x.detach().sum(2) * torch.ones(4, requires_grad=True), id="weights only"
        ),
    ],
)
@pytest.mark.parametrize("function", [input_gradient, tism])
def test_a_model_without_a_gradient_says_so(sequences, function, forward):
    class NoGradient(nn.Module):
        def forward(self, x):
            return forward(x)

    with pytest.raises(ValueError, match=r"not depend differentiably on its input.*ISM"):
        function(NoGradient(), sequences)


def test_the_private_core_takes_points_between_the_vertices(net, sequences):
    midpoints = (sequences + sequences.roll(1, 0)) / 2

    with evaluating(net) as predict:
        gradient = gradient_anywhere(Job(predict, midpoints, None, range(midpoints.shape[2]), 2))

    torch.testing.assert_close(gradient, jacobian(net, midpoints), rtol=1e-10, atol=1e-12)


def test_along_a_substitution_tism_turns_into_ism(net, sequences):
    one, positions, bases = sequences[:1], [2, 7, 19], [0, 1, 3]  # position 7 is an N
    steps = [0, 1e-6, 0.5, 1]

    path = along_substitutions(net, one, positions, bases, steps)

    assert path.shape == (3, 4, 3)
    start = path[:, 0]
    for approximate, at in ((tism, 1), (ism, 3)):
        expected = approximate(net, one)[0][:, bases, positions].T
        difference = (path[:, at] - start) / steps[at]
        torch.testing.assert_close(difference, expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        halfway = one.clone()
        halfway[0, 1, 7] += 0.5
        torch.testing.assert_close(path[1, 2], net.eval()(halfway)[0], rtol=1e-10, atol=1e-12)


def test_along_substitutions_takes_one_sequence(net, sequences):
    with pytest.raises(ValueError, match="one_hot must hold one sequence, got 5"):
        along_substitutions(net, sequences, [0], [0], [1])


class NeedsTorch(torch.autograd.Function):
    """The identity, whose gradient is an error or infinite where the graph has cheap functions."""

    @staticmethod
    def forward(ctx, x, cheap, fault):
        ctx.fault = fault if cheap else None
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if isinstance(ctx.fault, Exception):
            raise ctx.fault
        return gradient if ctx.fault is None else gradient * ctx.fault, None, None


@pytest.mark.parametrize("fault", [RuntimeError("cheap"), KeyError("cheap"), float("inf")])
@pytest.mark.parametrize("tasks", [0, None])
def test_what_fails_with_cheap_functions_is_repeated_once_by_torch(net, sequences, fault, tasks):
    expected, graphs = input_gradient(net, sequences, tasks), []

    def enter(_, inputs):
        (x,) = inputs
        if not x.requires_grad:  # the check of one sequence
            return x
        graphs.append(x[:, :, ::2].grad_fn.name() == "_EveryNthBackward")
        return NeedsTorch.apply(x, graphs[-1], fault)

    net.register_forward_pre_hook(enter)
    gradient = input_gradient(net, sequences, tasks)

    assert graphs == [True, False]
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_the_error_is_that_of_torch_alone(net, sequences):
    class Raises(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            raise RuntimeError(f"call {self.calls}")

    with pytest.raises(ValueError, match="call 2"):
        input_gradient(Raises(), sequences)


def test_recurrent_layers_on_a_gpu_run_without_cudnn():
    recurrent, other = nn.Sequential(nn.GRU(4, 2)), nn.Linear(4, 2)
    for model, device, cudnn in [
        (recurrent, "cuda", False),
        (recurrent, "cpu", True),
        (other, "cuda", True),
    ]:
        predict = SimpleNamespace(model=model, device=torch.device(device))
        with _recurrent_layers_differentiable(predict):
            assert torch.backends.cudnn.enabled == cudnn
        assert torch.backends.cudnn.enabled
