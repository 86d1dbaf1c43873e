"""Deliveries of Todoist's webhooks: signatures, the events in them, and the fields that are kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contexts.todoist.objects import (
    BadItem,
    ObjectType,
    fields_read,
    is_ended,
    read_project,
    read_section,
    read_task,
)
from contexts.todoist.webhooks import (
    NewLabel,
    UnknownEvent,
    UnreadableEvent,
    is_signed,
    read_event,
    signature_of,
)

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
CANARY = "canary-4711"
FIELDS = [
    "id", "content", "description", "project_id", "section_id", "parent_id", "labels", "responsible_uid",
    "added_by_uid", "priority", "due", "deadline", "duration", "added_at", "updated_at", "checked", "is_deleted",
    "is_archived", "name", "is_shared", "workspace_id",
]  # fmt: skip

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)  # JSON has no others
    | st.text(max_size=12)
    | st.sampled_from(["2026-12-01", "2026-12-01T12:00:00Z", "a\0b", "\ud800", "&amp;"])
)
nested = st.dictionaries(
    st.sampled_from(["date", "timezone", "string", "is_recurring", "amount", "unit", "lang"]), scalars
)
values = scalars | nested | st.lists(scalars, max_size=3)
sampled_objects = st.dictionaries(st.sampled_from(FIELDS), values) | st.fixed_dictionaries(
    {"content": st.text()}, optional={name: values for name in FIELDS if name != "content"}
)


def read(object_type: str, value: dict[str, Any]) -> Any:
    """What the mirror reads of an object; the name of the faulty field of an item that it cannot read."""
    if object_type == "project":
        return read_project(value), bool(value.get("is_deleted"))
    if object_type == "section":
        return read_section(value), bool(value.get("is_deleted"))
    try:
        return read_task("1", value), is_ended(value)
    except BadItem as error:
        return str(error), is_ended(value)


def body(name: str = "item:updated", **more: Any) -> bytes:
    data = {"id": "t1", "content": "call", "updated_at": "2026-11-23T12:00:00Z"}
    event = {"event_name": name, "user_id": "1", "event_data": data, "triggered_at": "2026-11-23T12:00:01Z"}
    return json.dumps(event | more).encode()


class TestFieldsRead:
    @given(st.sampled_from(get_args(ObjectType)), sampled_objects)
    def test_same_object(self, object_type: Any, value: dict[str, Any]) -> None:
        """The kept fields are read as the whole object is, and Postgres can hold them."""
        kept = fields_read(object_type, _without_containers(object_type, value))
        assert read(object_type, kept) == read(object_type, _without_containers(object_type, value))
        text = json.dumps(kept, allow_nan=False)
        assert "\\u0000" not in text
        json.dumps(kept, ensure_ascii=False).encode()

    @pytest.mark.parametrize("flag", [1, "yes", [1], {"at": 1}, float("inf"), 0, "", None])
    def test_flags(self, flag: Any) -> None:
        """A flag is kept as it is read, in whatever form it comes."""
        assert is_ended(fields_read("item", {"checked": flag})) == is_ended({"checked": flag})

    def test_nothing_else(self) -> None:
        """Fields that the mirror does not read are left out, also of nested objects, and so is what they hide."""
        value = {
            "id": "1",
            "content": "call",
            "note": CANARY,
            "due": {"date": "2026-12-01", "lang": CANARY},
            "duration": CANARY,
            "deadline": [CANARY],
            "labels": ["home", {"name": CANARY}],
            "project_id": {"id": CANARY},
        }
        assert CANARY not in json.dumps(fields_read("item", value))


def _without_containers(object_type: str, value: dict[str, Any]) -> dict[str, Any]:
    """The object with nothing where Todoist has a text or a number, but an object or a list came."""
    nests = ("labels", "due", "deadline", "duration") if object_type == "item" else ()
    return {name: each for name, each in value.items() if name in nests or not isinstance(each, dict | list)}


class TestSignature:
    def test_example(self) -> None:
        """The signature is the base64 of an HMAC-SHA256 over the raw body."""
        by_openssl = b"dzJZAsrKgS3CWXM6rNBGtzgXNyx3e42VtAJkdHRRbhM="
        assert signature_of("secret", b"{}") == by_openssl
        assert is_signed(b"{}", by_openssl, ["other", "secret"])

    @given(st.binary(max_size=50), st.binary(max_size=60))
    def test_any_other(self, content: bytes, signature: bytes) -> None:
        """Any other signature is refused, whatever it is, and with no secret everything is."""
        assert is_signed(content, signature, ["secret"]) == (signature == signature_of("secret", content))
        assert not is_signed(content, signature_of("secret", content), [])


class TestReadEvent:
    def test_event(self) -> None:
        """An event tells its owner, object, name and times."""
        event = read_event(body(user_id=1))
        assert (event.todoist_user_id, event.object_type, event.object_id) == ("1", "item", "t1")
        assert (event.updated_at, event.triggered_at) == (NOON, NOON + timedelta(seconds=1))
        assert not event.is_ended

    @pytest.mark.parametrize(
        ("content", "is_an_end"),
        [
            (body("item:completed"), True),
            (body("item:deleted"), True),
            (body("project:archived"), True),
            (body("section:deleted"), True),
            (body(event_data={"id": "t1", "checked": True}), True),
            (body(event_data_extra={"update_intent": "item_completed"}), True),
            (body(event_data_extra={"update_intent": "item_updated"}), False),
            (body("item:uncompleted"), False),
            (body("project:unarchived"), False),
            (body(event_data_extra="x"), False),
        ],
    )
    def test_end(self, content: bytes, is_an_end: bool) -> None:
        """An event ends its object by its name, by a flag of the object, or as a completed recurring task."""
        assert read_event(content).is_ended is is_an_end

    @given(st.binary(max_size=200) | sampled_objects.map(lambda value: json.dumps(value).encode()))
    def test_any_body(self, content: bytes) -> None:
        """Any body is an event, unknown or unreadable, and an error says nothing of it."""
        try:
            read_event(content)
        except (NewLabel, UnknownEvent, UnreadableEvent) as error:
            assert str(error).startswith(("the body ", "the event "))

    @pytest.mark.parametrize("name", ["label:updated", "label:deleted", "label:shared"])
    def test_a_label(self, name: str) -> None:
        """A changed label is a hint that tasks changed: nothing of it is kept. A new one changes no task."""
        event = read_event(body(name, event_data={"id": "l", "name": CANARY, "updated_at": "2026-11-23T12:00:00Z"}))
        assert (event.object_type, event.object_id, event.object, event.updated_at) == ("label", "l", {}, None)
        with pytest.raises(NewLabel):
            read_event(body("label:added"))

    @pytest.mark.parametrize("value", [None, "", "yesterday", 5, "0001-01-01T00:00:00Z", [], {}], ids=str)
    def test_unreadable_times(self, value: Any) -> None:
        """Times that cannot be read are unknown, and then the event is late."""
        event = read_event(body(triggered_at=value, event_data={"id": "t1", "updated_at": value}))
        assert (event.updated_at, event.triggered_at, event.is_late(NOON)) == (None, None, True)

    @pytest.mark.parametrize(
        ("now", "is_late"),
        [
            (NOON, False),
            (NOON + timedelta(hours=3), False),
            (NOON + timedelta(hours=3, seconds=2), True),
            (NOON - timedelta(minutes=4), False),
            (NOON - timedelta(minutes=6), True),
        ],
    )
    def test_late(self, now: datetime, is_late: bool) -> None:
        """An event is late after three hours; one from the future, beyond the difference of clocks, is, too."""
        event = read_event(body("item:completed"))
        assert event.is_late(now) is is_late
        hint = event.as_hint(now)
        assert (hint.object, hint.is_ended, hint.updated_at) == ({}, False, None)
        assert hint.triggered_at is None or hint.triggered_at <= now
