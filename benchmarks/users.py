"""Sample users of 50 tasks each, drawn when somebody asks for them: hardly two texts are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cache
from hashlib import sha256
from random import Random
from typing import Any, overload
from zoneinfo import ZoneInfo

import psycopg

from contexts.todoist import Credentials
from contexts.vault import Vault
from local.samples import SampleUser, sample_texts, sample_users

N_TASKS = 50
_N_KINDS = 280
"""So many different accounts are made: 20 of each home of the samples."""

_ID_LETTERS = "23456789CFGHJMPQRVWXcfghjmpqrvwx"
_OWN_LETTERS = 6


@dataclass(frozen=True)
class Crowd(Sequence[SampleUser]):
    """`n_users` people with `N_TASKS` open tasks each; user k is the same whatever `n_users` is.

    Whose numbers differ by `_N_KINDS` have the same projects, dates and labels, and share these objects: nobody may
    change them. The ids and the texts of their tasks are their own.
    """

    n_users: int
    today: date

    def __len__(self) -> int:
        return self.n_users

    @overload
    def __getitem__(self, number: int) -> SampleUser: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[SampleUser]: ...

    def __getitem__(self, number: int | slice) -> SampleUser | Sequence[SampleUser]:
        if isinstance(number, slice):
            return [self[each] for each in range(self.n_users)[number]]
        found = range(self.n_users)[number]
        return replace(self.account(found), document=self.document(found))

    def account(self, number: int) -> SampleUser:
        """The user of that number with the document of the kind: texts and ids are not yet the user's own."""
        kinds, user_id = _kinds(self.today), f"user-{number + 1:04d}"
        return replace(
            kinds[number % len(kinds)],
            user_id=user_id,
            email=f"{user_id}@example.org",
            api_token=sha256(user_id.encode()).hexdigest()[:40],
        )

    def document(self, number: int) -> dict[str, Any]:
        """The user's own full answer of `/sync`."""
        return _drawn(self.account(number), number)


def add_accounts(connection: psycopg.Connection[Any], crowd: Crowd, key: str) -> None:
    """What `Accounts.add` does for one user, for all of them at once."""
    vault, numbers = Vault([key]), range(len(crowd))
    with connection.transaction(), connection.cursor() as cursor:
        with cursor.copy("COPY users (user_id, email, timezone) FROM STDIN") as copy:
            for user in map(crowd.account, numbers):
                copy.write_row((user.user_id, user.email, user.timezone))
        with cursor.copy("COPY todoist_accounts (user_id, credentials) FROM STDIN") as copy:
            for user in map(crowd.account, numbers):
                copy.write_row((user.user_id, vault.seal(user.user_id, Credentials(user.api_token))))
    connection.execute("ANALYZE users, todoist_accounts")


def changes_bucket(document: Mapping[str, Any], before: datetime, after: datetime) -> bool:
    """Whether an open task of a full answer stands elsewhere at `after` than it stood at `before` (both aware).

    Written for itself, after what README and DESIGN say of buckets: what `contexts.assemble` does is judged by it.
    """
    zone = ZoneInfo(document["user"]["tz_info"]["timezone"])
    first, last = before.astimezone(zone).date(), after.astimezone(zone).date()
    dues = (_local_day(item["due"]["date"], zone) for item in document["items"] if item["due"])
    return any(_place((due - first).days) != _place((due - last).days) for due in dues)


def _place(days_left: int) -> str:
    if days_left > 6:
        return "later"
    return "overdue" if days_left < 0 else "this_week" if days_left else "today"


def _local_day(due: str, zone: ZoneInfo) -> date:
    if not due.endswith("Z"):
        return date.fromisoformat(due[:10])
    return datetime.fromisoformat(due).replace(tzinfo=UTC).astimezone(zone).date()


@cache
def _kinds(today: date) -> Sequence[SampleUser]:
    return [_resized(user) for user in sample_users(_N_KINDS, today=today)]


def _resized(user: SampleUser) -> SampleUser:
    items = user.document["items"]
    return replace(user, document=user.document | {"items": [_item(items, number) for number in range(N_TASKS)]})


def _item(items: Sequence[dict[str, Any]], number: int) -> dict[str, Any]:
    """The task at `number`; past the end a copy without a parent, whose id begins with another digit."""
    item, lap = items[number % len(items)], number // len(items)
    return item | {"id": f"{6 + lap}{item['id'][1:]}", "parent_id": None} if lap else item


def _drawn(user: SampleUser, number: int) -> dict[str, Any]:
    """The document of a kind with the user's own login, ids and texts."""
    rng, ending, document = Random(user.user_id), _ending(number), user.document
    texts = _texts(document["user"]["lang"])
    items = [item | _ids(item, ending) | {"content": _mixed(texts, rng)} for item in document["items"]]
    login = {"email": user.email, "token": user.api_token}
    return document | {"items": items, "user": document["user"] | login}


def _ids(item: Mapping[str, Any], ending: str) -> dict[str, str | None]:
    return {name: item[name] and item[name][:-_OWN_LETTERS] + ending for name in ("id", "parent_id")}


def _ending(number: int) -> str:
    """A number in the letters of Todoist's ids."""
    return "".join(_ID_LETTERS[number >> 5 * place & 31] for place in reversed(range(_OWN_LETTERS)))


@cache
def _texts(lang: str) -> Sequence[str]:
    return [text for topic in sample_texts().topics if topic.lang == lang for text in topic.texts]


def _mixed(texts: Sequence[str], rng: Random) -> str:
    """The first third of one text, the middle of another, the end of a third: as long as they are."""
    parts = rng.choices(texts, k=3)
    return "".join(text[len(text) * n // 3 : len(text) * (n + 1) // 3] for n, text in enumerate(parts)).strip()
