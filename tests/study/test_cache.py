"""A checkpoint comes back as it was written, or is refused by name; writing is all or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from tism.score.files import replacing, temporary_prefix, write_text
from tism.study import cache as checkpoint
from tism.study.cache import (
    DamagedCheckpointError,
    DamagedFileError,
    load_checkpoint,
    read_checked,
    read_json,
    save_checkpoint,
    write_checked,
)

METADATA = {"identity": {"dataset": "tiny", "rate": 1e-5}, "log": [{"epoch": 1}], "none": None}


def tensors(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {
        "weight": torch.full((3, 2), value).T,  # not contiguous
        "double": torch.tensor([1e-300, value], dtype=torch.float64),
        "count": torch.tensor(7),
        "half": torch.full((2,), value, dtype=torch.bfloat16),
        "trained": torch.full((2,), value, requires_grad=True),
    }


@pytest.fixture
def stem(tmp_path):
    """A saved checkpoint."""
    stem = tmp_path / "runs" / "model.v0"
    save_checkpoint(stem, tensors(), METADATA)
    return stem


def files(stem) -> list[str]:
    return sorted(path.name for path in stem.parent.iterdir())


def test_round_trip(stem):
    loaded, metadata = load_checkpoint(stem)

    assert metadata.items() >= METADATA.items()
    assert loaded.keys() == tensors().keys()
    for key, tensor in tensors().items():
        assert loaded[key].dtype == tensor.dtype
        assert torch.equal(loaded[key], tensor)
    assert files(stem) == ["model.v0.json", "model.v0.safetensors"]


def test_a_checkpoint_is_replaced_as_a_whole(stem):
    save_checkpoint(stem, tensors(2.0), {"new": True})

    loaded, metadata = load_checkpoint(stem)

    assert loaded["weight"].eq(2).all()
    assert metadata["new"]
    assert files(stem) == ["model.v0.json", "model.v0.safetensors"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit(**changes):
    def apply(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return apply


def forget_the_checksum(path):
    record = json.loads(path.read_text())
    del record["sha256"]
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("end", "damage"),
    [
        ("safetensors", truncate),
        ("safetensors", flip_a_bit),
        ("safetensors", lambda path: path.write_bytes(b"")),
        ("json", lambda path: path.write_bytes(path.read_bytes()[:-5])),
        ("json", lambda path: path.write_text("")),
        ("json", lambda path: path.write_text("[]")),
        ("json", lambda path: path.write_text("null")),
        ("json", lambda path: path.write_bytes(b"\xff\xfe\x00{}")),
        ("json", edit(sha256="0" * 64)),
        ("json", edit(identity={"dataset": "tiny", "rate": 1e-4})),
        ("json", forget_the_checksum),
    ],
)
def test_damage_is_refused_by_name(stem, end, damage):
    damage(stem.with_name(f"model.v0.{end}"))

    with pytest.raises(DamagedCheckpointError, match=r"runs/model\.v0\.\w+ .*delete model\.v0"):
        load_checkpoint(stem)


@pytest.mark.parametrize("end", ["safetensors", "json"])
def test_a_missing_file_is_named(stem, end):
    stem.with_name(f"model.v0.{end}").unlink()

    with pytest.raises(FileNotFoundError, match=rf"runs/model\.v0\.{end} is missing"):
        load_checkpoint(stem)


def test_weights_of_another_checkpoint_are_refused(stem):
    other = stem.with_name("other")
    save_checkpoint(other, tensors(3.0), METADATA)
    other.with_name("other.safetensors").replace(stem.with_name("model.v0.safetensors"))

    with pytest.raises(DamagedCheckpointError, match=r"model\.v0\.safetensors is not the file"):
        load_checkpoint(stem)


@pytest.mark.parametrize(
    ("new_tensors", "new_metadata", "error"),
    [
        ({"weight": "no tensor"}, {}, AttributeError),
        (tensors(2.0), {"unknown": object()}, TypeError),
        (tensors(2.0), {"unknown": {1, 2}}, TypeError),
    ],
)
def test_what_cannot_be_written_leaves_the_old_checkpoint(stem, new_tensors, new_metadata, error):
    with pytest.raises(error):
        save_checkpoint(stem, new_tensors, new_metadata)

    loaded, metadata = load_checkpoint(stem)
    assert loaded["weight"].eq(1).all()
    assert metadata["identity"] == METADATA["identity"]
    assert files(stem) == ["model.v0.json", "model.v0.safetensors"]


def test_a_full_disk_leaves_the_old_checkpoint(stem, monkeypatch):
    def full(tensors, path, **options):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"no space left for .*model\.v0\.safetensors.*free some"):
        save_checkpoint(stem, tensors(2.0), {})

    assert load_checkpoint(stem)[0]["weight"].eq(1).all()
    assert files(stem) == ["model.v0.json", "model.v0.safetensors"]


def test_a_full_disk_is_named_whoever_notices_it(tmp_path):
    from safetensors import SafetensorError

    path = tmp_path / "file"
    for error in (OSError(28, "No space left on device"), SafetensorError("No space left")):
        refusal = pytest.raises(OSError, match=rf"no space left for {path}.*free some")
        with refusal as caught, replacing(path):
            raise error
        assert caught.value.errno == 28
    with pytest.raises(OSError, match="something else"), replacing(path):
        raise OSError(5, "something else")


def test_what_killed_processes_left_goes_with_the_next_write(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = tmp_path / "model.v0.json"
    mine = temporary_prefix(path)
    theirs = mine.replace(f"-{os.getpid()}.", f"-{ended.pid}.")
    for name in (f"{mine}1.json", f"{theirs}2.json", f"{theirs}3.safetensors"):
        (tmp_path / name).touch()

    write_text(path, "{}")

    assert files(path) == sorted([f"{mine}1.json", f"{theirs}3.safetensors", path.name])


@pytest.mark.parametrize("change", [truncate, flip_a_bit, lambda path: path.write_bytes(b"\xff")])
def test_a_checked_file_is_refused_by_name_where_it_changed(tmp_path, change):
    path = tmp_path / "table.csv"
    write_checked(path, "a,b\n1,2\n")
    assert read_checked(path) == "a,b\n1,2\n"

    change(path)

    with pytest.raises(DamagedFileError, match=r"table\.csv is damaged.*delete it"):
        read_checked(path)
    write_checked(path, "a,b\n1,3\n")
    assert read_checked(path) == "a,b\n1,3\n"


def test_a_file_without_checksum_is_taken_as_it_is_unless_it_makes_no_sense(tmp_path):
    path = tmp_path / "older.json"
    path.write_text("[1]")
    assert read_json(path) == [1]
    path.write_text("[1")
    with pytest.raises(DamagedFileError, match=r"older\.json is damaged"):
        read_json(path)


def test_a_checkpoint_without_its_json_does_not_exist(tmp_path, monkeypatch):
    def killed(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "model", tensors(), METADATA)

    with pytest.raises(FileNotFoundError, match=r"model\.json is missing"):
        load_checkpoint(tmp_path / "model")


def test_a_reader_sees_the_old_text_or_the_new(tmp_path):
    path = tmp_path / "new" / "log.csv"
    write_text(path, "old\n")

    def fail_midway():
        with replacing(path) as temporary:
            temporary.write_text("ne")
            assert temporary.parent == path.parent  # os.replace works within one file system only
            assert path.read_text() == "old\n"
            raise ValueError("midway")

    with pytest.raises(ValueError, match="midway"):
        fail_midway()

    assert path.read_text() == "old\n"
    assert files(path) == ["log.csv"]

    write_text(path, "naïve\n")

    assert path.read_text(encoding="utf-8") == "naïve\n"
    assert files(path) == ["log.csv"]
    assert path.stat().st_mode & 0o777 == 0o644
