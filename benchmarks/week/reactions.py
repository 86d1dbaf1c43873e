"""What people make of tips. Pure, the same for the same seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from random import Random

REACTIONS = ("done", "accepted", "snoozed", "dismissed")

AFTER: Mapping[str, tuple[float, ...]] = {
    "quick_win": (0.16, 0.16, 0.06, 0.06),
    "focus": (0.12, 0.16, 0.10, 0.08),
    "overdue": (0.10, 0.14, 0.10, 0.12),
    "theme": (0.06, 0.12, 0.08, 0.14),
    "plan": (0.04, 0.10, 0.08, 0.18),
}
"""How often each of REACTIONS follows a tip of a kind; what is left to 1 is no reaction, and that is most. Made up,
so that a policy has something to learn; calls and times depend on it only through the kinds that it learns."""

_MINUTES = 20.0
"""The mean of the time to a reaction, which falls off exponentially."""


@dataclass(frozen=True)
class Reaction:
    """What is told of a tip, and how long after it."""

    name: str
    after: timedelta


def reaction(kind: str, user_id: str, number: int, *, seed: int) -> Reaction | None:
    """What a user makes of their tip `number`, which is of a kind."""
    rng = Random(f"{seed}:reaction:{user_id}:{number}")
    chances = AFTER.get(kind, (0.0,) * len(REACTIONS))
    name = rng.choices((*REACTIONS, None), (*chances, 1 - sum(chances)))[0]
    return Reaction(name, timedelta(minutes=rng.expovariate(1 / _MINUTES))) if name else None
