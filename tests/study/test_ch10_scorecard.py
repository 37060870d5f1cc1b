"""The claims, the rule of the verdicts, and what single rows of the scorecard are computed from."""

import numpy as np
import pandas as pd
import pytest

from tism.model import VARIANTS
from tism.study import ch10_scorecard as scorecard
from tism.study.profiles import load_profile, repository
from tism.study.records import paper_numbers
from tism.study.statistics import Estimate, compare_with, mean_of

NAN = float("nan")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where fresh tables of the demo profile, of which none is recorded, are looked for."""
    monkeypatch.setenv("TISM_RESULTS_DIR", str(tmp_path))
    (tmp_path / "demo").mkdir()
    return tmp_path / "demo"


def rows_of(claim):
    table = scorecard.scorecard(load_profile("demo"))
    return table[table["claim_id"] == claim].iloc[0]


def write_models(folder, **columns):
    table = pd.DataFrame(columns)
    table = table.assign(dataset="simulated")
    defaults = {"control": "", "experiment": "ablation", "fraction": 1.0}
    defaults |= {"epoch": 9, "variant": "baseline"}
    measures = "test_region_r ism_size tism_task_differences gradient_all tism_substitutions"
    measures += " gradient_substitutions tism_mean_effect gradient_x_input_mean_effect"
    defaults |= dict.fromkeys(measures.split(), table["tism_all"])
    for name, value in defaults.items():
        table[name] = table.get(name, value)
    table.to_csv(folder / "models.csv", index=False)


def test_every_claim_has_one_measure_and_every_measure_a_claim():
    claims = scorecard.read_claims()
    known = [*scorecard.MEASURES, *scorecard.RUN_TIMES, *scorecard.EXTERNAL]

    assert sorted(claims["claim_id"]) == sorted(known)
    assert len(claims) >= 24
    assert (claims["at_least"] < claims["at_most"]).all()
    assert np.isfinite(claims[["at_least", "at_most"]]).any(axis=1).all()


def test_paper_numbers_of_comparisons_are_combined():
    claims = scorecard.read_claims().set_index("claim_id")["paper_value"]

    assert claims["fig1a_mean"] == 0.70
    assert claims["fig3d_relu"] == pytest.approx(0.61 - 0.70)
    assert claims["table2_growth"] == pytest.approx(8000 / 25)
    assert np.isnan(claims["fig3d_exponential"])


def test_rules_of_the_new_networks_are_complete():
    """book/design.md says what every entry means."""
    path = repository() / "data" / "claims_evidence.csv"
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
        scorecard._paper_value(text, paper_numbers())  # KeyError for an unknown one
    kinds = {claim.removeprefix("fig3d_") for claim in claims["claim_id"]}
    for variant in set(VARIANTS) - {"baseline", "relu_max"}:
        assert {variant, f"{variant}_epochs", f"{variant}_gap"} <= kinds


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.61, 0.79, "holds"),
        (0.60, 0.80, "holds"),
        (0.81, 0.90, "does not hold"),
        (0.30, 0.59, "does not hold"),
        (0.55, 0.65, "undecided"),
        (0.50, 0.90, "undecided"),
        (NAN, NAN, "undecided"),
    ],
)
def test_the_rule_of_a_range(low: float, high: float, verdict: str):
    assert scorecard.judge(Estimate(0.7, low, high, 3), 0.6, 0.8) == verdict


def test_without_a_value_nothing_was_measured():
    assert scorecard.judge(Estimate(NAN, NAN, NAN, 0), 0.6, 0.8) == "not measured"


def test_without_tables_nothing_is_measured(folder):
    table = scorecard.scorecard(load_profile("demo"))

    own = table[~table["claim_id"].isin(scorecard.EXTERNAL)]  # which belongs to no profile
    assert (own["verdict"] == "not measured").all()
    assert scorecard.shown(own).empty


def test_a_claim_is_not_measured_only_where_no_data_set_has_it():
    table = scorecard.scorecard(load_profile("yeast"), ["Fig 1A", "Fig 1B", "Fig 3C"])
    datasets = table.groupby("claim_id")["dataset"].agg(list)

    assert datasets["fig1a_mean"] == ["yeast", "simulated"]
    assert datasets["fig1b_region"] == ["yeast", "simulated"]  # the paper's data are on neither
    assert datasets["fig3c_start"] == ["yeast"]


def test_networks_of_other_labs_have_a_row_each(folder):
    table = scorecard.scorecard(load_profile("demo"), ["discussion"])
    rows = table[table["claim_id"] == "text_any_high"].set_index("dataset")

    assert list(rows.index) == list(scorecard.EXTERNAL_MODELS)
    assert rows["value"].between(rows["low"], rows["high"]).all()


def test_an_item_selects_its_claims(folder):
    table = scorecard.scorecard(load_profile("demo"), ["Fig 3A"])

    assert set(table["claim_id"]) == {"fig3a_ism", "fig3a_tism", "fig3a_own", "fig3a_stable"}


def test_a_row_of_one_network_has_the_interval_of_its_table(folder):
    row = {"dataset": "simulated", "measure": "median", "unit": "loci"}
    row |= {"value": 0.7, "low": 0.65, "high": 0.75, "n": 9}
    pd.DataFrame([row]).to_csv(folder / "figure_1.csv", index=False)

    found = rows_of("fig1a_median")

    assert found[["value", "low", "high", "n"]].tolist() == [0.7, 0.65, 0.75, 9]
    assert found["verdict"] == "holds"
    assert rows_of("fig1a_mean")["verdict"] == "not measured"


def test_all_initialisations_are_judged_whatever_experiment_they_belong_to(folder):
    r = [0.70, 0.71, 0.72, 0.2]
    experiments = ["initialisation", "ablation", "fraction;ablation", "epoch"]
    columns = {"seed": [0, 1, 2, 0], "experiment": experiments, "run": list("abcd")}
    gradient = [0.60, 0.72, 0.61, 0.1]
    write_models(folder, tism_all=r, gradient_all=gradient, **columns)

    found = rows_of("fig1a_mean")

    assert found[["value", "low", "high", "n"]].tolist() == pytest.approx(mean_of(r[:3]))
    assert found["verdict"] == "holds"
    assert rows_of("fig1c_gradient")["value"] == pytest.approx((0.10 - 0.01 + 0.11) / 3)
    assert rows_of("fig1c_gradient")["verdict"] == "undecided"


def test_ablations_are_compared_all_at_once(folder):
    values = {"baseline": [0.70, 0.71, 0.69], "relu": [0.60, 0.61, 0.62], "adamw": [0.72, 0.7, 0.7]}
    write_models(
        folder,
        variant=[name for name, r in values.items() for _ in r],
        tism_all=[value for r in values.values() for value in r],
        seed=[0, 1, 2] * 3,
    )
    others = {name: values[name] for name in ("relu", "adamw")}
    wanted = compare_with(values["baseline"], others).set_index("name").loc["relu"]

    found = rows_of("fig3d_relu")

    assert found[["value", "low", "high"]].tolist() == pytest.approx(
        wanted[["value", "low", "high"]].tolist()
    )
    assert found["verdict"] == "holds"
    assert rows_of("fig3d_adamw")["verdict"] == "undecided"
    assert rows_of("fig3d_lowest")["verdict"] == "not measured"  # before all of them are there


def test_the_lowest_variant_is_that_of_the_lowest_mean(folder):
    names = [name for name in VARIANTS if name != "relu_max"]
    write_models(
        folder,
        variant=[name for name in names for _ in range(2)],
        tism_all=[0.7 + k / 100 for k in range(2 * len(names))],
        seed=[0, 1] * len(names),
    )

    assert rows_of("fig3d_lowest")["value"] == pytest.approx(0.705)


def test_epochs_are_compared_within_each_training(folder):
    write_models(
        folder,
        experiment="epoch",
        variant="baseline",
        epoch=[7, 100, 7, 100, 7, 100],
        seed=[0, 0, 1, 1, 2, 2],
        tism_all=[0.80, 0.70, 0.90, 0.79, 0.70, 0.61],
    )

    found = rows_of("fig3c_early")

    assert found[["value", "low", "high"]].tolist() == pytest.approx(
        mean_of([0.10, 0.11, 0.09])[:3]
    )
    assert found["verdict"] == "holds"


def test_maps_of_one_network_are_set_against_pairs_of_networks(folder):
    own = {"0": 0.80, "1": 0.82, "2": 0.81}
    rows = [("ISM-TISM, one network", k, k, r) for k, r in own.items()]
    rows += [("ISM-ISM", i, j, 0.5) for i in own for j in own if i < j]
    rows += [("ISM-ISM", "all", "all", 0.5)]
    table = pd.DataFrame(rows, columns=["relation", "first_seed", "second_seed", "value"])
    table = table.assign(dataset="simulated", convention="all entries")
    table.to_csv(folder / "initialisations.csv", index=False)

    found = rows_of("fig3a_own")

    assert found["value"] == pytest.approx(0.31)
    assert found["verdict"] == "holds"
    assert rows_of("fig3a_ism")["value"] == pytest.approx(0.5)


def test_counts_have_every_verdict(folder):
    table = scorecard.scorecard(load_profile("demo"))

    counts = scorecard.count_verdicts(table)

    assert tuple(counts.columns[1:]) == scorecard.VERDICTS
    assert counts[list(scorecard.VERDICTS)].to_numpy().sum() == len(table)


def test_run_times_are_read_from_the_record(folder):
    items = ["Table 1", "Table 2", "Fig 2", "Fig S3", "title"]

    table = scorecard.scorecard(load_profile("yeast"), items)

    assert set(table["claim_id"]) == set(scorecard.RUN_TIMES)
    assert (table["verdict"] != "not measured").all()
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
