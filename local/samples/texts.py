"""The texts of `tasks.toml` by topic and language, and the rules by which due dates repeat."""

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
    """Everything that `tasks.toml` says."""

    topics: tuple[Topic, ...]
    recurrences: tuple[Recurrence, ...]
    descriptions: Mapping[str, Sequence[str]]
    rewordings: Mapping[str, Sequence[str]]


@cache
def sample_texts() -> SampleTexts:
    """The texts of `tasks.toml`, read once."""
    raw = tomllib.loads(Path(__file__).with_name("tasks.toml").read_text(encoding="utf-8"))
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


def topics_of(lang: str) -> list[Topic]:
    return [topic for topic in sample_texts().topics if topic.lang == lang]


def topics_by_project(document: Mapping[str, Any]) -> dict[str, Topic]:
    by_name = {topic.project: topic for topic in sample_texts().topics}
    return {p["id"]: by_name[p["name"]] for p in document["projects"] if p["name"] in by_name}


def date_lang(lang: str) -> str:
    """The language of the dates: English where Todoist reads none in `lang`, as in Arabic."""
    return lang if lang in sample_texts().recurrences[0].texts else "en"
