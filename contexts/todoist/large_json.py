"""Large JSON objects, read piece by piece: `json.loads` would stop all threads of the process until it is done."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from json import JSONDecodeError, JSONDecoder, detect_encoding
from typing import Any

_ELEMENTS_BETWEEN_PAUSES = 64
_PAUSE_S = 0.0005

_SPACE = re.compile(r"[ \t\n\r]*")

_Read = Callable[[int], tuple[Any, int]]
"""Reads a value at a position of the text, and returns it with the position after it."""


def loads_in_pieces(body: bytes, parse_int: Callable[[str], Any]) -> Any:
    """Return the same as `json.loads`, with pauses for other threads between the elements of the lists of an object.

    Raises JSONDecodeError, UnicodeDecodeError, RecursionError, MemoryError or ValueError.
    """
    text = body.decode(detect_encoding(body), "surrogatepass")
    decoder = JSONDecoder(parse_int=parse_int)
    begin = _skip_space(text, 0)
    if not text.startswith("{", begin):
        return decoder.decode(text)
    document, end = _read_object(text, begin, decoder)
    if (end := _skip_space(text, end)) != len(text):
        raise JSONDecodeError("Extra data", text, end)
    return document


def release(document: object) -> None:
    """Empty the lists of a document that is no longer used, step by step: freeing all at once is a long step, too."""
    for value in document.values() if isinstance(document, dict) else ():
        while isinstance(value, list) and value:
            del value[-_ELEMENTS_BETWEEN_PAUSES:]
            time.sleep(_PAUSE_S)


def _read_object(text: str, at: int, decoder: JSONDecoder) -> tuple[dict[str, Any], int]:
    def read_member(position: int) -> tuple[tuple[str, Any], int]:
        if not text.startswith('"', position):
            raise JSONDecodeError("Expecting property name enclosed in double quotes", text, position)
        name, end = decoder.raw_decode(text, position)
        position = _skip_space(text, _expect(text, _skip_space(text, end), ":"))
        if text.startswith("[", position):
            value, end = _read_sequence(text, position, "]", lambda each: decoder.raw_decode(text, each))
        else:
            value, end = decoder.raw_decode(text, position)
        return (name, value), end

    members, end = _read_sequence(text, at, "}", read_member)
    return dict(members), end


def _read_sequence(text: str, at: int, closing: str, read: _Read) -> tuple[list[Any], int]:
    """Read the elements between brackets, of which the opening one is at `at`."""
    values: list[Any] = []
    at = _skip_space(text, at + 1)
    if text.startswith(closing, at):
        return values, at + 1
    while True:
        value, at = read(at)
        values.append(value)
        if len(values) % _ELEMENTS_BETWEEN_PAUSES == 0:
            time.sleep(_PAUSE_S)
        at = _skip_space(text, at)
        if text.startswith(closing, at):
            return values, at + 1
        at = _skip_space(text, _expect(text, at, ","))


def _expect(text: str, at: int, character: str) -> int:
    if not text.startswith(character, at):
        raise JSONDecodeError(f"Expecting '{character}' delimiter", text, at)
    return at + 1


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
