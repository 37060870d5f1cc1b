"""FASTA files and tables of targets are read exactly; bad ones are refused by file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from tism.score.readers import InputFileError
from tism.study.data.tables import iterate_fasta, read_fasta, read_targets

READERS = pytest.mark.parametrize("reader", [read_fasta, read_targets])


@pytest.fixture
def write(tmp_path):
    def write_file(text: str, name: str = "file.txt") -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write_file


def refused(reader, path: Path, line: int | None, words: str) -> None:
    with pytest.raises(InputFileError) as error:
        reader(path)
    assert str(error.value).startswith(f"{path}, line {line}:" if line else f"{path}:")
    assert words in str(error.value)


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
    ("text", "line", "words"),
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
def test_fasta_is_refused(write, text, line, words):
    refused(read_fasta, write(text, "genome.fa"), line, words)


def test_targets(write):
    frame = read_targets(write('name,"A",B\n"p1",1,2.5\np2,-3,0\n'))
    assert frame.index.tolist() == ["p1", "p2"]
    assert frame.columns.tolist() == ["A", "B"]
    np.testing.assert_array_equal(frame.to_numpy(), [[1, 2.5], [-3, 0]])


@pytest.mark.parametrize(
    ("text", "line", "words"),
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
        ('name,A\np1,1\n"p2,2\np3,3\n', 3, "a quote that does not end"),
        ("name,A\np1,1\rp2,2\n", 2, "a carriage return or NUL within the line"),
        ("\rname,A\np1,1\n", 1, "a carriage return or NUL within the line"),
        ("name,A\np1\0,1\n", 2, "a carriage return or NUL within the line"),
        ("name,A\np1,True\np2,False\n", 2, "value of 'A' is True"),
    ],
)
def test_targets_are_refused(write, text, line, words):
    refused(read_targets, write(text, "heights.csv"), line, words)


def test_names_of_regions_stay_as_they_are_written(write):
    names = ["007", "1e5", "NA", "true", "1.0"]
    rows = "".join(f"{name},1\n" for name in names)
    assert read_targets(write("name,A\n" + rows)).index.tolist() == names


@READERS
def test_other_bytes_and_damaged_archives_are_named_by_line(tmp_path, reader):
    path = tmp_path / "file.txt"
    first = {read_fasta: b">first\nA\n", read_targets: b"name,A\n"}[reader]
    path.write_bytes(first + b">a\xff\nACGT\n")
    with pytest.raises(InputFileError, match=r"file\.txt, line [23]: "):
        reader(path)
    path.write_bytes(gzip.compress(first + b">a\n")[:-12])
    with pytest.raises(InputFileError, match=r"file\.txt.*damaged"):
        reader(path)


def test_a_byte_order_mark_is_no_part_of_the_first_name(write):
    assert list(read_fasta(write("\ufeff>a\nAC\n"))) == ["a"]
    assert read_targets(write("\ufeffname,A\np,1\n")).columns.tolist() == ["A"]
