"""The comparison of the weeks as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.week.habits import Person
from benchmarks.week.measurements import TimedAnswer, WeekResult, percentiles, to_json


@dataclass(frozen=True)
class Goal:
    """A goal and the measured value."""

    text: str
    measured: str
    is_met: bool


@dataclass(frozen=True)
class Comparison:
    """The week of this system and the weeks of both kinds of on-demand assembly, with the same requests.

    n_first_requests: number of requests that are the first of their user's day.
    """

    n_days: int
    n_first_requests: int
    people: Sequence[Person]
    ahead: WeekResult
    sync: WeekResult
    paged: WeekResult

    @property
    def weeks(self) -> tuple[WeekResult, WeekResult, WeekResult]:
        """The three weeks, this system first."""
        return self.ahead, self.sync, self.paged

    @property
    def goals(self) -> list[Goal]:
        """The goals of the design."""
        ahead, sync, paged = (week.n_todoist for week in self.weeks)
        ahead_p99 = percentiles(self.ahead.answers_without_llm)["p99"]
        sync_p99 = percentiles(self.sync.answers)["p99"]
        saved_share = self.ahead.saved_share
        return [
            Goal("fewer Todoist calls than one /sync per request", f"{ahead} of {sync}", ahead < sync),
            Goal("at most 20 % of the calls of paged reads", f"{ahead / paged:.1%}", ahead <= 0.2 * paged),
            Goal("at least 70 % of the LLM calls saved", f"{saved_share:.1%}", saved_share >= 0.7),
            Goal(
                "p99 without an LLM call at most 1/20 of on demand",
                f"{_ms(ahead_p99)} of {_ms(sync_p99)} ms, 1/{sync_p99 / ahead_p99:.0f}",
                ahead_p99 <= sync_p99 / 20,
            ),
        ]

    @property
    def by_kind_of_person(self) -> dict[str, dict[str, float]]:
        """The number of users, their requests and their Todoist calls, by kind of user."""
        n_requests: dict[str, int] = {}
        for answer in self.ahead.answers:
            n_requests[answer.user_id] = n_requests.get(answer.user_id, 0) + 1
        kinds: dict[str, list[Person]] = {}
        for person in sorted(self.people, key=_kind):
            kinds.setdefault(_kind(person), []).append(person)
        return {
            kind: {
                "n": len(people),
                "requests": sum(n_requests.get(person.user_id, 0) for person in people),
                "todoist_calls": sum(self.ahead.by_user.get(person.user_id, 0) for person in people),
            }
            for kind, people in kinds.items()
        }


def _kind(person: Person) -> str:
    return "idle" if person.is_idle else f"{'habits' if person.habits else 'irregular'}, {person.n_per_day} a day"


def save_comparison(comparison: Comparison, path: Path) -> None:
    """Write all figures as one JSON object."""
    document = {
        "n_users": len(comparison.people),
        "n_days": comparison.n_days,
        "n_first_of_a_day": comparison.n_first_requests,
        "goals": [vars(goal) for goal in comparison.goals],
        "weeks": [to_json(week) for week in comparison.weeks],
        "people": comparison.by_kind_of_person,
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the table of the weeks, the calls by kind of user, and the goals."""
    console.print(_weeks_table(comparison))
    console.print(_people_table(comparison))
    console.print(f"{comparison.n_first_requests:,} of the requests are the first of their user's day.")
    for goal in comparison.goals:
        colour, status = ("green", "reached") if goal.is_met else ("red", "missed")
        console.print(f"[{colour}]{status:8}[/{colour}] {goal.text}: {goal.measured}")


def title_of(comparison: Comparison) -> str:
    """The size of the workload in one line."""
    n_users, n_requests = len(comparison.people), comparison.ahead.n_requests
    n_idle = sum(person.is_idle for person in comparison.people)
    return f"{n_users} users ({n_idle} idle), {comparison.n_days} days, {n_requests:,} requests"


def _weeks_table(comparison: Comparison) -> Table:
    table = Table(title=title_of(comparison), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for week in comparison.weeks:
        table.add_column(week.name, justify="right")
    for name, cells in _table_rows(comparison.weeks):
        if cells:
            table.add_row(name, *cells)
        else:
            table.add_section()
    return table


def _table_rows(weeks: Sequence[WeekResult]) -> Iterator[tuple[str, list[str]]]:
    """The label and cells of each row; no cells mean the end of a section."""
    yield "Todoist calls", [f"{week.n_todoist:,}" for week in weeks]
    yield from _cause_rows([week.todoist for week in weeks])
    yield " per request", [f"{week.n_todoist / week.n_requests:.2f}" for week in weeks]
    yield "", []
    yield "LLM calls", [f"{week.n_llm:,}" for week in weeks]
    yield from _cause_rows([week.llm for week in weeks])
    yield " saved", [f"{week.saved_share:.1%}" for week in weeks]
    yield from _cause_rows([week.saved for week in weeks])
    yield " shown tips by the LLM", [f"{week.authors.get('llm', 0) / week.n_requests:.1%}" for week in weeks]
    yield "", []
    yield "timed answers", [f"{len(week.answers):,}" for week in weeks]
    for name, select in _ANSWER_GROUPS.items():
        for p in ("p50", "p95", "p99"):
            yield f"{p} {name}", [_percentile_cell(select(week), p) for week in weeks]
    yield "", []
    for field in ("source", "llm"):
        for name, share in weeks[0].shares(field).items():
            yield f"{field} {name}", [f"{share:.1%}", "", ""]


_ANSWER_GROUPS: Mapping[str, Callable[[WeekResult], Sequence[TimedAnswer]]] = {
    "ms, all answers": lambda week: week.answers,
    "ms, without LLM": lambda week: week.answers_without_llm,
    "ms, with LLM": lambda week: week.answers_with_llm,
}


def _cause_rows(counts_by_cause: Sequence[Mapping[str, int]]) -> Iterator[tuple[str, list[str]]]:
    """A row for each cause of this system; the calls of the other systems have only one cause."""
    for cause, n in counts_by_cause[0].items():
        yield f"  {cause}", [f"{n:,}", *("" for _ in counts_by_cause[1:])]


def _percentile_cell(answers: Sequence[TimedAnswer], p: str) -> str:
    seconds = percentiles(answers)
    return _ms(seconds[p]) if seconds else ""


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}" if seconds >= 0.01 else f"{1000 * seconds:.1f}"


def _people_table(comparison: Comparison) -> Table:
    table = Table(title="Todoist calls by kind of user", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    for name in ("users", "requests", "Todoist calls", "per request"):
        table.add_column(name, justify="right")
    for kind, row in comparison.by_kind_of_person.items():
        n, n_requests, n_calls = row["n"], row["requests"], row["todoist_calls"]
        table.add_row(
            kind, f"{n}", f"{n_requests}", f"{n_calls}", f"{n_calls / n_requests:.2f}" if n_requests else ""
        )
    return table
