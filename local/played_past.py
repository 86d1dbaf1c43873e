"""The past of the sample users, played after the nights: themes of tips, contexts, nights, calls of the LLM.

It is played after the nights, because a night would otherwise compute something because of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from assets.definitions import GRAPH
from assets.engine.asset import Asset
from assets.runtime import Runtime
from assets.signal_rows import CLUSTER_COLUMNS, REACTION_COLUMNS, TASK_COLUMNS, signals_by_user
from assets.step_runs import STEP_RUNS, step_run_table
from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.history import ContextVersion
from contexts.postgres.run_log import StepRun
from contexts.todoist.credentials import Credentials
from local.played_requests import N_DAYS, PLAYED_POLICY
from tips.candidates import KINDS

PLAYED_MODEL = "played"
"""The name of the model in played calls of the LLM."""

PLAYED_SCOPE = "played"
"""The scope of the runs of played nights: estimates prefer runs of a real scope."""

LOST_USER = "user-disconnected"
"""A user whose token Todoist no longer accepts."""

_NIGHT = timedelta(hours=2)
_SECONDS_PER_UNIT = {
    "reactions_read": 0.001,
    "todoist_calls": 0.2,
    "texts_embedded": 0.06,
    "users_clustered": 0.15,
    "contexts_assembled": 0.01,
    "rows_written": 0.005,
    "tips_written": 1.0,
}
_NIGHT_OF_TIPS = timedelta(minutes=4)
"""Time from the beginning of a night to its tips: the step that writes them is the fifth."""

_SET_DAYS = 3
"""Days for which a played set of candidates is used."""

_MAX_HISTORIES = 100
"""Users whose contexts are played: they are assembled again for each night."""

_UNUSED_SHARE = 0.15
"""Share of the played sets from which no tip is chosen."""

_SET_THEME = "UPDATE decisions SET theme = %s WHERE decision_id = %s"
_SET_CONTEXT = """
    UPDATE decisions SET context_hash = %s
    WHERE user_id = %s AND decided_at >= %s AND decided_at < %s AND policy_version = %s
"""
_SET_CANDIDATES = """
    UPDATE decisions SET candidate_set_id = %s, origin = 'ahead', llm = 'skipped'
    WHERE user_id = %s AND decided_at >= %s AND decided_at < %s AND policy_version = %s
"""
# No account has this number of a connection, so the service and the pipeline use no played set.
_INSERT_SET = """
    INSERT INTO candidate_sets (candidate_set_id, user_id, context_hash, author, origin, made_at, expires_at,
                                renew_at, tips, subject_hashes, kinds, themes, features, connection_number)
    VALUES (%s, %s, '', 'llm', 'ahead', %s, %s, %s, '{}', '{}', %s, '{}', '', -1)
"""
_INSERT_CALL = """
    INSERT INTO llm_calls (called_at, user_id, candidate_set_id, model, outcome, n_requests, input_tokens,
                           cached_tokens, output_tokens, cost_usd, seconds, place)
    VALUES (%s, %s, %s, %s, 'answered', 1, %s, %s, %s, %s, %s, 'ahead')
"""
_DISCONNECT = "UPDATE todoist_accounts SET connected = FALSE, observed_at = %s WHERE user_id = %s"
_AGE_USER = "UPDATE users SET created_at = %s WHERE user_id = %s"


@dataclass(frozen=True)
class _PlayedSet:
    """A set of candidates that the LLM wrote in a night. is_used: whether tips were chosen from it."""

    user: str
    night: datetime
    n_input_tokens: int
    n_output_tokens: int
    seconds: float
    is_used: bool

    @property
    def set_id(self) -> UUID:
        """The same id for the same user and night."""
        return uuid5(NAMESPACE_OID, f"set of {self.user} {self.night.isoformat()}")

    @property
    def made_at(self) -> datetime:
        """The time of the call of the LLM."""
        return self.night + _NIGHT_OF_TIPS

    @property
    def cost_usd(self) -> float:
        """The cost at the prices of a small model."""
        return round(self.n_input_tokens * 0.25e-6 + self.n_output_tokens * 2e-6, 6)


def play_past(runtime: Runtime, connection: psycopg.Connection[Any], user_ids: Sequence[str], now: datetime) -> None:
    """Play two weeks of the users whose requests were played, up to the first night of this run."""
    tables = {name: _table(runtime, GRAPH[name]) for name in ("todoist_tasks", "task_clusters", "tip_reactions")}
    histories = {name: _of_users(table, user_ids[:_MAX_HISTORIES]) for name, table in tables.items()}
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    nights = [midnight + _NIGHT - timedelta(days=day) for day in range(N_DAYS, 0, -1)]
    versions = list(_versions(histories, nights, Budget(runtime.settings.context_token_budget)))
    runtime.history.append(versions)
    sets = [each for user in user_ids for each in _drawn_sets(user, nights)]
    for run in _runs(tables["todoist_tasks"], versions, sets, nights, len(user_ids)):
        runtime.run_log.start_step_run(run)
        runtime.run_log.finish_step_run(run)
    with connection.transaction(), connection.cursor() as cursor:
        _play_themes(cursor, tables["task_clusters"])
        for version in versions:
            day = (version.assembled_at, version.assembled_at + timedelta(days=N_DAYS))
            cursor.execute(_SET_CONTEXT, (version.context_hash, version.user_id, *day, PLAYED_POLICY))
        for each in sets:
            _play_set(cursor, each)
    _play_lost_user(runtime, connection, nights)
    runtime.run_log.add_request_days(now)
    runtime.shards.write_table(STEP_RUNS, step_run_table(runtime.run_log.step_runs_since(nights[0])))


def _play_lost_user(runtime: Runtime, connection: psycopg.Connection[Any], nights: Sequence[datetime]) -> None:
    runtime.accounts.add(LOST_USER, email="lost@example.org", timezone="UTC", credentials=Credentials("revoked"))
    connection.execute(_DISCONNECT, (nights[4], LOST_USER))
    connection.execute(_AGE_USER, (nights[0], LOST_USER))


def _table(runtime: Runtime, asset: Asset) -> pa.Table:
    parts = [asset.schema.empty_table()]
    for shard in range(runtime.settings.n_shards):
        with runtime.shards.open(asset, shard) as opened:
            if opened is not None:
                parts.append(opened.read(asset.schema.names))
    return pa.concat_tables(parts)


def _versions(tables: Mapping[str, pa.Table], nights: Sequence[datetime], budget: Budget) -> Iterator[ContextVersion]:
    """Yield the contexts of each night, from the tasks that had been added and the reactions that had come by then.

    A night without a change yields none.
    """
    last: dict[str, str] = {}
    for night in nights:
        tasks = _until(tables["todoist_tasks"], "added_at", night)
        clusters = tables["task_clusters"]
        clusters = clusters.filter(pc.is_in(clusters["task_id"], tasks["task_id"].combine_chunks()))
        reactions = _until(tables["tip_reactions"], "reacted_at", night)
        columns = ((tasks, TASK_COLUMNS), (clusters, CLUSTER_COLUMNS), (reactions, REACTION_COLUMNS))
        signals = signals_by_user(*(table.select(names) for table, names in columns))
        for user, each in signals.items():
            assembled = assemble(each.signals, night, budget)
            if last.get(user) != assembled.context_hash:
                last[user] = assembled.context_hash
                yield ContextVersion(
                    user, night, night, assembled.context_hash, assembled.context_json, author="played"
                )


def _of_users(table: pa.Table, users: Sequence[str]) -> pa.Table:
    return table.filter(pc.is_in(table["user_id"], pa.array(users)))


def _until(table: pa.Table, column: str, instant: datetime) -> pa.Table:
    return table.filter(pc.less_equal(table[column], pa.scalar(instant, table[column].type)))


def _runs(
    tasks: pa.Table,
    versions: Sequence[ContextVersion],
    sets: Sequence[_PlayedSet],
    nights: Sequence[datetime],
    n_users: int,
) -> Iterator[StepRun]:
    """Yield the runs of the steps of each night: the first computes everything, the others what changed."""
    earlier = tasks.slice(0, 0)
    for night in nights:
        known = _until(tasks, "added_at", night)
        added = known.filter(pc.invert(pc.is_in(known["task_id"], earlier["task_id"].combine_chunks())))
        n_changed = len(pc.unique(added["user_id"]))
        n_written = sum(version.assembled_at == night for version in versions)
        done = {
            "reactions_read": 0,
            "todoist_calls": n_users,
            "texts_embedded": len(added),
            "users_clustered": n_changed,
            "contexts_assembled": n_written,
            "rows_written": n_written,
            "tips_written": sum(each.night == night for each in sets),
        }
        totals = dict.fromkeys(done, n_users) | {"reactions_read": 0, "texts_embedded": len(known)}
        yield from _night(night, done, totals, n_users)
        earlier = known


def _night(night: datetime, done: Mapping[str, int], totals: Mapping[str, int], n_users: int) -> Iterator[StepRun]:
    for number, (step, members) in enumerate(GRAPH.steps.items()):
        works = [asset.work.name for asset in members if asset.work is not None]
        if not any(done.get(work) for work in works):
            continue
        seconds = {work: round(done[work] * _SECONDS_PER_UNIT[work], 3) for work in works}
        yield StepRun(
            run_id=f"played {night:%Y-%m-%d}",
            step=step,
            started_at=night + timedelta(minutes=number),
            finished_at=night + timedelta(minutes=number, seconds=sum(seconds.values())),
            n_users=n_users,
            done={work: done[work] for work in works},
            saved={work: totals[work] - done[work] for work in works},
            seconds=seconds,
            scope=PLAYED_SCOPE,
        )


def _play_themes(cursor: psycopg.Cursor[Any], clusters: pa.Table) -> None:
    """Let each played tip about a theme be about one of the user's themes."""
    themes: dict[str, list[str]] = {}
    for row in clusters.select(["user_id", "cluster_id"]).to_pylist():
        if row["cluster_id"] is not None and row["cluster_id"] not in themes.setdefault(row["user_id"], []):
            themes[row["user_id"]].append(row["cluster_id"])
    decisions = cursor.execute(
        "SELECT decision_id, user_id FROM decisions WHERE policy_version = %s AND tip_kind = 'theme'"
        " ORDER BY user_id, decided_at",
        (PLAYED_POLICY,),
    ).fetchall()
    for number, (decision_id, user) in enumerate(decisions):
        if own := themes.get(user):
            cursor.execute(_SET_THEME, (sorted(own)[number % len(own)], decision_id))


def _drawn_sets(user: str, nights: Sequence[datetime]) -> Iterator[_PlayedSet]:
    """Yield the sets that the LLM wrote ahead for a user: one every few nights, from one of the first nights on."""
    random = Random(f"sets of {user}")
    for night in nights[random.randrange(_SET_DAYS) :: _SET_DAYS]:
        yield _PlayedSet(
            user,
            night,
            n_input_tokens=random.randrange(1800, 3200),
            n_output_tokens=random.randrange(300, 700),
            seconds=random.uniform(1.5, 6),
            is_used=random.random() >= _UNUSED_SHARE,
        )


def _play_set(cursor: psycopg.Cursor[Any], played: _PlayedSet) -> None:
    """Store a set and the call that wrote it, and let the tips of the next days be chosen from it."""
    until, set_id = played.made_at + timedelta(days=_SET_DAYS), played.set_id
    cursor.execute(_INSERT_SET, (set_id, played.user, played.made_at, until, until, list(KINDS)))
    usage = (
        played.n_input_tokens,
        played.n_input_tokens // 3,
        played.n_output_tokens,
        played.cost_usd,
        played.seconds,
    )
    cursor.execute(_INSERT_CALL, (played.made_at, played.user, set_id, PLAYED_MODEL, *usage))
    if played.is_used:
        cursor.execute(_SET_CANDIDATES, (set_id, played.user, played.made_at, until, PLAYED_POLICY))
