"""Simulated reactions to tips. Pure, the same for the same seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from random import Random

REACTIONS = ("done", "accepted", "snoozed", "dismissed")

REACTION_RATES: Mapping[str, tuple[float, ...]] = {
    "quick_win": (0.16, 0.16, 0.06, 0.06),
    "focus": (0.12, 0.16, 0.10, 0.08),
    "overdue": (0.10, 0.14, 0.10, 0.12),
    "theme": (0.06, 0.12, 0.08, 0.14),
    "plan": (0.04, 0.10, 0.08, 0.18),
}
"""The rate of each of `REACTIONS` by kind of tip; most tips get no reaction.

The rates are invented, so that the policy has something to learn. Calls and times depend on them only through the
kinds that the policy comes to prefer.
"""

_MEAN_MINUTES = 20.0
"""Mean of the exponentially distributed time to a reaction."""


@dataclass(frozen=True)
class Reaction:
    """A user's reaction to a tip.

    delay: time between the tip and the reaction.
    """

    name: str
    delay: timedelta


def draw_reaction(kind: str, user_id: str, number: int, *, seed: int) -> Reaction | None:
    """The user's reaction to a tip, or None.

    kind: of the tip.
    number: ordinal of the tip among the user's tips.
    """
    rng = Random(f"{seed}:reaction:{user_id}:{number}")
    rates = REACTION_RATES.get(kind, (0.0,) * len(REACTIONS))
    name = rng.choices((*REACTIONS, None), (*rates, 1 - sum(rates)))[0]
    return Reaction(name, timedelta(minutes=rng.expovariate(1 / _MEAN_MINUTES))) if name else None
