"""Generates projects, their sections, and the labels of an account."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from local.samples.draw import Draw
from local.samples.texts import Topic

_COLORS = ("berry_red", "orange", "olive_green", "teal", "sky_blue", "grape", "charcoal", "taupe")


def new_project(draw: Draw, name: str, order: int) -> dict[str, Any]:
    """A project as in `/sync`."""
    created_at = draw.instant(86_400 * draw.rng.randint(200, 900))
    return {
        "id": draw.new_id(),
        "name": name,
        "description": "",
        "color": draw.rng.choice(_COLORS),
        "parent_id": None,
        "child_order": order,
        "is_collapsed": False,
        "is_shared": False,
        "can_assign_tasks": False,
        "is_favorite": draw.chance(0.15),
        "is_frozen": False,
        "is_archived": False,
        "is_deleted": False,
        "inbox_project": False,
        "view_style": draw.rng.choice(("list", "list", "board")),
        "creator_uid": draw.owner,
        "created_at": created_at,
        "updated_at": created_at,
    }


def new_sections(draw: Draw, project_id: str, topic: Topic) -> list[dict[str, Any]]:
    """The sections of a project, for about 60 % of the projects."""
    names = topic.sections if draw.chance(0.6) else ()
    return [_section(draw, project_id, name, order) for order, name in enumerate(names, start=1)]


def _section(draw: Draw, project_id: str, name: str, order: int) -> dict[str, Any]:
    return {
        "id": draw.new_id(),
        "user_id": draw.owner,
        "project_id": project_id,
        "name": name,
        "section_order": order,
        "is_collapsed": False,
        "is_archived": False,
        "is_deleted": False,
        "added_at": draw.instant(86_400 * draw.rng.randint(200, 400)),
        "updated_at": None,
        "archived_at": None,
    }


def new_labels(draw: Draw, topics: Sequence[Topic]) -> list[dict[str, Any]]:
    """The labels of all topics of an account."""
    names = dict.fromkeys(label for topic in topics for label in topic.labels)
    return [_label(draw, name, order) for order, name in enumerate(names, start=1)]


def _label(draw: Draw, name: str, order: int) -> dict[str, Any]:
    return {
        "id": draw.new_id(),
        "name": name,
        "color": draw.rng.choice(_COLORS),
        "item_order": order,
        "is_favorite": False,
        "is_deleted": False,
    }
