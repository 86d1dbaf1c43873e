"""Alerts about runs that failed or are late."""

from __future__ import annotations

from pathlib import Path

import pytest

from contexts.settings import Settings
from include.alerts import failure_notifier, notifier_problem, report_late


@pytest.mark.parametrize(
    ("notifier", "arguments", "problem"),
    [
        ("nowhere.Notifier", "{}", "there is no such class (No module named 'nowhere')"),
        ("Notifier", "{}", "there is no such class"),
        ("pathlib.Path", "{}", "it is not a notifier of Airflow. Nobody is notified"),
        ("file_notifier.FileNotifier", "{to: me}", "ALERT_ARGUMENTS is not JSON"),
        ("file_notifier.FileNotifier", "[]", "ALERT_ARGUMENTS is not a JSON object"),
        ("file_notifier.FileNotifier", '{"to": "me"}', "it refuses ALERT_ARGUMENTS: "),
    ],
)
def test_wrong_notifiers(notifier: str, arguments: str, problem: str, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong notifier costs only the notification: an error in the log names the setting and the remedy."""
    settings = Settings(alert_notifier=notifier, alert_arguments=arguments)
    assert failure_notifier("embed_tasks", settings) is None
    assert caplog.messages == [notifier_problem(settings)]
    assert caplog.messages[0].startswith(f"ALERT_NOTIFIER={notifier}: {problem}")
    assert caplog.messages[0].endswith("or unset ALERT_NOTIFIER.")


def test_a_notifier_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notifier whose module raises an error of any kind costs only the notification."""
    (tmp_path / "broken_notifier.py").write_text("raise RuntimeError('no key')\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = Settings(alert_notifier="broken_notifier.Notifier")
    assert failure_notifier("embed_tasks", settings) is None
    assert "(no key)" in str(notifier_problem(settings))


def test_late_runs_are_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late run is in the log, also if its notifier is wrong."""
    monkeypatch.setenv("ALERT_NOTIFIER", "nowhere.Notifier")
    report_late("embed_tasks", 60)
    late, wrong = caplog.messages
    assert late.startswith("embed_tasks has not finished in 60 minutes")
    assert wrong.startswith("ALERT_NOTIFIER=nowhere.Notifier: ")


def test_no_problem_without_a_notifier() -> None:
    """Without a notifier, or with a right one, there is nothing to say."""
    assert notifier_problem(Settings()) is None
    assert notifier_problem(Settings(alert_notifier="file_notifier.FileNotifier", alert_arguments=_ARGUMENTS)) is None


_ARGUMENTS = '{"path": "told", "text": "{message}"}'
