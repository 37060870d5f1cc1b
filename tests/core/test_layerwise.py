"""Layer-wise TISM against the chain rule done by brute force."""

from __future__ import annotations

import pytest
import torch
from conftest import ready
from torch import Tensor, nn
from torch.nn import functional as F

from tism import build_model, depths, ism, layerwise_tism, tism
from tism.engine.replay import Recording, is_recorded
from tism.model import VARIANTS

LENGTH = 24


class Cut(Recording):
    """Takes the result of one call out of a run, or puts another tensor in its place."""

    def __init__(self, call: int, instead: Tensor | None = None):
        super().__init__()
        self.call, self.instead, self.taken = call, instead, None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if is_recorded(func):
            self.calls.append(func)
            if len(self.calls) - 1 == self.call:
                self.taken = result.clone()
                return result if self.instead is None else self.instead.clone()
        return result


def by_brute_force(model: nn.Module, sequence: Tensor, call: int) -> Tensor:
    """(n_tasks, 4, length): Jacobian of the rest of the model times the change of a call's result.

    sequence : (1, 4, length)
    """

    def activations(x: Tensor) -> Tensor:
        with torch.no_grad(), Cut(call) as cut:
            model(x)
        return cut.taken

    def rest(h: Tensor) -> Tensor:
        with Cut(call, h):
            return model(sequence)[0]

    hidden = activations(sequence)
    slope = torch.autograd.functional.jacobian(rest, hidden).flatten(1)  # (n_tasks, all of hidden)
    scores = torch.zeros(len(slope), 4, sequence.shape[2], dtype=sequence.dtype)
    base, position = (sequence[0] == 0).nonzero(as_tuple=True)
    mutants = sequence.repeat(len(base), 1, 1)
    mutants[range(len(base)), :, position] = torch.eye(4, dtype=sequence.dtype)[base]
    scores[:, base, position] = slope @ (activations(mutants) - hidden).flatten(1).mT
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


MODELS = {
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
        expected = torch.stack([by_brute_force(model, s[None], stage.call) for s in sequences])
        torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-12, msg=stage.name)


@pytest.mark.parametrize("name", VARIANTS)
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


@pytest.mark.parametrize("depth", ["blocks.1", "dense.3"])
def test_tasks_batches_and_progress(depth, capsys):
    model, sequences = variant(), draw(3)
    every = layerwise_tism(model, sequences, depth=depth)
    some = layerwise_tism(model, sequences, [1], depth=depth, batch_size=7, progress=True)
    torch.testing.assert_close(some, every[:, [1]], rtol=1e-9, atol=1e-12)
    one = layerwise_tism(model, sequences[1:2], 0, depth=depth)
    torch.testing.assert_close(one, every[1:2, [0]], rtol=1e-9, atol=1e-12)
    assert "3.0/3" in capsys.readouterr().err


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


def test_what_cannot_be_traced_is_refused_with_what_to_use():
    with pytest.raises(ValueError, match=r"cannot be traced: .*use depth=0 \(tism\), budgeted_ism"):
        layerwise_tism(Opaque(), draw(), depth=1)
    with pytest.raises(ValueError, match="cannot be traced"):
        depths(Opaque(), draw())
