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
    assert text["ISM"].str.match(r"(~ )?[\d.,]+ \([\d.,]+-[\d.,]+\)").all()
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


@pytest.mark.parametrize(
    ("value", "text"), [(0.05861, "0.0586"), (15.74, "15.7"), (1_234_567.0, "1,230,000")]
)
def test_three_digits_have_no_exponent(value: float, text: str):
    assert speed.three_digits(value) == text


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


def test_ratios_of_repeats_are_within_a_round():
    job = {"network": "deep", "pool": 2, "length": 9, "n_sequences": 1, "setting": "best"}
    times = {"ISM": "8 9 12", "Yuzu": "2 3"}  # the third round went without one method
    rows = pd.DataFrame(
        [{**job, "method": name, "seconds": 1.0, "each": text} for name, text in times.items()]
    )
    assert [r.tolist() for r in speed.repeated_ratios(rows, "ISM", "Yuzu")] == [[4.0, 3.0]]
    assert [r.tolist() for r in speed.repeated_ratios(rows, "Yuzu", "ISM")] == [[1 / 4, 1 / 3]]
    once = rows.assign(each=[8.0, 2.0])  # as a file of single repeats is read
    assert [r.tolist() for r in speed.repeated_ratios(once, "ISM", "Yuzu")] == [[4.0]]


def test_speed_ups_stand_beside_those_of_the_authors(rows):
    authors = pd.read_csv(RECORD.parents[2] / "authors_timings.csv")
    table = speed.beside_authors(rows[rows["network"] != "baseline"], authors)
    row = table[(table["network"] == "deep") & (table["value"] == 1000)].squeeze()
    assert row["TISM, GPU 2"] == pytest.approx(9.537 / 0.04646)
    assert row["Yuzu, CPU"] == pytest.approx(13.96 / 1.976)
    ours = speed.ratios(rows, "ISM", "Yuzu")
    job = (ours["network"] == "deep") & (ours["length"] == 1000) & (ours["n_sequences"] == 10)
    assert row["Yuzu, here"] == ours.loc[job, "ratio"].item()
    assert set(table["varies"]) == {"length", "n_sequences"}
    assert table["TISM, here"].notna().all()


def test_growth_of_a_precomputation_with_the_length():
    job = {"network": "deep", "pool": 2, "n_sequences": 1, "setting": "best", "method": "Yuzu"}
    lengths, seconds = [500, 1000, 4000], [3.0, 15.0, 375.0]  # 5 times as long each doubling
    rows = pd.DataFrame(
        [{**job, "length": n, "preparation": t} for n, t in zip(lengths, seconds, strict=True)]
    )
    rows = rows.assign(seconds=1.0, error=0.0)
    assert speed.growth_of_yuzu(rows, "deep") == pytest.approx(5)
    assert np.isnan(speed.growth_of_yuzu(rows, "shallow"))


def test_times_on_a_gpu_are_shown_once_there_are_some(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "data_root", lambda: tmp_path)
    assert "make gpu" in speed.gpu_times().iloc[0, 0]
    (tmp_path / "results" / "gpu").mkdir(parents=True)
    both = pd.concat([rows.assign(tf32=on) for on in (False, True)])
    both.to_csv(tmp_path / "results" / "gpu" / "runtime.csv", index=False)
    assert list(speed.gpu_times()["TF32"].value_counts()) == [len(speed.times_table(rows))] * 2
