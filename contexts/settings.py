"""Every setting, read from the environment in one place."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cached_property
from typing import Annotated, Literal, TypeVar

from croniter import croniter
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contexts.todoist import API_URL, OAuthApp

NOMIC = "nomic-ai/nomic-embed-text-v1.5"
NOMIC_REVISION = "e5cf08aadaa33385f5990def41f7a23405aec398"


class SettingsError(Exception):
    """A setting is missing or wrong; the message names each and what is allowed."""


class SharedSettings(BaseSettings):
    """What the night and the request path must agree on; a field is the variable of the same name in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    freshness_sla: timedelta = Field(
        timedelta(hours=6),
        ge=timedelta(minutes=10),
        le=timedelta(days=7),
        description="How old a context may be when it is used: hours:minutes:seconds, such as 06:00:00.",
    )
    context_token_budget: int = Field(2000, ge=1000, description="Upper bound of a context's estimated tokens.")
    reaction_days: int = Field(90, ge=1, description="How far back reactions to tips are read.")
    todoist_api_url: str = Field(API_URL, pattern="^https?://", description="Todoist's API, or a stand-in for it.")
    todoist_client_id: str | None = Field(
        None, description="OAuth app, needed only for accounts with refresh tokens."
    )
    todoist_client_secret: SecretStr | None = Field(None, description="Its secret.")

    @property
    def oauth_app(self) -> OAuthApp | None:
        """The product's app at Todoist, if both its settings are there."""
        client_id, secret = self.todoist_client_id, self.todoist_client_secret
        return OAuthApp(client_id, secret.get_secret_value()) if client_id and secret else None


class Settings(SharedSettings):
    """What the night needs."""

    data_root: str = Field(".local/data", description="Folder or fsspec URL that holds the Parquet of all assets.")
    n_shards: int = Field(16, ge=1, le=1024, description="Shards that users are spread over; fixed for a DATA_ROOT.")
    materialize_schedule: str = Field(
        "0 2,6,10,14,18,22 * * *", description="Cron (UTC) at which signals are fetched."
    )
    night_hour: int = Field(
        2,
        ge=0,
        le=23,
        description="The hour (UTC) whose run also fetches whoever was not looked at lately.",
    )
    night_deadline_minutes: int = Field(60, ge=1, description="A step's run that takes longer raises an alert.")
    embedding_model: str = Field(NOMIC, description="Name on the model hub, or the folder of a saved model.")
    embedding_revision: str | None = Field(
        None, pattern="^[0-9a-f]{40}$", description="Commit of the model on the hub; pinned for the default model."
    )
    embedding_prompt: str = Field("clustering: ", description="What stands before each text; empty for MiniLM.")
    embedding_dim: int = Field(256, ge=8, le=4096, description="Length of the vectors, by the Matryoshka recipe.")
    embedding_device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs.")
    embedding_queue: str | None = Field(
        None, pattern="^[A-Za-z0-9_.-]+$", description="Queue of the workers that embed; none: the default one."
    )
    embedding_cache_days: int = Field(
        30, ge=1, description="How many days the vector of a text is kept for others after somebody wrote it."
    )
    context_history_days: int = Field(
        30, ge=1, description="How many days versions of contexts are kept, to trace tips and tell what changed."
    )
    todoist_concurrency: int = Field(8, ge=1, le=64, description="Todoist calls under way at once in one task.")

    @field_validator("materialize_schedule")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        if not croniter.is_valid(value) or len(value.split()) not in (1, 5):  # one word: @hourly
            raise ValueError("not a cron expression of five fields, such as '0 2,6,10,14,18,22 * * *'")
        return value

    @model_validator(mode="after")
    def _night_is_scheduled(self) -> Settings:
        hours = croniter.expand(self.materialize_schedule)[0][1]
        if "*" not in hours and self.night_hour not in hours:
            raise ValueError(
                f"NIGHT_HOUR={self.night_hour} is none of the hours {hours} of MATERIALIZE_SCHEDULE:"
                " no run would ever fetch those who seldom ask"
            )
        return self

    @cached_property
    def revision(self) -> str | None:
        """The pinned commit: the given one, or ours for the default model."""
        return self.embedding_revision or (NOMIC_REVISION if self.embedding_model == NOMIC else None)

    def is_night(self, at: datetime) -> bool:
        """Whether the scheduled run at `at` (aware, UTC) fetches everybody: the first one in the night's hour."""
        before: datetime = croniter(self.materialize_schedule, at).get_prev(datetime)
        return at.hour == self.night_hour and (before.date(), before.hour) != (at.date(), at.hour)

    def next_run(self, at: datetime) -> datetime:
        """The instant of the scheduled run after `at`."""
        following: datetime = croniter(self.materialize_schedule, at).get_next(datetime)
        return following


class DatabaseSettings(BaseSettings):
    """What the commands outside Airflow need; inside, the connection `context_store` says it."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    database_url: str = Field(
        pattern="^postgres(ql)?://",
        description="Postgres of the context store: postgresql://user:password@host/name.",
    )

    @field_validator("database_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        try:
            ports = str(conninfo_to_dict(value).get("port", 5432))
        except ProgrammingError:  # its own message repeats the password
            raise ValueError("not a URL that Postgres can read; a % in a password is written %25") from None
        if not ports.replace(",", "").isdigit():
            raise ValueError("not a URL that Postgres can read; its port is no number")
        return value


class VaultSettings(BaseSettings):
    """The keys that Todoist tokens are encrypted with."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    credentials_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        min_length=1,
        description="Fernet keys, comma-separated: the first encrypts, all decrypt."
        " Make one: python -m contexts.accounts new-key",
    )

    @property
    def keys(self) -> list[str]:
        """The keys in plain text."""
        return [key.get_secret_value() for key in self.credentials_keys]

    @field_validator("credentials_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return split_commas(value)


def split_commas(value: object) -> object:
    """The parts of a comma-separated setting; anything else as it is."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


S = TypeVar("S", bound=BaseSettings)


def read_settings(kind: type[S]) -> S:
    """The settings of a kind from the environment; SettingsError names every wrong one and what is allowed."""
    try:
        return kind()
    except ValidationError as error:
        raise SettingsError("\n".join(_sentence(kind, each["loc"], each["msg"]) for each in error.errors())) from None


def _sentence(kind: type[BaseSettings], loc: tuple[int | str, ...], message: str) -> str:
    plain = message.removeprefix("Value error, ")
    if not loc:
        return plain
    field = kind.model_fields.get(str(loc[0]))
    return f"{str(loc[0]).upper()}: {plain}. {field.description if field else ''}".strip()
