"""Every claim of data/claims.csv with a verdict on the networks of a profile.

book/design.md has the rules and which networks are judged. A claim is pending until all networks
that the profile has for it are scored. Their numbers come from models.csv and initialisations.csv
of that profile. What these do not have is read from tables that other chapters write, among them
evidence/by_network.csv (columns claim_id, dataset, kind, run, value: one number of a network for a
claim); run times from runtime.csv, published networks from external/concordance.csv.

The rules leave some points open, which are settled here: "all kinds" are all kinds that the design
trains, also those that the paper does not have; at equal gap, every reading of a network counts;
the law is about networks that were trained on all regions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from tism.model import VARIANTS
from tism.study.ch05_gap import lines, readings
from tism.study.ch05_runs import ABOVE, read_table
from tism.study.ch06_tables import paper_networks, repeated_ratios
from tism.study.ch08_networks import TITLES
from tism.study.ch10_judge import NARROW, VERDICTS, Sample, decide
from tism.study.networks import list_runs
from tism.study.plots import decimals, with_intervals
from tism.study.profiles import Profile, repository
from tism.study.records import BY_NETWORK, INITIALISATIONS, paper_numbers
from tism.study.statistics import Estimate, at_equal

FIGURE_1 = "figure_1_networks.csv"  # of chapter 04
CONCORDANCE = "external/concordance.csv"  # of chapter 08
UNTRAINED = "random sequences"  # what run times are measured on
FORMATS: dict[str, Any] = {  # of `shown`
    **dict.fromkeys(["n", "seeds", "missing"], "{:.0f}"),
    **dict.fromkeys(["here", "paper"], decimals),
}
PUBLISHED = ("calderon", "deepstarr", "mpra_dragonn", "xpresso", "aparent2")


class Networks:
    """The networks that are planned for one data set, with what is measured of them so far.

    profile : of the chapters whose tables count as well
    planned : the profile of the networks
    """

    def __init__(self, profile: Profile, planned: Profile, dataset: str) -> None:
        self.profile, self.planned, self.dataset = profile, planned, dataset
        plan = pd.DataFrame([row for run in list_runs(planned) for row in _planned(run)])
        found = read_table(planned.name)
        found = found.assign(at=found["epoch"].where(found["reading"] == "epoch", -1))
        names = [name for name in found if name not in plan or name in ("run", "at")]
        rows = plan.merge(found[names], on=["run", "at"], how="left", indicator="scored")
        rows["scored"] = rows["scored"] == "both"
        rows["dead"] = rows["scored"] & rows["tism_all"].isna()  # its predictions are constant
        rows["gap"] = rows["train_region_r"] - rows["test_region_r"]
        self.rows = rows[rows["dataset"] == dataset]

    def table(self, file: str, **wanted: Any) -> pd.DataFrame | None:
        """Rows of this data set with these values in a chapter's table; None without the table."""
        name = self.planned.name if file == INITIALISATIONS else self.profile.name
        try:
            rows = read_table(name, file)
        except FileNotFoundError:
            return None
        for column, value in {"dataset": self.dataset, **wanted}.items():
            rows = rows[rows[column] == value]
        return rows

    def of(self, *experiments: str) -> pd.DataFrame:
        """Rows of experiments, whatever the reading."""
        chosen = self.rows["experiments"].map(lambda names: not {*experiments}.isdisjoint(names))
        return self.rows[chosen]

    def sample(self, rows: pd.DataFrame, value: pd.Series, name: str, **other: Any) -> Sample:
        """A sample of the mean of `value` of each run, by `kind`; all of its rows must be there.

        A run that is dead in one of its rows is left out.
        """
        rows = rows.assign(value=value, dead=rows.get("dead", False))
        without = rows[rows["value"].isna()]
        absent = without.loc[~without["dead"], "run"].unique()
        rows = rows[~rows["run"].isin(without["run"])]
        known = rows.groupby(["kind", "run"], sort=False)["value"].mean()
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
    """The rows that a reading uses, and the measure in each; none if it needs missing snapshots."""
    if reading == "gap" and (rows["at"] != -1).any():
        known = rows[rows.groupby("run")["scored"].transform("all") & rows[measure].notna()]
        if known.empty:
            return rows, rows[measure]
        equal = at_equal(known, measure, "gap", kind="kind", network="run").droplevel(0)
        return rows, rows["run"].map(equal)
    rows = rows[(rows["at"] == -1) == (reading == "best")]
    return rows, rows.get(measure, pd.Series(np.nan, rows.index))


def _sample_of(
    networks: Networks,
    rows: pd.DataFrame,
    measure: str,
    reading: str,
    name: str,
    reference: str | None,
) -> Sample | None:
    """A sample of what a reading takes; None where it takes none of the kinds in question."""
    rows, values = _read(rows, measure, reading)
    if not {name, reference or name} <= {*rows["kind"]}:
        return None
    return networks.sample(rows, values, name, reference=reference)


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
        if reference not in ("baseline", None):
            rows = rows[rows["kind"].isin([name, reference])]
        return _sample_of(networks, rows, measure, reading, name, reference)

    return evaluate


def _share(measure: str, reference: str | None = "1.0") -> Measure:
    def evaluate(networks: Networks, reading: str) -> Sample | None:
        rows = networks.of("fraction")
        rows = rows.assign(kind=rows["fraction"].astype(str))
        return _sample_of(networks, rows, measure, reading, "0.05", reference)

    return evaluate


def _age(measure: str, epoch: int, less: int | None = None, control: str = "") -> Measure:
    """A measure after an epoch of the long runs, or how much higher it is than after another."""
    kind = "baseline" + (f", {control}" if control else "")

    def evaluate(networks: Networks, reading: str) -> Sample | None:
        rows = networks.of("epoch")
        rows = rows[rows["kind"] == kind]
        if not {epoch, epoch if less is None else less} <= {*rows["at"]}:
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


def _within_networks(networks: Networks, reading: str) -> Sample | None:
    rows = networks.of("initialisation", "ablation")
    rows = rows[rows["at"] != -1]
    if rows.empty:
        return None
    r = {run: part["tism_all"].corr(part["gap"]) for run, part in rows.groupby("run", sort=False)}
    table = pd.DataFrame({"run": [*r], "kind": "any"})
    return networks.sample(table, pd.Series([*r.values()]), "any")


def _error_of_the_line(networks: Networks, reading: str) -> Sample | None:
    if networks.planned == networks.profile:
        return None
    earlier = lines(readings(networks.profile)).drop_duplicates("dataset").set_index("dataset")
    if networks.dataset not in earlier.index:
        return None
    line, rows = earlier.loc[networks.dataset], networks.of("initialisation", "ablation")
    rows = rows[rows["at"] == -1].assign(kind="any")
    predicted = line["intercept"] + line["slope"] * rows["gap"]
    return networks.sample(rows, (rows["tism_all"] - predicted).abs(), "any")


def _between(networks: Networks, relation: str) -> dict[tuple[str, str], float] | None:
    """r of two maps by pair of seeds; where a network has its own, the mean of both networks'."""
    rows = networks.table(INITIALISATIONS, relation=relation, convention="all entries")
    if rows is None:
        return None
    rows = rows[rows["first_seed"] != "all"]
    pairs = zip(rows["first_seed"], rows["second_seed"], strict=True)
    values = dict(zip(pairs, rows["value"], strict=True))
    if relation != _OWN:
        return values
    by_seed = {first: value for (first, _), value in values.items()}
    return {(i, j): (by_seed[i] + by_seed[j]) / 2 for i, j in combinations(sorted(by_seed), 2)}


def _pairs(relation: str, less: str | None = None) -> Measure:
    """r of two maps by pair of initialisations, or by how much it exceeds another relation's."""

    def evaluate(networks: Networks, reading: str) -> Sample:
        values = _between(networks, relation)
        other = _between(networks, less) if less else {}
        if values is None or other is None:
            return Sample(wants=[INITIALISATIONS])
        return Sample(pairs={pair: value - other.get(pair, 0) for pair, value in values.items()})

    return evaluate


def _of_seeds(file: str, seed: str, **wanted: str) -> Measure:
    """What a table has of every baseline, named by its column `seed`, where columns have these
    values."""

    def evaluate(networks: Networks, reading: str) -> Sample:
        found = networks.table(file, **wanted)
        if found is None:
            return Sample(wants=[file])
        rows = networks.of("initialisation")
        rows = rows[rows["at"] == -1]
        by_seed = found.set_index(found[seed].astype(str))["value"]
        return networks.sample(rows, rows["seed"].astype(str).map(by_seed), "baseline")

    return evaluate


def _figure_1(measure: str) -> Measure:
    return _of_seeds(FIGURE_1, "seed", measure=measure)


def _elsewhere(claim_id: str, networks: Networks) -> Sample:
    """What `BY_NETWORK` has for a claim: a row for each of the baselines at least."""
    rows = networks.table(BY_NETWORK, claim_id=claim_id)
    if rows is None or rows.empty:
        return Sample(wants=[BY_NETWORK])
    wanted = {*networks.of("initialisation")["run"]} if "baseline" in {*rows["kind"]} else set()
    sample = networks.sample(rows, rows["value"], "baseline")
    return Sample(sample.groups, wants=[*sample.wants, *sorted(wanted - {*rows["run"]})])


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
    "fig1a_share_between": _of_seeds(INITIALISATIONS, "first_seed", relation=ABOVE),
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

RepeatedRatio = Callable[[pd.DataFrame], np.ndarray]  # of runtime.csv, one number per repeat


class NotTimed(Exception):
    """No job has both methods."""


def _ratios(rows: pd.DataFrame, slow: str, fast: str, setting: str) -> list[np.ndarray]:
    """`repeated_ratios`, or NotTimed."""
    found = repeated_ratios(rows, slow, fast, setting)
    if not found:
        raise NotTimed(f"{slow} and {fast}")
    return found


def _in_table_1(rows: pd.DataFrame) -> np.ndarray:
    jobs = paper_networks(rows).query("length == 1000")
    found = _ratios(jobs, "ISM", "TISM, one task", "paper")
    return np.mean([r[: min(map(len, found))] for r in found], axis=0)


def _in_table_2(length: int) -> RepeatedRatio:
    def evaluate(rows: pd.DataFrame) -> np.ndarray:
        jobs = paper_networks(rows)
        jobs = jobs[jobs["length"] == length]
        jobs = jobs[jobs["n_sequences"] == jobs["n_sequences"].min()]
        return _ratios(jobs, "ISM", "TISM, one task", "paper")[0]

    return evaluate


def _growth(rows: pd.DataFrame) -> np.ndarray:
    short, long = (_in_table_2(length)(rows) for length in (251, 20000))
    return long[: len(short)] / short[: len(long)]


def _lowest(slow: str, fast: str, network: str | None = None) -> RepeatedRatio:
    """Of the job with the lowest mean ratio, of all jobs or those of a network."""

    def evaluate(rows: pd.DataFrame) -> np.ndarray:
        rows = rows if network is None else rows[rows["network"] == network]
        return min(_ratios(rows, slow, fast, "best"), key=np.mean)

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


def _of_run_times(claim_id: str, profile: Profile) -> Sample:
    try:
        repeats = RUN_TIMES[claim_id](read_table(profile.name, "runtime.csv"))
    except (FileNotFoundError, NotTimed):
        return Sample(wants=["runtime.csv"])
    return Sample({"any": repeats}, "any")


def _published(profile: Profile) -> dict[str, Sample]:
    """r of ISM and TISM in each network of another lab, with its interval over sequences."""
    try:
        table = read_table(profile.name, CONCORDANCE)
    except FileNotFoundError:
        return {name: Sample(wants=[CONCORDANCE]) for name in PUBLISHED}
    rows = table.query("method == 'TISM' and convention == 'all entries'").set_index("model")
    found = {name: rows.loc[name] for name in PUBLISHED}
    return {
        name: Sample(
            known=Estimate(row["mean_r"], row["low"], row["high"], int(row["n_sequences"]))
        )
        for name, row in found.items()
    }


ONLY = {  # data sets of claims that not all can have
    "hypothesis_planted": ["simulated"],
    "hypothesis_sites": ["simulated"],
}


def read_claims() -> pd.DataFrame:
    """data/claims.csv, with the paper's number where it has one, as `paper_value`.

    A number is an id of data/paper_numbers.csv, or two of them with " - " or " / " between.
    """
    claims = pd.read_csv(repository() / "data" / "claims.csv", dtype={"paper_number": str})
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


def scorecard(profile: Profile, planned: Profile) -> pd.DataFrame:
    """One row per claim and data set that has networks for it.

    profile : of the chapters whose tables are read
    planned : of the networks that are judged (`tism.study.records.Chapter.networks`)

    Columns: claim_id, source, paper_item, statement, dataset, reading, test, unit, paper_value,
    value, low, high, n, verdict, seeds (`decide`), wants (what is missing) and missing (how much),
    at_least, at_most.
    """
    networks = {name: Networks(profile, planned, name) for name in planned.datasets}
    rows = []
    for claim in read_claims().to_dict("records"):
        for dataset, sample in _samples(claim, networks, profile).items():
            verdict = decide(claim["test"], sample, claim["at_least"], claim["at_most"])
            wants = {"wants": ", ".join(sample.wants), "missing": len(sample.wants)}
            rows.append({**claim, "dataset": dataset, **verdict, **wants})
    columns = ["claim_id", "source", "paper_item", "statement", "dataset", "reading", "test"]
    columns += ["unit", "paper_value", *Estimate._fields, "verdict", "seeds", "missing", "wants"]
    return pd.DataFrame(rows)[[*columns, "at_least", "at_most"]]


def _samples(
    claim: Mapping[str, Any], networks: Mapping[str, Networks], profile: Profile
) -> dict[str, Sample]:
    """The samples of a claim by data set, where there are networks for it."""
    claim_id, reading = claim["claim_id"], claim["reading"]
    if claim_id == "fig1b_region":
        return {"mouse": Sample(wants=["the data of the paper"])}
    if claim["unit"] == "repeat":
        return {UNTRAINED: _of_run_times(claim_id, profile)}
    if claim["unit"] == "locus":
        return _published(profile)
    if claim_id in MEASURES:
        found = {name: MEASURES[claim_id](of, reading) for name, of in networks.items()}
        return {name: sample for name, sample in found.items() if sample is not None}
    chosen = [name for name in ONLY.get(claim_id, networks) if name in networks]
    return {name: _elsewhere(claim_id, networks[name]) for name in chosen}


def count_verdicts(card: pd.DataFrame, by: str = "dataset") -> pd.DataFrame:
    """How many rows of a scorecard have each verdict, by data set or another column."""
    card = card.replace({"dataset": dict.fromkeys(PUBLISHED, "networks of other labs")})
    counts = card.groupby([by, "verdict"], sort=False).size()
    table = counts.unstack(fill_value=0).reindex(columns=VERDICTS, fill_value=0)
    return table.reset_index().rename_axis(columns=None)


def shown(card: pd.DataFrame, *items: str, dataset: str | None = None) -> pd.DataFrame:
    """The columns of a scorecard that a reader needs, without those that are empty.

    items : of the paper, such as "Fig 3A"; by default all
    dataset : the only one to show; by default all. A single data set is not named

    A dagger marks claims that are not the paper's, a star intervals of 90 %.
    """
    if items:
        card = card[card["paper_item"].isin(items)]
    if dataset is not None:
        card = card[card["dataset"] == dataset]
    own, narrow = card["source"] == "own", card["test"].isin(NARROW) & card["low"].notna()
    table = with_intervals(card, {"interval": ("low", "high")}).replace({"dataset": TITLES})
    table["statement"] += own.map({True: " \u2020", False: ""})
    table["interval"] += narrow.map({True: " *", False: ""})
    names = {"dataset": "data", "paper_value": "paper", "value": "here"}
    order = ["statement", "dataset", "verdict", "value", "interval", "paper_value", "n", "seeds"]
    table = table[[*order, "missing"]].rename(columns=names)
    empty = [name for name in ("paper", "seeds") if table[name].isna().all()]
    empty += ["missing"] * (not table["missing"].any())
    empty += ["data"] * (table["data"].nunique() == 1)
    return table.drop(columns=empty)
