"""The figures of `make bench` as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.pipeline import FETCH_STEP, AssetCost, total_count, total_cpu_seconds

_MIN_WIDTH = 112
"""Width of the table in characters; the default for files and pipes is 80."""


@dataclass(frozen=True)
class NightCosts:
    """The costs of one simulated night.

    todoist_cpu_seconds: CPU time of the local Todoist's process, which no other figure includes.
    n_to_write: number of users with changed rows, counted independently of the pipeline.
    change: predicate of these users, such as "are new".
    """

    name: str
    costs: tuple[AssetCost, ...]
    todoist_cpu_seconds: float
    n_to_write: int
    change: str

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all steps but the fetch."""
        return total_cpu_seconds(self.costs, excluded_steps=[FETCH_STEP])


@dataclass(frozen=True)
class BenchFigures:
    """The figures of one run of the benchmark.

    model_cpu_seconds: CPU time of importing the library and loading the model, once and before all nights.
    resident_mb: memory of this process before the first night in millions of bytes, with libraries and model.
    todoist_mb: memory of the local Todoist's process after the last night.
    plan_seconds: time to plan one more night.
    """

    n_users: int
    n_tasks: int
    n_shards: int
    model_cpu_seconds: float
    resident_mb: float | None
    todoist_mb: float
    plan_seconds: float
    nights: tuple[NightCosts, ...]

    @property
    def ratios(self) -> dict[str, dict[str, float]]:
        """CPU seconds of each later night divided by those of the first, without some steps."""
        first, *later = self.nights
        excluded_steps = {
            "without the fetch": (FETCH_STEP,),
            "without fetch and embedding": (FETCH_STEP, "embed_tasks"),
        }
        return {
            f"{night.name} / {first.name}": {
                label: total_cpu_seconds(night.costs, excluded_steps=steps)
                / total_cpu_seconds(first.costs, excluded_steps=steps)
                for label, steps in excluded_steps.items()
            }
            for night in later
        }

    @property
    def cpu_ms_per_user(self) -> dict[str, float]:
        """CPU milliseconds of each night per user, without the fetch."""
        return {night.name: 1000 * night.cpu_seconds / self.n_users for night in self.nights}


def save_figures(figures: BenchFigures, path: Path) -> None:
    """Write all figures as one JSON object."""
    document = asdict(figures) | {"ratios": figures.ratios, "cpu_ms_per_user": figures.cpu_ms_per_user}
    path.write_text(json.dumps(document, indent=2) + "\n")


def read_figures(folder: Path) -> list[Mapping[str, Any]]:
    """The documents that `save_figures` wrote, by ascending number of users."""
    documents = [json.loads(path.read_text()) for path in folder.glob("bench-*.json") if path.stem[6:].isdigit()]
    return sorted(documents, key=lambda document: int(document["n_users"]))


def print_figures(figures: BenchFigures, documents: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print a table of the nights, their ratios to the first night, and a comparison with other sizes.

    documents: of all sizes (see `read_figures`).
    """
    console.width = max(console.width, _MIN_WIDTH)
    console.print(_nights_table(figures))
    lines = [_work_line(night) for night in figures.nights]
    lines += [f"CPU of the {nights}:" + _percentages(ratios) for nights, ratios in figures.ratios.items()]
    lines += ["CPU per user, without the fetch: " + _per_user(figures.cpu_ms_per_user)]
    lines += [_comparison(figures, document) for document in documents if document["n_users"] != figures.n_users]
    lines += [f"Planning one more night, from footers and Postgres: {figures.plan_seconds:.2f} s"]
    lines += [_memory_line(figures), *_excluded_costs(figures)]
    console.print("\n".join(lines), soft_wrap=True)


def _work_line(night: NightCosts) -> str:
    n_written, n_embedded = total_count(night.costs, "rows_written"), total_count(night.costs, "texts_embedded")
    n_clustered = sum(cost.n_users_computed for cost in night.costs if cost.asset == "task_clusters")
    return (
        f"{night.name}: {night.n_to_write} users {night.change}; {n_written} rows of context_store written,"
        f" {n_embedded} texts embedded, {n_clustered} users clustered"
    )


def _percentages(ratios: Mapping[str, float]) -> str:
    return ",".join(f" {ratio:.2%} {label}" for label, ratio in ratios.items())


def _per_user(milliseconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {ms:.3f} ms" for name, ms in milliseconds.items())


def _comparison(figures: BenchFigures, document: Mapping[str, Any]) -> str:
    other = document["cpu_ms_per_user"]
    ratios = {name: ms / other[name] for name, ms in figures.cpu_ms_per_user.items() if other.get(name)}
    return f"  compared with {document['n_users']} users in {document['n_shards']} shards: " + ", ".join(
        f"{name} x {ratio:.2f}" for name, ratio in ratios.items()
    )


def _memory_line(figures: BenchFigures) -> str:
    peaks = [cost.peak_mb for night in figures.nights for cost in night.costs if cost.peak_mb]
    return (
        f"Memory: {_mb(figures.resident_mb)} MB before the first night, with libraries and model;"
        f" {_mb(max(peaks, default=None))} MB at most"
    )


def _excluded_costs(figures: BenchFigures) -> Iterable[str]:
    yield f"Not in the table: {figures.model_cpu_seconds:.1f} CPU s to import the library and load the model once;"
    todoist = (f"{night.todoist_cpu_seconds:.1f} in the {night.name}" for night in figures.nights)
    yield f"  CPU s of the local Todoist: {', '.join(todoist)}; its memory at the end: {figures.todoist_mb:.0f} MB"


def _nights_table(figures: BenchFigures) -> Table:
    title = f"{figures.n_users} users x {figures.n_tasks} tasks, {figures.n_shards} shards, one process, a tiny model"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("", no_wrap=True)
    for name in (
        "seconds",
        "CPU s",
        "shards\nrun",
        "users\ncomputed",
        "texts\nembedded",
        "rows\nwritten",
        "rows\nrefreshed",
        "Parquet\nMB",
        "MB\nbefore",
        "MB\nat most",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for night in figures.nights:
        table.add_row(f"[bold]{night.name}[/bold]", *_total_cells(night.costs))
        for step, costs in _costs_by_step(night.costs).items():
            table.add_row(f" {step}", *_total_cells(costs))
            for cost in costs:
                table.add_row(f"  {cost.asset}", *_asset_cells(cost))
        table.add_section()
    return table


def _costs_by_step(costs: Iterable[AssetCost]) -> Mapping[str, list[AssetCost]]:
    steps: dict[str, list[AssetCost]] = {}
    for cost in costs:
        steps.setdefault(cost.step, []).append(cost)
    return steps


def _total_cells(costs: Sequence[AssetCost]) -> tuple[str, str]:
    return f"{sum(cost.seconds for cost in costs):.2f}", f"{total_cpu_seconds(costs):.2f}"


def _asset_cells(cost: AssetCost) -> tuple[str, ...]:
    counts = [str(cost.counts.get(name, "")) for name in ("texts_embedded", "rows_written", "rows_refreshed")]
    return (
        f"{cost.seconds:.2f}",
        f"{cost.cpu_seconds:.2f}",
        str(cost.n_shards_run),
        str(cost.n_users_computed),
        *counts,
        f"{cost.written_mb:.1f}",
        _mb(cost.resident_mb),
        _mb(cost.peak_mb),
    )


def _mb(megabytes: float | None) -> str:
    return "-" if megabytes is None else f"{megabytes:.0f}"
