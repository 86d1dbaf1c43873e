"""All rows of the matrix, in the order in which they run."""

from __future__ import annotations

from faults import (
    database,
    files,
    kills,
    outages,
    runs,
    scheduler,
    service_accounts,
    service_edge,
    service_llm,
    service_load,
    service_rows,
    service_traffic,
)

PIPELINE_ROWS = (*kills.ROWS, *runs.ROWS, *database.ROWS, *files.ROWS, *outages.ROWS, *scheduler.ROWS)
SERVICE_ROWS = (
    *service_load.ROWS,
    *service_accounts.ROWS,
    *service_edge.ROWS,
    *service_llm.ROWS,
    *service_rows.ROWS,
    *service_traffic.ROWS,
)
ALL_ROWS = (*PIPELINE_ROWS, *SERVICE_ROWS)
