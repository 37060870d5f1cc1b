"""A model as one finds it: not (n, 4, length) to (n, tasks), but a dictionary or a profile."""

import torch
from torch import Tensor, nn

from tism.model import AITAC, AITACConfig


class Signal(AITAC):
    """Returns a dictionary instead of its predictions alone."""

    def forward(self, one_hot: Tensor) -> dict[str, Tensor]:
        """(n, 4, length) to (n, tasks) and what they are measured in."""
        return {"signal": super().forward(one_hot), "unit": "standard deviations of log2 signal"}


def load(length: int = 251, n_tasks: int = 81, width: int = 64) -> nn.Module:
    """The model without its weights, which `tism score --weights` reads."""
    return Signal(AITACConfig(length=length, n_tasks=n_tasks, width=width))


def signal(output: dict[str, Tensor]) -> Tensor:
    """The entry to explain, (n, tasks)."""
    return output["signal"]


def load_profile_model(n_tasks: int = 2, width: int = 16) -> nn.Module:
    """An untrained model that predicts at every base: (n, 4, length) to (n, tasks, length)."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(4, width, 15, padding="same"),
        nn.GELU(),
        nn.Conv1d(width, n_tasks, 25, padding="same"),
        nn.Softplus(),
    )


def total(profile: Tensor) -> Tensor:
    """The signal over the whole profile, (n, tasks)."""
    return profile.sum(-1)
