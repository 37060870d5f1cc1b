"""How well `reliability` judges TISM of networks from other labs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tism import versions
from tism.agreement import CALIBRATION, calibrated, effective_number, reliability, sampling_factors
from tism.first_order import tism
from tism.sequence import decode
from tism.study.cache import cached_tensors
from tism.study.ch08_agreement import PaddedSequences, placed, sequence_correlations
from tism.study.ch08_networks import ExternalModel
from tism.study.data.kircher import Locus
from tism.study.profiles import digest
from tism.study.statistics import mean_of

EXACT = 60  # substitutions that `reliability` computes for a profile
_GOOD, _WORDS = 0.7, ("reliable", "unclear", "unreliable")
_PROFILES = 40  # judged for each network, by several draws each where it has fewer sequences
_ORDERS, _STRETCH = 7, (5_000, 9_000)  # of elements put end to end; the positions that are scored
LONG = "xpresso, 4,000 bp"


def end_to_end(external: ExternalModel, loci: Sequence[Locus]) -> PaddedSequences:
    """The elements one after the other, in seven orders, with 4,000 bp around the start chosen."""
    each = [locus.one_hot for locus in loci]
    shifts = [k * len(each) // _ORDERS for k in range(_ORDERS)]
    orders = torch.cat([torch.cat(each[k:] + each[:k], 2) for k in shifts])
    room = external.length - orders.shape[2]
    joined = placed(orders, external.length, room // 2, np.arange(_ORDERS), "elements end to end")
    return replace(joined, start=_STRETCH[0], stop=_STRETCH[1])


def long_errors(external: ExternalModel, loci: Sequence[Locus]) -> pd.DataFrame:
    """`reliability_errors` of a long stretch of Xpresso's input."""
    group = end_to_end(external, loci)
    truth = sequence_correlations(external, group)["TISM", "all entries"]
    return reliability_errors(external, [group], truth).assign(kind=LONG)


def reliability_errors(
    external: ExternalModel, groups: Sequence[PaddedSequences], truth: np.ndarray
) -> pd.DataFrame:
    """One row per profile: what `reliability` finds with 60 exact substitutions, and the truth.

    groups : of `real_sequences`; truth : (n, tasks) r(ISM, TISM) of all of them, in their order

    Columns as of `ch07_estimators.reliability_errors`: kind (the network), seed (of the draw),
    locus, true, found (not calibrated), number, left; and share. A sequence has one task, tasks in
    turn.
    """
    places = [(group, row) for group in groups for row in range(len(group.one_hot))]
    chosen = np.unique(np.linspace(0, len(places) - 1, min(len(places), _PROFILES)).astype(int))
    rows = []
    for number in chosen:
        group, row = places[number]
        task = int(number) % len(external.tasks)
        label = {"kind": external.name, "locus": group.loci[row], "true": truth[number, task]}
        for seed in range(max(1, _PROFILES // len(places))):
            rows.append(label | {"seed": seed} | _found(external, group, row, task, seed))
    columns = ["kind", "seed", "locus", "true", "found", "number", "left", "share"]
    return pd.DataFrame(rows)[columns].dropna()


def _found(
    external: ExternalModel, group: PaddedSequences, row: int, task: int, seed: int
) -> dict[str, float]:
    """The estimate without calibration, and what its error depends on; kept in the cache."""
    one_hot = group.one_hot[[row]]
    content = [external.checksum, decode(one_hot), group.start, group.stop, task, seed, EXACT]
    content += [versions.SCORING, versions.MODEL, versions.ESTIMATION]

    def compute() -> dict[str, Tensor]:
        given, where = (external.model, one_hot, task), {"start": group.start, "stop": group.stop}
        result = reliability(*given, m=EXACT, seed=seed, args=external.args, **where)
        scores = tism(*given, args=external.args, **where)
        substituted = one_hot[..., group.start : group.stop] == 0
        left, share = sampling_factors(substituted, EXACT)
        found = (result.r.atanh() * (1 + CALIBRATION.bias * left * share)).tanh()
        number = effective_number(scores)
        return {"found": found, "number": number, "left": left, "share": share}

    kept = cached_tensors(f"reliability/{external.name}_{digest(content)}", compute)
    return {name: value.item() for name, value in kept.items()}


def reliability_coverage(errors: pd.DataFrame) -> pd.DataFrame:
    """How right `reliability` is about the profiles of each network, and about all networks.

    errors : of `reliability_errors`, of every network

    Returns model, true (r), error (of the estimate), coverage90 with its 95 % t interval low and
    high (over loci, in the last row over networks), width, the shares that are called reliable,
    unclear and unreliable, the share that is wrong (reliable below 0.7 or unreliable above), and n
    (loci, or networks).
    """
    names = ("found", "number", "left", "share")
    result = calibrated(*(torch.tensor(errors[name].to_numpy())[:, None] for name in names))
    r, low, high = (v[:, 0].numpy() for v in result[:3])
    said, good = np.array(result.word)[:, 0], errors["true"] >= _GOOD
    wrong = np.where(good, said == "unreliable", said == "reliable")
    covered = (low <= errors["true"]) & (errors["true"] <= high)
    judged = {"true": errors["true"], "error": r - errors["true"], "coverage90": covered}
    judged |= {"width": high - low} | {word: said == word for word in _WORDS} | {"wrong": wrong}
    keys = [errors["kind"], errors["locus"]]
    by_locus = pd.DataFrame(judged).astype(float).groupby(keys, sort=False).mean()
    groups = dict(list(by_locus.groupby(level="kind", sort=False)))
    by_kind = by_locus.groupby(level="kind", sort=False).mean()
    rows = [
        {"model": name, **group.mean(), **_interval(group)}
        for name, group in [*groups.items(), ("all", by_kind)]
    ]
    return pd.DataFrame(rows)


def _interval(group: pd.DataFrame) -> dict[str, float]:
    _, low, high, n = mean_of(group["coverage90"])
    return {"low": low, "high": min(1.0, high), "n": n}
