"""Score maps of a few regions, by several methods, for the explorer page of the book.

Regions and tasks are chosen by rank, not by eye. The scored test regions of a data set are ordered
by r between ISM and TISM over all substitutions (mean of the tasks), and those at even steps from
the worst to the best are kept; the tasks likewise (mean of the regions). Two tables hold them:

explorer_regions.csv
    dataset, region, chrom, start, end, sequence; mean_r, rank (1 is the worst) and n_ranked, by
    which the region was chosen
explorer.csv, one row per map
    dataset, region, task, method; predicted and label, standardised as the network was trained;
    r_ism, Pearson with ISM over the substitutions before rounding; largest, the greatest absolute
    change of the model's output; effects, the change by each substitution in thousandths of the
    largest, with spaces between. The substitutions to A come first, then those to C, G and T, each
    in the order of the sequence

The page also shows the elements that chapter 08 compares with measured effects, from the tables of
that chapter: mpra_loci.csv, and mpra_maps.csv, whose effects are stored in the same way, with "."
where a substitution was not measured.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tism import versions
from tism.correlations import substitution_correlation
from tism.exact import ism
from tism.score.readers import InputFileError
from tism.sequence import decode, one_hot_encode
from tism.study.cache import write_csv
from tism.study.ch08_attribution import EFFECT_PREDICTORS, N_EXACT, N_SHUFFLES, MeanTask
from tism.study.ch08_elements import MEASURED, UNMEASURED, in_thousandths
from tism.study.ch08_networks import TITLES, ExternalModel
from tism.study.data.dataset import Dataset, evenly
from tism.study.networks import Experiment
from tism.study.profiles import Profile, digest, load_dataset, results_folder
from tism.study.records import networks_identity
from tism.study.scores import Scores, score_regions, scored_rows

TABLES = REGIONS, MAPS = "explorer_regions.csv", "explorer.csv"
TRUTH = "planted truth"
COMPUTED = ("layer-wise TISM", "budgeted ISM", "DeepLIFT/SHAP")
SHOWN = ("ISM", "TISM", *COMPUTED, TRUTH)
N_REGIONS = (12, 6)  # of the first data set of a profile, of every other
N_TASKS = 5
ELEMENTS, ELEMENT_MAPS = "mpra_loci.csv", "mpra_maps.csv"
_REMEDY = "make it anew: python -m tism.study.compendium "
_OWN, _OF_CHAPTER_08 = "explorer PROFILE", "record yeast 08_measured_mutagenesis"


class PlantedTruth(nn.Module):
    """What a simulated data set is made from, as a model: its targets without noise.

    Standardised as a network is trained on them, so that effects have the unit of its output.
    """

    def __init__(self, dataset: Dataset) -> None:
        super().__init__()
        self.truth, self.center, self.scale = dataset.truth, dataset.center, dataset.scale

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4, length) without N to (n, n_tasks)."""
        targets = self.truth.response(x.argmax(1).numpy().astype(np.uint8))
        return torch.from_numpy((targets - self.center) / self.scale)


def chosen(scores: Scores, n_regions: int, n_tasks: int) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Numbers of the regions and tasks that are kept, and the mean r of every scored region.

    Regions and tasks are ranked by their mean r of ISM and TISM, the lowest first and those without
    any r last, and kept at even steps of the ranks.
    """
    r = substitution_correlation(scores.ism, scores.tism, scores.one_hot)
    by_region, by_task = r.nanmean(1), r.nanmean(0)
    return (
        evenly(by_region.argsort(stable=True).numpy(), n_regions),
        evenly(by_task.argsort(stable=True).numpy(), n_tasks),
        by_region,
    )


def maps_of(
    model: nn.Module, dataset: Dataset, scores: Scores, regions: np.ndarray, tasks: np.ndarray
) -> dict[str, Tensor]:
    """By method, (len(regions), len(tasks), 4, length) change of the output by each substitution.

    regions, tasks : numbers in `scores`

    The methods of `COMPUTED` see one task at a time: exact substitutions are chosen for it.
    """
    one_hot = scores.one_hot[regions]
    maps = {"ISM": scores.ism[regions][:, tasks], "TISM": scores.tism[regions][:, tasks]}
    external = ExternalModel(dataset.name, model, dataset.length, tuple(dataset.tasks))
    single = [MeanTask(external, [int(task)], dataset.length).eval() for task in tasks]
    for name in COMPUTED:
        maps[name] = torch.cat([EFFECT_PREDICTORS[name](one, one_hot) for one in single], 1)
    if dataset.truth is not None:
        maps[TRUTH] = ism(PlantedTruth(dataset), one_hot, tasks.tolist(), engine="full")
    return maps


def explorer_tables(
    model: nn.Module, dataset: Dataset, n_scored: int, n_regions: int, *, progress: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables of one data set, columns as this module describes them.

    model : trained on `dataset`
    n_scored, n_regions : numbers of test regions that are scored, and that are kept
    """
    rows = scored_rows(dataset, n_scored)
    scores = score_regions(model, dataset, rows, progress=progress)
    regions, tasks, mean_r = chosen(scores, n_regions, N_TASKS)
    one_hot, kept = scores.one_hot[regions], rows[regions]
    table = dataset.regions.iloc[kept][["name", "chrom", "start", "end"]]
    table = table.rename(columns={"name": "region"}).assign(
        sequence=decode(one_hot),
        mean_r=mean_r[regions].numpy(),
        rank=evenly(1 + np.arange(len(rows)), n_regions),
        n_ranked=len(rows),
    )
    table.insert(0, "dataset", dataset.name)
    maps = maps_of(model, dataset, scores, regions, tasks)
    r = {name: substitution_correlation(m, maps["ISM"], one_hot) for name, m in maps.items()}
    stored = []
    for i, j in np.ndindex(len(regions), len(tasks)):
        names = {"dataset": dataset.name, "region": table["region"].iloc[i]}
        names["task"] = dataset.tasks[tasks[j]]
        values = {"predicted": scores.predicted[regions[i], tasks[j]].item()}
        values["label"] = dataset.standardised[kept[i], tasks[j]]
        for method, changes in maps.items():
            largest, effects = in_thousandths(changes[i, j][one_hot[i] == 0])
            row = {**names, "method": method, **values, "r_ism": r[method][i, j].item()}
            stored.append({**row, "largest": largest, "effects": effects})
    return table, pd.DataFrame(stored)


def explorer_key(profile: Profile) -> str:
    """What the tables of a profile depend on."""
    return digest(
        {
            **networks_identity(profile),
            "estimation": versions.ESTIMATION,
            "own": [N_REGIONS, N_TASKS, SHOWN, N_EXACT, N_SHUFFLES],
        }
    )


def write_explorer(profile: Profile, *, progress: bool = False) -> list[Path]:
    """Write both tables of a profile's baselines to results/<profile>; their paths."""
    made = []
    for number, name in enumerate(profile.datasets):
        model, _ = Experiment(profile, name).trained(progress=progress)
        n = N_REGIONS[min(number, 1)]
        data = load_dataset(profile, name)
        made.append(explorer_tables(model, data, profile.regions, n, progress=progress))
    paths = [results_folder(profile.name) / name for name in TABLES]
    for path, tables in zip(paths, zip(*made, strict=True), strict=True):
        write_csv(path, pd.concat(tables, ignore_index=True))
    return paths


def page_data(folder: Path) -> dict[str, Any]:
    """Both tables of a folder, nested for the page, in their order.

    Returns {"methods": [...], "datasets": [{name, regions: [{name, chrom, start, end, sequence,
    mean_r, rank, n_ranked, tasks: {name: {predicted, label, maps: {method: [largest,
    effects]}}}}]}]}.
    Raises InputFileError naming the file, the line and what is wrong with it.
    """
    regions: dict[tuple[str, str], dict[str, Any]] = {}
    datasets: dict[str, list[dict[str, Any]]] = {}
    methods: set[str] = set()

    def add_region(row: dict[str, str]) -> None:
        region = {"name": row["region"], "chrom": row["chrom"], "sequence": row["sequence"]}
        region |= {name: int(row[name]) for name in ("start", "end", "rank", "n_ranked")}
        region |= {"mean_r": float(row["mean_r"]) if row["mean_r"] else None, "tasks": {}}
        regions[row["dataset"], row["region"]] = region
        datasets.setdefault(row["dataset"], []).append(region)

    def add_map(row: dict[str, str]) -> None:
        region = regions[row["dataset"], row["region"]]
        task = {"predicted": float(row["predicted"]), "label": float(row["label"]), "maps": {}}
        task = region["tasks"].setdefault(row["task"], task)
        task["maps"][row["method"]] = _stored_map(row, region["sequence"])
        methods.add(row["method"])

    _read_rows(folder / REGIONS, add_region, _OWN)
    _read_rows(folder / MAPS, add_map, _OWN)
    named = [{"name": name, "regions": found} for name, found in datasets.items()]
    return {"methods": [name for name in SHOWN if name in methods], "datasets": named}


def element_data(folder: Path) -> dict[str, Any]:
    """The elements of chapter 08 as one more data set of `page_data`, whose tasks are the networks.

    Returns {"name", "regions": [{name, chrom, start, end, strand, kind, cells, sequence, measured:
    [largest, effects], tasks: {network: {maps: {method: [largest, effects]}}}}]}; None stands for
    an effect that was not measured. Raises InputFileError as `page_data` does.
    """
    elements: dict[str, dict[str, Any]] = {}

    def add_element(row: dict[str, str]) -> None:
        described = {name: row[name] for name in ("chrom", "strand", "kind", "cells", "sequence")}
        placed = {name: int(row[name]) for name in ("start", "end")}
        elements[row["element"]] = {"name": row["element"], **described, **placed, "tasks": {}}

    def add_map(row: dict[str, str]) -> None:
        element = elements[row["element"]]
        stored = _stored_map(row, element["sequence"])
        if row["method"] == MEASURED:
            element["measured"] = stored
        else:
            network = element["tasks"].setdefault(TITLES[row["model"]], {"maps": {}})
            network["maps"][row["method"]] = stored

    _read_rows(folder / ELEMENTS, add_element, _OF_CHAPTER_08)
    _read_rows(folder / ELEMENT_MAPS, add_map, _OF_CHAPTER_08)
    return {"name": "elements", "regions": list(elements.values())}


def _stored_map(row: dict[str, str], sequence: str) -> list[Any]:
    effects = row["effects"].split()
    substitutions = int((one_hot_encode(sequence) == 0).sum())
    if len(effects) != substitutions:
        raise ValueError(f"{len(effects)} effects of {substitutions} substitutions")
    return [float(row["largest"]), [None if k == UNMEASURED else int(k) for k in effects]]


def _read_rows(path: Path, add: Callable[[dict[str, str]], None], command: str) -> None:
    """Hand each row of a table to `add`; errors name file, line and the command that mends it."""
    if not path.exists():
        raise InputFileError(path, None, "no such file", _REMEDY + command)
    with path.open(newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            try:
                add(row)
            except KeyError as error:
                raise InputFileError(path, line, f"no {error}", _REMEDY + command) from error
            except (AttributeError, TypeError, ValueError) as error:
                raise InputFileError(path, line, str(error), _REMEDY + command) from error
