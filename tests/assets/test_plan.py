from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem

from assets.asset import Asset, Output, Users, asset
from assets.bill import bill
from assets.errors import ShardUnreadable
from assets.graph import Graph
from assets.materialize import asked, execute, materialize
from assets.parquet import Shards
from assets.plan import Plan, Planned, Planner, Request
from assets.records import Record
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
        return {each.shard: each.reason for each in self.planner.plan([self.graph[name]], Request(**options))}

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
    assert house.plan("letters", look=frozenset([1])) == {1: "observe"}


def test_a_derived_asset_does_not_run_because_somebody_looks(house: House) -> None:
    """An asset that does not ask for users stays as it is when users are only looked at."""
    assert house.plan("pages", look=frozenset([0, 1])) == {}


def test_a_reader_that_observes_runs_on_a_look(house: House) -> None:
    """An asset that reads others and asks for users runs where somebody is looked at, changed or not."""
    assert house.plan("shelf", look=frozenset([0])) == {0: "observe"}


def test_the_better_reason_is_given(house: House) -> None:
    """Where an observed shard's inputs changed, the reason is the data, not the look."""
    house.outside.letters["ann"] = ("servus", "red")
    house.run("letters", "vectors", "pages")
    assert house.plan("shelf", look=frozenset([0, 1])) == {0: "data", 1: "observe"}


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
    assert house.plan("pages", force=True, shards=frozenset([1])) == {1: "forced"}


def test_force_makes_nothing_of_nothing(house: House) -> None:
    """Forced or not, a shard whose first input is not there is left alone: its rows would be lost."""
    house.shards.set_aside(house.graph["letters"], 0)
    assert house.plan("vectors", force=True) == {1: "forced"}


@pytest.mark.parametrize(("shards", "wanted"), [([0], {0: "code"}), ([1, 0], {0: "code", 1: "code"}), ([], {})])
def test_only_some_shards(house: House, shards: Iterable[int], wanted: dict[int, str]) -> None:
    """A plan for some shards speaks of no other."""
    house.graph = graph_of(pages_code="2")
    assert house.plan("pages", shards=frozenset(shards)) == wanted


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


# A plan of several assets


ANN, CEM = frozenset(["ann"]), frozenset(["cem"])


def whole(house: House, **facts: Any) -> Plan:
    """The plan of everything."""
    return house.planner.plan(house.graph, Request(**facts))


def look(*users: str) -> dict[str, Any]:
    """A request to look at users, each in their shard."""
    return {"users": dict.fromkeys(users, NOON), "look": frozenset(shard_of(user, N_SHARDS) for user in users)}


def said(plan: Plan) -> list[tuple[Any, ...]]:
    return [(each.asset, each.shard, each.reason, set(each.users), each.at_most) for each in plan]


def do(house: House, plan: Plan) -> list[Record]:
    return list(execute(plan, house.graph, house.shards, resources=house.resources, now=house.now))


def test_behind_a_look_everything_is_planned_at_most(house: House) -> None:
    """Whoever is looked at may change, so all that lies behind is planned for them, at most; no other shard is."""
    plan = whole(house, **look("ann"))
    assert said(plan) == [
        ("letters", 0, "observe", {"ann"}, False),
        ("vectors", 0, "data", {"ann"}, True),
        ("pages", 0, "data", {"ann"}, True),
        ("shelf", 0, "data", {"ann"}, True),
    ]
    assert plan.shards == {0: ["letters", "vectors", "pages", "shelf"]}
    assert [each.asset for each in plan.of("pages")] == ["pages"]
    assert plan


def test_what_may_happen_need_not(house: House) -> None:
    """Where a look finds nothing new, what was planned at most does not run, but whoever observes does."""
    assert [(each.asset, each.reason) for each in do(house, whole(house, **look("ann")))] == [
        ("letters", "observe"),
        ("shelf", "observe"),
    ]


def test_what_happens_was_planned(house: House) -> None:
    """Where a look finds news, all that was planned runs, for the users who were planned."""
    house.outside.letters["ann"] = ("servus", "red")
    plan = whole(house, **look("ann"))
    assert [(each.asset, each.shard) for each in do(house, plan)] == [(each.asset, each.shard) for each in plan]
    assert not whole(house)


def test_a_plan_of_nothing_does_nothing(house: House) -> None:
    """A plan without entries is false, has no shards, and does nothing."""
    plan = whole(house)
    assert (bool(plan), plan.shards, list(plan), do(house, plan)) == (False, {}, [], [])


def test_behind_new_code_its_users_are_planned_at_most(house: House) -> None:
    """An asset that is to run itself is planned with all of its users, whoever reads it at most with the same."""
    house.graph = graph_of(vectors_code="2")
    assert said(whole(house, shards=frozenset([1]))) == [
        ("vectors", 1, "code", {"cem"}, False),
        ("pages", 1, "data", {"cem"}, True),
        ("shelf", 1, "data", {"cem"}, True),
    ]


def test_what_is_not_selected_passes_nothing_on(house: House) -> None:
    """Only assets that are planned pass their users on: who reads one that is left out sees it as it is."""
    house.graph = graph_of(vectors_code="2")
    assert not house.planner.plan([house.graph["pages"], house.graph["shelf"]])


def test_users_who_are_new_are_planned(house: House) -> None:
    """A user who is looked at for the first time is planned everywhere, beside the ones who are known."""
    house.outside.letters["bob"] = ("moin", "red")
    plan = whole(house, **look("bob"))
    assert {each.shard for each in plan} == {shard_of("bob", N_SHARDS)}
    assert [(set(each.users), each.n_users) for each in plan] == [({"bob"}, 2)] * 4


def test_rows_are_not_known_on_a_first_night(tmp_path: Path) -> None:
    """Before anybody was looked at, a plan names users, but not yet how many rows they have."""
    house = House(str(tmp_path))
    plan = whole(house, **look("ann", "cem"))
    assert [(each.asset, each.shard, each.n_users, each.n_rows) for each in plan] == [
        ("letters", 0, 1, None),
        ("letters", 1, 1, None),
        ("vectors", 0, 1, None),
        ("vectors", 1, 1, None),
        ("pages", 0, 1, None),
        ("pages", 1, 1, None),
        ("shelf", 0, 1, None),
        ("shelf", 1, 1, None),
    ]
    assert {each.reason for each in plan.of("vectors")} == {"missing"}


def test_only_some_users(house: House) -> None:
    """A plan for one user names no other, though others are behind too, and stays in that user's shard."""
    house.graph = graph_of(vectors_code="2")
    request = asked(N_SHARDS, {"ann": NOON, "cem": NOON}, only_users=["cem"])
    assert said(house.planner.plan(house.graph, request)) == [
        ("letters", 1, "observe", {"cem"}, False),
        ("vectors", 1, "code", {"cem"}, True),
        ("pages", 1, "data", {"cem"}, True),
        ("shelf", 1, "data", {"cem"}, True),
    ]


def test_only_a_user_who_has_nothing_to_do(house: House) -> None:
    """A plan for a user whom nothing changed for names the shard that is behind, and nobody to compute."""
    house.outside.letters["cem"] = ("hello again", "red")
    house.run("letters")
    (found,) = house.planner.plan([house.graph["vectors"]], Request(only=frozenset(["zoe"])))
    assert (found.shard, found.reason, set(found.users), found.n_users) == (1, "data", set(), 1)


def test_force_names_everybody(house: House) -> None:
    """Forced, every user is planned, or every one asked for."""
    house.outside.letters["bob"] = ("moin", "red")
    house.run()
    plan = whole(house, force=True)
    assert {each.reason for each in plan} == {"forced"}
    assert set().union(*(each.users for each in plan.of("pages"))) == {"ann", "bob", "cem"}
    only = whole(house, force=True, only=CEM)
    assert set().union(*(each.users for each in only)) == CEM


def test_force_for_one_user_leaves_nothing_behind(house: House) -> None:
    """What was up to date is so after a user was computed again alone, since nobody else had to be."""
    house.outside.letters["bob"] = ("moin", "red")
    house.run()
    done = do(house, house.planner.plan([house.graph["vectors"]], Request(force=True, only=frozenset(["bob"]))))
    assert sum(each.n_users_changed for each in done) == 1
    assert house.plans() == {}


def test_a_look_at_nobody(house: House) -> None:
    """A look at a shard that names no user plans the source, and at most all that lies behind it, for nobody."""
    plan = whole(house, look=frozenset([1]))
    assert [(each.asset, set(each.users), each.n_users, each.n_rows) for each in plan] == [
        ("letters", set(), 1, 0),
        ("vectors", set(), 1, 0),
        ("pages", set(), 1, 0),
        ("shelf", set(), 1, 0),
    ]


def test_numbers_are_of_the_first_input(house: House) -> None:
    """An entry says how many users the asset has, and how many rows of the first input are read for those planned."""
    house.outside.letters |= {"bob": ("moin", "red"), "dan": ("", "red")}
    house.run()
    house.graph = graph_of(pages_code="2")
    plan = house.planner.plan([house.graph["pages"]])
    assert {each.shard: (set(each.users), each.n_users, each.n_rows) for each in plan} == {
        shard: (own, len(own), len(own))
        for shard in (0, 1)
        if (own := {user for user in house.outside.letters if shard_of(user, N_SHARDS) == shard})
    }


def test_again_says_what_became_of_an_entry(house: House) -> None:
    """What was planned at most is exact, or nothing, for a planner that looks after its inputs ran."""
    plan = whole(house, **look("ann"))
    at_most = {each.asset: each for each in plan}
    assert house.planner.again(at_most["vectors"], plan.request) is None
    house.outside.letters["ann"] = ("servus", "red")
    house.run("letters")
    exact = house.planner.again(at_most["vectors"], plan.request)
    assert exact == Planned("vectors", 0, "data", ANN, n_users=1, n_rows=1, n_users_sure=1, n_rows_sure=1)


def test_a_broken_file_is_planned_as_such(house: House) -> None:
    """A file that cannot be read does not keep a plan from being made; the run then says what is wrong with it."""
    Path(house.shards.path("vectors", 0)).write_bytes(b"nothing")
    plan = whole(house, **look("ann"))
    assert [(each.asset, each.reason) for each in plan] == [
        ("letters", "observe"),
        ("vectors", "unreadable"),
        ("pages", "unreadable"),
        ("shelf", "data"),
    ]
    with pytest.raises(ShardUnreadable, match="rebuild vectors --shard 0"):
        do(house, plan)


def test_a_broken_index_is_planned_as_such(house: House) -> None:
    """A file whose index of users is broken is planned as one that cannot be read, where it is needed."""
    with house.shards.open(house.graph["vectors"], 0) as opened:
        assert opened
        table, footer = opened.read_all(), opened.footer
    house.shards.write(house.graph["vectors"], table, replace(footer, packed=b"nothing"))
    house.graph = graph_of(vectors_code="2")
    assert house.plan("vectors") == {0: "unreadable", 1: "code"}
    with pytest.raises(ShardUnreadable, match="rebuild vectors --shard 0"):
        do(house, house.planner.plan([house.graph["vectors"]]))


def with_a_new_column(house: House) -> Graph:
    """The graph after both letters and their reader learnt of a column, each with a raised code_version."""
    wider = LETTERS.append(pa.field("sender", pa.string()))

    @asset(step="fetch", schema=wider, code_version="2")
    def letters(previous: pa.Table, users: Users, outside: Outside) -> pa.Table:
        rows = {row["user_id"]: row for row in previous.to_pylist()}
        for user in users:
            text, colour = outside.letters[user]
            rows[user] = {"user_id": user, "text": text, "colour": colour, "sender": "me"}
        return pa.Table.from_pylist(list(rows.values()), schema=wider)

    @asset(step="embed", schema=SHELF, code_version="2")
    def vectors(letters: Annotated[pa.Table, "user_id", "sender"]) -> pa.Table:
        return pa.table([letters["user_id"], letters["sender"]], schema=SHELF)

    return Graph.of([letters, vectors])


def test_a_column_that_is_not_there_yet_can_be_planned_for(house: House) -> None:
    """A reader of a column that its input is about to have is planned, and made once the input is."""
    house.graph = with_a_new_column(house)
    for name, wanted in {"letters": {}, "vectors": {0: "code", 1: "code"}}.items():
        assert house.plan(name) == wanted
    do(house, whole(house, **look("ann", "cem")))
    assert house.plans() == {}


class Counting(LocalFileSystem):  # type: ignore[misc]
    """A local disk that remembers which files were opened to be read."""

    protocol = ("counting",)
    opened: ClassVar[Counter[str]] = Counter()

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "r" in mode:
            self.opened[self._strip_protocol(path)] += 1
        return super()._open(path, mode, **options)


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[House]:
    """A house on a disk that counts."""
    fsspec.register_implementation("counting", Counting, clobber=True)
    house = House(f"counting://{tmp_path}")
    house.run()
    Counting.opened.clear()
    yield house
    Counting.clear_instance_cache()


def test_a_planner_reads_each_footer_once(counting: House) -> None:
    """However much is planned, waited for and summed up by one planner, it opens every file once."""
    counting.graph = graph_of(vectors_code="2")
    planner = counting.planner
    plan = planner.plan(counting.graph, Request(**look("ann", "cem")))
    planner.plan(counting.graph)
    bill(plan, planner, counting.graph, {})
    for shard in range(N_SHARDS):
        planner.waits_for([counting.graph["shelf"]], shard)
    files = {counting.shards.path(each.name, shard) for each in counting.graph for shard in range(N_SHARDS)}
    assert Counting.opened == dict.fromkeys(files, 1)


def test_a_plan_reads_no_rows_and_writes_nothing(house: House, tmp_path: Path) -> None:
    """Planning leaves every file byte for byte as it was."""
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    whole(house, **look("ann", "cem"), force=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
