"""Contexts assembled during a request: what goes into them, what is asked of Todoist, and what must not be lost."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from service import House, Service
from world import NOON

from contexts.history import History, Version
from contexts.sql import connect
from contexts.todoist import Credentials
from contexts.vault import Vault, new_key
from contexts.why import Origin, Traced, compare, known_versions, trace
from local.llm import Saying
from local.todoist import Fault, LocalTodoist

Account = Any
Connection = psycopg.Connection[Any]

RENEWING = {"todoist_client_id": "ours", "todoist_client_secret": "secret"}


def credentials(house: House) -> Credentials:
    [account] = house.world.accounts.open(["ann"])[0]
    return account.credentials


class TestContext:
    def test_one_full_sync(self, house: House, service: Service, account: Account) -> None:
        """An assembly is one call that asks for everything; what the nights know of the account stays untouched."""
        house.world.add("ann", account("call bob"))
        house.world.night()
        columns = "sync_token, directory, observed_at, auth_failures"
        before = house.rows(f"SELECT {columns} FROM todoist_accounts")
        house.clock.forward(hours=7)
        service.tip()
        assert [(call.path, call.full) for call in house.todoist.calls[1:]] == [("/api/v1/sync", True)]
        assert house.rows(f"SELECT {columns} FROM todoist_accounts") == before

    def test_themes_of_the_last_clustering(self, house: House, service: Service, account: Account) -> None:
        """The themes are those of the last night, with the tasks of them that are still open."""
        texts = ["paint the old fence green", "paint the old fence blue", "paint the old fence red", "call bob"]
        house.world.add("ann", account(*texts))
        house.world.night()
        [before] = service.context()["themes"]
        house.todoist.advance("ann", {"items": [{"id": "t0", "checked": True}, {"id": "t9", "content": "buy milk"}]})
        house.clock.forward(hours=7)
        assert service.tip().body["source"] == "inline"
        context = service.context()
        [after] = context["themes"]
        assert before == {**after, "n_tasks": 3, "task_ids": ["t0", "t1", "t2"]}
        assert after["task_ids"] == ["t1", "t2"]
        assert context["counts"]["open"] == 4

    def test_broken_item(
        self, house: House, service: Service, account: Account, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An item that cannot be read is left out and named by id; the others make a context."""
        caplog.set_level(logging.INFO)
        house.world.add("ann", account({"id": "t0", "content": 5}, {"id": "t1", "content": "caf\u0000e \ud800"}))
        service.tip()
        [[task]] = service.context()["tasks"].values()
        assert task["id"] == "t1"
        assert "user ann: item t0 skipped, its 'content' cannot be read" in caplog.text

    def test_user_without_tasks(self, house: House, service: Service, account: Account) -> None:
        """Who has no open task gets a tip all the same."""
        house.world.add("ann", account())
        answered = service.tip()
        assert answered.body["source"] == "inline"
        assert answered.body["tip"]["task_ids"] == []


class TestRenewal:
    @pytest.fixture
    def ann(self, house: House, account: Account) -> None:
        """A user whose access token has run out, with a refresh token."""
        house.world.add("ann", account("call bob"))
        house.todoist.load("token-of-ann", account("call bob"), user="ann", refresh_token="to-be-renewed")
        expired = Credentials("token-that-ran-out", "to-be-renewed")
        house.world.accounts.add("ann", email="ann@example.org", timezone="UTC", credentials=expired)

    @pytest.mark.usefixtures("ann")
    def test_renewed(self, house: House) -> None:
        """A token that has run out is renewed in the request, and the new one is stored for all that follow."""
        service = house.open(**RENEWING)
        assert service.tip().how == ("inline", "called")
        assert [call.status for call in house.todoist.calls] == [401, 200, 200]
        assert credentials(house).refresh_token not in (None, "to-be-renewed")
        house.clock.forward(hours=7)
        service.tip()
        assert [call.status for call in house.todoist.calls[3:]] == [200]

    @pytest.mark.usefixtures("ann")
    def test_given_up_meanwhile(self, house: House, account: Account) -> None:
        """A renewal that takes longer than the request waits is not lost: the old refresh token is used up by it."""
        service = house.open(**RENEWING, todoist_timeout=0.5)
        slow = LocalTodoist(answer_seconds=(0.3, 0.3))
        slow.load("token-of-ann", account("call bob"), user="ann", refresh_token="to-be-renewed")
        house.let_answer(slow)
        assert service.tip().how == ("none", "fallback")
        house.until(lambda: credentials(house).refresh_token != "to-be-renewed")
        assert service.tip().how == ("inline", "called")

    @pytest.mark.usefixtures("ann")
    def test_without_an_app(self, house: House, service: Service) -> None:
        """Where the product's own app is not set nothing can be renewed; the user is served from what is known."""
        assert service.tip().how == ("none", "fallback")
        assert credentials(house).refresh_token == "to-be-renewed"


@pytest.fixture
def ann(house: House, account: Account) -> None:
    """A user with a stale context."""
    house.prepare("ann", account("call bob", "buy milk"))
    house.clock.forward(hours=7)


@pytest.mark.usefixtures("ann")
class TestFailures:
    def test_waits_as_long_as_asked(self, house: House, service: Service) -> None:
        """Where Todoist asks to wait for an account it is not asked again before, and then at once."""
        house.todoist.fail("ann", Fault.rate_limited(600))
        assert [service.tip().body["source"] for _ in range(3)] == ["stale"] * 3
        house.clock.forward(minutes=9, seconds=59)
        assert service.tip().body["source"] == "stale"
        assert house.calls()[0] == 1
        house.clock.forward(seconds=2)
        assert service.tip().body["source"] == "inline"
        assert house.calls()[0] == 2

    def test_one_account_is_not_all(self, house: House, service: Service, account: Account) -> None:
        """However often single accounts are refused or told to wait, Todoist is asked for the others."""
        for n in range(7):
            house.world.add(f"user-{n}", account("call bob"))
            house.todoist.fail(f"user-{n}", [Fault.rate_limited(600), Fault.invalid_token()][n % 2])
            assert service.tip(f"user-{n}").body["source"] == "none"
        assert service.tip().body["source"] == "inline"

    def test_wrong_key(self, house: House, service: Service, caplog: pytest.LogCaptureFixture) -> None:
        """Credentials that no key opens are told in the log, by the user's id, and the old context is used."""
        sealed = Vault([new_key()]).seal("ann", Credentials("canary-4711"))
        house.connection.execute("UPDATE todoist_accounts SET credentials = %s", [sealed])
        assert service.tip().body["source"] == "stale"
        assert "user ann: not assembled, no key of CREDENTIALS_KEYS opens the credentials of ann" in caplog.text
        assert house.calls()[0] == 0

    def test_credentials_of_another(self, house: House, service: Service, account: Account) -> None:
        """Credentials that were moved to another user's row open nothing."""
        house.world.add("eve", account("steal"))
        hers = "(SELECT credentials FROM todoist_accounts WHERE user_id = 'eve')"
        house.connection.execute(f"UPDATE todoist_accounts SET credentials = {hers}")
        assert service.tip().body["source"] == "stale"
        assert house.calls()[0] == 0

    def test_counted(self, house: House) -> None:
        """Assemblies and every single call of Todoist are counted, those that failed too."""
        service = house.open(todoist_timeout=3)
        house.todoist.fail("ann", Fault.server_error(500))
        assert service.tip().body["source"] == "inline"
        house.clock.forward(hours=7)
        house.todoist.fail("ann", Fault.invalid_token())
        assert service.tip().body["source"] == "stale"
        assert service.metric("inline_assemblies_total", outcome="assembled") == 1
        assert service.metric("inline_assemblies_total", outcome="failed") == 1
        assert service.metric("todoist_calls_total") == house.calls()[0] == 3

    def test_user_is_removed_meanwhile(self, house: House, service: Service) -> None:
        """Of a user who is removed while Todoist answers nothing is stored."""
        house.todoist.fail("ann", Fault.slow(before=0.2))

        async def removed() -> None:
            while not house.todoist.calls:
                await asyncio.sleep(0.005)
            house.world.accounts.remove("ann")

        answered, _ = house.together(service.asking("POST", "/v1/users/ann/tip"), removed())
        assert answered.status == 404
        assert house.rows("SELECT FROM context_store") == []

    def test_clock_of_the_night(self, house: House, service: Service) -> None:
        """A row is as old as Todoist's answer at the earliest: the time is taken before the call, not after it."""
        house.todoist.fail("ann", Fault.slow(before=0.2))
        asked_at = house.clock.at

        async def time_goes_on() -> None:
            while not house.todoist.calls:
                await asyncio.sleep(0.005)
            house.clock.forward(minutes=1)

        house.together(service.tipping(), time_goes_on())
        stored = house.world.stored()["ann"]["materialized_at"]
        assert timedelta(0) <= stored - asked_at < timedelta(seconds=1)
        assert stored > NOON


_WAITING = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def stored_values(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["materialized_at"], row["context_hash"], row["context_json"]


def kept(house: House) -> list[tuple[str, ...]]:
    """The contexts that wait to be taken into the history, as the hash and what it is a hash of."""
    return house.rows("SELECT context_hash, context_json FROM request_contexts ORDER BY assembled_at")


def standing(house: House) -> tuple[str, ...]:
    row = house.world.stored()["ann"]
    return row["context_hash"], row["context_json"]


def overtake(house: House, connection: Connection, at: datetime) -> str:
    """A night that saw another task, with signals of `at`, writes ann's row; gives the hash."""
    text = house.world.stored()["ann"]["context_json"].replace("call bob", f"call eve at {at}")
    connection.execute(
        "UPDATE context_store SET materialized_at = %s, context_json = %s, context_hash = %s WHERE user_id = 'ann'",
        [at, text, digest(text)],
    )
    return digest(text)


@pytest.mark.usefixtures("ann")
class TestHistory:
    def test_every_other_context(self, house: House, service: Service) -> None:
        """Each context that a request stored in place of another one is kept, with the time of its signals; the same
        one fetched again is not.
        """
        expected = []
        for n in range(3):
            house.todoist.advance("ann", {"items": [{"id": f"n{n}", "content": f"new {n}"}]})
            service.tip()
            expected.append(standing(house))
            house.clock.forward(hours=7)
            assert service.tip().body["source"] == "inline"
            house.clock.forward(hours=7)
        assert kept(house) == expected
        assert house.one("SELECT count(*) FROM request_contexts WHERE assembled_at = materialized_at") == 3

    def test_first_of_all(self, house: House, service: Service, account: Account) -> None:
        """The context of a user whom no night has seen is kept."""
        house.world.add("eve", account("call ann"))
        service.tip("eve")
        stored = house.world.stored()["eve"]
        columns = "user_id, materialized_at, context_hash, context_json"
        assert house.rows(f"SELECT {columns} FROM request_contexts") == [("eve", *stored_values(stored))]

    def test_same_as_the_night(self, house: House, service: Service) -> None:
        """What equals the night's context is not kept twice."""
        service.tip()
        assert house.calls()[0] == 1
        assert kept(house) == []

    def test_behind_the_answer(self, house: House, service: Service) -> None:
        """What was assembled behind an answer is kept too."""
        house.clock.at = NOON
        service.tip()
        house.todoist.advance("ann", {"items": [{"id": "t9", "content": "pay the rent"}]})
        house.clock.forward(hours=5, minutes=30)
        assert service.tip().body["source"] == "stored"
        house.until(lambda: "pay the rent" in standing(house)[1])
        assert kept(house) == [standing(house)]

    def test_newer_row(self, house: House, service: Service) -> None:
        """What lost against a newer row is not kept, and the decision says the hash of the row that stood."""
        house.todoist.advance("ann", {"items": [{"id": "t9", "content": "pay the rent"}]})
        house.todoist.fail("ann", Fault.slow(before=0.2))

        async def somebody() -> str:
            while not house.todoist.calls:
                await asyncio.sleep(0.005)
            return overtake(house, house.connection, NOON + timedelta(hours=8))

        _, newer = house.together(service.tipping(), somebody())
        assert kept(house) == []
        assert house.one("SELECT context_hash FROM decisions") == newer

    def test_other_row_meanwhile(self, house: House, database_url: str) -> None:
        """Whether a context is another one is asked of the row that it replaces, and not of one that stood before."""
        service = house.open(todoist_timeout=3)
        first = standing(house)

        async def somebody() -> None:
            with connect(database_url) as other, other.transaction():
                overtake(house, other, NOON + timedelta(hours=1))
                async with asyncio.timeout(2):
                    while not house.rows(_WAITING):
                        await asyncio.sleep(0.005)

        house.together(somebody(), service.tipping())
        assert kept(house) == [standing(house)] == [first]

    def test_all_decisions(self, house: House, service: Service) -> None:
        """Every decision was made from a context that the night wrote or that is kept, whoever wrote in between."""
        by_night = {standing(house)[0]}
        for n in range(4):
            house.todoist.advance("ann", {"items": [{"id": f"n{n}", "content": f"new {n}"}]})
            if n == 2:
                house.todoist.fail("ann", Fault.server_error(500), Fault.server_error(500), Fault.server_error(500))
            service.tip()
            by_night.add(overtake(house, house.connection, house.clock.at + timedelta(minutes=1)))
            house.clock.forward(minutes=2)
            service.tip()
            house.clock.forward(hours=7)
        made_from = {found for (found,) in house.rows("SELECT context_hash FROM decisions")}
        assert house.one("SELECT count(*) FROM decisions") == 8
        assert made_from <= by_night | {context_hash for context_hash, _ in kept(house)}
        assert {digest(text) for _, text in kept(house)} == {context_hash for context_hash, _ in kept(house)}

    def test_user_is_removed(self, house: House, service: Service) -> None:
        """With a user what was kept of theirs goes."""
        house.todoist.advance("ann", {"items": [{"id": "t9", "content": "pay the rent"}]})
        service.tip()
        assert len(kept(house)) == 1
        house.world.accounts.remove("ann")
        assert kept(house) == []


def says(*task_ids: str) -> Saying:
    """An LLM that writes a tip about each of these tasks."""
    tips = [
        {"kind": "focus", "title": f"Take up {task_id}", "body": "Ten minutes are enough.", "task_ids": [task_id]}
        for task_id in task_ids
    ]
    return lambda _: {"candidates": [{**tip, "only_today": False} for tip in tips]}


class TestTrace:
    @pytest.fixture
    def history(self, house: House, account: Account, tmp_path: Path) -> History:
        """The history of a user with four tasks, with the night's context in it; the LLM has one tip on each."""
        house.prepare("ann", account("call bob", "buy milk", "mend the roof", "water the plants"))
        house.llm.behaviour = says("t0", "t1", "t2", "t3")
        row = house.world.stored()["ann"]
        found = History(str(tmp_path / "history"), house.connection, lambda _: 0)
        found.append(
            [Version("ann", NOON, row["materialized_at"], row["context_hash"], row["context_json"], "night")]
        )
        return found

    def traced(self, house: House, service: Service, author: str) -> Traced:
        """The first of some decisions whose tip was written by such an author."""
        answers = (service.tip().body["decision_id"] for _ in range(50))
        found = (trace(house.connection, UUID(decision_id)) for decision_id in answers)
        return next(each for each in found if each and each.origin and each.origin.author == author)

    def test_what_is_told(self, house: House, service: Service, history: History) -> None:
        """A decision is traced to what the request answered."""
        answer = service.tip().body
        traced = trace(house.connection, UUID(answer["decision_id"]))
        assert traced is not None
        assert (traced.tip.title, traced.tip.task_ids) == (answer["tip"]["title"], answer["tip"]["task_ids"])
        assert (traced.source, traced.llm, traced.context_hash) == ("stored", "called", answer["context_hash"])
        assert traced.propensity is not None
        assert 0 < traced.propensity <= 1
        found = compare(traced, history.of("ann"))
        assert found.chosen_for == found.written_from == history.of("ann")[0]

    def test_kept_tip(self, house: House, service: Service, history: History) -> None:
        """A tip that was kept over two changes is traced to the LLM and to the context that it was told."""
        service.tip()
        [night] = history.of("ann")
        for n, task_id in enumerate(("t0", "t1")):
            house.todoist.advance("ann", {"items": [{"id": task_id, "checked": True}]})
            house.clock.forward(hours=1)
            house.connection.execute("UPDATE context_store SET materialized_at = materialized_at - INTERVAL '1 day'")
            assert service.tip().how == ("inline", "skipped")
            assert len(kept(house)) == n + 1
        traced = self.traced(house, service, "llm")
        set_id = house.one("SELECT candidate_set_id FROM candidate_sets WHERE author = 'llm'")
        made_at = house.one("SELECT made_at FROM candidate_sets WHERE author = 'llm'")
        assert traced.origin == Origin("llm", made_at, night.context_hash, set_id)
        history.append(history.waiting(["ann"]))
        found = compare(traced, known_versions(history, "ann"))
        assert found.written_from == night
        assert found.chosen_for == history.of("ann")[-1]
        assert found.sentences == [f"task '{gone}' is no longer open" for gone in ("call bob", "buy milk")]

    def test_rules_beside_the_kept(self, house: House, service: Service, history: History) -> None:
        """A tip that rules put beside those that were kept is traced to rules and to the context of that moment."""
        service.tip()
        news = {"id": "t9", "content": "pay the rent", "due": {"date": "2026-11-20"}, "priority": 4}
        house.todoist.advance("ann", {"items": [news]})
        house.clock.forward(hours=7)
        traced = self.traced(house, service, "rules")
        assert traced.origin is not None
        assert traced.origin.context_hash == traced.context_hash == standing(house)[0]
        found = compare(traced, known_versions(history, "ann"))
        assert found.written_from == found.chosen_for == known_versions(history, "ann")[-1]
        assert found.sentences == []
