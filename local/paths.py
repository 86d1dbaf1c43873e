"""The project folder, and paths as they are printed."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The project folder."""

PROGRAMS = Path(sys.executable).parent
"""The folder of the programs of the virtual environment."""


def display_path(path: Path) -> Path:
    """A path relative to the project folder if it is inside it, else the path itself."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
