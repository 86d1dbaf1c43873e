"""Footers that plans are made from, above all those in an object store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import ObjectStore, running_s3

from assets.engine.asset import Users, asset
from assets.engine.erase import erase
from assets.engine.errors import ShardUnreadable
from assets.engine.footers import Footers
from assets.engine.graph import Graph
from assets.engine.hashing import shard_of
from assets.engine.index import Index
from assets.engine.parquet import Footer, Shards

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LETTERS = pa.schema([("user_id", pa.string()), ("text", pa.string())])
N_SHARDS = 6


@asset(step="fetch", schema=LETTERS, code_version="1")
def letters(users: Users) -> pa.Table:
    return LETTERS.empty_table()


def write(shards: Shards, shard: int, text: str, user: str = "") -> Footer:
    """Replace a shard by one letter."""
    table = pa.table([[user or f"user-{shard}"], [text]], schema=LETTERS)
    index = Index.from_table(table, LETTERS.names)
    footer = Footer.from_index(letters, shard, shards.n_shards, index, {"code": "1"}, {}, materialized_at=NOON)
    shards.write(letters, table, footer)
    return footer


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with running_s3(monkeypatch) as store:
        yield store


@pytest.fixture
def shards(store: ObjectStore) -> Shards:
    """All shards but the last one, in S3."""
    shards = Shards(f"{store.root}/data", N_SHARDS)
    for shard in range(N_SHARDS - 1):
        write(shards, shard, "old")
    store.requests.clear()
    return shards


def texts_of(shards: Shards) -> dict[int, Footer]:
    return Footers(shards).of_asset(letters)


def verbs(store: ObjectStore) -> list[str]:
    """Return the verbs of the requests since the last call, in alphabetical order."""
    found = sorted(verb for verb, _ in store.requests)
    store.requests.clear()
    return found


def test_a_shard_is_written_by_one_request(store: ObjectStore, shards: Shards) -> None:
    """A shard in an object store is replaced by a single PUT to its key, and nothing else is sent."""
    write(shards, 1, "new")
    assert store.requests == [("PUT", "data/letters/shard=0001/data.parquet")]


def test_only_changed_footers_are_read_again(store: ObjectStore, shards: Shards) -> None:
    """Of many footers in an object store only those of files that changed since the last reading are read."""
    first = texts_of(shards)
    # The missing cache and five footers; a second list tells whether one of them was replaced meanwhile.
    assert verbs(store) == ["GET"] * (1 + N_SHARDS - 1) + ["LIST", "LIST", "PUT"]
    assert texts_of(shards) == first
    assert verbs(store) == ["GET", "LIST"]
    new = write(shards, 2, "new")
    store.requests.clear()
    assert texts_of(shards) == first | {2: new}
    assert verbs(store) == ["GET", "GET", "LIST", "LIST", "PUT"]
    write(shards, 2, "old")
    assert texts_of(shards) == first


def test_footers_are_read_once(store: ObjectStore, shards: Shards) -> None:
    """All plans that share footers see those of the first reading, also of shards without a file."""
    footers = Footers(shards)
    before = footers.of_asset(letters)
    write(shards, 2, "new")
    write(shards, N_SHARDS - 1, "new")
    store.requests.clear()
    assert footers.of_asset(letters) == before
    assert not footers.exists(letters, N_SHARDS - 1)
    assert store.requests == []


def test_a_damaged_cache_is_replaced(store: ObjectStore, shards: Shards) -> None:
    """A cache of footers that cannot be read costs requests, but no footer is lost."""
    first = texts_of(shards)
    store.put("data/letters/footers.parquet", b"<html>")
    assert texts_of(shards) == first
    store.requests.clear()
    assert texts_of(shards) == first
    assert verbs(store) == ["GET", "LIST"]


def test_pages_of_the_cache_can_be_damaged(store: ObjectStore, shards: Shards) -> None:
    """A cache without digests whose pages cannot be decompressed costs requests, but no footer is lost."""
    first, sink = texts_of(shards), BytesIO()
    pq.write_table(pa.table({"path": ["a" * 5000], "version": ["b" * 5000]}), sink, use_dictionary=False)
    content = bytearray(sink.getvalue())
    content[60:140] = bytes(80)
    store.put("data/letters/footers.parquet", bytes(content))
    assert texts_of(shards) == first


def test_a_reader_needs_no_right_to_write(
    store: ObjectStore, shards: Shards, caplog: pytest.LogCaptureFixture
) -> None:
    """If the store refuses to write, as with credentials that only read, footers are read and not remembered."""

    def refuse_writing(request: dict[str, object]) -> None:
        store.fail(*((403, "AccessDenied") if request["REQUEST_METHOD"] == "PUT" else (None,)))

    store.before = refuse_writing
    assert list(texts_of(shards)) == list(range(N_SHARDS - 1))
    assert "are not remembered: " in caplog.text


def test_a_plan_meanwhile_remembers_no_erased_user(store: ObjectStore, shards: Shards) -> None:
    """If footers are remembered while a user is erased, they are forgotten when the user is out of the shard."""
    user = next(name for name in map(str, range(1000)) if shard_of(name, N_SHARDS) == 1)
    write(shards, 1, "old", user)
    has_planned = False

    def plan_before_the_write(request: dict[str, object]) -> None:
        nonlocal has_planned
        if request["REQUEST_METHOD"] == "PUT" and not has_planned:
            has_planned = True
            texts_of(Shards(shards.root, N_SHARDS))

    store.before = plan_before_the_write
    assert erase(Graph.from_assets([letters]), shards, [user]) == 1
    assert has_planned
    assert ("PUT", "data/letters/footers.parquet") in store.requests
    assert not [path for path in fsspec.filesystem("s3").find(shards.root) if path.endswith("footers.parquet")]


def test_a_plan_that_ends_after_an_erasure_remembers_no_erased_user(store: ObjectStore, shards: Shards) -> None:
    """If a user is erased after a plan has read the footers and before it remembers them, nothing is remembered."""
    user = next(name for name in map(str, range(1000)) if shard_of(name, N_SHARDS) == 1)
    write(shards, 1, "old", user)
    n_erased = 0

    def erase_before_the_cache(request: dict[str, object]) -> None:
        nonlocal n_erased
        if request["REQUEST_METHOD"] == "PUT" and "footers.parquet" in str(request["PATH_INFO"]) and not n_erased:
            n_erased = erase(Graph.from_assets([letters]), Shards(shards.root, N_SHARDS), [user])

    store.before = erase_before_the_cache
    texts_of(shards)
    assert n_erased == 1
    assert not [path for path in fsspec.filesystem("s3").find(shards.root) if path.endswith("footers.parquet")]


def test_removed_users_are_not_remembered(store: ObjectStore, shards: Shards) -> None:
    """When users are removed from a shard, the object with remembered footers goes, which can name them."""
    texts_of(shards)
    shards.remove_leftovers(letters, 1)
    assert ("DELETE", "data/letters/footers.parquet") in store.requests
    assert len(texts_of(shards)) == N_SHARDS - 1


def test_an_unreadable_footer_is_never_remembered(store: ObjectStore, shards: Shards) -> None:
    """An unreadable file is found by every reading until it is replaced, and holds up no other footer."""
    store.put("data/letters/shard=0003/data.parquet", b"half of a f")
    for _ in range(2):
        footers = Footers(shards)
        assert list(footers.of_asset(letters)) == [0, 1, 2, 4]
        assert footers.exists(letters, 3)
        assert footers.has_unreadable(letters)
        with pytest.raises(ShardUnreadable, match="python -m assets rebuild letters --shard 3"):
            footers.get(letters, 3)
    write(shards, 3, "new")
    assert not Footers(shards).has_unreadable(letters)


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError")])
def test_a_busy_store_is_no_missing_footer(store: ObjectStore, shards: Shards, status: int, code: str) -> None:
    """Throttling and faults of an object store reach the caller, who can try again; no footer counts as missing."""
    store.fail(status, code)
    with pytest.raises(OSError, match="cannot be listed"):
        texts_of(shards)
    store.fail(None)

    def fail_footers(request: dict[str, object]) -> None:
        if "shard=0002" in str(request["PATH_INFO"]):
            store.fail(status, code)

    store.before = fail_footers
    with pytest.raises(OSError, match=r"data\.parquet cannot be read"):
        texts_of(shards)


def test_local_files_are_read_as_they_are(tmp_path: Path) -> None:
    """In a local folder nothing is remembered: there is no file but those of the shards."""
    shards = Shards(str(tmp_path), N_SHARDS)
    footers = {shard: write(shards, shard, "old") for shard in range(N_SHARDS)}
    assert texts_of(shards) == footers
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"data.parquet", "shards.json"}
