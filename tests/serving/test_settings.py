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
    """Nothing of the machine's own environment gets into these tests, but for a token."""
    for name in ServingSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("SERVICE_TOKENS", TOKEN)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Gives the message for an environment that is refused."""

    def message(**environment: str) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError) as raised:
            read_settings(ServingSettings)
        return str(raised.value)

    return message


class TestDefaults:
    def test_a_token_is_enough(self) -> None:
        """With nothing but a token the service listens on this machine alone, and tips are made by rules."""
        found = read_settings(ServingSettings)
        assert (found.serving_host, found.llm_model) == ("127.0.0.1", None)
        assert found.todoist_api_url == "https://api.todoist.com"

    def test_times(self) -> None:
        """Contexts are used for six hours and refreshed after five; a request ends in eight seconds."""
        found = read_settings(ServingSettings)
        assert (found.revalidate_after, found.freshness_sla) == (timedelta(hours=5), timedelta(hours=6))
        assert found.request_budget == 8
        assert max(found.llm_timeout, found.todoist_timeout) < found.request_budget

    def test_as_the_night(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the night and the service must agree on is one variable for both, with one default."""
        monkeypatch.setenv("CONTEXT_TOKEN_BUDGET", "1500")
        night, service = read_settings(Settings), read_settings(ServingSettings)
        assert night.context_token_budget == service.context_token_budget == 1500
        assert (night.freshness_sla, night.reaction_days) == (service.freshness_sla, service.reaction_days)


class TestTokens:
    def test_several(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tokens stand with commas between them, and are not shown."""
        monkeypatch.setenv("SERVICE_TOKENS", f" {TOKEN} , another-{TOKEN},")
        found = read_settings(ServingSettings)
        assert [token.get_secret_value() for token in found.service_tokens] == [TOKEN, f"another-{TOKEN}"]
        assert TOKEN not in repr(found)

    @pytest.mark.parametrize("value", ["", " , "])
    def test_none(self, refused: Refused, value: str) -> None:
        """Without a token the message says how to make one."""
        message = refused(SERVICE_TOKENS=value)
        assert message.startswith("SERVICE_TOKENS: ")
        assert "secrets.token_urlsafe(32)" in message

    def test_not_set(self, monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
        """The variable cannot be left out."""
        monkeypatch.delenv("SERVICE_TOKENS")
        assert refused().startswith("SERVICE_TOKENS: ")

    def test_short(self, refused: Refused) -> None:
        """A token that can be guessed is refused, though the others are long, and none gets into the message."""
        message = refused(SERVICE_TOKENS=f"{TOKEN},short-4711")
        assert "SERVICE_TOKENS: a token of fewer than 16 letters" in message
        assert "4711" not in message


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
        ],
    )
    def test_wrong_value(self, refused: Refused, name: str, value: str) -> None:
        """A wrong value is refused with the variable's name and what it is for; no wait may be endless."""
        message = refused(**{name: value})
        assert message.startswith(f"{name}: ")
        assert ServingSettings.model_fields[name.lower()].description in message

    def test_refreshed_too_late(self, refused: Refused) -> None:
        """A refresh after the SLA would never come: refused with both values."""
        message = refused(REVALIDATE_AFTER="05:00:00", FRESHNESS_SLA="04:00:00")
        assert "REVALIDATE_AFTER=5:00:00 is after FRESHNESS_SLA=4:00:00" in message

    def test_refreshed_at_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A refresh at the SLA itself is allowed: there is none behind the answers."""
        monkeypatch.setenv("REVALIDATE_AFTER", "06:00:00")
        found = read_settings(ServingSettings)
        assert found.revalidate_after == found.freshness_sla

    def test_all_at_once(self, refused: Refused) -> None:
        """All that is wrong is said in one go, a line for each."""
        assert refused(SERVICE_TOKENS="", SERVING_PORT="x", LLM_TIMEOUT="0").count("\n") == 2
