"""Short names for the tasks and themes of a context."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from strategies import context, contexts

from contexts.assembly.model import Task, UserContext, tasks_shown
from tips.references import names_reference, references_of, with_short_names

KNOWN = context(
    Task("6X7rM8997g3RQmvh", "Renew the passport"),
    Task("6X7rM8997g3RQmvi", "Call the plumber", due_date="2026-11-20"),
    themes={"papers": ["6X7rM8997g3RQmvh", "6X7rM8997g3RQmvi"]},
    reactions=[("focus", "h0", "done"), ("focus", "gone", "done")],
)


def test_in_the_order_of_the_context() -> None:
    """The most urgent task is t1, the first theme theme1."""
    references = references_of(KNOWN)
    assert references.tasks == {"t1": "6X7rM8997g3RQmvi", "t2": "6X7rM8997g3RQmvh"}
    assert references.themes == {"theme1": "h0"}


@settings(max_examples=80, deadline=None)
@given(contexts())
def test_any_context(known: UserContext) -> None:
    """Every task and theme of any context has a name of its own, and the renamed context has nothing else changed."""
    references, renamed = references_of(known), with_short_names(known)
    assert list(references.tasks.values()) == list(tasks_shown(known))
    assert list(tasks_shown(renamed)) == list(references.tasks)
    assert [theme.id for theme in renamed.themes] == list(references.themes)
    back = {**references.tasks, **references.themes}
    assert [tuple(back[each] for each in theme.task_ids) for theme in renamed.themes] == [
        theme.task_ids for theme in known.themes
    ]
    assert [view.model_copy(update={"id": back[view.id]}) for _, view in tasks_shown(renamed).values()] == [
        view for _, view in tasks_shown(known).values()
    ]


def test_reactions() -> None:
    """Reactions are by the themes' short names; those to a theme that is gone are left out."""
    assert with_short_names(KNOWN).reactions.by_theme == {"theme1": {"done": 1}}


@pytest.mark.parametrize(
    "text", ["Begin t3 now", "t12", "(T3)", "See theme1.", "Theme 2 first", "ｔ３ first", "t_4", "T-3"]
)
def test_reference_in_a_text(text: str) -> None:
    """A short name in a text is found, in other spellings, too."""
    assert names_reference(text)


@pytest.mark.parametrize("text", ["Start3 now", "A tee time at 3", "it3m", "Take 3", "the theme", "Boot 5 km"])
def test_no_reference(text: str) -> None:
    """Other words and numbers are none."""
    assert not names_reference(text)
