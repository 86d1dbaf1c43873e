"""What the tasks of a step do, over real Postgres and Parquet, without a scheduler."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from world import NOON, WordVectors, World

from assets.definitions import GRAPH
from assets.doors import Doors
from assets.errors import ShardUnreadable
from assets.night import Night, Order
from contexts.accounts import Look
from contexts.ledger import Ledger
from contexts.settings import Settings


@pytest.fixture
def doors(world: World) -> Doors:
    return Doors(
        settings=Settings(n_shards=world.n_shards),
        shards=world.shards,
        accounts=world.accounts,
        store=world.store,
        history=world.history,
        ledger=Ledger(world.connection),
        todoist=world.client,
        embedder=world.embedder,
    )


def run(doors: Doors, step: str, now: datetime, *, look: Look = Look.EVERYBODY, fails: bool = False) -> set[str]:
    """One DAG run of a step; gives the assets that speak. fails: its tasks die before they compute."""
    if fails:
        return set()
    the_night = Night(doors, now, Order(look))
    plan, lines = the_night.plan(step)
    the_night.open(step, f"{step} {now}", now, lines)
    records = [record for shard, names in plan.shards.items() for record in the_night.compute(step, shard, names)]
    entries = the_night.close(step, f"{step} {now}", now, records)
    return {entry.asset for entry in entries if entry.changed} | the_night.left_behind(step)


def night(doors: Doors, now: datetime, *, fails: str = "", look: Look = Look.EVERYBODY) -> list[str]:
    """The chain that events wake, as the scheduler would run it; gives the steps that ran, in order."""
    ran, awake = [], ["fetch_signals"]
    while awake:
        step = awake.pop(0)
        said = run(doors, step, now, look=look, fails=step == fails)
        ran.append(step)
        woken = [other for other in GRAPH.steps if _wakes(step, said, other) and other not in awake]
        awake += sorted(woken, key=lambda other: other == "compute_context" and step != "cluster_tasks")
    return ran


def _wakes(step: str, said: set[str], other: str) -> bool:
    if other == "compute_context":
        return step == "fetch_signals" or (step == "cluster_tasks" and "task_clusters" in said)
    return bool(GRAPH.wakers(other) & said) and other != step


def test_an_empty_account_joins(doors: Doors, world: World, account: Any) -> None:
    """A user without tasks who joins has a row after the first night, though no vector and no theme changed."""
    world.n_shards = 1
    world.add("ann", account("call the dentist"))
    night(doors, NOON)
    world.add("bob", account())
    night(doors, NOON + timedelta(hours=1))
    assert set(world.stored()) == {"ann", "bob"}
    assert {row["materialized_at"] for row in world.stored().values()} == {NOON + timedelta(hours=1)}


@pytest.mark.parametrize("step", ["embed_tasks", "cluster_tasks", "compute_context"])
def test_a_failed_step_is_made_good_by_the_next_night(doors: Doors, world: World, account: Any, step: str) -> None:
    """When a step failed, the next night brings every context up to date, even if nothing changed since."""
    world.add("ann", account("call the dentist"))
    night(doors, NOON, fails=step)
    assert world.stored() == {}
    night(doors, NOON + timedelta(hours=1))
    assert set(world.stored()) == {"ann"}


def test_another_model_reaches_everything(doors: Doors, world: World, account: Any) -> None:
    """A change of model is noticed by the next fetch, though no task changed."""
    world.add("ann", account("call the dentist", "call the doctor"))
    night(doors, NOON)
    other = Doors(**{**vars(doors), "embedder": WordVectors("other", dim=16)})
    assert "embed_tasks" in night(other, NOON + timedelta(hours=1))
    assert {row["model"] for row in world.rows("task_embeddings")} == {other.embedder.version}


def test_an_unchanged_night_wakes_no_model(doors: Doors, world: World, account: Any) -> None:
    """When nothing changed only the fetch and the freshness run."""
    world.add("ann", account("call the dentist"))
    night(doors, NOON)
    assert night(doors, NOON + timedelta(hours=1)) == ["fetch_signals", "compute_context"]


def test_a_retried_collect_says_the_same(doors: Doors, world: World, account: Any) -> None:
    """A collect task that is tried again after it wrote the ledger still says that its assets changed."""
    world.add("ann", account("call the dentist"))
    assert "todoist_tasks" in run(doors, "fetch_signals", NOON)
    again = Night(doors, NOON).close("fetch_signals", f"fetch_signals {NOON}", NOON, [])
    assert "todoist_tasks" in {entry.asset for entry in again if entry.changed}


def test_between_nights_only_who_is_likely_to_ask(doors: Doors, world: World, account: Any) -> None:
    """A run between the nights calls Todoist for nobody without a request log, else for who asked then."""
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist"))
    night(doors, NOON)
    n_calls = len(world.todoist.calls)
    night(doors, NOON + timedelta(hours=4), look=Look.LIKELY)
    assert len(world.todoist.calls) == n_calls
    world.connection.execute(
        "INSERT INTO decisions (decision_id, user_id, decided_at) VALUES (gen_random_uuid(), 'ann', %s)",
        [NOON - timedelta(hours=14)],  # yesterday at ten in the evening
    )
    night(doors, datetime(2026, 11, 23, 22, 0, tzinfo=NOON.tzinfo), look=Look.LIKELY)
    assert [call.user for call in world.todoist.calls[n_calls:]] == ["ann"]


def test_a_broken_shard_leaves_the_others(doors: Doors, world: World, account: Any) -> None:
    """A shard whose file is cut short is planned, so that its task says so, and the others are fetched."""
    for number in range(6):
        world.add(f"user-{number}", account("call the dentist"))
    night(doors, NOON)
    path = next(world.root.glob("todoist_tasks/shard=0001/data.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    the_night = Night(doors, NOON)
    shards = the_night.plan("fetch_signals")[0].shards
    assert list(shards) == [0, 1]
    assert list(the_night.compute("fetch_signals", 0, shards[0]))
    with pytest.raises(ShardUnreadable, match="python -m assets rebuild todoist_tasks --shard 1"):
        list(the_night.compute("fetch_signals", 1, shards[1]))
