"""Small pictures and short captions of the gallery; test_book.py looks at the page."""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from gallery import WIDTH, first_sentence, plain, small_picture
from PIL import Image


def test_first_sentence():
    assert first_sentence("Regions of each chromosome. Whole ones are held out.") == (
        "Regions of each chromosome"
    )
    assert first_sentence("GC content; the dashed line is the median.") == "GC content"
    assert first_sentence("Mean r at 0.5 of e.g.all. More") == "Mean r at 0.5 of e.g.all"
    assert first_sentence("no end") == "no end"


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


def test_picture_is_not_enlarged(tmp_path: Path):
    Image.new("RGB", (30, 20)).save(tmp_path / "icon.png")
    assert small_picture(tmp_path / "icon.png", tmp_path / "icon.webp") == (30, 20)
