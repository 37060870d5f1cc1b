"""Windows on mutated sequences, and gradients that are cheap to repeat."""
