"""The footers that plans are made from, each read once."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from assets.engine.asset import Asset
from assets.engine.errors import ShardUnreadable
from assets.engine.parquet import Footer, Shards


class Footers:
    """The footers of a root as of their first reading: all plans made from them see the same versions."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._read: dict[tuple[str, int], Footer | ShardUnreadable | None] = {}

    def load(self, assets: Iterable[Asset], shards: Iterable[int]) -> None:
        """Read the footers of some assets and shards that were not read yet, those of one asset at the same time."""
        wanted = list(shards)
        for asset in assets:
            missing = [shard for shard in wanted if (asset.name, shard) not in self._read]
            for shard, footer in self._shards.read_footers(asset, missing).items():
                self._read[asset.name, shard] = footer

    def get(self, asset: Asset, shard: int) -> Footer | None:
        """Return a shard's footer, None if there is no file; raise ShardUnreadable if it cannot be read."""
        key = (asset.name, shard)
        if key not in self._read:
            self.load([asset], [shard])
        footer = self._read[key]
        if isinstance(footer, ShardUnreadable):
            raise footer
        return footer

    def readable(self, asset: Asset, shard: int) -> Footer | None:
        """Return a shard's footer, None also if it cannot be read: a run of the shard reports the error."""
        with suppress(ShardUnreadable):
            return self.get(asset, shard)
        return None

    def exists(self, asset: Asset, shard: int) -> bool:
        """Whether the shard has a file, readable or not."""
        with suppress(ShardUnreadable):
            return self.get(asset, shard) is not None
        return True

    def of_asset(self, asset: Asset) -> dict[int, Footer]:
        """Return all readable footers of an asset by shard."""
        shards = range(self._shards.n_shards)
        self.load([asset], shards)
        return {shard: footer for shard in shards if (footer := self.readable(asset, shard))}

    def has_unreadable(self, asset: Asset) -> bool:
        """Whether a file of an asset cannot be read."""
        shards = range(self._shards.n_shards)
        self.load([asset], shards)
        return any(isinstance(self._read[asset.name, shard], ShardUnreadable) for shard in shards)
