"""Errors of the asset engine; every message names the thing, the value found and the fix."""

from collections.abc import Iterable
from difflib import get_close_matches


class AssetError(Exception):
    """Base class of all errors about assets."""


class GraphError(AssetError):
    """The graph cannot be built from the signatures; raised at import."""


class SchemaError(AssetError):
    """A table does not have the columns that its asset declares."""


class CheckFailed(AssetError):
    """An asset check refused a shard: the shard's file stays as it was and nothing is published."""


class ShardUnreadable(AssetError):
    """A shard's file is truncated, belongs to another asset, or has another schema."""


class WrongShardCount(ShardUnreadable):
    """A shard's file was written with a different number of shards."""


class OptionsError(AssetError):
    """The options of a run cannot be parsed, or name an asset, user or shard that does not exist."""


class SnapshotError(AssetError):
    """Files under a root cannot be read, or exceed the process's limit of open files."""


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the nearest candidate, or a list of all candidates if none is near."""
    names = sorted(candidates)
    near = get_close_matches(name, names, n=1)
    return f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(names)}."
