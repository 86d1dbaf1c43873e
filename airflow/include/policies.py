"""The retry policy of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import RetryPolicy
from airflow.sdk.definitions.retry_policy import RetryAction, RetryDecision

from assets.engine.errors import AssetError, ShardsFailed
from contexts.postgres.migrate import MigrationsMissing
from contexts.settings import SettingsError
from contexts.themes.model_loading import EmbeddingError
from contexts.todoist.client import TodoistUnavailable
from contexts.todoist.credentials import CredentialsError
from contexts.todoist.refusals import MostRefused

MAX_WAIT = timedelta(minutes=20)
_PERMANENT = (AssetError, EmbeddingError, SettingsError, CredentialsError, MigrationsMissing, MostRefused)


class TriedByPlan(Exception):
    """The task `plan` ran a group of shards and failed, which counts as the first try of the task `compute`.

    decision: what the retry policy decides about the error of `plan`.
    """

    def __init__(self, message: str, decision: RetryDecision) -> None:
        super().__init__(message)
        self.decision = decision

    @classmethod
    def because_of(cls, error: Exception) -> TriedByPlan:
        """Return the failure of a try that ended with an error."""
        return cls(str(error) or type(error).__name__, HonourRetryAfter().evaluate(error, 1, 1))

    def to_json(self) -> dict[str, Any]:
        """Return the failure as plain data for JSON."""
        delay = self.decision.retry_delay
        return {
            "message": str(self),
            "action": self.decision.action.value,
            "delay_s": delay and delay.total_seconds(),
            "reason": self.decision.reason,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TriedByPlan:
        """Read a failure written by `to_json`."""
        delay = value["delay_s"] and timedelta(seconds=value["delay_s"])
        return cls(value["message"], RetryDecision(RetryAction(value["action"]), delay, value["reason"]))


class HonourRetryAfter(RetryPolicy):
    """Waits as long as Todoist asked, but at most `MAX_WAIT`; never retries permanent errors.

    After any other error the task's own delay applies.
    """

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Any = None
    ) -> RetryDecision:
        """Decide about the next try after a failed one."""
        if isinstance(exception, TriedByPlan):
            return exception.decision
        causes = [each.error for each in exception.failures] if isinstance(exception, ShardsFailed) else [exception]
        if all(isinstance(cause, _PERMANENT) for cause in causes):
            return RetryDecision.fail(reason=f"{type(exception).__name__} is permanent: a retry would fail again")
        for cause in causes:
            if isinstance(cause, TodoistUnavailable) and cause.retry_after:
                wait = min(timedelta(seconds=cause.retry_after), MAX_WAIT)
                return RetryDecision.retry(wait, reason=f"Todoist asked to wait {cause.retry_after:.0f} s")
        return RetryDecision.default()
