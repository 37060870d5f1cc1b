"""Epistasis: the counterexamples, double mutants by brute force, and what locates interactions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tism import ism, tism
from tism.double_mutants import interaction_map, interactions, strongest
from tism.exact import predict
from tism.study.ch07_epistasis import (
    Sites,
    auroc_within,
    interacting,
    location_table,
    paired_regions,
    position_scores,
    precision,
    strength,
)


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
    own = interactions(net, sequences, 5, new[:, 5], [0, 2])
    index = new[:, None, None].expand(5, 2, 1, 20)
    expected = own.gather(2, index)[:, :, 0]
    was_reference = sequences[torch.arange(5), new[:, 5], 5] == 1
    expected[was_reference] = 0
    torch.testing.assert_close(found[:, :, 5], expected)
    assert torch.equal(found, found.transpose(2, 3))
    assert (found.diagonal(dim1=2, dim2=3) == 0).all()


def test_bad_arguments(net, bases):
    with pytest.raises(ValueError, match="position must be one of 20, got 20"):
        interactions(net, bases, 20, 0)
    with pytest.raises(TypeError, match="position must be an int"):
        interactions(net, bases, 1.5, 0)
    with pytest.raises(ValueError, match="base must be from 0"):
        interactions(net, bases, 1, 4)
    with pytest.raises(ValueError, match=r"bases must be integers of shape \(5, 20\)"):
        interaction_map(net, bases, torch.zeros(20).long())
    with pytest.raises(ValueError, match="bases must be integers"):
        interaction_map(net, bases, torch.zeros(5, 20))


def test_position_scores():
    one_hot = nn.functional.one_hot(torch.tensor([[0, 1]]), 4).transpose(1, 2).double()
    exact = torch.zeros(1, 4, 2).double()
    exact[0, 1:, 0] = torch.tensor([3.0, 3.0, 3.0])
    found = position_scores(exact, exact / 3, one_hot)
    assert found["|ISM|"].tolist() == [[3, 0]]
    assert found["|TISM|"].tolist() == [[1, 0]]
    assert found["discordance"].tolist() == [[2, 0]]
    assert found["relative discordance"].tolist() == [[0.5, 0]]


def test_strongest_interactions():
    maps = torch.zeros(1, 10, 10)
    maps[0, 2, 7] = maps[0, 7, 2] = 3
    assert strength(maps)[0].nonzero().flatten().tolist() == [2, 7]
    assert strength(maps)[0, 2] == pytest.approx(1)  # 3 in one of 9 others
    assert np.flatnonzero(interacting(maps, 0.2)[0]).tolist() == [2, 7]


def test_auroc_among_alike():
    rng = np.random.default_rng(0)
    signal = rng.random(4000)
    positive = rng.random(4000) < signal
    assert auroc_within(signal, positive, signal, 1) > 0.7
    assert auroc_within(signal, positive, signal, 40) == pytest.approx(0.5, abs=0.04)
    assert auroc_within(positive + 0.0, positive, signal, 40) == 1
    assert np.isnan(auroc_within(signal, positive & False, signal, 4))


def test_precision():
    positive = np.array([True, False, True, False])
    assert precision(np.array([3.0, 0, 2, 1]), positive) == 1
    assert precision(np.array([3.0, 2, 0, 1]), positive) == 0.5
    assert np.isnan(precision(np.zeros(4), positive & False))


def sites(kind="a", n=12):
    """Positions whose discordance is the truth, while |ISM| is noise."""
    rng = np.random.default_rng(0)
    truth = rng.random((n, 30)) < 0.2
    truth[0] = False
    effect = rng.random((n, 30))
    scores = {"discordance": truth + 0.1 * effect, "|ISM|": effect}
    level = np.arange(n) / n
    return Sites(kind, np.arange(n), level, scores, {"planted": truth}, {"half": effect > 0.5})


def test_location_table():
    table = location_table([sites(), sites(), sites("b")])
    columns = "network truth control score auroc auroc_low auroc_high precision precision_low"
    columns += " precision_high chance n_regions n_networks"
    assert [*table] == columns.split()
    own = table[table["network"] == "a"].set_index(["control", "score"])
    everywhere = own.loc["all positions"]
    assert everywhere.loc["discordance", "auroc"] == 1
    assert everywhere.loc["discordance", "precision"] == 1
    assert everywhere.loc["|ISM|", "auroc"] == pytest.approx(0.5, abs=0.1)
    assert everywhere.loc["discordance - |ISM|", "auroc"] == pytest.approx(0.5, abs=0.1)
    assert everywhere["n_regions"].eq(22).all()  # one region of each network has no truth
    assert everywhere["n_networks"].eq(2).all()
    assert everywhere["chance"].iloc[0] == pytest.approx(0.2, abs=0.05)
    assert own.loc[("alike in |ISM|", "discordance"), "auroc"] == 1
    assert {"half", "low prediction", "high prediction"} <= {*own.index.get_level_values(0)}
    assert own.loc[("low prediction", "discordance"), "n_regions"] == 2 * 3


def test_paired_regions():
    from tism.study.data.simulation import simulate

    data = simulate(200, 4, seed=1)
    rows, tasks = paired_regions(data.truth, np.arange(200), 15)
    assert len(rows) == len(tasks) == 15
    paired = data.truth.sites[data.truth.paired]
    assert set(rows) <= set(paired["region"])
    assert (data.truth.interacting[rows].sum(1) > 0).all()
    assert (data.truth.interacting <= data.truth.important).all()
    effect = np.abs(
        data.truth.site_effects[data.truth.paired & (data.truth.sites["region"] == rows[0])]
    )
    assert effect.sum(0).argmax() == tasks[0]
