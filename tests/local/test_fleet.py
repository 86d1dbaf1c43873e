"""Processes that are killed, started again and stopped together, and the Redis among them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from local.broker import BROKER, start_broker
from local.fleet import Program, running_fleet

SLEEP = "import time; print('started', flush=True); time.sleep(60)"
WITH_CHILD = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); {SLEEP}"
TIMEOUT_S = 30


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < until, f"nothing after {TIMEOUT_S} s"
        time.sleep(0.02)


def program(code: str) -> Program:
    return Program([sys.executable, "-c", code], dict(os.environ))


def test_a_killed_process_takes_its_children_along(tmp_path: Path) -> None:
    """A process is killed with its descendants, and starts again with a log file of its own."""
    with running_fleet(tmp_path) as fleet:
        process = fleet.start("one", program(WITH_CHILD))
        wait_for(lambda: fleet.log_file("one").read_text().count("started") == 2)
        [child] = psutil.Process(process.pid).children()
        fleet.kill("one")
        assert process.returncode == -9
        assert not child.is_running()
        assert fleet.ended() == []
        fleet.restart("one")
        wait_for(lambda: "started" in (tmp_path / "one.2.log").read_text())


def test_the_end_of_the_block_leaves_no_process(tmp_path: Path) -> None:
    """At the end all processes are interrupted, and descendants that outlive them are killed."""
    with running_fleet(tmp_path) as fleet:
        processes = [fleet.start(name, program(WITH_CHILD)) for name in ("one", "other")]
        wait_for(lambda: all(fleet.log_file(name).read_text().count("started") == 2 for name in ("one", "other")))
        children = [child for process in processes for child in psutil.Process(process.pid).children()]
    psutil.wait_procs(children, timeout=TIMEOUT_S)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_an_ended_process_is_told(tmp_path: Path) -> None:
    """A process that ends by itself is named, unless it has done its work."""
    with running_fleet(tmp_path) as fleet:
        for name in ("one", "other"):
            fleet.start(name, program("")).wait(TIMEOUT_S)
        fleet.forget("other")
        assert fleet.ended() == ["one"]


def test_redis_keeps_its_messages(tmp_path: Path) -> None:
    """A Redis that is killed and started again has the messages that it had, and its password."""
    with running_fleet(tmp_path / "logs") as fleet:
        broker = start_broker(fleet, tmp_path / "redis with a blank")
        broker.client.rpush("default", "message")
        fleet.kill(BROKER)
        assert not broker.is_ready()
        fleet.restart(BROKER)
        wait_for(broker.is_ready)
        assert broker.n_waiting("default") == 1
        broker_without_password = type(broker)(broker.port, "wrong")
        assert not broker_without_password.is_ready()
    assert (tmp_path / "redis with a blank" / "redis.conf").stat().st_mode & 0o777 == 0o600


def test_a_new_redis_has_no_messages(tmp_path: Path) -> None:
    """A Redis that is started in the folder of an earlier one does not get its messages."""
    for _ in range(2):
        with running_fleet(tmp_path / "logs") as fleet:
            broker = start_broker(fleet, tmp_path / "redis")
            assert broker.n_waiting("default") == 0
            broker.client.rpush("default", "message")
