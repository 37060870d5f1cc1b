"""Statistics over networks, against scipy, simulation and each other."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tism.study.statistics import compare_with, jackknife_pairs, mean_of, means


def test_a_mean_has_the_t_interval_of_scipy():
    values = [0.70, 0.74, 0.71]
    test = stats.ttest_1samp(values, 0).confidence_interval(0.95)

    assert mean_of(values) == pytest.approx((np.mean(values), test.low, test.high, 3))


def test_one_network_has_a_value_and_no_interval():
    value, low, high, n = mean_of([0.7])

    assert (value, n) == (0.7, 1)
    assert np.isnan([low, high]).all()


def test_no_network_is_refused():
    with pytest.raises(ValueError, match="values is empty"):
        mean_of([])


def test_means_keep_the_order_of_the_groups():
    table = pd.DataFrame({"variant": list("bba"), "seed": [0, 1, 0], "r": [0.5, 0.7, 0.1]})

    found = means(table, "r", ["variant"])

    assert found["variant"].tolist() == ["b", "a"]
    assert found["value"].tolist() == pytest.approx([0.6, 0.1])
    assert found["n"].tolist() == [2, 1]


def test_corrected_p_values_are_those_of_holm():
    rng = np.random.default_rng(0)
    reference = rng.normal(0, 1, 4)
    groups = {str(k): rng.normal(k / 2, 1, 3) for k in range(6)}

    found = compare_with(reference, groups).set_index("name")

    raw = {k: stats.ttest_ind(v, reference, equal_var=False).pvalue for k, v in groups.items()}
    ranked, largest = sorted(raw, key=raw.get), 0.0
    for rank, name in enumerate(ranked):
        largest = max(largest, min(1, (6 - rank) * raw[name]))
        assert found.loc[name, "p"] == pytest.approx(largest)


@pytest.mark.parametrize("seed", range(20))
def test_an_interval_leaves_out_zero_exactly_where_holm_rejects(seed: int):
    rng = np.random.default_rng(seed)
    reference = rng.normal(0, 0.3, 4)
    groups = {str(k): rng.normal(k / 3, 0.3, 3) for k in range(8)}

    found = compare_with(reference, groups)

    excludes = (found["low"] > 0) | (found["high"] < 0)
    assert (excludes == (found["p"] < 0.05)).all()
    assert ((found["low"] < found["value"]) & (found["value"] < found["high"])).all()


def test_a_single_network_is_compared_without_an_interval_and_does_not_count():
    reference, pair = [0.70, 0.71, 0.69], [0.80, 0.82]

    both = compare_with(reference, {"one": [0.9], "pair": pair}).set_index("name")
    alone = compare_with(reference, {"pair": pair}).set_index("name")

    assert np.isnan(both.loc["one", ["low", "high", "p"]].astype(float)).all()
    assert both.loc["one", "value"] == pytest.approx(0.2)
    assert both.loc["pair", "p"] == alone.loc["pair", "p"]


def test_without_groups_there_is_nothing_to_compare():
    table = compare_with([0.7, 0.8], {})

    assert table.empty
    assert list(table) == ["name", "value", "low", "high", "p", "n"]


def test_jackknife_intervals_over_networks_cover_the_truth():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        own = rng.normal(0, 1, 5)  # what a network adds to every pair it is in
        pairs = {(i, j): own[i] + own[j] for i in range(5) for j in range(i)}
        mean = jackknife_pairs(pairs)
        covered.append(mean.low <= 0 <= mean.high)

    assert 0.92 <= np.mean(covered) <= 0.98


def test_the_jackknife_of_two_networks_has_no_interval():
    assert jackknife_pairs({(0, 1): 0.5})[:1] == (0.5,)
    assert np.isnan(jackknife_pairs({(0, 1): 0.5})[1:3]).all()


def test_a_missing_pair_is_named():
    with pytest.raises(ValueError, match=r"each pair of the networks \[0, 1, 2\] once"):
        jackknife_pairs({(0, 1): 0.5, (1, 2): 0.4})
