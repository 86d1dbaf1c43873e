"""A DuckDB session for analysts: views of the data of pipeline runs and requests, macros, and a catalog."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TypeVar

import duckdb
import psutil

from assets.analysis.name_hints import explain_name
from assets.analysis.postgres_tables import POSTGRES_SCHEMAS, PostgresTables, postgres_views
from assets.analysis.snapshot import Snapshot
from assets.analysis.views import View
from assets.definitions import GRAPH
from assets.engine.errors import AssetError
from assets.engine.parquet import Shards, table_path
from assets.step_runs import STEP_RUN_SCHEMA, STEP_RUNS
from contexts.assembly import history
from contexts.postgres.sql import ROOT
from contexts.settings import DatabaseSettings, Settings, read_settings

log = logging.getLogger(__name__)

ANALYSIS_FOLDER = ROOT / "analysis"
"""The analyses: each file becomes a view of its name in the schema `analysis`; its first line is a question."""

FILE_VIEWS = (
    *(View.from_asset(asset) for asset in GRAPH),
    View(STEP_RUNS, STEP_RUN_SCHEMA, table_path(STEP_RUNS)),
    View("context_history", history.SCHEMA, history.PATTERN, {"day": "DATE", "shard": "INTEGER"}),
)
"""Views of the files under DATA_ROOT."""

_POLL_S = 0.1

_T = TypeVar("_T")

_VIEW_NAMES = "SELECT replace(schema_name || '.' || view_name, 'main.', '') FROM duckdb_views() WHERE NOT internal"
_COLUMN_NAMES = "SELECT DISTINCT column_name FROM duckdb_columns() WHERE NOT internal"

_METADATA_STATEMENT = re.compile(r"\s*(describe|show)\b", re.I)
"""Statements that read names and types only, no rows."""


@dataclass(frozen=True)
class Session:
    """A connection with all views; each statement reads files and Postgres as they are when it begins."""

    connection: duckdb.DuckDBPyConnection
    snapshot: Snapshot
    postgres: PostgresTables

    def sql(self, text: str) -> duckdb.DuckDBPyRelation | None:
        """Run statements one after the other; return the result of the last one that has one, or None."""
        *_, result = None, *self.results(text)
        return result

    def results(self, text: str) -> Iterator[duckdb.DuckDBPyRelation]:
        """Run statements one after the other; yield the results of statements that have one.

        Raises KeyboardInterrupt if Ctrl-C ends a statement.
        """
        for statement in duckdb.extract_statements(text):
            with self._fresh_data(statement):
                result = self._result(statement)
            if result is not None:
                yield result

    def _result(self, statement: duckdb.Statement) -> duckdb.DuckDBPyRelation | None:
        def run() -> duckdb.DuckDBPyRelation | None:
            result = self.connection.sql(statement.query)
            if result is None or not result.columns:
                return None
            return result.materialize()  # now, because the next statement holds other files

        try:
            return self._interruptible(run)
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            raise type(error)(explain_name(str(error), *self._known_names())) from None

    def _interruptible(self, work: Callable[[], _T]) -> _T:
        """Do work with the connection in a thread, so that this one notices Ctrl-C while DuckDB's threads work."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            try:
                while not wait([future], _POLL_S).done:
                    pass
            except KeyboardInterrupt:
                while not future.done():  # DuckDB ignores an interrupt that comes before the statement has begun
                    self.connection.interrupt()
                    wait([future], _POLL_S)
                raise
            return future.result()

    def _known_names(self) -> tuple[list[str], list[str], list[str]]:
        """The names of all views, columns and macros."""
        macros = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE NOT internal ORDER BY 1"
        return (
            [name for (name,) in self.connection.execute(f"{_VIEW_NAMES} ORDER BY 1").fetchall()],
            [name for (name,) in self.connection.execute(f"{_COLUMN_NAMES} ORDER BY 1").fetchall()],
            [name for (name,) in self.connection.execute(macros).fetchall()],
        )

    def question(self, analysis: str) -> str:
        """The question that an analysis answers."""
        sql = "SELECT comment FROM duckdb_views() WHERE schema_name = 'analysis' AND view_name = ?"
        [[question]] = self.connection.execute(sql, [analysis]).fetchall()
        return str(question)

    def names(self) -> list[str]:
        """Names of all views and columns."""
        union = f"{_VIEW_NAMES} UNION {_COLUMN_NAMES} ORDER BY 1"
        return [name for (name,) in self.connection.execute(union).fetchall()]

    @contextmanager
    def _fresh_data(self, statement: duckdb.Statement) -> Iterator[None]:
        """Hold the files and fetch the tables that a statement may read.

        Every word of a statement may be the name of a view, or an alias that happens to be the same. Therefore, if
        Postgres cannot be reached, the statement runs with its tables hidden, and fails only if it reads one of them.
        """
        names = self._mentioned_names(statement)
        for view in FILE_VIEWS:
            if view.name in names or ("shards" in names and view.name in GRAPH.assets):  # `shards` reads all footers
                self.snapshot.hold(view.pattern)
        tables = sorted(POSTGRES_SCHEMAS.keys() & names)
        try:
            if tables:
                self.postgres.fetch(tables, self.snapshot.folder)
        except AssetError as error:
            with self._hidden(tables, error):
                yield
        else:
            yield

    @contextmanager
    def _hidden(self, tables: Iterable[str], reason: AssetError) -> Iterator[None]:
        """Move the files of these tables away; raise `reason` if the statement reads one of them."""
        folders = [self.snapshot.folder / table for table in tables]
        for folder in folders:
            folder.rename(folder.with_suffix(".away"))
        try:
            yield
        except duckdb.IOException as error:
            if any(f"{folder}/" in str(error) for folder in folders):
                raise reason from None
            raise
        finally:
            for folder in folders:
                folder.with_suffix(".away").rename(folder)

    def _mentioned_names(self, statement: duckdb.Statement) -> set[str]:
        """Words of a statement and of the views and macros that it uses.

        EXECUTE does not show the prepared statement, so it counts as mentioning every view.
        """
        if statement.type == duckdb.StatementType.EXECUTE:
            return {view.name for view in FILE_VIEWS} | POSTGRES_SCHEMAS.keys()
        if _METADATA_STATEMENT.match(statement.query):
            return set()
        names, unresolved = set[str](), _words(statement.query)
        while unresolved:
            names |= unresolved
            unresolved = set[str]().union(*map(_words, self._definitions(unresolved))) - names
        return names

    def _definitions(self, names: set[str]) -> list[str]:
        """The SQL behind the views and macros among these names."""
        sql = """
            SELECT sql FROM duckdb_views() WHERE NOT internal AND list_contains($names, lower(view_name))
            UNION ALL
            SELECT macro_definition FROM duckdb_functions()
            WHERE NOT internal AND macro_definition IS NOT NULL AND list_contains($names, lower(function_name))
        """
        return [text for (text,) in self.connection.execute(sql, {"names": sorted(names)}).fetchall()]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


@contextmanager
def open_session(root: str, postgres: PostgresTables, *, now: datetime | None = None) -> Iterator[Session]:
    """Open a session over a root (any fsspec URL) and Postgres.

    now: the aware instant that `as_of()` returns; None: the time of each statement.
    """
    _remove_leftovers()
    with (
        TemporaryDirectory(prefix=f"views-{os.getpid()}-") as folder,
        duckdb.connect() as connection,
        closing(Snapshot(root, Path(folder))) as snapshot,
    ):
        connection.execute("SET TimeZone = 'UTC'")
        instant = "now()" if now is None else f"TIMESTAMPTZ '{now.isoformat()}'"
        connection.execute(f"CREATE MACRO as_of() AS {instant}")
        for view in (*FILE_VIEWS, *postgres_views()):
            view.create(connection, snapshot.folder)
        connection.execute(_read_sql("macros"))
        connection.execute(_read_sql("catalog").replace("{folder}", folder))
        connection.execute("CREATE SCHEMA analysis")
        for path in sorted(ANALYSIS_FOLDER.glob("*.sql")):
            text = path.read_text()
            question = text.splitlines()[0].removeprefix("-- ").replace("'", "''")
            connection.execute(f"CREATE VIEW analysis.{path.stem} AS {text}")
            connection.execute(f"COMMENT ON VIEW analysis.{path.stem} IS '{question}'")
        connection.execute(_read_sql("comments"))
        yield Session(connection, snapshot, postgres)


@contextmanager
def session_from_environment(days: int) -> Iterator[Session]:
    """Open a session over DATA_ROOT and, if DATABASE_URL is set, over that Postgres.

    days: tips and LLM calls of this number of past days are read.
    """
    settings, since = read_settings(Settings), datetime.now(UTC) - timedelta(days=days)
    shards = Shards(settings.data_root, settings.n_shards)
    if shards.check_layout() is None:  # refuses files of two layouts, which would show users twice
        log.warning("no shards below DATA_ROOT=%s: the views of files are empty", settings.data_root)
    url = read_settings(DatabaseSettings).database_url if os.environ.get("DATABASE_URL") else None
    with open_session(settings.data_root, PostgresTables(url, since)) as session:
        yield session


def _remove_leftovers() -> None:
    """Remove the folders of ended processes that did not clean up, such as closed notebooks."""
    for folder in Path(gettempdir()).glob("views-*-*"):
        owner = folder.name.split("-")[1]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _read_sql(name: str) -> str:
    return (ROOT / "views" / f"{name}.sql").read_text()
