"""Executes chapters, records their outputs, and finds records whose source has changed.

Use it as ``python -m tism.study.compendium COMMAND``, where COMMAND is one of::

    run PROFILE [CHAPTER ...]     execute chapters, by default all, into results/PROFILE
    record PROFILE [CHAPTER ...]  execute chapters, copy outputs and tables into the repository
    book PROFILE                  build the book from results/PROFILE
    stale                         list committed records that no longer belong to their source
    runs PROFILE                  list the trainings of a profile
    missing PROFILE               list those that models.csv lacks
    train PROFILE RUN             train one of them by executing chapter 03
    model PROFILE RUN             score one of them, trained first if need be
    summarise PROFILE             write models.csv from the networks scored so far
    initialisations PROFILE       write initialisations.csv
    explorer PROFILE              write the tables of the explorer
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from io import BytesIO
from pathlib import Path
from typing import Any

from tism.score.files import replacing, write_text
from tism.study import ch05_runs, explorer
from tism.study.cache import load_checkpoint, read_csv, read_json, save_checkpoint
from tism.study.machine import start_as
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
    networks_of,
    note_provenance,
)

RECORDED_VARIANTS = ("baseline", "relu_max")  # all seeds are recorded, of others only the first


def record_key(maker: str, profile: Profile, *, tables: str | None = "fresh") -> str:
    """Digest of all that the tables of a maker depend on; see `note_provenance`, `chapter_key`."""
    if maker == ROBUSTNESS:
        return tables_key(profile)
    if maker == EXPLORER:
        return explorer.explorer_key(profile)
    return chapter_key(maker, profile, tables=tables)


def run_chapter(name: str, profile: str, **parameters: Any) -> Path:
    """Execute a chapter into results/<profile>/notebooks and return the path of the result.

    parameters : of the chapter. With `run`, the result is training.ipynb in the folder of that run

    If the chapter fails, papermill's error is raised and an earlier result stays.
    """
    if name not in chapters():
        raise ValueError(f"chapter must be one of {', '.join(chapters())}; got {name!r}")
    settings = load_profile(profile)
    target = results_folder(profile) / "notebooks" / f"{name}.ipynb"
    if "run" in parameters:
        target = find_run(settings, parameters["run"]).folder / "training.ipynb"
    key = chapter_key(name, settings)
    with replacing(target) as temporary:
        _execute(_source(name), temporary, {"profile": profile, **parameters})
        executed = read_json(temporary)
        clean_notebook(executed)
        executed["metadata"]["tism"] = {"profile": profile, "key": key}
        temporary.write_text(_notebook_text(executed), encoding="utf-8")
    return target


def _execute(source: Path, target: Path, parameters: dict[str, Any], tries: int = 3) -> None:
    """Run a notebook by papermill, again if its kernel does not start.

    Ports of a kernel are chosen before it binds them, and another kernel that starts at the same
    time may take one.
    """
    import papermill

    try:
        papermill.execute_notebook(
            source,
            target,
            parameters=parameters,
            cwd=repository(),
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # else a warning at every start
            progress_bar=sys.stderr.isatty(),
            log_output=False,
        )
    except RuntimeError as error:
        if tries == 1 or "Kernel died before replying" not in str(error):
            raise
        _execute(source, target, parameters, tries - 1)


def _source(chapter: str) -> Path:
    return repository() / "notebooks" / f"{chapter}.ipynb"


def _notebook_text(notebook: dict[str, Any]) -> str:
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def run_for_all_datasets(name: str, profile: str) -> Path:
    """Execute a chapter; the training chapter once for each data set, the profile's first last."""
    if name == TRAINING_CHAPTER:
        for dataset in load_profile(profile).datasets[1:]:
            run_chapter(name, profile, dataset=dataset)
    return run_chapter(name, profile)


def train_run(name: str, profile: str) -> Path:
    """Train a run of the profile by executing the training chapter for it."""
    network = find_run(load_profile(profile), name).network
    settings = {"dataset": network.dataset, "variant": network.variant, "seed": network.seed}
    return run_chapter(TRAINING_CHAPTER, profile, run=name, **settings)


def clean_notebook(notebook: dict[str, Any]) -> None:
    """Remove from a notebook what differs between runs or names the machine: timings, stderr.

    Its images get a palette, which makes them a third as large.
    """
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
                if png := output.get("data", {}).get("image/png"):
                    output["data"]["image/png"] = with_palette("".join(png))


def with_palette(png: str) -> str:
    """An image in base64 with 256 colours on white; one that has a palette stays as it is."""
    from PIL import Image

    image = Image.open(BytesIO(base64.b64decode(png)))
    if image.mode == "P":
        return png
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    small = BytesIO()
    few = white.convert("RGB").quantize(
        256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE
    )
    few.save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode() + "\n"


def record_chapter(name: str, profile: str) -> None:
    """Copy an executed chapter's outputs into its source, and its tables into `data/results`.

    Raises ValueError if the source was edited after the execution.
    """
    executed = read_json(results_folder(profile) / "notebooks" / f"{name}.ipynb")
    executed["cells"] = [
        cell
        for cell in executed["cells"]
        if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]
    for number, cell in enumerate(executed["cells"]):
        cell["id"] = f"cell-{number}"
    settings = load_profile(profile)
    if chapter_key(name, settings, executed) != chapter_key(name, settings):
        raise ValueError(f"{name} was edited after it was run: run it again, then record it")
    write_text(_source(name), _notebook_text(executed))
    if name in READS:
        for about in {profile, networks_of(name, settings).name}:
            _record_tables(ROBUSTNESS, about)
    _record_tables(name, profile)


def _record_tables(maker: str, profile: str) -> None:
    """Replace the committed files of a maker and their provenance by those of results/<profile>."""
    fresh, committed = results_folder(profile), repository() / "data" / "results"
    if not (fresh / "provenance.json").exists():
        return
    made = read_json(fresh / "provenance.json")
    made = {name: entry for name, entry in made.items() if entry["chapter"] == maker}
    for name in made:
        if name.endswith(".csv"):
            read_csv(fresh / name)  # raises an error if the table is damaged
        target = committed / name if "/" in name else committed / profile / name
        with replacing(target) as temporary:
            shutil.copyfile(fresh / name, temporary)
    path = committed / profile / "provenance.json"
    entries = read_json(path) if path.exists() else {}
    kept = maker == ROBUSTNESS  # whose tables are made one by one
    others = {name: e for name, e in entries.items() if kept or e["chapter"] != maker}
    write_text(path, json.dumps({**others, **made}, indent=1, sort_keys=True) + "\n")


def record_networks(profile: str) -> None:
    """Copy trained networks into `data/models`.

    If the profile fixes the machine, these are all seeds of the `RECORDED_VARIANTS` and the first
    seed of every other variant, as far as they are trained. Otherwise they are the baselines of all
    data sets, which are trained now if need be.
    """
    settings = load_profile(profile)
    networks = [Experiment(settings, dataset) for dataset in settings.datasets]
    if settings.machine:
        runs = [run for run in list_runs(settings) if "ablation" in run.experiments]
        plain = [run.network for run in runs if not run.control]
        networks = [n for n in plain if n.variant in RECORDED_VARIANTS or n.seed == 0]
    else:
        for network in networks:
            network.trained()
    for network in networks:
        source = work_folder("checkpoints") / network.name / "model"
        if source.with_suffix(".json").exists():
            save_checkpoint(committed_network(network), *load_checkpoint(source))


def stale_records() -> list[str]:
    """Committed chapters, then committed files, that no longer belong to their source."""
    stale = []
    for name in chapters():
        notebook = read_json(_source(name))
        made = notebook["metadata"].get("tism")
        if made is None or made["key"] != chapter_key(
            name, load_profile(made["profile"]), notebook, tables="recorded"
        ):
            stale.append(f"notebooks/{name}.ipynb")
    for path in sorted((repository() / "data" / "results").glob("*/provenance.json")):
        profile = load_profile(path.parent.name)
        for table, entry in read_json(path).items():
            if entry["key"] != record_key(entry["chapter"], profile, tables="recorded"):
                stale.append(f"data/results/{profile.name}/{table}")
    return stale


def stage_book(profile: str) -> Path:
    """Copy the sources of the book into results/<profile>/book and return that folder.

    Chapters and explorer tables made at this profile take the place of the recorded ones.
    """
    root, fresh = repository(), results_folder(profile)
    target = fresh / "book"
    shutil.rmtree(target, ignore_errors=True)
    for name in ("book", "data", "notebooks", "tism"):
        ignored = shutil.ignore_patterns("raw", "cache", "checkpoints", "__pycache__", ".*")
        shutil.copytree(root / name, target / name, ignore=ignored)
    for name in ("_config.yml", "_toc.yml", "CITATION.cff"):
        shutil.copyfile(root / name, target / name)
    for name in chapters():
        path = fresh / "notebooks" / f"{name}.ipynb"
        if path.exists():
            shutil.copyfile(path, target / "notebooks" / path.name)
    tables = [fresh / name for name in explorer.TABLES]
    if all(path.exists() for path in tables):
        for path in tables:
            shutil.copyfile(path, target / "data" / "results" / RECORDED_PROFILE / path.name)
    return target


def build_book(source: Path) -> Path:
    """Build a book, treating every warning as an error, and return the folder of its pages."""
    program = Path(sysconfig.get_path("scripts")) / "jupyter-book"
    options = ["--all", "-W", "-n", "--keep-going"]
    subprocess.run([program, "build", source, *options], check=True)
    return source / "_build" / "html"


def main(arguments: list[str] | None = None) -> None:
    """Run one of the commands that the docstring of this module lists."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("PYTHONHASHSEED", "0")
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    if options.command == "stale":
        print("\n".join(stale_records()) or "every record belongs to its source")
        return
    profile, progress = load_profile(options.profile), sys.stderr.isatty()
    start_as(profile.machine)
    match options.command:
        case "run" | "record":
            _run_chapters(profile, options)
        case "book":
            print(f"open {os.path.relpath(build_book(stage_book(profile.name)) / 'index.html')}")
        case "runs":
            print("\n".join(run.name for run in list_runs(profile)))
        case "missing":
            print("\n".join(ch05_runs.missing_runs(profile)))
        case "train":
            ch05_runs.check_tables(profile)
            train_run(options.run, profile.name)
        case "model":
            ch05_runs.check_tables(profile)
            ch05_runs.score_run(find_run(profile, options.run), progress=progress)
        case "summarise":
            _note(ch05_runs.write_models(profile), ROBUSTNESS, profile)
        case "initialisations":
            path = ch05_runs.write_initialisations(profile, progress=progress)
            _note(path, ROBUSTNESS, profile)
        case "explorer":
            _write_explorer(profile)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tism.study.compendium",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("stale")
    for command in ("runs", "missing", "summarise", "initialisations", "explorer", "book"):
        commands.add_parser(command).add_argument("profile", choices=profile_names())
    for command in ("train", "model"):
        sub = commands.add_parser(command)
        sub.add_argument("profile", choices=profile_names())
        sub.add_argument("run")
    for command in ("run", "record"):
        sub = commands.add_parser(command)
        sub.set_defaults(executed=False)
        sub.add_argument("profile", choices=profile_names())
        sub.add_argument("chapter", nargs="*", choices=[*chapters(), []])
    sub.add_argument("--executed", action="store_true", help="record what results holds")
    return parser


def _run_chapters(profile: Profile, options: argparse.Namespace) -> None:
    """Execute and record the chapters named; without a name all of them, and the other tables."""
    recording = options.command == "record"
    if recording:
        record_networks(profile.name)
    for name in options.chapter or chapters():
        print(f"{profile.name}: {name}", flush=True)
        if not options.executed:
            run_for_all_datasets(name, profile.name)
        if recording:
            record_chapter(name, profile.name)
    if options.chapter:
        return
    if not options.executed:
        _write_explorer(profile)
    if recording:
        for maker in (ROBUSTNESS, EXPLORER):
            _record_tables(maker, profile.name)


def _write_explorer(profile: Profile) -> None:
    for path in explorer.write_explorer(profile, progress=sys.stderr.isatty()):
        _note(path, EXPLORER, profile)


def _note(path: Path, maker: str, profile: Profile) -> None:
    note_provenance(path.parent, path.name, maker, record_key(maker, profile), profile)


if __name__ == "__main__":
    main()
