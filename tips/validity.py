"""Whether a tip is still true of a context, by a hash of the subject of the tip. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date
from hashlib import sha256

from contexts.assembly.model import UserContext, tasks_shown
from tips.candidates import Tip


def subject_hash(tip: Tip, context: UserContext, day: date | None = None) -> str:
    """A hash of a tip's subject; empty if a part of the subject is not in the context.

    The subject is the tip's tasks as the context shows them and the label of its theme, or the counts of the context
    for a tip about no task and no theme. The version of the context is a part of every subject.
    day: the only day on which the tip is true; None if it is true on any day.
    """
    tasks = tasks_shown(context)
    labels = {theme.id: theme.label for theme in context.themes}
    if any(task_id not in tasks for task_id in tip.task_ids) or (tip.theme is not None and tip.theme not in labels):
        return ""
    shown = [tasks[task_id] for task_id in tip.task_ids]
    views = [[bucket, view.model_dump(mode="json", exclude={"also"})] for bucket, view in shown]
    counts = None if tip.task_ids or tip.theme else context.counts.model_dump(mode="json")
    subject = [context.version, views, labels.get(tip.theme or ""), str(day) if day else None, counts]
    return sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()[:32]


def still_valid(
    tips: Iterable[Tip], subject_hashes: Iterable[str], context: UserContext, today: date
) -> list[tuple[Tip, str]]:
    """The tips, with their subject hashes, whose subject has not changed and whose day, if any, is today."""
    return [
        (tip, stored_hash)
        for tip, stored_hash in zip(tips, subject_hashes, strict=True)
        if stored_hash and stored_hash in (subject_hash(tip, context), subject_hash(tip, context, today))
    ]
