"""`python -m benchmarks.events`: a flood of Todoist's events into one process of the service, with tips beside it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.output import LOCAL_FOLDER
from benchmarks.requests import KEY, fill_database
from contexts.postgres.sql import connect
from contexts.todoist.webhooks import signature_of
from local import postgres, service

_SECRET = "secret-of-the-app"
_CONNECTIONS = 64
_OBJECTS_PER_USER = 200
_IN_TIME_S = 1.0
"""Todoist does not say how long it waits for an answer."""

_console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@dataclass
class Answers:
    """The answers to requests that were sent at fixed times. seconds: from the planned time to the answer."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def add(self, status: int, seconds: float) -> None:
        """Count an answer."""
        self.statuses[status] += 1
        self.seconds.append(seconds)

    def quantile_ms(self, share: float) -> float:
        """A quantile (0 to 1) of the latencies in milliseconds."""
        ordered = sorted(self.seconds)
        return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def in_time(self) -> float:
        """The share that was answered 200 within `_IN_TIME_S`."""
        return sum(each <= _IN_TIME_S for each in self.seconds) / len(self.seconds) if self.seconds else 0.0


@dataclass(frozen=True)
class SentEvent:
    """A delivery: the request, and the row that it makes."""

    request: bytes
    key: tuple[str, str]
    updated_at: datetime


def main() -> int:
    """Run tips alone and beside events, print the table, write `.local/bench-events.json`."""
    parser = ArgumentParser(prog="python -m benchmarks.events", description=__doc__)
    parser.add_argument("--rate", type=int, default=1000, help="events a second")
    parser.add_argument("--tips", type=int, default=50, help="requests for tips a second")
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    LOCAL_FOLDER.mkdir(exist_ok=True)
    with ExitStack() as stack:
        server = stack.enter_context(postgres.running_postgres(LOCAL_FOLDER / "bench-postgres"))
        url = postgres.create_database(server, "bench_events", replace=True)
        users, _ = fill_database(url)
        with connect(url) as connection:
            connection.execute("UPDATE todoist_accounts SET todoist_user_id = user_id")
        environment = {"DATABASE_URL": url, "CREDENTIALS_KEYS": KEY, "TODOIST_CLIENT_SECRETS": _SECRET}
        log_file = LOCAL_FOLDER / "bench-events.log"
        running = stack.enter_context(service.running_service(environment, log_file))
        tips = _tip_requests(users, running.token, options.tips * options.seconds)
        sent = list(_events(users, options.rate * options.seconds))
        uvloop.run(_both(running, _tip_requests(users, running.token, len(users)), len(users), [], options.rate))
        alone, _ = uvloop.run(_both(running, tips, options.tips, [], options.rate))
        process = psutil.Process(running.pid)
        cpu_before = process.cpu_times().user + process.cpu_times().system
        beside, events = uvloop.run(_both(running, tips, options.tips, sent, options.rate))
        cpu_s = process.cpu_times().user + process.cpu_times().system - cpu_before
        lost = _n_lost(url, sent)
        stored = running.counters().get("todoist_events", 0.0)
    _print_and_save(options.rate, alone, beside, events, lost, int(stored), cpu_s / options.seconds)
    return 0 if lost == 0 else 1


async def _both(
    running: service.Service, tips: Sequence[bytes], tip_rate: int, sent: Sequence[SentEvent], rate: int
) -> tuple[Answers, Answers]:
    return await asyncio.gather(
        _send(running.port, tips, tip_rate, 8),
        _send(running.port, [each.request for each in sent], rate, _CONNECTIONS),
    )


async def _send(port: int, requests: Sequence[bytes], rate: int, n_connections: int) -> Answers:
    """Send requests at their times, `rate` a second, each on the first connection that is free."""
    answers, started = Answers(), time.perf_counter()
    numbers = iter(enumerate(requests))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number, request in numbers:
            planned = started + number / rate
            await asyncio.sleep(max(0.0, planned - time.perf_counter()))
            writer.write(request)
            answers.add(await _status(reader.readuntil, reader.readexactly), time.perf_counter() - planned)
        writer.close()

    await asyncio.gather(*(client() for _ in range(n_connections)))
    return answers


async def _status(
    read_until: Callable[[bytes], Awaitable[bytes]], read_exactly: Callable[[int], Awaitable[bytes]]
) -> int:
    head = await read_until(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    await read_exactly(length)
    return int(head.split(b" ", 2)[1])


def _tip_requests(users: Sequence[str], token: str, n: int) -> list[bytes]:
    head = f"Host: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
    return [f"POST /v1/users/{users[number % len(users)]}/tip HTTP/1.1\r\n{head}".encode() for number in range(n)]


def _events(users: Sequence[str], n: int) -> Iterator[SentEvent]:
    """Signed updates of tasks, of every user in turn; after a while they are of the same tasks again."""
    now = datetime.now(UTC)
    for number in range(n):
        user, key = users[number % len(users)], f"e{number // len(users) % _OBJECTS_PER_USER}"
        updated_at = now + timedelta(microseconds=number)
        body = json.dumps(_body(user, key, updated_at, now)).encode()
        head = (
            "POST /v1/todoist/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"X-Todoist-Hmac-SHA256: {signature_of(_SECRET, body).decode()}\r\n"
            f"X-Todoist-Delivery-ID: {uuid4()}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        yield SentEvent(head.encode() + body, (user, key), updated_at)


def _body(user: str, key: str, updated_at: datetime, now: datetime) -> dict[str, object]:
    """The body of an event, about as large as Todoist's."""
    item = {
        "id": key,
        "user_id": user,
        "project_id": "6Xqhv4cwxgjwG9w8",
        "section_id": None,
        "parent_id": None,
        "content": "Call the plumber about the kitchen sink",
        "description": "After ten; ask for the price of a new tap as well. " * 4,
        "labels": ["home", "calls"],
        "priority": 2,
        "due": {"date": "2026-12-01", "timezone": None, "string": "1 Dec", "lang": "en", "is_recurring": False},
        "deadline": None,
        "duration": None,
        "checked": False,
        "is_deleted": False,
        "added_at": "2026-11-01T08:00:00.000000Z",
        "updated_at": updated_at.isoformat(),
    }
    initiator = {"id": user, "email": f"{user}@example.org", "full_name": user, "is_premium": False}
    return {
        "event_name": "item:updated",
        "user_id": user,
        "event_data": item,
        "event_data_extra": {"old_item": item, "update_intent": "item_updated"},
        "initiator": initiator,
        "triggered_at": now.isoformat(),
        "version": "10",
    }


def _n_lost(url: str, sent: Sequence[SentEvent]) -> int:
    """The number of objects whose newest form is not stored."""
    newest = {each.key: each.updated_at for each in sent}
    with connect(url) as connection:
        rows = connection.execute("SELECT user_id, object_id, updated_at FROM todoist_events").fetchall()
    stored = {(user, key): updated_at for user, key, updated_at in rows}
    return sum(stored.get(key) != updated_at for key, updated_at in newest.items())


def _print_and_save(
    rate: int, alone: Answers, beside: Answers, events: Answers, lost: int, counted: int, cpu_share: float
) -> None:
    table = Table("", "tips alone", "tips beside events", "events", title=f"{rate:,} events a second, one process")
    for name, share in (("p50, ms", 0.5), ("p99, ms", 0.99), ("longest, ms", 1.0)):
        table.add_row(name, *(f"{each.quantile_ms(share):,.1f}" for each in (alone, beside, events)))
    table.add_row("requests", *(f"{len(each.seconds):,}" for each in (alone, beside, events)))
    table.add_row("answered 200", *(f"{each.statuses[200]:,}" for each in (alone, beside, events)))
    table.add_row("within a second", *(f"{each.in_time:.2%}" for each in (alone, beside, events)))
    _console.print(table)
    _console.print(
        f"{counted:,} events counted by the service, {lost:,} objects without their newest form; CPU of the service:"
        f" {cpu_share:.0%} of a core."
    )
    figures = {
        name: {"p50_ms": each.quantile_ms(0.5), "p99_ms": each.quantile_ms(0.99), "statuses": dict(each.statuses)}
        for name, each in (("tips alone", alone), ("tips beside", beside), ("events", events))
    }
    path = LOCAL_FOLDER / "bench-events.json"
    path.write_text(json.dumps({**figures, "lost": lost, "cpu_share": cpu_share}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
