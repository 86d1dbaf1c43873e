"""Large JSON in pieces: the same values and the same errors as the parser of the standard library."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.todoist.large_json import loads_in_pieces, release

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


def outcome(text: bytes, loads: Any) -> Any:
    try:
        return loads(text)
    except json.JSONDecodeError:
        return json.JSONDecodeError


def in_pieces(text: bytes) -> Any:
    return loads_in_pieces(text, int)


@settings(deadline=None)
@given(values, st.sampled_from([None, 1]), st.booleans(), st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
def test_any_value(value: Any, indent: int | None, ensure_ascii: bool, encoding: str) -> None:
    """Any value, however it is written, is read as by `json.loads`."""
    text = json.dumps({"items": value, "more": [value, value]}, indent=indent, ensure_ascii=ensure_ascii)
    assert in_pieces(text.encode(encoding)) == json.loads(text)


@settings(deadline=None, max_examples=300)
@given(values, st.data())
def test_any_damage(value: Any, data: st.DataObject) -> None:
    """A text with a character left out, added or replaced is read, or refused, as by `json.loads`."""
    text = json.dumps({"a": [value, 1], "b": {}})
    at, added = data.draw(st.integers(0, len(text) - 1)), data.draw(st.sampled_from(["", *'{}[],:" x1']))
    damaged = (text[:at] + added + text[at + data.draw(st.integers(0, 1)) :]).encode()
    assert outcome(damaged, in_pieces) == outcome(damaged, json.loads)


@pytest.mark.parametrize(
    "text", ["", " ", "[", "[]", "null", "{", "{}", "{} ", "{}x", '{"a"}', '{"a":}', '{"a":[}', '{"a":[1,]}', "{,}"]
)
def test_short_texts(text: str) -> None:
    """Short and broken texts are read, or refused, as by `json.loads`."""
    assert outcome(text.encode(), in_pieces) == outcome(text.encode(), json.loads)


def test_twice() -> None:
    """Of two members with the same name the last one counts."""
    assert in_pieces(b'{"a": [1], "a": [2]}') == {"a": [2]}


def test_deep() -> None:
    """A value that is nested too deep raises RecursionError, as with `json.loads`."""
    with pytest.raises(RecursionError):
        in_pieces(b'{"items": ' + b"[" * 200_000 + b"]" * 200_000 + b"}")


def test_released() -> None:
    """A released document has empty lists."""
    document = {"items": list(range(1000)), "more": [], "name": "x"}
    release(document)
    assert document == {"items": [], "more": [], "name": "x"}
