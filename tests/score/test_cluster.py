"""The array job of the page on clusters, run through a stand-in for its scheduler."""

from __future__ import annotations

import gzip
import os
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

import tism
from tism.score.averages import Averaged
from tism.score.files import one_at_a_time
from tism.score.loading import load_model
from tism.score.store import open_store

PAGE = Path(__file__).parents[2] / "book" / "on_a_cluster.md"
SBATCH = f"""#!{sys.executable}
import os, re, subprocess, sys
known = "job-name|array|time|cpus-per-task|mem|output"
words, options = sys.argv[1:], {{}}
script = "#!/bin/bash\\n" + words[-1] if "--wrap" in words else open(words[-1]).read()
for word in [*words[:-1], *re.findall("^#SBATCH (.*)$", script, re.M)]:
    name, _, value = word.removeprefix("--").partition("=")
    assert re.fullmatch(known + "|parsable|wrap|dependency", name), word
    options[name] = value
first, last = map(int, options.get("array", "1-1").split("-"))
tasks = []
for task in range(first, last + 1):  # all at once
    log = open(options["output"].replace("%a", str(task)), "w")
    env = dict(os.environ, SLURM_ARRAY_TASK_ID=str(task))
    tasks.append(subprocess.Popen(["bash", "-c", script], stdout=log, stderr=log, env=env))
print(options.get("dependency", "afterany:70").removeprefix("afterany:"))
sys.exit(max(task.wait() for task in tasks))
"""
MODEL = """
import torch

def load():
    layers = torch.nn.Conv1d(4, 3, 5), torch.nn.GELU(), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Linear(3 * 247, 2))
"""


def test_others_wait_for_what_one_makes(tmp_path, caplog):
    path, found = tmp_path / "new" / "genome.fa", []

    def make() -> None:
        with one_at_a_time(path):
            found.append(path.exists())
            time.sleep(0.5)
            path.touch()

    threads = [threading.Thread(target=make) for _ in range(3)]
    with caplog.at_level("INFO"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [False, True, True]
    assert f"waiting for another process, which makes {path}" in caplog.text
    assert list(path.parent.iterdir()) == [path]


def test_the_jobs_of_the_page_fill_one_store(tmp_path, monkeypatch):
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    script, submit = (next(b for b in blocks if b.startswith(s)) for s in ("#!/bin/bash", "job="))
    monkeypatch.chdir(tmp_path)
    Path("bin").mkdir()
    tism_program = f'#!/bin/sh\nexec {sys.executable} -m tism.score.cli "$@"\n'
    for name, text in {"bin/sbatch": SBATCH, "bin/tism": tism_program, "score.sh": script}.items():
        Path(name).write_text(text)
        Path(name).chmod(0o755)
    dice = random.Random(0)
    letters = "".join(dice.choices("ACGT", k=3000))
    Path("genome.fa.gz").write_bytes(gzip.compress(f">chr1\n{letters}\n".encode()))
    starts = [dice.randrange(200, 2700) for _ in range(150)]
    Path("peaks.narrowPeak").write_text(
        "".join(f"chr1\t{s}\t{s + 30}\tp\t0\t.\t1\t1\t1\t12\n" for s in starts)
    )
    Path("my_model.py").write_text(MODEL)
    for seed in range(2):
        torch.manual_seed(seed)
        save_file(load_model("my_model.py:load").state_dict(), f"fold_{seed}.safetensors")
    env = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    env |= {"TISM_DATA_DIR": f"{tmp_path}/data", "PYTHONPATH": str(PAGE.parents[1])}
    subprocess.run(["bash", "-e", "-c", submit], env=env, check=True)
    logs = [Path(f"tism_{task}.log").read_text() for task in range(1, 5)]
    assert sum(log.count("unpacking") for log in logs) == 1
    assert not [*tmp_path.rglob("*.lock"), *tmp_path.glob(".peaks*")]
    assert "150 sequences, complete" in Path("track.log").read_text()
    assert Path("task_0.bw").stat().st_size
    store = open_store("peaks.zarr")
    assert store.n_chunks == 3
    folds = [load_model("my_model.py:load", None, Path(f"fold_{k}.safetensors")) for k in range(2)]
    maps = [
        tism.ism(Averaged(fold, None, "strand"), store.one_hot(), start=100, stop=150)
        for fold in folds
    ]
    torch.testing.assert_close(store.read(), sum(maps) / 2, atol=1e-6, rtol=1e-4)
