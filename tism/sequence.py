"""DNA as one-hot tensors: encoding, decoding, reverse complement, validation."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tism.running import on_device

ALPHABET = "ACGT"
NOT_A_BASE = 4  # the index of N
INVALID = 255
_ROWS_CHECKED_AT_ONCE = 1024
Substitutions = tuple[np.ndarray, np.ndarray, np.ndarray]  # sequence number, position, new base

INDEX_OF_LETTER = np.full(256, INVALID, dtype=np.uint8)  # of bytes, either case
for _index, _base in enumerate(ALPHABET + "N"):
    INDEX_OF_LETTER[[ord(_base), ord(_base.lower())]] = _index


def one_hot_encode(sequences: str | Iterable[str]) -> Tensor:
    """One-hot encode DNA.

    sequences : one or several strings of equal length over A, C, G, T and N, either case

    Returns (n, 4, length) float32 with rows A, C, G, T; the column of an N is all zeros.
    Raises ValueError for no sequence, an empty one, unequal lengths or any other letter.
    """
    if isinstance(sequences, bytes) or not isinstance(sequences, Iterable):
        raise TypeError(
            f"sequences must be a string or several strings, got {type(sequences).__name__}"
        )
    sequences = [sequences] if isinstance(sequences, str) else list(sequences)
    if not sequences:
        raise ValueError("sequences is empty: give at least one string")
    indices = np.stack([_indices(s, row, sequences[0]) for row, s in enumerate(sequences)])
    return one_hot_from_indices(indices)


def one_hot_from_indices(indices: np.ndarray) -> Tensor:
    """(n, length) base indices, 4 for N, to (n, 4, length) float32 with N as zeros."""
    rows = np.arange(len(ALPHABET), dtype=np.uint8)[:, None]
    return torch.from_numpy(indices[:, None] == rows).float()


def indices_from_one_hot(one_hot: Tensor) -> Tensor:
    """The inverse of `one_hot_from_indices`, as uint8."""
    index = one_hot.to(torch.uint8).argmax(1).masked_fill(one_hot.sum(1) == 0, NOT_A_BASE)
    return index.to(torch.uint8)


def put_bases(sequences: Tensor, position: Any, base: Any) -> Tensor:
    """Put one base into each of (n, 4, length) sequences, in place, and return them.

    position, base : (n,) positions and new bases (0 to 3)
    """
    if not isinstance(position, Tensor):
        position, base = on_device(np.stack([position, base]), sequences.device)
    number = torch.arange(len(sequences), device=sequences.device)
    sequences[number, :, position] = 0
    sequences[number, base, position] = 1
    return sequences


def substitutions(sequences: Tensor, window: range) -> Substitutions:
    """Sequence number, position and new base of every substitution in `window`.

    sequences : (n, 4, length)

    Returns three 1-d integer arrays, sorted by sequence and position; three entries a position,
    four where it is an N.
    """
    alternatives = sequences[:, :, window.start : window.stop].cpu().transpose(1, 2) == 0
    row, position, base = (numbers.numpy() for numbers in alternatives.nonzero(as_tuple=True))
    return row, position + window.start, base


def _indices(sequence: str, row: int, first: str) -> np.ndarray:
    if not isinstance(sequence, str):
        raise TypeError(f"sequences[{row}] must be a string, got {type(sequence).__name__}")
    if len(sequence) != len(first) or not sequence:
        raise ValueError(
            f"sequences[{row}] has length {len(sequence)}; every sequence must have the same "
            f"length of at least 1 (sequences[0] has {len(first)})"
        )
    letters = np.frombuffer(sequence.encode("ascii", "replace"), dtype=np.uint8)
    indices = INDEX_OF_LETTER[letters]
    if (indices == INVALID).any():
        position = int((indices == INVALID).argmax())
        raise ValueError(
            f"sequences[{row}] has {sequence[position]!r} at position {position}; "
            "only A, C, G, T and N (either case) are known"
        )
    return indices


def decode(one_hot: Any) -> list[str]:
    """The inverse of `one_hot_encode`: (n, 4, length) to n upper-case strings, zeros to N."""
    one_hot = validate_one_hot(one_hot)
    letters = np.frombuffer((ALPHABET + "N").encode(), dtype=np.uint8)
    return [letters[row].tobytes().decode() for row in indices_from_one_hot(one_hot).cpu().numpy()]


def reverse_complement(scores: Any) -> Tensor:
    """Reverse complement of anything shaped (..., 4, length): one-hot sequences or score maps."""
    checked = numeric_tensor("scores", scores)
    scores = scores if isinstance(scores, Tensor) and scores.requires_grad else checked
    if scores.ndim < 2 or scores.shape[-2] != 4:
        raise ValueError(f"scores must have shape (..., 4, length), got {tuple(scores.shape)}")
    return scores.flip(-2, -1)


def validate_one_hot(one_hot: Any) -> Tensor:
    """`one_hot` as a tensor of the same dtype and device; an error says what is wrong with it.

    one_hot : (n, 4, length), tensor or array of a real or integer dtype; each column has a single
        1 among zeros, or only zeros (N)

    Raises TypeError for anything but a numeric array, ValueError for wrong shapes or columns.
    """
    one_hot = numeric_tensor("one_hot", one_hot)
    if one_hot.ndim != 3 or one_hot.shape[1] != 4:
        raise ValueError(
            f"one_hot must have shape (n, 4, length), got {tuple(one_hot.shape)}"
            + _shape_hint(one_hot)
        )
    if one_hot.shape[0] == 0 or one_hot.shape[2] == 0:
        raise ValueError(
            f"one_hot is empty, shape {tuple(one_hot.shape)}: give at least one sequence of 1 bp"
        )
    for start in range(0, len(one_hot), _ROWS_CHECKED_AT_ONCE):
        _check_columns(one_hot[start : start + _ROWS_CHECKED_AT_ONCE], start)
    return one_hot


def numeric_tensor(name: str, values: Any) -> Tensor:
    """An argument as a dense tensor of real numbers, detached, with shared memory if possible.

    Raises TypeError naming the argument for anything else.
    """
    tensor = values.detach() if isinstance(values, Tensor) else _tensor_of_array(name, values)
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise TypeError(
            f"{name} must be a dense tensor with values, got {tensor.dtype}, {tensor.layout}, "
            f"on {tensor.device}"
        )
    if tensor.is_complex():
        raise TypeError(f"{name} must be real, got {tensor.dtype}")
    return tensor.to(_COMPUTED_IN.get(tensor.dtype, tensor.dtype))


# torch can hold these types but implements few operations on them.
_COMPUTED_IN = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.float64}


def _tensor_of_array(name: str, values: Any) -> Tensor:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # for example rows of unequal length
        raise TypeError(f"{name} must be a numeric tensor or array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} must be a numeric tensor or array, got dtype {array.dtype}; "
            "strings are encoded by one_hot_encode"
        )
    if array.dtype.itemsize > 8 or not array.dtype.isnative:
        array = array.astype(np.float64)
    if min(array.strides, default=0) < 0:  # torch refuses negative strides
        array = array.copy()
    with warnings.catch_warnings():  # a read-only array is fine: nothing writes to it
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))


def _shape_hint(one_hot: Tensor) -> str:
    if one_hot.ndim == 2 and one_hot.shape[0] == 4:
        return "; add the batch axis with one_hot[None]"
    if one_hot.ndim == 3 and one_hot.shape[2] == 4:
        return "; channels come second: transpose the last two axes"
    return ""


def _check_columns(one_hot: Tensor, offset: int) -> None:
    if (one_hot * one_hot == one_hot).all() and (one_hot.sum(1) <= 1).all():
        return
    valid = ((one_hot == 0) | (one_hot == 1)).all(1) & ((one_hot == 1).sum(1) <= 1)
    row, position = (~valid).nonzero()[0].tolist()
    column = one_hot[row, :, position].tolist()
    raise ValueError(
        f"one_hot[{row + offset}, :, {position}] is {column}; every column must be one-hot "
        "(a single 1 among zeros) or all zeros (N)"
    )
