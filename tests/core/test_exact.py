"""Exact ISM against the definition, run base by base, and against what TISM must equal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tism import input_gradient, ism, predict, tism
from tism.predictor import Predictor

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def brute_force(model: nn.Module, sequences: Tensor) -> Tensor:
    """Eq. 3 by one forward pass a base and position, in float32 or wider."""
    model = model.eval()
    wide = torch.promote_types(torch.float32, sequences.dtype)
    n, _, length = sequences.shape
    scores = torch.empty(n, model(sequences[:1]).shape[1], 4, length, dtype=wide)
    with torch.no_grad():
        for i, sequence in enumerate(sequences):
            reference = model(sequence[None])[0].to(wide)
            for base in range(4):
                for position in range(length):
                    mutant = sequence.clone()
                    mutant[:, position] = 0
                    mutant[base, position] = 1
                    scores[i, :, base, position] = model(mutant[None])[0].to(wide) - reference
    return scores


def test_ism_is_the_definition(net, sequences):
    scores = ism(net, sequences)

    assert scores.shape == (5, 3, 4, 20)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, brute_force(net, sequences), **CLOSE)


def test_reference_entries_are_exactly_zero_and_no_others(net, sequences):
    scores = ism(net, sequences, batch_size=7)

    at_reference = (sequences == 1)[:, None].expand_as(scores)
    assert (scores[at_reference] == 0).all()
    assert (scores[~at_reference] != 0).all()


def test_a_linear_model_makes_tism_exact(linear, sequences):
    torch.testing.assert_close(tism(linear, sequences), ism(linear, sequences), **CLOSE)


def test_pairwise_terms_leave_tism_exact(sequences):
    class Pairs(nn.Module):
        """f = sum over positions l < m of x_l W_lm x_m."""

        def __init__(self):
            super().__init__()
            generator = torch.Generator().manual_seed(6)
            weight = torch.randn(2, 80, 80, dtype=torch.float64, generator=generator)
            position = torch.arange(80) % 20
            self.register_buffer("weight", weight * (position[:, None] < position))

        def forward(self, x):
            flat = x.flatten(1)
            return torch.einsum("ni,tij,nj->nt", flat, self.weight, flat)

    exact = ism(Pairs(), sequences)

    torch.testing.assert_close(tism(Pairs(), sequences), exact, **CLOSE)
    assert exact.std() > 1  # there are effects to agree on


def test_curvature_within_a_position_makes_tism_inexact(sequences):
    class Square(nn.Module):
        def forward(self, x):
            return x[:, :2].sum((1, 2))[:, None] ** 2

    assert not torch.allclose(tism(Square(), sequences), ism(Square(), sequences))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"start": 5, "stop": 5}, ValueError, "start=5, stop=5 selects no position.*length 20"),
        ({"stop": -20}, ValueError, "stop=-20 selects no position"),
        ({"start": 1.0}, TypeError, r"start must be an int.*1\.0"),
        ({"stop": "3"}, TypeError, "stop must be an int.*'3'"),
        ({"engine": "fast"}, ValueError, "engine must be one of auto, full, windowed; got 'fast'"),
        ({"engine": None}, ValueError, "engine must be one of auto, full, windowed; got None"),
    ],
)
def test_bad_windows_and_engines(net, sequences, arguments, error, message):
    with pytest.raises(error, match=message):
        ism(net, sequences, **arguments)


def rows_run(model: nn.Module, *args, **kwargs) -> list[int]:
    """Rows of every batch that the model got while `ism` ran.

    The second is the check of one alone, the last that of one of every batch in other company.
    """
    rows: list[int] = []
    hook = model.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    ism(model, *args, **kwargs)
    hook.remove()
    return rows


@pytest.mark.parametrize("batch_size", [None, 1, 100])
@pytest.mark.parametrize("tasks", [None, 0])
def test_three_rows_a_position_one_reference_and_one_more_for_an_n(net, bases, batch_size, tasks):
    def sequences_run(**stretch) -> int:
        batches = rows_run(net, bases, batch_size=batch_size, tasks=tasks, **stretch)
        return sum(batches[: -1 if batch_size != 1 else None]) - 1

    assert sequences_run() == 5 * (3 * 20 + 1)
    assert sequences_run(start=4, stop=9) == 5 * (3 * 5 + 1)

    bases[0, :, [0, 7]] = 0
    bases[3, :, 8] = 0

    assert sequences_run() == 5 * (3 * 20 + 1) + 3
    assert sequences_run(start=4, stop=9) == 5 * (3 * 5 + 1) + 2


def test_batches_span_positions_and_sequences(net, bases):
    assert rows_run(net, bases, batch_size=100) == [100, 1, 100, 100, 5, 3]


def test_working_memory_does_not_grow_with_the_sequences(linear, bases, monkeypatch):
    blocks: list[int] = []
    prepare = Predictor.prepare
    monkeypatch.setattr(
        Predictor, "prepare", lambda self, rows: blocks.append(len(rows)) or prepare(self, rows)
    )
    largest = []
    for copies in (20, 80):
        blocks.clear()
        rows = rows_run(linear, bases.repeat(copies, 1, 1), batch_size=8, engine="full")
        largest.append((max(rows), max(blocks)))

    assert largest[0] == largest[1]
    assert largest[0][0] == 8


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_the_model_decides_the_dtype_and_differences_are_taken_in_the_wider_one(
    linear, sequences, dtype, expected
):
    model = linear.to(dtype)

    scores = ism(model, sequences.to(torch.uint8), batch_size=1)

    assert scores.dtype == expected
    assert scores.device.type == "cpu"
    assert torch.equal(scores, brute_force(model, sequences.to(dtype)))
    predicted = predict(model, sequences)
    assert torch.equal(predicted, model(sequences.to(dtype)).detach().to(expected))
    assert predicted.dtype == expected


def test_exact_ism_needs_no_gradient(sequences):
    class Threshold(nn.Module):
        def forward(self, x):
            return (x[:, 0] > 0.5).double()

    assert torch.equal(ism(Threshold(), sequences), brute_force(Threshold(), sequences))


def test_ism_and_the_linear_gradient_at_an_n(linear, sequences):
    scores = ism(linear, sequences)
    at_n = (sequences.sum(1) == 0)[:, None, None].expand_as(scores)

    torch.testing.assert_close(scores[at_n], input_gradient(linear, sequences)[at_n], **CLOSE)
    assert at_n.sum() == 4 * 3 * 4
