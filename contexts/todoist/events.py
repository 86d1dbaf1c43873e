"""Events of Todoist's webhooks: folded into a mirror as far as they are certain, and judged by real answers. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from contexts.todoist.mirror import Mirror, fold
from contexts.todoist.objects import BadItem, TodoistTask, is_ended, read_project, read_section, read_task

ObjectKey = tuple[str, str]
"""The type and the id of an object of Todoist."""

DESCENDANT = "descendant"
"""The type of a task's instant if the task ended with its place or its parent task, and by no event of its own."""

CLOCK_MARGIN = timedelta(minutes=1)
"""The clocks of Todoist and of the pipeline's machines differ by less."""

DELAY_BOUND = timedelta(minutes=60)
"""An event that is later than this counts as missed: Todoist's last try comes 45 minutes after the first."""

MAX_EVENTS = 200
"""A user with more pending events gets a call instead, which costs less than folding them."""

TOMBSTONE_PERIOD = timedelta(days=30)
"""Instants of ended objects are kept for this long."""

_FOLDED_PLACES = ("updated", "archived")
_RESPONSE_LISTS = {"item": "items", "project": "projects", "section": "sections"}
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class PendingEvent:
    """The newest event of an object.

    name: such as `item:updated`. content: the fields of the object that the mirror reads; empty if they are not
    believed. updated_at: the object's own; None if it is unknown. received_at: by the clock of the service.
    triggered_at: the time at which Todoist made the event; None if it is unknown.
    """

    object_type: str
    object_id: str
    name: str
    content: Mapping[str, Any]
    updated_at: datetime | None
    received_at: datetime
    triggered_at: datetime | None = None

    @property
    def key(self) -> ObjectKey:
        """The object of the event."""
        return self.object_type, self.object_id

    @property
    def change(self) -> str:
        """The change, such as `updated`."""
        return self.name.partition(":")[2]

    @property
    def form(self) -> dict[str, Any]:
        """The object as a `/sync` response lists it."""
        is_deleted = {"is_deleted": True} if self.change == "deleted" else {}
        return {**self.content, **is_deleted, "id": self.object_id}


@dataclass(frozen=True)
class SyncPeriod:
    """The time in which a user's last `/sync` call was made: between two instants."""

    began_at: datetime
    ended_at: datetime


@dataclass(frozen=True)
class FoldedEvents:
    """A mirror with events in it.

    folded: the events that the mirror contains. dropped: the events of changes before those that the mirror contains.
    undecided: the other events; with any of them the mirror is not complete without a call.
    instants: the time of the last change of ended tasks, and of projects and sections that an event changed. A task
    that ended with its place or its parent task has the type `descendant`: it may have been moved away before.
    """

    mirror: Mirror
    folded: tuple[PendingEvent, ...] = ()
    dropped: tuple[PendingEvent, ...] = ()
    undecided: tuple[PendingEvent, ...] = ()
    instants: Mapping[ObjectKey, datetime] = field(default_factory=dict)

    @property
    def is_due(self) -> bool:
        """Whether the user is due for a call."""
        return bool(self.undecided)


def fold_events(
    mirror: Mirror, instants: Mapping[ObjectKey, datetime], last_sync: SyncPeriod, events: Collection[PendingEvent]
) -> FoldedEvents:
    """Fold a user's pending events into the stored mirror, in the order of the changes.

    instants: of objects whose last change the mirror does not show, see `FoldedEvents`.

    An event is folded if its object changed clearly after the last `/sync` and later than what is known of the
    object. It is dropped if it is clearly older than that. Anything else is undecided: an unknown or an equal
    instant, a change during the last `/sync`, one that did not move the object's instant, an object that cannot be
    read, a place that is new, deleted or un-archived, a task in an unknown place, one that was reopened, one below a
    task that ended, one that was moved with sub-tasks, and a label, which changes tasks. Folding the same events
    again changes nothing.
    """
    result = FoldedEvents(mirror, instants=dict(instants))
    if len(events) > MAX_EVENTS:
        return replace(result, undecided=tuple(events))
    for event in sorted(events, key=lambda each: (each.updated_at or _NEVER, each.key)):
        result = _with_event(result, last_sync, event)
    return result


def _with_event(before: FoldedEvents, last_sync: SyncPeriod, event: PendingEvent) -> FoldedEvents:
    if _is_older(before, last_sync, event):
        return replace(before, dropped=(*before.dropped, event))
    if _is_certain(before, last_sync, event):
        response = {"full_sync": False, _RESPONSE_LISTS[event.object_type]: [event.form]}
        after = fold(before.mirror, response)
        if not after.needs_full and not after.skipped:
            return replace(
                before,
                mirror=after.mirror,
                folded=(*before.folded, event),
                instants=_instants(before, after.mirror, event),
            )
    return replace(before, undecided=(*before.undecided, event))


def _instants(before: FoldedEvents, after: Mirror, event: PendingEvent) -> dict[ObjectKey, datetime]:
    """Return the instants with those of an event: its object's, unless a task shows it, and of all ended tasks."""
    assert event.updated_at is not None
    ended = {(DESCENDANT, task_id) for task_id in before.mirror.tasks.keys() - after.tasks.keys()}
    if event.object_type != "item":
        ended.add(event.key)
    elif event.object_id not in after.tasks:
        ended = {*ended - {(DESCENDANT, event.object_id)}, event.key}
    return {**before.instants, **dict.fromkeys(ended, event.updated_at)}


def _known_instant(state: FoldedEvents, event: PendingEvent) -> datetime:
    """Return the instant of the last known change of an event's object."""
    task = state.mirror.tasks.get(event.object_id) if event.object_type == "item" else None
    shown = (task.updated_at if task else None) or _NEVER
    return max(shown, state.instants.get(event.key, _NEVER))


def _is_older(state: FoldedEvents, last_sync: SyncPeriod, event: PendingEvent) -> bool:
    """Return whether the mirror contains the event's change, or a later one of the same object, for certain."""
    if event.updated_at is None:
        return False
    earliest = last_sync.began_at - CLOCK_MARGIN
    is_contained = event.updated_at < earliest and (event.triggered_at or _NEVER) < earliest
    if is_contained or event.updated_at < _known_instant(state, event):
        return True
    return event.updated_at == _known_instant(state, event) and _is_shown(state.mirror, event)


def _is_shown(mirror: Mirror, event: PendingEvent) -> bool:
    """Return whether the mirror shows an object exactly as an event does."""
    if event.object_type == "project":
        return mirror.directory.projects.get(event.object_id) == read_project(event.form)
    if event.object_type == "section":
        return mirror.directory.sections.get(event.object_id) == read_section(event.form)
    task = mirror.tasks.get(event.object_id)
    return task is None if is_ended(event.form) else task is not None and _readable_task(event) == task


def _readable_task(event: PendingEvent) -> TodoistTask | None:
    try:
        return read_task(event.object_id, event.form)
    except BadItem:
        return None


def _is_certain(state: FoldedEvents, last_sync: SyncPeriod, event: PendingEvent) -> bool:
    """Return whether an event that is not older tells its change completely."""
    if event.updated_at is None or not event.content or event.object_type not in _RESPONSE_LISTS:
        return False
    if event.updated_at <= max(last_sync.ended_at + CLOCK_MARGIN, _known_instant(state, event)):
        return False
    if event.object_type != "item":
        return _is_known_place(state.mirror, event)
    return is_ended(event.form) or _is_task_in_place(state, event)


def _is_known_place(mirror: Mirror, event: PendingEvent) -> bool:
    """Return whether an event renames, shares or archives a place that is known, and moves it nowhere."""
    if event.change not in _FOLDED_PLACES or not isinstance(event.content.get("name"), str):
        return False
    if event.form.get("is_deleted"):
        return False
    if event.object_type == "section":
        return event.object_id in mirror.directory.sections
    project = mirror.directory.projects.get(event.object_id)
    return project is not None and (event.content.get("parent_id") or None) == project.parent_id


def _is_task_in_place(state: FoldedEvents, event: PendingEvent) -> bool:
    """Return whether an open task is in known, active places, was not reopened, and moved no sub-tasks."""
    mirror, task = state.mirror, _readable_task(event)
    if task is None or event.change == "uncompleted":
        return False
    has_ended = not state.instants.keys().isdisjoint({event.key, (DESCENDANT, event.object_id)})
    if has_ended and event.object_id not in mirror.tasks:
        return False
    project = mirror.directory.projects.get(task.project_id or "")
    section = mirror.directory.sections.get(task.section_id or "")
    if project is None or _is_archived(mirror, task.project_id):
        return False
    if task.section_id is not None and (section is None or section.is_archived):
        return False
    if task.parent_id is not None and task.parent_id not in mirror.tasks:
        return False
    before = mirror.tasks.get(task.task_id)
    has_moved = before is not None and _place(before) != _place(task)
    return not has_moved or all(each.parent_id != task.task_id for each in mirror.tasks.values())


def _is_archived(mirror: Mirror, project_id: str | None) -> bool:
    """Return whether a project or one above it is archived."""
    projects = mirror.directory.projects
    return any(projects[each].is_archived for each in _with_ancestors(mirror, project_id) if each in projects)


def _with_ancestors(mirror: Mirror, project_id: str | None) -> list[str]:
    """Return a project and those above it, as far as they are known."""
    found = list[str]()
    while project_id is not None and project_id not in found:
        found.append(project_id)
        project = mirror.directory.projects.get(project_id)
        project_id = project.parent_id if project else None
    return found


def _place(task: TodoistTask) -> tuple[str | None, str | None, str | None]:
    return task.project_id, task.section_id, task.parent_id


@dataclass(frozen=True)
class EventAudit:
    """A real answer beside the mirror that events made.

    n_changes: objects that last changed in the audited time, if the answer has the time of the change.
    n_missed: those of them whose change no event reported.
    has_confirmed: whether the answer shows the change of an event.
    """

    n_changes: int
    n_missed: int
    has_confirmed: bool


def audit_events(
    expected: FoldedEvents,
    answer: Mirror,
    last_sync: SyncPeriod,
    audited: tuple[datetime, datetime],
    changed_at: Mapping[ObjectKey, datetime],
) -> EventAudit:
    """Compare the mirror with all events in it with Todoist's answer.

    audited: since when changes count, and the instant of the answer; the event of a change within `DELAY_BOUND` of it
    may still come. changed_at: when places and ended tasks last changed by the answer, see `Folded`.

    Left out are objects with an undecided event, tasks in a place or below a task with one, and after an event of a
    label all tasks with labels. Left out are also changes without a time in the answer, whether an event reported
    them or not: a full answer has no time for a task that has ended.
    """
    undecided = {event.key for event in expected.undecided}
    since, now = audited
    judged = {
        key
        for key in _changed(expected, answer, last_sync)
        if not _depends_on(undecided, key, expected.mirror, answer)
        and (at := _last_change(answer, key, changed_at)) is not None
        and since <= at <= now - DELAY_BOUND
    }
    missed = judged & _different(expected.mirror, answer)
    return EventAudit(len(judged), len(missed), any(_agrees(event, expected, answer) for event in expected.folded))


def _changed(expected: FoldedEvents, answer: Mirror, last_sync: SyncPeriod) -> set[ObjectKey]:
    """Return the objects that changed since the last call, by their own instants, by events or by the answer."""
    by_answer = {
        ("item", task_id)
        for task_id, task in answer.tasks.items()
        if task.updated_at is not None and task.updated_at > last_sync.ended_at
    }
    by_events = {
        ("item" if kind == DESCENDANT else kind, object_id)
        for (kind, object_id), at in expected.instants.items()
        if at > last_sync.ended_at
    }
    return by_answer | by_events | _different(expected.mirror, answer)


def _different(expected: Mirror, answer: Mirror) -> set[ObjectKey]:
    """Return the objects with different mirrored fields.

    A place that is missing in the answer tells nothing: a full answer leaves out what is in the archive, and what is
    in archived places. If the place ended, its tasks tell.
    """
    return {
        *_differing(
            "item", expected.tasks.keys(), _without_instants(expected.tasks), _without_instants(answer.tasks)
        ),
        *_differing("project", (), _active(expected.directory.projects), _active(answer.directory.projects)),
        *_differing("section", (), _active(expected.directory.sections), _active(answer.directory.sections)),
    }


def _differing(
    kind: str, keys: Collection[str], expected: Mapping[str, object], answer: Mapping[str, object]
) -> Iterable[ObjectKey]:
    """Return the objects of the answer, and those with some further keys, that differ from the expected ones."""
    return ((kind, key) for key in {*keys, *answer} if expected.get(key) != answer.get(key))


def _without_instants(tasks: Mapping[str, TodoistTask]) -> dict[str, TodoistTask]:
    return {task_id: replace(task, updated_at=None) for task_id, task in tasks.items()}


def _active(places: Mapping[str, Any]) -> dict[str, object]:
    return {key: place for key, place in places.items() if not place.is_archived}


def _depends_on(undecided: Collection[ObjectKey], key: ObjectKey, *mirrors: Mirror) -> bool:
    """Return whether an object, its places, a task above it or possibly its labels are among some objects."""
    if key in undecided:
        return True
    kind, object_id = key
    if not undecided or kind != "item":
        return False
    has_label = any(each == "label" for each, _ in undecided)
    for mirror in mirrors:
        task, seen = mirror.tasks.get(object_id), set[str]()
        if has_label and task is not None and task.labels:
            return True
        while task is not None and task.task_id not in seen:
            seen.add(task.task_id)
            projects = {("project", each) for each in _with_ancestors(mirror, task.project_id)}
            if not projects.union({("section", task.section_id), ("item", task.parent_id)}).isdisjoint(undecided):
                return True
            task = mirror.tasks.get(task.parent_id or "")
    return False


def _last_change(answer: Mirror, key: ObjectKey, changed_at: Mapping[ObjectKey, datetime]) -> datetime | None:
    """Return the time of an object's last change; None if it is not in the answer."""
    task = answer.tasks.get(key[1]) if key[0] == "item" else None
    return task.updated_at if task else changed_at.get(key)


def _agrees(event: PendingEvent, expected: FoldedEvents, answer: Mirror) -> bool:
    """Return whether an answer shows a task as an event reported it, or lacks a task that the event ended."""
    if event.object_type != "item":
        return False
    if is_ended(event.form):
        return event.object_id not in answer.tasks
    shown, reported = answer.tasks.get(event.object_id), expected.mirror.tasks.get(event.object_id)
    if shown is None or reported is None:
        return False
    return replace(shown, updated_at=None) == replace(reported, updated_at=None)
