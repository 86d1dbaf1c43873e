"""The local Todoist in a process of its own, `python -m benchmarks.todoist`: its CPU is not the pipeline's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import httpx
import psutil

from benchmarks.users import Crowd, changes_bucket
from local.samples import changed_users, night_changes
from local.todoist import LocalTodoist, running
from local.todoist.account import Account
from local.todoist.objects import Objects


class StandIn:
    """The other process: its address, what it is told, and the CPU and the memory that it used."""

    def __init__(self, url: str, process: subprocess.Popen[str]) -> None:
        self.url = url
        self._process = process
        self._client = httpx.Client(base_url=f"{url}/_control")

    def load(self, user: str, token: str, document: dict[str, Any]) -> None:
        """Give a user the objects of a full answer."""
        self._client.post("/load", json={"user": user, "token": token, "document": document}).raise_for_status()

    def advance(self, user: str, delta: dict[str, Any]) -> None:
        """Let a user's tasks change."""
        self._client.post("/advance", json={"user": user, "delta": delta}).raise_for_status()

    def set_clock(self, at: datetime) -> None:
        """Let its clock show the aware instant `at` now: limits and tokens end by it."""
        self._client.post("/clock", json={"at": at.isoformat()}).raise_for_status()

    def n_calls(self, user: str | None = None) -> int:
        """How many calls came so far, of one user or of all."""
        counted = self._client.get("/calls", params={"count": 1}).raise_for_status().json()
        return int(counted["count"] if user is None else counted["by_user"].get(user, 0))

    def settle(self, crowd: Crowd) -> None:
        """Give every user of a crowd an account; the process draws them by itself."""
        self._ask("settle", n_users=crowd.n_users, today=crowd.today.isoformat())

    def change(self, share: float, night: int) -> int:
        """Let a share (0 to 1) of the crowd change some tasks; gives how many users did."""
        return int(self._ask("change", share=share, night=night))

    def n_turning(self, before: datetime, after: datetime) -> int:
        """How many users of the crowd have an open task that changes bucket between two instants (aware)."""
        return int(self._ask("n_turning", before=before.isoformat(), after=after.isoformat()))

    def cpu_seconds(self) -> float:
        """CPU seconds used so far."""
        return float(self._ask("cpu_seconds"))

    def resident_mb(self) -> float:
        """Its memory now, in millions of bytes."""
        return float(psutil.Process(self._process.pid).memory_info().rss / 1e6)

    def _ask(self, what: str, **arguments: object) -> Any:
        print(json.dumps([what, arguments]), file=self._process.stdin, flush=True)
        answer = cast(IO[str], self._process.stdout).readline()
        if not answer:
            raise RuntimeError(f"the local Todoist ended when it was asked for {what}; it said why above")
        return json.loads(answer)


@contextmanager
def standing_in(
    *, answer_seconds: tuple[float, float] = (0.0, 0.0), full_limit: int = 100, incremental_limit: int = 1000
) -> Iterator[StandIn]:
    """Start the process; it ends with the block, and also when this process dies.

    answer_seconds: shortest and longest wait before an answer; the limits are calls per user in 15 minutes.
    """
    options = ["--answer-seconds", ",".join(map(str, answer_seconds))]
    options += ["--full-limit", str(full_limit), "--incremental-limit", str(incremental_limit)]
    with subprocess.Popen(
        [sys.executable, "-m", __name__, *options],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield StandIn(cast(IO[str], process.stdout).readline().strip(), process)
        cast(IO[str], process.stdin).close()


class Drawn(Objects):
    """Objects of a sample user, drawn anew whenever somebody reads them: until they change they take no memory."""

    def __init__(self, draw: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__()
        self._draw: Callable[[], Mapping[str, Any]] | None = draw
        self.revision = self.replaced_at = 1

    def replace(self, document: Mapping[str, Any]) -> None:
        """From here on they are kept."""
        self._draw = None
        super().replace(document)

    def apply(self, delta: Mapping[str, Any]) -> None:
        """The same, and what was told of them before stays true: a sync token of then gets the delta."""
        if self._draw:
            self.revision = 0
            self.replace(self._draw())
        super().apply(delta)

    def active(self, kinds: Iterable[str]) -> dict[str, Any]:
        """All of them: a sample user begins with nothing that is done or archived."""
        if not self._draw:
            return super().active(kinds)
        document = self._draw()
        return {kind: document.get(kind, []) for kind in kinds}

    def changed_since(self, revision: int, kinds: Iterable[str]) -> dict[str, Any]:
        """Nothing, as long as they are drawn."""
        return (
            {kind: [] for kind in kinds if kind != "user"} if self._draw else super().changed_since(revision, kinds)
        )


class CrowdedTodoist(LocalTodoist):
    """The local Todoist, with accounts of a whole crowd; 100,000 of them are no load."""

    _crowd: Crowd

    def settle(self, crowd: Crowd) -> int:
        """An account for everybody; gives how many."""
        self._crowd = crowd
        for number in range(len(crowd)):
            known = crowd.account(number)
            account = Account(known.user_id, self._seed, self._limits)
            account.objects = Drawn(partial(crowd.document, number))
            self._accounts[known.user_id] = account
            self._grants.add(known.user_id, known.api_token, None)
        return len(crowd)

    def change(self, share: float, night: int) -> int:
        """What happens to some of them before a night; gives to how many."""
        changed = changed_users(self._crowd, share=share, night=night)
        for user in changed:
            document = self.document(user.user_id)
            self.advance(user.user_id, night_changes(user, document, today=self._crowd.today, night=night))
        return len(changed)

    def n_turning(self, before: datetime, after: datetime) -> int:
        """How many have a task that changes bucket between two instants."""
        documents = (account.objects.active(("items", "user")) for account in self._accounts.values())
        return sum(changes_bucket(document, before, after) for document in documents)


def main() -> None:
    """Say the address, then answer each question that comes, until no more can come."""
    todoist = CrowdedTodoist(**vars(_options()))
    with running(todoist) as url:
        print(url, flush=True)
        for line in sys.stdin:
            what, arguments = json.loads(line)
            print(json.dumps(_answer(todoist, what, **arguments)), flush=True)


def _answer(todoist: CrowdedTodoist, what: str, **arguments: Any) -> float:
    match what:
        case "settle":
            return todoist.settle(Crowd(arguments["n_users"], date.fromisoformat(arguments["today"])))
        case "change":
            return todoist.change(**arguments)
        case "n_turning":
            return todoist.n_turning(**{name: datetime.fromisoformat(at) for name, at in arguments.items()})
        case "cpu_seconds":
            return time.process_time()
        case _:
            raise ValueError(f"'{what}' is no question that the local Todoist answers")


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
