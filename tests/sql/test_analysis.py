"""What analysts ask: each question of `sql/analysis` on data of which the answer is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import pytest
from analysts import llm_call, opened, store_ledger, tip
from world import NOON, World

from assets.session import Session
from contexts.ledger import Ledger, Page
from contexts.sql import ROOT

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
Ask = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def analyst(world: World, database_url: str) -> Iterator[Session]:
    with opened(world, database_url) as made:
        yield made


@pytest.fixture
def ask(analyst: Session) -> Ask:
    """Gives the rows of an analysis, or some columns of them."""

    def rows(name: str, *columns: str) -> list[tuple[Any, ...]]:
        found = analyst.sql(f"SELECT {', '.join(columns) or '*'} FROM analysis.{name}")
        assert found is not None
        return found.fetchall()

    return rows


def due(task_id: str, at: str | None, **more: Any) -> dict[str, Any]:
    return {"id": task_id, "content": f"task {task_id}", **({"due": {"date": at}} if at else {}), **more}


def test_overdue(ask: Ask, world: World, account: Any) -> None:
    """A task is overdue from the user's own midnight on; who has none overdue is not told."""
    world.add(
        "ann", account(due("a1", "2026-11-20"), due("a2", "2026-11-22"), due("a3", "2026-11-23"), due("a4", None))
    )
    auckland = account(due("b1", "2026-11-23"), timezone="Pacific/Auckland")  # where noon UTC is the 24th
    world.add("bob", auckland, "Pacific/Auckland")
    world.add("cem", account(due("c1", "2026-11-23T23:00:00Z"), due("c2", "2026-12-01")))
    world.add("dan", account())
    world.night()
    assert ask("overdue") == [("ann", 4, 2, 0.5, 3), ("bob", 1, 1, 1.0, 1)]


def test_tip_kinds(ask: Ask, world: World, account: Any) -> None:
    """Accepted and done count as welcome, among those with a reaction; a kind without any has no share."""
    world.add("ann", account())
    for reaction in ("done", "accepted", "dismissed", "ignored", None):
        tip(world, "ann", NOON, "focus", reaction=reaction)
    tip(world, "ann", NOON, "plan", reaction="done")
    tip(world, "ann", NOON, "theme")
    found = ask("tip_kinds")
    assert [row[:5] for row in found] == [
        ("plan", 1, 1, 1, 1.0),
        ("focus", 5, 4, 2, 0.5),
        ("theme", 1, 0, 0, None),
    ]
    assert found[0][5:] == pytest.approx((0.2065, 1.0), abs=1e-4)
    assert found[1][5:] == pytest.approx((0.1500, 0.8500), abs=1e-4)
    assert found[2][5:] == (None, None)


def test_welcome_themes(ask: Ask, world: World, account: Any) -> None:
    """Themes are told by their labels, users together, those that are gone as such; tips about none are left out."""
    for user in ("ann", "cem"):
        milk = [{"id": f"{user}{n}", "content": content} for n, content in enumerate(["buy milk", "buy milk"])]
        world.add(user, account(*milk))
    world.night()
    themes = {row["user_id"]: row["cluster_id"] for row in world.rows("task_clusters") if row["cluster_id"]}
    for user, reaction in (("ann", "done"), ("ann", "ignored"), ("cem", "accepted")):
        tip(world, user, NOON, "theme", theme=themes[user], reaction=reaction)
    tip(world, "ann", NOON, "theme", theme="gone", reaction="done")
    tip(world, "ann", NOON, "focus", reaction="done")
    assert sorted(ask("welcome_themes", "label", "n_users", "n_reacted", "n_welcome", "share_welcome")) == [
        ("(gone)", 1, 1, 1, 1.0),
        ("buy milk", 2, 3, 2, pytest.approx(2 / 3)),
    ]


def test_night_cost(ask: Ask, world: World) -> None:
    """Work of all runs of a day is summed, and divided by the fetches of users."""
    ledger, embedded = Ledger(world.connection), "texts_embedded"
    pages = [
        Page("n1", "fetch_signals", NOON, NOON + HOUR, 10, {}, {"todoist_calls": 10}, {}, {"todoist_calls": 2.0}),
        Page("n1", "embed_tasks", NOON, NOON + HOUR, 10, {}, {embedded: 30}, {embedded: 5}, {embedded: 1}),
        Page("n2", "embed_tasks", NOON + HOUR, None, 10, {}, {embedded: 10}, {}, {embedded: 0.5}),
        Page("2026-11-23", "serving", NOON, NOON, 10, {}, {"tips": 9}, {}, {}),
    ]
    for page in pages:
        ledger.close_page(page)
    store_ledger(world)
    assert ask("night_cost") == [
        (date(2026, 11, 23), "texts_embedded", 40, 5, 1.5, 4.0, 150.0),
        (date(2026, 11, 23), "todoist_calls", 10, None, 2.0, 1.0, 200.0),
    ]


def test_llm_cost(ask: Ask, world: World, account: Any) -> None:
    """Calls are priced by day and by user who asked, also of days without a tip; calls of unknown price and without
    use are counted.
    """
    for user in ("ann", "bob"):
        world.add(user, account())
        tip(world, user, NOON)
    tip(world, "ann", NOON - DAY)
    llm_call(world, "ann", NOON, cost_usd=0.01)
    llm_call(world, "bob", NOON, cost_usd=0.03, n_requests=2)
    llm_call(world, "bob", NOON, cost_usd=None, candidate_set_id=None, outcome="late", output_tokens=0)
    llm_call(world, "bob", NOON - 2 * DAY, cost_usd=5.0)
    assert ask("llm_cost") == [
        (date(2026, 11, 21), None, None, 1, 1, 1200, 5.0, None, 0, 0),
        (date(2026, 11, 22), 1, 1, None, None, None, None, None, None, None),
        (date(2026, 11, 23), 2, 2, 3, 4, 3400, pytest.approx(0.04), pytest.approx(0.02), 1, 1),
    ]


def test_llm_skips(ask: Ask, world: World, account: Any) -> None:
    """The share of tips that needed no call, day by day."""
    world.add("ann", account())
    for llm in ("called", "skipped", "skipped", "fallback"):
        tip(world, "ann", NOON, llm=llm)
    tip(world, "ann", NOON - DAY, llm="called")
    assert ask("llm_skips") == [(date(2026, 11, 22), 1, 1, 0, 0, 0.0), (date(2026, 11, 23), 4, 1, 2, 1, 0.5)]


def test_freshness_by_hour(ask: Ask, world: World, account: Any) -> None:
    """Sources and ages of contexts at the moment of use, by hour of the day, days together."""
    world.add("ann", account())
    tip(world, "ann", NOON, age=2 * HOUR)
    tip(world, "ann", NOON - DAY, age=4 * HOUR)
    tip(world, "ann", NOON + HOUR / 2, age=0 * HOUR, source="inline")
    tip(world, "ann", NOON, age=10 * HOUR, source="stale")
    tip(world, "ann", NOON + HOUR, age=None, source="none")
    noon, later = ask("freshness_by_hour")
    assert noon == (12, 4, 0.5, 0.25, 0.25, 3.0, pytest.approx(9.1))
    assert later == (13, 1, 0.0, 0.0, 0.0, None, None)


def test_changed_last_night(ask: Ask, world: World, account: Any) -> None:
    """Contexts that became others within a day, with the open tasks before and after; others are not told."""
    world.add("ann", account("buy milk"))
    world.add("bob", account("buy bread"))
    world.night(NOON - 2 * DAY)
    world.todoist.advance("ann", {"items": [{"id": "t7", "content": "call the dentist"}]})
    world.add("cem", account("water the plants"))
    world.night(NOON)
    assert ask("changed_last_night") == [("ann", NOON, "night", 1, 2), ("cem", NOON, "night", None, 1)]


def test_duplicates(ask: Ask, world: World, account: Any) -> None:
    """Pairs of a user's tasks that say the same; the same words of two users are no double."""
    world.add(
        "ann", account({"id": "a1", "content": "buy milk"}, {"id": "a2", "content": "Buy milk"}, "call the dentist")
    )
    world.add("cem", account({"id": "c1", "content": "buy milk"}))
    world.night()
    found = ask("duplicates", "user_id", "task_id", "content", "double_id", "double_content")
    assert found == [("ann", "a1", "buy milk", "a2", "Buy milk")]


def test_embedding_drift(ask: Ask, world: World, account: Any) -> None:
    """Weeks whose tasks mean the same as all are alike; a week of other things stands out."""
    usual = [
        {"id": f"u{week}{n}", "content": "buy milk and bread", "added_at": f"2026-11-{2 + 7 * week:02}T09:00:00Z"}
        for week in range(3)
        for n in range(4)
    ]
    other = [{"id": "x1", "content": "file tax return", "added_at": "2026-11-18T09:00:00Z"}]
    world.add("ann", account(*usual[:8], *other))
    world.night()
    found = ask("embedding_drift", "week", "n_drawn", "likeness", "likeness_to_week_before")
    assert [row[:2] for row in found] == [(date(2026, 11, 2), 4), (date(2026, 11, 9), 4), (date(2026, 11, 16), 1)]
    assert found[0][2] == found[1][2] > 0.9 > 0.7 > found[2][2]
    assert found[0][3] is None
    assert found[1][3] == pytest.approx(1, abs=1e-3)
    assert found[2][3] < 0.5


def test_users_without_contexts(ask: Ask, world: World, account: Any) -> None:
    """Active users without a context, and why; those who have one, if only by a request, or are not active, are not
    told.
    """
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
    assert sorted(ask("users_without_contexts", "user_id", "why")) == [
        ("bob", "Todoist takes the token no more"),
        ("cem", "Todoist refused the token"),
        ("fay", "not fetched yet"),
        ("gus", "no account"),
    ]


def test_freshness_of_users(ask: Ask, world: World, account: Any) -> None:
    """Active users by how long ago they were fetched, by whatever was last, the freshest first."""
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
    """Reactions by how old the context was; tips that were made from none are left out."""
    world.add("ann", account())
    for hours, reaction in ((0.5, "done"), (0.9, "ignored"), (4, "dismissed"), (30, "accepted")):
        tip(world, "ann", NOON, reaction=reaction, age=hours * HOUR)
    tip(world, "ann", NOON, reaction="done", age=None)
    assert ask("welcome_by_age", "context_age", "n_reacted", "n_welcome", "share_welcome") == [
        ("under 1 h", 2, 1, 0.5),
        ("3 to 6 h", 1, 0, 0.0),
        ("over 6 h", 1, 1, 1.0),
    ]


def test_theme_shares(ask: Ask, world: World, account: Any) -> None:
    """How many tasks stand in themes, by language; users without tasks are left out."""
    world.add("ann", account("buy milk", "buy milk now", "file tax return"))
    world.add("bob", account("wash car", lang="de"))
    world.add("cem", account())
    world.night()
    assert ask("theme_shares") == [("en", 1, 3, 2, pytest.approx(2 / 3), 1, 2.0), ("de", 1, 1, 0, 0.0, 0, None)]


def test_policies(ask: Ask, world: World, account: Any) -> None:
    """Tips, exploration and rewards by policy, its versions together; no margin for a single reward."""
    world.add("ann", account())
    for version, reward in (("linear-1@3", 1.0), ("linear-1@9", 0.0), ("uniform@0", 0.5)):
        tip(world, "ann", NOON, policy_version=version, reaction="done", reward=reward)
    tip(world, "ann", NOON, policy_version="linear-1@9", propensities=[0.2, 0.8])
    tip(world, "ann", NOON, policy_version=None)
    linear, uniform = ask("policies")
    assert linear == ("linear-1", 3, pytest.approx(0.4), pytest.approx(8 / 3), 2, 0.5, pytest.approx(0.98))
    assert uniform == ("uniform", 1, 0.5, 3.0, 1, 0.5, None)


def test_shard_sizes(ask: Ask, world: World, account: Any) -> None:
    """Rows of the smallest, the middle and the largest shard of each asset, and when they were made."""
    world.add("ann", account("buy milk"))
    world.add("cem", account("mend the bicycle", "write a letter", "wash the car"))
    world.night()
    found = {row[0]: row[1:7] for row in ask("shard_sizes")}
    assert found["task_clusters"] == (2, 1, 1, 2.0, 3, 4)
    assert found["context_store"] == (2, 1, 1, 1.0, 1, 2)


def test_every_question_is_tested() -> None:
    """Each file of `sql/analysis` has a test of its name here, and its question stands in the README."""
    asked = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    readme = (ROOT.parent / "README.md").read_text()
    for path in (ROOT / "analysis").glob("*.sql"):
        assert path.stem in asked
        assert f"| `{path.stem}` | {path.read_text().splitlines()[0].removeprefix('-- ')} |" in readme
