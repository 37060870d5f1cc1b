"""A checkpoint comes back as it was written, or is refused by name; writing is all or nothing."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from safetensors import SafetensorError

from tism.score.files import replacing, write_text
from tism.study import cache
from tism.study.cache import (
    DamagedFileError,
    cached_table,
    cached_tensors,
    load_checkpoint,
    read_csv,
    read_json,
    save_checkpoint,
    write_csv,
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


def test_a_checkpoint_of_an_earlier_version_is_read(stem):
    record = stem.with_name("model.v0.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "record_sha256": "0" * 64}))

    assert load_checkpoint(stem)[1]["identity"] == METADATA["identity"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def forget_the_checksum(path):
    record = json.loads(path.read_text())
    del record["sha256"]
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("end", "damage"),
    [
        ("safetensors", truncate),
        ("safetensors", flip_a_bit),
        ("json", truncate),
        ("json", lambda path: path.write_text("[]")),
        ("json", lambda path: path.write_bytes(b"\xff\xfe\x00{}")),
        ("json", forget_the_checksum),
    ],
)
def test_damage_is_refused_by_name(stem, end, damage):
    damage(stem.with_name(f"model.v0.{end}"))

    with pytest.raises(DamagedFileError, match=r"runs/model\.v0\.\w+ is not .*; delete "):
        load_checkpoint(stem)


@pytest.mark.parametrize("end", ["safetensors", "json"])
def test_a_missing_file_is_named(stem, end):
    stem.with_name(f"model.v0.{end}").unlink()

    with pytest.raises(FileNotFoundError, match=rf"runs/model\.v0\.{end} is missing"):
        load_checkpoint(stem)


@pytest.mark.parametrize(
    ("new_tensors", "new_metadata", "error"),
    [
        ({"weight": "no tensor"}, {}, AttributeError),
        (tensors(2.0), {"unknown": object()}, TypeError),
    ],
)
def test_what_cannot_be_written_leaves_the_old_checkpoint(stem, new_tensors, new_metadata, error):
    with pytest.raises(error):
        save_checkpoint(stem, new_tensors, new_metadata)

    loaded, metadata = load_checkpoint(stem)
    assert loaded["weight"].eq(1).all()
    assert metadata["identity"] == METADATA["identity"]
    assert files(stem) == ["model.v0.json", "model.v0.safetensors"]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), SafetensorError("No space left")])
def test_a_full_disk_is_named_and_leaves_the_old_checkpoint(stem, monkeypatch, error):
    def full(tensors, path, **options):
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"no space left for .*model\.v0\.safetensors.*free some"):
        save_checkpoint(stem, tensors(2.0), {})

    assert load_checkpoint(stem)[0]["weight"].eq(1).all()
    assert files(stem) == ["model.v0.json", "model.v0.safetensors"]


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
    write_text(path, "naïve\n")

    assert path.read_text(encoding="utf-8") == "naïve\n"
    assert files(path) == ["log.csv"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_checkpoint_without_its_json_does_not_exist(tmp_path, monkeypatch):
    def killed(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "model", tensors(), METADATA)

    with pytest.raises(FileNotFoundError, match=r"model\.json is missing"):
        load_checkpoint(tmp_path / "model")


def test_damaged_json_and_tables_are_refused_by_name(tmp_path):
    table, record = tmp_path / "table.csv", tmp_path / "record.json"
    write_csv(table, pd.DataFrame({"a": [1.23456789], "b": ["x"]}))
    assert table.read_text() == "a,b\n1.23457,x\n"
    for content in (b"", b"\xff", b'a,b\n1,"2\n'):
        table.write_bytes(content)
        with pytest.raises(DamagedFileError, match=r"table\.csv is no table.*; delete it"):
            read_csv(table)
    record.write_text("[1")
    with pytest.raises(DamagedFileError, match=r"record\.json is not JSON.*; delete it"):
        read_json(record)


def test_the_cache_computes_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TISM_DATA_DIR", str(tmp_path))
    table = pd.DataFrame({"a": [1.5, 2.5]})

    assert torch.equal(cached_tensors("t/x", tensors)["weight"], tensors()["weight"])
    pd.testing.assert_frame_equal(cached_table("t/y", lambda: table), table)

    def never():
        raise AssertionError("computed again")

    assert cached_tensors("t/x", never)["count"] == 7
    pd.testing.assert_frame_equal(cached_table("t/y", never), table)
