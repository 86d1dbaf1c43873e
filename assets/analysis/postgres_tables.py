"""Tables of Postgres that analysts query beside the Parquet files, fetched as Arrow when a statement names them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from adbc_driver_manager import Error as AdbcError

from assets.analysis.views import View
from assets.engine.errors import AssetError
from contexts.postgres.sql import queries

if TYPE_CHECKING:
    from adbc_driver_postgresql import dbapi

_UNDEFINED = ("42P01", "42703")
"""The SQLSTATE of a table or column that does not exist."""

_INSTANT, _TEXT = pa.timestamp("us", "UTC"), pa.string()

POSTGRES_SCHEMAS = {
    "users": pa.schema(
        {
            "user_id": _TEXT,
            "timezone": _TEXT,
            "active": pa.bool_(),
            "created_at": _INSTANT,
            "connected": pa.bool_(),
            "observed_at": _INSTANT,
            "refused_at": _INSTANT,
            "materialized_at": _INSTANT,
        }
    ),
    "decisions": pa.schema(
        {
            "decision_id": _TEXT,
            "user_id": _TEXT,
            "decided_at": _INSTANT,
            "tip_kind": _TEXT,
            "theme": _TEXT,
            "source": _TEXT,
            "llm": _TEXT,
            "author": _TEXT,
            "materialized_at": _INSTANT,
            "context_hash": _TEXT,
            "candidate_set_id": _TEXT,
            "policy_version": _TEXT,
            "n_candidates": pa.int32(),
            "propensity": pa.float32(),
            "origin": _TEXT,
            "set_age_s": pa.float32(),
        }
    ),
    "candidate_sets": pa.schema(
        {
            "candidate_set_id": _TEXT,
            "user_id": _TEXT,
            "made_at": _INSTANT,
            "author": _TEXT,
            "origin": _TEXT,
            "kept_from": _TEXT,
            "n_tips": pa.int32(),
            "context_hash": _TEXT,
        }
    ),
    "reactions": pa.schema({"decision_id": _TEXT, "reaction": _TEXT, "reacted_at": _INSTANT, "reward": pa.float32()}),
    "llm_calls": pa.schema(
        {
            "called_at": _INSTANT,
            "user_id": _TEXT,
            "candidate_set_id": _TEXT,
            "model": _TEXT,
            "outcome": _TEXT,
            "n_requests": pa.int32(),
            "input_tokens": pa.int32(),
            "output_tokens": pa.int32(),
            "cost_usd": pa.float64(),
            "seconds": pa.float64(),
            "place": _TEXT,
            "cached_tokens": pa.int32(),
        }
    ),
    "asset_runs": pa.schema(
        {
            "run_id": _TEXT,
            "step": _TEXT,
            "asset": _TEXT,
            "started_at": _INSTANT,
            "finished_at": _INSTANT,
            "n_shards": pa.int32(),
            "n_shards_run": pa.int32(),
            "n_users": pa.int32(),
            "n_users_computed": pa.int32(),
            "n_rows": pa.int64(),
            "data_version": _TEXT,
            "changed": pa.bool_(),
            "counts": _TEXT,
        }
    ),
}
"""Columns of each table, as returned by the statement of the same name in `sql/queries/analysts.sql`."""


@dataclass(frozen=True)
class PostgresTables:
    """Postgres as a source of views.

    database_url: None if there is no Postgres; then `fetch` raises.
    since: rows logged before this instant are not fetched.
    """

    database_url: str | None
    since: datetime

    def fetch(self, names: Collection[str], folder: Path) -> None:
        """Write the named tables, all as of one moment, to the files of their views.

        Raises AssetError if Postgres cannot be reached.
        """
        from adbc_driver_postgresql import dbapi  # with pandas, where that is installed

        tables = " and ".join(sorted(names))
        if self.database_url is None:
            raise AssetError(f"cannot read {tables} from Postgres: DATABASE_URL is not set. Set it.")
        try:
            with dbapi.connect(self.database_url) as connection, connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                for name in names:
                    self._fetch_table(cursor, name, folder)
        except AdbcError as error:
            remedy = "\nApply the migrations: python -m contexts migrate" if error.sqlstate in _UNDEFINED else ""
            raise AssetError(f"cannot read {tables} from Postgres (DATABASE_URL): {error}{remedy}") from None

    def _fetch_table(self, cursor: dbapi.Cursor, name: str, folder: Path) -> None:
        sql = getattr(queries("analysts"), name).sql
        cursor.execute(sql, parameters=(self.since,) if "$1" in sql else None)
        scratch = folder / name / "next"
        with pq.ParquetWriter(scratch, POSTGRES_SCHEMAS[name]) as writer:
            for batch in cursor.fetch_record_batch():
                writer.write_table(pa.Table.from_batches([batch]).cast(POSTGRES_SCHEMAS[name]))
        scratch.replace(folder / name / "rows.parquet")


def postgres_views() -> Iterator[View]:
    """A view for each table."""
    for name, schema in POSTGRES_SCHEMAS.items():
        yield View(name, schema, f"{name}/rows.parquet")
