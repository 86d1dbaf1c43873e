"""Why a user's context changed, and what a tip was made from: answers out of what is stored, and as lines of text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from pydantic import ValidationError

from contexts.diff import differences, plain, quoted, tasks_shown
from contexts.history import History, Version, request_versions
from contexts.model import UserContext
from contexts.sql import queries

MOST_SENTENCES = 20
"""So many differences of one version are printed; how many more there are is said."""

_AUTHORS = {
    "llm": "the LLM",
    "rules": "rules",
    "generic": "nobody: nothing was known of the user",
    "kept": "a set of candidates that is not stored any more",
}
_UNREADABLE = "written in a form that is not read any more"
_UNKNOWN = "not in the history: older than what it keeps"


class UnknownDecision(Exception):
    """There is no such decision."""


@dataclass(frozen=True)
class Change:
    """A version and what makes it another one than the version before it."""

    version: Version
    sentences: Sequence[str]


@dataclass(frozen=True)
class ChosenTip:
    """A tip as it was shown. title, body: None where it stands in no set of candidates, as the generic tip."""

    kind: str
    title: str | None
    body: str | None
    task_ids: Sequence[str]


@dataclass(frozen=True)
class Origin:
    """Who wrote a tip, when, and from which context. author: llm, rules, generic; kept: whose set is not stored."""

    author: str
    made_at: datetime
    context_hash: str | None
    candidate_set_id: UUID | None


@dataclass(frozen=True)
class Traced:
    """A decision. context_hash: of the context that stood when the tip was chosen, None where there was none."""

    decision_id: UUID
    user_id: str
    decided_at: datetime
    source: str | None
    llm: str | None
    policy_version: str | None
    propensity: float | None
    n_candidates: int | None
    context_hash: str | None
    materialized_at: datetime | None
    reaction: str | None
    reacted_at: datetime | None
    reward: float | None
    tip: ChosenTip
    origin: Origin | None


@dataclass(frozen=True)
class Compared:
    """The versions that a tip was chosen for and written from, None where they are not known, and what changed."""

    chosen_for: Version | None
    written_from: Version | None
    sentences: Sequence[str]


def explain_user(history: History, user_id: str, last: int) -> list[str]:
    """Why the context of a user changed, the last so many times, in lines."""
    return change_lines(user_id, changes(known_versions(history, user_id), last))


def explain_decision(history: History, decision_id: str) -> list[str]:
    """What the tip of a decision was made from, in lines; UnknownDecision."""
    try:
        traced = trace(history.connection, UUID(decision_id))
    except ValueError:
        traced = None
    if traced is None:
        raise UnknownDecision(f"there is no decision '{plain(decision_id)}'. Write the decision_id of an answer.")
    return decision_lines(traced, known_versions(history, traced.user_id))


def known_versions(history: History, user_id: str) -> list[Version]:
    """A user's versions in the order in which they came to stand: of the history, of requests that it does not have
    yet, and the one that stands now where it is the last of neither.

    Of that one it is not known when it was assembled: the time of its signals stands for it.
    """
    stored = dict.fromkeys((*history.of(user_id), *request_versions(history.connection, [user_id])))
    found = sorted(stored, key=attrgetter("materialized_at", "assembled_at"))
    row = queries("history").standing_context(history.connection, user_id=user_id)
    if row is not None and (not found or found[-1].context_hash != row[1]):
        materialized_at, context_hash, context_json = row
        found.append(Version(user_id, materialized_at, materialized_at, context_hash, context_json, "night"))
    return found


def changes(versions: Sequence[Version], last: int) -> list[Change]:
    """The last so many changes, oldest first, of versions in order; what equals the version before it is none."""
    pairs = zip((None, *versions), versions, strict=False)
    changed = [(old, new) for old, new in pairs if old is None or old.context_hash != new.context_hash]
    return [Change(new, _differences(old, new)) for old, new in changed[max(0, len(changed) - last) :]]


def trace(connection: psycopg.Connection[Any], decision_id: UUID) -> Traced | None:
    """What is stored of a decision and of its tip's origin; None: there is no such decision."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(queries("history").decision.sql.encode(), {"decision_id": decision_id})
        row = cursor.fetchone()
    if row is None:
        return None
    facts = {name: row[name] for name in Traced.__dataclass_fields__ if name in row and name != "tip"}
    return Traced(**facts, tip=_tip(row), origin=_origin(connection, row))


def compare(traced: Traced, versions: Sequence[Version]) -> Compared:
    """The contexts of a decision among the user's versions, and what changed between the two."""
    origin = traced.origin
    chosen_for = _version(versions, traced.context_hash, traced.decided_at)
    written_from = _version(versions, origin.context_hash, origin.made_at) if origin else None
    told = _differences(written_from, chosen_for) if written_from and chosen_for else []
    return Compared(chosen_for, written_from, told)


def change_lines(user_id: str, listed: Sequence[Change]) -> list[str]:
    """The answer to `why USER`."""
    if not listed:
        return [f"{plain(user_id)}: no context is known"]
    return [f"{plain(user_id)}: {_n(len(listed), 'version')} of the context, the newest last", *_change_lines(listed)]


def decision_lines(traced: Traced, versions: Sequence[Version]) -> list[str]:
    """The answer to `why --decision ID`."""
    found = compare(traced, versions)
    facts = [(name, text) for name, text in _facts(traced, found) if text]
    head = f"decision {traced.decision_id} of user {plain(traced.user_id)}, {_time(traced.decided_at)}"
    return [head, *(f"  {name:<10}{text}" for name, text in facts), *_since(traced, found)]


def _tip(row: dict[str, Any]) -> ChosenTip:
    told = json.loads(row["tip"]) if row["tip"] else {}
    return ChosenTip(
        told.get("kind") or row["tip_kind"] or "", told.get("title"), told.get("body"), told.get("task_ids", ())
    )


def _origin(connection: psycopg.Connection[Any], row: dict[str, Any]) -> Origin | None:
    """Back through the sets to the one that the tip was written for.

    A tip that was carried over has the basis that it had, and one that rules put beside such tips has none.
    """
    if row["author"] is None:
        return Origin("generic", row["decided_at"], None, None) if row["source"] == "none" else None
    own = Origin(row["author"], row["made_at"], row["made_for"], row["candidate_set_id"])
    if own.author != "kept":
        return own
    if not row["basis"]:
        return Origin("rules", own.made_at, own.context_hash, own.candidate_set_id)
    found = queries("history").sets_with_tip(
        connection, user_id=row["user_id"], made_at=row["made_at"], tip=row["tip"], basis=row["basis"]
    )
    chain = [Origin(*each) for each in found]
    return next((each for each in chain if each.author != "kept"), chain[-1])


def _version(versions: Iterable[Version], context_hash: str | None, until: datetime) -> Version | None:
    """The version of this hash that stood at an instant; where clocks differ the first one after it."""
    same = [version for version in versions if version.context_hash == context_hash]
    return next((each for each in reversed(same) if each.assembled_at <= until), same[0] if same else None)


def _differences(before: Version | None, after: Version) -> list[str]:
    try:
        return differences(_read(before) if before else None, _read(after))
    except ValidationError:
        return [_UNREADABLE]


def _read(version: Version) -> UserContext:
    return UserContext.model_validate_json(version.context_json)


def _change_lines(listed: Iterable[Change]) -> Iterator[str]:
    for each in listed:
        yield f"{_told(each.version)}, of signals of {_time(each.version.materialized_at)}"
        yield from _sentences(each.sentences)


def _sentences(sentences: Sequence[str]) -> Iterator[str]:
    yield from (f"  - {sentence}" for sentence in sentences[:MOST_SENTENCES])
    if (more := len(sentences) - MOST_SENTENCES) > 0:
        yield f"  - and {more} more"


def _facts(traced: Traced, found: Compared) -> Iterator[tuple[str, str]]:
    tip = traced.tip
    kind = plain(tip.kind.replace("_", " "))
    yield "tip", f"{kind}: {plain(tip.title)}" if tip.title else kind
    yield "", plain(tip.body or "")
    yield "tasks", ", ".join(_titles(tip.task_ids, found.chosen_for))
    if traced.propensity is not None:
        among = _n(traced.n_candidates or 0, "candidate")
        yield (
            "chosen",
            f"with probability {traced.propensity:.2f} among {among}, by {plain(traced.policy_version or '')}",
        )
    if traced.source and traced.llm:
        yield "answered", f"source {traced.source}, llm {traced.llm}"
    yield "reaction", _reaction(traced)
    yield "context", _context(found.chosen_for, traced.context_hash)
    if traced.origin:
        author = _AUTHORS.get(traced.origin.author, plain(traced.origin.author))
        yield "written", f"by {author}, {_time(traced.origin.made_at)}"
        if traced.origin.context_hash:
            yield "from", _context(found.written_from, traced.origin.context_hash)


def _since(traced: Traced, found: Compared) -> Iterator[str]:
    """What changed between the writing of a tip and its choice."""
    if traced.origin is None or traced.context_hash is None:
        return
    if traced.origin.context_hash == traced.context_hash:
        yield "  the context is the one that the tip was written from"
    elif found.sentences:
        yield "  what changed between the two:"
        yield from (f"  {line}" for line in _sentences(found.sentences))


def _titles(task_ids: Iterable[str], version: Version | None) -> list[str]:
    """Tasks by their titles in a version, by their ids where it does not show them."""
    try:
        shown = tasks_shown(_read(version)) if version else {}
    except ValidationError:
        shown = {}
    return [quoted(shown[each][1].title) if each in shown else plain(each) for each in task_ids]


def _reaction(traced: Traced) -> str:
    if traced.reaction is None or traced.reacted_at is None:
        return "none"
    reward = "" if traced.reward is None else f", reward {traced.reward:.2f}"
    return f"{traced.reaction}, {_time(traced.reacted_at)}{reward}"


def _context(version: Version | None, context_hash: str | None) -> str:
    if context_hash is None:
        return "none"
    return _told(version) if version else f"{context_hash[:12]}, {_UNKNOWN}"


def _told(version: Version) -> str:
    author = "the night" if version.author == "night" else "a request"
    return f"{version.context_hash[:12]}  {_time(version.assembled_at)}, by {author}"


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _n(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
