"""Sphinx extension: the directive `gallery` shows every figure of the book as a small picture.

Number, alternative text and the first sentence of the caption are taken from the pages as Sphinx
has read them. Each picture is a link to its figure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from docutils.parsers.rst import Directive
from PIL import Image

WIDTH = 320  # pixels of a small picture
FOLDER = "_images/gallery"
UNICODE = {r"\,": " ", r"\Delta ": "Δ", r"\to": "→", "_0": "₀"}  # for mathematics in captions
SENTENCE = re.compile(r"(.+?[.;:?])(?:\s|$)", re.DOTALL)
LABEL = re.compile(r"\S+(?: \S+)?: (?P<first>\w)")  # such as "A: " or "First panel: "


class Gallery(nodes.General, nodes.Element):
    """Holds the place of the pictures until all pages are read."""


class GalleryDirective(Directive):
    """`{gallery}`, without options or content."""

    def run(self) -> list[nodes.Node]:
        """The place of the pictures."""
        return [Gallery()]


class Picture(NamedTuple):
    """A figure of the book.

    anchor : id of the figure within its page
    number : such as 4.1, or "" where the page numbers none
    """

    anchor: str
    number: str
    caption: str
    alt: str
    file: Path


def first_sentence(caption: str) -> str:
    """The first sentence of a caption, or its part before a colon, without the mark at its end.

    A label of one or two words before it, as of a panel, is left out.
    """
    if label := LABEL.match(caption):
        caption = label["first"].upper() + caption[label.end() :]
    found = SENTENCE.match(caption)
    return (found[1] if found else caption).rstrip(".;:")


def plain(caption: nodes.caption) -> str:
    """The text of a caption with its mathematics in Unicode."""
    text = caption.astext()
    for formula in caption.findall(nodes.math):
        shown = formula.astext()
        for tex, character in UNICODE.items():
            shown = shown.replace(tex, character)
        text = text.replace(formula.astext(), shown)
    return text


def small_picture(source: Path, target: Path) -> tuple[int, int]:
    """Write a picture at most `WIDTH` wide as WebP, on white; returns width and height."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        on_white = Image.new("RGBA", image.size, "white")
        on_white.alpha_composite(image.convert("RGBA"))
    on_white.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.LANCZOS)
    on_white.convert("RGB").save(target, quality=75, method=6)
    return on_white.size


def pictures(env: Any, page: str) -> Iterator[Picture]:
    """The captioned figures of a page, in order."""
    numbers = env.toc_fignumbers.get(page, {}).get("figure", {})
    for figure in env.get_doctree(page).findall(nodes.figure):
        image, caption = figure.next_node(nodes.image), figure.next_node(nodes.caption)
        if image is not None and caption is not None and figure["ids"]:
            anchor = figure["ids"][0]
            number = ".".join(map(str, numbers.get(anchor, ())))
            text = first_sentence(plain(caption))
            yield Picture(anchor, number, text, image["alt"], Path(env.srcdir) / image["uri"])


def section(app: Any, here: str, page: str) -> str:
    """HTML of the figures of a page under its title; empty for a page without figures."""
    address = escape(app.builder.get_relative_uri(here, page))
    items = []
    for picture in pictures(app.env, page):
        file = f"{FOLDER}/{Path(page).name}-{picture.anchor}.webp"
        width, height = small_picture(picture.file, Path(app.outdir) / file)
        number = f"<strong>{picture.number}</strong> " if picture.number else ""
        items.append(
            f'<li><figure><a href="{address}#{escape(picture.anchor)}">'
            f'<img src="{"../" * here.count("/")}{file}" alt="{escape(picture.alt)}" '
            f'width="{width}" height="{height}"/></a>'
            f"<figcaption>{number}{escape(picture.caption)}</figcaption></figure></li>"
        )
    if not items:
        return ""
    title = escape(app.env.titles[page].astext())
    listed = "\n".join(items)
    return (
        f'<p class="rubric"><a href="{address}">{title}</a></p>\n<ul class="gallery">{listed}</ul>'
    )


def pages_in_order(env: Any, page: str) -> list[str]:
    """A page and the pages below it, as the table of contents lists them."""
    below = (pages_in_order(env, child) for child in env.toctree_includes.get(page, []))
    return [page, *(name for names in below for name in names)]


def fill(app: Any, doctree: nodes.document, docname: str) -> None:
    """Handler of Sphinx's event: put the pictures where the directive stands."""
    for node in list(doctree.findall(Gallery)):
        if app.builder.format != "html":
            node.parent.remove(node)
            continue
        pages = pages_in_order(app.env, app.env.config.root_doc)
        sections = [section(app, docname, page) for page in pages]
        node.replace_self(nodes.raw("", "\n".join(filter(None, sections)), format="html"))


def setup(app: Any) -> dict[str, bool]:
    """Entry point of Sphinx."""
    app.add_node(Gallery)
    app.add_directive("gallery", GalleryDirective)
    app.connect("doctree-resolved", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
