"""The local Todoist in a process of its own, `python -m benchmarks.todoist`: its CPU is not the pipeline's."""

from __future__ import annotations

import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

import httpx

from local.todoist import LocalTodoist, running


class StandIn:
    """The other process: its address, what it is told, and the CPU that it used."""

    def __init__(self, url: str, questions: IO[str], answers: IO[str]) -> None:
        self.url = url
        self._questions = questions
        self._answers = answers
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

    def cpu_seconds(self) -> float:
        """CPU seconds used so far."""
        print(file=self._questions, flush=True)
        return float(self._answers.readline())


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
        questions, answers = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
        yield StandIn(answers.readline().strip(), questions, answers)
        questions.close()


def main() -> None:
    """Say the address, then the CPU seconds used for each line that comes, until no more can come."""
    with running(LocalTodoist(**vars(_options()))) as url:
        print(url, flush=True)
        for _ in sys.stdin:
            print(time.process_time(), flush=True)


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
