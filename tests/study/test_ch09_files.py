"""A data set written as FASTA, BED and VCF reads back as the same sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tism.score.genome import Genome, read_variants, read_windows
from tism.study.ch09_files import genome_file, write_peaks, write_variants
from tism.study.data.simulation import simulate

ROWS = np.array([7, 3, 150, 8])


@pytest.fixture(scope="module")
def data():
    return simulate(n_regions=200, n_tasks=2, seed=0)


def test_simulated_regions_come_back_with_their_flanks(data, tmp_path):
    bed = write_peaks(data, ROWS, tmp_path / "p.bed")
    with Genome(genome_file(data, tmp_path)) as genome:
        windows = read_windows(bed, genome)
        torch.testing.assert_close(windows[:], data.one_hot(ROWS))
        assert windows.regions["name"].tolist() == data.regions["name"].iloc[ROWS].tolist()
        wider = read_windows(bed, genome, data.length + 2 * data.flank)[:]
    inner = wider[:, :, data.flank : -data.flank]
    torch.testing.assert_close(inner, data.one_hot(ROWS))
    torch.testing.assert_close(wider[:, :, : data.length], data.one_hot(ROWS, -data.flank))


def test_variants_are_in_the_regions_and_four_are_refused(data, tmp_path):
    vcf = write_variants(data, ROWS, tmp_path / "v.vcf")
    with Genome(genome_file(data, tmp_path)) as genome:
        variants = read_variants(vcf, genome, data.length)
    regions = data.regions.iloc[ROWS]
    position = variants.regions["position"].to_numpy() - 1
    assert (position >= regions["start"].to_numpy()).all()
    assert (position < regions["end"].to_numpy()).all()
    assert len(variants.refused) == 4
    assert variants.refused["reason"].is_unique
    again = write_variants(data, ROWS, tmp_path / "again.vcf")
    assert again.read_text() == vcf.read_text()


def test_yeast_chromosomes_have_the_names_of_the_genome(dataset, tmp_path):
    object.__setattr__(dataset, "name", "yeast")
    dataset.regions["chrom"] = ["chr9", "chr16"] * 28
    bed = write_peaks(dataset, np.array([0, 1]), tmp_path / "p.bed")
    assert [line.split("\t")[0] for line in bed.read_text().splitlines()] == ["IX", "XVI"]
