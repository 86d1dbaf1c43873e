"""Client of Todoist's API v1: `/sync`, with retries that respect the server's limits, and token renewal."""

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

from contexts.settings import TODOIST_API_URL, OAuthApp
from contexts.todoist.credentials import Credentials

RESOURCE_TYPES = ("items", "projects", "sections", "labels", "user")

FULL_SYNC_TOKEN = "*"  # noqa: S105  # not a secret
"""The sync token that requests all data."""

_MAX_ATTEMPTS = 3
_MAX_BACKOFF_S = 10
_MAX_CONNECT_S = 10.0
_RETRYABLE_STATUSES = frozenset({429, 500, 502, 503, 504})


class TodoistError(Exception):
    """Todoist gave no usable response. Messages never contain a token or a user's text."""


class TokenRefused(TodoistError):
    """Todoist rejects the access token: the user has to reconnect."""


class TodoistUnavailable(TodoistError):
    """Todoist cannot be reached, is busy or returns invalid responses, after all attempts.

    retry_after: seconds to wait, if the server names them.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RequestRefused(TodoistError):
    """Todoist rejects the request itself (HTTP 4xx)."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class SyncResponse:
    """A response of `/sync`, with the number of full and incremental calls that it took."""

    document: Mapping[str, Any]
    n_full: int
    n_incremental: int


class Todoist:
    """Todoist at `base_url`.

    total_timeout: seconds for all attempts of one `sync`.
    attempt_timeout: seconds for one attempt; 65 s is longer than the server's own limit of 60 s.
    concurrency: maximum number of connections.
    app: the product's OAuth app; None if tokens cannot be renewed.
    """

    def __init__(
        self,
        base_url: str = TODOIST_API_URL,
        *,
        total_timeout: float = 120.0,
        attempt_timeout: float = 65.0,
        concurrency: int = 8,
        app: OAuthApp | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.app = app
        self.concurrency = concurrency
        self._total_timeout = total_timeout
        self._attempt_timeout = attempt_timeout

    @asynccontextmanager
    async def session(self, on_call: Callable[[], object] = lambda: None) -> AsyncIterator[TodoistSession]:
        """Open one pool of connections for many calls. on_call: called before each HTTP call."""
        timeout = httpx.Timeout(self._attempt_timeout, connect=min(_MAX_CONNECT_S, self._attempt_timeout))
        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(base_url=self.base_url, timeout=timeout, limits=limits) as client:
            yield TodoistSession(client, self._total_timeout, self._attempt_timeout, self.app, on_call)


class TodoistSession:
    """Calls over one pool of connections."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        total_timeout: float,
        attempt_timeout: float,
        app: OAuthApp | None,
        on_call: Callable[[], object],
    ) -> None:
        self._client = client
        self._total_timeout = total_timeout
        self._attempt_timeout = attempt_timeout
        self._app = app
        self._on_call = on_call

    async def sync(self, access_token: str, sync_token: str | None) -> SyncResponse:
        """Return the changes since `sync_token`, or all data if it is None or unknown to Todoist.

        Raises TokenRefused, TodoistUnavailable or RequestRefused.
        """
        requested_token = sync_token or FULL_SYNC_TOKEN
        document, n_calls = await self._sync_with_retries(access_token, requested_token)
        if document is not None:
            is_full = requested_token == FULL_SYNC_TOKEN
            return SyncResponse(document, n_calls if is_full else 0, 0 if is_full else n_calls)
        full_document, n_full = await self._sync_with_retries(access_token, FULL_SYNC_TOKEN)
        if full_document is None:
            raise RequestRefused("Todoist refused a full sync (HTTP 400)", 400)
        return SyncResponse(full_document, n_full, n_calls)

    async def renew(self, credentials: Credentials) -> Credentials:
        """Exchange a refresh token for new tokens. It can be used only once: store the result before using it.

        Raises TokenRefused if there is no refresh token or Todoist rejects it, and TodoistUnavailable if Todoist
        cannot answer or there is no OAuth app.
        """
        if not credentials.refresh_token:
            raise TokenRefused("the access token was refused and there is no refresh token")
        if not self._app:
            raise TodoistUnavailable(
                "tokens cannot be renewed: TODOIST_CLIENT_ID or TODOIST_CLIENT_SECRET is not set"
            )
        response = await self._post(
            "/oauth/access_token",
            data={
                "grant_type": "refresh_token",
                "refresh_token": credentials.refresh_token,
                "client_id": self._app.client_id,
                "client_secret": self._app.client_secret,
            },
        )
        if response.status_code in _RETRYABLE_STATUSES:
            raise TodoistUnavailable(
                f"tokens cannot be renewed now (HTTP {response.status_code})", _retry_after(response)
            )
        if response.status_code != 200:
            raise TokenRefused(f"the refresh token was refused (HTTP {response.status_code})")
        tokens = _json_object(response)
        access, refresh = tokens.get("access_token"), tokens.get("refresh_token")
        if not isinstance(access, str) or not access:
            raise TodoistUnavailable("the response to a token renewal has no access token")
        return Credentials(access, refresh if isinstance(refresh, str) and refresh else credentials.refresh_token)

    async def _sync_with_retries(self, access_token: str, sync_token: str) -> tuple[Mapping[str, Any] | None, int]:
        """Return the document (None if the sync token is unknown) and the number of calls."""
        n_calls, deadline = 0, monotonic() + self._total_timeout
        async for attempt in stamina.retry_context(
            on=lambda error: _should_retry(error, deadline),
            attempts=_MAX_ATTEMPTS,
            timeout=self._total_timeout,
            wait_max=_MAX_BACKOFF_S,
        ):
            with attempt:
                n_calls += 1
                return await self._sync_once(access_token, sync_token), n_calls
        raise AssertionError("unreachable: the last attempt raises")

    async def _sync_once(self, access_token: str, sync_token: str) -> Mapping[str, Any] | None:
        if not (access_token.isascii() and access_token.isprintable()):
            raise TokenRefused("the access token contains characters that no token has")
        response = await self._post(
            "/api/v1/sync",
            headers={"Authorization": f"Bearer {access_token}"},
            data={"sync_token": sync_token, "resource_types": dumps(RESOURCE_TYPES)},
        )
        if response.status_code == 400 and sync_token != FULL_SYNC_TOKEN:
            return None
        _raise_for_status(response)
        return _check_document(_json_object(response))

    async def _post(self, path: str, **options: Any) -> httpx.Response:
        """Make one call within `attempt_timeout`; httpx's own timeout only applies to each part of a response."""
        self._on_call()
        try:
            async with asyncio.timeout(self._attempt_timeout):
                return await self._client.post(path, **options)
        except (httpx.HTTPError, TimeoutError) as error:
            raise TodoistUnavailable(f"no response ({type(error).__name__})") from None


def _should_retry(error: Exception, deadline: float) -> bool | float:
    """Return False for no retry, True for stamina's backoff, or the server's wait in seconds if it ends in time.

    deadline: end of all attempts, in seconds of `time.monotonic`.
    """
    if not isinstance(error, TodoistUnavailable):
        return False
    if error.retry_after is None:
        return True
    return error.retry_after if monotonic() + error.retry_after < deadline else False


def _raise_for_status(response: httpx.Response) -> None:
    status = response.status_code
    if status == 200:
        return
    if status == 401 or (status == 403 and _error_body(response).get("error_tag") == "AUTH_INVALID_TOKEN"):
        raise TokenRefused(f"the access token was refused (HTTP {status})")
    if status in _RETRYABLE_STATUSES:
        raise TodoistUnavailable(f"HTTP {status}", _retry_after(response))
    raise RequestRefused(f"HTTP {status}", status)


def _check_document(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the document if it has the fields that a mirror depends on; raise TodoistUnavailable if not."""
    if not isinstance(document.get("items"), list) or not isinstance(document.get("full_sync"), bool):
        raise TodoistUnavailable("the response has no items")
    return document


def _json_object(response: httpx.Response) -> Mapping[str, Any]:
    try:
        document = response.json()
    except ValueError:
        raise TodoistUnavailable(f"HTTP {response.status_code}, but the body is not JSON") from None
    if not isinstance(document, dict):
        raise TodoistUnavailable(f"HTTP {response.status_code}, but the body is not a JSON object")
    return document


def _error_body(response: httpx.Response) -> Mapping[str, Any]:
    try:
        return _json_object(response)
    except TodoistUnavailable:
        return {}


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds to wait: the larger of the header (seconds or a date) and the body, or None."""
    candidates = [_parse_seconds(response.headers.get("Retry-After"))]
    extra = _error_body(response).get("error_extra")
    if isinstance(extra, dict):
        candidates.append(_parse_seconds(extra.get("retry_after")))
    return max((seconds for seconds in candidates if seconds is not None), default=None)


def _parse_seconds(value: object) -> float | None:
    """Return the seconds from now, given a number or an HTTP date; None if the value is neither."""
    try:
        seconds = float(value)  # type: ignore[arg-type]
        return max(0.0, seconds) if isfinite(seconds) else None
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        instant = parsedate_to_datetime(str(value))
    except (ValueError, OverflowError):
        return None
    return max(0.0, (instant - datetime.now(UTC)).total_seconds()) if instant.tzinfo else None
