"""What reactions teach: once each, whoever tells them, and what the log of decisions is good for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import numpy as np
import pytest
from numpy.typing import NDArray
from service import House, Service
from world import NOON

from serving.__main__ import POLICY
from serving.bandit import REWARDS, Posterior, ThompsonPolicy
from serving.features import N_FEATURES, N_STATIC
from serving.learn import Learner
from serving.metrics import Metrics

PRIOR = Posterior.prior(N_FEATURES)
DAY = timedelta(hours=24)


@pytest.fixture
def ann(house: House, account: Any) -> None:
    """A user with a few tasks, whose context was made ahead at noon."""
    overdue = {"id": "t9", "content": "pay the rent", "due": {"date": "2026-11-20"}}
    house.prepare("ann", account("water the plants", "call bob", "buy milk", overdue))


@pytest.fixture
def service(ann: None, house: House) -> Service:
    """Without an LLM, which teaches nobody anything here."""
    return house.open(llm_model=None)


def decisions(service: Service, n: int) -> list[str]:
    return [service.tip().body["decision_id"] for _ in range(n)]


def posterior(house: House) -> Posterior:
    """What all processes have learned so far."""
    [row] = house.rows("SELECT n_features, precision, weighted, n_updates FROM policies WHERE policy = %s", POLICY)
    return Posterior.stored(*row)


def seen(house: House, decision_id: str) -> NDArray[np.float64]:
    """The features of the candidate that a decision chose, shape (1, N_FEATURES)."""
    [[features, chosen]] = house.rows("SELECT features, chosen FROM decisions WHERE decision_id = %s", decision_id)
    matrix = np.frombuffer(features, np.float32).reshape(-1, N_FEATURES)
    return matrix[[chosen]].astype(np.float64)


def taught(house: House, reactions: dict[str, str]) -> Posterior:
    """What these reactions teach, told one after another to nobody before."""
    found = PRIOR
    for decision_id, reaction in reactions.items():
        found = found.updated(seen(house, decision_id), np.array([REWARDS[reaction]]))
    return found


def is_same(one: Posterior, other: Posterior) -> bool:
    return bool((one.precision == other.precision).all() and (one.weighted == other.weighted).all())


def reacting(service: Service, decision_id: str, reaction: str) -> Any:
    return service.asking("POST", f"/v1/decisions/{decision_id}/reaction", json={"reaction": reaction})


@asynccontextmanager
async def learner(house: House) -> AsyncIterator[Learner]:
    """The learner of one more process."""
    async with asyncpg.create_pool(house.database_url, min_size=1, max_size=2) as pool:
        found = Learner(pool, POLICY, Metrics(), house.clock)
        await found.refresh()
        yield found


def ignored(house: House, n_processes: int = 1) -> list[int]:
    """How many tips each of some processes, all at once, found to be ignored for a day."""

    async def one() -> int:
        async with learner(house) as found:
            return await found.ignore(DAY)

    return house.together(*(one() for _ in range(n_processes)))


class TestReact:
    def test_first(self, house: House, service: Service) -> None:
        """A reaction is stored with what it is worth, and moves the posterior in Postgres by just that."""
        [decision_id] = decisions(service, 1)
        told = service.react(decision_id, "accepted")
        assert told.body == {"decision_id": decision_id, "reaction": "accepted", "is_news": True}
        assert house.rows("SELECT decision_id::TEXT, reaction, reward FROM reactions") == [
            (decision_id, "accepted", REWARDS["accepted"])
        ]
        assert is_same(posterior(house), taught(house, {decision_id: "accepted"}))

    def test_again(self, house: House, service: Service) -> None:
        """Told again, a reaction is no news, and nothing is learned twice."""
        [decision_id] = decisions(service, 1)
        service.react(decision_id, "accepted")
        told = service.react(decision_id, "accepted")
        assert told.status == 200
        assert told.body == {"decision_id": decision_id, "reaction": "accepted", "is_news": False}
        assert is_same(posterior(house), taught(house, {decision_id: "accepted"}))
        assert posterior(house).n_updates == 1

    @pytest.mark.parametrize(
        ("first", "second", "status", "stands"),
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
            ("accepted", "dismissed", 409, "accepted"),
            ("dismissed", "accepted", 409, "dismissed"),
            ("snoozed", "dismissed", 409, "snoozed"),
        ],
    )
    def test_ranks(self, house: House, service: Service, first: str, second: str, status: int, stands: str) -> None:
        """`ignored` gives way to any, any to `done`, and no other to another; what stands is all that was learned."""
        [decision_id] = decisions(service, 1)
        service.react(decision_id, first)
        told = service.react(decision_id, second)
        assert told.status == status
        if status == 200:
            assert told.body == {"decision_id": decision_id, "reaction": stands, "is_news": stands != first}
        else:
            assert told.body["detail"] == f"this decision was '{stands}' already"
        assert house.rows("SELECT reaction, reward FROM reactions") == [(stands, REWARDS[stands])]
        assert is_same(posterior(house), taught(house, {decision_id: stands}))

    def test_ignored_accepted_done(self, house: House, service: Service) -> None:
        """A decision that went all the way up has taught what `done` alone would have."""
        [decision_id] = decisions(service, 1)
        for reaction in ("ignored", "accepted", "done"):
            assert service.react(decision_id, reaction).body["is_news"] is True
        assert is_same(posterior(house), taught(house, {decision_id: "done"}))

    def test_sums(self, house: House, service: Service) -> None:
        """The posterior is the prior and the sums over all reactions, no more and no less."""
        told = dict(zip(decisions(service, 8), [*REWARDS, "done", "done", "dismissed"], strict=True))
        for decision_id, reaction in told.items():
            service.react(decision_id, reaction)
        assert is_same(posterior(house), taught(house, told))
        assert posterior(house).n_updates == 8

    def test_of_another_policy(self, house: House, service: Service) -> None:
        """A reaction to what another policy chose by other features is stored, and teaches this one nothing."""
        [decision_id] = decisions(service, 1)
        house.connection.execute("UPDATE decisions SET policy_version = 'thompson-f0@7', features = 'xxxx'")
        assert service.react(decision_id, "done").body["is_news"] is True
        assert house.rows("SELECT reaction, reward FROM reactions") == [("done", 1.0)]
        assert is_same(posterior(house), PRIOR)

    def test_learned_at_once(self, service: Service) -> None:
        """The next tip is chosen by what the last reaction taught, or corrected, and says so."""
        [decision_id] = decisions(service, 1)
        versions = [service.tip().body["policy_version"]]
        for reaction in ("accepted", "accepted", "done"):
            service.react(decision_id, reaction)
            versions.append(service.tip().body["policy_version"])
        assert versions == [f"{POLICY}@{n}" for n in (0, 1, 1, 2)]


class TestAtOnce:
    def test_same_reaction(self, house: House, service: Service) -> None:
        """A reaction that is told many times at once, to two services, is news to one of them and learned once."""
        other = house.open(llm_model=None)
        [decision_id] = decisions(service, 1)
        told = house.together(*(reacting(each, decision_id, "done") for _ in range(10) for each in (service, other)))
        assert {each.status for each in told} == {200}
        assert sum(each.body["is_news"] for each in told) == 1
        assert is_same(posterior(house), taught(house, {decision_id: "done"}))

    def test_contradicting_reactions(self, house: House, service: Service) -> None:
        """Of reactions that contradict each other at once the first one stands, and is all that was learned."""
        other = house.open(llm_model=None)
        [decision_id] = decisions(service, 1)
        told = house.together(
            *(reacting(service, decision_id, "accepted") for _ in range(5)),
            *(reacting(other, decision_id, "dismissed") for _ in range(5)),
        )
        stands = house.one("SELECT reaction FROM reactions")
        assert sorted(each.status for each in told) == [200] * 5 + [409] * 5
        assert {each.body["reaction"] for each in told if each.status == 200} == {stands}
        assert is_same(posterior(house), taught(house, {decision_id: stands}))

    def test_no_update_is_lost(self, house: House, service: Service) -> None:
        """Reactions to many decisions, told to two services at once, are all learned."""
        other = house.open(llm_model=None)
        told = {decision_id: ("done", "dismissed")[n % 2] for n, decision_id in enumerate(decisions(service, 60))}
        house.together(
            *(reacting((service, other)[n % 2], *each) for n, each in enumerate(told.items())),
        )
        learned, wanted = posterior(house), taught(house, told)
        assert learned.n_updates == 60
        assert np.allclose(learned.precision, wanted.precision, atol=1e-9)
        assert np.allclose(learned.weighted, wanted.weighted, atol=1e-9)


class TestShared:
    def test_other_processes(self, house: House, service: Service) -> None:
        """What one process learned another takes over, corrections too."""
        [decision_id] = decisions(service, 1)

        async def learned() -> list[Posterior]:
            found = []
            async with learner(house) as other:
                for reaction in ("ignored", "accepted", "done"):
                    await reacting(service, decision_id, reaction)
                    await other.refresh()
                    found.append(other.posterior)
            return found

        ways = [taught(house, {decision_id: reaction}) for reaction in ("ignored", "accepted", "done")]
        assert [is_same(*each) for each in zip(house.run(learned()), ways, strict=True)] == [True] * 3

    def test_goes_on_after_a_restart(self, house: House, service: Service) -> None:
        """A service that starts chooses by what was learned before."""
        service.react(decisions(service, 1)[0], "done")
        assert house.open(llm_model=None).tip().body["policy_version"] == f"{POLICY}@1"


class TestIgnored:
    def test_after_the_horizon(self, house: House, service: Service) -> None:
        """A tip that nobody reacted to within a day was ignored, and that is learned, once."""
        early, answered = decisions(service, 2)
        service.react(answered, "done")
        house.clock.forward(hours=1)
        late = service.tip().body["decision_id"]
        house.clock.at = NOON + DAY + timedelta(minutes=30)
        assert [ignored(house), ignored(house)] == [[1], [0]]
        assert dict(house.rows("SELECT decision_id::TEXT, reaction FROM reactions")) == {
            early: "ignored",
            answered: "done",
        }
        assert is_same(posterior(house), taught(house, {answered: "done", early: "ignored"}))
        house.clock.forward(hours=1)
        assert ignored(house) == [1]
        assert house.one("SELECT reaction FROM reactions WHERE decision_id = %s", late) == "ignored"

    def test_two_processes(self, house: House, service: Service) -> None:
        """Two processes that look at once for tips to ignore find each of them once between them."""
        found = decisions(service, 30)
        house.clock.forward(hours=25)
        assert sum(ignored(house, n_processes=3)) == 30
        assert house.rows("SELECT reaction, count(*) FROM reactions GROUP BY 1") == [("ignored", 30)]
        learned = posterior(house)
        assert learned.n_updates == 30
        assert np.allclose(learned.precision, taught(house, dict.fromkeys(found, "ignored")).precision, atol=1e-9)

    def test_very_many(self, house: House, service: Service) -> None:
        """However many tips were ignored, all are found in one go."""
        decisions(service, 1)
        columns = "user_id, decided_at, tip_kind, theme, policy_version, chosen, propensities, features"
        house.connection.execute(
            f"INSERT INTO decisions (decision_id, {columns}) SELECT gen_random_uuid(), {columns} FROM decisions,"
            " generate_series(1, 1099)"
        )
        house.clock.forward(hours=25)
        assert ignored(house) == [1100]
        assert posterior(house).n_updates == 1100

    def test_long_ago(self, house: House, service: Service) -> None:
        """Tips of more than a week before are let be: what they were worth is not known any more."""
        decisions(service, 1)
        house.clock.forward(days=9)
        assert ignored(house) == [0]
        assert house.rows("SELECT FROM reactions") == []

    def test_late_reaction(self, house: House, service: Service) -> None:
        """Whoever reacts after all has not ignored the tip, and nothing of that remains."""
        [decision_id] = decisions(service, 1)
        house.clock.forward(hours=25)
        ignored(house)
        assert service.react(decision_id, "accepted").body["is_news"] is True
        assert is_same(posterior(house), taught(house, {decision_id: "accepted"}))

    def test_at_the_same_moment(self, house: House, service: Service) -> None:
        """Who reacts in the very moment in which the tip is taken for ignored is heard, and learned from once."""
        found = decisions(service, 20)
        house.clock.forward(hours=25)

        async def ignoring() -> None:
            async with learner(house) as other:
                await other.ignore(DAY)

        told = house.together(ignoring(), *(reacting(service, each, "done") for each in found), ignoring())
        assert {each.status for each in told if each} == {200}
        assert house.rows("SELECT reaction, count(*) FROM reactions GROUP BY 1") == [("done", 20)]
        learned, wanted = posterior(house), taught(house, dict.fromkeys(found, "done"))
        assert np.allclose(learned.precision, wanted.precision, atol=1e-9)
        assert np.allclose(learned.weighted, wanted.weighted, atol=1e-9)


class TestNextDay:
    def test_context(self, house: House, service: Service) -> None:
        """What a user makes of tips is in the context from the next day on, by kind, and not before."""
        house.world.accounts.set_active("ann", active=True)
        tip = service.tip().body
        service.react(tip["decision_id"], "done")
        house.clock.forward(hours=7)
        assert service.tip().body["source"] == "inline"
        assert service.context()["reactions"] == {"by_kind": {}, "by_theme": {}}
        house.clock.forward(hours=7)
        assert service.tip().body["source"] == "inline"
        assert service.context()["reactions"]["by_kind"] == {tip["tip"]["kind"]: {"done": 1}}

    def test_night(self, house: House, service: Service) -> None:
        """The next night finds the reaction among `tip_reactions`, and makes the same of it."""
        tip = service.tip().body
        service.react(tip["decision_id"], "dismissed")
        house.world.night(NOON + DAY)
        [row] = house.world.rows("tip_reactions")
        assert (row["decision_id"], row["reaction"]) == (tip["decision_id"], "dismissed")
        assert (row["tip_kind"], row["theme"]) == (tip["tip"]["kind"], tip["tip"]["theme"] or "")
        context = json.loads(house.world.stored()["ann"]["context_json"])
        assert context["reactions"]["by_kind"] == {tip["tip"]["kind"]: {"dismissed": 1}}


class TestLog:
    def test_replay(self, house: House, service: Service) -> None:
        """Seed, features and posterior of a decision give its choice and its propensities again, bit for bit."""
        before = {}
        for reaction in ("done", "dismissed", "accepted", "done", "snoozed"):
            decision_id = service.tip().body["decision_id"]
            before[decision_id] = posterior(house)
            service.react(decision_id, reaction)
        columns = "decision_id::TEXT, seed, features, chosen, propensities, policy_version"
        for decision_id, seed, features, chosen, propensities, version in house.rows(
            f"SELECT {columns} FROM decisions"
        ):
            matrix = np.frombuffer(features, np.float32).reshape(-1, N_FEATURES)
            choice = ThompsonPolicy(POLICY).choose(before[decision_id], matrix, seed)
            assert choice.chosen == chosen
            assert (choice.propensities == np.array(propensities, np.float32)).all()
            assert version == f"{POLICY}@{before[decision_id].n_updates}"

    def test_propensities(self, house: House, service: Service) -> None:
        """Every candidate had a chance of at least its share of the floor, and all of them together of one."""
        decisions(service, 5)
        for (propensities,) in house.rows("SELECT propensities FROM decisions"):
            assert sum(propensities) == pytest.approx(1, abs=1e-5)
            assert min(propensities) >= 0.05 / len(propensities) - 1e-6

    def test_in_full(self, house: House, service: Service) -> None:
        """A decision tells what was shown, out of which candidates, of which context, and how that was come by."""
        house.clock.forward(hours=1)
        answered = service.tip().body
        [[row]] = house.rows("SELECT to_jsonb(d) FROM decisions d")
        [[tips, features]] = house.rows("SELECT tips, features FROM candidate_sets")
        assert json.loads(tips[row["chosen"]]) == answered["tip"]
        assert row["decision_id"] == answered["decision_id"]
        assert (row["tip_kind"], row["theme"]) == (answered["tip"]["kind"], answered["tip"]["theme"] or "")
        assert (row["source"], row["llm"], row["context_hash"]) == ("stored", "fallback", answered["context_hash"])
        assert row["candidate_set_id"] == str(house.one("SELECT candidate_set_id FROM candidate_sets"))
        assert len(row["propensities"]) == len(tips)
        static = np.frombuffer(features, np.float32).reshape(len(tips), N_STATIC)
        logged = np.frombuffer(house.one("SELECT features FROM decisions"), np.float32).reshape(len(tips), N_FEATURES)
        assert (logged[:, :N_STATIC] == static).all()
        assert house.rows("SELECT materialized_at FROM decisions") == [(NOON,)]

    def test_removed_user(self, house: House, service: Service) -> None:
        """Of a user who is removed nothing stays in the log."""
        service.react(decisions(service, 1)[0], "done")
        house.world.accounts.remove("ann")
        tables = ("decisions", "reactions", "candidate_sets", "context_store")
        assert [house.one(f"SELECT count(*) FROM {table}") for table in tables] == [0] * 4
        assert service.react(str(uuid4()), "done").status == 404
