"""From a store of scores to motifs: the files that TF-MoDISco reads, its motifs, known motifs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tism.checkpoint import replacing
from tism.storage import ScoreStore, StoreError
from tism.taylor import hypothetical

if TYPE_CHECKING:
    import pandas as pd

UNIFORM = (0.25, 0.25, 0.25, 0.25)
_BLOCK = 1024


def contributions(
    store: ScoreStore, task: int | None = None, *, background: Sequence[float] = UNIFORM
) -> tuple[np.ndarray, np.ndarray]:
    """One-hot sequences and hypothetical contributions of one task, both (n, 4, length) float32.

    store : of maps, complete, by any method
    task : the model's number of it; None where the store has one only
    background : frequencies of A, C, G, T, adding up to 1; uniform ones give `tism.centre`

    An offset that the four bases of a position share cancels (`tism.taylor.hypothetical`), so that
    TISM and the gradient give the same.
    """
    column = _column_of_task(store, task)
    if len(background) != 4 or min(background) < 0 or abs(sum(background) - 1) > 1e-6:
        raise ValueError(f"background must be four frequencies adding up to 1, got {background}")
    n = len(store)
    scores = np.empty((n, 4, store.length), np.float32)
    for start in range(0, n, _BLOCK):
        block = store.read(slice(start, start + _BLOCK))[:, column : column + 1]
        scores[start : start + _BLOCK] = hypothetical(block, background)[:, 0].numpy()
    return store.one_hot().numpy(), scores


def _column_of_task(store: ScoreStore, task: int | None) -> int:
    tasks = store.identity["tasks"]
    if store.identity["kind"] != "maps":
        raise StoreError(f"{store.path}: holds effects of variants, not maps of sequences")
    if task is None and len(tasks) == 1:
        return 0
    if task not in tasks:
        raise ValueError(f"task must be one of {', '.join(map(str, tasks))}; got {task}")
    return tasks.index(task)


def write_modisco_pair(
    store: ScoreStore,
    prefix: str | Path,
    task: int | None = None,
    *,
    background: Sequence[float] = UNIFORM,
) -> tuple[Path, Path]:
    """Write <prefix>.sequences.npz and <prefix>.attributions.npz as `modisco motifs` reads them.

    Each holds one array, "arr_0", of shape (n, 4, length): the one-hot sequences (option -s) and
    the `contributions` (-a), which modisco-lite 3 multiplies itself. Returns the two paths.
    """
    prefix = Path(prefix)
    arrays = contributions(store, task, background=background)
    paths = tuple(prefix.with_name(f"{prefix.name}.{k}.npz") for k in ("sequences", "attributions"))
    for path, array in zip(paths, arrays, strict=True):
        with replacing(path) as temporary:
            np.savez_compressed(temporary, array)
    return paths


def modisco_window(length: int) -> int:
    """The widest `-w` that `modisco motifs` takes: it cuts an even number of bases."""
    return length - length % 2


@dataclass(frozen=True)
class FoundMotif:
    """A pattern of TF-MoDISco.

    sign : 1 where its sites raise the prediction, -1 where they lower it
    n_seqlets : sites that it was built from
    frequencies, contributions : (4, width), means over these sites
    """

    sign: int
    n_seqlets: int
    frequencies: np.ndarray
    contributions: np.ndarray


def find_motifs(
    one_hot: np.ndarray, scores: np.ndarray, *, max_seqlets: int = 2000, n_leiden: int = 2
) -> list[FoundMotif]:
    """Motifs by TF-MoDISco (modisco-lite) with the settings of its command line, largest first.

    one_hot, scores : (n, 4, length), as `contributions` gives them

    Returns an empty list where there are too few sites for a motif (100 of one sign).
    """
    try:
        from modiscolite.tfmodisco import TFMoDISco
    except ImportError:
        raise ImportError("finding motifs needs modisco-lite: pip install 'tism[score]'") from None
    clusters = TFMoDISco(
        one_hot=np.ascontiguousarray(one_hot.transpose(0, 2, 1), dtype=np.float32),
        hypothetical_contribs=np.ascontiguousarray(scores.transpose(0, 2, 1), dtype=np.float32),
        max_seqlets_per_metacluster=max_seqlets,
        sliding_window_size=20,
        flank_size=5,
        target_seqlet_fdr=0.05,
        n_leiden_runs=n_leiden,
    )
    return [
        FoundMotif(sign, len(p.seqlets), np.array(p.sequence.T), np.array(p.contrib_scores.T))
        for sign, patterns in zip((1, -1), clusters, strict=True)
        for p in patterns or []
    ]


def known_motifs() -> pd.DataFrame:
    """JASPAR matrices that come with the compendium: dataset, matrix_id, name, frequencies.

    dataset : "simulated" (vertebrate factors, the planted ones) or "yeast" (those of its tasks)
    frequencies : (4, width), with a pseudocount of 0.25 % at each base
    """
    import pandas as pd

    from tism.data.download import data_root

    rows = []
    for dataset, file in (("simulated", "motifs.csv"), ("yeast", "motifs_yeast.csv")):
        table = pd.read_csv(data_root() / file)
        for (matrix_id, name), motif in table.groupby(["matrix_id", "name"], sort=False):
            counts = motif[["A", "C", "G", "T"]].to_numpy(float).T
            frequencies = 0.99 * counts / counts.sum(0) + 0.0025
            rows.append((dataset, matrix_id, name, frequencies))
    return pd.DataFrame(rows, columns=["dataset", "matrix_id", "name", "frequencies"])


def match_motifs(
    found: Sequence[FoundMotif], known: pd.DataFrame, *, least_bits: float = 0.25
) -> pd.DataFrame:
    """The known motif most like each found one, by Tomtom (memelite).

    known : as `known_motifs` gives it; other species' motifs serve as a check against chance
    least_bits : flanks of a found motif with less information than this are cut off

    Returns one row a found motif: sign, n_seqlets, width, dataset, matrix_id, name, p_value. The
    p-value is that of the best match times the number of known motifs (Bonferroni), at most 1.
    """
    import pandas as pd

    columns = ["sign", "n_seqlets", "width", "dataset", "matrix_id", "name", "p_value"]
    if not found:
        return pd.DataFrame(columns=columns)
    from memelite import tomtom

    trimmed = [trim(motif.frequencies, least_bits) for motif in found]
    p_values = tomtom(trimmed, list(known["frequencies"]), n_jobs=1)[0]
    best = np.asarray(p_values).argmin(1)
    rows = known.iloc[best][["dataset", "matrix_id", "name"]].reset_index(drop=True)
    lowest = np.asarray(p_values).min(1) * len(known)
    return rows.assign(
        sign=[motif.sign for motif in found],
        n_seqlets=[motif.n_seqlets for motif in found],
        width=[motif.shape[1] for motif in trimmed],
        p_value=lowest.clip(max=1.0),
    )[columns]


def trim(frequencies: Any, least_bits: float) -> np.ndarray:
    """A (4, width) matrix without the flanks that hold less than `least_bits` a position."""
    frequencies = np.asarray(frequencies, float)
    bits = information(frequencies)
    kept = np.flatnonzero(bits >= least_bits)
    return frequencies[:, kept[0] : kept[-1] + 1] if kept.size else frequencies


def information(frequencies: Any) -> np.ndarray:
    """(width,) bits a position of a (4, width) matrix, against uniform bases."""
    frequencies = np.asarray(frequencies, float)
    logs = np.log2(np.where(frequencies > 0, frequencies, 1))
    return 2 + (frequencies * logs).sum(0)
