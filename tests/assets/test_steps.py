"""Steps as Airflow runs them, over real Postgres and Parquet, without a scheduler."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from world import NOON, WordVectors, World, run_step

from assets.calibration import measure_calibration
from assets.definitions import GRAPH
from assets.engine.errors import OptionsError, ShardUnreadable
from assets.engine.hashing import shard_of
from assets.options import RunOptions
from assets.runtime import Runtime
from assets.steps import StepRunner
from contexts.assembly.explain import context_versions
from contexts.assembly.model import TaskGroups
from contexts.assembly.store import ContextStore
from contexts.themes.calibrations import Calibrations
from contexts.themes.cluster import Calibration
from contexts.todoist.accounts import FetchScope
from contexts.todoist.credentials import Credentials

HOUR = timedelta(hours=1)


@pytest.fixture
def runtime(world: World) -> Runtime:
    return world.runtime


def runner_of(runtime: Runtime, now: datetime, **options: Any) -> StepRunner:
    """A step runner with the resources of the runtime."""
    return StepRunner(GRAPH, runtime, runtime.load_resources(), now, RunOptions(**options))


def run(runtime: Runtime, step: str, now: datetime, *, fails: bool = False, **options: Any) -> set[str]:
    """Run a step like its DAG and return the assets that it publishes. fails: its tasks die before they compute."""
    if fails:
        return set()
    runner = runner_of(runtime, now, **options)
    _, asset_runs = run_step(runner, step, f"{step} {now}")
    runner = replace(runner, resources=runtime.load_resources())  # the end of the run may have calibrated the model
    return {run.asset for run in asset_runs if run.changed} | runner.unchanged_but_needed(step)


def night(runtime: Runtime, now: datetime, *, fails: str = "", **options: Any) -> list[str]:
    """Run the chain of steps that events trigger, as the scheduler would; return the steps in order."""
    ran, triggered = [], ["fetch_signals"]
    while triggered:
        step = triggered.pop(0)
        published = run(runtime, step, now, fails=step == fails, **options)
        ran.append(step)
        new = [other for other in GRAPH.steps if _is_triggered(step, published, other) and other not in triggered]
        triggered += sorted(new, key=lambda other: other == "compute_context" and step != "cluster_tasks")
    return ran


def _is_triggered(step: str, published: set[str], other: str) -> bool:
    if other == "compute_context":
        return step == "fetch_signals" or (step == "cluster_tasks" and "task_clusters" in published)
    return bool(GRAPH.triggers(other) & published) and other != step


def test_an_empty_account_joins(runtime: Runtime, world: World, account: Any) -> None:
    """A new user without tasks has a row after the first night, although no vector and no theme changed."""
    world.n_shards = 1
    world.add("ann", account("call the dentist"))
    night(runtime, NOON)
    world.add("bob", account())
    night(runtime, NOON + timedelta(hours=1))
    assert set(world.stored()) == {"ann", "bob"}
    assert {row["fetched_at"] for row in world.stored().values()} == {NOON + timedelta(hours=1)}


@pytest.mark.parametrize("step", ["embed_tasks", "cluster_tasks", "compute_context"])
def test_the_next_night_repairs_a_failed_step(runtime: Runtime, world: World, account: Any, step: str) -> None:
    """After a failed step the next night brings every context up to date, even if nothing changed since."""
    world.add("ann", account("call the dentist"))
    night(runtime, NOON, fails=step)
    assert world.stored() == {}
    night(runtime, NOON + timedelta(hours=1))
    assert set(world.stored()) == {"ann"}


def test_a_new_model_reaches_everything(runtime: Runtime, world: World, account: Any) -> None:
    """The run after a change of model computes everything, although no task changed."""
    world.add("ann", account("call the dentist", "call the doctor"))
    night(runtime, NOON)
    other = replace(runtime, embedder=WordVectors("other", dim=16))
    assert "embed_tasks" in night(other, NOON + timedelta(hours=1))
    assert {row["model"] for row in world.rows("task_embeddings")} == {other.embedder.version}


def test_an_unchanged_night_loads_no_model(runtime: Runtime, world: World, account: Any) -> None:
    """If nothing changed, only the fetch and the step that refreshes rows run."""
    world.add("ann", account("call the dentist"))
    night(runtime, NOON)
    assert night(runtime, NOON + timedelta(hours=1)) == ["fetch_signals", "compute_context"]


def test_a_calibration_publishes_the_vectors(runtime: Runtime, world: World, account: Any) -> None:
    """A step that calibrates the model publishes its unchanged vectors, because all clusters are stale then."""
    world.add("ann", account("call the dentist", "call the doctor", "buy milk"))
    night(runtime, NOON)
    Calibrations(world.connection).set(
        world.embedder.version, Calibration(0.99), 0
    )  # from so few texts that the next run replaces it
    run(runtime, "cluster_tasks", NOON + HOUR)
    assert run(runtime, "embed_tasks", NOON + 2 * HOUR) == {"task_embeddings"}


def test_a_retried_collect_reports_the_same_changes(runtime: Runtime, world: World, account: Any) -> None:
    """A collect task that is retried after it wrote the run log still reports its assets as changed."""
    world.add("ann", account("call the dentist"))
    assert "todoist_tasks" in run(runtime, "fetch_signals", NOON)
    again = runner_of(runtime, NOON).finish("fetch_signals", f"fetch_signals {NOON}", NOON, [])
    assert "todoist_tasks" in {entry.asset for entry in again if entry.changed}


def test_between_nights_only_likely_users_are_fetched(runtime: Runtime, world: World, account: Any) -> None:
    """A run between the nights fetches the users whose log says that they ask at this time, and no others."""
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist"))
    world.connection.execute("UPDATE users SET created_at = %s", [NOON - timedelta(days=60)])
    night(runtime, NOON)
    n_calls = len(world.todoist.calls)
    night(runtime, NOON + timedelta(hours=4), scope=FetchScope.LIKELY)
    assert len(world.todoist.calls) == n_calls
    world.connection.execute(
        "INSERT INTO decisions (decision_id, user_id, decided_at) VALUES (gen_random_uuid(), 'ann', %s)",
        [NOON - timedelta(hours=14)],  # yesterday at ten in the evening
    )
    night(runtime, datetime(2026, 11, 23, 22, 0, tzinfo=NOON.tzinfo), scope=FetchScope.LIKELY)
    assert [call.user for call in world.todoist.calls[n_calls:]] == ["ann"]


def test_a_broken_shard_leaves_the_others(runtime: Runtime, world: World, account: Any) -> None:
    """A truncated shard is planned, so that its task raises the error, and the other shards are fetched."""
    for number in range(6):
        world.add(f"user-{number}", account("call the dentist"))
    night(runtime, NOON)
    path = next(world.root.glob("todoist_tasks/shard=0001/data.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    runner = runner_of(runtime, NOON)
    shards = runner.plan("fetch_signals")[0].by_shard
    assert list(shards) == [0, 1]
    results = []
    with pytest.raises(ShardUnreadable, match="python -m assets rebuild todoist_tasks --shard 1"):
        for result in runner.materialize_shards("fetch_signals", {1: shards[1], 0: shards[0]}):
            results.append((result.asset, result.shard))
    assert sorted(results) == [("tip_reactions", 0), ("tip_reactions", 1), ("todoist_tasks", 0)]


def test_an_unreadable_shard_is_no_change(runtime: Runtime, world: World, account: Any) -> None:
    """An asset of which a file cannot be read is published if other shards changed, and not for that file."""
    for number in range(6):
        world.add(f"user-{number}", account("call the dentist"))
    night(runtime, NOON)
    path = next(world.root.glob("todoist_tasks/shard=0001/data.parquet"))
    content = path.read_bytes()
    path.write_bytes(content[:100])
    shard_0 = next(f"user-{number}" for number in range(6) if shard_of(f"user-{number}", world.n_shards) == 0)

    def fetched(hours: int) -> bool:
        runner, run_id = runner_of(runtime, NOON + hours * HOUR), f"fetch {hours}"
        plan, planner = runner.plan("fetch_signals")
        runner.start("fetch_signals", run_id, runner.now, plan, runner.estimate(plan, planner, ()))
        results = list(runner.materialize_shards("fetch_signals", plan.by_shard, failures := []))
        assert [failure.shard for failure in failures] == [1] * (hours < 3)
        asset_runs = runner.finish("fetch_signals", run_id, runner.now, results, is_complete=not failures)
        return {run.asset: run.changed for run in asset_runs}["todoist_tasks"]

    assert not fetched(1)
    world.todoist.advance(shard_0, {"items": [{"id": "t0", "content": "call the surgeon"}]})
    assert fetched(2)
    path.write_bytes(content)
    assert fetched(3)
    assert not fetched(4)


def test_a_run_does_nothing_beyond_its_plan(runtime: Runtime, world: World, account: Any) -> None:
    """A late task whose inputs changed since the plan does not refresh the row: its context is not that new."""
    world.n_shards = 1
    runtime = replace(runtime, shards=world.shards)
    world.add("ann", account("call the dentist"))
    night(runtime, NOON)
    world.connection.execute("UPDATE context_store SET row_version = NULL")  # as by a request
    planned = runner_of(runtime, NOON + HOUR).plan("compute_context")[0].by_shard
    assert planned == {0: ["context_store"]}
    dated = {"id": "t0", "content": "call the dentist", "added_by_uid": "1", "due": {"date": "2030-01-01"}}
    world.todoist.advance("ann", {"items": [dated]})
    run(runtime, "fetch_signals", NOON + 2 * HOUR)
    assert list(runner_of(runtime, NOON + 2 * HOUR).materialize_shards("compute_context", planned)) == []
    assert world.stored()["ann"]["fetched_at"] == NOON
    night(runtime, NOON + 3 * HOUR)
    assert "2030-01-01" in world.stored()["ann"]["context_json"]


@pytest.mark.parametrize("scope", [FetchScope.NIGHTLY, FetchScope.LIKELY])
def test_a_lost_shard_is_fetched_for_all_its_users(
    runtime: Runtime, world: World, account: Any, scope: FetchScope
) -> None:
    """A source's shard that was set aside is fetched for all of its users, whatever the scope of the run."""
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist"))
    night(runtime, NOON)
    world.shards.set_aside(GRAPH["todoist_tasks"], 0)
    plan, _ = runner_of(runtime, NOON + HOUR, scope=scope).forecast()
    assert [len(entry.workload.users) for entry in plan.entries_of("todoist_tasks")] == [2]
    night(runtime, NOON + HOUR, scope=scope)
    assert {row["user_id"] for row in world.rows("todoist_tasks")} == {"ann", "bob"}


def test_a_run_for_one_user_does_not_lose_the_others(runtime: Runtime, world: World, account: Any) -> None:
    """If a source's shard is lost, a run for single users is refused: the others would lose their rows."""
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist"))
    night(runtime, NOON)
    world.shards.set_aside(GRAPH["todoist_tasks"], 0)
    with pytest.raises(OptionsError, match="Run the whole shard first: --shards 0"):
        runner_of(runtime, NOON + HOUR, only_users=("ann",)).plan("fetch_signals")


def test_a_deactivated_user_keeps_the_history(runtime: Runtime, world: World, account: Any) -> None:
    """A user who is deactivated while a shard is rebuilt loses neither the stored row nor its history."""
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist"))
    night(runtime, NOON)
    world.accounts.set_active("bob", active=False)
    world.shards.set_aside(GRAPH["todoist_tasks"], 0)
    night(runtime, NOON + HOUR)
    assert "bob" in world.stored()
    assert len(runtime.history.versions_of("bob")) == 1


def test_old_versions_expire(runtime: Runtime, world: World, account: Any) -> None:
    """A run deletes the versions older than the setting, but keeps each user's newest one."""
    world.add("ann", account("call the dentist"))
    world.add("bob", account("buy milk"))
    night(runtime, NOON)
    later = NOON + timedelta(days=runtime.settings.context_history_days + 2)
    night(runtime, later)
    days = sorted(path.name for path in (world.root / "context_history").iterdir())
    assert days[0] > f"day={NOON:%Y-%m-%d}"
    assert {version.context_hash for version in runtime.history.versions_of("ann")} == {
        world.stored()["ann"]["context_hash"]
    }


def test_a_failed_run_claims_no_savings(runtime: Runtime, world: World, account: Any) -> None:
    """A run with a failed shard is recorded as unfinished, with no saved work."""
    world.add("ann", account("call the dentist"))
    night(runtime, NOON)
    runner_of(runtime, NOON).finish("embed_tasks", "died", NOON, [], is_complete=False)
    [step_run] = [each for each in runtime.run_log.step_runs_since(NOON) if each.run_id == "died"]
    assert (step_run.finished_at, step_run.saved) == (None, {})


def test_a_request_between_nights_stays_in_the_history(runtime: Runtime, world: World, account: Any) -> None:
    """A request's context has its place in the history, even if the next night restores the one before."""
    world.add("ann", account("call the dentist"))
    night(runtime, NOON)
    first = world.stored()["ann"]["context_hash"]
    world.connection.execute(
        "INSERT INTO request_contexts VALUES ('ann', %s, %s, 'by a request', '{}')", [NOON + HOUR, NOON + HOUR]
    )
    world.connection.execute(
        "UPDATE context_store SET context_hash = 'by a request', row_version = NULL, materialized_at = %s",
        [NOON + HOUR],
    )
    night(runtime, NOON + 2 * HOUR)
    assert [version.context_hash for version in runtime.history.versions_of("ann")] == [first, "by a request", first]
    night(runtime, NOON + 3 * HOUR)
    assert len(runtime.history.versions_of("ann")) == 3
    assert world.connection.execute("SELECT count(*) FROM request_contexts").fetchone() == (0,)


def fetch(runtime: Runtime, now: datetime, *, is_complete: bool = True, **options: Any) -> None:
    """Fetch signals and record the run. is_complete: whether all of its shards ran."""
    runner = runner_of(runtime, now, **options)
    plan, planner = runner.plan("fetch_signals")
    estimates = runner.estimate(plan, planner, runner.members("fetch_signals"))
    runner.start("fetch_signals", str(now), now, plan, estimates)
    results = list(runner.materialize(plan))
    runner.finish("fetch_signals", str(now), now, results, is_complete=is_complete)


def scheduled_scope(runtime: Runtime, now: datetime) -> FetchScope:
    return runner_of(runtime, now).scheduled(now).options.scope


def test_the_first_scheduled_run_is_the_night(runtime: Runtime, world: World, account: Any) -> None:
    """The first scheduled run since the night hour is nightly, however late; the runs after it are not."""
    world.add("ann", account("call the dentist"))
    late = NOON.replace(hour=6, minute=1)
    assert scheduled_scope(runtime, late) is FetchScope.NIGHTLY
    fetch(runtime, late, scope=FetchScope.NIGHTLY)
    quarters = [late + timedelta(minutes=15 * n) for n in range(1, 4 * 20)]
    nightly = [at for at in quarters if scheduled_scope(runtime, at) is FetchScope.NIGHTLY]
    assert nightly == [at for at in quarters if at >= late.replace(hour=2, minute=0) + timedelta(days=1)]


def test_a_night_of_the_future_is_none(runtime: Runtime, world: World, account: Any) -> None:
    """A night of a clock that was set back since does not stand for those until that clock is reached again."""
    world.add("ann", account("call the dentist"))
    fetch(runtime, NOON + 48 * HOUR)
    assert scheduled_scope(runtime, NOON) is FetchScope.NIGHTLY


@pytest.mark.parametrize(
    "options",
    [
        {"scope": FetchScope.LIKELY},
        {"is_complete": False},
        {"only_users": ("ann",)},
        {"only_shards": (0, 1)},
        {"select": ("todoist_tasks",)},
    ],
)
def test_a_part_of_a_night_is_no_night(runtime: Runtime, world: World, account: Any, options: Any) -> None:
    """A run that failed, fetched likely users, or was restricted leaves the night to the next scheduled run."""
    world.add("ann", account("call the dentist"))
    fetch(runtime, NOON - 24 * HOUR)
    fetch(runtime, NOON, **options)
    assert scheduled_scope(runtime, NOON + HOUR) is FetchScope.NIGHTLY


def test_a_full_run_by_hand_is_a_night(runtime: Runtime, world: World, account: Any) -> None:
    """After a run by hand for everybody the next scheduled run fetches only likely users."""
    world.add("ann", account("call the dentist"))
    fetch(runtime, NOON)
    assert scheduled_scope(runtime, NOON + HOUR) is FetchScope.LIKELY


@pytest.fixture
def waiting(runtime: Runtime, world: World, account: Any) -> Runtime:
    """A runtime with one shard, in which ann reworded a task and bob did not, while nothing embeds."""
    world.n_shards = 1
    runtime = replace(runtime, shards=world.shards)
    world.add("ann", account("call the dentist", "call the doctor", "buy milk"))
    world.add("bob", account("buy bread"))
    night(runtime, NOON)
    world.todoist.advance("ann", {"items": [{"id": "t0", "content": "call the surgeon"}]})
    night(runtime, NOON + HOUR, fails="embed_tasks")
    return runtime


def test_one_waiting_user_holds_back_nobody_else(waiting: Runtime, world: World) -> None:
    """While a user waits for themes, the other users of the shard are fresh; the user's own row stays as it was."""
    rows = world.stored()
    assert {user: row["fetched_at"] for user, row in rows.items()} == {"ann": NOON, "bob": NOON + HOUR}
    assert "call the dentist" in rows["ann"]["context_json"]
    plan, _ = runner_of(waiting, NOON + HOUR).plan("compute_context")
    assert [(wait.asset, set(wait.users)) for wait in plan.waits] == [("task_embeddings", {"ann"})]


def test_a_wait_has_a_bound(waiting: Runtime, world: World) -> None:
    """A user who waited for THEMES_WAIT gets a fresh context of the new tasks, with the previous themes."""
    shortly, later = NOON + HOUR * 1.9, NOON + 2 * HOUR
    night(waiting, shortly, fails="embed_tasks")
    assert world.stored()["ann"]["fetched_at"] == NOON
    night(waiting, later, fails="embed_tasks")
    row = world.stored()["ann"]
    assert row["fetched_at"] == later
    assert "call the surgeon" in row["context_json"]
    night(waiting, later + HOUR, fails="embed_tasks")
    assert {each["fetched_at"] for each in world.stored().values()} == {later + HOUR}


def test_a_bound_begins_with_each_wait(waiting: Runtime, world: World) -> None:
    """A user who waits after the embedding has caught up waits for the whole bound again."""
    night(waiting, NOON + 2 * HOUR)
    assert "call the surgeon" in world.stored()["ann"]["context_json"]
    world.todoist.advance("bob", {"items": [{"id": "t0", "content": "buy butter"}]})
    night(waiting, NOON + 3 * HOUR, fails="embed_tasks")
    assert "buy bread" in world.stored()["bob"]["context_json"]


def test_a_changed_user_is_computed_once_a_night(waiting: Runtime, world: World) -> None:
    """If the embedding takes less than the bound, a changed user gets one new context."""
    ran = night(waiting, NOON + HOUR * 1.5)
    assert ran.count("compute_context") == 2
    contexts = [version.context_json for version in waiting.history.versions_of("ann")]
    assert ["call the surgeon" in context for context in contexts] == [False, True]


def test_no_bound_for_vectors_and_themes(waiting: Runtime, world: World) -> None:
    """Themes are never made from vectors of other texts, however long their user waits."""
    later = NOON + 48 * HOUR
    run(waiting, "cluster_tasks", later)
    hashes = {row["text_hash"] for row in world.rows("task_embeddings") if row["user_id"] == "ann"}
    assert {row["text_hash"] for row in world.rows("task_clusters") if row["user_id"] == "ann"} == hashes
    assert [set(wait.users) for wait in runner_of(waiting, later).plan("cluster_tasks")[0].waits] == [{"ann"}]


def test_no_wait_at_all(waiting: Runtime, world: World) -> None:
    """With THEMES_WAIT=0 a changed context is written at once, with the previous themes."""
    settings = waiting.settings.model_copy(update={"themes_wait": timedelta(0)})
    run(replace(waiting, settings=settings), "compute_context", NOON + HOUR)
    assert "call the surgeon" in world.stored()["ann"]["context_json"]


def test_themes_of_a_replaced_account_are_not_used(world: World, account: Any) -> None:
    """After an account was replaced, its themes and duplicates are gone, although both have the same ids of tasks."""
    world.add("ann", account("call the old dentist", "call the old dentist", "call the old doctor"))
    world.night()
    assert "dentist" in world.rows("user_contexts")[0]["groups_json"].lower()
    world.todoist.load("new-token", account("paint a fence", "paint the fence", "paint it"), user="other")
    world.accounts.add("ann", email="a@example.org", timezone="UTC", credentials=Credentials("new-token"))
    for hours in (1, 3):
        world.run(NOON + hours * HOUR, RunOptions(), paused="embed_tasks")
    [row] = world.rows("user_contexts")
    assert "fence" in row["context_json"]
    assert row["groups_json"] == TaskGroups().to_json()
    world.night(NOON + 4 * HOUR)
    assert "paint" in world.rows("user_contexts")[0]["groups_json"].lower()


def test_themes_of_an_earlier_version_are_read(world: World, account: Any) -> None:
    """If clustering has not run by THEMES_WAIT after an upgrade, contexts have the themes that are stored.

    Nobody knows who worded these, so they count as worded by others.
    """
    world.add("ann", account("call the dentist", "call the doctor"))
    world.connection.execute("UPDATE todoist_accounts SET connection_number = 0")
    world.night()
    assert themes_by_others(world, "ann") == [False]
    asset, lacking = GRAPH["task_clusters"], ("connection_number", "is_by_others")
    shard = shard_of("ann", world.n_shards)
    with world.shards.open(asset, shard) as opened:
        assert opened is not None
        footer, table = opened.footer, opened.read([name for name in asset.schema.names if name not in lacking])
    columns = {name: version for name, version in footer.columns.items() if name not in lacking}
    recipe = {**footer.recipe, "code": "4"}
    world.shards.write(asset, table, replace(footer, columns=columns, recipe=recipe, inputs={}))
    for hours in (2, 4):
        world.todoist.advance("ann", {"items": [{"id": "t9", "content": f"buy milk {hours}"}]})
        world.run(NOON + hours * HOUR, RunOptions(), paused="cluster_tasks")
    assert world.stored()["ann"]["fetched_at"] == NOON + 4 * HOUR
    assert themes_by_others(world, "ann") == [True]
    world.night(NOON + 5 * HOUR)
    assert themes_by_others(world, "ann") == [False]


def themes_by_others(world: World, user: str) -> list[bool]:
    """Whether each theme of a user's stored context is marked as worded by others."""
    return [theme.get("by_others", False) for theme in json.loads(world.stored()[user]["context_json"])["themes"]]


def test_a_new_user_waits_for_the_first_themes(waiting: Runtime, world: World, account: Any) -> None:
    """A new user has no row before the bound, and a row without themes after it."""
    world.add("cem", account("buy milk", "buy butter"))
    night(waiting, NOON + HOUR * 1.5, fails="embed_tasks")
    assert set(world.stored()) == {"ann", "bob"}
    night(waiting, NOON + 2 * HOUR, fails="embed_tasks")
    assert "buy butter" in world.stored()["cem"]["context_json"]


@pytest.mark.parametrize("hours", [1, 3])
def test_a_row_from_the_future_blocks_nothing(runtime: Runtime, world: World, account: Any, hours: int) -> None:
    """After the clock was set back, a context of a request from the future does not stop the pipeline's context.

    A context that a request really assembled later than the pipeline's fetch stays.
    """
    world.add("ann", account("call the dentist"))
    night(runtime, NOON)
    now, requested_at = NOON + 2 * HOUR, NOON + hours * HOUR
    world.connection.execute("UPDATE context_store SET materialized_at = %s, context_hash = 'x'", [requested_at])
    world.connection.execute("UPDATE context_store SET row_version = NULL, context_json = '{}'")
    world.connection.execute(
        "INSERT INTO request_contexts VALUES ('ann', %s, %s, 'x', '{}')", [requested_at, requested_at]
    )
    dated = {"id": "t0", "content": "call the surgeon"}
    world.todoist.advance("ann", {"items": [dated]})
    night(replace(runtime, store=ContextStore(world.connection, clock=lambda: now)), NOON + HOUR / 2)
    row = world.stored()["ann"]
    newest = context_versions(runtime.history, "ann")[-1]
    assert (newest.context_hash, newest.context_json) == (row["context_hash"], row["context_json"])
    if requested_at > now:
        assert (row["fetched_at"], "call the surgeon" in row["context_json"]) == (NOON + HOUR / 2, True)
    else:
        assert (row["fetched_at"], row["context_json"]) == (requested_at, "{}")


def embed(runtime: Runtime, now: datetime, only: int | None = None) -> None:
    """Run `embed_tasks`, in one shard only if it is broken off there."""
    runner = runner_of(runtime, now)
    by_shard = runner.plan("embed_tasks")[0].by_shard
    shards = by_shard if only is None else {only: by_shard[only]}
    results = list(runner.materialize_shards("embed_tasks", shards))
    runner.finish("embed_tasks", f"embed_tasks {now}", now, results, is_complete=only is None)


def threshold_of(runtime: Runtime) -> float | None:
    """Return the stored threshold of the runtime's model."""
    stored = runtime.calibrations.get(runtime.embedder.version)
    return stored and stored.threshold


def measured_threshold(runtime: Runtime) -> float:
    """Return the threshold that a calibration would have now."""
    return measure_calibration(runtime.shards, runtime.embedder.version).calibration.threshold


def test_a_broken_first_night_calibrates_again(runtime: Runtime, world: World, account: Any) -> None:
    """The threshold of a first night that was broken off is provisional: the next one calibrates again, once."""
    for number in range(6):
        world.add(f"user-{number}", account("call the dentist", "call the doctor", f"buy milk {number}"))
    run(runtime, "fetch_signals", NOON)
    embed(runtime, NOON, only=0)
    provisional = threshold_of(runtime)
    embed(runtime, NOON + HOUR)
    calibrated = measured_threshold(runtime)
    assert provisional is not None
    assert provisional != threshold_of(runtime) == calibrated
    world.todoist.advance("user-0", {"items": [{"id": "t0", "content": "paint the fence"}]})
    run(runtime, "fetch_signals", NOON + 2 * HOUR)
    embed(runtime, NOON + 2 * HOUR)
    assert measured_threshold(runtime) != calibrated == threshold_of(runtime)


def test_a_broken_shard_does_not_block_the_calibration(runtime: Runtime, world: World, account: Any) -> None:
    """While a shard cannot be read or was never fetched, the threshold of the others is used."""
    for number in range(6):
        world.add(f"user-{number}", account("call the dentist", "call the doctor", f"buy milk {number}"))
    run(runtime, "fetch_signals", NOON, only_shards=(0,))
    embed(runtime, NOON)
    assert threshold_of(runtime) is not None
    run(runtime, "fetch_signals", NOON + HOUR)
    embed(runtime, NOON + HOUR)
    assert threshold_of(runtime) == measured_threshold(runtime)


def test_an_unreadable_file_of_vectors_has_the_same_bound(waiting: Runtime, world: World) -> None:
    """If a shard's vectors cannot be read, all of its users wait, and no longer than for a stale step."""
    path = world.root / "task_embeddings" / "shard=0000" / "data.parquet"
    path.write_bytes(path.read_bytes()[:100])
    shortly, later = NOON + HOUR * 1.5, NOON + 2 * HOUR
    night(waiting, shortly, fails="embed_tasks")
    assert {row["fetched_at"] for row in world.stored().values()} == {NOON, shortly}
    night(waiting, later, fails="embed_tasks")
    assert {row["fetched_at"] for row in world.stored().values()} == {later}
    assert "call the surgeon" in world.stored()["ann"]["context_json"]


def test_a_select_never_claims_freshness(waiting: Runtime, world: World) -> None:
    """The bound is for earlier steps only: rows of the store are not refreshed while their contexts are stale."""
    later = NOON + 48 * HOUR
    run(waiting, "fetch_signals", later)
    run(waiting, "compute_context", later, select=("context_store",))
    assert world.stored()["ann"]["fetched_at"] == NOON
