"""Tiny files in the formats of the paper's data, for tests of the loader and of the workflow."""

from __future__ import annotations

import gzip

import numpy as np

from tism.study.data.immgen import load_immgen

TASKS = ["B.Sp", "MF.PC", "T.4.Nve.Sp"]
SIZE = 3000
PEAK = "ImmGenATAC1219.peak_{}"


class Files:
    """The paper's four files in miniature: two peaks of 251 bp on each of six chromosomes."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        self.folder = folder
        self.genome = {
            f"chr{k}": "".join(rng.choice(list("ACGT"), SIZE)) for k in (1, 2, 8, 11, 19, "X")
        }
        self.peaks = []
        for chrom in self.genome:
            for start in (501, 1501):
                name = PEAK.format(len(self.peaks) + 1)
                self.peaks.append([name, chrom, start, start + 250])
        self.heights = {row[0]: rng.uniform(1, 7, len(TASKS)) for row in self.peaks}
        self.peak_tail = self.height_tail = ""

    def write(self):
        path = {k: self.folder / k for k in ("peaks", "heights", "genome")}
        rows = ["\t".join(map(str, row)) + "\n" for row in self.peaks]
        path["peaks"].write_text("".join(rows) + self.peak_tail)
        lines = [",".join(["", *TASKS])]
        lines += [",".join([n, *(f"{x:.9g}" for x in v)]) for n, v in self.heights.items()]
        path["heights"].write_text("\n".join(lines) + "\n" + self.height_tail)
        with gzip.open(path["genome"], "wt") as file:
            for chrom, sequence in self.genome.items():
                folded = "\n".join(sequence[i : i + 50] for i in range(0, len(sequence), 50))
                file.write(f">{chrom}\n{folded}\n")
        return path

    def load(self, **options):
        return load_immgen(**self.write(), **options)

    def held_out(self, validation, test):
        path = self.folder / "held_out.txt"
        lists = (" ".join(map(PEAK.format, numbers)) for numbers in (validation, test))
        path.write_text("# Test0\n{}\n# Test1\n{}".format(*lists))
        return path
