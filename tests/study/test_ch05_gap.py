"""The line of the gap on planted networks, and that nothing is predicted by its own readings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tism.study import ch05_gap as study
from tism.study.profiles import load_profile

OTHERS, EARLIER = "all other networks", "the earlier networks"


def planted(networks: int, *, record: str = "earlier", start: float = 0.9, noise: float = 0.01):
    """Six snapshots of each network along r = start - 1.5 gap, read with a little noise."""
    rng = np.random.default_rng(len(record))
    rows = [
        {"seed": seed, "epoch": epoch, "gap": gap, "r": start - 1.5 * gap + rng.normal(0, noise)}
        for seed in range(networks)
        for epoch, gap in zip((8, 10, 13, 17, 22, 30), rng.uniform(0, 0.2, 6).cumsum(), strict=True)
    ]
    table = pd.DataFrame(rows).assign(record=record, dataset="yeast", variant="baseline")
    table = table.assign(control="", fraction=1.0, reading="epoch", after=True, fits=True)
    return table.assign(
        run=table["seed"].astype(str),
        own_gap=table["gap"],
        size=rng.uniform(1, 2, len(table)),
        test=0.3,
    )


def test_a_network_is_predicted_by_the_others_only():
    rows = planted(4)
    rows.loc[rows["seed"] == 0, "r"] -= 0.5  # which no line through the others can know

    found = study.training_gap(rows).query("fitted_on == @OTHERS")

    odd = found[found["seed"] == 0]
    assert (odd["predicted"] - odd["r"] > 0.4).all()
    assert odd["predicted"].to_numpy() == pytest.approx(0.9 - 1.5 * odd["gap"], abs=0.03)


def test_new_networks_are_predicted_by_the_earlier_line():
    rows = pd.concat([planted(4), planted(3, record="new", start=0.8)], ignore_index=True)

    predicted = study.training_gap(rows)
    off = study.errors(predicted).query("fitted_on == @EARLIER")

    assert set(off["record"]) == {"new"}  # the earlier ones made the line
    assert off["offset"].tolist() == pytest.approx([-0.1], abs=0.01)
    assert off["value"].tolist() == pytest.approx([0.1], abs=0.01)
    assert off["n"].tolist() == [3]


def test_a_line_wants_two_networks():
    rows = planted(1)

    assert study.training_gap(rows).empty
    assert study.lines(rows).empty
    assert study.errors(study.training_gap(rows)).empty
    assert study.covariates(rows).empty
    assert np.isnan(study.numbers(rows, study.training_gap(rows), "yeast")["slope"])


def test_a_covariate_that_r_does_not_follow_predicts_worse():
    found = study.covariates(planted(5)).set_index("covariate")

    assert found.loc["gap", "value"] < -0.95
    assert found.loc["gap", "high"] < found.loc["logarithm of the epoch", "value"]
    assert found.loc["gap", "error_high"] < found.loc["logarithm of the epoch", "error"]


def test_snapshots_of_one_training_are_one_network_whatever_the_run_is_called():
    rows = planted(4)
    rows.loc[rows["epoch"] > 20, "run"] += "_epochs"  # the same weights, in a run of more epochs

    assert set(study.lines(rows)["n_networks"]) == {4}


def test_readings_are_fitted_to_only_where_their_training_is_the_baselines():
    rows = study.readings(load_profile("yeast"), load_profile("evidence"))
    fits = rows[rows["fits"]]

    assert set(fits["variant"]) == {"baseline"}
    assert set(fits["control"]) <= {"", "warmup14"}
    assert (fits["fraction"] == 1).all()
    assert (fits["epoch"] >= 7).all()
    assert set(rows["record"]) == {"earlier", "new"}
    assert (
        rows["own_gap"].isna() == ((rows["fraction"] < 1) & (rows["record"] == "earlier"))
    ).all()


def test_a_profile_of_its_own_networks_has_no_later_ones():
    yeast = load_profile("yeast")

    assert set(study.readings(yeast, yeast)["record"]) == {"earlier"}
