"""Sphinx extension that removes from a page what it does not use, so that it opens quickly.

It also removes what misleads a screen reader: roles and labels of the theme, and headers of tables
that say nothing, such as that above the row numbers of pandas.

Figures become lossless WebP, a third of the size of PNG. Scripts, styles and icons that the theme
and its extensions load on every page are kept only where a page uses them.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from sphinx.transforms.post_transforms.images import ImageConverter

# files loaded on every page, and the text that shows that a page uses them; None: no page does
USED_WITH = {
    "fontawesome.js": None,  # its style sheet draws the same icons
    "sphinx-thebe.css": None,
    "sphinx-thebe.js": None,
    "design-tabs.js": 'class="sd-tab',
    "sphinx-design.min.css": 'class="sd-',
    "searchtools.js": 'id="search-results"',
    "language_data.js": 'id="search-results"',
    "searchindex.js": 'id="search-results"',
}
THEBE = re.compile(
    r"<script[^>]*>\s*(?:const THEBE_JS_URL|\{\s*requestKernel|kernelName =).*?</script>\s*",
    re.DOTALL,
)
TAG = (
    r'<(?:script|link)\b[^>]*\b(?:src|href)="(?:[^"]*/)?{name}(?:\?[^"]*)?"[^>]*>(?:</script>)?\s*'
)
MISLEADING = re.compile(  # these have a text; entries of a bibliography are no items of a list
    r'(?<=search-button-field)(?P<rest>[^>]*) aria-label="Search"'
    r'|(?<=<summary) aria-label="Toggle hidden content"'
    r'| role="list"(?= class="citation-list")| role="doc-biblioentry"'
)
EMPTY_HEADER = re.compile(r"<th\b[^>]*>\s*</th>")
ICON = re.compile(r"((?:\.fa-[\w-]+:before,?)+)\{content:\"\\[0-9a-f]+\"\}")
LETTER = re.compile(r"\\([0-9a-f]{4})\b|([\ue000-\uf8ff])")
WOFF2 = re.compile(r"url\([^)]*\.woff2\) format\(\"woff2\"\),")


class ToWebP(ImageConverter):
    """Converts figures from PNG to WebP, pixel for pixel."""

    def match(self, node) -> bool:
        """True for a PNG in a build of HTML pages."""
        return self.app.builder.format == "html" and "image/png" in self.guess_mimetypes(node)

    def get_conversion_rule(self, node) -> tuple[str, str]:
        """The formats before and after the conversion."""
        return "image/png", "image/webp"

    def convert(self, _from: str, _to: str) -> bool:
        """Write the WebP file, once for all pages that show it."""
        from PIL import Image

        if not Path(_to).exists():
            with Image.open(_from) as image:
                image.save(_to, "WEBP", lossless=True, quality=80)
        return True


def strip(page: str) -> str:
    """A page without the tags that load files it does not use, and with named headers only."""
    for name, mark in USED_WITH.items():
        if mark is None or mark not in page:
            page = re.sub(TAG.format(name=re.escape(name)), "", page)
    page = EMPTY_HEADER.sub("<td></td>", THEBE.sub("", page))
    return MISLEADING.sub(lambda found: found["rest"] or "", page)


def strip_icons(static: Path, icons: set[str]) -> None:
    """Keep only the icons of these names in the theme, and those that its other rules draw."""
    path = static / "styles" / "pydata-sphinx-theme.css"
    wanted = {f".{icon}:before" for icon in icons}
    style = path.read_text(encoding="utf-8")
    style = ICON.sub(lambda rule: rule[0] if wanted & set(rule[1].split(",")) else "", style)
    path.write_text(WOFF2.sub("", style), encoding="utf-8")
    letters = {int(code, 16) if code else ord(letter) for code, letter in LETTER.findall(style)}
    for font in (static / "vendor" / "fontawesome" / "webfonts").iterdir():
        subset_font(font, letters) if font.suffix == ".ttf" else font.unlink()


def subset_font(path: Path, letters: set[int]) -> None:
    """Keep only the letters of these code points in a font."""
    from fontTools import subset

    logging.getLogger(subset.__name__).setLevel(logging.WARNING)
    options = subset.Options()
    font = subset.load_font(path, options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=letters)
    subsetter.subset(font)
    subset.save_font(font, path, options)


def lighten(app, failure: Exception | None) -> None:
    """Handler of the end of the build: strip every page, and delete what no page loads."""
    if failure or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    static = folder / "_static"
    for path in static.rglob("*"):
        if path.suffix == ".map" or USED_WITH.get(path.name, "") is None:
            path.unlink()
    icons: set[str] = set()
    for path in (*folder.rglob("*.html"), *static.rglob("*.js")):
        text = path.read_text(encoding="utf-8")
        icons.update(re.findall(r"fa-[\w-]+", text))
        if path.suffix == ".html":
            path.write_text(strip(text), encoding="utf-8")
    strip_icons(static, icons)
    # a page opened from disk may not read other pages, so a search there quotes none of them
    options = static / "documentation_options.js"
    quoting = "SHOW_SEARCH_SUMMARY: location.protocol !== 'file:'"
    script = options.read_text(encoding="utf-8").replace("SHOW_SEARCH_SUMMARY: true", quoting)
    options.write_text(script, encoding="utf-8")


def setup(app) -> dict[str, bool]:
    """Entry point of Sphinx."""
    app.add_post_transform(ToWebP)
    app.connect("build-finished", lighten, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
