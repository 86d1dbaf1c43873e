"""The versions of a user's context with their changes, and the origin of a tip, from stored data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

import psycopg

from contexts.assembly.diff import differences
from contexts.assembly.history import ContextVersion, History, request_versions
from contexts.assembly.model import UserContext, read_archived, tasks_shown
from contexts.postgres.sql import queries, rows
from contexts.text import quoted

_UNREADABLE = "written in a format that can no longer be read"
_NEWER_FORMAT = "the same content in a newer format"


class UnknownDecision(Exception):
    """The decision does not exist."""


@dataclass(frozen=True)
class ContextChange:
    """A version of a context, with its differences from the previous version as sentences."""

    version: ContextVersion
    sentences: Sequence[str]


@dataclass(frozen=True)
class ChosenTip:
    """A tip as it was shown.

    title, body: None if no set of candidates holds the tip, as with the generic tip.
    """

    kind: str
    title: str | None
    body: str | None
    task_ids: Sequence[str]


@dataclass(frozen=True)
class TipOrigin:
    """The author of a tip, with the time and the context of its writing.

    author: llm, rules or generic; kept if the set that the tip was written for is no longer stored.
    """

    author: str
    made_at: datetime
    context_hash: str | None
    candidate_set_id: UUID | None


@dataclass(frozen=True)
class DecisionTrace:
    """A decision with its tip.

    delivered: whether the answer reached its client, as far as the service knows.
    context_hash: the current context when the tip was chosen; None if there was none.
    """

    decision_id: UUID
    user_id: str
    decided_at: datetime
    source: str | None
    llm: str | None
    delivered: bool
    policy_version: str | None
    propensity: float | None
    n_candidates: int | None
    context_hash: str | None
    materialized_at: datetime | None
    reaction: str | None
    reacted_at: datetime | None
    reward: float | None
    tip: ChosenTip
    origin: TipOrigin | None


@dataclass(frozen=True)
class ContextComparison:
    """The context that a tip was chosen for, the context that it was written from, and their differences.

    A version is None if it is no longer stored.
    """

    chosen_for: ContextVersion | None
    written_from: ContextVersion | None
    sentences: Sequence[str]


def context_versions(history: History, user_id: str) -> list[ContextVersion]:
    """Return a user's versions in the order in which they became current.

    They come from the history, from requests that the history does not include yet, and from the store, which has the
    newest one. The store does not record the time of assembly; the time of the signals is used instead.
    """
    stored = dict.fromkeys((*history.versions_of(user_id), *request_versions(history.connection, [user_id])))
    versions = sorted(stored, key=attrgetter("materialized_at", "assembled_at"))
    row = queries("history").current_context(history.connection, user_id=user_id)
    if row is None:
        return versions
    materialized_at, context_hash, context_json = row
    current = ContextVersion(user_id, materialized_at, materialized_at, context_hash, context_json, "pipeline")
    # Versions from after the row are from before the clock was set back.
    earlier = [version for version in versions if version.materialized_at <= materialized_at]
    ahead = [version for version in versions if version.materialized_at > materialized_at]
    if not ahead:
        return earlier if earlier and earlier[-1].context_hash == context_hash else [*earlier, current]
    if earlier and (earlier[-1].context_hash, earlier[-1].materialized_at) == (context_hash, materialized_at):
        current = earlier.pop()
    return [*earlier, *ahead, current]


def context_changes(versions: Sequence[ContextVersion], last: int) -> list[ContextChange]:
    """Return the last changes among versions in order, oldest first; an equal version is no change."""
    pairs = zip((None, *versions), versions, strict=False)
    changed = [(old, new) for old, new in pairs if old is None or old.context_hash != new.context_hash]
    return [ContextChange(new, _differences(old, new)) for old, new in changed[max(0, len(changed) - last) :]]


def trace(connection: psycopg.Connection[Any], decision_id: UUID | str) -> DecisionTrace:
    """Return a decision and the origin of its tip. Raises UnknownDecision if there is no such decision."""
    try:
        decisions = rows(connection, queries("history").decision, {"decision_id": UUID(str(decision_id))})
    except ValueError:
        decisions = []
    if not decisions:
        raise UnknownDecision(
            f"there is no decision {quoted(str(decision_id))}. Pass the decision_id of an answer of the service."
        )
    [decision] = decisions
    columns = {
        name: decision[name] for name in DecisionTrace.__dataclass_fields__ if name in decision and name != "tip"
    }
    return DecisionTrace(**columns, tip=_tip(decision), origin=_origin(connection, decision))


def compare(decision: DecisionTrace, versions: Sequence[ContextVersion]) -> ContextComparison:
    """Find the contexts of a decision among the user's versions, and compare them."""
    origin = decision.origin
    chosen_for = _version(versions, decision.context_hash, decision.decided_at)
    written_from = _version(versions, origin.context_hash, origin.made_at) if origin else None
    sentences = _differences(written_from, chosen_for) if written_from and chosen_for else []
    return ContextComparison(chosen_for, written_from, sentences)


def task_titles(version: ContextVersion | None) -> Mapping[str, str]:
    """Return the titles of the tasks that a version shows, by id; none if the version is not stored or readable."""
    try:
        return {task_id: view.title for task_id, (_, view) in tasks_shown(_read(version)).items()} if version else {}
    except ValueError:
        return {}


def _tip(decision: Mapping[str, Any]) -> ChosenTip:
    tip = _parsed(decision["tip"])
    kind = tip.get("kind") or decision["tip_kind"] or ""
    task_ids = [task["id"] for task in tip["tasks"]] if "tasks" in tip else tip.get("task_ids", ())
    return ChosenTip(kind, tip.get("title"), tip.get("body"), task_ids)


def _parsed(tip: str | None) -> Mapping[str, Any]:
    """Return a stored tip; nothing if there is none or it cannot be read. The earliest ones have `task_ids` only."""
    try:
        parsed = json.loads(tip or "{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _origin(connection: psycopg.Connection[Any], decision: Mapping[str, Any]) -> TipOrigin | None:
    """Follow a tip back through the sets that kept it, to the set that it was written for.

    A kept tip has the same subject hash in all these sets. A tip without one was added to kept tips by rules.
    """
    if decision["author"] is None:
        is_generic = decision["source"] == "none"
        return TipOrigin("generic", decision["decided_at"], None, None) if is_generic else None
    chosen_from = TipOrigin(
        decision["author"], decision["made_at"], decision["made_for"], decision["candidate_set_id"]
    )
    if chosen_from.author != "kept":
        return chosen_from
    if not decision["subject_hash"]:
        return TipOrigin("rules", chosen_from.made_at, chosen_from.context_hash, chosen_from.candidate_set_id)
    sets = queries("history").sets_with_tip(
        connection,
        user_id=decision["user_id"],
        made_at=decision["made_at"],
        tip=decision["tip"],
        subject_hash=decision["subject_hash"],
    )
    origins = [TipOrigin(*columns) for columns in sets]
    return next((origin for origin in origins if origin.author != "kept"), origins[-1])


def _version(versions: Iterable[ContextVersion], context_hash: str | None, until: datetime) -> ContextVersion | None:
    """Return the last version of a hash up to an instant, or the first one after it, because clocks may differ."""
    same = [version for version in versions if version.context_hash == context_hash]
    return next((version for version in reversed(same) if version.assembled_at <= until), same[0] if same else None)


def _differences(before: ContextVersion | None, after: ContextVersion) -> list[str]:
    try:
        sentences = differences(_read(before) if before else None, _read(after))
    except ValueError:
        return [_UNREADABLE]
    is_rewritten = before is not None and before.context_hash != after.context_hash
    return [_NEWER_FORMAT] if is_rewritten and not sentences else sentences


def _read(version: ContextVersion) -> UserContext:
    return read_archived(version.context_json)
