"""Runs chapters, keeps their records and tells when a record no longer belongs to its source.

python -m tism.compendium run PROFILE [CHAPTER ...]    execute into results/PROFILE
python -m tism.compendium book PROFILE                 build the book of results/PROFILE
python -m tism.compendium record PROFILE [CHAPTER ...] execute and refresh what is committed
python -m tism.compendium stale                        list the records that are stale
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

from tism import versions
from tism.checkpoint import replacing, write_text
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
    work_folder,
)

RECORDED_PROFILE = "yeast"
TRAINING_CHAPTER = "03_train_model"


def chapters() -> list[str]:
    """Names of the chapters in reading order."""
    return sorted(path.stem for path in (repository() / "notebooks").glob("[0-9]*.ipynb"))


def chapter_key(name: str, profile: Profile, notebook: dict | None = None) -> str:
    """What a chapter's outputs depend on: its code, the profile, the data and the versions."""
    notebook = notebook or _read_notebook(repository() / "notebooks" / f"{name}.ipynb")
    code = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
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
            **_read_beside(profile.chapters.get(name, {})),
        }
    )


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
    """What a notebook gets from `open_chapter`."""

    name: str
    profile: Profile

    @property
    def settings(self) -> dict[str, Any]:
        """The profile's settings for this chapter."""
        return self.profile.chapters.get(self.name, {})

    def experiment(self, dataset: str | None = None, **settings: Any) -> Experiment:
        """A network of this profile, by default the baseline on the profile's first data set."""
        return Experiment(self.profile, dataset or self.profile.datasets[0], **settings)

    def save_table(self, table: Any, name: str) -> None:
        """Write a pandas table to results/<profile>/<name>.csv, with where it came from."""
        with replacing(results_folder(self.profile.name) / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
        self._note_provenance(f"{name}.csv")

    def save_figure(self, figure: Any, name: str) -> None:
        """Write a figure to results/<profile>/<name>.png, with where it came from, and close it."""
        from matplotlib import pyplot

        with replacing(results_folder(self.profile.name) / f"{name}.png") as temporary:
            figure.savefig(temporary, metadata={"Software": None})
        pyplot.close(figure)
        self._note_provenance(f"{name}.png")

    def _note_provenance(self, file: str) -> None:
        path = results_folder(self.profile.name) / "provenance.json"
        entries = json.loads(path.read_text()) if path.exists() else {}
        entries[file] = {
            "chapter": self.name,
            "key": chapter_key(self.name, self.profile),
            "data": {d: dataset_checksum(self.profile, d) for d in self.profile.datasets},
            **_provenance(),
        }
        write_text(path, json.dumps(entries, indent=1, sort_keys=True) + "\n")


def paper_numbers() -> dict[str, float]:
    """The numbers of `data/paper_numbers.csv` by their id."""
    with (repository() / "data" / "paper_numbers.csv").open(newline="", encoding="utf-8") as file:
        return {row["id"]: float(row["value"]) for row in csv.DictReader(file)}


def results_folder(profile: str) -> Path:
    """Where fresh tables and executed chapters go: below TISM_RESULTS_DIR, by default `results`."""
    base = os.environ.get("TISM_RESULTS_DIR")
    return (Path(base) if base else repository() / "results") / profile


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
    return Chapter(name, load_profile(parameters["profile"]))


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

    A failed run leaves an earlier result as it was and raises papermill's error.
    """
    import papermill

    if name not in chapters():
        raise ValueError(f"chapter must be one of {', '.join(chapters())}; got {name!r}")
    settings = load_profile(profile)
    source = repository() / "notebooks" / f"{name}.ipynb"
    target = results_folder(profile) / "notebooks" / f"{name}.ipynb"
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
        write_text(temporary, json.dumps(executed, indent=1, ensure_ascii=False) + "\n")
    return target


def run_all_of_chapter(name: str, profile: str) -> Path:
    """Execute a chapter; the one that trains, once for each data set, the chapters' own last."""
    if name == TRAINING_CHAPTER:
        for dataset in load_profile(profile).datasets[1:]:
            run_chapter(name, profile, dataset=dataset)
    return run_chapter(name, profile)


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
    _record_tables(name, profile)


def _record_tables(chapter: str, profile: str) -> None:
    fresh, recorded = results_folder(profile), repository() / "data" / "results" / profile
    shared = recorded.parent  # of tables named external/..., which are no profile's own
    provenance = fresh / "provenance.json"
    if not provenance.exists():
        return
    entries = json.loads(provenance.read_text())
    path = recorded / "provenance.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept = {k: v for k, v in kept.items() if v["chapter"] != chapter}
    for name, entry in entries.items():
        if entry["chapter"] == chapter:
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
            name, load_profile(made["profile"]), notebook
        ):
            stale.append(f"notebooks/{name}.ipynb")
    for path in sorted((repository() / "data" / "results").glob("*/provenance.json")):
        profile = load_profile(path.parent.name)
        for table, entry in json.loads(path.read_text()).items():
            if entry["key"] != chapter_key(entry["chapter"], profile):
                stale.append(f"data/results/{profile.name}/{table}")
    return stale


def stage_book(profile: str) -> Path:
    """Copy the book's sources with this profile's executed chapters into results/<profile>/book."""
    root, target = repository(), results_folder(profile) / "book"
    shutil.rmtree(target, ignore_errors=True)
    for name in ("book", "data", "notebooks", "tism"):
        ignored = shutil.ignore_patterns("raw", "cache", "checkpoints", "__pycache__")
        shutil.copytree(root / name, target / name, ignore=ignored)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copyfile(root / name, target / name)
    for path in (results_folder(profile) / "notebooks").glob("*.ipynb"):
        shutil.copyfile(path, target / "notebooks" / path.name)
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
    commands.add_parser("stale")
    options = parser.parse_args(arguments)
    os.environ.setdefault("PYTHONHASHSEED", "0")
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    if options.command == "stale":
        print("\n".join(stale_records()) or "every record belongs to its source")
    elif options.command == "book":
        page = build_book(stage_book(options.profile)) / "index.html"
        print(f"open {page.relative_to(Path.cwd()) if page.is_relative_to(Path.cwd()) else page}")
    else:
        if options.command == "record":
            record_networks(options.profile)
        for name in options.chapter or chapters():
            print(f"{options.profile}: {name}", flush=True)
            run_all_of_chapter(name, options.profile)
            if options.command == "record":
                record_chapter(name, options.profile)


if __name__ == "__main__":
    main()
