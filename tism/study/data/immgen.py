"""The paper's data: ATAC-seq peaks of 81 mouse immune cell types (ImmGen, Yoshida et al. 2019).

Files and their addresses are in `data/sources.csv`, folder `immgen`. Peak names are compared
without the prefix "ImmGenATAC1219.", as the paper prints them.
"""

from __future__ import annotations

import os
import pickletools
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tism.score.readers import InputFileError, decoded, numbered_lines, open_text
from tism.sequence import NOT_A_BASE
from tism.study.data.dataset import Dataset, standardisation
from tism.study.data.tables import check_unique, iterate_fasta, read_targets
from tism.study.data.yeast import number_loci

CHROMOSOMES = tuple(f"chr{k}" for k in range(1, 20))
HELD_OUT = {"chr8": "validation", "chr11": "validation", "chr19": "test"}
PREFIX = "ImmGenATAC1219."
UNITS = ("log2", "counts")
# No count reaches 2**30, so that larger values in a file of log2(x + 2) are not in that unit.
LARGEST_LOG2 = 30
END_MARK = b"\x1a"


def load_immgen(
    *,
    peaks: str | Path | None = None,
    heights: str | Path | None = None,
    genome: str | Path | None = None,
    held_out: str | Path | None = None,
    unit: str = "log2",
    length: int = 251,
    flank: int = 10,
) -> Dataset:
    """Peaks of chr1 to chr19 with their log2(x + 2) accessibility in every cell type.

    The window is `length` bases around the centre of the peak. A peak is left out, and counted in
    the notes, if it lies on another chromosome, is missing in one of the files, or if its window
    or the flanks, into which a random shift moves, hold N or reach beyond the chromosome.

    peaks : name, chromosome, 1-based start and inclusive stop, separated by blanks; no header or
        one. Default: the published file, as for the next two
    heights : header, then a peak's name and one number a cell type, separated by commas
    genome : FASTA, read one chromosome at a time; gzipped or not
    held_out : lists of peak names that must lie on the chromosomes of one held-out split. Default:
        the published lists if `peaks` is the published file
    unit : of the heights: "log2" if they are log2(x + 2) already, as the published ones are (the
        authors' training script takes them as log-scaled, and the AI-TAC sample is in that unit),
        or "counts" for x

    Raises
    ------
    InputFileError
        For a file that breaks its format, names a chromosome or a position that the genome lacks,
        or a height that is negative, not finite or not in that unit; for a held-out peak on a
        training chromosome.
    ValueError
        For sizes or a unit that make no sense.
    """
    _check_arguments(length, flank, unit)
    if peaks is None and held_out is None:
        held_out = _fetched("peak_matchedtestsetschr81119.txt")
    peaks = peaks or _fetched("ImmGenATAC1219.peak_matched.txt")
    heights = heights or _fetched("mouse_peak_heights.csv")
    genome = genome or _fetched("mm10.fa.gz")

    notes: dict[str, Any] = {}
    table, notes["peaks_end_mark"] = read_peaks(peaks)
    targets, notes["heights_end_mark"] = read_heights(heights, unit)
    table = _usable(peaks, heights, table, targets, notes)
    table["split"] = table["chrom"].map(HELD_OUT).fillna("train")
    if held_out is not None:
        notes["held_out"] = _check_held_out(held_out, table)
    start = (table["start"] + (table["end"] - table["start"] - length) // 2).to_numpy()
    windows, fits = _cut_from_stream(genome, peaks, table, start, length, flank)
    has_n = (windows == NOT_A_BASE).any(1)
    notes["window_beyond_chromosome"] = int((~fits).sum())
    notes["window_with_n"] = int((fits & has_n).sum())
    keep = fits & ~has_n
    regions = _regions(table[keep], start[keep], length)
    values = targets.loc[regions["name"]].to_numpy(np.float32)
    center, scale = _standardisation(peaks, values, regions)
    return Dataset(
        name="immgen",
        sequences=windows[keep],
        targets=values,
        tasks=list(targets.columns),
        regions=regions,
        flank=flank,
        center=center,
        scale=scale,
        notes=notes,
        genome=Path(genome),
    )


def _check_arguments(length: int, flank: int, unit: str) -> None:
    for name, value, least in (("length", length, 1), ("flank", flank, 0)):
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}; got {unit!r}")


def _fetched(name: str) -> Path:
    from tism.study.data.download import fetch

    return fetch(f"immgen/{name}")


def read_peaks(path: str | Path) -> tuple[pd.DataFrame, int]:
    """A row a peak in file order: name, chrom, start, end (0-based, half-open) and line.

    Also returns whether a stray ^Z line was ignored.
    """
    rows, end_mark = [], 0
    for number, raw in numbered_lines(path):
        if end_mark:
            raise InputFileError(
                path, number, "a line behind the end mark ^Z", "delete the ^Z, or what follows"
            )
        end_mark = int(raw.strip() == END_MARK)
        fields = decoded(path, number, raw).split()
        if fields and not end_mark and not (not rows and _is_header(fields)):
            rows.append(_peak(path, number, fields))
    if not rows:
        raise InputFileError(path, None, "holds no peak", "give a line for each peak")
    table = pd.DataFrame(rows, columns=["name", "chrom", "start", "end", "line"])
    check_unique(path, table["line"].to_numpy(), table, "name")
    return table, end_mark


def _is_header(fields: list[str]) -> bool:
    return len(fields) == 4 and not any(character.isdigit() for character in "".join(fields[2:]))


def _peak(path: str | Path, number: int, fields: list[str]) -> tuple[str, str, int, int, int]:
    if len(fields) != 4:
        raise InputFileError(
            path, number, f"{len(fields)} columns", "give name, chromosome, start and stop"
        )
    name, chrom, start, stop = fields
    whole = all(re.fullmatch("[0-9]{1,18}", place) for place in (start, stop))
    if not (whole and 1 <= int(start) <= int(stop)):
        raise InputFileError(
            path,
            number,
            f"start {start}, stop {stop}",
            "give whole numbers, start from 1 and stop not below start",
        )
    return name.removeprefix(PREFIX), chrom, int(start) - 1, int(stop), number


def read_heights(path: str | Path, unit: str) -> tuple[pd.DataFrame, int]:
    """(n, n_tasks) log2(x + 2) by peak name, and whether a stray ^Z line was ignored."""
    with _without_end_mark(path) as (plain, end_mark):
        try:
            heights = read_targets(plain)
        except InputFileError as error:
            error.args = (str(error).replace(str(plain), str(path)),)
            raise
    values = heights.to_numpy()
    largest = LARGEST_LOG2 if unit == "log2" else np.inf
    rows, columns = np.nonzero((values < 0) | (values > largest))
    if rows.size:
        value, task = values[rows[0], columns[0]], heights.columns[columns[0]]
        remedy = "a height is not negative"
        if value > 0:
            remedy = 'log2(x + 2) is never that large; say unit="counts" if these are counts'
        raise InputFileError(path, rows[0] + 2, f"height in {task!r} is {value:g}", remedy)
    heights.index = heights.index.str.removeprefix(PREFIX)
    twice = heights.index[heights.index.duplicated()]
    if len(twice):
        raise InputFileError(path, None, f"{twice[0]!r} occurs twice", "keep one of the lines")
    return (heights if unit == "log2" else np.log2(heights + 2)), end_mark


@contextmanager
def _without_end_mark(path: str | Path) -> Iterator[tuple[str | Path, int]]:
    """The file, or a copy without its last line if that is a ^Z, and whether it was."""
    with open_text(path) as file:
        file.seek(0, os.SEEK_END)
        size = file.tell()
        file.seek(max(size - 256, 0))
        tail = file.read()
    *_, last = tail.rstrip(b"\r\n").split(b"\n")
    if last.strip(b'\r,"') != END_MARK:
        yield path, 0
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "heights.csv"
        with open_text(path) as file, open(copy, "wb") as plain:
            shutil.copyfileobj(file, plain)
            plain.truncate(size - len(tail) + tail.rindex(last))
        yield copy, 1


def _usable(
    peaks: str | Path,
    heights: str | Path,
    table: pd.DataFrame,
    targets: pd.DataFrame,
    notes: dict[str, Any],
) -> pd.DataFrame:
    """Peaks of chr1 to chr19 that have heights; what is left out is counted in the notes."""
    matched = table["name"].isin(targets.index)
    if not matched.any():
        raise InputFileError(
            heights,
            None,
            f"no peak of {peaks}: names are like {targets.index[0]!r} and {table['name'][0]!r}",
            "give two files of the same peaks",
        )
    known = table["chrom"].isin(CHROMOSOMES)
    if not (known & matched).any():
        raise InputFileError(
            peaks,
            table["line"][0],
            f"chromosome {table['chrom'][0]!r}, and no peak with heights on chr1 to chr19",
            "name chromosomes chr1 to chr19",
        )
    notes["peaks_without_heights"] = int((~matched).sum())
    notes["heights_without_peak"] = len(targets) - int(matched.sum())
    notes["other_chromosome"] = int((matched & ~known).sum())
    return table[known & matched].reset_index(drop=True)


def read_held_out(path: str | Path) -> dict[str, set[str]]:
    """Peak names of each list: a line "# title", then one line of names separated by blanks."""
    lists: dict[str, set[str]] = {}
    title = None
    for number, raw in numbered_lines(path):
        line = decoded(path, number, raw).strip()
        if line.startswith("#"):
            title = line[1:].strip()
            if title in lists:
                raise InputFileError(path, number, f"list {title!r} twice", "name it once")
            lists[title] = set()
        elif line and title is None:
            raise InputFileError(
                path, number, "names before the first title", "start with '# Test0'"
            )
        elif line:
            lists[title] |= {name.removeprefix(PREFIX) for name in line.split()}
    empty = [title for title, names in lists.items() if not names]
    if not lists or empty:
        problem = f"list {empty[0]!r} holds no name" if empty else "holds no list"
        raise InputFileError(path, None, problem, "give '# Test0', then a line of names")
    return lists


def _check_held_out(path: str | Path, table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Refuse lists that contradict the split by chromosome; count how far they agree with it."""
    found, notes, listed = table.set_index("name"), {}, set()
    for title, names in read_held_out(path).items():
        rows = found[found.index.isin(names)]
        listed |= names
        training = rows[rows["split"] == "train"]
        if len(training):
            name, chrom = training.index[0], training["chrom"].iloc[0]
            raise InputFileError(
                path,
                None,
                f"{title}: {name} lies on {chrom}, a training chromosome ({len(training)} such)",
                f"held out are {', '.join(HELD_OUT)}; use the list of these peaks",
            )
        if rows["split"].nunique() > 1:
            raise InputFileError(
                path,
                None,
                f"{title} mixes peaks of {', '.join(sorted(rows['chrom'].unique()))}",
                "validation (chr8, chr11) and test (chr19) need lists of their own",
            )
        notes[title] = {"listed": len(names), "found": len(rows)}
    unlisted = (found["split"] != "train") & ~found.index.isin(listed)
    if sum(note["found"] for note in notes.values()) == 0:
        raise InputFileError(path, None, "lists no peak of the data", "use the list of these peaks")
    return {**notes, "not_listed": int(unlisted.sum())}


def _cut_from_stream(
    genome: str | Path,
    peaks: str | Path,
    table: pd.DataFrame,
    start: np.ndarray,
    length: int,
    flank: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(n, length + 2 flank) uint8 windows, and which of them lie within their chromosome.

    One chromosome of the genome is in memory at a time.
    """
    first = start - flank
    offset = np.arange(length + 2 * flank)
    windows = np.full((len(table), len(offset)), NOT_A_BASE, np.uint8)
    fits = np.zeros(len(table), bool)
    waiting = {chrom: np.array(rows) for chrom, rows in table.groupby("chrom").indices.items()}
    seen = set()
    for chrom, line, codes in iterate_fasta(genome):
        if chrom in seen:
            raise InputFileError(genome, line, f"{chrom} occurs twice", "keep one of them")
        seen.add(chrom)
        rows = waiting.pop(chrom, None)
        if rows is None:
            continue
        _check_ends(peaks, table.iloc[rows], len(codes))
        fits[rows] = (first[rows] >= 0) & (first[rows] + len(offset) <= len(codes))
        inside = rows[fits[rows]]
        windows[inside] = codes[first[inside, None] + offset]
        if not waiting:
            break
    if waiting:
        missing = sorted(waiting, key=CHROMOSOMES.index)
        raise InputFileError(
            genome, None, f"lacks {', '.join(missing)}", "use mm10 with chromosomes chr1 to chr19"
        )
    return windows, fits


def _check_ends(path: str | Path, table: pd.DataFrame, size: int) -> None:
    beyond = table[table["end"] > size]
    if len(beyond):
        peak = beyond.iloc[0]
        raise InputFileError(
            path,
            peak["line"],
            f"{peak['name']} stops at {peak['end']}, behind the end of {peak['chrom']} ({size} bp)",
            "use the genome of the peaks, mm10",
        )


def _regions(table: pd.DataFrame, start: np.ndarray, length: int) -> pd.DataFrame:
    regions = pd.DataFrame(
        {"name": table["name"], "chrom": table["chrom"], "start": start, "end": start + length}
    ).reset_index(drop=True)
    return regions.assign(locus=_loci(regions), split=table["split"].to_numpy())


def _loci(regions: pd.DataFrame) -> np.ndarray:
    order = regions.sort_values(["chrom", "start"], kind="stable").index.to_numpy()
    loci = np.empty(len(regions), np.int64)
    loci[order] = number_loci(regions.loc[order].reset_index(drop=True))
    return loci


def _standardisation(path, values: np.ndarray, regions: pd.DataFrame):
    train = np.flatnonzero(regions["split"] == "train")
    if not len(train):
        raise InputFileError(
            path, None, "no peak left on a training chromosome", "give peaks of chr1 to chr19"
        )
    return standardisation(values, train)


def load_aitac_sample() -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """The 100 peaks that Maslova et al. (2020) publish with AI-TAC.

    The file's rows are A, T, G, C; here they are reordered to A, C, G, T.

    Returns one_hot (100, 4, 251) float32, heights (100, 81) float32 in log2(x + 2), names of the
    peaks as in the file without its prefix, and of the cell types.
    """
    folder = "aitac_sample"
    one_hot = np.load(_fetched(f"{folder}/one_hot_seqs.npy"), allow_pickle=False)
    heights = np.load(_fetched(f"{folder}/cell_type_array.npy"), allow_pickle=False)
    names = np.load(_fetched(f"{folder}/peak_names.npy"), allow_pickle=False)
    cell_types = read_object_strings(_fetched(f"{folder}/cell_type_names.npy"))[:, 1]
    if one_hot.shape != (100, 4, 251) or heights.shape != (100, len(cell_types)):
        raise InputFileError(
            folder, None, f"shapes {one_hot.shape} and {heights.shape}", "fetch the files again"
        )
    acgt = one_hot[:, ["ATGC".index(base) for base in "ACGT"]].astype(np.float32)
    peaks = [name.decode().removeprefix(PREFIX) for name in names]
    return acgt, heights, peaks, [str(name) for name in cell_types]


_STRINGS = ("BINUNICODE", "SHORT_BINUNICODE")
_SAVE, _RECALL = ("BINPUT", "LONG_BINPUT", "MEMOIZE"), ("BINGET", "LONG_BINGET")


def read_object_strings(path: str | Path) -> np.ndarray:
    """An array of strings that was saved as Python objects, read off the file's instructions.

    None of them is carried out: whatever else the file holds, it runs no code.
    """
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
        operations = [(o.name, argument) for o, argument, _ in pickletools.genops(file)]
    memo, cells, last, inside = {}, [], None, False
    for name, argument in operations:
        if name in _SAVE:
            memo[len(memo) if argument is None else argument] = last
        elif name in (*_STRINGS, *_RECALL):
            last = memo.get(argument) if name in _RECALL else argument
            cells += [last] if inside else []
        elif inside and name not in ("MARK", "NONE", "BINFLOAT"):
            break
        else:
            inside = inside or name == "EMPTY_LIST"
            last = None
            cells += [argument] if inside and name in ("NONE", "BINFLOAT") else []
    if len(cells) != np.prod(shape):
        raise InputFileError(path, None, "holds more than strings", "fetch the file again")
    return np.array(cells, dtype=object).reshape(shape)
