"""The ledger as a table that analysts read: a row for each run and kind of work."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import pyarrow as pa

from contexts.ledger import Page

LEDGER = "ledger"
LEDGER_DAYS = timedelta(days=400)
"""How far back the table goes; Postgres keeps all."""

SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("step", pa.string(), nullable=False),  # 'serving': a day of the request path
        pa.field("started_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("finished_at", pa.timestamp("us", "UTC")),  # null: it did not get to its end
        pa.field("work", pa.string(), nullable=False),
        pa.field("planned", pa.float64()),
        pa.field("done", pa.float64()),
        pa.field("saved", pa.float64()),
        pa.field("seconds", pa.float64()),
    ]
)


def ledger_table(pages: Iterable[Page]) -> pa.Table:
    """A row for each kind of work that a page speaks of."""
    rows = [
        {
            **{name: getattr(page, name) for name in ("run_id", "step", "started_at", "finished_at")},
            "work": work,
            **{name: getattr(page, name).get(work) for name in ("planned", "done", "saved", "seconds")},
        }
        for page in pages
        for work in dict.fromkeys([*page.planned, *page.done, *page.saved])
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
