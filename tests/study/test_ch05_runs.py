"""Every network of a profile is listed, trained and scored once; its tables stay current."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch

from tism.correlations import pearson, profile_correlation
from tism.study import ch05_runs as robustness
from tism.study.cache import load_checkpoint, save_checkpoint
from tism.study.ch03_training import predict_rows
from tism.study.ch04_agreement import compare_motifs, correlations_with_ism
from tism.study.ch05_runs import (
    ABOVE,
    check_tables,
    compare_initialisations,
    compare_maps,
    missing_runs,
    of_experiment,
    read_table,
    rows_of_run,
    score_run,
    write_initialisations,
    write_models,
)
from tism.study.networks import EXPERIMENTS, Experiment, Series, find_run, list_runs
from tism.study.profiles import load_dataset, load_profile, profile_names
from tism.study.scores import score_regions, scored_rows
from tism.study.statistics import summarise
from tism.study.training import training_rows
from tism.taylor import mean_effect


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TISM_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        patch.setenv("TISM_DEVICE", "cpu")
        yield patch


@pytest.fixture
def smoke(folders, tmp_path, monkeypatch):
    """The smoke profile: its networks are trained once for all tests, its tables are the test's."""
    monkeypatch.setenv("TISM_RESULTS_DIR", str(tmp_path))
    return load_profile("smoke")


def with_series(profile, *entries):
    return dataclasses.replace(profile, experiments=list(entries))


PLAIN = {"experiment": "ablation", "dataset": "simulated"}


# --- the list of runs --------------------------------------------------------------------------


@pytest.mark.parametrize("name", profile_names())
def test_runs_of_a_profile_have_unique_names_keys_and_a_baseline_each(name):
    profile = load_profile(name)
    runs = list_runs(profile)

    assert len({run.name for run in runs}) == len({run.key for run in runs}) == len(runs)
    assert {f"{dataset}_baseline_0" for dataset in profile.datasets} <= {run.name for run in runs}


@pytest.mark.parametrize(("name", "dataset"), [("evidence", "yeast"), ("immgen", "immgen")])
def test_the_full_profiles_have_what_the_paper_has_in_three_seeds(name, dataset):
    runs = [run for run in list_runs(load_profile(name)) if run.network.dataset == dataset]
    by = {e: [run for run in runs if e in run.experiments] for e in EXPERIMENTS}

    assert len(by["initialisation"]) == 5
    fractions = [run.network.training.fraction for run in by["fraction"]]
    assert sorted(fractions) == sorted([0.01, 0.05, 0.1, 0.2, 0.5, 1.0] * 3)
    ablated = [run for run in by["ablation"] if not run.control]
    assert len(ablated) == 6 * 5 + 7 * 3
    longest = {"yeast": 100, "immgen": 400}[dataset]
    for run in by["epoch"]:
        assert {0, 1, 2, 3, 5, 7, 11, 20, 60, 100, longest} <= set(run.epochs)
        assert run.network.training.max_epochs == longest
    assert [run.control for run in by["epoch"]].count("warmup14") == 3
    for run in by["ablation"] + by["fraction"]:
        assert run.best
        assert run.epochs == (8, 10, 13, 17, 22)


def test_a_network_of_several_experiments_is_one_run():
    runs = list_runs(load_profile("yeast"))

    (baseline,) = [run for run in runs if run.name == "yeast_baseline_0"]
    assert baseline.experiments == ("initialisation", "fraction", "ablation")
    fourth = find_run(load_profile("yeast"), "yeast_baseline_3")
    assert fourth.experiments == ("initialisation",)


def test_another_warmup_ends_at_the_same_rate(smoke):
    entry = {**PLAIN, "warmup_epochs": 4, "control": "slow"}
    (run,) = list_runs(with_series(smoke, entry))
    plain, slow = Experiment(smoke, "simulated").training, run.network.training

    assert slow.warmup_epochs == 4 != plain.warmup_epochs
    assert slow.rate(99) == pytest.approx(plain.rate(99))
    assert slow.rate(1) == plain.rate(1)


def test_changes_win_over_the_settings_of_a_variant():
    profile = load_profile("yeast")
    own = profile.variants["adamw"]["warmup_epochs"]
    entry = {"experiment": "epoch", "dataset": "yeast", "variants": ["adamw"]}
    entry |= {"changes": {"warmup_epochs": own + 1}, "control": "x"}

    (run,) = list_runs(with_series(profile, entry))

    assert run.network.training.warmup_epochs == own + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experiment": "speed"}, "experiment must be one of initialisation, .* got 'speed'"),
        ({"variants": ["gelu"]}, "variant must be one of baseline, .* got 'gelu'"),
        ({"changes": {"momentun": 0.5}}, "changes has no setting of a training: momentun"),
        ({"seed": 3}, "unexpected keyword argument 'seed'"),
        ({"dataset": "yeast"}, "dataset must be one of simulated; got 'yeast'"),
        ({"fractions": [1.5]}, r"fraction must be in \(0, 1\], got 1.5"),
        ({"changes": {"momentum": 0.5}}, "simulated_baseline_0 is the name of another run too"),
    ],
)
def test_an_entry_that_makes_no_sense_is_named(smoke, change, message):
    profile = with_series(smoke, PLAIN, {**PLAIN, **change})

    with pytest.raises(ValueError, match=r"profile smoke: experiments\[1\]: .*" + message):
        list_runs(profile)


def test_an_unknown_run_lists_the_known_ones(smoke):
    with pytest.raises(ValueError, match=r"no run 'tiny'; its runs are simulated_baseline_0, "):
        find_run(smoke, "tiny")


# --- measures ----------------------------------------------------------------------------------


def test_one_pass_measures_what_whole_maps_give(smoke, monkeypatch):
    monkeypatch.setattr(robustness, "_REGIONS_AT_ONCE", 2)
    data = load_dataset(smoke)
    model, rows = Experiment(smoke, "simulated").untrained(), scored_rows(data, 5)

    maps = compare_maps(model, data, rows)

    whole = score_regions(model, data, rows, progress=False)
    r = correlations_with_ism(whole)
    for key, name in robustness._COLUMNS.items():
        expected = r[key] if name != "tism_task_differences" else r[key].nanmean(1, keepdim=True)
        torch.testing.assert_close(maps[name], expected, rtol=0, atol=1e-4)
    exact, taylor = whole.ism[3, 2].numpy().astype(float), whole.tism[3, 2].numpy().astype(float)
    substituted = whole.one_hot[3].numpy() == 0
    size = np.sqrt((exact[substituted] ** 2).mean())
    assert maps["ism_size"][3, 2].item() == pytest.approx(size, rel=1e-3)
    size = np.sqrt((taylor[substituted] ** 2).mean())
    assert maps["tism_size"][3, 2].item() == pytest.approx(size, rel=1e-3)
    profile = mean_effect(whole.ism[3:4, 2:3], whole.one_hot[3:4]).sum(2)[0, 0]
    assert maps["ism_motifs"][3, 2].item() == len(compare_motifs(profile, profile)[0]) > 0


def test_a_linear_network_has_equal_maps(smoke):
    data = load_dataset(smoke)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4 * data.length, 3))

    maps = compare_maps(linear.double(), data, scored_rows(data, 3))

    for name in ("tism_all", "tism_centred"):
        assert maps[name].allclose(torch.ones(3, 3, dtype=torch.float64))
    torch.testing.assert_close(maps["ism_size"], maps["tism_size"])


def test_rows_of_a_run(smoke):
    run = find_run(smoke, "simulated_baseline_0")

    table = score_run(run)

    (row,) = table.to_dict("records")
    _, metadata = run.network.trained(progress=False)
    assert row["experiment"] == "initialisation;fraction;ablation"
    assert (row["epoch"], row["n_regions"]) == (metadata["best_epoch"], smoke.regions_a_model)
    assert row["n_train"] == len(load_dataset(smoke).indices("train"))
    assert row["validation_region_r"] == pytest.approx(metadata["best_r"], abs=1e-5)
    measured = [name.removesuffix("_low") for name in row if name.endswith("_low")]
    assert {"test_task_r", "train_region_r", "tism_all", "ism_size"} <= set(measured)
    for name in measured:
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert rows_of_run(run).exists()


def test_a_run_of_epochs_has_a_row_a_snapshot_and_begins_before_the_training(smoke):
    run = find_run(smoke, "simulated_baseline_0_epochs")

    table = score_run(run)

    assert table["epoch"].tolist() == [0, 1, 2]
    assert table["ism_size"].nunique() == 3
    data = load_dataset(smoke)
    initial = run.network.untrained()
    start = compare_maps(initial, data, scored_rows(data, smoke.regions_a_model))
    assert table["tism_all"][0] == pytest.approx(start["tism_all"].nanmean().item(), abs=1e-5)


def test_best_weights_and_snapshots_are_rows_of_one_run(smoke):
    entry = {**PLAIN, "variants": ["cnn0"], "epochs": [1, 2], "best": True, "fractions": [0.03]}
    (run,) = list_runs(with_series(smoke, entry))

    table = score_run(run)

    assert table["reading"].tolist() == ["epoch", "epoch", "best"]
    assert table["epoch"].tolist()[:2] == [1, 2]
    model, metadata = run.network.trained(progress=False)
    assert table["epoch"].tolist()[2] == metadata["best_epoch"]
    assert of_experiment(table, "ablation")["reading"].tolist() == ["best"]
    data = load_dataset(smoke)
    rows = training_rows(data, run.network.training)
    assert len(rows) < len(data.indices("test"))
    predicted, target = predict_rows(model, data, rows), data.standardised[rows]
    r = pearson(predicted, target, 1).nanmean().item()
    assert table["learned_region_r"].iloc[2] == pytest.approx(r, abs=1e-5)
    assert table["learned_region_r"].iloc[2] != table["train_region_r"].iloc[2]


def test_a_killed_run_does_not_measure_again_what_it_has(smoke, monkeypatch):
    run = find_run(smoke, "simulated_baseline_0_epochs")
    first = score_run(run)
    rows_of_run(run).unlink()
    monkeypatch.setattr(robustness, "_measure", lambda *a: pytest.fail("measured again"))

    pd.testing.assert_frame_equal(score_run(run), first)


def test_other_weights_of_a_run_are_measured_anew(smoke):
    run = find_run(smoke, "simulated_baseline_0_epochs")
    first = score_run(run)
    rows_of_run(run).unlink()
    last = run.epochs[-1]
    stem = robustness.work_folder("checkpoints") / run.network.name / f"epoch_{last}"
    tensors, metadata = load_checkpoint(stem)
    save_checkpoint(stem, {name: 2 * tensor for name, tensor in tensors.items()}, metadata)

    found = score_run(run)

    is_last = found["epoch"] == last
    assert (found["ism_size"] != first["ism_size"]).tolist() == is_last.tolist()


def test_a_measure_without_any_value_is_missing_not_an_error():
    columns = robustness._with_intervals({"a": torch.full((3, 2), torch.nan)}, np.arange(3))

    assert np.isnan([*columns.values()]).all()
    assert list(columns) == ["a", "a_low", "a_high"]


# --- initialisations ---------------------------------------------------------------------------


def test_initialisations_are_compared_pair_by_pair_and_pooled(smoke):
    table = compare_initialisations(smoke, "simulated")

    counts = table.groupby("relation").size().to_dict()
    one, two = "ISM-TISM, one network", "ISM-TISM, two networks"
    # four conventions of the pairs and of their pool; ABOVE has the paper's only
    assert counts == {"ISM-ISM": 8, "TISM-TISM": 8, one: 12, two: 12, ABOVE: 3}
    data = load_dataset(smoke)
    rows = scored_rows(data, smoke.regions_a_model)
    loci = data.regions["locus"].to_numpy()[rows]
    a, b = (
        score_regions(
            Experiment(smoke, "simulated", seed=s).trained()[0], data, rows, progress=False
        )
        for s in (0, 1)
    )
    found = table.set_index(["relation", "convention", "first_seed", "second_seed"])
    expected = {
        ("ISM-ISM", "0", "1"): profile_correlation(a.ism, b.ism),
        (two, "1", "0"): profile_correlation(b.ism, a.tism),
        (one, "1", "1"): profile_correlation(b.ism, b.tism),
        (one, "all", "all"): torch.cat(
            [profile_correlation(a.ism, a.tism), profile_correlation(b.ism, b.tism)], 1
        ),
    }
    others = expected["ISM-ISM", "0", "1"].nanmean()
    for seed, scores in (("0", a), ("1", b)):
        r = profile_correlation(scores.ism, scores.tism)
        expected[ABOVE, seed, seed] = (r > others).double()
    for (relation, first, second), r in expected.items():
        row = found.loc[(relation, "all entries", first, second)]
        summary = summarise(r, loci)
        assert row["value"] == pytest.approx(summary.value, abs=1e-4)
        assert row["low"] == pytest.approx(summary.low, abs=1e-4)


# --- tables ------------------------------------------------------------------------------------


def test_models_csv_holds_what_is_done_in_the_order_of_the_profile(smoke):
    first, second = (find_run(smoke, f"simulated_{name}") for name in ("baseline_1", "relu_0"))
    with pytest.raises(ValueError, match="no run of profile smoke is done"):
        write_models(smoke)
    score_run(second)
    write_models(smoke)
    score_run(first)
    rows_of_run(second).unlink()

    text = write_models(smoke).read_text()

    table = read_table("smoke")
    assert table["run"].tolist() == ["simulated_baseline_1", "simulated_relu_0"]
    assert table["control"].tolist() == ["", ""]
    assert write_models(smoke).read_text() == text
    assert {first.name, second.name}.isdisjoint(missing_runs(smoke))
    assert len(missing_runs(smoke)) == len(list_runs(smoke)) - 2
    assert of_experiment(table, "ablation")["run"].tolist() == ["simulated_relu_0"]
    shared = {"experiment": "fraction", "dataset": "simulated", "variants": ["relu"]}
    write_models(with_series(smoke, *smoke.experiments, shared))
    assert of_experiment(read_table("smoke"), "fraction")["run"].tolist() == ["simulated_relu_0"]


@pytest.mark.parametrize("write", [write_models, write_initialisations])
def test_a_table_of_another_configuration_is_refused_by_name(smoke, write):
    score_run(find_run(smoke, "simulated_baseline_0"))
    name = write(smoke).name
    training = {"simulated": {**smoke.training["simulated"], "momentum": 0.5}}
    other = dataclasses.replace(smoke, training=training)
    rows_of_run(find_run(smoke, "simulated_baseline_0")).unlink()

    for refuse in (check_tables, write):
        with pytest.raises(ValueError, match=rf"{name}: .*simulated.* another configuration"):
            refuse(other)
    check_tables(smoke)


def test_a_row_of_another_configuration_is_refused_by_name(smoke):
    score_run(find_run(smoke, "simulated_baseline_0"))
    other = dataclasses.replace(smoke, regions_a_model=3)

    with pytest.raises(ValueError, match=r"rows\.csv: run simulated_baseline_0 was"):
        check_tables(other)


def test_a_file_that_is_no_table_of_networks_is_refused(smoke, tmp_path):
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "models.csv").write_text("a,b\n1,2\n")

    with pytest.raises(ValueError, match=r"models\.csv has no columns run and key"):
        check_tables(smoke)


def test_tables_without_readings_get_them():
    """The record as it was written has snapshots under one experiment only."""
    table = read_table("yeast")

    assert set(of_experiment(table, "epoch")["reading"]) == {"epoch"}
    others = table[~table["experiment"].str.contains("epoch")]
    assert set(others["reading"]) == {"best"}
    assert len(of_experiment(table, "ablation")) == 3 * 13 + 3 + 3 * 7


def test_a_profile_without_a_table_is_named(smoke):
    with pytest.raises(FileNotFoundError, match=r"profile smoke has no models\.csv"):
        read_table("smoke")


def test_rows_are_plain_json(smoke):
    run = find_run(smoke, "simulated_baseline_0")
    score_run(run)

    kept = robustness.work_folder("cache") / "models"

    assert all(json.loads(path.read_text()) for path in kept.glob("*.json"))


def test_series_names_say_what_sets_a_run_apart(smoke):
    series = Series("epoch", "simulated", fractions=[0.05], epochs=[1], control="slow")

    assert [run.name for run in series.runs(smoke)] == ["simulated_baseline_0_epochs_slow_5percent"]
