"""The assembler of contexts: from signals to the bytes of a context."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts.assembly.assemble import (
    MAX_DUPLICATES,
    MAX_REACTION_KEYS,
    MAX_THEMES,
    Budget,
    assemble,
    bucket_of,
    decisive_date,
)
from contexts.assembly.model import BUCKETS, Reaction, Signals, Task, TaskGroups, Theme, UserContext

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)  # a Monday
LARGE = Budget(20_000)
SECOND = timedelta(seconds=1)

# Some of the zones change their clocks at midnight: a day begins at 01:00, or has the hour from 23:00 twice.
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/Santiago",
    "America/Havana",
    "America/Nuuk",
    "Africa/Cairo",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Atlantic/Azores",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Pacific/Marquesas",
    "Etc/GMT+12",
]


def user(*tasks: Task, timezone: str = "UTC", themes: Any = (), duplicates: Any = (), **more: Any) -> Signals:
    return Signals("ann", timezone, "en", tasks, TaskGroups(themes, duplicates), **more)


def context_of(signals: Signals, now: datetime = NOW, budget: Budget = LARGE) -> dict[str, Any]:
    context: dict[str, Any] = json.loads(assemble(signals, now, budget).context_json)
    return context


def shown(context: dict[str, Any]) -> list[str]:
    return [task["id"] for bucket in BUCKETS for task in context["tasks"].get(bucket, ())]


def view(task: Task, timezone: str = "UTC") -> dict[str, Any]:
    """The only task of a context."""
    [[only]] = context_of(user(task, timezone=timezone))["tasks"].values()
    return only


days = st.dates(date(2026, 10, 1), date(2027, 1, 15))
times = st.times()
due_dates = st.one_of(
    st.none(),
    days.map(str),
    st.sampled_from(["1900-01-01", "2199-12-31", "2199-12-31T23:59:59Z", "1900-01-01T00:00:00Z"]),
    st.builds(lambda day, at: datetime.combine(day, at).isoformat(), days, times),
    st.builds(lambda day, at: datetime.combine(day, at).isoformat() + "Z", days, times),
)
words = st.text(max_size=30)
tasks = st.lists(
    st.builds(
        Task,
        task_id=st.text("abcXYZ0123456789", min_size=1, max_size=6),
        title=words,
        priority=st.integers(1, 4),
        project=st.none() | words,
        section=st.none() | words,
        labels=st.lists(words, max_size=3, unique=True).map(tuple),
        due_date=due_dates,
        is_recurring=st.booleans(),
        deadline_date=st.none() | days.map(str),
        duration_minutes=st.none() | st.integers(1, 10_000),
        parent=st.none() | words,
    ),
    max_size=15,
    unique_by=lambda task: task.task_id,
).map(tuple)
instants = st.datetimes(datetime(2026, 10, 1), datetime(2026, 12, 31), timezones=st.just(UTC))
names = st.sampled_from(["work", "home", "עבודה", "仕事", ""])


@st.composite
def any_signals(draw: st.DrawFn) -> Signals:
    drawn_tasks = draw(tasks)
    task_ids = [task.task_id for task in drawn_tasks]
    members = st.lists(st.sampled_from(task_ids), unique=True).map(tuple) if task_ids else st.just(())
    themes = draw(
        st.lists(
            st.builds(Theme, st.text("0123456789abcdef", min_size=1), words, st.lists(words, max_size=3), members),
            max_size=15,
            unique_by=lambda theme: theme.theme_id,
        )
    )
    reactions = draw(
        st.lists(
            st.builds(
                Reaction,
                st.uuids().map(str),
                names,
                st.sampled_from([f"theme {n}" for n in range(12)]),
                st.sampled_from(["done", "dismissed"]),
                instants,
            ),
            max_size=20,
        )
    )
    by_id = {task.task_id: task for task in drawn_tasks}
    groups_of_ids = draw(st.lists(members, max_size=3))
    duplicates = tuple(group(*(by_id[task_id] for task_id in ids)) for ids in groups_of_ids if ids)
    groups = TaskGroups(tuple(themes), duplicates)
    return Signals("ann", draw(st.sampled_from(ZONES)), "en", drawn_tasks, groups, tuple(reactions))


class TestAnyUser:
    @settings(max_examples=70, deadline=None)
    @given(signals=any_signals(), now=instants, tokens=st.integers(400, 2000))
    def test_within_the_budget(self, signals: Signals, now: datetime, tokens: int) -> None:
        """A context is never larger than its budget, and its counts are true."""
        assembled = assemble(signals, now, Budget(tokens))
        assert len(assembled.context_json.encode()) <= tokens * 4
        context = UserContext.model_validate_json(assembled.context_json)
        assert context.counts.open == len(signals.tasks)
        n_shown = [1 + len(view.also) for views in context.tasks.values() for view in views]
        assert context.counts.shown == sum(n_shown) <= context.counts.open
        assert sum(getattr(context.counts, bucket) for bucket in BUCKETS) == len(signals.tasks)
        assert all(len(views) <= getattr(context.counts, bucket) for bucket, views in context.tasks.items())

    @settings(max_examples=50, deadline=None)
    @given(signals=any_signals(), now=instants)
    def test_hash(self, signals: Signals, now: datetime) -> None:
        """The hash is the sha256 of the stored bytes."""
        assembled = assemble(signals, now, LARGE)
        assert assembled.context_hash == sha256(assembled.context_json.encode()).hexdigest()

    @settings(max_examples=70, deadline=None)
    @given(
        signals=any_signals(), now=instants, random=st.randoms(use_true_random=False), tokens=st.integers(300, 1000)
    )
    def test_order_of_arrival(self, signals: Signals, now: datetime, random: Any, tokens: int) -> None:
        """The bytes do not depend on the order in which tasks, labels, themes and reactions arrive."""

        def mixed(things: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(random.sample(things, len(things)))

        shuffled = Signals(
            signals.user_id,
            signals.timezone,
            signals.language,
            mixed(tuple(replace(task, labels=mixed(task.labels)) for task in signals.tasks)),
            TaskGroups(
                mixed(tuple(replace(theme, task_ids=mixed(theme.task_ids)) for theme in signals.groups.themes)),
                tuple(map(mixed, signals.groups.duplicates)),
            ),
            mixed(signals.reactions),
        )
        assert assemble(shuffled, now, Budget(tokens)) == assemble(signals, now, Budget(tokens))

    @settings(max_examples=70, deadline=None)
    @given(signals=any_signals(), now=instants)
    def test_zone_of_the_user(self, signals: Signals, now: datetime) -> None:
        """Every task is in the bucket of the user's date, independent of the zone of the server's clock."""
        today = now.astimezone(ZoneInfo(signals.timezone)).date()
        context = context_of(signals, now, Budget(20_000))
        shown_in = {
            task_id: bucket
            for bucket, views in context["tasks"].items()
            for task in views
            for task_id in (task["id"], *task.get("also", ()))
        }
        zone = ZoneInfo(signals.timezone)
        for task in signals.tasks:
            assert shown_in[task.task_id] == expected_bucket(task, today, zone)
        elsewhere = now.astimezone(ZoneInfo("Pacific/Auckland"))
        assert assemble(signals, elsewhere, LARGE) == assemble(signals, now, LARGE)

    @settings(max_examples=120, deadline=None)
    @given(signals=any_signals(), now=instants, share=st.floats(0, 1))
    def test_valid_until(self, signals: Signals, now: datetime, share: float) -> None:
        """The context changes at valid_until, and at no instant before."""
        first = assemble(signals, now, LARGE)
        until = first.valid_until
        if until is None:
            assert assemble(signals, datetime(2250, 1, 1, tzinfo=UTC), LARGE) == first
            return
        assert until > now
        between = max(now, min(now + (until - now) * share, until - SECOND))
        assert assemble(signals, between, LARGE) == first
        assert assemble(signals, max(now, until - SECOND), LARGE) == first
        assert assemble(signals, until, LARGE).context_hash != first.context_hash


def expected_bucket(task: Task, today: date, zone: ZoneInfo) -> str:
    instants = [datetime.fromisoformat(text) for text in (task.due_date, task.deadline_date) if text]
    if not instants:
        return "someday"
    day = min((instant.astimezone(zone) if instant.tzinfo else instant).date() for instant in instants)
    if day <= today:
        return "today" if day == today else "overdue"
    return "this_week" if day <= today + timedelta(days=6) else "later"


class TestBuckets:
    @pytest.mark.parametrize(
        ("days", "bucket"),
        [(-400, "overdue"), (-1, "overdue"), (0, "today"), (1, "this_week"), (6, "this_week"), (7, "later")],
    )
    def test_by_days(self, days: int, bucket: str) -> None:
        """Yesterday is overdue, the six days after today are this week, the days after them are later."""
        assert bucket_of(NOW.date() + timedelta(days), NOW.date()) == bucket

    def test_someday(self) -> None:
        """A task without a date is in the bucket someday."""
        assert bucket_of(None, NOW.date()) == "someday"

    @pytest.mark.parametrize(
        ("due", "zone", "day"),
        [
            ("2026-12-01", "Pacific/Kiritimati", date(2026, 12, 1)),
            ("2026-12-01T00:30:00", "Pacific/Kiritimati", date(2026, 12, 1)),
            ("2026-12-01T23:30:00Z", "Europe/Berlin", date(2026, 12, 2)),
            ("2026-12-01T23:30:00.000000Z", "America/New_York", date(2026, 12, 1)),
            ("2026-12-01T02:30:00.5Z", "America/New_York", date(2026, 11, 30)),
        ],
    )
    def test_due_day(self, due: str, zone: str, day: date) -> None:
        """A whole day and a local time are due on their date, an instant on the date of the user's clock."""
        assert decisive_date(Task("1", "x", due_date=due), ZoneInfo(zone)) == (day, "due")

    @pytest.mark.parametrize(
        ("due", "deadline", "bucket", "dated_by"),
        [
            (None, "2026-11-22", "overdue", "deadline"),
            (None, "2026-11-23", "today", "deadline"),
            ("2026-12-24", "2026-11-25", "this_week", "deadline"),
            ("2026-11-25", "2026-12-24", "this_week", "due"),
            ("2026-11-23", "2026-11-23", "today", "due"),
            ("2026-11-24T02:00:00Z", "2026-11-24", "today", "due"),
        ],
    )
    def test_deadline(self, due: str | None, deadline: str, bucket: str, dated_by: str) -> None:
        """The earlier one of due date and deadline decides the bucket, and the context says which one it is."""
        task = Task("1", "x", due_date=due, deadline_date=deadline)
        [(found, [shown])] = context_of(user(task, timezone="America/New_York"))["tasks"].items()
        assert (found, shown.get("dated_by", "due"), shown["deadline"]) == (bucket, dated_by, deadline)

    def test_midnight_of_a_deadline(self) -> None:
        """A context with a task whose deadline is today is valid until the user's midnight."""
        signals = user(Task("1", "x", deadline_date="2026-11-23"), timezone="Europe/Berlin")
        first = assemble(signals, NOW, LARGE)
        assert first.valid_until == datetime(2026, 11, 23, 23, tzinfo=UTC)
        assert '"overdue":[' in assemble(signals, datetime(2026, 11, 23, 23, tzinfo=UTC), LARGE).context_json

    def test_deadlines_are_not_cut_first(self) -> None:
        """A task with only a deadline ranks by it, before tasks of the same bucket that are due later."""
        tasks = [Task(f"due {n}", "x" * 100, due_date="2026-11-26") for n in range(9)]
        context = context_of(user(*tasks, Task("deadline", "x", deadline_date="2026-11-25")), budget=Budget(200))
        assert shown(context)[0] == "deadline"
        assert len(shown(context)) < 9

    def test_two_users_at_one_instant(self) -> None:
        """At the same instant a task is due today in Honolulu and overdue in Tokyo."""
        at = datetime(2026, 11, 23, 20, tzinfo=UTC)
        task = Task("1", "x", due_date="2026-11-23")
        assert list(context_of(user(task, timezone="Pacific/Honolulu"), at)["tasks"]) == ["today"]
        assert list(context_of(user(task, timezone="Asia/Tokyo"), at)["tasks"]) == ["overdue"]

    def test_time_of_day(self) -> None:
        """The bytes are the same at all times of a day."""
        signals = user(Task("1", "x", due_date="2026-11-23T15:00:00"), Task("2", "y"))
        morning, evening = NOW.replace(hour=0), NOW.replace(hour=23, minute=59)
        assert assemble(signals, morning, LARGE) == assemble(signals, evening, LARGE)

    def test_midnight_of_the_user(self) -> None:
        """A context with a task due today in Berlin is valid until midnight in Berlin."""
        task = Task("1", "x", due_date="2026-11-23")
        until = assemble(user(task, timezone="Europe/Berlin"), NOW, LARGE).valid_until
        assert until == datetime(2026, 11, 23, 23, tzinfo=UTC)

    @pytest.mark.parametrize("tasks", [(), (Task("1", "x"),), (Task("1", "x", due_date="2026-11-01"),)])
    def test_nothing_moves(self, tasks: tuple[Task, ...]) -> None:
        """A context is valid for ever if none of its tasks will change its bucket."""
        assert assemble(user(*tasks), NOW, LARGE).valid_until is None


class TestTaskViews:
    def test_plain_task(self) -> None:
        """A task with nothing but a title is shown with its id and title only."""
        assert view(Task("1", "Buy milk")) == {"id": "1", "title": "Buy milk"}

    def test_full_task(self) -> None:
        """All attributes of a task are shown, with p1 for Todoist's priority 4."""
        task = Task("1", "Pay", 4, "Home", "Bills", ("b", "a"), "2026-11-23", True, "2026-11-30", 90)
        assert view(task) == {
            "id": "1",
            "title": "Pay",
            "priority": "p1",
            "project": "Home",
            "section": "Bills",
            "labels": ["a", "b"],
            "due": "2026-11-23",
            "recurring": True,
            "deadline": "2026-11-30",
            "minutes": 90,
        }

    def test_parent(self) -> None:
        """A sub-task carries its parent's title, cut to 60 characters."""
        assert view(Task("1", "milk", parent="Party " * 30))["parent"] == "Party " * 9 + "Party…"

    @pytest.mark.parametrize(("priority", "shown"), [(4, "p1"), (3, "p2"), (2, "p3")])
    def test_priority(self, priority: int, shown: str) -> None:
        """Todoist's priority 4 is p1."""
        assert view(Task("1", "x", priority))["priority"] == shown

    @pytest.mark.parametrize(
        ("due", "shown"),
        [
            ("2026-12-01", "2026-12-01"),
            ("2026-12-01T12:00:00", "2026-12-01T12:00:00+01:00"),
            ("2026-12-01T12:00:00.5", "2026-12-01T12:00:00+01:00"),
            ("2026-12-01T12:00:00Z", "2026-12-01T13:00:00+01:00"),
            ("2026-12-01T12:00:00.000000Z", "2026-12-01T13:00:00+01:00"),
            ("2026-07-01T12:00:00Z", "2026-07-01T14:00:00+02:00"),
        ],
    )
    def test_due(self, due: str, shown: str) -> None:
        """A due time is shown on the user's clock with its offset, to the second; a whole day is a date."""
        assert view(Task("1", "x", due_date=due), "Europe/Berlin")["due"] == shown

    def test_long_title(self) -> None:
        """A long title is cut to 200 characters, on one line with single spaces."""
        title = view(Task("1", "word \n\t" * 100))["title"]
        assert title.startswith("word word word")
        assert title.endswith("…")
        assert len(title) <= 200

    @pytest.mark.parametrize("grapheme", ["👨‍👩‍👧‍👦", "🇺🇳", "🧑🏽‍🚀", "e\u0301", "கி"])
    def test_cut_between_graphemes(self, grapheme: str) -> None:
        """A long title is cut between the characters that a reader sees, never inside of one."""
        title = view(Task("1", grapheme * 200))["title"]
        assert 150 < len(title) <= 200
        assert title == grapheme * (len(title) // len(grapheme)) + "…"

    @pytest.mark.parametrize("title", ["🧑🏽‍🚀 launch 🇺🇳", "קנה חלב", "اشترِ الحليب", "買牛奶", 'say "hi" \\ bye'])
    def test_scripts(self, title: str) -> None:
        """Emoji, right-to-left text and quotes are in the context as they were typed."""
        assembled = assemble(user(Task("1", title)), NOW, LARGE)
        assert json.loads(assembled.context_json)["tasks"]["someday"][0]["title"] == title
        assert "\\u" not in assembled.context_json

    def test_most_urgent_first(self) -> None:
        """Tasks are in order of bucket, then priority, then date."""
        signals = user(
            Task("someday", "x", 4),
            Task("late", "x", 1, due_date="2026-11-22"),
            Task("today", "x", 1, due_date="2026-11-23"),
            Task("today urgent", "x", 4, due_date="2026-11-23T20:00:00"),
            Task("soon", "x", 1, due_date="2026-11-25"),
            Task("sooner", "x", 1, due_date="2026-11-24"),
        )
        assert shown(context_of(signals)) == ["late", "today urgent", "today", "sooner", "soon", "someday"]

    @pytest.mark.parametrize("order", ["abc", "cba", "bca"])
    def test_equally_urgent(self, order: str) -> None:
        """Equally urgent tasks and equally large themes are in order of their ids."""
        themes = tuple(Theme(task_id, "x", (), tuple("abc")) for task_id in order)
        context = context_of(user(*(Task(task_id, "x") for task_id in order), themes=themes))
        assert shown(context) == [theme["id"] for theme in context["themes"]] == ["a", "b", "c"]


def group(*tasks: Task) -> tuple[tuple[str, str], ...]:
    """Tasks that the last clustering found to be duplicates, with their current content."""
    return tuple((task.task_id, task.title_hash) for task in tasks)


class TestDuplicates:
    MILK = (Task("a", "milk"), Task("b", "buy milk"), Task("c", "Milk!"))

    def test_shown_once(self) -> None:
        """One task of a group of duplicates is shown, with the ids of the others, and all are counted."""
        context = context_of(user(*self.MILK, Task("d", "bread"), duplicates=(group(*self.MILK),)))
        assert context["tasks"]["someday"] == [
            {"id": "a", "title": "milk", "also": ["b", "c"]},
            {"id": "d", "title": "bread"},
        ]
        assert (context["counts"]["open"], context["counts"]["shown"], context["counts"]["someday"]) == (4, 4, 4)

    def test_the_most_urgent_is_shown(self) -> None:
        """The most urgent duplicate is shown, in whatever order they were written."""
        urgent = replace(self.MILK[1], priority=4)
        context = context_of(user(self.MILK[0], urgent, duplicates=(group(*self.MILK[:2]),)))
        assert context["tasks"]["someday"] == [{"id": "b", "title": "buy milk", "priority": "p1", "also": ["a"]}]

    def test_different_buckets(self) -> None:
        """Duplicates in different buckets are both shown."""
        today = replace(self.MILK[1], due_date="2026-11-23")
        assert shown(context_of(user(self.MILK[0], today, duplicates=(group(*self.MILK[:2]),)))) == ["b", "a"]

    @pytest.mark.parametrize("place", [{"project": "Client B"}, {"project": "Client A", "section": "Late"}])
    def test_different_places(self, place: dict[str, str]) -> None:
        """Duplicates in different projects or sections are both shown."""
        tasks = [Task("a", "send invoice", project="Client A"), Task("b", "send invoice", **place)]
        assert shown(context_of(user(*tasks, duplicates=(group(*tasks),)))) == ["a", "b"]

    def test_reworded_since(self) -> None:
        """A task that was reworded since the clustering is shown with its new title."""
        now = replace(self.MILK[0], title="call the lawyer about the lawsuit")
        context = context_of(user(now, self.MILK[1], duplicates=(group(*self.MILK[:2]),)))
        assert [task["title"] for task in context["tasks"]["someday"]] == [now.title, "buy milk"]

    def test_hundreds(self) -> None:
        """Hundreds of duplicates neither fill the context nor push the other tasks out of it."""
        duplicates = [Task(f"d{n:03}", "buy milk", 4) for n in range(420)]
        others = [Task(f"o{n:02}", "another task") for n in range(20)]
        context = context_of(user(*duplicates, *others, duplicates=(group(*duplicates),)), budget=Budget(3000))
        views = context["tasks"]["someday"]
        assert max(len(view.get("also", ())) for view in views) == MAX_DUPLICATES
        assert {task.task_id for task in others} <= {view["id"] for view in views}
        assert context["counts"]["shown"] == sum(1 + len(view.get("also", ())) for view in views)

    def test_a_completed_duplicate(self) -> None:
        """A task whose duplicate is no longer open is shown without duplicates."""
        assert context_of(user(self.MILK[1], duplicates=(group(*self.MILK[:2]),)))["tasks"]["someday"] == [
            {"id": "b", "title": "buy milk"}
        ]


class TestThemesAndReactions:
    def test_largest_themes(self) -> None:
        """At most twelve themes are named, the largest first."""
        tasks = [Task(f"t{n:02}", "x") for n in range(20)]
        themes = [Theme(f"{n:02}", f"theme {n}", (), tuple(t.task_id for t in tasks[:n])) for n in range(2, 20)]
        named = context_of(user(*tasks, themes=tuple(themes)))["themes"]
        assert [theme["n_tasks"] for theme in named] == list(range(19, 19 - MAX_THEMES, -1))

    def test_equally_large_themes(self) -> None:
        """Which of many equally large themes are named, and in which order, does not depend on their ids."""
        tasks = [Task(f"t{n:02}", "x") for n in range(40)]
        members = [(f"t{n:02}", f"t{n + 1:02}") for n in range(0, 40, 2)]
        ids = [f"{n:02}" for n in range(20)]
        named = [
            context_of(
                user(
                    *tasks,
                    themes=tuple(Theme(theme_id, "x", (), own) for theme_id, own in zip(each, members, strict=True)),
                )
            )["themes"]
            for each in (ids, ids[::-1])
        ]
        task_ids = [[theme["task_ids"] for theme in themes] for themes in named]
        assert task_ids == [[list(own) for own in members[:MAX_THEMES]]] * 2

    def test_theme_names_shown_tasks(self) -> None:
        """A theme counts all its tasks and names the tasks that the context shows."""
        tasks = [Task(f"t{n:03}", "a task with a title of some length") for n in range(200)]
        theme = Theme("th", "Things", ("one",), tuple(task.task_id for task in tasks))
        context = context_of(user(*tasks, themes=(theme,)), budget=Budget(500))
        assert 0 < context["counts"]["shown"] < 200
        assert context["themes"] == [
            {"id": "th", "label": "Things", "tags": ["one"], "n_tasks": 200, "task_ids": sorted(shown(context))}
        ]

    def test_tally(self) -> None:
        """Reactions of earlier days are counted by kind of tip, and by theme if the tip has one."""
        rows = [
            ("focus", "work", "done"),
            ("focus", "work", "done"),
            ("focus", "", "dismissed"),
            ("rest", "", "done"),
        ]
        reactions = tuple(Reaction(str(n), *row, NOW - timedelta(days=n)) for n, row in enumerate(rows, 1))
        assert context_of(user(reactions=reactions))["reactions"] == {
            "by_kind": {"focus": {"done": 2, "dismissed": 1}, "rest": {"done": 1}},
            "by_theme": {"work": {"done": 2}},
        }

    def test_most_frequent_reactions(self) -> None:
        """Only the themes with the most reactions are named."""
        reactions = tuple(
            Reaction(f"{n}-{k}", "k", f"theme {n:02}", "done", NOW - timedelta(days=1))
            for n in range(20)
            for k in range(n)
        )
        tally = context_of(user(reactions=reactions))["reactions"]["by_theme"]
        assert sorted(tally) == [f"theme {n}" for n in range(20 - MAX_REACTION_KEYS, 20)]


def test_bytes() -> None:
    """The bytes are JSON with sorted keys, without blanks, escapes and default values, and never change."""
    tasks = (
        Task("1", "Pay  the bill", 4, "Home", "Bills", ("b", "a"), "2026-11-23T18:00:00Z", True, "2026-11-30", 90),
        Task("2", "milk 🥛"),
        Task("3", "Milk"),
    )
    theme = Theme("th", "Errands", ("shop",), ("1", "2", "3"))
    reaction = Reaction("d", "focus", "th", "done", NOW - timedelta(days=1))
    signals = user(*tasks, themes=(theme,), duplicates=(group(*tasks[1:]),), reactions=(reaction,))
    assembled = assemble(replace(signals, timezone="Europe/Berlin"), NOW, LARGE)
    assert assembled.context_json == (
        '{"counts":{"later":0,"open":3,"overdue":0,"shown":3,"someday":2,"this_week":0,"today":1},'
        '"profile":{"language":"en","timezone":"Europe/Berlin"},'
        '"reactions":{"by_kind":{"focus":{"done":1}},"by_theme":{"th":{"done":1}}},'
        '"tasks":{"someday":[{"also":["3"],"id":"2","title":"milk 🥛"}],'
        '"today":[{"deadline":"2026-11-30","due":"2026-11-23T19:00:00+01:00","id":"1","labels":["a","b"],"minutes":90,'
        '"priority":"p1","project":"Home","recurring":true,"section":"Bills","title":"Pay the bill"}]},'
        '"themes":[{"id":"th","label":"Errands","n_tasks":3,"tags":["shop"],"task_ids":["1","2"]}],"version":2}'
    )
    assert assembled.context_hash == "d0d27e4abfd93752d38d756bd422327bedacd1d534107d8389b00d8c5d16c628"


class TestSize:
    def test_empty_account(self) -> None:
        """The context of a user without tasks has empty lists and zero counts."""
        assert context_of(user()) == {
            "version": 2,
            "profile": {"timezone": "UTC", "language": "en"},
            "counts": dict.fromkeys(("open", "shown", "overdue", "today", "this_week", "later", "someday"), 0),
            "tasks": {},
            "themes": [],
            "reactions": {"by_kind": {}, "by_theme": {}},
        }

    def test_five_thousand_tasks(self) -> None:
        """With 5,000 tasks the most urgent are shown, all are counted, and the budget holds."""
        dues = [None, "2026-11-01", "2026-11-23", "2026-11-26T08:00:00", "2027-06-01T08:00:00Z"]
        tasks = [
            Task(f"{n:04}", f"🧹 task {n} " + "x" * (n % 150), 1 + n % 4, due_date=dues[n % 5]) for n in range(5000)
        ]
        themes = tuple(
            Theme(f"th{n}", f"theme {n}", ("a", "b", "c"), tuple(task.task_id for task in tasks[n::20]))
            for n in range(20)
        )
        assembled = assemble(user(*tasks, themes=themes), NOW, Budget(2000))
        assert len(assembled.context_json.encode()) <= 8000
        context = json.loads(assembled.context_json)
        assert context["counts"] == {
            "open": 5000,
            "shown": len(shown(context)),
            "overdue": 1000,
            "today": 1000,
            "this_week": 1000,
            "later": 1000,
            "someday": 1000,
        }
        assert len(shown(context)) > 20
        urgent = sorted(task.task_id for task in tasks if task.due_date == "2026-11-01" and task.priority == 4)
        assert shown(context) == urgent[: len(shown(context))]

    def test_larger_budget_shows_more(self) -> None:
        """A larger budget shows the same tasks and more, and no task that fits is left out."""
        tasks = [Task(f"{n:03}", f"the task with the number {n}") for n in range(300)]
        small, large = (shown(context_of(user(*tasks), budget=Budget(tokens))) for tokens in (500, 1000))
        assert 0 < len(small) < len(large) < 300
        assert large[: len(small)] == small
        text = assemble(user(*tasks), NOW, Budget(500)).context_json
        one_more = len(',{"id":"000","title":"the task with the number 100"}')
        assert len(text.encode()) + one_more > 2000

    def test_one_monstrous_task(self) -> None:
        """A task with hundreds of labels does not push all others out of the context."""
        labels = tuple(f"a label with a rather long name, number {n}" for n in range(300))
        monster = Task("0", "x", 4, labels=labels, due_date="2026-11-01")
        assert len(shown(context_of(user(monster, Task("1", "Buy milk")), budget=Budget(2000)))) > 0

    def test_long_names_of_reactions(self) -> None:
        """The budget holds however long the names of the themes of earlier tips are."""
        reactions = tuple(Reaction(str(n), "k", f"{n}" + "long" * 500, "done", NOW) for n in range(8))
        assert len(assemble(user(reactions=reactions), NOW, Budget(1000)).context_json.encode()) <= 4000
