"""The users of a local run: sample users, users from a folder, or the reader's own Todoist account."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psycopg

from contexts.postgres.migrate import migrate
from contexts.settings import TODOIST_API_URL
from contexts.todoist.accounts import Accounts
from contexts.todoist.credentials import CredentialCipher, Credentials
from contexts.todoist.zones import valid_zone
from local.clock import utc_now
from local.samples import changed_users, night_changes, sample_users
from local.todoist import LocalTodoist, running_todoist

CHANGED_SHARE = 0.05
"""Share of the sample users whose tasks change before the second night."""

_N_NIGHTS = 3
_DEFAULT_USERS = "25"
_MAX_USERS = 5000


class ScenarioError(Exception):
    """The users cannot be read; the message names the variable or the file, and the problem."""


@dataclass(frozen=True)
class ScenarioUser:
    """One user of a scenario."""

    user_id: str
    email: str
    api_token: str
    timezone: str


@dataclass(frozen=True)
class Scenario:
    """Users, the address of their Todoist, and the number of simulated nights.

    change: applies the changes before a night (numbered from 1) and returns a sentence about them.
    description: the users in a few words.
    asks_daily: whether the users are played: they have asked for tips before.
    todoist: the local Todoist; None if it is the reader's own account.
    example: a shell command that reads the tasks of one sample user from the local Todoist; None for users whose
    tokens may be real.
    """

    users: tuple[ScenarioUser, ...]
    todoist_url: str
    n_nights: int
    change: Callable[[int], str]
    description: str
    asks_daily: bool = True
    todoist: LocalTodoist | None = None
    example: str | None = None

    @property
    def user_ids(self) -> list[str]:
        """The ids of the users."""
        return [user.user_id for user in self.users]


@dataclass(frozen=True)
class TodoistPlace:
    """Where a local Todoist runs. port: 0 for any free one. file: in which it keeps its state; None for no file."""

    host: str = "127.0.0.1"
    port: int = 0
    file: Path | None = None


@contextmanager
def scenario_from_environment(
    environment: Mapping[str, str], place: TodoistPlace | None = None, began_on: date | None = None
) -> Iterator[Scenario]:
    """The scenario that TODOIST_API_TOKEN, SAMPLE_USERS or USERS selects, in this order.

    Except for the reader's own account, a local Todoist runs until the block ends.

    place: of the local Todoist. began_on: the day for which the sample users are made; None for today.
    Raises ScenarioError if the users cannot be read.
    """
    place = place or TodoistPlace()
    if token := environment.get("TODOIST_API_TOKEN"):
        yield _own_account(token, environment.get("TODOIST_API_URL", TODOIST_API_URL))
    elif folder := environment.get("SAMPLE_USERS"):
        yield from _users_from_folder(Path(folder), place)
    else:
        n_users = _user_count(environment.get("USERS") or _DEFAULT_USERS)
        yield from _sample_users(n_users, place, began_on or utc_now().date())


def selected_users(environment: Mapping[str, str]) -> tuple[str, bytes]:
    """The variable that selects the users of a scenario, as it is printed, and what it means.

    If one of the two changes, so do the users. Raises ScenarioError if the users cannot be read.
    """
    if token := environment.get("TODOIST_API_TOKEN"):
        return "TODOIST_API_TOKEN", f"{environment.get('TODOIST_API_URL', TODOIST_API_URL)} {token}".encode()
    if folder := environment.get("SAMPLE_USERS"):
        users = _read_json(Path(folder) / "users.json", list)
        return f"SAMPLE_USERS={folder}", json.dumps(users, sort_keys=True).encode()
    return f"USERS={_user_count(environment.get('USERS') or _DEFAULT_USERS)}", b""


def check_users(environment: Mapping[str, str]) -> None:
    """Raise ScenarioError if the variables that select the users are wrong; starts nothing."""
    if "TODOIST_API_TOKEN" in environment and not environment["TODOIST_API_TOKEN"].strip():
        raise ScenarioError("TODOIST_API_TOKEN is empty. Set it to your token, or unset it for the sample users.")
    if environment.get("TODOIST_API_TOKEN"):
        return
    if folder := environment.get("SAMPLE_USERS"):
        _read_json(Path(folder) / "users.json", list)
    else:
        _user_count(environment.get("USERS") or _DEFAULT_USERS)


def install(connection: psycopg.Connection[Any], key: str, scenario: Scenario) -> list[str]:
    """Migrate a context store and add an account for each user; returns the migrations that were applied.

    key: the Fernet key that encrypts the API tokens.
    """
    applied = migrate(connection)
    accounts = Accounts(connection, CredentialCipher([key]))
    for user in scenario.users:
        credentials = Credentials(user.api_token)
        accounts.add(user.user_id, email=user.email, timezone=user.timezone, credentials=credentials)
    return applied


def _own_account(token: str, todoist_url: str) -> Scenario:
    zone = os.environ.get("TZ") or "UTC"
    return Scenario(
        users=(ScenarioUser("me", "me@localhost", token, zone if "/" in zone else "UTC"),),
        todoist_url=todoist_url,
        n_nights=_N_NIGHTS,
        change=lambda _: "no changes are made to your account",
        description=f"your own account at {todoist_url}",
        asks_daily=False,
    )


def _sample_users(n_users: int, place: TodoistPlace, began_on: date) -> Iterator[Scenario]:
    todoist = LocalTodoist()
    samples = sample_users(n_users, today=began_on)
    for sample in samples:
        todoist.load(sample.api_token, sample.document, user=sample.user_id)

    def change(night: int) -> str:
        if night == 3:
            return "no changes"
        changed = changed_users(samples, share=CHANGED_SHARE, night=night)
        for sample in changed:
            document = todoist.document(sample.user_id)
            delta = night_changes(sample, document, today=utc_now().date(), night=night)
            todoist.advance(sample.user_id, delta)
        return f"{len(changed)} of {n_users} users changed some tasks"

    users = tuple(ScenarioUser(each.user_id, each.email, each.api_token, each.timezone) for each in samples)
    with _kept(todoist, place), running_todoist(todoist, place.port, place.host) as url:
        description = f"{n_users} sample users in a local Todoist at {url}"
        example = _curl_line(users[0], url)
        yield Scenario(users, url, _N_NIGHTS, change, description, todoist=todoist, example=example)


def _curl_line(user: ScenarioUser, todoist_url: str) -> str:
    """A shell command that reads a user's open tasks from a local Todoist."""
    values = """-d 'sync_token=*' -d 'resource_types=["items"]'"""
    return f'curl -s -H "Authorization: Bearer {user.api_token}" {values} {todoist_url}/api/v1/sync'


def _kept(todoist: LocalTodoist, place: TodoistPlace) -> AbstractContextManager[None]:
    return todoist.kept(place.file) if place.file else nullcontext()


def _users_from_folder(folder: Path, place: TodoistPlace) -> Iterator[Scenario]:
    rows = _read_json(folder / "users.json", list)
    users = tuple(_user_from_row(row, number, folder) for number, row in enumerate(rows, 1))
    todoist = LocalTodoist()
    for user in users:
        todoist.load(user.api_token, _read_json(folder / user.user_id / "full.json", dict), user=user.user_id)
    n_changes = max((_last_change(folder / user.user_id) for user in users), default=0)

    def change(night: int) -> str:
        paths = [(user, folder / user.user_id / f"night{night - 1}.json") for user in users]
        changed = [(user, path) for user, path in paths if path.exists()]
        for user, path in changed:
            todoist.advance(user.user_id, _read_json(path, dict))
        return f"{len(changed)} of {len(users)} users changed, according to their night{night - 1}.json"

    with _kept(todoist, place), running_todoist(todoist, place.port, place.host) as url:
        description = f"{len(users)} users of {folder} in a local Todoist at {url}"
        yield Scenario(users, url, 1 + n_changes, change, description, todoist=todoist)


def _last_change(folder: Path) -> int:
    """The highest number among a user's files night1.json, night2.json ..., or 0."""
    numbers = (path.stem.removeprefix("night") for path in folder.glob("night*.json"))
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _user_from_row(row: Any, number: int, folder: Path) -> ScenarioUser:
    if not isinstance(row, dict) or not row.get("user_id") or not isinstance(row.get("api_token"), str):
        # Only the keys are named: the values may be secrets.
        found = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise ScenarioError(
            f"SAMPLE_USERS: entry {number} of {folder / 'users.json'} needs user_id and api_token"
            f" (email and timezone are optional); found {found}"
        )
    return ScenarioUser(
        str(row["user_id"]), str(row.get("email") or ""), row["api_token"], valid_zone(row.get("timezone")) or "UTC"
    )


def _read_json(path: Path, kind: type) -> Any:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ScenarioError(f"SAMPLE_USERS: {path} cannot be read: {error}") from None
    if not isinstance(document, kind):
        expected = "list" if kind is list else "object"
        raise ScenarioError(f"SAMPLE_USERS: {path} must be a JSON {expected}, not {type(document).__name__}")
    return document


def _user_count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= _MAX_USERS:
        raise ScenarioError(f"USERS={text}: must be a number from 1 to {_MAX_USERS}")
    return int(text)
