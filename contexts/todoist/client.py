"""Client of Todoist's API v1: `/sync`, with retries that respect the server's limits, and token renewal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, partial
from json import JSONDecodeError, dumps, loads
from math import isfinite
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from contexts.settings import TODOIST_API_URL, OAuthApp
from contexts.todoist.bounded_body import ACCEPTED_ENCODING, BadEncoding, BodyReader, BodyTooLarge, TooManyBodies
from contexts.todoist.credentials import Credentials
from contexts.todoist.large_json import loads_in_pieces, release
from contexts.todoist.markup import clean_text
from contexts.todoist.objects import as_object, object_id
from contexts.todoist.zones import zone_of

if TYPE_CHECKING:
    from ssl import SSLContext

    import httpx
    import stamina

RESOURCE_TYPES = ("items", "projects", "sections", "labels", "user")

FULL_SYNC_TOKEN = "*"  # noqa: S105  # not a secret
"""The sync token that requests all data."""

_MAX_ATTEMPTS = 3
_MAX_BACKOFF_S = 10
_MAX_CONNECT_S = 10.0
_RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 525)})
_GRANTS = {"refresh_token": "refresh token", "authorization_code": "authorization code"}
_OAUTH_APP_ERRORS = ("invalid_client", "unauthorized_client", "unsupported_grant_type")
_LARGE_BYTES = 64 * 2**10  # a larger body is parsed in a thread
_WAIT_FOR_OTHERS_S = 2.0
_MAX_INTEGER_DIGITS = 300  # more digits than any value of Todoist's, and few enough for a float


MAX_RESPONSE_BYTES = 128 * 2**20
"""Several times the largest accounts; a parsed document takes about ten times as much memory."""

_T = TypeVar("_T")


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


class ResponseUnreadable(TodoistError):
    """One user's response cannot be read, and another attempt would not change that: it is too deep or too large."""


class RequestRefused(TodoistError):
    """Todoist rejects the request itself (HTTP 4xx)."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class SyncCalls:
    """The number of calls of `/sync` made so far for one user, also those that failed."""

    n_full: int = 0
    n_incremental: int = 0

    def add(self, sync_token: str) -> None:
        """Count a call with this sync token."""
        is_full = sync_token == FULL_SYNC_TOKEN
        self.n_full += is_full
        self.n_incremental += not is_full


@dataclass(frozen=True)
class AccountOwner:
    """The user of Todoist to whom an account belongs. timezone: an IANA name; None if it cannot be read."""

    todoist_user_id: str
    email: str
    timezone: str | None


@dataclass(frozen=True)
class _Response:
    """A response that was read to its end, decompressed."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class _Read(Generic[_T]):
    """The result of reading a document; it can be None, unlike an unknown sync token."""

    content: _T


class Todoist:
    """Todoist at `base_url`.

    total_timeout: seconds for all attempts of one `sync`.
    attempt_timeout: seconds for one attempt; 65 s is longer than the server's own limit of 60 s.
    concurrency: maximum number of connections.
    max_response_bytes: largest response that is read, decompressed; of all responses together about four times that.
    app: the product's OAuth app; None if tokens cannot be renewed.
    """

    def __init__(
        self,
        base_url: str = TODOIST_API_URL,
        *,
        total_timeout: float = 120.0,
        attempt_timeout: float = 65.0,
        concurrency: int = 8,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        app: OAuthApp | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.app = app
        self.concurrency = concurrency
        self._max_response_bytes = max_response_bytes
        self._total_timeout = total_timeout
        self._attempt_timeout = attempt_timeout

    @asynccontextmanager
    async def session(self, on_call: Callable[[], object] = lambda: None) -> AsyncIterator[TodoistSession]:
        """Open one pool of connections for many calls. on_call: called before each HTTP call."""
        import httpx
        import stamina

        timeout = httpx.Timeout(self._attempt_timeout, connect=min(_MAX_CONNECT_S, self._attempt_timeout))
        limits = httpx.Limits(max_connections=self.concurrency)
        headers, bodies = {"Accept-Encoding": ACCEPTED_ENCODING}, BodyReader(self._max_response_bytes)
        parser = ThreadPoolExecutor(1, "large-responses")
        attempts = partial(
            stamina.retry_context, attempts=_MAX_ATTEMPTS, timeout=self._total_timeout, wait_max=_MAX_BACKOFF_S
        )
        try:
            async with httpx.AsyncClient(
                base_url=self.base_url, timeout=timeout, limits=limits, headers=headers, verify=_ssl_context()
            ) as client:
                yield TodoistSession(
                    client, attempts, self._total_timeout, self._attempt_timeout, self.app, on_call, bodies, parser
                )
        finally:
            parser.shutdown(wait=False, cancel_futures=True)


class TodoistSession:
    """Calls over one pool of connections."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        attempts: Callable[..., AsyncIterator[stamina.Attempt]],
        total_timeout: float,
        attempt_timeout: float,
        app: OAuthApp | None,
        on_call: Callable[[], object],
        bodies: BodyReader,
        parser: ThreadPoolExecutor,
    ) -> None:
        """attempts: `stamina.retry_context` with its limits set. parser: one thread, which reads large documents."""
        self._client = client
        self._attempts = attempts
        self._total_timeout = total_timeout
        self._attempt_timeout = attempt_timeout
        self._app = app
        self._on_call = on_call
        self._bodies = bodies
        self._parser = parser

    async def sync(
        self, access_token: str, sync_token: str | None, calls: SyncCalls | None = None
    ) -> Mapping[str, Any]:
        """Return the changes since `sync_token`, or all data if it is None or unknown to Todoist.

        The document always says in `full_sync` which of the two it is. calls: counts every call, also if this raises.

        Raises TokenRefused, TodoistUnavailable, ResponseUnreadable or RequestRefused.
        """
        return await self.sync_and_read(access_token, sync_token, _unread, calls)

    async def sync_and_read(
        self,
        access_token: str,
        sync_token: str | None,
        read: Callable[[Mapping[str, Any]], _T],
        calls: SyncCalls | None = None,
    ) -> _T:
        """Return what `read` makes of the document of `sync`; the event loop goes on while it reads a large one.

        read: called in a thread if the document is large, for one large document at a time.
        """
        calls = calls or SyncCalls()
        response = await self._sync_with_retries(access_token, sync_token or FULL_SYNC_TOKEN, read, calls)
        if response is None:
            response = await self._sync_with_retries(access_token, FULL_SYNC_TOKEN, read, calls)
        if response is None:
            raise RequestRefused("Todoist refused a full sync (HTTP 400)", 400)
        return response.content

    async def beside_the_loop(self, work: Callable[[], _T]) -> _T:
        """Return what `work` returns, called in the thread that reads large documents, after those before it."""
        return await asyncio.get_running_loop().run_in_executor(self._parser, work)

    async def renew(self, credentials: Credentials) -> Credentials:
        """Exchange a refresh token, which is valid once, for new tokens: store them before their first use.

        Raises TokenRefused if there is no refresh token or Todoist rejects it, and TodoistUnavailable if Todoist
        cannot answer or there is no OAuth app.
        """
        if not credentials.refresh_token:
            raise TokenRefused("the access token was refused and there is no refresh token")
        if not self._app:
            raise TodoistUnavailable(
                "tokens cannot be renewed: TODOIST_CLIENT_ID or TODOIST_CLIENT_SECRET is not set"
            )
        tokens = await self._tokens(self._app, grant_type="refresh_token", refresh_token=credentials.refresh_token)
        return replace(tokens, refresh_token=tokens.refresh_token or credentials.refresh_token)

    async def exchange(self, code: str) -> Credentials:
        """Exchange the code that Todoist gives when a user agrees, which is valid once, for the user's tokens.

        Raises TokenRefused if Todoist rejects the code, TodoistUnavailable if it cannot answer or there is no OAuth
        app, and RequestRefused if it rejects the app.
        """
        if not self._app:
            raise TodoistUnavailable("there is no OAuth app: TODOIST_CLIENT_ID or TODOIST_CLIENT_SECRET is not set")
        return await self._tokens(self._app, grant_type="authorization_code", code=code)

    async def owner(self, access_token: str) -> AccountOwner:
        """Return the user to whom a token belongs; raises the errors of `sync`."""
        headers = {"Authorization": f"Bearer {access_token}"}
        response = await self._call("GET", "/api/v1/user", headers=headers)
        _raise_for_status(response)
        return _read_owner(_json_object(response))

    async def _tokens(self, app: OAuthApp, **grant: str) -> Credentials:
        """Return the tokens for a grant, without a refresh token if the response has none."""
        response = await self._call(
            "POST",
            "/oauth/access_token",
            data={**grant, "client_id": app.client_id, "client_secret": app.client_secret},
        )
        if response.status_code in _RETRYABLE_STATUSES:
            raise TodoistUnavailable(
                f"Todoist issues no tokens now (HTTP {response.status_code})", _retry_after(response)
            )
        if response.status_code in (400, 401, 403) and _error_body(response).get("error") not in _OAUTH_APP_ERRORS:
            raise TokenRefused(f"the {_GRANTS[grant['grant_type']]} was refused (HTTP {response.status_code})")
        if response.status_code != 200:
            raise RequestRefused(
                f"Todoist issues no tokens (HTTP {response.status_code}): check TODOIST_CLIENT_ID,"
                " TODOIST_CLIENT_SECRET and TODOIST_API_URL",
                response.status_code,
            )
        tokens = _json_object(response)
        access, refresh = tokens.get("access_token"), tokens.get("refresh_token")
        if not isinstance(access, str) or not access:
            raise TodoistUnavailable("the response to a request for tokens has no access token")
        return Credentials(access, refresh if isinstance(refresh, str) and refresh else None)

    async def _sync_with_retries(
        self, access_token: str, sync_token: str, read: Callable[[Mapping[str, Any]], _T], calls: SyncCalls
    ) -> _Read[_T] | None:
        """Return what `read` makes of the document, or None if the sync token is unknown."""
        deadline = monotonic() + self._total_timeout
        async for attempt in self._attempts(on=lambda error: _should_retry(error, deadline)):
            with attempt:
                return await self._sync_once(access_token, sync_token, read, calls)
        raise AssertionError("unreachable: the last attempt raises")

    async def _sync_once(
        self, access_token: str, sync_token: str, read: Callable[[Mapping[str, Any]], _T], calls: SyncCalls
    ) -> _Read[_T] | None:
        if not (access_token.isascii() and access_token.isprintable()):
            raise TokenRefused("the access token contains characters that no token has")
        calls.add(sync_token)
        response = await self._call(
            "POST",
            "/api/v1/sync",
            headers={"Authorization": f"Bearer {access_token}"},
            data={"sync_token": sync_token, "resource_types": dumps(RESOURCE_TYPES)},
        )
        if response.status_code == 400 and sync_token != FULL_SYNC_TOKEN:
            return None
        _raise_for_status(response)

        was_full, is_large = sync_token == FULL_SYNC_TOKEN, len(response.content) > _LARGE_BYTES

        def read_response() -> _Read[_T]:
            document = _check_document(_json_object(response), was_full=was_full)
            result = _Read(read(document))
            if is_large and result.content is not document:
                release(document)
            return result

        if is_large:
            return await self.beside_the_loop(read_response)
        return read_response()

    async def _call(self, method: str, path: str, **options: Any) -> _Response:
        """Make one call within `attempt_timeout`; httpx's own timeout only applies to each part of a response."""
        import httpx

        self._on_call()
        try:
            async with (
                asyncio.timeout(self._attempt_timeout),
                self._client.stream(method, path, **options) as response,
            ):
                encoding = response.headers.get("Content-Encoding")
                body = await self._bodies.read(response.aiter_raw(), encoding)
                return _Response(response.status_code, response.headers, body)
        except BodyTooLarge as error:
            raise ResponseUnreadable(str(error)) from None
        except TooManyBodies as error:
            raise TodoistUnavailable(str(error), _WAIT_FOR_OTHERS_S) from None
        except BadEncoding as error:
            raise TodoistUnavailable(str(error)) from None
        except (httpx.HTTPError, TimeoutError) as error:
            raise TodoistUnavailable(f"no response ({type(error).__name__})") from None


@cache
def _ssl_context() -> SSLContext:
    """Return the trusted certificates. A process reads them once, because reading takes as long as ten calls."""
    import httpx

    return httpx.create_ssl_context()


def _unread(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return document


def _should_retry(error: Exception, deadline: float) -> bool | float:
    """Return False for no retry, True for stamina's backoff, or the server's wait in seconds if it ends in time.

    deadline: end of all attempts, in seconds of `time.monotonic`.
    """
    if not isinstance(error, TodoistUnavailable):
        return False
    if error.retry_after is None:
        return True
    return error.retry_after if monotonic() + error.retry_after < deadline else False


def _raise_for_status(response: _Response) -> None:
    status = response.status_code
    if status == 200:
        return
    if status == 401 or (status == 403 and _error_body(response).get("error_tag") == "AUTH_INVALID_TOKEN"):
        raise TokenRefused(f"the access token was refused (HTTP {status})")
    if status in _RETRYABLE_STATUSES:
        raise TodoistUnavailable(f"HTTP {status}", _retry_after(response))
    raise RequestRefused(f"HTTP {status}", status)


def _check_document(document: Mapping[str, Any], *, was_full: bool) -> Mapping[str, Any]:
    """Return the document if it has the fields that a mirror depends on; raise TodoistUnavailable if not.

    was_full: whether all data were requested, which decides if the response does not say what it is.
    """
    is_full = document.get("full_sync", was_full)
    if not isinstance(document.get("items"), list) or not isinstance(is_full, bool):
        raise TodoistUnavailable("the response has no items, or does not say whether they are all")
    return {**document, "full_sync": is_full}


def _read_owner(user: Mapping[str, Any]) -> AccountOwner:
    """Read Todoist's user object, which can also hold the user's own token."""
    owner_id = object_id(user)
    if owner_id is None:
        raise TodoistUnavailable("the response does not say whose token it is")
    return AccountOwner(owner_id, clean_text(user.get("email")), zone_of(as_object(user.get("tz_info"))))


def _json_object(response: _Response) -> Mapping[str, Any]:
    """Return the body; TodoistUnavailable if it is not a JSON object, ResponseUnreadable if the parser gives up."""
    try:
        document = _loads(response.content)
    except (JSONDecodeError, UnicodeDecodeError):
        raise TodoistUnavailable(f"HTTP {response.status_code}, but the body is not JSON") from None
    except (RecursionError, MemoryError, ValueError) as error:
        raise ResponseUnreadable(
            f"HTTP {response.status_code}, but the body exhausts the JSON parser ({type(error).__name__})"
        ) from None
    if not isinstance(document, dict):
        raise TodoistUnavailable(f"HTTP {response.status_code}, but the body is not a JSON object")
    return document


def _loads(body: bytes) -> Any:
    if len(body) <= _LARGE_BYTES:
        return loads(body, parse_int=_parse_integer)
    return loads_in_pieces(body, _parse_integer)


def _parse_integer(digits: str) -> float:
    """Return an integer, or infinity if it has too many digits: then only the item that contains it is invalid."""
    return int(digits) if len(digits) <= _MAX_INTEGER_DIGITS else float("inf")


def _error_body(response: _Response) -> Mapping[str, Any]:
    try:
        return _json_object(response)
    except (TodoistUnavailable, ResponseUnreadable):
        return {}


def _retry_after(response: _Response) -> float | None:
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
