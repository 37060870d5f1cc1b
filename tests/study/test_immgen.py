"""The paper's files in miniature: windows, targets and splits are exact, bad files are refused."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from immgen_files import PEAK, SIZE, TASKS, Files

from tism.study.data import download
from tism.study.data.download import fetch
from tism.study.data.immgen import load_aitac_sample, load_immgen, read_held_out


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("TISM_DATA_DIR", str(tmp_path / "cache"))
    return Files(tmp_path)


def letters(codes):
    return "".join("ACGTN"[code] for code in codes)


def test_window_is_the_peak_with_one_based_inclusive_ends(files):
    data = files.load(flank=10)
    assert data.sequences.shape == (10, 271)
    for row, (name, chrom, start, stop) in enumerate(files.peaks[:10]):
        region = data.regions.iloc[row]
        assert region["name"] == name.removeprefix("ImmGenATAC1219.")
        assert (region["start"], region["end"]) == (start - 1, stop)
        window = letters(data.sequences[row])
        assert window[10:-10] == files.genome[chrom][start - 1 : stop]
        assert window == files.genome[chrom][start - 11 : stop + 10]


@pytest.mark.parametrize(("width", "length"), [(251, 101), (101, 251), (250, 251), (251, 250)])
def test_window_shares_its_centre_with_the_peak(files, width, length):
    for row in files.peaks:
        row[3] = row[2] + width - 1
    region = files.load(length=length).regions.iloc[0]
    assert region["end"] - region["start"] == length
    assert abs((region["start"] + region["end"]) - (500 + 500 + width)) <= 1


def test_targets_splits_and_standardisation(files):
    data = files.load()
    assert data.name == "immgen"
    assert data.tasks == TASKS
    assert data.targets.dtype == np.float32
    np.testing.assert_allclose(data.targets, list(files.heights.values())[:10], rtol=1e-6)
    assert data.regions["split"].tolist() == ["train"] * 4 + ["validation"] * 4 + ["test"] * 2
    np.testing.assert_allclose(data.standardised[:4].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(data.standardised[:4].std(0), 1, rtol=1e-5)
    assert data.notes["peaks dropped: not on chr1 to chr19"] == 2


def test_counts_become_log2_of_two_more(files):
    counts = np.array(list(files.heights.values())[:10]) * 20
    files.heights = {name: values * 20 for name, values in files.heights.items()}
    np.testing.assert_allclose(files.load(unit="counts").targets, np.log2(counts + 2), rtol=1e-6)
    with pytest.raises(ValueError, match=r'line 2: height in .* is .*unit="counts"'):
        files.load()


def test_mixed_case_genome_is_the_same(files):
    expected = files.load().sequences
    files.genome = {chrom: s[:1200].lower() + s[1200:] for chrom, s in files.genome.items()}
    np.testing.assert_array_equal(files.load().sequences, expected)


def test_n_in_window_or_flank_drops_the_peak_and_beyond_does_not(files):
    for chrom, position in (("chr1", 600), ("chr2", 490), ("chr8", 489)):
        sequence = files.genome[chrom]
        files.genome[chrom] = sequence[:position] + "n" + sequence[position + 1 :]
    data = files.load(flank=10)
    assert data.notes["peaks dropped: window holds an N"] == 2
    assert set(data.regions["name"]) == {f"peak_{k}" for k in (2, 4, 5, 6, 7, 8, 9, 10)}
    assert data.sequences.max() == 3
    assert data.targets.shape == (8, 3)


def test_flank_beyond_the_chromosome_drops_the_peak(files):
    files.peaks[0][2:] = [6, 256]
    files.peaks[3][2:] = [SIZE - 250, SIZE]
    data = files.load(flank=10)
    assert data.notes["peaks dropped: window reaches beyond the chromosome"] == 2
    assert len(data.regions) == 8
    assert len(files.load(flank=0).regions) == 10


def test_peaks_missing_on_either_side_are_counted(files):
    del files.heights[PEAK.format(2)]
    files.heights["ImmGenATAC1219.peak_99"] = np.array([1.0, 2.0, 3.0])
    data = files.load()
    assert data.notes["peaks dropped: no measured heights"] == 1
    assert data.notes["rows of heights dropped: no coordinates"] == 1
    assert "peak_2" not in set(data.regions["name"])


def test_heights_match_by_name_in_any_order_with_and_without_prefix(files):
    expected = files.load().targets
    names = reversed(files.heights)
    files.heights = {n.removeprefix("ImmGenATAC1219."): files.heights[n] for n in names}
    np.testing.assert_array_equal(files.load().targets, expected)


def test_files_of_different_peaks_are_refused(files):
    files.heights = {f"other_{k}": v for k, v in enumerate(files.heights.values())}
    with pytest.raises(ValueError, match=r"heights: no peak of .*'other_0' and 'peak_1'"):
        files.load()


def test_overlapping_peaks_share_a_locus_in_any_order(files):
    files.peaks[1][2:] = [301, 551]
    files.peaks[3][2:] = [752, 1002]
    locus = files.load().regions["locus"]
    assert locus[0] == locus[1]
    assert locus[2] != locus[3]
    assert locus.nunique() == 9


@pytest.mark.parametrize("header", ["name\tchr\tstart\tstop\n", "name chr start stop\n"])
def test_header_is_optional(files, header):
    expected = files.load()
    paths = files.write()
    paths["peaks"].write_text(header + paths["peaks"].read_text().replace("\t", " "))
    data = load_immgen(**paths)
    np.testing.assert_array_equal(data.sequences, expected.sequences)
    assert data.regions.equals(expected.regions)


@pytest.mark.parametrize("tail", ["\x1a", "\x1a\n", "\x1a\r\n", '"\x1a",,,\n'])
def test_end_mark_of_dos_is_ignored(files, tail):
    expected = files.load()
    files.peak_tail, files.height_tail = tail.strip('",\n'), tail
    data = files.load()
    np.testing.assert_array_equal(data.targets, expected.targets)
    np.testing.assert_array_equal(data.sequences, expected.sequences)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("peak_x chr1 5\n", "peaks, line 13: 3 columns"),
        ("peak_x chr1 5 9 +\n", "peaks, line 13: 5 columns"),
        ("peak_x chr1 0 250\n", "peaks, line 13: start 0, stop 250"),
        ("peak_x chr1 9 5\n", "peaks, line 13: start 9, stop 5"),
        ("peak_x chr1 5.5 9\n", "peaks, line 13: start 5.5, stop 9"),
        ("\n" + PEAK.format(3) + " chr1 5 9\n", "peaks, line 14: name 'peak_3' occurs twice"),
    ],
)
def test_bad_peaks_are_refused_by_line(files, tail, message):
    files.peak_tail = tail
    with pytest.raises(ValueError, match=message):
        files.load()


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("x,1,2\n", "heights, line 14: "),
        ("x,1,2,3,4\n", "heights, line 14: too many columns"),
        ("x,1,nan,3\n", "heights, line 14: value of 'MF.PC' is nan"),
        ("x,1,2,inf\n", "heights, line 14: value of 'T.4.Nve.Sp' is inf"),
        ("x,1,-2,3\n", "heights, line 14: height in 'MF.PC' is -2; a height is not negative"),
        ("x,1,two,3\n", "heights, line 14: value of 'MF.PC' is two"),
        ("peak_3,1,2,3\n", "heights: 'peak_3' occurs twice"),
        (PEAK.format(3) + ",1,2,3\n", "heights, line 14: name .* occurs twice"),
    ],
)
def test_bad_heights_are_refused_by_line(files, tail, message):
    files.height_tail = tail
    with pytest.raises(ValueError, match=message):
        files.load()


@pytest.mark.parametrize("empty", ["peaks", "heights", "genome"])
def test_empty_files_are_refused(files, empty):
    paths = files.write()
    paths[empty].write_bytes(b"")
    with pytest.raises(ValueError, match=f"{empty}.* (holds no|does not contain a valid) "):
        load_immgen(**paths)


def test_genome_must_hold_the_chromosomes_and_the_peaks(files):
    files.peaks[2][2:] = [SIZE - 249, SIZE + 1]
    with pytest.raises(ValueError, match=r"peaks, line 3: peak_3 stops at 3001, behind .* chr2"):
        files.load()
    del files.genome["chr2"], files.genome["chr8"]
    with pytest.raises(ValueError, match="genome: lacks chr2, chr8"):
        files.load()


def test_chromosome_that_occurs_twice_is_refused(files):
    paths = files.write()
    with gzip.open(paths["genome"], "at") as file:
        file.write(f">chr1\n{files.genome['chr1']}\n")
    with pytest.raises(ValueError, match=r'genome.*Duplicate key "chr1"'):
        load_immgen(**paths)


def test_peaks_of_unknown_or_held_out_chromosomes_only_are_refused(files):
    every = files.peaks
    files.peaks = every[-2:]
    with pytest.raises(ValueError, match="peaks, line 1: chromosome 'chrX'"):
        files.load()
    files.peaks = every[4:]
    with pytest.raises(ValueError, match="no region on a training chromosome"):
        files.load()


def test_held_out_lists_that_agree_are_counted(files):
    path = files.held_out([5, 6, 7, 77], [9, 10])
    notes = files.load(held_out=path).notes
    assert [notes[f"peaks listed in Test{k}"] for k in (0, 1)] == [4, 2]
    assert [notes[f"peaks listed in Test{k} that are used"] for k in (0, 1)] == [3, 2]
    assert notes["held-out peaks that no list names"] == 1


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [
        ([5, 6], [9, 1], "Test1 holds peaks of chr1, chr19; give each list peaks of chr8"),
        ([5, 9], [10], "Test0 holds peaks of chr19, chr8"),
        ([77], [78], "lists no peak of the data"),
        ([], [9], "list 'Test0' holds no name"),
    ],
)
def test_held_out_lists_that_contradict_are_refused(files, validation, test, message):
    with pytest.raises(ValueError, match=f"held_out.txt: {message}"):
        files.load(held_out=files.held_out(validation, test))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("peak_1 peak_2\n", "line 1: names before the first title"),
        ("# A\na\n# A\nb\n", "line 3: list 'A' twice"),
        ("", "holds no list"),
    ],
)
def test_malformed_held_out_lists_are_refused(tmp_path, text, message):
    path = tmp_path / "lists.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_held_out(path)


@pytest.mark.parametrize(
    "options", [{"length": 0}, {"flank": -1}, {"unit": "log"}, {"length": 2.5}]
)
def test_bad_arguments_are_refused_before_any_file_is_opened(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        load_immgen(peaks="none", heights="none", genome="none", **options)


def published(path):
    """A listed file, or a skip where it is neither in the cache nor in the mirror."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "_download", lambda source: pytest.skip(f"{path} is not here"))
        return fetch(path)


def test_published_held_out_lists_have_the_papers_sizes():
    lists = read_held_out(published("immgen/peak_matchedtestsetschr81119.txt"))
    assert {title: len(names) for title, names in lists.items()} == {"Test0": 32739, "Test1": 9158}
    assert "peak_251276" in lists["Test1"]


def test_aitac_sample_rows_are_acgt():
    for name in ("one_hot_seqs", "cell_type_array"):
        published(f"immgen/aitac_sample/{name}.npy")
    one_hot, heights = load_aitac_sample()
    assert one_hot.shape == (100, 4, 251)
    assert one_hot.dtype == np.float32
    assert (one_hot.sum(1) == 1).all()
    assert heights.shape == (100, 81)
    # Methylation has worn CpG away in mammals, while GpC is as frequent as its bases make it.
    # Under any other order of the rows "CG" would be a pair that is not depleted.
    codes = one_hot.argmax(1)
    cg = ((codes[:, :-1] == 1) & (codes[:, 1:] == 2)).sum()
    gc = ((codes[:, :-1] == 2) & (codes[:, 1:] == 1)).sum()
    assert cg < gc / 2
