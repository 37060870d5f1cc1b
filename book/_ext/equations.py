"""Sphinx extension that draws equations as SVG when the book is built.

A page then needs no script and no font for them, and they look the same in every browser.
"""

from __future__ import annotations

import re
from html import escape

from docutils import nodes
from sphinx.locale import _
from sphinx.util.math import get_node_equation_number

UNITS = 16  # of the drawing in one em
NARROW = 16  # em, the width of a line beside a number on a phone
OPENING = re.compile(r'<svg\b[^>]*\bwidth="([\d.]+)" height="([\d.]+)" (viewBox="[^"]*")[^>]*>')


def draw(tex: str, block: bool) -> str:
    """The <svg> element of an equation, in the size and colour of the text around it.

    Raises ValueError for TeX that cannot be converted.
    """
    import ziamath
    from latex2mathml.converter import convert

    if unknown := re.search(r"\\\w+", convert(tex)):
        raise ValueError(f"{unknown[0]} is unknown in the equation {tex.strip()}")
    ziamath.config.svg2 = False
    ziamath.config.precision = 2
    equation = ziamath.Latex(tex, size=UNITS, inline=not block, color="currentColor")
    drawing = equation.svg()
    width, height, box = OPENING.match(drawing).groups()
    _, top, _, _ = map(float, re.findall(r"[-\d.]+", box))
    below = float(height) + top
    style = f"height: {float(height) / UNITS:.3f}em; width: {float(width) / UNITS:.3f}em; "
    style += f"vertical-align: {-below / UNITS:.3f}em"
    label = escape(" ".join(tex.split()), quote=True)
    opening = f'<svg class="equation" role="img" aria-label="{label}" {box} style="{style}">'
    return OPENING.sub(lambda _: opening, drawing, count=1)


def line(drawing: str) -> str:
    """A drawing on a line of its own, which the keyboard reaches if it scrolls on a phone."""
    width = float(re.search(r"width: ([\d.]+)em", drawing)[1])
    focus = ' tabindex="0"' if width > NARROW else ""
    return f'<div class="line"{focus}>{drawing}</div>'


def visit_inline(translator, node: nodes.math) -> None:
    """Write an equation within a sentence."""
    translator.body.append(draw(node.astext(), block=False))
    raise nodes.SkipNode


def visit_block(translator, node: nodes.math_block) -> None:
    """Write an equation on its own line, with its number if it has one."""
    translator.body.append(translator.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="eqno">({number})')
        translator.add_permalink_ref(node, _("Link to this equation"))
        translator.body.append("</span>")
    translator.body.append(line(draw(node.astext(), block=True)) + "</div>\n")
    raise nodes.SkipNode


def setup(app) -> dict[str, bool]:
    """Entry point of Sphinx."""
    app.add_html_math_renderer("svg", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
