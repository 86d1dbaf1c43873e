"""Sample users with their time zones, languages and accounts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from local.samples.accounts import new_account
from local.samples.draw import Draw

_HOMES = (
    # time zone, languages (repeated by weight)
    ("Europe/Berlin", ("de", "de", "en")),
    ("America/New_York", ("en", "en", "es")),
    ("Asia/Tokyo", ("ja", "ja", "en")),
    ("America/Sao_Paulo", ("pt",)),
    ("Africa/Cairo", ("ar", "ar", "en")),
    ("Asia/Kolkata", ("en",)),
    ("Europe/Paris", ("fr", "fr", "en")),
    ("Australia/Sydney", ("en",)),
    ("America/Los_Angeles", ("en", "es")),
    ("Europe/Lisbon", ("pt", "en")),
    ("Europe/Madrid", ("es",)),
    ("Asia/Riyadh", ("ar",)),
    ("Asia/Kathmandu", ("en",)),
    ("UTC", ("en",)),
)


@dataclass(frozen=True)
class SampleUser:
    """A fictional Todoist user.

    document: the account as a full `/sync` answer.
    """

    user_id: str
    email: str
    api_token: str
    timezone: str
    document: dict[str, Any]


def sample_users(n: int, *, today: date, seed: int = 7) -> list[SampleUser]:
    """`n` users with 20 to 60 open tasks each and due dates around `today`; user k does not depend on `n`."""
    homes = list(_HOMES)
    Random(f"{seed}:homes").shuffle(homes)
    return [_sample_user(index, homes[index % len(homes)], today, seed) for index in range(n)]


def _sample_user(index: int, home: tuple[str, tuple[str, ...]], today: date, seed: int) -> SampleUser:
    user_id = f"user-{index + 1:04d}"
    timezone, langs = home
    rng = Random(f"{seed}:{user_id}")
    draw = Draw(rng, today, str(40_000_000 + 37 * index), ZoneInfo(timezone), max_age=timedelta(days=200))
    email, api_token = f"{user_id}@example.org", f"{rng.getrandbits(160):040x}"
    document = new_account(draw, rng.choice(langs), {"email": email, "token": api_token})
    return SampleUser(user_id, email, api_token, timezone, document)
