"""Every claim of the paper with a verdict, computed from the tables of a profile.

data/claims.csv has the claims: what is stated where, the paper's number if it has one (an id of
data/paper_numbers.csv), and the rule, which no run changes: the range `at_least` to `at_most` in
which what `MEASURES` computes has to lie. With its 95 % interval it

- holds, where the whole interval lies in the range;
- does not hold, where the interval has no point in common with it;
- is undecided, where it has some, or where there is no interval;
- was not measured, where the tables do not have it.

Intervals are over networks (t, Holm, jackknife; see `tism.study.statistics`), over loci where there
is one network only, and quartiles of repeats for run times.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from tism.model import VARIANTS
from tism.study.ch05_runs import of_experiment, read_table
from tism.study.ch06_tables import paper_networks, ratios
from tism.study.ch08_networks import TITLES
from tism.study.plots import with_intervals
from tism.study.profiles import Profile, repository
from tism.study.records import INITIALISATIONS, MODELS, paper_numbers
from tism.study.statistics import Estimate, bounds_of_lowest, compare_with, jackknife_pairs, mean_of

VERDICTS = ("holds", "does not hold", "undecided", "not measured")
_UNTRAINED = "random sequences"
EXTERNAL_MODELS = ("calderon", "deepstarr", "mpra_dragonn", "xpresso", "aparent2")
_OWN, _BETWEEN = "ISM-TISM, one network", "ISM-ISM"


class NotMeasured(LookupError):
    """The tables at hand do not say."""


@dataclass(frozen=True)
class Evidence:
    """The tables of a profile, seen from one data set."""

    profile: str
    dataset: str

    def rows(self, file: str, **wanted: Any) -> pd.DataFrame:
        """Rows of a table with these values, of this data set where the table has several."""
        try:
            table = read_table(self.profile, file)
        except FileNotFoundError:
            raise NotMeasured(file) from None
        if "dataset" in table:
            wanted["dataset"] = self.dataset
        for column, value in wanted.items():
            table = table[table[column] == value]
        if table.empty:
            raise NotMeasured(f"{file}: {wanted}")
        return table

    def networks(self, experiment: str, measure: str, **wanted: Any) -> pd.Series:
        """A measure of models.csv, by seed."""
        rows = of_experiment(self.rows(MODELS), experiment)
        for column, value in {"control": "", **wanted}.items():
            rows = rows[rows[column] == value]
        if rows.empty:
            raise NotMeasured(f"{experiment}: {wanted}")
        return rows.set_index("seed")[measure]


Measure = Callable[[Evidence], Estimate]


def _estimate_of(row: pd.Series, columns: str = "value low high n") -> Estimate:
    *interval, n = row[columns.split()]
    return Estimate(*interval, n=int(n))


def _row(file: str, columns: str, **wanted: Any) -> Measure:
    """Columns of the first row of a table with these values."""
    return lambda evidence: _estimate_of(evidence.rows(file, **wanted).iloc[0], columns)


def _baselines(measure: str, less: str | None = None) -> Measure:
    """A measure of models.csv, or how much higher it is than another, over all initialisations."""

    def evaluate(evidence: Evidence) -> Estimate:
        rows = evidence.rows(MODELS, variant="baseline", control="", fraction=1, reading="best")
        return mean_of(rows[measure] - (rows[less] if less else 0))

    return evaluate


_figure_1 = partial(_row, "figure_1.csv", "value low high n")


def _pairs(evidence: Evidence, relation: str) -> dict[tuple[str, str], float]:
    """r of every pair of seeds; where a network has a value of its own, the mean of its two."""
    rows = evidence.rows(INITIALISATIONS, relation=relation, convention="all entries")
    rows = rows[rows["first_seed"] != "all"]
    pairs = zip(rows["first_seed"], rows["second_seed"], strict=True)
    values = dict(zip(pairs, rows["value"], strict=True))
    if relation != _OWN:
        return values
    by_seed = {first: value for (first, _), value in values.items()}
    seeds = sorted(by_seed)
    return {(i, j): (by_seed[i] + by_seed[j]) / 2 for i in seeds for j in seeds if i < j}


def between(
    evidence: Evidence, relation: str, less: str | None = None
) -> dict[tuple[str, str], float]:
    """r of two maps by pair of initialisations, or by how much it exceeds another relation's."""
    values = _pairs(evidence, relation)
    other = _pairs(evidence, less) if less else dict.fromkeys(values, 0.0)
    return {pair: value - other[pair] for pair, value in values.items()}


def _between(relation: str, less: str | None = None) -> Measure:
    return lambda evidence: jackknife_pairs(between(evidence, relation, less))


def _difference(
    evidence: Evidence, experiment: str, measure: str, column: str, name: Any, reference: Any
) -> Estimate:
    """How much higher networks of one kind are than those of another, as one of all the kinds."""
    rows = of_experiment(evidence.rows(MODELS), experiment, "initialisation").query("control == ''")
    groups = {key: group[measure].to_numpy() for key, group in rows.groupby(column, sort=False)}
    if name not in groups or reference not in groups:
        raise NotMeasured(f"{experiment}: {column} {name}, {reference}")
    return _estimate_of(compare_with(groups.pop(reference), groups).set_index("name").loc[name])


def _fraction(measure: str, share: float, reference: float) -> Measure:
    return lambda evidence: _difference(evidence, "fraction", measure, "fraction", share, reference)


def _ablation(variant: str, measure: str = "tism_all") -> Measure:
    return lambda evidence: _difference(
        evidence, "ablation", measure, "variant", variant, "baseline"
    )


def _epochs(measure: str, epoch: int, less: int | None = None, control: str = "") -> Measure:
    """A measure after an epoch, or how much higher it is than after another one, over seeds."""

    def evaluate(evidence: Evidence) -> Estimate:
        found = evidence.networks("epoch", measure, epoch=epoch, control=control)
        if less is not None:
            found = found - evidence.networks("epoch", measure, epoch=less, control=control)
        return mean_of(found.dropna())

    return evaluate


def _lowest_variant(evidence: Evidence) -> Estimate:
    rows = of_experiment(evidence.rows(MODELS), "ablation")
    missing = set(VARIANTS) - {"relu_max"} - set(rows["variant"])  # which is none of the paper's
    if missing:
        raise NotMeasured(f"ablation: {missing}")
    groups = {name: g.to_numpy() for name, g in rows.groupby(["variant", "control"])["tism_all"]}
    low, high = bounds_of_lowest(groups)
    lowest = min(groups.values(), key=np.mean)
    return Estimate(float(np.mean(lowest)), low, high, len(lowest))


def _without_decay(evidence: Evidence) -> Estimate:
    tism_all = partial(evidence.networks, "ablation", "tism_all", variant="adamw")
    without = {"without": tism_all(control="no_weight_decay")}
    return _estimate_of(compare_with(tism_all(), without).iloc[0])


def _lowest_ratio(rows: pd.DataFrame, slow: str, fast: str, setting: str) -> Estimate:
    """Lowest ratio of run times over these jobs, with its quartiles."""
    if not {slow, fast} <= {*rows["method"]}:
        raise NotMeasured(f"{slow} and {fast}")
    table = ratios(rows, slow, fast, setting)
    row = table.loc[table["ratio"].idxmin()]
    return Estimate(row["ratio"], row["low"], row["high"], int(rows["repeats"].max()))


def _speed(slow: str, fast: str, **wanted: Any) -> Measure:
    return lambda evidence: _lowest_ratio(
        evidence.rows("runtime.csv", **wanted), slow, fast, "best"
    )


def _table_2(length: int) -> Measure:
    def measure(evidence: Evidence) -> Estimate:
        rows = paper_networks(evidence.rows("runtime.csv"))
        rows = rows[rows["length"] == length]
        rows = rows[rows["n_sequences"] == rows["n_sequences"].min()]
        return _lowest_ratio(rows, "ISM", "TISM, one task", "paper")

    return measure


def _table_1(evidence: Evidence) -> Estimate:
    rows = paper_networks(evidence.rows("runtime.csv"))
    rows = rows[rows["length"] == 1000]
    if rows.empty:
        raise NotMeasured("1,000 bp")
    table = ratios(rows, "ISM", "TISM, one task", "paper")
    return Estimate(*table[["ratio", "low", "high"]].mean(), n=len(table))


def _growth(evidence: Evidence) -> Estimate:
    long, short = (_table_2(length)(evidence) for length in (20000, 251))
    low, high = long.low / short.high, long.high / short.low
    return Estimate(long.value / short.value, low, high, long.n)


def _external(evidence: Evidence) -> Estimate:
    wanted = {"model": evidence.dataset, "method": "TISM", "convention": "all entries"}
    return _row("external/concordance.csv", "mean_r low high n_sequences", **wanted)(evidence)


def _not_here(evidence: Evidence) -> Estimate:
    raise NotMeasured("the data is not at hand")


MEASURES: dict[str, Measure] = {
    "fig1a_high": _baselines("tism_all"),
    "fig1a_mean": _baselines("tism_all"),
    "fig1a_median": _figure_1(measure="median"),
    "fig1a_share_0_6": _figure_1(measure="share >= 0.6"),
    "fig1a_share_0_58": _figure_1(measure="share > 0.58"),
    "text_tasks": _baselines("tism_task_differences"),
    "fig1b_region": _not_here,
    "fig1c_gradient": _baselines("tism_all", "gradient_all"),
    "fig1c_substitutions": _baselines("tism_substitutions", "gradient_substitutions"),
    "figs1_tism": _baselines("tism_mean_effect", "gradient_x_input_mean_effect"),
    "figs1_input": _baselines("gradient_x_input_mean_effect", "gradient_all"),
    "fig1d_signal": _figure_1(measure="mean_log"),
    "figs2a_variation": _figure_1(measure="variation"),
    "figs2b_performance": _figure_1(measure="performance"),
    "fig3a_ism": _between(_BETWEEN),
    "fig3a_tism": _between("TISM-TISM"),
    "fig3a_own": _between(_OWN, _BETWEEN),
    "fig3a_stable": _between(_BETWEEN, "TISM-TISM"),
    "fig3b_performance": _fraction("test_region_r", 0.05, 1.0),
    "fig3b_concordance": _fraction("tism_all", 0.05, 1.0),
    "fig3b_peak": _fraction("tism_all", 0.05, 0.01),
    "fig3c_start": _epochs("test_region_r", 0),
    "fig3c_early": _epochs("tism_all", 7, 100),
    "fig3c_value": _epochs("tism_all", 7),
    "fig3c_learned": _epochs("tism_all", 11, 7),
    "fig3c_later": _epochs("tism_all", 100, 11),
    "fig3c_overfit": _epochs("test_region_r", 100, 11),
    "fig3c_warm_up": _epochs("tism_all", 7, 14, "warmup14"),
    "fig3d_lowest": _lowest_variant,
    "fig3d_relu": _ablation("relu"),
    "fig3d_max_pooling": _ablation("max_pooling"),
    "fig3d_no_batch_norm": _ablation("no_batch_norm"),
    "fig3d_adamw": _ablation("adamw"),
    "fig3d_mse_loss": _ablation("mse_loss"),
    "fig3d_no_shift": _ablation("no_shift"),
    "fig3d_cnn0": _ablation("cnn0"),
    "fig3d_exponential": _ablation("exponential"),
    "fig3d_no_dropout": _ablation("no_dropout"),
    "fig3d_l1_kernels": _ablation("l1_kernels"),
    "fig3d_forward_only": _ablation("forward_only"),
    "fig3d_adamw_worse": _ablation("adamw", "test_region_r"),
    "fig3d_mse_worse": _ablation("mse_loss", "test_region_r"),
    "fig3d_no_shift_worse": _ablation("no_shift", "test_region_r"),
    "fig3d_relu_as_good": _ablation("relu", "test_region_r"),
    "figs4b_smaller": _ablation("adamw", "ism_size"),
    "figs4b_decay": _without_decay,
}
RUN_TIMES: dict[str, Measure] = {
    "table1_speed": _table_1,
    "table2_251": _table_2(251),
    "table2_20000": _table_2(20000),
    "table2_growth": _growth,
    "fig2_yuzu_shallow": _speed("ISM", "Yuzu", network="shallow"),
    "fig2_yuzu_deep": _speed("ISM", "Yuzu", network="deep"),
    "fig2_tism_yuzu": _speed("Yuzu", "TISM, one task"),
    "figs3_order": _speed("ISM", "Yuzu"),
    "title_quick": _speed("windowed ISM", "TISM, all tasks"),
}
EXTERNAL: dict[str, Measure] = {"text_any_high": _external, "text_any_mean": _external}


def read_claims(file: str = "claims.csv") -> pd.DataFrame:
    """A table of claims in `data`, with the paper's number where it has one, as `paper_value`.

    A number is an id of data/paper_numbers.csv, or two of them with " - " or " / " between.
    """
    claims = pd.read_csv(repository() / "data" / file, dtype={"paper_number": str})
    numbers = paper_numbers()
    claims["paper_value"] = [_paper_value(text, numbers) for text in claims["paper_number"]]
    claims["at_least"] = claims["at_least"].fillna(-np.inf)
    claims["at_most"] = claims["at_most"].fillna(np.inf)
    return claims


def _paper_value(text: Any, numbers: dict[str, float]) -> float:
    if not isinstance(text, str):
        return float("nan")
    for sign, combine in ((" - ", operator.sub), (" / ", operator.truediv)):
        first, found, second = text.partition(sign)
        if found:
            return combine(numbers[first], numbers[second])
    return numbers[text]


def judge(estimate: Estimate, at_least: float, at_most: float) -> str:
    """The verdict by the rule of this module."""
    if np.isnan(estimate.value):
        return "not measured"
    if np.isnan(estimate.low) or np.isnan(estimate.high):
        return "undecided"
    if at_least <= estimate.low and estimate.high <= at_most:
        return "holds"
    if estimate.high < at_least or at_most < estimate.low:
        return "does not hold"
    return "undecided"


def scorecard(profile: Profile, items: Sequence[str] | None = None) -> pd.DataFrame:
    """One row a claim and data set; where a claim was measured on any, those without are left out.

    items : of the paper, such as "Fig 3A"; by default all

    Columns: claim_id, paper_item, statement, dataset, paper_value, value, low, high, n, verdict,
    and the rule (at_least, at_most).
    """
    claims, rows = read_claims(), []
    if items is not None:
        claims = claims[claims["paper_item"].isin(items)]
    for claim in claims.to_dict("records"):
        measure, datasets = _measure_of(claim["claim_id"], profile)
        for dataset in datasets:
            try:
                estimate = measure(Evidence(profile.name, dataset))
            except NotMeasured:
                estimate = Estimate(float("nan"), float("nan"), float("nan"), 0)
            verdict = judge(estimate, claim["at_least"], claim["at_most"])
            rows.append({**claim, "dataset": dataset, **estimate._asdict(), "verdict": verdict})
    columns = ["claim_id", "paper_item", "statement", "dataset", "paper_value", *Estimate._fields]
    table = pd.DataFrame(rows)[[*columns, "verdict", "at_least", "at_most"]]
    measured = table["verdict"] != "not measured"
    return table[measured | ~measured.groupby(table["claim_id"]).transform("any")]


def _measure_of(claim_id: str, profile: Profile) -> tuple[Measure, Sequence[str]]:
    """How a claim is measured, and on which data sets or networks."""
    if claim_id in RUN_TIMES:
        return RUN_TIMES[claim_id], [_UNTRAINED]
    if claim_id in EXTERNAL:
        return EXTERNAL[claim_id], EXTERNAL_MODELS
    return MEASURES[claim_id], profile.datasets


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of a scorecard that a reader needs; what was not measured is left out."""
    table = table[table["verdict"] != "not measured"]
    names = {"paper_value": "paper", "value": "here", "dataset": "data"}
    columns = ["statement", "data", "paper", "here", "low", "high", "verdict"]
    table = table.replace({"dataset": TITLES}).rename(columns=names)[columns]
    return with_intervals(table, {"interval": ("low", "high")})


def count_verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """How many claims have each verdict, a row a data set, a column a verdict."""
    table = table.replace({"dataset": TITLES})
    counts = table.groupby(["dataset", "verdict"], sort=False).size().unstack(fill_value=0)
    return counts.reindex(columns=VERDICTS, fill_value=0).reset_index().rename_axis(columns=None)
