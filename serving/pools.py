"""Connection pools of the request path."""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg


def create_pool(
    url: str, *, n_connections: int, timeout_s: float, server_settings: Mapping[str, str] | None = None
) -> asyncpg.Pool:
    """A pool, to be entered with `async with`; its connections keep their session state when they are returned.

    timeout_s: upper bound for connecting, and for each statement.
    server_settings: run-time settings of Postgres for every connection.
    """
    return asyncpg.create_pool(
        url,
        min_size=1,
        max_size=n_connections,
        timeout=timeout_s,
        command_timeout=timeout_s,
        reset=_keep_session_state,
        server_settings=server_settings,
    )


async def _keep_session_state(_: object) -> None:
    """Skip asyncpg's reset: advisory locks must survive it, and no other statement here leaves session state."""
