import time

import pytest
import torch

from tism.study.ch06_timing import compare, peak_memory, seconds


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


def test_median_and_quartiles():
    pauses = iter([0.5, 0.01, 0.02, 0.03, 0.04, 0.05])  # the first is the warm-up
    timing = compare({"one": lambda: time.sleep(next(pauses))}, repeats=5)["one"]
    assert timing.low <= timing.median <= timing.high < 0.5
    assert 0.03 <= timing.median < 0.04
    assert sorted(timing.repeats) == list(timing.repeats)


def test_the_slower_side_is_found():
    sides = {"slow": lambda: time.sleep(0.02), "fast": lambda: None}
    timings = compare(sides, repeats=3)
    assert timings["slow"].low > timings["fast"].high


def test_a_long_side_is_left_out_after_two_turns():
    sides = {"long": lambda: time.sleep(0.02), "short": lambda: None}
    timings = compare(sides, repeats=5, warm_up=0, limit=0.01)
    assert {name: len(timing.repeats) for name, timing in timings.items()} == {
        "long": 2,
        "short": 5,
    }


def test_nothing_to_time():
    with pytest.raises(ValueError, match="sides must name at least one"):
        compare({})


@pytest.mark.parametrize(("name", "value"), [("repeats", 0), ("warm_up", -1)])
def test_bad_counts(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        compare({"one": lambda: None}, **{name: value})


def test_peak_memory_is_that_of_the_call():
    size = 64 * 2**20
    held = torch.ones(size // 4)  # not the call's
    measured = peak_memory(lambda: torch.ones(size // 4).sum())
    assert measured != measured or 0.9 * size < measured < 1.5 * size  # NaN where none can tell
    assert peak_memory(lambda: None) < 0.1 * size or measured != measured
    assert held.sum() == size // 4
