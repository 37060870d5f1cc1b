"""Methods of scoring; from a model and sequences or variants to a store of scores."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tism import versions
from tism.budgeted import budgeted_ism
from tism.exact import ism, predict
from tism.first_order import input_gradient, tism
from tism.predictor import NotFiniteWarning, OutputFn
from tism.running import Tasks, select_tasks
from tism.score.store import Rows, ScoreStore, Sequences, StoreError, create_store, row_numbers

if TYPE_CHECKING:
    import pandas as pd

    from tism.score.genome import Variants

MAPS, VARIANTS = "maps", "variants"
_SHARE_EXACT = 0.2  # of the substitutions; on windows about a fifteenth of the cost of plain ISM
_TOLERANCE = 0.01  # devices and library versions round differently; other models differ by more


@dataclass(frozen=True)
class Method:
    """One way to score; `METHODS` lists all.

    scores : function of the model, one_hot and tasks, with the keyword arguments output_fn,
        batch_size and device of `tism.ism`, and with start and stop if `is_effect`; returns
        (n, n_tasks, 4, positions)
    is_effect : True if a score is the effect of one substitution, so that it can score a variant
    about : what the method computes, for `tism score --help`
    """

    scores: Callable[..., Tensor]
    is_effect: bool
    about: str


def _budgeted(model: nn.Module, one_hot: Tensor, tasks: Tasks = None, **options: Any) -> Tensor:
    """Estimate ISM with a fifth of the 3 * length substitutions computed exactly."""
    m = round(3 * one_hot.shape[2] * _SHARE_EXACT)
    return budgeted_ism(model, one_hot, tasks, m=m, **options).estimate


METHODS = {
    "tism": Method(
        tism, True, "first-order Taylor approximation of ISM, one gradient for each task"
    ),
    "ism": Method(ism, True, "exact in silico saturation mutagenesis, every substitution"),
    "budgeted": Method(
        _budgeted,
        False,  # a variant is a single substitution, which "ism" computes
        "estimate of ISM, exact for a fifth of the substitutions, those of large effect",
    ),
    "gradient": Method(input_gradient, False, "gradient of the prediction, not corrected"),
}


def score_to_store(
    path: str | Path,
    model: nn.Module,
    sequences: Sequences,
    tasks: Tasks = None,
    *,
    method: str = "tism",
    output_fn: OutputFn | None = None,
    chunk_size: int | None = None,
    shard: tuple[int, int] = (1, 1),
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> ScoreStore:
    """Score sequences or variants into the store at `path`; go on where an earlier call stopped.

    path : folder of the store; created if it does not exist
    model, tasks, output_fn, batch_size, device : as in `tism.ism`
    sequences : (n, 4, length); those of `tism.score.genome` are read chunk by chunk
    method : a key of `METHODS`
    chunk_size : sequences written at once; a kill or a full disk loses at most these
    shard : (part, parts) with 1 <= part <= parts; this call writes every parts-th chunk
    progress : show a progress bar (needs tqdm)

    Returns the store. Its scores are (n, n_tasks, 4, length), or (n, n_tasks) for variants; they
    are NaN where other shards have not written yet.
    Raises StoreError for a store of another model, task list, method, version or set of sequences;
    it names what differs and leaves the store as it is. Raises OSError where the disk is full.
    """
    kind = VARIANTS if hasattr(sequences, "alternate") else MAPS
    scores = _checked_method(method, kind).scores
    options = {"output_fn": output_fn, "device": device}
    store = _matching_store(path, model, sequences, tasks, method, kind, chunk_size, options)
    options["batch_size"] = batch_size

    def compute(rows: slice) -> Tensor:
        if kind == VARIANTS:
            return variant_effects(model, sequences, tasks, rows=rows, method=method, **options)
        return scores(model, sequences[rows], tasks, **options)

    store.fill(compute, shard=shard, progress=progress)
    return store


def _matching_store(
    path: str | Path,
    model: nn.Module,
    sequences: Sequences,
    tasks: Tasks,
    method: str,
    kind: str,
    chunk_size: int | None,
    options: dict[str, Any],
) -> ScoreStore:
    """Open the store of exactly these scores, or create it; StoreError where another is there."""
    prediction = _first_prediction(model, sequences, options)
    selected = select_tasks(tasks, len(prediction))
    identity = {
        "kind": kind,
        "method": method,
        "tasks": selected,
        "model": model_checksum(model),
        "scoring": versions.SCORING,
    }
    if method == "budgeted":
        identity |= {"estimation": versions.ESTIMATION, "exact": _SHARE_EXACT}
    map_shape = (4, sequences[:1].shape[2]) if kind == MAPS else ()
    store = create_store(
        path,
        identity,
        sequences,
        row_shape=(len(selected), *map_shape),
        dtype=torch.promote_types(torch.float32, prediction.dtype),
        chunk_size=chunk_size,
        columns=getattr(sequences, "columns", None),
        notes={"first_prediction": prediction.tolist()},
    )
    _check_prediction(store, prediction)
    return store


def variant_effects(
    model: nn.Module,
    variants: Variants,
    tasks: Tasks = None,
    *,
    rows: Rows = slice(None),
    method: str = "ism",
    output_fn: OutputFn | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
) -> Tensor:
    """Return the effect of each variant on each task, (n, n_tasks).

    The effect is the prediction with the alternate base minus that with the reference base: exact
    by method "ism", its first-order Taylor approximation by "tism". The other arguments are those
    of `tism.ism`.
    """
    rows = row_numbers(rows, len(variants))
    maps = _checked_method(method, VARIANTS).scores(
        model,
        variants[rows],
        tasks,
        start=variants.centre,
        stop=variants.centre + 1,
        output_fn=output_fn,
        batch_size=batch_size,
        device=device,
    )  # (n, n_tasks, 4, 1)
    alternate = torch.from_numpy(variants.alternate[rows].astype(np.int64))
    return maps[torch.arange(len(maps)), :, alternate, 0]


def variant_table(store: ScoreStore) -> pd.DataFrame:
    """Return a table of the variants of a complete store, with a column `effect_<task>` a task."""
    if store.identity["kind"] != VARIANTS:
        raise StoreError(f"{store.path}: holds maps of sequences, not effects of variants")
    table, effects = store.regions, store.read().numpy()
    for column, task in enumerate(store.identity["tasks"]):
        table[f"effect_{task}"] = effects[:, column]
    return table


def model_checksum(model: nn.Module) -> str:
    """Return the sha256 of the names, shapes, types and bytes of the parameters and buffers.

    Models with the same weights have the same checksum, even if they compute different things.
    """
    state = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            state.update(flat.view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def _checked_method(name: str, kind: str) -> Method:
    """Return the method of this name; ValueError where none has it or it does not suit the kind."""
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {name!r}")
    if kind == VARIANTS and not METHODS[name].is_effect:
        known = ", ".join(key for key, method in METHODS.items() if method.is_effect)
        raise ValueError(f"method {name!r} gives no effect of a variant; choose one of {known}")
    return METHODS[name]


def _first_prediction(model: nn.Module, sequences: Sequences, options: dict[str, Any]) -> Tensor:
    """Return the predictions for the first sequence, (tasks,).

    They show that the model takes the sequences, and how many tasks it has. A store keeps them to
    tell apart models of the same weights but of another architecture or output_fn.
    """
    if not len(sequences):
        raise ValueError("sequences is empty: give at least one")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotFiniteWarning)  # an error follows
        prediction = predict(model, sequences[:1], **options)[0]
    if not prediction.isfinite().all():
        raise ValueError(f"model predicts {_few(prediction)} for the first sequence")
    return prediction


def _check_prediction(store: ScoreStore, prediction: Tensor) -> None:
    stored = torch.tensor(store.notes["first_prediction"], dtype=prediction.dtype)
    tolerance = _TOLERANCE * max(float(stored.abs().max()), 1e-30)
    if stored.shape != prediction.shape or bool(((stored - prediction).abs() > tolerance).any()):
        raise StoreError(
            f"{store.path}: its model predicted {_few(stored)} for the first sequence, this one "
            f"predicts {_few(prediction)}: another architecture or output_fn; nothing was "
            "changed: score into another store, or delete this one"
        )


def _few(values: Tensor) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values[:3].tolist())
    return f"({shown}, ...)" if len(values) > 3 else f"({shown})"
