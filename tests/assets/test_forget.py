from __future__ import annotations

import itertools
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.asset import Output, Users, asset
from assets.errors import ShardUnreadable
from assets.forget import forget
from assets.graph import Graph
from assets.index import Index
from assets.materialize import materialize
from assets.parquet import Shards
from assets.plan import Planner
from assets.records import Record
from assets.versions import shard_of

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TIME = pa.timestamp("us", "UTC")
GONE, SECRET = "ann-who-leaves", "xylophone"
LETTERS = pa.schema([("user_id", pa.string()), ("text", pa.string()), ("labels", pa.list_(pa.string()))])
VECTORS = pa.schema([("user_id", pa.string()), ("text", pa.string()), ("vector", pa.list_(pa.float16()))])
PAGES = pa.schema([("page", pa.string()), ("user_id", pa.string()), ("valid_until", TIME)])

_roots = itertools.count()


class Outside:
    """Letters by user; the user's vectors and pages are made of those that have a text."""

    def __init__(self, letters: dict[str, list[str]]) -> None:
        self.letters = letters
        self.printed: list[str] = []


def graph_of(letters_schema: pa.Schema = LETTERS, code: str = "1") -> Graph:
    @asset(step="fetch", schema=letters_schema, code_version=code)
    def letters(previous: pa.Table, users: Users, outside: Outside) -> pa.Table:
        kept = [row for row in previous.to_pylist() if row["user_id"] not in users]
        new = [
            {"user_id": user, "text": text, "labels": [text, "label"]}
            for user in users
            for text in outside.letters.get(user, [])
        ]
        return pa.Table.from_pylist([*kept, *new], schema=letters_schema)

    @asset(step="embed", schema=VECTORS, code_version=code, opaque=("vector",))
    def vectors(letters: Annotated[pa.Table, "user_id", "text"]) -> pa.Table:
        rows = [row for row in letters.to_pylist() if row["text"]]
        made = [{**row, "vector": np.frombuffer(row["text"].encode()[:2].ljust(2), np.float16)} for row in rows]
        return pa.Table.from_pylist(made, schema=VECTORS)

    @asset(step="print", schema=PAGES, code_version=code)
    def pages(
        letters: Annotated[pa.Table, "user_id"], vectors: Annotated[pa.Table, "user_id", "text"], outside: Outside
    ) -> Output:
        texts: dict[str, list[str]] = {user: [] for user in letters["user_id"].to_pylist()}
        outside.printed += texts
        for row in vectors.to_pylist():
            texts[row["user_id"]].append(row["text"])
        rows = [{"user_id": user, "page": " ".join(own), "valid_until": _later(user)} for user, own in texts.items()]
        return Output(pa.Table.from_pylist(rows, schema=PAGES))

    return Graph.of([letters, vectors, pages])


def _later(user: str) -> datetime:
    """The pages of whoever leaves are the first to run out."""
    return NOON + timedelta(days=1 if user == GONE else 2)


class House:
    """One root, and the letters that are written outside."""

    def __init__(self, root: str, letters: dict[str, list[str]], n_shards: int = 2) -> None:
        self.root = root
        self.shards = Shards(root, n_shards)
        self.outside = Outside({user: list(texts) for user, texts in letters.items()})
        self.graph = graph_of()

    def run(self, users: list[str] | None = None) -> list[Record]:
        self.outside.printed = []
        looked = dict.fromkeys(self.outside.letters if users is None else users, NOON)
        given = {Outside: self.outside}
        return materialize(self.graph, self.shards, resources=given, now=NOON, users=looked)

    def forget(self, *users: str) -> int:
        return forget(self.graph, self.shards, users)

    def plans(self) -> list[tuple[str, str]]:
        planner = Planner(self.graph, self.shards, {Outside: self.outside}, NOON)
        return [(each.name, planned.reason) for each in self.graph for planned in planner.plan([each])]

    def facts(self) -> dict[tuple[str, int], Any]:
        """All that is stored of each shard but times of writing and versions of what was read."""
        found: dict[tuple[str, int], Any] = {}
        for each in self.graph:
            for shard in range(self.shards.n_shards):
                with self.shards.open(each, shard) as opened:
                    if opened:
                        footer, table = opened.footer, opened.read(each.schema.names)
                        says = (footer.columns, footer.opaque, footer.recipe, footer.n_rows, footer.n_users)
                        found[each.name, shard] = table.to_pylist(), says, footer.valid_until, footer.packed
        return found


LIVES = {
    GONE: [SECRET, f"tune the {SECRET}", ""],
    "bob": ["buy milk", ""],
    "cem": [""],
    **{f"user-{n}": [f"letter {n}"] for n in range(6)},
}


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Nine users over two shards, everything made."""
    house = House(str(tmp_path), LIVES)
    house.run()
    return house


def without(user: str) -> dict[str, list[str]]:
    return {each: texts for each, texts in LIVES.items() if each != user}


def texts_in(path: Path) -> Iterator[str]:
    """All that a file says: its bytes, its name, and, of Parquet, what is encoded in rows, statistics and footer."""
    raw = path.read_bytes()
    yield str(path)
    yield raw.decode("latin-1")
    if raw.startswith(b"PAR1"):
        file = pq.ParquetFile(path)
        yield str(file.read().to_pylist())
        metadata = file.metadata.metadata or {}
        yield str(metadata)
        yield b64decode(metadata[b"users"]).decode("latin-1")
        yield str(Index.unpack(b64decode(metadata[b"users"])).users)
        yield str([file.metadata.row_group(group).to_dict() for group in range(file.metadata.num_row_groups)])


def traces(root: str, *words: str) -> set[str]:
    """The files in which a word stands."""
    files = (path for path in Path(root).rglob("*") if path.is_file())
    return {
        str(path.relative_to(root))
        for path in files
        if any(word in text for word in words for text in texts_in(path))
    }


def test_the_search_finds_every_trace(house: House) -> None:
    """Before anybody is forgotten, the search finds them in every asset of their shard."""
    shard = f"shard={shard_of(GONE, 2):04d}"
    assert traces(house.root, GONE) == {f"{each.name}/{shard}/data.parquet" for each in house.graph}
    assert traces(house.root, SECRET) == traces(house.root, GONE)


def test_nothing_is_left_of_whoever_is_forgotten(house: House) -> None:
    """Neither a user's id nor their texts stand in any file, raw or decoded; the rows that went are counted."""
    assert house.forget(GONE) == 3 + 2 + 1
    assert traces(house.root, GONE, SECRET) == set()
    assert house.forget(GONE) == 0


def test_a_user_without_rows_is_forgotten_too(house: House) -> None:
    """A user of whom an asset made nothing does not stay in its footer."""
    assert traces(house.root, "cem") >= {f"vectors/shard={shard_of('cem', 2):04d}/data.parquet"}
    house.forget("cem")
    assert traces(house.root, "cem") == set()


def test_the_others_are_as_if_the_user_had_never_been(house: House, tmp_path: Path) -> None:
    """Rows, users, versions and times of the others are those of a root that the user never was in."""
    other = House(str(tmp_path / "other"), without(GONE))
    other.run()
    house.forget(GONE)
    assert house.facts() == other.facts()


def test_pages_of_data_are_as_if_the_user_had_never_been(house: House, tmp_path: Path) -> None:
    """Down to the bytes of the columns a file is the one that would have been written without the user."""
    other = House(str(tmp_path / "other"), without(GONE))
    other.run()
    house.forget(GONE)
    for each in house.graph:
        files = [Path(one.shards.path(each.name, shard_of(GONE, 2))) for one in (house, other)]
        ends = [-8 - int.from_bytes(file.read_bytes()[-8:-4], "little") for file in files]
        contents = [file.read_bytes()[:end] for file, end in zip(files, ends, strict=True)]
        assert contents[0] == contents[1]
        assert len(contents[0]) > 100


def test_the_next_run_computes_nobody(house: House) -> None:
    """After somebody was forgotten the next run computes no one, and then nothing is left to do."""
    house.forget(GONE)
    del house.outside.letters[GONE]
    done = house.run()
    assert house.outside.printed == []
    assert {each.n_users_changed for each in done if each.asset != "letters"} <= {0}
    assert not any(each.changed for each in done)
    assert house.plans() == []
    assert traces(house.root, GONE, SECRET) == set()


def test_who_is_found_again_comes_back(house: House) -> None:
    """A user who is looked at after all is made again, alone, also where all inputs are again what they were."""
    before = house.facts()
    house.forget(GONE)
    house.run()
    assert house.outside.printed == [GONE]
    assert house.facts() == before


def test_other_shards_are_left_alone(house: House) -> None:
    """Files of shards that the user was not in are not touched."""
    others = [Path(house.shards.path(each.name, 1 - shard_of(GONE, 2))) for each in house.graph]
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in others]
    house.forget(GONE)
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in others] == before


def test_nobody_is_forgotten(house: House) -> None:
    """To forget a user who is not there, or nobody, touches no file."""
    before = {path: path.read_bytes() for path in Path(house.root).rglob("*.parquet")}
    assert house.forget("zoe") == house.forget() == 0
    assert {path: path.read_bytes() for path in before} == before


def test_several_are_forgotten_at_once(house: House) -> None:
    """Users of several shards, and all of one shard, are forgotten together."""
    assert {shard_of(user, 2) for user in LIVES} == {0, 1}
    house.forget(*LIVES)
    assert traces(house.root, *LIVES, SECRET, "milk", "letter 1") == set()
    assert {tuple(rows) for rows, *_ in house.facts().values()} == {()}
    assert {footer.n_users for each in house.graph for footer in house.shards.footers(each)} == {0}


def test_what_was_set_aside_goes(house: House) -> None:
    """Files set aside and what dead writers left go with the user, in the user's shard only."""
    own, other = shard_of(GONE, 2), 1 - shard_of(GONE, 2)
    for each in house.graph:
        for shard in (own, other):
            folder = Path(house.shards.path(each.name, shard)).parent
            (folder / "dead.tmp").write_text(f"half of what {GONE} wrote")
    asides = [Path(house.shards.set_aside(house.graph["letters"], shard)) for shard in (own, other)]
    house.forget(GONE)
    assert [file.exists() for file in asides] == [False, True]
    left = {path.parent.name for path in Path(house.root).rglob("*.tmp")}
    assert left == {f"shard={other:04d}"}


def test_a_shard_that_is_set_aside_hides_nobody(house: House) -> None:
    """Where a shard has no file but what was set aside, that goes, and the next run makes the others anew."""
    for each in house.graph:
        house.shards.set_aside(each, shard_of(GONE, 2))
    assert house.forget(GONE) == 0
    assert traces(house.root, GONE, SECRET) == set()


def test_a_file_of_older_code_is_no_obstacle(house: House) -> None:
    """A user is forgotten from files that were written before a column came or changed its type, too."""
    wider = pa.schema([("user_id", pa.string()), ("text", pa.string()), ("labels", pa.string()), ("n", pa.int8())])
    house.graph = graph_of(wider, code="2")
    assert house.forget(GONE) == 6
    assert traces(house.root, GONE, SECRET) == set()
    house.graph = graph_of()
    del house.outside.letters[GONE]
    house.run()
    assert house.outside.printed == []
    assert house.plans() == []


def test_a_shard_that_is_behind_stays_behind(house: House) -> None:
    """To forget a user hides from no one what is still to be computed of others."""
    shard = shard_of(GONE, 2)
    stays = next(user for user in LIVES if user != GONE and shard_of(user, 2) == shard)
    house.outside.letters[stays] = ["something new"]
    materialize(
        house.graph,
        house.shards,
        resources={Outside: house.outside},
        now=NOON,
        users={stays: NOON},
        select=["letters"],
    )
    house.forget(GONE)
    assert house.plans() == [("vectors", "data"), ("pages", "data")]
    house.run([])
    materialize(house.graph, house.shards, resources={Outside: house.outside}, now=NOON)
    assert house.outside.printed == [stays]


def test_a_broken_file_is_told(house: House) -> None:
    """A file that cannot be read is no file without the user: it stops with the mend, and set aside it goes."""
    shard = shard_of(GONE, 2)
    file = Path(house.shards.path("vectors", shard))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ShardUnreadable, match=f"rebuild vectors --shard {shard}"):
        house.forget(GONE)
    house.shards.set_aside(house.graph["vectors"], shard)
    house.forget(GONE)
    assert traces(house.root, GONE, SECRET) == set()


USERS = st.dictionaries(
    st.sampled_from(["ann", "bob", "cem", "dan", "eve"]), st.lists(st.sampled_from(["", "one", "two"]), max_size=2)
)


@settings(max_examples=40, deadline=None)
@given(USERS, st.sets(st.sampled_from(["ann", "bob", "cem", "zoe"])))
def test_any_house_is_as_if_they_had_never_been(letters: dict[str, list[str]], gone: set[str]) -> None:
    """Whoever is forgotten of whatever users, the rest is what it would have been, and nobody is computed again."""
    MemoryFileSystem.store.clear()
    house = House(f"memory://forget-{next(_roots)}", letters)
    house.run()
    house.forget(*gone)
    other = House(f"memory://forget-{next(_roots)}", {user: own for user, own in letters.items() if user not in gone})
    other.run()
    shared = {key: house.facts()[key] for key in other.facts()}
    assert shared == other.facts()
    assert all(rows == [] for key, (rows, *_) in house.facts().items() if key not in shared)
    house.outside.letters = other.outside.letters
    house.run()
    assert house.outside.printed == []
    assert house.plans() == []
