"""What the tasks of a step do; the DAGs only arrange it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.asset import Users
from assets.definitions import GRAPH, task_embeddings
from assets.materialize import materialize
from assets.plan import Planner
from assets.records import Record, total
from assets.versions import hash_of, shard_of
from contexts.cluster import calibrate
from contexts.ledger import Entry
from include.resources import Doors

_CALIBRATION_TEXTS = 2000


def plan(doors: Doors, step: str, *, now: datetime, full: bool) -> dict[int, dict[str, str]]:
    """The shards that the step runs, each with the reason of every asset; empty when there is nothing to do.

    A shard whose inputs are about to change is left out: the asset that changes them wakes this step again.
    """
    members = GRAPH.steps[step]
    if task_embeddings.name in GRAPH.wakers(step):
        _calibrate(doors)
    planner = Planner(GRAPH, doors.shards, doors.resources, now)
    observed = _observed_shards(doors, step, now, full=full)
    reasons: dict[int, dict[str, str]] = {}
    for member in members:
        for planned in planner.plan(member, observed=observed):
            reasons.setdefault(planned.shard, {})[planned.asset] = planned.reason
    return {shard: why for shard, why in sorted(reasons.items()) if planner.waits_for(members, shard) is None}


def compute(doors: Doors, step: str, shard: int, *, now: datetime, full: bool) -> list[Record]:
    """Bring one shard of the step's assets up to date."""
    return materialize(
        GRAPH,
        doors.shards,
        resources=doors.resources,
        now=now,
        users=_users(doors, step, shard, now, full=full),
        select=[member.name for member in GRAPH.steps[step]],
        only_shards=[shard],
    )


def collect(doors: Doors, step: str, run_id: str, started_at: datetime, records: Iterable[Record]) -> list[Entry]:
    """Write the ledger: an entry for every asset of the step, also when none of its shards ran.

    An asset counts as changed when it is not what the ledger said last, so that a change by a run that failed
    later is told by the next one.
    """
    by_asset: dict[str, list[Record]] = {member.name: [] for member in GRAPH.steps[step]}
    for record in records:
        by_asset[record.asset].append(record)
    entries = [_entry(doors, step, asset, run_id, started_at, each) for asset, each in by_asset.items()]
    for entry in entries:
        doors.ledger.write(entry)
    return entries


def _entry(
    doors: Doors, step: str, asset: str, run_id: str, started_at: datetime, records: Iterable[Record]
) -> Entry:
    footers = doors.shards.footers(GRAPH[asset])
    version = hash_of({str(footer.shard): footer.data_version for footer in footers})
    sums = total(records)
    return Entry(
        run_id=run_id,
        step=step,
        asset=asset,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        n_shards=len(footers),
        n_shards_run=sums.pop("n_shards_run"),
        n_users=sum(footer.n_users for footer in footers),
        n_users_changed=sums.pop("n_users_changed"),
        n_rows=sum(footer.n_rows for footer in footers),
        data_version=version,
        changed=version != doors.ledger.latest_version(asset),
        counts=sums,
    )


def _observed_shards(doors: Doors, step: str, now: datetime, *, full: bool) -> set[int]:
    """The shards in which a step that observes has something to look at.

    A full night also visits shards that hold users of old, so that those who were removed leave them.
    """
    if not _is_source(step):
        return _shards_of(doors, doors.accounts.observed_since_stored())
    due = _shards_of(doors, doors.accounts.due(now, doors.settings.next_run(now), full=full))
    members = GRAPH.steps[step]
    stored = {each.shard for member in members for each in doors.shards.footers(member) if each.n_users}
    return due | stored if full else due


def _shards_of(doors: Doors, users: Iterable[str]) -> set[int]:
    return {shard_of(user, doors.shards.n_shards) for user in users}


def _is_source(step: str) -> bool:
    return any(member.is_source for member in GRAPH.steps[step])


def _users(doors: Doors, step: str, shard: int, now: datetime, *, full: bool) -> Users:
    spread = {"shard": shard, "n_shards": doors.shards.n_shards}
    if _is_source(step):
        return doors.accounts.due(now, doors.settings.next_run(now), full=full, **spread)
    return doors.accounts.observed(**spread)


def _calibrate(doors: Doors) -> None:
    """Choose the model's similarity threshold from its first vectors; see contexts.cluster.calibrate."""
    model = doors.embedder.version
    n_texts = sum(footer.n_rows for footer in doors.shards.footers(task_embeddings))
    if n_texts and doors.store.wants_calibration(model, n_texts):
        doors.store.keep_threshold(model, calibrate(_sample(doors)), n_texts)


def _sample(doors: Doors) -> np.ndarray:
    """Vectors of distinct texts, in the order of the texts' hashes."""
    found: dict[str, np.ndarray] = {}
    for shard in range(doors.shards.n_shards):
        with doors.shards.open(task_embeddings, shard) as opened:
            if opened and len(found) < _CALIBRATION_TEXTS:
                found |= _vectors(opened.read(["text_hash", "embedding"]))
    return np.array([found[key] for key in sorted(found)[:_CALIBRATION_TEXTS]], np.float32)


def _vectors(table: pa.Table) -> dict[str, np.ndarray]:
    rows = pc.list_flatten(table["embedding"]).to_numpy().reshape(len(table), -1)
    return dict(zip(table["text_hash"].to_pylist(), rows, strict=True))


def to_plain(record: Record) -> dict[str, Any]:
    """A record as XCom can carry it."""
    return asdict(record)


def from_plain(value: Mapping[str, Any]) -> Record:
    """What `to_plain` made."""
    return Record(**value)
