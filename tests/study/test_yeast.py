"""The yeast set: rules on a made-up genome, facts on the real one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tism.study.data import download
from tism.study.data.download import fetch
from tism.study.data.yeast import (
    NO_WORD,
    canonical_words,
    cluster_centres,
    load_yeast,
    make_dataset,
    number_loci,
    shared_word_share,
    strongest_summits,
    task_table,
)

LENGTH, FLANK = 51, 5


def summit_table(rows: list[tuple[str, int, float, int]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["chrom", "start", "score", "task"])


@pytest.fixture
def genome():
    rng = np.random.default_rng(0)
    names = ("chr1", "chr2", "chr5", "chr8")
    return {name: rng.integers(0, 4, 3000, dtype=np.uint8) for name in names}


@pytest.fixture
def summits():
    train = [("chr1", 500, 100.0, 0), ("chr1", 1000, 700.0, 1), ("chr2", 500, 50.0, 0)]
    held_out = [("chr5", 800, 30.0, 0), ("chr8", 900, 1000.0, 1), ("chr8", 2000, 6.0, 0)]
    return summit_table(train + held_out)


def build(genome, summits):
    return make_dataset(genome, summits, ["A", "B"], length=LENGTH, flank=FLANK)


def test_split_windows_and_targets(genome, summits):
    data = build(genome, summits)
    assert data.regions["split"].tolist() == ["train"] * 3 + ["validation"] + ["test"] * 2
    assert data.regions["name"].iloc[0] == "chr1:475-526"
    np.testing.assert_array_equal(data.sequences[0], genome["chr1"][470:531])
    assert data.length == LENGTH
    expected = np.log2(np.array([[102, 2], [2, 702], [52, 2], [32, 2], [2, 1002], [8, 2]]))
    np.testing.assert_allclose(data.targets, expected, rtol=1e-6)
    np.testing.assert_allclose(data.center, expected[:3].mean(0), rtol=1e-6)
    np.testing.assert_allclose(data.scale, expected[:3].std(0), rtol=1e-6)


def test_order_of_the_summits_is_irrelevant(genome, summits):
    one, other = build(genome, summits), build(genome, summits.iloc[::-1])
    pd.testing.assert_frame_equal(one.regions, other.regions)
    np.testing.assert_array_equal(one.targets, other.targets)


def test_regions_near_the_end_of_a_chromosome_are_dropped_and_counted(genome, summits):
    first, last = FLANK + LENGTH // 2, 3000 - FLANK - LENGTH // 2 - 1
    edge = [("chr1", first, 1.0, 0), ("chr1", last, 1.0, 0)]
    outside = [("chr2", first - 1, 1.0, 0), ("chr2", last + 1, 1.0, 0)]
    data = build(genome, pd.concat([summits, summit_table(edge + outside)]))
    assert data.notes["regions dropped: too near the end of a chromosome"] == 2
    assert len(data.regions) == len(summits) + 2
    assert data.notes["clusters of summits, each the centre of a region"] == len(summits) + 4


@pytest.mark.parametrize("strand", [1, -1])
def test_held_out_regions_that_repeat_training_sequence_are_dropped(genome, summits, strand):
    copy = genome["chr1"][450:551]
    genome["chr8"][850:951] = copy if strand == 1 else 3 - copy[::-1]
    genome["chr5"][750:851] = copy
    data = build(genome, summits)
    for split in ("validation", "test"):
        assert data.notes[f"{split} regions dropped: sequence shared with training"] == 1
    assert data.regions["name"].str.startswith("chr8").sum() == 1
    assert len(data.sequences) == len(data.targets) == len(data.regions) == 4


def test_share_counts_distinct_words_and_training_flanks():
    rng = np.random.default_rng(1)
    windows = rng.integers(0, 4, (3, 61), dtype=np.uint8)
    windows[1, FLANK:36] = windows[0, :31]  # one word, from the flank of the training window
    windows[2] = 0  # a single distinct word, AAA...
    train = np.array([True, False, False])
    share = shared_word_share(windows, train, FLANK)
    np.testing.assert_allclose(share, [0, 1 / 21, 0])
    windows[0, :31] = 3  # TTT... is AAA... on the other strand
    assert shared_word_share(windows, train, FLANK)[2] == 1


def test_canonical_words_against_strings():
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 5, (2, 40), dtype=np.uint8)
    words = canonical_words(codes, size=7)
    for row, column in np.ndindex(words.shape):
        word = codes[row, column : column + 7].tolist()
        other = [3 - base for base in reversed(word)]
        smaller = int("".join(map(str, min(word, other))), 4) if 4 not in word else int(NO_WORD)
        assert words[row, column] == smaller


def test_summits_of_a_cluster_are_within_half_a_span_of_its_centre():
    positions = np.array([0, 10, 149, 150, 160, 500])
    np.testing.assert_array_equal(cluster_centres(positions), [74, 155, 500])


def test_loci_join_through_neighbours_and_end_with_the_chromosome():
    regions = pd.DataFrame(
        {
            "chrom": ["chr1"] * 4 + ["chr2"],
            "start": [0, 40, 80, 131, 140],
            "end": [51, 91, 131, 182, 191],
        }
    )
    np.testing.assert_array_equal(number_loci(regions), [0, 0, 0, 1, 2])


def test_every_summit_within_a_region_counts():
    regions = pd.DataFrame({"chrom": ["chr1", "chr1"], "start": [100, 140], "end": [151, 191]})
    rows = [(99, 9.0), (100, 6.0), (145, 14.0), (150, 2.0), (151, 30.0), (191, 62.0)]
    summits = summit_table([("chr1", start, score, 0) for start, score in rows])
    np.testing.assert_array_equal(strongest_summits(regions, summits, 2), [[4, 1], [5, 1]])


def test_no_training_region_is_an_error(genome, summits):
    with pytest.raises(ValueError, match="yeast data set has no region on a training"):
        build(genome, summits[summits["chrom"] == "chr8"])


@pytest.mark.parametrize(
    ("options", "word"),
    [({"length": 30}, "at least 31"), ({"flank": -1}, "flank"), ({"n_tasks": 82}, "at most 81")],
)
def test_bad_sizes_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        load_yeast(**options)


def test_task_table_follows_its_rule():
    table = task_table()
    specific = table["sequence_specific"]
    assert len(table) == 81
    assert table["factor"].is_unique
    assert specific.tolist() == sorted(specific, reverse=True)
    assert (specific == table["jaspar_id"].str.match(r"MA\d{4}\.\d$")).all()
    assert (table.loc[specific, "n_peaks"] >= 200).all()
    for _, part in table.groupby("sequence_specific"):
        assert part["n_peaks"].is_monotonic_decreasing


@pytest.fixture(scope="module")
def real():
    """The yeast set, or a skip where its files are neither in the cache nor in the mirror."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "_download", lambda source: pytest.skip(f"no {source.path} here"))
        return load_yeast()


def test_real_set(real):
    assert real.sequences.shape == (len(real.regions), 271)
    assert real.targets.shape == (len(real.regions), 81)
    counts = real.regions["split"].value_counts().to_dict()
    assert counts == {"train": 13778, "validation": 1937, "test": 2219}
    assert list(real.notes.values()) == [131437, 18100, 0, 45, 121]
    assert set(real.regions.loc[real.indices("test"), "chrom"]) == {"chr8", "chr16"}
    assert set(real.regions.loc[real.indices("validation"), "chrom"]) == {"chr5", "chr11"}
    assert np.isfinite(real.targets).all()
    assert real.targets.min() == 1
    assert real.targets.max() == np.float32(np.log2(1002))
    train = real.standardised[real.indices("train")]
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(train.std(0), 1, atol=1e-3)


def test_real_regions_of_reb1_hold_its_motif(real):
    """Coordinates and chromosome names agree: TTACCCG (MA0363) stands where Reb1 binds."""
    reb1 = real.targets[:, real.tasks.index("Reb1")]
    text = np.array(["".join("ACGTN"[base] for base in row) for row in real.sequences])
    motif = np.array(["TTACCCG" in row or "CGGGTAA" in row for row in text])
    assert motif[reb1 > 9.5].mean() > 0.6
    assert motif[reb1 == 1].mean() < 0.02


def test_real_table_counts_the_peaks(real):
    table = task_table().set_index("factor")
    for factor in ("Reb1", "Abf1", "Sua7"):
        lines = fetch(f"yeast/peaks/{factor}_CX.bed").read_text().splitlines()
        assert len(lines) == table.loc[factor, "n_peaks"]
