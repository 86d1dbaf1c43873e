"""A candidate for a tip: its kinds, its limits, and the generic tip. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Kind = Literal["overdue", "focus", "quick_win", "plan", "theme"]
KINDS: tuple[Kind, ...] = ("overdue", "focus", "quick_win", "plan", "theme")
GENERIC = "generic"

MAX_TITLE_CHARS = 80
MAX_BODY_CHARS = 280
MAX_TASKS = 5

QUICK_TASK_MINUTES = 15
"""A task of at most this duration is a quick win."""


def _on_one_line(text: object) -> object:
    return " ".join(text.split()) if isinstance(text, str) else text


SingleLine = Annotated[str, BeforeValidator(_on_one_line)]
"""A text in which every run of whitespace is a single blank."""


class Tip(BaseModel):
    """One candidate. task_ids: tasks of the context, which the product shows with the tip; theme: id of a theme."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind | Literal["generic"]
    title: SingleLine = Field(min_length=1, max_length=MAX_TITLE_CHARS)
    body: SingleLine = Field(min_length=1, max_length=MAX_BODY_CHARS)
    task_ids: tuple[str, ...] = Field(default=(), max_length=MAX_TASKS)
    theme: str | None = None


class GeneratedTip(Tip):
    """A tip that an LLM wrote. only_today: its words are true only on the day it was written."""

    only_today: bool = True


GENERIC_TIP = Tip(
    kind="generic",
    title="Two minutes for your list",
    body="Look through your list and choose the one thing that would make today a good day.",
)
"""The tip for a user without a context."""
