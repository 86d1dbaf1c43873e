"""Why a context changed, and what a tip was made from, out of what is stored."""

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

from contexts.assemble import Budget, assemble
from contexts.history import History, Version
from contexts.model import Signals, Task
from contexts.sql import connect
from contexts.why import (
    MOST_SENTENCES,
    Change,
    ChosenTip,
    Origin,
    UnknownDecision,
    change_lines,
    changes,
    compare,
    decision_lines,
    explain_decision,
    explain_user,
    known_versions,
    trace,
)

MONDAY = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
Connection = psycopg.Connection[Any]
ID = UUID(int=1)


def version(*titles: str, at: datetime = MONDAY, author: Any = "night", user: str = "ann") -> Version:
    """A context of these tasks, all due on Tuesday, as the assembler makes it."""
    tasks = tuple(Task(f"t{n}", title, due_date="2026-11-24") for n, title in enumerate(titles))
    made = assemble(Signals(user, "UTC", "en", tasks), at, Budget(2000))
    return Version(user, at, at - timedelta(minutes=9), made.context_hash, made.context_json, author)


def stands(connection: Connection, made: Version) -> None:
    """A context is the one that a request would find."""
    values = (made.user_id, made.materialized_at, made.context_json, made.context_hash)
    connection.execute("INSERT INTO context_store VALUES (%s, %s, %s, %s)", values)


@pytest.fixture
def history(tmp_path: Path, connection: Connection) -> History:
    return History(str(tmp_path), connection, lambda _: 0)


@pytest.fixture
def ann(connection: Connection) -> None:
    connection.execute("INSERT INTO users VALUES ('ann', 'x@x.org', 'UTC'), ('bob', 'x@x.org', 'UTC')")


def waits(connection: Connection, made: Version) -> None:
    """A context that a request assembled and that is not in the history yet."""
    values = (made.user_id, made.assembled_at, made.materialized_at, made.context_hash, made.context_json)
    connection.execute("INSERT INTO request_contexts VALUES (%s, %s, %s, %s, %s)", values)


@pytest.mark.usefixtures("ann")
class TestKnownVersions:
    def test_from_all_places(self, connection: Connection, history: History) -> None:
        """The history's, those of requests that it lacks, and the one that stands, once each, in order."""
        night, between, last = (
            version("a"),
            version("b", at=MONDAY + HOUR, author="request"),
            version("c", at=MONDAY + DAY),
        )
        history.append([night, replace(between, user_id="bob")])
        waits(connection, between)
        waits(connection, replace(between, user_id="bob"))
        assert known_versions(history, "ann") == [night, between]
        stands(connection, last)
        *before, now = known_versions(history, "ann")
        assert before == [night, between]
        assert now == replace(last, assembled_at=last.materialized_at)

    def test_drained_but_not_deleted(self, connection: Connection, history: History) -> None:
        """A version that a broken-off run left in both places counts once; one that stands already is not added."""
        made = version("a", author="request")
        history.append([made])
        waits(connection, made)
        stands(connection, made)
        assert known_versions(history, "ann") == [made]

    def test_by_the_time_of_signals(self, connection: Connection, history: History) -> None:
        """A night's context of older signals never stood over a request's: it comes before it, though made later."""
        night = replace(version("a", at=MONDAY + 2 * HOUR), materialized_at=MONDAY)
        asked = version("b", at=MONDAY + HOUR, author="request")
        history.append([night, asked])
        stands(connection, asked)
        assert known_versions(history, "ann") == [night, asked]

    def test_nobody(self, history: History) -> None:
        """Of a user of whom nothing is stored there are none."""
        assert known_versions(history, "eve") == []


class TestChanges:
    def test_the_last(self) -> None:
        """The last changes, oldest first, each told beside the version before it, whether that is listed or not."""
        made = [version("a"), version("a", "b", at=MONDAY + HOUR), version("a", "b", at=MONDAY + DAY)]
        assert changes(made, 2) == [
            Change(made[1], ["task 'b' was added, due 2026-11-24 (this week)"]),
            Change(
                made[2],
                ["task 'a' moved from this week to today", "task 'b' moved from this week to today"],
            ),
        ]
        assert changes(made, 9)[0] == Change(made[0], ["first context: 1 open task, 0 themes"])
        assert len(changes(made, 9)) == 3
        assert changes(made, 0) == []

    def test_no_change(self) -> None:
        """A version that equals the one before it is none, however often it was assembled."""
        made = [version("a"), version("a", at=MONDAY + HOUR), version("b", at=MONDAY + 2 * HOUR)]
        assert [each.version for each in changes(made, 9)] == [made[0], made[2]]

    def test_form_that_is_not_read(self) -> None:
        """A version in a form of another time is listed, and it is said that it is not read."""
        odd = replace(version("a"), context_hash="odd", context_json='{"version":0}')
        assert [each.sentences for each in changes([odd, version("b", at=MONDAY + HOUR)], 9)] == [
            ["written in a form that is not read any more"]
        ] * 2


class TestChangeLines:
    def test_lines(self) -> None:
        """Each version has its hash, its time, who assembled it, and what changed, a line each."""
        made = [version("a"), version("a", "b", at=MONDAY + HOUR, author="request")]
        one, two = (each.context_hash[:12] for each in made)
        assert change_lines("ann", changes(made, 9)) == [
            "ann: 2 versions of the context, the newest last",
            f"{one}  2026-11-23 02:00 UTC, by the night, of signals of 2026-11-23 01:51 UTC",
            "  - first context: 1 open task, 0 themes",
            f"{two}  2026-11-23 03:00 UTC, by a request, of signals of 2026-11-23 02:51 UTC",
            "  - task 'b' was added, due 2026-11-24 (this week)",
        ]

    def test_many(self) -> None:
        """Where much changed the first differences are told, and how many more there are."""
        lines = change_lines("ann", [Change(version("a"), [f"number {n}" for n in range(MOST_SENTENCES + 7)])])
        assert len(lines) == 2 + MOST_SENTENCES + 1
        assert lines[-2:] == [f"  - number {MOST_SENTENCES - 1}", "  - and 7 more"]

    def test_nothing(self) -> None:
        """Of a user without a context it is said that none is known, in a name that no terminal obeys."""
        assert change_lines("ann\x1b[2J", []) == ["ann [2J: no context is known"]


TIP = {"kind": "quick_win", "title": "Begin", "body": "Ten minutes are enough.", "task_ids": ["t0"], "theme": None}
OTHER = {**TIP, "kind": "focus", "title": "Something else"}


def add_set(
    connection: Connection, number: int, author: str, *tips: tuple[dict[str, Any], str], user: str = "ann"
) -> UUID:
    """A set of candidates with their bases, made `number` hours after Monday's night from a context of that name."""
    at, set_id = MONDAY + number * HOUR, UUID(int=100 + number)
    connection.execute(
        "INSERT INTO candidate_sets VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, '{}', '{}', '')",
        [
            set_id,
            user,
            f"hash {number}",
            author,
            at,
            at,
            at,
            [json.dumps(tip) for tip, _ in tips],
            [b for _, b in tips],
        ],
    )
    return set_id


def decide(connection: Connection, set_id: UUID | None, chosen: int = 0, **facts: Any) -> None:
    row = {
        "decision_id": ID,
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
        **facts,
    }
    names = ", ".join(row)
    places = ", ".join(["%s"] * len(row))
    connection.execute(f"INSERT INTO decisions ({names}) VALUES ({places})", list(row.values()))


def origin(connection: Connection) -> tuple[str, str | None]:
    """Who wrote the tip of the decision, and from which context."""
    traced = trace(connection, ID)
    assert traced is not None
    assert traced.origin is not None
    return traced.origin.author, traced.origin.context_hash


@pytest.mark.usefixtures("ann")
class TestTrace:
    def test_facts(self, connection: Connection) -> None:
        """What is stored of a decision comes back: the tip that was chosen, how likely it was, what became of it."""
        set_id = add_set(connection, 1, "llm", (OTHER, "x"), (TIP, "y"))
        decide(connection, set_id, chosen=1)
        connection.execute("INSERT INTO reactions VALUES (%s, 'dismissed', %s, -0.5)", [ID, MONDAY + DAY])
        traced = trace(connection, ID)
        assert traced is not None
        assert traced.tip == ChosenTip("quick_win", "Begin", "Ten minutes are enough.", ["t0"])
        assert traced.origin == Origin("llm", MONDAY + HOUR, "hash 1", set_id)
        assert (traced.user_id, traced.decided_at, traced.context_hash) == ("ann", MONDAY + 9 * HOUR, "hash now")
        assert (traced.propensity, traced.n_candidates, traced.policy_version) == (0.5, 3, "thompson@12")
        assert (traced.source, traced.llm, traced.materialized_at) == ("stored", "skipped", MONDAY + 8 * HOUR)
        assert (traced.reaction, traced.reacted_at, traced.reward) == ("dismissed", MONDAY + DAY, -0.5)

    def test_unknown(self, connection: Connection) -> None:
        """Of a decision that does not exist there is nothing."""
        assert trace(connection, ID) is None

    def test_kept_twice(self, connection: Connection) -> None:
        """A tip that was carried over is traced back to the set that the LLM wrote, over all in between."""
        add_set(connection, 1, "llm", (TIP, "of an earlier day"))
        add_set(connection, 2, "llm", (OTHER, "x"), (TIP, "y"))
        add_set(connection, 3, "kept", (TIP, "y"), (OTHER, "x"))
        decide(connection, add_set(connection, 4, "kept", (TIP, "y")))
        add_set(connection, 5, "llm", (TIP, "y"))
        assert origin(connection) == ("llm", "hash 2")

    def test_of_rules_beside_the_kept(self, connection: Connection) -> None:
        """A tip that rules put beside those that were carried over is theirs, though they wrote the same before."""
        add_set(connection, 1, "rules", (TIP, ""))
        decide(connection, add_set(connection, 2, "kept", (OTHER, "x"), (TIP, "")), chosen=1)
        assert origin(connection) == ("rules", "hash 2")

    @pytest.mark.parametrize("author", ["llm", "rules"])
    def test_written_anew(self, connection: Connection, author: str) -> None:
        """A tip that was written in the very words of an earlier one is as old as the set that it was chosen from."""
        add_set(connection, 1, author, (TIP, "y"))
        decide(connection, add_set(connection, 2, author, (TIP, "y")))
        assert origin(connection) == (author, "hash 2")

    def test_of_another_user(self, connection: Connection) -> None:
        """What others were told is nobody's origin; where the chain ends unwritten, that is said."""
        add_set(connection, 1, "llm", (TIP, "y"), user="bob")
        add_set(connection, 2, "kept", (TIP, "y"))
        decide(connection, add_set(connection, 3, "kept", (TIP, "y")))
        assert origin(connection) == ("kept", "hash 2")

    def test_generic(self, connection: Connection) -> None:
        """The generic tip comes from no context and no set."""
        decide(
            connection, None, source="none", llm="fallback", context_hash=None, tip_kind="generic", propensities=[1.0]
        )
        traced = trace(connection, ID)
        assert traced is not None
        assert traced.tip == ChosenTip("generic", None, None, ())
        assert traced.origin == Origin("generic", MONDAY + 9 * HOUR, None, None)
        assert decision_lines(traced, [])[1:] == [
            "  tip       generic",
            "  chosen    with probability 1.00 among 1 candidate, by thompson@12",
            "  answered  source none, llm fallback",
            "  reaction  none",
            "  context   none",
            "  written   by nobody: nothing was known of the user, 2026-11-23 11:00 UTC",
        ]

    def test_of_the_first_days(self, connection: Connection) -> None:
        """A decision of which only the first columns are filled is traced as far as it goes."""
        connection.execute("INSERT INTO decisions VALUES (%s, 'ann', %s, 'focus', NULL, 'abc')", [ID, MONDAY])
        traced = trace(connection, ID)
        assert traced is not None
        assert (traced.origin, traced.tip.kind, traced.propensity) == (None, "focus", None)
        assert decision_lines(traced, [])[-1] == "  context   abc, not in the history: older than what it keeps"


def decided(connection: Connection, made: Sequence[Version], **tip: Any) -> Any:
    """A decision for the last of these versions with a tip that the LLM wrote from the first and that was kept."""
    add_set(connection, 1, "llm", ({**TIP, **tip}, "y"))
    set_id = add_set(connection, 3, "kept", ({**TIP, **tip}, "y"))
    for number, each in ((1, made[0]), (3, made[-1])):
        hashes = [each.context_hash, UUID(int=100 + number)]
        connection.execute("UPDATE candidate_sets SET context_hash = %s WHERE candidate_set_id = %s", hashes)
    decide(connection, set_id, context_hash=made[-1].context_hash)
    return trace(connection, ID)


@pytest.mark.usefixtures("ann")
class TestCompare:
    made = (
        version("call bob", "buy milk"),
        version("call bob", at=MONDAY + 2 * HOUR, author="request"),
        version("call bob", "buy milk", at=MONDAY + 5 * HOUR),
        version("call bob", at=MONDAY + 12 * HOUR),
    )

    def test_versions(self, connection: Connection) -> None:
        """A decision's contexts are the versions of their hashes that stood at the time, and not later ones."""
        found = compare(decided(connection, self.made), self.made)
        assert (found.written_from, found.chosen_for) == (self.made[0], self.made[1])
        assert found.sentences == ["task 'buy milk' is no longer open"]

    def test_told_by_clocks_that_differ(self, connection: Connection) -> None:
        """Where a context was assembled, by another machine's clock, just after the decision, it is that one."""
        assert compare(decided(connection, self.made), self.made[3:]).chosen_for == self.made[3]

    def test_lines(self, connection: Connection) -> None:
        """All of it in lines: the tip, its tasks by title, how it was chosen, both contexts, and what changed."""
        traced = decided(connection, self.made)
        written_from, chosen_for = (each.context_hash[:12] for each in self.made[:2])
        assert decision_lines(traced, self.made) == [
            f"decision {ID} of user ann, 2026-11-23 11:00 UTC",
            "  tip       quick win: Begin",
            "            Ten minutes are enough.",
            "  tasks     'call bob'",
            "  chosen    with probability 0.25 among 3 candidates, by thompson@12",
            "  answered  source stored, llm skipped",
            "  reaction  none",
            f"  context   {chosen_for}  2026-11-23 04:00 UTC, by a request",
            "  written   by the LLM, 2026-11-23 03:00 UTC",
            f"  from      {written_from}  2026-11-23 02:00 UTC, by the night",
            "  what changed between the two:",
            "    - task 'buy milk' is no longer open",
        ]

    def test_same_context(self, connection: Connection) -> None:
        """Where a tip was written from the context for which it was chosen, that is said, even of a forgotten one."""
        lines = decision_lines(decided(connection, self.made[:1]), [])
        assert lines[-1] == "  the context is the one that the tip was written from"
        assert f"  context   {self.made[0].context_hash[:12]}, not in the history: older than what it keeps" in lines

    def test_older_than_the_history(self, connection: Connection) -> None:
        """Where one of the two is not known any more, it is said of that one, and nothing is compared."""
        lines = decision_lines(decided(connection, self.made), self.made[1:2])
        first = self.made[0].context_hash[:12]
        assert lines[-1] == f"  from      {first}, not in the history: older than what it keeps"

    def test_hostile_tip(self, connection: Connection) -> None:
        """Nothing of a tip is obeyed by a terminal."""
        traced = decided(connection, self.made, title="a\x1b[31m", body="b\nc\u202e", task_ids=["\x07"])
        assert all(line.isprintable() for line in decision_lines(traced, self.made))

    def test_zone_of_the_connection(self, connection: Connection, database_url: str) -> None:
        """Times are told in UTC, in whatever zone the connection tells them."""
        lines = decision_lines(decided(connection, self.made), self.made)
        with connect(database_url) as other:
            other.execute("SET TIME ZONE 'Asia/Tokyo'")
            traced = trace(other, ID)
        assert traced is not None
        assert decision_lines(traced, self.made) == lines


@pytest.mark.usefixtures("ann")
class TestExplain:
    def test_user(self, connection: Connection, history: History) -> None:
        """A user's last changes are told out of all places where versions stand."""
        night, asked = version("a"), version("b", at=MONDAY + HOUR, author="request")
        history.append([night])
        waits(connection, asked)
        assert explain_user(history, "ann", 1) == change_lines("ann", changes([night, asked], 1))

    def test_decision(self, connection: Connection, history: History) -> None:
        """A decision is told by the versions of its own user."""
        traced = decided(connection, TestCompare.made)
        history.append(TestCompare.made)
        assert explain_decision(history, str(ID)) == decision_lines(traced, TestCompare.made)

    @pytest.mark.parametrize("decision_id", [str(ID), "no id at all\x07"])
    def test_unknown(self, history: History, decision_id: str) -> None:
        """Of a decision that does not exist, or of what is no id, it is said what is wanted."""
        with pytest.raises(UnknownDecision, match=r"there is no decision '.*Write the decision_id") as raised:
            explain_decision(history, decision_id)
        assert str(raised.value).isprintable()
