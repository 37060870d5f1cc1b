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
    call_motifs,
    compare_motifs,
    concordance_table,
    correlations_with_ism,
    example_region,
    planted_base_table,
    region_table,
    smooth_profile,
)
from tism.study.data.dataset import Dataset
from tism.study.scores import Scores
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


def test_motifs_that_agree_differ_in_sign_or_are_missing():
    exact, taylor = torch.zeros(100), torch.zeros(100)
    exact[10:20], taylor[12:22] = 1, 2  # agrees: each profile has its own scale
    exact[40:50], taylor[40:50] = 1, -2  # opposite signs
    taylor[70:80] = 2  # only one calls it
    assert call_motifs(smooth_profile(exact))[:, 2].tolist() == [1, 1]
    frames = compare_motifs(exact, taylor)
    assert [agree for _, _, agree in frames] == [True, False, False, False]
    assert frames[0][0] <= 11
    assert frames[0][1] >= 20


def test_motif_half_as_high_is_the_last_that_agrees():
    assert compare_motifs(torch.zeros(50), torch.zeros(50)) == []
    exact, taylor = torch.zeros(100), torch.zeros(100)
    exact[10:30], taylor[10:30] = 1, 1
    exact[60:80], taylor[60:80] = 1, 0.55
    assert [agree for *_, agree in compare_motifs(exact, taylor)] == [True, True]
    taylor[60:80] = 0.45
    assert [agree for *_, agree in compare_motifs(exact, taylor)] == [True, False]


def test_example_region_is_typical_and_strong(scores):
    r = torch.full((N, TASKS), 0.7)
    r[2] = 0.5
    scores.ism[2] *= 100
    scores.ism[4] *= 10
    assert example_region(scores, r) == 4
