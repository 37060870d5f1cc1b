"""What chapter 06 compares: networks of random weights, and every method that scores them.

tangermeme (Schreiber 2025), captum (Kokhlikyan et al. 2020) and Yuzu (Schreiber et al. 2022) come
with the extra `peers`. They are called as their authors mean them, in this package's shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from tism.exact import ism
from tism.first_order import tism
from tism.model import build_model
from tism.study.bench import random_sequences
from tism.study.profiles import default_device
from tism.study.timing import threads_kept
from tism.taylor import tism_from_gradient

PEERS = ("tangermeme", "captum", "yuzu-ism")  # their distributions
PAPER_BATCH = 20
_BATCH_SIZES = (1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 2560)


@dataclass(frozen=True)
class Job:
    """One comparison: sequences of one length through one network.

    network : "baseline" (the paper's, 5 convolutions), "shallow" or "deep" (its Fig 2: 3
        convolutions and 2 dense layers, 8 and 3, each before the output)
    length, n_sequences : of the input
    pool : positions of every pooling window of the baseline
    width : kernels of a convolution of the baseline; those of the others scale with it
    n_tasks : outputs
    """

    network: str
    length: int
    n_sequences: int
    pool: int = 2
    width: int = 298
    n_tasks: int = 81

    def model(self) -> nn.Module:
        """The untrained network."""
        if self.network != "baseline":
            deep = self.network == "deep"
            return build_aitac(self.length, self.n_tasks, deep=deep, width=self.width)
        shape = {"length": self.length, "n_tasks": self.n_tasks}
        return build_model("baseline", **shape, width=self.width, pool=self.pool, seed=0)

    def sequences(self) -> Tensor:
        """(n_sequences, 4, length) random bases."""
        return random_sequences(self.n_sequences, self.length)


def build_aitac(length: int, n_tasks: int, *, deep: bool, width: int = 298) -> nn.Sequential:
    """The untrained networks of the paper's Fig 2: AI-TAC (Maslova et al. 2020) and a deeper one.

    Three convolutions of 300, 200 and 200 kernels of 19, 11 and 7 bp, pooled by 3, 4 and 4, and two
    dense layers of 1,000; or eight and three, the further convolutions being of 200 kernels of 7.
    At 298, `width` gives these sizes. Yuzu needs a plain sequence of layers, and its own flattening
    layer where it is installed.
    """
    try:
        from yuzu.models import Flatten
    except ImportError:
        Flatten = _Flatten
    wide, narrow, dense = (max(1, round(size * width / 298)) for size in (300, 200, 1000))
    plain = (narrow, 7, 1)  # kernels, their width, pooling
    convolutions = [(wide, 19, 3), (narrow, 11, 4), (narrow, 7, 4)]
    if deep:
        convolutions = [*convolutions[:2], plain, plain, convolutions[2], plain, plain, plain]
    layers: list[nn.Module] = []
    channels, positions = 4, length
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for kernels, kernel, pool in convolutions:
            layers += [nn.Conv1d(channels, kernels, kernel, padding=kernel // 2), nn.ReLU()]
            layers += [nn.BatchNorm1d(kernels)] + [nn.MaxPool1d(pool)] * (pool > 1)
            channels, positions = kernels, positions // pool
        layers.append(Flatten())
        features = channels * positions
        for _ in range(3 if deep else 2):
            layers += [nn.Linear(features, dense), nn.ReLU(), nn.BatchNorm1d(dense)]
            features = dense
        model = nn.Sequential(*layers, nn.Linear(features, n_tasks)).eval()
        for layer in model:
            if isinstance(layer, nn.Conv1d | nn.Linear):  # an effect survives all the layers
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        return model


class _Flatten(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, length) to (n, length * channels)."""
        return x.mT.flatten(1)


def _peer(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{error}; the peers come with: pip install 'tism[peers]'") from None


def tangermeme_ism(
    model: nn.Module,
    one_hot: Tensor,
    *,
    batch_size: int,
    fast: bool,
    start: int = 0,
    stop: int | None = None,
) -> Tensor:
    """`saturation_mutagenesis` of tangermeme as (n, n_tasks, 4, stop - start) changes of output.

    one_hot : (n, 4, length)
    batch_size : substitutions at once
    fast : use tangermeme's own windows, also for jobs shorter than the 30 s below which it does not
        try them; it falls back, with a warning, where they fail or are slower
    """
    module = _peer("tangermeme.saturation_mutagenesis")
    options = {"raw_outputs": True, "fast": fast, "device": str(_home(model))}
    span = {"start": start, "end": -1 if stop is None else stop}
    with mock.patch.object(module, "_FAST_MIN_SECONDS", 0.0):
        before, after = module.saturation_mutagenesis(
            model, one_hot, batch_size=batch_size, **span, **options
        )
    return (after - before[:, None, None]).permute(0, 3, 1, 2)


def captum_tism(model: nn.Module, one_hot: Tensor, task: int, *, batch_size: int) -> Tensor:
    """TISM of one task, (n, 1, 4, length), from captum's `Saliency`, which is the gradient."""
    saliency = _peer("captum.attr").Saliency(model)
    parts = [
        saliency.attribute(rows.to(_home(model), copy=True).requires_grad_(), task, abs=False).cpu()
        for rows in one_hot.split(batch_size)
    ]
    return tism_from_gradient(torch.cat(parts)[:, None].detach(), one_hot)


def _home(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@lru_cache(maxsize=1)
def yuzu_of(job: Job) -> Callable[[Tensor, int], Tensor]:
    """Exact ISM of a job's network by compressed sensing (Yuzu), prepared for its length.

    The preparation takes longer than one full ISM. Returns a function of (n, 4, length) and a batch
    size: the Euclidean norms over the tasks, (n, 4, length), of what each substitution changes.
    Yuzu gives no effect of a task and no sign.
    """
    yuzu, model = _peer("yuzu"), job.model()
    with threads_kept():
        torch.set_num_threads(1)  # it inverts many small matrices, which more would slow down
        prepared = yuzu.precompute(model, seq_len=job.length, n_choices=4, random_state=0)
    return lambda one_hot, batch_size: torch.from_numpy(
        yuzu.yuzu_ism(model, one_hot.float().numpy(), prepared, batch_size=batch_size)
    )


def _on_cuda() -> bool:
    return torch.device(default_device()).type == "cuda"


def _most_bases() -> int:
    """Most bases in a batch: their activations in 300 channels take 150 MB (CPU), 1.2 GB (GPU)."""
    return 2**20 if _on_cuda() else 2**17


def _substitution_batches(job: Job) -> list[int]:
    """Batch sizes of substituted sequences to try, the paper's among them."""
    most = max(PAPER_BATCH, min(_most_bases() // job.length, 3 * job.length))
    return [size for size in _BATCH_SIZES if 5 <= size <= most]


def _gradient_batches(job: Job) -> list[int]:
    """Batch sizes of whole sequences to try; half as many bases as in a batch without a graph."""
    most = min(job.n_sequences, max(1, _most_bases() // (2 * job.length)))
    return [size for size in _BATCH_SIZES if most / 16 <= size <= most]


class TimedMethod(NamedTuple):
    """A method that is timed.

    run : maps what `prepare` returns and one_hot, by keyword batch_size and, for the unit
        "positions", start and stop, to scores
    batch_sizes : those of a job to choose from; None is the method's own choice
    unit : the least that it can do: some "positions" of a sequence or a whole "sequence", with a
        batch of substitutions; or a "batch" of sequences
    equals : what it must equal: "ISM", the "norm" of ISM over the tasks, "TISM" of the first task,
        or nothing
    prepare : from a job and its model, once; by default the model itself
    """

    run: Callable[..., Tensor]
    batch_sizes: Callable[[Job], Sequence[int | None]]
    unit: str
    equals: str = ""
    prepare: Callable[[Job, nn.Module], Any] = lambda job, model: model


TIMED_METHODS = {
    "ISM": TimedMethod(partial(ism, engine="full"), _substitution_batches, "positions", "ISM"),
    "windowed ISM": TimedMethod(
        partial(ism, engine="windowed"),
        # on a GPU small batches wait for Python, which takes hours for long sequences
        lambda job: (None,) if _on_cuda() else (None, PAPER_BATCH, 320),
        "sequence",
        "ISM",
    ),
    "TISM, one task": TimedMethod(partial(tism, tasks=0), _gradient_batches, "batch"),
    "TISM, all tasks": TimedMethod(
        tism,
        lambda job: _gradient_batches(job)[:3],  # a small graph suits many backward passes
        "batch",
    ),
    "tangermeme, plain": TimedMethod(
        partial(tangermeme_ism, fast=False), _substitution_batches, "positions", "ISM"
    ),
    "tangermeme, fast": TimedMethod(
        partial(tangermeme_ism, fast=True), lambda job: (PAPER_BATCH, 80, 320), "sequence", "ISM"
    ),
    "captum, one task": TimedMethod(
        partial(captum_tism, task=0), _gradient_batches, "batch", "TISM"
    ),
    "Yuzu": TimedMethod(
        lambda yuzu, one_hot, batch_size: yuzu(one_hot, batch_size),
        lambda job: (1, 2),
        "sequence",
        "norm",
        lambda job, _: yuzu_of(replace(job, n_sequences=1)),  # once for any number of sequences
    ),
}
