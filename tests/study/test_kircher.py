"""Measured substitutions are read exactly and put together by locus and strand."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from tism.study.data import download
from tism.study.data.kircher import (
    load_loci,
    make_loci,
    read_measurements,
    read_tasks,
    rebuild_sequence,
)

REFERENCE = "ACGTA"  # positions 11 to 15


def rows(element: str, scale: float, skip: int | None = None, release: str = "GRCh38"):
    """All substitutions of REFERENCE with effect scale * position, and a deletion a position."""
    for i, ref in enumerate(REFERENCE):
        for alt in "ACGT-":
            if alt != ref and i != skip:
                effect = scale * (i + 1)
                yield ["1", 11 + i, ref, alt, 20, 1, 1, effect, 1e-6, element, release]


def write(path, lines):
    names = ["Chrom", "Pos", "Ref", "Alt", "Barcodes", "DNA", "RNA", "Coefficient", "pValue"]
    table = pd.DataFrame(lines, columns=[*names, "Element", "Release"])
    table.to_csv(path, sep="\t", index=False, na_rep="NA")
    return path


def tasks(strand: str = "+", **changes) -> pd.DataFrame:
    row = {"locus": "L", "kind": "enhancer", "chrom": "chr1", "start": 11, "end": 15}
    row |= {"strand": strand, "match": "same", "mpra_dragonn": "all"}
    pair = [{"experiment": "a", "cell_line": "X"}, {"experiment": "b", "cell_line": "Y"}]
    return pd.DataFrame([row | own | changes for own in pair])


def test_rows_are_kept_or_counted(tmp_path):
    lines = [*rows("a", 1), *rows("a", 1, release="GRCh37")]
    lines[0][4] = 9  # barcodes
    lines.append([None, None, None, None, 99, 1, 1, 0.1, 0.5, "a", "GRCh38"])
    variants, notes = read_measurements(write(tmp_path / "v.tsv.gz", lines))

    assert notes == {
        "rows": 21,
        "without coordinates": 1,
        "deletions": 5,
        "fewer than 10 barcodes": 1,
        "substitutions used": 14,
    }
    assert int(variants["used"].sum()) == 14
    assert rebuild_sequence(variants, 11, 15) == REFERENCE
    assert rebuild_sequence(variants, 10, 16) == f"N{REFERENCE}N"


def test_experiments_of_a_locus_are_averaged_and_need_both_to_be_significant(tmp_path):
    first, second = list(rows("a", 1)), list(rows("b", 3, skip=4))
    second[0][8] = 0.5  # A11C is not significant in b
    variants, _ = read_measurements(write(tmp_path / "v.tsv", first + second))
    (locus,) = make_loci(variants, tasks())

    assert locus.sequence == REFERENCE
    assert locus.cells == "X, Y"
    expected = torch.tensor([2.0, 4.0, 6.0, 8.0, 5.0], dtype=torch.float64)
    for position, ref in enumerate(REFERENCE):
        for row, alt in enumerate("ACGT"):
            value = locus.effect[row, position]
            assert math.isnan(value) if alt == ref else value == expected[position]
    assert not locus.significant[1, 0]
    assert int(locus.significant.sum()) == 14
    assert locus.repeatability == pytest.approx(1)


def test_a_locus_on_the_other_strand_is_turned_round(tmp_path):
    variants, _ = read_measurements(write(tmp_path / "v.tsv", [*rows("a", 1), *rows("b", 1)]))
    (plus,), (minus,) = (make_loci(variants, tasks(strand)) for strand in "+-")

    assert minus.sequence == "TACGT"
    torch.testing.assert_close(minus.effect, plus.effect.flip(0, 1), equal_nan=True)
    assert (minus.one_hot == plus.one_hot.flip(1, 2)).all()
    assert minus.effect[minus.one_hot[0] == 1].isnan().all()


def test_task_table_covers_the_published_experiments():
    table = read_tasks()
    assert len(table) == 29
    assert table["locus"].nunique() == 21
    assert set(table["match"]) == {"same", "related", "none"}
    assert set(table["strand"]) == {"+", "-"}
    assert table["reason"].str.len().min() > 20
    from tism.study.ch08_networks import CALDERON_TASKS, MPRA_DRAGONN_TASKS

    known = {"mpra_dragonn": MPRA_DRAGONN_TASKS, "calderon": CALDERON_TASKS}
    for column, names in known.items():
        used = {name for entry in table[column] for name in entry.split(";")}
        assert used <= {*names, "all"}


def test_the_published_file(monkeypatch):
    monkeypatch.setattr(download, "_download", lambda source: pytest.skip(f"no {source.path} here"))
    loci, notes = load_loci()
    assert len(loci) == 21
    assert notes["rows"] == sum(notes.values()) - notes["rows"]
    unknown = {locus.name: locus.sequence.count("N") for locus in loci}
    assert {name: n for name, n in unknown.items() if n} == {"TCF7L2": 1}
    by_name = {locus.name: locus for locus in loci}
    assert "AAAATCACCCCACTGCAAACTCCTCCCCC" in by_name["LDLR"].sequence  # SRE and Sp1
    assert "CCCGGGTCCCCGGCCCAGCCCCCTCCGGGCCC" in by_name["TERT"].sequence  # read towards TERT
    assert by_name["LDLR"].repeatability > 0.9
    for locus in loci:
        assert len(locus.sequence) == locus.end - locus.start + 1
        assert locus.effect[locus.one_hot[0] == 1].isnan().all()
