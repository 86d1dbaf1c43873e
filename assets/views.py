"""DuckDB over the Parquet: one view per asset, of the same name."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from assets.asset import INPUT_HASH
from assets.graph import Graph
from assets.parquet import Shards


def create_views(connection: duckdb.DuckDBPyConnection, graph: Graph, shards: Shards) -> None:
    """A view for every asset, with the shard in a column of its own; empty where an asset has no file yet."""
    shards.make_readable(connection)
    for asset in graph:
        if shards.footers(asset):
            rows = f"read_parquet('{shards.pattern(asset.name)}', hive_partitioning = true)"
            hidden = f"EXCLUDE ({INPUT_HASH})" if not (asset.is_source or asset.observes) else ""
            connection.execute(f'CREATE OR REPLACE VIEW "{asset.name}" AS SELECT * {hidden} FROM {rows}')
        else:
            connection.register(f"empty_{asset.name}", _readable(asset.schema).empty_table())
            connection.execute(f'CREATE OR REPLACE VIEW "{asset.name}" AS FROM "empty_{asset.name}"')


def _readable(schema: pa.Schema) -> pa.Schema:
    """The schema in types that DuckDB takes from Arrow: it reads float16 from Parquet only."""
    half = pa.list_(pa.float16())
    return pa.schema([each.with_type(pa.list_(pa.float32())) if each.type == half else each for each in schema])
