"""Drawn models, sequences and arguments give the scores of the definition, or an error by name.

The definition is computed by plain forward passes and autograd in a loop. At most one argument of
a call is bad, and no call changes the model, the sequences or the process.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import Refused, inputs, outcome, unchanged
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import tism
from tism.correlations import pearson

# --- models -----------------------------------------------------------------------------------


class Apply(nn.Module):
    """A model, then a function of its output."""

    def __init__(self, model: nn.Module, function: Any) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.model(x))


class Recurrent(nn.Module):
    """A network that the windowed engine cannot follow."""

    def __init__(self, length: int, n_tasks: int) -> None:
        super().__init__()
        self.cell = nn.GRU(4, 3, batch_first=True)
        self.head = nn.Linear(3, n_tasks)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x.transpose(1, 2))[0][:, -1])


def linear(length: int, n_tasks: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4 * length, n_tasks))


def convolutional(length: int, n_tasks: int) -> nn.Module:
    layers = nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * (length // 2), n_tasks))


def in_place(length: int, n_tasks: int) -> nn.Module:
    layers = nn.Conv1d(4, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(3 * length, n_tasks))
    return Apply(model, lambda y: y.add_(1).tanh_())


def paper(length: int, n_tasks: int) -> nn.Module:
    return tism.build_model("baseline", length=length, n_tasks=n_tasks, width=3)


@st.composite
def models(draw: st.DrawFn, length: int, n_tasks: int) -> nn.Module:
    """A network in any state that its owner may leave it in."""
    makers = [linear, convolutional, in_place, paper, Recurrent]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 2**32)))
        model = draw(st.sampled_from(makers))(length, n_tasks).double()
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 2)
    if draw(st.booleans()):
        model = model.float()
    for module in model.modules():
        module.training = draw(st.booleans())
    for parameter in model.parameters():
        parameter.requires_grad_(draw(st.booleans()))
        if draw(st.booleans()) and parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    return model


# --- sequences --------------------------------------------------------------------------------

FORMS = {
    "float32": lambda x: x,
    "float64": lambda x: x.double(),
    "bfloat16": lambda x: x.bfloat16(),
    "uint8": lambda x: x.to(torch.uint8),
    "bool": lambda x: x.bool(),
    "parameter": nn.Parameter,
    "not contiguous": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "expanded": lambda x: x[:1].expand(3, -1, -1),
    "numpy backwards": lambda x: x.numpy()[::-1],
    "numpy int8": lambda x: x.numpy().astype(np.int8),
    "numpy big-endian": lambda x: x.numpy().astype(">f4"),
    "numpy read-only": lambda x: np.broadcast_to(x.numpy(), x.shape),
    "list": lambda x: x.tolist(),
}
DAMAGE = {
    "two": lambda x: x * 2,
    "nan": lambda x: x * math.nan,
    "two bases": torch.ones_like,
    "one sequence": lambda x: x[0],
    "transposed": lambda x: torch.ones(x.shape[0], x.shape[2] + 5, 4),
    "no position": lambda x: x[:, :, :0],
    "none": lambda x: None,
    "text": lambda x: "ACGT",
    "ragged": lambda x: [[[1, 0], [0]]],
    "objects": lambda x: x.numpy().astype(object),
    "complex": lambda x: x.to(torch.complex64),
    "sparse": lambda x: x.to_sparse(),
    "meta": lambda x: x.to("meta"),
}


@st.composite
def one_hots(draw: st.DrawFn, length: int) -> Tensor:
    """(n, 4, length) float32, with some N."""
    letters = st.text("ACGTN", min_size=length, max_size=length)
    return tism.one_hot_encode(draw(st.lists(letters, min_size=1, max_size=3)))


def as_float64(one_hot: Any) -> Tensor:
    if isinstance(one_hot, Tensor):
        return one_hot.detach().double().clone()
    return torch.from_numpy(np.array(one_hot, np.float64))


# --- arguments --------------------------------------------------------------------------------

NO_INT = [
    True, 1.5, math.nan, "8", b"8", [4], {}, object(), 1j, np.array([1, 2]), np.float64(3),
    np.bool_(True), torch.tensor([1, 2]), torch.tensor(1.5), torch.empty(1, device="meta"),
]  # fmt: skip
NO_NUMBERS = [None, 3.0, "ism", [[0.0], [0.0, 1.0]], np.zeros((1, 1, 4, 1)), object()]
BAD = {
    "tasks": [
        3, -4, 2**80, 0.5, "0", b"0", True, [], [[0], [0, 0]], [0.0], [None], {0}, object(),
        slice(3, None), slice("a"), slice(None, None, 0), np.array([True]), np.array([[0]]),
        torch.tensor([0.5], requires_grad=True), torch.empty(1, device="meta"), iter([0]),
    ],
    "batch_size": [*NO_INT, 0, -3],
    "device": ["gpu", "", "cuda:99", "meta", "cpu\0", 3.5, object(), [], torch.device("meta")],
    "engine": ["", "fast", "AUTO", None, 3, True, ["auto"], np.array(["auto", "full"]), {}],
    "start": NO_INT,
    "stop": NO_INT,
    "output_fn": [3, "sum", [], torch.tensor(1)],
    "m": [*NO_INT, -1, 10**9],
    "base": NO_NUMBERS,
    "depth": [None, 1.5, True, [0], np.array([1, 2]), "", "nowhere", 99, -99, b""],
    "seed": [*NO_INT, 2**64],
    "model": [None, 3, "model", len, nn.Linear, object(), [nn.Linear(1, 1)]],
}  # fmt: skip


def good_tasks(n: int) -> st.SearchStrategy:
    several = st.lists(st.integers(-n, n - 1), min_size=1, max_size=4)
    forms = [tuple, np.array, torch.tensor, lambda t: t[0], lambda t: t]
    whole = st.sampled_from([None, slice(None, None, -1), range(n)])
    return st.one_of(whole, *(several.map(form) for form in forms))


GOOD = {
    "batch_size": st.one_of(st.none(), st.integers(1, 50), st.just(2**70), st.just(np.int64(3))),
    "device": st.sampled_from([None, "cpu", torch.device("cpu"), "cpu:0"]),
    "engine": st.sampled_from(["auto", "full"]),
    "start": st.integers(0, 2),
    "stop": st.one_of(st.none(), st.integers(3, 12), st.just(-1)),
    "seed": st.integers(-(2**63), 2**64 - 1),
    "depth": st.sampled_from(["input", 0, -1, 1, -2]),
}
SAME = ("tasks", "batch_size", "device", "output_fn")


@dataclass
class Scene:
    """A call: what it is given, what is bad of it, and the model and sequences of the definition.

    plain : (n, 4, length) float64
    """

    model: Any
    one_hot: Any
    options: dict[str, Any]
    bad: str | None
    definition: nn.Module
    plain: Tensor
    n_tasks: int

    @property
    def positions(self) -> slice:
        return slice(self.options.get("start", 0), self.options.get("stop"))

    @property
    def tasks(self) -> list[int]:
        tasks = self.options.get("tasks")
        if tasks is None or isinstance(tasks, slice):
            return list(range(self.n_tasks))[tasks or slice(None)]
        return [int(task) % self.n_tasks for task in np.atleast_1d(np.asarray(tasks))]

    @property
    def stretch(self) -> Tensor:
        return self.plain[..., self.positions]

    @property
    def n_substitutions(self) -> Tensor:
        return (self.stretch == 0).sum((1, 2))

    @property
    def dtype(self) -> torch.dtype:
        return next(self.definition.parameters()).dtype


@st.composite
def scenes(draw: st.DrawFn, *names: str, least_m: int = 0) -> Scene:
    """A call of a function with arguments of these names."""
    length, n_tasks = draw(st.integers(4, 9)), draw(st.integers(1, 3))
    model = draw(models(length, n_tasks))
    one_hot = FORMS[draw(st.sampled_from(sorted(FORMS)))](draw(one_hots(length)))
    bad = draw(st.one_of(st.none(), st.sampled_from([*names, "one_hot", "model"])))
    definition = deepcopy(model).eval().requires_grad_(False)
    scene = Scene(model, one_hot, {}, bad, definition, as_float64(one_hot), n_tasks)
    good = {**GOOD, "tasks": good_tasks(n_tasks)}
    for name in names:
        left_out = name != "depth" and draw(st.sampled_from([False, False, True]))
        if name in good and name != bad and not left_out:
            scene.options[name] = draw(good[name])
    if "m" in names:
        most = 0 if bad in ("start", "stop") else scene.n_substitutions.min()
        scene.options["m"] = draw(st.integers(least_m, max(least_m, int(most) - (bad == "base"))))
    if bad == "one_hot":
        scene.one_hot = DAMAGE[draw(st.sampled_from(sorted(DAMAGE)))](draw(one_hots(length)))
    elif bad == "model":
        scene.model = draw(st.sampled_from(BAD["model"]))
    elif bad:
        scene.options[bad] = draw(st.sampled_from(BAD[bad]))
    return scene


def call(name: str, scene: Scene, *refusals: str) -> Any:
    """Return what a function of the top returns, None if it refuses by name.

    refusals : words of an error that may come of good arguments
    """
    named = {None: refusals, "m": ("m must be",)}.get(scene.bad, (scene.bad, "cannot be traced"))
    with unchanged(scene.model):
        result = outcome(
            f"tism.{name}",
            lambda: getattr(tism, name)(scene.model, scene.one_hot, **scene.options),
            *named,
        )
    if scene.bad != "one_hot":
        assert torch.equal(as_float64(scene.one_hot), scene.plain)
    if scene.bad:
        assert isinstance(result, Refused), f"a bad {scene.bad} was taken: {scene.options}"
    return None if isinstance(result, Refused) else result


# --- definitions ------------------------------------------------------------------------------


def passes(scene: Scene, rows: Tensor) -> Tensor:
    """Predictions of the chosen tasks, one sequence after another."""
    with torch.no_grad():
        output = [scene.definition(row[None].to(scene.dtype).clone())[0] for row in rows]
    return torch.stack(output)[:, scene.tasks].double()


def exact_scores(scene: Scene) -> Tensor:
    """ISM at the chosen positions, by its definition."""
    x, before = scene.plain, passes(scene, scene.plain)
    scores = torch.zeros(len(x), before.shape[1], 4, x.shape[2], dtype=torch.float64)
    for base, position in np.ndindex(*x.shape[1:]):
        mutant = x.clone()
        mutant[:, :, position] = 0
        mutant[:, base, position] = 1
        other = x[:, base, position] == 0
        scores[other, :, base, position] = (passes(scene, mutant) - before)[other]
    return scores[..., scene.positions]


def gradients(scene: Scene) -> Tensor:
    """Gradients at the chosen positions by autograd, one sequence and task after another."""
    rows = []
    for row in scene.plain:
        leaf = row[None].to(scene.dtype).clone().requires_grad_()
        outputs = [scene.definition(leaf * 1)[0, task] for task in scene.tasks]
        rows.append(torch.stack([torch.autograd.grad(y, leaf)[0][0] for y in outputs]))
    return torch.stack(rows).double()[..., scene.positions]


def first_order(scene: Scene) -> Tensor:
    """TISM (Eq. 7): gradients minus the gradient at the reference base."""
    slopes = gradients(scene)
    return slopes - (slopes * scene.stretch[:, None]).sum(2, keepdim=True)


def assert_close(found: Tensor, expected: Tensor, scene: Scene) -> None:
    assert found.dtype == scene.dtype
    assert not found.requires_grad
    rtol, atol = (1e-6, 1e-9) if scene.dtype == torch.float64 else (1e-3, 1e-4)
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=atol)


# --- tests ------------------------------------------------------------------------------------

STRETCHED = (*SAME, "start", "stop")
SCORES = {
    "predict": (SAME, lambda scene: passes(scene, scene.plain)),
    "input_gradient": (STRETCHED, gradients),
    "tism": (STRETCHED, first_order),
    "ism": ((*STRETCHED, "engine"), exact_scores),
}


@pytest.mark.parametrize("name", SCORES)
@inputs(quick=50, nightly=1800)
@given(data=st.data())
def test_scores(name, data):
    names, definition = SCORES[name]
    scene = data.draw(scenes(*names))
    found = call(name, scene)
    if found is not None:
        assert_close(found, definition(scene), scene)


@inputs(quick=40, nightly=1200)
@given(scene=scenes(*STRETCHED, "engine", "base", "m"))
def test_budgeted_ism(scene):
    result = call("budgeted_ism", scene)
    if result is None:
        return
    expected, substituted = exact_scores(scene), scene.stretch == 0
    exact = result.exact[:, None].expand(expected.shape)
    assert_close(result.estimate.masked_fill(~exact, 0), expected.masked_fill(~exact, 0), scene)
    assert (result.exact | substituted).all()
    assert not result.uncertainty[exact].any()
    assert result.estimate.isfinite().all()
    m = torch.tensor(scene.options["m"]).clamp(max=scene.n_substitutions)
    assert torch.equal((result.exact & substituted).sum((1, 2)), m)


@inputs(quick=30, nightly=1000)
@given(scene=scenes(*STRETCHED, "depth"))
def test_layerwise_tism(scene):
    scores = call("layerwise_tism", scene, "depth", "cannot be traced")
    if scores is None:
        return
    depth = scene.options["depth"]
    if depth in ("input", 0):
        assert_close(scores, first_order(scene), scene)
    elif depth == -1:
        assert_close(scores, exact_scores(scene), scene)
    else:
        assert not scores[scene.stretch[:, None].expand(scores.shape) == 1].any()


@inputs(quick=10, nightly=400)
@given(scene=scenes("device", "output_fn"))
def test_depths(scene):
    names = call("depths", scene, "cannot be traced")
    if names is not None:
        assert names[0] == "input"
        assert len(set(names)) == len(names) > 1


@inputs(quick=30, nightly=1000)
@given(scene=scenes(*SAME, "engine", "seed", "m", least_m=10))
def test_reliability(scene):
    result = call("reliability", scene)
    if result is None:
        return
    r, low, high, words = result
    exists = ~r.isnan()
    assert ((low >= -1) & (low <= r) & (r <= high) & (high <= 1))[exists].all()
    assert [[word == "undefined" for word in row] for row in words] == (~exists).tolist()
    if (scene.options["m"] == scene.n_substitutions).all() and scene.dtype == torch.float64:
        expected = pearson(first_order(scene).flatten(2), exact_scores(scene).flatten(2))
        expected = expected.clamp(-0.999, 0.999)[exists]
        torch.testing.assert_close(r[exists].double(), expected, rtol=1e-5, atol=1e-5)
