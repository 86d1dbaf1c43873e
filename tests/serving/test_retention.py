"""Old rows: deleted in the background, and never while something needs them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import chain
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest
from service import ServiceHarness
from world import NOON

from contexts.assembly.explain import trace
from contexts.assembly.store import ContextStore
from contexts.postgres.sql import queries
from contexts.settings import SettingsError, read_settings
from serving.metrics import Metrics
from serving.retention import Periods, Retention
from serving.settings import ServingSettings

PERIODS = Periods(decision_days=120, llm_call_days=90, reaction_days=90)


def days_ago(n_days: float) -> datetime:
    return NOON - timedelta(days=n_days)


@pytest.fixture(autouse=True)
def ann(harness: ServiceHarness) -> None:
    harness.connection.execute("INSERT INTO users (user_id, email, timezone) VALUES ('ann', 'a@example.org', 'UTC')")


def add_decision(harness: ServiceHarness, age_days: float, candidate_set_id: UUID | None = None) -> UUID:
    decision_id = uuid4()
    harness.connection.execute(
        "INSERT INTO decisions (decision_id, user_id, decided_at, tip_kind, candidate_set_id, chosen, propensities)"
        " VALUES (%s, 'ann', %s, 'focus', %s, 0, '{1}')",
        [decision_id, days_ago(age_days), candidate_set_id],
    )
    return decision_id


def add_reaction(harness: ServiceHarness, decision_id: UUID, age_days: float) -> None:
    harness.connection.execute("INSERT INTO reactions VALUES (%s, 'done', %s, 1)", [decision_id, days_ago(age_days)])


def add_set(harness: ServiceHarness, age_days: float, author: str = "llm") -> UUID:
    set_id, at = uuid4(), days_ago(age_days)
    harness.connection.execute(
        "INSERT INTO candidate_sets (candidate_set_id, user_id, context_hash, author, made_at, expires_at, renew_at,"
        " tips, subject_hashes, kinds, themes, features)"
        " VALUES (%s, 'ann', 'h', %s, %s, %s, %s, %s, '{s}', '{focus}', ARRAY[''], '')",
        [set_id, author, at, at, at, ['{"title": "Begin"}']],
    )
    return set_id


def add_dormant(harness: ServiceHarness, n: int, age_days: float, apart: str = "1 second") -> None:
    """Add users who each have one old set of candidates, which must stay. apart: time between two sets."""
    harness.connection.execute(
        "WITH added AS (INSERT INTO users (user_id, email, timezone)"
        " SELECT 'dormant' || n, n || '@example.org', 'UTC' FROM generate_series(1, %s) n RETURNING user_id)"
        " INSERT INTO candidate_sets (candidate_set_id, user_id, context_hash, author, made_at, expires_at, renew_at,"
        " tips, subject_hashes, kinds, themes, features)"
        " SELECT gen_random_uuid(), user_id, 'h', 'llm', at, at, at, %s, '{s}', '{focus}', ARRAY[''], ''"
        " FROM (SELECT user_id, %s - row_number() OVER () * %s::INTERVAL AS at FROM added) made",
        [n, ['{"title": "Begin"}'], days_ago(age_days), apart],
    )


def add_call(harness: ServiceHarness, age_days: float) -> None:
    harness.connection.execute(
        "INSERT INTO llm_calls (called_at, user_id, model, outcome, n_requests, input_tokens, output_tokens, seconds)"
        " VALUES (%s, 'ann', 'm', 'answered', 1, 1, 1, 1)",
        [days_ago(age_days)],
    )


def sweep(harness: ServiceHarness, n_processes: int = 1, n_sweeps: int = 1) -> Mapping[str, int]:
    """The numbers of rows that concurrent processes delete together."""

    async def one(pool: asyncpg.Pool) -> list[Mapping[str, int]]:
        retention = Retention(pool, PERIODS, Metrics(), lambda: NOON)
        return [await retention.sweep() for _ in range(n_sweeps)]

    async def all_of_them() -> Mapping[str, int]:
        async with asyncpg.create_pool(harness.database_url, min_size=1, max_size=n_processes) as pool:
            per_process = await asyncio.gather(*(one(pool) for _ in range(n_processes)))
        swept = list(chain.from_iterable(per_process))
        return {table: sum(each[table] for each in swept) for table in swept[0]}

    deleted: Mapping[str, int] = harness.run(all_of_them())
    return deleted


def ids(harness: ServiceHarness, table: str, column: str) -> set[Any]:
    return {value for (value,) in harness.rows(f"SELECT {column} FROM {table}")}


class TestDecisions:
    def test_old_ones(self, harness: ServiceHarness) -> None:
        """Decisions older than DECISION_DAYS are deleted, with their reactions."""
        old, young = add_decision(harness, 120.1), add_decision(harness, 119.9)
        add_reaction(harness, old, 119)
        assert sweep(harness)["decisions"] == 1
        assert ids(harness, "decisions", "decision_id") == {young}
        assert ids(harness, "reactions", "decision_id") == set()

    def test_counted_reactions(self, harness: ServiceHarness, connection: psycopg.Connection[Any]) -> None:
        """A decision with a reaction that contexts count is kept: the contexts stay the same."""
        late, ignored = add_decision(harness, 150), add_decision(harness, 150)
        add_reaction(harness, late, 89)
        add_reaction(harness, ignored, 149)
        store = ContextStore(connection, reaction_days=90)
        before = store.reactions(["ann"], NOON)
        assert sweep(harness)["decisions"] == 1
        assert store.reactions(["ann"], NOON) == before != {}
        assert ids(harness, "decisions", "decision_id") == {late}

    def test_very_many(self, harness: ServiceHarness) -> None:
        """A sweep deletes a bounded number of rows; the following sweeps delete the others."""
        harness.connection.execute(
            "INSERT INTO decisions (decision_id, user_id, decided_at)"
            " SELECT gen_random_uuid(), 'ann', %s - n * INTERVAL '1 second' FROM generate_series(1, 20500) n",
            [days_ago(121)],
        )
        assert sweep(harness)["decisions"] == 20_000
        assert sweep(harness)["decisions"] == 500

    def test_two_processes(self, harness: ServiceHarness) -> None:
        """Concurrent processes delete each row once; one that finds the other at work does nothing."""
        for _ in range(30):
            add_decision(harness, 130)
        assert sweep(harness, n_processes=3)["decisions"] == 30

    def test_while_another_process_sweeps(self, harness: ServiceHarness) -> None:
        """Nothing is deleted while another process holds the lock."""
        add_decision(harness, 130)
        with harness.connection.transaction():
            harness.connection.execute("SELECT pg_advisory_xact_lock(7402, hashtext('retention'))")
            assert sum(sweep(harness).values()) == 0
        assert sweep(harness)["decisions"] == 1

    def test_locked_decision(self, harness: ServiceHarness) -> None:
        """A decision that a reaction has locked is passed over, and holds up no other."""
        locked, _ = add_decision(harness, 130), add_decision(harness, 130)
        with harness.connection.transaction():
            harness.connection.execute("SELECT FROM decisions WHERE decision_id = %s FOR UPDATE", [locked])
            assert sweep(harness)["decisions"] == 1
        assert ids(harness, "decisions", "decision_id") == {locked}


class TestCandidates:
    def test_old_ones(self, harness: ServiceHarness) -> None:
        """Candidates that are older than decisions by a week are deleted, but never a user's newest ones."""
        add_set(harness, 140)
        newest = add_set(harness, 130)
        assert sweep(harness)["candidate_sets"] == 1
        assert ids(harness, "candidate_sets", "candidate_set_id") == {newest}

    def test_of_decisions(self, harness: ServiceHarness) -> None:
        """Candidates of a decision that is kept stay, with those that its tip was written for: `why` finds both."""
        unused, written, kept = add_set(harness, 160), add_set(harness, 142), add_set(harness, 140, "kept")
        newest = add_set(harness, 1)
        decision_id = add_decision(harness, 140, kept)
        add_reaction(harness, decision_id, 80)
        before = trace(harness.connection, decision_id)
        assert sweep(harness) == {"decisions": 0, "candidate_sets": 1, "llm_calls": 0, "todoist_events": 0}
        assert trace(harness.connection, decision_id) == before
        assert before.origin is not None
        assert before.origin.candidate_set_id == written
        assert ids(harness, "candidate_sets", "candidate_set_id") == {written, kept, newest}
        assert unused not in {written, kept, newest}

    def test_once_a_day(self, harness: ServiceHarness) -> None:
        """After a complete pass a process looks at old candidates again only the next day."""
        for age_days in (150, 140, 1):
            add_set(harness, age_days)
        assert sweep(harness, n_sweeps=3)["candidate_sets"] == 2

    def test_dormant_users(self, harness: ServiceHarness) -> None:
        """Old sets that must stay, more than one sweep reads, do not keep those behind them from being deleted."""
        add_dormant(harness, 41_000, age_days=300)
        newest = [add_set(harness, age_days) for age_days in (150, 140)][-1]
        assert sweep(harness, n_sweeps=1)["candidate_sets"] == 0
        assert sweep(harness, n_sweeps=2)["candidate_sets"] == 1
        assert newest in ids(harness, "candidate_sets", "candidate_set_id")
        assert harness.one("SELECT count(*) FROM candidate_sets") == 41_001

    def test_equal_times(self, harness: ServiceHarness) -> None:
        """Of sets that were made at the same instant, each is read, also those at the end of a statement's rows."""
        add_dormant(harness, 2_500, age_days=150, apart="0")
        for _ in range(30):
            add_set(harness, 150)
        add_set(harness, 1)
        assert sweep(harness)["candidate_sets"] == 30

    def test_pass_that_was_not_made(self, harness: ServiceHarness) -> None:
        """A process that finds another one at work looks at old candidates again in its next sweep."""
        for age_days in (150, 1):
            add_set(harness, age_days)

        async def sweep_twice() -> list[int]:
            async with asyncpg.create_pool(harness.database_url, min_size=1, max_size=1) as pool:
                retention = Retention(pool, PERIODS, Metrics(), lambda: NOON)
                with harness.connection.transaction():
                    harness.connection.execute("SELECT pg_advisory_xact_lock(7402, hashtext('retention'))")
                    first = await retention.sweep()
                return [each["candidate_sets"] for each in (first, await retention.sweep())]

        assert harness.run(sweep_twice()) == [0, 1]

    def test_plan(self, harness: ServiceHarness) -> None:
        """One statement reads only its part of the old sets, and finds all that it compares by indexes."""
        add_dormant(harness, 20_000, age_days=300)
        harness.connection.execute("ANALYZE candidate_sets, decisions")

        async def plan() -> str:
            async with asyncpg.create_pool(harness.database_url, min_size=1, max_size=1) as pool:
                query = f"EXPLAIN {queries('serving', 'asyncpg').delete_candidates.sql}"
                return "\n".join(
                    row[0] for row in await pool.fetch(query, days_ago(127), days_ago(9_000), UUID(int=0), 2000)
                )

        text = harness.run(plan())
        assert "candidate_sets_by_time" in text
        assert "Seq Scan on candidate_sets" not in text
        assert "Hash" not in text


def test_llm_calls(harness: ServiceHarness) -> None:
    """Calls of the LLM are deleted after LLM_CALL_DAYS."""
    for age_days in (100, 91, 89, 0):
        add_call(harness, age_days)
    assert sweep(harness)["llm_calls"] == 2
    assert ids(harness, "llm_calls", "called_at") == {days_ago(89), NOON}


def test_indexes(harness: ServiceHarness) -> None:
    """The old rows of each table are found by an index, whatever the size of the table."""
    with harness.connection.transaction():
        harness.connection.execute("SET LOCAL enable_seqscan = off")
        for table, column in (("decisions", "decided_at"), ("candidate_sets", "made_at"), ("llm_calls", "called_at")):
            query = f"EXPLAIN SELECT FROM {table} WHERE {column} < now() ORDER BY {column} LIMIT 10"
            plan = " ".join(line for (line,) in harness.rows(query))
            assert "Index" in plan, table


@pytest.mark.parametrize(("decision_days", "ignored_after"), [("28", "24:00:00"), ("30", "72:00:00")])
def test_shorter_than_the_evaluation(monkeypatch: pytest.MonkeyPatch, decision_days: str, ignored_after: str) -> None:
    """DECISION_DAYS that would delete decisions before they are evaluated are refused."""
    for name, value in {
        "SERVICE_TOKENS": "x" * 32,
        "DECISION_DAYS": decision_days,
        "IGNORED_AFTER": ignored_after,
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"DECISION_DAYS={decision_days} is shorter"):
        read_settings(ServingSettings)


def test_events(harness: ServiceHarness) -> None:
    """Events that nothing folded for 30 days are deleted, later ones stay."""
    for number, age_days in enumerate((40, 31, 29, 0)):
        harness.connection.execute(
            "INSERT INTO todoist_events (user_id, connection_number, object_type, object_id, event_name, object,"
            " is_ended, received_at) VALUES ('ann', 1, 'item', %s, 'item:updated', '{}', FALSE, %s)",
            [f"t{number}", days_ago(age_days)],
        )
    assert sweep(harness)["todoist_events"] == 2
    assert harness.rows("SELECT object_id FROM todoist_events ORDER BY object_id") == [("t2",), ("t3",)]
