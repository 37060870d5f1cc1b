"""Sphinx extension that gives the explorer page its script, its style and the recorded score maps.

The maps come as scripts: a page opened from disk cannot fetch a file. Each region has one of its
own, so that the page opens with the maps of one region only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tism.study.explorer import element_data, page_data

PAGE = "book/explorer"
DATA = "explorer_data.js"


def write_scripts(tables: Path, folder: Path) -> None:
    """Write the recorded maps as scripts that the page can load.

    tables : folder of the explorer's; those of chapter 08 stand in "external" beside it
    """
    data = page_data(tables)
    data["datasets"].append(element_data(tables.parent / "external"))
    for i, dataset in enumerate(data["datasets"]):
        for j, region in enumerate(dataset["regions"]):
            region["script"] = f"explorer_data_{i}_{j}.js"
            place = f"TISM_EXPLORER.datasets[{i}].regions[{j}]"
            own = [name for name in ("tasks", "measured") if name in region]
            values = {f"{place}.{name}": region.pop(name) for name in own}
            _assign(folder / region["script"], values)
    _assign(folder / DATA, {"TISM_EXPLORER": data})


def _assign(path: Path, values: dict[str, Any]) -> None:
    """Write a script that gives variables of the page their values."""
    content = {k: json.dumps(v, separators=(",", ":"), allow_nan=False) for k, v in values.items()}
    lines = (f"window.{variable}={value};\n" for variable, value in content.items())
    path.write_text("".join(lines), encoding="utf-8")


def write_data(app) -> None:
    """Handler of the start of a build: the tables of `explorer_tables` to scripts."""
    if app.builder.format == "html":
        folder = Path(app.outdir) / "_static"
        folder.mkdir(parents=True, exist_ok=True)
        write_scripts(Path(app.srcdir) / app.config.explorer_tables, folder)


def add_files(app, pagename, templatename, context, doctree) -> None:
    """Handler of every page; only one needs the files."""
    if pagename == PAGE:
        app.add_css_file("explorer.css")
        for name in (DATA, "explorer.js"):
            app.add_js_file(name, loading_method="defer")


def setup(app) -> dict[str, bool]:
    """Entry point of Sphinx."""
    app.add_config_value("explorer_tables", "data/results/yeast", "html")
    app.connect("builder-inited", write_data)
    app.connect("html-page-context", add_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
