"""The demonstration of webhooks in a local run: a real service, and a local Todoist that reports to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from world import World

from local.service import running_service
from local.tip_requests import send_tip_requests, without_todoist
from local.webhook_demo import WebhookDemo


def test_completed_task(world: World, database_url: str, account: Any, tmp_path: Path) -> None:
    """A task that is completed in the local Todoist is not in the next tip of the service, without a call."""
    titles = ("call the dentist", "buy milk", "mend the roof", "water the plants", "write to ann", "pay the rent")
    world.add("ann", account(*titles))
    demo = WebhookDemo(world.todoist)
    environment = {
        "DATABASE_URL": database_url,
        "CREDENTIALS_KEYS": world.key,
        "TODOIST_API_URL": world.client.base_url,
    }
    with running_service({**environment, **demo.environment}, tmp_path / "service.log") as service:
        requests = send_tip_requests(service, without_todoist(environment), "ann", world.connection, demo)
    by_case = {request.case: request for request in requests}
    [case] = [case for case in by_case if case.endswith("completed")]
    assert (by_case[case].todoist_calls, by_case[case].source) == (0, "stored")
    ended = {row[0] for row in world.connection.execute("SELECT object_id FROM todoist_events WHERE is_ended")}
    assert ended
    completed = [title for number, title in enumerate(titles) if f"t{number}" in ended]
    assert [title for title in completed if title in by_case[case].tip] == []
    assert "secret" not in (tmp_path / "service.log").read_text()
