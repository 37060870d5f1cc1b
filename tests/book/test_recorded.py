"""Pages insert what the recorded tables hold, and the tables support what the pages say."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from insert import INSERTED, fill, filled_notebook, filled_pages, glued
from recorded import KINDS, Record, duration, listed, markdown, numbers, span

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "book" / "which_score.md"


@pytest.fixture(scope="module")
def record() -> Record:
    return Record(ROOT / "data")


def test_every_number_of_the_pages_is_there_and_is_used(record: Record):
    texts = "".join(filled_pages(ROOT).values())
    assert set(numbers(record)) <= {name for _, name, *_ in INSERTED.findall(texts)}


def test_sources_show_the_present_numbers_and_no_placeholder():
    texts = filled_pages(ROOT)
    old = [path.name for path, text in texts.items() if path.read_text() != text]
    assert old == [], "`make site` writes the present numbers"
    bare = re.compile(r"\{\{ ?\w+ ?\}\}|\{glue")
    prose = {path: text for path, text in texts.items() if path.suffix == ".md"}
    for path in texts.keys() - prose.keys():
        cells = json.loads(texts[path])["cells"]
        prose[path] = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    assert [path.name for path, text in prose.items() if bare.search(text)] == []


def test_only_the_text_of_an_element_is_replaced():
    text = "a <data value=r:.2f>0.1</data> b <data value=t>\n\nold\n\n</data> c"
    filled = "a <data value=r:.2f>0.25</data> b <data value=t>\n\n| x |\n| y |\n\n</data> c"
    assert fill(text, {"r": 0.25, "t": "| x |\n| y |"}) == filled
    assert fill(filled, {"r": 0.25, "t": "one line"}).endswith("<data value=t>one line</data> c")
    assert fill(text, {"r": float("nan"), "t": "x"}).startswith("a <data value=r:.2f>0.1</data> b")
    with pytest.raises(ValueError, match="nothing is called t, which <data value=t> asks for"):
        fill(text, {"r": 0.25})
    with pytest.raises(ValueError, match="nothing is called ISM-TISM,"):
        fill("<data value=ISM-TISM></data>", {})


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda p: p.stem)
def test_every_number_that_a_recorded_chapter_tells_exists(path):
    notebook = json.loads(path.read_text())
    prose = "".join("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown")
    told = {name for _, name, *_ in INSERTED.findall(prose)}
    assert [
        name for name, value in glued(notebook).items() if name in told and value != value
    ] == []


def test_a_chapter_shows_what_its_cells_glued():
    held = {"application/papermill.record/text/plain": "'Reb1'"}
    output = {"data": held, "metadata": {"scrapbook": {"name": "task"}}}
    cells = [
        {"cell_type": "markdown", "source": ["Of\n", "<data value=task>old</data>."]},
        {"cell_type": "code", "source": [], "outputs": [output, {"output_type": "stream"}]},
    ]
    filled = json.loads(filled_notebook(json.dumps({"cells": cells}), {"task": "of the record"}))[
        "cells"
    ]
    assert filled[0]["source"] == ["Of\n", "<data value=task>Reb1</data>."]
    assert filled[1] == cells[1]


def test_faults_add_up_and_errors_fit_a_table(record: Record):
    inserted, faults = numbers(record), pd.read_csv(record.data / "results" / "faults.csv")
    total = inserted["faults_table"].splitlines()[-1].split(" | ")
    assert int(total[2]) == faults["times"].sum()
    assert {line.count(" | ") for line in inserted["errors_table"].splitlines()} == {1}


def test_no_correlation_is_typed():
    prose = re.sub(r"```.*?```", "", INSERTED.sub("", PAGE.read_text()), flags=re.DOTALL)
    assert re.findall(r"\b0\.\d+", prose) == []


def test_numbers_follow_the_tables(record: Record, tmp_path: Path):
    shutil.copytree(record.data / "results", tmp_path / "results")
    table = record.table("estimators")
    table.loc[
        (table["estimator"] == "TISM") & (table["network"] == "yeast, baseline"), "mean_r"
    ] = 0.123
    table.to_csv(tmp_path / "results" / "yeast" / "estimators.csv", index=False)
    before, after = numbers(record), numbers(Record(tmp_path))
    assert after["tism_kinds"].startswith("0.12 to ")
    assert "0.12" in after["price_table"]
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"tism_kinds", "price_table"}


def test_missing_table_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"figure_1\.csv"):
        numbers(Record(tmp_path))


def test_ratios_beside_the_table_of_lengths_are_of_its_jobs(record: Record):
    passes = record.costs
    ratios = record.table("runtime_headline").set_index(["comparison", "length"])["ratio"]
    for slow, name in (("windowed ISM", "windowed ISM"), ("ISM", "plain ISM")):
        for tasks in ("TISM, one task", "TISM, all tasks"):
            found = (passes[slow] / passes[tasks]).to_dict()
            assert ratios[f"{name} / {tasks}"].to_dict() == pytest.approx(found, rel=1e-4)


def test_no_cost_of_exact_ism_is_above_the_largest_that_pages_tell(record: Record):
    costs = record.windowed_costs
    narrow = record.table("estimators").query("estimator == 'ISM'")["cost"]
    assert costs.max() >= max(narrow.max(), record.costs["windowed ISM"].max())
    assert numbers(record)["windowed_most"] == f"{costs.max():.0f}"


def test_exact_ism_is_the_first_advice_because_windows_are_cheap(record: Record):
    windows = record.costs["windowed ISM"]
    assert (windows < record.costs["ISM"] / 4).all()
    assert windows[windows.index.max()] < windows[windows.index.min()]  # bp


def test_budgeted_ism_is_ahead_of_layerwise_tism_at_its_price(record: Record):
    one = record.one_task
    layers = one[one["estimator"].str.startswith("layer-wise")]
    budgeted = one[one["estimator"] == "budgeted"]
    assert set(layers["network"]) == set(KINDS)
    for row in layers.itertuples():
        same = budgeted[budgeted["network"] == row.network]
        # 45 passes are the price of the shallowest layer of 40 to 43
        affordable = same[same["cost"] < 1.15 * row.cost]
        assert affordable["mean_r"].max() > row.mean_r


def test_estimates_beyond_first_order_are_nearer_in_networks_of_other_labs(record: Record):
    table = record.table("external/mpra_methods").query("first == 'ISM'")
    r = table.pivot(index="model", columns="second")
    lowest = r["low"][["budgeted ISM", "layer-wise TISM"]].min(axis=1)
    assert (r["high"]["TISM"] < lowest).all()
    card = record.table("scorecard").set_index("claim_id")
    elsewhere = record.table("external/concordance").query(
        "method == 'TISM' and convention == 'all entries'"
    )
    assert elsewhere["high"].max() < card.loc["fig1a_high", "at_least"].iloc[0]
    assert set(card.loc["text_any_high", "verdict"]) == {"does not hold"}


def test_training_again_changes_a_map_more_than_any_approximation(record: Record):
    card = record.table("scorecard").set_index(["claim_id", "dataset"])
    lowest = min(
        record.one_task["mean_r"].min(),
        record.table("external/concordance").query("method == 'TISM'")["mean_r"].min(),
    )
    assert card.loc[("fig3a_ism", "yeast"), "high"] < lowest


def test_size_of_ism_points_at_interactions_at_least_as_well(record: Record):
    card = record.table("scorecard").set_index("claim_id")
    assert set(card.loc["hypothesis_more", "verdict"]) == {"does not hold"}


def test_table_in_markdown():
    table = pd.DataFrame({"a": ["x", "y"], "b": [1, 2]})
    assert markdown(table) == "| a | b |\n| :-- | --: |\n| x | 1 |\n| y | 2 |"
    assert markdown(table, texts=2).splitlines()[1] == "| :-- | :-- |"


def test_span_and_duration():
    assert span([0.301, 0.2]) == "0.20 to 0.30"
    assert span([0.301, 0.302]) == "0.30"
    assert listed("abc") == "a, b and c"
    texts = ["0.03 seconds", "5.0 seconds", "2.0 minutes", "3.0 hours", "14 days"]
    assert [duration(s) for s in (0.03, 5, 120, 10_800, 1_209_600)] == texts
