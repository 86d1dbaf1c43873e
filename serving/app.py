"""The HTTP face of the request path."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
import orjson
from fastapi import Depends, FastAPI, Path, Request
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field
from starlette.responses import PlainTextResponse, Response

from contexts.model import UserContext
from contexts.store import is_fresh
from serving.candidates import Tip
from serving.learn import Learner, ReactionConflict, UnknownDecision
from serving.metrics import Metrics
from serving.problems import Problem, documented, explain, refusing
from serving.recommend import Answer, Recommender, Source, Spoken, UnknownUser
from serving.shortcut import Shortcut

log = logging.getLogger(__name__)

_LONGEST_ID = 256

UserId = Annotated[str, Path(max_length=_LONGEST_ID)]


class TipAnswer(BaseModel):
    """A tip, and how it came about."""

    decision_id: UUID = Field(description="To be sent back with the reaction.")
    tip: Tip
    source: Source = Field(
        description="stored: made ahead; inline: assembled now; stale: older than the SLA, Todoist could not be had;"
        " none: nothing is known of the user."
    )
    age_seconds: float | None = Field(description="Since the user's tasks were fetched; null without a context.")
    llm: Spoken = Field(
        description="called: for this answer; skipped: earlier candidates scored again; fallback: no LLM wrote it."
    )
    context_hash: str | None
    policy_version: str


class ReactionBody(BaseModel):
    """What a user made of a tip."""

    reaction: Literal["accepted", "done", "snoozed", "dismissed", "ignored"]
    user_id: str | None = Field(None, description="If given, a decision of another user is answered with 404.")


class ReactionAnswer(BaseModel):
    """What stands now: the first reaction, but `ignored` gives way to any, and any to `done`."""

    decision_id: UUID
    reaction: str
    is_news: bool = Field(description="False when it was known before: sent twice is the same as once.")


class ContextAnswer(BaseModel):
    """What an LLM would be told of a user."""

    context: UserContext
    context_hash: str
    age_seconds: float
    is_fresh: bool


class Callers:
    """Who may call: bearer tokens, kept and compared as hashes."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._digests = [_digest(token) for token in tokens]

    def check(self, authorization: str) -> None:
        """Problem 401 unless the header holds one of the tokens."""
        kind, _, token = authorization.partition(" ")
        digest = _digest(token.strip())
        if kind.lower() != "bearer" or not any(secrets.compare_digest(digest, each) for each in self._digests):
            raise Problem(
                401,
                "a service token is needed: Authorization: Bearer TOKEN, one of SERVICE_TOKENS",
                {"WWW-Authenticate": "Bearer"},
            )


@dataclass(frozen=True)
class Endpoints:
    """What each request does, as bytes of JSON; errors are those of `_TO_PROBLEM`, and Problem."""

    recommender: Recommender
    learner: Learner
    callers: Callers
    metrics: Metrics

    async def tip(self, authorization: str, user_id: str) -> bytes:
        """A tip for a user, counted and timed."""
        began = time.perf_counter()
        self.callers.check(authorization)
        _check_id(user_id)
        answer = await self._in_time(self.recommender.tip(user_id))
        self.metrics.answered(answer.source, answer.llm, time.perf_counter() - began)
        return _body(answer)

    async def context(self, user_id: str) -> bytes:
        """The context as it is stored."""
        _check_id(user_id)
        stored = await self._in_time(self.recommender.context(user_id))
        if stored is None:
            raise Problem(404, "this user has no context yet: the next night, or a request for a tip, makes one")
        now = self.recommender.clock()
        return orjson.dumps(
            {
                "context": orjson.Fragment(stored.context_json),
                "context_hash": stored.context_hash,
                "age_seconds": (now - stored.materialized_at).total_seconds(),
                "is_fresh": is_fresh(stored.materialized_at, stored.valid_until, now, self.recommender.timing.sla),
            }
        )

    async def reaction(self, decision_id: UUID, body: ReactionBody) -> bytes:
        """What a user made of a tip."""
        told = await self._in_time(self.learner.react(decision_id, body.reaction, body.user_id))
        return orjson.dumps({"decision_id": told.decision_id, "reaction": told.reaction, "is_news": told.is_news})

    async def remove(self, user_id: str) -> None:
        """Forget a user: at once in Postgres, in the Parquet by the next run of the pipeline."""
        _check_id(user_id)
        if not await self._in_time(self.recommender.store.remove_user(user_id)):
            raise UnknownUser

    async def ready(self) -> None:
        """Problem 503 unless the database answers."""
        await self._in_time(self.recommender.store.is_alive())

    async def _in_time(self, work: Awaitable[Any]) -> Any:
        """The result, or problem 503 when the database does not answer within a request's time."""
        try:
            async with asyncio.timeout(self.recommender.timing.budget):
                return await work
        except _DATABASE_DOWN as error:
            log.error("the database did not answer: %s", type(error).__name__)
            raise Problem(503, "the database did not answer; try again in a while", {"Retry-After": "5"}) from None


def build_app(recommender: Recommender, learner: Learner, callers: Callers, metrics: Metrics) -> FastAPI:
    """The service over its parts."""
    does = Endpoints(recommender, learner, callers, metrics)
    app = FastAPI(title="Tips", description=__doc__, version="1")
    app.add_middleware(Shortcut, answer=does.tip, refuse=refusing(_TO_PROBLEM))
    explain(app, _TO_PROBLEM)

    def check(request: Request) -> None:
        callers.check(request.headers.get("authorization", ""))

    bearer = Depends(HTTPBearer(auto_error=False, description="One of SERVICE_TOKENS."))
    for_callers = [bearer, Depends(check)]

    @app.post("/v1/users/{user_id}/tip", response_model=TipAnswer, dependencies=[bearer], responses=_ERRORS)
    async def tip(request: Request, user_id: UserId) -> Response:
        """A tip for a user."""
        return _json(await does.tip(request.headers.get("authorization", ""), user_id))

    @app.get("/v1/users/{user_id}/context", response_model=ContextAnswer, dependencies=for_callers, responses=_ERRORS)
    async def context(user_id: UserId) -> Response:
        """The context as it is stored: what the LLM would see, its age and its hash."""
        return _json(await does.context(user_id))

    @app.delete("/v1/users/{user_id}", status_code=204, dependencies=for_callers, responses=_ERRORS)
    async def remove(user_id: UserId) -> Response:
        """Remove a user with tokens, contexts, tips and reactions; rows of files go with the pipeline's next run."""
        await does.remove(user_id)
        return Response(status_code=204)

    @app.post(
        "/v1/decisions/{decision_id}/reaction",
        response_model=ReactionAnswer,
        dependencies=for_callers,
        responses=_ERRORS | documented({400: "no text", 409: "another reaction stands"}),
    )
    async def reaction(decision_id: UUID, body: ReactionBody) -> Response:
        """What the user made of a tip; sent twice it is the same as once."""
        return _json(await does.reaction(decision_id, body))

    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """The process is alive."""
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse, responses=documented({503: _DOWN}))
    async def readyz() -> str:
        """The database answers."""
        await does.ready()
        return "ready\n"

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics_page() -> Response:
        """Counters and latencies for Prometheus."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4")

    return app


_DOWN = "the database does not answer"
_ERRORS = documented({401: "no valid token", 404: "unknown", 422: "bad input; the answer says where", 503: _DOWN})

_DATABASE_DOWN = (
    TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError,
)  # fmt: skip

_TO_PROBLEM = {
    UnknownUser: lambda _: Problem(404, "there is no such user"),
    UnknownDecision: lambda _: Problem(404, "there is no such decision of this user"),
    ReactionConflict: lambda error: Problem(409, str(error)),
}


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _body(answer: Answer) -> bytes:
    return orjson.dumps(
        {
            "decision_id": answer.decision_id,
            "tip": orjson.Fragment(answer.tip),
            "source": answer.source,
            "age_seconds": answer.age_seconds,
            "llm": answer.llm,
            "context_hash": answer.context_hash,
            "policy_version": answer.policy_version,
        }
    )


def _check_id(user_id: str) -> None:
    if len(user_id) > _LONGEST_ID or not user_id.isprintable():
        raise Problem(422, f"user_id: up to {_LONGEST_ID} printable characters are wanted")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
