"""Sphinx extension that reads this package's docstrings: `name : description`, underlined headings.

Sphinx's own Napoleon would read the words of a shape such as (n, 4, length) as types.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ENTRY = re.compile(r"([*\w]+(?:, [*\w]+)*) : (.+)")
UNDERLINE = re.compile(r"-{3,}")


def restructured(lines: Iterable[str]) -> list[str]:
    """reStructuredText in which runs of `name : description` are definition lists."""
    result: list[str] = []
    inside = False
    for line in lines:
        entry = ENTRY.fullmatch(line)
        continued = inside and line.startswith(" ")
        if not continued and line and bool(entry) != inside:
            result.append("")
        inside = bool(entry) or continued
        if entry:
            names, description = entry.groups()
            term = ", ".join(f"``{name}``" for name in names.split(", "))
            result += [term, f"    {description}"]
        elif UNDERLINE.fullmatch(line) and result:
            result[-1:] = [f".. rubric:: {result[-1]}", ""]
        else:
            result.append(line)
    return result


def process(app, what, name, obj, options, lines) -> None:
    """Handler of autodoc's event: change `lines` in place."""
    # in docstrings |x| is a magnitude, and *name in a shape stands for several axes
    escaped = (re.sub(r"\||(?<=[(\s])\*(?=\w)", r"\\\g<0>", line) for line in lines)
    lines[:] = restructured(escaped)


def setup(app) -> dict[str, bool]:
    """Entry point of Sphinx."""
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
