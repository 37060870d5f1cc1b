"""The repository's own promises: one list of pins, a true README, a licence, sound metadata."""

from __future__ import annotations

import csv
import importlib
import json
import math
import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import tism

ROOT = Path(__file__).parents[2]
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = METADATA["project"]
PRIVATE = re.compile(  # package registries, and folders of the machine that a file was made on
    rb"pypi\.org|pythonhosted\.org|registry\.npmjs|download\.pytorch|[\s\"'](?:/work|/root|/tmp)/"
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def pins() -> dict[str, Version]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {name: Version(version) for name, version in pairs}


def requirements() -> list[Requirement]:
    """Every direct requirement of the package, its extras and its build."""
    extras = PROJECT["optional-dependencies"].values()
    names = [*PROJECT["dependencies"], *METADATA["build-system"]["requires"]]
    names += [name for extra in extras for name in extra]
    return [r for r in map(Requirement, names) if r.name != PROJECT["name"]]


def output_of(*command: str) -> str:
    run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return run.stdout


def tracked_files() -> list[Path]:
    names = output_of("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def test_lock_is_a_sorted_list_of_plain_pins():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    names = [line.split("==")[0] for line in lines if not line.startswith("#")]
    assert names == sorted({canonicalize_name(name) for name in names})
    assert all(version.local is None for version in pins().values())


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_lock_pins_every_requirement_within_its_range(requirement: Requirement):
    version = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version), f"{requirement} excludes {version}"


def test_only_the_lock_pins_and_every_environment_installs_by_it():
    assert [r for r in requirements() for clause in r.specifier if clause.operator == "=="] == []
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = ["-c requirements.lock", "-e .[compendium,test]"]
    assert conda == ["python=3.11", "pip", {"pip": pip}]
    (line,) = re.findall(r"pip install (.*)", (ROOT / "Makefile").read_text())
    assert line.replace("'", "") == " ".join(pip)


def test_workflow_uses_the_python_of_the_environment():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert [s["with"]["python-version"] for s in steps if "setup-python" in s.get("uses", "")] == [
        "3.11"
    ]
    assert [s["run"] for s in steps if "run" in s] == ["make test", "make site"]
    assert workflow["jobs"]["publish"]["needs"] == "test"


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("book", "snakemake --workflow-profile workflow/local --config profile=demo"),
        ("site", "jupyter-book build . --all -W -n"),
        ("test", "-m pytest"),
        ("faults", "tests/faults.py"),
        ("fuzz", "-m pytest tests/core/test_fuzz.py tests/score/test_fuzz_readers.py"),
        ("audit", "pip-audit --requirement requirements.lock"),
        ("record", "tism.study.compendium record yeast --executed"),
        ("clean", "rm -rf _build results"),
    ],
)
def test_makefile_target_runs(target: str, command: str):
    assert command in output_of("make", "--dry-run", target)


def test_ci_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().startswith("#!/usr/bin/env bash\nset -euo pipefail\n")
    assert "make test" in script.read_text()


def test_readme_example_prints_what_it_says():
    blocks = FENCE.findall((ROOT / "README.md").read_text())
    languages = [language for language, _ in blocks]
    example = languages.index("python")
    (_, code), (_, printed) = blocks[example : example + 2]
    assert output_of(sys.executable, "-W", "error", "-c", code) == printed
    assert len(code.strip().splitlines()) <= 14


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_to_files_that_exist(name: str):
    text = (ROOT / name).read_text()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert len(links) > 3
    assert [link for link in links if not (ROOT / link).is_file()] == []


def pages() -> dict[str, str]:
    """Everything that a reader is told: Markdown files, and Markdown cells of the notebooks."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("book/*.md")]
    pages = {path.name: path.read_text() for path in paths}
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        pages[path.name] = "\n".join(prose)
    return pages


def exists(name: str) -> bool:
    """True if a dotted name is reached by attributes, as `import` and then `.` reach it."""
    found, parts = tism, name.split(".")
    for number, part in enumerate(parts[1:], 2):
        with suppress(ImportError):
            importlib.import_module(".".join(parts[:number]))
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def test_names_that_pages_mention_exist():
    dotted = re.compile(r"(?<![\w./-])tism(?:\.[A-Za-z_]\w*)+")
    files = {"zarr", "npz", "h5"}  # tism.zarr and others are files of chapter 9
    mentioned = {
        (page, name)
        for page, text in pages().items()
        for name in dotted.findall(text)
        if name.rpartition(".")[2] not in files
    }
    assert len({name for _, name in mentioned}) > 40
    assert {(page, name) for page, name in mentioned if not exists(name)} == set()
    assert not exists("tism.ism.predict")


def test_commands_that_pages_mention_exist():
    text = "\n".join(pages().values())
    help_text = output_of(sys.executable, "-m", "tism.study.compendium", "--help")
    commands = set(re.findall(r"-m tism\.study\.compendium (\w+)", text))
    assert len(commands) > 3
    assert commands <= set(re.findall(r"\w+", help_text))


def test_contributing_names_paths_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:book|data|tests|tism)/[\w/]+(?:\.\w+|/))`", text)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_changelog_has_the_form_and_the_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert all(Version(version) <= Version(PROJECT["version"]) for version in versions[1:])
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_licence_is_mit():
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License\n\nCopyright (c) 2026 The TISM compendium authors\n")
    assert PROJECT["license"] == "MIT"


def test_citation_names_this_work_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert paper["doi"] == "10.1016/j.isci.2024.110807"
    assert [a["family-names"] for a in paper["authors"]] == ["Sasse", "Chikina", "Mostafavi"]


def test_version_is_the_same_in_package_and_metadata():
    source = (ROOT / "tism" / "__init__.py").read_text()
    assert f'__version__ = "{PROJECT["version"]}"' in source


def test_no_file_names_a_registry_or_a_machine():
    own = {"test_repository.py", "test_book.py"}
    files = [path for path in tracked_files() if path.name not in own]
    assert [path for path in files if PRIVATE.search(path.read_bytes())] == []


@pytest.fixture(scope="module")
def paper_numbers() -> list[dict[str, str]]:
    with open(ROOT / "data" / "paper_numbers.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_paper_numbers_are_numbers_with_unique_ids(paper_numbers: list[dict[str, str]]):
    assert list(paper_numbers[0]) == ["id", "item", "quantity", "value", "unit", "where"]
    ids = [row["id"] for row in paper_numbers]
    assert len(ids) == len(set(ids))
    assert [name for name in ids if not re.fullmatch(r"[a-z][a-z0-9_]*", name)] == []
    assert all(math.isfinite(float(row["value"])) for row in paper_numbers)
    assert all(cell.strip() for row in paper_numbers for cell in row.values())


def test_paper_numbers_cover_every_item(paper_numbers: list[dict[str, str]]):
    figures = {f"Fig {panel}" for panel in ("1A", "1B", "1D", "2", "3A", "3B", "3C", "3D")}
    items = {row["item"] for row in paper_numbers}
    assert items == figures | {"Table 1", "Table 2", "text", "code"}


def test_paper_numbers_agree_with_each_other(paper_numbers: list[dict[str, str]]):
    value = {row["id"]: float(row["value"]) for row in paper_numbers}
    assert value["text_n_test_regions"] * value["text_n_tasks"] == value["text_n_maps"]
    assert value["fig3b_n_regions"] * value["fig3b_n_tasks"] == value["fig3b_n_profiles"]
    assert value["text_n_train_regions"] * value["fig3b_best_share"] == pytest.approx(
        value["fig3b_best_n_regions"]
    )
    assert value["fig1b_stop"] - value["fig1b_start"] + 1 == value["text_length"]
    speed_ups = [value[f"table1_ism_{n}"] / value[f"table1_tism_{n}"] for n in (10, 100, 500, 1000)]
    assert sum(speed_ups) / 4 == pytest.approx(value["text_speedup_table1"], rel=0.05)
    assert value["table2_ism_1000"] == value["table1_ism_10"]
