"""The matrix: runs the rows with progress, prints the table, and says whether every promise held."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from faults.row import PromiseBroken, Row
from faults.trial import Bench

_WIDTH = 150


@dataclass
class Result:
    """The trials of a row.

    findings: one for each trial whose promise did not hold. figures: measured by the last trial that kept it.
    """

    row: Row
    n_trials: int = 0
    findings: list[str] = field(default_factory=list)
    figures: str = ""
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        """Whether the promise held in every trial."""
        return not self.findings


def run_rows(
    bench: Bench, rows: Iterable[Row], n_trials: Callable[[Row], int], print_line: Callable[[str], None]
) -> list[Result]:
    """Run each row's trials, and print a line for each row and each finding."""
    results = []
    for row in rows:
        result, began = Result(row), time.monotonic()
        for number in range(n_trials(row)):
            finding, figures = _try(bench, row, number)
            result.n_trials += 1
            result.figures = figures or result.figures
            if finding:
                result.findings.append(finding)
                print_line(f"      trial {number}: {finding}")
        result.seconds = time.monotonic() - began
        results.append(result)
        held = "held" if result.held else f"NOT HELD in {len(result.findings)}"
        print_line(f"  {result.seconds:6.1f} s  {result.n_trials:3} x  {row.place}: {row.fault}: {held}")
        if result.figures:
            print_line(f"                   {result.figures}")
    return results


def _try(bench: Bench, row: Row, number: int) -> tuple[str, str]:
    """Run one trial, seeded by its row and number; return what broke the promise, or "", and the figures."""
    chance = random.Random(f"{bench.seed}/{row.fault}/{row.place}/{number}")
    try:
        with row.open(bench, number, chance) as trial:
            return "", row.run(trial) or ""
    except PromiseBroken as broken:
        return str(broken), ""
    except Exception:
        return f"unexpected: {traceback.format_exc()}", ""


def print_table(results: Sequence[Result], console: Console) -> None:
    """Print the table, and the numbers of trials and of held promises."""
    table = Table(title="Faults", title_justify="left", show_lines=False)
    for name in ("fault", "where", "promise", "figures"):
        table.add_column(name, overflow="fold")
    table.add_column("trials", justify="right")
    table.add_column("held")
    for result in results:
        row, held = result.row, "yes" if result.held else "no"
        table.add_row(row.fault, row.place, row.promise, result.figures, str(result.n_trials), held)
    console.print(table)
    n_trials = sum(result.n_trials for result in results)
    n_broken = sum(len(result.findings) for result in results)
    n_held = sum(result.held for result in results)
    console.print(f"{n_trials:,} trials of {len(results)} faults: {n_trials - n_broken:,} trials kept the promise;")
    console.print(f"{n_held} of {len(results)} promises held")


def report(results: Sequence[Result], console: Console | None = None) -> int:
    """Print the table, and return the exit status: 1 if a promise did not hold, or if there is no row."""
    print_table(results, console or Console(width=_WIDTH))
    return 0 if results and all(result.held for result in results) else 1
