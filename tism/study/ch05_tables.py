"""What chapter 05 shows of models.csv and initialisations.csv."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tism.correlations import profile_correlation
from tism.exact import ism
from tism.first_order import tism
from tism.study.ch04_agreement import example_region
from tism.study.ch05_runs import of_experiment
from tism.study.networks import find_run
from tism.study.profiles import Profile, default_device
from tism.study.scores import Scores
from tism.study.statistics import compare_with, jackknife_pairs, mean_of
from tism.taylor import mean_effect

RELATIONS = {
    "ISM-TISM, one network": "fig3a_ism_tism_r",
    "ISM-ISM": "fig3a_ism_ism_r",
    "TISM-TISM": "fig3a_tism_tism_r",
    "ISM-TISM, two networks": "",
}
_DIFFERENCE = ("difference", "difference_low", "difference_high", "p")
VARIANT_NAMES = {
    "baseline": "baseline",
    "mse_loss": "MSE loss only",
    "relu": "ReLU",
    "exponential": "exponential",
    "max_pooling": "max pooling",
    "forward_only": "forward strand only",
    "no_residual": "no residual",
    "no_dropout": "no dropout",
    "no_batch_norm": "no batch norm",
    "l1_kernels": "L1 on kernels",
    "adamw": "AdamW",
    "no_shift": "no shift",
    "cnn0": "CNN0",
    "relu_max": "ReLU and max pooling",
}


def initialisation_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of initialisations.csv that compare two maps in the paper's convention.

    Columns kind (the relation of the maps), first_seed, second_seed and value.
    """
    rows = table[(table["convention"] == "all entries") & (table["first_seed"] != "all")]
    return rows.rename(columns={"relation": "kind"})[["kind", "first_seed", "second_seed", "value"]]


def initialisation_means(pairs: pd.DataFrame, paper: Mapping[str, float]) -> pd.DataFrame:
    """Mean over pairs with its interval over networks: kind, value, low, high, n, paper."""
    rows = []
    for kind, number in RELATIONS.items():
        part = pairs[pairs["kind"] == kind]
        if kind == "ISM-TISM, one network":
            mean = mean_of(part["value"])
        else:
            # the mean where ISM of either network meets TISM of the other
            seeds = np.sort(part[["first_seed", "second_seed"]].astype(str).to_numpy(), axis=1)
            mean = jackknife_pairs(part.groupby([*seeds.T])["value"].mean().to_dict())
        rows.append({"kind": kind, **mean._asdict(), "paper": paper.get(number, np.nan)})
    return pd.DataFrame(rows)


def variants(models: pd.DataFrame) -> pd.DataFrame:
    """The networks of the ablations, with `kind`, the name that figures show."""
    rows = of_experiment(models, "ablation")
    control = rows["control"].str.replace("_", " ").radd(", ").where(rows["control"] != "", "")
    return rows.assign(kind=rows["variant"].map(VARIANT_NAMES) + control)


def ablation_table(
    rows: pd.DataFrame, paper: Mapping[str, float], measure: str = "tism_all"
) -> pd.DataFrame:
    """One row a kind of network, the highest mean first.

    Columns: kind, variant, value, low, high (mean of `measure`, t interval over networks), n,
    difference, difference_low, difference_high, p (from the baseline, Holm), performance (mean test
    r across tasks), paper.
    """
    values = {kind: group[measure].to_numpy() for kind, group in rows.groupby("kind", sort=False)}
    others = {kind: v for kind, v in values.items() if kind != "baseline"}
    differences = compare_with(values["baseline"], others).set_index("name")
    table = []
    for kind, group in rows.groupby("kind", sort=False):
        row = {"kind": kind, "variant": group["variant"].iloc[0], **mean_of(values[kind])._asdict()}
        if kind != "baseline":
            numbers = differences.loc[kind, ["value", "low", "high", "p"]]
            row |= dict(zip(_DIFFERENCE, numbers, strict=True))
        row["performance"] = group["test_region_r"].mean()
        is_control = (group["control"] != "").any()  # the paper has none of these
        row["paper"] = np.nan if is_control else paper.get(f"fig3d_{row['variant']}_r", np.nan)
        table.append(row)
    columns = ["kind", "variant", "value", "low", "high", "n", *_DIFFERENCE, "performance", "paper"]
    table = pd.DataFrame(table, columns=columns)
    return table.sort_values("value", ascending=False, ignore_index=True)


def example_runs(models: pd.DataFrame) -> dict[str, str]:
    """The runs of Fig S4 by label: networks of a share of the training regions, then AdamW."""
    shares = of_experiment(models, "fraction").query("seed == 0 and control == ''")
    shares = shares[shares["fraction"].isin([0.01, 0.05, 0.1, 1.0])].sort_values("fraction")
    runs = {f"{100 * row.fraction:g} % of the regions": row.run for row in shares.itertuples()}
    chosen = "variant == 'adamw' and seed == 0 and dataset in @shares.dataset"
    return runs | {row.kind: row.run for row in variants(models).query(chosen).itertuples()}


def example_maps(
    profile: Profile, runs: Mapping[str, str], one_hot: Tensor, task: int
) -> tuple[Tensor, Tensor]:
    """Mean effects of ISM and of TISM of one (1, 4, length) sequence: (networks, 4, length)."""
    device, exact, taylor = default_device(), [], []
    for name in runs.values():
        model, _ = find_run(profile, name).network.trained(progress=False)
        exact.append(mean_effect(ism(model, one_hot, task, device=device), one_hot)[0, 0])
        taylor.append(mean_effect(tism(model, one_hot, task, device=device), one_hot)[0, 0])
    return torch.stack(exact), torch.stack(taylor)


def conventions_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a kind: means over its networks of r in each convention and of the effect sizes."""
    columns = {
        "tism_all": "all entries",
        "tism_substitutions": "substitutions",
        "tism_centred": "centred",
        "tism_mean_effect": "mean effect",
        "tism_task_differences": "task differences",
        "gradient_all": "gradient, all entries",
        "ism_size": "size of ISM",
        "tism_size": "size of TISM",
    }
    means = rows.groupby("kind", sort=False)[list(columns)].mean()
    return means.rename(columns=columns).reset_index()


def ages(models: pd.DataFrame) -> pd.DataFrame:
    """The networks by epoch, with `kind`, the name of the training that they come from."""
    rows = of_experiment(models, "epoch")
    names = {"": "baseline", "warmup14": "warm-up of 14 epochs"}
    names["no_weight_decay"] = "AdamW, no weight decay"
    return rows.assign(kind=rows["control"].replace(names))


def origins(models: pd.DataFrame) -> pd.DataFrame:
    """`models` with `origin`: what sets a network apart from the baseline."""
    differs = {
        "another age": models["experiment"].str.contains("epoch"),
        "another part": models["variant"] != "baseline",
        "less data": models["fraction"] < 1,
    }
    return models.assign(origin=np.select(list(differs.values()), list(differs), "baseline"))


def warm_ups(rows: pd.DataFrame) -> dict[str, float]:
    """Last epoch of each warm-up of the networks of `ages`, by label; AdamW is left out."""
    lengths = rows.loc[rows["variant"] == "baseline", "warmup_epochs"]
    return {f"warm-up of {length} ends": float(length) for length in sorted(lengths.unique())}


def example(scores: Scores) -> tuple[int, int, slice]:
    """Region, task with its highest prediction, and the 80 bp in which bases matter most."""
    region = example_region(scores, profile_correlation(scores.ism, scores.tism))
    task = int(scores.predicted[region].argmax())
    effect = mean_effect(scores.ism[[region]], scores.one_hot[[region]])[0, task].sum(0).abs()
    width = min(80, len(effect))
    start = int(effect.unfold(0, width, 1).sum(1).argmax())
    return region, task, slice(start, start + width)
