from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from assets.asset import Output, Users, asset
from assets.graph import Graph
from assets.materialize import materialize
from assets.parquet import Shards
from assets.records import Record, from_plain, to_plain, total

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LETTERS = pa.schema([("user_id", pa.string()), ("text", pa.string())])


class Outside:
    text = "hello"


@asset(step="fetch", schema=LETTERS, code_version="1")
def letters(users: Users, outside: Outside) -> Output:
    """Two letters for each user, of which it counts the calls."""
    rows = [{"user_id": user, "text": f"{outside.text} {n}"} for user in users for n in (1, 2)]
    return Output(pa.Table.from_pylist(rows, schema=LETTERS), counts={"calls": len(users), "failures": 0})


def record(**facts: Any) -> Record:
    known: dict[str, Any] = {
        "asset": "letters",
        "shard": 0,
        "reason": "data",
        "changed": True,
        "data_version": "v",
        "n_rows": 20,
        "n_users": 10,
        "n_users_changed": 3,
        "seconds": 0.5,
    }
    return Record(**{**known, **facts})


def test_a_run_is_told(tmp_path: Any) -> None:
    """A run tells asset, shard, reason, rows, users, its own counts, and whether the data is another one now."""
    shards, outside = Shards(str(tmp_path), 1), Outside()

    def run() -> Record:
        users = {"ann": NOON, "bob": NOON}
        (told,) = materialize(Graph.of([letters]), shards, resources={Outside: outside}, now=NOON, users=users)
        return told

    first = run()
    assert (first.asset, first.shard, first.reason, first.changed) == ("letters", 0, "observe", True)
    assert (first.n_rows, first.n_users, first.n_users_changed) == (4, 2, 2)
    assert first.counts == {"calls": 2, "failures": 0}
    assert first.seconds > 0
    footer = shards.footer(letters, 0)
    assert footer
    assert first.data_version == footer.data_version
    assert (run().changed, run().data_version) == (False, first.data_version)
    outside.text = "good bye"
    assert run().changed
    assert not run().changed


def test_a_record_travels_as_json() -> None:
    """A record that was sent as JSON, as Airflow does, is what it was."""
    sent = record(counts={"calls": 5}, reason="forced", seconds=0.125)
    assert from_plain(json.loads(json.dumps(to_plain(sent)))) == sent


def test_totals_of_nothing() -> None:
    """No records add up to zeros, so that a run with nothing to do still has its numbers."""
    assert total([]) == {"n_shards_run": 0, "n_shards_changed": 0, "n_users_changed": 0}


def test_totals_are_sums() -> None:
    """Shards, changed shards, computed users and an asset's own counts add up, zeros included."""
    records = [
        record(counts={"calls": 5, "failures": 0}),
        record(shard=1, changed=False, n_users_changed=0, counts={"calls": 2, "failures": 0}),
        record(shard=2, counts={"late": 1}),
    ]
    assert total(iter(records)) == {
        "n_shards_run": 3,
        "n_shards_changed": 2,
        "n_users_changed": 6,
        "calls": 7,
        "failures": 0,
        "late": 1,
    }
