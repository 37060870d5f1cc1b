"""How well TISM agrees with ISM for networks from other labs, over real sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from tism import versions
from tism.correlations import profile_correlation, substitution_correlation
from tism.exact import ism, predict
from tism.first_order import input_gradient
from tism.running import progress_bar
from tism.score.readers import InputFileError
from tism.sequence import decode, one_hot_encode
from tism.study.cache import cached_tensors
from tism.study.ch04_agreement import correlations_with_ism
from tism.study.ch08_networks import ExternalModel
from tism.study.data.download import data_root, fetch
from tism.study.data.immgen import load_aitac_sample
from tism.study.data.kircher import Locus
from tism.study.data.yeast import number_loci
from tism.study.profiles import digest
from tism.study.scores import Scores
from tism.study.statistics import mean_of
from tism.taylor import centre

_COMPARED = {  # method to conventions
    "TISM": ("all entries", "substitutions", "centred", "mean effect"),
    "gradient": ("all entries", "substitutions"),
    "gradient x input": ("mean effect",),
    "corrected gradient": ("all entries", "substitutions", "centred"),
}
_AT_ONCE, _ONE_IN = 100, 5  # DeepSTARR's library is scored for every fifth sequence
_START = 7_000  # where the sequence of Xpresso has the start of transcription
_HEXAMER, _HEXAMER_IN_LIBRARY = 70, 50  # where APARENT2 and the library have that of the signal
_STARR_COLUMNS = {
    "seqnames": "chrom",
    "Sequence": "sequence",
    "Dev_log2_enrichment": "developmental",
    "Hk_log2_enrichment": "housekeeping",
}


@dataclass(frozen=True)
class PaddedSequences:
    """Sequences of a model's length, whose bases from start to stop are known.

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

    Columns file, chrom, start, end, sequence, developmental, housekeeping (log2 enrichment) and
    locus, which sequences share that overlap on either strand.
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
    table["locus"] = number_loci(table.assign(end=table["end"] + 1))
    columns = ["file", "chrom", "start", "end", "sequence", "developmental", "housekeeping"]
    return table[[*columns, "locus"]]


def real_sequences(external: ExternalModel, loci: Sequence[Locus]) -> list[PaddedSequences]:
    """The real sequences that come with the compendium for a model.

    For DeepSTARR these are a fifth of its sample files, for APARENT2 human polyadenylation signals,
    for Xpresso the saturation mutagenesis elements, each with its middle at the start of
    transcription. For the other human networks they are these elements, cut into tiles that do not
    overlap, and the 100 mouse immune regions of AI-TAC. Unknown bases fill up the model's input.
    """
    if external.name == "deepstarr":
        table = deepstarr_sequences()[::_ONE_IN]
        one_hot, labels = one_hot_encode(table["sequence"]), table["locus"].to_numpy()
        return [placed(one_hot, external.length, loci=labels, source="DeepSTARR library")]
    if external.name.startswith("aparent2"):
        return _signals(external.length)
    groups = []
    for number, locus in enumerate(loci):
        if external.name == "xpresso":
            one_hot, start = locus.one_hot, _START - locus.one_hot.shape[2] // 2
        else:
            one_hot, start = _tiles(locus.one_hot, external.length), None
        labels = np.full(len(one_hot), number)
        groups.append(placed(one_hot, external.length, start, labels, "human elements"))
    if external.name == "xpresso":
        return groups
    one_hot = torch.from_numpy(load_aitac_sample()[0])
    labels = len(loci) + np.arange(len(one_hot))
    regions = placed(one_hot, external.length, loci=labels, source="mouse immune regions")
    return [*groups, regions]


def polyadenylation_signals() -> pd.DataFrame:
    """Human polyadenylation signals: columns gene, sequence, and of those with a variant that
    APARENT2's authors score its position, base and change (of the log odds)."""
    return pd.read_csv(data_root() / "polyadenylation_signals.csv")


def _signals(length: int) -> list[PaddedSequences]:
    """The signals in their place, those of equal length together."""
    table = polyadenylation_signals()
    groups = []
    for size, rows in table.groupby(table["sequence"].str.len(), sort=False):
        hexamer = _HEXAMER if size == length else _HEXAMER_IN_LIBRARY
        one_hot, labels = one_hot_encode(rows["sequence"]), rows.index.to_numpy()
        groups.append(placed(one_hot, length, _HEXAMER - hexamer, labels, "human signals"))
    return groups


def _tiles(one_hot: Tensor, length: int) -> Tensor:
    """As many tiles as fit side by side, spread evenly; the sequence itself if none does."""
    total = one_hot.shape[2]
    n = max(1, total // length)
    room = max(0, total - n * length) / (n + 1)
    starts = [round((i + 1) * room) + i * length for i in range(n)]
    return torch.cat([one_hot[:, :, start : start + length] for start in starts])


def placed(
    one_hot: Tensor,
    length: int,
    start: int | None = None,
    loci: np.ndarray | None = None,
    source: str = "",
) -> PaddedSequences:
    """Sequences in an input of `length` bases; bases beyond its ends are cut, missing ones unknown.

    start : where they begin in the input; by default their middle is in its middle
    loci : labels; by default each sequence is a locus of its own
    """
    if start is None:
        start = -((one_hot.shape[2] - length) // 2)
    stop = start + one_hot.shape[2]
    padded = F.pad(one_hot, (start, length - stop))  # negative numbers cut
    loci = np.arange(len(one_hot)) if loci is None else loci
    return PaddedSequences(padded, max(start, 0), min(stop, length), loci, source)


def sequence_correlations(
    external: ExternalModel, sequences: PaddedSequences
) -> dict[tuple[str, str], np.ndarray]:
    """Correlation with ISM over the known bases, (n, tasks) by method and convention.

    As `ch04_agreement.correlations_with_ism`, with the corrected gradient besides; kept in the
    cache.
    """
    content = {
        "model": external.checksum,
        "sequences": decode(sequences.one_hot),
        "positions": [sequences.start, sequences.stop],
        "versions": [versions.SCORING, versions.MODEL],
    }
    found = cached_tensors(
        f"concordance/{external.name}_{digest(content)}", lambda: _correlations(external, sequences)
    )
    pairs = [(method, convention) for method, each in _COMPARED.items() for convention in each]
    return {pair: found[", ".join(pair)].numpy() for pair in pairs}


def _correlations(external: ExternalModel, sequences: PaddedSequences) -> dict[str, Tensor]:
    one_hot, where = sequences.one_hot, {"start": sequences.start, "stop": sequences.stop}
    given = external.model, one_hot
    scores = Scores(
        rows=np.arange(len(one_hot)),
        one_hot=one_hot[..., sequences.start : sequences.stop],
        ism=ism(*given, args=external.args, **where),
        gradient=input_gradient(*given, args=external.args, **where),
        predicted=predict(*given, args=external.args),
    )
    exact, corrected = scores.ism, centre(scores.gradient)
    found = {", ".join(key): r for key, r in correlations_with_ism(scores).items()}
    del found["TISM, task differences"]
    of_corrected = {
        "all entries": profile_correlation(exact, corrected),
        "substitutions": substitution_correlation(exact, corrected, scores.one_hot),
        "centred": profile_correlation(centre(exact), corrected),
    }
    return found | {f"corrected gradient, {name}": r for name, r in of_corrected.items()}


def external_correlations(
    external: ExternalModel, loci: Sequence[Locus], *, progress: bool = True
) -> tuple[dict[tuple[str, str], np.ndarray], np.ndarray, np.ndarray]:
    """`sequence_correlations` of all real sequences, with their loci and sources, (n,) each."""
    groups = real_sequences(external, loci)
    parts, labels, sources = [], [], []
    with progress_bar(sum(len(g.one_hot) for g in groups), progress, external.name) as report:
        for group in groups:
            for first in range(0, len(group.one_hot), _AT_ONCE):
                rows = slice(first, first + _AT_ONCE)
                part = replace(group, one_hot=group.one_hot[rows], loci=group.loci[rows])
                parts.append(sequence_correlations(external, part))
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
    """Mean correlation over loci, of their sequences and all tasks, with its 95 % t interval.

    Columns model, method, convention, mean_r, low, high, n_sequences, n_tasks; with `sources`, one
    row a source, in a column `sequences`.
    """
    labels = np.full(len(loci), "all") if sources is None else sources
    rows = []
    for source in dict.fromkeys(labels):
        chosen = labels == source
        for (method, convention), r in correlated.items():
            by_locus = pd.Series(np.nanmean(r[chosen], 1)).groupby(loci[chosen]).mean()
            mean = mean_of(by_locus)
            row = {"model": model, "method": method, "convention": convention}
            row |= {"mean_r": mean.value, "low": mean.low, "high": mean.high}
            counts = {"n_sequences": int(chosen.sum()), "n_tasks": r.shape[1]}
            rows.append({**row, **counts, "sequences": source})
    table = pd.DataFrame(rows)
    return table.drop(columns="sequences") if sources is None else table


def concordance_quantiles(correlated: dict[str, dict[tuple[str, str], np.ndarray]]) -> pd.DataFrame:
    """101 quantiles of r(ISM, TISM) over all entries: share of the profiles, a column per model."""
    share = np.linspace(0, 1, 101)
    columns = {m: np.nanquantile(r["TISM", "all entries"], share) for m, r in correlated.items()}
    return pd.DataFrame({"share": share, **columns})
