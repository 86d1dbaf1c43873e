"""The stand-in for Todoist's API v1: state in memory and if wanted in a file, seeded, with an injected clock."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from random import Random
from threading import Event, RLock, Thread
from typing import Any, Literal
from urllib.parse import urlencode

from starlette.applications import Starlette

from local.clock import utc_now
from local.faulty_http import RefusedError, Reply, json_reply
from local.server import running_server
from local.todoist.account import Account, Limits
from local.todoist.app import build_todoist_app
from local.todoist.event_bodies import TYPES, event_bodies, snapshot
from local.todoist.faults import Fault, FaultKind, faulty_reply
from local.todoist.grants import Grants
from local.todoist.objects import Objects
from local.todoist.pages import KINDS, build_page, read_page_request
from local.todoist.replies import limits_reached
from local.todoist.requests import read_sync_request
from local.todoist.state_file import StateFile
from local.todoist.webhooks import DeliveryFaults, RegisteredApp, Webhooks

DOCUMENT_TYPES = ("items", "projects", "sections", "labels", "user")


@dataclass(frozen=True)
class TodoistCall:
    """A call outside /_control/.

    user: None if the token is unknown or missing.
    full: whether a full answer was requested, with the sync token "*".
    status: 0 if the connection was closed without an answer.
    """

    at: datetime
    user: str | None
    path: str
    full: bool
    status: int


class LocalTodoist:
    """A stand-in for Todoist; all its methods are thread-safe.

    full_limit, incremental_limit: calls per user within 15 minutes.
    unknown_sync_token: "full" answers a forgotten or foreign sync token in full, "refuse" with a 400. Todoist has
        not published its behaviour.
    lists_descendants: whether a delta lists the contents of a deleted, archived or un-archived project or section,
        besides the project or section itself. Todoist has not published its behaviour.
    refresh_grace: time in which a used refresh token gets its access token again; 60 seconds at Todoist.
    answer_seconds: minimum and maximum delay of an answer outside /_control/, drawn evenly; delayed answers do not
        block others.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], datetime] = utc_now,
        seed: int = 0,
        full_limit: int = 100,
        incremental_limit: int = 1000,
        unknown_sync_token: Literal["full", "refuse"] = "full",
        lists_descendants: bool = False,
        refresh_grace: timedelta = timedelta(0),
        answer_seconds: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.calls: list[TodoistCall] = []
        self._clock = clock
        self._clock_offset = timedelta(0)
        self._seed = seed
        self._limits = Limits(full_limit, incremental_limit)
        self._unknown_sync_token = unknown_sync_token
        self._lists_descendants = lists_descendants
        self._accounts: dict[str, Account] = {}
        self._grants = Grants(Random(f"{seed}/grants"), refresh_grace)
        self._answer_seconds = answer_seconds
        self._delay_rngs: dict[str | None, Random] = {}
        self._fault_rate: tuple[float, tuple[Fault, ...]] = (0.0, ())
        self.webhooks = Webhooks(Random(f"{seed}/webhooks"))
        self._registered: RegisteredApp | None = None
        self._visitor: str | None = None
        self._file: StateFile | None = None
        self._lock = RLock()

    @contextmanager
    def kept(self, path: Path) -> Iterator[None]:
        """Keep users, objects and tokens in a file until the end of the block.

        If an earlier stand-in kept its own there, they replace those of this one. Rate limits, faults and deliveries
        under way are not kept.
        """
        file = StateFile(path)
        with self._lock:
            if grants := file.grants():
                self._restore(file, grants)
            self._file = file
            for user in self._accounts:
                self._keep_objects(user)
            self._keep_grants()
        try:
            yield
        finally:
            with self._lock:
                self._file = None
                file.close()

    def _restore(self, file: StateFile, grants: Mapping[str, Any]) -> None:
        self._grants.restore(grants)
        self._accounts = {
            user: Account(
                user,
                self._seed,
                self._limits,
                Objects.from_json(saved, lists_descendants=self._lists_descendants),
                file.sync_tokens(user),
            )
            for user, saved in file.objects().items()
        }

    def _keep_objects(self, user: str) -> None:
        if self._file is not None:
            self._file.put_objects(user, self._accounts[user].objects.to_json())

    def _keep_grants(self) -> None:
        if self._file is not None:
            self._file.put_grants(self._grants.to_json())

    @cached_property
    def app(self) -> Starlette:
        """The ASGI application."""
        return build_todoist_app(self)

    def now(self) -> datetime:
        """The current time of the stand-in."""
        return self._clock() + self._clock_offset

    def set_clock(self, at: datetime) -> None:
        """Set the clock to an aware instant; it continues from there."""
        self._clock_offset = at - self._clock()

    def load(
        self,
        token: str,
        document: Mapping[str, Any],
        *,
        user: str,
        refresh_token: str | None = None,
    ) -> None:
        """Add or replace a user's objects, and add an access token that is valid until it is revoked.

        document: a full /sync answer, broken objects included.
        """
        with self._lock:
            objects = Objects(lists_descendants=self._lists_descendants)
            account = self._accounts.setdefault(user, Account(user, self._seed, self._limits, objects))
            account.objects.replace(document)
            self._grants.add(user, token, refresh_token)
            self._keep_objects(user)
            self._keep_grants()

    def advance(self, user: str, delta: Mapping[str, Any], *, silent: bool = False) -> None:
        """Apply a /sync answer to a user's objects; one with `"full_sync": true` replaces all of them.

        Each changed object is an event for the webhook of the app that the user signed in through. silent: the
        change fires no event, as some bulk edits do; neither does a replacement.
        """
        with self._lock:
            objects = self._account(user).objects
            if delta.get("full_sync") is True:
                objects.replace(delta)
                self._keep_objects(user)
                return
            fires = not silent and self._has_webhook and self._grants.has_agreed(user)
            before, revision = snapshot(objects.changed_since(-1, TYPES)) if fires else {}, objects.revision
            objects.apply(delta, self.now())
            self._keep_objects(user)
            if fires:
                changed, owner = snapshot(objects.changed_since(revision, TYPES)), objects.active(["user"])["user"]
                for body in event_bodies(before, changed, owner, self.now()):
                    self.webhooks.add(user, body, self.now())

    def deliver(self) -> int:
        """Make the requests to the webhook that are due by the stand-in's clock; return their number.

        Anything but a 200 is repeated after 15 minutes of this clock, three times at most.
        """
        with self._lock:
            app, due = self._registered, self.webhooks.take_due(self.now())
        if app is None:
            return 0
        for delivery in due:
            status = self.webhooks.request(app, delivery, self.now())
            with self._lock:
                self.webhooks.end(delivery, status, self.now())
        return len(due)

    def disturb(self, faults: DeliveryFaults, cut_off_until: datetime | None = None) -> None:
        """Set the faults of deliveries from now on; none arrives before `cut_off_until`."""
        with self._lock:
            self.webhooks.faults, self.webhooks.cut_off_until = faults, cut_off_until

    def register(self, app: RegisteredApp) -> None:
        """Register an app, as its operator does in Todoist's console; it replaces the one before."""
        with self._lock:
            self._registered = app

    def visit(self, user: str | None) -> None:
        """Sign a user in to the stand-in's pages; the user agrees to every app. With None, the visitor refuses."""
        with self._lock:
            if user is not None:
                self._account(user)
            self._visitor = user

    def agreement(self, arguments: Mapping[str, str]) -> str:
        """The address to which the page for agreement sends its visitor; raises LookupError for an unknown app."""
        with self._lock:
            app = self._registered
            if app is None or arguments.get("client_id") != app.client_id:
                raise LookupError("no app with this client_id is registered; register() it first")
            answer = {"code": self.authorize(self._visitor)} if self._visitor else {"error": "access_denied"}
            query = urlencode({**answer, "state": arguments.get("state", "")})
            return f"{app.redirect_url}?{query}"

    def document(self, user: str) -> dict[str, Any]:
        """A copy of a user's active objects as a full /sync answer."""
        with self._lock:
            return deepcopy(dict(self._account(user).full_answer(DOCUMENT_TYPES, self.now())))

    def fail(self, user: str, *faults: Fault) -> None:
        """Queue faults, one for each following /sync call of a user that is neither refused nor rate limited."""
        with self._lock:
            self._account(user).faults.extend(faults)

    def heal(self, user: str) -> None:
        """Remove a user's queued faults."""
        with self._lock:
            self._account(user).faults.clear()

    def fail_at_rate(self, rate: float, *faults: Fault) -> None:
        """From now on, /sync calls of all users fail at a rate (0 to 1), each with a random one of `faults`."""
        if rate > 0 and not faults:
            raise ValueError(f"fail_at_rate({rate}) has no fault to choose from: name at least one")
        with self._lock:
            self._fault_rate = (rate, faults)

    def revoke(self, user: str) -> None:
        """Revoke all tokens and codes of a user."""
        with self._lock:
            self._account(user)
            self._grants.revoke(user)
            self._keep_grants()

    def authorize(self, user: str) -> str:
        """A one-time code that /oauth/access_token exchanges for tokens of a user."""
        with self._lock:
            self._account(user)
            code = self._grants.authorize(user)
            self._keep_grants()
            return code

    def forget_sync_tokens(self, user: str) -> None:
        """Make all sync tokens of a user unknown."""
        with self._lock:
            self._account(user).forget_sync_tokens()
            if self._file is not None:
                self._file.forget_sync_tokens(user)

    def sync(self, path: str, token: str | None, arguments: Mapping[str, Any]) -> Reply:
        """Answer a call to /sync."""
        with self._lock:
            full = arguments.get("sync_token") == "*"
            return self._logged(path, self._grants.owner(token), full, lambda: self._sync(token, arguments))

    def read(self, path: str, token: str | None, resource: str, arguments: Mapping[str, str]) -> Reply:
        """Answer a call to a paged read, or to /user.

        resource: a key of `KINDS`, or "user".
        """
        with self._lock:
            user = self._grants.owner(token)
            return self._logged(path, user, False, lambda: self._read(token, resource, arguments))

    def exchange(self, path: str, arguments: Mapping[str, Any]) -> Reply:
        """Answer a call to /oauth/access_token."""
        with self._lock:
            user = self._grants.requester(arguments)
            return self._logged(path, user, False, lambda: self._exchange(arguments))

    def refuse(self, path: str, token: str | None, reply: Reply) -> Reply:
        """Answer a call to a removed endpoint."""
        with self._lock:
            return self._logged(path, self._grants.owner(token), False, lambda: reply)

    def _logged(self, path: str, user: str | None, full: bool, answer: Callable[[], Reply]) -> Reply:
        """Log a call and return its delayed reply."""
        try:
            reply = answer()
        except RefusedError as refused:
            reply = refused.reply
        self.calls.append(TodoistCall(self.now(), user, path, full, reply.status))
        return replace(reply, delay_s=reply.delay_s + self._answer_delay_s(user))

    def _answer_delay_s(self, user: str | None) -> float:
        """A delay in seconds, drawn per user, independently of the order in which users call."""
        rng = self._delay_rngs.setdefault(user, Random(f"{self._seed}/seconds/{user}"))
        return rng.uniform(*self._answer_seconds)

    def _sync(self, token: str | None, arguments: Mapping[str, Any]) -> Reply:
        now = self.now()
        user = self._grants.check(token, now)
        account = self._account(user)
        request = read_sync_request(arguments)
        _admit(account, request.is_full, now)
        fault = account.next_fault(*self._fault_rate)
        answer = account.answer(
            request,
            now,
            unknown_sync_token=self._unknown_sync_token,
            force_full=fault is not None and fault.kind is FaultKind.UNEXPECTED_FULL_SYNC,
        )
        if self._file is not None:
            self._file.put_sync_token(user, answer["sync_token"], account.objects.revision)
        return faulty_reply(fault, answer, now) if fault else json_reply(answer)

    def _read(self, token: str | None, resource: str, arguments: Mapping[str, str]) -> Reply:
        now = self.now()
        account = self._account(self._grants.check(token, now))
        request = read_page_request(KINDS[resource], arguments) if resource in KINDS else None
        # Todoist does not publish the limit of reads; here they count as incremental calls.
        _admit(account, False, now)
        if request is None:
            return json_reply(account.objects.active([resource])[resource])
        return json_reply(build_page(account.objects.active([request.kind])[request.kind], request))

    def _exchange(self, arguments: Mapping[str, Any]) -> Reply:
        try:
            return json_reply(self._grants.exchange(arguments, self.now()))
        finally:  # a refused token may have revoked the others
            self._keep_grants()

    @property
    def _has_webhook(self) -> bool:
        return self._registered is not None and self._registered.webhook_url is not None

    def _account(self, user: str) -> Account:
        if user not in self._accounts:
            loaded = ", ".join(sorted(self._accounts)) or "no user yet"
            raise LookupError(f"no user {user!r} is loaded, only {loaded}; load() the user first")
        return self._accounts[user]


@contextmanager
def delivering(todoist: LocalTodoist, interval_s: float = 0.1) -> Iterator[None]:
    """Make requests to the webhook in a thread, as soon as they are due, until the end of the block."""
    stopped = Event()

    def deliver() -> None:
        while not stopped.wait(interval_s):
            todoist.deliver()

    thread = Thread(target=deliver, name="local-webhooks", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _admit(account: Account, full: bool, now: datetime) -> None:
    if retry_after := account.admit(full, now):
        raise RefusedError(limits_reached(retry_after, Retry_After=str(retry_after)))


@contextmanager
def running_todoist(todoist: LocalTodoist, port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve from a thread and yield the base URL.

    port: 0 for any free port.
    """
    with running_server(todoist.app, port, host) as base_url:
        yield base_url
