"""Comparisons of chapter 04 on maps whose answer is known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from tism import one_hot_encode
from tism.study.ch04_agreement import (
    CONVENTIONS,
    association_table,
    auroc,
    compare_motifs,
    concordance_table,
    correlations_with_ism,
    example_region,
    over_networks,
    planted_base_table,
    region_table,
    uncut_window,
)
from tism.study.data.dataset import Dataset
from tism.study.scores import Scores
from tism.study.statistics import mean_correlation, mean_of
from tism.taylor import tism_from_gradient

N, TASKS, LENGTH = 6, 3, 40


@pytest.fixture
def one_hot():
    letters = np.random.default_rng(1).choice(list("ACGT"), (N, LENGTH))
    return one_hot_encode(["".join(row) for row in letters])


@pytest.fixture
def scores(one_hot):
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(N, TASKS, 4, LENGTH, generator=generator)
    noise = torch.randn(N, TASKS, 4, LENGTH, generator=generator) * (one_hot == 0)[:, None]
    return Scores(
        rows=np.arange(N),
        one_hot=one_hot,
        ism=tism_from_gradient(gradient, one_hot) + 0.5 * noise,
        gradient=gradient,
        predicted=torch.randn(N, TASKS, generator=generator),
    )


@pytest.fixture
def dataset(one_hot):
    regions = pd.DataFrame(
        {
            "name": [f"r{i}" for i in range(N)],
            "chrom": "chr1",
            "start": np.arange(N) * 100,
            "end": np.arange(N) * 100 + LENGTH,
            "locus": [0, 0, 1, 2, 3, 4],
            "split": "test",
        }
    )
    important = np.zeros((N, LENGTH), bool)
    important[:, 10:20] = True
    return Dataset(
        name="simulated",
        sequences=one_hot.argmax(1).numpy().astype(np.uint8),
        targets=np.random.default_rng(2).normal(4, 1, (N, TASKS)).astype(np.float32),
        tasks=["a", "b", "c"],
        regions=regions,
        flank=0,
        center=np.full(TASKS, 4, np.float32),
        scale=np.ones(TASKS, np.float32),
        notes={},
        truth=SimpleNamespace(important=important),
    )


def test_perfect_maps_correlate_at_one_and_the_gradient_below(scores):
    perfect = Scores(scores.rows, scores.one_hot, scores.tism, scores.gradient, scores.predicted)
    r = correlations_with_ism(perfect)
    for convention in CONVENTIONS:
        torch.testing.assert_close(
            r["TISM", convention], torch.ones_like(r["TISM", convention]), rtol=1e-5, atol=1e-5
        )
    assert (r["gradient", "all entries"] < 0.99).all()


def test_concordance_table_repeats_the_correlations(scores, dataset):
    r = correlations_with_ism(scores)
    table = concordance_table(r, dataset.regions["locus"].to_numpy(), "simulated")
    key = (table.method == "TISM") & (table.convention == "all entries")
    own = table[key].set_index("statistic")
    values = r["TISM", "all entries"].numpy()
    assert own.loc["mean", "value"] == pytest.approx(values.mean())
    assert own.loc["share >= 0.6", "value"] == pytest.approx((values >= 0.6).mean())
    assert (own["n_loci"] == 5).all()
    assert (own["n_profiles"] == N * TASKS).all()
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()


def test_region_table_in_the_unit_of_the_assay(scores, dataset):
    table = region_table(scores, dataset, correlations_with_ism(scores))
    signal = 2 ** (scores.predicted.numpy() + 4) - 2
    np.testing.assert_allclose(table["variation"], signal.std(1) / signal.mean(1), rtol=1e-5)
    np.testing.assert_allclose(table["mean_log"], dataset.targets.mean(1), rtol=1e-6)
    expected = stats.pearsonr(scores.predicted[0], dataset.targets[0]).statistic
    assert table["performance"][0] == pytest.approx(expected)


def test_association_is_the_correlation_over_regions(scores, dataset):
    table = region_table(scores, dataset, correlations_with_ism(scores))
    table.loc[0, "variation"] = np.nan
    y = "r TISM, all entries"
    row = association_table(table, y, ["variation"]).iloc[0]
    assert row["value"] == pytest.approx(table["variation"].corr(table[y]))
    assert row["n_profiles"] == N - 1


def test_auroc_by_hand():
    positive = np.array([True, False, True, False])
    assert auroc(np.array([4.0, 1.0, 3.0, 2.0]), positive) == 1.0
    assert auroc(np.array([1.0, 4.0, 2.0, 3.0]), positive) == 0.0
    assert auroc(np.ones(4), positive) == 0.5
    assert auroc(np.array([4.0, 5, 2, 1]), positive, np.array([0, 1, 1, 0])) == 0.5
    assert np.isnan(auroc(np.ones(4), np.ones(4, bool)))


def test_planted_bases_are_found_by_the_map_that_knows_them(scores, dataset):
    marked = torch.zeros_like(scores.ism)
    marked[..., 10:20] = 1
    exact = marked * (scores.one_hot == 0)[:, None]
    table = planted_base_table(
        Scores(scores.rows, scores.one_hot, exact, scores.gradient, scores.predicted), dataset
    ).set_index("method")
    assert table.loc["ISM", "value"] == 1.0
    assert abs(table.loc["TISM", "value"] - 0.5) < 0.2
    assert table.loc["TISM", "value"] == table.loc["corrected gradient", "value"]


def test_motifs_of_each_profile_and_whether_the_other_has_them():
    exact, taylor = torch.zeros(100), torch.zeros(100)
    exact[10:20], taylor[12:22] = 1, 2  # in both: each profile has its own scale
    exact[40:50], taylor[40:50] = 1, -2  # opposite signs
    taylor[70:80] = 2  # only one has it
    of_exact, of_taylor = compare_motifs(exact, taylor)
    assert [shared for _, _, shared in of_exact] == [True, False]
    assert [shared for _, _, shared in of_taylor] == [True, False, False]
    assert of_exact[0][0] <= 11
    assert of_taylor[0][1] >= 21
    assert compare_motifs(torch.zeros(50), torch.zeros(50)) == ([], [])


def test_a_motif_just_below_the_mark_is_shared():
    exact, taylor = torch.zeros(100), torch.zeros(100)
    exact[10:30], taylor[10:30] = 1, 1
    exact[60:80], taylor[60:80] = 0.5, 0.3
    assert [shared for *_, shared in compare_motifs(exact, taylor)[0]] == [True, True]
    assert len(compare_motifs(exact, taylor)[1]) == 1
    taylor[60:80] = 0.15
    assert [shared for *_, shared in compare_motifs(exact, taylor)[0]] == [True, False]


def test_window_is_the_strongest_that_cuts_no_motif():
    effects = torch.zeros(2, 4, 60)
    effects[0, 0, 25:35] = 5
    assert uncut_window(effects, [], 20) == slice(15, 35)
    assert uncut_window(effects, [([(12, 18, True)], [])], 20) == slice(18, 38)
    everywhere = [([(-9, 99, True)], [(20, 40, False)])]  # one is cut anyhow
    assert uncut_window(effects, everywhere, 20) == slice(20, 40)


def test_networks_are_the_unit_where_there_are_several():
    medians = enumerate([0.75, 0.8, 0.85])
    rows = [("a", seed, "median", value, 0.0, 1.0, 9) for seed, value in medians]
    rows += [("a", seed, "variation", value, -1.0, 1.0, 9) for seed, value in enumerate((0.1, 0.9))]
    rows += [("b", 0, "median", 0.5, 0.4, 0.6, 9)]
    rows += [("c", seed, "median", value, 0.0, 1.0, 9) for seed, value in enumerate((0.8, 1.0))]
    rows += [("c", seed, "share < 0", value, 0.0, 1.0, 9) for seed, value in enumerate((0, 0.1))]
    columns = ["dataset", "seed", "measure", "value", "low", "high", "n_loci"]
    found = over_networks(pd.DataFrame(rows, columns=columns)).set_index(["dataset", "measure"])
    columns = ["value", "low", "high", "n"]
    expected = mean_of([0.75, 0.8, 0.85])
    assert found.loc[("a", "median"), columns].tolist() == pytest.approx(expected)
    expected = mean_correlation([0.1, 0.9])
    assert found.loc[("a", "variation"), columns].tolist() == pytest.approx(expected)
    assert found.loc[("b", "median"), columns].tolist() == [0.5, 0.4, 0.6, 9]
    assert found["unit"].tolist() == ["networks", "networks", "loci", "networks", "networks"]
    assert found.loc[("c", "median"), "high"] == 1  # no correlation is higher
    assert found.loc[("c", "share < 0"), "low"] == 0


def test_example_region_is_typical_and_strong(scores):
    r = torch.full((N, TASKS), 0.7)
    r[2] = 0.5
    scores.ism[2] *= 100
    scores.ism[4] *= 10
    assert example_region(scores, r) == 4
