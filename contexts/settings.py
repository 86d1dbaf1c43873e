"""Settings of the pipeline and the service, read from environment variables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import cached_property
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import ByteSize, Field, Json, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MAX_SHARDS = 1024
"""The greatest N_SHARDS, because Airflow maps at most 1,024 tasks by default."""

MAX_DAYS = 3650
"""The greatest number of days of a setting: ten years."""

LOCAL_RUN = "LOCAL_RUN"
"""The variable of a shell that has read the environment of `make run`."""

TODOIST_API_URL = "https://api.todoist.com"
NOMIC = "nomic-ai/nomic-embed-text-v1.5"
NOMIC_REVISION = "e5cf08aadaa33385f5990def41f7a23405aec398"


EventsMode = Literal["off", "hints", "trusted"]
"""How far events of Todoist's webhooks are believed: not at all, their silence, or their contents, too."""


class SettingsError(Exception):
    """A setting is missing or invalid; the message names every such setting and its allowed values."""


@dataclass(frozen=True)
class OAuthApp:
    """The product's app at Todoist, needed to renew access tokens."""

    client_id: str
    client_secret: str

    def __repr__(self) -> str:
        return "OAuthApp(...)"


class SharedSettings(BaseSettings):
    """Settings that the pipeline and the service share; each field is the variable of the same name in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", defer_build=True)

    freshness_sla: timedelta = Field(
        timedelta(hours=6),
        ge=timedelta(minutes=10),
        le=timedelta(days=7),
        description="Maximum age of a context when it is used, as hours:minutes:seconds, such as 06:00:00.",
    )
    context_token_budget: int = Field(2000, ge=1000, description="Upper bound of a context's estimated tokens.")
    reaction_days: int = Field(
        90, ge=1, le=MAX_DAYS, description="Number of days of reactions to tips that are read."
    )
    llm_model: str | None = Field(
        None,
        description="provider:model of pydantic-ai, such as openai:gpt-5-mini, anthropic:claude-haiku-4-5,"
        " ollama:qwen3, openai-chat:NAME for any compatible server, or gguf:PATH for a file with a model; if not set,"
        " candidates are rule-based, and none are written ahead.",
    )
    llm_output: Literal["auto", "native", "tool"] = Field(
        "auto",
        description="How the LLM is asked for JSON: native (a JSON schema), tool (a tool call), or auto: native if"
        " the provider has it.",
    )
    tips_ahead: Literal["off", "now", "flex", "batch"] = Field(
        "now",
        description="How the LLM writes tips for users who will probably ask, and for new users: off, now, flex"
        " (OpenAI's and Gemini's service tier at half price, slower; not for new users), or batch (OpenAI's Batch API"
        " at half price, for requests after the next run; now for the others). Unless it is off, contexts leave for"
        " the provider for users who may never ask.",
    )
    tips_ahead_value: float = Field(
        2.0,
        ge=0,
        le=1000,
        description="Worth of an answer with the LLM's tips instead of rule-based ones, in prices of a call: the"
        " more, the less probable a request for which tips are written ahead, or behind an answer.",
    )
    todoist_api_url: str = Field(
        TODOIST_API_URL, pattern="^https?://", description="URL of Todoist's API, or of a stand-in for it."
    )
    todoist_client_id: str | None = Field(
        None, description="Client ID of the OAuth app, needed only for accounts with refresh tokens."
    )
    todoist_client_secret: SecretStr | None = Field(None, description="Client secret of the OAuth app.")
    todoist_client_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Client secrets with which Todoist signs webhooks, comma-separated; several while one of them is"
        " being replaced.",
    )
    todoist_events: EventsMode | None = Field(
        None,
        description="How far events of Todoist's webhooks are believed, while audits confirm them: off; hints: a user"
        " without an event has no change, and one with an event is fetched; trusted: changes are taken from events."
        " If not set: hints with TODOIST_CLIENT_SECRETS, else off.",
    )

    @field_validator("todoist_client_secrets", mode="before")
    @classmethod
    def _split_secrets(cls, value: object) -> object:
        return split_commas(value)

    @field_validator("todoist_api_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            is_valid = bool(parts.hostname) and parts.port != 0
        except ValueError:  # brackets without an address, or a port that is none
            is_valid = False
        if not is_valid:
            raise ValueError("expected a URL with a host, and a port of at most 65535 if it has one")
        return value

    @model_validator(mode="after")
    def _check_batches(self) -> Self:
        is_openai = self.llm_model is None or self.llm_model.startswith(("openai:", "openai-responses:"))
        if self.tips_ahead == "batch" and not is_openai:
            raise ValueError(
                f"TIPS_AHEAD=batch needs OpenAI's Batch API, which LLM_MODEL={self.llm_model} does not have: write"
                " LLM_MODEL=openai:NAME, or TIPS_AHEAD=now or flex"
            )
        return self

    @property
    def oauth_app(self) -> OAuthApp | None:
        """The product's app at Todoist, or None unless both of its settings are present."""
        client_id, secret = self.todoist_client_id, self.todoist_client_secret
        return OAuthApp(client_id, secret.get_secret_value()) if client_id and secret else None

    @property
    def events_mode(self) -> EventsMode:
        """How far Todoist's webhooks are believed: TODOIST_EVENTS, or its default."""
        return self.todoist_events or ("hints" if self.todoist_client_secrets else "off")


class Settings(SharedSettings):
    """Settings of the pipeline."""

    data_root: str = Field(".local/data", description="Folder or fsspec URL of the Parquet files of all assets.")
    n_shards: int = Field(16, ge=1, le=MAX_SHARDS, description="Number of shards of users; fixed for a DATA_ROOT.")
    materialize_schedule: str = Field(
        "0 2,6,10,14,18,22 * * *", description="Cron expression (UTC) of the runs that fetch signals."
    )
    night_hour: int = Field(
        2,
        ge=0,
        le=23,
        description="Hour (UTC): the first scheduled run from it on also fetches users without a recent fetch.",
    )
    themes_wait: timedelta = Field(
        timedelta(hours=1),
        ge=timedelta(0),
        le=timedelta(days=7),
        description="Maximum time that a changed context waits for its themes, as hours:minutes:seconds.",
    )
    task_slots: int = Field(
        4,
        ge=1,
        le=MAX_SHARDS,
        description="Number of tasks over which a step spreads its stale shards: the slots of the workers.",
    )
    retry_delay: timedelta = Field(
        timedelta(minutes=1),
        ge=timedelta(0),
        le=timedelta(hours=1),
        description="Time until a failed task is tried again, as hours:minutes:seconds, if Todoist asks for no more.",
    )
    night_deadline_minutes: int = Field(60, ge=1, description="A step that runs longer raises an alert.")
    housekeeping_schedule: str = Field(
        "0 4 * * 0",
        description="Cron expression (UTC) of the runs that delete old rows of Airflow, task logs and runs.",
    )
    airflow_metadata_days: int = Field(
        30,
        ge=2,
        le=MAX_DAYS,
        description="Number of days that Airflow's database keeps runs, tasks and events; needs the connection"
        " airflow_metadata.",
    )
    task_log_days: int = Field(
        30, ge=1, le=MAX_DAYS, description="Number of days that workers keep the log files of tasks."
    )
    run_log_days: int = Field(
        400, ge=31, le=MAX_DAYS, description="Number of days that the log of the pipeline's runs is kept in Postgres."
    )
    alert_notifier: str | None = Field(
        None,
        description="Class of an Airflow notifier for runs that fail or are late, such as"
        " airflow.providers.smtp.notifications.smtp.SmtpNotifier.",
    )
    alert_arguments: str = Field(
        "{}",
        description='Arguments of the notifier as JSON, with {message} for what happened, such as {"to":'
        ' "data@example.org", "subject": "{message}", "html_content": "{message}"}.',
    )
    embedding_model: str = Field(NOMIC, description="Name of the model on the hub, or the folder of a saved model.")
    embedding_revision: str | None = Field(
        None, pattern="^[0-9a-f]{40}$", description="Commit of the model on the hub; pinned for the default model."
    )
    embedding_prompt: str = Field("clustering: ", description="Prefix of every text; empty for MiniLM.")
    embedding_dim: int = Field(256, ge=8, le=4096, description="Length of the vectors, by the Matryoshka recipe.")
    embedding_device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device that runs the model.")
    embedding_queue: str | None = Field(
        None, pattern="^[A-Za-z0-9_.-]+$", description="Queue of the workers that embed; the default queue if unset."
    )
    embedding_pool: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="Airflow pool of the tasks that embed, so that they leave slots for other steps; the default pool"
        " if unset.",
    )
    embedding_cache_days: int = Field(
        30,
        ge=1,
        le=MAX_DAYS,
        description="Number of days that a text's vector stays in the cache after its last use.",
    )
    embedding_executor_config: Json[dict[str, Any]] = Field(
        "{}",  # type: ignore[arg-type]  # read as JSON, as the values of variables are
        description="Executor config, as JSON, of the tasks that embed, for the KubernetesExecutor, which ignores"
        ' queues: {"pod_override": {"spec": {"containers": [{"name": "base", "resources": {"limits":'
        ' {"nvidia.com/gpu": "1", "memory": "8Gi"}}}]}}}.',
    )
    context_history_days: int = Field(
        30,
        ge=1,
        le=MAX_DAYS,
        description="Number of days that versions of contexts are kept, to trace tips and explain changes.",
    )
    todoist_max_response: ByteSize = Field(
        ByteSize(128 * 2**20),
        ge=2**16,
        le=2**30,
        description="Largest response of Todoist that a run reads, decompressed, such as 128MiB.",
    )
    event_miss_bound: float = Field(
        0.02,
        gt=0,
        le=0.5,
        description="Share of changes that Todoist's events may miss; if more is possible by the audits, events are"
        " not believed.",
    )
    todoist_concurrency: int = Field(8, ge=1, le=64, description="Maximum concurrent Todoist calls in one task.")
    tips_ahead_calls: int = Field(
        10_000, ge=0, description="Calls of the LLM a day (UTC) ahead of requests; then no more are written ahead."
    )
    tips_ahead_dollars: float = Field(
        10.0, ge=0, description="US dollars a day (UTC) for calls of the LLM ahead of requests."
    )
    tips_ahead_concurrency: int = Field(8, ge=1, le=256, description="Calls of the LLM under way in one task.")
    tips_ahead_timeout: float = Field(
        60.0, gt=0, le=3600, description="Seconds that one call of the LLM ahead of a request may take."
    )

    @field_validator("materialize_schedule", "housekeeping_schedule")
    @classmethod
    def _check_cron(cls, value: str) -> str:
        from croniter import croniter

        if not croniter.is_valid(value) or len(value.split()) not in (1, 5):  # one word: @hourly
            raise ValueError("not a cron expression of five fields, such as '0 2,6,10,14,18,22 * * *'")
        return value

    @property
    def writes_tips(self) -> bool:
        """Whether tips are written ahead of requests."""
        return self.llm_model is not None and self.tips_ahead != "off"

    @cached_property
    def revision(self) -> str | None:
        """The model's commit: EMBEDDING_REVISION, or the pinned commit of the default model."""
        return self.embedding_revision or (NOMIC_REVISION if self.embedding_model == NOMIC else None)

    def last_night(self, at: datetime) -> datetime:
        """Return the last instant of NIGHT_HOUR up to `at` (aware, UTC)."""
        tonight = at.replace(hour=self.night_hour, minute=0, second=0, microsecond=0)
        return tonight if tonight <= at else tonight - timedelta(days=1)

    def next_run(self, at: datetime) -> datetime:
        """Return the instant of the first scheduled run after `at`."""
        from croniter import croniter

        following: datetime = croniter(self.materialize_schedule, at).get_next(datetime)
        return following


class DatabaseSettings(BaseSettings):
    """The database of the commands outside Airflow; Airflow's tasks use the connection `context_store`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", defer_build=True)

    database_url: str = Field(
        pattern="^postgres(ql)?://",
        description="Postgres of the context store: postgresql://user:password@host/name.",
    )

    @field_validator("database_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        try:
            ports = str(conninfo_to_dict(value).get("port", 5432))
        except ProgrammingError:  # its own message repeats the password
            raise ValueError("not a URL that Postgres can read; a % in a password is written %25") from None
        if not ports.replace(",", "").isdigit():
            raise ValueError("not a URL that Postgres can read; its port is not a number")
        return value


class CredentialSettings(BaseSettings):
    """The keys that encrypt Todoist tokens."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", defer_build=True)

    credentials_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        min_length=1,
        description="Fernet keys, comma-separated: the first encrypts, all decrypt."
        " Create one: python -m contexts accounts new-key",
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
    """Split a comma-separated setting into its parts; return values that are not strings unchanged."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


_SettingsT = TypeVar("_SettingsT", bound=BaseSettings)


def read_settings(kind: type[_SettingsT], **values: Any) -> _SettingsT:
    """Read the settings of one class from the environment; SettingsError names every invalid setting.

    values: settings that are not read, by their names in small letters.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise SettingsError("\n".join(_sentence(kind, each) for each in error.errors())) from None


def check_settings(*kinds: type[BaseSettings]) -> None:
    """Raise SettingsError with a sentence for every invalid setting of several classes."""
    sentences: list[str] = []
    for kind in kinds:
        try:
            read_settings(kind)
        except SettingsError as error:
            sentences += str(error).splitlines()
    if sentences:
        raise SettingsError("\n".join(dict.fromkeys(sentences)))


_NOT_READ = {
    "int_parsing": "not a whole number",
    "float_parsing": "not a number",
    "time_delta_parsing": "not a duration such as 01:30:00 (hours:minutes:seconds)",
}
"""The fault of a value that is no number or duration, by pydantic's type of the error."""

_OUT_OF_BOUNDS = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"})
"""Pydantic's types of the error of a number or a duration that is too small or too large."""


def _sentence(kind: type[BaseSettings], error: ErrorDetails) -> str:
    """Return a sentence with the name of a setting, the fault of its value, and its description."""
    fault = _fault(error)
    if not error["loc"]:  # the fault of several settings together, which names them
        return fault
    name = str(error["loc"][0])
    field = kind.model_fields.get(name)
    return f"{name.upper()}: {fault}. {field.description if field else ''}".strip()


def _fault(error: ErrorDetails) -> str:
    """Return what is wrong with a setting; a value that may be a secret is not in it."""
    if error["type"] in ("missing", "too_short"):
        return "not set"
    if error["type"] in _NOT_READ:
        return f"'{error['input']}' is {_NOT_READ[error['type']]}"
    message = error["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "must be").replace("String should match", "must match the")
    if error["type"] == "literal_error":
        return f"{message}, not '{error['input']}'"
    return f"{message}, not {error['input']}" if error["type"] in _OUT_OF_BOUNDS else message


_NEAR_RATIO = 0.87
"""Similarity from which a name counts as a misspelt one: one wrong letter in eight, or one too many or too few."""


def misspelt_names(variables: Iterable[str], *kinds: type[BaseSettings], others: Iterable[str] = ()) -> Iterator[str]:
    """Yield a sentence for each variable whose name is nearly, but not exactly, that of a setting.

    kinds: classes of settings beside those of this module. others: names of further settings.
    """
    classes: tuple[type[BaseSettings], ...] = (Settings, DatabaseSettings, CredentialSettings, *kinds)
    names = {name.upper() for kind in classes for name in kind.model_fields} | set(others)
    for variable in sorted(variables):
        if variable.upper() not in names:
            for name in get_close_matches(variable.upper(), names, 1, _NEAR_RATIO):
                yield f"{variable}: there is no such setting. Did you mean {name}?"
