"""Shards on disk: one Parquet file a shard, its versions in the footer. The only module that knows paths."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from json import dumps, loads
from typing import Any
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from assets.asset import INPUT_HASH, Asset
from assets.errors import SchemaError, ShardUnreadable
from assets.versions import edge_hash, hash_of

_FOOTER = b"asset"


@dataclass(frozen=True)
class Footer:
    """What stands in a shard's Parquet footer, so that data and version cannot disagree.

    recipe: versions of the code and of resources. columns: a hash for each column. inputs: for each input the version
    of the columns read (absent when it had no file). n_users: users with a row, or in `without_rows`. valid_until:
    the earliest instant at which a row must be computed again. rows_version: hash of the rows' input hashes, which
    stand for opaque columns. without_rows: input hashes of users that gave no row.
    """

    asset: str
    shard: int
    n_shards: int
    recipe: Mapping[str, str]
    columns: Mapping[str, str]
    inputs: Mapping[str, str]
    n_rows: int
    n_users: int
    materialized_at: datetime
    rows_version: str = ""
    valid_until: datetime | None = None
    without_rows: Mapping[str, str] = field(default_factory=dict)

    @property
    def data_version(self) -> str:
        """Hash of the rows' canonical content."""
        return hash_of(self.columns)

    def edge_version(self, columns: Sequence[str]) -> str:
        """The version of some columns; an opaque one has that of all the rest and of what rows were made from."""
        opaque = hash_of([self.data_version, self.recipe, self.rows_version])
        return edge_hash(columns, dict.fromkeys(columns, opaque) | dict(self.columns))

    def to_json(self) -> str:
        return dumps(asdict(self), default=datetime.isoformat, sort_keys=True)

    @classmethod
    def from_json(cls, text: bytes) -> Footer:
        fields: dict[str, Any] = loads(text)
        for name in ("materialized_at", "valid_until"):
            fields[name] = fields[name] and datetime.fromisoformat(fields[name])
        return cls(**fields)


class Shard:
    """One open file: its footer and its rows belong together even when the file is replaced meanwhile."""

    def __init__(self, asset: Asset, path: str, file: pq.ParquetFile) -> None:
        self.asset = asset
        self._path = path
        self._file = file
        self.footer = _footer(asset, path, file.schema_arrow.metadata or {})

    def has(self, column: str) -> bool:
        """Whether the file has a column of that name."""
        return column in self._file.schema_arrow.names

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all rows, in the stored order; SchemaError when the file lacks one or has another type."""
        stored = self._file.schema_arrow
        for name in columns:
            wanted = pa.string() if name == INPUT_HASH else self.asset.schema.field(name).type
            if name not in stored.names or stored.field(name).type != wanted:
                found = stored.field(name).type if name in stored.names else "missing"
                raise SchemaError(
                    f"{self._path} of {self.asset.name}: column '{name}' is {found}, wanted {wanted}."
                    f" {_mend(self.asset, self._path)}"
                )
        try:
            return self._file.read(columns=list(columns)).select(list(columns)).replace_schema_metadata(None)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self.asset, self._path, error) from error


class Shards:
    """All shards under a root, which is any fsspec URL; a plain path is a local folder."""

    def __init__(self, root: str, n_shards: int) -> None:
        self.n_shards = n_shards
        self._fs, self._root = fsspec.core.url_to_fs(root)

    def path(self, asset: str, shard: int) -> str:
        return f"{self._root}/{asset}/shard={shard:04d}/data.parquet"

    def pattern(self, asset: str) -> str:
        """The glob of an asset's files, as DuckDB reads them once `make_readable` was called."""
        path = f"{self._root}/{asset}/shard=*/data.parquet"
        return path if self._is_local else self._fs.unstrip_protocol(path)

    def make_readable(self, connection: Any) -> None:
        """Let a DuckDB connection read from the root, wherever it is."""
        if not self._is_local:
            connection.register_filesystem(self._fs)

    @property
    def _is_local(self) -> bool:
        return "file" in self._fs.protocol

    @contextmanager
    def open(self, asset: Asset, shard: int) -> Iterator[Shard | None]:
        """The shard's file, None where there is none; ShardUnreadable when it is cut short or foreign."""
        path = self.path(asset.name, shard)
        try:
            handle = self._fs.open(path, "rb")
        except FileNotFoundError:
            yield None
            return
        with handle:
            try:
                file = pq.ParquetFile(handle)
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(asset, path, error) from error
            opened = Shard(asset, path, file)
            self._refuse_other_spread(opened.footer, path)
            yield opened

    def footer(self, asset: Asset, shard: int) -> Footer | None:
        """Only the shard's footer."""
        with self.open(asset, shard) as opened:
            return opened.footer if opened else None

    def footers(self, asset: Asset) -> list[Footer]:
        """The footers of all shards that exist."""
        found = (self.footer(asset, shard) for shard in range(self.n_shards))
        return [footer for footer in found if footer]

    def readable_footers(self, asset: Asset) -> list[Footer]:
        """The footers of all shards that can be read; whoever runs the others is told what is wrong with them."""
        found = []
        for shard in range(self.n_shards):
            with suppress(ShardUnreadable):
                found.append(self.footer(asset, shard))
        return [footer for footer in found if footer]

    def write(self, asset: Asset, table: pa.Table, footer: Footer) -> None:
        """Replace the shard's file by another in one step: a reader sees the old or the new, never a part."""
        path = self.path(asset.name, footer.shard)
        folder = path.rsplit("/", 1)[0]
        self._fs.makedirs(folder, exist_ok=True)
        for left in self._fs.ls(folder, detail=False):
            if left.endswith(".tmp"):
                self._fs.rm(left)
        scratch = f"{folder}/{uuid4().hex}.tmp"
        stamped = table.replace_schema_metadata({_FOOTER: footer.to_json()})
        with self._fs.open(scratch, "wb") as file:
            plain = [name for name in table.column_names if name not in asset.opaque]
            pq.write_table(stamped, file, compression="zstd", compression_level=1, use_dictionary=plain)
            if self._is_local:  # or a token in Postgres could survive a loss of power that its data do not
                file.flush()
                os.fsync(file.fileno())
        self._fs.mv(scratch, path)

    def set_aside(self, asset: Asset, shard: int) -> str:
        """Rename a shard's file so that the shard counts as missing; gives the new path."""
        path = self.path(asset.name, shard)
        if not self._fs.exists(path):
            raise ShardUnreadable(f"{path} does not exist: there is nothing to rebuild.")
        aside = f"{path}.{uuid4().hex[:8]}.aside"
        self._fs.mv(path, aside)
        return aside

    def _refuse_other_spread(self, footer: Footer, path: str) -> None:
        if footer.n_shards != self.n_shards:
            raise ShardUnreadable(
                f"{path} was written with N_SHARDS={footer.n_shards}, now it is {self.n_shards}."
                f" Set it back, or choose another DATA_ROOT and run a full night."
            )


def _footer(asset: Asset, path: str, metadata: Mapping[bytes, bytes]) -> Footer:
    try:
        footer = Footer.from_json(metadata[_FOOTER])
    except (KeyError, TypeError, ValueError):
        raise ShardUnreadable(f"{path} carries no footer of the asset {asset.name}. {_mend(asset, path)}") from None
    if (footer.asset, footer.shard) != (asset.name, _shard_in(path)):
        raise ShardUnreadable(
            f"{path} is shard {footer.shard} of {footer.asset}, not of {asset.name}. {_mend(asset, path)}"
        )
    return footer


def _shard_in(path: str) -> int:
    return int(path.rsplit("shard=", 1)[1][:4])


def _unreadable(asset: Asset, path: str, error: Exception) -> ShardUnreadable:
    return ShardUnreadable(f"{path} of {asset.name} cannot be read ({error}). {_mend(asset, path)}")


def _mend(asset: Asset, path: str) -> str:
    return f"Rebuild it: python -m assets rebuild {asset.name} --shard {_shard_in(path)}"
