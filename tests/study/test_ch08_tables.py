"""The tables of chapter 08: what is committed is whole, and the choices made from it are right."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tism.study.ch08_attribution import EFFECT_PREDICTORS
from tism.study.ch08_networks import EXTERNAL
from tism.study.ch08_reliability import LONG, reliability_coverage
from tism.study.ch08_tables import (
    TABLES,
    letter_maps,
    recorded_tables,
    shown_elements,
    strongest_stretch,
)


@pytest.fixture(scope="module")
def tables():
    return recorded_tables()


def test_the_record_has_every_table_without_a_gap(tables):
    assert list(tables) == list(TABLES)
    mpra, concordance = tables["mpra"], tables["concordance"]
    assert mpra.columns.tolist() == [
        "element", "model", "method", "pearson", "spearman", "sign_agreement", "low", "high",
        "n_variants",
    ]  # fmt: skip
    assert concordance.columns.tolist() == [
        "model", "method", "convention", "mean_r", "low", "high", "n_sequences", "n_tasks",
    ]  # fmt: skip
    assert mpra["element"].nunique() == 21
    assert set(concordance["model"]) == set(EXTERNAL)
    assert set(mpra["model"]) == {"calderon", "deepstarr", "mpra_dragonn"}
    assert set(EFFECT_PREDICTORS) <= set(mpra["method"])
    assert not mpra.duplicated(["element", "model", "method"]).any()
    assert (mpra["low"] <= mpra["pearson"]).all()
    assert (mpra["pearson"] <= mpra["high"]).all()
    assert (concordance["low"] < concordance["mean_r"]).all()


def test_the_ports_passed_their_checks(tables):
    checks = tables["port_checks"]
    assert set(checks["model"]) == set(EXTERNAL)
    assert checks["agrees"].all()


def test_reliability_is_seldom_wrong_about_networks_it_has_not_seen(tables):
    told = tables["reliability"].set_index("model")
    assert set(told.index) == {*EXTERNAL, LONG, "all"}
    assert told["coverage90"].min() > 0.8
    assert told["wrong"].max() < 0.1
    pd.testing.assert_frame_equal(
        reliability_coverage(tables["reliability_errors"]),
        tables["reliability"],
        rtol=1e-3,
        check_dtype=False,
    )


def test_deep_lift_accounts_for_the_predictions(tables):
    assert tables["mpra_deltas"]["delta"].max() < 0.01


def test_two_elements_are_shown_by_how_well_they_are_predicted():
    matches = {"a": "same", "b": "none", "c": "same", "d": "same"}
    loci = [SimpleNamespace(name=name, match=match) for name, match in matches.items()]
    table = pd.DataFrame(
        {"element": list("abcd"), "pearson": [0.2, 0.9, 0.6, 0.1], "method": "ISM"}
    ).assign(model="mpra_dragonn")
    assert [locus.name for locus in shown_elements(table, loci)] == ["c", "d"]


def test_the_strongest_stretch_and_its_letters():
    table = pd.DataFrame({"position": range(200), "base": list("ACGTN" * 40)})
    table["measured"] = np.where(table["position"].between(100, 120), -1.0, 0.0)
    table.loc[105, "measured"] = np.nan
    table["ISM"] = 2.0
    stretch = strongest_stretch(table)
    assert len(stretch) == 80
    assert stretch["measured"].sum() == -20

    maps = letter_maps(table.iloc[100:105].assign(element="a", model="m"))
    assert list(maps) == ["measured", "ISM"]
    np.testing.assert_array_equal(maps["ISM"][:, :4], 2 * np.eye(4))
    assert not maps["ISM"][:, 4].any()
