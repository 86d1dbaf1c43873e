"""Explanations of contexts and tips as lines of text."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.explain import (
    ChosenTip,
    ContextChange,
    ContextComparison,
    DecisionTrace,
    TipOrigin,
    UnknownDecision,
    compare,
    context_changes,
)
from contexts.assembly.explanation_text import (
    MAX_SENTENCES,
    change_lines,
    decision_lines,
    explain_decision,
    explain_user,
)
from contexts.assembly.history import ContextVersion, History
from contexts.assembly.model import Signals, Task

MONDAY = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
Connection = psycopg.Connection[Any]
DECISION_ID = UUID(int=1)


def version(*titles: str, at: datetime = MONDAY, author: Any = "pipeline") -> ContextVersion:
    """A context of these tasks, all due on Tuesday, as the assembler makes it."""
    tasks = tuple(Task(f"t{n}", title, due_date="2026-11-24") for n, title in enumerate(titles))
    assembled = assemble(Signals("ann", "UTC", "en", tasks), at, Budget(2000))
    fetched_at = at - timedelta(minutes=9)
    return ContextVersion("ann", at, fetched_at, assembled.context_hash, assembled.context_json, author)


class TestChangeLines:
    def test_lines(self) -> None:
        """Each version has a line with its hash, time and author, and a line for each change."""
        versions = [version("a"), version("a", "b", at=MONDAY + HOUR, author="request")]
        first, second = (each.context_hash[:12] for each in versions)
        assert change_lines("ann", context_changes(versions, 9)) == [
            "ann: 2 versions of the context, newest last",
            f"{first}  2026-11-23 02:00 UTC, by the pipeline, from signals of 2026-11-23 01:51 UTC",
            "  - first context: 1 open task, 0 themes",
            f"{second}  2026-11-23 03:00 UTC, by a request, from signals of 2026-11-23 02:51 UTC",
            "  - task 'b' was added, due 2026-11-24 (this week)",
        ]

    def test_many(self) -> None:
        """Only the first differences of a version are printed, with the number of the others."""
        sentences = [f"number {n}" for n in range(MAX_SENTENCES + 7)]
        lines = change_lines("ann", [ContextChange(version("a"), sentences)])
        assert len(lines) == 2 + MAX_SENTENCES + 1
        assert lines[-2:] == [f"  - number {MAX_SENTENCES - 1}", "  - and 7 more"]

    def test_nothing(self) -> None:
        """A user without a context has one line, in which the user's id is safe for a terminal."""
        assert change_lines("ann\x1b[2J", []) == ["ann [2J: no context is stored"]


WRITTEN_FROM = version("call bob", "buy milk")
CHOSEN_FOR = version("call bob", at=MONDAY + 2 * HOUR, author="request")
DECISION = DecisionTrace(
    decision_id=DECISION_ID,
    user_id="ann",
    decided_at=MONDAY + 9 * HOUR,
    source="stored",
    llm="skipped",
    delivered=True,
    policy_version="thompson@12",
    propensity=0.25,
    n_candidates=3,
    context_hash=CHOSEN_FOR.context_hash,
    materialized_at=MONDAY + 8 * HOUR,
    reaction=None,
    reacted_at=None,
    reward=None,
    tip=ChosenTip("quick_win", "Begin", "Ten minutes are enough.", ["t0"]),
    origin=TipOrigin("llm", MONDAY + HOUR, WRITTEN_FROM.context_hash, UUID(int=2)),
)


def lines(decision: DecisionTrace, *versions: ContextVersion) -> list[str]:
    return decision_lines(decision, compare(decision, versions))


class TestDecisionLines:
    def test_undelivered(self) -> None:
        """A decision whose answer reached nobody is explained as such."""
        told = lines(replace(DECISION, delivered=False), CHOSEN_FOR, WRITTEN_FROM)
        assert "  answered  source stored, llm skipped; the answer reached nobody" in told

    def test_lines(self) -> None:
        """The lines give the tip, its tasks by title, its choice, both contexts, and the changes between them."""
        written_from, chosen_for = WRITTEN_FROM.context_hash[:12], CHOSEN_FOR.context_hash[:12]
        assert lines(DECISION, WRITTEN_FROM, CHOSEN_FOR) == [
            f"decision {DECISION_ID} for user ann, 2026-11-23 11:00 UTC",
            "  tip       quick win: Begin",
            "            Ten minutes are enough.",
            "  tasks     'call bob'",
            "  chosen    with probability 0.25 among 3 candidates, by thompson@12",
            "  answered  source stored, llm skipped",
            "  reaction  none",
            f"  context   {chosen_for}  2026-11-23 04:00 UTC, by a request",
            "  written   2026-11-23 03:00 UTC, by the LLM",
            f"  from      {written_from}  2026-11-23 02:00 UTC, by the pipeline",
            "  changes between the two contexts:",
            "    - task 'buy milk' is no longer open",
        ]

    def test_reaction(self) -> None:
        """The reaction has its time, and its reward if it has one."""
        reacted = replace(DECISION, reaction="dismissed", reacted_at=MONDAY + DAY, reward=-0.5)
        assert "  reaction  dismissed, 2026-11-24 02:00 UTC, reward -0.50" in lines(reacted)
        assert "  reaction  dismissed, 2026-11-24 02:00 UTC" in lines(replace(reacted, reward=None))

    def test_same_context(self) -> None:
        """If a tip was written from the context that it was chosen for, a line says so, even without the version."""
        decision = replace(DECISION, context_hash=WRITTEN_FROM.context_hash)
        assert lines(decision)[-1] == "  the tip was written from this very context"
        context = f"{WRITTEN_FROM.context_hash[:12]}, no longer in the history: older than the retention period"
        assert f"  context   {context}" in lines(decision)

    def test_older_than_the_history(self) -> None:
        """A context that is not stored any more has a line about it, and nothing is compared."""
        context = f"{WRITTEN_FROM.context_hash[:12]}, no longer in the history: older than the retention period"
        assert lines(DECISION, CHOSEN_FOR)[-1] == f"  from      {context}"

    def test_generic(self) -> None:
        """The generic tip has no title, tasks and contexts, and a line about its cause."""
        generic = replace(
            DECISION,
            tip=ChosenTip("generic", None, None, ()),
            origin=TipOrigin("generic", MONDAY + 9 * HOUR, None, None),
            context_hash=None,
            source="none",
            llm="fallback",
            propensity=1.0,
            n_candidates=1,
        )
        assert lines(generic)[1:] == [
            "  tip       generic",
            "  chosen    with probability 1.00 among 1 candidate, by thompson@12",
            "  answered  source none, llm fallback",
            "  reaction  none",
            "  context   none",
            "  written   2026-11-23 11:00 UTC, as the generic tip, because nothing was known about the user",
        ]

    def test_few_columns(self) -> None:
        """A decision with few columns has only the lines of these columns."""
        empty = dict.fromkeys(("source", "llm", "policy_version", "propensity", "n_candidates", "origin"))
        decision = replace(DECISION, tip=ChosenTip("focus", None, None, ()), **empty)
        assert [line.split()[0] for line in lines(decision, CHOSEN_FOR)[1:]] == ["tip", "reaction", "context"]

    @pytest.mark.parametrize(
        ("author", "phrase"),
        [
            ("rules", "by rules"),
            ("kept", "by an unknown author, because its set of candidates is no longer stored"),
            ("someone\x07 new", "by someone new"),
        ],
    )
    def test_author(self, author: str, phrase: str) -> None:
        """Every author has its phrase, also an unknown one."""
        decision = replace(DECISION, origin=TipOrigin(author, MONDAY, None, None))
        assert lines(decision)[-1] == f"  written   2026-11-23 02:00 UTC, {phrase}"

    def test_hostile_tip(self) -> None:
        """No control character of a tip reaches the terminal."""
        decision = replace(DECISION, tip=ChosenTip("focus\x07", "a\x1b[31m", "b\nc\u202e", ["\x07"]))
        assert all(line.isprintable() for line in lines(decision, WRITTEN_FROM, CHOSEN_FOR))

    def test_times_are_utc(self) -> None:
        """Times are printed in UTC, whatever the zone of the instants."""
        tokyo = timezone(9 * HOUR)
        origin = TipOrigin("llm", (MONDAY + HOUR).astimezone(tokyo), WRITTEN_FROM.context_hash, UUID(int=2))
        decision = replace(DECISION, decided_at=DECISION.decided_at.astimezone(tokyo), origin=origin)
        assert lines(decision, WRITTEN_FROM, CHOSEN_FOR) == lines(DECISION, WRITTEN_FROM, CHOSEN_FOR)

    def test_without_versions(self) -> None:
        """Tasks have their ids instead of titles if the context is not stored."""
        assert "  tasks     t0" in decision_lines(DECISION, ContextComparison(None, None, ()))


class TestExplain:
    @pytest.fixture
    def history(self, tmp_path: Path, connection: Connection) -> History:
        """A history with the versions of the user ann."""
        connection.execute("INSERT INTO users VALUES ('ann', 'x@x.org', 'UTC')")
        history = History(str(tmp_path), connection, lambda _: 0)
        history.append([WRITTEN_FROM, CHOSEN_FOR, version("bread", at=MONDAY + 12 * HOUR)])
        return history

    def test_user(self, connection: Connection, history: History) -> None:
        """The last changes of a user come from all places with versions."""
        requested = version("water", at=MONDAY + 13 * HOUR, author="request")
        values = (requested.assembled_at, requested.materialized_at, requested.context_hash, requested.context_json)
        connection.execute("INSERT INTO request_contexts VALUES ('ann', %s, %s, %s, %s)", values)
        versions = [*history.versions_of("ann"), requested]
        assert explain_user(history, "ann", 2) == change_lines("ann", context_changes(versions, 2))
        assert explain_user(history, "bob", 2) == ["bob: no context is stored"]

    def test_decision(self, connection: Connection, history: History) -> None:
        """A decision is explained with the versions of its own user."""
        connection.execute(
            "INSERT INTO decisions (decision_id, user_id, decided_at, tip_kind, context_hash, source, llm)"
            " VALUES (%s, 'ann', %s, 'focus', %s, 'stored', 'skipped')",
            [DECISION_ID, MONDAY + 9 * HOUR, CHOSEN_FOR.context_hash],
        )
        assert explain_decision(history, str(DECISION_ID)) == [
            f"decision {DECISION_ID} for user ann, 2026-11-23 11:00 UTC",
            "  tip       focus",
            "  answered  source stored, llm skipped",
            "  reaction  none",
            f"  context   {CHOSEN_FOR.context_hash[:12]}  2026-11-23 04:00 UTC, by a request",
        ]

    @pytest.mark.parametrize("decision_id", [str(DECISION_ID), "no id at all\x07"])
    def test_unknown(self, history: History, decision_id: str) -> None:
        """A decision that does not exist, or a malformed id, is refused with the fix."""
        with pytest.raises(UnknownDecision, match=r"there is no decision '.*Pass the decision_id"):
            explain_decision(history, decision_id)
