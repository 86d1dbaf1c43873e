"""Requests to /sync."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from local.faulty_http import RefusedError
from local.todoist.replies import invalid_argument, missing_argument

RESOURCE_TYPES = (
    "labels",
    "projects",
    "items",
    "notes",
    "sections",
    "filters",
    "reminders",
    "reminders_location",
    "locations",
    "user",
    "live_notifications",
    "collaborators",
    "user_settings",
    "notification_settings",
    "user_plan_limits",
    "completed_info",
    "stats",
    "workspaces",
    "workspace_users",
    "workspace_filters",
    "view_options",
    "project_view_options_defaults",
    "role_actions",
)
"""All resource types. Source: API v1, "Read resources"."""


@dataclass(frozen=True)
class SyncRequest:
    """A request to /sync."""

    sync_token: str
    resource_types: tuple[str, ...]

    @property
    def is_full(self) -> bool:
        """Whether the client requests a full answer."""
        return self.sync_token == "*"


def read_body(content_type: str, body: bytes) -> Mapping[str, Any]:
    """The arguments in a form or a JSON object; empty if the body is neither."""
    if not content_type.startswith("application/json"):
        return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def read_sync_request(arguments: Mapping[str, Any]) -> SyncRequest:
    """Parse the arguments; raises RefusedError (400) if one is missing or a resource type is unknown."""
    for name in ("sync_token", "resource_types"):
        if name not in arguments:
            raise RefusedError(missing_argument(name))
    if not isinstance(arguments["sync_token"], str):
        raise RefusedError(invalid_argument("sync_token", "a string"))
    return SyncRequest(arguments["sync_token"], _resource_types(arguments["resource_types"]))


def _resource_types(argument: Any) -> tuple[str, ...]:
    """The requested types, sorted: "all" includes every type, and a leading - excludes one."""
    names = _names(argument)
    included = {name for name in names if not name.startswith("-")}
    excluded = {name[1:] for name in names if name.startswith("-")}
    if "all" in included:
        included = included - {"all"} | set(RESOURCE_TYPES)
    if unknown := (included | excluded) - set(RESOURCE_TYPES):
        raise RefusedError(invalid_argument("resource_types", f"known resource types, not {sorted(unknown)}"))
    return tuple(sorted(included - excluded))


def _names(argument: Any) -> list[str]:
    try:
        names = json.loads(argument) if isinstance(argument, str) else argument
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RefusedError(invalid_argument("resource_types", "a JSON list of strings"))
    return names
