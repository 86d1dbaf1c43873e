"""Tips as the product gets them: with the titles, dates and addresses of their tasks."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from contexts.assembly.model import Counts, Profile, Reactions, TaskView, UserContext
from tips.candidates import GENERIC_TIP, TaskReference, Tip
from tips.served import ServedTip, is_served_tip, read_tip, task_address, with_tasks

TIP = Tip(kind="focus", title="One matters", body="Begin with it.", task_ids=("t1", "t0"), theme="h1")
OF_TASKS = TIP.model_copy(
    update={"body": ("First ", TaskReference(task="t1"), ", then ", TaskReference(task="t0"), ".")}
)
FORMER = TIP.model_dump_json().replace('["Begin with it."]', '"Begin with it."')
FORMER_SERVED = json.dumps(
    {
        "kind": "focus",
        "title": "One matters",
        "body": "Begin with it.",
        "tasks": [
            {"id": task_id, "title": "x", "due": None, "priority": "p4", "url": "https://app.todoist.com/app/task/x"}
            for task_id in ("t1", "t0")
        ],
        "theme": "h1",
    }
)


def context(*views: TaskView) -> UserContext:
    zeros = dict.fromkeys(("open", "shown", "overdue", "today", "this_week", "later", "someday"), 0)
    return UserContext(
        profile=Profile(timezone="UTC", language="en"),
        counts=Counts(**zeros),
        tasks={"today": views},
        themes=(),
        reactions=Reactions(by_kind={}, by_theme={}),
    )


CONTEXT = context(
    TaskView(
        id="t0", title="call <b>bob</b>", priority="p1", due="2026-11-29T09:00:00+01:00", also=("t7",), by_others=True
    ),
    TaskView(id="t1", title="buy milk"),
)


class TestWithTasks:
    def test_tasks(self) -> None:
        """A tip lists its tasks in its own order, as the context shows them, with their address in Todoist."""
        served = with_tasks(TIP, CONTEXT)
        assert [task.model_dump() for task in served.tasks] == [
            {
                "id": "t1",
                "title": "buy milk",
                "due": None,
                "priority": "p4",
                "url": "https://app.todoist.com/app/task/t1",
                "by_others": False,
            },
            {
                "id": "t0",
                "title": "call <b>bob</b>",
                "due": "2026-11-29T09:00:00+01:00",
                "priority": "p1",
                "url": "https://app.todoist.com/app/task/t0",
                "by_others": True,
            },
        ]
        assert (served.kind, served.title, served.body, served.theme) == ("focus", TIP.title, "Begin with it.", "h1")

    def test_segments(self) -> None:
        """The segments are texts, and the titles of tasks with their ids, marked if they may be somebody else's."""
        assert [each.model_dump() for each in with_tasks(OF_TASKS, CONTEXT).segments] == [
            {"type": "text", "text": "First "},
            {"type": "task", "task_id": "t1", "text": "“\u2068buy milk\u2069”", "by_others": False},
            {"type": "text", "text": ", then "},
            {"type": "task", "task_id": "t0", "text": "“\u2068call <b>bob</b>\u2069”", "by_others": True},
            {"type": "text", "text": "."},
        ]

    def test_titles_of_others(self) -> None:
        """The plain body quotes the user's own titles; a title that may be somebody else's is not in it."""
        assert with_tasks(OF_TASKS, CONTEXT).body == "First “\u2068buy milk\u2069”, then one of your shared tasks."

    def test_begins_with_a_capital(self) -> None:
        """A body that begins with the noun phrase begins with a capital letter."""
        made = TIP.model_copy(update={"body": (TaskReference(task="t0"), " first.")})
        assert with_tasks(made, CONTEXT).body == "One of your shared tasks first."

    def test_placeholders_in_titles(self) -> None:
        """No title is read for a placeholder, a reference or another task."""
        views = (TaskView(id="t0", title="{task} t1 {0}"), TaskView(id="t1", title="[t0] %s \\1"))
        served = with_tasks(OF_TASKS, context(*views))
        assert served.body == "First “\u2068[t0] %s \\1\u2069”, then “\u2068{task} t1 {0}\u2069”."

    def test_generic(self) -> None:
        """The generic tip has no tasks."""
        assert with_tasks(GENERIC_TIP, None).tasks == ()

    def test_marked_as_user_data(self) -> None:
        """The schema marks whatever holds a title as text of the user, and nothing else."""
        schema = ServedTip.model_json_schema()
        marked = {
            (part, name)
            for part, properties in (("", schema), *schema["$defs"].items())
            for name, each in properties["properties"].items()
            if each.get("x-user-data")
        }
        assert marked == {("", "body"), ("TipTask", "title"), ("TaskSegment", "text")}
        assert "never as markup" in schema["$defs"]["TipTask"]["properties"]["title"]["description"]


class TestTaskAddress:
    @pytest.mark.parametrize(
        ("task_id", "last_part"),
        [
            ("6XR4GqQQCW6Gv9h4", "6XR4GqQQCW6Gv9h4"),
            ("../../x?y#z", "..%2F..%2Fx%3Fy%23z"),
            ('"><script>', "%22%3E%3Cscript%3E"),
            ("a b\n", "a%20b%0A"),
        ],
    )
    def test_quoted(self, task_id: str, last_part: str) -> None:
        """No id leaves its place in the address."""
        assert task_address(task_id) == f"https://app.todoist.com/app/task/{last_part}"


class TestReadTip:
    def test_round_trip(self) -> None:
        """A stored tip gives the candidate that it was made of."""
        for made in (TIP, OF_TASKS):
            stored = with_tasks(made, CONTEXT).model_dump_json()
            assert is_served_tip(stored)
            assert read_tip(stored) == made

    def test_of_an_earlier_version(self) -> None:
        """A tip without segments, or with the ids of its tasks alone, can be read, but not served."""
        for former in (FORMER, FORMER_SERVED):
            assert not is_served_tip(former)
            assert read_tip(former) == TIP

    @pytest.mark.parametrize("stored", ["", "{", "[]", "null", '{"kind":"focus"}', FORMER.replace("focus", "nap")])
    def test_broken(self, stored: str) -> None:
        """A tip that is none can neither be served nor read."""
        assert not is_served_tip(stored)
        with pytest.raises(ValidationError):
            read_tip(stored)
