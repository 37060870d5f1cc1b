"""Taylor expansion at a hidden layer: exact up to that layer, linear behind it."""

from __future__ import annotations

import math
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils.weak import WeakTensorKeyDictionary

from tism.engine.aliases import leaves
from tism.engine.choice import leave_plain, plan_windows
from tism.engine.replay import Calls, WindowedModel, agree
from tism.engine.window import Untraceable, Windowed, columns_of, mapped
from tism.exact import by_position, exact_scores, in_blocks
from tism.first_order import check_stability, gradient_by_task, taylor_scores
from tism.predictor import Job, OutputFn, Predictor, evaluating, job_of, warn_if_not_finite
from tism.running import Tasks, uncompiled
from tism.sequence import validate_one_hot

_MOST_TENSORS = 4  # that carry a stage
_BLOCK = 8  # weights of a residual block, at most
_GRAPH = 2  # a graph that keeps every activation takes so many times the memory
_ROWS_TRACED = 2
_NO_FUNCTION = "no function that can be seen leads to its output (TorchScript and vmap hide theirs)"
_INSTEAD = 'use depth=0 (tism), budgeted_ism(base="tism") or depth=-1 (ism), which run any model'


class Stage(NamedTuple):
    """A place in the model where a few tensors carry all that the rest of the model depends on.

    name : of the layer that makes the last of them, as in `model.named_modules()`, or the function
    calls : numbers of the recorded torch functions that return them; none for the input
    functions : names of these functions
    """

    name: str
    calls: tuple[int, ...] = ()
    functions: tuple[str, ...] = ()


def layerwise_tism(
    model: nn.Module,
    one_hot: Any,
    tasks: Tasks = None,
    *,
    depth: int | str,
    start: int = 0,
    stop: int | None = None,
    args: Sequence[Any] = (),
    output_fn: OutputFn | None = None,
    autocast: torch.dtype | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Tensor:
    """Taylor expansion at a hidden layer h: gradient at h times the exact change of h.

    Layers before h are exact and layers behind it linear: sum over h of df/dh * (change of h).
    Depth 0, the input, is TISM and the last depth, the output, is ISM.

    depth : number or name of a layer in `depths`; a module's name stands for its last layer, and
        negative numbers count from the output

    Others, warnings and result as in `tism.ism`. Costs a gradient a task and the share of windowed
    ISM before h. ValueError names the existing depths, or the remedy for an untraceable model.

    >>> import torch, tism
    >>> model = tism.build_model("baseline", length=8, n_tasks=2, width=4, seed=0)
    >>> tism.layerwise_tism(model, tism.one_hot_encode("ACGTACGT"), depth="blocks.0").shape
    torch.Size([1, 2, 4, 8])
    """
    if isinstance(depth, bool) or not isinstance(depth, int | str):
        raise TypeError(f"depth must be an int or the name of a layer, got {depth!r}")
    lent = {"output_fn": output_fn, "device": device, "args": args, "autocast": autocast}
    with job_of(model, one_hot, tasks, start, stop, batch_size, progress, **lent) as job:
        if depth == -1:
            return exact_scores(job, "auto")
        if depth not in ("input", 0):
            with following():
                known = stages(job.predict, job.one_hot[:1])
                stage = find_stage(known, depth)
                if stage.calls:
                    check_stage(*job.part(0, 1), stage)
                    return _layerwise(job, stage, known[: known.index(stage)])
        return taylor_scores(job)


def depths(
    model: nn.Module,
    one_hot: Any,
    *,
    args: Sequence[Any] = (),
    output_fn: OutputFn | None = None,
    device: str | torch.device | None = None,
) -> list[str]:
    """Names of the layers at which `layerwise_tism` can expand, from the input to the output.

    A layer is listed if its result alone decides all that follows, or with the results of up to
    three earlier ones, as along skip connections. Within a residual block only the sum is listed,
    because the input is needed until there. The place in the list is the depth.

    one_hot : (n, 4, length); the first sequence is run

    >>> import tism
    >>> model = tism.build_model("cnn0", length=8, n_tasks=2, width=4, seed=0)
    >>> tism.depths(model, tism.one_hot_encode("ACGTACGT"))
    ['input', 'conv.maximum', 'activation', 'pool', 'flatten', 'head']
    """
    one_hot = validate_one_hot(one_hot)
    lent = {"args": args, "n": len(one_hot)}
    with evaluating(model, output_fn, device, **lent) as predict, following():
        return [stage.name for stage in stages(predict, one_hot[:1])]


@contextmanager
def following() -> Iterator[None]:
    """Turn `Untraceable` into a ValueError that says what to use instead."""
    try:
        yield
    except Untraceable as error:
        raise ValueError(f"the model cannot be traced: {error}; {_INSTEAD}") from error


def stages(predict: Predictor, one_hot: Tensor) -> list[Stage]:
    """The stages of a model, input and output included, found by running two equal sequences."""
    with torch.no_grad():
        rows = predict.prepare(one_hot).repeat(_ROWS_TRACED, 1, 1)
        flow, traced = Dataflow(predict.model, rows), predict.of(np.zeros(_ROWS_TRACED, dtype=int))
        with uncompiled(), flow, flow.watching_modules():
            output = traced(rows)
    found = [Stage("input")]
    for calls in flow.cuts(output):
        name, layer = flow.place[calls[-1]]
        last = found[-1]
        if layer and last.calls and flow.place[last.calls[-1]] == (name, layer):
            found.pop()  # of one layer, only the result counts
        found.append(Stage(name, calls, tuple(flow.functions[call] for call in calls)))
    if flow.unknown or output not in flow.maker:
        job = Job(predict, one_hot, 0, range(one_hot.shape[2]))
        try:  # a vmap or a foreign kernel that torch can differentiate will do
            gradient_by_task(job, *job.part(0, 1), Nudge(found[1]))
        except Exception as error:
            raise Untraceable(_NO_FUNCTION) from error
    return [stage._replace(name=name) for name, stage in zip(_unique(found), found, strict=True)]


def _unique(found: list[Stage]) -> list[str]:
    """Names of the stages, numbered if a layer or a function is called again."""
    names: list[str] = []
    for name, *_ in found:
        again = sum(n == name or n.rpartition("#")[0] == name for n in names)
        names.append(f"{name}#{again + 1}" if again else name)
    return names


def find_stage(known: list[Stage], depth: int | str) -> Stage:
    """The stage with that number or name, or the last one within the module of that name."""
    numbered = ", ".join(f"{number} {stage.name}" for number, stage in enumerate(known))
    if isinstance(depth, str):
        named = [s for s in known if s.name == depth]
        within = [s for s in known if s.name.startswith(depth + ".")]
        if not named + within:
            raise ValueError(f"depth {depth!r} does not exist; the model has {numbered}")
        return (named or within)[-1]
    if not -len(known) <= depth < len(known):
        raise ValueError(f"depth {depth} does not exist; the model has {numbered}")
    return known[depth]


class Dataflow(Calls):
    """Knows from which earlier calls each call takes its tensors.

    functions : name of the function of each call
    place : for each call the name of its layer, or of its function within a module, and True if it
        is a layer, which is a module without submodules
    within : for each call the numbers of the runs of modules that it is part of, outermost first
    sources : for each call the calls whose results it takes
    weighted : the calls that take weights, tensors of two or more axes that are not such results
    carries : the calls that return one tensor of numbers with a row for each sequence
    unknown : True if a tensor was met that no recorded function made
    """

    def __init__(self, model: nn.Module, rows: Tensor):
        super().__init__()
        self.names = {module: name for name, module in model.named_modules()}
        self.inside: list[tuple[nn.Module, int]] = []
        self.unknown = False
        self.functions: list[str] = []
        self.place: dict[int, tuple[str, bool]] = {-1: ("input", True)}
        self.within: list[tuple[int, ...]] = []
        self.sources: list[set[int]] = []
        self.weighted: set[int] = set()
        self.carries: set[int] = set()
        self.maker = WeakTensorKeyDictionary({rows: -1})
        self.constant = WeakTensorKeyDictionary(dict.fromkeys(model.buffers()))

    @contextmanager
    def watching_modules(self) -> Iterator[None]:
        """Keep track of the modules that are running."""

        def left(*_: Any) -> None:
            self.inside.pop()

        runs, hooks = count(), nn.modules.module
        enter = hooks.register_module_forward_pre_hook(
            lambda module, _: self.inside.append((module, next(runs)))
        )
        leave = hooks.register_module_forward_hook(left)
        try:
            yield
        finally:
            enter.remove(), leave.remove()

    def called(self, func: Any, args: tuple, kwargs: dict) -> Any:
        tensors = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        sources = {self.maker[t] for t in tensors if t in self.maker}
        if any(map(self._is_unknown, tensors)):  # such as the result of a vmap or a foreign kernel
            alive, self.unknown = set(self.maker.values()) - {-1}, True
            sources |= alive | {max(self.carries, default=-1)}
        self.sources.append(sources)
        self.place[self.at] = self._place()
        self.within.append(tuple(run for _, run in self.inside))
        self.functions.append(self.name)
        if self.sources[-1] and any(t.ndim > 1 and t not in self.maker for t in tensors):
            self.weighted.add(self.at)
        result = func(*args, **kwargs)
        made = self.made(args, result)
        for leaf in leaves(made):
            if isinstance(leaf, Tensor):
                (self.maker if sources else self.constant)[leaf] = self.at
        if sources and isinstance(made, Tensor) and self._has_rows(made):
            self.carries.add(self.at)
        return result

    @staticmethod
    def _has_rows(tensor: Tensor) -> bool:
        if is_functorch_wrapped_tensor(tensor):  # one row within a vmap
            return False
        return tensor.is_floating_point() and tensor.shape[:1] == (_ROWS_TRACED,)

    def _is_unknown(self, tensor: Tensor) -> bool:
        """True if no recorded function made a tensor with a row for each sequence."""
        known = tensor in self.maker or tensor in self.constant
        return self._has_rows(tensor) and not known and not isinstance(tensor, nn.Parameter)

    def _place(self) -> tuple[str, bool]:
        module = next((m for m, _ in reversed(self.inside) if self.names.get(m)), None)
        if module is not None and not any(True for _ in module.children()):
            return self.names[module], True
        name = self.name.strip("_")
        return (name if module is None else f"{self.names[module]}.{name}"), False

    def cuts(self, output: Tensor) -> list[tuple[int, ...]]:
        """Calls whose results are all that later calls take of what came before, in rising order.

        Every single tensor counts; several do where their number is smallest, see `_is_waist`.
        """
        last = self.maker.get(output, max(self.carries, default=None))
        if last is None:
            raise Untraceable(_NO_FUNCTION)
        last_use = {last: math.inf}
        for call in range(last, -1, -1):  # backwards, so that dead ends do not count
            if call in last_use:
                for source in self.sources[call]:
                    last_use.setdefault(source, call)
        alive = [call for call in range(last + 1) if call in last_use]
        live = {call: [m for m in (-1, *alive) if m <= call < last_use[m]] for call in alive}
        size = {
            call: len(made) if self.carries.issuperset(made) else math.inf
            for call, made in live.items()
        }
        found = [c for c in alive if size[c] == 1 or self._is_waist(c, size)]
        return [tuple(live[call]) for call in found]

    def _is_waist(self, call: int, size: dict[int, float]) -> bool:
        """True if few tensors are needed from a call on, and no more than right before and after.

        Before and after are counted in steps: the calls, and the ends of modules, right within the
        outermost module that the call ends. There is no waist within a residual block, a module
        with few weights around the call that ends with fewer tensors.
        """
        if not size[call] <= _MOST_TENSORS:
            return False
        ends = {run: c for c in size for run in self.within[c]}  # the last call of each run
        around = self.within[call]
        level = next((i for i, run in enumerate(around[1:], 1) if ends[run] == call), len(around))
        around = around[:level]
        steps = [c for c in size if self.within[c][:level] == around]
        steps = [c for c in steps if self.within[c] == around or ends[self.within[c][level]] == c]
        at = steps.index(call)
        beside = steps[max(0, at - 1) : at] + steps[at + 1 : at + 2]
        weights = Counter(run for weighted in self.weighted for run in self.within[weighted])
        beside += [ends[run] for run in around[1:] if weights[run] <= _BLOCK]
        return all(size[call] <= size[other] for other in beside)


class Nudge(Calls):
    """Adds a `leaf`, zeros that require a gradient if none is given, to the tensors of a stage.

    leaf : (n, numbers of all these tensors)
    """

    def __init__(self, stage: Stage, leaf: Tensor | None = None):
        super().__init__()
        self.stage, self.given, self.leaf = stage, leaf, leaf

    def __enter__(self):
        self.at, self.kept, self.nudged = -1, [], {}
        return super().__enter__()

    def called(self, func: Any, args: tuple, kwargs: dict) -> Any:
        if self.nudged:
            args, kwargs = mapped(self._current, (args, kwargs))
        result = func(*args, **kwargs)
        if self.at in self.stage.calls:
            check_function(self.stage, self.at, self.name)
            self.kept.append(self.made(args, result))
        if self.at != self.stage.calls[-1]:
            return result
        sizes = [tensor[0].numel() for tensor in self.kept]
        if self.given is None:
            self.leaf = self.kept[0].new_zeros(len(self.kept[0]), sum(sizes)).requires_grad_()
        for tensor, change in zip(self.kept, self.leaf.split(sizes, 1), strict=True):
            self.nudged[id(tensor)] = tensor + change.view_as(tensor).to(tensor.dtype)
        return self._current(result)

    def _current(self, leaf: Any) -> Any:
        """An argument behind the stage: of a tensor of the stage, the nudged one."""
        return self.nudged.get(id(leaf), leaf)


def check_stage(predict: Predictor, sequence: Tensor, stage: Stage) -> None:
    """Raise Untraceable unless the tensors of a stage carry all that the prediction depends on.

    Moved to those of the complement, (1, 4, length), they have to give its prediction.
    """
    with torch.no_grad():
        other, ends = sequence.flip(1), []
        for rows in (sequence.clone(), other.clone()):
            ends.append(Calls(stage.calls).results(lambda rows=rows: predict(rows)))
        if any(tensor.shape[:1] != (1,) for tensor in ends[0]):
            raise Untraceable(f"{stage.name}: its first axis is not that of the sequences")
        change = torch.cat([(b - a).reshape(1, -1) for a, b in zip(*ends, strict=True)], 1)
        rows, nudge = sequence.clone(), Nudge(stage, change)
        with nudge:
            moved = predict(rows)
        if not agree(moved, predict(other), moved):
            raise Untraceable(f"{stage.name}: the rest of the model needs more than this layer")


def check_function(stage: Stage, call: int, function: str) -> None:
    """Raise Untraceable if a run calls another function where the stage was found."""
    expected = stage.functions[stage.calls.index(call)]
    if function != expected:
        raise Untraceable(
            f"{stage.name}: {function} is called where {expected} was found; the model does "
            "something else from call to call, such as building a part at its first call"
        )


class Expansion:
    """The change of a stage times the gradient there, for substitutions of some references.

    gradient : (n, n_tasks, numbers) of the predictions at the tensors of the stage, flattened
    """

    def __init__(self, windows: WindowedModel, stage: Stage, gradient: Tensor):
        self.windows, self.dtype = windows, gradient.dtype
        shapes = []
        for call in stage.calls:
            function, reference = windows.recording.calls[call]
            check_function(stage, call, function)
            shapes.append(reference.like.shape[1:])
        parts = gradient.split([math.prod(shape) for shape in shapes], 2)
        self.gradients = [
            part.reshape(*part.shape[:2], *shape) for part, shape in zip(parts, shapes, strict=True)
        ]

    def __call__(self, *changed: np.ndarray) -> Tensor:
        """(substitutions, n_tasks) linear effects."""
        if len(changed[0]) == 1:  # a batch of one looks like a broadcast constant
            return self(*(numbers.repeat(2) for numbers in changed))[:1]
        calls, changes = self.windows.recording.asked, self.windows.run(*changed)
        total = 0
        for call, change, gradient in zip(calls, changes, self.gradients, strict=True):
            gradient = gradient.to(change.dtype)
            if isinstance(change, Windowed):
                parts = [self._of_columns(change, slope) for slope in gradient.unbind(1)]
            else:
                at = self.windows.replay.batch.at
                change = self.windows.change(change, call)
                products = [change * slope[at] for slope in gradient.unbind(1)]
                parts = [product.reshape(len(change), -1).sum(1) for product in products]
            total = total + torch.stack(parts, 1).to(self.dtype)
        return total

    def _of_columns(self, change: Windowed, slope: Tensor) -> Tensor:
        """(substitutions,) sums over the columns of a window of its change times a gradient.

        slope : gradient of one task, of the shape of the tensor that the window stands for
        """
        delta = change.delta(change.frame)  # (width, rows, *features)
        table = columns_of(slope, change.inner, change.axis).flatten(0, 1)
        length = change.length
        columns = change.batch.columns(change.frame, length, 0, length)
        product = delta * table.index_select(0, columns).view(delta.shape)
        return product.movedim(1, 0).flatten(1).sum(1)


def _is_beyond(job: Job, total: int, stage: Stage) -> bool:
    """True if windows cannot follow the model up to a stage."""
    with suppress(Untraceable):
        plan_windows("windowed", job, total, stage.calls)
        return False
    return True


def _layerwise(job: Job, stage: Stage, before: list[Stage]) -> Tensor:
    """Scores of an expansion at a stage; an error names the last stage before it that works."""
    total = int((job.stretch == 0).sum())
    try:
        plan = plan_windows("windowed", job, total, stage.calls)
    except Untraceable as error:
        last = before[bisect(before, 0, lo=1, key=lambda s: _is_beyond(job, total, s)) - 1]
        raise Untraceable(f"{error}; the last depth that works is {last.name}") from error
    batch_size = plan.batch_size

    def effects_of(predict, sequences, changed, report, check) -> Tensor:
        nonlocal batch_size
        gradient, output = gradient_by_task(job, predict, sequences, Nudge(stage))
        if check:
            check_stability(predict, sequences, output)
        expansion = Expansion(plan.windows(predict, sequences), stage, gradient)
        effects, batch_size = by_position(expansion, changed, batch_size, report)
        return effects

    at_once = min(plan.sequences, replace(job, batch_size=None).at_once(_GRAPH))
    try:
        scores = in_blocks(job, "layer-wise TISM", at_once, effects_of)
    finally:
        leave_plain(job.predict.model)
    return warn_if_not_finite(scores, "layer-wise TISM")
