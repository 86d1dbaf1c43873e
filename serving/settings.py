"""Settings of the service, read from environment variables."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import ByteSize, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from contexts.settings import MAX_DAYS, TODOIST_API_URL, SharedSettings, split_commas
from serving.limits import ConnectionLimits, GateLimits, ShutdownTimes

_MIN_TOKEN_CHARS = 16
_TOKEN = re.compile(r"[!-~]+")

_AUTHORIZE_URL = "https://app.todoist.com/oauth/authorize"

_MIN_LLM_BUDGET_S = 1.5
"""Smallest budget of a request with an LLM: a second of it is reserved for choosing and logging."""

MIN_FINISH_S = 2.0
"""Seconds of the grace period that remain at least after the drain."""

EVALUATION_DAYS = 28
"""Days of decisions that an evaluation of policies reads."""


class ServingSettings(SharedSettings):
    """Settings of the request path, besides the database and the keys.

    Each field is the environment variable of the same name in capitals.
    """

    service_tokens: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        min_length=1,
        description="Bearer tokens of the callers, comma-separated; several while one of them is being replaced."
        " Create one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
    )
    serving_host: str = Field("127.0.0.1", description="Address to listen on.")
    serving_port: int = Field(8100, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    serving_workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that serve the port, each with limits and connections of its own: one for each core"
        " that is to answer requests. With LLM_MODEL=gguf:PATH each of them loads the model.",
    )
    todoist_timeout: float = Field(
        3.0, gt=0, le=600, description="Seconds that one assembly during a request may take."
    )
    inline_max_response: ByteSize = Field(
        ByteSize(4 * 2**20),
        ge=2**16,
        le=2**30,
        description="Largest response of Todoist that is read during a request, decompressed, such as 4MiB; larger"
        " accounts are left to the pipeline.",
    )
    revalidate_after: timedelta = Field(
        timedelta(hours=5),
        ge=timedelta(0),
        description="Age from which a context is refreshed in the background after the answer, such as 05:00:00.",
    )
    max_context_age: timedelta = Field(
        timedelta(days=7),
        gt=timedelta(0),
        description="Greatest age of a stale context that is used if Todoist does not answer, such as 168:00:00.",
    )
    llm_timeout: float = Field(
        6.0, gt=0, le=600, description="Seconds that the LLM may take, its one repair included."
    )
    llm_wait: float = Field(
        0.0,
        ge=0,
        le=600,
        description="Seconds that a request waits for new tips of the LLM; then it takes tips that are still valid or"
        " rule-based ones, and the LLM goes on behind the answer. 0: no request waits.",
    )
    llm_first_wait: float = Field(
        2.0,
        ge=0,
        le=600,
        description="Seconds that a request waits if the LLM never wrote tips for the user, unless LLM_WAIT is more.",
    )
    llm_concurrency: int = Field(
        32,
        ge=1,
        le=10_000,
        description="Calls of the LLM under way at once in one process; beyond them it writes no tips, neither in a"
        " request nor behind an answer.",
    )
    request_budget: float = Field(
        8.0,
        ge=1,
        le=600,
        description="Seconds that no request exceeds, even if Todoist, the LLM or the database hangs.",
    )
    ignored_after: timedelta = Field(
        timedelta(hours=24),
        gt=timedelta(0),
        description="Time after which a tip without a reaction counts as ignored, such as 24:00:00.",
    )
    decision_days: int = Field(
        120,
        ge=1,
        le=MAX_DAYS,
        description="Number of days that decisions are kept, with their reactions and candidates.",
    )
    llm_call_days: int = Field(
        90, ge=31, le=MAX_DAYS, description="Number of days that the usage of each call of the LLM is kept."
    )
    database_connections: int = Field(
        8,
        ge=2,
        le=100,
        description="Connections to Postgres of one process, beside six others, and a seventh for Todoist's"
        " webhooks.",
    )
    max_requests: int = Field(
        256, ge=1, le=10_000, description="Requests under way in one process; more are answered 503 at once."
    )
    max_event_requests: int = Field(
        128,
        ge=1,
        le=10_000,
        description="Deliveries of Todoist's webhooks under way in one process; more are answered 503.",
    )
    max_event_bytes: int = Field(
        262_144, ge=1024, le=16_777_216, description="Bytes of the body of one delivery of Todoist's webhooks."
    )
    todoist_connected_url: str | None = Field(
        None,
        pattern="^https?://",
        description="Address to which users are sent after they connected their Todoist, with outcome=connected, or"
        " with the reason why not; if not set, they see a plain page.",
    )
    max_connections: int = Field(
        2000, ge=1, le=100_000, description="Open HTTP connections of one process, idle ones included."
    )
    max_header_bytes: int = Field(
        16_384, ge=1024, le=1_048_576, description="Bytes of a request line with its headers."
    )
    max_body_bytes: int = Field(65_536, ge=1024, le=16_777_216, description="Bytes of a request's body.")
    headers_timeout: float = Field(
        10.0, gt=0, le=600, description="Seconds from a request's first byte to the end of its headers."
    )
    body_timeout: float = Field(10.0, gt=0, le=600, description="Seconds for a request's body.")
    keep_alive: float = Field(
        75.0,
        gt=0,
        le=3600,
        description="Seconds that a connection may be idle between requests; more than at the load balancer.",
    )
    write_timeout: float = Field(
        10.0, gt=0, le=600, description="Seconds that a client may leave its responses unread."
    )
    drain_delay: float = Field(
        2.0,
        ge=0,
        le=600,
        description="Seconds between SIGTERM, from which on /readyz answers 503, and the end of the listening socket;"
        " longer than the load balancer takes to notice.",
    )
    grace_period: float = Field(
        10.0, ge=2, le=3600, description="Seconds from SIGTERM to the end of the process, at most."
    )

    @property
    def connection_limits(self) -> ConnectionLimits:
        """The bounds of connections."""
        return ConnectionLimits(
            max_connections=self.max_connections,
            max_header_bytes=self.max_header_bytes,
            max_body_bytes=max(self.max_body_bytes, self.max_event_bytes if self.events_mode != "off" else 0),
            headers_timeout_s=self.headers_timeout,
            keep_alive_s=self.keep_alive,
            write_timeout_s=self.write_timeout,
        )

    @property
    def gate_limits(self) -> GateLimits:
        """The bounds of requests."""
        return GateLimits(self.max_requests, self.max_body_bytes, self.body_timeout)

    @property
    def event_limits(self) -> GateLimits:
        """The bounds of deliveries of Todoist's webhooks."""
        return GateLimits(
            self.max_event_requests, self.max_event_bytes, self.body_timeout, "MAX_EVENT_REQUESTS", "MAX_EVENT_BYTES"
        )

    @property
    def event_secrets(self) -> list[str]:
        """The client secrets with which deliveries may be signed; none if events are off."""
        secrets = self.todoist_client_secrets if self.events_mode != "off" else ()
        return [secret.get_secret_value() for secret in secrets]

    @property
    def authorize_url(self) -> str:
        """The page on which users agree to the OAuth app, at Todoist or at its stand-in."""
        if self.todoist_api_url == TODOIST_API_URL:
            return _AUTHORIZE_URL
        return f"{self.todoist_api_url.rstrip('/')}/oauth/authorize"

    @property
    def shutdown(self) -> ShutdownTimes:
        """The times of a shutdown."""
        return ShutdownTimes(self.drain_delay, self.grace_period)

    @field_validator("service_tokens", mode="before")
    @classmethod
    def _split_tokens(cls, value: object) -> object:
        return split_commas(value)

    @field_validator("service_tokens")
    @classmethod
    def _check_length(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(token.get_secret_value()) < _MIN_TOKEN_CHARS for token in value):
            raise ValueError(f"a token of fewer than {_MIN_TOKEN_CHARS} characters can be guessed")
        if any(not _TOKEN.fullmatch(token.get_secret_value()) for token in value):
            raise ValueError("a token contains blanks or characters outside ASCII, which no header can carry")
        return value

    @model_validator(mode="after")
    def _check_age_beyond_sla(self) -> ServingSettings:
        if self.max_context_age < self.freshness_sla:
            raise ValueError(
                f"MAX_CONTEXT_AGE={self.max_context_age} is shorter than FRESHNESS_SLA={self.freshness_sla}:"
                " fresh contexts would not be used"
            )
        return self

    @model_validator(mode="after")
    def _check_time_for_the_llm(self) -> ServingSettings:
        if self.llm_model is not None and self.request_budget < _MIN_LLM_BUDGET_S:
            raise ValueError(
                f"REQUEST_BUDGET={self.request_budget:g} leaves no time for the LLM: set at least"
                f" {_MIN_LLM_BUDGET_S:g}, or unset LLM_MODEL"
            )
        return self

    @model_validator(mode="after")
    def _check_grace_period(self) -> ServingSettings:
        if self.grace_period < self.drain_delay + MIN_FINISH_S:
            raise ValueError(
                f"GRACE_PERIOD={self.grace_period:g} leaves less than {MIN_FINISH_S:g} s after"
                f" DRAIN_DELAY={self.drain_delay:g} to finish the requests under way"
            )
        return self

    @model_validator(mode="after")
    def _check_events(self) -> ServingSettings:
        if self.events_mode != "off" and not self.todoist_client_secrets:
            raise ValueError(
                f"TODOIST_EVENTS={self.events_mode} needs TODOIST_CLIENT_SECRETS, with which Todoist signs its events"
            )
        return self

    @model_validator(mode="after")
    def _check_evaluation(self) -> ServingSettings:
        if timedelta(days=self.decision_days) < timedelta(days=EVALUATION_DAYS) + self.ignored_after:
            raise ValueError(
                f"DECISION_DAYS={self.decision_days} is shorter than IGNORED_AFTER and the {EVALUATION_DAYS} days"
                " that python -m serving.evaluate reads: decisions would be deleted before they are evaluated"
            )
        return self

    @model_validator(mode="after")
    def _check_refresh_before_sla(self) -> ServingSettings:
        if self.revalidate_after > self.freshness_sla:
            raise ValueError(
                f"REVALIDATE_AFTER={self.revalidate_after} is longer than FRESHNESS_SLA={self.freshness_sla}:"
                " a context would be refreshed only after it has become stale"
            )
        return self
