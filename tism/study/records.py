"""The records of the recorded run: what a chapter depends on, what it opens and what it leaves."""

from __future__ import annotations

import ast
import csv
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from tism import versions
from tism.score.files import replacing
from tism.study.cache import read_checked, read_json, write_checked, write_table
from tism.study.data.download import checksum_of, data_root
from tism.study.networks import Experiment, find_run
from tism.study.profiles import (
    Profile,
    dataset_checksum,
    digest,
    load_profile,
    repository,
    results_folder,
)

MODELS, INITIALISATIONS = "models.csv", "initialisations.csv"


def find_table(profile: str, name: str, *, recorded: bool = False) -> Path | None:
    """The table in results/<profile>, else the one in data/results/<profile>, or None.

    name : with a folder where it belongs to no profile, as external/concordance.csv in data/results
    recorded : only the second
    """
    committed = data_root() / "results"
    places = (results_folder(profile), committed if "/" in name else committed / profile)
    found = (folder / name for folder in places[recorded:])
    return next((path for path in found if path.exists()), None)


RECORDED_PROFILE = "yeast"
UNTRAINED = frozenset({"06_runtime"})  # chapters that need neither data nor trained networks
ESTIMATING = frozenset({"07_beyond_first_order", "08_measured_mutagenesis"})  # use estimators
TRAINING_CHAPTER = "03_train_model"
SCORING_CHAPTER = "04_ism_vs_tism"  # leaves the scores of the baselines in the cache
ROBUSTNESS, EXPLORER = "robustness", "explorer"
READS = {  # chapters that read tables which others wrote
    "05_robustness": ("models.csv", "initialisations.csv"),
    "10_scorecard": (
        "models.csv",
        "initialisations.csv",
        "concordance.csv",
        "regions.csv",
        "associations.csv",
        "runtime.csv",
        "external/concordance.csv",
        "estimators.csv",
        "reliability.csv",
        "epistasis.csv",
    ),
}


def chapters() -> list[str]:
    """Names of the chapters in reading order."""
    return sorted(path.stem for path in (repository() / "notebooks").glob("[0-9]*.ipynb"))


def chapter_key(
    name: str, profile: Profile, notebook: dict | None = None, *, tables: str | None = "fresh"
) -> str:
    """What a chapter's outputs depend on: its code, the profile, the data and the versions.

    tables : of `READS`: "fresh", as the chapter finds them; "recorded", those in data/results; or
        None to leave them out
    """
    notebook = notebook or read_notebook(repository() / "notebooks" / f"{name}.ipynb")
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    code = [text for cell in cells if (text := without_imports(cell))]
    if name in UNTRAINED:
        own = profile.chapters.get(name)
        return digest({"code": code, "own": own, "versions": [versions.MODEL, versions.SPEED]})
    return digest(
        {
            "code": code,
            "profile": {
                "model": profile.model,
                "training": profile.training,
                "variants": profile.variants,
                "regions": profile.regions,
                "own": profile.chapters.get(name),
            },
            "data": {d: dataset_checksum(profile, d) for d in profile.datasets},
            "versions": [versions.DATA, versions.MODEL, versions.TRAINING, versions.SCORING],
            **({"estimation": versions.ESTIMATION} if name in ESTIMATING else {}),
            **_tables_read(name, profile, tables),
            **_read_beside(profile.chapters.get(name, {})),
        }
    )


def without_imports(code: str) -> str:
    """The code of a cell without import statements and blank lines.

    Where a name comes from changes no result: a module may be moved without staling hours of runs.
    """
    imported: set[int] = set()
    for node in ast.parse(code).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported.update(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(code.splitlines(), 1)
    return "\n".join(text for number, text in lines if number not in imported and text.strip())


def _tables_read(name: str, profile: Profile, tables: str | None) -> dict[str, Any]:
    if name not in READS or tables is None:
        return {}
    recorded = tables == "recorded"
    paths = [find_table(profile.name, t, recorded=recorded) for t in READS[name]]
    return {"read": [path and digest(read_checked(path)) for path in paths]}


def _read_beside(settings: dict[str, Any]) -> dict[str, Any]:
    """Checksums of what a chapter reads beside the data sets: `sources` and `tables` of its own."""
    found = {}
    if "sources" in settings:
        found["sources"] = checksum_of(settings["sources"])
    if "tables" in settings:
        folder = repository() / "data"
        found["tables"] = [digest((folder / t).read_text()) for t in settings["tables"]]
    return found


def read_notebook(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Chapter:
    """What a notebook gets from `open_chapter`.

    run : the name of the run (`tism.study.networks.Run`) that the training chapter trains, if any
    """

    name: str
    profile: Profile
    run: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The profile's settings for this chapter."""
        return self.profile.chapters.get(self.name, {})

    @property
    def folder(self) -> Path:
        """Where its tables and figures go: results/<profile>, or the folder of its run."""
        if self.run is None:
            return results_folder(self.profile.name)
        return find_run(self.profile, self.run).folder

    def experiment(self, dataset: str | None = None, **settings: Any) -> Experiment:
        """A network of this profile, by default the baseline on the profile's first data set.

        Raises ValueError where the chapter trains a run and the settings are not those of the run.
        """
        network = Experiment(self.profile, dataset or self.profile.datasets[0], **settings)
        if self.run is None:
            return network
        own = find_run(self.profile, self.run).network
        for name in ("dataset", "variant", "seed"):
            wanted, found = getattr(own, name), getattr(network, name)
            if wanted != found:
                raise ValueError(f"run {self.run} has {name}={wanted!r}, got {found!r}")
        return own

    def save_table(self, table: Any, name: str) -> None:
        """Write a pandas table to `folder`/<name>.csv, with where it came from."""
        write_table(self.folder / f"{name}.csv", table)
        self._note_provenance(f"{name}.csv")

    def save_figure(self, figure: Any, name: str) -> None:
        """Write a figure to `folder`/<name>.png, with where it came from, and close it."""
        from matplotlib import pyplot

        with replacing(self.folder / f"{name}.png") as temporary:
            figure.savefig(temporary, metadata={"Software": None})
        pyplot.close(figure)
        self._note_provenance(f"{name}.png")

    def _note_provenance(self, file: str) -> None:
        note_provenance(
            self.folder, file, self.name, chapter_key(self.name, self.profile), self.profile
        )


def note_provenance(folder: Path, file: str, maker: str, key: str, profile: Profile) -> None:
    """Add to a folder's provenance.json where a file in it came from.

    maker : a chapter, or "robustness" or "explorer" for the tables of that module
    """
    record = folder / "provenance.json"
    with FileLock(f"{record}.lock"):
        entries = read_json(record) if record.exists() else {}
        entries[file] = {
            "chapter": maker,
            "key": key,
            "data": {d: dataset_checksum(profile, d) for d in profile.datasets},
            **_provenance(),
        }
        write_checked(record, json.dumps(entries, indent=1, sort_keys=True) + "\n")


def paper_numbers() -> dict[str, float]:
    """The numbers of `data/paper_numbers.csv` by their id."""
    with (repository() / "data" / "paper_numbers.csv").open(newline="", encoding="utf-8") as file:
        return {row["id"]: float(row["value"]) for row in csv.DictReader(file)}


def _provenance() -> dict[str, Any]:
    return {
        "versions": {
            name.lower(): getattr(versions, name) for name in vars(versions) if name.isupper()
        },
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def open_chapter(name: str, **parameters: Any) -> Chapter:
    """Begin a chapter: refuse parameters it does not have, fix seeds, set up the figures.

    parameters : every parameter of the chapter by name, `profile` among them. A parameter that
        papermill injected under another name is found in the notebook and refused.
    """
    _refuse_unknown(name, parameters)
    torch.manual_seed(0)
    from tism.study.plots import use_book_style

    use_book_style()
    return Chapter(name, load_profile(parameters["profile"]), parameters.get("run"))


def _refuse_unknown(chapter: str, parameters: dict[str, Any]) -> None:
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is None:
        return
    injected = [cell for cell in shell.user_ns["In"] if cell.startswith("# Parameters")]
    assigned = [
        target.id
        for cell in injected
        for statement in ast.parse(cell).body
        for target in getattr(statement, "targets", [])
    ]
    unknown = sorted(set(assigned) - set(parameters))
    if unknown:
        raise ValueError(
            f"chapter {chapter} has no parameter {', '.join(unknown)}; "
            f"its parameters are {', '.join(parameters)}"
        )
