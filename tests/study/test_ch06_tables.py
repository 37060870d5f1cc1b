"""The tables of chapter 06, from the recorded times."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tism.study import ch06_tables as speed
from tism.study.records import paper_numbers

RECORD = Path(__file__).parents[2] / "data" / "results" / "yeast" / "runtime.csv"


@pytest.fixture(scope="module")
def rows():
    return pd.read_csv(RECORD)


def test_tables(rows):
    text = speed.times_table(rows)
    assert len(text) == len(rows[speed.JOB].drop_duplicates())
    assert text["ISM"].str.match(r"(~ )?[\d.e+-]+ \([\d.e+-]+-[\d.e+-]+\)").all()
    networks = speed.paper_networks(rows)
    few = networks[networks["n_sequences"] == networks["n_sequences"].min()]
    beside = speed.beside_paper(few, paper_numbers(), 2)
    assert beside["length"].is_monotonic_increasing
    np.testing.assert_allclose(beside["speed-up"], beside["ISM, s"] / beside["TISM, s"])
    costs = speed.costs(rows)
    plain = costs[costs["method"] == "ISM"]
    np.testing.assert_allclose(plain["measured"], 3 * plain["length"] + 1)
    assert speed.overheads(costs)["windowed ISM"] > 0
    assert [len(part) > 0 for *_, part in speed.figure_2(speed.timed(rows))] == [True] * 4
    assert set(speed.headline(networks)["comparison"]) == set(speed.HEADLINES.values())


def test_the_faster_batch_is_the_best_and_the_papers_stands_apart(rows):
    best, paper = speed.timed(rows), speed.timed(rows, "paper")
    assert (best["seconds"].to_numpy() <= paper.loc[:, "seconds"].to_numpy()).all()
    assert set(paper.loc[paper["setting"] == "paper", "batch_size"]) == {20}


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
