from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import example, given, settings
from hypothesis import strategies as st

from assets.asset import Output, Users, asset
from assets.checks import Candidate, Check, changed_users_under
from assets.errors import AssetError, CheckFailed, GraphError, SchemaError, ShardUnreadable
from assets.graph import Graph
from assets.materialize import asked, execute, materialize
from assets.parquet import Shards
from assets.plan import Plan, Planned, Planner
from assets.records import Record
from assets.versions import shard_of

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)
TIME = pa.timestamp("us", "UTC")
LETTERS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("letter_id", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("opens_at", TIME),
        pa.field("colour", pa.string()),
    ]
)
WORDS = pa.schema(
    [("user_id", pa.string()), ("letter_id", pa.string()), ("n_words", pa.int64()), ("weight", pa.float64())]
)
PAGES = pa.schema([("user_id", pa.string()), ("page", pa.string()), ("valid_until", TIME)])

Row = dict[str, Any]
Letter = tuple[str, datetime | None, str]


class Died(Exception):
    """The machine is gone."""


class Outside:
    """Users and what they write, told as changes since the last time one said to have them safe."""

    def __init__(self) -> None:
        self.changes: dict[str, list[tuple[str, Letter | None]]] = {}
        self.confirmed: dict[str, int] = {}
        self.dies = False
        self.check_on_confirm: Callable[[], None] = lambda: None

    def write(self, user: str, letter_id: str, text: str, opens_at: datetime | None = None, colour: str = "") -> None:
        self.changes.setdefault(user, []).append((letter_id, (text, opens_at, colour)))

    def erase(self, user: str, letter_id: str) -> None:
        self.changes.setdefault(user, []).append((letter_id, None))

    def leave(self, user: str) -> None:
        self.changes.pop(user, None)
        self.confirmed.pop(user, None)

    def confirm(self, positions: Mapping[str, int]) -> None:
        self.check_on_confirm()
        if self.dies:
            raise Died
        self.confirmed |= positions


class Model:
    """Weighs words, and remembers whose words it was asked to weigh."""

    def __init__(self) -> None:
        self.version = "1"
        self.asked: list[list[str]] = []


class Press:
    """Has no version; remembers whose pages it was asked to print."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []


def graph_of(words_code: str = "1", pages_code: str = "1", **checks: Check) -> Graph:
    """Letters, their words and weights, and one page a user, whose later letters open when their time has come."""

    @asset(step="fetch", schema=LETTERS, code_version="1", checks=_checks(checks, "letters"))
    def letters(previous: pa.Table, users: Users, outside: Outside) -> Output:
        stored = {row["user_id"] for row in previous.to_pylist()}
        rows = {(row["user_id"], row["letter_id"]): row for row in previous.to_pylist()}
        n_read = 0
        for user in users:
            since = outside.confirmed.get(user, 0) if user in stored else 0
            if not since:
                rows = {key: row for key, row in rows.items() if key[0] != user}
            for letter_id, letter in outside.changes[user][since:]:
                n_read += 1
                rows.pop((user, letter_id), None)
                if letter:
                    rows[user, letter_id] = dict(zip(LETTERS.names, (user, letter_id, *letter), strict=True))
        known = [row for row in rows.values() if row["user_id"] in outside.changes]
        positions = {user: len(outside.changes[user]) for user in users}
        table = pa.Table.from_pylist(known, schema=LETTERS)
        return Output(table, counts={"letters_read": n_read}, then=lambda: outside.confirm(positions))

    @asset(step="weigh", schema=WORDS, code_version=words_code, opaque=("weight",), checks=_checks(checks, "words"))
    def words(letters: Annotated[pa.Table, "user_id", "letter_id", "text"], model: Model) -> pa.Table:
        model.asked.append(sorted(set(letters["user_id"].to_pylist())))
        rows = []
        for row in letters.to_pylist():
            if n_words := len(row["text"].split()) * int(words_code):
                weight = n_words * float(model.version)
                rows.append({**row, "n_words": n_words, "weight": weight})
        return pa.Table.from_pylist(rows, schema=WORDS)

    @asset(step="print", schema=PAGES, code_version=pages_code, checks=_checks(checks, "pages"))
    def pages(
        letters: Annotated[pa.Table, "user_id", "letter_id", "opens_at"],
        words: Annotated[pa.Table, "user_id", "letter_id", "n_words", "weight"],
        now: datetime,
        press: Press,
    ) -> pa.Table:
        times = {(row["user_id"], row["letter_id"]): row["opens_at"] for row in letters.to_pylist()}
        press.asked.append(sorted({user for user, _ in times}))
        lines: dict[str, list[str]] = {user: [] for user, _ in times}
        for row in words.to_pylist():
            opens_at = times[row["user_id"], row["letter_id"]]
            is_open = opens_at is None or opens_at <= now
            lines[row["user_id"]].append(f"{row['letter_id']}:{row['n_words']}:{row['weight']}:{is_open}")
        later = {user: [at for (who, _), at in times.items() if who == user and at and at > now] for user in lines}
        rows = [
            {"user_id": user, "page": f"{pages_code}|{' '.join(own)}", "valid_until": min(later[user], default=None)}
            for user, own in lines.items()
        ]
        return pa.Table.from_pylist(rows, schema=PAGES)

    return Graph.of([letters, words, pages])


def _checks(checks: Mapping[str, Check], name: str) -> tuple[Check, ...]:
    return (checks[name],) if name in checks else ()


class House:
    """One root and the world outside it."""

    def __init__(self, root: str, n_shards: int = 1) -> None:
        self.root = root
        self.shards = Shards(root, n_shards)
        self.outside, self.model, self.press = Outside(), Model(), Press()
        self.now = NOON
        self.graph = graph_of()

    @property
    def resources(self) -> dict[type, object]:
        return {Outside: self.outside, Model: self.model, Press: self.press}

    def run(self, **options: Any) -> list[Record]:
        """A run over everybody; the calls remembered are those of this run."""
        self.model.asked, self.press.asked = [], []
        users = dict.fromkeys(self.outside.changes, self.now)
        given = {"resources": self.resources, "now": self.now, "users": users}
        return materialize(self.graph, self.shards, **{**given, **options})

    def rows(self, name: str, *columns: str) -> list[Row]:
        found: list[Row] = []
        for shard in range(self.shards.n_shards):
            with self.shards.open(self.graph[name], shard) as opened:
                if opened:
                    found += opened.read(columns or self.graph[name].schema.names).to_pylist()
        return found

    def users_in(self, name: str) -> set[str]:
        return {row["user_id"] for row in self.rows(name)}

    def files(self) -> dict[str, bytes]:
        filesystem, path = fsspec.core.url_to_fs(self.root)
        return {each: filesystem.cat_file(each) for each in filesystem.find(path)}

    def plans(self) -> dict[str, list[str]]:
        planner = Planner(self.graph, self.shards, self.resources, self.now)
        plans = {each.name: [planned.reason for planned in planner.plan([each])] for each in self.graph}
        return {name: reasons for name, reasons in plans.items() if reasons}


def by_asset(records: list[Record]) -> dict[str, Record]:
    """The only record of each asset."""
    assert len({record.asset for record in records}) == len(records)
    return {record.asset: record for record in records}


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Ann, bob and cem with a letter each, everything made, in one shard."""
    house = House(str(tmp_path))
    for user in ("ann", "bob", "cem"):
        house.outside.write(user, "l1", f"a word of {user}")
    house.run()
    return house


@pytest.fixture
def wide(tmp_path: Path) -> House:
    """Nine users over four shards, everything made."""
    house = House(str(tmp_path), n_shards=4)
    for number in range(9):
        house.outside.write(f"user-{number}", "l1", "hello")
    house.run()
    return house


# What a run makes


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_a_run_makes_everything(tmp_path: Path, scheme: str) -> None:
    """A first run fills every asset under a folder or any fsspec URL, and a second one finds nothing to do."""
    house = House(f"{scheme}{tmp_path}", n_shards=2)
    for user in ("ann", "cem"):
        house.outside.write(user, "l1", "two words")
    records = house.run()
    assert [(record.asset, record.shard, record.reason) for record in records] == [
        ("letters", 0, "observe"),
        ("letters", 1, "observe"),
        ("words", 0, "missing"),
        ("words", 1, "missing"),
        ("pages", 0, "missing"),
        ("pages", 1, "missing"),
    ]
    assert [row["page"] for row in house.rows("pages")] == ["1|l1:2:2.0:True"] * 2
    files = house.files()
    house.run()
    assert house.files() == files
    assert len(files) == 6


def test_footers_carry_versions_and_counts(house: House) -> None:
    """A footer says what its shard was made by and of, how much it holds, and until when that holds."""
    house.outside.write("ann", "l2", "later", opens_at=NOON + DAY)
    house.outside.write("bob", "l1", "")
    house.run()
    letters, words, pages = (house.shards.footer(each, 0) for each in house.graph)
    assert letters
    assert words
    assert pages
    assert (letters.recipe, letters.inputs) == ({"code": "1"}, {})
    assert words.recipe == {"code": "1", "resource model": "1"}
    assert words.inputs == {"letters": letters.edge_version(["user_id", "letter_id", "text"])}
    assert pages.inputs == {
        "letters": letters.edge_version(["user_id", "letter_id", "opens_at"]),
        "words": words.edge_version(WORDS.names),
    }
    assert set(words.columns) == {"user_id", "letter_id", "n_words"}
    assert [(each.n_rows, each.n_users) for each in (letters, words, pages)] == [(4, 3), (3, 3), (3, 3)]
    assert (words.valid_until, pages.valid_until) == (None, NOON + DAY)
    assert dict(zip(words.index.users, words.index.n_rows, strict=True)) == {"ann": 2, "bob": 0, "cem": 1}
    assert [(each.asset, each.shard, each.n_shards) for each in (words, pages)] == [("words", 0, 1), ("pages", 0, 1)]


def test_each_user_is_in_their_shard(wide: House) -> None:
    """Every asset keeps a user's rows in the shard that the hash of their id says, and nowhere else."""
    for each in wide.graph:
        for shard in range(4):
            with wide.shards.open(each, shard) as opened:
                users = opened.read(["user_id"])["user_id"].to_pylist() if opened else []
            assert all(shard_of(user, 4) == shard for user in users)
        assert wide.users_in(each.name) == set(wide.outside.changes)


def test_running_twice_is_running_once(house: House) -> None:
    """A second run over an unchanged world computes nobody and writes nothing: not a byte, not a time."""
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path(house.root).rglob("*.parquet")}
    (again,) = house.run()
    assert (again.asset, again.reason, again.changed, again.counts) == (
        "letters",
        "observe",
        False,
        {"letters_read": 0},
    )
    assert house.model.asked == house.press.asked == []
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == files
    assert len(files) == 3


# Who is computed


def test_only_changed_users_are_computed(house: House) -> None:
    """Only users whose inputs changed are computed; the function is not called for anybody else."""
    house.outside.write("bob", "l1", "three other words")
    done = by_asset(house.run())
    assert (house.model.asked, house.press.asked) == ([["bob"]], [["bob"]])
    assert {name: (record.reason, record.n_users_changed) for name, record in done.items()} == {
        "letters": ("observe", 3),
        "words": ("data", 1),
        "pages": ("data", 1),
    }
    assert done["pages"].n_users == 3


def test_the_rest_is_carried_over_as_it_is() -> None:
    """Rows of users who did not change are not made again: what their first making left in them stays."""
    numbers = itertools.count(1)

    @asset(step="count", schema=WORDS, code_version="1")
    def counts(letters: Annotated[pa.Table, "user_id", "letter_id", "text"]) -> pa.Table:
        number = next(numbers)
        rows = [{**row, "n_words": number, "weight": number / 3} for row in letters.to_pylist()]
        return pa.Table.from_pylist(rows, schema=WORDS)

    house = House("memory://carried")
    house.graph = Graph.of([house.graph["letters"], counts])
    for user in ("ann", "bob", "cem"):
        house.outside.write(user, "l1", "hello")
    house.run()
    first = {row["user_id"]: row for row in house.rows("counts", *WORDS.names)}
    house.outside.write("bob", "l1", "good bye")
    house.run()
    second = {row["user_id"]: row for row in house.rows("counts", *WORDS.names)}
    assert {user: row["n_words"] for user, row in second.items()} == {"ann": 1, "bob": 2, "cem": 1}
    assert (second["ann"], second["cem"]) == (first["ann"], first["cem"])


def test_a_column_not_read_computes_nobody(house: House) -> None:
    """A change in a column that nobody reads rewrites its own asset and no other."""
    house.outside.write("ann", "l1", "a word of ann", colour="red")
    (letters,) = house.run()
    assert (letters.asset, letters.changed) == ("letters", True)
    assert house.model.asked == house.press.asked == []


def test_a_change_that_comes_to_nothing_stays_nothing(house: House) -> None:
    """Where a computation gives what it gave before, so does whoever reads it."""
    house.outside.write("ann", "l1", "the word of ann")
    done = by_asset(house.run())
    assert (done["words"].n_users_changed, done["words"].changed) == (1, False)
    assert not done["pages"].changed


def test_readers_of_plain_columns_are_not_woken_by_nothing() -> None:
    """Where a computation gives what it gave before, an asset that reads no opaque column of it does not run."""

    @asset(step="see", schema=WORDS.remove(3), code_version="1")
    def seen(words: Annotated[pa.Table, "user_id", "letter_id", "n_words"]) -> pa.Table:
        return words

    house = House("memory://plain")
    house.graph = Graph.of([house.graph["letters"], house.graph["words"], seen])
    house.outside.write("ann", "l1", "two words")
    house.run()
    house.outside.write("ann", "l1", "other words")
    assert {name: record.changed for name, record in by_asset(house.run()).items()} == {
        "letters": True,
        "words": False,
    }
    house.model.version = "2"
    assert {name: record.changed for name, record in by_asset(house.run()).items()} == {
        "letters": False,
        "words": False,
    }


def test_users_without_rows_are_not_computed_again(house: House) -> None:
    """A user of whom nothing is made is remembered, and computed again only when their inputs change."""
    house.outside.write("bob", "l1", "")
    house.run()
    assert house.users_in("words") == {"ann", "cem"}
    house.outside.write("ann", "l1", "only ann")
    done = by_asset(house.run())
    assert house.model.asked == [["ann"]]
    assert done["words"].n_users == 3
    house.outside.write("bob", "l1", "back again")
    house.run()
    assert house.model.asked == [["bob"]]
    assert house.users_in("words") == {"ann", "bob", "cem"}


def test_users_who_left_leave_every_asset(house: House) -> None:
    """A user whom the inputs do not have any more has no row left, and nobody is computed for that."""
    house.outside.leave("bob")
    done = by_asset(house.run())
    assert [house.users_in(name) for name in done] == [{"ann", "cem"}] * 3
    assert house.model.asked == house.press.asked == []
    assert done["pages"].n_users == 2


def test_users_without_rows_leave_too(house: House) -> None:
    """A user of whom nothing was made is forgotten when they leave the inputs."""
    house.outside.write("bob", "l1", "")
    house.run()
    house.outside.leave("bob")
    house.run()
    footer = house.shards.footer(house.graph["words"], 0)
    assert footer
    assert footer.index.users == ("ann", "cem")


def test_the_last_user_of_a_shard_leaves(house: House) -> None:
    """Where the last user left, looking at that shard empties every asset; so does it where nobody ever was."""
    for user in ("ann", "bob", "cem"):
        house.outside.leave(user)
    house.run(only_shards=[0])
    assert [house.users_in(each.name) for each in house.graph] == [set()] * 3
    assert house.run(only_shards=[0])[0].changed is False


def test_a_new_user_is_computed_alone(house: House) -> None:
    """A user who comes is computed; those who were there are not."""
    house.outside.write("dan", "l1", "hello")
    house.run()
    assert (house.model.asked, house.press.asked) == ([["dan"]], [["dan"]])
    assert house.users_in("pages") == {"ann", "bob", "cem", "dan"}


def test_new_code_computes_everybody(house: House) -> None:
    """A raised code_version computes all users of that asset; the next asset, those whose rows changed by it."""
    house.graph = graph_of(words_code="2")
    done = by_asset(house.run())
    assert (done["words"].reason, done["pages"].reason) == ("code", "data")
    assert house.model.asked == house.press.asked == [["ann", "bob", "cem"]]
    assert {row["n_words"] for row in house.rows("words")} == {8}


def test_another_model_passes_on_through_opaque_columns(house: House) -> None:
    """Another model changes no plain column of its asset, yet whoever reads the opaque one computes everybody."""
    house.model.version = "2"
    done = by_asset(house.run())
    assert (done["words"].reason, done["words"].changed) == ("model", False)
    assert house.press.asked == [["ann", "bob", "cem"]]
    assert {row["page"] for row in house.rows("pages")} == {"1|l1:4:8.0:True"}
    house.run()
    assert house.press.asked == []


def test_an_opaque_column_is_no_news_of_its_own() -> None:
    """Vectors that come out differently in their last bit neither rewrite their shard nor wake anybody."""
    noise = itertools.count()

    @asset(step="weigh", schema=WORDS, code_version="1", opaque=("weight",))
    def words(letters: Annotated[pa.Table, "user_id", "letter_id"]) -> pa.Table:
        rows = [{**row, "n_words": 1, "weight": next(noise) * 1e-9} for row in letters.to_pylist()]
        return pa.Table.from_pylist(rows, schema=WORDS)

    house = House("memory://noise")
    house.graph = Graph.of([house.graph["letters"], words, house.graph["pages"]])
    house.outside.write("ann", "l1", "hello")
    house.run()
    files = house.files()
    forced = by_asset(house.run(select=["words"], force=True))
    assert (forced["words"].n_users_changed, forced["words"].changed) == (1, False)
    assert house.files() == files
    assert house.plans() == {}


def test_a_recipe_passes_on_through_two_opaque_columns() -> None:
    """An opaque column made from another opaque one passes on that that one was made by another model."""
    vector = pa.schema([("user_id", pa.string()), ("weight", pa.float64())])

    @asset(step="weigh", schema=vector, code_version="1", opaque=("weight",))
    def halves(words: Annotated[pa.Table, "user_id", "weight"]) -> pa.Table:
        return words.set_column(1, "weight", pc.divide(words["weight"], 2))

    @asset(step="weigh", schema=vector, code_version="1")
    def seen(halves: Annotated[pa.Table, "user_id", "weight"]) -> pa.Table:
        return halves

    house = House("memory://opaque")
    house.graph = Graph.of([house.graph["letters"], house.graph["words"], halves, seen])
    house.outside.write("ann", "l1", "hello")
    house.run()
    house.model.version = "4"
    house.run()
    assert house.rows("halves") == house.rows("seen") == [{"user_id": "ann", "weight": 2.0}]


def test_a_recipe_passes_on_from_a_source() -> None:
    """Opaque columns that a source fetched through another model are other data to whoever reads them."""
    vector = pa.schema([("user_id", pa.string()), ("weight", pa.float64())])

    @asset(step="fetch", schema=vector, code_version="1", opaque=("weight",))
    def weights(users: Users, model: Model) -> pa.Table:
        return pa.table([list(users), [float(model.version)] * len(users)], schema=vector)

    @asset(step="see", schema=vector, code_version="1")
    def seen(weights: Annotated[pa.Table, "user_id", "weight"]) -> pa.Table:
        return weights

    house = House("memory://source")
    house.graph = Graph.of([weights, seen])
    house.outside.write("ann", "l1", "hello")
    house.run()
    house.model.version = "2"
    house.run()
    assert house.rows("weights") == house.rows("seen") == [{"user_id": "ann", "weight": 2.0}]


def test_an_opaque_column_changes_with_columns_not_read() -> None:
    """Whoever reads an opaque column without the ones it follows from is computed when those change."""
    vector = pa.schema([("user_id", pa.string()), ("weight", pa.float64())])

    @asset(step="weigh", schema=vector, code_version="1")
    def seen(words: Annotated[pa.Table, "user_id", "weight"]) -> pa.Table:
        return words

    house = House("memory://unread")
    house.graph = Graph.of([house.graph["letters"], house.graph["words"], seen])
    house.outside.write("ann", "l1", "one")
    house.run()
    house.outside.write("ann", "l1", "one two three")
    house.run()
    assert house.rows("seen") == [{"user_id": "ann", "weight": 3.0}]


def test_a_model_tried_on_one_user_and_taken_back(house: House) -> None:
    """A model that was tried on one user and taken back leaves no trace, neither in its asset nor in its readers."""
    house.model.version = "2"
    house.outside.write("ann", "l1", "hello")
    house.run(only_users=["ann"])
    assert {row["page"] for row in house.rows("pages") if row["user_id"] == "ann"} == {"1|l1:1:2.0:True"}
    house.model.version = "1"
    house.run()
    assert {row["weight"] for row in house.rows("words") if row["user_id"] == "ann"} == {1.0}
    assert {row["page"] for row in house.rows("pages") if row["user_id"] == "ann"} == {"1|l1:1:1.0:True"}


def test_a_model_that_reaches_users_one_by_one(house: House) -> None:
    """Readers of an opaque column are computed again when the user's own was, however far the new model has come."""
    house.model.version = "2"
    house.run(select=["words"], only_users=["ann"])
    house.run(select=["pages"])
    house.run()
    assert {row["weight"] for row in house.rows("words")} == {8.0}
    assert {row["page"] for row in house.rows("pages")} == {"1|l1:4:8.0:True"}


def test_a_row_whose_time_is_up_is_computed_again(house: House) -> None:
    """A row is computed again at the instant in valid_until, and no other row, though nothing else changed."""
    house.outside.write("ann", "l1", "hello", opens_at=NOON + DAY)
    house.outside.write("bob", "l1", "hello", opens_at=NOON + 2 * DAY)
    house.run()
    house.now = NOON + DAY - timedelta(microseconds=1)
    assert [record.asset for record in house.run()] == ["letters"]
    house.now = NOON + DAY
    done = by_asset(house.run())
    assert (done["pages"].reason, house.press.asked) == ("stale", [["ann"]])
    assert {row["user_id"]: row["valid_until"] for row in house.rows("pages")} == {
        "ann": None,
        "bob": NOON + 2 * DAY,
        "cem": None,
    }
    footer = house.shards.footer(house.graph["pages"], 0)
    assert footer
    assert footer.valid_until == NOON + 2 * DAY


# What is asked for


def test_force_computes_everybody(house: House) -> None:
    """Forced, the selected asset computes every user though nothing changed, and ends in the same bytes."""
    files = house.files()
    done = by_asset(house.run(select=["pages"], force=True))
    assert (done["pages"].reason, done["pages"].n_users_changed, done["pages"].changed) == ("forced", 3, False)
    assert house.press.asked == [["ann", "bob", "cem"]]
    assert house.files() == files


def test_force_empties_nothing(house: House) -> None:
    """Forced while its input is set aside, an asset keeps its rows: there is nothing to make new ones of."""
    house.shards.set_aside(house.graph["letters"], 0)
    house.run(select=["words"], force=True)
    assert house.users_in("words") == {"ann", "bob", "cem"}


@pytest.mark.parametrize(
    ("select", "wanted"),
    [(["words"], ["words"]), (["+words"], ["letters", "words"]), (["words+"], ["words", "pages"]), ([], [])],
)
def test_only_selected_assets_run(house: House, select: list[str], wanted: list[str]) -> None:
    """A selection runs what it names, and nothing else, even if more is behind."""
    house.outside.write("ann", "l1", "something new today")
    house.run(select=["letters"])
    house.graph = graph_of(words_code="2", pages_code="2")
    assert [record.asset for record in house.run(select=select)] == wanted


def test_a_misspelt_selection_is_refused(house: House) -> None:
    """A selection of an asset that is not there is refused before anything runs."""
    with pytest.raises(GraphError, match="Did you mean 'pages'"):
        house.run(select=["letters", "pagse"], force=True)


@pytest.mark.parametrize("listed", [list, iter])
def test_only_some_shards(wide: House, listed: Any) -> None:
    """A run for some shards leaves the others for the next one."""
    for user in list(wide.outside.changes):
        wide.outside.write(user, "l2", "news")
    assert [(record.asset, record.shard) for record in wide.run(only_shards=listed([2, 1]))] == [
        (name, shard) for name in ("letters", "words", "pages") for shard in (1, 2)
    ]
    changed = {row["user_id"] for row in wide.rows("letters") if row["letter_id"] == "l2"}
    assert changed == {user for user in wide.outside.changes if shard_of(user, 4) in (1, 2)}
    wide.run()
    assert {row["page"] for row in wide.rows("pages")} == {"1|l1:1:1.0:True l2:1:1.0:True"}


def test_only_some_users(wide: House) -> None:
    """A run for one user looks at that user and computes nobody else; the others are done by the next run."""
    for user in list(wide.outside.changes):
        wide.outside.write(user, "l2", "news")
    wide.run(select=["letters"])
    done = by_asset(wide.run(only_users=["user-5"]))
    assert {record.shard for record in done.values()} == {shard_of("user-5", 4)}
    assert (done["letters"].n_users_changed, wide.model.asked, wide.press.asked) == (1, [["user-5"]], [["user-5"]])
    assert {row["user_id"] for row in wide.rows("words") if row["letter_id"] == "l2"} == {"user-5"}
    assert wide.plans()["words"] == ["data"] * 4
    wide.run()
    assert sorted(itertools.chain(*wide.model.asked)) == sorted(wide.outside.changes.keys() - {"user-5"})
    assert {row["page"] for row in wide.rows("pages")} == {"1|l1:1:1.0:True l2:1:1.0:True"}
    assert wide.plans() == {}


def test_only_some_users_for_new_code(house: House) -> None:
    """New code tried on one user stays to be done for the others, and is not done again for the one."""
    house.graph = graph_of(words_code="3")
    house.run(only_users=["bob"])
    assert {row["user_id"]: row["n_words"] for row in house.rows("words")} == {"ann": 4, "bob": 12, "cem": 4}
    assert house.plans()["words"] == ["code"]
    house.run()
    assert house.model.asked == [["ann", "cem"]]
    assert {row["n_words"] for row in house.rows("words")} == {12}


def test_only_users_who_did_not_change(house: House) -> None:
    """A run for a user who did not change leaves the shard as far behind as it was."""
    house.outside.write("ann", "l1", "something new today")
    house.run(select=["letters"])
    house.run(only_users=["bob"])
    assert house.model.asked == []
    assert house.plans() == {"words": ["data"]}
    house.run()
    assert house.model.asked == [["ann"]]


def test_a_run_for_one_user_does_not_hide_who_left(house: House) -> None:
    """A user who left is gone after the next run, whoever was computed alone in between."""
    house.outside.leave("bob")
    house.run(select=["letters"])
    house.run(only_users=["ann"])
    house.run()
    assert [house.users_in(each.name) for each in house.graph] == [{"ann", "cem"}] * 3


def test_a_run_for_the_user_who_left(house: House) -> None:
    """A run for just the user who left takes their rows away."""
    house.outside.leave("bob")
    house.run(select=["letters"])
    house.run(only_users=["bob"])
    assert house.users_in("pages") == {"ann", "cem"}


def test_readers_that_observe_are_left_behind_too() -> None:
    """An asset that reads others and looks at users still has the rest to do after a run for one user."""
    handed: list[str] = []

    @asset(step="hand", schema=pa.schema([("user_id", pa.string()), ("page", pa.string())]), code_version="1")
    def shelf(pages: Annotated[pa.Table, "user_id", "page"], previous: pa.Table, users: Users) -> pa.Table:
        handed.extend(users)
        mine = pa.array(sorted(users), pa.string())
        kept = previous.filter(pc.invert(pc.is_in(previous["user_id"], mine)))
        return pa.concat_tables([kept, pages.filter(pc.is_in(pages["user_id"], mine))])

    house = House("memory://shelf")
    house.graph = Graph.of([*house.graph, shelf])
    for user in ("ann", "bob"):
        house.outside.write(user, "l1", "hello")
    house.run()
    for user in ("ann", "bob"):
        house.outside.write(user, "l1", "hello again")
    house.run(select=["+pages"])
    handed.clear()
    house.run(only_users=["ann"], select=["shelf"])
    assert handed == ["ann"]
    assert house.plans() == {"shelf": ["data"]}


# What goes wrong


def test_a_check_keeps_the_old_shard(house: House) -> None:
    """A refused shard stays byte for byte as it was; what was to follow it, and later assets, do not happen."""
    files = house.files()
    confirmed = dict(house.outside.confirmed)
    house.graph = graph_of(
        letters=lambda candidate: "too red" if "red" in candidate.table["colour"].to_pylist() else None
    )
    house.outside.write("ann", "l1", "hello", colour="red")
    with pytest.raises(CheckFailed, match=r"^letters, shard 0: too red\. The shard's file stays as it was\."):
        house.run()
    assert house.files() == files
    assert house.outside.confirmed == confirmed
    assert house.model.asked == []


def test_a_refused_shard_is_tried_again(house: House) -> None:
    """What a check refused is still to do, and is done once the check passes."""
    house.outside.write("ann", "l1", "something new today")
    house.graph = graph_of(words=lambda _: "not today")
    for _ in range(2):
        with pytest.raises(CheckFailed, match="words, shard 0: not today"):
            house.run()
    house.graph = graph_of()
    done = by_asset(house.run())
    assert (done["words"].reason, house.model.asked) == ("data", [["ann"]])


def test_a_check_sees_what_is_to_be_written(house: House) -> None:
    """A check sees the whole shard with the rows carried over, its inputs, and how many users changed."""
    seen: list[Candidate] = []

    def look(candidate: Candidate) -> None:
        assert len(candidate.inputs["letters"]) == 4
        assert set(candidate.inputs) == {"letters"}
        seen.append(candidate)

    house.graph = graph_of(words=look)
    house.outside.write("ann", "l2", "another")
    house.run()
    (candidate,) = seen
    assert len(candidate.table) == 4
    assert (candidate.n_users, candidate.n_users_changed, candidate.is_anew) == (3, 1, False)


def test_a_check_knows_the_first_time(tmp_path: Path) -> None:
    """The first time of a shard is told as such, since then every user is new."""
    seen: list[bool] = []
    house = House(str(tmp_path))
    house.graph = graph_of(pages=lambda candidate: seen.append(candidate.is_anew))
    house.outside.write("ann", "l1", "hello")
    house.run()
    house.outside.write("ann", "l1", "hello again")
    house.run()
    assert seen == [True, False]


def test_new_code_is_no_suspicious_change(tmp_path: Path) -> None:
    """A limit on how many users change at once does not stand in the way of new code, which changes everybody."""
    house = House(str(tmp_path))
    for number in range(30):
        house.outside.write(f"user-{number}", "l1", "hello")
    house.graph = graph_of(pages=changed_users_under(0.5))
    house.run()
    house.graph = graph_of(pages=changed_users_under(0.5), pages_code="2")
    house.run()
    assert {row["page"] for row in house.rows("pages")} == {"2|l1:1:1.0:True"}


def test_what_follows_comes_after_the_file(house: House) -> None:
    """When the output's consequence happens, the new file is in place for everybody to read."""
    seen: list[list[str]] = []
    house.outside.check_on_confirm = lambda: seen.append([row["text"] for row in house.rows("letters", "text")])
    house.outside.write("ann", "l1", "brand new")
    house.run()
    assert seen == [["brand new", "a word of bob", "a word of cem"]]


def test_what_follows_comes_without_news_too(house: House) -> None:
    """The consequence of a look happens also where nothing changed and so nothing is written."""
    house.outside.confirmed.clear()
    assert house.run()[0].changed is False
    assert house.outside.confirmed == {"ann": 1, "bob": 1, "cem": 1}


def test_a_run_that_died_before_what_follows(house: House) -> None:
    """A run that died between data and sync token gets the same changes again and ends in the same rows."""
    house.outside.write("ann", "l2", "another")
    house.outside.erase("bob", "l1")
    house.outside.dies = True
    with pytest.raises(Died):
        house.run()
    rows = house.rows("letters")
    assert [(row["user_id"], row["letter_id"]) for row in rows] == [("ann", "l1"), ("ann", "l2"), ("cem", "l1")]
    house.outside.dies = False
    assert house.run()[0].counts["letters_read"] == 3
    assert house.rows("letters") == rows
    assert house.users_in("pages") == {"ann", "cem"}


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (lambda table: table.drop_columns(["n_words"]), r"words gave no column 'n_words' \(int64\)\. Return it"),
        (
            lambda table: table.set_column(2, "n_words", table["letter_id"]),
            r"words gave 'n_words' as string.*Cast it",
        ),
    ],
)
def test_a_table_of_another_schema_is_refused(house: House, give: Callable[[pa.Table], pa.Table], said: str) -> None:
    """An asset that gives other columns than it declares is refused by column, and its shard stays as it was."""

    @asset(step="weigh", schema=WORDS, code_version="2")
    def words(letters: Annotated[pa.Table, "user_id", "letter_id"]) -> pa.Table:
        rows = [{**row, "n_words": 1, "weight": 1.0} for row in letters.to_pylist()]
        return give(pa.Table.from_pylist(rows, schema=WORDS))

    files = house.files()
    house.graph = Graph.of([house.graph["letters"], words])
    with pytest.raises(SchemaError, match=said):
        house.run()
    assert house.files() == files


@pytest.mark.parametrize("stranger", ["zoe", "cem"])
def test_rows_of_other_users_are_refused(house: House, stranger: str) -> None:
    """Rows of a user whom the asset was not given are refused by user, not stored beside the ones carried over."""

    @asset(step="weigh", schema=WORDS, code_version="2")
    def words(letters: Annotated[pa.Table, "user_id", "letter_id"]) -> pa.Table:
        users = set(letters["user_id"].to_pylist())
        users |= {stranger} if users == {"ann"} else set()
        rows = [{"user_id": user, "letter_id": "l1", "n_words": 1, "weight": 1.0} for user in users]
        return pa.Table.from_pylist(rows, schema=WORDS)

    house.graph = Graph.of([house.graph["letters"], words])
    house.run()
    house.outside.write("ann", "l2", "hello")
    with pytest.raises(AssetError, match=f"words.*'{stranger}'"):
        house.run()


def test_a_missing_resource_is_named(house: House) -> None:
    """A run without a resource that an asset asks for says which asset asks for what."""
    with pytest.raises(AssetError, match=r"letters.*Outside"):
        house.run(resources={Model: house.model})


def test_a_broken_shard_is_made_anew(house: House) -> None:
    """A run over a broken file stops with the mend; set aside as that says, it is made again as it was."""
    before = {each.name: house.rows(each.name) for each in house.graph}
    for each in house.graph:
        path = Path(house.shards.path(each.name, 0))
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ShardUnreadable, match=f"python -m assets rebuild {each.name} --shard 0"):
            house.run()
        house.shards.set_aside(each, 0)
        house.run()
    assert {each.name: house.rows(each.name) for each in house.graph} == before


def test_another_number_of_shards_stops_the_run(house: House) -> None:
    """A run with another N_SHARDS than the root was written with is refused before it changes anything."""
    files = house.files()
    house.shards = Shards(house.root, 2)
    with pytest.raises(ShardUnreadable, match="N_SHARDS=1, now it is 2"):
        house.run()
    assert house.files() == files


# Any life ends in the same tables as a computation from nothing


USERS = st.sampled_from(["ann", "bob", "cem", "dan"])
LETTER_IDS = st.sampled_from(["l1", "l2"])
EDITS = st.one_of(
    st.tuples(
        st.just("write"),
        USERS,
        LETTER_IDS,
        st.sampled_from(["", "one", "one two", "two one"]),
        st.sampled_from([None, NOON + DAY, NOON + 2 * DAY]),
        st.sampled_from(["", "red"]),
    ),
    st.tuples(st.just("erase"), USERS, LETTER_IDS),
    st.tuples(st.just("leave"), USERS.filter(lambda user: user != "ann")),  # somebody stays to be looked at
)
CHANGES = st.one_of(
    st.tuples(st.just("code"), st.sampled_from(["words_code", "pages_code"]), st.sampled_from(["1", "2", "3"])),
    st.tuples(st.just("model"), st.sampled_from(["1", "2"])),
    st.tuples(st.just("sleep"), st.sampled_from([DAY / 2, DAY])),
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
"""Runs of a part, in any combination."""

_roots = itertools.count()


class Life(House):
    """A house in which things happen, and runs of a part."""

    def __init__(self, n_shards: int = 1) -> None:
        super().__init__(f"memory://life-{next(_roots)}", n_shards)
        self.codes: dict[str, str] = {}

    def happens(self, what: str, *details: Any) -> None:
        if what == "code":
            self.codes |= dict([details])
            self.graph = graph_of(**self.codes)
        elif what == "model":
            (self.model.version,) = details
        elif what == "sleep":
            self.now += details[0]
        else:
            getattr(self.outside, what)(*details)

    def runs(self, *, dies: bool = False, **options: Any) -> None:
        self.outside.dies = dies
        try:
            self.run(**options)
        except Died:
            assert dies
        self.outside.dies = False

    def planned(
        self, *, select: list[str] | None = None, only_users: list[str] | None = None, force: bool = False
    ) -> Plan:
        """The plan of a run over everybody, or of a part."""
        users = dict.fromkeys(self.outside.changes, self.now)
        request = asked(self.shards.n_shards, users, only_users=only_users, force=force)
        chosen = self.graph if select is None else self.graph.select(select)
        return Planner(self.graph, self.shards, self.resources, self.now).plan(chosen, request)

    def tables(self) -> dict[str, list[Row]]:
        return {each.name: self.rows(each.name) for each in self.graph}

    def facts(self) -> list[Row]:
        """All that the footers say but the time of writing."""
        footers = [asdict(footer) for each in self.graph for footer in self.shards.footers(each)]
        return [{**facts, "materialized_at": None} for facts in footers]

    def from_nothing(self) -> Life:
        """The same world in a house where nothing was made yet."""
        other = Life()
        other.outside, other.model, other.now, other.graph = self.outside, self.model, self.now, self.graph
        return other


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.lists(st.one_of(EDITS, CHANGES), max_size=3), RUNS), min_size=1, max_size=4))
@example([([("leave", "bob")], {"only_users": ["ann"]})])
@example([([("code", "words_code", "2")], {"only_users": ["ann"]}), ([("code", "words_code", "1")], {})])
@example([([("model", "2")], {"only_users": ["ann"], "force": True}), ([("model", "1")], {})])
@example([([("model", "2")], {"select": ["words"], "only_users": ["ann"]}), ([], {"select": ["pages"]})])
@example([([("write", "bob", "l1", "two words", None, "")], {"dies": True}), ([("leave", "bob")], {"dies": True})])
def test_any_life_ends_as_from_nothing(events: list[tuple[list[tuple[Any, ...]], dict[str, Any]]]) -> None:
    """Whatever was edited, forced, tried on a few or died in between, the end is that of one run over everybody."""
    MemoryFileSystem.store.clear()  # or each life is slower than the one before
    life = Life()
    for user in ("ann", "bob", "cem"):
        life.outside.write(user, "l1", "one")
    life.run()
    for changes, options in events:
        for change in changes:
            life.happens(*change)
        life.runs(**options)
    life.run()
    fresh = life.from_nothing()
    fresh.run()
    assert life.tables() == fresh.tables()
    assert life.facts() == fresh.facts()
    files = life.files()
    assert {record.asset for record in life.run()} == {"letters"}
    assert life.files() == files


def test_a_column_may_be_added(house: House) -> None:
    """A column that is added with a new code_version is filled by the next run; no shard has to be rebuilt."""
    house.graph = with_a_note(house, nullable=True)
    house.run()
    assert {row["note"] for row in house.rows("words")} == {"new"}


def with_a_note(house: House, *, nullable: bool) -> Graph:
    """The graph after words got a column more."""
    noted = WORDS.append(pa.field("note", pa.string(), nullable=nullable))

    @asset(step="weigh", schema=noted, code_version="2")
    def words(letters: Annotated[pa.Table, "user_id", "letter_id"]) -> pa.Table:
        rows = [
            {"user_id": user, "letter_id": "l1", "n_words": 1, "weight": 1.0, "note": "new"}
            for user in set(letters["user_id"].to_pylist())
        ]
        return pa.Table.from_pylist(rows, schema=noted)

    return Graph.of([house.graph["letters"], words])


@pytest.mark.parametrize("nullable", [True, False])
def test_a_column_may_be_tried_on_one_user(house: House, nullable: bool) -> None:
    """A column that was added is null for the others after a run for one user, and filled by the next run."""
    house.graph = with_a_note(house, nullable=nullable)
    house.run(only_users=["bob"])
    assert {row["user_id"]: row["note"] for row in house.rows("words")} == {"ann": None, "bob": "new", "cem": None}
    assert house.plans() == {"words": ["code"]}
    done = by_asset(house.run())
    assert done["words"].n_users_changed == 2
    assert {row["note"] for row in house.rows("words")} == {"new"}
    assert house.plans() == {}


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
def test_a_column_may_be_of_any_type(kind: pa.DataType, value: object) -> None:
    """Columns of any type, the first of which need not be user_id, are made, carried over and left alone."""
    schema = pa.schema([("x", kind), ("user_id", pa.string())])

    @asset(step="see", schema=schema, code_version="1")
    def seen(letters: Annotated[pa.Table, "user_id", "text"]) -> pa.Table:
        users = letters["user_id"].to_pylist()
        values = [None if text == "nothing" else value for text in letters["text"].to_pylist()]
        return pa.table([pa.array(values, kind), users], schema=schema)

    house = House(f"memory://types-{next(_roots)}")
    house.graph = Graph.of([house.graph["letters"], seen])
    for user, text in (("cem", "hello"), ("ann", "nothing"), ("bob", "hello")):
        house.outside.write(user, "l1", text)
    house.run()
    assert [record.asset for record in house.run()] == ["letters"]
    house.outside.write("ann", "l2", "hello")
    assert by_asset(house.run())["seen"].n_users_changed == 1
    assert sorted((row["user_id"], row["x"] is None) for row in house.rows("seen")) == [
        ("ann", False),
        ("ann", True),
        ("bob", False),
        ("cem", False),
    ]


def test_a_row_of_nobody_is_refused(house: House) -> None:
    """A row without a user is refused with the name of the asset that gave it, and the shard stays as it was."""

    @asset(step="weigh", schema=WORDS, code_version="2")
    def words(letters: Annotated[pa.Table, "user_id"]) -> pa.Table:
        return pa.Table.from_pylist([{"user_id": None}, {"user_id": "ann"}], schema=WORDS)

    files = house.files()
    house.graph = Graph.of([house.graph["letters"], words])
    with pytest.raises(SchemaError, match="words gave a row without a 'user_id'"):
        house.run()
    assert house.files() == files


def test_a_sources_model_reaches_each_user_when_looked_at() -> None:
    """Readers of a source's opaque column compute a user again when that was looked at through another model."""
    vector = pa.schema([("user_id", pa.string()), ("weight", pa.float64())])

    @asset(step="fetch", schema=vector, code_version="1", opaque=("weight",))
    def weights(previous: pa.Table, users: Users, model: Model) -> pa.Table:
        kept = [row for row in previous.to_pylist() if row["user_id"] not in users]
        rows = [{"user_id": user, "weight": float(model.version)} for user in users]
        return pa.Table.from_pylist([*kept, *rows], schema=vector)

    @asset(step="see", schema=vector, code_version="1")
    def seen(weights: Annotated[pa.Table, "user_id", "weight"]) -> pa.Table:
        return weights

    house = House(f"memory://looks-{next(_roots)}")
    house.graph = Graph.of([weights, seen])
    house.run(users=dict.fromkeys(["ann", "bob"], NOON))
    house.model.version = "2"
    for user in ("ann", "bob"):
        done = by_asset(house.run(users={user: NOON}))
        assert done["seen"].n_users_changed == 1
        assert house.rows("weights") == house.rows("seen")
    assert {row["weight"] for row in house.rows("seen")} == {2.0}


# A run is what its plan said


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.lists(st.one_of(EDITS, CHANGES), max_size=4), RUNS), min_size=1, max_size=4))
@example([([("leave", "bob"), ("code", "words_code", "2")], {"only_users": ["ann"]})])
@example([([("write", "dan", "l1", "one two", None, "")], {"only_users": ["dan"]}), ([], {"force": True})])
@example([([("write", "bob", "l1", "", None, "")], {"select": ["letters"]}), ([("leave", "bob")], {})])
@example([([("leave", "bob")], {"select": ["letters"]}), ([], {"select": ["pages"], "only_users": ["ann", "cem"]})])
@example(
    [
        ([("write", "dan", "l1", "one", None, "")], {"select": ["letters"]}),
        ([("code", "words_code", "2")], {"select": ["words"], "only_users": ["ann", "cem"]}),
    ]
)
def test_a_run_does_what_its_plan_said(events: list[tuple[list[tuple[Any, ...]], dict[str, Any]]]) -> None:
    """A run computes no user and runs no shard that its plan did not name; what is not at most, exactly as named."""
    MemoryFileSystem.store.clear()
    life = Life(n_shards=2)
    for user in ("ann", "bob", "cem"):
        life.outside.write(user, "l1", "one")
    life.run()
    for changes, options in events:
        for change in changes:
            life.happens(*change)
        plan = life.planned(**{name: value for name, value in options.items() if name != "dies"})
        life.model.asked, life.press.asked = [], []
        records = list(execute(plan, life.graph, life.shards, resources=life.resources, now=life.now))
        computed = {"words": life.model.asked, "pages": life.press.asked}
        for entry in plan:
            _holds(life, entry, [each for each in records if (each.asset, each.shard) == (entry.asset, entry.shard)])
        for name, asked_for in computed.items():
            named = frozenset().union(*(entry.users for entry in plan.of(name)))
            exact = frozenset().union(*(entry.users for entry in plan.of(name) if not entry.at_most))
            assert exact <= set(itertools.chain(*asked_for)) <= named
        assert {(each.asset, each.shard) for each in records} <= {(each.asset, each.shard) for each in plan}


def _holds(life: Life, entry: Planned, records: list[Record]) -> None:
    """What an entry said is what came of it; of one that was planned at most, it is a bound."""
    if entry.at_most and not records:
        return
    (record,) = records
    if entry.at_most:
        assert record.n_users_changed <= len(entry.users)
        assert record.n_users <= entry.n_users
        return
    assert (record.reason, record.n_users_changed) == (entry.reason, len(entry.users))
    if entry.asset != "letters":
        read = [row for row in life.rows("letters") if row["user_id"] in entry.users]
        assert (record.n_users, len(read)) == (entry.n_users, entry.n_rows)
