"""The BibTeX entry of this compendium, made from CITATION.cff."""

from __future__ import annotations

from typing import Any


def bibtex(citation: dict[str, Any]) -> str:
    """The BibTeX entry of a software citation in the fields of CITATION.cff."""
    people = [
        a.get("name", f"{a.get('family-names')}, {a.get('given-names')}")
        for a in citation["authors"]
    ]
    fields = {
        "author": " and ".join(f"{{{name}}}" if "," not in name else name for name in people),
        "title": f"{{{citation['title']}}}",
        "version": str(citation["version"]),
        "year": str(citation.get("date-released", ""))[:4],
        "url": citation.get("repository-code", ""),
        "doi": citation.get("doi", ""),
        "license": citation["license"],
    }
    width = max(map(len, fields))
    lines = [f"  {name:<{width}} = {{{value}}}" for name, value in fields.items() if value]
    return "@software{tism_compendium,\n" + ",\n".join(lines) + "\n}"
