"""The claims, and what single rows of the scorecard are computed from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tism.model import VARIANTS
from tism.study import ch10_scorecard as card
from tism.study.ch06_tables import paper_networks, timed
from tism.study.ch10_judge import VERDICTS
from tism.study.networks import list_runs
from tism.study.profiles import load_profile, repository
from tism.study.records import paper_numbers


def of_the_record() -> pd.DataFrame:
    """The card of the record, from the tables that are there."""
    return card.scorecard(load_profile("yeast"), load_profile("evidence"))


@pytest.fixture(scope="module")
def recorded() -> pd.DataFrame:
    return of_the_record()


def test_paper_numbers_of_comparisons_are_combined():
    claims = card.read_claims().set_index("claim_id")["paper_value"]

    assert claims["fig1a_mean"] == 0.70
    assert claims["fig3d_relu"] == pytest.approx(0.61 - 0.70)
    assert claims["table2_growth"] == pytest.approx(8000 / 25)
    assert np.isnan(claims["fig3d_exponential"])


def test_the_rules_are_complete():
    """book/design.md says what every entry means."""
    path = repository() / "data" / "claims.csv"
    claims = pd.read_csv(path, dtype={"paper_number": str})
    bounds = claims["at_least"].fillna(-np.inf), claims["at_most"].fillna(np.inf)
    tests = {"mean", "difference", "equivalence", "correlation", "correlation equivalence"}
    tests |= {"lowest", "highest", "every"}
    page = (repository() / "book" / "design.md").read_text()

    assert claims["claim_id"].is_unique
    assert set(claims["source"]) == {"paper", "own"}
    assert set(claims["reading"].dropna()) == {"best", "epochs", "gap", "epoch"}
    assert set(claims["unit"]) == {"network", "pair", "locus", "repeat"}
    assert set(claims["test"]) == tests
    assert all(f"{test}" in page for test in tests)
    assert (bounds[0] < bounds[1]).all()
    assert np.isfinite(bounds).any(axis=0).all()
    for text in claims["paper_number"]:
        card._paper_value(text, paper_numbers())  # KeyError for an unknown one
    kinds = {claim.removeprefix("fig3d_") for claim in claims["claim_id"]}
    for variant in set(VARIANTS) - {"baseline", "relu_max"}:
        assert {variant, f"{variant}_epochs", f"{variant}_gap"} <= kinds


@pytest.fixture
def planted(monkeypatch):
    """A models.csv with every run of the design: ReLU is .2 below the others, and r = .9 - gap."""
    rows, rng = [], np.random.default_rng(0)
    for run in list_runs(load_profile("evidence")):
        network = run.network
        readings = [("epoch", e) for e in run.epochs] + [("best", 15)] * run.best
        for reading, epoch in readings:
            gap = 0.004 * epoch + rng.normal(0, 0.003)
            r = 0.9 - gap - 0.2 * (network.variant == "relu") + rng.normal(0, 0.001)
            row = {"run": run.name, "dataset": network.dataset, "reading": reading}
            row |= {"epoch": epoch, "test_region_r": 0.3 + rng.normal(0, 0.001)}
            row |= {"train_region_r": row["test_region_r"] + gap}
            rows.append({**row, "tism_all": r, "gradient_all": r - 0.2})
    table = pd.DataFrame(rows)
    others = ["tism_substitutions", "tism_mean_effect", "tism_task_differences", "ism_size"]
    others += ["gradient_substitutions", "gradient_x_input_mean_effect", "ism_motifs"]
    for name in others:
        table[name] = table["tism_all"] + rng.normal(0, 0.001, len(table))
    read = card.read_table

    def planted_or_none(profile, name="models.csv"):
        if name == card.BY_NETWORK:
            raise FileNotFoundError(name)
        return table if (profile, name) == ("evidence", "models.csv") else read(profile, name)

    monkeypatch.setattr(card, "read_table", planted_or_none)
    return table


def test_planted_networks_get_the_verdicts_that_were_planted(planted):
    found = of_the_record().set_index(["claim_id", "dataset"])

    elsewhere = ("fig3a", "fig1a_median", "fig1a_share", "fig1d", "figs2")  # other tables
    of_models = {claim for claim in card.MEASURES if not claim.startswith(elsewhere)}
    judged = found.index.get_level_values("claim_id").isin(of_models)
    assert judged.sum() > 90
    assert (found.loc[judged, "verdict"] != "pending").all()
    wanted = {"fig1a_mean": "does not hold", "fig1c_gradient": "holds", "fig3d_relu": "holds"}
    wanted |= {"fig3d_relu_epochs": "holds", "fig3d_relu_gap": "holds", "law_falls": "holds"}
    wanted |= {"fig3d_relu_lowest": "holds", "fig3d_max_pooling": "undecided"}
    wanted |= {"fig3d_cnn0": "holds", "fig3c_early": "holds", "fig3c_later": "does not hold"}
    assert {c: found.loc[(c, "yeast"), "verdict"] for c in wanted} == wanted
    assert found.loc[("fig3d_relu", "yeast"), "value"] == pytest.approx(-0.2, abs=0.01)
    assert found.loc[("fig3d_relu_gap", "simulated"), "n"] == 3
    assert found.loc[("fig3d_exponential", "yeast"), "n"] == 3
    assert ("fig3d_exponential", "simulated") not in found.index


def test_run_times_are_judged_by_their_repeats(monkeypatch):
    read, rng = card.read_table, np.random.default_rng(0)
    times = read("yeast", "runtime.csv")
    about_median = times["seconds"].to_numpy()[:, None] * rng.normal(1, 0.01, (len(times), 5))
    times["each"] = [" ".join(map(str, repeats)) for repeats in about_median]
    monkeypatch.setattr(
        card, "read_table", lambda *names: times if "runtime.csv" in names else read(*names)
    )

    found = of_the_record().query("unit == 'repeat'").set_index("claim_id")

    table_2 = timed(paper_networks(times), "paper").query("length == 251")
    table_2 = table_2[table_2["n_sequences"] == table_2["n_sequences"].min()]
    seconds = table_2.set_index("method")["seconds"]
    assert {*found.index} == {*card.RUN_TIMES}
    ratio = seconds["ISM"] / seconds["TISM, one task"]
    assert found.loc["table2_251", "value"] == pytest.approx(ratio, rel=0.03)
    assert (found["n"] == 5).all()
    assert (found["verdict"] != "pending").all()


def test_one_network_less_makes_its_claims_pending(planted):
    lost = planted.index[(planted["run"] == "yeast_relu_4") & (planted["epoch"] == 22)]
    planted.loc[lost, "run"] = "another"
    found = of_the_record().set_index(["claim_id", "dataset"])

    assert found.loc[("fig3d_relu_epochs", "yeast"), "wants"] == "yeast_relu_4"
    assert found.loc[("fig3d_relu_epochs", "yeast"), "verdict"] == "pending"
    assert found.loc[("fig3d_relu", "yeast"), "verdict"] == "holds"  # the best weights are there


def test_a_network_that_died_is_left_out_of_the_mean_of_the_fixed_epochs(planted):
    dead = (planted["run"] == "yeast_relu_4") & (planted["epoch"] == 22)
    planted.loc[dead, "tism_all"] = np.nan
    found = of_the_record().set_index(["claim_id", "dataset"])

    n = {"fig3d_relu": 5, "fig3d_relu_epochs": 4, "fig3d_relu_gap": 5}
    assert {claim: found.loc[(claim, "yeast"), "n"] for claim in n} == n
    assert {found.loc[(claim, "yeast"), "verdict"] for claim in n} == {"holds"}
    assert found.loc[("law_falls", "yeast"), "verdict"] == "holds"


def test_every_rule_is_judged_and_none_is_altered(recorded):
    claims, found = card.read_claims().set_index("claim_id"), recorded

    assert {*found["claim_id"]} == {*claims.index}
    of_rules = found["claim_id"].map(claims["at_least"])
    assert (found["at_least"] == of_rules).all()
    assert found.loc[found["verdict"] == "pending", "wants"].ne("").all()
    assert {f"fig3d_{v}_gap" for v in VARIANTS} - {*claims.index} == {
        "fig3d_baseline_gap", "fig3d_relu_max_gap"
    }  # fmt: skip


def test_every_row_is_counted_once(recorded):
    for by in ("dataset", "source"):
        counts = card.count_verdicts(recorded, by)
        assert tuple(counts.columns[1:]) == VERDICTS
        assert counts[[*VERDICTS]].to_numpy().sum() == len(recorded)


def test_networks_of_other_labs_have_a_row_each(recorded):
    rows = recorded.query("claim_id == 'text_any_high'").set_index("dataset")

    assert list(rows.index) == list(card.PUBLISHED)
    assert rows["value"].between(rows["low"], rows["high"]).all()


def test_items_and_a_data_set_select_rows(recorded):
    items = ("Fig 3A", "Fig 3C")
    claims = card.read_claims().query("paper_item in @items")

    table = card.shown(recorded, *items, dataset="yeast")

    own = claims["source"].map({"own": " \u2020", "paper": ""})
    assert table["statement"].tolist() == (claims["statement"] + own).tolist()
    assert {"data", "missing"}.isdisjoint(table)
    narrow = claims["test"].eq("equivalence").tolist()  # which has an interval of 90 %
    assert table["interval"].str.endswith(" *").tolist() == narrow


# --- another profile, with its own networks ------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where fresh tables of the demo profile, of which none is recorded, are looked for."""
    monkeypatch.setenv("TISM_RESULTS_DIR", str(tmp_path))
    (tmp_path / "demo").mkdir()
    return tmp_path / "demo"


def of_demo(folder, **r_of_variants):
    """The card of demo, where baselines have r of .70 and .72 and variants what is given."""
    rows = []
    for run in list_runs(load_profile("demo")):
        r = {"baseline": 0.70 + run.network.seed / 50, **r_of_variants}.get(run.network.variant)
        for reading, epoch in [("epoch", e) for e in run.epochs] + [("best", 9)] * run.best:
            row = {"run": run.name, "dataset": "simulated", "reading": reading, "epoch": epoch}
            row |= {"ism_size": 1 + len(rows) / 9, "test_region_r": 0.3 + len(rows) / 99}
            rows.append({**row, "tism_all": r, "gradient_all": r and r - 0.1})
    table = pd.DataFrame(rows).assign(control="", train_region_r=0.9)
    for name in ("tism_substitutions", "tism_mean_effect", "tism_task_differences", "ism_motifs",
                 "gradient_substitutions", "gradient_x_input_mean_effect"):  # fmt: skip
        table[name] = table["tism_all"]
    table.dropna(subset="tism_all").to_csv(folder / "models.csv", index=False)
    demo = load_profile("demo")
    return card.scorecard(demo, demo).set_index("claim_id")


def test_a_profile_has_rows_for_the_networks_that_it_plans(folder):
    found = of_demo(folder, relu=0.6, max_pooling=0.7, adamw=0.72)

    assert {*found["dataset"]} == {"simulated", "mouse", "random sequences", *card.PUBLISHED}
    assert found.loc["fig1a_mean", ["value", "n"]].tolist() == pytest.approx([0.71, 2])
    assert found.loc["fig1c_gradient", "verdict"] == "holds"
    assert found.loc["fig3d_relu", "value"] == pytest.approx(-0.11)
    absent = {"fig3d_cnn0", "fig3d_relu_epochs", "fig3d_relu_gap", "fig3c_warm_up", "law_error"}
    assert absent.isdisjoint(found.index)


def test_what_is_not_there_is_named(folder):
    found = of_demo(folder, max_pooling=0.7, adamw=0.72)

    assert found.loc["fig3d_max_pooling", "wants"] == "simulated_relu_0"
    assert found.loc["fig3a_ism", "wants"] == "initialisations.csv"
    assert found.loc["fig1a_median", "wants"] == "figure_1_networks.csv"
    assert found.loc["table2_251", "wants"] == "runtime.csv"
    assert found.loc["fig1b_region", "wants"] == "the data of the paper"
    assert (found.loc[found["wants"] != "", "verdict"] == "pending").all()


def test_maps_of_one_network_are_set_against_pairs_of_networks(folder):
    own = {"0": 0.80, "1": 0.82}
    rows = [("ISM-TISM, one network", k, k, r) for k, r in own.items()]
    rows += [("ISM-ISM", "0", "1", 0.5), ("ISM-ISM", "all", "all", 0.5)]
    table = pd.DataFrame(rows, columns=["relation", "first_seed", "second_seed", "value"])
    table = table.assign(dataset="simulated", convention="all entries")
    table.to_csv(folder / "initialisations.csv", index=False)

    found = of_demo(folder)

    assert found.loc["fig3a_own", "value"] == pytest.approx(0.31)
    assert found.loc["fig3a_ism", "value"] == pytest.approx(0.5)
