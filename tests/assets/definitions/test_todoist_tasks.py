"""The asset that fetches: what counts as a task, and one user's failure beside the others of the shard."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from world import NOON, World

from assets.definitions import GRAPH
from assets.engine.parquet import Footer
from contexts.todoist.accounts import FetchScope
from contexts.todoist.mirror import text_hash
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


def test_no_change(world: World, account: Any) -> None:
    """Rows of users for whom Todoist reports no change stay, unless their time zone or the code has changed since."""
    for user in ("ann", "bob"):
        world.add(user, account("call the dentist", "buy milk"))
    totals(world)
    before = world.rows("todoist_tasks")
    assert totals(world)["todoist_calls_incremental"] == 2
    assert world.rows("todoist_tasks") == before

    world.todoist.advance("ann", {"user": {"id": "1", "tz_info": {"timezone": "Asia/Tokyo"}}})
    totals(world)
    zones = {(row["user_id"], row["timezone"]) for row in world.rows("todoist_tasks")}
    assert zones == {("ann", "Asia/Tokyo"), ("bob", "UTC")}

    store_as_earlier_version(world, "is_by_others")
    assert totals(world)["todoist_calls_incremental"] == 2
    assert {row["is_by_others"] for row in world.rows("todoist_tasks")} == {False}


def context_of(world: World, user: str) -> dict[str, Any]:
    """Return the stored context of a user."""
    context: dict[str, Any] = json.loads(world.stored()[user]["context_json"])
    return context


def test_tasks_of_others(world: World, account: Any) -> None:
    """A colleague's overdue tasks are in no count, theme, vector or view of the user's context."""
    late = {"due": {"date": "2026-11-01"}, "responsible_uid": "colleague", "project_id": "p"}
    items = [{"id": f"c{n}", "content": f"review chapter {n}", **late} for n in range(40)]
    own = {"id": "own", "content": "write the index", "responsible_uid": "1", "project_id": "p"}
    header = {"id": "h", "content": "* Chapters", "project_id": "p"}
    project = {"id": "p", "name": "Book", "is_shared": True}
    world.add("ann", account(*items, own, header, {"id": "free", "content": "call"}, projects=[project]))
    world.night()
    context = context_of(world, "ann")
    assert (context["counts"]["open"], context["counts"]["overdue"], context["themes"]) == (2, 0, [])
    assert {view["id"] for view in context["tasks"]["someday"]} == {"own", "free"}
    assert len(world.rows("todoist_tasks")) == 43
    assert {row["task_id"] for row in world.rows("task_embeddings")} == {"own", "free"}


def test_escaped_links(world: World, account: Any) -> None:
    """Tasks that are nothing but escaped links make no theme that is named after parts of addresses."""
    links = [f"https:&#x2F;&#x2F;example.com&#x2F;a{n}?b=1&amp;c={n}" for n in range(8)]
    world.add("ann", account(*links, *(f"{link} read" for link in links)))
    world.night()
    titles = {row["title"] for row in world.rows("todoist_tasks")}
    assert "https://example.com/a0?b=1&c=0" in titles
    tags = {tag for theme in context_of(world, "ann")["themes"] for tag in theme.get("tags", ())}
    assert tags <= {"read"}


def test_a_reassignment_is_a_change(world: World, account: Any) -> None:
    """A task that is assigned to a colleague leaves the context and the vectors in the next run, and can return."""
    world.add("ann", account("write the index", "call the printer"))
    world.night()
    before = world.stored()["ann"]["context_hash"]
    task = {"id": "t0", "content": "write the index", "added_by_uid": "1"}
    world.todoist.advance("ann", {"items": [task | {"responsible_uid": "2"}]})
    world.night(NOON + timedelta(hours=1))
    assert [row["task_id"] for row in world.rows("task_embeddings")] == ["t1"]
    assert context_of(world, "ann")["counts"]["open"] == 1
    world.todoist.advance("ann", {"items": [task | {"responsible_uid": None}]})
    world.night(NOON + timedelta(hours=2))
    assert world.stored()["ann"]["context_hash"] == before


def test_a_moment_of_change_is_no_change(world: World, account: Any) -> None:
    """A task that Todoist reports again with nothing but a later time of change makes no new data."""
    task = {"id": "t", "content": "call", "added_by_uid": "1"}
    world.add("ann", account(task | {"updated_at": "2026-11-01T00:00:00Z"}))
    world.night()
    world.todoist.advance("ann", {"items": [task | {"updated_at": "2026-11-20T00:00:00Z"}]})
    [result] = [each for each in world.night(NOON + timedelta(hours=1))["todoist_tasks"] if each.n_users]
    assert not result.changed


def test_an_offset_for_a_zone(world: World, account: Any) -> None:
    """A user whose zone is an offset gets the buckets of that offset; one that cannot be read is counted."""
    due = {"id": "t", "content": "call", "due": {"date": "2026-11-23"}}
    offset = {"timezone": "GMT +13:00", "hours": 13, "minutes": 0, "is_dst": 0}
    world.add("ann", account(due, user={"id": "1", "tz_info": offset}), "Europe/Berlin")
    world.add("bob", account(due, user={"id": "1", "tz_info": {"timezone": "GMT ?"}}), "Europe/Berlin")
    counts = totals(world)
    world.night(NOON)
    assert counts["zones_unread"] == 1
    assert (context_of(world, "ann")["profile"]["timezone"], list(context_of(world, "ann")["tasks"])) == (
        "Etc/GMT-13",
        ["overdue"],
    )
    assert context_of(world, "bob")["profile"]["timezone"] == "Europe/Berlin"


def test_a_completion_behind_an_unreadable_item(world: World, account: Any) -> None:
    """An item that cannot be read costs one full fetch, after which its completion is known, and no second one."""
    world.add("ann", account("call", "write"))
    world.night()
    world.todoist.advance("ann", {"items": [{"id": "t0", "content": None}]})
    kinds = []
    for hours in (1, 2, 3):
        counts = Counter[str]()
        for result in world.night(NOON + timedelta(hours=hours))["todoist_tasks"]:
            counts.update(result.counts)
        kinds.append((counts["todoist_calls_incremental"], counts["todoist_calls_full"], counts["items_skipped"]))
    assert kinds == [(1, 0, 1), (0, 1, 1), (1, 0, 0)]
    assert [row["task_id"] for row in world.rows("todoist_tasks")] == ["t1"]


def test_rows_of_an_earlier_version(world: World, account: Any) -> None:
    """Rows stored before tasks had titles keep their tasks until their user is fetched again, and headers no text."""
    world.add("ann", account("call", {"id": "h", "content": "* Header"}))
    world.night()
    before = world.stored()["ann"]
    store_as_earlier_version(world)
    world.add("bob", account("write"))
    world.todoist.fail("ann", *[Fault.server_error(503)] * 9)
    world.night(NOON + timedelta(hours=1))
    after = world.stored()["ann"]
    assert (after["context_hash"], after["fetched_at"]) == (before["context_hash"], before["fetched_at"])
    texts = {row["content"]: (row["text"], row["text_hash"]) for row in world.rows("todoist_tasks")}
    assert (texts["call"], texts["* Header"]) == (("call", text_hash("call")), (None, None))


def test_an_update_of_the_code_before_the_night(world: World, account: Any) -> None:
    """A run that fetches nobody completes the rows of an earlier version, which the later steps could not read."""
    world.add("ann", account("call", {"id": "h", "content": "* Header"}))
    world.night()
    before = world.stored()
    store_as_earlier_version(world)
    n_calls = len(world.todoist.calls)
    world.night(NOON + timedelta(hours=1), scope=FetchScope.LIKELY)
    assert {row["title"] for row in world.rows("todoist_tasks")} == {"call", "Header"}
    assert (world.stored(), len(world.todoist.calls)) == (before, n_calls)
    again = world.night(NOON + timedelta(hours=2), scope=FetchScope.LIKELY)
    assert again["todoist_tasks"] == []


def test_tasks_of_an_earlier_version_are_by_others(world: World, account: Any) -> None:
    """As long as a user is not fetched again, rows without authorship count as those of somebody else."""
    world.add("ann", account("call", projects=[{"id": "p", "name": "Home"}]))
    world.night()
    assert context_of(world, "ann")["tasks"] == {"someday": [{"id": "t0", "shared": True, "title": "call"}]}
    store_as_earlier_version(world, "is_by_others", "is_shared", "is_parent_by_others")
    world.night(NOON + timedelta(hours=1), scope=FetchScope.LIKELY)
    [view] = context_of(world, "ann")["tasks"]["someday"]
    assert view == {"id": "t0", "title": "call", "by_others": True, "shared": True}
    world.night(NOON + timedelta(hours=2))
    assert context_of(world, "ann")["tasks"] == {"someday": [{"id": "t0", "shared": True, "title": "call"}]}


def test_themes_with_a_text_of_others(world: World, account: Any) -> None:
    """A theme with a task that somebody else added is marked until that task leaves the theme; others are not."""
    own = [{"id": f"a{n}", "content": f"paint fence {n}", "project_id": "p"} for n in range(2)]
    mixed = [{"id": f"b{n}", "content": f"call dentist {n}", "project_id": "p"} for n in range(3)]
    others = {"id": "b9", "content": "call dentist nine", "project_id": "p", "added_by_uid": "2"}
    world.add("ann", account(*own, *mixed, others, projects=[{"id": "p", "name": "Home", "is_shared": True}]))
    world.night()

    def marks() -> dict[bool, set[str]]:
        return {theme.get("by_others", False): set(theme["task_ids"]) for theme in context_of(world, "ann")["themes"]}

    assert marks() == {False: {"a0", "a1"}, True: {"b0", "b1", "b2", "b9"}}
    world.todoist.advance("ann", {"items": [{"id": "b9", "checked": True}]})
    world.night(NOON + timedelta(hours=1))
    assert True not in marks()


def store_as_earlier_version(world: World, *missing: str) -> None:
    """Replace the stored rows by those of an earlier version, in which headers had a text and rows no digest.

    missing: the columns that it did not have.
    """
    world.connection.execute("UPDATE todoist_accounts SET rows_digest = NULL")
    asset = GRAPH["todoist_tasks"]
    missing = missing or ("title", "is_actionable", "parent")
    old = pa.schema([field for field in asset.schema if field.name not in missing])
    for shard in range(world.n_shards):
        with world.shards.open(asset, shard) as opened:
            if opened is None:
                continue
            footer, table = opened.footer, opened.read(old.names)
        contents = table["content"].to_pylist()
        for name, values in {"text": contents, "text_hash": list(map(text_hash, contents))}.items():
            table = table.set_column(old.get_field_index(name), old.field(name), pa.array(values))
        columns = {name: version for name, version in footer.columns.items() if name in old.names}
        index = replace(footer.index, input_digests=np.zeros_like(footer.index.input_digests))
        older = Footer.from_index(asset, shard, world.n_shards, index, {"code": "1"}, {}, footer.materialized_at)
        world.shards.write(asset, table, replace(older, columns=columns))
