"""Sphinx extension: buttons that lead to the source and run a page, where a repository is named.

A hosted build names it in the environment, as GitHub's runners do. A book that is built elsewhere
has no address to lead to, and gets no buttons.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

BINDER = "https://mybinder.org"


def theme_options(environment: Mapping[str, str]) -> dict[str, Any]:
    """Options of sphinx-book-theme; none where the environment names no repository."""
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
    """Handler of Sphinx's event."""
    config.html_theme_options = {**config.html_theme_options, **theme_options(os.environ)}


def setup(app: Any) -> dict[str, bool]:
    """Entry point of Sphinx."""
    app.connect("config-inited", add_buttons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
