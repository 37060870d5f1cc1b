"""The Sphinx extensions: equations as drawings, pages without what they do not use."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "book" / "_ext"))

from equations import draw
from light_pages import strip

# ziamath looks for its font in a way that Python 3.11 alone warns of
pytestmark = pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning")


@pytest.mark.parametrize("tex", ["f", r"\hat y_i < 0", r"f\big(x\big)", r"\tfrac12\, d^\top H d"])
def test_equations_become_drawings(tex: str):
    block, inline = (ElementTree.fromstring(draw(tex, block)) for block in (True, False))
    for drawing in block, inline:
        assert drawing.get("aria-label") == tex
        assert drawing.find(".//{*}path") is not None
        assert "currentColor" in ElementTree.tostring(drawing, "unicode")


def test_a_tall_equation_stands_on_the_line():
    low, tall = (draw(tex, block=True) for tex in ("x", r"\frac{1}{\sum_i x_i}"))
    drop = [float(re.search(r"vertical-align: ([-\d.]+)em", svg)[1]) for svg in (low, tall)]
    assert drop[1] < drop[0] <= 0


def test_unknown_tex_is_refused():
    with pytest.raises(ValueError, match=r"nonsense is unknown in the equation .nonsense\{x\}"):
        draw(r"\nonsense{x}", block=False)


@pytest.mark.parametrize(
    ("tag", "user"),
    [
        ('<script src="../_static/fontawesome.js?digest=1" defer></script>', None),
        ('<link rel="stylesheet" href="_static/sphinx-thebe.css" />', None),
        ('<script>const THEBE_JS_URL = "https://a/b.js";</script>', None),
        ('<script src="searchindex.js"></script>', '<div id="search-results">'),
        ('<link href="../_static/sphinx-design.min.css?v=1"/>', '<div class="sd-card">'),
    ],
)
def test_pages_keep_only_what_they_use(tag: str, user: str | None):
    kept = '<script src="_static/doctools.js"></script><p>fontawesome.js</p>'
    assert strip(f"{tag}\n{kept}") == kept
    if user:
        assert strip(f"{tag}{kept}{user}") == f"{tag}{kept}{user}"
