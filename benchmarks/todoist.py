"""The local Todoist in a process of its own, `python -m benchmarks.todoist`: its CPU is not the pipeline's."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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

    def cpu_seconds(self) -> float:
        """CPU seconds used so far."""
        print(file=self._questions, flush=True)
        return float(self._answers.readline())


@contextmanager
def standing_in() -> Iterator[StandIn]:
    """Start the process; it ends with the block, and also when this process dies."""
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(
        command,
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
    with running(LocalTodoist()) as url:
        print(url, flush=True)
        for _ in sys.stdin:
            print(time.process_time(), flush=True)


if __name__ == "__main__":
    main()
