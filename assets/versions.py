"""Versions: which shard a user is in, and hashes that tell whether content changed.

All hashes are of canonical JSON as DuckDB writes it (UTC, UTF-8), so an analyst can compute them again in SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import md5, sha256
from json import dumps
from typing import Any

import duckdb
import pyarrow as pa

from assets.asset import KEY, Asset


def shard_of(user_id: str, n_shards: int) -> int:
    """The shard (0 to n_shards - 1) of a user: the first 32 bits of md5(user_id), modulo `n_shards`.

    md5 because Python, Postgres and DuckDB all have it; it spreads, it protects nothing.
    """
    return int(md5(user_id.encode(), usedforsecurity=False).hexdigest()[:8], 16) % n_shards


def hash_of(value: object) -> str:
    """sha256 of the canonical JSON of plain data."""
    return sha256(dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def recipe_of(asset: Asset, resources: Mapping[type, object]) -> Mapping[str, str]:
    """What an asset is made by: its code's version and the versions of resources that have one (a model)."""
    versions = {name: getattr(resources.get(kind), "version", None) for name, kind in asset.resources.items()}
    return {"code": asset.code_version} | {f"resource {name}": each for name, each in versions.items() if each}


def column_versions(asset: Asset, table: pa.Table) -> Mapping[str, str]:
    """A hash for every column that is not opaque, over its values in the table's order."""
    names = [name for name in asset.schema.names if name not in asset.opaque]
    return {
        name: str(value)
        for name, value in zip(
            names,
            _query(
                f"SELECT {', '.join(map(_column_hash, names))} FROM rows",
                rows=table.select(names),
            )[0],
            strict=True,
        )
    }


def input_hashes(asset: Asset, inputs: Mapping[str, pa.Table], recipe: Mapping[str, str]) -> dict[str, str]:
    """For each user of the first input: a hash of the recipe and of all rows that the inputs hold of them."""
    first = asset.inputs[0].asset
    rows = " UNION ALL ".join(
        f"SELECT {KEY}, '{name}' || sha256(json_array({_quoted(table.column_names)})::VARCHAR) AS row_hash"
        f' FROM "{name}"'
        for name, table in inputs.items()
    )
    found = _query(
        f"SELECT {KEY}, sha256($recipe || string_agg(row_hash, '' ORDER BY row_hash)) FROM ({rows})"
        f' WHERE {KEY} IN (SELECT {KEY} FROM "{first}") GROUP BY {KEY}',
        {"recipe": hash_of(recipe)},
        **inputs,
    )
    return dict(found)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _column_hash(name: str) -> str:
    return f"""coalesce(sha256(string_agg(coalesce(to_json("{name}")::VARCHAR, 'null'), chr(31))), '')"""


@cache
def _database() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})


def _query(sql: str, parameters: Mapping[str, object] | None = None, **tables: pa.Table) -> list[tuple[Any, ...]]:
    # One thread: string_agg without an order then keeps the rows' own.
    with _database().cursor() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, table in tables.items():
            connection.register(name, table)
        return connection.execute(sql, parameters or {}).fetchall()


def edge_hash(columns: Iterable[str], versions: Mapping[str, str]) -> str:
    """The version of what an edge reads: the hash of the versions of its columns."""
    return hash_of({name: versions[name] for name in columns})
