"""Sample Todoist accounts: whole `/sync` answers and what changes overnight, the same for the same seed.

The task texts are this project's own and stand in `sample_tasks.toml`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

__all__ = ["SampleUser", "changed_users", "night_changes", "sample_texts", "sample_users"]

Item = dict[str, Any]
Plan = list[tuple["Topic", str]]

_TYPES = ("items", "projects", "sections", "labels")
_ID_LETTERS = "23456789CFGHJMPQRVWXcfghjmpqrvwx"
_TOKEN_LETTERS = _ID_LETTERS + "-_"
_COLORS = ("berry_red", "orange", "olive_green", "teal", "sky_blue", "grape", "charcoal", "taupe")
_HOMES = (
    ("Europe/Berlin", ("de", "de", "en")),
    ("America/New_York", ("en", "en", "es")),
    ("Asia/Tokyo", ("ja", "ja", "en")),
    ("America/Sao_Paulo", ("pt",)),
    ("Africa/Cairo", ("ar", "ar", "en")),
    ("Asia/Kolkata", ("en",)),
    ("Europe/Paris", ("fr", "fr", "en")),
    ("Australia/Sydney", ("en",)),
    ("America/Los_Angeles", ("en", "es")),
    ("Europe/Lisbon", ("pt", "en")),
    ("Europe/Madrid", ("es",)),
    ("Asia/Riyadh", ("ar",)),
    ("Asia/Kathmandu", ("en",)),
    ("UTC", ("en",)),
)


@dataclass(frozen=True)
class SampleUser:
    """One made-up person with a Todoist account; `document` is the account as a full `/sync` answer."""

    user_id: str
    email: str
    api_token: str
    timezone: str
    document: dict[str, Any]


@dataclass(frozen=True)
class Topic:
    """What one kind of project holds in one language; `habits` are those of its `texts` that recur."""

    key: str
    lang: str
    project: str
    sections: tuple[str, ...]
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    habits: frozenset[str]


@dataclass(frozen=True)
class Recurrence:
    """A repeating due date: its words per language, and the days on which it falls."""

    days: int
    texts: Mapping[str, str]
    weekday: int | None = None
    month_day: int | None = None
    time: str | None = None

    def fits(self, day: date) -> bool:
        return self.weekday in (None, day.weekday()) and self.month_day in (None, day.day)

    def on_or_after(self, day: date) -> date:
        return next(d for d in (day + timedelta(days=n) for n in range(32)) if self.fits(d))

    def next_after(self, due: date, today: date) -> date:
        """The first occurrence after `due` that lies after `today`."""
        while due <= today:
            due = self.on_or_after(due + timedelta(days=self.days))
        return due


@dataclass(frozen=True)
class SampleTexts:
    """Everything that `sample_tasks.toml` says."""

    topics: tuple[Topic, ...]
    recurrences: tuple[Recurrence, ...]
    descriptions: Mapping[str, Sequence[str]]
    rewordings: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class _Draw:
    """What every drawn task needs: chance, the day, the account, and how old the oldest task may be."""

    rng: Random
    today: date
    owner: str
    zone: ZoneInfo
    max_age: timedelta

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def new_id(self) -> str:
        return "6" + "".join(self.rng.choices(_ID_LETTERS, k=15))

    def new_sync_token(self) -> str:
        return "".join(self.rng.choices(_TOKEN_LETTERS, k=64))

    def instant(self, seconds_ago: int) -> str:
        """An instant before today's midnight, as Todoist writes it: with microseconds or without."""
        at = datetime.combine(self.today, time()) - timedelta(seconds=seconds_ago)
        if self.chance(0.5):
            return f"{at.isoformat(timespec='seconds')}Z"
        return f"{at.isoformat(timespec='seconds')}.{self.rng.randrange(10**6):06d}Z"


@dataclass(frozen=True)
class _Shelf:
    """One project's place for tasks: its sections, the labels in use there and the tasks that it has."""

    project_id: str
    section_ids: tuple[str, ...]
    labels: tuple[str, ...]
    items: list[Item]


def sample_users(n: int, *, today: date, seed: int = 7) -> list[SampleUser]:
    """`n` users with 20-60 open tasks each, dates around `today`; user k is the same whatever `n` is."""
    homes = list(_HOMES)
    Random(f"{seed}:homes").shuffle(homes)
    return [_sample_user(index, homes[index % len(homes)], today, seed) for index in range(n)]


def night_changes(
    user: SampleUser, document: Mapping[str, Any], *, today: date, night: int, seed: int = 7
) -> dict[str, Any]:
    """What happened to the account `document` on the day before `today`, as an incremental `/sync` answer.

    One to three new tasks, one completed, one reworded, one with its due date moved: at most what the account
    has. `document` stays as it is.
    """
    rng = Random(f"{seed}:{user.user_id}:night:{night}")
    draw = _draw(rng, today, document["user"]["id"], user.timezone, max_age=timedelta(days=1))
    topics = _topics_by_project(document)
    pool = [item for item in document["items"] if not (item["checked"] or item["is_deleted"])]
    rng.shuffle(pool)
    completed = _take(pool, _leaves(pool))
    reworded = _take(pool, (item for item in pool if not _is_reworded(item)))
    moved = _take(pool, (item for item in pool if item["due"] and not item["due"]["is_recurring"]))
    lang = document["user"]["lang"]
    items = [
        *(_complete(draw, item) for item in completed),
        *(_reword(draw, item, topics.get(item["project_id"]), lang) for item in reworded),
        *(_move(draw, item) for item in moved),
        *_new_items(draw, document, topics, pool),
    ]
    return {"sync_token": draw.new_sync_token(), "full_sync": False} | _objects(items=items)


def changed_users(
    users: Sequence[SampleUser],
    *,
    share: float,
    night: int,
    seed: int = 7,
) -> list[SampleUser]:
    """The `share` (0 to 1) of `users` whose accounts change in this `night`, at least one, in their order."""
    n_changed = min(len(users), max(1, round(share * len(users))))
    indices = Random(f"{seed}:changed:{night}").sample(range(len(users)), n_changed)
    return [users[index] for index in sorted(indices)]


# ---- texts


@cache
def sample_texts() -> SampleTexts:
    """The texts of `sample_tasks.toml`, read once."""
    raw = tomllib.loads(Path(__file__).with_name("sample_tasks.toml").read_text(encoding="utf-8"))
    topics = (_topic(key, lang, raw) for key, langs in raw["topics"].items() for lang, raw in langs.items())
    return SampleTexts(
        topics=tuple(topics),
        recurrences=tuple(Recurrence(**rule) for rule in raw["recurrences"]),
        descriptions=raw["descriptions"],
        rewordings=raw["rewordings"],
    )


def _topic(key: str, lang: str, raw: Mapping[str, Any]) -> Topic:
    return Topic(
        key=key,
        lang=lang,
        project=raw["project"],
        sections=tuple(raw["sections"]),
        labels=tuple(raw["labels"]),
        texts=(*raw["texts"], *raw["habits"]),
        habits=frozenset(raw["habits"]),
    )


def _topics_of(lang: str) -> list[Topic]:
    return [topic for topic in sample_texts().topics if topic.lang == lang]


def _topics_by_project(document: Mapping[str, Any]) -> dict[str, Topic]:
    by_name = {topic.project: topic for topic in sample_texts().topics}
    return {p["id"]: by_name[p["name"]] for p in document["projects"] if p["name"] in by_name}


def _date_lang(lang: str) -> str:
    """The language of the dates: English where Todoist reads none in `lang`, as in Arabic."""
    return lang if lang in sample_texts().recurrences[0].texts else "en"


# ---- one account


def _draw(rng: Random, today: date, owner: str, timezone: str, max_age: timedelta) -> _Draw:
    return _Draw(rng=rng, today=today, owner=owner, zone=ZoneInfo(timezone), max_age=max_age)


def _sample_user(index: int, home: tuple[str, tuple[str, ...]], today: date, seed: int) -> SampleUser:
    user_id = f"user-{index + 1:04d}"
    timezone, langs = home
    rng = Random(f"{seed}:{user_id}")
    draw = _draw(rng, today, str(40_000_000 + 37 * index), timezone, max_age=timedelta(days=200))
    email, api_token = f"{user_id}@example.org", f"{rng.getrandbits(160):040x}"
    document = _document(draw, rng.choice(langs), {"email": email, "token": api_token})
    return SampleUser(user_id, email, api_token, timezone, document)


def _document(draw: _Draw, lang: str, login: Mapping[str, str]) -> dict[str, Any]:
    topics = _choose_topics(draw, lang)
    inbox = _project(draw, "Inbox", 0) | {"color": "grey", "inbox_project": True}
    projects = [_project(draw, topic.project, order) for order, topic in enumerate(topics, start=1)]
    sections = [_sections(draw, p["id"], topic) for p, topic in zip(projects, topics, strict=True)]
    loose, planned = _plan(draw, topics, lang)
    items = _fill(draw, _Shelf(inbox["id"], (), (), []), loose)
    for project, topic, its_sections in zip(projects, topics, sections, strict=True):
        shelf = _Shelf(project["id"], tuple(s["id"] for s in its_sections), topic.labels, [])
        items += _fill(draw, shelf, [(t, text) for t, text in planned if t is topic])
    head = {"sync_token": draw.new_sync_token(), "full_sync": True, "full_sync_date_utc": draw.instant(1)}
    return (
        head
        | _objects(items, [inbox, *projects], [s for group in sections for s in group], _labels(draw, topics))
        | {"user": _user(draw, lang, inbox["id"], login)}
    )


def _objects(
    items: list[Item],
    projects: Sequence[Item] = (),
    sections: Sequence[Item] = (),
    labels: Sequence[Item] = (),
) -> dict[str, Any]:
    lists = (items, projects, sections, labels)
    return {name: list(objects) for name, objects in zip(_TYPES, lists, strict=True)}


def _choose_topics(draw: _Draw, lang: str) -> list[Topic]:
    """Two to five topics in `lang`; for one user in five, one of them in another language."""
    own = _topics_of(lang)
    chosen = draw.rng.sample(own, min(draw.rng.randint(2, 5), len(own)))
    return [*chosen[:4], draw.rng.choice(_foreign(chosen, lang))] if draw.chance(0.2) else chosen


def _foreign(chosen: Iterable[Topic], lang: str) -> list[Topic]:
    """English topics for those who write another language, others for those who write English."""
    keys = {topic.key for topic in chosen}
    return [t for t in sample_texts().topics if t.key not in keys and (t.lang == "en") != (lang == "en")]


def _plan(draw: _Draw, topics: Sequence[Topic], lang: str) -> tuple[Plan, Plan]:
    """Which texts become tasks, 20-60 in all: the loose ones of the inbox, then those of the projects."""
    loose = draw.rng.sample(_texts_of(_topics_of(lang)), draw.rng.randint(2, 5))
    left = [planned for planned in _texts_of(topics) if planned not in loose]
    total = draw.rng.randint(20, min(60, len(left) + len(loose)))
    return loose, draw.rng.sample(left, total - len(loose))


def _texts_of(topics: Iterable[Topic]) -> Plan:
    return [(topic, text) for topic in topics for text in topic.texts]


def _fill(draw: _Draw, shelf: _Shelf, plan: Plan) -> list[Item]:
    for topic, text in plan:
        shelf.items.append(_item(draw, shelf, topic, text))
    return shelf.items


def _project(draw: _Draw, name: str, order: int) -> dict[str, Any]:
    created_at = draw.instant(86_400 * draw.rng.randint(200, 900))
    return {
        "id": draw.new_id(),
        "name": name,
        "description": "",
        "color": draw.rng.choice(_COLORS),
        "parent_id": None,
        "child_order": order,
        "is_collapsed": False,
        "is_shared": False,
        "can_assign_tasks": False,
        "is_favorite": draw.chance(0.15),
        "is_frozen": False,
        "is_archived": False,
        "is_deleted": False,
        "inbox_project": False,
        "view_style": draw.rng.choice(("list", "list", "board")),
        "creator_uid": draw.owner,
        "created_at": created_at,
        "updated_at": created_at,
    }


def _sections(draw: _Draw, project_id: str, topic: Topic) -> list[dict[str, Any]]:
    names = topic.sections if draw.chance(0.6) else ()
    return [_section(draw, project_id, name, order) for order, name in enumerate(names, start=1)]


def _section(draw: _Draw, project_id: str, name: str, order: int) -> dict[str, Any]:
    return {
        "id": draw.new_id(),
        "user_id": draw.owner,
        "project_id": project_id,
        "name": name,
        "section_order": order,
        "is_collapsed": False,
        "is_archived": False,
        "is_deleted": False,
        "added_at": draw.instant(86_400 * draw.rng.randint(200, 400)),
        "updated_at": None,
        "archived_at": None,
    }


def _labels(draw: _Draw, topics: Sequence[Topic]) -> list[dict[str, Any]]:
    names = dict.fromkeys(label for topic in topics for label in topic.labels)
    return [_label(draw, name, order) for order, name in enumerate(names, start=1)]


def _label(draw: _Draw, name: str, order: int) -> dict[str, Any]:
    return {
        "id": draw.new_id(),
        "name": name,
        "color": draw.rng.choice(_COLORS),
        "item_order": order,
        "is_favorite": False,
        "is_deleted": False,
    }


def _user(draw: _Draw, lang: str, inbox_id: str, login: Mapping[str, str]) -> dict[str, Any]:
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


# ---- one task


def _item(draw: _Draw, shelf: _Shelf, topic: Topic, text: str) -> Item:
    rng = draw.rng
    age = rng.randrange(60, int(draw.max_age.total_seconds()))
    due = _due(draw, topic, text, not_before=draw.today - timedelta(seconds=age))
    parent = _parent(draw, shelf)
    return {
        "id": draw.new_id(),
        "user_id": draw.owner,
        "project_id": shelf.project_id,
        "content": text,
        "description": rng.choice(sample_texts().descriptions[topic.lang]) if draw.chance(0.15) else "",
        "section_id": parent["section_id"] if parent else _section_id(draw, shelf),
        "parent_id": parent["id"] if parent else None,
        "labels": _item_labels(draw, shelf),
        "priority": rng.choices((1, 2, 3, 4), weights=(70, 12, 10, 8))[0],
        "due": due,
        "deadline": _deadline(draw, topic.lang) if draw.chance(0.05) else None,
        "duration": _duration(draw, due),
        "child_order": len(shelf.items) + 1,
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


def _item_labels(draw: _Draw, shelf: _Shelf) -> list[str]:
    if not shelf.labels or not draw.chance(0.3):
        return []
    return draw.rng.sample(shelf.labels, draw.rng.randint(1, min(2, len(shelf.labels))))


def _section_id(draw: _Draw, shelf: _Shelf) -> str | None:
    return draw.rng.choice(shelf.section_ids) if shelf.section_ids and draw.chance(0.75) else None


def _parent(draw: _Draw, shelf: _Shelf) -> Item | None:
    roots = [item for item in shelf.items if item["parent_id"] is None]
    return draw.rng.choice(roots) if roots and draw.chance(0.1) else None


def _due(draw: _Draw, topic: Topic, text: str, not_before: date) -> dict[str, Any] | None:
    """Habits recur; of the other tasks about half have a date, in one of Todoist's three forms."""
    if text in topic.habits:
        return _recurring(draw, topic.lang, not_before)
    if not draw.chance(0.54):
        return None
    day = max(not_before, draw.today + timedelta(days=round(draw.rng.triangular(-19, 59, 4))))
    form = draw.rng.choices((_whole_day, _floating, _fixed), weights=(5, 3, 2))[0]
    return form(draw, day, _date_lang(topic.lang))


def _recurring(draw: _Draw, lang: str, not_before: date) -> dict[str, Any]:
    rule = draw.rng.choice(sample_texts().recurrences)
    earliest = max(not_before, draw.today + timedelta(days=draw.rng.randint(-5, 10)))
    day = rule.on_or_after(earliest).isoformat()
    date_lang = _date_lang(lang)
    words = rule.texts[date_lang]
    return _due_object(f"{day}T{rule.time}" if rule.time else day, words, date_lang, is_recurring=True)


def _whole_day(draw: _Draw, day: date, lang: str) -> dict[str, Any]:
    return _due_object(day.isoformat(), day.isoformat(), lang)


def _floating(draw: _Draw, day: date, lang: str) -> dict[str, Any]:
    at = _local_time(draw, day)
    return _due_object(at.isoformat() + _fraction(draw), f"{at:%Y-%m-%d %H:%M}", lang)


def _fixed(draw: _Draw, day: date, lang: str) -> dict[str, Any]:
    at = _local_time(draw, day)
    utc = at.replace(tzinfo=draw.zone).astimezone(UTC).replace(tzinfo=None)
    due = _due_object(f"{utc.isoformat()}{_fraction(draw)}Z", f"{at:%Y-%m-%d %H:%M}", lang)
    return due | {"timezone": draw.zone.key}


def _due_object(when: str, words: str, lang: str, *, is_recurring: bool = False) -> dict[str, Any]:
    return {"date": when, "timezone": None, "string": words, "lang": lang, "is_recurring": is_recurring}


def _local_time(draw: _Draw, day: date) -> datetime:
    return datetime.combine(day, time(draw.rng.randint(7, 21), draw.rng.choice((0, 15, 30, 45))))


def _fraction(draw: _Draw) -> str:
    return ".000000" if draw.chance(0.25) else ""


def _deadline(draw: _Draw, lang: str) -> dict[str, str]:
    day = draw.today + timedelta(days=draw.rng.randint(3, 60))
    return {"date": day.isoformat(), "lang": _date_lang(lang)}


def _duration(draw: _Draw, due: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Todoist knows durations for tasks with a date only, in minutes only where there is a time."""
    if due is None or not draw.chance(0.12):
        return None
    if "T" in due["date"]:
        return {"amount": draw.rng.choice((15, 30, 45, 60, 90)), "unit": "minute"}
    return {"amount": draw.rng.randint(1, 3), "unit": "day"}


# ---- one night


def _take(pool: list[Item], candidates: Iterable[Item]) -> list[Item]:
    """The first candidate, taken out of `pool` so that no task changes twice; none where there is none."""
    taken = list(candidates)[:1]
    for item in taken:
        pool.remove(item)
    return taken


def _leaves(pool: Iterable[Item]) -> list[Item]:
    """Tasks without open sub-tasks: completing any other would complete those as well."""
    items = list(pool)
    parents = {item["parent_id"] for item in items}
    return [item for item in items if item["id"] not in parents]


def _is_reworded(item: Item) -> bool:
    endings = tuple(ending for group in sample_texts().rewordings.values() for ending in group)
    return str(item["content"]).endswith(endings)


def _touch(draw: _Draw, item: Item, **changed: Any) -> Item:
    return item | {"updated_at": draw.instant(draw.rng.randint(1, 86_399))} | changed


def _complete(draw: _Draw, item: Item) -> Item:
    """A task that is done; a recurring one only moves on to its next day."""
    if item["due"] and item["due"]["is_recurring"]:
        return _touch(draw, item, due=_next_due(item["due"], draw.today))
    done = _touch(draw, item, checked=True, completed_by_uid=draw.owner)
    return done | {"completed_at": done["updated_at"]}


def _next_due(due: Mapping[str, Any], today: date) -> dict[str, Any]:
    known = (rule for rule in sample_texts().recurrences if due["string"] in rule.texts.values())
    rule = next(known, Recurrence(days=7, texts={}))
    old = date.fromisoformat(due["date"][:10])
    new = rule.next_after(old, max(old, today))
    return {**due, "date": new.isoformat() + due["date"][10:]}


def _reword(draw: _Draw, item: Item, topic: Topic | None, lang: str) -> Item:
    rewordings = sample_texts().rewordings
    endings = rewordings.get(topic.lang if topic else lang, rewordings["en"])
    return _touch(draw, item, content=item["content"] + draw.rng.choice(endings))


def _move(draw: _Draw, item: Item) -> Item:
    old = date.fromisoformat(item["due"]["date"][:10])
    day = (max(old, draw.today) + timedelta(days=draw.rng.randint(1, 14))).isoformat()
    return _touch(draw, item, due={**item["due"], "date": day + item["due"]["date"][10:], "string": day})


def _new_items(
    draw: _Draw,
    document: Mapping[str, Any],
    topics: Mapping[str, Topic],
    pool: list[Item],
) -> list[Item]:
    """One to three tasks in the account's projects, under none of those that change in this night."""
    projects = [p for p in document["projects"] if not (p["is_archived"] or p["is_deleted"])]
    seen = {item["content"] for item in document["items"]}
    new: list[Item] = []
    for project in draw.rng.choices(projects, k=draw.rng.randint(1, 3)) if projects else []:
        topic = topics.get(project["id"]) or draw.rng.choice(_account_topics(document, topics))
        text = _fresh_text(draw, topic, seen)
        seen.add(text)
        new.append(_item(draw, _shelf_of(document, project["id"], topics, pool), topic, text))
    return new


def _account_topics(document: Mapping[str, Any], topics: Mapping[str, Topic]) -> list[Topic]:
    return list(topics.values()) or _topics_of(document["user"]["lang"]) or _topics_of("en")


def _fresh_text(draw: _Draw, topic: Topic, seen: Iterable[str]) -> str:
    """A text that the account does not have, or any of the topic when it has them all."""
    return draw.rng.choice([text for text in topic.texts if text not in seen] or topic.texts)


def _shelf_of(
    document: Mapping[str, Any], project_id: str, topics: Mapping[str, Topic], pool: Iterable[Item]
) -> _Shelf:
    sections = (s for s in document["sections"] if not (s["is_archived"] or s["is_deleted"]))
    names = {label["name"] for label in document["labels"] if not label["is_deleted"]}
    wanted = topics[project_id].labels if project_id in topics else ()
    return _Shelf(
        project_id=project_id,
        section_ids=tuple(s["id"] for s in sections if s["project_id"] == project_id),
        labels=tuple(label for label in wanted if label in names),
        items=[item for item in pool if item["project_id"] == project_id],
    )
