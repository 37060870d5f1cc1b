"""Files take their names whole, with the rights and links that the user asked for."""

from __future__ import annotations

import errno
import gzip
import os
from pathlib import Path

import pandas as pd
import pytest

from tism.score.files import (
    data_folder,
    disk_errors_named,
    one_at_a_time,
    write_table,
    write_text,
)

TABLE = pd.DataFrame({"name": ["a", "b"], "n": [1, 2]})


@pytest.mark.parametrize("mask", [0o077, 0o002])
def test_files_have_the_rights_that_the_umask_leaves(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "t.txt", "words")
    finally:
        os.umask(before)
    assert (tmp_path / "t.txt").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far/file")  # which is not there yet
    for text in ("first", "second"):
        write_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "far" / "file").read_text() == text
    assert {path.name for path in tmp_path.rglob("*")} == {"far", "file", "link"}


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd here")
def test_an_open_file_is_written_not_replaced(tmp_path):
    """As /dev/stdout is after `>` or `>>`."""
    with (tmp_path / "t").open("w") as file:
        file.write("before ")
        file.flush()
        write_text(Path(f"/dev/fd/{file.fileno()}"), "after")
    assert (tmp_path / "t").read_text() == "before after"
    assert list(tmp_path.iterdir()) == [tmp_path / "t"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_device_is_named():
    with pytest.raises(OSError, match="no space left for /dev/full: a part of it may be there"):
        write_text(Path("/dev/full"), "words")


def test_a_table_is_packed_as_its_name_says(tmp_path):
    write_table(tmp_path / "t.tsv", TABLE)
    write_table(tmp_path / "t.tsv.gz", TABLE)
    assert (
        gzip.decompress((tmp_path / "t.tsv.gz").read_bytes()) == (tmp_path / "t.tsv").read_bytes()
    )
    with pytest.raises(ValueError, match=r"t\.tsv\.zst: text is packed by gzip only"):
        write_table(tmp_path / "t.tsv.zst", TABLE)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, r"no space left for .*/t\.txt: .*; free some space and run again"),
        (errno.EFBIG, r"no space left for .*/t\.txt: .*; raise the limit of a file \(ulimit -f\)"),
        (errno.EACCES, r"cannot be written \(Permission denied\): '.*/t\.txt'"),
    ],
)
def test_errors_of_the_disk_name_the_users_file(tmp_path, number, words):
    error = OSError(number, os.strerror(number), str(tmp_path / ".t.0123abcd.txt"))
    with pytest.raises(OSError, match=words), disk_errors_named(tmp_path / "t.txt"):
        raise error


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "t").touch()
    with pytest.raises(OSError, match=r"cannot be written \(File exists\): '.*/t/u'"):
        write_text(tmp_path / "t" / "u", "words")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder, name a file"):
        write_text(tmp_path, "words")


def test_an_empty_name_of_the_cache_is_none(monkeypatch):
    monkeypatch.delenv("TISM_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert data_folder() == Path("~/.cache/tism").expanduser()


def test_nobody_waits_where_no_lock_can_be_made(tmp_path, monkeypatch):
    """As in /proc, where filelock would ask for ever."""

    def refuse(path: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    remnant = tmp_path / ".s.0123abcd"
    remnant.touch()
    monkeypatch.setattr(Path, "touch", refuse)
    with one_at_a_time(tmp_path / "s"):  # it may be that of another process
        assert list(tmp_path.iterdir()) == [remnant]


def test_what_killed_processes_left_is_deleted_by_the_next(tmp_path):
    for name in (".g.0123abcd.fa", ".g.0123abcd.fai", ".h.0123abcd.fa", ".g.x.0123abcd.fa"):
        (tmp_path / name).touch()
    with one_at_a_time(tmp_path / "g.fa"):
        pass
    kept = {".g.0123abcd.fai", ".h.0123abcd.fa", ".g.x.0123abcd.fa"}
    assert {path.name for path in tmp_path.iterdir()} == kept
