"""The project folder, and paths as they are printed."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The project folder."""


def display_path(path: Path) -> Path:
    """A path relative to the project folder if it is inside it, else the path itself."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
