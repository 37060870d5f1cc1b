"""Saturation mutagenesis MPRA of 21 human regulatory elements (Kircher et al. 2019).

29 experiments; `data/kircher_tasks.csv` says which belong to one locus, in which cells they were
done, how the element faced the reporter, and which task of each external model stands for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tism.score.readers import InputFileError, open_text
from tism.sequence import ALPHABET, decode, one_hot_encode, reverse_complement
from tism.study.data.tables import check_rows

COLUMNS = ("Chrom", "Pos", "Ref", "Alt", "Barcodes", "Coefficient", "pValue", "Element", "Release")
LEAST_BARCODES, P_VALUE = 10, 1e-5  # the publisher's portal calls a variant significant by these
RELEASE = "GRCh38"


@dataclass(frozen=True)
class Locus:
    """One element, in the direction in which it was cloned, with its measured substitutions.

    sequence : bases; N where no variant tells the reference base
    effect : (4, length) log2 change of expression, mean over experiments; NaN where not measured
    significant : (4, length) p < 1e-5 in every experiment that measured the substitution
    experiments : effect (4, length) of each by its name
    tasks : what stands for its cells in each external model, as `ExternalModel.task_numbers` reads
    match : "same", "related" or "none": how near MPRA-DragoNN's cell lines are to the measured one
    chrom, start, end, strand : GRCh38, 1-based, inclusive
    """

    name: str
    kind: str
    cells: str
    match: str
    chrom: str
    start: int
    end: int
    strand: str
    sequence: str
    effect: Tensor
    significant: Tensor
    experiments: dict[str, Tensor]
    tasks: dict[str, str]

    @property
    def one_hot(self) -> Tensor:
        """(1, 4, length)"""
        return one_hot_encode(self.sequence)

    @property
    def repeatability(self) -> float:
        """Mean Pearson correlation of pairs of experiments; NaN where there is only one."""
        both = [
            pd.Series(a.flatten().numpy()).corr(pd.Series(b.flatten().numpy()))
            for a, b in combinations(self.experiments.values(), 2)
        ]
        return float(np.mean(both)) if both else float("nan")


def read_variants(path: str | Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """Rows of GRCh38 that have coordinates, and how many there are of which kind.

    Returns columns experiment, chrom, position (1-based), ref, alt ("-" for a deletion), barcodes,
    effect (log2), p, and used: a substitution with at least 10 barcodes.

    Raises InputFileError for a missing column, a letter that is no base, or a value that is no
    number.
    """
    check_rows(path)
    with open_text(path) as file:
        try:
            table = pd.read_csv(file, sep="\t", dtype={"Chrom": str}, low_memory=False)
        except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise InputFileError(
                path, None, f"no table ({error})", "fetch the file again"
            ) from None
    if not isinstance(table.index, pd.RangeIndex):
        raise InputFileError(path, 2, "more columns than in the header", "fetch the file again")
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise InputFileError(path, 1, f"no column {', '.join(missing)}", "fetch the file again")
    table = table[table["Release"] == RELEASE]
    placed = table[table["Pos"].notna()]
    placed = placed.assign(**_checked_numbers(path, placed))
    deletion, enough = placed["Alt"] == "-", placed["Barcodes"] >= LEAST_BARCODES
    notes = {
        "rows": len(table),
        "without coordinates": len(table) - len(placed),
        "deletions": int(deletion.sum()),
        "fewer than 10 barcodes": int((~deletion & ~enough).sum()),
        "substitutions used": int((~deletion & enough).sum()),
    }
    names = {"Element": "experiment", "Pos": "position", "Coefficient": "effect", "pValue": "p"}
    names |= {column: column.lower() for column in ("Chrom", "Ref", "Alt", "Barcodes")}
    placed = placed.rename(columns=names).assign(used=~deletion & enough)
    own = ["experiment", "chrom", "position", "ref", "alt", "barcodes", "effect", "p", "used"]
    return placed[own].astype({"position": int}).reset_index(drop=True), notes


def _checked_numbers(path: str | Path, table: pd.DataFrame) -> pd.DataFrame:
    """The columns of numbers as numbers, after a check of the letters too."""
    for column, letters in (("Ref", ALPHABET), ("Alt", ALPHABET + "-")):
        other = table[~table[column].isin(list(letters))]
        if len(other):
            line = int(other.index[0]) + 2
            problem = f"{column} is {other[column].iloc[0]!r}"
            raise InputFileError(path, line, problem, f"want one of {letters}")
    columns = ["Pos", "Barcodes", "Coefficient", "pValue"]
    numbers = table[columns].apply(pd.to_numeric, errors="coerce")
    finite = np.isfinite(numbers.to_numpy(float)).all(1) & (numbers["Pos"] % 1 == 0)
    bad = numbers.index[~finite]
    if len(bad):
        raise InputFileError(path, int(bad[0]) + 2, "a value is no number", "fetch the file again")
    return numbers


def rebuild_sequence(variants: pd.DataFrame, start: int, end: int) -> str:
    """The reference from the ref column over start to end (1-based, inclusive); N where unknown.

    Raises ValueError where two variants disagree about a base.
    """
    pairs = variants[["position", "ref"]].drop_duplicates()
    clash = pairs["position"][pairs["position"].duplicated()]
    if len(clash):
        raise ValueError(f"position {clash.iloc[0]} has two reference bases")
    base = dict(zip(pairs["position"], pairs["ref"], strict=True))
    return "".join(base.get(position, "N") for position in range(start, end + 1))


def read_tasks() -> pd.DataFrame:
    """`data/kircher_tasks.csv`: one row an experiment."""
    from tism.study.data.download import data_root

    return pd.read_csv(data_root() / "kircher_tasks.csv")


def make_loci(variants: pd.DataFrame, tasks: pd.DataFrame) -> list[Locus]:
    """The loci that the experiments belong to, in the order of `tasks`.

    Raises ValueError where the two tables list different experiments.
    """
    unlike = set(variants["experiment"]) ^ set(tasks["experiment"])
    if unlike:
        raise ValueError(f"experiments of one table only: {', '.join(sorted(unlike))}")
    groups = [rows for _, rows in tasks.groupby("locus", sort=False)]
    return [_locus(rows, variants) for rows in groups]


def load_loci() -> tuple[list[Locus], dict[str, int]]:
    """The 21 loci of the published file, and what was left out of it (see `read_variants`)."""
    from tism.study.data.download import fetch

    variants, notes = read_variants(fetch("kircher/elements.tsv.gz"))
    return make_loci(variants, read_tasks()), notes


def _locus(rows: pd.DataFrame, variants: pd.DataFrame) -> Locus:
    """Experiments of one locus, averaged over those that measured a substitution."""
    first = rows.iloc[0]
    start, end = int(rows["start"].min()), int(rows["end"].max())
    own = variants[variants["experiment"].isin(rows["experiment"])]
    used = own[own["used"]]
    tables = {name: used[used["experiment"] == name] for name in rows["experiment"]}
    effects = {name: _grid(t, "effect", start, end) for name, t in tables.items()}
    p_values = torch.stack([_grid(t, "p", start, end) for t in tables.values()])
    measured = ~p_values.isnan()
    sequence = one_hot_encode(rebuild_sequence(own, start, end))
    maps = [torch.stack(list(effects.values())).nanmean(0)]
    maps.append(((p_values < P_VALUE) | ~measured).all(0) & measured.any(0))
    if first["strand"] == "-":
        sequence, *maps = (reverse_complement(m) for m in (sequence, *maps))
        effects = {name: reverse_complement(effect) for name, effect in effects.items()}
    models = [c for c in ("mpra_dragonn", "calderon", "deepstarr") if c in rows]
    return Locus(
        name=first["locus"],
        kind=first["kind"],
        cells=", ".join(rows["cell_line"].unique()),
        match=_joint(rows["match"], ("none", "related", "same")),
        chrom=first["chrom"],
        start=start,
        end=end,
        strand=first["strand"],
        sequence=decode(sequence)[0],
        effect=maps[0],
        significant=maps[1],
        experiments=effects,
        tasks={model: first[model] for model in models},
    )


def _joint(values: pd.Series, order: Sequence[str]) -> str:
    """The first of `order` that occurs: a locus is as near as its farthest experiment."""
    return next(value for value in order if value in set(values))


def _grid(table: pd.DataFrame, column: str, start: int, end: int) -> Tensor:
    """(4, length) of a column, NaN where there is no row."""
    grid = torch.full((len(ALPHABET), end - start + 1), float("nan"), dtype=torch.float64)
    rows = torch.tensor([ALPHABET.index(base) for base in table["alt"]])
    columns = torch.tensor(table["position"].to_numpy() - start)
    grid[rows, columns] = torch.tensor(table[column].to_numpy(dtype=float))
    return grid
