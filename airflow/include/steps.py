"""What the tasks of a step do; the DAGs only arrange it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from assets.asset import Asset, Users
from assets.definitions import GRAPH, task_embeddings
from assets.definitions.vectors import vectors_by_text
from assets.materialize import materialize
from assets.plan import Planner
from assets.records import Record, total
from assets.versions import hash_of, shard_of
from contexts.accounts import Look
from contexts.cluster import calibrate
from contexts.ledger import Entry
from include.resources import Doors

_CALIBRATION_TEXTS = 2000


def plan(doors: Doors, step: str, *, now: datetime, look: Look) -> dict[int, dict[str, str]]:
    """The shards that the step runs, each with the reason of every asset; empty when there is nothing to do.

    A shard whose inputs are about to change is left out: the asset that changes them wakes this step again.
    """
    members = GRAPH.steps[step]
    if task_embeddings.name in GRAPH.wakers(step):
        _calibrate(doors)
    planner = Planner(GRAPH, doors.shards, doors.resources, now)
    observed = _observed_shards(doors, step, now, look=look)
    reasons: dict[int, dict[str, str]] = {}
    for member in members:
        for planned in planner.plan(member, observed=observed):
            reasons.setdefault(planned.shard, {})[planned.asset] = planned.reason
    return {shard: why for shard, why in sorted(reasons.items()) if planner.waits_for(members, shard) is None}


def left_behind(doors: Doors, step: str, *, now: datetime) -> set[str]:
    """The assets of a step that must speak though they did not change, because whoever they wake is behind.

    After a failure or a change of model somebody down the line has work to do that no news will tell of. Steps that
    observe are woken by every fetch, so only the step right before them speaks for them.
    """
    planner = Planner(GRAPH, doors.shards, doors.resources, now)
    behind = {each.name for each in GRAPH if not each.is_source and next(planner.plan(each), None)}
    return {
        member.name
        for member in GRAPH.steps[step]
        if any(_speaks_for(member, GRAPH[name]) for name in GRAPH.descendants(member.name) & behind)
    }


def _speaks_for(asset: Asset, reader: Asset) -> bool:
    if asset.step == reader.step:
        return False
    is_nearest = asset.name in GRAPH.wakers(reader.step) and not asset.is_source
    return is_nearest or not any(member.observes for member in GRAPH.steps[reader.step])


def compute(doors: Doors, step: str, shard: int, *, now: datetime, look: Look) -> list[Record]:
    """Bring one shard of the step's assets up to date; nothing if an input fell behind since the plan was made."""
    members = GRAPH.steps[step]
    if Planner(GRAPH, doors.shards, doors.resources, now).waits_for(members, shard):
        return []
    return materialize(
        GRAPH,
        doors.shards,
        resources=doors.resources,
        now=now,
        users=_users(doors, step, shard, now, look=look),
        select=[member.name for member in members],
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
    footers = doors.shards.readable_footers(GRAPH[asset])
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
        changed=version != (doors.ledger.latest_version(asset, before=run_id) or hash_of({})),
        counts=sums,
    )


def _observed_shards(doors: Doors, step: str, now: datetime, *, look: Look) -> set[int]:
    """The shards in which a step that observes has something to look at.

    A full night also visits shards that hold users of old, so that those who were removed leave them.
    """
    if not _is_source(step):
        return _shards_of(doors, doors.accounts.observed_since_stored())
    due = _shards_of(doors, _due(doors, now, look))
    members = GRAPH.steps[step]
    stored = {each.shard for member in members for each in doors.shards.readable_footers(member) if each.n_users}
    return due if look is Look.LIKELY else due | stored


def _due(doors: Doors, now: datetime, look: Look, **spread: int) -> Users:
    until, sla = doors.settings.next_run(now), doors.settings.freshness_sla
    return doors.accounts.due(now, until, look=look, sla=sla, shard=spread.get("shard"), n_shards=doors.shards.n_shards)


def _shards_of(doors: Doors, users: Iterable[str]) -> set[int]:
    return {shard_of(user, doors.shards.n_shards) for user in users}


def _is_source(step: str) -> bool:
    return any(member.is_source for member in GRAPH.steps[step])


def _users(doors: Doors, step: str, shard: int, now: datetime, *, look: Look) -> Users:
    spread = {"shard": shard, "n_shards": doors.shards.n_shards}
    if _is_source(step):
        # A shard that was lost is made anew for all of its users, or the others would lose what is theirs.
        is_lost = any(doors.shards.footer(member, shard) is None for member in GRAPH.steps[step])
        return _due(doors, now, Look.EVERYBODY if is_lost else look, **spread)
    return doors.accounts.observed(**spread)


def _calibrate(doors: Doors) -> None:
    """Choose the model's similarity threshold from its first vectors; see contexts.cluster.calibrate."""
    model = doors.embedder.version
    n_texts = sum(footer.n_rows for footer in doors.shards.readable_footers(task_embeddings))
    if n_texts and doors.store.wants_calibration(model, n_texts):
        doors.store.keep_threshold(model, calibrate(_sample(doors, model)), n_texts)


def _sample(doors: Doors, model: str) -> np.ndarray:
    """Vectors of distinct texts by one model, in the order of the texts' hashes."""
    found: dict[str, np.ndarray] = {}
    for footer in doors.shards.readable_footers(task_embeddings):
        if len(found) < _CALIBRATION_TEXTS:
            with doors.shards.open(task_embeddings, footer.shard) as opened:
                if opened:
                    found |= vectors_by_text(opened.read(task_embeddings.schema.names), model)
    return np.array([found[key] for key in sorted(found)[:_CALIBRATION_TEXTS]], np.float32)


def to_plain(record: Record) -> dict[str, Any]:
    """A record as XCom can carry it."""
    return asdict(record)


def from_plain(value: Mapping[str, Any]) -> Record:
    """What `to_plain` made."""
    return Record(**value)
