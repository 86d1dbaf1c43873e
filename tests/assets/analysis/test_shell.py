"""The prompt of `make sql`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import NOON

from assets.analysis.postgres_tables import PostgresTables
from assets.analysis.session import Session, open_session
from assets.analysis.shell import BANNER, enable_completion, run_shell


@pytest.fixture
def analyst(tmp_path: Path) -> Iterator[Session]:
    with open_session(str(tmp_path), PostgresTables(None, NOON)) as session:
        yield session


def run_lines(analyst: Session, *lines: str | type[BaseException]) -> tuple[list[str], list[str]]:
    """The texts printed after the banner, and the prompts; an exception stands for a pressed key."""
    remaining, prompts = list(lines), list[str]()

    def read_line(prompt: str) -> str:
        prompts.append(prompt)
        if not remaining:
            raise EOFError
        line = remaining.pop(0)
        if isinstance(line, str):
            return line
        raise line

    banner, *printed = run_shell(analyst, read_line)
    assert banner == BANNER
    return printed, prompts


def test_a_statement_ends_with_its_semicolon(analyst: Session) -> None:
    """Lines are collected up to a semicolon, which a comment may follow; each statement's result is printed."""
    printed, prompts = run_lines(
        analyst, "SELECT 41", "+ 1 AS total;  -- at last", "SELECT 'a;' AS x; SELECT 'b' AS y;"
    )
    assert prompts == ["sql> ", "... ", "sql> ", "sql> "]
    assert len(printed) == 3
    for text, parts in zip(printed, (("total", "42"), ("x", "a;"), ("y", "b")), strict=True):
        assert all(part in text for part in parts)


def test_an_error_does_not_end_the_shell(analyst: Session) -> None:
    """An error is printed and the shell continues; Ctrl-C discards the unfinished statement."""
    printed, prompts = run_lines(
        analyst, "FROM missing;", "FROM decisions;", "SELECT 1 +", KeyboardInterrupt, "SELECT 2 AS two;"
    )
    assert "missing does not exist" in printed[0]
    assert "DATABASE_URL" in printed[1]
    assert printed[2] == ""
    assert "two" in printed[3]
    assert prompts[-2:] == ["sql> ", "sql> "]


@pytest.mark.parametrize("word", ["exit", "quit;", ".quit", "EXIT"])
def test_exit_ends_the_shell(analyst: Session, word: str) -> None:
    """Every spelling of `exit` or `quit` ends the shell."""
    printed, prompts = run_lines(analyst, word, "SELECT 1;")
    assert (printed, prompts) == ([], ["sql> "])


def test_long_results_are_cut(analyst: Session) -> None:
    """Of many rows the first and the last are printed, and their number."""
    [text], _ = run_lines(analyst, "FROM range(2000);")
    assert len(text.splitlines()) < 120
    assert "1999" in text
    assert re.search(r"2.?000 rows", text)


def test_names_are_completed(analyst: Session) -> None:
    """The tab key completes names of views and columns."""
    readline = pytest.importorskip("readline")
    enable_completion(analyst.names())
    complete = readline.get_completer()
    assert complete("task_clu", 0) == "task_clusters"
    assert complete("analysis.over", 0) == "analysis.overdue"
    assert complete("propens", 0) == "propensity"
    assert complete("propens", 1) is None
    readline.set_completer(None)
