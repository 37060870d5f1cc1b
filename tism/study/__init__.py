"""What the chapters of the book need: data, networks, records, tables, figures."""
