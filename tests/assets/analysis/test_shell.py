"""The prompt of `make sql`."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
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


def test_narrow_terminal(analyst: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """If columns do not fit into the terminal, each row is printed as lines of a column and its value."""
    monkeypatch.setenv("COLUMNS", "60")
    [*records], _ = run_lines(analyst, "SELECT * FROM catalog WHERE view_name = 'todoist_tasks' LIMIT 2;")
    assert len(records) == 2
    assert re.search("^ *view_name = todoist_tasks$", records[0], re.MULTILINE)
    assert re.search("^ *meaning = .", records[0], re.MULTILINE)


def test_many_records(analyst: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many rows the first hundred are printed as lines, and how to get the others."""
    monkeypatch.setenv("COLUMNS", "40")
    [*records, last], _ = run_lines(
        analyst, f"SELECT {', '.join(f'range AS column_{n}' for n in range(9))} FROM range(101);"
    )
    assert len(records) == 100
    assert "FORMAT=csv" in last


@pytest.mark.parametrize(
    ("statement", "hint"),
    [
        ("FROM overdu", "Did you mean analysis.overdue?"),
        ("FROM analysis.overdues", "Did you mean analysis.overdue?"),
        ("FROM tasks_embeddings", "Did you mean task_embeddings?"),
        ("FROM enums", "SHOW ALL TABLES lists the views."),
        ("SELECT user_idd FROM todoist_tasks", "user_id"),
        ("SELECT t.user_idd FROM todoist_tasks t", "Did you mean user_id?"),
        ("SELECT is_welcom('done')", "Did you mean is_welcome?"),
    ],
)
def test_a_misspelt_name(analyst: Session, statement: str, hint: str) -> None:
    """A misspelt name of a view, column or macro is answered with the nearest one of ours."""
    [message], _ = run_lines(analyst, f"{statement};")
    assert hint in message
    assert "pg_" not in message


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


@pytest.fixture
def sql_process(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """The id of a process of `make sql`, which is killed at the end, and its terminal."""
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [sys.executable, "-m", "assets", "sql"], {**os.environ, "DATA_ROOT": str(tmp_path)})
    yield child, terminal
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def test_ctrl_c_ends_the_statement_only(sql_process: tuple[int, int]) -> None:
    """Ctrl-C ends a running statement; the session answers the next one."""
    child, terminal = sql_process
    read_until(terminal, b"sql> ")
    for _ in range(30):  # on a busy machine Ctrl-C may come before the statement has begun
        os.write(terminal, b"SELECT count(*) FROM range(100000000000) a, range(100000) b WHERE a.range % 7 = 3;\n")
        read_until(terminal, b"= 3;")
        time.sleep(1)
        os.write(terminal, b"\x03")
        if b"the statement was ended" in read_until(terminal, b"sql> "):
            break
    os.write(terminal, b"SELECT 40 + 2 AS answer;\n")
    assert b" 42 " in read_until(terminal, "└".encode())
    os.write(terminal, b"exit\n")
    assert os.waitpid(child, 0)[1] == 0


def read_until(terminal: int, end: bytes) -> bytes:
    """The output of a terminal up to a text; raises TimeoutError if it does not come."""
    output = b""
    while end not in output:
        if not select.select([terminal], [], [], 60)[0]:
            raise TimeoutError(output.decode())
        output += os.read(terminal, 4096)
    return output
