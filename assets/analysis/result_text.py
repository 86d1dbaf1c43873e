"""Results of statements as text: tables, records, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import date, datetime, time
from enum import StrEnum
from typing import Any

import duckdb

MAX_SHOWN_ROWS = 100
"""Rows of a result that are shown at a terminal."""

_UNBOUNDED = 10**9
_COLUMNS_LEFT_OUT = re.compile(r"columns \(\d+ shown\)")


class Format(StrEnum):
    """A format of results."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def show_result(result: duckdb.DuckDBPyRelation) -> Iterator[str]:
    """Yield a result for a terminal: its first and last rows as a table, or as records if its columns do not fit."""
    width = shutil.get_terminal_size((160, 40)).columns
    table = _table(result, max_rows=MAX_SHOWN_ROWS, max_width=width)
    yield from _records(result) if _COLUMNS_LEFT_OUT.search(table) else [table]


def write_result(result: duckdb.DuckDBPyRelation, form: Format) -> Iterator[str]:
    """Yield a whole result for a file or another program, in parts of lines."""
    match form:
        case Format.TABLE:
            yield _table(result, max_rows=_UNBOUNDED, max_width=_UNBOUNDED, max_col_width=_UNBOUNDED)
        case Format.CSV:
            yield from map(_csv, [tuple(result.columns), *result.fetchall()])
        case Format.JSON:
            yield from _json(dict(zip(result.columns, row, strict=True)) for row in result.fetchall())


def _table(result: duckdb.DuckDBPyRelation, **limits: Any) -> str:
    with redirect_stdout(io.StringIO()) as text:
        result.show(**limits)
    return text.getvalue().rstrip()


def _records(result: duckdb.DuckDBPyRelation) -> Iterator[str]:
    """Yield each row as lines of a column and its value, without empty columns."""
    width = max(map(len, result.columns))
    rows = result.limit(MAX_SHOWN_ROWS + 1).fetchall()
    for row in rows[:MAX_SHOWN_ROWS]:
        cells = zip(result.columns, row, strict=True)
        yield "\n".join(f"{name:>{width}} = {value}" for name, value in cells if value is not None) + "\n"
    if len(rows) > MAX_SHOWN_ROWS:
        yield f"The first {MAX_SHOWN_ROWS} rows; a wider terminal shows a table, FORMAT=csv Q=... writes all."


def _csv(row: tuple[Any, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(
        [str(each).lower() if isinstance(each, bool) else each for each in row]
    )
    return text.getvalue()


def _json(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """Yield a list of objects, one per line."""
    lines = (json.dumps(row, default=_plain, ensure_ascii=False) for row in rows)
    yield f"[{next(lines, '')}"
    yield from (f",{line}" for line in lines)
    yield "]"


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime | date | time) else str(value)
