"""What an Airflow that somebody else starts finds on this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from local import services
from local.cast import chosen
from local.services import FolderTaken, write_environment


def test_one_run_a_folder(tmp_path: Path) -> None:
    """While one run has its files in a folder, another one is refused before it touches any of them."""
    with chosen({"USERS": "1"}) as cast, services.running(cast, tmp_path, print) as first:
        (tmp_path / "data").mkdir()
        with pytest.raises(FolderTaken, match="End it first"), services.running(cast, tmp_path, print):
            pass
        assert (tmp_path / "data").is_dir()
        assert first.connection.execute("SELECT count(*) FROM todoist_accounts").fetchone() == (1,)
    with chosen({"USERS": "2"}) as cast, services.running(cast, tmp_path, print) as second:
        assert not (tmp_path / "data").exists()
        assert second.connection.execute("SELECT count(*) FROM todoist_accounts").fetchone() == (2,)


def test_an_environment_for_the_shell(tmp_path: Path) -> None:
    """Variables come back from the file as they were; only its owner reads it, whatever stood there before."""
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
