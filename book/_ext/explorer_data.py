"""Sphinx extension that gives the explorer page its script, its style and the recorded score maps.

The maps come as scripts: a page opened from disk cannot fetch a file. Each region has one of its
own, so that the page opens with the maps of one region only.
"""

from __future__ import annotations

import json
from pathlib import Path

from tism.study.explorer import page_data

PAGE = "book/explorer"
DATA = "explorer_data.js"


def write_scripts(data: dict, folder: Path) -> None:
    """Write what `tism.study.explorer.page_data` returns as scripts that the page can load."""
    for i, dataset in enumerate(data["datasets"]):
        for j, region in enumerate(dataset["regions"]):
            region["script"] = f"explorer_data_{i}_{j}.js"
            place = f"TISM_EXPLORER.datasets[{i}].regions[{j}].tasks"
            _assign(folder / region["script"], place, region.pop("tasks"))
    _assign(folder / DATA, "TISM_EXPLORER", data)


def _assign(path: Path, variable: str, value: dict) -> None:
    content = json.dumps(value, separators=(",", ":"), allow_nan=False)
    path.write_text(f"window.{variable}={content};\n", encoding="utf-8")


def write_data(app) -> None:
    """Handler of the start of a build: the tables of `explorer_tables` to scripts."""
    if app.builder.format == "html":
        folder = Path(app.outdir) / "_static"
        folder.mkdir(parents=True, exist_ok=True)
        write_scripts(page_data(Path(app.srcdir) / app.config.explorer_tables), folder)


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
