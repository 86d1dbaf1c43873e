"""The part of a context that an LLM may be told: nothing that other people may have worded. Pure."""

from __future__ import annotations

from contexts.assembly.model import TaskView, ThemeView, UserContext


def without_texts_of_others(context: UserContext) -> UserContext:
    """The context without texts that others may have written, and without what was derived from these.

    A task that somebody else may have added keeps its id, bucket and priority. A task of the user in a shared project
    has no names of project, section and labels; the title of a parent task and the words of a theme are left out if
    somebody else may have written them.
    """
    tasks = {bucket: tuple(map(_own_task, views)) for bucket, views in context.tasks.items()}
    return context.model_copy(update={"tasks": tasks, "themes": tuple(map(_own_theme, context.themes))})


def _own_task(view: TaskView) -> TaskView:
    if view.by_others:
        return TaskView(id=view.id, title="", priority=view.priority, by_others=True)
    hidden = {"project": None, "section": None, "labels": (), "shared": False} if view.shared else {}
    if view.parent_by_others:
        hidden |= {"parent": None, "parent_by_others": False}
    return view.model_copy(update=hidden) if hidden else view


def _own_theme(theme: ThemeView) -> ThemeView:
    if not theme.by_others:
        return theme
    return ThemeView(id=theme.id, label="", n_tasks=theme.n_tasks, task_ids=theme.task_ids)
