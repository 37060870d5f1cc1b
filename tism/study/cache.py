"""Weights as safetensors with a JSON beside them: written atomically, checked when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from torch import Tensor

from tism.score.files import file_sha256, replacing, write_text
from tism.study.profiles import work_folder


class DamagedFileError(RuntimeError):
    """A file that is not what was written; the message names it and the remedy."""


class DamagedCheckpointError(DamagedFileError):
    """The files of a checkpoint do not belong together or cannot be read."""


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


def remembered(name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors that the cache holds under a name, or computed now and kept there.

    Processes that ask for the same at the same time wait for the first, which computes it.

    name : relative, ending in a digest of all that the tensors depend on
    """
    stem = work_folder("cache") / name
    record = stem.with_name(stem.name + ".json")
    if record.exists():  # needs no lock, which a cache that is only read could not have
        return load_checkpoint(stem)[0]
    stem.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{stem}.lock"):
        if record.exists():
            return load_checkpoint(stem)[0]
        tensors = compute()
        save_checkpoint(stem, tensors, {"shapes": {k: list(t.shape) for k, t in tensors.items()}})
    return tensors


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV file with six digits a number, whole or not at all, with its checksum beside."""
    write_checked(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def read_kept(path: Path, **options: Any) -> pd.DataFrame:
    """What `write_table` wrote; options of `pandas.read_csv`. DamagedFileError where it changed."""
    return pd.read_csv(StringIO(read_checked(path)), **options)


def kept_table(name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table that the cache holds under a name (see `remembered`), or computed now and kept."""
    path = work_folder("cache") / f"{name}.csv"
    if not path.exists():
        write_table(path, compute())
    return read_kept(path)
