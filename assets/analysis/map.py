"""Map of one user's tasks: similar tasks are close together, each theme has its own colour."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.definitions import task_clusters, task_embeddings, todoist_tasks
from assets.engine.errors import AssetError
from assets.engine.parquet import Shards
from assets.engine.tables import user_rows
from assets.engine.vectors import to_matrix
from contexts.themes.labels import shorten

Points = NDArray[np.float64]

_GREY_SHADES = (14, 15)
"""Indices of the greys in the palette tab20; grey is reserved for unclustered tasks."""

_FIGURE_INCHES, _DPI = (13, 9), 120
_MAX_CAPTIONED_TASKS = 80
"""Above this number of tasks the map shows the names of themes only, not the texts of tasks."""


@dataclass(frozen=True)
class MappedTask:
    """A task, its vector and its theme; theme_id and label are None if the task is unclustered."""

    text: str
    theme_id: str | None
    label: str | None
    vector: NDArray[np.float32]


def mapped_tasks(shards: Shards, user: str) -> list[MappedTask]:
    """A user's tasks with the themes of the last clustering.

    Raises AssetError if the user has no clustered tasks.
    """
    embeddings = user_rows(shards, task_embeddings, user, ["task_id", "embedding"])
    tasks = user_rows(shards, todoist_tasks, user, ["task_id", "text"])
    clusters = user_rows(shards, task_clusters, user, ["task_id", "cluster_id", "label"])
    matrix = to_matrix(embeddings["embedding"]).astype(np.float32)
    vectors = dict(zip(embeddings["task_id"].to_pylist(), matrix, strict=True))
    texts = {row["task_id"]: row["text"] for row in tasks.to_pylist() if row["text"] is not None}
    rows = [row for row in clusters.to_pylist() if row["task_id"] in vectors and row["task_id"] in texts]
    if not rows:
        raise AssetError(
            f"'{user}' has no clustered tasks. List the users: python -m contexts accounts list;"
            f" run the pipeline: python -m assets materialize"
        )
    return [
        MappedTask(texts[row["task_id"]], row["cluster_id"], row["label"], vectors[row["task_id"]]) for row in rows
    ]


def draw_task_map(tasks: Sequence[MappedTask], title: str, path: Path) -> None:
    """Draw the map into a file; the suffix of `path` selects the format (png, svg, pdf)."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    points, themes = layout([task.vector for task in tasks]), _rows_by_theme(tasks)
    figure, axes = plt.subplots(figsize=_FIGURE_INCHES, dpi=_DPI, layout="constrained")
    shades = [shade for shade in (*range(0, 20, 2), *range(1, 20, 2)) if shade not in _GREY_SHADES]
    colours = [plt.get_cmap("tab20")(shade) for shade in shades]
    captions = []
    for number, (theme, rows) in enumerate(themes.items()):
        colour: Any = "0.6" if theme is None else colours[number % len(colours)]
        name = _drawable(tasks[rows[0]].label or "unclustered")
        x, y = points[rows].T
        dots = axes.scatter(x, y, s=46, color=[colour], label=f"{name} ({len(rows)})", edgecolors="white", zorder=2)
        dots.set_gid(f"theme-{number}")
        if theme is not None:
            captions.append(_theme_caption(axes, name, points[rows].mean(axis=0), colour))
    captions += _task_captions(axes, tasks, points) if len(tasks) <= _MAX_CAPTIONED_TASKS else []
    _separate(axes, captions, points)
    axes.set_title(title, loc="left", fontsize=13)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    figure.savefig(path)
    plt.close(figure)


def layout(vectors: Sequence[NDArray[np.float32]]) -> Points:
    """A point for each unit vector, shape (n, 2), by t-SNE on cosine distance; deterministic.

    Up to three vectors are placed in a row. Source: van der Maaten and Hinton, "Visualizing Data using t-SNE",
    JMLR 9, 2008.
    """
    n_vectors = len(vectors)
    if n_vectors < 4:
        return np.column_stack([np.arange(n_vectors, dtype=float), np.zeros(n_vectors)])
    from sklearn.manifold import TSNE

    points: Points = TSNE(
        perplexity=min(12.0, (n_vectors - 1) / 3), metric="cosine", init="random", random_state=0, n_jobs=1
    ).fit_transform(np.array(vectors, np.float32))
    return points


def _rows_by_theme(tasks: Sequence[MappedTask]) -> dict[str | None, list[int]]:
    """Positions of the tasks of each theme, the largest theme first, unclustered tasks last."""
    rows: dict[str | None, list[int]] = {}
    for number, task in enumerate(tasks):
        rows.setdefault(task.theme_id, []).append(number)
    return dict(sorted(rows.items(), key=lambda item: (item[0] is None, -len(item[1]), item[0] or "")))


def _theme_caption(axes: Any, name: str, centre: Points, colour: Any) -> Any:
    box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour, "alpha": 0.9}
    return axes.text(*centre, name, fontsize=9, weight="bold", ha="center", va="center", bbox=box, zorder=4)


def _task_captions(axes: Any, tasks: Sequence[MappedTask], points: Points) -> list[Any]:
    return [
        axes.text(*point, f" {_drawable(shorten(task.text))}", fontsize=6.5, color="0.25", zorder=3)
        for task, point in zip(tasks, points, strict=True)
    ]


def _separate(axes: Any, captions: list[Any], points: Points) -> None:
    """Move captions until they overlap neither each other nor the points."""
    from adjustText import adjust_text

    lines = {"arrowstyle": "-", "color": "0.7", "lw": 0.5}
    adjust_text(captions, *points.T, ax=axes, expand=(1.05, 1.5), arrowprops=lines, time_lim=5)


def _drawable(text: str) -> str:
    """The text without emoji, for which the font has no glyphs, and with dollar signs escaped from mathtext."""
    letters = (
        letter
        for letter in text
        if unicodedata.category(letter) not in ("So", "Cn", "Sk", "Cf") and ord(letter) < 0xFE00
    )
    return "".join(letters).replace("$", r"\$").strip()
