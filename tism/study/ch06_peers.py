"""ISM and gradients of other packages, called as their authors mean them, in this package's shapes.

tangermeme (Schreiber 2025), captum (Kokhlikyan et al. 2020) and Yuzu (Schreiber et al. 2022) come
with the extra `peers`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from unittest import mock

import torch
from torch import Tensor, nn

from tism.running import threads_kept
from tism.taylor import tism_from_gradient


def _peer(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{error}; the peers come with: pip install 'tism[peers]'") from None


def tangermeme_ism(
    model: nn.Module,
    one_hot: Tensor,
    *,
    batch_size: int = 32,
    fast: bool = True,
    start: int = 0,
    stop: int | None = None,
) -> Tensor:
    """`saturation_mutagenesis` of tangermeme as (n, n_tasks, 4, stop - start) changes of output.

    one_hot : (n, 4, length), on the model's device
    batch_size : substitutions at once
    fast : tangermeme's own windows, also for jobs shorter than the 30 s below which it does not
        try; it falls back, with a warning, where they fail or are slower
    """
    module = _peer("tangermeme.saturation_mutagenesis")
    device = str(one_hot.device)
    with mock.patch.object(module, "_FAST_MIN_SECONDS", 0.0):
        before, after = module.saturation_mutagenesis(
            model,
            one_hot,
            batch_size=batch_size,
            start=start,
            end=-1 if stop is None else stop,
            raw_outputs=True,
            fast=fast,
            device=device,
        )
    return (after - before[:, None, None]).permute(0, 3, 1, 2)


def captum_tism(
    model: nn.Module, one_hot: Tensor, task: int, *, batch_size: int | None = None
) -> Tensor:
    """TISM of one task, (n, 1, 4, length), from captum's `Saliency`, which is the gradient."""
    saliency = _peer("captum.attr").Saliency(model)
    parts = [
        saliency.attribute(rows.clone().requires_grad_(), target=task, abs=False)
        for rows in one_hot.split(batch_size or len(one_hot))
    ]
    return tism_from_gradient(torch.cat(parts)[:, None].detach(), one_hot)


class Yuzu:
    """Exact ISM by compressed sensing (Yuzu) of a plain sequence of layers.

    Made once for a network and a length, which takes more than one full ISM; then called with
    (n, 4, length) for (n, 4, length) Euclidean norms, over the tasks, of what each substitution
    changes: Yuzu gives no effect of a task and no sign.
    """

    def __init__(self, model: nn.Module, length: int):
        yuzu = _peer("yuzu")
        self._run, self._model = yuzu.yuzu_ism, model
        with threads_kept():
            torch.set_num_threads(1)  # it inverts many small matrices, which more would slow down
            self._precomputation = yuzu.precompute(
                model, seq_len=length, n_choices=4, random_state=0
            )

    def __call__(self, one_hot: Tensor, *, batch_size: int = 1) -> Tensor:
        """Norms of the effects; `batch_size` is of sequences."""
        rows = one_hot.float().numpy()
        return torch.from_numpy(
            self._run(self._model, rows, self._precomputation, batch_size=batch_size)
        )
