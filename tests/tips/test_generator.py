"""The LLM over real HTTP: a stand-in answers well, badly, late, or as titles instruct it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from itertools import product
from time import monotonic
from typing import Any

import pytest
from hostile import INJECTIONS, PAYLOADS, QUIET_INJECTIONS
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from strategies import context
from tip_examples import context_json

from contexts.assembly.model import Task, Theme, UserContext, tasks_shown
from local.llm import AnswerFunction, Behaviour, LocalLLM, running_llm
from local.llm.answer_schema import read_answer_schema
from local.llm.context import context_in
from local.llm.injected_author import injected_tips
from local.server import running_server
from tips.answers import N_CANDIDATES, answer_schema
from tips.candidates import KINDS, Tip
from tips.generator import Generation, LLMGenerator
from tips.models import LLMError
from tips.prompt import INSTRUCTIONS
from tips.texts import plain_words
from tips.violations import violations

TODAY = date(2026, 11, 23)
KNOWN = context(
    "Renew the passport",
    Task("t1", "Call the plumber", due_date="2026-11-20"),
    Task("t2", "Send the invoice to Miller", due_date="2026-11-23", priority=4),
    themes={"house and garden": ["t0", "t1"]},
)
SHORT_TIMEOUT_S = 0.5
"""A timeout for tests that wait for its end."""

NOTHING = Generation((), None)
GOOD = {"kind": "focus", "title": "One thing first", "body": ["Begin with ", {"task": "t2"}, " before mail."]}
ALSO_GOOD = {"kind": "plan", "title": "A look ahead", "body": ["Keep an hour for ", {"task": "t3"}, "."], "tasks": []}


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[LocalLLM, str]]:
    stand_in = LocalLLM(slow_seconds=0.2)
    with running_llm(stand_in) as url:
        yield stand_in, url


@pytest.fixture
def local(address: tuple[LocalLLM, str], monkeypatch: pytest.MonkeyPatch) -> LocalLLM:
    """The stand-in in its initial state, at the address that the environment names."""
    stand_in, url = address
    stand_in.behaviour = Behaviour.GOOD
    stand_in.calls.clear()
    for name in ("OPENAI_BASE_URL", "OLLAMA_BASE_URL"):
        monkeypatch.setenv(name, f"{url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    return stand_in


def written(
    about: UserContext = KNOWN,
    *,
    model: str = "openai-chat:local",
    timeout_s: float = 5.0,
    own_timeout_s: float = 5.0,
) -> Generation:
    """The generation of a new LLM client."""
    [made] = in_turn(LLMGenerator(model, timeout_s=own_timeout_s), [about], timeout_s=timeout_s)
    return made


def in_turn(llm: LLMGenerator, users: Sequence[UserContext], *, timeout_s: float = 5.0) -> list[Generation]:
    """The generations for one user after the other."""

    async def run() -> list[Generation]:
        return [await llm.generate(user, TODAY, timeout_s=timeout_s) for user in users]

    return asyncio.run(run())


def answering(*candidates: Mapping[str, Any]) -> AnswerFunction:
    return lambda _: {"candidates": list(candidates)}


def are_good(tips: Sequence[Tip], about: UserContext = KNOWN) -> bool:
    return 2 <= len(tips) <= N_CANDIDATES and not any(violations(tip, about) for tip in tips)


class TestGenerate:
    def test_good(self, local: LocalLLM) -> None:
        """A good model is called once, and writes five valid candidates of different kinds."""
        made = written()
        assert are_good(made.tips)
        assert len(made.tips) == N_CANDIDATES
        assert {tip.kind for tip in made.tips} == set(KINDS)
        assert made.usage is not None
        assert (made.usage.outcome, made.usage.n_requests, len(local.calls)) == ("answered", 1, 1)

    def test_prompt(self, local: LocalLLM) -> None:
        """The instructions come first, then the user's data under a mark of its own, then the date."""
        written(), written(context("Water the plants"))
        one, other = (call.prompt for call in local.calls)
        assert one.startswith(INSTRUCTIONS) and other.startswith(INSTRUCTIONS)
        [first, second] = (text[len(INSTRUCTIONS) :].strip().splitlines() for text in (one, other))
        assert first[0] != second[0]
        assert "passport" in first[1] and "plants" in second[1]
        assert first[-1] == second[-1] == "Today is Monday, 2026-11-23."

    def test_same_bytes(self, local: LocalLLM) -> None:
        """Processes with one secret send the same prompt for the same context; another secret makes another mark."""
        for secret in (b"x" * 32, b"x" * 32, b"y" * 32):
            in_turn(LLMGenerator("openai-chat:local", mark_secret=secret), [KNOWN])
        one, again, other = (call.prompt for call in local.calls)
        assert one == again != other

    @pytest.mark.parametrize(("output", "is_native"), [("auto", True), ("native", True), ("tool", False)])
    def test_output(self, local: LocalLLM, output: Any, is_native: bool) -> None:
        """A model is asked by a JSON schema if its provider has them, by a tool call if that is set."""
        asked: list[Mapping[str, Any]] = []

        def saying(request: Mapping[str, Any]) -> Mapping[str, Any]:
            asked.append(request)
            return {"candidates": [GOOD, ALSO_GOOD]}

        local.next(saying)
        [made] = in_turn(LLMGenerator("openai-chat:local", output=output), [KNOWN])
        assert are_good(made.tips)
        [request] = asked
        assert ("response_format" in request, "tools" in request) == (is_native, not is_native)
        form = (
            request["response_format"]["json_schema"]["schema"]
            if is_native
            else request["tools"][0]["function"]["parameters"]
        )
        fields = form["properties"]["candidates"]["items"]["properties"]
        assert fields["tasks"]["items"]["enum"] == ["t1", "t2", "t3"]
        assert fields["title"]["maxLength"] == 60

    def test_too_many(self, local: LocalLLM) -> None:
        """No more candidates are kept than requested; two with the same title or body are one."""
        local.next(
            answering(
                GOOD,
                GOOD,
                {**GOOD, "title": "The same again"},
                *({**GOOD, "title": f"Number {n}", "body": [f"Step {n}"]} for n in range(8)),
            )
        )
        made = written()
        assert [tip.title for tip in made.tips] == [GOOD["title"], "Number 0", "Number 1", "Number 2", "Number 3"]

    def test_two_of_many_are_enough(self, local: LocalLLM) -> None:
        """With two good candidates the bad ones are left out without another request."""
        local.next(answering({**GOOD, "tasks": ["t9"]}, GOOD, {**GOOD, "body": "x" * 300}, ALSO_GOOD))
        made = written()
        assert [tip.title for tip in made.tips] == [GOOD["title"], ALSO_GOOD["title"]]
        assert len(local.calls) == 1

    def test_one_is_too_few(self, local: LocalLLM) -> None:
        """With only one good candidate, a second request lists the violations; the good candidate is kept."""
        asked: list[Mapping[str, Any]] = []

        def saying(request: Mapping[str, Any]) -> Mapping[str, Any]:
            asked.append(request)
            return {"candidates": [ALSO_GOOD]}

        local.next(answering(GOOD, {**GOOD, "tasks": ["t9"]}, {**GOOD, "title": "Call the plumber now"}), saying)
        made = written()
        assert [tip.title for tip in made.tips] == [GOOD["title"], ALSO_GOOD["title"]]
        assert made.usage is not None and made.usage.outcome == "repaired"
        complaint = json.dumps(asked[0]["messages"][-1])
        assert "candidate 2: tasks ['t9'] are not in the context" in complaint
        assert "candidate 3: title copies words" in complaint

    @pytest.mark.parametrize("bad", [Behaviour.GARBAGE, Behaviour.EMPTY, Behaviour.WRONG_IDS, Behaviour.LINKS])
    def test_repaired(self, local: LocalLLM, bad: Behaviour) -> None:
        """A bad answer followed by a good one is repaired: two requests, and the tokens of both count."""
        local.next(bad)
        made = written()
        assert are_good(made.tips)
        assert made.usage is not None
        assert (made.usage.outcome, made.usage.n_requests, len(local.calls)) == ("repaired", 2, 2)
        assert made.usage.input_tokens > 2 * len(INSTRUCTIONS) / 4

    @pytest.mark.parametrize(
        "bad",
        [*product([Behaviour.GARBAGE, Behaviour.EMPTY, Behaviour.WRONG_IDS, Behaviour.LINKS], repeat=2)],
        ids="-".join,
    )
    def test_not_repaired(self, local: LocalLLM, bad: Sequence[Behaviour]) -> None:
        """A second bad answer, whatever the errors, yields no tips; there is no third request."""
        local.next(*bad)
        made = written()
        assert made.tips == ()
        assert made.usage is not None
        assert (made.usage.outcome, made.usage.n_requests, len(local.calls)) == ("invalid", 2, 2)

    @pytest.mark.parametrize(
        ("behaviour", "outcome"),
        [
            (Behaviour.REFUSING, "refused"),
            (Behaviour.FILTERED, "refused"),
            (Behaviour.RATE_LIMITED, "failed"),
            (Behaviour.SERVER_ERROR, "failed"),
            (Behaviour.DISCONNECT, "failed"),
        ],
    )
    def test_asked_once(self, local: LocalLLM, behaviour: Behaviour, outcome: str) -> None:
        """A refusal, a rate limit, an error and a broken connection end the call: one request, no hidden retries."""
        local.behaviour = behaviour
        began = monotonic()
        made = written()
        assert monotonic() - began < 2
        assert made.tips == ()
        assert made.usage is not None and made.usage.outcome == outcome
        assert len(local.calls) == 1

    def test_slow_in_time(self, local: LocalLLM) -> None:
        """A slow answer within the deadline is used."""
        local.behaviour = Behaviour.SLOW
        made = written()
        assert are_good(made.tips)
        assert made.usage is not None and made.usage.seconds >= 0.2

    @pytest.mark.parametrize(("timeout_s", "own_timeout_s"), [(SHORT_TIMEOUT_S, 60.0), (60.0, SHORT_TIMEOUT_S)])
    def test_late(self, local: LocalLLM, timeout_s: float, own_timeout_s: float) -> None:
        """A model that hangs is given up at the caller's deadline or its own, whichever is first."""
        local.behaviour = Behaviour.HANG
        began = monotonic()
        made = written(timeout_s=timeout_s, own_timeout_s=own_timeout_s)
        assert SHORT_TIMEOUT_S <= monotonic() - began < SHORT_TIMEOUT_S + 1
        assert made.tips == ()
        assert made.usage is not None and made.usage.outcome == "late"
        assert len(local.calls) == 1

    def test_one_deadline_for_both(self, local: LocalLLM) -> None:
        """Answer and repair share one deadline."""
        local.next(Behaviour.GARBAGE, Behaviour.HANG)
        began = monotonic()
        made = written(timeout_s=SHORT_TIMEOUT_S)
        assert monotonic() - began < SHORT_TIMEOUT_S + 1
        assert made.usage is not None and made.usage.outcome == "late"
        assert len(local.calls) == 2

    def test_good_ones_survive_a_hanging_repair(self, local: LocalLLM) -> None:
        """A good candidate of the first answer is kept if the repair is late."""
        local.next(answering(GOOD), Behaviour.HANG)
        assert [tip.title for tip in written(timeout_s=SHORT_TIMEOUT_S).tips] == [GOOD["title"]]

    @pytest.mark.parametrize("timeout_s", [0.0, -3.0])
    def test_no_time_left(self, local: LocalLLM, timeout_s: float) -> None:
        """Without time left the model is not called, and no failure is counted."""
        llm = LLMGenerator("openai-chat:local")
        assert in_turn(llm, [KNOWN] * 6, timeout_s=timeout_s) == [NOTHING] * 6
        assert are_good(in_turn(llm, [KNOWN])[0].tips)
        assert len(local.calls) == 1

    def test_many_at_once(self, local: LocalLLM) -> None:
        """Concurrent calls do not mix their users."""
        users = [context(*(Task(f"{name}{n}", "x") for n in range(3))) for name in "abcdefgh"]

        async def run() -> list[Generation]:
            llm = LLMGenerator("openai-chat:local")
            return await asyncio.gather(*(llm.generate(user, TODAY, timeout_s=5) for user in users))

        for user, made in zip(users, asyncio.run(run()), strict=True):
            assert are_good(made.tips, user)
            assert {task_id for tip in made.tips for task_id in tip.task_ids} <= set(tasks_shown(user))

    def test_log_without_private_text(self, local: LocalLLM, caplog: pytest.LogCaptureFixture) -> None:
        """No error is raised, and the log contains no word of a task and no key."""
        caplog.set_level(logging.DEBUG, "tips")
        for behaviour in (Behaviour.SERVER_ERROR, Behaviour.GARBAGE, Behaviour.LINKS, Behaviour.DISCONNECT):
            local.behaviour = behaviour
            written()
        assert "openai:local: ModelServerError 500" in caplog.text
        assert not [word for word in ("passport", "plumber", "secret", "garden") if word in caplog.text]


class TestUsage:
    def test_one_call(self, local: LocalLLM) -> None:
        """Model, tokens and seconds are those of the call; a model without a known price has no cost."""
        usage = written().usage
        assert usage is not None
        assert (usage.model, usage.cost_usd) == ("openai:local", None)
        [call] = local.calls
        assert abs(usage.input_tokens - len(call.prompt.encode()) / 4) <= 1
        assert usage.output_tokens > 50
        assert 0 < usage.seconds < 5

    def test_known_price(self, local: LocalLLM) -> None:
        """A model with a known price has a cost in dollars; a repair costs more."""
        once = written(model="openai-chat:gpt-5-mini").usage
        local.next(Behaviour.WRONG_IDS)
        twice = written(model="openai-chat:gpt-5-mini").usage
        assert once is not None and twice is not None
        assert once.model == twice.model == "openai:gpt-5-mini"
        assert 0 < (once.cost_usd or 0) < (twice.cost_usd or 0) < 0.01

    def test_unanswered(self, local: LocalLLM) -> None:
        """A request without an answer has no tokens."""
        local.next(Behaviour.SERVER_ERROR)
        usage = written().usage
        assert usage is not None
        assert (usage.n_requests, usage.input_tokens, usage.output_tokens) == (0, 0, 0)


class TestCircuit:
    @pytest.mark.parametrize(
        "behaviour", [Behaviour.SERVER_ERROR, Behaviour.RATE_LIMITED, Behaviour.DISCONNECT, Behaviour.HANG]
    )
    def test_opens(self, local: LocalLLM, behaviour: Behaviour) -> None:
        """After five failures in a row the model is not called, and there is no usage."""
        local.behaviour = behaviour
        made = in_turn(LLMGenerator("openai-chat:local"), [KNOWN] * 8, timeout_s=0.25)
        assert [each.usage is None for each in made] == [False] * 5 + [True] * 3
        assert made[5:] == [NOTHING] * 3
        assert len(local.calls) == 5

    def test_success_between(self, local: LocalLLM) -> None:
        """Failures with a success between them do not open the circuit."""
        local.next(*[Behaviour.SERVER_ERROR] * 4, Behaviour.GOOD, *[Behaviour.SERVER_ERROR] * 4)
        made = in_turn(LLMGenerator("openai-chat:local"), [KNOWN] * 10)
        assert all(each.usage for each in made)
        assert are_good(made[-1].tips)

    @pytest.mark.parametrize("behaviour", [Behaviour.GARBAGE, Behaviour.REFUSING, Behaviour.WRONG_IDS])
    def test_bad_answers(self, local: LocalLLM, behaviour: Behaviour) -> None:
        """Bad answers do not open the circuit: the model is available."""

        async def run() -> Generation:
            llm = LLMGenerator("openai-chat:local")
            local.behaviour = behaviour
            for _ in range(6):
                await llm.generate(KNOWN, TODAY, timeout_s=5)
            local.behaviour = Behaviour.GOOD
            return await llm.generate(KNOWN, TODAY, timeout_s=5)

        assert are_good(asyncio.run(run()).tips)


def message(**fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": None, **fields}}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def saying(answer: Any) -> dict[str, Any]:
    return message(content=answer if isinstance(answer, str) else json.dumps(answer))


def call(arguments: Any, name: str) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return message(tool_calls=[{"id": "c", "type": "function", "function": function}])


BOTH = {"candidates": [GOOD, ALSO_GOOD]}
ODD_RESPONSES: dict[str, Callable[[], Response]] = {
    "a page": lambda: HTMLResponse("<h1>Welcome</h1>"),
    "nothing": lambda: Response(b""),
    "an empty object": lambda: JSONResponse({}),
    "a list": lambda: JSONResponse([1]),
    "no choices": lambda: JSONResponse({**message(), "choices": []}),
    "an error with 200": lambda: JSONResponse({"error": {"message": "quota"}}),
    "no UTF-8": lambda: Response(b"\xff\xfe{", media_type="application/json"),
    "no gzip": lambda: Response(b"x", headers={"content-encoding": "gzip"}),
    "elsewhere": lambda: RedirectResponse("/v1/elsewhere", 308),
    "wrong key": lambda: JSONResponse({"error": {"message": "no"}}, 401),
    "too long": lambda: JSONResponse({"error": {"message": "context length"}}, 400),
    "a text": lambda: JSONResponse(message(content="Hello!")),
    "no word": lambda: JSONResponse(message()),
    "another tool": lambda: JSONResponse(call({}, "look_up")),
    "a list of tips": lambda: JSONResponse(saying([GOOD])),
    "depth": lambda: JSONResponse(saying("[" * 100_000)),
    "half a letter": lambda: JSONResponse(
        saying('{"candidates": [{"kind": "plan", "title": "\\ud800", "body": "x"}]}')
    ),
    "negative tokens": lambda: JSONResponse({**saying(BOTH), "usage": {"prompt_tokens": -5}}),
}


@pytest.fixture(scope="module")
def odd() -> Iterator[tuple[list[Response], list[Request], str]]:
    """A server that sends the responses of a list one by one, then a good one; and the requests it received."""
    queue: list[Response] = []
    requests: list[Request] = []

    async def answer(request: Request) -> Response:
        requests.append(request)
        return queue.pop(0) if queue else JSONResponse(saying(BOTH))

    with running_server(Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])]), 0) as url:
        yield queue, requests, url


class TestOddServers:
    @pytest.fixture
    def after(self, odd: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Generation, int]]:
        """The generation after these responses of a server, and the number of requests it received."""
        queue, requests, url = odd
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "x")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "x")

        def after(*responses: Response, **options: Any) -> tuple[Generation, int]:
            queue[:] = responses
            requests.clear()
            return written(**options), len(requests)

        return after

    @pytest.mark.parametrize("name", ODD_RESPONSES)
    def test_odd_answers(self, after: Callable[..., tuple[Generation, int]], name: str) -> None:
        """Any response leads to good candidates or none after at most two requests, and to no exception."""
        made, n_requests = after(ODD_RESPONSES[name]())
        assert made.usage is not None
        assert len(made.tips) in (0, 2)
        assert (made.usage.outcome in ("answered", "repaired")) == bool(made.tips)
        assert n_requests in (1, 2)

    @pytest.mark.parametrize(
        "names", [*product(["a text", "another tool", "a list of tips"], repeat=2)], ids="-".join
    )
    def test_one_repair_in_all(self, after: Callable[..., tuple[Generation, int]], names: Sequence[str]) -> None:
        """Two different mistakes in a row get one repair in total, not one each."""
        made, n_requests = after(*(ODD_RESPONSES[name]() for name in names))
        assert made.tips == ()
        assert made.usage is not None and made.usage.outcome == "invalid"
        assert n_requests == 2

    def test_anthropic(self, after: Callable[..., tuple[Generation, int]]) -> None:
        """Anthropic's API works too: candidates, tokens and their cost."""
        tips = {"type": "text", "text": json.dumps(BOTH)}
        answer = {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "claude-haiku-4-5",
            "content": [tips],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 900, "output_tokens": 300, "cache_read_input_tokens": 600},
        }
        made, n_requests = after(JSONResponse(answer), model="anthropic:claude-haiku-4-5")
        assert are_good(made.tips)
        assert made.usage is not None
        assert (made.usage.model, made.usage.input_tokens, n_requests) == ("anthropic:claude-haiku-4-5", 1500, 1)
        assert made.usage.cached_tokens == 600
        assert made.usage.cost_usd == pytest.approx(0.0024, rel=0.5)

    @pytest.mark.parametrize("status", [429, 500, 529])
    def test_anthropic_is_asked_once(self, after: Callable[..., tuple[Generation, int]], status: int) -> None:
        """Anthropic's client does not retry either."""
        made, n_requests = after(JSONResponse({"error": {}}, status), model="anthropic:claude-haiku-4-5")
        assert made.usage is not None and made.usage.outcome == "failed"
        assert n_requests == 1


class TestModel:
    @pytest.fixture(autouse=True)
    def bare_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "OLLAMA_BASE_URL", "OLLAMA_API_KEY"):
            monkeypatch.delenv(name, raising=False)

    @pytest.mark.parametrize(
        "model", ["gpt-5-mini", "test", "openai:", ":gpt-5-mini", "nonsense:gpt", "mistral:large"]
    )
    def test_no_such_model(self, model: str) -> None:
        """An impossible model is refused with the name of the setting, its value and the right form."""
        with pytest.raises(LLMError) as raised:
            LLMGenerator(model)
        assert str(raised.value).startswith(f"LLM_MODEL={model}: ")
        assert "Write openai:NAME, anthropic:NAME, ollama:NAME" in str(raised.value)

    @pytest.mark.parametrize(
        ("model", "variable"),
        [
            ("openai:gpt-5-mini", "OPENAI_API_KEY"),
            ("openai-chat:local", "OPENAI_API_KEY"),
            ("anthropic:claude-haiku-4-5", "ANTHROPIC_API_KEY"),
            ("ollama:qwen3", "OLLAMA_BASE_URL"),
        ],
    )
    def test_missing_key(self, model: str, variable: str) -> None:
        """A provider without its key or address is refused with the name of the variable."""
        with pytest.raises(LLMError, match=f"LLM_MODEL={model}: {variable} is not set"):
            LLMGenerator(model)

    @pytest.mark.parametrize(
        ("model", "environment"),
        [
            ("openai:gpt-5-mini", {"OPENAI_API_KEY": "x"}),
            ("anthropic:claude-haiku-4-5", {"ANTHROPIC_API_KEY": "x"}),
            ("ollama:qwen3", {"OLLAMA_BASE_URL": "http://localhost:11434/v1"}),
        ],
    )
    def test_providers(self, monkeypatch: pytest.MonkeyPatch, model: str, environment: Mapping[str, str]) -> None:
        """With the provider's variables set the model is available under its own name, without a request."""
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert LLMGenerator(model).name == model

    def test_ollama(self, local: LocalLLM) -> None:
        """Ollama is called at its own address."""
        made = written(model="ollama:local")
        assert are_good(made.tips)
        assert made.usage is not None and made.usage.model == "ollama:local"


OURS = ("Renew the passport", "Call the plumber", "Water the plants")


def hostile(title: str) -> list[UserContext]:
    """Users with a hostile text among their tasks, and among their themes."""
    return [
        context(*OURS, Task("t9", title, due_date="2026-11-20", priority=4)),
        context(*OURS, themes={title: ["t0", "t1"]}),
    ]


def hostile_elsewhere(title: str) -> list[UserContext]:
    """Users with a hostile text in any other place where untrusted text may occur."""
    return [
        context(*OURS, Task("t9", "Buy milk", project=title)),
        context(*OURS, Task("t9", "Buy milk", section=title)),
        context(*OURS, Task("t9", "Buy milk", labels=("x", title))),
        context(*OURS, themes=[Theme("h", "x", (title,), ("t0", "t1"))]),
        context(*OURS, reactions=[(title, title, "done")]),
    ]


def obeying(about: UserContext) -> AnswerFunction:
    """A model that sees the texts unsanitized and obeys them."""
    known = context_in(context_json(about))

    def saying(request: Mapping[str, Any]) -> Mapping[str, Any]:
        form = read_answer_schema(request["response_format"]["json_schema"]["schema"])
        filled: Mapping[str, Any] = form.answer_with(injected_tips(known, form))
        return filled

    return saying


def hostile_parts(tips: Sequence[Tip], title: str) -> list[str]:
    """The texts of tips with a part of a hostile title: its payload, an address, markup, four words in a row."""
    texts = [text for tip in tips for text in (tip.title, tip.wording)]
    own = plain_words(title)
    runs = [" ".join(own[at : at + 4]) for at in range(max(1, len(own) - 3))] if len(own) > 2 else []
    return [
        text
        for text in texts
        if any(payload in text.casefold() for payload in (*PAYLOADS, "http", "www", "<", "[", "@"))
        or any(run in " ".join(plain_words(text)) for run in runs)
    ]


class TestInjection:
    @pytest.mark.parametrize(
        "title", [*INJECTIONS.values(), *QUIET_INJECTIONS.values()], ids=[*INJECTIONS, *QUIET_INJECTIONS]
    )
    def test_obeying_model(self, local: LocalLLM, title: str) -> None:
        """No part of a hostile text reaches a tip, even if the model obeys everything it is shown."""
        local.behaviour = Behaviour.INJECTED
        for about, made in zip(
            users := hostile(title), in_turn(LLMGenerator("openai-chat:local"), users), strict=True
        ):
            assert hostile_parts(made.tips, title) == []
            assert not any(violations(tip, about) for tip in made.tips)

    @pytest.mark.parametrize(
        "title", [*INJECTIONS.values(), *QUIET_INJECTIONS.values()], ids=[*INJECTIONS, *QUIET_INJECTIONS]
    )
    def test_unsanitized_prompt(self, local: LocalLLM, title: str) -> None:
        """No part of a hostile text reaches a tip, even if the prompt were not sanitized and the model obeyed."""
        for about in hostile(title):
            local.behaviour = obeying(about)
            assert hostile_parts(written(about).tips, title) == []

    @pytest.mark.parametrize("title", [INJECTIONS["classic"], QUIET_INJECTIONS["say"], QUIET_INJECTIONS["Japanese"]])
    def test_any_untrusted_text(self, local: LocalLLM, title: str) -> None:
        """Names of projects, sections and labels, tags and keys of reactions offer no way in either."""
        local.behaviour = Behaviour.INJECTED
        for made in in_turn(LLMGenerator("openai-chat:local"), hostile_elsewhere(title)):
            assert hostile_parts(made.tips, title) == []

    @pytest.mark.parametrize("title", [INJECTIONS["classic"], QUIET_INJECTIONS["say"], QUIET_INJECTIONS["Japanese"]])
    def test_suite_can_fail(self, title: str) -> None:
        """The obeying model does repeat the instructions of titles: its unchecked answers contain them."""
        about = hostile(title)[0]
        said = injected_tips(context_in(context_json(about)), read_answer_schema(answer_schema(about)))
        bodies = [[part for part in each.body if isinstance(part, str)] for each in said]
        texts = [Tip(kind="focus", title=each.title, body=body) for each, body in zip(said, bodies, strict=True)]
        assert hostile_parts(texts, title)

    def test_after_an_attack(self, local: LocalLLM) -> None:
        """After an attack the good answer to the repair is used."""
        local.next(Behaviour.INJECTED)
        about = hostile(QUIET_INJECTIONS["say"])[0]
        made = written(about)
        assert are_good(made.tips, about)
        assert made.usage is not None and made.usage.outcome == "repaired"
