"""`python -m benchmarks.week`: cost of a week of requests with this system and with assembly on demand."""

from __future__ import annotations

import asyncio
import shutil
import sys
from argparse import ArgumentParser, Namespace
from datetime import datetime, timedelta

from rich.console import Console

from benchmarks.output import LOCAL_FOLDER
from benchmarks.week.ahead_of_time import RuleResult, simulate_ahead_of_time
from benchmarks.week.chart import save_chart
from benchmarks.week.events import EventsResult, simulate_events
from benchmarks.week.events_report import print_events, save_events
from benchmarks.week.habits import HARDER_WORLD, STEADY_WORLD
from benchmarks.week.measurements import percentiles
from benchmarks.week.on_demand import paged_fetcher, simulate_on_demand, sync_fetcher
from benchmarks.week.report import Comparison, print_comparison, save_comparison, title_of
from benchmarks.week.rules import EVENT_RULES, RULES, Rule
from benchmarks.week.rules_report import print_rules, save_rules
from benchmarks.week.service import set_llm_url
from benchmarks.week.stand_ins import running_llm_stand_in
from benchmarks.week.workload import MONDAY, Workload, generate_workload

_FOLDER = LOCAL_FOLDER / "week"

_ON_DEMAND = "on-demand"

_console = Console(highlight=False)


def main() -> int:
    """Simulate the week three times, print the table, write `.local/week.json` and `.local/week.png`."""
    options = _options()
    if options.rules is not None:
        return _compare_rules(options)
    if options.events is not None:
        return _compare_events(options)
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    try:
        comparison = asyncio.run(_simulate(options))
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)
    save_comparison(comparison, LOCAL_FOLDER / "week.json")
    save_chart(comparison.weeks, title_of(comparison), LOCAL_FOLDER / "week.png")
    print_comparison(comparison, _console)
    _print_line("Figures: .local/week.json   chart: .local/week.png")
    return 0


async def _simulate(options: Namespace) -> Comparison:
    workload = generate_workload(options.users, options.days, seed=options.seed)
    _print_line(f"{workload.n_requests} requests, {len(workload.changes)} changes of tasks")
    with running_llm_stand_in() as llm_url:
        set_llm_url(llm_url)
        _print_line("This system")
        ahead = (await simulate_ahead_of_time(workload, _FOLDER, _print_line)).week
        _print_line("On demand, one /sync call per request")
        n_days = options.timed_days
        sync = await simulate_on_demand(
            "on demand, one /sync", sync_fetcher, workload, _print_line, n_timed_days=n_days
        )
        _print_line("On demand, paged reads")
        paged = await simulate_on_demand(
            "on demand, paged reads", paged_fetcher, workload, _print_line, n_timed_days=n_days
        )
    return Comparison(options.days, workload.n_first_requests, workload.people, ahead, sync, paged)


def _compare_rules(options: Namespace) -> int:
    """Simulate the week for each rule and world, print a table for each world, write `.local/week-rules.json`."""
    worlds = {"steady": [STEADY_WORLD], "harder": [HARDER_WORLD], "both": [STEADY_WORLD, HARDER_WORLD]}[options.world]
    results = {}
    for world in worlds:
        workload = generate_workload(options.users, options.days, seed=options.seed, world=world)
        _print_line(f"{world.name}: {workload.n_requests} requests, {len(workload.joins)} users join")
        results[world.name] = [
            asyncio.run(_simulate_rule(workload, rule))
            for rule in RULES
            if not options.rules or rule.name in options.rules
        ]
        if results[world.name]:
            print_rules(world.name, results[world.name], _console)
        if not options.rules or _ON_DEMAND in options.rules:
            asyncio.run(_time_on_demand(workload, options.timed_days))
    save_rules(results, LOCAL_FOLDER / "week-rules.json")
    return 0


def _compare_events(options: Namespace) -> int:
    """Simulate the week for each rule of believing events, print a table, write `.local/week-events.json`."""
    workload = generate_workload(options.users, options.days, seed=options.seed)
    _print_line(f"{workload.n_requests} requests, {len(workload.changes)} changes of tasks")
    cut_off_at = MONDAY + timedelta(days=options.cut_off - 1) if options.cut_off else None
    results = [
        asyncio.run(_simulate_events(workload, rule, cut_off_at))
        for rule in EVENT_RULES
        if not options.events or rule.name in options.events
    ]
    print_events(results, workload.until, _console)
    save_events(results, workload.until, LOCAL_FOLDER / "week-events.json")
    return 0


async def _simulate_events(workload: Workload, rule: Rule, cut_off_at: datetime | None) -> EventsResult:
    _print_line(rule.name)
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    try:
        return await simulate_events(workload, _FOLDER, _print_line, rule, cut_off_at)
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)


async def _time_on_demand(workload: Workload, n_timed_days: int) -> None:
    """Print the percentiles of answers that are assembled on demand, to compare those of the rules with."""
    with running_llm_stand_in() as llm_url:
        set_llm_url(llm_url)
        week = await simulate_on_demand(_ON_DEMAND, sync_fetcher, workload, _print_line, n_timed_days=n_timed_days)
    seconds = percentiles(week.answers)
    figures = ", ".join(f"{name} {1000 * value:,.1f} ms" for name, value in seconds.items())
    _print_line(f"{_ON_DEMAND}: {figures} ({len(week.answers)} answers)")


async def _simulate_rule(workload: Workload, rule: Rule) -> RuleResult:
    _print_line(rule.name)
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    try:
        with running_llm_stand_in() as llm_url:
            set_llm_url(llm_url)
            return await simulate_ahead_of_time(workload, _FOLDER, _print_line, rule)
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)


def _options() -> Namespace:
    parser = ArgumentParser(prog="python -m benchmarks.week", description=__doc__)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timed-days", type=int, default=1, help="days on which on-demand answers are timed")
    names = [*(rule.name for rule in RULES), _ON_DEMAND]
    parser.add_argument(
        "--rules",
        nargs="*",
        choices=names,
        help=f"compare rules of calling the LLM, all if none is named: {', '.join(names)}",
    )
    event_names = [rule.name for rule in EVENT_RULES]
    parser.add_argument(
        "--events",
        nargs="*",
        choices=event_names,
        help=f"compare rules of believing Todoist's webhooks, all if none is named: {', '.join(event_names)}",
    )
    parser.add_argument(
        "--cut-off",
        type=int,
        metavar="DAY",
        help="for --events: no webhook arrives on this day of the week, 1 for Monday",
    )
    parser.add_argument("--world", choices=["steady", "harder", "both"], default="both", help="for --rules")
    return parser.parse_args()


def _print_line(text: str) -> None:
    _console.print(text, markup=False)


if __name__ == "__main__":
    sys.exit(main())
