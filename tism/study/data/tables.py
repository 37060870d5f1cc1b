"""Readers of tables; their errors name the file, the line and the remedy."""

from __future__ import annotations

import csv
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from tism.score.readers import InputFileError, decoded, numbered_lines, open_text

END_MARK = "\x1a"  # of a file that was made under DOS


def read_targets(path: str | Path) -> pd.DataFrame:
    """Return a table of finite targets, read from lines of a region's name and one number a task.

    path : separated by commas, with a header line; plain or gzipped. A last line that is an end
        mark of DOS is ignored

    Returns a float64 frame (n, n_tasks) with the names as index and the tasks as columns.

    Raises InputFileError at a line with another number of columns, a repeated or missing name or a
    value that is not a finite number, for repeated tasks and for a table without rows.
    """
    check_rows(path)
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
    frame.columns = ["name", *tasks]
    if frame["name"].iloc[-1] == END_MARK:
        frame = frame.iloc[:-1]
    numbers = np.arange(len(frame)) + 2
    missing = np.flatnonzero(frame["name"].isna().to_numpy())
    if missing.size:
        remedy = "name the region or delete the line"
        raise InputFileError(path, numbers[missing[0]], "no name", remedy)
    check_unique(path, numbers, frame, "name")
    values = _finite_values(path, numbers, frame[tasks])
    return values.set_axis(frame["name"].astype(str), axis=0)


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


def check_rows(path: str | Path) -> None:
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


def check_unique(path: str | Path, numbers: np.ndarray, frame: pd.DataFrame, column: str) -> None:
    """Raise InputFileError where a value of a column occurs twice.

    numbers : the line of the file that each row of the frame comes from
    """
    twice = np.flatnonzero(frame[column].duplicated().to_numpy())
    if twice.size:
        problem = f"{column} {frame[column].iloc[twice[0]]!r} occurs twice"
        raise InputFileError(path, numbers[twice[0]], problem, "keep one of the lines")
