"""Runs chapters, keeps their records and tells when a record no longer belongs to its source.

python -m tism.study.compendium run PROFILE [CHAPTER ...]    execute into results/PROFILE
python -m tism.study.compendium book PROFILE                 build the book of results/PROFILE
python -m tism.study.compendium record PROFILE [CHAPTER ...] execute and refresh what is committed
python -m tism.study.compendium stale                        list the records that are stale
python -m tism.study.compendium runs PROFILE                 list the networks of a profile
python -m tism.study.compendium train PROFILE RUN            train one of them: a run of chapter 03
python -m tism.study.compendium model PROFILE RUN            score one of them, once it is trained
python -m tism.study.compendium summarise PROFILE            write models.csv of the scored ones
python -m tism.study.compendium initialisations PROFILE      write initialisations.csv
python -m tism.study.compendium explorer PROFILE             write the tables of the explorer
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from tism.score.files import replacing, write_text
from tism.study import ch05_runs, explorer
from tism.study.cache import read_checked, read_json
from tism.study.networks import Experiment, committed_network, find_run, list_runs, tables_key
from tism.study.profiles import (
    Profile,
    load_profile,
    profile_names,
    repository,
    results_folder,
    work_folder,
)
from tism.study.records import (
    EXPLORER,
    READS,
    RECORDED_PROFILE,
    ROBUSTNESS,
    TRAINING_CHAPTER,
    chapter_key,
    chapters,
    note_provenance,
    read_notebook,
)


def record_key(maker: str, profile: Profile, *, tables: str | None = "fresh") -> str:
    """What the tables of a maker (see `note_provenance`) depend on; see `chapter_key`."""
    if maker == ROBUSTNESS:
        return tables_key(profile)
    if maker == EXPLORER:
        return explorer.explorer_key(profile)
    return chapter_key(maker, profile, tables=tables)


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
        target = find_run(settings, parameters["run"]).folder / "training.ipynb"
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
        executed = read_notebook(temporary)
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
    """Train a run of `tism.study.ch05_runs` by executing the training chapter for it."""
    network = find_run(load_profile(profile), name).network
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
    executed = read_notebook(results_folder(profile) / "notebooks" / f"{name}.ipynb")
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
        notebook = read_notebook(repository() / "notebooks" / f"{name}.ipynb")
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
    parser = argparse.ArgumentParser(prog="python -m tism.study.compendium", description=__doc__)
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
    """The commands about the networks of `tism.study.ch05_runs`."""
    profile, progress = load_profile(options.profile), sys.stderr.isatty()
    ch05_runs.check_tables(profile)
    match options.command:
        case "runs":
            print("\n".join(run.name for run in list_runs(profile)))
        case "train":
            train_run(options.run, profile.name)
        case "model":
            ch05_runs.score_run(find_run(profile, options.run), progress=progress)
        case "summarise":
            _note_table(ch05_runs.write_models(profile), profile)
        case "explorer":
            _write_explorer(profile)
        case "initialisations":
            _note_table(ch05_runs.write_initialisations(profile, progress=progress), profile)


def _write_explorer(profile: Profile) -> None:
    for path in explorer.write_explorer(profile, progress=sys.stderr.isatty()):
        note_provenance(path.parent, path.name, EXPLORER, record_key(EXPLORER, profile), profile)


def _note_table(path: Path, profile: Profile) -> None:
    note_provenance(path.parent, path.name, ROBUSTNESS, record_key(ROBUSTNESS, profile), profile)


if __name__ == "__main__":
    main()
