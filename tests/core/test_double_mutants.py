"""Epistasis: the counterexamples, and double mutants by brute force."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tism import ism, tism
from tism.double_mutants import interaction_map, interactions, strongest
from tism.exact import predict


class Product(nn.Module):
    """A at position 3 times C at position 11: a pure interaction."""

    def forward(self, x):
        """(n, 4, 20) to (n, 1)."""
        return (x[:, 0, 3] * x[:, 1, 11])[:, None]


class Curved(nn.Module):
    """A sum over positions of exp of the base's weight: curved, and nothing interacts."""

    def forward(self, x):
        """(n, 4, 20) to (n, 1)."""
        weight = torch.arange(4).to(x)[:, None]
        return (x * weight).sum(1).exp().sum(1, keepdim=True)


def pair(bases):
    """The sequences with A at 3 and C at 11."""
    x = bases.clone()
    x[:, :, [3, 11]] = 0
    x[:, 0, 3] = x[:, 1, 11] = 1
    return x


def test_pure_interaction_leaves_no_discordance(bases):
    x = pair(bases)
    torch.testing.assert_close(tism(Product(), x), ism(Product(), x))
    found = interactions(Product(), x, 3, 2)  # G for A
    assert (found[:, 0, [0, 2, 3], 11] == 1).all()  # losing both costs no more than losing one
    assert found.abs().sum() == 3 * len(x)


def test_curvature_leaves_no_interaction(bases):
    assert (ism(Curved(), bases) - tism(Curved(), bases)).abs().max() > 1
    found = interaction_map(Curved(), bases, torch.zeros(5, 20).long())
    assert found.abs().max() < 1e-12


@pytest.mark.parametrize("engine", ["full", "windowed"])
def test_interactions_by_brute_force(net, sequences, engine):
    found = interactions(net, sequences, 5, [0, 1, 2, 3, 0], engine=engine)
    mutant = sequences.clone()
    mutant[:, :, 5] = torch.eye(4).double()[[0, 1, 2, 3, 0]]
    both, other = mutant.clone(), sequences.clone()
    for x in (both, other):
        x[:, :, 14] = torch.eye(4).double()[2]
    f = [predict(net, x) for x in (both, mutant, other, sequences)]
    expected = (f[0] - f[1] - f[2] + f[3]) * (sequences[:, 2, 14] == 0)[:, None]
    torch.testing.assert_close(found[:, :, 2, 14], expected)
    assert (found[..., 5] == 0).all()


@pytest.mark.parametrize("engine", ["full", "windowed"])
def test_map_has_the_interactions(net, sequences, engine):
    new = strongest(ism(net, sequences)[:, 0])
    found = interaction_map(net, sequences, new, [0, 2], engine=engine)
    assert found.shape == (5, 2, 20, 20)
    of_five = interactions(net, sequences, 5, new[:, 5], [0, 2])
    index = new[:, None, None].expand(5, 2, 1, 20)
    expected = of_five.gather(2, index)[:, :, 0]
    was_reference = sequences[torch.arange(5), new[:, 5], 5] == 1
    expected[was_reference] = 0
    torch.testing.assert_close(found[:, :, 5], expected)
    assert torch.equal(found, found.transpose(2, 3))
    assert (found.diagonal(dim1=2, dim2=3) == 0).all()


def test_a_map_of_low_precision_has_the_interactions(net, sequences):
    net, new = net.bfloat16(), torch.zeros(20, dtype=torch.long)
    found = interaction_map(net, sequences, new.expand(5, 20), engine="full")
    assert found.dtype == torch.float32
    expected = interactions(net, sequences, 5, 0, engine="full")[:, :, 0]
    expected[sequences[:, 0, 5] == 1] = 0
    torch.testing.assert_close(found[:, :, 5], expected, rtol=0, atol=1e-6)


def test_bad_arguments(net, bases):
    with pytest.raises(ValueError, match="position must be one of 20, got 20"):
        interactions(net, bases, 20, 0)
    with pytest.raises(TypeError, match="position must be an int"):
        interactions(net, bases, 1.5, 0)
    with pytest.raises(ValueError, match="base must be from 0"):
        interactions(net, bases, 1, 4)
    with pytest.raises(TypeError, match="interactions takes no start and stop"):
        interactions(net, bases, 0, 1, start=0, stop=1)
    for base in ("A", None, ["A", "C"]):
        with pytest.raises(TypeError, match="base must be a numeric tensor or array"):
            interactions(net, bases, 1, base)
    with pytest.raises(ValueError, match=r"bases must be integers of shape \(5, 20\)"):
        interaction_map(net, bases, torch.zeros(20).long())
    with pytest.raises(ValueError, match="bases must be integers"):
        interaction_map(net, bases, torch.zeros(5, 20))
