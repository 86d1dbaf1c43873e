"""Sample users with their time zones, languages and accounts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from local.samples.accounts import new_account
from local.samples.draw import Draw
from local.samples.kinds import kind_of

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

_MAX_AGE = timedelta(days=200)


@dataclass(frozen=True)
class SampleUser:
    """A fictional Todoist user.

    timezone: as the product knows it; UTC if Todoist knows no more than an offset.
    document: the account as a full `/sync` answer.
    """

    user_id: str
    email: str
    api_token: str
    timezone: str
    document: dict[str, Any]


def sample_users(n: int, *, today: date, seed: int = 7) -> list[SampleUser]:
    """`n` users, most of them with plain accounts, the others with one of the kinds of `local.samples.kinds`."""
    users = enumerate(plain_users(n, today=today, seed=seed))
    return [_with_kind(user, index, today, seed) for index, user in users]


def plain_users(n: int, *, today: date, seed: int = 7) -> list[SampleUser]:
    """`n` users with 20 to 60 open tasks each and due dates around `today`; user k does not depend on `n`."""
    homes = list(_HOMES)
    Random(f"{seed}:homes").shuffle(homes)
    return [_plain_user(index, homes[index % len(homes)], today, seed) for index in range(n)]


def _plain_user(index: int, home: tuple[str, tuple[str, ...]], today: date, seed: int) -> SampleUser:
    user_id = f"user-{index + 1:04d}"
    timezone, langs = home
    rng = Random(f"{seed}:{user_id}")
    draw = Draw(rng, today, str(40_000_000 + 37 * index), ZoneInfo(timezone), max_age=_MAX_AGE)
    email, api_token = f"{user_id}@example.org", f"{rng.getrandbits(160):040x}"
    document = new_account(draw, rng.choice(langs), {"email": email, "token": api_token})
    return SampleUser(user_id, email, api_token, timezone, document)


def _with_kind(user: SampleUser, index: int, today: date, seed: int) -> SampleUser:
    kind = kind_of(index)
    if kind is None:
        return user
    rng = Random(f"{seed}:{user.user_id}:kind")
    document = kind(Draw(rng, today, user.document["user"]["id"], ZoneInfo(user.timezone), _MAX_AGE), user.document)
    is_named = document["user"]["tz_info"]["timezone"] == user.timezone
    return replace(user, document=dict(document), timezone=user.timezone if is_named else "UTC")
