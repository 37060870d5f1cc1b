"""`tism` on the command line does what the functions do, and says what is wrong in one line."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import tism
from tism import outputs
from tism.score.averages import Averaged
from tism.score.cli import main, parse_tasks
from tism.score.genome import Genome, read_variants, read_windows
from tism.score.loading import load_function, load_model, load_output_fn
from tism.score.methods import variant_effects
from tism.score.store import open_store

ROOT = Path(__file__).parents[2]
LENGTH = 11
MODEL = """
import torch
import tism

class Profile(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = torch.nn.Conv1d(4, width, 3, padding="same")
        self.head = torch.nn.Conv1d(width, 3, 3, padding="same")

    def forward(self, x):
        return {"profile": self.head(torch.nn.functional.gelu(self.conv(x)))}

def load(width=4):
    torch.manual_seed(0)
    return Profile(width)

def total(output):
    return output["profile"].sum(-1)

def nothing():
    return None
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dice = random.Random(0)
    letters = "".join(dice.choices("ACGT", k=300))
    Path("genome.fa").write_text(f">chr1\n{letters[:200]}R{letters[201:]}\n")
    starts = [dice.randrange(20, 180) for _ in range(9)]
    Path("peaks.bed").write_text("".join(f"chr1\t{s}\t{s + 11}\n" for s in [*starts, 195]))
    rows = [(p, letters[p - 1], "ACGT"[("ACGT".index(letters[p - 1]) + 1) % 4]) for p in starts]
    rows += [(50, letters[49], "A,C"), (60, letters[59], "<DEL>")]
    text = "".join(f"chr1\t{p}\t.\t{r}\t{a}\t.\t.\t.\n" for p, r, a in rows)
    Path("variants.vcf").write_text("##fileformat=VCFv4.2\n" + text)
    Path("my_model.py").write_text(MODEL)
    return tmp_path


SCORE = "score --fasta genome.fa --model my_model.py:load --output-fn my_model.py:total --quiet"


def run(command: str) -> None:
    main(command.split())


def error_of(command: str, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        run(command)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_peaks_to_store_to_modisco_files(files, capsys):
    run(f"{SCORE} --bed peaks.bed --out s.zarr --tasks 2,0 --method ism")
    said = capsys.readouterr().err
    assert "1 IUPAC letters for several bases were read as N" in said
    assert "s.zarr: 10 sequences, complete" in said
    model, total = load_function("my_model.py:load")(), load_function("my_model.py:total")
    with Genome("genome.fa") as genome:
        one_hot = read_windows("peaks.bed", genome)[:]
    expected = tism.ism(model, one_hot, [2, 0], output_fn=total)
    torch.testing.assert_close(open_store("s.zarr").read(), expected)
    run("export s.zarr --modisco out/pair --task 0")
    assert "modisco motifs -s out/pair.sequences.npz" in capsys.readouterr().err
    attributions = np.load("out/pair.attributions.npz")["arr_0"]
    np.testing.assert_allclose(attributions, tism.centre(expected)[:, 1], atol=1e-6)
    np.testing.assert_array_equal(np.load("out/pair.sequences.npz")["arr_0"], one_hot)


def test_variants_to_table(files, capsys):
    run(f"{SCORE} --vcf variants.vcf --length 11 --method ism --out v.zarr")
    said = capsys.readouterr().err
    assert "1 row refused: no alternate base" in said
    assert "11 windows of 11 bp, the first base of each variant at column 5 (from 0)" in said
    refused = pd.read_csv("v.zarr.refused.tsv", sep="\t")
    assert refused["line"].tolist() == [12]
    run("export v.zarr --table effects.tsv")
    table = pd.read_csv("effects.tsv", sep="\t")
    model, total = load_function("my_model.py:load")(), load_function("my_model.py:total")
    with Genome("genome.fa") as genome:
        variants = read_variants("variants.vcf", genome, LENGTH)
        effects = variant_effects(model, variants, output_fn=total)
    columns = ["effect_0", "effect_1", "effect_2"]
    np.testing.assert_allclose(table[columns], effects, rtol=1e-5)


def test_weights_and_arguments_reach_the_model(files):
    load = load_function("my_model.py:load")
    state = {name: tensor + 1 for name, tensor in load(width=6).state_dict().items()}
    save_file(state, "w.safetensors")
    model = load_model("my_model.py:load", {"width": 6}, Path("w.safetensors"))
    torch.testing.assert_close(model.state_dict(), state)
    assert not model.training
    run(f'{SCORE} --bed peaks.bed --out a --weights w.safetensors --model-args {{"width":6}}')
    assert not open_store("a").missing()


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off_with_a_word(files, caplog, prefix):
    state = load_function("my_model.py:load")(width=6).state_dict()
    save_file({prefix + name: tensor for name, tensor in state.items()}, "w.safetensors")
    with caplog.at_level("INFO"):
        model = load_model("my_model.py:load", {"width": 6}, Path("w.safetensors"))
    torch.testing.assert_close(model.state_dict(), state)
    assert "of all names is taken off" in caplog.text


def test_checkpoints_of_lightning_are_named_with_the_remedy(files, capsys):
    model = load_function("my_model.py:load")()
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.0"}, "x.ckpt")
    error = error_of(f"{SCORE} --bed peaks.bed --out s --weights x.ckpt", capsys)
    assert "a checkpoint of PyTorch or Lightning, which may hold code" in error
    code = error[error.index("state = torch.load") : error.index(", where the model")]
    from safetensors import torch as safe

    names = {"torch": torch, "path": "x.ckpt", "new_path": "x.safetensors"}
    exec(code.replace("safetensors.torch.", "safe."), {**names, "safe": safe})
    load_model("my_model.py:load", weights=Path("x.safetensors"))


@pytest.mark.parametrize(
    ("where", "meant"),
    [
        ("tism:counts", outputs.Head(1)),
        ("tism:profile", outputs.ProfileScore(head=0)),
        ("tism:total", outputs.Total()),
        ("tism:Total", outputs.Total()),
        ('tism:Total(4, -2, axis=1, head="human")', outputs.Total(4, -2, axis=1, head="human")),
        ("tism:Head('profile')", outputs.Head("profile")),
    ],
)
def test_ready_output_functions_by_name(where, meant):
    assert load_output_fn(where) == meant


@pytest.mark.parametrize(
    "text", ["", "Head", "count", "Head(open('x'))", "Head(1", "a.b", "(" * 999]
)
def test_what_is_no_ready_function_is_named(text):
    with pytest.raises(ValueError, match=r"is no ready function; there are tism:counts, .*Total"):
        load_output_fn(f"tism:{text}")


def test_a_ready_function_scores(files):
    Path("pair.py").write_text(MODEL.replace('{"profile": self.head', "(0, self.head").replace(
        "gelu(self.conv(x)))}", "gelu(self.conv(x))))"))  # fmt: skip
    command = "score --fasta genome.fa --model pair.py:load --quiet --bed peaks.bed"
    run(f"{command} --output-fn tism:Total(head=1) --out a")
    run(f"{SCORE} --bed peaks.bed --out b")
    torch.testing.assert_close(open_store("a").read(), open_store("b").read())


CONTROLLED = """
import torch

class Controlled(torch.nn.Module):
    def forward(self, x, control, scale):
        return (x * control[:, None]).sum((1, 2))[:, None] * scale + x[:, 0].sum(1)[:, None]

def load():
    return Controlled()
"""


def test_control_tracks_reach_the_model(files, capsys):
    Path("controlled.py").write_text(CONTROLLED)
    command = "score --fasta genome.fa --model controlled.py:load --quiet --bed peaks.bed --out s"
    control = np.random.default_rng(0).random((10, 11), np.float32)
    np.savez("args.npz", control=control, scale=np.full((1, 1), 3, np.float32))
    run(f"{command} --args args.npz --method ism --chunk-size 4")
    store = open_store("s")
    arguments = (control, torch.full((1, 1), 3.0))
    expected = tism.ism(load_model("controlled.py:load"), store.one_hot(), args=arguments)
    torch.testing.assert_close(store.read(), expected)
    np.savez("args.npz", control=control + 1, scale=np.full((1, 1), 3, np.float32))
    assert "holds scores of args" in error_of(f"{command} --args args.npz --method ism", capsys)
    np.savez("args.npz", control=control[:3])
    assert "must have one row a sequence" in error_of(f"{command} --args args.npz", capsys)
    np.savez_compressed("args.npz", control=np.zeros((10, 11)))
    content = Path("args.npz").read_bytes()
    begin = content.index(b"control.npy") + len("control.npy") + 20  # of what is packed
    Path("args.npz").write_bytes(content[:begin] + b"\7" + content[begin + 1 :])
    assert "args.npz: no .npy or .npz file" in error_of(f"{command} --args args.npz", capsys)
    Path("args.npz").write_text("no array")
    assert "args.npz: no .npy or .npz file" in error_of(f"{command} --args args.npz", capsys)


def test_options_of_windows_reach_the_store(files, capsys):
    rows = [f"chr1\t{s}\t{s + 40}\tp{s}\t0\t{'+-'[s % 2]}\t1\t1\t1\t12\n" for s in range(2, 99, 9)]
    Path("x.narrowPeak").write_text("".join(rows))
    command = f"{SCORE} --bed x.narrowPeak --length 21 --method ism --out s --mutate"
    run(f"{command} 5 --strand --pad")
    said = capsys.readouterr().err
    assert "11 windows of 21 bp, centred on the summit of each peak, 5 of them reverse" in said
    store, model = open_store("s"), load_function("my_model.py:load")()
    assert store.positions == (8, 13)
    assert store.regions["start"].tolist() == [s + 12 - 10 for s in range(2, 99, 9)]
    total = load_function("my_model.py:total")
    expected = tism.ism(model, store.one_hot(), output_fn=total, start=8, stop=13)
    torch.testing.assert_close(store.read(), expected)
    error = error_of(f"{command} 4:9 --strand --pad", capsys)
    assert "positions [8, 13], asked for [4, 9]" in error
    assert "does not look like 50 or 100:150" in error_of(f"{command} 4-9", capsys)
    for option in ("--strand", "--mutate 5", "--summit"):
        error = error_of(f"{SCORE} --vcf variants.vcf --length 11 --out v {option}", capsys)
        assert "is for --bed; a window of --vcf follows its variant" in error


def test_tables_have_names_of_tasks_and_fold_changes(files, capsys):
    run(f"{SCORE} --vcf variants.vcf --length 11 --method ism --out v.zarr --tasks 2,0")
    Path("names.txt").write_text("K562\nHepG2\nliver\n")
    run("export v.zarr --table t.tsv --task-names names.txt")
    table = pd.read_csv("t.tsv", sep="\t")
    assert list(table)[7:] == [
        f"{column}_{name}" for name in ("liver", "K562")
        for column in ("effect", "reference", "alternate")
    ]  # fmt: skip
    Path("names.txt").write_text("K562\nHepG2\nK562\n")
    error = error_of("export v.zarr --table t.tsv --task-names names.txt", capsys)
    assert "names.txt: task names must be 3 different ones" in error
    assert "got 3 (2 different)" in error
    run("export v.zarr --table u.tsv --effect log2fc")
    table = pd.read_csv("u.tsv", sep="\t")
    change = np.log2(table["alternate_0"] / table["reference_0"])
    np.testing.assert_allclose(table["log2fc_0"], change, atol=1e-5)


def test_shards_and_status(files, capsys):
    command = f"{SCORE} --bed peaks.bed --out s.zarr --chunk-size 3"
    run(f"{command} --shard 2/2")
    run("status s.zarr")
    assert "10 sequences, 2 of 4 chunks" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):
        run("status s.zarr --json --check")
    state = json.loads(capsys.readouterr().out)
    assert (state["sequences"], state["chunks"], state["missing"]) == (10, 4, 2)
    assert state["identity"]["method"] == "tism"
    assert "2 of the 4 chunks asked for are not there yet" in error_of(
        "export s.zarr --modisco pair --task 1", capsys
    )
    assert not list(files.glob("pair*"))
    run(f"{command} --shard 1/2")
    with pytest.raises(SystemExit, match="0"):
        run("status s.zarr --check")
    run("status s.zarr")
    assert "complete\nkind: maps\nmethod: tism\ntasks: [0, 1, 2]" in capsys.readouterr().out


def test_folds_and_averages_reach_the_store_and_the_table(files, capsys):
    load, total = load_function("my_model.py:load"), load_function("my_model.py:total")
    for seed in range(3):
        save_file({k: t + seed / 10 for k, t in load().state_dict().items()}, f"{seed}.safetensors")
    command = f"{SCORE} --average shift:1 --average strand --weights 0.safetensors 1.safetensors"
    command += " --weights 2.safetensors --method ism"
    folds = [load_model("my_model.py:load", None, Path(f"{k}.safetensors")) for k in range(3)]
    views = [Averaged(fold, total, ["strand", "shift:1"]) for fold in folds]
    run(f"{command} --bed peaks.bed --out s")
    store = open_store("s")
    maps = torch.stack([tism.ism(view, store.one_hot()) for view in views])
    torch.testing.assert_close(store.read(), maps.mean(0))
    torch.testing.assert_close(store.read(name="spread"), maps.std(0))
    run(f"{command} --vcf variants.vcf --length 11 --out v")
    run("export v --table t.tsv")
    assert list(pd.read_csv("t.tsv", sep="\t"))[7:11] == [
        f"{column}_0" for column in ("effect", "reference", "alternate", "spread")
    ]
    assert "'shift:K' with K from 1, got 'both'" in error_of(
        f"{SCORE} --bed peaks.bed --out t --average both", capsys
    )


def test_a_store_says_where_it_comes_from(files, capsys):
    save_file(load_function("my_model.py:load")().state_dict(), "w.safetensors")
    run(f"{SCORE} --bed peaks.bed --out s --weights w.safetensors --device cpu")
    run("status s --json")
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert (
        notes["command"]
        == f"tism {SCORE} --bed peaks.bed --out s --weights w.safetensors --device cpu"
    )
    assert {file["option"]: file["name"] for file in notes["files"]} == {
        "--bed": "peaks.bed", "--fasta": "genome.fa", "--weights": "w.safetensors",
        "--model": "my_model.py", "--output-fn": "my_model.py",
    }  # fmt: skip
    for file in notes["files"]:
        content = Path(file["name"]).read_bytes()
        assert file["size"] == len(content)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert notes["versions"]["tism"] == tism.__version__
    assert notes["chromosomes"] == {"chr1": 300}


def test_module_on_the_path(files, monkeypatch):
    monkeypatch.syspath_prepend(str(files))
    Path("installed_model.py").write_text(MODEL)
    assert isinstance(load_model("installed_model:load"), torch.nn.Module)
    model = load_function("tism.model:build_model")("baseline", length=8, n_tasks=1, width=4)
    assert isinstance(model, torch.nn.Module)


BAD = {
    "no such model file": ("--model none.py:load", "none.py: no such file"),
    "no such module": ("--model none_such:load", "no module 'none_such'"),
    "no such function": ("--model my_model.py:lod", "has no function 'lod'; it has Profile, load"),
    "no function": ("--model my_model.py", "must be package.module:function or path"),
    "no module returned": (
        "--model my_model.py:nothing",
        "must return a torch.nn.Module, got None",
    ),
    "not a FASTA file": ("--fasta my_model.py", "my_model.py: "),
    "no FASTA file": ("--fasta none.fa", "none.fa: no such file"),
    "no BED file": ("--bed none.bed", "none.bed: no such file"),
    "no such task": ("--tasks 3", "tasks has 3, but the model has 3 tasks (0 to 2)"),
    "output not two-dimensional": ("--output-fn builtins:list", "output_fn must return a tensor"),
    "no weights file": ("--weights none.safetensors", "none.safetensors"),
    "a folder of weights": ("--weights .", ".: a folder or a pipe; name a safetensors file"),
    "no safetensors": ("--weights my_model.py", "my_model.py: no safetensors file"),
    "other arguments": ('--model-args {"depth":3}', "unexpected keyword argument 'depth'"),
    "JSON": ("--model-args width=3", "is no JSON"),
    "no arguments file": ("--args a.npz", "error: a.npz: No such file or directory"),
    "tasks": ("--tasks 1-x", "does not look like 0,3,5-8"),
    "too many tasks": ("--tasks 0-99999999999", "'0-99999999999' is no number of a task"),
    "shard": ("--shard 5/4", "does not look like 1/4"),
    "method": ("--method guess", "invalid choice: 'guess'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_nothing_is_written(files, capsys, name):
    options, words = BAD[name]
    error = error_of(f"{SCORE} --bed peaks.bed --out s.zarr {options}", capsys)
    assert words in error
    assert "Traceback" not in error
    assert not list(files.glob("*s.zarr*"))


def test_variants_need_a_length_and_stores_their_kind(files, capsys):
    error = error_of(f"{SCORE} --vcf variants.vcf --out v.zarr", capsys)
    assert "--vcf needs --length" in error
    run(f"{SCORE} --vcf variants.vcf --length 11 --out v.zarr")
    assert "holds effects of variants" in error_of("export v.zarr --modisco x --task 0", capsys)
    run(f"{SCORE} --bed peaks.bed --out s.zarr")
    assert "holds maps of sequences" in error_of("export s.zarr --table x.tsv", capsys)
    assert "task must be one of 0, 1, 2; got None" in error_of("export s.zarr --modisco x", capsys)
    assert "no store of scores here" in error_of("status none.zarr", capsys)
    error = error_of(f"{SCORE} --bed peaks.bed --out s.zarr --method gradient", capsys)
    assert "method tism, asked for gradient" in error


def test_weights_that_do_not_fit_are_named(files, capsys):
    save_file({"other": torch.zeros(1)}, "w.safetensors")
    error = error_of(f"{SCORE} --bed peaks.bed --out s --weights w.safetensors", capsys)
    assert "w.safetensors: does not fit the model" in error


def test_debug_shows_where(files):
    with pytest.raises(ValueError, match="no such file"):
        run(f"{SCORE} --bed none.bed --out s.zarr --debug")


def test_interruption_says_how_to_go_on(files, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tism.score.cli.score_to_store", interrupt)
    with pytest.raises(SystemExit) as stop:
        run(f"{SCORE} --bed peaks.bed --out s.zarr")
    assert stop.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_terminated_process_leaves_no_draft(files, capsys, monkeypatch):
    def terminate(*_: object) -> None:
        assert list(files.glob(".s.*"))
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr("tism.score.store._layout", terminate)
        with pytest.raises(SystemExit) as stop:
            run(f"{SCORE} --bed peaks.bed --out s")
    assert stop.value.code == 143
    assert not [*files.glob(".s*"), *files.glob("s")]
    signal.signal(signal.SIGTERM, before)
    for name in (".s.0123abcd", ".t.0123abcd"):  # of processes that were killed at once
        (files / name / "scores").mkdir(parents=True)
    run(f"{SCORE} --bed peaks.bed --out s")
    assert [path.name for path in files.glob(".*")] == [".t.0123abcd"]


def test_out_is_a_new_folder_or_a_link_to_one(files, capsys):
    for name in (".", "", "..", "a/.."):
        with pytest.raises(SystemExit):
            main([*SCORE.split(), "--bed", "peaks.bed", f"--out={name}"])
        assert "must end in the name of a new folder" in capsys.readouterr().err
    Path("empty").mkdir()
    for name, target in (("dangling", "far/new"), ("link", "empty")):
        Path(name).symlink_to(target)
        run(f"{SCORE} --bed peaks.bed --out {name}")
        assert Path(name).is_symlink()
        assert not open_store(target).missing()


def test_damaged_chunks_are_found_by_the_check_and_empty_ones_written_anew(files, capsys):
    command = f"{SCORE} --bed peaks.bed --out s --chunk-size 3"
    run(command)
    whole = open_store("s").read()
    for chunk in (1, 3):  # the last has one row
        file = Path(f"s/scores/c/{chunk}/0/0/0")
        file.write_bytes(b"")
    with pytest.raises(SystemExit, match="1"):
        run("status s --check")
    capsys.readouterr()
    run(command.replace(" --quiet", ""))
    torch.testing.assert_close(open_store("s").read(), whole)
    assert "4.0/4 sequences" in capsys.readouterr().err
    run(command.replace(" --quiet", ""))
    assert "/0 sequences" not in capsys.readouterr().err
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert f"{file}: damaged (" in error_of("status s --check", capsys)


def test_lack_of_memory_says_what_to_ask_less_of(files, capsys, monkeypatch):
    def allocate(*_):
        raise RuntimeError("DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr("tism.predictor.Predictor.__call__", allocate)
    error = error_of(f"{SCORE} --bed peaks.bed --out s.zarr", capsys)
    assert "tism: error: DefaultCPUAllocator: not enough memory" in error
    assert "take fewer tasks" in error


@pytest.mark.parametrize(
    ("text", "tasks"), [("0", [0]), ("3,1", [3, 1]), ("0, 5-7", [0, 5, 6, 7]), ("2-2", [2])]
)
def test_tasks_as_typed(text, tasks):
    assert parse_tasks(text) == tasks


def test_help_has_an_example_of_each_command(capsys):
    for command, words in (("score", "--shard 2/4"), ("export", "modisco motifs -s")):
        with pytest.raises(SystemExit) as stop:
            run(f"{command} --help")
        assert stop.value.code == 0
        assert words in capsys.readouterr().out


def test_entry_point_is_the_program():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"tism": "tism.score.cli:main"}
    shown = subprocess.run(
        [sys.executable, "-m", "tism.score.cli", "score", "--help"], capture_output=True, text=True
    )
    assert shown.returncode == 0
    assert "usage: tism score" in shown.stdout


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def load(:\n", "own.py raised SyntaxError"),
        ("{}['key']\n", "own.py raised KeyError: 'key'"),
        ("def load():\n    assert False, 'not today'\n", "own.py:load raised AssertionError: not"),
        (
            "import torch\nload = lambda: torch.nn.Linear(3, 3)\n",
            "model raised RuntimeError for one",
        ),
    ],
)
def test_errors_of_the_users_code_take_one_line(files, capsys, code, words):
    Path("own.py").write_text(code)
    command = "score --fasta genome.fa --model own.py:load --quiet --bed peaks.bed --out s.zarr"
    error = error_of(command, capsys)
    assert words in error
    assert "Traceback" not in error
    assert len([line for line in error.splitlines() if "error" in line]) == 1


def own_model(start: str = "", load: str = "", forward: str = "") -> str:
    """A file of a model with these statements at its start and in its functions."""
    return f"""
from __future__ import annotations
import argparse, dataclasses, os, sys
import torch
{start}
argparse.ArgumentParser().parse_args()  # of another program

@dataclasses.dataclass
class Settings:
    width: int = 4

class Net(torch.nn.Conv1d):
    def forward(self, x):
        {forward}
        return super().forward(x).sum(2)

def load():
    {load}
    return Net(Settings.width, 3, 3)
"""


OWN = "score --fasta genome.fa --model lab/own.py:load --quiet --bed peaks.bed --out s"


@pytest.mark.parametrize("place", ["start", "load", "forward"])
def test_code_that_ends_the_program_is_an_error(files, capsys, place):
    Path("lab").mkdir()
    Path("lab/own.py").write_text(own_model(**{place: "sys.exit(0)"}))
    assert "lab/own.py:load ended the program by sys.exit(0)" in error_of(OWN, capsys)
    assert not list(files.glob("s*"))


def test_code_runs_as_python_runs_a_file(files):
    """It goes to another folder and imports what lies beside it, whenever it likes."""
    Path("lab/more").mkdir(parents=True)
    for name in ("beside_load", "beside_forward", "more/further"):
        Path(f"lab/{name}.py").write_text("SEED = 0")
    code = own_model(
        start=f'os.chdir("lab"); sys.path.insert(0, "{files}/lab/more")',
        load="import beside_load, further; open('own.py').close(); torch.manual_seed(further.SEED)",
        forward="import beside_forward",
    )
    Path("lab/own.py").write_text(code)
    for k in range(2):
        state = {"weight": torch.full((3, 4, 3), k + 1.0), "bias": torch.zeros(3)}
        save_file(state, f"{k}.safetensors")
    path, arguments = list(sys.path), list(sys.argv)
    run(f"{OWN} --weights 0.safetensors 1.safetensors")
    assert not open_store(files / "s").missing()
    assert Path.cwd() == files
    assert sys.argv == arguments
    assert sys.path == [f"{files}/lab/more", *path]  # what the code adds stays
    sys.path[:] = path


def test_weights_of_whole_numbers_do_not_fit_a_model_of_others(files, capsys):
    state = load_function("my_model.py:load")().state_dict()
    save_file({name: (100 * t).to(torch.int8) for name, t in state.items()}, "w.safetensors")
    error = error_of(f"{SCORE} --bed peaks.bed --out s --weights w.safetensors", capsys)
    assert "is torch.int8, but torch.float32 in the model; give the weights of this model" in error
    save_file({name: t.half() for name, t in state.items()}, "w.safetensors")
    load_model("my_model.py:load", weights=Path("w.safetensors"))


def test_export_needs_numbers_and_a_file_name(files, capsys):
    run(f"{SCORE} --bed peaks.bed --out s.zarr --tasks 0")
    error = error_of("export s.zarr --modisco x --background nan 0.5 0.25 0.25", capsys)
    assert "background must be four frequencies" in error
    assert "prefix must end in a file name" in error_of("export s.zarr --modisco ..", capsys)
    assert not list(files.glob("x*"))
