"""Authentication: callers need one of the service's tokens."""

from __future__ import annotations

from typing import Any

import pytest
from service import TOKEN, Service, ServiceHarness, is_problem

DECISION = "9a4c1a4c-a625-4e17-ac54-c03264024d44"
TIP, CONTEXT, REACTION = "/v1/users/ann/tip", "/v1/users/ann/context", f"/v1/decisions/{DECISION}/reaction"
ACCEPTED = {"reaction": "accepted"}


@pytest.fixture
def ann(harness: ServiceHarness, account: Any) -> None:
    """A user with a context."""
    harness.add_with_context("ann", account("water the plants", "call bob"))


@pytest.fixture
def service(ann: None, harness: ServiceHarness) -> Service:
    return harness.open()


class TestBearerAuth:
    @pytest.mark.parametrize(
        "authorization",
        ["", "Bearer", "Bearer ", "Bearer no", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer café".encode()],
    )
    def test_refused(self, harness: ServiceHarness, service: Service, authorization: str | bytes) -> None:
        """Without a valid token every request is refused, with the same message."""
        headers = {"Authorization": authorization}
        for response in (
            service.request("POST", TIP, headers=headers),
            service.request("GET", CONTEXT, headers=headers),
            service.request("POST", REACTION, headers=headers, json=ACCEPTED),
        ):
            assert is_problem(response, 401, "a service token is required: send Authorization: Bearer TOKEN")
            assert response.headers["www-authenticate"] == "Bearer"
        assert harness.rows("SELECT FROM decisions") == []

    def test_refused_first(self, service: Service) -> None:
        """Callers without a token cannot learn which users and decisions exist."""
        headers = {"Authorization": "Bearer wrong"}
        paths = ["/v1/users/nobody/tip", "/v1/users/%00/tip", TIP]
        assert {service.request("POST", path, headers=headers).text for path in paths} == {
            service.request("POST", REACTION, headers=headers, json=ACCEPTED).text
        }

    def test_two_tokens(self, harness: ServiceHarness, ann: None) -> None:
        """While one token replaces another, both are accepted, and no third one."""
        service = harness.open(service_tokens="the-previous-token-1, the-next-token-2")
        statuses = [
            service.request("POST", TIP, headers={"Authorization": f"bearer {token}"}).status
            for token in ("the-previous-token-1", "the-next-token-2", "the-previous-token-1, the-next-token-2", TOKEN)
        ]
        assert statuses == [200, 200, 401, 401]

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json"])
    def test_public_addresses(self, service: Service, path: str) -> None:
        """Probes and Prometheus need no token."""
        assert service.request("GET", path, headers={"Authorization": ""}).status == 200
