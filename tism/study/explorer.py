"""A few score maps of a run, by several methods, small enough for the explorer page of the book.

Regions and tasks are chosen by rank, not by eye. Of the scored test regions of a data set, in the
order of r between ISM and TISM over all substitutions (mean of the tasks), those at even steps from
the worst to the best are kept; of the tasks likewise (mean of the regions). Two tables hold them:

explorer_regions.csv
    dataset, region, chrom, start, end, sequence; mean_r, rank (1 is the worst) and n_ranked, by
    which the region was chosen
explorer.csv, one row a map
    dataset, region, task, method; predicted and label, standardised as the network was trained;
    r_ism, Pearson with ISM over the substitutions before rounding; largest, the greatest absolute
    change of the model's output; effects, base64 of one signed byte k a substitution, which stands
    for the change sign(k) (k / 127)**2 largest. The substitutions to A come first, then those to C,
    G and T, each in the order of the sequence
"""

from __future__ import annotations

import base64
import csv
from collections.abc import Iterator
from contextlib import contextmanager
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
from tism.study.ch08_elements import BUDGET, METHODS, N_SHUFFLES, MeanTask
from tism.study.ch08_networks import ExternalModel
from tism.study.data.dataset import Dataset
from tism.study.networks import Experiment
from tism.study.profiles import Profile, dataset_checksum, digest, load_dataset, results_folder
from tism.study.scores import Scores, score_regions, scored_rows

TABLES = REGIONS, MAPS = "explorer_regions.csv", "explorer.csv"
TRUTH = "planted truth"
COMPUTED = ("layer-wise TISM", "budgeted ISM", "DeepLIFT/SHAP")
SHOWN = ("ISM", "TISM", *COMPUTED, TRUTH)
N_REGIONS = (12, 6)  # of the first data set of a profile, of every other
N_TASKS = 5
_STEPS = 127
_RENAMED = {"name": "region"}
_REMEDY = "make it anew: python -m tism.study.compendium explorer PROFILE"
_REGION_COLUMNS = ("dataset", "region", "chrom", "start", "end", "sequence")


_REGION_COLUMNS += ("mean_r", "rank", "n_ranked")


_MAP_COLUMNS = ("dataset", "region", "task", "method", "predicted", "label")


_MAP_COLUMNS += ("r_ism", "largest", "effects")


def even_ranks(n: int, k: int) -> np.ndarray:
    """`k` of the ranks 0 to n - 1 at even steps, first and last included; all where k >= n."""
    return np.linspace(0, n - 1, min(n, k)).round().astype(int)


def quantise(effects: Tensor) -> tuple[float, str]:
    """The largest magnitude, and base64 text of one signed byte a value, that `restore` reads.

    effects : (n,) finite

    The bytes are the roots, since a map has few large effects and many small ones: off by at most
    0.8 % of the largest, and by the less the smaller a value is.
    """
    values = effects.double().numpy()
    if not np.isfinite(values).all():
        raise ValueError("effects must be finite, got NaN or infinity")
    largest = float(np.abs(values).max(initial=0))
    roots = np.sqrt(np.abs(values) / (largest or 1))
    whole = np.round(_STEPS * np.sign(values) * roots).astype(np.int8)
    return largest, base64.b64encode(whole.tobytes()).decode()


def restore(largest: float, text: str, sequence: str) -> Tensor:
    """(4, length) effects that `quantise` wrote of the substitutions of a sequence.

    Raises ValueError where the text is no base64 or holds another number of substitutions.
    """
    substituted = one_hot_encode(sequence)[0] == 0
    whole = np.frombuffer(base64.b64decode(text, validate=True), np.int8).astype(float)
    if len(whole) != substituted.sum():
        raise ValueError(f"{len(whole)} effects of {int(substituted.sum())} substitutions")
    effects = torch.zeros(substituted.shape, dtype=torch.float64)
    effects[substituted] = torch.from_numpy(largest * np.sign(whole) * (whole / _STEPS) ** 2)
    return effects


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

    Both at `even_ranks` of their mean r of ISM and TISM, the lowest first; without any r last.
    """
    r = substitution_correlation(scores.ism, scores.tism, scores.one_hot)
    of_regions, of_tasks = r.nanmean(1), r.nanmean(0)
    return (
        of_regions.argsort(stable=True).numpy()[even_ranks(len(of_regions), n_regions)],
        of_tasks.argsort(stable=True).numpy()[even_ranks(len(of_tasks), n_tasks)],
        of_regions,
    )


def maps_of(
    model: nn.Module, dataset: Dataset, scores: Scores, regions: np.ndarray, tasks: np.ndarray
) -> dict[str, Tensor]:
    """By method, (len(regions), len(tasks), 4, length) change of the output by each substitution.

    regions, tasks : numbers in `scores`

    The methods of `COMPUTED` see one task at a time, so that a budget is that of one task.
    """
    one_hot = scores.one_hot[regions]
    maps = {"ISM": scores.ism, "TISM": scores.tism}
    maps = {name: of_all[regions][:, tasks] for name, of_all in maps.items()}
    external = ExternalModel(dataset.name, model, dataset.length, tuple(dataset.tasks))
    alone = [MeanTask(external, [int(task)], dataset.length).eval() for task in tasks]
    for name in COMPUTED:
        maps[name] = torch.cat([METHODS[name](one_task, one_hot) for one_task in alone], 1)
    if dataset.truth is not None:
        maps[TRUTH] = ism(PlantedTruth(dataset), one_hot, tasks.tolist(), engine="full")
    return maps


def explorer_tables(
    model: nn.Module, dataset: Dataset, n_scored: int, n_regions: int, *, progress: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables of one data set, columns as this module describes them.

    model : trained on `dataset`; n_scored : test regions that are scored, of which `n_regions` and
        `N_TASKS` tasks are kept
    """
    rows = scored_rows(dataset, n_scored)
    scores = score_regions(model, dataset, rows, progress=progress)
    regions, tasks, mean_r = chosen(scores, n_regions, N_TASKS)
    table = dataset.regions.iloc[rows[regions]].reset_index(drop=True).rename(columns=_RENAMED)
    table = table.assign(
        dataset=dataset.name,
        sequence=decode(scores.one_hot[regions]),
        mean_r=mean_r[regions].numpy(),
        rank=1 + even_ranks(len(rows), n_regions),
        n_ranked=len(rows),
    )
    maps = _map_table(maps_of(model, dataset, scores, regions, tasks), scores.one_hot[regions])
    labels = dataset.standardised[rows[regions]][:, tasks]
    region, task = maps["region"], maps["task"]
    maps = maps.assign(
        dataset=dataset.name,
        region=table["region"].to_numpy()[region],
        task=np.array(dataset.tasks)[tasks][task],
        predicted=scores.predicted[regions][:, tasks].numpy()[region, task],
        label=labels[region, task],
    )
    return table[[*_REGION_COLUMNS]], maps[[*_MAP_COLUMNS]]


def _map_table(maps: dict[str, Tensor], one_hot: Tensor) -> pd.DataFrame:
    """Numbers of the region and of the task, method, and what is stored of the map."""
    rows = []
    r = {name: substitution_correlation(m, maps["ISM"], one_hot) for name, m in maps.items()}
    for region, task in np.ndindex(*maps["ISM"].shape[:2]):
        for method, of_all in maps.items():
            largest, text = quantise(of_all[region, task][one_hot[region] == 0])
            row = {"region": region, "task": task, "method": method, "largest": largest}
            rows.append(row | {"effects": text, "r_ism": r[method][region, task].item()})
    return pd.DataFrame(rows)


def explorer_key(profile: Profile) -> str:
    """What the tables of a profile depend on."""
    return digest(
        {
            "model": profile.model,
            "training": profile.training,
            "variants": profile.variants,
            "regions": profile.regions,
            "data": {d: dataset_checksum(profile, d) for d in profile.datasets},
            "versions": [versions.DATA, versions.MODEL, versions.TRAINING, versions.SCORING],
            "estimation": versions.ESTIMATION,
            "own": [N_REGIONS, N_TASKS, SHOWN, BUDGET, N_SHUFFLES],
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
    """Both tables of a folder, checked, nested for the page.

    Returns {"methods": [...], "datasets": [{name, tasks, regions: [{name, chrom, start, end,
    sequence, mean_r, rank, n_ranked, tasks: {name: {predicted, label, maps: {method: [largest,
    effects]}}}}]}]}, all in the order of the tables.
    Raises InputFileError naming the file, the line and what is wrong with it.
    """
    regions: dict[tuple[str, str], dict[str, Any]] = {}
    datasets: dict[str, dict[str, Any]] = {}
    for line, row in _lines(folder / REGIONS, _REGION_COLUMNS):
        with _naming(folder / REGIONS, line):
            one_hot_encode(row["sequence"])
            region = {"name": row["region"], "chrom": row["chrom"], "sequence": row["sequence"]}
            region |= {name: int(row[name]) for name in ("start", "end", "rank", "n_ranked")}
            region |= {"mean_r": float(row["mean_r"]) if row["mean_r"] else None, "tasks": {}}
        regions[row["dataset"], row["region"]] = region
        own = datasets.setdefault(row["dataset"], {"name": row["dataset"], "regions": []})
        own["regions"].append(region)
    for line, row in _lines(folder / MAPS, _MAP_COLUMNS):
        with _naming(folder / MAPS, line):
            _add_map(regions, row)
    methods = {m for r in regions.values() for task in r["tasks"].values() for m in task["maps"]}
    return {"methods": [m for m in SHOWN if m in methods], "datasets": list(datasets.values())}


def _add_map(regions: dict[tuple[str, str], dict[str, Any]], row: dict[str, str]) -> None:
    if (row["dataset"], row["region"]) not in regions:
        raise ValueError(f"region {row['region']!r} of {row['dataset']!r} is not in {REGIONS}")
    if row["method"] not in SHOWN:
        raise ValueError(f"method {row['method']!r} is none of {', '.join(SHOWN)}")
    region = regions[row["dataset"], row["region"]]
    stored = [float(row["largest"]), row["effects"]]
    restore(*stored, region["sequence"])
    values = {"predicted": float(row["predicted"]), "label": float(row["label"]), "maps": {}}
    region["tasks"].setdefault(row["task"], values)["maps"][row["method"]] = stored


def _lines(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with the numbers of their lines."""
    try:
        file = path.open(newline="", encoding="utf-8")
    except FileNotFoundError:
        raise InputFileError(path, None, "no such file", _REMEDY) from None
    with file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or [])]
        if missing:
            raise InputFileError(path, 1, f"no column {', '.join(missing)}", _REMEDY)
        for row in reader:
            if None in row or None in row.values():
                problem = f"not {len(reader.fieldnames)} columns"
                raise InputFileError(path, reader.line_num, problem, _REMEDY)
            yield reader.line_num, row


@contextmanager
def _naming(path: Path, line: int) -> Iterator[None]:
    """Errors in a value name the file and the line."""
    try:
        yield
    except ValueError as error:
        raise InputFileError(path, line, str(error), _REMEDY) from error
