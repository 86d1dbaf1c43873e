"""Users whose tasks are known to belong together or not: drawn from the samples, and real texts by their category."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random

import pyarrow.parquet as pq

from local.samples.texts import sample_texts

REAL_TASKS = Path(__file__).parents[2] / "shared" / "data" / "todo_tasks.parquet"

COMMANDS = {"lists_createoradd", "todo_list_update", "reminder_update"}
"""Categories that name the command that was spoken, not what the task is about."""

KINDS = ("en",) * 12 + ("other",) * 5 + ("mixed",) * 3
"""Of every twenty users: those who write English, those who write another language, those who write both."""

_N_TOPICS = (3, 8)
_N_TASKS = (2, 15)
_TASKS_PER_NOISE = 9


@dataclass(frozen=True)
class LabelledTask:
    """label: the same for tasks that belong together; a task alone has one of its own. topic: "" for real texts."""

    task_id: str
    text: str
    label: str
    topic: str = ""
    lang: str = "en"


@dataclass(frozen=True)
class LabelledUser:
    """kind: one of `KINDS`, or "real". tasks: in the order of their ids."""

    kind: str
    tasks: tuple[LabelledTask, ...]

    @cached_property
    def labels(self) -> list[str]:
        """The truth, task by task."""
        return [task.label for task in self.tasks]


def labelled_users(n_users: int, seed: int) -> list[LabelledUser]:
    """Users of `KINDS` with 3-8 topics of 2-15 tasks, a tenth of all tasks alone; user k is the same for any number.

    A language of few topics bounds both: one topic at least is left for the tasks that are alone.
    """
    return [_user(KINDS[number % len(KINDS)], Random(f"{seed}:{number}")) for number in range(n_users)]


def edited(user: LabelledUser, seed: int) -> Mapping[str, LabelledUser]:
    """What becomes of a drawn user by one edit, for each kind of edit: a task is added, removed, or reworded."""
    rng = Random(seed)
    new, gone, old = rng.choice(_missing(user)), rng.choice(user.tasks), rng.choice(user.tasks)
    reworded = replace(old, text=old.text + rng.choice(sample_texts().rewordings[old.lang]))
    return {
        "added": replace(user, tasks=(*user.tasks, replace(new, task_id=_id(len(user.tasks))))),
        "removed": replace(user, tasks=tuple(task for task in user.tasks if task is not gone)),
        "reworded": replace(user, tasks=tuple(reworded if task is old else task for task in user.tasks)),
    }


def real_users(path: Path = REAL_TASKS, *, n_users: int = 40, n_tasks: int = 50, seed: int = 0) -> list[LabelledUser]:
    """All rows with a category as one user, then `n_users` of `n_tasks` rows drawn; none where the file is absent."""
    if not path.exists():
        return []
    rows = pq.read_table(path, columns=["task_text", "category"]).to_pylist()
    about = [(row["task_text"], row["category"]) for row in rows if row["category"]]
    tasks = [LabelledTask("", text, category) for text, category in about if category not in COMMANDS]
    rng = Random(seed)
    return [_numbered("real", chosen) for chosen in (tasks, *(rng.sample(tasks, n_tasks) for _ in range(n_users)))]


def _user(kind: str, rng: Random) -> LabelledUser:
    pools = _pools(_langs(kind, rng))
    keys = _order(pools, rng)
    n_topics = min(rng.randint(*_N_TOPICS), len(keys) - 1)
    tasks = [task for key in keys[:n_topics] for task in _some(pools[key], rng)]
    n_alone = max(1, round(len(tasks) / _TASKS_PER_NOISE))
    alone = [replace(rng.choice(pools[key]), label=f"only {key}") for key in keys[n_topics:][:n_alone]]
    return _numbered(kind, rng.sample([*tasks, *alone], len(tasks) + len(alone)))


def _langs(kind: str, rng: Random) -> Collection[str]:
    other = rng.choice(sorted({topic.lang for topic in sample_texts().topics} - {"en"}))
    return {"en": {"en"}, "other": {other}, "mixed": {"en", other}}[kind]


def _pools(langs: Collection[str]) -> dict[str, list[LabelledTask]]:
    """All that somebody of these languages may write, by topic; a topic is the same one in every language."""
    pools: dict[str, list[LabelledTask]] = {}
    for topic in sample_texts().topics:
        if topic.lang in langs:
            texts = dict.fromkeys(topic.texts)
            tasks = [LabelledTask("", text, topic.key, topic.key, topic.lang) for text in texts]
            pools.setdefault(topic.key, []).extend(tasks)
    return pools


def _order(pools: Mapping[str, Sequence[LabelledTask]], rng: Random) -> list[str]:
    """Topics by chance, those of both languages first: who writes two languages mixes them within a topic."""
    return sorted(rng.sample(sorted(pools), len(pools)), key=lambda key: -len({task.lang for task in pools[key]}))


def _some(pool: Sequence[LabelledTask], rng: Random) -> list[LabelledTask]:
    return rng.sample(pool, min(rng.randint(*_N_TASKS), len(pool)))


def _missing(user: LabelledUser) -> list[LabelledTask]:
    """What the user may still write of the same topics in the same languages."""
    texts, own = {task.text for task in user.tasks}, {(task.topic, task.lang) for task in user.tasks}
    pools = _pools({task.lang for task in user.tasks})
    every = (task for key in sorted(pools) for task in pools[key])
    return [task for task in every if (task.topic, task.lang) in own and task.text not in texts]


def _numbered(kind: str, tasks: Iterable[LabelledTask]) -> LabelledUser:
    return LabelledUser(kind, tuple(replace(task, task_id=_id(number)) for number, task in enumerate(tasks)))


def _id(number: int) -> str:
    return f"{number:04d}"
