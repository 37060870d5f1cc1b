"""Functions for `output_fn`, from what published models return to (n, tasks).

They can be pickled, and equal settings make equal functions. Windows can follow them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Key = int | str


@dataclass(frozen=True)
class Head:
    """One of several outputs: an entry of a dict, a member of a tuple, a field of a dataclass.

    key : name or number of the output, which is (n, tasks), or (n,) for one task

    `Head(1)` is the log counts of BPNet, ChromBPNet and ProCapNet; `Head("human")` is that of an
    Enformer that returns a dict. Raises ValueError naming the outputs if there is none of that key.
    """

    key: Key

    def __call__(self, output: Any) -> Tensor:
        """(n, tasks) of whatever the model returned."""
        part = _part(output, self.key)
        return part.unsqueeze(1) if isinstance(part, Tensor) and part.ndim == 1 else part


@dataclass(frozen=True)
class Total:
    """The sum of each track over all positions or bins, or over those from start to stop.

    start, stop : as in a Python slice, but within the track; one position is `Total(p, p + 1)`
    axis : where the positions are: -1 in (n, tracks, positions), as from Borzoi in PyTorch,
        SpliceAI or Pangolin, and in (n, positions); 1 in (n, bins, tracks), as from Enformer and
        Basenji
    head : which output, as in `Head`; None if the model returns one tensor

    A task is a track: `Total()` is the total counts of a model that predicts counts at each
    position, `Total(447, 449, axis=1, head="human")` the two bins in the middle of Enformer's 896.
    Raises ValueError for an output of another rank and for positions outside of it.
    """

    start: int | None = None
    stop: int | None = None
    axis: int = -1
    head: Key | None = None

    def __call__(self, output: Any) -> Tensor:
        """(n, tracks) of tracks over positions."""
        tracks = _tracks(output, self)
        axis = self.axis % tracks.ndim
        size = tracks.shape[axis]
        chosen, ends = range(size)[self.start : self.stop], (self.start or 0, self.stop or 0)
        if not chosen or min(ends) < -size or max(ends) > size:
            raise ValueError(
                f"start={self.start}, stop={self.stop} is not within the {size} positions on axis "
                f"{self.axis} of an output of shape {tuple(tracks.shape)}"
            )
        kept = tracks.narrow(axis, chosen.start, len(chosen))
        return kept.sum(axis, keepdim=tracks.ndim == 2)


@dataclass(frozen=True)
class ProfileScore:
    """Centred logits of a profile, weighted by their probabilities: what ChromBPNet explains.

    joint : True for one distribution over the positions of all tracks, such as both strands of
        ProCapNet and of bpnet-lite's BPNet, which gives one task; False for one a track
    held : True for probabilities that are held in gradients; False to differentiate them as well
    axis, head : as in `Total`; `ProfileScore(head=0)` for ChromBPNet

    The score is the sum over positions of p * (logit - mean logit), where p is the softmax of the
    logits (Avsec et al. 2021, Nat Genet 53:354; `get_weightedsum_meannormed_logits` of
    kundajelab/chrombpnet). The published contribution scores hold p in the backward pass. A mutated
    sequence has a p of its own, so exact ISM includes the change of p and TISM of a held p does
    not: set held=False for a TISM that approximates ISM of the same score.
    """

    joint: bool = False
    held: bool = True
    axis: int = -1
    head: Key | None = None

    def __call__(self, output: Any) -> Tensor:
        """(n, tracks), or (n, 1) if joint, from logits over positions."""
        logits = _tracks(output, self)
        one = self.joint or logits.ndim == 2
        logits, axis = (logits.flatten(1), 1) if one else (logits, self.axis % 3)
        logits = logits - logits.mean(axis, keepdim=True)
        p = logits.softmax(axis)
        return (logits * (p.detach() if self.held else p)).sum(axis, keepdim=one)


def _part(output: Any, key: Key) -> Any:
    """The output of that name or number."""
    parts = dict(output) if isinstance(output, Mapping) else {}
    if isinstance(output, tuple | list):
        parts = dict(enumerate(output))
    fields = getattr(output, "_fields", None) or getattr(output, "__dataclass_fields__", ())
    parts |= {field: getattr(output, field) for field in fields}
    if key not in parts:
        known = ", ".join(map(repr, parts)) or "no parts"
        kind = type(output).__name__
        raise ValueError(f"the model returns no output {key!r}: its {kind} has {known}")
    return parts[key]


def _tracks(output: Any, wanted: Total | ProfileScore) -> Tensor:
    """The tensor that is asked for, if it has tracks over positions."""
    tracks = output if wanted.head is None else _part(output, wanted.head)
    if not isinstance(tracks, Tensor):
        kind = type(tracks).__name__
        raise TypeError(f"the model returns a {kind}: choose one of its tensors with head=")
    if wanted.axis not in (-1, 1, 2) or not max(2, wanted.axis + 1) <= tracks.ndim <= 3:
        raise ValueError(
            f"axis={wanted.axis} needs an output of shape (n, positions), (n, tracks, positions) "
            f"or, for axis=1, (n, positions, tracks); got {tuple(tracks.shape)}"
        )
    return tracks
