"""Extra inputs, low precision and stretches; warnings instead of wrong numbers; kept state."""

from __future__ import annotations

import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from threading import Barrier
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tism
from tism.double_mutants import interaction_map
from tism.engine.replay import WindowedModel
from tism.engine.window import Untraceable
from tism.predictor import (
    CostWarning,
    NotFiniteWarning,
    RoundingWarning,
    UnstableModelWarning,
)

LENGTH = 20
FUNCTIONS = {
    "predict": tism.predict,
    "input_gradient": tism.input_gradient,
    "tism": tism.tism,
    "ism, full": lambda *a, **k: tism.ism(*a, engine="full", **k),
    "ism, windowed": lambda *a, **k: tism.ism(*a, engine="windowed", **k),
    "layerwise_tism": lambda *a, **k: tism.layerwise_tism(*a, depth=1, **k),
    "budgeted_ism": lambda *a, **k: tism.budgeted_ism(*a, m=9, **k).estimate,
    "reliability": lambda *a, **k: tism.reliability(*a, m=12, **k).r,
}
STRETCHED = {name: f for name, f in FUNCTIONS.items() if name != "predict"}


class Controlled(nn.Module):
    """Reads a sequence, a control track, a vector of conditions and a word."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(6, 8, 5, padding=2)
        self.head = nn.Linear(8 + 3, 2)
        self.double()

    def forward(self, x: Tensor, track: Tensor, condition: Tensor, word: str) -> Tensor:
        assert word == "human"
        hidden = torch.tanh(self.conv(torch.cat([x, track], 1))).mean(2)
        return torch.sigmoid(self.head(torch.cat([hidden, condition], 1)))


@pytest.fixture
def args(sequences) -> tuple:
    generator = torch.Generator().manual_seed(7)
    track = torch.randn(len(sequences), 2, LENGTH, generator=generator)
    return track, torch.randn(1, 3, generator=generator).double(), "human"


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore::tism.predictor.NotFiniteWarning")
def test_extra_inputs_go_with_their_sequences(name, sequences, args):
    function, model = FUNCTIONS[name], Controlled()
    together = function(model, sequences, args=args)
    for row in range(len(sequences)):
        alone = function(model, sequences[[row]], args=(args[0][[row]], *args[1:]))
        if name != "reliability":  # whose draw depends on the row
            torch.testing.assert_close(together[[row]], alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_extra_inputs_of_another_number_of_rows_are_refused(name, sequences, args):
    with pytest.raises(
        ValueError, match=r"args\[0\] must have one row a sequence \(5\) or one for"
    ):
        FUNCTIONS[name](Controlled(), sequences, args=(args[0][:2], *args[1:]))


def test_extra_inputs_may_be_arrays_in_any_order_of_memory_and_bytes(sequences, args):
    expected, track = tism.tism(Controlled(), sequences, args=args), args[0].numpy()
    for array in (track[::-1].copy()[::-1], track.astype(">f4"), np.asfortranarray(track)):
        assert torch.equal(tism.tism(Controlled(), sequences, args=(array, *args[1:])), expected)
    with pytest.raises(TypeError, match=r"args\[0\] must be a numeric tensor or array, got dtype"):
        tism.tism(Controlled(), sequences, args=(np.array(["human"] * 5), *args[1:]))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore::tism.predictor.NotFiniteWarning")
def test_a_model_that_changes_its_inputs_does_not_change_the_callers(name, sequences, args):
    model, changes = Controlled(), Controlled()
    args = (args[0].double(), *args[1:])
    kept = args[0].clone()
    changes.forward = lambda x, track, *rest: Controlled.forward(changes, x, track.exp_(), *rest)
    expected = FUNCTIONS[name](model, sequences, args=(args[0].exp(), *args[1:]))

    found = FUNCTIONS[name](changes, sequences, args=args)

    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(args[0], kept)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_hidden_in_a_collection_are_refused(name, sequences, args):
    for hidden in ([args[0]], {"track": args[0]}, (None, args[0].numpy())):
        with pytest.raises(TypeError, match=r"args\[1\] must be a tensor or hold none, got a \w+"):
            FUNCTIONS[name](Controlled(), sequences, args=("human", hidden))


def test_double_mutants_take_extra_inputs(sequences, args):
    bases = torch.zeros(len(sequences), LENGTH, dtype=torch.long)
    found = interaction_map(Controlled(), sequences, bases, args=args)
    one = interaction_map(
        Controlled(), sequences[[2]], bases[[2]], args=(args[0][[2]], *args[1:]), engine="full"
    )
    torch.testing.assert_close(found[[2]], one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", STRETCHED)
@pytest.mark.parametrize(("start", "stop"), [(0, 7), (5, -4), (-6, None)])
def test_a_stretch_is_that_part_of_the_whole(name, net, sequences, start, stop):
    function = STRETCHED[name]
    part = function(net, sequences, start=start, stop=stop)
    if name in ("budgeted_ism", "reliability"):  # which spend their substitutions on the stretch
        assert part.isfinite().all()
        return
    whole = function(net, sequences)
    torch.testing.assert_close(part, whole[..., start:stop], rtol=1e-9, atol=1e-12)


def test_all_substitutions_of_a_stretch_are_ism(net, sequences):
    exact = tism.ism(net, sequences, start=3, stop=10)
    result = tism.budgeted_ism(net, sequences, m=22, start=3, stop=10)  # one position is N
    torch.testing.assert_close(result.estimate, exact, rtol=1e-9, atol=1e-12)
    few = tism.budgeted_ism(net, sequences, m=5, start=3, stop=10)
    known = few.exact[:, None].expand_as(exact)
    torch.testing.assert_close(few.estimate[known], exact[known], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", STRETCHED)
def test_a_stretch_outside_the_sequence_is_refused(name, net, sequences):
    with pytest.raises(ValueError, match="start=20, stop=None selects no position of a sequence"):
        STRETCHED[name](net, sequences, start=20)


@pytest.mark.parametrize("name", ["predict", "input_gradient", "tism", "ism, full"])
def test_low_precision_is_near_and_returned_in_float32(name, net, sequences):
    net, sequences = net.float(), sequences.float()
    exact = FUNCTIONS[name](net, sequences)
    low = FUNCTIONS[name](net, sequences, autocast=torch.bfloat16)
    assert low.dtype == torch.float32
    assert not torch.equal(low, exact)
    assert (low - exact).abs().max() < 0.1 * exact.abs().max()


def test_autocast_is_a_low_precision_and_run_in_full(net, sequences):
    with pytest.raises(ValueError, match="low precision would round away"):
        tism.ism(net, sequences, engine="windowed", autocast=torch.bfloat16)
    with pytest.raises(ValueError, match=r"autocast must be None, torch\.bfloat16 or .*float64"):
        tism.tism(net, sequences, autocast=torch.float64)


AUTOCAST = ["predict", "input_gradient", "tism", "ism, full", "budgeted_ism", "reliability"]


@pytest.mark.parametrize("name", AUTOCAST)
def test_the_autocast_of_the_caller_is_that_of_the_argument(name, net, sequences):
    net, sequences = net.float(), sequences.float()
    expected = FUNCTIONS[name](net, sequences, autocast=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(FUNCTIONS[name](net, sequences), expected)
        with pytest.raises(ValueError, match="low precision would round away"):
            tism.ism(net, sequences, engine="windowed")


@pytest.mark.parametrize(
    "lower", [lambda net: (net, {"autocast": torch.bfloat16}), lambda net: (net.bfloat16(), {})]
)
@pytest.mark.parametrize("far", [0, 100])
def test_effects_that_low_precision_rounds_away_are_warned_of(lower, far, net, sequences):
    net = net.float()
    with torch.no_grad():
        net.head.bias.add_(far)
    model, options = lower(net)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tism.ism(model, sequences.float(), **options)
        tism.ism(deepcopy(net).float(), sequences.float())
    said = [str(w.message) for w in caught if w.category is RoundingWarning]
    assert len(said) == (far > 0)
    assert all("bfloat16 rounds predictions of task" in message for message in said)


class Mixed(nn.Module):
    """A scalar of double precision before weights of single precision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.temperature = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.conv = nn.Conv1d(4, 3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) / self.temperature).tanh().mean(2)


@pytest.mark.parametrize("name", ["predict", "tism", "ism, full", "ism, windowed"])
def test_a_scalar_does_not_decide_the_precision(name, sequences):
    low = FUNCTIONS[name](Mixed(), sequences)
    exact = FUNCTIONS[name](Mixed().double(), sequences)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), exact, rtol=1e-4, atol=1e-6)


EVERY = FUNCTIONS | {
    "interactions": lambda *a, **k: tism.interactions(*a, position=5, base=1, **k),
    "interaction_map": lambda *a, **k: interaction_map(*a, bases=1, **k),
}


@contextmanager
def default(setting):
    """Another dtype or device in which torch makes tensors."""
    before = torch.get_default_dtype()
    with torch.device("meta") if setting == "meta" else nullcontext():
        torch.set_default_dtype(before if setting == "meta" else setting)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@pytest.mark.parametrize("setting", [torch.float64, torch.float16, "meta"])
@pytest.mark.parametrize("name", EVERY)
def test_defaults_of_torch_do_not_matter(name, setting, net, sequences):
    net, sequences = net.float(), sequences.float()
    expected = EVERY[name](net, sequences)
    with default(setting):
        found = EVERY[name](net, sequences.numpy())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


class Unstable(nn.Module):
    """A convolution whose output is noisy or centred within its batch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.kind, self.conv = kind, nn.Conv1d(4, 3, 5).double()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(x).square()
        if self.kind == "noisy force":
            (hidden,) = torch.autograd.grad(hidden.sum(), x, create_graph=True)
        if "nois" in self.kind:
            hidden = nn.functional.dropout(hidden, 0.5, training=True)
        out = hidden.mean(2)
        return out - out.mean(0) if self.kind == "batch" else out


class NearZero(nn.Module):
    """Predicts a small difference of large numbers, so that rounding exceeds its size by far."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv1d(4, 64, 9, padding=4), nn.Linear(64, 1)
        self.offset = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean(2) * 100) - self.offset


@pytest.mark.parametrize("n", [1, 9])
@pytest.mark.parametrize("engine", ["full", "windowed", "auto"])
def test_rounding_of_a_prediction_near_zero_is_no_fault(engine, n):
    index = torch.randint(4, (1, 600), generator=torch.Generator().manual_seed(1))
    one_hot = nn.functional.one_hot(index, 4).mT.float().repeat(n, 1, 1)
    model = NearZero()
    model.offset = tism.predict(model, one_hot[:1]).item()
    assert abs(tism.predict(model, one_hot)).max() < 1e-4
    scores = tism.ism(model, one_hot, engine=engine, start=290, stop=310)
    exact = tism.ism(model.double(), one_hot.double(), engine="full", start=290, stop=310)
    torch.testing.assert_close(scores.double(), exact, rtol=0, atol=1e-4)


def from_ones(model, one_hot, **options):
    """Budgeted ISM of a base that no gradient was needed for."""
    base = torch.ones(len(one_hot), model(one_hot).shape[1], 4, LENGTH)
    return tism.budgeted_ism(model, one_hot, m=9, base=base, **options).estimate


CHECKED = {name: f for name, f in EVERY.items() if name not in ("layerwise_tism", "ism, windowed")}
CHECKED["budgeted_ism, base"] = from_ones
WITHOUT_MUTANTS = "predict", "input_gradient", "tism"


@pytest.mark.parametrize("name", CHECKED)
def test_noise_and_batch_statistics_are_warned_of(name, bases):
    with pytest.warns(UnstableModelWarning, match="differ from call to call, here by .* noise"):
        CHECKED[name](Unstable("noise"), bases)
    with pytest.warns(UnstableModelWarning, match="depend on the other sequences of their batch"):
        CHECKED[name](Unstable("batch"), bases)


@pytest.mark.parametrize("name", [name for name in CHECKED if name not in WITHOUT_MUTANTS])
def test_batch_statistics_of_the_mutants_of_one_sequence_are_warned_of(name, bases):
    with pytest.warns(UnstableModelWarning, match="depend on the other sequences of their batch"):
        CHECKED[name](Unstable("batch"), bases[:1])


@pytest.mark.parametrize("name", ["input_gradient", "tism"])
def test_noise_of_a_model_that_needs_a_graph_to_run_is_warned_of(name, bases):
    with pytest.warns(UnstableModelWarning, match="differ from call to call, here by .* noise"):
        FUNCTIONS[name](Unstable("noisy force"), bases)


def test_the_error_of_one_sequence_alone_says_why_it_was_alone(bases):
    model = nn.Sequential(nn.Flatten(), nn.Linear(80, 2), Squeeze()).double()
    with pytest.raises(ValueError, match="must return shape") as caught:
        tism.tism(model, bases)
    assert any("one sequence was predicted alone" in note for note in caught.value.__notes__)


class Squeeze(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze()


@pytest.mark.parametrize("kind", ["noise", "batch"])
def test_the_default_engine_warns_and_windows_refuse(kind, bases):
    many = bases.repeat(40, 1, 1)
    with pytest.warns(UnstableModelWarning):
        tism.ism(Unstable(kind), many, batch_size=50)
    with pytest.raises(ValueError, match="cannot follow the model"):
        tism.ism(Unstable(kind), many, engine="windowed")


class Scaled(nn.Module):
    """Divides by the largest number of the batch, which only some mutants exceed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv1d(4, 16, 9).double(), nn.Conv1d(16, 2, 5).double()

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        return torch.relu(self.second(hidden / hidden.amax())).mean(2)


@pytest.mark.parametrize("seed", range(4))
def test_a_scale_of_the_batch_is_noticed_where_the_reference_is_not_changed(seed):
    index = torch.randint(4, (1, 200), generator=torch.Generator().manual_seed(seed))
    one_hot = nn.functional.one_hot(index, 4).transpose(1, 2).double()
    with pytest.warns(UnstableModelWarning, match="depend on the other sequences of their batch"):
        tism.ism(Scaled(), one_hot, batch_size=20)


class Switched(nn.Module):
    """A model whose behaviour changes after windows have been tried."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.kind = nn.Conv1d(4, 3, 5, padding=2).double(), "plain"

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.conv(x))
        if self.kind == "noise":
            hidden = hidden + torch.rand_like(hidden)
        return hidden.mean(2)


def test_a_later_call_notices_what_its_trial_could_not(bases):
    model, many = Switched(), bases.repeat(40, 1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tism.ism(model, many)
    interaction_map(model, many[:5], 0)
    model.kind = "noise"
    with pytest.warns(UnstableModelWarning):
        tism.ism(model, many)
    with pytest.warns(UnstableModelWarning):
        interaction_map(model, many[:5], 0)


def test_new_weights_need_no_new_trial_and_give_new_scores(net, bases):
    many = bases.repeat(20, 1, 1)
    first = tism.ism(net, many, engine="windowed")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    second = tism.ism(net, many, engine="windowed")
    torch.testing.assert_close(second, tism.ism(net, many, engine="full"), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(first, second)


class Logarithm(nn.Module):
    """Is not finite where a sequence has no A."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.sum((1, 2)), x[:, 0].sum(1).log()], 1)


NAMED = ["predict", "tism", "ism, full", "ism, windowed", "interactions", "interaction_map"]


@pytest.mark.parametrize("name", [*NAMED, "budgeted_ism", "budgeted_ism, base"])
def test_scores_that_are_not_finite_are_counted_and_named(name, bases):
    bases[1, :, :] = 0
    bases[1, 2] = 1
    with pytest.warns(
        NotFiniteWarning, match=r"scores are not finite, first those of one_hot\[1\]"
    ):
        (FUNCTIONS | CHECKED)[name](Logarithm(), bases)


class Kept(nn.Module):
    """Keeps its last features, and takes another way where they are large."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv1d(4, 16, 9), nn.Linear(16, 1)
        self.register_buffer("last", None)
        self.register_buffer("first", torch.ones(1))

    def forward(self, x: Tensor, limit: float = 1e6) -> Tensor:
        self.features = [torch.relu(self.conv(x))]
        self.last = self.first = self.features[0]
        if self.features[0].max() > limit:
            return self.head(self.features[0].clamp(max=1).mean(2))
        return self.head(self.features[0].mean(2))


@pytest.mark.parametrize("name", ["budgeted_ism", "reliability", "ism"])
def test_no_private_tensor_stays_in_a_model(name, sequences):
    model, more = Kept(), {} if name == "ism" else {"m": 12}
    getattr(tism, name)(model, sequences.repeat(1, 1, 20), engine="windowed", **more)
    assert type(model.features[0]) is type(model.last) is Tensor
    assert torch.equal(model.first, torch.ones(1))


@pytest.mark.parametrize("name", ["budgeted_ism", "reliability", "interaction_map"])
def test_what_windows_cannot_follow_later_runs_in_full(name, sequences, monkeypatch):
    run = {**FUNCTIONS, "interaction_map": interaction_map}[name]
    given = (torch.zeros(1, 200, dtype=torch.long),) if name == "interaction_map" else ()
    model, one_hot = Kept(), sequences[:1].repeat(1, 1, 10)
    expected = run(model, one_hot, *given, engine="full")
    fail = Untraceable("what the model runs depends on the batch")
    monkeypatch.setattr(WindowedModel, "effects", Mock(side_effect=fail))
    torch.testing.assert_close(run(model, one_hot, *given), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="depends on the batch"):
        run(model, one_hot, *given, engine="windowed")


@pytest.mark.parametrize("value", [3.5, np.float64(3.5), torch.tensor(3.5)])
def test_extra_inputs_may_be_single_numbers(value, sequences):
    first, second = (tism.ism(Kept(), sequences, args=given) for given in ((value,), ()))
    assert torch.equal(first, second)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_frozen_script_runs(sequences):
    layers = nn.Sequential(nn.Conv1d(4, 2, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten()).eval()
    frozen = torch.jit.freeze(torch.jit.script(layers))
    found = tism.ism(frozen, sequences.float())
    torch.testing.assert_close(found, tism.ism(layers, sequences.float()))


def test_lazy_layers_are_named(sequences):
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(ValueError, match="has lazy layers, whose weights"):
        tism.predict(model, sequences)


def test_buffers_come_back(bases):
    model = nn.Sequential(nn.Conv1d(4, 3, 3), nn.BatchNorm1d(3), nn.Flatten()).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model.train(), bases, check_trace=False)
    before = {name: buffer.clone() for name, buffer in traced.named_buffers()}
    with pytest.warns(UnstableModelWarning):  # its batch norm learns whatever the flags say
        tism.ism(traced, bases, engine="full")
    assert all(torch.equal(buffer, before[name]) for name, buffer in traced.named_buffers())


class Remembers(nn.Module):
    """Puts a new tensor in the place of a buffer at each call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(4, 3, 5).double()
        self.register_buffer("mean", torch.zeros(3).double())

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(x).tanh().mean(2)
        self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
        return hidden


@pytest.mark.parametrize("name", STRETCHED)
@pytest.mark.filterwarnings("ignore::tism.predictor.NotFiniteWarning")
def test_buffers_that_are_replaced_come_back(name, bases):
    model = Remembers()
    before = model.mean
    FUNCTIONS[name](model, bases)
    assert model.mean is before
    assert not before.any()


@pytest.mark.parametrize("size", [(5,), (3, 1), (2, 3)])
def test_buffers_that_change_their_shape_come_back(size, bases):
    model = nn.Sequential(nn.Flatten(), nn.Linear(80, 2)).double().train()
    model.register_buffer("cache", torch.ones(3))
    model.register_forward_hook(lambda *_: setattr(model.cache, "data", torch.zeros(size)))
    before = model.cache
    tism.predict(model, bases)
    assert model.cache is before
    assert torch.equal(before, torch.ones(3))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_sparse_buffers_come_back(layout, bases):
    class Graph(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.sparse.mm(self.near, x.flatten(1).T).T
            self.near = self.near * 1
            return super().forward(x)

    model = Graph(80, 2).double()
    model.register_buffer("near", torch.eye(80).double().roll(1).to_sparse(layout=layout))
    before = model.near
    tism.predict(model, bases)
    assert model.near is before
    assert torch.equal(before.to_dense(), torch.eye(80).double().roll(1))


class Slow(nn.Sequential):
    """Gives other threads the time to begin."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.01)
        return super().forward(x)


def test_threads_may_share_a_model(bases):
    model = Slow(nn.Flatten(), nn.Dropout(0.5), nn.Linear(80, 2)).double().train()
    expected, gate = tism.tism(model, bases), Barrier(3)

    def score(_: int) -> Tensor:
        gate.wait()
        return tism.tism(model, bases, batch_size=2)

    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(score, range(3)):
            torch.testing.assert_close(found, expected)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ["input_gradient", "tism"])
def test_gradients_of_all_of_many_tasks_are_announced(name, bases):
    model = nn.Sequential(nn.Flatten(), nn.Linear(80, 1200)).double()
    match = (
        r"takes all 1,200 tasks of the model: a backward pass for each, in all about 1,201 forward "
        r"passes a sequence, where exact ISM takes at most 61 .* scores of 0\.0018 GB .* by tasks="
    )
    with pytest.warns(CostWarning, match=match):
        FUNCTIONS[name](model, bases)


@pytest.mark.parametrize("name", ["ism, full", "ism, windowed"])
def test_the_memory_of_all_of_many_tasks_is_announced(name, bases, monkeypatch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(80, 1200)).double()
    FUNCTIONS[name](model, bases)
    monkeypatch.setattr("tism.predictor._MUCH_MEMORY", 2**20)
    with pytest.warns(
        CostWarning, match=r"1,200 tasks of the model: scores of 0\.0018 GB in memory"
    ):
        FUNCTIONS[name](model, bases)
    FUNCTIONS[name](model, bases, slice(None))  # which chose them


def test_an_output_function_without_a_hash_is_as_good_as_others(net, bases):
    class Output:
        __hash__ = None

        def __call__(self, y: Tensor) -> Tensor:
            return y[:, :2]

    many = bases.repeat(40, 1, 1)
    found = tism.ism(net, many, output_fn=Output())
    torch.testing.assert_close(found, tism.ism(net, many, [0, 1]), rtol=0, atol=1e-12)


class Lazy(nn.Module):
    """Builds a part at its first call, so that the calls that follow are numbered otherwise."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.table = nn.Conv1d(4, 3, 5, padding=2).double(), None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.linspace(0, 1, x.shape[2], dtype=x.dtype).cos().square()
        return torch.relu(torch.tanh(self.conv(x)) * self.table).mean(2)


def test_another_function_at_the_call_of_a_stage_is_refused(bases):
    with pytest.raises(ValueError, match="building a part at its first call"):
        tism.layerwise_tism(Lazy(), bases, depth="tanh")


@pytest.mark.parametrize(
    ("error", "hinted"),
    [(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), True), (KeyError("human"), False)],
)
def test_the_length_is_blamed_only_where_it_may_be_the_reason(error, hinted, bases):
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise error

    with pytest.raises(ValueError, match="model raised") as caught:
        tism.predict(Fails(), bases)
    assert ("check the length" in str(caught.value)) == hinted
