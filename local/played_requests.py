"""Requests and reactions of the days before a local run, so that tips are written ahead of the next requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

import psycopg

from tips.bandit import REWARDS
from tips.candidates import KINDS, Kind

PLAYED_POLICY = "played@0"
"""The policy version of played decisions: no policy of the service learns from them."""

N_DAYS = 14
"""Days for which the past is played."""

_LEAD = timedelta(hours=1)
_SECOND_REQUEST_SHARE = 0.4
_WELCOME_SHARES: dict[Kind, float] = {
    "overdue": 0.3,
    "focus": 0.45,
    "quick_win": 0.7,
    "plan": 0.5,
    "theme": 0.6,
}
_WELCOME_LOST_PER_HOUR = 0.03
"""Welcome tips become this much rarer for each hour of the context's age."""

_INSERT = """
    INSERT INTO decisions (decision_id, user_id, decided_at, delivered, tip_kind, theme, source, llm, materialized_at,
                           policy_version, chosen, propensities)
    VALUES (%s, %s, %s, TRUE, %s, '', %s, 'fallback', %s, %s, 0, %s)
"""
_INSERT_REACTION = "INSERT INTO reactions (decision_id, reaction, reacted_at, reward) VALUES (%s, %s, %s, %s)"
_AGE_USER = "UPDATE users SET created_at = least(created_at, %s) WHERE user_id = %s"


@dataclass(frozen=True)
class PlayedRequest:
    """A request with the tip that was chosen, and the user's reaction to it.

    age: of the context.
    """

    user_id: str
    decided_at: datetime
    kind: Kind
    source: str
    age: timedelta
    propensity: float
    reaction: str
    reacted_at: datetime

    @property
    def decision_id(self) -> UUID:
        """The same id for the same user and time."""
        return uuid5(NAMESPACE_OID, f"{self.user_id} {self.decided_at.isoformat()}")


def has_played_requests(connection: psycopg.Connection[Any]) -> bool:
    """Whether the requests of the past are played already."""
    query = "SELECT EXISTS (SELECT FROM decisions WHERE policy_version = %s)"
    return connection.execute(query, [PLAYED_POLICY]).fetchone() == (True,)


def play_requests(connection: psycopg.Connection[Any], user_ids: Iterable[str], now: datetime) -> int:
    """Let each user have asked for tips for two weeks, and have reacted to them. Returns the number of requests.

    Every day has a request an hour after this time of day, some days have a second one. Nothing is learned from
    played requests.
    """
    users = list(user_ids)
    requests = [request for user in users for request in drawn_requests(user, now)]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(_AGE_USER, [(now + _LEAD - timedelta(days=N_DAYS), user) for user in users])
        cursor.executemany(_INSERT, [_decision(request) for request in requests])
        cursor.executemany(
            _INSERT_REACTION,
            [(each.decision_id, each.reaction, each.reacted_at, REWARDS[each.reaction]) for each in requests],
        )
    return len(requests)


def drawn_requests(user_id: str, now: datetime) -> Iterator[PlayedRequest]:
    """Yield a user's requests of the last two weeks: the same ones for the same user and time."""
    random = Random(user_id)
    for day in range(N_DAYS, 0, -1):
        usual = now + _LEAD - timedelta(days=day)
        yield _drawn_request(user_id, usual, now, random)
        minutes = random.randrange(60, 22 * 60)
        if random.random() < _SECOND_REQUEST_SHARE and day > 1:
            yield _drawn_request(user_id, usual + timedelta(minutes=minutes), now, random)


def _drawn_request(user_id: str, at: datetime, now: datetime, random: Random) -> PlayedRequest:
    [source] = random.choices(("stored", "inline", "stale"), (90, 7, 3))
    hours = {"stored": random.uniform(0.2, 5.8), "inline": 0.0, "stale": random.uniform(6.5, 30)}[source]
    kind = random.choice(KINDS)
    if random.random() < _WELCOME_SHARES[kind] - _WELCOME_LOST_PER_HOUR * hours:
        [reaction] = random.choices(("done", "accepted"), (1, 2))
    else:
        [reaction] = random.choices(("snoozed", "ignored", "dismissed"), (2, 5, 3))
    pause = timedelta(hours=20) if reaction == "ignored" else timedelta(minutes=random.randrange(1, 120))
    return PlayedRequest(
        user_id=user_id,
        decided_at=at,
        kind=kind,
        source=source,
        age=timedelta(hours=hours),
        propensity=random.uniform(0.3, 0.8),
        reaction=reaction,
        reacted_at=min(at + pause, now),
    )


def _decision(request: PlayedRequest) -> tuple[object, ...]:
    rest = (1 - request.propensity) / 2
    return (
        request.decision_id,
        request.user_id,
        request.decided_at,
        request.kind,
        request.source,
        request.decided_at - request.age,
        PLAYED_POLICY,
        [request.propensity, rest, rest],
    )
