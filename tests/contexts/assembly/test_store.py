"""The table `context_store`, which the request path reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from time import monotonic, sleep
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.model import Reaction, Signals, Task
from contexts.assembly.store import ContextStore, ObservedContext, StoredContext, row_version
from contexts.postgres.sql import ROOT, connect
from contexts.todoist.accounts import Accounts, SyncState
from contexts.todoist.credentials import CredentialCipher, Credentials, new_key
from contexts.todoist.mirror import Directory, Mirror, fold
from local import postgres

AT = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
Connection = psycopg.Connection[Any]


def row(user: str, text: str = "{}", at: datetime = AT) -> StoredContext:
    return StoredContext(user, at, text, sha256(text.encode()).hexdigest(), None, "[]")


class StoreWithAccounts(ContextStore):
    """A store that adds an account, fetched later than all rows, for each user without one."""

    def upsert(
        self, observed: Sequence[ObservedContext], read: Callable[[Collection[str]], Iterable[StoredContext]]
    ) -> tuple[int, int]:
        users = [each.user_id for each in observed]
        self._connection.execute(
            "INSERT INTO users (user_id, email, timezone)"
            " SELECT user_id, '', 'UTC' FROM unnest(%s::TEXT[]) AS user_id ON CONFLICT DO NOTHING",
            [users],
        )
        self._connection.execute(
            "INSERT INTO todoist_accounts (user_id, credentials, observed_at)"
            " SELECT user_id, '', %s FROM unnest(%s::TEXT[]) AS user_id ON CONFLICT DO NOTHING",
            [AT + 1000 * HOUR, users],
        )
        return super().upsert(observed, read)


@pytest.fixture
def store(connection: Connection) -> ContextStore:
    return StoreWithAccounts(connection)


def stored(connection: Connection) -> list[StoredContext]:
    columns = "user_id, materialized_at, context_json, context_hash, valid_until, groups_json"
    return [StoredContext(*row) for row in connection.execute(f"SELECT {columns} FROM context_store ORDER BY 1")]


def positions(connection: Connection) -> dict[str, Any]:
    """The physical position of each row: it changes with every write, even of equal values."""
    return dict(connection.execute("SELECT user_id, ctid::TEXT FROM context_store").fetchall())


class TestUpsert:
    def test_new_rows(self, store: ContextStore, connection: Connection) -> None:
        """New rows are written unchanged."""
        rows = [row("ann", '{"a":1}'), row("bob", '{"b":2}', AT + HOUR)]
        assert store.put(rows) == (2, 0)
        assert stored(connection) == rows

    def test_nothing(self, store: ContextStore) -> None:
        """Without rows nothing is done."""
        assert store.put([]) == (0, 0)

    def test_only_what_changed(self, store: ContextStore, connection: Connection) -> None:
        """Rows with changed content are written, the others only move their freshness."""
        store.put([row("ann", "1"), row("bob", "2"), row("cem", "3")])
        later = [row("ann", "1", AT + HOUR), row("bob", "new", AT + HOUR)]
        assert store.put(later) == (1, 1)
        assert stored(connection) == [*later, row("cem", "3")]

    def test_unchanged(self, store: ContextStore, connection: Connection) -> None:
        """A second upsert of the same rows touches nothing."""
        rows = [row("ann", "1"), row("bob", "2")]
        store.put(rows)
        before = positions(connection)
        assert store.put(rows) == (0, 0)
        assert positions(connection) == before

    def test_freshness_moves_only_forward(self, store: ContextStore, connection: Connection) -> None:
        """A late run does not make an unchanged row look older."""
        store.put([row("ann", "1", AT + HOUR)])
        assert store.put([row("ann", "1", AT)]) == (0, 0)
        assert stored(connection) == [row("ann", "1", AT + HOUR)]

    def test_newer_row_stays(self, store: ContextStore, connection: Connection) -> None:
        """A late run does not overwrite a row from newer signals."""
        store.put([row("ann", "new", AT + HOUR)])
        assert store.put([row("ann", "old", AT), row("bob", "b", AT)]) == (1, 0)
        assert stored(connection) == [row("ann", "new", AT + HOUR), row("bob", "b", AT)]

    @pytest.mark.parametrize("text", ["1", "2"])
    def test_row_from_the_future(self, store: ContextStore, connection: Connection, text: str) -> None:
        """A row from the future, of a clock that was set back since, is replaced, changed or not."""
        store.put([row("ann", "1", AT + 2 * HOUR)])
        assert sum(StoreWithAccounts(connection, clock=lambda: AT).put([row("ann", text)])) == 1
        assert stored(connection) == [row("ann", text)]

    @pytest.mark.parametrize("text", ["1", "2"])
    def test_clocks_of_two_machines(self, store: ContextStore, connection: Connection, text: str) -> None:
        """A row from a few minutes in the future stays: the clocks of two machines differ by so much."""
        store.put([row("ann", "1", AT + HOUR / 20)])
        assert StoreWithAccounts(connection, clock=lambda: AT).put([row("ann", text)]) == (0, 0)
        assert stored(connection) == [row("ann", "1", AT + HOUR / 20)]

    def test_newer_groups(self, store: ContextStore, connection: Connection) -> None:
        """A row from newer tasks stays, and gets the run's groups, which are newer than its own."""
        store.put([row("ann", "1", AT + HOUR)])
        store.put([replace(row("ann", "0", AT), groups_json='["new"]')])
        assert stored(connection) == [replace(row("ann", "1", AT + HOUR), groups_json='["new"]')]

    def test_a_newer_row_of_another_content(self, store: ContextStore, connection: Connection) -> None:
        """A row from newer tasks, but without what the run knows, is written as a whole after the next fetch."""
        store.put([row("ann", "1", AT + HOUR)])
        assert store.put([row("ann", "0", AT)]) == (0, 0)
        assert store.put([row("ann", "1", AT + HOUR)]) == (1, 0)
        assert store.put([row("ann", "1", AT + HOUR)]) == (0, 0)

    @pytest.mark.parametrize("is_changed", [False, True])
    def test_a_fetch_without_a_change(self, store: ContextStore, connection: Connection, is_changed: bool) -> None:
        """A row that a later fetch agrees with is not touched, and refreshed if only tasks outside it changed."""
        connection.execute("INSERT INTO users (user_id, email, timezone) VALUES ('ann', '', 'UTC')")
        connection.execute(
            "INSERT INTO todoist_accounts (user_id, credentials, observed_at, changed_at, rows_digest)"
            " VALUES ('ann', '', %s, %s, 'first')",
            [AT, AT],
        )
        store.put([row("ann", "1")])
        connection.execute(
            "UPDATE todoist_accounts SET observed_at = %s, rows_digest = %s",
            [AT + HOUR, b"second" if is_changed else b"first"],
        )
        before = positions(connection)
        assert store.put([row("ann", "1", AT + HOUR)]) == (0, int(is_changed))
        assert (positions(connection) != before) == is_changed

    def test_a_request_writes_first(self, store: ContextStore, connection: Connection, database_url: str) -> None:
        """A user without a row, for whom a request writes a newer one meanwhile, keeps that; others get theirs."""
        rows, newer = {name: row(name, "old") for name in ("ann", "bob")}, row("ann", "new", AT + HOUR)

        def read(changed: Collection[str]) -> Iterable[StoredContext]:
            with connect(database_url) as other:
                StoreWithAccounts(other).put([newer])
            return [rows[user] for user in changed]

        observed = [ObservedContext(each.user_id, each.row_version, each.materialized_at) for each in rows.values()]
        assert store.upsert(observed, read) == (1, 0)
        assert stored(connection) == [newer, rows["bob"]]

    @pytest.mark.parametrize("has_row", [False, True])
    def test_a_replaced_account(self, store: ContextStore, connection: Connection, has_row: bool) -> None:
        """Contexts from before the account was connected are not written; later ones carry its number."""
        store.put([row(user, "earlier", AT - 2 * HOUR) for user in ("ann", "bob")])
        if not has_row:
            connection.execute("DELETE FROM context_store")
        for user, connected_at in (("ann", AT + HOUR), ("bob", AT - HOUR)):
            connection.execute(
                "UPDATE todoist_accounts SET connection_number = 7, connected_at = %s WHERE user_id = %s",
                (connected_at, user),
            )
        assert store.put([row("ann"), row("bob")]) == (1, 0)
        numbers = connection.execute(
            "SELECT user_id, connection_number FROM context_store WHERE connection_number > 0"
        )
        assert numbers.fetchall() == [("bob", 7)]

    @pytest.mark.parametrize("has_row", [False, True])
    @pytest.mark.parametrize("is_added_again", [False, True])
    def test_a_removed_account(
        self, store: ContextStore, connection: Connection, database_url: str, has_row: bool, is_added_again: bool
    ) -> None:
        """Nothing is written for a user who is removed during the run, even if the same user is added again."""
        store.put([row("ann", "earlier", AT - HOUR)])
        if not has_row:
            connection.execute("DELETE FROM context_store")

        def read(_: Collection[str]) -> Iterable[StoredContext]:
            with connect(database_url) as other:
                accounts = Accounts(other, CredentialCipher([new_key()]))
                accounts.remove("ann")
                if is_added_again:
                    accounts.add("ann", email="", timezone="UTC", credentials=Credentials("another token"))
            return [row("ann")]

        assert store.upsert([observed(row("ann"))], read) == (0, 0)
        assert stored(connection) == []

    @pytest.mark.parametrize("has_row", [False, True])
    def test_a_second_fetch_meanwhile(
        self, store: ContextStore, connection: Connection, database_url: str, has_row: bool
    ) -> None:
        """A context is not confirmed by what a second fetch at the same instant found while it was written."""
        store.put([row("ann", "earlier", AT - HOUR)])
        connection.execute("UPDATE todoist_accounts SET observed_at = %s, rows_digest = 'first'", [AT - HOUR])
        if not has_row:
            connection.execute("DELETE FROM context_store")
        save_fetch(connection, AT, b"second")

        def read(_: Collection[str]) -> Iterable[StoredContext]:
            with connect(database_url) as other:
                save_fetch(other, AT, b"third")
            return [row("ann")]

        assert store.upsert([observed(row("ann"))], read) == (1, 0)
        save_fetch(connection, AT + HOUR, b"third")
        assert Accounts(connection, CredentialCipher([new_key()])).observations(AT + HOUR).outdated == {"ann"}

    def test_written_while_the_user_is_removed(
        self, store: ContextStore, connection: Connection, database_url: str
    ) -> None:
        """A row that is written while its user is being removed does not remain."""
        store.put([row("ann")])
        connection.execute("DELETE FROM context_store")
        with ThreadPoolExecutor(1) as pool, connect(database_url) as writer, connect(database_url) as own:
            with writer.transaction():
                writer.execute("SELECT FROM users FOR KEY SHARE")
                removed = pool.submit(Accounts(own, CredentialCipher([new_key()])).remove, "ann")
                wait_for_lock(connection)
                ContextStore(writer).put([row("ann")])
            assert removed.result()
        assert stored(connection) == []

    def test_same_instant(self, store: ContextStore, connection: Connection) -> None:
        """Of two contexts from the same fetch the later write wins: it may include a new reaction."""
        store.put([row("ann", "1")])
        assert store.put([row("ann", "2")]) == (1, 0)
        assert stored(connection) == [row("ann", "2")]

    def test_all_or_nothing(self, store: ContextStore, connection: Connection) -> None:
        """If one row cannot be written, none is, and the store stays usable."""
        with pytest.raises((psycopg.Error, ValueError)):
            store.put([row("ann", "1"), row("bob", "nul\x00")])
        assert stored(connection) == []
        assert store.put([row("ann", "1")]) == (1, 0)

    def test_many(self, store: ContextStore, connection: Connection) -> None:
        """Thousands of rows are written in one call."""
        rows = [row(f"{n:05}", f'{{"n":{n}}}') for n in range(3000)]
        assert store.put(rows) == (3000, 0)
        assert stored(connection) == rows

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(texts=st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1, max_size=5))
    def test_any_text(self, store: ContextStore, connection: Connection, texts: Sequence[str]) -> None:
        """Every text comes back unchanged: tabs, line ends, backslashes, emoji."""
        connection.execute("DELETE FROM context_store")
        rows = [row(f"{n}", text) for n, text in enumerate(texts)]
        store.put(rows)
        assert stored(connection) == rows

    def test_concurrent_writer(self, store: ContextStore, connection: Connection, database_url: str) -> None:
        """A row with content that changes during a refresh does not become fresher than its content."""
        store.put([row("ann", "1", AT)])
        with ThreadPoolExecutor(1) as pool, connect(database_url) as other, connect(database_url) as watch:
            with other.transaction():
                StoreWithAccounts(other).put([row("ann", "2", AT + HOUR)])
                late = pool.submit(store.put, [row("ann", "1", AT + 2 * HOUR)])
                wait_for_lock(watch)
            late.result()
        assert stored(connection) in ([row("ann", "2", AT + HOUR)], [row("ann", "1", AT + 2 * HOUR)])


class TestRead:
    """`upsert` of contexts that are read only if they changed."""

    def test_only_what_differs(self, store: ContextStore, connection: Connection) -> None:
        """Rows are read in one call, for exactly the users without a row or with a different version."""
        store.put([row("ann", "1"), row("bob", "2"), row("cem", "3", AT + 2 * HOUR)])
        changed = {each.user_id: each for each in (row("bob", "new", AT + HOUR), row("dan", "4", AT + HOUR))}
        calls = []

        def read(user_ids: Collection[str]) -> Iterable[StoredContext]:
            calls.append(sorted(user_ids))
            return (changed[user_id] for user_id in user_ids)

        unchanged = [row("ann", "1", AT + HOUR), row("cem", "3", AT + HOUR)]
        assert store.upsert([*map(observed, unchanged), *map(observed, changed.values())], read) == (2, 1)
        assert calls == [["bob", "dan"]]
        assert stored(connection) == [
            row("ann", "1", AT + HOUR), changed["bob"], row("cem", "3", AT + 2 * HOUR), changed["dan"],
        ]  # fmt: skip

    def test_nothing_differs(self, store: ContextStore, connection: Connection) -> None:
        """If every version is the stored one, no row is read, whether it is refreshed or already as fresh."""
        store.put([row("ann", "1"), row("bob", "2")])
        assert store.upsert([observed(row("ann", "1", AT + HOUR)), observed(row("bob", "2"))], never) == (0, 1)
        assert stored(connection) == [row("ann", "1", AT + HOUR), row("bob", "2")]

    def test_without_a_version(self, store: ContextStore, connection: Connection) -> None:
        """A row without a version is written again."""
        store.put([row("ann", "1")])
        connection.execute("UPDATE context_store SET row_version = NULL")
        assert store.put([row("ann", "1")]) == (1, 0)
        assert store.upsert([observed(row("ann", "1", AT + HOUR))], never) == (0, 1)

    def test_reading_fails(self, store: ContextStore, connection: Connection) -> None:
        """If the rows cannot be read, nothing is refreshed either."""
        store.put([row("ann", "1")])
        with pytest.raises(LookupError):
            store.upsert([observed(row("ann", "1", AT + HOUR)), observed(row("bob", "2"))], never)
        assert stored(connection) == [row("ann", "1")]


def save_fetch(connection: Connection, at: datetime, rows_digest: bytes) -> None:
    """Save that a fetch of ann's tasks found rows with this digest."""
    [number] = connection.execute("SELECT connection_number FROM todoist_accounts").fetchone() or ()
    state = SyncState("ann", number, "token", Directory(), rows_digest)
    Accounts(connection, CredentialCipher([new_key()])).save_sync_states([state], [], at)


def observed(context: StoredContext) -> ObservedContext:
    return ObservedContext(context.user_id, context.row_version, context.materialized_at)


def never(user_ids: Collection[str]) -> Iterable[StoredContext]:
    raise LookupError(f"read {user_ids}")


class TestVersion:
    def test_stable(self) -> None:
        """Versions never change, because otherwise every stored row would be written again."""
        midnight = datetime(2026, 11, 24, tzinfo=timezone(timedelta(hours=1)))
        assert row_version("ab", midnight, '["t"]') == "c2a5a1cab574e2d66dce6e6c59a83cd0"
        assert row_version("ab", None, "[]") == "2497bc801f668e7f96bdc598fb7c38ad"

    @pytest.mark.parametrize("change", [{"context_hash": "x"}, {"valid_until": AT}, {"groups_json": "[1]"}])
    def test_all_but_freshness(self, change: dict[str, Any]) -> None:
        """The version changes with everything but the freshness."""
        before = row("ann", "1")
        assert replace(before, **change).row_version != before.row_version
        assert replace(before, materialized_at=AT + HOUR).row_version == before.row_version


def long_rows(n_rows: int, at: datetime = AT) -> list[StoredContext]:
    """Rows as long as real ones."""
    return [
        replace(row(f"{n:036}", f"{n} " * 1500, at), groups_json=f"{n} " * 300, valid_until=AT) for n in range(n_rows)
    ]


class TestLayout:
    @pytest.fixture(autouse=True)
    def undisturbed(self, connection: Connection) -> Iterator[None]:
        """The table has no space of earlier rows and no statistics, and Postgres does not vacuum during the test."""
        connection.execute("TRUNCATE context_store")
        yield
        connection.execute("ALTER TABLE context_store RESET (autovacuum_enabled)")

    def test_freshness_moves_in_place(self, store: ContextStore, connection: Connection) -> None:
        """Runs without changes do not enlarge the table: every update is in place (HOT)."""
        store.put(long_rows(2000))
        before, (n_before, n_hot_before) = size(connection), updates(connection)
        for run in range(1, 7):
            assert store.put(long_rows(2000, AT + run * HOUR)) == (0, 2000)
        n_updates, n_hot = updates(connection)
        assert (n_updates - n_before, n_hot - n_hot_before) == (12_000, 12_000)
        assert size(connection) == before

    def test_rows_are_narrow(self, store: ContextStore, connection: Connection) -> None:
        """The long texts are stored uncompressed outside the rows, everything else inside."""
        store.put(long_rows(100))
        assert layout(connection) == (100, 100, 0, 0, 0)
        assert connection.execute("SELECT pg_relation_size('context_store') < 100 * 600").fetchone() == (True,)

    def test_few_rows_of_many(self, store: ContextStore, connection: Connection) -> None:
        """An upsert of a shard reads only its users' rows, without a scan of a large table."""
        rows = long_rows(3000)
        store.put(rows)
        connection.execute("VACUUM ANALYZE context_store")
        before = rows_scanned(connection)
        assert store.put([replace(each, materialized_at=AT + HOUR) for each in rows[::20]]) == (0, 150)
        assert rows_scanned(connection) == before

    @pytest.mark.parametrize("n_changed", [0, 100])
    def test_without_statistics(self, store: ContextStore, connection: Connection, n_changed: int) -> None:
        """So it does in a table that was never analyzed, whether contexts have changed or not."""
        rows = long_rows(800)
        store.put(rows)
        before = rows_scanned(connection)
        later = [replace(each, materialized_at=AT + HOUR) for each in rows[::2]]
        later = [replace(each, groups_json="[1]") for each in later[:n_changed]] + later[n_changed:]
        assert store.put(later) == (n_changed, 400 - n_changed)
        assert rows_scanned(connection) == before

    def test_migration_of_rows(self, server: str) -> None:
        """The migration keeps old rows and moves them to the current layout."""
        url = postgres.create_database(server, "rows_from_before")
        paths = sorted((ROOT / "migrations").glob("*.sql"))
        before, after = ([path for path in paths if (path.stem < "0006") is is_before] for is_before in (True, False))
        rows = long_rows(100)
        with connect(url) as connection:
            for path in before:
                connection.execute(path.read_text().encode())
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO context_store (user_id, materialized_at, context_json, context_hash, valid_until,"
                    " themes, row_version) VALUES (%s, %s, %s, %s, %s, %s, %s)",
                    [(*vars(row).values(), row.row_version) for row in rows],
                )
            assert layout(connection, groups="themes") != (100, 100, 0, 0, 0)
            connection.execute(after[0].read_text().encode())
            assert layout(connection, groups="themes") == (100, 100, 0, 0, 0)
            for path in after[1:]:
                connection.execute(path.read_text().encode())
            assert stored(connection) == rows
            assert layout(connection) == (100, 100, 0, 0, 0)
            assert StoreWithAccounts(connection).put(long_rows(100, AT + HOUR)) == (0, 100)


def layout(connection: Connection, groups: str = "groups_json") -> tuple[Any, ...] | None:
    """The number of rows with each text outside, of compressed values, and of other values outside."""
    return connection.execute(
        f"""
        SELECT count(pg_column_toast_chunk_id(context_json)), count(pg_column_toast_chunk_id({groups})),
               count(pg_column_compression(context_json)), count(pg_column_compression({groups})),
               count(coalesce(pg_column_toast_chunk_id(user_id), pg_column_toast_chunk_id(context_hash),
                              pg_column_toast_chunk_id(row_version)))
        FROM context_store
        """
    ).fetchone()


def size(connection: Connection) -> tuple[Any, ...] | None:
    return connection.execute("SELECT pg_table_size('context_store') / 100_000").fetchone()


def updates(connection: Connection) -> tuple[int, int]:
    """The number of all updates so far, and of updates in place."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    [counts] = connection.execute(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'context_store'"
    )
    return counts


def rows_scanned(connection: Connection) -> tuple[Any, ...] | None:
    """The number of rows read by scans of the whole table."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    return connection.execute(
        "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'context_store'"
    ).fetchone()


def wait_for_lock(connection: Connection) -> None:
    """Wait until a connection of this database waits for a lock."""
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    deadline = monotonic() + 30
    while connection.execute(waiting).fetchone() is None:
        assert monotonic() < deadline, "no connection waits for a lock"
        sleep(0.01)


class TestContexts:
    def test_hash_in_postgres(self, store: ContextStore, connection: Connection) -> None:
        """Postgres computes the same hash and reads the JSON of a context with the most unusual titles."""
        titles = ["nul\x00byte", "half \ud83d", "🧹", "שלום", 'tab\tline\nback\\slash "quote"', "\x1b[31m", "\u2028"]
        answer = {"full_sync": True, "items": [{"id": str(n), "content": text} for n, text in enumerate(titles)]}
        tasks = tuple(Task(each.task_id, each.content) for each in fold(Mirror(), answer).mirror.tasks.values())
        context = assemble(Signals("ann", "UTC", "en", tasks), AT, Budget(2000))
        store.put([StoredContext("ann", AT, context.context_json, context.context_hash, context.valid_until, "[]")])
        in_postgres = connection.execute(
            """
            SELECT encode(sha256(convert_to(context_json, 'UTF8')), 'hex') = context_hash,
                   jsonb_array_length(context_json::JSONB -> 'tasks' -> 'someday'), context_json
            FROM context_store
            """
        ).fetchone()
        assert in_postgres == (True, len(titles), context.context_json)
        assert "\\u0000" not in context.context_json
        assert json.loads(context.context_json)["tasks"]["someday"][0]["title"] == "nul byte"

    def test_orphans(self, store: ContextStore, connection: Connection) -> None:
        """Rows of users who do not exist any more are removed, only among the given users."""
        store.put([row("ann"), row("gone"), row("not given")])
        connection.execute("DELETE FROM users WHERE user_id <> 'ann'")
        assert store.remove_orphans(["ann", "gone", "never there"]) == 1
        assert [each.user_id for each in stored(connection)] == ["ann", "not given"]


@pytest.fixture
def add(connection: Connection) -> Callable[[str], None]:
    def user(user_id: str) -> None:
        connection.execute("INSERT INTO users VALUES (%s, 'x@x.org', 'UTC')", (user_id,))

    return user


class TestReactions:
    def test_since(self, store: ContextStore, connection: Connection, add: Callable[[str], None]) -> None:
        """The given users' reactions come oldest first, from a midnight on, with the kind and theme of their tips."""
        for user in ("ann", "bob", "eve"):
            add(user)
        react(connection, 1, "ann", "focus", "work", "done", AT)
        react(connection, 2, "ann", None, None, "ignored", AT - HOUR)
        react(connection, 3, "ann", "rest", "home", "done", AT - 3 * HOUR)
        react(connection, 4, "bob", "rest", "home", "snoozed", AT - 2 * HOUR)
        react(connection, 5, "eve", "rest", "home", "done", AT)
        decide(connection, 6, "ann", "rest", "home")
        assert ContextStore(connection, reaction_days=0).reactions(["ann", "bob", "never there"], AT + HOUR) == {
            "ann": [
                Reaction(str(UUID(int=2)), "", "", "ignored", AT - HOUR),
                Reaction(str(UUID(int=1)), "focus", "work", "done", AT),
            ],
            "bob": [Reaction(str(UUID(int=4)), "rest", "home", "snoozed", AT - 2 * HOUR)],
        }

    def test_none(self, store: ContextStore) -> None:
        """Users without reactions have no entry."""
        assert store.reactions(["ann"], AT) == {}
        assert store.reactions([], AT) == {}


def decide(connection: Connection, number: int, user: str, kind: str | None, theme: str | None) -> UUID:
    key = UUID(int=number)
    connection.execute("INSERT INTO decisions VALUES (%s, %s, %s, %s, %s)", (key, user, AT - 9 * HOUR, kind, theme))
    return key


def react(
    connection: Connection, number: int, user: str, kind: str | None, theme: str | None, reaction: str, at: datetime
) -> None:
    key = decide(connection, number, user, kind, theme)
    connection.execute("INSERT INTO reactions VALUES (%s, %s, %s)", (key, reaction, at))
