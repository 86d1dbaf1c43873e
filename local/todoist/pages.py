"""Requests to the paged reads, and their pages. Source: API v1, "Pagination", and the Python SDK."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local.faulty_http import RefusedError
from local.todoist.replies import invalid_argument

KINDS: Mapping[str, str] = {"tasks": "items", "projects": "projects", "sections": "sections", "labels": "labels"}
"""The /sync resource type for each path below /api/v1/."""

DEFAULT_LIMIT = 50
MAX_LIMIT = 200


@dataclass(frozen=True)
class PageRequest:
    """A request for `limit` objects of a /sync resource type, from position `start`."""

    kind: str
    start: int
    limit: int


def read_page_request(kind: str, arguments: Mapping[str, str]) -> PageRequest:
    """Parse the arguments; raises RefusedError (400) for an invalid limit or cursor, and for any filter.

    The stand-in does not support filters.
    """
    if unsupported := sorted(set(arguments) - {"cursor", "limit"}):
        raise RefusedError(invalid_argument(unsupported[0], "cursor or limit, the only arguments of this stand-in"))
    limit = arguments.get("limit", str(DEFAULT_LIMIT))
    if not limit.isdecimal() or not 1 <= int(limit) <= MAX_LIMIT:
        raise RefusedError(invalid_argument("limit", f"a whole number from 1 to {MAX_LIMIT}"))
    return PageRequest(kind, _start(kind, arguments.get("cursor")), int(limit))


def build_page(values: Sequence[Any], request: PageRequest) -> Mapping[str, Any]:
    """The body of a response: the requested objects, and the cursor of the next page or None."""
    end = request.start + request.limit
    cursor = _cursor(request.kind, end) if end < len(values) else None
    results = [_as_read(value) for value in values[request.start : end]]
    return {"results": results, "next_cursor": cursor}


def _as_read(value: Any) -> Any:
    """A /sync object as the paged reads return it: the field item_order of a label is called order."""
    if not isinstance(value, dict) or "item_order" not in value:
        return value
    return {"order" if key == "item_order" else key: field for key, field in value.items()}


def _cursor(kind: str, start: int) -> str:
    return urlsafe_b64encode(f"{kind} {start}".encode()).decode()


def _start(kind: str, cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        cursor_kind, start = urlsafe_b64decode(cursor).decode().split(" ")
        if cursor_kind == kind:
            return int(start)
    except ValueError:
        pass
    raise RefusedError(invalid_argument("cursor", "the next_cursor of a previous page"))
