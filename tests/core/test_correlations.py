"""Correlations against scipy and brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats

from tism import mean_effect, tism_from_gradient
from tism.correlations import (
    mean_effect_correlation,
    pearson,
    profile_correlation,
    substitution_correlation,
    task_difference_correlation,
)

CLOSE = {"rtol": 1e-9, "atol": 1e-12, "equal_nan": True}


@pytest.fixture
def maps(sequences):
    """Two alike maps (5, 3, 4, 20) float64, zero at the reference bases of `sequences`."""
    generator = torch.Generator().manual_seed(8)
    first, noise = torch.randn(2, 5, 3, 4, 20, dtype=torch.float64, generator=generator)
    return tism_from_gradient(first, sequences), tism_from_gradient(first + noise, sequences)


def by_profile(function) -> torch.Tensor:
    """(5, 3) of a function of sequence and task."""
    return torch.tensor([[function(i, t) for t in range(3)] for i in range(5)])


def r(a, b) -> float:
    return stats.pearsonr(np.ravel(a), np.ravel(b)).statistic


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("convert", [torch.Tensor.float, torch.Tensor.double, torch.Tensor.numpy])
def test_pearson_is_scipys(dim, convert):
    a, b = torch.randn(2, 7, 9, generator=torch.Generator().manual_seed(9)) + 1e3

    found = pearson(convert(a), convert(b), dim)

    expected = stats.pearsonr(a.double().numpy(), b.double().numpy(), axis=dim).statistic
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-7, atol=1e-9)


def test_pearson_of_proportional_profiles_is_one_at_any_scale():
    a = torch.randn(50, dtype=torch.float64)
    for scale in (1e-30, 1.0, 1e30):
        assert abs(pearson(a, scale * a) - 1) < 1e-12
        assert -1 <= pearson(a, -scale * a) < -1 + 1e-12


def test_rounding_takes_no_correlation_beyond_one():
    a = torch.randn(300, 1, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps = torch.cat([a, -2 * a], 1)  # (n, tasks, 7)
    for scale in (3, -3):
        assert pearson(a, scale * a).abs().max() == 1
        assert task_difference_correlation(maps, scale * maps).abs().max() == 1


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9 + 0.1])
def test_pearson_of_a_constant_does_not_exist(constant):
    rising = torch.arange(251, dtype=torch.float64)
    a = torch.stack([torch.full_like(rising, constant), rising])  # 251 * 0.1 / 251 is not 0.1
    b = rising.square().expand(2, -1)

    assert pearson(a, b).isnan().tolist() == [True, False]
    assert pearson(b, a).isnan().tolist() == [True, False]


def test_pearson_is_computed_in_float64():
    a = torch.tensor([1.0, 2.0, 4.0])
    for first, second in ((1e30 * a, a.double()), (a.double(), 1e30 * a)):  # squares overflow
        assert pearson(first, second).dtype == torch.float64
        assert pearson(first, second) == pytest.approx(1)


@pytest.mark.parametrize(("shape", "dim"), [((3, 4), 2), ((3, 4), -3), ((3, 0), 1)])
def test_pearson_needs_an_axis_with_values(shape, dim):
    with pytest.raises(ValueError, match=rf"dim must be an axis with values, got {dim} of shape"):
        pearson(torch.zeros(shape), torch.zeros(shape), dim)


def test_pearson_refuses_to_broadcast():
    with pytest.raises(ValueError, match=r"shapes must agree, got \(2, 9\) and \(9,\)"):
        pearson(torch.zeros(2, 9), torch.zeros(9))


def test_profile_correlation_includes_the_reference_zeros(maps):
    first, second = maps
    expected = by_profile(lambda i, t: r(first[i, t], second[i, t]))

    torch.testing.assert_close(profile_correlation(first, second), expected, **CLOSE)


def test_substitution_correlation_leaves_the_reference_out(maps, sequences):
    first, second = maps

    def expected(i, t):
        substituted = sequences[i] == 0
        return r(first[i, t][substituted], second[i, t][substituted])

    found = substitution_correlation(first, second, sequences)

    torch.testing.assert_close(found, by_profile(expected), **CLOSE)
    anything = first + 100 * sequences[:, None]
    torch.testing.assert_close(
        substitution_correlation(anything, second, sequences.to(torch.uint8)), found, **CLOSE
    )


def test_mean_effect_correlation_is_over_positions(maps, sequences):
    first, second = maps
    one, two = (mean_effect(scores, sequences).sum(2) for scores in maps)

    expected = by_profile(lambda i, t: r(one[i, t], two[i, t]))
    torch.testing.assert_close(mean_effect_correlation(first, second, sequences), expected, **CLOSE)


def brute_force_differences(first, second):
    return torch.tensor(
        [
            [r(a[t] - a[u], b[t] - b[u]) for t, u in combinations(range(len(a)), 2)]
            for a, b in zip(first, second, strict=True)
        ]
    )


SCALES = ([1, 1, 1], [1, 1e-3, 1e-3], [1, 1e-6, 1e-6], [1e6, 1, 1e-6], [1e8, 1, 1])


@pytest.mark.parametrize("scales", SCALES)
def test_task_differences_pair_by_pair(maps, scales):
    scale = torch.tensor(scales, dtype=torch.float64).view(3, 1, 1)
    first, second = (scores * scale for scores in maps)

    found = task_difference_correlation(first, second)

    expected = brute_force_differences(first, second)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_task_differences_of_single_precision_are_taken_in_double(maps):
    first, second = (scores.float() + 1000 for scores in maps)

    found = task_difference_correlation(first, second)

    assert torch.equal(found, task_difference_correlation(first.double(), second.double()))


@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("n_tasks", [2, 3, 5, 9, 17])
def test_a_constant_task_difference_has_no_correlation(offset, n_tasks):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        first, second = torch.randn(2, 1, n_tasks, 4, 251, dtype=torch.float64, generator=generator)
        first[:, -1] = first[:, 0] + offset

        found = task_difference_correlation(first, second)[0]

        exists = [pair != (0, n_tasks - 1) for pair in combinations(range(n_tasks), 2)]
        assert found.isfinite().tolist() == exists


def test_as_many_maps_on_either_side(maps, sequences):
    first, second = maps
    with pytest.raises(ValueError, match="shorter than argument"):
        task_difference_correlation(first, second[1:])
    with pytest.raises(ValueError, match="shorter than argument"):
        substitution_correlation(first, second, sequences[1:])
