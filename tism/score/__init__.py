"""The command `tism` and its files: peaks and variants in; stores, tables and motif input out."""
