"""Groups of stale shards: the unit of work of one task, while the shard stays the unit of failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from time import monotonic
from typing import Any

from assets.engine.errors import ShardFailure
from assets.engine.plan import Plan, PlannedShard
from assets.engine.results import ShardResult
from assets.estimate import AssetEstimate
from contexts.text import counted
from contexts.todoist.refusals import RefusalVerdict

_SHARD_COST = 10
"""The cost of opening and replacing a shard's file, in units of work: users or texts."""

_GROUP_SECONDS = 5.0
"""Seconds of work that are worth a group of its own: a group costs Airflow two to three seconds."""

_SHOWN_SHARDS = 8


@dataclass(frozen=True)
class Group:
    """A group of shards. shards: the names of the assets to run for each shard, in order."""

    shards: Mapping[int, tuple[str, ...]]

    def __str__(self) -> str:
        """Return the number of shards, and the first of them."""
        first = ", ".join(str(shard) for shard in list(self.shards)[:_SHOWN_SHARDS])
        return f"{counted(len(self.shards), 'shard')} ({first}{', ...' if len(self.shards) > _SHOWN_SHARDS else ''})"

    def to_json(self) -> list[list[Any]]:
        """Return the group as plain data for JSON, whose objects have no numbers for keys."""
        return [[shard, *names] for shard, names in self.shards.items()]

    @classmethod
    def from_json(cls, value: Iterable[Any]) -> Group:
        """Read a group written by `to_json`."""
        return cls({shard: tuple(names) for shard, *names in value})


@dataclass(frozen=True)
class GroupOutcome:
    """The outcome of a group so far. failed: the shards of which an asset failed."""

    results: tuple[ShardResult, ...] = ()
    failed: frozenset[int] = frozenset()

    @property
    def is_outage(self) -> bool:
        """Whether Todoist refused the tokens of most accounts."""
        return RefusalVerdict.of(result.counts for result in self.results).is_outage

    def left(self, group: Group) -> Group:
        """Return the part of the group that has no result yet, which a retry runs.

        An asset that turned out to be up to date has no result, so it is in this part; the retry finds it up to date.
        """
        done = {(result.asset, result.shard) for result in self.results}
        shards = {
            shard: tuple(name for name in names if (name, shard) not in done) for shard, names in group.shards.items()
        }
        return Group({shard: names for shard, names in shards.items() if names})

    def to_json(self, planned_at: str) -> dict[str, Any]:
        """Return the outcome as plain data for JSON. planned_at: the instant of the plan that has the group."""
        results = [result.to_json() for result in self.results]
        return {"planned_at": planned_at, "results": results, "failed": sorted(self.failed)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None, planned_at: str) -> GroupOutcome | None:
        """Read an outcome written by `to_json`; None if there is none, or if it belongs to a different plan.

        A run that is cleared is planned again, and its groups can have different shards.
        """
        if value is None or value["planned_at"] != planned_at:
            return None
        results = tuple(ShardResult.from_json(result) for result in value["results"])
        return cls(results, frozenset(value["failed"]))


def run_groups(
    materialize: Callable[[Mapping[int, tuple[str, ...]], list[ShardFailure]], Iterable[ShardResult]],
    groups: Iterable[Group],
    before: GroupOutcome = GroupOutcome(),
    keep: Callable[[GroupOutcome], None] | None = None,
    *,
    keep_every_s: float = 5.0,
    show: Callable[[ShardResult], None] = lambda _: None,
) -> tuple[GroupOutcome, list[ShardFailure]]:
    """Materialize some groups; return the outcome, and the failures.

    materialize: takes the names of assets by shard, and a list for the failures; yields the result of each shard.
    before: the outcome of an earlier try. Its results are part of the returned outcome, and are not computed again.
    keep: receives the outcome so far every `keep_every_s` seconds; if the worker is killed, the next try goes on from
    it.
    show: receives the result of each shard.
    """
    results, failures = list(before.results), list[ShardFailure]()
    kept_at = monotonic()
    for group in groups:
        for result in materialize(before.left(group).shards, failures):
            show(result)
            results.append(result)
            if keep and monotonic() - kept_at >= keep_every_s:
                keep(GroupOutcome(tuple(results)))
                kept_at = monotonic()
    return GroupOutcome(tuple(results), frozenset(failure.shard for failure in failures)), failures


def worthwhile_groups(estimates: Iterable[AssetEstimate], n_slots: int) -> int:
    """Return the number of groups that a plan is worth: one for each five seconds of work, from 1 to `n_slots`.

    It is `n_slots` if no past run tells the seconds of some of the work.
    """
    seconds = [each.seconds for each in estimates if each.n_shards]
    known = [each for each in seconds if each is not None]
    return n_slots if len(known) < len(seconds) else max(1, min(n_slots, ceil(sum(known) / _GROUP_SECONDS)))


@dataclass
class _Load:
    shards: list[int] = field(default_factory=list)
    cost: int = 0


def group_shards(plan: Plan, n_groups: int) -> list[Group]:
    """Divide the shards of a plan into at most `n_groups` groups of about equal work.

    Each shard, the most expensive one first, is given to the group with the least work so far. The last group then
    ends at most a third later than with the best division. Source: Graham, "Bounds on multiprocessing timing
    anomalies", 1969 (longest processing time first).
    """
    by_shard = plan.by_shard
    costs = dict.fromkeys(by_shard, 0)
    for entry in plan:
        costs[entry.shard] += _cost(entry)
    loads = [_Load() for _ in range(min(n_groups, len(by_shard)))]
    for shard in sorted(by_shard, key=lambda shard: (-costs[shard], shard)):
        least = min(loads, key=lambda load: load.cost)
        least.shards.append(shard)
        least.cost += costs[shard]
    return [Group({shard: tuple(by_shard[shard]) for shard in sorted(load.shards)}) for load in loads]


def _cost(entry: PlannedShard) -> int:
    """Estimate the work of an asset's shard: its users, the rows that they have, and the file itself."""
    return _SHARD_COST + len(entry.workload.users) + (entry.workload.n_rows or 0)
