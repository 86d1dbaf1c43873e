"""One database for each module, one server for each stand-in, and the service over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from service import Service, ServiceHarness, service_harness
from switchable import SwitchableApp
from world import World

from local.llm import LocalLLM
from local.server import running_server


@pytest.fixture(scope="module")
def database_url(new_database: Callable[[str], str], request: pytest.FixtureRequest) -> str:
    """A database of the module with every migration applied."""
    return new_database(f"serving_{request.path.stem}")


@pytest.fixture(scope="session")
def llm_server() -> Iterator[tuple[SwitchableApp, str]]:
    with running_server(app := SwitchableApp(), 0) as url:  # type: ignore[arg-type]
        yield app, url


@pytest.fixture
def llm(llm_server: tuple[SwitchableApp, str], monkeypatch: pytest.MonkeyPatch) -> LocalLLM:
    app, url = llm_server
    stand_in = LocalLLM()
    app.app = stand_in.app
    monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    return stand_in


@pytest.fixture
def harness(
    world: World, llm: LocalLLM, database_url: str, todoist_server: tuple[SwitchableApp, str]
) -> Iterator[ServiceHarness]:
    with service_harness(world, llm, database_url, todoist_server[0]) as harness:
        yield harness


@pytest.fixture
def service(harness: ServiceHarness) -> Service:
    return harness.open()


@pytest.fixture
def ann(harness: ServiceHarness, account: Any) -> None:
    """A user with four tasks and a context assembled at noon."""
    harness.add_with_context("ann", account("water the plants", "call bob", "buy milk", "mend the roof"))
