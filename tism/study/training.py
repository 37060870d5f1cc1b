"""Training as in Sasse et al. 2024: loss, schedule, early stopping; a killed run resumes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tism import versions
from tism.correlations import pearson
from tism.engine.cheap_gradients import CheapBackward
from tism.exact import predict
from tism.model import AITAC, AITACConfig, get_variant
from tism.running import is_out_of_memory, on_device, progress_bar, random_state_kept
from tism.score.files import replacing
from tism.study.cache import load_checkpoint, save_checkpoint
from tism.study.data.dataset import Dataset

_LEAST = {"patience": 1, "fine_tune_patience": 1, "fine_tune_rounds": 0, "max_shift": 0}


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained; the defaults are the paper's (and its code's).

    learning_rate : of the first epoch; multiplied by `warmup_factor` after each of
        `warmup_epochs` epochs, then constant
    max_epochs, patience : the first phase ends after that many epochs, or that many without a new
        best validation correlation
    fine_tune_rounds, fine_tune_factor, fine_tune_patience : each round starts from the best
        weights with the learning rate multiplied once more
    correlation_weight, mse_weight : loss = correlation_weight * (1 - Pearson across tasks, mean of
        the regions) + mse_weight * MSE
    l1_kernels : weight of the mean absolute first-layer weight
    max_shift : bp a region may move into its flanks, either way
    fraction : share of the training regions used
    snapshots : epochs after which the weights are kept; 0 is before the training. The first phase
        does not stop early before the last of them
    """

    optimizer: str = "sgd"
    learning_rate: float = 1e-5
    warmup_epochs: int = 7
    warmup_factor: float = 4.0
    max_epochs: int = 200
    patience: int = 15
    fine_tune_rounds: int = 5
    fine_tune_factor: float = 0.2
    fine_tune_patience: int = 15
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 0.0
    correlation_weight: float = 0.95
    mse_weight: float = 0.05
    l1_kernels: float = 0.0
    max_shift: int = 10
    fraction: float = 1.0
    snapshots: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"optimizer must be sgd or adamw, got {self.optimizer!r}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")
        for name in ("learning_rate", "warmup_factor", "batch_size", "max_epochs"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        object.__setattr__(self, "snapshots", tuple(self.snapshots))
        for epoch in self.snapshots:
            if not 0 <= epoch <= self.max_epochs:
                raise ValueError(
                    f"snapshots must lie in 0 to max_epochs ({self.max_epochs}), got {epoch}"
                )

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch (from 1) of the first phase."""
        return self.learning_rate * self.warmup_factor ** min(epoch - 1, self.warmup_epochs)

    def fine_tuning_rate(self, fine_tune_round: int, first_phase: int) -> float:
        """Learning rate of a round (from 1) after a first phase of so many epochs."""
        return self.rate(first_phase) * self.fine_tune_factor**fine_tune_round


def training_config(variant: str, **settings: Any) -> TrainingConfig:
    """The training of a named variant: `settings`, then what the variant itself changes."""
    return replace(TrainingConfig(**settings), **get_variant(variant).training)


def correlation_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - Pearson correlation of each region across its tasks, mean over the regions.

    predicted, target : (n, tasks)
    """
    predicted = predicted - predicted.mean(1, keepdim=True)
    target = target - target.mean(1, keepdim=True)
    return 1 - F.cosine_similarity(predicted, target, dim=1).mean()


def training_loss(model: AITAC, rows: Tensor, target: Tensor, config: TrainingConfig) -> Tensor:
    """The loss of one batch; rows (n, 4, length), target (n, tasks)."""
    with CheapBackward(repeated=False):
        predicted = model(rows)
    loss = config.correlation_weight * correlation_loss(predicted, target)
    loss = loss + config.mse_weight * F.mse_loss(predicted, target)
    if config.l1_kernels:
        loss = loss + config.l1_kernels * model.first_kernels.abs().mean()
    return loss


def evaluate(
    model: nn.Module, dataset: Dataset, rows: np.ndarray, device: str | torch.device | None = None
) -> dict[str, float]:
    """Mean Pearson by region (across tasks, the paper's) and by task (across regions).

    Regions or tasks whose prediction or target is constant have none and are counted.
    """
    predicted = predict(model, dataset.one_hot(rows), device=device)
    target = torch.from_numpy(dataset.standardised[rows])
    by_region, by_task = pearson(predicted, target, 1), pearson(predicted, target, 0)
    return {
        "region_r": by_region.nanmean().item(),
        "task_r": by_task.nanmean().item(),
        "n_constant": int(by_region.isnan().sum() + by_task.isnan().sum()),
    }


@dataclass
class _Run:
    """Where a training stands after an epoch: all of it but the weights."""

    epoch: int = 0
    fine_tune_round: int = 0
    best_r: float = float("-inf")
    best_epoch: int = 0
    epochs_without_gain: int = 0
    log: list[dict[str, float]] = field(default_factory=list)

    def ends_phase(self, config: TrainingConfig) -> bool:
        if self.fine_tune_round:
            return self.epochs_without_gain >= config.fine_tune_patience
        if self.epoch < max(config.snapshots, default=0):
            return False
        return self.epoch >= config.max_epochs or self.epochs_without_gain >= config.patience

    def rate(self, config: TrainingConfig) -> float:
        """Learning rate of the next epoch."""
        if not self.fine_tune_round:
            return config.rate(self.epoch + 1)
        first_phase = sum(not entry["fine_tune_round"] for entry in self.log)
        return config.fine_tuning_rate(self.fine_tune_round, first_phase)


def train(
    model: AITAC,
    dataset: Dataset,
    config: TrainingConfig,
    folder: Path,
    *,
    identity: dict[str, Any] | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train `model` in place; it ends with the weights of the best validation epoch.

    dataset : its "train" regions are learnt, its "validation" regions decide
    folder : holds model.safetensors and model.json at the end, log.csv, the snapshots
        epoch_<n>.safetensors and, while it runs, the state from which a killed training resumes
    identity : what else tells this training from others (data checksum); kept in model.json
    device : where to train; the model is there afterwards

    Returns the metadata of model.json, with the log. Deterministic by `config.seed` with one number
    of threads and one family of kernels (`tism.study.machine`). Raises ValueError where `folder`
    holds another training.
    """
    _check_fit(model, dataset, config)
    identity = {**training_identity(model, dataset.name, config), **(identity or {})}
    identity = json.loads(json.dumps(identity))  # as it is read back: a tuple is a list
    finished = folder / "model"
    if finished.with_suffix(".json").exists():
        tensors, metadata = load_checkpoint(finished)
        _refuse_another(folder, metadata["identity"], identity)
        model.load_state_dict(tensors)
        _delete_states(folder, keep=None)  # of a run that was killed before it could
        return metadata
    model.to(device)
    best, run = _Trainer(model, dataset, config, folder, identity, device).run(progress)
    model.load_state_dict(best)
    metadata = {"identity": identity, "tasks": dataset.tasks, **asdict(run)}
    save_checkpoint(finished, best, metadata)
    _delete_states(folder, keep=None)
    return metadata


def load_model(stem: Path) -> tuple[AITAC, dict[str, Any]]:
    """The network of a checkpoint that `train` wrote, in evaluation mode, and its metadata.

    stem : path without the ending, such as folder / "model" or folder / "epoch_7"
    """
    tensors, metadata = load_checkpoint(stem)
    model = AITAC(AITACConfig(**metadata["identity"]["model"]))
    model.load_state_dict(tensors)
    return model.eval(), metadata


def _check_fit(model: AITAC, dataset: Dataset, config: TrainingConfig) -> None:
    """Refuse at the start what would fail late or train something else."""
    for split in ("train", "validation"):
        if not len(dataset.indices(split)):
            raise ValueError(f"dataset {dataset.name} has no region in the split {split!r}")
    if not np.isfinite(dataset.targets).all():
        row, task = np.argwhere(~np.isfinite(dataset.targets))[0]
        value = dataset.targets[row, task]
        raise ValueError(f"targets[{row}, {task}] is {value}; every target must be finite")
    sizes = {"length": dataset.length, "n_tasks": len(dataset.tasks)}
    for name, wanted in sizes.items():
        found = getattr(model.config, name)
        if found != wanted:
            raise ValueError(f"the model has {name} {found}, the dataset {wanted} {name[2:]}")
    if config.max_shift > dataset.flank:
        raise ValueError(f"max_shift is {config.max_shift}, beyond the flank of {dataset.flank} bp")


@dataclass
class _Trainer:
    """One training: the epoch loop and the state it saves after every epoch."""

    model: AITAC
    dataset: Dataset
    config: TrainingConfig
    folder: Path
    identity: dict[str, Any]
    device: str | torch.device | None

    def __post_init__(self) -> None:
        self.device = torch.device(self.device or next(self.model.parameters()).device)
        self.targets = torch.from_numpy(self.dataset.standardised)
        self.rows = training_rows(self.dataset, self.config)
        self.optimizer = make_optimizer(self.model, self.config)
        self.best, self.state = _clone(self.model), _Run()

    def run(self, progress: bool) -> tuple[dict[str, Tensor], _Run]:
        self._resume()
        if not self.state.epoch:
            self._keep_snapshot()
        while not self._finished():
            epoch = self.state.epoch + 1
            so_far = f"epoch {epoch} (best validation r {max(self.state.best_r, -1):.3f})"
            with progress_bar(len(self.rows), progress, so_far) as report:
                loss = self._train_epoch(epoch, report)
            self._record(epoch, loss)
            self._save()
        return self.best, self.state

    def _finished(self) -> bool:
        """End a phase that has ended; the training is over when the last one has."""
        if not self.state.ends_phase(self.config):
            return False
        if self.state.fine_tune_round == self.config.fine_tune_rounds:
            return True
        self.state.fine_tune_round += 1
        self.state.epochs_without_gain = 0
        self.model.load_state_dict(self.best)
        self.optimizer = make_optimizer(self.model, self.config)
        return False

    def _train_epoch(self, epoch: int, report: Callable[[int], None]) -> float:
        """One pass over the training regions; its randomness depends on seed and epoch only."""
        generator = np.random.default_rng([self.config.seed, epoch])
        rows = generator.permutation(self.rows)
        reach = self.config.max_shift
        shifts = generator.integers(-reach, reach + 1, len(rows))
        for group in self.optimizer.param_groups:
            group["lr"] = self.state.rate(self.config)
        self.model.train()
        losses, total = [], 0.0
        with random_state_kept(self.device):
            torch.manual_seed(int(generator.integers(2**31)))  # dropout
            for start in range(0, len(rows), self.config.batch_size):
                batch = slice(start, start + self.config.batch_size)
                losses.append((self._step(rows[batch], shifts[batch]), len(rows[batch])))
                report(len(rows[batch]))
        values = torch.stack([loss for loss, _ in losses]).tolist()  # a device waits but once
        for value, (_, size) in zip(values, losses, strict=True):
            total += value * size
        return total / len(rows)

    def _step(self, rows: np.ndarray, shifts: np.ndarray) -> Tensor:
        try:
            return self._descend(rows, shifts)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                error.add_note(
                    f"tism: lower batch_size of the training, now {self.config.batch_size}; "
                    "another batch_size is another training"
                )
            raise

    def _descend(self, rows: np.ndarray, shifts: np.ndarray) -> Tensor:
        one_hot = on_device(self.dataset.one_hot(rows, shifts), self.device)
        target = on_device(self.targets[torch.from_numpy(rows)], self.device)
        loss = training_loss(self.model, one_hot, target, self.config)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _record(self, epoch: int, loss: float) -> None:
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} in epoch {epoch}: lower learning_rate or warmup_factor"
            )
        scores = evaluate(self.model, self.dataset, self.dataset.indices("validation"), self.device)
        state, r = self.state, scores["region_r"]
        if not np.isfinite(r):
            raise ValueError(
                f"no validation region has a correlation across tasks in epoch {epoch}: "
                "predictions or targets are constant (is there only one task?)"
            )
        state.epoch = epoch
        if r > state.best_r:
            state.best_r, state.best_epoch, state.epochs_without_gain = r, epoch, 0
            self.best = _clone(self.model)
        else:
            state.epochs_without_gain += 1
        state.log.append(
            {
                "epoch": epoch,
                "fine_tune_round": state.fine_tune_round,
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "loss": loss,
                "validation_region_r": r,
                "validation_task_r": scores["task_r"],
            }
        )

    def _keep_snapshot(self) -> None:
        epoch = self.state.epoch
        if epoch in self.config.snapshots:
            metadata = {"identity": self.identity, "epoch": epoch}
            save_checkpoint(self.folder / f"epoch_{epoch}", self.model.state_dict(), metadata)

    def _save(self) -> None:
        self._keep_snapshot()
        epoch = self.state.epoch
        tensors = {f"model.{k}": t for k, t in self.model.state_dict().items()}
        tensors |= {f"best.{k}": t for k, t in self.best.items()}
        for index, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": t for k, t in entries.items()}
        metadata = {"identity": self.identity, "state": asdict(self.state)}
        _write_log(self.folder / "log.csv", self.state.log)  # a state is resumed with its log whole
        save_checkpoint(self.folder / f"state_{epoch}", tensors, metadata)
        _delete_states(self.folder, keep=epoch)

    def _resume(self) -> None:
        states = self.folder.glob("state_*.json")
        epochs = [int(path.stem.removeprefix("state_")) for path in states]
        if not epochs:
            return
        tensors, metadata = load_checkpoint(self.folder / f"state_{max(epochs)}")
        _refuse_another(self.folder, metadata["identity"], self.identity)
        self.state = _Run(**metadata["state"])
        self.model.load_state_dict(_part(tensors, "model."))
        self.best = _part(tensors, "best.")
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _part(tensors, "optimizer.").items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def training_rows(dataset: Dataset, config: TrainingConfig) -> np.ndarray:
    """The training regions; with `fraction` a random share, smaller ones within larger ones."""
    rows = dataset.indices("train")
    if config.fraction == 1:
        return rows
    order = np.random.default_rng([config.seed, 0]).permutation(rows)
    return np.sort(order[: max(1, round(config.fraction * len(rows)))])


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, at the first epoch's learning rate."""
    settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), **settings)
    return torch.optim.SGD(model.parameters(), momentum=config.momentum, **settings)


def training_identity(model: AITAC, dataset: str, config: TrainingConfig) -> dict[str, Any]:
    """What decides the weights: network, training, name of the data set, versions of the code."""
    return {
        "dataset": dataset,
        "model": asdict(model.config),
        "training": {**asdict(config), "snapshots": list(config.snapshots)},
        "versions": {"model": versions.MODEL, "training": versions.TRAINING, "data": versions.DATA},
    }


def _refuse_another(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    different = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
    if different:
        raise ValueError(
            f"{folder} holds another training: {', '.join(different)} differ; "
            "use another folder or delete this one"
        )


def _clone(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _delete_states(folder: Path, keep: int | None) -> None:
    """Delete each JSON before its weights: a checkpoint exists as long as its JSON does."""
    for end in (".json", ".safetensors"):
        for path in folder.glob(f"state_*{end}"):
            if path.stem != f"state_{keep}":
                path.unlink()


def _write_log(path: Path, log: list[dict[str, float]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(log[0]))
        writer.writeheader()
        writer.writerows(log)
