"""One-hot windows of a genome around peaks (BED) and variants (VCF), read when they are needed."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import logging
import os
import re
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from torch import Tensor

from tism.running import whole_number
from tism.score.files import data_folder, file_version, one_at_a_time, replacing
from tism.score.readers import (
    DAMAGED,
    LIKE_NARROW_PEAK,
    InputFileError,
    decoded,
    numbered_lines,
    open_text,
    other_name,
    read_bed,
    vcf_rows,
)
from tism.score.store import Rows, row_numbers
from tism.sequence import ALPHABET, INDEX_OF_LETTER, INVALID, NOT_A_BASE, one_hot_from_indices

_AMBIGUOUS = 5
_CODES = INDEX_OF_LETTER.copy()
_CODES[list(b"RYSWKMBDHVryswkmbdhv")] = _AMBIGUOUS
_CODE_OF_BYTE = _CODES.tobytes()
_COMPLEMENT = np.array([3, 2, 1, 0, NOT_A_BASE], np.uint8)
_REMEDY = "use A, C, G, T, N or an IUPAC letter (either case)"
_ONE_WIDTH = "give every sequence lines of one length, none of them blank (seqkit seq -w 60)"
_LONGEST = 10**7  # bp of a window; no model takes more, and memory ends
_SHORTEST = 5  # bp of an interval that is a window; shorter ones are summits
_END = 2**16  # bytes; more is not read at once
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Record:
    """Where a sequence lies: its bases, its first byte, and the bases and bytes of its lines."""

    size: int
    offset: int
    bases: int
    width: int

    @property
    def ends(self) -> int:
        """Number of bytes that end a line."""
        return self.width - self.bases

    def byte(self, position: int) -> int:
        """Return the place in the file of a position of the sequence."""
        lines, rest = divmod(position, max(self.bases, 1))
        return self.offset + lines * self.width + rest


class Genome:
    """A FASTA file that is read by position, through the index that samtools and pyfaidx share.

    path : plain or gzipped, letters in either case; a gzipped file is unpacked once into the cache

    An index that is missing, or that does not fit the file, is written beside the file, or into the
    cache where the folder is read-only. The cache is TISM_DATA_DIR, or `tism` in the user's cache
    folder. Raises InputFileError where the file is no FASTA file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        plain = _plain_file(self.path)
        self._records = _index(plain, self.path)
        self.sizes: dict[str, int] = {name: record.size for name, record in self._records.items()}
        self._file = plain.open("rb")

    def codes(self, chrom: str, start: int, stop: int) -> tuple[np.ndarray, int]:
        """Return base indices, (stop - start,) uint8, and how many of them are ambiguous letters.

        start, stop : 0-based, half-open, within the chromosome

        0 1 2 3 are A C G T, and 4 is N. An IUPAC letter for several bases (R, Y, ...) is read as N.
        Raises InputFileError for any other letter, beyond the end, or where the lines have other
        lengths than the index says.
        """
        if start < 0 or stop > self.sizes[chrom]:
            problem = f"{chrom} ends before {stop if start >= 0 else start}"
            raise InputFileError(self.path, None, problem, "use the genome of these positions")
        found = self._lines(chrom, start, stop, _CODE_OF_BYTE)
        codes, ambiguous = np.frombuffer(found, np.uint8), found.count(_AMBIGUOUS)
        if INVALID in found:
            self._refuse_letter(chrom, start + found.index(INVALID))
        if ambiguous:
            codes = np.where(codes == _AMBIGUOUS, np.uint8(NOT_A_BASE), codes)
        return codes, ambiguous

    def padded(self, chrom: str, start: int, stop: int) -> tuple[np.ndarray, int]:
        """Return what `codes` does, with N beyond the ends of the chromosome."""
        first, last = max(start, 0), min(stop, self.sizes[chrom])
        if (first, last) == (start, stop):
            return self.codes(chrom, start, stop)
        found, ambiguous = np.full(stop - start, NOT_A_BASE, np.uint8), 0
        if first < last:
            found[first - start : last - start], ambiguous = self.codes(chrom, first, last)
        return found, ambiguous

    def _lines(self, chrom: str, start: int, stop: int, table: bytes | None = None) -> bytes:
        """Return the letters at these positions, put through a table of bytes.

        The line ends must be where the index says, and nowhere else.
        """
        record = self._records[chrom]
        begin = record.byte(start)
        self._file.seek(begin)
        raw = self._file.read(record.byte(stop) - begin)
        letters, first = raw.translate(table, b"\r\n"), record.bases - start % record.bases
        ends = b"".join(raw[k :: record.width] for k in range(first, first + record.ends))
        if len(letters) != stop - start or len(ends.strip(b"\r\n")):
            problem = f"the lines of {chrom} have other lengths than its index says"
            raise InputFileError(self.path, None, problem, f"{_ONE_WIDTH} and delete the .fai file")
        return letters

    def _refuse_letter(self, chrom: str, position: int) -> None:
        letter = self._lines(chrom, position, position + 1)
        shown = repr(letter.decode()) if letter.isascii() else f"0x{letter.hex()} (no ASCII)"
        problem = f"letter {shown} in {chrom} at {position + 1:,}"
        raise InputFileError(self.path, self._line(chrom, position), problem, _REMEDY)

    def _line(self, chrom: str, position: int) -> int:
        """Return the number of the line of the file that holds a position of a chromosome."""
        offset = self._records[chrom].byte(position)
        self._file.seek(0)
        blocks = iter(lambda: self._file.read(min(2**20, offset - self._file.tell())), b"")
        return 1 + sum(block.count(b"\n") for block in blocks)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Genome:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class GenomeWindows:
    """Windows of one length of a genome; `windows[rows]` is one-hot, (rows, 4, length) float32.

    N is four zeros, and so are an IUPAC letter for several bases and what lies beyond the ends of
    a chromosome.

    genome : where the windows are cut from
    regions : one row per window: chrom, start, end (0-based, half-open) and further columns; where
        `strand` is "-", the window is the reverse complement of these bases
    refused : the rows of the file that gave no window: line, record, reason
    about : how the windows lie, in words
    """

    def __init__(
        self, genome: Genome, regions: pd.DataFrame, refused: pd.DataFrame, about: str
    ) -> None:
        self.genome, self.regions, self.refused = genome, regions, refused
        self.about = f"{len(regions):,} windows of {_width(regions):,} bp, {about}"
        self._ambiguous = np.zeros(len(regions), np.int64)

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, rows: Rows) -> Tensor:
        return one_hot_from_indices(self.indices(rows))

    def indices(self, rows: Rows) -> np.ndarray:
        """Return the base indices of windows, (rows, length) uint8; 0 1 2 3 are A C G T, 4 is N."""
        rows = row_numbers(rows, len(self))
        chosen = self.regions.iloc[rows]
        read = [self.genome.padded(*place) for place in _rows(chosen, "chrom", "start", "end")]
        self._ambiguous[rows] = [ambiguous for _, ambiguous in read]
        codes = np.array([codes for codes, _ in read], np.uint8).reshape(-1, self.length)
        if "strand" in chosen:
            minus = (chosen["strand"] == "-").to_numpy()
            codes[minus] = _COMPLEMENT[codes[minus, ::-1]]
        return codes

    @property
    def length(self) -> int:
        """Number of bases in each window."""
        return _width(self.regions)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns that a store keeps, with one value for each window."""
        return {name: self.regions[name].to_numpy() for name in self.regions}

    @property
    def notes(self) -> dict[str, Any]:
        """What a store says of the windows: how they lie, and the sizes of their chromosomes."""
        sizes = {chrom: self.genome.sizes[chrom] for chrom in sorted(set(self.regions["chrom"]))}
        return {"windows": self.about, "chromosomes": sizes}

    @property
    def n_ambiguous(self) -> int:
        """Number of IUPAC letters that were read as N in the windows cut so far."""
        return int(self._ambiguous.sum())


class Variants(GenomeWindows):
    """Windows of variants: `variants[rows]` have the references, `variants.alternates[rows]` the
    alternates. Each window has the first base of its variant at column `centre`.

    regions : chrom, start, end (of the reference's window), then position (1-based, as in a VCF),
        id, reference, alternate
    """

    @property
    def centre(self) -> int:
        """Column of the first base of each variant."""
        return self.length // 2

    @property
    def alternates(self) -> Alternates:
        """The windows of the alternates, of the same length, cut again around each of them."""
        return Alternates(self)


class Alternates:
    """The windows of the alternates of `Variants`; `alternates[rows]` is (rows, 4, length)."""

    def __init__(self, variants: Variants) -> None:
        self.variants = variants

    def __len__(self) -> int:
        return len(self.variants)

    def __getitem__(self, rows: Rows) -> Tensor:
        return one_hot_from_indices(self.indices(rows))

    def indices(self, rows: Rows) -> np.ndarray:
        """Return the base indices of windows, (rows, length) uint8; 0 1 2 3 are A C G T, 4 is N."""
        chosen = self.variants.regions.iloc[row_numbers(rows, len(self))]
        length, cut = self.variants.length, self.variants.genome.padded
        codes = np.empty((len(chosen), length), np.uint8)
        for row, (chrom, start, position, reference, alternate) in enumerate(
            _rows(chosen, "chrom", "start", "position", "reference", "alternate")
        ):
            before, longer = position - 1 - start, len(reference) - len(alternate)
            window, _ = cut(chrom, start, start + length + max(0, longer))
            bases = np.frombuffer(alternate.encode().translate(_CODE_OF_BYTE), np.uint8)
            behind = before + len(bases)
            codes[row, :before] = window[:before]
            codes[row, before:behind] = bases
            codes[row, behind:] = window[before + len(reference) :][: length - behind]
        return codes


def _rows(regions: pd.DataFrame, *names: str) -> Iterable[tuple]:
    return zip(*(regions[name].to_numpy().tolist() for name in names), strict=True)


def _width(regions: pd.DataFrame) -> int:
    return int(regions["end"].iloc[0] - regions["start"].iloc[0])


def read_windows(
    bed: str | Path,
    genome: Genome,
    length: int | None = None,
    *,
    summit: bool | None = None,
    strand: bool = False,
    pad: bool = False,
) -> GenomeWindows:
    """Return the windows at the intervals of a BED file, in file order.

    bed : three columns or more, of which the first four are read; plain or gzipped
    length : bases of each window; None takes the length of the intervals, which must then be one
    summit : centre each window on its summit, start plus column 10, instead of the middle of the
        interval; None does so if the file's name ends in .narrowPeak or .narrowPeak.gz (in either
        case of letters), and gives a warning if another file looks like one
    strand : read column 6, and each row with "-" there as its reverse complement
    pad : fill windows that reach beyond the chromosome with N instead of refusing them

    The base in the middle is at column length // 2 of the window (before a reverse complement).
    Rows of unknown chromosomes, beyond the end of their chromosome, without a summit or with a
    window that reaches beyond the chromosome are left out and listed in `refused`.
    Raises InputFileError, naming the line, for any other fault of the file.
    """
    table = _read_peaks(bed, summit, strand)
    summit = "summit" in table
    if length is None:
        length = _length_of_all(bed, table)
    length = _checked_length(length)
    middle = table["start"] + table["summit"] if summit else (table["start"] + table["end"]) // 2
    start = middle - length // 2
    record = table["chrom"] + ":" + table["start"].astype(str) + "-" + table["end"].astype(str)
    regions = pd.DataFrame({"chrom": table["chrom"], "start": start, "end": start + length})
    regions["name"] = table.get("name", record)
    regions["strand"] = table["strand"].where(table["strand"] == "-", "+") if strand else "+"
    reason = _why_no_window(table, regions, genome, pad)
    refused = pd.DataFrame({"line": table["line"], "record": record, "reason": reason})
    refused = refused[reason != ""].reset_index(drop=True)
    _check_some_left(bed, len(table), refused)
    kept = regions[reason == ""].reset_index(drop=True)
    about = f"centred on the {'summit of each peak' if summit else 'middle of each interval'}, "
    n = int((kept["strand"] == "-").sum())
    about += f"{n:,} of them reverse complements (column 6)" if strand else "on the forward strand"
    return GenomeWindows(genome, kept, refused, about)


def _read_peaks(bed: str | Path, summit: bool | None, strand: bool) -> pd.DataFrame:
    """Return the table of a BED file with what `read_windows` needs of it."""
    named = re.search(r"\.narrowPeak(\.b?gz)?$", str(bed), re.IGNORECASE)
    wanted = {"strand": strand, "summit": named if summit is None else summit}
    table = read_bed(bed, columns=4, further=[name for name in wanted if wanted[name]])
    if summit is None and not named and table.attrs[LIKE_NARROW_PEAK]:
        _log.warning("%s: looks like narrowPeak; --summit centres windows on column 10", bed)
    return table


def _why_no_window(
    table: pd.DataFrame, regions: pd.DataFrame, genome: Genome, pad: bool
) -> pd.Series:
    """Return for each interval why it gives no window; empty where it gives one."""
    sizes = regions["chrom"].map(genome.sizes)
    length = int(regions["end"].iloc[0] - regions["start"].iloc[0])
    reason = pd.Series("", index=regions.index)
    if not pad:
        beyond = (regions["start"] < 0) | (regions["end"] > sizes)
        reason[beyond] = _beyond(length)
    if "summit" in table:
        no_summit = (table["summit"] < 0) | (table["summit"] >= table["end"] - table["start"])
        reason[no_summit] = "no summit within the interval: see column 10 (or --no-summit)"
    behind = table["end"] > sizes
    reason[behind] = f"the interval ends behind the chromosome of {genome.path.name}"
    unknown = sizes.isna()
    reason[unknown] = regions["chrom"][unknown].map(
        {chrom: _unknown(chrom, genome) for chrom in regions["chrom"][unknown].unique()}
    )
    return reason


def _beyond(length: int) -> str:
    return f"the window of {length} bp reaches beyond the chromosome"


def _unknown(chrom: str, genome: Genome) -> str:
    return f"chromosome is not in {genome.path.name}{other_name(chrom, genome.sizes)}"


def _checked_length(length: Any) -> int:
    length = whole_number("length", length)
    if not 1 <= length <= _LONGEST:
        raise ValueError(f"length must be from 1 to {_LONGEST:,} bp, got {length}")
    return length


def _length_of_all(path: str | Path, table: pd.DataFrame) -> int:
    """Return the length of the intervals; InputFileError where they differ or are summits."""
    lengths = (table["end"] - table["start"]).to_numpy()
    other = np.flatnonzero(lengths != lengths[0])
    remedy = "give the window's length (--length)"
    if other.size:
        problem = f"interval of {lengths[other[0]]} bp, but the first has {lengths[0]}"
        raise InputFileError(path, int(table["line"].iloc[other[0]]), problem, remedy)
    if lengths[0] < _SHORTEST:
        problem = f"intervals of {lengths[0]} bp, which are no windows"
        raise InputFileError(path, int(table["line"].iloc[0]), problem, remedy)
    return int(lengths[0])


def _check_some_left(path: str | Path, total: int, refused: pd.DataFrame) -> None:
    if len(refused) == total:
        raise InputFileError(
            path,
            int(refused["line"].iloc[0]),
            f"{refused['reason'].iloc[0]}, and none of the {total} rows can be used",
            "check that the file and the genome belong together",
        )


def read_variants(vcf: str | Path, genome: Genome, length: int, *, pad: bool = False) -> Variants:
    """Return the windows of the variants of a VCF file, in file order, each alternate one row.

    vcf : plain, gzip or bgzip; genotypes are ignored
    length : bases in each window; the first base of the variant is at column length // 2
    pad : fill windows that reach beyond the chromosome with N instead of refusing them

    Substitutions of one or several bases, insertions and deletions are taken. The window of the
    alternate is cut again: what stands before the variant, the alternate, and as many of the bases
    behind the reference as fill the window.

    Alternates that cannot be scored are left out and listed in `refused` with the first reason that
    applies: unknown chromosome, missing or symbolic alternate, letters other than ACGT, position or
    window beyond the chromosome, alternate longer than its half of the window, REF unlike the
    genome, ALT equal to REF. Raises InputFileError, naming the line, for a line that is no VCF row
    and where no row can be scored.
    """
    length = _checked_length(length)
    kept, refused, phased = [], [], False
    for line, (chrom, text, name, ref, alts, *rest) in vcf_rows(vcf):
        phased = phased or bool(re.search(r"(^|\t)[0-9.]\|[0-9.]", "".join(rest[4:])))
        first = int(text) - 1
        start = first - length // 2
        for alt in alts.split(","):
            window, bases = (chrom, start, start + length), (ref.upper(), alt.upper())
            reason = _why_refused(genome, window, first, *bases, pad)
            if reason:
                refused.append((line, f"{chrom}:{text} {ref}>{alt}", reason))
            else:
                kept.append((*window, first + 1, name, *bases))
    refused = pd.DataFrame(refused, columns=["line", "record", "reason"])
    if not kept and not len(refused):
        raise InputFileError(vcf, None, "holds no variant", "give a VCF file with variants")
    _check_some_left(vcf, len(kept) + len(refused), refused)
    columns = ["chrom", "start", "end", "position", "id", "reference", "alternate"]
    about = f"the first base of each variant at column {length // 2} (from 0), forward strand"
    if phased:
        about += "; phased genotypes are ignored: each alternate is scored alone"
    return Variants(genome, pd.DataFrame(kept, columns=columns), refused, about)


def _why_refused(
    genome: Genome, window: tuple[str, int, int], first: int, ref: str, alt: str, pad: bool
) -> str:
    """Return why a variant from a 0-based position on cannot be scored; empty if it can."""
    chrom, start, end = window
    if chrom not in genome.sizes:
        return _unknown(chrom, genome)
    if alt in (".", "*", "") or set(alt) & set("<>[]."):
        return "no alternate base: missing or symbolic"
    if not ref or set(ref + alt) - set(ALPHABET + "N") or "N" in alt:
        return "letters other than A, C, G, T"
    if first < 0:
        return "POS 0 lies before the chromosome"
    behind = max(end, end + len(ref) - len(alt))  # the window of the alternate may reach farther
    size = genome.sizes[chrom]
    if first + len(ref) > size or (not pad and (start < 0 or behind > size)):
        return _beyond(end - start)
    if len(alt) > end - first:
        return f"the alternate does not fit into its half of the window of {end - start} bp"
    codes = genome.codes(chrom, first, first + len(ref))[0]
    found = "".join((ALPHABET + "N")[code] for code in codes)
    if found != ref or "N" in found:
        return f"REF is not the base of {genome.path.name}" + (": N" if "N" in found else "")
    return "ALT is REF" if alt == ref else ""


def _cache_file(path: Path, ending: str) -> Path:
    """Return the name in the cache of a file made from this version of the file at `path`."""
    key = hashlib.sha256(file_version(path).encode()).hexdigest()
    name = f"{path.name}.{key[:16]}{ending}"
    return data_folder() / "cache" / "genome" / name


def _plain_file(path: Path) -> Path:
    """Return the file, or its copy in the cache if it is gzipped or has a byte-order mark."""
    with open_text(path) as file:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputFileError(path, None, "is no file on disk", "save the genome into one first")
        marked = file.peek(3)[:3] == codecs.BOM_UTF8
        if not isinstance(file, gzip.GzipFile) and not marked:
            return path
        file.read(3 if marked else 0)
        unpacked = _cache_file(path, ".fa")
        if not unpacked.exists():
            with one_at_a_time(unpacked):
                if not unpacked.exists():  # another process may have made it meanwhile
                    _unpack(path, file, unpacked)
        return unpacked


def _unpack(path: Path, file: IO[bytes], unpacked: Path) -> None:
    _log.info("unpacking %s into %s", path, unpacked)
    try:
        with replacing(unpacked) as temporary, temporary.open("wb") as target:
            shutil.copyfileobj(file, target, 2**20)
    except DAMAGED as error:
        raise InputFileError(path, None, f"damaged ({error})", "fetch it again") from None


def _index(path: Path, given: Path) -> dict[str, _Record]:
    """Return the records of a FASTA file, from an index that fits it or that is made now.

    given : the file that errors name; `path` may be its unpacked copy
    """
    beside, cached = path.with_name(path.name + ".fai"), _cache_file(path, ".fai")
    index = next((index for index in (beside, cached) if _is_index_of(path, index)), None)
    if index is None:
        index = beside if os.access(path.parent, os.W_OK) else cached
        with one_at_a_time(index):
            if not _is_index_of(path, index):  # another process may have made it meanwhile
                _build_index(path, index, given)
        if not _is_index_of(path, index):
            index.unlink()
            raise InputFileError(given, None, "its lines have different lengths", _ONE_WIDTH)
    records = _read_index(path, index)
    _check_not_empty(given, records)
    names = [name for name, _ in records]
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        problem = f'Duplicate key "{twice}": two sequences have this name'
        raise InputFileError(given, None, problem, "rename or delete one of them")
    return dict(records)


def _check_not_empty(path: Path, records: list[tuple[str, _Record]]) -> None:
    empty = [name for name, record in records if not record.size]
    if empty:
        problem = f"{empty[0]!r} has no sequence"
        raise InputFileError(path, None, problem, "add it or drop the header")


def _read_index(path: Path, index: Path) -> list[tuple[str, _Record]]:
    records = []
    for number, raw in numbered_lines(index):
        name, *numbers = raw.decode(errors="replace").rstrip("\r\n").split("\t")
        if len(numbers) < 4 or not all(re.fullmatch("[0-9]{1,18}", n) for n in numbers[:4]):
            problem = f"no index of {path.name} (line {number})"
            raise InputFileError(index, None, problem, "delete it to make it anew")
        records.append((name, _Record(*map(int, numbers[:4]))))
    return records


def _is_index_of(path: Path, index: Path) -> bool:
    """True if an index is there and every sequence lies in the file at `path` where it says.

    Dates are no evidence: a file may be replaced by another version with its old date.
    """
    if not index.exists():
        return False
    end = line_end = 0
    with path.open("rb") as file:
        for name, record in _read_index(path, index):
            file.seek(end)
            between = file.read(min(max(0, record.offset - end), _END))
            lines = [line for line in between.split(b"\n") if line.strip() and line[:1] != b";"]
            named = len(lines) == 1 and lines[0].rstrip(b"\r")[1:].split()[:1] == [name.encode()]
            if not (named and lines[0][:1] == b">" and between.endswith(b"\n")):
                break
            at_line_end = record.size % max(record.bases, 1) == 0
            end, line_end = record.byte(record.size), record.ends
            end += 0 if at_line_end else line_end
        else:
            size = path.stat().st_size
            file.seek(min(end, size - 1))
            blank = not file.read(_END).strip()
            line_end_missing = end > size or (end == size and not line_end)
            if (not blank and end - size <= 2) if line_end_missing else blank:
                return True
    _log.info("%s is not the index of this version of %s", index, path.name)
    return False


def _build_index(path: Path, index: Path, given: Path) -> None:
    try:
        import pyfaidx
    except ImportError:
        raise ImportError("reading a genome needs pyfaidx: pip install 'tism[score]'") from None
    with path.open("rb") as file:
        begin = file.read(_END)
    if b"\r" in begin and b"\n" not in begin:
        remedy = "rewrite the line ends of an old Mac (tr '\\r' '\\n')"
        raise InputFileError(given, None, "has carriage returns for line ends", remedy)
    with replacing(index) as temporary:
        try:
            with pyfaidx.Faidx(path, indexname=temporary, build_index=False) as file:
                file.build_index()
            _check_not_empty(given, _read_index(path, temporary))
        except UnicodeDecodeError:
            for number, line in numbered_lines(path):
                decoded(given, number, line)  # raises at the first line that is no text
            raise
        except pyfaidx.FastaIndexingError as error:
            remedy = _ONE_WIDTH if "Line length" in str(error) else "begin each with '>name'"
            line, problem = None, str(error)
            if "Bad sequence name" in problem:  # with the number of the line before it
                line, problem = _nameless_header(path), "a header without a name"
            raise InputFileError(given, line, problem, remedy) from None


def _nameless_header(path: Path) -> int:
    lines = numbered_lines(path)
    return next(number for number, line in lines if line[:1] == b">" and not line[1:].strip())
