"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when the block succeeds.

    Raises OSError naming `path` where the disk is full; what was there before stays.
    """
    with full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        discard_remnants(path)
        place = {"prefix": temporary_prefix(path), "suffix": path.suffix, "dir": path.parent}
        handle, name = tempfile.mkstemp(**place)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def temporary_prefix(path: Path) -> str:
    """How names begin under which this process writes what becomes `path`."""
    return f"{_prefix_of_machine(path)}{os.getpid()}."


def discard_remnants(path: Path) -> None:
    """Delete what killed processes of this machine left of `path` under its temporary names."""
    prefix = _prefix_of_machine(path)
    for remnant in path.parent.glob(f"{glob.escape(prefix)}*{glob.escape(path.suffix)}"):
        process = remnant.name.removeprefix(prefix).split(".")[0]
        if not process.isdecimal() or _is_running(int(process)):
            continue
        if remnant.is_dir():
            shutil.rmtree(remnant, ignore_errors=True)
        else:
            remnant.unlink(missing_ok=True)


def _prefix_of_machine(path: Path) -> str:
    return f".{path.stem}.{platform.node()}-"


def _is_running(process: int) -> bool:
    if os.name != "posix":  # elsewhere the signal 0 ends it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn the many errors of a full disk into one OSError that names `path` and the remedy."""
    try:
        yield
    except Exception as error:
        if not is_full_disk(error) or "no space left for" in str(error):
            raise
        message = f"no space left for {path}: it stays as it was; free some and run again"
        raise OSError(errno.ENOSPC, message) from error


def is_full_disk(error: BaseException) -> bool:
    """Whether this was raised because a disk, or its user's share of it, is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return type(error).__name__ == "SafetensorError" and "No space left" in str(error)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
