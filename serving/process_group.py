"""Several processes of the service behind one port: started, replaced if they end, and restarted one by one."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from serving.membership import FORCE, READY, STOP, Membership
from serving.metrics import forget_process
from serving.startup import port_not_usable

log = logging.getLogger(__name__)

_TICK_S = 0.1
"""Time between two checks of the processes and of the signals received. A `threading.Event` would wake the loop at
once, but a signal handler that sets it can wait forever for the lock that the interrupted wait holds."""

_READY_TIMEOUT_S = 120.0
_LEAST_START_INTERVAL_S = 1.0
"""Time between two replacements of ended processes, so that a fault that ends every new process costs little CPU."""

_KILL_AFTER_S = 2.0
"""Time after the grace period at which a process that is still alive is killed."""

_BACKLOG = 2048


@contextmanager
def listening_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens on an address, for all processes; raises NotReady if the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise port_not_usable(host, port, error) from None
    with listener:
        yield listener


@dataclass(eq=False)
class Member:
    """One process of the group. slot: the number under which it keeps its metrics. control: see `Membership`."""

    slot: int
    process: subprocess.Popen[bytes]
    control: socket.socket = field(repr=False)
    is_ready: bool = False

    def is_alive(self) -> bool:
        """Whether the process runs; updates `is_ready`, too."""
        with suppress(OSError):
            self.is_ready = self.is_ready or self.control.recv(1) == READY
        return self.process.poll() is None

    def tell(self, message: bytes) -> None:
        """Send a message to the process, if it still listens."""
        with suppress(OSError):
            self.control.send(message)

    def retire(self) -> None:
        """Tell the process that another one has replaced it."""
        with suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)


class ProcessGroup:
    """A fixed number of processes that accept connections from one listening socket.

    SIGTERM and SIGINT end the group; a second signal skips the waiting. SIGHUP replaces the processes one by one: a
    process ends only when its successor accepts connections, so no connection is refused. If this process is killed,
    the processes of the group end by themselves.
    """

    def __init__(
        self,
        n_processes: int,
        command: Sequence[str],
        listener: socket.socket,
        metrics_folder: Path,
        *,
        grace_period_s: float,
    ) -> None:
        """command: starts one process; the arguments of its `Membership` are added.

        grace_period_s: the time within which each process ends after STOP.
        """
        self._n_processes, self._command, self._listener = n_processes, list(command), listener
        self._metrics_folder, self._stop_timeout_s = metrics_folder, grace_period_s + _KILL_AFTER_S
        self._members: list[Member] = []
        self._retired: list[Member] = []
        self._n_stop_signals = 0
        self._must_restart = False
        self._next_start_at = 0.0

    def run(self) -> int:
        """Serve until a signal ends the group; return 1 if the first process does not become ready, else 0."""
        handlers = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        try:
            # The first one alone: a fault that prevents its start prevents that of the others, and is reported once.
            first = self._add_member()
            if not self._becomes_ready(first, first):
                self._stop_all()
                return 0 if self._n_stop_signals else 1
            while len(self._members) < self._n_processes:
                self._add_member()
            log.info("serving; %d processes in all, the others are starting", self._n_processes)
            self._supervise()
            self._stop_all()
            return 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._must_restart = True
        else:
            self._n_stop_signals += 1

    def _supervise(self) -> None:
        while not self._n_stop_signals:
            if self._must_restart:
                self._must_restart = False
                self._restart()
            self._replace_ended()
            time.sleep(_TICK_S)

    def _start_process(self) -> Member:
        slots = {member.slot for member in (*self._members, *self._retired)}
        slot = next(number for number in range(len(slots) + 1) if number not in slots)
        own_end, control = socket.socketpair()
        own_end.setblocking(False)
        with control:
            place = Membership(slot, self._listener, control, self._metrics_folder)
            process = subprocess.Popen(  # noqa: S603  (its words are this program's own)
                [*self._command, *place.to_arguments()], pass_fds=[self._listener.fileno(), control.fileno()]
            )
        return Member(slot, process, own_end)

    def _try_to_start(self) -> Member | None:
        """Start a process; None, with a message in the log, if the system lacks memory or has too many processes."""
        try:
            return self._start_process()
        except OSError as error:
            log.error("no process can be started now: %s", error.strerror)
            return None

    def _add_member(self) -> Member:
        member = self._start_process()
        self._members.append(member)
        return member

    def _becomes_ready(self, member: Member, *except_for: Member) -> bool:
        """Wait until a process accepts connections; False if it ends first, is too slow, or the group is to end.

        except_for: processes that are not replaced meanwhile, should they end.
        """
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while member.is_alive() and not member.is_ready:
            if self._n_stop_signals or time.monotonic() > deadline:
                return False
            self._replace_ended(except_for)
            time.sleep(_TICK_S)
        return member.is_ready and member.process.poll() is None

    def _restart(self) -> None:
        """Replace each process by a new one; stops at the first new one that does not become ready."""
        for former in list(self._members):
            if former not in self._members:  # it has ended, and a new process has replaced it
                continue
            if (successor := self._try_to_start()) is None:
                return
            self._retired.append(successor)  # until it serves it is not one of the members
            is_ready = self._becomes_ready(successor, successor, former)
            if self._n_stop_signals:
                return
            self._retired.remove(successor)
            if not is_ready:
                log.error("process %d did not become ready; the restart is given up", successor.process.pid)
                self._end(successor)
                return
            self._members.remove(former)
            former.retire()
            self._retired.append(former)
            self._members.append(successor)
            log.info("process %d replaces process %d", successor.process.pid, former.process.pid)

    def _replace_ended(self, except_for: Collection[Member] = ()) -> None:
        """Replace the members that have ended by themselves, and forget the retired processes that have ended."""
        for member in [each for each in self._retired if each not in except_for and not each.is_alive()]:
            self._retired.remove(member)
            self._close(member)
        for member in [each for each in self._members if each not in except_for and not each.is_alive()]:
            if time.monotonic() < self._next_start_at:
                return
            self._next_start_at = time.monotonic() + _LEAST_START_INTERVAL_S
            process = member.process
            log.error("process %d ended with status %s; starting another one", process.pid, process.returncode)
            if (successor := self._try_to_start()) is None:
                return
            self._members.remove(member)
            self._close(member)
            self._members.append(successor)

    def _stop_all(self) -> None:
        """Tell all processes to end, and wait for them; kill those that do not."""
        members = [*self._members, *self._retired]
        for member in members:
            member.tell(STOP)
        deadline, n_signals = time.monotonic() + self._stop_timeout_s, self._n_stop_signals
        while any(member.is_alive() for member in members) and time.monotonic() < deadline:
            if self._n_stop_signals > n_signals:
                n_signals = self._n_stop_signals
                for member in members:
                    member.tell(FORCE)
            time.sleep(_TICK_S)
        for member in members:
            self._end(member)

    def _end(self, member: Member) -> None:
        if member.process.poll() is None:
            log.error("process %d does not end, and is killed", member.process.pid)
            member.process.kill()
        member.process.wait()
        self._close(member)

    def _close(self, member: Member) -> None:
        member.control.close()
        forget_process(self._metrics_folder, member.slot)
