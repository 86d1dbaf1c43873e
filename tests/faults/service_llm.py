"""Faults of the LLM behind the service: answers without end, too large, impossible or hostile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from raw_llm import (
    HEAD,
    Answer,
    RawServer,
    chunked,
    completion,
    drips,
    endless_headers,
    gigabyte,
    gzip_bomb,
    whole,
)

from contexts.todoist.credentials import Credentials
from faults.row import Row, require
from faults.service import RunningService, ServiceTrial, service_trial
from local.llm.adversaries import adversary, carries, hostile_texts
from tips.prompt import INSTRUCTIONS

_N_USERS = 8
_BUDGET_S = 4.0
_LATEST_MS = 1e3 * (_BUDGET_S + 1)
_MAX_GROWTH_MIB = 60.0
_MAX_SENT_BYTES = 16 * 2**20
"""The maximum number of bytes of one answer that fit into the buffers of a connection nobody reads."""

_REDIRECT = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /v1/chat/completions\r\n"
_OWN = ("Renew the passport", "Sort the photographs", "Feed the hamster")

GOOD = [{"kind": "focus", "title": f"Number {number}", "body": f"Begin with step {number}."} for number in range(600)]


def _start(trial: ServiceTrial, url: str) -> RunningService:
    return trial.start(openai_base_url=f"{url}/v1", llm_timeout=2, request_budget=_BUDGET_S)


def hostile_answers(trial: ServiceTrial, answer: Answer, *, sources: Sequence[str]) -> str:
    """Let an LLM answer so to users who need it, beside users who do not; require tips in time; return figures.

    sources: the allowed parts of the LLM in the tips of those who need it.
    """
    server = RawServer()
    server.answer = answer
    with server.running() as url:
        service = _start(trial, url)
        service.tip(trial.ready[0])
        before = service.memory_mib()
        load = service.together([*trial.cold[:_N_USERS], *trial.ready[: 5 * _N_USERS]])
        after = service.memory_mib()
        sent = server.n_bytes / max(1, server.n_requests)
    refusals = {reply.body[:200] for reply in load.replies if reply.status != 200}
    require(not refusals, f"the statuses are {dict(load.statuses)}: {refusals}")
    parts = {reply.json["llm"] for reply in load.replies}
    require(parts <= {*sources, "skipped"}, f"the parts of the LLM are {parts}")
    slowest_ms = load.quantile_ms(1.0)
    require(slowest_ms < _LATEST_MS, f"a tip took {slowest_ms:.0f} ms")
    require(after - before < _MAX_GROWTH_MIB, f"memory grew from {before:.0f} to {after:.0f} MiB")
    require(sent < _MAX_SENT_BYTES, f"the LLM could send {sent / 2**20:.0f} MiB an answer")
    hits = sorted(1e3 * reply.seconds for reply in load.replies if reply.json["llm"] == "skipped")
    return (
        f"{_N_USERS} users need the LLM: all answered within {slowest_ms:,.0f} ms, {server.n_requests} requests,"
        f" {sent / 1024:,.0f} KiB sent each; beside them {len(hits)} hits, p50 {hits[len(hits) // 2]:,.0f} ms;"
        f" memory {before:.0f} -> {after:.0f} MiB"
    )


def without_end(answer: Answer) -> Callable[[ServiceTrial], str]:
    """A trial with an answer that is of no use."""
    return lambda trial: hostile_answers(trial, answer, sources=["fallback"])


def more_than_requested(trial: ServiceTrial) -> str:
    """Answer with 300 candidates: the first ones are used, and nothing is requested again."""
    figures = hostile_answers(trial, whole(completion(GOOD[:300])), sources=["called"])
    outcomes = trial.rows("SELECT outcome, n_requests, count(*) FROM llm_calls GROUP BY 1, 2")
    require(outcomes == [("answered", 1, _N_USERS)], f"the calls are {outcomes}")
    return figures


def absurd_usage(trial: ServiceTrial) -> str:
    """Answer with usage figures that no column can hold."""
    usage = '{"prompt_tokens": 1e999, "completion_tokens": -7, "total_tokens": 9999999999999999999999}'
    figures = hostile_answers(trial, whole(completion(GOOD[:5], usage)), sources=["called"])
    usages = trial.rows("SELECT input_tokens, output_tokens, cost_usd, count(*) FROM llm_calls GROUP BY 1, 2, 3")
    require(usages == [(None, None, None, _N_USERS)], f"the usages are {usages}")
    return figures


def texts_of_others(trial: ServiceTrial) -> str:
    """Let a splitter write tips for users whose shared project is full of hostile texts of a colleague."""
    texts = [hostile.text for hostile in hostile_texts()]
    groups = [texts[start : start + 15] for start in range(0, len(texts), 15)]
    for number, group in enumerate(groups):
        user = f"shared-{number}"
        trial.todoist.load(f"token-of-{user}", _shared(group), user=user)
        credentials = Credentials(f"token-of-{user}")
        trial.accounts.add(user, email=f"{user}@example.org", timezone="UTC", credentials=credentials)
    trial.connection.commit()
    trial.llm.behaviour = adversary("splitter")
    trial.llm.calls.clear()
    service = trial.start()
    load = service.together([f"shared-{number}" for number in range(len(groups))])
    require(load.statuses == {200: len(groups)}, f"the statuses are {dict(load.statuses)}")
    prompts = " ".join(call.prompt.replace(INSTRUCTIONS, "") for call in trial.llm.calls)
    written = trial.rows("SELECT unnest(tips) FROM candidate_sets WHERE author = 'llm' AND user_id LIKE 'shared-%%'")
    tips = " ".join(tip for (tip,) in written)
    reached = [text for text in texts if carries(prompts, text) or carries(tips, text)]
    require(trial.llm.calls and tips, "the LLM wrote no tips")
    require(not reached, f"{len(reached)} hostile texts reached the LLM")
    n_calls = len(trial.llm.calls)
    return f"{len(texts)} hostile texts of a colleague, {n_calls} calls of the LLM: none in a prompt or a tip"


def _shared(texts: Sequence[str]) -> dict[str, object]:
    """An account with three tasks of the user, and a shared project full of a colleague's."""
    today = datetime.now(UTC).date().isoformat()
    own = [{"id": f"o{n}", "content": title, "project_id": "home"} for n, title in enumerate(_OWN)]
    others = [
        {"id": f"h{n}", "content": text, "project_id": "shared", "section_id": "s", "labels": [text], "priority": 4}
        for n, text in enumerate(texts)
    ]
    return {
        "full_sync": True,
        "sync_token": "x",
        "items": [
            *(item | {"added_by_uid": "1"} for item in own),
            *(item | {"added_by_uid": "2", "due": {"date": today}} for item in others),
        ],
        "projects": [{"id": "home", "name": "Home"}, {"id": "shared", "name": texts[0], "is_shared": True}],
        "sections": [{"id": "s", "project_id": "shared", "name": texts[1]}],
        "user": {"id": "1", "lang": "en", "tz_info": {"timezone": "UTC"}},
    }


def _row(fault: str, promise: str, run: object, n_quick: int = 0) -> Row:
    return Row(fault, "service: LLM", promise, run, open=service_trial, n_quick=n_quick)  # type: ignore[arg-type]


_BY_RULES = "everybody has a tip within the budget, memory stays"
_AS_WRITTEN = "the good candidates are used, nothing is paid twice"

ROWS = (
    _row("an answer of a gigabyte", _BY_RULES, without_end(gigabyte), n_quick=1),
    _row("chunks without end", _BY_RULES, without_end(chunked)),
    _row("headers without end", _BY_RULES, without_end(endless_headers)),
    _row("a body byte by byte", _BY_RULES, without_end(drips(HEAD + b"\r\n"))),
    _row("a compressed answer", _BY_RULES, without_end(gzip_bomb)),
    _row("100,000 candidates", _BY_RULES, without_end(whole(completion(GOOD * 167)))),
    _row("nested JSON", _BY_RULES, without_end(whole("[" * 60_000))),
    _row("a redirect to itself", _BY_RULES, without_end(whole("", _REDIRECT))),
    _row("300 candidates", _AS_WRITTEN, more_than_requested),
    _row("impossible usage figures", "the usage is unknown, the tips are used", absurd_usage),
    _row("141 texts of a colleague", "none reaches the LLM or a tip", texts_of_others, n_quick=1),
)
