"""The Sphinx extensions: equations, light pages, the gallery, the citation, launch buttons."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import yaml
from citation import bibtex
from docutils import nodes
from equations import draw, line
from gallery import WIDTH, first_sentence, plain, small_picture
from landing import draw_prices, draw_region, example, prices
from launch import theme_options
from light_pages import strip
from PIL import Image
from recorded import Record

ROOT = Path(__file__).parents[2]

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


def test_the_keyboard_reaches_an_equation_that_scrolls_on_a_phone():
    short, long = (line(draw(tex, block=True)) for tex in ("f(s)", "f(s) + " * 9 + "s"))
    assert re.match(r'<div class="line"><svg .*</svg></div>$', short, re.DOTALL)
    assert re.match(r'<div class="line" tabindex="0"><svg ', long)


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


@pytest.mark.parametrize(
    ("tag", "mended"),
    [
        ('<button class="search-button-field" title="a" aria-label="Search" id="b">',
         '<button class="search-button-field" title="a" id="b">'),
        ('<button class="search-button" aria-label="Search">',) * 2,  # an icon without text
        ('<summary aria-label="Toggle hidden content">', "<summary>"),
        ('<div role="list" class="citation-list">', '<div class="citation-list">'),
        ('<div class="citation" role="doc-biblioentry">', '<div class="citation">'),
        ('<tr><th></th>\n<th class="head"> </th><th>r</th></tr>',
         "<tr><td></td>\n<td></td><th>r</th></tr>"),
    ],
)  # fmt: skip
def test_a_screen_reader_is_not_misled(tag: str, mended: str):
    assert strip(tag) == mended


@pytest.mark.parametrize(
    ("caption", "first"),
    [
        ("Regions of each chromosome. Whole ones are held out.", "Regions of each chromosome"),
        ("GC content; the dashed line is the median.", "GC content"),
        ("Mean r at 0.5 of e.g.all. More", "Mean r at 0.5 of e.g.all"),
        ("no end", "no end"),
        ("A: parts of it, by layer. B: recall", "Parts of it, by layer"),
        ("First panel: the r of one. Second: both", "The r of one"),
        ("One task at 251 bp: the rest", "One task at 251 bp"),
    ],
)
def test_first_sentence_of_a_caption(caption: str, first: str):
    assert first_sentence(caption) == first


def test_mathematics_of_a_caption_is_readable():
    caption = nodes.caption("", "", nodes.Text("At "), nodes.math("", r"t\,\Delta s \to s_0"))
    assert plain(caption) == "At t Δs → s₀"


def test_small_picture_is_small_and_white(tmp_path: Path):
    Image.new("RGBA", (1600, 400), (255, 0, 0, 0)).save(tmp_path / "large.png")
    size = small_picture(tmp_path / "large.png", tmp_path / "new" / "small.webp")
    assert size == (WIDTH, WIDTH // 4)
    with Image.open(tmp_path / "new" / "small.webp") as image:
        assert image.size == size
        assert image.convert("RGB").getpixel((5, 5)) == (255, 255, 255)


def test_the_landing_picture_is_of_the_record_and_says_in_words_what_it_shows():
    found, table = example(Record(ROOT / "data")), prices(Record(ROOT / "data"))
    exact, taylor = (found.maps[method] for method in ("ISM", "TISM"))
    assert (exact != 0).sum() <= exact.shape[1]  # one letter a position
    assert torch.corrcoef(torch.stack([exact.sum(0), taylor.sum(0)]))[0, 1] > 0.5
    assert table["mean_r"].is_monotonic_increasing
    dearest = table.iloc[-1]["cost"]
    for drawing, words in (
        (draw_region(found), f"{found.region} for {found.task}"),
        (draw_prices(table), f"plain ISM {dearest:.0f} predictions, r 1.00"),
    ):
        assert words in re.match(r'<svg role="img" aria-label="([^"]+)"', drawing)[1]
        assert "currentColor" in drawing
        assert not re.search(r"#(?:000000|ffffff)\b", drawing)


def test_entry_of_the_compendium():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    entry = bibtex(citation)
    assert entry.startswith("@software{tism_compendium,\n")
    assert f"title   = {{{{{citation['title']}}}}}" in entry
    assert "author  = {{The TISM compendium authors}}" in entry
    assert entry.count("{") == entry.count("}")


def test_entry_with_people_a_date_and_a_doi():
    authors = [{"family-names": "Doe", "given-names": "J."}, {"name": "A Lab"}]
    citation = {"authors": authors, "title": "T", "version": 2, "license": "MIT"}
    entry = bibtex({**citation, "date-released": "2027-01-02", "doi": "10.1/x"})
    assert "{Doe, J. and {A Lab}}" in entry
    assert "year    = {2027}" in entry
    assert "doi     = {10.1/x}" in entry
    assert "url" not in entry


def test_buttons_lead_to_the_repository_of_a_hosted_build():
    assert theme_options({}) == theme_options({"GITHUB_REPOSITORY": ""}) == {}
    hosted = {"GITHUB_REPOSITORY": "lab/book", "GITHUB_SERVER_URL": "https://git.example"}
    options = theme_options(hosted)
    assert options["repository_url"] == "https://git.example/lab/book"
    assert options["repository_branch"] == "main"
    assert options["launch_buttons"]["binderhub_url"].startswith("https://")
