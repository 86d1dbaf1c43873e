"""The user's context as the stand-in for an LLM reads it from a prompt."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

BUCKETS = ("overdue", "today", "this_week", "later", "someday")
"""Due date buckets, most urgent first."""

_REQUIRED_KEYS = ("counts", "tasks")

_decoder = json.JSONDecoder(strict=False)


@dataclass(frozen=True)
class Context:
    """The parts of a user's context that the stand-in uses; empty by default.

    Its repr seeds the tips: different names here result in different tips.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    themes: tuple[dict[str, Any], ...] = ()
    reactions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    language: str = "en"

    @property
    def shown_tasks(self) -> list[dict[str, Any]]:
        """All tasks in the context, most urgent first."""
        return [task for bucket in BUCKETS for task in self.tasks.get(bucket, ())]

    @property
    def task_ids(self) -> tuple[str, ...]:
        """The ids of all tasks in the context, most urgent first."""
        return tuple(task["id"] for task in self.shown_tasks)


def context_in(prompt: str) -> Context:
    """The context in a prompt: the largest JSON object with the keys of a context, or an empty one."""
    contexts = [
        document
        for document in json_objects_in(prompt)
        if all(isinstance(document.get(key), dict) for key in _REQUIRED_KEYS)
    ]
    if not contexts:
        return Context()
    largest = max(contexts, key=lambda document: len(json.dumps(document)))
    return Context(
        counts=largest["counts"],
        tasks=largest["tasks"],
        themes=tuple(largest.get("themes", ())),
        reactions=largest.get("reactions", {}),
        language=str(largest.get("profile", {}).get("language", "en")),
    )


def json_objects_in(text: str) -> Iterator[dict[str, Any]]:
    """Every outermost JSON object in a text."""
    position = text.find("{")
    while position >= 0:
        try:
            value, end = _decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            yield value
        position = text.find("{", end)


def user_texts(context: Context) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every text that may come from the user, with the ids of the tasks that it describes."""
    for task in context.shown_tasks:
        yield from (
            (text, (task["id"],)) for text in _texts(task, ("title", "project", "section", "parent", "labels"))
        )
    for theme in context.themes:
        task_ids = tuple(theme.get("task_ids", ()))[:3]
        yield from ((text, task_ids) for text in _texts(theme, ("label", "tags")))
    for tally in context.reactions.values():
        yield from ((text, ()) for text in tally)


def _texts(document: Mapping[str, Any], keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        value = document.get(key)
        yield from [value] if isinstance(value, str) else value or ()
