"""The reliability of a profile: the draw, the estimate, its interval and its word."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from tism import agreement, build_model, ism, one_hot_encode, reliability, tism
from tism.agreement import (
    Calibration,
    ExactEffects,
    assess,
    calibrated,
    draw,
    effective_number,
    sampling_factors,
    uniform,
)
from tism.correlations import profile_correlation
from tism.study.ch07_estimators import fit_calibration

LENGTH = 40
ROOT = Path(__file__).parents[2]


def profiles(n: int = 40, noise: float = 0.7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """TISM, ISM and what may be substituted, of drawn profiles of 100 bp."""
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randint(4, (n, 100), generator=generator)
    substituted = nn.functional.one_hot(reference, 4).transpose(1, 2) == 0
    scale = torch.randn(n, 1, 1, 100, generator=generator).exp()
    base = scale * torch.randn(n, 1, 4, 100, generator=generator) * substituted[:, None]
    error = scale * torch.randn(n, 1, 4, 100, generator=generator) * substituted[:, None]
    return base.double(), (base + noise * error).double(), substituted


@pytest.mark.parametrize("m", [10, 60, 299, 300])
def test_draw_takes_m_with_the_probabilities_it_tells(m):
    base, _, substituted = profiles(1)
    base, substituted = base.expand(2000, -1, -1, -1), substituted.expand(2000, -1, -1)
    drawn, probability = draw(base, substituted, m, uniform(2000, 400, seed=1))
    assert (drawn.sum((1, 2)) == m).all()
    assert not (drawn & ~substituted).any()
    torch.testing.assert_close(probability.sum((1, 2)), torch.full((2000,), float(m)).double())
    often = drawn.double().mean(0)
    assert (often - probability[0]).abs().max() < 0.06
    assert (drawn[probability == 1]).all()


@pytest.mark.parametrize(
    ("m", "inferred", "mean_error", "bias"),
    [(300, None, 1e-9, 1e-9), (60, None, 0.06, 0.06), (60, 0.0, 0.06, 0.02)],
)
def test_the_estimate_is_exact_when_all_are_known_and_near_otherwise(
    m, inferred, mean_error, bias, monkeypatch
):
    """What is sampled has no bias; with what is inferred it has one, which `calibrated` takes."""
    if inferred is not None:
        monkeypatch.setattr(agreement, "_INFERRED", inferred)
    base, exact, substituted = profiles(200)
    asked = []

    def effects(chosen: Tensor) -> Tensor:
        asked.append(chosen)
        return exact.movedim(1, -1)[chosen]

    r = profile_correlation(exact, base)
    one_hot = (~substituted).double()
    found = assess(base, one_hot, effects, m, uniform(200, 400, seed=2))
    assert (found - r).abs().mean() < mean_error
    assert (found - r).mean().abs() < bias
    assert (sum(a.int() for a in asked).amax((1, 2)) == 1).all()
    assert (sum(a.sum((1, 2)) for a in asked) == m).all()


def test_errors_shrink_with_m_and_vanish():
    base, _, substituted = profiles(3)
    left = [sampling_factors(substituted, m)[0][0, 0] for m in (20, 80, 300)]
    assert left[0] > 1.9 * left[1] > 0
    assert left[2] == 0
    narrow = torch.zeros_like(base)
    narrow[..., 1, 50] = 1.0
    wide, few = (effective_number(maps) for maps in (base, narrow))
    assert torch.equal(few, torch.ones_like(few))
    assert (wide > 3).all()
    r, some = torch.full_like(wide, 0.7).double(), torch.ones_like(wide)
    of_wide, of_few = (calibrated(r, number, some, some) for number in (wide, few))
    assert (of_few.high - of_few.low > of_wide.high - of_wide.low).all()


def test_calibrated_intervals_and_words():
    how = Calibration(1, -0.5, decay=1, bias=0.2, low=-1.6, high=2.4)
    r = torch.tensor([[0.95, 0.3, 0.72, float("nan")]]).double()
    number, left = torch.full((1, 4), 25.0), torch.full((1, 4), 0.5)
    result = calibrated(r, number, left, torch.ones(1, 4), how)
    assert result.word == [["reliable", "unreliable", "unclear", "undefined"]]
    assert (result.low[:, :3] < result.r[:, :3]).all()
    assert (result.r[:, :3] < result.high[:, :3]).all()
    z = r.atanh() / 1.1
    for found, moved in ((result.r, z), (result.low, z - 0.24), (result.high, z + 0.16)):
        torch.testing.assert_close(found[:, :3], moved.tanh()[:, :3])
    longer = calibrated(r, 40 * number, left, torch.full((1, 4), 0.5), how)
    assert (longer.r > result.r)[:, :3].all()  # less of it is inferred, and that is what is biased
    capped = calibrated(r, torch.full((1, 4), 300.0), left, torch.full((1, 4), 0.5), how)
    torch.testing.assert_close(longer.low, capped.low, equal_nan=True)


def test_a_long_profile_is_not_judged_by_what_tism_infers():
    """12 times as long as the calibration: without the exact effects TISM would confirm itself."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.randint(4, (10, 3000), generator=generator)
    substituted = nn.functional.one_hot(reference, 4).transpose(1, 2) == 0
    base, error = torch.randn(2, 10, 1, 4, 3000, generator=generator) * substituted[:, None]
    exact = (base + 1.3 * error).double()
    truth = profile_correlation(exact, base.double())
    effects = exact.movedim(1, -1).__getitem__
    found = assess(base.double(), (~substituted).double(), effects, 60, uniform(10, 12000, seed=0))
    result = calibrated(found, effective_number(base), *sampling_factors(substituted, 60))
    assert (result.r - truth).mean().abs() < 0.1
    assert ((result.low <= truth) & (truth <= result.high)).double().mean() >= 0.8
    assert all(words != ["reliable"] for words in result.word)


@pytest.fixture
def network() -> nn.Module:
    """A small network in float64."""
    model = build_model("relu", length=LENGTH, n_tasks=3, width=8, seed=1).double()
    for parameter in model.parameters():
        parameter.data *= 2
    return model


@pytest.fixture
def sequences() -> Tensor:
    """(5, 4, 40)."""
    index = torch.randint(4, (5, LENGTH), generator=torch.Generator().manual_seed(3))
    return nn.functional.one_hot(index, 4).transpose(1, 2).double()


@pytest.mark.parametrize("engine", ["full", "windowed"])
def test_with_all_substitutions_it_is_the_correlation(network, sequences, engine):
    truth = profile_correlation(ism(network, sequences), tism(network, sequences))
    result = reliability(network, sequences, m=3 * LENGTH, engine=engine)
    for values in (result.r, result.low, result.high):
        torch.testing.assert_close(values, truth.clamp(-0.999, 0.999), rtol=1e-6, atol=1e-6)
    assert len(result.word) == 5
    assert len(result.word[0]) == 3


def test_is_reproducible_and_near_the_truth(network, sequences):
    truth = profile_correlation(ism(network, sequences, 1), tism(network, sequences, 1))
    first, second, other = (
        reliability(network, sequences, 1, m=40, seed=seed, batch_size=size)
        for seed, size in ((0, None), (0, 7), (1, None))
    )
    torch.testing.assert_close(first.r, second.r, rtol=1e-9, atol=1e-9)
    assert not torch.equal(first.r, other.r)
    assert (first.r - truth).abs().mean() < 0.15
    assert ((first.low <= truth) & (truth <= first.high)).double().mean() >= 0.6


@pytest.mark.parametrize("engine", ["full", "windowed"])
def test_what_is_drawn_for_a_sequence_does_not_depend_on_the_others(
    network, sequences, engine, monkeypatch
):
    together = reliability(network, sequences, m=40, engine=engine).r
    alone = reliability(network, sequences[:2], m=40, engine=engine).r
    monkeypatch.setattr(ExactEffects, "at_once", 2)  # as where memory is short
    in_blocks = reliability(network, sequences, m=40, engine=engine).r
    torch.testing.assert_close(in_blocks, together, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alone, together[:2], rtol=1e-9, atol=1e-9)


def test_a_constant_profile_is_undefined(sequences):
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (0 * x).sum((1, 2))[:, None] + 1

    result = reliability(Constant(), sequences, m=20)
    assert result.word == [["undefined"]] * 5
    assert result.r.isnan().all()


@pytest.mark.parametrize("m", [9, 121])
def test_m_has_its_limits(network, sequences, m):
    with pytest.raises(ValueError, match=f"m must be from 10 to 120 substitutions.*got {m}"):
        reliability(network, sequences, m=m)


def test_m_is_an_int(network, sequences):
    with pytest.raises(TypeError, match=r"m must be an int, got 20\.5"):
        reliability(network, sequences, m=20.5)


def test_the_constants_are_those_of_the_record():
    how = agreement.CALIBRATION
    fitted = fit_calibration(pd.read_csv(ROOT / "data/calibration.csv"))
    assert how == pytest.approx(fitted, rel=0.01)


class Logarithms(nn.Module):
    """Two tasks, of which the second is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.1, 1, 48))

    def forward(self, x: Tensor) -> Tensor:
        total = (x.flatten(1) * self.weight).sum(1)
        return torch.stack([total.square(), torch.log(-total)], 1)


def test_a_task_without_numbers_is_undefined_and_the_others_are_not():
    model, one_hot = Logarithms(), one_hot_encode("ACGTACGTTGCA")
    found = reliability(model, one_hot, m=20)
    assert found.word[0][1] == "undefined"
    alone = reliability(model, one_hot, 0, m=20)
    assert found.word[0][0] == alone.word[0][0] != "undefined"
    assert abs(float(found.r[0, 0]) - float(alone.r[0, 0])) < 0.2
    assert reliability(model, one_hot, 1, m=20).word == [["undefined"]]


@pytest.mark.parametrize("seed", ["a", 1.5, True, None])
def test_seed_must_be_a_number(seed):
    with pytest.raises(TypeError, match="seed must be an int"):
        reliability(Logarithms(), one_hot_encode("ACGTACGTTGCA"), m=20, seed=seed)
    with pytest.raises(ValueError, match=r"seed must be from -2\*\*63"):
        reliability(Logarithms(), one_hot_encode("ACGTACGTTGCA"), m=20, seed=2**64)


def test_sequences_that_are_too_short_are_named():
    with pytest.raises(ValueError, match="one_hot has 6 substitutions in a sequence; at least 10"):
        reliability(nn.Sequential(nn.Flatten(), nn.Linear(8, 1)), one_hot_encode("AC"))
