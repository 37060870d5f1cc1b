"""Nothing from outside is executed, unchecked, or lets a name in a file choose where to write."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ruff import find_ruff_bin

import tism
from tism.score.cli import main
from tism.score.genome import Genome, read_variants, read_windows
from tism.score.loading import load_model
from tism.score.methods import score_to_store, variant_table
from tism.score.store import StoreError, create_store, open_store
from tism.study.cache import DamagedFileError, load_checkpoint, save_checkpoint
from tism.study.ch08_networks import WeightFileError, read_keras_layers, read_torch_arrays

ROOT = Path(__file__).parents[2]
LENGTH = 11

# --- the sources ------------------------------------------------------------------------------

UNSAFE = [
    "import pickle", "from joblib import load", "import ast, dill", "eval('1')", "exec('x')",
    "import torch; torch.load('p')", "import yaml as y; y.load('f')", "import os; os.system('ls')",
    "from pandas import read_pickle", "import tarfile; tarfile.open('p')",
    "import subprocess; subprocess.run('ls', shell=True)",
    "import requests; requests.get('u', verify=False)", "def f():\n    import cloudpickle as c",
]  # fmt: skip


def banned(*arguments: str | Path, code: str | None = None) -> str:
    """What ruff says against functions that run what a file holds; pyproject.toml lists them."""
    rules = ["--select=S,TID251", "--ignore=S101,S603,S606"]
    command = [find_ruff_bin(), "check", "--no-cache", *rules]
    run = subprocess.run(
        [*command, *arguments], cwd=ROOT, input=code, capture_output=True, text=True
    )
    assert run.returncode in (0, 1), run.stderr
    return run.stdout if run.returncode else ""


def test_notebooks_execute_nothing_from_outside():
    assert banned(*sorted(ROOT.glob("notebooks/*.ipynb"))) == ""


@pytest.mark.parametrize("code", UNSAFE)
def test_the_check_sees(code):
    assert banned("-", code=f"{code}\n")


def test_archives_are_not_unpacked_and_arrays_hold_numbers():
    for path in [ROOT / "Snakefile", *ROOT.glob("tism/**/*.py"), *ROOT.glob("book/_ext/*.py")]:
        assert not re.search(
            r"\.extractall\(|allow_pickle=True|(?<!\.)\b(eval|exec)\(", path.read_text()
        ), path


# --- code in a file ---------------------------------------------------------------------------


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def bomb(tmp_path):
    """A pickle that makes tmp_path/"gone off", which it must not."""
    mark = tmp_path / "gone off"
    yield pickle.dumps(Bomb(mark))
    assert not mark.exists()


def test_the_bomb_would_go_off(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "gone off")))
    assert (tmp_path / "gone off").is_dir()


def test_a_pickle_is_no_checkpoint(tmp_path, bomb):
    save_checkpoint(tmp_path / "model", {"w": torch.zeros(2)}, {})
    (tmp_path / "model.safetensors").write_bytes(bomb)
    with pytest.raises(DamagedFileError, match=r"model\.safetensors"):
        load_checkpoint(tmp_path / "model")


def test_a_pickle_is_no_weights(tmp_path, bomb, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("import torch\ndef load(): return torch.nn.Linear(2, 2)\n")
    Path("w.pt").write_bytes(bomb)
    torch.save({"weight": Bomb(tmp_path / "gone off")}, "w.pth")
    for name in ("w.pt", "w.pth"):
        with pytest.raises(ValueError, match=f"{name}: no safetensors file"):
            load_model("net.py:load", weights=Path(name))


def test_a_pickle_is_no_external_model(tmp_path, bomb):
    (tmp_path / "weights").write_bytes(bomb)
    with pytest.raises(WeightFileError, match="no torch weight file"):
        read_torch_arrays(tmp_path / "weights", [(1,)])
    with pytest.raises(WeightFileError, match="no HDF5 file"):
        read_keras_layers(tmp_path / "weights")


def test_arrays_are_taken_from_a_zip_but_its_pickle_is_not_read(tmp_path, bomb):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", bomb)
        archive.writestr("archive/data/0", np.ones(3, np.float32).tobytes())
        archive.writestr("../../escaped/data/1", np.zeros(2, np.float32).tobytes())
    arrays = read_torch_arrays(path, [(3,), (2,)])
    assert [array.tolist() for array in arrays] == [[1, 1, 1], [0, 0]]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["weights.pth"]
    assert not (tmp_path.parent.parent / "escaped").exists()


def one_hot() -> torch.Tensor:
    index = torch.randint(4, (6, LENGTH), generator=torch.Generator().manual_seed(0))
    return torch.eye(4)[index].transpose(1, 2)


@pytest.fixture
def model():
    return tism.build_model("baseline", length=LENGTH, n_tasks=2, width=3, seed=0)


def test_a_pickle_in_a_store_is_not_read(tmp_path, bomb, model):
    store = score_to_store(tmp_path / "s", model, one_hot())
    (chunk,) = [p for p in (tmp_path / "s" / "scores" / "c").rglob("*") if p.is_file()]
    chunk.write_bytes(bomb)
    with pytest.raises(StoreError, match="damaged"):
        store.read()
    metadata = tmp_path / "s" / "scores" / "zarr.json"
    content = json.loads(metadata.read_text())
    content["codecs"] = [{"name": "pickle", "configuration": {"protocol": 2}}]
    metadata.write_text(json.dumps(content))
    with pytest.raises((StoreError, ValueError)):
        open_store(tmp_path / "s").read()


# --- checksums --------------------------------------------------------------------------------


def test_every_listed_file_has_a_checksum_or_its_publisher_gives_none():
    with (ROOT / "data" / "sources.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(re.fullmatch(r"[0-9a-f]{64}|", row["sha256"]) for row in rows)
    bare = [row["path"] for row in rows if not row["sha256"]]
    assert all(path.startswith("immgen/") for path in bare)
    assert len(bare) <= 3
    names = [row["path"] for row in rows]
    assert not [n for n in names if Path(n).is_absolute() or ".." in Path(n).parts or "\\" in n]
    assert all(row["url"].startswith("https://") for row in rows if row["sha256"])


# --- names in files ---------------------------------------------------------------------------

NAMES = ["../../x", "a/b", "/etc/x", "..", "nul\0byte", "x" * 300, "CON", "-rf", "$(touch)", "a;b"]


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_names_of_sequences_and_variants_make_no_path(tmp_path, model, monkeypatch):
    """They are values in a column, whatever they say; file names are our own or the caller's."""
    home = tmp_path / "home" / "here"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    monkeypatch.setenv("TISM_DATA_DIR", str(home / "cache"))
    pairs = [(name.replace("\0", ""), name) for name in NAMES]
    Path("g.fa").write_text("".join(f">{chrom}\n{'ACGTTGCA' * 8}\n" for chrom, _ in pairs))
    Path("p.bed").write_text("".join(f"{chrom}\t5\t16\t{name}\n" for chrom, name in pairs))
    Path("v.vcf").write_text("".join(f"{chrom}\t21\t{name}\tT\tG\n" for chrom, name in pairs))
    with Genome("g.fa") as genome:
        maps = score_to_store("maps", model, read_windows("p.bed", genome))
        variants = read_variants("v.vcf", genome, LENGTH)
        variants = score_to_store("var", model, variants, method="ism")
    assert maps.regions["name"].tolist() == variant_table(variants)["id"].tolist() == NAMES
    monkeypatch.setattr("sys.stderr", io.StringIO())
    main(["export", "maps", "--modisco", "o/x", "--task", "0"])
    main(["export", "var", "--table", "o/t.tsv"])
    shown = pd.read_csv("o/t.tsv", sep="\t")["chrom"].tolist()
    assert shown == [f"'{chrom}" if chrom == "-rf" else chrom for chrom, _ in pairs]
    assert {path.split("/")[0] for path in tree(tmp_path)} == {"home"}
    own = {"g.fa", "g.fa.fai", "p.bed", "v.vcf", "maps", "var", "o"}
    assert {path.name for path in home.iterdir()} == own
    plain = re.compile(r"[\w.]+")
    assert all(plain.fullmatch(part) for path in tree(home) for part in path.split("/"))


@pytest.mark.parametrize(
    "name", ["../../x", "a/b", "/x", "..", ".", "", "a\0b", "x" * 300, "scores", "zarr.json", 3]
)
def test_a_column_cannot_be_named_like_a_path(tmp_path, name):
    with pytest.raises(ValueError, match="columns must be named by letters"):
        create_store(tmp_path / "s", {}, one_hot(), row_shape=(1,), columns={name: range(6)})
    assert tree(tmp_path) == set()


def test_a_store_cannot_make_one_read_elsewhere(tmp_path, model):
    score_to_store(tmp_path / "s", model, one_hot())
    metadata = tmp_path / "s" / "zarr.json"
    content = json.loads(metadata.read_text())
    content["attributes"]["tism"]["notes"]["columns"] = ["../../secret"]
    content["attributes"]["tism"].pop("layout", None)
    metadata.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"columns must be named .* got '\.\./\.\./secret'"):
        open_store(tmp_path / "s")


# --- what is published ------------------------------------------------------------------------
