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
    a, b = a.flatten(1).double(), b.flatten(1).double()  # (tasks, 4 * length)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    t, u = torch.triu_indices(len(a), len(a), offset=1)
    both = _difference_product(a, b)[t, u]
    r = torch.full_like(both, float("nan"))
    size_of_a, exists_a = _difference_size(a, t, u)
    size_of_b, exists_b = _difference_size(b, t, u)
    exists = exists_a & exists_b
    r[exists] = (both / (size_of_a * size_of_b))[exists].clamp(-1, 1)
    return r


def _difference_size(a: Tensor, t: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Norm of a[t] - a[u], and True where it exceeds rounding."""
    square, own = _difference_product(a, a)[t, u], a.square().sum(1)
    return square.clamp(min=0).sqrt(), square > 1e-12 * (own[t] + own[u])


def _difference_product(a: Tensor, b: Tensor) -> Tensor:
    """(tasks, tasks): inner product of a[t] - a[u] with b[t] - b[u], without forming them."""
    product = a @ b.T
    own = product.diagonal()
    return own[:, None] + own[None] - product - product.T
