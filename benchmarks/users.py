"""Sample users with 50 tasks each by default, generated on access; nearly all texts are distinct."""

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

from contexts.todoist.credentials import CredentialCipher, Credentials
from local.samples import SampleUser, plain_users, sample_texts

N_TASKS = 50
"""Open tasks of each user, by default."""

_N_TEMPLATES = 280
"""Number of different accounts: 20 for each home of the sample users."""

_ID_LETTERS = "23456789CFGHJMPQRVWXcfghjmpqrvwx"
_SUFFIX_LETTERS = 6
"""Letters at the end of a task id that encode the user's number."""


@dataclass(frozen=True)
class Crowd(Sequence[SampleUser]):
    """`n_users` sample users with `n_tasks` open tasks each; user k does not depend on `n_users`.

    Users whose numbers differ by `_N_TEMPLATES` share the objects of their projects, dates and labels, which must not
    be modified. The ids and texts of their tasks are different.
    """

    n_users: int
    today: date
    n_tasks: int = N_TASKS

    def __len__(self) -> int:
        return self.n_users

    @overload
    def __getitem__(self, number: int) -> SampleUser: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[SampleUser]: ...

    def __getitem__(self, number: int | slice) -> SampleUser | Sequence[SampleUser]:
        if isinstance(number, slice):
            return [self[index] for index in range(self.n_users)[number]]
        index = range(self.n_users)[number]
        return replace(self.account(index), document=self.document(index))

    def account(self, number: int) -> SampleUser:
        """The user with the document of the shared template instead of the user's own texts and ids."""
        templates, user_id = _templates(self.today, self.n_tasks), f"user-{number + 1:04d}"
        return replace(
            templates[number % len(templates)],
            user_id=user_id,
            email=f"{user_id}@example.org",
            api_token=sha256(user_id.encode()).hexdigest()[:40],
        )

    def document(self, number: int) -> dict[str, Any]:
        """The user's account as a full `/sync` answer."""
        return _personal_document(self.account(number), number)


def add_accounts(connection: psycopg.Connection[Any], crowd: Crowd, key: str) -> None:
    """Add all users and their accounts at once, as `Accounts.add` does for one user."""
    cipher, numbers = CredentialCipher([key]), range(len(crowd))
    with connection.transaction(), connection.cursor() as cursor:
        with cursor.copy("COPY users (user_id, email, timezone) FROM STDIN") as copy:
            for user in map(crowd.account, numbers):
                copy.write_row((user.user_id, user.email, user.timezone))
        with cursor.copy("COPY todoist_accounts (user_id, credentials) FROM STDIN") as copy:
            for user in map(crowd.account, numbers):
                copy.write_row((user.user_id, cipher.seal(user.user_id, Credentials(user.api_token))))
    connection.execute("ANALYZE users, todoist_accounts")


def changes_bucket(document: Mapping[str, Any], before: datetime, after: datetime) -> bool:
    """Whether an open task of a full answer is in a different bucket at `after` than at `before` (both aware).

    Implemented independently of `contexts.assembly.assemble`, whose results it checks, from the documented buckets.
    """
    zone = ZoneInfo(document["user"]["tz_info"]["timezone"])
    first, last = before.astimezone(zone).date(), after.astimezone(zone).date()
    dues = (_local_day(item["due"]["date"], zone) for item in document["items"] if item["due"])
    return any(_bucket((due - first).days) != _bucket((due - last).days) for due in dues)


def _bucket(days_left: int) -> str:
    if days_left > 6:
        return "later"
    return "overdue" if days_left < 0 else "this_week" if days_left else "today"


def _local_day(due: str, zone: ZoneInfo) -> date:
    if not due.endswith("Z"):
        return date.fromisoformat(due[:10])
    return datetime.fromisoformat(due).replace(tzinfo=UTC).astimezone(zone).date()


@cache
def _templates(today: date, n_tasks: int) -> Sequence[SampleUser]:
    return [_resized(user, n_tasks) for user in plain_users(_N_TEMPLATES, today=today)]


def _resized(user: SampleUser, n_tasks: int) -> SampleUser:
    items = user.document["items"]
    return replace(user, document=user.document | {"items": [_item(items, number) for number in range(n_tasks)]})


def _item(items: Sequence[dict[str, Any]], number: int) -> dict[str, Any]:
    """The task at `number`; past the end a copy without a parent, with a different first digit of the id."""
    item, n_copy = items[number % len(items)], number // len(items)
    return item | {"id": f"{6 + n_copy}{item['id'][1:]}", "parent_id": None} if n_copy else item


def _personal_document(user: SampleUser, number: int) -> dict[str, Any]:
    """The document of a template with the user's own login, ids and texts."""
    rng, suffix, document = Random(user.user_id), _id_suffix(number), user.document
    texts = _texts(document["user"]["lang"])
    items = [item | _ids(item, suffix) | {"content": _mixed_text(texts, rng)} for item in document["items"]]
    login = {"email": user.email, "token": user.api_token}
    return document | {"items": items, "user": document["user"] | login}


def _ids(item: Mapping[str, Any], suffix: str) -> dict[str, str | None]:
    return {name: item[name] and item[name][:-_SUFFIX_LETTERS] + suffix for name in ("id", "parent_id")}


def _id_suffix(number: int) -> str:
    """A number in base 32, written in the letters of Todoist's ids."""
    return "".join(_ID_LETTERS[number >> 5 * place & 31] for place in reversed(range(_SUFFIX_LETTERS)))


@cache
def _texts(lang: str) -> Sequence[str]:
    return [text for topic in sample_texts().topics if topic.lang == lang for text in topic.texts]


def _mixed_text(texts: Sequence[str], rng: Random) -> str:
    """A text of the usual length: the first third of one text, the middle of a second, the end of a third."""
    parts = rng.choices(texts, k=3)
    return "".join(text[len(text) * n // 3 : len(text) * (n + 1) // 3] for n, text in enumerate(parts)).strip()
