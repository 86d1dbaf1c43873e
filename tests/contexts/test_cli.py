"""Command lines: exit statuses and output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer

from contexts import cli

REPOSITORY = Path(__file__).parents[2]


class KnownError(Exception):
    """An error that the command line reports."""


def build_app() -> typer.Typer:
    app = cli.new_app("A test app.")

    @app.command()
    def greet(name: str, times: Annotated[int, typer.Option(help="How often.")] = 1) -> None:
        """Greet somebody."""
        typer.echo(f"hello {name}\n" * times, nl=False)

    @app.command()
    def fail(kind: str) -> None:
        """Raise an error."""
        raise {"known": KnownError("broken"), "unknown": KeyError("x"), "interrupt": KeyboardInterrupt()}[kind]

    return app


def run(*arguments: str, **options: str) -> int:
    return cli.run(build_app(), "python -m app", errors=(KnownError,), arguments=arguments, **options)


def test_success(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that returns has exit status 0."""
    assert run("greet", "ann", "--times", "2") == 0
    assert capsys.readouterr() == ("hello ann\nhello ann\n", "")


def test_known_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A known error is its message on stderr, with exit status 1."""
    assert run("fail", "known") == 1
    assert capsys.readouterr() == ("", "broken\n")


def test_unknown_error() -> None:
    """Other errors propagate."""
    with pytest.raises(KeyError):
        run("fail", "unknown")


@pytest.mark.parametrize(
    ("options", "line"), [({}, "stopped"), ({"on_interrupt": "stopped: files are whole"}, "stopped: files are whole")]
)
def test_interrupt(capsys: pytest.CaptureFixture[str], options: dict[str, str], line: str) -> None:
    """Ctrl-C prints one line to stderr, with exit status 130."""
    assert run("fail", "interrupt", **options) == 130
    assert capsys.readouterr() == ("", f"{line}\n")


@pytest.mark.parametrize(
    "arguments", [(), ("dance",), ("greet",), ("greet", "ann", "--times", "x"), ("greet", "--y")]
)
def test_usage_error(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    """A usage error shows the usage and the fault on stderr, with exit status 2."""
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: python -m app ")
    assert "\nError: " in err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Help is on stdout, with exit status 0."""
    assert run("--help") == 0
    out, err = capsys.readouterr()
    assert out.startswith("Usage: python -m app ")
    assert "A test app." in out
    assert "completion" not in out
    assert err == ""


PROGRAM = """
import sys
from contexts import cli

app = cli.new_app("A test app.")

@app.command()
def greet(name: str, times: int = 1) -> None:
    sys.stdin.read()
    for _ in range(times):
        print(f"hello {name}")

sys.exit(cli.run(app, "python -m app", errors=()))
"""


@pytest.mark.parametrize("times", [1, 100_000])
def test_closed_pipe(times: int) -> None:
    """A closed pipe ends the command silently, with exit status 0, however short the output is."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "ann", "--times", str(times)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        process.stdin.close()
        err = process.stderr.read()
        status = process.wait(timeout=60)
    assert (status, err) == (0, b"")


def test_arguments_of_the_process() -> None:
    """Without `arguments` those of the process are used."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "bob"],
        cwd=REPOSITORY,
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello bob\n", "")
