"""The command is never wrong in silence: what it cannot do right it refuses, counts or names."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tism.score import loading
from tism.score.cli import main
from tism.score.files import write_table
from tism.score.genome import Genome, read_windows
from tism.score.methods import variant_table
from tism.score.modisco import contributions
from tism.score.readers import InputFileError, read_bed
from tism.score.store import StoreError, create_store, open_store
from tism.sequence import decode

MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.scale = torch.nn.Conv1d(4, 3, 3, padding="same"), scale

    def forward(self, x):
        return self.scale * torch.nn.functional.gelu(self.conv(x)).sum(2)

def load(scale=1.0):
    return Net(scale)

class Mixing(Net):
    def forward(self, x):
        y = super().forward(x)
        return y + y.cumsum(0) / 100

class Chance(Net):
    def forward(self, x):
        return torch.nn.functional.dropout(super().forward(x), 0.01, training=True)

class Root(Net):
    def forward(self, x):  # no number where a sequence begins with TA
        return super().forward(x) + (0.5 - (x[:, 3, :1] * x[:, 0, 1:2])).sqrt()

def mixing(): return Mixing(1.0)
def chance(): return Chance(1.0)
def root(): return Root(1.0)
def twice(output): return 2 * output
def missing(output): return output.profile
def other(output): return {}["counts"]
"""
LETTERS = "".join(random.Random(0).choices("ACGT", k=900))
SCORE = "score --fasta g.fa --quiet --model m.py"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TISM_DATA_DIR", str(tmp_path / "cache"))
    lines = [LETTERS[i : i + 60] for i in range(0, 900, 60)]
    Path("g.fa").write_text(">chr1\n" + "\n".join(lines) + "\n>chrM\n" + "ACGTA" * 8 + "\n")
    Path("p.bed").write_text("".join(f"chr1\t{s}\t{s + 20}\tp{s}\n" for s in range(20, 860, 40)))
    rows = [(p, LETTERS[p - 1], "CGTA"["ACGT".index(LETTERS[p - 1])]) for p in range(30, 860, 40)]
    text = "".join(f"chr1\t{p}\tv{p}\t{ref}\t{alt}\n" for p, ref, alt in rows)
    Path("v.vcf").write_text("##fileformat=VCFv4.2\n" + text)
    Path("m.py").write_text(MODEL)
    return tmp_path


def run(command: str, status: int = 0) -> None:
    """Run a command, which must end with this exit status."""
    try:
        main(command.split())
        ended = 0
    except SystemExit as stop:
        ended = stop.code or 0
    assert ended == status


def said(command: str, capsys, status: int = 2) -> str:
    capsys.readouterr()
    run(command, status)
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return shown


# --- a store that lost a file -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["maps", "variants"])
def test_a_store_that_lost_any_file_is_refused_or_gives_the_same(files, kind):
    source = "--bed p.bed" if kind == "maps" else "--vcf v.vcf --length 21"
    run(f"{SCORE}:load {source} --out whole --chunk-size 8")
    names = [path.relative_to("whole") for path in Path("whole").rglob("*") if path.is_file()]
    assert len(names) >= 15

    def used(store) -> str:
        if kind == "variants":
            return variant_table(store).to_csv()
        return str([array.tobytes() for array in contributions(store, 0)])

    for name in names:
        shutil.copytree("whole", "part", dirs_exist_ok=True)
        (Path("part") / name).unlink()
        with pytest.raises(StoreError, match=r"part.*(delete|make one|run the scoring)"):
            used(open_store("part"))
    assert used(open_store("whole"))


def test_sequences_and_columns_that_were_changed_are_refused_at_export(files):
    import zarr

    run(f"{SCORE}:load --bed p.bed --out s")
    for name in ("sequences", "start", "name"):
        shutil.copytree("s", name)
        array = zarr.open_array(f"{name}/{name}", mode="r+")
        array[1] = array[0]
        with pytest.raises(StoreError, match="its sequences or columns were changed"):
            contributions(open_store(name), 0)


def test_arrays_of_one_value_are_there_and_complete(files):
    """A chunk of zeros or of one letter is written too, so that a missing one is lost."""
    Path("g.fa").write_text(f">chr1\n{'A' * 900}\n")
    Path("p.bed").write_text("chr1\t0\t20\t\n" * 3)
    run(f"{SCORE}:load --bed p.bed --out s")
    assert decode(open_store("s").one_hot()) == ["A" * 20] * 3
    assert contributions(open_store("s"), 0)[1].shape == (3, 4, 20)


# --- pipes ------------------------------------------------------------------------------------


@contextlib.contextmanager
def pipe(content: bytes):
    """The path of a pipe from which a thread's bytes come."""
    end, start = os.pipe()

    def send() -> None:
        with open(start, "wb") as file:
            file.write(content)

    thread = threading.Thread(target=send)
    thread.start()
    yield f"/dev/fd/{end}"
    thread.join()
    os.close(end)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_pipes_are_read_whole(files, pack):
    lines = "".join(f"chr1\t{10 + k % 800}\t{30 + k % 800}\tpeak{k}\n" for k in range(1500))
    with pipe(pack(lines.encode())) as path, Genome("g.fa") as genome:
        windows = read_windows(path, genome)
    assert windows.regions["name"].tolist() == [f"peak{k}" for k in range(1500)]
    with pipe(pack(Path("v.vcf").read_bytes())) as path:
        run(f"{SCORE}:load --vcf {path} --length 21 --out s")
    assert len(open_store("s")) == 21
    with pipe(b">a\nACGT\n") as path, pytest.raises(InputFileError, match="is no file on disk"):
        Genome(path)


def test_a_table_goes_into_a_pipe(files):
    run(f"{SCORE}:load --vcf v.vcf --length 21 --out s")
    shown = subprocess.run(
        f"{sys.executable} -m tism.score.cli export s --table /dev/stdout | cat",
        shell=True, capture_output=True, text=True,
    )  # fmt: skip
    assert len(shown.stdout.splitlines()) == 22
    assert Path("/dev/stdout").is_symlink()


# --- the index of another genome --------------------------------------------------------------


def test_an_index_is_checked_against_the_file_not_its_date(files, caplog):
    index = Path("g.fa.fai")
    with Genome("g.fa"):
        pass
    before = index.stat()
    lines = [LETTERS[i : i + 50] for i in range(0, 900, 50)]
    Path("g.fa").write_text(">chr1 new\n" + "\n".join(lines) + "\n>chrM\n" + "ACGTA" * 8 + "\n")
    for time in (before.st_mtime_ns - 10**12, before.st_mtime_ns):
        os.utime("g.fa", ns=(time, time))
        with Genome("g.fa") as genome:
            codes = genome.codes("chr1", 100, 300)[0]
        assert "".join("ACGT"[code] for code in codes) == LETTERS[100:300]
    with caplog.at_level("INFO"):
        for damage in (index.read_bytes()[:20], index.read_bytes().replace(b"900", b"890")):
            index.write_bytes(damage[: damage.rfind(b"\n") + 1] or b"")
            with Genome("g.fa") as genome:
                assert genome.sizes == {"chr1": 900, "chrM": 40}
    assert "is not the index of this version of g.fa" in caplog.text


def test_a_packed_genome_of_the_same_date_and_size_is_unpacked_again(files):
    for bases in ("ACGTACGTAC", "TTGTACGTAC"):
        Path("z.fa.gz").write_bytes(gzip.compress(f">a\n{bases}\n".encode(), mtime=0))
        os.utime("z.fa.gz", (10**9, 10**9))
        with Genome("z.fa.gz") as genome:
            assert "".join("ACGT"[code] for code in genome.codes("a", 0, 10)[0]) == bases


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not contain a valid sequence"),
        ("ACGT\n", "before the first sequence"),
        (">\nAC\n", "line 1: a header without a name"),
        (">a\nAC\n> \nAC\n", "line 3: a header without a name; begin each with '>name'"),
        (">a\nAC\n>b\n", "'b' has no sequence; add it or drop the header"),
        (">a\nAC\n>b", "'b' has no sequence; add it or drop the header"),
        (">a\nAC\n>a\nAC\n", "two sequences have this name; rename or delete one of them"),
        (">a\nACGT\n\nACGT\n", "line 3.; give every sequence lines of one length, none of them"),
        (">a\nACGT\nAC\nACGT\n", "line 3.; give every sequence lines of one length"),
        (">a\nAC\nACGT\n", "give every sequence lines of one length"),
        (">a\rACGT\r>b\rACGT\r", "rewrite the line ends of an old Mac"),
    ],
)
def test_faults_of_a_genome_say_what_helps(files, text, words):
    Path("bad.fa").write_bytes(text.encode())
    with pytest.raises(InputFileError, match=f"bad.fa.*{words}"):
        Genome("bad.fa")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_byte_order_mark_is_no_part_of_a_genome(files, pack):
    Path("g.fa").write_bytes(pack(b"\xef\xbb\xbf" + Path("g.fa").read_bytes()))
    with Genome("g.fa") as genome:
        assert genome.sizes == {"chr1": 900, "chrM": 40}
        assert "".join("ACGT"[code] for code in genome.codes("chr1", 0, 90)[0]) == LETTERS[:90]


@pytest.mark.parametrize("name", ["p.bed", "v.vcf", "g.fa"])
def test_a_file_of_bgzip_without_its_last_block_is_damaged(files, capsys, name):
    """It was cut between two blocks, which are whole."""
    extra = b"\x04" + bytes(6) + b"\6\0BC\2\0"  # flags, time and system, then the size of the block

    def block(content: bytes) -> bytes:
        packed = gzip.compress(content, mtime=0)
        size = (len(packed) + 7).to_bytes(2, "little")
        return packed[:3] + extra[:5] + b"\0\xff" + extra[7:] + size + packed[10:]

    end = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
    content = Path(name).read_bytes()
    kind = "--vcf v.vcf --length 21" if name == "v.vcf" else "--bed p.bed"
    for out, blocks in (("whole", [content, b""]), ("cut", [content])):
        packed = b"".join(block(each) if each else end for each in blocks)
        Path(name).write_bytes(packed)
        command = f"{SCORE}:load {kind} --out {out}"
        if out == "whole":
            run(command)
        else:
            shown = said(command, capsys)
            assert f"{name}" in shown
            assert "damaged (its end is missing: no empty block of bgzip); fetch it" in shown


def test_lines_that_are_shorter_than_the_index_says_are_refused(files):
    Path("u.fa").write_text(">a\nACGTAC\nACGT\nACGTACGT\nACGTAC\n>b\nACGT\n")
    Path("u.fa.fai").write_text("a\t24\t3\t6\t7\nb\t4\t34\t4\t5\n")
    with Genome("u.fa") as genome, pytest.raises(InputFileError, match="lines of a have other"):
        genome.codes("a", 0, 20)


# --- scores that are not finite ---------------------------------------------------------------


def test_scores_that_are_not_finite_are_counted_named_and_exported_by_choice(files, capsys):
    Path("n.bed").write_text(
        "".join(f"chr1\t{s}\t{s + 20}\n" for s in range(300) if LETTERS[s] == "T")
    )
    command = f"{SCORE}:root --bed n.bed --out s --chunk-size 2"
    bad = [s for s in range(300) if LETTERS[s : s + 2] == "TA"]
    for _ in range(2):  # the second computes nothing
        shown = said(command, capsys, 3)
        assert f"complete; {len(bad)} have scores that are not finite: chr1:{bad[0]}-" in shown
    store = open_store("s")
    assert (store.regions["start"].iloc[store.not_finite()] == bad).all()
    shown = said("export s --modisco x --task 0", capsys)
    assert f"{len(bad)} of {len(store)} sequences have scores that are not finite" in shown
    run("export s --modisco x --task 0 --not-finite drop")
    kept = np.load("x.attributions.npz")["arr_0"]
    assert len(kept) == len(store) - len(bad) == len(Path("x.bed").read_text().splitlines())
    assert np.isfinite(kept).all()
    for kind, options in (("bedgraph", "--task 0"), ("npz", "")):
        said(f"export s --{kind} {kind} {options}", capsys)
        assert not Path(kind).exists()
        run(f"export s --{kind} {kind} {options} --not-finite drop")


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_a_chunk_of_one_value_is_written(tmp_path, value):
    store = create_store(tmp_path / "s", {}, torch.eye(4)[None].repeat(3, 1, 1), row_shape=(2,))
    store.fill(lambda rows: torch.full((3, 2), value))
    assert not open_store(store.path).missing()
    assert open_store(store.path).not_finite() == ([0, 1, 2] if np.isnan(value) else [])


# --- what is no text, what is no window -------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"chr1\t1\t30\rchr1\t5\t34\r", "line ends of an old Mac"),
        (b"# made\rchr1\t1\t30\r", "line ends of an old Mac"),
        ("chr1\t1\t30\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ("chr1\t1\t30\n".encode("utf-16-be"), "is UTF-16 text"),
        (gzip.compress(b"BCF\2\2rest", mtime=0), "is a BCF file; write it as VCF"),
        (b"\x43\x27\x41\x1a" + bytes(12), "is a 2bit file; write it as FASTA"),
        (gzip.compress(b"BAM\1" + bytes(12), mtime=0), "is a BAM file"),
        (b"BZh91AY&SY", "packed by bzip2"),
        (b"PK\3\4" + bytes(12), "is a zip file or a spreadsheet"),
        (b"chr1\t30\t31\nchr1\t70\t71\n", "intervals of 1 bp, which are no windows; give"),
    ],
)
def test_what_cannot_be_read_or_scored_is_named(files, capsys, content, words):
    Path("bad").write_bytes(content)
    assert words in said(f"{SCORE}:load --bed bad --out s", capsys)
    if b"30\t31" not in content:
        assert words in said(f"{SCORE}:load --vcf bad --length 9 --out s", capsys)
        assert words in said(f"{SCORE.replace('g.fa', 'bad')}:load --bed p.bed --out s", capsys)
    assert not Path("s").exists()


def test_lines_of_gigabytes_do_not_fill_the_memory(files, monkeypatch):
    monkeypatch.setattr("tism.score.readers._LONGEST_LINE", 50)
    Path("long").write_text("chr1\t1\t30\nchr1\t" + "1" * 60)
    with pytest.raises(InputFileError, match="line 2: a line of more than"):
        read_bed("long")


def test_what_was_scored_is_said(files, capsys):
    shown = said(f"{SCORE}:load --bed p.bed --length 31 --out s", capsys, 0)
    about = "21 windows of 31 bp, centred on the middle of each interval, on the forward strand"
    assert f"tism: {about}\n" in shown
    run("status s")
    assert f"windows: {about}\n" in capsys.readouterr().out


# --- a store continued with something else ----------------------------------------------------


@pytest.mark.parametrize(
    ("options", "change", "words"),
    [
        ("--output-fn m.py:twice", ("2 * output", "2.001 * output"), "the code of output_fn"),
        ("", ("gelu", "silu"), "the code of model"),
        ('--model-args {"scale":1.001}', None, "--model-args"),
        ("--output-fn m.py:twice", None, "the code of output_fn and --output-fn"),
    ],
)
def test_another_function_or_argument_is_noticed_and_named(files, capsys, options, change, words):
    command = f"{SCORE}:load --bed p.bed --out s --chunk-size 4"
    run(f"{command} {options if change else ''} --shard 1/2")
    loading._loaded.clear()
    if change:
        Path("m.py").write_text(MODEL.replace(*change))
    shown = said(f"{command} {options}", capsys)
    assert "its model predicted" in shown
    assert words in shown
    assert len(open_store("s").missing()) == 3


def test_code_that_predicts_the_same_is_said_to_have_changed(files, caplog):
    command = f"{SCORE}:load --bed p.bed --out s --chunk-size 4"
    run(f"{command} --shard 1/2")
    loading._loaded.clear()
    Path("m.py").write_text(MODEL + "# a comment\n")
    run(command)
    assert "the code of model changed" in caplog.text


@pytest.mark.parametrize(
    ("model", "words"), [("mixing", "depend on the other sequences"), ("chance", "call to call")]
)
def test_models_of_chance_or_of_batch_mates_are_an_error(files, capsys, model, words):
    shown = said(f"{SCORE}:{model} --bed p.bed --out s", capsys)
    assert words in shown
    assert "--allow-nondeterministic" in shown
    assert not Path("s").exists()
    run(f"{SCORE}:{model} --bed p.bed --out s --allow-nondeterministic")
    assert not open_store("s").missing()


@pytest.mark.parametrize(
    ("begun", "change", "words"),
    [
        (":chance --output-fn m.py:twice", (":chance", ":mixing"), "(changed: --model)"),
        (":chance", (":chance", ":chance --output-fn m.py:twice"), "--output-fn"),
        (":load", (":load", ':load --model-args {"scale":3}'), "(changed: --model-args)"),
    ],
)
def test_leave_to_chance_is_no_leave_for_other_functions(files, capsys, begun, change, words):
    options = "--bed p.bed --out s --chunk-size 4 --allow-nondeterministic"
    run(f"{SCORE}{begun} {options} --shard 1/2")
    run(f"{SCORE}{begun} {options} --shard 2/2 --chunk-size 4")
    assert words in said(f"{SCORE}{begun.replace(*change)} {options}", capsys)


# --- rows that are refused --------------------------------------------------------------------


def test_the_list_of_refused_rows_belongs_to_the_store(files, capsys):
    good = Path("p.bed").read_text()
    Path("p.bed").write_text(good + "chr2\t5\t25\tx\nMT\t5\t25\ty\nchr1\t890\t910\tz\n")
    run(f"{SCORE}:load --bed p.bed --out s --max-refused 15")
    listed = pd.read_csv("s.refused.tsv", sep="\t")
    assert listed["line"].tolist() == [22, 23, 24]
    assert listed["reason"].tolist() == [
        "chromosome is not in g.fa",
        "chromosome is not in g.fa, which calls it chrM",
        "the interval ends behind the chromosome of g.fa",
    ]
    before = Path("s.refused.tsv").read_bytes()
    Path("q.bed").write_text(good + "chr1\t7\t27\tw\nchr7\t5\t25\tx\n")
    assert "other sequences" in said(f"{SCORE}:load --bed q.bed --out s", capsys)
    assert Path("s.refused.tsv").read_bytes() == before
    Path("p.bed").write_text(good)
    run(f"{SCORE}:load --bed p.bed --out s")
    assert not Path("s.refused.tsv").exists()


def test_arguments_of_refused_rows_are_named(files, capsys):
    Path("p.bed").write_text("chr7\t5\t25\tx\n" + Path("p.bed").read_text())
    np.savez("a.npz", control=np.zeros((22, 3)))
    shown = said(f"{SCORE}:load --bed p.bed --out s --args a.npz", capsys)
    assert "a.npz: array 0 must have one row a sequence (21) or one for all, has 22" in shown
    assert "give none for what is refused of p.bed (1, the first in line 1: chromosome" in shown


@pytest.mark.parametrize(
    ("name", "columns", "words"),
    [
        ("x.bed", "n\t0\t.\t1.5\t1\t-1\t4", "x.bed: looks like narrowPeak; --summit centres"),
        ("x.NARROWPEAK", "n\t0\t.\t1\t1\t1\t4", ""),
        ("x.bed", "n\t0\t.\t10\t30\t0,9,0\t4", ""),
        ("x.bed", "n\t0\t.\t1.5\t1\t-1\t99", ""),
        ("x.bed", "n\t0\t.", ""),
    ],
)
def test_what_looks_like_narrow_peak_is_said(files, caplog, name, columns, words):
    Path(name).write_text(f"chr1\t40\t60\t{columns}\n")
    with Genome("g.fa") as genome:
        windows = read_windows(name, genome, 11)
        assert windows.regions["start"].tolist() == [39 if "NARROW" in name else 45]
        assert words in caplog.text
        assert bool(words) == ("looks like" in caplog.text)
        caplog.clear()
        read_windows(name, genome, 11, summit=False)
        assert not caplog.text


def test_many_refused_rows_are_an_error(files, capsys):
    Path("p.bed").write_text(Path("p.bed").read_text() + "1\t5\t25\tx\n" * 3)
    shown = said(f"{SCORE}:load --bed p.bed --out s", capsys)
    assert "3 of 24 rows cannot be scored, more than 10 %: 3 x chromosome is not in g.fa" in shown
    assert "which calls it chr1 (the first in line 22: 1:5-25)" in shown
    assert not list(files.glob("s*"))
    run(f"{SCORE}:load --bed p.bed --out s --max-refused 12.5")


# --- options that would do nothing ------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--table t --task 0", "--task is for --bigwig and --bedgraph and --modisco only"),
        ("--npz t --task 0", "--task is for"),
        ("--npz t --track centred", "--track is for --bigwig and --bedgraph only"),
        ("--bigwig t --background 1 0 0 0", "--background is for --modisco only"),
        ("--bedgraph t --effect difference", "--effect is for --table only"),
        ("--modisco t --task-names none.txt", "--task-names is for --table only"),
        ("--modisco t/ --task 0", "prefix must end in a file name, got 't/'"),
    ],
)
def test_options_of_another_export_are_refused(files, capsys, options, words):
    run(f"{SCORE}:load --bed p.bed --out s")
    assert words in said(f"export s {options}", capsys)
    assert not list(files.glob("t*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--bed p.bed --tasks 2,0,0", "'2,0,0' names a task twice"),
        ("--bed p.bed --tasks 0-2,1", "names a task twice"),
        (
            "--bed p.bed --mutate 5:50",
            "mutate must lie within the 20 positions of a window",
        ),
        ("--bed p.bed --mutate=-21:5", "mutate must lie within the 20 positions"),
        ("--vcf v.vcf --length 21 --no-summit", "--summit is for --bed"),
    ],
)
def test_options_of_a_score_that_would_do_less_than_asked_are_refused(
    files, capsys, options, words
):
    assert words in said(f"{SCORE}:load {options} --out s", capsys)
    assert not Path("s").exists()


# --- errors by name ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "words"), [("missing", "AttributeError"), ("other", "KeyError")])
def test_errors_of_an_output_function_are_named(files, capsys, name, words):
    shown = said(f"{SCORE}:load --output-fn m.py:{name} --bed p.bed --out s", capsys)
    assert f"output_fn raised {words}" in shown


def test_json_and_shapes_that_are_absurd_are_named(files, capsys):
    assert "is no JSON" in said(
        f"{SCORE}:load --bed p.bed --out s --model-args {'[' * 99_999}", capsys
    )
    run(f"{SCORE}:load --bed p.bed --out s --chunk-size {10**17}")
    assert open_store("s").chunk_size == 21
    path = Path("s/zarr.json")
    content = json.loads(path.read_text())
    path.write_text("[" * 99_999)
    assert "damaged" in said("status s", capsys)
    path.write_text(json.dumps(content))
    array = Path("s/scores/zarr.json")
    array.write_text(array.read_text().replace("21", str(10**15)))
    assert "a zarr.json in it was changed" in said("status s", capsys)


def test_a_broken_pipe_is_no_traceback(files):
    run(f"{SCORE}:load --bed p.bed --out s")
    for command in ("status s", "score --help"):
        shown = subprocess.run(
            f"{sys.executable} -m tism.score.cli {command} | true",
            shell=True, capture_output=True, text=True,
        )  # fmt: skip
        assert "Traceback" not in shown.stderr
        assert "Exception ignored" not in shown.stderr


def test_no_spreadsheet_runs_a_cell(files):
    cells = ["=1+1", "+cmd", "-x", "@SUM(A1)", "\t=1", "-1.5", "+3e5", "-", "+", "chr1", "."]
    write_table(Path("t.tsv"), pd.DataFrame({"=name": cells, "n": range(len(cells))}))
    shown = Path("t.tsv").read_text().splitlines()
    assert shown[0] == "'=name\tn"
    kept = [line.rsplit("\t", 1)[0].strip('"') for line in shown[1:]]
    assert kept == [f"'{cell}" for cell in cells[:5]] + cells[5:]


def test_help_says_that_a_model_is_code(capsys):
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    shown = capsys.readouterr().out
    assert "The file is code and runs with your rights" in shown
    assert len(shown.splitlines()) <= 3 * 24
    assert max(map(len, shown.splitlines())) <= 100
