"""Profiles: their settings and data sets, and the folders that they use."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml

from tism import versions
from tism.score.files import data_folder, known_sha256
from tism.score.readers import InputFileError
from tism.study.data.dataset import Dataset
from tism.study.data.download import checksum_of, data_root
from tism.study.data.immgen import load_immgen
from tism.study.data.simulation import simulate
from tism.study.data.yeast import load_yeast

DATASETS = {"simulated": simulate, "yeast": load_yeast, "immgen": load_immgen}
_SOURCES = {
    "yeast": ["yeast/"],
    "immgen": ["immgen/ImmGen", "immgen/mouse", "immgen/mm10", "immgen/peak"],
}
_TABLES = {"yeast": "yeast_tasks.csv", "simulated": "motifs.csv"}
USER_FILES = ("peaks", "heights", "genome", "held_out")  # settings of data that name a user's file


@dataclass(frozen=True)
class Profile:
    """One scale at which the compendium runs: `book/profiles/<name>.yml`.

    datasets : names of data sets; the chapters are about the first
    data : for each data set the arguments of its loader
    model : for each data set the arguments of `build_model` (width, pool)
    training : for each data set the settings of `TrainingConfig`
    variants : for each variant that needs them, settings that override those of `training`
    regions : number of test regions that are scored, spread evenly over the test set
    regions_a_model : the same for each of the many networks of `tism.study.ch05_runs`
    experiments : series of networks, see `tism.study.networks.Series`
    chapters : for each chapter its own settings
    machine : threads and kernels with which networks are trained and scored, see
        `tism.study.machine`; empty where any will do
    """

    name: str
    datasets: list[str]
    data: dict[str, dict[str, Any]]
    model: dict[str, dict[str, Any]]
    training: dict[str, dict[str, Any]]
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    regions: int = 100
    regions_a_model: int = 100
    experiments: list[dict[str, Any]] = field(default_factory=list)
    chapters: dict[str, dict[str, Any]] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = set(self.datasets) - set(DATASETS)
        if unknown or not self.datasets:
            raise ValueError(
                f"profile {self.name}: datasets must be some of {', '.join(DATASETS)}, "
                f"got {self.datasets}"
            )
        for section in ("data", "model", "training"):
            if set(getattr(self, section)) != set(self.datasets):
                raise ValueError(
                    f"profile {self.name}: {section} must have the keys {', '.join(self.datasets)}"
                )


def machine_identity(profile: Profile) -> dict[str, Any]:
    """The part of an identity that fixes the machine; empty where the profile does not."""
    return {"machine": profile.machine} if profile.machine else {}


def repository() -> Path:
    """The folder that holds `book`, `notebooks` and `data`."""
    return data_root().parent


def profile_names() -> list[str]:
    """Names of the profiles in `book/profiles`."""
    return sorted(path.stem for path in (repository() / "book" / "profiles").glob("*.yml"))


def load_profile(name: str) -> Profile:
    """Read `book/profiles/<name>.yml`; ValueError for an unknown name or key."""
    if name not in profile_names():
        raise ValueError(f"profile must be one of {', '.join(profile_names())}; got {name!r}")
    path = repository() / "book" / "profiles" / f"{name}.yml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {f.name for f in fields(Profile)} - {"name"}
    if set(content) - known:
        unknown = ", ".join(sorted(set(content) - known))
        raise ValueError(f"{path.name}: unknown keys {unknown}; known are {', '.join(known)}")
    return Profile(name=name, **content)


def dataset_checksum(profile: Profile, name: str) -> str:
    """Digest of what makes a data set: sources, table, settings, version.

    No published data are read. Of a user's own files the contents count, and not the paths.
    """
    settings = profile.data[name]
    given = [key for key in USER_FILES if settings.get(key)]
    files = {key: _user_file_sha256(name, key, settings[key]) for key in given}
    content = {
        "sources": checksum_of(_SOURCES[name]) if name in _SOURCES else None,
        "table": known_sha256(data_root() / _TABLES[name]) if name in _TABLES else None,
        "settings": {**settings, **files},
        "version": versions.DATA,
    }
    return digest(content)


def _user_file_sha256(dataset: str, setting: str, path: str) -> str:
    try:
        return known_sha256(Path(path))
    except OSError as error:
        raise InputFileError(
            path, None, error.strerror, f"give a readable file as {setting} of the data {dataset}"
        ) from None


def digest(content: Any) -> str:
    """sha256 of anything that JSON can hold."""
    text = json.dumps(content, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()


def load_dataset(profile: Profile, name: str | None = None) -> Dataset:
    """A data set of the profile, by default its first; a process loads each version once."""
    name = name or profile.datasets[0]
    if name not in profile.datasets:
        raise ValueError(
            f"profile {profile.name} has the data sets {', '.join(profile.datasets)}; got {name!r}"
        )
    return _load(name, json.dumps(profile.data[name]), dataset_checksum(profile, name))


@cache
def _load(name: str, settings: str, checksum: str) -> Dataset:
    return DATASETS[name](**json.loads(settings))


def work_folder(kind: str) -> Path:
    """The folder "checkpoints" or "cache": below TISM_DATA_DIR if that is set, else in `data`."""
    return data_folder(data_root()) / kind


def results_folder(profile: str) -> Path:
    """The folder of fresh tables and executed chapters, below TISM_RESULTS_DIR or `results`."""
    base = os.environ.get("TISM_RESULTS_DIR")
    return (Path(base) if base else repository() / "results") / profile


def default_device() -> str:
    """TISM_DEVICE if that is set, else the first of cuda, mps and cpu that is available."""
    if "TISM_DEVICE" in os.environ:
        return os.environ["TISM_DEVICE"]
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
