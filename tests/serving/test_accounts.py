"""Users who are not served, and accounts that were replaced: none of their stored texts is served or sent on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from service import HOURS, Service, ServiceHarness, is_problem
from world import NOON

from contexts.todoist.credentials import Credentials
from local.todoist import Fault, LocalTodoist

SILENT = Fault.slow(delay_s=60)


def context_problem(service: Service, detail: str) -> bool:
    """Whether the context of ann is answered with 404 and this reason."""
    return is_problem(service.request("GET", "/v1/users/ann/context"), 404, detail)


@pytest.mark.usefixtures("ann")
class TestUsersNotServed:
    @pytest.mark.parametrize("hours", [0, 7])
    @pytest.mark.parametrize(
        "state",
        [
            "UPDATE todoist_accounts SET connected = FALSE",
            "UPDATE users SET active = FALSE",
            "DELETE FROM todoist_accounts",
        ],
    )
    def test_generic_tip(self, harness: ServiceHarness, service: Service, state: str, hours: int) -> None:
        """An inactive or disconnected user gets the generic tip; neither Todoist nor the LLM is called."""
        service.tip()
        harness.connection.execute(state)
        harness.clock.forward(hours=hours)
        response = service.tip()
        assert response.origin == ("none", "fallback")
        assert response.body["age_seconds"] is response.body["context_hash"] is None
        assert response.body["tip"]["tasks"] == []
        assert harness.calls() == (0, 1)
        assert context_problem(service, "inactive or not connected")

    def test_active_again(self, harness: ServiceHarness, service: Service) -> None:
        """A user who is active again is served from the stored context as before."""
        first = service.tip().body["context_hash"]
        harness.world.accounts.set_active("ann", active=False)
        service.tip()
        harness.world.accounts.set_active("ann", active=True)
        assert service.tip().body["context_hash"] == first
        assert harness.calls() == (0, 1)

    def test_revoked(self, harness: ServiceHarness, service: Service) -> None:
        """A user who revoked the access gets the generic tip once the context is stale, others are served."""
        service.tip()
        harness.add_with_context("bob", harness.todoist.document("ann"))
        harness.todoist.revoke("ann")
        assert service.tip().body["source"] == "stored"
        harness.clock.forward(hours=7)
        for _ in range(7):
            assert service.tip("ann").origin == ("none", "fallback")
        assert context_problem(service, "Todoist refuses this user's token")
        assert service.tip("bob").origin == ("inline", "called")
        assert harness.calls() == (2, 2)

    def test_refused_before_an_outage(self, harness: ServiceHarness, service: Service) -> None:
        """After a refusal the stale context is not used during an outage either, and is used after a success."""
        service.tip()
        harness.clock.forward(hours=7)
        harness.todoist.fail("ann", Fault.invalid_token(), SILENT)
        assert service.tip().body["source"] == "none"
        harness.clock.forward(minutes=16)
        assert service.tip().body["source"] == "none"
        assert service.tip().body["source"] == "inline"
        harness.clock.forward(hours=7)
        harness.todoist.fail("ann", SILENT)
        assert service.tip().body["source"] == "stale"

    def test_refused_in_a_run(self, harness: ServiceHarness, service: Service) -> None:
        """A refusal that a run of the pipeline counted holds for stale contexts in every process."""
        service.tip()
        harness.connection.execute("UPDATE todoist_accounts SET auth_failures = 1")
        assert service.tip().body["source"] == "stored"
        harness.clock.forward(hours=7)
        harness.todoist.fail("ann", SILENT)
        assert service.tip().body["source"] == "none"

    def test_greatest_age(self, harness: ServiceHarness, service: Service) -> None:
        """A stale context is used up to MAX_CONTEXT_AGE, and then as little as if there were none."""
        service.tip()
        harness.clock.at = NOON + timedelta(days=7) - timedelta(seconds=1)
        harness.todoist.fail("ann", SILENT, SILENT)
        assert service.tip().body["source"] == "stale"
        harness.clock.forward(seconds=2)
        response = service.tip()
        assert response.origin == ("none", "fallback")
        assert response.body["age_seconds"] is None
        assert context_problem(service, "older than MAX_CONTEXT_AGE")
        assert service.tip().body["source"] == "inline"

    def test_set_age(self, harness: ServiceHarness) -> None:
        """The greatest age is a setting."""
        service = harness.open(max_context_age=8 * HOURS)
        harness.clock.forward(hours=8, seconds=1)
        harness.todoist.fail("ann", SILENT)
        assert service.tip().body["source"] == "none"


def reconnect(harness: ServiceHarness, document: dict[str, Any], token: str = "token-of-the-other-account") -> None:
    """Connect ann to a different Todoist account."""
    harness.todoist.load(token, document, user="other")
    credentials = Credentials(token)
    harness.world.accounts.add("ann", email="ann@example.org", timezone="UTC", credentials=credentials)


@pytest.mark.usefixtures("ann")
class TestReplacedAccount:
    def test_context(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """The context and the tips of a replaced account are not used: the next tip is about the new account."""
        service.tip()
        reconnect(harness, account({"id": "n0", "content": "pack the tent"}))
        assert context_problem(service, "no context yet")
        response = service.tip()
        assert response.origin == ("inline", "called")
        assert {task["title"] for tasks in service.context()["tasks"].values() for task in tasks} == {"pack the tent"}

    def test_todoist_is_down(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """If the new account cannot be fetched, the tip is generic, also in another process."""
        service.tip()
        reconnect(harness, account("pack the tent"))
        harness.todoist.fail("other", SILENT, SILENT)
        assert [each.tip().origin for each in (service, harness.open())] == [("none", "fallback")] * 2
        assert harness.calls()[1] == 1

    def test_cooldown(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """The cool-down of a refused token does not hold the next account back."""
        harness.clock.forward(hours=7)
        harness.todoist.revoke("ann")
        assert service.tip().body["source"] == "none"
        reconnect(harness, account("pack the tent"))
        assert service.tip().body["source"] == "inline"

    def test_assembly_under_way(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """An assembly for the replaced account writes nothing, and a later request does not wait for it."""
        harness.clock.forward(hours=7)
        harness.todoist.fail("ann", Fault.slow(delay_s=0.3))

        async def replaced() -> Any:
            await harness.todoist_called()
            reconnect(harness, account({"id": "n0", "content": "pack the tent"}))
            return await service.tip_async()

        _, later = harness.together(service.tip_async(), replaced())
        assert later.body["source"] == "inline"
        assert "pack the tent" in harness.world.stored()["ann"]["context_json"]
        assert service.tip().body["context_hash"] == later.body["context_hash"]

    def test_renewal_under_way(self, harness: ServiceHarness, account: Any) -> None:
        """Renewed tokens of the replaced account do not replace those of the new one."""
        service = harness.open(todoist_client_id="ours", todoist_client_secret="secret", todoist_timeout=3)
        slow = LocalTodoist(answer_seconds=(0.2, 0.2))
        slow.load("token-of-ann", account("call bob"), user="ann", refresh_token="to-be-renewed")
        harness.use_todoist(slow)
        expired = Credentials("token-that-ran-out", "to-be-renewed")
        harness.world.accounts.add("ann", email="ann@example.org", timezone="UTC", credentials=expired)

        async def replaced() -> None:
            await harness.todoist_called()
            reconnect(harness, account("pack the tent"))

        harness.together(service.tip_async(), replaced())
        [loaded] = harness.world.accounts.load(["ann"])[0]
        assert loaded.credentials == Credentials("token-of-the-other-account")
