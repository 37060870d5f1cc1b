"""Loss, schedule and loop against the paper; a killed training resumes bit for bit."""

from __future__ import annotations

import csv
import functools
import re
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tism import build_model
from tism.exact import predict
from tism.model import AITAC
from tism.sequence import decode
from tism.study import cache, training
from tism.study.cache import load_checkpoint
from tism.study.data.dataset import one_hot_from_indices, standardisation
from tism.study.data.download import data_root
from tism.study.training import (
    TrainingConfig,
    correlation_loss,
    evaluate,
    load_model,
    train,
    training_config,
    training_loss,
    training_rows,
)

# 3 epochs of 5 steps with a gain in each of the first two, then 2 rounds of about 1 epoch
CONFIG = TrainingConfig(
    learning_rate=0.1,
    warmup_epochs=2,
    max_epochs=3,
    patience=3,
    fine_tune_rounds=2,
    fine_tune_patience=1,
    batch_size=8,
    max_shift=6,
    snapshots=(1, 3),
)
ADAMW = replace(CONFIG, optimizer="adamw", weight_decay=0.01, learning_rate=0.03)
ONE_EPOCH = replace(CONFIG, max_epochs=1, fine_tune_rounds=0, snapshots=())


def network(seed: int = 0, **settings):
    return build_model(
        "baseline", **{"length": 24, "n_tasks": 4, "width": 4, **settings}, seed=seed
    )


def assert_same_weights(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    different = [key for (key, a), (_, b) in pairs if not torch.equal(a, b)]
    assert not different


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- the parts -----------------------------------------------------------------------------


def test_correlation_loss_by_hand():
    predicted, target = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)

    loss = correlation_loss(torch.tensor(predicted), torch.tensor(target))

    r = [stats.pearsonr(p, t).statistic for p, t in zip(predicted, target, strict=True)]
    assert loss.item() == pytest.approx(1 - np.mean(r), abs=1e-6)


def test_correlation_loss_of_a_flat_prediction_is_one_with_a_finite_gradient():
    predicted = torch.zeros(2, 4, requires_grad=True)

    loss = correlation_loss(predicted, torch.arange(8.0).view(2, 4))
    loss.backward()

    assert loss.item() == pytest.approx(1)
    assert predicted.grad.isfinite().all()


@pytest.mark.parametrize(
    ("variant", "correlation", "mse", "l1"),
    [("baseline", 0.95, 0.05, 0), ("mse_loss", 0, 1, 0), ("l1_kernels", 0.95, 0.05, 0.01)],
)
def test_the_loss_of_a_variant(dataset, variant, correlation, mse, l1):
    model = network().eval()
    rows, target = dataset.one_hot(np.arange(5)), torch.from_numpy(dataset.standardised[:5])
    predicted = model(rows).detach()
    r = torch.tensor(stats.pearsonr(predicted, target, axis=1).statistic)

    loss = training_loss(model, rows, target, training_config(variant))

    expected = correlation * (1 - r.mean()) + mse * (predicted - target).square().mean()
    expected += l1 * model.conv.conv.weight.abs().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("variant", ["baseline", "relu_max", "no_batch_norm", "cnn0"])
def test_cheap_derivatives_are_those_of_autograd(variant, monkeypatch):
    model = build_model(variant, length=31, n_tasks=3, width=8, seed=0).train()
    generator = torch.Generator().manual_seed(0)
    bases = torch.randint(4, (6, 31), generator=generator)
    rows = torch.nn.functional.one_hot(bases, 4).mT.float()
    target = torch.randn(6, 3, generator=generator)

    def gradients():
        torch.manual_seed(0)  # of the dropout
        loss = training_loss(model, rows, target, training_config(variant))
        return torch.autograd.grad(loss, list(model.parameters()))

    cheap = gradients()
    monkeypatch.setattr(training, "CheapBackward", lambda repeated: nullcontext())
    for one, other in zip(cheap, gradients(), strict=True):
        assert torch.equal(one, other)


def test_the_defaults_are_the_papers():
    config = TrainingConfig()

    rates = [config.rate(epoch) for epoch in range(1, 11)]

    assert rates[0] == 1e-5
    assert np.allclose(np.diff(np.log(rates[:8])), np.log(4))  # seven steps of x4
    assert rates[7] == rates[8] == rates[9] == pytest.approx(1e-5 * 4**7)
    for number in range(1, 6):
        assert config.fine_tuning_rate(number, 50) == pytest.approx(rates[-1] * 0.2**number)
    assert (config.optimizer, config.momentum, config.batch_size) == ("sgd", 0.9, 64)
    assert (config.max_epochs, config.patience, config.fine_tune_rounds) == (200, 15, 5)
    assert config.max_shift == 10


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("baseline", {}),
        ("cnn0", {}),
        ("adamw", {"optimizer": "adamw", "weight_decay": 0.01}),
        ("no_shift", {"max_shift": 0}),
        ("mse_loss", {"correlation_weight": 0.0, "mse_weight": 1.0}),
        ("l1_kernels", {"l1_kernels": 0.01}),
    ],
)
def test_a_variant_changes_the_training_over_the_settings(variant, changes):
    settings = {"max_epochs": 5, "max_shift": 3, "seed": 9}

    assert training_config(variant, **settings) == TrainingConfig(**{**settings, **changes})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adam"}, "optimizer must be sgd or adamw, got 'adam'"),
        ({"fraction": 0}, r"fraction must be in \(0, 1\], got 0"),
        ({"fraction": 1.5}, r"fraction must be in \(0, 1\], got 1\.5"),
        ({"learning_rate": 0}, "learning_rate must be positive, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
        ({"warmup_factor": -4}, "warmup_factor must be positive, got -4"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"max_epochs": 0}, "max_epochs must be positive, got 0"),
        ({"patience": 0}, "patience must be"),  # would end before the first epoch
        ({"fine_tune_patience": 0}, "fine_tune_patience must be"),
        ({"fine_tune_rounds": -1}, "fine_tune_rounds must be"),  # would never end
        ({"max_shift": -1}, "max_shift must be"),
        ({"snapshots": [3, 201]}, r"snapshots must lie in 0 to max_epochs \(200\), got 201"),
    ],
)
def test_configurations_that_cannot_train(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)


def test_an_unknown_variant_or_setting():
    with pytest.raises(ValueError, match="variant must be one of baseline, mse_loss"):
        training_config("sgd")
    with pytest.raises(TypeError, match="learningrate"):
        training_config("baseline", learningrate=1)


def test_subsets_are_nested_and_of_the_right_size(dataset):
    fractions = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
    rows = [set(training_rows(dataset, TrainingConfig(fraction=f))) for f in fractions]

    assert [len(r) for r in rows] == [1, 2, 4, 8, 20, 40]
    assert all(small <= large for small, large in pairwise(rows))
    assert rows[-1] == set(dataset.indices("train"))
    other = set(training_rows(dataset, TrainingConfig(fraction=0.5, seed=1)))
    assert other != rows[4]


def test_evaluate_is_the_mean_correlation_both_ways(dataset):
    model, rows = network(), dataset.indices("validation")
    predicted, target = predict(model, dataset.one_hot(rows)).numpy(), dataset.standardised[rows]

    scores = evaluate(model, dataset, rows)

    assert scores["region_r"] == pytest.approx(stats.pearsonr(predicted, target, axis=1)[0].mean())
    assert scores["task_r"] == pytest.approx(stats.pearsonr(predicted, target, axis=0)[0].mean())
    assert scores["n_constant"] == 0


def test_evaluate_counts_the_regions_without_a_correlation(dataset):
    rows = dataset.indices("test")
    dataset.targets[rows[0]] = dataset.center  # standardised to zero in every task

    assert evaluate(network(), dataset, rows)["n_constant"] == 1
    assert np.isfinite(evaluate(network(), dataset, rows)["region_r"])


# --- the data set ----------------------------------------------------------------------------


def test_a_shift_moves_the_window_into_the_flanks(dataset):
    rows, shifts = np.array([3, 3, 9, 50]), np.array([0, -6, 6, 2])
    dataset.sequences[3, 8] = 4

    windows = dataset.one_hot(rows, shifts)

    for row, shift, window in zip(rows, shifts, decode(windows), strict=True):
        (whole,) = decode(one_hot_from_indices(dataset.sequences[row : row + 1]))
        assert window == whole[6 + shift : 6 + shift + 24]


@pytest.mark.parametrize("shift", [7, -7, [0, 7]])
def test_a_shift_beyond_the_flank_is_refused(dataset, shift):
    with pytest.raises(ValueError, match="shift must be within the flank of 6 bp"):
        dataset.one_hot([0, 1], np.array(shift))


def test_an_unknown_split_is_refused(dataset):
    with pytest.raises(ValueError, match="split must be one of train, validation, test; got 'dev'"):
        dataset.indices("dev")


def test_a_task_constant_over_training_is_named(dataset):
    dataset.targets[:40, 2] = 3

    with pytest.raises(ValueError, match=r"tasks \[2\] are constant over the training regions"):
        standardisation(dataset.targets, np.arange(40))


# --- the loop --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tiny_dataset, tmp_path_factory):
    """Uninterrupted trainings by configuration: model, metadata, folder; not to be changed."""

    @functools.cache
    def run(config: TrainingConfig) -> tuple[AITAC, dict[str, Any], Path]:
        model, folder = network(), tmp_path_factory.mktemp("whole")
        return model, train(model, tiny_dataset, config, folder), folder

    return run


def test_training_learns_and_ends_with_the_best_epoch(dataset, whole):
    model, metadata, _ = whole(CONFIG)
    rows = dataset.indices("validation")
    by_epoch = {row["epoch"]: row["validation_region_r"] for row in metadata["log"]}

    assert metadata["best_r"] == by_epoch[metadata["best_epoch"]] == max(by_epoch.values())
    assert metadata["best_r"] > evaluate(network(), dataset, rows)["region_r"]
    assert metadata["best_r"] == pytest.approx(evaluate(model, dataset, rows)["region_r"], rel=1e-6)
    assert metadata["log"][0]["loss"] > metadata["log"][-1]["loss"]


def test_the_log_has_one_row_an_epoch(whole):
    _, metadata, folder = whole(CONFIG)
    rows = read_log(folder)

    assert [int(row["epoch"]) for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) == metadata["epoch"]
    assert sum(row["fine_tune_round"] == "0" for row in rows) == CONFIG.max_epochs
    for row, logged in zip(rows, metadata["log"], strict=True):
        assert {key: float(value) for key, value in row.items()} == logged
        expected = CONFIG.rate(logged["epoch"])
        if logged["fine_tune_round"]:
            expected = CONFIG.fine_tuning_rate(logged["fine_tune_round"], CONFIG.max_epochs)
        assert logged["learning_rate"] == pytest.approx(expected)


def test_the_folder_holds_model_log_and_snapshots_only(whole):
    model, metadata, folder = whole(CONFIG)

    stems = ("epoch_1", "epoch_3", "model")
    expected = {f"{stem}{end}" for stem in stems for end in (".json", ".safetensors")}
    assert set(contents(folder)) == {*expected, "log.csv"}
    loaded, read = load_model(folder / "model")
    assert_same_weights(loaded, model)
    assert not loaded.training
    assert read["identity"] == metadata["identity"]
    assert read["tasks"] == ["A", "C", "G", "T"]


def test_snapshots_are_the_weights_after_their_epoch(dataset, whole, tmp_path):
    short = network()
    train(short, dataset, ONE_EPOCH, tmp_path, device="cpu")

    snapshot, metadata = load_model(whole(CONFIG)[2] / "epoch_1")

    assert metadata["epoch"] == 1
    assert_same_weights(snapshot, short)


def test_the_snapshot_of_epoch_0_is_the_network_before_the_training(dataset, tmp_path):
    config = replace(ONE_EPOCH, snapshots=(0,))

    train(network(), dataset, config, tmp_path, device="cpu")

    assert_same_weights(load_model(tmp_path / "epoch_0")[0], network())


@pytest.mark.parametrize("config", [CONFIG, ADAMW], ids=["sgd", "adamw"])
def test_the_seed_decides_and_torchs_state_does_not(dataset, tmp_path, config):
    models, logs = [], []
    for run, (seed, state) in enumerate([(0, 1), (0, 2), (1, 1)]):
        model = network()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state)
            before = torch.get_rng_state()
            metadata = train(model, dataset, replace(config, seed=seed), tmp_path / str(run))
            assert torch.equal(torch.get_rng_state(), before)
        models.append(model)
        logs.append(metadata["log"])

    assert_same_weights(models[0], models[1])
    assert logs[0] == logs[1]
    assert not torch.equal(models[0].first_kernels, models[2].first_kernels)


def spy_on_batches(monkeypatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Sequences and targets of every training step."""
    steps: list[tuple[torch.Tensor, torch.Tensor]] = []
    loss = training.training_loss

    def spy(model, rows, target, config):
        steps.append((rows, target))
        assert model.training
        return loss(model, rows, target, config)

    monkeypatch.setattr(training, "training_loss", spy)
    return steps


@pytest.mark.parametrize(("max_shift", "offsets"), [(0, {0}), (2, set(range(-2, 3)))])
def test_training_windows_are_real_sequence_around_the_region(
    dataset, tmp_path, monkeypatch, max_shift, offsets
):
    steps = spy_on_batches(monkeypatch)
    config = replace(ONE_EPOCH, max_shift=max_shift, max_epochs=2)

    train(network(), dataset, config, tmp_path)

    whole = decode(one_hot_from_indices(dataset.sequences))
    found, seen = set(), []
    for rows, targets in steps:
        for window, target in zip(decode(rows), targets.numpy(), strict=True):
            (row,) = np.flatnonzero((dataset.standardised == target).all(1))
            found.add(whole[row].index(window) - dataset.flank)
            seen.append(row)
    assert found == offsets
    for epoch in (seen[:40], seen[40:]):
        assert sorted(epoch) == dataset.indices("train").tolist()
    assert seen[:40] != seen[40:]  # in another order


def test_only_the_subset_is_trained_on(dataset, tmp_path, monkeypatch):
    steps = spy_on_batches(monkeypatch)
    config = replace(ONE_EPOCH, fraction=0.2)

    train(network().eval(), dataset, config, tmp_path)

    rows = training_rows(dataset, config)
    targets = np.concatenate([target.numpy() for _, target in steps])
    assert sorted(map(tuple, targets)) == sorted(map(tuple, dataset.standardised[rows]))


def test_early_stopping_and_fine_tuning_from_the_best(dataset, tmp_path, monkeypatch):
    scripted = iter([0.1, 0.3, 0.2, 0.25, 0.2, 0.35, 0.3])
    monkeypatch.setattr(
        training, "evaluate", lambda *args: {"region_r": next(scripted), "task_r": 0.0}
    )
    start_of_step = []
    loss = training.training_loss

    def spy(model, *args):
        start_of_step.append(model.first_kernels.detach().clone())
        return loss(model, *args)

    monkeypatch.setattr(training, "training_loss", spy)
    config = replace(CONFIG, max_epochs=9, patience=2, snapshots=(2,))

    metadata = train(network(), dataset, config, tmp_path)

    log = metadata["log"]
    assert [row["fine_tune_round"] for row in log] == [0, 0, 0, 0, 1, 2, 2]
    peak = 0.1 * 4**2
    rates = [0.1, 0.4, peak, peak, peak * 0.2, peak * 0.04, peak * 0.04]
    assert [row["learning_rate"] for row in log] == pytest.approx(rates)
    assert (metadata["best_epoch"], metadata["best_r"], metadata["epoch"]) == (6, 0.35, 7)
    best_of_first_phase = load_checkpoint(tmp_path / "epoch_2")[0]["conv.conv.weight"]
    for fine_tuning_starts in (4 * 5, 5 * 5):  # five steps an epoch
        assert torch.equal(start_of_step[fine_tuning_starts], best_of_first_phase)
    best = load_checkpoint(tmp_path / "model")[0]["conv.conv.weight"]
    assert torch.equal(start_of_step[6 * 5], best)  # as the seventh epoch found them


def test_a_training_does_not_stop_before_its_last_snapshot(dataset, tmp_path, monkeypatch):
    scripted = iter([0.3, 0.2, 0.2, 0.2, 0.2, 0.1])
    monkeypatch.setattr(
        training, "evaluate", lambda *args: {"region_r": next(scripted), "task_r": 0.0}
    )
    config = replace(CONFIG, max_epochs=9, patience=1, fine_tune_rounds=1, snapshots=(1, 5))

    metadata = train(network(), dataset, config, tmp_path)

    assert [row["fine_tune_round"] for row in metadata["log"]] == [0] * 5 + [1]
    assert_same_weights(load_model(tmp_path / "model")[0], load_model(tmp_path / "epoch_1")[0])


def test_fine_tuning_starts_from_the_highest_rate_that_was_reached(dataset, tmp_path, monkeypatch):
    scripted = iter([0.3, 0.2, 0.1, 0.1])
    monkeypatch.setattr(
        training, "evaluate", lambda *args: {"region_r": next(scripted), "task_r": 0.0}
    )
    config = replace(CONFIG, warmup_epochs=7, max_epochs=9, patience=1, snapshots=())

    metadata = train(network(), dataset, config, tmp_path)

    rates = [0.1, 0.4, 0.4 * 0.2, 0.4 * 0.04]
    assert [row["learning_rate"] for row in metadata["log"]] == pytest.approx(rates)


@pytest.mark.parametrize("name", ["yeast_baseline_0", "simulated_baseline_0"])
def test_recorded_networks_were_trained_at_the_rates_of_today(name):
    """No version had to be raised: every recorded training went on beyond its warm-up."""
    _, metadata = load_model(data_root() / "models" / name)
    settings = metadata["identity"]["training"]
    config = TrainingConfig(**settings)
    log = metadata["log"]
    first_phase = sum(not row["fine_tune_round"] for row in log)

    assert first_phase > config.warmup_epochs
    for row in log:
        rate = config.rate(row["epoch"])
        if row["fine_tune_round"]:
            rate = config.fine_tuning_rate(row["fine_tune_round"], first_phase)
        assert row["learning_rate"] == rate


def test_progress_is_shown_on_request(dataset, tmp_path, capsys):
    train(network(), dataset, ONE_EPOCH, tmp_path / "silent")
    assert capsys.readouterr() == ("", "")

    train(network(), dataset, ONE_EPOCH, tmp_path / "shown", progress=True)

    assert re.search(r"epoch 1\b.*100%", capsys.readouterr().err)


def test_a_loss_that_is_not_finite_is_an_error(dataset, tmp_path):
    config = replace(CONFIG, learning_rate=1e30)

    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch \d+: lower learning_rate"):
        train(network(), dataset, config, tmp_path)

    assert not (tmp_path / "model.json").exists()


def with_split(name: str, other: str):
    def change(dataset):
        dataset.regions["split"] = dataset.regions["split"].replace(name, other)

    return change


def with_target(value: float):
    def change(dataset):
        dataset.targets[3, 1] = value

    return change


def same(dataset):
    """No change."""


@pytest.mark.parametrize(
    ("change", "model", "config", "message"),
    [
        (with_split("train", "test"), {}, {}, "train"),
        (with_split("validation", "test"), {}, {}, "validation"),
        (with_target(float("nan")), {}, {}, r"targets.*nan"),
        (with_target(float("inf")), {}, {}, r"targets.*inf"),
        (same, {"n_tasks": 3}, {}, r"3.*4 tasks|4 tasks.*3"),
        (same, {"length": 30}, {}, r"length.*30.*24|24.*length.*30"),
        (same, {}, {"max_shift": 10}, "flank of 6 bp"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_starts(
    dataset, tmp_path, change, model, config, message
):
    change(dataset)

    with pytest.raises(ValueError, match=message):
        train(network(**model), dataset, replace(CONFIG, **config), tmp_path / "new")

    assert not (tmp_path / "new").exists()


def test_a_validation_correlation_that_never_exists_is_an_error(dataset, tmp_path):
    one_task = replace(
        dataset,
        targets=dataset.targets[:, :1],
        tasks=["A"],
        center=dataset.center[:1],
        scale=dataset.scale[:1],
    )

    with pytest.raises(ValueError, match="correlation"):  # one task: nothing to correlate across
        train(network(n_tasks=1), one_task, ONE_EPOCH, tmp_path)


# --- killed trainings ------------------------------------------------------------------------


class Killed(BaseException):
    """Stands in for a signal: no handler of ordinary errors catches it."""


def die_at(monkeypatch, owner, name: str, call: int) -> None:
    """Make a function raise at its n-th call."""
    original, calls = getattr(owner, name), [0]

    def mortal(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, mortal)


MOMENTS = [
    pytest.param(training, "training_loss", 3, id="in the first epoch"),
    pytest.param(training, "training_loss", 13, id="in the middle of an epoch"),
    pytest.param(training, "training_loss", 18, id="in the middle of fine-tuning"),
    pytest.param(training, "evaluate", 2, id="in validation"),
    pytest.param(cache, "write_text", 5, id="between the weights and the JSON of a state"),
    pytest.param(training, "_delete_states", 3, id="between two states"),
    pytest.param(training, "_write_log", 4, id="while logging"),
    pytest.param(training, "_clone", 3, id="while keeping the best"),
]
LATE_MOMENTS = [  # calls after as many as there are epochs
    pytest.param("save_checkpoint", 1 + len(CONFIG.snapshots), id="before the last file"),
    pytest.param("_delete_states", 0, id="after the last state"),
    pytest.param("_delete_states", 1, id="after the last file"),
]


@pytest.mark.parametrize("config", [CONFIG, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize(("owner", "name", "call"), MOMENTS)
def test_a_killed_training_resumes_bit_for_bit(
    dataset, whole, tmp_path, monkeypatch, config, owner, name, call
):
    _, expected, folder = whole(config)
    with monkeypatch.context() as patch:
        die_at(patch, owner, name, call)
        with pytest.raises(Killed):
            train(network(), dataset, config, tmp_path)

    resumed = network()
    metadata = train(resumed, dataset, config, tmp_path)

    assert metadata == expected
    assert contents(tmp_path) == contents(folder)
    assert_same_weights(resumed, load_model(tmp_path / "model")[0])


@pytest.mark.parametrize(("name", "calls"), LATE_MOMENTS)
def test_a_training_killed_after_its_last_epoch_only_writes(
    dataset, whole, tmp_path, monkeypatch, name, calls
):
    _, expected, folder = whole(CONFIG)
    with monkeypatch.context() as patch:
        die_at(patch, training, name, expected["epoch"] + calls)
        with pytest.raises(Killed):
            train(network(), dataset, CONFIG, tmp_path)
    steps = spy_on_batches(monkeypatch)

    train(network(), dataset, CONFIG, tmp_path)

    assert not steps
    assert contents(tmp_path) == contents(folder)


def test_lack_of_memory_names_the_setting(dataset, tmp_path, monkeypatch):
    error = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(training, "training_loss", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(torch.OutOfMemoryError) as caught:
        train(network(), dataset, CONFIG, tmp_path)
    assert caught.value.__notes__ == [
        "tism: lower batch_size of the training, now 8; another batch_size is another training"
    ]


def test_a_finished_training_is_loaded_and_not_repeated(dataset, whole, monkeypatch):
    model, metadata, folder = whole(CONFIG)
    steps, again = spy_on_batches(monkeypatch), network(seed=5)

    repeated = train(again, dataset, replace(CONFIG, snapshots=[1, 3]), folder)

    assert not steps
    assert_same_weights(again, model)
    assert repeated["log"] == metadata["log"]


@pytest.fixture(scope="module")
def unfinished(tiny_dataset, tmp_path_factory):
    """The folder of a training of CONFIG killed in its third epoch."""
    folder = tmp_path_factory.mktemp("unfinished")
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, training, "training_loss", 13)
        with pytest.raises(Killed):
            train(network(), tiny_dataset, CONFIG, folder)
    return folder


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "killed"])
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tiny", {"config": replace(CONFIG, seed=1)}, "training differ"),
        ("tiny", {"config": ADAMW}, "training differ"),
        ("tiny", {"model": network(width=5)}, "model differ"),
        ("tiny", {"identity": {"data_sha256": "b"}}, "data_sha256 differ"),
        ("yeast", {}, "dataset differ"),
    ],
)
def test_the_folder_of_another_training_is_refused(
    dataset, whole, unfinished, finished, name, change, message
):
    folder = whole(CONFIG)[2] if finished else unfinished
    arguments = {"model": network(), "config": CONFIG, **change}
    before = contents(folder)

    with pytest.raises(ValueError, match=rf"{folder.name} holds another training: {message}"):
        train(dataset=replace(dataset, name=name), folder=folder, **arguments)

    assert contents(folder) == before


def test_an_identity_survives_json(dataset, tmp_path):
    identity = {"files": ("a", "b"), "sizes": {1: 2}}
    first = train(network(), dataset, ONE_EPOCH, tmp_path, identity=identity)

    again = train(network(), dataset, ONE_EPOCH, tmp_path, identity=identity)

    assert again["log"] == first["log"]
