"""The paper's data: ATAC-seq peaks of 81 mouse immune cell types (ImmGen, Yoshida et al. 2019).

Files and their addresses are in `data/sources.csv`, folder `immgen`. Peak names are compared
without the prefix "ImmGenATAC1219.", as the paper prints them.
"""

from __future__ import annotations

import csv
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tism.score.genome import Genome
from tism.score.readers import InputFileError, decoded, numbered_lines, open_text
from tism.sequence import ALPHABET, NOT_A_BASE
from tism.study.data.dataset import Dataset, build_dataset, check_integer
from tism.study.data.download import fetch
from tism.study.data.yeast import number_loci

CHROMOSOMES = tuple(f"chr{k}" for k in range(1, 20))
HELD_OUT = {"chr8": "validation", "chr11": "validation", "chr19": "test"}
PREFIX = "ImmGenATAC1219."
UNITS = ("log2", "counts")
# No count reaches 2**30: a larger value in a file of log2(x + 2) is not in that unit.
LARGEST_LOG2 = 30
END_MARK = "\x1a"  # of a file that was made under DOS


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

    A window is `length` bases around the centre of a peak. Peaks are left out, and counted in the
    notes, that lie on other chromosomes, are missing in one of the files, or whose window or flanks
    hold N or reach beyond the chromosome.

    peaks, heights, genome : files, see `read_peaks` and `read_heights`; by default the published
        ones. The genome is FASTA, gzipped or not
    held_out : lists of peaks, see `read_held_out`, that must lie on the chromosomes of one held-out
        split; by default the published lists, used with the published peaks only
    unit : of the heights, see `read_heights`

    Raises InputFileError for a file that breaks its format or does not fit the others, and
    ValueError for a size or a unit that makes no sense.
    """
    check_integer("length", length, 1)
    check_integer("flank", flank, 0)
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}; got {unit!r}")
    if peaks is None and held_out is None:
        held_out = fetch("immgen/peak_matchedtestsetschr81119.txt")
    peaks = peaks or fetch("immgen/ImmGenATAC1219.peak_matched.txt")
    heights = heights or fetch("immgen/mouse_peak_heights.csv")
    genome = genome or fetch("immgen/mm10.fa.gz")
    targets = read_heights(heights, unit)
    table, notes = _usable(peaks, heights, read_peaks(peaks), targets)
    if held_out is not None:
        notes |= _check_held_out(held_out, table)
    return _dataset(peaks, Path(genome), table, targets, notes, length, flank)


def read_peaks(path: str | Path) -> pd.DataFrame:
    """One row per peak, in file order: name, chrom, start, end (0-based, half-open) and line.

    path : name, chromosome, 1-based start and inclusive stop, separated by blanks; the first line
        may be a header
    """
    rows = []
    for number, raw in numbered_lines(path):
        fields = decoded(path, number, raw).split()
        is_header = not rows and len(fields) == 4 and not re.search("[0-9]", "".join(fields[2:]))
        if fields not in ([], [END_MARK]) and not is_header:
            rows.append(_peak(path, number, fields))
    if not rows:
        raise InputFileError(path, None, "holds no peak", "give a line for each peak")
    table = pd.DataFrame(rows, columns=["name", "chrom", "start", "end", "line"])
    _check_unique(path, table["line"].to_numpy(), table["name"])
    return table


def _peak(path: str | Path, number: int, fields: list[str]) -> tuple[str, str, int, int, int]:
    if len(fields) != 4:
        problem = f"{len(fields)} columns"
        raise InputFileError(path, number, problem, "give name, chromosome, start and stop")
    name, chrom, start, stop = fields
    whole = all(re.fullmatch("[0-9]{1,18}", place) for place in (start, stop))
    if not (whole and 1 <= int(start) <= int(stop)):
        remedy = "give whole numbers, start from 1 and stop not below start"
        raise InputFileError(path, number, f"start {start}, stop {stop}", remedy)
    return name.removeprefix(PREFIX), chrom, int(start) - 1, int(stop), number


def read_heights(path: str | Path, unit: str) -> pd.DataFrame:
    """(n, n_tasks) heights in log2(x + 2), peak names as the index.

    path : header, then a peak's name and one number per cell type, separated by commas
    unit : "log2" if the file holds log2(x + 2), as the published one does (the authors' training
        script takes it as log-scaled, and the AI-TAC sample is in that unit); "counts" for x
    """
    heights = read_targets(path)
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
    return heights if unit == "log2" else np.log2(heights + 2)


def read_targets(path: str | Path) -> pd.DataFrame:
    """Return a table of finite targets, read from lines of a region's name and one number per task.

    path : separated by commas, with a header line; plain or gzipped. A last line that is an end
        mark of DOS is ignored

    Returns a float64 frame (n, n_tasks) with the names as index and the tasks as columns.

    Raises InputFileError at a line with another number of columns, a repeated or missing name or a
    value that is not a finite number, for repeated tasks and for a table without rows.
    """
    _check_rows(path)
    tasks = _target_header(path)
    remedy = f"give a name and {len(tasks)} values, as in the header"
    with open_text(path) as file:
        try:
            frame = pd.read_csv(
                file, dtype={0: str}, skip_blank_lines=False, low_memory=False,
                keep_default_na=False, na_values=[""],
            )  # fmt: skip
        except pd.errors.ParserError as error:
            line = re.search(r"in line (\d+)", str(error))
            number = line and int(line[1])
            raise InputFileError(path, number, "too many columns", remedy) from None
    if not isinstance(frame.index, pd.RangeIndex):
        raise InputFileError(path, 2, "too many columns", remedy)
    if frame.iloc[-1, 0] == END_MARK:
        frame = frame.iloc[:-1]
    numbers = np.arange(len(frame)) + 2
    names, values = frame.iloc[:, 0].rename("name"), frame.iloc[:, 1:]
    missing = np.flatnonzero(names.isna())
    if missing.size:
        remedy = "name the region or delete the line"
        raise InputFileError(path, numbers[missing[0]], "no name", remedy)
    _check_unique(path, numbers, names)
    values = _finite_values(path, numbers, values.set_axis(tasks, axis=1))
    return values.set_axis(names.astype(str), axis=0)


def _target_header(path: str | Path) -> list[str]:
    """Return the names of the tasks, after checking that they differ and that a row follows."""
    lines = list(islice(numbered_lines(path), 2))
    if len(lines) < 2:
        raise InputFileError(path, None, "holds no row", "give a header and a line for each region")
    tasks = next(csv.reader([decoded(path, *lines[0])]))[1:]
    if not tasks:
        raise InputFileError(path, 1, "names no task", "separate the columns by commas")
    repeated = sorted({task for task in tasks if tasks.count(task) > 1})
    if repeated:
        raise InputFileError(path, 1, f"task {repeated[0]!r} occurs twice", "name each task once")
    return tasks


def _check_rows(path: str | Path) -> None:
    """Raise InputFileError at a line that pandas would not read as one row of the table."""
    for number, line in numbered_lines(path):
        decoded(path, number, line)
        if line.count(b'"') % 2:
            raise InputFileError(path, number, "a quote that does not end", "close or delete it")
        if b"\r" in line.rstrip(b"\r\n") or b"\0" in line:
            problem = "a carriage return or NUL within the line"
            raise InputFileError(path, number, problem, "end lines by newlines")


def _finite_values(path: str | Path, numbers: np.ndarray, targets: pd.DataFrame) -> pd.DataFrame:
    values = targets.apply(pd.to_numeric, errors="coerce").astype(np.float64)
    values[targets.select_dtypes(bool).columns] = np.nan  # True is no number
    rows, columns = np.nonzero(~np.isfinite(values.to_numpy()))
    if rows.size:
        value = targets.iat[rows[0], columns[0]]
        problem = f"value of {targets.columns[columns[0]]!r} is {value}"
        raise InputFileError(path, numbers[rows[0]], problem, "give a finite number")
    return values


def _check_unique(path: str | Path, numbers: np.ndarray, names: pd.Series) -> None:
    """Raise InputFileError where a name occurs twice.

    numbers : the line of the file that each name comes from
    """
    twice = np.flatnonzero(names.duplicated())
    if twice.size:
        problem = f"name {names.iloc[twice[0]]!r} occurs twice"
        raise InputFileError(path, numbers[twice[0]], problem, "keep one of the lines")


def _usable(
    peaks: str | Path, heights: str | Path, table: pd.DataFrame, targets: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Peaks of chr1 to chr19 that have heights, with their split, and counts of the others."""
    matched = table["name"].isin(targets.index)
    if not matched.any():
        names = f"names are like {targets.index[0]!r} and {table['name'][0]!r}"
        remedy = "give two files of the same peaks"
        raise InputFileError(heights, None, f"no peak of {peaks}: {names}", remedy)
    known = table["chrom"].isin(CHROMOSOMES)
    if not (known & matched).any():
        chrom = f"chromosome {table['chrom'][0]!r}"
        problem = f"{chrom}, and no peak with heights on chr1 to chr19"
        raise InputFileError(peaks, table["line"][0], problem, "name chromosomes chr1 to chr19")
    notes = {
        "peaks dropped: no measured heights": int((~matched).sum()),
        "rows of heights dropped: no coordinates": len(targets) - int(matched.sum()),
        "peaks dropped: not on chr1 to chr19": int((matched & ~known).sum()),
    }
    split = table["chrom"].map(HELD_OUT).fillna("train")
    return table.assign(split=split)[known & matched].reset_index(drop=True), notes


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
            problem = "names before the first title"
            raise InputFileError(path, number, problem, "start with '# Test0'")
        elif line:
            lists[title] |= {name.removeprefix(PREFIX) for name in line.split()}
    empty = [title for title, names in lists.items() if not names]
    if not lists or empty:
        problem = f"list {empty[0]!r} holds no name" if empty else "holds no list"
        raise InputFileError(path, None, problem, "give '# Test0', then a line of names")
    return lists


def _check_held_out(path: str | Path, table: pd.DataFrame) -> dict[str, int]:
    """Refuse lists that contradict the split by chromosome; count the peaks of each."""
    notes, listed = {}, set()
    for title, names in read_held_out(path).items():
        found = table[table["name"].isin(names)]
        listed |= names
        if not {*found["split"]} <= {"validation"} and not {*found["split"]} <= {"test"}:
            problem = f"{title} holds peaks of {', '.join(sorted(found['chrom'].unique()))}"
            remedy = "give each list peaks of chr8 and chr11 (validation) or of chr19 (test) only"
            raise InputFileError(path, None, problem, remedy)
        notes[f"peaks listed in {title}"] = len(names)
        notes[f"peaks listed in {title} that are used"] = len(found)
    if not table["name"].isin(listed).any():
        raise InputFileError(path, None, "lists no peak of the data", "use the list of these peaks")
    unlisted = (table["split"] != "train") & ~table["name"].isin(listed)
    return {**notes, "held-out peaks that no list names": int(unlisted.sum())}


def _dataset(
    peaks: str | Path,
    genome: Path,
    table: pd.DataFrame,
    targets: pd.DataFrame,
    notes: dict[str, Any],
    length: int,
    flank: int,
) -> Dataset:
    """The data set of the peaks whose window lies in the genome and holds no N."""
    start = table["start"] + (table["end"] - table["start"] - length) // 2
    table = table.assign(start=start, end=start + length, peak_end=table["end"])
    windows, fits = _cut_windows(genome, peaks, table, flank)
    has_n = (windows == NOT_A_BASE).any(1)
    notes["peaks dropped: window reaches beyond the chromosome"] = int((~fits).sum())
    notes["peaks dropped: window holds an N"] = int((fits & has_n).sum())
    keep = fits & ~has_n
    regions = table.loc[keep, ["name", "chrom", "start", "end"]].reset_index(drop=True)
    regions = regions.assign(locus=number_loci(regions), split=table["split"].to_numpy()[keep])
    values = targets.loc[regions["name"]].to_numpy(np.float32)
    others = {"tasks": list(targets.columns), "flank": flank, "notes": notes, "genome": genome}
    return build_dataset("immgen", windows[keep], values, regions, **others)


def _cut_windows(
    path: Path, peaks: str | Path, table: pd.DataFrame, flank: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n, length + 2 flank) uint8 windows, and which of them lie within their chromosome.

    One chromosome of the genome is in memory at a time.
    """
    first, stop = table["start"].to_numpy() - flank, table["end"].to_numpy() + flank
    windows = np.full((len(table), stop[0] - first[0]), NOT_A_BASE, np.uint8)
    with Genome(path) as genome:
        missing = sorted({*table["chrom"]} - {*genome.sizes}, key=CHROMOSOMES.index)
        if missing:
            remedy = "use mm10 with chromosomes chr1 to chr19"
            raise InputFileError(path, None, f"lacks {', '.join(missing)}", remedy)
        sizes = table["chrom"].map(genome.sizes).to_numpy()
        beyond = np.flatnonzero(table["peak_end"] > sizes)
        if len(beyond):
            peak, size = table.iloc[beyond[0]], sizes[beyond[0]]
            place = f"behind the end of {peak['chrom']} ({size} bp)"
            problem = f"{peak['name']} stops at {peak['peak_end']}, {place}"
            raise InputFileError(peaks, peak["line"], problem, "use the genome of the peaks, mm10")
        fits = (first >= 0) & (stop <= sizes)
        for chrom in table["chrom"].unique():
            codes, _ = genome.codes(chrom, 0, genome.sizes[chrom])
            rows = np.flatnonzero(fits & (table["chrom"] == chrom))
            windows[rows] = codes[first[rows, None] + np.arange(windows.shape[1])]
    return windows, fits


def load_aitac_sample() -> tuple[np.ndarray, np.ndarray]:
    """The 100 peaks that Maslova et al. (2020) publish with AI-TAC.

    The file's rows are A, T, G, C; here they are A, C, G, T.

    Returns one_hot (100, 4, 251) float32, and heights (100, 81) float32 in log2(x + 2).
    """
    one_hot, heights = (
        np.load(fetch(f"immgen/aitac_sample/{name}.npy"), allow_pickle=False)
        for name in ("one_hot_seqs", "cell_type_array")
    )
    if one_hot.shape != (100, 4, 251) or heights.shape != (100, 81):
        shapes = f"shapes {one_hot.shape} and {heights.shape}"
        raise InputFileError("aitac_sample", None, shapes, "fetch the files again")
    rows = ["ATGC".index(base) for base in ALPHABET]
    return one_hot[:, rows].astype(np.float32), heights
