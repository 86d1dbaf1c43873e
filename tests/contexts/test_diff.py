"""What changed between two contexts, in words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contexts.assemble import Budget, assemble
from contexts.diff import differences
from contexts.model import (
    BUCKETS,
    Counts,
    Groups,
    Profile,
    Reaction,
    Reactions,
    Signals,
    Task,
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
    groups = Groups(more.pop("themes", ()), more.pop("alike", ()))
    signals = Signals("ann", timezone, more.pop("language", "en"), tasks, groups, **more)
    return UserContext.model_validate_json(assemble(signals, now, Budget(tokens)).context_json)


def told(before: Task, after: Task) -> list[str]:
    """What is said of one task that changed."""
    return differences(context(before), context(after))


def report(**changes: Any) -> Task:
    return Task(**{**vars(REPORT), **changes})


class TestWhole:
    def test_first(self) -> None:
        """Of a first context it is said how much there is."""
        group = Theme("a", "Spring", (), ("t1", "t2"))
        assert differences(None, context(REPORT, FENCE, themes=(group,))) == ["first context: 2 open tasks, 1 theme"]

    def test_nothing(self) -> None:
        """Of two equal contexts there is nothing to say."""
        assert differences(context(REPORT, FENCE), context(FENCE, REPORT)) == []

    def test_most_telling_first(self) -> None:
        """What moved comes before what came, went, or was only edited, and tasks before reactions."""
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
            "tip kind 'focus' done",
        ]


class TestDays:
    @pytest.mark.parametrize(
        ("days", "said"),
        [
            (-6, "moved from later to this week"),
            (1, "moved from this week to today"),
            (2, "became overdue"),
        ],
    )
    def test_days_went_by(self, days: int, said: str) -> None:
        """A task of the same date that stands elsewhere moved because days went by."""
        before = context(REPORT, now=MONDAY - 7 * DAY if days < 0 else MONDAY)
        after = context(REPORT, now=MONDAY + days * DAY if days > 0 else MONDAY)
        assert differences(before, after) == [f"task 'Write the report' {said}"]

    @pytest.mark.parametrize(
        ("old", "new", "said"),
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
    def test_another_date(self, old: str | None, new: str | None, said: str) -> None:
        """Of a task with another date both dates are told, and where it moved by it."""
        assert told(report(due_date=old), report(due_date=new)) == [f"task 'Write the report' {said}"]

    def test_recurring(self) -> None:
        """Of a recurring task with another date it is said that it recurs: it may just have been done once."""
        old, new = (report(due_date=day, is_recurring=True) for day in ("2026-11-23", "2026-11-24"))
        [said] = told(old, new)
        assert said.endswith("moved from today to this week, now due 2026-11-24 (was 2026-11-23; recurring)")


class TestEdits:
    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ({"content": "Write it"}, {"content": "Send it"}, "task 'Write it' is now called 'Send it'"),
            ({"priority": 1}, {"priority": 4}, "has priority p1 now (had p4)"),
            ({}, {"project": "Home"}, "came into project 'Home'"),
            ({"project": "Home"}, {"project": "Work"}, "moved from project 'Home' to 'Work'"),
            ({"project": "Home"}, {}, "left project 'Home'"),
            ({"section": "Garden"}, {"section": "Roof"}, "moved from section 'Garden' to 'Roof'"),
            ({}, {"deadline_date": "2026-12-01"}, "has deadline 2026-12-01 now (had none)"),
            ({"deadline_date": "2026-12-01"}, {}, "has no deadline any more (had 2026-12-01)"),
            ({"duration_minutes": 1}, {"duration_minutes": 30}, "has duration 30 minutes now (had 1 minute)"),
            ({}, {"is_recurring": True}, "is recurring now"),
            ({"is_recurring": True}, {}, "is recurring no more"),
            ({"labels": ("a", "b")}, {"labels": ("b",)}, "lost label 'a'"),
            ({}, {"labels": ("a",)}, "got label 'a'"),
        ],
    )
    def test_edited(self, old: dict[str, Any], new: dict[str, Any], said: str) -> None:
        """Each thing that a context shows of a task is told when it changes."""
        [sentence] = told(report(**old), report(**new))
        assert sentence == (said if said.startswith("task") else f"task 'Write the report' {said}")

    def test_the_same_of_many(self) -> None:
        """What is to be said of more than three tasks is said once, and three of them are named."""
        before = [report(task_id=f"t{n}", content=f"Step {n}", project="Home") for n in range(5)]
        after = [report(task_id=f"t{n}", content=f"Step {n}", project="House") for n in range(5)]
        some = "'Step 0', 'Step 1', 'Step 2' and 2 more"
        assert differences(context(*before), context(*after)) == [
            f"5 tasks ({some}) moved from project 'Home' to 'House'"
        ]
        assert differences(context(*before), context()) == [f"5 tasks ({some}) are no longer open"]

    def test_hostile_title(self) -> None:
        """What a terminal would obey does not reach it: no escapes, no line ends, nothing that turns text round."""
        signs = TaskView(id="t1", title="\x1b[31mred\u202e\r\nnew\u2028line\u200b 👩\u200d🚀", due="2026\x07")
        counts = Counts(open=1, shown=1, overdue=0, today=1, this_week=0, later=0, someday=0)
        after = context().model_copy(update={"tasks": {"today": (signs,)}, "counts": counts})
        assert differences(context(), after) == ["task '[31mred new line 👩\u200d🚀' was added, due 2026 (today)"]


class TestBudget:
    """Where not all fits, what is not shown may still be open; what is counted says which."""

    many = tuple(Task(f"t{n:03}", f"Something to do, number {n:03}", due_date="2026-11-23") for n in range(60))
    undated = tuple(Task(f"u{n:03}", f"Some time or other, number {n:03}") for n in range(60))

    def test_no_longer_shown(self) -> None:
        """Of the last that were shown it cannot be said that they are not open any more."""
        before = context(*self.many[10:], tokens=600)
        after = context(*self.many, tokens=600)
        assert before.counts.shown == after.counts.shown
        [came, went, counts] = differences(before, after)
        assert came.startswith("10 tasks ('Something to do, number 000', ")
        assert came.endswith(" are shown now, due 2026-11-23 (today), and may have been open before")
        assert went.endswith(" are no longer shown, and may still be open")
        assert counts == "open tasks that are not shown: 10 more (today)"

    def test_not_cut_off(self) -> None:
        """A task that stood before others which are still shown was not cut off: it is done, or was put off."""
        before, after = (context(*tasks, *self.undated, tokens=600) for tasks in ((REPORT,), ()))
        said = differences(before, after)[1]
        assert said == "task 'Write the report' is no longer open, or was put off beyond what is shown"

    def test_all_is_shown(self) -> None:
        """Where all that is open is shown, a task that is not shown is not open any more, and another one is new."""
        before = context(*self.many, tokens=600)
        [gone, _] = differences(before, context(self.many[0]))
        assert gone.endswith(" are no longer open")
        [new, *_] = differences(context(self.many[0]), context(self.many[0], REPORT))
        assert new == "task 'Write the report' was added, due 2026-11-24 (this week)"

    def test_only_counts(self) -> None:
        """What changed behind what is shown is told in numbers, by bucket."""
        before, after = (context(*self.many, *self.undated[:n], tokens=600) for n in (0, 2))
        assert differences(before, after) == ["open tasks that are not shown: 2 more (no date)"]
        moved = (*self.many[:-1], Task("t059", "Something to do, number 059", due_date="2026-11-24"))
        assert differences(before, context(*moved, tokens=600)) == [
            "open tasks that are not shown: 1 fewer (today), 1 more (this week)"
        ]


class TestDoubles:
    MILK, MORE, AGAIN = Task("a", "buy milk"), Task("b", "milk"), Task("c", "Milk")

    def context(self, *tasks: Task, together: bool = True) -> UserContext:
        groups = (tuple((task.task_id, task.content_hash) for task in tasks),) if together else ()
        return context(*tasks, alike=groups)

    def test_shown_as_one(self) -> None:
        """A task that is not shown because another says the same is not called done, nor new when it is again."""
        apart, as_one = self.context(self.MILK, self.MORE, together=False), self.context(self.MILK, self.MORE)
        assert differences(apart, as_one) == ["task 'milk' is shown as one with 'buy milk'"]
        assert differences(as_one, apart) == ["task 'milk' is shown by itself"]

    def test_doubles_come_and_go(self) -> None:
        """A double that was never shown is counted where it comes and where it goes."""
        two, three = self.context(self.MILK, self.MORE), self.context(self.MILK, self.MORE, self.AGAIN)
        assert differences(two, three) == ["task 'buy milk' has 1 double more"]
        assert differences(three, two) == ["task 'buy milk' has 1 double fewer"]

    def test_another_stands_for_them(self) -> None:
        """Where a more pressing one stands for the others it is told so of both."""
        before, after = self.context(self.MILK, self.MORE), self.context(self.MILK, replace(self.MORE, priority=4))
        assert differences(before, after) == [
            "task 'milk' is shown by itself",
            "task 'buy milk' is shown as one with 'milk'",
        ]


class TestThemes:
    tasks = tuple(Task(f"t{n}", f"Step {n}") for n in range(5))

    def told(self, *themes: tuple[Theme, ...]) -> list[str]:
        before, after = (context(*self.tasks, themes=each) for each in themes)
        return differences(before, after)

    def test_came_and_went(self) -> None:
        """Themes that came or went are named with how many tasks they have."""
        tax, trip = Theme("a", "Tax return", (), ("t0", "t1")), Theme("b", "Trip", (), ("t2", "t3", "t4"))
        assert self.told((tax,), (trip,)) == [
            "theme 'Trip' appeared, with 3 tasks",
            "theme 'Tax return' is gone (had 2 tasks)",
        ]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"task_ids": ("t0", "t1")}, "lost 1 task"),
            ({"task_ids": ("t0", "t1", "t2", "t3", "t4")}, "gained 2 tasks"),
            ({"task_ids": ("t0", "t1", "t4")}, "shows other tasks, and counts as many as before"),
            ({"label": "Taxes"}, "is now called 'Taxes'"),
            ({"tags": ("money", "forms")}, "got tag 'forms'"),
            ({"tags": ()}, "lost tag 'money'"),
        ],
    )
    def test_changed(self, change: dict[str, Any], said: str) -> None:
        """Each thing that a context shows of a theme is told when it changes."""
        tax = Theme("a", "Tax return", ("money",), ("t0", "t1", "t2"))
        assert self.told((tax,), (Theme(**{**vars(tax), **change}),)) == [f"theme 'Tax return' {said}"]


class TestReactions:
    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            (0, 1, "tip kind 'quick win' dismissed"),
            (0, 2, "tip kind 'quick win' dismissed 2 times"),
            (1, 2, "tip kind 'quick win' dismissed once more"),
            (1, 3, "tip kind 'quick win' dismissed 2 times more"),
            (3, 2, "tip kind 'quick win': dismissed counted 3, now 2"),
            (1, 0, "tip kind 'quick win': dismissed counted 1, now 0"),
        ],
    )
    def test_by_kind(self, old: int, new: int, said: str) -> None:
        """How often a kind of tip got a reaction: once more, or fewer because the old ones count no more."""
        before, after = (
            context(reactions=tuple(Reaction("1", "quick_win", "", "dismissed", MONDAY - 2 * DAY) for _ in range(n)))
            for n in (old, new)
        )
        assert differences(before, after) == [said]

    def test_by_theme(self) -> None:
        """Reactions to tips about a theme name it as the user sees it, or say that it is not shown."""
        tax, pair = Theme("a", "Tax return", (), ("t1", "t2")), (REPORT, FENCE)
        reactions = tuple(Reaction("1", "", theme, "done", MONDAY - DAY) for theme in ("a", "b"))
        assert differences(context(*pair, themes=(tax,)), context(*pair, themes=(tax,), reactions=reactions)) == [
            "tips about theme 'Tax return' done",
            "tips about a theme that is not shown ('b') done",
        ]


def test_profile() -> None:
    """Another time zone or language comes first: it may be the cause of all the rest."""
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
)
themes = st.builds(
    ThemeView,
    id=few,
    label=few,
    tags=st.lists(few, max_size=2).map(tuple),
    n_tasks=numbers,
    task_ids=st.lists(few, max_size=2).map(tuple),
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
def test_any_change_is_told(before: UserContext, after: UserContext) -> None:
    """There is something to say of two contexts if and only if they differ, and all of it can be printed."""
    said = differences(before, after)
    assert bool(said) == (before != after)
    assert all(sentence.isprintable() for sentence in said)
    assert differences(before, before.model_copy(deep=True)) == []


lists = st.lists(
    st.builds(
        Task,
        task_id=st.sampled_from(["t1", "t2", "t3", "t4"]),
        content=few,
        priority=st.integers(1, 4),
        project=st.none() | few,
        section=st.none() | few,
        labels=st.lists(few, max_size=2, unique=True).map(tuple),
        due_date=st.none() | st.sampled_from(["2026-11-22", "2026-11-24", "2026-12-24"]),
        is_recurring=st.booleans(),
        deadline_date=st.none() | st.just("2026-12-24"),
        duration_minutes=st.none() | st.integers(1, 2),
    ),
    max_size=4,
    unique_by=lambda task: task.task_id,
)
groups = st.builds(Theme, st.just("a"), few, st.just(("b",)), st.just(("t1", "t2", "t3")))
reacted = st.builds(Reaction, st.just("1"), few, few, st.sampled_from(["done", "ignored"]), st.just(MONDAY - DAY))


@st.composite
def assembled(draw: st.DrawFn) -> tuple[UserContext, UserContext]:
    """Two contexts as the assembler makes them, of signals that differ in one respect, if at all."""
    drawn: dict[str, st.SearchStrategy[Any]] = {
        "tasks": lists,
        "themes": st.lists(groups, max_size=1),
        "reactions": st.lists(reacted, max_size=3),
        "tokens": st.sampled_from([100, 200, 2000]),
        "now": st.sampled_from([MONDAY, MONDAY + 2 * DAY]),
        "language": few,
    }
    known = {name: draw(each) for name, each in drawn.items()}
    name = draw(st.sampled_from(sorted(drawn)))
    before, after = dict(known), {**known, name: draw(drawn[name])}
    return context(*before.pop("tasks"), **before), context(*after.pop("tasks"), **after)


@settings(max_examples=300, deadline=None)
@given(pair=assembled())
def test_no_change_is_passed_over(pair: tuple[UserContext, UserContext]) -> None:
    """Whatever makes an assembled context another one has words of its own, and is not called a matter of order."""
    said = differences(*pair)
    assert bool(said) == (pair[0] != pair[1])
    assert "the same, written in another order" not in said


def test_order_is_no_silence() -> None:
    """Contexts that show the same in another order differ, and it is said that nothing else does."""
    before = context(REPORT, Task("t3", "Call Bob", due_date="2026-11-24"))
    turned = before.model_copy(update={"tasks": {name: views[::-1] for name, views in before.tasks.items()}})
    assert differences(before, turned) == ["the same, written in another order"]
