"""The equations of Sasse et al. 2024 as functions of tensors; no model is called here.

Scores and gradients are (n, tasks, 4, length), sequences (n, 4, length), rows A, C, G, T.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tism.sequence import numeric_tensor


def tism_from_gradient(gradient: Any, one_hot: Any) -> Tensor:
    """First-order Taylor approximation of ISM (Eq. 7): gradient minus gradient at the reference.

    gradient : (n, tasks, 4, length), model output per unit of input
    one_hot : (n, 4, length)

    Returns the shape of `gradient`; zero at reference bases, the gradient itself at an N.
    """
    gradient, one_hot = _aligned(gradient, one_hot)
    return gradient - _weighted(gradient, one_hot).sum(2, keepdim=True)


def centre(scores: Any) -> Tensor:
    """Attribution map (Eq. 4): scores minus their mean over the four bases of each position.

    scores : (n, tasks, 4, length); with ISM these are Eqs. 4 and 5. TISM and the raw gradient give
        the same map (Eq. 8), which is the gradient correction of Majdandzic et al. 2023

    Returns the shape of `scores`, summing to zero over the bases.
    """
    scores = _scores(scores, "scores")
    return scores - scores.mean(2, keepdim=True)


def mean_effect(scores: Any, one_hot: Any) -> Tensor:
    """Minus the mean of the three substitutions, placed at the reference base: helpful is positive.

    scores : (n, tasks, 4, length) ISM or TISM, zero at reference bases
    one_hot : (n, 4, length)

    Divides by the three substitutions: 4/3 of the centred map (Eq. 5) at the reference base.
    Returns the shape of `scores`; zero at the other bases and at N, which has no reference base.
    """
    scores, one_hot = _aligned(scores, one_hot)
    return _weighted(-scores.sum(2, keepdim=True) / 3, one_hot)


def hypothetical(gradient: Any, baseline: Any) -> Tensor:
    """Hypothetical contributions: what each base would contribute against a baseline.

    For base b: sum over c of gradient(c) * (one-hot(b) - baseline(c))(c), the linear case of the
    definition of DeepLIFT and TF-MoDISco (Shrikumar et al. 2017, 2018).

    gradient : (n, tasks, 4, length)
    baseline : (4,), (4, length) or (n, 4, length) base frequencies; 1/4 each gives
        `centre(gradient)`

    Returns the shape of `gradient`.
    """
    gradient = _scores(gradient, "gradient")
    baseline = numeric_tensor("baseline", baseline).to(gradient)
    n, _, _, length = gradient.shape
    if baseline.shape not in {(4,), (4, length), (n, 4, length)}:
        raise ValueError(
            f"baseline must have shape (4,), (4, {length}) or ({n}, 4, {length}), "
            f"got {tuple(baseline.shape)}"
        )
    by_position = baseline[:, None] if baseline.ndim == 1 else baseline
    frequencies = by_position.expand(n, 4, length)[:, None]
    return gradient - _weighted(gradient, frequencies).sum(2, keepdim=True)


def gradient_times_input(gradient: Any, one_hot: Any) -> Tensor:
    """The gradient at the reference base and zero elsewhere.

    gradient : (n, tasks, 4, length)
    one_hot : (n, 4, length)

    Returns the shape of `gradient`.
    """
    return _weighted(*_aligned(gradient, one_hot))


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """The product; zero where a weight is zero, also of values that are not finite."""
    return (values * weights).masked_fill(weights == 0, 0)


def _scores(scores: Any, name: str) -> Tensor:
    checked = numeric_tensor(name, scores)
    scores = scores if isinstance(scores, Tensor) else checked  # a tensor keeps its graph
    if not scores.is_floating_point():
        scores = scores.to(torch.get_default_dtype())
    if scores.ndim != 4 or scores.shape[2] != 4:
        raise ValueError(f"{name} must have shape (n, tasks, 4, length), got {tuple(scores.shape)}")
    return scores


def _aligned(scores: Any, one_hot: Any) -> tuple[Tensor, Tensor]:
    """Scores and sequence with one dtype and device; the sequence gains an axis for the tasks."""
    scores = _scores(scores, "gradient or scores")
    one_hot = numeric_tensor("one_hot", one_hot).to(scores)
    expected = (scores.shape[0], 4, scores.shape[3])
    if one_hot.shape != expected:
        raise ValueError(
            f"one_hot must have shape {expected} to go with scores of shape "
            f"{tuple(scores.shape)}, got {tuple(one_hot.shape)}"
        )
    return scores, one_hot[:, None]
