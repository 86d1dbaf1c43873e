"""The place of one process in a group that serves one port: its socket, its metrics and its control connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

READY = b"r"
"""The process accepts connections."""

STOP = b"s"
"""The whole group ends: the process drains as after SIGTERM."""

FORCE = b"f"
"""The group does not wait any longer."""


@dataclass(frozen=True)
class Membership:
    """A process's place in a group.

    slot: the number under which it keeps its metrics, different from those of all other processes that run.
    listener: the socket on which all processes of the group accept connections.
    control: connected to the group; its end means that the process was replaced, or that the group is gone.
    metrics_folder: holds the metrics of all processes.
    """

    slot: int
    listener: socket.socket
    control: socket.socket
    metrics_folder: Path

    def to_arguments(self) -> list[str]:
        """The arguments by which a child process gets its place."""
        return [str(self.slot), str(self.listener.fileno()), str(self.control.fileno()), str(self.metrics_folder)]

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> Membership | None:
        """The place of this process; None for a process without a group, which has no arguments."""
        if not arguments:
            return None
        slot, listener, control, folder = arguments
        return cls(int(slot), socket.socket(fileno=int(listener)), socket.socket(fileno=int(control)), Path(folder))

    def announce(self) -> None:
        """Tell the group that this process accepts connections; a group that is gone is noticed by `follow`."""
        with suppress(OSError):
            self.control.send(READY)

    def follow(
        self, *, stop: Callable[[], object], force: Callable[[], object], retire: Callable[[], object]
    ) -> None:
        """Call a function for each message of the group, in the running loop; `retire` when the connection ends."""
        loop = asyncio.get_running_loop()
        self.control.setblocking(False)
        actions = {STOP: stop, FORCE: force}

        def read() -> None:
            try:
                message = self.control.recv(1)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                loop.remove_reader(self.control)
                retire()
            elif message in actions:
                actions[message]()

        loop.add_reader(self.control, read)
