"""The endpoint of Todoist's webhooks: signature, duplicates, and the outcome of each delivery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from contexts.todoist.webhooks import NewLabel, TodoistEvent, UnknownEvent, UnreadableEvent, is_signed, read_event
from serving.batcher import Overloaded
from serving.connections import AUTHENTICATED
from serving.event_store import EventStore
from serving.metrics import Metrics
from serving.pools import DATABASE_ERRORS, VALUE_ERRORS, OutageLog
from serving.problems import Problem
from serving.readiness import database_problem

EVENTS_ROUTE = "/v1/todoist/events"

_SIGNATURE = b"x-todoist-hmac-sha256"
_DELIVERY_ID = b"x-todoist-delivery-id"
_SIGNATURE_CHARS = 44
"""The length of 32 bytes in base64."""

_MAX_DELIVERY_IDS = 50_000
_MAX_ID_BYTES = 128
_NOTE_INTERVAL = timedelta(seconds=1)


class EventReceiver:
    """Accepts the deliveries of Todoist's webhooks, and answers them with 200 and an empty body.

    Todoist repeats a delivery, in 15 minutes and three times at most, unless the answer is exactly 200. So everything
    with a right signature is answered so, unless it could not be stored and a repetition may help.
    """

    def __init__(
        self, store: EventStore, secrets: Sequence[str], metrics: Metrics, clock: Callable[[], datetime]
    ) -> None:
        """secrets: client secrets with which deliveries may be signed; with none of them the endpoint is absent."""
        self._store = store
        self._secrets = tuple(secrets)
        self._metrics = metrics
        self._clock = clock
        self._delivery_ids: dict[bytes, None] = {}
        self._noted_at: datetime | None = None
        self._outage = OutageLog()

    def admit(self, scope: Scope) -> None:
        """Refuse a request of another method, or without anything like a signature, before its body is read."""
        if scope["method"] != "POST":
            raise HTTPException(405, headers={"Allow": "POST"})
        if len(_header(scope, _SIGNATURE)) != _SIGNATURE_CHARS:
            raise self._refusal()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that was admitted; `receive` returns its whole body at once."""
        message = await receive()
        body = message.get("body", b"")
        if not is_signed(body, _header(scope, _SIGNATURE), self._secrets):
            raise self._refusal()
        scope.setdefault("state", {})[AUTHENTICATED] = True
        outcome = await self._in_time(body, _header(scope, _DELIVERY_ID))
        self._metrics.todoist_events.labels(outcome).inc()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def _in_time(self, body: bytes, delivery_id: bytes) -> str:
        """The outcome of a delivery; raises Problem 503 if the database does not answer."""
        try:
            outcome = await self._outcome(body, delivery_id)
        except VALUE_ERRORS:  # a repetition would fail, too
            return "unreadable"
        except (Overloaded, *DATABASE_ERRORS) as error:
            self._metrics.todoist_events.labels("not_stored").inc()
            if isinstance(error, Overloaded):
                raise
            self._outage.failed(error)
            raise database_problem() from None
        self._outage.succeeded()
        return outcome

    async def _outcome(self, body: bytes, delivery_id: bytes) -> str:
        if delivery_id in self._delivery_ids:
            return "duplicate"
        try:
            event, now = read_event(body), self._clock()
        except UnknownEvent:
            return "unknown"
        except NewLabel:
            return "no_change"
        except UnreadableEvent:
            return "unreadable"
        outcome = await self._store_late(event, now) if event.is_late(now) else await self._store_timely(event, now)
        self._remember(delivery_id)
        return outcome

    async def _store_late(self, event: TodoistEvent, now: datetime) -> str:
        """Store only that the object changed: the delivery says nothing of the channel, and its content is old."""
        outcome = await self._store.write(event.as_hint(now))
        return "foreign" if outcome == "foreign" else "late"

    async def _store_timely(self, event: TodoistEvent, now: datetime) -> str:
        outcome = await self._store.write(event)
        if self._noted_at is None or abs(now - self._noted_at) >= _NOTE_INTERVAL:
            self._noted_at = now
            await self._store.note_delivery()
        return outcome

    def _remember(self, delivery_id: bytes) -> None:
        """Remember a stored delivery; the oldest ones are forgotten, but their repetition changes no row either."""
        if not 0 < len(delivery_id) <= _MAX_ID_BYTES:
            return
        self._delivery_ids[delivery_id] = None
        if len(self._delivery_ids) > _MAX_DELIVERY_IDS:
            del self._delivery_ids[next(iter(self._delivery_ids))]

    def _refusal(self) -> Problem:
        self._metrics.todoist_events.labels("refused").inc()
        return Problem(
            401,
            "the request is not signed with one of TODOIST_CLIENT_SECRETS: X-Todoist-Hmac-SHA256 is missing or wrong",
            reason="wrong_signature",
        )


def _header(scope: Scope, name: bytes) -> bytes:
    """The value of a header; empty if there is none, or more than one."""
    values = [value for key, value in scope["headers"] if key == name]
    return bytes(values[0]) if len(values) == 1 else b""
