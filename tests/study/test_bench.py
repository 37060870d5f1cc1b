"""The benchmark: what it makes of times, and which cases a name chooses."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from tism.score.store import open_store
from tism.study import bench
from tism.study.timing import Timing
from tism.study.zoo import ZOO

CASE = bench.Case("DeepSTARR", 6, 16, 4, 2)


def timing(*repeats: float) -> Timing:
    """What `compare` returns for these seconds."""
    return Timing(0, 0, 0, repeats)


def test_ratios_are_taken_within_each_round(monkeypatch: pytest.MonkeyPatch):
    """The fourth round is slower for all sides; "full" ran on 13 of 49 passes."""
    auto, windowed, full = (1, 1, 2, 8), (2, 2, 2, 8), (13 / 49, 26 / 49, 26 / 49, 104 / 49)
    times = {"auto": timing(*auto), "windowed": timing(*windowed), "full": timing(*full)}
    monkeypatch.setattr(bench, "compare", lambda sides, **_: times)
    row = bench.time_engines(CASE, length=64)
    assert row["full"] == pytest.approx(2)
    assert row["full_over_auto"] == pytest.approx(1)
    assert [row[f"auto_over_better{end}"] for end in ("_low", "", "_high")] == [0.875, 1, 1]
    shown = bench.summary([{"case": "tiny", **row}]).iloc[0]
    assert shown["auto over better"] == "1.00 (0.88 to 1.00)"


def test_every_side_mutates_its_positions_in_the_middle(monkeypatch: pytest.MonkeyPatch):
    """Results of all sides agree where they overlap."""
    scores = {}

    def compare(sides, **_):
        scores.update({engine: run() for engine, run in sides.items()})
        return {engine: timing(1) for engine in sides}

    monkeypatch.setattr(bench, "compare", compare)
    bench.time_engines(CASE, length=64)
    assert scores["auto"].shape == (2, 2, 4, 16)
    for engine, inner in (("windowed", slice(None)), ("full", slice(6, 10))):
        torch.testing.assert_close(scores[engine], scores["auto"][..., inner])


def test_gradients_in_forward_passes_are_ratios_of_minima(monkeypatch: pytest.MonkeyPatch):
    times = {"forward": timing(2, 3), "one task": timing(9, 5), "all tasks": timing(20, 30)}
    monkeypatch.setattr(bench, "compare", lambda sides, **_: times)
    rows = bench.time_gradients(torch.nn.Identity(), torch.zeros(1, 4, 5))
    assert [row["forward_equivalents"] for row in rows] == [1, 2.5, 10]


def test_cases_fit_the_zoo():
    for case in bench.CASES.values():
        assert 1 <= case.timed <= case.positions <= ZOO[case.network].length


def test_names_choose_cases_by_their_beginning():
    assert bench.chosen_cases([]) == [
        *bench.CASES, bench.GRADIENTS, bench.SCORING, bench.COMMANDS
    ]  # fmt: skip
    assert bench.chosen_cases(["SpliceAI"]) == ["SpliceAI", "SpliceAI, one variant"]
    with pytest.raises(ValueError, match=r"begins with 'Spl1ce'; there are DeepSTARR; DeepSEA"):
        bench.chosen_cases(["SpliceAI", "Spl1ce"])


def test_commands_are_timed_and_their_files_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "_N_PEAKS", 30)
    monkeypatch.setattr(bench, "_N_VARIANTS", 20)
    monkeypatch.setenv("PYTHONPATH", str(Path(bench.__file__).parents[2]))
    rows = bench.time_commands(tmp_path)
    files = [
        sum(path.is_file() for path in (tmp_path / n).rglob("*")) for n in ("peaks", "variants")
    ]
    assert [row["files"] for row in rows] == [0, files[0], files[0], files[1], 0]
    assert all(row["processor_seconds"] > 0 and row["gb"] > 0 for row in rows)
    assert len(pd.read_csv(tmp_path / "table.tsv", sep="\t")) == len(
        open_store(tmp_path / "variants")
    )


def test_a_store_and_the_plain_loop_score_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "_ROWS", {"tiny": 70})
    plain, loop = [], bench.plain_loop
    monkeypatch.setattr(bench, "plain_loop", lambda *given: plain.append(loop(*given)))
    rows = bench.time_scoring(tmp_path, rounds=1)
    assert [(row["scored"], row["n"]) for row in rows] == [("peaks", 70), ("variants", 70)]
    peaks, variants = (open_store(tmp_path / f"tiny{method}1").read() for method in ("tism", "ism"))
    torch.testing.assert_close(peaks[:, 0], plain[1])
    torch.testing.assert_close(variants, plain[3])
