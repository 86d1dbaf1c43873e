"""The languages of rule-made tips: catalogs of translations, plural rules and quotation marks. Pure, from its files.

A catalog is a gettext file in `catalogs/`, whose messages are English; Babel reads it. Any other language is English.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pathlib import Path

_FOLDER = Path(__file__).parent
_CATALOGS = {file.stem: file for file in sorted((_FOLDER / "catalogs").glob("*.po"))}
_QUOTATION_MARKS: dict[str, list[str]] = tomllib.loads((_FOLDER / "quotation_marks.toml").read_text("utf-8"))["marks"]

ENGLISH = "en"
LANGUAGES = (ENGLISH, *_CATALOGS)
"""The languages of rule-made tips."""

UNSPACED = frozenset({"ja", "zh", "th", "lo", "km", "my"})
"""Languages without blanks between words."""


def primary_language(language: str) -> str:
    """The language without its region: "pt" of "pt_BR"."""
    return language.replace("_", "-").casefold().partition("-")[0]


def translations(language: str) -> NullTranslations:
    """The translations into a language such as "de" or "pt_BR"; English if there is no catalog for it."""
    primary = primary_language(language)
    return _catalog(primary) if primary in _CATALOGS else NullTranslations()


def quotation_marks(language: str) -> tuple[str, str]:
    """The marks before and after a quotation in a language, those of English if the language is unknown."""
    name = language.replace("_", "-").casefold()
    marks = _QUOTATION_MARKS.get(name) or _QUOTATION_MARKS.get(primary_language(name)) or _QUOTATION_MARKS[ENGLISH]
    return marks[0], marks[1]


@lru_cache(maxsize=len(_CATALOGS))
def _catalog(language: str) -> GNUTranslations:
    from babel.messages.mofile import write_mo  # English needs no catalog
    from babel.messages.pofile import read_po

    with _CATALOGS[language].open("rb") as file:
        catalog = read_po(file, language)
    compiled = BytesIO()
    write_mo(compiled, catalog)
    compiled.seek(0)
    return GNUTranslations(compiled)
