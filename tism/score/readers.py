"""A reader of BED files, and errors of input files that name the file, the line and the remedy."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

BED_COLUMNS = ("chrom", "start", "end", "name", "score", "strand")
BED_HEADERS = ("track", "browser")


class InputFileError(ValueError):
    """A file that cannot be used; the message names the file, the line and the remedy."""

    def __init__(self, path: str | Path, line: int | None, problem: str, remedy: str) -> None:
        where = f"{path}, line {line}" if line else f"{path}"
        super().__init__(f"{where}: {problem}; {remedy}")


def open_text(path: str | Path) -> IO[bytes]:
    """Open a plain or gzipped file, told apart by its first bytes, for reading bytes."""
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
    except FileNotFoundError:
        remedy = "give the path of an existing file"
        raise InputFileError(path, None, "no such file", remedy) from None
    except (OSError, ValueError) as error:  # a folder, no permission, a NUL in the name
        problem = getattr(error, "strerror", None) or str(error)
        raise InputFileError(path, None, problem, "give the path of a readable file") from None
    return gzip.open(path, "rb") if zipped else open(path, "rb")


def numbered_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number, from 1, and the bytes of every line of a plain or gzipped file.

    A UTF-8 byte-order mark is left out. Raises InputFileError where a gzipped file is damaged.
    """
    number = 0
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputFileError(path, number + 1, f"damaged ({error})", "fetch it again") from None


def decoded(path: str | Path, number: int, line: bytes) -> str:
    """Return a line as text without its end; InputFileError where it is not UTF-8."""
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        problem = f"byte 0x{line[error.start]:02x}, which is not UTF-8"
        raise InputFileError(path, number, problem, "give a text file, saved as UTF-8") from None


def read_bed(
    path: str | Path, chromosome_sizes: Mapping[str, int], *, columns: int = len(BED_COLUMNS)
) -> pd.DataFrame:
    """Return the intervals of a BED file of three to six columns, plain or gzipped.

    path : tab-separated; comments, `track` and `browser` lines and blank lines are skipped
    chromosome_sizes : number of bases of each chromosome; every interval must lie within one
    columns : number of columns to read, three or more; the columns behind them may hold anything

    Returns the columns that the file has of chrom, start, end (0-based, half-open), name, score
    (finite floats) and strand, and the column line, the number of the interval's line.

    Raises InputFileError at the first line that breaks one of these rules, or where the file holds
    no interval.
    """
    numbers, rows = _bed_rows(path)
    values = list(zip(*rows, strict=True))[:columns]
    frame = pd.DataFrame(dict(zip(BED_COLUMNS, values, strict=False)))
    for column in ("start", "end"):
        frame[column] = _numbers(path, numbers, frame[column], _WHOLE, "a whole number")
    if "score" in frame:
        frame["score"] = _numbers(path, numbers, frame["score"], _FINITE, "a finite number")
    _check_intervals(path, numbers, frame)
    _check_chromosomes(path, numbers, frame, chromosome_sizes)
    return frame.assign(line=numbers)


def _bed_rows(path: str | Path) -> tuple[np.ndarray, list[list[str]]]:
    """Return the line numbers and the fields of the lines with intervals, all of equal width."""
    numbers, rows = [], []
    for number, raw in numbered_lines(path):
        line = decoded(path, number, raw)
        words = line.split(None, 1)
        if words and words[0] not in BED_HEADERS and not line.startswith("#"):
            numbers.append(number)
            rows.append(line.split("\t"))
    if not rows:
        remedy = "give a BED file with at least one line"
        raise InputFileError(path, None, "holds no interval", remedy)
    for number, row in zip(numbers, rows, strict=True):
        if len(row) < 3 or len(row) != len(rows[0]):
            wanted = f"{len(rows[0])}, as in the first line" if len(rows[0]) >= 3 else "at least 3"
            problem = f"{len(row)} tab-separated columns"
            raise InputFileError(path, number, problem, f"the file needs {wanted}")
    return np.array(numbers), rows


def _numbers(
    path: str | Path, numbers: np.ndarray, column: pd.Series, form: re.Pattern[str], wanted: str
) -> np.ndarray:
    """Return a column as numbers; InputFileError at the first value without the form or finite."""
    values = column.tolist()
    bad = next((i for i, value in enumerate(values) if not form.fullmatch(value)), None)
    if bad is None:
        array = np.array(values).astype(np.int64 if form is _WHOLE else np.float64)
        if np.isfinite(array).all():
            return array
        bad = int(np.flatnonzero(~np.isfinite(array))[0])
    value = values[bad]
    brief = repr(value) if len(value) <= 60 else f"{value[:50]!r}... ({len(value)} characters)"
    raise InputFileError(path, numbers[bad], f"{column.name} is {brief}", f"give {wanted}")


# Python's int and float would also take underscores, digits of other scripts and any size.
_WHOLE = re.compile(r" *[+-]?[0-9]{1,18} *")
_FINITE = re.compile(r" *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? *")


def _check_intervals(path: str | Path, numbers: np.ndarray, frame: pd.DataFrame) -> None:
    nameless = np.flatnonzero((frame["chrom"] == "").to_numpy())
    if nameless.size:
        remedy = "begin the line with its name"
        raise InputFileError(path, numbers[nameless[0]], "no chromosome", remedy)
    start, end = frame["start"].to_numpy(), frame["end"].to_numpy()
    bad = np.flatnonzero((start < 0) | (end <= start))
    if bad.size:
        row, remedy = bad[0], "start counts from 0 and end must be larger than start"
        raise InputFileError(path, numbers[row], f"interval {start[row]}-{end[row]}", remedy)


def _check_chromosomes(
    path: str | Path, numbers: np.ndarray, frame: pd.DataFrame, sizes: Mapping[str, int]
) -> None:
    chrom, end = frame["chrom"], frame["end"].to_numpy()
    unknown = np.flatnonzero(~chrom.isin(list(sizes)).to_numpy())
    if unknown.size:
        more = f" and {len(sizes) - 30} more" if len(sizes) > 30 else ""  # as in an assembly
        row, remedy = unknown[0], f"known are {', '.join(list(sizes)[:30])}{more}"
        raise InputFileError(path, numbers[row], f"unknown chromosome {chrom[row]!r}", remedy)
    outside = np.flatnonzero(end > chrom.map(dict(sizes)).to_numpy())
    if outside.size:
        row, remedy = outside[0], "use the genome version that the intervals were made with"
        place = f"behind the end of {chrom[row]} ({sizes[chrom[row]]} bp)"
        raise InputFileError(path, numbers[row], f"interval ends at {end[row]}, {place}", remedy)
