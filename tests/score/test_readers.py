"""BED files are read exactly; bad ones are refused by file, line and remedy."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tism.score.readers import InputFileError, read_bed

SIZES = {"chr1": 100, "chr2": 50}


@pytest.fixture
def write(tmp_path):
    def write_file(text: str) -> Path:
        path = tmp_path / "peaks.bed"
        path.write_bytes(text.encode())
        return path

    return write_file


def refused(path: Path, line: int | None, words: str, sizes: dict[str, int] = SIZES) -> None:
    with pytest.raises(InputFileError) as error:
        read_bed(path, sizes)
    assert str(error.value).startswith(f"{path}, line {line}:" if line else f"{path}:")
    assert words in str(error.value)


def test_bed_skips_headers_and_keeps_the_order(write):
    text = (
        "# made up\ntrack name=x\nbrowser position\nchr2\t0\t50\tb\t7.5\t+\n\nchr1\t3\t4\ta\t0\t.\n"
    )
    frame = read_bed(write(text), SIZES)
    assert list(frame.columns) == ["chrom", "start", "end", "name", "score", "strand", "line"]
    assert frame["chrom"].tolist() == ["chr2", "chr1"]
    assert frame["start"].tolist() == [0, 3]
    assert frame["end"].tolist() == [50, 4]
    assert frame["score"].tolist() == [7.5, 0.0]
    assert frame["line"].tolist() == [4, 6]


def test_columns_behind_those_wanted_may_hold_anything(write):
    path = write("track x\nchr1\t1\t2\ta\t.\t+\t0\nchr1\t4\t9\tb\thigh\t-\t1\n")
    frame = read_bed(path, SIZES, columns=4)
    assert list(frame.columns) == ["chrom", "start", "end", "name", "line"]


def test_a_chromosome_may_begin_like_a_header(write):
    sizes = {"track_7": 9, "browser3": 9}
    frame = read_bed(write("track_7\t1\t2\nbrowser3\t1\t2\ntrack name=x\n"), sizes)
    assert frame["chrom"].tolist() == list(sizes)


def test_an_error_names_some_of_many_chromosomes(write):
    sizes = {f"contig{k}": 10 for k in range(1000)}
    refused(write("chr1\t1\t2\n"), 1, "contig29 and 970 more", sizes)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "holds no interval"),
        ("# only a comment\n", None, "holds no interval"),
        ("chr1\t1\n", 1, "at least 3"),
        ("chr1 1 2\n", 1, "tab-separated"),
        ("# x\nchr1\t1\t2\ta\nchr1\t1\t2\n", 3, "needs 4"),
        ("\t1\t2\n", 1, "no chromosome"),
        ("chr1\t-1\t5\n", 1, "-1-5"),
        ("chr1\t1\t2\nchr1\t5\t5\n", 2, "5-5"),
        ("chr1\tone\t5\n", 1, "start is 'one'"),
        ("chr1\t1\t5.5\n", 1, "end is '5.5'"),
        ("chr1\t1\t2\ta\t1\nchr1\t1\t2\tb\tnan\n", 2, "score is 'nan'"),
        ("chr1\t1\t2\ta\tinf\n", 1, "score is 'inf'"),
        ("chr1\t1\t2\ta\thigh\n", 1, "score is 'high'"),
        ("chr1\t1\t2\ta\nchrM\t1\t2\tb\n", 2, "known are chr1, chr2"),
        ("chr1\t99\t100\ta\nchr2\t1\t51\tb\n", 2, "behind the end of chr2 (50 bp)"),
        # what Python's int and float would take
        ("chr1\t1_0\t50\n", 1, "start is '1_0'"),
        ("chr1\t\u0663\t50\n", 1, "start is '\u0663'"),
        ("chr1\t1\t99999999999999999999\n", 1, "end is '99999999999999999999'"),
        (f"chr1\t1\t{'9' * 5000}\n", 1, "(5000 characters)"),
        ("chr1\t1\t2\ta\t1_0\n", 1, "score is '1_0'"),
    ],
)
def test_bed_is_refused(write, text, line, words):
    refused(write(text), line, words)


def test_what_is_no_text_file_is_named(tmp_path):
    path = tmp_path / "peaks.bed"
    path.write_bytes(b"#\nchr\xff\t1\t2\n")
    refused(path, 2, "byte 0xff, which is not UTF-8")
    path.write_bytes(gzip.compress(b"chr1\t1\t2\n")[:-12])
    refused(path, 1, "damaged")
    refused(tmp_path, None, "Is a directory; give the path of a readable file")
    refused(tmp_path / "none.bed", None, "no such file")


def test_a_byte_order_mark_is_no_part_of_the_first_name(write):
    assert read_bed(write("\ufeffchr1\t1\t2\n"), SIZES)["chrom"].tolist() == ["chr1"]


def test_a_name_within_a_packed_file_does_not_make_it_one_of_bgzip(tmp_path):
    path = tmp_path / "peaks.bed.gz"
    with path.open("wb") as raw, gzip.GzipFile("myBC.bed", "wb", fileobj=raw) as file:
        file.write(b"chr1\t1\t2\n")
    assert path.read_bytes()[12:14] == b"BC"
    assert len(read_bed(path)) == 1
