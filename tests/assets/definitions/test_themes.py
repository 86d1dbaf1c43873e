"""The names of themes in `task_clusters`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from assets.definitions.task_clusters import task_clusters
from assets.engine.vectors import to_lists
from contexts.themes.centering import Centering
from contexts.themes.cluster import Calibration, Clusterer

TEXTS = ("flour", "butter", "sugar")


def themed(
    texts: Sequence[str],
    vectors: np.ndarray,
    project: str | Sequence[str | None] | None,
    *,
    is_shared: bool | None = False,
    calibration: Calibration | None = None,
) -> Any:
    """Return the asset's rows for one user's tasks in a project, or one each, with a threshold of 0.5."""
    n = len(texts)
    projects = [project] * n if project is None or isinstance(project, str) else project
    keys = {"user_id": ["ann"] * n, "task_id": [f"t{number}" for number in range(n)]}
    tasks = pa.table(
        keys
        | {
            "connection_number": pa.nulls(n, pa.int32()),
            "text": list(texts),
            "language": ["en"] * n,
            "parent_id": pa.nulls(n, pa.string()),
            "is_by_others": [False] * n,
            "project": pa.array(projects, pa.string()),
            "is_shared": pa.array([is_shared] * n, pa.bool_()),
        }
    )
    embeddings = pa.table(keys | {"text_hash": list(texts), "embedding": to_lists(vectors)})
    clusterer = Clusterer("m", calibration or Calibration(0.5))
    return task_clusters(embeddings, tasks, task_clusters.schema.empty_table(), clusterer)


def labels(project: str | None, *, is_shared: bool | None, calibration: Calibration | None = None) -> set[str | None]:
    """Return the labels of a user's three similar tasks in a project."""
    vectors = np.array([[1, 0.1], [1, 0.2], [1, 0.3]], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = themed(TEXTS, vectors, project, is_shared=is_shared, calibration=calibration)
    return set(table["label"].to_pylist())


@pytest.mark.parametrize(
    ("project", "is_shared", "label"),
    [
        ("Cake", False, "Cake"),
        ("Cake", True, "butter, sugar"),
        ("Cake", None, "butter, sugar"),
        ("Inbox", False, "butter, sugar"),
    ],
)
def test_only_a_project_that_the_user_named_names_a_theme(project: str, is_shared: bool | None, label: str) -> None:
    """A project that others may have named, or that is the inbox, does not name a theme; an own project does."""
    assert labels(project, is_shared=is_shared) == {label}


def n_clusters(texts: Sequence[str], project: str) -> int:
    """Return the number of themes of tasks that the model finds a little less similar than the threshold."""
    n = len(texts)
    vectors = np.sqrt(0.45) * np.eye(1, n + 1, n, np.float32) + np.sqrt(0.55) * np.eye(n, n + 1, dtype=np.float32)
    return len(set(themed(texts, vectors, project)["cluster_id"].to_pylist()) - {None})


def test_words_and_projects_bring_tasks_together() -> None:
    """Tasks that share a word or a project become a theme at a lower similarity of their vectors than others."""
    assert n_clusters(["call the dentist", "oat flakes"], "Inbox") == 0
    assert n_clusters(["call the dentist", "dentist: new date"], "Inbox") == 1
    assert n_clusters(["call the dentist", "oat flakes"], "Health") == 1


def test_vectors_are_centred() -> None:
    """The means of the calibration are subtracted before tasks are grouped."""
    mean = Centering(np.array([[0.98, 0.196]], np.float32))
    assert labels("Cake", is_shared=False, calibration=Calibration(0.5)) == {"Cake"}
    assert labels("Cake", is_shared=False, calibration=Calibration(0.5, 0.0, mean)) != {"Cake"}


@pytest.mark.parametrize(
    ("projects", "is_theme"),
    [
        (("Car", "Garden", "Inbox", "Inbox"), False),
        (("Car", "Car", "Garden", "Garden"), False),
        (("Car", "Car", "Garden", "Inbox"), True),
        (("Car", "Inbox", "Inbox", "Inbox"), True),
        (("Inbox", "Inbox", None, None), True),
    ],
)
def test_tasks_of_several_projects(projects: Sequence[str | None], is_theme: bool) -> None:
    """Similar tasks are no theme if no project has most of those of them that the user sorted into projects."""
    texts = ["new list", "next list", "check the list", "long list"]
    vectors = np.tile(np.array([[1.0, 0.0]], np.float32), (4, 1))
    ids = set(themed(texts, vectors, projects)["cluster_id"].to_pylist())
    assert (len(ids - {None}) == 1) is is_theme
