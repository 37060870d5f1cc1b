"""How good estimates of ISM are, what they cost, and how well `reliability` judges TISM."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tism.agreement import Calibration, assess, calibrated, effective_number, sampling_factors
from tism.budgeted import budgeted_ism
from tism.correlations import profile_correlation
from tism.exact import ism
from tism.first_order import gradient_anywhere, tism
from tism.layerwise import depths, layerwise_tism
from tism.predictor import Job, evaluating
from tism.running import choose_batch_size
from tism.study.ch04_anatomy import correlation_where, recall
from tism.study.ch07_networks import JudgedNetwork
from tism.study.statistics import interval

BUDGETED = "budgeted"
COLUMN_NAMES = {  # of `estimator_table`, for readers
    "n_tasks": "tasks",
    "mean_r": "mean r",
    "r_not_exact": "r, not exact",
    "recall20": "top 20",
    "share_not_below_tism": "not below TISM",
    "gap_closed": "gap closed",
}
_SLACK = 1e-6  # correlations that differ by rounding are equal
_STRIDE = 8  # of positions that move together in `midpoints`


@dataclass(frozen=True)
class Estimator:
    """A way to estimate ISM.

    run : maps model, one_hot, tasks and m to the estimate, (n, tasks, 4, length), and a mask of the
        entries that are exact, (n, 4, length)
    m : numbers of exact substitutions to try; None alone if the estimator has no such number
    """

    run: Callable[..., tuple[Tensor, Tensor]]
    m: Sequence[int | None] = (None,)


def estimators(
    layers: Sequence[str] = (), *, m: Sequence[int], m_in_full: Sequence[int]
) -> dict[str, Estimator]:
    """The estimators compared, by name.

    layers : where layer-wise TISM expands
    m : exact substitutions of budgeted ISM on windows
    m_in_full : those of budgeted ISM where each takes a forward pass, as in a black box
    """

    def expansion(depth: int | str) -> Estimator:
        return Estimator(
            lambda model, x, tasks, _: (layerwise_tism(model, x, tasks, depth=depth), x == 1)
        )

    def budgeted(engine: str, numbers: Sequence[int]) -> Estimator:
        def run(model: nn.Module, x: Tensor, tasks: Any, m: int) -> tuple[Tensor, Tensor]:
            return budgeted_ism(model, x, tasks, m=m, engine=engine)[:2]

        return Estimator(run, numbers)

    known = {"TISM": Estimator(lambda model, x, tasks, _: (tism(model, x, tasks), x == 1))}
    known |= {f"layer-wise, {layer}": expansion(layer) for layer in layers}
    return known | {
        BUDGETED: budgeted("windowed", m),
        "budgeted, black box": budgeted("full", m_in_full),
        "midpoints": Estimator(lambda model, x, tasks, _: (midpoints(model, x, tasks), x == 1)),
        "ISM": Estimator(lambda model, x, tasks, _: (ism(model, x, tasks), x >= 0)),
    }


def midpoints(model: nn.Module, one_hot: Tensor, tasks: Any = None) -> Tensor:
    """(n, n_tasks, 4, length): gradients half-way along the substitutions, for 24 gradients.

    Half-way, the gradient is exact for terms up to the second order in one position. Every eighth
    position moves at once, and those that move together disturb each other.
    """
    scores = 0.0
    size = choose_batch_size(None, one_hot.shape[2], one_hot.device)
    window = range(one_hot.shape[2])
    with evaluating(model) as predict:
        for shift, phase in product((1, 2, 3), range(_STRIDE)):
            alternate = one_hot.roll(shift, 1)
            moved = (torch.arange(one_hot.shape[2]) % _STRIDE == phase) * (alternate - one_hot)
            gradient = gradient_anywhere(Job(predict, one_hot + moved / 2, tasks, window, size))
            effect = (gradient * moved[:, None]).sum(2, keepdim=True)
            scores = scores + effect * alternate[:, None]
    return scores


def estimator_profiles(network: JudgedNetwork, known: dict[str, Estimator]) -> pd.DataFrame:
    """Every estimator and m on every profile of a network, one row each.

    known : of `estimators`

    Returns kind, seed, locus, r (with ISM), of_tism (r of TISM with ISM), r_not_exact, recall20,
    n_tasks, seconds, cost, estimator, m; see `estimator_table`.
    """
    tables = []
    for name, estimator in known.items():
        for m in estimator.m:
            table = _quality(network, estimator, m).assign(estimator=name, m=m)
            tables.append(table.astype({"m": float}))
    return pd.concat(tables, ignore_index=True)


def _quality(network: JudgedNetwork, estimator: Estimator, m: int | None) -> pd.DataFrame:
    exact, taylor = network.maps
    seconds, costs = [], []  # a sequence, one value each group of tasks

    def timed(x: Tensor, tasks: Any) -> tuple[Tensor, Tensor]:
        forward_pass = network.forward_seconds()
        begin = time.process_time()
        result = estimator.run(network.model, x, tasks, m)
        seconds.append((time.process_time() - begin) / len(x))
        costs.append(seconds[-1] / forward_pass)
        return result

    scores, is_exact = network.each(timed)
    table = network.table(
        r=profile_correlation(exact, scores),
        of_tism=profile_correlation(exact, taylor),
        r_not_exact=correlation_where(exact, scores, ~is_exact[:, None]),
        recall20=recall(exact, scores, 20),
    )
    medians = {"seconds": np.median(seconds), "cost": np.median(costs)}
    return table.assign(n_tasks=exact.shape[1], **medians)


def estimator_table(profiles: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and measured cost of estimators, one row per kind of network, estimator and m.

    profiles : of `estimator_profiles`, of any networks

    Returns network (the kind), estimator, n_tasks, m (exact substitutions a sequence), cost
    (processor time over that of a forward pass just before, median of the groups of regions),
    mean_r with its 95 % interval low and high (over networks and, within, loci),
    r_not_exact (over the substitutions that are not exact), recall20 (of the 20 largest effects),
    share_not_below_tism, n_profiles, gap_closed (share of 1 - r that TISM leaves), seconds (a
    sequence), n_networks.
    """
    rows = []
    by = ["kind", "estimator", "n_tasks", "m"]
    for key, group in profiles.groupby(by, sort=False, dropna=False):
        group = group[group["of_tism"].notna()]
        by_network = group.groupby("seed")[["cost", "seconds"]].first().median()
        low, high = interval(group, "r")
        rows.append(
            {
                **dict(zip(["network", *by[1:]], key, strict=True)),
                "cost": by_network["cost"],
                **{"mean_r": group["r"].mean(), "low": low, "high": high},
                "r_not_exact": group["r_not_exact"].mean(),
                "recall20": group["recall20"].mean(),
                "share_not_below_tism": (group["r"] >= group["of_tism"] - _SLACK).mean(),
                "n_profiles": int(group["r"].notna().sum()),
                "gap_closed": 1 - (1 - group["r"]).mean() / (1 - group["of_tism"]).mean(),
                "seconds": by_network["seconds"],
                "n_networks": group["seed"].nunique(),
            }
        )
    return pd.DataFrame(rows)


def r_at_cost(profiles: pd.DataFrame, cost: float) -> pd.DataFrame:
    """Mean r of budgeted ISM at the largest m whose cost is at most this: kind, seed, value.

    profiles : of `estimator_profiles`; the value of a network without such an m is NaN
    """
    rows = profiles[profiles["estimator"] == BUDGETED]
    networks = pd.MultiIndex.from_frame(rows[["kind", "seed"]].drop_duplicates())
    rows = rows[rows["cost"] <= cost]
    largest = rows["m"] == rows.groupby(["kind", "seed"])["m"].transform("max")
    r = rows[largest].groupby(["kind", "seed"])["r"].mean()
    return r.reindex(networks).rename("value").reset_index()


def depth_profiles(network: JudgedNetwork) -> pd.DataFrame:
    """r with ISM of every profile at every depth: kind, seed, locus, r, depth, layer."""
    tables = []
    for depth, layer in enumerate(depths(network.model, network.one_hot)):
        (scores,) = network.each(
            lambda x, tasks, depth=depth: (layerwise_tism(network.model, x, tasks, depth=depth),)
        )
        r = profile_correlation(network.maps[0], scores)
        tables.append(network.table(r=r).assign(depth=depth, layer=layer))
    return pd.concat(tables, ignore_index=True)


def depth_table(profiles: pd.DataFrame) -> pd.DataFrame:
    """r with ISM by the depth of expansion, one row per kind of network and depth.

    Columns: network (the kind), depth, layer, mean_r, low, high, n_profiles, n_networks.

    The rise from one depth to the next is what the non-linearity between them costs TISM.

    profiles : of `depth_profiles`, of any networks
    """
    rows = []
    for key, group in profiles.groupby(["kind", "depth", "layer"], sort=False):
        r = group["r"]
        n = r.count(), group["seed"].nunique()
        rows.append((*key, r.mean(), *interval(group, "r"), *n))
    columns = ["network", "depth", "layer", "mean_r", "low", "high", "n_profiles", "n_networks"]
    return pd.DataFrame(rows, columns=columns)


def reliability_errors(network: JudgedNetwork, m: int) -> pd.DataFrame:
    """One row per profile: what `reliability` finds with m exact substitutions, and the truth.

    Each task has its own substitutions, as `reliability` of one task draws them.

    Returns kind, seed (of the network), locus, true (r), found (r, not calibrated), number (of
    substitutions on which TISM effectively rests), left (the sampling-error factor of m).
    """
    exact, taylor = network.maps
    generator = torch.Generator().manual_seed(0)
    columns: dict[str, list[Tensor]] = {"true": [], "found": [], "number": [], "left": []}
    for task in range(exact.shape[1]):
        scores, effects = taylor[:, [task]], exact[:, [task]]
        effects_of_chosen = effects.movedim(1, -1).__getitem__
        order = torch.rand(network.one_hot.flatten(1).shape, generator=generator)
        begin = torch.rand(len(order), 1, dtype=torch.float64, generator=generator)
        found = assess(scores, network.one_hot, effects_of_chosen, m, (order, begin))
        columns["true"].append(profile_correlation(effects, scores))
        columns["found"].append(found)
        columns["number"].append(effective_number(scores))
        columns["left"].append(sampling_factors(network.one_hot == 0, m)[0])
    return network.table(**{name: torch.cat(v, 1) for name, v in columns.items()}).dropna()


def fit_calibration(errors: pd.DataFrame) -> Calibration:
    """The constants of `reliability` from the errors of networks that it is not judged by.

    Kinds of network weigh alike. Bias and size of the errors of atanh r are fitted by maximum
    likelihood, the true value having a Laplace distribution about what the found one predicts.

    errors : see `reliability_errors`
    """
    from scipy.optimize import minimize

    weight = 1 / errors.groupby("kind")["kind"].transform("size").to_numpy()
    found = np.arctanh(errors["found"].to_numpy(float))
    true = np.arctanh(errors["true"].clip(-0.999, 0.999).to_numpy(float))
    number, left = np.log(errors["number"].to_numpy()), errors["left"].to_numpy(float)

    def standardised(constants: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_scale, power, decay, bias = constants
        log_size = log_scale + power * number + decay * np.log(left)
        return (found / (1 + bias * left) - true) * np.exp(-log_size), log_size

    def loss(constants: np.ndarray) -> float:
        error, log_size = standardised(constants)
        return float(np.sum(weight * (log_size + np.abs(error))))

    constants = minimize(loss, [-1.0, -0.3, 1.0, 0.1], method="Nelder-Mead").x
    error, _ = standardised(constants)
    order = np.argsort(error)
    share = np.cumsum(weight[order]) / weight.sum()
    low, high = error[order][np.searchsorted(share, [0.05, 0.95])]
    log_scale, power, decay, bias = map(float, constants)
    return Calibration(float(np.exp(log_scale)), power, decay, bias, float(low), float(high))


def reliability_table(errors: dict[int, pd.DataFrame], calibration: Calibration) -> pd.DataFrame:
    """How well `reliability` does, one row per kind of network and m, and one for all together.

    errors : for each m, see `reliability_errors`

    Returns network, m, mae (mean absolute error of r), mae_constant (of taking the median r of all
    profiles), coverage90 with its 95 % interval coverage_low and coverage_high (over networks),
    width (mean), n_profiles.
    """
    rows = []
    for m, table in errors.items():
        table = table.assign(**judged(table, calibration))
        median = table["true"].median()
        for kind, group in [*table.groupby("kind", sort=False), ("all", table)]:
            low, high = interval(group, "covered")
            row = {"network": kind, "m": m, "mae": (group["r"] - group["true"]).abs().mean()}
            row |= {"mae_constant": (group["true"] - median).abs().mean()}
            row |= {"coverage90": group["covered"].mean(), "coverage_low": low}
            row |= {"coverage_high": high, "width": group["width"].mean()}
            rows.append({**row, "n_profiles": len(group)})
    return pd.DataFrame(rows)


def judged(table: pd.DataFrame, calibration: Calibration) -> dict[str, Any]:
    """The calibrated r of each profile, 1 if its interval covers the true r, and its width."""
    values = (torch.tensor(table[name].to_numpy())[:, None] for name in ("found", "number", "left"))
    found = calibrated(*values, torch.ones(1, 1), calibration)  # no profile here exceeds 251 bp
    r, low, high = (v[:, 0].numpy() for v in found[:3])
    covered = (low <= table["true"]) & (table["true"] <= high)
    return {"r": r, "covered": covered.astype(float), "width": high - low}
