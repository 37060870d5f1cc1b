"""Readers of BED and VCF files; errors of input files name the file, the line and the remedy."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

BED_COLUMNS = ("chrom", "start", "end", "name", "score", "strand")
NARROW_PEAK_COLUMNS = (*BED_COLUMNS, "signal", "p", "q", "summit")
LIKE_NARROW_PEAK = "like narrowPeak"  # attribute of a table
BED_HEADERS = ("track", "browser")
VCF_COLUMNS = ("CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT")
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)  # of a gzipped file
_END_OF_BGZIP = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_LONGEST_LINE = 2**26  # bytes; a file without line ends would fill the memory
_AS_TEXT = "give a text file, saved as UTF-8"
# What people name in the place of a text file, by its first bytes.
_KNOWN_BYTES = (
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"),
    (b"BCF", "a BCF file", "write it as VCF (bcftools view)"),
    (b"BAM\1", "a BAM file", "give BED, VCF or FASTA"),
    (b"CRAM", "a CRAM file", "give BED, VCF or FASTA"),
    (b"\x43\x27\x41\x1a", "a 2bit file", "write it as FASTA (twoBitToFa)"),
    (b"\x1a\x41\x27\x43", "a 2bit file", "write it as FASTA (twoBitToFa)"),
    (b"\xeb\xf2\x89\x87", "a bigBed file", "write it as BED (bigBedToBed)"),
    (b"\x26\xfc\x8f\x88", "a bigWig file", "give the peaks as BED"),
    (b"PK\3\4", "a zip file or a spreadsheet", "unpack it or save it as plain text"),
    (b"BZh", "packed by bzip2", "unpack it (bunzip2)"),
    (b"\xfd7zXZ", "packed by xz", "unpack it (unxz)"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", "unpack it (unzstd)"),
)


class InputFileError(ValueError):
    """A file that cannot be used; the message names the file, the line and the remedy."""

    def __init__(self, path: str | Path, line: int | None, problem: str, remedy: str) -> None:
        where = f"{path}, line {line}" if line else f"{path}"
        super().__init__(f"{where}: {problem}; {remedy}")


def open_text(path: str | Path) -> IO[bytes]:
    """Open a plain or gzipped file or pipe, told apart by its first bytes, for reading bytes.

    It is opened once, since a pipe can be read only once. Raises InputFileError for formats that
    are no text, by their names.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115  the caller closes it
        begin = file.peek(18)[:18]
        if begin[:2] == b"\x1f\x8b":
            packed = file
            of_bgzip = begin[3:4] == b"\4" and begin[12:14] == b"BC"
            file = gzip.GzipFile(fileobj=_Blocks(packed) if of_bgzip else packed)
            file.myfileobj = packed  # closed with it
    except FileNotFoundError:
        remedy = "give the path of an existing file"
        raise InputFileError(path, None, "no such file", remedy) from None
    except (OSError, ValueError) as error:  # a folder, no permission, a NUL in the name
        problem = getattr(error, "strerror", None) or str(error)
        raise InputFileError(path, None, problem, "give the path of a readable file") from None
    try:
        _check_is_text(path, file.peek(8)[:8])
    except DAMAGED as error:
        file.close()
        raise InputFileError(path, 1, f"damaged ({error})", "fetch it again") from None
    except InputFileError:
        file.close()
        raise
    return file


class _Blocks:
    """A file of bgzip, to be read by `gzip`; EOFError where its last, empty block is not there.

    A file that was cut between two blocks is a whole file to `gzip`.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._end = file, b""

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most as many as this."""
        found = self._file.read(size)
        if size and not found and self._end != _END_OF_BGZIP:
            raise EOFError("its end is missing: no empty block of bgzip")
        self._end = (self._end + found)[-len(_END_OF_BGZIP) :]
        return found


def _check_is_text(path: str | Path, begin: bytes) -> None:
    wide = begin[1:4:2] == b"\0\0" or begin[:3:2] == b"\0\0"  # letters of two bytes, no mark
    for known, name, remedy in _KNOWN_BYTES:
        if begin.startswith(known) or (wide and begin.count(0) == 4 and "UTF-16" in name):
            raise InputFileError(path, None, f"is {name}", remedy)


def numbered_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number, from 1, and the bytes of every line of a plain or gzipped file or pipe.

    A UTF-8 byte-order mark is left out. Raises InputFileError where a gzipped file is damaged,
    where a line is too long for a text file and where lines end by carriage returns alone.
    """
    number = 0
    try:
        with open_text(path) as file:
            lines = iter(lambda: file.readline(_LONGEST_LINE), b"")
            for number, line in enumerate(lines, 1):
                _check_line(path, number, line)
                yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
    except DAMAGED as error:
        raise InputFileError(path, number + 1, f"damaged ({error})", "fetch it again") from None


def _check_line(path: str | Path, number: int, line: bytes) -> None:
    if len(line) == _LONGEST_LINE:
        problem = f"a line of more than {_LONGEST_LINE // 2**20} MB"
        raise InputFileError(path, number, problem, _AS_TEXT)
    if b"\r" in line and b"\r" in line.rstrip(b"\r\n"):
        problem = "a carriage return that does not end the line"
        remedy = "rewrite the line ends of an old Mac (tr '\\r' '\\n')"
        raise InputFileError(path, number, problem, remedy)


def decoded(path: str | Path, number: int, line: bytes) -> str:
    """Return a line as text without its end; InputFileError where it is not UTF-8."""
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        problem = f"byte 0x{line[error.start]:02x}, which is not UTF-8"
        raise InputFileError(path, number, problem, _AS_TEXT) from None


def read_bed(
    path: str | Path,
    chromosome_sizes: Mapping[str, int] | None = None,
    *,
    columns: int = len(BED_COLUMNS),
    further: Sequence[str] = (),
) -> pd.DataFrame:
    """Return the intervals of a BED or narrowPeak file, plain or gzipped.

    path : tab-separated; comments, `track` and `browser` lines and blank lines are skipped
    chromosome_sizes : number of bases of each chromosome, within which every interval must lie;
        None checks no chromosome
    columns : number of columns to read, three to six; those behind them may hold anything
    further : names of `NARROW_PEAK_COLUMNS` to read and check too: strand, summit

    Returns the columns that the file has of chrom, start, end (0-based, half-open), name, score
    (finite floats), strand and, if asked for, summit (bases from the start, -1 for none); and the
    column line, the number of the interval's line. Its attribute `LIKE_NARROW_PEAK` is True if all
    rows have the ten columns of narrowPeak.

    Raises InputFileError at the first line that breaks one of these rules, or where the file holds
    no interval.
    """
    numbers, rows = _bed_rows(path)
    values = dict(zip(NARROW_PEAK_COLUMNS, zip(*rows, strict=True), strict=False))
    read = dict.fromkeys((*NARROW_PEAK_COLUMNS[:columns], *further))
    frame = pd.DataFrame({name: values[name] for name in read if name in values})
    for column, (form, wanted) in _FORMS.items():
        if column in frame:
            frame[column] = _numbers(path, numbers, frame[column], form, wanted)
    for name in set(further) - values.keys():
        place = NARROW_PEAK_COLUMNS.index(name) + 1
        problem = f"{len(values)} columns, where column {place} should hold the {name}"
        raise InputFileError(path, numbers[0], problem, f"add it or leave out --{name}")
    if "strand" in further:
        _check_strands(path, numbers, values["strand"])
    _check_intervals(path, numbers, frame)
    if chromosome_sizes is not None:
        _check_chromosomes(path, numbers, frame, chromosome_sizes)
    frame = frame.assign(line=numbers)
    lengths = (frame["end"] - frame["start"]).tolist()
    frame.attrs[LIKE_NARROW_PEAK] = all(map(_is_narrow_peak, rows, lengths))
    return frame


def _is_narrow_peak(row: list[str], length: int) -> bool:
    """True if columns 7 to 9 are numbers, and column 10, the last, is a place in the interval."""
    numbers = len(row) == len(NARROW_PEAK_COLUMNS) and all(map(_FINITE.fullmatch, row[6:9]))
    return numbers and bool(_WHOLE.fullmatch(row[9])) and -1 <= int(row[9]) < length


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
    problem = f"{column.name} is {_brief(values[bad])}"
    raise InputFileError(path, numbers[bad], problem, f"give {wanted}")


def _brief(value: str) -> str:
    return repr(value) if len(value) <= 60 else f"{value[:50]!r}... ({len(value)} characters)"


# Python's int and float would also take underscores, digits of other scripts and any size.
_WHOLE = re.compile(r" *[+-]?[0-9]{1,18} *")
_FINITE = re.compile(r" *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? *")
_FORMS = {
    "start": (_WHOLE, "a whole number"),
    "end": (_WHOLE, "a whole number"),
    "score": (_FINITE, "a finite number"),
    "summit": (_WHOLE, "a whole number"),
}


def _check_strands(path: str | Path, numbers: np.ndarray, values: tuple[str, ...]) -> None:
    bad = next((i for i, value in enumerate(values) if value not in ("+", "-", ".")), None)
    if bad is not None:
        problem = f"strand is {_brief(values[bad])}"
        raise InputFileError(path, numbers[bad], problem, "column 6 may hold +, - or .")


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


def vcf_rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of each row of a VCF file; all samples are one field."""
    for number, raw in numbered_lines(path):
        if raw.startswith(b"#") or not raw.strip():
            continue
        fields = raw.decode(errors="replace").rstrip("\r\n").split("\t", len(VCF_COLUMNS))
        if len(fields) < 5:
            raise InputFileError(
                path, number, f"{len(fields)} tab-separated columns",
                f"a VCF row begins with {', '.join(VCF_COLUMNS[:5])}",
            )  # fmt: skip
        if not re.fullmatch("[0-9]{1,18}", fields[1]):
            problem = f"POS is {_brief(fields[1])}"
            raise InputFileError(path, number, problem, "give a whole number")
        yield number, fields


def other_name(chrom: str, sizes: Mapping[str, int]) -> str:
    """Say what a genome calls a chromosome that it lacks by this name; empty if it lacks it."""
    plain = _plain_name(chrom)
    same = [name for name in sizes if _plain_name(name) == plain]
    return f", which calls it {same[0]}" if same else ""


def _plain_name(chrom: str) -> str:
    """Return a chromosome's name without "chr", in lower case, M for MT."""
    plain = chrom.lower().removeprefix("chr")
    return "m" if plain == "mt" else plain
