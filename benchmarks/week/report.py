"""The week as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.week.habits import Person
from benchmarks.week.measured import Answered, Week, percentiles, to_json


@dataclass(frozen=True)
class Goal:
    """What was to be reached, and what was."""

    text: str
    found: str
    is_met: bool


@dataclass(frozen=True)
class Result:
    """The week of the system and of both forms of on-demand assembly, over the same requests."""

    n_days: int
    n_days_asked: int
    people: Sequence[Person]
    ahead: Week
    sync: Week
    paged: Week

    @property
    def weeks(self) -> tuple[Week, Week, Week]:
        return self.ahead, self.sync, self.paged

    @property
    def goals(self) -> list[Goal]:
        ahead, sync, paged = (week.n_todoist for week in self.weeks)
        quick, slow = percentiles(self.ahead.quick)["p99"], percentiles(self.sync.answers)["p99"]
        return [
            Goal("fewer Todoist calls than one /sync a request", f"{ahead} of {sync}", ahead < sync),
            Goal("at most 20 % of the calls of paged reads", f"{ahead / paged:.1%}", ahead <= 0.2 * paged),
            Goal("at least 70 % of the LLM calls skipped", f"{self.ahead.skipped:.1%}", self.ahead.skipped >= 0.7),
            Goal(
                "p99 without an LLM at most 1/20 of on-demand's",
                f"{_ms(quick)} of {_ms(slow)} ms, 1/{slow / quick:.0f}",
                quick <= slow / 20,
            ),
        ]

    @property
    def by_kind_of_person(self) -> dict[str, dict[str, float]]:
        """For each kind of person: how many, their requests, and the Todoist calls that they cost the system."""
        asked: dict[str, int] = {}
        for answer in self.ahead.answers:
            asked[answer.user_id] = asked.get(answer.user_id, 0) + 1
        kinds: dict[str, list[Person]] = {}
        for person in sorted(self.people, key=_kind):
            kinds.setdefault(_kind(person), []).append(person)
        return {
            kind: {
                "n": len(persons),
                "requests": sum(asked.get(each.user_id, 0) for each in persons),
                "todoist_calls": sum(self.ahead.by_user.get(each.user_id, 0) for each in persons),
            }
            for kind, persons in kinds.items()
        }


def _kind(person: Person) -> str:
    return "idle" if person.is_idle else f"{'habits' if person.habits else 'irregular'}, {person.n_a_day} a day"


def save(result: Result, path: Path) -> None:
    """All figures as one JSON object."""
    document = {
        "n_users": len(result.people),
        "n_days": result.n_days,
        "n_first_of_a_day": result.n_days_asked,
        "goals": [vars(goal) for goal in result.goals],
        "weeks": [to_json(week) for week in result.weeks],
        "people": result.by_kind_of_person,
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def show(result: Result, console: Console) -> None:
    """The table, who cost what, and what was reached."""
    console.print(_table(result))
    console.print(_people(result))
    console.print(f"{result.n_days_asked:,} of the requests are the first of their user's day.")
    for goal in result.goals:
        colour = "green" if goal.is_met else "red"
        console.print(f"[{colour}]{'reached' if goal.is_met else 'missed ':8}[/{colour}] {goal.text}: {goal.found}")


def title(result: Result) -> str:
    """What was played."""
    n_idle = sum(person.is_idle for person in result.people)
    return f"{len(result.people)} users ({n_idle} idle), {result.n_days} days, {result.ahead.n_requests:,} requests"


def _table(result: Result) -> Table:
    table = Table(title=title(result), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for week in result.weeks:
        table.add_column(week.name, justify="right")
    for name, cells in _rows(result.weeks):
        if cells:
            table.add_row(name, *cells)
        else:
            table.add_section()
    return table


def _rows(weeks: Sequence[Week]) -> Iterator[tuple[str, list[str]]]:
    yield "Todoist calls", [f"{week.n_todoist:,}" for week in weeks]
    yield from _causes([week.todoist for week in weeks])
    yield " a request", [f"{week.n_todoist / week.n_requests:.2f}" for week in weeks]
    yield "", []
    yield "LLM calls", [f"{week.n_llm:,}" for week in weeks]
    yield from _causes([week.llm for week in weeks])
    yield " spared", [f"{week.skipped:.1%}" for week in weeks]
    yield from _causes([week.spared for week in weeks])
    yield " tips shown that it wrote", [f"{week.authors.get('llm', 0) / week.n_requests:.1%}" for week in weeks]
    yield "", []
    yield "answers timed", [f"{len(week.answers):,}" for week in weeks]
    for name, pick in _GROUPS.items():
        for p in ("p50", "p95", "p99"):
            yield f"{p} {name}", [_cell(pick(week), p) for week in weeks]
    yield "", []
    for field in ("source", "llm"):
        for name, share in weeks[0].shares(field).items():
            yield f"{field} {name}", [f"{share:.1%}", "", ""]


_GROUPS: Mapping[str, Any] = {
    "ms, all answers": lambda week: week.answers,
    "ms, without LLM": lambda week: week.quick,
    "ms, with LLM": lambda week: week.slow,
}


def _causes(counted: Sequence[Mapping[str, int]]) -> Iterator[tuple[str, list[str]]]:
    """Of the system's alone: the others' calls have but one cause."""
    for name, n in counted[0].items():
        yield f"  {name}", [f"{n:,}", *("" for _ in counted[1:])]


def _cell(answers: Sequence[Answered], p: str) -> str:
    found = percentiles(answers)
    return _ms(found[p]) if found else ""


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}" if seconds >= 0.01 else f"{1000 * seconds:.1f}"


def _people(result: Result) -> Table:
    table = Table(title="Whom the Todoist calls were for", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    for name in ("users", "requests", "Todoist calls", "a request"):
        table.add_column(name, justify="right")
    for kind, row in result.by_kind_of_person.items():
        n, asked, calls = row["n"], row["requests"], row["todoist_calls"]
        table.add_row(kind, f"{n}", f"{asked}", f"{calls}", f"{calls / asked:.2f}" if asked else "")
    return table
