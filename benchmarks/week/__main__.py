"""`python -m benchmarks.week`: what a week of requests costs with this system, and with assembly on demand."""

from __future__ import annotations

import asyncio
import shutil
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from rich.console import Console

from benchmarks.week import ahead, doors, on_demand
from benchmarks.week.picture import draw
from benchmarks.week.report import Result, save, show, title
from benchmarks.week.service import name_llm
from benchmarks.week.workload import workload

LOCAL = Path(__file__).parents[2] / ".local"
FOLDER = LOCAL / "week"

console = Console(highlight=False)


def main() -> int:
    """Play the week three times, print the table, write `.local/week.json` and `.local/week.png`."""
    options = _options()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    try:
        result = asyncio.run(_result(options))
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    save(result, LOCAL / "week.json")
    draw(result.weeks, title(result), LOCAL / "week.png")
    show(result, console)
    say("The figures: .local/week.json   the picture: .local/week.png")
    return 0


async def _result(options: Namespace) -> Result:
    played = workload(options.users, options.days, seed=options.seed)
    say(f"{played.n_requests} requests, {len(played.changes)} changes of tasks")
    with doors.llm() as llm_url:
        name_llm(llm_url)
        say("This system")
        ours = await ahead.play(played, FOLDER, say)
        say("On demand, one /sync call a request")
        timed = options.timed_days
        sync = await on_demand.play("on demand, one /sync", on_demand.by_sync, played, say, timed_days=timed)
        say("On demand, paged reads")
        paged = await on_demand.play("on demand, paged reads", on_demand.by_pages, played, say, timed_days=timed)
    return Result(options.days, played.n_days_asked, played.people, ours, sync, paged)


def _options() -> Namespace:
    parser = ArgumentParser(prog="python -m benchmarks.week", description=__doc__)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timed-days", type=int, default=1, help="days on which answers on demand are timed")
    return parser.parse_args()


def say(text: str) -> None:
    """One line of progress, at once."""
    console.print(text, markup=False)


if __name__ == "__main__":
    sys.exit(main())
