"""The anatomy of a difference, on maps whose difference is known."""

import numpy as np
import pytest
import torch

import tism
from tism.study import ch04_anatomy as anatomy

N, TASKS, LENGTH = 3, 2, 60


@pytest.fixture
def one_hot():
    letters = np.random.default_rng(1).choice(list("ACGT"), (N, LENGTH))
    return tism.one_hot_encode(["".join(row) for row in letters]).double()


@pytest.fixture
def maps(one_hot):
    """ISM whose substitutions have mean zero at every position, an offset, and noise: random."""
    generator = torch.Generator().manual_seed(0)
    free = (one_hot == 0)[:, None]

    def draw(*shape):
        return torch.randn(N, TASKS, *shape, LENGTH, generator=generator, dtype=torch.float64)

    def within(scores):
        return (scores - (scores * free).sum(2, keepdim=True) / 3) * free

    exact, noise = within(draw(4)), within(draw(4))
    along = (noise * exact).sum((2, 3), keepdim=True) / exact.square().sum((2, 3), keepdim=True)
    return exact, draw(1) * free, noise - along * exact


def square(scores):
    return scores.square().sum((2, 3))


def test_parts_are_those_that_the_difference_was_made_of(maps, one_hot):
    exact, offset, noise = maps
    parts = anatomy.parts_of_difference(exact + offset, exact, one_hot)
    assert parts["one offset per position"].numpy() == pytest.approx(1)
    parts = anatomy.parts_of_difference(exact, 3 * exact, one_hot)
    assert parts["one slope per profile"].numpy() == pytest.approx(1)
    estimate = exact + offset + noise
    shares = anatomy.parts_of_difference(exact, estimate, one_hot)
    total = square(offset) + square(noise)
    torch.testing.assert_close(shares["one offset per position"], square(offset) / total)
    slope = square(exact) / square(exact + noise)  # of ISM on the estimate, within positions
    rest = square(slope[..., None, None] * (exact + noise) - exact) / total
    torch.testing.assert_close(shares["the rest"], rest)
    assert sum(shares.values()).numpy() == pytest.approx(1)


def test_recall_and_signs_by_hand():
    exact = torch.arange(12.0).view(1, 1, 4, 3)  # the largest three are 9, 10, 11
    estimate = exact.clone()
    estimate[0, 0, 3, 0], estimate[0, 0, 3, 1] = -9, 0
    assert anatomy.recall(exact, estimate, 3) == pytest.approx(2 / 3)
    assert anatomy.wrong_signs(exact, estimate, 3) == pytest.approx(1 / 3)
    assert anatomy.wrong_signs(exact, estimate, 1) == 0


def test_anatomy_of_a_scaled_map_and_of_a_flat_one(maps, one_hot):
    exact = maps[0].clone()
    exact[0, 0] = 0
    found = anatomy.describe_difference(exact, 2 * exact, one_hot)
    assert all(values[0, 0].isnan() for values in found.values())
    kept = {name: values[1:] for name, values in found.items()}
    assert kept["slope"].numpy() == pytest.approx(0.5)
    assert kept["scale"].numpy() == pytest.approx(2)
    assert kept["r"].numpy() == pytest.approx(1)
    offset = anatomy.describe_difference(exact, exact + maps[1], one_hot)
    assert offset["r within positions"][1:].numpy() == pytest.approx(1)
    assert (offset["r"][1:] < 0.9).all()
    assert all((values == 1).all() for name, values in kept.items() if "recall" in name)
    table = anatomy.anatomy_table(found, np.arange(N), dataset="planted")
    assert table.set_index("measure").loc["slope", "value"] == pytest.approx(0.5)
    assert (table["n_constant"] == 1).all()


def test_calibration_finds_the_slope_and_the_flipped_effects(maps, one_hot):
    exact = maps[0] * torch.tensor([1.0, 100.0])[:, None, None]  # maps count alike
    estimate = 2 * exact
    size = (exact.square().sum((2, 3), keepdim=True) / 3 / LENGTH).sqrt()
    flipped = (exact / size).abs() > 2.5
    table = anatomy.calibration_table(exact, torch.where(flipped, -estimate, estimate), one_hot)
    said, of_size = (table[table["by"] == by] for by in ("predicted", "exact"))
    middle = said[said["share_below"].between(0.2, 0.8)]
    assert (middle["exact"] / middle["predicted"]).to_numpy() == pytest.approx(0.5)
    assert said["n"].sum() == of_size["n"].sum() == N * TASKS * 3 * LENGTH
    assert of_size["wrong_sign"].iloc[0] == 0
    assert of_size["wrong_sign"].iloc[-1] == 1
    assert of_size["predicted"].iloc[-1] == pytest.approx(-2 * of_size["exact"].iloc[-1])


class Bent(torch.nn.Module):
    """A linear model and a square of the letters of each position."""

    def __init__(self, bend):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(TASKS, 4, LENGTH, dtype=torch.float64))
        self.bend = bend

    def forward(self, x):
        line = torch.einsum("ncl,tcl->nt", x, self.weight)
        return line + self.bend * x.square().cumsum(1).sum((1, 2))[:, None]


def test_deletion_and_gradient_are_ism_of_a_linear_model(one_hot):
    torch.manual_seed(0)
    model = Bent(0)
    deletion = anatomy.deletion_effects(model, one_hot)
    gradient = tism.input_gradient(model, one_hot)
    estimate = (deletion + gradient) * (one_hot == 0)[:, None]
    torch.testing.assert_close(estimate, tism.ism(model, one_hot), rtol=1e-9, atol=1e-9)


def test_deletion_is_the_prediction_without_the_column(one_hot):
    torch.manual_seed(0)
    model = Bent(0.3)
    without = one_hot.clone()
    without[:, :, 7] = 0
    with torch.no_grad():
        expected = model(without) - model(one_hot)
    found = anatomy.deletion_effects(model, one_hot)
    assert found.shape == (N, TASKS, 1, LENGTH)
    torch.testing.assert_close(found[:, :, 0, 7], expected)


def test_estimates_of_equal_passes_run_a_third_of_the_substitutions(maps, one_hot):
    exact, offset, noise = maps
    gradient = exact + noise
    deletion = (offset.sum(2, keepdim=True) / 3).double()
    found = anatomy.estimates_of_equal_passes(exact, gradient, deletion, one_hot)
    for name, (estimate, is_exact) in found.items():
        is_exact = is_exact.expand_as(exact)
        torch.testing.assert_close(estimate[is_exact], exact[is_exact])
        assert (is_exact.sum((2, 3)) == LENGTH * (2 if "budgeted" in name else 1)).all()
    model = tism.build_model("baseline", length=LENGTH, n_tasks=TASKS, width=4, seed=0).double()
    scores = tism.ism(model, one_hot)
    ours = anatomy.budgeted_for_all(scores, tism.tism(model, one_hot), one_hot, LENGTH)[0]
    torch.testing.assert_close(ours, tism.budgeted_ism(model, one_hot, m=LENGTH).estimate)


def test_table_of_equal_passes_tells_what_was_run_from_what_was_inferred(maps, one_hot):
    exact, _, noise = maps
    half = (one_hot.cumsum(2) % 2 == 0)[:, None] | (one_hot == 1)[:, None]
    estimates = {"half": (torch.where(half, exact, noise), half), "all": (exact, half | True)}
    table = anatomy.equal_passes_table(exact, estimates, np.arange(N)).set_index("estimate")
    assert abs(table.loc["half", "r_not_exact"]) < 0.2 < table.loc["half", "r"]
    left = exact[0, 0][~half[0, 0]], noise[0, 0][~half[0, 0]]
    own = anatomy.correlation_where(exact, estimates["half"][0], ~half)
    assert own[0, 0] == pytest.approx(np.corrcoef(*left)[0, 1])
    assert np.isnan(table.loc["all", "r_not_exact"])
    assert table.loc["all", "exact_share"] == pytest.approx(1)


def test_correlation_is_that_of_the_entries_of_a_mask_where_it_has_three():
    exact = torch.randn(2, 1, 4, 30, generator=torch.Generator().manual_seed(0)).double()
    kept = torch.zeros(2, 1, 4, 30, dtype=torch.bool)
    kept[0, 0, :, 10:20] = True
    r = anatomy.correlation_where(exact, torch.where(kept, 2 * exact + 1, 0.0), kept)
    assert r[0, 0] == pytest.approx(1)
    assert r[1, 0].isnan()
