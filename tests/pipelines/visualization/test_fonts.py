"""Names of classes in figures: fonts that have their characters, and names that fit above an image."""

import warnings
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure

from pipelines.visualization.fonts import choose_fonts


@pytest.fixture(autouse=True)
def rc():
    with mpl.rc_context():
        yield


def write_font(file: Path, family: str, characters: str) -> None:
    """Write a font whose glyphs are squares."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square, names = pen.glyph(), [f"g{ord(character):x}" for character in characters]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", *names])
    font.setupCharacterMap(dict(zip(map(ord, characters), names, strict=True)))
    font.setupGlyf(dict.fromkeys([".notdef", *names], square))
    font.setupHorizontalMetrics(dict.fromkeys([".notdef", *names], (800, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(file)


def draw(*texts: str) -> None:
    """Draw texts; a character that no font has is an error."""
    figure = Figure()
    for text in texts:
        figure.text(0.5, 0.5, text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(BytesIO())


def test_installed_fonts_are_used_for_the_characters_that_they_have(tmp_path, monkeypatch):
    write_font(tmp_path / "a.ttf", "First Test Font", "\u732b")
    write_font(tmp_path / "b.ttf", "Second Test Font", "\u72ac\u732b")
    (tmp_path / "broken.ttf").write_text("no font")
    files = [str(tmp_path / name) for name in ("broken.ttf", "a.ttf", "b.ttf")]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: files)
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist])
    assert choose_fonts(["dog \u72ac", "\u732b"]) == ""
    draw("dog \u72ac", "\u732b")
    assert choose_fonts(["\u732b\u9ce5"]) == "\u9ce5"  # and a character that no font has
    with pytest.raises(UserWarning, match="missing"):
        draw("\u9ce5")


def test_latin_names_need_no_search(monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: pytest.fail("a search"))
    assert choose_fonts(["cat", "us_$", "café", "Ελλάδα"]) == ""
