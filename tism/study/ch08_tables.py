"""The tables of chapter 08: computed from published networks and data, or from the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from tism.exact import predict
from tism.sequence import one_hot_encode
from tism.study import ch08_elements as elements
from tism.study.ch08_agreement import (
    concordance_quantiles,
    concordance_rows,
    external_correlations,
    polyadenylation_signals,
    real_sequences,
)
from tism.study.ch08_checks import port_checks
from tism.study.ch08_networks import EXTERNAL, TITLES, ExternalModel, load_external
from tism.study.ch08_reliability import LONG, long_errors, reliability_coverage, reliability_errors
from tism.study.data.download import data_root
from tism.study.data.kircher import Locus, load_loci

FOLDER, _SHOWN = "external", "mpra_dragonn"
_MAPPED = ("ISM", "TISM")  # the methods whose maps are kept whole
TABLES = [
    *("port_checks", "concordance", "concordance_by_source", "concordance_quantiles"),
    *("signals", "reliability_errors", "reliability"),
    *("mpra_notes", "mpra_loci", "mpra_autocorrelation", "mpra", "mpra_paired", "mpra_summary"),
    *("mpra_methods", "mpra_deltas", "mpra_motifs", "mpra_tracks", "mpra_maps"),
]


def recorded_tables() -> dict[str, pd.DataFrame]:
    """The committed tables of `data/results/external`, by name."""
    folder = data_root() / "results" / FOLDER
    return {name: pd.read_csv(folder / f"{name}.csv") for name in TABLES}


def computed_tables(*, progress: bool = True) -> dict[str, pd.DataFrame]:
    """All tables, from the published files; a quarter of an hour on two cores, kept in the cache.

    Raises DownloadError if a file cannot be had.
    """
    loci, notes = load_loci()
    externals = [load_external(name) for name in EXTERNAL]
    measured = [e for e in externals if e.name in loci[0].tasks]
    counts = pd.DataFrame({"what": notes.keys(), "rows": notes.values()})
    return {
        **concordance_tables(externals, loci, progress=progress),
        "mpra_notes": counts,
        **mutagenesis_tables(measured, loci, progress=progress),
    }


def concordance_tables(
    externals: Sequence[ExternalModel], loci: Sequence[Locus], *, progress: bool = True
) -> dict[str, pd.DataFrame]:
    """Checks of the rebuilt networks, how well the gradient's maps agree with ISM, and how well
    `reliability` knows it."""
    found = {e.name: external_correlations(e, loci, progress=progress) for e in externals}
    errors = [
        reliability_errors(e, real_sequences(e, loci), found[e.name][0]["TISM", "all entries"])
        for e in externals
    ]
    errors += [long_errors(e, loci) for e in externals if e.name == "xpresso"]
    judged = pd.concat(errors, ignore_index=True)
    pooled = [concordance_rows(model, r, labels) for model, (r, labels, _) in found.items()]
    by_source = [concordance_rows(model, *parts) for model, parts in found.items()]
    return {
        "port_checks": pd.concat([port_checks(e) for e in externals], ignore_index=True),
        "concordance": pd.concat(pooled, ignore_index=True),
        "concordance_by_source": pd.concat(by_source, ignore_index=True),
        "concordance_quantiles": concordance_quantiles({m: r for m, (r, *_) in found.items()}),
        "signals": signals_table(found, externals),
        "reliability_errors": judged,
        "reliability": reliability_coverage(judged),
    }


def signals_table(
    found: Mapping[str, tuple[dict, np.ndarray, np.ndarray]], externals: Sequence[ExternalModel]
) -> pd.DataFrame:
    """r(ISM, TISM) of each polyadenylation signal for both outputs of APARENT2.

    found : of `external_correlations`, by model

    Columns gene, proportion (predicted), r_proportion and r_log_odds.
    """
    model = next(e for e in externals if e.name == "aparent2")
    one_hot = torch.cat([group.one_hot for group in real_sequences(model, [])])
    r = {name: found[name][0]["TISM", "all entries"][:, 0] for name in found}
    return pd.DataFrame(
        {
            "gene": polyadenylation_signals()["gene"],
            "proportion": predict(model.model, one_hot)[:, 0].numpy(),
            "r_proportion": r["aparent2"],
            "r_log_odds": r["aparent2_log_odds"],
        }
    )


def mutagenesis_tables(
    externals: Sequence[ExternalModel], loci: Sequence[Locus], *, progress: bool = True
) -> dict[str, pd.DataFrame]:
    """Predicted against measured effects of substitutions."""
    scores = {e.name: elements.score_loci(e, loci, progress=progress) for e in externals}
    table = elements.locus_table(loci)
    agreement, ahead = elements.measured_tables(scores, loci)
    difference = "pearson of ISM minus method"
    renamed = ahead.rename(columns={"difference": difference})
    summary = [
        elements.summarise_loci(agreement, table, ["pearson", "spearman", "sign_agreement"]),
        elements.summarise_loci(renamed, table, [difference]),
    ]
    tracks = [
        elements.element_tracks(scores[_SHOWN][locus.name], locus).assign(
            element=locus.name, model=_SHOWN
        )
        for locus in shown_elements(agreement, loci)
    ]
    return {
        "mpra_loci": table,
        "mpra_autocorrelation": elements.effect_autocorrelation(loci),
        "mpra": agreement,
        "mpra_paired": ahead,
        "mpra_summary": pd.concat(summary, ignore_index=True),
        "mpra_methods": elements.method_agreement(scores, loci),
        "mpra_deltas": elements.convergence_deltas(externals, loci),
        "mpra_motifs": elements.motif_recovery(scores, loci),
        "mpra_tracks": pd.concat(tracks, ignore_index=True),
        "mpra_maps": elements.element_maps({_SHOWN: scores[_SHOWN], **scores}, loci, _MAPPED),
    }


def shown_elements(agreement: pd.DataFrame, loci: Sequence[Locus]) -> list[Locus]:
    """The two elements whose tracks are shown, measured in a cell line of MPRA-DragoNN: the one
    for which its ISM agrees best with the measurement, and the one for which it agrees least."""
    same = {locus.name: locus for locus in loci if locus.match == "same"}
    rows = agreement[(agreement["model"] == _SHOWN) & (agreement["method"] == "ISM")]
    rows = rows[rows["element"].isin(list(same))].sort_values("pearson")
    return [same[rows["element"].iloc[i]] for i in (-1, 0)]


def named(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The table with these columns, renamed, and the networks by the names that readers see."""
    titles = {**TITLES, LONG: "Xpresso, 4,000 bp"}
    shown = table.replace({"model": titles}) if "model" in table else table
    return shown[[*columns]].rename(columns=columns)


def strongest_stretch(tracks: pd.DataFrame) -> pd.DataFrame:
    """The 80 rows of one element's tracks over which the measured effects are largest."""
    total = np.convolve(tracks["measured"].abs().fillna(0), np.ones(80), mode="valid")
    return tracks.iloc[total.argmax() :][:80]


def letter_maps(tracks: pd.DataFrame) -> dict[str, np.ndarray]:
    """Each column of tracks as (4, length), with its value in the row of the reference base."""
    one_hot = one_hot_encode("".join(tracks["base"]))[0].numpy()
    columns = tracks.columns.drop(["position", "base", "element", "model"])
    return {name: one_hot * tracks[name].fillna(0).to_numpy() for name in columns}
