"""The comparison of rules of calling the LLM as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.week.ahead_of_time import RuleResult
from benchmarks.week.coverage import PRICED_MODEL
from benchmarks.week.measurements import percentiles, to_json


def print_rules(world: str, results: Sequence[RuleResult], console: Console) -> None:
    """Print a column for each rule, and how well the forecasts of requests came true."""
    table = Table(title=world, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for result in results:
        table.add_column(result.week.name, justify="right")
    for name, cells in _rows(results):
        table.add_row(name, *cells)
    console.print(table)
    for each in results[0].calibration:
        console.print(f"forecast {each.forecast:.0%} of {each.n:,} user-runs: {each.came_true:.0%} asked")


def save_rules(results: Mapping[str, Sequence[RuleResult]], path: Path) -> None:
    """Write all figures as one JSON object, by world and rule."""
    document = {
        world: {
            each.week.name: {
                **to_json(each.week),
                "coverage": asdict(each.coverage),
                "calibration": [asdict(one) for one in each.calibration],
            }
            for each in of_world
        }
        for world, of_world in results.items()
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def _rows(results: Sequence[RuleResult]) -> Iterator[tuple[str, list[str]]]:
    for p in ("p50", "p95", "p99"):
        yield f"{p} ms, all answers", [f"{1000 * percentiles(each.week.answers)[p]:,.1f}" for each in results]
    inline = [each.week.shares("source").get("inline", 0.0) for each in results]
    yield "answers assembled inline", [f"{share:.1%}" for share in inline]
    waited = [each.week.shares("llm").get("called", 0.0) for each in results]
    yield "answers that waited for the LLM", [f"{share:.1%}" for share in waited]
    yield "Todoist calls", [f"{each.week.n_todoist:,}" for each in results]
    coverage = [each.coverage for each in results]
    yield "two tips of the LLM found", [f"{each.covered:.1%}" for each in coverage]
    yield "  by users who joined", [f"{each.covered_joiners:.1%}" for each in coverage]
    yield "  LLM's share of their first tips", [f"{each.first_by_llm:.1%}" for each in coverage]
    yield "LLM calls", [f"{each.n_calls:,}" for each in coverage]
    for place in ("request", "behind", "ahead", "batch"):
        yield f"  {place}", [f"{each.calls.get(place, 0):,}" for each in coverage]
    yield "sets never shown", [f"{each.n_never_shown:,} of {each.n_sets:,}" for each in coverage]
    yield "tokens", [f"{each.n_tokens:,}" for each in coverage]
    yield f"US dollars as {PRICED_MODEL}", [f"{each.cost_usd:.3f}" for each in coverage]
