"""Output that the benchmarks share: the folder of their files, tables and progress lines."""

from __future__ import annotations

from collections.abc import Callable

from rich.box import SIMPLE_HEAD
from rich.table import Table

from local.paths import ROOT

LOCAL_FOLDER = ROOT / ".local"
"""The folder for figures and temporary data; git ignores it."""

PrintLine = Callable[[str], None]
"""Prints one line of progress."""


def numbers_table(title: str, first_column: str, *columns: str) -> Table:
    """An empty table; all columns but the first are right-aligned."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(first_column, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
