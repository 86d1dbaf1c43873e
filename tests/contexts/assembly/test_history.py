"""The history of contexts: append-only Parquet by day and shard, and the versions of requests."""

from __future__ import annotations

import os
import shutil
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

from contexts.assembly.history import (
    SCHEMA,
    ContextVersion,
    History,
    HistoryUnreadable,
    delete_request_versions,
    request_versions,
    set_history_aside,
)
from contexts.files import FileFault
from contexts.postgres.sql import connect

NIGHT = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
Connection = psycopg.Connection[Any]


def version(user: str = "ann", text: str = "a", at: datetime = NIGHT, author: Any = "pipeline") -> ContextVersion:
    return ContextVersion(user, at, at - timedelta(minutes=10), f"hash of {text}", f'"{text}"', author)


def shard_of(user: str) -> int:
    """The user cem is in a different shard than all others."""
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
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in paths)


def bytes_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {name: ((folder / name).stat().st_ino, (folder / name).read_bytes()) for name in files(folder)}


def spoil(path: Path, kind: str) -> bytes:
    """Damage a file, and return its new content."""
    whole = path.read_bytes()
    if kind == "foreign":
        pq.write_table(SCHEMA.empty_table().select(["user_id"]), path)
    else:
        rotten = whole[:50] + bytes([whole[50] ^ 1]) + whole[51:]
        path.write_bytes({"empty": b"", "cut short": whole[: len(whole) // 2], "bit rot": rotten}[kind])
    return path.read_bytes()


class TestAppend:
    def test_round_trip(self, history: History) -> None:
        """Appended versions come back unchanged and oldest first, without those of other users and shards."""
        ann = [version(text="a"), version(text="b", at=NIGHT + HOUR, author="request"), version(at=NIGHT + DAY)]
        assert history.versions_of("ann") == []
        assert history.append([*ann[::-1], version("bob"), version("cem")]) == 5
        assert [history.versions_of(user) for user in ("ann", "bob", "cem")] == [
            ann,
            [version("bob")],
            [version("cem")],
        ]

    def test_days_are_utc(self, local: History, tmp_path: Path) -> None:
        """A version is in the file of its day in UTC and of its shard, whatever the zone of its time."""
        tokyo = timezone(9 * HOUR)
        late = datetime(2026, 11, 25, 8, 59, tzinfo=tokyo)
        local.append([version(at=late), version(at=late + timedelta(minutes=1))])
        assert files(tmp_path / "context_history") == [
            "day=2026-11-24/shard=0001/data.parquet",
            "day=2026-11-25/shard=0001/data.parquet",
        ]
        assert [each.assembled_at for each in local.versions_of("ann")] == [late, late + timedelta(minutes=1)]

    def test_again(self, local: History, tmp_path: Path) -> None:
        """A run that is repeated after a crash, even at a later time, adds nothing and writes no file."""
        first = [version("ann"), version("bob", author="request")]
        local.append(first)
        before = bytes_of(tmp_path)
        assert local.append(first) == 0
        assert local.append([version("ann", at=NIGHT + HOUR)]) == 0
        assert bytes_of(tmp_path) == before

    def test_partly_new(self, history: History) -> None:
        """Only new versions are added, and one that is given twice is added once."""
        history.append([version("ann")])
        assert history.append([version("ann"), version("bob"), version("bob")]) == 1
        assert history.versions_of("bob") == [version("bob")]

    def test_returning_context(self, history: History) -> None:
        """A context that returns after a different one is a new version, whoever made the different one."""
        made = [
            version(text="a"),
            version(text="b", at=NIGHT + HOUR, author="request"),
            version(text="a", at=NIGHT + 2 * HOUR),
            version(text="b", at=NIGHT + 3 * HOUR),
        ]
        assert [history.append([each]) for each in made] == [1, 1, 1, 1]
        assert history.versions_of("ann") == made

    def test_equal_version_of_a_request(self, history: History) -> None:
        """A version of a request is added even if it equals the previous version."""
        history.append([version()])
        assert history.append([version(at=NIGHT + HOUR, author="request")]) == 1

    def test_next_day(self, history: History) -> None:
        """A version is compared with the previous versions of its own day only."""
        assert [history.append([version(at=NIGHT + n * DAY)]) for n in range(2)] == [1, 1]

    def test_nothing(self, local: History, tmp_path: Path) -> None:
        """Appending nothing writes no file."""
        assert local.append([]) == 0
        assert files(tmp_path) == []

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.text(st.characters(codec="utf-8")), user=st.text(st.characters(codec="utf-8"), min_size=1))
    def test_any_text(self, local: History, text: str, user: str) -> None:
        """Every text and user id that UTF-8 can encode comes back unchanged."""
        local.append([appended := version(user, text)])
        assert appended in local.versions_of(user)

    def test_many(self, local: History, tmp_path: Path) -> None:
        """Hundreds of contexts of 8 KB take seconds, and are in small row groups in order of their users."""
        started = perf_counter()
        for n in range(4):
            at = NIGHT + n * HOUR
            made = [version(f"{user:03}", f"{n} {user} " + "x" * 8000, at) for user in range(300)]
            assert local.append(made) == 300
        assert len(local.versions_of("123")) == 4
        assert perf_counter() - started < 5
        [path] = (tmp_path / name for name in files(tmp_path))
        stored = pq.ParquetFile(path)
        assert stored.schema_arrow.equals(SCHEMA)
        assert stored.num_row_groups > 1
        users = stored.read(["user_id"])["user_id"].to_pylist()
        assert users == sorted(users)
        assert stored.metadata.row_group(0).column(0).compression == "ZSTD"


class TestCrash:
    @pytest.mark.parametrize("step", ["open", "rename"])
    def test_interrupted(self, local: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        """A write that fails leaves the old file unchanged and no scratch file."""
        local.append([version("ann")])

        def full(self: Any, *arguments: Any, **options: Any) -> Any:
            if step == "rename" or arguments[1:2] == ("wb",):
                raise OSError("no space left on device")
            return opened(self, *arguments, **options)

        opened = LocalFileSystem.open
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
            patch.setattr(*{"open": (LocalFileSystem, "open"), "rename": (os, "replace")}[step], full)
            local.append([version("bob")])
        assert files(tmp_path / "context_history") == ["day=2026-11-24/shard=0001/data.parquet"]
        assert (local.versions_of("ann"), local.versions_of("bob")) == ([version("ann")], [])
        assert local.append([version("bob")]) == 1
        assert files(tmp_path / "context_history") == ["day=2026-11-24/shard=0001/data.parquet"]

    def test_killed(self, local: History, tmp_path: Path) -> None:
        """The next write removes the scratch file of a writer that was killed."""
        local.append([version("ann")])
        scratch = tmp_path / "context_history/day=2026-11-24/shard=0001/0123.tmp"
        scratch.write_bytes(b"half of a f")
        assert local.append([version("bob")]) == 1
        assert not scratch.exists()

    def test_reader_of_the_old_file(self, local: History, tmp_path: Path) -> None:
        """A reader who opened the old file before it was replaced reads it to the end."""
        local.append([version("ann")])
        [path] = (tmp_path / name for name in files(tmp_path))
        with path.open("rb") as handle:
            local.append([version("bob")])
            assert pq.read_table(handle)["user_id"].to_pylist() == ["ann"]
        assert pq.read_table(path)["user_id"].to_pylist() == ["ann", "bob"]

    @pytest.mark.parametrize("broken", ["empty", "cut short", "foreign", "bit rot"])
    def test_unreadable(self, local: History, tmp_path: Path, broken: str) -> None:
        """A file that cannot be read is named with the fix by readers, and an expired day with such a file stays."""
        local.append([version("ann"), version("cem")])
        path = tmp_path / "context_history/day=2026-11-24/shard=0001/data.parquet"
        content = spoil(path, broken)
        command = r"python -m assets rebuild context_history --shard 1 --day 2026-11-24\."
        for call in (lambda: local.versions_of("ann"), lambda: local.erase(["ann"])):
            with pytest.raises(HistoryUnreadable, match=rf"{path} cannot be read .*Set it aside: {command}"):
                call()
        assert local.expire(date(2026, 11, 25), existing=set) == 0
        assert path.read_bytes() == content
        assert local.versions_of("cem") == [version("cem"), version("cem")]

    @pytest.mark.parametrize("broken", ["empty", "cut short", "foreign", "bit rot"])
    def test_append_to_unreadable(
        self, local: History, tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A file that cannot be read is set aside as it is, and holds up no new version; the log names both files."""
        local.append([version("ann")])
        [path] = (tmp_path / name for name in files(tmp_path))
        content = spoil(path, broken)
        assert local.append([version("bob")]) == 1
        assert local.versions_of("bob") == [version("bob")]
        [aside] = path.parent.glob("*.aside")
        assert aside.read_bytes() == content
        assert str(aside) in caplog.text

    def test_set_aside(self, local: History, tmp_path: Path) -> None:
        """All unreadable files of a shard are set aside, or the one of a day; a user's erasure removes them."""
        local.append([version("ann", at=NIGHT + n * DAY) for n in range(3)])
        for day in (24, 25):
            spoil(tmp_path / f"context_history/day=2026-11-{day}/shard=0001/data.parquet", "bit rot")
        assert set_history_aside(str(tmp_path), 2) == []
        assert len(set_history_aside(str(tmp_path), 1)) == 2
        assert local.versions_of("ann") == [version("ann", at=NIGHT + 2 * DAY)]
        assert len(set_history_aside(str(tmp_path), 1, date(2026, 11, 26))) == 1
        assert local.versions_of("ann") == []
        with pytest.raises(FileNotFoundError, match="day=2026-11-26"):
            set_history_aside(str(tmp_path), 1, date(2026, 11, 26))
        local.erase(["ann"])
        assert files(tmp_path) == []


class TestErase:
    def test_all_days(self, history: History) -> None:
        """Erased users are in no file of their shards any more; the rows of other users stay."""
        days = [version(user, at=NIGHT + n * DAY) for user in ("ann", "bob", "cem") for n in range(3)]
        history.append(days)
        assert history.erase(["ann", "bob", "never there"]) == 6
        assert [history.versions_of(user) for user in ("ann", "bob")] == [[], []]
        assert history.versions_of("cem") == days[6:]
        assert history.erase(["ann", "bob"]) == 0

    def test_no_trace(self, local: History, tmp_path: Path) -> None:
        """No byte of an erased user is left, neither in a file without other users nor in a scratch file."""
        local.append([version("ann", "secret"), version("ann", at=NIGHT + DAY), version("bob", at=NIGHT + DAY)])
        scratch = tmp_path / "context_history/day=2026-11-25/shard=0001/0123.tmp"
        scratch.write_bytes(b"secret")
        assert local.erase(["ann"]) == 2
        assert files(tmp_path / "context_history") == ["day=2026-11-25/shard=0001/data.parquet"]
        assert b"ann" not in (tmp_path / "context_history/day=2026-11-25/shard=0001/data.parquet").read_bytes()

    def test_unknown_user(self, local: History, tmp_path: Path) -> None:
        """If there is nothing to erase, no file is written, but scratch files are removed."""
        local.append([version("ann")])
        scratch = tmp_path / "context_history/day=2026-11-24/shard=0001/0123.tmp"
        before = bytes_of(tmp_path)
        scratch.write_bytes(b"")
        assert local.erase(["bob"]) == 0
        assert bytes_of(tmp_path) == before


class TestExpire:
    def test_days_before(self, history: History) -> None:
        """Days before the first one to keep are removed for all shards, and counted."""
        for user in ("ann", "cem"):
            history.append([version(user, f"{n}", NIGHT + n * DAY) for n in range(4)])
        assert history.expire(date(2026, 11, 26), existing=set) == 2
        assert history.expire(date(2026, 11, 26), existing=set) == 0
        for user in ("ann", "cem"):
            assert [each.context_json for each in history.versions_of(user)] == ['"1"', '"2"', '"3"']

    def test_last_version_is_kept(self, history: History) -> None:
        """A user's last version before the first kept day is kept, however old: tips may be made from it."""
        old = [version("ann", "1"), version("ann", "2", NIGHT + HOUR), version("bob", "3")]
        history.append([*old, version("bob", "4", NIGHT + 9 * DAY)])
        for n in range(1, 9):
            history.expire((NIGHT + n * DAY).date(), existing=set)
        assert history.versions_of("ann") == [old[1]]
        assert history.versions_of("bob") == [old[2], version("bob", "4", NIGHT + 9 * DAY)]
        history.expire((NIGHT + 10 * DAY).date(), existing=set)
        assert history.versions_of("bob") == [version("bob", "4", NIGHT + 9 * DAY)]
        assert history.erase(["ann"]) == 1

    def test_interrupted(self, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
        """An interruption before a day is removed loses nothing, and the next run completes the removal."""
        history.append([version("ann", "1"), version("ann", "2", NIGHT + HOUR), version("ann", "3", NIGHT + DAY)])

        def refused(*_: Any, **__: Any) -> None:
            raise OSError("not now")

        with monkeypatch.context() as patch, pytest.raises(OSError, match="not now"):
            patch.setattr(MemoryFileSystem, "rm", refused)
            patch.setattr(shutil, "rmtree", refused)
            history.expire(date(2026, 11, 25), existing=set)
        assert history.expire(date(2026, 11, 25), existing=set) == 1
        assert [each.context_json for each in history.versions_of("ann")] == ['"2"', '"3"']

    def test_no_history(self, history: History) -> None:
        """Without a history there is nothing to remove."""
        assert history.expire(date(2026, 11, 25), existing=set) == 0
        assert history.erase(["ann"]) == 0


@pytest.fixture
def add(connection: Connection) -> Callable[[ContextVersion], None]:
    """Stores a version as a request does."""

    def row(context: ContextVersion) -> None:
        connection.execute(
            "INSERT INTO users VALUES (%s, 'x@x.org', 'UTC') ON CONFLICT DO NOTHING", [context.user_id]
        )
        instants = (context.assembled_at, context.materialized_at)
        values = (context.user_id, *instants, context.context_hash, context.context_json)
        connection.execute("INSERT INTO request_contexts VALUES (%s, %s, %s, %s, %s)", values)

    return row


def append_pending(history: History, user_ids: list[str]) -> list[ContextVersion]:
    """Append the versions of requests as the pipeline does: into the files before they are deleted."""
    pending = history.pending(user_ids)
    history.append(pending)
    history.drop_pending(pending)
    return pending


class TestRequests:
    def test_appended(self, connection: Connection, add: Callable[[ContextVersion], None], local: History) -> None:
        """The requests' versions of some users move to the files once, oldest first."""
        versions = [
            version(user, text, NIGHT + n * HOUR, "request") for n, (user, text) in enumerate(["ax", "ay", "bz"])
        ]
        for each in versions:
            add(each)
        assert append_pending(local, ["a", "never there"]) == versions[:2]
        assert local.versions_of("a") == versions[:2]
        assert request_versions(connection, ["a", "b"]) == versions[2:]
        assert append_pending(local, ["a"]) == []

    def test_meanwhile(self, connection: Connection, add: Callable[[ContextVersion], None]) -> None:
        """A version that a request adds while others are appended stays for the next time."""
        add(first := version("a", "x", NIGHT, "request"))
        pending = request_versions(connection, ["a"])
        add(late := version("a", "y", NIGHT + HOUR, "request"))
        assert pending == [first]
        assert delete_request_versions(connection, pending) == 1
        assert request_versions(connection, ["a"]) == [late]

    def test_file_that_cannot_be_written(
        self, connection: Connection, add: Callable[[ContextVersion], None], local: History, tmp_path: Path
    ) -> None:
        """A version that cannot be appended stays in Postgres."""
        (tmp_path / "context_history/day=2026-11-24/shard=0001/data.parquet").mkdir(parents=True)
        add(requested := version("a", "x", NIGHT, "request"))
        with pytest.raises(FileFault, match="There is a folder where a file belongs"):
            append_pending(local, ["a"])
        assert request_versions(connection, ["a"]) == [requested]

    def test_same_instant(self, connection: Connection, add: Callable[[ContextVersion], None]) -> None:
        """Of two versions of the same instant only the appended one is deleted."""
        one, other = (version("a", text, author="request") for text in "xy")
        add(one)
        add(other)
        assert delete_request_versions(connection, [one]) == 1
        assert request_versions(connection, ["a"]) == [other]

    def test_zone_of_the_connection(
        self, connection: Connection, add: Callable[[ContextVersion], None], database_url: str, local: History
    ) -> None:
        """A version and its day do not depend on the time zone of the connection."""
        add(requested := replace(version("a", author="request"), assembled_at=NIGHT + 21 * HOUR + 59 * HOUR / 60))
        with connect(database_url) as other:
            other.execute("SET TIME ZONE 'Asia/Tokyo'")
            local.append(pending := request_versions(other, ["a"]))
            assert pending == [requested]
            assert local.expire(date(2026, 11, 24), existing=set) == 0
            assert delete_request_versions(other, pending) == 1
        assert local.versions_of("a") == [requested]

    def test_removed_user(self, connection: Connection, add: Callable[[ContextVersion], None]) -> None:
        """The requests' versions of a user are deleted with the user."""
        add(version("a", author="request"))
        connection.execute("DELETE FROM users")
        assert request_versions(connection, ["a"]) == []
        assert delete_request_versions(connection, []) == 0
