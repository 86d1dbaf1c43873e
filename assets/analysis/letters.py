"""Letters of drawings: fonts for most scripts, and texts as the fonts can show them."""

from __future__ import annotations

import logging
import unicodedata
from functools import cache
from pathlib import Path


@cache
def font_families() -> list[str]:
    """Return fonts that together have the letters of most scripts; matplotlib takes the first one with a letter."""
    import manimgx_fonts
    import noto_cjk_sans_jp_regular
    from matplotlib import font_manager

    # These fonts have one weight, which is drawn also where bold letters are wanted.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    noto = sorted(Path(manimgx_fonts.__file__).parent.glob("NotoSans*.ttf"))  # one for each script
    paths = [noto_cjk_sans_jp_regular.FONT_PATH, *noto]
    for path in paths:
        font_manager.fontManager.addfont(path)
    return ["DejaVu Sans", *(font_manager.FontProperties(fname=path).get_name() for path in paths)]


def drawable(text: str) -> str:
    """Return a text without emoji, which the fonts do not have, and with dollar signs that start no formula."""
    letters = (
        letter
        for letter in text
        if unicodedata.category(letter) not in ("So", "Cn", "Sk", "Cf") and ord(letter) < 0xFE00
    )
    return "".join(letters).replace("$", r"\$").strip()
