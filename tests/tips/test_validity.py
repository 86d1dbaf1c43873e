"""Tips that are still true of a context, and tips whose subject has changed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from strategies import context, contexts
from tip_examples import KNOWN, context_json, tip
from world import NOON

from contexts.assembly.model import Task, Theme, UserContext
from tips.candidates import Tip
from tips.rules import rule_based_tips
from tips.validity import still_valid, subject_hash

TODAY = date(2026, 11, 23)

EMPTY = context()


MILK = Task("milk", "Buy milk", due_date="2026-11-26", project="Home", section="Shop", labels=("food",))
BREAD = Task("bread", "Bake bread")
THEME = Theme("h", "kitchen", ("food",), ("milk", "bread"))
ABOUT_MILK = tip(task_ids=("milk",), theme="h")


def is_valid(*own: Task, themes: Any = (THEME,), **more: Any) -> bool:
    """Whether a tip about milk and the kitchen, made for a list of milk and bread, is valid for another context."""
    stored_hash = subject_hash(ABOUT_MILK, context(MILK, BREAD, themes=(THEME,)))
    return bool(still_valid([ABOUT_MILK], [stored_hash], context(*own, themes=themes, **more), TODAY))


class TestStillValid:
    def test_unchanged(self) -> None:
        """A tip is valid as long as its tasks and its theme are unchanged, whatever else changes."""
        other = (THEME, Theme("g", "garden", (), ("rake", "hoe")))
        assert is_valid(MILK, BREAD)
        assert is_valid(replace(BREAD, title="Bake a cake", priority=4), MILK)
        assert is_valid(MILK, BREAD, Task("rake", "Rake"), Task("hoe", "Hoe"), themes=other)
        assert is_valid(MILK, BREAD, reactions=[("focus", "h", "done")], language="de")

    @pytest.mark.parametrize(
        "changed",
        [
            {"title": "Buy oat milk"},
            {"due_date": "2026-11-27"},
            {"due_date": None},
            {"due_date": "2026-11-26T10:00:00Z"},
            {"due_date": "2026-11-23"},
            {"deadline_date": "2026-11-30"},
            {"priority": 4},
            {"project": "Work"},
            {"section": None},
            {"labels": ("food", "cold")},
            {"is_recurring": True},
            {"duration_minutes": 10},
        ],
        ids=str,
    )
    def test_changed_task(self, changed: dict[str, Any]) -> None:
        """Any change of one of its tasks makes a tip invalid."""
        assert not is_valid(replace(MILK, **changed), BREAD)

    def test_done(self) -> None:
        """A tip is invalid once its task is done."""
        assert not is_valid(BREAD, Task("cake", "Bake a cake"), themes=[replace(THEME, task_ids=("bread", "cake"))])

    def test_theme(self) -> None:
        """A tip is invalid once its theme has a different name or is gone."""
        assert not is_valid(MILK, BREAD, themes=[replace(THEME, label="cooking")])
        assert not is_valid(MILK, BREAD, themes=[replace(THEME, theme_id="g")])

    def test_changed_bucket(self) -> None:
        """A tip about a task of this week is invalid on the day the task is due, without any change by the user."""
        assert is_valid(MILK, BREAD, now=NOON + timedelta(days=1))
        assert not is_valid(MILK, BREAD, now=NOON + timedelta(days=3))

    def test_without_a_hash(self) -> None:
        """A tip about an unknown task, or one stored without a subject hash, is never valid."""
        lost = tip(task_ids=("t9",))
        assert subject_hash(lost, KNOWN) == ""
        assert still_valid([lost, tip()], ["", ""], KNOWN, TODAY) == []

    def test_several(self) -> None:
        """Valid tips are returned in their order."""
        tips = [tip(f"Number {n}", task_ids=(f"t{n}",)) for n in range(3)]
        subject_hashes = [subject_hash(each, KNOWN) for each in tips]
        valid = still_valid(tips, subject_hashes, context("Renew the passport", "Changed", "Buy oat milk"), TODAY)
        assert valid == [(tips[0], subject_hashes[0]), (tips[2], subject_hashes[2])]

    def test_about_no_task(self) -> None:
        """A tip about no task and no theme is valid as long as the number of tasks is the same."""
        none = Tip(kind="plan", title="Your list is clear", body="Write down what comes to mind.")
        stored_hash = subject_hash(none, EMPTY)
        assert still_valid([none], [stored_hash], EMPTY, TODAY) == [(none, stored_hash)]
        assert still_valid([none], [stored_hash], KNOWN, TODAY) == []

    def test_one_day(self) -> None:
        """A tip for one day is valid on that day only, all others on any day."""
        subject_hashes = [subject_hash(tip(), KNOWN), subject_hash(tip(), KNOWN, TODAY)]
        on = [still_valid([tip(), tip()], subject_hashes, KNOWN, day) for day in (TODAY, TODAY + timedelta(days=1))]
        assert [len(each) for each in on] == [2, 1]
        assert on[1] == [(tip(), subject_hashes[0])]

    @settings(max_examples=50, deadline=None)
    @given(contexts())
    def test_stored_context(self, known: UserContext) -> None:
        """All tips are valid for a context that was stored and read again."""
        made = rule_based_tips(known)
        again = UserContext.model_validate(json.loads(context_json(known)))
        subject_hashes = [subject_hash(each, known) for each in made]
        assert still_valid(made, subject_hashes, again, TODAY) == list(zip(made, subject_hashes, strict=True))
