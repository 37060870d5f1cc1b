"""The equations against their definitions, written out as loops, in float64."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from tism import centre, gradient_times_input, hypothetical, mean_effect, tism_from_gradient

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def gradient() -> torch.Tensor:
    """(5, 3, 4, 20) float64."""
    return torch.randn(5, 3, 4, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def reference(sequence: torch.Tensor, position: int) -> int | None:
    column = sequence[:, position]
    return int(column.argmax()) if column.any() else None


def positions(gradient):
    n, tasks, _, length = gradient.shape
    return product(range(n), range(tasks), range(length))


def test_tism_is_the_gradient_minus_that_at_the_reference(gradient, sequences):
    expected = torch.empty_like(gradient)
    for i, t, p in positions(gradient):
        base = reference(sequences[i], p)
        at_reference = 0 if base is None else gradient[i, t, base, p]
        expected[i, t, :, p] = gradient[i, t, :, p] - at_reference

    scores = tism_from_gradient(gradient, sequences)

    torch.testing.assert_close(scores, expected, **EXACT)
    assert (scores * sequences[:, None] == 0).all()


def test_centred_tism_is_the_centred_gradient(gradient, sequences):
    corrected = gradient - gradient.sum(2, keepdim=True) / 4

    torch.testing.assert_close(centre(gradient), corrected, **EXACT)
    torch.testing.assert_close(centre(tism_from_gradient(gradient, sequences)), corrected, **EXACT)
    assert centre(gradient).sum(2).abs().max() < 1e-12


def test_mean_effect_is_minus_the_mean_substitution_at_the_reference(gradient, sequences):
    scores = tism_from_gradient(gradient, sequences)
    expected = torch.zeros_like(scores)
    for i, t, p in positions(scores):
        base = reference(sequences[i], p)
        if base is not None:
            others = [scores[i, t, b, p] for b in range(4) if b != base]
            expected[i, t, base, p] = -sum(others) / 3

    effect = mean_effect(scores, sequences)

    torch.testing.assert_close(effect, expected, **EXACT)
    four_thirds = 4 / 3 * centre(scores) * sequences[:, None]
    torch.testing.assert_close(effect, four_thirds, **EXACT)


def test_hypothetical_contributions_follow_their_definition(gradient):
    baseline = torch.rand(5, 4, 20, dtype=torch.float64)
    expected = torch.empty_like(gradient)
    for i, t, p in positions(gradient):
        for base, one_hot in enumerate(torch.eye(4, dtype=torch.float64)):
            step = one_hot - baseline[i, :, p]
            expected[i, t, base, p] = (gradient[i, t, :, p] * step).sum()

    torch.testing.assert_close(hypothetical(gradient, baseline), expected, **EXACT)


def test_hypothetical_baselines(gradient, sequences):
    frequencies = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    by_base = hypothetical(gradient, frequencies)

    torch.testing.assert_close(hypothetical(gradient, [0.25] * 4), centre(gradient), **EXACT)
    torch.testing.assert_close(
        hypothetical(gradient, sequences), tism_from_gradient(gradient, sequences), **EXACT
    )
    for form in (frequencies[:, None].expand(4, 20), frequencies[None, :, None].expand(5, 4, 20)):
        torch.testing.assert_close(hypothetical(gradient, form), by_base, **EXACT)
    assert hypothetical(gradient.float(), frequencies).dtype == torch.float32


def test_gradient_times_input_keeps_the_reference_entry_only(gradient, sequences):
    scores = gradient_times_input(gradient, sequences)

    present = (sequences == 1)[:, None].expand_as(gradient)
    assert torch.equal(scores[present], gradient[present])
    assert (scores[~present] == 0).all()


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "?"])
def test_arrays_of_any_dtype_keep_the_dtype_of_the_scores(gradient, sequences, dtype):
    one_hot = sequences.numpy().astype(dtype)

    for function in (tism_from_gradient, mean_effect, gradient_times_input):
        scores = function(gradient.numpy(), one_hot)
        assert scores.dtype == torch.float64
        assert torch.equal(scores, function(gradient, sequences))


def test_scores_keep_their_dtype_and_their_graph(gradient, sequences):
    for function in (tism_from_gradient, mean_effect, gradient_times_input):
        assert function(gradient.float(), sequences).dtype == torch.float32
    assert centre(gradient.requires_grad_()).requires_grad
    whole = torch.arange(4).view(1, 1, 4, 1)
    assert centre(whole).flatten().tolist() == [-1.5, -0.5, 0.5, 1.5]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_at_one_base_does_not_reach_the_others(gradient, sequences, value):
    index = sequences[0, :, 0].argmax()
    other = (index + 1) % 4
    spoilt, baseline = gradient.clone(), torch.full((4,), 1 / 3).double()
    spoilt[0, 0, other, 0], baseline[other] = value, 0
    rest = torch.ones_like(gradient, dtype=torch.bool)
    rest[0, 0, other, 0] = False
    for function, second in (
        (tism_from_gradient, sequences),
        (gradient_times_input, sequences),
        (hypothetical, baseline),
    ):
        found, expected = function(spoilt, second)[rest], function(gradient, second)[rest]
        torch.testing.assert_close(found, expected)
    assert (mean_effect(spoilt, sequences)[0, 0, sequences[0, :, 0] == 0, 0] == 0).all()


def test_the_arguments_are_not_changed(gradient, sequences):
    before = gradient.clone(), sequences.clone()

    tism_from_gradient(gradient, sequences)
    mean_effect(gradient, sequences)
    centre(gradient)
    hypothetical(gradient, np.full(4, 0.25))

    assert torch.equal(gradient, before[0])
    assert torch.equal(sequences, before[1])


@pytest.mark.parametrize("function", [tism_from_gradient, mean_effect, gradient_times_input])
@pytest.mark.parametrize(
    ("shape", "one_hot_shape", "message"),
    [
        ((5, 4, 20), (5, 4, 20), r"\(n, tasks, 4, length\), got \(5, 4, 20\)"),
        ((5, 3, 20, 4), (5, 4, 20), r"\(n, tasks, 4, length\), got \(5, 3, 20, 4\)"),
        ((5, 3, 4, 20), (4, 20), r"one_hot must have shape \(5, 4, 20\).*got \(4, 20\)"),
        ((5, 3, 4, 20), (5, 4, 19), r"one_hot must have shape \(5, 4, 20\).*got \(5, 4, 19\)"),
        ((5, 3, 4, 20), (1, 4, 20), r"one_hot must have shape \(5, 4, 20\).*got \(1, 4, 20\)"),
    ],
)
def test_shapes_that_do_not_fit(function, shape, one_hot_shape, message):
    with pytest.raises(ValueError, match=message):
        function(torch.zeros(shape), torch.zeros(one_hot_shape))


@pytest.mark.parametrize("shape", [(), (3,), (20,), (4, 19), (1, 4, 20), (5, 3, 4, 20)])
def test_a_baseline_that_does_not_fit(gradient, shape):
    with pytest.raises(ValueError, match=r"baseline must have shape \(4,\), \(4, 20\)"):
        hypothetical(gradient, torch.zeros(shape))


def test_centre_refuses_another_axis_order():
    with pytest.raises(ValueError, match=r"scores must have shape \(n, tasks, 4, length\)"):
        centre(torch.zeros(5, 3, 20, 4))


def test_whole_numbers_are_not_rounded():
    """A baseline of a quarter is no zero, whatever type the scores have."""
    scores = torch.arange(24).view(1, 1, 4, 6)
    expected = centre(scores.double())
    torch.testing.assert_close(hypothetical(scores, [0.25] * 4).double(), expected)
    torch.testing.assert_close(centre(scores.numpy()).double(), expected)


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [("ACGT", "scores"), (None, "scores"), ([[1.0], [1.0, 2.0]], "scores"), (1j, "scores")],
)
def test_what_is_no_array_is_named(scores, wanted):
    with pytest.raises(TypeError, match=f"^{wanted} must be a"):
        centre(scores)


def test_arrays_that_run_backwards():
    scores = np.arange(24.0).reshape(1, 1, 4, 6)[..., ::-1]
    torch.testing.assert_close(centre(scores), centre(scores.copy()))
