from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pytest

from assets.asset import Output, Users, Work, asset
from assets.bill import Line, bill, brief, lines
from assets.graph import Graph
from assets.materialize import asked, execute, materialize
from assets.parquet import Shards
from assets.plan import Planner
from assets.versions import shard_of

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
N_SHARDS = 2
LETTERS = pa.schema([("user_id", pa.string()), ("text", pa.string())])
STAMPS = pa.schema([("user_id", pa.string()), ("stamp", pa.int64())])


@dataclass(frozen=True)
class Past:
    """How a kind of work went."""

    seconds_a_unit: float | None = None
    seconds_a_look: float | None = None
    units_a_look: float | None = None


class Outside:
    """Letters and stamps by user."""

    def __init__(self) -> None:
        self.letters: dict[str, list[str]] = {"ann": ["a", "b", "c"], "cem": ["d"], "dan": []}
        self.stamps = {"ann": 5, "cem": 0, "dan": 2}


def graph_of(vectors_code: str = "1", pages_code: str = "1") -> Graph:
    """Two sources, counted by users and by rows; vectors by rows; pages by users; a shelf that is not counted."""

    @asset(step="fetch", schema=LETTERS, code_version="1", work=Work("calls", per="user"))
    def letters(previous: pa.Table, users: Users, outside: Outside) -> Output:
        kept = [row for row in previous.to_pylist() if row["user_id"] not in users]
        new = [{"user_id": user, "text": text} for user in users for text in outside.letters[user]]
        return Output(pa.Table.from_pylist([*kept, *new], schema=LETTERS))

    @asset(step="fetch", schema=STAMPS, code_version="1", work=Work("stamps_read", per="row"))
    def stamps(previous: pa.Table, users: Users, outside: Outside) -> Output:
        kept = [row for row in previous.to_pylist() if row["user_id"] not in users]
        new = [{"user_id": user, "stamp": n} for user in users for n in range(outside.stamps[user])]
        return Output(pa.Table.from_pylist([*kept, *new], schema=STAMPS))

    @asset(step="embed", schema=LETTERS, code_version=vectors_code, work=Work("texts_embedded", per="row"))
    def vectors(letters: Annotated[pa.Table, "user_id", "text"]) -> pa.Table:
        return letters

    @asset(step="print", schema=STAMPS, code_version=pages_code, work=Work("pages_printed", per="user"))
    def pages(
        letters: Annotated[pa.Table, "user_id"],
        vectors: Annotated[pa.Table, "user_id", "text"],
        stamps: Annotated[pa.Table, "user_id", "stamp"],
    ) -> pa.Table:
        users = sorted(set(letters["user_id"].to_pylist()))
        return pa.table([users, [len(stamps)] * len(users)], schema=STAMPS)

    @asset(step="print", schema=STAMPS, code_version="1")
    def shelf(pages: Annotated[pa.Table, "user_id", "stamp"]) -> pa.Table:
        return pages

    return Graph.of([letters, stamps, vectors, pages, shelf])


class House:
    """One root; `bill` says what a run would come to, `run` runs it."""

    def __init__(self, root: str) -> None:
        self.shards = Shards(root, N_SHARDS)
        self.outside = Outside()
        self.graph = graph_of()

    @property
    def resources(self) -> dict[type, object]:
        return {Outside: self.outside}

    def run(self, *users: str) -> None:
        looked = dict.fromkeys(users or self.outside.letters, NOON)
        materialize(self.graph, self.shards, resources=self.resources, now=NOON, users=looked)

    def bill(self, *users: str, paces: Mapping[str, Past] | None = None, **facts: Any) -> dict[str, Line]:
        """The line of each asset, for a look at some users."""
        planner = Planner(self.graph, self.shards, self.resources, NOON)
        request = asked(N_SHARDS, dict.fromkeys(users, NOON), **facts)
        plan = planner.plan(self.graph, request)
        return {line.asset: line for line in bill(plan, planner, self.graph, paces or {})}


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Ann with three letters and dan with none in shard 0, cem with one in shard 1, everything made."""
    house = House(str(tmp_path))
    house.run()
    return house


def facts(line: Line) -> tuple[Any, ...]:
    return (line.n_shards, line.n_shards_all, line.n_users, line.n_users_all, line.n_units, line.n_units_all)


def test_the_toy_users_are_in_two_shards() -> None:
    """What follows speaks of ann and dan in shard 0 and of cem in shard 1."""
    assert [shard_of(user, N_SHARDS) for user in ("ann", "dan", "cem")] == [0, 0, 1]


def test_nothing_to_do(house: House) -> None:
    """An asset that has nothing to do has a line too, which says what it has, and that it takes no time."""
    found = house.bill()
    assert {name: facts(line) for name, line in found.items()} == {
        "letters": (0, 2, 0, 2, 0, 2),
        "stamps": (0, 2, 0, 2, 0, 7),
        "vectors": (0, 2, 0, 2, 0, 4),
        "pages": (0, 2, 0, 2, 0, 2),
        "shelf": (0, 2, 0, 2, None, 2),
    }
    assert {line.seconds for line in found.values()} == {0.0}
    assert not any(line.at_most or line.reasons for line in found.values())


def test_what_is_known_is_counted(house: House) -> None:
    """Behind new code all users and rows are counted, by what the asset's work goes; those who read it, at most."""
    house.graph = graph_of(vectors_code="2")
    found = house.bill()
    assert facts(found["vectors"]) == (2, 2, 2, 2, 4, 4)
    assert facts(found["pages"]) == (2, 2, 2, 2, 2, 2)
    assert [found[name].at_most for name in ("letters", "vectors", "pages", "shelf")] == [False, False, True, True]
    assert [found[name].reasons for name in ("vectors", "pages")] == [{"code": 2}, {"data": 2}]
    assert (found["shelf"].work, found["shelf"].n_units) == (None, None)


def test_rows_are_a_bound(house: House) -> None:
    """Work that goes by rows is known as a bound only, since a row may come to nothing; users are exact."""
    house.graph = graph_of(vectors_code="2")
    vectors = house.bill()["vectors"]
    assert (vectors.is_bound, vectors.at_most) == (True, False)
    house.graph = graph_of(pages_code="2")
    pages = house.bill()["pages"]
    assert (pages.is_bound, pages.at_most) == (False, False)


def test_what_is_spared(house: House) -> None:
    """Units that are not to be done again are all that there are less those to be done."""
    found = house.bill("ann")
    spared = {name: (line.n_units, line.n_units_saved) for name, line in found.items() if line.work}
    assert spared == {"letters": (1, 1), "stamps": (None, 0), "vectors": (3, 1), "pages": (1, 1)}
    assert {line.n_units_saved for line in house.bill().values() if line.work} == {2, 7, 4}


def test_a_first_night(tmp_path: Path) -> None:
    """Before anybody was looked at, users are known and rows are not; nothing is spared."""
    house = House(str(tmp_path))
    found = house.bill("ann", "cem", "dan")
    assert {name: facts(line) for name, line in found.items()} == {
        "letters": (2, 2, 3, 3, 3, 3),
        "stamps": (2, 2, 3, 3, None, 0),
        "vectors": (2, 2, 3, 3, None, 0),
        "pages": (2, 2, 3, 3, 3, 3),
        "shelf": (2, 2, 3, 3, None, 3),
    }
    assert {line.n_units_saved for line in found.values() if line.work} == {0}
    said = list(lines(found.values()))
    assert "texts embedded: not known yet" in said[3]
    assert "3 calls" in said[1]


def test_reasons_are_counted_by_shard(house: House) -> None:
    """An asset whose shards run for several reasons says how many run for which."""
    house.shards.set_aside(house.graph["vectors"], 0)
    house.graph = graph_of(vectors_code="2")
    line = house.bill()["vectors"]
    assert line.reasons == {"missing": 1, "code": 1}
    assert "missing 1, code 1" in next(each for each in lines([line]) if each.startswith("vectors"))


def test_seconds_by_units_where_all_is_known(house: House) -> None:
    """What is to be done for sure takes as long as its units did."""
    house.graph = graph_of(vectors_code="2")
    paces = {"texts_embedded": Past(0.5, 100.0, 100.0)}
    line = house.bill(paces=paces)["vectors"]
    assert (line.seconds, line.n_likely) == (4 * 0.5, None)


def test_seconds_by_looks_where_it_is_open(house: House) -> None:
    """What depends on what a look finds takes as long as it did for each user looked at, not as its bound would."""
    paces = {name: Past(10.0, 0.25, 0.5) for name in ("calls", "stamps_read", "texts_embedded", "pages_printed")}
    found = house.bill("ann", "cem", "dan", paces=paces)
    assert {name: line.seconds for name, line in found.items()} == {
        "letters": 3 * 10.0,
        "stamps": 3 * 0.25,
        "vectors": 3 * 0.25,
        "pages": 3 * 0.25,
        "shelf": None,
    }
    assert found["letters"].n_likely is None
    assert found["pages"].n_likely == round(3 * 0.5)


def test_looks_are_users(house: House) -> None:
    """However many rows a source has of whom it looks at, a look is at one user."""
    house.outside.stamps["ann"] = 1000
    house.run()
    assert house.bill("ann", paces={"pages_printed": Past(None, 0.25)})["pages"].seconds == 0.25


def test_likely_is_no_more_than_the_bound(house: House) -> None:
    """What a run will probably come to is never said to be more than it can."""
    line = house.bill("ann", paces={"pages_printed": Past(None, 1.0, 20.0)})["pages"]
    assert (line.n_units, line.n_likely) == (1, 1)


@pytest.mark.parametrize("paces", [{}, {"calls": Past()}, {"pages_printed": Past(seconds_a_look=1.0)}])
def test_no_estimate_without_a_past(house: House, paces: dict[str, Past]) -> None:
    """Work that was never done takes nobody knows how long, rather than no time."""
    found = house.bill("ann", paces=paces)
    assert found["letters"].seconds is None
    assert list(lines([found["letters"]]))[1].endswith("?")


def test_a_bill_is_for_the_assets_asked_for(house: House) -> None:
    """A bill has a line for each asset that it is asked about, in that order, also of a plan of more."""
    planner = Planner(house.graph, house.shards, house.resources, NOON)
    plan = planner.plan(house.graph, asked(N_SHARDS, {"ann": NOON}))
    chosen = [house.graph["pages"], house.graph["letters"]]
    assert [line.asset for line in bill(plan, planner, chosen, {})] == ["pages", "letters"]


def test_a_broken_file_is_on_the_bill(house: House) -> None:
    """A file that cannot be read counts as a shard that is to run, with nobody known in it."""
    Path(house.shards.path("pages", 1)).write_bytes(b"nothing")
    line = house.bill()["pages"]
    assert (line.reasons, line.n_shards, line.n_shards_all, line.n_users_all) == ({"unreadable": 1}, 1, 2, 1)


def test_the_bill_is_what_comes(house: House) -> None:
    """A run computes as many users as the exact lines of its bill say, and no more than those at most."""
    house.outside.letters["cem"] = ["new", "and more"]
    house.graph = graph_of(pages_code="2")
    found = house.bill("ann", "cem", "dan")
    planner = Planner(house.graph, house.shards, house.resources, NOON)
    plan = planner.plan(house.graph, asked(N_SHARDS, dict.fromkeys(house.outside.letters, NOON)))
    done = dict.fromkeys(found, 0)
    for record in execute(plan, house.graph, house.shards, resources=house.resources, now=NOON):
        done[record.asset] += record.n_users_changed
    assert {name: n for name, n in done.items() if not found[name].at_most} == {"letters": 3, "stamps": 3}
    assert all(done[name] <= line.n_users for name, line in found.items())
    assert done["vectors"] == 1


def table(found: Mapping[str, Line]) -> list[list[str]]:
    """The printed cells of each line."""
    printed = list(lines(found.values()))
    starts = [printed[0].index(name) for name in printed[0].split()]
    ends: Sequence[int | None] = [*starts[1:], None]
    return [[line[start:end].strip() for start, end in zip(starts, ends, strict=True)] for line in printed]


def test_the_lines_are_columns(house: House) -> None:
    """A bill is printed in columns under a heading: how many shards, why, users, work, what is spared, how long."""
    paces = {"calls": Past(1500.0), "pages_printed": Past(1.0, 0.5, 0.0)}
    assert table(house.bill("ann", paces=paces)) == [
        ["asset", "shards", "why", "users", "work", "spared", "seconds"],
        ["letters", "1 of 2", "observe", "1 of 2", "1 calls", "1", "~1,500.0"],
        ["stamps", "1 of 2", "observe", "1 of 2", "stamps read: not known yet", "", "?"],
        ["vectors", "at most 1 of 2", "data", "at most 1 of 2", "at most 3 texts embedded", "at least 1", "?"],
        [
            "pages",
            "at most 1 of 2",
            "data",
            "at most 1 of 2",
            "at most 1 pages printed, likely 0",
            "at least 1",
            "~0.5",
        ],
        ["shelf", "at most 1 of 2", "data", "at most 1 of 2", "", "", "?"],
    ]


def test_lines_of_nothing(house: House) -> None:
    """Where nothing is to be done the bill says so, asset by asset, and ends no line in blanks."""
    printed = list(lines(house.bill().values()))
    assert all("0 of 2" in line and line.endswith("nothing to do") for line in printed[1:])
    assert len(printed) == 1 + len(list(house.graph))
    assert list(lines([])) == ["asset  shards  why  users  work  spared  seconds"]


def test_in_brief(house: House) -> None:
    """In brief a bill is a list of its lines, a point for each asset, without what is empty."""
    house.graph = graph_of(pages_code="2")
    said = [line.split(" · ")[:3] for line in brief(house.bill().values()).split("\n")]
    assert said == [
        *[[f"- {name}", "0 of 2", "nothing to do"] for name in ("letters", "stamps", "vectors")],
        ["- pages", "2 of 2", "code"],
        ["- shelf", "at most 2 of 2", "data"],
    ]
    assert not any("" in line for line in said)
