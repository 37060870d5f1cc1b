"""The picture of the package is its imports; they run one way, and the core is light."""

from __future__ import annotations

import ast
import re
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from architecture import (
    CHAPTERS,
    PAD,
    WIDTH,
    Graph,
    chapter_imports,
    describe,
    draw,
    group_graph,
    groups,
    import_graph,
    imported,
    levels,
    module_files,
    place,
    reached,
    reduced,
)

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tism"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def graph() -> Graph:
    return import_graph(PACKAGE)


@pytest.fixture(scope="module")
def boxes(graph: Graph) -> dict[str, dict[str, list[str]]]:
    return groups(graph, chapter_imports(ROOT / "notebooks", graph))


def test_imports_of_a_program():
    program = """
import torch
import p.d
from p import a, other
from p.b import name
if TYPE_CHECKING:
    from p import hidden
def f():
    from p.c import late
"""
    known = ["p", "p.a", "p.b", "p.c", "p.d", "p.hidden"]
    assert imported(ast.parse(program), known) == {"p", "p.a", "p.b", "p.c", "p.d"}


def test_no_module_imports_itself_by_way_of_others(graph: Graph):
    circular = {m for m, others in graph.items() if any(m in reached(graph, [o]) for o in others)}
    assert circular == set()


def test_every_module_has_one_box(graph: Graph, boxes: dict):
    placed = [m for rows in boxes.values() for names in rows.values() for m in names]
    assert sorted(placed) == sorted(graph)
    assert next(reversed(boxes)) == CHAPTERS, "a module that nothing uses"


def test_boxes_import_only_boxes_before_them(graph: Graph, boxes: dict):
    order, edges = list(boxes), group_graph(graph, boxes)
    upward = {(a, b) for a in order for b in edges[a] if order.index(b) > order.index(a)}
    assert upward == set()


def test_core_imports_only_torch_and_numpy(boxes: dict):
    files = module_files(PACKAGE)
    allowed = {"torch", "numpy", "tism", "__future__", *sys.stdlib_module_names}
    heavy = {}
    for module in boxes["import tism"][""]:
        tops = {
            alias.name if isinstance(node, ast.Import) else node.module
            for node in ast.parse(files[module].read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        if found := {name.split(".")[0] for name in tops} - allowed:
            heavy[module] = found
    assert heavy == {}


def test_arrows_that_follow_from_others_are_left_out():
    edges = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a"}}
    assert reduced(edges) == {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"a"}}
    assert levels(reduced(edges)) == {"a": 0, "b": 1, "c": 2, "d": 1}
    assert "c imports b; " in describe(reduced(edges))


def test_unused_module_is_shown_as_such(graph: Graph):
    alone = groups(graph | {"tism.lonely": set()}, chapter_imports(ROOT / "notebooks", graph))
    assert alone["not used by a chapter"] == {"": ["tism.lonely"]}


def test_picture_shows_every_module_within_its_box(graph: Graph, boxes: dict):
    edges = reduced(group_graph(graph, boxes))
    placed = place(boxes, edges)
    root = ElementTree.fromstring(draw(placed, edges))
    assert root.get("role") == "img"
    assert root.get("aria-label") == describe(edges)
    words = " ".join(text.text or "" for text in root.iter(f"{SVG}text"))
    shown = re.findall(r"[\w.]+", words)
    assert {m.removeprefix("tism.") for m in graph} <= set(shown)
    assert len(root.findall(f"{SVG}path")) == sum(map(len, edges.values()))
    for box in placed.values():
        assert max(map(len, box.lines)) * 7.2 <= box.width - 2 * PAD
        assert box.x + box.width < WIDTH


def test_boxes_do_not_overlap(graph: Graph, boxes: dict):
    placed = place(boxes, reduced(group_graph(graph, boxes))).values()
    for row in {box.y for box in placed}:
        beside = sorted((box for box in placed if box.y == row), key=lambda box: box.x)
        assert all(left.x + left.width < right.x for left, right in pairwise(beside))
    rows = sorted({(box.y, box.height) for box in placed})
    assert all(y + height < below for (y, height), (below, _) in pairwise(rows))
