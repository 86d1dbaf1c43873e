"""Child processes that run the pipeline, and the points at which they are killed, held or cut short."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, Literal

_TIMEOUT_S = 120
_CUT_AFTER_BYTES = 700
_BLOCK_BYTES = 65536
_NOBODY = 65534

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "assets.__main__",
        "anyio._backends._asyncio",
        "httpcore",
        "multiprocessing.synchronize",
        "scipy.cluster.hierarchy",
    ]
)


@dataclass(frozen=True)
class Point:
    """A call of a function at which something happens to the process.

    target: `module:function` or `module:Class.method`. nth: the call. then: "kill" and "kill after" are SIGKILL,
    before or after the call; "hold" waits for `Child.release`; "cut" lets the kernel kill the process in the middle
    of the next file that it writes; "full" lets each later write of a file fail; "nobody" gives up the rights of
    root.
    """

    target: str
    nth: int = 1
    then: Literal["kill", "kill after", "hold", "cut", "full", "nobody"] = "kill"

    def arm(self, parent: Connection) -> None:
        """Let it happen in this process."""
        module, _, path = self.target.partition(":")
        owner: Any = import_module(module)
        *outer, name = path.split(".")
        for each in outer:
            owner = getattr(owner, each)
        function, n_calls = getattr(owner, name), 0

        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal n_calls
            n_calls += 1
            if n_calls == self.nth and self.then != "kill after":
                self._happen(parent)
            result = function(*arguments, **options)
            if n_calls == self.nth and self.then == "kill after":
                self._happen(parent)
            return result

        setattr(owner, name, call)

    def _happen(self, parent: Connection) -> None:
        match self.then:
            case "hold":
                parent.send("held")
                parent.recv()
            case "cut" | "full":
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL if self.then == "cut" else signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (_CUT_AFTER_BYTES, _CUT_AFTER_BYTES))
            case "nobody":
                if os.getuid() == 0:
                    os.setgroups([])
                    os.setgid(_NOBODY)
                    os.setuid(_NOBODY)
            case _:
                os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Outcome:
    """The end of a child process: its exit status, below 0 for a signal, and its output."""

    status: int
    output: str

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended it."""
        return self.status < 0


class Child:
    """A running child process."""

    def __init__(
        self,
        call: Callable[..., object],
        arguments: tuple[Any, ...],
        environment: Mapping[str, str],
        point: Point | None = None,
    ) -> None:
        self._parent, child_end = _context.Pipe()
        self._output, output_end = _context.Pipe(duplex=False)
        self._process = _context.Process(
            target=_run, args=(call, arguments, dict(environment), point, child_end, output_end), daemon=True
        )
        self._has_ended = False
        self._process.start()
        child_end.close()
        output_end.close()

    def wait_until_held(self) -> bool:
        """Wait until the process is at its point, or is about to run if it has none; False if it ended before."""
        try:
            return bool(self._parent.poll(_TIMEOUT_S) and self._parent.recv())
        except EOFError:
            return False

    def release(self) -> None:
        """Let a process go on that is held at its point."""
        self._parent.send("go on")

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.exitcode is None

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def kill_if_running(self) -> None:
        """End a process that a broken trial left."""
        if not self._has_ended and self.is_running:
            self.kill()
            self.wait()

    def wait(self) -> Outcome:
        """Wait for the end; a process that hangs is killed, and its output says so."""
        output, until = b"", time.monotonic() + _TIMEOUT_S
        hangs = False
        while self._output.poll(max(0, until - time.monotonic())) or not (hangs := True):
            if not (block := os.read(self._output.fileno(), _BLOCK_BYTES)):
                break
            output += block
        if hangs:
            self._process.kill()
        self._process.join()
        status = self._process.exitcode
        assert status is not None
        self._has_ended = True
        self._process.close()
        self._parent.close()
        self._output.close()
        return Outcome(status, output.decode(errors="replace") + f"\nstill running after {_TIMEOUT_S} s" * hangs)


def _run(
    call: Callable[..., object],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    point: Point | None,
    parent: Connection,
    output: Connection,
) -> None:
    """Run a function in this process. Its result is the exit status; an error is status 3 and a traceback."""
    # A pipe, because a limit of the size of files must not cut the output.
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    output.close()
    os.environ.update(environment)
    try:
        if point:
            point.arm(parent)
        else:
            parent.send("ready")
        status = call(*arguments)
    except SystemExit as exit_:
        status = exit_.code
    except BaseException:
        traceback.print_exc()
        status = 3
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(status or 0))  # type: ignore[call-overload]
