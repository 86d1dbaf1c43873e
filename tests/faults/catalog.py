"""All rows of the matrix, in the order in which they run."""

from __future__ import annotations

from faults import database, files, kills, outages, runs, scheduler, service_load

ALL_ROWS = (*kills.ROWS, *runs.ROWS, *database.ROWS, *files.ROWS, *outages.ROWS, *scheduler.ROWS, *service_load.ROWS)
