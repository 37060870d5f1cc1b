"""Files that are written whole or not at all, and the folder of the cache."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
_SETTLED = 2 * 10**9  # nanoseconds; a clock of files may be too coarse to tell two changes apart


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path`, which takes the place of `path` if the block succeeds.

    Where the block fails, the temporary file is deleted and `path` stays as it was. A pipe or a
    device gets the content when it is whole. Raises OSError naming `path` where the disk is full.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            yield (temporary := Path(folder) / path.name)
            with temporary.open("rb") as file, path.open("wb") as target:
                shutil.copyfileobj(file, target)
        return
    with full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(path.suffix, f".{path.stem}.", path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process at a time make what is at `path`; the others wait until it has.

    Where files cannot be locked, nobody waits.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            _log.info("waiting for another process, which makes %s", path)
            lock.acquire()
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        if lock.is_locked:
            Path(lock.lock_file).unlink(missing_ok=True)  # who waits for it finds the work done
            lock.release()


@contextmanager
def full_disk_named(
    path: Path, kept: Callable[[], str] = lambda: "it stays as it was"
) -> Iterator[None]:
    """Turn the errors of a full disk into one OSError that names `path` and the remedy.

    kept : says what is on the disk after the error
    """
    try:
        yield
    except Exception as error:
        if not is_full_disk(error) or "no space left for" in str(error):
            raise
        message = f"no space left for {path}: {kept()}; free some space and run again"
        raise OSError(errno.ENOSPC, message) from error


def is_full_disk(error: BaseException) -> bool:
    """True if the error was raised because the disk, or the user's share of it, is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return type(error).__name__ == "SafetensorError" and "No space left" in str(error)


def write_text(path: Path, text: str) -> None:
    """Write a text file; a reader sees the old text or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table with tabs between its columns; no spreadsheet runs its text as a formula."""
    safe = table.rename(columns=_as_text)
    for name, column in safe.items():
        if column.dtype.kind not in "iuf":
            texts = column.astype(str)
            first = texts.str[:1].isin(list("=+@\t\r-"))
            safe[name] = texts.where(~first, texts[first].map(_as_text))
    with replacing(path) as temporary:
        safe.to_csv(temporary, sep="\t", index=False)


def _as_text(cell: Any) -> str:
    """Return a cell with a ' before it where a spreadsheet would take it for a formula."""
    formula = re.match(r"[=+@\t\r-].", str(cell), re.DOTALL) and not _NUMBER.fullmatch(str(cell))
    return f"'{cell}" if formula else str(cell)


_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf")


def data_folder(otherwise: Path | None = None) -> Path:
    """Return the folder TISM_DATA_DIR, else `otherwise`, else `tism` in the user's cache folder."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "tism"
    return Path(os.environ.get("TISM_DATA_DIR") or otherwise or user_cache).expanduser()


def described(path: Path) -> dict[str, Any]:
    """Return the name of an input, with its size in bytes and its sha256 where it is a file."""
    if not path.is_file():  # what came through a pipe is gone
        return {"name": str(path)}
    return {"name": str(path), "size": path.stat().st_size, "sha256": file_sha256(path)}


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_version(path: Path) -> str:
    """Return what tells one version of a file from another without reading it.

    A file that was replaced by one of the same size and date has another inode or, since nobody can
    set it, another time of the last change of its status.
    """
    stat = path.stat()
    changed = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"
    return f"{path.resolve()} {changed}"


def known_sha256(path: Path) -> str:
    """Return `file_sha256`; a process reads each version of a file once."""
    if time.time_ns() - path.stat().st_ctime_ns < _SETTLED:
        return file_sha256(path)
    return _sha256_of_version(path, file_version(path))


@cache
def _sha256_of_version(path: Path, version: str) -> str:
    return file_sha256(path)
