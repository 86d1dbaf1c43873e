"""The result of running one shard: what was computed and what was carried over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from assets.engine.plan import Reason


@dataclass(frozen=True)
class ShardResult:
    """One shard of one asset after its run.

    changed: whether its data_version is different from before. n_users_computed: the number of users computed; all
    others were carried over.
    """

    asset: str
    shard: int
    reason: Reason
    changed: bool
    data_version: str
    n_rows: int
    n_users: int
    n_users_computed: int
    seconds: float
    counts: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data for JSON."""
        return {**vars(self), "counts": dict(self.counts)}  # `asdict` would take a Counter apart

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ShardResult:
        """Read a result written by `to_json`."""
        return cls(**value)


def total(results: Iterable[ShardResult]) -> dict[str, int]:
    """Sum the results of one asset: shards run and changed, users computed, and the asset's own counts."""
    sums: Counter[str] = Counter(n_shards_run=0, n_shards_changed=0, n_users_computed=0)
    for result in results:
        sums.update(
            n_shards_run=1,
            n_shards_changed=int(result.changed),
            n_users_computed=result.n_users_computed,
            **result.counts,
        )
    return dict(sums)
