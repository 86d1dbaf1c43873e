"""Batches of requests to the LLM as plain data, without the libraries that submit them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from contexts.assembly.model import UserContext

MAX_BATCH_REQUESTS = 1000
"""The maximum number of requests in one batch."""

BATCH_WINDOW = timedelta(hours=24)
"""The time after which a batch expires."""

BatchHandle = Mapping[str, Any]
"""A submitted batch as plain JSON: pydantic-ai's `Batch`."""


class BatchError(Exception):
    """The provider does not answer, or refuses a call about a batch: it can be tried again later."""


class BatchLost(Exception):
    """The provider has no such batch any more, or its results cannot be read."""


@dataclass(frozen=True)
class BatchedRequest:
    """One request in a batch.

    custom_id: its name in the batch. today: the user's date at the request for a tip.
    """

    custom_id: str
    context: UserContext
    today: date


def has_ended(handle: BatchHandle) -> bool:
    """Whether a batch is over: its results are there, or never will be."""
    return bool(handle["status"] == "ended")


def is_canceling(handle: BatchHandle) -> bool:
    """Whether the provider is about to cancel a batch."""
    return bool(handle["status"] == "canceling")


def outcome_of(handle: BatchHandle) -> str:
    """The provider's word for the state of a batch: completed, expired, failed, cancelled."""
    return str((handle.get("provider_details") or {}).get("status", handle["status"]))
