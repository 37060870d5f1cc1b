"""The committed book builds from its tree alone, without a warning, and stands alone once built."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LOADING = {
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "img": "src",
    "input": "src",
    "object": "data",
    "script": "src",
    "source": "src",
    "video": "src",
}
LOADING_LINKS = {"icon", "modulepreload", "preload", "prefetch", "stylesheet"}
OUTSIDE = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
CSS_LOAD = re.compile(r"(?:url\(|@import)\s*['\"]?\s*([^'\")\s;]+)", re.IGNORECASE)
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:work|root|tmp|home|Users)/[\w.~-]+")


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, str]:
    paths = [path.relative_to(site) for path in site.rglob("*.html")]
    pages = {str(p): (site / p).read_text() for p in paths if p.parts[0] != "_static"}
    assert len(pages) > len(toc_entries())
    return pages


def toc_entries() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"]] + [entry["file"] for part in toc["parts"] for entry in part["chapters"]]


class Loads(HTMLParser):
    """The addresses that a browser fetches by itself on opening a page."""

    def __init__(self, page: str):
        super().__init__()
        self.addresses: list[str] = []
        self.in_style = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.in_style = tag == "style"
        self.addresses.append(values.get(LOADING.get(tag, "")) or "")
        for part in (values.get("srcset") or "").split(","):
            self.addresses.append(part.strip())
        if tag == "link" and LOADING_LINKS & set((values.get("rel") or "").split()):
            self.addresses.append(values.get("href") or "")
        self.addresses += CSS_LOAD.findall(values.get("style") or "")

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.addresses += CSS_LOAD.findall(data)


def outside(addresses: list[str]) -> list[str]:
    return [address for address in addresses if OUTSIDE.match(address)]


def test_loads_finds_what_a_browser_fetches():
    page = (
        '<script src="https://a/x.js"></script><link rel="stylesheet" href="//b/x.css">'
        '<style>@import "https://c/x.css"; p {background: url(http://d/x.png)}</style>'
        '<img src="_static/x.png"><img srcset="https://e/x.png 2x"><a href="https://f/">link</a>'
        '<link rel="canonical" href="https://g/"><p style="background: url(//h/x)">text</p>'
    )
    assert sorted(re.sub(r".*//(.).*", r"\1", a) for a in outside(Loads(page).addresses)) == list(
        "abcdeh"
    )


@pytest.mark.parametrize("entry", toc_entries())
def test_every_entry_of_the_contents_has_its_page(pages: dict[str, str], entry: str):
    page = pages[f"{entry}.html"]
    assert "<h1>" in page
    assert len(page) > 5_000


def test_pages_load_nothing_from_outside(pages: dict[str, str]):
    found = {name: outside(Loads(page).addresses) for name, page in pages.items()}
    assert {name: addresses for name, addresses in found.items() if addresses} == {}


def test_styles_load_nothing_from_outside(site: Path):
    styles = list(site.rglob("*.css"))
    assert styles
    found = {str(s.relative_to(site)): outside(CSS_LOAD.findall(s.read_text())) for s in styles}
    assert {name: addresses for name, addresses in found.items() if addresses} == {}


def test_what_pages_load_exists(site: Path, pages: dict[str, str]):
    missing = set()
    for name, page in pages.items():
        for address in Loads(page).addresses:
            target = address.split("?")[0].split("#")[0]
            if target and not target.startswith("data:") and not OUTSIDE.match(address):
                path = (site / name).parent / target
                if not path.exists():
                    missing.add(f"{name}: {address}")
    assert missing == set()


def test_images_have_alternative_text(pages: dict[str, str]):
    bare = {
        f"{name}: {tag}"
        for name, page in pages.items()
        for tag in re.findall(r"<img\b[^>]*>", page)
        if not re.search(r'\balt="[^"]+"', tag) and "aria-hidden" not in tag
    }
    assert bare == set()


def test_pages_name_no_machine_path(pages: dict[str, str]):
    found = {name: sorted(set(MACHINE_PATH.findall(page))) for name, page in pages.items()}
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_every_module_is_documented():
    documented = (ROOT / "book" / "api.md").read_text()
    for path in (ROOT / "tism").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module != "tism.versions":
            assert re.search(rf":: {module}\b", documented), f"{module} is missing in book/api.md"


def test_equations_and_terms_are_linked(pages: dict[str, str]):
    assert re.search(
        r'href="[^"]*01_taylor_to_ism.html#[^"]*"[^>]*>Eq\. 1\.\d', pages["book/how_to_read.html"]
    )
    assert 'href="glossary.html#term-ISM"' in pages["book/intro.html"]
    assert 'id="tism.ism"' in pages["book/api.html"]


def test_gallery_shows_every_figure_and_leads_to_it(site: Path, pages: dict[str, str]):
    gallery = pages["book/gallery.html"]
    places = re.findall(r'<li><figure><a href="([^"#]+)#([^"]+)"><img', gallery)
    for page, place in places:
        assert f'id="{place}"' in (site / "book" / page).read_text(), f"{page}#{place}"
    captioned = {name: len(re.findall(r"<figcaption", page)) for name, page in pages.items()}
    drawn = captioned.pop("book/architecture.html")  # no image file
    assert drawn == 1
    shown = captioned.pop("book/gallery.html")
    assert len(places) == shown == sum(captioned.values()) > 40
    captions = re.findall(r"<figcaption>(?:<strong>[\d.]+</strong> )?([^<]+)<", gallery)
    assert len(captions) == shown
    assert [caption for caption in captions if "\\" in caption or not caption.strip()] == []


def test_gallery_is_light(site: Path, pages: dict[str, str]):
    images = {address.split("?")[0] for address in Loads(pages["book/gallery.html"]).addresses}
    files = [site / "book" / a for a in images if a.endswith((".webp", ".png", ".svg"))]
    assert len(pages["book/gallery.html"]) + sum(f.stat().st_size for f in files) < 1_000_000


def test_decision_page_has_its_numbers(pages: dict[str, str]):
    page = pages["book/which_score.html"]
    assert "{{" not in page
    assert len(re.findall(r"<table", page)) == 4
    assert len(re.findall(r"0\.\d\d", page)) > 50


def test_architecture_is_drawn(pages: dict[str, str]):
    page = pages["book/architecture.html"]
    assert re.search(r'<svg class="architecture"[^>]* aria-label="[^"]+imports', page)
    assert "window_rules" in page


def test_both_entries_are_on_the_page_on_citing(pages: dict[str, str]):
    text = re.sub(r"<[^>]+>", "", pages["book/how_to_cite.html"])
    assert "@article{sasse2024" in text
    assert "@article{majdandzic2023" not in text
    assert "@software{tism_compendium" in text
