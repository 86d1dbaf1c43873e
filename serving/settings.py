"""What the service is told by its environment."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from contexts.settings import SharedSettings, split_commas

_SHORTEST_TOKEN = 16


class ServingSettings(SharedSettings):
    """What the request path needs beside the database and the keys; a field is the variable of the same name."""

    service_tokens: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        min_length=1,
        description="Bearer tokens of the callers, comma-separated, several while one is rotated out."
        " Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
    )
    serving_host: str = Field("127.0.0.1", description="Address to listen on.")
    serving_port: int = Field(8100, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    todoist_timeout: float = Field(
        3.0, gt=0, le=600, description="Seconds that one inline assembly may wait for Todoist."
    )
    revalidate_after: timedelta = Field(
        timedelta(hours=5),
        ge=timedelta(0),
        description="Contexts older than this are used and refreshed behind the answer: 05:00:00.",
    )
    llm_model: str | None = Field(
        None,
        description="provider:model of pydantic-ai, such as openai:gpt-5-mini, anthropic:claude-haiku-4-5,"
        " ollama:qwen3 or openai-chat:NAME for any compatible server; none: candidates are made by rules.",
    )
    llm_timeout: float = Field(6.0, gt=0, le=600, description="Seconds for the LLM, its one repair included.")
    request_budget: float = Field(8.0, ge=1, le=600, description="Seconds that no request exceeds, whatever hangs.")
    ignored_after: timedelta = Field(
        timedelta(hours=24),
        gt=timedelta(0),
        description="A tip without a reaction for so long was ignored.",
    )
    database_connections: int = Field(8, ge=2, le=100, description="Connections to Postgres of one process.")

    @field_validator("service_tokens", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return split_commas(value)

    @field_validator("service_tokens")
    @classmethod
    def _long_enough(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(token.get_secret_value()) < _SHORTEST_TOKEN for token in value):
            raise ValueError(f"a token of fewer than {_SHORTEST_TOKEN} letters can be guessed")
        return value

    @model_validator(mode="after")
    def _revalidates_before_stale(self) -> ServingSettings:
        if self.revalidate_after > self.freshness_sla:
            raise ValueError(
                f"REVALIDATE_AFTER={self.revalidate_after} is after FRESHNESS_SLA={self.freshness_sla}:"
                " a context would be refreshed when it cannot be used any more"
            )
        return self
