"""The services for an Airflow that is started separately."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contexts.settings import Settings
from contexts.themes.universal_encoder import UniversalEncoder, new_embedder
from local.scenario import scenario_from_environment
from local.services import run_settings


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
