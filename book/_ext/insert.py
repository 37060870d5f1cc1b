"""Sphinx extension that writes the numbers of the record into the sources of the book.

Text stands in pages and in Markdown cells of chapters as ``<data value=NAME:FORMAT>TEXT</data>``.
The element shows its text wherever Markdown is shown: on a code host, in Jupyter, in the book. A
build replaces the text by the present value: of the record in data/results and of CITATION.cff, and
in a chapter also of what its own code cells passed to `glue`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from citation import bibtex
from landing import landing_numbers
from recorded import Record, numbers

INSERTED = re.compile(r"(<data value=([^\s:>]+)(?::([^>\s]+))?>)(.*?)(</data>)", re.DOTALL)
GLUED = "application/papermill.record/text/plain"


def fill(text: str, values: Mapping[str, Any]) -> str:
    """Text with the present values in its elements; a table or a listing gets lines of its own.

    Where a value is NaN, since the networks of a profile do not have it, the number of the recorded
    run stays, which the text is about. Raises ValueError for a name that `values` lacks.
    """

    def present(found: re.Match[str]) -> str:
        opening, name, form, _, closing = found.groups()
        if name not in values:
            raise ValueError(f"nothing is called {name}, which <data value={name}> asks for")
        if values[name] != values[name]:
            return found[0]
        value = format(values[name], form or "")
        return opening + (f"\n\n{value}\n\n" if "\n" in value else value) + closing

    return INSERTED.sub(present, text)


def _value(text: str) -> Any:
    """The number or text of which a chapter glued the representation."""
    try:
        return ast.literal_eval(text)
    except ValueError:  # nan or inf
        return float(text)


def glued(notebook: dict[str, Any]) -> dict[str, Any]:
    """Numbers and texts that the cells of an executed notebook passed to `glue`, by name."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return {
        output["metadata"]["scrapbook"]["name"]: _value("".join(output["data"][GLUED]))
        for output in outputs
        if GLUED in output.get("data", {})
    }


def filled_notebook(text: str, recorded: Mapping[str, Any]) -> str:
    """The text of a notebook file with the present values in its Markdown cells.

    recorded : values that the notebook may insert besides its own
    """
    notebook = json.loads(text)
    values = {**recorded, **glued(notebook)}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = fill("".join(cell["source"]), values).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def filled_pages(root: Path) -> dict[Path, str]:
    """Every page and chapter of the book in the folder `root`, as it should be."""
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    record = Record(root / "data")
    values = {**numbers(record), **landing_numbers(record)}
    values["bibtex"] = f"```bibtex\n{bibtex(citation)}\n```"
    texts = {}
    for path in sorted(root.glob("book/*.md")):
        texts[path] = fill(path.read_text(encoding="utf-8"), values)
    for path in sorted(root.glob("notebooks/*.ipynb")):
        texts[path] = filled_notebook(path.read_text(encoding="utf-8"), values)
    return texts


def write(app: Any) -> None:
    """Handler of the start of a build: bring the sources up to date."""
    for path, text in filled_pages(Path(app.srcdir)).items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Entry point of Sphinx."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
