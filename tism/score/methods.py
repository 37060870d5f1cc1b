"""Methods of scoring; from a model and sequences or variants to a store of scores."""

from __future__ import annotations

import hashlib
import inspect
import logging
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tism import __version__, running, versions
from tism.budgeted import budgeted_ism
from tism.exact import ism, predict
from tism.first_order import input_gradient, tism
from tism.predictor import NotFiniteWarning, OutputFn, Predictor, UnstableModelWarning, evaluating
from tism.score.averages import Averaged, checked_average, over_folds
from tism.score.store import (
    ALTERNATES,
    SCORES,
    Rows,
    ScoreStore,
    Sequences,
    StoredWindows,
    StoreError,
    check_shard,
    create_store,
)

if TYPE_CHECKING:
    import pandas as pd

    from tism.score.genome import Variants

_log = logging.getLogger(__name__)
MAPS, VARIANTS = "maps", "variants"
PREDICTIONS, SPREAD = "predictions", "spread"
EFFECTS = ("difference", "log2fc")
_SHARE_EXACT = 0.2  # of the substitutions; on windows about a fifteenth of the cost of plain ISM
_VARIANTS_AT_ONCE = 1024  # gradients of more would fill the memory
_MAPS_IN_CHUNK = 256  # at most, if a map takes one gradient for each task
_BASES_IN_BATCH = 2**15  # on a CPU, if a sequence takes one pass
_PROBES = 8  # sequences whose predictions tell models apart
_TOLERANCE = 1e-4  # of the largest prediction: devices and library versions round differently


@dataclass(frozen=True)
class Method:
    """One way to score; `METHODS` lists all.

    scores : function of the model, one_hot and tasks, with the keyword arguments start, stop, args,
        output_fn, batch_size and device of `tism.ism`; returns (n, n_tasks, 4, positions)
    effects : function of the model, the windows of the references, those of the alternates and
        tasks, with the same keywords but start and stop; returns the effects and the predictions
        at the references, both (n, n_tasks); None where a method gives no effect of a variant
    about : what the method computes, for `tism score --help`
    """

    scores: Callable[..., Tensor]
    effects: Callable[..., tuple[Tensor, Tensor]] | None
    about: str


def _budgeted(
    model: nn.Module, one_hot: Tensor, tasks: running.Tasks = None, *, start: int = 0,
    stop: int | None = None, **options: Any,
) -> Tensor:  # fmt: skip
    """Estimate ISM with a fifth of the 3 * length substitutions computed exactly."""
    m = round(3 * len(running.select_positions(start, stop, one_hot.shape[2])) * _SHARE_EXACT)
    return budgeted_ism(model, one_hot, tasks, m=m, start=start, stop=stop, **options).estimate


def _exact_effects(
    model: nn.Module, reference: Tensor, alternate: Tensor, tasks: running.Tasks, **options: Any
) -> tuple[Tensor, Tensor]:
    before = predict(model, reference, tasks, **options)
    return predict(model, alternate, tasks, **options) - before, before


def _first_order_effects(
    model: nn.Module, reference: Tensor, alternate: Tensor, tasks: running.Tasks, **options: Any
) -> tuple[Tensor, Tensor]:
    gradient = input_gradient(model, reference, tasks, **options)
    change = (alternate - reference).to(gradient.dtype)
    effects = torch.einsum("ntbl,nbl->nt", gradient, change)
    return effects, predict(model, reference, tasks, **options)


METHODS = {
    "tism": Method(
        tism, _first_order_effects, "first-order Taylor approximation of ISM, by gradients"
    ),
    "ism": Method(ism, _exact_effects, "exact, every substitution"),
    # a variant is a single substitution, which "ism" computes
    "budgeted": Method(_budgeted, None, "a fifth of the substitutions exact, the others estimated"),
    "gradient": Method(input_gradient, None, "the gradient, not corrected"),
}


def score_to_store(
    path: str | Path,
    model: nn.Module | Sequence[nn.Module],
    sequences: Sequences,
    tasks: running.Tasks = None,
    *,
    method: str = "tism",
    mutate: int | tuple[int, int] | None = None,
    average: str | Sequence[str] = (),
    args: tuple[Any, ...] = (),
    output_fn: OutputFn | None = None,
    chunk_size: int | None = None,
    shard: tuple[int, int] = (1, 1),
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    allow_nondeterministic: bool = False,
    notes: Mapping[str, Any] | None = None,
    provenance: Callable[[], Mapping[str, Any]] = dict,
    opened: Callable[[ScoreStore], None] = lambda store: None,
) -> ScoreStore:
    """Score sequences or variants into the store at `path`; go on where an earlier call stopped.

    path, method : folder of the store, created if it does not exist; a key of `METHODS`
    model, tasks, args, output_fn, batch_size, device : as in `tism.ism`; several models (the folds
        of a cross-validation) give the mean of their scores and the array "spread"
    sequences : (n, 4, length); those of `tism.score.genome` are read chunk by chunk
    mutate : score the middle positions only, as many as this, or those from start to stop
    chunk_size : sequences written at once; a kill or a full disk loses at most these
    shard : (part, parts) with 1 <= part <= parts; this call writes every parts-th chunk
    average : "strand", "shift:K" or both, see `checked_average`: scores of the mean prediction
    progress : show a progress bar (needs tqdm)
    allow_nondeterministic : score even a model whose predictions depend on chance or their batch
    notes : what to keep beside the identity, as JSON
    provenance : called when the store is made; returns more of that, such as the input's checksums
    opened : called with the store before anything is computed

    Returns the store. Its scores are (n, n_tasks, 4, positions), or (n, n_tasks) for variants,
    whose predictions at the reference are the array "predictions"; "spread" is the standard
    deviation of the scores of several models. NaN where other shards have not written yet.
    `ScoreStore.not_finite` lists the sequences with scores that are not finite.
    Raises StoreError, which names what differs, for a store of another model, task list, method,
    version or set of sequences, and leaves that as it is; OSError where the disk is full.
    """
    options = {"output_fn": output_fn, "device": device, "batch_size": batch_size}
    models = [model] if isinstance(model, nn.Module) else list(model)
    asked = _Asked(models, sequences, method, args, options, average, allow_nondeterministic)
    with _unstable_refused(allow_nondeterministic):
        probe = asked.probe()
        identity, layout = asked.identity(tasks, mutate, probe)
        layout |= {"chunk_size": chunk_size, "shard": check_shard(shard)}
        store = asked.store(path, identity, layout, probe, dict(notes or {}), provenance)
        opened(store)
        store.fill(asked.computation(store), shard=shard, progress=progress)
    return store


@contextmanager
def _unstable_refused(allowed: bool) -> Iterator[None]:
    """Raise ValueError instead of the warning of a model of chance or batch-mates, unless allowed.

    Scores that are not finite raise no warning: the store counts and names them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotFiniteWarning)
        warnings.simplefilter("ignore" if allowed else "error", UnstableModelWarning)
        try:
            yield
        except UnstableModelWarning as error:
            raise ValueError(f"{error}; {_ALLOW}") from error


@dataclass(frozen=True)
class _Asked:
    """What `score_to_store` was asked for."""

    models: list[nn.Module]
    sequences: Sequences
    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    average: str | Sequence[str]
    allow_nondeterministic: bool

    @property
    def kind(self) -> str:
        return VARIANTS if hasattr(self.sequences, "alternates") else MAPS

    @property
    def by_gradient(self) -> bool:
        """True if a map takes no more than a gradient for each task."""
        return self.method in ("tism", "gradient")

    def store(
        self, path: str | Path, identity: dict, layout: dict, probe: Tensor, notes: dict,
        provenance: Callable[[], Mapping[str, Any]],
    ) -> ScoreStore:  # fmt: skip
        """Open the store of exactly these scores, or create it."""
        code = source_checksums(self.models, self.options["output_fn"])

        def kept() -> dict[str, Any]:
            about = {**getattr(self.sequences, "notes", {}), **notes, **provenance()}
            return {**about, "probe": _as_json(probe), "code": code, "versions": _versions()}

        columns = getattr(self.sequences, "columns", None)
        store = create_store(path, identity, self.sequences, **layout, columns=columns, notes=kept)
        _check_probe(store, probe, {**code, **notes}, self.allow_nondeterministic)
        return store

    def probe(self) -> Tensor:
        """Return each model's predictions for a few sequences of all parts, (probes, tasks).

        They show that the model takes the sequences, how many tasks it has, and that a prediction
        depends neither on chance nor on the rest of its batch. A store keeps them to tell apart
        models of the same weights but of another architecture or output_fn.
        """
        _checked_method(self.method, self.kind)
        if not len(self.sequences):
            raise ValueError("sequences is empty: give at least one")
        found = [self._probe_of(model) for model in self.models]
        if len({probe.shape for probe in found}) != 1:
            counts = ", ".join(str(probe.shape[1]) for probe in found)
            raise ValueError(f"all models must have the same tasks, got {counts or 'no model'}")
        return torch.cat(found)

    def _probe_of(self, model: nn.Module) -> Tensor:
        n, options = len(self.sequences), self.options
        chosen = np.unique(np.linspace(0, n - 1, _PROBES).astype(int)).tolist()
        one_hot = torch.cat([self.sequences[row : row + 1] for row in chosen])
        lent = {"args": _rows_of(self.args, chosen, n), "n": len(one_hot)}
        output_fn = options["output_fn"] and _named(options["output_fn"])
        with evaluating(model, output_fn, options["device"], **lent) as predictor, torch.no_grad():
            length, device = one_hot.shape[2], predictor.device
            size = running.choose_batch_size(options["batch_size"], length, device)
            together = _predicted(predictor, one_hot, size)
            if not self.allow_nondeterministic:
                tolerance = predictor.tolerance(together, together - together.roll(1, 0))
                for again, what in ((size, _BY_CHANCE), (1, _BY_BATCH)):
                    found = _predicted(predictor, one_hot, again)
                    if not torch.allclose(found, together, 0, tolerance, equal_nan=True):
                        raise ValueError(f"the model's predictions {what}; {_ALLOW}")
        if (~together.isfinite()).all(0).any():
            raise ValueError(f"model predicts {_few(together[0])} for the first sequence")
        return together.cpu()

    def identity(
        self, tasks: running.Tasks, mutate: int | tuple[int, int] | None, probe: Tensor
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what the scores depend on, and what the store's arrays look like."""
        identity = {
            "kind": self.kind,
            "method": self.method,
            "tasks": running.select_tasks(tasks, probe.shape[1]),
            "model": self._checksum(),
            "scoring": versions.SCORING,
        }
        length = self.sequences[:1].shape[2]
        if average := checked_average(self.average, length):
            _check_no_tracks(self.args, length)
            identity["average"] = average
        if self.args:
            identity["args"] = _checksum_of(self.args)
        if self.method == "budgeted":
            identity |= {"estimation": versions.ESTIMATION, "exact": _SHARE_EXACT}
        shape = (len(identity["tasks"]),)
        layout = {"dtype": torch.promote_types(torch.float32, probe.dtype), "row_shape": shape}
        if self.kind == VARIANTS:
            if mutate is not None:
                raise ValueError("mutate is for maps; a variant has its own positions")
            layout |= {"further": {PREDICTIONS: shape}, "alternates": self.sequences.alternates}
        else:
            identity["positions"] = [*mutated_positions(mutate, length)]
            shape = (*shape, 4, int(np.diff(identity["positions"])[0]))
            layout |= {"further": {}, "row_shape": shape}
            if self.by_gradient:
                layout["most_maps"] = _MAPS_IN_CHUNK
        if len(self.models) > 1:
            layout["further"][SPREAD] = shape
        return identity, layout

    def _checksum(self) -> str | list[str]:
        sums = [model_checksum(model) for model in self.models]
        if len(set(sums)) < len(sums) and self.models[0].state_dict():
            raise ValueError("two of the models have the same weights; give each fold once")
        return sums if len(sums) > 1 else sums[0]

    def computation(self, store: ScoreStore) -> Callable[[slice], Any]:
        """Return the function from a range of sequences to what the store keeps of them.

        Windows of a genome are read from the store, where their checksum was compared.
        """
        sequences, tasks = self.sequences, store.identity["tasks"]
        tasks = tasks[0] if len(tasks) == 1 else tasks  # one pass takes larger batches
        if hasattr(sequences, "indices"):
            sequences = StoredWindows(store)
        models, options = self.models, dict(self.options)
        if getattr(options["output_fn"], "__hash__", True) is None:
            options["output_fn"] = partial(options["output_fn"])  # so that the engine is kept
        if self.average:
            models = [Averaged(each, options["output_fn"], self.average) for each in models]
            options["output_fn"] = None
        options["batch_size"] = self._batch_size(models[0], tasks, store.length)
        if self.kind == VARIANTS:
            alternates = StoredWindows(store, ALTERNATES)
            effects = partial(self._effects, tasks, options, sequences, alternates)
            return partial(_of_folds, models, effects)
        options["start"], options["stop"] = store.positions
        method = METHODS[self.method].scores

        def maps(model: nn.Module, rows: slice) -> dict[str, Tensor]:
            found = method(model, sequences[rows], tasks, args=self._args(rows), **options)
            return {SCORES: found}

        return partial(_of_folds, models, maps)

    def _batch_size(self, model: nn.Module, tasks: running.Tasks, length: int) -> int | None:
        """Return the batch size asked for, else what suits one pass a sequence on a CPU.

        A gradient of an average keeps the activations of all its views.
        """
        home = [parameter.device for parameter in model.parameters()]
        device = running.resolve_device(self.options["device"], home)
        size = self.options["batch_size"]
        single = isinstance(tasks, int) if self.by_gradient else self.kind == VARIANTS
        if size is not None:
            return size
        if single and device.type == "cpu":
            size = max(1, _BASES_IN_BATCH // length)
        if isinstance(model, Averaged) and self.method != "ism":
            size = size or running.choose_batch_size(None, length, device)
            size = max(1, size // model.n_views)
        return size

    def _effects(
        self, tasks: running.Tasks, options: dict, references: Sequences, alternates: Sequences,
        model: nn.Module, rows: slice,
    ) -> dict[str, Tensor]:  # fmt: skip
        parts, effects = [], METHODS[self.method].effects
        for start in range(rows.start, rows.stop, _VARIANTS_AT_ONCE):
            part = slice(start, min(start + _VARIANTS_AT_ONCE, rows.stop))
            pair = references[part], alternates[part]
            parts.append(effects(model, *pair, tasks, args=self._args(part), **options))
        found = (torch.cat(each) for each in zip(*parts, strict=True))
        return dict(zip((SCORES, PREDICTIONS), found, strict=True))

    def _args(self, rows: slice) -> tuple[Any, ...]:
        return _rows_of(self.args, rows, len(self.sequences))


def _of_folds(
    models: list[nn.Module], compute: Callable[..., dict[str, Tensor]], rows: slice
) -> dict[str, Tensor]:
    """Return the mean over models of what is computed with each, and the spread of the scores."""
    found = [compute(model, rows) for model in models]
    if len(found) == 1:
        return found[0]
    folded = {name: over_folds([each[name] for each in found]) for name in found[0]}
    return {name: mean for name, (mean, _) in folded.items()} | {SPREAD: folded[SCORES][1]}


def _check_no_tracks(args: tuple[Any, ...], length: int) -> None:
    """Raise ValueError where an argument has a position axis, which an average would not turn."""
    for number, value in enumerate(args):
        if length in getattr(value, "shape", ())[1:]:
            raise ValueError(
                f"args[{number}] has shape {tuple(value.shape)}, a value a position, which an "
                "average over strands or shifts cannot turn with the window; leave average out"
            )


def _versions() -> dict[str, str]:
    names = {name: version(name) for name in ("torch", "numpy", "zarr")}
    return {"tism": __version__, "python": platform.python_version(), **names}


def _predicted(predictor: Predictor, one_hot: Tensor, size: int) -> Tensor:
    parts = [slice(start, start + size) for start in range(0, len(one_hot), size)]
    return torch.cat(
        [predictor.of(part)(predictor.prepare(one_hot[part].clone())) for part in parts]
    )


def mutated_positions(mutate: int | tuple[int, int] | None, length: int) -> tuple[int, int]:
    """Return start and stop of the positions to score: the middle ones, a range, or None for all.

    The middle positions are those of a shorter window that is centred on the same base.
    """
    if mutate is None:
        return 0, length
    if isinstance(mutate, tuple | list):
        chosen = running.select_positions(*mutate, length)
        if any(edge is not None and not -length <= edge <= length for edge in mutate):
            raise ValueError(
                f"mutate must lie within the {length} positions of a window, got {mutate}"
            )
        return chosen.start, chosen.stop
    if isinstance(mutate, bool) or not isinstance(mutate, int) or not 1 <= mutate <= length:
        raise ValueError(
            f"mutate must be from 1 to the {length} positions of a window, or (start, stop), "
            f"got {mutate!r}"
        )
    start = length // 2 - mutate // 2
    return start, start + mutate


def variant_effects(
    model: nn.Module,
    variants: Variants,
    tasks: running.Tasks = None,
    *,
    rows: Rows = slice(None),
    method: str = "ism",
    **options: Any,
) -> Tensor:
    """Return the effect of each variant on each task, (n, n_tasks).

    The effect is the prediction at the alternate's window minus that at the reference's: exact by
    method "ism", its first-order Taylor approximation by "tism". The other arguments are the
    keywords args, output_fn, batch_size and device of `tism.ism`.
    """
    effects = _checked_method(method, VARIANTS).effects
    return effects(model, variants[rows], variants.alternates[rows], tasks, **options)[0]


def variant_table(
    store: ScoreStore,
    *,
    effect: str = "difference",
    task_names: list[str] | None = None,
    drop: bool = False,
) -> pd.DataFrame:
    """Return a table of the variants of a complete store, with three columns or more a task.

    effect : "log2fc" adds the columns log2fc_<task>, log2(alternate / reference), which needs
        positive predictions
    task_names : names of all tasks of the model, for the columns; None takes their numbers
    drop : leave variants out whose effects are not finite, instead of refusing them

    Columns: those of the store; effect_<task>, the alternate minus the reference;
    reference_<task> and alternate_<task>, the predictions (by "tism" the alternate's is estimated);
    with several models also spread_<task>, the standard deviation of their effects.
    """
    if store.identity["kind"] != VARIANTS:
        raise StoreError(f"{store.path}: holds maps of sequences, not effects of variants")
    if effect not in EFFECTS:
        raise ValueError(f"effect must be one of {', '.join(EFFECTS)}; got {effect!r}")
    store.check()
    effects, reference = (store.read(name=name).numpy() for name in (SCORES, PREDICTIONS))
    spread = store.read(name=SPREAD).numpy() if SPREAD in store.arrays else None
    kept = store.finite_rows(np.isfinite(effects).all(1) & np.isfinite(reference).all(1), drop)
    columns = {}
    for place, name in enumerate(named_tasks(store, task_names)):
        before, change = reference[kept, place], effects[kept, place]
        columns |= {f"effect_{name}": change, f"reference_{name}": before}
        columns[f"alternate_{name}"] = before + change
        if SPREAD in store.arrays:
            columns[f"spread_{name}"] = spread[kept, place]
        if effect == "log2fc":
            columns[f"log2fc_{name}"] = _log2_fold_change(before, before + change, name)
    return store.regions.iloc[kept].reset_index(drop=True).assign(**columns)


def _log2_fold_change(reference: np.ndarray, alternate: np.ndarray, task: str) -> np.ndarray:
    n = int(((reference <= 0) | (alternate <= 0)).sum())
    if n:
        raise ValueError(
            f"log2fc needs positive predictions, but {n:,} of {len(reference):,} variants have "
            f"others for task {task}; leave --effect out"
        )
    return np.log2(alternate / reference)


def named_tasks(store: ScoreStore, names: list[str] | None) -> list[str]:
    """Return a name of each task of a store; ValueError where they do not fit the model's tasks.

    names : one for each task of the model; None takes the numbers
    """
    tasks, n = store.identity["tasks"], len(store.notes["probe"][0])
    if names is None:
        return [str(task) for task in tasks]
    if len(names) != n or len(set(names)) < n or not all(name.strip() for name in names):
        wanted = f"task names must be {n} different ones, one for each task of the model"
        raise ValueError(f"{wanted}, got {len(names)} ({len(set(names))} different)")
    return [names[task] for task in tasks]


def model_checksum(model: nn.Module) -> str:
    """Return the sha256 of the names, shapes, types and bytes of the parameters and buffers.

    Models with the same weights have the same checksum, even if they compute different things.
    """
    state = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            _add_tensor(state, name, tensor)
    return state.hexdigest()


def _add_tensor(state: Any, name: str, tensor: Tensor) -> None:
    state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    state.update(flat.view(torch.uint8).numpy().tobytes())


def _checksum_of(args: tuple[Any, ...]) -> str:
    state = hashlib.sha256()
    for number, value in enumerate(args):
        if isinstance(value, Tensor | np.ndarray):
            _add_tensor(state, str(number), torch.as_tensor(value))
        else:
            state.update(f"{number} {value!r}".encode())
    return state.hexdigest()


def _rows_of(args: tuple[Any, ...], rows: Any, n: int) -> tuple[Any, ...]:
    """Return the rows of the arguments that have one row per sequence; the others as they are."""
    return tuple(
        value[rows] if isinstance(value, Tensor | np.ndarray) and value.shape[:1] == (n,) else value
        for value in args
    )


def source_checksums(models: list[nn.Module], output_fn: OutputFn | None) -> dict[str, str]:
    """Return the sha256 of the files that define the models' layers, and of that of output_fn.

    Layers of torch itself are left out. Code without a file counts by its bytes.
    """
    types = {type(module) for model in models for module in model.modules()}
    parts = {
        "model": [kind for kind in types if not kind.__module__.startswith("torch.")],
        "output_fn": [] if output_fn is None else [output_fn],
    }
    found = {}
    for name, codes in parts.items():
        sources = sorted({_source(code) for code in codes})
        found[f"the code of {name}"] = hashlib.sha256(b"".join(sources)).hexdigest()
    return found


def _source(code: Any) -> bytes:
    function = inspect.unwrap(getattr(code, "forward", getattr(code, "func", code)))
    try:
        return Path(inspect.getfile(function)).read_bytes()
    except (OSError, TypeError):  # typed at a prompt, or built in
        compiled = getattr(function, "__code__", None)
        settings = function if is_dataclass(function) else ""
        return compiled.co_code if compiled else f"{type(function)} {settings}".encode()


def _checked_method(name: str, kind: str) -> Method:
    """Return the method of this name; ValueError where none has it or it does not suit the kind."""
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {name!r}")
    if kind == VARIANTS and METHODS[name].effects is None:
        known = ", ".join(key for key, method in METHODS.items() if method.effects is not None)
        raise ValueError(f"method {name!r} gives no effect of a variant; choose one of {known}")
    return METHODS[name]


_BY_CHANCE = "differ from call to call (dropout that stays on?), and so would the scores"
_BY_BATCH = (
    "depend on the other sequences of their batch (batch statistics?), which the scores would mix"
)
_ALLOW = "mend the model, or take the scores as they come by --allow-nondeterministic"


def _named(output_fn: OutputFn) -> OutputFn:
    """Return the function with its errors put into words; memory that ran out stays what it is."""

    def named(output: Any) -> Tensor:
        try:
            return output_fn(output)
        except Exception as error:
            if running.is_out_of_memory(error):
                raise
            problem = f"output_fn raised {type(error).__name__}: {error}"
            raise ValueError(
                f"{problem}; the model returned {type(output).__name__}, --debug shows more"
            ) from error

    return named


def _as_json(probe: Tensor) -> list[list[float | str]]:
    """Return predictions as JSON has them; those that are not finite as text."""
    return [[v if np.isfinite(v) else str(v) for v in row] for row in probe.tolist()]


def _check_probe(
    store: ScoreStore, probe: Tensor, made_with: dict[str, Any], allow_nondeterministic: bool
) -> None:
    """Raise StoreError where the store was begun with a model that predicts otherwise."""
    stored = torch.tensor([[float(v) for v in row] for row in store.notes["probe"]])
    probe, before = probe.to(stored.dtype), {**store.notes["code"], **store.notes}
    changed = " and ".join(name for name in made_with if before.get(name) != made_with[name])
    if stored.shape == probe.shape:
        size = stored.nan_to_num(0, 0, 0).abs()
        scale = size.amax(0).clamp_min(max(1e-6 * float(size.max()), 1e-30))
        gap = ((stored - probe).abs() / scale).nan_to_num(0, 0, 0)
        same = bool((stored.isfinite() == probe.isfinite()).all()) and gap.max() <= _TOLERANCE
        if same and changed:
            _log.warning("%s changed since the store was begun, but predicts the same", changed)
        if same or (allow_nondeterministic and not changed):
            return
    raise StoreError(
        f"{store.path}: its model predicted {_few(stored[0])} for the first sequence, this one "
        f"predicts {_few(probe[0])}: another architecture or output_fn "
        f"(changed: {changed or 'nothing in their files; see what these import'}); nothing was "
        "changed: score into another store, or delete this one"
    )


def _few(values: Tensor) -> str:
    shown = ", ".join(f"{value:.6g}" for value in values[:3].tolist())
    return f"({shown}, ...)" if len(values) > 3 else f"({shown})"
