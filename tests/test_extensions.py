"""The Sphinx extensions: equations without a script, pages without what they do not use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "book" / "_ext"))

from light_pages import strip
from mathml import mathml


@pytest.mark.parametrize("tex", [r"f\big(x\big)", r"\Big[x \Big]", r"a + \dots", r"\frac{1}{2}"])
def test_equations_become_mathml(tex: str):
    written = mathml(tex, block=True)
    assert written.startswith("<math")
    assert 'display="block"' in written
    assert "\\" not in written


def test_unknown_tex_is_refused():
    with pytest.raises(ValueError, match="nonsense"):
        mathml(r"\nonsense{x}", block=False)


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
