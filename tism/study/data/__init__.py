"""Data sets: simulated, yeast ChIP-exo, ImmGen ATAC-seq and saturation mutagenesis."""
