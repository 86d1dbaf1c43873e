"""The services for an Airflow that is started separately."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from contexts.settings import Settings
from contexts.themes.universal_encoder import UniversalEncoder, new_embedder
from local.scenario import scenario_from_environment
from local.services import run_settings, write_environment


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


def test_settings_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local run embeds with the multilingual model of a package, unless the environment names another one."""
    for name in [name for name in os.environ if name.startswith("EMBEDDING_")]:
        monkeypatch.delenv(name)
    with scenario_from_environment({"USERS": "3"}) as scenario:
        default = {name.lower(): value for name, value in run_settings(scenario, tmp_path).items()}
        settings = Settings(**default)
        embedder = new_embedder(
            settings.embedding_model,
            revision=settings.revision,
            prompt=settings.embedding_prompt,
            dim=settings.embedding_dim,
            device=settings.embedding_device,
        )
        assert isinstance(embedder, UniversalEncoder)
        monkeypatch.setenv("EMBEDDING_MODEL", "some/folder")
        assert run_settings(scenario, tmp_path)["EMBEDDING_MODEL"] == "some/folder"
        assert "EMBEDDING_DIM" not in run_settings(scenario, tmp_path)
