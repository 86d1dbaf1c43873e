"""`make notebook HTML=FILE`: run the notebook and write its charts and texts into one file that needs no server.

marimo's own export loads its program from a server on the internet.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_UNREADABLE = "cannot read"
"""Words of an output that says why a chart is missing."""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Tips and the contexts behind them</title>
<style>
body {{ font-family: sans-serif; line-height: 1.5; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
svg {{ max-width: 100%; height: auto; }}
blockquote {{ margin: 1rem 0; padding: 0.2rem 1rem; background: #f3f3f3; }}
</style>
</head>
<body>
{parts}
</body>
</html>
"""


def notebook_page(outputs: Iterable[Any]) -> str:
    """The page for the outputs of the cells: figures become SVG, texts stay HTML, everything else is left out."""
    return _PAGE.format(parts="\n".join(_parts(outputs)))


def run_notebook() -> Iterable[Any]:
    """The outputs of the notebook's cells, in their order."""
    spec = importlib.util.spec_from_file_location("notebook", Path(__file__).with_name("notebook.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    outputs: Iterable[Any] = module.app.run()[0]
    return outputs


def _parts(outputs: Iterable[Any]) -> Iterator[str]:
    for output in outputs:
        if isinstance(output, Figure):
            drawn = StringIO()
            output.savefig(drawn, format="svg")
            svg = drawn.getvalue()
            yield svg[svg.index("<svg") :]  # without the XML declaration
        elif hasattr(output, "text"):  # HTML of marimo
            yield output.text


def main() -> int:
    """Write the page to the file of the command line; returns the exit status."""
    if len(sys.argv) != 2:
        print("Usage: make notebook HTML=FILE", file=sys.stderr)
        return 2
    mpl.use("agg")
    path, outputs = Path(sys.argv[1]), list(run_notebook())
    path.write_text(notebook_page(outputs), encoding="utf-8")
    n_charts = sum(isinstance(output, Figure) for output in outputs)
    n_missing = sum(_UNREADABLE in output.text for output in outputs if hasattr(output, "text"))
    print(
        f"Wrote {path}"
        + (f"; {n_missing} of {n_charts + n_missing} charts could not be drawn, see there" if n_missing else "")
    )
    return 1 if n_missing else 0


if __name__ == "__main__":
    sys.exit(main())
