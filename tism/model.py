"""The network of Sasse et al. 2024 (AI-TAC with residual blocks) and its named ablations."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tism.running import checked_seed, whole_number

_FULL_WIDTH, _FULL_DENSE = 298, 512


@dataclass(frozen=True)
class AITACConfig:
    """Architecture of one network; the defaults are the paper's baseline.

    length : bases of the input
    n_tasks : outputs
    width : kernels of every convolution; the dense layers scale with it (512 at 298)
    kernel, block_kernel : bp of the first and of the other convolutions
    pool : positions of every pooling window
    n_blocks, n_dense : residual blocks; fully connected layers after the flattening one
    activation : "gelu" or "relu", everywhere
    exponential_first : exp instead of `activation` after the first convolution (Koo 2021)
    max_pooling : the maximum instead of the softmax-weighted mean
    both_strands : kernel-wise maximum over the two strands
    residual, batch_norm, dropout : the rest of what the paper ablates
    """

    length: int
    n_tasks: int
    width: int = _FULL_WIDTH
    kernel: int = 19
    block_kernel: int = 7
    pool: int = 2
    n_blocks: int = 4
    n_dense: int = 2
    activation: str = "gelu"
    exponential_first: bool = False
    max_pooling: bool = False
    both_strands: bool = True
    residual: bool = True
    batch_norm: bool = True
    dropout: float = 0.1

    def __post_init__(self) -> None:
        positive = ("length", "n_tasks", "width", "kernel", "block_kernel", "pool")
        smallest = dict.fromkeys(positive, 1) | {"n_blocks": 0, "n_dense": 0}
        for name, least in smallest.items():
            if whole_number(name, getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.activation not in _ACTIVATIONS:
            known = ", ".join(_ACTIVATIONS)
            raise ValueError(f"activation must be one of {known}; got {self.activation!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    @property
    def dense_width(self) -> int:
        """Units of the fully connected layers."""
        return max(1, round(_FULL_DENSE * self.width / _FULL_WIDTH))

    @property
    def pooled_length(self) -> int:
        """Positions left after every pooling."""
        return math.ceil(self.length / self.pool ** (1 + self.n_blocks))


class Exponential(nn.Module):
    """exp(x), the first-layer activation of Koo and Ploenzke 2021."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return torch.exp(x)


_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


class BothStrandsConv(nn.Module):
    """Convolution of both strands; each kernel keeps the larger activation at a position."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv1d(4, width, kernel, padding="same", bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4, length) to (n, width, length); row order A C G T makes the flip the complement."""
        forward = self.conv(x)
        reverse = self.conv(x.flip(1, 2)).flip(2)
        return torch.maximum(forward, reverse)


class SoftmaxPool(nn.Module):
    """Mean of each window weighted by the softmax of the activations themselves.

    A last window that is not full takes the mean over what it has: padding has no weight.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, length) to (n, channels, ceil(length / size))."""
        x = F.pad(x, (0, -x.shape[2] % self.size), value=-1e9)  # whose softmax is zero
        # Beside the channels: over a short last axis softmax takes several times as long.
        windows = torch.stack([x[:, :, place :: self.size] for place in range(self.size)], 1)
        return (windows * windows.softmax(1)).sum(1)


class SoftmaxPool2(nn.Module):
    """`SoftmaxPool` of size 2, whose softmax is a sigmoid: b + (a - b) sigmoid(a - b)."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, length) to (n, channels, ceil(length / 2))."""
        x = F.pad(x, (0, x.shape[2] % 2), mode="replicate")  # two equal values make that value
        first, second = x[:, :, 0::2], x[:, :, 1::2]
        difference = first - second
        return second + difference * torch.sigmoid(difference)


class Block(nn.Module):
    """Batch norm, activation, convolution, the input added, pooling."""

    def __init__(self, config: AITACConfig):
        super().__init__()
        self.norm = nn.BatchNorm1d(config.width) if config.batch_norm else nn.Identity()
        self.activation = _ACTIVATIONS[config.activation]()
        self.conv = nn.Conv1d(config.width, config.width, config.block_kernel, padding="same")
        self.pool = _pooling(config)
        self.residual = config.residual

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, length) to (n, width, ceil(length / pool))."""
        change = self.conv(self.activation(self.norm(x)))
        return self.pool(x + change if self.residual else change)


class AITAC(nn.Module):
    """The network that `config` describes: (n, 4, length) to (n, n_tasks)."""

    def __init__(self, config: AITACConfig):
        super().__init__()
        self.config = config
        if config.both_strands:
            self.conv: nn.Module = BothStrandsConv(config.width, config.kernel)
        else:
            self.conv = nn.Conv1d(4, config.width, config.kernel, padding="same", bias=False)
        activation = _ACTIVATIONS[config.activation]
        self.activation = Exponential() if config.exponential_first else activation()
        self.pool = _pooling(config)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.n_blocks)))
        self.dense, features = _dense_layers(config)
        self.head = nn.Linear(features, config.n_tasks)

    @property
    def first_kernels(self) -> Tensor:
        """(width, 4, kernel): the weights that read the sequence."""
        return (self.conv.conv if self.config.both_strands else self.conv).weight

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4, length) one-hot sequences to (n, n_tasks) predictions."""
        x = self.pool(self.activation(self.conv(x)))
        x = self.blocks(x)  # (n, width, pooled length)
        return self.head(self.dense(x.flatten(1)))


def _pooling(config: AITACConfig) -> nn.Module:
    if config.max_pooling:
        return nn.MaxPool1d(config.pool, ceil_mode=True)
    return SoftmaxPool2() if config.pool == 2 else SoftmaxPool(config.pool)


def _dense_layers(config: AITACConfig) -> tuple[nn.Module, int]:
    """The layers between flattening and head, and how many features they hand on."""
    features = config.width * config.pooled_length
    if config.n_dense == 0:
        return nn.Identity(), features
    layers: list[nn.Module] = [nn.Linear(features, config.dense_width)]
    for _ in range(config.n_dense):
        layer = nn.Linear(config.dense_width, config.dense_width)
        layers += [layer, _ACTIVATIONS[config.activation](), nn.Dropout(config.dropout)]
    return nn.Sequential(*layers), config.dense_width


@dataclass(frozen=True)
class Variant:
    """A named model: what it changes in the paper's network and what in its training."""

    summary: str
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "baseline": Variant("the paper's model"),
    "mse_loss": Variant("MSE only", training={"correlation_weight": 0.0, "mse_weight": 1.0}),
    "relu": Variant("ReLU for every GELU", {"activation": "relu"}),
    "exponential": Variant("exponential after the first convolution", {"exponential_first": True}),
    "max_pooling": Variant("max for softmax-weighted pooling", {"max_pooling": True}),
    "forward_only": Variant("forward strand only", {"both_strands": False}),
    "no_residual": Variant("no residual connections", {"residual": False}),
    "no_dropout": Variant("no dropout", {"dropout": 0.0}),
    "no_batch_norm": Variant("no batch norm", {"batch_norm": False}),
    "l1_kernels": Variant("L1 on the first kernels", training={"l1_kernels": 0.01}),
    "adamw": Variant("AdamW for SGD", training={"optimizer": "adamw", "weight_decay": 0.01}),
    "no_shift": Variant("no random shift", training={"max_shift": 0}),
    "cnn0": Variant(
        "one convolution, pooling of 70 bp, linear head", {"n_blocks": 0, "n_dense": 0, "pool": 70}
    ),
    "relu_max": Variant(
        "ReLU for every GELU and max pooling", {"activation": "relu", "max_pooling": True}
    ),
}


def get_variant(name: str) -> Variant:
    """The variant of that name, or a ValueError that lists the names."""
    if not isinstance(name, str) or name not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {name!r}")
    return VARIANTS[name]


def build_model(
    variant: str,
    *,
    length: int,
    n_tasks: int,
    width: int = 298,
    pool: int = 2,
    seed: int | None = None,
) -> AITAC:
    """A network with random weights: the baseline, one of the paper's ablations, or "relu_max".

    variant : a name in `VARIANTS`
    length : bases of the input
    n_tasks : outputs
    width : kernels of every convolution; the dense layers scale with it
    pool : positions of every pooling window ("cnn0" has its own, 70)
    seed : of the weights, leaving torch's random state alone; None draws from that state

    Returns a module that maps (n, 4, length) to (n, n_tasks).
    """
    config = AITACConfig(length=length, n_tasks=n_tasks, width=width, pool=pool)
    config = replace(config, **get_variant(variant).model)
    if seed is None:
        return AITAC(config)
    seed = checked_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        return AITAC(config)
