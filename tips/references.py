"""Short names for the tasks and themes of a context, which an LLM reads and writes in place of their ids. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from unicodedata import normalize

from contexts.assembly.model import TaskView, ThemeView, UserContext, tasks_shown

_REFERENCE = re.compile(r"(?<![^\W_])(?:t|theme)[ _-]?\d+(?![^\W_])", re.IGNORECASE)


@dataclass(frozen=True)
class References:
    """The short names of one context: t1, t2, ... for its tasks, the most urgent first; theme1, ... for its themes.

    tasks, themes: ids by short name.
    """

    tasks: Mapping[str, str]
    themes: Mapping[str, str]

    @property
    def by_id(self) -> dict[str, str]:
        """The short name of each task and theme by its id."""
        return {each: name for names in (self.themes, self.tasks) for name, each in names.items()}


def references_of(context: UserContext) -> References:
    """The short names of a context's tasks and themes; they depend on the order and the number alone."""
    return References(
        tasks={f"t{number}": task_id for number, task_id in enumerate(tasks_shown(context), 1)},
        themes={f"theme{number}": theme.id for number, theme in enumerate(context.themes, 1)},
    )


def with_short_names(context: UserContext) -> UserContext:
    """The context with short names in place of ids; reactions to themes that it does not have are left out."""
    references = references_of(context)
    task_names = {task_id: name for name, task_id in references.tasks.items()}
    theme_names = {theme_id: name for name, theme_id in references.themes.items()}

    def renamed(view: TaskView) -> TaskView:
        return view.model_copy(update={"id": task_names[view.id]})

    def renamed_theme(theme: ThemeView) -> ThemeView:
        task_ids = tuple(task_names[each] for each in theme.task_ids if each in task_names)
        return theme.model_copy(update={"id": theme_names[theme.id], "task_ids": task_ids})

    tallies = context.reactions.by_theme.items()
    by_theme = {theme_names[theme_id]: tally for theme_id, tally in tallies if theme_id in theme_names}
    return context.model_copy(
        update={
            "tasks": {bucket: tuple(map(renamed, views)) for bucket, views in context.tasks.items()},
            "themes": tuple(map(renamed_theme, context.themes)),
            "reactions": context.reactions.model_copy(update={"by_theme": by_theme}),
        }
    )


def names_reference(text: str) -> bool:
    """Whether a text contains a short name, which means nothing to a reader."""
    return bool(_REFERENCE.search(normalize("NFKC", text)))
