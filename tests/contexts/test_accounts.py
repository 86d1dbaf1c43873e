"""Users and their accounts, and who is due."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contexts.accounts import Accounts, Look, Progress
from contexts.mirror import Directory
from contexts.todoist import Credentials
from contexts.vault import Vault, VaultError, new_key

NOW = datetime(2026, 11, 23, 14, 0, tzinfo=UTC)
UNTIL = NOW + timedelta(hours=4)
CANARY = "canary-4711"
KEY = new_key()

Connection = psycopg.Connection[Any]
Add = Callable[..., None]


@pytest.fixture
def accounts(connection: Connection) -> Accounts:
    return Accounts(connection, Vault([KEY]))


@pytest.fixture
def add(accounts: Accounts) -> Add:
    """Adds users by name, in UTC unless told."""

    def make(*users: str, timezone: str = "UTC") -> None:
        for user in users:
            accounts.add(user, email=f"{user}@x.org", timezone=timezone, credentials=Credentials(f"{CANARY}-{user}"))

    return make


@pytest.fixture
def asked(connection: Connection) -> Callable[..., None]:
    """Lets a user have asked for a tip at some instants."""

    def insert(user: str, *instants: datetime) -> None:
        for at in instants:
            connection.execute(
                "INSERT INTO decisions (decision_id, user_id, decided_at) VALUES (%s, %s, %s)", (uuid4(), user, at)
            )

    return insert


def saved(accounts: Accounts, user: str, sync_token: str | None, at: datetime = NOW, **directory: Any) -> None:
    accounts.save([Progress(user, sync_token, Directory(**directory))], [], at)


def state(accounts: Accounts, user: str) -> dict[str, Any]:
    [found] = [each for each in accounts.all() if each["user_id"] == user]
    return found


class TestAdding:
    def test_new_user(self, accounts: Accounts, add: Add) -> None:
        """A new user is active and connected, was never fetched, and is asked for everything."""
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
            }
        ]
        [[found], refused] = accounts.open(["ann"])
        assert (found.sync_token, found.directory, found.timezone) == (None, Directory(), "Asia/Tokyo")
        assert found.credentials == Credentials(f"{CANARY}-ann")
        assert refused == {}

    def test_new_credentials(self, accounts: Accounts, add: Add) -> None:
        """New credentials connect a known user again, and ask for everything since the account may be another."""
        add("ann")
        saved(accounts, "ann", "s1")
        for run in (NOW, UNTIL):
            accounts.save([], ["ann"], run)
        assert not state(accounts, "ann")["connected"]
        accounts.set_active("ann", active=False)
        add("ann")
        assert state(accounts, "ann")["connected"]
        assert state(accounts, "ann")["active"]
        assert state(accounts, "ann")["auth_failures"] == 0
        assert accounts.open(["ann"])[0][0].sync_token is None

    @pytest.mark.parametrize("timezone", ["Berlin", "", "Mars/Olympus", "../etc/passwd", "+01:00"])
    def test_unknown_zone(self, accounts: Accounts, add: Add, timezone: str) -> None:
        """A time zone that does not exist is refused with an example, and nobody is added."""
        with pytest.raises(ValueError, match="Europe/Berlin"):
            add("ann", timezone=timezone)
        assert accounts.all() == []

    def test_nothing_readable_in_the_database(self, accounts: Accounts, add: Add, connection: Connection) -> None:
        """No token stands readable in any table."""
        add("ann")
        accounts.renewed("ann", Credentials(CANARY, CANARY))
        tables = [name for (name,) in connection.execute("SELECT relname FROM pg_class WHERE relkind = 'r'")]
        assert "todoist_accounts" in tables
        for table in ("users", "todoist_accounts"):
            assert CANARY not in str(connection.execute(f"SELECT * FROM {table}").fetchall())

    def test_removed(self, accounts: Accounts, add: Add, connection: Connection, asked: Callable[..., None]) -> None:
        """A removed user is gone with account, decisions and context; the others stay."""
        add("ann", "bob")
        asked("ann", NOW)
        for user in ("ann", "bob"):
            connection.execute("INSERT INTO context_store VALUES (%s, now(), '{}', 'h')", (user,))
        assert accounts.remove("ann")
        assert accounts.known(["ann", "bob", "eve"]) == {"bob"}
        counts = "SELECT (SELECT count(*) FROM decisions), (SELECT count(*) FROM todoist_accounts)"
        assert connection.execute(counts).fetchone() == (0, 1)
        assert connection.execute("SELECT user_id FROM context_store").fetchall() == [("bob",)]
        assert not accounts.remove("ann")


class TestProgress:
    def test_saved(self, accounts: Accounts, add: Add) -> None:
        """After a fetch the next one goes on from its sync token, names and time zone."""
        add("ann")
        directory = Directory({"p": "Home"}, {"s": "Gärten 🌱"}, frozenset({"q"}), "Asia/Tokyo", "de")
        accounts.save([Progress("ann", "s1", directory)], [], NOW)
        [found] = accounts.open(["ann"])[0]
        assert (found.sync_token, found.directory, found.timezone) == ("s1", directory, "Asia/Tokyo")
        assert accounts.observed() == {"ann": NOW}

    def test_zone_stays(self, accounts: Accounts, add: Add) -> None:
        """A user whose zone Todoist does not say keeps the one given."""
        add("ann", timezone="Asia/Tokyo")
        saved(accounts, "ann", "s1")
        assert state(accounts, "ann")["timezone"] == "Asia/Tokyo"

    def test_freshness_moves_forward(self, accounts: Accounts, add: Add) -> None:
        """A fetch that ends late does not make a user look less fresh."""
        add("ann")
        saved(accounts, "ann", "s2", NOW)
        saved(accounts, "ann", "s1", NOW - timedelta(hours=1))
        assert accounts.observed() == {"ann": NOW}

    def test_full_sync_next(self, accounts: Accounts, add: Add) -> None:
        """A user who needs everything next time has no sync token."""
        add("ann")
        saved(accounts, "ann", "s1")
        saved(accounts, "ann", None)
        assert accounts.open(["ann"])[0][0].sync_token is None

    def test_nothing_to_save(self, accounts: Accounts) -> None:
        """A run in which nobody was fetched saves nothing and does not fail."""
        accounts.save([], [], NOW)
        assert accounts.observed() == {}

    def test_all_or_nothing(self, accounts: Accounts, add: Add) -> None:
        """When one user's progress cannot be saved nobody's is: the run is tried again as a whole."""
        add("ann", "bob")
        broken = [Progress("ann", "s1", Directory()), Progress("bob", "nul\x00", Directory())]
        with pytest.raises((psycopg.Error, ValueError)):
            accounts.save(broken, [], NOW)
        assert accounts.observed() == {}

    def test_refused_twice(self, accounts: Accounts, add: Add) -> None:
        """A token refused once may be Todoist's mistake; refused in two runs in a row, the user has to reconnect."""
        add("ann")
        for _ in range(2):  # a task that is tried again is no other run
            accounts.save([], ["ann"], NOW)
        assert state(accounts, "ann")["connected"]
        accounts.save([], ["ann"], NOW + timedelta(hours=4))
        assert not state(accounts, "ann")["connected"]

    def test_success_in_between(self, accounts: Accounts, add: Add) -> None:
        """A good fetch between two refusals starts the count again."""
        add("ann")
        accounts.save([], ["ann"], NOW)
        saved(accounts, "ann", "s1")
        accounts.save([], ["ann"], UNTIL)
        assert state(accounts, "ann")["connected"]

    def test_refusal_keeps_freshness(self, accounts: Accounts, add: Add) -> None:
        """A refused fetch leaves sync token and freshness as they were."""
        add("ann")
        saved(accounts, "ann", "s1", NOW - timedelta(days=1))
        accounts.save([], ["ann"], NOW)
        assert accounts.observed() == {"ann": NOW - timedelta(days=1)}
        assert accounts.open(["ann"])[0][0].sync_token == "s1"

    def test_newer_than_the_store(self, accounts: Accounts, add: Add, connection: Connection) -> None:
        """Users fetched after their row of the store was made are named, others are not."""
        add("fetched", "stored", "again", "never")
        for user in ("fetched", "stored", "again"):
            saved(accounts, user, "s1", NOW)
        for user, at in (("stored", NOW), ("again", NOW - timedelta(hours=4)), ("never", NOW)):
            connection.execute("INSERT INTO context_store VALUES (%s, %s, '{}', 'h')", (user, at))
        assert accounts.observed_since_stored() == {"fetched", "again"}


class TestCredentials:
    def test_renewed(self, accounts: Accounts, add: Add) -> None:
        """Renewed credentials are there for the next fetch, which goes on from the same sync token."""
        add("ann")
        saved(accounts, "ann", "s1")
        accounts.renewed("ann", Credentials("new", "refresh"))
        [found] = accounts.open(["ann"])[0]
        assert (found.credentials, found.sync_token) == (Credentials("new", "refresh"), "s1")

    def test_unreadable(self, accounts: Accounts, add: Add, connection: Connection) -> None:
        """An account that no key opens is reported by its reason, and the others are opened."""
        add("ann", "bob")
        connection.execute("UPDATE todoist_accounts SET credentials = 'x' WHERE user_id = 'ann'")
        opened, refused = accounts.open(["ann", "bob"])
        assert [each.user_id for each in opened] == ["bob"]
        assert list(refused) == ["ann"]
        assert "CREDENTIALS_KEYS" in refused["ann"]

    def test_swapped_rows(self, accounts: Accounts, add: Add, connection: Connection) -> None:
        """Somebody who copies a token into another user's row gets nothing opened with it."""
        add("ann", "bob")
        connection.execute(
            "UPDATE todoist_accounts a SET credentials = b.credentials FROM todoist_accounts b"
            " WHERE b.user_id = 'bob'"
        )
        opened, refused = accounts.open(["ann", "bob"])
        assert [each.user_id for each in opened] == ["bob"]
        assert CANARY not in str(refused)

    def test_rotation(self, connection: Connection, add: Add) -> None:
        """After a rotation the new key alone opens every account."""
        add("ann", "bob")
        key = new_key()
        assert Accounts(connection, Vault([key, KEY])).rotate() == 2
        opened, refused = Accounts(connection, Vault([key])).open(["ann", "bob"])
        assert {each.user_id: each.credentials.access_token for each in opened} == {
            "ann": f"{CANARY}-ann",
            "bob": f"{CANARY}-bob",
        }
        assert refused == {}

    def test_failed_rotation(self, accounts: Accounts, add: Add, connection: Connection) -> None:
        """When one account cannot be opened nothing is rotated."""
        add("ann", "bob")
        connection.execute("UPDATE todoist_accounts SET credentials = 'x' WHERE user_id = 'bob'")
        before = connection.execute("SELECT user_id, credentials FROM todoist_accounts ORDER BY 1").fetchall()
        with pytest.raises(VaultError):
            accounts.rotate()
        assert connection.execute("SELECT user_id, credentials FROM todoist_accounts ORDER BY 1").fetchall() == before


class TestDue:
    def test_full_night(self, accounts: Accounts, add: Add) -> None:
        """The full night fetches every active user, asked or not, with the instant of the last fetch."""
        add("ann", "bob")
        saved(accounts, "bob", "s1", NOW)
        due = accounts.due(NOW, UNTIL, look=Look.EVERYBODY)
        assert due.keys() == {"ann", "bob"}
        assert due["ann"] < due["bob"] == NOW

    @pytest.mark.parametrize("look", list(Look))
    def test_never(
        self, accounts: Accounts, add: Add, asked: Callable[..., None], connection: Connection, look: Look
    ) -> None:
        """Whoever is inactive, disconnected or without an account is fetched in no run."""
        add("inactive", "disconnected", "loose")
        for user in ("inactive", "disconnected", "loose"):
            asked(user, NOW - timedelta(days=1) + timedelta(minutes=30))
        assert len(accounts.due(NOW, UNTIL, look=look)) == 3
        accounts.set_active("inactive", active=False)
        for hours in (4, 8):
            accounts.save([], ["disconnected"], NOW - timedelta(hours=hours))
        connection.execute("DELETE FROM todoist_accounts WHERE user_id = 'loose'")
        assert accounts.due(NOW, UNTIL, look=look) == {}

    def test_nobody_without_decisions(self, accounts: Accounts, add: Add) -> None:
        """Between the nights nobody is fetched who never asked."""
        add("ann")
        assert accounts.due(NOW, UNTIL, look=Look.LIKELY) == {}

    @pytest.mark.parametrize(
        ("ago", "is_due"),
        [
            (timedelta(days=1), True),
            (timedelta(days=1) - timedelta(hours=3, minutes=59), True),
            (timedelta(days=1) - timedelta(hours=4), False),
            (timedelta(days=1, seconds=1), False),
            (timedelta(hours=1), False),
            (timedelta(0), False),
            (timedelta(days=7), True),
            (timedelta(days=7) - timedelta(hours=2), True),
            (timedelta(days=7, seconds=1), False),
            (timedelta(days=8) - timedelta(hours=2), False),
            (timedelta(days=30) - timedelta(hours=2), False),
        ],
        ids=str,
    )
    def test_part_of_the_day(
        self, accounts: Accounts, add: Add, asked: Callable[..., None], ago: timedelta, is_due: bool
    ) -> None:
        """Between the nights whoever asked in this part of the day within the last week is fetched, nobody else."""
        add("ann")
        asked("ann", NOW - ago)
        assert (accounts.due(NOW, UNTIL, look=Look.LIKELY).keys() == {"ann"}) is is_due

    def test_around_midnight(self, accounts: Accounts, add: Add, asked: Callable[..., None]) -> None:
        """A run late in the evening thinks of those who ask after midnight too."""
        add("before", "after", "later")
        late = NOW.replace(hour=22)
        asked("before", late - timedelta(hours=23))
        asked("after", late - timedelta(hours=21))
        asked("later", late - timedelta(hours=19))
        assert accounts.due(late, late + timedelta(hours=4), look=Look.LIKELY).keys() == {"before", "after"}

    def test_own_clock(self, accounts: Accounts, add: Add, asked: Callable[..., None]) -> None:
        """The part of the day is that of the user's clock: it stays when the clocks change."""
        add("berlin", timezone="Europe/Berlin")
        add("utc")
        summer = datetime(2026, 10, 22, 5, 30, tzinfo=UTC)  # 07:30 in Berlin; after the 25th that is 06:30 in UTC
        asked("berlin", summer)
        asked("utc", summer)
        run = datetime(2026, 10, 26, 2, tzinfo=UTC)
        assert accounts.due(run, run + timedelta(hours=4), look=Look.LIKELY).keys() == {"utc"}
        run += timedelta(hours=4)
        assert accounts.due(run, run + timedelta(hours=4), look=Look.LIKELY).keys() == {"berlin"}

    def test_once_each(self, accounts: Accounts, add: Add, asked: Callable[..., None]) -> None:
        """Somebody who asks all the time is due in every run of the day, once."""
        add("ann")
        asked("ann", *(NOW - timedelta(hours=hours) for hours in range(1, 24 * 7)))
        for hour in range(0, 24, 4):
            run = NOW + timedelta(hours=hour)
            assert list(accounts.due(run, run + timedelta(hours=4), look=Look.LIKELY)) == ["ann"]

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        minutes=st.integers(1, 60 * 24 * 9),
        zone=st.sampled_from(["UTC", "Asia/Kathmandu", "America/New_York", "Pacific/Kiritimati"]),
        hour=st.integers(0, 23),
    )
    def test_runs_of_a_day_share_the_day(
        self, accounts: Accounts, connection: Connection, minutes: int, zone: str, hour: int
    ) -> None:
        """Six runs around the clock fetch somebody who asked once exactly once a day, for a week."""
        connection.execute("DELETE FROM users")
        start = NOW.replace(hour=hour)
        accounts.add("ann", email="x", timezone=zone, credentials=Credentials("t"))
        at = start - timedelta(minutes=minutes)
        connection.execute("INSERT INTO decisions VALUES (%s, 'ann', %s)", (uuid4(), at))
        runs = [start + timedelta(hours=4 * n) for n in range(6)]
        n_due = sum("ann" in accounts.due(run, run + timedelta(hours=4), look=Look.LIKELY) for run in runs)
        assert n_due == (1 if minutes <= 60 * 24 * 7 else 0)

    def test_shards(self, accounts: Accounts, add: Add) -> None:
        """The shards share out the users: each is in one, whoever is asked."""
        users = {f"user-{n}" for n in range(40)}
        add(*users)
        for user in users:
            saved(accounts, user, "s1")
        for find in (lambda **of: accounts.due(NOW, UNTIL, look=Look.EVERYBODY, **of), accounts.observed):
            parts = [set(find(shard=shard, n_shards=4)) for shard in range(4)]
            assert sum(map(len, parts)) == 40
            assert set().union(*parts) == users
            assert all(parts)

    @pytest.mark.parametrize("zone", ["localtime", "posix/Europe/Berlin"])
    def test_zone_that_only_python_knows(
        self, accounts: Accounts, add: Add, asked: Callable[..., None], zone: str
    ) -> None:
        """A user with an exotic time zone does not keep all others from being fetched between the nights."""
        add("ann")
        add("bob")
        accounts.save([Progress("bob", "s", Directory(timezone=zone))], [], NOW)
        for user in ("ann", "bob"):
            asked(user, NOW - timedelta(days=1))
        assert "ann" in accounts.due(NOW, UNTIL, look=Look.LIKELY)
