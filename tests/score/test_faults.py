"""What is broken on purpose does no harm: a few faults of each kind, and the record of many."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
WORKS_OF_FAULT = {
    "kill -9": 5,
    "disk full from a write on": 5,
    "two processes at once": 5,
    "SIGINT": 2,
    "damaged file": 4,
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="faults are made in forks")
def test_a_few_faults_of_each_kind(tmp_path):
    command = [sys.executable, ROOT / "tests" / "faults.py", "--share", "0.03"]
    run = subprocess.run([*command, "--out", tmp_path / "f"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr  # a case that did harm is printed
    assert pd.read_csv(tmp_path / "f")["fault"].value_counts().to_dict() == WORKS_OF_FAULT


def test_the_record_is_of_many_faults_without_harm():
    recorded = pd.read_csv(ROOT / "data" / "results" / "faults.csv")
    assert set(WORKS_OF_FAULT) <= set(recorded["fault"])
    assert recorded.loc[recorded["fault"] == "kill -9", "times"].sum() >= 50
    assert not recorded[["lost", "half_written", "unnamed"]].to_numpy().any()
    assert recorded["held"].tolist() == recorded["times"].tolist()
