from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

from toy import ToyPipeline

from assets.engine.results import ShardResult, total


def result_of(**facts: Any) -> ShardResult:
    defaults: dict[str, Any] = {
        "asset": "letters",
        "shard": 0,
        "reason": "data",
        "changed": True,
        "data_version": "v",
        "n_rows": 20,
        "n_users": 10,
        "n_users_computed": 3,
        "seconds": 0.5,
    }
    return ShardResult(**{**defaults, **facts})


def test_a_run_returns_results() -> None:
    """A result holds asset, shard, reason, rows, users, the asset's own counts, and whether the data changed."""
    pipeline = ToyPipeline()
    pipeline.use("letters")
    for user in ("ann", "bob"):
        for letter_id in ("l1", "l2"):
            pipeline.post_office.write(user, letter_id, "hello")
    (first,) = pipeline.run()
    assert (first.asset, first.shard, first.reason, first.changed) == ("letters", 0, "observe", True)
    assert (first.n_rows, first.n_users, first.n_users_computed) == (4, 2, 2)
    assert first.counts == {"calls": 2, "letters_read": 4}
    assert first.seconds > 0
    assert first.data_version == pipeline.footer("letters").data_version
    (second,) = pipeline.run()
    assert (second.changed, second.data_version) == (False, first.data_version)
    pipeline.post_office.write("ann", "l1", "good bye")
    assert [pipeline.run()[0].changed for _ in range(2)] == [True, False]


def test_a_result_travels_as_json() -> None:
    """A result sent as JSON, as Airflow does, is equal to the original."""
    result = result_of(counts={"calls": 5}, reason="forced", seconds=0.125)
    assert ShardResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    counter = replace(result, counts=Counter({"calls": 2}))
    assert ShardResult.from_json(json.loads(json.dumps(counter.to_json()))) == counter


def test_the_total_of_no_results_is_zero() -> None:
    """Without results the sums are zero, but present."""
    assert total([]) == {"n_shards_run": 0, "n_shards_changed": 0, "n_users_computed": 0}


def test_totals_are_sums() -> None:
    """Shards, changed shards, computed users and an asset's own counts are summed, zeros included."""
    results = [
        result_of(counts={"calls": 5, "failures": 0}),
        result_of(shard=1, changed=False, n_users_computed=0, counts={"calls": 2, "failures": 0}),
        result_of(shard=2, counts={"late": 1}),
    ]
    assert total(iter(results)) == {
        "n_shards_run": 3,
        "n_shards_changed": 2,
        "n_users_computed": 6,
        "calls": 7,
        "failures": 0,
        "late": 1,
    }
