"""Messages about unknown names, with the nearest name of the session instead of one of DuckDB's own tables."""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches

_TABLE = re.compile(r'(?s)^(.*Table with name (\S+) does not exist!)(?:\nDid you mean "([^"]*)".*)?$')
_FUNCTION = re.compile(r"(?s)^(.*Function with name (\S+) does not exist!).*$")
_COLUMN = re.compile(r'(?s)^(.*does not have a column named "([^"]*)").*$')
_NEAR_RATIO = 0.6


def explain_name(message: str, views: Collection[str], columns: Collection[str], macros: Collection[str]) -> str:
    """Return a message of DuckDB about an unknown name with the nearest view, column or macro.

    views: with their schema, unless it is main. Other messages are returned unchanged.
    """
    if found := _TABLE.match(message):
        head, name, suggested = found.groups()
        if suggested in views or suggested in {view.rpartition(".")[2] for view in views}:
            return f"{head}\nDid you mean {_nearest(name, views) or suggested}?"
        return f"{head}\n{_hint(name, views) or 'SHOW ALL TABLES lists the views.'}"
    if (found := _FUNCTION.match(message)) and (hint := _hint(found[2], macros)):
        return f"{found[1]}\n{hint}"
    if (found := _COLUMN.match(message)) and (hint := _hint(found[2], columns)):
        return f"{found[1]}\n{hint}"
    return message


def _hint(name: str, names: Collection[str]) -> str:
    nearest = _nearest(name, names)
    return f"Did you mean {nearest}?" if nearest else ""


def _nearest(name: str, names: Collection[str]) -> str | None:
    """Return the name that is nearest, with its schema; the schema itself need not be written."""
    full_names = {each.rpartition(".")[2]: each for each in names}
    matches = get_close_matches(name.lower().rpartition(".")[2], full_names, 1, _NEAR_RATIO)
    return full_names[matches[0]] if matches else None
