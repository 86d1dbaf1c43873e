"""Error responses of Todoist's API v1, as recorded or documented."""

from collections.abc import Mapping
from typing import Any

from local.faulty_http import Reply, json_reply, text_reply

LIMITS_REACHED_MESSAGE = "Too many requests. Limits reached. Try again later"


def error_body(http_code: int, tag: str, code: int, message: str, **extra: Any) -> Mapping[str, Any]:
    """The body of an error response; all of them have this structure."""
    return {
        "error": message,
        "error_code": code,
        "error_extra": extra,
        "error_tag": tag,
        "http_code": http_code,
    }


def invalid_argument(argument: str, expected: str) -> Reply:
    """A 400 response to an argument with an invalid value."""
    body = error_body(
        400, "INVALID_ARGUMENT_VALUE", 20, "Invalid argument value", argument=argument, expected=expected
    )
    return json_reply(body, 400)


def missing_argument(argument: str) -> Reply:
    """A 400 response to a missing argument."""
    body = error_body(400, "ARGUMENT_MISSING", 19, "Required argument is missing", argument=argument)
    return json_reply(body, 400)


def unauthorized() -> Reply:
    """The documented 401 response to a missing, unknown or expired access token."""
    body = error_body(401, "UNAUTHORIZED", 477, "Unauthorized", retry_after=3)
    return json_reply(body, 401, WWW_Authenticate='Bearer error="invalid_token"')


def invalid_token() -> Reply:
    """The recorded response to a revoked token: HTTP 403 with the error code 401 and a retry_after."""
    body = error_body(403, "AUTH_INVALID_TOKEN", 401, "Invalid token", access_type="none", retry_after=4)
    return json_reply(body, 403)


def limits_reached(retry_after: int, **headers: str) -> Reply:
    """The recorded 429 response to too many calls; `retry_after` in seconds."""
    body = error_body(429, "LIMITS_REACHED", 35, LIMITS_REACHED_MESSAGE, retry_after=retry_after)
    return json_reply(body, 429, **headers)


def oauth_error(error: str) -> Reply:
    """A 400 response of /oauth/access_token."""
    return json_reply({"error": error}, 400)


def gone() -> Reply:
    """The 410 response of REST v2 and Sync v9, which were removed on 2026-02-10."""
    return text_reply("This endpoint is deprecated. Use the API v1.", 410)
