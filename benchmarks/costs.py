"""`python -m benchmarks.costs`: what a day with a million and ten million users costs, by measured unit costs.

Prints the tables of docs/operations.md. Each unit cost names the command that printed it. Nothing is measured here,
and nothing of this size was run.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

SIZES = (1_000_000, 10_000_000)


@dataclass(frozen=True)
class Unit:
    """A unit cost, and the command or the page that gave it."""

    value: float
    source: str


_WEEK = "benchmarks.week --users 60 --days 4 --world harder --rules"
_PIPELINE = "USERS=100000 benchmarks"

TASKS_PER_USER = Unit(50, "the sample accounts of the benchmarks")
CHANGED_SHARE = Unit(0.2, "assumed: share of the users whose tasks change on a day")
TODOIST_CALLS = Unit(564 / 240, f"{_WEEK}: calls a user and day")
TODOIST_CALLS_WITH_HINTS = Unit(564 / 240 * 734 / 1048, "benchmarks.week --users 60 --days 7 --events: hints to off")
TODOIST_SECONDS = Unit(0.275, f"{_WEEK}: its Todoist takes 0.15 to 0.4 s")
TODOIST_LIMIT = Unit(4 * 24 * 1000, "Todoist: 1,000 incremental calls a user in 15 minutes")
REQUESTS = Unit(459 / 240, f"{_WEEK}: requests a user and day")
REQUEST_CPU_S = Unit(0.00026, "benchmarks.processes: one process, on a busy machine")
LLM_CALLS = Unit(83 / 240, f"{_WEEK}: calls a user and day")
LLM_INPUT_TOKENS = Unit(2630, "benchmarks.llm, the local stand-in, 4 characters a token")
LLM_OUTPUT_TOKENS = Unit(284, "benchmarks.llm, the local stand-in, 4 characters a token")
LLM_INPUT_DOLLARS = Unit(0.25e-6, "list price of gpt-5-mini, nothing cached")
LLM_OUTPUT_DOLLARS = Unit(2e-6, "list price of gpt-5-mini")
TEXTS_PER_CHANGED_USER = Unit(2998 / 1000, f"{_PIPELINE}: 1 % of the users changed")
EMBEDDING_CPU_S = Unit(0.054, "docs/decisions/4: a short text, nomic, one core")
EMBEDDING_GPU_S = Unit(1 / 18_000, "benchmarks.embedding: one H200")
FIRST_CPU_S = Unit(0.0181, f"{_PIPELINE}: first night")
CHANGED_CPU_S = Unit((0.66 - 0.06) / 1000 / 0.01, f"{_PIPELINE}: 1 % changed, less nothing changed")
UNCHANGED_CPU_S = Unit(0.06 / 1000, f"{_PIPELINE}: nothing changed")
MIDNIGHT_CPU_S = Unit(2.25 / 1000, f"{_PIPELINE}: after a midnight")
MIDNIGHT_ROWS = Unit(0.83623, f"{_PIPELINE}: rows after a midnight")
RUNS_PER_DAY = Unit(6, "MATERIALIZE_SCHEDULE")
MAPPED_STEPS = Unit(4, "benchmarks.chain: the steps of its first night that run groups of shards")
FIXED_TASKS = Unit(25 - 4 * 4, "benchmarks.chain: 25 task instances of its first night, less four groups a step")
TASK_CPU_S = Unit(52.8 / 50, "benchmarks.night_cpu, 64 users, busy machine: beyond the work of 50 tasks")
STORE_CPU_S = Unit(0.19 / 2000, "benchmarks.store 2000: a full rewrite, of the client and of Postgres")
S3_REQUESTS_PER_SHARD = Unit(29.6, "benchmarks.object_store --shards 32: first night, which writes every shard")
S3_BYTES_PER_USER = Unit(
    17_047 + 50 * 2 * (256 - 32), "USERS=500 benchmarks: all files, with 256 numbers a vector for 32"
)
CONTEXT_BYTES = Unit(5_076, "benchmarks.requests: mean size of a context")
VECTOR_BYTES = Unit(
    512 + 24 + 40, "a row of text_vectors: 256 numbers of two bytes, its key, Postgres's header and index"
)

USERS_PER_SHARD = 10_000
NIGHT_HOURS = 2
"""The time in which a night is to end."""

DEFAULT_SLOTS = 16
EMBEDDING_SLOTS = 32
TODOIST_CONCURRENCY = 8
"""The slots of `astro.yaml`, four workers of each queue, and the default of TODOIST_CONCURRENCY."""

TASK_SLOTS = EMBEDDING_SLOTS
"""The setting with which a step has as many groups of shards as the larger queue has slots."""


@dataclass(frozen=True)
class Part:
    """One part of a night.

    hours: that one unit works. units: that the deployment of `astro.yaml` has. setting: that changes it.
    """

    name: str
    unit: str
    hours: float
    units: float
    setting: str

    @property
    def units_needed(self) -> int:
        """The units with which the part ends in NIGHT_HOURS."""
        return ceil(self.hours / NIGHT_HOURS)

    @property
    def shortage(self) -> float:
        """The units needed in units of the deployment: above 1 the night takes longer than NIGHT_HOURS."""
        return self.hours / NIGHT_HOURS / self.units


@dataclass(frozen=True)
class Day:
    """A day with a number of users: its amounts, and the parts of its night."""

    n_users: int

    @property
    def n_shards(self) -> int:
        """The number of shards, of USERS_PER_SHARD users each."""
        return ceil(self.n_users / USERS_PER_SHARD)

    @property
    def n_changed(self) -> float:
        """The users whose tasks changed."""
        return self.n_users * CHANGED_SHARE.value

    @property
    def n_texts(self) -> float:
        """The texts to embed."""
        return self.n_changed * TEXTS_PER_CHANGED_USER.value

    @property
    def n_rows(self) -> float:
        """The rows of `context_store` that are written."""
        return self.n_users * max(MIDNIGHT_ROWS.value, CHANGED_SHARE.value)

    @property
    def n_tasks(self) -> float:
        """The task instances of a night in which every shard has a change."""
        return FIXED_TASKS.value + MAPPED_STEPS.value * min(self.n_shards, TASK_SLOTS)

    @property
    def llm_dollars(self) -> float:
        """The price of the calls of the LLM."""
        tokens = LLM_INPUT_TOKENS.value * LLM_INPUT_DOLLARS.value + LLM_OUTPUT_TOKENS.value * LLM_OUTPUT_DOLLARS.value
        return self.n_users * LLM_CALLS.value * tokens

    @property
    def steps_cpu_s(self) -> float:
        """The CPU seconds of the steps beside fetch and embedding, with the runs that find nothing changed."""
        per_user = MIDNIGHT_CPU_S.value + RUNS_PER_DAY.value * UNCHANGED_CPU_S.value
        return self.n_changed * CHANGED_CPU_S.value + self.n_users * per_user

    def parts(self) -> Sequence[Part]:
        """The parts of the night that fetches everybody."""
        return (
            Part(
                "fetch from Todoist",
                "calls at a time",
                self.n_users * TODOIST_SECONDS.value / 3600,
                DEFAULT_SLOTS * TODOIST_CONCURRENCY,
                "`TODOIST_CONCURRENCY`, workers of `default`; `TODOIST_EVENTS`",
            ),
            Part(
                "embed on CPUs",
                "cores",
                self.n_texts * EMBEDDING_CPU_S.value / 3600,
                EMBEDDING_SLOTS,
                "`TASK_SLOTS`, workers of `embed`; `EMBEDDING_EXECUTOR_CONFIG`",
            ),
            Part(
                "find themes and assemble contexts",
                "cores",
                self.steps_cpu_s / 3600,
                DEFAULT_SLOTS,
                "`TASK_SLOTS`, workers of `default`",
            ),
            Part(
                "run tasks in Airflow",
                "cores",
                self.n_tasks * TASK_CPU_S.value / 3600,
                DEFAULT_SLOTS,
                "`TASK_SLOTS`: fewer and larger groups",
            ),
            Part(
                "write rows to Postgres",
                "cores",
                self.n_rows * STORE_CPU_S.value / 3600,
                4,
                "the server's cores",
            ),
        )


def markdown(sizes: Sequence[int] = SIZES) -> str:
    """Return the tables of the page. sizes: numbers of users, a column each."""
    days = [Day(n_users) for n_users in sizes]
    header = ["a day with", *(f"{day.n_users:,} users" for day in days)]
    rows = [header, ["---"] * len(header)]
    for amounts in zip(*map(_amounts, days), strict=True):
        rows.append([amounts[0][0], *(text for _, text in amounts)])
    return "\n".join([*map(_row, rows), "", *map(_row, _part_rows(days)), "", *map(_bottleneck, days)])


def _amounts(day: Day) -> Iterator[tuple[str, str]]:
    n = day.n_users
    yield (
        "Todoist calls; with `TODOIST_EVENTS=hints`",
        (f"{_short(n * TODOIST_CALLS.value)}; {_short(n * TODOIST_CALLS_WITH_HINTS.value)}"),
    )
    yield "share of a user's limit at Todoist", f"{100 * TODOIST_CALLS.value / TODOIST_LIMIT.value:.4f} %"
    first = n * TASKS_PER_USER.value
    yield (
        "first night: embedding, hours of a core; of an H200",
        (f"{first * EMBEDDING_CPU_S.value / 3600:,.0f}; {first * EMBEDDING_GPU_S.value / 3600:,.1f}"),
    )
    yield "first night: all other steps, hours of a core", f"{n * FIRST_CPU_S.value / 3600:,.0f}"
    yield (
        "embedding, hours of a core; of an H200",
        (f"{day.n_texts * EMBEDDING_CPU_S.value / 3600:,.1f}; {day.n_texts * EMBEDDING_GPU_S.value / 3600:.2f}"),
    )
    yield "shards; task instances of a night", f"{day.n_shards:,}; {day.n_tasks:,.0f}"
    yield (
        "S3: requests of a night; bytes stored",
        (f"{_short(day.n_shards * S3_REQUESTS_PER_SHARD.value)}; {_short(n * S3_BYTES_PER_USER.value, 'B')}"),
    )
    yield (
        "Postgres: rows of contexts written; a second in the night",
        (f"{_short(day.n_rows)}; {day.n_rows / NIGHT_HOURS / 3600:,.0f}"),
    )
    yield (
        "Postgres: contexts and vectors",
        (_short(n * (CONTEXT_BYTES.value + TASKS_PER_USER.value * VECTOR_BYTES.value), "B")),
    )
    yield (
        "requests a second, mean; cores of the service",
        (f"{n * REQUESTS.value / 86400:,.0f}; {n * REQUESTS.value / 86400 * REQUEST_CPU_S.value:.2f}"),
    )
    yield (
        "LLM: calls; US dollars (`TIPS_AHEAD_CALLS`, `TIPS_AHEAD_DOLLARS`)",
        f"{_short(n * LLM_CALLS.value)}; {day.llm_dollars:,.0f}",
    )


def _part_rows(days: Sequence[Day]) -> Iterator[list[str]]:
    columns = [f"{day.n_users:,} users" for day in days]
    yield [f"in a night of {NIGHT_HOURS} hours", "unit", "`astro.yaml`", *columns, "setting"]
    yield ["---"] * (4 + len(days))
    for parts in zip(*(day.parts() for day in days), strict=True):
        first = parts[0]
        needed = [f"{part.units_needed:,}" for part in parts]
        yield [first.name, first.unit, f"{first.units:g}", *needed, first.setting]


def _bottleneck(day: Day) -> str:
    part = max(day.parts(), key=lambda part: part.shortage)
    first_s = day.n_users * TASKS_PER_USER.value * EMBEDDING_CPU_S.value
    return (
        f"- {day.n_users:,} users: the bottleneck is to {part.name}, {part.shortage:.1f} times what `astro.yaml` has."
        f" Setting: {part.setting}. The first night embeds for {first_s / EMBEDDING_SLOTS / 3600:,.0f} hours on the"
        f" {EMBEDDING_SLOTS} cores of its queue `embed`."
    )


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _short(value: float, unit: str = "") -> str:
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f} {prefix}{unit}"
    return f"{value:.0f} {unit}".strip()


def units() -> dict[str, Unit]:
    """Return all unit costs by name."""
    return {name: unit for name, unit in globals().items() if isinstance(unit, Unit)}


def main() -> int:
    """Print the tables and the sources."""
    parser = ArgumentParser(prog="python -m benchmarks.costs", description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=SIZES, help="numbers of users, a column each")
    print(markdown(parser.parse_args().users))
    print()
    for name, unit in units().items():
        print(f"{name} = {unit.value:.6g}: {unit.source}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
