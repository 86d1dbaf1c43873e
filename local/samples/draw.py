"""Seeded random ids, tokens and times."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from random import Random
from zoneinfo import ZoneInfo

_ID_LETTERS = "23456789CFGHJMPQRVWXcfghjmpqrvwx"
_TOKEN_LETTERS = _ID_LETTERS + "-_"


@dataclass(frozen=True)
class Draw:
    """Random values for one account.

    owner: id of the user.
    max_age: age of the oldest task.
    """

    rng: Random
    today: date
    owner: str
    zone: ZoneInfo
    max_age: timedelta

    @property
    def colleague(self) -> str:
        """The id of the user with whom the owner shares a project."""
        return str(int(self.owner) + 1)

    def chance(self, share: float) -> bool:
        """True at a rate of `share` (0 to 1)."""
        return self.rng.random() < share

    def new_id(self) -> str:
        """A new object id in Todoist's format."""
        return "6" + "".join(self.rng.choices(_ID_LETTERS, k=15))

    def new_sync_token(self) -> str:
        """A new sync token."""
        return "".join(self.rng.choices(_TOKEN_LETTERS, k=64))

    def instant(self, seconds_ago: int) -> str:
        """An instant before today's midnight in Todoist's format, with or without microseconds."""
        at = datetime.combine(self.today, time()) - timedelta(seconds=seconds_ago)
        if self.chance(0.5):
            return f"{at.isoformat(timespec='seconds')}Z"
        return f"{at.isoformat(timespec='seconds')}.{self.rng.randrange(10**6):06d}Z"
