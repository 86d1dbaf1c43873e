"""The past of sample users: requests before the nights, and what is played after them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from analysts import open_world_session
from world import World

from assets.analysis.session import ANALYSIS_FOLDER
from contexts.postgres.sql import queries
from local.clock import utc_now
from local.played_past import LOST_USER, PLAYED_MODEL, play_past
from local.played_requests import drawn_requests, play_requests
from local.samples import sample_users

USERS = [f"user-{number}" for number in range(4)]
FEW_ROWS = {"policies", "users_without_contexts"}
"""Analyses with one row after a local run."""


@pytest.fixture
def played(world: World) -> World:
    """A world after a night of sample users with a played past."""
    now = utc_now()
    for sample in sample_users(len(USERS), today=now.date()):
        world.add(sample.user_id, sample.document, sample.timezone)
    users = sorted(user for (user,) in world.connection.execute("SELECT user_id FROM users"))
    play_requests(world.connection, users, now)
    world.night(now)
    play_past(world.runtime, world.connection, users, now)
    return world


def test_every_question_has_an_answer(played: World, database_url: str) -> None:
    """After a local run each analysis of requests, runs and contexts has rows, and most have several."""
    with open_world_session(played, database_url, now=utc_now()) as session:
        n_rows = {
            path.stem: len(session.sql(f"FROM analysis.{path.stem}").fetchall())  # type: ignore[union-attr]
            for path in ANALYSIS_FOLDER.glob("*.sql")
            if path.stem != "duplicates"  # of the words of tasks, which these vectors do not know
        }
    assert [name for name, n in n_rows.items() if n < (1 if name in FEW_ROWS else 2)] == [], n_rows


def test_it_is_marked(played: World) -> None:
    """Played decisions, calls of the LLM, runs and contexts say that they are played."""
    for sql in (
        "SELECT count(*) FROM decisions WHERE policy_version IS DISTINCT FROM 'played@0'",
        f"SELECT count(*) FROM llm_calls WHERE model <> '{PLAYED_MODEL}'",
        "SELECT count(*) FROM candidate_sets WHERE connection_number <> -1",
        "SELECT count(*) FROM step_runs WHERE scope IS NULL AND run_id LIKE 'played%'",
    ):
        assert played.connection.execute(sql).fetchone() == (0,), sql
    versions = [version for user in _users(played) for version in played.history.versions_of(user)]
    assert {version.author for version in versions} == {"pipeline", "played"}


def test_its_counts_agree(played: World, database_url: str) -> None:
    """Calls of the LLM, sets, written tips of the nights and tips by the LLM tell the same story."""
    with open_world_session(played, database_url, now=utc_now()) as session:

        def one(sql: str) -> Any:
            [(value,)] = session.sql(sql).fetchall()  # type: ignore[union-attr]
            return value

        n_calls = one("SELECT count(*) FROM llm_calls")
        assert n_calls == one("SELECT count(*) FROM candidate_sets WHERE origin = 'ahead' AND n_tips > 0") > 0
        written = "FROM step_runs WHERE work = 'tips_written' AND starts_with(run_id, 'played')"
        assert n_calls == one(f"SELECT sum(done) {written}")
        assert one("SELECT count(*) FROM decisions WHERE llm = 'called'") == 0
        assert one("SELECT count(*) FROM decisions WHERE (llm = 'skipped') <> (candidate_set_id IS NOT NULL)") == 0


def test_nothing_uses_it(played: World) -> None:
    """No tip is chosen from a played set, and the user whose token is no longer accepted is not fetched."""
    users = [*_users(played), LOST_USER]
    assert list(queries("tips_ahead").last_sets(played.connection, user_ids=users)) == []
    results = played.night(utc_now() + timedelta(hours=1))
    assert sum(result.counts["todoist_calls"] for result in results["todoist_tasks"]) == len(USERS)


def test_the_same_past(world: World) -> None:
    """A user's requests are the same for the same time, and none is in the future."""
    now = utc_now()
    first, again = list(drawn_requests("ann", now)), list(drawn_requests("ann", now))
    assert first == again
    assert first != list(drawn_requests("bob", now))
    assert max(request.reacted_at for request in first) <= now
    assert len({request.decision_id for request in first}) == len(first)


def _users(world: World) -> list[Any]:
    return [user for (user,) in world.connection.execute("SELECT user_id FROM context_store")]
