"""How alike two score maps are: correlations of profiles.

Maps are (n, tasks, 4, length), sequences (n, 4, length). A correlation that does not exist because
a profile is constant is NaN.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tism.sequence import numeric_tensor
from tism.taylor import mean_effect


def pearson(a: Any, b: Any, dim: int = -1) -> Tensor:
    """Pearson correlation along `dim`, computed in float64; NaN where a or b is constant.

    Differences below 1e-150 have no square in float64 and count as none.
    """
    a, b = numeric_tensor("a", a).double(), numeric_tensor("b", b).double()
    if a.shape != b.shape:
        raise ValueError(f"a and b: shapes must agree, got {tuple(a.shape)} and {tuple(b.shape)}")
    if not -a.ndim <= dim < a.ndim or not a.shape[dim]:
        raise ValueError(f"dim must be an axis with values, got {dim} of shape {tuple(a.shape)}")
    constant = (a.amax(dim) == a.amin(dim)) | (b.amax(dim) == b.amin(dim))
    a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
    r = (a * b).sum(dim) / (a.norm(dim=dim) * b.norm(dim=dim))
    return r.clamp(-1, 1).masked_fill(constant, float("nan"))


def profile_correlation(first: Tensor, second: Tensor) -> Tensor:
    """(n, tasks): Pearson over all 4 * length entries, reference zeros included, as in the paper.

    With `tism.centre` of both maps it compares attribution maps (Eq. 4).
    """
    return pearson(first.flatten(2), second.flatten(2))


def substitution_correlation(first: Tensor, second: Tensor, one_hot: Tensor) -> Tensor:
    """(n, tasks): Pearson over the substitutions only, 3 * length entries where there is no N."""
    triples = zip(first, second, one_hot == 0, strict=True)
    return torch.stack([pearson(a[:, chosen], b[:, chosen]) for a, b, chosen in triples])


def mean_effect_correlation(first: Tensor, second: Tensor, one_hot: Tensor) -> Tensor:
    """(n, tasks): Pearson over the length of the mean effect of each reference base (Fig S1)."""
    return pearson(mean_effect(first, one_hot).sum(2), mean_effect(second, one_hot).sum(2))


def task_difference_correlation(first: Tensor, second: Tensor) -> Tensor:
    """How alike two kinds of map change from one task to another.

    Returns (n, tasks * (tasks - 1) / 2): for each pair of tasks the Pearson correlation, over the
    4 * length entries, of the difference of the first maps with the difference of the second ones.
    """
    return torch.stack([_difference_correlation(a, b) for a, b in zip(first, second, strict=True)])


def _difference_correlation(a: Tensor, b: Tensor) -> Tensor:
    """The same of one sequence, from inner products, so that no difference is formed."""
    a, b = (each.flatten(1).double() for each in (a, b))  # (tasks, 4 * length)
    a, b = (each - each.mean(1, keepdim=True) for each in (a, b))
    t, u = torch.triu_indices(len(a), len(a), offset=1, device=a.device)

    def product(x: Tensor, y: Tensor) -> Tensor:
        """Of x[t] - x[u] with y[t] - y[u]."""
        all_pairs = x @ y.T
        same = all_pairs.diagonal()
        return (same[:, None] + same - all_pairs - all_pairs.T)[t, u]

    r, norm, exists = product(a, b), 1.0, True
    for x in (a, b):
        square, size = product(x, x), x.square().sum(1)
        norm = norm * square.clamp(min=0).sqrt()
        exists = exists & (square > 1e-12 * (size[t] + size[u]))  # more than rounding
    return (r / norm).clamp(-1, 1).where(exists, float("nan"))
