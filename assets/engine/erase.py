"""Erase users from every shard at once, without waiting for the next run: rows, vectors and footers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import pyarrow as pa

from assets.engine.asset import Asset
from assets.engine.errors import ShardFailure, ShardsFailed, ShardUnreadable
from assets.engine.graph import Graph
from assets.engine.hashing import shard_of
from assets.engine.materialize import Lock, unlocked
from assets.engine.parquet import Shards
from assets.engine.tables import take_users


def erase(
    graph: Graph,
    shards: Shards,
    users: Collection[str],
    lock: Lock = unlocked,
    on_rows: Callable[[pa.Table], None] = lambda _: None,
) -> int:
    """Rewrite the shards of `users` without them and return the number of rows erased.

    Files that were set aside in these shards are removed. lock: held for each shard while it is rewritten, so that a
    concurrent run loses no rows. The assets are rewritten in the graph's order, so no run can write the users back: a
    run under way holds the lock of what it writes, and a run that begins later reads inputs without them. on_rows:
    receives the rows to erase from a file, while its lock is held. Unreadable files are passed over, and raise
    ShardsFailed at the end.
    """
    n_erased, failures = 0, list[ShardFailure]()
    for shard in sorted({shard_of(user, shards.n_shards) for user in users}):
        for asset in graph:
            with lock(asset.name, shard):
                shards.check_layout()
                try:
                    n_erased += _erase_from(asset, shards, shard, users, on_rows)
                except ShardUnreadable as error:
                    failures.append(ShardFailure(asset.name, shard, error))
    if failures:
        raise ShardsFailed(failures)
    return n_erased


def _erase_from(
    asset: Asset, shards: Shards, shard: int, users: Collection[str], on_rows: Callable[[pa.Table], None]
) -> int:
    shards.remove_leftovers(asset, shard)
    with shards.open(asset, shard) as opened:
        if opened is None or not set(users).intersection(opened.footer.index.users):
            return 0
        before, table = opened.footer, opened.read_all()
    on_rows(take_users(table, before.index, users))
    kept = before.index.without(users)
    # Without the inputs' versions the next run compares user by user: the same rows may come back.
    footer = replace(before.with_index(kept), inputs={})
    shards.write(asset, take_users(table, before.index, kept.users), footer)
    shards.forget_footers(asset)  # a plan that was made meanwhile has remembered the old footer
    return before.n_rows - footer.n_rows
