"""Times of the engines at the real lengths of published networks, of TISM in forward passes, of
`score_to_store` against plain loops, and what the command takes for large files.

    python -m tism.study.bench              # every case; writes results/bench/*.csv
    python -m tism.study.bench SpliceAI     # the cases whose names begin so

All sides of a case take turns in one run, so that a machine that slows down slows all of them. A
ratio is taken within each round; its median and quartiles are shown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tism.exact import ism
from tism.first_order import tism
from tism.model import build_model
from tism.score.genome import Genome, GenomeWindows, Variants
from tism.score.methods import score_to_store
from tism.sequence import decode
from tism.study.profiles import results_folder
from tism.study.timing import compare
from tism.study.zoo import ZOO

_LIMIT = 120.0  # seconds after which a side that ran twice is left out
_GRADIENT_SEQUENCES, _GRADIENT_LENGTH, _GRADIENT_TASKS = 8, 251, 81


@dataclass(frozen=True)
class Case:
    """A network of the zoo at its real length, and the stretch in its middle that is mutated.

    width : channels of the network
    positions : positions that "auto" and "windowed" mutate
    timed : positions that "full" mutates; the time of all follows from the passes of both
    sequences : number of sequences
    """

    network: str
    width: int
    positions: int
    timed: int
    sequences: int = 1


CASES = {
    "DeepSTARR": Case("DeepSTARR", 60, 249, 249, 4),
    "DeepSEA": Case("DeepSEA", 64, 500, 100),
    "BPNet": Case("BPNet", 64, 100, 20),
    "SpliceAI": Case("SpliceAI", 32, 48, 2),
    "Xpresso": Case("Xpresso", 128, 500, 50),
    "Basenji": Case("Basenji", 32, 500, 10),
    "Basenji2": Case("Basenji2", 32, 500, 10),
    "Enformer": Case("Enformer", 16, 8, 2),
    "SpliceAI, one variant": Case("SpliceAI", 32, 1, 1),
    "Xpresso, one variant": Case("Xpresso", 128, 1, 1),
    "Basenji2, one variant": Case("Basenji2", 32, 1, 1),
}
GRADIENTS = "TISM"  # the name of the case that times gradients
SCORING = "score"  # and of the one that times stores
COMMANDS = "command"  # and of the one that times the command on large files
_N_PEAKS, _N_VARIANTS = 100_000, 200_000
_GENOME, _WINDOW, _BATCH = 200_000, 500, 64  # bp, bp, windows
_ROWS = {"tiny": 5000, "BPNet-like": 2000}


def random_sequences(n: int, length: int) -> Tensor:
    """(n, 4, length) one-hot."""
    bases = torch.randint(4, (n, length), generator=torch.Generator().manual_seed(0))
    return F.one_hot(bases, 4).mT.float().contiguous()


def time_engines(case: Case, length: int | None = None) -> dict[str, Any]:
    """Seconds of each engine, "full" over "auto", and "auto" over the better of the other two.

    length : bases; None is the authors' own length
    """
    entry = ZOO[case.network]
    length = length or entry.length
    model, one_hot = entry.build(length, width=case.width), random_sequences(case.sequences, length)

    def run(engine: str, positions: int) -> Callable[[], Tensor]:
        start = (length - positions) // 2
        arguments = {"args": entry.inputs(length), "output_fn": entry.output_fn}
        stretch = {"start": start, "stop": start + positions}
        return lambda: ism(model, one_hot, engine=engine, **stretch, **arguments)

    timed = {"auto": case.positions, "windowed": case.positions, "full": case.timed}
    sides = {engine: run(engine, positions) for engine, positions in timed.items()}
    times = compare(sides, limit=_LIMIT)
    rounds = min(len(timing.repeats) for timing in times.values())
    auto, windowed, full = (np.array(times[engine].repeats[:rounds]) for engine in timed)
    full = full * (3 * case.positions + 1) / (3 * case.timed + 1)
    row = {"length": length, **vars(case), "rounds": rounds}
    for engine, seconds in {"auto": auto, "windowed": windowed, "full": full}.items():
        row[engine] = float(np.median(seconds))
    return {
        **row,
        **_quartiles("full_over_auto", full / auto),
        **_quartiles("auto_over_better", auto / np.minimum(windowed, full)),
    }


def _quartiles(name: str, ratios: np.ndarray) -> dict[str, float]:
    low, median, high = map(float, np.quantile(ratios, (0.25, 0.5, 0.75)))
    return {name: median, f"{name}_low": low, f"{name}_high": high}


def time_gradients(model: nn.Module, one_hot: Tensor) -> list[dict[str, Any]]:
    """The time of TISM, for one task and for all, in units of a forward pass of the same sequences.

    Ratios are of the shortest times, which other work on the machine disturbs least.
    """

    @torch.no_grad()
    def forward() -> Tensor:
        return model(one_hot)

    sides = {
        "forward": forward,
        "one task": lambda: tism(model, one_hot, 0),
        "all tasks": lambda: tism(model, one_hot),
    }
    rows = []
    for name, timing in (times := compare(sides)).items():
        ratio = min(timing.repeats) / min(times["forward"].repeats)
        row = {"tism": name, "seconds": timing.median, "minimum": min(timing.repeats)}
        rows.append({**row, "forward_equivalents": ratio})
    return rows


def small_network(name: str) -> nn.Module:
    """A convolution of 8 filters ("tiny"), or 32 filters in 5 layers, 4 of them dilated."""
    torch.manual_seed(0)
    if name == "tiny":
        layers = [nn.Conv1d(4, 8, 7, padding=3), nn.ReLU(), nn.Conv1d(8, 1, 1)]
    else:
        layers = [nn.Conv1d(4, 32, 21, padding=10), nn.ReLU()]
        for dilation in (2, 4, 8, 16):
            layers += [nn.Conv1d(32, 32, 3, padding=dilation, dilation=dilation), nn.ReLU()]
        layers.append(nn.Conv1d(32, 1, 1))
    return nn.Sequential(*layers, nn.Flatten(1), nn.Linear(_WINDOW, 1)).eval()


def plain_loop(model: nn.Module, windows: GenomeWindows) -> Tensor:
    """The loop that a user would write: TISM of peaks, or two predictions for each variant."""
    parts = []
    for start in range(0, len(windows), _BATCH):
        rows = slice(start, start + _BATCH)
        if isinstance(windows, Variants):
            with torch.no_grad():
                parts.append(model(windows.alternates[rows]) - model(windows[rows]))
            continue
        one_hot = windows[rows].requires_grad_()
        gradient = torch.autograd.grad(model(one_hot).sum(), one_hot)[0]
        parts.append(gradient - (gradient * one_hot.detach()).sum(1, keepdim=True))
    return torch.cat(parts)


def time_scoring(folder: Path, rounds: int = 5) -> list[dict[str, Any]]:
    """Processor seconds of `score_to_store` and of a plain loop over the same windows of a genome.

    folder : for the genome and the stores
    """
    bases = decode(random_sequences(1, _GENOME))[0]
    (folder / "genome.fa").write_text(f">chr\n{bases}\n")
    rows = []
    with Genome(folder / "genome.fa") as genome:
        for name, n in _ROWS.items():
            model, starts = small_network(name), np.linspace(0, _GENOME - _WINDOW, n).astype(int)
            regions = pd.DataFrame({"chrom": "chr", "start": starts, "end": starts + _WINDOW})
            sites = regions.assign(position=starts + _WINDOW // 2 + 1, reference="A", alternate="C")
            for method, windows in {
                "tism": GenomeWindows(genome, regions, regions[:0], "of the benchmark"),
                "ism": Variants(genome, sites, sites[:0], "of the benchmark"),
            }.items():
                ratios = []
                for turn in range(rounds + 1):
                    begin = time.process_time()
                    plain_loop(model, windows)
                    middle = time.process_time()
                    score_to_store(folder / f"{name}{method}{turn}", model, windows, method=method)
                    ratios.append((middle - begin) / (time.process_time() - middle))
                what = "variants" if method == "ism" else "peaks"
                ratios = _quartiles("loop_over_store", np.array(ratios[1:]))
                rows.append({"network": name, "scored": what, "n": n, **ratios})
    return rows


def time_commands(folder: Path) -> list[dict[str, Any]]:
    """Seconds, memory and files of the command on many peaks and variants with a tiny network.

    folder : for the genome, the rows and the stores
    """
    bases = decode(random_sequences(1, _N_VARIANTS + 2 * _WINDOW))[0]
    starts = np.linspace(0, len(bases) - _WINDOW, _N_PEAKS).astype(int)
    places = range(_WINDOW, _WINDOW + _N_VARIANTS)
    changed = bases.translate(str.maketrans("ACGT", "CGTA"))
    for name, lines in {
        "genome.fa": [">chr", bases],
        "peaks.bed": [f"chr\t{start}\t{start + _WINDOW}" for start in starts],
        "variants.vcf": [f"chr\t{at + 1}\t.\t{bases[at]}\t{changed[at]}" for at in places],
        "model.py": [f"import {__spec__.name} as b", "def load(): return b.small_network('tiny')"],
    }.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    score = "score --fasta genome.fa --model model.py:load --quiet"
    peaks = f"{score} --bed peaks.bed --out peaks"
    commands = {
        "start": "--help",
        "peaks": peaks,
        "peaks, again": peaks,
        "variants": f"{score} --vcf variants.vcf --length {_WINDOW} --method ism --out variants",
        "table": "export variants --table table.tsv",
    }
    return [{"command": name, **_cost(words.split(), folder)} for name, words in commands.items()]


def _cost(words: list[str], folder: Path) -> dict[str, Any]:
    """Seconds, processor seconds and memory of one run of the command, and the files of a store."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "tism.score.cli", *words]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise RuntimeError(f"tism {' '.join(words)} failed")
    files = sum(path.is_file() for path in (folder / words[-1]).rglob("*"))
    used = {"processor_seconds": used.ru_utime + used.ru_stime, "gb": used.ru_maxrss / 2**20}
    return {"seconds": time.monotonic() - begin, **used, "files": files}


def chosen_cases(names: Sequence[str]) -> list[str]:
    """The cases whose names begin with one of `names`; all if there is none."""
    known = [*CASES, GRADIENTS, SCORING, COMMANDS]
    for name in names:
        if not any(case.startswith(name) for case in known):
            raise ValueError(f"no case begins with {name!r}; there are {'; '.join(known)}")
    return [case for case in known if not names or case.startswith(tuple(names))]


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the chosen cases, print a table and write it to results/bench."""
    parser = argparse.ArgumentParser(
        prog="python -m tism.study.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="how the names of cases begin; none for all")
    names = chosen_cases(parser.parse_args(arguments).names)
    rows = []
    for name in names:
        print(name, flush=True)
        if name in CASES:
            rows.append({"case": name, **time_engines(CASES[name])})
            _write("engines", rows)  # after each case: later ones may take long
    if rows:
        print(summary(rows).to_string(index=False))
    if GRADIENTS in names:
        model = build_model("baseline", length=_GRADIENT_LENGTH, n_tasks=_GRADIENT_TASKS, seed=0)
        one_hot = random_sequences(_GRADIENT_SEQUENCES, _GRADIENT_LENGTH)
        rows = time_gradients(model.eval(), one_hot)
        _write("gradients", rows)
        print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format))
    for name, file, measure in (
        (SCORING, "scoring", time_scoring),
        (COMMANDS, "commands", time_commands),
    ):
        if name in names:
            with tempfile.TemporaryDirectory() as folder:
                rows = measure(Path(folder))
            _write(file, rows)
            print(pd.DataFrame(rows).to_string(index=False, float_format="{:.2f}".format))


def summary(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A table for readers of what `time_engines` returned: seconds, and ratios with quartiles."""
    table = pd.DataFrame(rows)
    shown = table[["case", "length", "width", "sequences", "positions", "timed"]].copy()
    for engine in ("auto", "windowed", "full"):
        shown[f"{engine}, s"] = table[engine].map("{:.3g}".format)
    for ratio in ("full_over_auto", "auto_over_better"):
        ends = zip(*(table[f"{ratio}{end}"] for end in ("", "_low", "_high")), strict=True)
        shown[ratio.replace("_", " ")] = ["{:.2f} ({:.2f} to {:.2f})".format(*e) for e in ends]
    return shown.rename(columns={"timed": "of them full"})


def _write(name: str, rows: list[dict[str, Any]]) -> None:
    path = results_folder("bench") / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows).assign(threads=torch.get_num_threads(), torch=torch.__version__)
    table.to_csv(path, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
