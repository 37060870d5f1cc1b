"""Double mutants of chapter 07: its tables on small networks, and what locates interactions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tism import build_model, ism, tism
from tism.double_mutants import interaction_map
from tism.study import ch07_epistasis as beyond
from tism.study.ch07_epistasis import JudgedPositions
from tism.study.data.simulation import simulate
from tism.study.scores import Scores


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TISM_DATA_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def data():
    return simulate(200, 3, seed=0)


def test_reach_is_a_share_of_all_interactions():
    maps = torch.zeros(1, 100, 100)
    maps[0, 3, 7] = maps[0, 7, 3] = 2
    maps[0, 3, 60] = maps[0, 60, 3] = 1
    table = beyond.reach_table({"a": maps}).set_index("reach")
    assert table.loc[5, "share"] == pytest.approx(0.8)
    assert table.loc[40, "share"] == pytest.approx(0.8)
    assert table.loc[5, "of_pairs"] == pytest.approx((99 + 98 + 97 + 96 + 95) / 4950)


def test_planted_pairs_are_found_in_the_map_that_has_them(data):
    truth = data.truth
    regions = np.unique(truth.pairs["region"])[:8]
    maps = torch.rand(8, 251, 251, generator=torch.Generator().manual_seed(0)) * 1e-3
    for i, region in enumerate(regions):
        for pair in truth.pairs[truth.pairs["region"] == region].itertuples():
            a, b = (truth.sites.loc[s] for s in (pair.first, pair.second))
            maps[i, a.start : a.end, b.start : b.end] = 1
            maps[i, b.start : b.end, a.start : a.end] = 1
    found = {("a", 0): (None, maps, regions), ("b", 0): (None, maps * 0, regions)}
    table = beyond.pairs_table(found, {"a": data, "b": data}).set_index("network")
    assert table.loc["a", "auroc"] > 0.95
    assert table.loc["a", "n_pairs"] == truth.pairs["region"].isin(regions).sum()
    assert table.loc["b", "auroc"] == 0.5


def test_most_discordant_regions_are_described(data):
    model = build_model("baseline", length=251, n_tasks=3, width=4, seed=0)
    rows = data.indices("test")[:3]
    one_hot = data.one_hot(rows)
    exact = torch.zeros(3, 3, 4, 251)
    gradient = torch.zeros_like(exact)
    exact[1, 2, 0, 5] = 3.0
    exact[2, 0, 1, 5] = 2.0
    scores = Scores(rows, one_hot, exact, gradient, torch.zeros(3, 3))
    regions, tasks = beyond.most_discordant(scores, np.array([0, 1, 1]), 2)
    assert (regions[0], tasks[0]) == (1, 2)
    assert regions[1] == 0  # region 2 shares the locus of region 1

    x = one_hot[[0]]
    scores = Scores(rows[:1], x, ism(model, x), tism(model, x), torch.zeros(1, 3))
    bases = beyond.drawn_bases(x, 0)
    maps = beyond.kept_maps(model, x, bases, [1])
    torch.testing.assert_close(maps[0], interaction_map(model, x, bases, 1)[0, 0])
    table = beyond.describe_maps(maps, scores, np.array([0]), np.array([1]), data)
    row = table.iloc[0]
    assert row["task"] == data.tasks[1]
    letters = "".join("ACGT"[b] for b in x[0].argmax(0))
    assert row["sequence"].split("...")[0] in letters
    assert row["sequence"][:6][-1] == letters[row["first"]] or row["first"] < 5
    assert abs(row["interaction"]) == pytest.approx(maps.abs().max().item(), rel=1e-5)
    assert set(table["motif_first"][0].split(", ")) <= {"", *data.truth.motif_names}


def test_drawn_substitutions_are_no_references_and_all_occur(data):
    one_hot = data.one_hot(range(20))
    bases, reference = beyond.drawn_bases(one_hot, 0), one_hot.argmax(1)
    counts = torch.bincount((bases - reference).remainder(4).flatten(), minlength=4)
    assert counts[0] == 0
    assert counts[1:].min() > 0.3 * bases.numel()
    assert torch.equal(beyond.drawn_bases(one_hot, 0), bases)
    assert not torch.equal(beyond.drawn_bases(one_hot, 1), bases)


def test_position_scores():
    one_hot = nn.functional.one_hot(torch.tensor([[0, 1]]), 4).transpose(1, 2).double()
    exact = torch.zeros(1, 4, 2).double()
    exact[0, 1:, 0] = torch.tensor([3.0, 3.0, 3.0])
    found = beyond.position_scores(exact, exact / 3, one_hot)
    assert found["|ISM|"].tolist() == [[3, 0]]
    assert found["|TISM|"].tolist() == [[1, 0]]
    assert found["discordance"].tolist() == [[2, 0]]
    assert found["relative discordance"].tolist() == [[0.5, 0]]


def test_strongest_interactions():
    maps = torch.zeros(1, 20, 20)
    maps[0, 2, 7] = maps[0, 7, 2] = 3
    maps[0, 5, 9] = maps[0, 9, 5] = 2
    assert np.flatnonzero(beyond.interacting(maps)[0]).tolist() == [2, 7]


def test_auroc_among_alike():
    rng = np.random.default_rng(0)
    signal = rng.random(4000)
    positive = rng.random(4000) < signal
    assert beyond.auroc_within(signal, positive, signal, 1) > 0.7
    assert beyond.auroc_within(signal, positive, signal, 40) == pytest.approx(0.5, abs=0.04)
    assert beyond.auroc_within(positive + 0.0, positive, signal, 40) == 1
    assert np.isnan(beyond.auroc_within(signal, positive & False, signal, 4))


def test_precision():
    positive = np.array([True, False, True, False])
    assert beyond.precision(np.array([3.0, 0, 2, 1]), positive) == 1
    assert beyond.precision(np.array([3.0, 2, 0, 1]), positive) == 0.5
    assert np.isnan(beyond.precision(np.zeros(4), positive & False))


def judged(kind="a", seed=0, n=12):
    """Positions whose discordance is the truth, while |ISM| is noise."""
    rng = np.random.default_rng(0)
    truth = rng.random((n, 30)) < 0.2
    truth[0] = False
    effect = rng.random((n, 30))
    scores = {"discordance": truth + 0.1 * effect, "|ISM|": effect}
    loci, level = np.arange(n), np.arange(n) / n
    truths = {"planted pairs": truth, "double mutants": truth}
    controls = {"bases of sites": effect > 0.5}
    return JudgedPositions(kind, seed, loci, level, scores, truths, controls)


def test_location_table():
    found = beyond.verdicts([judged(), judged(seed=1), judged("b")])
    table = beyond.location_table(found[found["truth"] == "planted pairs"])
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
    assert {"bases of sites", "low prediction", "high prediction"} <= {
        *own.index.get_level_values(0)
    }
    assert own.loc[("low prediction", "discordance"), "n_regions"] == 2 * 3


def test_claims_have_an_area_of_each_network():
    areas = beyond.claimed_areas(beyond.verdicts([judged(), judged(seed=1), judged("b")]))
    assert [*areas] == [*beyond.CLAIMED]
    for claim, table in areas.items():
        assert table[["kind", "seed"]].values.tolist() == [["a", 0], ["a", 1], ["b", 0]]
        expected = 1 if claim == "hypothesis_alike" else pytest.approx(0.5, abs=0.1)
        assert table["value"].tolist() == [expected] * 3


def test_paired_regions():
    data = simulate(200, 4, seed=1)
    rows, tasks = beyond.paired_regions(data.truth, np.arange(200), 15)
    assert len(rows) == len(tasks) == 15
    paired = data.truth.sites[data.truth.paired]
    assert set(rows) <= set(paired["region"])
    assert (data.truth.interacting[rows].sum(1) > 0).all()
    assert (data.truth.interacting <= data.truth.important).all()
    in_first = data.truth.paired & (data.truth.sites["region"] == rows[0])
    assert np.abs(data.truth.site_effects[in_first]).sum(0).argmax() == tasks[0]
