"""How people's tasks change while the week goes by. Pure, the same for the same seed.

Nobody publishes how often Todoist's tasks change. Its own default is a goal of five completed tasks a day
(`daily_goal` of the user object), which few people reach every day; here it is 3 on a weekday. 2 are added: what
recurs comes back by itself, so lists neither grow nor run dry. 1 is reworded, given another priority or moved to
another day. Half as much at the weekend. People differ by a log-normal factor: one in ten does twice as much and
more, the busiest of 300 about seven times. Each change comes by itself at any waking minute; in truth many come in
one sitting, which would leave fewer different contexts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from benchmarks.week.habits import at_minute, uneven_minutes
from local.samples import SampleUser, sample_texts
from local.samples.draw import Draw
from local.samples.items import Item, Shelf, new_item
from local.samples.texts import Recurrence, Topic, topics_by_project, topics_of

A_DAY = {"complete": 3.0, "add": 2.0, "edit": 1.0}
AT_WEEKENDS = 0.5
SPREAD = 0.8
"""Standard deviation of the logarithm of a person's factor, whose mean is 1."""

_PRESSING = 0.7
"""So often what is completed is due, today or since long, where anything is; else it is any task."""


@dataclass(frozen=True)
class Change:
    """An incremental `/sync` answer, and when it came about."""

    at: datetime
    user_id: str
    delta: Mapping[str, Any]


def changes(user: SampleUser, days: Iterable[date], *, seed: int) -> Iterator[Change]:
    """What happens to a user's tasks on some days of their own calendar, in order."""
    factor = Random(f"{seed}:activity:{user.user_id}").lognormvariate(-(SPREAD**2) / 2, SPREAD)
    account = _Account(user.document, {item["id"]: item for item in user.document["items"]})
    for day in days:
        rng = Random(f"{seed}:changes:{user.user_id}:{day}")
        draw = Draw(rng, day, user.document["user"]["id"], ZoneInfo(user.timezone), max_age=timedelta(days=1))
        n_a_day = sum(A_DAY.values()) * factor * (AT_WEEKENDS if day.weekday() >= 5 else 1.0)
        for minute in uneven_minutes(rng, n_a_day):
            if item := account.change(draw):
                delta = {"sync_token": draw.new_sync_token(), "full_sync": False, "items": [item]}
                yield Change(at_minute(day, minute, draw.zone), user.user_id, delta)


@dataclass
class _Account:
    """The open tasks of one user as they change."""

    document: Mapping[str, Any]
    items: dict[str, Item]
    topics: Mapping[str, Topic] = field(init=False)

    def __post_init__(self) -> None:
        self.topics = topics_by_project(self.document)

    def change(self, draw: Draw) -> Item | None:
        """Let one thing happen; the task as it is afterwards, None where there is no task that it could happen to."""
        kind = draw.rng.choices(list(A_DAY), list(A_DAY.values()))[0]
        item = self._add(draw) if kind == "add" else self._edit(draw) if kind == "edit" else self._complete(draw)
        if item and item["checked"]:
            del self.items[item["id"]]
        elif item:
            self.items[item["id"]] = item
        return item

    def _complete(self, draw: Draw) -> Item | None:
        parents = {item["parent_id"] for item in self.items.values()}
        leaves = [item for item in self.items.values() if item["id"] not in parents]
        pressing = [item for item in leaves if item["due"] and item["due"]["date"][:10] <= draw.today.isoformat()]
        chosen = _any(draw, pressing if pressing and draw.chance(_PRESSING) else leaves)
        return chosen and _completed(chosen, draw)

    def _edit(self, draw: Draw) -> Item | None:
        """Half of the edits move a task to another day, a third reword it, the others change its priority."""
        item = _any(draw, list(self.items.values()))
        if item is None:
            return None
        lot = draw.rng.random()
        if lot < 1 / 2 and item["due"]:
            return _moved(item, draw)
        if lot < 5 / 6:
            endings = sample_texts().rewordings.get(self.document["user"]["lang"], sample_texts().rewordings["en"])
            return item | {"content": item["content"] + draw.rng.choice(endings)}
        return item | {"priority": item["priority"] % 4 + 1}

    def _add(self, draw: Draw) -> Item:
        project_id = draw.rng.choice(self.document["projects"])["id"]
        lang = self.document["user"]["lang"]
        topic = self.topics.get(project_id) or draw.rng.choice(topics_of(lang) or topics_of("en"))
        here = [item for item in self.items.values() if item["project_id"] == project_id]
        sections = tuple(each["id"] for each in self.document["sections"] if each["project_id"] == project_id)
        labels = topic.labels if project_id in self.topics else ()
        return new_item(draw, Shelf(project_id, sections, labels, here), topic, self._text(draw, topic))

    def _text(self, draw: Draw, topic: Topic) -> str:
        """A text that the account does not have, or any of the topic when it has them all."""
        there = {item["content"] for item in self.items.values()}
        return draw.rng.choice([text for text in topic.texts if text not in there] or topic.texts)


def _any(draw: Draw, items: Sequence[Item]) -> Item | None:
    return draw.rng.choice(items) if items else None


def _completed(item: Item, draw: Draw) -> Item:
    """A task that is done; a recurring one only moves on to its next day."""
    due = item["due"]
    if not (due and due["is_recurring"]):
        return item | {"checked": True, "completed_by_uid": draw.owner}
    known = (rule for rule in sample_texts().recurrences if due["string"] in rule.texts.values())
    rule = next(known, Recurrence(days=7, texts={}))
    old = date.fromisoformat(due["date"][:10])
    new = rule.next_after(old, max(old, draw.today))
    return item | {"due": due | {"date": new.isoformat() + due["date"][10:]}}


def _moved(item: Item, draw: Draw) -> Item:
    """A task with its date put off by one day to two weeks."""
    old = date.fromisoformat(item["due"]["date"][:10])
    new = max(old, draw.today) + timedelta(days=draw.rng.randint(1, 14))
    return item | {"due": item["due"] | {"date": new.isoformat() + item["due"]["date"][10:]}}
