"""A generator of candidates for tests, and users who will probably ask for a tip."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from uuid import uuid4

from world import NOON, World

from contexts.assembly.model import UserContext, tasks_shown
from tips.candidates import GeneratedTip
from tips.generator import Generation, LLMUsage

DAY = timedelta(days=1)


class Scribe:
    """A generator that writes two tips about a user's first task.

    is_down: it is out of reach. broken_words: in tips for contexts with these words is a NUL, which Postgres refuses.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[UserContext, date]] = []
        self.is_down, self.broken_words = False, ""
        self.usage = LLMUsage("test:scribe", "answered", 1, 1000, 100, 0.004, 0.5)

    async def generate(self, context: UserContext, today: date, *, timeout_s: float) -> Generation:
        if self.is_down:
            return Generation((), None)
        self.asked.append((context, today))
        task_ids = tuple(tasks_shown(context))[:1]
        is_broken = bool(self.broken_words) and self.broken_words in context.model_dump_json()
        theme = "\0" if is_broken else None
        tips = [
            GeneratedTip(
                kind=kind,
                title=f"Begin {kind}",
                body="Ten minutes.",
                task_ids=task_ids,
                only_today=False,
                theme=theme,
            )
            for kind in ("focus", "plan")
        ]
        return Generation(tuple(tips), self.usage)


def ask_daily(world: World, user: str, at: datetime, n_days: int = 14) -> None:
    """Let a user, who was added long ago, have asked at the time of day of `at` on each of the last days."""
    world.connection.execute("UPDATE users SET created_at = %s WHERE user_id = %s", (NOON - 60 * DAY, user))
    for day in range(1, n_days + 1):
        world.connection.execute(
            "INSERT INTO decisions (decision_id, user_id, decided_at) VALUES (%s, %s, %s)",
            (uuid4(), user, at - day * DAY),
        )
