"""Settings, read from the environment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from contexts.settings import (
    NOMIC_REVISION,
    CredentialSettings,
    DatabaseSettings,
    Settings,
    SettingsError,
    misspelt_names,
    read_settings,
)
from serving.settings import ServingSettings

REPOSITORY = Path(__file__).parents[2]
CANARY = "canary-4711"
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the settings of the machine's own environment."""
    for kind in (Settings, DatabaseSettings, CredentialSettings):
        for name in kind.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Returns the error message of an invalid environment."""

    def message(kind: type = Settings, **environment: str) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError) as raised:
            read_settings(kind)
        return str(raised.value)

    return message


def at(hour: int, minute: int = 0, second: int = 0, microsecond: int = 0) -> datetime:
    return datetime(2026, 11, 23, hour, minute, second, microsecond, tzinfo=UTC)


@pytest.mark.parametrize("model", ["openai-chat:local", "anthropic:claude-haiku-4-5", "gguf:model.gguf"])
def test_batches_need_their_api(refused: Refused, model: str) -> None:
    """TIPS_AHEAD=batch with a model without OpenAI's Batch API is refused in one line, with the remedies."""
    message = refused(TIPS_AHEAD="batch", LLM_MODEL=model)
    assert message.count("\n") == 0
    for words in (f"LLM_MODEL={model}", "LLM_MODEL=openai:NAME", "TIPS_AHEAD=now or flex"):
        assert words in message


def test_import_loads_no_client() -> None:
    """Importing the settings loads neither httpx nor stamina, and no other module of ours."""
    code = (
        "import sys, contexts.settings;"
        "print(sorted(name for name in sys.modules if name in ('httpx', 'stamina') or name.startswith('contexts.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "['contexts.settings']\n"


class TestSettings:
    def test_empty_environment(self) -> None:
        """All settings of the pipeline have defaults: six runs a day, the nightly run at 02:00, sixteen shards."""
        settings = read_settings(Settings)
        assert (settings.n_shards, settings.night_hour) == (16, 2)
        assert {settings.next_run(at(hour)).hour for hour in range(24)} == {2, 6, 10, 14, 18, 22}

    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each field is read from the environment variable of its name in capitals."""
        monkeypatch.setenv("N_SHARDS", "3")
        monkeypatch.setenv("DATA_ROOT", "s3://bucket/data")
        monkeypatch.setenv("TODOIST_CLIENT_SECRET", CANARY)
        settings = read_settings(Settings)
        assert (settings.n_shards, settings.data_root) == (3, "s3://bucket/data")
        assert settings.todoist_client_secret == SecretStr(CANARY)
        assert CANARY not in repr(settings)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("N_SHARDS", "0"),
            ("N_SHARDS", "many"),
            ("N_SHARDS", ""),
            ("NIGHT_HOUR", "24"),
            ("EMBEDDING_REVISION", "main"),
            ("EMBEDDING_DEVICE", "tpu"),
            ("CONTEXT_TOKEN_BUDGET", "10"),
            ("TODOIST_CONCURRENCY", "1000"),
            ("MATERIALIZE_SCHEDULE", "every morning"),
            ("MATERIALIZE_SCHEDULE", ""),
        ],
    )
    def test_wrong_value(self, refused: Refused, name: str, value: str) -> None:
        """An invalid value is reported with the variable's name and description."""
        message = refused(**{name: value})
        assert message.startswith(f"{name}: ")
        assert Settings.model_fields[name.lower()].description in message

    @pytest.mark.parametrize(
        ("name", "value", "fault"),
        [
            ("THEMES_WAIT", "an hour", "'an hour' is not a duration such as 01:30:00 (hours:minutes:seconds)"),
            ("THEMES_WAIT", "200:00:00", "must be less than or equal to 7 days, not 8 days, 8:00:00"),
            ("N_SHARDS", "many", "'many' is not a whole number"),
            ("TIPS_AHEAD", "always", "must be 'off', 'now', 'flex' or 'batch', not 'always'"),
        ],
    )
    def test_fault(self, refused: Refused, name: str, value: str, fault: str) -> None:
        """The value that was found and those that are allowed are named in plain words."""
        assert refused(**{name: value}).startswith(f"{name}: {fault}. ")

    def test_every_wrong_value_at_once(self, refused: Refused) -> None:
        """All invalid values are reported at once, one per line."""
        assert refused(N_SHARDS="0", NIGHT_HOUR="-1").count("\n") == 1

    @pytest.mark.parametrize("schedule", ["0 * * * *", "*/15 * * * *", "0 6 * * *", "0 2 * * 1-5"])
    def test_other_schedules(self, monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
        """Any cron expression is valid, also one without a run in the night hour."""
        monkeypatch.setenv("MATERIALIZE_SCHEDULE", schedule)
        assert read_settings(Settings).materialize_schedule == schedule

    @pytest.mark.parametrize("schedule", ["0 2 * * * *", "0 2 * * * * *"])
    def test_more_than_five_fields(self, refused: Refused, schedule: str) -> None:
        """A cron expression with more than five fields is rejected."""
        assert "five fields" in refused(MATERIALIZE_SCHEDULE=schedule)

    @pytest.mark.parametrize(
        ("now", "night"),
        [(at(2), at(2)), (at(2, 0, 1), at(2)), (at(23), at(2)), (at(1, 59), at(2) - timedelta(days=1))],
    )
    def test_last_night(self, now: datetime, night: datetime) -> None:
        """The last night is the latest instant of the night hour that is not in the future."""
        assert read_settings(Settings).last_night(now) == night

    @pytest.mark.parametrize(
        ("now", "then"),
        [
            (at(2), at(6)),
            (at(2, 0, 30), at(6)),
            (at(5, 59, 58), at(6)),
            (at(6), at(10)),
            (at(6, 0, 0, 500_000), at(10)),
            (at(22, 30), datetime(2026, 11, 24, 2, tzinfo=UTC)),
        ],
        ids=str,
    )
    def test_next_run(self, now: datetime, then: datetime) -> None:
        """The next run is the first one of the schedule after now."""
        assert read_settings(Settings).next_run(now) == then

    @pytest.mark.parametrize("now", [at(5, 59, 59), at(5, 59, 59, 500_000)], ids=str)
    def test_next_run_of_the_last_second(self, now: datetime) -> None:
        """In the last second before a run, that run is the next one."""
        assert read_settings(Settings).next_run(now) == at(6)

    def test_pinned_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The default model is pinned to a commit; a different model only has the commit of EMBEDDING_REVISION."""
        assert read_settings(Settings).revision == NOMIC_REVISION
        monkeypatch.setenv("EMBEDDING_MODEL", "someone/else")
        assert read_settings(Settings).revision is None
        monkeypatch.setenv("EMBEDDING_REVISION", "a" * 40)
        assert read_settings(Settings).revision == "a" * 40


class TestDatabase:
    @pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
    def test_url(self, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
        """A URL of Postgres is returned unchanged."""
        monkeypatch.setenv("DATABASE_URL", f"{scheme}://u:p@host/db")
        assert read_settings(DatabaseSettings).database_url == f"{scheme}://u:p@host/db"

    def test_missing(self, refused: Refused) -> None:
        """Without DATABASE_URL the message has an example of one."""
        assert "DATABASE_URL: " in (message := refused(DatabaseSettings))
        assert "postgresql://user:password@host/name" in message

    def test_other_database(self, refused: Refused) -> None:
        """A URL of a different database is rejected, and the message does not contain its password."""
        message = refused(DatabaseSettings, DATABASE_URL=f"mysql://u:{CANARY}@host/db")
        assert message.startswith("DATABASE_URL: ")
        assert CANARY not in message


class TestCredentialKeys:
    def test_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keys are comma-separated, keep their order, and do not appear in the representation."""
        monkeypatch.setenv("CREDENTIALS_KEYS", f" {CANARY} , second,")
        settings = read_settings(CredentialSettings)
        assert [key.get_secret_value() for key in settings.credentials_keys] == [CANARY, "second"]
        assert CANARY not in repr(settings)

    @pytest.mark.parametrize("environment", [{}, {"CREDENTIALS_KEYS": ""}, {"CREDENTIALS_KEYS": " , "}])
    def test_no_key(self, refused: Refused, environment: dict[str, str]) -> None:
        """Without a key the message names the command that creates one."""
        assert "python -m contexts accounts new-key" in refused(CredentialSettings, **environment)


class TestMisspeltNames:
    @pytest.mark.parametrize(
        ("variable", "meant"),
        [
            ("N_SHARD", "N_SHARDS"),
            ("NSHARDS", "N_SHARDS"),
            ("LLM_MODLE", "LLM_MODEL"),
            ("EMBEDDING_DEVISE", "EMBEDDING_DEVICE"),
            ("DATABSE_URL", "DATABASE_URL"),
            ("max_request", "MAX_REQUESTS"),
        ],
    )
    def test_near(self, variable: str, meant: str) -> None:
        """A name with a letter too many, too few or wrong is reported with the name that was meant."""
        [sentence] = misspelt_names([variable, "N_SHARDS", "HOME"], ServingSettings)
        assert sentence == f"{variable}: there is no such setting. Did you mean {meant}?"

    def test_other_names(self) -> None:
        """Settings in any case, settings of the other program, and variables of other programs are not reported."""
        usual = ("HOME", "USER", "PATH", "LOG_LEVEL", "AIRFLOW_HOME", "OPENAI_API_KEY", "PYTHONPATH", "n_shards")
        service = [name.upper() for name in ServingSettings.model_fields]
        assert list(misspelt_names([*usual, *service])) == []
