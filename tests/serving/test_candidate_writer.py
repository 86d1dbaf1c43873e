"""Candidates that the LLM writes behind an answer, and the bound of its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from service import HOURS, Service, ServiceHarness, answering, task_ids, tip_about
from world import NOON

from contexts.postgres.sql import connect
from contexts.todoist.credentials import Credentials
from local.llm import Behaviour

LONG_S = 2.0
"""Seconds that the LLM takes if a response is not to wait for it: one that comes sooner did not."""

INSERT_WRITTEN = """
INSERT INTO candidate_sets (candidate_set_id, user_id, context_hash, author, origin, made_at, expires_at, renew_at,
                            tips, subject_hashes, kinds, themes, features, connection_number)
SELECT gen_random_uuid(), user_id, context_hash, 'llm', %s, %s, expires_at, renew_at, tips, subject_hashes, kinds,
       themes, features, connection_number
FROM candidate_sets ORDER BY made_at DESC LIMIT 1
"""
"""Store the newest set as one that the LLM wrote at an instant."""

INSERT_KEPT = """
INSERT INTO candidate_sets (candidate_set_id, user_id, context_hash, author, origin, kept_from, made_at, expires_at,
                            renew_at, tips, subject_hashes, kinds, themes, features, connection_number)
SELECT gen_random_uuid(), user_id, context_hash, 'kept', 'kept', candidate_set_id, %s, expires_at, renew_at, tips,
       subject_hashes, kinds, themes, features, connection_number
FROM candidate_sets ORDER BY made_at DESC LIMIT 1
"""
"""Store the tips of the newest set as kept at an instant."""


def about(*numbers: int, **more: Any) -> Any:
    """An LLM that writes a tip about each of these tasks of ann."""
    return answering(*(tip_about(f"t{n}", **more) for n in numbers))


def origins(harness: ServiceHarness) -> list[str]:
    """How the sets were made from which the tips so far were chosen."""
    return [origin for (origin,) in harness.rows("SELECT origin FROM decisions ORDER BY decided_at")]


def written(harness: ServiceHarness, service: Service, n: int, *outcomes: str) -> None:
    """Run the service until that many writings have had one of these outcomes."""

    async def is_so() -> bool:
        return n == sum([await service.metric_async("llm_writings_total", outcome=each) for each in outcomes])

    harness.until(is_so)


def let_ann_have_asked(harness: ServiceHarness, times: Iterable[timedelta]) -> None:
    """Log requests of ann. times: from now."""
    insert = "INSERT INTO decisions (decision_id, user_id, decided_at) VALUES (gen_random_uuid(), 'ann', %s)"
    for time in times:
        harness.connection.execute(insert, [harness.clock() + time])


def n_sets(harness: ServiceHarness, origin: str) -> int:
    return int(harness.one("SELECT count(*) FROM candidate_sets WHERE origin = %s", origin))


@pytest.fixture
def known(ann: None, harness: ServiceHarness, service: Service) -> None:
    """Ann has tips of the LLM about each of her tasks, and two of the tasks are done since."""
    harness.llm.behaviour = about(0, 1, 2, 3)
    assert service.tip().origin == ("stored", "called")
    harness.finish_tasks("t0", "t1", "t2")
    harness.clock.forward(hours=7)


@pytest.mark.usefixtures("known")
class TestBehind:
    def test_next_request_chooses_from_it(self, harness: ServiceHarness, service: Service) -> None:
        """The request is answered at once; the set that the LLM writes behind the answer is the next one's."""
        harness.llm.behaviour, harness.llm.seconds = answering(tip_about("t3"), tip_about("t3", "plan")), LONG_S
        first = service.tip()
        assert first.origin == ("inline", "skipped")
        assert first.seconds < LONG_S
        harness.until(lambda: n_sets(harness, "behind"))
        second = service.tip()
        assert second.origin == ("stored", "skipped")
        written = harness.one("SELECT candidate_set_id FROM candidate_sets WHERE origin = 'behind'")
        assert harness.rows("SELECT candidate_set_id FROM decisions ORDER BY decided_at DESC LIMIT 1") == [(written,)]
        assert origins(harness) == ["waited", "kept", "behind"]
        assert harness.calls() == (1, 2)

    def test_decision_names_the_origin_and_the_age(self, harness: ServiceHarness, service: Service) -> None:
        """A decision logs how its set was made and its age; a set of kept tips names the set that the LLM wrote."""
        harness.llm.behaviour = Behaviour.SERVER_ERROR
        service.tip()
        harness.clock.forward(seconds=90)
        service.tip()
        ages = harness.rows("SELECT origin, round(set_age_s::numeric) FROM decisions ORDER BY decided_at")
        assert [(origin, int(age)) for origin, age in ages] == [("waited", 0), ("kept", 0), ("kept", 90)]
        first, kept_from = harness.rows("SELECT candidate_set_id, kept_from FROM candidate_sets ORDER BY made_at")
        assert kept_from[1] == first[0]

    def test_once_for_many_requests(self, harness: ServiceHarness, service: Service) -> None:
        """Concurrent requests of one user, in two processes, have the LLM write one set in total."""
        harness.llm.behaviour, harness.llm.seconds = answering(tip_about("t3"), tip_about("t3", "plan")), 0.3
        both = (service, harness.open())
        responses = harness.together(*(each.tip_async() for _ in range(10) for each in both))
        assert {each.body["llm"] for each in responses} == {"skipped"}
        harness.until(lambda: n_sets(harness, "behind"))
        assert harness.calls() == (1, 2)
        assert n_sets(harness, "behind") == 1

    @pytest.mark.parametrize(
        ("asks_at", "is_written"), [((), True), ((0,), False), ((0, 3), True), ((-5, 0.3), False)]
    )
    def test_only_if_the_user_will_probably_ask_again(
        self, harness: ServiceHarness, service: Service, asks_at: tuple[float, ...], is_written: bool
    ) -> None:
        """Nothing is written for a user who never asks again that day, half an hour or more later.

        asks_at: hours from the present time of the day at which the user asked on each of the last ten days.
        """
        harness.connection.execute("DELETE FROM decisions")
        let_ann_have_asked(
            harness, [timedelta(hours=n, days=-day, minutes=3 * (-1) ** day) for day in range(1, 11) for n in asks_at]
        )
        harness.llm.behaviour = answering(tip_about("t3"), tip_about("t3", "plan"))
        assert service.tip().origin == ("inline", "skipped")
        written(harness, service, 2, "stored", "improbable")  # one of them before
        assert n_sets(harness, "behind") == is_written
        assert len(harness.llm.calls) == 1 + is_written

    def test_always_without_tips_ahead(self, harness: ServiceHarness) -> None:
        """With `TIPS_AHEAD=off` a set is written behind each answer that needs one."""
        let_ann_have_asked(harness, [timedelta(days=-day) for day in range(1, 11)])
        service = harness.open(tips_ahead="off")
        harness.llm.behaviour = answering(tip_about("t3"), tip_about("t3", "plan"))
        service.tip()
        harness.until(lambda: n_sets(harness, "behind"))

    @pytest.mark.parametrize("is_kept", [False, True])
    def test_written_by_another_process(self, harness: ServiceHarness, service: Service, is_kept: bool) -> None:
        """A process that waited until another one had written a set does not call the LLM.

        Nor does it if a further request has kept tips of that set meanwhile.
        """
        number = harness.one("SELECT connection_number FROM todoist_accounts")
        with connect(harness.database_url) as other:
            other.execute("SELECT pg_advisory_lock(7402, hashtext(%s))", [f"write ann {number}"])
            service.tip()
            harness.connection.execute(INSERT_WRITTEN, ["behind", harness.clock() + timedelta(seconds=1)])
            if is_kept:
                harness.connection.execute(INSERT_KEPT, [harness.clock() + timedelta(seconds=2)])
        written(harness, service, 1, "written_elsewhere")
        assert len(harness.llm.calls) == 1

    def test_newest_stays(self, harness: ServiceHarness, service: Service) -> None:
        """A set of the LLM that is stored while a request puts rules beside valid tips stays the newest one."""
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'candidate_sets'::REGCLASS"

        async def write_ahead() -> None:
            with connect(harness.database_url) as other, other.transaction():
                other.execute("LOCK TABLE candidate_sets IN EXCLUSIVE MODE")
                request = asyncio.create_task(service.tip_async())
                async with asyncio.timeout(5):
                    while not harness.one(waits):
                        await asyncio.sleep(0.01)
                other.execute(INSERT_WRITTEN, ["ahead", harness.clock()])
            await request

        harness.llm.behaviour = Behaviour.SERVER_ERROR
        harness.run(write_ahead())
        newest = "SELECT origin FROM candidate_sets ORDER BY made_at DESC"
        assert [origin for (origin,) in harness.rows(newest)] == ["ahead", "kept", "waited"]

    def test_database_gone(self, harness: ServiceHarness, service: Service) -> None:
        """If the database is gone when the LLM has written, the set is lost, and the service goes on."""
        harness.llm.seconds = 0.5
        service.tip()
        harness.until(lambda: len(harness.llm.calls) == 2)
        with harness.without_database():
            written(harness, service, 1, "failed")
        assert service.tip().status == 200

    def test_changed_meanwhile(self, harness: ServiceHarness) -> None:
        """Of a set that was written for an earlier context only the tips that are still valid are used."""

        def changed(body: Mapping[str, Any]) -> Mapping[str, Any]:
            harness.finish_tasks("t3")
            night = Thread(target=harness.world.night, args=[NOON + 8 * HOURS])  # it needs a loop of its own
            night.start()
            night.join()
            return answering(*(tip_about(f"t{n}", reference=f"t{at}") for at, n in enumerate((3, 8, 9), 1)))(body)

        service = harness.open(llm_timeout=60)
        news = [{"id": f"t{n}", "content": f"sew {n}", "added_by_uid": "1"} for n in (8, 9)]
        harness.todoist.advance("ann", {"items": news})
        harness.llm.behaviour = changed
        service.tip()
        harness.until(lambda: n_sets(harness, "behind"), timeout_s=60)
        assert task_ids(harness.candidates()) == {"t3", "t8", "t9"}
        harness.clock.forward(hours=1)
        assert service.tip().origin == ("stored", "skipped")
        assert task_ids(harness.candidates()) == {"t8", "t9"}
        assert origins(harness)[-1] == "kept"
        assert len(harness.llm.calls) == 2

    def test_where_the_llm_was_called(self, harness: ServiceHarness, service: Service) -> None:
        """The record of a call says whether a request waited for it."""
        service.tip()
        harness.until(lambda: n_sets(harness, "behind"))
        harness.until(lambda: len(harness.rows("SELECT FROM llm_calls")) == 2)
        places = harness.rows("SELECT place, candidate_set_id IS NULL FROM llm_calls ORDER BY called_at")
        assert places == [("request", False), ("behind", False)]

    def test_metrics(self, harness: ServiceHarness, service: Service) -> None:
        """Sets are counted by their origin, and writings by their outcome."""
        service.tip()
        written(harness, service, 2, "stored")
        sets = {
            origin: service.metric("candidate_sets_total", origin=origin) for origin in ("waited", "kept", "behind")
        }
        assert sets == {"waited": 1, "kept": 1, "behind": 1}
        assert service.metric("tip_origin_total", origin="kept") == 1


class TestAccounts:
    """The account changes while the LLM writes."""

    def changed(self, harness: ServiceHarness, service: Service, change: Any) -> None:
        """A set is written behind an answer, and the account changes before its call has ended."""

        def then(body: Mapping[str, Any]) -> Mapping[str, Any]:
            change()
            return answering(tip_about("t3"))(body)

        harness.llm.behaviour = then
        service.tip()
        written(harness, service, 1, "outdated")

    @pytest.mark.usefixtures("known")
    def test_replaced(self, harness: ServiceHarness, service: Service) -> None:
        """For an account that was replaced meanwhile nothing is stored, and the call is recorded."""
        accounts = harness.world.accounts
        credentials = Credentials("another-token")
        self.changed(
            harness,
            service,
            lambda: accounts.add("ann", email="a@x.org", timezone="UTC", credentials=credentials),
        )
        assert n_sets(harness, "behind") == 0
        assert harness.rows("SELECT candidate_set_id IS NULL FROM llm_calls ORDER BY called_at") == [
            (False,),
            (True,),
        ]

    @pytest.mark.usefixtures("known")
    def test_removed(self, harness: ServiceHarness, service: Service) -> None:
        """Of a user who was removed meanwhile nothing is stored."""
        self.changed(harness, service, lambda: harness.world.accounts.remove("ann"))
        assert harness.rows("SELECT FROM candidate_sets") == []
        assert harness.rows("SELECT FROM llm_calls") == []


class TestFirstWait:
    @pytest.mark.usefixtures("ann")
    def test_takes_longer(self, harness: ServiceHarness) -> None:
        """A user without any set of the LLM waits for it; if it takes longer, its set is the next request's."""
        service = harness.open(llm_first_wait=0.3)
        harness.llm.seconds = LONG_S
        first = service.tip()
        assert first.origin == ("stored", "fallback")
        assert 0.3 <= first.seconds < LONG_S
        harness.until(lambda: n_sets(harness, "behind"))
        assert service.tip().origin == ("stored", "skipped")
        assert origins(harness) == ["rules", "behind"]
        assert harness.calls() == (0, 1)

    @pytest.mark.usefixtures("known")
    def test_setting(self, harness: ServiceHarness) -> None:
        """With LLM_WAIT a request waits so long for the LLM; after that the call goes on, and its tips are stored."""
        service = harness.open(llm_wait=0.3)
        harness.llm.behaviour, harness.llm.seconds = answering(tip_about("t3"), tip_about("t3", "plan")), LONG_S
        first = service.tip()
        assert first.origin == ("inline", "fallback")
        assert 0.3 <= first.seconds < LONG_S
        harness.until(lambda: n_sets(harness, "behind"))
        assert service.tip().origin == ("stored", "skipped")

    @pytest.mark.usefixtures("ann")
    def test_no_wait(self, harness: ServiceHarness) -> None:
        """With LLM_FIRST_WAIT=0 not even the first request waits."""
        service = harness.open(llm_first_wait=0)
        harness.llm.seconds = LONG_S
        assert service.tip().seconds < LONG_S
        harness.until(lambda: n_sets(harness, "behind"))
        assert service.tip().origin == ("stored", "skipped")

    @pytest.mark.usefixtures("known")
    def test_unexpectedly(self, harness: ServiceHarness, service: Service) -> None:
        """A user who comes back after days gets tips at once, and the LLM's at the next request."""
        harness.clock.forward(days=10)
        harness.llm.seconds = LONG_S
        first = service.tip()
        assert first.origin in {("inline", "fallback"), ("inline", "skipped")}
        assert first.seconds < LONG_S
        harness.clock.forward(minutes=1)
        harness.until(lambda: n_sets(harness, "behind"))
        assert service.tip().origin == ("stored", "skipped")
        assert origins(harness)[-1] == "behind"

    @pytest.mark.usefixtures("known")
    def test_after_rules_alone(self, harness: ServiceHarness, service: Service) -> None:
        """A user whose newest candidates are rule-based, but for whom the LLM wrote once, does not wait."""
        harness.llm.behaviour = Behaviour.SERVER_ERROR
        harness.finish_tasks("t3")
        harness.todoist.advance("ann", {"items": [{"id": "t8", "content": "sew", "added_by_uid": "1"}]})
        service.tip()
        harness.until(lambda: len(harness.llm.calls) > 1)
        harness.llm.behaviour, harness.llm.seconds = Behaviour.GOOD, LONG_S
        harness.clock.forward(minutes=6)
        response = service.tip()
        assert (response.origin, response.seconds < LONG_S) == (("stored", "fallback"), True)
        assert origins(harness)[1:] == ["rules", "rules"]


@pytest.mark.usefixtures("ann")
def test_reaction_while_the_llm_writes(harness: ServiceHarness, service: Service) -> None:
    """A reaction to a rule-based tip does not hide the set that the LLM writes at that moment."""
    harness.llm.behaviour = about(0, 1)
    service.tip()
    harness.finish_tasks("t0", "t1")
    harness.clock.forward(hours=7)
    harness.llm.behaviour, harness.llm.seconds = about(2, 3), LONG_S
    rule_based = service.tip().body
    harness.clock.forward(seconds=1)
    service.react(rule_based["decision_id"], "dismissed")
    harness.until(lambda: n_sets(harness, "behind"))
    service.tip()
    assert origins(harness) == ["waited", "rules", "behind"]


@pytest.mark.usefixtures("known")
class TestProviderDown:
    def test_for_a_day(self, harness: ServiceHarness, service: Service) -> None:
        """While the provider is down for a day, every request is answered at once, and few call it."""
        harness.llm.behaviour = Behaviour.SERVER_ERROR
        responses = []
        for _ in range(48):
            responses.append(service.tip())
            harness.clock.forward(minutes=30)
        assert max(each.seconds for each in responses) < LONG_S
        assert {each.body["source"] for each in responses} == {"stored", "inline"}
        assert task_ids([each.body["tip"] for each in responses]) <= {"t3"}
        assert len(harness.llm.calls) <= 1 + 5 + 2  # the circuit opens after five failures, and lets few through

    def test_pause(self, harness: ServiceHarness, service: Service) -> None:
        """After a failed call behind an answer the LLM is called again in five minutes, not at each request."""
        harness.llm.behaviour = Behaviour.SERVER_ERROR
        service.tip()
        written(harness, service, 1, "no_tips")
        harness.clock.forward(minutes=4)
        service.tip()
        assert len(harness.llm.calls) == 2
        harness.clock.forward(minutes=2)
        service.tip()
        harness.until(lambda: len(harness.llm.calls) == 3)

    def test_pause_if_not_called(self, harness: ServiceHarness, service: Service) -> None:
        """If the LLM is not called because its circuit is open, it is tried again in half a minute."""
        harness.llm.behaviour = Behaviour.SERVER_ERROR
        for _ in range(6):
            service.tip()
            n = len(harness.rows("SELECT FROM decisions")) - 1
            written(harness, service, n, "no_tips", "not_called")
            harness.clock.forward(minutes=6)
        assert service.metric("llm_writings_total", outcome="not_called") == 1
        renew_at = harness.one("SELECT renew_at FROM candidate_sets ORDER BY made_at DESC LIMIT 1")
        assert renew_at - (harness.clock.at - timedelta(minutes=6)) < timedelta(seconds=31)


@pytest.fixture
def users(harness: ServiceHarness, account: Any) -> list[str]:
    """Twelve users with contexts, and an LLM that takes its time."""
    names = [f"user-{n}" for n in range(12)]
    for name in names:
        harness.add_with_context(name, account("water the plants", "call bob", "buy milk"))
    harness.llm.seconds = 0.5
    return names


class TestBound:
    def test_in_requests(self, harness: ServiceHarness, users: list[str]) -> None:
        """As many requests as allowed wait for the LLM; the others get rule-based tips without waiting."""
        service = harness.open(llm_concurrency=3, llm_wait=8, llm_timeout=8, request_budget=10)
        responses = harness.together(*(service.tip_async(user) for user in users))
        called = [each for each in responses if each.origin == ("stored", "called")]
        fallback = [each for each in responses if each.origin == ("stored", "fallback")]
        assert (len(called), len(fallback), len(harness.llm.calls)) == (3, 9, 3)
        assert max(each.seconds for each in fallback) < min(each.seconds for each in called)

    def test_behind_answers(self, harness: ServiceHarness, users: list[str]) -> None:
        """Behind answers as many sets are written at once as allowed; the others are not begun."""
        service = harness.open(llm_concurrency=3, llm_first_wait=0)
        harness.together(*(service.tip_async(user) for user in users))
        harness.until(lambda: n_sets(harness, "behind") == 3)
        assert len(harness.llm.calls) == 3
        assert service.metric("llm_writings_total", outcome="no_room") == 9

    @pytest.mark.parametrize("waits", [{"llm_wait": 8}, {"llm_first_wait": 0}], ids=str)
    def test_soon_again(self, harness: ServiceHarness, users: list[str], waits: dict[str, float]) -> None:
        """A user whose request was beyond the bound gets tips of the LLM half a minute later."""
        service = harness.open(llm_concurrency=1, llm_timeout=8, request_budget=10, **waits)
        harness.together(*(service.tip_async(user) for user in users[:2]))
        harness.until(lambda: len(harness.rows("SELECT FROM llm_calls")) == 1)
        [(taken,)] = harness.rows("SELECT user_id FROM llm_calls")
        [left_out] = [user for user in users[:2] if user != taken]
        harness.clock.forward(seconds=20)
        assert service.tip(left_out).body["llm"] == "fallback"
        assert len(harness.llm.calls) == 1
        harness.clock.forward(seconds=11)
        service.tip(left_out)
        harness.until(lambda: len(harness.llm.calls) == 2)

    def test_failed_call(self, harness: ServiceHarness, users: list[str]) -> None:
        """A call that failed makes room for the next one."""
        harness.llm.seconds = 30
        service = harness.open(llm_concurrency=1, llm_timeout=1.5)
        assert service.tip(users[0]).body["llm"] == "fallback"
        harness.llm.seconds = 0
        assert service.tip(users[1]).body["llm"] == "called"
        harness.clock.forward(minutes=4)
        assert service.tip(users[0]).body["llm"] == "fallback"


class TestWrittenAhead:
    @pytest.mark.usefixtures("ann")
    def test_for_the_next_day(self, harness: ServiceHarness, service: Service) -> None:
        """Of a set that was written in the evening for the next day, only tips for any day are used today."""
        harness.llm.behaviour = answering(
            tip_about("t0"),
            tip_about("t1"),
            tip_about("t2", only_today=True),
            tip_about("t3", "plan", only_today=True),
        )
        service.tip()
        harness.connection.execute(
            "UPDATE candidate_sets SET expires_at = expires_at + INTERVAL '1 day', renew_at = renew_at + INTERVAL"
            " '1 day', subject_hashes[3] = 'of tomorrow', subject_hashes[4] = 'of tomorrow'"
        )
        assert service.tip().origin == ("stored", "skipped")
        assert {"t0", "t1"} <= task_ids(harness.candidates())
        titles = {tip["title"] for tip in harness.candidates()}
        assert not titles & {"Take up number 2", "Take up number 3"}
        assert len(harness.llm.calls) == 1
