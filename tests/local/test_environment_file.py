"""The file with the variables of a local run."""

from __future__ import annotations

import subprocess
from pathlib import Path

from local.environment_file import EnvironmentFile, forget_last_run, write_environment


def test_environment_file(tmp_path: Path) -> None:
    """A shell reads the variables unchanged, and only the owner can read the file, even if it existed before."""
    path, values = tmp_path / "environment", {"URL": "postgres://a?host=/b c", "KEY": "it's $HOME"}
    path.write_text("old")
    path.chmod(0o644)
    write_environment(path, values)
    assert path.stat().st_mode & 0o077 == 0
    printed = subprocess.run(
        ["bash", "-c", f'set -a; . "{path}"; printf "%s\\n" "$URL" "$KEY"'],
        check=True,
        capture_output=True,
        text=True,
    )
    assert printed.stdout.splitlines() == list(values.values())


def test_shell_with_the_environment(tmp_path: Path) -> None:
    """A shell that reads the file finds the programs first, also below a folder with a space in its name."""
    programs = tmp_path / "a folder" / "bin"
    programs.mkdir(parents=True)
    (programs / "airflow").write_text("#!/bin/sh\necho started with $PORT\n")
    (programs / "airflow").chmod(0o755)
    path = programs.parent / "environment"
    file = EnvironmentFile(path, programs)
    file.add({"PORT": "1"})
    file.add({"PORT": "2", "TOKEN": "t"})
    command = f'set -a; . "{path}"; set +a; airflow'
    done = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True)
    assert done.stdout == "started with 2\n"


def test_next_run_in_such_a_shell(tmp_path: Path) -> None:
    """A run forgets what its shell has from the last run's file, and keeps what the reader has set since."""
    path = tmp_path / "environment"
    EnvironmentFile(path, tmp_path).add({"LLM_MODEL": "openai-chat:local", "N_SHARDS": "2"})
    shell = {"LOCAL_RUN": str(path), "LLM_MODEL": "openai-chat:local", "N_SHARDS": "4", "HOME": "/root"}
    forget_last_run(path, shell)
    assert shell == {"N_SHARDS": "4", "HOME": "/root"}
    own = {"LLM_MODEL": "openai-chat:local"}
    forget_last_run(path, own)
    assert own == {"LLM_MODEL": "openai-chat:local"}
