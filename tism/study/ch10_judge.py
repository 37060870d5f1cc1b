"""Verdicts on the networks of book/design.md, by the rules of data/claims_evidence.csv.

A claim is judged when all networks that the design has for it are scored; until then it is pending.
Numbers of networks come from evidence/models.csv. What that table does not have is read from
evidence/by_network.csv (columns claim_id, dataset, kind, run, value: one number of a network for a
claim), which the chapters that measure it are to write, and from evidence/initialisations.csv.

The rules leave some points open. They are read so: "all kinds" are all kinds that the design
trains, those that are none of the paper's among them; at equal gap, every reading of a network
counts; the law is about networks that were trained on all regions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from tism.model import VARIANTS
from tism.study.ch05_gap import lines, readings
from tism.study.ch05_runs import ABOVE, read_table
from tism.study.ch06_tables import paper_networks, repeated_ratios
from tism.study.ch08_networks import TITLES
from tism.study.ch10_scorecard import (
    EXTERNAL,
    EXTERNAL_MODELS,
    Evidence,
    NotMeasured,
    between,
    read_claims,
)
from tism.study.ch10_scorecard import judge as judge_range
from tism.study.networks import list_runs
from tism.study.plots import with_intervals
from tism.study.profiles import load_profile
from tism.study.records import BY_NETWORK, DESIGN, NEW_PAIRS, RECORDED_PROFILE
from tism.study.statistics import (
    Estimate,
    at_equal,
    below_all_others,
    bounds_of_lowest,
    compare_all_with,
    equivalence,
    jackknife_pairs,
    mean_correlation,
    mean_of,
)

VERDICTS = ("holds", "does not hold", "undecided", "pending")
FIGURE_1 = "figure_1_networks.csv"  # of chapter 04
# Tests whose interval has 90 %: one side of each bound has an error of 5 %.
_NARROW = ("equivalence", "correlation equivalence", "lowest", "highest", "every")
_UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"), 0)


@dataclass(frozen=True)
class Sample:
    """The numbers that a claim is judged on.

    groups : a number of each network, by kind of network; None in place of kinds for pairs
    name, reference : the kind that the claim is about, and that with which it is compared, if any
    pairs : a number of each pair of networks
    wants : names of the networks, or of the table, that are missing
    """

    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    name: str = "baseline"
    reference: str | None = None
    pairs: Mapping[tuple[str, str], float] = field(default_factory=dict)
    wants: Sequence[str] = ()


def intervals(test: str, sample: Sample) -> tuple[Estimate, Estimate]:
    """Two intervals: the claim holds if its range has all of the first, not if none of the second.

    test : of data/claims_evidence.csv; book/design.md has the table
    """
    groups, name = sample.groups, sample.name
    match test:
        case "difference":
            table = _compared(groups, sample.reference or "")
            found = Estimate(*table.loc[name, ["value", "low", "high", "n"]])
            return found, found
        case "equivalence" if sample.reference is not None:
            apart = {k: v for k, v in groups.items() if k != sample.reference}
            row = equivalence(groups[sample.reference], apart).set_index("name").loc[name]
            return (
                Estimate(*row[["value", "low", "high", "n"]]),
                Estimate(*row[["value", "outer_low", "outer_high", "n"]]),
            )
        case "lowest":
            table = _compared(groups, name)
            worst = table.loc[table["high"].idxmin(), ["value", "low", "high", "n"]]
            return below_all_others(groups, name), Estimate(*worst)
        case "highest":
            negated = {kind: -np.asarray(values) for kind, values in groups.items()}
            return intervals("lowest", Sample(negated, name))
        case "every":
            low, high = bounds_of_lowest(groups)
            means = {kind: np.mean(values) for kind, values in groups.items()}
            kind = min(means, key=means.__getitem__)
            found = Estimate(float(means[kind]), low, high, len(groups[kind]))
            return found, found
        case "mean" | "equivalence" | "correlation" | "correlation equivalence":
            mean = mean_correlation if "correlation" in test else mean_of
            values: Any = sample.pairs or groups[name]
            if sample.pairs:
                mean = jackknife_pairs
            return mean(values, 0.9 if "equivalence" in test else 0.95), mean(values, 0.95)
    raise ValueError(f"test must be one of book/design.md, got {test!r}")


def _compared(groups: Mapping[str, Any], reference: str) -> pd.DataFrame:
    """`compare_all_with` by name; computed once for all claims about the same numbers."""
    return _compared_once(reference, tuple((k, tuple(map(float, v))) for k, v in groups.items()))


@cache
def _compared_once(reference: str, groups: tuple[tuple[str, tuple[float, ...]], ...]) -> Any:
    others = dict(groups)
    return compare_all_with(others.pop(reference), others).set_index("name")


def decide(test: str, sample: Sample, at_least: float, at_most: float) -> dict[str, Any]:
    """Verdict by the rules: value, low, high (the interval that has to lie in the range), n, seeds.

    seeds : of a kind that would decide an undecided claim, if the networks to come were like these

    While networks are missing the verdict is pending, and the numbers are those of the others.
    """
    inner = outer = _UNKNOWN
    of_all_kinds = test in ("lowest", "highest", "every")  # and none without all of them
    if not (sample.wants and of_all_kinds):
        with suppress(KeyError, ValueError):  # too few networks, of this kind or at all
            inner, outer = intervals(test, sample)
    verdict = "undecided"
    if sample.wants or np.isnan(inner.value):
        verdict = "pending"
    elif at_least <= inner.low and inner.high <= at_most:
        verdict = "holds"
    elif outer.high < at_least or at_most < outer.low:
        verdict = "does not hold"
    seeds = _seeds(inner, outer, at_least, at_most) if verdict == "undecided" else np.nan
    return {**inner._asdict(), "verdict": verdict, "seeds": seeds}


def _seeds(inner: Estimate, outer: Estimate, at_least: float, at_most: float) -> float:
    """Networks of a kind with which the interval would be short enough; it falls as 1/sqrt(n)."""
    is_in = at_least <= inner.value <= at_most
    found = inner if is_in else outer
    towards_low = abs(found.value - at_least) < abs(found.value - at_most)
    bound = at_least if towards_low else at_most
    reach = found.value - found.low if towards_low == is_in else found.high - found.value
    if found.value == bound or np.isnan(reach):
        return float("nan")
    return float(max(found.n + 1, np.ceil(found.n * (reach / (found.value - bound)) ** 2)))


class Networks:
    """The networks that the design has for one data set, with what is measured of them so far."""

    def __init__(self, dataset: str) -> None:
        self.dataset, profile = dataset, load_profile("evidence")
        plan = pd.DataFrame([row for run in list_runs(profile) for row in _planned(run)])
        found = read_table(RECORDED_PROFILE, DESIGN)
        found = found.assign(at=found["epoch"].where(found["reading"] == "epoch", -1))
        names = [name for name in found if name not in plan or name in ("run", "at")]
        rows = plan.merge(found[names], on=["run", "at"], how="left")
        rows["gap"] = rows["train_region_r"] - rows["test_region_r"]
        self.rows = rows[rows["dataset"] == dataset]

    def of(self, *experiments: str) -> pd.DataFrame:
        """Rows of experiments, whatever the reading."""
        chosen = self.rows["experiments"].map(lambda names: not {*experiments}.isdisjoint(names))
        return self.rows[chosen]

    def sample(self, rows: pd.DataFrame, value: pd.Series, name: str, **other: Any) -> Sample:
        """A sample of the mean of `value` of each run, by `kind`; all of its rows must be there."""
        rows = rows.assign(value=value)
        absent = rows.loc[rows["value"].isna(), "run"].unique()
        known = rows[~rows["run"].isin(absent)].groupby(["kind", "run"], sort=False)["value"].mean()
        groups = {kind: part.to_numpy() for kind, part in known.groupby(level=0, sort=False)}
        return Sample(groups, name, wants=[*absent], **other)


def _planned(run: Any) -> list[dict[str, Any]]:
    network = run.network
    kind = network.variant + (f", {run.control}" if run.control else "")
    row = {"run": run.name, "experiments": run.experiments, "dataset": network.dataset}
    row |= {"kind": kind, "seed": network.seed, "fraction": network.training.fraction}
    return [{**row, "at": epoch} for epoch in (*run.epochs, *([-1] if run.best else []))]


Measure = Callable[[Networks, str], Sample | None]  # of the networks and the reading of a claim


def _read(rows: pd.DataFrame, measure: str, reading: str) -> tuple[pd.DataFrame, pd.Series]:
    """The rows that a reading takes, and the measure of each."""
    if reading == "gap":
        known = rows[
            rows.groupby("run")[measure].transform("count")
            == rows["run"].map(rows["run"].value_counts())
        ]
        if known.empty:
            return rows, rows[measure]
        equal = at_equal(known, measure, "gap", kind="kind", network="run").droplevel(0)
        return rows, rows["run"].map(equal)
    rows = rows[(rows["at"] == -1) == (reading == "best")]
    return rows, rows.get(measure, pd.Series(np.nan, rows.index))


def _baselines(measure: str, less: str | None = None) -> Measure:
    def evaluate(networks: Networks, reading: str) -> Sample:
        rows = networks.of("initialisation")
        rows = rows[rows["at"] == -1]
        value = rows[measure] - (rows[less] if less else 0)
        return networks.sample(rows, value, "baseline")

    return evaluate


def _kind(name: str, measure: str = "tism_all", reference: str | None = "baseline") -> Measure:
    """A kind of network among all kinds of the data set; None where it does not train that kind."""

    def evaluate(networks: Networks, reading: str) -> Sample | None:
        rows = networks.of("initialisation", "ablation")
        if name not in {*rows["kind"]}:
            return None
        if reference not in ("baseline", None):
            rows = rows[rows["kind"].isin([name, reference])]
        return networks.sample(*_read(rows, measure, reading), name, reference=reference)

    return evaluate


def _share(measure: str, reference: str | None = "1.0") -> Measure:
    def evaluate(networks: Networks, reading: str) -> Sample | None:
        rows = networks.of("fraction")
        rows = rows.assign(kind=rows["fraction"].astype(str))
        if rows.empty:
            return None
        return networks.sample(*_read(rows, measure, reading), "0.05", reference=reference)

    return evaluate


def _age(measure: str, epoch: int, less: int | None = None, control: str = "") -> Measure:
    """A measure after an epoch of the long runs, or how much higher it is than after another."""
    kind = "baseline" + (f", {control}" if control else "")

    def evaluate(networks: Networks, reading: str) -> Sample | None:
        rows = networks.of("epoch")
        rows = rows[rows["kind"] == kind]
        if rows.empty:
            return None
        table = rows.pivot(index="run", columns="at", values=measure)
        value = table[epoch] - (table[less] if less is not None else 0)
        values = value.reset_index(name="value").assign(kind=kind)
        return networks.sample(values, values["value"], kind)

    return evaluate


def _untrained_and_trained(networks: Networks, reading: str) -> Sample | None:
    before = networks.of("epoch")
    before = before[(before["kind"] == "baseline") & (before["at"] == 0)].assign(kind="untrained")
    after = networks.of("initialisation")
    rows = pd.concat([before, after[after["at"] == -1]])
    if before.empty:
        return None
    return networks.sample(rows, rows["tism_all"], "untrained", reference="baseline")


def _within_networks(networks: Networks, reading: str) -> Sample:
    rows = networks.of("initialisation", "ablation")
    rows = rows[rows["at"] != -1]
    r = {run: part["tism_all"].corr(part["gap"]) for run, part in rows.groupby("run", sort=False)}
    table = pd.DataFrame({"run": [*r], "kind": "any"})
    return networks.sample(table, pd.Series([*r.values()]), "any")


def _error_of_the_line(networks: Networks, reading: str) -> Sample | None:
    recorded = lines(readings(load_profile(RECORDED_PROFILE)))
    recorded = recorded[recorded["fitted_on"] == "the recorded networks"].set_index("dataset")
    if networks.dataset not in recorded.index:
        return None
    line, rows = recorded.loc[networks.dataset], networks.of("initialisation", "ablation")
    rows = rows[rows["at"] == -1].assign(kind="any")
    predicted = line["intercept"] + line["slope"] * rows["gap"]
    return networks.sample(rows, (rows["tism_all"] - predicted).abs(), "any")


def _pairs(relation: str, less: str | None = None) -> Measure:
    def evaluate(networks: Networks, reading: str) -> Sample:
        try:
            return Sample(pairs=between(Evidence("evidence", networks.dataset), relation, less))
        except NotMeasured:
            return Sample(wants=[NEW_PAIRS])

    return evaluate


def _of_seeds(file: str, seed: str, **wanted: str) -> Measure:
    """What a table has of every baseline, named by its column `seed`, where columns have these
    values."""

    def evaluate(networks: Networks, reading: str) -> Sample:
        try:
            found = read_table(RECORDED_PROFILE, file)
        except FileNotFoundError:
            return Sample(wants=[file])
        for column, value in {"dataset": networks.dataset, **wanted}.items():
            found = found[found[column] == value]
        rows = networks.of("initialisation")
        rows = rows[rows["at"] == -1]
        by_seed = found.set_index(found[seed].astype(str))["value"]
        return networks.sample(rows, rows["seed"].astype(str).map(by_seed), "baseline")

    return evaluate


def _figure_1(measure: str) -> Measure:
    return _of_seeds(FIGURE_1, "seed", measure=measure)


def _elsewhere(claim_id: str, networks: Networks) -> Sample:
    """What `BY_NETWORK` has for a claim: a row for each of the baselines at least."""
    try:
        table = read_table(RECORDED_PROFILE, BY_NETWORK)
    except FileNotFoundError:
        return Sample(wants=[BY_NETWORK])
    rows = table[(table["claim_id"] == claim_id) & (table["dataset"] == networks.dataset)]
    wanted = {*networks.of("initialisation")["run"]} if "baseline" in {*rows["kind"]} else set()
    sample = networks.sample(rows, rows["value"], "baseline")
    absent = [*sorted(wanted - {*rows["run"]})] or ([] if len(rows) else [BY_NETWORK])
    return Sample(sample.groups, wants=[*sample.wants, *absent])


_OWN, _BETWEEN = "ISM-TISM, one network", "ISM-ISM"
MEASURES: dict[str, Measure] = {
    "fig1a_mean": _baselines("tism_all"),
    "fig1a_high": _baselines("tism_all"),
    "text_tasks": _baselines("tism_task_differences"),
    "fig1c_gradient": _baselines("tism_all", "gradient_all"),
    "fig1c_substitutions": _baselines("tism_substitutions", "gradient_substitutions"),
    "figs1_tism": _baselines("tism_mean_effect", "gradient_x_input_mean_effect"),
    "figs1_input": _baselines("gradient_x_input_mean_effect", "gradient_all"),
    "fig1a_median": _figure_1("median"),
    "fig1a_share_0_6": _figure_1("share >= 0.6"),
    "fig1a_share_between": _of_seeds(NEW_PAIRS, "first_seed", relation=ABOVE),
    "fig1d_signal": _figure_1("mean_log"),
    "figs2a_variation": _figure_1("variation"),
    "figs2b_performance": _figure_1("performance"),
    "fig3a_ism": _pairs(_BETWEEN),
    "fig3a_tism": _pairs("TISM-TISM"),
    "fig3a_own": _pairs(_OWN, _BETWEEN),
    "fig3a_similar": _pairs("TISM-TISM", _BETWEEN),
    "fig3b_performance": _share("test_region_r"),
    "fig3b_performance_epochs": _share("test_region_r"),
    "fig3b_concordance": _share("tism_all"),
    "fig3b_concordance_epochs": _share("tism_all"),
    "fig3b_peak": _share("tism_all", None),
    "fig3b_peak_epochs": _share("tism_all", None),
    "fig3c_start": _age("test_region_r", 0),
    "fig3c_start_trained": _untrained_and_trained,
    "fig3c_early": _age("tism_all", 7, 100),
    "fig3c_value": _age("tism_all", 7),
    "fig3c_learned": _age("tism_all", 11, 7),
    "fig3c_later": _age("tism_all", 100, 11),
    "fig3c_overfit": _age("test_region_r", 100, 11),
    "fig3c_warm_up": _age("tism_all", 14, 7, "warmup14"),
    "fig3d_every": _kind("baseline", reference=None),
    "fig3d_relu_lowest": _kind("relu", reference=None),
    "figs4a_fewer": _share("ism_motifs"),
    "figs4b_smaller": _kind("adamw", "ism_size"),
    "figs4b_decay": _kind("adamw, no_weight_decay", reference="adamw"),
    "law_falls": _within_networks,
    "law_error": _error_of_the_line,
}
for _variant in set(VARIANTS) - {"baseline", "relu_max"}:
    for _reading in ("", "_epochs", "_gap"):
        MEASURES[f"fig3d_{_variant}{_reading}"] = _kind(_variant)
for _variant in ("adamw", "mse_loss", "no_shift", "cnn0"):
    MEASURES[f"fig3d_{_variant}_worse"] = _kind(_variant, "test_region_r")
for _variant in ("relu", "max_pooling", "no_batch_norm"):
    MEASURES[f"fig3d_{_variant}_as_good"] = _kind(_variant, "test_region_r")

RepeatedRatio = Callable[[pd.DataFrame], np.ndarray]  # of runtime.csv, one number a repeat


def _in_table_1(rows: pd.DataFrame) -> np.ndarray:
    jobs = paper_networks(rows).query("length == 1000")
    found = repeated_ratios(jobs, "ISM", "TISM, one task", "paper")
    return np.mean([r[: min(map(len, found))] for r in found], axis=0)


def _in_table_2(length: int) -> RepeatedRatio:
    def evaluate(rows: pd.DataFrame) -> np.ndarray:
        jobs = paper_networks(rows)
        jobs = jobs[jobs["length"] == length]
        jobs = jobs[jobs["n_sequences"] == jobs["n_sequences"].min()]
        return repeated_ratios(jobs, "ISM", "TISM, one task", "paper")[0]

    return evaluate


def _growth(rows: pd.DataFrame) -> np.ndarray:
    short, long = (_in_table_2(length)(rows) for length in (251, 20000))
    return long[: len(short)] / short[: len(long)]


def _lowest(slow: str, fast: str, network: str | None = None) -> RepeatedRatio:
    """Of the job with the lowest mean ratio, of all jobs or those of a network."""

    def evaluate(rows: pd.DataFrame) -> np.ndarray:
        rows = rows if network is None else rows[rows["network"] == network]
        return min(repeated_ratios(rows, slow, fast), key=np.mean)

    return evaluate


RUN_TIMES: dict[str, RepeatedRatio] = {
    "table1_speed": _in_table_1,
    "table2_251": _in_table_2(251),
    "table2_20000": _in_table_2(20000),
    "table2_growth": _growth,
    "fig2_yuzu_shallow": _lowest("ISM", "Yuzu", "shallow"),
    "fig2_yuzu_deep": _lowest("ISM", "Yuzu", "deep"),
    "fig2_tism_yuzu": _lowest("Yuzu", "TISM, one task"),
    "figs3_order": _lowest("ISM", "Yuzu"),
    "title_quick": _lowest("windowed ISM", "TISM, all tasks"),
}

ONLY = {  # data sets of claims that not all can have
    "hypothesis_planted": ["simulated"],
    "hypothesis_sites": ["simulated"],
}


def judge_networks() -> pd.DataFrame:
    """One row a claim of data/claims_evidence.csv and data set that the design has networks for.

    Columns: claim_id, source, paper_item, statement, dataset, reading, test, unit, paper_value,
    value, low, high, n, verdict, seeds (`decide`), wants (what is missing) and missing (how much),
    at_least, at_most.
    """
    networks = {name: Networks(name) for name in load_profile("evidence").datasets}
    rows = []
    for claim in read_claims("claims_evidence.csv").to_dict("records"):
        bounds = claim["at_least"], claim["at_most"]
        if claim["unit"] == "locus":
            for model in EXTERNAL_MODELS:
                found = EXTERNAL[claim["claim_id"]](Evidence(RECORDED_PROFILE, model))
                verdict = {**found._asdict(), "verdict": judge_range(found, *bounds)}
                rows.append({**claim, "dataset": model, **verdict, "wants": ""})
            continue
        for dataset, sample in _samples(claim, networks).items():
            verdict = decide(claim["test"], sample, *bounds)
            wants = {"wants": ", ".join(sample.wants), "missing": len(sample.wants)}
            rows.append({**claim, "dataset": dataset, **verdict, **wants})
    columns = ["claim_id", "source", "paper_item", "statement", "dataset", "reading", "test"]
    columns += ["unit", "paper_value", *Estimate._fields, "verdict", "seeds", "missing", "wants"]
    return pd.DataFrame(rows)[[*columns, "at_least", "at_most"]]


def _samples(claim: Mapping[str, Any], networks: Mapping[str, Networks]) -> dict[str, Sample]:
    """The samples of a claim by data set, where the design has networks for it."""
    if claim["claim_id"] == "fig1b_region":
        return {"mouse": Sample(wants=["the data of the paper"])}
    if claim["unit"] == "repeat":
        rows = read_table(RECORDED_PROFILE, "runtime.csv")
        if "each" not in rows:
            return {"random sequences": Sample(wants=["times of single repeats"])}
        return {"random sequences": Sample({"any": RUN_TIMES[claim["claim_id"]](rows)}, "any")}
    if claim["claim_id"] not in MEASURES:
        chosen = ONLY.get(claim["claim_id"], [*networks])
        return {name: _elsewhere(claim["claim_id"], networks[name]) for name in chosen}
    measure = MEASURES[claim["claim_id"]]
    found = {name: measure(n, claim["reading"]) for name, n in networks.items()}
    return {name: sample for name, sample in found.items() if sample is not None}


def count_by_source(table: pd.DataFrame) -> pd.DataFrame:
    """How many rows of `judge_networks` have each verdict: a row a source."""
    counts = table.groupby(["source", "verdict"], sort=False).size().unstack(fill_value=0)
    return counts.reindex(columns=VERDICTS, fill_value=0).reset_index().rename_axis(columns=None)


def shown_networks(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of `judge_networks` that a reader needs; a star marks an interval of 90 %."""
    names = {"paper_item": "item", "dataset": "data", "paper_value": "paper", "value": "here"}
    columns = ["source", "item", "statement", "data", "paper", "here", "low", "high", "n"]
    table = table.replace({"dataset": TITLES}).rename(columns=names)
    narrow = table["test"].isin(_NARROW) & table["low"].notna()
    table = with_intervals(
        table[[*columns, "verdict", "seeds", "missing"]], {"interval": ("low", "high")}
    )
    marked = zip(table["interval"], narrow, strict=True)
    return table.assign(interval=[f"{text} *" if star else text for text, star in marked])


def verdicts_on(table: pd.DataFrame, dataset: str, *items: str) -> pd.DataFrame:
    """`shown_networks` of one data set and of some items of the paper, without naming either."""
    chosen = table["dataset"].eq(dataset) & table["paper_item"].isin(items)
    return shown_networks(table[chosen]).drop(columns=["item", "data"])
