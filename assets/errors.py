"""What can go wrong in the asset engine; every message names the thing, what was found and the mend."""

from collections.abc import Iterable
from difflib import get_close_matches


class AssetError(Exception):
    """Something about an asset is wrong."""


class GraphError(AssetError):
    """The graph cannot be built from the signatures; raised at import."""


class SchemaError(AssetError):
    """A table does not have the columns that its asset declares."""


class CheckFailed(AssetError):
    """An asset check refused a shard: the shard's file stays as it was and nothing is published."""


class ShardUnreadable(AssetError):
    """A shard's file is cut short, foreign, or of another schema."""


class OrderError(AssetError):
    """What somebody asked for cannot be read, or names something that is not there."""


class SnapshotError(AssetError):
    """Files under a root cannot be read, or are more than this process may open."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the nearest known name, or the list of all when none is near."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    return f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(names)}."
