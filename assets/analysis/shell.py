"""Interactive prompt over a session: reads statements up to their semicolon, prints tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress

import duckdb

from assets.analysis.result_text import show_result
from assets.analysis.session import Session
from assets.engine.errors import AssetError

BANNER = """DuckDB over the data of pipeline runs and requests. A statement ends with ; and `exit` leaves.
  SHOW ALL TABLES;          the views
  FROM catalog;             their columns: types, units, meaning, freshness
  FROM shards;              versions of each shard
  FROM analysis.overdue;    an analysis; SHOW TABLES FROM analysis; lists all of them"""
"""Text printed when the prompt opens."""

_TRAILING_COMMENT = re.compile(r"--[^\n]*$")


def run_shell(session: Session, read_line: Callable[[str], str]) -> Iterator[str]:
    """Yield texts to print, statement by statement; an error is printed and the prompt continues.

    read_line: returns the next line, given the prompt. EOFError ends the shell, as the line `exit` does;
        KeyboardInterrupt discards an unfinished statement, and ends a running one.
    """
    yield BANNER
    pending, is_running = "", False
    while True:
        try:
            line = read_line("... " if pending else "sql> ")
            if not pending and line.strip(" .;").lower() in ("exit", "quit"):
                return
            pending += line + "\n"
            if not _TRAILING_COMMENT.sub("", pending).rstrip().endswith(";"):
                continue
            is_running = True
            for result in session.results(pending):
                yield from show_result(result)
        except EOFError:
            return
        except KeyboardInterrupt:
            yield "the statement was ended" if is_running else ""
        except (duckdb.Error, AssetError) as error:
            yield str(error)
        pending, is_running = "", False


def enable_completion(names: list[str]) -> None:
    """Complete names with the tab key and keep a history of lines, if the readline module is available."""
    with suppress(ImportError):
        import readline

        def complete(word: str, number: int) -> str | None:
            matches = [name for name in names if name.startswith(word.lower())]
            return matches[number] if number < len(matches) else None

        readline.set_completer(complete)
        readline.set_completer_delims(" ,()=;\n\t")
        readline.parse_and_bind("tab: complete")
