"""The stand-in for an OpenAI-compatible LLM: seeded, with an injected clock and a configurable behaviour."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from math import inf
from random import Random
from threading import RLock

from starlette.applications import Starlette

from local.clock import utc_now
from local.faulty_http import RefusedError, Reply, json_reply
from local.llm.app import build_llm_app
from local.llm.batches import LocalBatches
from local.llm.behaviours import REFUSAL, AnswerFunction, Behaviour, answer_text
from local.llm.completions import (
    answer_choice,
    answer_output,
    completion,
    filtered_choice,
    filtered_output,
    no_room,
    rate_limited,
    refusal_choice,
    refusal_output,
    response,
    server_error,
)
from local.llm.request import CompletionRequest, read_completion_request, read_response_request
from local.server import running_server

WriteAnswer = Callable[[Behaviour | AnswerFunction, CompletionRequest], Reply]
"""Writes the answer of one of the APIs."""


@dataclass(frozen=True)
class LLMCall:
    """A call to /v1/chat/completions or /v1/responses, or a request in a batch.

    behaviour: its name; "function" for an AnswerFunction, "refused" for an invalid request.
    prompt: all message texts.
    status: 0 if the connection was closed without an answer.
    """

    at: datetime
    model: str
    behaviour: str
    prompt: str
    status: int


class LocalLLM:
    """A stand-in for one model; all its methods are thread-safe.

    behaviour, seconds: may be set while it is served; `seconds` delays every answer, without blocking others.
    slow_seconds: additional delay of Behaviour.SLOW.
    has_flex_room: whether calls of the flex service tier are answered; otherwise they get 429.
    batches: the files and batches of the batch API.
    retry_after: seconds in the Retry-After header of Behaviour.RATE_LIMITED.
    """

    def __init__(
        self,
        *,
        behaviour: Behaviour | AnswerFunction = Behaviour.GOOD,
        seconds: float = 0.0,
        slow_seconds: float = 5.0,
        retry_after: int = 1,
        model: str = "local",
        seed: int = 0,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.behaviour = behaviour
        self.seconds = seconds
        self.has_flex_room = True
        self.calls: list[LLMCall] = []
        self.batches = LocalBatches(self.respond, clock)
        self._slow_seconds = slow_seconds
        self._retry_after = retry_after
        self._model = model
        self._seed = seed
        self._clock = clock
        self._queue: deque[Behaviour | AnswerFunction] = deque()
        self._ids = Random(f"{seed}/ids")
        self._lock = RLock()

    @cached_property
    def app(self) -> Starlette:
        """The ASGI application."""
        return build_llm_app(self)

    def now(self) -> datetime:
        """The current time of the injected clock."""
        return self._clock()

    def next(self, *behaviours: Behaviour | AnswerFunction) -> None:
        """Queue behaviours, one per call; `behaviour` applies again once the queue is empty."""
        with self._lock:
            self._queue.extend(behaviours)

    def chat(self, body: bytes) -> Reply:
        """Answer a call to /v1/chat/completions."""
        return self._answer(body, read_completion_request, self._completion)

    def respond(self, body: bytes) -> Reply:
        """Answer a call to /v1/responses."""
        return self._answer(body, read_response_request, self._response)

    def _answer(self, body: bytes, read: Callable[[bytes], CompletionRequest], write: WriteAnswer) -> Reply:
        with self._lock:
            try:
                request = read(body)
            except RefusedError as refused:
                self.calls.append(LLMCall(self.now(), "", "refused", "", refused.reply.status))
                return refused.reply
            behaviour = self._queue.popleft() if self._queue else self.behaviour
            is_flex = request.body.get("service_tier") == "flex"
            reply = no_room() if is_flex and not self.has_flex_room else self._reply(behaviour, request, write)
            self.calls.append(LLMCall(self.now(), request.model, _name(behaviour), request.prompt, reply.status))
            return replace(reply, delay_s=reply.delay_s + self.seconds)

    def models(self) -> Reply:
        """Answer a call to /v1/models."""
        model = {"id": self._model, "object": "model", "created": 0, "owned_by": "local"}
        return json_reply({"object": "list", "data": [model]})

    def _reply(self, behaviour: Behaviour | AnswerFunction, request: CompletionRequest, write: WriteAnswer) -> Reply:
        match behaviour:
            case Behaviour.RATE_LIMITED:
                return rate_limited(self._retry_after)
            case Behaviour.SERVER_ERROR:
                return server_error()
            case Behaviour.DISCONNECT:
                return Reply(0, b"", disconnect="before_headers")
            case Behaviour.HANG:
                return Reply(0, b"", delay_s=inf, disconnect="before_headers")
            case Behaviour.SLOW:
                return replace(write(behaviour, request), delay_s=self._slow_seconds)
            case _:
                return write(behaviour, request)

    def _completion(self, behaviour: Behaviour | AnswerFunction, request: CompletionRequest) -> Reply:
        match behaviour:
            case Behaviour.REFUSING:
                text, choice = REFUSAL, refusal_choice(REFUSAL)
            case Behaviour.FILTERED:
                text, choice = "", filtered_choice()
            case _:
                text = answer_text(behaviour, request, self._seed)
                choice = answer_choice(text, request.tool, self._id("call"))
        created = int(self.now().timestamp())
        id = self._id("chatcmpl")
        return json_reply(
            completion(choice, id=id, model=request.model, created=created, prompt=request.prompt, text=text)
        )

    def _response(self, behaviour: Behaviour | AnswerFunction, request: CompletionRequest) -> Reply:
        text, id = "", self._id("r")
        match behaviour:
            case Behaviour.REFUSING:
                text, output = REFUSAL, refusal_output(REFUSAL, id)
            case Behaviour.FILTERED:
                output = filtered_output(id)
            case _:
                text = answer_text(behaviour, request, self._seed)
                output = answer_output(text, request.tool, id)
        created = int(self.now().timestamp())
        return json_reply(response(output, model=request.model, created=created, prompt=request.prompt, text=text))

    def _id(self, kind: str) -> str:
        return f"{kind}-{self._ids.getrandbits(96):024x}"


def _name(behaviour: Behaviour | AnswerFunction) -> str:
    return behaviour.value if isinstance(behaviour, Behaviour) else "function"


@contextmanager
def running_llm(llm: LocalLLM, port: int = 0) -> Iterator[str]:
    """Serve on 127.0.0.1 from a thread and yield the base URL, to which clients add /v1.

    port: 0 for any free port.
    """
    with running_server(llm.app, port) as base_url:
        yield base_url
