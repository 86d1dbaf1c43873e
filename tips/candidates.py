"""A candidate for a tip: its kinds, its limits, and the generic tip. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Kind = Literal["overdue", "focus", "quick_win", "plan", "theme"]
KINDS: tuple[Kind, ...] = ("overdue", "focus", "quick_win", "plan", "theme")
GENERIC = "generic"

MAX_TITLE_CHARS = 80
MAX_BODY_CHARS = 280
MAX_SEGMENTS = 7
MAX_TASKS = 5

QUICK_TASK_MINUTES = 15
"""A task of at most this duration is a quick win."""

_WHITESPACE = re.compile(r"\s+")


class TaskReference(BaseModel):
    """A task in the sentence of a tip, by its id in the context; its title is put in when the tip is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str


Segment = str | TaskReference
"""A part of a sentence: a text, or a task."""


def _on_one_line(text: object) -> object:
    return " ".join(text.split()) if isinstance(text, str) else text


def _segments(body: Any) -> Any:
    """The segments of a body, with every run of whitespace as a single blank; a body of one text is that text.

    Texts that follow each other become one, so that checks of a text see what a reader sees.
    """
    if isinstance(body, str):
        body = [body]
    if not isinstance(body, list | tuple):
        return body
    joined: list[Any] = []
    for each in body:
        if isinstance(each, str) and joined and isinstance(joined[-1], str):
            joined[-1] += each
        else:
            joined.append(each)
    cleaned = [_WHITESPACE.sub(" ", each) if isinstance(each, str) else each for each in joined]
    if cleaned and isinstance(cleaned[0], str):
        cleaned[0] = cleaned[0].lstrip()
    if cleaned and isinstance(cleaned[-1], str):
        cleaned[-1] = cleaned[-1].rstrip()
    return tuple(each for each in cleaned if each != "")


def _bounded(body: tuple[Segment, ...]) -> tuple[Segment, ...]:
    n_chars = sum(len(each) for each in body if isinstance(each, str))
    if not 1 <= len(body) <= MAX_SEGMENTS:
        raise ValueError(f"a body has 1 to {MAX_SEGMENTS} segments")
    if not 1 <= n_chars <= MAX_BODY_CHARS:
        raise ValueError(f"the texts of a body have 1 to {MAX_BODY_CHARS} characters")
    return body


SingleLine = Annotated[str, BeforeValidator(_on_one_line)]
"""A text in which every run of whitespace is a single blank."""

Body = Annotated[tuple[Segment, ...], BeforeValidator(_segments), AfterValidator(_bounded)]
"""The sentences of a tip: no two texts follow each other, and a text alone is a body of one segment."""


class Tip(BaseModel):
    """One candidate.

    body: its tasks are among task_ids. task_ids: tasks of the context, which the product shows with the tip. theme:
    id of a theme.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind | Literal["generic"]
    title: SingleLine = Field(min_length=1, max_length=MAX_TITLE_CHARS)
    body: Body
    task_ids: tuple[str, ...] = Field(default=(), max_length=MAX_TASKS)
    theme: str | None = None

    @model_validator(mode="after")
    def _shows_named_tasks(self) -> Tip:
        if missing := [task_id for task_id in self.named_tasks if task_id not in self.task_ids]:
            raise ValueError(f"the body names tasks that are not among task_ids: {missing}")
        return self

    @property
    def named_tasks(self) -> tuple[str, ...]:
        """The ids of the tasks in the sentences, in order."""
        return tuple(each.task for each in self.body if isinstance(each, TaskReference))

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the body, without its tasks."""
        return tuple(each for each in self.body if isinstance(each, str))

    @property
    def wording(self) -> str:
        """The texts of the body in a row: all that its author wrote, without the titles of tasks."""
        return " ".join(" ".join(self.texts).split())


class GeneratedTip(Tip):
    """A tip that an LLM wrote. only_today: its words are true only on the day it was written."""

    only_today: bool = True


def with_named_tasks(body: Sequence[object], further: Sequence[str] = ()) -> tuple[str, ...]:
    """The ids of a tip's tasks: those that its body names, and then further ones, each once, at most MAX_TASKS."""
    named = [each.task for each in body if isinstance(each, TaskReference)]
    return tuple(dict.fromkeys([*named, *further]))[:MAX_TASKS]


GENERIC_TIP = Tip(
    kind="generic",
    title="Two minutes for your list",
    body="Look through your list and choose the one thing that would make today a good day.",
)
"""The tip for a user without a context."""
