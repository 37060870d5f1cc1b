"""The loss of low precision: its definition, and the committed table."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from tism.study import low_precision as precision
from tism.study.data.download import data_root


@pytest.fixture
def recorded() -> pd.DataFrame:
    return pd.read_csv(data_root() / "results" / "precision.csv")


def test_the_error_is_a_share_of_the_largest_score_of_the_profile():
    exact = torch.zeros(3, 1, 4, 5)
    exact[:, 0, 1, 2], exact[:, 0, 0, 0] = torch.tensor([1.0, 2.0, 10.0]), -0.5
    low = exact.clone()
    low[:, 0, 3, 3] += torch.tensor([0.1, -0.4, 0.1])
    found = precision.loss(low, exact)
    assert found["error"] == pytest.approx(0.1)
    assert found["worst"] == pytest.approx(0.2)
    assert 0.9 < found["mean_r"] < 1


def test_the_committed_table_is_of_these_networks_and_supports_the_page(recorded):
    networks = [*precision.TRAINED, *precision.UNTRAINED]
    assert list(recorded["network"].unique()) == networks
    assert len(recorded) == 2 * len(precision.PRECISIONS) * len(networks)
    by_precision = recorded.pivot(index=["network", "score"], columns="precision", values="error")
    assert (by_precision["float16"] < by_precision["bfloat16"]).all()
    trained = recorded["network"].isin(precision.TRAINED)
    worst = recorded.groupby(["precision", trained])["worst"].max().unstack()
    assert (worst[True] < worst[False]).all()


def test_a_trained_network_loses_what_the_table_says(recorded, monkeypatch):
    monkeypatch.setattr(precision, "_SEQUENCES", 3)
    _, first_order, _ = next(precision.scored_networks())
    exact = first_order()
    rows = recorded[(recorded["network"] == "yeast") & (recorded["score"] == "TISM")]
    said = rows.set_index("precision")["error"]
    for name, dtype in precision.PRECISIONS.items():
        found = precision.loss(first_order(autocast=dtype), exact)
        assert said[name] / 4 < found["error"] < 4 * said[name]
