"""How alike ISM and TISM are for networks from other labs, over the real sequences at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tism import versions
from tism.correlations import pearson, profile_correlation, substitution_correlation
from tism.exact import ism, predict
from tism.first_order import input_gradient
from tism.running import progress_bar
from tism.score.readers import InputFileError
from tism.sequence import decode, one_hot_encode
from tism.study.cache import cached_tensors
from tism.study.ch04_agreement import correlations
from tism.study.ch08_networks import CalderonCNN, ExternalModel
from tism.study.data.download import fetch
from tism.study.data.immgen import load_aitac_sample
from tism.study.data.kircher import Locus
from tism.study.data.yeast import number_loci
from tism.study.profiles import digest
from tism.study.scores import Scores
from tism.study.statistics import summarise
from tism.taylor import centre

COMPARED = (  # method, convention
    ("TISM", "all entries"),
    ("TISM", "substitutions"),
    ("TISM", "centred"),
    ("TISM", "mean effect"),
    ("gradient", "all entries"),
    ("gradient", "substitutions"),
    ("gradient x input", "mean effect"),
    ("corrected gradient", "all entries"),
    ("corrected gradient", "substitutions"),
    ("corrected gradient", "centred"),
)
_AT_ONCE = 100
_STARR_COLUMNS = {
    "seqnames": "chrom",
    "Sequence": "sequence",
    "Dev_log2_enrichment": "developmental",
    "Hk_log2_enrichment": "housekeeping",
}
_QUANTILES = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Windows:
    """Sequences of a model's length, of which the positions start to stop are known bases.

    one_hot : (n, 4, length), zeros outside
    loci : (n,) labels; sequences of one locus are not independent
    source : where they come from
    """

    one_hot: Tensor
    start: int
    stop: int
    loci: np.ndarray
    source: str


def deepstarr_sequences() -> pd.DataFrame:
    """The three sample files of DeepSTARR: 3,000 sequences of 249 bp of its training set.

    Columns file, chrom, start, end, sequence, developmental, housekeeping (log2 enrichment), locus:
    sequences that overlap, on either strand, share one.
    """
    tables = []
    for name in ("train", "val", "test"):
        path = fetch(f"models/deepstarr/sample_{name}.txt")
        table = pd.read_csv(path, sep="\t")
        missing = [column for column in _STARR_COLUMNS if column not in table]
        if missing:
            raise InputFileError(path, 1, f"no column {', '.join(missing)}", "fetch it again")
        tables.append(table.rename(columns=_STARR_COLUMNS).assign(file=name))
    table = pd.concat(tables).sort_values(["chrom", "start"], ignore_index=True)
    own = ["file", "chrom", "start", "end", "sequence", "developmental", "housekeeping"]
    return table[own].assign(locus=number_loci(table.assign(end=table["end"] + 1)))


def real_windows(external: ExternalModel, loci: Sequence[Locus]) -> list[Windows]:
    """The real sequences at hand that a model can be asked about.

    DeepSTARR: its sample files. The human networks: the saturation mutagenesis elements, cut into
    windows that do not overlap, and the 100 mouse immune regions of AI-TAC. A window longer than
    the sequence has unknown bases on both sides.
    """
    if external.name == "deepstarr":
        table = deepstarr_sequences()
        one_hot = one_hot_encode(table["sequence"])
        return [_centred(one_hot, external.length, table["locus"].to_numpy(), "DeepSTARR library")]
    groups = []
    for number, locus in enumerate(loci):
        tiles = _tiles(locus.one_hot, external.length)
        labels = np.full(len(tiles), number)
        groups.append(_centred(tiles, external.length, labels, "human elements"))
    one_hot = torch.from_numpy(load_aitac_sample()[0])
    labels = len(loci) + np.arange(len(one_hot))
    return [*groups, _centred(one_hot, external.length, labels, "mouse immune regions")]


def _tiles(one_hot: Tensor, length: int) -> Tensor:
    """As many windows as fit side by side, spread evenly; the sequence itself if none does."""
    total = one_hot.shape[2]
    n = max(1, total // length)
    room = max(0, total - n * length) / (n + 1)
    starts = [round((i + 1) * room) + i * length for i in range(n)]
    return torch.cat([one_hot[:, :, start : start + length] for start in starts])


def _centred(one_hot: Tensor, length: int, loci: np.ndarray, source: str) -> Windows:
    """Sequences in the middle of windows of `length`, cut or between unknown bases."""
    surplus = one_hot.shape[2] - length
    if surplus >= 0:
        cut = one_hot[:, :, surplus // 2 : surplus // 2 + length]
        return Windows(cut, 0, length, loci, source)
    start = -surplus - (-surplus // 2)
    window = torch.zeros(len(one_hot), 4, length)
    window[:, :, start : start + one_hot.shape[2]] = one_hot
    return Windows(window, start, start + one_hot.shape[2], loci, source)


def window_correlations(
    external: ExternalModel, windows: Windows
) -> dict[tuple[str, str], np.ndarray]:
    """Correlation with ISM over the known bases, (n, tasks) by method and convention.

    As `ch04_agreement.correlations`, and the corrected gradient beside it; kept in the cache.
    """
    content = {
        "weights": external.checksum,
        "sequences": decode(windows.one_hot),
        "positions": [windows.start, windows.stop],
        "version": versions.SCORING,
    }
    found = cached_tensors(
        f"concordance/{external.name}_{digest(content)}",
        lambda: _window_correlations(external, windows),
    )
    return {pair: found[", ".join(pair)].numpy() for pair in COMPARED}


def _window_correlations(external: ExternalModel, windows: Windows) -> dict[str, Tensor]:
    model, start, stop = external.model, windows.start, windows.stop
    inner = slice(start, stop)
    scores = Scores(
        rows=np.arange(len(windows.one_hot)),
        one_hot=windows.one_hot[..., inner],
        ism=ism(model, windows.one_hot, start=start, stop=stop),
        gradient=input_gradient(model, windows.one_hot)[..., inner],
        predicted=predict(model, windows.one_hot),
    )
    exact, corrected = scores.ism, centre(scores.gradient)
    own = {
        "all entries": profile_correlation(exact, corrected),
        "substitutions": substitution_correlation(exact, corrected, scores.one_hot),
        "centred": profile_correlation(centre(exact), corrected),
    }
    found = correlations(scores) | {("corrected gradient", c): r for c, r in own.items()}
    return {", ".join(key): r for key, r in found.items() if "task differences" not in key}


def external_correlations(
    external: ExternalModel, loci: Sequence[Locus], *, progress: bool = True
) -> tuple[dict[tuple[str, str], np.ndarray], np.ndarray, np.ndarray]:
    """`window_correlations` of all real sequences, with their loci and sources, (n,) each."""
    groups = real_windows(external, loci)
    parts, labels, sources = [], [], []
    with progress_bar(sum(len(g.one_hot) for g in groups), progress, external.name) as report:
        for group in groups:
            for first in range(0, len(group.one_hot), _AT_ONCE):
                rows = slice(first, first + _AT_ONCE)
                part = Windows(
                    group.one_hot[rows], group.start, group.stop, group.loci[rows], group.source
                )
                parts.append(window_correlations(external, part))
                labels.append(part.loci)
                sources.append(np.full(len(part.loci), part.source))
                report(len(part.loci))
    merged = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return merged, np.concatenate(labels), np.concatenate(sources)


def concordance_rows(
    model: str,
    correlated: dict[tuple[str, str], np.ndarray],
    loci: np.ndarray,
    sources: np.ndarray | None = None,
) -> pd.DataFrame:
    """Mean correlation over sequences and tasks with its 95 % interval over loci.

    Columns model, method, convention, mean_r, low, high, n_sequences, n_tasks; with `sources`, one
    row a source, in a column `sequences`.
    """
    rows = []
    for source in [None] if sources is None else dict.fromkeys(sources):
        kept = np.ones(len(loci), bool) if source is None else sources == source
        for (method, convention), r in correlated.items():
            mean = summarise(r[kept], loci[kept])
            row = {"model": model, "method": method, "convention": convention}
            row |= {"mean_r": mean.value, "low": mean.low, "high": mean.high}
            row |= {"n_sequences": int(kept.sum()), "n_tasks": r.shape[1]}
            rows.append(row if source is None else row | {"sequences": source})
    return pd.DataFrame(rows)


def concordance_quantiles(
    correlated: dict[str, dict[tuple[str, str], np.ndarray]], convention: str = "all entries"
) -> pd.DataFrame:
    """Share of profiles against r(ISM, TISM): 101 quantiles, one column a model."""
    columns = {
        model: np.nanquantile(r["TISM", convention], _QUANTILES) for model, r in correlated.items()
    }
    return pd.DataFrame({"share": _QUANTILES, **columns})


def motif_effect(external: ExternalModel, motif: str, *, n: int = 200, seed: int = 0) -> pd.Series:
    """Mean change of each task's prediction when `motif` replaces the centre of random sequences.

    A global check of a port, for which the biology of a factor says which tasks must rise.
    """
    rng = np.random.default_rng(seed)
    random = ["".join(row) for row in rng.choice(list("ACGT"), (n, external.length))]
    start = (external.length - len(motif)) // 2
    planted = [s[:start] + motif + s[start + len(motif) :] for s in random]
    before, after = (predict(external.model, one_hot_encode(s)) for s in (random, planted))
    return pd.Series((after - before).mean(0).numpy(), index=external.tasks)


# Motif, its consensus, the tasks that must rise most, and where that is published.
MOTIFS = {
    "calderon": {
        "EBF1": ("ATTCCCAAGGGAAT", "B cells", ("Bulk_B", "Mem_B", "Naive_B")),
        "CEBPB": ("ATTGCGCAAT", "monocytes, dendritic cells", ("Monocytes", "Myeloid_DCs")),
        "SPI1": ("AAAAAGAGGAAGTG", "dendritic, B cells", ("Myeloid_DCs", "pDCs", "Naive_B")),
        "TBX21": ("AGGTGTGA", "NK, effector T cells", ("Immature_NK", "Gamma_delta_T", "CD8pos")),
        "AP-1": ("GATGACTCATC", "stimulated T cells", ("Effector_CD4pos_T-S", "Th17", "Memory_T")),
    },
    "deepstarr": {
        "AP-1": ("TGACTCA", "developmental", ("developmental",)),
        "GATA": ("CTTATCT", "developmental", ("developmental",)),
        "Dref": ("TATCGATA", "housekeeping", ("housekeeping",)),
        "Ohler1": ("GTGTGACCGCG", "housekeeping", ("housekeeping",)),
    },
    "mpra_dragonn": {
        "HNF4A": ("GGGGTCAAAGGTCA", "HepG2", ("HepG2",)),
        "GATA1": ("AGATAAGG", "K562 minP", ("K562 minP",)),
    },
}


def motif_checks(external: ExternalModel) -> pd.DataFrame:
    """Which task rises most on each motif of `MOTIFS`, beside where it is known to act."""
    rows = []
    for motif, (consensus, expected, tasks) in MOTIFS[external.name].items():
        change = motif_effect(external, consensus).sort_values(ascending=False)
        rows.append(
            {
                "model": external.name,
                "check": f"{motif} ({consensus}) raises most",
                "expected": expected,
                "found": change.index[0],
                "value": change.iloc[0],
                "agrees": change.index[0].startswith(tasks),
            }
        )
    return pd.DataFrame(rows)


def _padding_agreement(external: ExternalModel, n: int = 4) -> float:
    """Lowest r between ISM of the Calderon network padded as published, and padded with zeros."""
    zeros = CalderonCNN(padding=0.0)
    zeros.load_state_dict(external.model.state_dict())
    rng = np.random.default_rng(0)
    random = ["".join(row) for row in rng.choice(list("ACGT"), (n, external.length))]
    one_hot, tasks = one_hot_encode(random), slice(None, None, 9)
    maps = [ism(model, one_hot, tasks) for model in (external.model, zeros)]
    return float(profile_correlation(*maps).min())


def port_checks(external: ExternalModel) -> pd.DataFrame:
    """What published numbers and files say of a port: rows of check, expected, found, value.

    The sample files of DeepSTARR are training sequences: they check the port, not the model.
    """
    rows = []
    if external.name == "deepstarr":
        table = deepstarr_sequences()
        predicted = predict(external.model, one_hot_encode(table["sequence"]))
        for file, own in table.groupby("file"):
            for number, task in enumerate(external.tasks):
                r = pearson(predicted[own.index, number], torch.tensor(own[task].to_numpy()))
                name = f"sample_{file}.txt, {task}: r with measured"
                rows.append((name, "0.70 to 0.79, as other ports", f"{r:.2f}", r, r > 0.65))
    if external.name == "mpra_dragonn":
        one_hot = _centred(torch.from_numpy(load_aitac_sample()[0]), 145, np.arange(100), "")
        predicted = predict(external.model, one_hot.one_hot).unflatten(1, (4, 3))
        r = pearson(predicted[..., :2].mean(2), predicted[..., 2], 0).min()
        name = "average task: lowest r with the mean of its replicate tasks"
        rows.append((name, "1: trained on that mean", f"{r:.4f}", r, r > 0.99))
    if external.name == "calderon":
        one_hot, heights = load_aitac_sample()
        window = _centred(torch.from_numpy(one_hot), external.length, np.arange(100), "")
        level = predict(external.model, window.one_hot).mean(1)
        r = pearson(level, torch.from_numpy(heights).mean(1))
        name = "mean prediction of 100 mouse immune regions: r with their mean accessibility"
        rows.append((name, "clearly positive", f"{r:.2f}", r, r > 0.3))
        r = _padding_agreement(external)
        name = "ISM with zeros for the padding of activations: lowest r with ours"
        rows.append((name, "1: the padding does not matter", f"{r:.4f}", r, r > 0.99))
    own = pd.DataFrame(rows, columns=["check", "expected", "found", "value", "agrees"])
    own = own.astype({"value": float, "agrees": bool})
    own.insert(0, "model", external.name)
    return pd.concat([own, motif_checks(external)], ignore_index=True)
