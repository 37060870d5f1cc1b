"""The tables of chapter 06: run times beside the paper's, ratios, costs counted and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from tism.model import AITACConfig
from tism.study.ch06_cost import forward_equivalents
from tism.study.data.download import data_root

JOB = ["network", "pool", "length", "n_sequences"]
NAMES = {"n_sequences": "sequences", "length": "length, bp"}  # for readers
OURS = ["ISM", "windowed ISM", "TISM, one task", "TISM, all tasks"]


def three_digits(value: float) -> str:
    """A number with three digits and no exponent: 0.0586, 15.7, 90,500."""
    return f"{float(f'{value:.3g}'):,.10g}"


FORMATS = {  # in the order of the columns of `beside_paper`
    **dict.fromkeys(["ISM, s", "TISM, s"], three_digits),
    **dict.fromkeys(["speed-up", "paper's"], "{:,.0f}"),
    **dict.fromkeys(["ISM / windowed", "windowed / TISM"], "{:.1f}"),
    **dict.fromkeys(["paper: ISM, s", "paper: TISM, s"], three_digits),
}


def timed(rows: pd.DataFrame, setting: str = "best") -> pd.DataFrame:
    """The rows of `ch06_measure.measure` with repeated times, one a job and method.

    setting : "best" takes the faster of the paper's batch size and the one that was best in the
        trials; "paper" takes batches of 20, and the best where there are fewer sequences
    """
    rows = rows[rows["seconds"].notna() & rows["setting"].isin(["best", "paper"])]
    rank = rows["seconds"] if setting == "best" else rows["setting"] == "best"
    rows = rows.loc[rank.sort_values(kind="stable").index]
    return rows.drop_duplicates([*JOB, "method"]).sort_index()


def times_table(rows: pd.DataFrame, setting: str = "best") -> pd.DataFrame:
    """One row per job, one column per method: seconds with quartiles; "~" marks extrapolations."""
    rows = timed(rows, setting)
    text = [
        f"{'~ ' * (row.share < 0.999)}{three_digits(row.seconds)} "
        f"({three_digits(row.low)}-{three_digits(row.high)})"
        for row in rows.itertuples()
    ]
    return _by_method(rows.assign(text=text), "text", rows["method"].unique())


def _by_method(rows: pd.DataFrame, values: str, methods: Sequence[str]) -> pd.DataFrame:
    table = rows.pivot(index=JOB, columns="method", values=values)
    return table[list(methods)].reset_index().rename_axis(columns=None)


def ratios(rows: pd.DataFrame, slow: str, fast: str) -> pd.DataFrame:
    """How many times faster one method is than another at the best batch sizes, a row per job.

    slow, fast : methods; "tangermeme" is the faster of its two ways

    Only jobs that both methods have count. Returns the job, ratio (of the medians), low (the slow
    method's lower quartile over the fast one's upper), high (the reverse), and extrapolated, True
    if either time is.
    """
    a, b = _of_same_jobs(rows, slow, fast, "best")
    table = {
        "ratio": a["seconds"] / b["seconds"],
        "low": a["low"] / b["high"],
        "high": a["high"] / b["low"],
        "extrapolated": (a["share"] < 1) | (b["share"] < 1),
    }
    return pd.DataFrame(table).reset_index()


def _of_same_jobs(
    rows: pd.DataFrame, slow: str, fast: str, setting: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of two methods for the jobs that both have, in one order."""
    rows = timed(rows, setting)
    sides = []
    for method in (slow, fast):
        names = ["tangermeme, plain", "tangermeme, fast"] if method == "tangermeme" else [method]
        times = rows[rows["method"].isin(names)].sort_values("seconds")
        sides.append(times.drop_duplicates(JOB).sort_index().set_index(JOB))
    both = sides[0].index.intersection(sides[1].index, sort=False)
    return sides[0].loc[both], sides[1].loc[both]


def repeated_ratios(
    rows: pd.DataFrame, slow: str, fast: str, setting: str = "best"
) -> list[np.ndarray]:
    """For each job the ratio in every round of repeats, in which each method ran once."""
    a, b = _of_same_jobs(rows, slow, fast, setting)
    times = [
        [np.array(text.split(), float) for text in side["each"].astype(str)] for side in (a, b)
    ]
    return [s[: len(f)] / f[: len(s)] for s, f in zip(*times, strict=True)]


def beside_paper(rows: pd.DataFrame, paper: Mapping[str, float], table: int) -> pd.DataFrame:
    """Our Table 1 or 2 beside the paper's: seconds of ISM and of TISM of one task, and speed-ups.

    rows : of the networks of that table only
    paper : of `tism.study.records.paper_numbers`
    """
    column = {1: "n_sequences", 2: "length"}[table]
    ours = timed(rows, "paper").set_index([column, "method"])["seconds"].unstack()
    result = pd.DataFrame({"ISM, s": ours["ISM"], "TISM, s": ours["TISM, one task"]})
    result["speed-up"] = result["ISM, s"] / result["TISM, s"]
    for name in ("ISM", "TISM"):
        key = f"table{table}_{name.lower()}_"
        result[f"paper: {name}, s"] = [paper.get(f"{key}{n}", np.nan) for n in result.index]
    result["paper's"] = result["paper: ISM, s"] / result["paper: TISM, s"]
    result["ISM / windowed"] = ours["ISM"] / ours["windowed ISM"]
    result["windowed / TISM"] = ours["windowed ISM"] / ours["TISM, one task"]
    return result[[*FORMATS]].reset_index()


def checks(rows: pd.DataFrame) -> pd.DataFrame:
    """Largest difference of each method from what it must equal, over all jobs."""
    rows = rows.drop_duplicates([*JOB, "method"])
    errors = rows.groupby("method", sort=False)["error"].agg(["max", "size"])
    table = errors.reset_index().set_axis(["method", "largest difference", "jobs"], axis=1)
    equals = {"Yuzu": "norm of ISM over tasks", "captum, one task": "TISM"}
    table.insert(1, "compared with", [equals.get(name, "ISM") for name in table["method"]])
    return table[~table["method"].str.startswith("TISM")]


def costs(rows: pd.DataFrame) -> pd.DataFrame:
    """Forward-equivalents of a sequence, counted and measured, for the jobs of the baseline.

    The measured unit is what plain ISM takes, at its best batch size, for one of its 3 * length + 1
    forward passes.

    Returns one row per job and method: the job, method, counted, measured, low, high (quartiles).
    """
    rows = timed(rows)
    rows = rows[(rows["network"] == "baseline") & rows["method"].isin(OURS)]
    seconds_of_ism = rows[rows["method"] == "ISM"].set_index(JOB)["seconds"]
    table = []
    for row in rows.to_dict("records"):
        job = {name: row[name] for name in JOB}
        config = AITACConfig(**{name: row[name] for name in ("length", "n_tasks", "width", "pool")})
        n_tasks = 1 if row["method"] == "TISM, one task" else None
        counted = forward_equivalents(config, n_tasks)[row["method"].split(",")[0]]
        scale = (3 * row["length"] + 1) / seconds_of_ism[tuple(job.values())]
        measured = [row[name] * scale for name in ("seconds", "low", "high")]
        named = dict(zip(("measured", "low", "high"), measured, strict=True))
        table.append({**job, "method": row["method"], "counted": counted, **named})
    return pd.DataFrame(table)


def overheads(table: pd.DataFrame) -> dict[str, float]:
    """Measured over counted cost, medians over jobs: of "windowed ISM" and of a "backward" pass."""
    windowed = table[table["method"] == "windowed ISM"]
    tism = table[table["method"] == "TISM, all tasks"]
    return {
        "windowed ISM": float((windowed["measured"] / windowed["counted"]).median()),
        "backward": float(((tism["measured"] - 1) / (tism["counted"] - 1)).median()),
    }


def memory(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Peak memory in MB beyond what was held before, a row per job, a column per method."""
    rows = timed(rows)
    measured = set(rows["method"])
    rows = rows[rows["method"].isin(methods)].assign(megabytes=rows["bytes"] / 1e6)
    return _by_method(rows, "megabytes", [m for m in methods if m in measured])


def paper_networks(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the paper's networks: the baseline with the widest pooling at each length."""
    rows = rows[rows["network"] == "baseline"]
    return rows[rows["pool"] == rows.groupby("length")["pool"].transform("max")]


def figure_2(best: pd.DataFrame) -> list[tuple[str, str, str, pd.DataFrame]]:
    """Title, x, its label and rows of the four panels: both networks, by length and by number."""
    panels = []
    for network in ("shallow", "deep"):
        rows = best[best["network"] == network]
        fewest = rows["n_sequences"].min()
        length = rows.loc[rows["n_sequences"].idxmax(), "length"]
        by_length = rows[rows["n_sequences"] == fewest]
        by_number = rows[rows["length"] == length]
        panels.append((f"{network}, {fewest} sequences", "length", "length, bp", by_length))
        panels.append((f"{network}, {length:,} bp", "n_sequences", "sequences", by_number))
    return panels


def beside_authors(rows: pd.DataFrame, authors: pd.DataFrame) -> pd.DataFrame:
    """Speed-ups over plain ISM in the paper's Tables S1 to S4, beside those of the authors' files.

    rows : of `ch06_measure.measure`, of the shallow and the deep network
    authors : `data/authors_timings.csv`, seconds by device and by length or number of sequences

    Returns one row per network and length or number: speed-ups of Yuzu and of TISM of one task,
    ours and those on each of the authors' devices, NaN where one was not measured.
    """
    place = ["network", "varies", "value"]
    parts = []
    for method in ("Yuzu", "TISM"):
        known = authors.assign(ratio=authors["ISM"] / authors[method])
        wide = known.pivot(index=place, columns="device", values="ratio")
        ours = ratios(rows, "ISM", {"TISM": "TISM, one task"}.get(method, method))
        wide.insert(0, "here", [_of_job(ours, *row) for row in wide.index])
        parts.append(wide.add_prefix(f"{method}, "))
    table = pd.concat(parts, axis=1).reset_index()
    return table[table["TISM, here"].notna()]


def _of_job(ratios: pd.DataFrame, network: str, varies: str, value: int) -> float:
    """The ratio of one job, NaN without it.

    value : number of sequences of 1,000 bp if `varies` is "n_sequences", else length of the fewest
    """
    job = ratios["network"] == network
    if varies == "n_sequences":
        job &= (ratios["n_sequences"] == value) & (ratios["length"] == 1000)
    else:
        job &= (ratios["length"] == value) & (ratios["n_sequences"] == ratios["n_sequences"].min())
    return float(ratios.loc[job, "ratio"].iloc[0]) if job.any() else np.nan


def long_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `tism.study.long_sequences` with names for readers."""
    names = {
        "windowed": "windowed ISM (exact)",
        "tism": "TISM",
        "full": "plain ISM",
        "20.sum": "layer-wise TISM, behind the convolutions",
        "tower.5": "layer-wise TISM, behind the tower",
        "down.1": "layer-wise TISM, behind the first two halvings after it",
    }
    columns = {"times_as_fast_as_full": "times as fast as plain ISM", "r": "r with ISM"}
    return table.assign(method=table["method"].map(names)).rename(columns=columns)


def gpu_times() -> pd.DataFrame:
    """Times of `make gpu`, of this chapter's jobs; one row that says so where there are none."""
    path = data_root() / "results" / "gpu" / "runtime.csv"
    if not path.exists():
        return pd.DataFrame(
            {"times on a GPU": ["none yet: make gpu measures them where there is one"]}
        )
    parts = pd.read_csv(path).groupby("tf32")
    return pd.concat([times_table(rows).assign(TF32="on" if on else "off") for on, rows in parts])


def growth_of_yuzu(rows: pd.DataFrame, network: str) -> float:
    """The factor by which Yuzu's precomputation grows with a doubling of the length, or NaN."""
    table = yuzu_table(rows)
    table = table[table["network"] == network]
    if len(table) < 2:
        return float("nan")
    longer, times = np.log2(table["length"]), np.log2(table["once, s"])
    return float(2 ** ((times.iloc[-1] - times.iloc[0]) / (longer.iloc[-1] - longer.iloc[0])))


def yuzu_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Yuzu's precomputation, time of a sequence and difference from ISM, a row per network."""
    rows = timed(rows)
    rows = rows[rows["method"] == "Yuzu"].drop_duplicates(["network", "length"])
    rows = rows.assign(seconds=rows["seconds"] / rows["n_sequences"])
    columns = {
        "network": "network",
        "length": "length",
        "preparation": "once, s",
        "seconds": "per sequence, s",
        "error": "largest difference",
    }
    return rows[[*columns]].rename(columns=columns)


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """Time of plain ISM, and of the faster way of tangermeme, over that of windowed ISM."""
    parts = []
    for slow in ("ISM", "tangermeme"):
        if rows["method"].str.startswith(slow).any():
            table = ratios(rows, slow, "windowed ISM")
            parts.append(table.assign(comparison=f"{slow} / windowed ISM"))
    table = pd.concat(parts, ignore_index=True)
    return table[["comparison", *JOB, "ratio", "low", "high", "extrapolated"]]


def sweeps(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Title and tried batch sizes of two jobs: the shortest, and the one with most sequences."""
    rows = rows[(rows["setting"] == "sweep") & (rows["network"] == "baseline")]
    panels = []
    for number in (rows["length"].idxmin(), rows["n_sequences"].idxmax()):
        job = rows.loc[number, JOB]
        part = rows[(rows[JOB] == job).all(axis=1)]
        panels.append((f"{job['length']:,} bp, {job['n_sequences']:,} sequences", part))
    return panels


def settings_of(rows: pd.DataFrame) -> dict[str, int]:
    """Length, pool, width and n_tasks of the first job: arguments of `AITACConfig`."""
    return {name: int(rows[name].iloc[0]) for name in ("length", "pool", "width", "n_tasks")}


HEADLINES = {
    "plain_one": "plain ISM / TISM, one task",
    "windowed_one": "windowed ISM / TISM, one task",
    "plain_all": "plain ISM / TISM, all tasks",
    "windowed_all": "windowed ISM / TISM, all tasks",
}


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """The paper's speed-up by length: of TISM over plain and windowed ISM, for one and all tasks.

    rows : of one network; at each length the job with most sequences counts
    """
    most = rows.groupby("length")["n_sequences"].transform("max")
    rows, parts = rows[rows["n_sequences"] == most], []
    for name in HEADLINES.values():
        slow, fast = name.split(" / ")
        parts.append(ratios(rows, slow.removeprefix("plain "), fast).assign(comparison=name))
    table = pd.concat(parts, ignore_index=True)
    return table.sort_values(["comparison", "length"], ignore_index=True)
