"""Tasks with their themes, as arrays over the tasks of many users. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from contexts.themes.arrays import Numbers, Vectors, sums_by

_BLOCK_ROWS = 256


@dataclass(frozen=True, eq=False)
class ThemedTasks:
    """All tasks of some users, user by user; the arrays have one element per task.

    user: the number of its user, ascending. theme: the number of its theme, -1 for none.
    text: the number of its text.
    centrality: the mean cosine to all tasks of its theme.
    project: the number of its project in `projects` if the user alone worded it; -1 for none.
    languages: the language of each user.
    """

    user: Numbers
    theme: Numbers
    text: Numbers
    centrality: NDArray[np.float32]
    project: Numbers
    projects: Sequence[str]
    languages: Sequence[str]

    @cached_property
    def rows(self) -> Numbers:
        """The tasks that have a theme."""
        return np.flatnonzero(self.theme >= 0)

    @cached_property
    def n_themes(self) -> int:
        """The number of themes."""
        return int(self.theme.max(initial=-1)) + 1

    @cached_property
    def sizes(self) -> Numbers:
        """The number of tasks of each theme."""
        return np.bincount(self.theme[self.rows], minlength=self.n_themes)

    @cached_property
    def theme_users(self) -> Numbers:
        """The number of each theme's user."""
        users = np.zeros(self.n_themes, np.int64)
        users[self.theme[self.rows]] = self.user[self.rows]
        return users


def number_themes(labels: Numbers) -> Numbers:
    """Return the number of each task's theme, in the order of their first tasks; -1 for a task alone.

    labels: for each task, the number of the first task of its group.
    """
    sizes = np.bincount(labels, minlength=1)
    numbers = np.where(sizes > 1, np.cumsum(sizes > 1) - 1, -1)
    return np.asarray(numbers[labels])


def centrality(vectors: Vectors, theme: Numbers) -> NDArray[np.float32]:
    """Return the mean cosine of each unit row to all rows of its theme, shape (n,); 0 without a theme."""
    rows = np.flatnonzero(theme >= 0)
    values = np.zeros(len(theme), np.float32)
    sizes = np.bincount(theme[rows])
    middles = sums_by(theme, vectors, len(sizes)) / sizes[:, None].astype(np.float32)
    for start in range(0, len(rows), _BLOCK_ROWS):  # a block fits into a processor's cache
        block = rows[start : start + _BLOCK_ROWS]
        values[block] = np.einsum("ij,ij->i", vectors[block], middles[theme[block]])
    return values
