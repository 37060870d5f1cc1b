"""From a store of scores to the files that TF-MoDISco reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tism.score.files import replacing
from tism.score.store import ScoreStore, StoreError
from tism.taylor import hypothetical

UNIFORM = (0.25, 0.25, 0.25, 0.25)
_BLOCK = 1024


def contributions(
    store: ScoreStore, task: int | None = None, *, background: Sequence[float] = UNIFORM
) -> tuple[np.ndarray, np.ndarray]:
    """One-hot sequences and hypothetical contributions of one task, both (n, 4, length) float32.

    store : of maps, complete, by any method
    task : the model's number of it; None where the store has one only
    background : frequencies of A, C, G, T, adding up to 1; uniform ones give `tism.centre`

    An offset that the four bases of a position share cancels (`tism.taylor.hypothetical`), so that
    TISM and the gradient give the same.
    """
    column = _column_of_task(store, task)
    if len(background) != 4 or not (min(background) >= 0 and abs(sum(background) - 1) <= 1e-6):
        raise ValueError(f"background must be four frequencies adding up to 1, got {background}")
    n = len(store)
    scores = np.empty((n, 4, store.length), np.float32)
    for start in range(0, n, _BLOCK):
        block = store.read(slice(start, start + _BLOCK))[:, column : column + 1]
        scores[start : start + _BLOCK] = hypothetical(block, background)[:, 0].numpy()
    return store.one_hot().numpy(), scores


def _column_of_task(store: ScoreStore, task: int | None) -> int:
    tasks = store.identity["tasks"]
    if store.identity["kind"] != "maps":
        raise StoreError(f"{store.path}: holds effects of variants, not maps of sequences")
    if task is None and len(tasks) == 1:
        return 0
    if task not in tasks:
        raise ValueError(f"task must be one of {', '.join(map(str, tasks))}; got {task}")
    return tasks.index(task)


def write_modisco_pair(
    store: ScoreStore,
    prefix: str | Path,
    task: int | None = None,
    *,
    background: Sequence[float] = UNIFORM,
) -> tuple[Path, Path]:
    """Write <prefix>.sequences.npz and <prefix>.attributions.npz as `modisco motifs` reads them.

    Each holds one array, "arr_0", of shape (n, 4, length): the one-hot sequences (option -s) and
    the `contributions` (-a), which modisco-lite 3 multiplies itself. Returns the two paths.
    """
    prefix = Path(prefix)
    if prefix.name in ("", ".."):
        raise ValueError(f"prefix must end in a file name, got {str(prefix)!r}")
    arrays = contributions(store, task, background=background)
    paths = tuple(prefix.with_name(f"{prefix.name}.{k}.npz") for k in ("sequences", "attributions"))
    for path, array in zip(paths, arrays, strict=True):
        with replacing(path) as temporary:
            np.savez_compressed(temporary, array)
    return paths


def modisco_window(length: int) -> int:
    """The widest `-w` that `modisco motifs` takes: it cuts an even number of bases."""
    return length - length % 2
