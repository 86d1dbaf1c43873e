"""The retry policy of tasks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import RetryPolicy
from airflow.sdk.definitions.retry_policy import RetryDecision

from assets.engine.errors import AssetError, ShardsFailed
from contexts.postgres.migrate import MigrationsMissing
from contexts.settings import SettingsError
from contexts.themes.model_loading import EmbeddingError
from contexts.todoist.client import TodoistUnavailable
from contexts.todoist.credentials import CredentialsError
from contexts.todoist.refusals import MostRefused

MAX_WAIT = timedelta(minutes=20)
_PERMANENT = (AssetError, EmbeddingError, SettingsError, CredentialsError, MigrationsMissing, MostRefused)


class HonourRetryAfter(RetryPolicy):
    """Waits as long as Todoist asked, never retries permanent errors, and otherwise uses the task's own delay."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Any = None
    ) -> RetryDecision:
        """Decide about the next try after a failed one."""
        causes = [each.error for each in exception.failures] if isinstance(exception, ShardsFailed) else [exception]
        if all(isinstance(cause, _PERMANENT) for cause in causes):
            return RetryDecision.fail(reason=f"{type(exception).__name__} is permanent: a retry would fail again")
        for cause in causes:
            if isinstance(cause, TodoistUnavailable) and cause.retry_after:
                wait = min(timedelta(seconds=cause.retry_after), MAX_WAIT)
                return RetryDecision.retry(wait, reason=f"Todoist asked to wait {cause.retry_after:.0f} s")
        return RetryDecision.default()
