"""Gradients of awkward models against plain autograd."""

from __future__ import annotations

import warnings
from copy import deepcopy

import pytest
import torch
from conftest import LENGTH, N_TASKS, ready, state
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tism import input_gradient, layerwise_tism, tism

ENTRIES = {}


class Awkward(nn.Module):
    """Some layers, a body that uses them in its way, and a linear head for three tasks."""

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.conv, self.mix = nn.Conv1d(4, 6, 5, padding=2), nn.Conv1d(6, 6, 3, padding=1)
        self.norm, self.dropout = nn.BatchNorm1d(6), nn.Dropout(0.5)
        self.gates = nn.Sequential(nn.GELU(), nn.Conv1d(6, 6, 1), nn.SiLU())
        self.register_buffer("head", torch.randn(N_TASKS, 12 * LENGTH) / LENGTH)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4, 20) to (n, 3)."""
        hidden = self.dropout(self.body(self, x)).flatten(1)
        return hidden.to(self.head).sin() @ self.head[:, : hidden.shape[1]].mT


def entry(body):
    """Add the model with this body, and with what the body returns for a first None."""
    ENTRIES[body.__name__] = body
    return body


@entry
def keyword_activations(net, x):
    x = F.gelu(input=net.conv(x), approximate="tanh")
    return F.softplus(F.mish(input=F.silu(input=x)), 2.0) + F.softplus(input=x, beta=3.0)


@entry
def activations_in_place(net, x):
    return F.silu(F.mish(net.conv(x), inplace=True), True)


@entry
def keyword_maximum(net, x):
    x = net.conv(x)
    return torch.maximum(input=x, other=x.flip(2)) + x.maximum(other=x.roll(1, 1))


@entry
def maximum_of_integers_and_booleans(net, x):
    place, present = x.argmax(1, keepdim=True), x > 0.5
    place = torch.maximum(place, place.flip(2))
    return net.conv(x) * place + net.conv(x * torch.maximum(present, present.flip(2)))


@entry
def maximum_of_two_dtypes(net, x):
    x = net.conv(x)
    return torch.maximum(x, torch.tensor(0.1)) + torch.maximum(x, x.float().detach() + 0.1)


@entry
def keyword_convolutions(net, x):
    x = F.conv1d(input=x, weight=net.conv.weight, bias=net.conv.bias, padding="same")
    return F.conv1d(x, net.mix.weight, stride=(1,), dilation=2, padding=[2])


@entry
def convolution_of_one_sequence(net, x):
    return torch.stack([net.conv(sequence) for sequence in x])


@entry
def filters_made_from_the_sequence(net, x):
    weight = net.conv.weight + x.mean((0, 2))[:, None] ** 2 * 0
    return F.conv1d(x, weight, padding=2)


@entry
def keyword_batch_norm(net, x):
    norm = net.norm
    return F.batch_norm(
        running_var=norm.running_var,
        running_mean=norm.running_mean,
        input=net.conv(x),
        weight=norm.weight,
        eps=1e-3,
    )


@entry
def batch_norm_by_position(net, x):
    norm, x = net.norm, net.conv(x)
    settings = (False, 0.1, 1e-3)
    first = F.batch_norm(x, norm.running_mean, norm.running_var, None, norm.bias, *settings)
    return first + torch.batch_norm(
        x, norm.weight, norm.bias, norm.running_mean, norm.running_var, *settings, True
    )


@entry
def keyword_padding(net, x):
    x = F.pad(input=net.conv(x), pad=(0, 0))
    x = F.pad(x, pad=(0, 0), mode="circular")
    return F.pad(F.pad(x, (1, 2), value=0.5), (1, 1), "reflect")


@entry
def checkpoint_without_reentry(net, x):
    def part(x):
        return F.gelu(torch.maximum(x.sin(), x.flip(2))).sin()

    return checkpoint(part, net.conv(x), use_reentrant=False)


@entry
def checkpoint_with_reentry(net, x):
    return checkpoint(net.gates, net.conv(x), use_reentrant=True)


@entry
def checkpoint_of_a_sequence(net, x):
    return checkpoint_sequential(net.gates, 2, net.conv(x), use_reentrant=False)


@entry
def saved_on_the_cpu(net, x):
    with torch.autograd.graph.save_on_cpu():
        return net.gates(net.conv(x))


@entry
def autocast(net, x):
    conv, gates = deepcopy(net.conv).float(), deepcopy(net.gates).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = gates(conv(x.float()))
        return F.gelu(torch.maximum(x[:, :, ::2], x[:, :, 1::2]))


@entry
def slices_that_are_hooked(net, x):
    x = net.conv(x)
    first, again = x[:, :, ::2], x[:, :, ::2]
    first.register_hook(lambda gradient: 3 * gradient)
    return first * again * x[:, :, 1::2]


@entry
def slices_without_a_gradient(net, x):
    x = net.conv(x)
    with torch.no_grad():
        fixed = x[:, :, ::2]
    return fixed * x[:, :, 1::2] + x[:, :, ::2].exp()


@entry
def slices_changed_in_place(net, x):
    x = net.conv(x) * 2
    x[:, :, 1::2].sin_()
    first, second = x[:, :, ::2], x[:, :, 1::2]
    first += second
    return x


@entry
def slices_of_what_changes_in_place(net, x):
    x = net.conv(x) * 2
    first = x[:, :, ::2]
    x.mul_(x.detach().cos())
    x[:, :, 3] = 0
    return torch.maximum(first, x[:, :, 1::2])


@entry
def input_changed_in_place(net, x):
    x -= 0.25
    x[:, 0].exp_()
    return net.conv(x)


@entry
def hooked_tensors(net, x):
    x = F.gelu(net.conv(x))
    x.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
    return net.mix(x)


@entry
def gradient_inside(net, x):
    energy = (F.gelu(net.conv(x)) ** 2).sum()
    (force,) = torch.autograd.grad(energy, x, create_graph=True)
    return force * x + F.silu(net.conv(x))[:, :4]


@entry
def gradient_inside_that_is_fixed(net, x):
    point = x.detach().requires_grad_()
    (force,) = torch.autograd.grad(F.gelu(net.conv(point)).sum(), point)
    return net.conv(force * x)


@entry
def vectorised(net, x):
    return torch.vmap(lambda x: net.gates(net.conv(x[None]))[0])(x)


@entry
def gradient_by_func(net, x):
    return torch.func.grad(lambda x: F.gelu(net.norm(net.conv(x))).square().sum())(x)


@entry
def forward_derivative_inside(net, x):
    return torch.func.jvp(lambda x: net.gates(net.conv(x)), (x,), (x.cos(),))[1]


@entry
def logarithm_of_a_maximum(net, x):
    x = net.conv(x)
    return torch.maximum(x, 0 * x.detach()).log().where(x > 0, 0.5)


@entry
def where_twice(net, x):
    x = net.conv(x)
    safe = torch.where(x > 0, x, 1)
    return torch.where(x > 0, safe.sqrt(), F.softplus(x))


@entry
def where_once(net, x):
    x = net.conv(x)
    odd = x[:, :, :1]  # its gradient is not a number
    return torch.cat([torch.where(odd > 0, odd.sqrt(), odd), x[:, :, 6:]], 2)


class Louder(Tensor):
    """A tensor whose class doubles what two functions return."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        return 2 * result if func in (torch.maximum, F.conv1d) else result


@entry
def tensors_of_a_subclass(net, x):
    x = F.gelu(net.conv(x).as_subclass(Louder))
    return torch.maximum(x, x.flip(2))


@entry
def weights_of_a_subclass(net, x):
    return F.gelu(F.conv1d(x, net.conv.weight.as_subclass(Louder), padding=2)) * net.conv(x)


class Variable:
    """A weight that is no tensor and says what it holds when a function asks, as in Keras 3."""

    def __init__(self, value: Tensor):
        self.value = value

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        def held(argument):
            return argument.value if isinstance(argument, cls) else argument

        return func(*map(held, args), **{k: held(v) for k, v in (kwargs or {}).items()})


@entry
def variables_of_another_library(net, x):
    weight, mean = Variable(net.conv.weight), Variable(net.norm.running_mean)
    x = F.conv1d(x, weight, bias=Variable(net.conv.bias), padding=2)
    x = F.batch_norm(x, mean, running_var=Variable(net.norm.running_var), training=False)
    return torch.maximum(x, Variable(x.detach().flip(2)))


class OnePass(torch.autograd.Function):
    """A square whose graph serves one backward pass."""

    @staticmethod
    def forward(ctx, x):
        ctx.held = [x]
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.held.pop()


@entry
def graphs_of_one_pass(net, x):
    return OnePass.apply(F.gelu(net.conv(x)))


@entry
def straight_through(net, x):
    soft = net.conv(x).softmax(1)
    hard = F.one_hot(soft.argmax(1), 6).mT.to(soft)
    return hard + soft - soft.detach()


@entry
def complex_numbers(net, x):
    spectrum = torch.fft.rfft(net.conv(x))
    return F.silu(torch.fft.irfft(spectrum * spectrum.conj(), n=LENGTH))


@entry
def pooled_and_put_back(net, x):
    pooled, place = F.max_pool1d(F.gelu(net.conv(x)), 2, return_indices=True)
    return F.max_unpool1d(pooled, place, 2) + x.cumsum(2)[:, :1]


@entry
def slices_of_several_steps(net, x):
    x = F.gelu(net.conv(x))
    halves = torch.maximum(x[:, :, 0::2], x[:, :, 1::2])
    return halves[:, :, ::2] * x[:, :, 3::4] + 2 * x[:, :, 1:20:4]


def with_part(make):
    """A model whose body is a part of its own."""

    def body(net, x):
        return net.part(x)

    body.__name__, body.make = make.__name__, make
    return entry(body)


@with_part
def lstm():
    return Recurrent(nn.LSTM(4, 3, 2, dropout=0.5, bidirectional=True, batch_first=True))


@with_part
def gru():
    return Recurrent(nn.GRU(4, 6, batch_first=True))


class Recurrent(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.mT)[0].mT


@with_part
def attention():
    return nn.Sequential(
        nn.Conv1d(4, 8, 1),
        Transposed(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")),
    )


class Transposed(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.mT).mT


@with_part
def weight_norm():
    return nn.Sequential(parametrizations.weight_norm(nn.Conv1d(4, 6, 3)), nn.GELU())


@with_part
def spectral_norm():
    return nn.Sequential(parametrizations.spectral_norm(nn.Conv1d(4, 6, 3)), nn.Mish())


class Palindromic(nn.Module):
    def forward(self, weight):
        return weight + weight.flip(1, 2)


@with_part
def parametrised():
    conv = nn.Conv1d(4, 6, 3)
    parametrize.register_parametrization(conv, "weight", Palindromic())
    return nn.Sequential(conv, nn.Softplus(2.0))


@with_part
def hooked_modules():
    part = nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.GELU(), nn.Conv1d(6, 2, 3))
    part[2].register_full_backward_hook(lambda module, into, out: (into[0].clamp(min=0),))
    part[1].register_forward_hook(lambda module, args, out: out * 2)
    part[3].register_full_backward_pre_hook(lambda module, out: (2 * out[0],))
    return part


@with_part
def compiled():
    return torch.compile(
        nn.Sequential(nn.Conv1d(4, 6, 3), nn.GELU(), nn.Conv1d(6, 2, 3)), backend="aot_eager"
    )


@with_part
def traced_symbolically():
    part = nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6).eval(), nn.GELU())
    return torch.fx.symbolic_trace(part)


@with_part
def traced_by_example():
    part = nn.Sequential(nn.Conv1d(4, 6, 3), nn.GELU(), nn.Conv1d(6, 2, 3)).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(part, torch.zeros(2, 4, LENGTH, dtype=torch.float64))


def model_of(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = Awkward(ENTRIES[name])
        if hasattr(model.body, "make"):
            model.part = model.body.make()
        return ready(model)


def by_autograd(model, x: Tensor, tasks) -> Tensor:
    """(n, tasks, 4, length), each task by a forward and a backward pass of its own."""
    columns = []
    for task in tasks:
        leaf = x.clone().requires_grad_()
        model(leaf.clone())[:, task].sum().backward()
        columns.append(leaf.grad)
    return torch.stack(columns, 1)


def agrees(gradient: Tensor, expected: Tensor) -> None:
    scale = expected.nan_to_num(0, 0, 0).abs().max().item()
    assert scale > 0
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10 * scale, equal_nan=True)


@pytest.mark.parametrize("tasks", [1, None], ids=["one", "all"])
@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.filterwarnings("ignore")
def test_awkward_models(bases, name, tasks):
    model = model_of(name).train()
    first = next(model.parameters())
    first.grad = torch.ones_like(first.requires_grad_(False))
    chosen = range(N_TASKS) if tasks is None else [tasks]
    expected = by_autograd(deepcopy(model).eval(), bases, chosen)
    before = state(model)

    gradient = input_gradient(model, bases, tasks)

    agrees(gradient, expected)
    assert state(model) == before


def test_a_layer_within_a_model_that_only_torch_differentiates(bases):
    model = model_of("checkpoint_without_reentry")

    scores = layerwise_tism(model, bases, depth="conv")  # which is linear

    torch.testing.assert_close(scores, tism(model, bases), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"cannot be differentiated by torch: .*checkpoint"):
        layerwise_tism(model, bases, depth="gelu")


@pytest.mark.filterwarnings("ignore")
def test_without_control_over_the_compiler(bases, monkeypatch):
    model = model_of("compiled")
    expected = by_autograd(deepcopy(model).eval(), bases, range(N_TASKS))
    monkeypatch.delattr(torch.compiler, "set_stance")  # as before torch 2.6

    agrees(input_gradient(model, bases), expected)


def test_within_hooks_on_saved_tensors(bases):
    model = model_of("keyword_activations")
    expected = input_gradient(model, bases)

    with torch.autograd.graph.save_on_cpu():
        agrees(input_gradient(model, bases), expected)


def test_a_double_beside_single_precision(bases):
    model = model_of("keyword_activations").float()
    model.body = lambda net, x: torch.maximum(net.conv(x), net.scalar * net.conv(x.flip(2)))
    model.scalar = torch.tensor(0.7, dtype=torch.float64)
    expected = by_autograd(model.eval(), bases.float(), range(N_TASKS))

    gradient = input_gradient(model, bases.float())

    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
