from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem
from toy import LETTERS, NOON, ToyPipeline, shelf, toy_graph

from assets.engine.asset import Users, asset
from assets.engine.errors import ShardUnreadable
from assets.engine.graph import Graph
from assets.engine.hashing import shard_of
from assets.engine.plan import Plan, PlannedShard, Request, Wait, Workload, build_request, request_by_shard
from assets.estimate import estimate

N_SHARDS = 2
LETTERS_SOLD = pa.schema([pa.field("user_id", pa.string(), nullable=False)])
ANN, CEM = frozenset(["ann"]), frozenset(["cem"])


def graph(**code_versions: str) -> Graph:
    """Return the graph of letters, words, pages and shelf."""
    return toy_graph(shelf, **code_versions)


def materialized(root: str) -> ToyPipeline:
    """Return a pipeline with one letter of ann, in shard 0, and one of cem, in shard 1, after a run."""
    pipeline = ToyPipeline(root, N_SHARDS, graph())
    pipeline.post_office.write("ann", "l1", "hello")
    pipeline.post_office.write("cem", "l1", "good bye")
    pipeline.run()
    return pipeline


@pytest.fixture
def pipeline(tmp_path: Path) -> ToyPipeline:
    return materialized(str(tmp_path))


def reasons(pipeline: ToyPipeline, name: str, **facts: Any) -> dict[int, str]:
    """Plan a single asset and return the reason of each planned shard."""
    return {entry.shard: entry.reason for entry in pipeline.plan(Request(**facts), [name])}


def summary(plan: Plan) -> list[tuple[Any, ...]]:
    return [(each.asset, each.shard, each.reason, set(each.workload.users), each.is_upper_bound) for each in plan]


def test_the_toy_users_are_in_two_shards() -> None:
    """The tests below rely on ann in shard 0 and cem in shard 1."""
    assert [shard_of(user, N_SHARDS) for user in ("ann", "cem")] == [0, 1]


# The reason of a planned shard


@pytest.mark.parametrize("options", [{}, {"only_users": ["ann"]}, {"only_shards": [1], "force": True}])
def test_the_request_of_a_shard(options: dict[str, Any]) -> None:
    """The request of many shards, divided by shard, is that of each shard with its own users."""
    users = {user: NOON + timedelta(hours=number) for number, user in enumerate(("ann", "cem", "dan"))}
    whole = replace(build_request(N_SHARDS, users, **options), demanded={"cem": NOON})
    requests = request_by_shard(whole, range(N_SHARDS), N_SHARDS)
    for shard, request in requests.items():
        own = {user: at for user, at in users.items() if shard_of(user, N_SHARDS) == shard}
        shards = {shard} & set(options.get("only_shards", range(N_SHARDS)))
        expected = build_request(N_SHARDS, own, **{**options, "only_shards": shards})
        demanded = {"cem": NOON} if shard == 1 else {}
        assert replace(request, observe_shards=frozenset()) == replace(
            expected, observe_shards=frozenset(), demanded=demanded
        )
        assert request.observe_shards == expected.observe_shards & whole.observe_shards & {shard}


def test_nothing_is_planned_if_all_is_up_to_date(pipeline: ToyPipeline) -> None:
    """After a run the plan is empty, and planning does not change that."""
    assert pipeline.plans() == pipeline.plans() == {}


def test_a_source_runs_in_the_observed_shards(pipeline: ToyPipeline) -> None:
    """A source is planned in exactly the observed shards, with the reason `observe`."""
    assert reasons(pipeline, "letters", observe_shards=frozenset([1])) == {1: "observe"}


def test_an_observation_alone_plans_no_derived_asset(pipeline: ToyPipeline) -> None:
    """An asset that does not observe is not planned because its shard is observed."""
    assert reasons(pipeline, "pages", observe_shards=frozenset([0, 1])) == {}


def test_a_reader_that_observes_runs_in_the_observed_shards(pipeline: ToyPipeline) -> None:
    """An asset that reads others and observes is planned in the observed shards, even with unchanged inputs."""
    assert reasons(pipeline, "shelf", observe_shards=frozenset([0])) == {0: "observe"}


def test_changed_data_is_the_reason_before_an_observation(pipeline: ToyPipeline) -> None:
    """In an observed shard with changed inputs the reason is the data."""
    pipeline.post_office.write("ann", "l1", "hello again")
    pipeline.run(select=["letters", "words", "pages"])
    assert reasons(pipeline, "shelf", observe_shards=frozenset([0, 1])) == {0: "data", 1: "observe"}


@asset(step="sell", schema=LETTERS_SOLD, code_version="1", on_demand=True)
def sold(pages: Annotated[pa.Table, "user_id"], previous: pa.Table, users: Users) -> pa.Table:
    """The users whose letters were demanded last."""
    present = set(pages["user_id"].to_pylist())
    return pa.table({"user_id": pa.array(sorted(present & {*users, *previous["user_id"].to_pylist()}), pa.string())})


class TestOnDemand:
    @pytest.fixture
    def pipeline(self, tmp_path: Path) -> ToyPipeline:
        """The toy pipeline with an asset on demand, after a run without a demand."""
        pipeline = ToyPipeline(str(tmp_path), N_SHARDS, toy_graph(sold))
        pipeline.post_office.write("ann", "l1", "hello")
        pipeline.post_office.write("cem", "l1", "good bye")
        pipeline.run()
        return pipeline

    def test_no_demand(self, pipeline: ToyPipeline) -> None:
        """Without a demand it is planned nowhere, however much its inputs changed."""
        pipeline.post_office.write("ann", "l1", "hello again")
        pipeline.run(select=["letters", "words", "pages"])
        assert reasons(pipeline, "sold") == {}
        assert reasons(pipeline, "sold", observe_shards=frozenset([0, 1])) == {}

    def test_demand(self, pipeline: ToyPipeline) -> None:
        """It is planned in the shards of the users demanded, for these users alone."""
        [entry] = pipeline.plan(Request(demanded={"ann": NOON}), ["sold"])
        assert (entry.shard, entry.reason, entry.workload.users) == (0, "demand", ANN)
        assert reasons(pipeline, "sold", demanded={"ann": NOON}, only_users=CEM) == {}

    def test_unknown_users(self, pipeline: ToyPipeline) -> None:
        """Users whom its first input does not have are passed over."""
        assert reasons(pipeline, "sold", demanded={"eve": NOON}) == {}

    def test_waiting_users(self, pipeline: ToyPipeline) -> None:
        """Users who wait for an input are left for a later run."""
        assert reasons(pipeline, "sold", demanded={"ann": NOON}, waiting=ANN) == {}


def test_missing(pipeline: ToyPipeline) -> None:
    """A shard without a file is missing if its first input exists."""
    pipeline.shards.set_aside(pipeline.graph["pages"], 1)
    assert reasons(pipeline, "pages") == {1: "missing"}


def test_a_shard_without_its_first_input_is_not_planned(tmp_path: Path) -> None:
    """A shard is not planned while its first input has no file."""
    pipeline = ToyPipeline(str(tmp_path), N_SHARDS, graph())
    assert pipeline.plans() == {}
    pipeline.post_office.write("ann", "l1", "hello")
    pipeline.run(select=["letters"])
    assert pipeline.plans() == {"words": {0: "missing"}, "pages": {0: "missing"}}


def test_code(pipeline: ToyPipeline) -> None:
    """A raised code_version plans every shard of its asset, and no other asset before its data changes."""
    pipeline.graph = graph(pages="2")
    assert pipeline.plans() == {"pages": {0: "code", 1: "code"}}


def test_new_code_of_a_source_is_not_planned(pipeline: ToyPipeline) -> None:
    """New code of a source waits for the next observation."""
    pipeline.graph = graph(letters="2")
    assert pipeline.plans() == {}


def test_model(pipeline: ToyPipeline) -> None:
    """A different version of a resource plans every shard of the assets that use it."""
    pipeline.model.version = "2"
    assert pipeline.plans() == {"words": {0: "model", 1: "model"}}


def test_opaque_columns_pass_a_model_and_code_on(pipeline: ToyPipeline) -> None:
    """An opaque column computed by a different model, or by different code, is different data for its readers."""
    pipeline.model.version = "2"
    pipeline.run(select=["words"])
    assert pipeline.plans() == {"pages": {0: "data", 1: "data"}}
    pipeline.run()
    pipeline.use("letters", replace(pipeline.graph["words"], code_version="2"), "pages")  # with the same rows
    pipeline.run(select=["words"])
    assert pipeline.plans() == {"pages": {0: "data", 1: "data"}}


def test_data(pipeline: ToyPipeline) -> None:
    """Changed rows plan the assets that read them, in their shard, and not yet the assets behind those."""
    pipeline.post_office.write("cem", "l1", "hello again")
    pipeline.run(select=["letters"])
    assert pipeline.plans() == {"words": {1: "data"}}


def test_a_column_that_is_not_read_plans_nothing(pipeline: ToyPipeline) -> None:
    """A change in a column that an asset does not read does not make the asset stale."""
    pipeline.post_office.write("cem", "l1", "good bye", labels=["blue"])
    pipeline.run(select=["letters"])
    assert pipeline.plans() == {}


def test_a_reverted_change_plans_nothing(pipeline: ToyPipeline) -> None:
    """A value that changed and changed back before any asset read it makes nothing stale."""
    for text in ("changed", "hello"):
        pipeline.post_office.write("ann", "l1", text)
        pipeline.run(select=["letters"])
    assert pipeline.plans() == {}


def test_a_shard_with_a_lost_input_is_not_planned(pipeline: ToyPipeline) -> None:
    """A shard whose first input is lost stays as it is, and is up to date once the input is back."""
    pipeline.shards.set_aside(pipeline.graph["letters"], 0)
    assert reasons(pipeline, "words") == {}
    pipeline.run(select=["letters"])
    assert reasons(pipeline, "words") == {}


def test_stale(pipeline: ToyPipeline) -> None:
    """An expired row plans its shard at the instant in valid_until, and not before."""
    opens_at = NOON + timedelta(hours=1)
    for user in ("ann", "cem"):
        pipeline.post_office.write(user, "l1", "hello", opens_at)
    pipeline.run()
    pipeline.now = opens_at - timedelta(microseconds=1)
    assert pipeline.plans() == {}
    pipeline.now = opens_at
    assert pipeline.plans() == {"pages": {0: "expired", 1: "expired"}}


def test_forced(pipeline: ToyPipeline) -> None:
    """A forced asset is planned although it is up to date, in the shards of the request."""
    assert reasons(pipeline, "pages", force=True) == {0: "forced", 1: "forced"}
    assert reasons(pipeline, "pages", force=True, only_shards=frozenset([1])) == {1: "forced"}


def test_force_needs_the_first_input(pipeline: ToyPipeline) -> None:
    """A shard without its first input is not planned even if forced, because its rows would be lost."""
    pipeline.shards.set_aside(pipeline.graph["letters"], 0)
    assert reasons(pipeline, "words", force=True) == {1: "forced"}


@pytest.mark.parametrize(("shards", "expected"), [([0], {0: "code"}), ([1, 0], {0: "code", 1: "code"}), ([], {})])
def test_only_some_shards(pipeline: ToyPipeline, shards: Iterable[int], expected: dict[int, str]) -> None:
    """A plan for some shards holds no other shard."""
    pipeline.graph = graph(pages="2")
    assert reasons(pipeline, "pages", only_shards=frozenset(shards)) == expected


# Users who wait


def waits(pipeline: ToyPipeline, *names: str, **options: Any) -> list[tuple[int, str, set[str]]]:
    """Return the users who wait in a plan of the named assets, by shard and asset."""
    members = [pipeline.graph[name] for name in names]
    plan = pipeline.planner.plan(members, pipeline.request("ann", "cem", **options))
    return [(wait.shard, wait.asset, set(wait.users)) for wait in pipeline.planner.waits(members, plan)]


def ready(pipeline: ToyPipeline, *names: str, **options: Any) -> Plan:
    """Return a plan of the named assets without the users who wait."""
    members, planner = [pipeline.graph[name] for name in names], pipeline.planner
    plan = planner.plan(members, pipeline.request("ann", "cem", **options))
    return planner.without_waiting(plan, members, planner.waits(members, plan))


def test_a_user_waits_for_a_stale_ancestor(pipeline: ToyPipeline) -> None:
    """A user waits for every asset that is stale for them and that the members read, directly or not."""
    pipeline.post_office.write("cem", "l1", "hello again")
    pipeline.run(select=["letters"])
    assert waits(pipeline, "shelf") == [(1, "words", {"cem"})]
    assert waits(pipeline, "pages", "shelf") == [(1, "words", {"cem"})]
    pipeline.graph = graph(pages="2")
    assert waits(pipeline, "shelf") == [(0, "pages", {"ann"}), (1, "words", {"cem"}), (1, "pages", {"cem"})]
    assert ready(pipeline, "shelf").waits == (Wait(0, "pages", ANN), Wait(1, "words", CEM))


def test_all_users_wait_for_a_new_version(pipeline: ToyPipeline) -> None:
    """All users wait for an asset with a new model or code."""
    pipeline.model.version = "2"
    assert waits(pipeline, "shelf") == [(0, "words", {"ann"}), (1, "words", {"cem"})]


def test_nobody_waits_for_the_step_itself(pipeline: ToyPipeline) -> None:
    """Nobody waits for a member of the plan, which is about to run it."""
    pipeline.graph = graph(pages="2")
    assert waits(pipeline, "pages") == waits(pipeline, "pages", "shelf") == []


def test_nobody_waits_for_sources(pipeline: ToyPipeline) -> None:
    """Nobody waits for a source, because a plan does not decide when it is observed."""
    pipeline.graph = graph(letters="2")
    assert waits(pipeline, "words") == []


def test_a_shard_in_which_all_wait_is_left_out(pipeline: ToyPipeline) -> None:
    """A shard in which all users wait is left out of the plan; the others are planned."""
    pipeline.post_office.write("cem", "l1", "hello again")
    pipeline.run(select=["letters"])
    pipeline.graph = graph(pages="2")
    plan = ready(pipeline, "pages")
    assert summary(plan) == [("pages", 0, "code", {"ann"}, False)]
    assert plan.waits == (Wait(1, "words", CEM),)


def test_a_shard_with_an_unreadable_ancestor_waits_as_a_whole(pipeline: ToyPipeline) -> None:
    """If an ancestor's file cannot be read, all users of the shard wait for it."""
    path = pipeline.shards.path("words", 1)
    filesystem, _ = fsspec.core.url_to_fs(pipeline.root)
    filesystem.pipe_file(path, b"PAR1")
    plan = ready(pipeline, "shelf")
    assert {entry.shard for entry in plan} == {0}
    [wait] = [wait for wait in plan.waits if wait.asset == "words"]
    assert (wait.shard, wait.is_whole, set(wait.users)) == (1, True, {"cem"})


def test_users_of_the_same_shard_do_not_wait(pipeline: ToyPipeline) -> None:
    """The users of a shard who do not wait are computed and observed; the shard stays stale for the others."""
    pipeline.post_office.write("ann", "l9", "hello")
    neighbour = _neighbour(pipeline, "ann")
    pipeline.post_office.write(neighbour, "l1", "hello")
    pipeline.run()
    pipeline.post_office.write("ann", "l9", "hello again")
    pipeline.post_office.write(neighbour, "l1", "hello", opens_at=pipeline.now + timedelta(days=1))
    pipeline.run(select=["letters"])
    before = {row["user_id"]: row["page"] for row in pipeline.rows("shelf")}
    everybody = pipeline.request(*pipeline.post_office.changes)
    members, planner = [pipeline.graph["pages"], pipeline.graph["shelf"]], pipeline.planner
    plan = planner.plan(members, everybody)
    pipeline.materialize(planner.without_waiting(plan, members, planner.waits(members, plan)))
    assert "ann" not in {user for call in [*pipeline.calls["pages"], *pipeline.calls["shelf"]] for user in call}
    after = {row["user_id"]: row["page"] for row in pipeline.rows("shelf")}
    assert after["ann"] == before["ann"]
    assert "closed" in after[neighbour]
    pipeline.run(select=["words"])
    assert set(pipeline.plans()) >= {"pages", "shelf"}
    pipeline.run(select=["pages", "shelf"])
    assert {row["user_id"]: row["page"] for row in pipeline.rows("shelf")}["ann"] != before["ann"]
    assert pipeline.plans() == {}


def _neighbour(pipeline: ToyPipeline, user: str) -> str:
    """Return a new user in the shard of another."""
    n_shards = pipeline.shards.n_shards
    names = (f"neighbour-{number}" for number in range(100))
    return next(name for name in names if shard_of(name, n_shards) == shard_of(user, n_shards))


# Plans of several assets


def test_assets_behind_an_observation_are_bounds(pipeline: ToyPipeline) -> None:
    """Everything behind an observed user is planned for that user as an upper bound, in that shard only."""
    plan = pipeline.plan(pipeline.request("ann"))
    assert summary(plan) == [
        ("letters", 0, "observe", {"ann"}, False),
        ("words", 0, "data", {"ann"}, True),
        ("pages", 0, "data", {"ann"}, True),
        ("shelf", 0, "data", {"ann"}, True),
    ]
    assert plan.by_shard == {0: ["letters", "words", "pages", "shelf"]}
    assert [entry.asset for entry in plan.entries_of("pages")] == ["pages"]
    assert plan


def test_a_bound_need_not_run(pipeline: ToyPipeline) -> None:
    """After an observation without changes only the assets that observe run."""
    results = pipeline.materialize(pipeline.plan(pipeline.request("ann")))
    assert [(result.asset, result.reason) for result in results] == [("letters", "observe"), ("shelf", "observe")]


def test_a_run_follows_its_plan(pipeline: ToyPipeline) -> None:
    """After an observation with changes all planned shards run, and nothing is left to do."""
    pipeline.post_office.write("ann", "l1", "hello again")
    plan = pipeline.plan(pipeline.request("ann"))
    assert [(each.asset, each.shard) for each in pipeline.materialize(plan)] == [
        (entry.asset, entry.shard) for entry in plan
    ]
    assert not pipeline.plan()


def test_an_empty_plan(pipeline: ToyPipeline) -> None:
    """A plan without entries is false, has no shards, and materializes nothing."""
    plan = pipeline.plan()
    assert (bool(plan), plan.by_shard, list(plan), pipeline.materialize(plan)) == (False, {}, [], [])


def test_readers_of_new_code_are_bounds(pipeline: ToyPipeline) -> None:
    """An asset with new code is planned with all of its users, and its readers with the same as an upper bound."""
    pipeline.graph = graph(words="2")
    assert summary(pipeline.plan(Request(only_shards=frozenset([1])))) == [
        ("words", 1, "code", {"cem"}, False),
        ("pages", 1, "data", {"cem"}, True),
        ("shelf", 1, "data", {"cem"}, True),
    ]


def test_only_planned_assets_pass_their_users_on(pipeline: ToyPipeline) -> None:
    """Readers of a stale asset that is not planned are planned from its stored data."""
    pipeline.graph = graph(words="2")
    assert not pipeline.plan(select=["pages", "shelf"])


def test_new_users_are_planned(pipeline: ToyPipeline) -> None:
    """A user observed for the first time is planned in every asset, beside the existing users."""
    pipeline.post_office.write("bob", "l1", "good morning")
    plan = pipeline.plan(pipeline.request("bob"))
    assert {entry.shard for entry in plan} == {shard_of("bob", N_SHARDS)}
    assert [(set(entry.workload.users), entry.workload.n_users) for entry in plan] == [({"bob"}, 2)] * 4


def test_row_counts_are_unknown_before_the_first_observation(tmp_path: Path) -> None:
    """Before the first observation a plan holds the users, but not the number of their rows."""
    pipeline = ToyPipeline(str(tmp_path), N_SHARDS, graph())
    plan = pipeline.plan(pipeline.request("ann", "cem"))
    assert [(entry.asset, entry.shard, entry.workload.n_users, entry.workload.n_rows) for entry in plan] == [
        (name, shard, 1, None) for name in ("letters", "words", "pages", "shelf") for shard in (0, 1)
    ]
    assert {entry.reason for entry in plan.entries_of("words")} == {"missing"}


def test_only_some_users(pipeline: ToyPipeline) -> None:
    """A plan for one user holds no other user, even if others are stale, and stays in that user's shard."""
    pipeline.graph = graph(words="2")
    assert summary(pipeline.plan(pipeline.request("ann", "cem", only_users=["cem"]))) == [
        ("letters", 1, "observe", {"cem"}, False),
        ("words", 1, "code", {"cem"}, True),
        ("pages", 1, "data", {"cem"}, True),
        ("shelf", 1, "data", {"cem"}, True),
    ]


def test_only_a_user_without_changes(pipeline: ToyPipeline) -> None:
    """A plan for a user without changes holds the stale shard, and no user to compute."""
    pipeline.post_office.write("cem", "l1", "hello again")
    pipeline.run(select=["letters"])
    (entry,) = pipeline.plan(Request(only_users=frozenset(["zoe"])), ["words"])
    assert (entry.shard, entry.reason, entry.workload.users, entry.workload.n_users) == (1, "data", set(), 1)


def test_force_plans_all_users(pipeline: ToyPipeline) -> None:
    """A forced plan holds every user, or every user of the request."""
    pipeline.post_office.write("bob", "l1", "good morning")
    pipeline.run()
    plan = pipeline.plan(Request(force=True))
    assert {entry.reason for entry in plan} == {"forced"}
    assert set().union(*(entry.workload.users for entry in plan.entries_of("pages"))) == {"ann", "bob", "cem"}
    only_cem = pipeline.plan(Request(force=True, only_users=CEM))
    assert set().union(*(entry.workload.users for entry in only_cem)) == CEM


def test_force_for_one_user_leaves_nothing_stale(pipeline: ToyPipeline) -> None:
    """An asset that was up to date is up to date after one user was computed again."""
    pipeline.post_office.write("bob", "l1", "good morning")
    pipeline.run()
    results = pipeline.materialize(pipeline.plan(Request(force=True, only_users=frozenset(["bob"])), ["words"]))
    assert sum(result.n_users_computed for result in results) == 1
    assert pipeline.plans() == {}


def test_a_shard_observed_without_users(pipeline: ToyPipeline) -> None:
    """A shard to observe without users plans the source, and everything behind it as a bound, for no user."""
    plan = pipeline.plan(Request(observe_shards=frozenset([1])))
    assert [(entry.asset, entry.is_upper_bound) for entry in plan] == [
        ("letters", False),
        ("words", True),
        ("pages", True),
        ("shelf", True),
    ]
    assert [entry.workload for entry in plan] == [Workload(n_users=1, n_rows=0)] * 4


def test_the_workload_counts_rows_of_the_first_input(pipeline: ToyPipeline) -> None:
    """A workload holds the number of the asset's users, and of the rows of the first input to read."""
    pipeline.post_office.write("bob", "l1", "good morning")
    pipeline.post_office.write("dan", "l1", "")
    pipeline.run()
    pipeline.graph = graph(pages="2")
    plan = pipeline.plan(select=["pages"])
    assert [entry.workload for entry in plan] == [
        Workload(users, *[len(users)] * 4)
        for shard in (0, 1)
        if (users := frozenset(user for user in pipeline.users if shard_of(user, N_SHARDS) == shard))
    ]


def test_replan_makes_a_bound_exact(pipeline: ToyPipeline) -> None:
    """Planned again after its inputs ran, a bound is exact, or nothing to do."""
    plan = pipeline.plan(pipeline.request("ann"))
    (bound,) = plan.entries_of("words")
    assert pipeline.planner.replan(bound, plan.request) is None
    pipeline.post_office.write("ann", "l1", "hello again")
    pipeline.run(select=["letters"])
    exact = pipeline.planner.replan(bound, plan.request)
    assert exact == PlannedShard("words", 0, "data")
    assert exact.workload == Workload(ANN, n_users=1, n_rows=1, n_users_certain=1, n_rows_certain=1)


# Unreadable and changed files


def test_an_unreadable_file_is_planned(pipeline: ToyPipeline) -> None:
    """An unreadable file is planned as unreadable together with its readers, and the run raises its error."""
    Path(pipeline.shards.path("words", 0)).write_bytes(b"nothing")
    plan = pipeline.plan(pipeline.request("ann"))
    assert [(entry.asset, entry.reason) for entry in plan] == [
        ("letters", "observe"),
        ("words", "unreadable"),
        ("pages", "unreadable"),
        ("shelf", "data"),
    ]
    with pytest.raises(ShardUnreadable, match="rebuild words --shard 0"):
        pipeline.materialize(plan)


def test_an_unreadable_index_is_planned(pipeline: ToyPipeline) -> None:
    """A file whose index is broken is planned as unreadable if the plan needs the index."""
    with pipeline.shards.open(pipeline.graph["words"], 0) as opened:
        assert opened
        table, footer = opened.read_all(), opened.footer
    pipeline.shards.write(pipeline.graph["words"], table, replace(footer, packed=b"nothing"))
    pipeline.graph = graph(words="2")
    assert reasons(pipeline, "words") == {0: "unreadable", 1: "code"}
    with pytest.raises(ShardUnreadable, match="rebuild words --shard 0"):
        pipeline.materialize(pipeline.plan(select=["words"]))


def test_a_new_column_of_an_input_can_be_planned(pipeline: ToyPipeline) -> None:
    """A reader of a new column is planned before its input has the column, and runs after the input."""
    schema = LETTERS.append(pa.field("sender", pa.string()))

    @asset(step="fetch", schema=schema, code_version="2")
    def letters(previous: pa.Table, users: Users) -> pa.Table:
        senders = pa.array(["me"] * len(previous), pa.string())
        return previous.set_column(len(LETTERS), "sender", senders)

    @asset(step="embed", schema=pa.schema([("user_id", pa.string()), ("sender", pa.string())]), code_version="2")
    def words(letters: Annotated[pa.Table, "user_id", "sender"]) -> pa.Table:
        return letters

    pipeline.use(letters, words)
    assert pipeline.plans() == {"letters": {0: "observe", 1: "observe"}, "words": {0: "code", 1: "code"}}
    pipeline.run()
    assert [row["sender"] for row in pipeline.rows("words")] == ["me", "me"]
    assert pipeline.plans() == {}


# Footers are read once, and nothing else is


class CountingFileSystem(LocalFileSystem):  # type: ignore[misc]
    """A local disk that counts how often each file is opened for reading."""

    protocol = ("counting",)
    opened: ClassVar[Counter[str]] = Counter()

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "r" in mode:
            self.opened[self._strip_protocol(path)] += 1
        return super()._open(path, mode, **options)


@pytest.fixture
def counting_pipeline(tmp_path: Path) -> Iterator[ToyPipeline]:
    """A pipeline on a disk that counts."""
    fsspec.register_implementation("counting", CountingFileSystem, clobber=True)
    pipeline = materialized(f"counting://{tmp_path}")
    CountingFileSystem.opened.clear()
    yield pipeline
    CountingFileSystem.clear_instance_cache()


def test_a_planner_reads_each_footer_once(counting_pipeline: ToyPipeline) -> None:
    """A planner opens every file once, for any number of plans, waits and estimates."""
    counting_pipeline.graph = graph(words="2")
    planner = counting_pipeline.planner
    plan = planner.plan(counting_pipeline.graph, counting_pipeline.request("ann", "cem"))
    planner.plan(counting_pipeline.graph)
    estimate(plan, planner, counting_pipeline.graph, {})
    planner.waits([counting_pipeline.graph["shelf"]], plan)
    shards = [(each.name, shard) for each in counting_pipeline.graph for shard in range(N_SHARDS)]
    assert CountingFileSystem.opened == {counting_pipeline.shards.path(*shard): 1 for shard in shards}


def test_a_plan_changes_no_file(pipeline: ToyPipeline) -> None:
    """Planning leaves every file byte for byte as it was."""
    files = pipeline.files()
    assert pipeline.plan(replace(pipeline.request("ann", "cem"), force=True))
    assert pipeline.files() == files
