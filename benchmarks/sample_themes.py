"""`python -m benchmarks.sample_themes [--print N] [--real]`: themes of sample users, with their projects and labels.

The tasks of 70 sample users, in seven languages, pass through the asset `task_clusters` with the universal encoder.
A theme is good if 60 % of its tasks, and at least two, have one topic. An edit removes a task, or gives it the text
of a different user's task. `--print N` prints the themes of N users, to be read; `--real` those of users with 50 real
texts each, which have no projects.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from random import Random

import numpy as np
import pyarrow as pa
from rich.console import Console

from assets.definitions.task_clusters import task_clusters
from assets.engine.vectors import to_lists
from benchmarks.themes import bundled_embedder
from benchmarks.topics import real_users
from contexts.themes.arrays import Vectors
from contexts.themes.cluster import Clusterer, calibrate
from contexts.todoist.mirror import Mirror, authorship_of, fold, place_of, text_hash
from local.samples import sample_texts, sample_users

_N_USERS = 70
_TODAY = date(2026, 11, 20)
_GOOD_SHARE = 0.6
_SEED = 1

_console = Console(highlight=False, soft_wrap=True)

Row = dict[str, object]
"""The columns of a task that `task_clusters` reads, by name."""


@dataclass(frozen=True)
class Themes:
    """The rows of `task_clusters` for some tasks, with these tasks in the same order."""

    tasks: Sequence[Row]
    rows: Sequence[Mapping[str, object]]

    def by_id(self) -> dict[tuple[object, object], list[int]]:
        """The positions of the tasks of each theme, by user and id of the theme, in the order of first tasks."""
        themes: dict[tuple[object, object], list[int]] = defaultdict(list)
        for position, row in enumerate(self.rows):
            if row["cluster_id"]:
                themes[row["user_id"], row["cluster_id"]].append(position)
        return themes


class Pipeline:
    """`task_clusters` with a model that is calibrated with the texts of some tasks."""

    def __init__(self, tasks: Sequence[Row]) -> None:
        languages = {str(task["text"]): str(task["language"]) for task in tasks}
        texts = sorted(languages, key=text_hash)
        embedder = bundled_embedder("universal")
        assert embedder is not None
        self._vectors: dict[str, Vectors] = dict(zip(texts, embedder.encode(texts), strict=True))
        matrix = np.array([self._vectors[text] for text in texts], np.float32)
        self._clusterer = Clusterer("universal", calibrate(matrix, [languages[text] for text in texts]))

    def themes(self, tasks: Sequence[Row], previous: pa.Table | None = None) -> tuple[Themes, pa.Table]:
        """The themes of some tasks, ordered by user and id, and the table with them. previous: a former table."""
        texts = [str(task["text"]) for task in tasks]
        table = pa.Table.from_pylist(list(tasks)).set_column(
            0, pa.field("connection_number", pa.int32()), pa.array([1] * len(tasks), pa.int32())
        )
        vectors = np.array([self._vectors[text] for text in texts], np.float32)
        embeddings = table.select(["user_id", "task_id"])
        embeddings = embeddings.append_column("text_hash", pa.array(map(text_hash, texts)))
        embeddings = embeddings.append_column("embedding", to_lists(vectors))
        if previous is None:
            previous = task_clusters.schema.empty_table()
        found = task_clusters(embeddings, table, previous, self._clusterer)
        assert isinstance(found, pa.Table)
        return Themes(tasks, found.to_pylist()), found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sample_themes")
    parser.add_argument("--print", type=int, default=0, metavar="N", help="print the themes of N users")
    parser.add_argument("--real", action="store_true", help="users with real texts in place of sample users")
    options = parser.parse_args()
    tasks = _real_tasks() if options.real else _sample_tasks()
    pipeline = Pipeline(tasks)
    themes, table = pipeline.themes(tasks)
    users = list(dict.fromkeys(task["user_id"] for task in tasks))
    _print_themes(themes, users[: options.print])
    n_themes = len(themes.by_id())
    _console.print(f"{len(users)} users with {len(tasks):,} tasks: {n_themes / len(users):.1f} themes a user")
    if not options.real:
        _console.print(f"good: {100 * _good_share(themes):.0f} % of the themes")
        _console.print(f"ids changed by one edit: {100 * _changed_share(pipeline, themes, table):.1f} %")
    return 0


def _sample_tasks() -> list[Row]:
    """The tasks of the sample users, ordered by user and id."""
    rows: list[Row] = []
    for user in sample_users(_N_USERS, today=_TODAY):
        mirror = fold(Mirror(), user.document).mirror
        for task in mirror.tasks.values():
            if mirror.directory.is_actionable(task) and task.text:
                authorship = authorship_of(task, mirror)
                shared = {name: authorship[name] for name in ("is_by_others", "is_shared")}
                language, project = mirror.directory.language or "en", place_of(task, mirror)["project"]
                row = _row(user.user_id, task.task_id, task.text, language, project)
                rows.append(row | shared | {"parent_id": task.parent_id})
    return sorted(rows, key=lambda row: (str(row["user_id"]), str(row["task_id"])))


def _real_tasks() -> list[Row]:
    """The tasks of the users with real texts, without the one with all of them."""
    return [
        _row(f"real-{number:02}", task.task_id, task.text, "en", None)
        for number, user in enumerate(real_users()[1:])
        for task in user.tasks
    ]


def _row(user: str, task_id: str, text: str, language: str, project: str | None) -> Row:
    keys = {"connection_number": 1, "user_id": user, "task_id": task_id, "text": text, "language": language}
    return {**keys, "project": project, "parent_id": None, "is_by_others": False, "is_shared": False}


def _print_themes(themes: Themes, users: Sequence[object]) -> None:
    for (user, _), positions in themes.by_id().items():
        if user in users:
            rows = [themes.tasks[position] for position in positions]
            texts = [f"{row['text']} <{row['project']}>" if row["project"] else str(row["text"]) for row in rows]
            label = themes.rows[positions[0]]["label"]
            _console.print(f"{user} {rows[0]['language']} [{label}] " + " | ".join(texts), markup=False)


def _good_share(themes: Themes) -> float:
    """The share of themes of which most tasks have one topic."""
    topics: dict[str, set[str]] = defaultdict(set)
    for topic in sample_texts().topics:
        for text in topic.texts:
            topics[text].add(topic.key)
    are_good = []
    for positions in themes.by_id().values():
        texts = [str(themes.tasks[position]["text"]) for position in positions]
        most = Counter(topic for text in texts for topic in topics.get(text, {text})).most_common(1)[0][1]
        are_good.append(most > 1 and most >= _GOOD_SHARE * len(texts))
    return float(np.mean(are_good))


def _changed_share(pipeline: Pipeline, before: Themes, table: pa.Table) -> float:
    """The share of unedited tasks with a different theme after an edit of one task of each user, mean over users."""
    ids = {(row["user_id"], row["task_id"]): row["cluster_id"] for row in before.rows}
    shares: dict[object, list[bool]] = defaultdict(list)
    for is_removal in (True, False):
        rng = Random(_SEED)
        by_user: dict[object, list[Row]] = defaultdict(list)
        for task in before.tasks:
            by_user[task["user_id"]].append(task)
        after: list[Row] = []
        edited = set()
        for user, tasks in by_user.items():
            position, text = rng.randrange(len(tasks)), rng.choice(before.tasks)["text"]
            edited.add((user, tasks[position]["task_id"]))
            new = [] if is_removal else [tasks[position] | {"text": text}]
            after += [*tasks[:position], *new, *tasks[position + 1 :]]
        for row in pipeline.themes(after, table)[0].rows:
            if (key := (row["user_id"], row["task_id"])) not in edited:
                shares[row["user_id"]].append(ids[key] != row["cluster_id"])
    return float(np.mean([np.mean(changed) for changed in shares.values()]))


if __name__ == "__main__":
    sys.exit(main())
