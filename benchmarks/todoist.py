"""The local Todoist as a process of its own (`python -m benchmarks.todoist`), with generated accounts."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from functools import partial
from typing import Any

import httpx
import psutil

from benchmarks.subprocesses import ModuleProcess, module_process
from benchmarks.users import Crowd, changes_bucket
from local.samples import changed_users, night_changes
from local.todoist import LocalTodoist, running_todoist
from local.todoist.account import Account
from local.todoist.objects import Objects


class TodoistProcess:
    """A client of the running process: its control interface, and its CPU and memory."""

    def __init__(self, url: str, process: ModuleProcess) -> None:
        self.url = url
        self._process = process
        self._client = httpx.Client(base_url=f"{url}/_control")

    def load(self, user: str, token: str, document: dict[str, Any]) -> None:
        """Add a user with the objects of a full answer."""
        self._client.post("/load", json={"user": user, "token": token, "document": document}).raise_for_status()

    def advance(self, user: str, delta: dict[str, Any]) -> None:
        """Apply an incremental answer to a user's objects."""
        self._client.post("/advance", json={"user": user, "delta": delta}).raise_for_status()

    def set_clock(self, at: datetime) -> None:
        """Set the clock of rate limits and tokens to an aware instant."""
        self._client.post("/clock", json={"at": at.isoformat()}).raise_for_status()

    def n_calls(self, user: str | None = None) -> int:
        """The number of calls so far, of one user or of all."""
        counts = self._client.get("/calls", params={"count": 1}).raise_for_status().json()
        return int(counts["count"] if user is None else counts["by_user"].get(user, 0))

    def install(self, crowd: Crowd) -> None:
        """Add an account for every user of a crowd; the process generates the accounts itself."""
        self._request("install", n_users=crowd.n_users, today=crowd.today.isoformat(), n_tasks=crowd.n_tasks)

    def change(self, share: float, night: int) -> int:
        """Change tasks of a share (0 to 1) of the crowd, and return the number of changed users."""
        return int(self._request("change", share=share, night=night))

    def n_changing_bucket(self, before: datetime, after: datetime) -> int:
        """The number of users with an open task that changes bucket between two instants (aware)."""
        return int(self._request("n_changing_bucket", before=before.isoformat(), after=after.isoformat()))

    def cpu_seconds(self) -> float:
        """The CPU seconds of the process so far."""
        return float(self._request("cpu_seconds"))

    def resident_mb(self) -> float:
        """The memory of the process in millions of bytes."""
        return float(psutil.Process(self._process.pid).memory_info().rss / 1e6)

    def _request(self, command: str, **arguments: object) -> Any:
        self._process.write_line(json.dumps([command, arguments]))
        answer = self._process.read_line()
        if not answer:
            raise RuntimeError(f"the local Todoist ended during the command '{command}'; its error is printed above")
        return json.loads(answer)


@contextmanager
def todoist_process(
    *, answer_seconds: tuple[float, float] = (0.0, 0.0), full_limit: int = 100, incremental_limit: int = 1000
) -> Iterator[TodoistProcess]:
    """Start the process; it ends with the block, or when this process dies.

    answer_seconds: minimum and maximum delay of an answer.
    full_limit, incremental_limit: calls per user within 15 minutes.
    """
    options = ["--answer-seconds", ",".join(map(str, answer_seconds))]
    options += ["--full-limit", str(full_limit), "--incremental-limit", str(incremental_limit)]
    with module_process("benchmarks.todoist", *options) as process:
        yield TodoistProcess(process.read_line(), process)


class GeneratedObjects(Objects):
    """Objects of a sample user that are generated at each read, and therefore take no memory until they change."""

    def __init__(self, generate: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__()
        self._generate: Callable[[], Mapping[str, Any]] | None = generate
        self.revision = self.replaced_at = 1

    def replace(self, document: Mapping[str, Any]) -> None:
        """Keep the objects of a full answer in memory from now on."""
        self._generate = None
        super().replace(document)

    def apply(self, delta: Mapping[str, Any], at: datetime) -> None:
        """Keep the objects in memory and apply a delta; sync tokens from before remain valid."""
        if self._generate:
            self.revision = 0  # `replace` sets it to 1 again, the revision of the generated objects
            self.replace(self._generate())
        super().apply(delta, at)

    def active(self, kinds: Iterable[str]) -> dict[str, Any]:
        """All objects: a generated account has no completed or archived ones."""
        if not self._generate:
            return super().active(kinds)
        document = self._generate()
        return {kind: document.get(kind, []) for kind in kinds}

    def changed_since(self, revision: int, kinds: Iterable[str]) -> dict[str, Any]:
        """The objects of a delta, which is empty for generated objects."""
        if self._generate:
            return {kind: [] for kind in kinds if kind != "user"}
        return super().changed_since(revision, kinds)


class CrowdTodoist(LocalTodoist):
    """The local Todoist with accounts for a whole crowd, up to 100,000 of them."""

    _crowd: Crowd

    def install(self, crowd: Crowd) -> int:
        """Add an account for every user and return the number of users."""
        self._crowd = crowd
        for number in range(len(crowd)):
            user = crowd.account(number)
            objects = GeneratedObjects(partial(crowd.document, number))
            self._accounts[user.user_id] = Account(user.user_id, self._seed, self._limits, objects)
            self._grants.add(user.user_id, user.api_token, None)
        return len(crowd)

    def change(self, share: float, night: int) -> int:
        """Apply the changes of a night to a share of the users and return their number."""
        changed = changed_users(self._crowd, share=share, night=night)
        for user in changed:
            document = self.document(user.user_id)
            self.advance(user.user_id, night_changes(user, document, today=self._crowd.today, night=night))
        return len(changed)

    def n_changing_bucket(self, before: datetime, after: datetime) -> int:
        """The number of users with an open task that changes bucket between two instants."""
        documents = (account.objects.active(("items", "user")) for account in self._accounts.values())
        return sum(changes_bucket(document, before, after) for document in documents)


def main() -> None:
    """Print the address, then answer one command per line until stdin is closed."""
    todoist = CrowdTodoist(**vars(_options()))
    with running_todoist(todoist) as url:
        print(url, flush=True)
        for line in sys.stdin:
            command, arguments = json.loads(line)
            print(json.dumps(_answer(todoist, command, **arguments)), flush=True)


def _answer(todoist: CrowdTodoist, command: str, **arguments: Any) -> float:
    match command:
        case "install":
            today = date.fromisoformat(arguments.pop("today"))
            return todoist.install(Crowd(**arguments, today=today))
        case "change":
            return todoist.change(**arguments)
        case "n_changing_bucket":
            return todoist.n_changing_bucket(
                **{name: datetime.fromisoformat(instant) for name, instant in arguments.items()}
            )
        case "cpu_seconds":
            return time.process_time()
        case _:
            raise ValueError(f"unknown command '{command}' of benchmarks.todoist")


def _options() -> Namespace:
    parser = ArgumentParser(prog="python -m benchmarks.todoist", description=__doc__)
    parser.add_argument("--answer-seconds", type=_range, default=(0.0, 0.0), metavar="LOW,HIGH")
    parser.add_argument("--full-limit", type=int, default=100, metavar="CALLS")
    parser.add_argument("--incremental-limit", type=int, default=1000, metavar="CALLS")
    return parser.parse_args()


def _range(text: str) -> tuple[float, float]:
    low, high = (float(part) for part in text.split(","))
    return low, high


if __name__ == "__main__":
    main()
