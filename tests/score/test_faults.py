"""What is broken on purpose does no harm: a few faults of each kind, and the record of all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "data" / "results" / "faults.csv"
HARM = ["lost", "half_written", "left", "unnamed"]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="faults are made in forks")


def assert_harmless(table: pd.DataFrame) -> None:
    assert not table[table[HARM].any(axis=1)].to_dict("records")
    assert not table[table["held"] != table["times"]].to_dict("records")


def test_a_few_faults_of_each_kind(tmp_path):
    command = [sys.executable, ROOT / "tests" / "faults.py", "--share", "0.05"]
    run = subprocess.run(
        [*command, "--out", tmp_path / "faults.csv"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    table = pd.read_csv(tmp_path / "faults.csv")
    assert_harmless(table)
    recorded = pd.read_csv(RECORD)
    whole = {"notebook that trains", "workflow"}  # of the whole campaign only, as small disks are
    kinds = recorded[(recorded["fault"] != "small disk") & ~recorded["where"].isin(whole)]
    names = ["fault", "where"]
    assert table[names].to_dict("records") == kinds[names].to_dict("records")


def test_the_record_is_of_the_whole_campaign():
    table = pd.read_csv(RECORD)
    assert_harmless(table)
    kills = table[table["fault"] == "kill -9"]
    assert kills["times"].sum() >= 50
    assert {"training", "scoring to a store", "download", "workflow"} <= set(kills["where"])
    assert json.loads(RECORD.with_suffix(".json").read_text())["share"] == 1
