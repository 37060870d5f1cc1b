"""From a model and sequences or variants to a store of scores, by any method."""

from __future__ import annotations

import hashlib
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
from tism.first_order import input_gradient
from tism.first_order import tism as first_order
from tism.running import OutputFn, Tasks, select_tasks
from tism.score.store import ScoreStore, Sequences, StoreError, create_store

if TYPE_CHECKING:
    import pandas as pd

    from tism.score.genome import Variants

MAPS, VARIANTS = "maps", "variants"
_PROBE_TOLERANCE = 0.01  # devices and library versions round differently; another model is far off


@dataclass(frozen=True)
class Method:
    """A way to score: a row of `METHODS`.

    scores : maps model, one_hot and tasks, and by keyword start, stop, output_fn, batch_size and
        device, as in `tism.ism`, to (n, n_tasks, 4, stop - start)
    is_effect : whether a score is the effect of a substitution, as a variant needs it
    about : one line of help
    """

    scores: Callable[..., Tensor]
    is_effect: bool
    about: str


def _of_whole_sequences(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A method that knows no positions, cut to those asked for."""

    def scores(*arguments: Any, start: int = 0, stop: int | None = None, **options: Any) -> Tensor:
        return function(*arguments, **options)[..., start:stop]

    return scores


def _budgeted(model: nn.Module, one_hot: Tensor, tasks: Tasks = None, **options: Any) -> Tensor:
    """Two passes a task, for TISM, and a fifteenth of the substitutions: 50 passes at 251 bp."""
    n_tasks = predict(model, one_hot[:1], tasks, **options).shape[1]
    most = 3 * one_hot.shape[2] + 1
    budget = min(2 * n_tasks + most / 15, max(most, 1 + n_tasks))
    return budgeted_ism(model, one_hot, tasks, budget=budget, **options).estimate


METHODS = {
    "tism": Method(
        _of_whole_sequences(first_order),
        True,
        "first-order Taylor approximation of ISM: one gradient a task",
    ),
    "ism": Method(ism, True, "exact in silico saturation mutagenesis: every substitution"),
    "budgeted": Method(
        _of_whole_sequences(_budgeted),
        False,  # a variant is one substitution, which "ism" runs
        "estimate of ISM at about a fifteenth of its cost: the largest effects exact",
    ),
    "gradient": Method(
        _of_whole_sequences(input_gradient), False, "gradient of the prediction, as it is"
    ),
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
    """Score sequences or variants into the store at `path`, or go on with it where it stopped.

    path : folder of the store; made if it is not there
    model, tasks, output_fn, batch_size, device : as in `tism.ism`
    sequences : (n, 4, length); `genome.Windows` and `genome.Variants` are read chunk by chunk
    method : a key of `METHODS`
    chunk_size : sequences a chunk, None chooses; the most that a kill or a full disk loses
    shard : (part, parts), the first part being 1: this process writes every parts-th chunk
    progress : show a bar (needs tqdm)

    Returns the store. Its scores are (n, n_tasks, 4, length), of variants (n, n_tasks); NaN where
    other shards have not been yet.
    Raises StoreError, naming what differs, for a store of another model, task list, method,
    version or set of sequences, which stays as it is; OSError where the disk is full.
    """
    is_variants = getattr(sequences, "alternate", None) is not None
    chosen = _method(method, VARIANTS if is_variants else MAPS)
    options = {"output_fn": output_fn, "device": device}
    first = _first_prediction(model, sequences, options)
    selected = select_tasks(tasks, len(first))
    row_shape = () if is_variants else (4, sequences[:1].shape[2])
    estimated = {"estimation": versions.ESTIMATION} if method == "budgeted" else {}
    store = create_store(
        path,
        {
            "kind": VARIANTS if is_variants else MAPS,
            "method": method,
            "tasks": selected,
            "model": model_checksum(model),
            "scoring": versions.SCORING,
            **estimated,
        },
        sequences,
        row_shape=(len(selected), *row_shape),
        dtype=torch.promote_types(torch.float32, first.dtype),
        chunk_size=chunk_size,
        columns=getattr(sequences, "columns", None),
        notes={"first_prediction": first.tolist()},
    )
    _check_prediction(store, first)
    options["batch_size"] = batch_size

    def compute(rows: slice) -> Tensor:
        if is_variants:
            return variant_effects(model, sequences, tasks, rows=rows, method=method, **options)
        return chosen.scores(model, sequences[rows], tasks, **options)

    store.fill(compute, shard=shard, progress=progress)
    return store


def variant_effects(
    model: nn.Module,
    variants: Variants,
    tasks: Tasks = None,
    *,
    rows: slice = slice(None),
    method: str = "ism",
    output_fn: OutputFn | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
) -> Tensor:
    """(n, n_tasks) effect of each variant: prediction with the alternate base minus the reference.

    By "ism" it is `tism.ism` of the variant's window at the variant's position and base; by "tism"
    its first-order approximation. Other arguments as in `tism.ism`.
    """
    maps = _method(method, VARIANTS).scores(
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
    """The variants of a complete store, one row each, with an `effect_<task>` column a task."""
    if store.identity["kind"] != VARIANTS:
        raise StoreError(f"{store.path}: holds maps of sequences, not effects of variants")
    table, effects = store.regions, store.read().numpy()
    for column, task in enumerate(store.identity["tasks"]):
        table[f"effect_{task}"] = effects[:, column]
    return table


def model_checksum(model: nn.Module) -> str:
    """sha256 of the names, shapes, types and bytes of a model's parameters and buffers.

    Tells models of other weights apart, not models that compute something else from the same ones.
    """
    state = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            state.update(flat.view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def _method(name: str, kind: str) -> Method:
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {name!r}")
    if kind == VARIANTS and not METHODS[name].is_effect:
        known = ", ".join(key for key, method in METHODS.items() if method.is_effect)
        raise ValueError(f"method {name!r} gives no effect of a variant; choose one of {known}")
    return METHODS[name]


def _first_prediction(model: nn.Module, sequences: Sequences, options: dict[str, Any]) -> Tensor:
    """(tasks,) of the first sequence: does the model take it at all, and how many tasks are there.

    In a store it also tells apart what has the same weights: another architecture or output_fn.
    """
    if not len(sequences):
        raise ValueError("sequences is empty: give at least one")
    prediction = predict(model, sequences[:1], **options)[0]
    if not prediction.isfinite().all():
        raise ValueError(f"model predicts {_few(prediction)} for the first sequence")
    return prediction


def _check_prediction(store: ScoreStore, prediction: Tensor) -> None:
    stored = torch.tensor(store.notes["first_prediction"], dtype=prediction.dtype)
    tolerance = _PROBE_TOLERANCE * max(float(stored.abs().max()), 1e-30)
    if stored.shape != prediction.shape or bool(((stored - prediction).abs() > tolerance).any()):
        raise StoreError(
            f"{store.path}: its model predicted {_few(stored)} for the first sequence, this one "
            f"predicts {_few(prediction)}: another architecture or output_fn; nothing was "
            "changed: score into another store, or delete this one"
        )


def _few(values: Tensor) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values[:3].tolist())
    return f"({shown}, ...)" if len(values) > 3 else f"({shown})"
