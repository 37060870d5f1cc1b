"""Data sets: simulated, yeast ChIP-exo and ImmGen ATAC-seq."""

from tism.study.data.dataset import Dataset

__all__ = ["Dataset"]
