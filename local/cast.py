"""Whose nights are run: sample users, other people's documents, or the reader's own account."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from contexts.accounts import Accounts
from contexts.migrate import migrate
from contexts.mirror import zone_or_none
from contexts.todoist import API_URL, Credentials
from contexts.vault import Vault
from local.samples import changed_users, night_changes, sample_users
from local.todoist import LocalTodoist, running

CHANGED_SHARE = 0.05


class CastError(Exception):
    """The users asked for cannot be read; the message names the file and what it lacks."""


@dataclass(frozen=True)
class Member:
    """One user of the run."""

    user_id: str
    email: str
    api_token: str
    timezone: str


@dataclass(frozen=True)
class Cast:
    """The users, where their Todoist is, how many nights there are, and what happens before each (from 2 on).

    `change(night)` gives a sentence on what it changed.
    """

    members: tuple[Member, ...]
    todoist_url: str
    n_nights: int
    change: Callable[[int], str]
    title: str


@contextmanager
def chosen(environment: Mapping[str, str], host: str = "127.0.0.1", port: int = 0) -> Iterator[Cast]:
    """The cast that TODOIST_API_TOKEN, SAMPLE_USERS or USERS ask for; the local Todoist runs meanwhile, where `host`
    and `port` say (0: any that is free).
    """
    if token := environment.get("TODOIST_API_TOKEN"):
        yield _own_account(token, environment.get("TODOIST_API_URL", API_URL))
    elif folder := environment.get("SAMPLE_USERS"):
        yield from _from_folder(Path(folder), host, port)
    else:
        yield from _samples(_number(environment.get("USERS") or "25"), host, port)


def settle(connection: psycopg.Connection[Any], key: str, cast: Cast) -> list[str]:
    """Make a context store's schema, and an account there for each member; gives the migrations that were missing."""
    applied = migrate(connection)
    accounts = Accounts(connection, Vault([key]))
    for member in cast.members:
        credentials = Credentials(member.api_token)
        accounts.add(member.user_id, email=member.email, timezone=member.timezone, credentials=credentials)
    return applied


def _own_account(token: str, url: str) -> Cast:
    zone = os.environ.get("TZ") or "UTC"
    return Cast(
        members=(Member("me", "me@localhost", token, zone if "/" in zone else "UTC"),),
        todoist_url=url,
        n_nights=3,
        change=lambda _: "nothing is changed in your account",
        title=f"your own account at {url}",
    )


def _samples(n: int, host: str, port: int) -> Iterator[Cast]:
    todoist, today = LocalTodoist(), datetime.now(UTC).date()
    users = sample_users(n, today=today)
    for user in users:
        todoist.load(user.api_token, user.document, user=user.user_id)

    def change(night: int) -> str:
        if night != 2:
            return "nothing is changed"
        changed = changed_users(users, share=CHANGED_SHARE, night=night)
        for user in changed:
            delta = night_changes(user, todoist.document(user.user_id), today=today, night=night)
            todoist.advance(user.user_id, delta)
        return f"{len(changed)} of {n} users changed some tasks"

    members = tuple(Member(user.user_id, user.email, user.api_token, user.timezone) for user in users)
    with running(todoist, port, host) as url:
        yield Cast(members, url, 3, change, f"{n} sample users in a local Todoist at {url}")


def _from_folder(folder: Path, host: str, port: int) -> Iterator[Cast]:
    listed = _read(folder / "users.json", list)
    members = tuple(_member(row, number, folder) for number, row in enumerate(listed, 1))
    todoist = LocalTodoist()
    for member in members:
        todoist.load(member.api_token, _read(folder / member.user_id / "full.json", dict), user=member.user_id)
    n_deltas = max((_n_deltas(folder / member.user_id) for member in members), default=0)

    def change(night: int) -> str:
        paths = [(member, folder / member.user_id / f"night{night - 1}.json") for member in members]
        changed = [(member, path) for member, path in paths if path.exists()]
        for member, path in changed:
            todoist.advance(member.user_id, _read(path, dict))
        return f"{len(changed)} of {len(members)} users changed, by their night{night - 1}.json"

    with running(todoist, port, host) as url:
        yield Cast(
            members, url, 1 + n_deltas, change, f"{len(members)} users of {folder} in a local Todoist at {url}"
        )


def _n_deltas(folder: Path) -> int:
    """How many of night1.json, night2.json ... there are, up to the highest number."""
    numbers = (path.stem.removeprefix("night") for path in folder.glob("night*.json"))
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _member(row: Any, number: int, folder: Path) -> Member:
    if not isinstance(row, dict) or not row.get("user_id") or not isinstance(row.get("api_token"), str):
        found = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise CastError(
            f"SAMPLE_USERS: entry {number} of {folder / 'users.json'} needs user_id and api_token"
            f" (and may have email and timezone); found {found}"
        )
    return Member(
        str(row["user_id"]), str(row.get("email") or ""), row["api_token"], zone_or_none(row.get("timezone")) or "UTC"
    )


def _read(path: Path, kind: type) -> Any:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CastError(f"SAMPLE_USERS: {path} cannot be read: {error}") from None
    if not isinstance(found, kind):
        raise CastError(f"SAMPLE_USERS: {path} holds no JSON {'list' if kind is list else 'object'}")
    return found


def _number(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 5000:
        raise CastError(f"USERS={text}: a number from 1 to 5000 is wanted")
    return int(text)
