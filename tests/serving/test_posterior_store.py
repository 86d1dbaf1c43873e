"""A posterior in Postgres that cannot be read: the service goes on, and learns it again from the log."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from service import Service, ServiceHarness

from serving.composition import POLICY
from tips.bandit import Posterior
from tips.features import N_FEATURES

N = N_FEATURES


def stored(precision: Any, weighted: Any = None, n_updates: int = 7, n_features: int = N) -> tuple[Any, ...]:
    """The values of a row of `policies`."""
    weights = np.zeros(N) if weighted is None else weighted
    return n_features, np.asarray(precision).tobytes(), np.asarray(weights).tobytes(), n_updates


def with_entry(value: float, row: int = 2, column: int = 2) -> Any:
    square = np.eye(N)
    square[row, column] = value
    return square


BROKEN = {
    "a NaN": stored(with_entry(float("nan"))),
    "an infinity": stored(with_entry(float("inf"))),
    "a NaN among the weights": stored(np.eye(N), np.full(N, float("nan"))),
    "singular": stored(np.zeros((N, N))),
    "a direction without precision": stored(with_entry(0.0)),
    "nearly singular": stored(with_entry(1e-30)),
    "not positive definite": stored(with_entry(-1.0)),
    "not symmetric": stored(with_entry(0.5, 2, 3)),
    "cut": stored(np.eye(N)[:-1]),
    "weights that are cut": stored(np.eye(N), np.zeros(N - 1)),
    "the size of another version": stored(np.eye(N + 1), np.zeros(N + 1), n_features=N + 1),
    "fewer than no updates": stored(np.eye(N), n_updates=-1),
}

_UPDATE = "UPDATE policies SET n_features = %s, precision = %s, weighted = %s, n_updates = %s"


@pytest.fixture
def service(ann: None, harness: ServiceHarness) -> Service:
    return harness.open(llm_model=None)


def learn(service: Service, *reactions: str) -> None:
    for reaction in reactions:
        service.react(service.tip().body["decision_id"], reaction)


def is_close(one: Posterior, other: Posterior) -> bool:
    return np.allclose(one.precision, other.precision) and np.allclose(one.weighted, other.weighted)


@pytest.mark.parametrize("row", BROKEN.values(), ids=list(BROKEN))
def test_tips_and_reactions_go_on(
    harness: ServiceHarness, service: Service, row: tuple[Any, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """With a broken posterior tips are chosen by the last good one, and reactions are stored."""
    learn(service, "done", "dismissed")
    harness.connection.execute(_UPDATE, row)
    learn(service, "accepted")
    assert service.tip().status == 200
    assert harness.one("SELECT count(*) FROM reactions") == 3
    assert service.metric("unreadable_rows_total", table="policies") >= 1
    assert f"policies, {POLICY}" in caplog.text


@pytest.mark.parametrize("row", BROKEN.values(), ids=list(BROKEN))
def test_learned_again(harness: ServiceHarness, service: Service, row: tuple[Any, ...]) -> None:
    """A process that finds a broken posterior keeps it beside, and stores the one that all reactions give."""
    learn(service, "done", "dismissed")
    before = harness.posterior()
    harness.connection.execute(_UPDATE, row)
    harness.open(llm_model=None)
    assert is_close(harness.posterior(), before)
    assert harness.posterior().n_updates > max(row[-1], 2)
    columns = "n_features, precision, weighted, n_updates"
    assert harness.rows(f"SELECT {columns} FROM unreadable_policies WHERE policy = %s", POLICY) == [row]
    harness.open(llm_model=None)
    assert harness.one("SELECT count(*) FROM unreadable_policies") == 1


def test_what_came_meanwhile(harness: ServiceHarness, service: Service) -> None:
    """A reaction that came while the posterior was broken is part of the one that replaces it, once."""
    learn(service, "done")
    harness.connection.execute(_UPDATE, BROKEN["singular"])
    decision_id = service.tip().body["decision_id"]
    for reaction in ("accepted", "done"):
        service.react(decision_id, reaction)
    harness.open(llm_model=None)
    after = harness.posterior()
    harness.connection.execute(_UPDATE, BROKEN["a NaN"])
    harness.open(llm_model=None)
    assert is_close(harness.posterior(), after)
    assert after.precision.trace() == pytest.approx(_trace_of_log(harness))


def _trace_of_log(harness: ServiceHarness) -> float:
    """The trace of the precision that the log of decisions with a reaction gives."""
    rows = harness.rows("SELECT features, chosen FROM decisions JOIN reactions USING (decision_id)")
    chosen = [np.frombuffer(features, np.float32).reshape(-1, N)[at] for features, at in rows]
    return N + sum(float(np.square(each, dtype=np.float64).sum()) for each in chosen)


def test_without_a_log(harness: ServiceHarness, service: Service) -> None:
    """Without any reaction the posterior begins again with the prior."""
    harness.connection.execute(_UPDATE, BROKEN["cut"])
    harness.open(llm_model=None).tip()
    assert is_close(harness.posterior(), Posterior.prior(N))


def test_a_broken_decision(harness: ServiceHarness, service: Service) -> None:
    """A decision that cannot be read is left out of the posterior that is learned again."""
    learn(service, "done")
    before = harness.posterior()
    learn(service, "dismissed")
    harness.connection.execute(
        "UPDATE decisions SET features = 'x' WHERE decided_at = (SELECT max(decided_at) FROM decisions)"
    )
    harness.connection.execute(_UPDATE, BROKEN["singular"])
    other = harness.open(llm_model=None)
    assert is_close(harness.posterior(), before)
    assert [each.metric("unreadable_rows_total", table="decisions") for each in (service, other)] in ([0, 1], [1, 0])


def test_a_lost_row(harness: ServiceHarness, service: Service) -> None:
    """Without its row a posterior is learned again; until then tips and reactions go on."""
    learn(service, "done")
    harness.connection.execute("DELETE FROM policies")
    learn(service, "dismissed")
    assert service.tip().body["policy_version"] == f"{POLICY}@1"


def test_a_long_log(harness: ServiceHarness, service: Service) -> None:
    """Reactions behind many decisions without one are part of the posterior that is learned again."""
    learn(service, "done", "dismissed")
    before = harness.posterior()
    harness.connection.execute(
        "INSERT INTO decisions (decision_id, user_id, decided_at, policy_version)"
        " SELECT gen_random_uuid(), 'ann', decided_at + (n / 3) * INTERVAL '1 second', policy_version"
        " FROM (SELECT * FROM decisions ORDER BY decided_at LIMIT 1) first, generate_series(3, 9000) n"
    )
    harness.connection.execute(_UPDATE, BROKEN["singular"])
    harness.open(llm_model=None)
    assert is_close(harness.posterior(), before)
