"""The model of an LLM by its name: how it is asked for JSON, and what a provider may cache."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai import NativeOutput, ToolOutput

from tips.models import LLMError, is_native, model_settings, output_type, without_retries

SCHEMA = {"type": "object", "properties": {"candidates": {"type": "array", "items": {"type": "string"}}}}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://localhost:11434/v1")


@pytest.mark.parametrize(
    ("model", "has_native"),
    [
        ("openai:gpt-5-mini", True),
        ("openai-chat:local", True),
        ("anthropic:claude-haiku-4-5", True),
        ("anthropic:claude-3-5-haiku-latest", False),
        ("ollama:qwen3", True),
    ],
)
def test_output(model: str, has_native: bool) -> None:
    """Auto is a native JSON schema where the provider has it for the model, else a tool call; a setting decides."""
    made = without_retries(model)
    assert is_native(made, "auto") is has_native
    assert isinstance(output_type(made, "auto", SCHEMA), NativeOutput if has_native else ToolOutput)
    assert isinstance(output_type(made, "native", SCHEMA), NativeOutput)
    assert isinstance(output_type(made, "tool", SCHEMA), ToolOutput)


def test_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI is asked in its strict form, without which it enforces no schema; other servers get lengths, too."""
    assert output_type(without_retries("openai:gpt-5-mini"), "auto", SCHEMA).strict is True
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8080/v1")
    assert output_type(without_retries("openai-chat:local"), "auto", SCHEMA).strict is None


def test_flex() -> None:
    """A call that may be late asks for the cheaper tier, any other for none."""
    made = without_retries("openai:gpt-5-mini")
    assert model_settings(made, "tips-1", is_flex=True).get("service_tier") == "flex"
    assert "service_tier" not in model_settings(made, "tips-1")


def test_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider may cache the instructions, not the user's data; OpenAI gets a key for equal beginnings."""
    settings: Any = model_settings(without_retries("openai:gpt-5-mini"), "tips-1")
    assert settings["cache"] == {"messages": False}
    assert settings["openai_prompt_cache_key"] == "tips-1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8080/v1")
    assert "openai_prompt_cache_key" not in model_settings(without_retries("openai-chat:local"), "tips-1")


@pytest.mark.parametrize("key", ["", " "])
def test_empty_key(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """An empty key is refused with the name of its variable."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(LLMError, match="OPENAI_API_KEY is empty"):
        without_retries("openai:gpt-5-mini")


def test_missing_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider without its key is refused with the name of the variable."""
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(LLMError, match="ANTHROPIC_API_KEY is not set"):
        without_retries("anthropic:claude-haiku-4-5")
