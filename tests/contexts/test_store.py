"""The rows that the request path reads."""

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

from contexts.assemble import Budget, assemble
from contexts.mirror import Mirror, fold
from contexts.model import Reaction, Signals, Task
from contexts.sql import ROOT, connect
from contexts.store import ContextStore, Seen, StoredContext, row_version
from local import postgres

AT = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
Connection = psycopg.Connection[Any]


def row(user: str, text: str = "{}", at: datetime = AT) -> StoredContext:
    return StoredContext(user, at, text, sha256(text.encode()).hexdigest(), None, "[]")


@pytest.fixture
def store(connection: Connection) -> ContextStore:
    return ContextStore(connection)


def stored(connection: Connection) -> list[StoredContext]:
    columns = "user_id, materialized_at, context_json, context_hash, valid_until, themes"
    return [StoredContext(*found) for found in connection.execute(f"SELECT {columns} FROM context_store ORDER BY 1")]


def versions(connection: Connection) -> dict[str, Any]:
    """Where each row lies: it changes with every write, even one that writes the same."""
    return dict(connection.execute("SELECT user_id, ctid::TEXT FROM context_store").fetchall())


class TestUpsert:
    def test_new_rows(self, store: ContextStore, connection: Connection) -> None:
        """New rows are written as they are."""
        rows = [row("ann", '{"a":1}'), row("bob", '{"b":2}', AT + HOUR)]
        assert store.put(rows) == (2, 0)
        assert stored(connection) == rows

    def test_nothing(self, store: ContextStore) -> None:
        """No rows are no work."""
        assert store.put([]) == (0, 0)

    def test_only_what_changed(self, store: ContextStore, connection: Connection) -> None:
        """Only rows whose content changed are written; of the others the freshness moves."""
        store.put([row("ann", "1"), row("bob", "2"), row("cem", "3")])
        later = [row("ann", "1", AT + HOUR), row("bob", "new", AT + HOUR)]
        assert store.put(later) == (1, 1)
        assert stored(connection) == [*later, row("cem", "3")]

    def test_the_same_again(self, store: ContextStore, connection: Connection) -> None:
        """Running it twice touches nothing the second time."""
        rows = [row("ann", "1"), row("bob", "2")]
        store.put(rows)
        before = versions(connection)
        assert store.put(rows) == (0, 0)
        assert versions(connection) == before

    def test_freshness_moves_only_forward(self, store: ContextStore, connection: Connection) -> None:
        """A run that is late does not make an unchanged row look older."""
        store.put([row("ann", "1", AT + HOUR)])
        assert store.put([row("ann", "1", AT)]) == (0, 0)
        assert stored(connection) == [row("ann", "1", AT + HOUR)]

    def test_newer_row_stays(self, store: ContextStore, connection: Connection) -> None:
        """A run that is late does not write over what somebody made of newer signals."""
        store.put([row("ann", "new", AT + HOUR)])
        assert store.put([row("ann", "old", AT), row("bob", "b", AT)]) == (1, 0)
        assert stored(connection) == [row("ann", "new", AT + HOUR), row("bob", "b", AT)]

    def test_themes_of_the_night(self, store: ContextStore, connection: Connection) -> None:
        """A row of newer tasks stays, and takes the night's themes, which are newer than its own."""
        store.put([row("ann", "1", AT + HOUR)])
        store.put([replace(row("ann", "0", AT), themes='["new"]')])
        assert stored(connection) == [replace(row("ann", "1", AT + HOUR), themes='["new"]')]

    def test_same_instant(self, store: ContextStore, connection: Connection) -> None:
        """Of two contexts from the same fetch the later write counts: a reaction may have come in between."""
        store.put([row("ann", "1")])
        assert store.put([row("ann", "2")]) == (1, 0)
        assert stored(connection) == [row("ann", "2")]

    def test_all_or_nothing(self, store: ContextStore, connection: Connection) -> None:
        """When one row cannot be written, none is, and the store goes on working."""
        with pytest.raises((psycopg.Error, ValueError)):
            store.put([row("ann", "1"), row("bob", "nul\x00")])
        assert stored(connection) == []
        assert store.put([row("ann", "1")]) == (1, 0)

    def test_many(self, store: ContextStore, connection: Connection) -> None:
        """A shard of thousands is one matter."""
        rows = [row(f"{n:05}", f'{{"n":{n}}}') for n in range(3000)]
        assert store.put(rows) == (3000, 0)
        assert stored(connection) == rows

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(texts=st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1, max_size=5))
    def test_any_text(self, store: ContextStore, connection: Connection, texts: Sequence[str]) -> None:
        """Tabs, line ends, backslashes, emoji: every text comes back as it went in."""
        connection.execute("DELETE FROM context_store")
        rows = [row(f"{n}", text) for n, text in enumerate(texts)]
        store.put(rows)
        assert stored(connection) == rows

    def test_somebody_else_writes_meanwhile(
        self, store: ContextStore, connection: Connection, database_url: str
    ) -> None:
        """A row that gets other content while its freshness is to be moved is not called fresher than it is."""
        store.put([row("ann", "1", AT)])
        with ThreadPoolExecutor(1) as pool, connect(database_url) as other, connect(database_url) as watch:
            with other.transaction():
                ContextStore(other).put([row("ann", "2", AT + HOUR)])
                late = pool.submit(store.put, [row("ann", "1", AT + 2 * HOUR)])
                wait_for_lock(watch)
            late.result()
        assert stored(connection) in ([row("ann", "2", AT + HOUR)], [row("ann", "1", AT + 2 * HOUR)])


class TestRead:
    """`upsert` of users whose contexts are not at hand."""

    def test_only_what_differs(self, store: ContextStore, connection: Connection) -> None:
        """Whole rows are asked for at once, those of users who have none or another version, and no others."""
        store.put([row("ann", "1"), row("bob", "2"), row("cem", "3", AT + 2 * HOUR)])
        now = {each.user_id: each for each in (row("bob", "new", AT + HOUR), row("dan", "4", AT + HOUR))}
        asked = []

        def read(wanted: Collection[str]) -> Iterable[StoredContext]:
            asked.append(sorted(wanted))
            return (now[user_id] for user_id in wanted)

        known = [seen(row("ann", "1", AT + HOUR)), seen(row("cem", "3", AT + HOUR)), *map(seen, now.values())]
        assert store.upsert(known, read) == (2, 1)
        assert asked == [["bob", "dan"]]
        assert stored(connection) == [
            row("ann", "1", AT + HOUR), now["bob"], row("cem", "3", AT + 2 * HOUR), now["dan"],
        ]  # fmt: skip

    def test_nothing_differs(self, store: ContextStore, connection: Connection) -> None:
        """Where every version is the stored one no row is asked for, be it refreshed or as fresh already."""
        store.put([row("ann", "1"), row("bob", "2")])
        assert store.upsert([seen(row("ann", "1", AT + HOUR)), seen(row("bob", "2"))], never) == (0, 1)
        assert stored(connection) == [row("ann", "1", AT + HOUR), row("bob", "2")]

    def test_without_a_version(self, store: ContextStore, connection: Connection) -> None:
        """A row that has lost its version is written anew."""
        store.put([row("ann", "1")])
        connection.execute("UPDATE context_store SET row_version = NULL")
        assert store.put([row("ann", "1")]) == (1, 0)
        assert store.upsert([seen(row("ann", "1", AT + HOUR))], never) == (0, 1)

    def test_reading_fails(self, store: ContextStore, connection: Connection) -> None:
        """When the rows cannot be read, nothing is refreshed either."""
        store.put([row("ann", "1")])
        with pytest.raises(LookupError):
            store.upsert([seen(row("ann", "1", AT + HOUR)), seen(row("bob", "2"))], never)
        assert stored(connection) == [row("ann", "1")]


def seen(known: StoredContext) -> Seen:
    return Seen(known.user_id, known.row_version, known.materialized_at)


def never(wanted: Collection[str]) -> Iterable[StoredContext]:
    raise LookupError(f"asked for {wanted}")


class TestVersion:
    def test_stands(self) -> None:
        """Versions stay what they were when the rows were stored, or every row would be written anew."""
        midnight = datetime(2026, 11, 24, tzinfo=timezone(timedelta(hours=1)))
        assert row_version("ab", midnight, '["t"]') == "c2a5a1cab574e2d66dce6e6c59a83cd0"
        assert row_version("ab", None, "[]") == "2497bc801f668e7f96bdc598fb7c38ad"

    @pytest.mark.parametrize("change", [{"context_hash": "x"}, {"valid_until": AT}, {"themes": "[1]"}])
    def test_all_but_freshness(self, change: dict[str, Any]) -> None:
        """A row is of another version when anything but its freshness is another."""
        before = row("ann", "1")
        assert replace(before, **change).row_version != before.row_version
        assert replace(before, materialized_at=AT + HOUR).row_version == before.row_version


def wide(n: int, at: datetime = AT) -> list[StoredContext]:
    """Rows as long as real ones."""
    return [replace(row(f"{n:036}", f"{n} " * 1500, at), themes=f"{n} " * 300, valid_until=AT) for n in range(n)]


class TestLayout:
    @pytest.fixture(autouse=True)
    def undisturbed(self, connection: Connection) -> Iterator[None]:
        """No vacuum of Postgres's own comes between."""
        connection.execute("ALTER TABLE context_store SET (autovacuum_enabled = off)")
        yield
        connection.execute("ALTER TABLE context_store RESET (autovacuum_enabled)")

    def test_freshness_moves_in_place(self, store: ContextStore, connection: Connection) -> None:
        """A day of runs that find nothing new leaves the table as large as it was, every update in place (HOT)."""
        store.put(wide(2000))
        before, (n_before, n_hot_before) = size(connection), updates(connection)
        for run in range(1, 7):
            assert store.put(wide(2000, AT + run * HOUR)) == (0, 2000)
        n_updates, n_hot = updates(connection)
        assert (n_updates - n_before, n_hot - n_hot_before) == (12_000, 12_000)
        assert size(connection) == before

    def test_rows_are_narrow(self, store: ContextStore, connection: Connection) -> None:
        """The texts lie beside the rows as they are, and what an update of the freshness reads does not."""
        store.put(wide(100))
        assert layout(connection) == (100, 100, 0, 0, 0)
        assert connection.execute("SELECT pg_relation_size('context_store') < 100 * 600").fetchone() == (True,)

    def test_a_shard_of_many(self, store: ContextStore, connection: Connection) -> None:
        """Of a large table only the rows of a shard's users are looked at."""
        rows = wide(3000)
        store.put(rows)
        connection.execute("VACUUM ANALYZE context_store")
        before = rows_scanned(connection)
        assert store.put([replace(each, materialized_at=AT + HOUR) for each in rows[::20]]) == (0, 150)
        assert rows_scanned(connection) == before

    def test_migration_of_rows(self, server: str) -> None:
        """Rows from before the layout are kept, in the layout of new ones."""
        url = postgres.create_database(server, "rows_from_before")
        *earlier, narrow = (path for path in sorted((ROOT / "migrations").glob("*.sql")) if path.stem < "0007")
        with connect(url) as connection:
            for path in earlier:
                connection.execute(path.read_text().encode())
            ContextStore(connection).put(wide(100))
            assert layout(connection) != (100, 100, 0, 0, 0)
            connection.execute(narrow.read_text().encode())
            assert stored(connection) == wide(100)
            assert layout(connection) == (100, 100, 0, 0, 0)
            assert ContextStore(connection).put(wide(100, AT + HOUR)) == (0, 100)


def layout(connection: Connection) -> tuple[Any, ...] | None:
    """Of how many rows each text lies outside, and how many values are compressed or should lie inside."""
    return connection.execute(
        """
        SELECT count(pg_column_toast_chunk_id(context_json)), count(pg_column_toast_chunk_id(themes)),
               count(pg_column_compression(context_json)), count(pg_column_compression(themes)),
               count(coalesce(pg_column_toast_chunk_id(user_id), pg_column_toast_chunk_id(context_hash),
                              pg_column_toast_chunk_id(row_version)))
        FROM context_store
        """
    ).fetchone()


def size(connection: Connection) -> tuple[Any, ...] | None:
    return connection.execute("SELECT pg_table_size('context_store') / 100_000").fetchone()


def updates(connection: Connection) -> tuple[int, int]:
    """All updates so far, and those in place."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    [found] = connection.execute(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'context_store'"
    )
    return found


def rows_scanned(connection: Connection) -> tuple[Any, ...] | None:
    """Rows that were read by going through the whole table."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    return connection.execute(
        "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'context_store'"
    ).fetchone()


def wait_for_lock(connection: Connection) -> None:
    """Until somebody in this database waits for a lock."""
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    deadline = monotonic() + 30
    while connection.execute(waiting).fetchone() is None:
        assert monotonic() < deadline, "nobody waits for a lock"
        sleep(0.01)


class TestContexts:
    def test_anyone_can_check_the_hash(self, store: ContextStore, connection: Connection) -> None:
        """A user's worst titles give a row whose hash Postgres computes again, and whose JSON it reads."""
        titles = ["nul\x00byte", "half \ud83d", "🧹", "שלום", 'tab\tline\nback\\slash "quote"', "\x1b[31m", "\u2028"]
        answer = {"full_sync": True, "items": [{"id": str(n), "content": text} for n, text in enumerate(titles)]}
        tasks = tuple(Task(each.task_id, each.content) for each in fold(Mirror(), answer).mirror.tasks.values())
        made = assemble(Signals("ann", "UTC", "en", tasks), AT, Budget(2000))
        store.put([StoredContext("ann", AT, made.context_json, made.context_hash, made.valid_until, "[]")])
        found = connection.execute(
            """
            SELECT encode(sha256(convert_to(context_json, 'UTF8')), 'hex') = context_hash,
                   jsonb_array_length(context_json::JSONB -> 'tasks' -> 'someday'), context_json
            FROM context_store
            """
        ).fetchone()
        assert found == (True, len(titles), made.context_json)
        assert "\\u0000" not in made.context_json
        assert json.loads(made.context_json)["tasks"]["someday"][0]["title"] == "nul byte"

    def test_orphans(self, store: ContextStore, connection: Connection, add: Callable[[str], None]) -> None:
        """Rows of users who do not exist any more are removed, among those asked for."""
        add("ann")
        store.put([row("ann"), row("gone"), row("not asked for")])
        assert store.remove_orphans(["ann", "gone", "never there"]) == 1
        assert [each.user_id for each in stored(connection)] == ["ann", "not asked for"]


@pytest.fixture
def add(connection: Connection) -> Callable[[str], None]:
    def user(user_id: str) -> None:
        connection.execute("INSERT INTO users VALUES (%s, 'x@x.org', 'UTC')", (user_id,))

    return user


class TestReactions:
    def test_since(self, store: ContextStore, connection: Connection, add: Callable[[str], None]) -> None:
        """Reactions of the users asked for come oldest first, from a midnight on, with the tips that they were to."""
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
        """Users who never reacted have no entry."""
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


class TestThresholds:
    def test_first(self, store: ContextStore) -> None:
        """A model's first calibration is kept; other models have none."""
        assert store.threshold("m") is None
        assert store.wants_calibration("m", 5)
        store.keep_threshold("m", 0.4321, 5)
        assert store.threshold("m") == 0.4321
        assert store.threshold("other") is None

    @pytest.mark.parametrize(
        ("n_first", "n_next", "is_better"),
        [(50, 499, False), (50, 500, True), (999, 9990, True), (1000, 1_000_000, False), (50, 5, False)],
    )
    def test_better(self, store: ContextStore, n_first: int, n_next: int, is_better: bool) -> None:
        """A calibration by few texts gives way to one by ten times as many, a good one stays for good."""
        store.keep_threshold("m", 0.4, n_first)
        assert store.wants_calibration("m", n_next) is is_better
        store.keep_threshold("m", 0.5, n_next)
        assert store.threshold("m") == (0.5 if is_better else 0.4)
