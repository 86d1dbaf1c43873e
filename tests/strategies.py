"""Tasks and contexts of users for tests; contexts are made by the assembler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from hypothesis import strategies as st
from world import NOON

from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.model import Reaction, Signals, Task, TaskGroups, TaskView, Theme, UserContext

REAL_TASKS = Path(__file__).parents[2] / "shared" / "data" / "todo_tasks.parquet"


def tasks(*titles: str, **fields: Any) -> tuple[Task, ...]:
    """Tasks t0, t1, ... with these titles."""
    return tuple(Task(f"t{n}", title, **fields) for n, title in enumerate(titles))


def context(
    *tasks: str | Task,
    themes: Mapping[str, Sequence[str]] | Sequence[Theme] = (),
    reactions: Iterable[tuple[str, str, str]] = (),
    now: datetime = NOON,
    tokens: int = 20_000,
    **profile: str,
) -> UserContext:
    """The context of tasks, which are given as titles (ids t0, t1, ...) or as tasks.

    themes: task ids by label (ids h0, h1, ...), or themes. reactions: kind, theme and reaction, from the day before
    `now`.
    """
    if isinstance(themes, Mapping):
        themes = [Theme(f"h{n}", label, (), tuple(ids)) for n, (label, ids) in enumerate(themes.items())]
    signals = Signals(
        user_id="ann",
        tasks=tuple(Task(f"t{n}", task) if isinstance(task, str) else task for n, task in enumerate(tasks)),
        groups=TaskGroups(tuple(themes)),
        reactions=tuple(
            Reaction(f"d{n}", kind, theme, reaction, now.replace(day=now.day - 1))
            for n, (kind, theme, reaction) in enumerate(reactions)
        ),
        **{"timezone": "UTC", "language": "en", **profile},
    )
    return UserContext.model_validate_json(assemble(signals, now, Budget(tokens)).context_json)


def real_titles() -> list[str]:
    """To-do texts written or spoken by people, from a data set beside the repository."""
    return [str(text) for text in pq.read_table(REAL_TASKS)["task_text"].to_pylist()]


texts = st.text(max_size=40)
_ids = st.lists(st.integers(0, 99), max_size=12, unique=True).map(lambda ns: [f"t{n}" for n in ns])
_days = st.none() | st.dates(date(2026, 11, 10), date(2026, 12, 20)).map(str)


@st.composite
def contexts(draw: st.DrawFn, texts: st.SearchStrategy[str] = texts) -> UserContext:
    """The context of any user, with texts drawn from `texts`."""
    ids = draw(_ids)
    drawn_tasks = [
        Task(
            task_id,
            draw(texts),
            priority=draw(st.integers(1, 4)),
            project=draw(st.none() | texts),
            section=draw(st.none() | texts),
            labels=tuple(draw(st.lists(texts, max_size=2, unique=True))),
            due_date=draw(_days),
            is_recurring=draw(st.booleans()),
            deadline_date=draw(_days),
            duration_minutes=draw(st.none() | st.integers(1, 90)),
            parent=draw(st.none() | texts),
            is_by_others=draw(st.booleans()),
            is_shared=draw(st.booleans()),
            is_parent_by_others=draw(st.booleans()),
        )
        for task_id in ids
    ]
    members = st.lists(st.sampled_from(ids), unique=True).map(tuple) if ids else st.just(())
    themes = [
        Theme(f"h{n}", draw(texts), tuple(draw(st.lists(texts, max_size=2))), draw(members), draw(st.booleans()))
        for n in range(draw(st.integers(0, 3)))
    ]
    kinds, names = st.sampled_from(["focus", "plan", "generic"]), st.sampled_from(["", "h0", "h1"])
    reactions = st.sampled_from(["done", "accepted", "snoozed", "dismissed", "ignored"])
    return context(
        *drawn_tasks,
        themes=themes,
        reactions=draw(st.lists(st.tuples(kinds, names, reactions), max_size=12)),
        tokens=draw(st.sampled_from([300, 1000, 20_000])),
    )


def reworded(context: UserContext, texts: Iterable[str]) -> UserContext:
    """The same context with every text of the user replaced by the next of `texts`."""
    new = iter(texts)

    def reword(view: TaskView) -> TaskView:
        names = {name: next(new) for name in ("project", "section", "parent") if getattr(view, name) is not None}
        return view.model_copy(update={"title": next(new), "labels": tuple(next(new) for _ in view.labels), **names})

    return context.model_copy(
        update={
            "tasks": {bucket: tuple(map(reword, views)) for bucket, views in context.tasks.items()},
            "themes": tuple(theme.model_copy(update={"label": next(new), "tags": ()}) for theme in context.themes),
        }
    )
