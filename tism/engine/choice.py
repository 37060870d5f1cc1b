"""Which engine runs the substitutions of a model, and in what batches.

A trial on a few substitutions tells whether windows give what the whole model gives and what they
cost. Its verdict is kept for the model, so that later calls need no trial.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tism.engine.replay import Calls, Recording, WindowedModel, agree, scouted
from tism.engine.window import Untraceable, mapped, whole, windows_in
from tism.predictor import Job, Predictor
from tism.running import choose_batch_size, full_precision, in_batches, is_out_of_memory, uncompiled
from tism.sequence import Substitutions, put_bases, substitutions

ENGINES = ("auto", "full", "windowed")
# Costs of writing a number and of launching a kernel in multiply-adds, measured on a CPU.
_PER_NUMBER, _PER_KERNEL = 20, 2.5e6
# Bytes of the largest tensor of a batch (a CPU's cache), and of the activations kept for the
# references that run together.
_BATCH_BYTES, _KEPT_BYTES = {"cpu": 6 * 2**20}, 2**28
_MOST_ROWS = 4096
# The trial runs one substitution in 64 within these bounds, of long sequences no more than make up
# so many bases.
_ONE_IN, _FEWEST_TRIED, _MOST_TRIED, _BASES_TRIED = 64, 4, 24, 2**19
_LONG = 2**14  # length from which only what a stretch's windows read is kept of a reference
_log = logging.getLogger("tism.exact")
_logged: set[tuple[type, str]] = set()
_verdicts: WeakKeyDictionary[Any, dict[Any, Plan | str]] = WeakKeyDictionary()


class Plan(NamedTuple):
    """How a model is best run on windows; costs are in forward passes of the full engine.

    row_cost, batch_cost : predicted costs of a substitution, and of a batch without them
    reference_cost : predicted cost of a reference whose activations are kept
    batch_size : substitutions that run together
    sequences : references whose activations are kept at the same time
    prepared : what rules made of weights, see `Replay`
    asked : numbers of the calls at which windows end; none for the prediction
    mixed : tells from which function on all positions are run, and its share of the work; or ""
    scout : recording that knows which columns of a reference windows read; None keeps all of them
    """

    row_cost: float
    batch_cost: float
    reference_cost: float
    batch_size: int
    sequences: int
    prepared: dict[int, dict]
    asked: tuple[int, ...]
    mixed: str
    scout: Recording | None = None

    def gain(self, total: int, n: int) -> float:
        """Predicted cost of the full engine over that of windows, for `total` substitutions.

        n : sequences that they are substitutions of
        """
        groups = math.ceil(n / self.sequences)
        batches = groups * math.ceil(total / groups / self.batch_size)
        windows = total * self.row_cost + batches * self.batch_cost + n * self.reference_cost
        return (total + n) / windows

    def windows(self, predict: Predictor, sequences: Tensor) -> WindowedModel:
        """The model, run on references whose substitutions are wanted."""
        return WindowedModel(predict, sequences, self.prepared, self.asked, self.scout)


def by_engine(engine: str, job: Job, total: int, run: Callable[[Plan | None], Any]) -> Any:
    """run(plan) on windows if the engine asks for them and they work out, else run(None).

    total : number of substitutions that it will run

    Raises ValueError where windows cannot follow the model that "windowed" asks them to.
    """
    if not isinstance(engine, str) or engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}")
    if engine == "full":
        return run(None)
    try:
        plan = plan_windows(engine, job, total)
        if plan is not None:
            return run(plan)
    except Untraceable as error:
        if engine == "windowed":
            raise ValueError(f'engine="windowed" cannot follow the model: {error}') from error
        _say(job.predict, f"in full: {error}")
    except (RuntimeError, MemoryError) as error:
        if engine == "windowed" or not is_out_of_memory(error):
            raise
        _say(job.predict, "in full: windows run out of memory")
    finally:
        leave_plain(job.predict.model)
    return run(None)


def leave_plain(model: nn.Module) -> None:
    """Put plain tensors in place of windows that a model keeps, as attributes or as buffers."""
    for module in model.modules():
        for table in (module._buffers, vars(module)):  # which holds the table of buffers itself
            for name, value in list(table.items()):
                if windows_in(value):
                    table[name] = mapped(whole, value)


def _say(predict: Predictor, how: str) -> None:
    """Log once for each class of models how "auto" runs it."""
    if (type(predict.model), how) not in _logged:
        _logged.add((type(predict.model), how))
        _log.info('engine="auto" runs %s %s', type(predict.model).__name__, how)


def plan_windows(engine: str, job: Job, total: int, asked: tuple[int, ...] = ()) -> Plan | None:
    """How to run on windows; None if "auto" has too few substitutions for a trial to pay.

    asked : numbers of the calls at which windows end; none for the prediction

    Raises Untraceable if windows cannot follow the model or, for "auto", promise no gain.
    """
    predict, length = job.predict, job.one_hot.shape[2]
    if predict.autocast is not None:
        raise Untraceable("windows are differences, which low precision would round away")
    known = _verdicts.setdefault(predict.model, {})
    key = (predict.output_fn, length, predict.dtype, predict.device, asked, _in_part(job))
    try:
        hash(key)
    except TypeError:  # of an output_fn, whose verdict is not kept
        known, key = {}, None
    if key not in known:
        two_batches = 2 * choose_batch_size(None, length, predict.device)
        if engine == "auto" and total <= max(two_batches, 4 * _FEWEST_TRIED):
            return None
        known[key] = _verdict(job, total, asked)
    if isinstance(known[key], str):
        raise Untraceable(known[key])
    plan = known[key]._replace(prepared={}, scout=_scout(job, asked))
    if job.batch_size is not None:
        plan = plan._replace(batch_size=max(job.at_once(), 2))
    gain = plan.gain(total, len(job.one_hot))
    if engine == "auto" and gain < 1:
        because = f": {plan.mixed}" if plan.mixed else ""
        raise Untraceable(f"windows would take {1 / gain:.1f} times as long{because}")
    if engine == "auto" and plan.mixed:
        _say(predict, f"on windows; {plan.mixed}")
    return plan


def _scout(job: Job, asked: tuple[int, ...]) -> Recording | None:
    """What windows read of a reference, where not all of it is kept."""
    return scouted(*job.part(0, 1), job.window, asked) if _in_part(job) else None


def _in_part(job: Job) -> bool:
    """True if the stretch is a small part of a long sequence."""
    length = job.one_hot.shape[2]
    return length >= _LONG and 4 * len(job.window) <= length


def _verdict(job: Job, total: int, asked: tuple[int, ...]) -> Plan | str:
    """The plan by a trial on substitutions spread over the first sequence, or why there is none."""
    _, position, base = substitutions(job.one_hot[:1], job.window)
    most = min(_MOST_TRIED, max(_FEWEST_TRIED, _BASES_TRIED // job.one_hot.shape[2]), len(position))
    rows = min(max(_FEWEST_TRIED, total // _ONE_IN), most)
    tried = np.linspace(0, len(position) - 1, rows).astype(int)
    sample = np.zeros_like(tried), position[tried], base[tried]
    try:
        with uncompiled():
            return _try_windows(job, sample, asked)
    except Untraceable as error:
        return str(error)


def _try_windows(job: Job, sample: Substitutions, asked: tuple[int, ...]) -> Plan:
    """Run some substitutions of the first sequence on windows and in full; compare both.

    Raises Untraceable naming the function at fault if windows fail or disagree.
    """
    (predict, sequence), rows, full_batch_size = job.part(0, 1), len(sample[0]), job.at_once()
    mutants = put_bases(sequence.repeat(rows, 1, 1), *sample[1:])
    mutants = torch.cat([sequence, mutants])
    parts: list[list[Tensor]] = []

    def run(start: int, stop: int) -> None:
        owner = predict.of(np.zeros(stop - start, dtype=np.int64))
        batch = mutants[start:stop].clone()
        parts.append(Calls(asked).results(lambda: owner(batch)))

    with Work() as full, full_precision(predict.device):
        in_batches(len(mutants), full_batch_size, run)
    outputs = [torch.cat(pieces) for pieces in zip(*parts, strict=True)]
    scout = _scout(job, asked)
    with Work() as kept:
        windows = WindowedModel(predict, sequence, {}, asked, scout)
    with Work() as first:
        effects = windows.changes(*sample)
    for effect, output in zip(effects, outputs, strict=True):
        if not agree(effect, output[1:] - output[:1], output):
            _find_fault(predict, windows, mutants[1:], sample)
    with Work() as batch:  # what the first batch made of the references is there by now
        windows.changes(*sample)
    forward = full.cost(1 + rows, len(parts), full_batch_size)
    row_cost = batch.cost(rows, 1, math.inf) / forward
    once = first.cost(1, 1, 1) - batch.cost(1, 1, 1)
    most = _BATCH_BYTES.get(predict.device.type, _KEPT_BYTES) // windows.replay.row_bytes
    return Plan(
        row_cost=row_cost,
        batch_cost=batch.cost(rows, 1, 1) / forward - row_cost,
        reference_cost=(kept.cost(1, 1, 1) + once) / forward,
        batch_size=max(full_batch_size, min(most, _MOST_ROWS), 2),  # windows run no batch of one
        sequences=max(1, _KEPT_BYTES // max(1, 2 * windows.recording.nbytes)),
        prepared={},
        asked=asked,
        mixed=_mixed(windows, sample, row_cost * forward),
    )


def _mixed(windows: WindowedModel, sample: tuple, row_cost: float) -> str:
    """Which function needed all positions of the sample, and the share of the cost behind it.

    row_cost : of a substitution, in multiply-adds
    """
    if windows.replay.mixed is None:
        return ""
    name, call = windows.replay.mixed
    before = Work()
    if call:
        with before:
            windows.run(*sample, asked=[call - 1])
    share = 1 - before.cost(len(sample[0]), 1, math.inf) / row_cost
    return (
        f"{name} (call {call}) and what follows, {share:.0%} of the work, run on all positions; "
        "layerwise_tism at a depth before that and budgeted_ism cost less"
    )


def _find_fault(predict: Predictor, windows: WindowedModel, mutants: Tensor, sample: tuple) -> None:
    """Raise Untraceable for the first function whose result differs from that of the mutants."""
    truth, mutants = Recording(windows.recording.asked), mutants.clone()
    truth.results(lambda: predict.of(sample[0])(mutants))
    windows.run(*sample, truth=truth)
    raise Untraceable("a prediction depends on its batch-mates or differs from call to call")


class Work(TorchDispatchMode):
    """Counts multiply-adds, numbers written and kernels launched while it is active."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False avoids importing torch's compiler, which takes over a second."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.products = self.numbers = self.kernels = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        alias = func._schema.returns[0].alias_info if func._schema.returns else None
        if not isinstance(result, Tensor) or (alias is not None and not alias.is_write):
            return result  # a view, or no tensor
        name = func.overloadpacket.__name__
        if name in ("mm", "bmm"):
            self.products += result.numel() * args[0].shape[-1]
        elif name in ("addmm", "addmm_", "baddbmm"):
            self.products += result.numel() * args[1].shape[-1]
        elif name == "convolution":
            self.products += result.numel() * args[1][0].numel()
        self.numbers += result.numel()
        self.kernels += 1
        return result

    def cost(self, rows: int, batches: int, batch_size: int) -> float:
        """Multiply-adds a row in batches of `batch_size`, from the counted `rows` and `batches`."""
        each = self.products + _PER_NUMBER * self.numbers
        return each / rows + _PER_KERNEL * self.kernels / batches / batch_size
