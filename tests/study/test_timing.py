import time

import pytest
import torch

from tism.study.timing import compare, peak_memory, seconds


def test_seconds_of_a_pause():
    assert 0.02 <= seconds(lambda: time.sleep(0.02)) < 1


def test_sides_take_turns_in_rounds():
    calls: list[str] = []
    sides = {name: lambda name=name: calls.append(name) for name in "abc"}
    timings = compare(sides, repeats=4, warm_up=2)
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert len(rounds) == 6
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 1
    assert {len(timing.repeats) for timing in timings.values()} == {4}
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        compare(sides, repeats=0)


def test_median_and_quartiles(monkeypatch):
    taken = iter([0.01, 0.02, 0.03, 0.04, 0.05])
    monkeypatch.setattr("tism.study.timing.seconds", lambda *_: next(taken))
    timing = compare({"one": None}, warm_up=0)["one"]
    assert timing == (0.03, 0.02, 0.04, (0.01, 0.02, 0.03, 0.04, 0.05))


def test_a_long_side_is_left_out_after_two_turns(monkeypatch):
    monkeypatch.setattr("tism.study.timing.seconds", lambda side, _: side)
    timings = compare({"long": 40.0, "short": 1.0}, limit=60)
    turns = {name: len(timing.repeats) for name, timing in timings.items()}
    assert turns == {"long": 2, "short": 5}


def test_peak_memory_is_that_of_the_call():
    size = 64 * 2**20
    held = torch.ones(size // 4)  # not the call's
    measured = peak_memory(lambda: torch.ones(size // 4).sum())
    assert measured != measured or 0.9 * size < measured < 1.5 * size  # NaN where none can tell
    assert peak_memory(lambda: None) < 0.1 * size or measured != measured
    assert held.sum() == size // 4
