"""Users, their accounts, and the users that are due for a fetch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contexts.postgres.sql import connect
from contexts.settings import EventsMode
from contexts.todoist.accounts import Accounts, FetchScope, SyncState
from contexts.todoist.credentials import CredentialCipher, Credentials, CredentialsError, new_key
from contexts.todoist.mirror import Directory
from contexts.todoist.objects import Project, Section

NOW = datetime(2026, 11, 23, 14, 0, tzinfo=UTC)
NEXT_RUN = NOW + timedelta(hours=4)
DAY = timedelta(days=1)
CANARY = "canary-4711"
KEY = new_key()

Connection = psycopg.Connection[Any]
Add = Callable[..., None]


@pytest.fixture
def accounts(connection: Connection) -> Accounts:
    return Accounts(connection, CredentialCipher([KEY]))


@pytest.fixture
def add(accounts: Accounts) -> Add:
    """Adds users by name."""

    def make(*users: str, timezone: str = "UTC") -> None:
        for user in users:
            accounts.add(user, email=f"{user}@x.org", timezone=timezone, credentials=Credentials(f"{CANARY}-{user}"))

    return make


@pytest.fixture
def add_requests(connection: Connection) -> Callable[..., None]:
    """Records requests for a tip at some instants of a user who was added long ago."""

    def insert(user: str, *instants: datetime) -> None:
        connection.execute("UPDATE users SET created_at = %s WHERE user_id = %s", (NOW - 60 * DAY, user))
        for at in instants:
            connection.execute(
                "INSERT INTO decisions (decision_id, user_id, decided_at) VALUES (%s, %s, %s)", (uuid4(), user, at)
            )

    return insert


def save_fetch(
    accounts: Accounts,
    user: str,
    sync_token: str | None,
    at: datetime = NOW,
    rows_digest: bytes | None = None,
    **directory: Any,
) -> None:
    """Save a successful fetch."""
    state = sync_state(accounts, user, sync_token, Directory(**directory), rows_digest)
    accounts.save_sync_states([state], [], at)


def store_row(connection: Connection, user: str, at: datetime) -> None:
    """Store a context as the pipeline does."""
    connection.execute(
        "INSERT INTO context_store (user_id, materialized_at, context_json, context_hash, row_version, rows_digest)"
        " SELECT u.user_id, %s, '{}', 'h', 'v', a.rows_digest"
        " FROM users u LEFT JOIN todoist_accounts a USING (user_id) WHERE u.user_id = %s",
        (at, user),
    )


def sync_state(
    accounts: Accounts, user: str, sync_token: str | None, directory: Directory, rows_digest: bytes | None = None
) -> SyncState:
    """Return the result of a fetch of a user's present account."""
    [account] = accounts.load([user])[0]
    return SyncState(user, account.connection_number, sync_token, directory, rows_digest)


def refuse(accounts: Accounts, *users: str, at: datetime) -> list[str]:
    """Save refusals of a run and confirm them at its end; return the users disconnected by that."""
    accounts.save_sync_states([], accounts.load(users)[0], at)
    return accounts.confirm_refusals(at)


def state(accounts: Accounts, user: str) -> dict[str, Any]:
    """Return a user with the state of the account."""
    [row] = [row for row in accounts.all() if row["user_id"] == user]
    return row


class TestAdding:
    def test_new_user(self, accounts: Accounts, add: Add) -> None:
        """A new user is active and connected, was never fetched, and needs a full sync."""
        add("ann", timezone="Asia/Tokyo")
        assert accounts.all() == [
            {
                "user_id": "ann",
                "email": "ann@x.org",
                "timezone": "Asia/Tokyo",
                "active": True,
                "connected": True,
                "observed_at": None,
                "auth_failures": 0,
                "refused_at": None,
            }
        ]
        [[account], errors] = accounts.load(["ann"])
        assert (account.sync_token, account.directory, account.timezone) == (None, Directory(), "Asia/Tokyo")
        assert account.credentials == Credentials(f"{CANARY}-ann")
        assert errors == {}

    def test_new_credentials(self, accounts: Accounts, add: Add) -> None:
        """New credentials connect and activate a user again and need a full sync: the account may be different."""
        add("ann")
        save_fetch(accounts, "ann", "s1")
        for run in (NOW, NOW + DAY):
            refuse(accounts, "ann", at=run)
        assert not state(accounts, "ann")["connected"]
        accounts.set_active("ann", active=False)
        add("ann")
        assert state(accounts, "ann")["connected"]
        assert state(accounts, "ann")["active"]
        assert state(accounts, "ann")["auth_failures"] == 0
        assert accounts.load(["ann"])[0][0].sync_token is None

    @pytest.mark.parametrize("timezone", ["Berlin", "", "Mars/Olympus", "../etc/passwd", "+01:00"])
    def test_unknown_zone(self, accounts: Accounts, add: Add, timezone: str) -> None:
        """An unknown time zone is rejected with an example of a valid one, and no user is added."""
        with pytest.raises(ValueError, match="Europe/Berlin"):
            add("ann", timezone=timezone)
        assert accounts.all() == []

    def test_encrypted_tokens(self, accounts: Accounts, add: Add, connection: Connection) -> None:
        """No table contains a readable token."""
        add("ann")
        accounts.save_credentials(accounts.load(["ann"])[0][0], Credentials(CANARY, CANARY))
        tables = [name for (name,) in connection.execute("SELECT relname FROM pg_class WHERE relkind = 'r'")]
        assert "todoist_accounts" in tables
        for table in ("users", "todoist_accounts"):
            assert CANARY not in str(connection.execute(f"SELECT * FROM {table}").fetchall())

    def test_removed(
        self, accounts: Accounts, add: Add, connection: Connection, add_requests: Callable[..., None]
    ) -> None:
        """Removing a user deletes the account, decisions and context, and leaves other users."""
        add("ann", "bob")
        add_requests("ann", NOW)
        for user in ("ann", "bob"):
            connection.execute("INSERT INTO context_store VALUES (%s, now(), '{}', 'h')", (user,))
        assert accounts.remove("ann")
        assert accounts.existing(["ann", "bob", "eve"]) == {"bob"}
        counts = "SELECT (SELECT count(*) FROM decisions), (SELECT count(*) FROM todoist_accounts)"
        assert connection.execute(counts).fetchone() == (0, 1)
        assert connection.execute("SELECT user_id FROM context_store").fetchall() == [("bob",)]
        assert not accounts.remove("ann")


def test_added_and_removed_at_once(accounts: Accounts, connection: Connection, database_url: str) -> None:
    """Processes that add and remove the same user at the same time take turns: none fails, and nothing remains."""
    cipher = CredentialCipher([new_key()])
    write_row = "INSERT INTO context_store VALUES ('ann', %s, '{}', 'h') ON CONFLICT DO NOTHING"

    def replace_often(number: int) -> None:
        with connect(database_url) as own:
            own_accounts = Accounts(own, cipher)
            for _ in range(40):
                own_accounts.add("ann", email="", timezone="UTC", credentials=Credentials(f"token {number}"))
                own.execute(write_row, (NOW,))
                own_accounts.remove("ann")

    with ThreadPoolExecutor() as pool:
        for each in [pool.submit(replace_often, number) for number in range(3)]:
            each.result()
    assert accounts.existing(["ann"]) == set()
    assert connection.execute("SELECT count(*) FROM context_store").fetchone() == (0,)


class TestSyncStates:
    def test_saved(self, accounts: Accounts, add: Add) -> None:
        """The next fetch starts from the saved sync token, names and time zone."""
        add("ann")
        directory = Directory(
            todoist_user_id="7",
            projects={"p": Project("Home"), "q": Project("Work", "p", is_shared=True, is_archived=True)},
            sections={"s": Section("Gärten 🌱", is_archived=True)},
            timezone="Asia/Tokyo",
            language="de",
            unreadable=frozenset({"0f", "1e"}),
        )
        accounts.save_sync_states([sync_state(accounts, "ann", "s1", directory, b"digest")], [], NOW)
        [account] = accounts.load(["ann"])[0]
        assert (account.sync_token, account.directory, account.timezone) == ("s1", directory, "Asia/Tokyo")
        assert account.rows_digest == b"digest"
        assert accounts.observations(NOW).at == {"ann": NOW}

    def test_unknown_zone(self, accounts: Accounts, add: Add) -> None:
        """A user keeps the previous time zone if Todoist reports none."""
        add("ann", timezone="Asia/Tokyo")
        save_fetch(accounts, "ann", "s1")
        assert state(accounts, "ann")["timezone"] == "Asia/Tokyo"

    def test_freshness_moves_forward(self, accounts: Accounts, add: Add) -> None:
        """Saving an older fetch does not move the instant of the last fetch back."""
        add("ann")
        save_fetch(accounts, "ann", "s2", NOW)
        save_fetch(accounts, "ann", "s1", NOW - timedelta(hours=1))
        assert accounts.observations(NOW).at == {"ann": NOW}

    def test_a_fetch_from_the_future(self, connection: Connection, add: Add) -> None:
        """An instant that lies ahead, because a clock was set back, gives way to that of the next fetch."""
        add("ann")
        accounts = Accounts(connection, CredentialCipher([KEY]), clock=lambda: NOW)
        save_fetch(accounts, "ann", "s1", NOW + timedelta(hours=2))
        save_fetch(accounts, "ann", "s2", NOW)
        assert accounts.observations(NOW).at == {"ann": NOW}

    def test_full_sync_next(self, accounts: Accounts, add: Add) -> None:
        """A missing sync token is saved: the next fetch is a full sync."""
        add("ann")
        save_fetch(accounts, "ann", "s1")
        save_fetch(accounts, "ann", None)
        assert accounts.load(["ann"])[0][0].sync_token is None

    def test_nothing_to_save(self, accounts: Accounts) -> None:
        """A run without fetched users saves nothing."""
        accounts.save_sync_states([], [], NOW)
        assert accounts.observations(NOW).at == {}

    def test_all_or_nothing(self, accounts: Accounts, add: Add) -> None:
        """If one user's state cannot be saved, no state is saved."""
        add("ann", "bob")
        broken = [sync_state(accounts, "ann", "s1", Directory()), sync_state(accounts, "bob", "nul\x00", Directory())]
        with pytest.raises((psycopg.Error, ValueError)):
            accounts.save_sync_states(broken, [], NOW)
        assert accounts.observations(NOW).at == {}

    def test_newer_than_the_store(self, accounts: Accounts, add: Add, connection: Connection) -> None:
        """Only users with a fetch that is newer than their stored context are returned."""
        add("fetched", "stored", "again", "never")
        for user in ("fetched", "stored", "again"):
            save_fetch(accounts, user, "s1", NOW)
        for user, at in (("stored", NOW), ("again", NOW - timedelta(hours=4)), ("never", NOW)):
            store_row(connection, user, at)
        assert accounts.observations(NOW).outdated == {"fetched", "again"}

    def test_fetches_without_a_change(self, accounts: Accounts, add: Add, connection: Connection) -> None:
        """A fetch that finds a change makes the stored context outdated, and one without a change does not."""
        add("same", "changed", "requested")
        for user in ("same", "changed", "requested"):
            save_fetch(accounts, user, "s1", NOW, b"1")
            store_row(connection, user, NOW)
            save_fetch(accounts, user, "s2", NOW + timedelta(hours=1), b"2" if user == "changed" else b"1")
        connection.execute(
            "UPDATE context_store SET row_version = NULL, rows_digest = NULL WHERE user_id = 'requested'"
        )
        assert accounts.observations(NOW).outdated == {"changed", "requested"}

    def test_a_row_from_the_future(self, accounts: Accounts, add: Add, connection: Connection) -> None:
        """A row of the store from the future, written before a clock was set back, counts as older than the fetch."""
        add("ann")
        save_fetch(accounts, "ann", "s1", NOW)
        store_row(connection, "ann", NOW + timedelta(hours=2))
        assert accounts.observations(NOW).outdated == {"ann"}
        assert accounts.observations(NOW + timedelta(hours=2)).outdated == set()


class TestRefusals:
    def test_two_days(self, accounts: Accounts, add: Add) -> None:
        """An account is disconnected by refusals on two days; several runs of a day, and retries, count once."""
        add("ann", "bob")
        for hours in (0, 0, 4, 8):
            assert refuse(accounts, "ann", at=NOW + timedelta(hours=hours)) == []
        assert (state(accounts, "ann")["connected"], state(accounts, "ann")["auth_failures"]) == (True, 1)
        assert refuse(accounts, "ann", "bob", at=NOW + DAY) == ["ann"]
        assert not state(accounts, "ann")["connected"]
        assert state(accounts, "bob")["connected"]

    def test_around_midnight(self, accounts: Accounts, add: Add) -> None:
        """Refusals minutes before and after midnight are one; a later one of the new day is the second."""
        add("ann")
        midnight = datetime(2026, 11, 24, tzinfo=UTC)
        for minutes in (-15, 0, 15):
            assert refuse(accounts, "ann", at=midnight + timedelta(minutes=minutes)) == []
        assert refuse(accounts, "ann", at=midnight + timedelta(hours=6)) == ["ann"]

    def test_pending(self, accounts: Accounts, add: Add) -> None:
        """A refusal without the end of its run has no consequences, on as many days as it comes."""
        add("ann")
        for days in range(4):
            accounts.save_sync_states([], accounts.load(["ann"])[0], NOW + days * DAY)
        assert accounts.confirm_refusals(NOW) == []
        assert (state(accounts, "ann")["connected"], state(accounts, "ann")["auth_failures"]) == (True, 0)

    def test_discarded(self, accounts: Accounts, add: Add) -> None:
        """Discarded refusals do not count, and those of other runs stay."""
        add("ann", "bob")
        refuse(accounts, "ann", "bob", at=NOW)
        accounts.save_sync_states([], accounts.load(["ann"])[0], NOW + DAY)
        accounts.save_sync_states([], accounts.load(["bob"])[0], NOW + 2 * DAY)
        accounts.discard_refusals(NOW + DAY)
        assert accounts.confirm_refusals(NOW + DAY) == []
        assert accounts.confirm_refusals(NOW + 2 * DAY) == ["bob"]

    def test_fetched_after_a_broken_off_run(self, accounts: Accounts, add: Add) -> None:
        """A successful fetch ends a refusal that no run confirmed."""
        add("ann")
        refuse(accounts, "ann", at=NOW - DAY)
        accounts.save_sync_states([], accounts.load(["ann"])[0], NOW)
        save_fetch(accounts, "ann", "s1", NEXT_RUN)
        assert accounts.confirm_refusals(NOW) == []
        assert state(accounts, "ann")["auth_failures"] == 0

    def test_clock_back(self, accounts: Accounts, add: Add) -> None:
        """A refusal of an earlier day than the last one does not disconnect."""
        add("ann")
        refuse(accounts, "ann", at=NOW)
        assert refuse(accounts, "ann", at=NOW - 2 * DAY) == []

    def test_refusal_keeps_freshness(self, accounts: Accounts, add: Add) -> None:
        """A refused fetch keeps the sync token and the instant of the last fetch."""
        add("ann")
        save_fetch(accounts, "ann", "s1", NOW - DAY)
        refuse(accounts, "ann", at=NOW)
        assert accounts.observations(NOW).at == {"ann": NOW - DAY}
        assert accounts.load(["ann"])[0][0].sync_token == "s1"

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["fetched", "refused", "outage", "died"])), max_size=9)
    )
    def test_any_history(self, accounts: Accounts, add: Add, runs: list[tuple[int, str]]) -> None:
        """Exactly refusals on two days, six hours apart and without a fetch in between, disconnect."""
        add("ann")
        at, first, connected = NOW, None, True
        for hours, outcome in runs:
            at += timedelta(hours=hours)
            if not connected:
                break
            if outcome == "fetched":
                save_fetch(accounts, "ann", "s1", at)
                first = None
                continue
            accounts.save_sync_states([], accounts.load(["ann"])[0], at)
            if outcome == "outage":
                accounts.discard_refusals(at)
            elif outcome == "refused":
                accounts.confirm_refusals(at)
                connected = first is None or at.date() == first.date() or at - first < timedelta(hours=6)
                first = first or at
        assert state(accounts, "ann")["connected"] is connected
        accounts.remove("ann")

    def test_reconnected(self, accounts: Accounts, add: Add) -> None:
        """A user, or all disconnected ones, are connected again with the same tokens, and the count starts again."""
        add("ann", "bob", "cem", "dan")
        save_fetch(accounts, "ann", "s1", NOW - DAY)
        for days in range(2):
            refuse(accounts, "ann", "bob", "cem", at=NOW + days * DAY)
        assert accounts.reconnect("dan") == accounts.reconnect("nobody") == []
        assert accounts.reconnect("ann") == ["ann"]
        assert accounts.reconnect() == ["bob", "cem"]
        assert {user["auth_failures"] for user in accounts.all() if user["connected"]} == {0}
        assert accounts.load(["ann"])[0][0].sync_token == "s1"
        assert refuse(accounts, "ann", at=NOW + 2 * DAY) == []
        assert refuse(accounts, "ann", at=NOW + 3 * DAY) == ["ann"]


class TestCredentials:
    def test_renewed(self, accounts: Accounts, add: Add) -> None:
        """Renewed credentials are stored, and the sync token is kept."""
        add("ann")
        save_fetch(accounts, "ann", "s1")
        accounts.save_credentials(accounts.load(["ann"])[0][0], Credentials("new", "refresh"))
        [account] = accounts.load(["ann"])[0]
        assert (account.credentials, account.sync_token) == (Credentials("new", "refresh"), "s1")

    def test_unreadable(self, accounts: Accounts, add: Add, connection: Connection) -> None:
        """An account that cannot be decrypted is reported with the reason, and other accounts are loaded."""
        add("ann", "bob")
        connection.execute("UPDATE todoist_accounts SET credentials = 'x' WHERE user_id = 'ann'")
        loaded, errors = accounts.load(["ann", "bob"])
        assert [account.user_id for account in loaded] == ["bob"]
        assert list(errors) == ["ann"]
        assert "CREDENTIALS_KEYS" in errors["ann"]

    @pytest.mark.parametrize("directory", ['{"planets": {}}', '{"archived": 5}', "[]", "null", "7"])
    def test_unreadable_directory(self, accounts: Accounts, add: Add, connection: Connection, directory: str) -> None:
        """An account with a directory that cannot be read is loaded for a full sync."""
        add("ann")
        save_fetch(accounts, "ann", "s1")
        connection.execute("UPDATE todoist_accounts SET directory = %s", (directory,))
        [[account], errors] = accounts.load(["ann"])
        assert (account.sync_token, account.directory, errors) == (None, Directory(), {})

    def test_swapped_rows(self, accounts: Accounts, add: Add, connection: Connection) -> None:
        """A token copied into a different user's row is not loaded."""
        add("ann", "bob")
        connection.execute(
            "UPDATE todoist_accounts a SET credentials = b.credentials FROM todoist_accounts b"
            " WHERE b.user_id = 'bob'"
        )
        loaded, errors = accounts.load(["ann", "bob"])
        assert [account.user_id for account in loaded] == ["bob"]
        assert CANARY not in str(errors)

    def test_rotation(self, connection: Connection, add: Add) -> None:
        """After a rotation the new key alone decrypts every account."""
        add("ann", "bob")
        key = new_key()
        assert Accounts(connection, CredentialCipher([key, KEY])).rotate() == 2
        loaded, errors = Accounts(connection, CredentialCipher([key])).load(["ann", "bob"])
        assert {account.user_id: account.credentials.access_token for account in loaded} == {
            "ann": f"{CANARY}-ann",
            "bob": f"{CANARY}-bob",
        }
        assert errors == {}

    def test_rotation_with_an_undecryptable_account(self, add: Add, connection: Connection) -> None:
        """An account that no key decrypts stays as it is and is named; the others get the first key."""
        add("ann", "bob", "eve")
        connection.execute("UPDATE todoist_accounts SET credentials = 'x' WHERE user_id = 'bob'")
        key = new_key()
        accounts = Accounts(connection, CredentialCipher([key, KEY]))
        with pytest.raises(CredentialsError, match=r"the credentials of bob: they stay as they are \(2 others"):
            accounts.rotate()
        loaded, errors = Accounts(connection, CredentialCipher([key])).load(["ann", "bob", "eve"])
        assert {account.user_id for account in loaded} == {"ann", "eve"}
        assert set(errors) == accounts.undecryptable() == {"bob"}


class TestDue:
    def test_all(self, accounts: Accounts, add: Add) -> None:
        """Scope ALL has every active user, with the instant of the last fetch."""
        add("ann", "bob")
        save_fetch(accounts, "bob", "s1", NOW)
        due = accounts.due(NOW, NEXT_RUN, scope=FetchScope.ALL)
        assert due.keys() == {"ann", "bob"}
        assert due["ann"] < due["bob"] == NOW

    @pytest.mark.parametrize("scope", list(FetchScope))
    def test_never(
        self,
        accounts: Accounts,
        add: Add,
        add_requests: Callable[..., None],
        connection: Connection,
        scope: FetchScope,
    ) -> None:
        """Users that are inactive, disconnected or without an account are due in no scope."""
        add("inactive", "disconnected", "loose")
        for user in ("inactive", "disconnected", "loose"):
            add_requests(user, NOW - timedelta(days=1) + timedelta(minutes=30))
        assert len(accounts.due(NOW, NEXT_RUN, scope=scope)) == 3
        accounts.set_active("inactive", active=False)
        for days in (2, 1):
            refuse(accounts, "disconnected", at=NOW - days * DAY)
        connection.execute("DELETE FROM todoist_accounts WHERE user_id = 'loose'")
        assert accounts.due(NOW, NEXT_RUN, scope=scope) == {}

    @pytest.mark.parametrize("scope", [FetchScope.NIGHTLY, FetchScope.LIKELY])
    def test_instants_from_the_future(
        self,
        accounts: Accounts,
        add: Add,
        add_requests: Callable[..., None],
        connection: Connection,
        scope: FetchScope,
    ) -> None:
        """A user whose last fetch and context are from the future, before a clock was set back, is due."""
        add("ann")
        add_requests("ann", NOW - DAY + timedelta(minutes=30))
        save_fetch(accounts, "ann", "s1", NOW + DAY)
        connection.execute("INSERT INTO context_store VALUES ('ann', %s, '{}', 'h')", [NOW + DAY])
        assert accounts.due(NOW, NEXT_RUN, scope=scope).keys() == {"ann"}

    def test_without_requests(self, accounts: Accounts, add: Add) -> None:
        """A user without requests is not due in scope LIKELY."""
        add("ann")
        assert accounts.due(NOW, NEXT_RUN, scope=FetchScope.LIKELY) == {}

    @pytest.mark.parametrize(
        ("ago", "is_due"),
        [
            (timedelta(days=1), True),
            (timedelta(days=1) - timedelta(hours=3, minutes=59), True),
            (timedelta(days=1) - timedelta(hours=4, minutes=29), True),
            (timedelta(days=1) - timedelta(hours=4, minutes=30), False),
            (timedelta(days=1, seconds=1), False),
            (timedelta(hours=1), False),
            (timedelta(0), False),
            (timedelta(days=7), True),
            (timedelta(days=7) - timedelta(hours=2), True),
            (timedelta(days=7, seconds=1), False),
            (timedelta(days=8) - timedelta(hours=2), True),
            (timedelta(days=9) - timedelta(hours=2), False),
            (timedelta(days=30) - timedelta(hours=2), False),
        ],
        ids=str,
    )
    def test_part_of_the_day(
        self, accounts: Accounts, add: Add, add_requests: Callable[..., None], ago: timedelta, is_due: bool
    ) -> None:
        """A user is likely to ask if there was one request in this part of the day in the last eight days."""
        add("ann")
        add_requests("ann", NOW - ago)
        assert (accounts.due(NOW, NEXT_RUN, scope=FetchScope.LIKELY).keys() == {"ann"}) is is_due

    def test_around_midnight(self, accounts: Accounts, add: Add, add_requests: Callable[..., None]) -> None:
        """A run late in the evening includes users that ask after midnight."""
        add("before", "after", "later")
        late = NOW.replace(hour=22)
        add_requests("before", late - timedelta(hours=23))
        add_requests("after", late - timedelta(hours=21))
        add_requests("later", late - timedelta(hours=19))
        assert accounts.due(late, late + timedelta(hours=4), scope=FetchScope.LIKELY).keys() == {"before", "after"}

    def test_local_time(self, accounts: Accounts, add: Add, add_requests: Callable[..., None]) -> None:
        """The part of the day is the user's local time, across changes of daylight saving time."""
        add("berlin", timezone="Europe/Berlin")
        add("utc")
        summer = datetime(2026, 10, 22, 5, 30, tzinfo=UTC)  # 07:30 in Berlin; after the 25th that is 06:30 in UTC
        add_requests("berlin", summer)
        add_requests("utc", summer)
        run = datetime(2026, 10, 26, 2, tzinfo=UTC)
        assert accounts.due(run, run + timedelta(hours=4), scope=FetchScope.LIKELY).keys() == {"utc"}
        run += timedelta(hours=4)
        assert accounts.due(run, run + timedelta(hours=4), scope=FetchScope.LIKELY).keys() == {"berlin"}

    def test_once_each(self, accounts: Accounts, add: Add, add_requests: Callable[..., None]) -> None:
        """A user with requests at all hours is due in every run, once."""
        add("ann")
        add_requests("ann", *(NOW - timedelta(hours=hours) for hours in range(1, 24 * 7)))
        for hour in range(0, 24, 4):
            run = NOW + timedelta(hours=hour)
            assert list(accounts.due(run, run + timedelta(hours=4), scope=FetchScope.LIKELY)) == ["ann"]

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        minutes=st.integers(1, 60 * 24 * 9),
        zone=st.sampled_from(["UTC", "Asia/Kathmandu", "America/New_York", "Pacific/Kiritimati"]),
        hour=st.integers(0, 23),
    )
    def test_runs_of_a_day_share_the_day(
        self, accounts: Accounts, connection: Connection, minutes: int, zone: str, hour: int
    ) -> None:
        """A user with one request is due in one or two runs of a day for eight days, and then in none."""
        connection.execute("DELETE FROM users")
        start = NOW.replace(hour=hour)
        accounts.add("ann", email="x", timezone=zone, credentials=Credentials("t"))
        at = start - timedelta(minutes=minutes)
        connection.execute("UPDATE users SET created_at = %s", [start - 60 * DAY])
        connection.execute("INSERT INTO decisions VALUES (%s, 'ann', %s)", (uuid4(), at))
        runs = [start + timedelta(hours=4 * n) for n in range(6)]
        n_due = sum("ann" in accounts.due(run, run + timedelta(hours=4), scope=FetchScope.LIKELY) for run in runs)
        assert n_due in ((1, 2) if minutes <= 60 * 24 * 8 else (0,))

    def test_only_the_stale_part(
        self, accounts: Accounts, add: Add, add_requests: Callable[..., None], connection: Connection
    ) -> None:
        """Requests that would find a fresh context count for nothing: until half an hour before it becomes stale."""
        fetched = NOW - timedelta(hours=4)
        for user, hours in (("before", 1.4), ("after", 1.6)):
            add(user)
            save_fetch(accounts, user, "s1", at=fetched)
            add_requests(user, *(NOW + timedelta(hours=hours) - n * DAY for n in range(1, 8)))
        assert accounts.due(NOW, NEXT_RUN, scope=FetchScope.LIKELY).keys() == {"after"}

    def test_context_that_ends_before(
        self, accounts: Accounts, add: Add, add_requests: Callable[..., None], connection: Connection
    ) -> None:
        """A request after the instant at which the stored context becomes invalid is no reason for a fetch."""
        add("ann")
        add_requests("ann", *(NOW + timedelta(hours=2) - n * DAY for n in range(1, 8)))
        connection.execute("INSERT INTO context_store VALUES ('ann', %s, '{}', 'h')", [NOW - DAY])
        for hours, is_due in ((1, False), (3, True)):
            connection.execute("UPDATE context_store SET valid_until = %s", [NOW + timedelta(hours=hours)])
            assert (accounts.due(NOW, NEXT_RUN, scope=FetchScope.LIKELY).keys() == {"ann"}) is is_due

    def test_share_of_all_users(
        self, accounts: Accounts, add: Add, add_requests: Callable[..., None], connection: Connection
    ) -> None:
        """A new user is expected to ask like all others; one who did not ask for three weeks is not."""
        add("silent", *(others := ("ann", "bob", "cem", "dee")), "new")
        for user in (*others, "silent"):
            add_requests(user, *(NOW + timedelta(hours=1) - n * DAY for n in range(1, 15) if user != "silent"))
        connection.execute("UPDATE users SET created_at = %s WHERE user_id = 'new'", [NOW - 2 * DAY])
        assert accounts.due(NOW, NEXT_RUN, scope=FetchScope.LIKELY).keys() == {*others, "new"}

    def test_undelivered(
        self, accounts: Accounts, add: Add, connection: Connection, add_requests: Callable[..., None]
    ) -> None:
        """A request whose answer reached nobody is no habit."""
        add("ann", "bob")
        add_requests("ann", NOW - timedelta(hours=23))
        add_requests("bob", NOW - timedelta(hours=23))
        connection.execute("UPDATE decisions SET delivered = FALSE WHERE user_id = 'bob'")
        assert accounts.due(NOW, NEXT_RUN, scope=FetchScope.LIKELY).keys() == {"ann"}

    def test_undelivered_idle(
        self, accounts: Accounts, add: Add, connection: Connection, add_requests: Callable[..., None]
    ) -> None:
        """A user who got no answer is as idle as one who did not ask."""
        add("ann", "bob")
        for user in ("ann", "bob"):
            save_fetch(accounts, user, "s1", at=NOW - timedelta(hours=25))
            add_requests(user, NOW - timedelta(days=3))
        connection.execute("UPDATE users SET created_at = %s", [NOW - timedelta(days=100)])
        connection.execute("UPDATE decisions SET delivered = FALSE WHERE user_id = 'bob'")
        assert accounts.due(NOW, NEXT_RUN, scope=FetchScope.NIGHTLY).keys() == {"ann"}

    def test_shards(self, accounts: Accounts, add: Add) -> None:
        """Every user is in exactly one shard."""
        users = {f"user-{n}" for n in range(40)}
        add(*users)
        for user in users:
            save_fetch(accounts, user, "s1")
        for find in (
            lambda **of: accounts.due(NOW, NEXT_RUN, scope=FetchScope.ALL, **of),
            lambda **of: accounts.observations(NOW, **of).at,
            lambda **of: accounts.observations(NOW, **of).outdated,
        ):
            parts = [set(find(shards=shards, n_shards=4)) for shards in ([0], [1, 3], [2], [])]
            assert sum(map(len, parts)) == 40
            assert set().union(*parts) == users
            assert [bool(part) for part in parts] == [True, True, True, False]

    @pytest.mark.parametrize("zone", ["localtime", "posix/Europe/Berlin"])
    def test_zone_unknown_to_postgres(
        self, accounts: Accounts, add: Add, add_requests: Callable[..., None], zone: str
    ) -> None:
        """A time zone that only Python knows does not affect other users."""
        add("ann")
        add("bob")
        accounts.save_sync_states([sync_state(accounts, "bob", "s", Directory(timezone=zone))], [], NOW)
        for user in ("ann", "bob"):
            add_requests(user, NOW - timedelta(days=1))
        assert "ann" in accounts.due(NOW, NEXT_RUN, scope=FetchScope.LIKELY)

    def test_events(self, accounts: Accounts, add: Add, add_requests: Any, connection: Connection) -> None:
        """A user whom trusted events cover is due if events are off, or hint at a change, or one is pending for long.

        Without a channel, events make no difference.
        """
        add("ann")
        save_fetch(accounts, "ann", "s", at=NOW - 8 * timedelta(hours=1))
        add_requests("ann", NOW - DAY + timedelta(hours=1))
        connection.execute(
            "UPDATE todoist_accounts SET oauth_connected_at = %(at)s, events_confirmed_at = %(at)s", {"at": NOW - DAY}
        )
        connection.execute(
            "UPDATE todoist_channel SET is_trusted = TRUE, trusted_until = %s, delay_p99 = '1 minute'", (NOW,)
        )

        def is_due(events: EventsMode) -> bool:
            return "ann" in accounts.due(NOW, NEXT_RUN, scope=FetchScope.LIKELY, events=events)

        assert [is_due(events) for events in ("off", "hints", "trusted")] == [True, False, False]
        connection.execute(
            "INSERT INTO todoist_events SELECT user_id, connection_number, 'item', '1', 'item:updated', '{}', FALSE,"
            " NULL, NULL, %s FROM todoist_accounts",
            (NOW,),
        )
        assert [is_due(events) for events in ("off", "hints", "trusted")] == [True, True, False]
        connection.execute("UPDATE todoist_events SET received_at = %s", (NOW - 7 * timedelta(hours=1),))
        assert [is_due(events) for events in ("off", "hints", "trusted")] == [True, True, True]
        connection.execute("DELETE FROM todoist_channel")
        assert [is_due(events) for events in ("off", "hints", "trusted")] == [True, True, True]
