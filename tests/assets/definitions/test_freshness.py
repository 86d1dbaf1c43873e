"""How fresh a stored context is, after runs and requests that overlap, fail or have wrong clocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from world import NOON, World, run_step

from assets.options import RunOptions
from assets.steps import StepRunner
from contexts.assembly.store import StoredContext
from contexts.clock import CLOCK_DIFFERENCE
from contexts.postgres.sql import queries, rows
from contexts.todoist.accounts import Accounts
from contexts.todoist.credentials import CredentialCipher, Credentials

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
BuildAccount = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def ann(world: World, account: BuildAccount) -> None:
    """A user with one task, whose context was stored at noon."""
    world.n_shards = 1
    world.add("ann", account("old task"))
    world.night(NOON)


def fetch(world: World, at: datetime) -> None:
    """Run `fetch_signals` alone, as if `compute_context` failed afterwards."""
    run_step(StepRunner(world.graph, world.runtime, world.resources, at, RunOptions()), "fetch_signals", f"at {at}")


def edit(world: World, text: str) -> None:
    world.todoist.advance("ann", {"items": [{"id": "t0", "content": text, "added_by_uid": "1"}]})


def request(connection: psycopg.Connection[Any], at: datetime, **changes: Any) -> bool:
    """Let a request store what it found at an instant: the stored context, with some columns changed."""
    [(*stored, version, number)] = connection.execute(
        "SELECT user_id, materialized_at, context_json, context_hash, valid_until, groups_json, row_version,"
        " a.connection_number FROM context_store JOIN todoist_accounts a USING (user_id)"
    )
    row = replace(StoredContext(*stored), materialized_at=at, **changes)
    is_written = queries("serving").write_context(
        connection,
        **vars(row),
        row_version=row.row_version if changes else version,
        connection_number=number,
        clock_difference=CLOCK_DIFFERENCE,
    )
    return bool(is_written)


def read_user(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """Return what a request reads of the user."""
    [user] = rows(connection, queries("serving").read_users, {"user_ids": ["ann"], "believes_events": False})
    return user


def claims_only_what_it_has(world: World, now: datetime) -> bool:
    """Whether the stored context either has the new task or does not claim to be as fresh as `now`."""
    stored = world.stored()["ann"]
    return "new task" in stored["context_json"] or stored["fetched_at"] < now


class TestChangesThatNoRunWrote:
    """A run fetched a change and did not write the context; the next fetch finds no change."""

    def test_a_request_during_the_fetch(self, world: World) -> None:
        """What a request read after the run began, but before the change, is not confirmed by a later fetch."""
        assert request(world.connection, NOON + 2 * HOUR + 10 * MINUTE)
        edit(world, "new task")
        fetch(world, NOON + 2 * HOUR)
        fetch(world, NOON + 8 * HOUR)
        assert claims_only_what_it_has(world, NOON + 8 * HOUR)

    @pytest.mark.parametrize("back", [HOUR, 2 * MINUTE, timedelta()])
    def test_a_run_with_an_earlier_instant(self, world: World, back: timedelta) -> None:
        """A delayed run, or one after a clock was set back, counts like any other."""
        edit(world, "new task")
        fetch(world, NOON - back)
        fetch(world, NOON + 8 * HOUR)
        assert claims_only_what_it_has(world, NOON + 8 * HOUR)

    def test_a_change_to_and_fro(self, world: World) -> None:
        """A request that found the former tasks, while they were changed back, is not confirmed by a later fetch."""
        edit(world, "new task")
        fetch(world, NOON + 2 * HOUR)
        edit(world, "old task")
        assert request(world.connection, NOON + 2 * HOUR + 10 * MINUTE)
        edit(world, "new task")
        fetch(world, NOON + 8 * HOUR)
        assert claims_only_what_it_has(world, NOON + 8 * HOUR)

    def test_changed_back(self, world: World) -> None:
        """A context is as fresh as a fetch that finds its original tasks again."""
        edit(world, "new task")
        fetch(world, NOON + 2 * HOUR)
        edit(world, "old task")
        fetch(world, NOON + 8 * HOUR)
        assert world.stored()["ann"]["fetched_at"] == NOON + 8 * HOUR

    def test_the_next_run_writes_it(self, world: World) -> None:
        """The next run of all steps writes the change, although its own fetch finds none."""
        edit(world, "new task")
        fetch(world, NOON + 2 * HOUR)
        world.night(NOON + 8 * HOUR)
        assert "new task" in world.stored()["ann"]["context_json"]
        assert world.stored()["ann"]["fetched_at"] == NOON + 8 * HOUR


class TestRequests:
    def test_a_fetch_from_before_the_clock_was_set_back(self, world: World) -> None:
        """After a clock was set back, the first request makes the context fresh for those that follow."""
        now = datetime.now(UTC)
        world.connection.execute("UPDATE todoist_accounts SET observed_at = %s", [now + 2 * HOUR])
        for minutes in range(3):
            at = now + minutes * MINUTE
            assert request(world.connection, at)
            assert read_user(world.connection)["fetched_at"] == at

    def test_an_expired_row(self, world: World) -> None:
        """A request replaces a row that a midnight has changed, though a later fetch found the tasks unchanged."""
        world.connection.execute("UPDATE context_store SET valid_until = %s", [NOON + 2 * HOUR])
        fetch(world, NOON + 3 * HOUR + MINUTE)
        assert request(world.connection, NOON + 3 * HOUR, valid_until=NOON + 26 * HOUR)
        assert read_user(world.connection)["valid_until"] == NOON + 26 * HOUR

    def test_a_row_without_a_number(self, world: World) -> None:
        """A row from before connections had numbers is not replaced by what a request found before the last fetch."""
        world.connection.execute("UPDATE context_store SET connection_number = NULL")
        fetch(world, NOON + 3 * HOUR)
        assert not request(world.connection, NOON + 2 * HOUR, context_json="{}")


def test_a_replaced_account(world: World) -> None:
    """A context of the replaced account that a run still wrote is replaced by the next run, even with equal tasks."""
    connection = world.connection
    connection.execute("CREATE TEMP TABLE written_late AS SELECT * FROM context_store")
    accounts = Accounts(connection, CredentialCipher([world.key]), clock=lambda: NOON + 5 * MINUTE)
    accounts.add("ann", email="", timezone="UTC", credentials=Credentials("token-of-ann"))
    connection.execute("INSERT INTO context_store SELECT * FROM written_late")
    assert read_user(connection)["fetched_at"] is None
    world.night(NOON)
    assert read_user(connection)["fetched_at"] == NOON + 5 * MINUTE
