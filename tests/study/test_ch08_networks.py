"""External networks against their published files, and their readers against made-up ones."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from tism import ism, one_hot_encode
from tism.exact import predict
from tism.study.ch08_checks import motif_effect, port_checks
from tism.study.ch08_networks import (
    CALDERON_TASKS,
    CalderonCNN,
    WeightFileError,
    deepstarr,
    load_external,
    load_keras,
    mpra_dragonn,
    read_torch_arrays,
)
from tism.study.data.download import DownloadError, fetch


@pytest.fixture
def chain() -> nn.Sequential:
    norm = nn.BatchNorm1d(2, eps=1e-3)
    return nn.Sequential(nn.Conv1d(4, 2, 3), nn.ReLU(), norm, nn.Flatten(), nn.Linear(2 * 5, 3))


LAYERS = [["conv"], ["norm"], ["left", "right"]]


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "conv/conv_1/kernel:0": (3, 4, 2),
        "conv/conv_1/bias:0": (2,),
        "left/left/kernel:0": (10, 1),
        "left/left/bias:0": (1,),
        "right/right/kernel:0": (10, 2),
        "right/right/bias:0": (2,),
    } | {f"norm/norm/{n}:0": (2,) for n in ("gamma", "beta", "moving_mean", "moving_variance")}
    return {name: rng.uniform(0.5, 1, shape).astype("f4") for name, shape in shapes.items()}


def write_h5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def by_hand(sequence: np.ndarray, a: dict[str, np.ndarray]) -> np.ndarray:
    """Keras' arithmetic on one (length, 4) sequence: channels last all the way."""
    windows = np.stack([sequence[i : i + 3] for i in range(len(sequence) - 2)])
    x = np.einsum("lkc,kco->lo", windows, a["conv/conv_1/kernel:0"]) + a["conv/conv_1/bias:0"]
    x = np.maximum(x, 0) - a["norm/norm/moving_mean:0"]
    x = x / np.sqrt(a["norm/norm/moving_variance:0"] + 1e-3)
    x = (x * a["norm/norm/gamma:0"] + a["norm/norm/beta:0"]).reshape(-1)
    kernel = np.hstack([a["left/left/kernel:0"], a["right/right/kernel:0"]])
    return x @ kernel + np.hstack([a["left/left/bias:0"], a["right/right/bias:0"]])


def test_keras_weights_give_keras_arithmetic(chain, arrays, tmp_path):
    load_keras(chain, write_h5(tmp_path / "w.h5", arrays), LAYERS)

    one_hot = one_hot_encode("ACGTTGA")
    expected = by_hand(one_hot[0].T.numpy(), arrays)
    np.testing.assert_allclose(chain(one_hot)[0].detach().numpy(), expected, rtol=1e-5)
    assert not chain.training


def test_a_missing_layer_is_named(chain, arrays, tmp_path):
    kept = {name: array for name, array in arrays.items() if not name.startswith("right")}
    with pytest.raises(WeightFileError, match=r"w\.h5 has no weights of layer right; it has conv"):
        load_keras(chain, write_h5(tmp_path / "w.h5", kept), LAYERS)


def test_another_shape_is_named(chain, arrays, tmp_path):
    arrays["conv/conv_1/kernel:0"] = np.zeros((5, 4, 2), "f4")
    with pytest.raises(WeightFileError, match=r"0\.weight must be \(2, 4, 3\), got \(2, 4, 5\)"):
        load_keras(chain, write_h5(tmp_path / "w.h5", arrays), LAYERS)


def test_what_is_no_weight_file_is_refused(chain, tmp_path):
    path = tmp_path / "weights"
    path.write_text("nothing of the kind")
    with pytest.raises(WeightFileError, match="is no HDF5 file"):
        load_keras(chain, path, LAYERS)
    with pytest.raises(WeightFileError, match="is no torch weight file"):
        read_torch_arrays(path, [(2,)])


def test_torch_arrays_are_those_that_torch_reads(tmp_path):
    state = {"a": torch.randn(2, 3), "b": torch.randn(5), "c": torch.randn(1, 7)}
    torch.save(state, tmp_path / "w.pth")
    arrays = read_torch_arrays(tmp_path / "w.pth", [(2, 3), (5,), (1, 7)])
    for array, tensor in zip(arrays, state.values(), strict=True):
        assert torch.equal(array, tensor)
    with pytest.raises(WeightFileError, match=r"of \[24, 20\] bytes, got \[24, 20, 28\]"):
        read_torch_arrays(tmp_path / "w.pth", [(2, 3), (5,)])


def test_calderon_reads_both_strands_and_is_free_of_its_batch():
    torch.manual_seed(0)
    model = CalderonCNN().eval()
    one_hot = one_hot_encode(["ACGTTGACCA" * 40 + "A", "T" * 401])
    together = predict(model, one_hot)
    assert together.shape == (2, len(CALDERON_TASKS))
    torch.testing.assert_close(predict(model, one_hot[:1]), together[:1])
    kernels = model.conv.conv.weight
    kernels.data = kernels.flip(1, 2).detach()
    torch.testing.assert_close(predict(model, one_hot), together)


@pytest.mark.parametrize(
    ("build", "length", "tasks"), [(deepstarr, 249, 2), (mpra_dragonn, 145, 12)]
)
def test_windows_follow_the_networks(build, length, tasks):
    torch.manual_seed(0)
    model = build()
    one_hot = one_hot_encode("ACGTTGACCATTG" * 20)[:, :, :length]
    fast = ism(model, one_hot, engine="windowed", start=60, stop=63)
    assert fast.shape == (1, tasks, 4, 3)
    torch.testing.assert_close(
        fast, ism(model, one_hot, engine="full", start=60, stop=63), rtol=1e-4, atol=1e-6
    )


def test_calderon_tasks_are_sorted_as_published():
    assert list(CALDERON_TASKS) == sorted(set(CALDERON_TASKS))
    assert len(CALDERON_TASKS) == 45
    assert sum(task.endswith("-U") for task in CALDERON_TASKS) == 25


def external(name: str):
    try:
        return load_external(name)
    except DownloadError as error:
        pytest.skip(f"the weights of {name} are not here: {error}")


@pytest.mark.parametrize("name", ["deepstarr", "mpra_dragonn", "xpresso", "aparent2_log_odds"])
def test_published_networks_pass_their_checks(name):
    assert port_checks(external(name))["agrees"].all()


def test_log_odds_and_proportion_of_a_signal_are_one_network():
    odds, proportion = (external(name).model for name in ("aparent2_log_odds", "aparent2"))
    one_hot = one_hot_encode("ACGTTGACCATTG" * 15 + "AATAAAGTCA")
    torch.testing.assert_close(predict(odds, one_hot).sigmoid(), predict(proportion, one_hot))
    total = odds.cleavage(one_hot).softmax(1)[:, 77:127].sum(1)
    torch.testing.assert_close(total[:, None].detach(), predict(proportion, one_hot))


def test_calderon_knows_lineages():
    model = external("calderon")
    path = fetch("models/calderon/weights.pth")
    published = torch.load(path, map_location="cpu", weights_only=True)
    assert torch.equal(model.model.head.weight, published["classifier.classifier.Linear.weight"])
    risen = {m: motif_effect(model, m).idxmax() for m in ("ATTCCCAAGGGAAT", "ATTGCGCAAT")}
    assert risen["ATTCCCAAGGGAAT"] in {"Mem_B-S", "Naive_B-S", "Bulk_B-S"}  # EBF1
    assert risen["ATTGCGCAAT"] in {"Monocytes-U", "Monocytes-S"}  # CEBPB
    assert motif_effect(model, "GATGACTCATC").idxmax().endswith("-S")  # AP-1


def test_errors_name_the_choices():
    with pytest.raises(ValueError, match="name must be one of calderon, deepstarr, mpra_dragonn"):
        load_external("basset")
    model = external("deepstarr")
    assert model.task_numbers("all") == [0, 1]
    assert model.task_numbers("housekeeping;developmental") == [1, 0]
    with pytest.raises(ValueError, match="deepstarr has no task HepG2"):
        model.task_numbers("HepG2")
