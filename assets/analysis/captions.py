"""Places for captions on a drawing: they cover neither points nor each other, and their lines cross no words. Pure.

All coordinates are pixels. A box is left, bottom, right, top.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

_N_DIRECTIONS = 16
_RADII = (1.0, 1.6, 2.4, 3.4, 4.6, 6.0, 8.0, 10.5, 13.5)
"""Distances of a caption's nearest edge from its point, in units of the gap."""

_MAX_RADIUS_WITHOUT_LINE = 2.4


@dataclass
class Captions:
    """The captions placed so far.

    area: the box in which all captions lie.
    gap: distance from a caption to its point.
    taken: boxes that no caption may cover, shape (n, 4).
    words: those of them that no line may cross.
    lines: from points to their captions, shape (n, 4).
    """

    area: Numbers
    gap: float
    taken: Numbers = field(default_factory=lambda: np.empty((0, 4)))
    words: Numbers = field(default_factory=lambda: np.empty((0, 4)))
    lines: Numbers = field(default_factory=lambda: np.empty((0, 4)))

    def keep_free(self, points: Numbers, radius: float) -> None:
        """Keep all captions off some points, shape (n, 2)."""
        self.taken = np.concatenate([self.taken, np.hstack([points - radius, points + radius])])

    def place(self, point: Numbers, size: Numbers) -> tuple[Numbers, bool] | None:
        """Place a caption of a width and height as near as possible to its point, and return its centre.

        The flag says whether a line has to join them. None if there is no place.
        """
        centres, radii = _candidates(point, size, self.gap)
        boxes = np.hstack([centres - size / 2, centres + size / 2])
        lines = np.hstack([np.broadcast_to(point, centres.shape), np.clip(point, boxes[:, :2], boxes[:, 2:])])
        has_line = radii > _MAX_RADIUS_WITHOUT_LINE
        is_inside = (boxes[:, :2] >= self.area[:2]).all(axis=1) & (boxes[:, 2:] <= self.area[2:]).all(axis=1)
        is_free = ~overlaps(boxes, self.taken).any(axis=1) & ~crosses(self.lines, boxes).any(axis=0)
        is_clear = ~has_line | ~crosses(lines, self.words).any(axis=1)
        good = np.flatnonzero(is_inside & is_free & is_clear)
        if not len(good):
            return None
        best = good[0]
        self.taken = np.concatenate([self.taken, boxes[[best]]])
        self.words = np.concatenate([self.words, boxes[[best]]])
        if has_line[best]:
            self.lines = np.concatenate([self.lines, lines[[best]]])
        return centres[best], bool(has_line[best])


def overlaps(boxes: Numbers, others: Numbers) -> NDArray[np.bool_]:
    """Return whether boxes overlap, shape (len(boxes), len(others))."""
    one, other = boxes[:, None], others[None]
    return np.asarray((one[..., :2] < other[..., 2:]).all(axis=2) & (other[..., :2] < one[..., 2:]).all(axis=2))


def crosses(lines: Numbers, boxes: Numbers) -> NDArray[np.bool_]:
    """Return whether lines cross boxes, shape (len(lines), len(boxes)).

    A line is inside a box between its entry through the last of the four sides and its exit through the first one.
    Source: Liang and Barsky, "A new concept and method for line clipping", 1984.
    """
    start, step = lines[:, None, :2], (lines[:, 2:] - lines[:, :2])[:, None]
    step = np.where(np.abs(step) < 1e-9, 1e-9, step)
    sides = np.stack([(boxes[None, :, :2] - start) / step, (boxes[None, :, 2:] - start) / step])
    entry, leave = sides.min(axis=0).max(axis=2), sides.max(axis=0).min(axis=2)
    return np.asarray((entry < leave) & (leave > 0) & (entry < 1))


def _candidates(point: Numbers, size: Numbers, gap: float) -> tuple[Numbers, Numbers]:
    """Return centres around a point, the nearest first and to the right first, and their distances in gaps."""
    angles = np.arange(_N_DIRECTIONS) * 2 * np.pi / _N_DIRECTIONS
    order = np.argsort(np.minimum(angles, 2 * np.pi - angles), kind="stable")
    directions = np.column_stack([np.cos(angles), np.sin(angles)])[order]
    radii = np.repeat(_RADII, _N_DIRECTIONS)
    directions = np.tile(directions, (len(_RADII), 1))
    return point + directions * (size / 2 + gap * radii[:, None]), radii
