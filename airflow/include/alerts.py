"""Alerts about runs that failed or are late: in the log, and by a notifier of Airflow if the settings name one."""

from __future__ import annotations

import json
import logging
from importlib import import_module
from typing import Any, cast

from airflow.sdk import BaseNotifier

from contexts.settings import Settings, read_settings

log = logging.getLogger(__name__)

PLACEHOLDER = "{message}"
"""The part of a notifier's arguments that is replaced by the sentence about the run."""


class NotifierError(Exception):
    """The settings name a wrong notifier; the message names the setting, the problem and the remedy."""


def failure_notifier(step: str, settings: Settings) -> BaseNotifier | None:
    """Return the callback of a DAG whose run fails; None without a notifier, or if the settings name a wrong one."""
    message = f"A run of {step} failed: see it in Airflow's UI. The next run does what is left."
    return _notifier_or_log(settings, message)


def notifier_problem(settings: Settings) -> str | None:
    """Return a sentence about a wrong notifier in the settings; None if it is right, or if none is named."""
    try:
        _notifier(settings, "a run failed")
    except NotifierError as error:
        return str(error)
    return None


def report_late(step: str, minutes: int, **arguments: Any) -> None:
    """Log that a run is late, and notify.

    arguments: `context` is Airflow's context, if Airflow passes one.
    """
    message = f"{step} has not finished in {minutes} minutes: contexts are becoming stale. See its run in the UI."
    log.error(message)
    notifier = _notifier_or_log(read_settings(Settings), message)
    if notifier is not None:
        notifier(dict(arguments.get("context") or {}))


def _notifier_or_log(settings: Settings, message: str) -> BaseNotifier | None:
    """Return the notifier of the settings; None if there is none, or a wrong one, which is logged.

    A wrong notifier raises nothing, because the pipeline must run without its alerts, too.
    """
    try:
        return _notifier(settings, message)
    except NotifierError as error:
        log.error(error)
        return None


def _notifier(settings: Settings, message: str) -> BaseNotifier | None:
    """Return the notifier of the settings with a message.

    Raises NotifierError if there is no such class, if it is no notifier, or if it refuses its arguments.
    """
    if settings.alert_notifier is None:
        return None
    kind, arguments = _notifier_class(settings), _arguments(settings)
    filled = {
        key: value.replace(PLACEHOLDER, message) if isinstance(value, str) else value
        for key, value in arguments.items()
    }
    try:
        return cast(BaseNotifier, cast(Any, kind)(**filled))
    except Exception as error:  # whatever the class makes of its arguments
        raise _error(settings, f"it refuses ALERT_ARGUMENTS: {error}", "Correct ALERT_ARGUMENTS") from None


def _notifier_class(settings: Settings) -> type[BaseNotifier]:
    module, _, name = str(settings.alert_notifier).rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except Exception as error:  # whatever the module raises when it is imported
        problem = f"there is no such class ({error})"
        raise _error(settings, problem, "Install its package, or correct the name") from None
    if not (isinstance(kind, type) and issubclass(kind, BaseNotifier)):
        raise _error(settings, "it is not a notifier of Airflow", "Name a subclass of BaseNotifier")
    return kind


def _arguments(settings: Settings) -> dict[str, Any]:
    try:
        arguments = json.loads(settings.alert_arguments)
    except ValueError as error:
        raise _error(settings, f"ALERT_ARGUMENTS is not JSON ({error})", "Correct ALERT_ARGUMENTS") from None
    if not isinstance(arguments, dict):
        raise _error(settings, "ALERT_ARGUMENTS is not a JSON object", "Correct ALERT_ARGUMENTS")
    return arguments


def _error(settings: Settings, problem: str, remedy: str) -> NotifierError:
    return NotifierError(
        f"ALERT_NOTIFIER={settings.alert_notifier}: {problem}. Nobody is notified of failed or late runs."
        f" {remedy}, or unset ALERT_NOTIFIER."
    )
