"""Epistasis: what two substitutions do together beyond what they do one by one.

e(l, b; m, c) = f(x with l -> b, m -> c) - f(x with l -> b) - f(x with m -> c) + f(x)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tism.budgeted import ExactEffects
from tism.engine.choice import Plan, by_engine
from tism.exact import ism
from tism.predictor import job_of, warn_if_not_finite
from tism.running import Tasks, in_one_tensor, whole_number
from tism.sequence import numeric_tensor, put_bases, validate_one_hot


def interactions(
    model: nn.Module, one_hot: Any, position: int, base: Any, tasks: Tasks = None, **options: Any
) -> Tensor:
    """Epistasis of one substitution with all others: ISM of the mutant minus ISM of the reference.

    position : the position that is substituted in every sequence
    base : the new base, 0 to 3; one for all sequences or (n,)
    options : keyword arguments of `tism.ism` other than start and stop

    Returns (n, n_tasks, 4, length) in the unit of the model's output; zero at reference bases and
    at `position` itself. Costs ISM of two sequences for each. Errors as in `tism.ism`.

    >>> import torch, tism
    >>> model = tism.build_model("baseline", length=8, n_tasks=2, width=4, seed=0)
    >>> tism.interactions(model, tism.one_hot_encode("ACGTACGT"), 2, 0).shape
    torch.Size([1, 2, 4, 8])
    """
    if {"start", "stop"} & options.keys():
        raise TypeError("interactions takes no start and stop: it scores all positions")
    one_hot = validate_one_hot(one_hot).cpu()
    n, _, length = one_hot.shape
    position = whole_number("position", position)
    if not -length <= position < length:
        raise ValueError(f"position must be one of {length}, got {position}")
    new = _check_bases(base, (n,), "base")
    mutant = one_hot.clone()
    mutant[:, :, position] = nn.functional.one_hot(new, 4).to(mutant)
    found = ism(model, mutant, tasks, **options) - ism(model, one_hot, tasks, **options)
    found[..., position] = 0
    return found * (one_hot == 0)[:, None]


def interaction_map(
    model: nn.Module,
    one_hot: Any,
    bases: Any,
    tasks: Tasks = None,
    *,
    engine: str = "auto",
    batch_size: int | None = None,
    progress: bool = False,
    **lent: Any,
) -> Tensor:
    """Epistasis of all pairs of positions, with one substitution at each position.

    bases : (n, length), the new base (0 to 3) at each position; see `strongest`
    lent : args, output_fn, autocast and device; these and the others are as in `tism.ism`

    Returns (n, n_tasks, length, length), symmetric, zero on the diagonal and where the new base is
    the reference. Costs length * (length + 1) / 2 substitutions a sequence, by windows if the model
    allows them. Errors as in `tism.ism`.

    >>> import torch, tism
    >>> model = tism.build_model("baseline", length=8, n_tasks=2, width=4, seed=0)
    >>> one_hot, bases = tism.one_hot_encode("ACGTACGT"), torch.zeros(1, 8, dtype=torch.long)
    >>> tism.double_mutants.interaction_map(model, one_hot, bases).shape
    torch.Size([1, 2, 8, 8])
    """
    with job_of(model, one_hot, tasks, 0, None, batch_size, progress, **lent) as job:
        n, _, length = job.one_hot.shape
        new = _check_bases(bases, (n, length), "bases")
        chosen = nn.functional.one_hot(new, 4).transpose(1, 2).bool() & (job.one_hot == 0)

        def found(plan: Plan | None) -> Tensor:
            exact = ExactEffects(job, plan)
            with job.bar("double mutants") as report:
                return in_one_tensor(n, 1, lambda i, _: _map(exact, i, chosen[i])[None], report)[0]

        scores = by_engine(engine, job, n * length * (length + 1) // 2, found)
        return warn_if_not_finite(scores, "interaction")


def _check_bases(bases: Any, shape: tuple[int, ...], name: str) -> Tensor:
    bases = numeric_tensor(name, bases)
    whole = not bases.is_floating_point() and bases.dtype != torch.bool
    if not whole or bases.shape not in ((), shape):
        raise ValueError(
            f"{name} must be integers of shape {shape}, got {bases.dtype} of {tuple(bases.shape)}"
        )
    if not ((bases >= 0) & (bases <= 3)).all():
        raise ValueError(f"{name} must be from 0 (A) to 3 (T), got {bases.flatten().tolist()[:5]}")
    return bases.cpu().long().expand(shape)


def _map(exact: ExactEffects, number: int, chosen: Tensor) -> Tensor:
    """(n_tasks, length, length) map of one sequence and its `chosen` substitutions, (4, length)."""

    def effects(rows: Tensor, substitutions: Tensor, check: bool = False) -> Tensor:
        owner = exact.job.predict.of(np.full(len(rows), number))
        job = replace(exact.job, predict=owner, one_hot=rows)
        return ExactEffects(job, exact.plan).of(0, len(rows), check)(substitutions)

    sequence = exact.job.one_hot[number]
    single = effects(sequence[None], chosen[None], check=number == 0)
    base, position = chosen.nonzero(as_tuple=True)
    mutants = put_bases(sequence.repeat(len(position), 1, 1), position, base)
    later = position[:, None] < torch.arange(chosen.shape[1], device="cpu")  # a pair runs once
    alone = single.new_zeros(chosen.shape[1], single.shape[1])
    alone[position] = single
    found = single.new_zeros(chosen.shape[1], chosen.shape[1], single.shape[1])
    for rows in torch.arange(len(position), device="cpu").split(exact.at_once):
        pairs = chosen & later[rows, None]
        if pairs.any():
            row, _, other = pairs.nonzero(as_tuple=True)
            found[position[rows[row]], other] = effects(mutants[rows], pairs) - alone[other]
    return (found + found.transpose(0, 1)).permute(2, 0, 1)


def strongest(scores: Tensor) -> Tensor:
    """(n, length) base with the score of largest magnitude at each position of (n, 4, length)."""
    return scores.abs().argmax(1)
