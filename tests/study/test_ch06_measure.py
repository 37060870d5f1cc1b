import numpy as np
import pandas as pd
import pytest
import torch

from tism.study import ch06_measure as runtime
from tism.study import ch06_tables as speed
from tism.study.ch06_measure import (
    Job,
    Portion,
    _extrapolated,
    _portion,
    jobs_of,
    measure,
    measure_job,
)
from tism.study.ch06_timing import Timing
from tism.study.records import paper_numbers

OURS = ["ISM", "windowed ISM", "TISM, one task", "TISM, all tasks"]
GROUPS = [
    {"network": "baseline", "width": 4, "n_tasks": 3, "length": [40, 60], "n_sequences": 2},
    {
        "network": ["shallow", "deep"],
        "width": 16,
        "n_tasks": 3,
        "length": 60,
        "n_sequences": [2, 6],
    },
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
    assert len(best) == 6 * len(OURS)
    assert (best["low"] <= best["seconds"]).all()
    assert (best["seconds"] <= best["high"]).all()
    assert best["share"].between(0, 1, inclusive="right").all()
    assert (best["repeats"] == 2).all()
    assert (best["error"] < 1e-3).all()


def test_best_batch_is_one_that_was_tried(rows):
    tried = rows[rows["setting"] == "sweep"].groupby([*speed.JOB, "method"])["batch_size"]
    best = rows[rows["setting"] == "best"].set_index([*speed.JOB, "method"])["batch_size"]
    for key, sizes in tried:
        assert best[key] in set(sizes) or (np.isnan(best[key]) and sizes.isna().any())


def test_a_wrong_method_is_not_timed(monkeypatch):
    def wrong(job, model):
        method = runtime._full(job, model)
        return method._replace(run=lambda *args: 2 * method.run(*args))

    monkeypatch.setitem(runtime.METHODS, "wrong", wrong)
    job = Job("baseline", 40, 2, width=4, n_tasks=3)
    table = measure_job(job, ["ISM", "wrong"], budget=0.01, repeats=1).set_index("method")
    assert table.loc["wrong", "error"] == pytest.approx(1.0)
    assert "seconds" not in table or np.isnan(table.loc["wrong", "seconds"])


@pytest.mark.parametrize(("deep", "convolutions", "dense"), [(False, 3, 3), (True, 8, 4)])
def test_networks_of_figure_2(deep, convolutions, dense):
    model = runtime.build_aitac(500, 7, deep=deep)
    kinds = [type(layer).__name__ for layer in model]
    assert kinds.count("Conv1d") == convolutions
    assert kinds.count("Linear") == dense  # with the output
    assert model[0].weight.shape == (300, 4, 19)
    assert model(torch.zeros(1, 4, 500)).shape == (1, 7)


def test_same_seed_same_network():
    first, second = (Job("deep", 60, 1, width=4).model().state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_portions():
    job = Job("baseline", length=300, n_sequences=50)
    assert _portion(job, "positions", 30, 0) == Portion(1, 10, 10 / (300 * 50))
    assert _portion(job, "positions", 30, 0.5) == Portion(1, 150, 0.01)
    assert _portion(job, "positions", 30, 7.9) == Portion(7, 300, 0.14)
    assert _portion(job, "batch", 20, 47) == Portion(40, 300, 0.8)
    assert _portion(job, "batch", 20, 0) == Portion(20, 300, 0.4)
    assert _portion(job, "sequence", 20, 0) == Portion(3, 300, 0.06)
    assert _portion(job, "sequence", 20, 1e9) == Portion(50, 300, 1.0)


def test_extrapolation_multiplies_further_sequences_only():
    part, one = Timing(5.0, 4.0, 6.0, ()), Timing(3.0, 3.0, 3.0, ())  # 2 to begin, 1 a sequence
    assert _extrapolated(part, one, 0.3, 10) == {"seconds": 12.0, "low": 7.5, "high": 16.5}
    assert _extrapolated(part, None, 0.5, 10) == {"seconds": 10.0, "low": 8.0, "high": 12.0}


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


def test_tables(rows):
    text = speed.times_table(rows)
    assert len(text) == 6
    assert text["ISM"].str.match(r"(~ )?[\d.e-]+ \([\d.e-]+-[\d.e-]+\)").all()
    networks = speed.paper_networks(rows)
    beside = speed.beside_paper(networks, paper_numbers(), 2)
    assert list(beside["length"]) == [40, 60]
    np.testing.assert_allclose(beside["speed-up"], beside["ISM, s"] / beside["TISM, s"])
    costs = speed.costs(rows)
    plain = costs[costs["method"] == "ISM"]
    np.testing.assert_allclose(plain["measured"], 3 * plain["length"] + 1)
    assert speed.overheads(costs)["windowed ISM"] > 0
    assert [len(part) > 0 for *_, part in speed.figure_2(speed.timed(rows))] == [True] * 4
    assert set(speed.headline(networks)["comparison"]) == set(speed.HEADLINES.values())


def test_ratio_with_its_spread():
    job = {"network": "baseline", "pool": 2, "length": 9, "n_sequences": 1, "setting": "best"}
    times = {"ISM": (8.0, 6.0, 10.0), "windowed ISM": (2.0, 1.0, 4.0)}
    rows = pd.DataFrame(
        [
            {**job, "method": name, "seconds": t[0], "low": t[1], "high": t[2], "share": 1.0}
            for name, t in times.items()
        ]
    )
    table = speed.ratios(rows, "ISM", "windowed ISM")
    assert table[["ratio", "low", "high"]].to_numpy().tolist() == [[4.0, 1.5, 10.0]]
    assert not table["extrapolated"].any()
