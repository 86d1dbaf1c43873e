"""The project as its documents describe it: layout, glossary, names and prose."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.language import docstrings_of, is_riddle, measure

ROOT = Path(__file__).parents[1]
PACKAGES = ("assets", "contexts", "tips", "serving", "local")
FOLDERS = (*PACKAGES, "airflow")
MAX_RELATIVES_PER_100_WORDS = 2.3
MAX_RIDDLE_SHARE = 0.01


def modules(folder: Path) -> Iterator[Path]:
    """All modules below a folder; `__init__.py` is part of its package."""
    return (path for path in sorted(folder.rglob("*.py")) if path.name != "__init__.py")


def modules_in_the_tree() -> dict[str, set[str]]:
    """The names of modules by folder."""
    listed: dict[str, set[str]] = defaultdict(set)
    for folder in FOLDERS:
        for path in modules(ROOT / folder):
            listed[path.parent.relative_to(ROOT).as_posix()].add(path.stem)
        for path in (ROOT / folder).rglob("__init__.py"):
            listed.setdefault(path.parent.relative_to(ROOT).as_posix(), set())
    return listed


def modules_in_the_page() -> dict[str, set[str]]:
    """The names of modules by folder, as the layout in docs/architecture.md lists them."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    [block] = re.findall(r"## The packages\n\n```\n(.*?)```", page, re.DOTALL)
    listed: dict[str, set[str]] = {}
    package = folder = ""
    for line in block.splitlines():
        name, text = line[:24].strip(), line[24:]
        if not line.startswith(" "):  # a package, with a few words on it
            package = name.rstrip("/")
            listed[package] = set()
            continue
        if name:
            folder = package if name == "." else f"{package}/{name.rstrip('/')}"
        listed.setdefault(folder, set()).update(text.split())
    return listed


def test_the_layout_equals_the_tree() -> None:
    """docs/architecture.md shows every module in its folder, and no module that does not exist."""
    page, tree = modules_in_the_page(), modules_in_the_tree()
    tree = {folder: names for folder, names in tree.items() if names or folder in page}
    page = {folder: names for folder, names in page.items() if names or folder in tree}
    assert page == tree


def test_the_readers_path_exists() -> None:
    """Every file and folder that docs/architecture.md names exists."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    path = page.split("## A path for the first reading")[1]
    folder, missing = "", []
    for name in re.findall(r"`([\w./]+)`", path):
        if "/" in name:
            folder = name.rsplit("/", 1)[0]
        target = ROOT / name if "/" in name else ROOT / folder / name
        if not target.exists():
            missing.append(name)
    assert missing == []


def terms() -> list[tuple[str, str, str]]:
    """The rows of docs/glossary.md: term, path of the linked module, name to find in it."""
    page = (ROOT / "docs" / "glossary.md").read_text()
    rows = re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \| \[`(.+?)`\]\(\.\./(.+?)\) \|$", page, re.MULTILINE)
    return [(term, path, name) for term, _, name, path in rows]


def test_the_glossary_has_about_fifty_terms() -> None:
    """docs/glossary.md defines about 50 terms, each once, and every row of its table is well formed."""
    page = (ROOT / "docs" / "glossary.md").read_text()
    names = [term for term, _, _ in terms()]
    assert 45 <= len(names) <= 65
    assert len(names) == len(set(names))
    assert len(names) == len(re.findall(r"^\| \*\*", page, re.MULTILINE))


@pytest.mark.parametrize(("term", "path", "name"), terms(), ids=lambda value: str(value).replace(" ", "-"))
def test_a_term_exists(term: str, path: str, name: str) -> None:
    """The module that the glossary links defines the name that stands for the term, and does not only import it."""
    assert name in defined_names(ast.parse((ROOT / path).read_text())), f"{term}: {name} is not defined in {path}"


def defined_names(tree: ast.Module) -> Iterator[str]:
    """All classes, functions, parameters, fields, variables and attributes that a module defines."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


@pytest.mark.parametrize("package", PACKAGES)
def test_a_public_name_has_one_home(package: str) -> None:
    """No two modules of a package define the same public class, function or constant."""
    homes: dict[str, list[str]] = defaultdict(list)
    for path in modules(ROOT / package):
        if path.stem != "__main__":  # every entry point has a main(), and only tests and benchmarks import one
            for name in set(public_names(path)):
                homes[name].append(path.relative_to(ROOT).as_posix())
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def public_names(path: Path) -> Iterator[str]:
    """The names that a module defines at its top level, without private ones and the logger."""
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names = [name]
            case ast.Assign(targets=targets):
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case _:
                names = []
        yield from (name for name in names if not name.startswith("_") and name not in ("log", "main"))


@pytest.mark.parametrize("folder", [*FOLDERS, "tests", "benchmarks"])
def test_no_docstring_begins_as_a_riddle(folder: str) -> None:
    """At most one docstring in a hundred begins with Who, Which, What, Where, Those or So."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    docstrings = [text for path in paths for text in docstrings_of(ast.parse(path.read_text()))]
    riddles = [text.splitlines()[0] for text in docstrings if is_riddle(text)]
    assert len(riddles) <= MAX_RIDDLE_SHARE * len(docstrings), riddles


@pytest.mark.parametrize("folder", FOLDERS)
def test_prose_has_few_free_relatives(folder: str) -> None:
    """Of 100 words in docstrings at most 2.3 are who, which, what, where, those or so."""
    assert measure(ROOT / folder).relatives_per_100 <= MAX_RELATIVES_PER_100_WORDS


@pytest.mark.parametrize(
    ("text", "expected"), [("What it is.", True), ("  Those left.", True), ("The whole.", False)]
)
def test_a_riddle_is_recognised(text: str, expected: bool) -> None:
    """A docstring is a riddle if its first word is a relative pronoun, not if that only begins like one."""
    assert is_riddle(text) == expected
