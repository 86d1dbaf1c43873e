from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toy import LETTERS, NOON, WORDS, Model, PostOffice, Row, ToyPipeline, reader, shelf, toy_graph

from assets.engine.asset import Asset, CurrentUsers, DueUsers, Output, RowDigests, Users, asset
from assets.engine.checks import ShardUnderCheck, changed_users_under
from assets.engine.errors import (
    AssetError,
    CheckFailed,
    GraphError,
    SchemaError,
    ShardFailure,
    ShardsFailed,
    ShardUnreadable,
    failure_lines,
)
from assets.engine.graph import Graph
from assets.engine.hashing import shard_of
from assets.engine.materialize import materialize
from assets.engine.parquet import Shards
from assets.engine.plan import PlannedShard, Planner, build_request
from assets.engine.results import ShardResult

DAY = timedelta(days=1)
VECTORS = pa.schema([("user_id", pa.string()), ("vector", pa.list_(pa.float16()))])


class Died(Exception):
    """The process died."""


def by_asset(results: list[ShardResult]) -> dict[str, ShardResult]:
    """Return the only result of each asset."""
    assert len({result.asset for result in results}) == len(results)
    return {result.asset: result for result in results}


@pytest.fixture
def pipeline(tmp_path: Path) -> ToyPipeline:
    """Ann, bob and cem with one letter each in one shard, after a run."""
    pipeline = ToyPipeline(str(tmp_path))
    for user in ("ann", "bob", "cem"):
        pipeline.post_office.write(user, "l1", f"a word of {user}")
    pipeline.run()
    return pipeline


@pytest.fixture
def four_shards(tmp_path: Path) -> ToyPipeline:
    """Nine users in four shards, after a run."""
    pipeline = ToyPipeline(str(tmp_path), n_shards=4)
    for number in range(9):
        pipeline.post_office.write(f"user-{number}", "l1", "hello")
    pipeline.run()
    return pipeline


def pipeline_of_ann(*assets: str | Asset, text: str = "hello") -> ToyPipeline:
    """Return a pipeline of some toy assets and others, in memory, after a run for ann with one letter."""
    pipeline = ToyPipeline()
    pipeline.use(*assets)
    pipeline.post_office.write("ann", "l1", text)
    pipeline.run()
    return pipeline


# The output of a run


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_a_first_run_materializes_everything(tmp_path: Path, scheme: str) -> None:
    """A first run fills every asset, under a folder or any fsspec URL, and a second run changes nothing."""
    pipeline = ToyPipeline(f"{scheme}{tmp_path}", n_shards=2)
    for user in ("ann", "cem"):
        pipeline.post_office.write(user, "l1", "two words")
    assert [(result.asset, result.shard, result.reason) for result in pipeline.run()] == [
        ("letters", 0, "observe"),
        ("letters", 1, "observe"),
        ("words", 0, "missing"),
        ("words", 1, "missing"),
        ("pages", 0, "missing"),
        ("pages", 1, "missing"),
    ]
    assert [row["page"] for row in pipeline.rows("pages")] == ["1|l1:2:2.0:open"] * 2
    files = pipeline.files()
    pipeline.run()
    assert pipeline.files() == files
    assert len(files) == 7  # with the layout of the root


def test_footers_carry_versions_and_counts(pipeline: ToyPipeline) -> None:
    """A footer holds the recipe, the versions of the inputs, the counts and the expiry of its shard."""
    pipeline.post_office.write("ann", "l2", "later", opens_at=NOON + DAY)
    pipeline.post_office.write("bob", "l1", "")
    pipeline.run()
    letters, words, pages = (pipeline.footer(name) for name in ("letters", "words", "pages"))
    assert (letters.recipe, letters.inputs) == ({"code": "1"}, {})
    assert words.recipe == {"code": "1", "resource model": "1"}
    assert words.inputs == {"letters": letters.edge_version(["user_id", "letter_id", "text"])}
    assert pages.inputs == {
        "letters": letters.edge_version(["user_id", "letter_id", "opens_at"]),
        "words": words.edge_version(WORDS.names),
    }
    assert set(words.columns) == {"user_id", "letter_id", "n_words"}
    assert [(footer.n_rows, footer.n_users) for footer in (letters, words, pages)] == [(4, 3), (3, 3), (3, 3)]
    assert (words.valid_until, pages.valid_until) == (None, NOON + DAY)
    assert dict(zip(words.index.users, words.index.n_rows, strict=True)) == {"ann": 2, "bob": 0, "cem": 1}
    assert [(each.asset, each.shard, each.n_shards) for each in (words, pages)] == [("words", 0, 1), ("pages", 0, 1)]


def test_each_user_is_in_their_shard(four_shards: ToyPipeline) -> None:
    """Every asset stores a user's rows in the shard of their hash, and in no other."""
    for each in four_shards.graph:
        for shard in range(4):
            with four_shards.shards.open(each, shard) as opened:
                users = opened.read(["user_id"])["user_id"].to_pylist() if opened else []
            assert all(shard_of(user, 4) == shard for user in users)
        assert four_shards.users_in(each.name) == set(four_shards.users)


def test_a_second_run_writes_nothing(pipeline: ToyPipeline) -> None:
    """A second run over an unchanged world computes no user and writes no byte."""
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path(pipeline.root).rglob("*.parquet")}
    (letters,) = pipeline.run()
    assert (letters.asset, letters.reason, letters.changed) == ("letters", "observe", False)
    assert letters.counts == {"calls": 3, "letters_read": 0}
    assert pipeline.calls == {}
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == files
    assert len(files) == 3


# The users computed


def test_only_changed_users_are_computed(pipeline: ToyPipeline) -> None:
    """An asset's function is called for the users whose inputs changed, and for no others."""
    pipeline.post_office.write("bob", "l1", "three other words")
    results = by_asset(pipeline.run())
    assert pipeline.calls == {"words": [["bob"]], "pages": [["bob"]]}
    assert {name: (result.reason, result.n_users_computed) for name, result in results.items()} == {
        "letters": ("observe", 3),
        "words": ("data", 1),
        "pages": ("data", 1),
    }
    assert results["pages"].n_users == 3


def test_rows_of_unchanged_users_are_carried_over() -> None:
    """Rows of unchanged users are not computed again: they keep the values of their first computation."""
    numbers = itertools.count(1)

    @asset(step="count", schema=WORDS, code_version="1")
    def counts(letters: Annotated[pa.Table, "user_id", "letter_id", "text"]) -> pa.Table:
        number = next(numbers)
        rows = [{**row, "n_words": number, "vector": [number / 3]} for row in letters.to_pylist()]
        return pa.Table.from_pylist(rows, schema=WORDS)

    pipeline = ToyPipeline()
    pipeline.use("letters", counts)
    for user in ("ann", "bob", "cem"):
        pipeline.post_office.write(user, "l1", "hello")
    pipeline.run()
    first = {row["user_id"]: row for row in pipeline.rows("counts")}
    pipeline.post_office.write("bob", "l1", "good bye")
    pipeline.run()
    second = {row["user_id"]: row for row in pipeline.rows("counts")}
    assert {user: row["n_words"] for user, row in second.items()} == {"ann": 1, "bob": 2, "cem": 1}
    assert (second["ann"], second["cem"]) == (first["ann"], first["cem"])


def test_a_column_that_is_not_read_computes_no_user(pipeline: ToyPipeline) -> None:
    """A change in a column without readers rewrites its own asset and no other."""
    pipeline.post_office.write("ann", "l1", "a word of ann", labels=["red"])
    (letters,) = pipeline.run()
    assert (letters.asset, letters.changed) == ("letters", True)
    assert pipeline.calls == {}


def test_equal_rows_are_no_change(pipeline: ToyPipeline) -> None:
    """A computation with the same rows as before leaves its asset, and the assets that read it, unchanged."""
    pipeline.post_office.write("ann", "l1", "the word of ann")
    results = by_asset(pipeline.run())
    assert (results["words"].n_users_computed, results["words"].changed) == (1, False)
    assert not results["pages"].changed


def test_equal_rows_do_not_run_readers_of_versioned_columns() -> None:
    """After a computation with the same rows, an asset that reads no opaque column of it does not run."""
    pipeline = pipeline_of_ann(
        "letters", "words", reader("counts", "words", schema=WORDS.remove(3)), text="two words"
    )
    pipeline.post_office.write("ann", "l1", "other words")
    changed = {name: result.changed for name, result in by_asset(pipeline.run()).items()}
    assert changed == {"letters": True, "words": False}
    pipeline.model.version = "2"
    changed = {name: result.changed for name, result in by_asset(pipeline.run()).items()}
    assert changed == {"letters": False, "words": False}


def test_users_without_rows_are_not_computed_again(pipeline: ToyPipeline) -> None:
    """A user without rows is stored in the index, and computed again only if their inputs change."""
    pipeline.post_office.write("bob", "l1", "")
    pipeline.run()
    assert pipeline.users_in("words") == {"ann", "cem"}
    pipeline.post_office.write("ann", "l1", "only ann")
    results = by_asset(pipeline.run())
    assert pipeline.calls["words"] == [["ann"]]
    assert results["words"].n_users == 3
    pipeline.post_office.write("bob", "l1", "back again")
    pipeline.run()
    assert pipeline.calls["words"] == [["bob"]]
    assert pipeline.users_in("words") == {"ann", "bob", "cem"}


def test_removed_users_are_removed_from_every_asset(pipeline: ToyPipeline) -> None:
    """A user removed from the inputs loses all rows, without any computation."""
    pipeline.post_office.leave("bob")
    results = by_asset(pipeline.run())
    assert [pipeline.users_in(name) for name in results] == [{"ann", "cem"}] * 3
    assert pipeline.calls == {}
    assert results["pages"].n_users == 2


def test_removed_users_without_rows_leave_the_index(pipeline: ToyPipeline) -> None:
    """A user without rows leaves the index once they are removed from the inputs."""
    pipeline.post_office.write("bob", "l1", "")
    pipeline.run()
    pipeline.post_office.leave("bob")
    pipeline.run()
    assert pipeline.footer("words").index.users == ("ann", "cem")


def test_a_shard_can_lose_all_of_its_users(pipeline: ToyPipeline) -> None:
    """Observing a shard after its last user left empties every asset; observing an empty shard changes nothing."""
    for user in ("ann", "bob", "cem"):
        pipeline.post_office.leave(user)
    pipeline.run(only_shards=[0])
    assert [pipeline.users_in(each.name) for each in pipeline.graph] == [set()] * 3
    assert pipeline.run(only_shards=[0])[0].changed is False


def test_a_new_user_is_computed_alone(pipeline: ToyPipeline) -> None:
    """A new user is computed without the existing ones."""
    pipeline.post_office.write("dan", "l1", "hello")
    pipeline.run()
    assert pipeline.calls == {"words": [["dan"]], "pages": [["dan"]]}
    assert pipeline.users_in("pages") == {"ann", "bob", "cem", "dan"}


def test_new_code_computes_all_users(pipeline: ToyPipeline) -> None:
    """A raised code_version computes all users of its asset, and the next asset's users whose rows changed by it."""
    pipeline.graph = toy_graph(words="2")
    results = by_asset(pipeline.run())
    assert (results["words"].reason, results["pages"].reason) == ("code", "data")
    assert pipeline.calls == {"words": [["ann", "bob", "cem"]], "pages": [["ann", "bob", "cem"]]}
    assert {row["n_words"] for row in pipeline.rows("words")} == {8}


def test_a_different_model_computes_readers_of_opaque_columns(pipeline: ToyPipeline) -> None:
    """A different model changes no versioned column of its asset, but readers of the opaque one compute all users."""
    pipeline.model.version = "2"
    results = by_asset(pipeline.run())
    assert (results["words"].reason, results["words"].changed) == ("model", False)
    assert pipeline.calls["pages"] == [["ann", "bob", "cem"]]
    assert {row["page"] for row in pipeline.rows("pages")} == {"1|l1:4:8.0:open"}
    pipeline.run()
    assert pipeline.calls == {}


def test_the_values_of_an_opaque_column_are_no_change() -> None:
    """Vectors that differ in their last bit neither rewrite their shard nor make a reader stale."""
    noise = itertools.count()

    @asset(step="embed", schema=WORDS, code_version="1", opaque=("vector",))
    def words(letters: Annotated[pa.Table, "user_id", "letter_id"]) -> pa.Table:
        rows = [{**row, "n_words": 1, "vector": [1 + next(noise) / 1024]} for row in letters.to_pylist()]
        return pa.Table.from_pylist(rows, schema=WORDS)

    pipeline = pipeline_of_ann("letters", words, "pages")
    files = pipeline.files()
    forced = by_asset(pipeline.run(select=["words"], force=True))
    assert (forced["words"].n_users_computed, forced["words"].changed) == (1, False)
    assert pipeline.files() == files
    assert pipeline.plans() == {}


def test_a_model_reaches_readers_through_two_opaque_columns() -> None:
    """An opaque column computed from another opaque column changes with the model of that one."""

    @asset(step="embed", schema=VECTORS, code_version="1", opaque=("vector",))
    def halves(words: Annotated[pa.Table, "user_id", "vector"]) -> pa.Table:
        return pa.table([words["user_id"], [[n / 2 for n in row] for row in words["vector"].to_pylist()]], VECTORS)

    pipeline = pipeline_of_ann("letters", "words", halves, reader("copies", "halves", schema=VECTORS))
    pipeline.model.version = "4"
    pipeline.run()
    assert pipeline.rows("halves") == pipeline.rows("copies") == [{"user_id": "ann", "vector": [2.0]}]


@asset(step="fetch", schema=VECTORS, code_version="1", opaque=("vector",))
def model_versions(previous: pa.Table, users: Users, model: Model) -> pa.Table:
    """The model that each user was last observed with: a source with an opaque column."""
    kept = [row for row in previous.to_pylist() if row["user_id"] not in users]
    rows = [{"user_id": user, "vector": [int(model.version)]} for user in users]
    return pa.Table.from_pylist([*kept, *rows], schema=VECTORS)


def test_a_model_of_a_source_reaches_readers() -> None:
    """Readers of a source's opaque column are computed again for users observed with a different model."""
    pipeline = ToyPipeline()
    pipeline.use(model_versions, reader("copies", "model_versions", schema=VECTORS))
    pipeline.run(users=dict.fromkeys(["ann", "bob"], NOON))
    pipeline.model.version = "2"
    for user in ("ann", "bob"):
        results = by_asset(pipeline.run(users={user: NOON}))
        assert results["copies"].n_users_computed == 1
        assert pipeline.rows("model_versions") == pipeline.rows("copies")
    assert pipeline.rows("copies", "vector") == [{"vector": [2.0]}] * 2


def test_an_opaque_column_changes_with_columns_that_are_not_read() -> None:
    """A reader of only an opaque column is computed when the columns change that the opaque one follows from."""
    pipeline = pipeline_of_ann("letters", "words", reader("copies", "words", schema=VECTORS), text="one")
    pipeline.post_office.write("ann", "l1", "one two three")
    pipeline.run()
    assert pipeline.rows("copies") == [{"user_id": "ann", "vector": [3.0]}]


def test_a_model_tried_on_one_user_can_be_reverted(pipeline: ToyPipeline) -> None:
    """A model that was tried on one user and reverted leaves no trace in its asset and in the readers."""

    def of_ann(name: str, column: str) -> list[Any]:
        return [row[column] for row in pipeline.rows(name) if row["user_id"] == "ann"]

    pipeline.model.version = "2"
    pipeline.post_office.write("ann", "l1", "hello")
    pipeline.run(only_users=["ann"])
    assert of_ann("pages", "page") == ["1|l1:1:2.0:open"]
    pipeline.model.version = "1"
    pipeline.run()
    assert of_ann("words", "vector") == [[1.0]]
    assert of_ann("pages", "page") == ["1|l1:1:1.0:open"]


def test_a_model_can_reach_users_one_by_one(pipeline: ToyPipeline) -> None:
    """Readers of an opaque column are computed again for each user as soon as the new model has reached them."""
    pipeline.model.version = "2"
    pipeline.run(select=["words"], only_users=["ann"])
    pipeline.run(select=["pages"])
    pipeline.run()
    assert pipeline.rows("words", "vector") == [{"vector": [8.0]}] * 3
    assert {row["page"] for row in pipeline.rows("pages")} == {"1|l1:4:8.0:open"}


def test_an_expired_row_is_computed_again(pipeline: ToyPipeline) -> None:
    """A row is computed again at the instant in valid_until, without any other row and any change of inputs."""
    pipeline.post_office.write("ann", "l1", "hello", opens_at=NOON + DAY)
    pipeline.post_office.write("bob", "l1", "hello", opens_at=NOON + 2 * DAY)
    pipeline.run()
    pipeline.now = NOON + DAY - timedelta(microseconds=1)
    assert [result.asset for result in pipeline.run()] == ["letters"]
    pipeline.now = NOON + DAY
    results = by_asset(pipeline.run())
    assert (results["pages"].reason, pipeline.calls["pages"]) == ("expired", [["ann"]])
    assert {row["user_id"]: row["valid_until"] for row in pipeline.rows("pages")} == {
        "ann": None,
        "bob": NOON + 2 * DAY,
        "cem": None,
    }
    assert pipeline.footer("pages").valid_until == NOON + 2 * DAY


# Options of a run


def test_force_computes_all_users(pipeline: ToyPipeline) -> None:
    """A forced asset computes every user although nothing changed, and ends in the same bytes."""
    files = pipeline.files()
    results = by_asset(pipeline.run(select=["pages"], force=True))
    assert (results["pages"].reason, results["pages"].n_users_computed, results["pages"].changed) == (
        "forced",
        3,
        False,
    )
    assert pipeline.calls == {"pages": [["ann", "bob", "cem"]]}
    assert pipeline.files() == files


def test_force_without_an_input_keeps_the_rows(pipeline: ToyPipeline) -> None:
    """A forced asset without its input file keeps its rows, because they could not be computed again."""
    pipeline.shards.set_aside(pipeline.graph["letters"], 0)
    pipeline.run(select=["words"], force=True)
    assert pipeline.users_in("words") == {"ann", "bob", "cem"}


@pytest.mark.parametrize(
    ("select", "expected"),
    [(["words"], ["words"]), (["+words"], ["letters", "words"]), (["words+"], ["words", "pages"]), ([], [])],
)
def test_only_selected_assets_run(pipeline: ToyPipeline, select: list[str], expected: list[str]) -> None:
    """A run of selected assets runs no other asset, even if others are stale."""
    pipeline.post_office.write("ann", "l1", "something new today")
    pipeline.run(select=["letters"])
    pipeline.graph = toy_graph(words="2", pages="2")
    assert [result.asset for result in pipeline.run(select=select)] == expected


def test_a_misspelt_selection_is_refused(pipeline: ToyPipeline) -> None:
    """A selection of an unknown asset is refused before anything runs."""
    files = pipeline.files()
    pipeline.post_office.write("ann", "l1", "something new today")
    with pytest.raises(GraphError, match="Did you mean 'pages'"):
        pipeline.run(select=["letters", "pagse"], force=True)
    assert pipeline.files() == files


@pytest.mark.parametrize("collection", [list, iter])
def test_only_some_shards_run(four_shards: ToyPipeline, collection: Any) -> None:
    """A run of some shards leaves the others to the next run."""
    for user in list(four_shards.users):
        four_shards.post_office.write(user, "l2", "news")
    results = four_shards.run(only_shards=collection([2, 1]))
    assert [(result.asset, result.shard) for result in results] == [
        (name, shard) for name in ("letters", "words", "pages") for shard in (1, 2)
    ]
    changed = {row["user_id"] for row in four_shards.rows("letters") if row["letter_id"] == "l2"}
    assert changed == {user for user in four_shards.users if shard_of(user, 4) in (1, 2)}
    four_shards.run()
    assert {row["page"] for row in four_shards.rows("pages")} == {"1|l1:1:1.0:open l2:1:1.0:open"}


def test_only_some_users_are_computed(four_shards: ToyPipeline) -> None:
    """A run for one user observes and computes that user alone; the next run computes the others."""
    for user in list(four_shards.users):
        four_shards.post_office.write(user, "l2", "news")
    four_shards.run(select=["letters"])
    results = by_asset(four_shards.run(only_users=["user-5"]))
    assert {result.shard for result in results.values()} == {shard_of("user-5", 4)}
    assert results["letters"].n_users_computed == 1
    assert four_shards.calls == {"words": [["user-5"]], "pages": [["user-5"]]}
    assert {row["user_id"] for row in four_shards.rows("words") if row["letter_id"] == "l2"} == {"user-5"}
    assert four_shards.plans()["words"] == dict.fromkeys(range(4), "data")
    four_shards.run()
    assert sorted(itertools.chain(*four_shards.calls["words"])) == sorted(four_shards.users.keys() - {"user-5"})
    assert {row["page"] for row in four_shards.rows("pages")} == {"1|l1:1:1.0:open l2:1:1.0:open"}
    assert four_shards.plans() == {}


def test_new_code_can_be_tried_on_one_user(pipeline: ToyPipeline) -> None:
    """New code that was tried on one user stays due for the others, and does not compute that user again."""
    pipeline.graph = toy_graph(words="3")
    pipeline.run(only_users=["bob"])
    assert {row["user_id"]: row["n_words"] for row in pipeline.rows("words")} == {"ann": 4, "bob": 12, "cem": 4}
    assert pipeline.plans()["words"] == {0: "code"}
    pipeline.run()
    assert pipeline.calls["words"] == [["ann", "cem"]]
    assert {row["n_words"] for row in pipeline.rows("words")} == {12}


def test_a_run_for_an_unchanged_user_computes_no_user(pipeline: ToyPipeline) -> None:
    """A run for an unchanged user leaves the shard as stale as it was."""
    pipeline.post_office.write("ann", "l1", "something new today")
    pipeline.run(select=["letters"])
    pipeline.run(only_users=["bob"])
    assert pipeline.calls == {}
    assert pipeline.plans() == {"words": {0: "data"}}
    pipeline.run()
    assert pipeline.calls["words"] == [["ann"]]


def test_a_run_for_one_user_does_not_hide_removed_users(pipeline: ToyPipeline) -> None:
    """A removed user disappears with the next run, even after a run for another user alone."""
    pipeline.post_office.leave("bob")
    pipeline.run(select=["letters"])
    pipeline.run(only_users=["ann"])
    pipeline.run()
    assert [pipeline.users_in(each.name) for each in pipeline.graph] == [{"ann", "cem"}] * 3


def test_a_run_for_a_removed_user_removes_the_rows(pipeline: ToyPipeline) -> None:
    """A run for a removed user alone removes their rows."""
    pipeline.post_office.leave("bob")
    pipeline.run(select=["letters"])
    pipeline.run(only_users=["bob"])
    assert pipeline.users_in("pages") == {"ann", "cem"}


def test_readers_that_observe_stay_stale_for_the_other_users() -> None:
    """After a run for one user, an asset that reads others and observes is still due for the other users."""
    pipeline = ToyPipeline(graph=toy_graph(shelf))
    for text in ("hello", "hello again"):
        for user in ("ann", "bob"):
            pipeline.post_office.write(user, "l1", text)
        pipeline.run(select=None if text == "hello" else ["+pages"])
    pipeline.run(only_users=["ann"], select=["shelf"])
    assert pipeline.calls == {"shelf": [["ann"]]}
    assert pipeline.plans() == {"shelf": {0: "data"}}
    (entry,) = pipeline.plan(select=["shelf"])
    assert entry.workload.users == {"bob"}


# Failures


def test_a_refused_shard_stays_as_it_was(pipeline: ToyPipeline) -> None:
    """A check that refuses a shard leaves its bytes, skips `after_write` and the assets that read it."""
    files = pipeline.files()
    confirmed = dict(pipeline.post_office.confirmed)
    pipeline.graph = toy_graph(
        checks={"letters": lambda shard: "too red" if ["red"] in shard.table["labels"].to_pylist() else None}
    )
    pipeline.post_office.write("ann", "l1", "hello", labels=["red"])
    with pytest.raises(CheckFailed, match=r"^letters, shard 0: too red\. The shard's file stays as it was\."):
        pipeline.run()
    assert pipeline.files() == files
    assert pipeline.post_office.confirmed == confirmed
    assert pipeline.calls == {}


def test_a_failed_shard_holds_up_no_other(tmp_path: Path) -> None:
    """A shard that cannot be read is passed over with the assets that read it in this shard, and named at the end."""
    pipeline = ToyPipeline(str(tmp_path), n_shards=3)
    users = {shard: next(user for user in map(str, range(99)) if shard_of(user, 3) == shard) for shard in range(3)}
    for user in users.values():
        pipeline.post_office.write(user, "l1", "hello")
    pipeline.run()
    for user in users.values():
        pipeline.post_office.write(user, "l2", "good day to you")
    Path(pipeline.shards.path("words", 1)).write_bytes(b"rotten")
    with pytest.raises(ShardUnreadable, match="python -m assets rebuild words --shard 1"):
        pipeline.run()
    assert {(row["user_id"], row["letter_id"]) for row in pipeline.rows("letters")} == {
        (user, letter) for user in users.values() for letter in ("l1", "l2")
    }
    pages = {row["user_id"]: row["page"] for row in pipeline.rows("pages")}
    assert [shard for shard, user in users.items() if "l2" in pages[user]] == [0, 2]
    pipeline.shards.set_aside(pipeline.graph["words"], 1)
    pipeline.run()
    assert all("l2" in row["page"] for row in pipeline.rows("pages"))


def test_several_failed_shards_are_all_named(tmp_path: Path) -> None:
    """Several failures are raised together, each error once; a caller that asks for them receives them instead."""
    pipeline = ToyPipeline(str(tmp_path), n_shards=2, graph=toy_graph(checks={"words": lambda _: "not today"}))
    for user in map(str, range(6)):
        pipeline.post_office.write(user, "l1", "hello")
    with pytest.raises(ShardsFailed, match=r"(?s)^words, shard 0: words, shard 0: not today.*\nwords, shard 1: "):
        pipeline.run()
    failures: list[ShardFailure] = []
    plan = pipeline.plan()
    list(
        materialize(plan, pipeline.graph, pipeline.shards, resources=pipeline.resources, now=NOON, failures=failures)
    )
    assert [(each.asset, each.shard, type(each.error)) for each in failures] == [
        ("words", 0, CheckFailed),
        ("words", 1, CheckFailed),
    ]
    same = [ShardFailure("letters", shard, OSError("no space left")) for shard in range(3)]
    assert failure_lines(same) == ["letters, shard 0 and 2 more: no space left"]


def test_an_interrupt_ends_the_run(pipeline: ToyPipeline) -> None:
    """Ctrl-C is no failure of a shard: it ends the run at once."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    pipeline.post_office.before_confirm = interrupt
    with pytest.raises(KeyboardInterrupt):
        pipeline.run()
    assert pipeline.calls == {}


def test_a_refused_shard_is_tried_again(pipeline: ToyPipeline) -> None:
    """A refused shard stays stale, and is materialized once the check passes."""
    pipeline.post_office.write("ann", "l1", "something new today")
    pipeline.graph = toy_graph(checks={"words": lambda _: "not today"})
    for _ in range(2):
        with pytest.raises(CheckFailed, match="words, shard 0: not today"):
            pipeline.run()
    pipeline.graph = toy_graph()
    results = by_asset(pipeline.run())
    assert (results["words"].reason, pipeline.calls["words"]) == ("data", [["ann"]])


def test_a_check_sees_the_whole_shard(pipeline: ToyPipeline) -> None:
    """A check sees all rows with the ones carried over, the inputs, and the number of users changed."""
    seen: list[ShardUnderCheck] = []

    def inspect(shard: ShardUnderCheck) -> None:
        assert len(shard.inputs["letters"]) == 4
        assert set(shard.inputs) == {"letters"}
        seen.append(shard)

    pipeline.graph = toy_graph(checks={"words": inspect})
    pipeline.post_office.write("ann", "l2", "another")
    pipeline.run()
    (shard,) = seen
    assert len(shard.table) == 4
    assert (shard.n_users, shard.n_users_computed, shard.is_full_rebuild) == (3, 1, False)


def test_the_first_run_of_a_shard_is_a_full_rebuild() -> None:
    """A check sees the first run of a shard, in which every user is new, as a full rebuild."""
    seen: list[bool] = []
    pipeline = ToyPipeline(graph=toy_graph(checks={"pages": lambda shard: seen.append(shard.is_full_rebuild)}))
    for text in ("hello", "hello again"):
        pipeline.post_office.write("ann", "l1", text)
        pipeline.run()
    assert seen == [True, False]


def test_new_code_is_a_full_rebuild() -> None:
    """A limit on the share of changed users does not refuse new code, which changes all users."""
    checks = {"pages": changed_users_under(0.5)}
    pipeline = ToyPipeline(graph=toy_graph(checks=checks))
    for number in range(30):
        pipeline.post_office.write(f"user-{number}", "l1", "hello")
    pipeline.run()
    pipeline.graph = toy_graph(checks=checks, pages="2")
    pipeline.run()
    assert {row["page"] for row in pipeline.rows("pages")} == {"2|l1:1:1.0:open"}


def test_after_write_sees_the_new_file(pipeline: ToyPipeline) -> None:
    """The new file can be read when `after_write` is called."""
    seen: list[list[str]] = []
    pipeline.post_office.before_confirm = lambda: seen.append([row["text"] for row in pipeline.rows("letters")])
    pipeline.post_office.write("ann", "l1", "brand new")
    pipeline.run()
    assert seen == [["brand new", "a word of bob", "a word of cem"]]


def test_after_write_is_called_for_an_unchanged_shard(pipeline: ToyPipeline) -> None:
    """An observation without changes writes no file, but `after_write` is called."""
    pipeline.post_office.confirmed.clear()
    assert pipeline.run()[0].changed is False
    assert pipeline.post_office.confirmed == {"ann": 1, "bob": 1, "cem": 1}


def die() -> None:
    raise Died


def test_a_run_that_died_before_after_write(pipeline: ToyPipeline) -> None:
    """A run that died before it confirmed its position reads the same changes again and ends in the same rows."""
    pipeline.post_office.write("ann", "l2", "another")
    pipeline.post_office.discard("bob", "l1")
    pipeline.post_office.before_confirm = die
    with pytest.raises(Died):
        pipeline.run()
    rows = pipeline.rows("letters")
    assert [(row["user_id"], row["letter_id"]) for row in rows] == [("ann", "l1"), ("ann", "l2"), ("cem", "l1")]
    pipeline.post_office.before_confirm = lambda: None
    assert pipeline.run()[0].counts["letters_read"] == 3
    assert pipeline.rows("letters") == rows
    assert pipeline.users_in("pages") == {"ann", "cem"}


def test_rows_of_another_time_are_noticed() -> None:
    """An asset sees the digests of the rows that it is given; they differ from those saved for a restored file."""
    saved, seen = list[RowDigests](), list[RowDigests]()

    @asset(step="fetch", schema=LETTERS, code_version="1")
    def letters(previous: pa.Table, previous_digests: RowDigests, users: Users, post_office: PostOffice) -> Output:
        seen.append(previous_digests)
        rows = [
            {"user_id": user, "letter_id": letter_id, **letter}
            for user in sorted(users)
            for letter_id, letter in dict(post_office.changes[user]).items()
            if letter
        ]
        return Output(pa.Table.from_pylist(rows, schema=LETTERS), after_write=saved.append)

    pipeline = ToyPipeline(graph=Graph.from_assets([letters]))
    for user in ("ann", "bob"):
        pipeline.post_office.write(user, "l1", "hello")
    pipeline.run()
    first = pipeline.files()
    pipeline.post_office.write("ann", "l2", "again")
    pipeline.run()
    assert seen == [{}, saved[0]]
    assert saved[0].keys() == saved[1].keys() == {"ann", "bob"}
    assert (saved[0]["bob"], saved[0]["ann"] == saved[1]["ann"]) == (saved[1]["bob"], False)
    filesystem, _ = fsspec.core.url_to_fs(pipeline.root)
    for path, content in first.items():
        filesystem.pipe_file(path, content)
    pipeline.run()
    assert seen[2] == saved[0]
    assert saved[2] == saved[1]


@pytest.mark.parametrize(
    ("due", "options", "expected"),
    [
        (None, {}, {"ann", "bob"}),
        (frozenset({"bob", "eve"}), {}, {"bob"}),
        (frozenset({"bob"}), {"force": True}, {"ann", "bob"}),
    ],
)
def test_users_who_are_due(due: frozenset[str] | None, options: dict[str, Any], expected: set[str]) -> None:
    """An observing asset learns which of its users are due: all of them, unless the request names some."""
    seen = list[set[str]]()

    @asset(step="fetch", schema=LETTERS, code_version="1")
    def letters(users: Users, due_users: DueUsers) -> pa.Table:
        seen.append(set(due_users))
        return pa.Table.from_pylist([{"user_id": user, "letter_id": "l1"} for user in users], schema=LETTERS)

    graph = Graph.from_assets([letters])
    shards = Shards(f"memory://{uuid4()}", 1)
    request = replace(build_request(1, dict.fromkeys(("ann", "bob"), NOON), **options), due=due)
    plan = Planner(graph, shards, {}, NOON).plan(graph, request)
    list(materialize(plan, graph, shards, resources={}, now=NOON))
    assert seen == [expected]


def test_rows_that_are_current() -> None:
    """A source learns whose rows its present code made; a forced run makes all of them again."""
    seen = list[set[str]]()

    def source(code_version: str) -> Graph:
        @asset(step="fetch", schema=LETTERS, code_version=code_version)
        def letters(current_users: CurrentUsers, users: Users) -> pa.Table:
            seen.append(set(current_users))
            return pa.Table.from_pylist([{"user_id": user, "letter_id": "l1"} for user in users], schema=LETTERS)

        return Graph.from_assets([letters])

    pipeline = ToyPipeline(graph=source("1"))
    for user in ("ann", "bob"):
        pipeline.post_office.write(user, "l1", "hello")
    pipeline.run()
    pipeline.run()
    pipeline.run(force=True)
    pipeline.graph = source("2")
    pipeline.run()
    assert seen == [set(), {"ann", "bob"}, set(), set()]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.drop_columns(["n_words"]), r"words returned no column 'n_words' \(int64\)\. Return it"),
        (
            lambda table: table.set_column(2, "n_words", table["letter_id"]),
            r"words returned 'n_words' as string.*Cast it",
        ),
        (
            lambda table: pa.concat_tables([table, WORDS.empty_table().from_pylist([{}], schema=WORDS)]),
            "words returned a row without a 'user_id'",
        ),
    ],
)
def test_a_malformed_table_is_refused(
    pipeline: ToyPipeline, spoil: Callable[[pa.Table], pa.Table], message: str
) -> None:
    """A table with a missing or mistyped column, or a row without a user, is refused, and the shard stays."""

    @asset(step="embed", schema=WORDS, code_version="2")
    def words(letters: Annotated[pa.Table, "user_id", "letter_id"]) -> pa.Table:
        rows = [{**row, "n_words": 1, "vector": [1.0]} for row in letters.to_pylist()]
        return spoil(pa.Table.from_pylist(rows, schema=WORDS))

    files = pipeline.files()
    pipeline.use("letters", words)
    with pytest.raises(SchemaError, match=message):
        pipeline.run()
    assert pipeline.files() == files


@pytest.mark.parametrize("stranger", ["zoe", "cem"])
def test_rows_of_other_users_are_refused(pipeline: ToyPipeline, stranger: str) -> None:
    """Rows of a user outside of the call are refused by user, not stored beside the user's previous rows."""

    @asset(step="embed", schema=WORDS, code_version="2")
    def words(letters: Annotated[pa.Table, "user_id", "letter_id"]) -> pa.Table:
        users = set(letters["user_id"].to_pylist())
        users |= {stranger} if users == {"ann"} else set()
        rows = [{"user_id": user, "letter_id": "l1", "n_words": 1, "vector": [1.0]} for user in users]
        return pa.Table.from_pylist(rows, schema=WORDS)

    pipeline.use("letters", words)
    pipeline.run()
    pipeline.post_office.write("ann", "l2", "hello")
    with pytest.raises(CheckFailed, match=f"words.*'{stranger}'"):
        pipeline.run()


def test_a_missing_resource_is_named(pipeline: ToyPipeline) -> None:
    """A run without a resource raises an error that names the asset and the resource."""
    with pytest.raises(AssetError, match=r"letters.*PostOffice"):
        pipeline.run(resources={Model: pipeline.model})


def test_a_broken_shard_can_be_rebuilt(pipeline: ToyPipeline) -> None:
    """A run over a broken file names the command to rebuild it; set aside, the shard gets the same rows again."""
    before = {each.name: pipeline.rows(each.name) for each in pipeline.graph}
    for each in pipeline.graph:
        path = Path(pipeline.shards.path(each.name, 0))
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ShardUnreadable, match=f"python -m assets rebuild {each.name} --shard 0"):
            pipeline.run()
        pipeline.shards.set_aside(each, 0)
        pipeline.run()
    assert {each.name: pipeline.rows(each.name) for each in pipeline.graph} == before


def test_a_different_number_of_shards_is_refused(pipeline: ToyPipeline) -> None:
    """A run with a different N_SHARDS than the root was written with is refused before it changes anything."""
    files = pipeline.files()
    pipeline.shards = Shards(pipeline.root, 2)
    with pytest.raises(ShardUnreadable, match="N_SHARDS=1, but N_SHARDS is 2 here"):
        pipeline.run()
    assert pipeline.files() == files


# Any history ends in the same tables as a single run


USERS = st.sampled_from(["ann", "bob", "cem", "dan"])
LETTER_IDS = st.sampled_from(["l1", "l2"])
EDITS = st.one_of(
    st.tuples(
        st.just("write"),
        USERS,
        LETTER_IDS,
        st.sampled_from(["", "one", "one two", "two one"]),
        st.sampled_from([None, NOON + DAY, NOON + 2 * DAY]),
        st.sampled_from([(), ("red",)]),
    ),
    st.tuples(st.just("discard"), USERS, LETTER_IDS),
    st.tuples(st.just("leave"), USERS.filter(lambda user: user != "ann")),  # at least one user stays
)
CHANGES = st.one_of(
    st.tuples(st.just("code"), st.sampled_from(["words", "pages"]), st.sampled_from(["1", "2", "3"])),
    st.tuples(st.just("model"), st.sampled_from(["1", "2"])),
    st.tuples(st.just("wait"), st.sampled_from([DAY / 2, DAY])),
)
RUNS = st.fixed_dictionaries(
    {},
    optional={
        "select": st.sampled_from([["letters"], ["words"], ["+words"], ["pages"], ["words+"]]),
        "only_users": st.lists(USERS, min_size=1, max_size=2),
        "force": st.just(value=True),
        "dies": st.just(value=True),
    },
)
"""Options of partial runs, in any combination."""

Events = list[tuple[list[tuple[Any, ...]], dict[str, Any]]]
"""Changes, each group followed by a partial run."""


class ChangingPipeline(ToyPipeline):
    """A pipeline with the letters of three users, after a run, to which changes are applied."""

    def __init__(self, n_shards: int = 1) -> None:
        MemoryFileSystem.store.clear()  # otherwise every example is slower than the one before
        super().__init__(n_shards=n_shards)
        self.code_versions: dict[str, str] = {}
        for user in ("ann", "bob", "cem"):
            self.post_office.write(user, "l1", "one")
        self.run()

    def apply(self, change: str, *details: Any) -> None:
        if change == "code":
            self.code_versions |= dict([details])
            self.graph = toy_graph(**self.code_versions)
        elif change == "model":
            (self.model.version,) = details
        elif change == "wait":
            self.now += details[0]
        else:
            getattr(self.post_office, change)(*details)

    def run_partly(self, *, dies: bool = False, **options: Any) -> None:
        if dies:
            self.post_office.before_confirm = die
        try:
            self.run(**options)
        except Died:
            assert dies
        self.post_office.before_confirm = lambda: None


def contents(pipeline: ToyPipeline) -> tuple[dict[str, list[Row]], list[Row]]:
    """Return all rows by asset, and all footers without the time of writing."""
    footers = [asdict(footer) for each in pipeline.graph for footer in pipeline.shards.footers(each)]
    rows = {each.name: pipeline.rows(each.name) for each in pipeline.graph}
    return rows, [{**footer, "materialized_at": None} for footer in footers]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.lists(st.one_of(EDITS, CHANGES), max_size=3), RUNS), min_size=1, max_size=4))
@example([([("leave", "bob")], {"only_users": ["ann"]})])
@example([([("code", "words", "2")], {"only_users": ["ann"]}), ([("code", "words", "1")], {})])
@example([([("model", "2")], {"only_users": ["ann"], "force": True}), ([("model", "1")], {})])
@example([([("model", "2")], {"select": ["words"], "only_users": ["ann"]}), ([], {"select": ["pages"]})])
@example(
    [
        ([("discard", "bob", "l1"), ("write", "bob", "l2", "one", None, ())], {"select": ["letters"]}),
        ([], {"select": ["pages"]}),
    ]
)
@example([([("write", "bob", "l1", "two words", None, "")], {"dies": True}), ([("leave", "bob")], {"dies": True})])
def test_any_history_ends_like_a_single_run(events: Events) -> None:
    """Edits, forced runs, runs for some users and runs that died end in the tables of one run over everything."""
    pipeline = ChangingPipeline()
    for changes, options in events:
        for change in changes:
            pipeline.apply(*change)
        pipeline.run_partly(**options)
    pipeline.run()
    fresh = ToyPipeline(graph=pipeline.graph)
    fresh.post_office, fresh.model, fresh.now = pipeline.post_office, pipeline.model, pipeline.now
    fresh.run()
    assert contents(pipeline) == contents(fresh)
    files = pipeline.files()
    assert {result.asset for result in pipeline.run()} == {"letters"}
    assert pipeline.files() == files


# Changed schemas


def use_noted_words(pipeline: ToyPipeline, *, nullable: bool) -> None:
    """Replace words by a new version with a column more."""
    schema = WORDS.append(pa.field("note", pa.string(), nullable=nullable))

    @asset(step="embed", schema=schema, code_version="2")
    def words(letters: Annotated[pa.Table, "user_id", "letter_id"]) -> pa.Table:
        rows = [{**row, "n_words": 1, "vector": [1.0], "note": "new"} for row in letters.to_pylist()]
        return pa.Table.from_pylist(rows, schema=schema)

    pipeline.use("letters", words)


def test_a_new_column_is_filled(pipeline: ToyPipeline) -> None:
    """A column added with a new code_version is filled by the next run; no shard has to be rebuilt."""
    use_noted_words(pipeline, nullable=True)
    pipeline.run()
    assert {row["note"] for row in pipeline.rows("words")} == {"new"}


@pytest.mark.parametrize("nullable", [True, False])
def test_a_new_column_can_be_tried_on_one_user(pipeline: ToyPipeline, nullable: bool) -> None:
    """After a run for one user a new column is null for the others, and the next run fills it."""
    use_noted_words(pipeline, nullable=nullable)
    pipeline.run(only_users=["bob"])
    assert {row["user_id"]: row["note"] for row in pipeline.rows("words")} == {"ann": None, "bob": "new", "cem": None}
    assert pipeline.plans() == {"words": {0: "code"}}
    results = by_asset(pipeline.run())
    assert results["words"].n_users_computed == 2
    assert {row["note"] for row in pipeline.rows("words")} == {"new"}
    assert pipeline.plans() == {}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.float16(), np.float16(0.5)),
        (pa.dictionary(pa.int32(), pa.string()), "red"),
        (pa.large_string(), "red"),
        (pa.binary(2), b"ab"),
        (pa.bool_(), True),
        (pa.list_(pa.float32(), 2), [1.0, 2.0]),
        (pa.list_(pa.list_(pa.string())), [["a"], None, []]),
        (pa.struct([("p", pa.int8())]), {"p": 1}),
        (pa.map_(pa.string(), pa.int8()), [("a", 1)]),
        (pa.decimal128(5, 2), 1),
    ],
    ids=str,
)
def test_a_column_can_have_any_type(kind: pa.DataType, value: object) -> None:
    """Columns of any type, before or after user_id, are computed, carried over and left alone."""
    schema = pa.schema([("x", kind), ("user_id", pa.string())])

    @asset(step="see", schema=schema, code_version="1")
    def values(letters: Annotated[pa.Table, "user_id", "text"]) -> pa.Table:
        users = letters["user_id"].to_pylist()
        column = [None if text == "nothing" else value for text in letters["text"].to_pylist()]
        return pa.table([pa.array(column, kind), users], schema=schema)

    pipeline = ToyPipeline()
    pipeline.use("letters", values)
    for user, text in (("cem", "hello"), ("ann", "nothing"), ("bob", "hello")):
        pipeline.post_office.write(user, "l1", text)
    pipeline.run()
    assert [result.asset for result in pipeline.run()] == ["letters"]
    pipeline.post_office.write("ann", "l2", "hello")
    assert by_asset(pipeline.run())["values"].n_users_computed == 1
    assert sorted((row["user_id"], row["x"] is None) for row in pipeline.rows("values")) == [
        ("ann", False),
        ("ann", True),
        ("bob", False),
        ("cem", False),
    ]


# A run does what its plan says


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.lists(st.one_of(EDITS, CHANGES), max_size=4), RUNS), min_size=1, max_size=4))
@example([([("leave", "bob"), ("code", "words", "2")], {"only_users": ["ann"]})])
@example([([("write", "dan", "l1", "one two", None, "")], {"only_users": ["dan"]}), ([], {"force": True})])
@example([([("write", "bob", "l1", "", None, "")], {"select": ["letters"]}), ([("leave", "bob")], {})])
@example([([("leave", "bob")], {"select": ["letters"]}), ([], {"select": ["pages"], "only_users": ["ann", "cem"]})])
@example(
    [
        ([("write", "dan", "l1", "one", None, "")], {"select": ["letters"]}),
        ([("code", "words", "2")], {"select": ["words"], "only_users": ["ann", "cem"]}),
    ]
)
def test_a_run_does_what_its_plan_says(events: Events) -> None:
    """A run computes no user and runs no shard beyond its plan; exact entries of the plan run exactly."""
    pipeline = ChangingPipeline(n_shards=2)
    for changes, options in events:
        for change in changes:
            pipeline.apply(*change)
        request_options = {name: value for name, value in options.items() if name not in ("select", "dies")}
        plan = pipeline.plan(pipeline.request(*pipeline.users, **request_options), options.get("select"))
        results = {(result.asset, result.shard): result for result in pipeline.materialize(plan)}
        for entry in plan:
            check_result(pipeline, entry, results.pop((entry.asset, entry.shard), None))
        assert results == {}
        for name in ("words", "pages"):
            entries = plan.entries_of(name)
            possible = frozenset().union(*(entry.workload.users for entry in entries))
            exact = frozenset().union(*(entry.workload.users for entry in entries if not entry.is_upper_bound))
            assert exact <= set(itertools.chain(*pipeline.calls.get(name, []))) <= possible


def check_result(pipeline: ToyPipeline, entry: PlannedShard, result: ShardResult | None) -> None:
    """Check a result against its entry in the plan: within an upper bound, or equal to an exact entry."""
    if entry.is_upper_bound:
        assert result is None or result.n_users_computed <= len(entry.workload.users)
        assert result is None or result.n_users <= entry.workload.n_users
        return
    assert result
    assert (result.reason, result.n_users_computed) == (entry.reason, len(entry.workload.users))
    if entry.asset != "letters":
        n_read = sum(row["user_id"] in entry.workload.users for row in pipeline.rows("letters"))
        assert (result.n_users, n_read) == (entry.workload.n_users, entry.workload.n_rows)
