"""Scores for files: peaks and variants in; stores, tables and motif input out."""
