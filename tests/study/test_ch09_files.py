"""The page of chapter 9 runs as it is printed, in an empty folder, by what its extra installs."""

from __future__ import annotations

import ast
import gzip
import json
import os
import re
import subprocess
import sys
import tomllib
from contextlib import chdir
from functools import partial
from pathlib import Path

import pytest

from tism.score.cli import main
from tism.study.ch09_files import run, write_example
from tism.study.data import download

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page() -> tuple[str, str]:
    """What the page prints before its section on motifs: its shell, and its Python."""
    cells = json.loads((ROOT / "notebooks" / "09_your_own_model.ipynb").read_text())["cells"]
    shell, python = [], []
    for cell in cells:
        source, _, after = "".join(cell["source"]).partition("## Motifs in TISM")
        if cell["cell_type"] == "markdown":
            shell += re.findall(r"^```bash\n(.*?)^```$", source, re.MULTILINE | re.DOTALL)
        elif not cell["metadata"].get("tags") and "tism.study" not in source:
            calls = [re.match(r"run\((.*)\)$", ast.unparse(s)) for s in ast.parse(source).body]
            shell += [ast.literal_eval(call[1]) for call in calls if call]
            python.append(
                re.sub(r'run\((""".*?"""|"[^"\n]+")\)|os\.[^\n]*', "", source, flags=re.S)
            )
        if after:
            break
    return "\n".join(shell), "\n".join(python)


def test_page_runs_as_printed_in_an_empty_folder(page: tuple[str, str], tmp_path: Path, capsys):
    """A shell runs all but `tism` and `modisco`, whose arguments it hands on to this process."""
    for name in ("book", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    shims = "set -e\n"
    for command in ("pip", "tism", "modisco"):
        shims += f"{command}() {{ printf '%s\\0' {command} \"$@\"; echo; }}\n"
    run = partial(subprocess.run, cwd=tmp_path, check=True, capture_output=True, text=True)
    lines = run(["bash", "-c", shims + page[0]]).stdout.splitlines()
    calls = [line.split("\0")[:-1] for line in lines]
    assert calls[0] == ["pip", "install", ".[score]"]
    with chdir(tmp_path / "trial"):
        for program, *arguments in calls[1:-1]:
            assert program == "tism"
            main(arguments)
        capsys.readouterr()
        exec(compile(page[1], "snippets of the page", "exec"), {})
        assert {calls[-1][k] for k in (3, 5)} <= set(os.listdir())
    assert capsys.readouterr().out.splitlines()[-1] == "True"  # bigWig and logo have equal numbers
    assert calls[-1][:2] == ["modisco", "motifs"]


def test_the_extra_installs_all_that_the_snippets_import(page: tuple[str, str]):
    nodes = [node for node in ast.walk(ast.parse(page[1])) if isinstance(node, ast.Import)]
    imported = {alias.name.split(".")[0] for node in nodes for alias in node.names}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = project["dependencies"] + project["optional-dependencies"]["score"]
    names = {re.match(r"\w+", requirement)[0] for requirement in required}
    assert imported - {"tism"} - sys.stdlib_module_names <= names
    assert "logomaker" in imported


def test_committed_example_is_that_of_the_function(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(download, "_download", lambda source: pytest.skip(f"no {source.path} here"))
    write_example(tmp_path)
    for path in tmp_path.iterdir():
        old, new = (ROOT / "book" / "examples" / path.name).read_bytes(), path.read_bytes()
        if path.suffix == ".gz":
            old, new = gzip.decompress(old), gzip.decompress(new)
        assert old == new, path.name


def test_commands_that_fail_or_are_others_raise(capsys):
    with pytest.raises(RuntimeError, match=r"tism status nothing\.zarr: exit status 2"):
        run("tism status nothing.zarr")
    with pytest.raises(ValueError, match="commands must begin with tism, got 'rm x'"):
        run("rm x")
