"""The services for an Airflow that is started separately."""

from __future__ import annotations

import subprocess
from pathlib import Path

from local.services import write_environment


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
