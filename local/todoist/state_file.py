"""The file in which a stand-in for Todoist keeps users, objects and tokens, so that a later one goes on with them."""

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TABLES = """
    CREATE TABLE IF NOT EXISTS accounts (user TEXT PRIMARY KEY, objects TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS sync_tokens (token TEXT PRIMARY KEY, user TEXT NOT NULL, revision INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS grants (number INTEGER PRIMARY KEY CHECK (number = 1), grants TEXT NOT NULL);
"""


class StateFile:
    """A SQLite file. Each change is written at once, so a process may be killed at any time."""

    def __init__(self, path: Path) -> None:
        """Open the file; create it, readable only by its owner, if it does not exist."""
        path.touch(mode=0o600)
        # The lock of the stand-in guards the connection, which several threads use.
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # A killed process loses nothing by this, only a machine without power does.
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.executescript(_TABLES)

    def put_objects(self, user: str, objects: Mapping[str, Any]) -> None:
        """Add or replace a user's objects. objects: as JSON."""
        self._connection.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?)", (user, json.dumps(objects)))

    def put_sync_token(self, user: str, token: str, revision: int) -> None:
        """Add a sync token that was issued at a revision of the user's objects."""
        self._connection.execute("INSERT OR REPLACE INTO sync_tokens VALUES (?, ?, ?)", (token, user, revision))

    def forget_sync_tokens(self, user: str) -> None:
        """Remove a user's sync tokens."""
        self._connection.execute("DELETE FROM sync_tokens WHERE user = ?", (user,))

    def put_grants(self, grants: Mapping[str, Any]) -> None:
        """Replace all grants. grants: as JSON."""
        self._connection.execute("INSERT OR REPLACE INTO grants VALUES (1, ?)", (json.dumps(grants),))

    def objects(self) -> dict[str, dict[str, Any]]:
        """The objects of each user, as JSON."""
        return {user: json.loads(text) for user, text in self._connection.execute("SELECT * FROM accounts")}

    def sync_tokens(self, user: str) -> dict[str, int]:
        """The revision of each sync token of a user."""
        return dict(self._connection.execute("SELECT token, revision FROM sync_tokens WHERE user = ?", (user,)))

    def grants(self) -> dict[str, Any] | None:
        """All grants, as JSON; None before any were put."""
        row = self._connection.execute("SELECT grants FROM grants").fetchone()
        return json.loads(row[0]) if row else None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
