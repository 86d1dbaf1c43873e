"""The webhooks of a local run: the local Todoist reports a completed task to the service."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from local.service import Service
from local.todoist import LocalTodoist, RegisteredApp, delivering

_CLIENT_ID = "local-run"


@dataclass(frozen=True)
class WebhookDemo:
    """A local Todoist whose app has a client secret that the service also has."""

    todoist: LocalTodoist
    client_secret: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which the service accepts the events."""
        return {"TODOIST_CLIENT_SECRETS": self.client_secret}

    @contextmanager
    def delivered_to(self, service: Service, user_id: str) -> Iterator[None]:
        """Deliver the changes of one user's objects to the service, until the end of the block.

        The user agrees to the app, as on the page of Todoist to which `GET /v1/todoist/connect` leads.
        """
        url = f"{service.url}/v1/todoist"
        self.todoist.register(RegisteredApp(_CLIENT_ID, self.client_secret, f"{url}/callback", f"{url}/events"))
        form = {"client_id": _CLIENT_ID, "code": self.todoist.authorize(user_id)}
        self.todoist.exchange("/oauth/access_token", form)
        with delivering(self.todoist):
            yield

    def complete(self, user_id: str, task_ids: Iterable[str]) -> None:
        """Complete tasks in Todoist, as the user does in its app."""
        self.todoist.advance(user_id, {"items": [{"id": task_id, "checked": True} for task_id in task_ids]})
