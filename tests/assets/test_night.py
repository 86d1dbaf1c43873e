"""What the tasks of a step do, over real Postgres and Parquet, without a scheduler."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from world import NOON, WordVectors, World

from assets.definitions import GRAPH
from assets.doors import Doors
from assets.errors import OrderError, ShardUnreadable
from assets.materialize import unlocked
from assets.night import Night, Order
from contexts.accounts import Look
from contexts.ledger import Ledger
from contexts.settings import Settings
from contexts.vectors import VectorCache

HOUR = timedelta(hours=1)


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
        vectors=VectorCache(world.connection),
        lock=unlocked,
    )


def run(doors: Doors, step: str, now: datetime, *, look: Look = Look.EVERYBODY, fails: bool = False) -> set[str]:
    """One DAG run of a step; gives the assets that speak. fails: its tasks die before they compute."""
    if fails:
        return set()
    the_night = Night(doors, now, Order(look))
    plan, planner = the_night.plan(step)
    the_night.open(step, f"{step} {now}", now, the_night.bill(plan, planner, GRAPH.steps[step]))
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


def test_a_run_does_nothing_that_its_plan_did_not_name(doors: Doors, world: World, account: Any) -> None:
    """A late task whose inputs changed since the plan leaves the freshness alone: the context is not that new."""
    world.n_shards = 1
    doors = replace(doors, shards=world.shards)
    world.add("ann", account("call the dentist"))
    night(doors, NOON)
    run(doors, "fetch_signals", NOON + HOUR)
    planned = Night(doors, NOON + HOUR).plan("compute_context")[0].shards
    assert planned == {0: ["context_store"]}
    dated = {"id": "t0", "content": "call the dentist", "due": {"date": "2030-01-01"}}
    world.todoist.advance("ann", {"items": [dated]})
    run(doors, "fetch_signals", NOON + 2 * HOUR)
    assert list(Night(doors, NOON + 2 * HOUR).compute("compute_context", 0, planned[0])) == []
    assert world.stored()["ann"]["materialized_at"] == NOON
    night(doors, NOON + 3 * HOUR)
    assert "2030-01-01" in world.stored()["ann"]["context_json"]


@pytest.mark.parametrize("look", [Look.NIGHT, Look.LIKELY])
def test_a_lost_shard_is_made_for_everybody(doors: Doors, world: World, account: Any, look: Look) -> None:
    """A source's shard that was set aside is planned and made anew for all of its users, whomever the run fetches."""
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist"))
    night(doors, NOON)
    world.shards.set_aside(GRAPH["todoist_tasks"], 0)
    plan, _ = Night(doors, NOON + HOUR, Order(look)).forecast()
    assert [len(each.users) for each in plan.of("todoist_tasks")] == [2]
    night(doors, NOON + HOUR, look=look)
    assert {row["user_id"] for row in world.rows("todoist_tasks")} == {"ann", "bob"}


def test_a_run_for_one_user_does_not_lose_the_others(doors: Doors, world: World, account: Any) -> None:
    """Where a source's shard is lost, a run for single users is refused: the others would lose what is theirs."""
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist"))
    night(doors, NOON)
    world.shards.set_aside(GRAPH["todoist_tasks"], 0)
    with pytest.raises(OrderError, match="Run it for the shard first: --shards 0"):
        Night(doors, NOON + HOUR, Order(users=("ann",))).plan("fetch_signals")


def test_whoever_is_only_not_fetched_keeps_the_history(doors: Doors, world: World, account: Any) -> None:
    """A user who is deactivated while a shard is made anew loses neither the stored row nor its history."""
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist"))
    night(doors, NOON)
    world.accounts.set_active("bob", active=False)
    world.shards.set_aside(GRAPH["todoist_tasks"], 0)
    night(doors, NOON + HOUR)
    assert "bob" in world.stored()
    assert len(doors.history.of("bob")) == 1


def test_old_versions_go(doors: Doors, world: World, account: Any) -> None:
    """Versions older than the setting go with a run; what stood since is kept, unless its user is gone."""
    world.add("ann", account("call the dentist"))
    world.add("bob", account("buy milk"))
    night(doors, NOON)
    later = NOON + timedelta(days=doors.settings.context_history_days + 2)
    night(doors, later)
    days = sorted(path.name for path in (world.root / "context_history").iterdir())
    assert days[0] > f"day={NOON:%Y-%m-%d}"
    assert {version.context_hash for version in doors.history.of("ann")} == {world.stored()["ann"]["context_hash"]}


def test_a_failed_run_claims_nothing(doors: Doors, world: World, account: Any) -> None:
    """A run in which a shard failed is in the ledger as one without an end, and says that it saved nothing."""
    world.add("ann", account("call the dentist"))
    night(doors, NOON)
    Night(doors, NOON).close("embed_tasks", "died", NOON, [], is_whole=False)
    [page] = [each for each in doors.ledger.pages(NOON) if each.run_id == "died"]
    assert (page.finished_at, page.saved) == (None, {})


def test_a_request_between_nights_stays_in_the_history(doors: Doors, world: World, account: Any) -> None:
    """What a request assembled is in the history in its place, also when the night finds what was there before it."""
    world.add("ann", account("call the dentist"))
    night(doors, NOON)
    stood = world.stored()["ann"]["context_hash"]
    world.connection.execute(
        "INSERT INTO request_contexts VALUES ('ann', %s, %s, 'by a request', '{}')", [NOON + HOUR, NOON + HOUR]
    )
    night(doors, NOON + 2 * HOUR)
    assert [version.context_hash for version in doors.history.of("ann")] == [stood, "by a request", stood]
    night(doors, NOON + 3 * HOUR)
    assert len(doors.history.of("ann")) == 3
    assert world.connection.execute("SELECT count(*) FROM request_contexts").fetchone() == (0,)


def test_files_of_the_former_form(doors: Doors, world: World, account: Any) -> None:
    """Files written before footers knew users are taken over by one run: no text is embedded again, all ids stay."""
    world.add("ann", account("call the dentist", "call the doctor", "buy milk"))
    world.add("cem", account("write a letter", "write a book"))
    night(doors, NOON)
    before = {name: world.rows(name) for name in GRAPH.assets}
    for path in world.root.glob("*/shard=*/data.parquet"):
        _as_formerly(path)
    assert isinstance(world.embedder, WordVectors)
    world.embedder.texts.clear()
    ran = night(doors, NOON + HOUR, look=Look.LIKELY)
    assert set(ran) == set(GRAPH.steps)
    assert world.embedder.texts == []
    assert {name: world.rows(name) for name in GRAPH.assets} == before
    assert {row["materialized_at"] for row in world.stored().values()} == {NOON + HOUR}
    assert night(doors, NOON + 2 * HOUR) == ["fetch_signals", "compute_context"]


def _as_formerly(path: Path) -> None:
    """A shard's file as it was written before: hashes of inputs in a column, and nothing of users in the footer."""
    table = pq.read_table(path)
    told = json.loads(pq.read_metadata(path).metadata[b"asset"]) | {"without_rows": {}, "rows_version": ""}
    told.pop("opaque")
    former = table.append_column("input_hash", pa.array(["x"] * len(table), pa.string()))
    pq.write_table(former.replace_schema_metadata({"asset": json.dumps(told)}), path)
