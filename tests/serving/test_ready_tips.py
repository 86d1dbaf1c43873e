"""Tips from current contexts and candidates: many requests in one call."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import psycopg
import pytest
from service import Service, ServiceHarness, answering, tip_about

from contexts.postgres.sql import queries
from serving.composition import POLICY
from serving.store import TIP_SETTINGS
from tips.bandit import ThompsonPolicy
from tips.features import N_FEATURES

USERS = [f"user{number}" for number in range(20)]


@pytest.fixture
def service(harness: ServiceHarness, account: Any) -> Service:
    """A service with candidates for twenty users, one to three for each."""
    service = harness.open(llm_wait=6, database_connections=4)
    for number, user in enumerate(USERS):
        harness.add_with_context(user, account("water the plants", f"call {user}", "buy milk", "mend the roof"))
        harness.llm.behaviour = answering(*(tip_about(f"t{task}") for task in range(1 + number % 3)))
        service.tip(user)
    harness.connection.execute("TRUNCATE decisions CASCADE")
    return service


def together(harness: ServiceHarness, service: Service, users: list[str]) -> list[Any]:
    return harness.together(*(service.tip_async(user) for user in users))


class TestMany:
    def test_each_its_own(self, harness: ServiceHarness, service: Service) -> None:
        """Users who ask at the same time get each a tip of their own candidates, logged as answered."""
        responses = together(harness, service, USERS)
        assert {(each.status, each.origin) for each in responses} == {(200, ("stored", "skipped"))}
        logged = {
            row[0]: row[1:]
            for row in harness.rows(
                "SELECT d.decision_id::TEXT, d.user_id, s.tips[d.chosen + 1]::JSONB, s.user_id"
                " FROM decisions d JOIN candidate_sets s USING (candidate_set_id)"
            )
        }
        assert len(logged) == len(USERS)
        for user, response in zip(USERS, responses, strict=True):
            assert logged[response.body["decision_id"]] == (user, response.body["tip"], user)

    def test_propensities(self, harness: ServiceHarness, service: Service) -> None:
        """A decision made beside others has the propensities, the choice and the features that it has alone."""
        together(harness, service, USERS)
        posterior, n_candidates = harness.posterior(), set()
        for seed, features, chosen, propensities in harness.rows(
            "SELECT seed, features, chosen, propensities FROM decisions"
        ):
            matrix = np.frombuffer(features, np.float32).reshape(-1, N_FEATURES)
            alone = ThompsonPolicy(POLICY).choose(posterior, matrix, seed)
            assert alone.chosen == chosen
            assert (alone.propensities == np.array(propensities, np.float32)).all()
            n_candidates.add(len(propensities))
        assert len(n_candidates) > 1

    def test_same_user(self, harness: ServiceHarness, service: Service) -> None:
        """Requests of one user at the same time are decisions of their own."""
        responses = together(harness, service, ["user1"] * 20)
        assert len({each.body["decision_id"] for each in responses}) == 20
        assert harness.one("SELECT count(DISTINCT seed) FROM decisions") == 20

    def test_one_broken_set(self, harness: ServiceHarness, service: Service) -> None:
        """Impossible features of one user's candidates, or an unknown user, change nothing for the others."""
        harness.connection.execute(
            "UPDATE candidate_sets SET features = set_byte(set_byte(features, 3, 127), 2, 192)"  # NaN
            " WHERE user_id = 'user7'"
        )
        responses = dict(zip([*USERS, "nobody"], together(harness, service, [*USERS, "nobody"]), strict=True))
        assert responses.pop("nobody").status == 404
        assert responses.pop("user7").origin == ("stored", "called")
        assert {(each.status, each.origin) for each in responses.values()} == {(200, ("stored", "skipped"))}
        assert service.metric("unreadable_rows_total", table="candidate_sets") >= 1

    def test_refused_value(self, harness: ServiceHarness, service: Service) -> None:
        """If Postgres refuses the decision of one user, the others get their tips, each logged once."""
        harness.connection.execute("ALTER TABLE decisions ADD CONSTRAINT canary CHECK (user_id <> 'user7') NOT VALID")
        try:
            responses = dict(zip(USERS, together(harness, service, USERS), strict=True))
        finally:
            harness.connection.execute("ALTER TABLE decisions DROP CONSTRAINT canary")
        assert responses.pop("user7").status == 500
        assert {each.status for each in responses.values()} == {200}
        logged = {row[0] for row in harness.rows("SELECT decision_id::TEXT FROM decisions")}
        assert logged == {each.body["decision_id"] for each in responses.values()}


def test_plan(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """The read that was planned while all tables were empty finds users by their keys when there are many."""
    options = " ".join(f"-c {name}={value}" for name, value in TIP_SETTINGS.items())
    with psycopg.connect(database_url, options=options, autocommit=True) as session:
        session.execute("PREPARE read AS " + queries("serving", "asyncpg").read_users.sql)
        session.execute("EXECUTE read (false, '{nobody}')")
        connection.execute(
            "INSERT INTO users (user_id, email, timezone) SELECT n, n, 'UTC' FROM generate_series(1, 5000) AS n"
        )
        plan = "\n".join(line for (line,) in session.execute("EXPLAIN EXECUTE read (false, '{7,8}')"))
    assert "Index" in plan
    assert "Seq Scan" not in plan and "todoist_events_by_time" not in plan


def test_hanging_database(harness: ServiceHarness, service: Service) -> None:
    """While the log hangs, every request is answered 503 within its budget, also those that wait behind others."""
    hurried = harness.open(request_budget=1.0, llm_model=None)
    with harness.connection.transaction():
        harness.connection.execute("LOCK TABLE decisions IN ACCESS EXCLUSIVE MODE")

        async def requests() -> list[Any]:
            tasks = []
            for user in USERS[:12]:
                tasks.append(asyncio.create_task(hurried.tip_async(user)))
                await asyncio.sleep(0.05)
            return await asyncio.gather(*tasks)

        responses = harness.run(requests())
    assert {each.status for each in responses} == {503}
    assert max(each.seconds for each in responses) < 1.0 + _ROOM_S
    assert {hurried.tip(user).status for user in USERS} == {200}


_ROOM_S = 3.0
"""Seconds that a busy machine may add to the budget."""
