"""Scores of means over strands, shifts and folds are those that brute force gives."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tism
from tism.engine import choice
from tism.score.averages import Averaged, checked_average
from tism.score.methods import METHODS, score_to_store, variant_table
from tism.score.modisco import contributions
from tism.score.store import StoreError
from tism.score.tracks import write_arrays

N, LENGTH = 6, 12
AVERAGES = {
    (): [(0, False)],
    ("strand",): [(0, False), (0, True)],
    ("shift:2",): [(s, False) for s in range(-2, 3)],
    ("shift:1", "strand"): list(product(range(-1, 2), (False, True))),
}


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Conv1d(4, 5, 3), nn.GELU(), nn.Conv1d(5, 2, 5), nn.Flatten(), nn.Linear(12, 3)
        return nn.Sequential(*layers).double().eval()


def one_hot(seed: int = 0) -> Tensor:
    index = torch.randint(5, (N, LENGTH), generator=torch.Generator().manual_seed(seed))
    return torch.eye(5, dtype=torch.float64)[index][..., :4].mT.contiguous()


def view(sequence: Tensor, shift: int, reverse: bool) -> Tensor:
    """A sequence moved to the right base by base, N where nothing is left, then turned round."""
    moved = torch.zeros_like(sequence)
    for place in range(LENGTH):
        if 0 <= place + shift < LENGTH:
            moved[:, place + shift] = sequence[:, place]
    return moved.flip(0, 1) if reverse else moved


def mean_prediction(models: list[nn.Module], views: list, sequence: Tensor) -> Tensor:
    shown = torch.stack([view(sequence, *each) for each in views])
    with torch.no_grad():
        return torch.stack([model(shown).mean(0) for model in models])


def brute_force(models: list[nn.Module], views: list, x: Tensor) -> Tensor:
    """ISM of the mean prediction, (folds, n, tasks, 4, length), substitution by substitution."""
    found = torch.zeros(len(models), len(x), 3, 4, LENGTH, dtype=torch.float64)
    for row, place, base in product(range(len(x)), range(LENGTH), range(4)):
        mutant = x[row].clone()
        mutant[:, place] = torch.eye(4)[base]
        change = mean_prediction(models, views, mutant) - mean_prediction(models, views, x[row])
        found[:, row, :, base, place] = change
    return found


@pytest.mark.parametrize("average", AVERAGES, ids=str)
@pytest.mark.parametrize("n_folds", [1, 3])
def test_maps_are_those_of_brute_force(tmp_path, average, n_folds):
    models, x = [network(seed) for seed in range(n_folds)], one_hot()
    truth = brute_force(models, AVERAGES[average], x)
    kwargs = {"method": "ism", "average": average, "chunk_size": 4, "mutate": (1, 11)}
    for part in (2, 1):
        store = score_to_store(tmp_path / "s", models, x, [2, 0], shard=(part, 2), **kwargs)
    truth = truth[:, :, [2, 0]][..., 1:11]
    torch.testing.assert_close(store.read(), truth.mean(0))
    assert ("spread" in store.arrays) == (n_folds > 1)
    if n_folds > 1:
        torch.testing.assert_close(store.read(name="spread"), truth.std(0))


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_the_mean_of_its_maps_turned_back(tmp_path, method):
    model, x = network(0), one_hot()
    store = score_to_store(tmp_path / "s", model, x, method=method, average=["strand", "shift:1"])
    if method == "budgeted":  # whose exact substitutions are those of the mean
        scores = METHODS[method].scores(Averaged(model, None, ["strand", "shift:1"]), x)
        torch.testing.assert_close(store.read(), scores)
        return
    maps = torch.zeros(N, 3, 4, LENGTH, dtype=torch.float64)
    for shift, reverse in AVERAGES["shift:1", "strand"]:
        shown = torch.stack([view(sequence, shift, reverse) for sequence in x])
        scores = METHODS[method].scores(model, shown)
        scores = scores.flip(2, 3) if reverse else scores
        kept = slice(max(0, -shift), LENGTH - max(0, shift))  # what the shift left in the window
        maps[..., kept] += scores.roll(-shift, 3)[..., kept] / 6
    torch.testing.assert_close(store.read(), maps)


class Pairs:
    def __init__(self, references: Tensor, alternates: Tensor) -> None:
        self.references, self.alternates = references, alternates

    def __len__(self) -> int:
        return len(self.references)

    def __getitem__(self, rows: slice) -> Tensor:
        return self.references[rows]


@pytest.mark.parametrize("method", ["ism", "tism"])
def test_variants_have_the_mean_effect_its_spread_and_the_mean_prediction(tmp_path, method):
    models, x, y = [network(seed) for seed in range(2)], one_hot(), one_hot(1)

    windows = Pairs(x, y)
    average = ["strand", "shift:1"]
    store = score_to_store(tmp_path / "s", models, windows, 1, method=method, average=average)
    views = AVERAGES["shift:1", "strand"]
    before, after = (
        torch.stack([mean_prediction(models, views, each) for each in part], 1)[..., 1:2]
        for part in (x, y)
    )
    effects = after - before
    if method == "tism":
        gradients = [tism.input_gradient(Averaged(m, None, average), x, 1) for m in models]
        effects = torch.stack([(g * (y - x)[:, None]).sum((2, 3)) for g in gradients])
    torch.testing.assert_close(store.read(), effects.mean(0))
    torch.testing.assert_close(store.read(name="predictions"), before.mean(0))
    table = variant_table(store)
    np.testing.assert_allclose(table["spread_1"], effects.std(0)[:, 0])
    np.testing.assert_allclose(table["effect_1"], effects.mean(0)[:, 0])


def test_exports_read_the_mean(tmp_path):
    store = score_to_store(tmp_path / "s", [network(0), network(1)], one_hot(), 0, average="strand")
    shown = contributions(store)[1]
    np.testing.assert_allclose(shown, tism.centre(store.read())[:, 0], atol=1e-6)
    write_arrays(store, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        np.testing.assert_array_equal(arrays["spread"], store.read(name="spread"))


def test_another_average_or_other_folds_are_refused(tmp_path):
    models, x = [network(0), network(1)], one_hot()
    score_to_store(tmp_path / "s", models, x, average="strand")
    score_to_store(tmp_path / "s", models, x, average=["strand"])
    for average in ((), "shift:1", ("strand", "shift:1")):
        with pytest.raises(StoreError, match=r"average \['strand'\], asked for"):
            score_to_store(tmp_path / "s", models, x, average=average)
    for others in ([network(0)], network(1), [network(0), network(2)]):
        with pytest.raises(StoreError, match="the weights of another model"):
            score_to_store(tmp_path / "s", others, x, average="strand")
    with pytest.raises(ValueError, match="two of the models have the same weights"):
        score_to_store(tmp_path / "t", [network(0), network(0)], x)
    with pytest.raises(ValueError, match="same tasks, got 3, 12"):
        score_to_store(tmp_path / "t", [network(0), network(1)[:-1]], x)
    with pytest.raises(ValueError, match="same tasks, got no model"):
        score_to_store(tmp_path / "t", [], x)


@pytest.mark.parametrize(
    "average", ["both", "shift", "shift:0", "shift:-1", "shift:x", 3, "shift:12"]
)
def test_what_is_no_average_is_named(tmp_path, average):
    with pytest.raises(ValueError, match=r"average .*(strand|moves all 12 bases)"):
        score_to_store(tmp_path / "s", network(0), one_hot(), average=[average])
    assert not list(tmp_path.iterdir())


def test_averages_are_named_once():
    assert checked_average(["shift:3", "strand"]) == ["strand", "shift:3"]
    for twice in (["strand"] * 2, ["shift:1", "shift:2"]):
        with pytest.raises(ValueError, match="once each"):
            checked_average(twice)


class Controlled(nn.Module):
    def __init__(self, tracks: bool = False) -> None:
        super().__init__()
        self.tracks = tracks

    def forward(self, x: Tensor, control: Tensor) -> Tensor:
        control = control[:, 0] if self.tracks else control
        control *= 2  # in place, which the other views must not see
        return (x[:, :2].sum(1) * control).sum(1, keepdim=True) ** 2


def test_arguments_are_given_to_all_views_unless_they_have_positions(tmp_path):
    control = torch.rand(N, 1, dtype=torch.float64)
    kwargs = {"average": "strand", "method": "ism"}
    store = score_to_store(tmp_path / "s", Controlled(), one_hot(), **kwargs, args=(control,))
    both = [tism.ism(Controlled(), x, args=(control,)) for x in (one_hot(), one_hot().flip(1, 2))]
    torch.testing.assert_close(store.read(), (both[0] + both[1].flip(2, 3)) / 2)
    tracked, args = Controlled(tracks=True), (torch.rand(N, 1, LENGTH),)
    with pytest.raises(ValueError, match=r"args\[0\] has shape \(6, 1, 12\), a value a position"):
        score_to_store(tmp_path / "t", tracked, one_hot(), **kwargs, args=args)


@dataclass
class Unhashable:
    factor: int = 2

    def __call__(self, output: Tensor) -> Tensor:
        return self.factor * output


@pytest.mark.parametrize("average", [(), "strand"])
@pytest.mark.parametrize("output_fn", [None, torch.exp, Unhashable()])
def test_the_engine_is_tried_once_a_store(tmp_path, monkeypatch, average, output_fn):
    tried, trial = [], choice._try_windows
    monkeypatch.setattr(choice, "_try_windows", lambda *job: tried.append(job) or trial(*job))
    kwargs = {"method": "ism", "average": average, "output_fn": output_fn, "chunk_size": 2}
    model = nn.Sequential(nn.Conv1d(4, 3, 5), nn.GELU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    score_to_store(tmp_path / "s", model, one_hot().repeat(1, 1, 12), **kwargs)
    assert len(tried) == 1
