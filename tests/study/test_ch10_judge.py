"""The judge of the new networks on planted numbers, where each verdict is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tism.model import VARIANTS
from tism.study import ch10_judge as judge
from tism.study.ch10_judge import Sample, decide
from tism.study.ch10_scorecard import read_claims, scorecard
from tism.study.networks import list_runs
from tism.study.profiles import load_profile

INF = np.inf
SPREAD = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])


def kinds(**means):
    return {name: mean + SPREAD for name, mean in means.items()}


def verdict(test, groups, at_least=-INF, at_most=INF, **sample):
    return decide(test, Sample(groups, **sample), at_least, at_most)["verdict"]


@pytest.mark.parametrize(
    ("mean", "expected"), [(0.7, "holds"), (0.9, "does not hold"), (0.795, "undecided")]
)
def test_a_mean(mean, expected):
    assert verdict("mean", kinds(baseline=mean), 0.6, 0.8) == expected


@pytest.mark.parametrize(
    ("relu", "expected"), [(0.6, "holds"), (0.8, "does not hold"), (0.69, "undecided")]
)
def test_a_difference(relu, expected):
    groups = kinds(baseline=0.7, relu=relu, adamw=0.5)
    found = verdict("difference", groups, at_most=0, name="relu", reference="baseline")
    assert found == expected


@pytest.mark.parametrize(
    ("relu", "expected"), [(0.7, "holds"), (0.8, "does not hold"), (0.74, "undecided")]
)
def test_equivalence(relu, expected):
    groups = kinds(baseline=0.7, relu=relu)
    about = {"name": "relu", "reference": "baseline"}
    assert verdict("equivalence", groups, -0.05, 0.05, **about) == expected
    assert verdict("equivalence", kinds(baseline=relu - 0.7), -0.05, 0.05) == expected


def test_equivalence_takes_the_90_percent_interval_and_its_refusal_the_95_percent_one():
    values = kinds(baseline=0.0)["baseline"]
    error = values.std(ddof=1) / np.sqrt(5)
    bound = 2.4 * error  # t is 2.13 at 90 % and 2.78 at 95 %
    assert verdict("equivalence", {"baseline": values}, -bound, bound) == "holds"
    assert verdict("mean", {"baseline": values}, -bound, bound) == "undecided"
    assert verdict("equivalence", {"baseline": values}, bound, INF) == "undecided"


def test_no_worse_has_one_bound():
    groups = kinds(baseline=0.3, relu=0.5)
    about = {"name": "relu", "reference": "baseline"}
    assert verdict("equivalence", groups, -0.02, INF, **about) == "holds"


@pytest.mark.parametrize(
    ("mean", "expected"), [(-0.95, "holds"), (-0.2, "does not hold"), (-0.81, "undecided")]
)
def test_a_correlation(mean, expected):
    assert verdict("correlation", kinds(baseline=mean), at_most=-0.8) == expected


@pytest.mark.parametrize(
    ("mean", "expected"), [(0.0, "holds"), (0.3, "does not hold"), (0.09, "undecided")]
)
def test_no_correlation(mean, expected):
    groups = kinds(baseline=mean)
    assert verdict("correlation equivalence", groups, -0.1, 0.1) == expected


@pytest.mark.parametrize(
    ("relu", "expected"), [(0.4, "holds"), (0.7, "does not hold"), (0.495, "undecided")]
)
def test_the_lowest_and_the_highest(relu, expected):
    groups = kinds(baseline=0.7, relu=relu, adamw=0.5)
    assert verdict("lowest", groups, 0, name="relu") == expected
    negated = {kind: -values for kind, values in groups.items()}
    assert verdict("highest", negated, 0, name="relu") == expected


@pytest.mark.parametrize(
    ("relu", "expected"), [(0.7, "holds"), (0.5, "does not hold"), (0.61, "undecided")]
)
def test_every_kind(relu, expected):
    assert verdict("every", kinds(baseline=0.8, relu=relu), 0.6) == expected


def test_pairs_have_the_interval_of_the_jackknife():
    pairs = {(i, j): 0.3 + (i + j) / 1000 for i in range(5) for j in range(i + 1, 5)}
    found = decide("mean", Sample(pairs=pairs), 0.48, 0.68)
    assert found["verdict"] == "does not hold"
    assert found["n"] == 5


def test_a_claim_is_pending_while_a_network_is_missing():
    found = decide("mean", Sample(kinds(baseline=0.7), wants=["yeast_baseline_5"]), 0.6, 0.8)
    assert found["verdict"] == "pending"
    assert found["value"] == pytest.approx(0.7)
    groups = kinds(baseline=0.7, relu=0.1)
    absent = decide("lowest", Sample(groups, "relu", wants=["yeast_adamw_0"]), 0, INF)
    assert np.isnan(absent["value"])  # which kinds are missing, nobody can say


def test_seeds_that_a_decision_would_need_make_it():
    found = decide("mean", Sample(kinds(baseline=0.79)), 0.6, 0.8)
    many = np.tile(kinds(baseline=0.79)["baseline"], 8)
    assert found["verdict"] == "undecided"
    assert 5 < found["seeds"] < 40
    assert verdict("mean", {"baseline": many}, 0.6, 0.8) == "holds"


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
    read = judge.read_table

    def planted_or_none(profile, name="models.csv"):
        if name == judge.BY_NETWORK:
            raise FileNotFoundError(name)
        return table if name == judge.DESIGN else read(profile, name)

    monkeypatch.setattr(judge, "read_table", planted_or_none)
    return table


def test_planted_networks_get_the_verdicts_that_were_planted(planted):
    found = judge.judge_networks().set_index(["claim_id", "dataset"])

    elsewhere = ("fig3a", "fig1a_median", "fig1a_share", "fig1d", "figs2")  # other tables
    of_models = {claim for claim in judge.MEASURES if not claim.startswith(elsewhere)}
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
    read, rng = judge.read_table, np.random.default_rng(0)
    times = read("yeast", "runtime.csv")
    about_median = times["seconds"].to_numpy()[:, None] * rng.normal(1, 0.01, (len(times), 5))
    times["each"] = [" ".join(map(str, repeats)) for repeats in about_median]
    monkeypatch.setattr(
        judge, "read_table", lambda *names: times if "runtime.csv" in names else read(*names)
    )

    found = judge.judge_networks().query("unit == 'repeat'").set_index("claim_id")

    medians = scorecard(load_profile("yeast")).set_index("claim_id")["value"]
    assert {*found.index} == {*judge.RUN_TIMES}
    assert found["value"].to_dict() == pytest.approx(medians[found.index].to_dict(), rel=0.03)
    assert (found["n"] == 5).all()
    assert (found["verdict"] != "pending").all()


def test_one_network_less_makes_its_claims_pending(planted):
    lost = planted.index[(planted["run"] == "yeast_relu_4") & (planted["epoch"] == 22)]
    planted.loc[lost, "tism_all"] = np.nan
    found = judge.judge_networks().set_index(["claim_id", "dataset"])

    assert found.loc[("fig3d_relu_epochs", "yeast"), "wants"] == "yeast_relu_4"
    assert found.loc[("fig3d_relu_epochs", "yeast"), "verdict"] == "pending"
    assert found.loc[("fig3d_relu", "yeast"), "verdict"] == "holds"  # the best weights are there


def test_every_rule_is_judged_and_none_is_altered():
    claims = read_claims("claims_evidence.csv").set_index("claim_id")
    found = judge.judge_networks()

    assert {*found["claim_id"]} == {*claims.index}
    of_rules = found["claim_id"].map(claims["at_least"])
    assert (found["at_least"] == of_rules).all()
    assert found.loc[found["verdict"] == "pending", "wants"].ne("").all()
    counts = judge.count_by_source(found)
    assert counts[list(judge.VERDICTS)].to_numpy().sum() == len(found)
    assert {f"fig3d_{v}_gap" for v in VARIANTS} - {*claims.index} == {
        "fig3d_baseline_gap", "fig3d_relu_max_gap"
    }  # fmt: skip
