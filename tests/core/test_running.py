"""The caller's model comes back as it was; bad input is refused; batches fit into memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import state
from torch import nn

import tism
from tism.exact import predict
from tism.predictor import UnstableModelWarning
from tism.running import choose_batch_size, in_batches, select_tasks
from tism.sequence import one_hot_encode

FUNCTIONS = pytest.mark.parametrize(
    "function", [tism.input_gradient, tism.tism, tism.ism, predict], ids=lambda f: f.__name__
)


class Raises(nn.Module):
    """Passes on to a model and raises at the given call."""

    def __init__(self, model: nn.Module, at_call: int, error: BaseException):
        super().__init__()
        self.model = model
        self.calls_left = at_call
        self.error = error

    def forward(self, x):
        self.calls_left -= 1
        if not self.calls_left:
            raise self.error
        return self.model(x)


class Apply(nn.Module):
    """A model made of a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def mix_flags(model):
    """Training and requires_grad flags that no single call of train() or freeze() explains."""
    for index, module in enumerate(model.modules()):
        module.training = index % 2 == 0
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 != 0)
        parameter.grad = torch.full_like(parameter, index)


@FUNCTIONS
@pytest.mark.parametrize("error", [None, ValueError("of the model"), KeyboardInterrupt("pressed")])
def test_the_model_comes_back_as_it_was(net, sequences, function, error):
    model = Raises(net, at_call=2 if error else -1, error=error)
    mix_flags(model)
    seen = []
    net.norm.register_forward_hook(lambda module, inputs, output: seen.append(module.training))
    before, one_hot = state(model), sequences.clone()

    if error is None:
        function(model, sequences, batch_size=2)
    else:
        with pytest.raises(type(error), match=str(error)):
            function(model, sequences, batch_size=2)

    assert state(model) == before
    assert seen
    assert not any(seen)  # the caller's hooks ran, in evaluation mode
    assert torch.equal(sequences, one_hot)


@FUNCTIONS
def test_random_models_leave_the_random_state_alone(sequences, function):
    model = Apply(lambda x: (x + torch.rand_like(x)).square().sum((1, 2))[:, None])
    before = state(model)

    with pytest.warns(UnstableModelWarning, match="differ from call to call, here by"):
        function(model, sequences)

    assert state(model) == before


@FUNCTIONS
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes_of_the_caller_do_not_matter(net, sequences, function, mode):
    expected = function(net, sequences)

    with mode():
        before = state(net)
        one_hot = sequences.clone()  # an inference tensor in inference mode
        scores = function(net, one_hot)
        assert state(net) == before

    assert not scores.requires_grad
    assert torch.equal(scores, expected)


@FUNCTIONS
def test_a_model_made_in_inference_mode_is_refused_and_given_back(sequences, function):
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(80, 2)).double()
        before = state(model)

        with pytest.raises(ValueError, match="inference_mode"):
            function(model, sequences)

        assert state(model) == before


@FUNCTIONS
def test_a_model_that_changes_its_input_does_not_change_the_callers(net, sequences, function):
    before, net = sequences.clone(), net.eval()

    scores = function(Apply(lambda x: net(x.sub_(0.25))), sequences)

    assert torch.equal(sequences, before)
    expected = function(Apply(lambda x: net(x - 0.25)), sequences)
    assert torch.equal(scores, expected)


@FUNCTIONS
def test_a_model_without_parameters_and_an_input_that_requires_grad(sequences, function):
    one_hot = sequences.clone().requires_grad_()

    scores = function(Apply(lambda x: x.square().sum(2)), one_hot)

    assert scores.dtype == torch.float64
    assert not scores.requires_grad
    assert one_hot.requires_grad
    assert one_hot.grad is None


@FUNCTIONS
def test_a_failed_move_to_another_device_is_undone(net, sequences, function, monkeypatch):
    monkeypatch.setattr("tism.running._computes", lambda device: True)
    mix_flags(net)
    before = state(net)

    with pytest.raises((RuntimeError, NotImplementedError)):
        function(net, sequences, device="meta")  # computes shapes only, so no scores come out

    assert state(net) == before


class MovesByData(nn.Linear):
    """Moves as between CPU and GPU: parameters keep their identity, their data are replaced."""

    def to(self, device):
        return super().to(torch.float32)


def test_gradients_of_parameters_come_back_from_another_device(monkeypatch):
    monkeypatch.setattr("tism.running._computes", lambda device: True)
    model = nn.Sequential(nn.Flatten(), MovesByData(8, 1).double())
    model.to = model[1].to
    mix_flags(model)
    before = state(model)

    with pytest.raises((RuntimeError, NotImplementedError)):
        tism.ism(model, one_hot_encode("AC"), device="meta")

    assert state(model) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@FUNCTIONS
def test_on_a_gpu_the_scores_are_those_of_the_cpu(net, sequences, function):
    mix_flags(net)
    expected, before = function(net, sequences), state(net)

    scores = function(net, sequences, device="cuda")

    assert scores.device.type == "cpu"
    torch.testing.assert_close(scores, expected)
    assert state(net) == before


@FUNCTIONS
@pytest.mark.parametrize(
    ("output_fn", "wrap"),
    [
        pytest.param(lambda out: out[1], lambda y: (None, y), id="tuple"),
        pytest.param(lambda out: out["counts"], lambda y: {"counts": y}, id="dict"),
        pytest.param(
            lambda out: out.mean(2), lambda y: y[:, :, None].expand(-1, -1, 4), id="profile"
        ),
        pytest.param(lambda out: out[:, None], lambda y: y[:, 0], id="one number a sequence"),
    ],
)
def test_output_fn_maps_what_the_model_returns(net, sequences, function, output_fn, wrap):
    expected = function(Apply(lambda x: output_fn(wrap(net.eval()(x)))), sequences)

    scores = function(Apply(lambda x: wrap(net.eval()(x))), sequences, output_fn=output_fn)

    assert torch.equal(scores, expected)
    assert scores.shape[1] in (1, 3)


BAD_ARGUMENTS = [
    ({"tasks": 3}, ValueError, r"tasks has 3, but the model has 3 tasks \(0 to 2\)"),
    ({"tasks": -4}, ValueError, "tasks has -4"),
    ({"tasks": [0, 7]}, ValueError, "tasks has 7"),
    ({"tasks": []}, ValueError, "tasks selects none"),
    ({"tasks": slice(3, None)}, ValueError, "tasks selects none"),
    ({"tasks": 1.0}, TypeError, r"tasks must be None, an int.*1\.0"),
    ({"tasks": True}, TypeError, "tasks must be None, an int.*True"),
    ({"tasks": [True, False, True]}, TypeError, "tasks must be None, an int"),
    ({"tasks": "B.Sp"}, TypeError, r"tasks must be None, an int.*B\.Sp"),
    ({"tasks": [[0], [1]]}, TypeError, "tasks must be None, an int"),
    ({"tasks": [[0], [1, 2]]}, (TypeError, ValueError), "tasks must be None, an int"),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    ({"batch_size": -3}, ValueError, "batch_size must be at least 1, got -3"),
    ({"batch_size": 2.0}, TypeError, r"batch_size must be an int or None, got 2\.0"),
    ({"batch_size": True}, TypeError, "batch_size must be an int or None, got True"),
    ({"batch_size": "8"}, TypeError, "batch_size must be an int or None, got '8'"),
    ({"output_fn": 3}, TypeError, "output_fn must be callable, got int"),
    ({"output_fn": lambda out: out.argmax(1)}, TypeError, "output_fn must return.*int64"),
    ({"output_fn": lambda out: out > 0}, TypeError, "output_fn must return.*bool"),
    ({"output_fn": lambda out: out[:, 0]}, ValueError, r"output_fn must return shape \(n, tasks\)"),
    ({"output_fn": lambda out: out[:, :0]}, ValueError, "output_fn must return shape"),
    ({"output_fn": lambda out: out[None]}, ValueError, "output_fn must return shape"),
    ({"output_fn": lambda out: out.sum(0)[None]}, ValueError, r"output_fn .*got \(1, 3\)"),
    ({"output_fn": lambda out: (out, out)}, TypeError, "output_fn must return a tensor.*tuple"),
    ({"device": "abacus"}, ValueError, "device must be a name.*'abacus'"),
    ({"device": "meta"}, ValueError, "device 'meta' is not available on this machine; try 'cpu'"),
    ({"device": 1.5}, TypeError, r"device must be a name.*1\.5"),
    ({"batch_size": np.array([1, 2])}, TypeError, "batch_size must be an int or None"),
    ({"tasks": slice("a")}, TypeError, "tasks must be None, an int.*slice"),
    ({"tasks": slice(None, None, 0)}, TypeError, "tasks must be None, an int.*slice"),
    ({"tasks": torch.ones(1, requires_grad=True)}, TypeError, "tasks must be None, an int"),
    ({"tasks": torch.ones(1, dtype=torch.bfloat16)}, TypeError, "tasks must be None, an int"),
]


@FUNCTIONS
@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_refused(net, sequences, function, arguments, error, message):
    before = state(net)

    with pytest.raises(error, match=message):
        function(net, sequences, **arguments)

    assert state(net) == before


@FUNCTIONS
@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (lambda x: x.sum((1, 2)).long()[:, None], TypeError, "model must return a floating.*int64"),
        (lambda x: x.sum((1, 2)), ValueError, r"model .*got \(\d+,\); map it with output_fn"),
        (lambda x: x, ValueError, r"model must return shape \(n, tasks\), here \(\d+, tasks\)"),
        (lambda x: {"a": x}, TypeError, "model must return a tensor.*got dict; map it with output"),
        (lambda x: None, TypeError, "model must return a tensor.*got NoneType"),
    ],
)
def test_bad_outputs_of_the_model_are_refused(sequences, function, output, error, message):
    with pytest.raises(error, match=message):
        function(Apply(output), sequences)


@FUNCTIONS
@pytest.mark.parametrize(
    ("one_hot", "message"),
    [
        (torch.zeros(4, 20), r"one_hot must have shape \(n, 4, length\)"),
        (torch.zeros(0, 4, 20), "one_hot is empty"),
        (torch.full((1, 4, 20), float("nan")), r"one_hot\[0, :, 0\] is \[nan"),
        (torch.full((1, 4, 20), 0.25), r"one_hot\[0, :, 0\] is \[0.25"),
    ],
)
def test_bad_sequences_are_refused_before_the_model_runs(function, one_hot, message):
    def never(x):
        pytest.fail("the model ran")

    with pytest.raises(ValueError, match=message):
        function(Apply(never), one_hot)


@FUNCTIONS
def test_a_plain_function_is_no_model(sequences, function):
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got function"):
        function(lambda x: x.sum(2), sequences)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    MemoryError(),
]


class Hungry(nn.Module):
    """Runs out of memory above so many rows."""

    def __init__(self, model: nn.Module, limit: int, error: BaseException):
        super().__init__()
        self.model, self.limit, self.error = model, limit, error
        self.asked: list[int] = []

    def forward(self, x):
        self.asked.append(len(x))
        if len(x) > self.limit:
            raise self.error
        return self.model(x)


@FUNCTIONS
@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: f"{type(e).__name__} {e}"[:40])
def test_out_of_memory_halves_the_batch_and_changes_nothing_else(net, sequences, function, error):
    expected = function(net, sequences)
    many = torch.cat([sequences] * 3)  # 15 sequences
    hungry = Hungry(net, limit=3, error=error)

    scores = function(hungry, many, batch_size=14)

    assert hungry.asked[:3] == [14, 7, 3]
    assert max(hungry.asked[2:]) == 3  # and the smaller batch is remembered
    torch.testing.assert_close(scores, torch.cat([expected] * 3), rtol=1e-10, atol=1e-12)


@FUNCTIONS
@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: f"{type(e).__name__} {e}"[:40])
def test_out_of_memory_at_one_row_is_the_callers(net, sequences, function, error):
    hungry = Hungry(net, limit=0, error=error)
    before = state(hungry)

    with pytest.raises(type(error)) as caught:
        function(hungry, sequences, batch_size=4)

    assert caught.value is error
    assert any("take fewer tasks" in note for note in error.__notes__)
    assert len(error.__notes__) == 1
    assert hungry.asked[:3] == [4, 2, 1]
    assert set(hungry.asked[3:]) <= {1}  # a gradient is tried once more without cheap functions
    assert state(hungry) == before


@FUNCTIONS
def test_other_errors_are_not_taken_for_lack_of_memory(net, sequences, function):
    hungry = Hungry(net, limit=0, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))

    with pytest.raises(RuntimeError, match="mat1"):
        function(hungry, sequences, batch_size=4)

    assert set(hungry.asked) == {4}


def test_in_batches_covers_the_range_once_and_reports_it():
    done, reported = [], []

    last = in_batches(
        10, 4, lambda start, stop: done.extend(range(start, stop)), report=reported.append
    )

    assert done == list(range(10))
    assert reported == [4, 4, 2]
    assert last == 4


def test_in_batches_halves_what_was_tried_not_what_was_allowed():
    tried = []

    def step(start, stop):
        tried.append((start, stop))
        if stop - start > 2:
            raise MemoryError

    assert in_batches(5, 1000, step) == 2
    assert tried == [(0, 5), (0, 2), (2, 4), (4, 5)]


def test_the_batch_size_is_chosen_by_the_length_and_never_zero():
    cpu = torch.device("cpu")

    assert choose_batch_size(None, 1000, cpu) < choose_batch_size(None, 100, cpu)
    assert choose_batch_size(None, 10**9, cpu) == 1
    assert choose_batch_size(np.int64(7), 100, cpu) == 7


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (None, [0, 1, 2]),
        (1, [1]),
        (-1, [2]),
        (np.int64(2), [2]),
        (torch.tensor(1), [1]),
        ([2, 0], [2, 0]),
        ((1, 1), [1, 1]),
        (range(2), [0, 1]),
        (np.array([-1, 0], dtype=np.int32), [2, 0]),
        (np.array([1], dtype=np.uint8), [1]),
        (torch.tensor([0, 2]), [0, 2]),
        (slice(None), [0, 1, 2]),
        (slice(1, None), [1, 2]),
        (slice(-1), [0, 1]),
        (slice(None, None, -1), [2, 1, 0]),
        (slice(0, 99), [0, 1, 2]),
    ],
)
def test_tasks_in_every_form(net, sequences, tasks, expected):
    assert select_tasks(tasks, 3) == expected
    for function in (tism.input_gradient, tism.tism, tism.ism, predict):
        every = function(net, sequences[:1])
        assert torch.equal(function(net, sequences[:1], tasks), every[:, expected])


@pytest.mark.parametrize(
    ("function", "label"),
    [
        (tism.input_gradient, "gradients"),
        (tism.tism, "gradients"),
        (tism.ism, "ISM"),
        (predict, "predictions"),
    ],
)
def test_progress_is_drawn_on_request(net, sequences, capsys, function, label):
    silent = function(net, sequences, batch_size=2)
    assert capsys.readouterr() == ("", "")

    drawn = function(net, sequences, batch_size=2, progress=True)

    out, err = capsys.readouterr()
    assert out == ""
    assert f"{label}: 100%" in err
    assert "5.0/5 sequences" in err
    assert torch.equal(drawn, silent)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 7, 13])
def test_progress_never_overshoots(linear, bases, batch_size):
    for n in range(1, 6):  # tqdm warns above 100 %, and a warning is an error here
        tism.ism(linear, bases[:n], batch_size=batch_size, progress=True)


def test_progress_needs_tqdm(net, sequences, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    before = state(net)

    with pytest.raises(ImportError, match=r"progress=True needs tqdm"):
        tism.ism(net, sequences, progress=True)

    assert state(net) == before
    assert tism.ism(net, sequences).shape == (5, 3, 4, 20)


def test_import_needs_torch_and_numpy_only():
    heavy = "matplotlib seaborn pandas scipy papermill pooch safetensors yaml"
    code = f"import sys, tism; print(*(sys.modules.keys() & set('{heavy}'.split())))"
    root = str(Path(tism.__file__).parents[1])

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_not_there_is_refused_by_name(net, sequences, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"device '{device}' is not available.*'cpu'"):
        tism.ism(net, sequences, device=device)


@FUNCTIONS
def test_a_model_that_refuses_a_length_is_named(net, function):
    with pytest.raises(ValueError, match=r"model raised RuntimeError for one_hot of shape \(n, 4"):
        function(net, one_hot_encode("ACGT"))


@pytest.mark.parametrize("error", [AssertionError, IndexError, KeyError])
def test_errors_of_a_model_say_for_what(net, sequences, error):
    with pytest.raises(
        ValueError, match=rf"model raised {error.__name__} .*\(n, 4, 20\)"
    ) as raised:
        predict(Raises(net, at_call=1, error=error("mine")), sequences)
    assert isinstance(raised.value.__cause__, error)


def test_a_model_that_torch_cannot_differentiate_is_named(linear, sequences):
    square = Apply(lambda x: (lambda y: y.mul_(y))(linear(x)))
    with pytest.raises(ValueError, match=r"model cannot be differentiated by torch.*exact ISM"):
        tism.tism(square, sequences)
    assert tism.ism(square, sequences).shape[0] == len(sequences)
