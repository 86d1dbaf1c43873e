"""The figures as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.night import FETCH, Cost, cpu_of


@dataclass(frozen=True)
class Night:
    """One night's costs. todoist_cpu_seconds: of the stand-in's own process, in none of the other figures."""

    name: str
    costs: tuple[Cost, ...]
    todoist_cpu_seconds: float


@dataclass(frozen=True)
class Bench:
    """A run of the benchmark. model_cpu_seconds: to import the library and load the model, once, in no night."""

    n_users: int
    n_tasks: int
    n_shards: int
    model_cpu_seconds: float
    nights: tuple[Night, ...]

    @property
    def ratios(self) -> dict[str, dict[str, float]]:
        """For each later night: its CPU seconds over those of the first, without some steps."""
        first, *later = self.nights
        left_out = {"without the fetch": (FETCH,), "without fetch and embedding": (FETCH, "embed_tasks")}
        return {
            f"{night.name} / {first.name}": {
                words: cpu_of(night.costs, without=steps) / cpu_of(first.costs, without=steps)
                for words, steps in left_out.items()
            }
            for night in later
        }


def save(bench: Bench, path: Path) -> None:
    """All figures as one JSON object."""
    path.write_text(json.dumps(asdict(bench) | {"ratios": bench.ratios}, indent=2) + "\n")


def show(bench: Bench, console: Console) -> None:
    """A table of the nights, and how the later ones compare with the first."""
    console.print(_table(bench))
    lines = [f"CPU of the {nights}:" + _percentages(ratios) for nights, ratios in bench.ratios.items()]
    lines += [f"Not in the table: {bench.model_cpu_seconds:.1f} CPU s to import and load the model, once;"]
    todoist = (f"{night.todoist_cpu_seconds:.1f} in the {night.name}" for night in bench.nights)
    lines += [f"  CPU s of the local Todoist: {', '.join(todoist)}"]
    console.print("\n".join(lines), soft_wrap=True)


def _percentages(ratios: Mapping[str, float]) -> str:
    return ",".join(f" {ratio:.2%} {words}" for words, ratio in ratios.items())


def _table(bench: Bench) -> Table:
    title = f"{bench.n_users} users x {bench.n_tasks} tasks, {bench.n_shards} shards, one process, a tiny model"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("", no_wrap=True)
    for name in (
        "seconds",
        "CPU s",
        "shards\nrun",
        "users\ncomputed",
        "Parquet\nrows",
        "rows\nstored",
        "only\nrefreshed",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for night in bench.nights:
        table.add_row(f"[bold]{night.name}[/bold]", *_sums(night.costs))
        for step, costs in _steps(night.costs).items():
            table.add_row(f" {step}", *_sums(costs))
            for cost in costs:
                table.add_row(f"  {cost.asset}", *_cells(cost))
        table.add_section()
    return table


def _steps(costs: Iterable[Cost]) -> Mapping[str, list[Cost]]:
    steps: dict[str, list[Cost]] = {}
    for cost in costs:
        steps.setdefault(cost.step, []).append(cost)
    return steps


def _sums(costs: Iterable[Cost]) -> tuple[str, str]:
    listed = list(costs)
    return f"{sum(cost.seconds for cost in listed):.2f}", f"{cpu_of(listed):.2f}"


def _cells(cost: Cost) -> tuple[str, ...]:
    stored = [str(cost.counts.get(name, "")) for name in ("rows_written", "rows_refreshed")]
    numbers = (cost.n_shards_run, cost.n_users_computed, cost.n_rows_written)
    return f"{cost.seconds:.2f}", f"{cost.cpu_seconds:.2f}", *map(str, numbers), *stored
