"""The author of candidates: an LLM behind one small protocol."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, Protocol

from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState
from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.exceptions import ContentFilterError, UnexpectedModelBehavior, UsageLimitExceeded, UserError
from pydantic_ai.models import Model, infer_model
from pydantic_ai.usage import RunUsage, UsageLimits

from contexts.model import UserContext
from serving.candidates import MAX_BODY, MAX_TASKS, MAX_TITLE, Kind, Spoken, faults
from serving.prompt import INSTRUCTIONS, N_CANDIDATES, prompt

log = logging.getLogger(__name__)

Outcome = Literal["answered", "repaired", "invalid", "late", "refused", "failed"]

_ENOUGH = 2
"""So many good candidates are worth an answer without a repair: there is something to choose from."""

_ONE_REPAIR = UsageLimits(request_limit=2)
"""pydantic-ai counts repairs by what was wrong; this holds whatever goes wrong in turn."""

_HOW = (
    "Write openai:NAME, anthropic:NAME, ollama:NAME, or openai-chat:NAME for any compatible server, and set the"
    " provider's own variables: OPENAI_API_KEY, OPENAI_BASE_URL, ANTHROPIC_API_KEY, OLLAMA_BASE_URL."
)

_LEAST = 0.2
"""Seconds below which the model is not asked: that it cannot answer so fast would count as its failure."""

_MAX_TOKENS = 1500
_FAILURES = 5
_OPEN_SECONDS = 30.0


class ModelError(Exception):
    """The LLM that LLM_MODEL names cannot be used; the message says why."""


@dataclass(frozen=True)
class Usage:
    """What a call took. n_requests, tokens: of what was answered; cost_usd: None where the price is not known."""

    model: str
    outcome: Outcome
    n_requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    seconds: float


@dataclass(frozen=True)
class Written:
    """What came of it: good candidates, or none. usage: None when the model was not asked."""

    tips: tuple[Spoken, ...]
    usage: Usage | None


class Author(Protocol):
    """Whoever can write candidates for a context."""

    async def write(self, context: UserContext, today: date, *, within: float) -> Written:
        """Good candidates, or none, within so many seconds; never raises for what the model or its server does."""
        ...


class _Candidate(BaseModel):
    kind: Kind
    title: str = Field(description=f"up to 60 characters, at most {MAX_TITLE}")
    body: str = Field(description=f"one or two sentences, at most {MAX_BODY} characters")
    task_ids: list[str] = Field(default_factory=list, description=f"up to {MAX_TASKS} ids of the context's tasks")
    theme: str | None = Field(None, description="id of a theme of the context")
    only_today: bool = Field(True, description="whether its words hold on this day only")


class Candidates(BaseModel):
    """The tips for this person."""

    candidates: list[_Candidate] = Field(min_length=1, max_length=2 * N_CANDIDATES)


@dataclass
class _Run:
    """One call's own: the context that answers are checked against, and the good candidates so far."""

    context: UserContext
    good: tuple[Spoken, ...] = ()
    n_answers: int = 0


class LLM:
    """A model through pydantic-ai: structured output, each candidate checked, one repair, one deadline."""

    def __init__(
        self, model: str | Model, *, seconds: float = 6.0, marks: Callable[[], str] = lambda: secrets.token_hex(8)
    ) -> None:
        """model: as pydantic-ai names it; its key and address come from the variables of its provider.

        ModelError when there is no such model, or its key is not set.
        """
        self._model = _without_retries(model)
        self._seconds = seconds
        self._marks = marks
        self._agent = _agent(self._model)
        self._breakers = AsyncCircuitBreakerFactory(
            default_threshold=_FAILURES,
            default_ttl=_OPEN_SECONDS,
            exclude=[UnexpectedModelBehavior, UsageLimitExceeded],
        )

    @property
    def name(self) -> str:
        return f"{self._model.system}:{self._model.model_name}"

    async def write(self, context: UserContext, today: date, *, within: float) -> Written:
        run, usage, began = _Run(context), RunUsage(), time.monotonic()
        outcome: Outcome
        if within < _LEAST:
            return Written((), None)
        asked = prompt(context, today, self._marks())
        try:
            async with await self._breakers.get_breaker("llm"), asyncio.timeout(min(within, self._seconds)):
                await self._agent.run(asked, deps=run, usage=usage, usage_limits=_ONE_REPAIR)
            outcome = "invalid" if not run.good else "answered" if usage.requests == 1 else "repaired"
        except OpenedState:
            return Written((), None)
        except TimeoutError:
            outcome = "late"
        except ContentFilterError:
            outcome = "refused"
        except (UnexpectedModelBehavior, UsageLimitExceeded):
            outcome = "invalid"
        except Exception as error:  # clients of providers raise whatever an odd answer makes them
            log.warning("%s: %s %s", self.name, type(error).__name__, getattr(error, "status_code", ""))
            outcome = "failed"
        seconds = time.monotonic() - began
        return Written(run.good[:N_CANDIDATES], _usage(self._model, outcome, usage, seconds))


def _agent(model: Model) -> Agent[_Run, Candidates]:
    agent = Agent(
        model,
        output_type=Candidates,
        instructions=INSTRUCTIONS,
        deps_type=_Run,
        retries=1,
        model_settings={"max_tokens": _MAX_TOKENS},
        name="tips",
    )

    @agent.output_validator
    def _keep_the_good(run: RunContext[_Run], output: Candidates) -> Candidates:
        """Keep what is good; ask for a repair where that is too little, and take what there is after it."""
        run.deps.n_answers += 1
        good, wrong = checked(output.candidates, run.deps.context)
        run.deps.good = _distinct((*run.deps.good, *good))
        if len(run.deps.good) < _ENOUGH and run.deps.n_answers == 1:
            raise ModelRetry("Write the tips again, and mend this: " + "; ".join(wrong or ["write more tips"]))
        return output

    return agent


def checked(candidates: Sequence[_Candidate], context: UserContext) -> tuple[list[Spoken], list[str]]:
    """The good candidates, and what is wrong with the others."""
    good, wrong = list[Spoken](), list[str]()
    for number, candidate in enumerate(candidates, 1):
        try:
            tip = Spoken.model_validate(candidate.model_dump())
        except ValueError:
            wrong.append(f"candidate {number}: too long, empty, or more than {MAX_TASKS} tasks")
            continue
        found = faults(tip, context)
        wrong += [f"candidate {number}: {each}" for each in found]
        if not found:
            good.append(tip)
    return good, wrong


def _distinct(tips: Sequence[Spoken]) -> tuple[Spoken, ...]:
    return tuple({(tip.kind, tip.title): tip for tip in tips}.values())


def _without_retries(model: str | Model) -> Model:
    """The model; its client asks once, because retries that multiply overrun every deadline."""
    if isinstance(model, str) and not all(part.strip() for part in model.partition(":")[::2]):
        raise ModelError(f"LLM_MODEL={model}: provider and model are wanted. {_HOW}")
    try:
        found = infer_model(model)
    except (UserError, ImportError, ValueError) as error:
        raise ModelError(f"LLM_MODEL={model}: {str(error).split('. ')[0].rstrip('.')}. {_HOW}") from None
    client: Any = getattr(found, "client", None)
    if hasattr(client, "max_retries"):
        client.max_retries = 0
    return found


def _usage(model: Model, outcome: Outcome, usage: RunUsage, seconds: float) -> Usage:
    return Usage(
        model=f"{model.system}:{model.model_name}",
        outcome=outcome,
        n_requests=usage.requests,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_usd=None if usage.cost is None else float(usage.cost),
        seconds=seconds,
    )
