"""A whole account as a full `/sync` answer: topics chosen, projects made and filled with tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from local.samples.draw import Draw
from local.samples.items import Item, Shelf, new_item
from local.samples.projects import new_labels, new_project, new_sections
from local.samples.texts import Topic, sample_texts, topics_of

Plan = list[tuple[Topic, str]]
_TYPES = ("items", "projects", "sections", "labels")


def new_account(draw: Draw, lang: str, login: Mapping[str, str]) -> dict[str, Any]:
    topics = _choose_topics(draw, lang)
    inbox = new_project(draw, "Inbox", 0) | {"color": "grey", "inbox_project": True}
    projects = [new_project(draw, topic.project, order) for order, topic in enumerate(topics, start=1)]
    sections = [new_sections(draw, p["id"], topic) for p, topic in zip(projects, topics, strict=True)]
    loose, planned = _plan(draw, topics, lang)
    items = _fill(draw, Shelf(inbox["id"], (), (), []), loose)
    for project, topic, its_sections in zip(projects, topics, sections, strict=True):
        shelf = Shelf(project["id"], tuple(s["id"] for s in its_sections), topic.labels, [])
        items += _fill(draw, shelf, [(t, text) for t, text in planned if t is topic])
    head = {"sync_token": draw.new_sync_token(), "full_sync": True, "full_sync_date_utc": draw.instant(1)}
    all_sections = [section for its_sections in sections for section in its_sections]
    objects = objects_by_type(items, [inbox, *projects], all_sections, new_labels(draw, topics))
    return head | objects | {"user": _user(draw, lang, inbox["id"], login)}


def objects_by_type(
    items: list[Item],
    projects: Sequence[Item] = (),
    sections: Sequence[Item] = (),
    labels: Sequence[Item] = (),
) -> dict[str, Any]:
    lists = (items, projects, sections, labels)
    return {name: list(objects) for name, objects in zip(_TYPES, lists, strict=True)}


def _choose_topics(draw: Draw, lang: str) -> list[Topic]:
    """Two to five topics in `lang`; for one user in five, one of them in another language."""
    own = topics_of(lang)
    chosen = draw.rng.sample(own, min(draw.rng.randint(2, 5), len(own)))
    return [*chosen[:4], draw.rng.choice(_foreign(chosen, lang))] if draw.chance(0.2) else chosen


def _foreign(chosen: Iterable[Topic], lang: str) -> list[Topic]:
    """English topics for those who write another language, others for those who write English."""
    keys = {topic.key for topic in chosen}
    return [t for t in sample_texts().topics if t.key not in keys and (t.lang == "en") != (lang == "en")]


def _plan(draw: Draw, topics: Sequence[Topic], lang: str) -> tuple[Plan, Plan]:
    """Which texts become tasks, 20-60 in all: the loose ones of the inbox, then those of the projects."""
    loose = draw.rng.sample(_texts_of(topics_of(lang)), draw.rng.randint(2, 5))
    left = [planned for planned in _texts_of(topics) if planned not in loose]
    total = draw.rng.randint(20, min(60, len(left) + len(loose)))
    return loose, draw.rng.sample(left, total - len(loose))


def _texts_of(topics: Iterable[Topic]) -> Plan:
    return [(topic, text) for topic in topics for text in topic.texts]


def _fill(draw: Draw, shelf: Shelf, plan: Plan) -> list[Item]:
    for topic, text in plan:
        shelf.items.append(new_item(draw, shelf, topic, text))
    return shelf.items


def _user(draw: Draw, lang: str, inbox_id: str, login: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": draw.owner,
        **login,
        "full_name": "",
        "lang": lang,
        "tz_info": _tz_info(draw.zone, draw.today),
        "inbox_project_id": inbox_id,
        "is_premium": draw.chance(0.4),
        "is_deleted": False,
        "joined_at": draw.instant(86_400 * draw.rng.randint(900, 3000)),
        "start_page": "today",
        "start_day": draw.rng.choice((1, 1, 7)),
        "next_week": 1,
        "weekend_start_day": 6,
        "date_format": 0,
        "time_format": draw.rng.choice((0, 0, 1)),
        "daily_goal": 5,
        "weekly_goal": 25,
        "karma": draw.rng.randint(0, 20_000),
    }


def _tz_info(zone: ZoneInfo, today: date) -> dict[str, Any]:
    noon = datetime.combine(today, time(12), tzinfo=zone)
    total = int((noon.utcoffset() or timedelta()).total_seconds()) // 60
    hours, minutes = divmod(abs(total), 60)
    sign = "-" if total < 0 else "+"
    return {
        "timezone": zone.key,
        "gmt_string": f"{sign}{hours:02d}:{minutes:02d}",
        "hours": int(f"{sign}{hours}"),
        "minutes": minutes,
        "is_dst": int(bool(noon.dst())),
    }
