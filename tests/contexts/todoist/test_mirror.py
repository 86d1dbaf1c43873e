"""The effect of Todoist's responses on a user's mirror."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.todoist.mirror import Directory, Mirror, fold, open_tasks, text_hash
from contexts.todoist.objects import Project, Section

ANN = {"id": "ann"}
CANARY = "canary-4711"


def item(task_id: str, **fields: Any) -> dict[str, Any]:
    return {"id": task_id, "content": f"Task {task_id}", "priority": 1, "labels": [], "due": None, **fields}


def full(*items: Any, **more: Any) -> dict[str, Any]:
    return {"full_sync": True, "sync_token": "s", "items": list(items), "projects": [], "sections": [], **more}


def delta(*items: Any, **more: Any) -> dict[str, Any]:
    return {"full_sync": False, "sync_token": "s", "items": list(items), **more}


def mirror_of(*items: Any, **more: Any) -> Mirror:
    return fold(Mirror(), full(*items, **more)).mirror


class TestFold:
    def test_empty_account(self) -> None:
        """A user without tasks, projects and sections has an empty mirror, and nothing is skipped."""
        folded = fold(Mirror(), full(user={}))
        assert folded.mirror == Mirror()
        assert folded.skipped == ()
        assert not folded.needs_full

    def test_full_response_replaces(self) -> None:
        """Objects that are missing from a full response are removed."""
        before = mirror_of(item("1"), item("2"), projects=[{"id": "p", "name": "Home"}])
        after = fold(before, full(item("2"))).mirror
        assert set(after.tasks) == {"2"}
        assert after.directory.projects == {}

    def test_delta_applies_by_id(self) -> None:
        """An incremental response changes the listed objects and leaves the others."""
        after = fold(mirror_of(item("1"), item("2")), delta(item("2", content="New"), item("3"))).mirror
        assert {key: each.content for key, each in after.tasks.items()} == {"1": "Task 1", "2": "New", "3": "Task 3"}

    def test_full_sync_flag(self) -> None:
        """The flag `full_sync` of the response decides whether it replaces the mirror."""
        before = mirror_of(item("1"))
        assert set(fold(before, {"items": [item("2")]}).mirror.tasks) == {"1", "2"}
        assert set(fold(before, full(item("2"))).mirror.tasks) == {"2"}

    @pytest.mark.parametrize("flag", ["checked", "is_deleted", "is_archived"])
    def test_closed_task(self, flag: str) -> None:
        """A completed, deleted or archived task is removed."""
        after = fold(mirror_of(item("1"), item("2")), delta(item("1", **{flag: True}))).mirror
        assert set(after.tasks) == {"2"}

    @pytest.mark.parametrize("flag", ["checked", "is_deleted"])
    def test_bare_tombstone(self, flag: str) -> None:
        """A tombstone with only an id is a valid item."""
        folded = fold(mirror_of(item("1")), delta({"id": "1", flag: True}))
        assert folded.mirror.tasks == {}
        assert folded.skipped == ()

    def test_reopened_task(self) -> None:
        """A task that is no longer checked is open again."""
        gone = fold(mirror_of(item("1")), delta(item("1", checked=True))).mirror
        assert set(fold(gone, delta(item("1", checked=False))).mirror.tasks) == {"1"}

    def test_recurring_task(self) -> None:
        """Completing a recurring task changes its date."""
        due = {"date": "2026-11-23", "string": "every day", "is_recurring": True}
        after = fold(mirror_of(item("1", due=due)), delta(item("1", due={**due, "date": "2026-11-24"}))).mirror
        assert after.tasks["1"].due_date == "2026-11-24"
        assert after.tasks["1"].is_recurring

    def test_same_item_twice(self) -> None:
        """If an item occurs twice in a response, the later one counts."""
        twice = mirror_of(item("1", content="first"), item("1", content="second"))
        assert {key: each.content for key, each in twice.tasks.items()} == {"1": "second"}

    def test_number_as_id(self) -> None:
        """A numeric id, as in old exports, refers to the same task as its string."""
        after = fold(mirror_of(item("7")), delta({**item("7", content="New"), "id": 7})).mirror
        assert {key: each.content for key, each in after.tasks.items()} == {"7": "New"}

    def test_unknown_fields(self) -> None:
        """Unknown fields are ignored at every level."""
        news = {"is_quantum": True, "nested": {"a": [1, None]}}
        plain = mirror_of(item("1", due={"date": "2026-12-01"}), user={"lang": "de"})
        odd = mirror_of(
            item("1", due={"date": "2026-12-01", **news}, **news), user={"lang": "de", **news}, filters=[news]
        )
        assert odd == plain


class TestInvalidItems:
    @pytest.mark.parametrize(
        ("broken", "why"),
        [
            (None, "not an object"),
            ("text", "not an object"),
            (5, "not an object"),
            ([], "not an object"),
            ({"content": "without an id"}, "id"),
            (item("1") | {"id": None}, "id"),
            (item("1") | {"id": ""}, "id"),
            (item("1") | {"id": True}, "id"),
            (item("1") | {"id": 1.5}, "id"),
            (item("1") | {"id": ["1"]}, "id"),
            (item("9" * 5000), "id"),
            (item("1", content=None), "content"),
            (item("1", content=5), "content"),
            ({"id": "1"}, "content"),
        ],
        ids=str,
    )
    def test_skipped(self, broken: Any, why: str) -> None:
        """An invalid item is skipped and reported with its fault; other items are folded."""
        folded = fold(Mirror(), full(item("a"), broken, item("z")))
        assert set(folded.mirror.tasks) == {"a", "z"}
        assert [reason for _, reason in folded.skipped] == [why]

    def test_skipped_names_the_id(self) -> None:
        """A skipped item is reported by its id."""
        assert fold(Mirror(), full(item("b7", content=None))).skipped == (("b7", "content"),)

    def test_report_contains_no_text(self) -> None:
        """The report of skipped items contains no text of the user."""
        broken = [CANARY, [CANARY], {"content": CANARY}, item("1", content=None, description=CANARY)]
        assert CANARY not in str(fold(Mirror(), full(*broken)).skipped)

    def test_report_of_an_invalid_id_contains_no_text(self) -> None:
        """The report of an id that is an object contains none of its texts."""
        assert CANARY not in str(fold(Mirror(), full({"id": {"content": CANARY}})).skipped)

    def test_invalid_update(self) -> None:
        """An invalid update is skipped, and the task is unchanged."""
        before = mirror_of(item("1"))
        assert fold(before, delta(item("1", content=None))).mirror.tasks == before.tasks

    def test_a_full_sync_for_each_invalid_item(self) -> None:
        """A skipped item needs one full sync, because a completion of it may be lost; it needs no other one."""
        broken = item("1", content=None)
        first = fold(mirror_of(item("1")), delta(broken))
        assert first.needs_full
        second = fold(first.mirror, full(broken))
        assert (second.needs_full, second.mirror.tasks) == (False, {})
        assert not fold(second.mirror, delta(item("2"), broken)).needs_full

    def test_another_content_of_an_invalid_item(self) -> None:
        """An invalid item that changes needs another full sync, also if other invalid items are known."""
        known = fold(Mirror(), full(item("1", content=None), {"content": "no id"})).mirror
        assert fold(known, delta(item("1", content=5))).needs_full
        assert not fold(known, delta({"content": "no id"})).needs_full

    def test_a_readable_item_is_forgotten(self) -> None:
        """The digest of an invalid item is kept only until a full response is without it."""
        known = fold(Mirror(), full(item("1", content=None))).mirror
        assert known.directory.unreadable
        assert fold(known, delta(item("1"))).mirror.directory.unreadable == known.directory.unreadable
        assert fold(known, full(item("1"))).mirror.directory.unreadable == frozenset()

    @pytest.mark.parametrize("key", ["due", "deadline"])
    @pytest.mark.parametrize("date", ["9999-12-31", "0001-01-01", "2200-01-01", "tomorrow", "2026-02-30", 5, []])
    def test_unreadable_date(self, key: str, date: Any) -> None:
        """An item with a date that cannot be read is skipped: without the date it would be a different task."""
        folded = fold(Mirror(), full(item("1", **{key: {"date": date}}), item("2")))
        assert (set(folded.mirror.tasks), folded.skipped) == ({"2"}, (("1", key),))

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "name", "content", "due", "date", "labels", "tz_info", "timezone", "lang"]),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )

    @settings(max_examples=100, deadline=None)
    @given(items=st.lists(json_values, max_size=4), others=st.tuples(*[json_values] * 3), is_full=st.booleans())
    def test_any_json(self, items: list[Any], others: tuple[Any, ...], is_full: bool) -> None:
        """A valid task is folded, whatever other JSON the response contains."""
        more = dict(zip(("projects", "sections", "user"), others, strict=True))
        answer = full(*items, item("good"), **more) if is_full else delta(*items, item("good"), **more)
        folded = fold(mirror_of(item("old")), answer)
        assert "good" in folded.mirror.tasks
        assert Directory.from_json(json.loads(json.dumps(folded.mirror.directory.to_json()))) == (
            folded.mirror.directory
        )


class TestDirectory:
    def test_names(self) -> None:
        """Projects and sections have names, and an incremental response renames them."""
        before = mirror_of(projects=[{"id": "p", "name": "Home"}], sections=[{"id": "s", "name": "Garden"}])
        after = fold(before, delta(sections=[{"id": "s", "name": "Roof"}])).mirror.directory
        assert (after.projects, after.sections) == ({"p": Project("Home")}, {"s": Section("Roof")})

    @pytest.mark.parametrize("flag", ["is_deleted", "is_archived"])
    def test_ended_section(self, flag: str) -> None:
        """The tasks of a deleted or archived section end with their sub-tasks, even if the response lists none."""
        before = mirror_of(
            item("1", section_id="s"),
            item("2", section_id="t"),
            item("3"),
            item("4", parent_id="1"),
            sections=[{"id": "s", "name": "Garden"}, {"id": "t", "name": "Roof"}],
        )
        folded = fold(before, delta(sections=[{"id": "s", "name": "Garden", flag: True}]))
        assert set(folded.mirror.tasks) == {"2", "3"}
        assert not folded.needs_full

    @pytest.mark.parametrize("flag", ["is_deleted", "is_archived"])
    def test_ended_project(self, flag: str) -> None:
        """The tasks of a deleted or archived project and of all projects below it end, though none is listed."""
        before = mirror_of(
            *(item(f"in {project}", project_id=project) for project in ("p", "child", "grandchild", "q")),
            projects=[
                {"id": "p", "name": "Home"},
                {"id": "child", "name": "Garden", "parent_id": "p"},
                {"id": "grandchild", "name": "Roses", "parent_id": "child"},
                {"id": "q", "name": "Work"},
            ],
        )
        folded = fold(before, delta(projects=[{"id": "p", "name": "Home", flag: True}]))
        assert set(folded.mirror.tasks) == {"in q"}
        assert not folded.needs_full

    def test_project_moved_out_of_a_deleted_one(self) -> None:
        """A project that moves to the top before the project above it is deleted keeps its tasks."""
        garden = {"id": "child", "name": "Garden"}
        before = mirror_of(
            item("1", project_id="child"), projects=[{"id": "p", "name": "Home"}, {**garden, "parent_id": "p"}]
        )
        after = fold(before, delta(projects=[{**garden, "parent_id": None}, {"id": "p", "is_deleted": True}]))
        assert set(after.mirror.tasks) == {"1"}

    @pytest.mark.parametrize("flag", ["checked", "is_deleted"])
    def test_ended_parent_task(self, flag: str) -> None:
        """The sub-tasks of an ended task end with it, at any depth, even if the response does not list them."""
        before = mirror_of(
            item("1"), item("2", parent_id="1"), item("3", parent_id="2"), item("4", parent_id="1"), item("5")
        )
        folded = fold(before, delta(item("1", **{flag: True}), item("4", parent_id=None)))
        assert set(folded.mirror.tasks) == {"4", "5"}

    def test_circle_of_parents(self) -> None:
        """Objects that are their own ancestors are folded like others."""
        loop = [{"id": "p", "name": "P", "parent_id": "q"}, {"id": "q", "name": "Q", "parent_id": "p"}]
        before = mirror_of(item("1", parent_id="2"), item("2", parent_id="1", project_id="q"), projects=loop)
        assert set(before.tasks) == {"1", "2"}
        assert fold(before, delta(projects=[{**loop[0], "is_archived": True}])).mirror.tasks == {}

    @pytest.mark.parametrize("kind", ["projects", "sections"])
    def test_unarchived(self, kind: str) -> None:
        """A project or section that returns from the archive needs a full sync, as its tasks are not listed."""
        home = {"id": "p", "name": "Home"}
        field = {"projects": "project_id", "sections": "section_id"}[kind]
        before = mirror_of(item("1", **{field: "p"}), **{kind: [home]})
        archived = fold(before, delta(**{kind: [{**home, "is_archived": True}]}))
        assert not archived.needs_full
        returned = fold(archived.mirror, delta(**{kind: [{**home, "is_archived": False}]}))
        assert returned.needs_full
        assert not fold(returned.mirror, full(item("1", **{field: "p"}), **{kind: [home]})).needs_full

    def test_unknown_project(self) -> None:
        """A project that the mirror does not know may come from the archive: it needs a full sync."""
        before = mirror_of(projects=[{"id": "p", "name": "Home"}])
        assert fold(before, delta(projects=[{"id": "q", "name": "Work"}])).needs_full
        assert not fold(before, delta(projects=[{"id": "p", "name": "House"}])).needs_full

    def test_archived_project_deleted(self) -> None:
        """An archived project that is deleted needs no full sync."""
        archived = mirror_of(projects=[{"id": "p", "is_archived": True}])
        folded = fold(archived, delta(projects=[{"id": "p", "is_deleted": True}]))
        assert not folded.needs_full
        assert folded.mirror.directory.projects == {}

    def test_task_moved_out_of_a_deleted_project(self) -> None:
        """A task that moves to a different project is kept if the same response deletes its previous project."""
        before = mirror_of(item("1", project_id="p"), projects=[{"id": "p", "name": "A"}, {"id": "q", "name": "B"}])
        ended = delta(item("1", project_id="q"), projects=[{"id": "p", "is_deleted": True}])
        assert set(fold(before, ended).mirror.tasks) == {"1"}

    def test_zone_and_language(self) -> None:
        """The user's time zone and language are kept if an incremental response does not repeat them."""
        before = mirror_of(user={"lang": "de", "tz_info": {"timezone": "Europe/Berlin"}})
        after = fold(before, delta()).mirror.directory
        assert (after.timezone, after.language) == ("Europe/Berlin", "de")
        moved = fold(before, delta(user={"tz_info": {"timezone": "Asia/Tokyo"}})).mirror.directory
        assert (moved.timezone, moved.language) == ("Asia/Tokyo", "de")

    def test_unknown_zone(self) -> None:
        """An unknown time zone is ignored."""
        before = mirror_of(user={"tz_info": {"timezone": "Europe/Berlin"}})
        after = fold(before, delta(user={"tz_info": {"timezone": "Mars/Olympus"}})).mirror
        assert after.directory.timezone == "Europe/Berlin"

    def test_unread_zone(self) -> None:
        """A time zone that cannot be read is reported, and a readable one or none is not."""
        assert fold(Mirror(), full(user={"tz_info": {"timezone": "Mars/Olympus"}})).unread_zone == "Mars/Olympus"
        assert fold(Mirror(), full(user={"tz_info": {"timezone": "GMT -3:00", "hours": -3}})).unread_zone is None
        assert fold(Mirror(), full(user={})).unread_zone is None

    def test_a_full_response_without_the_user(self) -> None:
        """A full response that lacks the user keeps the previous id, time zone and language."""
        before = mirror_of(user={"id": 7, "lang": "de", "tz_info": {"timezone": "Asia/Tokyo"}})
        after = fold(before, full()).mirror.directory
        assert (after.todoist_user_id, after.timezone, after.language) == ("7", "Asia/Tokyo", "de")

    def test_no_personal_data(self) -> None:
        """Only the id, time zone and language of the user object are kept; it can contain the API token."""
        mirror = mirror_of(user={"token": CANARY, "email": CANARY, "full_name": CANARY, "lang": "de"})
        assert CANARY not in repr(mirror)


def test_text_hash() -> None:
    """The hash of a text is the first half of its SHA-256."""
    assert text_hash("Größe") == sha256("Größe".encode()).hexdigest()[:32]


class TestOwnTasks:
    @pytest.mark.parametrize(
        ("responsible_uid", "is_own"), [(None, True), ("ann", True), ("bob", False), ("", True), (7, False)]
    )
    def test_responsible(self, responsible_uid: Any, is_own: bool) -> None:
        """A task is the user's if it is assigned to the user or to nobody."""
        mirror = mirror_of(item("1", responsible_uid=responsible_uid), user=ANN)
        assert bool(open_tasks(mirror)) == is_own

    def test_reassigned(self) -> None:
        """A task that is assigned to a colleague leaves the user's tasks, and returns with the next assignment."""
        mirror = mirror_of(item("1"), user=ANN)
        given = fold(mirror, delta(item("1", responsible_uid="bob"))).mirror
        assert (len(open_tasks(mirror)), len(open_tasks(given))) == (1, 0)
        assert len(open_tasks(fold(given, delta(item("1", responsible_uid="ann"))).mirror)) == 1

    def test_unknown_user(self) -> None:
        """As long as the user's id in Todoist is unknown, every task counts: none is lost."""
        assert open_tasks(mirror_of(item("1", responsible_uid="bob")))

    def test_header(self) -> None:
        """A header, which cannot be completed, is no task; its sub-tasks carry its title."""
        mirror = mirror_of(item("h", content="* Kitchen"), item("1", parent_id="h"), item("2", content="*bold*"))
        assert {task.task_id: task.parent for task in open_tasks(mirror)} == {"1": "Kitchen", "2": None}

    def test_names_of_places(self) -> None:
        """A task carries the names of its project and section, and the plain title of its parent task."""
        mirror = mirror_of(
            item("1", content="**Party** [list](https://x.org)", responsible_uid="bob"),
            item("2", parent_id="1", project_id="p", section_id="s"),
            projects=[{"id": "p", "name": "Home &amp; garden"}],
            sections=[{"id": "s", "name": "Roof"}],
            user=ANN,
        )
        [task] = open_tasks(mirror)
        assert (task.project, task.section, task.parent) == ("Home & garden", "Roof", "Party list")


PLACES = [
    {"id": "private", "name": "Home"},
    {"id": "shared", "name": "Book", "is_shared": True},
    {"id": "team", "name": "Team", "workspace_id": "w"},
]


class TestAuthorship:
    @pytest.mark.parametrize("place", ["private", "shared", "team", "unknown", None])
    @pytest.mark.parametrize(("author", "is_by_others"), [("ann", False), ("bob", True), (7, True)])
    def test_known_author(self, place: str | None, author: Any, is_by_others: bool) -> None:
        """Who added a task decides whose it is, wherever it is now: it may have been moved."""
        [task] = open_tasks(mirror_of(item("1", added_by_uid=author, project_id=place), projects=PLACES, user=ANN))
        assert task.is_by_others == is_by_others

    @pytest.mark.parametrize("user", [ANN, {}])
    @pytest.mark.parametrize(
        ("place", "is_by_others"),
        [("private", False), ("shared", True), ("team", True), ("unknown", True), (None, True)],
    )
    def test_unknown_author(self, place: str | None, is_by_others: bool, user: Any) -> None:
        """Without an author a task is the user's own in a project of the user alone, and nowhere else."""
        [task] = open_tasks(mirror_of(item("1", project_id=place), projects=PLACES, user=user))
        assert (task.is_by_others, task.is_shared) == (is_by_others, is_by_others)

    def test_unknown_user(self) -> None:
        """As long as the user's id in Todoist is unknown, a task with an author is by somebody else."""
        [task] = open_tasks(mirror_of(item("1", added_by_uid="ann", project_id="private"), projects=PLACES))
        assert (task.is_by_others, task.is_shared) == (True, False)

    @pytest.mark.parametrize(("author", "is_by_others"), [("ann", False), ("bob", True)])
    def test_parent(self, author: str, is_by_others: bool) -> None:
        """A sub-task knows whether somebody else added its parent task, also a header or a colleague's task."""
        parent = item("1", added_by_uid=author, project_id="private", responsible_uid="bob")
        child = item("2", added_by_uid="ann", project_id="private", parent_id="1")
        [task] = open_tasks(mirror_of(parent, child, projects=PLACES, user=ANN))
        assert (task.is_parent_by_others, task.is_by_others) == (is_by_others, False)

    def test_shared_later(self) -> None:
        """A project that is shared later marks the names of its tasks with the next fetch."""
        mirror = mirror_of(item("1", added_by_uid="ann", project_id="private"), projects=PLACES, user=ANN)
        after = fold(mirror, delta(projects=[PLACES[0] | {"is_shared": True}])).mirror
        assert [task.is_shared for task in (*open_tasks(mirror), *open_tasks(after))] == [False, True]


ids = st.sampled_from(["t1", "t2", "t3"])
section_ids = st.sampled_from(["s1", "s2"])
project_ids = st.sampled_from(["p1", "p2"])
flags = st.booleans()
items = st.builds(
    lambda key, content, project, section, parent, checked, deleted: item(
        key,
        content=content,
        project_id=project,
        section_id=section,
        parent_id=parent,
        checked=checked,
        is_deleted=deleted,
    ),
    ids,
    st.sampled_from(["a", "b", None]),
    st.none() | project_ids,
    st.none() | section_ids,
    st.none() | ids,
    flags,
    flags,
)


def places(keys: st.SearchStrategy[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(
        st.builds(
            lambda key, parent, archived, deleted: {
                "id": key,
                "name": key,
                "parent_id": parent,
                "is_archived": archived,
                "is_deleted": deleted,
            },
            keys,
            st.none() | keys,
            flags,
            flags,
        ),
        max_size=3,
        unique_by=lambda place: place["id"],
    )


answers = st.builds(
    lambda is_full, listed, projects, sections: {
        "full_sync": is_full,
        "items": listed,
        "projects": projects,
        "sections": sections,
    },
    flags,
    st.lists(items, max_size=4),
    places(project_ids),
    places(section_ids),
)


class TestRepetition:
    @settings(max_examples=120, deadline=None)
    @given(history=st.lists(answers, max_size=3), answer=answers)
    def test_after_an_interrupted_run(self, history: list[dict[str, Any]], answer: dict[str, Any]) -> None:
        """A run that stopped between storing the data and the sync token has the same result when repeated."""
        mirror = fold_all(history)
        once = fold(mirror, answer)
        again = fold(replace(mirror, tasks=once.mirror.tasks), answer)
        assert again.mirror == once.mirror
        assert again.needs_full == once.needs_full

    @settings(max_examples=120, deadline=None)
    @given(history=st.lists(answers, max_size=3), answer=answers)
    def test_idempotent(self, history: list[dict[str, Any]], answer: dict[str, Any]) -> None:
        """Folding the same response again changes nothing."""
        once = fold(fold_all(history), answer).mirror
        assert fold(once, answer).mirror == once

    def test_open_item_of_a_deleted_project(self) -> None:
        """An open item of a response is kept even if the response deletes its project; other tasks are removed."""
        answer = delta(item("1", project_id="p"), projects=[{"id": "p", "is_deleted": True}])
        once = fold(mirror_of(item("2", project_id="p"), projects=[{"id": "p", "name": "Home"}]), answer).mirror
        assert set(once.tasks) == {"1"}
        assert fold(once, answer).mirror == once


def fold_all(history: list[dict[str, Any]]) -> Mirror:
    mirror = Mirror()
    for answer in history:
        mirror = fold(mirror, answer).mirror
    return mirror
