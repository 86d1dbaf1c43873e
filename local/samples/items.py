"""Generates one task with its place in a project, due date, deadline and duration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from local.samples.draw import Draw
from local.samples.texts import Topic, date_lang, sample_texts

Item = dict[str, Any]


@dataclass(frozen=True)
class ProjectContents:
    """A project's sections, labels and tasks."""

    project_id: str
    section_ids: tuple[str, ...]
    labels: tuple[str, ...]
    items: list[Item]


def new_item(draw: Draw, contents: ProjectContents, topic: Topic, text: str) -> Item:
    """A new task with the given text, as an item of `/sync`; it is not added to `contents`."""
    rng = draw.rng
    age = rng.randrange(60, int(draw.max_age.total_seconds()))
    due = _due(draw, topic, text, not_before=draw.today - timedelta(seconds=age))
    parent = _parent(draw, contents)
    return {
        "id": draw.new_id(),
        "user_id": draw.owner,
        "project_id": contents.project_id,
        "content": text,
        "description": rng.choice(sample_texts().descriptions[topic.lang]) if draw.chance(0.15) else "",
        "section_id": parent["section_id"] if parent else _section_id(draw, contents),
        "parent_id": parent["id"] if parent else None,
        "labels": _item_labels(draw, contents),
        "priority": rng.choices((1, 2, 3, 4), weights=(70, 12, 10, 8))[0],
        "due": due,
        "deadline": _deadline(draw, topic.lang) if draw.chance(0.05) else None,
        "duration": _duration(draw, due),
        "child_order": len(contents.items) + 1,
        "day_order": -1,
        "is_collapsed": False,
        "checked": False,
        "is_deleted": False,
        "added_by_uid": draw.owner,
        "assigned_by_uid": None,
        "responsible_uid": None,
        "completed_by_uid": None,
        "added_at": draw.instant(age),
        "updated_at": None if draw.chance(0.3) else draw.instant(1 + int((age - 2) * rng.random())),
        "completed_at": None,
        "note_count": 0,
    }


def _item_labels(draw: Draw, contents: ProjectContents) -> list[str]:
    if not contents.labels or not draw.chance(0.3):
        return []
    return draw.rng.sample(contents.labels, draw.rng.randint(1, min(2, len(contents.labels))))


def _section_id(draw: Draw, contents: ProjectContents) -> str | None:
    return draw.rng.choice(contents.section_ids) if contents.section_ids and draw.chance(0.75) else None


def _parent(draw: Draw, contents: ProjectContents) -> Item | None:
    roots = [item for item in contents.items if item["parent_id"] is None]
    return draw.rng.choice(roots) if roots and draw.chance(0.1) else None


def _due(draw: Draw, topic: Topic, text: str, not_before: date) -> dict[str, Any] | None:
    """A recurring date for habits; for other tasks, in about half of the cases, a date in one of three forms."""
    if text in topic.habits:
        return _recurring(draw, topic.lang, not_before)
    if not draw.chance(0.54):
        return None
    day = max(not_before, draw.today + timedelta(days=round(draw.rng.triangular(-19, 59, 4))))
    new_due = draw.rng.choices((_whole_day, _floating, _fixed), weights=(5, 3, 2))[0]
    return new_due(draw, day, date_lang(topic.lang))


def _recurring(draw: Draw, lang: str, not_before: date) -> dict[str, Any]:
    rule = draw.rng.choice(sample_texts().recurrences)
    earliest = max(not_before, draw.today + timedelta(days=draw.rng.randint(-5, 10)))
    day = rule.on_or_after(earliest).isoformat()
    words_lang = date_lang(lang)
    words = rule.texts[words_lang]
    return _due_object(f"{day}T{rule.time}" if rule.time else day, words, words_lang, is_recurring=True)


def _whole_day(draw: Draw, day: date, lang: str) -> dict[str, Any]:
    return _due_object(day.isoformat(), day.isoformat(), lang)


def _floating(draw: Draw, day: date, lang: str) -> dict[str, Any]:
    at = _local_time(draw, day)
    return _due_object(at.isoformat() + _fraction(draw), f"{at:%Y-%m-%d %H:%M}", lang)


def _fixed(draw: Draw, day: date, lang: str) -> dict[str, Any]:
    at = _local_time(draw, day)
    utc = at.replace(tzinfo=draw.zone).astimezone(UTC).replace(tzinfo=None)
    due = _due_object(f"{utc.isoformat()}{_fraction(draw)}Z", f"{at:%Y-%m-%d %H:%M}", lang)
    return due | {"timezone": draw.zone.key}


def _due_object(date_text: str, words: str, lang: str, *, is_recurring: bool = False) -> dict[str, Any]:
    return {"date": date_text, "timezone": None, "string": words, "lang": lang, "is_recurring": is_recurring}


def _local_time(draw: Draw, day: date) -> datetime:
    return datetime.combine(day, time(draw.rng.randint(7, 21), draw.rng.choice((0, 15, 30, 45))))


def _fraction(draw: Draw) -> str:
    return ".000000" if draw.chance(0.25) else ""


def _deadline(draw: Draw, lang: str) -> dict[str, str]:
    day = draw.today + timedelta(days=draw.rng.randint(3, 60))
    return {"date": day.isoformat(), "lang": date_lang(lang)}


def _duration(draw: Draw, due: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A duration for some tasks with a date: in minutes if the date has a time, else in days."""
    if due is None or not draw.chance(0.12):
        return None
    if "T" in due["date"]:
        return {"amount": draw.rng.choice((15, 30, 45, 60, 90)), "unit": "minute"}
    return {"amount": draw.rng.randint(1, 3), "unit": "day"}
