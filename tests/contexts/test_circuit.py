"""The circuit breaker: failures of one user, of several, trials, and errors that are no failures."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from contexts.circuit import Circuit, CircuitOpen


class Down(Exception):
    """The upstream service does not answer."""


class Refused(Exception):
    """The upstream service answers with an error."""


class Unclear(Exception):
    """An error that says nothing about the upstream service."""


def judge(error: Exception) -> bool | None:
    return None if isinstance(error, Unclear) else isinstance(error, Down)


@dataclass
class Upstream:
    """An upstream service behind a circuit, at a time that the test sets."""

    at: float = 0.0
    n_calls: int = 0
    circuit: Circuit = field(init=False)

    def __post_init__(self) -> None:
        self.circuit = Circuit(judge, open_s=30, clock=lambda: self.at)

    def call(self, user: str, error: type[BaseException] | None = None) -> bool:
        """Call with an outcome; return whether the circuit let the call through."""
        try:
            with self.circuit.call(user):
                self.n_calls += 1
                if error:
                    raise error
        except CircuitOpen:
            return False
        except (Down, Refused, Unclear, asyncio.CancelledError):
            pass
        return True


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


def test_one_user(upstream: Upstream) -> None:
    """Five failures of one user in a row stop the calls of this user for 30 seconds, and of no other."""
    assert [upstream.call("ann", Down) for _ in range(9)] == [True] * 5 + [False] * 4
    assert all(upstream.call(f"user-{n}") for n in range(9))
    upstream.at = 30.0
    assert [upstream.call("ann", Down), upstream.call("ann")] == [True, False]
    upstream.at = 60.0
    assert [upstream.call("ann"), upstream.call("ann")] == [True, True]


def test_several_users(upstream: Upstream) -> None:
    """Failures of five users without an answer between them stop all calls for 30 seconds."""
    assert [upstream.call(f"user-{n}", Down) for n in range(7)] == [True] * 5 + [False] * 2
    assert not upstream.call("ann")
    upstream.at = 29.9
    assert not upstream.call("ann")


@pytest.mark.parametrize("error", [None, Refused])
def test_answer_between(upstream: Upstream, error: type[Exception] | None) -> None:
    """An answer to anybody, be it an error, ends the failures in a row."""
    for user in ("a", "b", "c", "d"):
        upstream.call(user, Down)
    upstream.call("ann", error)
    assert all(upstream.call(user, Down) for user in ("e", "f", "g", "h", "i"))
    assert not upstream.call("ann")


@pytest.mark.parametrize("error", [Unclear, asyncio.CancelledError])
def test_unclear(upstream: Upstream, error: type[BaseException]) -> None:
    """An error that says nothing, and a call that was given up, are neither failures nor answers."""
    for user in ("a", "b", "c", "d"):
        upstream.call(user, Down)
    for n in range(9):
        assert upstream.call(f"user-{n}", error)
    assert upstream.call("e", Down)
    assert not upstream.call("ann")


def test_trial(upstream: Upstream) -> None:
    """After 30 seconds five users are let through; if they fail, too, all calls stop again; an answer ends that."""
    for n in range(5):
        upstream.call(f"user-{n}", Down)
    upstream.at = 30.0
    assert [upstream.call(f"trial-{n}", Down) for n in range(6)] == [True] * 5 + [False]
    upstream.at = 60.0
    assert upstream.call("ann")
    assert all(upstream.call(f"user-{n}") for n in range(20))


def test_concurrent_trials(upstream: Upstream) -> None:
    """While five trials are under way, nobody else is let through."""
    for n in range(5):
        upstream.call(f"user-{n}", Down)
    upstream.at = 30.0
    trials = [upstream.circuit.call(f"trial-{n}") for n in range(5)]
    for trial in trials:
        trial.__enter__()
    assert not upstream.call("ann")
    trials[0].__exit__(None, None, None)
    assert upstream.call("ann")


def test_long_ago(upstream: Upstream) -> None:
    """Failures of more than a minute ago do not count."""
    for user in ("a", "b", "c", "d"):
        upstream.call(user, Down)
    upstream.at = 61.0
    assert upstream.call("e", Down)
    assert upstream.call("ann")
