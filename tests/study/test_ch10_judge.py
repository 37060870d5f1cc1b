"""The rules of the verdicts on planted numbers, where each verdict is known."""

from __future__ import annotations

import numpy as np
import pytest

from tism.study.ch10_judge import Sample, decide
from tism.study.statistics import Estimate

INF = np.inf
SPREAD = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])


def kinds(**means):
    return {name: mean + SPREAD for name, mean in means.items()}


def verdict(test, groups, at_least=-INF, at_most=INF, **sample):
    return decide(test, Sample(groups, **sample), at_least, at_most)["verdict"]


@pytest.mark.parametrize(
    ("mean", "expected"), [(0.7, "holds"), (0.9, "does not hold"), (0.795, "undecided")]
)
def test_a_mean(mean, expected):
    assert verdict("mean", kinds(baseline=mean), 0.6, 0.8) == expected


@pytest.mark.parametrize(
    ("relu", "expected"), [(0.6, "holds"), (0.8, "does not hold"), (0.69, "undecided")]
)
def test_a_difference(relu, expected):
    groups = kinds(baseline=0.7, relu=relu, adamw=0.5)
    found = verdict("difference", groups, at_most=0, name="relu", reference="baseline")
    assert found == expected


@pytest.mark.parametrize(
    ("relu", "expected"), [(0.7, "holds"), (0.8, "does not hold"), (0.74, "undecided")]
)
def test_equivalence(relu, expected):
    groups = kinds(baseline=0.7, relu=relu)
    about = {"name": "relu", "reference": "baseline"}
    assert verdict("equivalence", groups, -0.05, 0.05, **about) == expected
    assert verdict("equivalence", kinds(baseline=relu - 0.7), -0.05, 0.05) == expected


def test_equivalence_takes_the_90_percent_interval_and_its_refusal_the_95_percent_one():
    values = kinds(baseline=0.0)["baseline"]
    error = values.std(ddof=1) / np.sqrt(5)
    bound = 2.4 * error  # t is 2.13 at 90 % and 2.78 at 95 %
    assert verdict("equivalence", {"baseline": values}, -bound, bound) == "holds"
    assert verdict("mean", {"baseline": values}, -bound, bound) == "undecided"
    assert verdict("equivalence", {"baseline": values}, bound, INF) == "undecided"


def test_no_worse_has_one_bound():
    groups = kinds(baseline=0.3, relu=0.5)
    about = {"name": "relu", "reference": "baseline"}
    assert verdict("equivalence", groups, -0.02, INF, **about) == "holds"


@pytest.mark.parametrize(
    ("mean", "expected"), [(-0.95, "holds"), (-0.2, "does not hold"), (-0.81, "undecided")]
)
def test_a_correlation(mean, expected):
    assert verdict("correlation", kinds(baseline=mean), at_most=-0.8) == expected


@pytest.mark.parametrize(
    ("mean", "expected"), [(0.0, "holds"), (0.3, "does not hold"), (0.09, "undecided")]
)
def test_no_correlation(mean, expected):
    groups = kinds(baseline=mean)
    assert verdict("correlation equivalence", groups, -0.1, 0.1) == expected


@pytest.mark.parametrize(
    ("relu", "expected"), [(0.4, "holds"), (0.7, "does not hold"), (0.495, "undecided")]
)
def test_the_lowest_and_the_highest(relu, expected):
    groups = kinds(baseline=0.7, relu=relu, adamw=0.5)
    assert verdict("lowest", groups, 0, name="relu") == expected
    negated = {kind: -values for kind, values in groups.items()}
    assert verdict("highest", negated, 0, name="relu") == expected


@pytest.mark.parametrize(
    ("relu", "expected"), [(0.7, "holds"), (0.5, "does not hold"), (0.61, "undecided")]
)
def test_every_kind(relu, expected):
    assert verdict("every", kinds(baseline=0.8, relu=relu), 0.6) == expected


def test_pairs_have_the_interval_of_the_jackknife():
    pairs = {(i, j): 0.3 + (i + j) / 1000 for i in range(5) for j in range(i + 1, 5)}
    found = decide("mean", Sample(pairs=pairs), 0.48, 0.68)
    assert found["verdict"] == "does not hold"
    assert found["n"] == 5


def test_a_claim_is_pending_while_a_network_is_missing():
    found = decide("mean", Sample(kinds(baseline=0.7), wants=["yeast_baseline_5"]), 0.6, 0.8)
    assert found["verdict"] == "pending"
    assert found["value"] == pytest.approx(0.7)
    groups = kinds(baseline=0.7, relu=0.1)
    absent = decide("lowest", Sample(groups, "relu", wants=["yeast_adamw_0"]), 0, INF)
    assert np.isnan(absent["value"])  # which kinds are missing, nobody can say


def test_seeds_that_a_decision_would_need_make_it():
    found = decide("mean", Sample(kinds(baseline=0.79)), 0.6, 0.8)
    many = np.tile(kinds(baseline=0.79)["baseline"], 8)
    assert found["verdict"] == "undecided"
    assert 5 < found["seeds"] < 40
    assert verdict("mean", {"baseline": many}, 0.6, 0.8) == "holds"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.61, 0.79, "holds"),
        (0.60, 0.80, "holds"),
        (0.81, 0.90, "does not hold"),
        (0.30, 0.59, "does not hold"),
        (0.55, 0.65, "undecided"),
        (0.50, 0.90, "undecided"),
        (np.nan, np.nan, "undecided"),
    ],
)
def test_an_interval_that_a_table_has(low, high, expected):
    found = decide("mean", Sample(known=Estimate(0.7, low, high, 3)), 0.6, 0.8)
    assert found["verdict"] == expected
    assert np.isnan(found["seeds"])  # more seeds would not shorten it
