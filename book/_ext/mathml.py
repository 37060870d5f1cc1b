"""Sphinx extension that writes equations as MathML, which browsers draw without any script."""

from __future__ import annotations

import re

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.locale import _
from sphinx.util.math import get_node_equation_number

# TeX that docutils does not know, and its equal that it knows
EQUALS = {
    r"\\([bB])ig(?=[(\[])": r"\\\1igl",
    r"\\([bB])ig(?=[)\]])": r"\\\1igr",
    r"\\dots\b": r"\\ldots",
}


def mathml(tex: str, block: bool) -> str:
    """The <math> element of an equation; raises `MathError` for TeX that cannot be written."""
    for pattern, equal in EQUALS.items():
        tex = re.sub(pattern, equal, tex)
    return latex2mathml.tex2mathml(tex, as_block=block)


def visit_inline(translator, node: nodes.math) -> None:
    """Write an equation within a sentence."""
    translator.body.append(mathml(node.astext(), block=False))
    raise nodes.SkipNode


def visit_block(translator, node: nodes.math_block) -> None:
    """Write an equation of its own line, with its number if it has one."""
    translator.body.append(translator.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="eqno">({number})')
        translator.add_permalink_ref(node, _("Link to this equation"))
        translator.body.append("</span>")
    translator.body.append(mathml(node.astext(), block=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app) -> dict[str, bool]:
    """Entry point of Sphinx."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
