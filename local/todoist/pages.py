"""What a client may ask of the paged reads, and a page of them. Source: API v1, "Pagination", and the Python SDK."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local.todoist.replies import invalid_argument
from local.wire import RefusedError

KINDS: Mapping[str, str] = {"tasks": "items", "projects": "projects", "sections": "sections", "labels": "labels"}
"""How /sync calls what stands at /api/v1/..."""

DEFAULT_LIMIT = 50
MAX_LIMIT = 200


@dataclass(frozen=True)
class PageRequest:
    """`limit` objects of a kind of /sync, from position `start` on."""

    kind: str
    start: int
    limit: int


def read_page_request(kind: str, arguments: Mapping[str, str]) -> PageRequest:
    """Raises RefusedError (400) for a bad limit or cursor, and for a filter: the stand-in has none."""
    if others := sorted(set(arguments) - {"cursor", "limit"}):
        raise RefusedError(invalid_argument(others[0], "cursor or limit, all that the stand-in knows"))
    limit = arguments.get("limit", str(DEFAULT_LIMIT))
    if not limit.isdecimal() or not 1 <= int(limit) <= MAX_LIMIT:
        raise RefusedError(invalid_argument("limit", f"a whole number from 1 to {MAX_LIMIT}"))
    return PageRequest(kind, _start(kind, arguments.get("cursor")), int(limit))


def page(values: Sequence[Any], request: PageRequest) -> Mapping[str, Any]:
    """The objects asked for, and the cursor of those that follow, if any do."""
    end = request.start + request.limit
    cursor = _cursor(request.kind, end) if end < len(values) else None
    results = [_as_read(value) for value in values[request.start : end]]
    return {"results": results, "next_cursor": cursor}


def _as_read(value: Any) -> Any:
    """An object of /sync as a read shows it: the place of a label has another name there."""
    if not isinstance(value, dict) or "item_order" not in value:
        return value
    return {"order" if key == "item_order" else key: each for key, each in value.items()}


def _cursor(kind: str, start: int) -> str:
    return urlsafe_b64encode(f"{kind} {start}".encode()).decode()


def _start(kind: str, cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        of, start = urlsafe_b64decode(cursor).decode().split(" ")
        if of == kind:
            return int(start)
    except ValueError:
        pass
    raise RefusedError(invalid_argument("cursor", "the next_cursor of an answer from here"))
