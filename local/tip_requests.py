"""Tip requests for one user: first, repeated, after a reaction, after an event, with an old row, without Todoist."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from contexts.text import counted
from local.llm import LocalLLM, running_llm
from local.processes import free_port
from local.service import Service, running_service
from local.webhook_demo import WebhookDemo

LLM_SECONDS = 1.0
"""Seconds that the stand-in for an LLM takes for an answer."""

_MAX_DELIVERY_S, _POLL_S = 10.0, 0.05
_AGE_FETCH = """
    WITH aged AS (
        UPDATE todoist_accounts SET observed_at = observed_at - INTERVAL '7 hours' WHERE user_id = %(user)s
    )
    UPDATE context_store SET materialized_at = materialized_at - INTERVAL '7 hours' WHERE user_id = %(user)s
"""


@dataclass(frozen=True)
class TipRequest:
    """One tip request and its cost.

    case: what is special about the request.
    todoist_calls, llm_calls: made by the service for this request.
    """

    case: str
    source: str
    age_seconds: float | None
    milliseconds: float
    llm: str
    todoist_calls: int
    llm_calls: int
    tip: str


@contextmanager
def llm_environment(environment: Mapping[str, str]) -> Iterator[tuple[dict[str, str], str]]:
    """The variables that select an LLM, and a sentence about it.

    LLM_MODEL in `environment` selects the LLM; without it a local stand-in runs until the block ends.
    """
    if model := environment.get("LLM_MODEL"):
        yield {"LLM_MODEL": model}, f"LLM: {model}"
    else:
        with running_llm(LocalLLM(seconds=LLM_SECONDS)) as url:
            variables = {"LLM_MODEL": "openai-chat:local", "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none"}
            yield variables, f"LLM: a local stand-in that takes {LLM_SECONDS:.0f} s (set LLM_MODEL for a real one)"


def without_todoist(environment: Mapping[str, str]) -> dict[str, str]:
    """The same variables with a Todoist address that refuses connections."""
    return {**environment, "TODOIST_API_URL": f"http://127.0.0.1:{free_port()}"}


def send_tip_requests(
    service: Service,
    environment_without_todoist: Mapping[str, str],
    user_id: str,
    connection: psycopg.Connection[Any],
    demo: WebhookDemo | None,
) -> list[TipRequest]:
    """Send the requests of one user; the last one to a second service that cannot reach Todoist.

    demo: completes the tasks of a tip in the local Todoist; None for the reader's own account.
    """
    first, _ = _send(service, "first of the day", user_id)
    repeated, decision_id = _send(service, "repeated", user_id)
    service.react(decision_id, "accepted")
    after_reaction, _ = _send(service, "after the reaction 'accepted'", user_id)
    completed = _after_completion(service, user_id, demo) if demo else []
    connection.execute(_AGE_FETCH, {"user": user_id})
    old_row, _ = _send(service, "the row is 7 hours old", user_id)
    connection.execute(_AGE_FETCH, {"user": user_id})
    log_file = service.log_file.with_name("service-without-todoist.log")
    with running_service(environment_without_todoist, log_file) as second_service:
        no_todoist, _ = _send(second_service, "7 hours old, no Todoist", user_id)
    return [first, repeated, after_reaction, *completed, old_row, no_todoist]


def _after_completion(service: Service, user_id: str, demo: WebhookDemo) -> list[TipRequest]:
    """Complete the tasks of a tip in Todoist, and request the next tip once the service knows of it.

    No request if the tip is about no task.
    """
    task_ids = [task["id"] for task in service.tip(user_id)[0]["tip"]["tasks"]]
    if not task_ids:
        return []
    n_known = service.counters().get("todoist_events", 0.0) + len(task_ids)
    with demo.delivered_to(service, user_id):
        demo.complete(user_id, task_ids)
        deadline = time.monotonic() + _MAX_DELIVERY_S
        while service.counters().get("todoist_events", 0.0) < n_known and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    request, _ = _send(service, f"{counted(len(task_ids), 'task')} of a tip completed", user_id)
    return [request]


def print_tip_requests(requests: list[TipRequest], console: Console) -> None:
    """Print the requests as a table."""
    table = Table(
        "request", "source", Column("age", justify="right"), Column("ms", justify="right"), "LLM",
        Column("Todoist\ncalls", justify="right"), Column("LLM\ncalls", justify="right"), "tip",
        title="Tips of one user", title_justify="left",
    )  # fmt: skip
    for request in requests:
        table.add_row(
            request.case,
            request.source,
            "-" if request.age_seconds is None else f"{request.age_seconds:,.0f} s",
            f"{request.milliseconds:,.1f}",
            request.llm,
            str(request.todoist_calls),
            str(request.llm_calls),
            escape(request.tip),
        )
    console.print(table)


def save_tip_requests(requests: list[TipRequest], path: Path) -> None:
    """Write the requests as a JSON list."""
    path.write_text(json.dumps([asdict(request) for request in requests], indent=2) + "\n")


def curl_lines(service: Service, user_id: str) -> list[str]:
    """Shell commands that call the service by hand."""
    auth = f'-H "Authorization: Bearer {service.token}"'
    return [
        f"curl -s -X POST {auth} {service.url}/v1/users/{user_id}/tip",
        f"curl -s {auth} {service.url}/v1/users/{user_id}/context",
        f"curl -s -X POST {auth} -H 'Content-Type: application/json' -d '{{\"reaction\": \"done\"}}'"
        f" {service.url}/v1/decisions/DECISION_ID/reaction",
        f"curl -s {service.url}/metrics        # all endpoints: {service.url}/docs",
    ]


def _send(service: Service, case: str, user_id: str) -> tuple[TipRequest, str]:
    """Request a tip; returns the request and the id of the decision."""
    before = service.counters()
    answer, milliseconds = service.tip(user_id)
    after = service.counters()

    def increase(name: str) -> int:
        return int(after.get(name, 0) - before.get(name, 0))

    return TipRequest(
        case=case,
        source=answer["source"],
        age_seconds=answer["age_seconds"],
        milliseconds=milliseconds,
        llm=answer["llm"],
        todoist_calls=increase("todoist_calls"),
        llm_calls=increase("llm_calls"),
        tip=f"[{answer['tip']['kind']}] {answer['tip']['title']}: {answer['tip']['body']}",
    ), answer["decision_id"]
