"""The history of contexts: append-only, by day and shard, and what requests add to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from time import perf_counter
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contexts.history import (
    SCHEMA,
    History,
    HistoryUnreadable,
    Version,
    delete_request_versions,
    request_versions,
)
from contexts.sql import connect

NIGHT = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
Connection = psycopg.Connection[Any]


def version(user: str = "ann", text: str = "a", at: datetime = NIGHT, author: Any = "night") -> Version:
    return Version(user, at, at - timedelta(minutes=10), f"hash of {text}", f'"{text}"', author)


def shard_of(user: str) -> int:
    """cem is of another shard than all the others."""
    return 2 if user == "cem" else 1


@pytest.fixture(params=["folder", "file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """DATA_ROOT as people write it: a folder, or an fsspec URL."""
    urls = {"folder": str(tmp_path), "file": f"file://{tmp_path}/", "memory": f"memory://{tmp_path.name}"}
    return urls[request.param]


@pytest.fixture
def history(root: str, connection: Connection) -> History:
    return History(root, connection, shard_of)


@pytest.fixture
def local(tmp_path: Path, connection: Connection) -> History:
    return History(str(tmp_path), connection, shard_of)


def files(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in found)


def bytes_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {name: ((folder / name).stat().st_ino, (folder / name).read_bytes()) for name in files(folder)}


class TestAppend:
    def test_comes_back(self, history: History) -> None:
        """What was appended comes back user by user, oldest first, as it was; of other shards and users nothing."""
        mine = [version(text="a"), version(text="b", at=NIGHT + HOUR, author="request"), version(at=NIGHT + DAY)]
        assert history.of("ann") == []
        assert history.append([*mine[::-1], version("bob"), version("cem")]) == 5
        assert [history.of(user) for user in ("ann", "bob", "cem")] == [mine, [version("bob")], [version("cem")]]

    def test_days_are_utc(self, local: History, tmp_path: Path) -> None:
        """A version stands in the file of its day by UTC and of its shard, whatever zone its time is told in."""
        tokyo = timezone(9 * HOUR)
        late = datetime(2026, 11, 25, 8, 59, tzinfo=tokyo)
        local.append([version(at=late), version(at=late + timedelta(minutes=1))])
        assert files(tmp_path / "context_history") == [
            "day=2026-11-24/shard=0001/data.parquet",
            "day=2026-11-25/shard=0001/data.parquet",
        ]
        assert [each.assembled_at for each in local.of("ann")] == [late, late + timedelta(minutes=1)]

    def test_again(self, local: History, tmp_path: Path) -> None:
        """A run that is repeated after a crash adds nothing and writes no file, even at a later time."""
        first = [version("ann"), version("bob", author="request")]
        local.append(first)
        before = bytes_of(tmp_path)
        assert local.append(first) == 0
        assert local.append([version("ann", at=NIGHT + HOUR)]) == 0
        assert bytes_of(tmp_path) == before

    def test_half_of_it_again(self, history: History) -> None:
        """Of what is appended only what is not there yet is added, twice the same in one go included."""
        history.append([version("ann")])
        assert history.append([version("ann"), version("bob"), version("bob")]) == 1
        assert history.of("bob") == [version("bob")]

    def test_back_again(self, history: History) -> None:
        """A context that comes back after another one is a version again, whoever made the other one."""
        made = [
            version(text="a"),
            version(text="b", at=NIGHT + HOUR, author="request"),
            version(text="a", at=NIGHT + 2 * HOUR),
            version(text="b", at=NIGHT + 3 * HOUR),
        ]
        assert [history.append([each]) for each in made] == [1, 1, 1, 1]
        assert history.of("ann") == made

    def test_same_of_a_request(self, history: History) -> None:
        """Requests are asked for by hash and time alone: what one assembled is never left out."""
        history.append([version()])
        assert history.append([version(at=NIGHT + HOUR, author="request")]) == 1

    def test_next_day(self, history: History) -> None:
        """Whether a version is there already is asked of its own day only."""
        assert [history.append([version(at=NIGHT + n * DAY)]) for n in range(2)] == [1, 1]

    def test_nothing(self, local: History, tmp_path: Path) -> None:
        """Of nothing there is no file."""
        assert local.append([]) == 0
        assert files(tmp_path) == []

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.text(st.characters(codec="utf-8")), user=st.text(st.characters(codec="utf-8"), min_size=1))
    def test_any_text(self, local: History, text: str, user: str) -> None:
        """Every text and every user id that UTF-8 can hold comes back as it went in."""
        local.append([made := version(user, text)])
        assert made in local.of(user)

    def test_many(self, local: History, tmp_path: Path) -> None:
        """Hundreds of contexts of 8 KB are a matter of a second, in small groups of rows in order of users."""
        began = perf_counter()
        for n in range(4):
            at = NIGHT + n * HOUR
            made = [version(f"{user:03}", f"{n} {user} " + "x" * 8000, at) for user in range(300)]
            assert local.append(made) == 300
        assert len(local.of("123")) == 4
        assert perf_counter() - began < 5
        [path] = (tmp_path / name for name in files(tmp_path))
        stored = pq.ParquetFile(path)
        assert stored.schema_arrow.equals(SCHEMA)
        assert stored.num_row_groups > 1
        users = stored.read(["user_id"])["user_id"].to_pylist()
        assert users == sorted(users)
        assert stored.metadata.row_group(0).column(0).compression == "ZSTD"


class TestCrash:
    @pytest.mark.parametrize("step", ["open", "mv"])
    def test_broken_off(self, local: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        """A writer that breaks off leaves the old file as it was, and the next one takes away what it left."""
        local.append([version("ann")])

        def full(self: Any, *arguments: Any, **options: Any) -> Any:
            if step == "mv" or arguments[1:2] == ("wb",):
                raise OSError("no space left on device")
            return opened(self, *arguments, **options)

        opened = getattr(LocalFileSystem, step)
        with monkeypatch.context() as broken, pytest.raises(OSError, match="no space left"):
            broken.setattr(LocalFileSystem, step, full)
            local.append([version("bob")])
        assert (local.of("ann"), local.of("bob")) == ([version("ann")], [])
        assert local.append([version("bob")]) == 1
        assert files(tmp_path / "context_history") == ["day=2026-11-24/shard=0001/data.parquet"]

    def test_reader_of_the_old_file(self, local: History, tmp_path: Path) -> None:
        """Whoever has the old file open while it is replaced reads it to the end."""
        local.append([version("ann")])
        [path] = (tmp_path / name for name in files(tmp_path))
        with path.open("rb") as handle:
            local.append([version("bob")])
            assert pq.read_table(handle)["user_id"].to_pylist() == ["ann"]
        assert pq.read_table(path)["user_id"].to_pylist() == ["ann", "bob"]

    @pytest.mark.parametrize("broken", ["empty", "cut short", "foreign"])
    def test_unreadable(self, local: History, tmp_path: Path, broken: str) -> None:
        """A file that cannot be read is named with its mend, by readers and writers, and is not written over."""
        local.append([version("ann")])
        [path] = (tmp_path / name for name in files(tmp_path))
        whole = path.read_bytes()
        path.write_bytes({"empty": b"", "cut short": whole[: len(whole) // 2], "foreign": b""}[broken])
        if broken == "foreign":
            pq.write_table(SCHEMA.empty_table().select(["user_id"]), path)
        left = path.read_bytes()
        for act in (
            lambda: local.of("ann"),
            lambda: local.append([version("bob")]),
            lambda: local.forget(["ann"]),
            lambda: local.expire(date(2026, 11, 25), known=set),
        ):
            with pytest.raises(HistoryUnreadable, match=f"{path} cannot be read .*Move it away"):
                act()
        assert path.read_bytes() == left
        assert local.append([version("cem")]) == 1
        assert local.of("cem") == [version("cem")]
        path.rename(tmp_path / "aside")
        assert local.append([version("bob")]) == 1


class TestForget:
    def test_of_all_days(self, history: History) -> None:
        """Users who are gone are in no file of the shard any more; the others stay as they were."""
        days = [version(user, at=NIGHT + n * DAY) for user in ("ann", "bob", "cem") for n in range(3)]
        history.append(days)
        assert history.forget(["ann", "bob", "never there"]) == 6
        assert [history.of(user) for user in ("ann", "bob")] == [[], []]
        assert history.of("cem") == days[6:]
        assert history.forget(["ann", "bob"]) == 0

    def test_no_trace(self, local: History, tmp_path: Path) -> None:
        """No byte of theirs is left: not in a file that became empty, nor in one that a writer left."""
        local.append([version("ann", "secret"), version("ann", at=NIGHT + DAY), version("bob", at=NIGHT + DAY)])
        scratch = tmp_path / "context_history/day=2026-11-25/shard=0001/0123.tmp"
        scratch.write_bytes(b"secret")
        assert local.forget(["ann"]) == 2
        assert files(tmp_path / "context_history") == ["day=2026-11-25/shard=0001/data.parquet"]
        assert b"ann" not in (tmp_path / "context_history/day=2026-11-25/shard=0001/data.parquet").read_bytes()

    def test_nobody(self, local: History, tmp_path: Path) -> None:
        """Where there is nothing to forget no file is written anew, but what writers left goes."""
        local.append([version("ann")])
        scratch = tmp_path / "context_history/day=2026-11-24/shard=0001/0123.tmp"
        before = bytes_of(tmp_path)
        scratch.write_bytes(b"")
        assert local.forget(["bob"]) == 0
        assert bytes_of(tmp_path) == before


class TestExpire:
    def test_days_before(self, history: History) -> None:
        """Days before the first one to keep go as a whole, of every shard, and how many is told."""
        for user in ("ann", "cem"):
            history.append([version(user, f"{n}", NIGHT + n * DAY) for n in range(4)])
        assert history.expire(date(2026, 11, 26), known=set) == 2
        assert history.expire(date(2026, 11, 26), known=set) == 0
        for user in ("ann", "cem"):
            assert [each.context_json for each in history.of(user)] == ['"1"', '"2"', '"3"']

    def test_what_stood_is_kept(self, history: History) -> None:
        """A context that stood when the first day to keep began is kept, however old: tips are made from it still."""
        old = [version("ann", "1"), version("ann", "2", NIGHT + HOUR), version("bob", "3")]
        history.append([*old, version("bob", "4", NIGHT + 9 * DAY)])
        for n in range(1, 9):
            history.expire((NIGHT + n * DAY).date(), known=set)
        assert history.of("ann") == [old[1]]
        assert history.of("bob") == [old[2], version("bob", "4", NIGHT + 9 * DAY)]
        history.expire((NIGHT + 10 * DAY).date(), known=set)
        assert history.of("bob") == [version("bob", "4", NIGHT + 9 * DAY)]
        assert history.forget(["ann"]) == 1

    def test_broken_off(self, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
        """When it breaks off before a day is removed, nothing is lost, and the next one ends it."""
        history.append([version("ann", "1"), version("ann", "2", NIGHT + HOUR), version("ann", "3", NIGHT + DAY)])

        def refused(*_: Any, **__: Any) -> None:
            raise OSError("not now")

        with monkeypatch.context() as broken, pytest.raises(OSError, match="not now"):
            for each in (LocalFileSystem, MemoryFileSystem):
                broken.setattr(each, "rm", refused)
            history.expire(date(2026, 11, 25), known=set)
        assert history.expire(date(2026, 11, 25), known=set) == 1
        assert [each.context_json for each in history.of("ann")] == ['"2"', '"3"']

    def test_no_history(self, history: History) -> None:
        """Where there is no history there is nothing to remove."""
        assert history.expire(date(2026, 11, 25), known=set) == 0
        assert history.forget(["ann"]) == 0


@pytest.fixture
def keep(connection: Connection) -> Callable[[Version], None]:
    """Puts a version where requests put theirs."""

    def row(made: Version) -> None:
        connection.execute("INSERT INTO users VALUES (%s, 'x@x.org', 'UTC') ON CONFLICT DO NOTHING", [made.user_id])
        values = (made.user_id, made.assembled_at, made.materialized_at, made.context_hash, made.context_json)
        connection.execute("INSERT INTO request_contexts VALUES (%s, %s, %s, %s, %s)", values)

    return row


def drain(history: History, user_ids: list[str]) -> list[Version]:
    """As the night takes what requests left: into the files first."""
    waiting = history.waiting(user_ids)
    history.append(waiting)
    history.taken(waiting)
    return waiting


class TestRequests:
    def test_drained(self, connection: Connection, keep: Callable[[Version], None], local: History) -> None:
        """What requests assembled for these users goes over into the files, oldest first, once and for all."""
        made = [version(user, text, NIGHT + n * HOUR, "request") for n, (user, text) in enumerate(["ax", "ay", "bz"])]
        for each in made:
            keep(each)
        assert drain(local, ["a", "never there"]) == made[:2]
        assert local.of("a") == made[:2]
        assert request_versions(connection, ["a", "b"]) == made[2:]
        assert drain(local, ["a"]) == []

    def test_meanwhile(self, connection: Connection, keep: Callable[[Version], None]) -> None:
        """What a request assembles while others are taken over stays for the next time."""
        keep(first := version("a", "x", NIGHT, "request"))
        drained = request_versions(connection, ["a"])
        keep(late := version("a", "y", NIGHT + HOUR, "request"))
        assert drained == [first]
        assert delete_request_versions(connection, drained) == 1
        assert request_versions(connection, ["a"]) == [late]

    def test_file_is_broken(
        self, connection: Connection, keep: Callable[[Version], None], local: History, tmp_path: Path
    ) -> None:
        """What cannot be taken into the files stays where it is."""
        local.append([version("a")])
        [path] = (tmp_path / name for name in files(tmp_path))
        path.write_bytes(b"")
        keep(made := version("a", "x", NIGHT, "request"))
        with pytest.raises(HistoryUnreadable):
            drain(local, ["a"])
        assert request_versions(connection, ["a"]) == [made]

    def test_same_instant(self, connection: Connection, keep: Callable[[Version], None]) -> None:
        """Of two contexts of the same instant only the one that was drained is deleted."""
        one, other = (version("a", text, author="request") for text in "xy")
        keep(one)
        keep(other)
        assert delete_request_versions(connection, [one]) == 1
        assert request_versions(connection, ["a"]) == [other]

    def test_zone_of_the_connection(
        self, connection: Connection, keep: Callable[[Version], None], database_url: str, local: History
    ) -> None:
        """In whatever zone a connection tells times, the version and its day are the same."""
        keep(made := replace(version("a", author="request"), assembled_at=NIGHT + 21 * HOUR + 59 * HOUR / 60))
        with connect(database_url) as other:
            other.execute("SET TIME ZONE 'Asia/Tokyo'")
            local.append(drained := request_versions(other, ["a"]))
            assert drained == [made]
            assert local.expire(date(2026, 11, 24), known=set) == 0
            assert delete_request_versions(other, drained) == 1
        assert local.of("a") == [made]

    def test_user_is_removed(self, connection: Connection, keep: Callable[[Version], None]) -> None:
        """With a user goes what requests assembled for them."""
        keep(version("a", author="request"))
        connection.execute("DELETE FROM users")
        assert request_versions(connection, ["a"]) == []
        assert delete_request_versions(connection, []) == 0
