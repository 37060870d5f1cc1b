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
    NetworkMotifs,
    expected_motifs,
    find_motifs,
    known_motifs,
    learnt_tasks,
    match_motifs,
    motif_logos,
    recovery_table,
    same_bases,
    shared_boxes,
    sharing_table,
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
    assert best["found"]
    assert best["n_seqlets"] >= 20
    assert torch.get_num_threads() == 1  # as conftest sets it; numba would leave its own number


def network(known: pd.DataFrame, names: list[str], found: list[FoundMotif]) -> NetworkMotifs:
    """Motifs of a network whose ISM gives these patterns and whose TISM gives none."""
    reports = {"TISM": match_motifs([], known), "ISM": match_motifs(found, known)}
    expected = known[known["name"].isin(names)]
    return NetworkMotifs("simulated", 0, ["a"], {"ISM": 4, "ISM in TISM": 1}, reports, expected)


def test_too_few_sites_make_no_motif(known):
    assert find_motifs(*planted("TTACCCGG", n=20)) == []
    nothing = network(known, ["CTCF"], [])
    assert recovery_table([nothing])[["TISM sites", "ISM sites"]].to_numpy().tolist() == [[0, 0]]
    shared = sharing_table([nothing]).iloc[0]
    assert shared[["ISM", "ISM in TISM", "expected", "ISM found", "both found"]].tolist() == [
        4, 1, 1, 0, 0,
    ]  # fmt: skip


@pytest.fixture
def whole_motifs(monkeypatch):
    """Motifs are cut to their core, which in these tests is all that there is."""
    monkeypatch.setattr(ch09_motifs, "TRIM_FLANK", 0)


def test_motifs_are_matched_on_either_strand(known, whole_motifs):
    matrix = known.set_index("name")["frequencies"]["CTCF"]
    flanked = np.concatenate([np.full((4, 6), 0.25), matrix, np.full((4, 3), 0.25)], 1)
    core = np.pad(np.ones(matrix.shape), ((0, 0), (6, 3)))
    patterns = [
        FoundMotif(1, 50, flanked, core),
        FoundMotif(1, 50, flanked[::-1, ::-1], core[::-1, ::-1]),
        FoundMotif(1, 9, matrix[:, 4:], core[:, 10:-3]),
    ]
    assert match_motifs(patterns, known)["offset"].tolist() == [0, 0, 4]
    both = network(known, ["CTCF", "ETS1"], patterns[:2])
    report = both.reports["ISM"]
    assert report["name"].tolist() == ["CTCF", "CTCF"]
    assert report["matrix_id"].str.startswith("MA0139").all()
    for frequencies in report["frequencies"]:
        np.testing.assert_array_equal(frequencies, matrix)
    assert (report["p_value"] < 1e-6).all()
    assert report["same"].tolist() == [1, 1]
    table = recovery_table([both]).set_index("name")
    assert table["ISM sites"].to_dict() == {"CTCF": 100, "ETS1": 0}
    logos = motif_logos([both])
    assert list(logos) == [
        "CTCF, JASPAR", "CTCF, TISM: none", "CTCF, ISM: 100 sites",
        "ETS1, JASPAR", "ETS1, TISM: none", "ETS1, ISM: none",
    ]  # fmt: skip
    assert not logos["ETS1, ISM: none"].any()
    np.testing.assert_allclose(logos["CTCF, JASPAR"], information(matrix))


def test_a_stretch_of_one_base_is_no_motif_of_a_forkhead_protein(known, whole_motifs):
    forkhead = known.set_index("name")["frequencies"]["FKH1"]
    stretch = np.full(forkhead.shape, 0.05)
    stretch[0] = 0.85
    assert same_bases(forkhead, forkhead, 0) == 1
    assert same_bases(forkhead, stretch, 0) < ch09_motifs.LEAST_SAME
    half = forkhead.shape[1] // 2
    assert same_bases(forkhead, forkhead[:, half:], half) < ch09_motifs.LEAST_SAME
    report = match_motifs([FoundMotif(1, 50, stretch, np.ones(stretch.shape))], known)
    assert not report["found"].any()


def test_boxes_are_shared_by_the_rule_of_chapter_04():
    profile = torch.zeros(2, 60)
    profile[:, 10:20] = 1.0
    other = profile.clone()
    other[0, 40:50] = -1.0  # called by the second method only
    other[1] *= -1
    counts = shared_boxes(profile, other)
    assert counts == {"ISM": 2, "ISM in TISM": 1, "TISM": 3, "TISM in ISM": 1}


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


def test_learnt_tasks_are_those_that_the_network_predicts(monkeypatch):
    from tism.study.data.simulation import simulate

    data = simulate(n_regions=200, n_tasks=4, seed=0)
    rows = data.indices("validation")
    predicted = torch.from_numpy(data.standardised[rows]) * torch.tensor([-1.0, 1.0, 0.0, 1.0])
    predicted[:, 3] += 10 * torch.arange(len(rows)) % 7  # noise
    monkeypatch.setattr(ch09_motifs, "predict", lambda model, one_hot: predicted)
    monkeypatch.setattr(ch09_motifs, "expected_motifs", lambda data, tasks: known_motifs())
    assert learnt_tasks(None, data, 2) == [1, 3]
    monkeypatch.setattr(ch09_motifs, "expected_motifs", lambda data, tasks: [1] * (tasks[0] != 1))
    assert learnt_tasks(None, data, 1) == [3]
