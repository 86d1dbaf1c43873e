"""The texts of `tasks.toml` by topic and language, and the rules of recurring due dates."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Topic:
    """A kind of project in one language.

    texts: of all its tasks, recurring ones included.
    habits: texts of recurring tasks.
    """

    key: str
    lang: str
    project: str
    sections: tuple[str, ...]
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    habits: frozenset[str]


@dataclass(frozen=True)
class Recurrence:
    """A rule of recurring due dates.

    days: from one date to the next, if weekday and month_day are None; else the minimum.
    texts: the rule in words, by language.
    """

    days: int
    texts: Mapping[str, str]
    weekday: int | None = None
    month_day: int | None = None
    time: str | None = None

    def fits(self, day: date) -> bool:
        """Whether the rule allows a day."""
        return self.weekday in (None, day.weekday()) and self.month_day in (None, day.day)

    def on_or_after(self, day: date) -> date:
        """The first allowed day, beginning with `day`."""
        return next(d for d in (day + timedelta(days=n) for n in range(32)) if self.fits(d))

    def next_after(self, due: date, today: date) -> date:
        """The first due date after both `due` and `today`."""
        while due <= today:
            due = self.on_or_after(due + timedelta(days=self.days))
        return due


@dataclass(frozen=True)
class SampleTexts:
    """The contents of `tasks.toml`.

    sub_tasks: texts of sub-tasks below any task, by language.
    unusual: texts with escapes, links, emoji and marks that a reader has to undo.
    """

    topics: tuple[Topic, ...]
    recurrences: tuple[Recurrence, ...]
    descriptions: Mapping[str, Sequence[str]]
    rewordings: Mapping[str, Sequence[str]]
    sub_tasks: Mapping[str, Sequence[str]]
    unusual: Sequence[str]


@cache
def sample_texts() -> SampleTexts:
    """The texts of `tasks.toml`, cached."""
    raw = tomllib.loads(Path(__file__).with_name("tasks.toml").read_text(encoding="utf-8"))
    topics = (_topic(key, lang, raw) for key, langs in raw["topics"].items() for lang, raw in langs.items())
    return SampleTexts(
        topics=tuple(topics),
        recurrences=tuple(Recurrence(**rule) for rule in raw["recurrences"]),
        descriptions=raw["descriptions"],
        rewordings=raw["rewordings"],
        sub_tasks=raw["sub_tasks"],
        unusual=tuple(raw["unusual"]["texts"]),
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


def topics_of(lang: str) -> list[Topic]:
    """The topics in a language."""
    return [topic for topic in sample_texts().topics if topic.lang == lang]


def topics_by_project(document: Mapping[str, Any]) -> dict[str, Topic]:
    """The topics of an account's projects by project id; projects with other names are left out."""
    by_name = {topic.project: topic for topic in sample_texts().topics}
    return {p["id"]: by_name[p["name"]] for p in document["projects"] if p["name"] in by_name}


def date_lang(lang: str) -> str:
    """The language of due dates: `lang`, or English if Todoist does not support dates in it, for example Arabic."""
    return lang if lang in sample_texts().recurrences[0].texts else "en"
