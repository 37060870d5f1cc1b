"""Sphinx extension: the directive `architecture` draws the package from its imports.

A module stands in the first box of `ENTRIES` whose entry points need it, directly or not, imports
within functions included; so boxes import only boxes before them. What no entry point needs belongs
to the chapters, each module to the first chapter that imports it.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ENTRIES = {  # title: patterns of the modules that one enters by
    "import tism": ["tism"],
    "data sets": ["tism.study.data", "tism.study.data.*", "tism.versions"],
    "figures": ["tism.study.plots", "tism.study.plots.*"],
    "the command tism": ["tism.score.cli"],
    "networks, trained and scored": ["tism.study.profiles"],
    "runs and records": ["tism.study.compendium"],
}
CHAPTERS = "what chapters compute"
WIDTH, LANE, GAP = 720, 34, 34  # of the picture, beside the boxes, between rows of them
PAD, LINE, CHARACTER = 12, 17, 7.3  # in a box; of a line and a letter of 12 px
TITLE = "tism-architecture"

Graph = dict[str, set[str]]


class Box(NamedTuple):
    """A box of the picture: its lines, and where it stands in pixels."""

    title: str
    lines: list[str]
    x: float
    y: float
    width: float
    height: float


def module_files(package: Path) -> dict[str, Path]:
    """The files of a package by the names of their modules."""
    files = sorted(package.rglob("*.py"))
    names = [".".join(f.relative_to(package.parent).with_suffix("").parts) for f in files]
    return {n.removesuffix(".__init__"): f for n, f in zip(names, files, strict=True)}


def imported(tree: ast.AST, known: Iterable[str]) -> set[str]:
    """Which of the known modules a program imports, anywhere but for type checkers."""
    found = set()
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in known else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        todo += ast.iter_child_nodes(node)
    return found & set(known)


def import_graph(package: Path) -> Graph:
    """The modules of a package, each with those of the package that it imports."""
    files = module_files(package)
    return {
        name: imported(ast.parse(path.read_text(encoding="utf-8")), files) - {name}
        for name, path in files.items()
    }


def chapter_imports(notebooks: Path, known: Iterable[str]) -> Graph:
    """The chapters, such as "chapter 5", each with the modules that its code imports."""
    found = {}
    for path in sorted(notebooks.glob("[0-9]*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        found[f"chapter {int(path.stem[:2])}"] = imported(ast.parse(code), known)
    return found


def reached(graph: Mapping[str, set[str]], start: Iterable[str]) -> set[str]:
    """What is imported from some modules on, themselves included."""
    seen: set[str] = set()
    todo = list(start)
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            todo += graph[name]
    return seen


def groups(graph: Graph, chapters: Graph) -> dict[str, dict[str, list[str]]]:
    """Boxes from the bottom up, each with rows of modules by label; "" labels the only row."""
    left, result = set(graph), {}
    for title, patterns in ENTRIES.items():
        entries = [name for name in graph if any(fnmatch(name, p) for p in patterns)]
        result[title] = {"": sorted(reached(graph, entries) & left)}
        left -= reached(graph, entries)
    result[CHAPTERS] = {}
    for of_chapter in (lambda names: names, lambda names: reached(graph, names)):
        for chapter, names in chapters.items():
            own = of_chapter(names) & left
            result[CHAPTERS].setdefault(chapter, []).extend(sorted(own))
            left -= own
    if left:
        result["not used by a chapter"] = {"": sorted(left)}
    return {
        title: {label: names for label, names in rows.items() if names}
        for title, rows in result.items()
        if any(rows.values())
    }


def group_graph(graph: Graph, boxes: Mapping[str, Mapping[str, list[str]]]) -> Graph:
    """The boxes, each with the boxes that its modules import."""
    box_of = {m: title for title, rows in boxes.items() for names in rows.values() for m in names}
    edges: Graph = {title: set() for title in boxes}
    for name, others in graph.items():
        edges[box_of[name]] |= {box_of[other] for other in others} - {box_of[name]}
    return edges


def reduced(edges: Graph) -> Graph:
    """Without the arrows that follow from others."""
    return {
        title: {
            other
            for other in others
            if not any(other in reached(edges, [mid]) for mid in others - {other})
        }
        for title, others in edges.items()
    }


def levels(edges: Graph) -> dict[str, int]:
    """How many boxes lie below a box: those without arrows are level 0."""
    found: dict[str, int] = {}
    for title in sorted(edges, key=lambda t: len(reached(edges, [t]))):
        found[title] = max((found[other] + 1 for other in edges[title]), default=0)
    return found


def place(boxes: Mapping[str, Mapping[str, list[str]]], edges: Graph) -> dict[str, Box]:
    """Rows of boxes by level, the lowest at the bottom; aims of long arrows stand at the right."""
    level = levels(edges)
    long = {o for title, others in edges.items() for o in others if level[title] - level[o] > 1}
    placed: dict[str, Box] = {}
    y = 0.0
    for row in sorted(set(level.values()), reverse=True):
        titles = sorted((t for t in boxes if level[t] == row), key=lambda t: t in long)
        width = (WIDTH - LANE - 1 - GAP * (len(titles) - 1)) / len(titles)
        lines = {title: box_lines(boxes[title], width) for title in titles}
        height = 2 * PAD + LINE * (1 + max(map(len, lines.values())))
        for i, title in enumerate(titles):
            placed[title] = Box(title, lines[title], 1 + i * (width + GAP), y + 1, width, height)
        y += height + GAP
    return placed


def box_lines(rows: Mapping[str, list[str]], width: float) -> list[str]:
    """The modules of a box in lines that fit its width."""
    lines = []
    for label, names in rows.items():
        short = [name.removeprefix("tism.") for name in names]
        text = f"{label}: {', '.join(short)}" if label else ", ".join(short)
        lines += wrap(
            text, int((width - 2 * PAD) / CHARACTER), subsequent_indent="   " * bool(label)
        )
    return lines


def draw(placed: Mapping[str, Box], edges: Graph) -> str:
    """The picture as SVG; colours are those of the page, by the classes of book.css."""
    height = max(box.y + box.height for box in placed.values()) + 1
    arrows = [arrow(placed[a], placed[b], i) for i, (a, b) in enumerate(_pairs(edges))]
    described = escape(describe(edges))
    return "\n".join(
        [
            f'<svg class="architecture" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
            f'aria-label="{described}" xmlns="http://www.w3.org/2000/svg">',
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" '
            'markerHeight="8" orient="auto"><path d="M 0 0 L 10 5 L 0 10 z"/></marker></defs>',
            *arrows,
            *(part for box in placed.values() for part in drawn_box(box)),
            "</svg>",
        ]
    )


def _pairs(edges: Graph) -> list[tuple[str, str]]:
    return [(title, other) for title, others in edges.items() for other in sorted(others)]


def arrow(upper: Box, lower: Box, number: int) -> str:
    """From the box that imports to the imported one: to the next row, or round the right side."""
    if lower.y - (upper.y + upper.height) <= GAP + 1:
        x0, x1 = _ends(upper, lower)
        return f'<path d="M {x0:.0f} {upper.y + upper.height:.0f} L {x1:.0f} {lower.y:.0f}"/>'
    y0, y1 = upper.y + upper.height / 2, lower.y + lower.height / 2
    left, right = upper.x + upper.width, lower.x + lower.width
    lane = WIDTH - LANE + 10 + 7 * (number % 3)
    return f'<path d="M {left:.0f} {y0:.0f} H {lane} V {y1:.0f} H {right:.0f}"/>'


def _ends(upper: Box, lower: Box) -> tuple[float, float]:
    """Where an arrow leaves and arrives: upright where the boxes stand over each other."""
    narrow, wide = sorted((upper, lower), key=lambda box: box.width)
    middle = narrow.x + narrow.width / 2
    if wide.x < middle < wide.x + wide.width:
        return middle, middle
    x0, x1 = (
        min(max(other.x + other.width / 2, box.x + 2 * PAD), box.x + box.width - 2 * PAD)
        for box, other in ((upper, lower), (lower, upper))
    )
    return x0, x1


def drawn_box(box: Box) -> list[str]:
    """Frame, title and lines of a box."""
    texts = [("title", box.title), *(("modules", line) for line in box.lines)]
    return [
        f'<rect x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" '
        f'height="{box.height:.0f}" rx="6"/>',
        *(
            f'<text class="{kind}" x="{box.x + PAD:.0f}" y="{box.y + PAD + LINE * (i + 0.7):.0f}" '
            f'xml:space="preserve">{escape(text)}</text>'
            for i, (kind, text) in enumerate(texts)
        ),
    ]


def describe(edges: Graph) -> str:
    """The picture in words."""
    parts = [
        f"{title} imports {', '.join(sorted(others))}" if others else f"{title} imports no other"
        for title, others in reversed(edges.items())
    ]
    return f"Boxes of modules and what they import: {'; '.join(parts)}."


class ArchitectureDirective(SphinxDirective):
    """`{architecture}` with a caption as its content."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        graph = import_graph(root / "tism")
        boxes = groups(graph, chapter_imports(root / "notebooks", graph))
        edges = reduced(group_graph(graph, boxes))
        figure = nodes.figure("", nodes.raw("", draw(place(boxes, edges), edges), format="html"))
        figure += nodes.caption(
            "", "", *self.state.inline_text(" ".join(self.content), self.lineno)[0]
        )
        figure["ids"].append(TITLE)
        for path in module_files(root / "tism").values():
            self.env.note_dependency(str(path))
        return [figure]


def setup(app: Any) -> dict[str, bool]:
    """Entry point of Sphinx."""
    app.add_directive("architecture", ArchitectureDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
