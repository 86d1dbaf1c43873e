"""Faults of Todoist's /sync, one per call."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Literal, Self

from local.faulty_http import Reply, json_reply, text_reply
from local.todoist.replies import LIMITS_REACHED_MESSAGE, invalid_token, limits_reached, unauthorized

HTML = "text/html; charset=utf-8"
SAMPLE_ITEM: Mapping[str, Any] = {
    "id": "6fault0000000000",
    "user_id": "1",
    "project_id": "6fault0000000001",
    "content": "Sample",
    "description": "",
    "labels": [],
    "priority": 1,
    "due": None,
    "duration": {"amount": 30, "unit": "minute"},
    "added_by_uid": "1",
    "responsible_uid": None,
    "checked": False,
    "is_deleted": False,
    "updated_at": None,
}

GATEWAY_PHRASES: Mapping[int, str] = {
    520: "Web Server Returned an Unknown Error",
    521: "Web Server Is Down",
    522: "Connection Timed Out",
    523: "Origin Is Unreachable",
    524: "A Timeout Occurred",
}
"""Statuses of Cloudflare, which are not in HTTP's registry."""


class FaultKind(StrEnum):
    """The kinds of faults; each value is also the name of a constructor of `Fault`."""

    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    INVALID_TOKEN = "invalid_token"
    SLOW = "slow"
    DISCONNECT = "disconnect"
    TRUNCATED_JSON = "truncated_json"
    DEEP_JSON = "deep_json"
    HTML_PAGE = "html_page"
    EMPTY_OBJECT = "empty_object"
    NULL_ITEMS = "null_items"
    ITEM_WITHOUT_ID = "item_without_id"
    WRONG_PRIORITY = "wrong_priority"
    SAME_ITEM_TWICE = "same_item_twice"
    UNREADABLE_ITEM = "unreadable_item"
    FLOAT_NUMBERS = "float_numbers"
    EMPTY_SYNC_TOKEN = "empty_sync_token"
    UNEXPECTED_FULL_SYNC = "unexpected_full_sync"
    NO_FULL_SYNC = "no_full_sync"


@dataclass(frozen=True)
class Fault:
    """A fault of one /sync call; use the constructors below.

    delay_s, body_delay_s: see `Reply`. Any fault can be delayed: `replace(Fault.server_error(503), delay_s=0.2)`.
    """

    kind: FaultKind
    status: int = 200
    retry_after: int = 66
    header: Literal["seconds", "date", "none"] = "seconds"
    header_after: int | None = None
    body: Literal["json", "text"] = "json"
    priority: int = 0
    in_body: bool = False
    depth: int = 0
    delay_s: float = 0.0
    body_delay_s: float = 0.0

    @classmethod
    def rate_limited(
        cls,
        retry_after: int = 66,
        *,
        header: Literal["seconds", "date", "none"] = "seconds",
        header_after: int | None = None,
        body: Literal["json", "text"] = "json",
    ) -> Self:
        """A 429 response with `retry_after` seconds in the body, and in the header the same or `header_after`.

        header: the format of Retry-After; "none" omits it.
        body: "text" for plain text instead of JSON.
        """
        return cls(
            FaultKind.RATE_LIMITED,
            429,
            retry_after=retry_after,
            header=header,
            header_after=header_after,
            body=body,
        )

    @classmethod
    def server_error(cls, status: int = 503) -> Self:
        """A response with an HTML page and a status that passes: 408, 425, 500, 502 to 504, or 520 to 524."""
        return cls(FaultKind.SERVER_ERROR, status)

    @classmethod
    def invalid_token(cls, status: Literal[401, 403] = 403) -> Self:
        """A 403 response AUTH_INVALID_TOKEN or a 401 response UNAUTHORIZED, although the token is valid.

        At the rate 1 it is an outage in which Todoist refuses all users.
        """
        return cls(FaultKind.INVALID_TOKEN, status)

    @classmethod
    def slow(cls, delay_s: float = 0.0, body_delay_s: float = 0.0) -> Self:
        """The correct answer, with a delay before the headers or between the halves of the body."""
        return cls(FaultKind.SLOW, delay_s=delay_s, body_delay_s=body_delay_s)

    @classmethod
    def disconnect(cls, *, in_body: bool = False) -> Self:
        """The connection is closed before the headers, or in the middle of the body."""
        return cls(FaultKind.DISCONNECT, 200 if in_body else 0, in_body=in_body)

    @classmethod
    def truncated_json(cls) -> Self:
        """A complete HTTP response with only the first half of the JSON."""
        return cls(FaultKind.TRUNCATED_JSON)

    @classmethod
    def deep_json(cls, depth: int = 200_000) -> Self:
        """An answer with a label that is nested `depth` times, more than a JSON parser can follow."""
        return cls(FaultKind.DEEP_JSON, depth=depth)

    @classmethod
    def html_page(cls) -> Self:
        """A 200 response with an HTML page."""
        return cls(FaultKind.HTML_PAGE)

    @classmethod
    def empty_object(cls) -> Self:
        """The body `{}`."""
        return cls(FaultKind.EMPTY_OBJECT)

    @classmethod
    def null_items(cls) -> Self:
        """An answer with `"items": null`."""
        return cls(FaultKind.NULL_ITEMS)

    @classmethod
    def item_without_id(cls) -> Self:
        """An answer without the id of its first item."""
        return cls(FaultKind.ITEM_WITHOUT_ID)

    @classmethod
    def wrong_priority(cls, priority: int = 0) -> Self:
        """An answer with a first item whose priority is outside 1..4."""
        return cls(FaultKind.WRONG_PRIORITY, priority=priority)

    @classmethod
    def same_item_twice(cls) -> Self:
        """An answer with its first item twice."""
        return cls(FaultKind.SAME_ITEM_TWICE)

    @classmethod
    def unreadable_item(cls) -> Self:
        """An answer without the content of its first item."""
        return cls(FaultKind.UNREADABLE_ITEM)

    @classmethod
    def float_numbers(cls) -> Self:
        """An answer whose items have 4.0 instead of 4 in all numbers."""
        return cls(FaultKind.FLOAT_NUMBERS)

    @classmethod
    def empty_sync_token(cls) -> Self:
        """An answer with `"sync_token": ""`."""
        return cls(FaultKind.EMPTY_SYNC_TOKEN)

    @classmethod
    def unexpected_full_sync(cls) -> Self:
        """A full answer to a valid sync token."""
        return cls(FaultKind.UNEXPECTED_FULL_SYNC)

    @classmethod
    def no_full_sync(cls) -> Self:
        """An answer without `full_sync`, which does not say what it is."""
        return cls(FaultKind.NO_FULL_SYNC)


def fault_from(document: Mapping[str, Any]) -> Fault:
    """Parse {"kind": name of a constructor, ...its arguments}; raises ValueError or TypeError if it is invalid."""
    arguments = dict(document)
    kind = FaultKind(arguments.pop("kind", None))
    fault: Fault = getattr(Fault, kind)(**arguments)
    return fault


def faulty_reply(fault: Fault, answer: Mapping[str, Any], now: datetime) -> Reply:
    """The reply with the fault, based on the correct answer."""
    reply = _error_reply(fault, now) or _answer_reply(fault, answer)
    return replace(reply, delay_s=fault.delay_s, body_delay_s=fault.body_delay_s)


def _error_reply(fault: Fault, now: datetime) -> Reply | None:
    """The reply of a fault that does not depend on the answer, or None."""
    match fault.kind:
        case FaultKind.RATE_LIMITED:
            return _rate_limited(fault, now)
        case FaultKind.SERVER_ERROR:
            return text_reply(_html_page(f"{fault.status} {_phrase(fault.status)}"), fault.status, HTML)
        case FaultKind.INVALID_TOKEN:
            return invalid_token() if fault.status == 403 else unauthorized()
        case FaultKind.HTML_PAGE:
            return text_reply(_html_page("Todoist"), 200, HTML)
        case _:
            return None


def _rate_limited(fault: Fault, now: datetime) -> Reply:
    seconds = fault.retry_after if fault.header_after is None else fault.header_after
    retry_at = (now + timedelta(seconds=seconds)).astimezone(UTC)
    values = {"seconds": str(seconds), "date": format_datetime(retry_at, usegmt=True)}
    headers = {} if fault.header == "none" else {"Retry_After": values[fault.header]}
    reply = limits_reached(fault.retry_after, **headers)
    if fault.body == "text":
        return replace(text_reply(LIMITS_REACHED_MESSAGE, 429), headers=reply.headers)
    return reply


def _answer_reply(fault: Fault, answer: Mapping[str, Any]) -> Reply:
    reply = json_reply(_damaged_answer(fault, answer))
    if fault.kind is FaultKind.TRUNCATED_JSON:
        return replace(reply, body=reply.body[: len(reply.body) // 2])
    if fault.kind is FaultKind.DEEP_JSON:
        nested = b"[" * fault.depth + b"]" * fault.depth
        return replace(reply, body=reply.body.removesuffix(b"}") + b', "labels": ' + nested + b"}")
    if fault.kind is FaultKind.DISCONNECT:
        return replace(reply, status=fault.status, disconnect="in_body" if fault.in_body else "before_headers")
    return reply


def _damaged_answer(fault: Fault, answer: Mapping[str, Any]) -> Mapping[str, Any]:
    match fault.kind:
        case FaultKind.EMPTY_OBJECT:
            return {}
        case FaultKind.NULL_ITEMS:
            return {**answer, "items": None}
        case FaultKind.EMPTY_SYNC_TOKEN:
            return {**answer, "sync_token": ""}
        case FaultKind.NO_FULL_SYNC:
            return _without(answer, "full_sync")
        case FaultKind.FLOAT_NUMBERS:
            return {**answer, "items": _as_floats(answer.get("items") or [dict(SAMPLE_ITEM)])}
        case FaultKind.ITEM_WITHOUT_ID:
            return _with_first_item(answer, lambda item: [_without(item, "id")])
        case FaultKind.UNREADABLE_ITEM:
            return _with_first_item(answer, lambda item: [_without(item, "content")])
        case FaultKind.WRONG_PRIORITY:
            return _with_first_item(answer, lambda item: [{**item, "priority": fault.priority}])
        case FaultKind.SAME_ITEM_TWICE:
            return _with_first_item(answer, lambda item: [item, item])
        case _:
            return answer


def _with_first_item(
    answer: Mapping[str, Any], damage: Callable[[dict[str, Any]], list[dict[str, Any]]]
) -> Mapping[str, Any]:
    """Damage the first item; without items, add a damaged sample, because an empty delta must show the fault too."""
    items = list(answer.get("items") or [])
    index = next((index for index, item in enumerate(items) if isinstance(item, dict)), None)
    if index is None:
        return {**answer, "items": items + damage(dict(SAMPLE_ITEM))}
    return {**answer, "items": items[:index] + damage(items[index]) + items[index + 1 :]}


def _without(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: field for key, field in value.items() if key != name}


def _as_floats(value: Any) -> Any:
    match value:
        case bool():
            return value
        case int():
            return float(value)
        case list():
            return [_as_floats(each) for each in value]
        case dict():
            return {key: _as_floats(each) for key, each in value.items()}
        case _:
            return value


def _phrase(status: int) -> str:
    return GATEWAY_PHRASES.get(status) or HTTPStatus(status).phrase


def _html_page(title: str) -> str:
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
