"""Output functions for what published models return, with every engine."""

from __future__ import annotations

import pickle
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import tism
from tism.outputs import Head, ProfileScore, Total


@dataclass
class Record:
    profile: Tensor
    counts: Tensor


Pair = namedtuple("Pair", "profile counts")
FORMS = {
    "tuple": lambda profile, counts: (profile, counts),
    "list": lambda profile, counts: [profile, counts],
    "dict": lambda profile, counts: {"profile": profile, "counts": counts},
    "named tuple": Pair,
    "dataclass": Record,
    "first track": lambda profile, counts: profile[:, 0],
    "profile": lambda profile, counts: profile,
    "bins first": lambda profile, counts: profile.mT,
    "one a sequence": lambda profile, counts: {"counts": counts[:, 0]},
}
CASES = [  # what the model returns, the function, what it is of profile (n, 2, 20) and counts
    ("tuple", Head(1), lambda p, c: c),
    ("list", Head(1), lambda p, c: c),
    ("dict", Head("counts"), lambda p, c: c),
    ("named tuple", Head("counts"), lambda p, c: c),
    ("named tuple", Head(1), lambda p, c: c),
    ("dataclass", Head("counts"), lambda p, c: c),
    ("one a sequence", Head("counts"), lambda p, c: c[:, :1]),
    ("profile", Total(), lambda p, c: p.sum(2)),
    ("first track", Total(), lambda p, c: p[:, :1].sum(2)),
    ("profile", Total(3, 4), lambda p, c: p[:, :, 3]),
    ("profile", Total(-5, axis=2), lambda p, c: p[:, :, 15:].sum(2)),
    ("bins first", Total(4, -6, axis=1), lambda p, c: p[:, :, 4:14].sum(2)),
    ("first track", Total(2, 5, axis=1), lambda p, c: p[:, :1, 2:5].sum(2)),
    ("dict", Total(0, 1, head="profile"), lambda p, c: p[:, :, 0]),
    ("first track", ProfileScore(), lambda p, c: score(p[:, :1])),
    ("tuple", ProfileScore(head=0), lambda p, c: score(p)),
    ("bins first", ProfileScore(axis=1), lambda p, c: score(p)),
    ("dataclass", ProfileScore(True, head="profile"), lambda p, c: score(p.flatten(1)[:, None])),
    ("profile", ProfileScore(held=False), lambda p, c: score(p, held=False)),
]  # fmt: skip


def score(logits: Tensor, held: bool = True) -> Tensor:
    """The profile score of (n, tracks, positions), by the definition."""
    centred = logits - logits.sum(2, keepdim=True) / logits.shape[2]
    weights = centred.exp() / centred.exp().sum(2, keepdim=True)
    return (centred * (weights.detach() if held else weights)).sum(2)


class Profile(nn.Module):
    """A profile of two tracks and two counts, in one of the `FORMS`."""

    def __init__(self, form) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.trunk = nn.Sequential(nn.Conv1d(4, 6, 5, padding=2), nn.GELU())
        self.profile, self.counts = nn.Conv1d(6, 2, 3, padding=1), nn.Linear(6, 2)
        self.double()

    def forward(self, x: Tensor):
        x = self.trunk(x)
        return self.form(self.profile(x), self.counts(x.mean(2)))


@pytest.mark.parametrize(
    ("form", "output_fn", "expected"), CASES, ids=[f"{form}, {fn}" for form, fn, _ in CASES]
)
def test_values_gradients_and_windows(bases, form, output_fn, expected):
    model, plain = Profile(FORMS[form]), Profile(Pair)
    leaf = bases.clone().requires_grad_()
    values = expected(*plain(leaf))
    (gradient,) = torch.autograd.grad(values[:, -1].sum(), leaf)
    exact = tism.ism(plain, bases, output_fn=lambda y: expected(*y), engine="full")
    scale = exact.abs().max()

    found = {
        engine: tism.ism(model, bases, output_fn=output_fn, engine=engine)
        for engine in ("full", "windowed")
    }

    near = {"rtol": 0, "atol": float(1e-10 * scale)}
    torch.testing.assert_close(tism.predict(model, bases, output_fn=output_fn), values.detach())
    torch.testing.assert_close(
        tism.input_gradient(model, bases, -1, output_fn=output_fn)[:, 0], gradient, **near
    )
    torch.testing.assert_close(found["full"], exact, **near)
    torch.testing.assert_close(found["windowed"], exact, **near)
    assert pickle.loads(pickle.dumps(output_fn)) == output_fn
    assert hash(pickle.loads(pickle.dumps(output_fn))) == hash(output_fn)


@pytest.mark.parametrize(
    ("form", "output_fn", "message"),
    [
        ("dict", Head("count"), "no output 'count': its dict has 'profile', 'counts'"),
        ("dict", Head(1), "no output 1: its dict has 'profile', 'counts'"),
        ("tuple", Head(2), "no output 2: its tuple has 0, 1"),
        ("named tuple", Head("sum"), "no output 'sum': its Pair has 0, 1, 'profile', 'counts'"),
        ("dataclass", Total(head="track"), "its Record has 'profile', 'counts'"),
        ("profile", Head(0), "no output 0: its Tensor has no parts"),
        ("tuple", Total(), r"returns a tuple: choose one of its tensors with head="),
        ("profile", Total(18, 21), "start=18, stop=21 is not within the 20 positions on axis -1"),
        ("profile", Total(-21), r"within the 20 positions .* of shape \(5, 2, 20\)"),
        ("profile", Total(5, 5), "start=5, stop=5 is not within"),
        ("bins first", Total(5, 6), "within the 2 positions on axis -1"),
        ("first track", Total(axis=2), r"axis=2 needs an output of shape .*; got \(5, 20\)"),
        ("profile", ProfileScore(axis=0), "axis=0 needs an output of shape"),
        ("tuple", Total(head=1, axis=2), r"axis=2 needs an output of shape .*; got \(5, 2\)"),
    ],
)
def test_what_is_not_there_is_named(bases, form, output_fn, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tism.predict(Profile(FORMS[form]), bases, output_fn=output_fn)


def test_only_probabilities_that_are_not_held_make_the_first_order_of_ism(bases):
    model, step = Profile(FORMS["profile"]), 1e-6
    direction = torch.randn(bases.shape, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        ends = [ProfileScore()(model(bases + sign * step * direction)) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * step)
    slopes = {
        held: (
            tism.input_gradient(model, bases, output_fn=ProfileScore(held=held))
            * direction[:, None]
        ).sum((2, 3))
        for held in (True, False)
    }
    torch.testing.assert_close(slopes[False], slope, rtol=1e-6, atol=1e-9)
    assert (slopes[True] - slope).abs().max() > 0.01 * slope.abs().max()
