"""Generates the changes of a night: the accounts that change, and the changes of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from local.samples.accounts import objects_by_type
from local.samples.draw import Draw
from local.samples.items import Item, ProjectContents, new_item
from local.samples.kinds import HEADER
from local.samples.texts import Recurrence, Topic, sample_texts, topics_by_project, topics_of
from local.samples.users import SampleUser


def night_changes(
    user: SampleUser, document: Mapping[str, Any], *, today: date, night: int, seed: int = 7
) -> dict[str, Any]:
    """The changes to an account on the day before `today`, as an incremental `/sync` answer.

    One to three tasks are added, one is completed, one is reworded, and one is moved to a later day, as far as the
    account has suitable tasks. If a project is shared, one of its tasks is assigned to the colleague, and a section
    of another project is archived, if its tasks do not change. Headers and tasks of the colleague never change.

    document: the account before the changes, as a full `/sync` answer; it is not modified.
    """
    rng = Random(f"{seed}:{user.user_id}:night:{night}")
    draw = Draw(rng, today, document["user"]["id"], ZoneInfo(user.timezone), max_age=timedelta(days=1))
    topics = topics_by_project(document)
    pool = [item for item in document["items"] if _is_own_task(draw, item)]
    rng.shuffle(pool)
    completed = _take(pool, _leaves(pool, document["items"]))
    reworded = _take(pool, (item for item in pool if not _is_reworded(item)))
    moved = _take(pool, (item for item in pool if item["due"] and not item["due"]["is_recurring"]))
    shared = {project["id"] for project in document["projects"] if project["is_shared"]}
    assigned = _take(pool, (item for item in pool if item["project_id"] in shared))
    changed = {item["section_id"] for item in [*completed, *reworded, *moved]}
    archived = _sections_to_archive(document, shared, changed)
    lang = document["user"]["lang"]
    items = [
        *(_complete(draw, item) for item in completed),
        *(_reword(draw, item, topics.get(item["project_id"]), lang) for item in reworded),
        *(_move(draw, item) for item in moved),
        *(_touch(draw, item, responsible_uid=draw.colleague, assigned_by_uid=draw.owner) for item in assigned),
        *_new_items(draw, _without_sections(document, archived), topics, pool),
    ]
    sections = [_archive(draw, section) for section in archived]
    envelope = {"sync_token": draw.new_sync_token(), "full_sync": False}
    return envelope | objects_by_type(items=items, sections=sections)


def changed_users(
    users: Sequence[SampleUser],
    *,
    share: float,
    night: int,
    seed: int = 7,
) -> list[SampleUser]:
    """A random share (0 to 1) of the users, but at least one, whose accounts change in a night; in their order."""
    n_changed = min(len(users), max(1, round(share * len(users))))
    indices = Random(f"{seed}:changed:{night}").sample(range(len(users)), n_changed)
    return [users[index] for index in sorted(indices)]


def _take(pool: list[Item], candidates: Iterable[Item]) -> list[Item]:
    """Remove the first candidate from `pool`, because no task changes twice, and return it; [] without candidates."""
    first = list(candidates)[:1]
    for item in first:
        pool.remove(item)
    return first


def _is_own_task(draw: Draw, item: Item) -> bool:
    """Whether an item is an open task of the user's own: not a header, and not assigned to the colleague."""
    is_open = not (item["checked"] or item["is_deleted"])
    return is_open and not item["content"].startswith(HEADER) and item["responsible_uid"] != draw.colleague


def _leaves(pool: Iterable[Item], items: Iterable[Item]) -> list[Item]:
    """Tasks without open sub-tasks in `items`, because completing a task also completes its sub-tasks."""
    parents = {item["parent_id"] for item in items if not (item["checked"] or item["is_deleted"])}
    return [item for item in pool if item["id"] not in parents]


def _sections_to_archive(document: Mapping[str, Any], shared: set[str], changed: set[str | None]) -> list[Item]:
    """The first section with unchanged tasks only, in a project that is not shared, if another project is."""
    used = {item["section_id"] for item in document["items"]} - changed
    sections = [s for s in document["sections"] if s["id"] in used and s["project_id"] not in shared]
    return sections[:1] if shared else []


def _archive(draw: Draw, section: Item) -> Item:
    archived = _touch(draw, section, is_archived=True)
    return archived | {"archived_at": archived["updated_at"]}


def _without_sections(document: Mapping[str, Any], archived: Sequence[Item]) -> Mapping[str, Any]:
    """The document without some sections, as the places of new tasks."""
    return {**document, "sections": [section for section in document["sections"] if section not in archived]}


def _is_reworded(item: Item) -> bool:
    endings = tuple(ending for group in sample_texts().rewordings.values() for ending in group)
    return str(item["content"]).endswith(endings)


def _touch(draw: Draw, item: Item, **changed: Any) -> Item:
    return item | {"updated_at": draw.instant(draw.rng.randint(1, 86_399))} | changed


def _complete(draw: Draw, item: Item) -> Item:
    """The completed task; a recurring task stays open and moves to its next date."""
    if item["due"] and item["due"]["is_recurring"]:
        return _touch(draw, item, due=_next_due(item["due"], draw.today))
    done = _touch(draw, item, checked=True, completed_by_uid=draw.owner)
    return done | {"completed_at": done["updated_at"]}


def _next_due(due: Mapping[str, Any], today: date) -> dict[str, Any]:
    matching = (rule for rule in sample_texts().recurrences if due["string"] in rule.texts.values())
    rule = next(matching, Recurrence(days=7, texts={}))
    old = date.fromisoformat(due["date"][:10])
    new = rule.next_after(old, max(old, today))
    return {**due, "date": new.isoformat() + due["date"][10:]}


def _reword(draw: Draw, item: Item, topic: Topic | None, lang: str) -> Item:
    rewordings = sample_texts().rewordings
    endings = rewordings.get(topic.lang if topic else lang, rewordings["en"])
    return _touch(draw, item, content=item["content"] + draw.rng.choice(endings))


def _move(draw: Draw, item: Item) -> Item:
    old = date.fromisoformat(item["due"]["date"][:10])
    day = (max(old, draw.today) + timedelta(days=draw.rng.randint(1, 14))).isoformat()
    return _touch(draw, item, due={**item["due"], "date": day + item["due"]["date"][10:], "string": day})


def _new_items(
    draw: Draw,
    document: Mapping[str, Any],
    topics: Mapping[str, Topic],
    pool: list[Item],
) -> list[Item]:
    """One to three new tasks in random projects; their parents are in `pool`, among the unchanged tasks."""
    projects = [p for p in document["projects"] if not (p["is_archived"] or p["is_deleted"])]
    used = {item["content"] for item in document["items"]}
    new: list[Item] = []
    for project in draw.rng.choices(projects, k=draw.rng.randint(1, 3)) if projects else []:
        topic = topics.get(project["id"]) or draw.rng.choice(_account_topics(document, topics))
        text = _unused_text(draw, topic, used)
        used.add(text)
        new.append(new_item(draw, _contents_of(document, project["id"], topics, pool), topic, text))
    return new


def _account_topics(document: Mapping[str, Any], topics: Mapping[str, Topic]) -> list[Topic]:
    return list(topics.values()) or topics_of(document["user"]["lang"]) or topics_of("en")


def _unused_text(draw: Draw, topic: Topic, used: Iterable[str]) -> str:
    """A text of the topic that the account does not have, or any text of the topic if it has all of them."""
    return draw.rng.choice([text for text in topic.texts if text not in used] or topic.texts)


def _contents_of(
    document: Mapping[str, Any], project_id: str, topics: Mapping[str, Topic], pool: Iterable[Item]
) -> ProjectContents:
    sections = (s for s in document["sections"] if not (s["is_archived"] or s["is_deleted"]))
    names = {label["name"] for label in document["labels"] if not label["is_deleted"]}
    topic_labels = topics[project_id].labels if project_id in topics else ()
    return ProjectContents(
        project_id=project_id,
        section_ids=tuple(s["id"] for s in sections if s["project_id"] == project_id),
        labels=tuple(label for label in topic_labels if label in names),
        items=[item for item in pool if item["project_id"] == project_id],
    )
