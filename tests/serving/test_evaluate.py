"""`python -m serving.evaluate` on a log of decisions in Postgres."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest

from benchmarks.bandit_world import TipWorld
from local.postgres import create_database
from serving.evaluate import DecisionLog, main, read_log, target_probabilities
from tips.bandit import REWARDS, Posterior, ThompsonPolicy
from tips.estimators import LoggedDecision, evaluate, fitted_posterior

ROOT = Path(__file__).parents[2]
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
WORLD = TipWorld.drawn(0, n_features=8, n_candidates=4)
N_USERS = 40

STATEMENTS = (
    "INSERT INTO users (user_id, email, timezone) VALUES (%(user)s, 'a@x.org', 'UTC') ON CONFLICT DO NOTHING",
    "INSERT INTO decisions (decision_id, user_id, decided_at, policy_version, seed, chosen, propensities, features,"
    " origin) VALUES (%(id)s, %(user)s, %(at)s, %(version)s, 1, %(chosen)s, %(propensities)s, %(features)s,"
    " %(origin)s)",
    "INSERT INTO reactions (decision_id, reaction, reacted_at, reward)"
    " VALUES (%(id)s, %(reaction)s, now(), %(reward)s)",
)

Run = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Row:
    """A decision as the service logs it."""

    logged: LoggedDecision
    decided_at: datetime = NOW - 3 * DAY
    version: str = "thompson-f1@7"
    reaction: str | None = "done"
    with_reward: bool = True
    origin: str | None = "ahead"


def decisions(n: int, seed: int = 0, world: TipWorld = WORLD) -> list[LoggedDecision]:
    """Decisions of a policy that learns nothing, for each user in turn."""
    rng, policy = np.random.default_rng(seed), ThompsonPolicy("blind", spread=1.0)
    prior, logged = Posterior.prior(len(world.taste) + 1), []
    for number in range(n):
        features = world.candidates(rng)
        choice = policy.choose(prior, features, number)
        reward = world.reward(features[choice.chosen], rng)
        user = f"user-{number % N_USERS}"
        logged.append(LoggedDecision(user, features, choice.propensities, choice.chosen, reward))
    return logged


def rows(logged: Iterable[LoggedDecision], **more: Any) -> list[Row]:
    names = {value: name for name, value in REWARDS.items()}
    return [Row(each, **{"reaction": names[each.reward], **more}) for each in logged]


def insert(connection: psycopg.Connection[Any], decision_rows: Sequence[Row]) -> None:
    """Insert users, decisions and reactions, a minute apart in this order."""
    [(before,)] = connection.execute("SELECT count(*) FROM decisions")
    for number, row in enumerate(decision_rows, before):
        values = {
            "id": UUID(int=number),
            "user": row.logged.user_id,
            "at": row.decided_at + number * timedelta(minutes=1),
            "version": row.version,
            "origin": row.origin,
            "chosen": row.logged.chosen,
            "propensities": row.logged.propensities.tolist(),
            "features": row.logged.features.tobytes(),
            "reaction": row.reaction,
            "reward": row.logged.reward if row.with_reward else None,
        }
        for statement in STATEMENTS if row.reaction else STATEMENTS[:2]:
            connection.execute(statement, values)


def read(connection: psycopg.Connection[Any]) -> DecisionLog:
    return read_log(connection, NOW - 28 * DAY, NOW)


@pytest.fixture
def run(
    connection: psycopg.Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """A function that runs the command on an empty log; returns status, output with single spaces, error output."""
    monkeypatch.setenv("DATABASE_URL", database_url)

    def command(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        out, err = capsys.readouterr()
        return status, " ".join(out.split()), err

    return command


class TestReadLog:
    def test_undelivered(self, connection: psycopg.Connection[Any]) -> None:
        """Decisions that reached nobody are not read."""
        insert(connection, rows(decisions(5)))
        connection.execute("UPDATE decisions SET delivered = FALSE WHERE decision_id = %s", [UUID(int=3)])
        assert len(read(connection).decisions) == 4

    def test_round_trip(self, connection: psycopg.Connection[Any]) -> None:
        """Decisions are read as the service logged them, oldest first."""
        written = decisions(6)
        insert(connection, rows(written))
        log = read(connection)
        assert (log.policy, log.n_other_policies, log.n_without_reaction) == ("thompson-f1", 0, 0)
        for read_back, original in zip(log.decisions, written, strict=True):
            assert (read_back.user_id, read_back.chosen, read_back.reward) == (
                original.user_id,
                original.chosen,
                original.reward,
            )
            assert (read_back.features == original.features).all()
            assert (read_back.propensities == original.propensities).all()

    def test_newest_policy(self, connection: psycopg.Connection[Any]) -> None:
        """Only decisions of the newest policy count, whatever the state of its posterior."""
        old, new, newer = decisions(2, seed=1), decisions(3, seed=2), decisions(4, seed=3)
        insert(connection, [*rows(old, version="thompson-f0@90"), *rows(new, version="thompson-f1@1")])
        insert(connection, rows(newer, version="thompson-f1@2"))
        log = read(connection)
        assert (log.policy, len(log.decisions), log.n_other_policies) == ("thompson-f1", 7, 2)

    def test_newest_features(self, connection: psycopg.Connection[Any]) -> None:
        """Decisions with a different number of features are left out, even if the policy has the same name."""
        other_features = decisions(2, world=TipWorld.drawn(0, n_features=9, n_candidates=4))
        insert(connection, [*rows(other_features), *rows(decisions(3))])
        log = read(connection)
        assert {each.features.shape for each in log.decisions} == {(4, 8)}
        assert log.n_other_policies == 2

    def test_without_reaction(self, connection: psycopg.Connection[Any]) -> None:
        """Decisions without a reaction are counted separately, and do not determine the newest policy."""
        insert(connection, [*rows(decisions(3)), *rows(decisions(2), reaction=None, version="thompson-f2@0")])
        log = read(connection)
        assert (log.policy, len(log.decisions), log.n_without_reaction) == ("thompson-f1", 3, 2)

    def test_window(self, connection: psycopg.Connection[Any]) -> None:
        """Only decisions between the two instants are read."""
        for days in (40, 3, -1):
            insert(connection, rows(decisions(2), decided_at=NOW - days * DAY))
        assert len(read(connection).decisions) == 2

    def test_not_learned_yet(self, connection: psycopg.Connection[Any]) -> None:
        """A reaction without a stored reward has the usual reward."""
        written = decisions(6)
        insert(connection, rows(written, with_reward=False))
        assert [each.reward for each in read(connection).decisions] == [each.reward for each in written]

    def test_no_policy(self, connection: psycopg.Connection[Any]) -> None:
        """A decision without a policy, such as a generic tip, is not part of the log."""
        insert(connection, rows(decisions(4)))
        connection.execute(
            "UPDATE decisions SET policy_version = NULL, features = NULL WHERE decision_id = %s", (UUID(int=3),)
        )
        assert len(read(connection).decisions) == 3


class TestTarget:
    @pytest.mark.parametrize("name", ["logged", "uniform", "greedy", "thompson"])
    def test_probabilities(self, name: str) -> None:
        """Every policy gives the candidates of each decision probabilities, the same for the same seed."""
        log = DecisionLog("thompson-f1", tuple(decisions(80)), 0, 0)
        probabilities = target_probabilities(name, log, seed=0)
        assert np.allclose([each.sum() for each in probabilities], 1)
        assert all(
            (a == b).all() for a, b in zip(probabilities, target_probabilities(name, log, seed=0), strict=True)
        )

    @pytest.mark.parametrize("name", ["greedy", "thompson"])
    def test_halves(self, name: str) -> None:
        """A policy's choices for a user are learned only from users of the other half."""
        before = decisions(400)
        changed = tuple(replace(each, reward=-each.reward) if each.user_id == "user-0" else each for each in before)
        pairs = [target_probabilities(name, DecisionLog("", tuple(log), 0, 0), seed=0) for log in (before, changed)]
        moved = {
            each.user_id for each, one, other in zip(before, *pairs, strict=True) if not np.array_equal(one, other)
        }
        assert moved
        assert "user-0" not in moved
        assert len(moved) <= N_USERS / 2

    def test_random_rewards(self) -> None:
        """With random rewards no policy is better; evaluated on its training data it would seem to be."""
        rng, world = np.random.default_rng(1), TipWorld.drawn(0, n_features=32, n_candidates=4)
        noise = [replace(each, reward=float(rng.choice([-0.5, 0.5]))) for each in decisions(400, world=world)]
        log = DecisionLog("", tuple(noise), 0, 0)
        fair = evaluate(noise, target_probabilities("greedy", log, seed=0), seed=0)
        assert fair.snipw.low < 0 < fair.snipw.high
        mean = fitted_posterior(noise).mean
        own = [np.eye(4)[(each.features @ mean).argmax()] for each in noise]
        assert evaluate(noise, own, seed=0).snipw.low > 0

    def test_one_user(self) -> None:
        """With one user there is no other half."""
        with pytest.raises(ValueError, match="no decision to learn from"):
            target_probabilities("greedy", DecisionLog("", tuple(decisions(1)), 0, 0), seed=0)


@pytest.fixture(scope="module")
def logged() -> list[LoggedDecision]:
    return decisions(1200)


class TestCommand:
    def test_table(self, run: Run, connection: psycopg.Connection[Any], logged: list[LoggedDecision]) -> None:
        """The command prints the estimates for each policy, the size of the log, and the decisions left out."""
        insert(
            connection, [*rows(decisions(2), version="rules@0"), *rows(logged), *rows(decisions(1), reaction=None)]
        )
        status, out, err = run()
        assert (status, err) == (0, "")
        assert out.startswith("1200 decisions of 40 users, made by thompson-f1 in 28 days")
        mean = np.mean([each.reward for each in logged])
        assert f"logged IPW {mean:.3f}" in out
        assert f"{mean:.3f}" in out.split("SNIPW")[1]
        assert "1200" in out.split("logged IPW")[1].split("SNIPW")[0]
        assert out.index("uniform IPW") < out.index("greedy IPW") < out.index("thompson IPW")
        assert "learned from one half of the users" in out
        assert "Left out: 2 of other policies or features, 1 without a reaction." in out
        assert "Origin of the candidates: 1200 ahead." in out

    def test_origin(self, run: Run, connection: psycopg.Connection[Any], logged: list[LoggedDecision]) -> None:
        """--origin evaluates the decisions whose candidates were made so, and counts the others."""
        insert(
            connection, [*rows(logged[:300]), *rows(logged[300:400], origin="rules"), *rows(logged[:9], origin=None)]
        )
        _, out, _ = run()
        assert "Origin of the candidates: 300 ahead, 100 rules, 9 unknown." in out
        _, out, _ = run("--origin", "rules", "--origin", "unknown")
        assert out.startswith("109 decisions")
        assert "0 without a reaction, 300 with candidates of another origin." in out

    def test_learning_policies_are_better(self, logged: list[LoggedDecision]) -> None:
        """On a log of random choices, policies that learn are better than a uniform one."""
        log = DecisionLog("", tuple(logged), 0, 0)
        evaluations = {
            name: evaluate(logged, target_probabilities(name, log, 0), seed=0)
            for name in ("uniform", "greedy", "thompson")
        }
        assert evaluations["greedy"].dr.low > evaluations["uniform"].dr.high
        assert evaluations["thompson"].dr.low > evaluations["uniform"].dr.high

    def test_one_policy(self, run: Run, connection: psycopg.Connection[Any]) -> None:
        """One policy can be selected; nothing is printed about the others."""
        insert(connection, rows(decisions(80)))
        status, out, _ = run("--policy", "uniform", "--days", "7")
        assert status == 0
        assert "in 7 days" in out
        assert "greedy" not in out

    def test_clip(self, run: Run, connection: psycopg.Connection[Any]) -> None:
        """The number of clipped weights is printed, and that they cause a bias."""
        insert(connection, rows(decisions(80)))
        status, out, _ = run("--policy", "uniform", "--clip", "0.5")
        assert status == 0
        assert "Weights clipped to 0.5: " in out
        assert "of uniform. Estimates with clipped weights are biased." in out

    def test_no_decisions(self, run: Run) -> None:
        """An empty log is reported, with a remedy."""
        status, out, err = run()
        assert (status, out) == (1, "")
        assert "none of 0 decisions from" in err
        assert "has a reaction" in err
        assert "--days" in err

    def test_no_reactions(self, run: Run, connection: psycopg.Connection[Any]) -> None:
        """Decisions without any reaction are refused."""
        insert(connection, rows(decisions(3), reaction=None))
        status, _, err = run()
        assert status == 1
        assert "of 3 decisions" in err

    def test_too_young(self, run: Run, connection: psycopg.Connection[Any]) -> None:
        """Decisions that may still become ignored are not read: only their quick reactions are known."""
        insert(connection, rows(decisions(80), decided_at=NOW - timedelta(hours=12)))
        assert run("--policy", "uniform")[0] == 1
        assert run("--policy", "uniform", "--ignored-after", "6")[0] == 0

    def test_one_user(self, run: Run, connection: psycopg.Connection[Any]) -> None:
        """A single user is refused with the number of users."""
        insert(connection, rows([replace(each, user_id="ann") for each in decisions(5)]))
        status, _, err = run("--policy", "uniform")
        assert status == 1
        assert "5 decisions of 1 users" in err

    def test_no_database(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """A missing database setting is named."""
        monkeypatch.delenv("DATABASE_URL")
        assert run()[0] == 1
        assert "DATABASE_URL: " in run()[2]

    @pytest.mark.parametrize("arguments", [("--policy", "best"), ("--days", "0"), ("--clip", "-1"), ("--days", "x")])
    def test_wrong_arguments(self, run: Run, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
        """Invalid arguments print the usage."""
        with pytest.raises(SystemExit) as raised:
            run(*arguments)
        assert raised.value.code == 2
        assert "python -m serving.evaluate" in capsys.readouterr().err

    def test_from_a_shell(self, database_url: str, connection: psycopg.Connection[Any]) -> None:
        """The command works from a shell."""
        insert(connection, rows(decisions(80)))
        done = subprocess.run(
            [sys.executable, "-m", "serving.evaluate", "--policy", "greedy"],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": database_url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "80 decisions of 40 users" in done.stdout


def test_a_database_without_migrations(
    server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the tables do not exist, the message says how to make them."""
    monkeypatch.setenv("DATABASE_URL", create_database(server, "unmigrated"))
    assert main([]) == 1
    assert "python -m contexts migrate" in capsys.readouterr().err
