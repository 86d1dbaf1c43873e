"""A stand-in for an OpenAI-compatible LLM: seeded, with an injected clock and whatever behaviour a test needs."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from math import inf
from random import Random
from threading import RLock

from starlette.applications import Starlette

from local.llm.app import build_app
from local.llm.asked import Asked, read_asked
from local.llm.behaviours import REFUSAL, Behaviour, Saying, written
from local.llm.completions import answer, completion, filtered, rate_limited, refusal, server_error
from local.server import serving
from local.wire import RefusedError, Reply, json_reply


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Call:
    """A call to write. behaviour: its name, or "refused" for a request that was none; prompt: all message texts;
    status 0 means that no answer came."""

    at: datetime
    model: str
    behaviour: str
    prompt: str
    status: int


class LocalLLM:
    """One model that answers every call, at once or after `seconds`; many calls wait side by side.

    `behaviour` and `seconds` may be set while it is served. `slow_seconds` come on top for a SLOW answer, and
    `retry_after` is what a RATE_LIMITED one asks for. Tokens are taken as 4 bytes each.
    """

    def __init__(
        self,
        *,
        behaviour: Behaviour | Saying = Behaviour.GOOD,
        seconds: float = 0.0,
        slow_seconds: float = 5.0,
        retry_after: int = 1,
        model: str = "local",
        seed: int = 0,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.behaviour = behaviour
        self.seconds = seconds
        self.calls: list[Call] = []
        self._slow_seconds = slow_seconds
        self._retry_after = retry_after
        self._model = model
        self._seed = seed
        self._clock = clock
        self._next: deque[Behaviour | Saying] = deque()
        self._ids = Random(f"{seed}/ids")
        self._lock = RLock()

    @cached_property
    def app(self) -> Starlette:
        return build_app(self)

    def now(self) -> datetime:
        return self._clock()

    def next(self, *behaviours: Behaviour | Saying) -> None:
        """Queue behaviours, one for each coming call; after them it is `behaviour` again."""
        with self._lock:
            self._next.extend(behaviours)

    def chat(self, body: bytes) -> Reply:
        """Answer a call to /v1/chat/completions."""
        with self._lock:
            try:
                asked = read_asked(body)
            except RefusedError as refused:
                self.calls.append(Call(self.now(), "", "refused", "", refused.reply.status))
                return refused.reply
            behaviour = self._next.popleft() if self._next else self.behaviour
            reply = self._reply(behaviour, asked)
            self.calls.append(Call(self.now(), asked.model, _name(behaviour), asked.prompt, reply.status))
            return replace(reply, before=reply.before + self.seconds)

    def models(self) -> Reply:
        """Answer a call to /v1/models."""
        model = {"id": self._model, "object": "model", "created": 0, "owned_by": "local"}
        return json_reply({"object": "list", "data": [model]})

    def _reply(self, behaviour: Behaviour | Saying, asked: Asked) -> Reply:
        match behaviour:
            case Behaviour.RATE_LIMITED:
                return rate_limited(self._retry_after)
            case Behaviour.SERVER_ERROR:
                return server_error()
            case Behaviour.CUT:
                return Reply(0, b"", cut="unanswered")
            case Behaviour.HANG:
                return Reply(0, b"", before=inf, cut="unanswered")
            case Behaviour.SLOW:
                return replace(self._completion(behaviour, asked), before=self._slow_seconds)
            case _:
                return self._completion(behaviour, asked)

    def _completion(self, behaviour: Behaviour | Saying, asked: Asked) -> Reply:
        match behaviour:
            case Behaviour.REFUSING:
                text, choice = REFUSAL, refusal(REFUSAL)
            case Behaviour.FILTERED:
                text, choice = "", filtered()
            case _:
                text = written(behaviour, asked, self._seed)
                choice = answer(text, asked.tool, self._id("call"))
        created = int(self.now().timestamp())
        id = self._id("chatcmpl")
        return json_reply(
            completion(choice, id=id, model=asked.model, created=created, prompt=asked.prompt, text=text)
        )

    def _id(self, kind: str) -> str:
        return f"{kind}-{self._ids.getrandbits(96):024x}"


def _name(behaviour: Behaviour | Saying) -> str:
    return behaviour.value if isinstance(behaviour, Behaviour) else "saying"


@contextmanager
def running(llm: LocalLLM, port: int = 0) -> Iterator[str]:
    """Serve on 127.0.0.1 from a thread, on any free port for 0, and yield the base URL; clients add /v1."""
    with serving(llm.app, port) as base_url:
        yield base_url
