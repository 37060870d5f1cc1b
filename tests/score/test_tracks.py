"""Tracks and arrays hold the scores of a store at their places in the genome."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import numpy as np
import pybigtools
import pytest
import torch

import tism
from tism.score.genome import Genome, read_windows
from tism.score.methods import score_to_store
from tism.score.modisco import contributions, write_modisco_pair
from tism.score.store import StoreError
from tism.score.tracks import write_arrays, write_bedgraph, write_bigwig

LETTERS = "".join(random.Random(0).choices("ACGT", k=58)) + "NN"
BED = "chr2\t30\t50\tc\t0\t-\nchr1\t40\t60\tb\t0\t+\nchr1\t10\t30\ta\t0\t-\nchr1\t22\t42\td\t0\t+\n"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("g.fa").write_text(f">chr1\n{LETTERS}\n>chr2\n{LETTERS}\n>chr3\nACGT\n")
    Path("p.bed").write_text(BED)
    model = tism.build_model("baseline", length=20, n_tasks=2, width=4, seed=0)
    with Genome("g.fa") as genome:
        windows = read_windows("p.bed", genome, strand=True)
        return score_to_store("s", model, windows, method="ism", mutate=(3, 20), chunk_size=3)


def plain_track(store, value: str) -> dict[tuple[str, int], float]:
    """The value of every base, by a loop over all windows and bases."""
    found: dict[tuple[str, int], list[float]] = {}
    for row, region in enumerate(store.regions.itertuples()):
        for place in range(3, 20):
            minus = region.strand == "-"
            position = region.end - 1 - place if minus else region.start + place
            column = store.one_hot()[row, :, place]
            if not column.any():
                continue
            scores = store.read()[row, 1, :, place - 3]
            mean = (
                -scores.sum() / 3 if value == "mean-effect" else (scores - scores.mean()) @ column
            )
            found.setdefault((region.chrom, position), []).append(float(mean))
    return {place: float(np.mean(values)) for place, values in found.items()}


@pytest.mark.parametrize("value", ["mean-effect", "centred"])
def test_a_track_has_the_mean_over_the_windows_of_each_base(store, value):
    expected = plain_track(store, value)
    assert 2 < len({c for c, _ in expected}) + 2 < len(expected)
    write_bigwig(store, "t.bw", 1, value=value)
    with pybigtools.open("t.bw") as track:
        assert track.chroms() == {"chr1": 60, "chr2": 60}
        found = {(c, s): v for c in ("chr1", "chr2") for s, e, v in track.records(c)}
    write_bedgraph(store, "t.bedgraph", 1, value=value)
    lines = [line.split() for line in Path("t.bedgraph").read_text().splitlines()]
    assert all(int(end) == int(start) + 1 for _, start, end, _ in lines)
    text = {(chrom, int(start)): float(value) for chrom, start, _, value in lines}
    assert list(text) == sorted(text)
    for shown in (found, text):
        assert shown.keys() == expected.keys()
        np.testing.assert_allclose([shown[k] for k in expected], [*expected.values()], rtol=1e-4)


def test_tracks_of_tism_and_of_the_gradient_are_the_same(store):
    model = tism.build_model("baseline", length=20, n_tasks=2, width=4, seed=0)
    with Genome("g.fa") as genome:
        windows = read_windows("p.bed", genome)
        for method in ("tism", "gradient"):
            write_bedgraph(score_to_store(method, model, windows, 0, method=method), f"{method}.bg")
    assert Path("tism.bg").read_text() == Path("gradient.bg").read_text()


def test_modisco_has_the_scored_positions_and_their_places(store):
    sequences, scores = contributions(store, 1)
    assert sequences.shape == scores.shape == (4, 4, 17)
    write_modisco_pair(store, "m", 1)
    places = [line.split("\t") for line in Path("m.bed").read_text().splitlines()]
    assert [(p[3], p[5]) for p in places] == [("c", "-"), ("b", "+"), ("a", "-"), ("d", "+")]
    for (_, start, end, *_), letters in zip(places, tism.decode(sequences), strict=True):
        piece = LETTERS[int(start) : int(end)]
        other = piece[::-1].translate(str.maketrans("ACGT", "TGCA"))
        assert letters in (piece, other)


def test_intervals_of_modisco_end_where_the_chromosome_does(store):
    """Rows stay in the order of the arrays; a track has no value beyond the ends."""
    Path("edge.bed").write_text("chr1\t0\t4\nchr1\t20\t40\nchr1\t56\t60\nchr1\t57\t60\n")
    model = tism.build_model("baseline", length=20, n_tasks=1, width=4, seed=0)
    with Genome("g.fa") as genome:
        windows = read_windows("edge.bed", genome, 20, pad=True)
        padded = score_to_store("pad", model, windows, mutate=(0, 8))
        other = score_to_store("other", model, windows, mutate=(9, 20))
    write_modisco_pair(padded, "m")
    places = [line.split("\t")[1:3] for line in Path("m.bed").read_text().splitlines()]
    assert places == [["0", "0"], ["20", "28"], ["48", "56"], ["48", "56"]]
    write_modisco_pair(other, "m")
    places = [line.split("\t")[1:3] for line in Path("m.bed").read_text().splitlines()]
    assert places == [["1", "12"], ["29", "40"], ["57", "60"], ["57", "60"]]
    write_bedgraph(other, "t.bedgraph")
    places = {int(line.split("\t")[1]) for line in Path("t.bedgraph").read_text().splitlines()}
    assert places == {*range(1, 12), *range(29, 40), 57}  # the last two bases are N


def test_arrays_are_those_of_the_store(store):
    write_arrays(store, "a.npz")
    arrays = np.load("a.npz", allow_pickle=False)
    np.testing.assert_array_equal(arrays["scores"], store.read())
    np.testing.assert_array_equal(arrays["one_hot"], store.one_hot())
    assert arrays["name"].tolist() == ["c", "b", "a", "d"]


def test_sequences_without_a_genome_have_no_track(tmp_path):
    model = tism.build_model("baseline", length=20, n_tasks=2, width=4, seed=0)
    store = score_to_store(tmp_path / "t", model, torch.eye(4)[torch.tensor([[0, 1] * 10])].mT)
    with pytest.raises(StoreError, match="its sequences are not windows of a genome"):
        write_bigwig(store, tmp_path / "t.bw", 0)
    with pytest.raises(ValueError, match="value must be one of mean-effect, centred"):
        write_bigwig(store, tmp_path / "t.bw", 0, value="sum")
    assert not list(tmp_path.glob("t.bw"))


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_bigwig_that_lacks_something_never_replaces_a_good_one(store, monkeypatch, share):
    """As on a full disk, where pybigtools prints its errors and returns."""
    write_bigwig(store, "t.bw", 0)
    before, real = Path("t.bw").read_bytes(), pybigtools.open

    class Cut:
        def __init__(self, path: str) -> None:
            self.path = Path(path)

        def write(self, *what: object) -> None:
            real(str(self.path), "w").write(*what)
            content = self.path.read_bytes()
            self.path.write_bytes(content[: int(share * len(content))])

    monkeypatch.setattr(pybigtools, "open", lambda path, *mode: Cut(path) if mode else real(path))
    with pytest.raises(OSError, match=r"^t\.bw: not written whole, the disk may be full"):
        write_bigwig(store, "t.bw", 1)
    assert Path("t.bw").read_bytes() == before
    assert not list(Path().glob(".t.*"))


def test_windows_of_n_have_no_track(tmp_path):
    model = tism.build_model("baseline", length=20, n_tasks=1, width=4, seed=0)
    (tmp_path / "g.fa").write_text(f">chr1\n{'N' * 60}\n")
    (tmp_path / "p.bed").write_text("chr1\t20\t40\n")
    with Genome(tmp_path / "g.fa") as genome:
        store = score_to_store(tmp_path / "n", model, read_windows(tmp_path / "p.bed", genome))
    for write in (write_bigwig, write_bedgraph):
        with pytest.raises(StoreError, match="all bases that were scored are N: nothing to export"):
            write(store, tmp_path / "n.bw")
    assert not list(tmp_path.glob("*n.bw*"))


def test_the_name_of_a_track_decides_how_it_is_packed(store):
    write_bigwig(store, "t.BW", 1)
    write_bigwig(store, "t", 1)
    assert Path("t").read_bytes() == Path("t.BW").read_bytes()
    write_bedgraph(store, "t.bedgraph", 1)
    write_bedgraph(store, "t.bedgraph.gz", 1)
    assert gzip.decompress(Path("t.bedgraph.gz").read_bytes()) == Path("t.bedgraph").read_bytes()
    with pytest.raises(ValueError, match=r"t\.bedgraph\.zst: text is packed by gzip only"):
        write_bedgraph(store, "t.bedgraph.zst", 1)
    for write, name in ((write_bigwig, "t.bw.gz"), (write_arrays, "t.npz.gz")):
        with pytest.raises(ValueError, match=rf"{name}: this format is packed in itself; leave"):
            write(store, name, **({"task": 1} if write is write_bigwig else {}))
