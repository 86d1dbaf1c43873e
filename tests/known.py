"""What is known of users, for tests: contexts as the one assembler makes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from hypothesis import strategies as st
from world import NOON

from contexts.assemble import Budget, assemble
from contexts.model import Groups, Reaction, Signals, Task, Theme, UserContext

REAL_TASKS = Path(__file__).parents[2] / "shared" / "data" / "todo_tasks.parquet"


def tasks(*titles: str, **fields: Any) -> tuple[Task, ...]:
    """Tasks t0, t1, ... of these titles."""
    return tuple(Task(f"t{n}", title, **fields) for n, title in enumerate(titles))


def context(
    *own: str | Task,
    themes: Mapping[str, Sequence[str]] | Sequence[Theme] = (),
    reactions: Iterable[tuple[str, str, str]] = (),
    now: datetime = NOON,
    tokens: int = 20_000,
    **profile: str,
) -> UserContext:
    """The context of tasks, given as titles (ids t0, t1, ...) or whole.

    themes: task ids by label (h0, h1, ...), or whole; reactions: kind, theme and reaction of the day before `now`.
    """
    if isinstance(themes, Mapping):
        themes = [Theme(f"h{n}", label, (), tuple(ids)) for n, (label, ids) in enumerate(themes.items())]
    signals = Signals(
        user_id="ann",
        tasks=tuple(Task(f"t{n}", each) if isinstance(each, str) else each for n, each in enumerate(own)),
        groups=Groups(tuple(themes)),
        reactions=tuple(
            Reaction(f"d{n}", kind, theme, reaction, now.replace(day=now.day - 1))
            for n, (kind, theme, reaction) in enumerate(reactions)
        ),
        **{"timezone": "UTC", "language": "en", **profile},
    )
    return UserContext.model_validate_json(assemble(signals, now, Budget(tokens)).context_json)


def real_titles() -> list[str]:
    """To-do texts that people wrote or spoke; of a folder beside the repository."""
    return [str(text) for text in pq.read_table(REAL_TASKS)["task_text"].to_pylist()]


texts = st.text(max_size=40)
_ids = st.lists(st.integers(0, 99), max_size=12, unique=True).map(lambda ns: [f"t{n}" for n in ns])
_days = st.none() | st.dates(date(2026, 11, 10), date(2026, 12, 20)).map(str)


@st.composite
def contexts(draw: st.DrawFn, texts: st.SearchStrategy[str] = texts) -> UserContext:
    """Any user's context, of texts drawn from `texts`."""
    ids = draw(_ids)
    own = [
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
        )
        for task_id in ids
    ]
    members = st.lists(st.sampled_from(ids), unique=True).map(tuple) if ids else st.just(())
    themes = [
        Theme(f"h{n}", draw(texts), tuple(draw(st.lists(texts, max_size=2))), draw(members))
        for n in range(draw(st.integers(0, 3)))
    ]
    kinds, names = st.sampled_from(["focus", "plan", "generic"]), st.sampled_from(["", "h0", "h1"])
    reactions = st.sampled_from(["done", "accepted", "snoozed", "dismissed", "ignored"])
    return context(
        *own,
        themes=themes,
        reactions=draw(st.lists(st.tuples(kinds, names, reactions), max_size=12)),
        tokens=draw(st.sampled_from([300, 1000, 20_000])),
    )


def reworded(of: UserContext, texts: Iterable[str]) -> UserContext:
    """The same context in which every text of the user's is another."""
    other = iter(texts)

    def view(one: Any) -> Any:
        names = {name: next(other) for name in ("project", "section") if getattr(one, name) is not None}
        return one.model_copy(
            update={"title": next(other), "labels": tuple(next(other) for _ in one.labels), **names}
        )

    return of.model_copy(
        update={
            "tasks": {bucket: tuple(view(each) for each in views) for bucket, views in of.tasks.items()},
            "themes": tuple(each.model_copy(update={"label": next(other), "tags": ()}) for each in of.themes),
        }
    )
