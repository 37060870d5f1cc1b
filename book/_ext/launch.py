"""Sphinx extension: buttons that lead to the source of a page and run it on Binder.

They need the address of the repository, which GitHub's runners put into the environment. A book
that is built elsewhere has no buttons.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

BINDER = "https://mybinder.org"


def theme_options(environment: Mapping[str, str]) -> dict[str, Any]:
    """Options of sphinx-book-theme; empty if the environment names no repository."""
    name = environment.get("GITHUB_REPOSITORY")
    if not name:
        return {}
    return {
        "repository_url": f"{environment.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}",
        "repository_branch": environment.get("GITHUB_REF_NAME", "main"),
        "path_to_docs": ".",
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {"binderhub_url": BINDER, "notebook_interface": "jupyterlab"},
    }


def add_buttons(app: Any, config: Any) -> None:
    """Handler of Sphinx's event: add the buttons to the options of the theme."""
    config.html_theme_options = {**config.html_theme_options, **theme_options(os.environ)}


def setup(app: Any) -> dict[str, bool]:
    """Entry point of Sphinx."""
    app.connect("config-inited", add_buttons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
