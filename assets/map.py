"""A picture of one user's tasks: near in meaning is near on paper, a colour for each theme."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.asset import Asset
from assets.definitions import task_clusters, task_embeddings, todoist_tasks
from assets.definitions.vectors import to_matrix
from assets.errors import AssetError
from assets.parquet import Shards
from assets.rows import take
from assets.versions import shard_of
from contexts.tags import short

Points = NDArray[np.float64]

_GREYS = (14, 15)
"""Of the palette: grey is for tasks alone."""

_SIZE, _DPI = (13, 9), 120
_FEW = 80
"""So many tasks have their texts beside them; of more, only themes are named."""


@dataclass(frozen=True)
class MappedTask:
    """A task with its vector. theme_id, label: of its theme, None where it is unclustered."""

    text: str
    theme_id: str | None
    label: str | None
    vector: NDArray[np.float32]


def tasks_of(shards: Shards, user: str) -> list[MappedTask]:
    """A user's tasks as they were last clustered; AssetError when there are none."""
    vectors, tasks, clusters = (
        rows_of(shards, asset, user, columns)
        for asset, columns in (
            (task_embeddings, ["task_id", "embedding"]),
            (todoist_tasks, ["task_id", "text"]),
            (task_clusters, ["task_id", "cluster_id", "label"]),
        )
    )
    matrix = dict(
        zip(vectors["task_id"].to_pylist(), to_matrix(vectors["embedding"]).astype(np.float32), strict=True)
    )
    texts = dict(zip(tasks["task_id"].to_pylist(), tasks["text"].to_pylist(), strict=True))
    rows = [row for row in clusters.to_pylist() if row["task_id"] in matrix and row["task_id"] in texts]
    if not rows:
        raise AssetError(
            f"'{user}' has no clustered tasks. See who there is: python -m contexts.accounts list;"
            f" and run a night: python -m assets materialize"
        )
    return [
        MappedTask(texts[row["task_id"]], row["cluster_id"], row["label"], matrix[row["task_id"]]) for row in rows
    ]


def draw(tasks: Sequence[MappedTask], title: str, path: Path) -> None:
    """Write the picture; the ending of `path` says its format (png, svg, pdf)."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    points, themes = layout([task.vector for task in tasks]), _by_theme(tasks)
    figure, axes = plt.subplots(figsize=_SIZE, dpi=_DPI, layout="constrained")
    shades = [number for number in (*range(0, 20, 2), *range(1, 20, 2)) if number not in _GREYS]
    colours = [plt.get_cmap("tab20")(number) for number in shades]
    names = []
    for number, (theme, rows) in enumerate(themes.items()):
        colour: Any = "0.6" if theme is None else colours[number % len(colours)]
        name = _drawable(tasks[rows[0]].label or "unclustered")
        x, y = points[rows].T
        dots = axes.scatter(x, y, s=46, color=[colour], label=f"{name} ({len(rows)})", edgecolors="white", zorder=2)
        dots.set_gid(f"theme-{number}")
        if theme is not None:
            names.append(_name(axes, name, points[rows].mean(axis=0), colour))
    names += _captions(axes, tasks, points) if len(tasks) <= _FEW else []
    _spread(axes, names, points)
    axes.set_title(title, loc="left", fontsize=13)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    figure.savefig(path)
    plt.close(figure)


def layout(vectors: Sequence[NDArray[np.float32]]) -> Points:
    """A point for each unit vector, shape (n, 2): t-SNE on cosine, always the same for the same vectors.

    Source: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008. Up to three stand in a row.
    """
    n = len(vectors)
    if n < 4:
        return np.column_stack([np.arange(n, dtype=float), np.zeros(n)])
    from sklearn.manifold import TSNE

    found: Points = TSNE(
        perplexity=min(12.0, (n - 1) / 3), metric="cosine", init="random", random_state=0, n_jobs=1
    ).fit_transform(np.array(vectors, np.float32))
    return found


def rows_of(shards: Shards, asset: Asset, user: str, columns: list[str]) -> pa.Table:
    """Some columns of a user's rows; none where there is no file."""
    with shards.open(asset, shard_of(user, shards.n_shards)) as opened:
        if opened is None:
            return pa.schema([asset.schema.field(name) for name in columns]).empty_table()
        return take(opened.read(columns), opened.footer.index, [user])


def _by_theme(tasks: Sequence[MappedTask]) -> dict[str | None, list[int]]:
    """The largest theme first, tasks alone last."""
    found: dict[str | None, list[int]] = {}
    for number, task in enumerate(tasks):
        found.setdefault(task.theme_id, []).append(number)
    return dict(sorted(found.items(), key=lambda each: (each[0] is None, -len(each[1]), each[0] or "")))


def _name(axes: Any, theme: str, at: Points, colour: Any) -> Any:
    box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour, "alpha": 0.9}
    return axes.text(*at, theme, fontsize=9, weight="bold", ha="center", va="center", bbox=box, zorder=4)


def _captions(axes: Any, tasks: Sequence[MappedTask], points: Points) -> list[Any]:
    return [
        axes.text(*point, f" {_drawable(short(task.text))}", fontsize=6.5, color="0.25", zorder=3)
        for task, point in zip(tasks, points, strict=True)
    ]


def _spread(axes: Any, texts: list[Any], points: Points) -> None:
    """Move texts off each other and off the points."""
    from adjustText import adjust_text

    lines = {"arrowstyle": "-", "color": "0.7", "lw": 0.5}
    adjust_text(texts, *points.T, ax=axes, expand=(1.05, 1.5), arrowprops=lines, time_lim=5)


def _drawable(text: str) -> str:
    """Without emoji, which the picture's font has no sign for, and what it would take for a formula."""
    kept = (
        each for each in text if unicodedata.category(each) not in ("So", "Cn", "Sk", "Cf") and ord(each) < 0xFE00
    )
    return "".join(kept).replace("$", r"\$").strip()
