"""Predicted against measured substitutions, on models and elements whose answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tism import ism, one_hot_encode, tism
from tism.study import ch08_attribution, ch08_elements
from tism.study.ch08_attribution import (
    EFFECT_PREDICTORS,
    MeanTask,
    deep_lift_multipliers,
    removal_effect,
)
from tism.study.ch08_elements import (
    N_RESAMPLES,
    compare_with_measured,
    convergence_deltas,
    element_maps,
    element_tracks,
    locus_table,
    measured_tables,
    method_agreement,
    motif_recovery,
    predicted_effects,
    resampled_correlations,
    score_loci,
    summarise_loci,
    tile_starts,
)
from tism.study.ch08_networks import CalderonCNN, ExternalModel
from tism.study.data.kircher import Locus

WINDOW = 30
FAST = {"ISM": ism, "TISM": tism}


def make_locus(length: int, seed: int = 0, name: str = "L", match: str = "same") -> Locus:
    """An element whose every substitution was measured; all of the first 40 bp are significant."""
    rng = np.random.default_rng(seed)
    sequence = "".join(rng.choice(list("ACGT"), length))
    reference = one_hot_encode(sequence)[0] == 1
    effect = torch.tensor(rng.normal(size=(4, length))).masked_fill(reference, float("nan"))
    significant = (torch.arange(length) < 40) & ~reference
    return Locus(
        name, "enhancer", "X", match, "chr1", 1, length, "+", sequence, effect, significant,
        {"a": effect, "b": effect}, {"tiny": "one;two"},
    )  # fmt: skip


@pytest.fixture
def external() -> ExternalModel:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(4, 8, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8 * 13, 3)
    )
    return ExternalModel("tiny", net.double().eval(), WINDOW, ("one", "two", "three"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TISM_DATA_DIR", str(tmp_path))


def test_tiles_cover_the_element_to_its_end():
    assert tile_starts(43, 30).tolist() == [0, 5, 10, 13]
    assert tile_starts(30, 30).tolist() == [0]
    assert tile_starts(31, 30).tolist() == [0, 1]


def test_every_position_is_read_from_the_tile_that_shows_most_of_both_sides(external):
    locus = make_locus(75)
    found = predicted_effects(external, locus, ism)

    starts = [*range(0, 45, 5), 45]
    for position in range(75):
        start = min(starts, key=lambda s: abs(s + 14.5 - position))
        tile = locus.one_hot[:, :, start : start + WINDOW]
        expected = ism(external.model, tile, [0, 1]).mean(1)[0, :, position - start]
        torch.testing.assert_close(found[:, position], expected)


def test_a_short_element_stands_in_the_middle_between_unknown_bases(external):
    locus = make_locus(21)
    found = predicted_effects(external, locus, tism)

    window = torch.zeros(1, 4, WINDOW, dtype=torch.float64)
    window[:, :, 5:26] = locus.one_hot
    expected = tism(external.model, window, [0, 1]).mean(1)[0, :, 5:26]
    torch.testing.assert_close(found, expected)


def test_removal_gives_every_alternate_the_loss_of_the_reference():
    one_hot = one_hot_encode("ACN")
    contribution = torch.arange(12.0).reshape(1, 1, 4, 3)
    effect = removal_effect(contribution, one_hot)[0, 0]
    assert effect.tolist() == [[0, -4, 0], [0, 0, 0], [0, -4, 0], [0, -4, 0]]


def test_methods_agree_on_a_linear_model(bases):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(80, 1)).double()
    exact = ism(model, bases)
    torch.testing.assert_close(EFFECT_PREDICTORS["TISM"](model, bases), exact)
    model.float()
    shap = EFFECT_PREDICTORS["DeepLIFT/SHAP"](model, bases.float())
    torch.testing.assert_close(shap, exact.float(), rtol=1e-4, atol=1e-5)
    at_reference = (bases == 1)[:, None]
    for name, method in EFFECT_PREDICTORS.items():
        assert (method(model, bases.float())[at_reference] == 0).all(), name


def test_deep_lift_accounts_for_strands_and_softmax_pooling(monkeypatch):
    torch.manual_seed(0)
    net = CalderonCNN()
    net.conv.conv.weight.data *= 8  # far from linear
    model = MeanTask(ExternalModel("calderon", net.eval(), 401, ()), [3], 60)
    one_hot = one_hot_encode("ACGGTCATTGCACGTGACTA" * 3)
    monkeypatch.setattr(ch08_attribution, "N_SHUFFLES", 3)
    multipliers, delta = deep_lift_multipliers(model, one_hot)
    assert multipliers.shape == (1, 4, 60)
    assert delta < 0.01


def test_a_perfect_prediction_is_seen_as_one_and_its_reverse_as_none():
    locus = make_locus(90)
    perfect = locus.effect.nan_to_num()
    table, paired = compare_with_measured({"ISM": perfect, "TISM": -2 * perfect}, locus)

    assert table.columns.tolist() == [
        "method", "pearson", "spearman", "sign_agreement", "low", "high", "n_variants",
    ]  # fmt: skip
    best, worst = table.iloc[0], table.iloc[1]
    measures = ["pearson", "spearman", "sign_agreement", "low", "high"]
    assert best[measures].tolist() == pytest.approx([1] * 5)
    assert worst[measures[:3]].tolist() == pytest.approx([-1, -1, 0])
    assert best["n_variants"] == 270
    assert paired["method"].tolist() == ["TISM"]
    assert paired[["difference", "low", "high"]].iloc[0].tolist() == pytest.approx([2] * 3)


def test_intervals_are_over_blocks_of_positions():
    locus = make_locus(200)
    block = (torch.arange(200) // 20) % 2
    noise = torch.tensor(np.random.default_rng(1).normal(size=(4, 200)))
    mixed = torch.where(block.bool(), locus.effect.nan_to_num(), noise)
    table, _ = compare_with_measured({"ISM": mixed}, locus)
    low, r, high = table[["low", "pearson", "high"]].iloc[0]
    naive = 2 * 1.96 * (1 - r**2) / np.sqrt(600)  # as if substitutions were independent
    assert low < r < high
    assert high - low > 1.5 * naive


def test_resampled_correlations_are_those_of_the_drawn_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    values, effect = rng.normal(3, 2, (2, 60)), rng.normal(5, 1, 60)
    blocks = np.repeat([7, 3, 9], 20)
    found = resampled_correlations(values, effect, blocks)

    drawn = np.random.default_rng(0).multinomial(3, np.full(3, 1 / 3), N_RESAMPLES)
    for sample in (0, 1, 2):
        counts = dict(zip((3, 7, 9), drawn[sample], strict=True))  # labels in ascending order
        rows = np.concatenate(
            [np.flatnonzero(blocks == k) for k, n in counts.items() for _ in range(n)]
        )
        expected = [np.corrcoef(value[rows], effect[rows])[0, 1] for value in values]
        np.testing.assert_allclose(found[sample], expected)


def test_tables_name_their_rows(external, monkeypatch):
    loci = [make_locus(45, 1, "one"), make_locus(50, 2, "two", "none"), make_locus(50, 3, "three")]
    monkeypatch.setattr(ch08_elements, "EFFECT_PREDICTORS", FAST)
    scores = {"tiny": score_loci(external, loci, progress=False)}
    agreement, ahead = measured_tables(scores, loci)
    assert agreement.columns[:2].tolist() == ["element", "model"]
    assert len(agreement) == 3 * len(FAST)
    assert set(ahead["method"]) == set(FAST) - {"ISM"}
    each = [compare_with_measured(scores["tiny"][locus.name], locus)[1] for locus in loci]
    alone = pd.concat(each).query("method == 'TISM'")["p"]
    corrected = ahead.loc[ahead["method"] == "TISM", "p"]
    assert corrected.min() == pytest.approx(min(1, 3 * alone.min()))  # of three elements
    assert (corrected.to_numpy() >= alone.to_numpy()).all()

    summary = summarise_loci(agreement, locus_table(loci), ["pearson"]).set_index(
        ["match", "method"]
    )
    own = agreement[agreement["method"] == "TISM"].set_index("element")["pearson"]
    assert summary.loc[("any", "TISM"), "mean"] == pytest.approx(own.mean())
    assert summary.loc[("any", "TISM"), "n_elements"] == 3
    assert summary.loc[("same", "TISM"), "mean"] == pytest.approx(own[["one", "three"]].mean())

    between = method_agreement(scores, loci).set_index(["first", "second"])["mean_r"]
    maps = element_maps(scores, loci, ["TISM"])
    assert maps["model"].tolist() == ["", "tiny"] * 3
    stored, effects = maps.iloc[3], scores["tiny"]["two"]["TISM"]
    assert stored[["element", "method"]].tolist() == ["two", "TISM"]
    restored = np.array(stored["effects"].split(), float) * stored["largest"] / 1000
    found = effects[loci[1].one_hot[0] == 0].numpy()
    np.testing.assert_allclose(restored, found, atol=0.001 * np.abs(found).max())

    assert between["ISM", "ISM"] == pytest.approx(1)
    assert len(between) == len(FAST) * (len(FAST) + 1) / 2
    deltas = convergence_deltas([external], loci[:1])
    assert deltas["delta"].max() < 1e-3


def test_tracks_point_up_where_a_base_helps_and_motifs_are_recovered():
    sequence = "A" * 120
    effect = torch.zeros(4, 120, dtype=torch.float64)
    effect[1:, 50:60] = -1.0
    locus = make_locus(120)
    measured = effect.masked_fill(one_hot_encode(sequence)[0] == 1, float("nan"))
    locus = Locus(**{**vars(locus), "sequence": sequence, "effect": measured})
    predicted = {"good": effect, "reversed": -effect, "elsewhere": effect.roll(40, 1)}

    tracks = element_tracks(predicted, locus)
    assert tracks.columns.tolist() == ["position", "base", "measured", *predicted]
    assert tracks["measured"].iloc[55] == tracks["good"].iloc[55] == 1
    found = motif_recovery({"tiny": {"L": predicted}}, [locus]).set_index("method")
    assert found["measured"].tolist() == [1, 1, 1]
    assert found["recovered"].to_dict() == {"good": 1, "reversed": 0, "elsewhere": 0}
