"""Take users out of every shard at once, rows, vectors and footers, without waiting for the next night."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from assets.asset import Asset
from assets.graph import Graph
from assets.materialize import Lock, unlocked
from assets.parquet import Shards
from assets.rows import take
from assets.versions import shard_of


def forget(graph: Graph, shards: Shards, users: Collection[str], lock: Lock = unlocked) -> int:
    """Rewrite the shards of `users` without them, and remove what was set aside there; gives how many rows went.

    A run that is under way can write them back; the next look at the source takes them out again. lock: held for each
    shard while it is rewritten, or the rows of a run beside it would be lost.
    """
    n_gone = 0
    for shard in sorted({shard_of(user, shards.n_shards) for user in users}):
        for asset in graph:
            with lock(asset.name, shard):
                n_gone += _take_out(asset, shards, shard, users)
    return n_gone


def _take_out(asset: Asset, shards: Shards, shard: int, users: Collection[str]) -> int:
    shards.remove_leftovers(asset, shard)
    with shards.open(asset, shard) as opened:
        if opened is None or not set(users).intersection(opened.footer.index.users):
            return 0
        before, table = opened.footer, opened.read_all()
    kept = before.index.without(users)
    # Without the inputs' versions the next run looks user by user: the same rows may come back.
    footer = replace(before.holding(kept), inputs={})
    shards.write(asset, take(table, before.index, kept.users), footer)
    return before.n_rows - footer.n_rows
