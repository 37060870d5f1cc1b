"""A data set as the files that a user has: a genome (FASTA), peaks (BED) and variants (VCF)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tism.score.files import replacing, write_text
from tism.sequence import ALPHABET
from tism.study.data.dataset import Dataset

_LINE = 60


def genome_file(dataset: Dataset, folder: Path) -> Path:
    """The FASTA file that a data set was cut from; for a simulation, one is written into `folder`.

    The simulated chromosomes hold every region with its flanks at its place, and uniform random
    bases between the regions.
    """
    return dataset.genome or _write_genome(dataset, folder / "genome.fa")


def write_peaks(dataset: Dataset, rows: np.ndarray, path: Path) -> Path:
    """Write these regions as BED, chromosomes named as in the genome's file."""
    regions = dataset.regions.iloc[rows]
    lines = [
        f"{_chromosome(dataset, r.chrom)}\t{r.start}\t{r.end}\t{r.name}\n"
        for r in regions.itertuples(index=False)
    ]
    write_text(path, "".join(lines))
    return path


def write_variants(dataset: Dataset, rows: np.ndarray, path: Path) -> Path:
    """Write a VCF file: a random substitution in each of these regions, then four rows to refuse.

    The four are an unknown base, a symbolic allele, a wrong reference base and a place beyond the
    end of the chromosome.
    """
    rng = np.random.default_rng(0)
    inner = dataset.sequences[rows, dataset.flank : dataset.flank + dataset.length]
    offset = rng.integers(dataset.length, size=len(rows))
    reference = inner[np.arange(len(rows)), offset]
    alternate = (reference + rng.integers(1, 4, size=len(rows))) % 4
    records = []
    for row, shift, ref, alt in zip(rows, offset, reference, alternate, strict=True):
        if ref < len(ALPHABET):
            region = dataset.regions.iloc[row]
            place = _chromosome(dataset, region["chrom"]), region["start"] + shift + 1
            records.append((*place, ALPHABET[ref], ALPHABET[alt]))
    chrom, position, ref, alt = records[0]
    third = next(base for base in ALPHABET if base not in (ref, alt))
    records += [
        (chrom, position, ref, "N"),
        (chrom, position, ref, "<INV>"),
        (chrom, position, third, alt),
        (chrom, 10**9, ref, alt),
    ]
    header = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    lines = [f"{c}\t{p}\tv{k}\t{r}\t{a}\t.\t.\t.\n" for k, (c, p, r, a) in enumerate(records)]
    write_text(path, header + "".join(lines))
    return path


def _chromosome(dataset: Dataset, chrom: str) -> str:
    """The genome file's name of a chromosome."""
    if dataset.name != "yeast":
        return chrom
    from tism.study.data.yeast import CHROMOSOMES

    return CHROMOSOMES[chrom]


def _write_genome(dataset: Dataset, path: Path) -> Path:
    letters = np.frombuffer(f"{ALPHABET}N".encode(), np.uint8)
    rng, regions, flank = np.random.default_rng(0), dataset.regions, dataset.flank
    with replacing(path) as temporary, temporary.open("wb") as file:
        for chrom, rows in regions.groupby("chrom", sort=False).indices.items():
            start = regions["start"].to_numpy()[rows] - flank
            width = dataset.sequences.shape[1]
            codes = rng.integers(4, size=start.max() + 2 * width, dtype=np.uint8)
            codes[start[:, None] + np.arange(width)] = dataset.sequences[rows]
            text = letters[codes].tobytes()
            lines = [text[i : i + _LINE] for i in range(0, len(text), _LINE)]
            file.write(f">{chrom}\n".encode() + b"\n".join(lines) + b"\n")
    return path
