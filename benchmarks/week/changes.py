"""Changes of users' tasks during the week. Pure, the same for the same seed.

There are no published rates of changes in Todoist. Its default goal is five completed tasks a day (`daily_goal` of
the user object), which few people reach every day; the simulation completes 3 on a weekday. It adds only 2: recurring
tasks return, and the lists neither grow nor shrink. It rewords, reprioritises or moves 1. On weekends all rates are
halved. Users differ by a log-normal factor: one in ten is at least twice as active as the average, the most active of
300 about seven times. Changes are spread independently over the waking hours; real users often make several at once,
and would have fewer different contexts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from benchmarks.week.habits import instant_at, random_minutes
from local.samples import SampleUser, sample_texts
from local.samples.draw import Draw
from local.samples.items import Item, ProjectContents, new_item
from local.samples.texts import Recurrence, Topic, topics_by_project, topics_of

_CHANGES_PER_DAY = {"complete": 3.0, "add": 2.0, "edit": 1.0}
_WEEKEND_FACTOR = 0.5
_ACTIVITY_SIGMA = 0.8
"""Standard deviation of the logarithm of a user's activity; the mean activity is 1."""

_DUE_RATE = 0.7
"""Rate at which a completed task is one that is due or overdue, if there is any; otherwise it is a random task."""


@dataclass(frozen=True)
class Change:
    """A change of a user's tasks.

    delta: an incremental `/sync` answer.
    """

    at: datetime
    user_id: str
    delta: Mapping[str, Any]


def changes_of(user: SampleUser, days: Iterable[date], *, seed: int) -> Iterator[Change]:
    """The changes of a user's tasks on local days, in order."""
    mu = -(_ACTIVITY_SIGMA**2) / 2
    activity = Random(f"{seed}:activity:{user.user_id}").lognormvariate(mu, _ACTIVITY_SIGMA)
    account = _Account(user.document, {item["id"]: item for item in user.document["items"]})
    for day in days:
        rng = Random(f"{seed}:changes:{user.user_id}:{day}")
        draw = Draw(rng, day, user.document["user"]["id"], ZoneInfo(user.timezone), max_age=timedelta(days=1))
        n_per_day = sum(_CHANGES_PER_DAY.values()) * activity * (_WEEKEND_FACTOR if day.weekday() >= 5 else 1.0)
        for minute in random_minutes(rng, n_per_day):
            if item := account.change(draw):
                delta = {"sync_token": draw.new_sync_token(), "full_sync": False, "items": [item]}
                yield Change(instant_at(day, minute, draw.zone), user.user_id, delta)


@dataclass
class _Account:
    """The current open tasks of one user."""

    document: Mapping[str, Any]
    items: dict[str, Item]
    topics: Mapping[str, Topic] = field(init=False)

    def __post_init__(self) -> None:
        self.topics = topics_by_project(self.document)

    def change(self, draw: Draw) -> Item | None:
        """Make one random change and return the changed task; None if there is no suitable task."""
        kind = draw.rng.choices(list(_CHANGES_PER_DAY), list(_CHANGES_PER_DAY.values()))[0]
        item = self._add(draw) if kind == "add" else self._edit(draw) if kind == "edit" else self._complete(draw)
        if item and item["checked"]:
            del self.items[item["id"]]
        elif item:
            self.items[item["id"]] = item
        return item

    def _complete(self, draw: Draw) -> Item | None:
        parents = {item["parent_id"] for item in self.items.values()}
        leaves = [item for item in self.items.values() if item["id"] not in parents]
        due = [item for item in leaves if item["due"] and item["due"]["date"][:10] <= draw.today.isoformat()]
        item = _choose(draw, due if due and draw.chance(_DUE_RATE) else leaves)
        return item and _completed(item, draw)

    def _edit(self, draw: Draw) -> Item | None:
        """Edit a task: half of the edits move it to a later day, a third reword it, the rest change its priority."""
        item = _choose(draw, list(self.items.values()))
        if item is None:
            return None
        random_share = draw.rng.random()
        if random_share < 1 / 2 and item["due"]:
            return _moved(item, draw)
        if random_share < 5 / 6:
            endings = sample_texts().rewordings.get(self.document["user"]["lang"], sample_texts().rewordings["en"])
            return item | {"content": item["content"] + draw.rng.choice(endings)}
        return item | {"priority": item["priority"] % 4 + 1}

    def _add(self, draw: Draw) -> Item:
        project_id = draw.rng.choice(self.document["projects"])["id"]
        lang = self.document["user"]["lang"]
        topic = self.topics.get(project_id) or draw.rng.choice(topics_of(lang) or topics_of("en"))
        siblings = [item for item in self.items.values() if item["project_id"] == project_id]
        sections = tuple(
            section["id"] for section in self.document["sections"] if section["project_id"] == project_id
        )
        labels = topic.labels if project_id in self.topics else ()
        contents = ProjectContents(project_id, sections, labels, siblings)
        return new_item(draw, contents, topic, self._new_text(draw, topic))

    def _new_text(self, draw: Draw, topic: Topic) -> str:
        """A text of the topic that the account does not have yet, or any if it has them all."""
        used = {item["content"] for item in self.items.values()}
        return draw.rng.choice([text for text in topic.texts if text not in used] or topic.texts)


def _choose(draw: Draw, items: Sequence[Item]) -> Item | None:
    return draw.rng.choice(items) if items else None


def _completed(item: Item, draw: Draw) -> Item:
    """The completed task; a recurring task stays open and moves to its next date."""
    due = item["due"]
    if not (due and due["is_recurring"]):
        return item | {"checked": True, "completed_by_uid": draw.owner}
    matching = (rule for rule in sample_texts().recurrences if due["string"] in rule.texts.values())
    rule = next(matching, Recurrence(days=7, texts={}))
    old = date.fromisoformat(due["date"][:10])
    new = rule.next_after(old, max(old, draw.today))
    return item | {"due": due | {"date": new.isoformat() + due["date"][10:]}}


def _moved(item: Item, draw: Draw) -> Item:
    """The task with a due date one day to two weeks later."""
    old = date.fromisoformat(item["due"]["date"][:10])
    new = max(old, draw.today) + timedelta(days=draw.rng.randint(1, 14))
    return item | {"due": item["due"] | {"date": new.isoformat() + item["due"]["date"][10:]}}
