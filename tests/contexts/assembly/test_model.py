"""The domain model: groups of tasks as JSON, and the tasks that a context shows."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from strategies import context

from contexts.assembly.model import (
    Counts,
    Profile,
    Reactions,
    Task,
    TaskGroups,
    TaskView,
    Theme,
    UserContext,
    tasks_shown,
    without_tasks,
)

texts = st.text(max_size=20)
ids = st.lists(texts, max_size=4, unique=True).map(sorted).map(tuple)
themes = st.lists(
    st.builds(Theme, texts, texts, st.lists(texts, max_size=2).map(tuple), ids),
    max_size=3,
    unique_by=lambda theme: theme.theme_id,
).map(lambda drawn: tuple(sorted(drawn, key=lambda theme: theme.theme_id)))
groups = st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(sorted).map(tuple)
duplicates = st.lists(groups, max_size=3).map(sorted).map(tuple)


class TestTaskGroups:
    @given(st.builds(TaskGroups, themes, duplicates))
    def test_round_trip(self, task_groups: TaskGroups) -> None:
        """Groups of any texts come back from their JSON."""
        assert TaskGroups.from_json(task_groups.to_json()) == task_groups

    def test_order(self) -> None:
        """The JSON does not depend on the order of themes, tasks and groups."""
        one, two = Theme("a", "A", ("x", "y"), ("t1", "t2")), Theme("b", "B", (), ("t3",))
        first = TaskGroups((one, two), ((("t1", "h1"), ("t2", "h2")), (("t3", "h3"), ("t4", "h4"))))
        again = TaskGroups(
            (two, Theme("a", "A", ("x", "y"), ("t2", "t1"))),
            ((("t4", "h4"), ("t3", "h3")), (("t2", "h2"), ("t1", "h1"))),
        )
        assert first.to_json() == again.to_json()

    def test_form(self) -> None:
        """The stored form has no blanks and no escapes; without groups it is the default of the database column."""
        task_groups = TaskGroups((Theme("a", "Früh", ("x",), ("t1",)),), ((("t1", "h1"), ("t2", "h2")),))
        assert task_groups.to_json() == (
            '{"themes":[{"theme_id":"a","label":"Früh","tags":["x"],"task_ids":["t1"],"is_by_others":false}],'
            '"duplicates":[[["t1","h1"],["t2","h2"]]]}'
        )
        assert json.loads(TaskGroups().to_json()) == {"themes": [], "duplicates": []}


def test_title_hash() -> None:
    """The content hash is the start of the content's sha256, of the content only."""
    assert Task("a", "milk").title_hash == Task("b", "milk", priority=4).title_hash == "8825e76530f87ff5"
    assert Task("a", "Milk").title_hash != Task("a", "milk").title_hash


def test_tasks_shown() -> None:
    """The tasks of all buckets are in order of their buckets, with the bucket of each."""
    view, urgent = TaskView(id="a", title="x"), TaskView(id="b", title="y")
    counts = Counts(open=2, shown=2, overdue=1, today=0, this_week=0, later=0, someday=1)
    context = UserContext(
        profile=Profile(timezone="UTC", language="en"),
        counts=counts,
        tasks={"someday": (view,), "overdue": (urgent,)},
        themes=(),
        reactions=Reactions(by_kind={}, by_theme={}),
    )
    assert list(tasks_shown(context).items()) == [("b", ("overdue", urgent)), ("a", ("someday", view))]


class TestWithoutTasks:
    @given(st.sets(st.integers(0, 9)), st.sets(st.sampled_from(["2026-11-20", "2026-11-23", "2026-12-20", None])))
    def test_as_assembled(self, ended: set[int], days: set[str | None]) -> None:
        """A context without ended tasks is the context that would be assembled from the other tasks."""
        dates = list(days) or [None]
        tasks = [Task(f"t{n}", f"task {n}", due_date=dates[n % len(dates)]) for n in range(7)]
        ended_ids = {f"t{n}" for n in ended}
        expected = context(*(task for task in tasks if task.task_id not in ended_ids))
        assert without_tasks(context(*tasks), ended_ids) == expected

    def test_themes(self) -> None:
        """A theme loses its ended tasks, also from its number."""
        made = context("a", "b", "c", themes={"letters": ["t0", "t1", "t2"]})
        [theme] = without_tasks(made, {"t1"}).themes
        assert (theme.task_ids, theme.n_tasks) == (("t0", "t2"), 2)

    def test_unknown_task(self) -> None:
        """A task that the context does not show changes nothing."""
        made = context("a", "b")
        assert without_tasks(made, {"t9"}) is made
