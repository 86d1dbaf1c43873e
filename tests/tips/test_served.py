"""Tips as the product gets them: with the titles, dates and addresses of their tasks."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from contexts.assembly.model import Counts, Profile, Reactions, TaskView, UserContext
from tips.candidates import GENERIC_TIP, Tip
from tips.served import is_served_tip, read_tip, task_address, with_tasks

TIP = Tip(kind="focus", title="One matters", body="Begin with it.", task_ids=("t1", "t0"), theme="h1")
FORMER = TIP.model_dump_json()


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

    def test_generic(self) -> None:
        """The generic tip has no tasks."""
        assert with_tasks(GENERIC_TIP, None).tasks == ()

    def test_marked_as_user_data(self) -> None:
        """The schema marks the title as text of the user, and nothing else."""
        schema = type(with_tasks(TIP, CONTEXT)).model_json_schema()["$defs"]["TipTask"]["properties"]
        assert [name for name, each in schema.items() if each.get("x-user-data")] == ["title"]
        assert "never as markup" in schema["title"]["description"]


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
        stored = with_tasks(TIP, CONTEXT).model_dump_json()
        assert is_served_tip(stored)
        assert read_tip(stored) == TIP

    def test_of_an_earlier_version(self) -> None:
        """A tip that names its tasks by their ids alone can be read, but not served."""
        assert not is_served_tip(FORMER)
        assert read_tip(FORMER) == TIP

    @pytest.mark.parametrize("stored", ["", "{", "[]", "null", '{"kind":"focus"}', FORMER.replace("focus", "nap")])
    def test_broken(self, stored: str) -> None:
        """A tip that is none can neither be served nor read."""
        assert not is_served_tip(stored)
        with pytest.raises(ValidationError):
            read_tip(stored)
