"""The client of Todoist's API v1: `/sync`, with retries that respect the server, and the renewal of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from json import dumps
from math import isfinite
from time import monotonic
from typing import Any

import httpx
import stamina

API_URL = "https://api.todoist.com"
RESOURCE_TYPES = ("items", "projects", "sections", "labels", "user")
EVERYTHING = "*"
_TRIES = 3
_RETRIED = frozenset({429, 500, 502, 503, 504})


class TodoistError(Exception):
    """Todoist gave no usable answer. Messages never hold a token or a text."""


class TokenRefused(TodoistError):
    """Todoist does not accept the access token: the user has to reconnect."""


class TodoistUnavailable(TodoistError):
    """Todoist could not be reached, was busy or answered nonsense, three times."""

    def __init__(self, what: str, retry_after: float | None = None) -> None:
        """retry_after: seconds that the server asked to wait."""
        super().__init__(what)
        self.retry_after = retry_after


class RequestRefused(TodoistError):
    """Todoist refused the request itself (HTTP 4xx)."""

    def __init__(self, what: str, status: int) -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True)
class SyncAnswer:
    """An answer of `/sync`, with the calls that it took."""

    document: Mapping[str, Any]
    n_full: int
    n_incremental: int


@dataclass(frozen=True)
class Credentials:
    """A user's tokens; older apps and personal tokens have no refresh token."""

    access_token: str
    refresh_token: str | None = None

    def __repr__(self) -> str:
        return "Credentials(...)"


@dataclass(frozen=True)
class OAuthApp:
    """The product's own app at Todoist, needed to renew access tokens."""

    client_id: str
    client_secret: str

    def __repr__(self) -> str:
        return "OAuthApp(...)"


class Todoist:
    """Todoist at `base_url`. patience: seconds that one user's tries may take in all; read_timeout: of one try.

    65 s let the server's own limit of 60 s speak first; the request path passes far less.
    """

    def __init__(
        self,
        base_url: str = API_URL,
        *,
        patience: float = 120.0,
        read_timeout: float = 65.0,
        concurrency: int = 8,
        app: OAuthApp | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.app = app
        self.concurrency = concurrency
        self._patience = patience
        self._try_seconds = read_timeout
        self._timeout = httpx.Timeout(read_timeout, connect=min(10.0, read_timeout))

    @asynccontextmanager
    async def session(self, asked: Callable[[], object] = lambda: None) -> AsyncIterator[TodoistSession]:
        """One pool of connections for many calls. asked: told of each call, however it ends."""
        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(base_url=self.base_url, timeout=self._timeout, limits=limits) as client:
            yield TodoistSession(client, self._patience, self._try_seconds, self.app, asked)


class TodoistSession:
    """Calls over one pool of connections."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        patience: float,
        try_seconds: float,
        app: OAuthApp | None,
        asked: Callable[[], object],
    ) -> None:
        self._client = client
        self._asked = asked
        self._patience = patience
        self._try_seconds = try_seconds
        self._app = app

    async def sync(self, access_token: str, sync_token: str | None) -> SyncAnswer:
        """What changed since `sync_token`, or everything without one (or when Todoist does not know it any more).

        Raises TokenRefused, TodoistUnavailable or RequestRefused.
        """
        asked = sync_token or EVERYTHING
        document, n_calls = await self._sync(access_token, asked)
        if document is not None:
            is_full = asked == EVERYTHING
            return SyncAnswer(document, n_calls if is_full else 0, 0 if is_full else n_calls)
        again, n_full = await self._sync(access_token, EVERYTHING)
        if again is None:
            raise RequestRefused("Todoist refused a full sync (HTTP 400)", 400)
        return SyncAnswer(again, n_full, n_calls)

    async def renew(self, credentials: Credentials) -> Credentials:
        """New tokens for a refresh token, which is used up by it: store the answer before using it.

        Raises TokenRefused when there is nothing to renew with, or Todoist does not accept it; TodoistUnavailable
        when it cannot say.
        """
        if not credentials.refresh_token:
            raise TokenRefused("the access token was refused and there is no refresh token")
        if not self._app:
            raise TodoistUnavailable("tokens cannot be renewed: TODOIST_CLIENT_ID and _SECRET are not set")
        answer = await self._post(
            "/oauth/access_token",
            data={
                "grant_type": "refresh_token",
                "refresh_token": credentials.refresh_token,
                "client_id": self._app.client_id,
                "client_secret": self._app.client_secret,
            },
        )
        if answer.status_code in _RETRIED:
            raise TodoistUnavailable(
                f"tokens cannot be renewed now (HTTP {answer.status_code})", _retry_after(answer)
            )
        if answer.status_code != 200:
            raise TokenRefused(f"the refresh token was refused (HTTP {answer.status_code})")
        given = _json(answer)
        access, refresh = given.get("access_token"), given.get("refresh_token")
        if not isinstance(access, str) or not access:
            raise TodoistUnavailable("an answer without an access token")
        return Credentials(access, refresh if isinstance(refresh, str) and refresh else credentials.refresh_token)

    async def _sync(self, access_token: str, sync_token: str) -> tuple[Mapping[str, Any] | None, int]:
        """The document (None for a sync token that is not known) and the number of calls made."""
        n_calls, until = 0, monotonic() + self._patience
        async for attempt in stamina.retry_context(
            on=lambda error: _backoff(error, until), attempts=_TRIES, timeout=self._patience, wait_max=10
        ):
            with attempt:
                n_calls += 1
                return await self._try(access_token, sync_token), n_calls
        raise AssertionError("unreachable: the last attempt raises")

    async def _try(self, access_token: str, sync_token: str) -> Mapping[str, Any] | None:
        if not (access_token.isascii() and access_token.isprintable()):
            raise TokenRefused("the access token holds letters that no token has")
        answer = await self._post(
            "/api/v1/sync",
            headers={"Authorization": f"Bearer {access_token}"},
            data={"sync_token": sync_token, "resource_types": dumps(RESOURCE_TYPES)},
        )
        if answer.status_code == 400 and sync_token != EVERYTHING:
            return None
        _refuse_status(answer)
        return _complete(_json(answer))

    async def _post(self, path: str, **options: Any) -> httpx.Response:
        """One call, whole within the time of one try: httpx's own timeout is for each piece of an answer."""
        self._asked()
        try:
            async with asyncio.timeout(self._try_seconds):
                return await self._client.post(path, **options)
        except (httpx.HTTPError, TimeoutError) as error:
            raise TodoistUnavailable(f"no answer ({type(error).__name__})") from None


def _backoff(error: Exception, until: float) -> bool | float:
    """Retry what may pass: after the time that the server asked for if that is before `until`, else with jitter."""
    if not isinstance(error, TodoistUnavailable):
        return False
    if error.retry_after is None:
        return True
    return error.retry_after if monotonic() + error.retry_after < until else False


def _refuse_status(answer: httpx.Response) -> None:
    status = answer.status_code
    if status == 200:
        return
    if status == 401 or (status == 403 and _tag(answer) == "AUTH_INVALID_TOKEN"):
        raise TokenRefused(f"the access token was refused (HTTP {status})")
    if status in _RETRIED:
        raise TodoistUnavailable(f"HTTP {status}", _retry_after(answer))
    raise RequestRefused(f"HTTP {status}", status)


def _complete(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The document, if it can be trusted to replace or change a mirror."""
    if not isinstance(document.get("items"), list) or not isinstance(document.get("full_sync"), bool):
        raise TodoistUnavailable("an answer without items")
    return document


def _json(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        raise TodoistUnavailable(f"HTTP {answer.status_code} that is not JSON") from None
    if not isinstance(document, dict):
        raise TodoistUnavailable(f"HTTP {answer.status_code} that is not an object")
    return document


def _error_body(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        return _json(answer)
    except TodoistUnavailable:
        return {}


def _tag(answer: httpx.Response) -> object:
    return _error_body(answer).get("error_tag")


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds to wait: the larger of header (seconds or a date) and body."""
    extra = _error_body(answer).get("error_extra")
    asked = [_seconds(answer.headers.get("Retry-After"))]
    if isinstance(extra, dict):
        asked.append(_seconds(extra.get("retry_after")))
    known = [seconds for seconds in asked if seconds is not None]
    return max(known, default=None)


def _seconds(value: object) -> float | None:
    try:
        seconds = float(value)  # type: ignore[arg-type]
        return max(0.0, seconds) if isfinite(seconds) else None
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        until = parsedate_to_datetime(str(value))
    except (ValueError, OverflowError):
        return None
    return max(0.0, (until - datetime.now(UTC)).total_seconds()) if until.tzinfo else None
