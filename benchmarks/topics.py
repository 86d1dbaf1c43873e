"""Users with labelled tasks, drawn from the sample texts or from real texts with categories."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random

import pyarrow.parquet as pq

from local.paths import ROOT
from local.samples.texts import sample_texts

REAL_TASKS = ROOT.parent / "shared" / "data" / "todo_tasks.parquet"

_COMMAND_CATEGORIES = {"lists_createoradd", "todo_list_update", "reminder_update"}
"""Categories that name the command that was spoken and not the topic of the task."""

KINDS = ("en",) * 12 + ("other",) * 5 + ("mixed",) * 3
"""Kinds of every twenty users by the languages they write: English, one other language, or both."""

_TOPICS_PER_USER = (3, 8)
_TASKS_PER_TOPIC = (2, 15)
_TASKS_PER_SINGLE_TASK = 9


@dataclass(frozen=True)
class LabelledTask:
    """A task and the label of its true cluster.

    label: equal for tasks that belong together; unique for a single task.
    topic: "" for real texts.
    """

    task_id: str
    text: str
    label: str
    topic: str = ""
    lang: str = "en"


@dataclass(frozen=True)
class LabelledUser:
    """A user with labelled tasks.

    kind: one of `KINDS`, or "real".
    tasks: ordered by id.
    """

    kind: str
    tasks: tuple[LabelledTask, ...]

    @cached_property
    def labels(self) -> list[str]:
        """The true label of each task."""
        return [task.label for task in self.tasks]


def labelled_users(n_users: int, seed: int) -> list[LabelledUser]:
    """Users of `KINDS` with 3-8 topics of 2-15 tasks and a tenth single tasks; user k does not depend on `n_users`.

    A language with few topics may have fewer of both, because one topic at least is reserved for single tasks.
    """
    return [_user(KINDS[number % len(KINDS)], Random(f"{seed}:{number}")) for number in range(n_users)]


def edited(user: LabelledUser, seed: int) -> Mapping[str, LabelledUser]:
    """A drawn user after one edit, by kind of edit: a task is added, removed or reworded."""
    rng = Random(seed)
    new, removed, old = rng.choice(_unused_tasks(user)), rng.choice(user.tasks), rng.choice(user.tasks)
    reworded = replace(old, text=old.text + rng.choice(sample_texts().rewordings[old.lang]))
    return {
        "added": replace(user, tasks=(*user.tasks, replace(new, task_id=_id(len(user.tasks))))),
        "removed": replace(user, tasks=tuple(task for task in user.tasks if task is not removed)),
        "reworded": replace(user, tasks=tuple(reworded if task is old else task for task in user.tasks)),
    }


def real_users(path: Path = REAL_TASKS, *, n_users: int = 40, n_tasks: int = 50, seed: int = 0) -> list[LabelledUser]:
    """One user with all categorised rows, then `n_users` with `n_tasks` random rows; [] if there is no file."""
    if not path.exists():
        return []
    rows = pq.read_table(path, columns=["task_text", "category"]).to_pylist()
    labelled = [(row["task_text"], row["category"]) for row in rows if row["category"]]
    tasks = [LabelledTask("", text, category) for text, category in labelled if category not in _COMMAND_CATEGORIES]
    rng = Random(seed)
    return [_numbered("real", sample) for sample in (tasks, *(rng.sample(tasks, n_tasks) for _ in range(n_users)))]


def _user(kind: str, rng: Random) -> LabelledUser:
    pools = _pools(_langs(kind, rng))
    keys = _shuffled_topics(pools, rng)
    n_topics = min(rng.randint(*_TOPICS_PER_USER), len(keys) - 1)
    tasks = [task for key in keys[:n_topics] for task in _sample(pools[key], rng)]
    n_single = max(1, round(len(tasks) / _TASKS_PER_SINGLE_TASK))
    single = [replace(rng.choice(pools[key]), label=f"only {key}") for key in keys[n_topics:][:n_single]]
    return _numbered(kind, rng.sample([*tasks, *single], len(tasks) + len(single)))


def _langs(kind: str, rng: Random) -> Collection[str]:
    other = rng.choice(sorted({topic.lang for topic in sample_texts().topics} - {"en"}))
    return {"en": {"en"}, "other": {other}, "mixed": {"en", other}}[kind]


def _pools(langs: Collection[str]) -> dict[str, list[LabelledTask]]:
    """All tasks in these languages by topic; a topic has the same key in every language."""
    pools: dict[str, list[LabelledTask]] = {}
    for topic in sample_texts().topics:
        if topic.lang in langs:
            texts = dict.fromkeys(topic.texts)
            tasks = [LabelledTask("", text, topic.key, topic.key, topic.lang) for text in texts]
            pools.setdefault(topic.key, []).extend(tasks)
    return pools


def _shuffled_topics(pools: Mapping[str, Sequence[LabelledTask]], rng: Random) -> list[str]:
    """Topics in random order, topics in two languages first, so that bilingual users mix languages in a topic."""
    return sorted(rng.sample(sorted(pools), len(pools)), key=lambda key: -len({task.lang for task in pools[key]}))


def _sample(pool: Sequence[LabelledTask], rng: Random) -> list[LabelledTask]:
    return rng.sample(pool, min(rng.randint(*_TASKS_PER_TOPIC), len(pool)))


def _unused_tasks(user: LabelledUser) -> list[LabelledTask]:
    """Tasks of the user's topics and languages that the user does not have."""
    texts, topics = {task.text for task in user.tasks}, {(task.topic, task.lang) for task in user.tasks}
    pools = _pools({task.lang for task in user.tasks})
    all_tasks = (task for key in sorted(pools) for task in pools[key])
    return [task for task in all_tasks if (task.topic, task.lang) in topics and task.text not in texts]


def _numbered(kind: str, tasks: Iterable[LabelledTask]) -> LabelledUser:
    return LabelledUser(kind, tuple(replace(task, task_id=_id(number)) for number, task in enumerate(tasks)))


def _id(number: int) -> str:
    return f"{number:04d}"
