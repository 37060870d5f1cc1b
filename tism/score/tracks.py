"""Scores as tracks of a genome (bigWig, bedGraph) and as plain arrays (npz)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tism.score.files import replacing, replacing_text
from tism.score.modisco import column_of_task, regions_of_positions
from tism.score.store import ScoreStore, StoreError
from tism.taylor import centre, mean_effect, tism_from_gradient

TRACKS = ("mean-effect", "centred")
_BLOCK = 1024

Stretch = tuple[str, int, np.ndarray]  # chromosome, start (0-based), a value per base or NaN


def track(
    store: ScoreStore, task: int | None = None, *, value: str = "mean-effect", drop: bool = False
) -> Iterator[Stretch]:
    """Yield the stretches of the genome that windows cover, by chromosome and position.

    store : complete, of maps of the windows of a genome
    task : the number that the model gives the task; None if the store has only one task
    value : "mean-effect", minus the mean effect of the three substitutions of the reference base
        (`tism.mean_effect`), or "centred", the centred map at the reference base (`tism.centre`)
    drop : leave out windows with scores that are not finite, instead of refusing them

    Where windows overlap, a base has the mean over the windows. A base that is N has no value.
    """
    if value not in TRACKS:
        raise ValueError(f"value must be one of {', '.join(TRACKS)}; got {value!r}")
    store.check()
    if "chromosomes" not in store.notes:
        raise StoreError(f"{store.path}: its sequences are not windows of a genome")
    values = _values(store, column_of_task(store, task), value)
    rows = store.finite_rows(~np.isinf(values).any(1), drop)
    regions = regions_of_positions(store).iloc[rows]
    values = values[rows]
    if np.isnan(values).all():
        raise StoreError(f"{store.path}: all bases that were scored are N: nothing to export")
    minus = (regions["strand"] == "-").to_numpy()
    values[minus] = values[minus, ::-1]
    order = np.lexsort((regions["start"], regions["chrom"].astype(str)))
    return _merged(
        regions["chrom"].to_numpy()[order], regions["start"].to_numpy()[order], values[order]
    )


def _values(store: ScoreStore, column: int, value: str) -> np.ndarray:
    """Return one value per base of each window, (n, positions); NaN at N, inf where not finite."""
    start, stop = store.positions
    found = []
    for first in range(0, len(store), _BLOCK):
        rows = slice(first, first + _BLOCK)
        one_hot = store.one_hot(rows)[:, :, start:stop]
        scores = store.read(rows)[:, column : column + 1]
        if value == "centred":
            shown = centre(scores) * one_hot[:, None]
        else:
            shown = mean_effect(tism_from_gradient(scores, one_hot.to(scores.dtype)), one_hot)
        shown = shown.sum(2)[:, 0].masked_fill(one_hot.sum(1) == 0, float("nan"))
        shown[~scores.flatten(1).isfinite().all(1)] = float("inf")
        found.append(shown.numpy())
    return np.concatenate(found)


def _merged(chrom: np.ndarray, start: np.ndarray, values: np.ndarray) -> Iterator[Stretch]:
    """Yield the means of sorted windows, one stretch for those that touch."""
    width, first = values.shape[1], 0
    for after in range(1, len(chrom) + 1):
        together = after < len(chrom) and chrom[after] == chrom[first]
        if together and start[after] <= start[after - 1] + width:
            continue
        places = start[first:after, None] - start[first] + np.arange(width)
        known = ~np.isnan(values[first:after])
        total = np.bincount(places[known], values[first:after][known], places.max() + 1)
        count = np.bincount(places[known], minlength=places.max() + 1)
        with np.errstate(invalid="ignore"):
            yield str(chrom[first]), int(start[first]), total / count
        first = after


def write_bigwig(
    store: ScoreStore, path: str | Path, task: int | None = None, **how: object
) -> None:
    """Write a `track` as bigWig; its options are those of `track`.

    Raises OSError where the file does not hold every base afterwards, as on a full disk.
    """
    try:
        import pybigtools
    except ImportError:
        raise ImportError("bigWig needs pybigtools: pip install 'tism[score]'") from None
    path = Path(path)
    written: Counter[str] = Counter()

    def counted() -> Iterator[tuple[str, int, int, float]]:
        for base in _bases(stretches):
            written[base[0]] += 1
            yield base

    stretches = track(store, task, **how)
    with replacing(path, ".bw") as temporary:
        try:
            pybigtools.open(str(temporary), "w").write(store.notes["chromosomes"], counted())
            with pybigtools.open(str(temporary)) as file:
                whole = {c: sum(1 for _ in file.records(c)) for c in file.chroms()} == written
        except BaseException as error:
            if type(error).__name__ not in ("BBIReadError", "PanicException"):
                raise
            whole = False
        if not whole:  # of errors of writing pybigtools says nothing, or panics
            raise OSError(f"{path}: not written whole, the disk may be full; it stays as it was")


def write_bedgraph(
    store: ScoreStore, path: str | Path, task: int | None = None, **how: object
) -> None:
    """Write a `track` as bedGraph, one line per base, packed if the name of the file ends in .gz.

    Its options are those of `track`.
    """
    stretches = track(store, task, **how)
    with replacing_text(Path(path)) as file:
        file.writelines(f"{c}\t{s}\t{e}\t{value:.6g}\n" for c, s, e, value in _bases(stretches))


def _bases(stretches: Iterator[Stretch]) -> Iterator[tuple[str, int, int, float]]:
    for chrom, start, values in stretches:
        for place in np.flatnonzero(~np.isnan(values)).tolist():
            yield chrom, start + place, start + place + 1, float(values[place])


def write_arrays(store: ScoreStore, path: str | Path, *, drop: bool = False) -> None:
    """Write one_hot, (n, 4, length), the arrays of the store and its columns as one npz file.

    drop : leave out sequences with scores that are not finite, instead of refusing them
    """
    store.check()
    arrays = {name: store.read(name=name).numpy() for name in store.arrays}
    finite = [np.isfinite(array).reshape(len(store), -1).all(1) for array in arrays.values()]
    rows = store.finite_rows(np.all(finite, 0), drop)
    arrays |= {"one_hot": store.one_hot().numpy()}
    for name, column in store.regions.items():
        numeric = column.to_numpy().dtype.kind in "iuf"
        arrays[name] = column.to_numpy() if numeric else column.to_numpy(str)
    with replacing(Path(path), ".npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{name: array[rows] for name, array in arrays.items()})
