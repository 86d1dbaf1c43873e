"""The endpoints of the stand-in for Todoist, and its controls for other processes."""

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from local.faulty_http import FaultyResponse
from local.todoist.faults import fault_from
from local.todoist.pages import KINDS
from local.todoist.replies import gone
from local.todoist.requests import read_body
from local.todoist.webhooks import DeliveryFaults, RegisteredApp

if TYPE_CHECKING:
    from local.todoist import LocalTodoist

Endpoint = Callable[[Request], Awaitable[Response]]
ALL_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def build_todoist_app(todoist: "LocalTodoist") -> Starlette:
    """The ASGI application of a stand-in."""
    return Starlette(
        routes=[
            Route("/api/v1/sync", _sync(todoist), methods=["POST"]),
            *(Route(f"/api/v1/{name}", _read(todoist, name), methods=["GET"]) for name in [*KINDS, "user"]),
            Route("/oauth/authorize", _agree(todoist), methods=["GET"]),
            Route("/oauth/access_token", _exchange(todoist), methods=["POST"]),
            Route("/rest/v2/{rest:path}", _gone(todoist), methods=ALL_METHODS),
            Route("/sync/v9/{rest:path}", _gone(todoist), methods=ALL_METHODS),
            Mount("/_control", routes=_control_routes(todoist)),
        ]
    )


def _sync(todoist: "LocalTodoist") -> Endpoint:
    async def sync(request: Request) -> Response:
        arguments = read_body(request.headers.get("content-type", ""), await request.body())
        return FaultyResponse(todoist.sync(request.url.path, _token(request), arguments), todoist.now())

    return sync


def _read(todoist: "LocalTodoist", resource: str) -> Endpoint:
    async def read(request: Request) -> Response:
        arguments = dict(request.query_params)
        reply = todoist.read(request.url.path, _token(request), resource, arguments)
        return FaultyResponse(reply, todoist.now())

    return read


def _exchange(todoist: "LocalTodoist") -> Endpoint:
    async def exchange(request: Request) -> Response:
        arguments = read_body(request.headers.get("content-type", ""), await request.body())
        return FaultyResponse(todoist.exchange(request.url.path, arguments), todoist.now())

    return exchange


def _agree(todoist: "LocalTodoist") -> Endpoint:
    async def agree(request: Request) -> Response:
        try:
            return RedirectResponse(todoist.agreement(request.query_params), 302)
        except LookupError as error:
            return PlainTextResponse(str(error), 400)

    return agree


def _gone(todoist: "LocalTodoist") -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return FaultyResponse(todoist.refuse(request.url.path, _token(request), gone()), todoist.now())

    return endpoint


def _token(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _control_routes(todoist: "LocalTodoist") -> list[Route]:
    return [
        Route("/load", _control(lambda body: todoist.load(**body)), methods=["POST"]),
        Route("/advance", _control(lambda body: todoist.advance(**body)), methods=["POST"]),
        Route("/faults", _control(lambda body: _set_faults(todoist, **body)), methods=["POST"]),
        Route("/revoke", _control(lambda body: todoist.revoke(**body)), methods=["POST"]),
        Route("/authorize", _control(lambda body: {"code": todoist.authorize(**body)}), methods=["POST"]),
        Route("/register", _control(lambda body: todoist.register(RegisteredApp(**body))), methods=["POST"]),
        Route("/visit", _control(lambda body: todoist.visit(**body)), methods=["POST"]),
        Route("/deliver", _control(lambda body: {"n_requests": todoist.deliver(**body)}), methods=["POST"]),
        Route("/disturb", _control(lambda body: _disturb(todoist, **body)), methods=["POST"]),
        Route("/forget_sync_tokens", _control(lambda body: todoist.forget_sync_tokens(**body)), methods=["POST"]),
        Route("/clock", _control(lambda body: _set_clock(todoist, **body)), methods=["POST"]),
        Route("/calls", _control(lambda body: _calls(todoist, **body)), methods=["GET"]),
    ]


def _control(action: Callable[[dict[str, Any]], Any]) -> Endpoint:
    """An endpoint that calls `action` with the arguments of a JSON object or a query.

    It responds with the result as JSON, or with 400 and the error.
    """

    async def control(request: Request) -> Response:
        try:
            result = action({**request.query_params, **json.loads(await request.body() or b"{}")})
        except (LookupError, TypeError, ValueError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({} if result is None else result)

    return control


def _set_faults(
    todoist: "LocalTodoist", faults: list[dict[str, Any]], user: str | None = None, rate: float | None = None
) -> None:
    """Queue faults for one user, or set faults at a rate for all users."""
    if (user is None) == (rate is None):
        raise ValueError("faults need either a user or a rate: give exactly one of them")
    parsed = [fault_from(fault) for fault in faults]
    if user is not None:
        todoist.fail(user, *parsed)
    elif rate is not None:
        todoist.fail_at_rate(rate, *parsed)


def _disturb(
    todoist: "LocalTodoist", cut_off_until: str | None = None, max_delay_s: float = 2700.0, **shares: float
) -> None:
    """Set the faults of deliveries, with shares from 0 to 1, and the instant until which none arrives."""
    faults = DeliveryFaults(**shares, max_delay=timedelta(seconds=max_delay_s))
    todoist.disturb(faults, datetime.fromisoformat(cut_off_until) if cut_off_until else None)


def _set_clock(todoist: "LocalTodoist", at: str) -> dict[str, str]:
    todoist.set_clock(datetime.fromisoformat(at))
    return {"at": todoist.now().isoformat()}


def _calls(todoist: "LocalTodoist", count: str = "0") -> list[dict[str, Any]] | dict[str, Any]:
    """All calls; with count=1, only their number, in total and by user."""
    calls = list(todoist.calls)
    if count != "1":
        return [{**asdict(call), "at": call.at.isoformat()} for call in calls]
    return {"count": len(calls), "by_user": Counter(call.user for call in calls if call.user is not None)}
