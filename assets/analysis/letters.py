"""Letters of drawings: fonts for most scripts, and texts as the fonts can show them."""

from __future__ import annotations

import logging
import unicodedata
from functools import cache


@cache
def font_families() -> list[str]:
    """Return fonts that together have the letters of most scripts; the first one has Arabic, but no Chinese."""
    import noto_cjk_sans_jp_regular
    from matplotlib import font_manager

    # Of the second font there is one weight, which is drawn also where bold letters are wanted.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    path = str(noto_cjk_sans_jp_regular.FONT_PATH)
    font_manager.fontManager.addfont(path)
    return ["DejaVu Sans", font_manager.FontProperties(fname=path).get_name()]


def drawable(text: str) -> str:
    """Return a text without emoji, which the fonts do not have, and with dollar signs that start no formula."""
    letters = (
        letter
        for letter in text
        if unicodedata.category(letter) not in ("So", "Cn", "Sk", "Cf") and ord(letter) < 0xFE00
    )
    return "".join(letters).replace("$", r"\$").strip()
