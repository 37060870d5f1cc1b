"""More published networks, on which the engines are tested, entered in the zoo of the study.

Each is a small re-creation with random weights, as `tism.study.zoo` describes them.
"""

from __future__ import annotations

import math
from operator import itemgetter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tism.model import BothStrandsConv, SoftmaxPool, build_model
from tism.outputs import Head, ProfileScore
from tism.study.zoo import (
    ZOO,
    Concatenated,
    Heads,
    Net,
    Residual,
    beside,
    bpnet,
    chain,
    conv,
    conv_norm,
    dense,
    fast_gelu,
    halvings,
    middle,
    norm_conv,
    probabilities,
    published,
    splice_trunk,
    swap,
)

ARCHITECTURES = ZOO  # those of the study and of this file


def bilstm(channels: int, hidden: int) -> nn.Module:
    """An LSTM in both directions, (n, length, channels) to (n, length, 2 hidden)."""
    return chain(nn.LSTM(channels, hidden, batch_first=True, bidirectional=True), itemgetter(0))


class GroupedLinear(nn.Module):
    """A linear layer of its own for each group: (n, groups, inner) to (n, groups, outer)."""

    def __init__(self, groups: int, inner: int, outer: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(groups, inner, outer) * (2 / inner) ** 0.5)
        self.bias = nn.Parameter(0.1 * torch.randn(groups, 1, outer))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight).transpose(0, 1)


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


@published("DeepBind", "Alipanahi 2015", 101, 40)
def deepbind(length: int, width: int = 8) -> nn.Module:
    """Flanks of 0.25 for unknown bases; of each motif the maximum over all positions."""
    scan = chain(nn.ConstantPad1d(23, 0.25), conv(width, 24, padding=0), nn.ReLU())
    return chain(scan, nn.AdaptiveMaxPool1d(1), nn.Flatten(), dense(32, 0.5), nn.Linear(32, 1))


@published("Beluga", "Zhou 2018", 2000, 330)
def beluga(length: int, width: int = 8) -> nn.Module:
    """Pairs of 2-d convolutions of height 1, as in ExPecto; probabilities."""
    layers: list[nn.Module] = []
    for wide in (width, 3 * width // 2, 2 * width):
        layers += [nn.MaxPool2d((1, 4), (1, 4))] if layers else []
        layers += [nn.LazyConv2d(wide, (1, 8)), nn.ReLU()]
        layers += [nn.LazyConv2d(wide, (1, 8)), nn.ReLU(), nn.Dropout(0.2)]
    head = chain(nn.Flatten(), dense(3 * width), probabilities(6))
    return chain(lambda x: x.unsqueeze(2), *layers, head)


@published("Basset", "Kelley 2016", 600, 180)
def basset(length: int, width: int = 4) -> nn.Module:
    """Batch norm after every layer, max pooling by 3, 4 and 4; probabilities."""
    hidden = [dense(8 * width, 0.3, norm=True) for _ in range(2)]
    return chain(basset_scan(width), *hidden, probabilities(6))


@published("AI-TAC", "Maslova 2020", 251, 80, Head(0))
def aitac(length: int, width: int = 4) -> nn.Module:
    """A 2-d convolution over the four rows; returns predictions, motif maxima and their places."""

    def forward(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.relu(net.norm(net.first(x.unsqueeze(1))))
        maxima, places = torch.max(x.flatten(2), dim=2)
        return net.rest(x), maxima, places

    layers: list[nn.Module] = [nn.MaxPool2d((1, 3), (1, 3), (0, 1))]
    for kernel in (11, 7):
        layers += [nn.LazyConv2d(2 * width, (1, kernel), padding=(0, kernel // 2))]
        layers += [nn.LazyBatchNorm2d(), nn.ReLU(), nn.MaxPool2d((1, 4), (1, 4), (0, 1))]
    hidden = [dense(8 * width, 0.3, norm=True) for _ in range(2)]
    rest = chain(*layers, nn.Flatten(), *hidden, nn.LazyLinear(6))
    first = nn.Conv2d(1, 3 * width, (4, 19), padding=(0, 9))
    return Net(forward, first=first, norm=nn.LazyBatchNorm2d(), rest=rest)


@published("AI-TAC residual", "Sasse 2024", 251, 40)
def aitac_residual(length: int, width: int = 8) -> nn.Module:
    """The paper's network: both strands, residual blocks, softmax-weighted pooling."""
    return build_model("baseline", length=length, n_tasks=6, width=width)


@published("Calderon", "Sasse 2024", 401, 60)
def calderon(length: int, width: int = 16) -> nn.Module:
    """Both strands, GELU, a filled flank, and a few wide softmax-weighted windows."""
    pool = min(81, (length + 20) // 4)
    fill = nn.ConstantPad1d((0, -(length + 20) % pool), -0.17)  # the lowest value of GELU
    scan = chain(nn.ConstantPad1d(10, 0.0), BothStrandsConv(width, 15), nn.GELU())
    return chain(scan, fill, SoftmaxPool(pool), nn.Flatten(), nn.LazyLinear(6))


@published("MPRA-DragoNN", "Movva 2019", 145, 50)
def mpra_dragonn(length: int, width: int = 8) -> nn.Module:
    """Batch norm after the ReLU, no pooling, one dense layer from all positions."""
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [conv(width, 5, padding=0), nn.ReLU(), nn.LazyBatchNorm1d(), nn.Dropout(0.1)]
    return chain(*layers, nn.Flatten(), nn.LazyLinear(12))


@published("Malinois", "Gosai 2024", 600, 96)
def malinois(length: int, width: int = 4) -> nn.Module:
    """Basset, then dense layers of its own for each of three cell types, as batched products."""
    hidden = 4 * width
    branches = [GroupedLinear(3, hidden, hidden), nn.ReLU(), nn.Dropout(0.5)]
    branches += [GroupedLinear(3, hidden, hidden), nn.ReLU(), GroupedLinear(3, hidden, 1)]
    copies = chain(lambda x: x.repeat(1, 3), lambda x: x.unflatten(1, (3, -1)))
    shared = chain(basset_scan(width, padding="same"), dense(hidden, 0.1))
    return chain(shared, copies, *branches, lambda x: x.squeeze(-1))


@published("Optimus 5-prime", "Sample 2019", 50, 50)
def optimus(length: int, width: int = 8) -> nn.Module:
    """Three convolutions without pooling; ribosome load of a 5' UTR."""
    scan = [chain(conv(width, 8), nn.ReLU()) for _ in range(3)]
    return chain(*scan, nn.Flatten(), dense(40, 0.2), nn.LazyLinear(1))


@published(
    "APARENT", "Bogard 2019", 205, 60, lambda y: torch.cat([y[0], y[1][:, 20:24]], dim=1),
    lambda length: [(13,), (1,)],
)  # fmt: skip
def aparent(length: int, width: int = 8) -> nn.Module:
    """A 2-d image of the sequence, library and distal signal; isoform share and cut profile."""

    def forward(net: nn.Module, x: Tensor, library: Tensor, distal: Tensor) -> tuple:
        x = net.scan(x.transpose(1, 2).unsqueeze(1))
        x = net.dense(torch.cat([x, distal], dim=1))
        x = torch.cat([x, library], dim=1)
        return torch.sigmoid(net.isoform(x)), net.cut(x).softmax(dim=1)

    scan = chain(nn.LazyConv2d(width, (8, 4)), nn.ReLU(), nn.MaxPool2d((2, 1)))
    scan = chain(scan, nn.LazyConv2d(width, (6, 1)), nn.ReLU(), nn.Flatten())
    heads = {"isoform": nn.LazyLinear(1), "cut": nn.LazyLinear(length + 1)}
    return Net(forward, scan=scan, dense=dense(32, 0.2), **heads)


@published("APARENT2", "Linder 2022", 205, 60, lambda y: y[:, -4:], lambda length: [(13,)])
def aparent2(length: int, width: int = 4) -> nn.Module:
    """Residual blocks whose dilations rise and fall; softmax over positions and over no cut."""

    def forward(net: nn.Module, x: Tensor, library: Tensor) -> Tensor:
        return (F.pad(net.scan(x), (0, 1)) + net.library(library)).softmax(dim=1)

    blocks = [
        Residual(*(norm_conv(width, 3, F.relu, dilation=dilation) for _ in range(2)))
        for dilation in (1, 2, 4, 8, 4, 2, 1)
    ]
    scan = chain(conv(width, 1), *blocks, conv(1, 1), nn.Flatten())
    return Net(forward, scan=scan, library=nn.LazyLinear(length + 1))


@published("scBasset", "Yuan 2022", 1344, 90)
def scbasset(length: int, width: int = 6) -> nn.Module:
    """A tower of poolings to a bottleneck, from which a linear layer reads every cell."""
    tower = [conv_norm(width, 5, fast_gelu, 2) for _ in range(halvings(length // 3, 6, 7))]
    scan = chain(conv_norm(width, 17, fast_gelu, 3), *tower, conv_norm(width, 1, fast_gelu))
    bottleneck = chain(nn.Flatten(), nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.Dropout(0.2))
    return chain(scan, bottleneck, fast_gelu, probabilities(12))


@published("ExplaiNN", "Novakovsky 2023", 200, 60)
def explainn(length: int, units: int = 6) -> nn.Module:
    """A small network for each motif, by grouped convolutions of copies; their weighted sum."""
    scan = chain(conv(units, 19, padding=0, groups=units), nn.LazyBatchNorm1d(), torch.exp)
    wide = chain(conv(10 * units, 1, groups=units), nn.LazyBatchNorm1d(), nn.ReLU())
    one = chain(conv(units, 1, groups=units), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Flatten())
    between = chain(nn.MaxPool1d(7, 7), nn.Flatten(), lambda x: x.unsqueeze(-1))
    return chain(lambda x: x.repeat(1, units, 1), scan, between, wide, one, nn.Linear(units, 3))


@published("DanQ", "Quang 2016", 1000, 90)
def danq(length: int, width: int = 6) -> nn.Module:
    """A bidirectional LSTM between the convolution and the dense layers; probabilities."""
    scan = chain(conv(width, 26, padding=0), nn.ReLU(), nn.MaxPool1d(13, 13), nn.Dropout(0.2))
    lstm = chain(swap, bilstm(width, width), nn.Dropout(0.5), nn.Flatten())
    return chain(scan, lstm, dense(16), probabilities(6))


@published("DeepMEL", "Minnoye 2020", 500, 80)
def deepmel(length: int, width: int = 6) -> nn.Module:
    """Convolution and LSTM on both strands; the larger of the two predictions."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        return torch.maximum(net.strand(x), net.strand(torch.flip(x, dims=(1, 2))))

    scan = chain(conv(width, 20, padding=0), nn.ReLU(), nn.MaxPool1d(10, 10), nn.Dropout(0.2))
    lstm = chain(swap, nn.LazyLinear(width), nn.ReLU(), bilstm(width, width), nn.Flatten())
    return Net(forward, strand=chain(scan, lstm, dense(16, 0.4), probabilities(6)))


@published("FactorNet", "Quang 2019", 1002, 90, shapes=lambda length: [(1, length)])
def factornet(length: int, width: int = 6) -> nn.Module:
    """Accessibility is a fifth channel; convolution and LSTM; the mean of both strands."""

    def forward(net: nn.Module, x: Tensor, track: Tensor) -> Tensor:
        reverse = torch.cat([x.flip(dims=[1, 2]), track.flip(dims=[2])], dim=1)
        return (net.strand(torch.cat([x, track], dim=1)) + net.strand(reverse)) / 2

    scan = chain(conv(width, 26, padding=0), nn.ReLU(), swap, nn.LazyLinear(width), nn.ReLU(), swap)
    lstm = chain(nn.MaxPool1d(13, 13), swap, bilstm(width, width), nn.Dropout(0.5), nn.Flatten())
    return Net(forward, strand=chain(scan, lstm, dense(16, 0.5), probabilities(2)))


@published("RC sharing", "Shrikumar 2017", 1000, 80)
def shared_strands(length: int, width: int = 6) -> nn.Module:
    """Weights tied to those of the other strand, put together at each call."""

    def strand_sum(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return first + second.flip(1)

    first, second = (BothStrandsKernels(n, width, 15) for n in (4, 2 * width))
    scan = chain(first, nn.ReLU(), second, nn.ReLU(), strand_sum, nn.MaxPool1d(20, 20))
    return chain(scan, nn.Flatten(), nn.LazyLinear(3))


@published("janggu", "Kopp 2020", 500, 80)
def janggu(length: int, width: int = 6) -> nn.Module:
    """The first layer scans both strands and keeps the maximum; the last is a mean over all."""
    pool = nn.MaxPool1d(min(30, length // 10))
    scan = chain(BothStrandsConv(width, 11), nn.ReLU(), pool, nn.LazyBatchNorm1d())
    rest = chain(conv(width, 3, padding=0), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    return chain(scan, rest, probabilities(1))


@published("LegNet", "Penzar 2023", 150, 40, Head(1))
def legnet(length: int, width: int = 6) -> nn.Module:
    """Grouped convolutions with squeeze-and-excitation; the expected one of 18 bins."""
    stem = chain(with_flags, conv_norm(width, 7, F.silu))
    return chain(stem, legnet_blocks(width, 3), bins_of_expression())


@published("DREAM-RNN", "Rafi 2024", 110, 40, Head(1))
def dream_rnn(length: int, width: int = 4) -> nn.Module:
    """Kernels of two sizes before and after a bidirectional LSTM."""
    lstm = chain(swap, bilstm(2 * width, width), swap)
    layers = chain(with_flags, two_kernels(width), lstm, two_kernels(width), nn.Dropout(0.5))
    return chain(layers, bins_of_expression())


@published("DREAM-CNN", "Rafi 2024", 110, 40, Head(1))
def dream_cnn(length: int, width: int = 3) -> nn.Module:
    """Kernels of two sizes, then the blocks of LegNet."""
    layers = chain(with_flags, two_kernels(width), legnet_blocks(2 * width, 2))
    return chain(layers, bins_of_expression())


@published("ProCapNet", "Cochran 2024", 2114, 200, ProfileScore(head=0, joint=True))
def procapnet(length: int, width: int = 8) -> nn.Module:
    """BPNet without controls; one distribution over the positions of both strands."""
    return bpnet(length, width)


@published("Pangolin", "Zeng 2022", 10_001, 101, middle)
def pangolin(length: int, width: int = 4) -> nn.Module:
    """SpliceAI with eight heads: two classes, then a usage, for each of four tissues."""

    trunk, context = splice_trunk(length, width)
    heads = Heads(
        head
        for _ in range(4)
        for head in (chain(conv(2, 1), nn.Softmax(dim=1)), chain(conv(1, 1), nn.Sigmoid()))
    )
    return chain(trunk, lambda x: F.pad(x, (-context // 2, -context // 2)), heads, beside)


@published("Akita", "Fudenberg 2020", 2**20, 320, lambda y: y.mean(dim=1))
def akita(length: int, width: int = 6) -> nn.Module:
    """Averages of two bins make an image, kept symmetric, whose upper triangle is read."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        x = net.trunk(x)
        pairs = (x[:, :, :, None] + x[:, :, None, :]) / 2
        bins = torch.arange(x.shape[2], device=x.device, dtype=x.dtype)
        apart = (bins[:, None] - bins).abs().expand(len(x), 1, -1, -1) / len(bins)
        pairs = F.relu(net.image(torch.cat([pairs, apart], dim=1)))
        for layer in net.symmetric:
            pairs = pairs + F.relu(layer(pairs))
            pairs = (pairs + pairs.transpose(2, 3)) / 2
        kept = slice(crop := len(bins) // 16, len(bins) - crop)
        pairs = pairs[:, :, kept, kept]
        first, second = torch.triu_indices(*pairs.shape[2:], offset=2, device=x.device)
        return net.head(pairs[:, :, first, second].transpose(1, 2))

    tower = [conv_norm(width, 5, F.relu, 2) for _ in range(halvings(length, 11, 10) - 1)]
    layers = (conv_norm(width // 2, 3, dilation=round(1.75**i)) for i in range(8))
    blocks = [Residual(layer, conv_norm(width, 1)) for layer in layers]
    trunk = chain(conv_norm(width, 11, F.relu, 2), *tower, *blocks)
    image, *more = (nn.LazyConv2d(width, 3, padding="same", dilation=d) for d in (1, 1, 2))
    return Net(
        forward, trunk=trunk, image=image, symmetric=nn.ModuleList(more), head=nn.LazyLinear(3)
    )


@published("Sei", "Chen 2022", 4096, 128)
def sei(length: int, width: int = 8) -> nn.Module:
    """Linear paths beside ReLU paths, dilated residual layers, B-splines along the sequence."""
    layers: list[nn.Module] = []
    for wide in (width, 3 * width // 2, 2 * width):
        layers += [nn.MaxPool1d(4, 4), nn.Dropout(0.2)] if layers else []
        curved = [chain(conv(wide, 9), nn.ReLU()) for _ in range(2)]
        layers += [conv(wide, 9), conv(wide, 9), Residual(nn.Dropout(0.2), *curved)]
    for rate in (2, 4, 8, 16, 25):
        layers += [Residual(nn.Dropout(0.1), conv(2 * width, 5, dilation=rate), nn.ReLU())]
    far = torch.linspace(0, 5, length // 16)[:, None] - torch.arange(6)
    near, outer = far.abs(), (2 - far.abs()).clamp(min=0) ** 3 / 6
    splines = torch.where(near < 1, 2 / 3 - near**2 + near**3 / 2, outer)  # cubic, of six places
    summed = Net(lambda net, x: x @ net.splines, splines=nn.Parameter(splines))
    return chain(*layers, summed, nn.Flatten(), dense(12), probabilities(6))


@published("HyenaDNA", "Nguyen 2023", 1024, 48)
def hyenadna(length: int, width: int = 8) -> nn.Module:
    """Each base is a token; gated convolutions as long as the sequence by Fourier transforms."""
    layers: list[nn.Module] = [BaseTokens(width)]
    for _ in range(2):
        wide = chain(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        layers += [Residual(nn.LayerNorm(width), LongConvolution(width))]
        layers += [Residual(nn.LayerNorm(width), wide)]
    return chain(*layers, nn.LayerNorm(width), lambda x: x.mean(dim=1), nn.Linear(width, 2))


@published("DNABERT", "Ji 2021", 512, 30)
def dnabert(length: int, width: int = 8) -> nn.Module:
    """Overlapping 3-mers as tokens, torch's own encoder, read from an added first token."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        bases = x[:, :, :-2], x[:, :, 1:-1], x[:, :, 2:]
        tokens = torch.einsum("nal,nbl,ncl->nlabc", *bases).flatten(2) @ net.embedding
        tokens = torch.cat([net.first.expand(len(x), -1, -1), tokens], dim=1)
        return net.head(net.encoder(tokens + net.places)[:, 0])

    layer = nn.TransformerEncoderLayer(width, 2, 4 * width, 0.1, "gelu", batch_first=True)
    shapes = {"embedding": (4**3, width), "first": (1, 1, width), "places": (length - 1, width)}
    return Net(
        forward,
        encoder=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        head=chain(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)),
        **{name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()},
    )


@published("Caduceus", "Schiff 2024", 131_072, 40)
def caduceus(length: int, width: int = 6) -> nn.Module:
    """Gated recurrences (Mamba) along the sequence and against it, with shared weights."""

    def both_ways(net: nn.Module, x: Tensor) -> Tensor:
        return net.scan(x) + net.scan(x.flip(-1)).flip(-1)

    layers: list[nn.Module] = [BaseTokens(width)]
    for _ in range(2):
        scan = chain(swap, Net(both_ways, scan=SelectiveScan(width)), swap)
        layers.append(Residual(nn.LayerNorm(width), scan))
    return chain(*layers, nn.LayerNorm(width), lambda x: x.mean(dim=1), nn.Linear(width, 2))
