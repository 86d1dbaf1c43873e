"""Rows that a service finds broken, or written by another version: each costs its own user one assembly at most."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from service import Service, ServiceHarness, answering, is_problem, tip_about

from tips.features import N_FEATURES, N_STATIC

PATIENT = {"todoist_timeout": 20, "llm_timeout": 20, "request_budget": 60}
"""Time limits that a busy machine does not reach."""

CANARY = "canary-4711"
NAN = np.float32("nan")


@pytest.fixture
def service(harness: ServiceHarness) -> Service:
    return harness.open(**PATIENT)


def with_context(harness: ServiceHarness, change: Callable[[dict[str, Any]], object]) -> None:
    """Store ann's context after a change, with the right hash, and the hash in no set of candidates."""
    context = json.loads(harness.one("SELECT context_json FROM context_store WHERE user_id = 'ann'"))
    change(context)
    store_text(harness, json.dumps(context))


def store_text(harness: ServiceHarness, text: str, context_hash: str | None = None) -> None:
    harness.connection.execute(
        "UPDATE context_store SET context_json = %s, context_hash = %s WHERE user_id = 'ann'",
        [text, context_hash or sha256(text.encode()).hexdigest()],
    )


def is_readable(harness: ServiceHarness) -> bool:
    """Whether the stored context has the hash that the row claims, and the texts of the account."""
    [[text, context_hash]] = harness.rows("SELECT context_json, context_hash FROM context_store")
    return sha256(text.encode()).hexdigest() == context_hash and "water the plants" in text


BROKEN_CONTEXTS: dict[str, Callable[[ServiceHarness], None]] = {
    "a newer version": lambda harness: with_context(harness, lambda context: context.update(version=99)),
    "an unknown field": lambda harness: with_context(harness, lambda context: context.update(mood=CANARY)),
    "a missing field": lambda harness: with_context(harness, lambda context: context.pop("counts")),
    "not JSON": lambda harness: store_text(harness, f'{{"version": 1, "profile": "{CANARY}'),
    "no object": lambda harness: store_text(harness, f'["{CANARY}"]'),
    "empty": lambda harness: store_text(harness, ""),
    "deeply nested": lambda harness: store_text(harness, "[" * 100_000),
    "another hash": lambda harness: store_text(
        harness, harness.one("SELECT context_json FROM context_store WHERE user_id = 'ann'"), "0" * 64
    ),
}


@pytest.mark.usefixtures("ann")
class TestContext:
    @pytest.mark.parametrize("change", BROKEN_CONTEXTS.values(), ids=list(BROKEN_CONTEXTS))
    def test_assembled_again(
        self,
        harness: ServiceHarness,
        service: Service,
        change: Callable[[ServiceHarness], None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A context that cannot be read is assembled in the request, stored, counted, and logged without texts."""
        change(harness)
        assert service.tip().origin[0] == "inline"
        assert is_readable(harness)
        assert service.metric("unreadable_rows_total", table="context_store") == 1
        assert service.tip().origin == ("stored", "skipped")
        assert "context_store, ann" in caplog.text
        assert CANARY not in caplog.text

    def test_todoist_is_down(self, harness: ServiceHarness, service: Service) -> None:
        """While a context can neither be read nor assembled, the tip is the generic one; afterwards all is well."""
        BROKEN_CONTEXTS["a newer version"](harness)
        harness.connection.execute("UPDATE todoist_accounts SET connected = FALSE")
        answer = service.tip().body
        assert (answer["source"], answer["tip"]["kind"], answer["tip"]["tasks"]) == ("none", "generic", [])
        assert (answer["context_hash"], answer["age_seconds"]) == (None, None)
        harness.connection.execute("UPDATE todoist_accounts SET connected = TRUE")
        assert service.tip().origin[0] == "inline"

    def test_shown(self, harness: ServiceHarness, service: Service) -> None:
        """A context that cannot be read is not shown, with the reason."""
        BROKEN_CONTEXTS["not JSON"](harness)
        response = service.request("GET", "/v1/users/ann/context")
        assert is_problem(response, 404, "context cannot be read: a request for a tip assembles it again")
        service.tip()
        assert service.request("GET", "/v1/users/ann/context").status == 200

    @pytest.mark.parametrize("groups", ["{", "[]", '{"themes": [{"theme_id": 1}]}', '{"duplicates": [["x"]]}'])
    def test_groups(self, harness: ServiceHarness, service: Service, groups: str) -> None:
        """Task groups that cannot be read are left out of an assembly, and the row is written without them."""
        harness.connection.execute("UPDATE context_store SET groups_json = %s", [groups])
        harness.clock.forward(hours=7)
        assert service.tip().origin[0] == "inline"
        assert json.loads(harness.one("SELECT groups_json FROM context_store")) == {"themes": [], "duplicates": []}
        assert service.metric("unreadable_rows_total", table="context_store") == 1


def a_feature(value: np.float32, at: int = 3) -> str:
    """SQL that puts a number into the features of each candidate set."""
    return f"features = overlay(features PLACING '\\x{value.tobytes().hex()}'::BYTEA FROM {4 * at + 1})"


BROKEN_SETS = {
    "a NaN": a_feature(NAN),
    "an infinity": a_feature(np.float32("inf")),
    "an absurd number": a_feature(np.float32(1e30)),
    "cut features": "features = substr(features, 1, 40)",
    "no features": "features = ''",
    "features of another version": f"features = features || '\\x{bytes(4 * N_STATIC).hex()}'::BYTEA",
    "fewer kinds": "kinds = kinds[1:1]",
    "no themes": "themes = '{}'",
    "twenty-one tips": f"tips = array_fill(tips[1], ARRAY[21]), kinds = array_fill(kinds[1], ARRAY[21]), themes ="
    f" array_fill(themes[1], ARRAY[21]), features = decode(repeat('00', {21 * 4 * N_STATIC}), 'hex')",
    "no tips": "tips = '{}', kinds = '{}', themes = '{}', features = ''",
    "tips that are none": 'tips = array_fill(\'{"kind": "canary-4711"}\'::TEXT, ARRAY[cardinality(tips)])',
    "tips that are not JSON": "tips = array_fill('{'::TEXT, ARRAY[cardinality(tips)])",
    "missing tips": "tips = array_fill(NULL::TEXT, ARRAY[cardinality(tips)])",
}


@pytest.mark.usefixtures("ann")
class TestCandidates:
    @pytest.mark.parametrize("change", BROKEN_SETS.values(), ids=list(BROKEN_SETS))
    def test_made_again(
        self, harness: ServiceHarness, account: Any, change: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Candidates that cannot be read are made again for their user alone, counted, and logged without texts."""
        service = harness.open(llm_wait=6)
        harness.add_with_context("bob", account("wash the car", "iron the shirts", "paint the fence"))
        harness.llm.behaviour = answering(tip_about("t0"), tip_about("t1"), tip_about("t2"))
        service.tip("ann")
        service.tip("bob")
        harness.connection.execute(f"UPDATE candidate_sets SET {change} WHERE user_id = 'ann'")
        first, other = harness.together(service.tip_async("ann"), service.tip_async("bob"))
        assert (first.status, first.origin) == (200, ("stored", "called"))
        assert (other.status, other.origin) == (200, ("stored", "skipped"))
        assert service.tip("ann").origin == ("stored", "skipped")
        assert service.metric("unreadable_rows_total", table="candidate_sets") >= 1
        assert "candidate_sets, " in caplog.text
        assert CANARY not in caplog.text

    def test_one_broken_tip(self, harness: ServiceHarness, service: Service) -> None:
        """One tip that cannot be served is never answered, whichever the policy chooses."""
        harness.llm.behaviour = answering(*(tip_about(f"t{number}") for number in range(3)))
        service.tip()
        harness.connection.execute("""UPDATE candidate_sets SET tips[2] = '{"kind": "nap"}'""")
        answers = [service.tip() for _ in range(12)]
        assert all(
            set(each.body["tip"]) == {"kind", "title", "body", "segments", "tasks", "theme"} for each in answers
        )

    def test_subject_hashes(self, harness: ServiceHarness, service: Service) -> None:
        """A set with too few subject hashes is not kept after a change of the context."""
        service.tip()
        harness.connection.execute("UPDATE candidate_sets SET subject_hashes = '{x}'")
        harness.finish_tasks("t0")
        harness.clock.forward(hours=7)
        assert service.tip().origin[0] == "inline"
        assert service.metric("unreadable_rows_total", table="candidate_sets") == 1

    @pytest.mark.parametrize(
        "former",
        [
            "t::JSONB - 'tasks' - 'segments' || jsonb_build_object('task_ids',"
            " jsonb_path_query_array(t::JSONB, '$.tasks[*].id'))",
            "t::JSONB - 'segments' || jsonb_build_object('tasks', (SELECT jsonb_agg(task - 'by_others')"
            " FROM jsonb_array_elements(t::JSONB -> 'tasks') AS task))",
        ],
        ids=["ids alone", "no segments"],
    )
    def test_of_an_earlier_version(self, harness: ServiceHarness, service: Service, former: str) -> None:
        """Tips as earlier versions stored them are kept: they get their tasks, without a call of the LLM."""
        harness.llm.behaviour = answering(tip_about("t0"), tip_about("t1"), tip_about("t2"))
        service.tip()
        tips = f"(SELECT array_agg(({former})::TEXT ORDER BY n) FROM unnest(tips) WITH ORDINALITY AS u (t, n))"
        harness.connection.execute(f"UPDATE candidate_sets SET tips = {tips}")
        answer = service.tip()
        assert answer.origin == ("stored", "skipped")
        assert [task["title"] for task in answer.body["tip"]["tasks"]] != []
        assert len(harness.llm.calls) == 1
        assert service.metric("unreadable_rows_total", table="candidate_sets") == 0


BROKEN_DECISIONS = {
    "a NaN": a_feature(NAN, at=0).replace("FROM 1)", "FROM chosen * 4 * {n} + 1)").format(n=N_FEATURES),
    "cut features": "features = substr(features, 1, 40)",
    "no features": "features = NULL",
    "chosen out of range": "chosen = 99",
    "chosen below 0": "chosen = -1",
    "fewer propensities": "propensities = propensities[1:1]",
}


@pytest.mark.usefixtures("ann")
class TestDecision:
    @pytest.mark.parametrize("change", BROKEN_DECISIONS.values(), ids=list(BROKEN_DECISIONS))
    def test_reaction(
        self, harness: ServiceHarness, service: Service, change: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A reaction to a decision that cannot be read is stored, also a corrected one, but nothing is learned."""
        decision_id, good = [service.tip().body["decision_id"] for _ in range(2)]
        harness.connection.execute(f"UPDATE decisions SET {change} WHERE decision_id = %s", [decision_id])
        assert service.react(decision_id, "accepted").body["is_news"] is True
        assert service.react(decision_id, "done").body["is_news"] is True
        assert harness.posterior().n_updates == 0
        assert service.react(good, "done").status == 200
        assert harness.posterior().n_updates == 1
        assert service.metric("unreadable_rows_total", table="decisions") == 2
        assert f"decisions, {decision_id}" in caplog.text

    @pytest.mark.parametrize("reward", ["NaN", "Infinity", "1e30"])
    def test_reward(self, harness: ServiceHarness, service: Service, reward: str) -> None:
        """A stored reward that is none counts as the usual one when its reaction is corrected."""
        one, other = [service.tip().body["decision_id"] for _ in range(2)]
        service.react(one, "accepted")
        harness.connection.execute("UPDATE reactions SET reward = %s", [reward])
        assert service.react(one, "done").status == 200
        weighted = harness.posterior().weighted
        service.react(other, "done")
        assert np.isfinite(harness.posterior().weighted).all()
        assert np.abs(weighted).max() <= np.abs(harness.posterior().weighted).max()
