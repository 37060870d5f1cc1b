"""The tables of the estimators: their columns, their measures, their intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from tism import build_model, ism, tism
from tism.study import ch07_networks, statistics
from tism.study.ch07_estimators import (
    Estimator,
    depth_profiles,
    depth_table,
    estimator_profiles,
    estimator_table,
    estimators,
    fit_calibration,
    midpoints,
    r_at_cost,
    reliability_errors,
    reliability_table,
)
from tism.study.ch07_networks import JudgedNetwork, by_network, draw_regions, experiment_of
from tism.study.profiles import load_profile


@pytest.fixture
def networks(tiny_dataset) -> list[JudgedNetwork]:
    """Two networks of one kind and one of another, on validation regions of 24 bp."""
    built = [("one", "cnn0", 0), ("one", "cnn0", 1), ("other", "relu", 0)]
    models = [build_model(v, length=24, n_tasks=4, width=4, seed=s).double() for _, v, s in built]
    how = {"split": "validation", "n_groups": 2}
    return [
        draw_regions(kind, model, tiny_dataset, 6, seed=seed, **how)
        for (kind, _, seed), model in zip(built, models, strict=True)
    ]


def test_regions_keep_their_tasks_and_order(networks):
    network = networks[0]
    (scores,) = network.each(lambda x, tasks: (tism(network.model, x, tasks),))
    for row in range(6):
        tasks = network.tasks[row % 2]
        expected = tism(network.model, network.one_hot[[row]], tasks)[0]
        torch.testing.assert_close(scores[row], expected)


def test_entry_changes_its_data_set_only():
    profile = load_profile("yeast")
    entry = {"dataset": "simulated", "variant": "relu", "data": {"length": 500}}
    found = experiment_of(profile, {**entry, "model": {"pool": 3}}, 2)
    assert (found.dataset, found.variant, found.seed) == ("simulated", "relu", 2)
    assert found.profile.data["simulated"] == {**profile.data["simulated"], "length": 500}
    assert found.profile.model["simulated"] == {"width": 64, "pool": 3}
    assert found.profile.data["yeast"] == profile.data["yeast"]
    assert found.profile.training == profile.training


def test_estimator_table(networks):
    wrong = Estimator(lambda model, x, tasks, _: (-ism(model, x, tasks), x == 1))
    known = estimators(["pool"], m=[72], m_in_full=[20, 72]) | {"wrong": wrong}
    table = estimator_table(pd.concat(estimator_profiles(n, known) for n in networks))
    columns = "network estimator n_tasks m cost mean_r low high r_not_exact recall20"
    columns += " share_not_below_tism n_profiles gap_closed seconds n_networks"
    assert [*table] == columns.split()
    one = table[table["network"] == "one"].set_index("estimator")
    assert one.loc["TISM", "share_not_below_tism"] == 1
    assert one.loc["TISM", "gap_closed"] == 0
    assert one.loc["TISM", "n_profiles"] == 12
    assert one.loc["TISM", "n_networks"] == 2
    assert one.loc["wrong", "mean_r"] == pytest.approx(-1)
    assert one.loc["wrong", "share_not_below_tism"] == 0
    assert one.loc["wrong", "recall20"] == pytest.approx(1)
    assert one.loc["layer-wise, pool", "mean_r"] == pytest.approx(1)  # the rest of cnn0 is linear
    assert one.loc["ISM", "gap_closed"] == pytest.approx(1)
    assert (table["low"] <= table["mean_r"] + 1e-9).all()
    assert (table["high"] >= table["mean_r"] - 1e-9).all()
    assert (table[["cost", "seconds"]] > 0).all(axis=None)
    black_box = one.loc["budgeted, black box"].set_index("m")["mean_r"]
    assert one.loc["TISM", "mean_r"] <= black_box.loc[20] < black_box.loc[72]
    for all_exact in (black_box.loc[72], one.loc["budgeted", "mean_r"]):
        assert all_exact == pytest.approx(1)


def test_r_at_a_cost_is_that_of_the_largest_m():
    rows = pd.DataFrame({"kind": "a", "seed": [0, 0, 0, 0, 1], "estimator": "budgeted"})
    rows = rows.assign(
        m=[50, 100, 100, 150, 50], cost=[10, 24, 24, 26, 30], r=[0.5, 0.6, 0.8, 1, 1]
    )
    found = r_at_cost(rows, 25).set_index("seed")["value"]
    assert found[0] == pytest.approx(0.7)
    assert np.isnan(found[1])  # it is dearer with every m
    assert r_at_cost(rows.assign(estimator="budgeted, black box"), 25).empty


def test_numbers_of_single_networks_have_the_names_of_their_runs():
    values = pd.DataFrame({"kind": ["x", "y"], "seed": [2, 0], "value": [0.1, 0.2]})
    entries = [{"kind": "x", "dataset": "yeast"}]
    entries += [{"kind": "y", "dataset": "simulated", "variant": "relu", "seeds": 3}]
    found = by_network({"claim": values}, entries)
    assert found.to_dict("records") == [
        {"claim_id": "claim", "dataset": "yeast", "kind": "baseline", "run": "yeast_baseline_2",
         "value": 0.1},
        {"claim_id": "claim", "dataset": "simulated", "kind": "relu", "run": "simulated_relu_0",
         "value": 0.2},
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Fewer resamples and smaller batches."""
    monkeypatch.setattr(statistics, "_RESAMPLES", 200)
    monkeypatch.setattr(ch07_networks, "_BATCHES", (8,))


def test_depth_table_rises_from_tism_to_ism(networks):
    table = depth_table(pd.concat(map(depth_profiles, networks[:2])))
    assert table["layer"].tolist()[0] == "input"
    assert table["depth"].tolist() == list(range(len(table)))
    assert table["mean_r"].iloc[0] < table["mean_r"].iloc[-1] == pytest.approx(1)
    assert (table["n_profiles"] == 12).all()
    assert (table["n_networks"] == 2).all()


def test_reliability_tables(networks):
    errors = pd.concat(reliability_errors(n, 30) for n in networks)
    assert len(errors) == 18
    calibration = fit_calibration(errors)
    assert calibration.low < 0 < calibration.high
    table = reliability_table({30: errors}, calibration)
    columns = "network m mae mae_constant coverage90 coverage_low coverage_high width n_profiles"
    assert [*table] == columns.split()
    assert table["network"].tolist() == ["one", "other", "all"]
    assert table["coverage90"].iloc[-1] >= 0.8  # of the profiles that it was fitted to
    assert (table["mae"] >= 0).all()


def test_calibration_finds_the_scale_of_drawn_errors():
    rng = np.random.default_rng(0)
    number, left = rng.uniform(200, 4000, 4000), rng.choice([0.5, 1.0, 1.4], 4000)
    error = 0.8 * number**-0.4 * left**0.7 * rng.laplace(size=4000)
    z = rng.uniform(0.2, 1.5, 4000)
    found = np.tanh((z + error) * (1 + 0.3 * left))
    errors = {"true": np.tanh(z), "found": found, "kind": "a", "left": left}
    how = fit_calibration(pd.DataFrame({**errors, "number": number}))
    assert how.power == pytest.approx(-0.4, abs=0.06)
    assert how.scale * 1000**how.power == pytest.approx(0.8 * 1000**-0.4, rel=0.05)
    assert how.decay == pytest.approx(0.7, abs=0.1)  # of which 0.04 is chance
    assert how.bias == pytest.approx(0.3, abs=0.02)
    assert [how.low, how.high] == pytest.approx([-2.3, 2.3], abs=0.15)


def test_midpoints_are_exact_for_second_order_in_single_positions(bases):
    class Squares(torch.nn.Module):
        def forward(self, x):
            weight = torch.arange(4).to(x)[:, None]
            return (x * weight).sum(1).square().sum(1, keepdim=True)

    exact = ism(Squares(), bases)
    torch.testing.assert_close(midpoints(Squares(), bases), exact)
    assert not torch.allclose(tism(Squares(), bases), exact)
