"""Contexts assembled during a request: their content, the calls to Todoist, and the history."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from service import Service, ServiceHarness, answering, tip_about
from world import NOON

from contexts.assembly.explain import DecisionTrace, TipOrigin, compare, context_versions, trace
from contexts.assembly.history import ContextVersion, History
from contexts.postgres.sql import connect
from contexts.todoist.credentials import CredentialCipher, Credentials, new_key
from local.todoist import Fault, LocalTodoist

Connection = psycopg.Connection[Any]

RENEWING = {"todoist_client_id": "ours", "todoist_client_secret": "secret"}


def credentials(harness: ServiceHarness) -> Credentials:
    [account] = harness.world.accounts.load(["ann"])[0]
    return account.credentials


class TestContext:
    def test_one_full_sync(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """An assembly is one full sync; the pipeline's state of the account is not changed."""
        harness.world.add("ann", account("call bob"))
        harness.world.night()
        columns = "sync_token, directory, observed_at, auth_failures"
        before = harness.rows(f"SELECT {columns} FROM todoist_accounts")
        harness.clock.forward(hours=7)
        service.tip()
        assert [(call.path, call.full) for call in harness.todoist.calls[1:]] == [("/api/v1/sync", True)]
        assert harness.rows(f"SELECT {columns} FROM todoist_accounts") == before

    def test_themes_of_the_last_clustering(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """The themes are those of the last clustering, with their tasks that are still open."""
        texts = ["paint the old fence green", "paint the old fence blue", "paint the old fence red", "call bob"]
        harness.world.add("ann", account(*texts))
        harness.world.night()
        [before] = service.context()["themes"]
        harness.todoist.advance(
            "ann", {"items": [{"id": "t0", "checked": True}, {"id": "t9", "content": "buy milk"}]}
        )
        harness.clock.forward(hours=7)
        assert service.tip().body["source"] == "inline"
        context = service.context()
        [after] = context["themes"]
        assert before == {**after, "n_tasks": 3, "task_ids": ["t0", "t1", "t2"]}
        assert after["task_ids"] == ["t1", "t2"]
        assert context["counts"]["open"] == 4

    def test_broken_item(
        self, harness: ServiceHarness, service: Service, account: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An unreadable item is left out and named by its id; the others make a context."""
        caplog.set_level(logging.INFO)
        harness.world.add("ann", account({"id": "t0", "content": 5}, {"id": "t1", "content": "caf\u0000e \ud800"}))
        service.tip()
        [[task]] = service.context()["tasks"].values()
        assert task["id"] == "t1"
        assert "user ann: item t0 skipped, its 'content' cannot be read" in caplog.text

    def test_user_without_tasks(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """A user without open tasks gets a tip too."""
        harness.world.add("ann", account())
        response = service.tip()
        assert response.body["source"] == "inline"
        assert response.body["tip"]["tasks"] == []


class TestRenewal:
    @pytest.fixture
    def ann(self, harness: ServiceHarness, account: Any) -> None:
        """A user with an expired access token and a refresh token."""
        harness.world.add("ann", account("call bob"))
        harness.todoist.load("token-of-ann", account("call bob"), user="ann", refresh_token="to-be-renewed")
        expired = Credentials("token-that-ran-out", "to-be-renewed")
        harness.world.accounts.add("ann", email="ann@example.org", timezone="UTC", credentials=expired)

    @pytest.mark.usefixtures("ann")
    def test_renewed(self, harness: ServiceHarness) -> None:
        """An expired token is renewed during the request, and the new one is stored for later requests."""
        service = harness.open(**RENEWING)
        assert service.tip().origin == ("inline", "called")
        assert [call.status for call in harness.todoist.calls] == [401, 200, 200]
        assert credentials(harness).refresh_token not in (None, "to-be-renewed")
        harness.clock.forward(hours=7)
        service.tip()
        assert [call.status for call in harness.todoist.calls[3:]] == [200]

    @pytest.mark.usefixtures("ann")
    def test_slow_renewal(self, harness: ServiceHarness, account: Any) -> None:
        """A renewal that takes longer than the request is not lost, because it uses up the old refresh token."""
        impatient = harness.open(**RENEWING, todoist_timeout=1.5)
        slow = LocalTodoist(answer_seconds=(0.8, 0.8))
        slow.load("token-of-ann", account("call bob"), user="ann", refresh_token="to-be-renewed")
        harness.use_todoist(slow)
        assert impatient.tip().origin == ("none", "fallback")
        harness.until(lambda: credentials(harness).refresh_token != "to-be-renewed")
        assert harness.open(**RENEWING, todoist_timeout=20, request_budget=40).tip().origin == ("inline", "called")

    @pytest.mark.usefixtures("ann")
    def test_without_an_app(self, harness: ServiceHarness, service: Service) -> None:
        """Without the product's own app nothing can be renewed; the user is served from stored data."""
        assert service.tip().origin == ("none", "fallback")
        assert credentials(harness).refresh_token == "to-be-renewed"


@pytest.fixture
def ann(harness: ServiceHarness, account: Any) -> None:
    """A user with a stale context."""
    harness.add_with_context("ann", account("call bob", "buy milk"))
    harness.clock.forward(hours=7)


@pytest.mark.usefixtures("ann")
class TestFailures:
    def test_cooldown(self, harness: ServiceHarness, service: Service) -> None:
        """An account is not fetched again before the time that Todoist asked for, and at once afterwards."""
        harness.todoist.fail("ann", Fault.rate_limited(600))
        assert [service.tip().body["source"] for _ in range(3)] == ["stale"] * 3
        harness.clock.forward(minutes=9, seconds=59)
        assert service.tip().body["source"] == "stale"
        assert harness.calls()[0] == 1
        harness.clock.forward(seconds=2)
        assert service.tip().body["source"] == "inline"
        assert harness.calls()[0] == 2

    @pytest.mark.parametrize(
        "fault", [Fault.rate_limited(600), Fault.invalid_token(), Fault.deep_json()], ids=lambda fault: fault.kind
    )
    def test_single_accounts(self, harness: ServiceHarness, service: Service, account: Any, fault: Fault) -> None:
        """Rate limits, refusals and unreadable documents of single accounts do not stop calls for other accounts."""
        for n in range(7):
            harness.world.add(f"user-{n}", account("call bob"))
            harness.todoist.fail(f"user-{n}", fault)
            assert service.tip(f"user-{n}").body["source"] == "none"
        assert service.tip().body["source"] == "inline"

    def test_unreadable_document(self, harness: ServiceHarness, service: Service) -> None:
        """An account with an unreadable document is served from stored data, and not fetched by every request."""
        harness.todoist.fail("ann", Fault.deep_json(), Fault.deep_json())
        assert [service.tip().body["source"] for _ in range(3)] == ["stale"] * 3
        assert harness.calls()[0] == 1
        assert harness.one("SELECT connected FROM todoist_accounts") is True

    def test_wrong_key(self, harness: ServiceHarness, service: Service, caplog: pytest.LogCaptureFixture) -> None:
        """Credentials that no key decrypts are logged with the user id, and the old context is used."""
        sealed = CredentialCipher([new_key()]).seal("ann", Credentials("canary-4711"))
        harness.connection.execute("UPDATE todoist_accounts SET credentials = %s", [sealed])
        assert service.tip().body["source"] == "stale"
        assert (
            "user ann: context not assembled, no key in CREDENTIALS_KEYS decrypts the credentials of ann"
            in caplog.text
        )
        assert harness.calls()[0] == 0

    def test_credentials_of_another(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """Credentials moved to another user's row cannot be decrypted."""
        harness.world.add("eve", account("steal"))
        hers = "(SELECT credentials FROM todoist_accounts WHERE user_id = 'eve')"
        harness.connection.execute(f"UPDATE todoist_accounts SET credentials = {hers}")
        assert service.tip().body["source"] == "stale"
        assert harness.calls()[0] == 0

    def test_counted(self, harness: ServiceHarness) -> None:
        """Assemblies and all calls to Todoist are counted, failed ones too."""
        service = harness.open(todoist_timeout=3)
        harness.todoist.fail("ann", Fault.server_error(500))
        assert service.tip().body["source"] == "inline"
        harness.clock.forward(hours=7)
        harness.todoist.fail("ann", Fault.invalid_token())
        assert service.tip().body["source"] == "none"
        assert service.metric("inline_assemblies_total", outcome="assembled") == 1
        assert service.metric("inline_assemblies_total", outcome="failed") == 1
        assert service.metric("todoist_calls_total") == harness.calls()[0] == 3

    def test_user_is_removed_meanwhile(self, harness: ServiceHarness, service: Service) -> None:
        """Nothing is stored for a user who is removed while Todoist answers."""
        harness.todoist.fail("ann", Fault.slow(delay_s=0.2))

        async def removed() -> None:
            while not harness.todoist.calls:
                await asyncio.sleep(0.005)
            harness.world.accounts.remove("ann")

        response, _ = harness.together(service.request_async("POST", "/v1/users/ann/tip"), removed())
        assert response.status == 404
        assert harness.rows("SELECT FROM context_store") == []

    def test_time_of_the_signals(self, harness: ServiceHarness, service: Service) -> None:
        """The time of a context is taken before the call to Todoist, not after it."""
        harness.todoist.fail("ann", Fault.slow(delay_s=0.2))
        requested_at = harness.clock.at

        async def time_goes_on() -> None:
            while not harness.todoist.calls:
                await asyncio.sleep(0.005)
            harness.clock.forward(minutes=1)

        harness.together(service.tip_async(), time_goes_on())
        stored = harness.world.stored()["ann"]["fetched_at"]
        assert timedelta(0) <= stored - requested_at < timedelta(seconds=1)
        assert stored > NOON


_WAITING = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def stored_values(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["fetched_at"], row["context_hash"], row["context_json"]


def kept_contexts(harness: ServiceHarness) -> list[tuple[str, ...]]:
    """The contexts waiting for the history, as pairs of hash and text."""
    return harness.rows("SELECT context_hash, context_json FROM request_contexts ORDER BY assembled_at")


def stored_context(harness: ServiceHarness) -> tuple[str, ...]:
    """Ann's stored context as a pair of hash and text."""
    row = harness.world.stored()["ann"]
    return row["context_hash"], row["context_json"]


def overtake(harness: ServiceHarness, connection: Connection, at: datetime) -> str:
    """Write ann's row like a pipeline run that saw another task at `at`; returns the hash."""
    text = harness.world.stored()["ann"]["context_json"].replace("call bob", f"call eve at {at}")
    connection.execute(
        "UPDATE context_store SET materialized_at = %s, context_json = %s, context_hash = %s WHERE user_id = 'ann'",
        [at, text, digest(text)],
    )
    return digest(text)


@pytest.mark.usefixtures("ann")
class TestHistory:
    def test_changed_contexts(self, harness: ServiceHarness, service: Service) -> None:
        """Each context that differs from the previous one is kept, with the time of its signals.

        The same context fetched again is not kept.
        """
        expected = []
        for n in range(3):
            harness.todoist.advance("ann", {"items": [{"id": f"n{n}", "content": f"new {n}"}]})
            service.tip()
            expected.append(stored_context(harness))
            harness.clock.forward(hours=7)
            assert service.tip().body["source"] == "inline"
            harness.clock.forward(hours=7)
        assert kept_contexts(harness) == expected
        assert harness.one("SELECT count(*) FROM request_contexts WHERE assembled_at = materialized_at") == 3

    def test_first_context(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """The first context of a new user is kept."""
        harness.world.add("eve", account("call ann"))
        service.tip("eve")
        stored = harness.world.stored()["eve"]
        columns = "user_id, materialized_at, context_hash, context_json"
        assert harness.rows(f"SELECT {columns} FROM request_contexts") == [("eve", *stored_values(stored))]

    def test_same_as_the_pipeline(self, harness: ServiceHarness, service: Service) -> None:
        """A context equal to the pipeline's is not kept again."""
        service.tip()
        assert harness.calls()[0] == 1
        assert kept_contexts(harness) == []

    def test_in_the_background(self, harness: ServiceHarness, service: Service) -> None:
        """A context assembled in the background is kept, too."""
        harness.clock.at = NOON
        service.tip()
        harness.todoist.advance("ann", {"items": [{"id": "t9", "content": "pay the rent"}]})
        harness.clock.forward(hours=5, minutes=30)
        assert service.tip().body["source"] == "stored"
        harness.until(lambda: "pay the rent" in stored_context(harness)[1])
        assert kept_contexts(harness) == [stored_context(harness)]

    def test_row_from_the_future(self, harness: ServiceHarness, service: Service) -> None:
        """A row from two hours ahead, written before the clock was set back, is not fresh and gives way."""
        ahead = datetime.now(UTC) + timedelta(hours=2)
        harness.connection.execute("UPDATE context_store SET materialized_at = %s", [ahead])
        assert service.tip().body["source"] == "inline"
        assert harness.one("SELECT materialized_at FROM context_store") <= harness.clock.at

    def test_newer_row(self, harness: ServiceHarness, service: Service) -> None:
        """A context that is older than the stored row is not kept, and the decision has the hash of the row."""
        harness.todoist.advance("ann", {"items": [{"id": "t9", "content": "pay the rent"}]})
        harness.todoist.fail("ann", Fault.slow(delay_s=0.2))

        async def write_row() -> str:
            while not harness.todoist.calls:
                await asyncio.sleep(0.005)
            return overtake(harness, harness.connection, NOON + timedelta(hours=8))

        _, newer = harness.together(service.tip_async(), write_row())
        assert kept_contexts(harness) == []
        assert harness.one("SELECT context_hash FROM decisions") == newer

    def test_concurrent_row(self, harness: ServiceHarness, database_url: str) -> None:
        """A context is compared with the row that it replaces, not with an earlier one."""
        service = harness.open(todoist_timeout=3)
        first = stored_context(harness)

        async def write_row() -> None:
            with connect(database_url) as other, other.transaction():
                overtake(harness, other, NOON + timedelta(hours=1))
                async with asyncio.timeout(30):
                    while not harness.rows(_WAITING):
                        await asyncio.sleep(0.005)

        harness.together(write_row(), service.tip_async())
        assert kept_contexts(harness) == [stored_context(harness)] == [first]

    def test_all_decisions(self, harness: ServiceHarness, service: Service) -> None:
        """Every decision was made from a context of the pipeline or a kept one, whatever was written in between."""
        by_night = {stored_context(harness)[0]}
        for n in range(4):
            harness.todoist.advance("ann", {"items": [{"id": f"n{n}", "content": f"new {n}"}]})
            if n == 2:
                harness.todoist.fail("ann", Fault.server_error(500), Fault.server_error(500), Fault.server_error(500))
            service.tip()
            by_night.add(overtake(harness, harness.connection, harness.clock.at + timedelta(minutes=1)))
            harness.clock.forward(minutes=2)
            service.tip()
            harness.clock.forward(hours=7)
        made_from = {context_hash for (context_hash,) in harness.rows("SELECT context_hash FROM decisions")}
        assert harness.one("SELECT count(*) FROM decisions") == 8
        assert made_from <= by_night | {context_hash for context_hash, _ in kept_contexts(harness)}
        assert {digest(text) for _, text in kept_contexts(harness)} == {
            context_hash for context_hash, _ in kept_contexts(harness)
        }

    def test_user_is_removed(self, harness: ServiceHarness, service: Service) -> None:
        """A removed user's kept contexts are deleted."""
        harness.todoist.advance("ann", {"items": [{"id": "t9", "content": "pay the rent"}]})
        service.tip()
        assert len(kept_contexts(harness)) == 1
        harness.world.accounts.remove("ann")
        assert kept_contexts(harness) == []


class TestTrace:
    @pytest.fixture
    def history(self, harness: ServiceHarness, account: Any, tmp_path: Path) -> History:
        """The history of a user with four tasks, with the pipeline's context in it; the LLM has a tip about each."""
        harness.add_with_context("ann", account("call bob", "buy milk", "mend the roof", "water the plants"))
        harness.llm.behaviour = answering(*(tip_about(f"t{number}") for number in range(4)))
        row = harness.world.stored()["ann"]
        history = History(str(tmp_path / "history"), harness.connection, lambda _: 0)
        history.append(
            [ContextVersion("ann", NOON, row["fetched_at"], row["context_hash"], row["context_json"], "pipeline")]
        )
        return history

    def traced(self, harness: ServiceHarness, service: Service, author: str) -> DecisionTrace:
        """The first of some decisions whose tip has this author."""
        answers = (service.tip().body["decision_id"] for _ in range(50))
        traces = (trace(harness.connection, UUID(decision_id)) for decision_id in answers)
        return next(each for each in traces if each and each.origin and each.origin.author == author)

    def test_traced_decision(self, harness: ServiceHarness, service: Service, history: History) -> None:
        """A decision is traced to the answer of the request."""
        answer = service.tip().body
        traced = trace(harness.connection, UUID(answer["decision_id"]))
        assert traced is not None
        assert (traced.tip.title, traced.tip.task_ids) == (
            answer["tip"]["title"],
            [task["id"] for task in answer["tip"]["tasks"]],
        )
        assert (traced.source, traced.llm, traced.context_hash) == ("stored", "called", answer["context_hash"])
        assert traced.propensity is not None
        assert 0 < traced.propensity <= 1
        comparison = compare(traced, history.versions_of("ann"))
        assert comparison.chosen_for == comparison.written_from == history.versions_of("ann")[0]

    def test_kept_tip(self, harness: ServiceHarness, service: Service, history: History) -> None:
        """A tip that was kept over two changes is traced to the LLM and to the context it was written from."""
        service.tip()
        [night] = history.versions_of("ann")
        for n, task_id in enumerate(("t0", "t1")):
            harness.todoist.advance("ann", {"items": [{"id": task_id, "checked": True}]})
            harness.clock.forward(hours=1)
            harness.connection.execute(
                "UPDATE context_store SET materialized_at = materialized_at - INTERVAL '1 day'"
            )
            assert service.tip().origin == ("inline", "skipped")
            assert len(kept_contexts(harness)) == n + 1
        traced = self.traced(harness, service, "llm")
        set_id = harness.one("SELECT candidate_set_id FROM candidate_sets WHERE author = 'llm'")
        made_at = harness.one("SELECT made_at FROM candidate_sets WHERE author = 'llm'")
        assert traced.origin == TipOrigin("llm", made_at, night.context_hash, set_id)
        history.append(history.pending(["ann"]))
        comparison = compare(traced, context_versions(history, "ann"))
        assert comparison.written_from == night
        assert comparison.chosen_for == history.versions_of("ann")[-1]
        assert comparison.sentences == [f"task '{gone}' is no longer open" for gone in ("call bob", "buy milk")]

    def test_rules_beside_the_kept(self, harness: ServiceHarness, service: Service, history: History) -> None:
        """A rule-based tip beside kept ones is traced to the rules and to the context of that moment."""
        service.tip()
        news = {"id": "t9", "content": "pay the rent", "due": {"date": "2026-11-20"}, "priority": 4}
        harness.todoist.advance("ann", {"items": [news]})
        harness.clock.forward(hours=7)
        traced = self.traced(harness, service, "rules")
        assert traced.origin is not None
        assert traced.origin.context_hash == traced.context_hash == stored_context(harness)[0]
        comparison = compare(traced, context_versions(history, "ann"))
        assert comparison.written_from == comparison.chosen_for == context_versions(history, "ann")[-1]
        assert comparison.sentences == []
