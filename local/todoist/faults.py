"""The ways in which one call to Todoist's /sync can go wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Literal, Self

from local.todoist.replies import LIMITS_REACHED, invalid_token, limits_reached
from local.wire import Reply, json_reply, text_reply

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
    "checked": False,
    "is_deleted": False,
}


class FaultKind(StrEnum):
    """Each value is also the name of the constructor of `Fault` that makes it."""

    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    INVALID_TOKEN = "invalid_token"
    SLOW = "slow"
    CUT = "cut"
    TRUNCATED_JSON = "truncated_json"
    HTML_PAGE = "html_page"
    EMPTY_OBJECT = "empty_object"
    NULL_ITEMS = "null_items"
    ITEM_WITHOUT_ID = "item_without_id"
    WRONG_PRIORITY = "wrong_priority"
    SAME_ITEM_TWICE = "same_item_twice"
    EMPTY_SYNC_TOKEN = "empty_sync_token"
    UNASKED_FULL_SYNC = "unasked_full_sync"


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong with one /sync call; made by the constructors below.

    `before` and `inside` (seconds) delay any fault: `replace(Fault.server_error(503), before=0.2)`.
    """

    kind: FaultKind
    status: int = 200
    retry_after: int = 66
    header: Literal["seconds", "date", "none"] = "seconds"
    header_after: int | None = None
    body: Literal["json", "text"] = "json"
    priority: int = 0
    in_body: bool = False
    before: float = 0.0
    inside: float = 0.0

    @classmethod
    def rate_limited(
        cls,
        retry_after: int = 66,
        *,
        header: Literal["seconds", "date", "none"] = "seconds",
        header_after: int | None = None,
        body: Literal["json", "text"] = "json",
    ) -> Self:
        """429; the body says `retry_after` seconds, the header the same or `header_after`."""
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
        """500, 502, 503 or 504 with an HTML page."""
        return cls(FaultKind.SERVER_ERROR, status)

    @classmethod
    def invalid_token(cls) -> Self:
        """403 AUTH_INVALID_TOKEN, though the token is valid."""
        return cls(FaultKind.INVALID_TOKEN, 403)

    @classmethod
    def slow(cls, before: float = 0.0, inside: float = 0.0) -> Self:
        """The right answer, after `before` seconds and with `inside` seconds between its halves."""
        return cls(FaultKind.SLOW, before=before, inside=inside)

    @classmethod
    def cut(cls, *, in_body: bool = False) -> Self:
        """The connection closes with no answer at all, or in the middle of the body."""
        return cls(FaultKind.CUT, 200 if in_body else 0, in_body=in_body)

    @classmethod
    def truncated_json(cls) -> Self:
        """A complete HTTP answer that holds the first half of the JSON."""
        return cls(FaultKind.TRUNCATED_JSON)

    @classmethod
    def html_page(cls) -> Self:
        """200 with a web page."""
        return cls(FaultKind.HTML_PAGE)

    @classmethod
    def empty_object(cls) -> Self:
        """`{}`"""
        return cls(FaultKind.EMPTY_OBJECT)

    @classmethod
    def null_items(cls) -> Self:
        """`"items": null`"""
        return cls(FaultKind.NULL_ITEMS)

    @classmethod
    def item_without_id(cls) -> Self:
        """The first item lacks its id."""
        return cls(FaultKind.ITEM_WITHOUT_ID)

    @classmethod
    def wrong_priority(cls, priority: int = 0) -> Self:
        """The first item has a priority outside 1..4."""
        return cls(FaultKind.WRONG_PRIORITY, priority=priority)

    @classmethod
    def same_item_twice(cls) -> Self:
        """The first item stands there twice."""
        return cls(FaultKind.SAME_ITEM_TWICE)

    @classmethod
    def empty_sync_token(cls) -> Self:
        """`"sync_token": ""`"""
        return cls(FaultKind.EMPTY_SYNC_TOKEN)

    @classmethod
    def unasked_full_sync(cls) -> Self:
        """A full answer, `full_sync: true`, to a valid sync token."""
        return cls(FaultKind.UNASKED_FULL_SYNC)


def fault_from(document: Mapping[str, Any]) -> Fault:
    """Read {"kind": name of a constructor, ...its arguments}; ValueError or TypeError if there is no such."""
    arguments = dict(document)
    kind = FaultKind(arguments.pop("kind", None))
    fault: Fault = getattr(Fault, kind)(**arguments)
    return fault


def faulty_reply(fault: Fault, answer: Mapping[str, Any], now: datetime) -> Reply:
    """What the client gets instead of `answer`."""
    reply = _instead(fault, now) or _damaged(fault, answer)
    return replace(reply, before=fault.before, inside=fault.inside)


def _instead(fault: Fault, now: datetime) -> Reply | None:
    match fault.kind:
        case FaultKind.RATE_LIMITED:
            return _rate_limited(fault, now)
        case FaultKind.SERVER_ERROR:
            return text_reply(_page(f"{fault.status} {HTTPStatus(fault.status).phrase}"), fault.status, HTML)
        case FaultKind.INVALID_TOKEN:
            return invalid_token()
        case FaultKind.HTML_PAGE:
            return text_reply(_page("Todoist"), 200, HTML)
        case _:
            return None


def _rate_limited(fault: Fault, now: datetime) -> Reply:
    seconds = fault.retry_after if fault.header_after is None else fault.header_after
    until = (now + timedelta(seconds=seconds)).astimezone(UTC)
    value = {"seconds": str(seconds), "date": format_datetime(until, usegmt=True)}
    headers = {} if fault.header == "none" else {"Retry_After": value[fault.header]}
    reply = limits_reached(fault.retry_after, **headers)
    if fault.body == "text":
        return replace(text_reply(LIMITS_REACHED, 429), headers=reply.headers)
    return reply


def _damaged(fault: Fault, answer: Mapping[str, Any]) -> Reply:
    reply = json_reply(_damage(fault, answer))
    if fault.kind is FaultKind.TRUNCATED_JSON:
        return replace(reply, body=reply.body[: len(reply.body) // 2])
    if fault.kind is FaultKind.CUT:
        return replace(reply, status=fault.status, cut="in_body" if fault.in_body else "unanswered")
    return reply


def _damage(fault: Fault, answer: Mapping[str, Any]) -> Mapping[str, Any]:
    match fault.kind:
        case FaultKind.EMPTY_OBJECT:
            return {}
        case FaultKind.NULL_ITEMS:
            return {**answer, "items": None}
        case FaultKind.EMPTY_SYNC_TOKEN:
            return {**answer, "sync_token": ""}
        case FaultKind.ITEM_WITHOUT_ID:
            return _with_first_item(answer, lambda item: [{k: v for k, v in item.items() if k != "id"}])
        case FaultKind.WRONG_PRIORITY:
            return _with_first_item(answer, lambda item: [{**item, "priority": fault.priority}])
        case FaultKind.SAME_ITEM_TWICE:
            return _with_first_item(answer, lambda item: [item, item])
        case _:
            return answer


def _with_first_item(
    answer: Mapping[str, Any], damage: Callable[[dict[str, Any]], list[dict[str, Any]]]
) -> Mapping[str, Any]:
    """An answer without items gets a sample item, so that the fault shows in an empty delta too."""
    items = list(answer.get("items") or [])
    at = next((at for at, item in enumerate(items) if isinstance(item, dict)), None)
    if at is None:
        return {**answer, "items": items + damage(dict(SAMPLE_ITEM))}
    return {**answer, "items": items[:at] + damage(items[at]) + items[at + 1 :]}


def _page(title: str) -> str:
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
