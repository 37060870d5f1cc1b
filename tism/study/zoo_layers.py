"""Layers of the networks in the zoo; lazy ones count the channels of their first input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Any], Any]):
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


class Net(nn.Module):
    """Layers and parameters by name, and a function of this network and of its inputs."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module | nn.Parameter):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


class Residual(nn.Sequential):
    """The input plus what the layers make of it; the middle of the input if they shorten it."""

    def forward(self, x: Tensor) -> Tensor:
        change = super().forward(x)
        return (x if x.shape == change.shape else central(x, change.shape[-1])) + change


class Concatenated(nn.Sequential):
    """The input beside what the layers make of it, along the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, super().forward(x)], dim=1)


class Heads(nn.ModuleList):
    """A list of what each of several layers makes of the same input."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [head(x) for head in self]


class BiLSTM(nn.LSTM):
    """A bidirectional LSTM, (n, length, channels) to (n, length, 2 hidden)."""

    def __init__(self, channels: int, hidden: int):
        super().__init__(channels, hidden, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0]


def chain(*layers: nn.Module | Callable[[Any], Any]) -> nn.Sequential:
    """Modules and plain functions, one after another."""
    return nn.Sequential(*(f if isinstance(f, nn.Module) else Apply(f) for f in layers))


def conv(width: int, kernel: int, **settings: Any) -> nn.Module:
    """A convolution, padded to keep the length unless the settings say otherwise."""
    if kernel % 2 or "padding" in settings:
        return nn.LazyConv1d(width, kernel, **{"padding": "same", **settings})
    pad = nn.ConstantPad1d(((kernel - 1) // 2, kernel // 2), 0.0)  # as Keras pads even kernels
    return chain(pad, nn.LazyConv1d(width, kernel, **settings))


def conv_norm(
    width: int, kernel: int, activation: Callable = F.relu, pool: int = 1, **settings: Any
) -> nn.Module:
    """Convolution, batch norm, activation and max pooling."""
    pooling = [nn.MaxPool1d(pool)] * (pool > 1)
    return chain(conv(width, kernel, **settings), nn.LazyBatchNorm1d(), activation, *pooling)


def norm_conv(width: int, kernel: int, activation: Callable = F.gelu, **settings: Any) -> nn.Module:
    """Batch norm, activation and convolution."""
    return chain(nn.LazyBatchNorm1d(), activation, conv(width, kernel, **settings))


def dense(width: int, dropout: float = 0.0, norm: bool = False) -> nn.Module:
    """Fully connected layer, batch norm if `norm`, ReLU and dropout."""
    norms = [nn.LazyBatchNorm1d()] * norm
    return chain(nn.LazyLinear(width), *norms, nn.ReLU(), nn.Dropout(dropout))


def probabilities(tasks: int) -> nn.Module:
    """The last layer of a classifier."""
    return chain(nn.LazyLinear(tasks), nn.Sigmoid())


def beside(parts: list[Tensor]) -> Tensor:
    """Several tensors as one, along the channels."""
    return torch.cat(parts, dim=1)


def swap(x: Tensor) -> Tensor:
    """(n, channels, length) to (n, length, channels), and back."""
    return x.transpose(1, 2)


def central(x: Tensor, size: int) -> Tensor:
    """The `size` positions in the middle of the last axis."""
    start = (x.shape[-1] - size) // 2
    return x[..., start : start + size]


def cropped(share: float) -> Callable[[Tensor], Tensor]:
    """A layer that leaves out a share of the positions at either end."""
    return lambda x: central(x, x.shape[-1] - 2 * int(share * x.shape[-1]))


def middle(x: Tensor) -> Tensor:
    """(n, tracks) at the position in the middle, from (n, tracks, length)."""
    return x[:, :, x.shape[2] // 2]


def middle_bin(x: Tensor) -> Tensor:
    """(n, tracks) of the bin in the middle, from (n, bins, tracks)."""
    return x[:, x.shape[1] // 2]


def halvings(length: int, most: int, left: int) -> int:
    """How often a length can be halved, `most` times or less, until `left` positions are left."""
    return max(1, min(most, int(math.log2(length / left))))


class GroupedLinear(nn.Module):
    """A linear layer of its own for each group: (n, groups, inner) to (n, groups, outer)."""

    def __init__(self, groups: int, inner: int, outer: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(groups, inner, outer) * (2 / inner) ** 0.5)
        self.bias = nn.Parameter(0.1 * torch.randn(groups, 1, outer))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight).transpose(0, 1)


def fast_gelu(x: Tensor) -> Tensor:
    """GELU as Basenji and its successors compute it."""
    return torch.sigmoid(1.702 * x) * x


class BothStrandsKernels(nn.Module):
    """Kernels and their reverse complements: the second half of the channels mirrors the first."""

    def __init__(self, channels: int, width: int, kernel: int):
        super().__init__()
        scale = (channels * kernel / 2) ** -0.5
        self.kernel = nn.Parameter(scale * torch.randn(width, channels, kernel))
        self.bias = nn.Parameter(0.1 * torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat([self.kernel, self.kernel.flip(0, 1, 2)])
        return F.conv1d(x, weight, torch.cat([self.bias, self.bias.flip(0)]), padding="same")


def with_flags(x: Tensor) -> Tensor:
    """Two more channels, the same at all positions: is it reversed, was it read only once."""
    flags = torch.zeros_like(x[:, :2])
    flags[:, 1] = 1
    return torch.cat([x, flags], dim=1)


def bins_of_expression() -> nn.Module:
    """Means over all positions to the probabilities of 18 bins, and the expected bin."""

    def forward(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.adaptive_avg_pool1d(net.map(x), 1).squeeze(2).softmax(dim=1)
        return x, (x * torch.arange(18, device=x.device)).sum(dim=1)

    return Net(forward, map=conv(18, 1))


def efficient_block(width: int, kernel: int) -> nn.Module:
    """Expansion, grouped convolution, squeeze-and-excitation, projection; beside the input."""
    wide = 4 * width
    gate = chain(nn.Linear(wide, width), nn.SiLU(), nn.Linear(width, wide), nn.Sigmoid())
    squeeze = Net(lambda net, x: x * net.gate(x.mean(dim=2)).unsqueeze(2), gate=gate)
    grouped = conv_norm(wide, kernel, F.silu, groups=wide // 2)
    return Concatenated(conv_norm(wide, 1, F.silu), grouped, squeeze, conv_norm(width, 1, F.silu))


def legnet_blocks(width: int, depth: int) -> nn.Module:
    """Efficient blocks, each followed by a convolution that mixes its input and output."""
    return chain(*(f(width, 7) for _ in range(depth) for f in (efficient_block, conv_norm)))


def two_kernels(width: int) -> nn.Module:
    """Convolutions of 9 and of 15 bases beside each other, with dropout."""
    sides = (chain(conv(width, k), nn.ReLU(), nn.Dropout(0.2)) for k in (9, 15))
    return chain(Heads(sides), beside)


def dilated(width: int, depth: int, **settings: Any) -> nn.Module:
    """Residual layers whose dilation doubles from 2 on."""
    layers = (conv(width, 3, dilation=2**i, **settings) for i in range(1, depth + 1))
    return chain(*(Residual(layer, nn.ReLU()) for layer in layers))


class RelativeAttention(nn.Module):
    """Attention whose scores see how far apart two bins are, by central masks (Enformer)."""

    def __init__(self, width: int, heads: int = 2, masks: int = 6):
        super().__init__()
        self.heads, self.masks = heads, masks
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.distance = nn.Linear(2 * masks, width, bias=False)
        self.biases = nn.Parameter(0.3 * torch.randn(2, heads, 1, width // heads))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self._by_head(f(x)) for f in (self.query, self.key, self.value))
        query, bins = query * query.shape[-1] ** -0.5, x.shape[1]
        apart = torch.arange(1 - bins, bins, device=x.device)[:, None]
        masks = apart.abs() < 2 ** torch.arange(1, self.masks + 1, device=x.device)
        masks = torch.cat([masks, masks * apart.sign()], dim=1).to(x.dtype)
        distance = self._by_head(self.distance(masks)[None])  # (1, heads, 2 bins - 1, features)
        near = self._by_pair((query + self.biases[1]) @ distance.mT)
        scores = (query + self.biases[0]) @ key.mT + near
        return self.out((scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2))

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _by_pair(self, scores: Tensor) -> Tensor:
        """Scores of all distances, (n, heads, bins, 2 bins - 1), to those of pairs of bins."""
        n, heads, bins, distances = scores.shape
        scores = F.pad(scores, (1, 0)).view(n, heads, distances + 1, bins)
        return scores[:, :, 1:].reshape(n, heads, bins, distances)[..., :bins]


def transformer(width: int, layers: int) -> nn.Module:
    """Layers of relative attention and of two dense layers, each after a layer norm."""
    blocks: list[nn.Module] = []
    for _ in range(layers):
        blocks += [Residual(nn.LayerNorm(width), RelativeAttention(width), nn.Dropout(0.4))]
        wide = chain(nn.Linear(width, 2 * width), nn.Dropout(0.4), nn.ReLU())
        blocks += [Residual(nn.LayerNorm(width), wide, nn.Linear(2 * width, width))]
    return chain(swap, *blocks, swap)


class BaseTokens(nn.Module):
    """Embeddings of A, C, G, T and N as a product with the embedding matrix."""

    def __init__(self, width: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(5, width))

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([x, 1 - x.sum(dim=1, keepdim=True)], dim=1)
        return tokens.transpose(1, 2) @ self.embedding


class LongConvolution(nn.Module):
    """Gates around a convolution as long as the sequence, by Fourier transforms (Hyena)."""

    def __init__(self, width: int):
        super().__init__()
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.short = conv(3 * width, 3, padding=2, groups=3 * width)
        self.filter_in, self.filter_out = nn.Linear(5, 16), nn.Linear(16, width)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        mixed = self.short(self.project(x).transpose(1, 2))[..., :length]
        outer, inner, value = mixed.chunk(3, dim=1)
        spectrum = torch.fft.rfft(value * inner, n=2 * length)
        spectrum = spectrum * torch.fft.rfft(self._kernel(length, x), n=2 * length)
        x = torch.fft.irfft(spectrum, n=2 * length)[..., :length] * outer
        return self.out(x.transpose(1, 2))

    def _kernel(self, length: int, like: Tensor) -> Tensor:
        """(width, length) values of a filter that is itself a network, and decays."""
        time = torch.linspace(0, 1, length, device=like.device, dtype=like.dtype)[:, None]
        waves = [f(2 * math.pi * k * time) for k in (1, 2) for f in (torch.sin, torch.cos)]
        values = self.filter_out(torch.sin(self.filter_in(torch.cat([time, *waves], dim=1))))
        return (values * torch.exp(-4 * time)).T


class SelectiveScan(nn.Module):
    """A gated linear recurrence whose rates depend on the sequence (Mamba), by doubling."""

    def __init__(self, width: int, states: int = 2):
        super().__init__()
        self.enter, self.out = conv(2 * width, 1), conv(width, 1)
        self.short = conv(width, 4, padding=3, groups=width)
        self.rate, self.read_and_write = conv(width, 1), conv(2 * states, 1)
        self.decay = nn.Parameter(torch.rand(width, states, 1))

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.enter(x).chunk(2, dim=1)
        value = F.silu(self.short(value)[..., : x.shape[2]])
        rate = F.softplus(self.rate(value)).unsqueeze(2)  # (n, width, 1, length)
        read, write = self.read_and_write(value).unsqueeze(1).chunk(2, dim=2)
        kept, state = torch.exp(-rate * self.decay), rate * write * value.unsqueeze(2)
        step = 1
        while step < x.shape[2]:
            state = state + kept * F.pad(state[..., :-step], (step, 0))
            kept = kept * F.pad(kept[..., :-step], (step, 0), value=1.0)
            step *= 2
        return self.out(((state * read).sum(dim=2) + value) * F.silu(gate))


def basset_scan(width: int, padding: str | int = 0) -> nn.Module:
    """The convolutions of Basset, which Malinois has too."""
    sizes = ((3 * width, 19, 3), (2 * width, 11, 4), (2 * width, 7, 4))
    blocks = (conv_norm(w, kernel, F.relu, pool, padding=padding) for w, kernel, pool in sizes)
    return chain(*blocks, nn.Flatten())


def splice_trunk(length: int, width: int) -> tuple[nn.Module, int]:
    """Residual blocks whose skips add up, with the widest of four contexts that fits; and that."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        x = net.stem(x)
        total = net.skips[0](x)
        for group, skip in zip(net.groups, net.skips[1:], strict=True):
            x = group(x)
            total = total + skip(x)
        return total

    groups, context = nn.ModuleList(), 0
    for kernel, dilation in ((11, 1), (11, 4), (21, 10), (41, 25)):  # of four blocks each
        if context + 8 * dilation * (kernel - 1) < length:
            context += 8 * dilation * (kernel - 1)
            layers = [norm_conv(width, kernel, F.relu, dilation=dilation) for _ in range(8)]
            groups.append(chain(*(Residual(*layers[i : i + 2]) for i in range(0, 8, 2))))
    skips = nn.ModuleList(conv(width, 1) for _ in range(len(groups) + 1))
    return Net(forward, stem=conv(width, 1), groups=groups, skips=skips), context
