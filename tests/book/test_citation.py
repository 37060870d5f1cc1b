"""The entry of this compendium says what CITATION.cff says."""

from __future__ import annotations

from pathlib import Path

import yaml
from citation import bibtex

ROOT = Path(__file__).parents[2]


def test_entry_of_the_compendium():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    entry = bibtex(citation)
    assert entry.startswith("@software{tism_compendium,\n")
    assert f"title   = {{{{{citation['title']}}}}}" in entry
    assert f"version = {{{citation['version']}}}" in entry
    assert "author  = {{The TISM compendium authors}}" in entry
    assert entry.count("{") == entry.count("}")


def test_people_places_and_dates():
    entry = bibtex(
        {
            "authors": [{"family-names": "Doe", "given-names": "J."}, {"name": "A Lab"}],
            "title": "T",
            "version": 2,
            "license": "MIT",
            "date-released": "2027-01-02",
            "doi": "10.1/x",
        }
    )
    assert "{Doe, J. and {A Lab}}" in entry
    assert "year    = {2027}" in entry
    assert "doi     = {10.1/x}" in entry
    assert "url" not in entry
