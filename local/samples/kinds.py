"""Kinds of accounts that differ from a plain one, as real accounts do: shared projects, deadlines, headers and more.

Each kind is a function that returns a changed copy of a full `/sync` answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any

from local.samples.draw import Draw
from local.samples.items import Item, ProjectContents, new_item
from local.samples.texts import Topic, date_lang, sample_texts, topics_by_project, topics_of

Document = Mapping[str, Any]
Kind = Callable[[Draw, Document], Document]

HEADER = "* "
"""The start of the content of an item that cannot be completed."""

_DAYS_TO_DEADLINE = (-2, 0, 3, 40)
_DAYS_FROM_DUE_TO_DEADLINE = (-3, 5, -1, 1)
_MAX_TASKS_OF_HEADER = 5


def shared_project(draw: Draw, document: Document) -> Document:
    """The largest project is shared: its tasks are the colleague's, the user's or nobody's, and written by either."""
    project_id = _largest_project(document)
    places = {item["id"]: place for place, item in enumerate(_items_of(document, project_id))}
    shared = {"is_shared": True, "can_assign_tasks": True}
    return {
        **document,
        "projects": [p | shared if p["id"] == project_id else p for p in document["projects"]],
        "items": [
            item | _assignment(draw, places[item["id"]]) if item["id"] in places else item
            for item in document["items"]
        ],
    }


def offset_zone(draw: Draw, document: Document) -> Document:
    """The time zone is an offset, such as `GMT -3:00` or `GMT +5:30`, instead of the name of a place."""
    info = document["user"]["tz_info"]
    offset = {"timezone": f"GMT {info['hours']:+d}:{info['minutes']:02d}", "is_dst": 0}
    return {
        **document,
        "items": [
            item | {"due": item["due"] | {"timezone": offset["timezone"]}}
            if (item["due"] or {}).get("timezone")
            else item
            for item in document["items"]
        ],
        "user": document["user"] | {"tz_info": info | offset},
    }


def deadlines(draw: Draw, document: Document) -> Document:
    """Some tasks have a deadline without a due date, others one before or after their due date."""
    single = [item for item in document["items"] if not (item["due"] and item["due"]["is_recurring"])]
    undated = [item for item in single if not item["due"]]
    dated = [item for item in single if item["due"]]
    days = {item["id"]: draw.today + timedelta(days=n) for item, n in zip(undated, _DAYS_TO_DEADLINE, strict=False)}
    days |= {
        item["id"]: date.fromisoformat(item["due"]["date"][:10]) + timedelta(days=n)
        for item, n in zip(dated, _DAYS_FROM_DUE_TO_DEADLINE, strict=False)
    }
    lang = date_lang(document["user"]["lang"])
    return _with_fields(
        document, {key: {"deadline": {"date": day.isoformat(), "lang": lang}} for key, day in days.items()}
    )


def headers(draw: Draw, document: Document) -> Document:
    """A header such as `* Planning` has several tasks of the largest project below it."""
    project_id = _largest_project(document)
    roots = _roots(document, project_id)
    section_id = Counter(item["section_id"] for item in roots).most_common(1)[0][0]
    below = [item for item in roots if item["section_id"] == section_id][:_MAX_TASKS_OF_HEADER]
    topic = topics_by_project(document)[project_id]
    place = {"project_id": project_id, "section_id": section_id, "child_order": len(roots) + 1}
    header = _bare_item(draw, topic, HEADER + topic.sections[0], place)
    changed = _with_fields(document, {item["id"]: {"parent_id": header["id"]} for item in below})
    return {**changed, "items": [*changed["items"], header]}


def equal_sub_tasks(draw: Draw, document: Document) -> Document:
    """Two tasks of the largest project have sub-tasks with equal words."""
    topic = topics_by_project(document)[_largest_project(document)]
    added = [
        _bare_item(draw, topic, text, _place_below(parent) | {"child_order": order})
        for parent in _roots(document, _largest_project(document))[:2]
        for order, text in enumerate(sample_texts().sub_tasks[topic.lang], start=1)
    ]
    return {**document, "items": [*document["items"], *added]}


def unusual_texts(draw: Draw, document: Document) -> Document:
    """The inbox also has texts with HTML escapes, escaped links, nested brackets, emoji and directional marks."""
    inbox_id = document["user"]["inbox_project_id"]
    first_order = len(_items_of(document, inbox_id)) + 1
    added = [
        _bare_item(draw, topics_of("en")[0], text, {"project_id": inbox_id, "child_order": order})
        for order, text in enumerate(sample_texts().unusual, start=first_order)
    ]
    return {**document, "items": [*document["items"], *added]}


def noted_twice(draw: Draw, document: Document) -> Document:
    """Three tasks of the largest project are in the inbox again, with the same words."""
    project_id, inbox_id = _largest_project(document), document["user"]["inbox_project_id"]
    first_order = len(_items_of(document, inbox_id)) + 1
    added = [
        _bare_item(
            draw,
            topics_by_project(document)[project_id],
            f"{item['content'].capitalize()}!",
            {"project_id": inbox_id, "child_order": order},
        )
        for order, item in enumerate(_roots(document, project_id)[:3], start=first_order)
    ]
    return {**document, "items": [*document["items"], *added]}


KIND_BY_NUMBER: Mapping[int, Kind] = {
    1: shared_project,
    5: unusual_texts,
    7: offset_zone,
    8: headers,
    9: equal_sub_tasks,
    11: offset_zone,
    13: noted_twice,
    15: shared_project,
    18: noted_twice,
    20: deadlines,
}
"""The kinds by the number of the user, from 0; the accounts of other users are plain."""

_PERIOD = 25


def kind_of(number: int) -> Kind | None:
    """The kind of a user's account, or None for a plain one; it repeats with every 25 users."""
    return KIND_BY_NUMBER.get(number % _PERIOD)


def _largest_project(document: Document) -> str:
    """The id of the project with the most tasks, without the inbox."""
    counts = Counter(item["project_id"] for item in document["items"])
    del counts[document["user"]["inbox_project_id"]]
    return str(counts.most_common(1)[0][0])


def _items_of(document: Document, project_id: str) -> list[Item]:
    return [item for item in document["items"] if item["project_id"] == project_id]


def _roots(document: Document, project_id: str) -> list[Item]:
    return [item for item in _items_of(document, project_id) if item["parent_id"] is None]


def _assignment(draw: Draw, place: int) -> dict[str, Any]:
    """Of six tasks each of the colleague, the user and nobody gets two, one of either author."""
    assignee = (draw.colleague, draw.owner, None)[place % 3]
    author = (draw.owner, draw.colleague)[place % 2]
    return {
        "responsible_uid": assignee,
        "assigned_by_uid": author if assignee else None,
        "added_by_uid": author,
    }


def _with_fields(document: Document, fields: Mapping[str, Mapping[str, Any]]) -> Document:
    """The document with other fields in some items, given by item id."""
    return {**document, "items": [item | fields.get(item["id"], {}) for item in document["items"]]}


def _place_below(parent: Item) -> dict[str, Any]:
    return {"parent_id": parent["id"], "project_id": parent["project_id"], "section_id": parent["section_id"]}


def _bare_item(draw: Draw, topic: Topic, text: str, place: Mapping[str, Any]) -> Item:
    """A new item without a date, deadline, duration, label or description.

    place: its project and order, and if it has them its section and parent.
    """
    blank: Item = {"due": None, "deadline": None, "duration": None, "description": "", "labels": [], "priority": 1}
    return new_item(draw, ProjectContents(place["project_id"], (), (), []), topic, text) | blank | dict(place)
