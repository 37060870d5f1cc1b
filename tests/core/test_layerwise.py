"""Layer-wise TISM against the chain rule done by brute force."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from conftest import ready
from torch import Tensor, nn
from torch.nn import functional as F

from tism import build_model, depths, ism, layerwise_tism, tism
from tism.engine.replay import Calls
from tism.model import VARIANTS
from tism.predictor import UnstableModelWarning

LENGTH = 24
# the other variants change the training only
NETWORKS = [name for name, v in VARIANTS.items() if name == "baseline" or v.model]


class Cut(Calls):
    """Takes the results of some calls out of a run, or puts other tensors in their place."""

    def __init__(self, calls: Sequence[int], instead: Sequence[Tensor] = ()):
        super().__init__()
        self.calls, self.instead, self.taken = calls, iter(instead), []

    def called(self, func, args, kwargs):
        result = func(*args, **kwargs)
        made = args[0] if self.name == "__setitem__" else result
        if self.at in self.calls:
            self.taken.append(made.clone())
            instead = next(self.instead, None)
            if instead is not None:
                return instead if made is result else made.copy_(instead)
        return result


def by_brute_force(model: nn.Module, sequence: Tensor, calls: Sequence[int]) -> Tensor:
    """(n_tasks, 4, length): Jacobian of the rest of the model times the change of some results.

    sequence : (1, 4, length)
    """

    def activations(x: Tensor) -> list[Tensor]:
        with torch.no_grad(), Cut(calls) as cut:
            model(x)
        return cut.taken

    def rest(*hidden: Tensor) -> Tensor:
        with Cut(calls, [h.clone() for h in hidden]):
            return model(sequence)[0]

    hidden = activations(sequence)
    slopes = torch.autograd.functional.jacobian(rest, tuple(hidden))  # (n_tasks, *shape) of each
    scores = torch.zeros(len(slopes[0]), 4, sequence.shape[2], dtype=sequence.dtype)
    base, position = (sequence[0] == 0).nonzero(as_tuple=True)
    mutants = sequence.repeat(len(base), 1, 1)
    mutants[range(len(base)), :, position] = torch.eye(4, dtype=sequence.dtype)[base]
    for slope, changed, h in zip(slopes, activations(mutants), hidden, strict=True):
        change = (changed - h).reshape(len(base), -1)
        scores[:, base, position] += slope.reshape(len(slope), -1) @ change.mT
    return scores


def draw(n: int = 2, length: int = LENGTH) -> Tensor:
    """(n, 4, length) float64, an N in the first sequence."""
    index = torch.randint(4, (n, length), generator=torch.Generator().manual_seed(5))
    one_hot = F.one_hot(index, 4).transpose(1, 2).double().contiguous()
    one_hot[0, :, 10] = 0
    return one_hot


def variant(name: str = "baseline", **settings) -> nn.Module:
    return ready(build_model(name, length=LENGTH, n_tasks=2, width=5, seed=1, **settings)).eval()


class Dense(nn.Module):
    """Several tensors live at once: a concatenation of all earlier results, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 3, 5, padding=2), nn.Conv1d(7, 3, 5, padding=2)
        self.third, self.head = nn.Conv1d(10, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        one = torch.cat([x, torch.tanh(self.first(x))], 1)
        two = torch.cat([one, F.silu(self.second(one))], 1)
        unused = two.exp()  # noqa: F841
        return self.head(F.relu(self.third(two), inplace=True).amax(2))


class Skips(nn.Module):
    """Residual blocks whose results are also added up, in place, along a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 3, 5, padding=2)
        self.blocks = nn.ModuleList(Residual() for _ in range(5))
        self.skips = nn.ModuleList(nn.Conv1d(3, 3, 1) for _ in range(5))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        total = torch.zeros_like(x)
        for block, skip in zip(self.blocks, self.skips, strict=True):
            x = block(x)
            total += skip(x).tanh()
        return self.head(total.amax(2) * total.mean(2))


class Residual(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.SiLU(), nn.Conv1d(3, 3, 3, padding=1), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class UNet(nn.Module):
    """What two layers return is concatenated with what comes back from below."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv1d(c, 3, 3, padding=1) for c in (4, 3, 3))
        self.up = nn.ModuleList(nn.Conv1d(6, 3, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.gelu(self.down[0](x))
        coarse = F.gelu(self.down[1](F.max_pool1d(fine, 2)))
        x = F.gelu(self.down[2](F.max_pool1d(coarse, 2)))
        for up, skip in zip(self.up, (coarse, fine), strict=True):
            x = F.gelu(up(torch.cat([F.interpolate(x, scale_factor=2), skip], 1)))
        return self.head(x.cumsum(2).mean(2))


class Foreign(torch.autograd.Function):
    """A kernel that torch functions cannot see."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy() ** 3)

    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * slope


class Tailed(nn.Module):
    """Convolutions, and a tail that no rule can follow."""

    def __init__(self, tail: Callable[[Tensor], Tensor], head: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 5, 5), nn.Conv1d(5, 2, 5)
        self.tail, self.head = tail, nn.Linear(2, 2) if head else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tail(F.gelu(self.second(F.gelu(self.first(x))))))


def over_rows(x: Tensor) -> Tensor:
    return torch.vmap(lambda row: (row.softmax(1) * row).sum(1))(x)


def foreign(x: Tensor) -> Tensor:
    return Foreign.apply(x).mean(2)


def numbers(x: Tensor) -> Tensor:
    return x.mean((1, 2)).exp().square()[:, None]


def assigned(x: Tensor) -> Tensor:
    gated = torch.zeros_like(x)
    gated[:, :, 2:9] = x[:, :, 2:9].sigmoid()
    return (gated * gated.exp()).mean(2)


MODELS = {
    "assignment": lambda: ready(Tailed(assigned, head=True)).eval(),
    "vmap": lambda: ready(Tailed(over_rows, head=False)).eval(),
    "vmap and head": lambda: ready(Tailed(over_rows, head=True)).eval(),
    "foreign": lambda: ready(Tailed(foreign, head=True)).eval(),
    "numbers": lambda: ready(Tailed(numbers, head=False)).eval(),
    "Skips": lambda: ready(Skips()).eval(),
    "UNet": lambda: ready(UNet()).eval(),
    "baseline": variant,
    "relu": lambda: variant("relu"),
    "max_pooling": lambda: variant("max_pooling"),
    "no_residual": lambda: variant("no_residual"),
    "cnn0": lambda: variant("cnn0"),
    "Dense": lambda: ready(Dense()).eval(),
}


@pytest.mark.parametrize("name", MODELS)
def test_equals_brute_force_at_every_depth(name):
    from tism.layerwise import stages
    from tism.predictor import evaluating

    model, sequences = MODELS[name](), draw()
    with evaluating(model) as predict:
        found = stages(predict, sequences[:1])
    assert [stage.name for stage in found] == depths(model, sequences)
    for depth, stage in list(enumerate(found))[1:-1]:
        scores = layerwise_tism(model, sequences, depth=depth)
        expected = torch.stack([by_brute_force(model, s[None], stage.calls) for s in sequences])
        torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-12, msg=stage.name)


@pytest.mark.parametrize("name", NETWORKS)
def test_ends_are_tism_and_ism(name):
    model, sequences = variant(name), draw()
    names = depths(model, sequences)
    first, exact = tism(model, sequences), ism(model, sequences)
    for depth in (0, "input", -len(names), 1):  # the maximum over strands has no slope of its own
        if depth == 1 and names[1] != "conv":
            continue
        scores = layerwise_tism(model, sequences, depth=depth)
        torch.testing.assert_close(scores, first, rtol=1e-9, atol=1e-12)
    for depth in (-1, len(names) - 1, "head"):
        scores = layerwise_tism(model, sequences, depth=depth)
        torch.testing.assert_close(scores, exact, rtol=1e-9, atol=1e-12)


def test_only_places_where_one_tensor_passes_are_depths():
    block = ["blocks.0.add", "blocks.0.pool"]
    assert depths(variant(), draw())[:6] == ["input", "conv.maximum", "activation", "pool", *block]
    opened = [f"blocks.0.{layer}" for layer in ("norm", "activation", "conv", "pool")]
    assert depths(variant("no_residual"), draw())[4:8] == opened
    assert depths(ready(Dense()), draw()) == [
        "input",
        "cat",
        "cat#2",
        "third",
        "relu",
        "amax",
        "head",
    ]


def test_several_tensors_make_a_depth_where_few_are_needed():
    blocks = ["blocks.0.add", "add", "blocks.1.add", "add#2", "blocks.2.add", "add#3"]
    blocks += ["blocks.3.add", "add#4", "blocks.4.add"]
    skips, unet = (MODELS[name]() for name in ("Skips", "UNet"))
    ends = ["skips.4", "add#5", "mul", "head"]
    assert depths(skips, draw()) == ["input", "stem", *blocks, *ends]
    assert depths(nn.Sequential(skips), draw())[2:11] == [f"0.{name}" for name in blocks]
    assert depths(unet, draw())[3:7] == ["down.1", "gelu#2", "down.2", "gelu#3"]
    for model in (MODELS["vmap"](), MODELS["foreign"]()):
        assert depths(model, draw())[:5] == ["input", "first", "gelu", "second", "gelu#2"]


def test_of_depths_that_cannot_be_reached_the_last_before_them_is_named():
    model = ready(Tailed(lambda x: F.gelu(x - x.mean()).mean(2), head=True)).eval()
    assert depths(model, draw())[4:] == ["gelu#2", "sub", "gelu#3", "mean", "head"]
    with pytest.warns(UnstableModelWarning, match="depend on the other sequences of their batch"):
        layerwise_tism(model, draw(), depth="gelu#2")
    fault = r"sub \(call \d+\): windows and whole activations disagree"
    for depth in ("sub", "mean"):
        with pytest.raises(ValueError, match=f"{fault}; the last depth that works is gelu#2; use"):
            layerwise_tism(model, draw(), depth=depth)


class Bypassed(nn.Module):
    """Keeps what it was given where no function can see it."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = Foreign.apply(x)
        return Foreign.apply(x.tanh().relu()).sum(2) + hidden.sum(2)


def test_a_depth_that_does_not_carry_everything_is_refused():
    model, sequences = Bypassed(), draw()
    names = depths(model, sequences)
    assert "relu" in names
    with pytest.raises(ValueError, match="relu: the rest of the model needs more than this"):
        layerwise_tism(model, sequences, depth="relu")


@pytest.mark.parametrize("depth", ["blocks.1", "dense.3"])
def test_tasks_batches_and_progress(depth, capsys):
    model, sequences = variant(), draw(3)
    every = layerwise_tism(model, sequences, depth=depth)
    some = layerwise_tism(model, sequences, [1], depth=depth, batch_size=7, progress=True)
    torch.testing.assert_close(some, every[:, [1]], rtol=1e-9, atol=1e-12)
    one = layerwise_tism(model, sequences[1:2], 0, depth=depth)
    torch.testing.assert_close(one, every[1:2, [0]], rtol=1e-9, atol=1e-12)
    assert "3.0/3" in capsys.readouterr().err


@pytest.mark.parametrize("depth", ["blocks.0.pool", "dense.0"])
def test_a_stretch_of_a_long_sequence(depth, monkeypatch):
    model, sequences = variant(), draw()
    whole = layerwise_tism(model, sequences, depth=depth)
    monkeypatch.setattr("tism.engine.choice._LONG", 0)
    for start, stop in ((0, 3), (12, 18), (-2, None)):
        part = layerwise_tism(model, sequences, depth=depth, start=start, stop=stop)
        torch.testing.assert_close(part, whole[..., start:stop], rtol=1e-9, atol=1e-12)


def test_reference_bases_are_zero_and_float32_agrees():
    model, sequences = variant(), draw()
    exact = layerwise_tism(model, sequences, depth="blocks.2")
    assert (exact * sequences[:, None] == 0).all()
    single = layerwise_tism(model.float(), sequences.float(), depth="blocks.2")
    assert single.dtype == torch.float32
    assert (single - exact).abs().max() < 1e-5 * exact.abs().max()


def test_what_does_not_exist_is_refused_with_what_does():
    model, sequences = variant("cnn0"), draw()
    known = "0 input, 1 conv.maximum, 2 activation, 3 pool, 4 flatten, 5 head"
    with pytest.raises(ValueError, match=f"depth 6 does not exist; the model has {known}"):
        layerwise_tism(model, sequences, depth=6)
    with pytest.raises(ValueError, match=f"depth 'blocks.0' does not exist; the model has {known}"):
        layerwise_tism(model, sequences, depth="blocks.0")
    for wrong in (True, 1.0, None, [0], torch.tensor([1, 2])):
        with pytest.raises(TypeError, match="depth must be an int or the name of a layer, got"):
            layerwise_tism(model, sequences, depth=wrong)


class Opaque(nn.Module):
    """Leaves torch on the way."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy().sum(2)).square()


def test_a_depth_without_a_row_for_each_sequence_is_refused():
    model = ready(Tailed(lambda x: torch.stack(x.split(8, 2)).sin().amax(0).mean(2), head=True))
    with pytest.raises(ValueError, match="sin: its first axis is not that of the sequences; use"):
        layerwise_tism(model, draw(), depth="sin")


def test_what_cannot_be_traced_is_refused_with_what_to_use():
    with pytest.raises(ValueError, match=r"cannot be traced: .*use depth=0 \(tism\), budgeted_ism"):
        layerwise_tism(Opaque(), draw(), depth=1)
    with pytest.raises(ValueError, match="cannot be traced"):
        depths(Opaque(), draw())
