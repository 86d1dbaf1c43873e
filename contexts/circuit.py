"""A circuit breaker that tells the trouble of one user from that of the upstream service."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

THRESHOLD = 5
"""Number of failing users that stops the calls for all users, and of failures that stops those for one user."""

_OPEN_S = 30.0

Judge = Callable[[Exception], bool | None]
"""Whether an error means that the upstream service is down: False for an answer from it, None if that is unknown."""


class CircuitOpen(Exception):
    """The upstream service is not called, because it failed for several users or repeatedly for this one."""


class Circuit:
    """Stops calls for all users after failures of several of them, and calls for one user after failures of that one.

    Only consecutive failures count: an answer to any user resets the count for all users, an answer to one user
    resets the count for that user. After `open_s` seconds a few users, or that user, are let through as a trial. The
    pattern is from Nygard, "Release It!", 2007.
    """

    def __init__(self, judge: Judge, *, open_s: float = _OPEN_S, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds since any fixed instant."""
        self._judge = judge
        self._open_s = open_s
        self._clock = clock
        self._failing: dict[str, float] = {}  # users who failed since the last answer to anybody, with the time
        self._opened_at: float | None = None
        self._trials = Counter[str]()  # users who are let through since the circuit opened
        self._failures: dict[str, tuple[int, float]] = {}  # failures of each user in a row, and the time of the last

    @contextmanager
    def call(self, user_id: str) -> Iterator[None]:
        """Make a call for a user inside the block; raises CircuitOpen instead while the circuit is open."""
        self._admit(user_id)
        try:
            yield
        except Exception as error:
            is_failure = self._judge(error)
            if is_failure:
                self._failed(user_id)
            elif is_failure is False:
                self._answered(user_id)
            raise
        else:
            self._answered(user_id)
        finally:
            self._trials -= Counter([user_id])

    def _admit(self, user_id: str) -> None:
        now = self._clock()
        n_failures, failed_at = self._failures.get(user_id, (0, now))
        if n_failures >= THRESHOLD and now < failed_at + self._open_s:
            raise CircuitOpen("not called, because it failed repeatedly for this user")
        if self._opened_at is not None:
            if now < self._opened_at + self._open_s or len(self._trials | Counter(self._failing.keys())) >= THRESHOLD:
                raise CircuitOpen("not called, because it failed for several users")
            self._trials[user_id] += 1

    def _answered(self, user_id: str) -> None:
        self._failures.pop(user_id, None)
        self._failing.clear()
        self._opened_at = None

    def _failed(self, user_id: str) -> None:
        now = self._clock()
        n_failures, _ = self._failures.pop(user_id, (0, now))
        self._failures[user_id] = n_failures + 1, now
        self._failing[user_id] = now
        self._forget(now - 2 * self._open_s)
        if len(self._failing) >= THRESHOLD:
            self._opened_at = now
            self._failing.clear()

    def _forget(self, before: float) -> None:
        """Forget failures from before an instant, so that neither dictionary grows without bound."""
        self._failing = {user: at for user, at in self._failing.items() if at >= before}
        self._failures = {user: failures for user, failures in self._failures.items() if failures[1] >= before}
