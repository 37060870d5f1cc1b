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
from tism.sequence import decode, one_hot_encode
from tism.study.cache import read_csv, write_csv
from tism.study.ch04_agreement import example_region
from tism.study.ch05_runs import of_experiment
from tism.study.networks import Experiment, find_run, tables_key
from tism.study.profiles import Profile, default_device, load_dataset, results_folder
from tism.study.records import EXAMPLES, ROBUSTNESS, find_table, note_provenance
from tism.study.scores import Scores, score_regions, scored_rows
from tism.study.statistics import at_equal, compare_all_with, jackknife_pairs, mean_of
from tism.taylor import mean_effect

RELATIONS = {
    "ISM-TISM, one network": "fig3a_ism_tism_r",
    "ISM-ISM": "fig3a_ism_ism_r",
    "TISM-TISM": "fig3a_tism_tism_r",
    "ISM-TISM, two networks": "",
}
READINGS = {"best": "as trained", "epoch": "at fixed epochs"}
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
CONTROL_NAMES = {
    "": "",
    "warmup14": "warm-up of 14 epochs",
    "no_weight_decay": "no weight decay",
    "patience15": "patience of 15 epochs",
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
    """The networks of the ablations and all baselines, with `kind`, the name that figures show."""
    rows = of_experiment(models, "ablation", "initialisation")
    return rows.assign(kind=kinds(rows))


def kinds(rows: pd.DataFrame) -> pd.Series:
    """The name of each network's kind, for readers."""
    control = rows["control"].map(CONTROL_NAMES)
    return rows["variant"].map(VARIANT_NAMES) + control.radd(", ").where(control != "", "")


def ablation_table(
    rows: pd.DataFrame, paper: Mapping[str, float], measure: str = "tism_all"
) -> pd.DataFrame:
    """One row per kind of network, the highest mean first.

    Columns: kind, variant, value (mean of `measure`), low and high (t interval over n networks), n,
    paper.
    """
    table = []
    for kind, group in rows.groupby("kind", sort=False):
        variant, is_control = group["variant"].iloc[0], (group["control"] != "").any()
        number = np.nan if is_control else paper.get(f"fig3d_{variant}_r", np.nan)
        mean = mean_of(group[measure])._asdict()
        table.append({"kind": kind, "variant": variant, **mean, "paper": number})
    return pd.DataFrame(table).sort_values("value", ascending=False, ignore_index=True)


def _from_baseline(values: pd.Series) -> pd.DataFrame:
    """`compare_all_with` the baseline, of a value of each network, by kind and network."""
    groups = {kind: part.to_numpy() for kind, part in values.groupby(level=0, sort=False)}
    return compare_all_with(groups.pop("baseline"), groups).rename(columns={"name": "kind"})


def three_readings(models: pd.DataFrame) -> pd.DataFrame:
    """How much higher r is than in the baseline, by kind and by the reading of its networks.

    models : of one data set; those of `variants` count. Where they were read with their best
        weights only, so are the differences. A network that predicts a constant at a fixed epoch
        has no r there and is left out of the mean of these epochs. At equal gap each reading is
        moved to the mean gap along one slope, that within networks, and all readings count

    Columns: kind, reading, and those of `tism.study.statistics.compare_all_with`; a kind with the
    largest loss in the last reading comes first.
    """
    rows = models[models["run"].isin(variants(models)["run"])]
    gap = rows["train_region_r"] - rows["test_region_r"]
    rows = rows.assign(gap=gap, kind=kinds(rows))
    known = rows[rows["tism_all"].notna()]
    found = {}
    for reading, name in READINGS.items():
        part = rows[rows["reading"] == reading]
        dead = part.loc[part["tism_all"].isna(), "run"]
        part = part[~part["run"].isin(dead)]
        if len(part):
            found[name] = part.groupby(["kind", "run"], sort=False)["tism_all"].mean()
    if len(found) > 1:
        found["at equal gap"] = at_equal(known, "tism_all", "gap", kind="kind", network="run")
    tables = [_from_baseline(values).assign(reading=name) for name, values in found.items()]
    order = tables[-1].sort_values("value")["kind"]
    return pd.concat(tables).set_index("kind").loc[order].reset_index()


def shares(models: pd.DataFrame) -> pd.DataFrame:
    """Networks trained on a share of the training regions: one row per network and reading.

    Columns: fraction, seed, reading (of `READINGS`; the mean of the fixed epochs), tism_all; test
    and learned, the performance (mean r across tasks) on test regions and on those trained on.
    """
    chosen = models["experiment"].str.split(";").map(lambda names: "fraction" in names)
    rows = models[chosen].assign(reading=models["reading"].map(READINGS))
    columns = {"tism_all": "tism_all", "test_region_r": "test", "learned_region_r": "learned"}
    means = rows.groupby(["fraction", "seed", "reading"])[[*columns]].mean()
    return means.rename(columns=columns).reset_index()


def example_runs(models: pd.DataFrame) -> dict[str, str]:
    """The runs of Fig S4 by label: networks of a share of the training regions, then AdamW."""
    shares = of_experiment(models, "fraction").query("seed == 0")
    shares = shares[shares["fraction"].isin([0.01, 0.05, 0.1, 1.0])].sort_values("fraction")
    runs = {f"{100 * row.fraction:g} % of the regions": row.run for row in shares.itertuples()}
    chosen = "kind == 'AdamW' and seed == 0 and dataset in @shares.dataset"
    return runs | {row.kind: row.run for row in variants(models).query(chosen).itertuples()}


def example_maps(profile: Profile, models: pd.DataFrame) -> pd.DataFrame:
    """Maps of one region by the networks of Fig S4: the table that there is, or one made now.

    Columns: network, position, base (of the reference), ism, tism (its mean effects).
    """
    path = find_table(profile.name, EXAMPLES)
    if path is None:
        path = results_folder(profile.name) / EXAMPLES
        write_csv(path, _measure_examples(profile, models))
        note_provenance(path.parent, EXAMPLES, ROBUSTNESS, tables_key(profile), profile)
    return read_csv(path)


def _measure_examples(profile: Profile, models: pd.DataFrame) -> pd.DataFrame:
    data = load_dataset(profile)
    model, _ = Experiment(profile, profile.datasets[0]).trained(progress=False)
    scores = score_regions(model, data, scored_rows(data, profile.regions_a_model))
    region, task, window = example(scores)
    one_hot = scores.one_hot[[region]]
    start, stop, _ = window.indices(data.length)
    place = {"position": np.arange(start, stop), "base": [*decode(one_hot)[0][window]]}
    tables, device = [], default_device()
    for kind, run in example_runs(models).items():
        network, _ = find_run(profile, run).network.trained(progress=False)
        maps = {
            name: mean_effect(method(network, one_hot, task, device=device), one_hot)[0, 0].sum(0)
            for name, method in (("ism", ism), ("tism", tism))
        }
        shown = {name: effect[window].numpy() for name, effect in maps.items()}
        tables.append(pd.DataFrame({"network": kind, **place, **shown}))
    return pd.concat(tables)


def example_logos(table: pd.DataFrame, column: str) -> Tensor:
    """(networks, 4, length): a column of `example_maps` at the rows of the bases."""
    bases = table.groupby("network", sort=False)["base"].agg("".join)
    effects = torch.tensor(table[column].to_numpy()).reshape(len(bases), 1, -1)
    return one_hot_encode([*bases]) * effects


def conventions_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per kind: means over its networks of r in each convention and of the effect sizes."""
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
    return rows.assign(kind=kinds(rows))


def origins(models: pd.DataFrame) -> pd.DataFrame:
    """`models` with `origin`, a category: what sets a network apart from the baseline."""
    differs = {
        "another age": models["experiment"].str.contains("epoch"),
        "another part": models["variant"] != "baseline",
        "less data": models["fraction"] < 1,
    }
    origin = np.select(list(differs.values()), list(differs), "baseline")
    return models.assign(origin=pd.Categorical(origin, ["baseline", *differs]))


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
