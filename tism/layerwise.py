"""Taylor expansion at a hidden layer: exact up to that layer, linear behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tism.engine.choice import plan_windows
from tism.engine.replay import Recording, WindowedModel, function_name, is_recorded
from tism.engine.rules import leaves
from tism.engine.window import Reference, Untraceable, Windowed
from tism.exact import by_position, ism, scores_of_effects, substitutions_on_host
from tism.first_order import gradient_by_task, tism
from tism.predictor import OutputFn, Predictor, evaluating, warn_if_not_finite
from tism.running import (
    Tasks,
    choose_batch_size,
    in_one_tensor,
    progress_bar,
    select_positions,
    uncompiled,
)
from tism.sequence import validate_one_hot

_GRAPH = 2  # a graph that keeps every activation takes so many times the memory
_ROWS_TRACED = 2
_INSTEAD = 'use depth=0 (tism), budgeted_ism(base="tism") or depth=-1 (ism), which run any model'


class Stage(NamedTuple):
    """A place in the model where one tensor carries all that the rest of the model depends on.

    name : of the layer that makes the tensor, as in `model.named_modules()`, or of the function
    call : number of the recorded torch function that returns it; -1 is the input
    function : name of that function
    """

    name: str
    call: int
    function: str = ""


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
    one_hot = validate_one_hot(one_hot)
    if isinstance(depth, bool) or not isinstance(depth, int | str):
        raise TypeError(f"depth must be an int or the name of a layer, got {depth!r}")
    window = select_positions(start, stop, one_hot.shape[2])
    lent = {"output_fn": output_fn, "device": device, "args": args, "autocast": autocast}
    same = {"start": start, "stop": stop, "batch_size": batch_size, "progress": progress, **lent}
    if depth == -1:
        return ism(model, one_hot, tasks, **same)
    if depth not in ("input", 0):
        with evaluating(model, n=len(one_hot), **lent) as predict, following():
            stage = find_stage(stages(predict, one_hot[:1]), depth)
            if stage.call >= 0:
                return _layerwise(predict, one_hot, tasks, window, stage, batch_size, progress)
    return tism(model, one_hot, tasks, **same)


def depths(
    model: nn.Module,
    one_hot: Any,
    *,
    args: Sequence[Any] = (),
    output_fn: OutputFn | None = None,
    device: str | torch.device | None = None,
) -> list[str]:
    """Names of the layers at which `layerwise_tism` can expand, from the input to the output.

    A layer is listed if its result alone decides all that follows. Within a residual block only the
    sum is listed, because the input is needed until there. The place in the list is the depth.

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
    found = [Stage("input", -1)]
    for call in flow.cuts(output):
        name, layer = flow.place[call]
        if layer and flow.place[found[-1].call] == (name, layer):
            found.pop()  # of one layer, only the result counts
        found.append(Stage(name, call, flow.calls[call][0]))
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


class Dataflow(Recording):
    """A recording that knows from which earlier calls each call takes its tensors.

    place : for each call the name of its layer, or of its function within a module, and True if it
        is a layer, which is a module without submodules
    """

    def __init__(self, model: nn.Module, rows: Tensor):
        super().__init__()
        self.names = {module: name for name, module in model.named_modules()}
        self.inside: list[nn.Module] = []
        self.place: dict[int, tuple[str, bool]] = {-1: ("input", True)}
        self.sources: list[set[int]] = []
        self.maker, self.kept = {id(rows): -1}, [rows]  # kept alive so that ids stay unique

    @contextmanager
    def watching_modules(self) -> Iterator[None]:
        """Keep track of the module that is running."""

        def entered(module: nn.Module, _: Any) -> None:
            self.inside.append(module)

        def left(*_: Any) -> None:
            self.inside.pop()

        enter = nn.modules.module.register_module_forward_pre_hook(entered)
        leave = nn.modules.module.register_module_forward_hook(left)
        try:
            yield
        finally:
            enter.remove(), leave.remove()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs)
        if not is_recorded(func):
            return result
        call = len(self.calls) - 1
        tensors = (leaf for leaf in leaves((args, kwargs or {})) if isinstance(leaf, Tensor))
        self.sources.append({self.maker[id(t)] for t in tensors if id(t) in self.maker})
        self.place[call] = self._place(func)
        for leaf in leaves(result):
            if self.sources[-1] and isinstance(leaf, Tensor):
                self.maker[id(leaf)] = call
                self.kept.append(leaf)
        return result

    def _place(self, func: Any) -> tuple[str, bool]:
        module = next((m for m in reversed(self.inside) if self.names.get(m)), None)
        if module is not None and not any(True for _ in module.children()):
            return self.names[module], True
        name = function_name(func).strip("_")
        return (name if module is None else f"{self.names[module]}.{name}"), False

    def cuts(self, output: Tensor) -> list[int]:
        """Calls whose result is one tensor and all that later calls take of what came before."""
        last = self.maker.get(id(output))
        if last is None:
            raise Untraceable("its output is made by no function that depends on the input")
        last_use = {last: math.inf}
        for call in range(last, -1, -1):  # backwards, so that dead ends do not count
            if call in last_use:
                for source in self.sources[call]:
                    last_use.setdefault(source, call)
        found, furthest = [], -1
        for call in range(-1, last + 1):
            if call >= 0 and call in last_use and furthest <= call and self._is_tensor(call):
                found.append(call)
            furthest = max(furthest, last_use.get(call, -1))
        return found

    def _is_tensor(self, call: int) -> bool:
        result = self.calls[call][1]
        if not isinstance(result, Reference) or not result.tensor.is_floating_point():
            return False
        return result.tensor.shape[:1] == (_ROWS_TRACED,)  # rows come first


class Nudge(TorchFunctionMode):
    """Adds a zero that requires a gradient, `leaf`, to the result of a stage."""

    def __init__(self, stage: Stage):
        super().__init__()
        self.stage, self.at, self.leaf = stage, -1, None

    def __enter__(self):
        self.at = -1
        return super().__enter__()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not is_recorded(func):
            return result
        self.at += 1
        if self.at != self.stage.call:
            return result
        check_function(self.stage, function_name(func))
        self.leaf = torch.zeros_like(result).requires_grad_()
        in_place = any(result is leaf for leaf in leaves(args))
        return result.add_(self.leaf) if in_place else result + self.leaf


def check_function(stage: Stage, function: str) -> None:
    """Raise Untraceable if a run calls another function where the stage was found."""
    if function != stage.function:
        raise Untraceable(
            f"{stage.name}: {function} is called where {stage.function} was found; the model does "
            "something else from call to call, such as building a part at its first call"
        )


def gradient_at(predict: Predictor, sequences: Tensor, tasks: Tasks, stage: Stage) -> Tensor:
    """(n, n_tasks, *inner): gradient of the predictions at a stage of shape (n, *inner)."""
    return gradient_by_task(predict, predict.prepare(sequences), tasks, nudge=Nudge(stage))[0]


class Expansion:
    """The change of a stage times the gradient there, for substitutions of some references.

    gradient : (n, n_tasks, *inner), see `gradient_at`
    """

    def __init__(self, windows: WindowedModel, stage: Stage, gradient: Tensor):
        self.windows, self.stage = windows, stage
        function, reference = windows.recording.calls[stage.call]
        check_function(stage, function)
        self.reference, self.dtype = reference.tensor, gradient.dtype
        self.gradient = gradient.to(self.reference)

    def __call__(self, row: np.ndarray, position: np.ndarray, base: np.ndarray) -> Tensor:
        """(substitutions, n_tasks) linear effects."""
        if len(row) == 1:  # a batch of one looks like a broadcast constant
            return self(*(numbers.repeat(2) for numbers in (row, position, base)))[:1]
        change = self.windows.run(row, position, base, last=self.stage.call)
        product = self._of_columns if isinstance(change, Windowed) else self._of_all
        effects = [product(change, row, slope) for slope in self.gradient.unbind(1)]
        return torch.stack(effects, 1).to(self.dtype)

    def _of_columns(self, change: Windowed, row: np.ndarray, slope: Tensor) -> Tensor:
        delta = change.delta(change.frame)  # (width, rows, *features)
        table = Reference(slope).columns(change.inner, change.axis).flatten(0, 1)
        columns = change.batch.index(change.frame.columns + row * change.length)
        product = delta * table.index_select(0, columns).view(delta.shape)
        return product.movedim(1, 0).flatten(1).sum(1)

    def _of_all(self, change: Tensor, row: np.ndarray, slope: Tensor) -> Tensor:
        at = torch.from_numpy(row).to(change.device)
        return ((change - self.reference[at]) * slope[at]).flatten(1).sum(1)


def _layerwise(
    predict: Predictor,
    one_hot: Tensor,
    tasks: Tasks,
    window: range,
    stage: Stage,
    batch_size: int | None,
    progress: bool,
) -> Tensor:
    total = int((one_hot[:, :, window.start : window.stop] == 0).sum())
    with torch.no_grad():
        plan = plan_windows("windowed", predict, one_hot, window, total, batch_size)
    rows = plan.batch_size

    def score(first: int, last: int) -> Tensor:
        nonlocal rows
        owner, sequences = predict.of(slice(first, last)), predict.prepare(one_hot[first:last])
        gradient = gradient_at(owner, sequences, tasks, stage)
        with torch.no_grad():
            effects, rows = by_position(
                Expansion(WindowedModel(owner, sequences, plan.prepared), stage, gradient),
                substitutions_on_host(one_hot[first:last], window),
                rows,
                report,
            )
            return scores_of_effects(effects, sequences, window)

    at_once = choose_batch_size(None, _GRAPH * one_hot.shape[2], predict.device)
    with progress_bar(len(one_hot), progress, "layer-wise TISM") as report:
        scores, _ = in_one_tensor(len(one_hot), min(plan.sequences, at_once), score)
    return warn_if_not_finite(scores, "layer-wise TISM")
