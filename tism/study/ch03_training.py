"""What a network is, how its training went, and how well it predicts: the tables of chapter 03."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from tism.correlations import pearson
from tism.exact import predict
from tism.model import AITAC, AITACConfig
from tism.study.ch02_data import active, canonical_word_counts, task_groups
from tism.study.data.dataset import SPLITS, Dataset, evenly
from tism.study.data.download import data_root
from tism.study.profiles import default_device
from tism.study.statistics import Summary, summarise, weighted_pearson

Predictor = Callable[[np.ndarray], np.ndarray]
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
_RESAMPLES_AT_ONCE = 50


def receptive_field(config: AITACConfig) -> int:
    """Bases that one position of the last convolutional layer can see, before the dense layers."""
    field, step = config.kernel, 1
    for block in range(config.n_blocks + 1):
        if block:
            field += (config.block_kernel - 1) * step
        field += (config.pool - 1) * step
        step *= config.pool
    return field


def describe_network(model: AITAC) -> pd.DataFrame:
    """One row a part of the network, from the input to the output, then its size."""
    config = model.config
    first = "exponential, then " if config.exponential_first else ""
    pooling = "maximum" if config.max_pooling else "softmax-weighted mean"
    facts = {
        "input": f"4 x {config.length} bp",
        "first convolution": f"{config.width} kernels of {config.kernel} bp",
        "strands": "both, the larger activation" if config.both_strands else "forward",
        "activation": first + {"gelu": "GELU", "relu": "ReLU"}[config.activation],
        "pooling after each convolution": f"{pooling} of {config.pool} positions",
        "blocks": _blocks(config),
        "receptive field of a last position": f"{receptive_field(config)} bp",
        "last positions": f"{config.pooled_length}",
        "dense layers": _dense(config),
        "output": f"{config.n_tasks} tasks",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
    }
    return pd.DataFrame({"part": facts.keys(), "what it is": facts.values()})


def _blocks(config: AITACConfig) -> str:
    if not config.n_blocks:
        return "none"
    extras = {"batch norm": config.batch_norm, "input added": config.residual}
    present = [name for name, there in extras.items() if there]
    kernels = f"{config.n_blocks}, each {config.width} kernels of {config.block_kernel}"
    return ", ".join([kernels, *present])


def _dense(config: AITACConfig) -> str:
    if not config.n_dense:
        return "none"
    return f"{config.n_dense + 1} of {config.dense_width} units, dropout {config.dropout:g}"


def training_log(metadata: dict[str, Any]) -> tuple[pd.DataFrame, dict[str, list[int]]]:
    """One row an epoch, and the epochs worth a mark: the best one, the first of each fine-tuning.

    metadata : of a trained network (`Experiment.trained`)
    """
    log = pd.DataFrame(metadata["log"])
    rounds = log[log["fine_tune_round"] > 0].groupby("fine_tune_round")["epoch"].min()
    return log, {"fine-tuning": rounds.tolist(), "best": [metadata["best_epoch"]]}


def predict_rows(model: nn.Module, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """(len(rows), n_tasks) standardised predictions of a network."""
    return predict(model, dataset.one_hot(rows), device=default_device()).numpy()


def predictors(model: nn.Module, dataset: Dataset, variant: str) -> dict[str, Predictor]:
    """The network beside what it should beat and what it cannot: each from rows to predictions.

    "word counts" is a linear regression on the counts of words, "noiseless truth" the simulation
    without its noise, which only a simulated set has.
    """
    known = {
        variant: lambda rows: predict_rows(model, dataset, rows),
        "word counts": word_count_regression(dataset),
    }
    if dataset.truth is not None:
        truth = (dataset.truth.noiseless - dataset.center) / dataset.scale
        known["noiseless truth"] = lambda rows: truth[rows]
    return known


def word_count_regression(dataset: Dataset, size: int = 5) -> Predictor:
    """Ridge regression of the standardised targets on how often each word occurs.

    A word and its reverse complement are one. The penalty is the one of `_PENALTIES` with the
    highest mean correlation by region on the validation regions.
    """
    train, validation = dataset.indices("train"), dataset.indices("validation")
    counts = canonical_word_counts(dataset, size)
    mean, deviation = counts[train].mean(0), counts[train].std(0)
    features = (counts - mean) / np.where(deviation > 0, deviation, 1)
    x, y = features[train], dataset.standardised[train]
    gram, moment = x.T @ x / len(x), x.T @ y / len(x)
    identity = np.eye(len(gram), dtype=gram.dtype)
    fits = [np.linalg.solve(gram + penalty * identity, moment) for penalty in _PENALTIES]
    target = dataset.standardised[validation]
    quality = [pearson(features[validation] @ fit, target, 1).nanmean().item() for fit in fits]
    best = fits[int(np.nanargmax(quality))]
    return lambda rows: features[rows] @ best


def performance_table(
    known: dict[str, Predictor], dataset: Dataset, seed: int, **bootstrap: Any
) -> pd.DataFrame:
    """Mean correlations of every predictor, by region (across tasks) and by task (across regions).

    known : name to predictor, see `predictors`
    bootstrap : settings of `tism.study.statistics.summarise`

    Returns dataset, variant (the predictor), seed, split, level, mean_r, low, high (95 % interval
    over loci), n (correlations that exist), n_constant (that do not). Of the training regions as
    many are used, evenly, as the test set has.
    """
    rows = []
    for split in SPLITS:
        chosen = _as_many_as_test(dataset, split)
        target, loci = dataset.standardised[chosen], dataset.regions["locus"].to_numpy()[chosen]
        for name, predictor in known.items():
            predicted = predictor(chosen)
            levels = {
                "region": summarise(pearson(predicted, target, 1), loci, **bootstrap),
                "task": summarise_tasks(predicted, target, loci, **bootstrap),
            }
            label = {"dataset": dataset.name, "variant": name, "seed": seed, "split": split}
            rows += [{**label, "level": k, **_columns(v)} for k, v in levels.items()]
    return pd.DataFrame(rows)


def _as_many_as_test(dataset: Dataset, split: str) -> np.ndarray:
    rows = dataset.indices(split)
    return evenly(rows, len(dataset.indices("test"))) if split == "train" else rows


def _columns(summary: Summary) -> dict[str, float]:
    return {
        "mean_r": summary.value,
        "low": summary.low,
        "high": summary.high,
        "n": summary.n_profiles,
        "n_constant": summary.n_constant,
    }


def summarise_tasks(
    predicted: Any,
    target: Any,
    loci: Any,
    *,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Summary:
    """Mean over tasks of the correlation across regions, with a bootstrap interval over loci.

    predicted, target : (n, tasks)
    loci : (n,) labels; regions of one locus are drawn together, and every correlation is
        computed anew from what is drawn

    Raises ValueError where no task has a correlation. With a single locus the interval is NaN.
    """
    r = pearson(predicted, target, 0)
    if r.isnan().all():
        raise ValueError(f"none of the {len(r)} tasks has a correlation: all are constant")
    _, locus = np.unique(np.asarray(loci), return_inverse=True)
    n_loci = int(locus.max()) + 1
    low = high = float("nan")
    if n_loci > 1:
        rng = np.random.default_rng(seed)
        means: list[float] = []
        while len(means) < n_resamples:
            k = min(_RESAMPLES_AT_ONCE, n_resamples - len(means))
            drawn = rng.multinomial(n_loci, np.full(n_loci, 1 / n_loci), k)[:, locus]
            means += weighted_pearson(predicted, target, drawn).nanmean(1).tolist()
        low, high = np.nanquantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    n_constant = int(r.isnan().sum())
    return Summary(r.nanmean().item(), low, high, len(r) - n_constant, n_constant, n_loci)


def describe_tasks_predicted(predicted: Any, dataset: Dataset, rows: np.ndarray) -> pd.DataFrame:
    """One row a task: group, correlation across these regions, regions in which it is active.

    predicted : (len(rows), n_tasks)
    """
    return pd.DataFrame(
        {
            "task": dataset.tasks,
            "group": task_groups(dataset),
            "r": pearson(predicted, dataset.standardised[rows], 0).numpy(),
            "active regions": active(dataset)[rows].sum(0),
        }
    )


def schedule_trials(dataset: str) -> pd.DataFrame:
    """Schedules tried on the validation set of a data set (`data/schedule_trials.csv`)."""
    table = pd.read_csv(data_root() / "schedule_trials.csv").query("dataset == @dataset")
    table["peak rate"] = table["learning_rate"] * table["warmup_factor"] ** table["warmup_epochs"]
    names = {
        "optimizer": "optimiser",
        "correlation_weight": "w_r",
        "mse_weight": "w_m",
        "peak rate": "peak rate",
        "epochs_run": "epochs",
        "validation_region_r": "by region",
        "validation_task_r": "by task",
    }
    return table[[*names]].rename(columns=names)


def region_correlations(predicted: Any, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """(len(rows),) correlation across tasks of each region, as in the paper; NaN if constant."""
    return pearson(predicted, dataset.standardised[rows], 1).numpy()
