"""Deliveries of Todoist's webhooks: their signature, and the parts of their event that are kept. Pure."""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from contexts.clock import CLOCK_DIFFERENCE
from contexts.todoist.objects import (
    as_object,
    fields_read,
    is_ended,
    object_id,
    parse_instant,
)

EventType = Literal["item", "project", "section", "label"]
"""The types of objects whose events report changed tasks. A renamed or deleted label changes its tasks, for which
Todoist may send no events."""

MAX_EVENT_AGE = timedelta(hours=3)
"""An older event is late. Todoist repeats a delivery for 45 minutes, and the signature covers no time, so a later
delivery may be the repetition of a captured request."""

_MAX_ACTION_CHARS = 40
_ENDING_EVENTS = frozenset(
    {
        "item:completed", "item:deleted", "project:archived", "project:deleted", "section:archived",
        "section:deleted",
    }
)  # fmt: skip


class UnknownEvent(ValueError):
    """An event about something that the mirror does not keep, such as a comment or a filter."""


class NewLabel(ValueError):
    """A label was added, which changes no task."""


class UnreadableEvent(ValueError):
    """A body that is not an event; the message contains no part of the body."""


@dataclass(frozen=True, slots=True)
class TodoistEvent:
    """A change of one object that Todoist reports to one of its users.

    event_name: an update that takes back a completion is `item:uncompleted`, as if Todoist had named it so.
    object: the object after the change, only the fields that the mirror reads; none of a label.
    is_ended: whether the change ends the object, or the present occurrence of a recurring task.
    updated_at: the object's own; None if it is unset or unreadable.
    triggered_at: the time at which Todoist made the event; None if it is unreadable.
    """

    todoist_user_id: str
    object_type: EventType
    object_id: str
    event_name: str
    object: Mapping[str, Any]
    is_ended: bool
    updated_at: datetime | None
    triggered_at: datetime | None

    def is_late(self, now: datetime) -> bool:
        """Whether the event may repeat an old delivery: its time is unknown, too old, or in the future."""
        at = self.triggered_at
        return at is None or not now - MAX_EVENT_AGE <= at <= now + CLOCK_DIFFERENCE

    def as_hint(self, now: datetime) -> TodoistEvent:
        """The event without its content and without a time in the future: it says only that the object changed."""
        at = self.triggered_at if self.triggered_at is not None and self.triggered_at <= now else None
        return replace(self, object={}, is_ended=False, updated_at=None, triggered_at=at)


def signature_of(secret: str, body: bytes) -> bytes:
    """Return the value of `X-Todoist-Hmac-SHA256` for the raw body of a request."""
    return b64encode(hmac.digest(secret.encode(), body, "sha256"))


def is_signed(body: bytes, signature: bytes, secrets: Iterable[str]) -> bool:
    """Return whether a raw body was signed with one of the client secrets; each is compared in constant time."""
    return any(hmac.compare_digest(signature_of(secret, body), signature) for secret in secrets)


def read_event(body: bytes) -> TodoistEvent:
    """Read the body of a delivery; raises UnreadableEvent, UnknownEvent or NewLabel.

    Only the fields of the object that the mirror reads are kept, and nothing of the person who made the change.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError, MemoryError):
        raise UnreadableEvent("the body is not JSON") from None
    name, value = as_object(document).get("event_name"), as_object(as_object(document).get("event_data"))
    if not isinstance(name, str):
        raise UnreadableEvent("the body has no event_name")
    object_type = _event_type(name)
    owner, changed = object_id({"id": document.get("user_id")}), object_id(value)
    if owner is None or changed is None:
        raise UnreadableEvent("the body has no id of the user or of the object, or one that is too long")
    return TodoistEvent(
        todoist_user_id=owner,
        object_type=object_type,
        object_id=changed,
        event_name="item:uncompleted" if _intent(document) == "item_uncompleted" else name,
        object={} if object_type == "label" else fields_read(object_type, value),
        is_ended=name in _ENDING_EVENTS or is_ended(value) or _intent(document) == "item_completed",
        updated_at=None if object_type == "label" else parse_instant(value.get("updated_at")),
        triggered_at=parse_instant(document.get("triggered_at")),
    )


def _event_type(event_name: str) -> EventType:
    """Return the type of the object that changed, also for a kind of change that is not known."""
    prefix, _, action = event_name.partition(":")
    found: EventType | None = next((each for each in get_args(EventType) if each == prefix), None)
    if found is None or not action.isascii() or not action.isprintable() or not 0 < len(action) <= _MAX_ACTION_CHARS:
        raise UnknownEvent("the event is about nothing that the mirror keeps")
    if (found, action) == ("label", "added"):
        raise NewLabel("the event is about a new label, which no task has yet")
    return found


def _intent(document: Mapping[str, Any]) -> object:
    """Return the reason for an update, if it tells one: a completed recurring task is only moved to its next date."""
    return as_object(document.get("event_data_extra")).get("update_intent")
