"""The networks of chapter 07, each with the regions and tasks on which it is judged.

An entry of a profile describes networks that differ by their seed only: kind (their name), dataset,
variant, seeds (how many), and changes of the profile's data, model and training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tism import versions
from tism.exact import ism, predict
from tism.first_order import tism
from tism.study.cache import cached_table
from tism.study.data.dataset import Dataset
from tism.study.networks import Experiment
from tism.study.profiles import Profile, digest, load_dataset
from tism.study.scores import fingerprint

_BATCHES = (16, 32, 64, 128)
_REPEATS = 5  # of a timed forward pass


@dataclass(frozen=True)
class JudgedNetwork:
    """A network on some regions, on which estimates of ISM are compared with exact ISM.

    kind : name of the networks that differ from this one by their seed only
    one_hot : (n, 4, length)
    loci : (n,) labels of regions that overlap
    tasks : groups of equally many tasks; region i has the group i modulo their number
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
        """The batch size at which forward passes take least time a sequence."""
        return min(_BATCHES, key=self._seconds_of_batch)

    def forward_seconds(self) -> float:
        """Processor seconds of a forward pass of one sequence, in batches of the best size."""
        return self._seconds_of_batch(self.batch_size)

    def _seconds_of_batch(self, size: int) -> float:
        rows, seconds = self.one_hot[torch.arange(size) % len(self.one_hot)], []
        for _ in range(_REPEATS):
            begin = time.process_time()
            predict(self.model, rows, 0, batch_size=size)
            seconds.append(time.process_time() - begin)
        return float(np.median(seconds)) / size

    def table(self, **columns: Tensor) -> pd.DataFrame:
        """One row per profile: kind, seed, locus and these values, (n, tasks) each."""
        labels = {"kind": self.kind, "seed": self.seed}
        labels["locus"] = np.repeat(self.loci, next(iter(columns.values())).shape[1])
        values = {name: v.flatten().double().numpy() for name, v in columns.items()}
        return pd.DataFrame({**labels, **values})

    def each(self, function: Callable[[Tensor, Any], tuple[Tensor, ...]]) -> list[Tensor]:
        """function(one_hot, tasks) of each group, its results in the order of the regions."""
        n_groups = len(self.tasks)
        rows = [np.arange(number, len(self.one_hot), n_groups) for number in range(n_groups)]
        parts = [function(self.one_hot[r], t) for r, t in zip(rows, self.tasks, strict=True)]
        order = np.argsort(np.concatenate(rows))
        return [torch.cat(results)[order] for results in zip(*parts, strict=True)]


def draw_regions(
    kind: str,
    model: nn.Module,
    dataset: Dataset,
    n_regions: int,
    *,
    split: str = "test",
    n_tasks: int | None = 1,
    n_groups: int = 3,
    seed: int = 0,
) -> JudgedNetwork:
    """Draw regions of a split, at most n_regions, and n_tasks tasks for each group of them.

    n_tasks : None takes all tasks, so that there is one group
    seed : of the draw, and of the network
    """
    rng, available = np.random.default_rng(seed), dataset.indices(split)
    n_regions = min(n_regions, len(available))
    rows = np.sort(rng.choice(available, n_regions, replace=False))
    tasks: list[Any] = [None]
    if n_tasks:
        groups, among = range(min(n_groups, n_regions)), len(dataset.tasks)
        tasks = [rng.choice(among, n_tasks, replace=False).tolist() for _ in groups]
    loci = dataset.regions["locus"].to_numpy()[rows]
    return JudgedNetwork(kind, model, dataset.one_hot(rows), loci, tasks, seed)


def experiment_of(profile: Profile, entry: Mapping[str, Any], seed: int) -> Experiment:
    """The network of an entry that has this seed."""
    dataset = entry["dataset"]
    changed = {
        part: {**getattr(profile, part), dataset: {**getattr(profile, part)[dataset], **change}}
        for part in ("data", "model", "training")
        if (change := entry.get(part))
    }
    return Experiment(replace(profile, **changed), dataset, entry.get("variant", "baseline"), seed)


def data_and_model(
    profile: Profile, entry: Mapping[str, Any], seed: int
) -> tuple[Dataset, nn.Module]:
    """The data set of an entry, and its network of this seed, trained."""
    experiment = experiment_of(profile, entry, seed)
    data = load_dataset(experiment.profile, experiment.dataset)
    return data, experiment.trained(progress=False)[0]


def networks_of(
    profile: Profile, entries: Sequence[Mapping[str, Any]], n_regions: int, **options: Any
) -> list[JudgedNetwork]:
    """All networks of these entries; options of `draw_regions`."""
    found = []
    for entry in entries:
        for seed in range(entry.get("seeds", 1)):
            data, model = data_and_model(profile, entry, seed)
            found.append(draw_regions(entry["kind"], model, data, n_regions, seed=seed, **options))
    return found


def kept(
    name: str,
    networks: Sequence[JudgedNetwork],
    compute: Callable[[JudgedNetwork], pd.DataFrame],
    settings: Any = None,
) -> pd.DataFrame:
    """compute(network) of all networks, one below the other; the cache keeps each of them.

    name, settings : what the table depends on beside the network, its regions and tasks
    """
    tables = []
    for network in networks:
        identity = [network.kind, network.seed, network.tasks, network.loci.tolist()]
        version = [versions.SCORING, versions.MODEL, versions.ESTIMATION]
        key = digest([fingerprint(network.model, network.one_hot), identity, version, settings])
        tables.append(cached_table(f"{name}/{key}", partial(compute, network)))
    return pd.concat(tables, ignore_index=True)


def by_network(
    values: Mapping[str, pd.DataFrame], entries: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """Numbers of single networks for the rules: claim_id, dataset, kind (variant), run, value.

    values : by claim the columns kind (as in `entries`), seed and value
    """
    described = [{"variant": "baseline", **entry} for entry in entries]
    named = pd.DataFrame(described)[["kind", "dataset", "variant"]]
    tables = [table.assign(claim_id=claim) for claim, table in values.items()]
    rows = pd.concat(tables, ignore_index=True).merge(named, on="kind")
    rows["run"] = rows["dataset"] + "_" + rows["variant"] + "_" + rows["seed"].astype(str)
    return rows.assign(kind=rows["variant"])[["claim_id", "dataset", "kind", "run", "value"]]
