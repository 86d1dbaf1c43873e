"""The service as a process of its own, with the simulated clock."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection

import uvicorn
import uvloop
from pydantic import SecretStr

from benchmarks.week.timeline import SimulatedClock
from contexts.settings import EventsMode
from contexts.todoist.credentials import CredentialCipher
from serving.composition import open_app
from serving.settings import ServingSettings

SERVICE_TOKEN = "the-benchmark-of-a-week"
LLM_MODEL = "openai-chat:local"
WEBHOOK_SECRET = "the-webhooks-of-a-week"
_NEVER_S = 1e9


@dataclass(frozen=True)
class ServiceConnections:
    """The addresses that the service connects to.

    key: encrypts the users' credentials.
    llm_wait_s: seconds that a request waits for the LLM.
    has_llm: whether there is an LLM.
    events: how far events of webhooks are believed.
    writes_ahead: whether the LLM writes tips for users who have not asked.
    """

    database_url: str
    todoist_url: str
    key: str
    llm_wait_s: float = 0.0
    has_llm: bool = True
    events: EventsMode = "off"
    writes_ahead: bool = True


def set_llm_url(url: str) -> None:
    """Set the LLM's URL in the environment of this process and of its child processes."""
    os.environ.update({"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none is needed"})


def service_settings(connections: ServiceConnections) -> ServingSettings:
    """The settings of the service: the defaults, independent of the environment, but for the rule."""
    return ServingSettings(
        service_tokens=(SecretStr(SERVICE_TOKEN),),
        todoist_api_url=connections.todoist_url,
        llm_model=LLM_MODEL if connections.has_llm else None,
        llm_wait=connections.llm_wait_s,
        tips_ahead="now" if connections.writes_ahead else "off",
        todoist_events=connections.events,
        todoist_client_secrets=(SecretStr(WEBHOOK_SECRET),) if connections.events != "off" else (),
    )


@contextmanager
def running_week_service(connections: ServiceConnections, clock: SimulatedClock) -> Iterator[str]:
    """Run the service in a child process and yield its URL; the process ends with the block."""
    context = get_context("spawn")
    parent_end, child_end = context.Pipe()
    process = context.Process(target=_run, args=(connections, clock, child_end), daemon=True)
    process.start()
    child_end.close()
    try:
        yield parent_end.recv()
    finally:
        process.terminate()
        process.join()


def _run(connections: ServiceConnections, clock: SimulatedClock, parent: Connection) -> None:
    logging.basicConfig(level=logging.WARNING, format="service: %(message)s")
    uvloop.run(_serve(connections, clock, parent))


async def _serve(connections: ServiceConnections, clock: SimulatedClock, parent: Connection) -> None:
    settings, cipher = service_settings(connections), CredentialCipher([connections.key])
    async with open_app(
        settings,
        connections.database_url,
        cipher,
        clock=clock.now,
        event_refresh_interval_s=_NEVER_S,  # at simulated instants instead, see benchmarks.week.refresher
    ) as app:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            parent.send(f"http://127.0.0.1:{listener.getsockname()[1]}")
            server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_config=None))
            await server.serve(sockets=[listener])
