"""Weights as safetensors with a JSON beside them: written atomically, checked when read."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor


class DamagedFileError(RuntimeError):
    """A file that is not what was written; the message names it and the remedy."""


class DamagedCheckpointError(DamagedFileError):
    """The files of a checkpoint do not belong together or cannot be read."""


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


def write_checked(path: Path, text: str) -> None:
    """`write_text` with the checksum in a hidden file beside it, for `read_checked`."""
    beside = _checksum_file(path)
    beside.unlink(missing_ok=True)  # a kill from here on leaves a file without checksum, no alarm
    write_text(path, text)
    write_text(beside, f"{file_sha256(path)}\n")


def read_checked(path: Path) -> str:
    """The text of a file; DamagedFileError where it is not what `write_checked` wrote.

    A file without a checksum beside it is taken as it is.
    """
    content, beside = path.read_bytes(), _checksum_file(path)
    if beside.exists() and beside.read_bytes() != f"{_sha256(content)}\n".encode():
        raise DamagedFileError(_not_as_written(path))
    try:
        return content.decode()
    except ValueError as error:
        raise DamagedFileError(_not_as_written(path)) from error


def read_json(path: Path) -> Any:
    """`read_checked` of a JSON file."""
    try:
        return json.loads(read_checked(path))
    except ValueError as error:
        raise DamagedFileError(_not_as_written(path)) from error


def _checksum_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _not_as_written(path: Path) -> str:
    return f"{path} is damaged: not what was written; delete it to make it anew"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def save_checkpoint(stem: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write `stem`.safetensors, then `stem`.json, which holds the checksum of the former.

    A checkpoint exists once its JSON does.
    """
    from safetensors.torch import save_file

    weights = stem.with_name(stem.name + ".safetensors")
    digest = _digest(metadata)  # before the old weights go: metadata may not be serialisable
    with replacing(weights) as temporary:
        save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, temporary)
    record = {**metadata, "sha256": file_sha256(weights), "record_sha256": digest}
    write_text(stem.with_name(stem.name + ".json"), json.dumps(record, indent=1) + "\n")


def load_checkpoint(stem: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote.

    Raises FileNotFoundError where there is none, DamagedCheckpointError where it is not whole.
    """
    from safetensors.torch import load_file

    weights, record = (stem.with_name(stem.name + end) for end in (".safetensors", ".json"))
    for path in (weights, record):
        if not path.exists():
            raise FileNotFoundError(f"no checkpoint here: {path} is missing")
    try:
        metadata = _read_object(record)
    except ValueError as error:
        raise DamagedCheckpointError(_damage(record, str(error))) from error
    if metadata.get("sha256") != file_sha256(weights):
        raise DamagedCheckpointError(_damage(weights, f"is not the file that {record.name} names"))
    return load_file(weights), metadata


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object, its checksum tested where it has one; ValueError says what is wrong."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError("is no JSON object")
    if content.get("record_sha256", _digest(content)) != _digest(content):
        raise ValueError("was changed after it was written")
    return content


def _digest(metadata: dict[str, Any]) -> str:
    """Checksum of the metadata but for the checksums themselves."""
    own = {key: value for key, value in metadata.items() if key not in ("sha256", "record_sha256")}
    return _sha256(json.dumps(own, sort_keys=True).encode())


def _damage(path: Path, what: str) -> str:
    return f"{path} {what}; delete {path.stem}.safetensors and {path.stem}.json to make them anew"


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
