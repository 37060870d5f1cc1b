"""Summaries count what is there, and find what was put there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tism.sequence import ALPHABET
from tism.study import ch02_data as summary
from tism.study.data.dataset import Dataset, standardisation
from tism.study.data.simulation import simulate

LENGTH, FLANK = 41, 3
WORD = "ACGTTAC"


@pytest.fixture(scope="module")
def data() -> Dataset:
    """60 regions, two tasks; the first task is active where `WORD` is in the middle."""
    rng = np.random.default_rng(0)
    n = 60
    sequences = rng.integers(0, 4, (n, LENGTH + 2 * FLANK), dtype=np.uint8)
    has_word = np.arange(n) % 2 == 1
    codes = np.array([ALPHABET.index(letter) for letter in WORD], np.uint8)
    sequences[has_word, 20:27] = codes
    sequences[3, 20:27] = (3 - codes)[::-1]  # the other strand
    targets = np.ones((n, 2), np.float32)
    targets[has_word, 0] = 5
    targets[:20, 1] = np.linspace(1, 8, 20)
    regions = pd.DataFrame(
        {
            "name": [f"r{k}" for k in range(n)],
            "chrom": np.repeat(["chr1", "chr2", "chr3"], [40, 10, 10]),
            "start": np.arange(n) * 100,
            "end": np.arange(n) * 100 + LENGTH,
            "locus": np.maximum(np.arange(n), 1),
            "split": np.repeat(["train", "validation", "test"], [40, 10, 10]),
        }
    )
    center, scale = standardisation(targets, np.arange(40))
    notes = {"clusters of summits": 60, "regions dropped": 3}
    return Dataset(
        "immgen", sequences, targets, ["B.Sp", "x"], regions, FLANK, center, scale, notes
    )


@pytest.fixture(scope="module")
def simulated() -> Dataset:
    return simulate(300, 4, length=120)


def test_splits_count_regions_loci_and_overlaps(data):
    table = summary.describe_splits(data).set_index("split")
    assert table["regions"].tolist() == [40, 10, 10]
    assert table.loc["train", "loci"] == 39
    assert table["overlapping regions"].tolist() == [2, 0, 0]
    assert table["chromosomes"].tolist() == [1, 1, 1]


def test_regions_show_the_middle_of_their_sequence(data):
    table = summary.describe_regions(data, np.array([1, 0]))
    assert table["middle 24 bp"].iloc[0][9:16] == WORD
    assert table["name"].tolist() == ["r1", "r0"]
    assert table["strongest task"].iloc[0] == "B.Sp"
    assert table["target"].iloc[0] == 5


def test_notes_have_a_row_each(data):
    table = summary.describe_notes(data)
    assert table.to_numpy().tolist() == [["clusters of summits", 60], ["regions dropped", 3]]


def test_active_means_twice_the_median(data):
    assert summary.active(data)[:, 0].tolist() == [k % 2 == 1 for k in range(60)]
    table = summary.describe_tasks(data).set_index("task")
    assert table.loc["B.Sp", "active regions"] == 20
    assert table.loc["B.Sp", "share"] == 0.5
    assert table["group"].tolist() == ["B", "cell type"]


def test_yeast_tasks_are_grouped_by_their_table(data):
    named = Dataset(**{**vars(data), "name": "yeast", "tasks": ["Reb1", "Sua7"]})
    assert summary.task_groups(named) == ["sequence-specific factor", "other protein"]


def test_composition_leaves_out_flanks_and_n(data):
    sequences = np.full((60, LENGTH + 2 * FLANK), 1, np.uint8)
    sequences[:, :FLANK], sequences[:, FLANK], sequences[:, FLANK + 1] = 0, 4, 3
    changed = Dataset(**{**vars(data), "sequences": sequences})
    np.testing.assert_allclose(summary.gc_content(changed), (LENGTH - 2) / (LENGTH - 1))
    frequencies = summary.base_frequencies(changed, np.arange(5))
    assert frequencies.shape == (4, LENGTH)
    np.testing.assert_array_equal(frequencies[:, :3], [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]])


def test_composition_span_tells_position_from_chance():
    flat = np.full((4, 50), 0.25)
    span, by_chance = summary.composition_span(flat, 1000)
    assert span == 0
    assert 0.02 < by_chance < 0.12
    peaked = flat.copy()
    peaked[:, 25] = [0.7, 0.1, 0.1, 0.1]
    assert summary.composition_span(peaked, 1000)[0] == pytest.approx(0.45)


def test_tasks_that_go_together_form_a_cluster(simulated, monkeypatch):
    monkeypatch.setattr(summary, "N_CLUSTERS", 2)
    rng = np.random.default_rng(1)
    base = rng.normal(size=(300, 2))
    targets = np.stack([base[:, k % 2] + 0.1 * rng.normal(size=300) for k in range(4)], 1)
    changed = Dataset(**{**vars(simulated), "targets": targets.astype(np.float32)})
    correlation, clusters = summary.cluster_tasks(changed)
    odd, even = simulated.tasks[1::2], simulated.tasks[0::2]
    assert {frozenset(tasks.split(", ")) for tasks in clusters["tasks"]} == {
        frozenset(odd),
        frozenset(even),
    }
    assert clusters["size"].tolist() == [2, 2]
    assert (clusters["mean r"] > 0.9).all()
    assert correlation.index.tolist() == ", ".join(clusters["tasks"]).split(", ")
    np.testing.assert_allclose(np.diag(correlation), 1)


def test_the_planted_word_is_the_most_enriched_one(data):
    table = summary.enriched_words(data).set_index("task")
    word = table.loc["B.Sp", "word"]
    assert word in (WORD, "GTAACGT")
    assert table.index[0] == "B.Sp"
    assert table.loc["B.Sp", "active"] == 1
    assert table.loc["B.Sp", "others"] < 0.1
    assert table.loc["B.Sp", "fold"] > 10


def test_enrichment_agrees_with_counting(data, monkeypatch):
    monkeypatch.setattr(summary, "WORD", 3)
    row = summary.enriched_words(data).set_index("task").loc["x"]
    train, is_active = np.arange(40), summary.active(data)[:40, 1]
    turned = "".join("TGCA"["ACGT".index(base)] for base in reversed(row["word"]))
    letters = np.array(list(ALPHABET))
    strings = ["".join(letters[s]) for s in data.sequences[train, FLANK:-FLANK]]
    has = np.array([row["word"] in s or turned in s for s in strings])
    assert row["active"] == pytest.approx(has[is_active].mean())
    assert row["others"] == pytest.approx(has[~is_active].mean())


def test_align_turns_matches_to_the_strand_of_the_word(data):
    found = summary.align(data.sequences[[1, 3]], WORD, reach=2)
    codes = [ALPHABET.index(letter) for letter in WORD]
    np.testing.assert_array_equal(found[:, 2:9], [codes, codes])
    np.testing.assert_array_equal(found[0], data.sequences[1, 18:29])


def test_align_allows_one_mismatch_and_prefers_the_best_match():
    sequence = np.zeros((2, 30), np.uint8)
    sequence[0, 10:14], sequence[0, 20:24] = [1, 2, 1, 3], [1, 2, 1, 2]
    sequence[1, 10:14] = [1, 2, 3, 3]
    found = summary.align(sequence, "CGCG", reach=1)
    np.testing.assert_array_equal(found, [sequence[0, 19:25]])


def test_motif_logos_separate_active_from_other_regions(data):
    logos = summary.motif_logos(data, "B.Sp", WORD)
    active, other = logos
    assert active == "20 of 20 active regions"
    assert other.endswith("of 20 other regions")
    np.testing.assert_allclose(logos[active][:, 6:13].max(0), 2)


def test_information_of_uniform_and_certain_positions():
    frequencies = [[0.25, 1.0, 0.5], [0.25, 0, 0.5], [0.25, 0, 0], [0.25, 0, 0]]
    heights = [[0, 2, 0.5], [0, 0, 0.5], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(summary.information(np.array(frequencies)), heights, atol=1e-12)


def test_word_counts_add_both_strands(data):
    counts = summary.canonical_word_counts(data, 2)
    assert counts.shape == (60, 10)
    np.testing.assert_array_equal(counts.sum(1), LENGTH - 1)
    turned = (3 - data.sequences)[:, ::-1]
    other = summary.canonical_word_counts(Dataset(**{**vars(data), "sequences": turned}), 2)
    np.testing.assert_array_equal(counts, other)


def test_pairs_are_counted_by_couple(simulated):
    table = summary.describe_pairs(simulated.truth)
    assert table["pairs"].sum() == len(simulated.truth.pairs)
    assert set(table["kind"]) <= {"cooperative", "competing"}


def test_sites_of_a_region_keep_their_pairs_and_effects(simulated):
    truth = simulated.truth
    region = summary.instructive_region(truth)
    sites, pairs, effects = summary.sites_of(truth, region)
    assert (sites["region"] == region).all()
    assert effects.shape == (len(sites), len(simulated.tasks))
    assert len(pairs) > 0
    whole = truth.pairs[truth.pairs["region"] == region]
    expected = truth.sites["motif"].to_numpy()[whole["first"]]
    assert sites["motif"].to_numpy()[pairs["first"]].tolist() == expected.tolist()
