"""Good files are read exactly; bad ones are refused by file, line and remedy."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from tism.score.readers import InputFileError, iterate_fasta, read_bed, read_fasta, read_targets

SIZES = {"chr1": 100, "chr2": 50}


@pytest.fixture
def write(tmp_path):
    def write_file(text: str, name: str = "file.txt") -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write_file


def refused(reader, path: Path, line: int | None, *words: str, **options) -> None:
    with pytest.raises(InputFileError) as error:
        reader(path, **options)
    message = str(error.value)
    assert message.startswith(f"{path}, line {line}:" if line else f"{path}:")
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", ["genome.fa", "genome.fa.gz"])
def test_fasta_joins_lines_and_ignores_case(write, name):
    sequences = read_fasta(write(">one first\nACgt\nNn\n\n>two\r\nttTT\r\n", name))
    assert list(sequences) == ["one", "two"]
    np.testing.assert_array_equal(sequences["one"], [0, 1, 2, 3, 4, 4])
    np.testing.assert_array_equal(sequences["two"], [3, 3, 3, 3])
    assert sequences["one"].dtype == np.uint8


def test_iterate_fasta_gives_the_line_of_each_header(write):
    records = [(name, line) for name, line, _ in iterate_fasta(write(">a\nAC\nGT\n>b\nA\n"))]
    assert records == [("a", 1), ("b", 4)]


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("", None, "holds no sequence"),
        ("\n\n", None, "holds no sequence"),
        ("ACGT\n>a\nACGT\n", 1, "before the first header"),
        (">\nACGT\n", 1, "without a name"),
        (">a\nAC\n>b\nGT\n>a\nTT\n", 5, "'a' occurs twice"),
        (">a\n>b\nACGT\n", 1, "'a' has no sequence"),
        (">a\nACGT\n>b\n", 3, "'b' has no sequence"),
        (">Roy\nAC\n>b\nACGT\nACRT\n", 5, "letter 'R'"),
        (">a\nAC GT\n", 2, "letter ' '"),
    ],
)
def test_fasta_is_refused(write, text, line, word):
    refused(read_fasta, write(text, "genome.fa"), line, word)


def test_missing_file_is_named(tmp_path):
    refused(read_fasta, tmp_path / "none.fa", None, "no such file")
    refused(read_bed, tmp_path / "none.bed", None, "no such file")


def test_bed_skips_headers_and_keeps_the_order(write):
    text = (
        "# made up\ntrack name=x\nbrowser position\nchr2\t0\t50\tb\t7.5\t+\n\nchr1\t3\t4\ta\t0\t.\n"
    )
    frame = read_bed(write(text), SIZES, unique_names=True)
    assert list(frame.columns) == ["chrom", "start", "end", "name", "score", "strand"]
    assert frame["chrom"].tolist() == ["chr2", "chr1"]
    assert frame["start"].tolist() == [0, 3]
    assert frame["end"].tolist() == [50, 4]
    assert frame["score"].tolist() == [7.5, 0.0]


def test_bed_of_three_columns(write):
    assert list(read_bed(write("chr1\t1\t2\n")).columns) == ["chrom", "start", "end"]


def test_bed_columns_behind_those_wanted_may_hold_anything(write):
    path = write("track x\nchr1\t1\t2\ta\t.\t+\t0\nchr1\t4\t9\tb\thigh\t-\t1\n")
    frame = read_bed(path, columns=4, lines=True)
    assert list(frame.columns) == ["chrom", "start", "end", "name", "line"]
    assert frame["line"].tolist() == [2, 3]


def test_bed_names_some_of_many_chromosomes(write):
    sizes = {f"contig{k}": 10 for k in range(1000)}
    refused(read_bed, write("chr1\t1\t2\n"), 1, "contig29 and 970 more", chromosome_sizes=sizes)


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("", None, "holds no interval"),
        ("# only a comment\n", None, "holds no interval"),
        ("chr1\t1\n", 1, "at least 3"),
        ("chr1 1 2\n", 1, "tab-separated"),
        ("# x\nchr1\t1\t2\ta\nchr1\t1\t2\n", 3, "needs 4"),
        ("chr1\t-1\t5\n", 1, "-1-5"),
        ("chr1\t1\t2\nchr1\t5\t5\n", 2, "5-5"),
        ("chr1\tone\t5\n", 1, "start is 'one'"),
        ("chr1\t1\t5.5\n", 1, "end is '5.5'"),
        ("chr1\t1\t2\ta\t1\nchr1\t1\t2\tb\tnan\n", 2, "score is 'nan'"),
        ("chr1\t1\t2\ta\tinf\n", 1, "score is 'inf'"),
        ("chr1\t1\t2\ta\thigh\n", 1, "score is 'high'"),
        ("chr1\t1\t2\ta\nchr1\t3\t4\ta\n", 2, "'a' occurs twice"),
        ("chr1\t1\t2\ta\nchrM\t1\t2\tb\n", 2, "known are chr1, chr2"),
        ("chr1\t99\t100\ta\nchr2\t1\t51\tb\n", 2, "behind the end of chr2 (50 bp)"),
    ],
)
def test_bed_is_refused(write, text, line, word):
    path = write(text, "peaks.bed")
    refused(read_bed, path, line, word, chromosome_sizes=SIZES, unique_names=True)


def test_targets(write):
    frame = read_targets(write('name,"A",B\n"p1",1,2.5\np2,-3,0\n'), n_rows=2)
    assert frame.index.tolist() == ["p1", "p2"]
    assert frame.columns.tolist() == ["A", "B"]
    np.testing.assert_array_equal(frame.to_numpy(), [[1, 2.5], [-3, 0]])


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("", None, "holds no row"),
        ("name,A,B\n", None, "holds no row"),
        ("name\tA\np1\t1\n", 1, "names no task"),
        ("name,A,A\np1,1,2\n", 1, "task 'A' occurs twice"),
        ("name,A,B\np1,1,2,3\n", 2, "too many columns"),
        ("name,A,B\np1,1,2\np2,1,2,3\n", 3, "too many columns"),
        ("name,A,B\np1,1,2\np2,1\n", 3, "value of 'B'"),
        ("name,A,B\np1,1,2\np2,nan,2\n", 3, "value of 'A' is nan"),
        ("name,A,B\np1,1,2\np2,1,inf\n", 3, "value of 'B' is inf"),
        ("name,A,B\np1,1,2\np2,low,2\n", 3, "value of 'A' is low"),
        ("name,A,B\np1,1,2\n\np2,1,2\n", 3, "no name"),
        ("name,A,B\np1,1,2\np1,1,2\n", 3, "'p1' occurs twice"),
        ("name,A,B\np1,1,2\np2,1,2\n", None, "2 rows of targets; give 3"),
    ],
)
def test_targets_are_refused(write, text, line, word):
    refused(read_targets, write(text, "heights.csv"), line, word, n_rows=3)


BOM = "\ufeff"


@pytest.mark.parametrize(
    ("reader", "text", "line", "word"),
    [
        (read_bed, "chr1\t1_0\t50\n", 1, "start is '1_0'"),
        (read_bed, "chr1\t\u0663\t50\n", 1, "start is '\u0663'"),
        (read_bed, "chr1\t1\t99999999999999999999\n", 1, "end is '99999999999999999999'"),
        (read_bed, f"chr1\t1\t{'9' * 5000}\n", 1, "(5000 characters)"),
        (read_bed, "chr1\t1\t2\ta\t1_0\n", 1, "score is '1_0'"),
        (read_bed, "\t1\t2\n", 1, "no chromosome"),
        (read_targets, 'name,A\np1,1\n"p2,2\np3,3\n', 3, "a quote that does not end"),
        (read_targets, "name,A\np1,1\rp2,2\n", 2, "a carriage return or NUL within the line"),
        (read_targets, "\rname,A\np1,1\n", 1, "a carriage return or NUL within the line"),
        (read_targets, "name,A\np1\0,1\n", 2, "a carriage return or NUL within the line"),
        (read_targets, "name,A\np1,True\np2,False\n", 2, "value of 'A' is True"),
    ],
)
def test_what_python_and_pandas_would_take_is_refused(write, reader, text, line, word):
    refused(reader, write(text), line, word)


@pytest.mark.parametrize("reader", [read_fasta, read_bed, read_targets])
def test_other_bytes_are_named_by_line(tmp_path, reader):
    path = tmp_path / "file.txt"
    for content in (b">a\xff\nACGT\n", b"chr\xff\t1\t2\n"):
        first = {read_fasta: b">first\nA\n", read_bed: b"#\n", read_targets: b"name,A\n"}[reader]
        path.write_bytes(first + content)
        with pytest.raises(InputFileError, match=r"file\.txt, line [23]: "):
            reader(path)
    path.write_bytes(gzip.compress(b"name,A\n" * (reader is read_targets) + b">a\n")[:-12])
    with pytest.raises(InputFileError, match=r"file\.txt.*damaged"):
        reader(path)
    with pytest.raises(InputFileError, match="Is a directory; give the path of a readable file"):
        reader(tmp_path)


def test_byte_order_marks_are_no_part_of_the_first_name(write):
    assert read_bed(write(f"{BOM}chr1\t1\t2\n"))["chrom"].tolist() == ["chr1"]
    assert list(read_fasta(write(f"{BOM}>a\nAC\n"))) == ["a"]
    assert read_targets(write(f"{BOM}name,A\np,1\n")).columns.tolist() == ["A"]


def test_a_chromosome_may_begin_like_a_header(write):
    frame = read_bed(write("track_7\t1\t2\nbrowser3\t1\t2\ntrack name=x\n"))
    assert frame["chrom"].tolist() == ["track_7", "browser3"]


def test_names_of_regions_stay_as_they_are_written(write):
    names = ["007", "1e5", "NA", "true", "1.0"]
    table = "".join(f"{name},1\n" for name in names)
    assert read_targets(write("name,A\n" + table)).index.tolist() == names


@pytest.mark.parametrize("separator", ["", ",,", '"', None, 3])
def test_a_separator_is_one_character(write, separator):
    with pytest.raises(ValueError, match="separator must be one character"):
        read_targets(write("name,A\np,1\n"), separator=separator)
