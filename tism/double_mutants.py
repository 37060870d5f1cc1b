"""Epistasis: what two substitutions do together beyond what they do one by one.

e(l, b; m, c) = f(x with l -> b, m -> c) - f(x with l -> b) - f(x with m -> c) + f(x)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tism.budgeted import exact_effects
from tism.engine.replay import Plan
from tism.exact import ism, plan_of_engine
from tism.running import OutputFn, Predictor, Tasks, choose_batch_size, evaluating, progress_bar
from tism.sequence import put_bases, validate_one_hot


def interactions(
    model: nn.Module,
    one_hot: Any,
    position: int,
    base: Any,
    tasks: Tasks = None,
    **options: Any,
) -> Tensor:
    """Epistasis of one substitution with all others: ISM of the mutant minus ISM of the reference.

    position : that is substituted, of every sequence
    base : 0 to 3, the new base; one for all sequences or (n,)
    options : of `tism.ism`, but start and stop

    Returns (n, n_tasks, 4, length), in the unit of the model's output; zero at reference bases and
    at `position` itself. Costs two ISM.
    Raises TypeError or ValueError naming the argument that is wrong.

    >>> import torch, tism
    >>> model = tism.build_model("baseline", length=8, n_tasks=2, width=4, seed=0)
    >>> interactions(model, tism.one_hot_encode("ACGTACGT"), 2, 0).shape
    torch.Size([1, 2, 4, 8])
    """
    one_hot = validate_one_hot(one_hot)
    n, _, length = one_hot.shape
    if isinstance(position, bool) or not hasattr(position, "__index__"):
        raise TypeError(f"position must be an int, got {position!r}")
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
    output_fn: OutputFn | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Tensor:
    """Epistasis of all pairs of positions, each with one substitution.

    bases : (n, length), 0 to 3, the new base at each position; see `strongest`

    Other arguments as in `tism.ism`. Returns (n, n_tasks, length, length), symmetric, zero on the
    diagonal and where the new base is the reference. Costs length * (length + 1) / 2 substitutions
    a sequence, on windows where they apply.
    Raises TypeError or ValueError naming the argument that is wrong.

    >>> import torch, tism
    >>> model = tism.build_model("baseline", length=8, n_tasks=2, width=4, seed=0)
    >>> interaction_map(model, tism.one_hot_encode("ACGTACGT"), torch.zeros(1, 8).long()).shape
    torch.Size([1, 2, 8, 8])
    """
    one_hot = validate_one_hot(one_hot)
    n, _, length = one_hot.shape
    new = _check_bases(bases, (n, length), "bases")
    chosen = nn.functional.one_hot(new, 4).transpose(1, 2).bool() & (one_hot == 0)
    maps = []
    with evaluating(model, output_fn, device) as predict, torch.no_grad():
        passes = n * length * (length + 1) / 2
        plan = plan_of_engine(engine, predict, one_hot, passes, batch_size)
        with progress_bar(n, progress, "double mutants") as report:
            for sequence, own in zip(one_hot.cpu(), chosen, strict=True):
                maps.append(_map(predict, sequence, own, tasks, plan, batch_size))
                report(1)
    return torch.stack(maps)


def _check_bases(bases: Any, shape: tuple[int, ...], name: str) -> Tensor:
    bases = torch.as_tensor(bases)
    whole = not bases.is_floating_point() and not bases.is_complex()
    if not whole or bases.dtype == torch.bool or bases.shape not in ((), shape):
        raise ValueError(
            f"{name} must be integers of shape {shape}, got {bases.dtype} of {tuple(bases.shape)}"
        )
    if not ((bases >= 0) & (bases <= 3)).all():
        raise ValueError(f"{name} must be from 0 (A) to 3 (T), got {bases.flatten().tolist()[:5]}")
    return bases.cpu().long().expand(shape)


def _map(
    predict: Predictor,
    sequence: Tensor,
    chosen: Tensor,
    tasks: Tasks,
    plan: Plan | None,
    batch_size: int | None,
) -> Tensor:
    """(n_tasks, length, length) of one sequence, (4, length), and its substitutions, alike."""
    single = exact_effects(predict, sequence[None], tasks, plan, batch_size)(chosen[None])
    base, position = chosen.nonzero(as_tuple=True)
    mutants = put_bases(sequence.repeat(len(position), 1, 1), position, base)
    later = position[:, None] < torch.arange(chosen.shape[1])  # a pair is run once
    alone = single.new_zeros(chosen.shape[1], single.shape[1])
    alone[position] = single
    found = single.new_zeros(chosen.shape[1], chosen.shape[1], single.shape[1])
    at_once = plan.sequences if plan else choose_batch_size(None, chosen.shape[1], predict.device)
    for rows in torch.arange(len(position)).split(at_once):
        pairs = chosen & later[rows, None]
        if pairs.any():
            effects = exact_effects(predict, mutants[rows], tasks, plan, batch_size)(pairs)
            row, _, other = pairs.nonzero(as_tuple=True)
            found[position[rows[row]], other] = effects - alone[other]
    return (found + found.transpose(0, 1)).permute(2, 0, 1)


def strongest(scores: Tensor) -> Tensor:
    """(n, length): the base with the largest score of a position, by magnitude; (n, 4, length)."""
    return scores.abs().argmax(1)
