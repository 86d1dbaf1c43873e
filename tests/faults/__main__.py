"""`make faults`: run the matrix. SEED=n draws other random numbers, ROWS=pattern selects rows, QUICK=1 runs less."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])

from faults.catalog import ALL_ROWS  # noqa: E402
from faults.matrix import report, run_rows  # noqa: E402
from faults.trial import Bench  # noqa: E402
from local.postgres import running_postgres  # noqa: E402
from local.services import handle_signals  # noqa: E402

FOLDER = ROOT / ".local" / os.environ.get("FAULTS_FOLDER", "faults")


def main() -> int:
    """Run the selected rows; returns the exit status."""
    seed, pattern = int(os.environ.get("SEED") or 0), re.compile(os.environ.get("ROWS") or "", re.IGNORECASE)
    quick = bool(os.environ.get("QUICK"))
    rows = [row for row in ALL_ROWS if pattern.search(f"{row.place}: {row.fault}") and (row.n_quick or not quick)]
    handle_signals()
    print(f"{len(rows)} of {len(ALL_ROWS)} faults, SEED={seed}", flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    try:
        with (
            running_postgres(FOLDER / "postgres") as server,
            Bench(FOLDER / "data", server, seed, FOLDER / "postgres") as bench,
        ):
            results = run_rows(
                bench, rows, lambda row: row.n_quick if quick else row.n_trials, lambda line: print(line, flush=True)
            )
    except KeyboardInterrupt:
        print("stopped")
        return 130
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    return report(results)


if __name__ == "__main__":
    sys.exit(main())
