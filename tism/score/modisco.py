"""TF-MoDISco's input files, made from a store of scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tism.score.files import replacing
from tism.score.store import ScoreStore, StoreError
from tism.taylor import hypothetical

if TYPE_CHECKING:
    import pandas as pd

_UNIFORM = (0.25, 0.25, 0.25, 0.25)
_BLOCK = 1024


def contributions(
    store: ScoreStore, task: int | None = None, *, background: Sequence[float] = _UNIFORM
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sequences and one task's hypothetical contributions, both (n, 4, positions).

    store : complete, of maps, by any method
    task : the number that the model gives the task; None if the store has only one task
    background : frequencies of A, C, G, T, which add up to 1; equal ones give `tism.centre`

    Both are float32, at the positions that were scored. TISM and the gradient have the same
    contributions: they differ by an offset that the four bases of a position share, and which
    cancels (`tism.taylor.hypothetical`).
    """
    column = column_of_task(store, task)
    if len(background) != 4 or not (min(background) >= 0 and abs(sum(background) - 1) <= 1e-6):
        raise ValueError(f"background must be four frequencies adding up to 1, got {background}")
    store.check()
    n, (first, last) = len(store), store.positions
    scores = np.empty((n, 4, last - first), np.float32)
    for start in range(0, n, _BLOCK):
        block = store.read(slice(start, start + _BLOCK))[:, column : column + 1]
        scores[start : start + _BLOCK] = hypothetical(block, background)[:, 0].numpy()
    return store.one_hot()[:, :, first:last].numpy(), scores


def column_of_task(store: ScoreStore, task: int | None) -> int:
    """Return where a store of maps keeps the scores of a task."""
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
    background: Sequence[float] = _UNIFORM,
    drop: bool = False,
) -> tuple[Path, Path]:
    """Write <prefix>.sequences.npz and <prefix>.attributions.npz, as `modisco motifs` reads them.

    Each file holds one array, "arr_0", of shape (n, 4, positions): the one-hot sequences (option
    -s) and the `contributions` (option -a), which modisco-lite 3 multiplies. For windows of a
    genome, <prefix>.bed has the same rows in the same order, cut at the ends of the chromosome.
    Returns the two paths.

    drop : leave out sequences whose contributions are not finite, instead of refusing them
    """
    if str(prefix).endswith("/") or Path(prefix).name in ("", ".."):
        raise ValueError(f"prefix must end in a file name, got {str(prefix)!r}")
    prefix = Path(prefix)
    arrays = contributions(store, task, background=background)
    rows = store.finite_rows(np.isfinite(arrays[1]).all((1, 2)), drop)
    paths = tuple(prefix.with_name(f"{prefix.name}.{k}.npz") for k in ("sequences", "attributions"))
    for path, array in zip(paths, arrays, strict=True):
        with replacing(path) as temporary:
            np.savez_compressed(temporary, array[rows])
    if "chromosomes" in store.notes:
        regions = regions_of_positions(store).iloc[rows]
        sizes = regions["chrom"].map(store.notes["chromosomes"])
        for name in ("start", "end"):
            regions[name] = regions[name].clip(0, sizes)
        with replacing(prefix.with_name(f"{prefix.name}.bed")) as temporary:
            regions.to_csv(temporary, sep="\t", header=False, index=False, quoting=3)
    return paths


def regions_of_positions(store: ScoreStore) -> pd.DataFrame:
    """Return chrom, start, end, name, score (0) and strand of the positions that were scored."""
    regions, (first, last) = store.regions, store.positions
    minus = regions["strand"] == "-"
    start = regions["start"] + first
    start = start.where(~minus, regions["end"] - last)
    found = regions[["chrom"]].assign(start=start, end=start + last - first)
    return found.assign(name=regions["name"], score=0, strand=regions["strand"])


def modisco_window(length: int) -> int:
    """Return the widest window (`-w`) that `modisco motifs` takes, an even number of bases."""
    return length - length % 2
