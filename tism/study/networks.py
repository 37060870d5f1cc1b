"""The networks of a profile: which there are, how each is trained, and where it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import nn

from tism import versions
from tism.model import AITAC, build_model, get_variant
from tism.study import profiles
from tism.study.data.download import data_root
from tism.study.machine import check_machine
from tism.study.training import (
    TrainingConfig,
    load_model,
    train,
    training_config,
    training_identity,
)


@dataclass(frozen=True)
class Experiment:
    """One network of a profile: which data, variant, seed and share of the training regions."""

    profile: profiles.Profile
    dataset: str
    variant: str = "baseline"
    seed: int = 0
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def training(self) -> TrainingConfig:
        """The profile's settings, the variant's, then this experiment's own."""
        config = training_config(self.variant, **self.profile.training[self.dataset])
        overrides = {**self.profile.variants.get(self.variant, {}), **self.changes}
        return replace(config, **overrides, seed=self.seed)

    def untrained(self) -> AITAC:
        """The network with its initial weights."""
        data = profiles.load_dataset(self.profile, self.dataset)
        shape = {"length": data.length, "n_tasks": len(data.tasks)}
        return build_model(
            self.variant, **shape, **self.profile.model[self.dataset], seed=self.seed
        )

    def identity(self) -> dict[str, Any]:
        """What the weights depend on."""
        checksum = profiles.dataset_checksum(self.profile, self.dataset)
        machine = profiles.machine_identity(self.profile)
        others = {"data": checksum, "variant": self.variant, **machine}
        return {**training_identity(self.untrained(), self.dataset, self.training), **others}

    @property
    def name(self) -> str:
        """Readable and unique: <dataset>_<variant>_<seed>_<start of the identity's digest>."""
        short = profiles.digest(self.identity())[:10]
        return f"{self.dataset}_{self.variant}_{self.seed}_{short}"

    def snapshot(self, epoch: int) -> AITAC:
        """The network after an epoch that `training.snapshots` has, once it is trained."""
        return load_model(profiles.work_folder("checkpoints") / self.name / f"epoch_{epoch}")[0]

    def trained(
        self, *, progress: bool = True, with_snapshots: bool = False
    ) -> tuple[AITAC, dict[str, Any]]:
        """The network and its metadata: from `data/models`, from the cache, or trained now.

        with_snapshots : not from `data/models`, which has no snapshots

        Processes that ask for one network at the same time wait for the first, which trains it.
        """
        folder = profiles.work_folder("checkpoints") / self.name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            stem = committed_network(self)
            if not with_snapshots and stem.with_name(stem.name + ".json").exists():
                model, metadata = load_model(stem)
                if metadata["identity"] == self.identity():
                    return model, metadata
            if not (folder / "model.json").exists():
                check_machine(self.profile.machine)
            model = self.untrained()
            metadata = train(
                model,
                profiles.load_dataset(self.profile, self.dataset),
                self.training,
                folder,
                identity=self.identity(),
                device=profiles.default_device(),
                progress=progress,
            )
        return model.cpu().eval(), metadata


def committed_network(experiment: Experiment) -> Path:
    """Where the repository keeps a recorded network, without the ending.

    A profile that fixes the machine has a folder of its own.
    """
    folder = data_root() / "models"
    if experiment.profile.machine:
        folder /= experiment.profile.name
    return folder / f"{experiment.dataset}_{experiment.variant}_{experiment.seed}"


EXPERIMENTS = ("initialisation", "fraction", "epoch", "ablation")


@dataclass(frozen=True)
class Series:
    """An entry of a profile's `experiments`: every variant with every fraction and every seed.

    experiment : one of `EXPERIMENTS`
    seeds : how many, from 0
    fractions : shares of the training regions
    epochs : score the weights after these epochs; 0 is before the training. Unless `best` is set,
        the training ends with the last of them: it neither stops early nor is fine-tuned
    best : score the best weights too, which without `epochs` are scored anyway; the training then
        is fine-tuned and may stop early, but not before the last of `epochs`
    warmup_epochs : another length of the warm-up, which ends at the same learning rate
    changes : settings of `TrainingConfig` that override those of the profile and the variant
    control : name of what `warmup_epochs` or `changes` change; it becomes part of the runs' names
    """

    experiment: str
    dataset: str
    variants: list[str] = field(default_factory=lambda: ["baseline"])
    seeds: int = 1
    fractions: list[float] = field(default_factory=lambda: [1.0])
    epochs: list[int] = field(default_factory=list)
    best: bool = False
    warmup_epochs: int | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    control: str = ""

    def __post_init__(self) -> None:
        if self.experiment not in EXPERIMENTS:
            known = ", ".join(EXPERIMENTS)
            raise ValueError(f"experiment must be one of {known}; got {self.experiment!r}")
        for variant in self.variants:
            get_variant(variant)
        known = {f.name for f in fields(TrainingConfig)} - {"seed"}  # which is the run's own
        unknown = set(self.changes) - known
        if unknown:
            raise ValueError(f"changes has no setting of a training: {', '.join(sorted(unknown))}")

    def runs(self, profile: profiles.Profile) -> Iterator[Run]:
        """The runs of this series."""
        if self.dataset not in profile.datasets:
            known = ", ".join(profile.datasets)
            raise ValueError(f"dataset must be one of {known}; got {self.dataset!r}")
        for variant, fraction, seed in product(self.variants, self.fractions, range(self.seeds)):
            plain = Experiment(profile, self.dataset, variant, seed, self.changes)
            changes = {**self.changes, **self._training(plain.training)}
            if fraction != 1:
                changes["fraction"] = fraction
            network = Experiment(profile, self.dataset, variant, seed, changes)
            name, epochs = self._name(variant, seed, fraction), tuple(self.epochs)
            best = self.best or not epochs
            yield Run(name, (self.experiment,), self.control, epochs, best, network)

    def _training(self, config: TrainingConfig) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if self.epochs:
            changes["snapshots"] = self.epochs
        if self.epochs and not self.best:
            changes["max_epochs"] = changes["patience"] = max(self.epochs)
            changes["fine_tune_rounds"] = 0
        if self.warmup_epochs is not None:
            growth = config.warmup_factor ** (config.warmup_epochs / self.warmup_epochs)
            changes |= {"warmup_epochs": self.warmup_epochs, "warmup_factor": growth}
        return changes

    def _name(self, variant: str, seed: int, fraction: float) -> str:
        share = f"{100 * fraction:g}percent" if fraction != 1 else ""
        parts = [self.dataset, variant, str(seed), "" if self.best or not self.epochs else "epochs"]
        return "_".join(part for part in [*parts, self.control, share] if part)


@dataclass(frozen=True)
class Run:
    """One training of a profile and what is scored of it.

    name : <dataset>_<variant>_<seed>, then what else sets it apart
    experiments : those that it belongs to
    control : see `Series`
    epochs : snapshots that are scored
    best : True if the best weights of the training are scored
    """

    name: str
    experiments: tuple[str, ...]
    control: str
    epochs: tuple[int, ...]
    best: bool
    network: Experiment

    @property
    def folder(self) -> Path:
        """Where everything about this run goes: results/<profile>/models/<run>."""
        return profiles.results_folder(self.network.profile.name) / "models" / self.name

    @property
    def key(self) -> str:
        """What the rows depend on; known without the data."""
        profile, dataset = self.network.profile, self.network.dataset
        return profiles.digest(
            {
                "data": profiles.dataset_checksum(profile, dataset),
                "variant": self.network.variant,
                "model": profile.model[dataset],
                "training": asdict(self.network.training),
                "epochs": self.epochs,
                **({"best": True} if self.best and self.epochs else {}),
                **profiles.machine_identity(profile),
                "regions": profile.regions_a_model,
                "versions": [versions.MODEL, versions.TRAINING, versions.SCORING],
            }
        )

    def networks(self, *, progress: bool = False) -> Iterator[tuple[str, int, nn.Module]]:
        """Reading, epoch and network of all that is scored; trains the network if need be.

        The reading is "epoch" for a snapshot and "best" for the best weights.
        """
        model, metadata = self.network.trained(progress=progress, with_snapshots=bool(self.epochs))
        for epoch in self.epochs:
            yield "epoch", epoch, self.network.snapshot(epoch)
        if self.best:
            yield "best", metadata["best_epoch"], model


def list_runs(profile: profiles.Profile) -> list[Run]:
    """All runs of a profile, each once; ValueError naming the entry that makes no sense."""
    runs: dict[str, Run] = {}
    for number, entry in enumerate(profile.experiments):
        try:
            for run in Series(**entry).runs(profile):
                same = runs.setdefault(run.name, run)
                old, new = ((r.epochs, r.best, r.network.training) for r in (same, run))
                if old != new:
                    named = f"{run.name} is the name of another run too"
                    raise ValueError(f"{named}: give this one a control")
                both = tuple(dict.fromkeys((*same.experiments, *run.experiments)))
                runs[run.name] = replace(run, experiments=both)
        except (TypeError, ValueError) as error:
            place = f"profile {profile.name}: experiments[{number}]"
            raise ValueError(f"{place}: {error}") from error
    return list(runs.values())


def find_run(profile: profiles.Profile, name: str) -> Run:
    """The run of that name, or a ValueError that lists the names."""
    runs = {run.name: run for run in list_runs(profile)}
    if name not in runs:
        known = ", ".join(runs) or "none"
        raise ValueError(f"profile {profile.name} has no run {name!r}; its runs are {known}")
    return runs[name]


def tables_key(profile: profiles.Profile) -> str:
    """What models.csv and initialisations.csv depend on: the keys and names of all runs."""
    return profiles.digest([[run.key, run.name, run.experiments] for run in list_runs(profile)])
