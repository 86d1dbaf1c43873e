"""Generates a whole account as a full `/sync` answer: topics, projects, and their tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from local.samples.draw import Draw
from local.samples.items import Item, ProjectContents, new_item
from local.samples.projects import new_labels, new_project, new_sections
from local.samples.texts import Topic, sample_texts, topics_of

_TopicTexts = list[tuple[Topic, str]]

_TYPES = ("items", "projects", "sections", "labels")


def new_account(draw: Draw, lang: str, login: Mapping[str, str]) -> dict[str, Any]:
    """A new account as a full `/sync` answer.

    lang: the user's language code.
    login: fields of the user object, such as email and token.
    """
    topics = _choose_topics(draw, lang)
    inbox = new_project(draw, "Inbox", 0) | {"color": "grey", "inbox_project": True}
    projects = [new_project(draw, topic.project, order) for order, topic in enumerate(topics, start=1)]
    sections = [new_sections(draw, p["id"], topic) for p, topic in zip(projects, topics, strict=True)]
    inbox_texts, project_texts = _choose_texts(draw, topics, lang)
    items = _fill(draw, ProjectContents(inbox["id"], (), (), []), inbox_texts)
    for project, topic, its_sections in zip(projects, topics, sections, strict=True):
        contents = ProjectContents(project["id"], tuple(s["id"] for s in its_sections), topic.labels, [])
        items += _fill(draw, contents, [(t, text) for t, text in project_texts if t is topic])
    envelope = {"sync_token": draw.new_sync_token(), "full_sync": True, "full_sync_date_utc": draw.instant(1)}
    all_sections = [section for its_sections in sections for section in its_sections]
    objects = objects_by_type(items, [inbox, *projects], all_sections, new_labels(draw, topics))
    return envelope | objects | {"user": _user(draw, lang, inbox["id"], login)}


def objects_by_type(
    items: list[Item],
    projects: Sequence[Item] = (),
    sections: Sequence[Item] = (),
    labels: Sequence[Item] = (),
) -> dict[str, Any]:
    """The objects of a `/sync` answer by resource type."""
    lists = (items, projects, sections, labels)
    return {name: list(objects) for name, objects in zip(_TYPES, lists, strict=True)}


def _choose_topics(draw: Draw, lang: str) -> list[Topic]:
    """Two to five topics in `lang`; for one user in five, one of them in another language."""
    in_lang = topics_of(lang)
    chosen = draw.rng.sample(in_lang, min(draw.rng.randint(2, 5), len(in_lang)))
    return [*chosen[:4], draw.rng.choice(_foreign_topics(chosen, lang))] if draw.chance(0.2) else chosen


def _foreign_topics(chosen: Iterable[Topic], lang: str) -> list[Topic]:
    """Topics in English if the user's language is different, else in all other languages; without the chosen ones."""
    keys = {topic.key for topic in chosen}
    return [t for t in sample_texts().topics if t.key not in keys and (t.lang == "en") != (lang == "en")]


def _choose_texts(draw: Draw, topics: Sequence[Topic], lang: str) -> tuple[_TopicTexts, _TopicTexts]:
    """The texts of 20 to 60 tasks: those of the inbox, and those of the projects."""
    for_inbox = draw.rng.sample(_texts_of(topics_of(lang)), draw.rng.randint(2, 5))
    available = [text for text in _texts_of(topics) if text not in for_inbox]
    n_tasks = draw.rng.randint(20, min(60, len(available) + len(for_inbox)))
    return for_inbox, draw.rng.sample(available, n_tasks - len(for_inbox))


def _texts_of(topics: Iterable[Topic]) -> _TopicTexts:
    return [(topic, text) for topic in topics for text in topic.texts]


def _fill(draw: Draw, contents: ProjectContents, texts: _TopicTexts) -> list[Item]:
    for topic, text in texts:
        contents.items.append(new_item(draw, contents, topic, text))
    return contents.items


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
    offset = int((noon.utcoffset() or timedelta()).total_seconds()) // 60
    hours, minutes = divmod(abs(offset), 60)
    sign = "-" if offset < 0 else "+"
    return {
        "timezone": zone.key,
        "gmt_string": f"{sign}{hours:02d}:{minutes:02d}",
        "hours": int(f"{sign}{hours}"),
        "minutes": minutes,
        "is_dst": int(bool(noon.dst())),
    }
