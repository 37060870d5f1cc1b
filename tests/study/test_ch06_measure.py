import numpy as np
import pandas as pd
import pytest
import torch

from tism.study import ch06_measure
from tism.study.ch06_measure import (
    Portion,
    Trial,
    _extrapolated,
    check_extrapolation,
    jobs_of,
    measure,
    measure_job,
)
from tism.study.ch06_methods import TIMED_METHODS, Job
from tism.study.timing import Timing

CPU = torch.device("cpu")
OURS = ["ISM", "windowed ISM", "TISM, one task"]
GROUPS = [
    {"network": "baseline", "width": 4, "n_tasks": 2, "length": 40, "n_sequences": 3},
    {"network": "shallow", "width": 8, "n_tasks": 2, "length": 60, "n_sequences": 2},
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TISM_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        groups = [{**group, "methods": OURS} for group in GROUPS]
        table = measure(groups, budget=0.01, repeats=2)
        again = measure(groups, budget=0.01, repeats=2)
    pd.testing.assert_frame_equal(table, again)  # read, not measured anew
    return table


def test_every_job_and_method_is_timed(rows):
    best = rows[rows["setting"] == "best"]
    assert len(best) == 2 * len(OURS)
    assert (best["low"] <= best["seconds"]).all()
    assert (best["seconds"] <= best["high"]).all()
    assert best["share"].between(0, 1, inclusive="right").all()
    assert (best["repeats"] == 2).all()
    assert (best["error"] < 1e-3).all()


def test_best_batch_is_one_that_was_tried(rows):
    key = ["network", "length", "method"]
    tried = rows[rows["setting"] == "sweep"].groupby(key)["batch_size"]
    best = rows[rows["setting"] == "best"].set_index(key)["batch_size"]
    for name, sizes in tried:
        assert best[name] in set(sizes) or (np.isnan(best[name]) and sizes.isna().any())


def test_a_wrong_method_is_not_timed(monkeypatch):
    full = TIMED_METHODS["ISM"]
    wrong = full._replace(run=lambda *args, **options: 2 * full.run(*args, **options))
    monkeypatch.setitem(TIMED_METHODS, "wrong", wrong)
    job = Job("baseline", 40, 2, width=4, n_tasks=3)
    table = measure_job(job, ["ISM", "wrong"], budget=0.01, repeats=1).set_index("method")
    assert table.loc["wrong", "error"] == pytest.approx(1.0)
    assert np.isnan(table.loc["wrong", "seconds"])


def test_portions():
    job = Job("baseline", length=300, n_sequences=50, width=4)
    whole, positions, batch = (
        Trial(job, name, job.model(), CPU) for name in ("windowed ISM", "ISM", "TISM, one task")
    )
    assert positions.portion(30, 0) == Portion(1, 10, 10 / (300 * 50))
    assert positions.portion(30, 0.5) == Portion(1, 150, 0.01)
    assert positions.portion(30, 7.9) == Portion(7, 300, 0.14)
    assert batch.portion(20, 47) == Portion(40, 300, 0.8)
    assert batch.portion(20, 0) == Portion(20, 300, 0.4)
    assert whole.portion(20, 0) == Portion(3, 300, 0.06)
    assert whole.portion(20, 1e9) == Portion(50, 300, 1.0)


def test_extrapolation_multiplies_further_sequences_only():
    one = Timing(3.0, 3.0, 3.0, ())  # 2 to begin, 1 a sequence
    assert [_extrapolated(part, one, 0.3, 10) for part in (5.0, 4.0, 6.0)] == [12.0, 7.5, 16.5]
    assert _extrapolated(5.0, None, 0.5, 10) == 10.0


def test_jobs_are_run_once():
    groups = [
        {"network": "shallow", "length": [60, 80], "n_sequences": 2, "without": ["Yuzu"]},
        {"network": "shallow", "length": 60, "n_sequences": 2},
    ]
    jobs = dict(jobs_of(groups))
    assert len(jobs) == 2
    assert all("Yuzu" not in names and "ISM" in names for names in jobs.values())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"lenght": 3}, "lenght"), ({"methods": ["ISMM"]}, "ISMM"), ({"without": ["none"]}, "none")],
)
def test_unknown_settings_are_named(wrong, named):
    with pytest.raises(ValueError, match=f"unknown '{named}'"):
        jobs_of([{"network": "shallow", "length": 60, "n_sequences": 2, **wrong}])


def test_extrapolation_is_checked_by_one_whole_run(monkeypatch, tmp_path):
    monkeypatch.setenv("TISM_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(Trial, "try_batch", lambda trial, size: (100.0, 0.0))
    monkeypatch.setattr(Trial, "runner", lambda trial, size, part: part.share)
    times = iter([90, 80, 100, 110, 120])  # of a whole sequence, by parts, then whole, then parts
    monkeypatch.setattr(ch06_measure, "seconds", lambda share, device: share * next(times))
    job = Job("shallow", 200, 1, width=4, n_tasks=3)
    row = check_extrapolation(job, budget=25, repeats=2).squeeze()
    assert row["share"] == 0.25
    assert row["whole"] == 100
    assert row["extrapolated"] == pytest.approx((90 + 80 + 110 + 120) / 4)
    assert row["low"] == pytest.approx(87.5)
