"""What TF-MoDISco reads is what it should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tism
from tism.score.methods import score_to_store
from tism.score.modisco import contributions, modisco_window, write_modisco_pair

LENGTH = 17


@pytest.fixture
def one_hot() -> torch.Tensor:
    index = torch.randint(4, (9, LENGTH), generator=torch.Generator().manual_seed(0))
    return torch.eye(4)[index].transpose(1, 2)


@pytest.fixture
def model() -> torch.nn.Module:
    return tism.build_model("baseline", length=LENGTH, n_tasks=3, width=4, seed=0)


@pytest.mark.parametrize("method", ["tism", "ism", "gradient"])
def test_contributions_are_centred_scores(tmp_path, model, one_hot, method):
    store = score_to_store(tmp_path / "s", model, one_hot, [2, 0], method=method, chunk_size=4)
    sequences, scores = contributions(store, 0)
    np.testing.assert_array_equal(sequences, one_hot)
    expected = tism.centre(store.read())[:, 1]
    np.testing.assert_allclose(scores, expected, atol=1e-7)
    assert scores.dtype == sequences.dtype == np.float32
    with pytest.raises(ValueError, match="task must be one of 2, 0; got 1"):
        contributions(store, 1)
    with pytest.raises(ValueError, match="task must be one of 2, 0; got None"):
        contributions(store)


def test_tism_and_gradient_give_the_same_for_any_background(tmp_path, model, one_hot):
    background = (0.3, 0.2, 0.2, 0.3)
    by_tism, by_gradient = (
        contributions(
            score_to_store(tmp_path / method, model, one_hot, 1, method=method),
            background=background,
        )[1]
        for method in ("tism", "gradient")
    )
    np.testing.assert_allclose(by_tism, by_gradient, atol=1e-6)
    weighted = (by_tism * np.array(background)[:, None]).sum(1)
    np.testing.assert_allclose(weighted, 0, atol=1e-6)


@pytest.mark.parametrize("background", [(0.5, 0.5), (1, 1, -1, 0), (0.3, 0.3, 0.3, 0.3)])
def test_backgrounds_are_checked(tmp_path, model, one_hot, background):
    store = score_to_store(tmp_path / "s", model, one_hot, 0)
    with pytest.raises(ValueError, match="background must be four frequencies"):
        contributions(store, background=background)


def test_pair_is_what_modisco_reads(tmp_path, model, one_hot):
    from modiscolite.cli import _load_input
    from modiscolite.util import calculate_window_offsets

    store = score_to_store(tmp_path / "s", model, one_hot, 1)
    paths = write_modisco_pair(store, tmp_path / "new" / "pair")
    assert [path.name for path in paths] == ["pair.sequences.npz", "pair.attributions.npz"]
    for path, array in zip(paths, contributions(store), strict=True):
        np.testing.assert_array_equal(_load_input(path), array)
    start, end = calculate_window_offsets(LENGTH // 2, modisco_window(LENGTH))
    assert (start, end) == (0, LENGTH - 1)
