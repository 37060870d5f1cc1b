"""A store holds what was computed, survives kill -9 and a full disk, and refuses other scores."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tism
from tism.score.methods import METHODS, model_checksum, score_to_store
from tism.score.store import StoreError, check_shard, create_store, open_store, sequences_checksum

N, LENGTH = 23, 12


@pytest.fixture
def model() -> torch.nn.Module:
    return tism.build_model("baseline", length=LENGTH, n_tasks=3, width=4, seed=0).eval()


@pytest.fixture
def one_hot() -> torch.Tensor:
    index = torch.randint(5, (N, LENGTH), generator=torch.Generator().manual_seed(0))
    return torch.eye(5)[index][..., :4].transpose(1, 2)


def digest(folder: Path) -> dict[str, str]:
    """Every file below a folder, by its relative name, with its checksum."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("method", METHODS)
def test_store_holds_what_the_method_gives(tmp_path, model, one_hot, method):
    store = score_to_store(tmp_path / "s", model, one_hot, [2, 0], method=method, chunk_size=5)
    expected = METHODS[method].scores(model, one_hot, [2, 0])
    torch.testing.assert_close(store.read(), expected)
    torch.testing.assert_close(store.read(slice(7, 9)), expected[7:9])
    assert not store.missing()
    assert (len(store), store.length, store.n_chunks) == (N, LENGTH, 5)
    torch.testing.assert_close(store.one_hot(), one_hot)
    assert store.identity["tasks"] == [2, 0]


ROWS = [  # an index, and the rows that it means
    (slice(0, 10, 2), [0, 2, 4, 6, 8]),
    (slice(None, 20, -1), [22, 21]),
    (slice(-3, None), [20, 21, 22]),
    (slice(9, 2, -3), [9, 6, 3]),
    (slice(4, 4), []),
    (3, [3]),
    (-1, [22]),
    (np.int64(5), [5]),
    (torch.tensor(2), [2]),
    ([], []),
    ([-1, 0, 22, 0], [22, 0, 22, 0]),
    ((20, 3), [20, 3]),
    (range(3, 10, 4), [3, 7]),
    (np.array([5, 1]), [5, 1]),
    (torch.tensor([4, 6]), [4, 6]),
    ([k in (2, 9) for k in range(N)], [2, 9]),
    (np.arange(N) > 20, [21, 22]),
    (torch.arange(N) < 2, [0, 1]),
    (np.zeros(N, bool), []),
]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A store whose scores are the numbers of their rows, and its sequences."""
    index = torch.randint(4, (N, LENGTH), generator=torch.Generator().manual_seed(0))
    one_hot = torch.eye(4)[index].mT
    store = create_store(
        tmp_path_factory.mktemp("rows") / "s", {}, one_hot, row_shape=(1,), chunk_size=5
    )
    store.fill(lambda rows: torch.arange(N)[rows, None])
    return store, one_hot


@pytest.mark.parametrize(("rows", "meant"), ROWS, ids=str)
def test_every_reader_takes_the_same_rows(numbered, rows, meant):
    store, one_hot = numbered
    assert store.read(rows)[:, 0].tolist() == meant
    assert torch.equal(store.one_hot(rows), one_hot[meant])


@pytest.mark.parametrize(
    "rows",
    [23, [0, -24], [True] * 22, [[1, 2]], True, None, ..., "1", 1.0, [0.5], slice("a"), {1}],
    ids=str,
)
def test_rows_that_there_are_not_are_refused_by_every_reader(numbered, rows):
    for reader in (numbered[0].read, numbered[0].one_hot):
        with pytest.raises(IndexError, match=r"rows must be a slice, an int, a list .* 23 bools"):
            reader(rows)


def test_only_the_chunks_of_the_rows_must_be_there(tmp_path, one_hot):
    store = create_store(tmp_path / "s", {}, one_hot, row_shape=(1,), chunk_size=5)
    store.fill(lambda rows: torch.arange(N)[rows, None], shard=(1, 2))  # chunks 0, 2 and 4
    assert store.read([22, 1, 10])[:, 0].tolist() == [22, 1, 10]
    with pytest.raises(StoreError, match="1 of the 3 chunks asked for are not there"):
        store.read([22, 1, 6])


def test_a_wider_model_keeps_its_dtype(tmp_path, model, one_hot):
    store = score_to_store(tmp_path / "s", model.double(), one_hot.double())
    assert store.read().dtype == torch.float64


def test_a_finished_store_is_read_not_computed(tmp_path, model, one_hot, monkeypatch):
    first = score_to_store(tmp_path / "s", model, one_hot)
    before = digest(tmp_path)
    monkeypatch.setitem(METHODS, "tism", replace(METHODS["tism"], scores=None))
    again = score_to_store(tmp_path / "s", model, one_hot)
    torch.testing.assert_close(again.read(), first.read())
    assert digest(tmp_path) == before


def test_shards_together_make_the_whole(tmp_path, model, one_hot):
    whole = score_to_store(tmp_path / "whole", model, one_hot, chunk_size=2)
    for part in (3, 1, 2):
        store = score_to_store(tmp_path / "parts", model, one_hot, chunk_size=2, shard=(part, 3))
        assert store.missing((part, 3)) == []
        assert bool(store.missing()) == (part != 2)
        if store.missing():
            assert np.isnan(store.scores[:]).any()
            with pytest.raises(StoreError, match=r"of the 12 chunks asked for are not there yet"):
                store.read()
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    torch.testing.assert_close(store.read(), whole.read())


@pytest.mark.parametrize("parts", [1, 2, 5, 23, 40])
def test_every_chunk_is_in_one_shard(tmp_path, one_hot, parts):
    store = create_store(tmp_path / "s", {}, one_hot, row_shape=(2,), chunk_size=1)
    shards = [store.missing((part, parts)) for part in range(1, parts + 1)]
    assert sorted(chunk for shard in shards for chunk in shard) == list(range(N))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("shard", [(0, 4), (5, 4), (1, 0), (1,), None, ("a", "b")])
def test_shards_that_do_not_exist_are_refused(shard):
    with pytest.raises(ValueError, match="shard must be"):
        check_shard(shard)


class Recorded:
    """Sequences that note which rows are read, and how many at once."""

    def __init__(self, one_hot: torch.Tensor) -> None:
        self.one_hot, self.most, self.rows = one_hot, 0, []

    def __len__(self) -> int:
        return len(self.one_hot)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        self.most = max(self.most, len(self.one_hot[rows]))
        self.rows += range(*rows.indices(N))
        return self.one_hot[rows]


def test_sequences_are_read_in_blocks(tmp_path, model, one_hot, monkeypatch):
    monkeypatch.setattr("tism.score.store._BLOCK", 4)
    sequences = Recorded(one_hot)
    store = score_to_store(tmp_path / "s", model, sequences, chunk_size=3)
    assert sequences.most == 4
    torch.testing.assert_close(store.one_hot(), one_hot)
    torch.testing.assert_close(store.read(), tism.tism(model, one_hot))


def test_a_shard_reads_and_compares_its_own_sequences_only(tmp_path, one_hot):
    asked = {"path": tmp_path / "s", "identity": {}, "row_shape": (1,), "chunk_size": 2}
    create_store(sequences=one_hot, **asked)
    read = Recorded(one_hot)
    create_store(sequences=read, shard=(3, 4), **asked)  # chunks 2, 6 and 10
    assert read.rows == [4, 5, 12, 13, 20, 21]
    other = one_hot.clone()
    other[13] = other[13].flip(0)
    create_store(sequences=other, shard=(2, 4), **asked)
    for shard in ((3, 4), (1, 1)):
        with pytest.raises(StoreError, match="other sequences or regions"):
            create_store(sequences=other, shard=shard, **asked)


def test_checksum_knows_bases_columns_and_their_order(one_hot):
    names = {"name": [f"p{k}" for k in range(N)]}
    sums = {
        sequences_checksum(one_hot),
        sequences_checksum(one_hot.flip(0)),
        sequences_checksum(one_hot[:-1]),
        sequences_checksum(one_hot, names),
        sequences_checksum(one_hot, {"name": names["name"][::-1]}),
    }
    assert len(sums) == 5
    with pytest.raises(ValueError, match=r"columns\['name'\] must have shape \(23,\)"):
        sequences_checksum(one_hot, {"name": ["a"]})
    with pytest.raises(ValueError, match="empty"):
        sequences_checksum(one_hot[:0])


class Sum(torch.nn.Module):
    """A model without weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :2].sum(2)


def test_model_checksum_follows_the_weights(model):
    before = model_checksum(model)
    assert model_checksum(model.train()) == before
    model.head.bias.data[0] += 1e-6
    assert model_checksum(model) != before
    assert model_checksum(Sum()) == model_checksum(Sum())
    assert model_checksum(torch.nn.Linear(2, 1).bfloat16())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": [1]}, r"tasks \[0, 1, 2\], asked for \[1\]"),
        ({"method": "gradient"}, "method tism, asked for gradient"),
        ({"chunk_size": 6}, "chunks of 5 sequences, asked for 6"),
        ({"output_fn": lambda y: 2 * y}, r"another architecture or output_fn"),
    ],
)
def test_another_request_is_refused_by_name(tmp_path, model, one_hot, change, words):
    score_to_store(tmp_path / "s", model, one_hot, chunk_size=5)
    before = digest(tmp_path)
    with pytest.raises(StoreError, match=words) as error:
        score_to_store(tmp_path / "s", model, one_hot, **change)
    assert str(tmp_path / "s") in str(error.value)
    assert digest(tmp_path) == before


def test_another_model_version_or_set_of_sequences_is_refused(
    tmp_path, model, one_hot, monkeypatch
):
    score_to_store(tmp_path / "s", model, one_hot)
    before = digest(tmp_path)
    with pytest.raises(StoreError, match="other sequences"):
        score_to_store(tmp_path / "s", model, one_hot[:-1])
    other = tism.build_model("baseline", length=LENGTH, n_tasks=3, width=4, seed=1)
    with pytest.raises(StoreError, match="weights of another model"):
        score_to_store(tmp_path / "s", other, one_hot)
    monkeypatch.setattr("tism.versions.SCORING", 99)
    with pytest.raises(StoreError, match="another version of the scoring"):
        score_to_store(tmp_path / "s", model, one_hot)
    monkeypatch.setattr("tism.score.store.FORMAT", 99)
    with pytest.raises(StoreError, match="format 2, but this version of tism writes 99"):
        open_store(tmp_path / "s")
    assert digest(tmp_path) == before


def test_only_estimates_depend_on_the_version_of_the_estimator(
    tmp_path, model, one_hot, monkeypatch
):
    for method in ("ism", "budgeted"):
        score_to_store(tmp_path / method, model, one_hot, 0, method=method)
    monkeypatch.setattr("tism.versions.ESTIMATION", 99)
    score_to_store(tmp_path / "ism", model, one_hot, 0, method="ism")
    with pytest.raises(StoreError, match="scores of another version of the estimator; nothing"):
        score_to_store(tmp_path / "budgeted", model, one_hot, 0, method="budgeted")


def test_what_is_no_store_is_refused_and_left(tmp_path, model, one_hot):
    import zarr

    with pytest.raises(StoreError, match="no store of scores here"):
        open_store(tmp_path / "none")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("all of it")
    zarr.create_group(tmp_path / "other")
    for name, words in (
        ("folder", "is no store of scores"),
        ("other", "zarr data, but no store of scores"),
    ):
        with pytest.raises(StoreError, match=words):
            score_to_store(tmp_path / name, model, one_hot)
    assert (tmp_path / "folder" / "thesis.txt").read_text() == "all of it"


def test_xarray_opens_a_store(tmp_path, model, one_hot):
    import xarray

    columns = {"name": [f"p\u00e9ak {k}" for k in range(N)], "start": range(N)}
    store = create_store(tmp_path / "s", {}, one_hot, row_shape=(2, 4, LENGTH), columns=columns)
    store.fill(lambda rows: torch.ones(rows.stop - rows.start, 2, 4, LENGTH))
    with xarray.open_zarr(store.path, consolidated=False) as opened:
        assert opened["scores"].dims == ("sequence", "task", "base", "scored_position")
        assert opened["name"].dtype == "<U7"
        chosen = opened.isel(sequence=opened["name"].values == "p\u00e9ak 7")
        assert chosen["scores"].sum() == 8 * LENGTH
        shown = np.eye(5)[chosen["sequences"].values[0]][:, :4].T
        np.testing.assert_array_equal(shown, one_hot[7])


def test_one_long_text_does_not_widen_all(tmp_path, one_hot, monkeypatch):
    monkeypatch.setattr("tism.score.store._FIXED_BYTES", 4000)
    for name, text in (("short", "a" * 9), ("long", "a" * 999)):
        columns = {"name": [text, *"b" * (N - 1)]}
        store = create_store(tmp_path / name, {}, one_hot, row_shape=(1,), columns=columns)
        assert store._array("name").dtype.kind == {"short": "U", "long": "T"}[name]
        store.check()
        assert store.regions["name"][0] == text


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("mutate", "start", "stop"),
    [(5, 4, 9), (4, 4, 8), ((2, 9), 2, 9), ((-3, None), 9, 12), (12, 0, 12)],
)
def test_only_these_positions_are_scored(tmp_path, model, one_hot, method, mutate, start, stop):
    store = score_to_store(tmp_path / "s", model, one_hot, 1, method=method, mutate=mutate)
    assert store.positions == (start, stop)
    assert store.read().shape == (N, 1, 4, stop - start)
    if method != "budgeted" or mutate == 12:  # which spends its budget on these positions only
        whole = METHODS[method].scores(model, one_hot, 1)[..., start:stop]
        torch.testing.assert_close(store.read(), whole)
    with pytest.raises(StoreError, match=r"positions \[.*\], asked for \[1, 3\]"):
        score_to_store(tmp_path / "s", model, one_hot, 1, method=method, mutate=(1, 3))


@pytest.mark.parametrize("mutate", [0, 13, True, 2.5, (5, 5), "5"])
def test_positions_that_there_are_not_are_refused(tmp_path, model, one_hot, mutate):
    with pytest.raises((ValueError, TypeError), match=r"mutate must be|selects no position"):
        score_to_store(tmp_path / "s", model, one_hot, mutate=mutate)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chunk_size", [0, -1, 2.5, True])
def test_chunk_size_is_checked(tmp_path, model, one_hot, chunk_size):
    with pytest.raises(ValueError, match="chunk_size must be"):
        score_to_store(tmp_path / "s", model, one_hot, chunk_size=chunk_size)
    assert not list(tmp_path.iterdir())


def test_a_model_that_predicts_nan_is_refused(tmp_path, model, one_hot):
    model.head.bias.data[1] = float("nan")
    with pytest.raises(ValueError, match=r"predicts .*nan.* for the first sequence"):
        score_to_store(tmp_path / "s", model, one_hot)
    assert not list(tmp_path.iterdir())


def test_compute_of_another_shape_is_refused(tmp_path, one_hot):
    store = create_store(tmp_path / "s", {}, one_hot, row_shape=(2,))
    with pytest.raises(ValueError, match=r"shape \(23, 2\), got \(3,\)"):
        store.fill(lambda rows: torch.zeros(3))
    assert len(store.missing()) == 1


def read_all(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    store = open_store(path)
    return store.read(), store.one_hot()


@pytest.mark.parametrize("name", ["scores/c/1/0/0/0", "sequences/c/0/0", "sequences/zarr.json"])
def test_damage_is_named_with_the_remedy(tmp_path, model, one_hot, name):
    store = score_to_store(tmp_path / "s", model, one_hot, chunk_size=5)
    whole, path = store.read(), store.path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged .*; delete .* and (run|score)") as error:
        read_all(store.path)
    assert str(store.path) in str(error.value)
    if name.startswith("scores"):
        assert str(path) in str(error.value)
        path.unlink()
        torch.testing.assert_close(score_to_store(store.path, model, one_hot).read(), whole)


def test_a_chunk_that_another_process_wrote_meanwhile_stays(tmp_path, one_hot):
    store = create_store(tmp_path / "s", {}, one_hot, row_shape=(1,), chunk_size=10)
    asked = []

    def compute(rows: slice) -> torch.Tensor:
        asked.append(rows.start)
        if len(asked) == 1:  # the other is faster
            open_store(store.path).fill(lambda some: torch.ones(some.stop - some.start, 1))
        return torch.zeros(rows.stop - rows.start, 1)

    store.fill(compute)
    assert asked == [0]
    assert store.read()[:, 0].tolist() == [0] * 10 + [1] * 13


def full_after(n: int, patch: pytest.MonkeyPatch) -> None:
    """The disk is full at the n-th file that takes its final name, until the patch is undone."""
    count, replace = 0, Path.replace

    def fail(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count >= n:
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return replace(self, target)

    patch.setattr(Path, "replace", fail)


def test_a_full_disk_is_named_and_loses_nothing(tmp_path, model, one_hot):
    whole = score_to_store(tmp_path / "whole", model, one_hot, chunk_size=5)
    score_to_store(tmp_path / "s", model, one_hot, chunk_size=5, shard=(1, 5))
    with pytest.MonkeyPatch.context() as patch:
        full_after(3, patch)
        with pytest.raises(OSError, match=r"no space left for .*: 3 of 5 chunks are written") as e:
            score_to_store(tmp_path / "s", model, one_hot)
        assert e.value.errno == errno.ENOSPC
    assert not list(tmp_path.rglob("*.partial"))
    score_to_store(tmp_path / "s", model, one_hot)
    assert digest(tmp_path / "s") == digest(whole.path)


def test_a_full_disk_leaves_no_draft_of_a_store(tmp_path, model, one_hot):
    with pytest.MonkeyPatch.context() as patch:
        full_after(2, patch)
        with pytest.raises(OSError, match="nothing of the store was written"):
            score_to_store(tmp_path / "s", model, one_hot)
    assert not list(tmp_path.iterdir())


# One interpreter, which itself never writes a store, so that a fork of it is cheap and safe. A fork
# is killed at the n-th file that it moves to its final name, before or after, or at a random time.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch, zarr
import tism
from tism.score.methods import score_to_store
torch.set_num_threads(1)
folder = Path(sys.argv[1])
index = torch.randint(4, (30, 12), generator=torch.Generator().manual_seed(0))
one_hot = torch.eye(4)[index].transpose(1, 2)
model = tism.build_model("baseline", length=12, n_tasks=2, width=4, seed=0)
move, rename = Path.replace, os.rename

def run(name, moment=None, before=True, seconds=None):
    count = 0
    def kill():
        os.kill(os.getpid(), signal.SIGKILL)
    def counted(function):
        def wrapper(*arguments):
            nonlocal count
            count += 1
            if count == moment and before:
                kill()
            result = function(*arguments)
            if count == moment:
                kill()
            return result
        return wrapper
    pid = os.fork()
    if pid == 0:
        Path.replace, os.rename = counted(move), counted(rename)
        score_to_store(folder / name, model, one_hot, chunk_size=3)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]

started = time.monotonic()
assert run("whole") == 0
duration = time.monotonic() - started
dice = random.Random(0)
for moment in dice.sample(range(1, 17), 5):
    name = f"killed_{moment}"
    assert run(name, moment, dice.random() < 0.5) == signal.SIGKILL, moment
    chunks = len(list((folder / name).glob("scores/c/*/0/0/0")))
    print(name, chunks, flush=True)
    assert run(name, dice.randint(1, 3)) == signal.SIGKILL or chunks >= 8
    assert run(name) == 0
for k in range(2):
    assert run(f"timed_{k}", seconds=dice.random() * duration) in (0, signal.SIGKILL)
    assert run(f"timed_{k}") == 0
"""


def test_kill_9_loses_at_most_one_chunk_and_the_rerun_is_the_same(tmp_path):
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", KILLED, str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    whole = digest(tmp_path / "whole")
    kept = [line.split() for line in run.stdout.splitlines()]
    assert len(kept) == 5
    for name, chunks in kept:
        moves_before_chunks = 5  # metadata of group (twice) and scores, sequences, the store itself
        assert int(chunks) >= int(name.removeprefix("killed_")) - moves_before_chunks - 2
        assert digest(tmp_path / name) == whole
    for k in range(2):
        assert digest(tmp_path / f"timed_{k}") == whole
