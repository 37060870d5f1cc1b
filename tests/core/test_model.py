"""The network against hand counts and naive layers, and the named variants."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from tism import build_model, one_hot_encode, reverse_complement
from tism.model import (
    AITAC,
    VARIANTS,
    AITACConfig,
    BothStrandsConv,
    Exponential,
    SoftmaxPool,
    SoftmaxPool2,
)

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
NAMES = [
    "baseline", "mse_loss", "relu", "exponential", "max_pooling", "forward_only", "no_residual",
    "no_dropout", "no_batch_norm", "l1_kernels", "adamw", "no_shift", "cnn0", "relu_max",
]  # fmt: skip
# the others change the training only
NETWORKS = [name for name in NAMES if name == "baseline" or VARIANTS[name].model]


def small(variant: str, length: int = 24, **settings) -> AITAC:
    return build_model(variant, length=length, n_tasks=3, width=6, seed=0, **settings)


def has(model: nn.Module, kind: type) -> bool:
    return any(isinstance(module, kind) for module in model.modules())


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_variants_are_the_documented_ones():
    assert list(VARIANTS) == NAMES


@pytest.mark.parametrize("variant", NETWORKS)
@pytest.mark.parametrize(("length", "pool"), [(251, 2), (30, 3), (5, 2), (1, 2)])
def test_every_variant_maps_sequences_to_tasks(variant, length, pool):
    model = small(variant, length, pool=pool).eval()

    predicted = model(one_hot_encode(["A" * length, "N" * length]))

    assert predicted.shape == (2, 3)
    assert predicted.isfinite().all()


@pytest.mark.parametrize("variant", NETWORKS)
@pytest.mark.parametrize("length", [23, 24])
def test_a_prediction_does_not_depend_on_its_batch_mates(variant, length):
    model = small(variant, length).double().eval()
    index = torch.randint(4, (6, length), generator=torch.Generator().manual_seed(0))
    x = nn.functional.one_hot(index, 4).transpose(1, 2).double()

    together = model(x)

    alone = torch.cat([model(row[None]) for row in x])
    torch.testing.assert_close(together, alone, **CLOSE)


def test_parameters_of_the_baseline_at_the_papers_size():
    model = build_model("baseline", length=251, n_tasks=81)
    first = 298 * 4 * 19
    block = 2 * 298 + 298 * 298 * 7 + 298
    positions = 8  # 251 halved five times, rounded up: 126, 63, 32, 16, 8
    flatten = positions * 298 * 512 + 512
    dense = 2 * (512 * 512 + 512)
    head = 512 * 81 + 81

    assert n_parameters(model) == first + 4 * block + flatten + dense + head
    assert model.first_kernels.shape == (298, 4, 19)


def test_parameters_of_cnn0():
    model = build_model("cnn0", length=251, n_tasks=81, pool=2)  # its pooling is 70 all the same

    assert n_parameters(model) == 298 * 4 * 19 + 4 * 298 * 81 + 81


@pytest.mark.parametrize(("width", "dense"), [(298, 512), (64, 110), (149, 256), (1, 2)])
def test_width_scales_the_dense_layers(width, dense):
    model = build_model("baseline", length=20, n_tasks=3, width=width)

    assert model.head.in_features == dense
    assert model.first_kernels.shape[0] == width


DIFFERENCES = {
    "gelu": lambda model: has(model, nn.GELU),
    "relu": lambda model: has(model, nn.ReLU),
    "exponential": lambda model: has(model, Exponential),
    "softmax pooling": lambda model: has(model, SoftmaxPool2) or has(model, SoftmaxPool),
    "max pooling": lambda model: has(model, nn.MaxPool1d),
    "both strands": lambda model: has(model, BothStrandsConv),
    "residual": lambda model: any(block.residual for block in model.blocks),
    "dropout": lambda model: any(m.p > 0 for m in model.modules() if isinstance(m, nn.Dropout)),
    "batch norm": lambda model: has(model, nn.BatchNorm1d),
    "blocks": lambda model: len(model.blocks) == 4,
}
BASELINE = set(DIFFERENCES) - {"relu", "exponential", "max pooling"}
CHANGES = {
    "relu": {"gelu", "relu"},
    "exponential": {"exponential"},
    "max_pooling": {"softmax pooling", "max pooling"},
    "forward_only": {"both strands"},
    "no_residual": {"residual"},
    "no_dropout": {"dropout"},
    "no_batch_norm": {"batch norm"},
    "cnn0": {"residual", "dropout", "batch norm", "blocks"},
    "relu_max": {"gelu", "relu", "softmax pooling", "max pooling"},
}


@pytest.mark.parametrize("variant", NAMES)
def test_a_variant_differs_from_the_baseline_in_what_it_names(variant):
    model = small(variant)

    present = {name for name, test in DIFFERENCES.items() if test(model)}

    assert present == BASELINE ^ CHANGES.get(variant, set())


def naive_softmax_pool(x: torch.Tensor, size: int) -> torch.Tensor:
    """Each window by itself, the last as long as it is."""
    pooled = [(w * w.softmax(2)).sum(2) for w in x.split(size, dim=2)]
    return torch.stack(pooled, dim=2)


@pytest.mark.parametrize("length", [1, 2, 3, 9, 10])
@pytest.mark.parametrize("size", [1, 2, 3, 70])
def test_softmax_pooling_leaves_padding_out(length, size):
    x = 5 * torch.randn(2, 3, length, dtype=torch.float64)
    expected = naive_softmax_pool(x, size)

    torch.testing.assert_close(SoftmaxPool(size)(x), expected, **CLOSE)
    if size == 2:
        torch.testing.assert_close(SoftmaxPool2()(x), expected, **CLOSE)


def test_softmax_pooling_of_two_has_the_gradient_of_the_general_one():
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)

    (general,) = torch.autograd.grad(SoftmaxPool(2)(x).square().sum(), x)
    (special,) = torch.autograd.grad(SoftmaxPool2()(x).square().sum(), x)

    torch.testing.assert_close(special, general, **CLOSE)


@pytest.mark.parametrize("pool", [SoftmaxPool(2), SoftmaxPool(3), SoftmaxPool2()])
def test_softmax_pooling_survives_large_activations(pool):
    x = torch.tensor([[[1e4, -1e4, -1e4, 1e4, 0.0, 0.0, 1e4]]], requires_grad=True)

    pooled = pool(x)
    pooled.sum().backward()

    assert pooled.isfinite().all()
    assert x.grad.isfinite().all()
    assert pooled[0, 0, 0] == 1e4


def test_the_first_layer_sees_both_strands_alike():
    sequence = one_hot_encode("ACGGTNACCATGATTACAGGCATTG").double()
    both = small("baseline", 25).double().conv
    forward = small("forward_only", 25).double().conv

    torch.testing.assert_close(both(reverse_complement(sequence)), both(sequence).flip(2), **CLOSE)
    assert not torch.allclose(forward(reverse_complement(sequence)), forward(sequence).flip(2))
    torch.testing.assert_close(
        both(sequence),
        torch.maximum(both.conv(sequence), both.conv(reverse_complement(sequence)).flip(2)),
        **CLOSE,
    )


def test_a_seed_fixes_the_weights_and_leaves_the_random_state_alone(monkeypatch):
    before = torch.get_rng_state()
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)

    first, second, other = (
        build_model("baseline", length=20, n_tasks=3, width=4, seed=seed) for seed in (7, 7, 8)
    )

    assert torch.equal(torch.get_rng_state(), before)
    assert not seeded  # nor that of the GPUs
    same = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not torch.equal(first.first_kernels, other.first_kernels)


def test_without_a_seed_the_weights_come_from_torchs_state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        first = build_model("baseline", length=20, n_tasks=3, width=4)
        second = build_model("baseline", length=20, n_tasks=3, width=4)
        torch.manual_seed(7)
        again = build_model("baseline", length=20, n_tasks=3, width=4)

    assert torch.equal(first.first_kernels, again.first_kernels)
    assert not torch.equal(first.first_kernels, second.first_kernels)


@pytest.mark.parametrize("name", ["Baseline", "", None, 3, ["baseline"], {}])
def test_an_unknown_variant_lists_the_known_ones(name):
    known = ", ".join(NAMES)
    with pytest.raises(
        ValueError, match=re.escape(f"variant must be one of {known}; got {name!r}")
    ):
        build_model(name, length=8, n_tasks=2)


@pytest.mark.parametrize("name", ["length", "n_tasks", "width", "pool"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "must be at least 1, got 0"),
        (-3, ValueError, "must be at least 1, got -3"),
        (2.5, TypeError, r"must be an int, got 2\.5"),
        (True, TypeError, "must be an int, got True"),
        ("8", TypeError, "must be an int, got '8'"),
        (None, TypeError, "must be an int, got None"),
    ],
)
def test_sizes_that_make_no_network(name, value, error, message):
    sizes = {"length": 8, "n_tasks": 2, "width": 4, "pool": 2, name: value}

    with pytest.raises(error, match=f"{name} {message}"):
        build_model("baseline", **sizes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "swish"}, "activation must be one of gelu, relu; got 'swish'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1\.0"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0\.1"),
        ({"n_blocks": -1}, "n_blocks must be at least 0, got -1"),
        ({"n_dense": -1}, "n_dense must be at least 0, got -1"),
    ],
)
def test_configurations_that_make_no_network(settings, message):
    with pytest.raises(ValueError, match=message):
        AITACConfig(length=8, n_tasks=2, **settings)


def test_seed_is_checked():
    with pytest.raises(TypeError, match="seed must be an int, got 'a'"):
        build_model("baseline", length=8, n_tasks=1, width=2, seed="a")
    with pytest.raises(ValueError, match="seed must be from"):
        build_model("baseline", length=8, n_tasks=1, width=2, seed=2**64)
