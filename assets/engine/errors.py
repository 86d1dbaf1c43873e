"""Errors of the asset engine; every message names the thing, the value found and the fix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class ShardFailure:
    """One shard of one asset that was not materialized, with the error."""

    asset: str
    shard: int
    error: Exception


class ShardsFailed(AssetError):
    """Several shards of a run were not materialized; all others were. The message names each fault once."""

    def __init__(self, failures: Sequence[ShardFailure]) -> None:
        super().__init__("\n".join(failure_lines(failures)))
        self.failures = tuple(failures)


class OptionsError(AssetError):
    """The options of a run cannot be parsed, or name an asset, user or shard that does not exist."""


class SnapshotError(AssetError):
    """Files under a root cannot be read, or exceed the process's limit of open files."""


def raise_failures(failures: Sequence[ShardFailure]) -> None:
    """Raise the error of failures, if there are any."""
    if failures:
        raise error_of(failures)


def error_of(failures: Sequence[ShardFailure]) -> Exception:
    """Return the error of a single failure, or ShardsFailed for several."""
    return failures[0].error if len(failures) == 1 else ShardsFailed(failures)


def failure_lines(failures: Iterable[ShardFailure]) -> list[str]:
    """Return a line for each different error: the shards that met it, and its message with the remedy."""
    places: dict[str, list[str]] = {}
    for failure in failures:
        message = str(failure.error) or type(failure.error).__name__
        places.setdefault(message, []).append(f"{failure.asset}, shard {failure.shard}")
    return [
        f"{first}{f' and {len(others)} more' if others else ''}: {message}"
        for message, (first, *others) in places.items()
    ]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the nearest candidate, or a list of all candidates if none is near."""
    names = sorted(candidates)
    near = get_close_matches(name, names, n=1)
    return f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(names)}."
