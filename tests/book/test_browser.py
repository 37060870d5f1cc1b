"""Every page of the built book as readers see it: on a desktop and a phone, light and dark."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from html import unescape
from importlib.resources import files
from itertools import cycle
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import Browser, Log

PAGE_BYTES, BOOK_BYTES = 1_500_000, 40_000_000
LOOKS = [("desktop", "light"), ("desktop", "dark"), ("phone", "dark"), ("phone", "light")]

FACTS = r"""
const all = (selector) => [...document.querySelectorAll(selector)];
const text = document.querySelector("article") ?? document.querySelector("main");
const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const tex = [];
while (words.nextNode()) {
  const {data, parentElement} = words.currentNode;
  const raw = /\\[(\[]|\$\$|\\(frac|mathrm|sum)\b/.test(data);
  if (raw && !parentElement.closest("pre, code, script")) tex.push(data.trim());
}
return {
  broken: all("img").filter((i) => !i.complete || !i.naturalWidth).map((i) => i.src),
  bare: all("article img:not(.toggler)").map((i) => [i.closest("figure"), i.src])
    .filter(([figure]) => !figure?.querySelector("figcaption")).map(([_, src]) => src),
  tex: tex,
  undrawn: all("math, .math, svg.equation")
    .filter((m) => !(m.querySelector("path") && m.getBoundingClientRect().width > 0))
    .map((m) => m.textContent),
  titles: text.querySelectorAll("h1").length,
  links: all("a[href]").map((a) => a.href),
};
"""

# elements that stick out of the window, unless they scroll within a box of their own, and code of
# chapters that is cut on a laptop
OVERFLOW = """
const scrolls = (e) => e && e !== document.body
  && (/auto|scroll/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
const root = document.documentElement;
const out = [...document.querySelectorAll("article *")]
  .filter((e) => e.getBoundingClientRect().right > root.clientWidth + 1 && !scrolls(e))
  .map((e) => e.outerHTML.slice(0, 120));
const wide = (pre) => innerWidth > 1000 && pre.scrollWidth > pre.clientWidth;
const code = [...document.querySelectorAll(".cell_input pre")].filter(wide);
out.push(...code.map((pre) => pre.textContent));
return root.scrollWidth > root.clientWidth ? ["the page", ...out] : out;
"""

# the rules of axe-core; contrast is read in every look, by CONTRAST
AXE = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
AXE += """
const rules = {"color-contrast": {enabled: false}};
return axe.run({rules, resultTypes: ["violations"], selectors: false}).then(({violations}) =>
  Object.fromEntries(violations.map((v) => [v.id, v.nodes.map((n) => n.html.slice(0, 120))])));
"""

# text that is too faint by WCAG 2.2, success criterion 1.4.3 (https://www.w3.org/TR/WCAG22/)
CONTRAST = r"""
const parse = (colour) => {
  const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
  return {rgb: /^color\(/.test(colour) ? [r, g, b] : [r / 255, g / 255, b / 255], a};
};
const over = (top, bottom) => top.rgb.map((c, i) => c * top.a + bottom[i] * (1 - top.a));
const known = new Map([[null, [1, 1, 1]]]);
const background = (e) => {
  if (!known.has(e)) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    known.set(e, colour.a === 1 ? colour.rgb : over(colour, background(e.parentElement)));
  }
  return known.get(e);
};
const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((s, w, i) => s + w * linear(rgb[i]), 0.05);
const faint = {};
for (const e of document.querySelectorAll("article *, .bd-sidebar *, .bd-header-article *")) {
  const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!text || !e.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
  const style = getComputedStyle(e);
  const below = background(e);
  const [low, high] = [light(below), light(over(parse(style.color), below))].sort((a, b) => a - b);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  if (high / low < (large ? 3 : 4.5))
    faint[`${e.tagName}.${e.className}: ${(high / low).toFixed(2)}`] = e.textContent.slice(0, 40);
}
return faint;
"""


class Visit:
    """A page as it was loaded, and how it looks in every size and theme."""

    def __init__(
        self, browser: Browser, path: Path, looks: list[tuple[str, str]], pictures: Path | None
    ) -> None:
        browser.show(*looks[0])
        browser.open(path)
        self.log: Log = browser.log()
        self.facts = browser.run(FACTS)
        self.inaccessible: dict[str, list[str]] = browser.run(AXE)
        self.overflow: dict[str, list[str]] = {}
        self.faint: dict[str, dict[str, str]] = {}
        for size, theme in looks:
            browser.show(size, theme)
            assert browser.run("return document.documentElement.dataset.theme") == theme
            self.overflow[f"{size} {theme}"] = browser.run(OVERFLOW)
            self.faint[f"{size} {theme}"] = browser.run(CONTRAST)
            if pictures:
                browser.screenshot(pictures / f"{path.stem}_{size}_{theme}.webp")
        self.log.messages += browser.log().messages


@pytest.fixture(scope="module")
def visits(site: Path, browser: Browser, request: pytest.FixtureRequest) -> dict[str, Visit]:
    """Every page but the listings of source code."""
    folder = request.config.getoption("screenshots")
    pictures = Path(folder) if folder else None
    paths = [p for p in sorted(site.rglob("*.html")) if p.relative_to(site).parts[0][0] != "_"]
    paths.remove(site / "index.html")  # it only redirects to the first page
    # every second page in reverse, so that the window changes less often
    looks = zip(paths, cycle([LOOKS, LOOKS[::-1]]), strict=False)
    return {str(p.relative_to(site)): Visit(browser, p, look, pictures) for p, look in looks}


def found(visits: dict[str, Visit], what: Callable[[Visit], object]) -> dict[str, object]:
    """What is wrong on each page, by its name; pages without the fault are left out."""
    return {name: fault for name, visit in visits.items() if (fault := what(visit))}


@pytest.mark.parametrize("fault", ["broken", "bare", "tex", "undrawn"])
def test_images_and_equations(visits: dict[str, Visit], fault: str):
    assert found(visits, lambda visit: visit.facts[fault]) == {}


def test_console_is_silent(visits: dict[str, Visit]):
    assert found(visits, lambda visit: visit.log.messages) == {}


def test_nothing_is_requested_from_outside(visits: dict[str, Visit]):
    assert all(visit.log.requests for visit in visits.values())
    assert found(visits, lambda visit: visit.log.outside()) == {}


def test_no_page_is_wider_than_the_window(visits: dict[str, Visit]):
    assert found(visits, lambda visit: {k: out for k, out in visit.overflow.items() if out}) == {}


def test_text_stands_out(visits: dict[str, Visit]):
    assert found(visits, lambda visit: {k: out for k, out in visit.faint.items() if out}) == {}


def test_pages_are_accessible(visits: dict[str, Visit]):
    assert found(visits, lambda visit: visit.inaccessible) == {}
    assert found(visits, lambda visit: visit.facts["titles"] != 1) == {}


def test_links_lead_somewhere(visits: dict[str, Visit]):
    anchors: dict[Path, set[str]] = {}
    dead = defaultdict(set)
    for name, visit in visits.items():
        for link in map(urlsplit, visit.facts["links"]):
            path = Path(unquote(link.path))
            if link.scheme != "file":
                continue
            if path.suffix == ".html" and path not in anchors and path.exists():
                ids = re.findall(r'\bid="([^"]+)"', path.read_text(encoding="utf-8"))
                anchors[path] = {"", *map(unescape, ids)}
            if not path.exists() or unquote(link.fragment) not in anchors.get(path, {""}):
                dead[name].add(link.geturl())
    assert dead == {}


def test_pages_are_light(visits: dict[str, Visit], site: Path):
    weights = {
        name: sum(path.stat().st_size for path in visit.log.files())
        for name, visit in visits.items()
    }
    assert {name: weight for name, weight in weights.items() if weight > PAGE_BYTES} == {}
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < BOOK_BYTES


def test_search_finds_taylor(browser: Browser, site: Path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.wait import WebDriverWait

    browser.show("desktop", "light")
    browser.open(site / "book" / "intro.html")
    browser.driver.find_element(By.TAG_NAME, "body").send_keys(Keys.CONTROL, "k")
    browser.driver.switch_to.active_element.send_keys("Taylor", Keys.ENTER)
    wait = WebDriverWait(browser.driver, 300)
    hits = wait.until(lambda driver: driver.find_elements(By.CSS_SELECTOR, "#search-results li a"))
    assert any("01_taylor_to_ism.html" in hit.get_attribute("href") for hit in hits)
    log = browser.log()
    assert (log.outside(), log.messages) == ([], [])


def test_source_listings_open(browser: Browser, site: Path):
    """The index, the listing with the longest line and the longest one; one template makes all."""
    index, *listings = sorted(
        site.glob("_modules/**/*.html"), key=lambda path: path.stem != "index"
    )
    lines = {path: path.read_text(encoding="utf-8").splitlines() for path in listings}
    assert len(lines) > 10
    widest = max(lines, key=lambda path: max(map(len, lines[path])))
    longest = max(lines, key=lambda path: len(lines[path]))
    browser.show("phone", "dark")
    for path in (index, widest, longest):
        browser.open(path)
        log = browser.log()
        assert (log.outside(), log.messages, browser.run(OVERFLOW)) == ([], [], []), path.name


def test_browser_notices_faults(browser: Browser, tmp_path: Path):
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><html data-theme=light><body><article><h1>Title</h1><h3>Skipped</h3>"
        "<img src=absent.png><p style='width: 3000px; color: #999'>wide and faint</p>"
        r"<span class=math>\(x\)</span><script>throw Error('thrown')</script>"
        "<script>new Image().src = 'http://127.0.0.1:9/x.png'</script></article></body></html>"
    )
    browser.show("desktop", "light")
    browser.open(page)
    log, facts = browser.log(), browser.run(FACTS)
    assert log.outside() == ["http://127.0.0.1:9/x.png"]
    assert any("thrown" in message for message in log.messages)
    assert facts["broken"] == facts["bare"] == [(tmp_path / "absent.png").as_uri()]
    assert facts["tex"] == facts["undrawn"] == [r"\(x\)"]
    assert {"heading-order", "image-alt"} <= browser.run(AXE).keys()
    assert browser.run(OVERFLOW)
    assert any("wide and faint" in text for text in browser.run(CONTRAST).values())
