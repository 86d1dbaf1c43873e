"""Candidates written by an LLM, behind one small protocol."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from math import isfinite
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, Field, SkipValidation, ValidationError
from pydantic_ai import Agent, ModelRetry, RunContext, capture_run_messages
from pydantic_ai.exceptions import ContentFilterError, UnexpectedModelBehavior, UsageLimitExceeded, UserError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, infer_model
from pydantic_ai.providers import Provider, infer_provider_class
from pydantic_ai.usage import RunUsage, UsageLimits

from contexts.assembly.model import UserContext
from contexts.circuit import Circuit, CircuitOpen
from tips.bounded_http import MAX_INT4, bounded_client
from tips.candidates import MAX_BODY_CHARS, MAX_TASKS, MAX_TITLE_CHARS, GeneratedTip, Kind
from tips.prompt import INSTRUCTIONS, N_CANDIDATES, prompt
from tips.violations import violations

log = logging.getLogger(__name__)

LLMOutcome = Literal["answered", "repaired", "invalid", "late", "refused", "failed"]

_MIN_GOOD_TIPS = 2
"""With this many good candidates no repair is requested: there is something to choose from."""

_ONE_REPAIR = UsageLimits(request_limit=2)
"""One repair in total: pydantic-ai counts the repairs of each kind of error separately."""

_MODEL_HELP = (
    "Write openai:NAME, anthropic:NAME, ollama:NAME, or openai-chat:NAME for any compatible server, and set the"
    " provider's own variables: OPENAI_API_KEY, OPENAI_BASE_URL, ANTHROPIC_API_KEY, OLLAMA_BASE_URL."
)

_MIN_CALL_S = 0.2
"""With less time than this the model is not called: missing such a deadline would count as its failure."""

_MAX_CANDIDATES = 2 * N_CANDIDATES
"""The maximum number of candidates of one answer that are read."""

_MAX_COST_USD = 1000.0
"""A call that is said to cost more has an unknown cost."""

_MAX_OUTPUT_TOKENS = 1500


class LLMError(Exception):
    """The LLM named by LLM_MODEL cannot be used; the message says why."""


@dataclass(frozen=True)
class LLMUsage:
    """The cost of one call, by answered requests.

    input_tokens, output_tokens: None if the server told no number, or an impossible one.
    cost_usd: None if the tokens or the price of the model are unknown.
    """

    model: str
    outcome: LLMOutcome
    n_requests: int
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    seconds: float


@dataclass(frozen=True)
class Generation:
    """The good candidates of one call, possibly none. usage: None if the model was not called."""

    tips: tuple[GeneratedTip, ...]
    usage: LLMUsage | None


class CandidateGenerator(Protocol):
    """Writes candidates for a context."""

    async def generate(self, context: UserContext, today: date, *, timeout_s: float) -> Generation:
        """Good candidates, or none; never raises for an error of the model or its server.

        today: the user's date.
        timeout_s: the caller's deadline.
        """
        ...


class _Candidate(BaseModel):
    kind: Kind
    title: str = Field(description=f"up to 60 characters, at most {MAX_TITLE_CHARS}")
    body: str = Field(description=f"one or two sentences, at most {MAX_BODY_CHARS} characters")
    task_ids: list[str] = Field(default_factory=list, description=f"up to {MAX_TASKS} ids of the context's tasks")
    theme: str | None = Field(None, description="id of a theme of the context")
    only_today: bool = Field(True, description="whether its words hold on this day only")


def _first(candidates: object) -> object:
    return candidates[:_MAX_CANDIDATES] if isinstance(candidates, list) else candidates


class Candidates(BaseModel):  # its name, docstring and fields are the JSON schema that the model gets
    """The tips for this person."""

    # Each candidate is validated by itself, so that a bad one costs none of the others.
    candidates: Annotated[
        list[SkipValidation[_Candidate]],
        BeforeValidator(_first),
        Field(min_length=1, max_length=_MAX_CANDIDATES),
    ]


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
        new_mark: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """Raises LLMError if there is no such model or its key is not set.

        model: name as in pydantic-ai; its key and address come from the environment variables of its provider.
        timeout_s: upper bound for one call, its repair included.
        new_mark: the random mark of a prompt's data.
        """
        self._model = _without_retries(model)
        self._timeout_s = timeout_s
        self._new_mark = new_mark
        self._agent = _agent(self._model)
        self._circuit = Circuit(_is_down)

    @property
    def name(self) -> str:
        """The provider and the model: openai:gpt-5-mini."""
        return f"{self._model.system}:{self._model.model_name}"

    async def generate(self, context: UserContext, today: date, *, timeout_s: float) -> Generation:
        """Good candidates, or none; see `CandidateGenerator`."""
        call, usage, started_at = _CallState(context), RunUsage(), time.monotonic()
        outcome: LLMOutcome
        if timeout_s < _MIN_CALL_S:
            return Generation((), None)
        user_prompt = prompt(context, today, self._new_mark())
        messages: list[ModelMessage] = []
        try:
            # One user's context can be what the model fails at, so the circuit tells contexts apart.
            with self._circuit.call(_digest(context)), capture_run_messages() as messages:
                async with asyncio.timeout(min(timeout_s, self._timeout_s)):
                    await self._agent.run(user_prompt, deps=call, usage=usage, usage_limits=_ONE_REPAIR)
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
            outcome = "failed"
        seconds = time.monotonic() - started_at
        return Generation(call.good[:N_CANDIDATES], _usage(self.name, outcome, usage, messages, seconds))


def _is_down(error: Exception) -> bool:
    """Whether an error means that the model's server is down; a bad answer is an answer."""
    return not isinstance(error, UnexpectedModelBehavior | UsageLimitExceeded)


def _digest(context: UserContext) -> str:
    return sha256(context.model_dump_json().encode()).hexdigest()


def _agent(model: Model) -> Agent[_CallState, Candidates]:
    agent = Agent(
        model,
        output_type=Candidates,
        instructions=INSTRUCTIONS,
        deps_type=_CallState,
        retries=1,
        model_settings={"max_tokens": _MAX_OUTPUT_TOKENS},
        name="tips",
    )

    @agent.output_validator
    def keep_good(run: RunContext[_CallState], output: Candidates) -> Candidates:
        """Keep the good candidates; request a repair if there are too few, and accept any number after it."""
        call = run.deps
        call.n_answers += 1
        good, complaints = _checked(output.candidates, call.context)
        call.good = _distinct((*call.good, *good))
        if len(call.good) < _MIN_GOOD_TIPS and call.n_answers == 1:
            mistakes = complaints or [f"there are fewer than {_MIN_GOOD_TIPS} tips"]
            raise ModelRetry("Correct these mistakes and write all tips again. " + "; ".join(mistakes))
        return output

    return agent


def _checked(candidates: Sequence[object], context: UserContext) -> tuple[list[GeneratedTip], list[str]]:
    """The good candidates, and complaints about the others."""
    good, complaints = list[GeneratedTip](), list[str]()
    for number, candidate in enumerate(candidates, 1):
        try:
            tip = GeneratedTip.model_validate(_Candidate.model_validate(candidate).model_dump())
        except ValidationError as error:
            complaints.append(f"candidate {number}: {_mistakes(error)}")
            continue
        broken_rules = violations(tip, context)
        complaints += [f"candidate {number}: {rule}" for rule in broken_rules]
        if not broken_rules:
            good.append(tip)
    return good, complaints


def _mistakes(error: ValidationError) -> str:
    """The fields that are wrong, and why: "title: String should have at most 80 characters"."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    fields = {str(detail["loc"][0]) if detail["loc"] else "candidate": detail["msg"] for detail in details}
    return ", ".join(f"{name}: {message}" for name, message in fields.items())


def _distinct(tips: Sequence[GeneratedTip]) -> tuple[GeneratedTip, ...]:
    return tuple({(tip.kind, tip.title): tip for tip in tips}.values())


def _without_retries(model: str | Model) -> Model:
    """The model, with a client that does not retry: retries at two levels would exceed every deadline."""
    if isinstance(model, str) and not all(part.strip() for part in model.partition(":")[::2]):
        raise LLMError(f"LLM_MODEL={model}: expected provider:model. {_MODEL_HELP}")
    try:
        inferred = infer_model(model, _bounded_provider)
    except (UserError, ImportError, ValueError, TypeError) as error:
        raise LLMError(f"LLM_MODEL={model}: {str(error).split('. ')[0].rstrip('.')}. {_MODEL_HELP}") from None
    client: Any = getattr(inferred, "client", None)
    if hasattr(client, "max_retries"):
        client.max_retries = 0
    return inferred


def _bounded_provider(name: str) -> Provider[Any]:
    """A provider with our own HTTP client; raises TypeError if the provider takes none."""
    provider_class: Callable[..., Provider[Any]] = infer_provider_class(name)
    return provider_class(http_client=bounded_client())


def _usage(
    model: str, outcome: LLMOutcome, usage: RunUsage, messages: Sequence[ModelMessage], seconds: float
) -> LLMUsage:
    """The usage of a call with these messages. A response to a prompt without input tokens has an unknown usage."""
    responses = [message for message in messages if isinstance(message, ModelResponse)]
    figures = (usage.input_tokens, usage.output_tokens)
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
    )
