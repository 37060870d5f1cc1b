"""Every rule against brute force, at both ends of the sequence and in the middle."""

from __future__ import annotations

import warnings
from collections import namedtuple

import numpy as np
import pytest
import torch
from conftest import ready
from torch import Tensor, nn
from torch.nn import functional as F

from tism import depths, ism, layerwise_tism
from tism.engine.replay import WindowedModel
from tism.predictor import evaluating

LENGTH = 24


def draw_sequences() -> Tensor:
    """(3, 4, LENGTH) float64; an N at the second position of the first sequence."""
    generator = torch.Generator().manual_seed(5)
    index = torch.randint(4, (3, LENGTH), generator=generator)
    one_hot = F.one_hot(index, 4).transpose(1, 2).double().contiguous()
    one_hot[0, :, 1] = 0
    return one_hot


def numbers(*shape: int) -> Tensor:
    """Fixed float64 numbers between -1 and 1."""
    return torch.linspace(1, 50, int(np.prod(shape)), dtype=torch.float64).sin().view(shape)


class Apply(nn.Module):
    """A convolution, a function of its output, and sums in which every number has its weight."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.function = nn.Conv1d(4, 4, 3, padding=1), function

    def forward(self, x: Tensor, *args: Tensor) -> Tensor:
        parts = self.function(self.conv(x), *args)
        parts = [parts] if isinstance(parts, Tensor) else parts
        parts = [part.reshape(len(x), -1).double() for part in parts]
        return sum(torch.matmul(part, numbers(part.shape[1], 2)) for part in parts)


def check(function, args: tuple = (), mixed: str | None = None) -> None:
    """Compare windows with brute force; `mixed` is the first function that gets whole tensors."""
    model, sequences = ready(Apply(function)), draw_sequences()
    full = ism(model, sequences, args=args, engine="full")
    assert full.abs().max() > 1e-3
    for n in (3, 1):
        some = [arg[:n] for arg in args]
        windowed = ism(model, sequences[:n], args=some, engine="windowed")
        assert (windowed - full[:n]).abs().max() <= 1e-10 * full.abs().max()
    with evaluating(model, args=args, n=3) as predict, torch.no_grad():
        windows = WindowedModel(predict, sequences, {})
        windows.effects(np.array([0, 2]), np.array([0, LENGTH - 1]), np.array([1, 2]))
    assert (windows.replay.mixed or [None])[0] == mixed


def masked(x: Tensor, value: float) -> Tensor:
    return x.masked_fill(x.mean(1, keepdim=True) < 0, value)


def convolved(x: Tensor) -> Tensor:
    return F.conv1d(x, numbers(4, 4, 3), padding=1)


Pair = namedtuple("Pair", "first second")
MASK = torch.arange(LENGTH) % 3 == 0
C4, C3 = numbers(1, 2, LENGTH), numbers(2, LENGTH)
FOLLOWED = {
    # no feature axis
    "channel": lambda x: x[:, 0],
    "channel softmax over pairs": lambda x: x[:, 1].view(-1, LENGTH // 2, 2).softmax(-1),
    "channel elementwise": lambda x: F.softplus(x[:, 0] * x[:, 1] + C3[0]),
    "channel sum": lambda x: x[:, 0].sum(1, keepdim=True) + x[:, 2].mean(-1, keepdim=True),
    "channel sum by name": lambda x: x[:, 0].sum(dim=1, keepdim=True),
    "channel back": lambda x: F.max_pool1d(x[:, 2].unsqueeze(1), 3),
    "channel slice": lambda x: x[:, 3, 2:-3],
    "channel linear": lambda x: F.linear(x[:, 3], numbers(5, LENGTH)),
    "channel pad": lambda x: F.pad(x[:, 3], (2, 1)),
    "channel flip": lambda x: x[:, 3].flip(1),
    "channel stack": lambda x: torch.stack([x[:, 0], x[:, 3]], 2),
    "channel zeros": lambda x: x[:, 0].new_zeros(len(x), LENGTH) + x[:, 0],
    "channel zeros_like": lambda x: torch.zeros_like(x[:, 0]) + x[:, 0],
    "channel ones_like": lambda x: torch.ones_like(x[:, 0]) * x[:, 0],
    "channel full_like": lambda x: torch.full_like(x[:, 1], 2.5) * x[:, 0],
    "channel where": lambda x: torch.where(MASK, x[:, 0], x[:, 1]),
    "channel argmax": lambda x: F.embedding(x.argmax(1), numbers(4, 3)),
    "tokens": lambda x: F.conv1d(F.embedding(x.argmax(1), numbers(4, 6)).mT, numbers(3, 6, 3)),
    "channel one hot": lambda x: F.one_hot(x.argmax(1)),
    "channel one": lambda x: x[:, :1].squeeze(1) + x[:, 1:2].squeeze(dim=1),
    "channel last": lambda x: x.mT[:, :, :1].squeeze(2),
    "channel assigned": lambda x: assigned(x[:, 0].clone(), (slice(None), slice(3, 9)), 2.0),
    "one place": lambda x: x[:, 1:, -2],
    "one place of a channel": lambda x: x[:, 1, 4:5],
    # reverse complement
    "flip list": lambda x: x.flip([1, 2]) + x,
    "flip numbers": lambda x: x.flip(-1, 1),
    "flip dims": lambda x: torch.flip(x, dims=(-1, -2)),
    "flip input": lambda x: torch.flip(input=x, dims=[2]),
    "fliplr": lambda x: torch.fliplr(x),
    "flip index": lambda x: x[:, [3, 2, 1, 0]].flip(dims=[-1]),
    # constants
    "cat constant channel": lambda x: torch.cat([x, torch.ones(len(x), 1, LENGTH).double()], 1),
    "cat constant row": lambda x: torch.cat([C4.expand(len(x), -1, -1), x], dim=1),
    "cat constant ends": lambda x: torch.cat([x.new_zeros(len(x), 4, 3), x, x[:, :, :2]], dim=-1),
    "cat of true and false": lambda x: torch.cat([x > 0, x.flip(2) > 0.1], 2).sum(2),
    "cat of both strands": lambda x: (
        F.linear(F.max_pool1d(torch.cat([x, x.flip(1, 2)]), 2).flatten(1), numbers(3, 2 * LENGTH))
        .view(2, len(x), 3)
        .amax(0)
    ),
    "cat of a named tuple": lambda x: torch.cat(Pair(x[:, :1], x[:, 2:].exp()), 1),
    "cat twice": lambda x: torch.cat((x, x.flip(2)), axis=2),
    "pad": lambda x: F.pad(x, (2, 3), value=0.5),
    "pad channels": lambda x: F.pad(x, (0, 0, 0, 1), value=1),
    "pad both": lambda x: F.pad(input=x, pad=(-2, 3, 1, 1), mode="constant", value=1),
    "pad reflect": lambda x: F.pad(x, (3, 4), "reflect"),
    "pad circular": lambda x: F.pad(x, (3, 4), "circular"),
    "pad replicate": lambda x: F.pad(x, (3, 4), mode="replicate"),
    "where mask": lambda x: torch.where(condition=MASK, input=x, other=x.flip(2)),
    "where of windows": lambda x: torch.where(x > 0, x, -1.0),
    "masked_fill": lambda x: x.masked_fill(MASK, -2.0).masked_fill(mask=MASK[None], value=3.0),
    "masked_fill in place": lambda x: x.masked_fill_(MASK[None, None], -2.0),
    "masked by a window": lambda x: (masked(x, -torch.inf) + convolved(x)).exp(),
    "masked by a large number": lambda x: (convolved(x) - masked(-x, 1e30)).exp(),
    "masked and joined": lambda x: torch.cat([masked(x, -1e30), convolved(x)], 2).exp(),
    "masked and repeated": lambda x: masked(x, -torch.inf).repeat_interleave(2, 2).exp(),
    "masked and assigned": lambda x: assigned(
        x.new_full((len(x), 4, LENGTH), -torch.inf),
        (slice(None), slice(None), slice(3, 9)),
        x[:, :, 3:9],
    ).exp(),
    "true and false assigned": lambda x: assigned(x > 0, (slice(None), 1, slice(3, 9)), True),
    "sum of two types": lambda x: (9 * x).long() + x + (x - (9 * x).float()),
    "small numbers": lambda x: (x > 0).to(torch.uint8).sum(2) + (x > 0.1).to(torch.int8).sum(2),
    "mask of windows": lambda x: x * (x.sum(1, keepdim=True) > 0),
    "ones of rows": lambda x: x * torch.arange(1.0, LENGTH + 1).expand(len(x), 1, -1),
    "expand_as": lambda x: x * MASK[None, None].expand_as(x),
    "types": lambda x: x.type(torch.float64).cpu() * 2,
    "type_as": lambda x: x + torch.arange(LENGTH).type_as(x) + torch.arange(LENGTH).to(x),
    "expand": lambda x: x[:, :1].expand(-1, 3, -1) * x[:, 1:],
    # in place
    "iadd whole": lambda x: iadd(torch.zeros(len(x), 4, LENGTH).double(), x),
    "iadd zeros_like": lambda x: iadd(torch.zeros_like(x), x),
    "iadd slice": lambda x: iadd_slice(x.new_zeros(len(x), 4, LENGTH + 6), x, slice(2, LENGTH + 2)),
    "iadd slice of window": lambda x: iadd_slice(x + 1, x[:, :, :5], slice(-5, None)),
    "iadd alias": lambda x: iadd_alias(x, torch.zeros(len(x), 4, LENGTH).double()),
    "assign": lambda x: assigned(x, (slice(None), slice(None), 3), 0),
    "assign channels": lambda x: assigned(x.clone(), (slice(None), slice(1, 3)), x[:, 2:]),
    "assign columns": lambda x: assigned(
        x.clone(), (slice(None), [2, 0], slice(4, 9)), x[:, 2:, 3:8]
    ),
    "assign in turn": lambda x: filled_in_turn(x),
    "constant filled by its views": lambda x: x * filled_by_views(),
    "dropout in place": lambda x: F.dropout(x, 0.5, False, True).exp(),
    "halves in place": lambda x: multiplied(*x.chunk(2, 1)),
    "relu of view": lambda x: F.relu(x.view(len(x), 2, 2, LENGTH), inplace=True),
    # attention pooling
    "conv2d 1x1": lambda x: F.conv2d(x.reshape(len(x), 4, -1, 2), numbers(3, 4, 1, 1)),
    "conv2d along": lambda x: F.conv2d(
        x.reshape(len(x), 4, -1, 2), numbers(6, 2, 3, 1), groups=2, stride=(2, 1), padding=(1, 0)
    ),
    "attention pooling": lambda x: attention_pooling(x),
    # convolutions and pooling
    "conv1d by name": lambda x: F.conv1d(input=x, weight=numbers(2, 4, 3), padding="same"),
    "conv_transpose1d": lambda x: F.conv_transpose1d(x, numbers(4, 3, 4), stride=2, padding=1),
    "conv_transpose1d more": lambda x: F.conv_transpose1d(
        input=x, weight=numbers(4, 2, 3), stride=3, output_padding=2, groups=2, dilation=2
    ),
    "max_pool1d by name": lambda x: F.max_pool1d(input=x, kernel_size=3, stride=2, padding=1),
    "avg_pool1d by name": lambda x: F.avg_pool1d(input=x, kernel_size=(3,), padding=1),
    "adaptive_avg": lambda x: F.adaptive_avg_pool1d(x, 6),
    "adaptive_max": lambda x: F.adaptive_max_pool1d(x, 8),
    "adaptive_avg 2d": lambda x: F.adaptive_avg_pool2d(x.view(len(x), 2, 2, -1), (2, 8)),
    "mean of all": lambda x: F.adaptive_avg_pool1d(x, 1) + F.avg_pool1d(x, LENGTH),
    "mean of all 2d": lambda x: F.adaptive_avg_pool2d(x.view(len(x), 2, 2, -1), 1),
    "largest": lambda x: F.adaptive_max_pool1d(x, 1) + F.max_pool1d(x.relu(), x.shape[2]),
    "largest 2d": lambda x: F.adaptive_max_pool2d(x.view(len(x), 4, 1, -1), 1),
    "largest by max": lambda x: x.max(dim=-1)[0] + x.relu().max(2, keepdim=True).values[..., 0],
    "largest by amax": lambda x: torch.amax(input=x, dim=(2,)) + x[:, 0].amax(1, keepdim=True),
    "repeat": lambda x: x.repeat(1, 3, 1) + torch.tile(input=x, dims=(1, 3, 1)),
    "repeat along": lambda x: x.repeat(1, 1, 2).tanh() + torch.tile(x, dims=(2,)),
    "nearest": lambda x: F.interpolate(x, scale_factor=3),
    "upsample": lambda x: nn.Upsample(scale_factor=2, mode="nearest")(x),
    "linear": lambda x: F.interpolate(x, scale_factor=2, mode="linear"),
    "linear to the corners": lambda x: F.interpolate(x, 70, mode="linear", align_corners=True),
    "linear down": lambda x: F.interpolate(x, size=7, mode="linear"),
    "nearest down": lambda x: F.interpolate(x, size=10, mode="nearest-exact"),
    "repeat_interleave": lambda x: x.repeat_interleave(3, dim=2),
    "repeat_interleave channels": lambda x: x.unsqueeze(1).repeat_interleave(3, 1).flatten(1, 2),
    "unfold": lambda x: x.unfold(2, 5, 1) * numbers(5),
    "unfold in steps": lambda x: x.mT.unfold(dimension=1, size=4, step=3).amax(-1),
    # slices and pieces
    "narrow": lambda x: x.narrow(2, 3, 9),
    "narrow by name": lambda x: torch.narrow(input=x, dim=1, start=1, length=2),
    "select": lambda x: x.select(1, 2) + x.select(dim=1, index=-1),
    "index_select": lambda x: x.index_select(1, torch.tensor([3, 1])),
    "index along": lambda x: x[:, :, torch.tensor([5, 3, 3, 20])],
    "masked columns": lambda x: x[:, :, MASK],
    "index both": lambda x: x[:, 1:3, 4:-4],
    "step": lambda x: x[:, :, 1::3],
    "tensor_split": lambda x: torch.tensor_split(x, 5, dim=2),
    "tensor_split channels": lambda x: torch.tensor_split(x, (1, 2), dim=1),
    "split": lambda x: x.split([5, 7, 12], -1),
    "chunk": lambda x: torch.chunk(input=x, chunks=2, dim=1),
    "unbind": lambda x: torch.unbind(x, 1),
    # other spellings
    "softmax by name": lambda x: torch.softmax(input=x, dim=1) + F.softmax(x, 1) + x.softmax(dim=1),
    "amax axis": lambda x: torch.amax(x, axis=1, keepdims=True),
    "max of two": lambda x: torch.maximum(input=x, other=x.flip(1)) + torch.max(x, other=-x),
    "add by name": lambda x: torch.add(input=x, other=x, alpha=2) + torch.sub(x, other=x.flip(2)),
    "sum by name": lambda x: (
        torch.sum(input=x, dim=(1, 2), keepdim=True) + torch.mean(x, axis=-1)[:, :1, None]
    ),
    "permute by name": lambda x: torch.permute(input=x, dims=(0, 2, 1)).transpose(dim0=1, dim1=2),
    "layer_norm": lambda x: F.layer_norm(input=x.mT, normalized_shape=(4,), weight=numbers(4)),
    "linear by name": lambda x: F.linear(input=x.mT, weight=numbers(3, 4)),
    "linear of all": lambda x: (
        F.linear(x.flatten(1), numbers(3, 4 * LENGTH)) + x.flatten(1).sum(1, True)
    ),
    "matmul": lambda x: x.mT @ numbers(4, 2),
    "matrix before the features": lambda x: numbers(3, 4) @ x + torch.matmul(numbers(3, 4), x),
    "einsum": lambda x: torch.einsum("ncl,dc->nld", x, numbers(3, 4)),
    "einsum of windows": lambda x: torch.einsum("b l c, b l d, d -> b c l", x.mT, x.mT, C3[0][:4]),
    "einsum of a window twice": lambda x: torch.einsum("ncl,ncl->nl", [x, x]),
    "prelu": lambda x: F.prelu(x, numbers(4)),
    "norm": lambda x: x.norm(dim=1) + torch.norm(x, 2, 1),
    "smallest": lambda x: x.amin(2) + x.flip(1).min(dim=2).values,
    "normalize": lambda x: F.normalize(x, dim=1) + F.normalize(x, 2.0, 1),
    "cumsum of channels": lambda x: x.cumsum(1),
    "gelu by name": lambda x: F.gelu(input=x, approximate="tanh"),
    "unflatten back": lambda x: x.flatten(1).relu().view(len(x), 4, -1).sum(2),
    "batch norm by torch": lambda x: torch.batch_norm(
        x, C4[0, 0, :4], C4[0, 1, :4], C4[0, 0, 4:8], C4[0, 0, 8:12].exp(), False, 0.1, 1e-3, False
    ),
    "slice of an exported model": lambda x: (
        torch.ops.aten.slice.Tensor(x, 2, -9, 2**63 - 1) * torch.ops.aten.slice(x, 2, 0, 9)
        + torch.ops.aten.slice(x, 0, 0, 2**63 - 1)[:, :, :9]
    ),
    "curves": lambda x: (x.cosh().log() + x.sinh().asinh() + torch.exp2(x)).erfc(),
    "rounded to a grid": lambda x: torch.fake_quantize_per_tensor_affine(x.float(), 0.1, 0, -9, 9),
    "moments": lambda x: torch.stack(torch.var_mean(x, 1) + torch.std_mean(x, [1]), 1),
    "order": lambda x: x.topk(2, 1).values + x.sort(1)[0][:, 1:3] + x.mT.median(-1)[0][:, None],
    "linalg": lambda x: torch.linalg.norm(x, dim=1) + torch.linalg.vector_norm(x, 3, 1),
    "a check": lambda x: x * 2 if (x < 9).all() else x.cumsum(2),
    "blocks put together": lambda x: x.view(len(x), 4, -1, 3).softmax(-1).flatten(2),
    "blocks of tokens": lambda x: (x.mT.reshape(len(x), -1, 3, 4) ** 2).reshape(len(x), LENGTH, 4),
    "repeated by expansion": lambda x: x[..., None].expand(-1, -1, -1, 3).reshape(len(x), 4, -1),
    "channels become columns": lambda x: (
        x.view(len(x), 2, 2, LENGTH).transpose(2, 3).reshape(len(x), 2, -1)
    ),
    "glu": lambda x: F.glu(x, 1) + F.glu(input=x, dim=-2),
}


def assigned(y: Tensor, item, value) -> Tensor:
    y[item] = value
    return y


def iadd(y: Tensor, x: Tensor) -> Tensor:
    y += x
    return y


def iadd_alias(x: Tensor, y: Tensor) -> Tensor:
    z = y
    z.add_(x).mul_(2)
    return y


def iadd_slice(y: Tensor, x: Tensor | int, along: slice | int) -> Tensor:
    y[:, :, along] += x
    return y * 2


def filled_in_turn(x: Tensor) -> Tensor:
    y = torch.empty(len(x), 4, LENGTH + 2, dtype=x.dtype)
    y[..., :LENGTH] = x
    y[:, :2, LENGTH:] = 1
    y[:, 2:, LENGTH:] = x[:, :2, -2:]
    return y


def filled_by_views() -> Tensor:
    y = torch.zeros(4, LENGTH).double()
    y[0].fill_(2)
    y[1:3].copy_(C3)
    return y


def multiplied(x: Tensor, y: Tensor) -> Tensor:
    return x.sigmoid_() * y


def attention_pooling(x: Tensor) -> Tensor:
    x = x.reshape(len(x), 4, LENGTH // 2, 2)
    return (x * F.conv2d(x, numbers(4, 4, 1, 1)).softmax(dim=-1)).sum(dim=-1)


@pytest.mark.parametrize("name", FOLLOWED)
def test_windows_stay_windows(name):
    check(FOLLOWED[name])


class Doubled(torch.autograd.Function):
    """Twice the input, as a custom function."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return slope * 2


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    scripted = torch.jit.trace(lambda x: torch.tanh(x) * 2, torch.zeros(1, 4, LENGTH).double())


MIXED = {
    "softmax": (lambda x: x.softmax(2), "softmax"),
    "channel softmax": (lambda x: x[:, 0].softmax(1), "softmax"),
    "cumsum": (lambda x: x.cumsum(2) + x, "cumsum"),
    "einsum": (lambda x: torch.einsum("ncl,ndl->ncd", x, x), "einsum"),
    "einsum of pairs": (lambda x: torch.einsum("ncl,ncm->nlm", x, x), "einsum"),
    "einsum along the sequence": (
        lambda x: torch.einsum("ncl,lm->ncm", x, numbers(LENGTH, 3)),
        "einsum",
    ),
    "unfold of an image": (lambda x: F.unfold(x[:, None], (2, 3), 1, 1), "unfold"),
    "positions as rows": (
        lambda x: F.linear(x.mT.reshape(-1, 4), numbers(3, 4)).view(len(x), LENGTH, 3),
        "reshape",
    ),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x.mT, x.mT, x.mT),
        "scaled_dot_product_attention",
    ),
    "vmap": (lambda x: torch.vmap(lambda row: row.tanh() * numbers(4, LENGTH))(x), "tanh"),
    "vmap of channels": (lambda x: torch.vmap(torch.exp, in_dims=1, out_dims=1)(x) + x, "exp"),
    "vmap of weights": (
        lambda x: torch.vmap(lambda w: F.conv1d(x, w), out_dims=1)(numbers(3, 2, 4, 3)),
        "conv1d",
    ),
    "functorch": (lambda x: torch.func.grad(lambda y: y.square().sum())(x), "slice"),
    "operator": (lambda x: torch.ops.aten.mul_.Tensor(torch.ops.aten.tanh.default(x), x), None),
    "scripted": (lambda x: scripted(x) + x, "tanh"),
    "places": (lambda x: x.gather(2, x.max(2, True).indices.expand(-1, -1, 2)), "gather"),
    "vmap in vmap": (lambda x: torch.vmap(torch.vmap(torch.sum))(x), "sum"),
    "own function": (lambda x: Doubled.apply(x) + x, None),
    "gate": (lambda x: x * torch.sigmoid(x.mean(2, keepdim=True)), "mul"),
    "in place on a whole tensor": (lambda x: iadd(x.softmax(2), x), "softmax"),
    "in place with a whole tensor": (lambda x: iadd(x, x.softmax(2)), "softmax"),
    "assign a whole tensor": (
        lambda x: assigned(x, (slice(None), 0), x[:, 1].softmax(1)) * 2,
        "softmax",
    ),
    "add to a column": (lambda x: iadd_slice(x, 1, 3), "setitem"),
    "repeated rows": (
        lambda x: x[:, :, :2].repeat_interleave(2, 0).view(-1, 2, 4, 2).sum(1),
        "repeat_interleave",
    ),
    "numpy": (lambda x: torch.from_numpy(x.numpy() + 1) + x, "numpy"),
    "out": (lambda x: torch.add(x, x, out=torch.zeros_like(x)), "add"),
    "recurrent and back": (
        lambda x: torch.tanh(x.permute(2, 0, 1).cumsum(0)).permute(1, 2, 0) + x,
        "permute",
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_no_rule_follows_gets_whole_tensors(name):
    function, mixed = MIXED[name]
    check(function, mixed=mixed)


TRACK, SPECIES = numbers(3, 2, LENGTH), torch.tensor([2, 0, 1])
WITH_ARGS = {
    "tracks": (lambda x, track: torch.cat([x, track], 1), [TRACK]),
    "one track for all": (
        lambda x, track: torch.cat([x, track.expand(len(x), -1, -1)], 1),
        [TRACK[:1]],
    ),
    "track added": (lambda x, track: x[:, :2] * torch.tanh(track).flip(-1), [TRACK]),
    "mask": (lambda x, track: x.masked_fill(track[:, :1] > 0, 0.5), [TRACK]),
    "where": (lambda x, track: torch.where(track[:, 1] > 0, x[:, 0], x[:, 1]), [TRACK]),
    "species": (
        lambda x, species: x * F.embedding(species, numbers(3, 4))[..., None],
        [SPECIES],
    ),
    "iadd": (lambda x, track: iadd(track.clone(), x[:, :2]), [TRACK]),
}


@pytest.mark.parametrize("name", WITH_ARGS)
def test_constants_that_have_a_value_for_each_row(name):
    function, args = WITH_ARGS[name]
    check(function, args)


def changed_view(x: Tensor) -> Tensor:
    part = x[:, :, 3:9]
    part += 1
    return x * 2


def changed_column(x: Tensor) -> Tensor:
    column = x[:, :, 3]
    column += 1
    return x * 2


def changed_view_of_a_constant(x: Tensor) -> Tensor:
    y = x.new_zeros(x.shape)
    y[:, :2].add_(x[:, 2:])
    return y + x


def changed_shape(x: Tensor) -> Tensor:
    x.unsqueeze_(1)
    return x


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    hidden = torch.jit.trace(lambda x: x.mul_(2), torch.zeros(1, 4, LENGTH).double())

UNTRACEABLE = {
    "view": (
        changed_view,
        r"mul \(call 3\): it reads a tensor after a view of its memory was changed",
    ),
    "view of a constant": (
        changed_view_of_a_constant,
        r"add \(call 5\): it reads a tensor after a view of its memory was changed",
    ),
    "shape": (changed_shape, r"unsqueeze_ \(call 1\): it changes the shape of a tensor in place"),
    "hidden": (
        lambda x: hidden(x),
        r"conv1d \(call 0\): .*TorchScript",
    ),
}


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_changes_in_place_that_would_be_missed(name):
    function, message = UNTRACEABLE[name]
    with pytest.raises(ValueError, match=message):
        ism(ready(Apply(function)), draw_sequences(), engine="windowed")
    model = ready(Apply(function))
    assert torch.equal(ism(model, draw_sequences()), ism(model, draw_sequences(), engine="full"))


MOTIF = F.one_hot(torch.tensor([[1, 2, 1]]), 4).mT.double()  # CGC


class Rare(Apply):
    """A function of a convolution's output and of (n, 1, LENGTH), true in the middle of a motif."""

    def forward(self, x: Tensor) -> Tensor:
        found = F.conv1d(x, MOTIF.to(x), padding=1) > 2.5
        part = self.function(self.conv(x), found).reshape(len(x), -1).double()
        return part.sin() @ numbers(part.shape[1], 2)


def sequences_with_a_motif() -> Tensor:
    """As `draw_sequences`; the first has no motif in reach of a substitution, the others have."""
    one_hot = draw_sequences()
    one_hot[0] = F.one_hot(torch.tensor([0, 3] * LENGTH)[:LENGTH], 4).mT
    one_hot[1:, :, 6:9] = MOTIF
    return one_hot


def rarely(function) -> None:
    """Compare with brute force where what the function does is not seen in the trial."""
    model, sequences = ready(Rare(function)), sequences_with_a_motif()
    full = ism(model, sequences, engine="full")
    for batch_size in (None, 5):
        windowed = ism(model, sequences, engine="windowed", batch_size=batch_size)
        assert (windowed - full).abs().max() <= 1e-10 * full.abs().max()


def three_high(x: Tensor, *channels: Tensor) -> Tensor:
    return torch.stack([channel.expand_as(x) * x for channel in channels], 2)


ON_ANOTHER_AXIS = {
    "max_pool2d": lambda x, found: F.max_pool2d(
        three_high(x, 0 * found, found, 0 * found), (3, 1), 1, (1, 0)
    ),
    "avg_pool2d": lambda x, found: F.avg_pool2d(
        three_high(x, ~found, ~found, found), (3, LENGTH), (3, 1), (1, 0)
    ),
    "conv2d": lambda x, found: F.conv2d(
        three_high(x, found, found, found), numbers(2, 4, 3, 3), None, (3, 1), (1, 1)
    ),
}


@pytest.mark.parametrize("name", ON_ANOTHER_AXIS)
def test_settings_on_another_axis_than_the_sequence(name):
    rarely(ON_ANOTHER_AXIS[name])


LOST = {
    "conv1d": lambda x: F.conv1d(x, numbers(2, 4, 3), numbers(2), padding=2),
    "strided conv1d": lambda x: F.conv1d(x, numbers(2, 2, 3), None, 2, 1, 1, 2),
    "conv_transpose1d": lambda x: F.conv_transpose1d(x, numbers(4, 2, 3), stride=2),
    "avg_pool1d": lambda x: F.avg_pool1d(x, 3, 2, 1),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2, mode="linear"),
    "unfold": lambda x: x.unfold(2, 5, 1).sum(-1),
    "einsum": lambda x: torch.einsum("ncl,dc->nld", x, numbers(3, 4)),
    "linear": lambda x: F.linear(x.mT, numbers(3, 4), numbers(3)).mT,
    "linear of all": lambda x: F.linear(x.flatten(1), numbers(3, 4 * LENGTH)),
    "sum": lambda x: x.sum(2),
    "add": lambda x: x + convolved(x),
}


@pytest.mark.parametrize("extreme", [-1e30, torch.inf, torch.nan])
@pytest.mark.parametrize("name", LOST)
def test_values_that_are_lost_in_differences_from_an_extreme_reference(name, extreme):
    def function(x: Tensor, found: Tensor) -> Tensor:
        return LOST[name](x.masked_fill(found, extreme)).nan_to_num(0).clamp(-3, 3)

    rarely(function)


def switched(x: Tensor, rows) -> Tensor:
    """Nothing but these sequences, of which Python chose the numbers."""
    switch = torch.zeros(len(x), 1, 1).to(x)
    switch[rows] = 1
    return x * switch


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    hidden_transpose = torch.jit.trace(lambda x: x.any(2).mT, torch.ones(2, 1, LENGTH) > 0)

FROM_PYTHON = {
    "list": lambda x, found: x * torch.tensor(found.any(2).tolist())[..., None],
    "array": lambda x, found: x * torch.tensor(found.any(2).numpy())[..., None],
    "as_tensor": lambda x, found: x * torch.as_tensor(found.any(2).tolist())[..., None],
    "asarray": lambda x, found: x * torch.asarray(found.any(2).numpy())[..., None],
    "one row": lambda x, found: x * torch.tensor(found.any(2).flatten().tolist()).view(-1, 1, 1),
    "transposed": lambda x, found: x * torch.from_numpy(found.any(2).numpy().T).mT[..., None],
    "hidden": lambda x, found: x * hidden_transpose(found).mT[..., None],
    "true and false": lambda x, found: switched(x, torch.tensor(found.any(2)[:, 0].tolist())),
    "numbers": lambda x, found: switched(x, found.any(2)[:, 0].numpy().nonzero()[0]),
    "list of numbers": lambda x, found: switched(
        x, found.any(2)[:, 0].numpy().nonzero()[0].tolist()
    ),
}


@pytest.mark.parametrize("name", FROM_PYTHON)
def test_what_python_read_from_the_sequences(name):
    rarely(FROM_PYTHON[name])


def filled(x: Tensor, found: Tensor, *others: Tensor) -> list[Tensor]:
    """The other tensors, after the first has changed in place."""
    x.masked_fill_(found, 0.3)
    return others[0] if len(others) == 1 else torch.cat(others, 1)


def same_twice(x: Tensor, found: Tensor, again) -> Tensor:
    return filled(x, found, again(x))


def of_constant(x: Tensor, found: Tensor, part) -> Tensor:
    constant = torch.zeros(len(x), 4, LENGTH).to(x)
    return x * filled(constant[:, :3], found, part(constant))


def assigned_elsewhere(x: Tensor, found: Tensor, there: slice) -> Tensor:
    part = x[:, :, 4:10]
    return assigned(x, (..., there), filled(part, found[:, :, 4:10], part))


def assigned_after_another(x: Tensor, found: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    filled(first, found, second.mul_(2))
    return assigned(x, (slice(None), slice(2, 4)), second)


def both_halves(x: Tensor, found: Tensor) -> Tensor:
    first, second = x[:, :2], x[:, 2:]
    return filled(first, found, second.mul_(2), first)


def output_of_sum(x: Tensor, found: Tensor) -> Tensor:
    part = x[:, 1:]
    torch.add(x, found, out=x)
    return part


def data_set(x: Tensor, found: Tensor) -> Tensor:
    same = x
    x.data = x.masked_fill(found, 0.3)
    return same


def shifted_in_place(x: Tensor, found: Tensor) -> Tensor:
    bits = (x > 0).long() + 1
    same = bits
    bits <<= found.long()
    return x * same


def in_one_call(x: Tensor, found: Tensor) -> Tensor:
    second = 2 * x
    torch._foreach_add_([x, second], [found * 0.1, found * 0.2])
    return second


FILLED = {
    "dropout": lambda x, found: same_twice(x, found, lambda x: F.dropout(x, 0.5, False)),
    "double": lambda x, found: same_twice(x.double(), found, Tensor.double),
    "contiguous": lambda x, found: same_twice(x, found, Tensor.contiguous),
    "other half": lambda x, found: filled(x[:, :2], found, x[:, 2:]),
    "both halves": both_halves,
    "where it was": lambda x, found: assigned_elsewhere(x, found, slice(4, 10)),
    "data set": data_set,
    "shift": shifted_in_place,
}
HIDDEN = {
    "view": lambda x, found: filled(x, found, x[:, :, ::2]),
    "flat view": lambda x, found: filled(x, found, x.flatten(1)),
    "detached": lambda x, found: filled(x, found, x.detach()),
    "view of a view": lambda x, found: filled(x, found, x.unsqueeze(1)[:, 0, 1:]),
    "other view": lambda x, found: filled(x[:, :3], found, x[:, 1:]),
    "repeated view": lambda x, found: filled(x[:, :1], found, x[:, :1].expand(-1, 3, -1)),
    "output": output_of_sum,
    "view of a constant": lambda x, found: of_constant(x, found, lambda y: y[:, 1:, None][:, :1]),
    "data of a constant": lambda x, found: of_constant(x, found, lambda y: y.data),
    "assigned elsewhere": lambda x, found: assigned_elsewhere(x, found, slice(12, 18)),
    "assigned after another": assigned_after_another,
    "several": in_one_call,
}


@pytest.mark.parametrize("name", FILLED)
def test_changes_in_place_that_other_names_show(name):
    rarely(FILLED[name])


@pytest.mark.parametrize("name", HIDDEN)
def test_changes_in_place_that_another_name_would_miss(name):
    with pytest.raises(ValueError, match=r"changed in place|several tensors in place"):
        rarely(HIDDEN[name])


def test_an_output_that_is_changed_by_a_view():
    class Clamped(Apply):
        def forward(self, x: Tensor) -> Tensor:
            output = self.conv(x)[:, 0]
            output[:, 3:9].clamp_(max=2)
            return output

    with pytest.raises(ValueError, match="changed in place"):
        ism(ready(Clamped(None)), sequences_with_a_motif(), engine="windowed")


def test_expansion_at_a_layer_without_feature_axis():
    layers = nn.Conv1d(4, 1, 3, padding=1), nn.Flatten(), nn.Tanh(), nn.Linear(LENGTH, 2)
    model, sequences = ready(nn.Sequential(*layers)), draw_sequences()
    exact = ism(model, sequences, engine="full")
    assert depths(model, sequences)[-2] == "2"  # behind it the network is linear
    found = layerwise_tism(model, sequences, depth="2")
    assert (found - exact).abs().max() <= 1e-10 * exact.abs().max()
