"""Shards on disk: one Parquet file a shard, its versions in the footer. The only module that knows paths."""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import cached_property
from json import dumps, loads
from typing import Any
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from assets.asset import Asset
from assets.errors import SchemaError, ShardUnreadable
from assets.index import Index
from assets.versions import edge_hash, hash_of

_FOOTER, _USERS = "asset", "users"


def place(asset: str, shard: str = "*") -> str:
    """Where a shard's file stands below the root; without a shard the glob of all of them."""
    return f"{asset}/shard={shard}/data.parquet"


def place_beside(name: str) -> str:
    """Where a table that is no asset stands below the root."""
    return f"{name}/data.parquet"


@dataclass(frozen=True)
class Footer:
    """What stands in a shard's Parquet footer, so that data and version cannot disagree.

    recipe: versions of the code and of resources. columns: a hash for each plain column; opaque: one for each opaque
    column, of what it follows from. inputs: for each input the version of the columns read (absent when it had no
    file, all absent when some users are still to be computed). n_users: users known, with or without a row.
    valid_until: the earliest instant at which a row must be computed again. packed: the index of the users.
    """

    asset: str
    shard: int
    n_shards: int
    recipe: Mapping[str, str]
    columns: Mapping[str, str]
    opaque: Mapping[str, str]
    inputs: Mapping[str, str]
    n_rows: int
    n_users: int
    materialized_at: datetime
    valid_until: datetime | None
    packed: bytes

    @classmethod
    def of(
        cls,
        asset: Asset,
        shard: int,
        n_shards: int,
        index: Index,
        recipe: Mapping[str, str],
        inputs: Mapping[str, str],
        materialized_at: datetime,
    ) -> Footer:
        """The footer of rows that have this index."""
        blank = dict.fromkeys(asset.plain, ""), dict.fromkeys(sorted(asset.opaque), "")
        empty = cls(asset.name, shard, n_shards, recipe, *blank, inputs, 0, 0, materialized_at, None, b"")
        return empty.holding(index)

    def holding(self, index: Index) -> Footer:
        """The same of rows that have another index of the same columns."""
        versions = index.versions()
        return replace(
            self,
            columns={name: versions[name] for name in self.columns},
            opaque={name: versions[name] for name in self.opaque},
            n_rows=int(index.n_rows.sum()),
            n_users=len(index),
            valid_until=index.earliest(),
            packed=index.pack(),
        )

    @cached_property
    def index(self) -> Index:
        """What is known of each user; ShardUnreadable when the footer holds something else."""
        if self.is_former:
            return Index()
        try:
            return Index.unpack(self.packed)
        except ValueError as error:
            raise ShardUnreadable(
                f"shard {self.shard} of {self.asset} does not say what it holds of whom ({error})."
                f" {_rebuild(self.asset, self.shard)}"
            ) from error

    @property
    def data_version(self) -> str:
        """Hash of the rows' canonical content."""
        return hash_of(self.columns)

    def edge_version(self, columns: Sequence[str]) -> str:
        """The version of some columns; one that the shard has not got yet is a version of its own."""
        return edge_hash(columns, {**dict.fromkeys(columns, ""), **self.columns, **self.opaque})

    def says_the_same_as(self, other: Footer) -> bool:
        """Whether nothing but the time differs."""
        return replace(self, materialized_at=other.materialized_at) == other

    def to_metadata(self) -> dict[str, str]:
        """The footer as a Parquet file holds it: texts by name."""
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "packed"}
        text = dumps(plain, default=datetime.isoformat, sort_keys=True)
        return {_FOOTER: text, _USERS: b64encode(self.packed).decode()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes]) -> Footer:
        """What `to_metadata` gave; KeyError, TypeError or ValueError when it is something else."""
        found: dict[str, Any] = loads(metadata[_FOOTER.encode()])
        for name in ("materialized_at", "valid_until"):
            found[name] = found[name] and datetime.fromisoformat(found[name])
        if _USERS.encode() not in metadata and "without_rows" in found:
            kept = ("asset", "shard", "n_shards", "recipe", "n_rows", "n_users", "materialized_at")
            nothing: dict[str, Any] = {"columns": {}, "opaque": {}, "inputs": {}, "valid_until": None, "packed": b""}
            return cls(**{name: found[name] for name in kept}, **nothing)
        return cls(**found, packed=b64decode(metadata[_USERS.encode()]))

    @property
    def is_former(self) -> bool:
        """Whether the file was written before footers knew users: its rows are used, and the shard is made anew."""
        return not self.packed


class Shard:
    """One open file: its footer and its rows belong together even when the file is replaced meanwhile."""

    def __init__(self, asset: Asset, path: str, file: pq.ParquetFile) -> None:
        self.asset = asset
        self._path = path
        self._file = file
        self.footer = _footer(asset, path, file.metadata.metadata or {})

    def has(self, column: str) -> bool:
        """Whether the file has a column of that name."""
        return column in self._file.schema_arrow.names

    def read_all(self) -> pa.Table:
        """All columns of all rows as they are, whatever the asset declares by now."""
        return self._table(self._file.schema_arrow.names)

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all rows, in the stored order; SchemaError when the file lacks one or has another type."""
        stored = self._file.schema_arrow
        for name in columns:
            wanted = self.asset.schema.field(name).type
            if name not in stored.names or stored.field(name).type != wanted:
                found = stored.field(name).type if name in stored.names else "missing"
                raise SchemaError(
                    f"{self._path} of {self.asset.name}: column '{name}' is {found}, wanted {wanted}."
                    f" {_mend(self.asset, self._path)}"
                )
        return self._table(columns)

    def _table(self, columns: Sequence[str]) -> pa.Table:
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
        return f"{self._root}/{place(asset, f'{shard:04d}')}"

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

    def is_lost(self, asset: Asset, shard: int) -> bool:
        """Whether nothing is known of the shard's users: it has no file, or one of the former form."""
        try:
            footer = self.footer(asset, shard)
        except ShardUnreadable:
            return False
        return footer is None or footer.is_former

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
        self._sweep(path.rsplit("/", 1)[0], (".tmp",))
        self._replace(path, table, footer.to_metadata(), list(asset.plain))

    def write_beside(self, name: str, table: pa.Table) -> None:
        """Replace a table that is no asset in one step; the last writer wins."""
        self._replace(f"{self._root}/{place_beside(name)}", table, {}, table.column_names)

    def remove_leftovers(self, asset: Asset, shard: int) -> None:
        """Remove what a writer left that broke off, and what was set aside: both hold rows of former users."""
        self._sweep(self.path(asset.name, shard).rsplit("/", 1)[0], (".tmp", ".aside"))

    def _replace(self, path: str, table: pa.Table, metadata: Mapping[str, str], encoded: list[str]) -> None:
        folder = path.rsplit("/", 1)[0]
        self._fs.makedirs(folder, exist_ok=True)
        scratch = f"{folder}/{uuid4().hex}.tmp"
        bare = table.replace_schema_metadata(None)
        with self._fs.open(scratch, "wb") as file:
            options = {"compression": "zstd", "compression_level": 1, "use_dictionary": encoded}
            with pq.ParquetWriter(file, bare.schema, **options) as writer:
                writer.write_table(bare)
                writer.add_key_value_metadata(dict(metadata))
            if self._is_local:  # or a token in Postgres could survive a loss of power that its data do not
                file.flush()
                os.fsync(file.fileno())
        self._fs.mv(scratch, path)

    def _sweep(self, folder: str, endings: tuple[str, ...]) -> None:
        for left in self._fs.ls(folder, detail=False) if self._fs.exists(folder) else ():
            if left.endswith(endings):
                self._fs.rm(left)

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
        footer = Footer.from_metadata(metadata)
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
    return _rebuild(asset.name, _shard_in(path))


def _rebuild(asset: str, shard: int) -> str:
    return f"Rebuild it: python -m assets rebuild {asset} --shard {shard}"
