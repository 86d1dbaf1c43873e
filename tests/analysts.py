"""Test data for analysts: tips and LLM calls as the service logs them, and sessions over a world."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from world import NOON, World

from assets.analysis.postgres_tables import PostgresTables
from assets.analysis.session import Session, open_session
from assets.step_runs import STEP_RUNS, step_run_table
from contexts.postgres.run_log import RunLog

LONG_AGO = NOON - timedelta(days=365)


@contextmanager
def open_world_session(world: World, database_url: str | None, *, now: datetime = NOON) -> Iterator[Session]:
    """Open a session over a world, as of noon unless `now` is given."""
    with open_session(str(world.root), PostgresTables(database_url, LONG_AGO), now=now) as session:
        yield session


def log_tip(
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
    """Insert a decision as the service logs it, and the user's reaction to it."""
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


def log_set(world: World, user: str, at: datetime, set_id: UUID, **columns: Any) -> None:
    """Insert a set of one candidate as the service stores it."""
    row = {
        "candidate_set_id": set_id,
        "user_id": user,
        "context_hash": "h",
        "author": "llm",
        "origin": "waited",
        "made_at": at,
        "expires_at": at,
        "renew_at": at,
        "tips": ["{}"],
        "subject_hashes": [""],
        "kinds": ["focus"],
        "themes": [""],
        "features": b"",
        **columns,
    }
    _insert(world, "candidate_sets", row)


def log_llm_call(world: World, user: str, at: datetime, **columns: Any) -> None:
    """Insert a call of the LLM as the service logs it."""
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
    columns, placeholders = ", ".join(row), ", ".join(["%s"] * len(row))
    world.connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({placeholders})", list(row.values()))


def write_step_runs(world: World) -> None:
    """Write the table of step runs next to the assets, as pipeline runs do."""
    step_runs = RunLog(world.connection).step_runs_since(datetime.min.replace(tzinfo=UTC))
    world.shards.write_table(STEP_RUNS, step_run_table(step_runs))
