"""The example of chapter 9: files as a user has them, and the commands that read them."""

from __future__ import annotations

import gzip
import shlex
import shutil
from pathlib import Path

import numpy as np

from tism.score.cli import main
from tism.score.files import write_text
from tism.score.genome import Genome
from tism.sequence import ALPHABET
from tism.study.data.download import data_root, fetch
from tism.study.data.yeast import CHROMOSOMES, GENOME, load_summits, task_table
from tism.study.profiles import repository

CHROMOSOME, PEAKS_OF = "chr8", "Sok2"  # of the test set; a task that the network has learnt
_LINE, _HALF = 60, 40


def copy_example(folder: Path) -> None:
    """Copy what the commands of the page need, as its first command does."""
    networks = (data_root() / "models" / "evidence").glob("yeast_baseline_*.safetensors")
    for path in [*(repository() / "book" / "examples").iterdir(), *networks]:
        if path.is_file():
            shutil.copy(path, folder)


def run(commands: str) -> None:
    """Run commands `tism ...` in this process, one a line; a backslash continues a line.

    Raises ValueError for another command, and RuntimeError where one fails.
    """
    for line in commands.replace("\\\n", " ").strip().splitlines():
        program, *arguments = shlex.split(line)
        if program != "tism":
            raise ValueError(f"commands must begin with tism, got {line!r}")
        try:
            main(arguments)
        except SystemExit as end:  # which would end a chapter as if it were done
            raise RuntimeError(f"{line}: exit status {end.code}") from None


def write_example(folder: Path) -> None:
    """Write genome, peaks, variants and names of the tasks, as book/examples has them.

    The genome is one chromosome of the test set. Peaks have 40 bp on either side of each summit of
    one protein. Variants are made up: at each summit a substitution, a deletion of 3 bp or an
    insertion of 2 bp in turn, then a row with a wrong reference base, which is refused.
    """
    tasks = task_table()["factor"].tolist()
    name = CHROMOSOMES[CHROMOSOME]
    with Genome(fetch(GENOME)) as genome:
        size = genome.sizes[name]
        codes = genome.codes(name, 0, size)[0]
    letters = np.frombuffer(f"{ALPHABET}N".encode(), np.uint8)[codes].tobytes().decode()
    _write_fasta(folder / "genome.fa.gz", name, letters)
    summits = load_summits([PEAKS_OF], dict.fromkeys(CHROMOSOMES, 10**7))
    summits = summits[summits["chrom"] == CHROMOSOME].sort_values("start")
    places = [p for p in summits["start"].tolist() if 200 < p < size - 200]
    rows = [
        f"{name}\t{p - _HALF}\t{p + _HALF + 1}\t{PEAKS_OF}_{k}\t0\t.\t0\t-1\t-1\t{_HALF}\n"
        for k, p in enumerate(places, 1)
    ]
    write_text(folder / "peaks.narrowPeak", "".join(rows))
    write_text(folder / "variants.vcf", _variants(name, letters, places))
    write_text(folder / "tasks.txt", "".join(f"{task}\n" for task in tasks))


def _write_fasta(path: Path, name: str, letters: str) -> None:
    lines = [letters[i : i + _LINE] for i in range(0, len(letters), _LINE)]
    text = f">{name}\n" + "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _variants(name: str, letters: str, places: list[int]) -> str:
    rows = []
    for k, place in enumerate(places):
        base = letters[place]
        other = ALPHABET[(ALPHABET.index(base) + 1 + k % 3) % 4]
        alleles = [(base, other), (letters[place : place + 4], base), (base, f"{base}GC")][k % 3]
        rows.append((place + 1, *alleles))
    place, base, other = rows[0]
    rows.append((place, other, base))
    header = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    lines = [f"{name}\t{p}\tv{k}\t{r}\t{a}\t.\t.\t.\n" for k, (p, r, a) in enumerate(rows, 1)]
    return header + "".join(lines)
