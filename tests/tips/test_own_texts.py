"""The boundary: no text that other people may have written is told to an LLM."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import context, contexts
from world import NOON

from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.model import Signals, Task, TaskView, Theme, ThemeView, UserContext, tasks_shown
from contexts.todoist.mirror import Mirror, fold, open_tasks
from tips.own_texts import without_texts_of_others
from tips.prompt import prompt
from tips.violations import copies_context

TODAY = date(2026, 11, 23)
ANN, BOB = "1", "2"


def prompt_of(about: UserContext) -> str:
    return prompt(about, TODAY, "7f3a9c")


def prompt_data(about: UserContext) -> Any:
    """The data of a prompt, parsed as JSON."""
    return json.loads(prompt_of(about).splitlines()[1])


def filled(model: type[TaskView] | type[ThemeView], **fields: Any) -> Any:
    """A view with a canary in each text field that is not given, also in fields that are added to it later."""
    texts = {}
    for name, field in model.model_fields.items():
        if field.annotation in (str, str | None):
            texts[name] = f"canary {name}"
        elif field.annotation == tuple[str, ...]:
            texts[name] = (f"canary {name}",)
    return model(**texts | fields)


def one_task(view: TaskView) -> UserContext:
    return context("x").model_copy(update={"tasks": {"today": (view,)}})


class TestTasks:
    def test_by_others(self) -> None:
        """The prompt holds only id, bucket and priority of a task that somebody else may have added."""
        view = filled(TaskView, id="t9", priority="p1", by_others=True, minutes=5, recurring=True)
        about = one_task(view)
        assert prompt_data(about)["tasks"] == {"today": [{"id": "t1", "priority": "p1", "by_others": True}]}
        assert "canary" not in prompt_of(about)

    def test_in_a_shared_project(self) -> None:
        """A task that the user added to a shared project is told without the names that others may have given."""
        task = Task("t9", "Call the plumber", project="canary", section="canary", labels=("canary",), is_shared=True)
        about = context(task)
        assert prompt_data(about)["tasks"] == {"someday": [{"id": "t1", "title": "Call the plumber"}]}
        assert about.tasks["someday"][0].project == "canary"

    def test_parent_by_others(self) -> None:
        """The title of a parent task is left out if somebody else may have added it; the names of places stay."""
        about = context(Task("t9", "Call", project="House", parent="canary", is_parent_by_others=True))
        assert prompt_data(about)["tasks"] == {"someday": [{"id": "t1", "title": "Call", "project": "House"}]}

    def test_own(self) -> None:
        """A context with texts of the user only is told as it is."""
        about = context(Task("t0", "Call", 4, "House", "Now", ("phone",), parent="Move"), themes={"Calls": ["t0"]})
        assert without_texts_of_others(about) == about

    def test_duplicates(self) -> None:
        """A task of the user is not hidden behind a duplicate that somebody else added."""
        others = Task("a", "Buy milk", priority=4, is_by_others=True)
        own = Task("b", "buy milk")
        duplicates = (((others.task_id, others.title_hash), (own.task_id, own.title_hash)),)
        signals = Signals("ann", "UTC", "en", (others, own))
        groups = type(signals.groups)((), duplicates)
        made = assemble(Signals("ann", "UTC", "en", (others, own), groups), NOON, Budget(2000))
        views = UserContext.model_validate_json(made.context_json).tasks["someday"]
        assert [(view.id, view.also) for view in views] == [("a", ()), ("b", ())]


class TestThemes:
    def test_by_others(self) -> None:
        """Of a theme that others may have worded, the prompt holds id, size and tasks, whatever fields it has."""
        theme = filled(ThemeView, id="h", n_tasks=3, task_ids=("t0",), by_others=True)
        about = context("x").model_copy(update={"themes": (theme,)})
        assert prompt_data(about)["themes"] == [{"id": "theme1", "n_tasks": 3, "task_ids": ["t1"]}]

    def test_assembled(self) -> None:
        """The assembler hands on the mark of a theme, also if the task that it came from has been completed since."""
        [theme] = context("x", "y", themes=[Theme("h", "canary", ("canary",), ("t0", "t1"), True)]).themes
        assert theme.by_others

    def test_from_an_earlier_account(self) -> None:
        """A theme with a task of somebody else is marked, also if that task was the user's own when it was made."""
        tasks = Task("t0", "call"), Task("t1", "phone", is_by_others=True)
        [theme] = context(*tasks, themes=[Theme("h", "canary", (), ("t0", "t1"))]).themes
        assert theme.by_others


@settings(max_examples=100, deadline=None)
@given(contexts())
def test_every_task_is_told(about: UserContext) -> None:
    """Every task of any context is in the prompt with its bucket, whoever added it."""
    told = prompt_data(about)["tasks"]
    ids = list(tasks_shown(about))
    assert {bucket: [ids[int(view["id"][1:]) - 1] for view in views] for bucket, views in told.items()} == {
        bucket: [view.id for view in views] for bucket, views in about.tasks.items()
    }


def test_others_do_not_silence_tips() -> None:
    """Words that an LLM was not told are no copy, so that nobody else's titles can have good tips refused."""
    title = "Begin with one small task today"
    assert copies_context(title, context(title))
    assert not copies_context(title, context(Task("t0", title, is_by_others=True)))


CANARIES = tuple(f"{first}{last}" for first in ("zorb", "quix", "vlam") for last in ("atta", "ingo", "elle"))
OWN_WORDS = ("call", "paint", "garden", "invoice", "passport")
canaries = st.lists(st.sampled_from(CANARIES), min_size=1, max_size=5).map(" ".join)
own_words = st.lists(st.sampled_from(OWN_WORDS), min_size=1, max_size=5).map(" ".join)
PROJECTS = {
    "private": {"is_shared": False},
    "shared": {"is_shared": True},
    "team": {"is_shared": False, "workspace_id": "w"},
}


@st.composite
def items(draw: st.DrawFn, task_id: str) -> dict[str, Any]:
    """An item with canaries in each text that the user did not write: by the author, and by the kind of project."""
    place = draw(st.sampled_from([*PROJECTS, "unknown", None]))
    author = draw(st.sampled_from([ANN, BOB, None]))
    is_own = author == ANN or (author is None and place == "private")
    texts = own_words if is_own else canaries
    labels = own_words if place == "private" and is_own else canaries
    return {
        "id": task_id,
        "content": draw(texts | st.just("")),
        "description": draw(texts),
        "project_id": place,
        "section_id": place,
        "added_by_uid": author,
        "labels": draw(st.lists(labels, max_size=2)),
        "parent_id": draw(st.none() | st.sampled_from(["t0", "t1", "t2"])),
        "priority": draw(st.integers(1, 4)),
        "due": draw(st.sampled_from([None, {"date": "2026-11-23", "string": draw(texts)}])),
    }


@st.composite
def accounts(draw: st.DrawFn) -> dict[str, Any]:
    """A full `/sync` answer of an account, in which a text holds canaries unless the user wrote it."""
    names = {place: draw(own_words if place == "private" else canaries) for place in PROJECTS}
    return {
        "full_sync": True,
        "items": [draw(items(f"t{n}")) for n in range(draw(st.integers(1, 8)))],
        "projects": [{"id": place, "name": names[place], **fields} for place, fields in PROJECTS.items()],
        "sections": [{"id": place, "project_id": place, "name": names[place]} for place in PROJECTS],
        "user": {"id": ANN, "lang": "en"},
    }


@settings(max_examples=300, deadline=None)
@given(accounts())
def test_any_account(document: dict[str, Any]) -> None:
    """No word that the user did not write reaches the prompt, for any account and any sub-tasks."""
    mirror = fold(Mirror(), document).mirror
    made = assemble(Signals("ann", "UTC", "en", open_tasks(mirror)), NOON, Budget(20_000))
    text = prompt_of(UserContext.model_validate_json(made.context_json))
    assert [word for word in CANARIES if word in text] == []


@pytest.mark.parametrize("version", [1, 3, None, "2"])
def test_other_versions(version: Any) -> None:
    """A stored context of any other version is refused, because its marks are missing or unknown."""
    document = context("x").model_dump(mode="json") | {"version": version}
    with pytest.raises(ValueError, match="version"):
        UserContext.model_validate_json(json.dumps(document))
