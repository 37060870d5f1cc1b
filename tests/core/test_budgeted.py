"""Budgeted ISM: which entries are exact, what it costs, what it learns, what it refuses."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from tism import budgeted_ism, build_model, ism, layerwise_tism, predict, tism
from tism.budgeted import choose, expected_size, nearby, refine, update
from tism.correlations import profile_correlation

LENGTH = 40


@pytest.fixture
def network() -> nn.Module:
    """A small float64 network with ReLU and maxima: TISM is far from ISM."""
    model = build_model("max_pooling", length=LENGTH, n_tasks=3, width=8, seed=1).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            deviation = parameter[0].numel() ** -0.5
            parameter.data.normal_(0, 2 * deviation, generator=generator)
    return model


@pytest.fixture
def sequences() -> Tensor:
    """(6, 4, 40); two columns of N in the first."""
    index = torch.randint(4, (6, LENGTH), generator=torch.Generator().manual_seed(2))
    one_hot = nn.functional.one_hot(index, 4).transpose(1, 2).double()
    one_hot[0, :, [3, 20]] = 0
    return one_hot


@pytest.mark.parametrize("engine", ["full", "windowed"])
@pytest.mark.parametrize("tasks", [None, 1, [2, 0]])
def test_exact_entries_are_those_of_ism(network, sequences, engine, tasks):
    scores = ism(network, sequences, tasks)
    result = budgeted_ism(network, sequences, tasks, m=25, engine=engine)
    exact = result.exact[:, None].expand_as(scores)
    assert result.estimate.shape == result.uncertainty.shape == scores.shape
    torch.testing.assert_close(result.estimate[exact], scores[exact], rtol=1e-9, atol=1e-12)
    assert (result.uncertainty[exact] == 0).all()
    assert (result.uncertainty[~exact] > 0).all()
    at_reference = sequences == 1
    assert result.exact[at_reference].all()
    assert (result.estimate * at_reference[:, None] == 0).all()
    assert (result.estimate - scores)[~exact].abs().max() > 1e-3


@pytest.mark.parametrize("engine", ["full", "auto"])
def test_all_substitutions_are_ism_and_none_is_tism(network, sequences, engine):
    everything = budgeted_ism(network, sequences, m=3 * LENGTH + 2, engine=engine)  # two are N
    torch.testing.assert_close(everything.estimate, ism(network, sequences), rtol=1e-9, atol=1e-12)
    assert everything.exact.all()
    assert (everything.uncertainty == 0).all()
    nothing = budgeted_ism(network, sequences, m=0, engine=engine)
    torch.testing.assert_close(nothing.estimate, tism(network, sequences), rtol=1e-12, atol=1e-14)
    assert torch.equal(nothing.exact, sequences == 1)


@pytest.mark.parametrize("m", [1, 10, 60])
def test_m_substitutions_are_run_and_no_more(network, sequences, m):
    rows: list[int] = []
    network.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    result = budgeted_ism(network, sequences, 0, m=m, engine="full")
    gradients_and_references = 2 * len(sequences) + 2  # two are run again alone
    assert sum(rows) == gradients_and_references + m * len(sequences)
    assert ((result.exact & (sequences == 0)).sum((1, 2)) == m).all()


def test_a_sequence_with_fewer_substitutions_is_exact(network, sequences):
    result = budgeted_ism(network, sequences, 0, m=3 * LENGTH, engine="full")  # all but N's
    assert result.exact[1:].all()
    assert not result.exact[0].all()
    scores = ism(network, sequences, 0)
    torch.testing.assert_close(result.estimate[1:], scores[1:], rtol=1e-9, atol=1e-12)


def test_more_substitutions_are_closer_to_ism_and_none_is_below_tism(network, sequences):
    scores = ism(network, sequences)
    r = [
        profile_correlation(scores, budgeted_ism(network, sequences, m=m).estimate).mean()
        for m in (0, 8, 30, 75)
    ]
    assert all(a < b for a, b in pairwise(r))
    assert r[-1] > 0.85


def test_does_not_depend_on_batches_and_keeps_the_model(network, sequences):
    network.train()
    once = budgeted_ism(network, sequences, m=12, engine="full")
    again = budgeted_ism(network, sequences, m=12, engine="full", batch_size=7)
    for a, b in zip(once, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_any_base_will_do(network, sequences):
    scores = ism(network, sequences)
    base = layerwise_tism(network, sequences, depth="blocks.1")
    better = budgeted_ism(network, sequences, m=12, base=base, engine="full")
    none = budgeted_ism(network, sequences, m=12, base=0 * base, engine="full")
    assert better.exact.sum() == none.exact.sum()
    of_better, of_none = (profile_correlation(scores, b.estimate).mean() for b in (better, none))
    assert of_better > of_none > 0


def test_exact_entries_of_low_precision_are_those_of_ism(network, sequences):
    network.head.bias.data -= predict(network, sequences).mean(0)  # both signs
    network = network.bfloat16()
    found = budgeted_ism(network, sequences, m=30, engine="full")
    exact = found.exact[:, None].expand_as(found.estimate)
    expected = ism(network, sequences, engine="full")[exact]
    torch.testing.assert_close(found.estimate[exact], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_base_of_lower_precision_rounds_no_exact_entry(network, sequences, dtype):
    base = tism(network, sequences).to(dtype)
    found = budgeted_ism(network, sequences, m=30, base=base, engine="full")
    exact = found.exact[:, None].expand_as(base)
    expected = ism(network, sequences, engine="full")[exact]
    torch.testing.assert_close(found.estimate[exact], expected, rtol=1e-9, atol=1e-12)


def test_entries_of_the_base_at_reference_bases_do_not_count(network, sequences):
    base = tism(network, sequences)
    other = base + 50 * base.abs().max() * sequences[:, None]
    expected = budgeted_ism(network, sequences, m=30, base=base)
    for a, b in zip(budgeted_ism(network, sequences, m=30, base=other), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


class Opaque(nn.Module):
    """Cannot be traced, and has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy((x.detach().numpy()[:, 0].sum(1) ** 2)[:, None])


def test_a_black_box_needs_a_base(sequences):
    with pytest.raises(ValueError, match="does not depend differentiably"):
        budgeted_ism(Opaque(), sequences, m=12)
    base = torch.ones(6, 1, 4, LENGTH).double()
    result = budgeted_ism(Opaque(), sequences, m=12, base=base)
    exact = result.exact[:, None] & (sequences == 0)[:, None]
    assert torch.equal(result.estimate[exact], ism(Opaque(), sequences)[exact])


REFUSED = {
    "m must be from 0 to 122 exact substitutions of a sequence, got -1": {"m": -1},
    "m must be from 0 to 122 exact substitutions of a sequence, got 123": {"m": 123},
    'base must be "tism" or an estimate of shape': {"m": 20, "base": "ism"},
    "base must be finite floating-point numbers of shape": {"m": 20, "base": torch.zeros(3)},
    "engine must be one of": {"m": 20, "engine": "fast"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_refused(network, sequences, message):
    with pytest.raises(ValueError, match=message):
        budgeted_ism(network, sequences, **REFUSED[message])


@pytest.mark.parametrize("m", ["20", True, None, 2.5])
def test_m_is_an_int(network, sequences, m):
    with pytest.raises(TypeError, match="m must be an int"):
        budgeted_ism(network, sequences, m=m)


def test_the_old_argument_names_the_new_one(network, sequences):
    with pytest.raises(TypeError, match="takes m, exact substitutions, in place of budget"):
        budgeted_ism(network, sequences, budget=50)


def test_choose_takes_the_largest_of_what_is_allowed():
    estimate = torch.zeros(1, 1, 4, 6)
    estimate[0, 0, 1, 2], estimate[0, 0, 3, 5], estimate[0, 0, 0, 0] = -3.0, 2.0, 1.0
    allowed = torch.ones(1, 4, 6, dtype=torch.bool)
    allowed[0, 3, 5] = False
    chosen = choose(estimate, allowed, 2)
    assert {tuple(at) for at in chosen.nonzero().tolist()} == {(0, 1, 2), (0, 0, 0)}


def test_choose_counts_tasks_by_their_share_and_spreads_where_nothing_is_known():
    estimate = torch.zeros(1, 2, 4, 30)
    estimate[0, 0, 1, 2], estimate[0, 0, 1, 3], estimate[0, 1, 2, 7] = 100.0, 60.0, 1e-3
    chosen = choose(estimate, torch.ones(1, 4, 30, dtype=torch.bool), 2)
    assert {tuple(at) for at in chosen.nonzero().tolist()} == {(0, 1, 2), (0, 2, 7)}
    spread = choose(0 * estimate, torch.ones(1, 4, 30, dtype=torch.bool), 12)
    position = spread.nonzero()[:, 2]
    assert spread.sum() == 12
    assert position.min() < 6
    assert position.max() > 23


def test_update_learns_slope_and_shift():
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(1, 1, 4, 200, generator=generator).double()
    exact = torch.rand(1, 4, 200, generator=generator) < 0.5
    halved = update(base, 0.5 * base, exact)
    error = (halved - 0.5 * base)[~exact[:, None]].square().mean().sqrt()
    assert error < 0.2
    shift = torch.where(torch.arange(200) < 100, 1.0, -1.0)
    moved = update(base, base + shift, exact)
    error = (moved - base - shift)[~exact[:, None]].square().mean().sqrt()
    assert error < 0.6  # without it 1
    assert torch.equal(moved[exact[:, None]], (base + shift)[exact[:, None]])


def test_refine_says_how_uncertain_it_is():
    generator = torch.Generator().manual_seed(5)
    truth = torch.randn(20, 1, 4, 100, generator=generator).double()
    base = truth + 0.5 * torch.randn(truth.shape, generator=generator)
    one_hot = torch.zeros(20, 4, 100).double()
    one_hot[:, 0] = 1
    truth[:, :, 0] = 0
    result = refine(base, one_hot, lambda chosen: truth.movedim(1, -1)[chosen], 60)
    standard = ((result.estimate - truth) / result.uncertainty)[~result.exact[:, None]]
    assert 0.5 < standard.square().mean().sqrt() < 2
    assert 0.8 < (standard.abs() < 1.645).double().mean() < 0.99


def test_sizes_and_sums_of_neighbours():
    values = torch.zeros(1, 1, 30)
    values[0, 0, 10] = 1
    assert nearby(values)[0, 0, 10] == 1
    torch.testing.assert_close(nearby(values)[0, 0, 15], torch.tensor(-1.0).exp())
    guess = torch.zeros(1, 1, 4, 30)
    assert (expected_size(guess) == 1).all()
    guess[0, 0, 2, 10] = 3
    size = expected_size(guess, 0.5)[0, 0]
    assert size[2, 10] == size.max()
    assert size[0, 10] > size[0, 20] > 0


def test_one_exact_effect_already_speaks_for_the_others():
    one_hot = torch.zeros(1, 4, 30)
    one_hot[:, 0] = 1
    base = torch.rand(1, 1, 4, 30, generator=torch.Generator().manual_seed(0)) * (one_hot == 0)
    found = refine(base, one_hot, (base / 2).movedim(1, -1).__getitem__, 1)
    rest = ~found.exact[:, None]
    assert rest.sum() == 89
    assert (found.estimate[rest] < base[rest]).all()


def test_a_batch_may_be_larger_than_all_there_is(network, sequences):
    same = {"m": 12, "engine": "full"}
    found = budgeted_ism(network, sequences, **same, batch_size=2**70)
    assert torch.equal(found.exact, budgeted_ism(network, sequences, **same).exact)
