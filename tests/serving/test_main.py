"""`python -m serving`, as operators start and end it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from service import ServiceHarness

from contexts.todoist.credentials import new_key
from local.service import running_service
from serving.__main__ import main

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-16-and-more"
PASSWORD = "canary-4711"


@pytest.fixture
def environment(database_url: str, connection: psycopg.Connection[Any]) -> dict[str, str]:
    """The required variables of a service without an LLM."""
    return {
        "DATABASE_URL": database_url,
        "CREDENTIALS_KEYS": new_key(),
        "SERVICE_TOKENS": TOKEN,
        "SERVING_PORT": "0",
        "REQUEST_BUDGET": "1.5",
    }


@pytest.fixture
def start_error(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """A function that starts the service with some variables changed (None: not set) and returns its error output."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "LLM_MODEL"):
        monkeypatch.delenv(name, raising=False)

    def start(**changed: str | None) -> str:
        for name, value in {**environment, **changed}.items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            assert main() == 1
        finally:
            signal.signal(signal.SIGTERM, handler)
        return capsys.readouterr().err

    return start


class TestRefused:
    @pytest.mark.parametrize("name", ["SERVICE_TOKENS", "DATABASE_URL", "CREDENTIALS_KEYS"])
    def test_not_set(self, start_error: Any, name: str) -> None:
        """A missing setting is named with its description."""
        assert start_error(**{name: None}).startswith(f"{name}: not set. ")

    @pytest.mark.parametrize(
        ("name", "value", "why"),
        [
            ("SERVICE_TOKENS", "short", "a token of fewer than 16 characters can be guessed"),
            ("SERVING_PORT", "99999", "must be less than or equal to 65535"),
            ("REQUEST_BUDGET", "soon", "'soon' is not a number"),
            ("FRESHNESS_SLA", "six hours", "'six hours' is not a duration such as 01:30:00"),
            ("TODOIST_API_URL", "ftp://todoist", "must match the pattern"),
            ("DATABASE_URL", "mysql://localhost", "must match the pattern"),
            ("DATABASE_URL", f"postgresql://u:{PASSWORD}%@localhost/x", "not a URL that Postgres can read"),
            ("DATABASE_URL", f"postgresql://u:{PASSWORD}@127.0.0.1:port/x", "its port is not a number"),
            (
                "DATABASE_URL",
                f"postgresql://u:{PASSWORD}@127.0.0.1/x?sslmode=odd",
                "`sslmode` parameter must be one of",
            ),
            (
                "DATABASE_URL",
                f"postgresql://u:{PASSWORD}@127.0.0.1:1/x",
                "Postgres cannot be reached, or refuses the service",
            ),
            (
                "DATABASE_URL",
                f"postgresql://u:{PASSWORD}@no.host.invalid/x",
                "Postgres cannot be reached, or refuses the service",
            ),
            ("CREDENTIALS_KEYS", PASSWORD, "CREDENTIALS_KEYS contains a value that is not a Fernet key"),
            ("LLM_MODEL", "gpt", "LLM_MODEL=gpt: expected provider:model"),
            ("LLM_MODEL", "nobody:gpt", "LLM_MODEL=nobody:gpt: "),
            ("LLM_MODEL", "openai:gpt-5-mini", "OPENAI_API_KEY"),
            ("LLM_MODEL", "anthropic:claude-haiku-4-5", "ANTHROPIC_API_KEY"),
        ],
    )
    def test_wrong(self, start_error: Any, name: str, value: str, why: str) -> None:
        """A wrong setting is named with the expected value, in one sentence and without a secret."""
        message = start_error(**{name: value})
        assert message.startswith(name)
        assert why in message
        assert PASSWORD not in message
        assert "Traceback" not in message

    def test_several(self, start_error: Any) -> None:
        """All wrong settings are named."""
        message = start_error(SERVING_PORT="-1", LLM_TIMEOUT="never", TODOIST_TIMEOUT="0")
        assert sorted(line.partition(":")[0] for line in message.splitlines()) == [
            "LLM_TIMEOUT",
            "SERVING_PORT",
            "TODOIST_TIMEOUT",
        ]

    def test_contradicting(self, start_error: Any) -> None:
        """Two settings that contradict each other are named with both values."""
        message = start_error(REVALIDATE_AFTER="07:00:00")
        assert message.startswith("REVALIDATE_AFTER=7:00:00 is longer than FRESHNESS_SLA=6:00:00")

    def test_no_such_database(self, start_error: Any, database_url: str) -> None:
        """A missing database is reported in Postgres' words."""
        message = start_error(DATABASE_URL=database_url.replace("serving_test_main", "nowhere"))
        assert (
            message
            == 'DATABASE_URL: Postgres cannot be reached, or refuses the service: database "nowhere" does not exist\n'
        )

    def test_silent_database(self, start_error: Any) -> None:
        """A Postgres that accepts the connection but does not answer is given up within a request's budget."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            message = start_error(DATABASE_URL=f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/x")
        assert message == "DATABASE_URL: Postgres cannot be reached, or refuses the service: TimeoutError\n"


class TestProcess:
    def test_missing_settings(self, database_url: str) -> None:
        """A process without settings ends with status 1 and a sentence for each required one, of all groups."""
        ended = subprocess.run(
            [sys.executable, "-m", "serving"], cwd=ROOT, env=bare({}), capture_output=True, text=True, timeout=60
        )
        assert (ended.returncode, ended.stdout) == (1, "")
        assert [line.split(". ")[0] for line in ended.stderr.splitlines()] == [
            f"{name}: not set" for name in ("SERVICE_TOKENS", "DATABASE_URL", "CREDENTIALS_KEYS")
        ]

    @pytest.mark.parametrize("n_processes", ["1", "2"])
    def test_port_in_use(self, environment: dict[str, str], n_processes: str) -> None:
        """A port in use ends the process with a sentence that names the setting."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = str(other.getsockname()[1])
            ended = subprocess.run(
                [sys.executable, "-m", "serving"],
                cwd=ROOT,
                env=bare({**environment, "SERVING_PORT": port, "SERVING_WORKERS": n_processes}),
                capture_output=True,
                text=True,
                timeout=60,
            )
        assert ended.returncode == 1
        assert ended.stderr == (
            f"SERVING_PORT={port}: cannot listen on 127.0.0.1: it is in use by another process. End the other process"
            " or set another port.\n"
        )
        assert "Traceback" not in ended.stderr

    @pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM], ids=lambda sign: sign.name)
    def test_ended(
        self, environment: dict[str, str], connection: psycopg.Connection[Any], tmp_path: Path, sign: signal.Signals
    ) -> None:
        """A process ended by a signal exits with status 0, and leaves no connection."""
        with running_service(environment, tmp_path / "log") as service:
            assert httpx.get(f"{service.url}/readyz").text == "ready\n"
            os.kill(service.pid, sign)
            assert os.waitstatus_to_exitcode(os.waitpid(service.pid, 0)[1]) == 0
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{service.url}/healthz")
        others = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert connection.execute(others).fetchone() == (0,)
        log = (tmp_path / "log").read_text()
        assert "Finished server process" in log
        assert "Traceback" not in log

    def test_ended_behind_an_answer(
        self, harness: ServiceHarness, account: Any, environment: dict[str, str], tmp_path: Path
    ) -> None:
        """A process that is told to end while the LLM writes behind an answer waits for the tips and stores them."""
        harness.llm.seconds = 1.0
        harness.add_with_context(
            "ann", account("water the plants", "call bob"), at=datetime.now(UTC)
        )  # no fetch is due
        with_llm = {"LLM_MODEL": "openai-chat:local", "LLM_FIRST_WAIT": "0", "CREDENTIALS_KEYS": harness.world.key}
        with running_service({**environment, **with_llm}, tmp_path / "log") as service:
            body, _ = service.tip("ann")
            assert body["llm"] == "fallback"
            harness.until(lambda: harness.llm.calls)
            os.kill(service.pid, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(service.pid, 0)[1]) == 0
        assert harness.rows("SELECT origin FROM candidate_sets ORDER BY made_at") == [("rules",), ("behind",)]
        assert harness.rows("SELECT outcome, place FROM llm_calls") == [("answered", "behind")]


def bare(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process that inherits only PATH and HOME."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environment}
