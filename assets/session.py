"""A DuckDB session for analysts: views of all that nights and requests leave behind, macros, and a catalog."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import duckdb
import psutil

from assets import attached
from assets.attached import Attached
from assets.definitions import GRAPH
from assets.errors import AssetError
from assets.ledger import LEDGER
from assets.ledger import SCHEMA as LEDGER_SCHEMA
from assets.parquet import place_beside
from assets.snapshot import Snapshot
from assets.views import View
from contexts import history
from contexts.settings import DatabaseSettings, Settings, read_settings
from contexts.sql import ROOT

ANALYSES = ROOT / "analysis"
"""Questions with their answers, each a view of the schema `analysis` that is called like its file."""

STORED = (
    *(View.of(asset) for asset in GRAPH),
    View(LEDGER, LEDGER_SCHEMA, place_beside(LEDGER)),
    View("context_history", history.SCHEMA, history.PATTERN, {"day": "DATE", "shard": "INTEGER"}),
)
"""Views of the files under DATA_ROOT."""

_ASKS_FOR_COLUMNS = re.compile(r"\s*(describe|show)\b", re.I)


@dataclass(frozen=True)
class Session:
    """A connection with all views. Each statement sees files and Postgres as they are when it begins."""

    connection: duckdb.DuckDBPyConnection
    snapshot: Snapshot
    postgres: Attached

    def sql(self, text: str) -> duckdb.DuckDBPyRelation | None:
        """Run statements one after the other; gives the last one's answer, None where it has none."""
        *_, answer = None, *self.answers(text)
        return answer

    def answers(self, text: str) -> Iterator[duckdb.DuckDBPyRelation]:
        """Run statements one after the other; gives the answers of those that have one."""
        for statement in duckdb.extract_statements(text):
            with self._current(statement):
                found = self.connection.sql(statement.query)
                if found is not None and found.columns:
                    yield found.materialize()  # now: for the next statement other files are held

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

    @contextmanager
    def _current(self, statement: duckdb.Statement) -> Iterator[None]:
        """What a statement may read, as it is now.

        A name that stands in it for something else is taken for that of a view. So where Postgres is not to be had,
        its views lose their files while the statement runs: if it reads them after all, DuckDB does not find them.
        """
        names = self._named_in(statement)
        for view in STORED:
            if view.name in names or ("shards" in names and view.name in GRAPH.assets):  # it reads all footers
                self.snapshot.take(view.pattern)
        asked = sorted(attached.SCHEMAS.keys() & names)
        try:
            if asked:
                self.postgres.fetch(asked, self.snapshot.folder)
        except AssetError as error:
            with self._without(asked, error):
                yield
        else:
            yield

    @contextmanager
    def _without(self, names: Iterable[str], reason: AssetError) -> Iterator[None]:
        folders = [self.snapshot.folder / name for name in names]
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

    def _named_in(self, statement: duckdb.Statement) -> set[str]:
        """The words of a statement and of the views and macros behind them; all views where a prepared one is run."""
        if statement.type == duckdb.StatementType.EXECUTE:
            return {view.name for view in STORED} | attached.SCHEMAS.keys()
        if _ASKS_FOR_COLUMNS.match(statement.query):
            return set()
        found, news = set[str](), _words(statement.query)
        while news:
            found |= news
            news = set[str]().union(*map(_words, self._behind(news))) - found
        return found

    def _behind(self, names: set[str]) -> list[str]:
        """The SQL of those views and macros that are called so."""
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
def session(root: str, postgres: Attached, *, now: datetime | None = None) -> Iterator[Session]:
    """A session over a root (any fsspec URL) and Postgres. now: what `as_of()` gives, an aware instant; None: the
    time of each statement.
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


def _remove_leftovers() -> None:
    """Remove the folders of processes that ended without doing so, as notebooks do when they are closed."""
    for left in Path(gettempdir()).glob("views-*-*"):
        owner = left.name.split("-")[1]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def _read(name: str) -> str:
    return (ROOT / "views" / f"{name}.sql").read_text()
