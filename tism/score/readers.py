"""Readers of FASTA, BED and target files that refuse bad input by file, line and remedy."""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from tism.sequence import INDEX_OF_LETTER, INVALID

BED_COLUMNS = ("chrom", "start", "end", "name", "score", "strand")
BED_HEADERS = ("track", "browser")


class InputFileError(ValueError):
    """A file that cannot be used: names the file, the line and the remedy."""

    def __init__(self, path: str | Path, line: int | None, problem: str, remedy: str) -> None:
        where = f"{path}, line {line}" if line else f"{path}"
        super().__init__(f"{where}: {problem}; {remedy}")


def open_text(path: str | Path) -> IO[bytes]:
    """Open a plain or gzipped file for reading bytes, whatever its name ends with."""
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
    except FileNotFoundError:
        raise InputFileError(
            path, None, "no such file", "give the path of an existing file"
        ) from None
    except (OSError, ValueError) as error:  # a folder, no permission, a NUL in the name
        problem = getattr(error, "strerror", None) or str(error)
        raise InputFileError(path, None, problem, "give the path of a readable file") from None
    return gzip.open(path, "rb") if zipped else open(path, "rb")


def numbered_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Number, from 1, and bytes of every line of a plain or gzipped file, without a UTF-8 mark.

    Raises InputFileError where the archive is damaged.
    """
    number = 0
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputFileError(path, number + 1, f"damaged ({error})", "fetch it again") from None


def decoded(path: str | Path, number: int, line: bytes) -> str:
    """A line as text without its end; InputFileError where it is no UTF-8."""
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x}, which is no UTF-8"
        raise InputFileError(path, number, byte, "give a text file, saved as UTF-8") from None


def read_fasta(path: str | Path) -> dict[str, np.ndarray]:
    """Sequences of a FASTA file by name, as (length,) uint8: 0 1 2 3 = A C G T, 4 = N.

    A name is the header up to the first blank. Upper and lower case mean the same.

    Raises
    ------
    InputFileError
        No sequence, a sequence before the first header, an empty or repeated name,
        a header without sequence, or a letter other than A, C, G, T and N.
    """
    sequences: dict[str, np.ndarray] = {}
    for name, line, codes in iterate_fasta(path):
        if name in sequences:
            raise InputFileError(
                path, line, f"{name!r} occurs twice", "give every sequence its own name"
            )
        sequences[name] = codes
    return sequences


def iterate_fasta(path: str | Path) -> Iterator[tuple[str, int, np.ndarray]]:
    """Name, line of the header and base indices of one sequence after the other.

    For genomes of which only some chromosomes should stay in memory; see `read_fasta`.
    """
    name, header, letters = None, 0, bytearray()
    for number, line in numbered_lines(path):
        if line.startswith(b">"):
            if name is not None:
                yield name, header, _base_indices(path, name, header, letters)
            name, header, letters = _header_name(path, number, line), number, bytearray()
        elif name is None and line.strip():
            raise InputFileError(
                path, number, "sequence before the first header", "start the file with '>name'"
            )
        else:
            letters += line.strip()
    if name is None:
        raise InputFileError(
            path, None, "holds no sequence", "give a FASTA file with '>name' headers"
        )
    yield name, header, _base_indices(path, name, header, letters)


def _header_name(path: str | Path, number: int, line: bytes) -> str:
    words = line[1:].split()
    if not words:
        raise InputFileError(path, number, "header without a name", "write '>name'")
    return decoded(path, number, words[0])


def _base_indices(path: str | Path, name: str, header: int, letters: bytearray) -> np.ndarray:
    if not letters:
        raise InputFileError(path, header, f"{name!r} has no sequence", "add it or drop the header")
    codes = INDEX_OF_LETTER[np.frombuffer(letters, np.uint8)]
    if codes.max() == INVALID:
        raise _strange_letter(path, header)
    return codes


def _strange_letter(path: str | Path, header: int) -> InputFileError:
    """The error for the first letter other than ACGTN below the header in line `header`."""
    for number, line in numbered_lines(path):
        strange = line.strip().translate(None, b"ACGTNacgtn")
        if number > header and strange:
            letter = strange[:1].decode(errors="replace")
            return InputFileError(
                path, number, f"letter {letter!r}", "use A, C, G, T or N (either case) only"
            )
    raise AssertionError("called for a sequence of ACGTN")


def read_bed(
    path: str | Path,
    chromosome_sizes: Mapping[str, int] | None = None,
    *,
    unique_names: bool = False,
    columns: int = len(BED_COLUMNS),
    lines: bool = False,
) -> pd.DataFrame:
    """Intervals of a BED file of three to six columns, gzipped or plain.

    path : tab-separated; comments, `track` and `browser` lines and blank lines are skipped
    chromosome_sizes : bases a chromosome; given, an interval must lie within a chromosome of these
    unique_names : refuse a name (fourth column) that occurs twice
    columns : how many columns to read, three or more; those behind may hold anything
    lines : add the column `line`, the number of each interval's line

    Returns a frame with the columns the file has of chrom, start, end (0-based, half-open), name,
    score (finite floats), strand; further columns are left out.

    Raises
    ------
    InputFileError
        At the first line that breaks one of these rules, or when the file has no interval.
    """
    numbers, rows = _bed_rows(path)
    values = list(zip(*rows, strict=True))[:columns]
    frame = pd.DataFrame(dict(zip(BED_COLUMNS, values, strict=False)))
    for column in ("start", "end"):
        frame[column] = _numbers(path, numbers, column, values, _WHOLE, "a whole number")
    if "score" in frame:
        frame["score"] = _numbers(path, numbers, "score", values, _FINITE, "a finite number")
    _check_intervals(path, numbers, frame)
    if chromosome_sizes is not None:
        _check_chromosomes(path, numbers, frame, chromosome_sizes)
    if unique_names:
        check_unique(path, numbers, frame, "name")
    return frame.assign(line=numbers) if lines else frame


def _bed_rows(path: str | Path) -> tuple[np.ndarray, list[list[str]]]:
    """Line numbers and fields of the lines with intervals, all of one width."""
    numbers, rows = [], []
    for number, raw in numbered_lines(path):
        line = decoded(path, number, raw)
        words = line.split(None, 1)
        if words and words[0] not in BED_HEADERS and not line.startswith("#"):
            numbers.append(number)
            rows.append(line.split("\t"))
    if not rows:
        raise InputFileError(
            path, None, "holds no interval", "give a BED file with at least one line"
        )
    for number, row in zip(numbers, rows, strict=True):
        if len(row) < 3 or len(row) != len(rows[0]):
            wanted = f"{len(rows[0])}, as in the first line" if len(rows[0]) >= 3 else "at least 3"
            raise InputFileError(
                path, number, f"{len(row)} tab-separated columns", f"the file needs {wanted}"
            )
    return np.array(numbers), rows


def _numbers(
    path: str | Path,
    numbers: np.ndarray,
    column: str,
    columns: list[tuple[str, ...]],
    form: re.Pattern[str],
    wanted: str,
) -> np.ndarray:
    values = columns[BED_COLUMNS.index(column)]
    bad = next((i for i, value in enumerate(values) if not form.fullmatch(value)), None)
    if bad is None:
        array = np.array(values).astype(np.int64 if form is _WHOLE else np.float64)
        if np.isfinite(array).all():
            return array
        bad = int(np.flatnonzero(~np.isfinite(array))[0])
    raise InputFileError(path, numbers[bad], f"{column} is {_brief(values[bad])}", f"give {wanted}")


# Python's own int and float take more: underscores, digits of other scripts, any size.
_WHOLE = re.compile(r" *[+-]?[0-9]{1,18} *")
_FINITE = re.compile(r" *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? *")


def _brief(value: str) -> str:
    return repr(value) if len(value) <= 60 else f"{value[:50]!r}... ({len(value)} characters)"


def _check_intervals(path: str | Path, numbers: np.ndarray, frame: pd.DataFrame) -> None:
    nameless = np.flatnonzero((frame["chrom"] == "").to_numpy())
    if nameless.size:
        raise InputFileError(
            path, numbers[nameless[0]], "no chromosome", "begin the line with its name"
        )
    start, end = frame["start"].to_numpy(), frame["end"].to_numpy()
    bad = np.flatnonzero((start < 0) | (end <= start))
    if bad.size:
        row = bad[0]
        raise InputFileError(
            path,
            numbers[row],
            f"interval {start[row]}-{end[row]}",
            "start counts from 0 and end must be larger than start",
        )


def _check_chromosomes(
    path: str | Path, numbers: np.ndarray, frame: pd.DataFrame, sizes: Mapping[str, int]
) -> None:
    chrom, end = frame["chrom"], frame["end"].to_numpy()
    unknown = np.flatnonzero(~chrom.isin(list(sizes)).to_numpy())
    if unknown.size:
        row = unknown[0]
        raise InputFileError(
            path,
            numbers[row],
            f"unknown chromosome {chrom[row]!r}",
            f"known are {_some(sizes)}",
        )
    outside = np.flatnonzero(end > chrom.map(dict(sizes)).to_numpy())
    if outside.size:
        row = outside[0]
        raise InputFileError(
            path,
            numbers[row],
            f"interval ends at {end[row]}, behind the end of {chrom[row]} ({sizes[chrom[row]]} bp)",
            "use the genome version that the intervals were made with",
        )


def _some(names: Mapping[str, int]) -> str:
    """The first 30 names: an assembly may have thousands."""
    more = f" and {len(names) - 30} more" if len(names) > 30 else ""
    return ", ".join(list(names)[:30]) + more


def check_unique(path: str | Path, numbers: np.ndarray, frame: pd.DataFrame, column: str) -> None:
    """Refuse a value of `column` that occurs twice; `numbers` are the line numbers of the rows."""
    if column not in frame:
        raise InputFileError(path, None, f"has no column {column!r}", "add it")
    twice = np.flatnonzero(frame[column].duplicated().to_numpy())
    if twice.size:
        value = frame[column].iloc[twice[0]]
        raise InputFileError(
            path, numbers[twice[0]], f"{column} {value!r} occurs twice", "keep one of the lines"
        )


def read_targets(
    path: str | Path, *, separator: str = ",", n_rows: int | None = None
) -> pd.DataFrame:
    """A table of finite targets: a header line, then a region's name and one number a task.

    path : plain or gzipped
    n_rows : the number of regions that the targets belong to, if it is known

    Returns a float64 frame (n, n_tasks) with the names as index and the tasks as columns.

    Raises
    ------
    InputFileError
        At a line with another number of columns, a repeated or missing name or a value that is not
        a finite number; at repeated tasks, no row, or another number of rows than `n_rows`.
    """
    check_rows(path)
    tasks = _target_header(path, separator)
    with open_text(path) as file:
        try:
            frame = pd.read_csv(
                file, sep=separator, dtype={0: str}, skip_blank_lines=False, low_memory=False,
                keep_default_na=False, na_values=[""],
            )  # fmt: skip
        except pd.errors.ParserError as error:
            line = re.search(r"in line (\d+)", str(error))
            raise InputFileError(
                path, line and int(line[1]), "too many columns", _wanted_columns(tasks)
            ) from None
    if not isinstance(frame.index, pd.RangeIndex):
        raise InputFileError(path, 2, "too many columns", _wanted_columns(tasks))
    numbers = np.arange(len(frame)) + 2
    frame.columns = ["name", *tasks]
    _check_names(path, numbers, frame)
    values = _finite_values(path, numbers, frame[tasks])
    if n_rows not in (None, len(frame)):
        raise InputFileError(
            path, None, f"{len(frame)} rows of targets", f"give {n_rows}, one for each region"
        )
    return values.set_axis(frame["name"].astype(str), axis=0)


def _target_header(path: str | Path, separator: str) -> list[str]:
    """Names of the tasks, checked."""
    if not isinstance(separator, str) or len(separator) != 1 or separator in '\r\n"':
        raise ValueError(f"separator must be one character such as ',', got {separator!r}")
    lines = list(islice(numbered_lines(path), 2))
    if len(lines) < 2:
        raise InputFileError(path, None, "holds no row", "give a header and a line for each region")
    tasks = next(csv.reader([decoded(path, *lines[0])], delimiter=separator))[1:]
    if not tasks:
        raise InputFileError(path, 1, "names no task", f"separate the columns by {separator!r}")
    repeated = sorted({task for task in tasks if tasks.count(task) > 1})
    if repeated:
        raise InputFileError(path, 1, f"task {repeated[0]!r} occurs twice", "name each task once")
    return tasks


def check_rows(path: str | Path) -> None:
    """Refuse what would shift rows against lines, or text that pandas reads in a way of its own."""
    for number, line in numbered_lines(path):
        decoded(path, number, line)
        if line.count(b'"') % 2:
            raise InputFileError(path, number, "a quote that does not end", "close or delete it")
        if b"\r" in line.rstrip(b"\r\n") or b"\0" in line:
            raise InputFileError(
                path, number, "a carriage return or NUL within the line", "end lines by newlines"
            )


def _wanted_columns(tasks: list[str]) -> str:
    return f"give a name and {len(tasks)} values, as in the header"


def _check_names(path: str | Path, numbers: np.ndarray, frame: pd.DataFrame) -> None:
    missing = np.flatnonzero(frame["name"].isna().to_numpy())
    if missing.size:
        raise InputFileError(
            path, numbers[missing[0]], "no name", "name the region or delete the line"
        )
    check_unique(path, numbers, frame, "name")


def _finite_values(path: str | Path, numbers: np.ndarray, targets: pd.DataFrame) -> pd.DataFrame:
    values = targets.apply(pd.to_numeric, errors="coerce").astype(np.float64)
    values[targets.select_dtypes(bool).columns] = np.nan  # True is no number
    rows, columns = np.nonzero(~np.isfinite(values.to_numpy()))
    if rows.size:
        raise InputFileError(
            path,
            numbers[rows[0]],
            f"value of {targets.columns[columns[0]]!r} is {targets.iat[rows[0], columns[0]]}",
            "give a finite number",
        )
    return values
