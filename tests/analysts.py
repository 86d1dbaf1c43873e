"""Tips and calls as the service logs them, and sessions over them, for the tests of what analysts read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from world import NOON, World

from assets.attached import Attached
from assets.ledger import LEDGER, ledger_table
from assets.session import Session, session
from contexts.ledger import Ledger

LONG_AGO = NOON - timedelta(days=365)


@contextmanager
def opened(world: World, database_url: str | None, *, now: datetime = NOON) -> Iterator[Session]:
    """A session over a world as of noon."""
    with session(str(world.root), Attached(database_url, LONG_AGO), now=now) as made:
        yield made


def tip(
    world: World,
    user: str,
    at: datetime,
    kind: str = "focus",
    *,
    reaction: str | None = None,
    reward: float | None = None,
    age: timedelta | None = timedelta(hours=1),
    **columns: Any,
) -> UUID:
    """A decision as the service logs it, with what the user made of it."""
    row = {
        "decision_id": uuid4(),
        "user_id": user,
        "decided_at": at,
        "tip_kind": kind,
        "theme": "",
        "source": "stored",
        "llm": "skipped",
        "materialized_at": None if age is None else at - age,
        "policy_version": "linear-1@12",
        "chosen": 0,
        "propensities": [0.5, 0.25, 0.25],
        **columns,
    }
    _insert(world, "decisions", row)
    if reaction is not None:
        world.connection.execute(
            "INSERT INTO reactions VALUES (%s, %s, %s, %s)", [row["decision_id"], reaction, at, reward]
        )
    return row["decision_id"]


def llm_call(world: World, user: str, at: datetime, **columns: Any) -> None:
    """A call of the LLM as the service logs it."""
    row = {
        "called_at": at,
        "user_id": user,
        "candidate_set_id": uuid4(),
        "model": "a-model",
        "outcome": "answered",
        "n_requests": 1,
        "input_tokens": 1000,
        "output_tokens": 200,
        "cost_usd": 0.002,
        "seconds": 1.5,
        **columns,
    }
    _insert(world, "llm_calls", row)


def _insert(world: World, table: str, row: dict[str, Any]) -> None:
    names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
    world.connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))


def store_ledger(world: World) -> None:
    """Put the ledger beside the assets, as nights do."""
    pages = Ledger(world.connection).pages(datetime.min.replace(tzinfo=UTC))
    world.shards.write_beside(LEDGER, ledger_table(pages))
