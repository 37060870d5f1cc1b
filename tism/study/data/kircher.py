"""Saturation mutagenesis MPRA of 21 human regulatory elements (Kircher et al. 2019).

29 experiments; `data/kircher_tasks.csv` says which belong to one locus, in which cells they were
done, how the element faced the reporter, and which task of each external model stands for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tism.sequence import ALPHABET, decode, one_hot_encode, reverse_complement
from tism.study.data.download import data_root, fetch

COLUMNS = {
    "Element": "experiment", "Chrom": "chrom", "Pos": "position", "Ref": "ref", "Alt": "alt",
    "Barcodes": "barcodes", "Coefficient": "effect", "pValue": "p",
}  # fmt: skip
LEAST_BARCODES, P_VALUE = 10, 1e-5  # significance as the publisher's portal defines it
RELEASE = "GRCh38"
MATCHES = ("none", "related", "same")  # a locus is as near as its farthest experiment


@dataclass(frozen=True)
class Locus:
    """One element, in the direction in which it was cloned, with its measured substitutions.

    match : one of `MATCHES`: how near MPRA-DragoNN's cell lines are to the measured one
    chrom, start, end, strand : GRCh38, 1-based, inclusive
    sequence : bases; N where no variant tells the reference base
    effect : (4, length) log2 change of expression, mean over experiments; NaN where not measured
    significant : (4, length) p < 1e-5 in every experiment that measured the substitution
    experiments : name to effect (4, length) of each experiment
    tasks : external model to the tasks that stand for the cells, see `ExternalModel.task_numbers`
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


def read_measurements(path: str | Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """Rows of GRCh38 that have coordinates, and counts of the rows by kind.

    Returns columns experiment, chrom, position (1-based), ref, alt ("-" for a deletion), barcodes,
    effect (log2), p, and used: a substitution with at least 10 barcodes.
    """
    table = pd.read_csv(path, sep="\t", dtype={"Chrom": str}, low_memory=False)
    table = table[table["Release"] == RELEASE]
    placed = table[table["Pos"].notna()].rename(columns=COLUMNS)[list(COLUMNS.values())]
    placed = placed.astype({"position": int}).reset_index(drop=True)
    deletion, enough = placed["alt"] == "-", placed["barcodes"] >= LEAST_BARCODES
    notes = {
        "rows": len(table),
        "without coordinates": len(table) - len(placed),
        "deletions": int(deletion.sum()),
        "fewer than 10 barcodes": int((~deletion & ~enough).sum()),
        "substitutions used": int((~deletion & enough).sum()),
    }
    return placed.assign(used=~deletion & enough), notes


def rebuild_sequence(variants: pd.DataFrame, start: int, end: int) -> str:
    """The reference bases from start to end (1-based, inclusive), N where no variant tells them."""
    base = dict(zip(variants["position"], variants["ref"], strict=True))
    return "".join(base.get(position, "N") for position in range(start, end + 1))


def read_tasks() -> pd.DataFrame:
    """`data/kircher_tasks.csv`: one row per experiment."""
    return pd.read_csv(data_root() / "kircher_tasks.csv")


def make_loci(variants: pd.DataFrame, tasks: pd.DataFrame) -> list[Locus]:
    """The loci of the experiments, in the order of `tasks`."""
    return [_locus(rows, variants) for _, rows in tasks.groupby("locus", sort=False)]


def load_loci() -> tuple[list[Locus], dict[str, int]]:
    """The 21 loci of the published file, and its rows by kind (see `read_measurements`)."""
    variants, notes = read_measurements(fetch("kircher/elements.tsv.gz"))
    return make_loci(variants, read_tasks()), notes


def _locus(rows: pd.DataFrame, variants: pd.DataFrame) -> Locus:
    """Experiments of one locus, averaged over those that measured a substitution."""
    first = rows.iloc[0]
    start, end = int(rows["start"].min()), int(rows["end"].max())
    of_locus = variants[variants["experiment"].isin(rows["experiment"])]
    used = of_locus[of_locus["used"]]
    tables = {name: used[used["experiment"] == name] for name in rows["experiment"]}
    effects = {name: _grid(t, "effect", start, end) for name, t in tables.items()}
    p_values = torch.stack([_grid(t, "p", start, end) for t in tables.values()])
    measured = ~p_values.isnan()
    sequence = one_hot_encode(rebuild_sequence(of_locus, start, end))
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
        match=next(match for match in MATCHES if match in set(rows["match"])),
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


def _grid(table: pd.DataFrame, column: str, start: int, end: int) -> Tensor:
    """(4, length) of a column, NaN where there is no row."""
    grid = torch.full((len(ALPHABET), end - start + 1), float("nan"), dtype=torch.float64)
    rows = torch.tensor([ALPHABET.index(base) for base in table["alt"]])
    columns = torch.tensor(table["position"].to_numpy() - start)
    grid[rows, columns] = torch.tensor(table[column].to_numpy(dtype=float))
    return grid
