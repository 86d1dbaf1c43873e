"""Imports for the processes of Airflow that fork tasks: each task finds them done. Airflow imports this module.

Imports only: before a fork there must be no connection, no open file system and no thread.
"""

import sys
from contextlib import suppress
from importlib import import_module

__all__: list[str] = []  # Airflow takes all names of this module for settings of its own

_FORKING_COMMANDS = {"celery", "dag-processor", "scheduler"}
_MODULES = (
    "assets.groups",
    "assets.reports",
    "assets.steps",
    "babel.dates",
    "babel.messages.mofile",
    "babel.messages.pofile",
    "croniter",
    "duckdb",
    "fsspec.implementations.local",
    "httpx",
    "markdown_it",
    "regex",
    "s3fs",
    "scipy.cluster.hierarchy",
    "scipy.spatial.distance",
    "snowballstemmer",
    "stamina",
    "stop_words",
)

if not _FORKING_COMMANDS.isdisjoint(sys.argv[1:2]):
    for name in _MODULES:
        with suppress(ImportError):  # a task that needs it names what is missing
            import_module(name)
