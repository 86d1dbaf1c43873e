"""The service in a process of its own, by a clock that is set from outside."""

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

from benchmarks.week.timeline import Clock
from contexts.vault import Vault
from serving.__main__ import opened
from serving.settings import ServingSettings

TOKEN = "the-benchmark-of-a-week"
LLM_MODEL = "openai-chat:local"


@dataclass(frozen=True)
class Places:
    """What the service stands upon. key: that users' tokens are encrypted with."""

    database_url: str
    todoist_url: str
    key: str


def name_llm(url: str) -> None:
    """Tell this process and those that it starts where the LLM is."""
    os.environ.update({"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none is needed"})


def told(todoist_url: str) -> ServingSettings:
    """What the service is told, and nothing by chance: its defaults are the world's."""
    return ServingSettings(service_tokens=(SecretStr(TOKEN),), todoist_api_url=todoist_url, llm_model=LLM_MODEL)


@contextmanager
def serving(places: Places, clock: Clock) -> Iterator[str]:
    """Serve over real doors; yields the address, and the process has ended afterwards."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(places, clock, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(places: Places, clock: Clock, parent: Connection) -> None:
    logging.basicConfig(level=logging.WARNING, format="service: %(message)s")
    uvloop.run(_answer(places, clock, parent))


async def _answer(places: Places, clock: Clock, parent: Connection) -> None:
    settings, vault = told(places.todoist_url), Vault([places.key])
    async with opened(settings, places.database_url, vault, clock=clock.now) as app:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            parent.send(f"http://127.0.0.1:{listener.getsockname()[1]}")
            server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_config=None))
            await server.serve(sockets=[listener])
