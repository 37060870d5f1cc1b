"""Drawn arguments give the right answer, or an error that names them; no call changes the model.

The right answer is the definition, computed by plain passes in a loop.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import Refused, inputs, outcome, unchanged
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import tism
from tism.correlations import pearson, profile_correlation
from tism.exact import predict
from tism.sequence import decode, validate_one_hot

CLOSE = {"rtol": 1e-6, "atol": 1e-9, "equal_nan": True}
FLOAT32_CLOSE = {"rtol": 1e-3, "atol": 1e-4, "equal_nan": True}
OWN_AXES = ("one_hot", "model", "output_fn")

# --- models -----------------------------------------------------------------------------------


class Apply(nn.Module):
    """A model, then a function of its output."""

    def __init__(self, model: nn.Module, function: Any) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.model(x))


class Residual(nn.Module):
    """Dilated, with batch norm, dropout and a sum of two branches."""

    def __init__(self, length: int, n_tasks: int) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 5, 3, padding="same")
        self.norm = nn.BatchNorm1d(5)
        self.dilated = nn.Conv1d(5, 5, 3, dilation=2, padding="same")
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(5 * length, n_tasks)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        x = x + self.dilated(nn.functional.gelu(self.norm(x)))
        return self.head(self.dropout(x.flatten(1)))


class Recurrent(nn.Module):
    """What no window follows."""

    def __init__(self, n_tasks: int) -> None:
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
    return Apply(
        nn.Sequential(*layers, nn.Linear(3 * length, n_tasks)), lambda y: y.add_(1).tanh_()
    )


def not_differentiable(length: int, n_tasks: int) -> nn.Module:
    return Apply(linear(length, n_tasks), lambda y: y.mul_(y))  # which autograd refuses


def not_a_number(length: int, n_tasks: int) -> nn.Module:
    return Apply(linear(length, n_tasks), lambda y: torch.log(y))


def infinite(length: int, n_tasks: int) -> nn.Module:
    return Apply(linear(length, n_tasks), lambda y: y / (y > 0))


def paper(length: int, n_tasks: int) -> nn.Module:
    return tism.build_model("baseline", length=length, n_tasks=n_tasks, width=3)


ARCHITECTURES = {
    "linear": linear,
    "convolutional": convolutional,
    "residual": Residual,
    "recurrent": lambda length, n_tasks: Recurrent(n_tasks),
    "paper": paper,
    "in place": in_place,
    "nan": not_a_number,
    "infinite": infinite,
}


@st.composite
def models(draw: st.DrawFn, length: int, kinds: tuple[str, ...] = tuple(ARCHITECTURES)) -> Any:
    """(model, tasks): of any state that a caller may leave a model in."""
    n_tasks = draw(st.integers(1, 3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 2**32)))
        model = ARCHITECTURES[draw(st.sampled_from(kinds))](length, n_tasks).double()
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
    if draw(st.booleans()):
        model.register_forward_hook(lambda module, given, output: None)
    return model, n_tasks


# --- sequences --------------------------------------------------------------------------------

LENGTHS = st.integers(3, 9)
REPRESENTATIONS = {
    "float32": lambda x: x,
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "int64": lambda x: x.long(),
    "uint8": lambda x: x.to(torch.uint8),
    "bool": lambda x: x.bool(),
    "requires grad": lambda x: x.requires_grad_(),
    "parameter": nn.Parameter,
    "not contiguous": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "expanded": lambda x: x[:1].expand(3, -1, -1),
    "strided": lambda x: x.repeat_interleave(2, 2)[:, :, ::2],
    "numpy": lambda x: x.numpy(),
    "numpy backwards": lambda x: x.numpy()[::-1],
    "numpy int8": lambda x: x.numpy().astype(np.int8),
    "numpy uint16": lambda x: x.numpy().astype(np.uint16),
    "numpy bool": lambda x: x.numpy().astype(bool),
    "numpy big-endian": lambda x: x.numpy().astype(">f4"),
    "numpy longdouble": lambda x: x.numpy().astype(np.longdouble),
    "numpy fortran": lambda x: np.asfortranarray(x.numpy()),
    "numpy read-only": lambda x: np.broadcast_to(x.numpy(), x.shape),
    "list": lambda x: x.tolist(),
}


def _entry(value: float) -> Any:
    def spoil(x: Tensor) -> Tensor:
        x = x.clone()
        x[-1, 1, -1] = value
        return x

    return spoil


DAMAGE = {
    "2": _entry(2),
    "half": _entry(0.5),
    "minus": _entry(-1),
    "nan": _entry(math.nan),
    "inf": _entry(math.inf),
    "two bases": lambda x: torch.ones_like(x),
    "one sequence": lambda x: x[0],
    "batch of batches": lambda x: x[None],
    "transposed": lambda x: torch.ones(x.shape[0], x.shape[2] + 5, 4),
    "five rows": lambda x: torch.cat([x, x[:, :1]], 1),
    "no sequence": lambda x: x[:0],
    "no position": lambda x: x[:, :, :0],
    "number": lambda x: 1.0,
    "none": lambda x: None,
    "text": lambda x: "ACGT",
    "texts": lambda x: ["ACGT", "ACGA"],
    "bytes": lambda x: b"ACGT",
    "dict": lambda x: {"x": 1},
    "ragged": lambda x: [[[1, 0], [0]]],
    "object": lambda x: object(),
    "objects": lambda x: x.numpy().astype(object),
    "complex": lambda x: x.to(torch.complex64),
    "complex numpy": lambda x: x.numpy().astype(complex),
    "text numpy": lambda x: x.numpy().astype(str),
    "dates": lambda x: x.numpy().astype("datetime64[s]"),
    "sparse": lambda x: x.to_sparse(),
    "meta": lambda x: x.to("meta"),
    "list of tensors": lambda x: [x, x[0]],
}


@st.composite
def one_hots(draw: st.DrawFn, length: int, most: int = 3, n_share: bool = True) -> Tensor:
    """(n, 4, length) float32, with some N."""
    letters = st.text("ACGTN" if n_share else "ACGT", min_size=length, max_size=length)
    return tism.one_hot_encode(draw(st.lists(letters, min_size=1, max_size=most)))


def represented(draw: Any, one_hot: Tensor) -> tuple[Any, Tensor]:
    """The sequences in some form that a caller may have them in, and as float64."""
    form = draw(st.sampled_from(sorted(REPRESENTATIONS)))
    given_as = REPRESENTATIONS[form](one_hot.clone())
    if isinstance(given_as, Tensor):
        return given_as, given_as.detach().double().clone()
    return given_as, torch.from_numpy(np.array(given_as, dtype=np.float64))


# --- arguments --------------------------------------------------------------------------------


def good_tasks(n: int) -> st.SearchStrategy:
    one = st.integers(-n, n - 1)
    several = st.lists(one, min_size=1, max_size=4)
    return st.one_of(
        st.none(),
        one,
        one.map(np.int64),
        one.map(np.array),
        several,
        several.map(tuple),
        several.map(np.array),
        several.map(torch.tensor),
        several.map(lambda t: np.array(t, np.int8)),
        st.just(slice(None)),
        st.just(slice(0, 1)),
        st.just(slice(None, None, -1)),
        st.just(range(n)),
    )


def bad_tasks(n: int) -> st.SearchStrategy:
    return st.one_of(
        st.integers(n),
        st.integers(max_value=-n - 1),
        st.lists(st.integers(n, 2**80), min_size=1, max_size=3),
        st.floats(),
        st.text(),
        st.binary(),
        st.booleans(),
        st.lists(st.booleans(), min_size=1, max_size=n),
        st.sampled_from(
            [
                [], (), [[0], [0]], [[0], [0, 0]], [0.0], [None], ["0"], {0}, {0: 0}, object(),
                slice(n, None), slice("a"), slice(None, None, 0), slice(0.5), 1j,
                np.array([0.0]), np.array([True]), np.array(["a"]), np.array([[0]]),
                torch.tensor([0.5], requires_grad=True), torch.tensor([True]),
                torch.tensor([0.0], dtype=torch.bfloat16), torch.empty(1, device="meta"),
                torch.tensor([0]).to_sparse(), iter([0]),
            ]
        ),
    )  # fmt: skip


NO_INT = st.sampled_from(
    [
        True, False, 1.5, 2.0, math.nan, math.inf, "8", "", b"8", [4], (), {}, object(), 1j,
        np.array([4]), np.array([1, 2]), np.array(4.0), np.float64(3), np.bool_(True),
        torch.tensor([1, 2]), torch.tensor(1.5), torch.tensor(True), torch.empty(1, device="meta"),
    ]
)  # fmt: skip
GOOD = {
    "batch_size": st.one_of(
        st.none(), st.integers(1, 50), st.integers(2**31, 2**70), st.just(np.int64(3)),
        st.just(np.array(2)), st.just(torch.tensor(5)),
    ),
    "device": st.sampled_from([None, "cpu", torch.device("cpu"), "cpu:0"]),
    "engine": st.sampled_from(["auto", "full"]),
    "progress": st.just(False),
}  # fmt: skip
BAD = {
    "batch_size": st.one_of(NO_INT, st.integers(max_value=0)),
    "device": st.sampled_from(
        [
            "gpu", "", "cuda:99", "cpu:x", "meta", "xla", "vulkan", "hpu", "fpga", 3.5, 99, -1,
            object(), [], "cpu\0", torch.device("meta"), torch.device("cuda:98"),
        ]
    ),
    "engine": st.sampled_from(
        ["", "fast", "AUTO", None, 3, True, ["auto"], np.array(["auto", "full"]), {}, object()]
    ),
    "output_fn": st.sampled_from([3, "sum", [], torch.tensor(1)]),
}  # fmt: skip
BAD_MODELS = st.sampled_from([None, 3, "model", len, nn.Linear, object(), [nn.Linear(1, 1)]])
BAD_OUTPUTS = {
    "flat": lambda y: y[:, 0],
    "profile": lambda y: y[:, :, None],
    "tuple": lambda y: (y,),
    "dict": lambda y: {"y": y},
    "none": lambda y: None,
    "numpy": lambda y: y.detach().numpy(),
    "list": lambda y: y.tolist(),
    "int": lambda y: y.long(),
    "bool": lambda y: y > 0,
    "complex": lambda y: y.to(torch.complex64),
    "more rows": lambda y: torch.cat([y, y]),
    "no task": lambda y: y[:, :0],
    "scalar": lambda y: y.sum(),
}


@st.composite
def calls(
    draw: st.DrawFn, names: tuple[str, ...], good: dict[str, Any], bad: dict[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """Keyword arguments of these names, and which of them is bad; at most one is."""
    spoilt = draw(st.sampled_from([None, None, *bad]))
    chosen = {n: draw(good[n]) for n in names if n in good and n != spoilt and draw(st.booleans())}
    if bad.get(spoilt) is not None:
        chosen[spoilt] = draw(bad[spoilt])
    return chosen, spoilt


@st.composite
def scenes(
    draw: st.DrawFn,
    names: tuple[str, ...],
    *,
    good: dict[str, Any] | None = None,
    bad: dict[str, Any] | None = None,
    kinds: tuple[str, ...] = tuple(ARCHITECTURES),
    lengths: st.SearchStrategy[int] = LENGTHS,
) -> dict[str, Any]:
    """A model, sequences and keyword arguments, of all of which at most one is bad."""
    length = draw(lengths)
    model, n_tasks = draw(models(length, kinds))
    one_hot, plain = represented(draw, draw(one_hots(length)))
    own_bad = {"tasks": bad_tasks(n_tasks), **BAD, **(bad or {})}
    own_bad = {name: own_bad[name] for name in (*names, *(bad or {})) if name in own_bad}
    own_bad |= dict.fromkeys(("one_hot", "model", "output", "length"))
    own_good = {"tasks": good_tasks(n_tasks), **GOOD, **(good or {})}
    options, spoilt = draw(calls(names, own_good, own_bad))
    definition = deepcopy(model).eval().requires_grad_(False)
    if spoilt == "one_hot":
        one_hot = DAMAGE[draw(st.sampled_from(sorted(DAMAGE)))](draw(one_hots(length)))
    elif spoilt == "length":
        one_hot = draw(one_hots(length + draw(st.sampled_from([-2, 2, 5]))))
    elif spoilt == "model":
        model = draw(BAD_MODELS)
    elif spoilt == "output":
        wrong = BAD_OUTPUTS[draw(st.sampled_from(sorted(BAD_OUTPUTS)))]
        if "output_fn" in names and draw(st.booleans()):
            options["output_fn"] = wrong
        else:
            model = Apply(model, wrong)
    return {
        "model": model, "one_hot": one_hot, "plain": plain, "options": options, "spoilt": spoilt,
        "definition": definition, "n_tasks": n_tasks,
    }  # fmt: skip


def run(name: str, function: Any, scene: dict[str, Any], *also: str) -> Any:
    """The outcome of a call: an answer where nothing is bad, else an error that names what is."""
    spoilt = scene["spoilt"]
    wanted = {
        "output": ("model must return", "output_fn must return"),
        "length": ("one_hot",),
        None: also,
    }.get(spoilt, (spoilt, "cannot be traced"))
    kept = torch.as_tensor(scene["plain"]).clone()
    with unchanged(scene["model"]):
        result = outcome(
            name, lambda: function(scene["model"], scene["one_hot"], **scene["options"]), *wanted
        )
    assert torch.equal(kept, scene["plain"])
    if spoilt is not None and spoilt != "length":  # some models take any length
        assert isinstance(result, Refused), f"{spoilt} was taken: {scene['options']}"
    return result


# --- definitions ------------------------------------------------------------------------------


def selected(tasks: Any, n_tasks: int) -> list[int]:
    """Numbers of the chosen tasks."""
    if tasks is None or isinstance(tasks, slice):
        return list(range(n_tasks))[tasks or slice(None)]
    return [int(task) % n_tasks for task in np.atleast_1d(np.asarray(tasks))]


def dtype_of(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def passes(scene: dict[str, Any], rows: Tensor) -> Tensor:
    """Predictions of the chosen tasks, one sequence after the other."""
    model = scene["definition"]
    chosen = selected(scene["options"].get("tasks"), scene["n_tasks"])
    with torch.no_grad():
        output = [model(row[None].to(dtype_of(model)).clone())[0] for row in rows]
    return torch.stack(output)[:, chosen].double()


def exact_scores(scene: dict[str, Any]) -> Tensor:
    """ISM by its definition."""
    x = scene["plain"]
    before = passes(scene, x)
    scores = torch.zeros(len(x), before.shape[1], 4, x.shape[2], dtype=torch.float64)
    for position in range(x.shape[2]):
        for base in range(4):
            mutant = x.clone()
            mutant[:, :, position] = 0
            mutant[:, base, position] = 1
            other = x[:, base, position] == 0
            scores[other, :, base, position] = (passes(scene, mutant) - before)[other]
    return scores


def gradients(scene: dict[str, Any]) -> Tensor:
    """Gradients by autograd, one sequence and task after the other."""
    model, chosen = scene["definition"], selected(scene["options"].get("tasks"), scene["n_tasks"])
    rows = []
    for row in scene["plain"]:
        leaf = row[None].to(dtype_of(model)).clone().requires_grad_()
        rows.append([torch.autograd.grad(model(leaf * 1)[0, t], leaf)[0][0] for t in chosen])
    return torch.stack([torch.stack(row) for row in rows]).double()


def assert_close(found: Tensor, expected: Tensor, scene: dict[str, Any]) -> None:
    close = CLOSE if dtype_of(scene["definition"]) == torch.float64 else FLOAT32_CLOSE
    assert found.dtype == dtype_of(scene["definition"])
    assert not found.requires_grad
    torch.testing.assert_close(found.double(), expected, **close)


SAME = ("tasks", "batch_size", "device", "progress", "output_fn")
FINITE = tuple(kind for kind in ARCHITECTURES if kind not in ("nan", "infinite"))


@inputs(quick=20, nightly=600)
@given(scene=scenes(SAME))
def test_predictions(scene):
    found = run("tism.exact.predict", predict, scene)
    if not isinstance(found, Refused) and scene["spoilt"] is None:
        assert_close(found, passes(scene, scene["plain"]), scene)


@inputs(quick=25, nightly=700)
@given(scene=scenes(SAME), function=st.sampled_from([tism.input_gradient, tism.tism]))
def test_gradients(scene, function):
    found = run(f"tism.{function.__name__}", function, scene)
    if isinstance(found, Refused) or scene["spoilt"]:
        return
    expected = gradients(scene)
    if function is tism.tism:
        x = scene["plain"][:, None]
        expected = expected - (expected * x).sum(2, keepdim=True)
    assert_close(found, expected, scene)


@st.composite
def ism_scenes(draw: st.DrawFn) -> dict[str, Any]:
    ends = st.one_of(st.none(), st.integers(-12, 12), st.integers(-3, 3).map(np.int64))
    scene = draw(
        scenes(
            (*SAME, "engine", "start", "stop"),
            good={"start": ends, "stop": ends},
            bad={"start": NO_INT, "stop": NO_INT},
        )
    )
    if scene["spoilt"]:  # one fault at a time
        for name in {"start", "stop"} - {scene["spoilt"]}:
            scene["options"].pop(name, None)
    return scene


@inputs(quick=35, nightly=1000)
@given(scene=ism_scenes())
def test_ism(scene):
    options, length = scene["options"], scene["plain"].shape[2]
    start, stop = options.get("start", 0), options.get("stop")
    found = run("tism.ism", tism.ism, scene, "selects no position")
    if scene["spoilt"] is not None:
        return
    if not range(length)[start:stop]:
        assert isinstance(found, Refused)
        return
    assert_close(found, exact_scores(scene)[..., start:stop], scene)


@st.composite
def budgeted_scenes(draw: st.DrawFn) -> dict[str, Any]:
    scene = draw(
        scenes(
            (*SAME, "engine"),
            bad={
                "budget": st.one_of(
                    st.sampled_from([True, "9", None, [9], math.nan, math.inf, -math.inf, 1j]),
                    st.sampled_from([np.complex128(9), torch.tensor(9.0), np.array([9.0]), 0, -3]),
                    st.floats(1000, 1e300),
                ),
                "base": st.sampled_from(
                    ["ism", "", None, 3.0, [[0.0], [0.0, 1.0]], np.zeros((1, 1, 4, 1)), object()]
                ),
            },
            kinds=FINITE,
        )
    )
    n_tasks = (
        len(selected(scene["options"].get("tasks"), scene["n_tasks"]))
        if (scene["spoilt"] != "tasks")
        else 1
    )
    most = 3 * scene["plain"].shape[2] + 1
    if "budget" not in scene["options"]:
        highest = 1 + n_tasks if scene["spoilt"] == "length" else max(most, 1 + n_tasks)
        scene["options"]["budget"] = draw(st.floats(1 + n_tasks, highest))
    return scene


@inputs(quick=25, nightly=500)
@given(scene=budgeted_scenes())
def test_budgeted_ism(scene):
    result = run("tism.budgeted_ism", tism.budgeted_ism, scene)
    if isinstance(result, Refused) or scene["spoilt"]:
        return
    expected, substituted = exact_scores(scene), scene["plain"] == 0
    exact = result.exact[:, None].expand(expected.shape)
    assert_close(result.estimate.masked_fill(~exact, 0), expected.masked_fill(~exact, 0), scene)
    assert (result.exact | substituted).all()
    assert not result.uncertainty[exact].any()
    assert result.estimate.isfinite().all()
    spent = 1 + (result.exact & substituted).sum((1, 2)).max()
    assert spent <= scene["options"]["budget"] * 1.34 + 1  # four bases at an N


@st.composite
def layerwise_scenes(draw: st.DrawFn) -> dict[str, Any]:
    bad = [
        None,
        1.5,
        True,
        [0],
        np.array([1, 2]),
        torch.tensor([1, 2]),
        "",
        "nowhere",
        99,
        -99,
        b"",
    ]
    scene = draw(scenes(SAME, good={}, bad={"depth": st.sampled_from(bad)}, kinds=FINITE))
    depth = st.sampled_from(["input", 0, -1, 1, -2])
    scene["options"].setdefault("depth", draw(depth))
    return scene


@inputs(quick=20, nightly=500)
@given(scene=layerwise_scenes())
def test_layerwise_tism(scene):
    depth, also = scene["options"]["depth"], ("depth", "cannot be traced")
    scores = run("tism.layerwise_tism", tism.layerwise_tism, scene, *also)
    if isinstance(scores, Refused) or scene["spoilt"]:
        return
    if depth in ("input", 0):
        slopes = gradients(scene)
        at_reference = (slopes * scene["plain"][:, None]).sum(2, keepdim=True)
        assert_close(scores, slopes - at_reference, scene)
    elif depth == -1:
        assert_close(scores, exact_scores(scene), scene)
    else:
        assert not scores[scene["plain"][:, None].expand(scores.shape) == 1].any()


@inputs(quick=10, nightly=200)
@given(scene=scenes(("device", "output_fn"), kinds=FINITE))
def test_depths(scene):
    names = run("tism.depths", tism.depths, scene, "cannot be traced")
    if not isinstance(names, Refused) and scene["spoilt"] is None:
        assert names[0] == "input"
        assert len(set(names)) == len(names) > 1


@st.composite
def reliability_scenes(draw: st.DrawFn) -> dict[str, Any]:
    scene = draw(
        scenes(
            (*SAME, "engine", "seed"),
            good={"seed": st.integers(-(2**63), 2**64 - 1)},
            bad={
                "m": st.one_of(NO_INT, st.integers(max_value=9), st.integers(37)),
                "seed": st.one_of(NO_INT, st.integers(2**64)),
            },
            lengths=st.integers(4, 9),
        )
    )
    most = int((scene["plain"] == 0).sum((1, 2)).min())
    longest = 10 if scene["spoilt"] == "length" else most
    scene["options"].setdefault("m", draw(st.integers(10, longest)))
    return scene


@inputs(quick=20, nightly=500)
@given(scene=reliability_scenes())
def test_reliability(scene):
    found = run("tism.reliability", tism.reliability, scene)
    if isinstance(found, Refused) or scene["spoilt"]:
        return
    r, low, high, words = found
    exists = ~r.isnan()
    assert ((low >= -1) & (low <= r) & (r <= high) & (high <= 1))[exists].all()
    assert [[w == "undefined" for w in row] for row in words] == (~exists).tolist()
    substituted = (scene["plain"] == 0).sum((1, 2))
    if (scene["options"]["m"] == substituted).all() and dtype_of(scene["model"]) == torch.float64:
        slopes = gradients(scene)
        first = slopes - (slopes * scene["plain"][:, None]).sum(2, keepdim=True)
        expected = pearson(first.flatten(2), exact_scores(scene).flatten(2)).clamp(-0.999, 0.999)
        torch.testing.assert_close(r[exists].double(), expected[exists], rtol=1e-5, atol=1e-5)


# --- tensors and sequences --------------------------------------------------------------------

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6))
NO_NUMBERS = st.sampled_from(
    [
        None, "scores", b"s", object(), {}, [[1.0], [1.0, 2.0]], [[["a"]]], 1j,
        np.array("a"), np.array(["2020"], "datetime64[D]"), np.zeros((1, 1, 4, 2), complex),
        np.zeros((1, 1, 4, 2), object), torch.zeros(1, 1, 4, 2, device="meta"),
        torch.zeros(1, 1, 4, 2).to_sparse(), torch.zeros(1, 1, 4, 2, dtype=torch.complex64),
    ]
)  # fmt: skip
NUMBERS = {
    "float64": lambda x: x,
    "float32": lambda x: x.float(),
    "whole": lambda x: x.long(),
    "numpy": lambda x: x.numpy(),
    "numpy backwards": lambda x: x.flip(3).numpy()[..., ::-1],
    "numpy int": lambda x: x.long().numpy(),
    "numpy read-only": lambda x: np.broadcast_to(x.numpy(), x.shape),
    "list": lambda x: x.tolist(),
    "list of whole": lambda x: x.long().tolist(),
    "requires grad": lambda x: x.clone().requires_grad_(),
}


@st.composite
def score_maps(draw: st.DrawFn) -> tuple[Any, Tensor, Tensor]:
    """Scores in some form, as float64, and sequences that go with them."""
    n, tasks, length = draw(SHAPES)
    values = st.floats(-100, 100, allow_subnormal=False)
    flat = draw(st.lists(values, min_size=4 * n * tasks * length, max_size=4 * n * tasks * length))
    scores = torch.tensor(flat, dtype=torch.float64).view(n, tasks, 4, length)
    form = draw(st.sampled_from(sorted(NUMBERS)))
    if "whole" in form or form == "numpy int":
        scores = scores.trunc()
    letters = st.text("ACGTN", min_size=length, max_size=length)
    one_hot = tism.one_hot_encode(draw(st.lists(letters, min_size=n, max_size=n)))
    return NUMBERS[form](scores), scores, one_hot.double()


def by_hand(kind: str, scores: Tensor, one_hot: Tensor, baseline: Tensor) -> Tensor:
    """Equations 4, 5 and 7 entry by entry."""
    result = torch.zeros_like(scores)
    for n, task, base, place in np.ndindex(*scores.shape):
        column, x = scores[n, task, :, place], one_hot[n, :, place]
        result[n, task, base, place] = {
            "tism_from_gradient": column[base] - (column * x).sum(),
            "centre": column[base] - column.sum() / 4,
            "mean_effect": -column.sum() / 3 * x[base],
            "hypothetical": column[base] - (column * baseline[n, :, place]).sum(),
            "gradient_times_input": column[base] * x[base],
        }[kind]
    return result


@inputs(quick=40, nightly=1500)
@given(
    case=score_maps(),
    kind=st.sampled_from(
        ["tism_from_gradient", "centre", "mean_effect", "hypothetical", "gradient_times_input"]
    ),
    damage=st.sampled_from([None, None, "scores", "one_hot", "shape", "other length"]),
    junk=NO_NUMBERS,
)
def test_equations(case, kind, damage, junk):
    scores, plain, one_hot = case
    baseline = one_hot * 0.25 + 0.125
    second = {"centre": [], "hypothetical": [baseline]}.get(kind, [one_hot])
    arguments = {"scores": [junk, *second], "shape": [plain[0], *second]}.get(damage)
    if damage == "one_hot" and second:
        arguments = [scores, junk]
    elif damage == "other length" and second:
        arguments = [scores, torch.cat([second[0], second[0]], 2)]
    elif arguments is None:
        arguments, damage = [scores, *second], None
    wanted = () if damage is None else ("scores", "gradient", "one_hot", "baseline")
    with unchanged(None):
        found = outcome(f"tism.{kind}", lambda: getattr(tism, kind)(*arguments), *wanted)
    assert isinstance(found, Refused) == (damage is not None)
    if damage is None:
        single = isinstance(scores, Tensor) and scores.dtype == torch.float32
        close = {"rtol": 1e-4, "atol": 1e-3} if single or not_double(scores) else CLOSE
        expected = by_hand(kind, plain, one_hot, baseline)
        torch.testing.assert_close(found.detach().double(), expected, **close)


def not_double(scores: Any) -> bool:
    """Whole numbers and lists are computed in torch's default type."""
    return not isinstance(scores, Tensor | np.ndarray) or "int" in str(scores.dtype)


@inputs(quick=40, nightly=900)
@given(
    sequences=st.one_of(
        st.text("ACGTNacgtn", max_size=8),
        st.lists(st.text("ACGTNacgtn", min_size=3, max_size=3), max_size=4),
        st.lists(st.text("ACGTN", max_size=3), max_size=3),
        st.text(max_size=6),
        st.lists(st.one_of(st.text(), st.none(), st.binary()), max_size=3),
        st.sampled_from([None, 3, b"ACGT", bytearray(b"AC"), {"ACGT"}, np.array(["AC", "GT"])]),
        st.just("RYSWKM"), st.just("ACG\ud800"), st.just("ACGT\n"), st.just("\u0391CGT"),
    ),
    wide=st.booleans(),
)  # fmt: skip
def test_one_hot_encode(sequences, wide):
    """Also where the caller has torch compute in float64."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if wide else default)
    try:
        with unchanged(None):
            one_hot = outcome(
                "tism.one_hot_encode", lambda: tism.one_hot_encode(sequences), "sequences"
            )
    finally:
        torch.set_default_dtype(default)
    rows = [sequences] if isinstance(sequences, str) else sequences
    known = (
        not isinstance(rows, bytes | bytearray | int | None)
        and len(rows)
        and all(isinstance(s, str) and s and not set(s) - set("ACGTNacgtn") for s in rows)
    )
    assert isinstance(one_hot, Refused) != bool(known and len({len(s) for s in rows}) == 1)
    if isinstance(one_hot, Refused):
        return
    assert one_hot.dtype == torch.float32
    for row, letters in enumerate(rows):
        for place, letter in enumerate(letters.upper()):
            assert one_hot[row, :, place].tolist() == [float(base == letter) for base in "ACGT"]
    assert decode(one_hot) == [str(s).upper() for s in rows]
    complement = tism.reverse_complement(one_hot)
    turned = str.maketrans("ACGT", "TGCA")
    assert decode(complement) == [str(s).upper().translate(turned)[::-1] for s in rows]


@inputs(quick=30, nightly=800)
@given(data=st.data())
def test_validate_one_hot_and_reverse_complement(data):
    one_hot = data.draw(one_hots(data.draw(LENGTHS)))
    if data.draw(st.booleans()):
        given_as, plain = represented(data.draw, one_hot)
        with unchanged(None):
            found = outcome("tism.sequence.validate_one_hot", lambda: validate_one_hot(given_as))
            turned = outcome("tism.reverse_complement", lambda: tism.reverse_complement(given_as))
        turned = turned.detach()
        assert torch.equal(found.double(), plain)
        for row, base, place in np.ndindex(*plain.shape):
            assert float(turned[row, base, place]) == plain[row, 3 - base, -1 - place]
    else:
        bad = DAMAGE[data.draw(st.sampled_from(sorted(DAMAGE)))](one_hot)
        name = "tism.sequence.validate_one_hot"
        assert isinstance(outcome(name, lambda: validate_one_hot(bad), "one_hot"), Refused)
        outcome("tism.reverse_complement", lambda: tism.reverse_complement(bad), "scores")


# --- networks and metrics ---------------------------------------------------------------------


@inputs(quick=20, nightly=500)
@given(data=st.data())
def test_build_model(data):
    sizes = {"length": st.integers(1, 30), "n_tasks": st.integers(1, 3), "width": st.integers(1, 4)}
    good = {
        **sizes, "pool": st.integers(1, 5), "seed": st.integers(0, 2**64 - 1),
        "variant": st.sampled_from(sorted(tism.model.VARIANTS)),
    }  # fmt: skip
    number = st.one_of(NO_INT, st.integers(max_value=0))
    bad = {
        **dict.fromkeys(("length", "n_tasks", "width", "pool"), number),
        "seed": st.one_of(NO_INT, st.integers(2**64)),
        "variant": st.sampled_from(["", "Baseline", None, 3, ["baseline"], {}, np.array(["a"])]),
    }
    spoilt = data.draw(st.sampled_from([None, None, *bad]))
    chosen = {name: data.draw(bad[name] if name == spoilt else good[name]) for name in good}
    with unchanged(None):
        model = outcome("tism.build_model", lambda: tism.build_model(**chosen), spoilt or "-")
        assert isinstance(model, Refused) == (spoilt is not None)
        if spoilt is None:
            with torch.no_grad():
                x = torch.zeros(2, 4, chosen["length"])
                output = model.eval()(x)
                again = tism.build_model(**chosen).eval()(x)
            assert output.shape == (2, chosen["n_tasks"])
            assert torch.equal(output, again)


@inputs(quick=25, nightly=700)
@given(data=st.data())
def test_pearson(data):
    shape = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    values = st.floats(-1e3, 1e3, allow_subnormal=False)
    n = int(np.prod(shape))
    a, b = (np.reshape(data.draw(st.lists(values, min_size=n, max_size=n)), shape) for _ in "ab")
    dim = data.draw(st.integers(-4, 4))
    junk = data.draw(st.one_of(st.none(), NO_NUMBERS))
    arguments = (a, b, dim) if junk is None else (a, junk, dim)
    r = outcome("tism.correlations.pearson", lambda: pearson(*arguments), "dim", "a ", "b ")
    if isinstance(r, Refused):
        assert junk is not None or not -len(shape) <= dim < len(shape) or not shape[dim]
        return
    a, b = (np.moveaxis(x, dim, -1).reshape(-1, shape[dim]) for x in (a, b))
    for found, x, y in zip(r.flatten().tolist(), a, b, strict=True):
        smallest = min(np.ptp(x), np.ptp(y))
        assert math.isnan(found) == bool(smallest == 0) or 0 < smallest < 1e-150
        if np.ptp(x) > 1e-3 and np.ptp(y) > 1e-3:
            assert found == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)


@inputs(quick=10, nightly=200)
@given(case=score_maps(), other=score_maps())
def test_profile_correlation(case, other):
    first, second = case[1], other[1]
    r = outcome(
        "tism.correlations.profile_correlation",
        lambda: profile_correlation(first, second),
        "shapes",
    )
    assert isinstance(r, Refused) == (first.shape != second.shape)
    if not isinstance(r, Refused):
        assert r.shape == first.shape[:2]
