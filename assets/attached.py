"""Tables of Postgres that analysts read beside the Parquet: fetched as Arrow when a query names them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from adbc_driver_manager import Error as AdbcError
from adbc_driver_postgresql import dbapi

from assets.errors import AssetError
from assets.views import View
from contexts.sql import queries

_INSTANT, _TEXT = pa.timestamp("us", "UTC"), pa.string()

SCHEMAS = {
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
        }
    ),
    "materializations": pa.schema(
        {
            "run_id": _TEXT,
            "step": _TEXT,
            "asset": _TEXT,
            "started_at": _INSTANT,
            "finished_at": _INSTANT,
            "n_shards": pa.int32(),
            "n_shards_run": pa.int32(),
            "n_users": pa.int32(),
            "n_users_changed": pa.int32(),
            "n_rows": pa.int64(),
            "data_version": _TEXT,
            "changed": pa.bool_(),
            "counts": _TEXT,
        }
    ),
}
"""The columns of each, as the statement of its name in `sql/queries/analysts.sql` gives them."""


@dataclass(frozen=True)
class Attached:
    """Postgres as a source of views. since: rows of before stay there."""

    database_url: str | None
    since: datetime

    def fetch(self, names: Collection[str], folder: Path) -> None:
        """Write some tables, all as of one moment, into the files of their views; AssetError when Postgres is not to
        be had.
        """
        told = " and ".join(sorted(names))
        if self.database_url is None:
            raise AssetError(f"{told} is read from Postgres, and DATABASE_URL does not say where that is. Set it.")
        try:
            with dbapi.connect(self.database_url) as connection, connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                for name in names:
                    self._fetch(cursor, name, folder)
        except AdbcError as error:
            raise AssetError(f"{told} cannot be read from Postgres (DATABASE_URL): {error}") from None

    def _fetch(self, cursor: dbapi.Cursor, name: str, folder: Path) -> None:
        sql = getattr(queries("analysts"), name).sql
        cursor.execute(sql, parameters=(self.since,) if "$1" in sql else None)
        scratch = folder / name / "next"
        with pq.ParquetWriter(scratch, SCHEMAS[name]) as writer:
            for batch in cursor.fetch_record_batch():
                writer.write_table(pa.Table.from_batches([batch]).cast(SCHEMAS[name]))
        scratch.replace(folder / name / "rows.parquet")


def views() -> Iterator[View]:
    """A view for each table."""
    for name, schema in SCHEMAS.items():
        yield View(name, schema, f"{name}/rows.parquet")
