"""Tables of targets are read exactly; bad ones are refused by file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from tism.score.readers import InputFileError
from tism.study.data.immgen import read_targets


@pytest.fixture
def write(tmp_path):
    def write_file(text: str) -> Path:
        path = tmp_path / "heights.csv"
        path.write_bytes(text.encode())
        return path

    return write_file


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
        ("name,A\np1,1\rp2,2\n", 2, "a carriage return that does not end the line"),
        ("\rname,A\np1,1\n", 1, "a carriage return that does not end the line"),
        ("name,A\np1\0,1\n", 2, "a carriage return or NUL within the line"),
        ("name,A\np1,True\np2,False\n", 2, "value of 'A' is True"),
    ],
)
def test_targets_are_refused(write, text, line, words):
    path = write(text)
    with pytest.raises(InputFileError) as error:
        read_targets(path)
    assert str(error.value).startswith(f"{path}, line {line}:" if line else f"{path}:")
    assert words in str(error.value)


def test_names_of_regions_stay_as_they_are_written(write):
    names = ["007", "1e5", "NA", "true", "1.0"]
    rows = "".join(f"{name},1\n" for name in names)
    assert read_targets(write("name,A\n" + rows)).index.tolist() == names


def test_other_bytes_and_damaged_archives_are_named(tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes(b"name,A\n>a\xff\nACGT\n")
    with pytest.raises(InputFileError, match=r"file\.txt, line [23]: "):
        read_targets(path)
    path.write_bytes(gzip.compress(b"name,A\n>a\n")[:-12])
    with pytest.raises(InputFileError, match=r"file\.txt.*damaged"):
        read_targets(path)


def test_a_byte_order_mark_is_no_part_of_the_first_name(write):
    assert read_targets(write("\ufeffname,A\np,1\n")).columns.tolist() == ["A"]
