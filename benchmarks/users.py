"""Sample users of 50 tasks each, whose texts are hardly ever the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from random import Random
from typing import Any

from local.samples import SampleUser, sample_texts, sample_users

N_TASKS = 50


def users_of_equal_size(n: int, *, today: date) -> list[SampleUser]:
    """`n` sample users with `N_TASKS` open tasks each, the same for the same `today`."""
    return [_resized(user) for user in sample_users(n, today=today)]


def _resized(user: SampleUser) -> SampleUser:
    rng, items = Random(user.user_id), user.document["items"]
    lang = user.document["user"]["lang"]
    texts = [text for topic in sample_texts().topics if topic.lang == lang for text in topic.texts]
    sized = [_item(items, number, _mixed(texts, rng)) for number in range(N_TASKS)]
    return replace(user, document=user.document | {"items": sized})


def _item(items: Sequence[dict[str, Any]], number: int, text: str) -> dict[str, Any]:
    """The task at `number` with another text; past the end a copy without a parent."""
    item = items[number % len(items)] | {"content": text}
    return item if number < len(items) else item | {"id": f"{item['id']}-{number}", "parent_id": None}


def _mixed(texts: Sequence[str], rng: Random) -> str:
    """The first third of one text, the middle of another, the end of a third: as long as they are."""
    parts = rng.choices(texts, k=3)
    return "".join(text[len(text) * n // 3 : len(text) * (n + 1) // 3] for n, text in enumerate(parts)).strip()
