"""Every function on a device that pretends to be a GPU: its results, its waits, what it sends."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from functools import partial

import pretend_gpu
import pytest
import torch
from conftest import N_TASKS, ready
from pretend_gpu import DEVICE, OnDevice, PretendGPU
from torch import Tensor, nn

import tism
from tism import correlations
from tism.double_mutants import interaction_map, interactions, strongest
from tism.engine.replay import WindowedModel
from tism.exact import predict
from tism.predictor import evaluating
from tism.running import resolve_device
from tism.sequence import decode, reverse_complement, substitutions

FUNCTIONS = {
    "predict": predict,
    "input_gradient": tism.input_gradient,
    "tism": tism.tism,
    "full ISM": partial(tism.ism, engine="full"),
    "windowed ISM": partial(tism.ism, engine="windowed"),
    "layerwise_tism": partial(tism.layerwise_tism, depth="1"),
    "budgeted_ism": partial(tism.budgeted_ism, m=20),
    "budgeted_ism on windows": partial(tism.budgeted_ism, m=20, engine="windowed"),
    "reliability": partial(tism.reliability, m=20),
    "interactions": lambda model, one_hot, *a, **k: interactions(model, one_hot, 3, 1, *a, **k),
    "interaction_map": lambda model, one_hot, *a, **k: interaction_map(
        model, one_hot, one_hot.cpu().roll(1, 1).argmax(1), *a, **k
    ),
}
HELPERS = {
    "tism_from_gradient": tism.tism_from_gradient,
    "centre": lambda scores, _: tism.centre(scores),
    "mean_effect": tism.mean_effect,
    "hypothetical": lambda scores, _: tism.hypothetical(scores, [0.3, 0.2, 0.2, 0.3]),
    "gradient_times_input": tism.gradient_times_input,
    "reverse_complement": lambda scores, _: reverse_complement(scores),
    "strongest": lambda scores, _: strongest(scores[:, 0]),
    "profile_correlation": lambda scores, _: correlations.profile_correlation(scores, scores**3),
    "substitution_correlation": lambda scores, one_hot: correlations.substitution_correlation(
        scores, scores**3, one_hot
    ),
    "mean_effect_correlation": lambda scores, one_hot: correlations.mean_effect_correlation(
        scores, scores**3, one_hot
    ),
    "task_difference_correlation": lambda scores, _: correlations.task_difference_correlation(
        scores, scores**3
    ),
}


@pytest.fixture
def model() -> nn.Sequential:
    """(n, 4, 20) to (n, 3), with a pooling, so that windows are of several widths."""
    layers = [nn.Conv1d(4, 6, 5, padding="same"), nn.GELU(), nn.MaxPool1d(2), nn.BatchNorm1d(6)]
    layers += [nn.Conv1d(6, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(60, N_TASKS)]
    return ready(nn.Sequential(*layers)).eval()


def tensors(result: Tensor | tuple) -> list[Tensor]:
    """The tensors that a function returned."""
    return [t for t in (result if isinstance(result, tuple) else [result]) if torch.is_tensor(t)]


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_results_are_the_cpus(model, sequences, function):
    expected = tensors(function(model, sequences, [2, 0]))
    moved = pretend_gpu.move(deepcopy(model))
    with PretendGPU() as gpu:
        there = tensors(function(moved, sequences, [2, 0]))
        from_there = tensors(function(moved, OnDevice(sequences), [2, 0]))
        sent = tensors(function(model, sequences, [2, 0], device=DEVICE))
    for results in (there, from_there, sent):
        assert all(result.device.type == "cpu" for result in results)
        torch.testing.assert_close(results, expected, rtol=1e-9, atol=1e-12)
    assert gpu.kernels.total() > 100  # it did run there
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


@pytest.mark.parametrize("function", HELPERS.values(), ids=HELPERS)
def test_helpers_keep_the_device(model, sequences, function):
    scores = tism.ism(model, sequences)
    with PretendGPU():
        found = function(OnDevice(scores), OnDevice(sequences))
    assert found.device == DEVICE
    torch.testing.assert_close(found.held, function(scores, sequences))


def test_sequences_of_the_device_are_read(sequences):
    with PretendGPU():
        assert decode(OnDevice(sequences)) == decode(sequences)


def test_the_device_is_known_while_it_is_there():
    with PretendGPU():
        assert resolve_device("pgpu", []).type == DEVICE.type


def test_mixed_devices_are_an_error(model, sequences):
    class Mixed(nn.Module):
        """Adds a tensor that no one moves."""

        def __init__(self):
            super().__init__()
            self.inner, self.offset = model, torch.ones(N_TASKS, dtype=torch.float64)

        def forward(self, x):
            return self.inner(x) + self.offset

    with PretendGPU(), pytest.raises(RuntimeError, match="tensors on pgpu:0 and on cpu"):
        tism.ism(Mixed(), sequences, device=DEVICE)


RESULTS = {  # of a batch or a block of sequences, or of a round, by which the next is chosen
    "copy_ running.step",
    "copy_ exact._full_ism",
    "_to_copy first_order.gradient_by_task",
    "_to_copy budgeted.effects",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_host_waits_for_results_only(model, bases, name):
    """More tasks and batches take no more waits than one for each batch of sequences."""

    def waits(tasks: list[int], batch_size: int) -> Counter:
        with PretendGPU() as gpu:
            FUNCTIONS[name](model, bases[:4], tasks, batch_size=batch_size, device=DEVICE)
        return gpu.waits

    small = 2 if name in ("predict", "input_gradient", "tism") else 16
    few, many = waits([0], 200), waits([0, 2, 1], small)
    assert set(many - few) <= RESULTS
    assert (many - few).total() <= 3 * (1 + (name == "interactions"))


def test_a_batch_of_windows_sends_few_indices_and_waits_for_nothing(bases):
    """With 5 convolutions, residual additions, 4 poolings and both strands."""
    model = pretend_gpu.move(tism.build_model("baseline", length=20, n_tasks=2, width=4, seed=0))
    row, position, base = substitutions(bases[:2].float(), range(20))
    with PretendGPU() as gpu, evaluating(model, n=2) as predictor, torch.no_grad():
        windows = WindowedModel(predictor, predictor.prepare(bases[:2]), {})
        windows.effects(row, position, base)  # the first batch prepares weights
        gpu.waits.clear(), gpu.transfers.clear(), gpu.kernels.clear()
        windows.effects(row, position, base)
        waits, kernels = gpu.waits.copy(), gpu.kernels.copy()  # before those that restore the model
    assert not waits
    assert gpu.transfers.total() <= 24, gpu.transfers
    assert kernels.total() <= 165, kernels


@pytest.mark.parametrize("newer", [False, True], ids=["allow_tf32", "fp32_precision"])
def test_tf32_takes_no_windows_away_and_warns_of_nothing(model, bases, newer):
    """Rounding to 10 bits hides small effects; windows are differences and do without."""
    conv, rnn = torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    model, bases, kept = model.float(), bases.float(), (conv.fp32_precision, rnn.fp32_precision)
    exact = tism.ism(model, bases)
    try:
        if newer:
            conv.fp32_precision, rnn.fp32_precision = "tf32", "ieee"
        with PretendGPU():
            full = tism.ism(model, bases, engine="full", device=DEVICE)
            windowed = tism.ism(model, bases, engine="windowed", device=DEVICE)
    finally:
        conv.fp32_precision, rnn.fp32_precision = kept
    assert 1e-5 < (full - exact).abs().max() / exact.abs().max() < 1e-2
    torch.testing.assert_close(windowed, exact, rtol=1e-4, atol=1e-6)
