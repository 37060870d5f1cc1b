"""Data sets, trained networks and scores of a profile, computed once and then read from disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from filelock import FileLock
from torch import Tensor, nn

from tism import versions
from tism.checkpoint import load_checkpoint, read_checked, save_checkpoint, write_checked
from tism.data.dataset import Dataset, evenly
from tism.data.download import checksum_of, data_root
from tism.execution import progress_bar
from tism.gradient import input_gradient
from tism.ism import ism, predict
from tism.model import AITAC, build_model
from tism.taylor import tism_from_gradient
from tism.training import TrainingConfig, load_model, train, training_config, training_identity

DATASETS = ("simulated", "yeast", "immgen")
_SOURCES = {
    "yeast": ["yeast/"],
    "immgen": ["immgen/ImmGen", "immgen/mouse", "immgen/mm10", "immgen/peak"],
}
_TABLES = {"yeast": "yeast_tasks.csv", "simulated": "motifs.csv"}
_REGIONS_A_FILE = 100


@dataclass(frozen=True)
class Profile:
    """One scale at which the compendium runs: `book/profiles/<name>.yml`.

    datasets : names; the first is the one that the chapters are about
    data : for each data set the arguments of its loader
    model : for each data set the arguments of `build_model` (width, pool)
    training : for each data set the settings of `TrainingConfig`
    variants : settings of training that one variant needs otherwise
    regions : test regions that are scored, spread evenly over the test set
    regions_a_model : the same for each of the many networks of `tism.robustness`
    experiments : series of networks, see `tism.robustness.Series`
    chapters : for each chapter its own settings
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
    """What identifies a data set without having it: its sources, its table and its settings."""
    table = data_root() / _TABLES[name] if name in _TABLES else None
    content = {
        "sources": checksum_of(_SOURCES[name]) if name in _SOURCES else None,
        "table": hashlib.sha256(table.read_bytes()).hexdigest() if table else None,
        "settings": profile.data[name],
        "version": versions.DATA,
    }
    return digest(content)


def digest(content: Any) -> str:
    """sha256 of anything JSON can hold."""
    text = json.dumps(content, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()


def load_dataset(profile: Profile, name: str | None = None) -> Dataset:
    """A data set of the profile, by default its first."""
    name = name or profile.datasets[0]
    if name not in profile.datasets:
        raise ValueError(
            f"profile {profile.name} has the data sets {', '.join(profile.datasets)}; got {name!r}"
        )
    return _load(name, json.dumps(profile.data[name]))


@cache
def _load(name: str, settings: str) -> Dataset:
    arguments = json.loads(settings)
    if name == "simulated":
        from tism.data.simulate import simulate

        return simulate(**arguments)
    if name == "yeast":
        from tism.data.yeast import load_yeast

        return load_yeast(**arguments)
    from tism.data.immgen import load_immgen

    return load_immgen(**arguments)


def work_folder(kind: str) -> Path:
    """Where checkpoints and caches live: below TISM_DATA_DIR if that is set, else below `data`."""
    base = os.environ.get("TISM_DATA_DIR")
    return (Path(base).expanduser() if base else data_root()) / kind


def results_folder(profile: str) -> Path:
    """Where fresh tables and executed chapters go: below TISM_RESULTS_DIR, by default `results`."""
    base = os.environ.get("TISM_RESULTS_DIR")
    return (Path(base) if base else repository() / "results") / profile


def default_device() -> str:
    """TISM_DEVICE if set, else cuda, mps or cpu, whichever is there first."""
    if "TISM_DEVICE" in os.environ:
        return os.environ["TISM_DEVICE"]
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@dataclass(frozen=True)
class Experiment:
    """One network of a profile: which data, variant, seed and share of the training regions."""

    profile: Profile
    dataset: str
    variant: str = "baseline"
    seed: int = 0
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def training(self) -> TrainingConfig:
        """The profile's settings, the variant's, then this experiment's own."""
        own = self.profile.variants.get(self.variant, {})
        settings = {**self.profile.training[self.dataset], "seed": self.seed}
        return replace(training_config(self.variant, **settings), **{**own, **self.changes})

    def untrained(self) -> AITAC:
        """The network with its initial weights."""
        data = load_dataset(self.profile, self.dataset)
        shape = {"length": data.length, "n_tasks": len(data.tasks)}
        return build_model(
            self.variant, **shape, **self.profile.model[self.dataset], seed=self.seed
        )

    def identity(self) -> dict[str, Any]:
        """What the weights depend on."""
        checksum = dataset_checksum(self.profile, self.dataset)
        own = {"data": checksum, "variant": self.variant}
        return {**training_identity(self.untrained(), self.dataset, self.training), **own}

    @property
    def name(self) -> str:
        """Readable and unique: <dataset>_<variant>_<seed>_<start of the identity's digest>."""
        short = digest(self.identity())[:10]
        return f"{self.dataset}_{self.variant}_{self.seed}_{short}"

    def snapshot(self, epoch: int) -> AITAC:
        """The network after an epoch that `training.snapshots` has, once it is trained."""
        return load_model(work_folder("checkpoints") / self.name / f"epoch_{epoch}")[0]

    def trained(self, *, progress: bool = True) -> tuple[AITAC, dict[str, Any]]:
        """The network and its metadata: from `data/models`, from the cache, or trained now.

        Processes that ask for one network at the same time wait for the first, which trains it.
        """
        folder = work_folder("checkpoints") / self.name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            stem = committed_network(self)
            if stem.with_name(stem.name + ".json").exists():
                model, metadata = load_model(stem)
                if metadata["identity"] == self.identity():
                    return model, metadata
            model = self.untrained()
            metadata = train(
                model,
                load_dataset(self.profile, self.dataset),
                self.training,
                folder,
                identity=self.identity(),
                device=default_device(),
                progress=progress,
            )
        return model.cpu().eval(), metadata


def committed_network(experiment: Experiment) -> Path:
    """Where the repository keeps a recorded network, without the ending."""
    name = f"{experiment.dataset}_{experiment.variant}_{experiment.seed}"
    return data_root() / "models" / name


@dataclass(frozen=True)
class Scores:
    """ISM and gradient of the scored test regions.

    rows : (n,) rows of the data set
    one_hot : (n, 4, length)
    ism, gradient, tism : (n, n_tasks, 4, length)
    predicted : (n, n_tasks), standardised as the model was trained
    """

    rows: np.ndarray
    one_hot: Tensor
    ism: Tensor
    gradient: Tensor
    predicted: Tensor

    @property
    def tism(self) -> Tensor:
        """First-order Taylor approximation of `ism` (Eq. 7)."""
        return tism_from_gradient(self.gradient, self.one_hot)


def scored_rows(dataset: Dataset, n_regions: int) -> np.ndarray:
    """`n_regions` rows spread evenly over the test set, or all of it if it is smaller."""
    return evenly(dataset.indices("test"), n_regions)


def score(model: nn.Module, dataset: Dataset, rows: np.ndarray, *, progress: bool = True) -> Scores:
    """ISM, gradient and prediction of these regions for all tasks, kept in the cache by parts."""
    one_hot = dataset.one_hot(rows)
    starts = range(0, len(rows), _REGIONS_A_FILE)
    with progress_bar(len(rows), progress, "ISM and gradients") as report:
        parts = []
        for start in starts:
            part = one_hot[start : start + _REGIONS_A_FILE]
            parts.append(_score_part(model, part))
            report(len(part))
    merged = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return Scores(rows=rows, one_hot=one_hot, **merged)


def _score_part(model: nn.Module, one_hot: Tensor) -> dict[str, Tensor]:
    key = digest([fingerprint(model, one_hot), versions.SCORING, versions.MODEL])
    device = default_device()
    return remembered(
        f"scores/{key}",
        lambda: {
            "ism": ism(model, one_hot, device=device),
            "gradient": input_gradient(model, one_hot, device=device),
            "predicted": predict(model, one_hot, device=device),
        },
    )


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


def fingerprint(model: nn.Module, one_hot: Tensor) -> str:
    """sha256 of the weights and of the sequences."""
    state = hashlib.sha256(json.dumps(asdict(model.config)).encode())
    for tensor in (*model.state_dict().values(), one_hot):
        state.update(tensor.cpu().contiguous().numpy().tobytes())
    return state.hexdigest()
