"""Alerts about runs that failed or are late: in the log, and by a notifier of Airflow if the settings name one."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from airflow.sdk import BaseNotifier

from contexts.settings import Settings, SettingsError, read_settings

log = logging.getLogger(__name__)

PLACEHOLDER = "{message}"
"""The part of a notifier's arguments that is replaced by the sentence about the run."""


def failure_notifier(step: str, settings: Settings) -> BaseNotifier | None:
    """Return the callback of a DAG whose run fails; None without a notifier. Raises SettingsError as `_notifier`."""
    return _notifier(settings, f"A run of {step} failed: see it in Airflow's UI. The next run does what is left.")


def report_late(step: str, minutes: int, **arguments: Any) -> None:
    """Log that a run is late, and notify: contexts become stale, and requests assemble them inline.

    arguments: Airflow's context, if it passes one.
    """
    message = f"{step} has not finished in {minutes} minutes: contexts are becoming stale. See its run in the UI."
    log.error(message)
    notifier = _notifier(read_settings(Settings), message)
    if notifier is not None:
        notifier(dict(arguments.get("context") or {}))


def _notifier(settings: Settings, message: str) -> BaseNotifier | None:
    """Return the notifier of the settings with a message; SettingsError if there is no such class, or it refuses."""
    if settings.alert_notifier is None:
        return None
    module, _, name = settings.alert_notifier.rpartition(".")
    arguments = {
        key: value.replace(PLACEHOLDER, message) if isinstance(value, str) else value
        for key, value in settings.alert_arguments.items()
    }
    try:
        notifier = getattr(import_module(module), name)(**arguments)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise SettingsError(f"ALERT_NOTIFIER={settings.alert_notifier} with ALERT_ARGUMENTS: {error}") from None
    if not isinstance(notifier, BaseNotifier):
        raise SettingsError(f"ALERT_NOTIFIER={settings.alert_notifier}: not a notifier of Airflow")
    return notifier
