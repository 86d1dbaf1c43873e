"""The analyses of `sql/analysis`, each over data with a known answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import pytest
from analysts import log_llm_call, log_set, log_tip, open_world_session, write_step_runs
from world import NOON, World

from assets.analysis.session import Session
from contexts.postgres.run_log import RunLog, StepRun
from contexts.postgres.sql import ROOT

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
Ask = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def analyst(world: World, database_url: str) -> Iterator[Session]:
    with open_world_session(world, database_url) as session:
        yield session


@pytest.fixture
def ask(analyst: Session) -> Ask:
    """A function that returns the rows of an analysis: all columns or the named ones."""

    def rows(name: str, *columns: str) -> list[tuple[Any, ...]]:
        result = analyst.sql(f"SELECT {', '.join(columns) or '*'} FROM analysis.{name}")
        assert result is not None
        return result.fetchall()

    return rows


def due(task_id: str, at: str | None, **more: Any) -> dict[str, Any]:
    return {"id": task_id, "content": f"task {task_id}", **({"due": {"date": at}} if at else {}), **more}


def test_overdue(ask: Ask, world: World, account: Any) -> None:
    """A task is overdue from the user's own midnight on, by due date or deadline; other items do not count."""
    world.add(
        "ann", account(due("a1", "2026-11-20"), due("a2", "2026-11-22"), due("a3", "2026-11-23"), due("a4", None))
    )
    auckland = account(due("b1", "2026-11-23"), timezone="Pacific/Auckland")  # noon UTC is the 24th there
    world.add("bob", auckland, "Pacific/Auckland")
    world.add("cem", account(due("c1", "2026-11-23T23:00:00Z"), due("c2", "2026-12-01")))
    world.add("dan", account())
    late = {"deadline": {"date": "2026-11-21"}}
    eve = account(due("e1", None, **late), due("e2", "2026-11-01", responsible_uid="colleague"), due("e3", None))
    world.add("eve", eve)
    world.night()
    assert ask("overdue") == [("ann", 4, 2, 0.5, 3), ("bob", 1, 1, 1.0, 1), ("eve", 2, 1, 0.5, 2)]


def test_tip_kinds(ask: Ask, world: World, account: Any) -> None:
    """Accepted and done tips count as welcome among tips with a reaction; a kind without reactions has no share."""
    world.add("ann", account())
    for reaction in ("done", "accepted", "dismissed", "ignored", None):
        log_tip(world, "ann", NOON, "focus", reaction=reaction)
    log_tip(world, "ann", NOON, "plan", reaction="done")
    log_tip(world, "ann", NOON, "theme")
    kinds = ask("tip_kinds")
    assert [row[:5] for row in kinds] == [
        ("plan", 1, 1, 1, 1.0),
        ("focus", 5, 4, 2, 0.5),
        ("theme", 1, 0, 0, None),
    ]
    assert kinds[0][5:] == pytest.approx((0.2065, 1.0), abs=1e-4)
    assert kinds[1][5:] == pytest.approx((0.1500, 0.8500), abs=1e-4)
    assert kinds[2][5:] == (None, None)


def test_welcome_themes(ask: Ask, world: World, account: Any) -> None:
    """Themes of all users are grouped by label, missing themes as (gone); tips without a theme are left out."""
    for user in ("ann", "cem"):
        milk = [{"id": f"{user}{n}", "content": content} for n, content in enumerate(["buy milk", "buy milk"])]
        world.add(user, account(*milk))
    world.night()
    themes = {row["user_id"]: row["cluster_id"] for row in world.rows("task_clusters") if row["cluster_id"]}
    for user, reaction in (("ann", "done"), ("ann", "ignored"), ("cem", "accepted")):
        log_tip(world, user, NOON, "theme", theme=themes[user], reaction=reaction)
    log_tip(world, "ann", NOON, "theme", theme="gone", reaction="done")
    log_tip(world, "ann", NOON, "focus", reaction="done")
    assert sorted(ask("welcome_themes", "label", "n_users", "n_reacted", "n_welcome", "share_welcome")) == [
        ("(gone)", 1, 1, 1, 1.0),
        ("buy milk", 2, 3, 2, pytest.approx(2 / 3)),
    ]


def test_pipeline_cost(ask: Ask, world: World) -> None:
    """The work of all runs of a day is summed, and divided by the number of fetches."""
    run_log, embedded = RunLog(world.connection), "texts_embedded"
    step_runs = [
        StepRun("n1", "fetch_signals", NOON, NOON + HOUR, 10, {}, {"todoist_calls": 10}, {}, {"todoist_calls": 2.0}),
        StepRun("n1", "embed_tasks", NOON, NOON + HOUR, 10, {}, {embedded: 30}, {embedded: 5}, {embedded: 1}),
        StepRun("n2", "embed_tasks", NOON + HOUR, None, 10, {}, {embedded: 10}, {}, {embedded: 0.5}),
        StepRun("2026-11-23", "serving", NOON, NOON, 10, {}, {"tips": 9}, {}, {}),
    ]
    for step_run in step_runs:
        run_log.finish_step_run(step_run)
    write_step_runs(world)
    assert ask("pipeline_cost") == [
        (date(2026, 11, 23), "texts_embedded", 40, 5, 1.5, 4.0, 150.0),
        (date(2026, 11, 23), "todoist_calls", 10, None, 2.0, 1.0, 200.0),
    ]


def test_llm_cost(ask: Ask, world: World, account: Any) -> None:
    """Cost is summed by day and divided by users with a tip; unpriced and unusable calls are counted.

    Days with tips but no calls, or calls but no tips, have rows, too.
    """
    for user in ("ann", "bob"):
        world.add(user, account())
        log_tip(world, user, NOON)
    log_tip(world, "ann", NOON - DAY)
    log_llm_call(world, "ann", NOON, cost_usd=0.01)
    log_llm_call(world, "bob", NOON, cost_usd=0.03, n_requests=2)
    log_llm_call(world, "bob", NOON, cost_usd=None, candidate_set_id=None, outcome="late", output_tokens=0)
    log_llm_call(world, "bob", NOON - 2 * DAY, cost_usd=5.0)
    assert ask("llm_cost") == [
        (date(2026, 11, 21), 0, 0, 1, 1, 1200, 5.0, None, 0, 0),
        (date(2026, 11, 22), 1, 1, 0, 0, 0, 0.0, 0.0, 0, 0),
        (date(2026, 11, 23), 2, 2, 3, 4, 3400, pytest.approx(0.04), pytest.approx(0.02), 1, 1),
    ]


def test_llm_sets(ask: Ask, world: World, account: Any) -> None:
    """A set counts as shown if a tip was chosen from it or from a set that kept its tips; by origin, with costs."""
    world.add("ann", account())
    shown, kept, unused = uuid4(), uuid4(), uuid4()
    log_set(world, "ann", NOON - DAY, shown, origin="ahead")
    log_set(world, "ann", NOON, kept, author="kept", origin="kept", kept_from=shown)
    log_set(world, "ann", NOON, unused, origin="ahead")
    log_tip(world, "ann", NOON, candidate_set_id=kept, origin="kept", set_age_s=5.0)
    for set_id, cost in ((shown, 0.01), (unused, 0.02), (None, 0.04)):
        log_llm_call(world, "ann", NOON, candidate_set_id=set_id, cost_usd=cost, place="ahead", cached_tokens=500)
    log_llm_call(world, "ann", NOON, cost_usd=1.0, place="request")
    assert ask("llm_sets") == [
        (date(2026, 11, 23), "ahead", 3, 2, 1, 1, pytest.approx(0.07), pytest.approx(0.02), 0.5),
        (date(2026, 11, 23), "waited", 1, 1, 0, 1, 1.0, 1.0, None),
    ]


def test_llm_skips(ask: Ask, world: World, account: Any) -> None:
    """The share of tips without an LLM call, by day."""
    world.add("ann", account())
    for llm in ("called", "skipped", "skipped", "fallback"):
        log_tip(world, "ann", NOON, llm=llm)
    log_tip(world, "ann", NOON - DAY, llm="called")
    assert ask("llm_skips") == [(date(2026, 11, 22), 1, 1, 0, 0, 0.0), (date(2026, 11, 23), 4, 1, 2, 1, 0.5)]


def test_freshness_by_hour(ask: Ask, world: World, account: Any) -> None:
    """Sources and ages of contexts at the time of use, by hour of the day over all days."""
    world.add("ann", account())
    log_tip(world, "ann", NOON, age=2 * HOUR)
    log_tip(world, "ann", NOON - DAY, age=4 * HOUR)
    log_tip(world, "ann", NOON + HOUR / 2, age=0 * HOUR, source="inline")
    log_tip(world, "ann", NOON, age=10 * HOUR, source="stale")
    log_tip(world, "ann", NOON + HOUR, age=None, source="none")
    noon, later = ask("freshness_by_hour")
    assert noon == (12, 4, 0.5, 0.25, 0.25, 3.0, pytest.approx(9.1))
    assert later == (13, 1, 0.0, 0.0, 0.0, None, None)


def test_changed_contexts(ask: Ask, world: World, account: Any) -> None:
    """Contexts changed within a day, with open tasks before and after; unchanged contexts are left out."""
    world.add("ann", account("buy milk"))
    world.add("bob", account("buy bread"))
    world.night(NOON - 2 * DAY)
    world.todoist.advance("ann", {"items": [{"id": "t7", "content": "call the dentist"}]})
    world.add("cem", account("water the plants"))
    world.night(NOON)
    assert ask("changed_contexts") == [("ann", NOON, "pipeline", 1, 2), ("cem", NOON, "pipeline", None, 1)]


def test_duplicates(ask: Ask, world: World, account: Any) -> None:
    """Pairs of a user's duplicate tasks; equal tasks of different users are not duplicates."""
    world.add(
        "ann", account({"id": "a1", "content": "buy milk"}, {"id": "a2", "content": "Buy milk"}, "call the dentist")
    )
    world.add("cem", account({"id": "c1", "content": "buy milk"}))
    world.night()
    duplicates = ask("duplicates", "user_id", "task_id", "content", "duplicate_id", "duplicate_content")
    assert duplicates == [("ann", "a1", "buy milk", "a2", "Buy milk")]


def test_embedding_drift(ask: Ask, world: World, account: Any) -> None:
    """A week with typical tasks is similar to all weeks; a week with different tasks is not."""
    typical = [
        {"id": f"u{week}{n}", "content": "buy milk and bread", "added_at": f"2026-11-{2 + 7 * week:02}T09:00:00Z"}
        for week in range(3)
        for n in range(4)
    ]
    different = [{"id": "x1", "content": "file tax return", "added_at": "2026-11-18T09:00:00Z"}]
    world.add("ann", account(*typical[:8], *different))
    world.night()
    weeks = ask("embedding_drift", "week", "n_sampled", "similarity", "similarity_to_previous_week")
    assert [row[:2] for row in weeks] == [(date(2026, 11, 2), 4), (date(2026, 11, 9), 4), (date(2026, 11, 16), 1)]
    assert weeks[0][2] == weeks[1][2] > 0.9 > 0.7 > weeks[2][2]
    assert weeks[0][3] is None
    assert weeks[1][3] == pytest.approx(1, abs=1e-3)
    assert weeks[2][3] < 0.5


def test_users_without_contexts(ask: Ask, world: World, account: Any) -> None:
    """Active users without a context, and the reason; a context from a request counts as one."""
    for user in ("ann", "bob", "cem", "dan", "eve"):
        world.add(user, account("buy milk"))
    world.connection.execute("UPDATE todoist_accounts SET connected = FALSE WHERE user_id = 'bob'")
    world.connection.execute("UPDATE users SET active = FALSE WHERE user_id = 'dan'")
    world.todoist.revoke("cem")
    world.night()
    world.add("fay", account("buy milk"))
    for user in ("gus", "hal"):
        world.connection.execute("INSERT INTO users VALUES (%s, 'x@example.org', 'UTC')", [user])
    world.connection.execute("INSERT INTO context_store VALUES ('hal', %s, '{}', 'hash')", [NOON])
    assert sorted(ask("users_without_contexts", "user_id", "reason")) == [
        ("bob", "Todoist no longer accepts the token"),
        ("cem", "Todoist refused the token"),
        ("fay", "not fetched yet"),
        ("gus", "no account"),
    ]


def test_freshness_of_users(ask: Ask, world: World, account: Any) -> None:
    """Active users by the age of their signals, fetched by a run or a request, the freshest first."""
    ages = {"ann": 5 * HOUR, "bob": 7 * HOUR, "cem": 8 * HOUR, "dan": 9 * DAY, "eve": None}
    for user, age in ages.items():
        world.add(user, account())
        at = None if age is None else NOON - age
        world.connection.execute("UPDATE todoist_accounts SET observed_at = %s WHERE user_id = %s", [at, user])
    world.connection.execute("INSERT INTO context_store VALUES ('dan', %s, '{}', 'hash')", [NOON - 30 * HOUR])
    assert ask("freshness_of_users") == [
        ("under 6 h", 1, 0.2),
        ("6 to 24 h", 2, 0.4),
        ("1 to 7 days", 1, 0.2),
        ("never", 1, 0.2),
    ]


def test_welcome_by_age(ask: Ask, world: World, account: Any) -> None:
    """Reactions by age of the context; tips without a context are left out."""
    world.add("ann", account())
    for hours, reaction in ((0.5, "done"), (0.9, "ignored"), (4, "dismissed"), (30, "accepted")):
        log_tip(world, "ann", NOON, reaction=reaction, age=hours * HOUR)
    log_tip(world, "ann", NOON, reaction="done", age=None)
    assert ask("welcome_by_age", "context_age", "n_reacted", "n_welcome", "share_welcome") == [
        ("under 1 h", 2, 1, 0.5),
        ("3 to 6 h", 1, 0, 0.0),
        ("over 6 h", 1, 1, 1.0),
    ]


def test_theme_shares(ask: Ask, world: World, account: Any) -> None:
    """Tasks in themes, by language; users without tasks are left out."""
    world.add("ann", account("buy milk", "buy milk now", "file tax return"))
    world.add("bob", account("wash car", lang="de"))
    world.add("cem", account())
    world.night()
    assert ask("theme_shares") == [("en", 1, 3, 2, pytest.approx(2 / 3), 1, 2.0), ("de", 1, 1, 0, 0.0, 0, None)]


def test_policies(ask: Ask, world: World, account: Any) -> None:
    """Tips, exploration and rewards by policy, over all its versions; one reward has no margin of error."""
    world.add("ann", account())
    for version, reward in (("linear-1@3", 1.0), ("linear-1@9", 0.0), ("uniform@0", 0.5)):
        log_tip(world, "ann", NOON, policy_version=version, reaction="done", reward=reward)
    log_tip(world, "ann", NOON, policy_version="linear-1@9", propensities=[0.2, 0.8])
    log_tip(world, "ann", NOON, policy_version=None)
    linear, uniform = ask("policies")
    assert linear == ("linear-1", 3, pytest.approx(0.4), pytest.approx(8 / 3), 2, 0.5, pytest.approx(0.98))
    assert uniform == ("uniform", 1, 0.5, 3.0, 1, 0.5, None)


def test_shard_sizes(ask: Ask, world: World, account: Any) -> None:
    """Minimum, median and maximum of rows per shard of each asset, and the total."""
    world.add("ann", account("buy milk"))
    world.add("cem", account("repair the bicycle", "write a letter", "wash the car"))
    world.night()
    sizes = {row[0]: row[1:7] for row in ask("shard_sizes")}
    assert sizes["task_clusters"] == (2, 1, 1, 2.0, 3, 4)
    assert sizes["context_store"] == (2, 1, 1, 1.0, 1, 2)


def test_every_question_is_tested() -> None:
    """Each file of `sql/analysis` has a test of its name here, and its question is in the README."""
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    readme = (ROOT.parent / "docs" / "analysts.md").read_text()
    for path in (ROOT / "analysis").glob("*.sql"):
        assert path.stem in tested
        assert f"| `{path.stem}` | {path.read_text().splitlines()[0].removeprefix('-- ')} |" in readme
