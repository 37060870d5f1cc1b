"""A simulated data set in the shape of ImmGen, whose truth is known for every sequence.

Known transcription-factor motifs (JASPAR CORE vertebrates, `data/motifs.csv`) are planted into a
random background. The targets of a region are then computed from the finished sequence alone: it
is scanned with every motif, and every site found counts, planted or not. The truth is therefore a
function of the sequence, `Truth.response`, which can be evaluated for any mutant.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import expit

from tism.study.data.dataset import Dataset, build_dataset, check_integer
from tism.study.data.immgen import HELD_OUT
from tism.study.data.sites import Motif, find_sites, neighbours, read_motifs

# Cell types of ImmGen (Yoshida et al. 2019) and their place in a lineage tree. A data set of n
# tasks takes the first n; the first eight are those of the paper's Fig. 1B.
CELL_TYPES = {
    "B.Sp": "lymphoid/B/mature", "DC.4+.Sp": "myeloid/DC/conventional",
    "GN.Thio.PC": "myeloid/granulocyte", "MF.PC": "myeloid/macrophage",
    "NKT.Sp": "lymphoid/T/innate-like", "T.4.Nve.Sp": "lymphoid/T/CD4",
    "T.8.Nve.Sp": "lymphoid/T/CD8", "Tgd.Sp": "lymphoid/T/gamma-delta", "LTHSC.34-.BM": "stem",
    "proB.CLP.BM": "lymphoid/B/progenitor", "NK.27+11b+.Sp": "lymphoid/innate/NK",
    "ILC2.SI": "lymphoid/innate/helper", "preT.DN1.Th": "lymphoid/T/thymus",
    "Mo.6C+II-.Bl": "myeloid/monocyte", "B.GC.CB.Sp": "lymphoid/B/activated",
    "DC.pDC.Sp": "myeloid/DC/plasmacytoid", "T8.TE.LCMV.d7.Sp": "lymphoid/T/CD8",
    "Treg.4.25hi.Sp": "lymphoid/T/CD4", "MF.microglia.CNS": "myeloid/macrophage",
    "GN.BM": "myeloid/granulocyte", "DC.8+.Sp": "myeloid/DC/conventional",
    "ILC3.NKp46+.SI": "lymphoid/innate/helper", "NK.27-11b+.BM": "lymphoid/innate/NK",
    "proB.FrBC.BM": "lymphoid/B/progenitor", "B.PC.Sp": "lymphoid/B/activated",
    "T.DP.Th": "lymphoid/T/thymus", "Mo.6C-II-.Bl": "myeloid/monocyte", "STHSC.150-.BM": "stem",
    "Tgd.g2+d17.LN": "lymphoid/T/gamma-delta", "MF.Alv.Lu": "myeloid/macrophage",
    "B.MZ.Sp": "lymphoid/B/mature", "T8.Tcm.LCMV.d180.Sp": "lymphoid/T/CD8",
    "NKT.Sp.LPS.3d": "lymphoid/T/innate-like", "preT.DN3.Th": "lymphoid/T/thymus",
    "MMP4.135+.BM": "stem", "T.4.Th": "lymphoid/T/CD4", "T.8.Th": "lymphoid/T/CD8",
    "MF.RP.Sp": "myeloid/macrophage", "B1b.PC": "lymphoid/B/mature",
    "ILC3.CCR6+.SI": "lymphoid/innate/helper",
}  # fmt: skip
# Where in the tree a factor is switched on ("" is the root: everywhere). A rough sketch of immune
# biology, so that the logos are those that an immunologist expects.
ACTIVE_IN = {
    "Spi1": ("myeloid", "lymphoid/B", "stem"), "Runx1": ("",),
    "CEBPA": ("myeloid/granulocyte", "myeloid/macrophage", "myeloid/monocyte"),
    "EBF1": ("lymphoid/B",), "PAX5": ("lymphoid/B",),
    "TBX21": ("lymphoid/innate/NK", "lymphoid/T/CD8", "lymphoid/T/innate-like"),
    "Gata3": ("lymphoid/T", "lymphoid/innate/helper", "stem"),
    "IRF8": ("myeloid/DC", "myeloid/monocyte", "lymphoid/B"),
    "FOS::JUN": ("myeloid", "lymphoid/innate"), "TCF7": ("lymphoid/T",), "CTCF": ("",),
    "RORA": ("lymphoid/innate/helper", "lymphoid/T/gamma-delta"), "ETS1": ("lymphoid",),
    "TCF3": ("lymphoid/B", "lymphoid/T/thymus", "stem"), "KLF4": ("myeloid", "stem"),
    "NFKB1": ("",), "Stat5a": ("lymphoid/innate", "lymphoid/T"), "POU2F2": ("lymphoid/B",),
    "GFI1": ("myeloid/granulocyte", "lymphoid", "stem"), "BCL6": ("",),
}  # fmt: skip
REPRESSORS = ("GFI1", "BCL6")
COOPERATIVE = (
    ("Spi1", "IRF8"), ("Runx1", "ETS1"), ("Gata3", "TCF7"), ("EBF1", "TCF3"),
    ("CEBPA", "FOS::JUN"), ("Stat5a", "TBX21"),
)  # fmt: skip
COMPETING = (("Spi1", "ETS1"), ("Stat5a", "BCL6"), ("CEBPA", "POU2F2"), ("Gata3", "GFI1"))
# Sequences
GC_MEAN, GC_SPREAD = 0.47, 0.07  # mean and standard deviation of the regions' GC content
EMPTY = 0.1  # share of regions into which nothing is planted
N_SITES = 4.0  # mean number of single sites that are planted into the others, at least one each
PAIRED = 0.6  # share of the others that also receive two motifs of a pair
# Effects of a factor in logits of accessibility, at affinity 1
EFFECT = (1.0, 1.8)  # range where the factor is switched on
ELSEWHERE = 0.15  # share of it where the factor is not switched on
DRIFT = 0.25  # on every branch of the tree the effect is multiplied by a log-normal of this spread,
SWITCH = 0.08  # and redrawn between 0 and its full size with this probability
# Pairs of sites
COOPERATIVE_GAP = (0, 15)  # fewest and most bases between two cooperating sites
BOOST = 0.8  # their extra effect, as a share of the mean of their effects
COMPETING_GAP = 6  # most bases between two competing sites, which may overlap
MASK = 0.6  # share of its effect that the weaker of two competing sites loses
# Accessibility
BASELINE, CEILING = -4.5, 150.0  # logit without sites; upper limit
NOISE_SHARED, NOISE_TASK = 0.7, 0.6  # of log2 accessibility, shared by all tasks and of each task
# Regions a chromosome: the paper's numbers of held-out regions of chr8, chr11 and chr19, and the
# other 244,103 of 286,000 in proportion to the lengths of mm10's chromosomes (in Mb).
_HELD_OUT_REGIONS = {"chr8": 16_619, "chr11": 16_120, "chr19": 9_158}
_MEGABASES = {
    "chr1": 195.5, "chr2": 182.1, "chr3": 160.0, "chr4": 156.5, "chr5": 151.8, "chr6": 149.7,
    "chr7": 145.4, "chr9": 124.6, "chr10": 130.7, "chr12": 120.1, "chr13": 120.4, "chr14": 124.9,
    "chr15": 104.0, "chr16": 98.2, "chr17": 95.0, "chr18": 90.7,
}  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """What determines the targets: the effects of motifs, and the sites and pairs of every region.

    sites : one row per site: region, motif (name), start, end (0-based, half-open, in the window),
        strand, score (bits), affinity (0 to 1), planted (False: arisen by chance)
    pairs : one row per interacting pair: region, first, second (rows of `sites`), kind
        ("cooperative" or "competing"), spacing (bases between them, negative if they overlap),
        masked (the row of `sites` that a competitor masks; -1 if cooperative)
    decoys : planted sites that are too weak to count or were overwritten, as in `sites`
    effects : (n_motifs, n_tasks) effect of a motif at affinity 1, in logits of accessibility
    site_effects : (n_sites, n_tasks) noiseless target with the site minus the one without it
    important : (n, length) bool, the bases of sites at positions of at least half a bit
    noiseless : (n, n_tasks) targets without noise
    """

    motifs: list[Motif]
    effects: np.ndarray
    sites: pd.DataFrame = field(repr=False)
    pairs: pd.DataFrame = field(repr=False)
    decoys: pd.DataFrame = field(repr=False)
    site_effects: np.ndarray = field(repr=False)
    important: np.ndarray = field(repr=False)
    noiseless: np.ndarray = field(repr=False)

    @property
    def motif_names(self) -> list[str]:
        """The motifs in the order of `effects`."""
        return [motif.name for motif in self.motifs]

    @property
    def paired(self) -> np.ndarray:
        """(n_sites,) bool: the sites that belong to an interacting pair."""
        return np.isin(np.arange(len(self.sites)), self.pairs[["first", "second"]])

    @property
    def interacting(self) -> np.ndarray:
        """(n, length) bool: the `important` bases of the sites of interacting pairs."""
        return _important(self.sites[self.paired], self.motifs, self.important.shape)

    def response(self, sequences: np.ndarray) -> np.ndarray:
        """Noiseless targets (n, n_tasks) of any sequences, (n, length) base indices, 4 for N."""
        sites = find_sites(sequences, self.motifs)
        pairs = find_pairs(sites, self.motif_names)
        contributions = _Contributions(sites, pairs, self.motif_names, self.effects)
        return _target(contributions.total(len(sequences)))


def simulate(
    n_regions: int = 20_000, n_tasks: int = 30, *, length: int = 251, flank: int = 10, seed: int = 0
) -> Dataset:
    """Regions, their targets in log2(x + 2) of accessibility, and the truth behind them.

    Regions lie on pseudo-chromosomes in ImmGen's proportions: chr19 is the test set, chr8 and chr11
    are the validation set, and no two regions overlap. The same arguments give the same data set; a
    task has the same effects for any number of regions and tasks.
    """
    motifs = read_motifs()
    widest = max(motif.width for motif in motifs)
    room = 2 * widest + 2 * max(COOPERATIVE_GAP[1], COMPETING_GAP) + 1  # for any pair, twice as far
    check_integer("n_tasks", n_tasks, 1, len(CELL_TYPES))
    least = {"n_regions": (n_regions, 50), "length": (length, room), "flank": (flank, 0)}
    for name, (value, low) in {**least, "seed": (seed, 0)}.items():
        check_integer(name, value, low)
    tasks = sorted(list(CELL_TYPES)[:n_tasks], key=lambda task: (CELL_TYPES[task], task))
    sequences, plants = _sequences(motifs, n_regions, length, flank, seed)
    truth = _truth(sequences[:, flank : flank + length], plants, motifs, tasks, seed)
    targets = _measure(truth.noiseless, seed)
    others = {"tasks": tasks, "flank": flank, "notes": _notes(truth), "truth": truth}
    regions = _regions(n_regions, length, flank)
    return build_dataset("simulated", sequences, targets, regions, **others)


def _truth(
    window: np.ndarray, plants: pd.DataFrame, motifs: list[Motif], tasks: list[str], seed: int
) -> Truth:
    names = [motif.name for motif in motifs]
    effects = _effects(names, tasks, seed)
    sites = find_sites(window, motifs)
    pairs = find_pairs(sites, names)
    sites["planted"] = _keys(sites).isin(_keys(plants))
    contributions = _Contributions(sites, pairs, names, effects)
    logit = contributions.total(len(window))
    with_site = logit[sites["region"]]
    return Truth(
        motifs=motifs,
        effects=effects,
        sites=sites,
        pairs=pairs,
        decoys=plants[~_keys(plants).isin(_keys(sites))].reset_index(drop=True),
        site_effects=_target(with_site) - _target(with_site + contributions.removal()),
        important=_important(sites, motifs, window.shape),
        noiseless=_target(logit),
    )


def find_pairs(sites: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The pairs of `Truth.pairs` among sites sorted by region and start."""
    kinds = np.full((len(names), len(names)), "", dtype="<U11")
    for kind, couples in (("cooperative", COOPERATIVE), ("competing", COMPETING)):
        for a, b in couples:
            kinds[names.index(a), names.index(b)] = kinds[names.index(b), names.index(a)] = kind
    motif = pd.Index(names).get_indexer(sites["motif"])
    start, end, affinity = (sites[c].to_numpy() for c in ("start", "end", "affinity"))
    reach = max(COOPERATIVE_GAP[1], COMPETING_GAP)
    first, second = neighbours(sites["region"].to_numpy(), start, end - start + reach)
    spacing = start[second] - end[first]
    kind = kinds[motif[first], motif[second]]
    low, high = COOPERATIVE_GAP
    cooperate = (kind == "cooperative") & (spacing >= low) & (spacing <= high)
    keep = cooperate | ((kind == "competing") & (spacing <= COMPETING_GAP))
    first, second, spacing, kind = (x[keep] for x in (first, second, spacing, kind))
    tie = affinity[first] == affinity[second]
    stronger = np.where(tie, motif[first] < motif[second], affinity[first] > affinity[second])
    pairs = pd.DataFrame(
        {
            "region": sites["region"].to_numpy()[first],
            "first": first,
            "second": second,
            "kind": kind,
            "spacing": spacing,
            "masked": np.where(kind == "cooperative", -1, np.where(stronger, second, first)),
        }
    )
    return pairs.sort_values(["first", "second"], ignore_index=True)


class _Contributions:
    """The contributions of sites and pairs to the logit of accessibility, in every task."""

    def __init__(
        self, sites: pd.DataFrame, pairs: pd.DataFrame, names: list[str], effects: np.ndarray
    ) -> None:
        self.region = sites["region"].to_numpy()
        competing = pairs[pairs["kind"] == "competing"]
        self.masked = competing["masked"].to_numpy()
        first, second = competing["first"].to_numpy(), competing["second"].to_numpy()
        self.masking = first + second - self.masked
        cooperative = pairs[pairs["kind"] == "cooperative"]
        self.first, self.second = (cooperative[c].to_numpy() for c in ("first", "second"))
        affinity = sites["affinity"].to_numpy()
        effect = effects[pd.Index(names).get_indexer(sites["motif"])]
        maskers = np.bincount(self.masked, minlength=len(sites))
        self.single = (affinity * (1 - MASK) ** maskers)[:, None] * effect
        both = np.minimum(affinity[self.first], affinity[self.second])[:, None]
        mean = (effect[self.first] + effect[self.second]) / 2
        self.extra = BOOST * both * np.maximum(mean, 0)

    def total(self, n: int) -> np.ndarray:
        """(n, n_tasks) logit of accessibility of every region."""
        logit = np.full((n, self.single.shape[1]), BASELINE)
        np.add.at(logit, self.region, self.single)
        np.add.at(logit, self.region[self.first], self.extra)
        return logit

    def removal(self) -> np.ndarray:
        """(n_sites, n_tasks) change of its region's logit when one site is taken away."""
        change = -self.single
        np.add.at(change, self.first, -self.extra)
        np.add.at(change, self.second, -self.extra)
        regained = self.single[self.masked] * (1 / (1 - MASK) - 1)
        np.add.at(change, self.masking, regained)
        return change


def _target(logit: np.ndarray) -> np.ndarray:
    """log2(x + 2) of an accessibility x that saturates at the ceiling."""
    return np.log2(CEILING * expit(logit) + 2).astype(np.float32)


def _measure(noiseless: np.ndarray, seed: int) -> np.ndarray:
    """The targets with log-normal noise on x, part of it shared by all tasks of a region."""
    rng = np.random.default_rng([seed, 2])
    noise = rng.normal(0, NOISE_SHARED, (len(noiseless), 1))
    noise = noise + rng.normal(0, NOISE_TASK, noiseless.shape)
    accessibility = np.maximum(2.0 ** noiseless.astype(np.float64) - 2, 0)
    return np.log2(accessibility * 2.0**noise + 2).astype(np.float32)


def _effects(names: list[str], tasks: list[str], seed: int) -> np.ndarray:
    """(n_motifs, n_tasks) effects handed down the lineage tree, with changes on every branch.

    All cell types are drawn, used or not: a task has the same effects in a set of any size.
    """
    rng = np.random.default_rng([seed, 0])
    size = rng.uniform(*EFFECT, len(names))
    nodes = {"": np.where(["" in ACTIVE_IN[name] for name in names], 1, ELSEWHERE) * size}
    for task, lineage in CELL_TYPES.items():
        steps = [*lineage.split("/"), task]
        for depth in range(1, len(steps) + 1):
            node, parent = "/".join(steps[:depth]), "/".join(steps[: depth - 1])
            if node not in nodes:
                nodes[node] = _branch(nodes[parent], node, names, size, rng)
    sign = np.where(np.isin(names, REPRESSORS), -1, 1)
    leaves = [nodes[f"{CELL_TYPES[task]}/{task}"] for task in tasks]
    return sign[:, None] * np.stack(leaves, 1)


def _branch(
    parent: np.ndarray, node: str, names: list[str], size: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Sizes of the motifs' effects at a node, from those at its parent.

    size : of the effect of each motif where it is switched on
    """
    factor = np.exp(rng.normal(0, DRIFT, len(names)))
    redrawn = rng.random(len(names)) < SWITCH
    fresh = size * rng.random(len(names))
    inherited = np.where(redrawn, fresh, parent * factor)
    starts = np.array([node in ACTIVE_IN[name] for name in names])
    return np.where(starts, size, inherited)


def _sequences(
    motifs: list[Motif], n_regions: int, length: int, flank: int, seed: int
) -> tuple[np.ndarray, pd.DataFrame]:
    """Background with planted sites, (n, length + 2 flank), and what was planted where."""
    rng = np.random.default_rng([seed, 1])
    shape = (n_regions, length + 2 * flank)
    weight = GC_MEAN * (1 - GC_MEAN) / GC_SPREAD**2 - 1
    gc = rng.beta(GC_MEAN * weight, (1 - GC_MEAN) * weight, (n_regions, 1))
    strong, second = rng.random(shape) < gc, rng.random(shape) < 0.5
    sequences = np.where(strong, np.where(second, 1, 2), np.where(second, 0, 3)).astype(np.uint8)
    filled = np.flatnonzero(rng.random(n_regions) >= EMPTY)
    plants = pd.concat(
        [_single_plants(filled, motifs, rng, length), _pair_plants(filled, motifs, rng, length)],
        ignore_index=True,
    )
    _write_plants(sequences, plants, motifs, rng, flank)
    plants["motif"] = np.array([motif.name for motif in motifs])[plants["motif"]]
    return sequences, plants


def _single_plants(
    filled: np.ndarray, motifs: list[Motif], rng: np.random.Generator, length: int
) -> pd.DataFrame:
    """Single sites to plant into the regions `filled`."""
    count = 1 + rng.poisson(max(N_SITES - 1, 0), len(filled))
    region = np.repeat(filled, count)
    motif = rng.integers(len(motifs), size=len(region))
    width = np.array([m.width for m in motifs])[motif]
    start = rng.integers(length - width + 1)
    return _plant_table(region, motif, start, width, rng)


def _pair_plants(
    filled: np.ndarray, motifs: list[Motif], rng: np.random.Generator, length: int
) -> pd.DataFrame:
    """Pairs of sites of interacting motifs to plant, half of them too far apart to interact."""
    names = [motif.name for motif in motifs]
    couples = np.array([[names.index(a), names.index(b)] for a, b in COOPERATIVE + COMPETING])
    reach = np.repeat([COOPERATIVE_GAP[1], COMPETING_GAP], [len(COOPERATIVE), len(COMPETING)])
    region = filled[rng.random(len(filled)) < PAIRED]
    which = rng.integers(len(couples), size=len(region))
    motif = rng.permuted(couples[which], axis=1)
    width = np.array([m.width for m in motifs])[motif]
    gap = rng.integers(2 * reach[which] + 2)
    left = rng.integers(length - width.sum(1) - gap + 1)
    start = np.stack([left, left + width[:, 0] + gap], 1)
    return _plant_table(np.repeat(region, 2), motif.ravel(), start.ravel(), width.ravel(), rng)


def _plant_table(
    region: np.ndarray,
    motif: np.ndarray,
    start: np.ndarray,
    width: np.ndarray,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Sites to plant, on strands drawn at random; `motif` are numbers of motifs."""
    strand = rng.choice(["+", "-"], len(region))
    return pd.DataFrame(
        {"region": region, "motif": motif, "start": start, "end": start + width, "strand": strand}
    )


def _write_plants(
    sequences: np.ndarray,
    plants: pd.DataFrame,
    motifs: list[Motif],
    rng: np.random.Generator,
    flank: int,
) -> None:
    """Write sites drawn from the motifs' matrices into the sequences; later ones overwrite."""
    widest = max(motif.width for motif in motifs)
    cumulative = np.ones((len(motifs), widest, 3))
    for row, motif in zip(cumulative, motifs, strict=True):
        row[: motif.width] = motif.probabilities.cumsum(0)[:3].T
    region, motif, start, end = (plants[c].to_numpy() for c in ("region", "motif", "start", "end"))
    width = (end - start)[:, None]
    bases = (rng.random((len(plants), widest, 1)) > cumulative[motif]).sum(-1).astype(np.uint8)
    offset = np.arange(widest)
    backwards = np.take_along_axis(bases, np.maximum(width - 1 - offset, 0), 1)
    bases = np.where((plants["strand"] == "-").to_numpy()[:, None], 3 - backwards, bases)
    turn = plants.groupby("region").cumcount().to_numpy()
    for k in range(turn.max(initial=-1) + 1):
        row, column = np.nonzero((turn == k)[:, None] & (offset < width))
        sequences[region[row], flank + start[row] + column] = bases[row, column]


def _keys(sites: pd.DataFrame) -> pd.MultiIndex:
    """Region, motif and start of each site, which identify it (a palindrome has no one strand)."""
    return pd.MultiIndex.from_frame(sites[["region", "motif", "start"]])


def _important(sites: pd.DataFrame, motifs: list[Motif], shape: tuple[int, ...]) -> np.ndarray:
    """Of this shape, (n, length), True at the positions of sites with at least half a bit."""
    mask = np.zeros(shape, bool)
    for motif in motifs:
        for strand, informative in (("+", motif.information), ("-", motif.information[::-1])):
            chosen = sites[(sites["motif"] == motif.name) & (sites["strand"] == strand)]
            columns = chosen["start"].to_numpy()[:, None] + np.flatnonzero(informative >= 0.5)
            mask[chosen["region"].to_numpy()[:, None], columns] = True
    return mask


def _regions(n_regions: int, length: int, flank: int) -> pd.DataFrame:
    scale = 244_103 / sum(_MEGABASES.values())
    weights = {**{c: size * scale for c, size in _MEGABASES.items()}, **_HELD_OUT_REGIONS}
    chromosomes = sorted(weights, key=lambda chrom: int(chrom[3:]))
    share = np.cumsum([weights[c] for c in chromosomes]) / sum(weights.values())
    # Rounding the cumulative share keeps every chromosome within one region of its quota.
    count = np.diff(np.round(share * n_regions).astype(int), prepend=0)
    chrom = np.repeat(chromosomes, count)
    order = np.concatenate([np.arange(c) for c in count])
    start = (order + 1) * 2 * (length + 2 * flank)
    return pd.DataFrame(
        {
            "name": [f"sim_{k}" for k in range(n_regions)],
            "chrom": chrom,
            "start": start,
            "end": start + length,
            "locus": np.arange(n_regions),
            "split": pd.Series(chrom).map(HELD_OUT).fillna("train"),
        }
    )


def _notes(truth: Truth) -> dict[str, int]:
    sites, pairs = truth.sites, truth.pairs
    return {
        "sites of all motifs found in the finished sequences": len(sites),
        "of these, not planted: they arose by chance": int((~sites["planted"]).sum()),
        "planted sites that came out too weak, or were overwritten": len(truth.decoys),
        "pairs of sites that strengthen each other": int((pairs["kind"] == "cooperative").sum()),
        "pairs of sites of which one masks the other": int((pairs["kind"] == "competing").sum()),
        "regions without any site": len(truth.noiseless) - sites["region"].nunique(),
    }
