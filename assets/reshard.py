"""Move the rows of a root to another number of shards, without a fetch and without computing a row.

All new files are written beside the old ones first. From then on the layout at the root says that rows are being
moved: every other process refuses, and the same command ends a move that was broken off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from json import dumps, loads
from math import gcd

import pyarrow as pa

from assets.engine.asset import Asset
from assets.engine.errors import AssetError, WrongShardCount
from assets.engine.graph import Graph
from assets.engine.hashing import shard_of
from assets.engine.index import Index
from assets.engine.layout import Layout, write_layout
from assets.engine.parquet import Footer, Shard, Shards, shard_path
from assets.engine.tables import merge_users, take_users
from contexts.assembly.history import HISTORY, copy_history
from contexts.files import FileStore, parent

_STAGING = "resharding"
_MANIFEST = "files.json"


def reshard(graph: Graph, root: str, n_shards: int) -> Iterator[str]:
    """Move all rows to `n_shards` shards; no other process may write to the root meanwhile.

    Yields after every step that a crash may follow: a line to print, or an empty text. Running it again continues.
    """
    files, layout = FileStore(root), Shards(root, n_shards).layout()
    if layout is None:
        raise AssetError(f"{root} has no files yet: there is nothing to move. Set N_SHARDS={n_shards}")
    if layout.is_moving and layout.n_shards != n_shards:
        raise WrongShardCount(
            f"the rows are being moved to {layout.n_shards} shards, not to {n_shards}."
            f" Finish that first: python -m assets reshard {layout.n_shards}"
        )
    if not layout.is_moving and layout.n_shards != n_shards:
        yield from _stage(
            graph, files, Shards(root, layout.n_shards), Shards(f"{root.rstrip('/')}/{_STAGING}", n_shards)
        )
        write_layout(files, Layout(n_shards, is_moving=True))
        layout = Layout(n_shards, is_moving=True)
        yield "all new files are written; moving them into their places"
    if layout.is_moving:
        yield from _move(graph, files)
    write_layout(files, Layout(n_shards))
    yield ""
    files.remove_folder(f"{files.root}/{_STAGING}")
    yield f"{root} has {n_shards} shards. Set N_SHARDS={n_shards} wherever the pipeline and analysts use it"


def _stage(graph: Graph, files: FileStore, old: Shards, new: Shards) -> Iterator[str]:
    """Write all files of the new layout and their list below the staging folder."""
    files.remove_folder(f"{files.root}/{_STAGING}")
    _check_sources(graph, old)
    paths: list[str] = []
    for asset in graph:
        for shard in range(new.n_shards):
            if _stage_shard(graph, asset, shard, old, new):
                paths.append(shard_path(asset.name, f"{shard:04d}"))
                yield ""
        yield f"wrote {asset.name} for {new.n_shards} shards"
    paths += copy_history(old.root, new.root, lambda user: shard_of(user, new.n_shards))
    yield f"wrote {HISTORY}"
    with files.replacing(f"{files.root}/{_STAGING}/{_MANIFEST}") as file:
        file.write(dumps(paths).encode())
    yield ""


def _check_sources(graph: Graph, old: Shards) -> None:
    """Raise AssetError if a source lacks a file that the next run would fetch again: its users would be forgotten."""
    for shard in range(old.n_shards):
        has_file = {asset.name: old.footer(asset, shard) is not None for asset in graph}
        for asset in graph:
            if asset.is_source and any(has_file.values()) and not has_file[asset.name]:
                raise AssetError(
                    f"shard {shard} of {asset.name} has no file. Let a run fetch it before rows are moved:"
                    f" python -m assets materialize --shards {shard}"
                )


@dataclass(frozen=True)
class _Part:
    """The users of one old shard who belong to one new shard. is_current: the old shard was up to date."""

    table: pa.Table
    index: Index
    footer: Footer
    is_current: bool


def _stage_shard(graph: Graph, asset: Asset, shard: int, old: Shards, new: Shards) -> bool:
    """Write one shard of the new layout from the old shards that hold its users. Return False if there are none."""
    divisor = gcd(old.n_shards, new.n_shards)
    sources = range(shard % divisor, old.n_shards, divisor)
    parts = [part for source in sources if (part := _part(graph, asset, source, shard, old, new))]
    if not parts:
        return False
    is_current = all(part.is_current for part in parts) and not _lacks_users(graph, asset, shard, sources, old, new)
    table, index, recipe = _merged(asset, parts)
    if recipe is None:  # users of the older recipe stay stale by their input digests
        is_current, recipe = False, max(parts, key=lambda part: part.footer.materialized_at).footer.recipe
    inputs = _versions(graph, asset, shard, new) if is_current else {}
    footer = replace(
        parts[0].footer,
        shard=shard,
        n_shards=new.n_shards,
        recipe=recipe,
        inputs=inputs,
        materialized_at=max(part.footer.materialized_at for part in parts),
    )
    new.write(asset, table, footer.with_index(index))
    return True


def _part(graph: Graph, asset: Asset, source: int, shard: int, old: Shards, new: Shards) -> _Part | None:
    with old.open(asset, source) as opened:
        if opened is None:
            return None
        index = _index_of(opened, shard, new)
        table = take_users(opened.read_all(), opened.footer.index, index.users).combine_chunks()
        is_current = opened.footer.inputs == _versions(graph, asset, source, old)
        return _Part(table, index, opened.footer, is_current)


def _index_of(opened: Shard, shard: int, new: Shards) -> Index:
    index = opened.footer.index
    return index.without({user for user in index.users if shard_of(user, new.n_shards) != shard})


def _merged(asset: Asset, parts: Sequence[_Part]) -> tuple[pa.Table, Index, Mapping[str, str] | None]:
    """Merge the rows and the indices; the recipe is None if the parts have different ones."""
    filled = [part for part in parts if len(part.index)] or parts[:1]
    first = filled[0]
    for part in filled:
        if part.table.schema != first.table.schema or part.index.columns != first.index.columns:
            raise AssetError(
                f"shards {first.footer.shard} and {part.footer.shard} of {asset.name} have different columns, as two"
                f" versions of the code wrote them. Let a run rewrite them: python -m assets materialize"
            )
    table = merge_users(*((part.table, part.index, part.index) for part in filled))
    index = reduce(Index.merged, (part.index for part in filled))
    is_same = all(part.footer.recipe == first.footer.recipe for part in filled)
    return table, index, first.footer.recipe if is_same else None


def _lacks_users(graph: Graph, asset: Asset, shard: int, sources: Iterable[int], old: Shards, new: Shards) -> bool:
    """Whether an old shard has no file of a derived asset, but users of the new shard in the asset's first input."""
    if asset.is_source:
        return False
    missing = [source for source in sources if old.footer(asset, source) is None]
    first = graph[asset.inputs[0].asset]
    footers = [footer for source in missing if (footer := old.footer(first, source))]
    return any(shard_of(user, new.n_shards) == shard for footer in footers for user in footer.index.users)


def _versions(graph: Graph, asset: Asset, shard: int, shards: Shards) -> Mapping[str, str]:
    """Return the versions of a shard's inputs as the footers of a run that is up to date name them."""
    footers = {edge: shards.footer(graph[edge.asset], shard) for edge in asset.inputs}
    return {edge.asset: footer.edge_version(edge.columns) for edge, footer in footers.items() if footer}


def _move(graph: Graph, files: FileStore) -> Iterator[str]:
    """Remove the files of the old layout, and rename the new ones into their places."""
    with files.open(f"{files.root}/{_STAGING}/{_MANIFEST}") as file:
        if file is None:
            raise AssetError(f"{files.root}/{_STAGING}/{_MANIFEST} is missing: the move cannot be finished.")
        paths: list[str] = loads(file.read())
    new_files = {f"{files.root}/{path}" for path in paths}
    new_folders = {parent(path) for path in new_files}
    for folder in _shard_folders(graph, files):
        if folder not in new_folders:
            files.remove_folder(folder)
        else:  # scratch files and files set aside can hold rows of users of other shards now
            for path in set(files.children(folder)) - new_files:
                files.remove(path)
        yield ""
    for path in paths:
        if files.exists(f"{files.root}/{_STAGING}/{path}"):
            files.move(f"{files.root}/{_STAGING}/{path}", f"{files.root}/{path}")
            yield ""
    yield f"moved {len(paths)} files"


def _shard_folders(graph: Graph, files: FileStore) -> Iterator[str]:
    """Yield the folders of all shards of assets and of the history."""
    folders = [f"{files.root}/{name}" for name in graph.assets]
    folders += files.children(f"{files.root}/{HISTORY}")
    for folder in folders:
        for child in files.children(folder):
            if child.rsplit("/", 1)[-1].startswith("shard="):
                yield child
