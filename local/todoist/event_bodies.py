"""The events that Todoist makes of a change of a user's objects. Source: API v1, "Webhooks"."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

TYPES: Mapping[str, str] = {"items": "item", "projects": "project", "sections": "section", "labels": "label"}
"""The kinds of objects whose changes are events, with the type in the event's name."""

_MARK_EVENTS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "item": (("checked", "completed", "uncompleted"),),
    "project": (("is_archived", "archived", "unarchived"),),
    "section": (("is_archived", "archived", "unarchived"),),
    "label": (),
}

Snapshot = Mapping[tuple[str, Any], Mapping[str, Any]]
"""Objects by kind and id."""


def snapshot(objects: Mapping[str, Any]) -> Snapshot:
    """The valid objects of an answer by kind and id."""
    return {
        (kind, value["id"]): value
        for kind in TYPES
        for value in objects.get(kind, ())
        if isinstance(value, dict) and isinstance(value.get("id"), str | int)
    }


def event_bodies(
    before: Snapshot, changed: Snapshot, user: Mapping[str, Any], at: datetime
) -> Iterator[dict[str, Any]]:
    """The body of each event of a change, in the order of the kinds. user: Todoist's user object."""
    for (kind, key), value in changed.items():
        previous = before.get((kind, key))
        name = f"{TYPES[kind]}:{_action(TYPES[kind], previous, value)}"
        body = {
            "event_name": name,
            "user_id": user.get("id"),
            "event_data": value,
            "initiator": {
                "id": user.get("id"),
                "email": user.get("email"),
                "full_name": user.get("full_name"),
                "image_id": None,
                "is_premium": False,
            },
            "triggered_at": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "version": "10",
        }
        if name == "item:updated" and previous is not None:
            body["event_data_extra"] = {"old_item": previous, "update_intent": _intent(previous, value)}
        yield body


def _action(object_type: str, previous: Mapping[str, Any] | None, value: Mapping[str, Any]) -> str:
    if value.get("is_deleted"):
        return "deleted"
    for mark, was_set, was_removed in _MARK_EVENTS[object_type]:
        if bool(value.get(mark)) != bool(previous and previous.get(mark)):
            return was_set if value.get(mark) else was_removed
    return "updated" if previous is not None else "added"


def _intent(previous: Mapping[str, Any], value: Mapping[str, Any]) -> str:
    """Completing a recurring task only moves its due date and its count of completions."""
    return "item_completed" if value.get("completed_count") != previous.get("completed_count") else "item_updated"
