"""The prompt of `make sql`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import NOON

from assets.attached import Attached
from assets.session import Session, session
from assets.shell import WELCOME, complete_lines, converse


@pytest.fixture
def analyst(tmp_path: Path) -> Iterator[Session]:
    with session(str(tmp_path), Attached(None, NOON)) as made:
        yield made


def talk(analyst: Session, *lines: str | type[BaseException]) -> tuple[list[str], list[str]]:
    """What was printed after the welcome, and the prompts; an exception is a key that was pressed."""
    waiting, prompts = list(lines), list[str]()

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        if not waiting:
            raise EOFError
        line = waiting.pop(0)
        if isinstance(line, str):
            return line
        raise line

    welcome, *said = converse(analyst, ask)
    assert welcome == WELCOME
    return said, prompts


def test_a_statement_ends_with_its_semicolon(analyst: Session) -> None:
    """Lines are gathered up to a semicolon, a comment behind it aside; each statement's answer is shown."""
    said, prompts = talk(analyst, "SELECT 41", "+ 1 AS wanted;  -- at last", "SELECT 'a;' AS x; SELECT 'b' AS y;")
    assert prompts == ["sql> ", "... ", "sql> ", "sql> "]
    assert len(said) == 3
    for text, parts in zip(said, (("wanted", "42"), ("x", "a;"), ("y", "b")), strict=True):
        assert all(part in text for part in parts)


def test_a_mistake_does_not_end_it(analyst: Session) -> None:
    """What is wrong is told in a sentence, and the next statement asked for; the interrupt key drops what stands."""
    said, prompts = talk(
        analyst, "FROM nobody;", "FROM decisions;", "SELECT 1 +", KeyboardInterrupt, "SELECT 2 AS two;"
    )
    assert "nobody does not exist" in said[0]
    assert "DATABASE_URL" in said[1]
    assert said[2] == ""
    assert "two" in said[3]
    assert prompts[-2:] == ["sql> ", "sql> "]


@pytest.mark.parametrize("word", ["exit", "quit;", ".quit", "EXIT"])
def test_it_ends_by_a_word(analyst: Session, word: str) -> None:
    """`exit` ends the conversation, however it is written, unless a statement was begun."""
    said, prompts = talk(analyst, word, "SELECT 1;")
    assert (said, prompts) == ([], ["sql> "])


def test_long_answers_are_cut(analyst: Session) -> None:
    """Of many rows the first and last are shown, and how many there are."""
    [text], _ = talk(analyst, "FROM range(2000);")
    assert len(text.splitlines()) < 120
    assert "1999" in text
    assert re.search(r"2.?000 rows", text)


def test_names_are_completed(analyst: Session) -> None:
    """The tab key completes views and columns."""
    readline = pytest.importorskip("readline")
    complete_lines(analyst.names())
    complete = readline.get_completer()
    assert complete("task_clu", 0) == "task_clusters"
    assert complete("analysis.over", 0) == "analysis.overdue"
    assert complete("propens", 0) == "propensity"
    assert complete("propens", 1) is None
    readline.set_completer(None)
