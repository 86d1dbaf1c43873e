"""The readiness check: what a load balancer is told of the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from service import Service, ServiceHarness, is_problem

from contexts.postgres.sql import connect

READ_ONLY = "the database is read-only, so decisions cannot be logged"


@contextmanager
def read_only(harness: ServiceHarness) -> Iterator[None]:
    """Let all new sessions be read-only, and end those of the service, as in a failover."""
    name, mine = harness.connection.info.dbname, harness.connection.info.backend_pid
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> %s"
    with connect(harness.database_url.replace(f"/{name}?", "/postgres?")) as other:
        other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        other.execute(end, [name, mine])
        try:
            yield
        finally:
            other.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")


def test_read_only(harness: ServiceHarness, service: Service) -> None:
    """With a read-only database the service is not ready; once writes work again it is ready by itself."""
    assert service.metric("ready") == 1
    assert service.request("GET", "/readyz").text == "ready\n"
    with read_only(harness):
        service.request("GET", "/readyz")  # it may find the connection that was ended
        assert is_problem(service.request("GET", "/readyz"), 503, READ_ONLY)
    assert service.metric("ready") == 0
    assert service.request("GET", "/readyz").status == 200


@pytest.mark.parametrize("table", ["context_store", "candidate_sets", "policies"])
def test_reads_of_a_decision(harness: ServiceHarness, service: Service, table: str) -> None:
    """A table that decisions need and that cannot be read is noticed."""
    harness.connection.execute(f"ALTER TABLE {table} RENAME TO hidden")
    try:
        assert is_problem(service.request("GET", "/readyz"), 503, "the database lacks a table or a column")
    finally:
        harness.connection.execute(f"ALTER TABLE hidden RENAME TO {table}")
    assert service.request("GET", "/readyz").status == 200


def test_columns_of_a_decision(harness: ServiceHarness, service: Service) -> None:
    """A column of the log that is missing, as before a migration, is noticed, and nothing is logged by the check."""
    harness.connection.execute("ALTER TABLE decisions RENAME COLUMN set_age_s TO hidden")
    try:
        assert is_problem(service.request("GET", "/readyz"), 503, "apply the migrations: python -m contexts migrate")
    finally:
        harness.connection.execute("ALTER TABLE decisions RENAME COLUMN hidden TO set_age_s")
    assert service.request("GET", "/readyz").status == 200
    assert harness.one("SELECT count(*) FROM decisions") == 0


def test_without_the_posterior(harness: ServiceHarness, service: Service) -> None:
    """A posterior that is gone is named."""
    harness.connection.execute("DELETE FROM policies")
    assert is_problem(service.request("GET", "/readyz"), 503, "the table policies lacks thompson-")


def test_overload(harness: ServiceHarness, ann: None) -> None:
    """While all other connections wait for Postgres the check is answered: overload is no reason to restart."""
    service = harness.open(database_connections=2, request_budget=2.0)
    service.tip()

    async def both() -> tuple[int, list[int]]:
        work = asyncio.gather(*(service.tip_async() for _ in range(20)))
        await asyncio.sleep(0.1)
        ready = await service.request_async("GET", "/readyz")
        return ready.status, [each.status for each in await work]

    with harness.connection.transaction():
        harness.connection.execute("LOCK TABLE decisions IN ACCESS EXCLUSIVE MODE")
        status, others = harness.run(both())
    assert status == 200
    assert set(others) == {503}


def test_bounded(harness: ServiceHarness, service: Service) -> None:
    """A database that does not answer is given up after a second, however many ask."""
    with harness.connection.transaction():
        harness.connection.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        started = time.perf_counter()
        responses = harness.together(*(service.request_async("GET", "/readyz") for _ in range(50)))
        seconds = time.perf_counter() - started
    assert {each.status for each in responses} == {503}
    assert seconds < 5
    labels = {"reason": "database_unavailable", "route": "/readyz", "status": "503"}
    assert service.metric("http_responses_total", **labels) == 50
