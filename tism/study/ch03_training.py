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

RowPredictor = Callable[[np.ndarray], np.ndarray]  # rows of a data set to predictions
WORD_SIZE = 5
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
_RESAMPLES, _RESAMPLES_AT_ONCE = 1000, 50


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
    """One row per part of the network, from the input to the output, then its size."""
    config = model.config
    before = "exponential, then " if config.exponential_first else ""
    pooling = "maximum" if config.max_pooling else "softmax-weighted mean"
    facts = {
        "input": f"4 x {config.length} bp",
        "first convolution": f"{config.width} kernels of {config.kernel} bp",
        "strands": "both, the larger activation" if config.both_strands else "forward",
        "activation": before + {"gelu": "GELU", "relu": "ReLU"}[config.activation],
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
    text = f"{config.n_blocks}, each {config.width} kernels of {config.block_kernel}"
    text += ", batch norm" if config.batch_norm else ""
    return text + (", input added" if config.residual else "")


def _dense(config: AITACConfig) -> str:
    if not config.n_dense:
        return "none"
    return f"{config.n_dense + 1} of {config.dense_width} units, dropout {config.dropout:g}"


def training_log(metadata: dict[str, Any]) -> tuple[pd.DataFrame, dict[str, list[int]]]:
    """One row per epoch, and the epochs to mark: the best one, the first of each fine-tuning.

    metadata : of a trained network (`Experiment.trained`)
    """
    log = pd.DataFrame(metadata["log"])
    starts = log[log["fine_tune_round"] > 0].groupby("fine_tune_round")["epoch"].min()
    return log, {"fine-tuning": starts.tolist(), "best": [metadata["best_epoch"]]}


def predict_rows(model: nn.Module, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """(len(rows), n_tasks) standardised predictions of a network."""
    return predict(model, dataset.one_hot(rows), device=default_device()).numpy()


def predictors(model: nn.Module, dataset: Dataset, variant: str) -> dict[str, RowPredictor]:
    """The network, by the name of its variant, with a lower and an upper reference.

    The lower one, "word counts", is a linear regression on the counts of words. The upper one,
    "noiseless truth", is the simulation without its noise; real data have none.
    """
    found = {
        variant: lambda rows: predict_rows(model, dataset, rows),
        "word counts": word_count_regression(dataset),
    }
    if dataset.truth is not None:
        truth = (dataset.truth.noiseless - dataset.center) / dataset.scale
        found["noiseless truth"] = lambda rows: truth[rows]
    return found


def word_count_regression(dataset: Dataset) -> RowPredictor:
    """Ridge regression of the standardised targets on how often each word of 5 bp occurs.

    A word and its reverse complement count as one. Of `_PENALTIES` it takes the one with the
    highest mean correlation by region on the validation regions.
    """
    train, validation = dataset.indices("train"), dataset.indices("validation")
    counts = canonical_word_counts(dataset, WORD_SIZE)
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
    predictors: dict[str, RowPredictor], dataset: Dataset, seed: int
) -> pd.DataFrame:
    """Mean correlations of each predictor, by region (across tasks) and by task (across regions).

    predictors : by name, see the function of that name

    Returns dataset, variant (the predictor), seed, split, level, mean_r, low, high (95 % interval
    over loci), n and n_constant (correlations that exist, and that do not). Of the training regions
    it takes as many as the test set has, evenly spread.
    """
    rows = []
    for split in SPLITS:
        chosen = dataset.indices(split)
        if split == "train":
            chosen = evenly(chosen, len(dataset.indices("test")))
        target, loci = dataset.standardised[chosen], dataset.regions["locus"].to_numpy()[chosen]
        for name, predictor in predictors.items():
            for level, found in performance(predictor(chosen), target, loci).items():
                row = {"dataset": dataset.name, "variant": name, "seed": seed, "split": split}
                row |= {"level": level, "mean_r": found.value, "low": found.low}
                row |= {"high": found.high, "n": found.n_profiles}
                rows.append({**row, "n_constant": found.n_constant})
    return pd.DataFrame(rows)


def performance(predicted: Any, target: Any, loci: Any) -> dict[str, Summary]:
    """Mean correlations by "region" (across tasks) and by "task" (across regions)."""
    by_region = summarise(pearson(predicted, target, 1), loci)
    return {"region": by_region, "task": summarise_tasks(predicted, target, loci)}


def summarise_tasks(predicted: Any, target: Any, loci: Any) -> Summary:
    """Mean over tasks of the correlation across regions, with a 95 % bootstrap interval over loci.

    predicted, target : (n, tasks)
    loci : (n,) labels; regions of one locus are drawn together, and every correlation is computed
        anew from the regions drawn

    Where no task has a correlation, as of a network whose predictions are constant, the mean is
    NaN; with a single locus the interval is.
    """
    r = pearson(predicted, target, 0)
    _, locus = np.unique(np.asarray(loci), return_inverse=True)
    n_loci = int(locus.max()) + 1
    low = high = float("nan")
    if n_loci > 1 and not r.isnan().all():
        rng, means = np.random.default_rng(0), []
        while len(means) < _RESAMPLES:
            drawn = rng.multinomial(n_loci, np.full(n_loci, 1 / n_loci), _RESAMPLES_AT_ONCE)
            means += weighted_pearson(predicted, target, drawn[:, locus]).nanmean(1).tolist()
        low, high = np.nanquantile(means, [0.025, 0.975]).tolist()
    n_constant = int(r.isnan().sum())
    return Summary(r.nanmean().item(), low, high, len(r) - n_constant, n_constant, n_loci)


def describe_tasks_predicted(predicted: Any, dataset: Dataset, rows: np.ndarray) -> pd.DataFrame:
    """One row per task: its group, correlation across these regions, and number of active regions.

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
    """The training schedules tried on a data set's validation regions (schedule_trials.csv)."""
    table = pd.read_csv(data_root() / "schedule_trials.csv").query("dataset == @dataset")
    table["peak rate"] = table["learning_rate"] * table["warmup_factor"] ** table["warmup_epochs"]
    names = {"optimizer": "optimiser", "correlation_weight": "w_r", "mse_weight": "w_m"}
    names |= {"peak rate": "peak rate", "epochs_run": "epochs"}
    names |= {"validation_region_r": "by region", "validation_task_r": "by task"}
    return table[[*names]].rename(columns=names)


def region_correlations(predicted: Any, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """(len(rows),): each region's correlation across tasks, as in the paper; NaN if constant."""
    return pearson(predicted, dataset.standardised[rows], 1).numpy()
