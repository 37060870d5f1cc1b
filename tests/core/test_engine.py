"""Windowed ISM against the full engine, on networks of many kinds and on drawn ones."""

from __future__ import annotations

import logging
import re
import warnings

import pytest
import torch
from conftest import ready
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tism import build_model, ism
from tism.engine import choice
from tism.engine.replay import WindowedModel
from tism.model import VARIANTS
from tism.predictor import Job, ModelError, UnstableModelWarning, evaluating

LENGTH = 44
# the other variants change the training only
NETWORKS = [name for name, v in VARIANTS.items() if name == "baseline" or v.model]


def draw_sequences(n: int = 2, length: int = LENGTH, seed: int = 0) -> Tensor:
    """(n, 4, length) float64; N in the first sequence, at its first position too."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(4, (n, length), generator=generator)
    one_hot = F.one_hot(index, 4).transpose(1, 2).double().contiguous()
    one_hot[0, :, [0, length // 3]] = 0
    return one_hot


def worst(model: nn.Module, sequences: Tensor, **arguments) -> float:
    """Largest difference between the engines over the largest effect."""
    full = ism(model, sequences, engine="full", **arguments)
    windowed = ism(model, sequences, engine="windowed", **arguments)
    assert full.abs().max() > 1e-6  # there are effects to agree on
    return float((windowed - full).abs().max() / full.abs().max())


class Strided(nn.Module):
    """Pooling written with slices and blocks, a scale of each position, no dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 3, 5, padding="same")
        self.scale = nn.Parameter(torch.rand(LENGTH))
        self.last = nn.Conv1d(3, 2, 3, stride=3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x) * self.scale
        x = torch.maximum(x[:, :, ::2], x[..., 1::2])
        x = F.pad(x, (1, 2), mode="replicate")
        x = x.unflatten(2, (-1, 5)).pow(2).mean(3)
        return self.last(F.pad(x, (1, 0))).sum((2,))


class Recurrent(nn.Module):
    """Positions mixed at once: a GRU on the sequence itself."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x.permute(2, 0, 1))[0][-1])


def watch_scouts(monkeypatch) -> list:
    """Take every sequence for long; returns the scouts' recordings."""
    scouts: list = []
    scouted = choice.scouted
    monkeypatch.setattr(choice, "_LONG", 0)
    monkeypatch.setattr(choice, "scouted", lambda *a: scouts.append(scouted(*a)) or scouts[-1])
    return scouts


def test_of_a_long_sequence_only_what_a_stretch_reads_is_kept():
    layers = [nn.Conv1d(4, 8, 9, padding=4), nn.GELU(), nn.MaxPool1d(4)]
    for _ in range(3):
        layers += [nn.Conv1d(8, 8, 5, padding=2), nn.BatchNorm1d(8), nn.GELU(), nn.MaxPool1d(4)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2)).eval()
    one_hot = draw_sequences(1, 2**14).float()
    model(one_hot)
    with evaluating(model, n=1) as predict, torch.no_grad():
        plans = [
            choice.plan_windows("windowed", Job(predict, one_hot, None, range(8000, stop)), 300)
            for stop in (8100, 14_000)
        ]
        stretch, whole = (plan.windows(predict, one_hot).recording.nbytes for plan in plans)
    assert stretch < 0.02 * whole


def test_a_run_without_data_leaves_nothing_in_the_model(monkeypatch):
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv1d(4, 2, 3, padding=1), None
            self.register_buffer("seen", torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.conv(x).relu()
            self.seen = self.last[0].mean(1)
            return self.last.mean(2)

    assert worst(Remembering(), draw_sequences().float(), start=20, stop=25) < 1e-5
    scouts = watch_scouts(monkeypatch)
    model = Remembering()
    ism(model, draw_sequences().float(), start=20, stop=25, engine="windowed")
    assert scouts[0] is not None
    assert all(type(tensor) is Tensor for tensor in (model.last, model.seen))


def test_a_model_that_needs_data_keeps_everything(monkeypatch):
    class Guarded(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if float(x.sum()) < 0:
                raise ValueError
            return super().forward(x)

    scouts = watch_scouts(monkeypatch)
    model = Guarded(nn.Conv1d(4, 2, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    assert worst(model.double(), draw_sequences(), start=20, stop=25) < 1e-10
    assert scouts[0] is None


@pytest.mark.parametrize("pool", [2, 3, 5])
@pytest.mark.parametrize("variant", NETWORKS)
def test_windowed_is_full_on_every_variant(variant, pool):
    length = LENGTH + pool - 2
    model = ready(build_model(variant, length=length, n_tasks=3, width=6, pool=pool, seed=1))
    assert worst(model, draw_sequences(length=length)) < 1e-9


@st.composite
def layers(draw):
    """Modules from (n, 4, length) to (n, 3), of anything that a window passes through."""
    channels, length, modules = 4, draw(st.integers(9, 40)), []
    first = length
    for _ in range(draw(st.integers(1, 4))):
        groups = draw(st.sampled_from([1, 1, 2])) if channels % 2 == 0 else 1
        out = groups * draw(st.integers(1, 3))
        kernel, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 3))
        stride, padding = draw(st.integers(1, 3)), draw(st.sampled_from([0, 1, 2, 4, "same"]))
        stride = 1 if padding == "same" else stride
        margin = dilation * (kernel - 1) - (0 if padding == "same" else 2 * padding)
        if padding != "same" and length <= margin:
            continue
        modules.append(nn.Conv1d(channels, out, kernel, stride, padding, dilation, groups=groups))
        length = length if padding == "same" else (length - margin - 1) // stride + 1
        channels = out
        ends = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
        pads = [nn.ConstantPad1d(ends, 0.5), nn.ReplicationPad1d(ends), nn.CircularPad1d(ends)]
        if max(ends) < length and draw(st.booleans()):
            modules.append(draw(st.sampled_from(pads)))
            length += sum(ends)
        extra = draw(
            st.sampled_from(
                ["norm", "relu", "gelu", "dropout", "max", "mean", "up", "more", "none"]
            )
        )
        size, step = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        if extra in ("max", "mean") and length >= size:
            ceil = draw(st.booleans())
            padding = draw(st.integers(0, size // 2))
            pool = nn.MaxPool1d if extra == "max" else nn.AvgPool1d
            modules.append(pool(size, step, padding, ceil_mode=ceil))
            length = modules[-1](torch.zeros(1, 1, length)).shape[2]
        kinds = {
            "norm": nn.BatchNorm1d(channels),
            "relu": nn.ReLU(),
            "gelu": nn.GELU(),
            "up": nn.Upsample(scale_factor=step),
            "more": nn.ConvTranspose1d(
                channels, channels, size, step, size // 2, dilation=dilation
            ),
        }
        modules.append(kinds.get(extra, nn.Dropout(0.5)))
        length = modules[-1].eval()(torch.zeros(1, channels, length)).shape[2]
    modules += draw(
        st.sampled_from(
            [
                [nn.Flatten(), nn.Linear(channels * length, 3)],
                [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, 3)],
                [nn.Conv1d(channels, 3, 1), nn.AdaptiveMaxPool1d(1), nn.Flatten()],
            ]
        )
    )
    return nn.Sequential(*modules), first


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(layers(), st.integers(0, 10**6))
def test_windowed_is_full_on_drawn_networks(network, seed):
    model, length = network
    model, sequences = ready(model, seed), draw_sequences(length=length, seed=seed)
    full = ism(model, sequences, engine="full", tasks=1)
    windowed = ism(model, sequences, engine="windowed", tasks=1, batch_size=17)
    assert (windowed - full).abs().max() <= 1e-9 * full.abs().max() + 1e-15


@pytest.mark.parametrize("network", ["Strided", "baseline", "cnn0"])
def test_float32_rounds_no_worse_than_the_full_engine(network):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        settings = {"length": LENGTH, "n_tasks": 3, "width": 8, "seed": 2}
        built = Strided() if network == "Strided" else build_model(network, **settings)
        model, sequences = ready(built), draw_sequences()
    exact = ism(model, sequences, engine="full")
    model = model.float()
    full, windowed = (
        (ism(model, sequences, engine=engine) - exact).abs().max()
        for engine in ("full", "windowed")
    )
    assert windowed.dtype == torch.float64
    assert 0 < windowed < 2 * full


def network() -> nn.Module:
    """Wide and deep enough for windows to pay at 300 bp; float64, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return ready(build_model("baseline", length=300, n_tasks=3, width=24, seed=4))


@pytest.fixture(scope="module")
def long():
    """Three sequences of 300 bp and their exact scores."""
    sequences = draw_sequences(3, 300)
    return sequences, ism(network(), sequences, engine="full")


def test_entries_at_the_reference_are_exactly_zero_and_no_others(long):
    sequences, _ = long
    scores = ism(network(), sequences, engine="windowed")
    at_reference = (sequences == 1)[:, None].expand_as(scores)
    assert (scores[at_reference] == 0).all()
    assert (scores[~at_reference] != 0).all()


@pytest.mark.parametrize(
    ("batch_size", "start", "stop"),
    [(50, 0, None), (1, 100, 105), (10_000, -3, None), (None, 0, 2), (None, 148, 149)],
)
def test_batch_size_and_positions(long, batch_size, start, stop):
    sequences, full = long
    settings = {"start": start, "stop": stop, "batch_size": batch_size}
    scores = ism(network(), sequences, [2, 0], engine="windowed", **settings)
    torch.testing.assert_close(scores, full[:, [2, 0], :, start:stop], rtol=1e-9, atol=1e-12)


@pytest.fixture
def windows(monkeypatch):
    """How many references each `WindowedModel` held, and the rows of each batch of theirs."""
    from tism.engine import replay as windowed

    held, rows = [], []
    init, changes = windowed.WindowedModel.__init__, windowed.WindowedModel.changes

    def counted(self, predict, sequences, *rest):
        held.append(len(sequences))
        init(self, predict, sequences, *rest)

    def batched(self, row, *rest):
        rows.append(len(row))
        return changes(self, row, *rest)

    monkeypatch.setattr(windowed.WindowedModel, "__init__", counted)
    monkeypatch.setattr(windowed.WindowedModel, "changes", batched)
    return held, rows


def test_auto_takes_windows_where_they_pay(long, windows):
    sequences, full = long
    scores = ism(network(), sequences)
    held, rows = windows
    assert held == [1, 3]
    assert sum(rows) > full[:, 0].count_nonzero()
    torch.testing.assert_close(scores, full, rtol=1e-9, atol=1e-12)


def test_working_memory_does_not_grow_with_the_sequences(long, windows, monkeypatch):
    sequences, _ = long
    held, rows = windows
    monkeypatch.setattr(choice, "_KEPT_BYTES", 2**20)
    largest = []
    for copies in (1, 3):
        held.clear(), rows.clear()
        few = {"start": 100, "stop": 110, "batch_size": 16}
        ism(network(), sequences.repeat(copies, 1, 1), engine="windowed", **few)
        largest.append((max(held), max(rows)))
    assert largest == [(1, 16), (1, 16)]


def test_windows_compute_a_fraction_of_the_products():

    sequences = draw_sequences(1, 300)
    row, position = torch.zeros(12).long().numpy(), torch.arange(140, 152).numpy()
    with evaluating(network()) as predict, torch.no_grad():
        windows = WindowedModel(predict, sequences, {})
        with choice.Work() as windowed:
            windows.effects(row, position, row)
        with choice.Work() as full:
            predict(sequences.repeat(12, 1, 1))
    assert full.products > 10 * windowed.products


class Apply(nn.Module):
    """A model made of a function of its convolution's output."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.function, self.calls = nn.Conv1d(4, 5, 5), function, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.function(self, self.conv(x)).mean(2)


def changes_a_view(model: Apply, x: Tensor) -> Tensor:
    part = x[:, :, 3:5]
    part += 1
    return x


FAILURES = {
    "changes a view": (changes_a_view, r"mean \(call 3\): it reads a tensor after a view of its"),
    "counts rows": (lambda _, x: sum(x for _ in range(len(x))), "depends on the batch"),
    "random": (lambda _, x: x + torch.rand_like(x), r"rand_like .*disagree"),
    "remembers": (lambda model, x: x * model.calls, r"mul \(call 1\): .*disagree"),
    "mixes rows": (lambda _, x: x - x.mean(0), r"sub .*disagree"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_what_cannot_be_followed_is_named_and_auto_runs_in_full(failure, caplog):
    function, message = FAILURES[failure]
    sequences = draw_sequences(2, 30)

    with pytest.raises(ValueError, match=f'engine="windowed" cannot follow the model: .*{message}'):
        ism(Apply(function).double(), sequences, engine="windowed")

    with caplog.at_level(logging.INFO, logger="tism.exact"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UnstableModelWarning)
        for _ in range(2):
            ism(Apply(function).double(), sequences.repeat(9, 1, 1), batch_size=50)
    (record,) = caplog.records
    assert record.getMessage().startswith('engine="auto" runs Apply in full: ')


def test_auto_runs_in_full_where_windows_would_be_slower(windows, caplog):
    model, sequences = Recurrent().double(), draw_sequences(10)
    with caplog.at_level(logging.INFO, logger="tism.exact"):
        scores = ism(model, sequences)
    assert windows[0] == [1]  # the trial
    assert re.search(r"would take .* as long: permute \(call 0\) and what .* 100% of", caplog.text)
    assert torch.equal(scores, ism(model, sequences, engine="full"))


def test_auto_says_what_needs_all_positions_though_windows_pay(caplog):
    layers = [nn.Conv1d(4 if i == 0 else 16, 16, 9, padding=4) for i in range(6)]
    model, one_hot = nn.Sequential(*layers), draw_sequences(2, 400).float()
    with caplog.at_level(logging.INFO, logger="tism.exact"):
        for _ in range(2):
            ism(model, one_hot, start=100, stop=300, output_fn=lambda y: y.cumsum(2).mean(2))
    (record,) = caplog.records
    said = r"on windows; cumsum \(call 6\) and what follows, (\d+)% of the work"
    share = re.search(said, record.getMessage())
    assert 0 < int(share[1]) < 60


def test_windows_run_no_substitution_twice(monkeypatch):
    rows = []
    run = WindowedModel.run
    monkeypatch.setattr(
        WindowedModel,
        "run",
        lambda self, row, *a, **k: rows.append(len(row)) or run(self, row, *a, **k),
    )
    model, one_hot = build_model("cnn0", length=30, n_tasks=2, width=4), draw_sequences(2, 30)
    ism(model, one_hot.float(), engine="windowed", batch_size=1)
    assert rows[-91:] == [2] * 91  # 28 positions and two N of two sequences


def test_activations_that_take_too_much_memory_are_not_kept(monkeypatch):
    from tism.engine import replay as windowed

    monkeypatch.setattr(windowed, "MOST_KEPT_BYTES", 1000)
    with pytest.raises(ValueError, match="activations take more than 0 GB"):
        ism(Strided().double(), draw_sequences(), engine="windowed")


def test_a_mistaken_rule_is_found_by_the_trial(monkeypatch):
    from tism.engine.rules import RULES, by_column

    def wrong(call, *args, **kwargs):
        call.func = torch.tanh
        return by_column(call, args, kwargs)

    monkeypatch.setitem(RULES, "sigmoid", wrong)
    model = Apply(lambda _, x: torch.sigmoid(x) + 1).double()
    with pytest.raises(
        ValueError, match=r"sigmoid \(call 1\): windows and whole activations disag"
    ):
        ism(model, draw_sequences(), engine="windowed")


def test_errors_of_the_model_are_its_own():
    def broken(_, x):
        raise KeyError("of the model")

    for engine in ("windowed", "auto"):
        with pytest.raises(ModelError, match=r"model raised KeyError .*'of the model'"):
            ism(Apply(broken).double(), draw_sequences(20), engine=engine)


def test_out_of_memory_halves_the_batch(long, monkeypatch):
    from tism.engine import replay as windowed

    sequences, full = long
    place, asked = windowed.Replay.__init__, []

    def hungry(self, recording, batch, *rest):
        asked.append(len(batch.row))
        if len(batch.row) > 20:
            raise MemoryError
        place(self, recording, batch, *rest)

    monkeypatch.setattr(windowed.Replay, "__init__", hungry)
    scores = ism(network(), sequences, stop=20, engine="windowed", batch_size=64)

    torch.testing.assert_close(scores, full[..., :20], rtol=1e-9, atol=1e-12)
    assert asked.index(16) > asked.index(64)
    assert max(asked[asked.index(16) :]) == 16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_numbers_give_float32_scores(dtype):
    model = ready(Apply(lambda _, x: x)).to(dtype)
    scores = ism(model, draw_sequences(), engine="windowed")
    assert scores.dtype == torch.float32
    exact = ism(model.double(), draw_sequences(), engine="full")
    assert (scores - exact).abs().max() < 0.1 * exact.abs().max()


def test_a_compiled_model_runs_on_windows_without_being_compiled_for_them(net, bases):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    model, expected = torch.compile(net, backend=backend), ism(net, bases, engine="full")

    scores = ism(model, bases, engine="windowed")

    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-12)
    assert not compiled
    torch.testing.assert_close(ism(model, bases, engine="full"), expected, rtol=1e-9, atol=1e-12)
    assert compiled
