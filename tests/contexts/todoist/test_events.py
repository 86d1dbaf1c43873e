"""The events of webhooks beside the answers of Todoist: what is folded, dropped or left to a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.todoist.events import (
    DELAY_BOUND,
    FoldedEvents,
    PendingEvent,
    SyncPeriod,
    audit_events,
    fold_events,
)
from contexts.todoist.mirror import Mirror, fold
from contexts.todoist.objects import parse_instant
from local.todoist.objects import Objects

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SYNC = SyncPeriod(START, START)
HOUR = timedelta(hours=1)
KINDS = {"item": "items", "project": "projects", "section": "sections"}


def stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def task(task_id: str, at: datetime = START - HOUR, **fields: Any) -> dict[str, Any]:
    return {"id": task_id, "content": f"Task {task_id}", "project_id": "p", "updated_at": stamp(at), **fields}


def event(event_name: str, updated_at: datetime | None, /, **content: Any) -> PendingEvent:
    kind = event_name.partition(":")[0]
    stored = {key: value for key, value in content.items() if key != "id"}
    return PendingEvent(kind, content["id"], event_name, stored, updated_at, received_at=START + HOUR)


def item_event(name: str, task_id: str, at: datetime, **fields: Any) -> PendingEvent:
    return event(name, at, **task(task_id, at, **fields))


@pytest.fixture
def mirror() -> Mirror:
    """An account with two projects, a section, and tasks 1, 2 and its sub-task 3."""
    document = {
        "full_sync": True,
        "items": [task("1"), task("2"), task("3", parent_id="2")],
        "projects": [{"id": "p", "name": "Home"}, {"id": "q", "name": "Work"}],
        "sections": [{"id": "s", "name": "Kitchen", "project_id": "p"}],
    }
    return fold(Mirror(), document).mirror


class TestFoldEvents:
    def test_a_change(self, mirror: Mirror) -> None:
        """A task that changed after the last call has its new form, and a completed one goes with its sub-tasks."""
        events = [
            item_event("item:updated", "1", START + HOUR, content="New"),
            item_event("item:completed", "2", START + HOUR, checked=True),
        ]
        result = fold_events(mirror, {}, SYNC, events)
        assert (len(result.folded), result.is_due) == (2, False)
        assert {key: each.content for key, each in result.mirror.tasks.items()} == {"1": "New"}

    def test_an_instant_that_stays(self, mirror: Mirror) -> None:
        """An event that Todoist made after the last call is not dropped if its object's own instant is older."""
        late = item_event("item:deleted", "1", START - HOUR)
        assert fold_events(mirror, {}, SYNC, [late]).dropped == (late,)
        deleted = replace(late, triggered_at=START + HOUR)
        result = fold_events(mirror, {}, SYNC, [deleted])
        assert (result.undecided, result.mirror) == ((deleted,), mirror)

    def test_twice(self, mirror: Mirror) -> None:
        """Events that are folded again change nothing, and none of them makes the user due."""
        events = [
            item_event("item:updated", "1", START + HOUR, content="New"),
            item_event("item:added", "9", START + HOUR),
            item_event("item:completed", "2", START + HOUR, checked=True),
            event("project:updated", START + HOUR, id="p", name="House"),
            event("project:archived", START + HOUR, id="q", name="Work", is_archived=True),
        ]
        once = fold_events(mirror, {}, SYNC, events)
        twice = fold_events(once.mirror, once.instants, SYNC, events)
        assert (twice.mirror, twice.instants, twice.is_due) == (once.mirror, once.instants, False)
        assert len(twice.dropped) == len(once.folded) == 5

    def test_an_older_form(self, mirror: Mirror) -> None:
        """An event from before the last call, before the task's last change or before its end is dropped."""
        newer = fold_events(mirror, {}, SYNC, [item_event("item:updated", "1", START + 2 * HOUR, content="New")])
        ended = fold_events(
            newer.mirror, newer.instants, SYNC, [item_event("item:deleted", "2", START + 2 * HOUR, is_deleted=True)]
        )
        late = [item_event("item:updated", name, START + HOUR, content="Old") for name in ("1", "2")]
        late.append(item_event("item:added", "7", START - HOUR))
        result = fold_events(ended.mirror, ended.instants, SYNC, late)
        assert result.mirror == ended.mirror
        assert (len(result.dropped), result.is_due) == (3, False)

    @pytest.mark.parametrize(
        "unclear",
        [
            event("item:updated", None, **task("1")),
            event("item:updated", START + HOUR, id="1"),
            event("item:updated", START + timedelta(seconds=30), **task("1")),
            item_event("item:updated", "1", START + HOUR, due={"date": "soon"}),
            item_event("item:updated", "1", START + HOUR, project_id="unknown"),
            item_event("item:updated", "2", START + HOUR, project_id="q"),
            item_event("item:added", "9", START + HOUR, parent_id="unknown"),
            item_event("item:uncompleted", "9", START + HOUR),
            event("project:deleted", START + HOUR, id="p", name="Home", is_deleted=True),
            event("project:added", START + HOUR, id="r", name="New"),
            event("project:updated", START + HOUR, id="p", name="Home", parent_id="q"),
            event("section:unarchived", START + HOUR, id="s", name="Kitchen"),
            event("label:updated", None, id="l"),
            event("note:added", START + HOUR, id="n", name="Comment"),
        ],
        ids=lambda each: f"{each.name} {sorted(each.content)}"[:60],
    )
    def test_unclear_events(self, mirror: Mirror, unclear: PendingEvent) -> None:
        """An event that does not tell its change completely and for certain makes the user due for a call."""
        result = fold_events(mirror, {}, SYNC, [unclear])
        assert (result.mirror, result.undecided) == (mirror, (unclear,))

    def test_a_sub_task_of_an_ended_task(self, mirror: Mirror) -> None:
        """A late event of a task that ended with another one needs a call: it may have been moved away before."""
        ended = fold_events(mirror, {}, SYNC, [item_event("item:completed", "2", START + 2 * HOUR, checked=True)])
        late = item_event("item:updated", "3", START + HOUR)
        assert fold_events(ended.mirror, ended.instants, SYNC, [late]).undecided == (late,)

    def test_a_reopened_task(self, mirror: Mirror) -> None:
        """A task that was reopened needs a call, after which its events are folded again."""
        ended = fold_events(mirror, {}, SYNC, [item_event("item:completed", "1", START + HOUR, checked=True)])
        reopened = item_event("item:updated", "1", START + 2 * HOUR, content="Again")
        assert fold_events(ended.mirror, ended.instants, SYNC, [reopened]).undecided == (reopened,)
        called = fold(ended.mirror, {"items": [task("1", START + 2 * HOUR, content="Again")]}).mirror
        last = SyncPeriod(START + 3 * HOUR, START + 3 * HOUR)
        later = item_event("item:updated", "1", START + 4 * HOUR, content="Later")
        assert fold_events(called, ended.instants, last, [later]).mirror.tasks["1"].content == "Later"

    def test_an_archived_project(self, mirror: Mirror) -> None:
        """The tasks of a project that was archived are gone, and a late event of one of them makes the user due."""
        archived = event("project:archived", START + 2 * HOUR, id="p", name="Home", is_archived=True)
        result = fold_events(mirror, {}, SYNC, [archived])
        assert (result.mirror.tasks, result.is_due) == ({}, False)
        late = item_event("item:updated", "1", START + HOUR)
        assert fold_events(result.mirror, result.instants, SYNC, [late]).is_due


class TestAudit:
    def test_told_and_missed(self, mirror: Mirror) -> None:
        """A change that no event told is missed, one that an event told is not, and both are counted."""
        told = fold_events(mirror, {}, SYNC, [item_event("item:updated", "1", START + HOUR, content="New")])
        answer = fold(
            mirror, {"items": [task("1", START + HOUR, content="New"), task("2", START + HOUR, priority=4)]}
        )
        audit = audit_events(told, answer.mirror, SYNC, (START, START + 5 * HOUR), answer.changed_at)
        assert (audit.n_changes, audit.n_missed, audit.has_confirmed) == (2, 1, True)

    def test_a_late_change(self, mirror: Mirror) -> None:
        """A change of the last hour, whose event may still come, counts neither as a change nor as missed."""
        answer = fold(mirror, {"items": [task("1", START + 5 * HOUR, content="New")]})
        now = START + 5 * HOUR + DELAY_BOUND / 2
        audit = audit_events(FoldedEvents(mirror), answer.mirror, SYNC, (START, now), answer.changed_at)
        assert (audit.n_changes, audit.n_missed) == (0, 0)

    @pytest.mark.parametrize(("hours", "n_missed"), [(1, 1), (5, 0)])
    def test_a_late_completion(self, mirror: Mirror, hours: int, n_missed: int) -> None:
        """A completion of the last hour, whose event may still come, is not missed, and an earlier one is."""
        answer = fold(mirror, {"items": [task("1", START + hours * HOUR, checked=True)]})
        now = START + 5 * HOUR + DELAY_BOUND / 2
        audit = audit_events(FoldedEvents(mirror), answer.mirror, SYNC, (START, now), answer.changed_at)
        assert (audit.n_changes, audit.n_missed) == (n_missed, n_missed)

    def test_a_wrong_form(self, mirror: Mirror) -> None:
        """A task that differs from its last event is missed: a later event of it was lost."""
        told = fold_events(mirror, {}, SYNC, [item_event("item:updated", "1", START + HOUR, content="New")])
        answer = fold(mirror, {"items": [task("1", START + 2 * HOUR, content="Newest")]})
        audit = audit_events(told, answer.mirror, SYNC, (START, START + 5 * HOUR), answer.changed_at)
        assert (audit.n_changes, audit.n_missed, audit.has_confirmed) == (1, 1, False)

    @pytest.mark.parametrize(("hours", "n_missed"), [(1, 2), (4.5, 0), (None, 0)])
    def test_a_lost_place(self, mirror: Mirror, hours: float | None, n_missed: int) -> None:
        """A project that was renamed and one that was added without an event are missed, if not in the last hour."""
        renamed = [{"id": "p", "name": "House"}, {"id": "r", "name": "New"}]
        at = None if hours is None else stamp(START + hours * HOUR)
        answer = fold(mirror, {"items": [], "projects": [{**each, "updated_at": at} for each in renamed]})
        audit = audit_events(FoldedEvents(mirror), answer.mirror, SYNC, (START, START + 5 * HOUR), answer.changed_at)
        assert (audit.n_changes, audit.n_missed) == (n_missed, n_missed)

    @pytest.mark.parametrize("is_told", [True, False])
    def test_an_end_by_a_full_answer(self, mirror: Mirror, is_told: bool) -> None:
        """A task that is missing in a full answer may have ended just now: it is neither told nor missed."""
        told = [item_event("item:completed", "1", START + HOUR, checked=True)] if is_told else []
        places = {"projects": [{"id": "p", "name": "Home"}, {"id": "q", "name": "Work"}], "sections": []}
        full = fold(Mirror(), {"full_sync": True, "items": [task("2"), task("3", parent_id="2")], **places})
        expected = fold_events(mirror, {}, SYNC, told)
        audit = audit_events(expected, full.mirror, SYNC, (START, START + 5 * HOUR), full.changed_at)
        assert (audit.n_changes, audit.n_missed) == (0, 0)

    @pytest.mark.parametrize(("hours", "n_changes"), [(2, 2), (3, 1)])
    def test_changes_of_an_outage(self, mirror: Mirror, hours: int, n_changes: int) -> None:
        """Changes from before the end of an outage count neither as told nor as missed."""
        changed = [task("1", START + 2 * HOUR, priority=4), task("2", START + 3 * HOUR, priority=4)]
        answer = fold(mirror, {"items": changed})
        audited = (START + hours * HOUR, START + 5 * HOUR)
        audit = audit_events(FoldedEvents(mirror), answer.mirror, SYNC, audited, answer.changed_at)
        assert (audit.n_changes, audit.n_missed) == (n_changes, n_changes)

    def test_a_renamed_label(self, mirror: Mirror) -> None:
        """After the event of a label, tasks with labels are not missed: the event told that they may have changed."""
        before = fold(mirror, {"items": [task("1", labels=["home"])]}).mirror
        told = fold_events(before, {}, SYNC, [event("label:updated", None, id="l")])
        changed = [task("1", START + HOUR, labels=["house"]), task("2", START + HOUR, priority=4)]
        answer = fold(before, {"items": changed})
        assert told.is_due
        for expected, counts in ((told, (1, 1)), (FoldedEvents(before), (2, 2))):
            audit = audit_events(expected, answer.mirror, SYNC, (START, START + 5 * HOUR), answer.changed_at)
            assert (audit.n_changes, audit.n_missed) == counts

    def test_an_undecided_place(self, mirror: Mirror) -> None:
        """Tasks of a project whose event is left to a call are not missed: the event told that there is a change."""
        deleted = event("project:deleted", START + HOUR, id="p", name="Home", is_deleted=True)
        told = fold_events(mirror, {}, SYNC, [deleted])
        answer = fold(mirror, {"projects": [{"id": "p", "name": "Home", "is_deleted": True}]})
        audit = audit_events(told, answer.mirror, SYNC, (START, START + 5 * HOUR), answer.changed_at)
        assert (audit.n_changes, audit.n_missed) == (0, 0)

    def test_a_project_in_an_undecided_one(self, mirror: Mirror) -> None:
        """The tasks of a project below one whose event is left to a call are not missed either."""
        below = {"items": [task("9", project_id="r")], "projects": [{"id": "r", "name": "Sub", "parent_id": "q"}]}
        before = fold(mirror, below).mirror
        deleted = event("project:deleted", START + HOUR, id="q", name="Work", is_deleted=True)
        told = fold_events(before, {}, SYNC, [deleted])
        answer = fold(before, {"items": [], "projects": [{"id": "q", "name": "Work", "is_deleted": True}]})
        assert "9" not in answer.mirror.tasks
        assert audit_events(told, answer.mirror, SYNC, (START, START + 5 * HOUR), answer.changed_at).n_missed == 0

    def test_a_full_answer_without_the_archive(self, mirror: Mirror) -> None:
        """A project that is in the archive is no difference to a full answer without it and its sections."""
        work = {"id": "q", "name": "Work", "is_archived": True}
        section = {"id": "r", "name": "Printer", "project_id": "q"}
        archived = fold(mirror, {"items": [], "projects": [work], "sections": [section]})
        full = fold(
            Mirror(),
            {
                "full_sync": True,
                "items": [task("1"), task("2"), task("3", parent_id="2")],
                "projects": [{"id": "p", "name": "Home"}],
                "sections": [{"id": "s", "name": "Kitchen", "project_id": "p"}],
            },
        )
        audit = audit_events(
            FoldedEvents(archived.mirror), full.mirror, SYNC, (START, START + 5 * HOUR), full.changed_at
        )
        assert (audit.n_changes, audit.n_missed) == (0, 0)


@dataclass
class Life:
    """A user's Todoist, the webhooks of its changes, and a mirror made of both."""

    objects: Objects = field(default_factory=Objects)
    now: datetime = START
    under_way: list[tuple[int, PendingEvent]] = field(default_factory=list)
    pending: dict[tuple[str, str], PendingEvent] = field(default_factory=dict)
    mirror: Mirror = field(default_factory=Mirror)
    instants: dict[tuple[str, str], datetime] = field(default_factory=dict)
    revision: int | None = None
    last_sync: SyncPeriod = SYNC

    def change(self, name: str, object_id: str, delays: Sequence[int], /, **fields: Any) -> None:
        """Change an object, and send its event with each delay, in steps; without one it is lost."""
        kind, change = name.split(":")
        old = {each["id"]: each for each in self.objects.changed_since(-1, [KINDS[kind]])[KINDS[kind]]}
        if (object_id in old) == (change == "added"):
            return
        value = {**old.get(object_id, {"id": object_id, "checked": False}), **fields, "updated_at": stamp(self.now)}
        self.objects.apply({KINDS[kind]: [value]}, self.now)
        self.under_way += [(delay, event(name, self.now, **value)) for delay in delays]

    def deliver(self) -> None:
        """Deliver the events whose delay is over; of each object the newest form is kept, as the service does."""
        due = [each for delay, each in self.under_way if delay <= 0]
        self.under_way = [(delay - 1, each) for delay, each in self.under_way if delay > 0]
        for each in due:
            stored = self.pending.get(each.key)
            if stored is None or (each.updated_at or START) >= (stored.updated_at or START):
                self.pending[each.key] = each

    def run(self) -> None:
        """Fold the pending events, or call Todoist if one of them cannot be folded."""
        result = fold_events(self.mirror, self.instants, self.last_sync, list(self.pending.values()))
        if result.is_due:
            self.call()
            return
        self._check_newer(result)
        self.mirror, self.instants = result.mirror, dict(result.instants)
        self.pending.clear()

    def _check_newer(self, result: FoldedEvents) -> None:
        for task_id, new in result.mirror.tasks.items():
            if old := self.mirror.tasks.get(task_id):
                assert new == old or (new.updated_at or START) > (old.updated_at or START)
            else:
                assert ("item", task_id) not in self.instants
                assert (new.updated_at or START) > self.last_sync.ended_at

    def call(self, *, is_full: bool = False) -> None:
        """Call `/sync`; the pending events are answered by it."""
        kinds, is_full = [*KINDS.values(), "user"], is_full or self.revision is None
        objects = self.objects.active(kinds) if is_full else self.objects.changed_since(self.revision or 0, kinds)
        folded = fold(self.mirror, {"full_sync": is_full, **objects})
        self.mirror, self.last_sync = folded.mirror, SyncPeriod(self.now, self.now)
        self.revision = None if folded.needs_full else self.objects.revision
        self.pending.clear()


_TASKS, _PROJECTS = st.sampled_from("abcdefg"), st.sampled_from("pqr")
_DELAYS = st.sampled_from([(0,), (0,), (0,), (), (1,), (3,), (0, 2), (5, 0), (4, 4)])
_PLACES = st.fixed_dictionaries({"project_id": _PROJECTS, "parent_id": st.none() | _TASKS})
_CONTENTS = st.fixed_dictionaries({"content": st.text("xyz", min_size=1, max_size=3)})
_STEPS = st.one_of(
    st.tuples(st.just("item:added"), _TASKS, st.builds(lambda one, two: one | two, _PLACES, _CONTENTS)),
    st.tuples(st.just("item:updated"), _TASKS, _CONTENTS),
    st.tuples(st.just("item:updated"), _TASKS, _PLACES),
    st.tuples(st.just("item:completed"), _TASKS, st.just({"checked": True})),
    st.tuples(st.just("item:uncompleted"), _TASKS, st.just({"checked": False})),
    st.tuples(st.just("item:deleted"), _TASKS, st.just({"is_deleted": True})),
    st.tuples(st.just("project:updated"), _PROJECTS, st.fixed_dictionaries({"name": st.text("XYZ", min_size=1)})),
    st.tuples(st.just("project:archived"), _PROJECTS, st.just({"is_archived": True})),
    st.tuples(st.just("project:unarchived"), _PROJECTS, st.just({"is_archived": False})),
    st.tuples(st.just("project:deleted"), _PROJECTS, st.just({"is_deleted": True})),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(_STEPS, _DELAYS, st.sampled_from(["", "", "run", "run", "call"])), max_size=40))
def test_any_life(steps: list[tuple[tuple[str, str, dict[str, Any]], tuple[int, ...], str]]) -> None:
    """Whatever is lost, doubled, late or in another order: no form gets older, and a full audit mends the rest."""
    life = Life()
    projects = [{"id": name, "name": name} for name in "pqr"]
    tasks = [task(name, START - HOUR, project_id="pq"[number % 2]) for number, name in enumerate("abcd")]
    life.objects.replace({"items": tasks, "projects": projects, "sections": []})
    life.call()
    for (name, object_id, fields), delays, action in steps:
        life.now += timedelta(minutes=7)
        life.change(name, object_id, delays, **fields)
        life.deliver()
        if action == "run":
            life.run()
        elif action == "call":
            life.call()
    truth = fold(Mirror(), {"full_sync": True, **life.objects.active([*KINDS.values(), "user"])}).mirror
    life.call(is_full=True)
    assert life.mirror.tasks == truth.tasks
    assert replace(life.mirror.directory, unreadable=frozenset()) == truth.directory


def test_a_life_with_reliable_events() -> None:
    """With every event in time, a life of edits, completions and deletions needs no call after the first one."""
    life = Life()
    life.objects.replace({"items": [task("a")], "projects": [{"id": "p", "name": "Home"}], "sections": []})
    life.call()
    last = life.last_sync
    for number in range(20):
        life.now += timedelta(minutes=7)
        life.change("item:added", f"n{number}", (0,), content=f"new {number}", project_id="p")
        life.now += timedelta(minutes=7)
        life.change("item:updated", f"n{number}", (0,), priority=4)
        if number % 3 == 0:
            life.now += timedelta(minutes=7)
            life.change("item:completed", f"n{number // 2}", (0,), checked=True)
        life.deliver()
        life.run()
    truth = fold(Mirror(), {"full_sync": True, **life.objects.active([*KINDS.values(), "user"])}).mirror
    assert life.last_sync == last
    assert life.mirror.tasks == truth.tasks


def test_instants_are_read() -> None:
    """The instants of the events in these tests are those that the mirror reads."""
    assert parse_instant(stamp(START)) == START
