"""Requests of the days before a local run, so that tips are written ahead of the next ones."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg

_N_DAYS = 14
_LEAD = timedelta(hours=1)

_INSERT = "INSERT INTO decisions (decision_id, user_id, decided_at, delivered) VALUES (%s, %s, %s, TRUE)"
_AGE_USER = "UPDATE users SET created_at = least(created_at, %s) WHERE user_id = %s"


def play_requests(connection: psycopg.Connection[Any], user_ids: Iterable[str], now: datetime) -> int:
    """Let each user have asked for a tip an hour after this time of day for two weeks. Returns their number.

    Such a request has an instant only: no tip was chosen, so nothing is learned from it.
    """
    users = list(user_ids)
    days = [now + _LEAD - timedelta(days=day) for day in range(1, _N_DAYS + 1)]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(_AGE_USER, [(days[-1], user) for user in users])
        cursor.executemany(_INSERT, [(uuid4(), user, at) for user in users for at in days])
    return len(users) * len(days)
