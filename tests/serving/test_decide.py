"""Decisions: the choice among candidates, and its log."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from service import Service, ServiceHarness
from world import NOON

from serving.composition import POLICY
from tips.bandit import ThompsonPolicy
from tips.features import N_FEATURES, N_STATIC


@pytest.fixture
def ann(harness: ServiceHarness, account: Any) -> None:
    """A user with a few tasks and a context assembled at noon."""
    overdue = {"id": "t9", "content": "pay the rent", "due": {"date": "2026-11-20"}}
    harness.add_with_context("ann", account("water the plants", "call bob", "buy milk", overdue))


@pytest.fixture
def service(ann: None, harness: ServiceHarness) -> Service:
    """A service without an LLM."""
    return harness.open(llm_model=None)


class TestDecider:
    def test_replay(self, harness: ServiceHarness, service: Service) -> None:
        """Seed, features and posterior of a decision reproduce its choice and propensities bit for bit."""
        before = {}
        for reaction in ("done", "dismissed", "accepted", "done", "snoozed"):
            decision_id = service.tip().body["decision_id"]
            before[decision_id] = harness.posterior()
            service.react(decision_id, reaction)
        columns = "decision_id::TEXT, seed, features, chosen, propensities, policy_version"
        for decision_id, seed, features, chosen, propensities, version in harness.rows(
            f"SELECT {columns} FROM decisions"
        ):
            matrix = np.frombuffer(features, np.float32).reshape(-1, N_FEATURES)
            choice = ThompsonPolicy(POLICY).choose(before[decision_id], matrix, seed)
            assert choice.chosen == chosen
            assert (choice.propensities == np.array(propensities, np.float32)).all()
            assert version == f"{POLICY}@{before[decision_id].n_updates}"

    def test_propensities(self, harness: ServiceHarness, service: Service) -> None:
        """Every candidate has at least its share of the floor, and the propensities sum to 1."""
        for _ in range(5):
            service.tip()
        for (propensities,) in harness.rows("SELECT propensities FROM decisions"):
            assert sum(propensities) == pytest.approx(1, abs=1e-5)
            assert min(propensities) >= 0.05 / len(propensities) - 1e-6

    def test_columns(self, harness: ServiceHarness, service: Service) -> None:
        """A decision records the tip, its candidates, its context, and their origin."""
        harness.clock.forward(hours=1)
        response = service.tip().body
        [[row]] = harness.rows("SELECT to_jsonb(d) FROM decisions d")
        [[tips, features]] = harness.rows("SELECT tips, features FROM candidate_sets")
        assert json.loads(tips[row["chosen"]]) == response["tip"]
        assert row["decision_id"] == response["decision_id"]
        assert (row["tip_kind"], row["theme"]) == (response["tip"]["kind"], response["tip"]["theme"] or "")
        assert (row["source"], row["llm"], row["context_hash"]) == ("stored", "fallback", response["context_hash"])
        assert row["candidate_set_id"] == str(harness.one("SELECT candidate_set_id FROM candidate_sets"))
        assert len(row["propensities"]) == len(tips)
        static = np.frombuffer(features, np.float32).reshape(len(tips), N_STATIC)
        logged = np.frombuffer(harness.one("SELECT features FROM decisions"), np.float32).reshape(
            len(tips), N_FEATURES
        )
        assert (logged[:, :N_STATIC] == static).all()
        assert harness.rows("SELECT materialized_at FROM decisions") == [(NOON,)]

    def test_removed_user(self, harness: ServiceHarness, service: Service) -> None:
        """A removed user's decisions are deleted."""
        service.react(service.tip().body["decision_id"], "done")
        harness.world.accounts.remove("ann")
        tables = ("decisions", "reactions", "candidate_sets", "context_store")
        assert [harness.one(f"SELECT count(*) FROM {table}") for table in tables] == [0] * 4
        assert service.react(str(uuid4()), "done").status == 404
