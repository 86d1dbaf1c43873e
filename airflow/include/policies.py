"""How tasks are tried again, and what happens when a run is late."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow.sdk import RetryPolicy
from airflow.sdk.definitions.retry_policy import RetryDecision

from assets.errors import AssetError
from contexts.embed import EmbeddingError
from contexts.settings import SettingsError
from contexts.todoist import TodoistUnavailable
from contexts.vault import VaultError

log = logging.getLogger(__name__)

LONGEST_WAIT = timedelta(minutes=20)
_FINAL = (AssetError, EmbeddingError, SettingsError, VaultError)


class HonourRetryAfter(RetryPolicy):
    """Wait as long as Todoist asked; do not repeat what cannot pass by waiting; else the task's own delay."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Any = None
    ) -> RetryDecision:
        """The decision for one failed try."""
        if isinstance(exception, _FINAL):
            return RetryDecision.fail(reason=f"{type(exception).__name__} does not pass by waiting")
        if isinstance(exception, TodoistUnavailable) and exception.retry_after:
            wait = min(timedelta(seconds=exception.retry_after), LONGEST_WAIT)
            return RetryDecision.retry(wait, reason=f"Todoist asked to wait {exception.retry_after:.0f} s")
        return RetryDecision.default()


def report_late(step: str, minutes: int, **_: Any) -> None:
    """A run of a step is not done in time: contexts go stale, and requests assemble theirs inline."""
    log.error(
        "%s has not finished within %d minutes: contexts are going stale. See its run in the UI.", step, minutes
    )
