"""`python -m benchmarks.language [FOLDER]`: how plain the code's language is, package by package.

Counts who, which, what, where, those and so in docstrings, also those below constants: most free relatives ("what was
fetched", "those who ask"), the mark of prose that has to be read twice, contain one. Also measures the length of
functions.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

PACKAGES = ("assets", "contexts", "tips", "serving", "local", "airflow", "benchmarks", "tests")

_RELATIVES = re.compile(r"\b(who|which|what|where|those|so)\b", re.IGNORECASE)
_RIDDLE_START = re.compile(r"(Who|Which|What|Where|Those|So|Whom|Whose|Whoever|Whatever)\b")


@dataclass(frozen=True)
class Measures:
    """The measures of one package.

    relatives_per_100: of who, which, what, where, those, so in 100 words of docstrings. riddle_share: docstrings that
    begin with such a word. function_lines: median lines of a function. long_share: functions of more than 30 lines.
    """

    n_docstrings: int
    n_words: int
    relatives_per_100: float
    riddle_share: float
    function_lines: float
    long_share: float


def measure(folder: Path) -> Measures:
    """Measure all Python files below a folder."""
    trees = [ast.parse(path.read_text()) for path in sorted(folder.rglob("*.py"))]
    docstrings = [text for tree in trees for text in docstrings_of(tree)]
    n_words = sum(len(text.split()) for text in docstrings)
    n_relatives = sum(len(_RELATIVES.findall(text)) for text in docstrings)
    lines = [(node.end_lineno or node.lineno) - node.lineno + 1 for tree in trees for node in _functions(tree)]
    return Measures(
        n_docstrings=len(docstrings),
        n_words=n_words,
        relatives_per_100=100 * n_relatives / max(1, n_words),
        riddle_share=sum(map(is_riddle, docstrings)) / max(1, len(docstrings)),
        function_lines=median(lines) if lines else 0,
        long_share=sum(n > 30 for n in lines) / max(1, len(lines)),
    )


def docstrings_of(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of a module, its classes, functions and constants."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            text := ast.get_docstring(node)
        ):
            yield text
        if isinstance(node, ast.Module | ast.ClassDef):
            yield from _constant_docstrings(node.body)


def is_riddle(docstring: str) -> bool:
    """Whether a docstring begins with a free relative ("What the night left behind")."""
    return _RIDDLE_START.match(docstring.lstrip()) is not None


def _constant_docstrings(body: Iterable[ast.stmt]) -> Iterator[str]:
    for statement, following in pairwise(body):
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(following, ast.Expr):
            value = following.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def main() -> None:
    """Print a table of the packages below a folder, by default the project's."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    print("who/which/...: also what, where, those, so; per 100 words of docstrings. Goal: at most 2.3")
    print("begin so: docstrings that begin with one of these words. Goal: at most 1 %")
    print("lines: the median length of a function; > 30 lines: the share of longer functions")
    print(
        f"{'package':12}{'docstrings':>11}{'words':>8}{'who/which/...':>15}{'begin so':>10}"
        f"{'lines':>7}{'> 30 lines':>12}"
    )
    for name in PACKAGES:
        if (root / name).is_dir():
            measures = measure(root / name)
            print(
                f"{name:12}{measures.n_docstrings:>11}{measures.n_words:>8}{measures.relatives_per_100:>15.1f}"
                f"{measures.riddle_share:>10.1%}{measures.function_lines:>7.0f}{measures.long_share:>12.1%}"
            )


if __name__ == "__main__":
    main()
