"""DuckDB views over Parquet files, each with its declared columns even if a file lacks some of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from assets.engine.asset import Asset
from assets.engine.parquet import shard_path

SHARD_PARTITION = MappingProxyType({"shard": "INTEGER"})
"""The partitions of a view over shards."""

_PLACEHOLDER_VALUES = {"INTEGER": "-1", "DATE": "1970-01-01"}
"""For each type of a partition, a value that no stored file has."""


@dataclass(frozen=True)
class View:
    """A view and the files behind it.

    pattern: glob of the files below the root.
    partitions: DuckDB types of the hive partitions in the pattern, by name.
    """

    name: str
    schema: pa.Schema
    pattern: str
    partitions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_asset(cls, asset: Asset) -> View:
        """The view of an asset: its name, its columns and the shard."""
        return cls(asset.name, asset.schema, shard_path(asset.name), SHARD_PARTITION)

    def create(self, connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
        """Create the view over the files in a folder.

        An empty placeholder file is added, because DuckDB reads no glob without a match: the view exists before the
        first file is written, and has every declared column.
        """
        path = self.pattern
        for partition, data_type in self.partitions.items():
            path = path.replace(f"{partition}=*", f"{partition}={_PLACEHOLDER_VALUES[data_type]}")
        placeholder = (folder / path).with_name("none.parquet")
        placeholder.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(self.schema.empty_table(), placeholder)
        types = ", ".join(f"'{name}': {data_type}" for name, data_type in self.partitions.items())
        hive = f", hive_partitioning = true, hive_types = {{{types}}}" if types else ""
        files = (folder / self.pattern).with_name("*.parquet")
        rows = f"read_parquet('{files}', union_by_name = true{hive})"
        connection.execute(f'CREATE OR REPLACE VIEW "{self.name}" AS FROM {rows}')
