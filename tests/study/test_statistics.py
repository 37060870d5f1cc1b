"""Statistics over networks and over loci, against scipy, simulation and each other."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from tism.correlations import pearson
from tism.study import statistics
from tism.study.profiles import repository
from tism.study.statistics import (
    Planned,
    at_equal,
    below_all_others,
    bounds_of_lowest,
    compare_all_with,
    detectable,
    equivalence,
    fit_line,
    holm,
    jackknife_pairs,
    mean_correlation,
    mean_of,
    means,
    nested_interval,
    power_table,
    summarise,
    weighted_pearson,
)


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
    p = np.random.default_rng(0).uniform(0, 0.1, 6)

    ranked, largest, expected = np.argsort(p), 0.0, np.empty(6)
    for rank, place in enumerate(ranked):
        largest = max(largest, min(1, (6 - rank) * p[place]))
        expected[place] = largest
    assert holm(p) == pytest.approx(expected)


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


# Dunnett 1955: breaking strength of cloth by the standard process and by three others. The variance
# is 19; the two-sided 5 % point of three comparisons with 8 degrees of freedom is 2.88.
CLOTH = {"1": [55, 64, 64], "2": [55, 49, 52], "3": [50, 44, 41]}
STANDARD = [55, 47, 48]


def test_comparison_with_the_reference_is_dunnetts():
    found = compare_all_with(STANDARD, CLOTH).set_index("name")

    assert found["value"].tolist() == pytest.approx([11, 2, -5])
    reach = 2.88 * np.sqrt(19 * 2 / 3)
    assert found["high"].sub(found["value"]).tolist() == pytest.approx([reach] * 3, abs=0.03)
    assert found["value"].sub(found["low"]).tolist() == pytest.approx([reach] * 3, abs=0.03)
    assert (found["p"] < 0.05).tolist() == [True, False, False]


def test_interval_of_dunnett_leaves_out_zero_exactly_where_it_rejects():
    rng = np.random.default_rng(1)
    groups = {str(k): rng.normal(k / 3, 0.3, 3) for k in range(8)}

    found = compare_all_with(rng.normal(0, 0.3, 5), groups)

    outside = (found["low"] > 0) | (found["high"] < 0)
    assert outside.tolist() == (found["p"] < 0.05).tolist()
    assert 0 < outside.sum() < len(groups)


def test_quantile_of_dunnett_is_that_of_his_table():
    for n_groups, freedom, quantile in [(1, 10, 2.23), (4, 20, 2.65), (9, 40, 2.81)]:
        assert statistics._dunnett_quantile(n_groups, freedom) == pytest.approx(quantile, abs=0.015)


def test_equivalence_is_two_one_sided_tests():
    rng = np.random.default_rng(2)
    a, b, margin = rng.normal(0, 1, 20), rng.normal(0.1, 1, 25), 0.8
    upper = stats.ttest_ind(b, a + margin, alternative="less").pvalue
    lower = stats.ttest_ind(b, a - margin, alternative="greater").pvalue

    (row,) = equivalence(a, {"b": b}, margin).to_dict("records")

    assert row["p"] == pytest.approx(max(upper, lower))
    interval = stats.ttest_ind(b, a).confidence_interval(0.90)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("margin", np.linspace(0.1, 1.5, 8))
def test_equivalence_is_proved_exactly_where_the_interval_lies_within_the_margin(margin: float):
    rng = np.random.default_rng(3)
    groups = {str(k): rng.normal(k / 5, 0.5, 3) for k in range(6)}

    found = equivalence(rng.normal(0, 0.5, 5), groups, margin)

    within = (-margin < found["low"]) & (found["high"] < margin)
    assert within.tolist() == (found["p"] < 0.05).tolist()


def test_lowest_is_tested_against_every_other_group():
    rng = np.random.default_rng(4)
    a, b = rng.normal(0, 1, 6), rng.normal(1.5, 1, 7)

    test = stats.ttest_ind(b, a).confidence_interval(0.9)
    assert below_all_others({"a": a, "b": b}, "a")[1:3] == pytest.approx((test.low, test.high))
    assert below_all_others({"a": a, "b": b, "like a": a + 0.01}, "a").low < 0
    assert below_all_others({"a": a, "b": b}, "b").value < 0


def test_bounds_of_the_lowest_mean_rarely_miss_it():
    rng, true = np.random.default_rng(5), [0.0, 0.1, 2.0]
    low, high = np.transpose(
        [bounds_of_lowest({str(m): rng.normal(m, 0.3, 4) for m in true}) for _ in range(400)]
    )

    assert (low > 0).mean() <= 0.05 + 0.03
    assert (high < 0).mean() <= 0.05 + 0.03
    assert (low < high).all()


def test_correlations_are_averaged_by_fishers_z():
    r = [0.2, 0.5, 0.8]
    test = stats.ttest_1samp(np.arctanh(r), 0).confidence_interval()

    found = mean_correlation(r)

    assert found == pytest.approx((*np.tanh([np.mean(np.arctanh(r)), test.low, test.high]), 3))


def test_networks_on_one_line_are_equal_at_equal_covariate():
    rng = np.random.default_rng(7)
    gap = rng.uniform(0, 0.2, 12)
    table = pd.DataFrame({"run": np.repeat(list("abcd"), 3), "gap": gap})
    table["kind"] = table["run"].map({"a": "x", "b": "x", "c": "y", "d": "y"})
    table["r"] = 0.9 - 2 * gap - 0.1 * (table["kind"] == "y")

    found = at_equal(table, "r", "gap", kind="kind", network="run")

    expected = 0.9 - 2 * gap.mean() - np.array([0, 0, 0.1, 0.1])
    assert found.tolist() == pytest.approx(expected.tolist())
    assert found.index.get_level_values("run").tolist() == list("abcd")


def test_power_is_what_simulated_designs_have():
    plan = Planned(n_reference=5, n_groups=3, freedom=4 * 4, n=(5,))
    difference, margin = detectable(0.04**2, 5, plan)
    quantile = statistics._dunnett_quantile(3, 16)
    rng, found, proved = np.random.default_rng(8), [], []
    for _ in range(1000):
        reference, *others = rng.normal(0.8, 0.04, (4, 5))
        groups = {"other": others[0] + difference, "b": others[1], "c": others[2]}
        variance, _ = statistics._pooled([reference, *groups.values()])
        t = (groups["other"].mean() - reference.mean()) / np.sqrt(variance * 2 / 5)
        found.append(abs(t) > quantile)
        proved.append(equivalence(reference, groups, margin)["p"][1] < 0.05)

    assert np.mean(found) == pytest.approx(0.8, abs=0.04)
    assert np.mean(proved) == pytest.approx(0.8, abs=0.04)


def test_power_of_the_page_is_computed_from_the_record():
    results = repository() / "data" / "results"
    models = pd.read_csv(results / "yeast" / "models.csv", dtype={"control": str})

    found = power_table(models.fillna({"control": ""}))

    shown = pd.read_csv(results / "evidence" / "power.csv")
    pd.testing.assert_frame_equal(found.round(3), shown)


def test_nested_interval_counts_networks_as_units():
    spread = [torch.full((50, 1), v).double() for v in (0.2, 0.5, 0.8)]
    loci = [np.arange(50)] * 3
    low, high = nested_interval(spread, loci)
    assert low < 0.31
    assert high > 0.69
    same = [0.5 + 0.1 * torch.randn(50, 1).double() for _ in range(3)]
    low, high = nested_interval(same, loci)
    assert high - low < 0.1


def test_weighted_correlation_is_that_of_repeated_rows():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 6, 3))
    weights = np.array([[2, 0, 1, 1, 3, 0], [1, 1, 1, 1, 1, 1]])
    found = weighted_pearson(x, y, weights)
    repeated = np.repeat(np.arange(6), weights[0])
    torch.testing.assert_close(found[0], pearson(x[repeated], y[repeated], 0))
    torch.testing.assert_close(found[1], pearson(x, y, 0))
    torch.testing.assert_close(weighted_pearson(x + 1e7, y - 1e7, weights), found)
    alike = torch.randn(7, 3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for scale in (3, -3):  # rounding must not take it beyond one
        assert weighted_pearson(alike, scale * alike, torch.ones(1, 7)).abs().max() == 1


def test_weighted_correlation_of_what_the_weights_make_constant_does_not_exist():
    x = np.array([[1.0, 5.0, 2.0], [2.0, 5.0, 2.0], [4.0, 5.0, 3.0]])
    y = np.random.default_rng(0).normal(size=(3, 3))
    for found in (weighted_pearson(x, y, [[1, 1, 0]]), weighted_pearson(y, x, [[1, 1, 0]])):
        assert found.isnan().tolist() == [[False, True, True]]


@pytest.mark.parametrize("scale", [1e-8, 1, 1e8])
def test_weighted_correlation_tells_constant_from_small(scale):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 4, 50))
    weights = rng.uniform(0.1, 1, (5, 4))
    expected = weighted_pearson(x, y, weights)
    assert not expected.isnan().any()
    for found in (weighted_pearson(scale * x, y, weights), weighted_pearson(y, scale * x, weights)):
        torch.testing.assert_close(found, expected)
    x[:3], weights[:, 3] = x[0], 0  # constant but for rounding
    for found in (weighted_pearson(scale * x, y, weights), weighted_pearson(y, scale * x, weights)):
        assert found.isnan().all()


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_interval_is_the_percentile_bootstrap_of_scipy(confidence):
    values = np.random.default_rng(3).exponential(size=40)
    expected = stats.bootstrap(
        (values,),
        np.mean,
        method="percentile",
        n_resamples=1000,
        confidence_level=confidence,
        vectorized=False,
        rng=np.random.default_rng(0),
    ).confidence_interval

    found = summarise(values, np.arange(40), confidence=confidence)

    assert (found.low, found.high) == pytest.approx(expected)


def test_summarise_counts_what_does_not_exist():
    values = torch.tensor([[0.5, float("nan")], [0.7, 0.9], [0.1, 0.3]])

    summary = summarise(values, loci=["a", "a", "b"], n_resamples=100)

    assert summary.value == pytest.approx(0.5)
    assert (summary.n_profiles, summary.n_constant, summary.n_loci) == (5, 1, 2)
    assert summary.low == pytest.approx(0.2)  # locus b twice
    assert summary.high == pytest.approx(0.7)  # locus a twice


def test_summarise_takes_any_statistic_and_a_seed():
    values = np.random.default_rng(10).normal(size=50)

    first, second, other = (
        summarise(values, np.arange(50), np.median, n_resamples=99, seed=seed) for seed in (1, 1, 2)
    )

    assert first == second
    assert first != other
    assert first.value == np.median(values)
    assert first.low < first.value < first.high


def test_one_locus_has_no_interval():
    summary = summarise([0.2, 0.4], loci=[3, 3])

    assert summary.value == pytest.approx(0.3)
    assert summary.n_loci == 1
    assert np.isnan([summary.low, summary.high]).all()


def test_summarise_refuses_a_table_without_values():
    with pytest.raises(ValueError, match="none of the 4 values exists: every profile is constant"):
        summarise(np.full((2, 2), np.nan), loci=[0, 1])


def test_a_locus_without_a_value_does_not_spoil_the_interval():
    summary = summarise([np.nan, 0.4, 0.8], loci=[0, 1, 2], n_resamples=200)

    assert summary.value == pytest.approx(0.6)
    assert (summary.low, summary.high) == (pytest.approx(0.4), pytest.approx(0.8))
    assert (summary.n_profiles, summary.n_constant) == (2, 1)


@pytest.mark.parametrize("loci", [[0, 1], []])
def test_every_region_needs_a_locus(loci):
    with pytest.raises(ValueError, match=rf"loci.*{len(loci)}.*3"):
        summarise([0.1, 0.2, 0.3], loci)


def test_the_interval_over_loci_covers_the_truth_where_the_naive_one_does_not():
    rng = np.random.default_rng(12)
    loci, regions = 25, 8
    covered = {"loci": 0, "regions": 0}
    repeats = 40
    for seed in range(repeats):
        effect = rng.normal(0.5, 0.2, loci)
        values = (effect[:, None] + rng.normal(0, 0.05, (loci, regions))).ravel()
        labels = {"loci": np.arange(loci).repeat(regions), "regions": np.arange(values.size)}
        for name, label in labels.items():
            summary = summarise(values, label, n_resamples=100, seed=seed)
            covered[name] += summary.low <= 0.5 <= summary.high

    assert covered["loci"] >= 0.85 * repeats
    assert covered["regions"] <= 0.65 * repeats


GIRLS = """21 20 21.5 23, 21 21.5 24 25.5, 20.5 24 24.5 26, 23.5 24.5 25 26.5, 21.5 23 22.5 23.5,
20 21 21 22.5, 21.5 22.5 23 25, 23 23 23.5 24, 20 21 22 21.5, 16.5 19 19 19.5, 24.5 25 28 28"""


def test_a_line_is_that_of_a_mixed_model():
    """Growth of 11 girls at 8, 10, 12 and 14 years, Pinheiro and Bates (2000), section 1.4.1."""
    distance = np.array([[float(x) for x in girl.split()] for girl in GIRLS.split(",")])
    ages = np.tile([8.0, 10, 12, 14], 11)

    found = fit_line(ages, distance.ravel(), np.repeat(np.arange(11), 4))

    assert found[:2] == pytest.approx((17.372727, 0.479545), abs=1e-5)
    assert (found.between, found.within) == pytest.approx((2.06847, 0.7800331), rel=1e-4)
    assert found.high - found.slope == pytest.approx(stats.t.ppf(0.975, 32) * 0.0525898, rel=1e-4)
    with pytest.raises(ValueError, match="a line wants several readings of two networks, got 4"):
        fit_line(ages[:4], distance[0], [0] * 4)
