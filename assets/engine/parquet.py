"""Shards on disk: one Parquet file per shard, with its versions in the footer."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from functools import cached_property
from json import dumps, loads
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from assets.engine.asset import Asset, RowDigests
from assets.engine.errors import SchemaError, ShardUnreadable, WrongShardCount
from assets.engine.hashing import edge_hash, hash_of
from assets.engine.index import Index
from assets.engine.layout import Layout, read_layout, write_layout
from assets.engine.metadata import Metadata, MetadataReader
from contexts.files import ASIDE_SUFFIX, SCRATCH_SUFFIX, FileFault, FileStore, parent
from contexts.verified_parquet import DamagedFile, open_parquet, write_parquet

_FOOTER_KEY, _INDEX_KEY = "asset", "users"

_FEW_SHARDS = 2
"""Shards whose footers are read one by one; of more, the files that changed are found by a listing."""

_DEAD_AFTER = timedelta(hours=1)
"""The age from which a scratch file beside a table that several processes write is that of a writer that died."""


def shard_path(asset: str, shard: str = "*") -> str:
    """Return the path of a shard's file below the root; by default a glob of all shards."""
    return f"{asset}/shard={shard}/data.parquet"


def table_path(name: str) -> str:
    """Return the path below the root of a table that is not an asset."""
    return f"{name}/data.parquet"


@dataclass(frozen=True)
class Footer:
    """The metadata in a shard's Parquet footer, so that data and version cannot disagree.

    recipe: versions of the code and of resources. columns: a hash for each versioned column. opaque: for each opaque
    column a hash of the inputs that it follows from. inputs: for each input the version of the columns read (absent
    if it had no file; all absent while some users are still to be computed). n_users: users in the index, with or
    without rows. valid_until: the first instant at which a row must be recomputed. packed: the packed index of users.
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
    def from_index(
        cls,
        asset: Asset,
        shard: int,
        n_shards: int,
        index: Index,
        recipe: Mapping[str, str],
        inputs: Mapping[str, str],
        materialized_at: datetime,
    ) -> Footer:
        """Return the footer of rows with this index."""
        blank = dict.fromkeys(asset.versioned, ""), dict.fromkeys(sorted(asset.opaque), "")
        empty = cls(asset.name, shard, n_shards, recipe, *blank, inputs, 0, 0, materialized_at, None, b"")
        return empty.with_index(index)

    def with_index(self, index: Index) -> Footer:
        """Return the footer with another index of the same columns."""
        versions = index.versions()
        return replace(
            self,
            columns={name: versions[name] for name in self.columns},
            opaque={name: versions[name] for name in self.opaque},
            n_rows=int(index.n_rows.sum()),
            n_users=len(index),
            valid_until=index.next_expiry(),
            packed=index.pack(),
        )

    @cached_property
    def index(self) -> Index:
        """The index of users; ShardUnreadable if the footer holds something else."""
        try:
            return Index.unpack(self.packed)
        except ValueError as error:
            raise ShardUnreadable(
                f"shard {self.shard} of {self.asset} has no readable index of users ({error})."
                f" {_rebuild_command(self.asset, self.shard)}"
            ) from error

    @property
    def row_digests(self) -> RowDigests:
        """A digest of each user's rows as they were written."""
        return self.index.row_digests(self.columns)

    @property
    def data_version(self) -> str:
        """The hash of the rows' canonical content."""
        return hash_of(self.columns)

    def edge_version(self, columns: Sequence[str]) -> str:
        """Return the version of some columns; a column that the file lacks has a version of its own."""
        return edge_hash(columns, {**dict.fromkeys(columns, ""), **self.columns, **self.opaque})

    def equals_but_time(self, other: Footer) -> bool:
        """Whether the footers differ in nothing but `materialized_at`."""
        return replace(self, materialized_at=other.materialized_at) == other

    def to_metadata(self) -> dict[str, str]:
        """Return the footer as Parquet metadata: texts by name."""
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "packed"}
        text = dumps(plain, default=datetime.isoformat, sort_keys=True)
        return {_FOOTER_KEY: text, _INDEX_KEY: b64encode(self.packed).decode()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes]) -> Footer:
        """Read the metadata of `to_metadata`; KeyError, TypeError or ValueError if it is something else."""
        values: dict[str, Any] = loads(metadata[_FOOTER_KEY.encode()])
        for name in ("materialized_at", "valid_until"):
            values[name] = values[name] and datetime.fromisoformat(values[name])
        return cls(**values, packed=b64decode(metadata[_INDEX_KEY.encode()]))


class Shard:
    """One open file: its footer and rows belong together even if the file is replaced meanwhile."""

    def __init__(self, asset: Asset, path: str, file: pq.ParquetFile) -> None:
        self.asset = asset
        self._path = path
        self._file = file
        self.footer = _footer(asset, path, file.metadata.metadata or {})

    def has(self, column: str) -> bool:
        """Whether the file has a column of this name."""
        return column in self._file.schema_arrow.names

    def read_all(self) -> pa.Table:
        """Read the columns that the file has, even if the asset now declares others."""
        return self._table(self._file.schema_arrow.names)

    def read(self, columns: Sequence[str], *, may_lack: Collection[str] = ()) -> pa.Table:
        """Read some columns of all rows in the stored order; SchemaError if one is missing or of another type.

        may_lack: columns that are null if the file lacks them.
        """
        stored = self._file.schema_arrow
        missing = {name for name in columns if name in may_lack and not self.has(name)}
        present = [name for name in columns if name not in missing]
        for name in present:
            declared = self.asset.schema.field(name).type
            if name not in stored.names or stored.field(name).type != declared:
                kind = stored.field(name).type if name in stored.names else "missing"
                raise SchemaError(
                    f"{self._path} of {self.asset.name}: column '{name}' is {kind}, expected {declared}."
                    f" {_fix(self.asset, self._path)}"
                )
        table = self._table(present)
        for name in missing:
            table = table.append_column(name, pa.nulls(len(table), self.asset.schema.field(name).type))
        return table.select(list(columns))

    def _table(self, columns: Sequence[str]) -> pa.Table:
        try:
            return self._file.read(columns=list(columns)).select(list(columns)).replace_schema_metadata(None)
        except (pa.ArrowException, DamagedFile, OSError) as error:
            raise _unreadable(self.asset, self._path, error) from error


class Shards:
    """All shards under a root, which is any fsspec URL; a plain path is a local folder."""

    def __init__(self, root: str, n_shards: int) -> None:
        self.n_shards = n_shards
        self._url = root
        self._has_layout = False
        self._files = FileStore(root)
        self._metadata = MetadataReader(self._files)

    def check_layout(self) -> Layout | None:
        """Return the layout of the root, None if it has no files yet.

        Raises WrongShardCount if the root has another number of shards, or if its rows are being moved.
        """
        stored = read_layout(self._files)
        self._has_layout = stored is not None
        layout = stored or self._layout_of_files()
        if layout is None:
            return None
        if layout.is_moving:
            raise WrongShardCount(
                f"the rows under {self._files.root} are being moved to {layout.n_shards} shards. If no such command"
                f" is running, it was broken off. Finish it: python -m assets reshard {layout.n_shards}"
            )
        self._check_n_shards(layout.n_shards, self._files.root)
        return layout

    def layout(self) -> Layout | None:
        """Return the layout of the root: the stored one, or that of its files; None if there are none."""
        return read_layout(self._files) or self._layout_of_files()

    def _layout_of_files(self) -> Layout | None:
        """Return the layout that the first readable footer names: roots of earlier versions store none."""
        for folder in self._files.children(self._files.root):
            for shard_folder in self._files.children(folder):
                if shard_folder.rsplit("/", 1)[-1].startswith("shard="):
                    path = f"{shard_folder}/data.parquet"
                    with suppress(ValueError, KeyError, TypeError):
                        if isinstance(metadata := self._metadata.read([path])[path], Mapping):
                            return Layout(Footer.from_metadata(metadata).n_shards)
        return None

    @property
    def root(self) -> str:
        """The URL or the folder of the files."""
        return self._url

    def _folder(self, asset: Asset) -> str:
        return f"{self._files.root}/{asset.name}"

    def path(self, asset: str, shard: int) -> str:
        """Return the path of a shard's file."""
        return f"{self._files.root}/{shard_path(asset, f'{shard:04d}')}"

    @contextmanager
    def open(self, asset: Asset, shard: int) -> Iterator[Shard | None]:
        """Open a shard's file, or yield None if there is none; ShardUnreadable if it is truncated or foreign."""
        path = self.path(asset.name, shard)
        with ExitStack() as stack:
            with _unreadable_alone():
                handle = stack.enter_context(self._files.open(path))
            if handle is None:
                yield None
                return
            try:
                file = open_parquet(handle)
            except (pa.ArrowException, DamagedFile, OSError) as error:
                raise _unreadable(asset, path, error) from error
            opened = Shard(asset, path, file)
            self._check_n_shards(opened.footer.n_shards, path)
            yield opened

    def footer(self, asset: Asset, shard: int) -> Footer | None:
        """Read only the shard's footer, None if there is no file."""
        footer = self.read_footers(asset, [shard])[shard]
        if isinstance(footer, ShardUnreadable):
            raise footer
        return footer

    def footers(self, asset: Asset) -> list[Footer]:
        """Read the footers of all existing shards."""
        footers = self.read_footers(asset, range(self.n_shards)).values()
        if unreadable := next((each for each in footers if isinstance(each, ShardUnreadable)), None):
            raise unreadable
        return [footer for footer in footers if isinstance(footer, Footer)]

    def readable_footers(self, asset: Asset) -> list[Footer]:
        """Read the footers of all readable shards; a run of an unreadable shard reports the error."""
        footers = self.read_footers(asset, range(self.n_shards)).values()
        return [footer for footer in footers if isinstance(footer, Footer)]

    def read_footers(self, asset: Asset, shards: Sequence[int]) -> dict[int, Footer | ShardUnreadable | None]:
        """Read the footers of some shards: None for a shard without a file, the error for an unreadable one.

        A fault of the whole file system is raised. In an object store many are read at the same time, and of all
        shards only those that changed.
        """
        paths = {shard: self.path(asset.name, shard) for shard in shards}
        if self._files.is_local or len(paths) <= _FEW_SHARDS:
            metadata = self._metadata.read(paths.values())
        else:
            is_whole = len(paths) == self.n_shards
            metadata = self._metadata.read_in_folder(self._folder(asset), list(paths.values()), keep=is_whole)
        return {shard: self._footer_in(asset, path, metadata[path]) for shard, path in paths.items()}

    def _footer_in(
        self, asset: Asset, path: str, metadata: Metadata | DamagedFile | FileFault | None
    ) -> Footer | ShardUnreadable | None:
        if metadata is None:
            return None
        if isinstance(metadata, FileFault):
            return ShardUnreadable(str(metadata))
        if isinstance(metadata, DamagedFile):
            return _unreadable(asset, path, metadata)
        try:
            footer = _footer(asset, path, metadata)
            self._check_n_shards(footer.n_shards, path)
        except ShardUnreadable as error:
            return error
        return footer

    def write(self, asset: Asset, table: pa.Table, footer: Footer) -> None:
        """Replace the shard's file atomically: a reader sees the old file or the new one, never a part."""
        path = self.path(asset.name, footer.shard)
        self._store_layout()
        self._files.sweep(parent(path))
        self._replace(path, table, footer.to_metadata(), list(asset.versioned))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Replace a table that is not an asset atomically; the last writer wins."""
        path = f"{self._files.root}/{table_path(name)}"
        self._files.sweep(parent(path), older_than=_DEAD_AFTER)
        self._replace(path, table, {}, table.column_names)

    def remove_leftovers(self, asset: Asset, shard: int) -> None:
        """Remove scratch files, files set aside and remembered footers: all of them can tell of removed users."""
        self.forget_footers(asset)
        self._files.remove_leftovers(parent(self.path(asset.name, shard)), (SCRATCH_SUFFIX, ASIDE_SUFFIX))

    def forget_footers(self, asset: Asset) -> None:
        """Remove the remembered footers of an asset, which the next plan reads again."""
        self._metadata.forget(self._folder(asset))

    def set_aside(self, asset: Asset, shard: int) -> str:
        """Rename a shard's file, so that the shard counts as missing; return the new path."""
        path = self.path(asset.name, shard)
        try:
            return self._files.set_aside(path)
        except FileNotFoundError:
            raise ShardUnreadable(f"{path} does not exist: there is nothing to rebuild.") from None

    def _replace(self, path: str, table: pa.Table, metadata: Mapping[str, str], encoded: list[str]) -> None:
        bare = table.replace_schema_metadata(None)
        options = {"compression": "zstd", "compression_level": 1, "use_dictionary": encoded}
        with self._files.replacing(path) as file:
            write_parquet(file, bare, metadata, **options)

    def _store_layout(self) -> None:
        """Store the number of shards with the first file."""
        if not self._has_layout:
            self.check_layout()
        if not self._has_layout:
            write_layout(self._files, Layout(self.n_shards))
            self._has_layout = True

    def _check_n_shards(self, n_shards: int, path: str) -> None:
        if n_shards != self.n_shards:
            raise WrongShardCount(
                f"{path} was written with N_SHARDS={n_shards}, but N_SHARDS is {self.n_shards} here."
                f" Set N_SHARDS={n_shards} (after make run: set -a; . .local/environment; set +a),"
                f" or move all rows to {self.n_shards} shards: python -m assets reshard {self.n_shards}"
            )


@contextmanager
def _unreadable_alone() -> Iterator[None]:
    """Raise a fault of a single file as ShardUnreadable; a fault of the whole file system stays what it is."""
    try:
        yield
    except FileFault as fault:
        if fault.is_of_one_file:
            raise ShardUnreadable(str(fault)) from fault
        raise


def _footer(asset: Asset, path: str, metadata: Mapping[bytes, bytes]) -> Footer:
    try:
        footer = Footer.from_metadata(metadata)
    except (KeyError, TypeError, ValueError):
        raise ShardUnreadable(f"{path} has no footer of the asset {asset.name}. {_fix(asset, path)}") from None
    if (footer.asset, footer.shard) != (asset.name, _shard_in(path)):
        raise ShardUnreadable(
            f"{path} is shard {footer.shard} of {footer.asset}, not of {asset.name}. {_fix(asset, path)}"
        )
    return footer


def _shard_in(path: str) -> int:
    return int(path.rsplit("shard=", 1)[1][:4])


def _unreadable(asset: Asset, path: str, error: Exception) -> ShardUnreadable:
    return ShardUnreadable(f"{path} of {asset.name} cannot be read ({error}). {_fix(asset, path)}")


def _fix(asset: Asset, path: str) -> str:
    return _rebuild_command(asset.name, _shard_in(path))


def _rebuild_command(asset: str, shard: int) -> str:
    return f"Rebuild it: python -m assets rebuild {asset} --shard {shard}"
