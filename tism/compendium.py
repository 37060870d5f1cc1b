"""Runs chapters, keeps their records and tells when a record no longer belongs to its source.

python -m tism.compendium run PROFILE [CHAPTER ...]    execute into results/PROFILE
python -m tism.compendium book PROFILE                 build the book of results/PROFILE
python -m tism.compendium record PROFILE [CHAPTER ...] execute and refresh what is committed
python -m tism.compendium stale                        list the records that are stale
python -m tism.compendium runs PROFILE                 list the networks of tism.robustness
python -m tism.compendium train PROFILE RUN            train one of them: a run of chapter 03
python -m tism.compendium model PROFILE RUN            score one of them, trained where it is not
python -m tism.compendium summarise PROFILE            write models.csv of those that are scored
python -m tism.compendium initialisations PROFILE      write initialisations.csv
python -m tism.compendium explorer PROFILE             write the tables of tism.explorer
"""

from __future__ import annotations

import argparse
import ast
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from tism import explorer, robustness, versions
from tism.checkpoint import read_checked, read_json, replacing, write_checked, write_text
from tism.data.download import checksum_of
from tism.experiment import (
    Experiment,
    Profile,
    committed_network,
    dataset_checksum,
    digest,
    load_profile,
    profile_names,
    repository,
    results_folder,
    work_folder,
    write_table,
)

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
    notebook = notebook or _read_notebook(repository() / "notebooks" / f"{name}.ipynb")
    code = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
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


def _tables_read(name: str, profile: Profile, tables: str | None) -> dict[str, Any]:
    if name not in READS or tables is None:
        return {}
    recorded = tables == "recorded"
    paths = [robustness.find_table(profile.name, t, recorded=recorded) for t in READS[name]]
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


def _read_notebook(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Chapter:
    """What a notebook gets from `open_chapter`.

    run : the name of the run (`tism.robustness.Run`) that the training chapter trains, if it is one
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
        return robustness.find_run(self.profile, self.run).folder

    def experiment(self, dataset: str | None = None, **settings: Any) -> Experiment:
        """A network of this profile, by default the baseline on the profile's first data set.

        Raises ValueError where the chapter trains a run and the settings are not those of the run.
        """
        network = Experiment(self.profile, dataset or self.profile.datasets[0], **settings)
        if self.run is None:
            return network
        own = robustness.find_run(self.profile, self.run).network
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
        note_provenance(self.folder, file, self.name, self.profile)


def note_provenance(folder: Path, file: str, maker: str, profile: Profile) -> None:
    """Add to a folder's provenance.json where a file in it came from.

    maker : a chapter, or "robustness" or "explorer" for the tables of that module
    """
    record = folder / "provenance.json"
    with FileLock(f"{record}.lock"):
        entries = read_json(record) if record.exists() else {}
        entries[file] = {
            "chapter": maker,
            "key": record_key(maker, profile),
            "data": {d: dataset_checksum(profile, d) for d in profile.datasets},
            **_provenance(),
        }
        write_checked(record, json.dumps(entries, indent=1, sort_keys=True) + "\n")


def record_key(maker: str, profile: Profile, *, tables: str | None = "fresh") -> str:
    """What the tables of a maker (see `note_provenance`) depend on; see `chapter_key`."""
    if maker == ROBUSTNESS:
        return robustness.tables_key(profile)
    if maker == EXPLORER:
        return explorer.explorer_key(profile)
    return chapter_key(maker, profile, tables=tables)


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
    from tism.plotting import use_book_style

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


def run_chapter(name: str, profile: str, **parameters: Any) -> Path:
    """Execute one chapter into results/<profile>/notebooks and return that file.

    parameters : of the chapter; with `run` the file is training.ipynb in the folder of that run

    A failed run leaves an earlier result as it was and raises papermill's error.
    """
    import papermill

    if name not in chapters():
        raise ValueError(f"chapter must be one of {', '.join(chapters())}; got {name!r}")
    settings = load_profile(profile)
    source = repository() / "notebooks" / f"{name}.ipynb"
    target = results_folder(profile) / "notebooks" / f"{name}.ipynb"
    if "run" in parameters:
        target = robustness.find_run(settings, parameters["run"]).folder / "training.ipynb"
    key = chapter_key(name, settings)
    with replacing(target) as temporary:
        papermill.execute_notebook(
            source,
            temporary,
            parameters={"profile": profile, **parameters},
            cwd=repository(),
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # it warns of TCP at every start
            progress_bar=sys.stderr.isatty(),
            log_output=False,
        )
        executed = _read_notebook(temporary)
        clean_notebook(executed)
        executed["metadata"]["tism"] = {"profile": profile, "key": key}
        text = json.dumps(executed, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")
    return target


def run_all_of_chapter(name: str, profile: str) -> Path:
    """Execute a chapter; the one that trains, once for each data set, the chapters' own last."""
    if name == TRAINING_CHAPTER:
        for dataset in load_profile(profile).datasets[1:]:
            run_chapter(name, profile, dataset=dataset)
    return run_chapter(name, profile)


def train_run(name: str, profile: str) -> Path:
    """Train a run of `tism.robustness` by executing the training chapter for it."""
    network = robustness.find_run(load_profile(profile), name).network
    settings = {"dataset": network.dataset, "variant": network.variant, "seed": network.seed}
    return run_chapter(TRAINING_CHAPTER, profile, run=name, **settings)


def clean_notebook(notebook: dict) -> None:
    """Drop what differs from run to run or names this machine: timings, notes, stderr."""
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook["cells"]):
        metadata = cell.get("metadata", {})
        cell["metadata"] = {key: metadata[key] for key in ("tags", "mystnb") if metadata.get(key)}
        cell["id"] = f"cell-{number}"
        if "injected-parameters" in metadata.get("tags", []):
            cell["metadata"]["tags"] = ["injected-parameters", "remove-input"]
        if cell["cell_type"] == "code":
            cell["outputs"] = [o for o in cell["outputs"] if o.get("name") != "stderr"]
            for output in cell["outputs"]:
                output.get("metadata", {}).pop("papermill", None)


def record_chapter(name: str, profile: str) -> None:
    """Copy an executed chapter's outputs into its source, and its tables into `data/results`."""
    executed = _read_notebook(results_folder(profile) / "notebooks" / f"{name}.ipynb")
    executed["cells"] = [
        cell
        for cell in executed["cells"]
        if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]
    for number, cell in enumerate(executed["cells"]):
        cell["id"] = f"cell-{number}"
    key = chapter_key(name, load_profile(profile))
    if chapter_key(name, load_profile(profile), executed) != key:
        raise ValueError(f"{name} was edited after it was run: run it again, then record it")
    path = repository() / "notebooks" / f"{name}.ipynb"
    write_text(path, json.dumps(executed, indent=1, ensure_ascii=False) + "\n")
    if name in READS:
        _record_tables(ROBUSTNESS, profile)
    _record_tables(name, profile)


def _record_tables(chapter: str, profile: str) -> None:
    fresh, recorded = results_folder(profile), repository() / "data" / "results" / profile
    shared = recorded.parent  # of tables named external/..., which are no profile's own
    provenance = fresh / "provenance.json"
    if not provenance.exists():
        return
    entries = read_json(provenance)
    path = recorded / "provenance.json"
    kept = read_json(path) if path.exists() else {}
    kept = {k: v for k, v in kept.items() if v["chapter"] != chapter}
    for name, entry in entries.items():
        if entry["chapter"] == chapter:
            if name.endswith(".csv"):
                read_checked(fresh / name)  # what was damaged meanwhile is not recorded
            with replacing((shared if "/" in name else recorded) / name) as temporary:
                shutil.copyfile(fresh / name, temporary)
            kept[name] = entry
    write_text(path, json.dumps(kept, indent=1, sort_keys=True) + "\n")


def record_networks(profile: str) -> None:
    """Copy the trained baseline of every data set into `data/models`, weights before their JSON."""
    settings = load_profile(profile)
    for dataset in settings.datasets:
        experiment = Experiment(settings, dataset)
        experiment.trained()
        source = work_folder("checkpoints") / experiment.name
        for ending in (".safetensors", ".json"):
            if (source / f"model{ending}").exists():
                with replacing(committed_network(experiment).with_suffix(ending)) as temporary:
                    shutil.copyfile(source / f"model{ending}", temporary)


def stale_records() -> list[str]:
    """What is committed but no longer belongs to its source: chapters, then tables."""
    stale = []
    for name in chapters():
        notebook = _read_notebook(repository() / "notebooks" / f"{name}.ipynb")
        made = notebook["metadata"].get("tism")
        if made is None or made["key"] != chapter_key(
            name, load_profile(made["profile"]), notebook, tables="recorded"
        ):
            stale.append(f"notebooks/{name}.ipynb")
    for path in sorted((repository() / "data" / "results").glob("*/provenance.json")):
        profile = load_profile(path.parent.name)
        for table, entry in json.loads(path.read_text()).items():
            if entry["key"] != record_key(entry["chapter"], profile, tables="recorded"):
                stale.append(f"data/results/{profile.name}/{table}")
    return stale


def stage_book(profile: str) -> Path:
    """Copy the book's sources into results/<profile>/book, with what was made at this profile.

    Its chapters and the tables of its explorer take the place of the recorded ones.
    """
    root, target = repository(), results_folder(profile) / "book"
    shutil.rmtree(target, ignore_errors=True)
    for name in ("book", "data", "notebooks", "tism"):
        ignored = shutil.ignore_patterns("raw", "cache", "checkpoints", "__pycache__", ".*")
        shutil.copytree(root / name, target / name, ignore=ignored)
    for name in ("_config.yml", "_toc.yml", "CITATION.cff"):
        shutil.copyfile(root / name, target / name)
    for name in chapters():
        path = results_folder(profile) / "notebooks" / f"{name}.ipynb"
        if path.exists():
            shutil.copyfile(path, target / "notebooks" / path.name)
    fresh = [results_folder(profile) / name for name in explorer.TABLES]
    if all(path.exists() for path in fresh):
        for path in fresh:
            shutil.copyfile(path, target / "data" / "results" / RECORDED_PROFILE / path.name)
    return target


def build_book(source: Path) -> Path:
    """Build a book strictly (every warning is an error) and return the folder of its pages."""
    program = Path(sysconfig.get_path("scripts")) / "jupyter-book"
    options = ["--all", "-W", "-n", "--keep-going"]
    subprocess.run([program, "build", source, *options], check=True)
    return source / "_build" / "html"


def main(arguments: list[str] | None = None) -> None:
    """The command line described at the top of this module."""
    parser = argparse.ArgumentParser(prog="python -m tism.compendium", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("run", "record", "book"):
        sub = commands.add_parser(command)
        sub.add_argument("profile", choices=profile_names())
        if command != "book":
            sub.add_argument("chapter", nargs="*", choices=[*chapters(), []])
        if command == "record":
            sub.add_argument("--executed", action="store_true", help="record what is in results")
    commands.add_parser("stale")
    for command in ("runs", "train", "model", "summarise", "initialisations", "explorer"):
        sub = commands.add_parser(command)
        sub.add_argument("profile", choices=profile_names())
        if command in ("train", "model"):
            sub.add_argument("run")
    options = parser.parse_args(arguments)
    os.environ.setdefault("PYTHONHASHSEED", "0")
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    if options.command == "stale":
        print("\n".join(stale_records()) or "every record belongs to its source")
    elif options.command == "book":
        page = build_book(stage_book(options.profile)) / "index.html"
        print(f"open {page.relative_to(Path.cwd()) if page.is_relative_to(Path.cwd()) else page}")
    elif options.command not in ("run", "record"):
        _run_models(options)
    else:
        if options.command == "record":
            record_networks(options.profile)
        for name in options.chapter or chapters():
            print(f"{options.profile}: {name}", flush=True)
            if not getattr(options, "executed", False):
                run_all_of_chapter(name, options.profile)
            if options.command == "record":
                record_chapter(name, options.profile)
        if not options.chapter:
            _finish_profile(options)


def _finish_profile(options: argparse.Namespace) -> None:
    """What belongs to no chapter, after all of them."""
    if not getattr(options, "executed", False):
        _write_explorer(load_profile(options.profile))
    if options.command == "record":
        for maker in (ROBUSTNESS, EXPLORER):
            _record_tables(maker, options.profile)


def _run_models(options: argparse.Namespace) -> None:
    """The commands about the networks of `tism.robustness`."""
    profile, progress = load_profile(options.profile), sys.stderr.isatty()
    robustness.check_tables(profile)
    match options.command:
        case "runs":
            print("\n".join(run.name for run in robustness.list_runs(profile)))
        case "train":
            train_run(options.run, profile.name)
        case "model":
            robustness.score_run(robustness.find_run(profile, options.run), progress=progress)
        case "summarise":
            _note_table(robustness.write_models(profile), profile)
        case "explorer":
            _write_explorer(profile)
        case "initialisations":
            _note_table(robustness.write_initialisations(profile, progress=progress), profile)


def _write_explorer(profile: Profile) -> None:
    for path in explorer.write_explorer(profile, progress=sys.stderr.isatty()):
        note_provenance(path.parent, path.name, EXPLORER, profile)


def _note_table(path: Path, profile: Profile) -> None:
    note_provenance(path.parent, path.name, ROBUSTNESS, profile)


if __name__ == "__main__":
    main()
