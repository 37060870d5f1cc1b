"""Sphinx extension that gives the explorer page its script, its style and the recorded score maps.

The maps come as a script that sets one variable: a page opened from disk cannot fetch a file.
"""

from __future__ import annotations

import json
from pathlib import Path

from tism.study.explorer import page_data

PAGE = "book/explorer"
DATA = "explorer_data.js"


def script(data: dict) -> str:
    """JavaScript that holds the data of `tism.study.explorer.page_data`."""
    return f"window.TISM_EXPLORER={json.dumps(data, separators=(',', ':'), allow_nan=False)};\n"


def write_data(app) -> None:
    """Handler of the start of a build: the tables of `explorer_tables` to a script."""
    if app.builder.format == "html":
        folder = Path(app.outdir) / "_static"
        folder.mkdir(parents=True, exist_ok=True)
        data = page_data(Path(app.srcdir) / app.config.explorer_tables)
        (folder / DATA).write_text(script(data), encoding="utf-8")


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
