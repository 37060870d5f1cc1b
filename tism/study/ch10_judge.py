"""The rules of book/design.md: how numbers of networks become a verdict.

A claim of data/claims.csv allows a range, `at_least` to `at_most`, and names the test by which the
numbers are compared with it. It holds, does not hold, is undecided, or is pending: some of its
networks are not scored yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from tism.study.statistics import (
    Estimate,
    below_all_others,
    bounds_of_lowest,
    compare_all_with,
    equivalence,
    jackknife_pairs,
    mean_correlation,
    mean_of,
)

VERDICTS = ("holds", "does not hold", "undecided", "pending")
# Tests whose interval has 90 %: one side of each bound has an error of 5 %.
NARROW = ("equivalence", "correlation equivalence", "lowest", "highest", "every")
_UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"), 0)


@dataclass(frozen=True)
class Sample:
    """The numbers that a claim is judged on.

    groups : a number of each network, by kind of network; None in place of kinds for pairs
    name, reference : the kind that the claim is about, and that with which it is compared, if any
    pairs : a number of each pair of networks
    known : the interval itself, where a table has it
    wants : names of the networks, or of the table, that are missing
    """

    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    name: str = "baseline"
    reference: str | None = None
    pairs: Mapping[tuple[str, str], float] = field(default_factory=dict)
    known: Estimate | None = None
    wants: Sequence[str] = ()


def intervals(test: str, sample: Sample) -> tuple[Estimate, Estimate]:
    """Two intervals: a claim holds if its range has the first, fails if the second lies outside.

    test : of data/claims.csv; book/design.md has the table
    """
    groups, name = sample.groups, sample.name
    if sample.known:
        return sample.known, sample.known
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
    by_seeds = verdict == "undecided" and not sample.known
    seeds = _seeds(inner, outer, at_least, at_most) if by_seeds else np.nan
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
