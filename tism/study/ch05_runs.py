"""The many networks of a profile: how well each predicts, and how alike its ISM and its TISM are.

A profile lists series of networks (`Series`), which make the runs of `list_runs`; a network that
several experiments need is one run. `score_run` turns a run into rows of models.csv:

run, experiment, dataset, variant, control, seed, fraction
    the name; the experiments it belongs to, joined by ";"; what was trained on what. `control` is
    empty, or names what a series changes beside that
reading, epoch, warmup_epochs, n_train
    "best" for the weights that are best on validation, "epoch" for a snapshot; the epoch whose
    weights these are (0 is before the training); epochs of the warm-up; training regions used
<split>_region_r, <split>_task_r
    Pearson across tasks, mean of the regions, and across regions, mean of the tasks; split is
    train, validation or test (`tism.study.ch03_training.performance_table`), or learned: the
    share of the training regions that this network was trained on
tism_all, tism_substitutions, tism_centred, tism_mean_effect, tism_task_differences
    Pearson of TISM with ISM, mean over regions and tasks, in the conventions of
    `ch04_agreement.CONVENTIONS`; of the task differences the mean of each region counts once
gradient_all, gradient_substitutions, gradient_x_input_mean_effect
    the same for the gradient and for gradient x input
ism_size, tism_size
    root mean square of the effects of the substitutions, in standard deviations of the target
ism_motifs
    motifs of an ISM map by `ch04_agreement.call_motifs`, mean over regions and tasks; rows that are
    older than this column do not have it
n_regions, n_tasks, n_loci, n_constant
    what was scored; profiles without a correlation over all entries
key
    of the configuration

Every measure has its 95 % bootstrap interval over the test loci beside it, <measure>_low and
<measure>_high: how sure the value of this one network is, not how much networks differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tism.correlations import mean_effect_correlation, profile_correlation, substitution_correlation
from tism.running import progress_bar
from tism.score.files import write_text
from tism.study.cache import read_csv, read_json, write_csv
from tism.study.ch03_training import performance, performance_table, predict_rows
from tism.study.ch04_agreement import call_motifs, correlations_with_ism, smooth_profile
from tism.study.data.dataset import Dataset, evenly
from tism.study.machine import check_machine
from tism.study.networks import Run, find_run, list_runs
from tism.study.profiles import Profile, digest, load_dataset, results_folder, work_folder
from tism.study.records import INITIALISATIONS, MODELS, find_table
from tism.study.scores import Scores, score_sequences, scored_rows, weights_sha256
from tism.study.statistics import summarise
from tism.study.training import training_rows
from tism.taylor import centre, mean_effect

_COLUMNS = {
    ("TISM", "all entries"): "tism_all",
    ("TISM", "substitutions"): "tism_substitutions",
    ("TISM", "centred"): "tism_centred",
    ("TISM", "mean effect"): "tism_mean_effect",
    ("TISM", "task differences"): "tism_task_differences",
    ("gradient", "all entries"): "gradient_all",
    ("gradient", "substitutions"): "gradient_substitutions",
    ("gradient x input", "mean effect"): "gradient_x_input_mean_effect",
}
_REGIONS_AT_ONCE = 50


def score_run(run: Run, *, progress: bool = False) -> pd.DataFrame:
    """Train a run where that is still to be done and write its rows of models.csv.

    They go to results/<profile>/models/<run>/rows.csv, whole or not at all. What is measured of
    single snapshots is kept in the cache, by their weights: a killed run repeats one at most.
    """
    network, training, rows = run.network, run.network.training, []
    check_machine(network.profile.machine)
    label = {
        "run": run.name,
        "experiment": ";".join(run.experiments),
        "dataset": network.dataset,
        "variant": network.variant,
        "control": run.control,
        "seed": network.seed,
        "fraction": training.fraction,
    }
    for reading, epoch, model in run.networks(progress=progress):
        kept = work_folder("cache") / "models" / f"{digest([run.key, weights_sha256(model)])}.json"
        if not kept.exists():
            write_text(kept, json.dumps(_measure(run, model, progress)) + "\n")
        read = {"reading": reading, "epoch": epoch, "warmup_epochs": training.warmup_epochs}
        rows.append({**label, **read, **read_json(kept), "key": run.key})
    table = pd.DataFrame(rows)
    write_csv(rows_of_run(run), table)
    return table


def rows_of_run(run: Run) -> Path:
    """Where `score_run` writes."""
    return run.folder / "rows.csv"


def _measure(run: Run, model: nn.Module, progress: bool) -> dict[str, float]:
    profile = run.network.profile
    dataset = load_dataset(profile, run.network.dataset)
    rows = scored_rows(dataset, profile.regions_a_model)
    maps = compare_maps(model, dataset, rows, progress=progress)
    loci = dataset.regions["locus"].to_numpy()[rows]
    learned = training_rows(dataset, run.network.training)
    return {
        "n_train": len(learned),
        **_performance(model, dataset, learned, run.network.seed),
        **_with_intervals(maps, loci),
        "n_regions": len(rows),
        "n_tasks": len(dataset.tasks),
        "n_loci": len(np.unique(loci)),
        "n_constant": int(maps["tism_all"].isnan().sum()),
    }


def _performance(
    model: nn.Module, dataset: Dataset, learned: np.ndarray, seed: int
) -> dict[str, float]:
    """Correlations by split; for "train" and "learned", of as many regions as the test set has."""
    known = {"network": lambda rows: predict_rows(model, dataset, rows)}
    columns: dict[str, float] = {}
    for row in performance_table(known, dataset, seed).itertuples():
        columns |= _interval(f"{row.split}_{row.level}_r", row.mean_r, row.low, row.high)
    rows = evenly(learned, len(dataset.indices("test")))
    predicted, target = known["network"](rows), dataset.standardised[rows]
    loci = dataset.regions["locus"].to_numpy()[rows]
    for level, found in performance(predicted, target, loci).items():
        columns |= _interval(f"learned_{level}_r", found.value, found.low, found.high)
    return columns


def _interval(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _with_intervals(maps: dict[str, Tensor], loci: np.ndarray) -> dict[str, float]:
    columns: dict[str, float] = {}
    for name, values in maps.items():
        value = low = high = float("nan")
        if not values.isnan().all():
            summary = summarise(values, loci)
            value, low, high = summary.value, summary.low, summary.high
        columns |= _interval(name, value, low, high)
    return columns


def compare_maps(
    model: nn.Module, dataset: Dataset, rows: np.ndarray, *, progress: bool = False
) -> dict[str, Tensor]:
    """Every comparison of the maps of these regions, in one pass that keeps no map.

    Returns (len(rows), n_tasks) by name of the measure, (len(rows), 1) for the task differences.
    """
    parts = [_compare(scores) for scores in _in_parts(model, dataset, rows, progress)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _in_parts(
    model: nn.Module, dataset: Dataset, rows: np.ndarray, progress: bool
) -> Iterator[Scores]:
    with progress_bar(len(rows), progress, "ISM and gradients") as report:
        for start in range(0, len(rows), _REGIONS_AT_ONCE):
            part = rows[start : start + _REGIONS_AT_ONCE]
            one_hot = dataset.one_hot(part)
            yield Scores(part, one_hot, **score_sequences(model, one_hot))
            report(len(part))


def _compare(scores: Scores) -> dict[str, Tensor]:
    r = {_COLUMNS[key]: values for key, values in correlations_with_ism(scores).items()}
    r["tism_task_differences"] = r["tism_task_differences"].nanmean(1, keepdim=True)
    n_substitutions = (scores.one_hot == 0).sum((1, 2))[:, None]  # maps are zero elsewhere
    for name, effects in (("ism_size", scores.ism), ("tism_size", scores.tism)):
        r[name] = (effects.double().square().sum((2, 3)) / n_substitutions).sqrt()
    profiles = mean_effect(scores.ism, scores.one_hot).sum(2)
    counts = [len(call_motifs(smooth_profile(profile))) for profile in profiles.flatten(0, 1)]
    r["ism_motifs"] = torch.tensor(counts, dtype=torch.float64).view(profiles.shape[:2])
    return r


def compare_initialisations(
    profile: Profile, dataset: str, *, progress: bool = False
) -> pd.DataFrame:
    """How alike the maps of networks are that differ in their seed only, pair by pair.

    Columns: dataset; relation (ISM-ISM, TISM-TISM, ISM-TISM of one network or of two, or `ABOVE`),
    convention (of `ch04_agreement.CONVENTIONS`); first_seed and second_seed, or "all" where the
    pairs of the relation are pooled; value, the mean of the correlations over regions and tasks,
    low and high (95 % bootstrap interval over the test loci), n_profiles, n_constant, n_loci; key
    of the runs.
    """
    check_machine(profile.machine)
    runs = _initialisations(profile, dataset)
    networks = {run.network.seed: run.network.trained(progress=progress)[0] for run in runs}
    data = load_dataset(profile, dataset)
    rows = scored_rows(data, profile.regions_a_model)
    loci = data.regions["locus"].to_numpy()[rows]
    correlated = _between_networks(networks, data, rows, progress)
    correlated |= _above_other_networks(correlated)
    table = pd.DataFrame(_initialisation_rows(correlated, loci))
    table.insert(0, "dataset", dataset)
    return table.assign(key=_initialisations_key(profile, dataset))


def _initialisations(profile: Profile, dataset: str) -> list[Run]:
    runs = list_runs(profile)
    return [r for r in runs if "initialisation" in r.experiments and r.network.dataset == dataset]


Pair = tuple[str, str, str, str]  # relation, convention, seeds
ABOVE = "share of ISM-TISM, one network above the mean of ISM-ISM"


def _between_networks(
    networks: dict[int, nn.Module], dataset: Dataset, rows: np.ndarray, progress: bool
) -> dict[Pair, Tensor]:
    """(len(rows), n_tasks) for every pair of maps and convention, in one pass."""
    parts: dict[Pair, list[Tensor]] = {}
    streams = [_in_parts(network, dataset, rows, progress) for network in networks.values()]
    for scores in zip(*streams, strict=True):
        for pair, r in _pairs_of_maps(dict(zip(networks, scores, strict=True))):
            parts.setdefault(pair, []).append(r)
    return {pair: torch.cat(r) for pair, r in parts.items()}


def _pairs_of_maps(scores: dict[int, Scores]) -> Iterator[tuple[Pair, Tensor]]:
    one_hot = next(iter(scores.values())).one_hot
    maps = [("ISM", seed, s.ism) for seed, s in scores.items()]
    maps += [("TISM", seed, s.tism) for seed, s in scores.items()]
    for (first, i, a), (second, j, b) in combinations(maps, 2):
        relation = f"{first}-{second}"
        if first != second:
            relation += ", one network" if i == j else ", two networks"
        for convention, r in _in_conventions(a, b, one_hot).items():
            yield (relation, convention, str(i), str(j)), r


def _above_other_networks(correlated: dict[Pair, Tensor]) -> dict[Pair, Tensor]:
    """1 for profiles whose r of ISM and TISM exceeds the mean r of ISM of two networks, else 0."""
    of = {pair: r for pair, r in correlated.items() if pair[1] == "all entries"}
    others = torch.cat([r for (relation, *_), r in of.items() if relation == "ISM-ISM"]).nanmean()
    return {
        (ABOVE, *rest): (r > others).to(r).where(r.isfinite(), torch.nan)
        for (relation, *rest), r in of.items()
        if relation == "ISM-TISM, one network"
    }


def _in_conventions(a: Tensor, b: Tensor, one_hot: Tensor) -> dict[str, Tensor]:
    return {
        "all entries": profile_correlation(a, b),
        "substitutions": substitution_correlation(a, b, one_hot),
        "centred": profile_correlation(centre(a), centre(b)),
        "mean effect": mean_effect_correlation(a, b, one_hot),
    }


def _initialisation_rows(correlated: dict[Pair, Tensor], loci: np.ndarray) -> list[dict[str, Any]]:
    pooled: dict[Pair, list[Tensor]] = {}
    for (relation, convention, *_), r in correlated.items():
        pooled.setdefault((relation, convention, "all", "all"), []).append(r)
    values = {**{pair: torch.cat(r, 1) for pair, r in pooled.items()}, **correlated}
    names = ("relation", "convention", "first_seed", "second_seed")
    return [
        {**dict(zip(names, pair, strict=True)), **vars(summarise(r, loci))}
        for pair, r in values.items()
    ]


def write_models(profile: Profile) -> Path:
    """Write results/<profile>/models.csv: the rows of all runs that are done, in their order.

    Where a run has no file of its own, its rows of the table that is there already stay, fresh or
    recorded. Raises ValueError as `check_tables` does, and where no run is done.
    """
    check_tables(profile)
    target, before = results_folder(profile.name) / MODELS, _known_rows(profile)
    parts = []
    for run in list_runs(profile):
        scored = rows_of_run(run)
        rows = _read_text(scored) if scored.exists() else before[before["run"] == run.name]
        parts.append(rows.assign(experiment=";".join(run.experiments)))
    table = pd.concat(parts) if parts else before
    if table.empty:
        raise ValueError(f"no run of profile {profile.name} is done: {target} would be empty")
    write_csv(target, table)
    return target


def _known_rows(profile: Profile) -> pd.DataFrame:
    """Rows of models.csv, fresh or else recorded, that belong to the profile as it is."""
    path = find_table(profile.name, MODELS)
    if path is None:
        return pd.DataFrame({"run": []})
    table = _read_text(path)
    return table[table["key"].isin({run.key for run in list_runs(profile)})]


def missing_runs(profile: Profile) -> list[str]:
    """Names of the runs that are neither scored here nor in models.csv, in their order."""
    known = {*_known_rows(profile)["run"]}
    runs = (run for run in list_runs(profile) if not rows_of_run(run).exists())
    return [run.name for run in runs if run.name not in known]


def write_initialisations(profile: Profile, *, progress: bool = False) -> Path:
    """Write results/<profile>/initialisations.csv for the data sets with several of them."""
    check_tables(profile)
    target = results_folder(profile.name) / INITIALISATIONS
    several = _with_initialisations(profile)
    if not several:
        raise ValueError(f"profile {profile.name} has no two initialisations to compare")
    tables = [compare_initialisations(profile, name, progress=progress) for name in several]
    write_csv(target, pd.concat(tables))
    return target


def _with_initialisations(profile: Profile) -> list[str]:
    return [name for name in profile.datasets if len(_initialisations(profile, name)) > 1]


def table_names(profile: Profile) -> list[str]:
    """The tables of a profile: models.csv, and initialisations.csv where there are several."""
    return [MODELS, INITIALISATIONS] if _with_initialisations(profile) else [MODELS]


def check_tables(profile: Profile) -> None:
    """Refuse tables in results/<profile> that another configuration made.

    Raises ValueError that names the file and what in it does not belong to the profile as it is.
    """
    runs, folder = list_runs(profile), results_folder(profile.name)
    keys = {run.name: run.key for run in runs}
    for path in (folder / MODELS, *sorted((folder / "models").glob("*/rows.csv"))):
        _refuse_others(path, "run", keys)
    keys = {name: _initialisations_key(profile, name) for name in profile.datasets}
    _refuse_others(folder / INITIALISATIONS, "dataset", keys)


def _initialisations_key(profile: Profile, dataset: str) -> str:
    return digest([run.key for run in _initialisations(profile, dataset)])


def _refuse_others(path: Path, column: str, keys: dict[str, str]) -> None:
    if not path.exists():
        return
    table = _read_text(path)
    if not {column, "key"} <= {*table}:
        raise ValueError(f"{path} has no columns {column} and key: it is no table of networks")
    for name, key in zip(table[column], table["key"], strict=True):
        if keys.get(name) != key:
            raise ValueError(
                f"{path}: {column} {name} was made with another configuration than the profile "
                "has now; delete the file to make it anew"
            )


def _read_text(path: Path) -> pd.DataFrame:
    """A CSV file with every value as it is written."""
    return read_csv(path, dtype=str, keep_default_na=False)


def read_table(profile: str, name: str = MODELS) -> pd.DataFrame:
    """What `find_table` finds, an empty `control` as an empty string.

    A models.csv without the column `reading` gets it: of such tables those of the experiment
    "epoch" are snapshots.

    Raises FileNotFoundError, or DamagedFileError naming what is not as `write_csv` wrote it.
    """
    path = find_table(profile, name)
    if path is None:
        raise FileNotFoundError(f"profile {profile} has no {name}, neither fresh nor recorded")
    table = read_csv(path, dtype={"control": str})
    if name == MODELS and "reading" not in table:
        snapshot = table["experiment"].str.split(";").map(lambda names: "epoch" in names)
        table["reading"] = np.where(snapshot, "epoch", "best")
    return table.fillna({"control": ""} if "control" in table else {})


def make_tables(profile: Profile, *, progress: bool = True) -> None:
    """Train, score and compare the networks of a profile, if it has no tables of them yet."""
    if all(find_table(profile.name, name) for name in table_names(profile)):
        return
    for name in missing_runs(profile):
        score_run(find_run(profile, name), progress=progress)
    write_models(profile)
    if INITIALISATIONS in table_names(profile):
        write_initialisations(profile, progress=progress)


def of_experiment(table: pd.DataFrame, *experiments: str) -> pd.DataFrame:
    """The rows of models.csv that belong to any of these experiments.

    They are the snapshots of the experiment "epoch" and the best weights of all others.
    """
    belongs = table["experiment"].map(lambda names: not {*experiments}.isdisjoint(names.split(";")))
    belongs = belongs.astype(bool)
    if "reading" in table:
        belongs &= table["reading"] == ("epoch" if "epoch" in experiments else "best")
    return table[belongs].reset_index(drop=True)
