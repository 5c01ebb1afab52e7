"""Fonts for the names of classes in figures."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

DEFAULT = "DejaVu Sans"  # comes with matplotlib


def choose_fonts(names: Iterable[str]) -> str:
    """Let matplotlib draw with installed fonts that have all characters of ``names``; returns those that none has."""
    needed = {character for name in names for character in name if character.isprintable() and not character.isspace()}
    missing, families = needed - _characters(font_manager.findfont(DEFAULT)), [DEFAULT]
    if missing:
        known = {Path(font.fname) for font in font_manager.fontManager.ttflist}
        for file in sorted(font_manager.findSystemFonts()):
            if not (found := missing & _characters(file)):
                continue
            if Path(file) not in known:  # installed after matplotlib made its list of fonts
                font_manager.fontManager.addfont(file)
            families += [font.name for font in font_manager.fontManager.ttflist if font.fname == file][:1]
            missing -= found
            if not missing:
                break
    mpl.rcParams["font.family"] = families
    return "".join(sorted(missing))


def _characters(file: str) -> set[str]:
    """Characters that a font has. Fonts that matplotlib cannot draw, such as those of colored emoji, have none."""
    try:
        font = FT2Font(file)
    except (RuntimeError, OSError):
        return set()
    return {chr(code) for code in font.get_charmap()}
