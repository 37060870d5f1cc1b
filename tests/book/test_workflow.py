"""The Snakefile, killed and resumed, and run by an executor plugin, on the paper's file formats."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from immgen_files import Files

ROOT = Path(__file__).resolve().parents[2]
SNAKEMAKE = [Path(sys.executable).with_name("snakemake"), "--workflow-profile", "workflow/local"]
TRAINED, SCORED = (
    f"results/immgen/models/immgen_baseline_0/{n}" for n in ("training.ipynb", "rows.csv")
)
TRAINING_LOG, SCORING_LOG = (
    f"results/immgen/logs/{rule}_immgen_baseline_0.log" for rule in ("train", "score")
)
SUBMIT = """#!/bin/sh
sh "$1" > "$1.out" 2>&1 &
echo $! | tee -a submitted
"""


def call(root: Path, *arguments: str, config: str = "profile=immgen"):
    command = [*SNAKEMAKE, "--config", config, *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A copy of the repository whose immgen profile is tiny and reads files made here."""
    root = copy_repository(tmp_path_factory.mktemp("copy"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(root).items():
            patch.setenv(name, value)
        patch.delenv("TISM_RESULTS_DIR", raising=False)
        yield root


def environment(root: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(root), "TISM_DATA_DIR": str(root / "data"), "TISM_DEVICE": "cpu"}


def copy_repository(root: Path) -> Path:
    for name in ("book", "notebooks", "tism", "data"):
        ignored = shutil.ignore_patterns("__pycache__", "raw", "cache", "checkpoints", "results")
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    for name in ("Snakefile", "_config.yml", "_toc.yml", "CITATION.cff"):
        shutil.copyfile(ROOT / name, root / name)
    shutil.copytree(ROOT / "workflow", root / "workflow")
    _make_tiny(root)
    return root


def _make_tiny(root: Path) -> None:
    files = Files(root / "data")
    names = iter(range(1, 1000))
    starts = range(21, 2700, 130)
    files.peaks = [
        [f"ImmGenATAC1219.peak_{next(names)}", chrom, start, start + 250]
        for chrom in files.genome
        for start in starts
    ]
    values = iter(2 + abs(7919 * k % 101) / 20 for k in range(10**6))
    files.heights = {row[0]: [next(values) for _ in range(3)] for row in files.peaks}
    paths = {name: str(path) for name, path in files.write().items()}
    path = root / "book" / "profiles" / "immgen.yml"
    tiny = yaml.safe_load(path.read_text())
    path.rename(path.with_name("paper.yml"))
    tiny |= {
        "datasets": ["immgen"],
        "data": {"immgen": paths},
        "model": {"immgen": {"width": 4}},
        "training": {"immgen": {"max_epochs": 1, "fine_tune_rounds": 0, "warmup_epochs": 1}},
        "experiments": [{"experiment": "ablation", "dataset": "immgen"}],
        "regions_a_model": 2,
    }
    path.write_text(yaml.safe_dump(tiny))


@pytest.fixture(scope="module")
def killed(root):
    """The copy after a `kill -9` of everything in the middle of the second job."""
    with (root / "killed.log").open("w") as output:
        run = subprocess.Popen(
            [*SNAKEMAKE, "--config", "profile=immgen", "--", SCORED],
            cwd=root,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            while not (root / SCORING_LOG).exists():
                assert run.poll() is None, (root / "killed.log").read_text()
                time.sleep(0.1)
        finally:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    return root


@pytest.fixture(scope="module")
def resumed(killed):
    """The copy after a call that goes on through an executor, and the times of its older files."""
    assert not (killed / SCORED).exists()
    before = {name: (killed / name).stat().st_mtime_ns for name in (TRAINED, TRAINING_LOG)}
    submit = killed / "submit"
    submit.write_text(SUBMIT)
    submit.chmod(0o755)
    executor = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", str(submit)]
    wait = ["--jobs", "2", "--seconds-between-status-checks", "1"]
    run = call(killed, *wait, *executor, "--", SCORED)
    assert run.returncode == 0, run.stderr
    return killed, before


def test_after_a_kill_only_the_unfinished_job_runs_through_an_executor_plugin(resumed):
    root, before = resumed

    assert (root / SCORED).exists()
    assert len((root / "submitted").read_text().split()) == 1
    for name, written in before.items():
        assert (root / name).stat().st_mtime_ns == written


def test_the_cluster_profile_has_resources_for_every_rule_and_no_other():
    rules = set(re.findall(r"^rule (\w+):", (ROOT / "Snakefile").read_text(), re.M)) - {"all"}
    cluster = yaml.safe_load((ROOT / "workflow" / "slurm" / "config.yaml").read_text())

    assert set(cluster["set-resources"]) == rules
    assert set(cluster["set-threads"]) < rules
    for resources in cluster["set-resources"].values():
        assert {"mem_mb", "runtime"} <= set(resources)


def test_the_papers_profile_plans_its_jobs_without_data(root):
    run = call(root, "--dry-run", config="profile=paper")

    assert run.returncode == 0, run.stderr
    rows = [line.split() for line in (run.stdout + run.stderr).splitlines()]
    jobs = dict(row for row in rows if len(row) == 2)
    assert jobs["train"] == jobs["score"] == "99"


def begin(**config: str) -> None:
    """Run what stands in the Snakefile before its first rule."""
    exec((ROOT / "Snakefile").read_text().partition("\nruns =")[0], {"config": config})


def test_what_does_not_fit_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TISM_RESULTS_DIR", str(tmp_path))
    begin(profile="smoke")
    with pytest.raises(ValueError, match="--config has no parameter profil; it has profile"):
        begin(profil="smoke")
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "models.csv").write_text("run,key\nsimulated_baseline_0,other\n")
    with pytest.raises(ValueError, match=r"models\.csv: run simulated_baseline_0 was made with"):
        begin(profile="smoke")
