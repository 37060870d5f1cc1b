"""Small re-creations of published networks that predict from sequence, with random weights.

Each does what its authors' network does: the same layers in the same order, the same inputs and
outputs. It is narrower, has fewer tasks, and takes any length. The weights come from a seed and are
scaled so that substitutions change predictions by a fair share of their size. The engines are timed
on these networks; they are tested on these and those of tests/architectures.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tism.outputs import Head


@dataclass(frozen=True)
class Entry:
    """A published architecture.

    network : makes the module from a length; its docstring says what is peculiar
    citation : first author and year
    length, short : bases that the authors' network takes, and enough of them for a test
    output_fn : maps what the network returns to (n, tasks); None if it returns that itself
    shapes : shapes, without rows, of what the network takes beside the sequence, from its length
    """

    network: Callable[..., nn.Module]
    citation: str
    length: int
    short: int
    output_fn: Callable[[Any], Tensor] | None = None
    shapes: Callable[[int], list[tuple[int, ...]]] = lambda length: []

    def build(self, length: int | None = None, *, seed: int = 0, **settings: int) -> nn.Module:
        """The network in evaluation mode for a length, the authors' own if None.

        settings : such as `width`, the channels of most layers
        """
        length = length or self.length
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            model = self.network(length, **settings).eval()
            model(torch.zeros(1, 4, length), *self.inputs(length))  # lazy layers count channels
            n = min(max(2, 2**13 // length), 32)
            sequences = F.one_hot(torch.randint(4, (n, length)), 4).mT.float()
            more = [value.expand(n, *value.shape[1:]) for value in self.inputs(length)]
            _calibrate(model, sequences, *more)
        return model.eval()

    def inputs(self, length: int) -> tuple[Tensor, ...]:
        """What the network takes beside the sequence: one row of each, from 0 to 1."""
        draw = torch.Generator().manual_seed(0)
        return tuple(torch.rand(1, *shape, generator=draw) for shape in self.shapes(length))


ZOO: dict[str, Entry] = {}


def published(name: str, *facts: Any, **more: Any) -> Callable[[Callable], Callable]:
    """Enter what makes a network in the `ZOO`, with the facts that follow it in `Entry`."""

    def enter(network: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        ZOO[name] = Entry(network, *facts, **more)
        return network

    return enter


def _calibrate(model: nn.Module, *inputs: Tensor) -> None:
    """Give each layer's output mean 0 and variance 1, and batch norms these inputs' statistics."""

    def scale(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        if layer.bias is not None:
            channels = output.ndim - 1 if isinstance(layer, nn.Linear) else 1
            mean = output.mean([d for d in range(output.ndim) if d != channels], keepdim=True)
            layer.bias -= mean.flatten()
            output = output - mean
        deviation = output.std().clamp(min=1e-6)
        for parameter in layer.parameters():
            parameter /= deviation
        return output / deviation

    weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d
    hooks = [m.register_forward_hook(scale) for m in model.modules() if isinstance(m, weighted)]
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 0, 0.2)
    model.train()(*inputs)
    for hook in hooks:
        hook.remove()


# Layers; lazy ones count the channels of their first input


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


def fast_gelu(x: Tensor) -> Tensor:
    """GELU as Basenji and its successors compute it."""
    return torch.sigmoid(1.702 * x) * x


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


# Convolutions and dense layers


@published("DeepSEA", "Zhou 2015", 1000, 180)
def deepsea(length: int, width: int = 8) -> nn.Module:
    """Three convolutions without padding; probabilities of chromatin features."""
    pool = chain(nn.ReLU(), nn.MaxPool1d(4, 4), nn.Dropout(0.2))
    first, second, third = (conv(w, 8, padding=0) for w in (width, 3 * width // 2, 3 * width))
    scan = chain(first, pool, second, pool, third, nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
    return chain(scan, dense(3 * width), probabilities(6))


@published("DeepSTARR", "de Almeida 2022", 249, 64, beside)
def deepstarr(length: int, width: int = 6) -> nn.Module:
    """A list of two outputs: activity as a developmental and as a housekeeping enhancer."""
    sizes = ((4 * width, 7), (width, 3), (width, 5), (2 * width, 3))
    scan = chain(*(conv_norm(w, kernel, F.relu, 2) for w, kernel in sizes), nn.Flatten())
    hidden = [dense(4 * width, 0.4, norm=True) for _ in range(2)]
    return chain(scan, *hidden, Heads(nn.LazyLinear(1) for _ in range(2)))


@published("Xpresso", "Agarwal 2020", 10_500, 330, shapes=lambda length: [(8,)])
def xpresso(length: int, width: int = 8) -> nn.Module:
    """Max pooling by 30 and 10; eight features of the mRNA's half-life join the dense layers."""

    def forward(net: nn.Module, x: Tensor, half_life: Tensor) -> Tensor:
        return net.dense(torch.cat([net.scan(x), half_life], dim=1))

    scan = chain(conv(width, 6), nn.ReLU(), nn.MaxPool1d(30))
    scan = chain(scan, conv(width, 9), nn.ReLU(), nn.MaxPool1d(10), nn.Flatten())
    return Net(forward, scan=scan, dense=chain(dense(64), dense(2), nn.LazyLinear(1)))


# Profiles at the resolution of single bases


@published("BPNet", "Avsec 2021, Nat Genet", 2114, 200, Head(1), lambda length: [(2, length)])
def bpnet(length: int, width: int = 8) -> nn.Module:
    """Dilated residual layers; a profile and log counts, which see two control tracks as well."""

    def forward(net: nn.Module, x: Tensor, control: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = net.trunk(x)
        counts = x[:, :, near].mean(dim=2)
        if control is not None:
            total = torch.log(control[:, :, near].sum(dim=(1, 2)) + 1).unsqueeze(-1)
            x, counts = torch.cat([x, control], dim=1), torch.cat([counts, total], dim=-1)
        return net.profile(x)[:, :, trim:-trim], net.counts(counts)

    trim = length * 557 // 2114  # 2,114 bases to a profile of 1,000
    near = slice(trim - 37, 37 - trim)
    trunk = chain(conv(width, 21), nn.ReLU(), dilated(width, 8))
    return Net(forward, trunk=trunk, profile=conv(2, 75), counts=nn.LazyLinear(1))


@published(
    "ChromBPNet", "Pampari 2024", 2114, 200, lambda y: torch.cat([y[1], central(y[0], 4)], dim=1)
)
def chrombpnet(length: int, width: int = 8) -> nn.Module:
    """A bias network and a main one, unpadded: logits add up, counts by log-sum-exp."""

    def one(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        x = net.trunk(x)
        return central(net.profile(x).squeeze(1), out), net.counts(x.mean(dim=2))

    def both(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        (bias, bias_counts), (profile, counts) = net.bias(x), net.main(x)
        counts = torch.cat([counts, bias_counts], dim=-1)
        return profile + bias, torch.logsumexp(counts, dim=-1, keepdim=True)

    def network(width: int, depth: int) -> nn.Module:
        trunk = chain(conv(width, 21, padding=0), nn.ReLU(), dilated(width, depth, padding=0))
        return Net(one, trunk=trunk, profile=conv(1, 75, padding=0), counts=nn.LazyLinear(1))

    out = length * 1000 // 2114
    depth = max(d for d in range(9) if length - 94 - (2 ** (d + 2) - 4) >= out)
    return Net(both, bias=network(width // 2, min(depth, 4)), main=network(width, depth))


@published("SpliceAI", "Jaganathan 2019", 10_001, 411, middle)
def spliceai(length: int, width: int = 4) -> nn.Module:
    """Dilated residual blocks with summed skips; softmax over 3 classes where context is known."""
    trunk, context = splice_trunk(length, width)
    return chain(trunk, lambda x: central(x, length - context), conv(3, 1), nn.Softmax(dim=1))


# Long sequences in bins


@published("Basenji", "Kelley 2018", 131_072, 768, middle_bin)
def basenji(length: int, width: int = 8) -> nn.Module:
    """Poolings to bins of 128 bp, then dilated layers that see what all layers before them made."""
    tower = [conv_norm(width, kernel, F.relu, pool) for kernel, pool in ((15, 2), *[(5, 4)] * 3)]
    layers = (conv_norm(width // 2, 3, F.relu, dilation=2**i) for i in range(7))
    seeing_all = [Concatenated(layer, nn.Dropout(0.1)) for layer in layers]
    head = chain(conv_norm(2 * width, 1), swap, nn.LazyLinear(4), nn.Softplus())
    return chain(*tower, *seeing_all, head)


@published("Basenji2", "Kelley 2020", 131_072, 640, middle_bin)
def basenji2(length: int, width: int = 8) -> nn.Module:
    """GELU before each convolution, eleven dilated residual blocks, cropped ends."""

    def block(width: int, kernel: int, pool: int = 1, **settings: Any) -> nn.Module:
        return chain(
            fast_gelu, conv_norm(width, kernel, nn.MaxPool1d(pool), bias=False, **settings)
        )

    tower = [block(width, 5, 2) for _ in range(halvings(length, 7, 10) - 1)]
    rates = [round(1.5**i) for i in range(11)]
    narrow = (block(width // 2, 3, dilation=rate) for rate in rates)
    residual = [Residual(layer, block(width, 1), nn.Dropout(0.3)) for layer in narrow]
    head = chain(block(2 * width, 1), nn.Dropout(0.05), fast_gelu, swap)
    trunk = chain(block(width, 15, 2), *tower, *residual, cropped(1 / 16))
    return chain(trunk, head, nn.LazyLinear(4), nn.Softplus())


@published("Enformer", "Avsec 2021, Nat Methods", 196_608, 512, lambda y: middle_bin(y["human"]))
def enformer(length: int, width: int = 8, layers: int = 2) -> nn.Module:
    """Attention pooling, a transformer on bins, cropped ends; tracks of two species in a dict."""

    def pool(net: nn.Module, x: Tensor) -> Tensor:
        x = x.unflatten(2, (-1, 2))
        return (x * net.logits(x).softmax(dim=-1)).sum(dim=-1)

    tower: list[nn.Module] = [conv(width, 15)]
    for i in range(halvings(length, 7, 16)):
        tower += [norm_conv(width, 5)] * (i > 0) + [Residual(norm_conv(width, 1))]
        tower.append(Net(pool, logits=nn.Conv2d(width, width, 1, bias=False)))
    end = chain(cropped(5 / 24), norm_conv(2 * width, 1), nn.Dropout(0.05), nn.GELU(), swap)
    tracks = Heads(chain(nn.LazyLinear(n), nn.Softplus()) for n in (4, 3))
    by_species = chain(tracks, lambda y: dict(zip(("human", "mouse"), y, strict=True)))
    return chain(*tower, transformer(width, layers), end, by_species)


@published("Borzoi", "Linder 2025", 524_288, 512, lambda y: central(y, 4).sum(dim=2).log1p())
def borzoi(length: int, width: int = 8, layers: int = 2) -> nn.Module:
    """A U-net: tower, transformer, two doublings that add what the tower had at that width."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        fine = net.tower(x)
        coarse = net.down[0](fine)
        x = net.transformer(net.down[1](coarse))
        for up, across, mix, skip in zip(net.up, net.across, net.mix, (coarse, fine), strict=True):
            x = mix(up(x) + across(skip))
        return net.head(x)

    def twice(make: Callable[[], nn.Module]) -> nn.ModuleList:
        return nn.ModuleList(make() for _ in range(2))

    double = nn.Upsample(scale_factor=2)
    tower = [chain(norm_conv(width, 5), nn.MaxPool1d(2)) for _ in range(halvings(length, 7, 8) - 3)]
    end = chain(cropped(5 / 16), norm_conv(2 * width, 1), nn.Dropout(0.1), nn.GELU())
    return Net(
        forward,
        tower=chain(conv(width, 15), nn.MaxPool1d(2), *tower, norm_conv(width, 5)),
        down=twice(lambda: chain(nn.MaxPool1d(2), norm_conv(width, 5))),
        transformer=transformer(width, layers),
        up=twice(lambda: chain(norm_conv(width, 1), double)),
        across=twice(lambda: norm_conv(width, 1)),
        mix=twice(lambda: chain(conv(width, 3, groups=width, bias=False), conv(width, 1))),
        head=chain(end, conv(4, 1), nn.Softplus()),
    )
