"""How good the estimators are at what cost: the tables of the chapter beyond first order.

A `Trained` is a network with the regions on which its estimators are compared with exact ISM.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tism import versions
from tism.agreement import Calibration, assess, calibrated, effective_number, sampling_factor
from tism.correlations import pearson, profile_correlation
from tism.exact import ism, predict
from tism.first_order import gradient_anywhere, tism
from tism.layerwise import depths, layerwise_tism
from tism.predictor import evaluating
from tism.running import choose_batch_size
from tism.study.cache import cached_table
from tism.study.ch07_budgets import budgeted_by_passes
from tism.study.data.dataset import Dataset
from tism.study.networks import Experiment
from tism.study.profiles import Profile, digest, load_dataset
from tism.study.scores import fingerprint
from tism.study.statistics import interval

BUDGETS = (25, 50, 100)
_TOP = 20
_SLACK = 1e-6  # correlations that differ by rounding are equal
_BATCHES = (16, 32, 64, 128)


@dataclass(frozen=True)
class Trained:
    """A network on some regions, each with tasks of its own.

    kind : what networks that differ by their seed only have in common
    one_hot : (n, 4, length)
    loci : (n,) labels of regions that overlap
    tasks : groups of equally many tasks; region i has group i modulo their number
    seed : tells networks of one kind apart
    """

    kind: str
    model: nn.Module
    one_hot: Tensor
    loci: np.ndarray
    tasks: list[Any]
    seed: int = 0

    @cached_property
    def maps(self) -> tuple[Tensor, Tensor]:
        """ISM and TISM of the regions in their tasks, (n, tasks, 4, length) each."""
        return tuple(self.each(lambda x, t: (ism(self.model, x, t), tism(self.model, x, t))))

    @cached_property
    def batch_size(self) -> int:
        """Of forward passes, the one that takes least time a sequence."""
        return min(_BATCHES, key=lambda size: _seconds_of_batch(self, size, 5))

    def table(self, **columns: Tensor) -> pd.DataFrame:
        """One row a profile: kind, seed, locus and these values, (n, tasks) each."""
        labels = {"kind": self.kind, "seed": self.seed}
        labels["locus"] = np.repeat(self.loci, next(iter(columns.values())).shape[1])
        values = {name: v.flatten().double().numpy() for name, v in columns.items()}
        return pd.DataFrame({**labels, **values})

    def groups(self) -> Iterator[tuple[Any, np.ndarray]]:
        """Tasks, and the rows of the regions that have them."""
        for number, tasks in enumerate(self.tasks):
            yield tasks, np.arange(number, len(self.one_hot), len(self.tasks))

    def each(self, function: Callable[[Tensor, Any], tuple[Tensor, ...]]) -> list[Tensor]:
        """function(one_hot, tasks) of each group, its results in the order of the regions."""
        parts = [function(self.one_hot[rows], tasks) for tasks, rows in self.groups()]
        order = np.argsort(np.concatenate([rows for _, rows in self.groups()]))
        return [torch.cat(results)[order] for results in zip(*parts, strict=True)]


def trained(
    kind: str,
    model: nn.Module,
    dataset: Dataset,
    n_regions: int,
    *,
    split: str = "test",
    n_tasks: int | None = 1,
    n_groups: int = 3,
    seed: int = 0,
) -> Trained:
    """Draw regions of a split and tasks for each group of them; all tasks where n_tasks is None.

    seed : of the draw, and what tells the network from others of its kind
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(dataset.indices(split), n_regions, replace=False))
    number = len(dataset.tasks)
    tasks = (
        [
            rng.choice(number, n_tasks, replace=False).tolist()
            for _ in range(min(n_groups, n_regions))
        ]
        if n_tasks
        else [None]
    )
    loci = dataset.regions["locus"].to_numpy()[rows]
    return Trained(kind, model, dataset.one_hot(rows), loci, tasks, seed)


@dataclass(frozen=True)
class Estimator:
    """A way to estimate ISM.

    run : (model, one_hot, tasks, budget) to estimate, (n, tasks, 4, length), and the entries that
        are exact, (n, 4, length)
    budgets : None alone where the cost cannot be chosen
    default : whether it is the recommended one
    """

    run: Callable[..., tuple[Tensor, Tensor]]
    budgets: Sequence[int | None] = (None,)
    default: bool = False


def estimators(
    layers: Sequence[str] = (), budgets: Sequence[int] = BUDGETS
) -> dict[str, Estimator]:
    """The estimators compared, by name: TISM, layers of expansion, budgets, and ISM itself."""

    def expansion(depth: int | str) -> Estimator:
        return Estimator(
            lambda model, x, tasks, _: (layerwise_tism(model, x, tasks, depth=depth), x == 1)
        )

    def budgeted(engine: str, default: bool) -> Estimator:
        def run(model: nn.Module, x: Tensor, tasks: Any, budget: int) -> tuple[Tensor, Tensor]:
            return budgeted_by_passes(model, x, tasks, budget=budget, engine=engine)[:2]

        return Estimator(run, budgets, default)

    known = {"TISM": Estimator(lambda model, x, tasks, _: (tism(model, x, tasks), x == 1))}
    known |= {f"layer-wise, {layer}": expansion(layer) for layer in layers}
    return known | {
        "budgeted": budgeted("windowed", True),
        "budgeted, black box": budgeted("full", False),
        "midpoints": Estimator(lambda model, x, tasks, _: (midpoints(model, x, tasks), x == 1)),
        "ISM": Estimator(lambda model, x, tasks, _: (ism(model, x, tasks), x >= 0)),
    }


def midpoints(model: nn.Module, one_hot: Tensor, tasks: Any = None, stride: int = 8) -> Tensor:
    """Gradients half-way along the substitutions, every `stride`-th position moved at once.

    Half-way the gradient is exact for what is of second order in single positions; but those that
    move together disturb each other. (n, n_tasks, 4, length) for 3 * stride gradients.
    """
    scores = 0.0
    size = choose_batch_size(None, one_hot.shape[2], one_hot.device)
    with evaluating(model) as predict:
        for shift, phase in product((1, 2, 3), range(stride)):
            alternate = one_hot.roll(shift, 1)
            moved = (torch.arange(one_hot.shape[2]) % stride == phase) * (alternate - one_hot)
            gradient = gradient_anywhere(predict, one_hot + moved / 2, tasks, size)
            effect = (gradient * moved[:, None]).sum(2, keepdim=True)
            scores = scores + effect * alternate[:, None]
    return scores


def estimator_profiles(network: Trained, known: dict[str, Estimator]) -> pd.DataFrame:
    """Every estimator and budget on every profile of a network, one row each.

    Returns kind, seed, locus, estimator, default, n_tasks, budget, cost_measured, seconds, r (with
    ISM), of_tism (the r of TISM), r_not_exact, recall20; see `estimator_table`.
    """
    frames = []
    for name, estimator in known.items():
        for budget in estimator.budgets:
            row = {"estimator": name, "default": estimator.default, "budget": budget}
            frames.append(_quality(network, estimator, budget).assign(**row))
    return pd.concat([frame.astype({"budget": float}) for frame in frames], ignore_index=True)


def _quality(network: Trained, estimator: Estimator, budget: int | None) -> pd.DataFrame:
    exact, first = network.maps
    seconds, costs = [], []  # a sequence, of each group

    def timed(x: Tensor, tasks: Any) -> tuple[Tensor, Tensor]:
        unit = forward_seconds(network)
        begin = time.process_time()
        result = estimator.run(network.model, x, tasks, budget)
        seconds.append((time.process_time() - begin) / len(x))
        costs.append(seconds[-1] / unit)
        return result

    scores, known = network.each(timed)
    table = network.table(
        r=profile_correlation(exact, scores),
        of_tism=profile_correlation(exact, first),
        r_not_exact=correlation_where(exact, scores, ~known),
        recall20=recall(exact, scores),
    )
    taken = {"seconds": np.median(seconds), "cost_measured": np.median(costs)}
    return table.assign(n_tasks=exact.shape[1], **taken)


def estimator_table(profiles: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and measured cost of estimators, one row a kind of network, estimator and budget.

    profiles : of `estimator_profiles`, of any networks; several of one kind make one row

    Returns network, estimator, default, n_tasks, budget (forward passes a sequence), cost_measured
    (processor time over that of a forward pass just before, median of the groups of regions),
    mean_r with its 95 % interval low and high (over networks and, within, loci), r_not_exact (over
    the substitutions that are not exact), recall20 (of the 20 largest effects),
    share_not_below_tism, n_profiles, gap_closed (share of 1 - r that TISM leaves), seconds (a
    sequence), n_networks.
    """
    rows = []
    by = ["kind", "n_tasks", "estimator", "default", "budget"]
    for key, some in profiles.groupby(by, sort=False, dropna=False):
        some = some[some["of_tism"].notna()]
        low, high = interval(some, "r")
        rows.append(
            {
                **dict(zip(["network", *by[1:]], key, strict=True)),
                "cost_measured": some.groupby("seed")["cost_measured"].first().median(),
                "mean_r": some["r"].mean(),
                "low": low,
                "high": high,
                "r_not_exact": some["r_not_exact"].mean(),
                "recall20": some["recall20"].mean(),
                "share_not_below_tism": (some["r"] >= some["of_tism"] - _SLACK).mean(),
                "n_profiles": int(some["r"].notna().sum()),
                "gap_closed": 1 - (1 - some["r"]).mean() / (1 - some["of_tism"]).mean(),
                "seconds": some.groupby("seed")["seconds"].first().median(),
                "n_networks": some["seed"].nunique(),
            }
        )
    order = "network estimator default n_tasks budget cost_measured mean_r low high r_not_exact"
    order += " recall20 share_not_below_tism n_profiles gap_closed seconds n_networks"
    return pd.DataFrame(rows)[order.split()]


def forward_seconds(network: Trained, repeats: int = 5) -> float:
    """Processor seconds of a forward pass of one sequence, in batches of the best size."""
    return _seconds_of_batch(network, network.batch_size, repeats)


def _seconds_of_batch(network: Trained, size: int, repeats: int) -> float:
    rows, seconds = network.one_hot[torch.arange(size) % len(network.one_hot)], []
    for _ in range(repeats):
        begin = time.process_time()
        predict(network.model, rows, 0, batch_size=size)
        seconds.append(time.process_time() - begin)
    return float(np.median(seconds)) / size


def correlation_where(first: Tensor, second: Tensor, kept: Tensor) -> Tensor:
    """(n, tasks): Pearson over the entries kept, (n, 4, length); NaN below three of them."""
    nan = torch.full(first.shape[1:2], float("nan"), dtype=torch.float64)
    return torch.stack(
        [
            pearson(a[:, k], b[:, k]) if k.sum() > 2 else nan
            for a, b, k in zip(first, second, kept, strict=True)
        ]
    )


def recall(exact: Tensor, scores: Tensor, k: int = _TOP) -> Tensor:
    """(n, tasks): share of the k largest effects that are among the k largest estimates."""
    true, found = (s.abs().flatten(2).topk(k).indices for s in (exact, scores))
    return (true[..., None] == found[..., None, :]).any(-1).double().mean(-1)


def depth_profiles(network: Trained) -> pd.DataFrame:
    """r with ISM of every profile at every depth: kind, seed, locus, depth, layer, r."""
    frames = []
    for depth, layer in enumerate(depths(network.model, network.one_hot)):
        (scores,) = network.each(
            lambda x, tasks, d=depth: (layerwise_tism(network.model, x, tasks, depth=d),)
        )
        r = profile_correlation(network.maps[0], scores)
        frames.append(network.table(r=r).assign(depth=depth, layer=layer))
    return pd.concat(frames, ignore_index=True)


def depth_table(profiles: pd.DataFrame) -> pd.DataFrame:
    """r with ISM by the depth of expansion: network, depth, layer, mean_r, low, high, n_profiles.

    The rise from one depth to the next is what the non-linearity between them costs TISM.

    profiles : of `depth_profiles`, of any networks
    """
    rows = []
    for key, some in profiles.groupby(["kind", "depth", "layer"], sort=False):
        low, high = interval(some, "r")
        row = dict(zip(["network", "depth", "layer"], key, strict=True))
        row |= {"mean_r": some["r"].mean(), "low": low, "high": high}
        rows.append({**row, "n_profiles": int(some["r"].notna().sum())})
    return pd.DataFrame(rows)


def reliability_errors(network: Trained, m: int, seed: int = 0) -> pd.DataFrame:
    """One row a profile: kind, seed (of the network), locus, true r, found r (not calibrated), the
    effective number of substitutions on which TISM rests, and what m leaves to chance.

    The substitutions are drawn for each task alone, as for `reliability` of one task.
    """
    exact, first = network.maps
    generator = torch.Generator().manual_seed(seed)
    columns: dict[str, list[Tensor]] = {"true": [], "found": [], "number": [], "left": []}
    for task in range(exact.shape[1]):
        base, effects = first[:, [task]], exact[:, [task]]
        of_chosen = effects.movedim(1, -1).__getitem__
        found = assess(base, network.one_hot, of_chosen, m, generator)
        left = sampling_factor(network.one_hot == 0, m)
        values = (profile_correlation(effects, base), found, effective_number(base), left)
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    return network.table(**{name: torch.cat(v, 1) for name, v in columns.items()}).dropna()


def fit_calibration(errors: pd.DataFrame, weights: dict[str, float] | None = None) -> Calibration:
    """The constants of `reliability` from the errors of networks that it is not judged by.

    errors : see `reliability_errors`
    weights : of each kind of network, 1 unless told; networks of one kind share it

    Bias and size of the errors of atanh r are fitted by maximum likelihood, the true value having
    a Laplace distribution about what the found one predicts.
    """
    from scipy.optimize import minimize

    kinds = errors.groupby("kind")["kind"].transform("size")
    weight = (errors["kind"].map(weights or {}).fillna(1) / kinds).to_numpy()
    found, true = np.arctanh(errors["found"]), np.arctanh(errors["true"].clip(-0.999, 0.999))
    found, true, left = (np.asarray(v, dtype=float) for v in (found, true, errors["left"]))
    number = np.log(errors["number"].to_numpy())

    def standard(constants: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_scale, power, decay, bias = constants
        log_size = log_scale + power * number + decay * np.log(left)
        return (found / (1 + bias * left) - true) * np.exp(-log_size), log_size

    def loss(constants: np.ndarray) -> float:
        error, log_size = standard(constants)
        return float(np.sum(weight * (log_size + np.abs(error))))

    constants = minimize(loss, [-1.0, -0.3, 1.0, 0.1], method="Nelder-Mead").x
    error, _ = standard(constants)
    order = np.argsort(error)
    share = np.cumsum(weight[order]) / weight.sum()
    low, high = error[order][np.searchsorted(share, [0.05, 0.95])]
    log_scale, power, decay, bias = map(float, constants)
    return Calibration(float(np.exp(log_scale)), power, decay, bias, float(low), float(high))


def reliability_table(errors: dict[int, pd.DataFrame], calibration: Calibration) -> pd.DataFrame:
    """How well `reliability` does, one row a kind of network and m, and one for all together.

    errors : for each m, see `reliability_errors`

    Returns network, m, mae, mae_constant (of the median of all profiles), coverage90 with its 95 %
    interval coverage_low and coverage_high (over networks), width (mean), n_profiles.
    """
    rows = []
    for m, table in errors.items():
        table = table.assign(**judged(table, calibration))
        for kind, some in [*table.groupby("kind", sort=False), ("all", table)]:
            rows.append({"network": kind, "m": m, **_reliability_row(some, table["true"].median())})
    return pd.DataFrame(rows)


def judged(table: pd.DataFrame, calibration: Calibration) -> dict[str, Any]:
    """Of each profile: the calibrated r, whether its interval holds the true one, its width."""
    values = (torch.tensor(table[name].to_numpy())[:, None] for name in ("found", "number", "left"))
    r, low, high = (v[:, 0].numpy() for v in calibrated(*values, calibration)[:3])
    covered = (low <= table["true"]) & (table["true"] <= high)
    return {"r": r, "covered": covered.astype(float), "width": high - low}


def _reliability_row(some: pd.DataFrame, constant: float) -> dict[str, float]:
    low, high = interval(some, "covered")
    return {
        "mae": (some["r"] - some["true"]).abs().mean(),
        "mae_constant": (some["true"] - constant).abs().mean(),
        "coverage90": some["covered"].mean(),
        "coverage_low": low,
        "coverage_high": high,
        "width": some["width"].mean(),
        "n_profiles": len(some),
    }


def experiment_of(profile: Profile, entry: Mapping[str, Any], seed: int) -> Experiment:
    """A network of an entry; see the top of this module."""
    dataset = entry["dataset"]
    changed = {
        part: {**getattr(profile, part), dataset: {**getattr(profile, part)[dataset], **change}}
        for part in ("data", "model", "training")
        if (change := entry.get(part))
    }
    return Experiment(replace(profile, **changed), dataset, entry.get("variant", "baseline"), seed)


def networks_of(
    profile: Profile, entries: Sequence[Mapping[str, Any]], n_regions: int, **draw: Any
) -> list[Trained]:
    """The networks of entries, each with regions and tasks of its own, as `trained` draws them.

    draw : split, n_tasks and n_groups of `tism.study.ch07_estimators.trained`
    """
    found = []
    for entry in entries:
        for seed in range(entry.get("seeds", 1)):
            experiment = experiment_of(profile, entry, seed)
            data, model = (
                load_dataset(experiment.profile, experiment.dataset),
                experiment.trained(progress=False)[0],
            )
            n = min(n_regions, len(data.indices(draw.get("split", "test"))))
            found.append(trained(entry["kind"], model, data, n, seed=seed, **draw))
    return found


def kept(
    name: str,
    networks: Sequence[Trained],
    compute: Callable[[Trained], pd.DataFrame],
    settings: Any = None,
) -> pd.DataFrame:
    """compute(network) of all networks, one below the other; each is kept in the cache.

    name, settings : what the table depends on beside the network, its regions and tasks
    """
    frames = []
    for network in networks:
        own = [network.kind, network.seed, network.tasks]
        made = [versions.SCORING, versions.MODEL, versions.ESTIMATION]
        key = digest([fingerprint(network.model, network.one_hot), own, made, settings])
        frames.append(cached_table(f"{name}/{key}", lambda own=network: compute(own)))
    return pd.concat(frames, ignore_index=True)
