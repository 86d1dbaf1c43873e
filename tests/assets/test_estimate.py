from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from toy import PostOffice, ToyPipeline, shelf, toy_graph

from assets.engine.asset import Users, WorkUnit, asset
from assets.engine.graph import Graph
from assets.engine.hashing import shard_of
from assets.estimate import AssetEstimate, estimate
from contexts.postgres.run_log import Throughput

CHANGES = pa.schema([("user_id", pa.string()), ("n", pa.int64())])


@asset(step="fetch", schema=CHANGES, code_version="1", work=WorkUnit("changes_read", per="row"))
def changes(previous: pa.Table, users: Users, post_office: PostOffice) -> pa.Table:
    """A row for each change of each user: a source whose work is counted by row."""
    kept = [row for row in previous.to_pylist() if row["user_id"] not in users]
    new = [{"user_id": user, "n": n} for user in users for n in range(len(post_office.changes[user]))]
    return pa.Table.from_pylist([*kept, *new], schema=CHANGES)


def graph(**code_versions: str) -> Graph:
    """Return two sources, counted by user and by row; words by row; pages by user; a shelf that is not counted."""
    return toy_graph(changes, shelf, **code_versions)


@pytest.fixture
def new_pipeline(tmp_path: Path) -> ToyPipeline:
    """Ann with three letters and dan without any in shard 0, cem with one in shard 1, before the first run."""
    pipeline = ToyPipeline(str(tmp_path), 2, graph())
    for user, letter_ids in {"ann": ["l1", "l1", "l1", "l2", "l3"], "cem": ["l1"], "dan": ["l1"]}.items():
        for letter_id in letter_ids:
            pipeline.post_office.write(user, letter_id, "hello")
    pipeline.post_office.discard("dan", "l1")
    return pipeline


@pytest.fixture
def pipeline(new_pipeline: ToyPipeline) -> ToyPipeline:
    """The same pipeline after a run."""
    new_pipeline.run()
    return new_pipeline


def estimates(
    pipeline: ToyPipeline, *users: str, throughput: Mapping[str, Throughput] | None = None
) -> dict[str, AssetEstimate]:
    """Estimate a run of all assets that observes these users."""
    planner = pipeline.planner
    plan = planner.plan(pipeline.graph, pipeline.request(*users))
    return {each.asset: each for each in estimate(plan, planner, pipeline.graph, throughput or {})}


def numbers(each: AssetEstimate) -> tuple[Any, ...]:
    return (each.n_shards, each.n_shards_total, each.n_users, each.n_users_total, each.n_units, each.n_units_total)


def test_the_toy_users_are_in_two_shards() -> None:
    """The tests below rely on ann and dan in shard 0 and cem in shard 1."""
    assert [shard_of(user, 2) for user in ("ann", "dan", "cem")] == [0, 0, 1]


def test_an_up_to_date_asset_has_an_estimate(pipeline: ToyPipeline) -> None:
    """An asset without planned shards has an estimate with its totals, and takes no time."""
    estimated = estimates(pipeline)
    assert {name: numbers(each) for name, each in estimated.items()} == {
        "letters": (0, 2, 0, 2, 0, 2),
        "words": (0, 2, 0, 2, 0, 4),
        "pages": (0, 2, 0, 2, 0, 2),
        "changes": (0, 2, 0, 3, 0, 8),
        "shelf": (0, 2, 0, 2, None, 2),
    }
    assert {each.seconds for each in estimated.values()} == {0.0}
    assert not any(each.is_upper_bound or each.reasons for each in estimated.values())


def test_the_work_of_new_code_is_counted(pipeline: ToyPipeline) -> None:
    """New code has all users and rows to compute, counted in the asset's unit; its readers have an upper bound."""
    pipeline.graph = graph(words="2")
    estimated = estimates(pipeline)
    assert numbers(estimated["words"]) == (2, 2, 2, 2, 4, 4)
    assert numbers(estimated["pages"]) == (2, 2, 2, 2, 2, 2)
    assert {name: each.is_upper_bound for name, each in estimated.items()} == {
        "letters": False,
        "words": False,
        "pages": True,
        "changes": False,
        "shelf": True,
    }
    assert [estimated[name].reasons for name in ("words", "pages")] == [{"code": 2}, {"data": 2}]
    assert (estimated["shelf"].work, estimated["shelf"].n_units) == (None, None)


def test_rows_are_an_upper_bound(pipeline: ToyPipeline) -> None:
    """Work counted by row is an upper bound, because a row can need no work; work counted by user is exact."""
    pipeline.graph = graph(words="2")
    words = estimates(pipeline)["words"]
    assert (words.units_are_upper_bound, words.is_upper_bound) == (True, False)
    pipeline.graph = graph(pages="2")
    pages = estimates(pipeline)["pages"]
    assert (pages.units_are_upper_bound, pages.is_upper_bound) == (False, False)


def test_a_unit_can_be_declared_an_upper_bound(pipeline: ToyPipeline) -> None:
    """Work counted by user is an upper bound if the asset declares its unit as one."""
    unit = WorkUnit("pages_printed", per="user", is_upper_bound=True)
    pages = replace(pipeline.graph["pages"], code_version="2", work=unit)
    pipeline.use("letters", "words", pages)
    estimated = estimates(pipeline)["pages"]
    assert (estimated.units_are_upper_bound, estimated.is_upper_bound, estimated.n_units) == (True, False, 2)


def test_saved_units(pipeline: ToyPipeline) -> None:
    """The units saved are all units without those to do."""
    estimated = estimates(pipeline, "ann")
    saved = {name: (each.n_units, each.n_units_saved) for name, each in estimated.items() if each.work}
    assert saved == {"letters": (1, 1), "changes": (None, 0), "words": (3, 1), "pages": (1, 1)}
    assert {each.n_units_saved for each in estimates(pipeline).values() if each.work} == {2, 8, 4}


def test_the_first_run(new_pipeline: ToyPipeline) -> None:
    """Before the first run the number of users is known, the number of rows is not, and nothing is saved."""
    estimated = estimates(new_pipeline, "ann", "cem", "dan")
    assert {name: numbers(each) for name, each in estimated.items()} == {
        "letters": (2, 2, 3, 3, 3, 3),
        "words": (2, 2, 3, 3, None, 0),
        "pages": (2, 2, 3, 3, 3, 3),
        "changes": (2, 2, 3, 3, None, 0),
        "shelf": (2, 2, 3, 3, None, 3),
    }
    assert {each.n_units_saved for each in estimated.values() if each.work} == {0}


def test_reasons_are_counted_by_shard(pipeline: ToyPipeline) -> None:
    """An asset whose shards run for several reasons has the number of shards of each."""
    pipeline.shards.set_aside(pipeline.graph["words"], 0)
    pipeline.graph = graph(words="2")
    assert estimates(pipeline)["words"].reasons == {"missing": 1, "code": 1}


def test_exact_work_is_timed_by_unit(pipeline: ToyPipeline) -> None:
    """Exact work is estimated by the seconds of a unit."""
    pipeline.graph = graph(words="2")
    words = estimates(pipeline, throughput={"texts_embedded": Throughput(0.5, 100.0, 100.0)})["words"]
    assert (words.seconds, words.n_likely) == (4 * 0.5, None)


def test_bounds_are_timed_by_observed_user(pipeline: ToyPipeline) -> None:
    """Work that depends on an observation is estimated by the seconds of an observed user, not by its bound."""
    units = ("calls", "changes_read", "texts_embedded", "pages_printed")
    estimated = estimates(pipeline, "ann", "cem", "dan", throughput=dict.fromkeys(units, Throughput(10.0, 0.25, 0.5)))
    assert {name: each.seconds for name, each in estimated.items()} == {
        "letters": 3 * 10.0,
        "words": 3 * 0.25,
        "pages": 3 * 0.25,
        "changes": 3 * 0.25,
        "shelf": None,
    }
    assert estimated["letters"].n_likely is None
    assert estimated["pages"].n_likely == round(3 * 0.5)


def test_observations_are_counted_by_user(pipeline: ToyPipeline) -> None:
    """A user is observed once, however many rows a source has for them."""
    for _ in range(1000):
        pipeline.post_office.write("ann", "l1", "hello")
    pipeline.run()
    assert (
        estimates(pipeline, "ann", throughput={"pages_printed": Throughput(None, 0.25, None)})["pages"].seconds
        == 0.25
    )


def test_certain_work_is_a_lower_bound_of_the_time(pipeline: ToyPipeline) -> None:
    """Work that does not depend on an observation is the least that is expected, in units and in time."""
    pipeline.graph = graph(pages="2")
    throughput = {"pages_printed": Throughput(10.0, 0.25, 0.5)}
    pages = estimates(pipeline, "ann", throughput=throughput)["pages"]
    assert (pages.is_upper_bound, pages.seconds, pages.n_likely) == (True, 2 * 10.0, 2)


def test_the_likely_work_is_within_the_bound(pipeline: ToyPipeline) -> None:
    """The likely number of units is never greater than the upper bound."""
    pages = estimates(pipeline, "ann", throughput={"pages_printed": Throughput(None, 1.0, 20.0)})["pages"]
    assert (pages.n_units, pages.n_likely) == (1, 1)


@pytest.mark.parametrize(
    "throughput",
    [{}, {"calls": Throughput(None, None, None)}, {"pages_printed": Throughput(None, 1.0, None)}],
)
def test_no_estimate_without_past_runs(pipeline: ToyPipeline, throughput: dict[str, Throughput]) -> None:
    """Work without past runs has no estimate of its time, rather than zero."""
    assert estimates(pipeline, "ann", throughput=throughput)["letters"].seconds is None


def test_all_units_are_a_bound_of_the_time(pipeline: ToyPipeline) -> None:
    """Without experience of changes the time of all units is an upper bound, and no number of units is likely."""
    pages = estimates(pipeline, "ann", throughput={"pages_printed": Throughput(2.0, None, None)})["pages"]
    assert (pages.seconds, pages.seconds_are_upper_bound, pages.n_likely) == (2.0, True, None)


def test_only_the_given_assets_are_estimated(pipeline: ToyPipeline) -> None:
    """The given assets are estimated in their order, even if the plan has more."""
    planner = pipeline.planner
    plan = planner.plan(pipeline.graph, pipeline.request("ann"))
    chosen = [pipeline.graph["pages"], pipeline.graph["letters"]]
    assert [each.asset for each in estimate(plan, planner, chosen, {})] == ["pages", "letters"]


def test_an_unreadable_file_is_estimated(pipeline: ToyPipeline) -> None:
    """An unreadable file counts as a shard to run without known users."""
    Path(pipeline.shards.path("pages", 1)).write_bytes(b"nothing")
    pages = estimates(pipeline)["pages"]
    assert (pages.reasons, numbers(pages)[:4]) == ({"unreadable": 1}, (1, 2, 0, 1))


def test_a_run_is_within_its_estimate(pipeline: ToyPipeline) -> None:
    """A run computes exactly the users of exact estimates, and no more than the upper bound of others."""
    for letter_id in ("l1", "l2"):
        pipeline.post_office.write("cem", letter_id, "something new today")
    pipeline.graph = graph(pages="2")
    estimated = estimates(pipeline, *pipeline.users)
    n_computed = dict.fromkeys(estimated, 0)
    for result in pipeline.run():
        n_computed[result.asset] += result.n_users_computed
    exact = {name: n for name, n in n_computed.items() if not estimated[name].is_upper_bound}
    assert exact == {"letters": 3, "changes": 3} == {name: estimated[name].n_users for name in exact}
    assert all(n_computed[name] <= each.n_users for name, each in estimated.items())
    assert n_computed["words"] == 1
