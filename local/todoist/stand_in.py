"""A stand-in for Todoist's API v1 on loopback: state in memory, seeded, with an injected clock."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from random import Random
from threading import RLock
from typing import Any, Literal

from starlette.applications import Starlette

from local.server import serving
from local.todoist.account import Account, Limits
from local.todoist.app import build_app
from local.todoist.faults import Fault, FaultKind, faulty_reply
from local.todoist.grants import Grants
from local.todoist.pages import KINDS, page, read_page_request
from local.todoist.replies import limits_reached
from local.todoist.requests import read_sync_request
from local.wire import RefusedError, Reply, json_reply

DOCUMENT_TYPES = ("items", "projects", "sections", "labels", "user")


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Call:
    """A call outside /_control/: `user` is None when nobody's token came with it, `full` says that "*" was
    asked for, and status 0 means that the connection was cut before any answer."""

    at: datetime
    user: str | None
    path: str
    full: bool
    status: int


class LocalTodoist:
    """Todoist's users as this machine imagines them; every method may be called while it is served.

    `dead_token` is what a forgotten or foreign sync token gets: a full answer, or a 400 (nobody has published
    which). `refresh_grace` is the time in which a consumed refresh token still gets its access token again:
    60 seconds at Todoist. `answer_seconds` is the shortest and the longest wait before an answer outside
    /_control/; each is drawn evenly between them, and many wait at once.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], datetime] = utc_now,
        seed: int = 0,
        full_limit: int = 100,
        incremental_limit: int = 1000,
        dead_token: Literal["full", "refuse"] = "full",
        refresh_grace: timedelta = timedelta(0),
        answer_seconds: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.calls: list[Call] = []
        self._clock = clock
        self._ahead = timedelta(0)
        self._seed = seed
        self._limits = Limits(full_limit, incremental_limit)
        self._dead_token = dead_token
        self._accounts: dict[str, Account] = {}
        self._grants = Grants(Random(f"{seed}/grants"), refresh_grace)
        self._answer_seconds = answer_seconds
        self._paces: dict[str | None, Random] = {}
        self._rate: tuple[float, tuple[Fault, ...]] = (0.0, ())
        self._lock = RLock()

    @cached_property
    def app(self) -> Starlette:
        return build_app(self)

    def now(self) -> datetime:
        return self._clock() + self._ahead

    def set_clock(self, at: datetime) -> None:
        """Let the clock show the aware instant `at` now, and go on from there."""
        self._ahead = at - self._clock()

    def load(
        self,
        token: str,
        document: Mapping[str, Any],
        *,
        user: str,
        refresh_token: str | None = None,
    ) -> None:
        """Give `user` the objects of a full /sync answer, broken ones included, and a token until revoked."""
        with self._lock:
            account = self._accounts.setdefault(user, Account(user, self._seed, self._limits))
            account.objects.replace(document)
            self._grants.add(user, token, refresh_token)

    def advance(self, user: str, delta: Mapping[str, Any]) -> None:
        """Apply an incremental /sync answer; one with `"full_sync": true` replaces everything."""
        with self._lock:
            objects = self._account(user).objects
            if delta.get("full_sync") is True:
                objects.replace(delta)
            else:
                objects.apply(delta)

    def document(self, user: str) -> dict[str, Any]:
        """The active objects now, as a full answer."""
        with self._lock:
            return deepcopy(dict(self._account(user).full_answer(DOCUMENT_TYPES, self.now())))

    def fail(self, user: str, *faults: Fault) -> None:
        """Queue faults, one for each coming /sync call of `user` that is neither refused nor over a limit."""
        with self._lock:
            self._account(user).faults.extend(faults)

    def heal(self, user: str) -> None:
        """Take back the faults that are still queued for `user`."""
        with self._lock:
            self._account(user).faults.clear()

    def fail_at_rate(self, rate: float, *faults: Fault) -> None:
        """From now on let any of `faults` spoil a share `rate` (0 to 1) of everybody's /sync calls."""
        if rate > 0 and not faults:
            raise ValueError(f"fail_at_rate({rate}) has no fault to make: name at least one")
        with self._lock:
            self._rate = (rate, faults)

    def revoke(self, user: str) -> None:
        """Let `user` take back the access given: access and refresh tokens end."""
        with self._lock:
            self._account(user)
            self._grants.revoke(user)

    def authorize(self, user: str) -> str:
        """The one-time code that /oauth/access_token exchanges for tokens of `user`."""
        with self._lock:
            self._account(user)
            return self._grants.authorize(user)

    def forget_sync_tokens(self, user: str) -> None:
        with self._lock:
            self._account(user).forget_sync_tokens()

    def sync(self, path: str, token: str | None, arguments: Mapping[str, Any]) -> Reply:
        """Answer a call to /sync."""
        with self._lock:
            full = arguments.get("sync_token") == "*"
            return self._logged(path, self._grants.bearer(token), full, lambda: self._sync(token, arguments))

    def read(self, path: str, token: str | None, resource: str, arguments: Mapping[str, str]) -> Reply:
        """Answer a call to a paged read (`resource` is one of `KINDS`) or to /user."""
        with self._lock:
            user = self._grants.bearer(token)
            return self._logged(path, user, False, lambda: self._read(token, resource, arguments))

    def exchange(self, path: str, arguments: Mapping[str, Any]) -> Reply:
        """Answer a call to /oauth/access_token."""
        with self._lock:
            user = self._grants.applicant(arguments)
            return self._logged(path, user, False, lambda: self._exchange(arguments))

    def refuse(self, path: str, token: str | None, reply: Reply) -> Reply:
        """Answer a call to an address that Todoist has no more."""
        with self._lock:
            return self._logged(path, self._grants.bearer(token), False, lambda: reply)

    def _logged(self, path: str, user: str | None, full: bool, answer: Callable[[], Reply]) -> Reply:
        try:
            reply = answer()
        except RefusedError as refused:
            reply = refused.reply
        self.calls.append(Call(self.now(), user, path, full, reply.status))
        return replace(reply, before=reply.before + self._wait(user))

    def _wait(self, user: str | None) -> float:
        """Seconds, drawn per user: in what order different users call changes nothing."""
        pace = self._paces.setdefault(user, Random(f"{self._seed}/seconds/{user}"))
        return pace.uniform(*self._answer_seconds)

    def _sync(self, token: str | None, arguments: Mapping[str, Any]) -> Reply:
        now = self.now()
        account = self._account(self._grants.check(token, now))
        request = read_sync_request(arguments)
        _admit(account, request.full, now)
        fault = account.next_fault(*self._rate)
        unasked_full = fault is not None and fault.kind is FaultKind.UNASKED_FULL_SYNC
        answer = account.answer(request, now, dead_token=self._dead_token, unasked_full=unasked_full)
        return faulty_reply(fault, answer, now) if fault else json_reply(answer)

    def _read(self, token: str | None, resource: str, arguments: Mapping[str, str]) -> Reply:
        """Reads use up the limit of incremental calls: what they have at Todoist is not published."""
        now = self.now()
        account = self._account(self._grants.check(token, now))
        asked = read_page_request(KINDS[resource], arguments) if resource in KINDS else None
        _admit(account, False, now)
        if asked is None:
            return json_reply(account.objects.active([resource])[resource])
        return json_reply(page(account.objects.active([asked.kind])[asked.kind], asked))

    def _exchange(self, arguments: Mapping[str, Any]) -> Reply:
        return json_reply(self._grants.exchange(arguments, self.now()))

    def _account(self, user: str) -> Account:
        if user not in self._accounts:
            known = ", ".join(sorted(self._accounts)) or "nobody yet"
            raise LookupError(f"no user {user!r} is loaded, only {known}; load() the user first")
        return self._accounts[user]


def _admit(account: Account, full: bool, now: datetime) -> None:
    if seconds := account.admit(full, now):
        raise RefusedError(limits_reached(seconds, Retry_After=str(seconds)))


@contextmanager
def running(todoist: LocalTodoist, port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve from a thread, on any free port for 0, and yield the base URL."""
    with serving(todoist.app, port, host) as base_url:
        yield base_url
