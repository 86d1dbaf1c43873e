"""The prompt over a session: statements in, up to their semicolon; tables out."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress

import duckdb

from assets.errors import AssetError
from assets.session import Session

WELCOME = """DuckDB over what the nights and the requests leave behind. A statement ends with ; and `exit` ends all.
  SHOW ALL TABLES;          the views
  FROM catalog;             their columns: types, units, meaning, freshness
  FROM shards;              versions of each shard
  FROM analysis.overdue;    an answer; SHOW TABLES FROM analysis; lists the questions"""

_ROWS = 100
"""Rows that are shown of an answer."""

_COMMENT = re.compile(r"--[^\n]*$")


def converse(session: Session, ask: Callable[[str], str]) -> Iterator[str]:
    """What is to be printed, statement by statement; what is wrong with one is told, and the next is asked for.

    ask: gives the next line; EOFError ends the conversation, as `exit` does, KeyboardInterrupt drops what was begun.
    """
    yield WELCOME
    begun = ""
    while True:
        try:
            line = ask("... " if begun else "sql> ")
            if not begun and line.strip(" .;").lower() in ("exit", "quit"):
                return
            begun += line + "\n"
            if not _COMMENT.sub("", begun).rstrip().endswith(";"):
                continue
            for found in session.answers(begun):
                yield shown(found)
        except EOFError:
            return
        except KeyboardInterrupt:
            yield ""
        except (duckdb.Error, AssetError) as error:
            yield str(error)
        begun = ""


def shown(found: duckdb.DuckDBPyRelation) -> str:
    """A table as wide as the terminal."""
    with redirect_stdout(io.StringIO()) as text:
        found.show(max_rows=_ROWS, max_width=shutil.get_terminal_size((160, 40)).columns)
    return text.getvalue().rstrip()


def complete_lines(names: list[str]) -> None:
    """Let the terminal complete names and keep the lines of this conversation, where it can."""
    with suppress(ImportError):
        import readline

        def candidates(word: str, number: int) -> str | None:
            found = [name for name in names if name.startswith(word.lower())]
            return found[number] if number < len(found) else None

        readline.set_completer(candidates)
        readline.set_completer_delims(" ,()=;\n\t")
        readline.parse_and_bind("tab: complete")
