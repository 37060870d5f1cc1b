"""Planted motifs are found, known ones matched."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from tism.study import ch09_motifs
from tism.study.ch02_data import information
from tism.study.ch09_motifs import (
    FoundMotif,
    expected_motifs,
    find_motifs,
    known_motifs,
    match_motifs,
    motif_logos,
    recovery_table,
    trim,
)


@pytest.fixture(scope="module")
def known() -> pd.DataFrame:
    return known_motifs()


def planted(motif: str, n: int = 400, length: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Sequences with a motif at random places, and scores that are high there."""
    rng = np.random.default_rng(0)
    bases = rng.integers(4, size=(n, length))
    columns = rng.integers(10, length - 30, size=n)[:, None] + np.arange(len(motif))
    rows = np.arange(n)[:, None]
    bases[rows, columns] = ["ACGT".index(base) for base in motif]
    one_hot = np.eye(4, dtype=np.float32)[bases].transpose(0, 2, 1)
    site = np.zeros((n, 1, length))
    site[rows, 0, columns] = 1
    scores = rng.laplace(0, 0.02, one_hot.shape) + site * (one_hot - 0.25)
    return one_hot, scores.astype(np.float32)


@pytest.mark.filterwarnings("default")  # of scikit-learn and numba
def test_a_planted_motif_is_found_and_named(known):
    found = find_motifs(*planted("TTACCCGG"))  # the core of REB1
    report = match_motifs(found, known)
    best = report.loc[report["n_seqlets"].idxmax()]
    assert (best["name"], best["dataset"], best["sign"]) == ("REB1", "yeast", 1)
    assert best["p_value"] < 0.01
    assert best["n_seqlets"] >= 20
    assert torch.get_num_threads() == 1  # as conftest sets it; numba would leave its own number


def test_too_few_sites_make_no_motif(known):
    one_hot, scores = planted("TTACCCGG", n=20)
    assert find_motifs(one_hot, scores) == []
    report = match_motifs([], known)
    assert len(report) == 0
    table = recovery_table({"TISM": report}, known[:2])
    assert table["TISM sites"].tolist() == [0, 0]
    assert table["TISM p"].isna().all()


@pytest.fixture
def whole_motifs(monkeypatch):
    """Motifs are cut to their core, which in these tests is all that there is."""
    monkeypatch.setattr(ch09_motifs, "TRIM_FLANK", 0)


def test_motifs_are_matched_on_either_strand(known, whole_motifs):
    matrix = known.set_index("name")["frequencies"]["CTCF"]
    flanked = np.concatenate([np.full((4, 6), 0.25), matrix, np.full((4, 3), 0.25)], 1)
    core = np.pad(np.ones(matrix.shape), ((0, 0), (6, 3)))
    found = [
        FoundMotif(1, 50, flanked, core),
        FoundMotif(1, 50, flanked[::-1, ::-1], core[::-1, ::-1]),
        FoundMotif(1, 9, matrix[:, 4:], core[:, 10:-3]),
    ]
    report = match_motifs(found, known)
    assert report["offset"].tolist() == [0, 0, 4]
    report = report[:2]
    assert report["name"].tolist() == ["CTCF", "CTCF"]
    assert report["matrix_id"].str.startswith("MA0139").all()
    for frequencies in report["frequencies"]:
        np.testing.assert_array_equal(frequencies, matrix)
    assert (report["p_value"] < 1e-6).all()
    table = recovery_table({"TISM": report}, known[known["name"].isin(["CTCF", "ETS1"])])
    assert dict(zip(table["name"], table["TISM sites"], strict=True)) == {"CTCF": 100, "ETS1": 0}
    logos = motif_logos({"TISM": report}, known[known["name"].isin(["CTCF", "ETS1"])])
    assert list(logos) == [
        "CTCF, JASPAR",
        "CTCF, TISM: 50 sites",
        "ETS1, JASPAR",
        "ETS1, TISM: none",
    ]
    assert not logos["ETS1, TISM: none"].any()
    np.testing.assert_allclose(logos["CTCF, JASPAR"], information(matrix))


def test_where_no_motif_is_expected_logos_show_those_that_were_found(known, whole_motifs):
    none = known[:0]
    matrix = known.set_index("name")["frequencies"]["CTCF"]
    report = match_motifs([FoundMotif(1, 50, matrix, np.ones(matrix.shape))], known)
    assert list(motif_logos({"TISM": report}, none)) == ["CTCF, JASPAR", "CTCF, TISM: 50 sites"]
    assert motif_logos({"TISM": match_motifs([], known)}, none) == {}


def test_known_motifs_are_frequencies(known):
    assert known.groupby("dataset").size().to_dict() == {"simulated": 20, "yeast": 27}
    for matrix in known["frequencies"]:
        np.testing.assert_allclose(matrix.sum(0), 1)
        assert matrix.shape[0] == 4
        assert matrix.min() >= 0.0025


def test_trimming(monkeypatch):
    matrix = np.array(
        [[0.25, 1, 0.25, 0.5], [0.25, 0, 0.25, 0.5], [0.25, 0, 0.25, 0], [0.25, 0, 0.25, 0]]
    )
    found = FoundMotif(1, 20, matrix, np.array([[0.1, 0.5, 0.1, -0.2], [0.04, 0, 0, 0.3]]))
    np.testing.assert_array_equal(trim(found), matrix)
    monkeypatch.setattr(ch09_motifs, "TRIM_FLANK", 0)
    np.testing.assert_array_equal(trim(found), matrix[:, 1:])


def test_expected_motifs(known):
    from tism.study.data.simulation import simulate

    data = simulate(n_regions=200, n_tasks=6, seed=0)
    chosen = expected_motifs(data, [0, 5])
    effects = np.abs(data.truth.effects[:, [0, 5]]).max(1)
    strong = [n for n, e in zip(data.truth.motif_names, effects, strict=True) if e >= 0.5]
    assert sorted(chosen["name"]) == sorted(strong)
    assert set(chosen["dataset"]) == {"simulated"}
    other = SimpleNamespace(name="yeast", tasks=["Reb1", "Med7", "Abf1"])
    assert expected_motifs(other, [0, 1, 2])["name"].tolist() == ["REB1", "ABF1"]
    other.name = "immgen"
    assert len(expected_motifs(other, [0])) == 0
