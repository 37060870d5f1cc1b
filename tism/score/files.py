"""Files that are written whole or not at all, and the folder of the cache."""

from __future__ import annotations

import errno
import glob
import gzip
import hashlib
import io
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
_PACKINGS = (".gz", ".bgz", ".bz2", ".xz", ".zst", ".zip", ".tar")
_STREAMS = ("/dev/std", "/dev/fd/", "/proc/")  # which may lead to a file, as after `>`
_SETTLED = 2 * 10**9  # nanoseconds; a clock of files may be too coarse to tell two changes apart


@contextmanager
def replacing(path: Path, ending: str | None = None) -> Iterator[Path]:
    """Give a temporary file beside `path`, which takes the place of `path` if the block succeeds.

    ending : of the names of a binary format, by which some writers choose it; None is `path`'s

    Where the block fails, the temporary file is deleted and `path` stays as it was. A link stays a
    link to the file that is replaced; a pipe, a device or an open file (/dev/stdout) gets the
    content when it is whole. Raises OSError naming `path` where it cannot be written.
    """
    if ending is not None and path.suffix in _PACKINGS:
        raise ValueError(f"{path}: this format is packed in itself; leave {path.suffix} out")
    ending = path.suffix if ending is None else ending
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, name a file", str(path))
    if path.exists() and (not path.is_file() or str(path.absolute()).startswith(_STREAMS)):
        with tempfile.TemporaryDirectory() as folder:
            yield (temporary := Path(folder) / f"{path.stem}{ending}")
            kept = "a part of it may be there"
            with disk_errors_named(path, lambda: kept), path.open("ab") as target:
                target.write(temporary.read_bytes())
        return
    with disk_errors_named(path):
        temporary = beside(path, ending)
        try:
            temporary.touch()  # an error of the folder comes before the work
            yield temporary
            os.replace(temporary, path.resolve())
        finally:
            temporary.unlink(missing_ok=True)


def beside(path: Path, ending: str) -> Path:
    """Return a new hidden name in the folder that `path` is in, or that it leads to as a link.

    A file or folder made there has the rights that the user's umask leaves.
    """
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f".{target.stem}.{secrets.token_hex(4)}{ending}")


@contextmanager
def replacing_text(path: Path) -> Iterator[IO[str]]:
    """Give a text file that takes the place of `path`; it is packed if the name ends in .gz."""
    if path.suffix in _PACKINGS[1:]:
        raise ValueError(f"{path}: text is packed by gzip only; name it .gz, or without an ending")
    with replacing(path) as temporary, temporary.open("wb") as raw:
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
        with io.TextIOWrapper(packed, "utf-8", newline="") as file:
            yield file


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process at a time make what is at `path`; the others wait until it has.

    What processes that were killed left under names of `beside` is deleted. Where files cannot be
    locked, nobody waits, and nothing is deleted.
    """
    target = path.resolve()
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    with suppress(OSError, NotImplementedError):
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(lock.lock_file).touch()  # where it cannot be made, filelock would wait for ever
        try:
            lock.acquire(blocking=False)
        except Timeout:
            _log.info("waiting for another process, which makes %s", path)
            lock.acquire()
    try:
        if lock.is_locked:
            _delete_remnants(target)
        yield
    finally:
        if lock.is_locked:
            Path(lock.lock_file).unlink(missing_ok=True)  # who waits for it finds the work done
            lock.release()


def _delete_remnants(path: Path) -> None:
    hexadecimal = "[0-9a-f]" * 8
    name = f".{glob.escape(path.stem)}.{hexadecimal}{glob.escape(path.suffix)}"
    for remnant in path.parent.glob(name):
        if remnant.is_dir():
            shutil.rmtree(remnant, ignore_errors=True)
        else:
            remnant.unlink(missing_ok=True)


@contextmanager
def disk_errors_named(
    path: Path, kept: Callable[[], str] = lambda: "it stays as it was"
) -> Iterator[None]:
    """Turn errors of the disk into an OSError that names `path`, and the remedy if it is full.

    kept : says what is on the disk after the error
    """
    try:
        yield
    except Exception as error:
        target, named = path.resolve(), str(getattr(error, "filename", None))
        if is_full_disk(error) and "no space left for" not in str(error):
            too_large = getattr(error, "errno", None) == errno.EFBIG
            remedy = "raise the limit of a file (ulimit -f)" if too_large else "free some space"
            message = f"no space left for {path}: {kept()}; {remedy} and run again"
            raise OSError(errno.ENOSPC, message) from error
        temporary = named.startswith(str(target.with_name(f".{target.stem}.")))
        if temporary or Path(named) in target.parents:
            problem = f"cannot be written ({error.strerror})"
            raise OSError(error.errno, problem, str(path)) from error
        raise


def is_full_disk(error: BaseException) -> bool:
    """True if the error was raised because the disk, or the user's share of it, is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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
    with replacing_text(path) as file:
        safe.to_csv(file, sep="\t", index=False)


def _as_text(cell: Any) -> str:
    """Return a cell with a ' before it where a spreadsheet would take it for a formula."""
    formula = re.match(r"[=+@\t\r-].", str(cell), re.DOTALL) and not _NUMBER.fullmatch(str(cell))
    return f"'{cell}" if formula else str(cell)


_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf")


def data_folder(otherwise: Path | None = None) -> Path:
    """Return the folder TISM_DATA_DIR, else `otherwise`, else `tism` in the user's cache folder."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "tism"
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
