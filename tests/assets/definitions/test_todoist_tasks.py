"""The asset that fetches: its counts, and one user's failure beside the others of the shard."""

from __future__ import annotations

from collections import Counter
from typing import Any

from world import World

from local.todoist import Fault


def totals(world: World) -> Counter[str]:
    """Run a night and return the sums of the asset's counts."""
    counts: Counter[str] = Counter()
    for result in world.night(select=("todoist_tasks",))["todoist_tasks"]:
        counts.update(result.counts)
    return counts


def test_failed_calls_are_counted(world: World, account: Any) -> None:
    """The counts of calls contain those of users who were not fetched: refused, unavailable or unreadable."""
    for user in ("ann", "bob", "cem", "dan"):
        world.add(user, account("call the dentist"))
    world.todoist.revoke("bob")
    world.todoist.fail("cem", Fault.server_error(521), Fault.rate_limited(600))
    world.todoist.fail("dan", Fault.deep_json())
    counts = totals(world)
    assert (counts["users_fetched"], counts["users_failed"], counts["users_refused"]) == (1, 3, 1)
    assert counts["todoist_calls"] == counts["todoist_calls_full"] == 5 == len(world.todoist.calls)
    assert counts["todoist_calls_incremental"] == 0


def test_an_unreadable_user_leaves_the_others(world: World, account: Any) -> None:
    """A user whose document exhausts the parser keeps the rows, and everybody else is fetched."""
    for user in ("ann", "bob", "cem"):
        world.add(user, account("call the dentist"))
    totals(world)
    for user in ("ann", "bob", "cem"):
        world.todoist.advance(user, {"items": [{"id": "n", "content": "buy milk"}]})
    world.todoist.fail("bob", Fault.deep_json())
    assert totals(world)["users_failed"] == 1
    assert Counter(row["user_id"] for row in world.rows("todoist_tasks")) == {"ann": 2, "bob": 1, "cem": 2}
    totals(world)
    assert Counter(row["user_id"] for row in world.rows("todoist_tasks")) == {"ann": 2, "bob": 2, "cem": 2}
