"""Sphinx extension: numbers and tables of the committed record as `{{ name }}` in a page.

They are read from data/results at every build, so that a page that uses them is as old as the
record and says nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from tism.study.records import RECORDED_PROFILE

KINDS = {
    "yeast": "yeast, GELU",
    "gelu": "simulated, GELU",
    "relu_max": "simulated, ReLU and maximum pooling",
}
NETWORKS = {
    "calderon": "Calderon CNN",
    "deepstarr": "DeepSTARR",
    "mpra_dragonn": "MPRA-DragoNN",
}
MILLISECOND = 1e-3  # for a forward pass, in the table of times: an example, not a measurement
UNITS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


class Record:
    """The tables of a recorded run.

    data : the folder data/ of the repository
    """

    def __init__(self, data: Path):
        self.data = data

    def table(self, name: str) -> pd.DataFrame:
        """A table of data/results/external by "external/<name>", else of the recorded profile."""
        folder = "" if "/" in name else RECORDED_PROFILE
        return pd.read_csv(self.data / "results" / folder / f"{name}.csv")

    @property
    def one_task(self) -> pd.DataFrame:
        """Estimators of one task at the length of the data sets."""
        table = self.table("estimators")
        return table[(table["n_tasks"] == 1) & table["network"].isin(KINDS)]

    def costs(self) -> pd.DataFrame:
        """Costs in forward passes by length, of the baseline with its narrowest pooling."""
        table = self.table("runtime_costs").query("network == 'baseline'")
        table = table[table["pool"] == table["pool"].min()]
        return table.sort_values("n_sequences").drop_duplicates(["length", "method"])


def span(values: Iterable[float], form: str = "{:.2f}") -> str:
    """ "low to high", or one number where they print alike."""
    values = list(values)
    ends = [form.format(min(values)), form.format(max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def interval(row: Any, value: str) -> str:
    """ "value (low to high)"."""
    return f"{row[value]:.2f} ({row['low']:.2f} to {row['high']:.2f})".replace(
        " to ", "\u00a0to\u00a0"
    )


def duration(seconds: float) -> str:
    """Seconds in the largest unit of which there is at least one."""
    for unit, size in UNITS.items():
        if seconds >= size:
            return f"{_few_digits(seconds / size)} {unit}"
    return f"{seconds:.1g} seconds"


def _few_digits(value: float) -> str:
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown; all but the first column are set flush right."""
    rule = [":--"] + ["--:"] * (table.shape[1] - 1)
    rows = [list(table.columns), rule, *table.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def numbers(record: Record) -> dict[str, str]:
    """Everything that a page may insert, by name."""
    return {
        **agreement(record),
        **prices(record),
        **trust(record),
        **elsewhere(record),
        "price_table": price_table(record),
        "length_table": length_table(record),
        "time_table": time_table(record),
        "elsewhere_table": elsewhere_table(record),
        "faults_table": faults_table(record),
        "errors_table": errors_table(record),
    }


def agreement(record: Record) -> dict[str, str]:
    """How near the estimates come to ISM, by chapters 4 and 7."""
    means = record.table("concordance").query("method == 'TISM' and convention == 'all entries'")
    means = means[means["statistic"] == "mean"].set_index("dataset")
    found = {f"tism_{name}": interval(row, "value") for name, row in means.iterrows()}
    one = record.one_task
    found["tism_kinds"] = span(one.loc[one["estimator"] == "TISM", "mean_r"])
    fifty = one[one["budget"] == 50].groupby("estimator")
    windows, box = fifty.get_group("budgeted"), fifty.get_group("budgeted, black box")
    found["budgeted_50"] = span(windows["mean_r"])
    found["budgeted_50_inferred"] = span(windows["r_not_exact"])
    found["budgeted_50_recall"] = span(windows["recall20"], "{:.0%}")
    found["black_box_50"] = span(box["mean_r"])
    deep = one[one["estimator"].str.startswith("layer-wise")]
    found["layerwise"] = span(deep["mean_r"])
    found["layerwise_cost"] = span(deep["cost_measured"], "{:.0f}")
    bases = record.table("planted_bases").set_index("method")["value"]
    motifs = record.table("motif_recovery")
    return found | {
        "planted_ism": f"{bases['ISM']:.3f}",
        "planted_tism": f"{bases['TISM']:.3f}",
        "motifs": str(len(motifs)),
        "motifs_ism": str((motifs["ISM sites"] > 0).sum()),
        "motifs_tism": str((motifs["TISM sites"] > 0).sum()),
    }


def prices(record: Record) -> dict[str, str]:
    """What the scores cost, by chapters 6 and 7."""
    costs = record.costs()
    measured = {name: rows["measured"] for name, rows in costs.groupby("method")}
    ratios = record.table("runtime_headline").set_index("comparison")["ratio"]
    one, every = record.one_task, record.table("estimators").query("n_tasks > 1")
    shared = {
        n: rows.set_index("estimator")["cost_measured"] for n, rows in every.groupby("n_tasks")
    }
    exact = one.loc[one["estimator"] == "ISM", "cost_measured"]
    return {
        "windowed_cost": span(measured["windowed ISM"], "{:.0f}"),
        "windowed_most": f"{max(measured['windowed ISM'].max(), exact.max()):.0f}",
        "tism_cost": span(measured["TISM, one task"], "{:.1f}"),
        "tism_cost_narrow": span(one.loc[one["estimator"] == "TISM", "cost_measured"], "{:.1f}"),
        "windowed_over_tism_one": span(ratios["windowed ISM / TISM, one task"], "{:.0f}"),
        "windowed_over_tism_all": span(ratios["windowed ISM / TISM, all tasks"], "{:.1f}"),
        "all_tasks_share": span(1 / ratios["windowed ISM / TISM, all tasks"], "{:.0%}"),
        "plain_over_tism_one": span(ratios["plain ISM / TISM, one task"], "{:,.0f}"),
        "all_tasks": str(_tasks(costs)),
        "many_tasks": " and ".join(map(str, shared)),
        "many_tasks_share": " and ".join(f"{c['TISM'] / c['ISM']:.0%}" for c in shared.values()),
    }


def _tasks(costs: pd.DataFrame) -> int:
    """Tasks of the timed network: TISM of all of them is counted as 1 + tasks passes."""
    return int(costs.loc[costs["method"] == "TISM, all tasks", "counted"].iloc[0]) - 1


def trust(record: Record) -> dict[str, str]:
    """What `tism.reliability` is worth, by chapter 7, and verdicts of chapter 10."""
    table = record.table("reliability")
    row = table[(table["network"] == "all") & (table["m"] == table["m"].median())].iloc[0]
    card = record.table("scorecard").set_index(["claim_id", "dataset"])
    return {
        "reliability_m": f"{row['m']:.0f}",
        "reliability_mae": f"{row['mae']:.2f}",
        "reliability_constant": f"{row['mae_constant']:.2f}",
        "reliability_width": f"{row['width']:.2f}",
        "reliability_coverage": f"{row['coverage90']:.0%}",
        "reliability_interval": f"{row['coverage_low']:.0%} to {row['coverage_high']:.0%}",
        "reliability_n": f"{row['n_profiles']:,.0f}",
        "good": f"{card.loc[('fig1a_high', RECORDED_PROFILE), 'at_least']:.1f}",
        "quicker_verdict": card.loc[("title_quick", "random sequences"), "verdict"],
        "relu_verdict": card.loc[("fig3d_relu", RECORDED_PROFILE), "verdict"],
        "seeds_ism": interval(card.loc[("fig3a_ism", RECORDED_PROFILE)], "value"),
    }


def elsewhere(record: Record) -> dict[str, str]:
    """The networks of other labs, by chapter 8."""
    table = record.table("external/concordance")
    rows = table.query("method == 'TISM' and convention == 'all entries'")
    measured = _measured(record)
    return {
        "elsewhere_r": span(rows["mean_r"]),
        "elsewhere_measured_ism": span(measured.xs("ISM", level="method")["mean"]),
        "elsewhere_measured_tism": span(measured.xs("TISM", level="method")["mean"]),
        "elsewhere_elements": str(measured["n_elements"].max()),
    }


def _measured(record: Record) -> pd.DataFrame:
    """Correlations with the measured effects over all elements, by network and method."""
    table = record.table("external/mpra_summary")
    table = table.query("match == 'any' and statistic == 'pearson'")
    return table.set_index(["model", "method"])


def price_table(record: Record) -> str:
    """Score, passes for one task, agreement by kind of network."""
    one = record.one_task.fillna({"budget": 0})
    rows = []
    for label, estimator, budget in _choices(one):
        own = one[(one["estimator"] == estimator) & (one["budget"] == budget)].set_index("network")
        exact = (own["mean_r"] == 1).all()
        agreement = {
            f"{title} ({_networks(own.loc[kind, 'n_networks'])})": "1"
            if exact
            else interval(own.loc[kind], "mean_r")
            for kind, title in KINDS.items()
        }
        cost = span(own["cost_measured"], "{:.0f}")
        rows.append({"score of one task": label, "passes a sequence": cost, **agreement})
    return markdown(pd.DataFrame(rows))


def _networks(count: float) -> str:
    return "1 network" if count == 1 else f"{count:.0f} networks"


def _choices(one: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Rows of the table of prices: label, then estimator and budget in the recorded table."""
    layers = [name for name in one["estimator"].unique() if name.startswith("layer-wise")]
    return [
        ("TISM", "TISM", 0),
        *((f"budgeted ISM, budget {budget}", "budgeted", budget) for budget in (25, 50, 100)),
        ("budgeted ISM of a black box, budget 50", "budgeted, black box", 50),
        *((f"layer-wise TISM at `{name.split(', ')[1]}`", name, 0) for name in layers),
        ("exact ISM, by windows", "ISM", 0),
    ]


def length_table(record: Record) -> str:
    """Passes a sequence by length: plain and windowed ISM, TISM of one task and of all."""
    costs = record.costs()
    names = {"ISM": "plain ISM", "windowed ISM": "exact ISM, by windows"}
    names |= {"TISM, one task": "TISM, one task", "TISM, all tasks": f"TISM, {_tasks(costs)} tasks"}
    table = costs.pivot(index="length", columns="method", values="measured")[list(names)]
    table = table.map(_few_digits).rename(columns=names)
    table.insert(0, "length (bp)", [f"{length:,}" for length in table.index])
    return markdown(table)


def time_table(record: Record) -> str:
    """How long some numbers of sequences take where a forward pass takes a millisecond."""
    costs, one = record.costs(), record.one_task
    tasks = _tasks(costs)
    shortest = costs[costs["length"] == costs["length"].min()].set_index("method")["measured"]
    fifty = one[(one["estimator"] == "budgeted") & (one["budget"] == 50)]["cost_measured"].max()
    passes = {
        "TISM, one task": shortest["TISM, one task"],
        "budgeted ISM, 50 passes": fifty,
        f"TISM, {tasks} tasks": shortest["TISM, all tasks"],
        "exact ISM, by windows, any tasks": shortest["windowed ISM"],
        "plain ISM, any tasks": shortest["ISM"],
    }
    table = pd.DataFrame({"score": passes.keys(), "passes": map(_few_digits, passes.values())})
    for n in (100, 10_000, 1_000_000):
        table[f"{n:,} sequences"] = [duration(n * p * MILLISECOND) for p in passes.values()]
    return markdown(table)


def elsewhere_table(record: Record) -> str:
    """Networks of other labs: estimates against ISM, ISM and TISM against the measurement."""
    measured = _measured(record)
    concordance = record.table("external/concordance")
    everywhere = concordance.query("method == 'TISM' and convention == 'all entries'")
    between = record.table("external/mpra_methods").query("first == 'ISM'")
    between = between.set_index(["model", "second"])["mean_r"]
    rows = [
        {
            "network": NETWORKS[row["model"]],
            "TISM": interval(row, "mean_r"),
            "budgeted, 50": f"{between[row['model'], 'budgeted ISM']:.2f}",
            "layer-wise": f"{between[row['model'], 'layer-wise TISM']:.2f}",
            "ISM and experiment": interval(measured.loc[row["model"], "ISM"], "mean"),
            "TISM and experiment": interval(measured.loc[row["model"], "TISM"], "mean"),
        }
        for _, row in everywhere.iterrows()
    ]
    return markdown(pd.DataFrame(rows))


def faults_table(record: Record) -> str:
    """Kinds of faults: how many were made, and what came of them."""
    table = pd.read_csv(record.data / "results" / "faults.csv")
    sums = table.groupby("fault", sort=False).sum(numeric_only=True)
    sums.loc["all"] = sums.sum()
    sums.insert(0, "where", table.groupby("fault")["where"].nunique().reindex(sums.index))
    sums["where"] = sums["where"].fillna(table["where"].nunique()).astype(int)
    return markdown(sums.rename(columns=lambda name: name.replace("_", "-")).reset_index())


def errors_table(record: Record) -> str:
    """What the user of a piece of work sees of a fault; a small disk says what a full one does."""
    table = pd.read_csv(record.data / "results" / "faults.csv")
    alike = table["fault"].eq("small disk") | table["says"].str.startswith("nothing")
    table = table[~alike]
    said = table["says"].map(lambda text: text.replace("|", "\\|").replace("`", "'"))
    rows = zip(table["fault"], table["where"], said, strict=True)
    lines = ["| fault | what its user sees |", "| :-- | :-- |"]
    return "\n".join(lines + [f"| {fault}: {where} | `{text}` |" for fault, where, text in rows])


def substitute(app: Any, config: Any) -> None:
    """Handler of Sphinx's event: give MyST the numbers under their names."""
    config.myst_substitutions = {
        **(config.myst_substitutions or {}),
        **numbers(Record(Path(app.srcdir) / "data")),
    }


def setup(app: Any) -> dict[str, bool]:
    """Entry point of Sphinx."""
    app.connect("config-inited", substitute)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
