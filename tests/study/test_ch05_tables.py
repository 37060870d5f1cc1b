"""The views of chapter 05 on small tables, and its example maps on untrained networks."""

import numpy as np
import pandas as pd
import pytest
import torch

from tism.model import VARIANTS
from tism.study import ch05_tables as comparison
from tism.study.scores import Scores
from tism.study.statistics import jackknife_pairs, mean_of

SEEDS = ("0", "1", "2")


def initialisations():
    rows = [("ISM-TISM, one network", k, k, 0.8 + int(k) / 100) for k in SEEDS]
    for i in SEEDS:
        for j in SEEDS:
            if i < j:
                rows.append(("ISM-ISM", i, j, 0.6))
                rows.append(("TISM-TISM", i, j, 0.5))
            if i != j:
                rows.append(("ISM-TISM, two networks", i, j, 0.4 if i < j else 0.5))
    rows.append(("ISM-ISM", "all", "all", 0.6))
    table = pd.DataFrame(rows, columns=["relation", "first_seed", "second_seed", "value"])
    other = table.assign(convention="centred", value=0.0)
    return pd.concat([table.assign(convention="all entries"), other])


def models(**columns):
    table = pd.DataFrame(columns)
    table["run"] = [f"run{k}" for k in range(len(table))]
    defaults = {"control": "", "experiment": "ablation", "dataset": "yeast", "fraction": 1.0}
    for name, value in defaults.items():
        table[name] = table.get(name, value)
    return table


def test_pairs_are_single_networks_of_one_convention():
    pairs = comparison.initialisation_pairs(initialisations())

    assert "all" not in set(pairs["first_seed"])
    assert pairs.loc[pairs["kind"] == "ISM-ISM", "value"].tolist() == [0.6] * 3


def test_means_are_over_networks_where_maps_are_of_one_and_over_pairs_elsewhere():
    pairs = comparison.initialisation_pairs(initialisations())

    table = comparison.initialisation_means(pairs, {"fig3a_ism_ism_r": 0.58}).set_index("kind")

    wanted = mean_of([0.80, 0.81, 0.82])
    row = table.loc["ISM-TISM, one network", ["value", "low", "high"]]
    assert row.tolist() == pytest.approx(wanted[:3])
    both_ways = jackknife_pairs({("0", "1"): 0.45, ("0", "2"): 0.45, ("1", "2"): 0.45})
    assert table.loc["ISM-TISM, two networks", "value"] == pytest.approx(both_ways.value)
    assert table.loc["ISM-ISM", "paper"] == 0.58
    assert np.isnan(table.loc["ISM-TISM, two networks", "paper"])


def test_every_variant_has_a_name():
    assert set(comparison.VARIANT_NAMES) == set(VARIANTS)


def test_kinds_of_network_are_ordered_by_their_means():
    rows = comparison.variants(
        models(
            variant=["baseline"] * 3 + ["relu"] * 3 + ["adamw"],
            control=[""] * 6 + ["no_weight_decay"],
            tism_all=[0.7, 0.71, 0.69, 0.6, 0.61, 0.59, 0.8],
            test_region_r=[0.3, 0.3, 0.3, 0.2, 0.2, 0.2, 0.1],
        )
    )

    table = comparison.ablation_table(rows, {"fig3d_relu_r": 0.61, "fig3d_adamw_r": 0.82})

    assert table["kind"].tolist() == ["AdamW, no weight decay", "baseline", "ReLU"]
    relu = table.set_index("kind").loc["ReLU"]
    assert relu[["value", "low", "high", "n"]].tolist() == pytest.approx(mean_of([0.6, 0.61, 0.59]))
    assert relu["paper"] == 0.61
    assert table["paper"].isna().tolist() == [True, True, False]  # a control has no number


def test_the_readings_of_networks_are_compared_each_for_itself():
    kinds = np.repeat(["baseline", "relu"], 9)
    rows = models(variant=kinds).assign(run=np.repeat(list("abcdef"), 3))
    rows["reading"] = ["epoch", "epoch", "best"] * 6
    gap = np.tile([0.1, 0.2, 0.15], 6) + 0.1 * (kinds == "relu")
    rows = rows.assign(train_region_r=0.3 + gap, test_region_r=0.3)
    rows["tism_all"] = 0.9 - 0.5 * gap + np.repeat([0, 1, 2] * 2, 3) / 1000
    rows["tism_all"] -= 0.2 * ((kinds == "relu") & (rows["reading"] == "best"))

    table = comparison.three_readings(rows).set_index("reading")

    expected = {"as trained": -0.25, "at fixed epochs": -0.05}
    assert table.loc[[*expected], "value"].tolist() == pytest.approx([*expected.values()])
    assert table.loc["at equal gap", "value"] == pytest.approx(-0.2 / 3)
    assert table["kind"].unique().tolist() == ["ReLU"]
    assert (table["high"] < 0).all()


@pytest.mark.filterwarnings("ignore:Computation of the confidence interval")  # of few networks
def test_a_network_without_a_map_at_an_epoch_is_left_out_of_the_mean_of_the_epochs():
    rows = models(variant=np.repeat(["baseline", "relu"], 9)).assign(run=np.repeat([*"abcdef"], 3))
    rows["reading"] = ["epoch", "epoch", "best"] * 6
    gap = np.tile([0.1, 0.2, 0.15], 6)
    rows = rows.assign(train_region_r=0.3 + gap, test_region_r=0.3)
    rows["tism_all"] = 0.9 - 0.5 * gap + np.repeat([0, 5, 2, 4, 1, 3], 3) / 100
    rows.loc[16, "tism_all"] = np.nan  # the second epoch of the last network

    table = comparison.three_readings(rows).set_index("reading")

    assert table["n"].to_dict() == {"as trained": 3, "at fixed epochs": 2, "at equal gap": 3}
    assert table.loc["at fixed epochs", "value"] == pytest.approx((4 + 1) / 200 - 7 / 300)


def test_networks_that_were_read_once_are_compared_as_trained():
    rows = models(variant=["baseline", "baseline", "relu"], tism_all=[0.7, 0.8, 0.6])
    rows = rows.assign(run=list("abc"), reading="best", train_region_r=0.4, test_region_r=0.3)

    table = comparison.three_readings(rows)

    assert table[["kind", "reading", "value"]].to_numpy().tolist() == [
        ["ReLU", "as trained", pytest.approx(-0.15)]
    ]


def test_a_share_of_the_regions_has_a_row_for_each_network_and_reading():
    rows = models(
        experiment=["fraction", "fraction", "fraction", "initialisation;fraction", "ablation"],
        reading=["epoch", "epoch", "best", "best", "best"],
        fraction=[0.05, 0.05, 0.05, 1.0, 1.0],
        seed=0,
        tism_all=[0.8, 0.6, 0.9, 0.5, 0.1],
    ).assign(test_region_r=0.2, learned_region_r=0.4)

    table = comparison.shares(rows).set_index(["fraction", "reading"])

    assert table["tism_all"].to_dict() == pytest.approx(
        {(0.05, "as trained"): 0.9, (0.05, "at fixed epochs"): 0.7, (1.0, "as trained"): 0.5}
    )
    assert table[["test", "learned"]].to_numpy().tolist() == [[0.2, 0.4]] * 3


def test_an_origin_is_what_sets_a_network_apart():
    rows = models(
        variant=["baseline", "baseline", "relu", "adamw"],
        fraction=[1.0, 0.1, 1.0, 1.0],
        experiment=["initialisation;fraction;ablation", "fraction", "ablation", "epoch"],
    )
    origins = comparison.origins(rows)["origin"].tolist()
    assert origins == ["baseline", "less data", "another part", "another age"]


def test_the_networks_of_the_example_are_those_of_the_first_seed():
    parts = models(
        variant=["baseline"] * 4,
        fraction=[1.0, 0.05, 0.05, 0.5],
        seed=[0, 0, 1, 0],
        experiment=["fraction;ablation", "fraction", "fraction", "fraction"],
    )

    runs = comparison.example_runs(parts)

    assert runs == {"5 % of the regions": "run1", "100 % of the regions": "run0"}


def test_the_example_is_the_task_with_the_highest_prediction_where_bases_matter():
    generator = torch.Generator().manual_seed(0)
    one_hot = torch.nn.functional.one_hot(torch.randint(4, (2, 100), generator=generator), 4).mT
    one_hot = one_hot.float()
    exact = torch.randn(2, 3, 4, 100, generator=generator) * (1 - one_hot[:, None]) / 100
    exact[..., 10:20] *= 100
    scores = Scores(
        rows=np.arange(2),
        one_hot=one_hot,
        ism=exact,
        gradient=exact,
        predicted=torch.tensor([[0.0, 2.0, 1.0], [5.0, 0.0, 1.0]]),
    )

    region, task, window = comparison.example(scores)

    assert task == (1 if region == 0 else 0)
    assert window.start <= 10 < 20 <= window.stop
    assert window.stop - window.start == 80
