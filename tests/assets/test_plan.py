from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pyarrow as pa
import pytest

from assets.asset import Asset, Output, Users, asset
from assets.graph import Graph
from assets.materialize import materialize
from assets.parquet import Shards
from assets.plan import Planned, Planner
from assets.versions import shard_of

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
N_SHARDS = 2
LETTERS = pa.schema([("user_id", pa.string()), ("text", pa.string()), ("colour", pa.string())])
VECTORS = pa.schema([("user_id", pa.string()), ("text", pa.string()), ("vector", pa.float32())])
PAGES = pa.schema([("user_id", pa.string()), ("page", pa.string()), ("valid_until", pa.timestamp("us", "UTC"))])
SHELF = pa.schema([("user_id", pa.string()), ("page", pa.string())])


class Outside:
    """Each user's only letter: its text and its colour."""

    def __init__(self) -> None:
        self.letters = {"ann": ("hello", "red"), "cem": ("good bye", "red")}  # in shard 0 and in shard 1


class Model:
    def __init__(self) -> None:
        self.version = "m1"


def graph_of(letters_code: str = "1", vectors_code: str = "1", pages_code: str = "1") -> Graph:
    """Letters, their vectors, pages made of these that hold for an hour, and the shelf that they are handed to."""

    @asset(step="fetch", schema=LETTERS, code_version=letters_code)
    def letters(previous: pa.Table, users: Users, outside: Outside) -> pa.Table:
        rows = {row["user_id"]: row for row in previous.to_pylist()}
        for user in users:
            text, colour = outside.letters[user]
            rows[user] = {"user_id": user, "text": text, "colour": colour}
        return pa.Table.from_pylist(list(rows.values()), schema=LETTERS)

    @asset(step="embed", schema=VECTORS, code_version=vectors_code, opaque=("vector",))
    def vectors(letters: Annotated[pa.Table, "user_id", "text"], model: Model) -> pa.Table:
        return letters.append_column("vector", pa.array([len(model.version)] * len(letters), pa.float32()))

    @asset(step="write", schema=PAGES, code_version=pages_code)
    def pages(vectors: Annotated[pa.Table, "user_id", "text", "vector"], now: datetime) -> pa.Table:
        times = pa.array([now + timedelta(hours=1)] * len(vectors), pa.timestamp("us", "UTC"))
        return pa.table([vectors["user_id"], vectors["text"], times], schema=PAGES)

    @asset(step="hand", schema=SHELF, code_version="1")
    def shelf(pages: Annotated[pa.Table, "user_id", "page"], users: Users) -> Output:
        return Output(pages)

    return Graph.of([letters, vectors, pages, shelf])


class House:
    """One root with its world outside; `run` brings assets up to date, `plan` says what would run and why."""

    def __init__(self, root: str) -> None:
        self.shards = Shards(root, N_SHARDS)
        self.outside = Outside()
        self.model = Model()
        self.now = NOON
        self.graph = graph_of()

    @property
    def resources(self) -> dict[type, object]:
        return {Outside: self.outside, Model: self.model}

    @property
    def planner(self) -> Planner:
        return Planner(self.graph, self.shards, self.resources, self.now)

    def run(self, *select: str, **options: Any) -> None:
        users = dict.fromkeys(self.outside.letters, self.now)
        given = {"resources": self.resources, "now": self.now, "users": users, "select": select or None}
        materialize(self.graph, self.shards, **{**given, **options})

    def plan(self, name: str, **options: Any) -> dict[int, str]:
        return {each.shard: each.reason for each in self.planner.plan(self.graph[name], **options)}

    def plans(self) -> dict[str, dict[int, str]]:
        return {each.name: plan for each in self.graph if (plan := self.plan(each.name))}


@pytest.fixture
def house(tmp_path: Any) -> House:
    house = House(str(tmp_path))
    house.run()
    return house


def test_the_toy_users_are_in_two_shards() -> None:
    """What follows speaks of ann in shard 0 and of cem in shard 1."""
    assert [shard_of(user, N_SHARDS) for user in ("ann", "cem")] == [0, 1]


def test_nothing_is_planned_when_all_is_done(house: House) -> None:
    """After a run nothing is left to do; a plan only reads, so it says so again."""
    assert house.plans() == house.plans() == {}


def test_a_source_runs_where_somebody_is_looked_at(house: House) -> None:
    """A source is planned in exactly the shards observed, for the reason that it looks at the world."""
    assert house.plan("letters", observed=[1]) == {1: "observe"}
    assert list(house.planner.plan(house.graph["letters"], observed=[1])) == [Planned("letters", 1, "observe")]


def test_a_derived_asset_does_not_run_because_somebody_looks(house: House) -> None:
    """An asset that does not ask for users stays as it is when users are only looked at."""
    assert house.plan("pages", observed=[0, 1]) == {}


def test_a_reader_that_observes_runs_on_a_look(house: House) -> None:
    """An asset that reads others and asks for users runs where somebody is looked at, changed or not."""
    assert house.plan("shelf", observed=[0]) == {0: "observe"}


def test_the_better_reason_is_given(house: House) -> None:
    """Where an observed shard's inputs changed, the reason is the data, not the look."""
    house.outside.letters["ann"] = ("servus", "red")
    house.run("letters", "vectors", "pages")
    assert house.plan("shelf", observed=[0, 1]) == {0: "data", 1: "observe"}


def test_missing(house: House) -> None:
    """A shard without a file is missing where its first input is there, and no other shard is."""
    house.shards.set_aside(house.graph["pages"], 1)
    assert house.plan("pages") == {1: "missing"}


def test_nothing_comes_of_nothing(tmp_path: Any) -> None:
    """A shard whose first input is not there is not planned, since there is nothing to make it of."""
    house = House(str(tmp_path))
    assert house.plans() == {}
    house.run(users={"ann": NOON}, select=["letters"])
    assert house.plans() == {"vectors": {0: "missing"}}


def test_code(house: House) -> None:
    """A raised code_version plans every shard of that asset, and no other asset before its data changes."""
    house.graph = graph_of(pages_code="2")
    assert house.plans() == {"pages": {0: "code", 1: "code"}}


def test_a_source_is_not_fetched_again_for_its_code(house: House) -> None:
    """A source's new code waits for the next look: nobody is called because of it."""
    house.graph = graph_of(letters_code="2")
    assert house.plans() == {}


def test_model(house: House) -> None:
    """Another version of a resource plans every shard of the assets that use it."""
    house.model.version = "m2"
    assert house.plans() == {"vectors": {0: "model", 1: "model"}}


def test_another_model_passes_on_through_opaque_columns(house: House) -> None:
    """Opaque columns made by another model, or by other code, are other data to whoever reads them."""
    house.model.version = "m2"
    house.run("vectors")
    assert house.plans() == {"pages": {0: "data", 1: "data"}}
    house.run()
    house.graph = graph_of(vectors_code="2")
    house.run("vectors")
    assert house.plans() == {"pages": {0: "data", 1: "data"}}


def test_data(house: House) -> None:
    """Changed rows plan the next asset, in their shard only; the one after it waits for news."""
    house.outside.letters["cem"] = ("hello again", "red")
    house.run("letters")
    assert house.plans() == {"vectors": {1: "data"}}


def test_a_column_not_read_is_no_news(house: House) -> None:
    """A change in a column that an asset does not read does not make it stale."""
    house.outside.letters["cem"] = ("good bye", "blue")
    house.run("letters")
    assert house.plans() == {}


def test_what_changes_back_is_no_news(house: House) -> None:
    """A value that changed and changed back before anybody read it makes nothing stale."""
    for text in ("changed", "hello"):
        house.outside.letters["ann"] = (text, "red")
        house.run("letters")
    assert house.plans() == {}


def test_a_lost_input_leaves_a_shard_alone(house: House) -> None:
    """A shard whose first input is lost stays as it is until that is made again, and then is up to date."""
    house.shards.set_aside(house.graph["letters"], 0)
    assert house.plan("vectors") == {}
    house.run("letters")
    assert house.plan("vectors") == {}


def test_stale(house: House) -> None:
    """A row whose time is up plans its shard at that very instant, not a moment before."""
    house.now = NOON + timedelta(hours=1) - timedelta(microseconds=1)
    assert house.plans() == {}
    house.now = NOON + timedelta(hours=1)
    assert house.plans() == {"pages": {0: "stale", 1: "stale"}}


def test_forced(house: House) -> None:
    """Forced, an asset is planned although it is up to date, in the shards asked for."""
    assert house.plan("pages", force=True) == {0: "forced", 1: "forced"}
    assert house.plan("pages", force=True, shards=[1]) == {1: "forced"}


def test_force_makes_nothing_of_nothing(house: House) -> None:
    """Forced or not, a shard whose first input is not there is left alone: its rows would be lost."""
    house.shards.set_aside(house.graph["letters"], 0)
    assert house.plan("vectors", force=True) == {1: "forced"}


@pytest.mark.parametrize(("shards", "wanted"), [([0], {0: "code"}), ([1, 0], {0: "code", 1: "code"}), ([], {})])
def test_only_some_shards(house: House, shards: Iterable[int], wanted: dict[int, str]) -> None:
    """A plan for some shards speaks of no other."""
    house.graph = graph_of(pages_code="2")
    assert house.plan("pages", shards=shards) == wanted


def waits(house: House, name: str) -> list[str | None]:
    members: list[Asset] = [house.graph[name]]
    return [house.planner.waits_for(members, shard) for shard in range(N_SHARDS)]


def test_whoever_reads_what_is_behind_waits(house: House) -> None:
    """An asset waits for one that it reads, directly or not, and that is behind - in that shard."""
    house.outside.letters["cem"] = ("hello again", "red")
    house.run("letters")
    assert waits(house, "pages") == waits(house, "shelf") == [None, "vectors"]


def test_the_first_that_is_behind_is_waited_for(house: House) -> None:
    """Of several that are behind the first in order of work is named."""
    house.model.version = "m2"
    house.graph = graph_of(pages_code="2")
    assert waits(house, "shelf") == ["vectors", "vectors"]
    house.run("vectors")
    assert waits(house, "shelf") == ["pages", "pages"]


def test_a_step_does_not_wait_for_itself(house: House) -> None:
    """What is behind within a step is no reason to wait: the step is about to make it."""
    house.graph = graph_of(pages_code="2")
    assert waits(house, "pages") == [None, None]
    assert house.planner.waits_for([house.graph["pages"], house.graph["shelf"]], 0) is None


def test_sources_are_never_waited_for(house: House) -> None:
    """Nobody waits for a source: when it is looked at next is not for a plan to say."""
    house.graph = graph_of(letters_code="2")
    assert waits(house, "vectors") == [None, None]
