"""The versions of a context and the origin of a tip, from stored data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.explain import (
    ChosenTip,
    ContextChange,
    DecisionTrace,
    TipOrigin,
    UnknownDecision,
    compare,
    context_changes,
    context_versions,
    task_titles,
    trace,
)
from contexts.assembly.history import ContextVersion, History
from contexts.assembly.model import Signals, Task
from contexts.postgres.sql import connect

MONDAY = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
Connection = psycopg.Connection[Any]
DECISION_ID = UUID(int=1)


def version(*titles: str, at: datetime = MONDAY, author: Any = "pipeline", user: str = "ann") -> ContextVersion:
    """A context of these tasks, all due on Tuesday, as the assembler makes it."""
    tasks = tuple(Task(f"t{n}", title, due_date="2026-11-24") for n, title in enumerate(titles))
    assembled = assemble(Signals(user, "UTC", "en", tasks), at, Budget(2000))
    return ContextVersion(user, at, at - timedelta(minutes=9), assembled.context_hash, assembled.context_json, author)


@pytest.fixture
def history(tmp_path: Path, connection: Connection) -> History:
    return History(str(tmp_path), connection, lambda _: 0)


@pytest.fixture
def users(connection: Connection) -> None:
    connection.execute("INSERT INTO users VALUES ('ann', 'x@x.org', 'UTC'), ('bob', 'x@x.org', 'UTC')")


def make_current(connection: Connection, context: ContextVersion) -> None:
    """Store a context as the one that a request would use."""
    values = (context.user_id, context.materialized_at, context.context_json, context.context_hash)
    connection.execute("INSERT INTO context_store VALUES (%s, %s, %s, %s)", values)


def add_request_version(connection: Connection, context: ContextVersion) -> None:
    """Store a context that a request assembled and that is not in the history yet."""
    instants = (context.assembled_at, context.materialized_at)
    values = (context.user_id, *instants, context.context_hash, context.context_json)
    connection.execute("INSERT INTO request_contexts VALUES (%s, %s, %s, %s, %s)", values)


@pytest.mark.usefixtures("users")
class TestContextVersions:
    def test_from_all_places(self, connection: Connection, history: History) -> None:
        """Versions of the history, of requests and of the store come once each, in order."""
        first, second, current = (
            version("a"),
            version("b", at=MONDAY + HOUR, author="request"),
            version("c", at=MONDAY + DAY),
        )
        history.append([first, replace(second, user_id="bob")])
        add_request_version(connection, second)
        add_request_version(connection, replace(second, user_id="bob"))
        assert context_versions(history, "ann") == [first, second]
        make_current(connection, current)
        *before, last = context_versions(history, "ann")
        assert before == [first, second]
        assert last == replace(current, assembled_at=current.materialized_at)

    def test_appended_but_not_deleted(self, connection: Connection, history: History) -> None:
        """A version that an interrupted run left in two places counts once; a current one is not added again."""
        only = version("a", author="request")
        history.append([only])
        add_request_version(connection, only)
        make_current(connection, only)
        assert context_versions(history, "ann") == [only]

    def test_by_the_time_of_signals(self, connection: Connection, history: History) -> None:
        """The order is that of the signals: a late assembly of older signals never replaced a request's context."""
        late = replace(version("a", at=MONDAY + 2 * HOUR), materialized_at=MONDAY)
        requested = version("b", at=MONDAY + HOUR, author="request")
        history.append([late, requested])
        make_current(connection, requested)
        assert context_versions(history, "ann") == [late, requested]

    def test_unknown_user(self, history: History) -> None:
        """A user without stored data has no versions."""
        assert context_versions(history, "eve") == []


class TestContextChanges:
    def test_the_last(self) -> None:
        """The last changes come oldest first, each compared with its previous version, whether listed or not."""
        versions = [version("a"), version("a", "b", at=MONDAY + HOUR), version("a", "b", at=MONDAY + DAY)]
        assert context_changes(versions, 2) == [
            ContextChange(versions[1], ["task 'b' was added, due 2026-11-24 (this week)"]),
            ContextChange(
                versions[2],
                ["task 'a' moved from this week to today", "task 'b' moved from this week to today"],
            ),
        ]
        assert context_changes(versions, 9)[0] == ContextChange(versions[0], ["first context: 1 open task, 0 themes"])
        assert len(context_changes(versions, 9)) == 3
        assert context_changes(versions, 0) == []

    def test_no_change(self) -> None:
        """A version equal to the previous one is no change, however often it was assembled."""
        versions = [version("a"), version("a", at=MONDAY + HOUR), version("b", at=MONDAY + 2 * HOUR)]
        assert [change.version for change in context_changes(versions, 9)] == [versions[0], versions[2]]

    def test_unreadable_format(self) -> None:
        """A version in a format that cannot be read is listed, with a sentence about it."""
        unreadable = replace(version("a"), context_hash="odd", context_json='{"version":0}')
        changes = context_changes([unreadable, version("b", at=MONDAY + HOUR)], 9)
        assert [change.sentences for change in changes] == [["written in a format that can no longer be read"]] * 2
        assert task_titles(unreadable) == {}

    def test_version_1(self) -> None:
        """A context of version 1 is still explained; without a difference, a sentence names the newer format."""
        new = version("a", at=MONDAY + HOUR)
        old = replace(
            new,
            materialized_at=MONDAY,
            context_hash="old",
            context_json=new.context_json.replace('"version":2', '"version":1'),
        )
        assert context_changes([old, new], 9)[1].sentences == ["the same content in a newer format"]
        assert task_titles(old) == task_titles(new) != {}


TIP = {"kind": "quick_win", "title": "Begin", "body": "Ten minutes are enough.", "task_ids": ["t0"], "theme": None}
OTHER_TIP = {**TIP, "kind": "focus", "title": "Something else"}


def add_set(
    connection: Connection, number: int, author: str, *tips: tuple[dict[str, Any], str], user: str = "ann"
) -> UUID:
    """Store tips with their subject hashes, made `number` hours after Monday's run from the context `hash N`."""
    at, set_id = MONDAY + number * HOUR, UUID(int=100 + number)
    texts, subject_hashes = [json.dumps(tip) for tip, _ in tips], [subject for _, subject in tips]
    connection.execute(
        "INSERT INTO candidate_sets VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, '{}', '{}', '')",
        [set_id, user, f"hash {number}", author, at, at, at, texts, subject_hashes],
    )
    return set_id


def decide(connection: Connection, set_id: UUID | None, chosen: int = 0, **columns: Any) -> None:
    row = {
        "decision_id": DECISION_ID,
        "user_id": "ann",
        "decided_at": MONDAY + 9 * HOUR,
        "tip_kind": "quick_win",
        "context_hash": "hash now",
        "candidate_set_id": set_id,
        "source": "stored",
        "llm": "skipped",
        "materialized_at": MONDAY + 8 * HOUR,
        "policy_version": "thompson@12",
        "chosen": chosen,
        "propensities": [0.25, 0.5, 0.25],
        **columns,
    }
    names = ", ".join(row)
    places = ", ".join(["%s"] * len(row))
    connection.execute(f"INSERT INTO decisions ({names}) VALUES ({places})", list(row.values()))


def origin(connection: Connection) -> tuple[str, str | None]:
    """The author of the decision's tip, and the hash of the context that the tip was written from."""
    decision = trace(connection, DECISION_ID)
    assert decision.origin is not None
    return decision.origin.author, decision.origin.context_hash


@pytest.mark.usefixtures("users")
class TestTrace:
    def test_all_columns(self, connection: Connection) -> None:
        """A trace holds the chosen tip, its origin, its probability and the user's reaction."""
        set_id = add_set(connection, 1, "llm", (OTHER_TIP, "x"), (TIP, "y"))
        decide(connection, set_id, chosen=1)
        connection.execute("INSERT INTO reactions VALUES (%s, 'dismissed', %s, -0.5)", [DECISION_ID, MONDAY + DAY])
        decision = trace(connection, DECISION_ID)
        assert decision.tip == ChosenTip("quick_win", "Begin", "Ten minutes are enough.", ["t0"])
        assert decision.origin == TipOrigin("llm", MONDAY + HOUR, "hash 1", set_id)
        assert (decision.user_id, decision.decided_at, decision.context_hash) == (
            "ann",
            MONDAY + 9 * HOUR,
            "hash now",
        )
        assert (decision.propensity, decision.n_candidates, decision.policy_version) == (0.5, 3, "thompson@12")
        assert (decision.source, decision.llm, decision.materialized_at) == ("stored", "skipped", MONDAY + 8 * HOUR)
        assert (decision.reaction, decision.reacted_at, decision.reward) == ("dismissed", MONDAY + DAY, -0.5)
        assert trace(connection, str(DECISION_ID)) == decision

    @pytest.mark.parametrize("decision_id", [DECISION_ID, str(DECISION_ID), "no id at all\x07", ""])
    def test_unknown(self, connection: Connection, decision_id: UUID | str) -> None:
        """A decision that does not exist, or a malformed id, is refused with a printable message."""
        with pytest.raises(UnknownDecision, match=r"there is no decision '.*Pass the decision_id") as raised:
            trace(connection, decision_id)
        assert str(raised.value).isprintable()

    def test_kept_twice(self, connection: Connection) -> None:
        """A kept tip is traced through all sets that kept it to the set that the LLM wrote."""
        add_set(connection, 1, "llm", (TIP, "of an earlier day"))
        add_set(connection, 2, "llm", (OTHER_TIP, "x"), (TIP, "y"))
        add_set(connection, 3, "kept", (TIP, "y"), (OTHER_TIP, "x"))
        decide(connection, add_set(connection, 4, "kept", (TIP, "y")))
        add_set(connection, 5, "llm", (TIP, "y"))
        assert origin(connection) == ("llm", "hash 2")

    def test_rules_beside_kept_tips(self, connection: Connection) -> None:
        """A tip that rules added to kept tips is theirs, even if they wrote the same tip before."""
        add_set(connection, 1, "rules", (TIP, ""))
        decide(connection, add_set(connection, 2, "kept", (OTHER_TIP, "x"), (TIP, "")), chosen=1)
        assert origin(connection) == ("rules", "hash 2")

    @pytest.mark.parametrize("author", ["llm", "rules"])
    def test_written_again(self, connection: Connection, author: str) -> None:
        """A tip with the same words as an earlier one originates in the set that it was chosen from."""
        add_set(connection, 1, author, (TIP, "y"))
        decide(connection, add_set(connection, 2, author, (TIP, "y")))
        assert origin(connection) == (author, "hash 2")

    def test_origin_not_stored(self, connection: Connection) -> None:
        """A kept tip without its first set has the author `kept`; sets of other users do not count."""
        add_set(connection, 1, "llm", (TIP, "y"), user="bob")
        add_set(connection, 2, "kept", (TIP, "y"))
        decide(connection, add_set(connection, 3, "kept", (TIP, "y")))
        assert origin(connection) == ("kept", "hash 2")

    def test_generic(self, connection: Connection) -> None:
        """The generic tip has neither a context nor a set."""
        columns = {"source": "none", "llm": "fallback", "context_hash": None, "propensities": [1.0]}
        decide(connection, None, tip_kind="generic", **columns)
        decision = trace(connection, DECISION_ID)
        assert decision.tip == ChosenTip("generic", None, None, ())
        assert decision.origin == TipOrigin("generic", MONDAY + 9 * HOUR, None, None)
        assert (decision.propensity, decision.n_candidates) == (1.0, 1)

    def test_first_columns(self, connection: Connection) -> None:
        """A decision with only the columns of the first migration is traced without an origin."""
        connection.execute(
            "INSERT INTO decisions VALUES (%s, 'ann', %s, 'focus', NULL, 'abc')", [DECISION_ID, MONDAY]
        )
        decision = trace(connection, DECISION_ID)
        assert (decision.origin, decision.tip.kind, decision.propensity) == (None, "focus", None)
        assert (decision.context_hash, decision.source, decision.llm) == ("abc", None, None)

    def test_zone_of_the_connection(self, connection: Connection, database_url: str) -> None:
        """A trace does not depend on the time zone of the connection."""
        decide(connection, add_set(connection, 1, "llm", (TIP, "y")))
        with connect(database_url) as other:
            other.execute("SET TIME ZONE 'Asia/Tokyo'")
            assert trace(other, DECISION_ID) == trace(connection, DECISION_ID)


def decide_between(connection: Connection, versions: Sequence[ContextVersion]) -> DecisionTrace:
    """A decision for the last version, with a tip that the LLM wrote from the first version and that was kept."""
    add_set(connection, 1, "llm", (TIP, "y"))
    set_id = add_set(connection, 3, "kept", (TIP, "y"))
    for number, context in ((1, versions[0]), (3, versions[-1])):
        values = [context.context_hash, UUID(int=100 + number)]
        connection.execute("UPDATE candidate_sets SET context_hash = %s WHERE candidate_set_id = %s", values)
    decide(connection, set_id, context_hash=versions[-1].context_hash)
    return trace(connection, DECISION_ID)


@pytest.mark.usefixtures("users")
class TestCompare:
    versions = (
        version("call bob", "buy milk"),
        version("call bob", at=MONDAY + 2 * HOUR, author="request"),
        version("call bob", "buy milk", at=MONDAY + 5 * HOUR),
        version("call bob", at=MONDAY + 12 * HOUR),
    )

    def test_versions(self, connection: Connection) -> None:
        """The contexts of a decision are the last versions with their hashes at the time, not later ones."""
        comparison = compare(decide_between(connection, self.versions), self.versions)
        assert (comparison.written_from, comparison.chosen_for) == (self.versions[0], self.versions[1])
        assert comparison.sentences == ["task 'buy milk' is no longer open"]
        assert task_titles(comparison.chosen_for) == {"t0": "call bob"}

    def test_clocks_that_differ(self, connection: Connection) -> None:
        """A version that a different machine's clock dates just after the decision is found."""
        decision = decide_between(connection, self.versions)
        assert compare(decision, self.versions[3:]).chosen_for == self.versions[3]

    def test_not_stored(self, connection: Connection) -> None:
        """A context without a stored version is None, and is not compared."""
        comparison = compare(decide_between(connection, self.versions), self.versions[1:2])
        assert (comparison.written_from, comparison.chosen_for) == (None, self.versions[1])
        assert comparison.sentences == []
        assert task_titles(None) == {}
