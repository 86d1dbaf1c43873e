"""Webhooks of the stand-in for Todoist: signed deliveries, repetitions, and faults on the way."""

import hmac
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import httpx

REPEAT_AFTER = timedelta(minutes=15)
MAX_REPETITIONS = 3
_TIMEOUT_S = 10.0
_TLS = httpx.create_ssl_context()
"""Loaded once, because loading it takes longer than a request."""


@dataclass(frozen=True)
class RegisteredApp:
    """An app as it is registered by hand in Todoist's console. webhook_url: None if the app has no webhooks."""

    client_id: str
    client_secret: str
    redirect_url: str
    webhook_url: str | None = None


@dataclass(frozen=True)
class DeliveryFaults:
    """The shares of deliveries (0 to 1) that do not arrive once, at once and in order.

    max_delay: delays are drawn evenly up to it.
    """

    lost: float = 0.0
    doubled: float = 0.0
    reordered: float = 0.0
    delayed: float = 0.0
    max_delay: timedelta = timedelta(minutes=45)


@dataclass(frozen=True)
class Delivery:
    """A notification that is on its way. n_attempts: requests made for it so far."""

    delivery_id: str
    user: str
    body: bytes
    due_at: datetime
    n_attempts: int = 0


@dataclass(frozen=True)
class DeliveryAttempt:
    """A request for a delivery. status: 0 if there was no answer."""

    at: datetime
    delivery_id: str
    user: str
    event_name: str
    status: int


@dataclass
class Webhooks:
    """The deliveries on their way to an app, and the requests made so far.

    rng: draws the ids and the faults, in the order of the changes.
    """

    rng: Random
    faults: DeliveryFaults = DeliveryFaults()
    cut_off_until: datetime | None = None
    waiting: list[Delivery] = field(default_factory=list)
    attempts: list[DeliveryAttempt] = field(default_factory=list)

    def add(self, user: str, body: Mapping[str, Any], now: datetime) -> None:
        """Send an event on its way, with the faults that are drawn for it."""
        delivery = Delivery(str(UUID(int=self.rng.getrandbits(128))), user, json.dumps(body).encode(), now)
        # All faults are drawn for each event, so a share of one does not change the others.
        is_lost, is_doubled, is_reordered, is_delayed = (
            self.rng.random() < share
            for share in (self.faults.lost, self.faults.doubled, self.faults.reordered, self.faults.delayed)
        )
        delay = self.rng.random() * self.faults.max_delay
        if is_lost:
            return
        if is_delayed:
            delivery = replace(delivery, due_at=now + delay)
        place = len(self.waiting) - 1 if is_reordered and self.waiting else len(self.waiting)
        self.waiting[place:place] = [delivery] * (2 if is_doubled else 1)

    def take_due(self, now: datetime) -> list[Delivery]:
        """Remove and return the deliveries that are due."""
        due = [each for each in self.waiting if each.due_at <= now]
        self.waiting = [each for each in self.waiting if each.due_at > now]
        return due

    def request(self, app: RegisteredApp, delivery: Delivery, now: datetime) -> int:
        """Make one request and return its status, 0 without an answer; it is not sent while the app is cut off."""
        if app.webhook_url is None or (self.cut_off_until is not None and now < self.cut_off_until):
            return 0
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Todoist-Webhooks",
            "X-Todoist-Hmac-SHA256": sign(app.client_secret, delivery.body),
            "X-Todoist-Delivery-ID": delivery.delivery_id,
        }
        try:
            url, content = app.webhook_url, delivery.body
            return httpx.post(url, content=content, headers=headers, timeout=_TIMEOUT_S, verify=_TLS).status_code
        except httpx.HTTPError:
            return 0

    def end(self, delivery: Delivery, status: int, now: datetime) -> None:
        """Record a request, and repeat the delivery later unless the status is exactly 200."""
        name = json.loads(delivery.body)["event_name"]
        self.attempts.append(DeliveryAttempt(now, delivery.delivery_id, delivery.user, name, status))
        if status != 200 and delivery.n_attempts < MAX_REPETITIONS:
            self.waiting.append(replace(delivery, due_at=now + REPEAT_AFTER, n_attempts=delivery.n_attempts + 1))


def sign(client_secret: str, body: bytes) -> str:
    """The value of X-Todoist-Hmac-SHA256 for a body."""
    return b64encode(hmac.digest(client_secret.encode(), body, "sha256")).decode()
