"""The HTTP routes of the service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qs
from uuid import UUID

import orjson
from fastapi import Depends, FastAPI, Path, Query
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import Scope

from contexts.assembly.model import UserContext
from contexts.user_ids import MAX_USER_ID_CHARS, check_user_id
from serving.api_page import api_page
from serving.auth import BearerAuth
from serving.batcher import Overloaded
from serving.connect import CALLBACK_ROUTE, Connector, ConnectOutcome, failure
from serving.decide import Answer
from serving.events import EVENTS_ROUTE
from serving.fast_path import TipFastPath
from serving.gate import Gate, Lane
from serving.learn import Learner, ReactionConflict, UnknownDecision
from serving.limits import GateLimits
from serving.metrics import Metrics
from serving.pools import DATABASE_ERRORS, VALUE_ERRORS, OutageLog
from serving.problems import Problem, ProblemHandlers, add_problem_handlers, error_responder, openapi_problems
from serving.readiness import Readiness, database_problem
from serving.recommend import NoContext, Recommender, UnknownUser
from serving.routes import RouteTable
from serving.store import ContextSource, KnownBy, LLMStatus
from tips.served import ServedTip

_T = TypeVar("_T")

UserId = Annotated[str, Path(max_length=MAX_USER_ID_CHARS)]


class TipAnswer(BaseModel):
    """A tip and its origin."""

    decision_id: UUID = Field(description="Id for the reaction to this tip.")
    tip: ServedTip
    source: ContextSource = Field(
        description="The context of the tip. stored: assembled earlier; inline: assembled for this request;"
        " stale: older than the SLA, because it could not be assembled again; none: no context can be used."
    )
    age_seconds: float | None = Field(
        description="Seconds since the instant as of which the user's tasks are known; null without a context."
    )
    known_by: KnownBy = Field(
        description="What tells that instant. fetch: the last fetch; events: Todoist's webhooks, which report changes"
        " and have reported none since."
    )
    llm: LLMStatus = Field(
        description="called: the LLM wrote candidates while this request waited; skipped: candidates that it wrote"
        " before were used; fallback: there are none, because the LLM is still writing, could not be used or is not"
        " configured, or because there is no context."
    )
    context_hash: str | None
    policy_version: str


class ReactionBody(BaseModel):
    """A user's reaction to a tip."""

    reaction: Literal["accepted", "done", "snoozed", "dismissed", "ignored"]
    user_id: str | None = Field(None, description="If given, a decision of a different user is answered with 404.")


class ReactionAnswer(BaseModel):
    """The stored reaction: the first one, except that any replaces `ignored` and `done` replaces any."""

    decision_id: UUID
    reaction: str
    is_news: bool = Field(description="Whether this request changed the stored reaction; false if it is sent twice.")


class ConnectAnswer(BaseModel):
    """The address for a user who connects a Todoist account."""

    url: str = Field(description="A page of Todoist: send the user's browser there.")
    expires_at: datetime = Field(description="From then on the address is of no use.")


class ContextAnswer(BaseModel):
    """A user's stored context, before it is sanitized for a prompt."""

    context: UserContext
    context_hash: str
    age_seconds: float
    known_by: KnownBy
    is_fresh: bool


@dataclass(frozen=True)
class Endpoints:
    """The work of each route. A method returns the body of the response as JSON, unless it says otherwise.

    Raises Problem and the exceptions in `_HANDLERS`.
    """

    recommender: Recommender
    learner: Learner
    metrics: Metrics
    readiness: Readiness
    connector: Connector
    connected_url: str | None = None
    outage: OutageLog = field(default_factory=OutageLog)

    async def tip(self, user_id: str) -> tuple[bytes, UUID]:
        """A tip for a user, with the id of its decision; counts and times the request."""
        started_at = time.perf_counter()
        _check_user_id(user_id)
        answer = await self._from_database(self.recommender.tip(user_id))  # it keeps within the budget by itself
        decision = answer.decision
        self.metrics.answered(decision.source, decision.llm, decision.origin, time.perf_counter() - started_at)
        return _body(answer), decision.decision_id

    async def context(self, user_id: str) -> bytes:
        """The stored context, its hash and its age."""
        _check_user_id(user_id)
        stored, user = await self._in_time(self.recommender.context(user_id))
        now = self.recommender.clock()
        return orjson.dumps(
            {
                "context": orjson.Fragment(stored.context_json),
                "context_hash": stored.context_hash,
                "age_seconds": (now - (user.known_as_of or stored.materialized_at)).total_seconds(),
                "known_by": user.known_by,
                "is_fresh": user.is_fresh(now, self.recommender.timing.sla),
            }
        )

    async def reaction(self, decision_id: UUID, body: ReactionBody) -> bytes:
        """Store a reaction to a tip."""
        stored = await self._in_time(self.learner.react(decision_id, body.reaction, body.user_id))
        return orjson.dumps(
            {"decision_id": stored.decision_id, "reaction": stored.reaction, "is_news": stored.is_news}
        )

    async def remove(self, user_id: str) -> None:
        """Erase a user: in Postgres at once, in the Parquet files by the next pipeline run."""
        _check_user_id(user_id)
        if not await self._in_time(self.recommender.store.remove_user(user_id)):
            raise UnknownUser

    async def connect(self, user_id: str) -> bytes:
        """The address for a user who connects a Todoist account."""
        _check_user_id(user_id)
        url, expires_at = await self._in_time(self.connector.start(user_id))
        return orjson.dumps({"url": url, "expires_at": expires_at})

    def admit_callback(self, scope: Scope) -> None:
        """Raise Problem 400 for a callback without a state that this service signed."""
        states = parse_qs(scope["query_string"].decode("latin-1")).get("state", [])
        self.connector.check(states[0] if len(states) == 1 else "")

    async def callback(self, state: str, code: str | None) -> Response:
        """The end of the flow: a redirect to the product, or a plain page, or a Problem if nothing was connected."""
        outcome: ConnectOutcome = await self._in_time(self.connector.complete(self.connector.check(state), code))
        if self.connected_url is not None:
            return RedirectResponse(_with_outcome(self.connected_url, outcome), 303, _PRIVATE_PAGE)
        if outcome != "connected":
            raise failure(outcome)
        return PlainTextResponse("Todoist is connected. You can close this page.\n", headers=_PRIVATE_PAGE)

    async def ready(self) -> None:
        """Raise Problem 503 unless the database can serve a request for a tip."""
        try:
            await self.readiness.check()
        except Exception:
            self.metrics.ready.set(0)
            raise
        self.metrics.ready.set(1)

    async def _in_time(self, work: Awaitable[Any]) -> Any:
        """The result of `work`; raises Problem 503 if the database does not answer within a request's budget."""

        async def bounded() -> Any:
            async with asyncio.timeout(self.recommender.timing.budget_s):
                return await work

        return await self._from_database(bounded())

    async def _from_database(self, work: Awaitable[_T]) -> _T:
        """The result of `work`; raises Problem 503 if the database does not answer."""
        try:
            result = await work
        except VALUE_ERRORS:
            raise  # a fault of the program: the database did answer
        except DATABASE_ERRORS as error:
            self.outage.failed(error)
            raise database_problem() from None
        self.outage.succeeded()
        return result


def build_app(
    recommender: Recommender,
    learner: Learner,
    auth: BearerAuth,
    metrics: Metrics,
    readiness: Readiness,
    connector: Connector,
    *,
    undelivered: Callable[[UUID], None],
    limits: GateLimits,
    connected_url: str | None,
    event_lane: Lane | None,
) -> Gate:
    """The service as an ASGI app.

    undelivered: called for a logged decision whose answer could not be sent.
    connected_url: the address to which users are sent after they connected an account; None for a plain page.
    event_lane: answers Todoist's webhooks; None if their endpoint is absent.
    """
    endpoints = Endpoints(recommender, learner, metrics, readiness, connector, connected_url)
    routes = _routes(endpoints, has_events=event_lane is not None)
    fast_path = TipFastPath(routes, endpoints.tip, undelivered)
    lanes = {
        CALLBACK_ROUTE: Lane(routes, endpoints.admit_callback, _CALLBACK_LIMITS),
        EVENTS_ROUTE: event_lane or Lane(routes, _admit_none, limits),
    }
    return Gate(fast_path, RouteTable(routes.routes), auth, metrics, limits, error_responder(_HANDLERS), lanes)


def _routes(endpoints: Endpoints, *, has_events: bool) -> FastAPI:
    app = FastAPI(
        title="Tips",
        description="Short tips for users, chosen by their open tasks and reactions.",
        version="1",
        redirect_slashes=False,  # the address of a redirect would be taken from the Host header
        docs_url=None,  # those pages load their programs from other servers
        redoc_url=None,
    )
    add_problem_handlers(app, _HANDLERS)
    _add_user_routes(app, endpoints)
    _add_todoist_routes(app, endpoints, has_events=has_events)
    _add_platform_routes(app, endpoints)
    return app


def _add_user_routes(app: FastAPI, endpoints: Endpoints) -> None:
    """Add the routes of tips, contexts and reactions."""

    # TipFastPath answers these requests; this route puts them into the OpenAPI document.
    @app.post("/v1/users/{user_id}/tip", response_model=TipAnswer, dependencies=_BEARER, responses=_ERRORS)
    async def tip(user_id: UserId) -> Response:
        """A tip for a user."""
        body, _ = await endpoints.tip(user_id)
        return _json(body)

    @app.get("/v1/users/{user_id}/context", response_model=ContextAnswer, dependencies=_BEARER, responses=_ERRORS)
    async def context(user_id: UserId) -> Response:
        """The stored context, before it is sanitized for a prompt, with its age and its hash."""
        return _json(await endpoints.context(user_id))

    @app.delete("/v1/users/{user_id}", status_code=204, dependencies=_BEARER, responses=_ERRORS)
    async def remove(user_id: UserId) -> Response:
        """Erase a user with tokens, contexts, tips and reactions.

        The next pipeline run erases the user's rows in the Parquet files.
        """
        await endpoints.remove(user_id)
        return Response(status_code=204)

    @app.post(
        "/v1/decisions/{decision_id}/reaction",
        response_model=ReactionAnswer,
        dependencies=_BEARER,
        responses=_ERRORS
        | openapi_problems(
            {400: "the body is not UTF-8", 409: "a different reaction is stored; the detail says which"}
        ),
    )
    async def reaction(decision_id: UUID, body: ReactionBody) -> Response:
        """The user's reaction to a tip; sending it twice is the same as once.

        Any reaction replaces `ignored`, and `done` replaces any. Any other second reaction gets 409.
        """
        return _json(await endpoints.reaction(decision_id, body))


def _add_todoist_routes(app: FastAPI, endpoints: Endpoints, *, has_events: bool) -> None:
    """Add the routes by which users connect their Todoist, and that of its webhooks."""

    @app.get("/v1/todoist/connect", response_model=ConnectAnswer, dependencies=_BEARER, responses=_ERRORS)
    async def connect(user_id: Annotated[str, Query(max_length=MAX_USER_ID_CHARS)]) -> Response:
        """An address of Todoist at which a user, also a new one, connects an account; it is valid for ten minutes."""
        return _json(await endpoints.connect(user_id))

    @app.get(CALLBACK_ROUTE, response_class=PlainTextResponse, responses=_CALLBACK_ERRORS)
    async def callback(state: str, code: Annotated[str | None, Query(max_length=_MAX_CODE_CHARS)] = None) -> Response:
        """The address to which Todoist sends a user who agreed, or did not; it needs no token, but a signed state."""
        return await endpoints.callback(state, code)

    # The gate has an app of its own for these requests; this route puts them into the OpenAPI document.
    @app.post(EVENTS_ROUTE, include_in_schema=has_events, response_class=Response, responses=_EVENT_ERRORS)
    async def events() -> None:
        """The address of Todoist's webhooks; it needs no token, but a signature. The answer is 200 and empty."""


def _add_platform_routes(app: FastAPI, endpoints: Endpoints) -> None:
    """Add the routes without a token: the description of the API, and those for the platform."""

    @app.get("/", include_in_schema=False)
    async def start() -> Response:
        """The start page."""
        return RedirectResponse("/docs")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """The description of the API."""
        return HTMLResponse(api_page(app.openapi()))

    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """Whether the process is alive."""
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse, responses=openapi_problems({503: _DOWN}))
    async def readyz() -> str:
        """Whether this process can choose tips: the database answers the reads of a decision and accepts writes."""
        await endpoints.ready()
        return "ready\n"

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics_page() -> Response:
        """Counters and latencies for Prometheus."""
        return Response(endpoints.metrics.render(), media_type="text/plain; version=0.0.4")


# The gate has checked the token; this dependency puts it into the OpenAPI document.
_BEARER = [Depends(HTTPBearer(auto_error=False, description="One of SERVICE_TOKENS."))]

_DOWN = "the database does not answer"
_ERRORS = openapi_problems(
    {
        401: "no valid token",
        404: "unknown",
        408: "the body was not complete in time",
        413: "the body is too large",
        422: "invalid input; the detail says where",
        503: f"{_DOWN}, or too many requests are under way",
    }
)

_CALLBACK_LIMITS = GateLimits(max_requests=16, max_body_bytes=0, body_timeout_s=1.0)
_MAX_CODE_CHARS = 512
_PRIVATE_PAGE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
_REDIRECT: dict[int | str, dict[str, Any]] = {303: {"description": "the address of TODOIST_CONNECTED_URL"}}
_CALLBACK_ERRORS = _REDIRECT | openapi_problems(
    {
        400: "the state is not from this service or has expired, or Todoist refused its code",
        403: "the user did not agree",
        409: "the user was removed or connected an account meanwhile",
        413: "a body, which this address does not take",
        422: "invalid input; the detail says where",
        503: f"Todoist or {_DOWN}, or too many callbacks are under way",
    }
)
_EVENT_ERRORS = openapi_problems(
    {401: "not signed", 408: "the body was not complete in time", 413: "the body is too large", 503: _DOWN}
)

_HANDLERS: ProblemHandlers = {
    UnknownUser: lambda _: Problem(404, "there is no such user", reason="unknown_user"),
    NoContext: lambda error: Problem(404, str(error), reason="no_context"),
    UnknownDecision: lambda _: Problem(404, "there is no such decision", reason="unknown_decision"),
    ReactionConflict: lambda error: Problem(409, str(error), reason="reaction_conflict"),
    Overloaded: lambda _: Problem(
        503,
        "the service is overloaded; try again in a few seconds",
        {"Retry-After": "2"},
        reason="overloaded",
    ),
}


def _admit_none(_: Scope) -> None:
    """Answer as for an address without a route, which is the same with and without a token."""
    raise HTTPException(404)


def _with_outcome(url: str, outcome: ConnectOutcome) -> str:
    return f"{url}{'&' if '?' in url else '?'}outcome={outcome}"


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _body(answer: Answer) -> bytes:
    decision = answer.decision
    return orjson.dumps(
        {
            "decision_id": decision.decision_id,
            "tip": orjson.Fragment(answer.tip),
            "source": decision.source,
            "age_seconds": answer.age_seconds,
            "known_by": answer.known_by,
            "llm": decision.llm,
            "context_hash": decision.context_hash,
            "policy_version": decision.policy_version,
        }
    )


def _check_user_id(user_id: str) -> None:
    try:
        check_user_id(user_id)
    except ValueError as error:
        raise Problem(422, str(error), reason="invalid_input") from None
