"""The committed book builds from its tree alone, without a warning; its pages are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:work|root|tmp|home|Users)/[\w.~-]+")
OUTSIDE = re.compile(  # what a browser would fetch by itself
    r"<(?:audio|embed|iframe|img|input|object|script|source|video)\b[^>]*"
    r"\b(?:src|srcset|data)=[\"'](?:https?:)?//"
    r"|<link\b(?=[^>]*\brel=\"(?:icon|modulepreload|preload|prefetch|stylesheet)\")[^>]*"
    r"\bhref=[\"'](?:https?:)?//"
    r"|(?:url\(|@import)\s*['\"]?(?:https?:)?//",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, str]:
    paths = [path.relative_to(site) for path in site.rglob("*.html")]
    pages = {str(p): (site / p).read_text() for p in paths if p.parts[0] != "_static"}
    assert len(pages) > len(toc_entries())
    return pages


def toc_entries() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"]] + [entry["file"] for part in toc["parts"] for entry in part["chapters"]]


def test_every_entry_of_the_contents_has_its_page(pages: dict[str, str]):
    for entry in toc_entries():
        page = pages[f"{entry}.html"]
        assert "<h1>" in page
        assert len(page) > 5_000


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://a/x.js"></script>',
        '<link rel="stylesheet" href="//b/x.css">',
        '<style>@import "https://c/x.css";</style>',
        '<p style="background: url(//d/x)">text</p>',
        '<img alt="x" srcset="https://e/x.png 2x">',
    ],
)
def test_loading_from_outside_is_found(tag: str):
    assert OUTSIDE.search(tag)
    assert not OUTSIDE.search('<img src="_static/x.png"><a href="https://f/">link</a>')
    assert not OUTSIDE.search('<link rel="canonical" href="https://g/">')


def test_pages_and_styles_load_nothing_from_outside(site: Path, pages: dict[str, str]):
    styles = {str(path.relative_to(site)): path.read_text() for path in site.rglob("*.css")}
    assert styles
    assert [name for name, text in (pages | styles).items() if OUTSIDE.search(text)] == []


def test_pages_name_no_machine_path(pages: dict[str, str]):
    found = {name: sorted(set(MACHINE_PATH.findall(page))) for name, page in pages.items()}
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_every_module_of_core_and_score_is_documented():
    documented = (ROOT / "book" / "api.md").read_text()
    files = [*ROOT.glob("tism/*.py"), *ROOT.glob("tism/engine/*.py"), *ROOT.glob("tism/score/*.py")]
    names = {".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files}
    names = {name for name in names if not name.endswith("__init__")} - {"tism.versions"}
    assert [name for name in names if f":: {name}\n" not in documented] == []


def test_equations_and_terms_are_linked(pages: dict[str, str]):
    assert re.search(
        r'href="[^"]*01_taylor_to_ism.html#[^"]*"[^>]*>Eq\. 1\.\d', pages["book/how_to_read.html"]
    )
    assert 'href="glossary.html#term-ISM"' in pages["book/intro.html"]
    assert 'id="tism.ism"' in pages["book/api.html"]


def test_no_directive_is_shown_as_text(pages: dict[str, str]):
    assert [name for name, page in pages.items() if re.search(r"(```|:::)\{", page)] == []


def test_gallery_shows_every_figure_and_leads_to_it(site: Path, pages: dict[str, str]):
    gallery = pages["book/gallery.html"]
    places = re.findall(r'<li><figure><a href="([^"#]+)#([^"]+)"><img', gallery)
    for page, place in places:
        assert f'id="{place}"' in (site / "book" / page).read_text(), f"{page}#{place}"
    captioned = {name: len(re.findall(r"<figcaption", page)) for name, page in pages.items()}
    shown = captioned.pop("book/gallery.html")
    assert len(places) == shown == sum(captioned.values()) > 40
    captions = re.findall(r"<figcaption>(?:<strong>[\d.]+</strong> )?([^<]+)<", gallery)
    assert len(captions) == shown
    assert [caption for caption in captions if "\\" in caption or not caption.strip()] == []


def test_gallery_is_light(site: Path, pages: dict[str, str]):
    page = pages["book/gallery.html"]
    images = set(re.findall(r'<img\b[^>]*\bsrc="([^"?]+)', page))
    assert len(page) + sum((site / "book" / image).stat().st_size for image in images) < 1_000_000


def test_landing_page_has_its_picture(pages: dict[str, str]):
    page = pages["book/intro.html"]
    assert len(re.findall(r'<svg role="img" aria-label="[^"]{40,}"', page)) == 2
    assert re.search(r"<data value=landing_tism_r>0\.\d\d</data>", page)


def test_decision_page_has_its_numbers(pages: dict[str, str]):
    page = pages["book/which_score.html"]
    assert re.search(r"<data value=windowed_cost>\d+ to \d+</data> predictions", page)
    assert len(re.findall(r"<table", page)) == 5
    assert len(re.findall(r"0\.\d\d", page)) > 50


def test_both_entries_are_on_the_page_on_citing(pages: dict[str, str]):
    text = re.sub(r"<[^>]+>", "", pages["book/how_to_cite.html"])
    assert "@article{sasse2024" in text
    assert "@article{majdandzic2023" not in text
    assert "@software{tism_compendium" in text
