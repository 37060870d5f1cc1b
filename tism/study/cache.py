"""Weights and tables that are computed once and then read from disk.

Every file is written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from torch import Tensor

from tism.score.files import file_sha256, replacing, write_text
from tism.study.profiles import work_folder


class DamagedFileError(RuntimeError):
    """A file that cannot be read, or is another than expected; the message names the remedy."""


def read_json(path: Path) -> Any:
    """The content of a JSON file; DamagedFileError if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFileError(
            f"{path} is not JSON ({error}); delete it to make it anew"
        ) from error


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, numbers with six digits."""
    write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """The table in a CSV file; options of `pandas.read_csv`. DamagedFileError if it is no table."""
    try:
        return pd.read_csv(path, **options)
    except ValueError as error:
        raise DamagedFileError(
            f"{path} is no table ({error}); delete it to make it anew"
        ) from error


def save_checkpoint(stem: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write `stem`.safetensors, then `stem`.json with the metadata and the checksum of the weights.

    A checkpoint exists once its JSON does.
    """
    from safetensors.torch import save_file

    json.dumps(metadata)  # an error must come before the old weights are replaced
    weights, record = _checkpoint_files(stem)
    with replacing(weights) as temporary:
        save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, temporary)
    content = {**metadata, "sha256": file_sha256(weights)}
    write_text(record, json.dumps(content, indent=1) + "\n")


def load_checkpoint(stem: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata that `save_checkpoint` wrote.

    Raises FileNotFoundError if one of the two files is missing, and DamagedFileError if the JSON
    cannot be read or belongs to other weights.
    """
    from safetensors.torch import load_file

    weights, record = _checkpoint_files(stem)
    for path in (weights, record):
        if not path.exists():
            raise FileNotFoundError(f"no checkpoint here: {path} is missing")
    metadata = read_json(record)
    if not isinstance(metadata, dict) or metadata.get("sha256") != file_sha256(weights):
        raise DamagedFileError(
            f"{weights} is not the file that {record.name} names; delete both to make them anew"
        )
    return load_file(weights), metadata


def _checkpoint_files(stem: Path) -> tuple[Path, Path]:
    return stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json")


def cached_tensors(name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that the cache holds under a name; if it holds none, compute and store them.

    Processes that ask for the same name at the same time wait for the first, which computes them.

    name : relative path, ending in a digest of everything that the tensors depend on
    """
    stem = work_folder("cache") / name
    _, record = _checkpoint_files(stem)
    if record.exists():  # needs no lock, which a read-only cache could not hold
        return load_checkpoint(stem)[0]
    stem.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{stem}.lock"):
        if record.exists():
            return load_checkpoint(stem)[0]
        tensors = compute()
        save_checkpoint(stem, tensors, {"shapes": {k: list(t.shape) for k, t in tensors.items()}})
    return tensors


def cached_table(name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table that the cache holds under a name, as `cached_tensors`, without a lock."""
    path = work_folder("cache") / f"{name}.csv"
    if not path.exists():
        write_csv(path, compute())
    return read_csv(path)
