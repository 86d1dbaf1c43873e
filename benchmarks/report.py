"""The figures as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.night import FETCH, Cost, count_of, cpu_of

_WIDTH = 112
"""What the table needs; a file or a pipe would else be given 80."""


@dataclass(frozen=True)
class Night:
    """One night's costs. todoist_cpu_seconds: of the stand-in's own process, in none of the other figures.

    n_to_write: users whose rows have to be written, counted apart from the pipeline; why: what is said of them.
    """

    name: str
    costs: tuple[Cost, ...]
    todoist_cpu_seconds: float
    n_to_write: int
    why: str

    @property
    def cpu_seconds(self) -> float:
        """Of all but the fetch."""
        return cpu_of(self.costs, without=[FETCH])


@dataclass(frozen=True)
class Bench:
    """A run of the benchmark. model_cpu_seconds: to import the library and load the model, once, in no night.

    resident_mb: this process before the first night, libraries and model included, in millions of bytes;
    todoist_mb: the stand-in's process after the last one. plan_seconds: to say what one more night would run.
    """

    n_users: int
    n_tasks: int
    n_shards: int
    model_cpu_seconds: float
    resident_mb: float | None
    todoist_mb: float
    plan_seconds: float
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

    @property
    def cpu_ms_per_user(self) -> dict[str, float]:
        """CPU of each night but for the fetch, in milliseconds for each user that there is."""
        return {night.name: 1000 * night.cpu_seconds / self.n_users for night in self.nights}


def save(bench: Bench, path: Path) -> None:
    """All figures as one JSON object."""
    figures = asdict(bench) | {"ratios": bench.ratios, "cpu_ms_per_user": bench.cpu_ms_per_user}
    path.write_text(json.dumps(figures, indent=2) + "\n")


def saved(folder: Path) -> list[Mapping[str, Any]]:
    """What `save` wrote for each number of users, the fewest first."""
    found = [json.loads(path.read_text()) for path in folder.glob("bench-*.json") if path.stem[6:].isdigit()]
    return sorted(found, key=lambda figures: int(figures["n_users"]))


def show(bench: Bench, others: Sequence[Mapping[str, Any]], console: Console) -> None:
    """A table of the nights, how the later ones compare with the first, and runs of other sizes (see `saved`)."""
    console.width = max(console.width, _WIDTH)
    console.print(_table(bench))
    lines = [_written(night) for night in bench.nights]
    lines += [f"CPU of the {nights}:" + _percentages(ratios) for nights, ratios in bench.ratios.items()]
    lines += ["CPU for each user, without the fetch: " + _per_user(bench.cpu_ms_per_user)]
    lines += [_beside(bench, figures) for figures in others if figures["n_users"] != bench.n_users]
    lines += [f"To plan one more night, from footers and Postgres: {bench.plan_seconds:.2f} s"]
    lines += [_memory(bench), *_not_counted(bench)]
    console.print("\n".join(lines), soft_wrap=True)


def _written(night: Night) -> str:
    n_written, n_embedded = count_of(night.costs, "rows_written"), count_of(night.costs, "texts_embedded")
    n_clustered = sum(cost.n_users_computed for cost in night.costs if cost.asset == "task_clusters")
    return (
        f"{night.name}: {night.n_to_write} users {night.why}, {n_written} rows of context_store written;"
        f" {n_embedded} texts embedded, {n_clustered} users clustered"
    )


def _percentages(ratios: Mapping[str, float]) -> str:
    return ",".join(f" {ratio:.2%} {words}" for words, ratio in ratios.items())


def _per_user(milliseconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {each:.3f} ms" for name, each in milliseconds.items())


def _beside(bench: Bench, figures: Mapping[str, Any]) -> str:
    other = figures["cpu_ms_per_user"]
    ratios = {name: mine / other[name] for name, mine in bench.cpu_ms_per_user.items() if other.get(name)}
    return f"  beside that of {figures['n_users']} users in {figures['n_shards']} shards: " + ", ".join(
        f"{name} x {ratio:.2f}" for name, ratio in ratios.items()
    )


def _memory(bench: Bench) -> str:
    peaks = [cost.peak_mb for night in bench.nights for cost in night.costs if cost.peak_mb]
    return (
        f"Memory: {_mb(bench.resident_mb)} MB before the first night, libraries and model included;"
        f" {_mb(max(peaks, default=None))} MB at most"
    )


def _not_counted(bench: Bench) -> Iterable[str]:
    yield f"Not in the table: {bench.model_cpu_seconds:.1f} CPU s to import and load the model, once;"
    todoist = (f"{night.todoist_cpu_seconds:.1f} in the {night.name}" for night in bench.nights)
    yield f"  CPU s of the local Todoist: {', '.join(todoist)}; its memory at the end: {bench.todoist_mb:.0f} MB"


def _table(bench: Bench) -> Table:
    title = f"{bench.n_users} users x {bench.n_tasks} tasks, {bench.n_shards} shards, one process, a tiny model"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("", no_wrap=True)
    for name in (
        "seconds",
        "CPU s",
        "shards\nrun",
        "users\ncomputed",
        "texts\nembedded",
        "rows\nstored",
        "only\nrefreshed",
        "Parquet\nMB",
        "MB\nbefore",
        "MB\nat most",
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
    counted = [str(cost.counts.get(name, "")) for name in ("texts_embedded", "rows_written", "rows_refreshed")]
    return (
        f"{cost.seconds:.2f}",
        f"{cost.cpu_seconds:.2f}",
        str(cost.n_shards_run),
        str(cost.n_users_computed),
        *counted,
        f"{cost.written_mb:.1f}",
        _mb(cost.resident_mb),
        _mb(cost.peak_mb),
    )


def _mb(megabytes: float | None) -> str:
    return "-" if megabytes is None else f"{megabytes:.0f}"
