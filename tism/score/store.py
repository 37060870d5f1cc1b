"""Stores: the scores of a whole peak set on disk, resumable, filled by one or more processes.

A store is a folder (zarr 3). Its sequences, regions and identity are written first, beside the
final name, and moved there in one step. The scores follow in chunks of sequences, each written
under a temporary name and then renamed, so that a chunk is either whole or missing. A process that
is killed therefore loses the chunk it was computing, and nothing else; and several processes can
fill one store, each its own chunks.

The arrays, in the order of the input, with the names of their dimensions as xarray reads them:

=========== ======================================================================================
scores      (sequence, task, base, scored_position), rows A C G T; of variants (sequence, task)
spread      of several models: the standard deviation of their scores, in the shape of the scores
predictions of variants, (sequence, task): the predictions at the reference
sequences   (sequence, window_position), uint8: 0 1 2 3 are A C G T, 4 is N
alternates  of variants: the windows of the alternates, like the sequences
others      (sequence,): one column of the input each (chrom, start, end, name, ...)
=========== ======================================================================================

The attribute "tism" of the group says what the scores depend on ("identity": method, model, tasks,
positions, checksum of the sequences and columns) and where they come from ("notes": command, files
with sizes and checksums, versions, code). Sequences whose scores are not finite are numbered in
scores/not_finite, a file for each chunk. ``xarray.open_zarr(store, consolidated=False)`` opens it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tism.running import progress_bar
from tism.score.files import beside, disk_errors_named, one_at_a_time, write_text
from tism.sequence import indices_from_one_hot, one_hot_from_indices, validate_one_hot

if TYPE_CHECKING:
    import pandas as pd
    import zarr

_log = logging.getLogger(__name__)
FORMAT = 2
SCORES, SEQUENCES, ALTERNATES = "scores", "sequences", "alternates"
_DIMENSIONS = ("sequence", "task", "base", "scored_position")  # of the scores
_WINDOW = ("sequence", "window_position")  # of the sequences, whose scores may be a part
_RESERVED = (SCORES, SEQUENCES, ALTERNATES, "predictions", "spread", "zarr.json", *_DIMENSIONS[1:])
_CHUNK_BYTES = 2**23
_CHUNK_MAPS = 64
_CHUNK_ROWS = 2**16  # of scores that are no maps; they are computed fast, and files are few
_CHUNK_BASES = 2**25  # of their sequences; those of long windows take long to score
_BLOCK, _BLOCK_BASES = 2**14, 2**22  # sequences and bases read at once, at most
_BLOCKS = 4  # in one chunk of the sequences
_FIXED_BYTES = 2**28  # of text of a fixed width in a column
_LEVEL, _LEVEL_OF_SCORES = 1, -1  # of compression; scores hardly shrink
_WRITE_EMPTY = {"array.write_empty_chunks": True}  # else a chunk of NaN would seem to be missing


# Rows as numpy takes them: a slice, an int, a list or array of ints, or a mask of one bool a row.
Rows = Any


class StoreError(RuntimeError):
    """A store that cannot be used; the message names the store, what is wrong and the remedy."""


class Sequences(Protocol):
    """What can be scored: a (n, 4, length) tensor, or an object whose slices are such tensors."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Tensor: ...


@dataclass(frozen=True)
class ScoreStore:
    """An open store, as `open_store` and `create_store` return it.

    identity : everything that the scores depend on: method, model, tasks, sequences, versions
    notes : other facts, such as the names of the columns
    arrays : what is written chunk by chunk, (n, ...) zarr arrays in float32 or wider, NaN where
        nothing was written yet: "scores", and for variants "predictions" too
    """

    path: Path
    identity: dict[str, Any]
    notes: dict[str, Any]
    arrays: dict[str, zarr.Array]

    @property
    def scores(self) -> zarr.Array:
        """The scores, (n, n_tasks, 4, positions), or (n, n_tasks) for variants."""
        return self.arrays[SCORES]

    def __len__(self) -> int:
        return self.scores.shape[0]

    @property
    def length(self) -> int:
        """Number of bases in each sequence."""
        return self._array(SEQUENCES).shape[1]

    @property
    def positions(self) -> tuple[int, int]:
        """First position that was scored and the one behind the last."""
        return tuple(self.identity["positions"])

    @property
    def chunk_size(self) -> int:
        """Number of sequences in each chunk; the last chunk may have fewer."""
        return self.scores.chunks[0]

    @property
    def n_chunks(self) -> int:
        """Number of chunks of the complete store."""
        return -(-len(self) // self.chunk_size)

    @property
    def regions(self) -> pd.DataFrame:
        """The columns that the store was made with, one row for each sequence."""
        import pandas as pd

        values = {name: self._values(name) for name in self.notes["columns"]}
        return pd.DataFrame(values, index=range(len(self)))

    def one_hot(self, rows: Rows = slice(None)) -> Tensor:
        """Return the sequences, one-hot, as (rows, 4, length) float32; rows as in `read`."""
        return one_hot_from_indices(self._values(SEQUENCES, row_numbers(rows, len(self))))

    def read(self, rows: Rows = slice(None), name: str = SCORES) -> Tensor:
        """Return the scores of these sequences, (rows, ...).

        rows : a slice, an int (a single row), a list or array of ints, or a mask with a bool for
            each sequence; IndexError for anything else
        name : the array to read, one of `arrays`

        Raises StoreError where some of the scores are not written yet.
        """
        numbers = row_numbers(rows, len(self))
        wanted = np.unique(numbers // self.chunk_size).tolist()
        n_missing = sum(not self._is_written(chunk) for chunk in wanted)
        if n_missing:
            raise StoreError(
                f"{self.path}: {n_missing} of the {len(wanted)} chunks asked for are not there "
                "yet; run the scoring of every shard again: it goes on where it stopped"
            )
        try:
            return torch.from_numpy(_picked(self.arrays[name], numbers))
        except Exception as error:
            raise self._damage(name, wanted, error) from error

    def missing(self, shard: tuple[int, int] = (1, 1)) -> list[int]:
        """Return the numbers of the shard's chunks that are not written yet; see `check_shard`."""
        part, parts = check_shard(shard)
        return [c for c in range(part - 1, self.n_chunks, parts) if not self._is_written(c)]

    def rows(self, chunk: int) -> slice:
        """Return the range of sequences that a chunk holds."""
        start = chunk * self.chunk_size
        return slice(start, min(start + self.chunk_size, len(self)))

    def fill(
        self,
        compute: Callable[[slice], Any],
        *,
        shard: tuple[int, int] = (1, 1),
        progress: bool = False,
    ) -> None:
        """Write the missing chunks of a shard.

        compute : maps a range of sequences to their scores, (rows, ...), or to all `arrays` by name

        Raises OSError naming the store where the disk is full; the chunks written before stay good.
        """
        missing = {chunk: self.rows(chunk) for chunk in self.missing(shard)}
        total = sum(rows.stop - rows.start for rows in missing.values())
        with progress_bar(total, progress and total > 0, "scores") as report:
            for chunk, rows in missing.items():
                if not self._is_written(chunk):  # another process may have written it by now
                    self._write(chunk, compute(rows))
                report(rows.stop - rows.start)
        if bad := self.not_finite():
            names = self.names(bad)
            _log.warning("%d sequences have scores that are not finite: %s", len(bad), names)

    def _write(self, chunk: int, values: Any) -> None:
        """Write a chunk of each array, the scores last: their file says that all are there."""
        values, rows = values if isinstance(values, Mapping) else {SCORES: values}, self.rows(chunk)
        values = {name: np.asarray(values[name]) for name in reversed(self.arrays)}
        for name, array in values.items():
            expected = (rows.stop - rows.start, *self.arrays[name].shape[1:])
            if array.shape != expected:
                raise ValueError(f"compute must return shape {expected}, got {array.shape}")
        for remnant in self._file(chunk).parent.glob("*.partial"):  # of a process that was killed
            remnant.unlink(missing_ok=True)
        with disk_errors_named(self.path, lambda: _chunks_kept(self.path)):
            self._note_not_finite(chunk, values[SCORES])
            for name, array in values.items():
                try:
                    self.arrays[name][rows] = array
                except FileNotFoundError:  # another process took our temporary file for a remnant
                    self.arrays[name][rows] = array

    def _note_not_finite(self, chunk: int, scores: np.ndarray) -> None:
        finite = np.isfinite(scores).reshape(len(scores), -1).all(1)
        if not finite.all():
            numbers = (np.flatnonzero(~finite) + self.rows(chunk).start).tolist()
            write_text(self._not_finite / f"{chunk}.json", json.dumps(numbers))

    @property
    def _not_finite(self) -> Path:
        """The folder that names the rows whose scores are not all finite, for each chunk of any."""
        return self.path / SCORES / "not_finite"

    def not_finite(self) -> list[int]:
        """Return the numbers of the sequences with written scores that are not all finite."""
        files = sorted(self._not_finite.glob("*.json")) if self._not_finite.exists() else []
        try:
            return sorted(number for file in files for number in json.loads(file.read_text()))
        except (ValueError, TypeError) as error:
            raise StoreError(_damaged(self._not_finite, error)) from None

    def finite_rows(self, finite: np.ndarray, drop: bool) -> np.ndarray:
        """Return the numbers of the sequences to export.

        finite : (n,) bool, True where all scores are finite; the others are dropped if `drop`, and
            a StoreError that names them if not
        """
        if not drop and not finite.all():
            bad = np.flatnonzero(~finite).tolist()
            raise StoreError(
                f"{self.path}: {len(bad):,} of {len(finite):,} sequences have scores that are not "
                f"finite: {self.names(bad)}; --not-finite drop leaves them out"
            )
        if not finite.any():
            raise StoreError(f"{self.path}: no sequence has finite scores: nothing to export")
        if not finite.all():
            _log.info(
                "%s sequences have scores that are not finite: left out", f"{(~finite).sum():,}"
            )
        return np.flatnonzero(finite)

    def names(self, rows: list[int]) -> str:
        """Return the first of these sequences by name, for a message."""
        shown = [f"number {row}" for row in rows[:5]]
        if {"chrom", "start", "end"} <= set(self.notes["columns"]):
            places = self.regions[["chrom", "start", "end"]].iloc[rows[:5]]
            shown = [f"{chrom}:{start}-{end}" for chrom, start, end in places.to_numpy()]
        return ", ".join(shown) + (", ..." if len(rows) > 5 else "")

    def check(self) -> None:
        """Compare the sequences and columns with their checksum; StoreError where they differ."""
        windows = {name: self._values(name) for name in self.notes["sequences"]}
        columns = {name: self._values(name) for name in self.notes["columns"]}
        found = sequences_checksum(windows[SEQUENCES], columns, windows.get(ALTERNATES))
        if found != self.identity["sequences"]:
            raise StoreError(_damaged(self.path, "its sequences or columns were changed"))

    def check_scores(self) -> None:
        """Read each chunk that is written; StoreError names the file of the first damaged one."""
        missing = set(self.missing())
        for chunk in (chunk for chunk in range(self.n_chunks) if chunk not in missing):
            for name in self.arrays:
                self.read(self.rows(chunk), name)

    def _values(self, name: str, numbers: np.ndarray | None = None) -> np.ndarray:
        try:
            return _picked(self._array(name), np.arange(len(self)) if numbers is None else numbers)
        except Exception as error:
            raise StoreError(_damaged(self.path / name, error)) from error

    def _damage(self, name: str, chunks: list[int], error: Exception) -> StoreError:
        """Return the error that names the first of these chunks that cannot be read."""
        for chunk in chunks:
            try:
                self.arrays[name][self.rows(chunk)]
            except Exception:
                remedy = "delete this file and run the scoring again: it writes missing chunks only"
                return StoreError(
                    f"{self._file(chunk, name)}: damaged ({_first_line(error)}); {remedy}"
                )
        return StoreError(_damaged(self.path, error))

    def _array(self, name: str) -> zarr.Array:
        return _zarr().open_array(self.path / name, mode="r")

    def _file(self, chunk: int, name: str = SCORES) -> Path:
        array = self.arrays[name]
        coordinates = (chunk, *(0 for _ in array.shape[1:]))
        return self.path / name / array.metadata.encode_chunk_key(coordinates)

    def _is_written(self, chunk: int) -> bool:
        files = (self._file(chunk, name) for name in self.arrays)
        return all(file.exists() and file.stat().st_size for file in files)


class StoredWindows:
    """The windows of a store, read in order: `windows[start:stop]` is one-hot, float32.

    Each chunk is read once, if the rows ascend.
    """

    def __init__(self, store: ScoreStore, name: str = SEQUENCES) -> None:
        self._store, self._name = store, name
        self._size = store._array(name).chunks[0]
        self._number, self._chunk = -1, np.empty(0)

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, rows: slice) -> Tensor:
        return one_hot_from_indices(self.indices(rows))

    def indices(self, rows: slice) -> np.ndarray:
        """Return the base indices, (rows, length) uint8; 4 is N."""
        size, parts = self._size, []
        for number in range(rows.start // size, -(-rows.stop // size)):
            first = number * size
            if number != self._number:
                numbers = np.arange(first, min(first + size, len(self)))
                self._number, self._chunk = number, self._store._values(self._name, numbers)
            parts.append(self._chunk[max(rows.start - first, 0) : rows.stop - first])
        return np.concatenate(parts)


def row_numbers(rows: Rows, n: int) -> np.ndarray:
    """Return which of n rows are meant, counted from 0 and in the order asked for.

    rows : as in `ScoreStore.read`; IndexError for anything else
    """
    plain = rows.tolist() if isinstance(rows, Tensor) else rows
    try:
        numbers = np.arange(n)[list(plain) if isinstance(plain, tuple) else plain]
        problem = "not a list of rows" if numbers.ndim > 1 or rows is Ellipsis else ""
    except (IndexError, TypeError, ValueError) as error:
        problem = _first_line(error)
    if problem:
        raise IndexError(
            f"rows must be a slice, an int, a list of ints or a mask of {n} bools, "
            f"got {_brief(rows)} ({problem})"
        )
    return np.atleast_1d(numbers)


def _picked(array: zarr.Array, numbers: np.ndarray) -> np.ndarray:
    """Return these rows of an array, a range of neighbours in one piece."""
    if len(numbers) and (np.diff(numbers) == 1).all():
        return np.asarray(array[int(numbers[0]) : int(numbers[-1]) + 1])
    return np.asarray(array.oindex[numbers])


def _damaged(path: Path, error: object) -> str:
    return f"{path}: damaged ({_first_line(error)}); delete the store and score again"


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _chunks_kept(path: Path) -> str:
    """Say how much of a store is on the disk, after an error."""
    if not (path / "zarr.json").exists():
        return "nothing of the store was written"
    store = open_store(path)
    n_written = store.n_chunks - len(store.missing())
    return f"{n_written} of {store.n_chunks} chunks are written and will be kept"


def check_shard(shard: tuple[int, int]) -> tuple[int, int]:
    """Return a shard as two ints, (part, parts) with 1 <= part <= parts, or raise ValueError.

    The shard is every parts-th chunk, beginning with number part - 1.
    """
    try:
        part, parts = (int(number) for number in shard)
    except (TypeError, ValueError):
        raise ValueError(f"shard must be two numbers such as (1, 4), got {shard!r}") from None
    if not 1 <= part <= parts:
        raise ValueError(f"shard must be (1, {parts}) to ({parts}, {parts}), got {shard}")
    return part, parts


def open_store(path: str | Path) -> ScoreStore:
    """Open a store for reading and for `ScoreStore.fill`; opening writes nothing.

    Raises StoreError where there is no store, or where it is damaged, of another format or not
    whole: every file must be there but those of chunks of scores that are not written yet.
    """
    path = Path(path)
    if not (path / "zarr.json").is_file():
        raise StoreError(f"{path}: no store of scores here; make one with `tism score`")
    try:
        content = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]["tism"]
        identity, notes = dict(content["identity"]), dict(content["notes"])
        found, columns = identity["format"], list(notes["columns"])
    except (KeyError, TypeError):
        raise StoreError(f"{path}: zarr data, but no store of scores; name another") from None
    except (ValueError, RecursionError) as error:
        raise StoreError(_damaged(path / "zarr.json", error)) from None
    if found != FORMAT:
        raise StoreError(
            f"{path}: format {_brief(found)}, but this version of tism writes {FORMAT}; "
            "use the version that made it, or score into another store"
        )
    try:
        columns = [_checked_column(name) for name in columns]
    except ValueError as error:
        raise StoreError(f"{path}: zarr data, but no store of scores: {error}") from None
    if content.get("layout") != _layout(path, content):
        raise StoreError(_damaged(path, "a zarr.json in it was changed or is not there"))
    names = (*notes["arrays"], *notes["sequences"], *columns)
    try:
        with _zarr().config.set(_WRITE_EMPTY):
            arrays = {name: _zarr().open_array(path / name, mode="r+") for name in names}
    except Exception as error:
        raise StoreError(_damaged(path, error)) from error
    _check_whole(path, arrays, notes["arrays"])
    return ScoreStore(path, identity, notes, {name: arrays[name] for name in notes["arrays"]})


def _check_whole(path: Path, arrays: dict[str, zarr.Array], written_later: list[str]) -> None:
    """Raise StoreError where arrays differ in rows, or where a file of them is not there."""
    if len({array.shape[0] for array in arrays.values()}) > 1:
        raise StoreError(_damaged(path, "its arrays have different numbers of rows"))
    for name in arrays.keys() - set(written_later):
        array = arrays[name]
        grid = (range(-(-n // size)) for n, size in zip(array.shape, array.chunks, strict=True))
        for place in itertools.product(*grid):
            file = path / name / array.metadata.encode_chunk_key(place)
            if not file.exists():
                raise StoreError(_damaged(file, "not there; was the store copied in part?"))


def create_store(
    path: str | Path,
    identity: Mapping[str, Any],
    sequences: Sequences,
    *,
    row_shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    chunk_size: int | None = None,
    most_maps: int = _CHUNK_MAPS,
    columns: Mapping[str, Any] | None = None,
    notes: Callable[[], Mapping[str, Any]] = dict,
    alternates: Sequences | None = None,
    further: Mapping[str, tuple[int, ...]] | None = None,
    shard: tuple[int, int] = (1, 1),
) -> ScoreStore:
    """Open the matching store at `path`, or create an empty one.

    identity : everything that the scores depend on, as JSON; the checksum of the sequences is added
    row_shape : shape of the scores of one sequence, such as (n_tasks, 4, length)
    chunk_size : sequences in a chunk; None takes about 8 MB of scores, at most `most_maps`
    columns : what to keep of every sequence (names, coordinates): n values each
    notes : called when the store is made; returns what to keep beside the identity
    alternates : other windows of the same rows, kept beside the sequences
    further : arrays that are written with the scores: name and shape of a row
    shard : of a store that is there, only the sequences of this shard are read and compared

    Raises StoreError for a store of another identity or chunk size, naming what differs.
    """
    path = Path(path)
    columns = {_checked_column(name): _plain(array) for name, array in (columns or {}).items()}
    windows = {SEQUENCES: sequences} | ({} if alternates is None else {ALTERNATES: alternates})
    identity, made = {"format": FORMAT, **identity}, False
    if not (path / "zarr.json").exists():
        size = _chunk_size(chunk_size, sequences, row_shape, dtype, most_maps)
        shapes = {SCORES: row_shape, **(further or {})}
        with one_at_a_time(path):
            if not (path / "zarr.json").exists():  # another process may have made it meanwhile
                content = {"identity": identity, "notes": dict(notes())}
                made = _create(path, content, windows, columns, shapes, dtype, size)
    store = open_store(path)
    if made or _holds(store, windows, columns, shard):
        identity["sequences"] = store.identity["sequences"]
    _check_identity(store, json.loads(json.dumps(identity)))
    if chunk_size is not None and min(chunk_size, len(store)) != store.chunk_size:
        raise StoreError(
            f"{path}: has chunks of {store.chunk_size} sequences, asked for {chunk_size}; "
            "leave chunk_size out to go on with it"
        )
    return store


def _checked_column(name: Any) -> str:
    """Return the name of a column; ValueError where it cannot name a folder of the store."""
    fits = isinstance(name, str) and re.fullmatch(r"\w[\w .-]{0,99}", name)
    if not fits or name in _RESERVED:
        raise ValueError(
            f"columns must be named by letters, digits, _, ., - and blanks, and not "
            f"{' or '.join(_RESERVED)}; got {name!r}"
        )
    return name


def _chunk_size(
    chunk_size: int | None,
    sequences: Sequences,
    row_shape: tuple[int, ...],
    dtype: torch.dtype,
    most_maps: int,
) -> int:
    if chunk_size is None:
        rows = min(_CHUNK_ROWS, _CHUNK_BASES // sequences[:1].shape[2])
        fitting = _CHUNK_BYTES // (dtype.itemsize * int(np.prod(row_shape)))
        chunk_size = max(1, min(fitting, most_maps if len(row_shape) > 1 else rows))
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"chunk_size must be an int of at least 1, got {chunk_size!r}")
    return min(chunk_size, len(sequences))


def _create(
    path: Path,
    content: dict[str, Any],
    windows: Mapping[str, Sequences],
    columns: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    chunk_size: int,
) -> bool:
    """Write everything but the scores beside `path`, then move it there in one step.

    Returns False if another process, which could not be waited for, was faster.
    """
    if path.name in ("", ".."):
        raise StoreError(f"{str(path)!r} must end in the name of a new folder")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StoreError(f"{path}: exists and is no store of scores; name another")
    with disk_errors_named(path, lambda: _chunks_kept(path)):
        draft = beside(path, path.suffix)
        try:
            draft.mkdir()
            group = _zarr().create_group(draft, overwrite=True)
            blocks = [_written_blocks(group, name, each) for name, each in windows.items()]
            checksum = _checksum(len(windows[SEQUENCES]), blocks, columns)
            for name, shape in shapes.items():
                whole, kind = (len(windows[SEQUENCES]), *shape), str(dtype).removeprefix("torch.")
                settings = {"level": _LEVEL_OF_SCORES, "fill_value": float("nan")}
                _new_array(group, name, whole, (chunk_size, *shape), kind, **settings)
            for name, values in columns.items():
                kind = values.dtype if values.dtype.kind in "iufU" else "str"
                with warnings.catch_warnings():  # that readers other than zarr and xarray may vary
                    warnings.simplefilter("ignore")
                    _new_array(group, name, values.shape, values.shape, kind)[:] = values
            content["identity"]["sequences"] = checksum
            names = zip(("columns", "sequences", "arrays"), (columns, windows, shapes), strict=True)
            content["notes"] |= {key: list(named) for key, named in names}
            content = json.loads(json.dumps(content))
            group.attrs["tism"] = {**content, "layout": _layout(draft, content)}
            return _move(draft, path.resolve())
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _new_array(
    group: zarr.Group, name: str, shape: tuple, chunks: tuple, dtype: Any,
    level: int = _LEVEL, **settings: Any,
) -> zarr.Array:  # fmt: skip
    dimensions = _WINDOW if name in (SEQUENCES, ALTERNATES) else _DIMENSIONS[: len(shape)]
    codec = _zarr().codecs.ZstdCodec(level=level, checksum=True)  # the checksum notices damage
    with _zarr().config.set(_WRITE_EMPTY):
        return group.create_array(
            name, shape=shape, chunks=chunks, dtype=dtype, compressors=codec,
            dimension_names=dimensions if len(dimensions) == len(shape) else None, **settings,
        )  # fmt: skip


def _layout(path: Path, content: dict[str, Any]) -> str:
    """Return the sha256 of all that is needed to read the arrays: metadata, identity and notes."""
    described = {key: content[key] for key in ("identity", "notes")}
    state = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for metadata in sorted(path.glob("*/zarr.json")):
        state.update(metadata.read_bytes())
    return state.hexdigest()


def _move(draft: Path, path: Path) -> bool:
    try:
        os.rename(draft, path)
    except OSError:
        if not (path / "zarr.json").exists():
            raise
        return False
    return True


def _holds(
    store: ScoreStore,
    windows: Mapping[str, Sequences],
    columns: Mapping[str, np.ndarray],
    shard: tuple[int, int],
) -> bool:
    """True if a store has these columns and, in the chunks of the shard, these sequences."""
    n, (part, parts) = len(windows[SEQUENCES]), shard
    names = [*windows], [*columns]
    if n != len(store) or names != (store.notes["sequences"], store.notes["columns"]):
        return False
    if not all(np.array_equal(store._values(name), columns[name]) for name in columns):
        return False
    for name, sequences in windows.items():
        stored = StoredWindows(store, name)
        size = store.chunk_size if parts > 1 else _block_size(sequences)
        for start in range((part - 1) * size, n, parts * size):
            rows = slice(start, min(start + size, n))
            if not np.array_equal(base_indices(sequences, rows), stored.indices(rows)):
                return False
    return True


def _written_blocks(group: zarr.Group, name: str, sequences: Sequences) -> Iterator[np.ndarray]:
    """Yield the base indices of sequences block by block, and write them into an array on the way.

    Each chunk is written once, when it is whole.
    """
    array, waiting, stop, n = None, [], 0, len(sequences)
    for indices in _blocks(sequences):
        if array is None:
            chunks = min(_BLOCKS * len(indices), n), indices.shape[1]
            array = _new_array(group, name, (n, chunks[1]), chunks, "uint8")
        waiting.append(indices)
        stop += len(indices)
        if len(waiting) == _BLOCKS or stop == n:
            chunk = np.concatenate(waiting)
            array[stop - len(chunk) : stop] = chunk
            waiting.clear()
        yield indices


def _plain(values: Any) -> np.ndarray:
    """Return a column as a store keeps it: numbers as they are, all else as text.

    Text has a fixed width, which other readers of zarr understand, unless a long one among many
    would fill the memory.
    """
    values = np.asarray(values)
    if values.dtype.kind in "iuf":
        return values
    texts = values.astype(np.dtypes.StringDType())
    width = max(1, int(np.strings.str_len(texts).max(initial=0)))
    fixed = np.dtype(f"U{width}")
    return texts.astype(fixed) if fixed.itemsize * texts.size <= _FIXED_BYTES else texts


def base_indices(sequences: Any, rows: slice) -> np.ndarray:
    """Return the base indices of these rows, (rows, length) uint8, 4 for N.

    sequences : `Sequences`, or indices; windows of a genome have a method that gives theirs
    """
    if isinstance(sequences, np.ndarray) and sequences.ndim == 2:
        return sequences[rows]
    if not isinstance(sequences, Tensor) and hasattr(sequences, "indices"):
        return sequences.indices(rows)
    return indices_from_one_hot(validate_one_hot(sequences[rows])).cpu().numpy()


def _block_size(sequences: Any) -> int:
    return max(1, min(_BLOCK, _BLOCK_BASES // sequences[:1].shape[-1]))


def _blocks(sequences: Any) -> Iterator[np.ndarray]:
    """Yield the base indices block by block."""
    n, size = len(sequences), _block_size(sequences)
    for start in range(0, n, size):
        yield base_indices(sequences, slice(start, min(start + size, n)))


def sequences_checksum(
    sequences: Sequences,
    columns: Mapping[str, Any] | None = None,
    alternates: Sequences | None = None,
) -> str:
    """Return the sha256 of the bases of all sequences, read in blocks, and of their columns."""
    windows = [each for each in (sequences, alternates) if each is not None]
    return _checksum(len(sequences), map(_blocks, windows), columns or {})


def _checksum(n: int, windows: Iterable[Iterator[np.ndarray]], columns: Mapping[str, Any]) -> str:
    """Return `sequences_checksum` of n sequences.

    windows : base indices block by block, of the sequences and then of the alternates, if any
    """
    if not n:
        raise ValueError("sequences is empty: give at least one")
    state, length = hashlib.sha256(), None
    for indices in itertools.chain.from_iterable(windows):
        length = indices.shape[1] if length is None else length
        if indices.shape[1] != length:
            raise ValueError(f"sequences have lengths {length} and {indices.shape[1]}")
        state.update(indices.tobytes())
    state.update(json.dumps([n, length]).encode())
    for name, values in columns.items():
        values = _plain(values)
        if values.shape != (n,):
            raise ValueError(f"columns[{name!r}] must have shape ({n},), got {values.shape}")
        state.update(json.dumps([name, values.tolist()]).encode())
    return state.hexdigest()


_NAMED = {
    "model": "the weights of another model",
    "sequences": "other sequences or regions",
    "scoring": "another version of the scoring",
    "estimation": "another version of the estimator",
}


def _check_identity(store: ScoreStore, asked: dict[str, Any]) -> None:
    stored = store.identity
    differing = [key for key in {**stored, **asked} if stored.get(key) != asked.get(key)]
    if differing:
        found = [
            _NAMED.get(key, f"{key} {_brief(stored.get(key))}, asked for {_brief(asked.get(key))}")
            for key in differing
        ]
        raise StoreError(
            f"{store.path}: holds scores of {'; '.join(found)}; nothing was changed: "
            "score into another store, or delete this one"
        )


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:50]}... ({len(text)} characters)"


def _zarr() -> Any:
    try:
        import zarr
    except ImportError:
        raise ImportError("a store of scores needs zarr: pip install 'tism[score]'") from None
    return zarr
