"""Settings of the service: read from the environment, and refused with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from contexts.settings import Settings, SettingsError, read_settings
from serving.settings import ServingSettings

TOKEN = "canary-token-4711"
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the machine's own environment out of these tests, and sets a token."""
    for name in ServingSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("SERVICE_TOKENS", TOKEN)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Refused:
    """A function that returns the message for an environment that is refused."""

    def message(**environment: str) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError) as raised:
            read_settings(ServingSettings)
        return str(raised.value)

    return message


class TestDefaults:
    def test_token_only(self) -> None:
        """With only a token the service listens on this machine, and tips are rule-based."""
        loaded = read_settings(ServingSettings)
        assert (loaded.serving_host, loaded.llm_model) == ("127.0.0.1", None)
        assert loaded.todoist_api_url == "https://api.todoist.com"

    def test_times(self) -> None:
        """Contexts are used for six hours and refreshed after five; a request ends within eight seconds."""
        loaded = read_settings(ServingSettings)
        assert (loaded.revalidate_after, loaded.freshness_sla) == (timedelta(hours=5), timedelta(hours=6))
        assert loaded.request_budget == 8
        assert max(loaded.llm_timeout, loaded.todoist_timeout) < loaded.request_budget

    def test_shared_with_the_pipeline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Settings shared by the pipeline and the service are one variable with one default."""
        monkeypatch.setenv("CONTEXT_TOKEN_BUDGET", "1500")
        pipeline, service = read_settings(Settings), read_settings(ServingSettings)
        assert pipeline.context_token_budget == service.context_token_budget == 1500
        assert (pipeline.freshness_sla, pipeline.reaction_days) == (service.freshness_sla, service.reaction_days)


class TestTokens:
    def test_several(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tokens are separated by commas, and are not shown."""
        monkeypatch.setenv("SERVICE_TOKENS", f" {TOKEN} , another-{TOKEN},")
        loaded = read_settings(ServingSettings)
        assert [token.get_secret_value() for token in loaded.service_tokens] == [TOKEN, f"another-{TOKEN}"]
        assert TOKEN not in repr(loaded)

    @pytest.mark.parametrize("value", ["", " , "])
    def test_none(self, refused: Refused, value: str) -> None:
        """Without a token the message says how to create one."""
        message = refused(SERVICE_TOKENS=value)
        assert message.startswith("SERVICE_TOKENS: ")
        assert "secrets.token_urlsafe(32)" in message

    def test_not_set(self, monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
        """The tokens are required."""
        monkeypatch.delenv("SERVICE_TOKENS")
        assert refused().startswith("SERVICE_TOKENS: ")

    def test_short(self, refused: Refused) -> None:
        """A short token is refused, even beside a long one, and neither appears in the message."""
        message = refused(SERVICE_TOKENS=f"{TOKEN},short-4711")
        assert "SERVICE_TOKENS: a token of fewer than 16 characters" in message
        assert "4711" not in message

    @pytest.mark.parametrize("token", ["pässwört-of-16-characters", "two words of a token"])
    def test_not_for_headers(self, refused: Refused, token: str) -> None:
        """A token that no header can carry is refused, as no request could ever send it."""
        assert "SERVICE_TOKENS: a token contains blanks or characters outside ASCII" in refused(SERVICE_TOKENS=token)


class TestWrongValues:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("SERVING_PORT", "99999"),
            ("SERVING_PORT", "http"),
            ("TODOIST_API_URL", "todoist.com"),
            ("TODOIST_TIMEOUT", "0"),
            ("TODOIST_TIMEOUT", "inf"),
            ("LLM_TIMEOUT", "-1"),
            ("LLM_TIMEOUT", "inf"),
            ("REQUEST_BUDGET", "0"),
            ("REQUEST_BUDGET", "0.5"),
            ("REQUEST_BUDGET", "nan"),
            ("REQUEST_BUDGET", "inf"),
            ("REVALIDATE_AFTER", "soon"),
            ("REVALIDATE_AFTER", "-01:00:00"),
            ("IGNORED_AFTER", "00:00:00"),
            ("DATABASE_CONNECTIONS", "1"),
            ("FRESHNESS_SLA", "00:01:00"),
            ("TODOIST_API_URL", "http://"),
            ("TODOIST_API_URL", "http://[::1"),
            ("TODOIST_API_URL", "http://localhost:99999"),
            ("REACTION_DAYS", "1000000"),
            ("DECISION_DAYS", "1000000000"),
            ("LLM_CALL_DAYS", "1000000"),
        ],
    )
    def test_wrong_value(self, refused: Refused, name: str, value: str) -> None:
        """A wrong value is refused with the name and the description of its variable; no wait may be infinite."""
        message = refused(**{name: value})
        assert message.startswith(f"{name}: ")
        assert ServingSettings.model_fields[name.lower()].description in message

    def test_refreshed_too_late(self, refused: Refused) -> None:
        """A refresh after the SLA is refused with both values."""
        message = refused(REVALIDATE_AFTER="05:00:00", FRESHNESS_SLA="04:00:00")
        assert "REVALIDATE_AFTER=5:00:00 is longer than FRESHNESS_SLA=4:00:00" in message

    def test_refreshed_at_the_sla(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A refresh at the SLA itself is allowed: contexts are then never refreshed in the background."""
        monkeypatch.setenv("REVALIDATE_AFTER", "06:00:00")
        loaded = read_settings(ServingSettings)
        assert loaded.revalidate_after == loaded.freshness_sla

    def test_no_time_for_the_llm(self, refused: Refused) -> None:
        """A budget in which the LLM could never be called is refused if there is an LLM."""
        assert "REQUEST_BUDGET=1 leaves no time" in refused(REQUEST_BUDGET="1", LLM_MODEL="openai:gpt-5-mini")

    def test_all_at_once(self, refused: Refused) -> None:
        """All wrong settings are reported together, one per line."""
        assert refused(SERVICE_TOKENS="", SERVING_PORT="x", LLM_TIMEOUT="0").count("\n") == 2
