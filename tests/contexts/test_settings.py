"""Settings: read from the environment, and refused with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from contexts.settings import (
    NOMIC_REVISION,
    DatabaseSettings,
    Settings,
    SettingsError,
    VaultSettings,
    read_settings,
)

CANARY = "canary-4711"
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own environment gets into these tests."""
    for kind in (Settings, DatabaseSettings, VaultSettings):
        for name in kind.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Gives the message for an environment that is refused."""

    def message(kind: type = Settings, **environment: str) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError) as raised:
            read_settings(kind)
        return str(raised.value)

    return message


def at(hour: int, minute: int = 0, second: int = 0, microsecond: int = 0) -> datetime:
    return datetime(2026, 11, 23, hour, minute, second, microsecond, tzinfo=UTC)


class TestSettings:
    def test_empty_environment(self) -> None:
        """The night runs without a single variable: at two o'clock, every four hours, over sixteen shards."""
        found = read_settings(Settings)
        assert (found.n_shards, found.night_hour) == (16, 2)
        assert {found.next_run(at(hour)).hour for hour in range(24)} == {2, 6, 10, 14, 18, 22}

    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each field is the environment variable of its name in capitals."""
        monkeypatch.setenv("N_SHARDS", "3")
        monkeypatch.setenv("DATA_ROOT", "s3://bucket/data")
        monkeypatch.setenv("TODOIST_CLIENT_SECRET", CANARY)
        found = read_settings(Settings)
        assert (found.n_shards, found.data_root) == (3, "s3://bucket/data")
        assert found.todoist_client_secret == SecretStr(CANARY)
        assert CANARY not in repr(found)

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
        """A wrong value is refused with the variable's name and what it is for."""
        message = refused(**{name: value})
        assert message.startswith(f"{name}: ")
        assert Settings.model_fields[name.lower()].description in message

    def test_every_wrong_value_at_once(self, refused: Refused) -> None:
        """All that is wrong is said in one go, a line for each."""
        assert refused(N_SHARDS="0", NIGHT_HOUR="-1").count("\n") == 1

    def test_night_without_a_run(self, refused: Refused) -> None:
        """A schedule that never reaches the night hour is refused: nobody would ever be fetched."""
        message = refused(MATERIALIZE_SCHEDULE="0 4,16 * * *")
        assert "NIGHT_HOUR=2" in message
        assert "[4, 16]" in message

    @pytest.mark.parametrize("schedule", ["0 * * * *", "*/30 1-3 * * *", "0 2 * * 1-5"])
    def test_other_schedules(self, monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
        """Any cron expression that reaches the night hour is taken."""
        monkeypatch.setenv("MATERIALIZE_SCHEDULE", schedule)
        assert read_settings(Settings).materialize_schedule == schedule

    @pytest.mark.parametrize("schedule", ["0 2 * * * *", "0 2 * * * * *"])
    def test_more_than_five_fields(self, refused: Refused, schedule: str) -> None:
        """A cron expression of more than five fields is refused, as its message says."""
        assert "five fields" in refused(MATERIALIZE_SCHEDULE=schedule)

    def test_full_night(self) -> None:
        """The run at two o'clock fetches everybody, the others do not."""
        found = read_settings(Settings)
        assert [hour for hour in (2, 6, 10, 14, 18, 22) if found.is_night(at(hour))] == [2]

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
        """The last second before a run does not leave it out."""
        assert read_settings(Settings).next_run(now) == at(6)

    def test_pinned_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The default model is pinned to a commit, another one only if a commit is given."""
        assert read_settings(Settings).revision == NOMIC_REVISION
        monkeypatch.setenv("EMBEDDING_MODEL", "someone/else")
        assert read_settings(Settings).revision is None
        monkeypatch.setenv("EMBEDDING_REVISION", "a" * 40)
        assert read_settings(Settings).revision == "a" * 40


class TestDatabase:
    @pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
    def test_url(self, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
        """A URL of Postgres is taken as it is."""
        monkeypatch.setenv("DATABASE_URL", f"{scheme}://u:p@host/db")
        assert read_settings(DatabaseSettings).database_url == f"{scheme}://u:p@host/db"

    def test_missing(self, refused: Refused) -> None:
        """Without DATABASE_URL the message shows how one is written."""
        assert "DATABASE_URL: " in (message := refused(DatabaseSettings))
        assert "postgresql://user:password@host/name" in message

    def test_other_database(self, refused: Refused) -> None:
        """Another database is refused, and the password does not get into the message."""
        message = refused(DatabaseSettings, DATABASE_URL=f"mysql://u:{CANARY}@host/db")
        assert message.startswith("DATABASE_URL: ")
        assert CANARY not in message


class TestVaultKeys:
    def test_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keys stand with commas between them, in order, and are not shown."""
        monkeypatch.setenv("CREDENTIALS_KEYS", f" {CANARY} , second,")
        found = read_settings(VaultSettings)
        assert [key.get_secret_value() for key in found.credentials_keys] == [CANARY, "second"]
        assert CANARY not in repr(found)

    @pytest.mark.parametrize("environment", [{}, {"CREDENTIALS_KEYS": ""}, {"CREDENTIALS_KEYS": " , "}])
    def test_no_key(self, refused: Refused, environment: dict[str, str]) -> None:
        """Without a key the message says how to make one."""
        assert "python -m contexts.accounts new-key" in refused(VaultSettings, **environment)
