"""The inputs of one shard of an asset, as files that were opened together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from assets.asset import Asset, Input
from assets.index import Index
from assets.parquet import Shard
from assets.rows import take


@dataclass(frozen=True)
class Feed:
    """One input of a shard: the columns that the edge names, of the file as it was opened."""

    source: Asset
    edge: Input
    shard: Shard | None

    @property
    def version(self) -> str | None:
        return self.shard.footer.edge_version(self.edge.columns) if self.shard else None

    @property
    def index(self) -> Index | None:
        return self.shard.footer.index if self.shard else None

    @cached_property
    def table(self) -> pa.Table:
        """The columns of all users."""
        if self.shard is None:
            return pa.schema([self.source.schema.field(name) for name in self.edge.columns]).empty_table()
        return self.shard.read(self.edge.columns)

    def rows(self, users: Iterable[str] | None = None) -> pa.Table:
        """The columns of some users or of all."""
        return self.table if users is None or self.index is None else take(self.table, self.index, users)


class Tables(Mapping[str, pa.Table]):
    """The inputs as checks see them, read when asked for: of some users or of all."""

    def __init__(self, inputs: Mapping[str, Feed], users: Collection[str] | None) -> None:
        self._inputs = inputs
        self._users = users

    def __getitem__(self, name: str) -> pa.Table:
        return self._inputs[name].rows(self._users)

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)
