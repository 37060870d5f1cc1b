"""What a chapter's outputs depend on (its key), what it opens, and the tables that it writes."""

from __future__ import annotations

import ast
import csv
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock

from tism import versions
from tism.score.files import known_sha256, replacing, write_text
from tism.study.cache import read_json, write_csv
from tism.study.data.download import checksum_of, data_root
from tism.study.networks import Experiment, find_run, tables_key
from tism.study.profiles import (
    Profile,
    dataset_checksum,
    digest,
    load_profile,
    machine_identity,
    repository,
    results_folder,
)

MODELS, INITIALISATIONS = "models.csv", "initialisations.csv"
RECORDED_PROFILE = "yeast"
UNTRAINED = frozenset({"06_runtime"})  # needs neither data nor trained networks
ESTIMATING = frozenset({"07_beyond_first_order", "08_measured_mutagenesis"})
TRAINING_CHAPTER = "03_train_model"
SCORING_CHAPTER = "04_ism_vs_tism"  # writes the scores of the baselines into the cache
ROBUSTNESS_CHAPTER = "05_robustness"
ROBUSTNESS, EXPLORER = "robustness", "explorer"
EXAMPLES = "example_maps.csv"
BY_NETWORK = "evidence/by_network.csv"  # numbers of single networks that chapters measure
READS = {  # chapters about many networks, and the tables that they read and others write
    ROBUSTNESS_CHAPTER: (MODELS, INITIALISATIONS, EXAMPLES),
    "10_scorecard": (
        MODELS, INITIALISATIONS, "figure_1_networks.csv", "runtime.csv",
        "external/concordance.csv", BY_NETWORK,
    ),
}  # fmt: skip

FILES = {  # tables in `data` that a chapter reads beside its data sets
    "03_train_model": ("schedule_trials.csv", "paper_numbers.csv"),
    "04_ism_vs_tism": ("paper_numbers.csv",),
    "05_robustness": ("claims.csv", "paper_numbers.csv"),
    "06_runtime": (
        "paper_numbers.csv", "authors_timings.csv", "results/long_sequences.csv",
        "results/gpu/runtime.csv",
    ),
    "07_beyond_first_order": ("calibration.csv", "motifs.csv", "motifs_yeast.csv"),
    "08_measured_mutagenesis": (
        "kircher_tasks.csv", "paper_numbers.csv", "polyadenylation_signals.csv",
    ),
    "09_your_own_model": ("motifs.csv", "motifs_yeast.csv"),
    "10_scorecard": ("claims.csv", "paper_numbers.csv"),
}  # fmt: skip


def find_table(profile: str, name: str, *, recorded: bool = False) -> Path | None:
    """The table in results/<profile>, else the committed one in data/results, or None.

    name : "models.csv" is one of the profile; with a folder, as in "external/concordance.csv", it
        belongs to no profile
    recorded : look for the committed table only
    """
    committed = data_root() / "results"
    if "/" not in name:
        committed /= profile
    folders = [committed] if recorded else [results_folder(profile), committed]
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def chapters() -> list[str]:
    """Names of the chapters in reading order."""
    return sorted(path.stem for path in (repository() / "notebooks").glob("[0-9]*.ipynb"))


def chapter_key(
    name: str, profile: Profile, notebook: dict | None = None, *, tables: str | None = "fresh"
) -> str:
    """Digest of all that a chapter's outputs depend on: code, settings, data and versions.

    notebook : content of the chapter; read from `notebooks` by default
    tables : which of the tables in `READS` count: "fresh" for those that the chapter finds,
        "recorded" for the committed ones, None for none
    """
    notebook = notebook or read_json(repository() / "notebooks" / f"{name}.ipynb")
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    code = [text for cell in cells if (text := without_imports(cell))]
    settings = profile.chapters.get(name, {})
    held = {"code": code, "own": settings, "files": _files_read(name, settings)}
    if name in UNTRAINED:
        return digest({**held, "versions": [versions.MODEL, versions.SPEED]})
    return digest(
        {
            **held,
            **networks_identity(profile),
            **({"estimation": versions.ESTIMATION} if name in ESTIMATING else {}),
            **_runs_and_tables(name, profile, tables),
            **_other_networks(settings),
        }
    )


def _other_networks(settings: dict[str, Any]) -> dict[str, Any]:
    """Identity of the networks of another profile that a chapter's settings name."""
    name = settings.get("initialisations", settings).get("profile")
    if name is None:
        return {}
    other = load_profile(name)
    return {"others": [networks_identity(other), other.regions_a_model]}


def networks_identity(profile: Profile) -> dict[str, Any]:
    """What the networks of a profile and their scores depend on."""
    return {
        "datasets": profile.datasets,  # the chapters are about the first
        "model": profile.model,
        "training": profile.training,
        "variants": profile.variants,
        "regions": profile.regions,
        "data": {d: dataset_checksum(profile, d) for d in profile.datasets},
        "versions": [versions.DATA, versions.MODEL, versions.TRAINING, versions.SCORING],
        **machine_identity(profile),
    }


def without_imports(code: str) -> str:
    """The code of a cell without import statements and blank lines.

    A module may be moved without making hours of results stale.
    """
    imported: set[int] = set()
    for node in ast.parse(code).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported.update(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(code.splitlines(), 1)
    return "\n".join(text for number, text in lines if number not in imported and text.strip())


def networks_of(name: str, profile: Profile) -> Profile:
    """The profile whose networks a chapter is about: one that its settings name, or its own."""
    other = profile.chapters.get(name, {}).get("profile")
    return load_profile(other) if other else profile


def _runs_and_tables(name: str, profile: Profile, tables: str | None) -> dict[str, Any]:
    """The runs that are planned and the tables that are read by a chapter about many networks."""
    if name not in READS:
        return {}
    about = {p.name: p for p in (profile, networks_of(name, profile))}
    runs = {"runs": [tables_key(p) for p in about.values()]}
    if tables is None:
        return runs
    recorded = tables == "recorded"
    paths = [find_table(p, table, recorded=recorded) for p in about for table in READS[name]]
    return runs | {"read": [path and digest(path.read_text(encoding="utf-8")) for path in paths]}


def _files_read(name: str, settings: dict[str, Any]) -> dict[str, str | None]:
    """Checksums of a chapter's `FILES`, and of the `sources` that its settings name."""
    found = {file: _sha256(data_root() / file) for file in FILES.get(name, ())}
    if "sources" in settings:
        found["sources"] = checksum_of(settings["sources"])
    return found


def _sha256(path: Path) -> str | None:
    return known_sha256(path) if path.exists() else None


@dataclass(frozen=True)
class Chapter:
    """A chapter at one profile, as `open_chapter` returns it.

    run : name of the `tism.study.networks.Run` that the chapter trains; None for the other chapters
    """

    name: str
    profile: Profile
    run: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The profile's settings for this chapter."""
        return self.profile.chapters.get(self.name, {})

    @property
    def networks(self) -> Profile:
        """The profile whose networks the chapter is about (`networks_of`)."""
        return networks_of(self.name, self.profile)

    @property
    def folder(self) -> Path:
        """The folder of its tables and figures: results/<profile>, or the folder of its run."""
        if self.run is None:
            return results_folder(self.profile.name)
        return find_run(self.profile, self.run).folder

    def experiment(self, dataset: str | None = None, **settings: Any) -> Experiment:
        """A network of this profile, by default the baseline on the profile's first data set.

        Raises ValueError if the chapter trains a run of other settings.
        """
        network = Experiment(self.profile, dataset or self.profile.datasets[0], **settings)
        if self.run is None:
            return network
        of_run = find_run(self.profile, self.run).network
        for name in ("dataset", "variant", "seed"):
            wanted, got = getattr(of_run, name), getattr(network, name)
            if wanted != got:
                raise ValueError(f"run {self.run} has {name}={wanted!r}, got {got!r}")
        return of_run

    def save_table(self, table: pd.DataFrame, name: str) -> None:
        """Write a table to `folder`/<name>.csv and note its provenance."""
        write_csv(self.folder / f"{name}.csv", table)
        self._note_provenance(f"{name}.csv")

    def save_figure(self, figure: Any, name: str) -> None:
        """Write a Matplotlib figure to `folder`/<name>.png, note its provenance, and close it."""
        from matplotlib import pyplot

        with replacing(self.folder / f"{name}.png") as temporary:
            figure.savefig(temporary, metadata={"Software": None})
        pyplot.close(figure)
        self._note_provenance(f"{name}.png")

    def _note_provenance(self, file: str) -> None:
        key = chapter_key(self.name, self.profile)
        note_provenance(self.folder, file, self.name, key, self.profile)


def note_provenance(folder: Path, file: str, maker: str, key: str, profile: Profile) -> None:
    """Note in a folder's provenance.json what made a file of it: maker, key, data and versions.

    maker : a chapter, `ROBUSTNESS` for the tables of networks, or `EXPLORER`
    """
    record = folder / "provenance.json"
    with FileLock(f"{record}.lock"):
        entries = read_json(record) if record.exists() else {}
        entries[file] = {
            "chapter": maker,
            "key": key,
            "data": {d: dataset_checksum(profile, d) for d in profile.datasets},
            **provenance(),
        }
        write_text(record, json.dumps(entries, indent=1, sort_keys=True) + "\n")


def paper_numbers() -> dict[str, float]:
    """The numbers of `data/paper_numbers.csv` by their id."""
    with (repository() / "data" / "paper_numbers.csv").open(newline="", encoding="utf-8") as file:
        return {row["id"]: float(row["value"]) for row in csv.DictReader(file)}


def provenance() -> dict[str, Any]:
    """Versions and device, by which a number can be traced."""
    return {
        "versions": {k.lower(): v for k, v in vars(versions).items() if k.isupper()},
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def open_chapter(name: str, **parameters: Any) -> Chapter:
    """Begin a chapter: refuse unknown parameters, fix the seed, set up the figures.

    parameters : every parameter of the chapter by name, `profile` among them. ValueError if
        papermill injected one of another name.
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
    assigned = {
        target.id
        for cell in shell.user_ns["In"]
        if cell.startswith("# Parameters")  # papermill's
        for statement in ast.parse(cell).body
        for target in getattr(statement, "targets", [])
    }
    if unknown := sorted(assigned - set(parameters)):
        raise ValueError(
            f"chapter {chapter} has no parameter {', '.join(unknown)}; "
            f"its parameters are {', '.join(parameters)}"
        )
