"""Performance tables: identities, yardsticks of known strength, every variant described."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tism.correlations import pearson
from tism.model import VARIANTS, build_model
from tism.study import ch03_training as performance
from tism.study.data.simulation import simulate


@pytest.fixture(scope="module")
def data():
    return simulate(500, 4, length=120)


@pytest.mark.parametrize(
    ("variant", "pool"), [("baseline", 2), ("baseline", 3), ("no_residual", 2), ("cnn0", 2)]
)
def test_receptive_field_is_what_the_network_sees(variant, pool):
    length = 1500 if pool == 3 else 301
    model = build_model(variant, length=length, n_tasks=2, width=4, pool=pool, seed=0)
    model = model.double().eval()
    one_hot = torch.rand(1, 4, length, dtype=torch.float64, requires_grad=True)
    last = model.blocks(model.pool(model.activation(model.conv(one_hot))))
    last[:, :, last.shape[2] // 2].sum().backward()
    seen = one_hot.grad.abs().sum((0, 1)).nonzero()
    assert seen.max() - seen.min() + 1 == performance.receptive_field(model.config)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_described(variant):
    model = build_model(variant, length=251, n_tasks=3, width=8)
    table = performance.describe_network(model).set_index("part")["what it is"]
    assert table["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
    assert table["blocks"].startswith("none" if variant == "cnn0" else "4, each 8 kernels of 7")
    assert ("batch norm" in table["blocks"]) == (variant not in ("cnn0", "no_batch_norm"))
    assert ("input added" in table["blocks"]) == (variant not in ("cnn0", "no_residual"))
    assert len(table) <= 12


def test_log_marks_the_best_epoch_and_the_rounds():
    rounds = [0, 0, 1, 1, 2]
    log = [{"epoch": k + 1, "fine_tune_round": r, "loss": 1.0} for k, r in enumerate(rounds)]
    table, marks = performance.training_log({"log": log, "best_epoch": 4})
    assert len(table) == 5
    assert marks == {"fine-tuning": [3, 5], "best": [4]}


def test_task_summary_counts_constants_and_covers_its_value():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(200, 5))
    predicted = target + rng.normal(size=(200, 5))
    predicted[:, 2] = 1
    result = performance.summarise_tasks(predicted, target, np.arange(200) // 2)
    assert result.low < result.value < result.high
    assert (result.n_profiles, result.n_constant, result.n_loci) == (4, 1, 100)
    expected = pearson(predicted, target, 0).nanmean().item()
    assert result.value == pytest.approx(expected)


def test_task_interval_widens_with_the_loci():
    rng = np.random.default_rng(0)
    target = np.repeat(rng.normal(size=(40, 3)), 5, axis=0)
    predicted = target + np.repeat(rng.normal(size=(40, 3)), 5, axis=0)
    single = performance.summarise_tasks(predicted, target, np.arange(200))
    grouped = performance.summarise_tasks(predicted, target, np.arange(200) // 5)
    assert grouped.high - grouped.low > 1.5 * (single.high - single.low)


def test_a_single_locus_has_no_interval_and_constant_tasks_no_mean():
    values = np.random.default_rng(0).normal(size=(9, 2))
    assert np.isnan(performance.summarise_tasks(values, values, np.zeros(9)).low)
    constant = performance.summarise_tasks(np.ones((9, 2)), values, np.arange(9))
    assert np.isnan([constant.value, constant.low, constant.high]).all()
    assert (constant.n_profiles, constant.n_constant) == (0, 2)


def test_noiseless_truth_beats_words_and_words_beat_chance(data):
    model = build_model("baseline", length=120, n_tasks=4, width=4, seed=0)
    known = performance.predictors(model, data, "baseline")
    table = performance.performance_table(known, data, seed=3)
    assert list(table.columns) == [
        "dataset", "variant", "seed", "split", "level", "mean_r", "low", "high", "n", "n_constant",
    ]  # fmt: skip
    assert len(table) == 3 * 3 * 2
    r = table.query("level == 'task' and split == 'validation'").set_index("variant")["mean_r"]
    assert r["noiseless truth"] > 0.7
    assert r["noiseless truth"] > r["word counts"] > 0.1
    tested = table[(table["split"] == "test") & (table["level"] == "region")]
    assert (tested["n"] + tested["n_constant"] == len(data.indices("test"))).all()
    trained = table[(table["split"] == "train") & (table["level"] == "region")]
    assert trained["n"].max() <= len(data.indices("test"))
    real = type(data)(**{**vars(data), "truth": None})
    assert list(performance.predictors(model, real, "baseline")) == ["baseline", "word counts"]


def test_word_regression_recovers_a_linear_truth(data, monkeypatch):
    monkeypatch.setattr(performance, "WORD_SIZE", 2)
    counts = performance.canonical_word_counts(data, 2)
    weights = np.random.default_rng(0).normal(size=(counts.shape[1], 4))
    targets = (counts @ weights).astype(np.float32)
    linear = type(data)(**{**vars(data), "targets": targets})
    predicted = performance.word_count_regression(linear)
    rows = data.indices("test")
    assert pearson(predicted(rows), linear.standardised[rows], 0).min() > 0.98


def test_tables_by_task_and_region_agree_with_pearson(data):
    rows = data.indices("validation")
    predicted = data.standardised[rows] + 1
    by_task = performance.describe_tasks_predicted(predicted, data, rows)
    np.testing.assert_allclose(by_task["r"], 1)
    assert by_task["task"].tolist() == data.tasks
    by_region = performance.region_correlations(predicted, data, rows)
    assert by_region.shape == (len(rows),)
    np.testing.assert_allclose(by_region, 1, rtol=1e-6)


def test_schedule_trials_of_one_data_set():
    trials = performance.schedule_trials("yeast")
    assert {"sgd", "adamw"} <= set(trials["optimiser"])
    assert trials["peak rate"].max() == pytest.approx(1e-5 * 4**7)
    assert performance.schedule_trials("immgen").empty
