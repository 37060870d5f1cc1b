"""One-hot windows of a genome around peaks (BED) and variants (VCF), read when they are needed."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from tism.running import whole_number
from tism.score.files import data_folder, file_version, replacing
from tism.score.readers import InputFileError, decoded, numbered_lines, open_text, read_bed
from tism.score.store import Rows, row_numbers
from tism.sequence import ALPHABET, INDEX_OF_LETTER, INVALID, NOT_A_BASE, one_hot_from_indices

_AMBIGUOUS = 5
_CODES = INDEX_OF_LETTER.copy()
_CODES[list(b"RYSWKMBDHVryswkmbdhv")] = _AMBIGUOUS
_VCF_COLUMNS = ("CHROM", "POS", "ID", "REF", "ALT")
_REMEDY = "use A, C, G, T, N or an IUPAC letter (either case)"
_LONGEST = 10**9  # bp of a window
_log = logging.getLogger(__name__)


class Genome:
    """A FASTA file that is read by position, through the index that samtools and pyfaidx share.

    path : plain or gzipped, letters in either case; a gzipped file is unpacked once into the cache

    A missing or outdated index is written beside the file, or into the cache where the folder is
    read-only. The cache is TISM_DATA_DIR, or `tism` in the user's cache folder.
    Raises InputFileError where the file is no FASTA file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = _plain_file(Path(path))
        faidx = _pyfaidx()
        index = _index_file(self.path)
        try:
            self._fasta = faidx.Fasta(self.path, indexname=index, as_raw=True, rebuild=False)
        except ValueError as error:
            raise InputFileError(
                index, None, f"no index of {self.path.name} ({error})", "delete it to make it anew"
            ) from None
        self.sizes: dict[str, int] = {name: len(self._fasta[name]) for name in self._fasta.keys()}  # noqa: SIM118
        empty = [name for name, size in self.sizes.items() if not size]
        if empty:
            self.close()
            problem = f"{empty[0]!r} has no sequence"
            raise InputFileError(self.path, None, problem, "add it or drop the header")

    def codes(self, chrom: str, start: int, stop: int) -> tuple[np.ndarray, int]:
        """Return base indices, (stop - start,) uint8, and how many of them are ambiguous letters.

        start, stop : 0-based, half-open, within the chromosome

        0 1 2 3 are A C G T, and 4 is N. An IUPAC letter for several bases (R, Y, ...) is read as N.
        Raises InputFileError for any other letter, or where the index is that of another file.
        """
        letters = self._letters(chrom, start, stop)
        codes = _CODES[np.frombuffer(letters, np.uint8)]
        if codes.max(initial=0) == INVALID:
            position = int((codes == INVALID).argmax())
            raise InputFileError(
                self.path,
                self._line(chrom, start + position),
                f"letter {chr(letters[position])!r} in {chrom} at {start + position + 1:,}",
                _REMEDY,
            )
        if len(codes) != stop - start:
            raise InputFileError(
                self.path, None, f"{chrom} ends before {stop}, but its index says otherwise",
                "delete the .fai file to make it anew",
            )  # fmt: skip
        ambiguous = codes == _AMBIGUOUS
        return np.where(ambiguous, np.uint8(NOT_A_BASE), codes), int(ambiguous.sum())

    def _letters(self, chrom: str, start: int, stop: int) -> bytes:
        try:
            return self._fasta[chrom][start:stop].encode("ascii", "replace")
        except UnicodeDecodeError as error:
            line = self._line(chrom, start) + error.object[: error.start].count(b"\n")
            byte = f"byte 0x{error.object[error.start]:02x} in {chrom}"
            raise InputFileError(self.path, line, byte, _REMEDY) from None

    def _line(self, chrom: str, position: int) -> int:
        """Return the number of the line of the file that holds a position of a chromosome."""
        record = self._fasta.faidx.index[chrom]
        offset = record.offset + position // record.lenc * record.lenb + position % record.lenc
        with self.path.open("rb") as file:
            blocks = iter(lambda: file.read(min(2**20, offset - file.tell())), b"")
            return 1 + sum(block.count(b"\n") for block in blocks)

    def close(self) -> None:
        """Close the file."""
        self._fasta.close()

    def __enter__(self) -> Genome:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class GenomeWindows:
    """Windows of one length of a genome; `windows[rows]` is one-hot, (rows, 4, length) float32.

    The sequence is that of the forward strand. N is four zeros, and so is an IUPAC letter for
    several bases.

    genome : where the windows are cut from
    regions : one row a window: chrom, start, end (0-based, half-open) and further columns
    refused : the rows of the file that gave no window: line, record, reason
    """

    def __init__(self, genome: Genome, regions: pd.DataFrame, refused: pd.DataFrame) -> None:
        self.genome, self.regions, self.refused = genome, regions, refused
        self._ambiguous = np.zeros(len(regions), np.int64)

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, rows: Rows) -> Tensor:
        rows = row_numbers(rows, len(self))
        chosen = self.regions.iloc[rows]
        codes = np.empty((len(chosen), self.length), np.uint8)
        ambiguous = np.empty(len(chosen), np.int64)
        places = zip(chosen["chrom"], chosen["start"], chosen["end"], strict=True)
        for row, place in enumerate(places):
            codes[row], ambiguous[row] = self.genome.codes(*place)
        self._ambiguous[rows] = ambiguous
        return one_hot_from_indices(codes)

    @property
    def length(self) -> int:
        """Number of bases in each window."""
        return int(self.regions["end"].iloc[0] - self.regions["start"].iloc[0])

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns that a store keeps, with one value for each window."""
        return {name: self.regions[name].to_numpy() for name in self.regions}

    @property
    def n_ambiguous(self) -> int:
        """Number of IUPAC letters that were read as N in the windows cut so far."""
        return int(self._ambiguous.sum())


class Variants(GenomeWindows):
    """Windows of single-nucleotide variants, with each variant in the middle of its window.

    regions : chrom, start, end, then position (1-based, as in a VCF), id, reference, alternate
    """

    @property
    def centre(self) -> int:
        """Column of the variant in its window."""
        return self.length // 2

    @cached_property
    def alternate(self) -> np.ndarray:
        """Index of the alternate base of each variant, (n,): 0 1 2 3 are A C G T."""
        return self.regions["alternate"].map(ALPHABET.index).to_numpy(np.int64)


def read_windows(bed: str | Path, genome: Genome, length: int | None = None) -> GenomeWindows:
    """Return the windows at the intervals of a BED file, in file order.

    bed : three columns or more, of which the first four are read; plain or gzipped
    length : bases around the middle of each interval; None takes the intervals themselves, which
        must then have one length

    Windows that reach beyond the chromosome are left out and listed in `refused`.
    Raises InputFileError, naming the line, for any other fault of the file.
    """
    table = read_bed(bed, genome.sizes, columns=4)
    if length is None:
        _check_one_length(bed, table)
        length = int(table["end"].iloc[0] - table["start"].iloc[0])
    length = _checked_length(length)
    start = (table["start"] + table["end"]) // 2 - length // 2
    record = table["chrom"] + ":" + table["start"].astype(str) + "-" + table["end"].astype(str)
    regions = pd.DataFrame({"chrom": table["chrom"], "start": start, "end": start + length})
    regions["name"] = table.get("name", record)
    beyond = (start < 0) | (regions["end"] > table["chrom"].map(genome.sizes))
    reason = f"the window of {length} bp reaches beyond the chromosome"
    refused = pd.DataFrame({"line": table["line"], "record": record, "reason": reason})[beyond]
    _check_some_left(bed, len(table), refused)
    return GenomeWindows(
        genome, regions[~beyond].reset_index(drop=True), refused.reset_index(drop=True)
    )


def _checked_length(length: Any) -> int:
    length = whole_number("length", length)
    if not 1 <= length <= _LONGEST:
        raise ValueError(f"length must be from 1 to {_LONGEST:,} bp, got {length}")
    return length


def _check_one_length(path: str | Path, table: pd.DataFrame) -> None:
    lengths = (table["end"] - table["start"]).to_numpy()
    other = np.flatnonzero(lengths != lengths[0])
    if other.size:
        raise InputFileError(
            path,
            int(table["line"].iloc[other[0]]),
            f"interval of {lengths[other[0]]} bp, but the first has {lengths[0]}",
            "give the window's length (--length)",
        )


def _check_some_left(path: str | Path, total: int, refused: pd.DataFrame) -> None:
    if len(refused) == total:
        raise InputFileError(
            path,
            int(refused["line"].iloc[0]),
            f"{refused['reason'].iloc[0]}, and none of the {total} rows can be used",
            "check that the file and the genome belong together",
        )


def read_variants(vcf: str | Path, genome: Genome, length: int) -> Variants:
    """Return the windows of the single-nucleotide variants of a VCF file, in file order.

    vcf : plain, gzip or bgzip
    length : bases in each window; the variant is at column length // 2

    Rows that cannot be scored are left out and listed in `refused` with the first reason that
    applies: unknown chromosome, several alternates, missing or symbolic alternate, insertion or
    deletion, several bases, letters other than ACGT, window beyond the chromosome, REF unlike the
    genome, ALT equal to REF.
    Raises InputFileError, naming the line, for a line that is no VCF row and where no row can be
    scored.
    """
    length = _checked_length(length)
    kept, refused = [], []
    for line, (chrom, text, name, ref, alt) in _vcf_rows(vcf):
        ref, alt = ref.upper(), alt.upper()
        start = _position(vcf, line, text) - 1 - length // 2
        window = (chrom, start, start + length)
        reason = _why_refused(genome, window, start + length // 2, ref, alt)
        if reason:
            refused.append((line, f"{chrom}:{text} {ref}>{alt}", reason))
        else:
            kept.append((*window, start + length // 2 + 1, name, ref, alt))
    refused = pd.DataFrame(refused, columns=["line", "record", "reason"])
    if not kept and not len(refused):
        raise InputFileError(vcf, None, "holds no variant", "give a VCF file with variants")
    _check_some_left(vcf, len(kept) + len(refused), refused)
    columns = ["chrom", "start", "end", "position", "id", "reference", "alternate"]
    return Variants(genome, pd.DataFrame(kept, columns=columns), refused)


def _vcf_rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the first five fields of each row."""
    for number, raw in numbered_lines(path):
        if raw.startswith(b"#") or not raw.strip():
            continue
        fields = raw.decode(errors="replace").rstrip("\r\n").split("\t", len(_VCF_COLUMNS))
        if len(fields) < len(_VCF_COLUMNS):
            raise InputFileError(
                path, number, f"{len(fields)} tab-separated columns",
                f"a VCF row begins with {', '.join(_VCF_COLUMNS)}",
            )  # fmt: skip
        yield number, fields[: len(_VCF_COLUMNS)]


def _position(path: str | Path, line: int, text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text) or not int(text):
        raise InputFileError(path, line, f"POS is {text[:60]!r}", "give a whole number from 1 on")
    return int(text)


def _why_refused(
    genome: Genome, window: tuple[str, int, int], position: int, ref: str, alt: str
) -> str:
    """Return why a variant at a 0-based position cannot be scored; empty if it can."""
    chrom, start, end = window
    if chrom not in genome.sizes:
        return f"chromosome is not in {genome.path.name}{_other_name(chrom, genome.sizes)}"
    if reason := _why_no_substitution(ref, alt):
        return reason
    if start < 0 or end > genome.sizes[chrom]:
        return f"the window of {end - start} bp reaches beyond the chromosome"
    code = genome.codes(chrom, position, position + 1)[0][0]
    found = (ALPHABET + "N")[code]
    if found != ref:
        return f"REF is not the base of {genome.path.name}" + (": N" if found == "N" else "")
    return "ALT is REF" if alt == ref else ""


def _why_no_substitution(ref: str, alt: str) -> str:
    if "," in alt:
        return "several alternates: split the row (bcftools norm -m -)"
    if alt in (".", "*", "") or set(alt) & set("<>[]."):
        return "no alternate base: missing or symbolic"
    if len(ref) != len(alt):
        return "insertion or deletion"
    if len(ref) > 1:
        return "several bases: split the row (bcftools norm -a)"
    return "" if ref in ALPHABET and alt in ALPHABET else "letters other than A, C, G, T"


def _other_name(chrom: str, sizes: Mapping[str, int]) -> str:
    """Say what the genome calls a chromosome, with or without "chr"; empty if it lacks both."""
    other = chrom.removeprefix("chr") if chrom.startswith("chr") else f"chr{chrom}"
    return f", which calls it {other}" if other in sizes else ""


def _pyfaidx() -> Any:
    try:
        import pyfaidx
    except ImportError:
        raise ImportError("reading a genome needs pyfaidx: pip install 'tism[score]'") from None
    return pyfaidx


def _cache_file(path: Path, ending: str) -> Path:
    """Return the name in the cache of a file made from this version of the file at `path`."""
    key = hashlib.sha256(file_version(path).encode()).hexdigest()
    name = f"{path.name}.{key[:16]}{ending}"
    return data_folder() / "cache" / "genome" / name


def _plain_file(path: Path) -> Path:
    """Return the file itself, or its unpacked copy in the cache if it is gzipped."""
    import gzip

    with open_text(path) as file:
        if not isinstance(file, gzip.GzipFile):
            return path
        unpacked = _cache_file(path, ".fa")
        if not unpacked.exists():
            _log.info("unpacking %s into %s", path, unpacked)
            try:
                with replacing(unpacked) as temporary, temporary.open("wb") as target:
                    shutil.copyfileobj(file, target, 2**20)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise InputFileError(path, None, f"damaged ({error})", "fetch it again") from None
        return unpacked


def _index_file(path: Path) -> Path:
    """Return an index that is not older than the file, from beside it or made now."""
    beside = path.with_name(path.name + ".fai")
    if beside.exists() and beside.stat().st_mtime >= path.stat().st_mtime:
        return beside
    if os.access(path.parent, os.W_OK):
        _build_index(path, beside)
        return beside
    cached = _cache_file(path, ".fai")
    if not cached.exists():
        _build_index(path, cached)
    return cached


def _build_index(path: Path, index: Path) -> None:
    """Write an index dated like the file, so that it is outdated if the file changes meanwhile."""
    faidx, modified = _pyfaidx(), path.stat().st_mtime_ns
    with replacing(index) as temporary:
        try:
            with faidx.Faidx(path, indexname=temporary, build_index=False) as file:
                file.build_index()
        except UnicodeDecodeError:
            for number, line in numbered_lines(path):
                decoded(path, number, line)  # raises at the first line that is no text
            raise
        except faidx.FastaIndexingError as error:
            remedy = "give a FASTA file with '>name' headers and lines of one length"
            raise InputFileError(path, None, str(error), remedy) from None
        os.utime(temporary, ns=(modified, modified))
