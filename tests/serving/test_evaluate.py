"""`python -m serving.evaluate`, on a log of decisions in Postgres."""

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
from serving.bandit import REWARDS, Posterior, ThompsonPolicy
from serving.estimators import Logged, evaluate, learned
from serving.evaluate import Log, main, read_log, target

ROOT = Path(__file__).parents[2]
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
WORLD = TipWorld.drawn(0, n_features=8, n_candidates=4)
N_USERS = 40

STATEMENTS = (
    "INSERT INTO users (user_id, email, timezone) VALUES (%(user)s, 'a@x.org', 'UTC') ON CONFLICT DO NOTHING",
    "INSERT INTO decisions (decision_id, user_id, decided_at, policy_version, seed, chosen, propensities, features)"
    " VALUES (%(id)s, %(user)s, %(at)s, %(version)s, 1, %(chosen)s, %(propensities)s, %(features)s)",
    "INSERT INTO reactions (decision_id, reaction, reacted_at, reward)"
    " VALUES (%(id)s, %(reaction)s, now(), %(reward)s)",
)

Run = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Row:
    """A decision as the service logs it, a minute or more after the one before."""

    logged: Logged
    decided_at: datetime = NOW - 3 * DAY
    version: str = "thompson-f1@7"
    reaction: str | None = "done"
    with_reward: bool = True


def decisions(n: int, seed: int = 0, world: TipWorld = WORLD) -> list[Logged]:
    """What a policy that learns nothing decided: all but blind choices, in turn for each user."""
    rng, policy = np.random.default_rng(seed), ThompsonPolicy("blind", spread=1.0)
    prior, found = Posterior.prior(len(world.taste) + 1), []
    for number in range(n):
        features = world.candidates(rng)
        choice = policy.choose(prior, features, number)
        reward = world.reward(features[choice.chosen], rng)
        user = f"user-{number % N_USERS}"
        found.append(Logged(user, features, choice.propensities, choice.chosen, reward))
    return found


def rows(logged: Iterable[Logged], **more: Any) -> list[Row]:
    names = {value: name for name, value in REWARDS.items()}
    return [Row(each, **{"reaction": names[each.reward], **more}) for each in logged]


def insert(connection: psycopg.Connection[Any], found: Sequence[Row]) -> None:
    """Into users, decisions and reactions, in this order of time."""
    [(before,)] = connection.execute("SELECT count(*) FROM decisions")
    for number, row in enumerate(found, before):
        values = {
            "id": UUID(int=number),
            "user": row.logged.user_id,
            "at": row.decided_at + number * timedelta(minutes=1),
            "version": row.version,
            "chosen": row.logged.chosen,
            "propensities": row.logged.propensities.tolist(),
            "features": row.logged.features.tobytes(),
            "reaction": row.reaction,
            "reward": row.logged.reward if row.with_reward else None,
        }
        for statement in STATEMENTS if row.reaction else STATEMENTS[:2]:
            connection.execute(statement, values)


def read(connection: psycopg.Connection[Any]) -> Log:
    return read_log(connection, NOW - 28 * DAY, NOW)


@pytest.fixture
def run(
    connection: psycopg.Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs the command over an empty log; gives exit status, output with single spaces, and error output."""
    monkeypatch.setenv("DATABASE_URL", database_url)

    def command(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        out, err = capsys.readouterr()
        return status, " ".join(out.split()), err

    return command


class TestReadLog:
    def test_round_trip(self, connection: psycopg.Connection[Any]) -> None:
        """Decisions come back as the service logged them, oldest first."""
        written = decisions(6)
        insert(connection, rows(written))
        log = read(connection)
        assert (log.policy, log.n_of_others, log.n_without_reaction) == ("thompson-f1", 0, 0)
        for found, wanted in zip(log.decisions, written, strict=True):
            assert (found.user_id, found.chosen, found.reward) == (wanted.user_id, wanted.chosen, wanted.reward)
            assert (found.features == wanted.features).all()
            assert (found.propensities == wanted.propensities).all()

    def test_newest_policy(self, connection: psycopg.Connection[Any]) -> None:
        """Of several policies only the newest one's decisions count, whatever it had learned by then."""
        old, new, newer = decisions(2, seed=1), decisions(3, seed=2), decisions(4, seed=3)
        insert(connection, [*rows(old, version="thompson-f0@90"), *rows(new, version="thompson-f1@1")])
        insert(connection, rows(newer, version="thompson-f1@2"))
        log = read(connection)
        assert (log.policy, len(log.decisions), log.n_of_others) == ("thompson-f1", 7, 2)

    def test_newest_features(self, connection: psycopg.Connection[Any]) -> None:
        """Decisions by another number of features are left out even when the policy has the same name."""
        wide = decisions(2, world=TipWorld.drawn(0, n_features=9, n_candidates=4))
        insert(connection, [*rows(wide), *rows(decisions(3))])
        log = read(connection)
        assert {each.features.shape for each in log.decisions} == {(4, 8)}
        assert log.n_of_others == 2

    def test_without_reaction(self, connection: psycopg.Connection[Any]) -> None:
        """Decisions that nobody reacted to yet are counted apart, and decide nothing about which policy is newest."""
        insert(connection, [*rows(decisions(3)), *rows(decisions(2), reaction=None, version="thompson-f2@0")])
        log = read(connection)
        assert (log.policy, len(log.decisions), log.n_without_reaction) == ("thompson-f1", 3, 2)

    def test_window(self, connection: psycopg.Connection[Any]) -> None:
        """Only decisions between the two instants are read."""
        for days in (40, 3, -1):
            insert(connection, rows(decisions(2), decided_at=NOW - days * DAY))
        assert len(read(connection).decisions) == 2

    def test_not_learned_yet(self, connection: psycopg.Connection[Any]) -> None:
        """A reaction whose reward was not stored is worth what such reactions are worth."""
        written = decisions(6)
        insert(connection, rows(written, with_reward=False))
        assert [each.reward for each in read(connection).decisions] == [each.reward for each in written]

    def test_no_policy(self, connection: psycopg.Connection[Any]) -> None:
        """A decision that no policy made, such as the generic tip, is no part of the log."""
        insert(connection, rows(decisions(4)))
        connection.execute(
            "UPDATE decisions SET policy_version = NULL, features = NULL WHERE decision_id = %s", (UUID(int=3),)
        )
        assert len(read(connection).decisions) == 3


class TestTarget:
    @pytest.mark.parametrize("name", ["logged", "uniform", "greedy", "thompson"])
    def test_probabilities(self, name: str) -> None:
        """Every policy gives each decision's candidates probabilities, the same for the same seed."""
        log = Log("thompson-f1", tuple(decisions(80)), 0, 0)
        found = target(name, log, seed=0)
        assert np.allclose([each.sum() for each in found], 1)
        assert all((a == b).all() for a, b in zip(found, target(name, log, seed=0), strict=True))

    @pytest.mark.parametrize("name", ["greedy", "thompson"])
    def test_halves(self, name: str) -> None:
        """What a policy does for a user was learned from users of the other half alone."""
        before = decisions(400)
        changed = tuple(replace(each, reward=-each.reward) if each.user_id == "user-0" else each for each in before)
        pairs = [target(name, Log("", tuple(log), 0, 0), seed=0) for log in (before, changed)]
        moved = {
            each.user_id for each, one, other in zip(before, *pairs, strict=True) if not np.array_equal(one, other)
        }
        assert moved
        assert "user-0" not in moved
        assert len(moved) <= N_USERS / 2

    def test_no_praise_for_noise(self) -> None:
        """Where rewards are chance no policy is better; judged by what it learned from it would seem to be."""
        rng, world = np.random.default_rng(1), TipWorld.drawn(0, n_features=32, n_candidates=4)
        noise = [replace(each, reward=float(rng.choice([-0.5, 0.5]))) for each in decisions(400, world=world)]
        log = Log("", tuple(noise), 0, 0)
        honest = evaluate(noise, target("greedy", log, seed=0), seed=0)
        assert honest.snipw.low < 0 < honest.snipw.high
        mean = learned(noise).mean
        own = [np.eye(4)[(each.features @ mean).argmax()] for each in noise]
        assert evaluate(noise, own, seed=0).snipw.low > 0

    def test_one_user(self) -> None:
        """One user has no other half."""
        with pytest.raises(ValueError, match="no decision to learn from"):
            target("greedy", Log("", tuple(decisions(1)), 0, 0), seed=0)


@pytest.fixture(scope="module")
def logged() -> list[Logged]:
    return decisions(1200)


class TestCommand:
    def test_table(self, run: Run, connection: psycopg.Connection[Any], logged: list[Logged]) -> None:
        """The command prints what each policy would have earned, on how much, and what was left out."""
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

    def test_who_is_better(self, logged: list[Logged]) -> None:
        """A log of blind choices tells that to learn from it pays."""
        log = Log("", tuple(logged), 0, 0)
        found = {name: evaluate(logged, target(name, log, 0), seed=0) for name in ("uniform", "greedy", "thompson")}
        assert found["greedy"].dr.low > found["uniform"].dr.high
        assert found["thompson"].dr.low > found["uniform"].dr.high

    def test_one_policy(self, run: Run, connection: psycopg.Connection[Any]) -> None:
        """One policy may be asked for; what concerns others is not told."""
        insert(connection, rows(decisions(80)))
        status, out, _ = run("--policy", "uniform", "--days", "7")
        assert status == 0
        assert "in 7 days" in out
        assert "greedy" not in out

    def test_clip(self, run: Run, connection: psycopg.Connection[Any]) -> None:
        """How many weights a bound lowered is told, and that it biases."""
        insert(connection, rows(decisions(80)))
        status, out, _ = run("--policy", "uniform", "--clip", "0.5")
        assert status == 0
        assert "Weights clipped to 0.5: " in out
        assert "of uniform. Estimates with clipped weights are biased." in out

    def test_no_decisions(self, run: Run) -> None:
        """With an empty log the command says so, and what to try."""
        status, out, err = run()
        assert (status, out) == (1, "")
        assert "of 0 decisions from" in err
        assert "none has a reaction" in err
        assert "--days" in err

    def test_no_reactions(self, run: Run, connection: psycopg.Connection[Any]) -> None:
        """Decisions without any reaction are no more use."""
        insert(connection, rows(decisions(3), reaction=None))
        status, _, err = run()
        assert status == 1
        assert "of 3 decisions" in err

    def test_too_young(self, run: Run, connection: psycopg.Connection[Any]) -> None:
        """Decisions that may still be ignored are not read: of them only the quick reactions are known."""
        insert(connection, rows(decisions(80), decided_at=NOW - timedelta(hours=12)))
        assert run("--policy", "uniform")[0] == 1
        assert run("--policy", "uniform", "--ignored-after", "6")[0] == 0

    def test_one_user(self, run: Run, connection: psycopg.Connection[Any]) -> None:
        """One user is no sample of users, and the command says how many there are."""
        insert(connection, rows([replace(each, user_id="ann") for each in decisions(5)]))
        status, _, err = run("--policy", "uniform")
        assert status == 1
        assert "5 decisions of 1 users" in err

    def test_no_database(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a database the missing setting is named."""
        monkeypatch.delenv("DATABASE_URL")
        assert run()[0] == 1
        assert "DATABASE_URL: " in run()[2]

    @pytest.mark.parametrize("arguments", [("--policy", "best"), ("--days", "0"), ("--clip", "-1"), ("--days", "x")])
    def test_wrong_arguments(self, run: Run, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
        """Arguments that mean nothing show how to call it."""
        with pytest.raises(SystemExit) as raised:
            run(*arguments)
        assert raised.value.code == 2
        assert "python -m serving.evaluate" in capsys.readouterr().err

    def test_as_a_program(self, database_url: str, connection: psycopg.Connection[Any]) -> None:
        """The whole command works from a shell."""
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
