"""DuckDB over the Parquet: one view per asset, of the same name, and views of what stands beside the assets."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from assets.graph import Graph
from assets.parquet import Shards


def create_views(connection: duckdb.DuckDBPyConnection, graph: Graph, shards: Shards) -> None:
    """A view for every asset, with the shard in a column of its own; empty where an asset has no file yet."""
    shards.make_readable(connection)
    for asset in graph:
        if shards.footers(asset):
            rows = f"read_parquet('{shards.pattern(asset.name)}', hive_partitioning = true)"
            connection.execute(f'CREATE OR REPLACE VIEW "{asset.name}" AS FROM {rows}')
        else:
            connection.register(f"empty_{asset.name}", _readable(asset.schema).empty_table())
            connection.execute(f'CREATE OR REPLACE VIEW "{asset.name}" AS FROM "empty_{asset.name}"')


def create_view(connection: duckdb.DuckDBPyConnection, name: str, pattern: str | None, schema: pa.Schema) -> None:
    """A view of files that are no asset's; empty where there are none yet (`pattern` is None)."""
    if pattern is None:
        connection.register(f"empty_{name}", schema.empty_table())
        connection.execute(f'CREATE OR REPLACE VIEW "{name}" AS FROM "empty_{name}"')
    else:
        rows = f"read_parquet('{pattern}', hive_partitioning = true)"
        connection.execute(f'CREATE OR REPLACE VIEW "{name}" AS FROM {rows}')


def _readable(schema: pa.Schema) -> pa.Schema:
    """The schema in types that DuckDB takes from Arrow: it reads float16 from Parquet only."""
    half = pa.list_(pa.float16())
    return pa.schema([each.with_type(pa.list_(pa.float32())) if each.type == half else each for each in schema])
