"""How r of ISM and TISM falls as the gap between training and test performance grows.

A line is fitted to snapshots of baselines that were trained on all regions, from the end of the
warm-up on, and judged on networks that it was not fitted to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from tism.study.ch05_runs import read_table
from tism.study.ch05_tables import kinds
from tism.study.profiles import Profile
from tism.study.statistics import Line, fit_line, mean_correlation, mean_of

EARLIER, NEW, OTHERS = "earlier", "new", "other"
COVARIATES = {"gap": "gap", "log_epoch": "logarithm of the epoch", "size": "size of the effects"}
AXES = {
    "gap": "gap of training and test r",
    "epoch": "epoch",
    "size": "RMS effect (s.d. of target)",
}
_KEPT = ["dataset", "run", "variant", "control", "seed", "fraction", "reading", "epoch"]
_NETWORK = ["record", "variant", "control", "seed"]
_PREDICTED = {EARLIER: "the earlier networks", OTHERS: "all other networks"}


def readings(profile: Profile, networks: Profile | None = None) -> pd.DataFrame:
    """Every reading of the networks of a profile, and of another that was planned after them.

    Columns: dataset, record ("earlier", or "new" for the other profile), run, variant, control,
    seed, fraction, reading, epoch; after, True from the end of the warm-up on; test, the
    performance on the test regions; gap, how much better that on training regions is, and own_gap,
    on those that the network was trained on; size, the root mean square effect; r; fits, True for
    the readings that lines are fitted to.
    """
    tables = {EARLIER: read_table(profile.name)}
    if networks not in (None, profile):
        tables[NEW] = read_table(networks.name)
    rows = pd.concat([t.assign(record=name) for name, t in tables.items()], ignore_index=True)
    after, whole = rows["epoch"] >= rows["warmup_epochs"], rows["fraction"] == 1
    # a longer patience changes no snapshot, so that its networks would be counted twice
    fits = after & whole & (rows["variant"] == "baseline") & (rows["control"] != "patience15")
    gap = rows["train_region_r"] - rows["test_region_r"]
    learned = rows.get("learned_region_r", rows["train_region_r"].where(whole))
    return rows[["record", *_KEPT]].assign(
        after=after,
        test=rows["test_region_r"],
        gap=gap,
        own_gap=(learned - rows["test_region_r"]).fillna(gap.where(whole)),
        size=rows["ism_size"],
        r=rows["tism_all"],
        fits=fits & (rows["reading"] == "epoch"),
    )


def training_gap(rows: pd.DataFrame, covariate: str = "gap") -> pd.DataFrame:
    """`readings` with `predicted`, the r by a line, and `fitted_on`, the networks of that line.

    A reading that lines are fitted to is predicted by the line of all other networks; every reading
    but those of the earlier line is predicted by that line too, in a row of its own. Data sets
    with fewer than two networks to fit to have no prediction and no row.
    """
    tables = [rows.head(0).assign(predicted=0.0, fitted_on="")]
    for _, part in rows.groupby("dataset", sort=False):
        for chosen, line, name in _predictions(part, covariate):
            predicted = line.intercept + line.slope * chosen[covariate]
            tables.append(chosen.assign(predicted=predicted, fitted_on=_PREDICTED[name]))
    return pd.concat(tables, ignore_index=True)


def _predictions(rows: pd.DataFrame, covariate: str) -> Iterator[tuple[pd.DataFrame, Line, str]]:
    """Readings of one data set, the line that predicts them, and what it was fitted to."""
    fits = rows[rows["fits"]]
    for _, part in fits.groupby(_NETWORK, sort=False):
        if line := _line(fits.drop(part.index), covariate):
            yield part, line, OTHERS
    earlier = fits[fits["record"] == EARLIER]
    if line := _line(earlier, covariate):
        yield rows.drop(earlier.index), line, EARLIER


def _line(rows: pd.DataFrame, covariate: str = "gap") -> Line | None:
    """The line through readings; None where they are of fewer than two networks."""
    network = rows.groupby(_NETWORK).ngroup()
    return fit_line(rows[covariate], rows["r"], network) if network.nunique() > 1 else None


def lines(rows: pd.DataFrame) -> pd.DataFrame:
    """The lines of each data set: of the earlier networks, and of these and the new ones.

    Columns: dataset, fitted_on, and those of `tism.study.statistics.Line`.
    """
    found, fits = [], rows[rows["fits"]]
    for dataset, part in fits.groupby("dataset", sort=False):
        earlier = part[part["record"] == EARLIER]
        for name, chosen in ((_PREDICTED[EARLIER], earlier), ("all networks", part)):
            if line := _line(chosen):
                found.append({"dataset": dataset, "fitted_on": name, **line._asdict()})
    return pd.DataFrame(found, columns=["dataset", "fitted_on", *Line._fields])


def errors(predicted: pd.DataFrame) -> pd.DataFrame:
    """How far the predictions of `training_gap` are off, with the network as the unit.

    Columns: dataset, fitted_on, record, tested ("snapshots" that a line is fitted to, or the kind
    whose best weights are read); offset, the mean of r - predicted; value, low and high, the mean
    absolute error with its t interval over n networks.
    """
    off = predicted["r"] - predicted["predicted"]
    kind = kinds(predicted).mask(predicted["fraction"] < 1, "less data")
    table = predicted.assign(tested=kind.mask(predicted["fits"], "snapshots"), offset=off)
    table = table.assign(value=off.abs())[table["fits"] | (table["reading"] == "best")]
    by = ["dataset", "fitted_on", "record", "tested"]
    numbers = ["offset", "value"]
    networks = table.groupby([*by, *_NETWORK[1:], "fraction"], sort=False)[numbers].mean()
    rows = []
    for names, part in networks.groupby(level=by, sort=False):
        row = dict(zip(by, names, strict=True)) | {"offset": part["offset"].mean()}
        rows.append(row | mean_of(part["value"])._asdict())
    return pd.DataFrame(rows, columns=[*by, "offset", "value", "low", "high", "n"])


def covariates(rows: pd.DataFrame) -> pd.DataFrame:
    """How well the gap, the epoch and the size of the effects each predict r, by data set.

    Columns: dataset, covariate; value, low, high, n: the correlation with r within networks, its
    mean by Fisher's z; error, error_low, error_high: the mean absolute error on networks that the
    line of this covariate was not fitted to, with its t interval over networks.
    """
    found, fits = [], rows[rows["fits"]]
    for dataset, part in fits.assign(log_epoch=np.log(fits["epoch"])).groupby("dataset"):
        for covariate, name in COVARIATES.items():
            networks = [n for _, n in part.groupby(_NETWORK) if len(n) > 3]
            if len(networks) < 2:
                continue
            within = mean_correlation([n[covariate].corr(n["r"]) for n in networks])
            off = training_gap(part, covariate).query(f"fitted_on == '{_PREDICTED[OTHERS]}'")
            off = off.assign(error=(off["r"] - off["predicted"]).abs())
            error = mean_of(off.groupby(_NETWORK)["error"].mean())
            row = {"dataset": dataset, "covariate": name, **within._asdict()}
            found.append(row | dict(zip(("error", "error_low", "error_high"), error, strict=False)))
    columns = ["dataset", "covariate", "value", "low", "high", "n", "error", "error_low"]
    return pd.DataFrame(found, columns=[*columns, "error_high"])


def shown_readings(rows: pd.DataFrame) -> pd.DataFrame:
    """The readings that a figure shows, with the category `series`; epoch 0 is left out.

    Networks of a share of the regions have the gap of the regions that they were trained on.
    """
    snapshot = (rows["reading"] == "epoch") & (rows["epoch"] > 0)
    share = snapshot & rows["after"] & (rows["fraction"] < 1) & rows["own_gap"].notna()
    plain = (rows["variant"] == "baseline") & (rows["fraction"] == 1)
    new = rows["fits"] & (rows["record"] == NEW)
    names = {
        "baseline": rows["fits"] & ~new & (rows["control"] == ""),
        "warm-up of 14 epochs": rows["fits"] & ~new & (rows["control"] == "warmup14"),
        "new baselines": new,
        "new, less data": share,
        "AdamW, no decay": snapshot & rows["after"] & (rows["control"] == "no_weight_decay"),
        "best weights": plain & (rows["reading"] == "best"),
        "within the warm-up": snapshot & ~rows["after"] & (rows["record"] == EARLIER),
    }
    table = rows.assign(
        series=np.select(list(names.values()), list(names), ""),
        gap=rows["gap"].mask(share, rows["own_gap"]),
    )
    table = table[table["series"] != ""]
    return table.assign(series=pd.Categorical(table["series"], list(names)))


def numbers(rows: pd.DataFrame, predicted: pd.DataFrame, dataset: str) -> dict[str, float]:
    """What the text says of one data set, by name; NaN where networks for it are missing.

    rows, predicted : `readings` and their `training_gap`
    """
    here, earlier = rows[rows["dataset"] == dataset], {"fitted_on": _PREDICTED[EARLIER]}
    line, by_covariate = lines(here), covariates(here)
    off = errors(predicted[predicted["dataset"] == dataset])
    found = {c: _cell(line, c, **earlier) for c in ("slope", "low", "high", "n_networks", "n")}
    for key, name in COVARIATES.items():
        for column in ("value", "n", "error", "error_low", "error_high"):
            found[f"{key}_{column}"] = _cell(by_covariate, column, covariate=name)
    fits = here[here["fits"] & (here["record"] == EARLIER)].groupby(_NETWORK)
    slopes = [np.polyfit(n["gap"], n["r"], 1)[0] for _, n in fits if len(n) > 1]
    found |= {f"own_{c}": v for c, v in mean_of(slopes)._asdict().items()}
    for column in ("value", "low", "high", "n"):
        found[f"new_{column}"] = _cell(off, column, record=NEW, tested="snapshots", **earlier)
    for record in (EARLIER, NEW):
        found[f"best_{record}"] = _cell(off, "offset", record=record, tested="baseline", **earlier)
    least = {"record": NEW, "reading": "best", "fraction": 0.01}
    found |= {f"least_{c}": _cell(here, c, **least) for c in ("own_gap", "r")}
    best = {"record": EARLIER, "reading": "best", "variant": "baseline", "fraction": 1}
    found |= {f"best_{c}": _cell(here, c, **best) for c in ("test", "r")}
    for epoch in (1, 20):
        decay = {"control": "no_weight_decay", "reading": "epoch", "epoch": epoch}
        found |= {f"decay_{epoch}_{c}": _cell(here, c, **decay) for c in ("test", "r")}
    elsewhere = rows[rows["fits"] & (rows["dataset"] != dataset)]
    return found | {"elsewhere": float(elsewhere.groupby(_NETWORK).ngroups)}


def _cell(table: pd.DataFrame, column: str, **wanted: Any) -> float:
    """Mean of a column over the rows with these values, NaN if there are none."""
    for name, value in wanted.items():
        table = table[table[name] == value]
    return float(table[column].mean()) if len(table) else float("nan")


def stopping(rows: pd.DataFrame) -> pd.DataFrame:
    """Performance, gap and r after some epochs of each kind of training, means over its networks.

    Columns: dataset, kind, epoch, test, gap, r, n.
    """
    rows = rows[(rows["reading"] == "epoch") & (rows["record"] == EARLIER)]
    rows = rows[rows["epoch"].isin([1, 7, 14, 20, 100])]
    groups = rows.assign(kind=kinds(rows), n=1).groupby(["dataset", "kind", "epoch"], sort=False)
    return groups.agg({"test": "mean", "gap": "mean", "r": "mean", "n": "sum"}).reset_index()
