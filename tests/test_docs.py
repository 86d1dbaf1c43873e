"""The documents: their links, and the pages that a program made or that a reader runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from local.postgres import create_database
from local.processes import free_port
from local.settings_page import PAGE, settings_page
from local.todoist import LocalTodoist, running_todoist

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COPIED = ("airflow", "assets", "contexts", "docs", "local", "serving", "sql", "tests", "tips", "pyproject.toml")


def test_settings_are_up_to_date() -> None:
    """docs/settings.md has every setting with its default; if not, run `python -m local.settings_page`."""
    assert PAGE.read_text() == settings_page()


def test_the_readme_is_short() -> None:
    """README.md has at most 150 lines."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link of a page to a file of the project leads to a file, and each anchor to a heading or a mark of it."""
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked.read_text()), target


def anchors(text: str) -> set[str]:
    """The anchors of a page: its headings as GitHub writes them, and its marks."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    names = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return names | set(re.findall(r'<a id="([\w-]+)">', text))


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


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_service_starts_as_the_page_says(
    server: str, todoist: LocalTodoist, account: Any, tmp_path: Path
) -> None:
    """The six commands of docs/serving.md, with a database and a token of the reader's own, end with a tip."""
    page = (ROOT / "docs" / "serving.md").read_text()
    [commands] = re.findall(r"## In six commands.*?```\n(.*?)```", page, re.DOTALL)
    assert len(commands.splitlines()) == 6
    todoist.load("token-of-ann", account("call bob", "buy milk"), user="ann")
    port = str(free_port())
    commands = commands.replace("postgresql://user:password@host/name", shlex.quote(create_database(server, "page")))
    script = commands.replace(":8100/", f":{port}/") + "\nkill -INT $! && wait"
    with running_todoist(todoist) as url:
        environment = {"TODOIST_API_URL": url, "SERVING_PORT": port, "DRAIN_DELAY": "0"}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        result = subprocess.run(
            ["bash", "-c", script],
            cwd=ROOT,
            env={**os.environ, **environment, "PATH": path, "PYTHONPATH": str(ROOT)},
            input="token-of-ann\n",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert '"decision_id"' in result.stdout, result.stdout + result.stderr


def run(folder: Path, *arguments: str) -> str:
    """Run a Python module in a folder and return its output, which is the message if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    result = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
