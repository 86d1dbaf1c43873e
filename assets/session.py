"""A DuckDB session for analysts: views of all that nights and requests leave behind, macros, and a catalog."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from assets import attached
from assets.attached import Attached
from assets.definitions import GRAPH
from assets.ledger import LEDGER
from assets.ledger import SCHEMA as LEDGER_SCHEMA
from assets.snapshot import Snapshot
from assets.views import View
from contexts import history
from contexts.settings import DatabaseSettings, Settings, read_settings
from contexts.sql import ROOT

ANALYSES = ROOT / "analysis"
"""Questions with their answers, each a view of the schema `analysis` that is called like its file."""

STORED = (
    *(View.of(asset) for asset in GRAPH),
    View(LEDGER, LEDGER_SCHEMA, f"{LEDGER}/data.parquet"),
    View("context_history", history.SCHEMA, history.PATTERN, {"day": "DATE", "shard": "INTEGER"}),
)
"""Views of the files under DATA_ROOT."""

_OF_ALL = {"shards", "catalog"}
"""Views of the footers of all assets."""

_ASKS_FOR_COLUMNS = re.compile(r"\s*(describe|show)\b", re.I)


_BY_MACRO = {"similar_tasks": {"task_embeddings", "todoist_tasks"}}
"""What macros read."""


@dataclass(frozen=True)
class Session:
    """A connection with all views. Each statement sees files and Postgres as they are when it begins."""

    connection: duckdb.DuckDBPyConnection
    snapshot: Snapshot
    postgres: Attached

    def sql(self, text: str) -> duckdb.DuckDBPyRelation | None:
        """Run statements one after the other; gives the last one's answer, None where it has none."""
        answer = None
        for statement in duckdb.extract_statements(text):
            self._refresh(statement.query)
            answer = self.connection.sql(statement.query)
            if answer is not None:
                answer = answer.materialize()  # now: for the next statement other files are held
        return answer

    def question(self, analysis: str) -> str:
        """What an analysis answers."""
        sql = "SELECT comment FROM duckdb_views() WHERE schema_name = 'analysis' AND view_name = ?"
        [[found]] = self.connection.execute(sql, [analysis]).fetchall()
        return str(found)

    def names(self) -> list[str]:
        """All that there is to read from, and the columns."""
        views = "SELECT replace(schema_name || '.' || view_name, 'main.', '') FROM duckdb_views() WHERE NOT internal"
        columns = "SELECT column_name FROM duckdb_columns() WHERE NOT internal"
        return [name for (name,) in self.connection.execute(f"{views} UNION {columns} ORDER BY 1").fetchall()]

    def _refresh(self, text: str) -> None:
        names = self._read_by(text)
        for view in STORED:
            if view.name in names or names & _OF_ALL:
                self.snapshot.take(view.pattern)
        if not _ASKS_FOR_COLUMNS.match(text):
            for name in attached.SCHEMAS.keys() & names:
                self.postgres.fetch(name, self.snapshot.folder)

    def _read_by(self, text: str) -> set[str]:
        """The names that a statement reads from, also by way of views and macros."""
        is_select = duckdb.extract_statements(text)[0].type == duckdb.StatementType.SELECT
        found, news = set[str](), _tables(self._tree(text)) if is_select else _words(text)
        while news:
            found |= news
            behind = [_BY_MACRO.get(name, set()) for name in news] + [_words(sql) for sql in self._views(news)]
            news = set[str]().union(*behind) - found
        return found

    def _tree(self, text: str) -> Any:
        [[tree]] = self.connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [text]).fetchall()
        return json.loads(tree)

    def _views(self, names: set[str]) -> list[str]:
        """The SQL of views among some names."""
        sql = "SELECT sql FROM duckdb_views() WHERE NOT internal AND list_contains(?::VARCHAR[], view_name)"
        return [text for (text,) in self.connection.execute(sql, [sorted(names)]).fetchall()]


def _tables(tree: Any) -> set[str]:
    """The tables and table functions that a serialized SELECT names."""
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    found = set[str]().union(*map(_tables, parts))
    if isinstance(tree, dict) and tree.get("type") == "BASE_TABLE":
        found.add(tree["table_name"].lower())
    elif isinstance(tree, dict) and tree.get("type") == "TABLE_FUNCTION":
        found.add(tree["function"]["function_name"].lower())
    return found


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


@contextmanager
def session(root: str, postgres: Attached, *, now: datetime | None = None) -> Iterator[Session]:
    """A session over a root (any fsspec URL) and Postgres. now: what `as_of()` gives, an aware instant; None: the
    time of each statement.
    """
    with (
        TemporaryDirectory(prefix="views-") as folder,
        duckdb.connect() as connection,
        closing(Snapshot(root, Path(folder))) as snapshot,
    ):
        connection.execute("SET TimeZone = 'UTC'")
        instant = "now()" if now is None else f"TIMESTAMPTZ '{now.isoformat()}'"
        connection.execute(f"CREATE MACRO as_of() AS {instant}")
        for view in (*STORED, *attached.views()):
            view.create(connection, snapshot.folder)
        connection.execute(_read("macros"))
        connection.execute(_read("catalog").replace("{folder}", folder))
        connection.execute("CREATE SCHEMA analysis")
        for path in sorted(ANALYSES.glob("*.sql")):
            text = path.read_text()
            question = text.splitlines()[0].removeprefix("-- ").replace("'", "''")
            connection.execute(f"CREATE VIEW analysis.{path.stem} AS {text}")
            connection.execute(f"COMMENT ON VIEW analysis.{path.stem} IS '{question}'")
        connection.execute(_read("comments"))
        yield Session(connection, snapshot, postgres)


@contextmanager
def session_from_environment(days: int) -> Iterator[Session]:
    """A session over DATA_ROOT and, where DATABASE_URL is set, over that Postgres. days: how far back tips and calls
    of the LLM are read.
    """
    settings, since = read_settings(Settings), datetime.now(UTC) - timedelta(days=days)
    url = read_settings(DatabaseSettings).database_url if os.environ.get("DATABASE_URL") else None
    with session(settings.data_root, Attached(url, since)) as opened:
        yield opened


def _read(name: str) -> str:
    return (ROOT / "views" / f"{name}.sql").read_text()
