"""The differences between two contexts, as sentences."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.diff import differences
from contexts.assembly.model import (
    BUCKETS,
    Counts,
    Profile,
    Reaction,
    Reactions,
    Signals,
    Task,
    TaskGroups,
    TaskView,
    Theme,
    ThemeView,
    UserContext,
)

MONDAY = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
REPORT = Task("t1", "Write the report", due_date="2026-11-24")
FENCE = Task("t2", "Paint the fence")


def context(
    *tasks: Task, now: datetime = MONDAY, tokens: int = 20_000, timezone: str = "UTC", **more: Any
) -> UserContext:
    """A context as the assembler makes it."""
    groups = TaskGroups(more.pop("themes", ()), more.pop("duplicates", ()))
    signals = Signals("ann", timezone, more.pop("language", "en"), tasks, groups, **more)
    return UserContext.model_validate_json(assemble(signals, now, Budget(tokens)).context_json)


def sentences(before: Task, after: Task) -> list[str]:
    """The sentences about one task that changed."""
    return differences(context(before), context(after))


def report(**changes: Any) -> Task:
    return Task(**{**vars(REPORT), **changes})


class TestWhole:
    def test_first(self) -> None:
        """The sentence about a first context gives the number of its tasks and themes."""
        spring = Theme("a", "Spring", (), ("t1", "t2"))
        assert differences(None, context(REPORT, FENCE, themes=(spring,))) == ["first context: 2 open tasks, 1 theme"]

    def test_nothing(self) -> None:
        """Two equal contexts have no differences."""
        assert differences(context(REPORT, FENCE), context(FENCE, REPORT)) == []

    def test_most_important_first(self) -> None:
        """Moves come before new, missing and edited tasks, and tasks before reactions."""
        before = context(REPORT, FENCE, Task("t3", "Call Bob"))
        done = Reaction("1", "focus", "", "done", MONDAY)
        after = context(
            REPORT, Task("t2", "Paint the gate"), Task("t4", "Buy milk"), now=MONDAY + DAY, reactions=(done,)
        )
        assert differences(before, after) == [
            "task 'Write the report' moved from this week to today",
            "task 'Buy milk' was added, without a date",
            "task 'Call Bob' is no longer open",
            "task 'Paint the fence' is now called 'Paint the gate'",
            "tips of kind 'focus': 1 done (was 0)",
        ]


class TestDays:
    @pytest.mark.parametrize(
        ("days", "change"),
        [
            (-6, "moved from later to this week"),
            (1, "moved from this week to today"),
            (2, "became overdue"),
        ],
    )
    def test_days_passed(self, days: int, change: str) -> None:
        """A task with an unchanged date moves to a different bucket when days pass."""
        before = context(REPORT, now=MONDAY - 7 * DAY if days < 0 else MONDAY)
        after = context(REPORT, now=MONDAY + days * DAY if days > 0 else MONDAY)
        assert differences(before, after) == [f"task 'Write the report' {change}"]

    @pytest.mark.parametrize(
        ("old", "new", "change"),
        [
            ("2026-11-25", "2026-11-26", "is now due 2026-11-26 (was 2026-11-25)"),
            ("2026-11-23", "2026-12-01", "moved from today to later, now due 2026-12-01 (was 2026-11-23)"),
            ("2026-11-23", None, "moved from today to no date (was due 2026-11-23)"),
            (None, "2026-11-23", "moved from no date to today, now due 2026-11-23"),
            (
                "2026-11-23",
                "2026-11-23T09:00:00",
                "is now due 2026-11-23 09:00:00+00:00 (was 2026-11-23)",
            ),
        ],
    )
    def test_different_date(self, old: str | None, new: str | None, change: str) -> None:
        """The sentence about a changed date gives both dates, and both buckets if they differ."""
        assert sentences(report(due_date=old), report(due_date=new)) == [f"task 'Write the report' {change}"]

    def test_deadline(self) -> None:
        """A task with only a deadline is added with it, moves with it, and becomes overdue by it."""
        task = report(due_date=None, deadline_date="2026-11-24")
        assert differences(context(), context(task)) == [
            "task 'Write the report' was added, with deadline 2026-11-24 (this week)"
        ]
        assert differences(context(task), context(task, now=MONDAY + 2 * DAY)) == [
            "task 'Write the report' became overdue"
        ]
        assert sentences(report(due_date=None), task) == [
            "task 'Write the report' moved from no date to this week",
            "task 'Write the report' has deadline 2026-11-24 now (was none)",
        ]

    def test_deadline_remains(self) -> None:
        """A task that loses its due date and keeps its deadline is not called a task without a date."""
        task = report(deadline_date="2026-11-24")
        assert sentences(task, report(due_date=None, deadline_date="2026-11-24")) == [
            "task 'Write the report' has no due date now (was due 2026-11-24)"
        ]

    @pytest.mark.parametrize("days", [2, 12])
    def test_dated_by(self, days: int) -> None:
        """A context from before deadlines counted differs from one in which the deadline comes first."""
        deadline = f"{MONDAY + DAY:%Y-%m-%d}"
        after = context(report(due_date=f"{MONDAY + days * DAY:%Y-%m-%d}", deadline_date=deadline))
        [view] = after.tasks["this_week"]
        before = after.model_copy(update={"tasks": {"this_week": (view.model_copy(update={"dated_by": "due"}),)}})
        assert differences(before, after) == ["task 'Write the report' is dated by its deadline now"]

    def test_recurring(self) -> None:
        """The sentence about a recurring task's date says that it recurs, because it may have been done once."""
        old, new = (report(due_date=day, is_recurring=True) for day in ("2026-11-23", "2026-11-24"))
        [sentence] = sentences(old, new)
        assert sentence.endswith("moved from today to this week, now due 2026-11-24 (was 2026-11-23; recurring)")


class TestEdits:
    @pytest.mark.parametrize(
        ("old", "new", "change"),
        [
            ({"title": "Write it"}, {"title": "Send it"}, "task 'Write it' is now called 'Send it'"),
            ({"priority": 1}, {"priority": 4}, "has priority p1 now (was p4)"),
            ({}, {"project": "Home"}, "moved to project 'Home'"),
            ({"project": "Home"}, {"project": "Work"}, "moved from project 'Home' to 'Work'"),
            ({"project": "Home"}, {}, "left project 'Home'"),
            ({"section": "Garden"}, {"section": "Roof"}, "moved from section 'Garden' to 'Roof'"),
            ({"parent": "Party"}, {"parent": "Trip"}, "moved from parent task 'Party' to 'Trip'"),
            ({}, {"deadline_date": "2026-12-01"}, "has deadline 2026-12-01 now (was none)"),
            ({"deadline_date": "2026-12-01"}, {}, "has no deadline now (was 2026-12-01)"),
            ({"duration_minutes": 1}, {"duration_minutes": 30}, "has duration 30 minutes now (was 1 minute)"),
            ({}, {"is_recurring": True}, "is now recurring"),
            ({"is_recurring": True}, {}, "is no longer recurring"),
            ({"labels": ("a", "b")}, {"labels": ("b",)}, "lost label 'a'"),
            ({}, {"labels": ("a",)}, "gained label 'a'"),
            ({}, {"is_by_others": True}, "is no longer told to the LLM, as somebody else may have added it"),
            ({"is_by_others": True}, {}, "is told to the LLM now, as the user added it"),
            ({}, {"is_shared": True}, "is in a shared project now"),
            ({"is_shared": True}, {}, "is no longer in a shared project"),
            ({}, {"is_parent_by_others": True}, "has a parent task of somebody else now"),
            ({"is_parent_by_others": True}, {}, "has no parent task of somebody else now"),
        ],
    )
    def test_edited(self, old: dict[str, Any], new: dict[str, Any], change: str) -> None:
        """Every attribute of a task that a context shows has a sentence for its change."""
        [sentence] = sentences(report(**old), report(**new))
        assert sentence == (change if change.startswith("task") else f"task 'Write the report' {change}")

    def test_same_change_of_many_tasks(self) -> None:
        """A change of more than three tasks is one sentence that names three of them."""
        before = [report(task_id=f"t{n}", title=f"Step {n}", project="Home") for n in range(5)]
        after = [report(task_id=f"t{n}", title=f"Step {n}", project="House") for n in range(5)]
        names = "'Step 0', 'Step 1', 'Step 2' and 2 more"
        assert differences(context(*before), context(*after)) == [
            f"5 tasks ({names}) moved from project 'Home' to 'House'"
        ]
        assert differences(context(*before), context()) == [f"5 tasks ({names}) are no longer open"]

    def test_hostile_title(self) -> None:
        """No control character reaches a terminal: no escape sequence, no line end, no change of text direction."""
        signs = TaskView(id="t1", title="\x1b[31mred\u202e\r\nnew\u2028line\u200b 👩\u200d🚀", due="2026\x07")
        counts = Counts(open=1, shown=1, overdue=0, today=1, this_week=0, later=0, someday=0)
        after = context().model_copy(update={"tasks": {"today": (signs,)}, "counts": counts})
        assert differences(context(), after) == ["task '[31mred new line 👩\u200d🚀' was added, due 2026 (today)"]


class TestBudget:
    """A task that is not shown may still be open if the budget is too small for all tasks; the counts tell."""

    many = tuple(Task(f"t{n:03}", f"Something to do, number {n:03}", due_date="2026-11-23") for n in range(60))
    undated = tuple(Task(f"u{n:03}", f"Some time or other, number {n:03}") for n in range(60))

    def test_no_longer_shown(self) -> None:
        """The least urgent tasks shown before may still be open when they are no longer shown."""
        before = context(*self.many[10:], tokens=600)
        after = context(*self.many, tokens=600)
        assert before.counts.shown == after.counts.shown
        [shown, hidden, counts] = differences(before, after)
        assert shown.startswith("10 tasks ('Something to do, number 000', ")
        assert shown.endswith(" are now shown, due 2026-11-23 (today), and may have been open before")
        assert hidden.endswith(" are no longer shown, and may still be open")
        assert counts == "open tasks that are not shown: 10 more (today)"

    def test_not_cut_off(self) -> None:
        """A task more urgent than the last one shown was not cut off: it is completed, or was postponed."""
        before, after = (context(*tasks, *self.undated, tokens=600) for tasks in ((REPORT,), ()))
        sentence = differences(before, after)[1]
        assert sentence == "task 'Write the report' is no longer open, or was postponed beyond the tasks shown"

    def test_all_tasks_fit(self) -> None:
        """If all open tasks are shown, a missing task is no longer open, and an additional one is new."""
        before = context(*self.many, tokens=600)
        [gone, _] = differences(before, context(self.many[0]))
        assert gone.endswith(" are no longer open")
        [new, *_] = differences(context(self.many[0]), context(self.many[0], REPORT))
        assert new == "task 'Write the report' was added, due 2026-11-24 (this week)"

    def test_only_counts(self) -> None:
        """A change among tasks that are not shown is a number, by bucket."""
        before, after = (context(*self.many, *self.undated[:n], tokens=600) for n in (0, 2))
        assert differences(before, after) == ["open tasks that are not shown: 2 more (no date)"]
        moved = (*self.many[:-1], Task("t059", "Something to do, number 059", due_date="2026-11-24"))
        assert differences(before, context(*moved, tokens=600)) == [
            "open tasks that are not shown: 1 fewer (today), 1 more (this week)"
        ]


class TestDuplicates:
    MILK, MORE, AGAIN = Task("a", "buy milk"), Task("b", "milk"), Task("c", "Milk")

    def context(self, *tasks: Task, together: bool = True) -> UserContext:
        groups = (tuple((task.task_id, task.title_hash) for task in tasks),) if together else ()
        return context(*tasks, duplicates=groups)

    def test_becomes_a_duplicate(self) -> None:
        """A task that becomes a duplicate is not called completed, and not new when it is shown again."""
        apart, as_one = self.context(self.MILK, self.MORE, together=False), self.context(self.MILK, self.MORE)
        assert differences(apart, as_one) == ["task 'milk' is shown as a duplicate of 'buy milk'"]
        assert differences(as_one, apart) == ["task 'milk' is shown separately"]

    def test_number_of_duplicates(self) -> None:
        """A duplicate that was never shown itself is counted when it is added or removed."""
        two, three = self.context(self.MILK, self.MORE), self.context(self.MILK, self.MORE, self.AGAIN)
        assert differences(two, three) == ["task 'buy milk' has 1 more duplicate"]
        assert differences(three, two) == ["task 'buy milk' has 1 fewer duplicate"]

    def test_a_different_one_is_shown(self) -> None:
        """If a different duplicate is the most urgent now, there is a sentence about both."""
        before, after = self.context(self.MILK, self.MORE), self.context(self.MILK, replace(self.MORE, priority=4))
        assert differences(before, after) == [
            "task 'milk' is shown separately",
            "task 'buy milk' is shown as a duplicate of 'milk'",
        ]


class TestThemes:
    tasks = tuple(Task(f"t{n}", f"Step {n}") for n in range(5))

    def sentences(self, *themes: tuple[Theme, ...]) -> list[str]:
        before, after = (context(*self.tasks, themes=each) for each in themes)
        return differences(before, after)

    def test_added_and_removed(self) -> None:
        """New and removed themes are named with the number of their tasks."""
        tax, trip = Theme("a", "Tax return", (), ("t0", "t1")), Theme("b", "Trip", (), ("t2", "t3", "t4"))
        assert self.sentences((tax,), (trip,)) == [
            "theme 'Trip' is new, with 3 tasks",
            "theme 'Tax return' is gone (had 2 tasks)",
        ]

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"task_ids": ("t0", "t1")}, "lost 1 task"),
            ({"task_ids": ("t0", "t1", "t2", "t3", "t4")}, "gained 2 tasks"),
            ({"task_ids": ("t0", "t1", "t4")}, "shows different tasks, and has as many as before"),
            ({"label": "Taxes"}, "is now called 'Taxes'"),
            ({"tags": ("money", "forms")}, "gained tag 'forms'"),
            ({"tags": ()}, "lost tag 'money'"),
            ({"is_by_others": True}, "has tasks of somebody else now"),
        ],
    )
    def test_changed(self, change: dict[str, Any], sentence: str) -> None:
        """Every attribute of a theme that a context shows has a sentence for its change."""
        tax = Theme("a", "Tax return", ("money",), ("t0", "t1", "t2"))
        assert self.sentences((tax,), (Theme(**{**vars(tax), **change}),)) == [f"theme 'Tax return' {sentence}"]


class TestReactions:
    @pytest.mark.parametrize(
        ("old", "new", "change"),
        [
            (0, 1, "tips of kind 'quick win': 1 dismissed (was 0)"),
            (0, 2, "tips of kind 'quick win': 2 dismissed (was 0)"),
            (1, 2, "tips of kind 'quick win': 2 dismissed (was 1)"),
            (1, 3, "tips of kind 'quick win': 3 dismissed (was 1)"),
            (3, 2, "tips of kind 'quick win': 2 dismissed (was 3)"),
            (1, 0, "tips of kind 'quick win': 0 dismissed (was 1)"),
        ],
    )
    def test_by_kind(self, old: int, new: int, change: str) -> None:
        """A changed count of reactions to a kind of tip gives both counts; it falls when old reactions expire."""
        before, after = (
            context(reactions=tuple(Reaction("1", "quick_win", "", "dismissed", MONDAY - 2 * DAY) for _ in range(n)))
            for n in (old, new)
        )
        assert differences(before, after) == [change]

    def test_by_theme(self) -> None:
        """Reactions to tips about a theme name its label, or say that the theme is not shown."""
        tax, pair = Theme("a", "Tax return", (), ("t1", "t2")), (REPORT, FENCE)
        reactions = tuple(Reaction("1", "", theme, "done", MONDAY - DAY) for theme in ("a", "b"))
        assert differences(context(*pair, themes=(tax,)), context(*pair, themes=(tax,), reactions=reactions)) == [
            "tips about theme 'Tax return': 1 done (was 0)",
            "tips about a theme that is not shown ('b'): 1 done (was 0)",
        ]


def test_profile() -> None:
    """A changed time zone or language comes first, because it may be the cause of all other changes."""
    assert differences(context(REPORT), context(timezone="Asia/Tokyo", language="ja")) == [
        "the time zone is now 'Asia/Tokyo' (was 'UTC')",
        "the language is now 'ja' (was 'en')",
        "task 'Write the report' is no longer open",
    ]


few = st.sampled_from(["a", "b", "c\x1b[2J", ""])
numbers = st.integers(0, 2)
views = st.builds(
    TaskView,
    id=st.sampled_from(["t1", "t2", "t3"]),
    title=few,
    priority=st.sampled_from(["p1", "p4"]),
    project=st.none() | few,
    section=st.none() | few,
    labels=st.lists(few, max_size=2).map(tuple),
    due=st.none() | st.sampled_from(["2026-11-24", "2026-11-24T09:00:00+01:00"]),
    recurring=st.booleans(),
    deadline=st.none() | few,
    minutes=st.none() | numbers,
    by_others=st.booleans(),
    shared=st.booleans(),
    parent_by_others=st.booleans(),
)
themes = st.builds(
    ThemeView,
    id=few,
    label=few,
    tags=st.lists(few, max_size=2).map(tuple),
    n_tasks=numbers,
    task_ids=st.lists(few, max_size=2).map(tuple),
    by_others=st.booleans(),
)
tallies = st.dictionaries(few, st.dictionaries(few, numbers, max_size=2), max_size=2)
contexts = st.builds(
    UserContext,
    profile=st.builds(Profile, timezone=few, language=few),
    counts=st.builds(Counts, **dict.fromkeys(("open", "shown", *BUCKETS), numbers)),
    tasks=st.dictionaries(st.sampled_from(BUCKETS), st.lists(views, max_size=3).map(tuple), max_size=3),
    themes=st.lists(themes, max_size=3).map(tuple),
    reactions=st.builds(Reactions, by_kind=tallies, by_theme=tallies),
)


@settings(max_examples=300, deadline=None)
@given(before=contexts, after=contexts)
@example(before=context(), after=context().model_copy(update={"tasks": {"today": ()}}))
def test_every_difference_has_a_sentence(before: UserContext, after: UserContext) -> None:
    """Two contexts have sentences if and only if they differ, and all sentences are printable."""
    sentences = differences(before, after)
    assert bool(sentences) == (before != after)
    assert all(sentence.isprintable() for sentence in sentences)
    assert differences(before, before.model_copy(deep=True)) == []


lists = st.lists(
    st.builds(
        Task,
        task_id=st.sampled_from(["t1", "t2", "t3", "t4"]),
        title=few,
        priority=st.integers(1, 4),
        project=st.none() | few,
        section=st.none() | few,
        labels=st.lists(few, max_size=2, unique=True).map(tuple),
        due_date=st.none() | st.sampled_from(["2026-11-22", "2026-11-24", "2026-12-24"]),
        is_recurring=st.booleans(),
        deadline_date=st.none() | st.sampled_from(["2026-11-22", "2026-11-25", "2026-12-24"]),
        parent=st.none() | few,
        duration_minutes=st.none() | st.integers(1, 2),
        is_by_others=st.booleans(),
        is_shared=st.booleans(),
        is_parent_by_others=st.booleans(),
    ),
    max_size=4,
    unique_by=lambda task: task.task_id,
)
groups = st.builds(Theme, st.just("a"), few, st.just(("b",)), st.just(("t1", "t2", "t3")), st.booleans())
reacted = st.builds(Reaction, st.just("1"), few, few, st.sampled_from(["done", "ignored"]), st.just(MONDAY - DAY))


@st.composite
def assembled(draw: st.DrawFn) -> tuple[UserContext, UserContext]:
    """Two contexts as the assembler makes them, of signals that differ in at most one respect."""
    drawn: dict[str, st.SearchStrategy[Any]] = {
        "tasks": lists,
        "themes": st.lists(groups, max_size=1),
        "reactions": st.lists(reacted, max_size=3),
        "tokens": st.sampled_from([100, 200, 2000]),
        "now": st.sampled_from([MONDAY, MONDAY + 2 * DAY]),
        "language": few,
    }
    values = {name: draw(strategy) for name, strategy in drawn.items()}
    name = draw(st.sampled_from(sorted(drawn)))
    before, after = dict(values), {**values, name: draw(drawn[name])}
    return context(*before.pop("tasks"), **before), context(*after.pop("tasks"), **after)


@settings(max_examples=300, deadline=None)
@given(pair=assembled())
def test_every_assembled_difference_is_specific(pair: tuple[UserContext, UserContext]) -> None:
    """Every difference between assembled contexts has its own sentence, not the one about their order."""
    sentences = differences(*pair)
    assert bool(sentences) == (pair[0] != pair[1])
    assert "the same content in a different order" not in sentences


def test_order() -> None:
    """A different order alone is a difference with its own sentence."""
    before = context(REPORT, Task("t3", "Call Bob", due_date="2026-11-24"))
    reversed_ = before.model_copy(update={"tasks": {name: views[::-1] for name, views in before.tasks.items()}})
    assert differences(before, reversed_) == ["the same content in a different order"]
