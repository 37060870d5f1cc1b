"""What needs a GPU, in one run of at most 9 minutes: agreement with the CPU, times, memory.

    python -m tism.study.gpu        # writes data/results/gpu/*.csv

`make wheels`, where there is internet, fetches what the GPU's machine may lack beside PyTorch;
`make gpu` tests and measures there. Each table is written as it grows, the most important rows
first, and what time did not allow is named in provenance.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tism.agreement import reliability
from tism.budgeted import budgeted_ism
from tism.correlations import pearson
from tism.exact import ism, predict
from tism.first_order import input_gradient, tism
from tism.layerwise import layerwise_tism
from tism.running import full_precision
from tism.score.files import write_text
from tism.study.bench import random_sequences
from tism.study.cache import write_csv
from tism.study.ch06_measure import jobs_of, measure_job
from tism.study.ch06_methods import Job
from tism.study.profiles import default_device, load_profile, repository
from tism.study.records import RECORDED_PROFILE, provenance
from tism.study.timing import compare, peak_memory
from tism.study.zoo import ZOO

LIMIT = 480.0  # seconds after which no further job begins
_BUDGET, _REPEATS = 0.1, 3  # see `measure_job`
_AGREEING = Job("baseline", length=251, n_sequences=2, width=64)
_BUILT = 2048  # bases that give Enformer all its poolings; its weights fit any length
_ENFORMER = {"length": 196_608, "width": 1536, "layers": 11}
_HOME = {"tangermeme": "tangermeme", "captum": "captum", "Yuzu": None}  # Yuzu takes arrays only

FUNCTIONS = {
    "predict": predict,
    "input_gradient": input_gradient,
    "tism": tism,
    "ism, full": partial(ism, engine="full"),
    "ism, windowed": partial(ism, engine="windowed"),
    "layerwise_tism": partial(layerwise_tism, depth="blocks.0"),
    "budgeted_ism": lambda *given, **options: budgeted_ism(*given, m=60, **options).estimate,
    "reliability": lambda *given, **options: reliability(*given, **options).r,
}


def tf32(on: bool, device: str) -> AbstractContextManager:
    """While active, float32 products may be those of TF32, as `main` sets it, or may not."""
    return nullcontext() if on else full_precision(torch.device(device))


def differences(job: Job, device: str) -> Iterator[dict[str, Any]]:
    """How far each function on the device is from the CPU: largest difference over largest value.

    r : Pearson correlation of both over all numbers
    """
    model, one_hot = job.model(), job.sequences()
    for name, function in FUNCTIONS.items():
        expected = function(model, one_hot)
        for on in (False, True):
            with tf32(on, device):
                found = function(model, one_hot, device=device)
            gap = (found - expected).abs().max() / expected.abs().max()
            r = pearson(found.flatten(), expected.flatten())
            yield {"function": name, "tf32": on, "difference": float(gap), "r": float(r)}


def gradient(device: str, length: int, **size: int) -> Iterator[dict[str, Any]]:
    """Time and memory of one task's gradient in a network of Enformer's length and size."""
    entry, one_hot = ZOO["Enformer"], random_sequences(1, length)
    model = entry.build(min(length, _BUILT), **size).to(device)
    run = partial(input_gradient, model, one_hot, 0, output_fn=entry.output_fn)
    for on in (False, True):
        with tf32(on, device):
            held = peak_memory(run, device)
            timing = compare({"": run}, repeats=_REPEATS, device=device)[""]
        row = {"length": length, **size, "parameters": sum(p.numel() for p in model.parameters())}
        yield {**row, "tf32": on, "seconds": timing.median, "bytes": held}


def times(
    groups: Sequence[Mapping[str, Any]], until: float, device: str
) -> Iterator[tuple[str, pd.DataFrame | None]]:
    """Name and rows of `measure_job` of each job, first without TF32; None instead after `until`.

    groups : as in `jobs_of`; methods that this machine lacks are left out
    until : on the clock of `time.monotonic`
    """
    for on in (False, True):
        for job, names in jobs_of(groups):
            name, table = f"{job}, TF32 {'on' if on else 'off'}", None
            if time.monotonic() <= until:
                known = [method for method in names if _is_here(method)]
                with tf32(on, device):
                    table = measure_job(job, known, budget=_BUDGET, repeats=_REPEATS)
                table = table.assign(tf32=on)
            yield name, table


def _is_here(method: str) -> bool:
    home = _HOME.get(method.split(",")[0], "torch")
    return home is not None and find_spec(home) is not None


def measure_all(
    folder: Path, groups: Sequence[Mapping[str, Any]], agreeing: Job, enformer: Mapping[str, int]
) -> None:
    """Write agreement.csv, gradient.csv, runtime.csv and provenance.json."""
    begin, device = time.monotonic(), default_device()
    parts: list[pd.DataFrame] = []
    left_out: list[str] = []
    write_csv(folder / "agreement.csv", pd.DataFrame(differences(agreeing, device)))
    write_csv(folder / "gradient.csv", pd.DataFrame(gradient(device, **enformer)))
    for name, table in times(groups, begin + LIMIT, device):
        if table is None:
            left_out.append(name)
            continue
        parts.append(table)
        write_csv(folder / "runtime.csv", pd.concat(parts, ignore_index=True))
        print(f"{time.monotonic() - begin:.0f} s, {len(parts)} jobs", flush=True)
    record = {**_machine(device), "seconds": time.monotonic() - begin, "left_out": left_out}
    write_text(folder / "provenance.json", json.dumps(record, indent=1, sort_keys=True) + "\n")


def _machine(device: str) -> dict[str, Any]:
    cuda, cudnn = torch.version.cuda, torch.backends.cudnn.version()
    about = {**provenance(), "device": device, "cuda": cuda, "cudnn": cudnn}
    about["threads"] = torch.get_num_threads()
    if torch.device(device).type == "cuda":
        found = torch.cuda.get_device_properties(device)
        about |= {"name": found.name, "memory": found.total_memory}
        about["capability"] = f"{found.major}.{found.minor}"
    return about


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure on the GPU of this machine, with the jobs of the recorded chapter on run times."""
    parser = argparse.ArgumentParser(
        prog="python -m tism.study.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = repository() / "data" / "results" / "gpu"
    parser.add_argument("--folder", type=Path, default=default, help="where the tables go")
    folder = parser.parse_args(arguments).folder
    if torch.device(default_device()).type != "cuda":
        parser.error(f"no CUDA device here, only {default_device()}; see `make bench` for a CPU")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    groups = load_profile(RECORDED_PROFILE).chapters["06_runtime"]["groups"]
    measure_all(folder, groups, _AGREEING, _ENFORMER)


if __name__ == "__main__":
    main()
