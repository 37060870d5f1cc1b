"""ISM and TISM of published architectures, against mutating, running and subtracting by hand."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from architectures import ARCHITECTURES
from torch import Tensor, nn
from torch.nn import functional as F

from tism import ism, tism
from tism.engine import choice
from tism.study.zoo import Entry

TOLERANCE = 1e-10  # of the largest score
MOST, STRETCH = 60, 8  # a longer sequence is mutated at both ends and in the middle


class Case:
    """One architecture in float64, two sequences with N, and their scores by hand."""

    def __init__(self, entry: Entry):
        self.entry, length = entry, entry.short
        self.model = entry.build(length).double()
        generator = torch.Generator().manual_seed(0)
        bases = torch.randint(4, (2, length), generator=generator)
        self.sequences = F.one_hot(bases, 4).mT.double().contiguous()
        self.sequences[0, :, 0] = self.sequences[1, :, length // 2] = 0
        self.arguments = {
            "args": tuple(value.double() for value in entry.inputs(length)),
            "output_fn": entry.output_fn,
        }
        starts = (0, (length - STRETCH) // 2, length - STRETCH)
        self.stretches = [range(length)]
        if length > MOST:
            self.stretches = [range(start, start + STRETCH) for start in starts]

    def predict(self, rows: Tensor) -> Tensor:
        """(rows, tasks)."""
        args = (value.expand(len(rows), *value.shape[1:]) for value in self.arguments["args"])
        output = self.model(rows, *args)
        return self.entry.output_fn(output) if self.entry.output_fn else output

    def ism(self, model: nn.Module, engine: str) -> Tensor:
        """(2, tasks, 4, positions) of all stretches."""
        arguments = {"engine": engine, **self.arguments}
        stretches = ({"start": s.start, "stop": s.stop} for s in self.stretches)
        return torch.cat([ism(model, self.sequences, **s, **arguments) for s in stretches], 3)

    @torch.no_grad()
    def brute_force(self) -> Tensor:
        """What `ism` must be."""
        positions = [position for stretch in self.stretches for position in stretch]
        mutants = self.sequences[:, None, None].repeat(1, len(positions), 4, 1, 1)
        for number, position in enumerate(positions):
            mutants[:, number, :, :, position] = torch.eye(4)
        effects = self.predict(mutants.flatten(0, 2)).unflatten(0, (2, len(positions), 4))
        return (effects - self.predict(self.sequences)[:, None, None]).permute(0, 3, 2, 1)

    def gradient(self) -> Tensor:
        """(2, tasks, 4, length)."""
        leaf = self.sequences.clone().requires_grad_()
        total = self.predict(leaf).sum(0)
        grads = [torch.autograd.grad(task, leaf, retain_graph=True)[0] for task in total]
        return torch.stack(grads, 1)

    def in_training(self) -> nn.Module:
        """A copy of the model in training mode, whose first layer is frozen and evaluated."""
        model = deepcopy(self.model).train()
        first = next(
            m for m in model.modules() if next(m.parameters(recurse=False), None) is not None
        )
        first.eval().requires_grad_(False)
        return model


@pytest.fixture(params=ARCHITECTURES)
def case(request: pytest.FixtureRequest) -> Case:
    """Each architecture of the zoo."""
    return Case(ARCHITECTURES[request.param])


def state(model: nn.Module) -> tuple[list[bool], dict[str, Tensor]]:
    """Training and gradient flags; parameters, buffers and the state of random numbers."""
    flags = [module.training for module in model.modules()]
    flags += [parameter.requires_grad for parameter in model.parameters()]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return flags, {**tensors, "random": torch.get_rng_state()}


def assert_close(got: Tensor, true: Tensor) -> None:
    """Equal but for rounding; and there is something to be equal to in every task."""
    assert (true.abs().amax((0, 2, 3)) > 1e-4).all()
    assert float((got - true).abs().max() / true.abs().max()) < TOLERANCE


def test_scores_equal_those_by_hand_and_the_model_comes_back(case: Case):
    model = case.in_training()
    flags, tensors = state(model)
    true = case.brute_force()
    for engine in ("auto", "windowed"):
        assert_close(case.ism(model, engine), true)
    gradient = case.gradient()
    reference = (gradient * case.sequences[:, None]).sum(2, keepdim=True)
    for tasks in (slice(0, 1), slice(None)):  # one task has a backward pass of its own
        scores = tism(model, case.sequences, tasks, **case.arguments)
        assert_close(scores, (gradient - reference)[:, tasks])
    flags_after, tensors_after = state(model)
    assert flags_after == flags
    assert all(torch.equal(tensors_after[name], tensor) for name, tensor in tensors.items())


LONG = "Enformer Borzoi Akita Basenji2 SpliceAI Xpresso Sei ChromBPNet LegNet DanQ HyenaDNA"


@pytest.mark.parametrize("name", LONG.split())
def test_of_a_long_sequence_windows_need_only_what_a_stretch_reads(name: str, monkeypatch):
    case, scouts = Case(ARCHITECTURES[name]), []
    start = (case.entry.short - STRETCH) // 2
    case.stretches = [range(start, start + STRETCH)]
    scouted = choice.scouted
    monkeypatch.setattr(choice, "_LONG", 0)
    monkeypatch.setattr(choice, "scouted", lambda *a: scouts.append(scouted(*a)) or scouts[-1])
    assert_close(case.ism(case.model, "windowed"), case.brute_force())
    assert scouts[0] is not None


def test_zoo_is_large_and_every_entry_tells_its_source():
    assert len(ARCHITECTURES) >= 30
    for entry in ARCHITECTURES.values():
        assert entry.citation[-4:].isdigit() or "," in entry.citation
        assert entry.network.__doc__
        assert entry.short <= entry.length


def test_weights_come_from_the_seed_alone():
    entry, before = ARCHITECTURES["DeepSTARR"], torch.get_rng_state()
    first, again, other = (entry.build(entry.short, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert not all(torch.equal(other[name], tensor) for name, tensor in first.items())
