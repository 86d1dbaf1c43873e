"""The record of one shard's run: what was done and what was carried over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from assets.plan import Reason


@dataclass(frozen=True)
class Record:
    """One shard of one asset after its run.

    `changed`: its data_version is another one now. `n_users_changed`: users computed anew, the rest was carried over.
    """

    asset: str
    shard: int
    reason: Reason
    changed: bool
    data_version: str
    n_rows: int
    n_users: int
    n_users_changed: int
    seconds: float
    counts: Mapping[str, int] = field(default_factory=dict)


def to_plain(record: Record) -> dict[str, Any]:
    """A record as JSON can carry it."""
    return asdict(record)


def from_plain(value: Mapping[str, Any]) -> Record:
    """What `to_plain` made."""
    return Record(**value)


def total(records: Iterable[Record]) -> dict[str, int]:
    """The sums over records of one asset: shards run, users computed and carried over, and the asset's own counts."""
    sums: Counter[str] = Counter(n_shards_run=0, n_shards_changed=0, n_users_changed=0)
    for record in records:
        sums.update(
            n_shards_run=1,
            n_shards_changed=int(record.changed),
            n_users_changed=record.n_users_changed,
            **record.counts,
        )
    return dict(sums)
