"""The projects after which themes are named. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contexts.themes.arrays import Flags, Labels, Numbers
from contexts.themes.themed import ThemedTasks

INBOX_NAMES = frozenset(
    {
        *("inbox", "eingang", "boîte de réception", "bandeja de entrada", "caixa de entrada", "entrada", "in arrivo"),
        *("postvak in", "indbakke", "innboks", "inkorg", "saapuneet", "skrzynka odbiorcza", "gelen kutusu"),
        *("входящие", "インボックス", "受信箱", "收件箱", "收件匣", "관리함", "صندوق الوارد", "البريد الوارد"),
    }
)
"""Names of the inbox in Todoist's languages, in lower case.

The inbox holds unsorted tasks, so its name describes none.
"""


def one_line(name: str | None) -> str:
    """Return a project's name on one line."""
    return " ".join((name or "").split())


def is_named(project: str) -> bool:
    """Return whether the user named a project: it is not the inbox."""
    return bool(project) and project.lower() not in INBOX_NAMES


def are_scattered(labels: Labels, project: Numbers, projects: Sequence[str]) -> Flags:
    """Return whether each task's group is scattered: no project has more than half of its tasks outside the inbox.

    The user has told such tasks apart; they often share only a word like "list" or "test".

    labels: for each task, the number of the first task of its group. project: the number of each task's project in
    `projects`; tasks in the inbox are not counted.
    """
    placed = np.flatnonzero(np.array([*map(is_named, projects)], bool)[project])
    codes, counts = np.unique(labels[placed] * len(projects) + project[placed], return_counts=True)
    largest = np.zeros(len(labels), np.int64)
    np.maximum.at(largest, codes // max(1, len(projects)), counts)
    n_placed = np.bincount(labels[placed], minlength=len(labels))
    return np.asarray(((n_placed > 0) & (2 * largest <= n_placed))[labels])


def main_projects(tasks: ThemedTasks) -> Numbers:
    """Return the project of more than half of each theme's tasks; -1 for the inbox, or if there is none."""
    is_name = np.array([*map(is_named, tasks.projects), False], bool)
    rows = tasks.rows[is_name[tasks.project[tasks.rows]]]
    codes, counts = np.unique(tasks.theme[rows] * len(is_name) + tasks.project[rows], return_counts=True)
    themes, projects = np.divmod(codes, len(is_name))
    is_main = 2 * counts > tasks.sizes[themes]
    main = np.full(tasks.n_themes, -1, np.int64)
    main[themes[is_main]] = projects[is_main]
    return main


def are_sole(tasks: ThemedTasks, projects: Numbers) -> Flags:
    """Return whether each theme is the only one of its user with its main project."""
    names = tasks.theme_users * (len(tasks.projects) + 1) + projects
    _, name, counts = np.unique(names, return_inverse=True, return_counts=True)
    return np.asarray((projects >= 0) & (counts[name] == 1))
