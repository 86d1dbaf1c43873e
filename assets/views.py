"""DuckDB views over Parquet files, each with the columns that it is declared to have, whatever a file has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from assets.asset import Asset
from assets.parquet import place

SHARD = MappingProxyType({"shard": "INTEGER"})

_NOBODYS = {"INTEGER": "-1", "DATE": "1970-01-01"}
"""A partition that no file has, by its type."""


@dataclass(frozen=True)
class View:
    """A view and its files. pattern: their glob below the root. partitions: DuckDB types of what stands in paths."""

    name: str
    schema: pa.Schema
    pattern: str
    partitions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, asset: Asset) -> View:
        """An asset's, of the same name, with the shard as a column more."""
        return cls(asset.name, asset.schema, place(asset.name), SHARD)

    def create(self, connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
        """Create the view over the files in a folder, which get company of one without rows: so the view is there
        before the first of them, and has every declared column.
        """
        path = self.pattern
        for partition, kind in self.partitions.items():
            path = path.replace(f"{partition}=*", f"{partition}={_NOBODYS[kind]}")
        nobody = (folder / path).with_name("none.parquet")
        nobody.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(self.schema.empty_table(), nobody)
        types = ", ".join(f"'{name}': {kind}" for name, kind in self.partitions.items())
        hive = f", hive_partitioning = true, hive_types = {{{types}}}" if types else ""
        files = (folder / self.pattern).with_name("*.parquet")
        rows = f"read_parquet('{files}', union_by_name = true{hive})"
        connection.execute(f'CREATE OR REPLACE VIEW "{self.name}" AS FROM {rows}')
