"""A model as one finds it: not (n, 4, length) to (n, tasks), but a dictionary or a profile."""

import torch
from torch import Tensor, nn

import tism


class Signal(nn.Module):
    """Returns a dictionary: the network's own scale, and log2 signal as measured."""

    def __init__(self, network: nn.Module, n_tasks: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("center", torch.zeros(n_tasks))
        self.register_buffer("scale", torch.ones(n_tasks))

    def forward(self, one_hot: Tensor) -> dict[str, Tensor]:
        """(n, 4, length) to two times (n, tasks)."""
        standardised = self.network(one_hot)
        return {"standardised": standardised, "log2": standardised * self.scale + self.center}


def load(length: int = 251, n_tasks: int = 12, width: int = 32) -> nn.Module:
    """The model without its weights, which `tism score --weights` reads."""
    return Signal(
        tism.build_model("baseline", length=length, n_tasks=n_tasks, width=width), n_tasks
    )


def log2(output: dict[str, Tensor]) -> Tensor:
    """The entry to explain, (n, tasks)."""
    return output["log2"]


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
