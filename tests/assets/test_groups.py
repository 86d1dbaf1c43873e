"""Groups of stale shards, the unit of work of one task."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import NOON, World

from assets.engine.hashing import shard_of
from assets.engine.plan import Plan, PlannedShard, Request, Workload
from assets.engine.results import ShardResult, total
from assets.estimate import AssetEstimate
from assets.groups import Group, GroupOutcome, group_shards, run_groups, worthwhile_groups
from assets.steps import StepRunner

PLANNED_AT = "2026-11-23T02:00:00+00:00"


def plan_of(*n_texts: int, assets: tuple[str, ...] = ("words",)) -> Plan:
    """Plan a shard for each number of texts."""
    entries = [
        PlannedShard(asset, shard, "data", workload=Workload(n_rows=n_rows))
        for asset in assets
        for shard, n_rows in enumerate(n_texts)
    ]
    return Plan(tuple(entries), Request())


def result_of(asset: str, shard: int) -> ShardResult:
    return ShardResult(asset, shard, "data", True, "v1", 1, 1, 1, 0.5, {"texts_embedded": 2})


def estimate_of(seconds: float | None, n_shards: int = 8) -> AssetEstimate:
    """Return an estimate of some seconds for the shards of an asset."""
    return AssetEstimate("words", {}, n_shards, 8, 0, 0, None, None, 0, False, False, None, seconds)


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 8))
def test_every_shard_is_in_one_group(n_texts: list[int], n_groups: int) -> None:
    """All planned shards are divided into as many groups as there are slots, or shards if these are fewer."""
    groups = group_shards(plan_of(*n_texts, assets=("words", "pages")), n_groups)
    assert len(groups) == min(n_groups, len(n_texts))
    assert sorted(shard for group in groups for shard in group.shards) == list(range(len(n_texts)))
    assert {names for group in groups for names in group.shards.values()} <= {("words", "pages")}


def test_groups_have_about_equal_work() -> None:
    """A shard with much work is alone in its group, while many small ones share the other."""
    groups = group_shards(plan_of(100, 100, 100, 900, 100, 100, 100, 100), 2)
    assert [list(group.shards) for group in groups] == [[3], [0, 1, 2, 4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("seconds", "n_groups"),
    [([], 1), ([0.2, 4.7], 1), ([0.2, 4.9], 2), ([12.0], 3), ([500.0], 4), ([0.2, None], 4)],
)
def test_a_group_is_worth_five_seconds(seconds: list[float | None], n_groups: int) -> None:
    """A plan is divided into a group for every five seconds of its work, but into no more than there are slots.

    Work that was never done before has as many groups as there are slots.
    """
    assert worthwhile_groups(map(estimate_of, seconds), 4) == n_groups


def test_idle_assets_need_no_group() -> None:
    """An asset without a shard to run does not count, also if it was never run."""
    assert worthwhile_groups([estimate_of(None, n_shards=0), estimate_of(1.0)], 4) == 1


def test_a_retry_runs_what_failed() -> None:
    """A retry leaves out the shards that succeeded, and in a shard that failed the assets that have a result."""
    group = Group(dict.fromkeys(range(3), ("letters", "words", "pages")))
    done = [result_of(name, number) for number in (0, 2) for name in ("letters", "words", "pages")]
    outcome = GroupOutcome((*done, result_of("letters", 1)), frozenset([1]))
    assert outcome.left(group).shards == {1: ("words", "pages")}


def test_a_try_without_failures_is_not_repeated() -> None:
    """A group of which every asset has a result is not run again: nothing is left."""
    group = Group({0: ("letters", "words")})
    outcome = GroupOutcome((result_of("letters", 0), result_of("words", 0)))
    assert outcome.left(group) == Group({})


def test_an_outcome_belongs_to_one_plan() -> None:
    """A retry goes on from the tries before it, but not from those before its run was cleared and planned again."""
    outcome = GroupOutcome((result_of("letters", 1),), frozenset([5]))
    state = json.loads(json.dumps(outcome.to_json(PLANNED_AT)))
    assert GroupOutcome.from_json(state, PLANNED_AT) == outcome
    assert GroupOutcome.from_json(state, "2026-11-23T09:00:00+00:00") is None
    assert GroupOutcome.from_json(None, PLANNED_AT) is None


def test_a_try_after_a_kill_keeps_the_results(world: World, account: Any) -> None:
    """The try after one whose worker was killed runs only what is left, and its outcome has the results of both."""
    world.n_shards = 3
    for number in range(9):
        world.add(f"user-{number}", account("call the dentist"))
    runner = StepRunner(world.graph, world.runtime, world.resources, NOON)
    plan, _ = runner.plan("fetch_signals")
    materialize = partial(runner.materialize_shards, "fetch_signals")
    groups, kept = [Group({shard: tuple(names) for shard, names in plan.by_shard.items()})], list[GroupOutcome]()

    def keep(outcome: GroupOutcome) -> None:
        kept.append(outcome)
        if len(kept) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_groups(materialize, groups, keep=keep, keep_every_s=0)
    done = {result.shard for result in kept[1].results}
    assert len(done) < 3
    before = len(world.todoist.calls)
    outcome, failures = run_groups(materialize, groups, kept[1])
    assert not failures
    assert total(outcome.results)["n_users_computed"] == 2 * 9
    assert not done & {shard_of(call.user, 3) for call in world.todoist.calls[before:]}


def test_a_first_try_runs_everything() -> None:
    """A first try, or one after a try that kept nothing, runs the whole group."""
    group = Group({0: ("letters",), 4: ("letters", "words")})
    assert GroupOutcome().left(group) == group


def test_groups_and_outcomes_travel_as_json() -> None:
    """A group and its outcome are equal after they were written as JSON and read."""
    group = Group({0: ("letters",), 4: ("letters", "words")})
    outcome = GroupOutcome((result_of("letters", 0),), frozenset([4]))
    assert Group.from_json(json.loads(json.dumps(group.to_json()))) == group
    assert GroupOutcome.from_json(json.loads(json.dumps(outcome.to_json(PLANNED_AT))), PLANNED_AT) == outcome


@pytest.mark.parametrize(("n_shards", "text"), [(1, "1 shard (0)"), (9, "9 shards (0, 1, 2, 3, 4, 5, 6, 7, ...)")])
def test_a_group_is_named_by_its_shards(n_shards: int, text: str) -> None:
    """A group is shown by its number of shards and the first of them."""
    assert str(Group(dict.fromkeys(range(n_shards), ("letters",)))) == text
