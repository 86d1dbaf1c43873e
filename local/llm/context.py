"""What the stand-in for an LLM reads out of a prompt: the JSON objects in it, and a user's context among them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

BUCKETS = ("overdue", "today", "this_week", "later", "someday")
"""Most pressing first."""

_KEYS = ("counts", "tasks")

_decoder = json.JSONDecoder(strict=False)


@dataclass(frozen=True)
class Context:
    """A user's context, as far as the stand-in uses it; with the defaults, one of nobody's."""

    counts: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    themes: tuple[dict[str, Any], ...] = ()
    reactions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def shown(self) -> list[dict[str, Any]]:
        """All tasks that it shows, most pressing first."""
        return [task for bucket in BUCKETS for task in self.tasks.get(bucket, ())]

    @property
    def task_ids(self) -> tuple[str, ...]:
        return tuple(task["id"] for task in self.shown)


def context_in(prompt: str) -> Context:
    """The largest object of the prompt that has the keys of a context, wherever it stands."""
    found = [each for each in objects_in(prompt) if all(isinstance(each.get(key), dict) for key in _KEYS)]
    if not found:
        return Context()
    largest = max(found, key=lambda each: len(json.dumps(each)))
    return Context(
        counts=largest["counts"],
        tasks=largest["tasks"],
        themes=tuple(largest.get("themes", ())),
        reactions=largest.get("reactions", {}),
    )


def objects_in(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object that stands in `text` and in no other one."""
    at = text.find("{")
    while at >= 0:
        try:
            value, end = _decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield value
        at = text.find("{", end)


def words_of(context: Context) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every text that a user could have written, with the ids of the tasks that it is about."""
    for task in context.shown:
        yield from ((text, (task["id"],)) for text in _texts(task, ("title", "project", "section", "labels")))
    for theme in context.themes:
        ids = tuple(theme.get("task_ids", ()))[:3]
        yield from ((text, ids) for text in _texts(theme, ("label", "tags")))
    for tally in context.reactions.values():
        yield from ((text, ()) for text in tally)


def _texts(of: Mapping[str, Any], keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        value = of.get(key)
        yield from [value] if isinstance(value, str) else value or ()
