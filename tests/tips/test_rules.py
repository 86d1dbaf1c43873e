"""Candidates written by rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import context, contexts, reworded

from contexts.assembly.model import Task, UserContext
from tips.candidates import MAX_TASKS
from tips.rules import rule_based_tips
from tips.violations import violations


class TestRuleBasedTips:
    @settings(max_examples=150, deadline=None)
    @given(contexts())
    def test_any_context(self, known: UserContext) -> None:
        """Any context has a candidate, at most one of each kind, without violations."""
        made = rule_based_tips(known)
        assert made
        assert len({each.kind for each in made}) == len(made)
        other_words = reworded(known, (f"word{n}" for n in range(10_000)))
        assert [violation for each in made for violation in violations(each, other_words)] == []

    @settings(max_examples=80, deadline=None)
    @given(contexts(), st.randoms(use_true_random=False))
    def test_no_text_of_the_user(self, known: UserContext, random: Any) -> None:
        """The wording of tasks, projects, labels and themes does not change the candidates."""
        other = reworded(known, (f"secret {random.random()}" for _ in range(10_000)))
        assert rule_based_tips(other) == rule_based_tips(known)

    def test_kinds(self) -> None:
        """Overdue, urgent, quick, undated and similar tasks each get a candidate with these tasks."""
        known = context(
            Task("late", "a", due_date="2026-11-20"),
            Task("urgent", "b", due_date="2026-11-23", priority=4),
            Task("quick", "c", due_date="2026-12-23", duration_minutes=5),
            Task("x", "d"),
            Task("y", "e"),
            themes={"like": ["x", "quick"]},
        )
        made = {each.kind: each for each in rule_based_tips(known)}
        about = {kind: each.task_ids for kind, each in made.items()}
        assert about.pop("theme") == ("quick", "x")
        assert about == {"overdue": ("late",), "focus": ("urgent",), "quick_win": ("quick",), "plan": ("x", "y")}
        assert made["theme"].theme == "h0"
        assert "5 minutes" in made["quick_win"].title
        assert {kind: each.named_tasks for kind, each in made.items()} == {
            "overdue": ("late",),
            "focus": ("urgent",),
            "quick_win": ("quick",),
            "plan": ("x",),
            "theme": ("quick", "x"),
        }

    def test_singular(self) -> None:
        """One task and one minute are in the singular."""
        [overdue, _, quick] = rule_based_tips(context(Task("t", "a", due_date="2026-11-20", duration_minutes=1)))
        assert overdue.title == "1 task is overdue"
        assert quick.title == "A quick win: 1 minute"

    def test_more_than_is_shown(self) -> None:
        """The number counts all overdue tasks; at most five are named."""
        known = context(*(Task(f"t{n}", "a", due_date="2026-11-20") for n in range(9)))
        overdue = rule_based_tips(known)[0]
        assert overdue.title == "9 tasks are overdue"
        assert len(overdue.task_ids) == MAX_TASKS

    def test_hidden_theme(self) -> None:
        """A theme of which only one task is shown gets no candidate."""
        known = context("a", "b", "c", themes={"x": ["t0", "t1"]})
        [theme] = known.themes
        hidden = known.model_copy(update={"themes": (theme.model_copy(update={"task_ids": ("t0",)}),)})
        assert "theme" in {each.kind for each in rule_based_tips(known)}
        assert "theme" not in {each.kind for each in rule_based_tips(hidden)}

    def test_own_tasks_of_a_theme(self) -> None:
        """Of a theme the tasks that the user wrote are named first: a plain text has one phrase for all others."""
        tasks = (Task("a", "x", is_by_others=True), Task("b", "y", is_by_others=True), Task("c", "z"), Task("d", "w"))
        [theme] = [each for each in rule_based_tips(context(*tasks, themes={"x": list("abcd")})) if each.theme]
        assert theme.named_tasks == ("c", "d")
        assert theme.task_ids == ("c", "d", "a", "b")

    def test_empty_list(self) -> None:
        """A user without tasks is told that the list is clear."""
        [made] = rule_based_tips(context())
        assert "clear" in made.title

    @pytest.mark.parametrize("due", [None, "2026-12-20"])
    def test_nothing_urgent(self, due: str | None) -> None:
        """A user whose tasks are not urgent is not told that the list is clear."""
        [made] = rule_based_tips(context(Task("t", "a", due_date=due)))
        assert made.task_ids == ("t",)
        assert "clear" not in made.title
