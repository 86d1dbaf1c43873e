from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from toy import NOON, ToyPipeline, toy_graph

from assets.engine.plan import Plan, PlannedShard, Request, Wait, Workload
from assets.engine.results import ShardResult
from assets.estimate import AssetEstimate
from assets.reports import estimate_note, estimate_table, run_lines, shard_lines, step_summary, waiting_lines
from contexts.postgres.run_log import StepRun

HEADING = ["asset", "shards", "why", "users", "work", "saved", "seconds"]
UP_TO_DATE = AssetEstimate(
    asset="letters",
    reasons={},
    n_shards=0,
    n_shards_total=2,
    n_users=0,
    n_users_total=2,
    work="calls",
    n_units=0,
    n_units_total=2,
    is_upper_bound=False,
    units_are_upper_bound=False,
    n_likely=None,
    seconds=0.0,
)

FIRST = "first night: no experience yet"


def estimate_of(asset: str, **facts: Any) -> AssetEstimate:
    """Return the estimate of one of two shards with one of two users, exact and without past runs."""
    defaults = {"reasons": {"observe": 1}, "n_shards": 1, "n_users": 1, "n_units": 1, "seconds": None}
    return replace(UP_TO_DATE, asset=asset, **{**defaults, **facts})


ESTIMATES = [
    estimate_of("letters", seconds=1500.0),
    estimate_of("stamps", work="stamps_read", n_units=None, units_are_upper_bound=True),
    estimate_of(
        "words",
        reasons={"data": 1},
        is_upper_bound=True,
        work="texts_embedded",
        n_units=3,
        n_units_total=4,
        units_are_upper_bound=True,
    ),
    estimate_of(
        "pages",
        reasons={"data": 1},
        is_upper_bound=True,
        work="pages_printed",
        units_are_upper_bound=True,
        n_likely=0,
        seconds=0.5,
    ),
    estimate_of(
        "shelf", reasons={"data": 1}, is_upper_bound=True, work=None, n_units=None, units_are_upper_bound=True
    ),
]


def cells(estimates: Iterable[AssetEstimate]) -> list[list[str]]:
    """Return the cells of a printed table, cut at the columns of its heading."""
    heading, *lines = estimate_table(estimates)
    bounds = [*(heading.index(name) for name in HEADING), None]
    assert heading.split() == HEADING
    return [[line[start:end].strip() for start, end in pairwise(bounds)] for line in lines]


def test_an_estimate_is_a_table() -> None:
    """Estimates are printed in aligned columns: shards, reasons, users, work, saved work and seconds."""
    assert cells(ESTIMATES) == [
        ["letters", "1 of 2", "observe", "1 of 2", "1 calls", "1", "~1,500.0"],
        ["stamps", "1 of 2", "observe", "1 of 2", "stamps read: not known yet", "", FIRST],
        ["words", "at most 1 of 2", "data", "at most 1 of 2", "at most 3 texts embedded", "at least 1", FIRST],
        [
            "pages",
            "at most 1 of 2",
            "data",
            "at most 1 of 2",
            "at most 1 pages printed, likely 0",
            "at least 1",
            "~0.5",
        ],
        ["shelf", "at most 1 of 2", "data", "at most 1 of 2", "", "", ""],
    ]


def test_a_bound_of_the_time_is_printed_as_such() -> None:
    """Without experience of changes the time of all units is an upper bound."""
    assert cells([estimate_of("words", seconds=7.0, seconds_are_upper_bound=True)])[0][-1] == "at most ~7.0"


def test_up_to_date_assets_are_printed_as_such() -> None:
    """An asset without work is up to date, and no line ends in blanks."""
    lines = list(estimate_table([UP_TO_DATE, replace(UP_TO_DATE, asset="pages")]))
    assert [line.split() for line in lines[1:]] == [
        [name, "0", "of", "2", "up", "to", "date"] for name in ("letters", "pages")
    ]
    assert not any(line.endswith(" ") for line in lines)


def test_an_empty_table_has_a_heading() -> None:
    """Without estimates only the heading is printed."""
    assert list(estimate_table([])) == ["  ".join(HEADING)]


def test_several_reasons_are_counted() -> None:
    """The shards of each reason are counted if there are several reasons."""
    assert cells([estimate_of("words", reasons={"missing": 1, "code": 2}, n_shards=3)])[0][2] == "missing 1, code 2"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"n_likely": 7}, "at most 9 calls, likely 7"),
        ({"n_likely": 9}, "at most 9 calls"),
        ({"n_units": None, "n_likely": 1500}, "calls: not known yet, likely 1,500"),
    ],
)
def test_likely_units_are_printed_if_they_differ(facts: dict[str, Any], expected: str) -> None:
    """The likely number of units is printed if it is different from the number of units."""
    each = estimate_of("letters", **{"n_units": 9, "units_are_upper_bound": True, **facts})
    assert cells([each])[0][4] == expected


def test_a_note_is_a_list() -> None:
    """A note is a Markdown list with a point for each asset, without empty cells."""
    assert estimate_note([UP_TO_DATE, *ESTIMATES[:2], ESTIMATES[-1]]).split("\n") == [
        "- letters · 0 of 2 · up to date",
        "- letters · 1 of 2 · observe · 1 of 2 · 1 calls · 1 · ~1,500.0",
        "- stamps · 1 of 2 · observe · 1 of 2 · stamps read: not known yet · first night: no experience yet",
        "- shelf · at most 1 of 2 · data · at most 1 of 2",
    ]


def test_a_line_for_each_shard() -> None:
    """Each shard runs with its reason and users, waits for a stale asset, or is skipped."""
    pipeline = ToyPipeline(n_shards=2)
    for user in ("ann", "cem"):
        pipeline.post_office.write(user, "l1", "hello")
    pipeline.run()
    pipeline.post_office.write("cem", "l1", "hello again")
    pipeline.run(select=["letters"])
    pipeline.graph = toy_graph(pages="2")
    planner, members = pipeline.planner, [pipeline.graph["pages"]]
    plan = planner.plan(members)
    plan = planner.without_waiting(plan, members, planner.waits(members, plan))
    assert list(shard_lines(plan, planner, members)) == [
        "pages            shard    0  run   code: 1 of 1 users",
        "pages            shard    1  waiting for words: 1 user",
    ]
    some = planner.plan(pipeline.graph, Request(only_shards=frozenset([1])))
    assert list(shard_lines(some, planner, pipeline.graph)) == [
        "letters          shard    0  up to date",
        "letters          shard    1  up to date",
        "words            shard    0  up to date",
        "words            shard    1  run   data of letters: 1 of 1 users",
        "pages            shard    0  up to date",
        "pages            shard    1  run   code: at most 1 of 1 users",
    ]


def test_a_shard_without_a_file_has_a_line() -> None:
    """A planned shard has a line before its file exists, with the thousands of its users separated."""
    pipeline = ToyPipeline()
    users = frozenset(map(str, range(1200)))
    entry = PlannedShard("letters", 0, "observe", workload=Workload(users, n_users=2000, n_rows=None))
    assert list(shard_lines(Plan((entry,), Request()), pipeline.planner, [pipeline.graph["letters"]])) == [
        "letters          shard    0  run   observe: 1,200 of 2,000 users"
    ]


def test_waiting_users_are_counted() -> None:
    """Users who wait are counted for each asset that has to run first, a user of several steps once."""
    named = [(0, "words", "ann"), (1, "words", "bob"), (0, "letters", "cem")]
    waits = [Wait(shard, name, frozenset({user})) for shard, name, user in named]
    assert list(waiting_lines(Plan((), Request(), (*waits, waits[0])))) == [
        "waiting for letters: 1 user",
        "waiting for words: 2 users",
    ]
    assert list(waiting_lines(Plan((), Request()))) == []


def result_of(asset: str, n_users: int, **counts: int) -> ShardResult:
    return ShardResult(asset, 0, "data", True, "v", 20, 10, n_users, 0.5, counts)


def test_a_step_is_summarized() -> None:
    """A summary has the shards, the users and every count that is not zero, each in the singular for one."""
    results = [result_of("words", 1200, texts_embedded=1500, failures=0), result_of("pages", 1, texts_embedded=2)]
    assert step_summary("embed", results, 1.25) == "embed: 2 shards, 1,201 users, 1,502 texts embedded in 1.2 s"
    assert step_summary("embed", results[1:], 0) == "embed: 1 shard, 1 user, 2 texts embedded in 0.0 s"
    assert step_summary("embed", [], 0) == "embed: 0 shards, 0 users in 0.0 s"


def run_of(finished_at: datetime | None, n_users: int | None) -> StepRun:
    return StepRun(
        "scheduled 1",
        "embed",
        NOON,
        finished_at,
        n_users,
        planned={"texts_embedded": 2.0},
        done={"texts_embedded": 1500.0},
        saved={"users_clustered": 3.0},
        seconds={"texts_embedded": 1.25},
    )


def test_a_run_has_a_line_for_each_kind_of_work() -> None:
    """A finished run is printed with its end, its users, and each kind of work, planned, done and saved."""
    heading, *lines = run_lines(run_of(NOON + timedelta(seconds=5), 1))
    assert heading == "2026-11-23 12:00:00  embed, ended 12:00:05, 1 user  (scheduled 1)"
    assert [line.split(maxsplit=2) for line in lines] == [
        ["texts", "embedded", "planned 2, done 1,500, seconds 1.2"],
        ["users", "clustered", "saved 3"],
    ]


def test_work_of_an_unknown_amount_is_called_unknown() -> None:
    """An amount that is null in Postgres, such as tokens that the LLM did not report, is printed as unknown."""
    run = StepRun("2026-11-23", "serving", NOON, NOON, 1, done={"llm_calls": 2.0, "llm_tokens": None})
    _, *lines = run_lines(run)
    assert [line.split() for line in lines] == [["llm", "calls", "done", "2"], ["llm", "tokens", "done", "unknown"]]


def test_a_run_that_did_not_finish_says_it() -> None:
    """A run without an end did not finish, and its number of users is unknown."""
    assert next(run_lines(run_of(None, None))) == "2026-11-23 12:00:00  embed, did not finish  (scheduled 1)"


def test_a_run_without_a_plan_says_it() -> None:
    """A run whose plan failed has neither planned nor done any work."""
    run = StepRun("scheduled 1", "embed", NOON)
    assert list(run_lines(run)) == ["2026-11-23 12:00:00  embed, did not get beyond its plan  (scheduled 1)"]
