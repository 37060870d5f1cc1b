"""Records are keyed by what produces them."""

import base64
import copy
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tism.study import compendium, explorer, records
from tism.study.compendium import (
    clean_notebook,
    record_chapter,
    record_key,
    stage_book,
    stale_records,
    with_palette,
)
from tism.study.networks import find_run
from tism.study.profiles import load_profile
from tism.study.records import ROBUSTNESS, Chapter, chapter_key, note_provenance, paper_numbers

CHAPTER = "04_ism_vs_tism"


@pytest.fixture
def notebook():
    path = compendium.repository() / "notebooks" / f"{CHAPTER}.ipynb"
    return json.loads(path.read_text(encoding="utf-8"))


def test_key_follows_the_code(notebook):
    profile = load_profile("smoke")
    key = chapter_key(CHAPTER, profile, notebook)
    edited = copy.deepcopy(notebook)
    next(c for c in edited["cells"] if c["cell_type"] == "code")["source"] += ["\nx = 1"]
    assert chapter_key(CHAPTER, profile, edited) != key


def test_images_get_a_palette_once():
    wave = np.linspace(0, 240, 200).astype(np.uint8)
    pixels = np.dstack(np.broadcast_arrays(wave, wave[:, None], wave, np.uint8(255)))
    pixels[..., :3] += np.random.default_rng(0).integers(0, 8, (200, 200, 3), dtype=np.uint8)
    whole = BytesIO()
    Image.fromarray(pixels, "RGBA").save(whole, "PNG")
    small = with_palette(base64.b64encode(whole.getvalue()).decode())
    image = Image.open(BytesIO(base64.b64decode(small)))
    assert image.mode == "P"
    assert len(base64.b64decode(small)) < whole.tell() / 2
    assert np.abs(np.asarray(image.convert("RGB")) - pixels[..., :3].astype(int)).max() <= 24
    assert with_palette(small) == small


def test_key_ignores_prose_outputs_and_other_chapters(notebook):
    profile = load_profile("smoke")
    key = chapter_key(CHAPTER, profile, notebook)
    edited = copy.deepcopy(notebook)
    for cell in edited["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = ["other words"]
        else:
            cell["outputs"] = []
    assert chapter_key(CHAPTER, profile, edited) == key
    elsewhere = dataclasses.replace(profile, chapters={"02_data": {"n": 3}})
    assert chapter_key(CHAPTER, elsewhere, notebook) == key


def test_cleaning_drops_what_names_the_machine_and_keeps_the_rest():
    stderr = {"output_type": "stream", "name": "stderr", "text": ["path"]}
    stdout = {"output_type": "stream", "name": "stdout", "text": ["kept"]}
    cell = {
        "cell_type": "code",
        "id": "x",
        "metadata": {"tags": ["injected-parameters"], "papermill": {"duration": 1}},
        "outputs": [stderr, stdout],
        "source": [],
    }
    notebook = {"cells": [cell], "metadata": {"papermill": {}}}
    clean_notebook(notebook)
    assert cell["outputs"] == [stdout]
    assert cell["metadata"] == {"tags": ["injected-parameters", "remove-input"]}
    assert "papermill" not in notebook["metadata"]


@pytest.fixture
def private(tmp_path, monkeypatch, notebook):
    """A repository in tmp_path with one executed chapter."""
    monkeypatch.setenv("TISM_RESULTS_DIR", str(tmp_path / "results"))
    profile = load_profile("smoke")
    (tmp_path / "notebooks").mkdir()
    source = tmp_path / "notebooks" / f"{CHAPTER}.ipynb"
    notebook["metadata"].pop("tism", None)
    source.write_text(json.dumps(notebook))
    for module in (compendium, records):
        monkeypatch.setattr(module, "repository", lambda: tmp_path)
    monkeypatch.setattr(compendium, "load_profile", lambda name: profile)
    executed = copy.deepcopy(notebook)
    executed["metadata"]["tism"] = {"profile": "smoke", "key": chapter_key(CHAPTER, profile)}
    injected = {"cell_type": "code", "metadata": {"tags": ["injected-parameters"]}, "source": ""}
    executed["cells"].insert(1, injected)
    target = tmp_path / "results" / "smoke" / "notebooks" / source.name
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps(executed))
    Chapter(CHAPTER, profile).save_table(pd.DataFrame({"a": [1.0]}), "numbers")
    return tmp_path, profile, source


def test_a_record_is_fresh_until_its_source_changes(private):
    root, _, source = private
    assert stale_records() == [f"notebooks/{CHAPTER}.ipynb"]
    record_chapter(CHAPTER, "smoke")
    assert stale_records() == []
    assert (root / "data/results/smoke/numbers.csv").read_text() == "a\n1\n"
    content = json.loads(source.read_text())
    assert "injected-parameters" not in source.read_text()
    next(c for c in content["cells"] if c["cell_type"] == "code")["source"] = "1 + 1"
    source.write_text(json.dumps(content))
    assert stale_records() == [f"notebooks/{CHAPTER}.ipynb", "data/results/smoke/numbers.csv"]
    with pytest.raises(ValueError, match="edited after it was run"):
        record_chapter(CHAPTER, "smoke")


def test_tables_carry_their_provenance(private):
    root, profile, _ = private
    entry = json.loads((root / "results/smoke/provenance.json").read_text())["numbers.csv"]
    assert entry["chapter"] == CHAPTER
    assert entry["key"] == chapter_key(CHAPTER, profile)
    assert {"versions", "torch", "numpy", "device", "data"} <= set(entry)


def test_staged_book_has_the_profile_s_chapters_and_explorer(tmp_path, monkeypatch):
    monkeypatch.setenv("TISM_RESULTS_DIR", str(tmp_path))
    fresh = tmp_path / "smoke" / "notebooks" / f"{CHAPTER}.ipynb"
    fresh.parent.mkdir(parents=True)
    fresh.write_text("{}")
    fresh.with_name(f".{CHAPTER}.left.ipynb").write_text("half of a ch")  # by a killed run
    name, other = explorer.TABLES
    (tmp_path / "smoke" / name).write_text("fresh")

    staged = stage_book("smoke")

    assert (staged / "notebooks" / fresh.name).read_text() == "{}"
    assert not list((staged / "notebooks").glob(".*"))
    assert (staged / "_toc.yml").is_file()
    assert not (staged / "data" / "cache").exists()
    folder = staged / "data" / "results" / compendium.RECORDED_PROFILE
    assert (folder / name).read_text() != "fresh"  # one table of two is no explorer
    (tmp_path / "smoke" / other).write_text("fresh")
    stage_book("smoke")
    assert {(folder / table).read_text() for table in explorer.TABLES} == {"fresh"}


def test_tables_of_the_explorer_are_written_recorded_and_go_stale(private, monkeypatch):
    root, *_ = private
    folder = root / "results" / "smoke"

    def write(of, progress):
        for name in explorer.TABLES:
            (folder / name).write_text("dataset\n")
        return [folder / name for name in explorer.TABLES]

    monkeypatch.setattr(explorer, "write_explorer", write)
    compendium.main(["explorer", "smoke"])
    compendium._record_tables(compendium.EXPLORER, "smoke")

    recorded = root / "data" / "results" / "smoke"
    assert {(recorded / name).read_text() for name in explorer.TABLES} == {"dataset\n"}
    monkeypatch.setattr(compendium, "chapters", list)
    assert stale_records() == []
    monkeypatch.setattr(explorer, "N_TASKS", 2)
    assert stale_records() == [f"data/results/smoke/{name}" for name in sorted(explorer.TABLES)]


def test_paper_numbers_by_id():
    assert paper_numbers()["fig1a_mean_r"] == 0.70


@pytest.mark.parametrize("command", [["run", "tiny"], ["run", "smoke", "99_nothing"], ["fly"]])
def test_command_line_refuses_what_it_does_not_know(command, capsys):
    with pytest.raises(SystemExit):
        compendium.main(command)
    assert "invalid choice" in capsys.readouterr().err


@pytest.fixture
def ran(monkeypatch):
    """The calls of `run_chapter`, which executes nothing."""
    calls = []
    monkeypatch.setattr(compendium, "run_chapter", lambda *a, **k: calls.append((*a, k)))
    return calls


def test_the_training_chapter_runs_once_a_data_set_the_first_last(ran):
    compendium.run_for_all_datasets("03_train_model", "yeast")
    compendium.run_for_all_datasets("02_data", "yeast")
    simulated = ("03_train_model", "yeast", {"dataset": "simulated"})
    assert ran == [simulated, ("03_train_model", "yeast", {}), ("02_data", "yeast", {})]


def test_a_run_of_the_profile_keeps_its_tables_in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TISM_RESULTS_DIR", str(tmp_path))
    profile = load_profile("smoke")
    chapter = Chapter("03_train_model", profile, "simulated_relu_0")

    network = chapter.experiment("simulated", variant="relu", seed=0)
    chapter.save_table(pd.DataFrame({"a": [1.0]}), "numbers")

    assert network == find_run(profile, "simulated_relu_0").network
    folder = tmp_path / "smoke" / "models" / "simulated_relu_0"
    assert (folder / "numbers.csv").read_text() == "a\n1\n"
    assert set(json.loads((folder / "provenance.json").read_text())) == {"numbers.csv"}
    with pytest.raises(ValueError, match="run simulated_relu_0 has variant='relu', got 'baseline'"):
        chapter.experiment("simulated")


def test_training_a_run_executes_the_training_chapter_for_its_network(ran):
    compendium.train_run("simulated_relu_2", "yeast")

    settings = {"dataset": "simulated", "variant": "relu", "seed": 2}
    assert ran == [("03_train_model", "yeast", {"run": "simulated_relu_2", **settings})]


def test_notes_of_parallel_jobs_all_stay(tmp_path):
    profile = load_profile("smoke")
    names = [f"table_{k}.csv" for k in range(12)]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: note_provenance(tmp_path, n, CHAPTER, "key", profile), names))

    assert sorted(json.loads((tmp_path / "provenance.json").read_text())) == sorted(names)


def test_tables_of_networks_are_recorded_and_go_stale_with_a_run(private, monkeypatch):
    root, profile, _ = private
    record_chapter(CHAPTER, "smoke")
    models = root / "results" / "smoke" / "models.csv"
    models.write_text("run,key\n")
    note_provenance(
        models.parent, models.name, ROBUSTNESS, record_key(ROBUSTNESS, profile), profile
    )

    compendium._record_tables(ROBUSTNESS, "smoke")

    assert (root / "data/results/smoke/models.csv").read_text() == "run,key\n"
    assert stale_records() == []
    more = dataclasses.replace(profile, experiments=profile.experiments[:1])
    monkeypatch.setattr(compendium, "load_profile", lambda name: more)
    assert stale_records() == ["data/results/smoke/models.csv"]


def test_runs_are_listed(capsys):
    compendium.main(["runs", "smoke"])

    assert capsys.readouterr().out.split()[:2] == ["simulated_baseline_0", "simulated_baseline_1"]


@pytest.mark.parametrize("command", ["train", "model"])
def test_an_unknown_run_is_refused(command):
    with pytest.raises(ValueError, match="profile smoke has no run 'tiny'"):
        compendium.main([command, "smoke", "tiny"])


@pytest.mark.parametrize("failures", [1, 3])
def test_a_kernel_whose_port_was_taken_starts_again(monkeypatch, tmp_path, failures):
    calls = []

    def execute(*args, **options):
        calls.append(args)
        if len(calls) <= failures:
            raise RuntimeError("Kernel died before replying to kernel_info")

    monkeypatch.setattr("papermill.execute_notebook", execute)
    if failures == 1:
        compendium._execute(tmp_path / "in", tmp_path / "out", {})
        assert len(calls) == 2
    else:
        with pytest.raises(RuntimeError, match="Kernel died"):
            compendium._execute(tmp_path / "in", tmp_path / "out", {})
        assert len(calls) == 3


def test_a_chapter_that_fails_runs_once(monkeypatch, tmp_path):
    calls = []

    def execute(*args, **options):
        calls.append(args)
        raise RuntimeError("Kernel died")  # in a cell, as from too little memory

    monkeypatch.setattr("papermill.execute_notebook", execute)
    with pytest.raises(RuntimeError, match="Kernel died"):
        compendium._execute(tmp_path / "in", tmp_path / "out", {})
    assert len(calls) == 1
