"""Tips for one user as they come: with the LLM, without it, after a reaction, with a stale row, without Todoist."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from local import service
from local.airflow import free_port
from local.llm import LocalLLM
from local.llm import running as llm_running
from local.service import Service

LLM_SECONDS = 1.0

_STALE = "UPDATE context_store SET materialized_at = materialized_at - INTERVAL '7 hours' WHERE user_id = %s"


@dataclass(frozen=True)
class Shown:
    """One request and what it took. todoist_calls, llm_calls: made for this answer."""

    what: str
    source: str
    age_seconds: float | None
    milliseconds: float
    llm: str
    todoist_calls: int
    llm_calls: int
    tip: str


@contextmanager
def llm_environment(environment: Mapping[str, str]) -> Iterator[tuple[dict[str, str], str]]:
    """The variables that name an LLM, and a sentence on it: the one that LLM_MODEL names, else a local stand-in."""
    if model := environment.get("LLM_MODEL"):
        yield {"LLM_MODEL": model}, f"LLM: {model}"
    else:
        with llm_running(LocalLLM(seconds=LLM_SECONDS)) as url:
            ours = {"LLM_MODEL": "openai-chat:local", "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none"}
            yield ours, f"LLM: a local stand-in that takes {LLM_SECONDS:.0f} s (LLM_MODEL names another)"


def show_tips(
    running: Service, without_todoist: Mapping[str, str], user_id: str, connection: psycopg.Connection[Any]
) -> list[Shown]:
    """Five requests of one user; the last one to a service of the given variables, whose Todoist does not answer."""
    first, _ = _ask(running, "the first of the day", user_id)
    again, decision = _ask(running, "the same again", user_id)
    running.react(decision, "accepted")
    learned, _ = _ask(running, "after the reaction 'accepted'", user_id)
    connection.execute(_STALE, [user_id])
    inline, _ = _ask(running, "the row is 7 hours old", user_id)
    connection.execute(_STALE, [user_id])
    with service.running(without_todoist, running.log_file.with_name("service-without-todoist.log")) as other:
        stale, _ = _ask(other, "7 hours old, no Todoist", user_id)
    return [first, again, learned, inline, stale]


def without_todoist(environment: Mapping[str, str]) -> dict[str, str]:
    """The same variables with an address of Todoist at which nobody listens."""
    return {**environment, "TODOIST_API_URL": f"http://127.0.0.1:{free_port()}"}


def print_tips(shown: list[Shown], console: Console) -> None:
    """The requests as a table."""
    table = Table(
        "request", "source", Column("age", justify="right"), Column("ms", justify="right"), "LLM",
        Column("Todoist\ncalls", justify="right"), Column("LLM\ncalls", justify="right"), "tip",
        title="Tips of one user", title_justify="left",
    )  # fmt: skip
    for each in shown:
        table.add_row(
            each.what,
            each.source,
            "-" if each.age_seconds is None else f"{each.age_seconds:,.0f} s",
            f"{each.milliseconds:,.1f}",
            each.llm,
            str(each.todoist_calls),
            str(each.llm_calls),
            escape(each.tip),
        )
    console.print(table)


def save(shown: list[Shown], path: Path) -> None:
    """The requests as a JSON list."""
    path.write_text(json.dumps([asdict(each) for each in shown], indent=2) + "\n")


def curl_lines(running: Service, user_id: str) -> list[str]:
    """What to type to try it by hand."""
    auth = f'-H "Authorization: Bearer {running.token}"'
    return [
        f"curl -s -X POST {auth} {running.url}/v1/users/{user_id}/tip",
        f"curl -s {auth} {running.url}/v1/users/{user_id}/context",
        f"curl -s -X POST {auth} -H 'Content-Type: application/json' -d '{{\"reaction\": \"done\"}}'"
        f" {running.url}/v1/decisions/DECISION_ID/reaction",
        f"curl -s {running.url}/metrics        # {running.url}/docs for all of it",
    ]


def _ask(running: Service, what: str, user_id: str) -> tuple[Shown, str]:
    before = running.counters()
    answer, milliseconds = running.tip(user_id)
    after = running.counters()

    def made(name: str) -> int:
        return int(after.get(name, 0) - before.get(name, 0))

    return Shown(
        what=what,
        source=answer["source"],
        age_seconds=answer["age_seconds"],
        milliseconds=milliseconds,
        llm=answer["llm"],
        todoist_calls=made("todoist_calls"),
        llm_calls=made("llm_calls"),
        tip=f"[{answer['tip']['kind']}] {answer['tip']['title']}",
    ), answer["decision_id"]
