"""Candidates written by an LLM, behind one small protocol."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from http import HTTPStatus
from math import isfinite
from typing import Any, Literal, Protocol

from pydantic_ai import Agent, ModelRetry, RunContext, capture_run_messages
from pydantic_ai.exceptions import ContentFilterError, ModelHTTPError, UnexpectedModelBehavior, UsageLimitExceeded
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RunUsage, UsageLimits

from contexts.assembly.model import UserContext
from contexts.circuit import Circuit, CircuitOpen
from tips.answers import N_CANDIDATES, answer_schema, read_answer
from tips.bounded_http import MAX_INT4
from tips.candidates import GeneratedTip
from tips.models import LlamaCppModel, OutputMode, model_settings, output_type, without_retries
from tips.prompt import INSTRUCTIONS, data_mark, prompt

log = logging.getLogger(__name__)

LLMOutcome = Literal["answered", "repaired", "invalid", "late", "refused", "failed"]

_MIN_GOOD_TIPS = 2
"""With this many good candidates no repair is requested: there is something to choose from."""

_ONE_REPAIR = UsageLimits(request_limit=2)
"""One repair in total: pydantic-ai counts the repairs of each kind of error separately."""

_MIN_CALL_S = 0.2
"""With less time than this the model is not called: missing such a deadline would count as its failure."""

_MAX_COST_USD = 1000.0
"""A call that is said to cost more has an unknown cost."""


@dataclass(frozen=True)
class LLMUsage:
    """The cost of one call, by answered requests.

    input_tokens, output_tokens: None if the server told no number, or an impossible one.
    cached_tokens: input tokens that the provider read from its cache, which cost less; None as for the others.
    cost_usd: None if the tokens or the price of the model are unknown.
    """

    model: str
    outcome: LLMOutcome
    n_requests: int
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    seconds: float
    cached_tokens: int | None = None


@dataclass(frozen=True)
class Generation:
    """The good candidates of one call, possibly none.

    usage: None if the model was not called.
    wait_s: seconds to wait before the next call, if the provider refused this one because of its limits; 0: it did
    not say how long.
    """

    tips: tuple[GeneratedTip, ...]
    usage: LLMUsage | None
    wait_s: float | None = None


class CandidateGenerator(Protocol):
    """Writes candidates for a context."""

    async def generate(self, context: UserContext, today: date, *, timeout_s: float) -> Generation:
        """Good candidates, or none; never raises for an error of the model or its server.

        today: the user's date.
        timeout_s: the caller's deadline.
        """
        ...


@dataclass
class _CallState:
    """The state of one call: the context for the checks, and the good candidates so far."""

    context: UserContext
    good: tuple[GeneratedTip, ...] = ()
    n_answers: int = 0


class LLMGenerator:
    """A model called through pydantic-ai: structured output, each candidate checked, one repair, one deadline."""

    def __init__(
        self,
        model: str | Model,
        *,
        timeout_s: float = 6.0,
        mark_secret: bytes | None = None,
        output: OutputMode = "auto",
        is_flex: bool = False,
        waits: bool = False,
    ) -> None:
        """Raises LLMError if there is no such model or its key is not set.

        model: name as in pydantic-ai; its key and address come from the environment variables of its provider.
        timeout_s: upper bound for one call, its repair included.
        mark_secret: makes the mark around a prompt's data; the same one in all processes makes the same prompts.
        None: a random one.
        is_flex: whether calls may be slow, at a lower price, where the provider has such a tier.
        waits: whether the caller waits as long as the provider says, so that a refusal is no sign of an outage.
        """
        self._model = without_retries(model)
        self._timeout_s = timeout_s
        self._mark_secret = mark_secret or secrets.token_bytes(32)
        self._output = output
        self._is_flex = is_flex
        self._circuit = Circuit(_is_down_beyond_limits if waits else _is_down)

    @property
    def name(self) -> str:
        """The provider and the model: openai:gpt-5-mini."""
        return f"{self._model.system}:{self._model.model_name}"

    async def generate(self, context: UserContext, today: date, *, timeout_s: float) -> Generation:
        """Good candidates, or none; see `CandidateGenerator`."""
        call, usage, started_at = _CallState(context), RunUsage(), time.monotonic()
        outcome: LLMOutcome
        wait_s: float | None = None
        if timeout_s < _MIN_CALL_S:
            return Generation((), None)
        user_prompt = prompt(context, today, data_mark(self._mark_secret, context))
        messages: list[ModelMessage] = []
        try:
            # One user's context can be what the model fails at, so the circuit tells contexts apart.
            with self._circuit.call(_digest(context)), capture_run_messages() as messages:
                async with asyncio.timeout(min(timeout_s, self._timeout_s)):
                    agent = self._agent(context)
                    await agent.run(user_prompt, deps=call, usage=usage, usage_limits=_ONE_REPAIR)
            outcome = "invalid" if not call.good else "answered" if usage.requests == 1 else "repaired"
        except CircuitOpen:
            return Generation((), None)
        except TimeoutError:
            outcome = "late"
        except ContentFilterError:
            outcome = "refused"
        except (UnexpectedModelBehavior, UsageLimitExceeded):
            outcome = "invalid"
        except Exception as error:  # a provider's client may raise anything for an odd answer
            log.warning("%s: %s %s", self.name, type(error).__name__, getattr(error, "status_code", ""))
            outcome, wait_s = "failed", _wait_s(error)
        seconds = time.monotonic() - started_at
        return Generation(call.good[:N_CANDIDATES], _usage(self.name, outcome, usage, messages, seconds), wait_s)

    def _agent(self, context: UserContext) -> Agent[_CallState, dict[str, Any]]:
        """An agent whose answers have the schema of this context."""
        schema = answer_schema(context, is_fixed=isinstance(self._model, LlamaCppModel))
        settings = model_settings(self._model, f"tips-{_digest_of(schema)}", is_flex=self._is_flex)
        return _agent(self._model, output_type(self._model, self._output, schema), settings)


def _is_down(error: Exception) -> bool:
    """Whether an error means that the model's server is down; a bad answer is an answer."""
    return not isinstance(error, UnexpectedModelBehavior | UsageLimitExceeded)


def _is_down_beyond_limits(error: Exception) -> bool | None:
    """Whether an error means that the model's server is down; a refusal because of its limits says nothing."""
    return None if _wait_s(error) is not None else _is_down(error)


def _wait_s(error: Exception) -> float | None:
    """Return the seconds to wait after a refusal because of limits: 429, or a server error that says how long."""
    if not isinstance(error, ModelHTTPError):
        return None
    if error.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        return error.retry_after or 0.0
    return error.retry_after


def _digest(context: UserContext) -> str:
    return sha256(context.model_dump_json().encode()).hexdigest()


def _agent(model: Model, output: Any, settings: ModelSettings) -> Agent[_CallState, dict[str, Any]]:
    agent: Agent[_CallState, dict[str, Any]] = Agent(
        model,
        output_type=output,
        instructions=INSTRUCTIONS,
        deps_type=_CallState,
        retries=1,
        model_settings=settings,
        name="tips",
    )

    @agent.output_validator
    def keep_good(run: RunContext[_CallState], output: dict[str, Any]) -> dict[str, Any]:
        """Keep the good candidates; request a repair if there are too few, and accept any number after it."""
        call = run.deps
        call.n_answers += 1
        good, complaints = read_answer(output, call.context)
        call.good = _distinct((*call.good, *good))
        if len(call.good) < _MIN_GOOD_TIPS and call.n_answers == 1:
            mistakes = complaints or [f"there are fewer than {_MIN_GOOD_TIPS} tips"]
            raise ModelRetry("Correct these mistakes and write all tips again. " + "; ".join(mistakes))
        return output

    return agent


def _digest_of(schema: dict[str, Any]) -> str:
    return sha256(json.dumps(schema).encode()).hexdigest()[:8]


def _distinct(tips: Sequence[GeneratedTip]) -> tuple[GeneratedTip, ...]:
    """The tips of which no other of the same kind has the same title or the same body."""
    by_title = {(tip.kind, tip.title): tip for tip in reversed(tips)}
    by_body = {(tip.kind, tip.body): tip for tip in by_title.values()}
    return tuple(reversed(by_body.values()))


def _usage(
    model: str, outcome: LLMOutcome, usage: RunUsage, messages: Sequence[ModelMessage], seconds: float
) -> LLMUsage:
    """The usage of a call with these messages. A response to a prompt without input tokens has an unknown usage."""
    responses = [message for message in messages if isinstance(message, ModelResponse)]
    figures = (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens)
    is_known = all(response.usage.input_tokens for response in responses) and max(figures) <= MAX_INT4
    cost = None if usage.cost is None else float(usage.cost)
    return LLMUsage(
        model=model,
        outcome=outcome,
        n_requests=usage.requests,
        input_tokens=usage.input_tokens if is_known else None,
        output_tokens=usage.output_tokens if is_known else None,
        cost_usd=cost if is_known and cost is not None and isfinite(cost) and 0 <= cost <= _MAX_COST_USD else None,
        seconds=seconds,
        cached_tokens=usage.cache_read_tokens if is_known else None,
    )
