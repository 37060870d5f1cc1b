"""Sphinx extension: `{{ bibtex }}` is the entry of this compendium, made from CITATION.cff."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


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


def substitute(app: Any, config: Any) -> None:
    """Handler of Sphinx's event: give MyST the entry under its name."""
    text = (Path(app.srcdir) / "CITATION.cff").read_text(encoding="utf-8")
    entry = f"```bibtex\n{bibtex(yaml.safe_load(text))}\n```"
    config.myst_substitutions = {**(config.myst_substitutions or {}), "bibtex": entry}


def setup(app: Any) -> dict[str, bool]:
    """Entry point of Sphinx."""
    app.connect("config-inited", substitute)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
