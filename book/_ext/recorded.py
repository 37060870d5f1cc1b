"""Numbers and tables of the committed record that a page may insert, read from data/results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from tism.study.ch06_tables import long_table
from tism.study.ch08_attribution import N_EXACT
from tism.study.ch08_networks import TITLES
from tism.study.records import RECORDED_PROFILE

KINDS = {  # of networks, by their name in the tables
    "yeast, baseline": "yeast, GELU",
    "simulated, baseline": "simulated, GELU",
    "simulated, ReLU and max pooling": "simulated, ReLU and max pooling",
}
M, M_IN_FULL = 150, 45  # substitutions of budgeted ISM that pages tell: by windows, in full
SECONDS_A_PASS = 1e-3  # an example for the table of times, not a measurement
UNITS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


class Record:
    """The tables of a recorded run.

    data : the folder data/ of the repository
    """

    def __init__(self, data: Path):
        self.data = data

    def table(self, name: str) -> pd.DataFrame:
        """A table of the recorded profile; "external/<name>" is in data/results/external."""
        folder = "" if "/" in name else RECORDED_PROFILE
        return pd.read_csv(self.data / "results" / folder / f"{name}.csv")

    @property
    def one_task(self) -> pd.DataFrame:
        """Accuracy and cost of the estimators for one task, at the length of the data sets."""
        table = self.table("estimators")
        return table[(table["n_tasks"] == 1) & table["network"].isin(KINDS)]

    @property
    def costs(self) -> pd.DataFrame:
        """Measured passes a sequence, a row a length and a column a method.

        The network is the baseline with its narrowest pooling, on the most sequences.
        """
        table = self.table("runtime_costs").query("network == 'baseline' and pool == pool.min()")
        table = table.sort_values("n_sequences").drop_duplicates(["length", "method"], keep="last")
        return table.pivot(index="length", columns="method", values="measured")

    @property
    def windowed_costs(self) -> pd.Series:
        """Measured passes a sequence of exact ISM by windows, in every job of chapters 6 and 7."""
        table = self.table("runtime").query("setting == 'best'")
        job = ["network", "pool", "length", "n_sequences"]
        seconds = table.pivot(index=job, columns="method", values="seconds")
        passes = 3 * seconds.index.get_level_values("length") + 1
        estimators = self.table("estimators").query("estimator == 'ISM'")
        return pd.concat([passes * seconds["windowed ISM"] / seconds["ISM"], estimators["cost"]])

    @property
    def n_tasks(self) -> int:
        """Tasks of the timed network, whose gradients are counted as 1 + tasks passes."""
        counted = self.table("runtime_costs").set_index("method")["counted"]
        return int(counted["TISM, all tasks"].iloc[0]) - 1

    @property
    def concordance(self) -> pd.DataFrame:
        """Mean r of TISM with ISM in the paper's convention, one row per network of another lab."""
        table = self.table("external/concordance")
        return table.query("method == 'TISM' and convention == 'all entries'")

    def measured_effects(self, statistic: str = "pearson") -> pd.DataFrame:
        """Correlations with the measured effects over all elements, by network and method."""
        table = self.table("external/mpra_summary")
        table = table[(table["match"] == "any") & (table["statistic"] == statistic)]
        return table.set_index(["model", "method"])

    def with_ism(self) -> pd.DataFrame:
        """Mean r of each method with ISM over the measured elements, by network."""
        table = self.table("external/mpra_methods").query("first == 'ISM'")
        return table.pivot(index="model", columns="second", values="mean_r")


def span(values: Iterable[float], form: str = "{:.2f}") -> str:
    """The smallest and the largest value as "low to high", or one number if both print alike."""
    values = list(values)
    ends = [form.format(min(values)), form.format(max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def listed(names: Iterable[str]) -> str:
    """Names as "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}"


def interval(row: Any, value: str) -> str:
    """A value and its interval as "value (low to high)", without a line break inside."""
    ends = f"({row['low']:.2f}\u00a0to\u00a0{row['high']:.2f})"
    return f"{row[value]:.2f} {ends}"


def duration(seconds: float) -> str:
    """Seconds in the largest unit that gives at least 1."""
    for unit, size in UNITS.items():
        if seconds >= size:
            return f"{two_digits(seconds / size)} {unit}"
    return f"{seconds:.1g} seconds"


def two_digits(value: float) -> str:
    """A number with one decimal below 10, else rounded."""
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def markdown(table: pd.DataFrame, texts: int = 1) -> str:
    """A table in Markdown; all columns but the first `texts` are aligned right."""
    rule = [":--"] * texts + ["--:"] * (table.shape[1] - texts)
    rows = [list(table.columns), rule, *table.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def numbers(record: Record) -> dict[str, str]:
    """Everything that a page may insert, by name."""
    return {
        **agreement(record),
        **prices(record),
        **trust(record),
        **elsewhere(record),
        **elements(record),
        **low_precision(record),
        "price_table": price_table(record),
        "length_table": length_table(record),
        "time_table": time_table(record),
        "elsewhere_table": elsewhere_table(record),
        "long_table": long_sequences_table(record),
        "faults_table": faults_table(record),
        "errors_table": errors_table(record),
    }


def agreement(record: Record) -> dict[str, str]:
    """How near the estimates come to ISM, by chapters 4, 7 and 9."""
    means = record.table("figure_1").query("measure == 'mean'")
    trained = record.table("evidence/models").query("reading == 'best'")
    calibration = record.table("anatomy_calibration").query("by == 'exact' and share_below == 1")
    one_task = record.one_task
    first_order = one_task[one_task["estimator"] == "TISM"]
    windows = one_task[one_task["estimator"].eq("budgeted") & one_task["m"].eq(M)]
    in_full = one_task["estimator"].eq("budgeted, black box")
    black_box = one_task[in_full & one_task["m"].eq(M_IN_FULL)]
    layers = one_task[one_task["estimator"].str.startswith("layer-wise")]
    bases = record.table("planted_bases").set_index("method")["value"]
    motifs = record.table("motif_sharing")
    planted = motifs[motifs["dataset"] == "simulated"].sum(numeric_only=True)
    return {
        **{f"tism_{row['dataset']}": interval(row, "value") for _, row in means.iterrows()},
        "tism_kinds": span(first_order["mean_r"]),
        "tism_networks": span(trained["tism_all"]),
        "tism_wrong": span(calibration["wrong_sign"], "{:.0%}"),
        "tism_recall": span(first_order["recall20"], "{:.0%}"),
        "budgeted_m": str(M),
        "budgeted_cost": span(windows["cost"], "{:.0f}"),
        "budgeted_r": span(windows["mean_r"]),
        "budgeted_inferred": span(windows["r_not_exact"]),
        "budgeted_recall": span(windows["recall20"], "{:.0%}"),
        "black_box_m": str(M_IN_FULL),
        "black_box_cost": span(black_box["cost"], "{:.0f}"),
        "black_box_r": span(black_box["mean_r"]),
        "layerwise": span(layers["mean_r"]),
        "layerwise_cost": span(layers["cost"], "{:.0f}"),
        "planted_ism": f"{bases['ISM']:.3f}",
        "planted_tism": f"{bases['TISM']:.3f}",
        "motifs": f"{planted['expected']:.0f}",
        "motifs_ism": f"{planted['ISM found']:.0f}",
        "motifs_tism": f"{planted['TISM found']:.0f}",
        "boxes_by_tism": span(motifs["ISM in TISM"] / motifs["ISM"], "{:.0%}"),
        "boxes_by_ism": span(motifs["TISM in ISM"] / motifs["TISM"], "{:.0%}"),
    }


def prices(record: Record) -> dict[str, str]:
    """What the scores cost, by chapters 6 and 7."""
    wide = record.costs
    ratios = record.table("runtime_headline").set_index("comparison")["ratio"]
    narrow = record.one_task.set_index("estimator")["cost"]
    many_tasks = record.table("estimators").query("n_tasks > 1 and estimator in ['ISM', 'TISM']")
    many = many_tasks.pivot(index="n_tasks", columns="estimator", values="cost")
    return {
        "windowed_cost": span(record.windowed_costs, "{:.0f}"),
        "windowed_most": f"{record.windowed_costs.max():.0f}",
        "tism_cost": span(wide["TISM, one task"], "{:.1f}"),
        "tism_cost_narrow": span(narrow["TISM"], "{:.1f}"),
        "windowed_over_tism_one": span(ratios["windowed ISM / TISM, one task"], "{:.0f}"),
        "windowed_over_tism_all": span(ratios["windowed ISM / TISM, all tasks"], "{:.1f}"),
        "all_tasks_share": span(1 / ratios["windowed ISM / TISM, all tasks"], "{:.0%}"),
        "plain_over_tism_one": span(ratios["plain ISM / TISM, one task"], "{:,.0f}"),
        "all_tasks": str(record.n_tasks),
        "many_tasks": " and ".join(map(str, many.index)),
        "many_tasks_share": " and ".join(f"{share:.0%}" for share in many["TISM"] / many["ISM"]),
    }


def trust(record: Record) -> dict[str, str]:
    """How well `tism.reliability` judges a profile, by chapter 7, and verdicts of chapter 10."""
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
        "relu_verdict": card.loc[("fig3d_relu", "simulated"), "verdict"],
        "seeds_ism": interval(card.loc[("fig3a_ism", RECORDED_PROFILE)], "value"),
    }


def elsewhere(record: Record) -> dict[str, str]:
    """The networks of other labs, by chapter 8."""
    measured = record.measured_effects()
    ranked = record.measured_effects("spearman")
    seen = ["all", "xpresso, 4,000 bp"]  # the method was corrected by the second
    told = record.table("external/reliability").set_index("model").drop(index=seen)
    motifs = record.table("external/mpra_motifs").groupby(["model", "method"])["recovered"].sum()
    signals = record.table("external/signals")
    with_ism = record.with_ism()
    estimates = with_ism[["budgeted ISM", "layer-wise TISM"]].sub(with_ism["TISM"], axis=0)
    return {
        "signals": str(len(signals)),
        "signals_less": str((signals["r_log_odds"] < signals["r_proportion"]).sum()),
        **{
            f"motifs_{model}_{method.lower()}": str(motifs[model, method])
            for model in ("calderon", "deepstarr")
            for method in ("ISM", "TISM")
        },
        "elsewhere_r": span(record.concordance["mean_r"]),
        "elsewhere_coverage": span(told["coverage90"], "{:.0%}"),
        "elsewhere_wrong": f"{told['wrong'].max():.0%}",
        "elsewhere_unclear": span(told["unclear"], "{:.0%}"),
        "elsewhere_measured_ism": span(measured.xs("ISM", level="method")["mean"]),
        "elsewhere_measured_tism": span(measured.xs("TISM", level="method")["mean"]),
        "elsewhere_rank_ism": span(ranked.xs("ISM", level="method")["mean"]),
        "elsewhere_rank_tism": span(ranked.xs("TISM", level="method")["mean"]),
        "elsewhere_elements": str(measured["n_elements"].max()),
        "elsewhere_m": str(N_EXACT),
        "elsewhere_gain": span(estimates.to_numpy().flat),
    }


def elements(record: Record) -> dict[str, str]:
    """The measured elements on which MPRA-DragoNN fares worst, by chapter 8."""
    r = record.table("external/mpra").query("model == 'mpra_dragonn'")
    r = r.pivot(index="element", columns="method", values="pearson")
    significant = record.table("external/mpra_loci").set_index("element")["n_significant"]
    hardest, lowest = (r[method].nsmallest(3).index for method in ("ISM", "TISM"))
    return {
        "elements_hardest": listed(hardest),
        "elements_hardest_ism": span(r.loc[hardest, "ISM"]),
        "elements_hardest_significant": span(significant[hardest], "{:.0f}"),
        "elements_lowest": listed(lowest),
        "elements_lowest_tism": span(r.loc[lowest, "TISM"]),
        "elements_lost": listed((r["ISM"] - r["TISM"]).nlargest(3).index),
    }


def price_table(record: Record) -> str:
    """Scores of one task: measured passes, and agreement with ISM by kind of network."""
    one_task = record.one_task.fillna({"m": 0})
    layers = [name for name in one_task["estimator"].unique() if name.startswith("layer-wise")]
    one_task = one_task.set_index(["estimator", "m"])
    labels = {
        ("TISM", 0): "TISM",
        **{("budgeted", m): f"budgeted ISM, m = {m}" for m in (M // 3, M, 2 * M)},
        ("budgeted, black box", M_IN_FULL): f"budgeted ISM of a black box, m = {M_IN_FULL}",
        **{(n, 0): f"layer-wise TISM at `{n.removeprefix('layer-wise, ')}`" for n in layers},
        ("ISM", 0): "exact ISM, by windows",
    }
    rows = []
    for choice, label in labels.items():
        by_kind = one_task.loc[[choice]].set_index("network")
        row = {"score of one task": label}
        row["passes per sequence"] = span(by_kind["cost"], "{:.0f}")
        for kind, title in KINDS.items():
            n = by_kind.loc[kind, "n_networks"]
            heading = f"{title} ({n:.0f} {'network' if n == 1 else 'networks'})"
            row[heading] = "1" if choice[0] == "ISM" else interval(by_kind.loc[kind], "mean_r")
        rows.append(row)
    return markdown(pd.DataFrame(rows))


def length_table(record: Record) -> str:
    """Passes a sequence by length: plain and windowed ISM, TISM of one task and of all."""
    names = {"ISM": "plain ISM", "windowed ISM": "exact ISM, by windows"}
    names |= {
        "TISM, one task": "TISM, one task",
        "TISM, all tasks": f"TISM, {record.n_tasks} tasks",
    }
    table = record.costs[list(names)].map(two_digits).rename(columns=names)
    table.insert(0, "length (bp)", [f"{length:,}" for length in table.index])
    return markdown(table)


def time_table(record: Record) -> str:
    """How long some numbers of sequences take where a forward pass takes a millisecond."""
    costs, one_task = record.costs, record.one_task
    shortest = costs.loc[costs.index.min()]
    budgeted = one_task[one_task["estimator"].eq("budgeted") & one_task["m"].eq(M)]
    passes = {
        "TISM, one task": shortest["TISM, one task"],
        f"budgeted ISM, m = {M}": budgeted["cost"].max(),
        f"TISM, {record.n_tasks} tasks": shortest["TISM, all tasks"],
        "exact ISM, by windows, any tasks": shortest["windowed ISM"],
        "plain ISM, any tasks": shortest["ISM"],
    }
    table = pd.DataFrame({"score": passes.keys(), "passes": map(two_digits, passes.values())})
    for n in (100, 10_000, 1_000_000):
        table[f"{n:,} sequences"] = [duration(n * p * SECONDS_A_PASS) for p in passes.values()]
    return markdown(table)


def elsewhere_table(record: Record) -> str:
    """Networks of other labs: estimates against ISM, and ISM and TISM against the measurement."""
    measured = record.measured_effects()
    concordance = record.concordance
    concordance = concordance[concordance["model"].isin(measured.index.unique("model"))]
    with_ism = record.with_ism()
    rows = [
        {
            "network": TITLES[row["model"]],
            "TISM": interval(row, "mean_r"),
            f"budgeted, m = {N_EXACT}": f"{with_ism.loc[row['model'], 'budgeted ISM']:.2f}",
            "layer-wise": f"{with_ism.loc[row['model'], 'layer-wise TISM']:.2f}",
            "ISM and experiment": interval(measured.loc[row["model"], "ISM"], "mean"),
            "TISM and experiment": interval(measured.loc[row["model"], "TISM"], "mean"),
        }
        for _, row in concordance.iterrows()
    ]
    return markdown(pd.DataFrame(rows))


def long_sequences_table(record: Record) -> str:
    """Cost and r of the scores of 1,000 positions of 100 kb, for two networks with attention."""
    table = long_table(pd.read_csv(record.data / "results" / "long_sequences.csv"))
    columns = {
        "network": table["network"],
        "score": table["method"],
        "time, one processor": table["seconds"].map(duration),
        "times as fast as plain ISM": table["times as fast as plain ISM"].map(two_digits),
        "peak memory, GiB": table["GiB"].map("{:.1f}".format),
        "r with ISM": table["r with ISM"].fillna(1).map("{:.2f}".format),
    }
    return markdown(pd.DataFrame(columns), texts=2)


def low_precision(record: Record) -> dict[str, str]:
    """Scores in low precision against those in single precision, over networks and scores."""
    table = pd.read_csv(record.data / "results" / "precision.csv")
    inserted = {"precision_networks": str(table["network"].nunique())}
    for name, rows in table.groupby("precision"):
        inserted[f"{name}_error"] = span(rows["error"], "{:.1%}")
        inserted[f"{name}_worst"] = f"{rows['worst'].max():.0%}"
        inserted[f"{name}_r"] = span(rows["mean_r"], "{:.3f}")
    return inserted


def read_faults(record: Record) -> pd.DataFrame:
    """The table that `make faults` writes, a row for every fault and piece of work."""
    return pd.read_csv(record.data / "results" / "faults.csv")


def faults_table(record: Record) -> str:
    """Kinds of faults: in how many pieces of work, how often, and what came of them."""
    table = read_faults(record)
    by_fault = table.groupby("fault", sort=False)
    sums = by_fault.sum(numeric_only=True)
    sums.loc["all"] = sums.sum()
    works = [*by_fault["where"].nunique(), table["where"].nunique()]
    sums.insert(0, "where", works)
    return markdown(sums.rename(columns=lambda name: name.replace("_", "-")).reset_index())


def errors_table(record: Record) -> str:
    """What a user is told of each fault."""
    table = read_faults(record)
    table = table[~table["says"].str.startswith("nothing")]
    cells = pd.DataFrame(
        {
            "fault": table["fault"] + ": " + table["where"],
            "what its user sees": "`"
            + table["says"].str.replace("|", "\\|").str.replace("`", "'")
            + "`",
        }
    )
    return markdown(cells, texts=2)
