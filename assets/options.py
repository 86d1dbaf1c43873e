"""The options of a run: the part of the pipeline to run, and the users to fetch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from assets.engine.errors import OptionsError
from contexts.settings import MAX_SHARDS
from contexts.todoist.accounts import FetchScope


@dataclass(frozen=True)
class RunOptions:
    """The part of the pipeline to run.

    scope: the users to fetch. select: expressions for assets, empty for all. only_users, only_shards: restrict the
    run to these, empty for no restriction. force: compute up-to-date users, too.
    """

    scope: FetchScope = FetchScope.ALL
    select: tuple[str, ...] = ()
    only_users: tuple[str, ...] = ()
    only_shards: tuple[int, ...] = ()
    force: bool = False

    @classmethod
    def parse(
        cls, scope: FetchScope, *, select: str = "", user: str = "", shards: str = "", force: bool = False
    ) -> RunOptions:
        """Parse options as people type them: comma-separated names, shards as `0-3,7`; OptionsError if malformed."""
        return cls(scope, _names(select), _names(user), tuple(_numbers(shards)), force)

    @property
    def is_restricted(self) -> bool:
        """Whether the options leave out assets, users or shards."""
        return bool(self.select or self.only_users or self.only_shards)


EVERYTHING = RunOptions()
"""The options of a run of the whole pipeline for everybody."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _numbers(text: str) -> Iterator[int]:
    for part in _names(text):
        low, _, high = part.partition("-")
        if not _is_number(low) or not _is_number(high or low) or not int(low) <= int(high or low) < MAX_SHARDS:
            raise OptionsError(f"'{part}' is neither a shard nor a range of shards. Write them as 0-3,7")
        yield from range(int(low), int(high or low) + 1)
