"""The model of an LLM, by its name: its client, how it is asked for JSON, and what a provider may cache."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from pydantic_ai import NativeOutput, StructuredDict, ToolOutput
from pydantic_ai.exceptions import UserError
from pydantic_ai.models import Model, infer_model
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers import Provider, infer_provider_class
from pydantic_ai.settings import ModelSettings

from tips.bounded_http import MAX_ANSWER_BYTES, bounded_client

OutputMode = Literal["auto", "native", "tool"]
"""How a model is asked for JSON: by its provider's native JSON schema, or as the arguments of a tool call.

auto: native if the provider has it for this model.
"""

_MAX_OUTPUT_TOKENS = 1500

_OPENAI_HOST = "api.openai.com"

_MODEL_HELP = (
    "Write openai:NAME, anthropic:NAME, ollama:NAME, gguf:PATH, or openai-chat:NAME for any compatible server, and"
    " set the provider's own variables: OPENAI_API_KEY, OPENAI_BASE_URL, ANTHROPIC_API_KEY, OLLAMA_BASE_URL."
)


_KEY_VARIABLES = {
    "openai": "OPENAI_API_KEY",
    "openai-chat": "OPENAI_API_KEY",
    "openai-responses": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
}
"""The variable of the key, by provider."""

_UNSET_VARIABLE = re.compile(r"Set the `(\w+)` environment variable")
"""How pydantic-ai says that a variable of a provider is not set."""


class LlamaCppModel(OpenAIChatModel):
    """A model in llama.cpp's server, which enforces every part of a JSON schema."""

    @property
    def system(self) -> str:
        """The name of the provider, as in LLM_MODEL."""
        return "gguf"


class LLMError(Exception):
    """The LLM named by LLM_MODEL cannot be used; the message says why."""


def without_retries(model: str | Model, max_answer_bytes: int = MAX_ANSWER_BYTES) -> Model:
    """The model, with a client that does not retry: retries at two levels would exceed every deadline.

    max_answer_bytes: the maximum size of an answer of the server.
    Raises LLMError if there is no such model or its key is not set.
    """
    if isinstance(model, str) and not all(part.strip() for part in model.partition(":")[::2]):
        raise LLMError(f"LLM_MODEL={model}: expected provider:model. {_MODEL_HELP}")
    _check_key(model)
    try:
        inferred = infer_model(model, partial(_bounded_provider, max_answer_bytes))
    except (UserError, ImportError, ValueError, TypeError) as error:
        if unset := _UNSET_VARIABLE.match(str(error)):
            raise LLMError(f"LLM_MODEL={model}: {unset[1]} is not set, and this provider needs it.") from None
        raise LLMError(f"LLM_MODEL={model}: {str(error).split('. ')[0].rstrip('.')}. {_MODEL_HELP}") from None
    client: Any = getattr(inferred, "client", None)
    if hasattr(client, "max_retries"):
        client.max_retries = 0
    return inferred


def output_type(model: Model, mode: OutputMode, schema: Mapping[str, Any]) -> Any:
    """The output type of an agent whose answers have a JSON schema, as an object."""
    answer = StructuredDict(dict(schema), name="tips", description="The tips for this person.")
    # OpenAI enforces a schema only in its strict form, without lengths; others enforce lengths, and need them.
    strict = True if _is_openai(model) else None
    if is_native(model, mode):
        return NativeOutput(answer, name="tips", strict=strict)
    return ToolOutput(answer, name="final_result", strict=strict)


def is_native(model: Model, mode: OutputMode) -> bool:
    """Whether a model is given the JSON schema natively in this mode, and not as a tool."""
    return mode == "native" or (mode == "auto" and bool(model.profile.get("supports_json_schema_output")))


def model_settings(model: Model, cache_key: str, *, is_flex: bool = False) -> ModelSettings:
    """The settings of a request: its largest answer, and what the provider may keep for other requests.

    cache_key: equal for requests with equal beginnings.
    is_flex: whether the answer may come late, at a lower price.
    """
    settings: dict[str, Any] = {"max_tokens": _MAX_OUTPUT_TOKENS, "cache": {"messages": False}}
    if _is_openai(model):  # other servers with the same API may refuse what they do not know
        settings["openai_prompt_cache_key"] = cache_key
    if is_flex:
        settings["service_tier"] = "flex"
    return cast(ModelSettings, settings)


def _check_key(model: str | Model) -> None:
    """Raise LLMError if the variable of the provider's key is set, but has no key in it."""
    variable = _KEY_VARIABLES.get(model.partition(":")[0]) if isinstance(model, str) else None
    if variable is not None and variable in os.environ and not os.environ[variable].strip():
        raise LLMError(f"LLM_MODEL={model}: {variable} is empty. Set it to a key of the provider.")


def _is_openai(model: Model) -> bool:
    return urlsplit(model.base_url or "").hostname == _OPENAI_HOST


def _bounded_provider(max_answer_bytes: int, name: str) -> Provider[Any]:
    """A provider with our own HTTP client; raises TypeError if the provider takes none."""
    provider_class: Callable[..., Provider[Any]] = infer_provider_class(name)
    return provider_class(http_client=bounded_client(max_answer_bytes))
