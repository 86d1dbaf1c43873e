"""Restored backups of Postgres that are older than the files."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from world import NOON, World

DAY = timedelta(days=1)


def test_older_database(world: World, account: Any) -> None:
    """After an older database is restored, a night that only asks for changes leaves what all the changes give."""
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist", "buy milk", "buy bread"))
    world.night(NOON)
    back_up(world)
    world.todoist.advance("ann", {"items": [{"id": "t0", "checked": True}, {"id": "t9", "content": "call the bank"}]})
    world.night(NOON + DAY)
    expected = world.stored_state()

    restore(world)
    assert world.stored_state() != expected
    world.night(NOON + DAY + timedelta(hours=12))
    assert world.stored_state() == expected
    assert {row["fetched_at"] for row in world.stored().values()} == {NOON + DAY + timedelta(hours=12)}
    assert [call.full for call in world.todoist.calls if call.user == "ann"][-1]


def back_up(world: World) -> None:
    """Keep the accounts and contexts of Postgres as they are."""
    world.connection.execute("CREATE SCHEMA backup")
    for table in ("todoist_accounts", "context_store"):
        world.connection.execute(f"CREATE TABLE backup.{table} AS TABLE public.{table}")


def restore(world: World) -> None:
    """Put back the accounts and contexts that `back_up` kept."""
    for table in ("context_store", "todoist_accounts"):
        world.connection.execute(f"DELETE FROM public.{table}")
    for table in ("todoist_accounts", "context_store"):
        columns = ", ".join(stored_columns(world, table))
        world.connection.execute(f"INSERT INTO public.{table} ({columns}) SELECT {columns} FROM backup.{table}")


def stored_columns(world: World, table: str) -> list[str]:
    """The columns of a table that Postgres does not compute."""
    found = world.connection.execute(
        "SELECT column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name = %s AND is_generated = 'NEVER'",
        [table],
    )
    return [name for (name,) in found]
