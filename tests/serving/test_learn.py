"""Learning from reactions: once each, in any process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import numpy as np
import pytest
from numpy.typing import NDArray
from service import HOURS, Service, ServiceHarness
from world import NOON

from serving.composition import POLICY
from serving.learn import Learner
from serving.metrics import Metrics
from tips.bandit import REWARDS, Posterior
from tips.features import N_FEATURES

PRIOR = Posterior.prior(N_FEATURES)
DAY = timedelta(hours=24)


@pytest.fixture
def ann(harness: ServiceHarness, account: Any) -> None:
    """A user with a few tasks and a context assembled at noon."""
    overdue = {"id": "t9", "content": "pay the rent", "due": {"date": "2026-11-20"}}
    harness.add_with_context("ann", account("water the plants", "call bob", "buy milk", overdue))


@pytest.fixture
def service(ann: None, harness: ServiceHarness) -> Service:
    """A service without an LLM, which is not needed here."""
    return harness.open(llm_model=None, request_budget=60)


def decisions(service: Service, n: int) -> list[str]:
    return [service.tip().body["decision_id"] for _ in range(n)]


def chosen_features(harness: ServiceHarness, decision_id: str) -> NDArray[np.float64]:
    """The features of the candidate that a decision chose, shape (1, N_FEATURES)."""
    [[features, chosen]] = harness.rows("SELECT features, chosen FROM decisions WHERE decision_id = %s", decision_id)
    matrix = np.frombuffer(features, np.float32).reshape(-1, N_FEATURES)
    return matrix[[chosen]].astype(np.float64)


def expected_posterior(harness: ServiceHarness, reactions: dict[str, str]) -> Posterior:
    """The posterior after these reactions, one after another from the prior."""
    posterior = PRIOR
    for decision_id, reaction in reactions.items():
        posterior = posterior.updated(chosen_features(harness, decision_id), np.array([REWARDS[reaction]]))
    return posterior


def is_same(one: Posterior, other: Posterior) -> bool:
    return bool((one.precision == other.precision).all() and (one.weighted == other.weighted).all())


def react_async(service: Service, decision_id: str, reaction: str) -> Any:
    return service.request_async("POST", f"/v1/decisions/{decision_id}/reaction", json={"reaction": reaction})


@asynccontextmanager
async def learner(harness: ServiceHarness) -> AsyncIterator[Learner]:
    """The learner of another process."""
    async with asyncpg.create_pool(harness.database_url, min_size=1, max_size=2) as pool:
        other = Learner(pool, POLICY, Metrics(), harness.clock)
        await other.refresh()
        yield other


def ignore(harness: ServiceHarness, n_processes: int = 1) -> list[int]:
    """The numbers of tips that concurrent processes mark as ignored after a day."""

    async def one() -> int:
        async with learner(harness) as other:
            return await other.ignore(DAY)

    return harness.together(*(one() for _ in range(n_processes)))


class TestReact:
    def test_first(self, harness: ServiceHarness, service: Service) -> None:
        """A reaction is stored with its reward, and updates the posterior in Postgres by exactly this."""
        [decision_id] = decisions(service, 1)
        response = service.react(decision_id, "accepted")
        assert response.body == {"decision_id": decision_id, "reaction": "accepted", "is_news": True}
        assert harness.rows("SELECT decision_id::TEXT, reaction, reward FROM reactions") == [
            (decision_id, "accepted", REWARDS["accepted"])
        ]
        assert is_same(harness.posterior(), expected_posterior(harness, {decision_id: "accepted"}))

    def test_again(self, harness: ServiceHarness, service: Service) -> None:
        """A repeated reaction changes nothing, and is not learned twice."""
        [decision_id] = decisions(service, 1)
        service.react(decision_id, "accepted")
        response = service.react(decision_id, "accepted")
        assert response.status == 200
        assert response.body == {"decision_id": decision_id, "reaction": "accepted", "is_news": False}
        assert is_same(harness.posterior(), expected_posterior(harness, {decision_id: "accepted"}))
        assert harness.posterior().n_updates == 1

    @pytest.mark.parametrize(
        ("first", "second", "status", "stored"),
        [
            ("ignored", "dismissed", 200, "dismissed"),
            ("ignored", "snoozed", 200, "snoozed"),
            ("ignored", "accepted", 200, "accepted"),
            ("ignored", "done", 200, "done"),
            ("accepted", "ignored", 200, "accepted"),
            ("accepted", "done", 200, "done"),
            ("dismissed", "done", 200, "done"),
            ("snoozed", "done", 200, "done"),
            ("done", "accepted", 200, "done"),
            ("done", "ignored", 200, "done"),
            ("done", "dismissed", 409, "done"),
            ("done", "snoozed", 409, "done"),
            ("accepted", "dismissed", 409, "accepted"),
            ("dismissed", "accepted", 409, "dismissed"),
            ("snoozed", "dismissed", 409, "snoozed"),
        ],
    )
    def test_ranks(
        self, harness: ServiceHarness, service: Service, first: str, second: str, status: int, stored: str
    ) -> None:
        """Any reaction replaces `ignored`, `done` replaces any, others conflict; only the stored one is learned."""
        [decision_id] = decisions(service, 1)
        service.react(decision_id, first)
        response = service.react(decision_id, second)
        assert response.status == status
        if status == 200:
            assert response.body == {"decision_id": decision_id, "reaction": stored, "is_news": stored != first}
        else:
            rule = "nothing replaces 'done'" if stored == "done" else "only 'done' replaces it"
            assert response.body["detail"] == (
                f"the reaction '{stored}' is stored for this decision, and '{second}' was not stored: {rule}"
            )
        assert harness.rows("SELECT reaction, reward FROM reactions") == [(stored, REWARDS[stored])]
        assert is_same(harness.posterior(), expected_posterior(harness, {decision_id: stored}))

    def test_ignored_accepted_done(self, harness: ServiceHarness, service: Service) -> None:
        """A reaction corrected twice leaves the same posterior as `done` alone."""
        [decision_id] = decisions(service, 1)
        for reaction in ("ignored", "accepted", "done"):
            assert service.react(decision_id, reaction).body["is_news"] is True
        assert is_same(harness.posterior(), expected_posterior(harness, {decision_id: "done"}))

    def test_sums(self, harness: ServiceHarness, service: Service) -> None:
        """The posterior is the prior plus the sums over all reactions."""
        reactions = dict(zip(decisions(service, 8), [*REWARDS, "done", "done", "dismissed"], strict=True))
        for decision_id, reaction in reactions.items():
            service.react(decision_id, reaction)
        assert is_same(harness.posterior(), expected_posterior(harness, reactions))
        assert harness.posterior().n_updates == 8

    def test_other_policy(self, harness: ServiceHarness, service: Service) -> None:
        """A reaction to a decision of another policy is stored, but does not update this policy."""
        [decision_id] = decisions(service, 1)
        harness.connection.execute("UPDATE decisions SET policy_version = 'thompson-f0@7', features = 'xxxx'")
        assert service.react(decision_id, "done").body["is_news"] is True
        assert harness.rows("SELECT reaction, reward FROM reactions") == [("done", 1.0)]
        assert is_same(harness.posterior(), PRIOR)

    def test_used_at_once(self, service: Service) -> None:
        """The next tip is chosen with the updated or corrected posterior, and reports its version."""
        [decision_id] = decisions(service, 1)
        versions = [service.tip().body["policy_version"]]
        for reaction in ("accepted", "accepted", "done"):
            service.react(decision_id, reaction)
            versions.append(service.tip().body["policy_version"])
        assert versions == [f"{POLICY}@{n}" for n in (0, 1, 1, 2)]


class TestConcurrent:
    def test_same_reaction(self, harness: ServiceHarness, service: Service) -> None:
        """Concurrent copies of a reaction to two services change the stored one once, and are learned once."""
        other = harness.open(llm_model=None, request_budget=60)
        [decision_id] = decisions(service, 1)
        responses = harness.together(
            *(react_async(each, decision_id, "done") for _ in range(10) for each in (service, other))
        )
        assert {each.status for each in responses} == {200}
        assert sum(each.body["is_news"] for each in responses) == 1
        assert is_same(harness.posterior(), expected_posterior(harness, {decision_id: "done"}))

    def test_contradicting_reactions(self, harness: ServiceHarness, service: Service) -> None:
        """The first of concurrent contradicting reactions is stored, and is the only one learned."""
        other = harness.open(llm_model=None, request_budget=60)
        [decision_id] = decisions(service, 1)
        responses = harness.together(
            *(react_async(service, decision_id, "accepted") for _ in range(5)),
            *(react_async(other, decision_id, "dismissed") for _ in range(5)),
        )
        stored = harness.one("SELECT reaction FROM reactions")
        assert sorted(each.status for each in responses) == [200] * 5 + [409] * 5
        assert {each.body["reaction"] for each in responses if each.status == 200} == {stored}
        assert is_same(harness.posterior(), expected_posterior(harness, {decision_id: stored}))

    def test_no_update_is_lost(self, harness: ServiceHarness, service: Service) -> None:
        """Concurrent reactions to many decisions, sent to two services, are all learned."""
        other = harness.open(llm_model=None, request_budget=60)
        reactions = {
            decision_id: ("done", "dismissed")[n % 2] for n, decision_id in enumerate(decisions(service, 60))
        }
        harness.together(
            *(react_async((service, other)[n % 2], *each) for n, each in enumerate(reactions.items())),
        )
        learned, expected = harness.posterior(), expected_posterior(harness, reactions)
        assert learned.n_updates == 60
        assert np.allclose(learned.precision, expected.precision, atol=1e-9)
        assert np.allclose(learned.weighted, expected.weighted, atol=1e-9)


class TestRefresh:
    def test_other_processes(self, harness: ServiceHarness, service: Service) -> None:
        """A process loads another process's updates and corrections."""
        [decision_id] = decisions(service, 1)

        async def learned() -> list[Posterior]:
            posteriors = []
            async with learner(harness) as other:
                for reaction in ("ignored", "accepted", "done"):
                    await react_async(service, decision_id, reaction)
                    await other.refresh()
                    posteriors.append(other.posterior)
            return posteriors

        ways = [expected_posterior(harness, {decision_id: reaction}) for reaction in ("ignored", "accepted", "done")]
        assert [is_same(*each) for each in zip(harness.run(learned()), ways, strict=True)] == [True] * 3

    def test_restart(self, harness: ServiceHarness, service: Service) -> None:
        """A new service continues with the learned posterior."""
        service.react(decisions(service, 1)[0], "done")
        assert harness.open(llm_model=None).tip().body["policy_version"] == f"{POLICY}@1"


class TestIgnore:
    def test_after_a_day(self, harness: ServiceHarness, service: Service) -> None:
        """A tip without a reaction after a day is marked as ignored, and learned once."""
        early, answered = decisions(service, 2)
        service.react(answered, "done")
        harness.clock.forward(hours=1)
        late = service.tip().body["decision_id"]
        harness.clock.at = NOON + DAY + timedelta(minutes=30)
        assert [ignore(harness), ignore(harness)] == [[1], [0]]
        assert dict(harness.rows("SELECT decision_id::TEXT, reaction FROM reactions")) == {
            early: "ignored",
            answered: "done",
        }
        assert is_same(harness.posterior(), expected_posterior(harness, {answered: "done", early: "ignored"}))
        harness.clock.forward(hours=1)
        assert ignore(harness) == [1]
        assert harness.one("SELECT reaction FROM reactions WHERE decision_id = %s", late) == "ignored"

    def test_undelivered(self, harness: ServiceHarness, service: Service) -> None:
        """A tip that reached nobody is not marked as ignored, and nothing is learned from it."""
        lost, shown = decisions(service, 2)
        harness.connection.execute("UPDATE decisions SET delivered = FALSE WHERE decision_id = %s", [lost])
        harness.clock.forward(hours=25)
        assert ignore(harness) == [1]
        assert harness.rows("SELECT decision_id::TEXT FROM reactions") == [(shown,)]
        assert is_same(harness.posterior(), expected_posterior(harness, {shown: "ignored"}))

    def test_two_processes(self, harness: ServiceHarness, service: Service) -> None:
        """Concurrent processes mark each tip as ignored once in total."""
        decision_ids = decisions(service, 30)
        harness.clock.forward(hours=25)
        assert sum(ignore(harness, n_processes=3)) == 30
        assert harness.rows("SELECT reaction, count(*) FROM reactions GROUP BY 1") == [("ignored", 30)]
        learned = harness.posterior()
        assert learned.n_updates == 30
        assert np.allclose(
            learned.precision,
            expected_posterior(harness, dict.fromkeys(decision_ids, "ignored")).precision,
            atol=1e-9,
        )

    def test_very_many(self, harness: ServiceHarness, service: Service) -> None:
        """Any number of ignored tips is marked in one call."""
        decisions(service, 1)
        columns = "user_id, decided_at, tip_kind, theme, policy_version, chosen, propensities, features"
        harness.connection.execute(
            f"INSERT INTO decisions (decision_id, {columns}) SELECT gen_random_uuid(), {columns} FROM decisions,"
            " generate_series(1, 1099)"
        )
        harness.clock.forward(hours=25)
        assert ignore(harness) == [1100]
        assert harness.posterior().n_updates == 1100

    def test_long_ago(self, harness: ServiceHarness, service: Service) -> None:
        """Tips older than a week are not marked."""
        decisions(service, 1)
        harness.clock.forward(days=9)
        assert ignore(harness) == [0]
        assert harness.rows("SELECT FROM reactions") == []

    def test_late_reaction(self, harness: ServiceHarness, service: Service) -> None:
        """A reaction after `ignored` replaces it, and leaves no trace of it in the posterior."""
        [decision_id] = decisions(service, 1)
        harness.clock.forward(hours=25)
        ignore(harness)
        assert service.react(decision_id, "accepted").body["is_news"] is True
        assert is_same(harness.posterior(), expected_posterior(harness, {decision_id: "accepted"}))

    def test_at_the_same_moment(self, harness: ServiceHarness, service: Service) -> None:
        """A reaction concurrent with the marking as ignored is stored, and learned once."""
        decision_ids = decisions(service, 20)
        harness.clock.forward(hours=25)

        async def ignoring() -> None:
            async with learner(harness) as other:
                await other.ignore(DAY)

        responses = harness.together(
            ignoring(), *(react_async(service, each, "done") for each in decision_ids), ignoring()
        )
        assert {each.status for each in responses if each} == {200}
        assert harness.rows("SELECT reaction, count(*) FROM reactions GROUP BY 1") == [("done", 20)]
        learned, expected = harness.posterior(), expected_posterior(harness, dict.fromkeys(decision_ids, "done"))
        assert np.allclose(learned.precision, expected.precision, atol=1e-9)
        assert np.allclose(learned.weighted, expected.weighted, atol=1e-9)


class TestNextDay:
    def test_context(self, harness: ServiceHarness, service: Service) -> None:
        """A user's reactions are in the context from the next day on, by kind, and not before."""
        harness.world.accounts.set_active("ann", active=True)
        tip = service.tip().body
        service.react(tip["decision_id"], "done")
        harness.clock.forward(hours=7)
        assert service.tip().body["source"] == "inline"
        assert service.context()["reactions"] == {"by_kind": {}, "by_theme": {}}
        harness.clock.forward(hours=7)
        assert service.tip().body["source"] == "inline"
        assert service.context()["reactions"]["by_kind"] == {tip["tip"]["kind"]: {"done": 1}}

    def test_next_run(self, harness: ServiceHarness, service: Service) -> None:
        """The next pipeline run has the reaction in `tip_reactions`, and assembles the same context from it."""
        tip = service.tip().body
        service.react(tip["decision_id"], "dismissed")
        harness.world.night(NOON + DAY)
        [row] = harness.world.rows("tip_reactions")
        assert (row["decision_id"], row["reaction"]) == (tip["decision_id"], "dismissed")
        assert (row["tip_kind"], row["theme"]) == (tip["tip"]["kind"], tip["tip"]["theme"] or "")
        context = json.loads(harness.world.stored()["ann"]["context_json"])
        assert context["reactions"]["by_kind"] == {tip["tip"]["kind"]: {"dismissed": 1}}


@pytest.mark.parametrize("reaction", ["accepted", "done", "dismissed", "snoozed"])
def test_no_tip_comes_again_at_once(harness: ServiceHarness, service: Service, reaction: str) -> None:
    """After a reaction the same tip is not chosen again, as long as two others are left; what was decided stays."""
    first = service.tip().body
    [[n_tips]] = harness.rows("SELECT cardinality(tips) FROM candidate_sets")
    before = harness.rows("SELECT * FROM candidate_sets")
    service.react(first["decision_id"], reaction)
    others = [service.tip().body for _ in range(20)]
    assert first["tip"] not in [each["tip"] for each in others]
    assert {each["source"] for each in others} == {"stored"}
    [[left]] = harness.rows("SELECT cardinality(tips) FROM candidate_sets ORDER BY made_at DESC LIMIT 1")
    assert left == n_tips - 1
    assert before[0] in harness.rows("SELECT * FROM candidate_sets")
    for _ in range(n_tips):
        service.react(service.tip().body["decision_id"], reaction)
    assert len(harness.candidates()) == 2


def test_an_ignored_tip_stays(harness: ServiceHarness, service: Service) -> None:
    """A tip that was ignored stays among the candidates."""
    service.react(service.tip().body["decision_id"], "ignored")
    assert harness.one("SELECT count(*) FROM candidate_sets") == 1


@pytest.mark.parametrize("case", ["expired", "of an earlier account"])
def test_a_set_that_is_not_used_again(harness: ServiceHarness, service: Service, case: str) -> None:
    """A late reaction to a tip of an expired set, or of one of an earlier account, makes no new set of it."""
    decision_id = service.tip().body["decision_id"]
    if case == "expired":
        harness.connection.execute("UPDATE candidate_sets SET expires_at = %s", (harness.clock.at,))
    else:  # a set from before sets had the number of their account
        harness.connection.execute("UPDATE candidate_sets SET connection_number = NULL")
        harness.connection.execute("UPDATE todoist_accounts SET connected_at = %s", (harness.clock.at + HOURS,))
    assert service.react(decision_id, "dismissed").status == 200
    assert harness.one("SELECT count(*) FROM candidate_sets") == 1
