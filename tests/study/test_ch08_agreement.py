"""Agreement of ISM and gradient maps over real sequences, on models small enough to check."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tism import decode, one_hot_encode
from tism.score.readers import InputFileError
from tism.study import ch08_agreement as concordance
from tism.study.ch08_agreement import (
    PaddedSequences,
    concordance_quantiles,
    concordance_rows,
    deepstarr_sequences,
    external_correlations,
    real_sequences,
    sequence_correlations,
)
from tism.study.ch08_checks import motif_effect
from tism.study.ch08_networks import ExternalModel
from tism.study.data.download import DownloadError
from tism.study.data.kircher import Locus

LENGTH = 30


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TISM_DATA_DIR", str(tmp_path))


@pytest.fixture
def sample(monkeypatch):
    """Four regions in the place of AI-TAC's."""
    rng = np.random.default_rng(1)
    one_hot = one_hot_encode(["".join(row) for row in rng.choice(list("ACGT"), (4, 20))])
    monkeypatch.setattr(concordance, "load_aitac_sample", lambda: (one_hot.numpy(), None))
    return one_hot


def network(linear: bool) -> ExternalModel:
    torch.manual_seed(0)
    middle = nn.Identity() if linear else nn.ReLU()
    net = nn.Sequential(nn.Conv1d(4, 6, 5), middle, nn.Flatten(), nn.Linear(6 * 26, 2))
    return ExternalModel("tiny", net.eval(), LENGTH, ("one", "two"))


def element(length: int) -> Locus:
    sequence = "".join(np.random.default_rng(length).choice(list("ACGT"), length))
    nothing = torch.full((4, length), float("nan"), dtype=torch.float64)
    place = ("chr1", 1, length, "+", sequence)
    return Locus(f"L{length}", "enhancer", "X", "none", *place, nothing, nothing > 0, {}, {})


def test_tiles_lie_side_by_side_and_short_sequences_in_the_middle(sample):
    long, short, regions = real_sequences(network(True), [element(70), element(21)])

    assert len(long.one_hot) == 2
    first, second = long.one_hot
    assert torch.equal(first, element(70).one_hot[0, :, 3:33])
    assert torch.equal(second, element(70).one_hot[0, :, 37:67])
    assert (short.start, short.stop) == (5, 26)
    assert torch.equal(short.one_hot[0, :, 5:26], element(21).one_hot[0])
    assert short.one_hot.sum() == 21
    assert regions.source == "mouse immune regions"
    assert torch.equal(regions.one_hot[..., 5:25], sample)
    assert regions.loci.tolist() == [2, 3, 4, 5]


def test_signals_and_starts_stand_in_their_place():
    xpresso = ExternalModel("xpresso", nn.Identity(), 10_500, ("one",))
    (group,) = real_sequences(xpresso, [element(70)])
    assert (group.start, group.stop) == (6965, 7035)
    assert torch.equal(group.one_hot[..., 6965:7035], element(70).one_hot)
    assert group.one_hot.sum() == 70

    aparent2 = ExternalModel("aparent2_log_odds", nn.Identity(), 205, ("one",))
    whole, part = real_sequences(aparent2, [])
    assert (whole.start, whole.stop, part.start, part.stop) == (0, 205, 20, 184)
    assert decode(whole.one_hot[..., 70:76]) == ["AATAAA", "AATAAA", "GATAAA"]
    assert len(np.unique(np.concatenate([whole.loci, part.loci]))) == 16


def test_a_linear_model_has_perfect_concordance_over_known_bases():
    one_hot = torch.zeros(2, 4, LENGTH)
    one_hot[..., 5:26] = one_hot_encode(["ACGTTGACCATTGACGTACGA", "TTGACCATTGACGTACGAACG"])
    found = sequence_correlations(
        network(True), PaddedSequences(one_hot, 5, 26, np.arange(2), "here")
    )

    for convention in ("all entries", "substitutions", "centred", "mean effect"):
        assert found["TISM", convention].shape == (2, 2)
        np.testing.assert_allclose(found["TISM", convention], 1, rtol=1e-5)
    np.testing.assert_allclose(found["corrected gradient", "centred"], 1, rtol=1e-5)
    assert (found["gradient", "all entries"] < 0.99).all()
    assert (found["corrected gradient", "all entries"] < 0.99).all()


def test_tables_pool_and_split_the_sources(sample):
    loci = [element(70), element(21)]
    r, labels, sources = external_correlations(network(False), loci, progress=False)
    assert labels.tolist() == [0, 0, 1, 2, 3, 4, 5]
    pooled = concordance_rows("tiny", r, labels).set_index(["method", "convention"])
    own = pooled.loc[("TISM", "all entries")]
    by_locus = pd.Series(r["TISM", "all entries"].mean(1)).groupby(labels).mean()
    assert own["mean_r"] == pytest.approx(by_locus.mean())
    assert own["high"] - own["mean_r"] == pytest.approx(2.571 * by_locus.sem(), rel=1e-3)  # 6 loci
    assert own["low"] < own["mean_r"] < own["high"] < 1
    assert own[["n_sequences", "n_tasks"]].tolist() == [7, 2]
    centred = pooled.xs("centred", level="convention")["mean_r"]
    assert centred["TISM"] == pytest.approx(centred["corrected gradient"])

    split = concordance_rows("tiny", r, labels, sources)
    assert split.groupby("sequences", sort=False)["n_sequences"].first().to_dict() == {
        "human elements": 3,
        "mouse immune regions": 4,
    }
    curve = concordance_quantiles({"tiny": r})
    assert curve["tiny"].is_monotonic_increasing
    assert curve["tiny"].iloc[-1] == r["TISM", "all entries"].max()


def test_sample_files_are_read_with_one_locus_for_what_overlaps(tmp_path, monkeypatch):
    columns = ["seqnames", "start", "end", "Sequence", "Dev_log2_enrichment", "Hk_log2_enrichment"]
    rows = [
        ["chrX", 1, 3, "ACG", 0.1, 0.2],
        ["chrX", 3, 5, "GTT", 0, 0],
        ["chrX", 6, 8, "AAA", 0, 0],
    ]

    def fetch(path):
        name = path.rsplit("_", 1)[1]
        part = {"train.txt": rows[1:2], "val.txt": rows[2:], "test.txt": rows[:1]}[name]
        pd.DataFrame(part, columns=columns).to_csv(tmp_path / name, sep="\t", index=False)
        return tmp_path / name

    monkeypatch.setattr(concordance, "fetch", fetch)
    table = deepstarr_sequences()
    assert table["sequence"].tolist() == ["ACG", "GTT", "AAA"]
    assert table["locus"].tolist() == [0, 0, 1]
    assert table["file"].tolist() == ["test", "train", "val"]

    columns[3] = "seq"
    with pytest.raises(InputFileError, match=r"train\.txt, line 1: no column Sequence"):
        deepstarr_sequences()


def test_motif_effect_of_a_counting_model():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4 * LENGTH, 1, bias=False))
    nn.init.zeros_(net[1].weight)
    net[1].weight.data[:, :LENGTH] = 1.0  # counts A
    model = ExternalModel("tiny", net.eval(), LENGTH, ("A",))
    assert motif_effect(model, "AAAAAA")["A"] == pytest.approx(4.5, abs=0.3)
    assert motif_effect(model, "CCCCCC")["A"] == pytest.approx(-1.5, abs=0.3)


def test_deepstarr_library():
    try:
        table = deepstarr_sequences()
    except DownloadError as error:
        pytest.skip(f"the sequences are not here: {error}")
    assert len(table) == 3000
    assert (table["sequence"].str.len() == 249).all()
    assert 1000 < table["locus"].nunique() < 3000
