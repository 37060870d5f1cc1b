"""Weights as safetensors with a JSON beside them: written atomically, checked when read."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor


class DamagedCheckpointError(RuntimeError):
    """The files of a checkpoint do not belong together or cannot be read."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_checkpoint(stem: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write `stem`.safetensors, then `stem`.json, which holds the checksum of the former.

    A checkpoint exists once its JSON does.
    """
    from safetensors.torch import save_file

    weights = stem.with_name(stem.name + ".safetensors")
    digest = _digest(metadata)  # before the old weights go: metadata may not be serialisable
    with replacing(weights) as temporary:
        save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, temporary)
    record = {**metadata, "sha256": _sha256(weights), "record_sha256": digest}
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
        metadata = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedCheckpointError(_damage(record, f"is no JSON ({error})")) from error
    if not isinstance(metadata, dict):
        raise DamagedCheckpointError(_damage(record, "is not the record of a checkpoint"))
    if metadata.get("record_sha256", _digest(metadata)) != _digest(metadata):
        raise DamagedCheckpointError(_damage(record, "was changed after it was written"))
    if metadata.get("sha256") != _sha256(weights):
        raise DamagedCheckpointError(_damage(weights, f"is not the file that {record.name} names"))
    return load_file(weights), metadata


def _digest(metadata: dict[str, Any]) -> str:
    """Checksum of the metadata but for the checksums themselves."""
    own = {key: value for key, value in metadata.items() if key not in ("sha256", "record_sha256")}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def _damage(path: Path, what: str) -> str:
    return f"{path} {what}; delete {path.stem}.safetensors and {path.stem}.json to make them anew"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
