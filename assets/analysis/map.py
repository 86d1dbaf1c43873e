"""Map of one user's tasks: similar tasks are close together, each theme has its own colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.analysis.captions import Captions
from assets.analysis.letters import drawable, font_families
from assets.definitions.task_clusters import task_clusters
from assets.definitions.task_embeddings import task_embeddings
from assets.definitions.todoist_tasks import todoist_tasks
from assets.engine.errors import AssetError
from assets.engine.parquet import Shards
from assets.engine.tables import user_rows
from assets.engine.vectors import to_matrix
from contexts.themes.labels import shorten

Points = NDArray[np.float64]

_GREY_SHADES = (14, 15)
"""Indices of the greys in the palette tab20; grey is reserved for unclustered tasks."""

_FIGURE_INCHES, _DPI = (13, 9), 120
_DOT_AREA = 46
"""In square points, as matplotlib wants it."""

_DOT_PIXELS, _GAP_PIXELS, _PAD_PIXELS, _BOX_PAD_PIXELS = 6.0, 7.0, 1.0, 6.0
_MARGIN = 0.08
"""Free space around the points, as a share of the drawing."""

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
    with mpl.rc_context({"font.family": font_families(), "svg.fonttype": "path"}):
        figure, axes = plt.subplots(figsize=_FIGURE_INCHES, dpi=_DPI, layout="constrained")
        axes.margins(_MARGIN)
        colours = _draw_points(axes, tasks, points, themes)
        axes.set_title(title, loc="left", fontsize=13)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
        figure.canvas.draw()  # the layout is final, so that captions can be measured in pixels
        figure.set_layout_engine("none")
        _draw_captions(axes, tasks, points, themes, colours)
        figure.savefig(path)
        plt.close(figure)


def _draw_points(
    axes: Any, tasks: Sequence[MappedTask], points: Points, themes: Mapping[str | None, Sequence[int]]
) -> list[Any]:
    """Draw a dot for each task, and return the colour of each theme."""
    from matplotlib import pyplot as plt

    shades = [shade for shade in (*range(0, 20, 2), *range(1, 20, 2)) if shade not in _GREY_SHADES]
    colours: list[Any] = []
    for number, (theme, rows) in enumerate(themes.items()):
        colours.append("0.6" if theme is None else plt.get_cmap("tab20")(shades[number % len(shades)]))
        name = drawable(tasks[rows[0]].label or "unclustered")
        x, y = points[rows].T
        dots = axes.scatter(
            x, y, s=_DOT_AREA, color=[colours[-1]], label=f"{name} ({len(rows)})", edgecolors="white", zorder=2
        )
        dots.set_gid(f"theme-{number}")
    return colours


def _draw_captions(
    axes: Any,
    tasks: Sequence[MappedTask],
    points: Points,
    themes: Mapping[str | None, Sequence[int]],
    colours: Sequence[Any],
) -> None:
    """Write the names of themes, then the texts of tasks, as far as there is place for them."""
    pixels: Points = axes.transData.transform(points)
    captions = Captions(area=np.array(axes.bbox.extents), gap=_GAP_PIXELS)
    captions.keep_free(pixels, _DOT_PIXELS)
    for (theme, rows), colour in zip(themes.items(), colours, strict=True):
        if theme is not None:
            middle = pixels[rows].mean(axis=0)
            nearest = rows[int(np.linalg.norm(pixels[rows] - middle, axis=1).argmin())]
            box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour}
            style = {"fontsize": 9, "weight": "bold", "bbox": box, "zorder": 4}
            _caption(axes, captions, pixels[nearest], drawable(tasks[rows[0]].label or ""), style)
    if len(tasks) <= _MAX_CAPTIONED_TASKS:
        for task, pixel in zip(tasks, pixels, strict=True):
            style = {"fontsize": 6.5, "color": "0.25", "zorder": 3}
            _caption(axes, captions, pixel, drawable(shorten(task.text)), style)


def _caption(axes: Any, captions: Captions, pixel: Points, text: str, style: Mapping[str, Any]) -> None:
    """Write a text near a point, joined by a line if it is not beside it; nothing if there is no place."""
    from matplotlib.transforms import IdentityTransform

    written = axes.text(*pixel, text, ha="center", va="center", transform=IdentityTransform(), **style)
    extent = written.get_window_extent()
    pad = _BOX_PAD_PIXELS if "bbox" in style else _PAD_PIXELS
    size = np.array([extent.width, extent.height]) + 2 * pad
    place = captions.place(pixel, size) if text else None
    if place is None:
        written.remove()
        return
    centre, has_line = place
    written.set_position(tuple(centre))
    if has_line:
        line = {"arrowstyle": "-", "color": "0.7", "lw": 0.5, "shrinkA": 0, "shrinkB": 0}
        end = np.clip(pixel, centre - size / 2, centre + size / 2)
        axes.annotate("", end, pixel, xycoords="figure pixels", textcoords="figure pixels", arrowprops=line, zorder=1)


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
