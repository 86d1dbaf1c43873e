"""The pages of docs/ that a program made, or that a reader runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local.settings_page import PAGE, settings_page

ROOT = Path(__file__).parents[1]
COPIED = ("airflow", "assets", "contexts", "docs", "local", "serving", "sql", "tests", "tips", "pyproject.toml")


def test_settings_are_up_to_date() -> None:
    """docs/settings.md has every setting with its default; if not, run `python -m local.settings_page`."""
    assert PAGE.read_text() == settings_page()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project in which a test may write."""
    for name in COPIED:
        source, target = ROOT / name, tmp_path / "project" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return tmp_path / "project"


def test_an_asset_is_added_as_the_page_says(copy: Path) -> None:
    """With the files of docs/add-an-asset.md, the tests that the page names pass, and the graph has the asset."""
    page = (ROOT / "docs" / "add-an-asset.md").read_text()
    files = re.findall(r"^(?:Add to )?`([\w/.]+)`:\n\n```\w+\n(.*?)```$", page, re.MULTILINE | re.DOTALL)
    assert len(files) == 3
    for name, text in files:
        with (copy / name).open("a") as file:
            file.write(text)
    [arguments] = re.findall(r'^make test ARGS="(.*)"$', page, re.MULTILINE)
    options = ["-q", "-p", "no:cacheprovider", "--basetemp", str(copy / "tmp")]
    run(copy, "pytest", *options, *shlex.split(arguments))
    assert "count_tasks" in run(copy, "assets", "graph")


def run(folder: Path, *arguments: str) -> str:
    """Run a Python module in a folder and return its output, which is the message if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    result = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
