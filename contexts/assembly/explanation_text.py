"""Explanations of contexts and tips as lines of text: the output of `python -m assets why`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from contexts.assembly.explain import (
    ContextChange,
    ContextComparison,
    DecisionTrace,
    TipOrigin,
    compare,
    context_changes,
    context_versions,
    task_titles,
    trace,
)
from contexts.assembly.history import ContextVersion, History
from contexts.text import counted, plain, quoted

MAX_SENTENCES = 20
"""The maximum number of differences printed per version; a line gives the number of the others."""

_AUTHORS = {
    "llm": "by the LLM",
    "rules": "by rules",
    "generic": "as the generic tip, because nothing was known about the user",
    "kept": "by an unknown author, because its set of candidates is no longer stored",
}
_NOT_STORED = "no longer in the history: older than the retention period"


def explain_user(history: History, user_id: str, last: int) -> list[str]:
    """Return lines about the last changes of a user's context."""
    return change_lines(user_id, context_changes(context_versions(history, user_id), last))


def explain_decision(history: History, decision_id: str) -> list[str]:
    """Return lines about the origin of a decision's tip. Raises UnknownDecision if there is no such decision."""
    decision = trace(history.connection, decision_id)
    return decision_lines(decision, compare(decision, context_versions(history, decision.user_id)))


def change_lines(user_id: str, changes: Sequence[ContextChange]) -> list[str]:
    """Return the answer to `why USER`."""
    if not changes:
        return [f"{plain(user_id)}: no context is stored"]
    head = f"{plain(user_id)}: {counted(len(changes), 'version')} of the context, newest last"
    return [head, *_version_lines(changes)]


def decision_lines(decision: DecisionTrace, comparison: ContextComparison) -> list[str]:
    """Return the answer to `why --decision ID`."""
    head = f"decision {decision.decision_id} for user {plain(decision.user_id)}, {_time(decision.decided_at)}"
    facts = (f"  {name:<10}{text}" for name, text in _facts(decision, comparison) if text)
    return [head, *facts, *_comparison_lines(decision, comparison)]


def _version_lines(changes: Iterable[ContextChange]) -> Iterator[str]:
    for change in changes:
        yield f"{_describe(change.version)}, from signals of {_time(change.version.materialized_at)}"
        yield from _bullets(change.sentences)


def _bullets(sentences: Sequence[str]) -> Iterator[str]:
    yield from (f"  - {sentence}" for sentence in sentences[:MAX_SENTENCES])
    if (n_more := len(sentences) - MAX_SENTENCES) > 0:
        yield f"  - and {n_more} more"


def _facts(decision: DecisionTrace, comparison: ContextComparison) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each fact about a decision; the text is empty if the fact is missing."""
    tip = decision.tip
    kind = plain(tip.kind.replace("_", " "))
    yield "tip", f"{kind}: {plain(tip.title)}" if tip.title else kind
    yield "", plain(tip.body or "")
    yield "tasks", ", ".join(_titles(tip.task_ids, comparison.chosen_for))
    if decision.propensity is not None:
        candidates = counted(decision.n_candidates or 0, "candidate")
        policy = plain(decision.policy_version or "")
        yield "chosen", f"with probability {decision.propensity:.2f} among {candidates}, by {policy}"
    if decision.source and decision.llm:
        lost = "" if decision.delivered else "; the answer reached nobody"
        yield "answered", f"source {decision.source}, llm {decision.llm}{lost}"
    yield "reaction", _reaction(decision)
    yield "context", _context(comparison.chosen_for, decision.context_hash)
    if decision.origin:
        yield "written", _authorship(decision.origin)
        if decision.origin.context_hash:
            yield "from", _context(comparison.written_from, decision.origin.context_hash)


def _comparison_lines(decision: DecisionTrace, comparison: ContextComparison) -> Iterator[str]:
    """Yield lines about the changes between the writing of a tip and its choice."""
    if decision.origin is None or decision.context_hash is None:
        return
    if decision.origin.context_hash == decision.context_hash:
        yield "  the tip was written from this very context"
    elif comparison.sentences:
        yield "  changes between the two contexts:"
        yield from (f"  {line}" for line in _bullets(comparison.sentences))


def _titles(task_ids: Iterable[str], version: ContextVersion | None) -> list[str]:
    """Return the titles of tasks in a version, or their ids if the version does not show them."""
    titles = task_titles(version)
    return [quoted(titles[task_id]) if task_id in titles else plain(task_id) for task_id in task_ids]


def _reaction(decision: DecisionTrace) -> str:
    if decision.reaction is None or decision.reacted_at is None:
        return "none"
    reward = "" if decision.reward is None else f", reward {decision.reward:.2f}"
    return f"{decision.reaction}, {_time(decision.reacted_at)}{reward}"


def _authorship(origin: TipOrigin) -> str:
    author = _AUTHORS.get(origin.author) or f"by {plain(origin.author)}"
    return f"{_time(origin.made_at)}, {author}"


def _context(version: ContextVersion | None, context_hash: str | None) -> str:
    if context_hash is None:
        return "none"
    return _describe(version) if version else f"{context_hash[:12]}, {_NOT_STORED}"


def _describe(version: ContextVersion) -> str:
    author = {"request": "by a request", "played": "played"}.get(version.author, "by the pipeline")
    return f"{version.context_hash[:12]}  {_time(version.assembled_at)}, {author}"


def _time(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
