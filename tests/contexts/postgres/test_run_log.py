"""The log of pipeline runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from contexts.postgres.run_log import AssetRun, RunLog, StepRun, Throughput

AT = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
RUN = AssetRun(
    run_id="run-1",
    step="fetch_signals",
    asset="todoist_tasks",
    started_at=AT,
    finished_at=AT + timedelta(seconds=7, microseconds=5),
    n_shards=16,
    n_shards_run=3,
    n_users=100,
    n_users_computed=5,
    n_rows=2**40,
    data_version="v1",
    changed=True,
    counts={"todoist_calls_full": 2, "items_skipped": 0},
)


@pytest.fixture
def run_log(connection: psycopg.Connection[Any]) -> RunLog:
    return RunLog(connection)


def test_round_trip(run_log: RunLog) -> None:
    """An asset run comes back unchanged."""
    run_log.write_asset_run(RUN)
    assert run_log.asset_runs_since(AT) == [RUN]


def test_retried_run(run_log: RunLog) -> None:
    """A retried run replaces its own row only."""
    other = replace(RUN, run_id="run-0", started_at=AT - HOUR)
    run_log.write_asset_run(other)
    run_log.write_asset_run(RUN)
    retried = replace(
        RUN,
        finished_at=AT + HOUR,
        n_shards_run=4,
        n_users=101,
        n_users_computed=6,
        n_rows=7,
        data_version="v2",
        changed=False,
        counts={},
    )
    run_log.write_asset_run(retried)
    assert run_log.asset_runs_since(AT - HOUR) == [other, retried]


def test_assets_of_a_run(run_log: RunLog) -> None:
    """A run has a row for each of its assets."""
    run_log.write_asset_run(RUN)
    run_log.write_asset_run(replace(RUN, asset="tip_reactions"))
    assert [run.asset for run in run_log.asset_runs_since(AT)] == ["tip_reactions", "todoist_tasks"]


def test_since(run_log: RunLog) -> None:
    """Asset runs come oldest first, from an instant on."""
    for hour in (2, 0, 1):
        run_log.write_asset_run(replace(RUN, run_id=f"run-{hour}", started_at=AT + hour * HOUR))
    assert [run.run_id for run in run_log.asset_runs_since(AT + HOUR)] == ["run-1", "run-2"]
    assert run_log.asset_runs_since(AT + 3 * HOUR) == []


def test_latest_version(run_log: RunLog) -> None:
    """An asset's latest version is that of the run that ended last; None before the first run."""
    assert run_log.latest_version("todoist_tasks") is None
    run_log.write_asset_run(replace(RUN, run_id="new", data_version="new", finished_at=AT + 2 * HOUR))
    run_log.write_asset_run(replace(RUN, run_id="old", data_version="old", finished_at=AT + HOUR))
    run_log.write_asset_run(replace(RUN, run_id="other", asset="tip_reactions", finished_at=AT + 3 * HOUR))
    assert run_log.latest_version("todoist_tasks") == "new"


def fetch_and_embed(run_log: RunLog, number: int, scope: str, n_texts: int) -> None:
    """Log a fetch of ten users in an hour of its own, and the texts embedded after it."""
    at, done = AT + number * HOUR, {"todoist_calls": 10}
    run_log.start_step_run(StepRun(str(number), "fetch_signals", at, scope=scope))
    run_log.finish_step_run(StepRun(str(number), "fetch_signals", at, at, done=done, seconds={"todoist_calls": 1}))
    seconds, texts = {"texts_embedded": n_texts * 0.5}, {"texts_embedded": n_texts}
    run_log.start_step_run(StepRun(str(number), "embed_tasks", at, planned=texts))
    run_log.finish_step_run(StepRun(str(number), "embed_tasks", at, at, done=texts, seconds=seconds))


def test_experience_of_changes(run_log: RunLog) -> None:
    """The likely work per user is that of runs of the same scope, or of all; the first run computes everything."""
    now = AT + timedelta(days=1)
    assert run_log.throughput(now) == {}
    fetch_and_embed(run_log, 1, "all", 746)
    assert run_log.throughput(now, "all")["texts_embedded"] == Throughput(0.5, None, None)
    fetch_and_embed(run_log, 2, "likely", 30)
    assert run_log.throughput(now, "nightly")["texts_embedded"].units_per_user == 3
    fetch_and_embed(run_log, 3, "nightly", 1)
    assert run_log.throughput(now, "nightly")["texts_embedded"].units_per_user == 0.1
    assert run_log.throughput(now, "likely")["texts_embedded"].units_per_user == 3


def test_a_repair_spoils_no_estimate(run_log: RunLog) -> None:
    """The time of a plan is that of runs with a similar amount of work, and a fetch of named users is no experience.

    Where no run is similar, all of them count.
    """
    now = AT + timedelta(days=1)
    fetch_and_embed(run_log, 1, "all", 1000)
    for number in (2, 3, 4):
        at, run_id, one = AT + number * HOUR, f"repair {number}", {"texts_embedded": 1}
        call, seconds = {"todoist_calls": 1}, {"texts_embedded": 6.0}
        run_log.finish_step_run(StepRun(run_id, "fetch_signals", at, at, done=call, seconds={"todoist_calls": 9}))
        run_log.start_step_run(StepRun(run_id, "embed_tasks", at, planned=one))
        run_log.finish_step_run(StepRun(run_id, "embed_tasks", at, at, done=one, seconds=seconds))

    def seconds_per_text(n_texts: int) -> float | None:
        return run_log.throughput(now, "all", {"texts_embedded": n_texts})["texts_embedded"].seconds_per_unit

    assert [seconds_per_text(n) for n in (1, 50, 800)] == [6.0, 6.0, 0.5]
    assert run_log.throughput(now, "all")["todoist_calls"].seconds_per_user is None


def test_a_run_is_logged_before_its_plan(run_log: RunLog) -> None:
    """A run whose plan fails is in the log without a plan, and another try of it keeps what was written."""
    run_log.begin_step_run("run-1", "embed_tasks", AT)
    run_log.begin_step_run("run-2", "embed_tasks", AT + HOUR)
    run_log.start_step_run(StepRun("run-2", "embed_tasks", AT + HOUR, planned={"texts_embedded": 3}))
    run_log.begin_step_run("run-2", "embed_tasks", AT + 2 * HOUR)
    runs = run_log.step_runs_since(AT)
    assert [(run.run_id, run.started_at, run.planned) for run in runs] == [
        ("run-1", AT, {}),
        ("run-2", AT + HOUR, {"texts_embedded": 3}),
    ]


def test_requests_before_the_first_run(run_log: RunLog) -> None:
    """A day of requests before the first run of the pipeline is no experience of changes."""
    calls = {"todoist_calls": 3}
    run_log.finish_step_run(StepRun("2026-11-22", "serving", AT - HOUR, AT - HOUR, 3, {}, calls, {}, {}))
    fetch_and_embed(run_log, 1, "all", 746)
    throughput = run_log.throughput(AT + timedelta(days=1), "all")
    assert throughput["texts_embedded"].units_per_user is None


def test_waits(run_log: RunLog) -> None:
    """A wait begins with the first run that waits, and ends with the first one that does not."""
    run_log.record_waits("compute_context", [0, 1], [0, 1], AT)
    run_log.record_waits("compute_context", [0, 2], [2], AT + HOUR)
    run_log.record_waits("compute_context", [1], [1], AT + 2 * HOUR)
    assert run_log.waiting_since("compute_context") == {1: AT, 2: AT + HOUR}
    run_log.record_waits("compute_context", [2], [2], AT - HOUR)  # the clock was set back
    assert run_log.waiting_since("compute_context") == {1: AT, 2: AT - HOUR}
    assert run_log.waiting_since("cluster_tasks") == {}


def test_a_day_without_calls_of_the_llm_has_none(run_log: RunLog, connection: psycopg.Connection[Any]) -> None:
    """A day of requests without a call of the LLM has no calls, tokens and seconds, and none of them is unknown."""
    connection.execute("INSERT INTO users (user_id, email, timezone) VALUES ('ann', 'ann@example.org', 'UTC')")
    connection.execute(
        "INSERT INTO decisions (decision_id, user_id, decided_at) VALUES (gen_random_uuid(), 'ann', %s)", [AT]
    )
    run_log.add_request_days(AT + HOUR)
    [run] = run_log.step_runs_since(AT - timedelta(days=1))
    assert run.done == {"tips": 1, "todoist_calls": 0, "llm_calls": 0, "llm_tokens": 0}
    assert run.seconds == {"llm_calls": 0}
