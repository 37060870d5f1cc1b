"""What `make book` shows while Snakemake runs, from lines that Snakemake 9 prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "workflow" / "progress.py"
PRINTED = """Job stats:
job        count
-------  -------
all            1
chapter       10
train          2
total         13

[Sun Nov 29 19:57:21 2026]
localrule train:
    output: results/demo/models/simulated_relu_0/training.ipynb
    jobid: 8
    wildcards: run=simulated_relu_0
    resources: tmpdir=/tmp
[Sun Nov 29 19:57:21 2026]
Finished jobid: 8 (Rule: train)
1 of 13 steps (8%) done
"""


def show(tmp_path: Path, printed: str, status: int) -> subprocess.CompletedProcess[str]:
    """Run the script on a program that prints these lines, ignores its options and ends."""
    program = tmp_path / "program.py"
    program.write_text(f"print({printed!r}, end='', flush=True)\nraise SystemExit({status})\n")
    command = [sys.executable, SCRIPT, sys.executable, program]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_line_says_what_runs_how_far_it_is_and_how_long_it_will_take(tmp_path: Path):
    run = show(tmp_path, PRINTED + "open results/demo/book/_build/html/index.html\n", 0)
    start, end, place = run.stdout.splitlines()
    assert start.startswith("started, about ")
    assert start.endswith(" min left, now: train simulated_relu_0")
    assert end.startswith("1 of 13 steps done, about ")
    assert end.endswith("now: the next step")
    assert place == "open results/demo/book/_build/html/index.html"
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("first", ["Error in rule train:", "ValueError in file Snakefile:"])
def test_a_failure_is_shown_with_all_that_follows(tmp_path: Path, first: str):
    failure = f"{first}\n    log: train.log\nLogfile train.log:\nboom\n"
    run = show(tmp_path, PRINTED + failure, 3)
    assert run.returncode == 3
    assert run.stderr == f"\n{failure}"
