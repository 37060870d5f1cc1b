"""What the chapter beyond first order is made of, on networks that take no time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from tism import build_model, ism, tism
from tism.double_mutants import interaction_map, strongest
from tism.study import ch07_epistasis as beyond
from tism.study.ch07_estimators import trained
from tism.study.data.simulation import simulate
from tism.study.profiles import load_profile
from tism.study.scores import Scores


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TISM_DATA_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def data():
    return simulate(200, 3, seed=0)


def test_entry_changes_its_data_set_only():
    profile = load_profile("yeast")
    entry = {"dataset": "simulated", "variant": "relu", "data": {"length": 500}}
    found = beyond.experiment_of(profile, {**entry, "model": {"pool": 3}}, 2)
    assert (found.dataset, found.variant, found.seed) == ("simulated", "relu", 2)
    assert found.profile.data["simulated"] == {**profile.data["simulated"], "length": 500}
    assert found.profile.model["simulated"] == {"width": 64, "pool": 3}
    assert found.profile.data["yeast"] == profile.data["yeast"]
    assert found.profile.training == profile.training


def test_tables_are_kept_by_network_and_settings(tiny_dataset):
    model = build_model("cnn0", length=24, n_tasks=4, width=4, seed=0)
    networks = [trained("a", model, tiny_dataset, 3, seed=s) for s in (0, 1)]
    asked = []

    def compute(network):
        asked.append(network.seed)
        return pd.DataFrame({"kind": [network.kind], "seed": network.seed})

    first = beyond.kept("t", networks, compute)
    assert first["seed"].tolist() == [0, 1]
    pd.testing.assert_frame_equal(beyond.kept("t", networks, compute), first)
    assert asked == [0, 1]
    beyond.kept("t", networks, compute, settings=1)
    assert asked == [0, 1, 0, 1]


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
    chosen = scores.ism[[0], [1]]
    maps = beyond.kept_maps(model, x, chosen, [1])
    torch.testing.assert_close(maps[0], interaction_map(model, x, strongest(chosen), 1)[0, 0])
    table = beyond.describe_maps(maps, scores, np.array([0]), np.array([1]), data)
    row = table.iloc[0]
    assert row["task"] == data.tasks[1]
    bases = "".join("ACGT"[b] for b in x[0].argmax(0))
    assert row["sequence"].split("...")[0] in bases
    assert row["sequence"][:6][-1] == bases[row["first"]] or row["first"] < 5
    assert abs(row["interaction"]) == pytest.approx(maps.abs().max().item(), rel=1e-5)
    own = data.truth.sites[data.truth.sites["region"] == rows[0]]
    assert len(beyond.known_sites(x.argmax(1).numpy().astype(np.uint8), "simulated")) == len(own)
