"""ISM and gradients of regions, computed once and then read from disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tism import versions
from tism.exact import ism, predict
from tism.first_order import input_gradient
from tism.predictor import evaluating
from tism.running import progress_bar
from tism.sequence import put_bases, validate_one_hot
from tism.study.cache import cached_tensors
from tism.study.data.dataset import Dataset, evenly
from tism.study.profiles import default_device, digest
from tism.taylor import tism_from_gradient

_REGIONS_A_FILE = 100


@dataclass(frozen=True)
class Scores:
    """ISM, gradient and prediction of regions.

    rows : (n,) rows of the data set
    one_hot : (n, 4, length)
    ism, gradient, tism : (n, n_tasks, 4, length)
    predicted : (n, n_tasks), standardised as the model was trained
    """

    rows: np.ndarray
    one_hot: Tensor
    ism: Tensor
    gradient: Tensor
    predicted: Tensor

    @property
    def tism(self) -> Tensor:
        """First-order Taylor approximation of `ism` (Eq. 7)."""
        return tism_from_gradient(self.gradient, self.one_hot)


def scored_rows(dataset: Dataset, n_regions: int) -> np.ndarray:
    """`n_regions` rows spread evenly over the test set, or all of a smaller test set."""
    return evenly(dataset.indices("test"), n_regions)


def score_regions(
    model: nn.Module, dataset: Dataset, rows: np.ndarray, *, progress: bool = True
) -> Scores:
    """ISM, gradient and prediction of these regions for all tasks, cached in parts."""
    one_hot = dataset.one_hot(rows)
    parts = []
    with progress_bar(len(rows), progress, "ISM and gradients") as report:
        for part in one_hot.split(_REGIONS_A_FILE):
            key = digest([fingerprint(model, part), versions.SCORING, versions.MODEL])
            parts.append(cached_tensors(f"scores/{key}", partial(score_sequences, model, part)))
            report(len(part))
    merged = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return Scores(rows=rows, one_hot=one_hot, **merged)


def score_sequences(model: nn.Module, one_hot: Tensor) -> dict[str, Tensor]:
    """ISM, gradient and prediction of sequences for all tasks, named as in `Scores`."""
    device = default_device()
    return {
        "ism": ism(model, one_hot, device=device),
        "gradient": input_gradient(model, one_hot, device=device),
        "predicted": predict(model, one_hot, device=device),
    }


def fingerprint(model: nn.Module, one_hot: Tensor) -> str:
    """sha256 of a network's configuration and weights, and of the sequences."""
    return weights_sha256(model, one_hot, prefix=json.dumps(asdict(model.config)))


def weights_sha256(model: nn.Module, *others: Tensor, prefix: str = "") -> str:
    """sha256 of a text, of the values of a model's parameters and buffers, and of other tensors."""
    state = hashlib.sha256(prefix.encode())
    for tensor in (*model.state_dict().values(), *others):
        state.update(tensor.cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def along_substitutions(
    model: nn.Module,
    one_hot: Any,
    positions: Sequence[int],
    bases: Sequence[int],
    steps: Sequence[float],
) -> Tensor:
    """Predictions on the straight line from a sequence (step 0) to its substitutions (step 1).

    one_hot : (1, 4, length)
    positions, bases : position and row (A C G T) of each substitution
    steps : how far along each of them

    Returns (substitutions, steps, tasks) on the CPU. (prediction(step) - prediction(0)) / step is
    the finite difference of Eq. 2: TISM as the step goes to 0, ISM at step 1 (Eq. 3).
    """
    reference = validate_one_hot(one_hot)
    if len(reference) != 1:
        raise ValueError(f"one_hot must hold one sequence, got {len(reference)}")
    with evaluating(model) as predict, torch.no_grad():
        reference = predict.prepare(reference)[0]
        mutants = put_bases(reference.repeat(len(positions), 1, 1), positions, bases)
        step = torch.as_tensor(steps).to(reference)[:, None, None, None]
        points = reference + step * (mutants - reference)  # (steps, substitutions, 4, length)
        return torch.stack([predict(p) for p in points], 1).cpu()
